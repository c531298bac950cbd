//! `mount`: a container's files as a directory of this host.
//!
//! As for images, the kernel knows what is mounted, and an ordinary user mounts in a mount
//! namespace of their own (`dhow unshare`). Of a container that runs it is the very mount that it
//! has; of one that does not, an overlay, which the next start takes over: an upperdir is for
//! one overlay only.

use std::{
    fs::File,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};

use super::start::outlast_mount;
use crate::{
    engine::{
        Engine,
        image::mount::{ROOTFS, is_mounted, may_mount, take_away},
    },
    error::{Context as _, Error, Result},
    run::discard,
    state::{
        ContainerId,
        record::{ContainerRecord, ProcessIdentity, Storage, UserMode},
        store::{Durability, Lock, create_private_dir, write_json},
    },
    sys::mount::{self, ATTR_NODEV, Attributes, clone_path},
};

impl Engine {
    /// Mounts the container's root file system, unless it is mounted; where.
    pub fn mount_container(&self, id: &ContainerId) -> Result<PathBuf> {
        may_mount(self, "mount")?;
        self.settled(id)?;
        let paths = self.layout.container(id);
        let _lock = Lock::exclusive(paths.dir())?;
        let container = self.load(id)?;
        let mut record = container.record;
        let home = self.layout.container_mount(id);
        let rootfs = home.join(ROOTFS);
        if is_mounted(&home) {
            return Ok(rootfs);
        }
        check_mountable(&record)?;
        create_private_dir(&home)?;
        create_private_dir(&rootfs)?;
        let target = File::open(&rootfs).at(&rootfs)?;
        let inside = self.in_user_namespace();
        if inside && !matches!(record.host.namespaces.user, UserMode::Default | UserMode::Host) {
            return Err(Error::unsupported(format!(
                "container {} has other ids than `dhow unshare` has",
                record.name
            ))
            .hint("`dhow cp` and `dhow export` read its files"));
        }
        if let Some(process) = container.status.made() {
            if inside {
                return Err(Error::unsupported(format!(
                    "container {} runs: what it has mounted is root's to show",
                    record.name
                ))
                .hint("`dhow cp` and `dhow export` read its files"));
            }
            let tree = tree_of(process.init)?;
            mount::attach(tree.as_fd(), target.as_fd()).at(&rootfs).doing("mount")?;
        } else if record.is_stacked() {
            outlast_mount(&paths)?;
            let mut stack = self.stack(&record, Some(&paths));
            stack.user_xattr = inside;
            stack.volatile = false;
            let open = stack.open().doing("open the container's files")?;
            open.mount(target.as_fd()).doing_with(|| format!("mount {}", rootfs.display()))?;
        } else {
            let own = record.own_directory().map_or_else(|| paths.copy(), Path::to_path_buf);
            let tree = clone_path(&own, false).at(&own)?;
            mount::attach(tree.as_fd(), target.as_fd()).at(&rootfs).doing("mount")?;
        }
        // Devices open for nobody here, as for nobody inside.
        let top = File::open(&rootfs).at(&rootfs)?;
        let nodev = Attributes { set: ATTR_NODEV, ..Attributes::default() };
        mount::set_attributes(top.as_fd(), false, nodev).doing("restrict the mount")?;
        // A namespace of one's own nobody else sees, a start included.
        if record.is_stacked() && !inside && !record.host.special.mounted {
            record.host.special.mounted = true;
            write_json(&paths.record(), &record, Durability::Renamed)?;
        }
        self.note(&record, "mount");
        Ok(rootfs)
    }

    /// Takes the container's mount away, by force even if it is in use. Whether it had one.
    pub fn unmount_container(&self, id: &ContainerId, force: bool) -> Result<bool> {
        may_mount(self, "unmount")?;
        let home = self.layout.container_mount(id);
        if !is_mounted(&home) {
            return Ok(false);
        }
        let paths = self.layout.container(id);
        let _lock = Lock::exclusive(paths.dir())?;
        take_away(&home, force)?;
        let mut record = self.load(id)?.record;
        if record.host.special.mounted {
            record.host.special.mounted = false;
            write_json(&paths.record(), &record, Durability::Renamed)?;
        }
        self.note(&record, "unmount");
        Ok(true)
    }

    /// Where the container is mounted, if it is.
    pub fn mount_of_container(&self, id: &ContainerId) -> Option<PathBuf> {
        let home = self.layout.container_mount(id);
        is_mounted(&home).then(|| home.join(ROOTFS))
    }

    /// The overlay that `mount` made and a start must use, if there is one.
    pub(super) fn mounted_before(&self, record: &ContainerRecord) -> Option<PathBuf> {
        if !record.host.special.mounted {
            return None;
        }
        self.mount_of_container(&record.id)
    }
}

fn check_mountable(record: &ContainerRecord) -> Result<()> {
    if record.host.auto_remove {
        return Err(Error::unsupported(format!(
            "container {} goes with its end, and a mount would stay",
            record.name
        ))
        .hint("`dhow cp` and `dhow export` read its files"));
    }
    if record.storage == Storage::Fuse {
        return Err(Error::unsupported(format!(
            "the files of container {}, which fuse-overlayfs shows, are seen in the container only",
            record.name
        ))
        .hint("`dhow cp` and `dhow export` read them"));
    }
    Ok(())
}

/// The root mount of a process, as a mount that is attached nowhere. Only a process in the same
/// mount namespace may clone it, and so this one goes there and back.
fn tree_of(init: ProcessIdentity) -> Result<OwnedFd> {
    let own = File::open("/proc/self/ns/mnt").at("/proc/self/ns/mnt")?;
    let path = format!("/proc/{}/ns/mnt", init.pid);
    let theirs = File::open(&path).at(&path)?;
    if discard::living(init).is_none() {
        return Err(Error::conflict("the container has just ended"));
    }
    let here = std::env::current_dir().doing("find the current directory")?;
    setns(&theirs, CloneFlags::CLONE_NEWNS).doing("enter the container's mount namespace")?;
    let tree = clone_path(Path::new("/"), false).doing("hold the container's root file system");
    setns(&own, CloneFlags::CLONE_NEWNS).doing("leave the container's mount namespace")?;
    // It is the root directory after that.
    let _ = std::env::set_current_dir(here);
    tree
}
