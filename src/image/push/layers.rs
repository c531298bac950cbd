//! The layers of one image on their way to a registry.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use oci_spec::image::{Descriptor, ImageManifest};

use super::{PushOptions, manifest::SentLayer, together::together};
use crate::{
    error::{Context as _, Error, Result},
    image::{
        Addition, BlobWriter, Event, Image, LayerRef, Progress, Store, packing,
        registry::{Client, Outgoing, Sent},
    },
    oci::{Digest, Hasher, media_type::Compression},
};

pub(super) struct Layers<'a> {
    pub(super) store: &'a Store,
    pub(super) addition: &'a Addition<'a>,
    pub(super) client: &'a Client,
    pub(super) image: &'a Image,
    pub(super) manifest: &'a ImageManifest,
    /// Repositories that may have some of them.
    pub(super) mounts: &'a [String],
    pub(super) options: &'a PushOptions,
    pub(super) progress: &'a dyn Progress,
}

/// A blob to send.
struct Ready {
    sent: SentLayer,
    file: File,
    made: Option<BlobWriter>,
}

/// A blob that the registry has, and itself if it was made for that.
pub(super) type Packed = (SentLayer, Option<BlobWriter>);

impl Layers<'_> {
    /// Sends what is missing, several at once. The first failure stops the others.
    pub(super) fn push(&self) -> Result<Vec<Packed>> {
        let layers = &self.image.record.layers;
        if layers.len() != self.manifest.layers().len() {
            return Err(Error::engine("the image's record and its manifest do not agree")
                .hint("`dhow rmi -f` the image and pull it again"));
        }
        for layer in layers {
            self.progress.layer(&layer.diff_id, Event::Preparing);
        }
        together(layers.len(), |index, stop| {
            self.one(&layers[index], &self.manifest.layers()[index], stop)
        })
    }

    fn one(&self, layer: &LayerRef, described: &Descriptor, stop: &AtomicBool) -> Result<Packed> {
        let named = SentLayer {
            digest: described.digest().to_string().parse::<Digest>()?,
            size: described.size(),
            compression: Compression::of_layer(described.media_type().as_ref())?,
            as_it_was: true,
            annotations: BTreeMap::new(),
        };
        let wanted = self.wanted(&named);
        let is_chunked =
            described.annotations().as_ref().is_some_and(|a| a.contains_key(packing::CHECKSUM));
        let is_as_wanted =
            wanted == named.compression && (is_chunked || !self.is_to_be_chunked(&named));
        let ready = match is_as_wanted {
            true => {
                let file = self.store.open_blob(&named.digest)?;
                Ready { sent: named, file, made: None }
            }
            false if self.is_to_be_chunked(&named) => self.pack_chunked(layer, stop)?,
            false => self.pack(layer, wanted, stop)?,
        };
        self.send(layer, ready, stop)
    }

    /// How the blob shall be packed: as asked; a plain tar with gzip, as Docker does.
    fn wanted(&self, named: &SentLayer) -> Compression {
        let PushOptions { compression, force, .. } = self.options;
        match (compression, named.compression) {
            (Some(asked), own) if *force || own == Compression::None => *asked,
            (None, own) if *force || own == Compression::None => Compression::Gzip,
            (_, own) => own,
        }
    }

    fn is_to_be_chunked(&self, named: &SentLayer) -> bool {
        let PushOptions { chunked, force, .. } = self.options;
        *chunked && (*force || named.compression == Compression::None)
    }

    /// Makes another blob of the layer's tar.
    fn pack(&self, layer: &LayerRef, wanted: Compression, stop: &AtomicBool) -> Result<Ready> {
        let blob = self.addition.new_blob()?;
        let mut hashed = Hashed { blob, hasher: Hasher::default(), size: 0, stop };
        let mut tar = self.store.tarball(layer)?;
        packing::pack(&mut tar, &mut hashed, wanted, self.options.level)
            .doing_with(|| format!("pack layer {}", layer.diff_id.short()))?;
        ready(hashed, wanted, BTreeMap::new())
    }

    fn pack_chunked(&self, layer: &LayerRef, stop: &AtomicBool) -> Result<Ready> {
        let mut again = || {
            let blob = self.addition.new_blob()?;
            let hashed = Hashed { blob, hasher: Hasher::default(), size: 0, stop };
            Ok((self.store.tarball(layer)?, hashed))
        };
        let spool = self.store.layout().staging();
        let (hashed, annotations) =
            packing::pack_chunked(&mut again, self.options.level, &spool)
                .doing_with(|| format!("pack layer {}", layer.diff_id.short()))?;
        ready(hashed, Compression::Zstd, annotations)
    }

    fn send(&self, layer: &LayerRef, ready: Ready, stop: &AtomicBool) -> Result<Packed> {
        let Ready { sent, file, made } = ready;
        let blob =
            Outgoing { digest: &sent.digest, size: sent.size, file: &file, stop: Some(stop) };
        let tell = |done| {
            let event = Event::Pushing { done, total: sent.size };
            self.progress.layer(&layer.diff_id, event);
        };
        match self.client.push_blob(&blob, self.mounts, &tell)? {
            Sent::Exists => self.progress.layer(&layer.diff_id, Event::There),
            Sent::Mounted(from) => self.progress.mounted(&layer.diff_id, &from),
            Sent::Pushed => self.progress.layer(&layer.diff_id, Event::Pushed),
        }
        Ok((sent, made))
    }
}

fn ready(
    packed: Hashed<'_>,
    compression: Compression,
    annotations: BTreeMap<String, String>,
) -> Result<Ready> {
    let Hashed { blob, hasher, size, .. } = packed;
    let digest = hasher.finish();
    let sent = SentLayer { digest, size, compression, as_it_was: false, annotations };
    Ok(Ready { sent, file: blob.reader()?, made: Some(blob) })
}

/// A blob being packed.
pub(super) struct Hashed<'a> {
    pub(super) blob: BlobWriter,
    pub(super) hasher: Hasher,
    pub(super) size: u64,
    pub(super) stop: &'a AtomicBool,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(packing::given_up());
        }
        let count = self.blob.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.blob.flush()
    }
}
