//! The same image in another packing: what leaves this machine is compressed.

use std::{
    collections::BTreeMap,
    io::Write,
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    layers::Hashed,
    manifest::{Format, SentLayer, format_of, rewrite},
};
use crate::{
    error::{Context as _, Error, Result},
    image::{Addition, ImageRecord, LayerRef, packing, store::MANIFEST_MAX},
    oci::{Hasher, media_type::Compression},
};

/// How layers shall be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    pub compression: Compression,
    /// The compressor's own scale.
    pub level: Option<i32>,
    /// Layers that are compressed already are packed anew, too.
    pub force: bool,
    /// `None`: as the manifest is.
    pub format: Option<Format>,
}

/// Makes a manifest for `packing`, and the blobs that it names; the addition holds them. Returns the
/// image as it would be.
pub fn repack(
    addition: &Addition<'_>,
    record: &ImageRecord,
    packing: Packing,
) -> Result<ImageRecord> {
    packing::check_level(packing.compression, packing.level)?;
    let sent = all(addition, &record.layers, packing)?;
    let bytes = addition.store().read_blob(&record.manifest, MANIFEST_MAX)?;
    let format = packing.format.filter(|f| *f != format_of(&record.manifest_media_type));
    let (bytes, media_type) = rewrite(bytes, &record.manifest_media_type, format, &sent)?;
    let mut record = record.clone();
    (record.manifest, _) = addition.put_blob(&mut &bytes[..], None)?;
    record.manifest_media_type = media_type;
    for (layer, sent) in record.layers.iter_mut().zip(sent) {
        layer.media_type = sent.compression.layer_media_type().to_owned();
        (layer.digest, layer.size) = (sent.digest, sent.size);
    }
    Ok(record)
}

/// Packs the layers side by side.
fn all(addition: &Addition<'_>, layers: &[LayerRef], packing: Packing) -> Result<Vec<SentLayer>> {
    let next = AtomicUsize::new(0);
    let slots: Vec<Mutex<Option<Result<SentLayer>>>> =
        layers.iter().map(|_| Mutex::default()).collect();
    let work = || {
        while let Some(at) =
            Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < layers.len())
        {
            let packed = one(addition, &layers[at], packing)
                .doing_with(|| format!("pack layer {}", layers[at].diff_id.short()));
            *slots[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(packed);
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 1..threads.min(layers.len()) {
            // Without a thread, those that there are do its share.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let slots = slots.into_iter().map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner));
    slots.map(|slot| slot.unwrap_or_else(|| Err(Error::engine("a layer was not packed")))).collect()
}

fn one(addition: &Addition<'_>, layer: &LayerRef, packing: Packing) -> Result<SentLayer> {
    let own = Compression::of_layer(&layer.media_type)?;
    if own == packing.compression || (own != Compression::None && !packing.force) {
        return Ok(SentLayer {
            digest: layer.digest.clone(),
            size: layer.size,
            compression: own,
            as_it_was: true,
            annotations: BTreeMap::new(),
        });
    }
    let stop = AtomicBool::new(false);
    let blob = addition.new_blob()?;
    let mut hashed = Hashed { blob, hasher: Hasher::default(), size: 0, stop: &stop };
    let mut tar = addition.store().tarball(layer)?;
    packing::pack(&mut tar, &mut hashed, packing.compression, packing.level)?;
    hashed.flush().doing("write the layer")?;
    let Hashed { blob, hasher, size, .. } = hashed;
    let digest = hasher.finish();
    addition.commit_blob(blob, &digest)?;
    let (compression, annotations) = (packing.compression, BTreeMap::new());
    Ok(SentLayer { digest, size, compression, as_it_was: false, annotations })
}
