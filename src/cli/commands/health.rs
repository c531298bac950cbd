//! `healthcheck run`, and the flags of health checks and restart policies.

use std::{path::Path, process::ExitCode};

use super::{
    super::{
        args::{container::ContainerFlags, seldom::SeldomFlags, watch::HealthcheckRun},
        exit, output,
        value::time,
    },
    create::one,
};
use crate::{
    engine::{Engine, container::restart::check_policy},
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
pub(super) fn check(flags: &ContainerFlags) -> Result<HealthCheck> {
    let typed = [
        ("--health-cmd", flags.health_cmd.is_some()),
        ("--health-interval", flags.health_interval.is_some()),
        ("--health-retries", flags.health_retries.is_some()),
        ("--health-start-interval", flags.health_start_interval.is_some()),
        ("--health-start-period", flags.health_start_period.is_some()),
        ("--health-timeout", flags.health_timeout.is_some()),
    ];
    let none = flags.no_healthcheck || flags.health_cmd.as_deref() == Some("none");
    if none {
        if flags.no_healthcheck && typed.iter().any(|(_, given)| *given) {
            return Err(Error::invalid("--no-healthcheck conflicts with --health-* options"));
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
pub(super) fn startup(flags: &SeldomFlags) -> Result<Option<StartupCheck>> {
    let check = StartupCheck {
        test: test(flags.health_startup_cmd.as_deref()),
        interval: length("--health-startup-interval", &flags.health_startup_interval)?,
        timeout: length("--health-startup-timeout", &flags.health_startup_timeout)?,
        retries: flags.health_startup_retries.unwrap_or(0),
        successes: flags.health_startup_success.unwrap_or(0),
    };
    match check.command().is_some() {
        true => Ok(Some(check)),
        false if check == StartupCheck::default() => Ok(None),
        false => Err(Error::invalid("--health-startup-* options need --health-startup-cmd")),
    }
}

/// What was typed of where results are kept.
pub(super) fn log(flags: &SeldomFlags) -> Result<HealthLog> {
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

pub(super) fn on_failure(flags: &ContainerFlags) -> Result<OnFailure> {
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
    check_policy(policy, flags.rm)?;
    Ok(policy)
}
