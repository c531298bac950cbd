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
    pub fn add(&mut self, run: HealthRun, check: &HealthCheck, age: Duration) -> bool {
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
        self.log.push(run);
        self.log.drain(..self.log.len().saturating_sub(KEPT));
        before != self.status
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
        let mut state = HealthState::default();
        let (young, old) = (Duration::from_secs(1), Duration::from_secs(11));
        assert!(!state.add(run(1), &check, young) && state.failing_streak == 0);
        assert!(state.add(run(0), &check, young) && state.status == Health::Healthy);
        assert!(!state.add(run(1), &check, young) && state.failing_streak == 1);
        assert!(!state.add(run(0), &check, old) && state.failing_streak == 0);
        assert!(!state.add(run(1), &check, old));
        assert!(state.add(run(1), &check, old) && state.status == Health::Unhealthy);
        assert_eq!(state.log.len(), 5);
        assert_eq!(check.wait(young, true), Duration::from_secs(5));
        assert_eq!(check.wait(young, false), Duration::from_secs(30));
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
