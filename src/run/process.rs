//! The last stage of a launch: what is done to the process itself, and the exec.
//!
//! The same for a container's first command and for `exec`. Where dhow's executable could be
//! written from inside, the stage is entered by starting dhow again from a read-only view of
//! itself: `/proc/PID/exe` then names that view (CVE-2019-5736).

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
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
        privilege::{
            install_filter, keep_capabilities, limit_bounding, set_ambient, set_capabilities,
            set_limit,
        },
        process::SingleThreaded,
        tty,
    },
};

/// The hidden role in which dhow starts itself again.
pub const ROLE: &CStr = c"init";

/// A process plan, and how to get to it.
#[derive(Debug)]
pub(super) struct Stage<'plan> {
    plan: &'plan ProcessPlan,
    /// The plan in a memfd, when dhow is to be started again.
    message: Option<OwnedFd>,
}

impl<'plan> Stage<'plan> {
    pub(super) fn prepare(
        plan: &'plan ProcessPlan,
        protect: bool,
        fail_at: Option<Step>,
    ) -> Result<Self> {
        // As pid 1 dhow's executable stays visible for the container's whole life.
        let message = if protect || plan.init {
            Some(in_memory(&wire::message(plan, fail_at)).doing("write the plan")?)
        } else {
            None
        };
        Ok(Self { plan, message })
    }

    pub(super) fn wants_read_only_self(&self) -> bool {
        self.message.is_some()
    }

    /// Becomes the command; returns only after a failure was reported.
    pub(super) fn enter(
        &self,
        steps: &Steps<'_>,
        read_only_self: Option<OwnedFd>,
        alone: &SingleThreaded,
    ) -> Result<Infallible, ()> {
        let (Some(message), Some(exe)) = (&self.message, read_only_self) else {
            return finish(self.plan, steps, alone);
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

/// The other end of [`Stage::enter`]'s exec: `dhow init SYNC PLAN`. Never returns.
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
            let Err(()) = finish(&plan, &steps, &alone);
        }
    }
    sys::process::exit_now(125)
}

fn read_message(message: OwnedFd) -> Result<(ProcessPlan, Option<Step>), Errno> {
    let mut bytes = Vec::new();
    File::from(message).read_to_end(&mut bytes).map_err(|_| Errno::EIO)?;
    wire::from_bytes(&bytes).ok_or(Errno::EBADMSG)
}

/// Each line is one step, in the order that leaves each of them allowed.
fn finish(plan: &ProcessPlan, steps: &Steps<'_>, alone: &SingleThreaded) -> Result<Infallible, ()> {
    steps.take(Step::SetLimits, || set_limits(&plan.rlimits))?;
    steps.take(Step::NewKeyring, new_keyring)?;
    if let Some(profile) = &plan.apparmor {
        steps.take(Step::SetAppArmor, || set_apparmor(profile))?;
    }
    // Before the directory is entered: a host directory that is still open here could be its
    // target, by way of /proc/self/fd (CVE-2024-21626).
    steps.take(Step::CloseDescriptors, || close_all_but(steps.engine.as_fd()))?;
    let entered = steps.take(Step::ChangeDirectory, || enter_early(&plan.cwd))?;
    give_stdio(plan);
    if let Some(mask) = plan.umask {
        rustix::process::umask(Mode::from_raw_mode(mask));
    } else {
        rustix::process::umask(Mode::from_raw_mode(0o022));
    }

    let caps = &plan.capabilities;
    steps.take(Step::DropBounding, || limit_bounding(caps.bounding))?;
    steps.take(Step::SetGroups, || set_groups(plan))?;
    // The profile comes last: it may forbid to install another.
    let programs = [&plan.ownership, &plan.seccomp].into_iter().flatten();
    let filters: Vec<_> = programs.map(|program| to_kernel(program)).collect();
    if !plan.no_new_privileges {
        // Without no_new_privs a filter needs CAP_SYS_ADMIN, which is given up below.
        steps.take(Step::InstallSeccomp, || install_all(&filters))?;
    }
    steps.take(Step::SetUser, || set_user(plan))?;
    steps.take(Step::SetCapabilities, || {
        set_capabilities(caps.effective, caps.permitted, caps.inheritable)?;
        set_ambient(caps.ambient)
    })?;
    if !entered {
        steps.take(Step::ChangeDirectory, || enter_directory(&plan.cwd))?;
    }
    steps.take(Step::LockPrivileges, || match plan.no_new_privileges {
        true => sys::process::forbid_new_privileges(),
        false => Ok(()),
    })?;
    if plan.no_new_privileges {
        steps.take(Step::InstallSeccomp, || install_all(&filters))?;
    }
    if plan.init {
        return reaper::run(plan, steps, alone);
    }
    exec(plan, steps)
}

/// Tries each candidate as execvp(3) does: a name that is somewhere but not executable is
/// remembered over one that is nowhere.
pub(super) fn exec(plan: &ProcessPlan, steps: &Steps<'_>) -> Result<Infallible, ()> {
    steps.take(Step::Exec, || {
        sys::process::default_signals()?;
        let mut said = Errno::ENOENT;
        for program in &plan.programs {
            let errno = sys::process::exec(program, &plan.argv, &plan.env);
            let searched = plan.programs.len() > 1;
            if errno == Errno::EACCES && searched {
                said = errno;
            } else if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
                return Err(errno);
            }
        }
        Err(said)
    })
}

fn install_all(filters: &[Vec<libc::sock_filter>]) -> Result<(), Errno> {
    filters.iter().try_for_each(|filter| install_filter(filter))
}

fn to_kernel(program: &[u64]) -> Vec<libc::sock_filter> {
    let unpack = |packed: &u64| {
        let [k0, k1, k2, k3, jf, jt, c0, c1] = packed.to_le_bytes();
        let (code, k) = (u16::from_le_bytes([c0, c1]), u32::from_le_bytes([k0, k1, k2, k3]));
        libc::sock_filter { code, jt, jf, k }
    };
    program.iter().map(unpack).collect()
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

fn close_all_but(keep: BorrowedFd<'_>) -> Result<(), Errno> {
    let keep_number = u32::try_from(keep.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    sys::process::close_range(3, keep_number.saturating_sub(1))?;
    sys::process::close_from(keep_number + 1)?;
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

fn set_groups(plan: &ProcessPlan) -> Result<(), Errno> {
    if plan.keep_groups {
        return Ok(());
    }
    sys::process::set_groups(&plan.groups)
}

fn set_user(plan: &ProcessPlan) -> Result<(), Errno> {
    keep_capabilities(true)?;
    sys::process::set_user(plan.uid, plan.gid)?;
    // The terminal's owner may open it again.
    if plan.terminal {
        let uid = rustix::fs::Uid::from_raw(plan.uid);
        let _ = rustix::fs::fchown(std::io::stdin(), Some(uid), None);
    }
    Ok(())
}
