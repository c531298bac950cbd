//! `wait --condition`: until a container is in one of several states.

use std::{os::fd::AsFd as _, path::Path, time::Duration};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

use super::{LOST_CODE, Status};
use crate::{
    engine::Engine,
    error::{Context as _, Error, Kind, Result},
    state::{ContainerId, health::Health},
};

/// A state that can be waited for: podman's words and those of docker's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Created,
    Initialized,
    Running,
    Paused,
    /// Ended, whatever it was before.
    Exited,
    /// Does not run: docker's default.
    NotRunning,
    /// Ends after now.
    NextExit,
    Removed,
    Healthy,
    Unhealthy,
}

impl Condition {
    /// By its word.
    pub fn parse(word: &str) -> Result<Self> {
        Ok(match word {
            "created" | "configured" => Self::Created,
            "initialized" => Self::Initialized,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "exited" | "stopped" => Self::Exited,
            "not-running" => Self::NotRunning,
            "next-exit" => Self::NextExit,
            "removed" => Self::Removed,
            "healthy" => Self::Healthy,
            "unhealthy" => Self::Unhealthy,
            _ => {
                return Err(Error::invalid(format!("invalid condition: {word:?}")).hint(
                    "a condition is created, exited, healthy, initialized, next-exit, \
                     not-running, paused, removed, running, stopped or unhealthy",
                ));
            }
        })
    }

    fn holds(self, before: &Status, now: &Status, health: Option<Health>) -> bool {
        match self {
            Self::Created => *now == Status::Created,
            Self::Initialized => matches!(now, Status::Initialized(_)),
            Self::Running => matches!(now, Status::Running(_)),
            Self::Paused => matches!(now, Status::Paused(_)),
            Self::Exited => matches!(now, Status::Exited(_) | Status::Lost(_)),
            Self::NotRunning => !now.is_running() && !matches!(now, Status::Restarting(_)),
            Self::NextExit => !now.is_running() && now.finished() != before.finished(),
            Self::Removed => false,
            Self::Healthy => now.is_running() && health == Some(Health::Healthy),
            Self::Unhealthy => now.is_running() && health == Some(Health::Unhealthy),
        }
    }
}

/// A container that is waited for.
struct Awaited<'a> {
    id: &'a ContainerId,
    before: Status,
    last: Status,
}

impl Engine {
    /// Waits until one of `conditions` holds; the exit code of a container that has ended, else
    /// -1, as podman has it. What nothing tells of is looked at again after `interval`.
    pub fn wait_for(
        &self,
        id: &ContainerId,
        conditions: &[Condition],
        interval: Duration,
    ) -> Result<i32> {
        self.wait_for_first(std::slice::from_ref(id), conditions, interval)
    }

    /// As [`wait_for`](Self::wait_for), of whichever of them it holds for first. No condition is
    /// that it does not run.
    pub fn wait_for_first(
        &self,
        ids: &[ContainerId],
        conditions: &[Condition],
        interval: Duration,
    ) -> Result<i32> {
        let conditions = if conditions.is_empty() { &[Condition::NotRunning] } else { conditions };
        let mut all = Vec::new();
        for id in ids {
            let before = self.load(id)?.status;
            all.push(Awaited { id, last: before.clone(), before });
        }
        let timeout = PollTimeout::try_from(interval).unwrap_or(PollTimeout::MAX);
        loop {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC).doing("watch a container")?;
            for one in &mut all {
                let paths = self.layout.container(one.id);
                watch(&inotify, paths.dir())?;
                watch(&inotify, paths.run_dir())?;
                if let Some(code) = self.outcome(one, conditions)? {
                    return Ok(code);
                }
            }
            let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno).doing("wait for a container"),
            }
        }
    }

    /// What is to be said of it if one of `conditions` holds now.
    fn outcome(&self, one: &mut Awaited<'_>, conditions: &[Condition]) -> Result<Option<i32>> {
        let (now, health) = match self.load(one.id) {
            Ok(container) => {
                let health = self.health(&container.record).map(|state| state.status);
                (container.status, health)
            }
            Err(err) if err.kind() == Kind::NotFound => {
                // Gone counts as ended, too; one that removed itself left no code behind.
                let last = &one.last;
                let known = matches!(last, Status::Exited(_)).then(|| last.exit_code());
                return Ok(Some(match conditions {
                    [Condition::Removed] => known.unwrap_or(-1),
                    _ => known.unwrap_or(LOST_CODE),
                }));
            }
            Err(err) => return Err(err),
        };
        if conditions.iter().any(|condition| condition.holds(&one.before, &now, health)) {
            let ended = matches!(now, Status::Exited(_) | Status::Lost(_));
            return Ok(Some(if ended { now.exit_code() } else { -1 }));
        }
        one.last = now;
        Ok(None)
    }
}

/// A directory that is not there yet, or not any more, has nothing to tell.
fn watch(inotify: &Inotify, dir: &Path) -> Result<()> {
    let news = AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF;
    match inotify.add_watch(dir, news) {
        Ok(_) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).at(dir).doing("watch"),
    }
}
