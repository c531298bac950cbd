//! Layers: records, and files against the blob they were unpacked from.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use super::{Check, entries, name};
use crate::{
    error::{Context as _, Error, Kind, Result},
    image::{
        ImageRecord, LayerRef, Silent,
        ingest::{self, Unsettled},
        lock::Pin,
        store::{LayerRecord, discard},
    },
    oci::{Digest, Hasher},
    state::store::read_json,
    sys::fs::{Time, Usage},
};

impl Check<'_> {
    /// Each layer is complete and as its blob says.
    pub(super) fn layers(&mut self) -> Result<()> {
        for dir in entries(&self.engine.layout.layers())? {
            // The lowest layer's is its diffID, of whatever algorithm.
            let algorithm = if name(&dir).len() == 128 { "sha512" } else { "sha256" };
            let Ok(chain_id) = format!("{algorithm}:{}", name(&dir)).parse::<Digest>() else {
                self.stranger(&dir);
                continue;
            };
            self.report.layers += 1;
            for path in entries(&dir)? {
                if !["layer.json", "diff", "maps"].contains(&name(&path)) {
                    self.stranger(&path);
                }
            }
            if let Some(wrong) = self.layer_fault(&dir, &chain_id)? {
                self.damaged_layer(&chain_id, &wrong);
            }
        }
        Ok(())
    }

    fn layer_fault(&self, dir: &Path, chain_id: &Digest) -> Result<Option<String>> {
        let record = match read_json::<LayerRecord>(&dir.join("layer.json")) {
            Ok(Some(record)) => record,
            // It may be on its way out.
            Ok(None) if !dir.exists() => return Ok(None),
            Ok(None) => return Ok(Some("it has no record".into())),
            Err(err) => return Ok(Some(err.to_string())),
        };
        let diff = dir.join("diff");
        if !diff.is_dir() {
            return Ok(Some("its files are gone".into()));
        }
        let Some((_, layer)) = self.image_with(chain_id) else { return Ok(None) };
        if layer.diff_id != record.diff_id {
            return Ok(Some(format!("its record is of the tar {}", record.diff_id)));
        }
        if self.how.quick {
            return Ok(None);
        }
        let found = match self.engine.measure(&diff, None) {
            Ok(found) => found,
            Err(err) if err.kind() == Kind::NotFound && !dir.exists() => return Ok(None),
            Err(err) => return Ok(Some(err.to_string())),
        };
        if record.sealed {
            return self.sealed_fault(&diff, &layer, found.size == record.size);
        }
        // The kernel's own times tell whether anything was changed since the layer was complete;
        // a store that was copied has new ones all over, and its files are compared.
        let noted = dir.join("layer.json");
        let noted = fs::metadata(&noted).at(&noted)?;
        let complete = Time {
            seconds: noted.ctime(),
            nanoseconds: u32::try_from(noted.ctime_nsec()).unwrap_or(0),
        };
        if found.size == record.size && self.engine.measure(&diff, Some(complete))?.entries == 0 {
            return Ok(None);
        }
        // A tar may hold a file twice; then the record counts more than there is. Without its blob
        // that cannot be told, and that the blob is gone is told of the image.
        let Ok(again) = self.unpack_aside(&layer) else { return Ok(None) };
        let fault = self.compared(&diff, &again.diff(), found);
        again.discard(&*self.engine.unpacker())?;
        fault
    }

    /// How a layer's files differ from those that its blob makes.
    fn compared(&self, diff: &Path, again: &Path, found: Usage) -> Result<Option<String>> {
        let expected = self.engine.measure(again, None)?;
        if (found.size, found.entries) != (expected.size, expected.entries) {
            return Ok(Some(format!(
                "it has {} files of {} bytes where its blob has {} of {}",
                found.entries, found.size, expected.entries, expected.size
            )));
        }
        // Directories that the blob only implies are not as it has them, but as layers below do.
        let stacks = (&[diff.to_owned()][..], &[again.to_owned()][..]);
        let changes = self.engine.compare(stacks, true)?;
        Ok(changes.first().map(|first| {
            let path = String::from_utf8_lossy(&first.path);
            format!("{} of its files are not as in its blob: /{path}", changes.len())
        }))
    }

    /// What was made here is its own tar, if it is what it was.
    fn sealed_fault(
        &self,
        diff: &Path,
        layer: &LayerRef,
        is_as_large: bool,
    ) -> Result<Option<String>> {
        if is_as_large {
            return Ok(None);
        }
        let staging = self.engine.layout.staging();
        let mut file = tempfile::tempfile_in(&staging).at(&staging)?;
        self.engine.unpacker().sealed_tar(diff, &file)?;
        file.seek(SeekFrom::Start(0)).doing("read the layer's tar")?;
        let mut hasher = Hasher::like(&layer.diff_id);
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer).doing("read the layer's tar")? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        let same = hasher.finish() == layer.diff_id;
        Ok((!same).then(|| "its files are not those that it was made of".to_owned()))
    }

    /// An image that has the layer.
    fn image_with(&self, chain_id: &Digest) -> Option<(ImageRecord, LayerRef)> {
        let images = self.engine.store.list().unwrap_or_default();
        images.into_iter().find_map(|image| {
            let layer =
                image.record.layers.iter().find(|layer| layer.chain_id == *chain_id)?.clone();
            Some((image.record, layer))
        })
    }

    /// What the layer's blob makes when it is unpacked.
    fn unpack_aside(&self, layer: &LayerRef) -> Result<Unsettled> {
        let store = &self.engine.store;
        let unpacker = self.engine.unpacker();
        let addition = store.add();
        let mut blob = store.open_blob(&layer.digest)?;
        ingest::unpack_layer(&addition, &mut blob, layer, &*unpacker)
    }

    fn damaged_layer(&mut self, chain_id: &Digest, wrong: &str) {
        let what = format!("layer {chain_id}");
        let Some((image, layer)) = self.image_with(chain_id) else {
            // Of no image: nothing but a container can need it.
            let remedy = "no image has it any more; remove the containers that are made of it";
            match self.engine.layers_in_use() {
                Ok(used) if !used.contains(chain_id) => {
                    let engine = self.engine;
                    self.mendable(what, wrong, "removes it", || take_away(engine, chain_id));
                }
                _ => self.stays(what, wrong, remedy),
            }
            return;
        };
        let top = image.layers.iter().position(|one| *one == layer).unwrap_or(0);
        let engine = self.engine;
        self.mendable(what, wrong, "unpacks it again", || {
            if running_on(engine, chain_id)? {
                return Err(Error::conflict("a container that is made of it runs")
                    .hint("stop it and check again"));
            }
            take_away(engine, chain_id)?;
            unpack_again(engine, &image, top)
        });
    }

    /// A layer that an image has and that is not here.
    pub(super) fn lost_layer(&mut self, image: &ImageRecord, top: usize) {
        let what = format!("layer {} of image {}", image.layers[top].chain_id, image.id.short());
        let engine = self.engine;
        self.mendable(what, "it is not here", "unpacks it again", || {
            unpack_again(engine, image, top)
        });
    }
}

