//! Starting another process in a running container: `exec`.
//!
//! ```text
//! exec (the command itself)              joiner                     process
//! ------------------------------------   ------------------------   ------------------------
//! clone3(into the cgroup), GO        ->  user namespace, root
//!                                        read-only view of dhow
//!                                        the other namespaces
//!                                        clone3(CLONE_PARENT)    ->  session, terminal
//!                                    <-  Init (its pidfd)        <-  Terminal
//!                                        exits                       the stage all commands share
//!                                    <-------------------------------  socket closes: it runs
//! ```
//!
//! Without a user namespace to join there is no joiner: the command joins the pid namespace, so
//! that the process is born in it, and the process joins the rest.

use std::{
    convert::Infallible,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use nix::{errno::Errno, sched::CloneFlags};

use super::{
    failure::Failure,
    handshake::{self, InitEnd, Report},
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

/// Starts the process and returns once it runs.
pub fn exec(entry: &Entry<'_>, stdio: &Stdio, alone: &SingleThreaded) -> Result<Started> {
    let (engine, process_end) = handshake::pair().doing("create a socket pair")?;
    let stage = Stage::prepare(entry.process, entry.protect_exe, None)?;
    let needs_joiner = entry.namespaces.contains(CloneFlags::CLONE_NEWUSER);
    if !needs_joiner && entry.namespaces.contains(CloneFlags::CLONE_NEWPID) {
        // For children only (setns(2)): with the right to join it already, the process can be
        // born there and join the rest itself.
        join_namespaces(entry.target, CloneFlags::CLONE_NEWPID)
            .doing("join the container's pid namespace")?;
    }
    let (side, placed) = born(entry, alone)?;
    let first = match side {
        Side::Parent(child) => child,
        Side::Child(new) => {
            drop(engine);
            new.run(|| match needs_joiner {
                true => joiner(entry, stdio, &stage, &process_end, alone),
                false => joined(entry, stdio, &stage, &process_end, alone),
            })
        }
    };
    drop(process_end);
    if let Some(cgroup) = entry.cgroup.filter(|_| !placed) {
        cgroup.add(first.pid().as_raw())?;
    }
    engine.go().doing("let the new process proceed")?;

    let (mut child, mut terminal) = (None, None);
    loop {
        match engine.next().doing("hear from the new process")? {
            Report::Init(pidfd) => {
                child = Some(Child::adopt(pidfd).doing("take over the new process")?);
            }
            Report::Terminal(master) => terminal = Some(master),
            Report::Failed { step, index, errno } => {
                return Err(Failure { step, index, errno }.explain(&as_plan(entry)));
            }
            Report::Fuse(_) => return Err(Error::engine("the new process spoke out of turn")),
            Report::Closed => break,
        }
    }
    if !needs_joiner {
        return Ok(Started { child: first, terminal });
    }
    first.wait().doing("wait for the joining process")?;
    let child = child.ok_or_else(|| Error::engine("the new process died before it was ready"))?;
    Ok(Started { child, terminal })
}

/// The joiner, in the container's cgroup if it may be born there.
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
        protect_exe: entry.protect_exe,
        fail_at: None,
    }
}

fn joiner(
    entry: &Entry<'_>,
    stdio: &Stdio,
    stage: &Stage<'_>,
    engine: &InitEnd,
    alone: &SingleThreaded,
) -> Result<Infallible, ()> {
    let steps = Steps { fail_at: None, engine };
    engine.wait().map_err(drop)?;
    let mut read_only_self = None;
    let sibling = steps.take(Step::JoinNamespaces, || {
        // Hidden before it can be seen from inside.
        sys::process::forbid_inspection()?;
        if entry.namespaces.contains(CloneFlags::CLONE_NEWUSER) {
            join_namespaces(entry.target, CloneFlags::CLONE_NEWUSER)?;
            sys::process::become_root()?;
        }
        if stage.wants_read_only_self() {
            read_only_self = Some(view_self(entry.namespaces)?);
        }
        join_namespaces(entry.target, entry.namespaces - CloneFlags::CLONE_NEWUSER)?;
        let parent = u64::from(libc::CLONE_PARENT.cast_unsigned());
        clone3(&Birth { flags: parent, cgroup: None }, alone)
    })?;
    match sibling {
        Side::Child(new) => {
            new.run(|| enter(entry.process, stdio, stage, &steps, read_only_self, alone))
        }
        Side::Parent(mut child) => {
            // If the engine is gone, nobody waits for the process; it runs all the same.
            let _ = engine.send_init(child.as_fd());
            child.disarm();
            sys::process::exit_now(0)
        }
    }
}

/// The process itself, where no user namespace stands in between.
fn joined(
    entry: &Entry<'_>,
    stdio: &Stdio,
    stage: &Stage<'_>,
    engine: &InitEnd,
    alone: &SingleThreaded,
) -> Result<Infallible, ()> {
    let steps = Steps { fail_at: None, engine };
    engine.wait().map_err(drop)?;
    let read_only_self = steps.take(Step::JoinNamespaces, || {
        // It is in the container's pid namespace already: hidden first of all.
        sys::process::forbid_inspection()?;
        let view = stage.wants_read_only_self().then(mount::read_only_self).transpose()?;
        join_namespaces(entry.target, entry.namespaces - CloneFlags::CLONE_NEWPID)?;
        Ok(view)
    })?;
    enter(entry.process, stdio, stage, &steps, read_only_self, alone)
}

/// The view is a mount, and an ordinary user may make one only in a mount namespace that
/// belongs to the user namespace just joined.
fn view_self(namespaces: CloneFlags) -> Result<OwnedFd, Errno> {
    if namespaces.contains(CloneFlags::CLONE_NEWUSER) {
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
