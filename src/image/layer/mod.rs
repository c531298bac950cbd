//! Layers: from a tar to a lowerdir.
//!
//! * [`entries`]: the tar, entry by entry, bounded and unambiguous.
//! * [`apply`]: one tar into one empty directory, in the form overlayfs wants.
//! * [`settle`]: what a layer owes to those below it, paid once they are complete.
//! * [`copy`]: lowerdirs with other owners, or merged into one tree.
//!
//! A layer is hostile until shown otherwise. Every path is resolved by the kernel beneath the
//! target directory, nothing outside it is read or written, and what cannot mean anything
//! safe is refused with the entry's name.

pub(super) mod apply;
mod copy;
pub(super) mod entries;
mod settle;

pub use apply::{Applied, Apply, Ownership, apply};
pub use copy::{Changes, copy};
pub use settle::settle;

#[cfg(test)]
mod tests;
