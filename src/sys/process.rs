//! Starting, watching and replacing processes.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    fs,
    io::Read as _,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sched::CloneFlags,
    sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask},
    unistd::Pid,
};

use super::{errno, user::IdMaps};
use crate::error::{Context as _, Error, Result};

/// Proof that this process had one thread when [`verify`](Self::verify) ran.
///
/// Between `clone3` and `execve` the child may allocate and take locks. That is sound only if
/// no other thread could have been holding one at the moment of the copy; the same holds for
/// joining a user namespace, which the kernel refuses to multi-threaded callers (`setns(2)`,
/// EINVAL). Making the proof a value turns "remember to join the download threads first" into
/// a type error.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Counts the threads: one entry in `/proc/self/task`, or EBUSY.
    pub fn verify() -> Result<Self, Errno> {
        // `st_nlink` of a task directory is its threads plus two: one call instead of a listing
        // (proc_pid_task(5)).
        let links = rustix::fs::stat("/proc/self/task").map_err(|_| Errno::ENOENT)?.st_nlink;
        if links == 3 { Ok(Self(())) } else { Err(Errno::EBUSY) }
    }

    /// For a role that has just begun and has started no thread: `execve(2)` leaves one. Where
    /// the root is a container's already, its `/proc` could tell anything.
    pub fn from_the_start() -> Self {
        Self(())
    }
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Side {
    Parent(Child),
    Child(NewProcess),
}

/// What a new process is born into.
#[derive(Debug, Default, Clone, Copy)]
pub struct Birth<'fd> {
    /// New namespaces, and perhaps `CLONE_PARENT`.
    pub flags: u64,
    /// The cgroup it starts in (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'fd>>,
}

impl Birth<'_> {
    pub fn into_namespaces(flags: CloneFlags) -> Self {
        Self { flags: u64::from(flags.bits().cast_unsigned()), cgroup: None }
    }
}

/// `clone3(2)`: a child, perhaps in new namespaces, with a pidfd that cannot be reused.
///
/// Neither `nix` nor `rustix` wraps this call; glibc offers no wrapper either. `clone3` is in
/// every kernel since 5.3. The child's glibc still believes in the parent's thread id, which
/// nothing between here and `execve` asks for.
pub fn clone3(birth: &Birth<'_>, _proof: &SingleThreaded) -> Result<Side, Errno> {
    raw_clone3(birth)
}

/// A plain `fork(2)`, for where a seccomp filter answers clone3 with ENOSYS. `None` in the child.
pub fn fork(_proof: &SingleThreaded) -> Result<Option<Pid>, Errno> {
    // SAFETY: there is one thread, so the child's copy of memory holds no lock of another's.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn raw_clone3(birth: &Birth<'_>) -> Result<Side, Errno> {
    let mut pidfd: libc::c_int = -1;
    let flags = birth.flags | libc::CLONE_PIDFD.cast_unsigned() as u64;
    // clone(2), "CLONE_PARENT": the signal is the parent's own, and naming one is an error.
    let to_parent = flags & libc::CLONE_PARENT.cast_unsigned() as u64 != 0;
    let mut args = libc::clone_args {
        flags: if birth.cgroup.is_some() { flags | CLONE_INTO_CGROUP } else { flags },
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: if to_parent { 0 } else { libc::SIGCHLD as u64 },
        child_tid: 0,
        parent_tid: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: birth.cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
    };
    // SAFETY: `args` is a fully initialised clone_args that outlives the call, its `pidfd`
    // points at a live int, and the size matches. No CLONE_VM and no stack: the child gets a
    // copy of this address space. That no lock is held in that copy is the caller's proof
    // (`clone3`), or the child's abstinence (`spawn_self`, which neither allocates nor locks).
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match Errno::result(pid)? {
        0 => Ok(Side::Child(NewProcess(()))),
        pid => Ok(Side::Parent(Child {
            pid: Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::ERANGE)?),
            // SAFETY: clone3 succeeded, so the kernel stored a fresh descriptor here, and this
            // is the only owner of it.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
            armed: true,
        })),
    }
}

