//! Restart policies: whether a container that has ended is to be started again, and when.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// `--restart`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    pub name: RestartName,
    /// With `on-failure`: so many times at most; 0 is without end.
    pub max: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartName {
    #[default]
    No,
    OnFailure,
    Always,
    UnlessStopped,
}

/// Milliseconds before the first restart; twice as long before each that follows soon.
const FIRST: u64 = 100;
/// And never longer.
const LAST: u64 = 60_000;
/// One that ran so long has recovered: the next restart is a first one.
const RECOVERED: Duration = Duration::from_secs(10);

impl RestartPolicy {
    /// Reads docker's words: `no`, `always`, `unless-stopped`, `on-failure[:N]`.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, max) =
            text.split_once(':').map_or((text, None), |(name, max)| (name, Some(max)));
        let name = match name {
            "" | "no" => RestartName::No,
            "always" => RestartName::Always,
            "unless-stopped" => RestartName::UnlessStopped,
            "on-failure" => RestartName::OnFailure,
            other => {
                return Err(Error::invalid(format!(
                    "invalid restart policy: unknown policy '{other}'"
                ))
                .hint("use one of no, always, on-failure[:N] or unless-stopped"));
            }
        };
        let max = match max {
            Some(_) if name != RestartName::OnFailure => {
                return Err(Error::invalid(
                    "invalid restart policy: maximum retry count can only be used with 'on-failure'",
                ));
            }
            Some(max) => max.parse().map_err(|_| {
                Error::invalid(
                    "invalid restart policy format: maximum retry count must be an integer",
                )
            })?,
            None => 0,
        };
        Ok(Self { name, max })
    }

    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self.name {
            RestartName::No => "no",
            RestartName::OnFailure => "on-failure",
            RestartName::Always => "always",
            RestartName::UnlessStopped => "unless-stopped",
        }
    }

    /// Whether one that ended with `code` after `restarts` restarts, and was not stopped by
    /// anyone, is started again.
    pub fn applies(self, code: i32, restarts: u32) -> bool {
        match self.name {
            RestartName::No => false,
            RestartName::Always | RestartName::UnlessStopped => true,
            RestartName::OnFailure => code != 0 && (self.max == 0 || restarts < self.max),
        }
    }

    /// Whether `start --all-restartable` brings it back: docker's rule when its daemon starts.
    pub fn survives_reboot(self, code: i32, was_stopped: bool) -> bool {
        match self.name {
            RestartName::No => false,
            RestartName::Always => true,
            RestartName::UnlessStopped => !was_stopped,
            RestartName::OnFailure => code != 0 && !was_stopped,
        }
    }
}

/// Milliseconds until the next start of one that ran for `ran`, after `last` before it.
pub fn delay(ran: Duration, last: u64) -> u64 {
    match last {
        0 => FIRST,
        _ if ran >= RECOVERED => FIRST,
        last => (last * 2).min(LAST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_dockers() {
        let policy = |text: &str| RestartPolicy::parse(text).expect(text);
        for text in ["no", "always", "unless-stopped", "on-failure"] {
            assert_eq!(policy(text).word(), text);
        }
        let thrice = policy("on-failure:3");
        assert!(thrice.applies(1, 2) && !thrice.applies(1, 3) && !thrice.applies(0, 0));
        assert!(policy("on-failure").applies(7, 1000));
        assert!(policy("always").applies(0, 1000) && !policy("no").applies(1, 0));
        assert!(policy("always").survives_reboot(0, true));
        assert!(!policy("unless-stopped").survives_reboot(1, true));
        for bad in ["never", "always:3", "on-failure:x", "on-failure:-1"] {
            let err = RestartPolicy::parse(bad).expect_err(bad).to_string();
            assert!(err.starts_with("invalid restart policy"), "{err}");
        }
    }

    #[test]
    fn each_restart_waits_longer_until_one_runs_for_long() {
        let soon = Duration::from_secs(1);
        let mut waits = vec![0];
        for _ in 0..12 {
            waits.push(delay(soon, waits[waits.len() - 1]));
        }
        assert_eq!(waits[..5], [0, 100, 200, 400, 800]);
        assert_eq!(waits[12], 60_000);
        assert_eq!(delay(Duration::from_secs(11), 60_000), 100);
    }
}
