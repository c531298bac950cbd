//! Starting a container: both sides of the fork, in the order the kernel sees them.
//!
//! ```text
//! launch (monitor to be)                 init (in the new namespaces)
//! ------------------------------------   ----------------------------------------------
//! clone3(namespaces, into cgroup)    ->  exists; no id is mapped yet
//!                                        OOM score, cgroup namespace, loopback
//!                                        opens sources of shared mounts; receive-only propagation;
//!                                        opens what else is the host's
//!   [when namespaces are joined, the clone joins them and makes init a second time; in the
//!    network role's user namespace it is also the one that may write the maps]
//! write uid_map, gid_map; meanwhile
//! record pid, connect the network
//! GO                                 ->  new session; become root of the user namespace
//!                                        mount the overlay
//!                                    <-  Root (of an overlay that the kernel syncs at its end)
//!                                        /proc /sys /dev, volumes, device nodes
//!   [hooks: prestart, createRuntime] <-  [Complete]
//!                                    ->  [hooks: createContainer]
//!   [start fuse-overlayfs on it]     <-  [Fuse (the descriptor, if that makes the rootfs)]
//!                                    <-  Terminal (the pty's master, if one was asked for)
//!                                        sysctls; masked and read-only paths
//!                                        pivot; hostname; read-only root
//!   [GO, when somebody starts it]    <-  [Held: a container that is only prepared waits here]
//!                                        [start dhow again from a read-only view of itself,
//!                                        if it is to stay as pid 1]
//!                                        limits, keyring, directory, ids, capabilities,
//!                                        no_new_privs, seccomp
//!                                        execve
//!                                    <-  socket closes: the command is running
//!   [hooks: poststart]
//! ```
//!
//! At any point init may say `Failed { step, index, errno }` instead, and either side may die;
//! `launch` then kills and reaps what is left and returns an error.
//!
//! Everything on the host's side is opened by init itself, before it pivots: the kernel clones
//! mounts of the caller's own mount namespace only (`open_tree(2)`, and lowerdirs likewise).

