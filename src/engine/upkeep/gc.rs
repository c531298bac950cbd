//! `system gc`: makes the images fit into so many bytes.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::{
    engine::{
        Engine,
        image::remove::{Pruned, removals},
    },
    error::{Error, Kind, Result},
    image::{Image, NameRecord},
};

impl Engine {
    /// Removes what interrupted commands have left and then, while images take more than `keep`
    /// bytes, the image that was used least recently, those without a name first. What a
    /// container is made of stays.
    pub fn gc(&self, keep: u64) -> Result<Pruned> {
        let unpacker = self.unpacker();
        let in_use = || self.layers_in_use();
        let remove = |tree: &std::path::Path| unpacker.remove(tree);
        let listing = self.store.listing()?;
        let mut pruned = Pruned { failures: listing.damaged, ..Pruned::default() };
        // What a damaged record refers to is unknown, so nothing can be told to be garbage.
        if pruned.failures.is_empty() {
            let garbage = self.store.collect_garbage(&in_use, &remove)?;
            pruned.reclaimed += garbage.size;
            pruned.removals.extend(removals(garbage));
        }
        let mut images: Vec<(Timestamp, Image)> = (listing.images.into_iter())
            .map(|image| (self.store.last_used(&image.record), image))
            .collect();
        images.sort_by_key(|(used, image)| (!image.names.is_empty(), *used));
        let mut size = self.images_size()?;
        for (_, image) in images {
            if size <= keep {
                break;
            }
            let id = &image.record.id;
            let may_go = |names: &[NameRecord]| match self.user_of(id)? {
                None if names == image.names => Ok(()),
                _ => Err(Error::conflict("in use")),
            };
            match self.store.remove_if(id, &may_go, &in_use, &remove) {
                Ok(removed) => {
                    size = size.saturating_sub(removed.size);
                    pruned.reclaimed += removed.size;
                    pruned.removals.extend(removals(removed));
                }
                // Somebody uses it, or was faster.
                Err(err) if matches!(err.kind(), Kind::Conflict | Kind::NotFound) => {}
                Err(err) => pruned.failures.push(err),
            }
        }
        Ok(pruned)
    }

    /// Bytes of all layers and blobs.
    pub fn images_size(&self) -> Result<u64> {
        let layers: HashSet<_> = self.store.layers()?.into_iter().collect();
        let size = |layer: &_| self.store.layer(layer).map_or(0, |record| record.size);
        let (blobs, _) = self.store.blob_sizes(&Default::default())?;
        Ok(layers.iter().map(size).sum::<u64>() + blobs)
    }
}
