//! `update`.

use std::process::ExitCode;

use super::{super::args::watch::Update, container::each, resources};
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
        restart: args.restart.as_deref().map(RestartPolicy::parse).transpose()?,
    })
}
