//! Descriptors: where they come from and where they end up.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::errno;

/// An anonymous file in memory (memfd_create(2)).
pub fn memory(name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).map_err(super::errno)
}

/// What a memfd that allows sealing holds stays as it is (fcntl(2), "File Sealing").
pub fn seal(memfd: BorrowedFd<'_>) -> Result<(), Errno> {
    use rustix::fs::SealFlags;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(memfd, seals).map_err(errno)
}

/// Takes ownership of descriptors that the kernel just installed for this process: those of an
/// `SCM_RIGHTS` message (unix(7)).
pub fn adopt(fds: Vec<RawFd>) -> Vec<OwnedFd> {
    // SAFETY: recvmsg made each of these for us, and the list is consumed, so nobody else owns
    // or closes them.
    fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// Takes ownership of a descriptor that this process was started with, by its agreed number.
/// `None` if it is not open, or is one of 0, 1 and 2. Call once for each number.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    if number <= 2 {
        return None;
    }
    // SAFETY: F_GETFD takes no pointer and is answered with EBADF if the number is not open.
    let open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    // SAFETY: the number is open, and by the agreement between the two roles nobody else in
    // this process, which has only just begun, owns it.
    open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `fd` also the descriptor numbered `target`, open across `execve` (`dup2(2)`).
///
/// Meant for 0, 1 and 2, which no Rust value owns.
pub fn install(fd: BorrowedFd<'_>, target: RawFd) -> Result<(), Errno> {
    // SAFETY: two descriptor numbers. Whatever `target` was is closed; callers pass standard
    // streams or numbers they agreed on with the program they are about to become.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), target) })?;
    if fd.as_raw_fd() == target {
        keep_across_exec(fd)?;
    }
    Ok(())
}

/// Clears close-on-exec.
pub fn keep_across_exec(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(errno)
}

/// Whether `number` is a descriptor of whoever started this program: dhow's own are all
/// close-on-exec.
pub fn is_callers(number: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer and is answered with EBADF if the number is not open.
    number > 2 && unsafe { libc::fcntl(number, libc::F_GETFD) } == 0
}

/// Clears close-on-exec of a descriptor that no Rust value owns.
pub fn keep_number_across_exec(number: RawFd) -> Result<(), Errno> {
    // SAFETY: F_SETFD takes a number, and is answered with EBADF if it is not open.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).map(drop)
}
