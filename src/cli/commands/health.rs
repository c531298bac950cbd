//! `healthcheck run`, and the flags of health checks and restart policies.

use std::{path::Path, process::ExitCode};

use super::{
    super::{
        args::{
            container::ContainerFlags,
            health::{HealthFlags, SeldomHealth},
            watch::HealthcheckRun,
        },
        exit, output,
        value::time,
    },
    create::one,
};
use crate::{
    engine::{
        Engine,
        container::{restart::check_policy, update::HealthChange},
    },
    error::{Context as _, Error, Result},
    state::{
        health::{HealthCheck, HealthLog, OnFailure, StartupCheck},
        restart::RestartPolicy,
    },
};

/// Podman's words and codes: silence and 0, or the state and 1.
pub fn run(engine: &Engine, args: &HealthcheckRun) -> Result<ExitCode> {
    let checked = engine.check_health(&engine.find(&args.container)?)?;
    if checked.passed {
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&format!("{}\n", checked.state.status.word()))?;
    Ok(exit::code(1))
}

/// What was typed of a health check.
pub(super) fn check(flags: &HealthFlags) -> Result<HealthCheck> {
    let none = flags.no_healthcheck || flags.health_cmd.as_deref() == Some("none");
    if none {
        if flags.no_healthcheck && is_typed(flags) {
            return Err(Error::invalid(NONE_AND_SOME));
        }
        return Ok(HealthCheck { test: vec!["NONE".into()], ..HealthCheck::default() });
    }
    Ok(HealthCheck {
        test: test(flags.health_cmd.as_deref()),
        interval: length("--health-interval", &flags.health_interval)?,
        timeout: length("--health-timeout", &flags.health_timeout)?,
        start_period: length("--health-start-period", &flags.health_start_period)?,
        start_interval: length("--health-start-interval", &flags.health_start_interval)?,
        retries: flags.health_retries.unwrap_or(0),
    })
}

const NONE_AND_SOME: &str = "--no-healthcheck conflicts with --health-* options";

/// Whether anything was typed of what is to be checked.
fn is_typed(flags: &HealthFlags) -> bool {
    let texts = [
        &flags.health_cmd,
        &flags.health_interval,
        &flags.health_start_interval,
        &flags.health_start_period,
        &flags.health_timeout,
    ];
    texts.iter().any(|text| text.is_some()) || flags.health_retries.is_some()
}

/// What was typed of another check for a container that has been made.
pub(super) fn change(flags: &HealthFlags, more: &SeldomHealth) -> Result<HealthChange> {
    let startup =
        StartupCheck { test: test(more.health_startup_cmd.as_deref()), ..startup_times(more)? };
    if flags.no_healthcheck && (is_typed(flags) || startup != StartupCheck::default()) {
        return Err(Error::invalid(NONE_AND_SOME));
    }
    let period = |flag, text: &Option<String>| match text {
        Some(_) => length(flag, text).map(Some),
        None => Ok(None),
    };
    Ok(HealthChange {
        none: flags.no_healthcheck || flags.health_cmd.as_deref() == Some("none"),
        test: test(flags.health_cmd.as_deref().filter(|text| *text != "none")),
        interval: period("--health-interval", &flags.health_interval)?,
        timeout: period("--health-timeout", &flags.health_timeout)?,
        start_period: period("--health-start-period", &flags.health_start_period)?,
        start_interval: period("--health-start-interval", &flags.health_start_interval)?,
        retries: flags.health_retries,
        on_failure: flags.health_on_failure.is_some().then(|| on_failure(flags)).transpose()?,
        startup,
        log: log(more)?,
        log_here: more
            .health_log_destination
            .as_deref()
            .is_some_and(|it| ["", "local"].contains(&it)),
    })
}

/// Nanoseconds.
fn length(flag: &str, text: &Option<String>) -> Result<u64> {
    let length = one(flag, text.as_ref(), time::duration)?.unwrap_or_default();
    if !length.is_zero() && length.as_micros() < 1000 {
        return Err(Error::invalid(format!("{flag} cannot be less than 1ms")));
    }
    u64::try_from(length.as_nanos())
        .map_err(|_| Error::invalid(format!("{flag} is longer than can be counted")))
}

/// A command as docker's `Test` has it.
fn test(typed: Option<&str>) -> Vec<String> {
    match typed.filter(|text| !text.is_empty()) {
        None => Vec::new(),
        // Podman takes a JSON array for a command without a shell.
        Some(text) => match serde_json::from_str::<Vec<String>>(text) {
            Ok(words) => ["CMD".to_owned()].into_iter().chain(words).collect(),
            Err(_) => vec!["CMD-SHELL".into(), text.to_owned()],
        },
    }
}

/// What was typed of a startup check.
pub(super) fn startup(flags: &SeldomHealth) -> Result<Option<StartupCheck>> {
    let test = test(flags.health_startup_cmd.as_deref());
    let check = StartupCheck { test, ..startup_times(flags)? };
    match check.command().is_some() {
        true => Ok(Some(check)),
        false if check == StartupCheck::default() => Ok(None),
        false => Err(Error::invalid("--health-startup-* options need --health-startup-cmd")),
    }
}

/// All of a startup check but its command.
fn startup_times(flags: &SeldomHealth) -> Result<StartupCheck> {
    Ok(StartupCheck {
        test: Vec::new(),
        interval: length("--health-startup-interval", &flags.health_startup_interval)?,
        timeout: length("--health-startup-timeout", &flags.health_startup_timeout)?,
        retries: flags.health_startup_retries.unwrap_or(0),
        successes: flags.health_startup_success.unwrap_or(0),
    })
}

/// What was typed of where results are kept.
pub(super) fn log(flags: &SeldomHealth) -> Result<HealthLog> {
    let directory = match flags.health_log_destination.as_deref() {
        None | Some("" | "local") => None,
        Some("events_logger") => {
            return Err(Error::unsupported(
                "--health-log-destination events_logger: events tell of changes only",
            )
            .hint("use local, or a directory of this host"));
        }
        Some(path) if Path::new(path).is_dir() => Some(std::path::absolute(path).at(path)?),
        Some(path) => {
            return Err(Error::invalid(format!(
                "--health-log-destination {path}: no such directory"
            )));
        }
    };
    Ok(HealthLog { runs: flags.health_max_log_count, bytes: flags.health_max_log_size, directory })
}

pub(super) fn on_failure(flags: &HealthFlags) -> Result<OnFailure> {
    Ok(match flags.health_on_failure.as_deref() {
        None | Some("none") => OnFailure::None,
        Some("kill") => OnFailure::Kill,
        Some("restart") => OnFailure::Restart,
        Some("stop") => OnFailure::Stop,
        Some(other) => {
            return Err(Error::invalid(format!(
                "invalid argument {other:?} for --health-on-failure"
            ))
            .hint("use none, kill, restart or stop"));
        }
    })
}

pub(super) fn policy(flags: &ContainerFlags) -> Result<RestartPolicy> {
    let policy = RestartPolicy::parse(flags.restart.as_deref().unwrap_or_default())?;
    check_policy(policy, flags.goes())?;
    Ok(policy)
}
