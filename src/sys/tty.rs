//! Terminals: pseudo-terminal pairs, raw mode, window sizes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::termios::{LocalFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
};

use super::errno;

/// Rows and columns (`ioctl_tty(2)`, TIOCGWINSZ).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub columns: u16,
    pub rows: u16,
}

/// The size of the terminal behind `fd`, if it is one.
pub fn window(fd: BorrowedFd<'_>) -> Option<Window> {
    let size = rustix::termios::tcgetwinsize(fd).ok()?;
    Some(Window { columns: size.ws_col, rows: size.ws_row })
}

/// Tells the terminal behind `fd` its size; the foreground process group gets SIGWINCH.
pub fn set_window(fd: BorrowedFd<'_>, window: Window) -> Result<(), Errno> {
    let size = rustix::termios::Winsize {
        ws_col: window.columns,
        ws_row: window.rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(fd, size).map_err(errno)
}

pub fn is_terminal(fd: impl AsFd) -> bool {
    rustix::termios::isatty(fd)
}

/// Opens the slave of the pseudo-terminal `master` without any path (`ioctl_tty(2)`,
/// TIOCGPTPEER, Linux 4.13), and unlocks it first.
pub fn open_slave(master: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which lives until the call returns.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value.
    let fd = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the call succeeded, so this is a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes `slave` the controlling terminal of this session leader (TIOCSCTTY).
pub fn take_control(slave: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes a plain integer; 0 steals from nobody.
    Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// The terminal in raw mode (termios(3)), restored when dropped.
#[derive(Debug)]
pub struct RawMode<'fd> {
    fd: BorrowedFd<'fd>,
    before: Termios,
}

impl<'fd> RawMode<'fd> {
    pub fn enter(fd: BorrowedFd<'fd>) -> Result<Self, Errno> {
        let before = tcgetattr(fd)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(fd, SetArg::TCSADRAIN, &raw)?;
        Ok(Self { fd, before })
    }
}

/// The terminal without echo (termios(3), ECHO), for a password; restored when dropped.
#[derive(Debug)]
pub struct HiddenInput<'fd> {
    fd: BorrowedFd<'fd>,
    before: Termios,
}

impl<'fd> HiddenInput<'fd> {
    pub fn of(fd: BorrowedFd<'fd>) -> Result<Self, Errno> {
        let before = tcgetattr(fd)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(fd, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { fd, before })
    }
}

impl Drop for HiddenInput<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.fd, SetArg::TCSADRAIN, &self.before);
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.fd, SetArg::TCSADRAIN, &self.before);
    }
}
