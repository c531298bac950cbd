//! Trying what may be refused, in a child that is thrown away, so that the attempt changes
//! nothing here: neither this process's namespaces nor, if a seccomp filter kills, its life.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::{
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

use super::{process, user::IdMaps};
use crate::error::{Context as _, Result};

/// Why an attempt did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Which of the attempt's steps, in its own numbering, or [`NAMESPACE`](Self::NAMESPACE).
    pub step: u8,
    /// What the kernel answered.
    pub cause: Cause,
}

impl Refused {
    /// The user namespace to make the attempt in could not be made.
    pub const NAMESPACE: u8 = u8::MAX;
}

/// How the child came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A call failed.
    Error(Errno),
    /// The child was killed: SIGSYS is a seccomp filter's doing (`seccomp(2)`).
    Killed(Signal),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::Error(errno) => f.write_str(errno.desc()),
            Cause::Killed(signal) => write!(f, "killed by {signal}"),
        }
    }
}

/// How an attempt went, once it could be made.
pub type Outcome = std::result::Result<(), Refused>;

/// One step of an attempt: on failure its number and its errno.
pub type Step = std::result::Result<(), (u8, Errno)>;

/// Runs `body` in a forked child and says how it went. The outer error means that it could not
/// be tried at all.
///
/// `body` may make system calls and nothing else: in a copy of a process that had other threads,
/// a lock may be held for ever (`fork(2)`, "async-signal-safe"), so whatever it needs is
/// allocated before.
pub fn in_child(body: impl FnOnce() -> Step) -> Result<Outcome> {
    run(None, body)
}

/// As [`in_child`], as root of a new user namespace with these maps. That the maps could not be
/// written is the outer error, in the words of whoever refused.
pub fn in_user_namespace(maps: &IdMaps, body: impl FnOnce() -> Step) -> Result<Outcome> {
    run(Some(maps), body)
}

/// What a child in its new user namespace says when it needs its maps. No errno comes so short.
const UNMAPPED: [u8; 1] = [0];

fn run(maps: Option<&IdMaps>, body: impl FnOnce() -> Step) -> Result<Outcome> {
    let (mut report, mut reporter) = io::pipe().doing("make a pipe")?;
    let (mut mapped, mut mapper) = io::pipe().doing("make a pipe")?;
    // SAFETY: the child runs `body`, which by this module's contract only makes system calls,
    // then writes to a pipe and ends with `_exit`: it neither takes a lock another thread may
    // have held nor returns into the parent's code.
    let side = unsafe { fork() }.doing("fork")?;
    match side {
        ForkResult::Child => {
            drop(mapper);
            let entered = match maps {
                Some(_) => enter_user_namespace(&mut reporter, &mut mapped),
                None => Ok(()),
            };
            let outcome =
                entered.map_err(|errno| (Refused::NAMESPACE, errno)).and_then(|()| body());
            if let Err((step, errno)) = outcome {
                let [a, b, c, d] = (errno as i32).to_le_bytes();
                // A lost message reads as an unknown error, which is then the truth.
                let _ = reporter.write_all(&[step, a, b, c, d]);
                process::exit_now(1);
            }
            process::exit_now(0)
        }
        ForkResult::Parent { child } => {
            drop(reporter);
            let told = match maps {
                Some(maps) => answer_with_maps(maps, child, &mut report, &mut mapper),
                None => Ok(Vec::new()),
            };
            // Ends a child that still waits for maps.
            drop(mapper);
            let told = told.and_then(|mut told| {
                report.read_to_end(&mut told).doing("hear from the attempt")?;
                Ok(told)
            });
            let status = wait(child).doing("wait for the attempt")?;
            Ok(verdict(&told?, status))
        }
    }
}

/// The child's half of the maps: system calls only.
fn enter_user_namespace(
    reporter: &mut io::PipeWriter,
    mapped: &mut io::PipeReader,
) -> nix::Result<()> {
    let errno = |err: io::Error| Errno::from_raw(err.raw_os_error().unwrap_or(libc::EPIPE));
    unshare(CloneFlags::CLONE_NEWUSER)?;
    reporter.write_all(&UNMAPPED).map_err(errno)?;
    mapped.read_exact(&mut [0]).map_err(errno)?;
    process::become_root()
}

/// The parent's half: maps the child's ids, unless it has only a failure to tell. Gives back
/// what was read of that.
fn answer_with_maps(
    maps: &IdMaps,
    child: Pid,
    report: &mut io::PipeReader,
    mapper: &mut io::PipeWriter,
) -> Result<Vec<u8>> {
    let mut first = [0; 5];
    let length = report.read(&mut first).doing("hear from the attempt")?;
    if first[..length] != UNMAPPED {
        return Ok(first[..length].to_vec());
    }
    maps.write(child)?;
    mapper.write_all(&[1]).doing("let the attempt go on")?;
    Ok(Vec::new())
}

fn verdict(message: &[u8], status: WaitStatus) -> Outcome {
    match (message, status) {
        (_, WaitStatus::Signaled(_, signal, _)) => {
            Err(Refused { step: 0, cause: Cause::Killed(signal) })
        }
        (&[step, a, b, c, d], _) => {
            let errno = Errno::from_raw(i32::from_le_bytes([a, b, c, d]));
            Err(Refused { step, cause: Cause::Error(errno) })
        }
        (_, WaitStatus::Exited(_, 0)) => Ok(()),
        _ => Err(Refused { step: 0, cause: Cause::Error(Errno::UnknownErrno) }),
    }
}

fn wait(child: Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_refusal_and_death_are_told_apart() {
        assert_eq!(in_child(|| Ok(())).expect("tried"), Ok(()));
        let refused = Refused { step: 3, cause: Cause::Error(Errno::EPERM) };
        assert_eq!(in_child(|| Err((3, Errno::EPERM))).expect("tried"), Err(refused));
        let killed =
            in_child(|| nix::sys::signal::raise(Signal::SIGKILL).map_err(|errno| (0, errno)));
        let cause = Cause::Killed(Signal::SIGKILL);
        assert_eq!(killed.expect("tried"), Err(Refused { step: 0, cause }));
    }

    #[test]
    fn an_attempt_changes_nothing_here() {
        let before = std::fs::read_link("/proc/self/ns/uts").expect("readlink");
        let unshared = in_child(|| unshare(CloneFlags::CLONE_NEWUTS).map_err(|errno| (0, errno)));
        assert!(matches!(unshared, Ok(Ok(()) | Err(Refused { step: 0, .. }))));
        assert_eq!(std::fs::read_link("/proc/self/ns/uts").expect("readlink"), before);
    }

    #[test]
    fn a_mapped_child_is_root_inside_and_a_bad_map_is_told() {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let root = || match nix::unistd::getuid().is_root() {
            true => Ok(()),
            false => Err((7, Errno::EINVAL)),
        };
        match in_user_namespace(&IdMaps::single(uid, gid), root) {
            // A host that forbids user namespaces says so at that step and no other.
            Ok(outcome) => assert!(matches!(outcome, Ok(()) | Err(Refused { step: 255, .. }))),
            Err(err) => panic!("{err}"),
        }
        let mut twice = IdMaps::single(uid, gid);
        twice.uid.push(twice.uid[0]);
        assert!(in_user_namespace(&twice, root).is_err(), "overlapping ranges are no map");
    }
}
