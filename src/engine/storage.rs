//! What containers' root file systems are made with: the kernel's overlayfs where it works on the
//! store's file system, else `fuse-overlayfs(1)`, else copies of the layers.
//!
//! Whether overlayfs works is found out by using it, once: that it does is noted for this boot,
//! kernel and file system. That it does not is never noted, and a start that fails takes the note
//! away, so neither a mended host nor a wrong note lasts. A container remembers what it was made
//! with, and is started with that whatever the host has become.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::Engine;
use crate::{
    error::{Context as _, Error, Result},
    state::{
        Layout,
        record::Storage,
        store::{Durability, read_json, write_json},
    },
    sys::host::{HostFacts, probe_fuse, probe_overlay},
};

/// What was found by trying each of them now.
#[derive(Debug)]
pub struct Storages {
    /// Why the kernel's overlayfs does not work.
    pub native: Result<()>,
    /// The program, or why there is none that works.
    pub fuse: Result<PathBuf>,
}

impl Storages {
    pub fn look(layout: &Layout, facts: &HostFacts) -> Self {
        Self { native: probe_overlay(layout.root()), fuse: fuse(facts) }
    }

    /// What new containers get, unless it was chosen.
    pub fn best(&self) -> Storage {
        match (&self.native, &self.fuse) {
            (Ok(()), _) => Storage::Native,
            (Err(_), Ok(_)) => Storage::Fuse,
            (Err(_), Err(_)) => Storage::Copy,
        }
    }
}

/// The `fuse-overlayfs` that can be used here.
pub fn fuse(facts: &HostFacts) -> Result<PathBuf> {
    let program = facts.fuse_overlayfs.clone().ok_or_else(|| {
        Error::unsupported("fuse-overlayfs is not installed")
            .hint("apt-get install fuse-overlayfs (Fedora: dnf install fuse-overlayfs)")
    })?;
    probe_fuse().map_err(|err| {
        err.hint("`sudo modprobe fuse`; /dev/fuse is for everyone with mode 0666")
    })?;
    Ok(program)
}

/// `facts.json`: where overlayfs was seen to work.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    boot_id: String,
    kernel: String,
    euid: u32,
    /// The store's file system (`stat(2)`, `st_dev`).
    device: u64,
}

impl Engine {
    /// What a container that is made now gets.
    pub(super) fn storage_for_new(&self) -> Result<Storage> {
        let asked = |err: Error| {
            err.context("use the storage driver that was asked for")
                .hint("leave --storage-driver and DHOW_STORAGE out, and dhow takes one that works")
        };
        match self.storage {
            Some(Storage::Copy) => Ok(Storage::Copy),
            Some(Storage::Fuse) => fuse(&self.facts).map(|_| Storage::Fuse),
            Some(Storage::Native) => self.native().map(|()| Storage::Native).map_err(asked),
            None => Ok(match self.native() {
                Ok(()) => Storage::Native,
                Err(err) => {
                    log::debug!("no native overlay: {err}");
                    fuse(&self.facts).map_or(Storage::Copy, |_| Storage::Fuse)
                }
            }),
        }
    }

    /// Whether the kernel's overlayfs works, tried only if that was not noted.
    fn native(&self) -> Result<()> {
        let root = self.layout.root();
        let now = Note {
            boot_id: self.facts.boot_id.clone(),
            kernel: self.facts.kernel.release.clone(),
            euid: self.facts.euid,
            device: fs::metadata(root).at(root)?.dev(),
        };
        // A note that cannot be read is one that is not there.
        if matches!(read_json::<Note>(&self.layout.facts()), Ok(Some(note)) if note == now) {
            return Ok(());
        }
        probe_overlay(root)?;
        if let Err(err) = write_json(&self.layout.facts(), &now, Durability::Renamed) {
            log::debug!("note that overlayfs works: {err}");
        }
        Ok(())
    }

    /// After something went wrong, what was noted is found out again.
    pub(super) fn forget_facts(&self) {
        let _ = fs::remove_file(self.layout.facts());
    }
}
