//! A volume's files as a tar.

use std::{os::fd::BorrowedFd, path::PathBuf};

use super::Engine;
use crate::{
    engine::container::files::told,
    error::{Context as _, Error, Result},
    image::layer::{Extract, Owner},
    run::files::{Shown, Source, Task},
    state::store::Lock,
    volume::{
        self,
        driver::{Backing, Design},
    },
};

impl Engine {
    /// Writes all files of the volume as a tar, its own directory first; owners are as an ordinary
    /// container sees them.
    pub fn export_volume(&self, name: &str, out: BorrowedFd<'_>) -> Result<u64> {
        let (source, _pin) = self.files_of_volume(name)?;
        told(source.start(Task::Dump, out)?).doing_with(|| format!("export volume {name}"))
    }

    /// Extracts a tar, packed or not, into the volume, over what it holds.
    pub fn import_volume(&self, name: &str, tar: BorrowedFd<'_>) -> Result<u64> {
        let (source, _pin) = self.files_of_volume(name)?;
        // As where layers are unpacked: a single id is everybody's.
        let has_others = self.maps().is_none_or(|maps| !maps.is_single());
        let owner = if has_others { Owner::Told } else { Owner::Caller };
        let how = Extract { owner, overwrite: false };
        told(source.start(Task::Restore { how }, tar)?)
            .doing_with(|| format!("import into volume {name}"))
    }

    /// The directory of the host's with the volume's files.
    pub fn volume_directory(&self, name: &str) -> Result<PathBuf> {
        match Design::of(name, &self.volume(name)?.options)?.backing {
            Backing::Own => Ok(self.layout.volume(name).data()),
            Backing::Directory { source, .. } => Ok(source),
            Backing::FileSystem { kind, .. } => Err(only_in_containers(name, &kind)),
        }
    }

    fn files_of_volume(&self, name: &str) -> Result<(Source, Lock)> {
        let directory = self.volume_directory(name)?;
        let pin = volume::pin(&self.layout, name)?.ok_or_else(|| volume::no_such(name))?;
        let stopped = Some((Shown::Plain, directory, Vec::new()));
        Ok((Source { running: None, stopped, maps: self.maps() }, pin))
    }
}

fn only_in_containers(name: &str, kind: &str) -> Error {
    Error::unsupported(format!(
        "the files of volume {name} are on a {kind} that only containers mount"
    ))
    .hint(format!("dhow run --rm -v {name}:/v IMAGE tar -c -C /v . reads them inside"))
}
