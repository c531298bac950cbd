//! `exec`.

use std::{fs, process::ExitCode};

use super::{
    super::{
        args::container::Exec,
        exit,
        value::{env, process},
    },
    attach::{self, Console, End, Signals},
};
use crate::{
    engine::{Engine, container::exec::ExecRequest},
    error::{Context as _, Error, Result},
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
    };
    let id = engine.find(container)?;
    if args.detach {
        let mut session = engine.exec(&id, &request)?;
        session.child.disarm();
        return Ok(ExitCode::SUCCESS);
    }
    let detach_keys = process::detach_keys(&args.detach_keys)?;
    let signals = Signals::take()?;
    let session = engine.exec(&id, &request)?;
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