use std::{
    convert::Infallible,
    io::IsTerminal as _,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{errno::Errno, sched::CloneFlags};

use super::{
    failure::Failure,
    fuse,
    handshake::{self, EngineEnd, InitEnd, Report},
    hooks::{self, Moment, Output},
    plan::{Join, MountSource, Plan, Rootfs, Step},
    process,
    rootfs::{self, OpenSource, RootfsBuilder},
    shift::{self, Shifted},
};
use crate::{
    error::{Context as _, Error, Result},
    state::record::Around,
    sys::{
        self, channel, errno, fd, mount,
        process::{Birth, Child, Side, SingleThreaded, clone3},
        user::Writing,
    },
};

/// The descriptors a command starts with, when it has no terminal.
#[derive(Debug)]
pub struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// What a command starts with, and our ends of it.
#[derive(Debug)]
pub struct Streams {
    pub inner: Stdio,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Streams {
    /// Three pipes; `/dev/null` for the input that nobody gives, that of the container at `root`
    /// if it runs already.
    pub fn piped(open_stdin: bool, root: Option<BorrowedFd<'_>>) -> Result<Self> {
        let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).doing("create a pipe");
        let (stdin, ours) = match open_stdin {
            true => {
                let (read, write) = pipe()?;
                (read, Some(write))
            }
            false => (null(root)?, None),
        };
        let (our_stdout, stdout) = pipe()?;
        let (our_stderr, stderr) = pipe()?;
        let inner = Stdio { stdin, stdout, stderr };
        Ok(Self { inner, stdin: ours, stdout: Some(our_stdout), stderr: Some(our_stderr) })
    }

    /// The streams of this process, for the container to have as its own.
    ///
    /// None of them may be a terminal: what runs in the container could type into it (`TIOCSTI`,
    /// tty_ioctl(4)).
    pub fn inherited() -> Result<Self> {
        let [stdin, stdout, stderr] = [
            std::io::stdin().as_fd().try_clone_to_owned(),
            std::io::stdout().as_fd().try_clone_to_owned(),
            std::io::stderr().as_fd().try_clone_to_owned(),
        ];
        let doing = "duplicate the caller's streams";
        let (stdin, stdout, stderr) =
            (stdin.doing(doing)?, stdout.doing(doing)?, stderr.doing(doing)?);
        if [&stdin, &stdout, &stderr].iter().any(|fd| fd.is_terminal()) {
            return Err(Error::invalid("the log driver passthrough cannot be used on a terminal")
                .hint("give it files or pipes; -it with another log driver gives the container a terminal of its own"));
        }
        let inner = Stdio { stdin, stdout, stderr };
        Ok(Self { inner, stdin: None, stdout: None, stderr: None })
    }

    /// Nothing: for a command that gets a terminal, or is left to itself; `root` as for
    /// [`piped`](Self::piped).
    pub fn none(root: Option<BorrowedFd<'_>>) -> Result<Self> {
        let inner = Stdio { stdin: null(root)?, stdout: null(root)?, stderr: null(root)? };
        Ok(Self { inner, stdin: None, stdout: None, stderr: None })
    }
}

/// The container's own makes a view of the host's unnecessary, which costs as much as a mount.
fn null(root: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    match root.and_then(rootfs::open_null_from_outside) {
        Some(own) => Ok(own),
        None => mount::open_null().at("/dev/null").doing("open"),
    }
}

/// A container whose command is running.
#[derive(Debug)]
pub struct Started {
    pub child: Child,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Keeps its root file system mounted. The kernel syncs the whole file system beneath an
    /// overlay before it is gone; were the container's last process the last to have it, its end
    /// would wait for that.
    pub root: Option<OwnedFd>,
}

/// Starts the planned container and returns once its command is running.
///
/// `record` is called with init's pid, and its network namespace if that could not be opened by
/// the pid, before init does anything that could be seen from outside of its namespaces: whatever
/// must be true about a container that runs is made true there. `mapped` is called with init's pid
/// after that, when its ids are those of the plan; `held` when a plan that is to be
/// [held](Plan::held) has come so far, and returns when the command may run.
pub fn launch(
    plan: &Plan,
    stdio: &Stdio,
    cgroup: Option<BorrowedFd<'_>>,
    alone: &SingleThreaded,
    record: impl FnOnce(i32, Option<BorrowedFd<'_>>) -> Result<()>,
    mapped: impl FnOnce(i32) -> Result<()>,
    held: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
) -> Result<Started> {
    let (engine, init_end) = handshake::pair().doing("create a socket pair")?;
    let stage = process::Stage::prepare(&plan.process, plan.protect_exe, plan.fail_at)?;
    let ahead = shift::namespace(plan, alone)?;
    let shifted = Shifted::prepare(plan, alone)?;
    let output = plan.around.as_ref().map(|_| Output::new()).transpose()?;

    let flags = if plan.goes_ahead() { CloneFlags::empty() } else { plan.namespaces };
    let birth = Birth { cgroup, ..Birth::into_namespaces(flags) };
    let child = match clone3(&birth, alone).map_err(|errno| super::failure::clone(errno, plan))? {
        Side::Parent(child) => child,
        Side::Child(new) => {
            drop(engine);
            new.run(|| match plan.goes_ahead() {
                false => init(plan, shifted, stdio, &stage, output.as_ref(), &init_end, alone),
                true => {
                    let ahead = (ahead, shifted);
                    join_then_init(plan, ahead, stdio, &stage, output.as_ref(), &init_end, alone)
                }
            })
        }
    };
    drop(init_end);
    let (child, network) = match plan.goes_ahead() {
        true => second_child(&engine, plan, child)?,
        false => (child, None),
    };

    let ready = || {
        let maps = plan.maps.as_ref().filter(|_| plan.parent.is_none() && plan.shifts.is_none());
        // The helpers that write them take longer than everything that is done meanwhile.
        let writing = maps.map(|maps| maps.begin_to_write(child.pid())).transpose()?;
        record(child.pid().as_raw(), network.as_ref().map(AsFd::as_fd))?;
        writing.map_or(Ok(()), Writing::finish)?;
        mapped(child.pid().as_raw())?;
        engine.go().doing("let the container's init proceed")
    };
    ready().map_err(|err| match engine.said() {
        // Init is past helping, which is why the rest went wrong.
        Ok(Report::Failed { step, index, errno }) => Failure { step, index, errno }.explain(plan),
        _ => err,
    })?;
    let launching = Launching { engine: &engine, plan, child: &child, output: output.as_ref() };
    let (terminal, root) = launching.until_exec(alone, held)?;
    Ok(Started { child, terminal, root })
}

/// A container whose init may proceed.
struct Launching<'a> {
    engine: &'a EngineEnd,
    plan: &'a Plan,
    child: &'a Child,
    /// Of hooks, if there are any.
    output: Option<&'a Output>,
}

impl Launching<'_> {
    /// Listens until the exec, which closes the socket; the terminal's master side, and the root.
    fn until_exec(
        &self,
        alone: &SingleThreaded,
        held: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
    ) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
        let out_of_turn = || Error::engine("init spoke out of turn");
        let (mut terminal, mut root) = (None, None);
        let mut held = Some(held);
        loop {
            match self.engine.next().doing("hear from the container's init")? {
                Report::Fuse(device) => match &self.plan.rootfs {
                    Rootfs::Fuse { stack, server, .. } => {
                        fuse::serve(&device, stack, server, alone)?;
                    }
                    Rootfs::Overlay { .. } | Rootfs::Directory(_) => return Err(out_of_turn()),
                },
                Report::Terminal(master) => terminal = Some(master),
                Report::Root(mount) => root = Some(mount),
                Report::Complete => {
                    self.run_hooks(Moment::CreateRuntime)?;
                    self.go()?;
                }
                Report::Held => {
                    held.take().ok_or_else(out_of_turn)?(self.child.as_fd())?;
                    self.go()?;
                }
                Report::Closed => {
                    // Too late to be an error: the command runs.
                    if let Err(err) = self.run_hooks(Moment::Poststart) {
                        log::warn!("{err}");
                    }
                    return Ok((terminal, root));
                }
                Report::Failed { step, index, errno } => {
                    return Err(self.explain(Failure { step, index, errno }));
                }
                Report::Init(_) | Report::Network(_) => return Err(out_of_turn()),
            }
        }
    }

    fn go(&self) -> Result<()> {
        self.engine.go().doing("let the container's init proceed")
    }

    fn run_hooks(&self, moment: Moment) -> Result<()> {
        let Some((around, output)) = self.plan.around.as_ref().zip(self.output) else {
            return Ok(());
        };
        hooks::run(around, moment, self.child.pid().as_raw().cast_unsigned(), output)
    }

    fn explain(&self, failure: Failure) -> Error {
        match (&self.plan.around, self.output) {
            (Some(around), Some(output)) if failure.step == Step::Hook => {
                output.explain_inside(around, failure.index)
            }
            _ => failure.explain(self.plan),
        }
    }
}

