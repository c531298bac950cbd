//! `exec`.

use std::{fs, process::ExitCode};

use super::{
    super::{
        args::{container::Exec, seldom::PassedFds},
        exit,
        value::{env, process},
    },
    attach::{self, Console, End, Signals},
};
use crate::{
    engine::{Engine, container::exec::ExecRequest},
    error::{Context as _, Error, Kind, Result},
    sys::fd,
};

pub fn exec(engine: &Engine, args: &Exec) -> Result<ExitCode> {
    let named;
    let words = args.container_and_command.as_slice();
    let (container, command) = match (words, &args.seldom.cidfile) {
        (words, Some(path)) => {
            named = fs::read_to_string(path).at(path).doing("read an id")?.trim().to_owned();
            (&named, words)
        }
        (words, None) if args.seldom.latest => {
            named = engine.newest()?.to_string();
            (&named, words)
        }
        ([container, command @ ..], None) => (container, command),
        ([], None) => {
            return Err(Error::invalid("\"dhow exec\" requires at least 2 arguments"));
        }
    };
    if container.starts_with('-') {
        return Err(super::super::args::unknown_flag("exec", container));
    }
    if command.is_empty() {
        return Err(Error::invalid("\"dhow exec\" requires at least 2 arguments")
            .hint("name the command to run after the container"));
    }
    let interactive = args.interactive && !args.detach;
    attach::require_terminal(args.tty, interactive)?;
    let request = ExecRequest {
        command: command.to_vec(),
        env: variables(args)?,
        user: args.user.clone(),
        working_dir: args.workdir.clone(),
        tty: args.tty,
        open_stdin: interactive,
        detach: args.detach,
        privileged: args.privileged,
        window: attach::window().filter(|_| args.tty),
        preserve: passed(&args.fds)?,
    };
    let detach_keys = process::detach_keys(&args.detach_keys)?;
    let signals = if args.detach { None } else { Some(Signals::take()?) };
    let begun = engine.find(container).and_then(|id| Ok((engine.exec(&id, &request)?, id)));
    let (mut session, id) = match begun {
        // Docker: that it is not there, or does not run, is an answer.
        Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Conflict) => {
            exit::report(&err);
            return Ok(exit::code(1));
        }
        begun => begun?,
    };
    let Some(signals) = signals else {
        session.child.disarm();
        return Ok(ExitCode::SUCCESS);
    };
    let console = Console { stdin: interactive, tty: args.tty, detach_keys, signals };
    let exec_id = session.exec_id.clone();
    Ok(match attach::relay(session, &console)? {
        End::Exited(code) => {
            engine.note_exec_end(&id, &exec_id, code);
            exit::code(code)
        }
        End::Detached => ExitCode::SUCCESS,
        End::BrokenPipe => exit::code(128 + libc::SIGPIPE),
        End::Signalled(signal) => exit::code(128 + signal),
    })
}

/// The descriptors that `--preserve-fds` and `--preserve-fd` name.
pub(super) fn passed(fds: &PassedFds) -> Result<Vec<i32>> {
    let counted = 3..3 + i32::from(fds.preserve_fds.unwrap_or(0));
    let mut all: Vec<i32> = counted.chain(fds.preserve_fd.iter().copied()).collect();
    all.retain(|number| !(0..=2).contains(number));
    all.sort_unstable();
    all.dedup();
    match all.iter().find(|number| !fd::is_callers(**number)) {
        None => Ok(all),
        Some(number) => Err(Error::invalid(format!("file descriptor {number} is not available"))
            .hint("--preserve-fds counts from 3, and each must be open: dhow ... 3<file")),
    }
}

fn variables(args: &Exec) -> Result<Vec<String>> {
    let lookup = |name: &str| std::env::var(name).ok();
    let mut variables = Vec::new();
    for file in &args.env_file {
        variables.extend(env::read_env_file(file, &lookup)?);
    }
    for text in &args.env {
        variables.push(env::env(text, &lookup)?);
    }
    Ok(variables)
}
