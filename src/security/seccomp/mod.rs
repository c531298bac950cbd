//! Which system calls a container may make.
//!
//! A [`Profile`] (ours, or a file in Docker's format) with the container's capabilities comes to
//! the runtime spec's `linux.seccomp`, and [`compile()`] turns that into the program the kernel
//! runs before each call (seccomp(2), "Seccomp BPF").

mod compile;
mod ownership;
mod profile;
mod table;

pub use compile::{Instruction, compile};
pub use ownership::absorb_ownership;
pub use profile::Profile;
