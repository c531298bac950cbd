//! Containers: finding them, and telling what they do.

pub mod attach;
pub mod cdi;
pub mod clone;
mod connect;
pub mod create;
pub mod diff;
pub mod egress;
mod etc;
pub mod exec;
pub mod explain;
pub mod files;
mod foreign;
pub mod health;
pub mod hooks;
mod idmap;
pub mod init;
pub mod list;
pub mod logs;
mod mount;
pub mod networks;
pub mod pause;
pub mod prune;
pub mod remove;
pub mod restart;
pub mod special;
pub mod start;
pub mod stats;
pub mod stop;
pub mod top;
pub mod update;
pub mod userns;
pub mod wait;

use std::{fs, os::fd::OwnedFd};

use jiff::Timestamp;

use super::Engine;
use crate::{
    error::{Context as _, Error, Result},
    run::discard,
    state::{
        ContainerId,
        layout::ContainerPaths,
        name::is_hex,
        record::{ContainerRecord, ProcessIdentity, ProcessRecord, StateRecord},
        store::{Lock, read_json},
    },
    sys::process::is_alive,
};

/// What a container does, as far as the kernel and its records tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Never started.
    Created,
    /// Prepared: its first process waits to be started.
    Initialized(ProcessRecord),
    Running(ProcessRecord),
    /// Runs, and stands still: its cgroup is frozen.
    Paused(ProcessRecord),
    /// Ended, and its monitor is about to start it again.
    Restarting(StateRecord),
    /// Ended, with what its monitor recorded.
    Exited(StateRecord),
    /// Ended when nobody watched: the monitor was killed, or the machine went down.
    Lost(StateRecord),
}

/// Docker's code for an end that nobody saw.
pub const LOST_CODE: i32 = 255;
/// And why nobody did.
const LOST_REASON: &str =
    "nobody saw how it ended: its monitor was killed, or the machine went down";

impl Status {
    pub fn is_running(&self) -> bool {
        self.process().is_some()
    }

    /// Who to ask about a container that runs, paused or not.
    pub fn process(&self) -> Option<&ProcessRecord> {
        match self {
            Self::Running(process) | Self::Paused(process) => Some(process),
            Self::Created
            | Self::Initialized(_)
            | Self::Restarting(_)
            | Self::Exited(_)
            | Self::Lost(_) => None,
        }
    }

    /// As [`process`](Self::process), or whose first process waits to be started: it has
    /// namespaces, mounts and a cgroup.
    pub fn made(&self) -> Option<&ProcessRecord> {
        if let Self::Initialized(process) = self { Some(process) } else { self.process() }
    }

    /// Docker's word: `created`, `running`, `paused`, `restarting`, `exited`; podman's
    /// `initialized`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Initialized(_) => "initialized",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Restarting(_) => "restarting",
            Self::Exited(_) | Self::Lost(_) => "exited",
        }
    }

    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Created | Self::Initialized(_) | Self::Running(_) | Self::Paused(_) => 0,
            Self::Exited(state) | Self::Restarting(state) => state.exit_code.unwrap_or(LOST_CODE),
            Self::Lost(_) => LOST_CODE,
        }
    }

    pub fn finished(&self) -> Option<Timestamp> {
        match self {
            Self::Created | Self::Initialized(_) | Self::Running(_) | Self::Paused(_) => None,
            Self::Exited(state) | Self::Restarting(state) | Self::Lost(state) => state.finished,
        }
    }

    pub fn started(&self) -> Option<Timestamp> {
        match self {
            Self::Created | Self::Initialized(_) => None,
            Self::Running(process) | Self::Paused(process) => Some(process.started),
            Self::Exited(state) | Self::Restarting(state) | Self::Lost(state) => state.started,
        }
    }
}

/// A container as it was found.
#[derive(Debug, Clone)]
pub struct Container {
    pub record: ContainerRecord,
    pub status: Status,
}

impl Engine {
    /// The container that `typed` means: a full id, a name, or the beginning of one id.
    pub fn find(&self, typed: &str) -> Result<ContainerId> {
        if let Ok(id) = typed.parse::<ContainerId>()
            && self.layout.container(&id).dir().is_dir()
        {
            return Ok(id);
        }
        let bare = typed.strip_prefix('/').unwrap_or(typed);
        if crate::state::name::check_name(bare).is_ok()
            && let Ok(id) = fs::read_to_string(self.layout.names().join(bare))
            && let Ok(id) = id.trim().parse::<ContainerId>()
            && self.layout.container(&id).record().exists()
        {
            return Ok(id);
        }
        if is_hex(typed) {
            let mut found =
                self.container_ids()?.into_iter().filter(|id| id.as_str().starts_with(typed));
            if let Some(id) = found.next() {
                return match found.next() {
                    None => Ok(id),
                    Some(other) => Err(Error::invalid(format!(
                        "{typed} is the beginning of several ids: {} and {}",
                        id.short(),
                        other.short()
                    ))
                    .hint("type more of it")),
                };
            }
        }
        Err(Error::not_found(format!("No such container: {typed}"))
            .hint("`dhow ps -a` lists the containers there are"))
    }

