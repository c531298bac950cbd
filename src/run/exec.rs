//! Starting another process in a running container: `exec`.
//!
//! ```text
//! exec (the command itself)              process
//! ------------------------------------   ------------------------------------------------
//! user and pid namespace
//! clone3(into the cgroup), GO        ->  born in the container's pid namespace; its root
//!                                        [read-only view of dhow], the other namespaces
//!                                        session
//!                                    <-  Terminal
//!                                        the stage all commands share
//!                                    <-  socket closes: it runs
//! ```
//!
//! A joined pid namespace holds for children only (setns(2)), so the command joins it, and the
//! user namespace that gives the right to; it stays out of sight of the container, which sees
//! none but its own pids. The process joins the rest.

use std::{
    convert::Infallible,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use nix::{errno::Errno, sched::CloneFlags};

use super::{
    failure::Failure,
    handshake::{self, EngineEnd, InitEnd, Report},
    launch::{Started, Stdio, Steps, install_stdio, new_session},
    plan::{Plan, ProcessPlan, Rootfs, Step},
    process::{self, Stage},
    rootfs,
};
use crate::{
    cgroup::Cgroup,
    error::{Context as _, Error, Result},
    sys::{
        self, errno, mount,
        process::{Birth, Child, Side, SingleThreaded, clone3, join_namespaces},
        tty,
    },
};

/// A process to be started in a container that runs.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The container's init.
    pub target: BorrowedFd<'a>,
    /// Those of its namespaces that are not the caller's own.
    pub namespaces: CloneFlags,
    pub process: &'a ProcessPlan,
    pub cgroup: Option<&'a Cgroup>,
    /// See [`Plan::protect_exe`].
    pub protect_exe: bool,
}

/// A process on its way into a container.
#[derive(Debug)]
pub struct Entering<'a> {
    entry: &'a Entry<'a>,
    engine: EngineEnd,
    child: Child,
}

/// Sends a process on its way. The caller is in the container's user namespace from here on, and
/// may do what it has to do anyway before it asks how the process [arrived](Entering::arrive).
pub fn send<'a>(
    entry: &'a Entry<'_>,
    stdio: &Stdio,
    alone: &SingleThreaded,
) -> Result<Entering<'a>> {
    let (engine, process_end) = handshake::pair().doing("create a socket pair")?;
    let stage = Stage::prepare(entry.process, entry.protect_exe, None)?;
    let early = entry.namespaces & (CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID);
    // The process is in sight of the container as soon as it is born: hidden before.
    sys::process::forbid_inspection().doing("hide from the container")?;
    if !early.is_empty() {
        join_namespaces(entry.target, early).doing("join the container's namespaces")?;
    }
    let (side, placed) = born(entry, alone)?;
    let child = match side {
        Side::Parent(child) => child,
        Side::Child(new) => {
            drop(engine);
            new.run(|| joined(entry, stdio, &stage, &process_end, alone))
        }
    };
    drop(process_end);
    if let Some(cgroup) = entry.cgroup.filter(|_| !placed) {
        cgroup.add(child.pid().as_raw())?;
    }
    engine.go().doing("let the new process proceed")?;
    Ok(Entering { entry, engine, child })
}

impl Entering<'_> {
    /// Returns once the process runs.
    pub fn arrive(self) -> Result<Started> {
        let Self { entry, engine, child } = self;
        let mut terminal = None;
        loop {
            match engine.next().doing("hear from the new process")? {
                Report::Terminal(master) => terminal = Some(master),
                Report::Failed { step, index, errno } => {
                    return Err(Failure { step, index, errno }.explain(&as_plan(entry)));
                }
                Report::Closed => return Ok(Started { child, terminal, root: None }),
                Report::Init(_)
                | Report::Fuse(_)
                | Report::Root(_)
                | Report::Network(_)
                | Report::Complete
                | Report::Held => {
                    return Err(Error::engine("the new process spoke out of turn"));
                }
            }
        }
    }
}

