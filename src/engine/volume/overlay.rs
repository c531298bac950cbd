//! What is mounted as an overlay: images, and what was given with the option `O`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    image::{
        layer::{Apply, Ownership},
        lock::Pin,
        unpack::InUserNamespace,
    },
    oci::Digest,
    run::{
        discard,
        spec::{Context as SpecContext, has_upperdir, overlay_dirs},
    },
    state::{
        record::{ContainerRecord, HostConfig, ImageMount, MountKind, MountRecord},
        store::create_private_dir,
    },
    volume::driver::Backing,
};

impl Engine {
    /// Finds out which images are meant, and keeps them until the container can be seen.
    pub(in crate::engine) fn take_images(&self, host: &mut HostConfig) -> Result<Vec<Pin>> {
        let mut pins = Vec::new();
        for mount in &mut host.mounts {
            let MountKind::Image(wanted) = &mut mount.kind else { continue };
            let image = self.image(&wanted.name).map_err(|err| {
                err.hint(format!("`dhow pull {}` fetches it", wanted.name))
                    .context(format!("mount an image on {}", mount.target))
            })?;
            pins.extend(self.store.pin(&image.record.id)?);
            wanted.layers = image.record.chain_ids().cloned().collect();
            if wanted.layers.is_empty() {
                return Err(Error::invalid(format!("image {} has no files", wanted.name)));
            }
            wanted.id = Some(image.record.id);
        }
        Ok(pins)
    }

    /// The lowerdirs of the images that the container has mounted.
    pub(in crate::engine) fn image_lowers(
        &self,
        record: &ContainerRecord,
    ) -> Result<BTreeMap<Digest, Vec<PathBuf>>> {
        let mut all = BTreeMap::new();
        for image in images(record) {
            let Some(id) = &image.id else { continue };
            let maps = self.unusual_maps(record)?;
            let path = |layer: &Digest| match &maps {
                Some((maps, _)) => self.store.mapped_layer_path(layer, maps),
                None => Ok(self.layout.layer_diff(layer)),
            };
            let lowers = image.layers.iter().rev().map(path).collect::<Result<Vec<_>>>()?;
            all.insert(id.clone(), lowers);
        }
        Ok(all)
    }

    /// Makes the upperdirs anew: what a life of the container wrote over there went with it.
    pub(in crate::engine) fn make_overlays(&self, context: &SpecContext<'_>) -> Result<()> {
        let mounts = &context.record.host.mounts;
        if !mounts.iter().any(has_upperdir) {
            return Ok(());
        }
        discard::remove_tree(&context.overlays)?;
        for mount in mounts.iter().filter(|mount| has_upperdir(mount)) {
            let (upper, work) = overlay_dirs(&context.overlays, &mount.target);
            create_private_dir(&upper)?;
            create_private_dir(&work)?;
            if let Some(source) = source(context, mount) {
                self.dress_as(&upper, &source)?;
            }
        }
        Ok(())
    }

    /// The upperdir's own mode and owner are what is seen of the directory that it is over.
    fn dress_as(&self, upper: &Path, source: &Path) -> Result<()> {
        let meta = fs::metadata(source).at(source)?;
        if !meta.is_dir() {
            return Err(Error::unsupported(format!(
                "{} is no directory, and only over one can an overlay be mounted",
                source.display()
            )));
        }
        fs::set_permissions(upper, fs::Permissions::from_mode(meta.mode() & 0o7777)).at(upper)?;
        let Some(usual) = self.maps() else {
            return chown(upper, Some(meta.uid()), Some(meta.gid())).at(upper);
        };
        if (meta.uid(), meta.gid()) == (self.facts.euid, self.facts.egid) {
            return Ok(());
        }
        // Whom nobody inside can be, the directory belongs to the user instead.
        let ids = usual.uid_inside(meta.uid()).zip(usual.gid_inside(meta.gid()));
        let Some((uid, gid)) = ids else { return Ok(()) };
        let how = Apply { ownership: Ownership::Keep, user_xattr: true };
        InUserNamespace::new(usual, how).chown(upper, uid, gid)
    }
}

/// The images that a container has mounted.
pub(in crate::engine) fn images(record: &ContainerRecord) -> impl Iterator<Item = &ImageMount> {
    record.host.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Image(image) => Some(image),
        MountKind::Bind { .. } | MountKind::Volume(_) => None,
        MountKind::Tmpfs | MountKind::Ramfs | MountKind::Devpts => None,
    })
}

/// The topmost directory of the host's that the overlay is over.
fn source(context: &SpecContext<'_>, mount: &MountRecord) -> Option<PathBuf> {
    match &mount.kind {
        MountKind::Bind { source, .. } => Some(source.clone()),
        MountKind::Volume(volume) if volume.subpath.is_empty() => {
            match context.volumes.get(&volume.name)? {
                Backing::Directory { source, .. } => Some(source.clone()),
                Backing::Own | Backing::FileSystem { .. } => None,
            }
        }
        MountKind::Image(image) if image.subpath.is_empty() => {
            context.images.get(image.id.as_ref()?)?.first().cloned()
        }
        // Where a subpath leads is known only to who mounts it.
        MountKind::Volume(_) | MountKind::Image(_) => None,
        MountKind::Tmpfs | MountKind::Ramfs | MountKind::Devpts => None,
    }
}
