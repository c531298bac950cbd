//! `--userns`: which ids a container has, and its files with them.

use std::{
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    engine::{Engine, volume::overlay::images},
    error::{Context as _, Error, Result},
    image::{
        layer::{Apply, Ownership},
        unpack::{InProcess, InUserNamespace},
    },
    state::record::{ContainerRecord, HostConfig, Mode, Storage, UserMode},
    sys::{
        fs::Time,
        user::{IdMaps, IdRange},
    },
};

impl Engine {
    /// The id maps of the user namespace that the container is in; root's usually has none.
    pub(in crate::engine) fn container_maps(
        &self,
        record: &ContainerRecord,
    ) -> Result<Option<IdMaps>> {
        let own = &record.host.namespaces.user;
        let mode = match self.shared_user_namespace(record)? {
            Some(other) => {
                let theirs = other.host.namespaces.user;
                let asked = matches!(own, UserMode::Container(_));
                if !asked && *own != UserMode::Default && *own != theirs {
                    return Err(Error::invalid(format!(
                        "--userns cannot be chosen: the container shares the namespaces of {}",
                        other.name
                    ))
                    .hint("leave it out; the ids are those of the other container"));
                }
                theirs
            }
            None => own.clone(),
        };
        let with = |ids| {
            self.check_mappable()?;
            Ok(Some(self.facts.id_maps_with(ids)))
        };
        match &mode {
            // Root's are all in the host's.
            UserMode::Default | UserMode::Host | UserMode::Container(_) => Ok(self.maps()),
            UserMode::Nomap if !self.facts.rootless() => Err(Error::unsupported(
                "--userns nomap leaves the caller out, and for root there is nobody to leave out",
            )
            .hint("--userns auto gives the container ids of its own")),
            UserMode::KeepId { size, .. } if !self.facts.rootless() => {
                let mut maps = IdMaps::identity();
                for range in maps.uid.iter_mut().chain(&mut maps.gid) {
                    range.size = size.unwrap_or(range.size);
                }
                Ok(Some(maps))
            }
            UserMode::Nomap => with(None),
            UserMode::KeepId { size, .. } => {
                let own = self.own_ids(&mode);
                Ok(with(own)?.map(|maps| match size {
                    Some(size) => cut(maps, *size, (self.facts.euid, self.facts.egid)),
                    None => maps,
                }))
            }
            UserMode::Auto(_) => Err(Error::engine("the container's ids have not been chosen")),
            UserMode::Own { maps, .. } => Ok(Some(maps.clone())),
            // Root's own: there is none to make.
            UserMode::Path(path) if !self.facts.rootless() && is_own(path)? => Ok(None),
            UserMode::Path(path) => {
                self.check_mappable()?;
                self.maps_at(path).map(Some)
            }
        }
    }

    /// The container whose user namespace this one is in: an ordinary user has rights over
    /// another's namespaces only from there.
    fn shared_user_namespace(&self, record: &ContainerRecord) -> Result<Option<ContainerRecord>> {
        let modes = &record.host.namespaces;
        let all = [&modes.pid, &modes.ipc, &modes.uts, &modes.cgroup, &modes.network];
        let asked = if let UserMode::Container(id) = &modes.user { Some(id) } else { None };
        let other = asked.or_else(|| {
            all.into_iter().find_map(|mode| match mode {
                Mode::Container(id) => Some(id),
                Mode::Private | Mode::None | Mode::Host | Mode::Path(_) | Mode::Program(_) => None,
            })
        });
        match other.filter(|_| self.facts.rootless() || asked.is_some()) {
            None => Ok(None),
            // It may itself be in a third one's.
            Some(id) => {
                let other = self.load(id)?.record;
                Ok(Some(self.shared_user_namespace(&other)?.unwrap_or(other)))
            }
        }
    }

