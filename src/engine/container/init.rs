//! `init`: a container that is prepared, and whose first process waits.
//!
//! It has its namespaces, mounts, networks and cgroup. The process that launched it waits beside it
//! and becomes the monitor when a start has come ([`gate`]). If one of the two is killed the other
//! ends, and the container is what it was before.

use std::{
    cell::Cell,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use jiff::Timestamp;

use super::{
    Status,
    start::{StartOptions, forget_stop},
};
use crate::{
    engine::{
        Engine,
        told::{hear, hear_out},
    },
    error::{Error, Result},
    network::host::Leftover,
    run::{attach::Wants, discard, gate},
    state::{
        ContainerId,
        layout::ContainerPaths,
        record::StateRecord,
        store::{Durability, Lock, write_json},
    },
};

impl Engine {
    /// Prepares a container that does not run.
    pub fn init(&self, id: &ContainerId, options: StartOptions) -> Result<()> {
        let paths = self.layout.container(id);
        let lock = Cell::new(Some(Lock::exclusive(paths.dir())?));
        let container = self.load(id)?;
        let name = &container.record.name;
        if !matches!(container.status, Status::Created | Status::Exited(_) | Status::Lost(_)) {
            return Err(Error::conflict(format!(
                "cannot initialize container {name}: it is {} already",
                container.status.word()
            ))
            .hint("only a container that does not run can be prepared"));
        }
        self.start_required(&container.record)?;
        let options = StartOptions { held: true, ..options };
        self.make(&container.record, &container.status, &paths, options, &lock).map(drop)
    }

    /// Starts a container that waits for it; the stream is the caller's attachment.
    pub(super) fn let_go(
        &self,
        paths: &ContainerPaths,
        options: &StartOptions,
    ) -> Result<Option<UnixStream>> {
        forget_stop(paths)?;
        let start = || {
            let stream = gate::open(paths, options.wants, options.window)?;
            hear(&stream, "who held the container died before it ran")?;
            if options.wants == Wants::default() {
                hear_out(&stream);
                return Ok(None);
            }
            Ok(Some(stream))
        };
        start().inspect_err(|_| {
            let _ = discard::abandoned(paths, &self.facts.boot_id);
            let _ = discard::runtime(&self.layout, paths).and_then(Leftover::remove);
        })
    }

    /// Ends a container that is prepared, which podman then counts as one that was killed; `false`
    /// if it is not prepared.
    pub(super) fn end_held(&self, id: &ContainerId) -> Result<bool> {
        let paths = self.layout.container(id);
        let _lock = Lock::exclusive(paths.dir())?;
        let Status::Initialized(process) = self.status(&paths)? else { return Ok(false) };
        discard::abandoned(&paths, &self.facts.boot_id)?;
        if let Some(holder) = discard::living(process.monitor) {
            discard::wait_for_end(holder.as_fd(), None)?;
        }
        let state = StateRecord {
            started: Some(process.started),
            finished: Some(Timestamp::now()),
            exit_code: Some(128 + libc::SIGKILL),
            ..StateRecord::default()
        };
        write_json(&paths.state(), &state, Durability::Renamed)?;
        discard::runtime(&self.layout, &paths)?.remove()?;
        Ok(true)
    }
}
