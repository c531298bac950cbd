//! The command line: arguments, output, progress.
//!
//! **Invariant:** nothing here makes a decision that the engine could make.

pub mod args;
pub mod commands;
pub mod exit;
mod messages;
pub mod output;
mod prompt;
mod quick;
mod truth;
pub mod value;

use std::{ffi::OsString, path::Path, process::ExitCode};

use crate::{
    error::{Context as _, Result},
    sys::{self, process::SingleThreaded},
};

/// Reads the command line and carries it out.
pub fn main(args: &[OsString]) -> ExitCode {
    let quick = quick::parse(args).filter(truth::is_plain);
    match quick.map_or_else(|| truth::parse(args), Ok) {
        Ok(mut cli) => {
            if let Some(flags) = cli.command.container_flags() {
                flags.typed = args::container::words_behind_verb(args);
                flags.hooks_dir = std::mem::take(&mut cli.hooks_dir);
            }
            let level = if cli.debug { Some(log::LevelFilter::Debug) } else { cli.log_level };
            messages::listen(level.unwrap_or(log::LevelFilter::Warn));
            match read_config_from(cli.config.as_deref()) {
                Ok(()) => commands::dispatch(cli),
                Err(err) => {
                    exit::report(&err);
                    exit::code(125)
                }
            }
        }
        Err(err) => {
            if let Some(refusal) = args::refused::explain(args, &err) {
                exit::report(&refusal);
                return exit::code(125);
            }
            let _ = err.print();
            // Docker: a command line that cannot be read is 125; asking for help is no error.
            exit::code(if err.use_stderr() { 125 } else { 0 })
        }
    }
}

/// By its variable, which credential helpers read, too.
fn read_config_from(dir: Option<&Path>) -> Result<()> {
    let Some(dir) = dir else { return Ok(()) };
    let alone = SingleThreaded::verify().doing("set DOCKER_CONFIG")?;
    sys::entry::set_variable("DOCKER_CONFIG", dir.as_os_str(), &alone);
    Ok(())
}
