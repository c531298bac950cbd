//! Reading a command line without building every command's grammar.
//!
//! clap's description of all commands takes longer to make than a container takes to start.
//! Here the verb is found first and only its own grammar is made. Whatever is not plainly right
//! (help, mistakes, global flags behind the verb) is left to the whole grammar, which has the
//! words for it: so the two cannot disagree.

use std::ffi::{OsStr, OsString};

use clap::{Args, FromArgMatches};

use super::args::{
    Cli, Command, ContainerCommand, ImageCommand, NetworkCommand, SystemCommand,
    container::{Create, DETACH_KEYS, Exec, Run},
    seldom::QUICK,
    volume::VolumeCommand,
};

/// The command line, if it is plainly right. `args` begins with the program's name.
pub(super) fn parse(args: &[OsString]) -> Option<Cli> {
    let mut root = std::env::var_os("DHOW_ROOT");
    let mut runroot = std::env::var_os("DHOW_RUNROOT");
    let mut storage = std::env::var_os("DHOW_STORAGE");
    let mut debug = false;
    let mut rest = args.get(1..)?;
    loop {
        let (word, behind) = rest.split_first()?;
        rest = match word.to_str()? {
            "--root" => value(&mut root, behind)?,
            "--runroot" => value(&mut runroot, behind)?,
            "--storage-driver" => value(&mut storage, behind)?,
            "-D" | "--debug" => {
                debug = true;
                behind
            }
            flag if flag.starts_with('-') => return None,
            _ => break,
        };
    }
    Some(Cli {
        command: command(rest)?,
        root: root.map(Into::into),
        runroot: runroot.map(Into::into),
        storage_driver: storage.map(OsString::into_string).transpose().ok()?,
        debug,
        log_level: None,
        config: None,
        hooks_dir: Vec::new(),
    })
}

fn value<'a>(slot: &mut Option<OsString>, behind: &'a [OsString]) -> Option<&'a [OsString]> {
    let (value, rest) = behind.split_first()?;
    *slot = Some(value.clone());
    Some(rest)
}

fn command(words: &[OsString]) -> Option<Command> {
    let (verb, rest) = words.split_first()?;
    Some(match verb.to_str()? {
        "run" => {
            Command::Run(Box::new(read_open(words, |run: &Run| &run.container.image_and_command)?))
        }
        "create" => Command::Create(Box::new(read_open(words, |made: &Create| {
            &made.container.image_and_command
        })?)),
        "start" => Command::Start(read(words)?),
        "exec" => Command::Exec(plain_exec(rest).map_or_else(|| exec(words), Some)?),
        "ps" => Command::Ps(read(words)?),
        "logs" => Command::Logs(read(words)?),
        "stop" => Command::Stop(read(words)?),
        "kill" => Command::Kill(read(words)?),
        "restart" => Command::Restart(read(words)?),
        "init" => Command::Init(read(words)?),
        "pause" => Command::Pause(read(words)?),
        "unpause" => Command::Unpause(read(words)?),
        "top" => Command::Top(read(words)?),
        "attach" => Command::Attach(read(words)?),
        "wait" => Command::Wait(read(words)?),
        "explain" => Command::Explain(read(words)?),
        "unshare" => Command::Unshare(read(words)?),
        "port" => Command::Port(read(words)?),
        "cp" => Command::Cp(read(words)?),
        "diff" => Command::Diff(read(words)?),
        "export" => Command::Export(read(words)?),
        "commit" => Command::Commit(read(words)?),
        "stats" => Command::Stats(read(words)?),
        "update" => Command::Update(Box::new(read(words)?)),
        "events" => Command::Events(read(words)?),
        "rm" => Command::Rm(read(words)?),
        "rename" => Command::Rename(read(words)?),
        "build" => Command::Build(Box::new(read(words)?)),
        "pull" => Command::Pull(read(words)?),
        "push" => Command::Push(read(words)?),
        "login" => Command::Login(read(words)?),
        "logout" => Command::Logout(read(words)?),
        "search" => Command::Search(read(words)?),
        "load" => Command::Load(read(words)?),
        "import" => Command::Import(read(words)?),
        "images" => Command::Images(read(words)?),
        "rmi" => Command::Rmi(read(words)?),
        "tag" => Command::Tag(read(words)?),
        "untag" => Command::Untag(read(words)?),
        "history" => Command::History(read(words)?),
        "save" => Command::Save(read(words)?),
        "inspect" => Command::Inspect(read(words)?),
        "version" => Command::Version(read(words)?),
        "info" => Command::Info(read(words)?),
        "container" => Command::Container(container(rest)?),
        "image" => Command::Image(image(rest)?),
        "network" => Command::Network(network(rest)?),
        "volume" => Command::Volume(volume(rest)?),
        "system" => Command::System(system(rest)?),
        _ => return None,
    })
}

fn exec(words: &[OsString]) -> Option<Exec> {
    read_open(words, |exec: &Exec| &exec.container_and_command)
}