/// The real init, which the first child made after it had joined namespaces.
fn second_child(engine: &EngineEnd, plan: &Plan, first: Child) -> Result<(Child, Option<OwnedFd>)> {
    let next = || engine.next().doing("hear from the container's init");
    let mut network = None;
    let mut report = next()?;
    if let Report::Network(namespace) = report {
        network = Some(namespace);
        report = next()?;
    }
    match report {
        Report::Init(pidfd) => {
            let child = Child::adopt(pidfd).doing("take over the container's init")?;
            first.wait().doing("wait for the joining process")?;
            Ok((child, network))
        }
        Report::Failed { step, index, errno } => Err(Failure { step, index, errno }.explain(plan)),
        Report::Closed
        | Report::Terminal(_)
        | Report::Fuse(_)
        | Report::Root(_)
        | Report::Network(_)
        | Report::Complete
        | Report::Held => Err(Error::engine("the container's init died before it was ready")),
    }
}

/// Joins namespaces, then makes init as a sibling: a joined pid namespace holds for children
/// only (setns(2)).
fn join_then_init(
    plan: &Plan,
    (ahead, mut shifted): (Option<OwnedFd>, Shifted),
    stdio: &Stdio,
    stage: &process::Stage,
    output: Option<&Output>,
    engine: &InitEnd,
    alone: &SingleThreaded,
) -> Result<Infallible, ()> {
    let steps = Steps { fail_at: plan.fail_at, engine };
    let parent = u64::from(libc::CLONE_PARENT.cast_unsigned());
    steps.take(Step::SetScore, || process::set_score(plan.process.oom_score_adj))?;
    if let Some(namespace) = &ahead {
        shift::show(plan, namespace.as_fd(), &mut shifted, &steps)?;
    }
    let sibling = steps.take(Step::JoinNamespaces, || {
        if !plan.join.is_empty() {
            // Init is born in sight of the other container, with all of the host still open.
            sys::process::forbid_inspection()?;
        }
        let parent_namespace = plan.parent.iter();
        let kind = CloneFlags::CLONE_NEWUSER;
        let parents: Vec<_> =
            parent_namespace.map(|path| Join { kind, path: path.clone() }).collect();
        let shared = open_shared(plan)?;
        join(parents.iter())?;
        join(plan.join.iter().filter(|join| !(plan.shifts.is_some() && join.kind == kind)))?;
        if let Some(namespace) = &ahead {
            // The last: root has rights over the others only until then.
            nix::sched::setns(namespace, kind)?;
        }
        for (index, place, namespace) in &shared {
            shifted.add(*index, clone_from(namespace.as_fd(), place, alone)?);
        }
        let mut namespaces = plan.namespaces;
        if !plan.join.is_empty() && plan.parent.is_some() {
            make_network(engine)?;
            namespaces.remove(CloneFlags::CLONE_NEWNET);
        }
        if plan.shifts.is_some() {
            namespaces.remove(CloneFlags::CLONE_NEWUSER);
        }
        let mut birth = Birth::into_namespaces(namespaces);
        birth.flags |= parent;
        let side = clone3(&birth, alone)?;
        if let (Side::Parent(init), Some(_), Some(maps)) = (&side, &plan.parent, &plan.maps) {
            maps.write(init.pid()).map_err(|_| Errno::EPERM)?;
        }
        Ok(side)
    })?;
    match sibling {
        Side::Child(new) => new.run(|| init(plan, shifted, stdio, stage, output, engine, alone)),
        Side::Parent(mut child) => {
            // If the engine is gone, init sees it and ends by itself.
            let _ = engine.send_init(child.as_fd());
            child.disarm();
            sys::process::exit_now(0)
        }
    }
}