    /// Where the caller's own ids are in maps that keep them.
    fn own_ids(&self, mode: &UserMode) -> Option<(u32, u32)> {
        match mode {
            UserMode::KeepId { uid, gid, .. } => {
                Some((uid.unwrap_or(self.facts.euid), gid.unwrap_or(self.facts.egid)))
            }
            UserMode::Default
            | UserMode::Host
            | UserMode::Nomap
            | UserMode::Auto(_)
            | UserMode::Own { .. }
            | UserMode::Container(_)
            | UserMode::Path(_) => None,
        }
    }

    /// Whether the container is root's and has a user namespace: files lie on disk with the ids
    /// that it sees, and are shown to it by id-mapped mounts.
    pub(in crate::engine) fn shifts(&self, record: &ContainerRecord) -> Result<bool> {
        Ok(!self.facts.rootless() && self.container_maps(record)?.is_some())
    }

    /// The id maps with which a container's files lie on disk.
    pub(in crate::engine) fn maps_on_disk(
        &self,
        record: &ContainerRecord,
    ) -> Result<Option<IdMaps>> {
        Ok(self.container_maps(record)?.filter(|_| self.facts.rootless()))
    }

    /// Refuses what cannot be shown with other ids.
    pub(super) fn check_shifts(&self, record: &ContainerRecord) -> Result<()> {
        if record.host.namespaces.user == UserMode::Default || !self.shifts(record)? {
            return Ok(());
        }
        if record.host.special.rootfs.as_ref().is_some_and(|rootfs| !rootfs.shifts) {
            return Err(Error::unsupported(
                "--rootfs: a user namespace of root's cannot use the directory as it is",
            )
            .hint("write --rootfs PATH:idmap"));
        }
        let hint =
            "leave --userns, --uidmap and --gidmap away; root's containers have root's ids then";
        if record.storage != Storage::Native {
            return Err(Error::unsupported(
                "a user namespace of root's takes the kernel's overlayfs: no other storage driver shows files with its ids",
            )
            .hint(hint));
        }
        if !self.facts.kernel.at_least(5, 19) {
            return Err(Error::unsupported(
                "a user namespace of root's takes Linux 5.19: overlays of id-mapped mounts",
            )
            .hint(hint));
        }
        Ok(())
    }

    pub(super) fn check_mappable(&self) -> Result<()> {
        if !self.facts.rootless() {
            return Ok(());
        }
        if !self.facts.has_sub_ids() {
            return Err(Error::unsupported(
                "--userns and --uidmap need subordinate ids, and this user has none",
            )
            .hint("`dhow doctor` prints the command that gives some"));
        }
        Ok(())
    }

    /// Podman's default user: with keep-id, who runs the command.
    pub(super) fn kept_user(&self, host: &HostConfig) -> Option<String> {
        let (uid, gid) = self.own_ids(&host.namespaces.user)?;
        Some(format!("{uid}:{gid}"))
    }

    /// Gives the new container's files the owners its ids ask for.
    pub(super) fn map_layers(&self, record: &ContainerRecord, staged: &Path) -> Result<()> {
        let Some((maps, usual)) = self.unusual_maps(record)? else { return Ok(()) };
        let how = Apply { ownership: Ownership::Keep, user_xattr: true };
        let helper = InUserNamespace::new(usual, how);
        let mounted = images(record).flat_map(|image| &image.layers);
        for layer in record.layers.iter().chain(mounted) {
            self.store.mapped_layer(layer, &maps, &helper)?;
        }
        helper.give_to_root_of(&staged.join("upper"), &maps)?;
        helper.give_to_root_of(&staged.join("work"), &maps)
    }

