//! `exec`: another process in a container that runs.

use std::{
    ffi::CString,
    os::fd::{AsFd as _, OwnedFd},
};

use nix::sched::CloneFlags;

use super::{Status, start::executable_is_exposed};
use crate::{
    cgroup::Cgroup,
    engine::{Engine, user::Accounts},
    error::{Context as _, Error, Result},
    oci::runtime::Spec,
    run::{
        Started, Streams, exec,
        plan::{self, CapabilityMasks, ProcessPlan},
        spec::{merge_environment, without_unset},
        wire::Door,
    },
    security::caps::CapSet,
    state::{
        ContainerId,
        journal::{self, Event},
        record::{ContainerRecord, Storage},
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
    /// Descriptors of the caller's that the command gets, by their numbers.
    pub preserve: Vec<i32>,
}

/// A process that runs, and our ends of its streams.
#[derive(Debug)]
pub struct Session {
    /// What the events call it.
    pub exec_id: String,
    pub child: Child,
    pub terminal: Option<OwnedFd>,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Engine {
    /// The container, once a start that is on its way is through: until then its init cannot be
    /// joined, and may still fail.
    pub(super) fn settled(&self, id: &ContainerId) -> Result<Status> {
        let paths = self.layout.container(id);
        // If it cannot be locked because it is gone, it does not run, and `load` says why.
        let _lock = Lock::shared(paths.dir()).ok();
        let status = self.status(&paths)?;
        if status.is_running() && !paths.ready().exists() {
            // It may have ended since.
            return match self.status(&paths)? {
                status if status.is_running() => Err(interrupted(&self.load(id)?.record)),
                status => Ok(status),
            };
        }
        Ok(status)
    }

    /// Starts a process in container `id`.
    pub fn exec(&self, id: &ContainerId, request: &ExecRequest) -> Result<Session> {
        let status = self.settled(id)?;
        let name = || self.load(id).map(|container| container.record.name);
        if matches!(status, Status::Paused(_)) {
            let name = name()?;
            return Err(Error::conflict(format!(
                "container {name} is paused, unpause the container before exec"
            ))
            .hint(format!("`dhow unpause {name}` lets it go on")));
        }
        let Status::Running(running) = &status else {
            let name = name()?;
            return Err(Error::conflict(format!("container {name} is not running"))
                .hint(format!("`dhow start {name}` starts it")));
        };
        if request.privileged {
            self.check_privileged_exec(id)?;
        }
        let target = self.init_pidfd(running)?;
        let door = self.door(id)?;
        let root = Root::open(format!("/proc/{}/root", running.init.pid).as_ref()).ok();
        let accounts = match door.is_fuse {
            // Nobody outside of its user namespace may look into a FUSE mount (fuse(4)).
            true => self.accounts(&self.load(id)?.record, Some(&self.layout.container(id)))?,
            false => accounts_inside(root.as_ref()),
        };
        let plan = process(&door, &accounts, request)?;

        let cgroup = running.cgroup.clone().map(Cgroup::open).transpose()?;
        let entry = exec::Entry {
            target: target.as_fd(),
            namespaces: door.namespaces,
            process: &plan,
            cgroup: cgroup.as_ref(),
            protect_exe: executable_is_exposed(door.maps.as_ref()),
        };
        let theirs = root.as_ref().filter(|_| !self.facts.rootless()).map(Root::as_fd);
        let streams = match request.detach || request.tty {
            true => Streams::none(theirs)?,
            false => Streams::piped(request.open_stdin, theirs)?,
        };
        drop(root);
        let alone = SingleThreaded::verify().doing("start a process")?;
        let entering = exec::send(&entry, &streams.inner, &alone)?;
        // While the process is on its way; docker, too, says so of one that cannot be started.
        // Without the container's attributes: its record is not read for that.
        let exec_id = ContainerId::random()?.to_string();
        // As docker writes it: the program, a blank, what it is given.
        let (program, args) = request.command.split_first().map_or(("", &[][..]), |(a, b)| (a, b));
        let command = format!("{program} {}", args.join(" "));
        let said = ["exec_create", "exec_start"].map(|action| {
            let action = format!("{action}: {command}");
            Event::now("container", action, id.as_str()).with("execID", &exec_id)
        });
        journal::append_all(&self.layout, &said);
        let Started { child, terminal, root: _ } = entering.arrive()?;
        let Streams { stdin, stdout, stderr, .. } = streams;
        Ok(Session { exec_id, child, terminal, stdin, stdout, stderr })
    }

    /// Notes how a process ended that [`exec`](Self::exec) has started.
    pub fn note_exec_end(&self, id: &ContainerId, exec_id: &str, code: i32) {
        let died = Event::now("container", "exec_die", id.as_str()).with("execID", exec_id);
        journal::append(&self.layout, &died.with("exitCode", code.to_string()));
    }
}

fn interrupted(record: &ContainerRecord) -> Error {
    let name = &record.name;
    Error::conflict(format!("container {name} is not ready: what started it was killed"))
        .hint(format!("`dhow start {name}` starts it anew"))
}

impl Engine {
    /// How the container is entered: as its start wrote it down, or from its spec again.
    pub(super) fn door(&self, id: &ContainerId) -> Result<Door> {
        let paths = self.layout.container(id);
        if let Some(door) = Door::read(&paths.exec_plan()) {
            return Ok(door);
        }
        let record = self.load(id)?.record;
        let spec = super::start::read_spec(&paths)?
            .ok_or_else(|| Error::engine(format!("container {} has no spec", id.short())))?;
        let process = spec.process().clone().unwrap_or_default();
        let linux = spec.linux().clone().unwrap_or_default();
        let mut process = plan::process_plan(&process, &linux)?;
        Self::give_secret_variables(&record, &paths, &mut process)?;
        let maps = self.container_maps(&record)?;
        if maps.as_ref().is_some_and(IdMaps::is_single) {
            process.live_with_a_single_id(self.facts.seccomp)?;
        }
        Ok(door(&record, &spec, maps, process))
    }
}

/// What an exec has to know of a container that was started so.
pub(super) fn door(
    record: &ContainerRecord,
    spec: &Spec,
    maps: Option<IdMaps>,
    process: ProcessPlan,
) -> Door {
    Door {
        namespaces: namespaces(spec),
        maps,
        user: record.config.user.clone(),
        group_add: record.host.group_add.clone(),
        is_fuse: record.storage == Storage::Fuse,
        process,
    }
}

/// The container's own command's plan, with what is different for this one.
fn process(door: &Door, accounts: &Accounts, request: &ExecRequest) -> Result<ProcessPlan> {
    let mut plan = door.process.clone();
    let typed = request.user.as_deref().unwrap_or(&door.user);
    let user = accounts.resolve(typed, &door.group_add, door.maps.as_ref())?;
    if request.privileged {
        plan.seccomp = None;
        plan.capabilities = CapabilityMasks::of(super::start::bounding_set()?, user.uid);
    } else {
        let bounding = CapSet::from_bits(plan.capabilities.bounding);
        plan.capabilities = CapabilityMasks::of(bounding, user.uid);
    }
    let text = |entry: &CString| entry.to_string_lossy().into_owned();
    let mut env: Vec<String> = plan.env.iter().map(text).collect();
    if request.user.is_some() {
        env = merge_environment(env, &[format!("HOME={}", user.home)]);
    }
    if request.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    let env = without_unset(merge_environment(env, &request.env));
    let command = request.command.first().map_or("", String::as_str);
    plan.programs = plan::programs(command, &env)?;
    plan.argv = plan::c_strings(&request.command)?;
    plan.env = plan::c_strings(&env)?;
    (plan.uid, plan.gid, plan.groups) = (user.uid, user.gid, user.groups);
    plan.terminal = request.tty;
    plan.window = request.window.unwrap_or_default();
    plan.init = false;
    plan.preserve.clone_from(&request.preserve);
    if let Some(dir) = request.working_dir.as_ref().filter(|dir| !dir.is_empty()) {
        if !dir.starts_with('/') {
            return Err(Error::invalid(format!("the working directory {dir:?} is not absolute")));
        }
        plan.cwd = plan::c_string(dir)?;
    }
    Ok(plan)
}

/// The container's account files as they are now.
fn accounts_inside(root: Option<&Root>) -> Accounts {
    Accounts::read(|path, cap| {
        Ok(root.and_then(|root| root.read_small(path.trim_start_matches('/'), cap).ok()))
    })
}

/// What the container does not share with this host.
fn namespaces(spec: &Spec) -> CloneFlags {
    let linux = spec.linux().as_ref();
    let own = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    own.filter_map(|namespace| plan::clone_flag(namespace.typ()).ok()).collect()
}