/// The mount namespaces of others that something is shown of: which mount, where, and of whom.
fn open_shared(plan: &Plan) -> Result<Vec<(u16, &Path, OwnedFd)>, Errno> {
    let mut opened = Vec::new();
    for (index, mount) in (0..).zip(&plan.mounts) {
        if let MountSource::Shared { namespace } = &mount.what {
            opened.push((index, mount.target.as_path(), open_namespace(namespace)?));
        }
    }
    Ok(opened)
}

/// What is mounted at `place` in another mount namespace, attached nowhere. Only who is in it may
/// clone it, and not everyone may come back.
fn clone_from(
    namespace: BorrowedFd<'_>,
    place: &Path,
    alone: &SingleThreaded,
) -> Result<OwnedFd, Errno> {
    let (ours, theirs) = channel::pair().map_err(errno)?;
    match clone3(&Birth::default(), alone)? {
        Side::Child(new) => new.run(|| {
            let clone = || {
                nix::sched::setns(namespace, CloneFlags::CLONE_NEWNS)?;
                mount::clone_path(place, false)
            };
            let sent = clone().map(|tree| channel::send(&theirs, &[tree.as_fd()]));
            sys::process::exit_now(i32::from(!matches!(sent, Ok(Ok(())))))
        }),
        Side::Parent(child) => {
            drop(theirs);
            let received = channel::receive(&ours).map_err(errno)?;
            child.wait()?;
            received.and_then(|mut fds| fds.pop()).ok_or(Errno::ENOENT)
        }
    }
}

fn open_namespace(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(errno)
}

/// Init's network namespace, for who connects it.
fn make_network(engine: &InitEnd) -> Result<(), Errno> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/ns/net", flags, rustix::fs::Mode::empty());
    engine.send_network(own.map_err(errno)?.as_fd())
}

