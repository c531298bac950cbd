//! Health checks: what was asked for, and what has come of it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A health check, as docker's image configuration has it. Durations are nanoseconds; 0 is the
/// default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthCheck {
    /// `["CMD", ...]`, `["CMD-SHELL", "..."]` or `["NONE"]`; empty is the image's.
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    #[serde(skip_serializing_if = "is_none")]
    pub retries: u32,
}

fn is_zero(nanoseconds: &u64) -> bool {
    *nanoseconds == 0
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

impl HealthCheck {
    /// The command to run; `None` if there is no check.
    pub fn command(&self) -> Option<Vec<String>> {
        match self.test.split_first() {
            Some((kind, words)) if kind == "CMD" && !words.is_empty() => Some(words.to_vec()),
            Some((kind, [text, ..])) if kind == "CMD-SHELL" => {
                Some(["/bin/sh", "-c", text].map(str::to_owned).into())
            }
            _ => None,
        }
    }

    /// How long a run may take.
    pub fn timeout(&self) -> Duration {
        or(self.timeout, Duration::from_secs(30))
    }

    /// Failures in a row that make it unhealthy.
    pub fn retries(&self) -> u32 {
        if self.retries == 0 { 3 } else { self.retries }
    }

    /// Until the next run. While it is starting up it is looked at more often.
    pub fn wait(&self, age: Duration, is_starting: bool) -> Duration {
        let period = Duration::from_nanos(self.start_period);
        match is_starting && age < period {
            true => or(self.start_interval, Duration::from_secs(5)),
            false => or(self.interval, Duration::from_secs(30)),
        }
    }
}

/// What is run before there are health checks, until it has passed: podman's startup check.
/// Durations are nanoseconds; 0 is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct StartupCheck {
    pub test: Vec<String>,
    pub interval: u64,
    pub timeout: u64,
    /// Failures after which the container is started anew; 0 is never.
    pub retries: u32,
    /// How often it has to pass; 0 is once.
    pub successes: u32,
}

impl StartupCheck {
    /// The command to run.
    pub fn command(&self) -> Option<Vec<String>> {
        HealthCheck { test: self.test.clone(), ..HealthCheck::default() }.command()
    }

    /// How long a run may take.
    pub fn timeout(&self) -> Duration {
        or(self.timeout, Duration::from_secs(30))
    }

    /// Until the next run.
    pub fn wait(&self) -> Duration {
        or(self.interval, Duration::from_secs(30))
    }
}

/// Where results of health checks are kept, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthLog {
    /// Runs; `None` is five, 0 is all.
    pub runs: Option<u32>,
    /// Bytes of a run's output; `None` is docker's 4096, 0 is all.
    pub bytes: Option<u32>,
    /// A directory of the host's with a copy.
    pub directory: Option<std::path::PathBuf>,
}

fn or(nanoseconds: u64, default: Duration) -> Duration {
    if nanoseconds == 0 { default } else { Duration::from_nanos(nanoseconds) }
}

/// What `--health-on-failure` does when a container becomes unhealthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    #[default]
    None,
    Kill,
    Restart,
    Stop,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl Health {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// `containers/<id>/health.json`: as docker's inspect shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthState {
    pub status: Health,
    pub failing_streak: u32,
    /// The last five, oldest first.
    pub log: Vec<HealthRun>,
    /// How it goes with the startup check.
    #[serde(skip_serializing_if = "Startup::is_new")]
    pub startup: Startup,
}

/// What has come of the startup check of a container's present life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Startup {
    pub passed: bool,
    pub successes: u32,
    pub failures: u32,
}

impl Startup {
    fn is_new(&self) -> bool {
        *self == Self::default()
    }
}

/// One run of the check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthRun {
    pub start: Timestamp,
    pub end: Timestamp,
    pub exit_code: i32,
    pub output: String,
}

const KEPT: usize = 5;

impl HealthState {
    /// Adds a run; whether the status has changed. `age` is how long the container had run.
    pub fn add(
        &mut self,
        run: HealthRun,
        check: &HealthCheck,
        kept: &HealthLog,
        age: Duration,
    ) -> bool {
        let before = self.status;
        let is_starting = before == Health::Starting;
        if run.exit_code == 0 {
            self.failing_streak = 0;
            self.status = Health::Healthy;
        } else if !is_starting || age >= Duration::from_nanos(check.start_period) {
            self.failing_streak += 1;
            if self.failing_streak >= check.retries() {
                self.status = Health::Unhealthy;
            }
        }
        self.keep(run, kept);
        before != self.status
    }

    /// Adds a run of the startup check, which leaves the status as it is.
    pub fn add_startup(&mut self, run: HealthRun, check: &StartupCheck, kept: &HealthLog) {
        match run.exit_code {
            0 => self.startup.successes += 1,
            _ => self.startup.failures += 1,
        }
        self.startup.passed = self.startup.successes >= check.successes.max(1);
        self.keep(run, kept);
    }

    fn keep(&mut self, run: HealthRun, kept: &HealthLog) {
        self.log.push(run);
        let most =
            kept.runs.map_or(KEPT, |runs| if runs == 0 { usize::MAX } else { runs as usize });
        self.log.drain(..self.log.len().saturating_sub(most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(exit_code: i32) -> HealthRun {
        let now = Timestamp::now();
        HealthRun { start: now, end: now, exit_code, output: String::new() }
    }

    #[test]
    fn failures_count_only_after_the_start_period_and_in_a_row() {
        let check =
            HealthCheck { start_period: 10_000_000_000, retries: 2, ..HealthCheck::default() };
        let (mut state, kept) = (HealthState::default(), HealthLog::default());
        let (young, old) = (Duration::from_secs(1), Duration::from_secs(11));
        assert!(!state.add(run(1), &check, &kept, young) && state.failing_streak == 0);
        assert!(state.add(run(0), &check, &kept, young) && state.status == Health::Healthy);
        assert!(!state.add(run(1), &check, &kept, young) && state.failing_streak == 1);
        assert!(!state.add(run(0), &check, &kept, old) && state.failing_streak == 0);
        assert!(!state.add(run(1), &check, &kept, old));
        assert!(state.add(run(1), &check, &kept, old) && state.status == Health::Unhealthy);
        assert_eq!(state.log.len(), 5);
        assert_eq!(check.wait(young, true), Duration::from_secs(5));
        assert_eq!(check.wait(young, false), Duration::from_secs(30));
    }

    #[test]
    fn a_startup_check_passes_as_often_as_it_must() {
        let check = StartupCheck { successes: 2, ..StartupCheck::default() };
        let kept = HealthLog { runs: Some(2), ..HealthLog::default() };
        let mut state = HealthState::default();
        for (code, passed) in [(0, false), (1, false), (0, true)] {
            state.add_startup(run(code), &check, &kept);
            assert_eq!(state.startup.passed, passed);
        }
        assert_eq!((state.log.len(), state.startup.failures), (2, 1));
        assert_eq!((state.status, state.failing_streak), (Health::Starting, 0));
    }

    #[test]
    fn a_test_is_a_command_or_none() {
        let check = |test: &[&str]| {
            let test = test.iter().map(|&word| word.to_owned()).collect();
            HealthCheck { test, ..HealthCheck::default() }.command()
        };
        assert_eq!(check(&["CMD", "a", "b"]), Some(vec!["a".into(), "b".into()]));
        assert_eq!(check(&["CMD-SHELL", "x y"]).map(|words| words.len()), Some(3));
        for none in [&["NONE"][..], &[], &["CMD"]] {
            assert_eq!(check(none), None);
        }
    }
}