/// The process that was just made. It can only run something and end.
#[derive(Debug)]
pub struct NewProcess(());

impl NewProcess {
    /// The child that [`fork`] made.
    pub fn forked() -> Self {
        Self(())
    }

    /// Runs `body`, which execs on success; on failure the process ends at once.
    ///
    /// `_exit` skips destructors and the parent's `atexit` handlers: nothing that belongs to
    /// the parent (temporary files, buffered output) is flushed twice.
    pub fn run(self, body: impl FnOnce() -> Result<Infallible, ()>) -> ! {
        let guard = ExitOnUnwind;
        let Err(()) = body();
        drop(guard);
        unreachable!("the guard ends the process")
    }
}

/// Ends the process however the scope is left, panics included.
struct ExitOnUnwind;

impl Drop for ExitOnUnwind {
    fn drop(&mut self) {
        exit_now(125);
    }
}

/// Ends this process without running destructors or `atexit` handlers (`_exit(2)`).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// A started process. Dropped while still armed, it is killed and reaped, so an error between
/// its start and the end of what it was started for leaves nothing behind.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    armed: bool,
}

impl Child {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Takes over a child that another process made for this one (`CLONE_PARENT`). Its number is
    /// what the kernel says of the descriptor (`/proc/self/fdinfo`, proc_pid_fdinfo(5)).
    pub fn adopt(pidfd: OwnedFd) -> Result<Self, Errno> {
        let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let info = fs::read_to_string(path).map_err(|_| Errno::EBADF)?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        let pid = pid.filter(|pid| *pid > 0).ok_or(Errno::ESRCH)?;
        Ok(Self { pid: Pid::from_raw(pid), pidfd, armed: true })
    }

    /// From here on the process is meant to outlive this value.
    pub fn disarm(&mut self) {
        self.armed = false;
    }

    /// Hands the pidfd over; the process is meant to live on.
    pub fn into_pidfd(mut self) -> Result<OwnedFd, Errno> {
        self.armed = false;
        rustix::io::fcntl_dupfd_cloexec(&self.pidfd, 3).map_err(errno)
    }

    pub fn wait(mut self) -> Result<ExitStatus, Errno> {
        self.armed = false;
        wait_pidfd(self.pidfd.as_fd())
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.armed {
            // Failing to kill means it is already dead, and then there is only the reaping to do.
            let _ = send_signal(self.pidfd.as_fd(), Signal::SIGKILL as i32);
            let _ = wait_pidfd(self.pidfd.as_fd());
        }
    }
}

/// Waits for a child of this process to end, and reaps it.
pub fn wait_pidfd(pidfd: BorrowedFd<'_>) -> Result<ExitStatus, Errno> {
    // Not nix's waitid: it cannot represent a death by real-time signal.
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => return Ok(ExitStatus::Code(code)),
                (None, Some(signal)) => return Ok(ExitStatus::Signal(signal)),
                (None, None) => {}
            },
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(errno(err)),
        }
    }
}

/// Sends signal number `signal` to the process behind `pidfd` (`pidfd_send_signal(2)`, Linux
/// 5.1): never to a later process with the same number.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: an open descriptor, a plain integer, a null siginfo (the kernel fills it in) and
    // no flags.
    let r = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(r).map(drop)
}

/// A descriptor for the process numbered `pid` now (`pidfd_open(2)`, Linux 5.3).
pub fn open_pidfd(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: two plain integers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::ERANGE)?;
    // SAFETY: the call succeeded, so this is a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Joins the namespaces `flags` of the process behind `pidfd`, all or none (`setns(2)` with a
