//! `image mount`: an image's files as a directory of this host, read-only.
//!
//! What is mounted the kernel knows; nothing is noted. A mount is of the mount namespace that it
//! was made in, so an ordinary user makes it in one of their own (`dhow unshare`), with which it
//! goes again.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    image::Image,
    oci::Digest,
    overlay,
    state::store::{Lock, create_private_dir},
    sys::mount::{self, ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY, Attributes},
};

impl Engine {
    /// Mounts the image that `typed` means, unless it is mounted; where.
    pub fn mount_image(&self, typed: &str) -> Result<PathBuf> {
        let image = self.image(typed)?;
        may_mount(self, "image mount")?;
        let id = &image.record.id;
        let gone = || Error::not_found(format!("No such image: {typed}"));
        let _pin = self.store.pin(id)?.ok_or_else(gone)?;
        let home = self.layout.image_mount(id);
        let (rootfs, empty) = (home.join(ROOTFS), home.join("empty"));
        create_private_dir(&home)?;
        let _lock = Lock::exclusive(&home)?;
        if is_mounted(&home) {
            return Ok(rootfs);
        }
        for dir in [&rootfs, &empty] {
            create_private_dir(dir)?;
        }
        // Without an upperdir the kernel wants two lowerdirs, and whiteouts of the only layer are
        // not to be seen.
        let mut lowers = self.lowers_of(&image);
        lowers.push(empty);
        if lowers.len() == 1 {
            return Err(Error::unsupported(format!("image {typed} has no layers")));
        }
        let stack =
            overlay::open_read_only(&lowers, self.in_user_namespace()).doing("open the layers")?;
        let target = fs::File::open(&rootfs).at(&rootfs)?;
        stack.mount(target.as_fd()).doing_with(|| format!("mount {}", rootfs.display()))?;
        let set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV;
        let top = fs::File::open(&rootfs).at(&rootfs)?;
        mount::set_attributes(top.as_fd(), false, Attributes { set, ..Attributes::default() })
            .doing("make the mount read-only")?;
        Ok(rootfs)
    }

    /// The images that are mounted here, and where.
    pub fn mounted_images(&self) -> Result<Vec<(Image, PathBuf)>> {
        let mut found = Vec::new();
        for image in self.store.list()? {
            let home = self.layout.image_mount(&image.record.id);
            if is_mounted(&home) {
                found.push((image, home.join(ROOTFS)));
            }
        }
        Ok(found)
    }

    /// Takes the mount of the image that `typed` means away, by force even if it is in use. Its id.
    pub fn unmount_image(&self, typed: &str, force: bool) -> Result<Digest> {
        let id = self.image(typed)?.record.id;
        may_mount(self, "image unmount")?;
        if !is_mounted(&self.layout.image_mount(&id)) {
            return Err(Error::conflict(format!("image {typed} is not mounted"))
                .hint("`dhow image mount` lists what is"));
        }
        self.unmount(&id, force)?;
        Ok(id)
    }

    /// Where the image is mounted, if it is.
    pub(in crate::engine) fn mount_of(&self, id: &Digest) -> Option<PathBuf> {
        let home = self.layout.image_mount(id);
        is_mounted(&home).then(|| home.join(ROOTFS))
    }

    /// Takes away every mount, and what may be left of mounts of another boot.
    pub(in crate::engine) fn unmount_all(&self) -> Result<()> {
        let homes = match fs::read_dir(self.layout.image_mounts()) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            homes => homes.at(self.layout.image_mounts())?,
        };
        for home in homes.filter_map(|home| Some(home.ok()?.path())) {
            take_away(&home, true)?;
        }
        Ok(())
    }

    pub(in crate::engine) fn unmount(&self, id: &Digest, force: bool) -> Result<()> {
        take_away(&self.layout.image_mount(id), force)
    }

    /// Root here is somebody else outside.
    pub(in crate::engine) fn in_user_namespace(&self) -> bool {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.split_whitespace().ne(["0", "0", "4294967295"])
    }
}

/// What an ordinary user mounts is in a namespace of their own.
pub(in crate::engine) fn may_mount(engine: &Engine, verb: &str) -> Result<()> {
    match engine.facts.rootless() {
        false => Ok(()),
        true => {
            Err(Error::unsupported(format!("cannot run command \"dhow {verb}\" in rootless mode"))
                .hint("it must be run in a user namespace: execute `dhow unshare` first"))
        }
    }
}

/// Within the mount's own directory.
pub(in crate::engine) const ROOTFS: &str = "rootfs";

pub(in crate::engine) fn is_mounted(home: &Path) -> bool {
    mount::is_mount_point(&home.join(ROOTFS))
}

pub(in crate::engine) fn take_away(home: &Path, force: bool) -> Result<()> {
    let Ok(_lock) = Lock::exclusive(home) else { return Ok(()) };
    let rootfs = home.join(ROOTFS);
    if is_mounted(home) {
        mount::unmount(&rootfs, force).map_err(|errno| {
            let error = Error::from(errno).context(format!("unmount {}", rootfs.display()));
            if errno == nix::errno::Errno::EBUSY {
                return error.hint("somebody uses it; --force takes it away all the same");
            }
            error
        })?;
    }
    fs::remove_dir_all(home).at(home).doing("remove")
}