fn container(words: &[OsString]) -> Option<ContainerCommand> {
    Some(match words.first()?.to_str()? {
        "run" => ContainerCommand::Run(Box::new(read_open(words, |run: &Run| {
            &run.container.image_and_command
        })?)),
        "create" => ContainerCommand::Create(Box::new(read_open(words, |made: &Create| {
            &made.container.image_and_command
        })?)),
        "start" => ContainerCommand::Start(read(words)?),
        "exec" => ContainerCommand::Exec(exec(words)?),
        "ls" | "list" | "ps" => ContainerCommand::Ls(read(words)?),
        "logs" => ContainerCommand::Logs(read(words)?),
        "stop" => ContainerCommand::Stop(read(words)?),
        "kill" => ContainerCommand::Kill(read(words)?),
        "restart" => ContainerCommand::Restart(read(words)?),
        "init" => ContainerCommand::Init(read(words)?),
        "pause" => ContainerCommand::Pause(read(words)?),
        "unpause" => ContainerCommand::Unpause(read(words)?),
        "top" => ContainerCommand::Top(read(words)?),
        "attach" => ContainerCommand::Attach(read(words)?),
        "wait" => ContainerCommand::Wait(read(words)?),
        "port" => ContainerCommand::Port(read(words)?),
        "cp" => ContainerCommand::Cp(read(words)?),
        "diff" => ContainerCommand::Diff(read(words)?),
        "export" => ContainerCommand::Export(read(words)?),
        "commit" => ContainerCommand::Commit(read(words)?),
        "stats" => ContainerCommand::Stats(read(words)?),
        "update" => ContainerCommand::Update(Box::new(read(words)?)),
        "prune" => ContainerCommand::Prune(read(words)?),
        "exists" => ContainerCommand::Exists(read(words)?),
        "clone" => ContainerCommand::Clone(read(words)?),
        "rm" | "remove" => ContainerCommand::Rm(read(words)?),
        "rename" => ContainerCommand::Rename(read(words)?),
        "inspect" => ContainerCommand::Inspect(read(words)?),
        _ => return None,
    })
}

fn image(words: &[OsString]) -> Option<ImageCommand> {
    Some(match words.first()?.to_str()? {
        "build" => ImageCommand::Build(Box::new(read(words)?)),
        "pull" => ImageCommand::Pull(read(words)?),
        "push" => ImageCommand::Push(read(words)?),
        "load" => ImageCommand::Load(read(words)?),
        "import" => ImageCommand::Import(read(words)?),
        "ls" | "list" => ImageCommand::Ls(read(words)?),
        "rm" | "remove" => ImageCommand::Rm(read(words)?),
        "tag" => ImageCommand::Tag(read(words)?),
        "untag" => ImageCommand::Untag(read(words)?),
        "history" => ImageCommand::History(read(words)?),
        "save" => ImageCommand::Save(read(words)?),
        "cp" => ImageCommand::Cp(read(words)?),
        "exists" => ImageCommand::Exists(read(words)?),
        "tree" => ImageCommand::Tree(read(words)?),
        "prune" => ImageCommand::Prune(read(words)?),
        "mount" => ImageCommand::Mount(read(words)?),
        "unmount" | "umount" => ImageCommand::Unmount(read(words)?),
        "diff" => ImageCommand::Diff(read(words)?),
        "referrers" => ImageCommand::Referrers(read(words)?),
        "inspect" => ImageCommand::Inspect(read(words)?),
        _ => return None,
    })
}

fn network(words: &[OsString]) -> Option<NetworkCommand> {
    Some(match words.first()?.to_str()? {
        "create" => NetworkCommand::Create(read(words)?),
        "ls" | "list" => NetworkCommand::Ls(read(words)?),
        "inspect" => NetworkCommand::Inspect(read(words)?),
        "rm" | "remove" => NetworkCommand::Rm(read(words)?),
        "prune" => NetworkCommand::Prune(read(words)?),
        "exists" => NetworkCommand::Exists(read(words)?),
        "log" => NetworkCommand::Log(read(words)?),
        "connect" => NetworkCommand::Connect(read(words)?),
        "disconnect" => NetworkCommand::Disconnect(read(words)?),
        "reload" => NetworkCommand::Reload(read(words)?),
        _ => return None,
    })
}

fn volume(words: &[OsString]) -> Option<VolumeCommand> {
    Some(match words.first()?.to_str()? {
        "create" => VolumeCommand::Create(read(words)?),
        "ls" | "list" => VolumeCommand::Ls(read(words)?),
        "inspect" => VolumeCommand::Inspect(read(words)?),
        "rm" | "remove" => VolumeCommand::Rm(read(words)?),
        "prune" => VolumeCommand::Prune(read(words)?),
        "exists" => VolumeCommand::Exists(read(words)?),
        "export" => VolumeCommand::Export(read(words)?),
        "import" => VolumeCommand::Import(read(words)?),
        "mount" => VolumeCommand::Mount(read(words)?),
        "unmount" | "umount" => VolumeCommand::Unmount(read(words)?),
        _ => return None,
    })
}