/// pidfd, Linux 5.8). A joined pid namespace takes effect for children only.
pub fn join_namespaces(pidfd: BorrowedFd<'_>, flags: CloneFlags) -> Result<(), Errno> {
    nix::sched::setns(pidfd, flags)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

impl ExitStatus {
    /// The number a shell would report: the code itself, or 128 + the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code & 0xff,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Becomes uid 0 and gid 0 of the user namespace this process is in, with no supplementary
/// groups where the namespace allows dropping them.
pub fn become_root() -> Result<(), Errno> {
    // In a single-id namespace setgroups is denied (user_namespaces(7)); the groups stay, as
    // they must, but none of them is mapped.
    match set_groups(&[]) {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    become_root_in_groups()
}

/// As [`become_root`], with the supplementary groups that the caller has.
pub fn become_root_in_groups() -> Result<(), Errno> {
    set_user(0, 0)
}

/// Replaces the supplementary groups (`setgroups(2)`).
///
/// The bare system call, here and in [`set_user`]: glibc's wrappers tell every thread it knows
/// of, and in a child of a process with threads they would wait for ever for ones that are not
/// there (nptl(7), "NPTL and signals").
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    let groups: Vec<_> = groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(errno)
}

/// Becomes this user and group for good: real, effective and saved (`setresuid(2)`).
pub fn set_user(uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(errno)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(errno)
}

/// Does something as this user and group towards files, with the capabilities that the caller has
/// (setfsuid(2), capabilities(7), "Effect of user ID changes on capabilities").
pub fn with_files_of<T>(
    (uid, gid): (u32, u32),
    act: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
    let capabilities = rustix::thread::capabilities(None).map_err(errno)?;
    let before = (setfsgid(gid.into()), setfsuid(uid.into()));
    let changed =
        (setfsgid(gid.into()), setfsuid(uid.into())) == (Gid::from_raw(gid), Uid::from_raw(uid));
    let done = match changed {
        true => {
            rustix::thread::set_capabilities(None, capabilities).map_err(errno).and_then(|()| act())
        }
        false => Err(Errno::EPERM),
    };
    setfsuid(before.1);
    setfsgid(before.0);
    done
}

/// `setrlimit(2)` by number; `u64::MAX` is unlimited.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    // struct rlimit64 of the kernel.
    let limit = [soft, hard];
    let nothing = std::ptr::null::<u64>();
    // SAFETY: the kernel reads the two words, which outlive the call, and is not asked for the old
    // ones; an unknown number is EINVAL.
    let r = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), nothing) };
    Errno::result(r).map(drop)
}

/// `personality(2)`: the execution domain that this process and those it starts live in.
pub fn set_personality(domain: u32) -> Result<(), Errno> {
    // SAFETY: one number, no memory.
    let r = unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) };
    Errno::result(r).map(drop)
}

/// Hides this process's memory, executable and descriptors from other processes of the same
/// user (`PR_SET_DUMPABLE`); the next `execve` undoes it.
pub fn forbid_inspection() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(false)
}

/// Undoes [`forbid_inspection`].
pub fn allow_inspection() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(true)
}

/// Asks for SIGKILL when the parent ends (`PR_SET_PDEATHSIG`).
pub fn die_with_parent() -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
}

/// A session keyring of its own, so that the caller's keys are out of reach
/// (`keyctl(2)`, KEYCTL_JOIN_SESSION_KEYRING).
pub fn new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring; the other arguments are unused.
    let r = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>())
    };
    Errno::result(r).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec (`close_range(2)`, Linux 5.11).
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: three plain integers. CLOEXEC closes nothing now, so no live Rust owner is left
    // holding a dead descriptor.
    let r = unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    Errno::result(r).map(drop)
}

/// Closes the descriptors `first` to `last`; as [`close_from`].
pub fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    if first > last {
        return Ok(());
    }
    // SAFETY: three plain integers.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Errno::result(r).map(drop)
}