fn running_on(engine: &crate::engine::Engine, chain_id: &Digest) -> Result<bool> {
    for id in engine.container_ids()? {
        // One that cannot be read cannot be started either.
        let Ok(container) = engine.load(&id) else { continue };
        if container.status.made().is_some() && container.record.layers.contains(chain_id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Moves the layer out of sight and removes it.
fn take_away(engine: &crate::engine::Engine, chain_id: &Digest) -> Result<()> {
    let path = engine.layout.layer(chain_id);
    let Some(_lock) = Pin::exclusive_if_free(&path)? else {
        return Err(Error::conflict("another command is using it"));
    };
    let trash = engine.layout.staging().join(format!("damaged-{}", chain_id.hex()));
    fs::rename(&path, &trash).at(&path).doing("remove")?;
    let unpacker = engine.unpacker();
    discard(&trash, &|tree| unpacker.remove(tree))
}

fn unpack_again(engine: &crate::engine::Engine, image: &ImageRecord, top: usize) -> Result<()> {
    let addition = engine.store.add();
    let mut blob = engine.store.open_blob(&image.layers[top].digest)?;
    let unpacker = engine.unpacker();
    ingest::layer(&addition, &mut blob, &image.layers[..=top], false, &*unpacker, &Silent)?;
    addition.publish(&|tree| unpacker.remove(tree))
}