    /// Copies the new container's layers into one tree with the owners its ids ask for.
    pub(super) fn copy_layers(&self, record: &ContainerRecord, staged: &Path) -> Result<()> {
        let copies = staged.join("copy");
        let lowers: Vec<PathBuf> = match &record.build {
            Some(build) => build.lowers.iter().rev().cloned().collect(),
            None => record.layers.iter().map(|layer| self.layout.layer_diff(layer)).collect(),
        };
        let maps = self.unusual_maps(record)?.map(|(maps, _)| maps);
        let how = Apply { ownership: Ownership::Keep, user_xattr: self.facts.rootless() };
        let helper = self.maps().map(|usual| InUserNamespace::new(usual, how));
        match (&helper, &maps) {
            // There is an empty directory already.
            (Some(helper), Some(maps)) if lowers.is_empty() => {
                helper.give_to_root_of(&copies.join("diff"), maps)
            }
            _ if lowers.is_empty() => Ok(()),
            (Some(helper), maps) => helper.flatten(&lowers, &copies, maps.as_ref()),
            (None, _) => InProcess(how).flatten(&lowers, &copies),
        }
        .doing("copy the layers of the image")?;
        wait_for_clock(&copies)?;
        if !record.host.auto_remove && record.build.is_none() {
            // After a power cut a container that can be seen must be whole.
            let dir = File::open(&copies).at(&copies)?;
            nix::unistd::syncfs(&dir).at(&copies).doing("sync")?;
        }
        Ok(())
    }

    /// The copies of the container's layers that have its ids, topmost first; `None` if the
    /// layers themselves have, or there are none.
    pub(super) fn mapped_lowers(&self, record: &ContainerRecord) -> Result<Option<Vec<PathBuf>>> {
        let maps = self.unusual_maps(record)?.filter(|_| !record.layers.is_empty());
        let path = |(maps, _): (IdMaps, IdMaps)| {
            let layers = record.layers.iter().rev();
            layers.map(|layer| self.store.mapped_layer_path(layer, &maps)).collect()
        };
        maps.map(path).transpose()
    }

    /// The container's maps and those that layers are unpacked for, if they differ.
    pub(in crate::engine) fn unusual_maps(
        &self,
        record: &ContainerRecord,
    ) -> Result<Option<(IdMaps, IdMaps)>> {
        Ok(self.container_maps(record)?.zip(self.maps()).filter(|(maps, usual)| maps != usual))
    }
}

/// Whether the file stands for the user namespace that this process is in.
fn is_own(path: &Path) -> Result<bool> {
    let identity = |path: &Path| -> Result<(u64, u64)> {
        let meta = std::fs::metadata(path).at(path).doing("find the user namespace")?;
        Ok((meta.dev(), meta.ino()))
    };
    Ok(identity(path)? == identity(Path::new("/proc/self/ns/user"))?)
}

/// Waits until what is changed from now on has a later time than `dir`: it is by times that changes of a
/// copy are told, and those of files go on with the kernel's ticks.
fn wait_for_clock(dir: &Path) -> Result<()> {
    let stat = rustix::fs::stat(dir).map_err(Error::from).at(dir)?;
    let made = Time::changed(&stat);
    let home = dir.parent().unwrap_or(dir);
    loop {
        let new = tempfile::tempfile_in(home).at(home)?;
        let now = Time::changed(&rustix::fs::fstat(&new).map_err(Error::from).at(home)?);
        // A clock that was set back is not waited for.
        if now > made || now.seconds + 1 < made.seconds {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `maps` without the ids from `size` on, but for the caller's own.
fn cut(maps: IdMaps, size: u32, (euid, egid): (u32, u32)) -> IdMaps {
    let cut = |ranges: Vec<IdRange>, own: u32| -> Vec<IdRange> {
        let kept = |range: IdRange| match range.outside == own {
            true => Some(range),
            false => {
                let left = size.checked_sub(range.inside).filter(|left| *left > 0)?;
                Some(IdRange { size: range.size.min(left), ..range })
            }
        };
        ranges.into_iter().filter_map(kept).collect()
    };
    IdMaps { uid: cut(maps.uid, euid), gid: cut(maps.gid, egid) }
}
