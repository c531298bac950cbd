//! `run` and `start`.

use std::process::ExitCode;

use super::{
    super::{
        args::{
            container::{ContainerFlags, Run, Start},
            life::{Attach, Chosen, Init},
        },
        exit, output,
        value::process,
    },
    attach::{self, Console, End, Signals},
    container::{chosen, each},
    create, exec,
};
use crate::{
    engine::{
        Engine,
        container::{Status, start::StartOptions},
    },
    error::{Error, Kind, Result},
    run::attach::Wants,
    state::{
        ContainerId,
        record::{ContainerRecord, LogDriver},
    },
};

/// SIGPIPE's number on top of 128, as the shell sees of a program that met a closed pipe.
const BROKEN_PIPE: i32 = 128 + libc::SIGPIPE;

pub fn run(engine: &Engine, args: &Run) -> Result<ExitCode> {
    let flags = &args.container;
    if flags.dry_run {
        return dry_run(engine, flags);
    }
    let keys = process::detach_keys(&args.detach_keys)?;
    let preserve = exec::passed(&args.fds)?;
    if args.detach {
        if !flags.attach.is_empty() {
            return Err(Error::invalid(
                "conflicting options: cannot specify both --attach and --detach",
            ));
        }
        return run_detached(engine, flags, preserve);
    }
    let wants = wants(flags);
    attach::require_terminal(flags.tty, wants.stdin)?;
    let record = create::make(engine, flags, false)?;
    let signals = Signals::take()?;
    let options = StartOptions {
        wants,
        window: attach::window().filter(|_| flags.tty),
        preserve,
        fail_at: fail_at(),
        ..StartOptions::default()
    };
    let stream = engine.start(&record.id, options).inspect_err(|_| {
        // A container that never ran is of no use to anyone if it was to be removed anyway.
        if flags.goes() {
            let _ = engine.remove(&record.id, true, true);
        }
    })?;
    let console = Console { stdin: wants.stdin, tty: flags.tty, detach_keys: keys, signals };
    let code = match stream {
        Some(stream) => foreground(engine, &record.id, stream, &console, args.sig_proxy),
        None => Ok(exit::code(engine.wait(&record.id)?)),
    };
    if flags.seldom.rmi {
        remove_image(engine, &record)?;
    }
    code
}

/// `--rmi`, once the container is gone. Its monitor does it if nobody was attached at the end.
fn remove_image(engine: &Engine, record: &ContainerRecord) -> Result<()> {
    if engine.load(&record.id).is_ok() {
        // Left by its keys, it runs.
        return Ok(());
    }
    match engine.remove_image(&record.image, false) {
        // Another container uses it, or somebody was faster.
        Err(err) if matches!(err.kind(), Kind::Conflict | Kind::NotFound) => Ok(()),
        removed => removed.map(drop),
    }
}

fn run_detached(engine: &Engine, flags: &ContainerFlags, preserve: Vec<i32>) -> Result<ExitCode> {
    let record = create::make(engine, flags, true)?;
    let options = StartOptions { preserve, fail_at: fail_at(), ..StartOptions::default() };
    engine.start(&record.id, options).inspect_err(|_| {
        if flags.goes() {
            let _ = engine.remove(&record.id, true, true);
        }
    })?;
    output::print(&format!("{}\n", record.id))?;
    Ok(ExitCode::SUCCESS)
}

/// Without `-a` both outputs, and stdin with `-i`; with it what it says.
fn wants(flags: &ContainerFlags) -> Wants {
    let named = |stream: &str| flags.attach.iter().any(|a| a.eq_ignore_ascii_case(stream));
    // With it the container reads the caller's stdin by itself.
    let passes = flags.log_driver.as_deref() == Some("passthrough");
    let all = flags.attach.is_empty();
    Wants {
        stdin: flags.interactive && !passes && (all || named("stdin")),
        stdout: all || named("stdout"),
        stderr: all || named("stderr"),
    }
}

fn foreground(
    engine: &Engine,
    id: &ContainerId,
    stream: std::os::unix::net::UnixStream,
    console: &Console,
    proxy: bool,
) -> Result<ExitCode> {
    let end = attach::follow(stream, console, |signal| match proxy {
        true => {
            // It may have ended while the signal was on its way.
            let _ = engine.kill(id, signal);
            Ok(true)
        }
        false => Ok(false),
    })?;
    Ok(match end {
        End::Exited(code) => exit::code(code),
        End::Detached => ExitCode::SUCCESS,
        End::BrokenPipe => exit::code(BROKEN_PIPE),
        End::Signalled(signal) => exit::code(128 + signal),
    })
}

