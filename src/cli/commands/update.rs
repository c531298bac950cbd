//! `update`.

use std::process::ExitCode;

use super::{
    super::{args::watch::Update, value::size},
    container::each,
    create::one,
};
use crate::{
    engine::{Engine, container::update::UpdateRequest},
    error::{Error, Result},
    state::{record::Resources, restart::RestartPolicy},
};

pub fn update(engine: &Engine, args: &Update) -> Result<ExitCode> {
    let request = request(args)?;
    if request == UpdateRequest::default() {
        return Err(Error::invalid("you must provide one or more flags when using this command")
            .hint("`dhow update --help` lists them"));
    }
    each(&args.containers, |name| {
        engine.update(&engine.find(name)?, &request)?;
        Ok(Some(name.to_owned()))
    })
}

fn request(args: &Update) -> Result<UpdateRequest> {
    for (flag, given) in [
        ("--blkio-weight", args.blkio_weight.is_some()),
        ("--cpu-rt-period", args.cpu_rt_period.is_some()),
        ("--cpu-rt-runtime", args.cpu_rt_runtime.is_some()),
    ] {
        if given {
            return Err(Error::unsupported(format!("the flag {flag} is not in this version"))
                .hint("`dhow update --help` lists the flags of this version"));
        }
    }
    if args.cpus.is_some() && (args.cpu_quota.is_some() || args.cpu_period.is_some()) {
        return Err(Error::invalid(
            "conflicting options: CPU period or quota cannot be used together with --cpus",
        ));
    }
    Ok(UpdateRequest {
        resources: Resources {
            memory: one("--memory", args.memory.as_ref(), size::bytes)?.filter(|bytes| *bytes > 0),
            memory_swap: one("--memory-swap", args.memory_swap.as_ref(), size::memory_swap)?,
            memory_reservation: one(
                "--memory-reservation",
                args.memory_reservation.as_ref(),
                size::bytes,
            )?,
            nano_cpus: one("--cpus", args.cpus.as_ref(), size::cpus)?,
            cpu_shares: args.cpu_shares,
            cpu_quota: args.cpu_quota,
            cpu_period: args.cpu_period,
            cpuset_cpus: args.cpuset_cpus.clone(),
            cpuset_mems: args.cpuset_mems.clone(),
            pids_limit: args.pids_limit,
        },
        restart: args.restart.as_deref().map(RestartPolicy::parse).transpose()?,
    })
}
