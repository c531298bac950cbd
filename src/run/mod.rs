//! Turning a bundle into a running process, and staying with it.
//!
//! [`plan`] decides and touches nothing; [`launch`] acts and decides nothing. Everything that
//! can be refused is refused while planning, when there is no process yet to clean up after.

pub mod attach;
pub mod discard;
pub mod exec;
mod failure;
pub mod files;
pub mod fuse;
pub mod gate;
mod handshake;
mod health;
mod hooks;
pub mod launch;
pub mod log;
pub mod monitor;
pub(crate) mod options;
pub mod pick;
pub mod plan;
pub mod process;
mod reaper;
mod rootfs;
mod shift;
pub mod spec;
pub mod wire;

pub use launch::{Started, Stdio, Streams, launch};
pub use plan::{Plan, Step};
