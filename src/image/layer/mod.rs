//! Layers: from a tar to a lowerdir.
//!
//! * [`entries`]: the tar, entry by entry, bounded and unambiguous.
//! * [`apply`]: one tar into one empty directory, in the form overlayfs wants.
//! * [`settle`]: what a layer owes to those below it, paid once they are complete.
//! * [`copy`]: lowerdirs with other owners, or merged into one tree.
//! * [`changes`]: an upperdir back to a list of changes, or to a layer's tar.
//! * [`seal`]: an upperdir becomes a layer where it is.
//! * [`compare`]: two stacks of lowerdirs against each other.
//! * [`extract`]: a tar into a directory that holds things already.
//! * [`tarball`]: writes tars of what is in directories.
//!
//! A layer is hostile until shown otherwise. Every path is resolved by the kernel beneath the
//! target directory, nothing outside it is read or written, and what cannot mean anything
//! safe is refused with the entry's name.

pub(super) mod apply;
mod changes;
mod compare;
mod copy;
pub(super) mod entries;
mod extract;
mod seal;
mod settle;
mod tarball;

pub use apply::{Applied, Apply, Ownership, apply};
pub use changes::{Change, ChangeKind, Form, Upper, changes, layer_tar};
pub use compare::compare;
pub use copy::{Changes, Marks, copy, copy_into};
pub use extract::{Extract, Owner, extract, restore};
pub use seal::{Sealed, seal, sealed_tar};
pub use settle::settle;
pub use tarball::{Dress, ModeChange, TarWriter};

#[cfg(test)]
mod mutations;
#[cfg(test)]
mod tests;
