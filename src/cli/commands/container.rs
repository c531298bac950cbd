//! Verbs that take a list of containers: each is tried, the rest goes on, the worst is the code.

use std::process::ExitCode;

use super::super::{
    args::container::{Kill, Rename, Rm, Stop, Wait},
    exit, output,
};
use crate::{
    engine::Engine,
    error::{Kind, Result},
    sys::signal,
};

/// Does `act` to each name and prints what it returns; errors are told as they happen.
fn each(names: &[String], mut act: impl FnMut(&str) -> Result<Option<String>>) -> Result<ExitCode> {
    let mut failed = false;
    for name in names {
        match act(name) {
            Ok(Some(line)) => output::print(&format!("{line}\n"))?,
            Ok(None) => {}
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}

pub fn stop(engine: &Engine, args: &Stop) -> Result<ExitCode> {
    let signal = args.signal.as_deref().map(signal::parse).transpose()?;
    each(&args.containers, |name| {
        engine.stop(&engine.find(name)?, signal, args.timeout)?;
        Ok(Some(name.to_owned()))
    })
}

pub fn kill(engine: &Engine, args: &Kill) -> Result<ExitCode> {
    let signal = signal::parse(&args.signal)?;
    each(&args.containers, |name| {
        engine.kill(&engine.find(name)?, signal)?;
        Ok(Some(name.to_owned()))
    })
}

pub fn wait(engine: &Engine, args: &Wait) -> Result<ExitCode> {
    each(&args.containers, |name| {
        engine.wait(&engine.find(name)?).map(|code| Some(code.to_string()))
    })
}

pub fn rm(engine: &Engine, args: &Rm) -> Result<ExitCode> {
    each(&args.containers, |name| match engine.find(name) {
        Ok(id) => {
            engine.remove(&id, args.force)?;
            Ok(Some(name.to_owned()))
        }
        Err(err) if args.force && err.kind() == Kind::NotFound => Ok(None),
        Err(err) => Err(err),
    })
}

pub fn rename(engine: &Engine, args: &Rename) -> Result<ExitCode> {
    engine.rename(&engine.find(&args.container)?, &args.name)?;
    Ok(ExitCode::SUCCESS)
}
