//! Safe names for the kernel calls dhow makes.
//!
//! Nothing here knows what a container is: these modules speak of processes, descriptors and
//! mounts. They are the only ones allowed to write `unsafe`, so that a reviewer who worries
//! about memory safety reads this folder and nothing else.
#![allow(unsafe_code)]

pub mod attempt;
pub mod bpf;
pub mod channel;
pub mod dbus;
pub mod entry;
pub mod fd;
pub mod fs;
pub mod handoff;
#[cfg(target_env = "musl")]
pub mod heap;
pub mod host;
pub mod inside;
pub mod mount;
pub mod net;
pub mod netlink;
pub mod process;
pub mod quota;
pub mod script;
pub mod signal;
pub mod tty;
pub mod user;

use nix::errno::Errno;

/// rustix's error numbers as nix's: two crates' names for the kernel's own.
pub fn errno(err: rustix::io::Errno) -> Errno {
    Errno::from_raw(err.raw_os_error())
}