/// Closes every descriptor from `first` on, for a process that has just begun its own life.
///
/// The caller promises by calling that no Rust owner of such a descriptor is used afterwards;
/// breaking it gives EBADF, not undefined behaviour.
pub fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: three plain integers.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    Errno::result(r).map(drop)
}

/// Sets the NIS domain name (`setdomainname(2)`).
pub fn set_domainname(name: &str) -> Result<(), Errno> {
    // SAFETY: the pointer and the length describe one live string; the kernel copies it.
    let r = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    Errno::result(r).map(drop)
}

/// Every signal back to its default action and none blocked: what a fresh program expects.
/// Rust's runtime ignores SIGPIPE, and a caller may ignore others; both survive `execve`.
pub fn default_signals() -> Result<(), Errno> {
    // struct sigaction of the kernel: SIG_DFL, no flags, no restorer, an empty mask.
    let default = [0_u64; 4];
    const SIGSET_SIZE: usize = 8;
    for number in 1..=libc::SIGRTMAX() {
        if number == libc::SIGKILL || number == libc::SIGSTOP {
            continue;
        }
        // The bare call: glibc's refuses the two numbers it keeps for itself, which a caller
        // may have ignored all the same.
        // SAFETY: `default` is as large as the kernel's struct and outlives the call, the old
        // action is not asked for, and SIG_DFL is not a function that could run.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                SIGSET_SIZE,
            )
        };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Blocks what asks a program to end, for one whose end is another's: a monitor goes when its
/// container has gone, and must see how. Only SIGKILL ends it before.
pub fn ignore_requests_to_end() -> Result<(), Errno> {
    default_signals()?;
    let requests: SigSet = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGPIPE,
    ]
    .into_iter()
    .collect();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&requests), None)
}

/// Restores the default action of one signal.
pub fn default_signal(signal: Signal) -> Result<(), Errno> {
    // SAFETY: SIG_DFL installs no handler, so no code of ours can run in signal context.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.map(drop)
}

