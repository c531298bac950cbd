//! `explain`, `unshare` and `container clone`.

use std::{
    ffi::{CString, OsString},
    fmt::Write as _,
    io::ErrorKind,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use nix::{mount::MsFlags, sched::CloneFlags};

use super::{
    super::{
        args::special::{Clone, Explain, Unshare},
        exit,
        output::{
            self,
            template::{Template, View},
            visible,
        },
    },
    resources,
};
use crate::{
    engine::{
        Engine,
        container::{explain::Explanation, start::StartOptions},
    },
    error::{Context as _, Error, Result},
    sys::process::{default_signals, ignore_requests_to_end, spawn_self},
};

/// The hidden role that `unshare` starts in its user namespace.
pub const ROLE: &str = "unshare-command";

pub fn explain(engine: &Engine, args: &Explain) -> Result<ExitCode> {
    let explanation = engine.explain(&engine.find(&args.container)?)?;
    let text = match args.format.as_deref() {
        None => sentences(&explanation)?,
        Some("json") => serde_json::to_string_pretty(&explanation)? + "\n",
        Some(template) => {
            let data = serde_json::to_value(&explanation)?;
            Template::parse(template)?.render(&data, View::default())? + "\n"
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn sentences(explanation: &Explanation) -> Result<String> {
    let mut text = String::new();
    let code = explanation.exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
    let Explanation { name, state, .. } = explanation;
    let mut line = |line: &str| writeln!(text, "{line}").map_err(|_| Error::engine("write text"));
    line(&format!("{name}: {state}{code}"))?;
    for finding in &explanation.findings {
        line(&format!("* {}", visible(&finding.why)))?;
        if !finding.advice.is_empty() {
            line(&format!("  -> {}", visible(&finding.advice)))?;
        }
    }
    for (title, lines) in
        [("what happened last", &explanation.events), ("what it said last", &explanation.output)]
    {
        if !lines.is_empty() {
            line(&format!("{title}:"))?;
        }
        for one in lines {
            line(&format!("  {}", visible(one)))?;
        }
    }
    Ok(text)
}

pub fn unshare(engine: &Engine, args: &Unshare) -> Result<ExitCode> {
    if args.rootless_netns {
        return Err(Error::unsupported("--rootless-netns is not in this version")
            .hint("the networks of rootless containers are in the network role's own namespace"));
    }
    if !engine.facts.rootless() {
        return Err(Error::invalid("please use unshare with rootless")
            .hint("root sees every file as it is"));
    }
    let shell = std::env::var("SHELL").ok().filter(|shell| !shell.is_empty());
    let command = match args.command.is_empty() {
        true => vec![shell.unwrap_or_else(|| "/bin/sh".into())],
        false => args.command.clone(),
    };
    let words = ["dhow", ROLE].into_iter().chain(command.iter().map(String::as_str));
    let words: Vec<CString> = words
        .map(|word| CString::new(word).map_err(|_| Error::invalid("a word has a NUL")))
        .collect::<Result<_>>()?;
    let words: Vec<_> = words.iter().map(CString::as_c_str).collect();
    let child = spawn_self(&words, &[], Some(&engine.facts.id_maps()))?;
    // What is typed at the terminal is for the command; its end is this one's.
    ignore_requests_to_end().doing("block signals")?;
    Ok(exit::code(child.wait().doing("wait for the command")?.shell_code()))
}

/// In the user namespace: mounts of its own, and the command; the exit code if that cannot be
/// executed.
pub fn unshared(words: &[OsString]) -> i32 {
    let prepare = || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).doing("make a mount namespace")?;
        let receive = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, receive, None::<&str>)
            .doing("keep mounts from this host")?;
        default_signals().doing("let signals do what they do")
    };
    if let Err(err) = prepare() {
        exit::report(&err);
        return 125;
    }
    let Some((program, rest)) = words.split_first() else { return 125 };
    let err = Command::new(program).args(rest).exec();
    let code = if err.kind() == ErrorKind::NotFound { 127 } else { 126 };
    exit::report(&Error::from(err).context(format!("exec {}", program.to_string_lossy())));
    code
}

pub fn clone(engine: &Engine, args: &Clone) -> Result<ExitCode> {
    let id = engine.find(&args.container)?;
    let limits = resources::read(&args.resources)?;
    let name = args.name.as_deref().or(args.new_name.as_deref());
    let image = match &args.image {
        Some(typed) => Some((engine.image(typed)?, typed.clone())),
        None => None,
    };
    if args.destroy && !args.force && engine.load(&id)?.status.is_running() {
        return Err(Error::conflict(format!("container {} runs", args.container))
            .hint("--force --destroy removes it all the same"));
    }
    let record = engine.clone_container(&id, name, &limits, image)?;
    if args.destroy {
        engine.remove(&id, args.force, false)?;
    }
    if args.run {
        engine.start(&record.id, StartOptions::default())?;
    }
    output::print(&format!("{}\n", record.id))?;
    Ok(ExitCode::SUCCESS)
}
