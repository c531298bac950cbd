//! The last stage of a launch: what is done to the process itself, and the exec.
//!
//! The same for a container's first command and for `exec`. Where dhow's executable could be
//! written from inside (CVE-2019-5736) it is out of sight before the command is started, in one
//! of two ways: the last calls are left to a program that is nothing else ([`Handoff`]), or the
//! whole stage is entered by starting dhow again from a read-only view of itself, which
//! `/proc/PID/exe` then names.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
};

use nix::errno::Errno;
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, ResolveFlags, openat2};

use super::{
    handshake::InitEnd,
    launch::Steps,
    plan::{ProcessPlan, Step},
    reaper, wire,
};
use crate::{
    error::{Context as _, Result},
    sys::{
        self, errno, fd,
        handoff::Handoff,
        process::{SingleThreaded, set_limit},
        script::{Mark, Script},
        tty,
    },
};

/// The hidden role in which dhow starts itself again.
pub const ROLE: &CStr = c"become-init";

/// A process plan, and how to get to it.
#[derive(Debug)]
pub(super) struct Stage<'plan> {
    plan: &'plan ProcessPlan,
    cover: Cover,
}

/// What keeps dhow's executable out of the container's reach.
#[derive(Debug)]
enum Cover {
    /// Whoever is inside may not write to it.
    None,
    /// Another program makes the last calls.
    Handoff(Handoff),
    /// Dhow is started again; this is the plan in a memfd.
    Restart(OwnedFd),
}

impl Cover {
    fn choose(plan: &ProcessPlan, protect: bool, fail_at: Option<Step>) -> Result<Self> {
        // As pid 1 dhow's executable stays visible for the container's whole life. A profile of
        // AppArmor's takes effect at the next exec, which must be the command's own.
        let can_hand_off = protect && !plan.init && plan.apparmor.is_none();
        if let Some(Ok(handoff)) = can_hand_off.then(Handoff::new) {
            return Ok(Self::Handoff(handoff));
        }
        if protect || plan.init {
            let message = in_memory(&wire::message(plan, fail_at)).doing("write the plan")?;
            return Ok(Self::Restart(message));
        }
        Ok(Self::None)
    }
}

impl<'plan> Stage<'plan> {
    pub(super) fn prepare(
        plan: &'plan ProcessPlan,
        protect: bool,
        fail_at: Option<Step>,
    ) -> Result<Self> {
        Ok(Self { plan, cover: Cover::choose(plan, protect, fail_at)? })
    }

    pub(super) fn wants_read_only_self(&self) -> bool {
        matches!(self.cover, Cover::Restart(_))
    }

    /// Becomes the command; returns only after a failure was reported.
    pub(super) fn enter(
        &self,
        steps: &Steps<'_>,
        read_only_self: Option<OwnedFd>,
        alone: &SingleThreaded,
    ) -> Result<Infallible, ()> {
        let (message, exe) = match (&self.cover, read_only_self) {
            (Cover::Restart(message), Some(exe)) => (message, exe),
            (Cover::Handoff(handoff), _) => return finish(self.plan, Some(handoff), steps, alone),
            (Cover::None | Cover::Restart(_), _) => return finish(self.plan, None, steps, alone),
        };
        steps.take(Step::ProtectExecutable, || {
            fd::keep_across_exec(message.as_fd())?;
            fd::keep_across_exec(steps.engine.as_fd())?;
            let number = |fd: BorrowedFd<'_>| {
                CString::new(fd.as_raw_fd().to_string()).map_err(|_| Errno::EINVAL)
            };
            let (sync, plan) = (number(steps.engine.as_fd())?, number(message.as_fd())?);
            let argv = [c"dhow".to_owned(), ROLE.to_owned(), sync, plan];
            Err(sys::process::exec_fd(exe.as_fd(), &argv, &[]))
        })
    }
}

fn in_memory(bytes: &[u8]) -> Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// The other end of [`Stage::enter`]'s exec: `dhow become-init SYNC PLAN`. Never returns.
pub fn resume(args: &[std::ffi::OsString]) -> ! {
    let _ = sys::process::forbid_inspection();
    let number = |index: usize| args.get(index)?.to_str()?.parse().ok();
    let (sync, message) = (number(0).and_then(fd::inherited), number(1).and_then(fd::inherited));
    if let (Some(sync), Some(message)) = (sync, message) {
        let engine = InitEnd::inherited(sync);
        let mut steps = Steps { fail_at: None, engine: &engine };
        let message = steps.take(Step::ProtectExecutable, || read_message(message));
        let alone = SingleThreaded::from_the_start();
        if let Ok((plan, fail_at)) = message {
            steps.fail_at = fail_at;
            let Err(()) = finish(&plan, None, &steps, &alone);
        }
    }
    sys::process::exit_now(125)
}