/// Replaces this process; returns only to say why it could not.
pub fn exec(program: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    match nix::unistd::execve(program, argv, env) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

/// Replaces this process with the program behind `fd` (`execveat(2)`, AT_EMPTY_PATH).
pub fn exec_fd(fd: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> Errno {
    match nix::unistd::execveat(fd, c"", argv, env, nix::fcntl::AtFlags::AT_EMPTY_PATH) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

/// Gives memory that was freed back to the kernel (`malloc_trim(3)`), where the C library keeps it.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a size to keep and no pointer; glibc locks its own arenas.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// The path by which dhow starts itself again.
pub const SELF_EXE: &CStr = c"/proc/self/exe";

/// Starts this executable in another role, as root of its own user namespace if `userns` is given.
///
/// `fds` become descriptors 3, 4, ... of the new process; 0, 1 and 2 are shared; every other
/// one is closed. Sound in a process with threads: the child neither allocates nor locks.
pub fn spawn_self(
    args: &[&CStr],
    fds: &[BorrowedFd<'_>],
    userns: Option<&IdMaps>,
) -> Result<Child> {
    spawn_role(args, fds, userns, become_root)
}

/// As [`spawn_self`], but the role begins as the caller, with all capabilities in the user
/// namespace: for who opens files of the caller's before it calls [`become_root`]. The caller
/// need not have an id in the namespace.
pub fn spawn_self_as_caller(
    args: &[&CStr],
    fds: &[BorrowedFd<'_>],
    userns: Option<&IdMaps>,
) -> Result<Child> {
    spawn_role(args, fds, userns, keep_capabilities)
}

/// Keeps all permitted capabilities across an exec (capabilities(7), "Ambient"; Linux 4.3).
fn keep_capabilities() -> Result<(), Errno> {
    use rustix::thread::{self, CapabilitySet};
    let mut sets = thread::capabilities(None).map_err(errno)?;
    sets.inheritable = sets.permitted;
    thread::set_capabilities(None, sets).map_err(errno)?;
    for capability in (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        if sets.permitted.contains(capability) {
            thread::configure_capability_in_ambient_set(capability, true).map_err(errno)?;
        }
    }
    Ok(())
}

fn spawn_role(
    args: &[&CStr],
    fds: &[BorrowedFd<'_>],
    userns: Option<&IdMaps>,
    settle: fn() -> Result<(), Errno>,
) -> Result<Child> {
    let argv: Vec<*const libc::c_char> =
        args.iter().map(|arg| arg.as_ptr()).chain([std::ptr::null()]).collect();
    let env: Vec<CString> =
        std::env::vars_os().filter_map(|(key, value)| environment_entry(&key, &value)).collect();
    let envp: Vec<*const libc::c_char> =
        env.iter().map(|entry| entry.as_ptr()).chain([std::ptr::null()]).collect();
    // Numbers far above any target, so that moving one cannot overwrite another.
    let lift = |fd: BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, 64).doing("duplicate a descriptor")
    };
    let high: Vec<OwnedFd> = fds.iter().map(|fd| lift(*fd)).collect::<Result<_>>()?;
    let (ours, low) = nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::SeqPacket,
        None,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
    )
    .doing("create a socket pair")?;
    let theirs = lift(low.as_fd())?;
    // One end here, or the silence below never comes.
    drop(low);

    let flags = if userns.is_some() { CloneFlags::CLONE_NEWUSER } else { CloneFlags::empty() };
    let child = match raw_clone3(&Birth::into_namespaces(flags)) {
        Ok(Side::Parent(child)) => child,
        Ok(Side::Child(new)) => new.run(|| {
            // Held here, too, it would hide from the child that its parent is dead.
            drop(ours);
            become_role(&theirs, &high, &argv, &envp, userns.map(|_| settle));
            Err(())
        }),
        Err(errno) => return Err(Error::from(errno).context("start a helper process")),
    };
    drop(theirs);
    if let Some(maps) = userns {
        maps.write(child.pid())?;
    }
    rustix::io::write(&ours, &[1]).doing("start a helper process")?;
    // The child's end is close-on-exec: silence means that the exec happened.
    let mut errno = [0; 4];
    match rustix::io::read(&ours, &mut errno).doing("start a helper process")? {
        0 => Ok(child),
        _ => Err(Error::from(Errno::from_raw(i32::from_le_bytes(errno)))
            .context("start dhow again as a helper")),
    }
}

/// Starts a program of this host's: `stdio` are its standard streams, nothing else is open, and no
/// signal is blocked or ignored.
///
/// Sound in a process with threads: the child neither allocates nor locks.
pub fn spawn_program(
    program: &CStr,
    argv: &[CString],
    env: &[CString],
    stdio: [BorrowedFd<'_>; 3],
) -> Result<Child, Errno> {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(argv), pointers(env));
    // Out of the way of the numbers they are to have.
    let lift = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(errno);
    let [stdin, stdout, stderr] = stdio.map(lift);
    let stdio = [stdin?, stdout?, stderr?];
    let (ours, theirs) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(errno)?;
    let child = match raw_clone3(&Birth::default())? {
        Side::Parent(child) => child,
        Side::Child(new) => new.run(|| {
            let errno = become_program(program, &argv, &envp, &stdio);
            let _ = rustix::io::write(&theirs, &(errno as i32).to_le_bytes());
            Err(())
        }),
    };
    drop(theirs);
    let mut failed = [0; 4];
    match rustix::io::retry_on_intr(|| rustix::io::read(&ours, &mut failed)).map_err(errno)? {
        0 => Ok(child),
        _ => Err(Errno::from_raw(i32::from_le_bytes(failed))),
    }
}

/// The child's half of [`spawn_program`]: plain system calls only.
fn become_program(
    program: &CStr,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    stdio: &[OwnedFd; 3],
) -> Errno {
    for (number, fd) in (0..).zip(stdio) {
        // SAFETY: two descriptor numbers, the first of which is above 2; the standard streams have
        // no owner in this process, which does nothing but execute something else.
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
            return Errno::last();
        }
    }
    if let Err(errno) = close_on_exec_from(3).and_then(|()| default_signals()) {
        return errno;
    }
    // SAFETY: both arrays end in a null pointer, and what they point to lives in the parent's
    // copied memory until the exec.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::last()
}

fn environment_entry(key: &std::ffi::OsStr, value: &std::ffi::OsStr) -> Option<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok()
}

/// The child's half of [`spawn_role`]: plain system calls only. `settle` is done in a user namespace.
fn become_role(
    sync: &OwnedFd,
    high: &[OwnedFd],
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    settle: Option<fn() -> Result<(), Errno>>,
) {
    let mut go = [0];
    let ready = matches!(rustix::io::read(sync, &mut go), Ok(1));
    let attempt = || -> Result<(), Errno> {
        if !ready {
            return Err(Errno::ECANCELED);
        }
        settle.map_or(Ok(()), |settle| settle())?;
        close_on_exec_from(3)?;
        for (target, fd) in (3..).zip(high) {
            // SAFETY: two descriptor numbers; dup2 leaves the copy open across exec. Targets
            // are below 64, where only descriptors that exec closes anyway can be hit.
            Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), target) })?;
        }
        // SAFETY: both arrays end in a null pointer, and what they point to lives in the
        // parent's copied memory until the exec.
        unsafe { libc::execve(SELF_EXE.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        Err(Errno::last())
    };
    if let Err(errno) = attempt() {
        let _ = rustix::io::write(sync, &(errno as i32).to_le_bytes());
    }
}