/// Opens what is to give the host what is mounted in it: before our mounts only receive, since a
/// copy of a mount is in the same peer group as that (mount_namespaces(7), "Peer groups").
fn open_peers(plan: &Plan, shifted: &mut Shifted, steps: &Steps<'_>) -> Result<(), ()> {
    for (index, mount) in (0..).zip(&plan.mounts) {
        let MountSource::Bind { shifts: false, ids: None, .. } = &mount.what else { continue };
        if mount.attributes.propagation != libc::MS_SHARED {
            continue;
        }
        let source = steps.take_nth(Step::Mount, index, || RootfsBuilder::open_source(mount))?;
        if let OpenSource::Tree(tree) = source {
            shifted.add(index, tree);
        }
    }
    Ok(())
}

/// The descriptors are opened before anything is joined, with the rights we have now.
fn join<'a>(joins: impl Iterator<Item = &'a Join>) -> Result<(), Errno> {
    let open = |join: &Join| Ok::<_, Errno>((open_namespace(&join.path)?, join.kind));
    let opened = joins.map(open).collect::<Result<Vec<_>, _>>()?;
    for (fd, kind) in &opened {
        nix::sched::setns(fd, *kind)?;
    }
    Ok(())
}

/// The child's side. Each line is one step; a step that fails is reported by name and ends the
/// process.
fn init(
    plan: &Plan,
    mut shifted: Shifted,
    stdio: &Stdio,
    stage: &process::Stage,
    output: Option<&Output>,
    engine: &InitEnd,
    alone: &SingleThreaded,
) -> Result<Infallible, ()> {
    let steps = Steps { fail_at: plan.fail_at, engine };

    if !plan.goes_ahead() {
        steps.take(Step::SetScore, || process::set_score(plan.process.oom_score_adj))?;
    }
    if plan.new_cgroup_namespace {
        steps
            .take(Step::NewCgroupNamespace, || nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP))?;
    }
    if plan.namespaces.contains(CloneFlags::CLONE_NEWNET) {
        steps.take(Step::RaiseLoopback, sys::net::raise_loopback)?;
    }

    open_peers(plan, &mut shifted, &steps)?;
    steps.take(Step::DetachMounts, || mount::receive_only("/".as_ref()))?;
    let read_only_self = if stage.wants_read_only_self() {
        Some(steps.take(Step::ProtectExecutable, mount::read_only_self)?)
    } else {
        None
    };
    let rootfs = steps.take(Step::MountRootfs, || match plan.shifts {
        None => RootfsBuilder::open(&plan.rootfs),
        Some(_) => RootfsBuilder::open_directory(plan.rootfs.path()),
    })?;
    // A writable one makes files in directories of the caller's, who must be somebody for that.
    let stacks = plan.mounts.iter().any(|mount| matches!(mount.what, MountSource::Overlay(_)));
    if stacks {
        engine.wait().map_err(drop)?;
    }
    let mut sources = Vec::with_capacity(plan.mounts.len());
    for (index, mount) in (0..).zip(&plan.mounts) {
        sources.push(steps.take_nth(Step::Mount, index, || shifted.source(index, mount))?);
    }
    // Up to here the ids in here are nobody's, and nobody but the caller can look in.
    if !stacks {
        engine.wait().map_err(drop)?;
    }
    steps.take(Step::NewSession, new_session)?;
    // Not before: root in there may be nobody to the caller's own directories.
    if plan.makes_or_joins(CloneFlags::CLONE_NEWUSER) {
        steps.take(Step::BecomeRoot, || process::become_root(&plan.process))?;
    }
    let mut rootfs = steps.take(Step::MountRootfs, || {
        let mounted = RootfsBuilder::mount(rootfs, |device| engine.send_fuse(device))?;
        if plan.rootfs.is_synced() {
            engine.send_root(mounted.root())?;
        }
        Ok(mounted)
    })?;
    for ((index, mount), source) in (0..).zip(&plan.mounts).zip(sources) {
        steps.take_nth(Step::Mount, index, || rootfs.add(mount, source))?;
    }
    for (index, device) in (0..).zip(&plan.devices) {
        steps.take_nth(Step::Device, index, || rootfs.add_device(device))?;
    }
    if let Some((around, output)) = plan.around.as_ref().zip(output) {
        run_hooks(around, output, &steps)?;
    }
    if plan.process.terminal {
        steps.take(Step::OpenTerminal, || {
            let (master, slave) = rootfs.open_terminal(plan.process.window)?;
            engine.send_terminal(master.as_fd())?;
            process::take_terminal(slave.as_fd())
        })?;
    } else {
        steps.take(Step::OpenTerminal, || install_stdio(stdio, rootfs.root()))?;
    }
    for (index, (key, value)) in (0..).zip(&plan.sysctls) {
        steps.take_nth(Step::Sysctl, index, || rootfs.set_sysctl(key, value))?;
    }
    for (index, path) in (0..).zip(&plan.masked) {
        steps.take_nth(Step::MaskPath, index, || rootfs.mask(path))?;
    }
    for (index, path) in (0..).zip(&plan.read_only) {
        steps.take_nth(Step::ReadOnlyPath, index, || rootfs.make_read_only(path))?;
    }
    steps.take(Step::MakeWorkdir, || rootfs.make_workdir(&plan.process.cwd))?;
    steps.take(Step::PivotRoot, || mount::pivot_into(rootfs.root()))?;

    if let Some(name) = &plan.hostname {
        steps.take(Step::SetHostname, || nix::unistd::sethostname(name))?;
    }
    if let Some(name) = &plan.domainname {
        steps.take(Step::SetDomainname, || sys::process::set_domainname(name))?;
    }
    if plan.read_only_rootfs || plan.no_devices {
        let restrict = || rootfs.restrict_root(plan.read_only_rootfs, plan.no_devices);
        steps.take(Step::RestrictRootfs, restrict)?;
    }
    drop(rootfs);
    if plan.held {
        wait_for_start(plan, engine).map_err(drop)?;
    }
    stage.enter(&steps, read_only_self, alone)
}