/// The process, in the container's cgroup if it may be born there.
///
/// It may not where the caller's own cgroup is outside the tree that was delegated (cgroups(7),
/// "Delegation containment"): then it is moved before it does anything, and `false` says so.
fn born(entry: &Entry<'_>, alone: &SingleThreaded) -> Result<(Side, bool)> {
    let birth = Birth { cgroup: entry.cgroup.map(Cgroup::dir), ..Birth::default() };
    match clone3(&birth, alone) {
        Err(Errno::EACCES | Errno::EPERM) if entry.cgroup.is_some() => {
            let side = clone3(&Birth::default(), alone).doing("start a process")?;
            Ok((side, false))
        }
        side => Ok((side.doing("start a process")?, true)),
    }
}

/// Failures are explained from a plan; an entry has only the part about the process.
fn as_plan(entry: &Entry<'_>) -> Plan {
    Plan {
        parent: None,
        shifts: None,
        namespaces: CloneFlags::empty(),
        new_cgroup_namespace: false,
        join: Vec::new(),
        maps: None,
        rootfs: Rootfs::Directory("/".into()),
        mounts: Vec::new(),
        devices: Vec::new(),
        masked: Vec::new(),
        read_only: Vec::new(),
        read_only_rootfs: false,
        no_devices: false,
        hostname: None,
        domainname: None,
        sysctls: Vec::new(),
        process: entry.process.clone(),
        around: None,
        protect_exe: entry.protect_exe,
        held: false,
        fail_at: None,
    }
}

/// The process itself.
fn joined(
    entry: &Entry<'_>,
    stdio: &Stdio,
    stage: &Stage<'_>,
    engine: &InitEnd,
    alone: &SingleThreaded,
) -> Result<Infallible, ()> {
    let steps = Steps { fail_at: None, engine };
    engine.wait().map_err(drop)?;
    let early = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID;
    let in_user_namespace = entry.namespaces.contains(CloneFlags::CLONE_NEWUSER);
    let read_only_self = steps.take(Step::JoinNamespaces, || {
        if in_user_namespace {
            process::become_root(entry.process)?;
        }
        let view =
            stage.wants_read_only_self().then(|| view_self(in_user_namespace)).transpose()?;
        join_namespaces(entry.target, entry.namespaces - early)?;
        Ok(view)
    })?;
    enter(entry.process, stdio, stage, &steps, read_only_self, alone)
}

/// The view is a mount, and an ordinary user may make one only in a mount namespace that
/// belongs to the user namespace just joined.
fn view_self(in_user_namespace: bool) -> Result<OwnedFd, Errno> {
    if in_user_namespace {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    }
    mount::read_only_self()
}

fn enter(
    plan: &ProcessPlan,
    stdio: &Stdio,
    stage: &Stage<'_>,
    steps: &Steps<'_>,
    read_only_self: Option<OwnedFd>,
    alone: &SingleThreaded,
) -> Result<Infallible, ()> {
    steps.take(Step::NewSession, new_session)?;
    steps.take(Step::OpenTerminal, || match plan.terminal {
        true => open_terminal(plan, steps.engine),
        false => install_stdio(stdio, root()?.as_fd()),
    })?;
    stage.enter(steps, read_only_self, alone)
}

fn open_terminal(plan: &ProcessPlan, engine: &InitEnd) -> Result<(), Errno> {
    let master = rootfs::open_multiplexer(root()?.as_fd())?;
    let slave = tty::open_slave(master.as_fd())?;
    let (columns, rows) = plan.window;
    if columns > 0 && rows > 0 {
        tty::set_window(slave.as_fd(), tty::Window { columns, rows })?;
    }
    engine.send_terminal(master.as_fd())?;
    process::take_terminal(slave.as_fd())
}

/// The container's root, once it is joined.
fn root() -> Result<sys::fs::Root, Errno> {
    sys::fs::Root::open("/".as_ref()).map_err(errno)
}
