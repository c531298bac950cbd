//! `cp` and `export`: the files of a container, whether it runs or not.

use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::start::outlast_mount;
use crate::{
    engine::{Engine, storage},
    error::{Context as _, Error, Result},
    image::layer::{Extract, Owner},
    run::files::{self, Outcome, Shown, Source, Task, Worker},
    state::{
        ContainerId,
        record::{ContainerRecord, MountKind, Storage},
        store::Lock,
    },
    sys::{channel, fs::Root},
    volume::driver::Backing,
};

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Container(ContainerId, String),
    /// Absolute; what it ends in is as it was typed.
    Host(String),
}

/// How to copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Owners as they are.
    pub archive: bool,
    /// A link at the end of the source's path is followed.
    pub follow: bool,
    /// A directory may take the place of something else, and the other way round.
    pub overwrite: bool,
}

impl CopyOptions {
    /// Docker gives what comes from outside to the container's root.
    fn into_container(self) -> Extract {
        let owner = if self.archive { Owner::Told } else { Owner::Fixed(0, 0) };
        Extract { owner, overwrite: self.overwrite }
    }

    fn into_host(self) -> Extract {
        let owner = if self.archive { Owner::Told } else { Owner::Caller };
        Extract { owner, overwrite: self.overwrite }
    }
}

/// A container's files, and what keeps it from being started meanwhile if it does not run.
pub(in crate::engine) struct Held {
    source: Source,
    lock: Option<Lock>,
}

impl Held {
    pub(in crate::engine) fn into_parts(self) -> (Source, Option<Lock>) {
        (self.source, self.lock)
    }
}

impl Engine {
    /// Copies by the rules of `docker cp`; how many bytes went by.
    pub fn copy(&self, from: &Place, to: &Place, options: CopyOptions) -> Result<u64> {
        let (reader, writer) = channel::pipe().doing("create a pipe")?;
        // A container that is both ends is held once: a lock of its own would be waited for.
        let (sent, received) = match (from, to) {
            (Place::Container(from, path), Place::Container(to, target)) => {
                if from == to {
                    return Err(Error::unsupported(
                        "copying within one container is not supported",
                    )
                    .hint(format!("`dhow exec {} cp ...` does it inside", from.short())));
                }
                let (source, target_files) = (self.files(from)?, self.files(to)?);
                let get = Task::Get { path: path.clone(), follow: options.follow };
                let sender = source.source.start(get, writer.as_fd())?;
                let put = Task::Put { path: target.clone(), how: options.into_container() };
                let receiver = target_files.source.start(put, reader.as_fd())?;
                drop((reader, writer));
                (sender.finish(), receiver.finish())
            }
            (Place::Container(id, path), Place::Host(target)) => {
                let held = self.files(id)?;
                let get = Task::Get { path: path.clone(), follow: options.follow };
                let sender = held.source.start(get, writer.as_fd())?;
                drop(writer);
                let received = files::put(&host()?, target, options.into_host(), reader);
                (sender.finish(), received)
            }
            (Place::Host(path), Place::Container(id, target)) => {
                let held = self.files(id)?;
                let put = Task::Put { path: target.clone(), how: options.into_container() };
                let receiver = held.source.start(put, reader.as_fd())?;
                drop(reader);
                let sent = files::get(&host()?, path, options.follow, writer);
                (sent, receiver.finish())
            }
            (Place::Host(_), Place::Host(_)) => {
                return Err(Error::invalid("must specify at least one container source")
                    .hint("write CONTAINER:PATH for one of the two"));
            }
        };
        for (place, action) in [(from, "archive-path"), (to, "extract-to-dir")] {
            if let Place::Container(id, path) = place
                && let Ok(container) = self.load(id)
            {
                self.note_with(&container.record, action, "path", path);
            }
        }
        // What was cut short has its cause on the other side.
        match (sent, received) {
            (Outcome::Failed(err), _) | (_, Outcome::Failed(err)) => Err(err),
            (_, Outcome::Done(size)) => Ok(size),
            (_, Outcome::Cut) => Err(Error::engine("the copy was cut short")),
        }
    }

    /// Writes one path as a tar.
    pub fn copy_out(
        &self,
        id: &ContainerId,
        path: &str,
        follow: bool,
        out: BorrowedFd<'_>,
    ) -> Result<u64> {
        let task = Task::Tar { path: path.to_owned(), follow };
        let size = told(self.files(id)?.source.start(task, out)?)?;
        self.note_with(&self.load(id)?.record, "archive-path", "path", path);
        Ok(size)
    }

