//! What each command does: arguments to engine calls, results to output.

pub mod attach;
pub mod container;
pub mod create;
pub mod exec;
pub mod image;
pub mod logs;
pub mod ps;
pub mod run;

use std::process::ExitCode;

use super::{
    args::{Cli, Command, ContainerCommand, ImageCommand, SystemCommand},
    exit,
};
use crate::{
    engine::Engine,
    error::{Error, Result},
};

/// Carries the command out.
pub fn dispatch(cli: Cli) -> ExitCode {
    // Docker: what fails before a container's command runs is 125; other commands fail with 1.
    let (starts_something, outcome) = match cli.command {
        Command::Completion(_) | Command::Man(_) => (false, Err(Error::unsupported("later"))),
        command => {
            let starts = starts_something(&command);
            let engine = Engine::open(cli.root, cli.runroot);
            (starts, engine.and_then(|engine| carry_out(&engine, command)))
        }
    };
    match outcome {
        Ok(code) => code,
        Err(err) => {
            exit::report(&err);
            exit::code(if starts_something { err.kind().exit_code().into() } else { 1 })
        }
    }
}

fn starts_something(command: &Command) -> bool {
    matches!(
        command,
        Command::Run(_)
            | Command::Create(_)
            | Command::Exec(_)
            | Command::Container(
                ContainerCommand::Run(_) | ContainerCommand::Create(_) | ContainerCommand::Exec(_)
            )
    )
}

fn carry_out(engine: &Engine, command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(engine, &args),
        Command::Create(args) => create::create(engine, &args.container),
        Command::Start(args) => run::start(engine, &args),
        Command::Exec(args) => exec::exec(engine, &args),
        Command::Ps(args) => ps::ps(engine, &args),
        Command::Logs(args) => logs::logs(engine, &args),
        Command::Stop(args) => container::stop(engine, &args),
        Command::Kill(args) => container::kill(engine, &args),
        Command::Wait(args) => container::wait(engine, &args),
        Command::Rm(args) => container::rm(engine, &args),
        Command::Rename(args) => container::rename(engine, &args),
        Command::Pull(args) => image::pull(engine, &args),
        Command::Load(args) => image::load(engine, &args),
        Command::Import(args) => image::import(engine, &args),
        Command::Images(args) => image::images(engine, &args),
        Command::Rmi(args) => image::rmi(engine, &args),
        Command::Image(command) => match command {
            ImageCommand::Pull(args) => image::pull(engine, &args),
            ImageCommand::Ls(args) => image::images(engine, &args),
            ImageCommand::Rm(args) => image::rmi(engine, &args),
            ImageCommand::Load(args) => image::load(engine, &args),
            ImageCommand::Import(args) => image::import(engine, &args),
            ImageCommand::Inspect(_) => Err(Error::unsupported("later")),
        },
        Command::Container(command) => match command {
            ContainerCommand::Run(args) => run::run(engine, &args),
            ContainerCommand::Create(args) => create::create(engine, &args.container),
            ContainerCommand::Start(args) => run::start(engine, &args),
            ContainerCommand::Exec(args) => exec::exec(engine, &args),
            ContainerCommand::Stop(args) => container::stop(engine, &args),
            ContainerCommand::Kill(args) => container::kill(engine, &args),
            ContainerCommand::Wait(args) => container::wait(engine, &args),
            ContainerCommand::Rm(args) => container::rm(engine, &args),
            ContainerCommand::Rename(args) => container::rename(engine, &args),
            ContainerCommand::Ls(args) => ps::ps(engine, &args),
            ContainerCommand::Logs(args) => logs::logs(engine, &args),
            ContainerCommand::Inspect(_) => Err(Error::unsupported("later")),
        },
        _ => Err(Error::unsupported("later")),
    }
}
