//! The monitor's part in health checks: when the next one is due, and what follows from one that
//! has ended. The check itself is run by dhow in a role of its own, which needs more memory.

use std::{
    ffi::CString,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    state::{
        ContainerId, Layout,
        health::{Health, HealthCheck, HealthState, OnFailure, StartupCheck},
        record::ContainerRecord,
    },
    sys::process::{Child, spawn_self},
};

/// The startup check has passed, and the health check's turn has come.
pub const STARTED: i32 = 3;
/// The startup check has failed too often.
pub const FAILED_TO_START: i32 = 4;
/// What the role's exit code says: the container is healthy.
pub const HEALTHY: i32 = 0;
/// It is still starting up.
pub const NOT_YET: i32 = 1;
/// It is not healthy.
pub const UNHEALTHY: i32 = 2;

/// The checks of one container.
pub(super) struct HealthWatch {
    check: HealthCheck,
    /// Until it has passed.
    startup: Option<StartupCheck>,
    on_failure: OnFailure,
    started: Instant,
    next: Instant,
    running: Option<Child>,
    is_starting: bool,
    /// The failure has had its consequence.
    acted: bool,
}

/// What is to be done about a container that has become unhealthy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    Kill,
    /// By a verb of dhow.
    Run(&'static str),
}

impl HealthWatch {
    /// `None` if nothing is to be checked.
    pub(super) fn of(record: &ContainerRecord) -> Option<Self> {
        let check = record.config.health.clone()?;
        check.command()?;
        let now = Instant::now();
        let startup = record.host.special.startup.clone();
        let first = check.wait(Duration::ZERO, true);
        let next = now + startup.as_ref().map_or(first, StartupCheck::wait);
        Some(Self {
            check,
            startup,
            on_failure: record.host.health_on_failure,
            started: now,
            next,
            running: None,
            is_starting: true,
            acted: false,
        })
    }

    /// In the place of another one: it goes on from what is known.
    pub(super) fn follow(mut self, old: Option<Self>, state: &HealthState) -> Self {
        self.is_starting = state.status == Health::Starting;
        self.startup = self.startup.filter(|_| !state.startup.passed);
        if let Some(old) = old {
            (self.started, self.running) = (old.started, old.running);
        }
        if self.startup.is_none() {
            self.plan();
        }
        self
    }

    /// How long nothing is to be done; `None` while a check runs.
    pub(super) fn rest(&self) -> Option<Duration> {
        match self.running {
            Some(_) => None,
            None => Some(self.next.saturating_duration_since(Instant::now())),
        }
    }

    /// Readable when the check has ended.
    pub(super) fn ending(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|child| child.as_fd())
    }

    /// Begins a check if it is time.
    pub(super) fn begin(&mut self, layout: &Layout, id: &ContainerId) {
        if self.running.is_some() || Instant::now() < self.next {
            return;
        }
        match spawn(layout, &["health-check"], id) {
            Ok(child) => self.running = Some(child),
            // No process to be had now: perhaps later.
            Err(_) => self.plan(),
        }
    }

    /// Hears of the end of a check.
    pub(super) fn hear(&mut self) -> Option<Act> {
        let child = self.running.take()?;
        let code = child.wait().map_or(-1, |status| status.shell_code());
        let mut act = None;
        match code {
            STARTED => self.startup = None,
            FAILED_TO_START => act = Some(Act::Run("restart")),
            HEALTHY => (self.is_starting, self.acted) = (false, false),
            UNHEALTHY => {
                self.is_starting = false;
                if !std::mem::replace(&mut self.acted, true) {
                    act = match self.on_failure {
                        OnFailure::None => None,
                        OnFailure::Kill => Some(Act::Kill),
                        OnFailure::Stop => Some(Act::Run("stop")),
                        OnFailure::Restart => Some(Act::Run("restart")),
                    };
                }
            }
            _ => {}
        }
        self.plan();
        act
    }

    /// The container has ended, and so has its check.
    pub(super) fn end(&mut self) {
        self.running = None;
    }

    fn plan(&mut self) {
        if let Some(startup) = &self.startup {
            self.next = Instant::now() + startup.wait();
            return;
        }
        let age = self.started.elapsed();
        self.next = Instant::now() + self.check.wait(age, self.is_starting);
    }
}

/// Starts `dhow --root ... VERB NAME`, which goes on when the monitor has ended.
pub(super) fn start_verb(layout: &Layout, verb: &str, name: &str) {
    let root = layout.root().to_string_lossy().into_owned();
    let run = layout.run_root().to_string_lossy().into_owned();
    let words = ["dhow", "--root", &root, "--runroot", &run, verb, name];
    let words: Vec<CString> = words.iter().filter_map(|word| CString::new(*word).ok()).collect();
    let words: Vec<_> = words.iter().map(CString::as_c_str).collect();
    if let Ok(mut child) = spawn_self(&words, &[], None) {
        child.disarm();
    }
}

fn spawn(layout: &Layout, role: &[&str], id: &ContainerId) -> Result<Child> {
    let c = |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::invalid("a path has a NUL"));
    let mut words = vec![c(b"dhow")?];
    for word in role {
        words.push(c(word.as_bytes())?);
    }
    words.push(c(layout.root().as_os_str().as_bytes())?);
    words.push(c(layout.run_root().as_os_str().as_bytes())?);
    words.push(c(id.as_str().as_bytes())?);
    let words: Vec<_> = words.iter().map(CString::as_c_str).collect();
    spawn_self(&words, &[], None)
}