    /// Every container's id, in no order.
    pub fn container_ids(&self) -> Result<Vec<ContainerId>> {
        let dir = self.layout.containers();
        let entries = match fs::read_dir(&dir) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.at(&dir)?,
        };
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
    }

    pub fn container(&self, typed: &str) -> Result<Container> {
        self.load(&self.find(typed)?)
    }

    pub fn load(&self, id: &ContainerId) -> Result<Container> {
        let paths = self.layout.container(id);
        let record = read_json(&paths.record())?.ok_or_else(|| match paths.dir().exists() {
            true => no_record(id),
            false => Error::not_found(format!("No such container: {}", id.short()))
                .hint("it has been removed meanwhile"),
        })?;
        Ok(Container { record, status: self.status(&paths)? })
    }

    /// Asks the records first who ran, then the kernel whether it still does.
    pub fn status(&self, paths: &ContainerPaths) -> Result<Status> {
        // The process before the state: a container that ends in between has written its state
        // before it forgot the process.
        let process: Option<ProcessRecord> = read_json(&paths.process())?;
        let process = process.filter(|process| process.boot_id == self.facts.boot_id);
        if let Some(process) = &process
            && lives(process.init)
        {
            if process.held {
                return Ok(Status::Initialized(process.clone()));
            }
            return Ok(match is_frozen(process) {
                true => Status::Paused(process.clone()),
                false => Status::Running(process.clone()),
            });
        }
        let status = recorded(read_json(&paths.state())?);
        match (status, process) {
            // Init is dead and its monitor is about to say how.
            (Status::Exited(state), _) if state.restarting => self.restarting(paths, state),
            (Status::Lost(_), Some(process)) if !process.held && lives(process.monitor) => {
                Ok(Status::Running(process))
            }
            (status, _) => Ok(status),
        }
    }

    /// What a container does whose monitor has promised to start it again: whether somebody
    /// keeps the promise is told by the one who waits, then by the lock of the one who starts.
    fn restarting(&self, paths: &ContainerPaths, state: StateRecord) -> Result<Status> {
        let starting = matches!(Lock::try_exclusive(paths.dir()), Ok(None));
        let process: Option<ProcessRecord> = read_json(&paths.process())?;
        let process = process.filter(|process| process.boot_id == self.facts.boot_id);
        Ok(match process {
            Some(process) if lives(process.init) => Status::Running(process),
            Some(process) if lives(process.monitor) => Status::Restarting(state),
            _ if starting => Status::Restarting(state),
            _ => recorded(read_json(&paths.state())?),
        })
    }

    /// A handle on a running container's init that cannot come to mean another process.
    pub fn init_pidfd(&self, process: &ProcessRecord) -> Result<OwnedFd> {
        discard::living(process.init).ok_or_else(|| Error::conflict("the container has just ended"))
    }
}

/// What the records alone say of a container that no process is left of.
fn recorded(state: Option<StateRecord>) -> Status {
    let Some(state) = state else { return Status::Created };
    match (state.started, state.finished) {
        (None, _) => Status::Created,
        (Some(started), Some(finished)) if finished >= started => Status::Exited(state),
        (Some(_), _) => Status::Lost(StateRecord { error: LOST_REASON.into(), ..state }),
    }
}

/// What `cgroup.freeze` was told (admin-guide/cgroup-v2.rst): it holds although a process may
/// be on its way to standing still.
fn is_frozen(process: &ProcessRecord) -> bool {
    let told = process.cgroup.as_ref().map(|cgroup| fs::read(cgroup.join("cgroup.freeze")));
    matches!(told, Some(Ok(text)) if text.first() == Some(&b'1'))
}

fn lives(process: ProcessIdentity) -> bool {
    is_alive(process.pid, process.start_time)
}

fn no_record(id: &ContainerId) -> Error {
    Error::engine(format!("container {} has no record", id.short()))
        .hint(format!("`dhow rm -f {}` removes what is left of it", id.short()))
}