pub fn start(engine: &Engine, args: &Start) -> Result<ExitCode> {
    if args.all_restartable {
        return start_restartable(engine);
    }
    let attached = args.attach || args.interactive;
    let wanted = Chosen {
        all: args.all,
        latest: args.latest,
        cidfile: Vec::new(),
        filter: args.filter.clone(),
        containers: args.containers.clone(),
    };
    let names = chosen(engine, &wanted, |status| !status.is_running())?;
    if !attached {
        return start_all(engine, &names);
    }
    let [name] = names.as_slice() else {
        return Err(Error::invalid("you cannot start and attach multiple containers at once"));
    };
    let id = engine.find(name)?;
    let record = engine.load(&id)?.record;
    let config = record.config;
    let passes = record.host.log.driver == LogDriver::Passthrough;
    let stdin = args.interactive && config.open_stdin && !passes;
    let wants = Wants { stdin, stdout: true, stderr: true };
    attach::require_terminal(config.tty, wants.stdin)?;
    let signals = Signals::take()?;
    let options = StartOptions {
        wants,
        window: attach::window().filter(|_| config.tty),
        fail_at: fail_at(),
        ..StartOptions::default()
    };
    let stream = engine.start(&id, options)?;
    let detach_keys = process::detach_keys(&args.detach_keys)?;
    let console = Console { stdin: wants.stdin, tty: config.tty, detach_keys, signals };
    match stream {
        Some(stream) => foreground(engine, &id, stream, &console, args.sig_proxy),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// `init`: containers that only wait to be started.
pub fn init(engine: &Engine, args: &Init) -> Result<ExitCode> {
    let wanted = Chosen {
        all: args.all,
        latest: args.latest,
        cidfile: Vec::new(),
        filter: Vec::new(),
        containers: args.containers.clone(),
    };
    let names = chosen(engine, &wanted, |status| {
        matches!(status, Status::Created | Status::Exited(_) | Status::Lost(_))
    })?;
    each(&names, |name| {
        let options = StartOptions { fail_at: fail_at(), ..StartOptions::default() };
        engine.init(&engine.find(name)?, options).map(|()| Some(name.to_owned()))
    })
}

/// `attach`: the streams of a container that runs, until it ends.
pub fn attach(engine: &Engine, args: &Attach) -> Result<ExitCode> {
    let id = match args.container.as_deref().filter(|_| !args.latest) {
        Some(name) => engine.find(name)?,
        None => engine.newest()?,
    };
    let detach_keys = process::detach_keys(&args.detach_keys)?;
    let signals = Signals::take()?;
    let (stream, config) = engine.attach(&id, |config| Wants {
        stdin: config.open_stdin && !args.no_stdin,
        stdout: true,
        stderr: true,
    })?;
    let stdin = config.open_stdin && !args.no_stdin;
    attach::require_terminal(config.tty, stdin)?;
    let console = Console { stdin, tty: config.tty, detach_keys, signals };
    foreground(engine, &id, stream, &console, args.sig_proxy)
}

/// After a reboot: what should run, runs again.
fn start_restartable(engine: &Engine) -> Result<ExitCode> {
    let mut failed = false;
    for (name, started) in engine.start_restartable()? {
        match started {
            Ok(()) => output::print(&format!("{name}\n"))?,
            Err(err) => {
                failed = true;
                exit::report(&err.context(format!("start {name}")));
            }
        }
    }
    Ok(exit::code(failed.into()))
}

fn start_all(engine: &Engine, names: &[String]) -> Result<ExitCode> {
    let mut failed = false;
    for name in names {
        let options = StartOptions { fail_at: fail_at(), ..StartOptions::default() };
        let started = engine.find(name).and_then(|id| engine.start_unless_running(&id, options));
        match started {
            Ok(_) => output::print(&format!("{name}\n"))?,
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}

/// Prints what would be done, as the spec that would be written.
pub(super) fn dry_run(engine: &Engine, flags: &ContainerFlags) -> Result<ExitCode> {
    let spec = if flags.seldom.rootfs {
        engine.dry_run(None, create::request(engine, flags, false)?)?
    } else {
        let (image, name) = super::image::obtain(engine, flags)?;
        let mut request = create::request(engine, flags, false)?;
        request.image_name = name;
        engine.dry_run(Some(&image), request)?
    };
    output::print(&format!("{:#}\n", serde_json::to_value(&spec)?))?;
    Ok(ExitCode::SUCCESS)
}

/// Debug builds can be told to fail at one step of the launch: how tests reach each of them.
fn fail_at() -> Option<crate::run::Step> {
    if !cfg!(debug_assertions) {
        return None;
    }
    std::env::var("DHOW_FAIL_AT").ok().and_then(|name| crate::run::Step::named(&name))
}