fn read_message(message: OwnedFd) -> Result<(ProcessPlan, Option<Step>), Errno> {
    let mut bytes = Vec::new();
    File::from(message).read_to_end(&mut bytes).map_err(|_| Errno::EIO)?;
    wire::from_bytes(&bytes).ok_or(Errno::EBADMSG)
}

/// Each line is one step, in the order that leaves each of them allowed. The last of them are
/// written down, because they may be another program's to take.
fn finish(
    plan: &ProcessPlan,
    handoff: Option<&Handoff>,
    steps: &Steps<'_>,
    alone: &SingleThreaded,
) -> Result<Infallible, ()> {
    steps.take(Step::SetLimits, || set_limits(&plan.rlimits))?;
    if let Some(domain) = plan.personality {
        steps.take(Step::SetPersonality, || sys::process::set_personality(domain))?;
    }
    steps.take(Step::NewKeyring, new_keyring)?;
    if let Some(profile) = &plan.apparmor {
        steps.take(Step::SetAppArmor, || set_apparmor(profile))?;
    }
    // Before the directory is entered: a host directory that is still open here could be its
    // target, by way of /proc/self/fd (CVE-2024-21626).
    let own = [Some(steps.engine.as_fd()), handoff.map(Handoff::fd)];
    let own = own.into_iter().flatten().map(|fd| fd.as_raw_fd());
    steps.take(Step::CloseDescriptors, || {
        close_all_but(own.chain(plan.preserve.iter().copied()))?;
        plan.preserve.iter().try_for_each(|number| fd::keep_number_across_exec(*number))
    })?;
    let entered = steps.take(Step::ChangeDirectory, || enter_early(&plan.cwd))?;
    give_stdio(plan);
    rustix::process::umask(Mode::from_raw_mode(plan.umask.unwrap_or(0o022)));

    let mut script = LastCalls { steps, script: Script::default() };
    script.give_up(plan, entered)?;
    if plan.init {
        script.run()?;
        return reaper::run(plan, steps, alone);
    }
    steps.take(Step::Exec, sys::process::default_signals)?;
    script.exec(plan)?;
    match handoff {
        None => script.run_to_the_end(),
        Some(handoff) => steps.take(Step::ProtectExecutable, || {
            let mark = InitEnd::mark(Step::ProtectExecutable);
            Err(handoff.run(script.script, steps.engine.as_fd(), mark, alone))
        }),
    }
}

/// The command, of a process that has given up all it should.
pub(super) fn exec(plan: &ProcessPlan, steps: &Steps<'_>) -> Result<Infallible, ()> {
    steps.take(Step::Exec, sys::process::default_signals)?;
    let mut script = LastCalls { steps, script: Script::default() };
    script.exec(plan)?;
    script.run_to_the_end()
}

/// The last calls of a launch as they are being written down.
struct LastCalls<'a> {
    steps: &'a Steps<'a>,
    script: Script,
}

impl LastCalls<'_> {
    /// A step that is to fail does so here already.
    fn note(&mut self, step: Step, write: impl FnOnce(&mut Script, Mark)) -> Result<(), ()> {
        self.steps.take(step, || Ok(()))?;
        write(&mut self.script, InitEnd::mark(step));
        Ok(())
    }

    fn give_up(&mut self, plan: &ProcessPlan, entered: bool) -> Result<(), ()> {
        let caps = &plan.capabilities;
        self.note(Step::DropBounding, |script, mark| script.limit_bounding(mark, caps.bounding))?;
        self.note(Step::SetGroups, |script, mark| {
            if !plan.keep_groups {
                script.set_groups(mark, &plan.groups);
            }
        })?;
        if !plan.no_new_privileges {
            // Without no_new_privs a filter needs CAP_SYS_ADMIN, which is given up below.
            self.install_filters(plan)?;
        }
        self.note(Step::SetUser, |script, mark| {
            script.set_user(mark, plan.uid, plan.gid);
            if plan.terminal {
                script.give_stdin(mark, plan.uid);
            }
        })?;
        self.note(Step::SetCapabilities, |script, mark| {
            script.set_capabilities(mark, [caps.effective, caps.permitted, caps.inheritable]);
            script.set_ambient(mark, caps.ambient);
        })?;
        if !entered {
            self.note(Step::ChangeDirectory, |script, mark| {
                script.enter_directory(mark, &plan.cwd);
            })?;
        }
        if plan.no_new_privileges {
            self.note(Step::LockPrivileges, Script::forbid_new_privileges)?;
            self.install_filters(plan)?;
        }
        Ok(())
    }

    /// The profile comes last: it may forbid to install another.
    fn install_filters(&mut self, plan: &ProcessPlan) -> Result<(), ()> {
        self.note(Step::InstallSeccomp, |script, mark| {
            let programs = [&plan.ownership, &plan.seccomp].into_iter().flatten();
            programs.for_each(|program| script.install_filter(mark, program));
        })
    }

    fn exec(&mut self, plan: &ProcessPlan) -> Result<(), ()> {
        self.note(Step::Exec, |script, mark| {
            script.exec(mark, &plan.programs, &plan.argv, &plan.env);
        })
    }

    /// Takes the steps here.
    fn run(&self) -> Result<(), ()> {
        self.script.run().map_err(|(mark, errno)| {
            // If the engine is gone there is nobody left to tell.
            let _ = self.steps.engine.failed_at(mark, errno);
        })
    }

    fn run_to_the_end(&self) -> Result<Infallible, ()> {
        self.run()?;
        // An exec that succeeds does not return, and one that fails is a failure.
        Err(())
    }
}

