//! `container clone`: a new container like one that exists, without what that has written.

use jiff::Timestamp;

use super::update::merge;
use crate::{
    engine::Engine,
    error::{Error, Result},
    image::Image,
    state::{
        ContainerId,
        name::check_name,
        record::{ContainerRecord, MountKind, Resources},
        store::Durability,
    },
};

impl Engine {
    /// Creates a container with the settings of container `id`, with other limits and another
    /// image where these are given. Without a name it is called after the original.
    pub fn clone_container(
        &self,
        id: &ContainerId,
        name: Option<&str>,
        resources: &Resources,
        image: Option<(Image, String)>,
    ) -> Result<ContainerRecord> {
        let original = self.load(id)?.record;
        let (image, image_name) = match image {
            Some(image) => image,
            None if original.host.special.rootfs.is_some() => {
                return self.clone_as(original, name, resources);
            }
            None => {
                let image = self.store.image(&original.image_id)?.ok_or_else(|| {
                    Error::not_found(format!("the image of container {} is gone", original.name))
                        .hint("name another one, or pull it again")
                })?;
                (image, original.image.clone())
            }
        };
        let _pin = self.pin(&image)?;
        let mut record = original;
        record.image = image_name;
        record.image_id = image.record.id.clone();
        record.layers = image.record.chain_ids().cloned().collect();
        record.host.special.rootfs = None;
        self.clone_as(record, name, resources)
    }

    fn clone_as(
        &self,
        original: ContainerRecord,
        name: Option<&str>,
        resources: &Resources,
    ) -> Result<ContainerRecord> {
        let mut record = original.clone();
        record.id = ContainerId::random()?;
        record.name = match name {
            Some(name) => check_name(name)?.to_owned(),
            None => self.name_of_clone(&original.name),
        };
        record.created = Timestamp::now();
        record.host.special.mounted = false;
        record.host.cid_file = None;
        merge(&mut record.host.resources, resources)?;
        if record.config.hostname == original.id.short() {
            record.config.hostname = record.id.short().to_owned();
        }
        // Nobody shares a volume that nobody named.
        for mount in &mut record.host.mounts {
            if let MountKind::Volume(volume) = &mut mount.kind
                && volume.anonymous
            {
                volume.name.clear();
            }
        }
        self.complete_volumes(&mut record.host, &record.config.volumes)?;
        self.create_as(record, true, Durability::Synced)
    }

    /// Podman's rule: `-clone`, `-clone1`, ...
    fn name_of_clone(&self, original: &str) -> String {
        let names = self.layout.names();
        let numbered = (1..).map(|number| format!("{original}-clone{number}"));
        std::iter::once(format!("{original}-clone"))
            .chain(numbered)
            .find(|name| !names.join(name).exists())
            .unwrap_or_default()
    }
}
