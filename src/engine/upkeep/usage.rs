//! `system df`: what takes how much, and how much of it could go.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    engine::{
        Engine,
        container::list::{Listed, Query},
        volume::{Volume, VolumeFilters},
    },
    error::{Error, Result},
    image::Image,
    oci::Digest,
};

/// What there is of one kind. Sizes are bytes of content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    pub count: usize,
    pub active: usize,
    pub size: u64,
    /// What could be removed.
    pub reclaimable: u64,
}

/// What the store holds.
#[derive(Debug, Default)]
pub struct DiskUsage {
    pub images: Total,
    pub containers: Total,
    pub volumes: Total,
    /// Of images that were cut off while being fetched.
    pub downloads: Total,
    /// Newest first.
    pub by_image: Vec<ImageUsage>,
    /// Newest first, each with the bytes of its own files.
    pub by_container: Vec<(Listed, u64)>,
    /// By name, each with its bytes.
    pub by_volume: Vec<(Volume, u64)>,
    /// What could not be looked at.
    pub damaged: Vec<Error>,
}

/// One image's part.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    pub image: Image,
    /// Bytes in layers that other images have too, and in those they have not.
    pub shared: u64,
    pub unique: u64,
    /// How many containers are made of it.
    pub containers: usize,
}

impl Engine {
    /// Measures everything. A layer and a blob count once, whoever shares them.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let listing = self.store.listing()?;
        let found = self.containers(&Query { all: true, ..Query::default() })?;
        let mut usage = DiskUsage { damaged: listing.damaged, ..DiskUsage::default() };
        usage.damaged.extend(found.damaged);
        let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
        for container in found.containers {
            *users.entry(container.image_id.clone()).or_default() += 1;
            let own = match self.sizes(&container.id, &container.image_id) {
                Ok((own, _)) => own,
                Err(err) => {
                    usage
                        .damaged
                        .push(err.context(format!("measure container {}", container.name)));
                    0
                }
            };
            let running = container.status.is_running();
            let total = &mut usage.containers;
            total.count += 1;
            total.active += usize::from(running);
            total.size += own;
            total.reclaimable += if running { 0 } else { own };
            usage.by_container.push((container, own));
        }
        self.measure_volumes(&mut usage)?;
        self.measure_images(listing.images, &users, &mut usage)?;
        usage.downloads =
            self.store.downloads()?.into_iter().fold(Total::default(), |total, (size, active)| {
                Total {
                    count: total.count + 1,
                    active: total.active + usize::from(active),
                    size: total.size + size,
                    reclaimable: total.reclaimable + if active { 0 } else { size },
                }
            });
        Ok(usage)
    }

    fn measure_volumes(&self, usage: &mut DiskUsage) -> Result<()> {
        let (volumes, damaged) = self.volumes(&VolumeFilters::default())?;
        usage.damaged.extend(damaged);
        for one in volumes {
            let name = &one.record.name;
            let size = self.volume_size(&one.record).unwrap_or_else(|err| {
                usage.damaged.push(err.context(format!("measure volume {name}")));
                0
            });
            let total = &mut usage.volumes;
            total.count += 1;
            total.active += usize::from(one.containers > 0);
            total.size += size;
            total.reclaimable += if one.containers > 0 { 0 } else { size };
            usage.by_volume.push((one, size));
        }
        Ok(())
    }

    fn measure_images(
        &self,
        images: Vec<Image>,
        users: &BTreeMap<Digest, usize>,
        usage: &mut DiskUsage,
    ) -> Result<()> {
        let size = |layer: &Digest| self.store.layer(layer).map_or(0, |record| record.size);
        let mut holders: BTreeMap<Digest, usize> = BTreeMap::new();
        for image in &images {
            for layer in image.record.chain_ids().collect::<BTreeSet<_>>() {
                *holders.entry(layer.clone()).or_default() += 1;
            }
        }
        // What is needed: by images that containers are made of, and by containers whose image
        // is gone.
        let mut layers: BTreeSet<Digest> = self.layers_in_use()?.into_iter().collect();
        let mut blobs = BTreeSet::new();
        for image in images {
            let containers = users.get(&image.record.id).copied().unwrap_or(0);
            if containers > 0 {
                usage.images.active += 1;
                layers.extend(image.record.chain_ids().cloned());
                blobs.extend(image.record.blobs().cloned());
            }
            let (mut shared, mut unique) = (0, 0);
            for layer in image.record.chain_ids().collect::<BTreeSet<_>>() {
                match holders.get(layer) {
                    Some(2..) => shared += size(layer),
                    _ => unique += size(layer),
                }
            }
            usage.images.count += 1;
            usage.by_image.push(ImageUsage { image, shared, unique, containers });
        }
        let all: u64 = self.store.layers()?.iter().map(size).sum();
        let needed: u64 = layers.iter().map(size).sum();
        let (all_blobs, needed_blobs) = self.store.blob_sizes(&blobs)?;
        usage.images.size = all + all_blobs;
        usage.images.reclaimable = usage.images.size.saturating_sub(needed + needed_blobs);
        Ok(())
    }
}