/// Of the user namespace that was made or joined.
pub(super) fn become_root(plan: &ProcessPlan) -> Result<(), Errno> {
    if plan.keep_groups {
        sys::process::become_root_in_groups()
    } else {
        sys::process::become_root()
    }
}

/// Written with the ids the caller came with: who has become root of a user namespace does not
/// own its own files in `/proc` any more (proc(5), "dumpable"). Children inherit it.
pub(super) fn set_score(score: Option<i32>) -> Result<(), Errno> {
    let Some(score) = score else { return Ok(()) };
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
        .map_err(|err| Errno::from_raw(err.raw_os_error().unwrap_or(libc::EIO)))
}

fn set_limits(limits: &[(u32, u64, u64)]) -> Result<(), Errno> {
    limits.iter().try_for_each(|(resource, soft, hard)| set_limit(*resource, *soft, *hard))
}

/// Missing support, or a full quota of keys, is no reason not to run: runc and crun agree.
fn new_keyring() -> Result<(), Errno> {
    match sys::process::new_session_keyring() {
        Ok(()) | Err(Errno::ENOSYS | Errno::EDQUOT | Errno::EPERM | Errno::EACCES) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Takes effect at the exec (`apparmor(7)`, change_onexec). The file is reached through a
/// procfs that is checked to be one (CVE-2019-16884).
fn set_apparmor(profile: &str) -> Result<(), Errno> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    let proc = rustix::fs::open(
        "/proc",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(errno)?;
    if rustix::fs::fstatfs(&proc).map_err(errno)?.f_type != PROC_SUPER_MAGIC {
        return Err(Errno::EXDEV);
    }
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let pid = std::process::id();
    let open = |path: String| {
        openat2(&proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), beneath)
    };
    let file = open(format!("{pid}/attr/apparmor/exec"))
        .or_else(|_| open(format!("{pid}/attr/exec")))
        .map_err(errno)?;
    rustix::io::write(&file, format!("exec {profile}").as_bytes()).map(drop).map_err(errno)
}

/// `keep` is never the standard streams.
fn close_all_but(keep: impl Iterator<Item = RawFd>) -> Result<(), Errno> {
    let number = |fd: RawFd| u32::try_from(fd).map_err(|_| Errno::EBADF);
    let mut keep = keep.map(number).collect::<Result<Vec<_>, _>>()?;
    keep.sort_unstable();
    let mut next = 3;
    for number in keep {
        sys::process::close_range(next, number - 1)?;
        next = number + 1;
    }
    sys::process::close_from(next)?;
    sys::process::close_on_exec_from(3)
}

/// Enters the working directory with root's rights; `false` if only the user may.
fn enter_early(cwd: &CStr) -> Result<bool, Errno> {
    match enter_directory(cwd) {
        Ok(()) => Ok(true),
        Err(Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Afterwards the kernel must be able to name the directory: one outside the root has no name
/// (`getcwd(2)`, "(unreachable)").
fn enter_directory(cwd: &CStr) -> Result<(), Errno> {
    nix::unistd::chdir(cwd)?;
    let path = nix::unistd::getcwd()?;
    if path.as_os_str().as_bytes().starts_with(b"/") { Ok(()) } else { Err(Errno::ENOENT) }
}

/// The pipes become the user's, so that `/dev/stdout` can be opened again by a server that
/// dropped root. Anything else (`/dev/null` above all) is the host's and stays; so does a pipe
/// whose new owner is not mapped.
fn give_stdio(plan: &ProcessPlan) {
    if plan.uid == 0 || plan.terminal {
        return;
    }
    let uid = rustix::fs::Uid::from_raw(plan.uid);
    let give = |stream: BorrowedFd<'_>| {
        let is_pipe = |stat| sys::fs::kind(&stat) == FileType::Fifo;
        if rustix::fs::fstat(stream).is_ok_and(is_pipe) {
            let _ = rustix::fs::fchown(stream, Some(uid), None);
        }
    };
    give(std::io::stdin().as_fd());
    give(std::io::stdout().as_fd());
    give(std::io::stderr().as_fd());
}

/// The slave becomes 0, 1 and 2 and the controlling terminal.
pub(super) fn take_terminal(slave: BorrowedFd<'_>) -> Result<(), Errno> {
    tty::take_control(slave)?;
    (0..=2).try_for_each(|number| fd::install(slave, number))
}
