//! `exec`: another process in a container that runs.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::sched::CloneFlags;

use super::{Container, Status, start::executable_is_exposed};
use crate::{
    cgroup::Cgroup,
    engine::{Engine, user::Accounts},
    error::{Context as _, Error, Result},
    oci::runtime::{Process, Spec, User},
    run::{
        Streams, exec, plan,
        spec::{capability_sets, merge_environment, without_unset},
    },
    security::caps::CapSet,
    state::{
        ContainerId,
        record::{ContainerRecord, ProcessRecord, Storage},
        store::Lock,
    },
    sys::{
        fs::Root,
        process::{Child, SingleThreaded},
        user::IdMaps,
    },
};

/// What was typed.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub tty: bool,
    pub open_stdin: bool,
    pub detach: bool,
    pub privileged: bool,
    pub window: Option<(u16, u16)>,
}

/// A process that runs, and our ends of its streams.
#[derive(Debug)]
pub struct Session {
    pub child: Child,
    pub terminal: Option<OwnedFd>,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Engine {
    /// The container, once a start that is on its way is through: until then its init cannot be
    /// joined, and may still fail.
    fn settled(&self, id: &ContainerId) -> Result<Container> {
        let paths = self.layout.container(id);
        // If it cannot be locked because it is gone, `load` says it better.
        let _lock = Lock::shared(paths.dir()).ok();
        let container = self.load(id)?;
        if container.status.is_running() && !paths.ready().exists() {
            // It may have ended since.
            return match self.load(id)? {
                container if container.status.is_running() => Err(interrupted(&container.record)),
                container => Ok(container),
            };
        }
        Ok(container)
    }

    /// Starts a process in container `id`.
    pub fn exec(&self, id: &ContainerId, request: &ExecRequest) -> Result<Session> {
        let container = self.settled(id)?;
        if matches!(container.status, Status::Paused(_)) {
            return Err(Error::conflict(format!(
                "container {} is paused, unpause the container before exec",
                container.record.name
            ))
            .hint(format!("`dhow unpause {}` lets it go on", container.record.name)));
        }
        let Status::Running(running) = &container.status else {
            return Err(Error::conflict(format!(
                "container {} is not running",
                container.record.name
            ))
            .hint(format!("`dhow start {}` starts it", container.record.name)));
        };
        let spec = super::start::read_spec(&self.layout.container(id))?
            .ok_or_else(|| Error::engine(format!("container {} has no spec", id.short())))?;
        let target = self.init_pidfd(running)?;
        let accounts = match container.record.storage {
            // Nobody outside of its user namespace may look into a FUSE mount (fuse(4)).
            Storage::Fuse => self.accounts(&container.record, Some(&self.layout.container(id)))?,
            Storage::Native | Storage::Copy => accounts_inside(running),
        };
        let maps = self.container_maps(&container.record)?;
        let process = process(&container.record, &spec, &accounts, maps.as_ref(), request)?;
        let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let mut plan = plan::process_plan(&process, seccomp.filter(|_| !request.privileged))?;
        if maps.as_ref().is_some_and(IdMaps::is_single) {
            plan.live_with_a_single_id(self.facts.seccomp)?;
        }

        let cgroup = running.cgroup.clone().map(Cgroup::open).transpose()?;
        let entry = exec::Entry {
            target: target.as_fd(),
            namespaces: namespaces(&spec),
            process: &plan,
            cgroup: cgroup.as_ref(),
            protect_exe: executable_is_exposed(maps.as_ref()),
        };
        let streams = match request.detach || request.tty {
            true => Streams::none()?,
            false => Streams::piped(request.open_stdin)?,
        };
        let alone = SingleThreaded::verify().doing("start a process")?;
        let started = exec::exec(&entry, &streams.inner, &alone)?;
        let Streams { stdin, stdout, stderr, .. } = streams;
        Ok(Session { child: started.child, terminal: started.terminal, stdin, stdout, stderr })
    }
}

fn interrupted(record: &ContainerRecord) -> Error {
    let name = &record.name;
    Error::conflict(format!("container {name} is not ready: what started it was killed"))
        .hint(format!("`dhow start {name}` starts it anew"))
}

fn process(
    record: &ContainerRecord,
    spec: &Spec,
    accounts: &Accounts,
    maps: Option<&IdMaps>,
    request: &ExecRequest,
) -> Result<Process> {
    let mut process = spec.process().clone().unwrap_or_default();
    let typed = request.user.as_deref().unwrap_or(&record.config.user);
    let user = accounts.resolve(typed, &record.host.group_add, maps)?;
    let bounding = match request.privileged {
        true => super::start::bounding_set()?,
        false => process
            .capabilities()
            .as_ref()
            .and_then(|sets| sets.bounding().clone())
            .map_or(CapSet::EMPTY, |set| set.into_iter().collect()),
    };
    let mut env: Vec<String> = process.env().clone().unwrap_or_default();
    if request.user.is_some() {
        env = merge_environment(env, &[format!("HOME={}", user.home)]);
    }
    if request.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    let mut oci_user = User::default();
    oci_user
        .set_uid(user.uid)
        .set_gid(user.gid)
        .set_umask(Some(0o022))
        .set_additional_gids(Some(user.groups.clone()));
    process
        .set_args(Some(request.command.clone()))
        .set_env(Some(without_unset(merge_environment(env, &request.env))))
        .set_user(oci_user)
        .set_capabilities(Some(capability_sets(bounding, user.uid)))
        .set_terminal(Some(request.tty))
        .set_console_size(request.window.map(crate::run::spec::console_size).transpose()?);
    if let Some(dir) = request.working_dir.as_ref().filter(|dir| !dir.is_empty()) {
        if !dir.starts_with('/') {
            return Err(Error::invalid(format!("the working directory {dir:?} is not absolute")));
        }
        process.set_cwd(dir.into());
    }
    Ok(process)
}

/// The container's account files as they are now.
fn accounts_inside(running: &ProcessRecord) -> Accounts {
    let root = Root::open(format!("/proc/{}/root", running.init.pid).as_ref());
    Accounts::read(|path, cap| match &root {
        Ok(root) => Ok(root.read_small(path.trim_start_matches('/'), cap).ok()),
        Err(_) => Ok(None),
    })
}

/// What the container does not share with this host.
fn namespaces(spec: &Spec) -> CloneFlags {
    let linux = spec.linux().as_ref();
    let own = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    own.filter_map(|namespace| plan::clone_flag(namespace.typ()).ok()).collect()
}
