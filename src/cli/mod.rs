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
pub mod value;

use std::process::ExitCode;

use clap::Parser as _;

/// Reads the command line and carries it out.
pub fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    match quick::parse(&args).map_or_else(|| args::Cli::try_parse_from(&args), Ok) {
        Ok(cli) => {
            messages::listen(cli.debug);
            commands::dispatch(cli)
        }
        Err(err) => {
            if let Some(refusal) = args::refused::explain(&args, &err) {
                exit::report(&refusal);
                return exit::code(125);
            }
            let _ = err.print();
            // Docker: a command line that cannot be read is 125; asking for help is no error.
            exit::code(if err.use_stderr() { 125 } else { 0 })
        }
    }
}