    /// Extracts a tar into the directory at `path`.
    pub fn copy_in(
        &self,
        id: &ContainerId,
        path: &str,
        options: CopyOptions,
        tar: BorrowedFd<'_>,
    ) -> Result<u64> {
        // Owners in a tar that somebody made are meant: docker keeps them here.
        let how = Extract { owner: Owner::Told, overwrite: options.overwrite };
        let task = Task::Untar { path: path.to_owned(), how };
        let size = told(self.files(id)?.source.start(task, tar)?)?;
        self.note_with(&self.load(id)?.record, "extract-to-dir", "path", path);
        Ok(size)
    }

    /// Writes the whole root file system as a tar, without what is mounted in it.
    pub fn export(&self, id: &ContainerId, out: BorrowedFd<'_>) -> Result<u64> {
        let size = self.export_to(id, out)?;
        self.note(&self.load(id)?.record, "export");
        Ok(size)
    }

    /// As [`export`](Self::export), untold.
    pub(super) fn export_to(&self, id: &ContainerId, out: BorrowedFd<'_>) -> Result<u64> {
        told(self.files(id)?.source.start(Task::Export, out)?)
    }

    pub(in crate::engine) fn files(&self, id: &ContainerId) -> Result<Held> {
        self.settled(id)?;
        let container = self.load(id)?;
        let paths = self.layout.container(id);
        if let Some(process) = container.status.made() {
            let maps = self.container_maps(&container.record)?;
            let init = self.init_pidfd(process)?;
            let root = format!("/proc/{}/root", process.init.pid).into();
            let source = Source { running: Some((root, init)), stopped: None, maps };
            return Ok(Held { source, lock: None });
        }
        let lock = Lock::exclusive(paths.dir())?;
        let container = self.load(id)?;
        if container.status.made().is_some() {
            drop(lock);
            return self.files(id);
        }
        outlast_mount(&paths)?;
        let record = container.record;
        let mut stack = self.stack(&record, Some(&paths));
        if let Some(lowers) = self.mapped_lowers(&record)? {
            stack.lowers = lowers;
        }
        // What is copied into it must stay, and a later start finds no mark of this mount.
        stack.volatile = false;
        if record.host.auto_remove {
            crate::run::discard::remove_tree(&paths.work().join("work"))?;
        }
        let mounted = self.mounted_before(&record);
        let plain = record.own_directory().map(Path::to_owned).or(mounted);
        let (shown, target) = match (plain, record.storage) {
            (Some(dir), _) => (Shown::Plain, dir),
            (None, Storage::Native) => (Shown::Overlay(stack), paths.rootfs()),
            (None, Storage::Fuse) => {
                (Shown::Fuse(stack, storage::fuse(&self.facts)?), paths.rootfs())
            }
            (None, Storage::Copy) => (Shown::Plain, paths.copy()),
        };
        let stopped = Some((shown, target, self.binds(&record)?));
        let maps = self.maps_on_disk(&record)?;
        Ok(Held { source: Source { running: None, stopped, maps }, lock: Some(lock) })
    }

    /// What of the host's a container that does not run would have mounted, and where.
    fn binds(&self, record: &ContainerRecord) -> Result<Vec<(PathBuf, PathBuf)>> {
        let volumes = self.volume_sources(record, false)?;
        let mut binds = Vec::new();
        for mount in &record.host.mounts {
            // What is written over it is not the host's, and gone by now.
            if mount.options.iter().any(|option| option == "O") {
                continue;
            }
            let source = match &mount.kind {
                MountKind::Bind { source, .. } => source,
                MountKind::Volume(volume) => {
                    if !volume.subpath.is_empty() {
                        // Where it leads is known only to who mounts it.
                        return Err(Error::unsupported(format!(
                            "container {} has a part of the volume {} mounted, which is there only while it runs",
                            record.name, volume.name
                        ))
                        .hint(format!("`dhow start {}` first", record.name)));
                    }
                    match volumes.get(&volume.name) {
                        Some(Backing::Directory { source, .. }) => source,
                        Some(Backing::Own | Backing::FileSystem { .. }) | None => continue,
                    }
                }
                MountKind::Image(_) | MountKind::Tmpfs | MountKind::Ramfs | MountKind::Devpts => {
                    continue;
                }
            };
            binds.push((source.clone(), (&mount.target).into()));
        }
        Ok(binds)
    }
}

fn host() -> Result<Root> {
    Root::open(Path::new("/")).at("/")
}

pub(in crate::engine) fn told(worker: Worker) -> Result<u64> {
    match worker.finish() {
        Outcome::Done(size) => Ok(size),
        // The reader has what it wanted, as `head` does.
        Outcome::Cut => Ok(0),
        Outcome::Failed(err) => Err(err),
    }
}

/// A file to write to, for [`Engine::export`].
pub fn create(path: &Path) -> Result<OwnedFd> {
    File::create(path).map(OwnedFd::from).at(path).doing("create")
}