/// Whether the process behind a record still lives: its number and its start time agree.
pub fn is_alive(pid: i32, start_time: u64) -> bool {
    stat_of(pid).is_some_and(|stat| stat.start_time == start_time && stat.lives())
}

/// A process's start time in clock ticks since boot (`proc_pid_stat(5)`, field 22).
pub fn start_time_of(pid: i32) -> Option<u64> {
    stat_of(pid).map(|stat| stat.start_time)
}

fn stat_of(pid: i32) -> Option<Stat> {
    // In one read: the size that procfs tells is 0, and reading what has none to its end takes
    // six. A line of 52 numbers, and a name of 64 bytes, is shorter than this.
    let mut line = [0; 2048];
    let length = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    Stat::parse(&line[..length])
}

/// Fields 3, 20 and 22 of `proc_pid_stat(5)`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u32,
    start_time: u64,
}

impl Stat {
    fn parse(line: &[u8]) -> Option<Self> {
        // The command's name may hold anything, blanks, parentheses and bytes that are no text
        // included; the last parenthesis closes it.
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let mut fields = str::from_utf8(&line[end + 1..]).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let threads = fields.nth(16)?.parse().ok()?;
        Some(Self { state, threads, start_time: fields.nth(1)?.parse().ok()? })
    }

    /// A process whose first thread has ended looks like a zombie while others go on.
    fn lives(&self) -> bool {
        self.state != 'X' && (self.state != 'Z' || self.threads > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_a_hostile_name() {
        let line = b"42 (a) R 1 (\xff) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 777 2 3";
        let stat = Stat { state: 'S', threads: 3, start_time: 777 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse(b"42 (a) S 1"), None);
    }

    #[test]
    fn a_zombie_with_threads_lives() {
        let lives = |state, threads| Stat { state, threads, start_time: 0 }.lives();
        assert!(lives('S', 1) && lives('Z', 2));
        assert!(!lives('Z', 1) && !lives('Z', 0) && !lives('X', 1));
    }

    #[test]
    fn this_process_is_alive_and_not_another_one() {
        let pid = i32::try_from(std::process::id()).expect("pid");
        let time = start_time_of(pid).expect("stat");
        assert!(is_alive(pid, time));
        assert!(!is_alive(pid, time + 1));
    }
}
