//! `update`.

use std::process::ExitCode;

use super::{
    super::{
        args::watch::Update,
        value::{env, process},
    },
    container::each,
    create::{given, list},
    health, resources,
};
use crate::{
    engine::{Engine, container::update::UpdateRequest},
    error::{Error, Result},
    state::restart::RestartPolicy,
};

pub fn update(engine: &Engine, args: &Update) -> Result<ExitCode> {
    let request = request(args)?;
    if request == UpdateRequest::default() {
        return Err(Error::invalid("you must provide one or more flags when using this command")
            .hint("`dhow update --help` lists them"));
    }
    let mut names = args.containers.clone();
    if args.latest {
        names.push(engine.newest()?.to_string());
    }
    each(&names, |name| {
        engine.update(&engine.find(name)?, &request)?;
        Ok(Some(name.to_owned()))
    })
}

fn request(args: &Update) -> Result<UpdateRequest> {
    Ok(UpdateRequest {
        resources: resources::read(&args.resources)?,
        health: health::change(&args.health, &args.health_more)?,
        env: variables(args)?,
        ulimits: list("--ulimit", &args.process.ulimit, process::ulimit)?,
        restart: args.restart.as_deref().map(RestartPolicy::parse).transpose()?,
    })
}

/// What is set, and the bare names of what is taken away.
fn variables(args: &Update) -> Result<Vec<String>> {
    let lookup = |name: &str| std::env::var(name).ok();
    let mut variables =
        list("--unsetenv", &args.process.unsetenv, |name| env::env(name, &|_| None))?;
    for text in &args.process.env {
        variables.push(given("--env", text, env::env(text, &lookup))?);
    }
    Ok(variables)
}