fn system(words: &[OsString]) -> Option<SystemCommand> {
    Some(match words.first()?.to_str()? {
        "info" => SystemCommand::Info(read(words)?),
        "df" => SystemCommand::Df(read(words)?),
        "check" => SystemCommand::Check(read(words)?),
        "gc" => SystemCommand::Gc(read(words)?),
        "prune" => SystemCommand::Prune(read(words)?),
        _ => return None,
    })
}

/// `exec` as it is mostly typed, without even its own grammar: a container and a command, with
/// nothing but these before them.
fn plain_exec(words: &[OsString]) -> Option<Exec> {
    let mut exec = Exec { detach_keys: DETACH_KEYS.into(), ..Exec::default() };
    let mut rest = words;
    loop {
        let (word, behind) = rest.split_first()?;
        match word.to_str()? {
            "-i" => exec.interactive = true,
            "-t" => exec.tty = true,
            "-it" | "-ti" => (exec.interactive, exec.tty) = (true, true),
            "-d" => exec.detach = true,
            word if word.starts_with('-') || word.is_empty() => return None,
            _ => break,
        }
        rest = behind;
    }
    let words = rest.iter().map(|word| word.to_str().map(str::to_owned));
    exec.container_and_command = words.collect::<Option<_>>()?;
    Some(exec)
}

/// One verb's arguments by its own grammar; `words` begins with the verb.
fn read<T: Args + FromArgMatches>(words: &[OsString]) -> Option<T> {
    read_as(QUICK, words).or_else(|| read_as("dhow", words))
}

/// As [`read`], of a verb that takes any word for an image or a container: one that looks like a
/// flag is a seldom one, or a mistake.
fn read_open<T: Args + FromArgMatches>(
    words: &[OsString],
    rest: impl Fn(&T) -> &[String],
) -> Option<T> {
    let is_plain = |typed: &T| rest(typed).first().is_some_and(|word| !word.starts_with('-'));
    read_as(QUICK, words).filter(is_plain).or_else(|| read_as("dhow", words))
}

fn read_as<T: Args + FromArgMatches>(name: &'static str, words: &[OsString]) -> Option<T> {
    // A command's own words begin after the first that is no flag; before it, these are
    // everyone's and the whole grammar's to deal with.
    let everyones = ["--root", "--runroot", "--storage-driver"].map(OsStr::new);
    if words.iter().any(|word| everyones.contains(&word.as_os_str())) {
        return None;
    }
    let grammar = T::augment_args(clap::Command::new(name).disable_help_subcommand(true));
    let matches = grammar.try_get_matches_from(words).ok()?;
    T::from_arg_matches(&matches).ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        std::iter::once("dhow").chain(line.split(' ')).map(OsString::from).collect()
    }

    #[test]
    fn what_is_read_quickly_is_what_the_whole_grammar_reads() {
        for line in [
            "run --rm -it -v /a:/b --network none alpine sh -c x",
            "--storage-driver vfs --root /r -D run -d --name x alpine --rm -x",
            "exec -e A=b c env -i",
            "exec c true -it -- -d",
            "run --oom-kill-disable --runtime=dhow -m 1g --blkio-weight 10 x --cpus 1",
            "create --device-read-bps /dev/a:1 x --isolation y",
            "update --blkio-weight 10 x",
            "exec c --root /x",
            "exec c -- true",
            "exec -it -d c sh -c x",
            "exec -i c",
            "exec --latest true",
            "exec --no-session -e A=b c true",
            "exec -d -- c true",
            "ps -a -q --format {{.ID}}",
            "stop -t -1 a b",
            "container ls -a",
            "image rm -f x",
            "system info",
            "logs -f --tail 5 c",
            "kill -s TERM c",
            "top c -o pid,cmd",
            "attach --no-stdin --sig-proxy=false c",
            "container prune -f --filter label=a",
            "pause --all",
            "explain --format json c",
            "unshare ls -l",
            "container clone --run --name d c",
            "cp -aL a:/x -",
            "stats --no-stream a b",
            "update -m 1g --restart always a",
            "events --stream=false -f type=image",
            "commit -c 'X' -p=false a b:c",
            "volume create -o type=tmpfs --label a=b v",
            "volume ls -q",
        ] {
            let quick = parse(&words(line)).unwrap_or_else(|| panic!("{line}: not read"));
            let whole = Cli::try_parse_from(words(line)).expect(line);
            assert_eq!(format!("{:?}", quick.command), format!("{:?}", whole.command), "{line}");
            assert_eq!((quick.root, quick.debug), (whole.root, whole.debug), "{line}");
            assert_eq!(quick.storage_driver, whole.storage_driver, "{line}");
        }
    }

    #[test]
    fn mistakes_help_and_late_global_flags_are_left_to_the_whole_grammar() {
        for line in [
            "",
            "run --help",
            "exec",
            "exec -it",
            "nosuch",
            "ps --nosuch",
            "ps --root /x",
            "--nosuch ps",
        ] {
            assert!(parse(&words(line)).is_none(), "{line}");
        }
    }
}
