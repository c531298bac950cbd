//! dhow: containers with no daemon, no root and no set-up.
//!
//! Rooms, lowest first; a module may use only what stands above it in this list, and the
//! mechanisms between `image` and `volume` do not use each other. `tests/it/layering.rs`
//! keeps it so.
//!
//! * [`error`]: how dhow fails.
//! * [`sys`]: safe names for kernel calls. The one home of `unsafe`.
//! * [`oci`]: the specifications' words and shapes; no I/O.
//! * [`state`]: the per-user directory: paths, records, locks, atomic writes.
//! * [`hello`]: the program of the built-in image; runs inside a container.
//! * [`build`]: the Dockerfile language; pure.
//! * [`image`]: blobs, references, registries, layers in and out.
//! * [`overlay`]: lowerdir/upperdir/workdir stacks.
//! * [`cgroup`]: cgroup v2 directories, limits, statistics, delegation.
//! * [`network`]: links, packet rules, addresses; the role that carries a user's traffic.
//! * [`security`]: capabilities, seccomp profile and compiler, id maps.
//! * [`volume`]: directories that outlive containers.
//! * [`run`]: plan, launch, exec, monitor, attach.
//! * [`engine`]: what a user can ask for, one verb a file.
//! * [`cli`]: arguments, output, progress.

pub mod build;
pub mod cgroup;
pub mod cli;
pub mod engine;
pub mod error;
pub mod hello;
pub mod image;
pub mod network;
pub mod oci;
pub mod overlay;
pub mod run;
pub mod security;
pub mod state;
pub mod sys;
pub mod volume;
