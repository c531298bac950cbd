//! Images: blobs, references, registries, layers in and out.
//!
//! Nothing here mounts, and nothing here prints: what a transfer is doing is told to a
//! [`Progress`], what a layer's tar becomes on disk is decided by an [`Unpack`].

pub mod addition;
pub mod archive;
pub mod builtin;
pub mod collect;
pub mod config;
mod find;
pub mod ingest;
pub mod layer;
pub mod list;
pub mod lock;
mod packing;
mod places;
pub mod pull;
pub mod push;
pub mod registry;
pub mod steps;
pub mod store;
pub mod tarball;
pub mod trust;
pub mod unpack;
pub mod variant;

use std::{
    io::Read,
    path::{Path, PathBuf},
};

pub use addition::{Addition, BlobWriter};
pub use packing::Frames;
pub use store::{Image, ImageRecord, LayerRef, NameRecord, Store};
pub use tarball::Tarball;

use crate::{error::Result, oci::Digest};

/// Turns layers into directories, and removes such directories again.
///
/// An ordinary user needs a user namespace for both, since a layer's files belong to
/// subordinate ids; the implementation knows whether one is needed and how to get it.
pub trait Unpack: Sync {
    /// Unpacks one uncompressed layer tar into the empty directory `target`, reading `tar` to
    /// its end. Called for several layers at once.
    fn unpack(&self, tar: &mut dyn Read, target: &Path) -> Result<Unpacked>;

    /// Gives the directories that `target`'s tar implied but did not hold the owner, mode and
    /// times they have in the layers below (`below`, topmost first; root and 0755 if in none).
    ///
    /// Layers are unpacked in any order and side by side, so this is asked once those below are
    /// complete, and only if [`Unpacked::implied`] is not empty.
    fn settle(&self, target: &Path, implied: &[PathBuf], below: &[PathBuf]) -> Result<()>;

    /// Removes `tree` and everything in it, never through a symbolic link.
    fn remove(&self, tree: &Path) -> Result<()>;
}

/// Makes layers of upperdirs, where they are.
pub trait Seal: Unpack {
    /// Copies the lowerdirs `layers`, bottom first and all called `diff`, into the `diff` of `target`, which
    /// then shows and hides what they do together.
    fn stack(&self, layers: &[PathBuf], target: &Path) -> Result<()>;

    /// The same, with what they show alone.
    fn merge(&self, layers: &[PathBuf], target: &Path) -> Result<()>;

    /// Writes what is changed in `dir`, which lies on `lowers` (topmost first), into `file`; see
    /// [`layer::layer_tar`].
    fn layer_tar(
        &self,
        dir: &Path,
        lowers: &[PathBuf],
        how: &Sealing,
        form: layer::Form,
        file: &std::fs::File,
    ) -> Result<()>;

    /// Makes a layer of `upper`, which lies on `lowers` (topmost first) and nobody changes
    /// meanwhile; see [`layer::seal`].
    fn seal(&self, upper: &Path, lowers: &[PathBuf], how: &Sealing) -> Result<layer::Sealed>;

    /// Writes the tar of a layer made that way.
    fn sealed_tar(&self, layer: &Path, file: &std::fs::File) -> Result<()>;
}

/// What is no part of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sealing {
    /// What was made to mount something on; relative to the root.
    pub places: Vec<Vec<u8>>,
    /// The same, unless something else is in them.
    pub made: Vec<Vec<u8>>,
    /// Later times (seconds since 1970).
    pub latest: Option<i64>,
}

/// What became of a layer's tar.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of file content; what `docker history` calls the layer's size.
    pub size: u64,
    /// Directories made because an entry lies in them, without an entry of their own; relative
    /// to the layer's root, parents first.
    pub implied: Vec<PathBuf>,
}

/// Hears what a transfer is doing; called from several threads.
pub trait Progress: Sync {
    /// The layer, by its blob's digest (when pushing, by its diffID), is at this step.
    fn layer(&self, layer: &Digest, event: Event);

    /// The layer, by its diffID, was taken from another repository of the registry.
    fn mounted(&self, _layer: &Digest, _from: &str) {}
}

/// One step in the life of a layer's transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It will be fetched.
    Waiting {
        /// Bytes of the blob.
        total: u64,
    },
    /// Compressed bytes that have arrived, those of an earlier attempt included. They are
    /// unpacked as they arrive.
    Downloading {
        /// Bytes so far.
        done: u64,
        /// Bytes of the blob.
        total: u64,
    },
    /// It is here as a blob already, and is being unpacked from it.
    Unpacking {
        /// Bytes so far.
        done: u64,
        /// Bytes of the blob.
        total: u64,
    },
    /// Everything has arrived; the layers below it are not complete yet.
    Settling,
    /// Complete and verified.
    Done,
    /// Nothing had to be done.
    Exists,
    /// It will be sent. What is pushed is told by its diffID: its blob may not be made yet.
    Preparing,
    /// Bytes of the blob that are through.
    Pushing {
        /// Bytes so far.
        done: u64,
        /// Bytes of the blob.
        total: u64,
    },
    /// The registry has it.
    Pushed,
    /// The registry had it.
    There,
}

/// Progress for callers that have nobody to tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn layer(&self, _layer: &Digest, _event: Event) {}
}

#[cfg(test)]
mod mutate;
