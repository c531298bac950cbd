//! `pause` and `unpause`: the cgroup freezer.

use super::Status;
use crate::{
    cgroup::Cgroup,
    engine::Engine,
    error::{Error, Result},
    state::{ContainerId, record::ProcessRecord},
};

impl Engine {
    /// Makes every process of a running container stand still (`cgroup.freeze`).
    pub fn pause(&self, id: &ContainerId) -> Result<()> {
        let container = self.load(id)?;
        let name = &container.record.name;
        match &container.status {
            Status::Running(process) => {
                freezer(name, process)?.freeze()?;
                self.note(&container.record, "pause");
                Ok(())
            }
            Status::Paused(_) => {
                Err(Error::conflict(format!("container {name} is already paused")))
            }
            Status::Created
            | Status::Initialized(_)
            | Status::Restarting(_)
            | Status::Exited(_)
            | Status::Lost(_) => Err(not_running(name)),
        }
    }

    /// Lets them go on.
    pub fn unpause(&self, id: &ContainerId) -> Result<()> {
        let container = self.load(id)?;
        let name = &container.record.name;
        match &container.status {
            Status::Paused(process) => {
                freezer(name, process)?.thaw()?;
                self.note(&container.record, "unpause");
                Ok(())
            }
            Status::Running(_)
            | Status::Created
            | Status::Initialized(_)
            | Status::Restarting(_)
            | Status::Exited(_)
            | Status::Lost(_) => Err(Error::conflict(format!("container {name} is not paused"))),
        }
    }

    /// A paused container that was sent a signal to end it must come to hear of it.
    pub(super) fn thaw(&self, process: &ProcessRecord) -> Result<()> {
        match process.cgroup.clone().map(Cgroup::open) {
            Some(Ok(cgroup)) => match cgroup.thaw() {
                Err(_) if !cgroup.path().exists() => Ok(()),
                thawed => thawed,
            },
            // Gone with the container, or there never was one.
            Some(Err(_)) | None => Ok(()),
        }
    }
}

/// Docker's words for a verb that wants a container that runs.
pub(super) fn not_running(name: &str) -> Error {
    Error::conflict(format!("container {name} is not running"))
        .hint(format!("`dhow start {name}` starts it"))
}

fn freezer(name: &str, process: &ProcessRecord) -> Result<Cgroup> {
    match process.cgroup.clone() {
        Some(path) => Cgroup::open(path),
        None => Err(Error::unsupported(format!("container {name} has no cgroup to freeze"))
            .hint("`dhow doctor` says how this user gets a cgroup v2 subtree")),
    }
}
