//! Verbs that take a list of containers: each is tried, the rest goes on, the worst is the code.

use std::{collections::HashSet, fs, process::ExitCode};

use super::super::{
    args::{
        container::{Kill, Rename, Rm, Stop},
        life::{Chosen, Exists, Pause, Restart, Unpause, Wait},
    },
    exit, output,
    value::time,
};
use crate::{
    engine::{
        Engine,
        container::{Status, list::Query, wait::Condition},
    },
    error::{Context as _, Kind, Result},
    sys::signal,
};

/// Does `act` to each name and prints what it returns; errors are told as they happen.
pub(super) fn each(
    names: &[String],
    mut act: impl FnMut(&str) -> Result<Option<String>>,
) -> Result<ExitCode> {
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

/// The containers that are meant, as names or ids. `--all` and `--filter` mean those of them
/// whose status is `meant`.
pub(super) fn chosen(
    engine: &Engine,
    args: &Chosen,
    meant: impl Fn(&Status) -> bool,
) -> Result<Vec<String>> {
    let mut names = args.containers.clone();
    for path in &args.cidfile {
        names.push(fs::read_to_string(path).at(path).doing("read an id")?.trim().to_owned());
    }
    if args.latest {
        names.push(engine.newest()?.to_string());
    }
    if args.all || !args.filter.is_empty() {
        let query = Query { all: true, filters: engine.filters(&args.filter)?, ..Query::default() };
        let found = engine.containers(&query)?;
        for err in &found.damaged {
            exit::warn(&err.clone().context("a container is left alone"));
        }
        let found = found.containers.into_iter().filter(|one| meant(&one.status));
        names.extend(found.map(|one| one.id.to_string()));
    }
    Ok(names)
}

pub fn stop(engine: &Engine, args: &Stop) -> Result<ExitCode> {
    let signal = args.ending.signal.as_deref().map(signal::parse).transpose()?;
    let names = chosen(engine, &args.chosen, Status::is_running)?;
    each(&names, |name| match engine.find(name) {
        Ok(id) => engine.stop(&id, signal, args.ending.timeout).map(|()| Some(name.to_owned())),
        Err(err) if args.ignore && err.kind() == Kind::NotFound => Ok(None),
        Err(err) => Err(err),
    })
}

pub fn restart(engine: &Engine, args: &Restart) -> Result<ExitCode> {
    let signal = args.ending.signal.as_deref().map(signal::parse).transpose()?;
    let mut wanted = args.chosen.clone();
    wanted.all |= args.running;
    let names = chosen(engine, &wanted, |status| !args.running || status.is_running())?;
    each(&names, |name| {
        engine
            .restart(&engine.find(name)?, signal, args.ending.timeout)
            .doing_with(|| format!("cannot restart container {name}"))?;
        Ok(Some(name.to_owned()))
    })
}

pub fn pause(engine: &Engine, args: &Pause) -> Result<ExitCode> {
    let names = chosen(engine, &args.chosen, |status| matches!(status, Status::Running(_)))?;
    each(&names, |name| engine.pause(&engine.find(name)?).map(|()| Some(name.to_owned())))
}

pub fn unpause(engine: &Engine, args: &Unpause) -> Result<ExitCode> {
    let names = chosen(engine, &args.chosen, |status| matches!(status, Status::Paused(_)))?;
    each(&names, |name| engine.unpause(&engine.find(name)?).map(|()| Some(name.to_owned())))
}

pub fn kill(engine: &Engine, args: &Kill) -> Result<ExitCode> {
    let signal = signal::parse(&args.signal)?;
    let names = chosen(engine, &args.chosen, Status::is_running)?;
    each(&names, |name| {
        engine.kill(&engine.find(name)?, signal)?;
        Ok(Some(name.to_owned()))
    })
}

pub fn wait(engine: &Engine, args: &Wait) -> Result<ExitCode> {
    let conditions: Vec<Condition> =
        args.condition.iter().map(|word| Condition::parse(word)).collect::<Result<_>>()?;
    // Podman's plain numbers are milliseconds.
    let interval = match args.interval.parse::<u64>() {
        Ok(milliseconds) => std::time::Duration::from_millis(milliseconds),
        Err(_) => time::duration(&args.interval)?,
    };
    let mut names = args.containers.clone();
    if args.latest {
        names.push(engine.newest()?.to_string());
    }
    if args.exit_first_match && names.len() > 1 {
        return wait_for_first(engine, &names, &conditions, interval, args.ignore);
    }
    each(&names, |name| {
        let id = match engine.find(name) {
            Err(err) if args.ignore && err.kind() == Kind::NotFound => {
                return Ok(Some("-1".to_owned()));
            }
            id => id?,
        };
        let code = match conditions.as_slice() {
            [] => engine.wait(&id)?,
            conditions => engine.wait_for(&id, conditions, interval)?,
        };
        Ok(Some(code.to_string()))
    })
}

fn wait_for_first(
    engine: &Engine,
    names: &[String],
    conditions: &[Condition],
    interval: std::time::Duration,
    ignore: bool,
) -> Result<ExitCode> {
    let mut ids = Vec::new();
    for name in names {
        match engine.find(name) {
            Err(err) if ignore && err.kind() == Kind::NotFound => {
                output::print("-1\n")?;
                return Ok(ExitCode::SUCCESS);
            }
            id => ids.push(id?),
        }
    }
    let code = engine.wait_for_first(&ids, conditions, interval)?;
    output::print(&format!("{code}\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub fn rm(engine: &Engine, args: &Rm) -> Result<ExitCode> {
    if args.link {
        return each(&args.containers, |name| {
            engine.remove_link(name)?;
            Ok(Some(name.to_owned()))
        });
    }
    let wanted = Chosen {
        all: args.all,
        latest: args.latest,
        cidfile: args.cidfile.clone(),
        filter: args.filter.clone(),
        containers: args.containers.clone(),
    };
    let mut names = chosen(engine, &wanted, |_| true)?;
    if args.depend {
        names = engine.with_dependents(&names)?;
    }
    // They die side by side.
    let mut killed = HashSet::new();
    if args.force && args.time.is_none() && names.len() > 1 {
        let ids = names.iter().filter_map(|name| engine.find(name).ok());
        killed.extend(ids.filter(|id| engine.kill(id, libc::SIGKILL).is_ok()));
    }
    let mut monitors = Vec::new();
    each(&names, |name| match engine.find(name) {
        Ok(id) => {
            if args.time.is_some() && args.force {
                // What does not run need not be stopped.
                let _ = engine.stop(&id, None, args.time);
            }
            let killed = killed.contains(&id);
            let monitor = engine.remove_one_of_many(&id, args.force, args.volumes, killed)?;
            // More would be more descriptors than one may have.
            monitors.extend(monitor.filter(|_| monitors.len() < 500));
            Ok(Some(name.to_owned()))
        }
        Err(err) if (args.force || args.ignore) && err.kind() == Kind::NotFound => Ok(None),
        Err(err) => Err(err),
    })
}

/// Stops and removes the containers that a network or volume is used by; whether all of them went.
pub(super) fn remove_users(
    engine: &Engine,
    kind: &str,
    name: &str,
    patience: Option<i64>,
) -> Result<bool> {
    let filters = engine.filters(&[format!("{kind}={name}")])?;
    let query = Query { all: true, filters, ..Query::default() };
    let mut all = true;
    for user in engine.containers(&query)?.containers {
        if user.status.is_running() {
            // One that has ended meanwhile need not be stopped.
            let _ = engine.stop(&user.id, None, patience);
        }
        if let Err(err) = engine.remove(&user.id, true, false) {
            all = false;
            exit::report(&err);
        }
    }
    Ok(all)
}

pub fn rename(engine: &Engine, args: &Rename) -> Result<ExitCode> {
    engine.rename(&engine.find(&args.container)?, &args.name)?;
    Ok(ExitCode::SUCCESS)
}

pub fn exists(engine: &Engine, args: &Exists) -> Result<ExitCode> {
    match engine.find(&args.container) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(err) if err.kind() == Kind::NotFound => Ok(exit::code(1)),
        Err(err) => Err(err),
    }
}
