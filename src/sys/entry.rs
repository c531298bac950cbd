//! Where the program begins, when it is not begun by Rust's own runtime.
//!
//! That runtime reads `/proc/self/maps` and sets up a signal stack, so as to put a stack
//! overflow into words. dhow begins three times for one container, and this is a tenth of the
//! time each takes. What it does besides is done here.

use std::{
    ffi::{CStr, OsStr, OsString, c_char},
    os::{fd::IntoRawFd, unix::ffi::OsStrExt as _},
};

use nix::sys::signal::{SigHandler, Signal};
use rustix::fs::{Mode, OFlags};

use super::process::SingleThreaded;

/// Makes `$main`, which takes the arguments and returns an `ExitCode`, the program.
///
/// `std::env::args` is not to be asked: only glibc tells `std` of them before this. The environment
/// is there as usual, and what is buffered for stdout is written at the end.
#[macro_export]
macro_rules! begin_with {
    ($main:path) => {
        // SAFETY: the C library calls `main` once, and nothing else in the program has the name:
        // `no_main` keeps rustc from making one.
        #[unsafe(no_mangle)]
        extern "C" fn main(count: i32, arguments: *const *const std::ffi::c_char) -> i32 {
            $crate::sys::entry::prepare();
            // SAFETY: as the C library passes them to `main`.
            let arguments = unsafe { $crate::sys::entry::arguments(count, arguments) };
            let code: std::process::ExitCode = $main(arguments);
            $crate::sys::entry::end(code)
        }
    };
}

/// The three standard streams are open, and writing where nobody reads is an error, not a death.
pub fn prepare() {
    // Otherwise the next files that are opened would be taken for them: the lowest number free
    // is the one that open(2) gives.
    for number in 0..=2 {
        // SAFETY: F_GETFD takes no pointer and is answered with EBADF if the number is not open.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty());
            let _ = null.map(IntoRawFd::into_raw_fd);
        }
    }
    ignore_broken_pipes();
}

/// Writing where nobody reads is an error (EPIPE), not a death.
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is no handler: no code of ours runs in signal context.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn) };
}

/// The arguments of `main` as Rust's.
///
/// # Safety
/// `arguments` points at `count` strings.
pub unsafe fn arguments(count: i32, arguments: *const *const c_char) -> Vec<OsString> {
    let count = usize::try_from(count).unwrap_or(0);
    let at = |index| {
        // SAFETY: one of `count` pointers, as the caller promises.
        let place = unsafe { arguments.add(index) };
        // SAFETY: as above.
        let argument = unsafe { place.read() };
        // SAFETY: a string, as the caller promises.
        let argument = unsafe { CStr::from_ptr(argument) };
        OsStr::from_bytes(argument.to_bytes()).to_owned()
    };
    (0..count).map(at).collect()
}

/// Sets a variable of the environment, for whoever reads it later and for children.
#[expect(clippy::disallowed_methods, reason = "the one place, with the proof that it races nobody")]
pub fn set_variable(name: &str, value: &std::ffi::OsStr, _alone: &SingleThreaded) {
    // SAFETY: no other thread runs that could read the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
}

/// As returning from Rust's `main`.
pub fn end(code: std::process::ExitCode) -> ! {
    // There is no other way to the number.
    let number = (0..=u8::MAX).find(|number| code == (*number).into());
    #[expect(clippy::exit, reason = "this is the end of main")]
    std::process::exit(number.map_or(1, i32::from))
}
