//! Restart policies at work: the monitor of a container that has ended becomes this role, which
//! starts it again.

use std::{cell::Cell, ffi::OsString, os::fd::AsFd as _};

use super::{Status, list::Query, start::StartOptions};
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    run::discard,
    state::{
        ContainerId,
        layout::ContainerPaths,
        record::{ProcessRecord, StateRecord},
        restart::RestartPolicy,
        store::{Durability, Lock, read_json, write, write_json},
    },
    sys::process::send_signal,
};

/// The hidden role's entry: `dhow restart-container ROOT RUNROOT ID`; the exit code.
pub fn main(args: &[OsString]) -> i32 {
    let [root, run, id] = args else { return 125 };
    let again = || -> Result<()> {
        let engine = Engine::open(Some(root.into()), Some(run.into()))?;
        engine.start_again(&id.to_string_lossy().parse()?)
    };
    i32::from(again().is_err())
}

impl Engine {
    /// Starts a container that waits for its restart, unless somebody has changed their mind.
    fn start_again(&self, id: &ContainerId) -> Result<()> {
        let paths = self.layout.container(id);
        let lock = Cell::new(Some(Lock::exclusive(paths.dir())?));
        let container = self.load(id)?;
        let Status::Restarting(state) = container.status else { return Ok(()) };
        if paths.stopped().exists() {
            return discard::runtime(&self.layout, &paths)?.remove();
        }
        let options = StartOptions {
            restarts: state.restarts + 1,
            restart_delay: state.restart_delay,
            ..StartOptions::default()
        };
        let started = self.start_stopped(&container.record, &paths, options, &lock);
        if let Err(err) = &started {
            self.record_failure(&paths, err);
        }
        started.map(drop)
    }

    /// Ends the waiting of a container for its restart; `false` if it does not wait.
    pub(super) fn cancel_restart(&self, id: &ContainerId) -> Result<bool> {
        let paths = self.layout.container(id);
        if !matches!(self.status(&paths)?, Status::Restarting(_)) {
            return Ok(false);
        }
        let _lock = Lock::exclusive(paths.dir())?;
        if !matches!(self.status(&paths)?, Status::Restarting(_)) {
            return Ok(false);
        }
        self.end_waiting(&paths)?;
        Ok(true)
    }

    /// As [`cancel_restart`](Self::cancel_restart), for a holder of the container's lock: who
    /// waits holds nothing, and cannot begin meanwhile.
    pub(super) fn end_waiting(&self, paths: &ContainerPaths) -> Result<()> {
        let process: Option<ProcessRecord> = read_json(&paths.process())?;
        if let Some(monitor) = process.and_then(|process| discard::living(process.monitor)) {
            let _ = send_signal(monitor.as_fd(), libc::SIGKILL);
            discard::wait_for_end(monitor.as_fd(), None)?;
        }
        discard::runtime(&self.layout, paths)?.remove()?;
        if let Some(mut state) = read_json::<StateRecord>(&paths.state())? {
            state.restarting = false;
            write_json(&paths.state(), &state, Durability::Renamed)?;
        }
        Ok(())
    }

    /// Notes that a container with a restart policy is being stopped: its end is meant.
    pub(super) fn mark_stopped(&self, id: &ContainerId, policy: RestartPolicy) -> Result<()> {
        if policy == RestartPolicy::default() {
            return Ok(());
        }
        write(&self.layout.container(id).stopped(), b"", Durability::Renamed)
            .doing("note that the container is stopped")
    }

    /// Starts every container that its policy brings back after a reboot; what was started, and
    /// what could not be.
    pub fn start_restartable(&self) -> Result<Vec<(String, Result<()>)>> {
        let query = Query { all: true, ..Query::default() };
        let mut outcomes = Vec::new();
        // The oldest first: later ones may build on them.
        for one in self.containers(&query)?.containers.into_iter().rev() {
            if one.status.is_running() || one.status == Status::Created {
                continue;
            }
            let record = match self.load(&one.id) {
                Ok(container) => container.record,
                Err(err) => {
                    outcomes.push((one.name, Err(err)));
                    continue;
                }
            };
            let stopped = self.layout.container(&one.id).stopped().exists();
            if record.host.restart.survives_reboot(one.status.exit_code(), stopped) {
                let started = self.start_unless_running(&one.id, StartOptions::default());
                outcomes.push((one.name, started.map(drop)));
            }
        }
        Ok(outcomes)
    }
}

/// Why `--rm` and `--restart` do not go together.
pub fn check_policy(policy: RestartPolicy, auto_remove: bool) -> Result<()> {
    if auto_remove && policy != RestartPolicy::default() {
        return Err(Error::invalid("conflicting options: cannot specify both --restart and --rm"));
    }
    Ok(())
}