/// Between the others' hooks and init's own the container does not change.
fn run_hooks(around: &Around, output: &Output, steps: &Steps<'_>) -> Result<(), ()> {
    if !around.hooks.create_runtime.is_empty() {
        steps.take(Step::Hook, || steps.engine.complete().and_then(|()| steps.engine.wait()))?;
    }
    match hooks::run_inside(around, output) {
        Ok(()) => Ok(()),
        Err(index) => steps.take_nth(Step::Hook, index, || Err(Errno::ECANCELED)),
    }
}

/// Until somebody starts the container. Who has made it may look in meanwhile, for its files,
/// unless others are in its namespaces already.
fn wait_for_start(plan: &Plan, engine: &InitEnd) -> Result<(), Errno> {
    if plan.join.is_empty() {
        sys::process::allow_inspection()?;
    }
    engine.held()?;
    engine.wait()?;
    sys::process::forbid_inspection()
}

/// A session of its own, so that no terminal of the host's can be controlled from inside
/// (`ioctl_tty(2)`, TIOCSTI works on the controlling terminal), and nobody may look into this
/// process while it still has the host's descriptors.
pub(super) fn new_session() -> Result<(), Errno> {
    // Mount points made on the way are for everyone in the container, whoever started it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match nix::unistd::setsid() {
        Ok(_) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    sys::process::forbid_inspection()
}

/// What is the host's `/dev/null` becomes the one below `root`, so that it has its usual name.
pub(super) fn install_stdio(stdio: &Stdio, root: BorrowedFd<'_>) -> Result<(), Errno> {
    for (stream, number) in [(&stdio.stdin, 0), (&stdio.stdout, 1), (&stdio.stderr, 2)] {
        let own = if mount::is_null(stream.as_fd()) { rootfs::open_null(root) } else { None };
        fd::install(own.as_ref().unwrap_or(stream).as_fd(), number)?;
    }
    Ok(())
}

/// Runs steps and reports the first that fails.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    pub(super) fail_at: Option<Step>,
    pub(super) engine: &'a InitEnd,
}

impl Steps<'_> {
    pub(super) fn take<T>(
        &self,
        step: Step,
        act: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, ()> {
        self.take_nth(step, 0, act)
    }

    pub(super) fn take_nth<T>(
        &self,
        step: Step,
        index: u16,
        act: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, ()> {
        let result = if self.fail_at == Some(step) { Err(Errno::EIO) } else { act() };
        result.map_err(|errno| {
            // If the engine is gone there is nobody left to tell; ending is all we can do.
            let _ = self.engine.failed(step, index, errno);
        })
    }
}
