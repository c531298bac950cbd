//! Makes an image of one layer from a tar that holds a root file system.

use std::io::{self, Read};

use jiff::Timestamp;
use serde_json::json;

use super::{
    change,
    load::{add_made, make_manifest},
    members::Blob,
    unpacked,
};
use crate::{
    error::{Context as _, Result},
    image::{
        Image, Progress, Store, Unpack,
        push::Format,
        trust::{self, TrustPolicy},
    },
    oci::{Digest, Hasher, Platform, Reference},
};

/// What the image shall be, besides its files.
#[derive(Debug, Clone)]
pub struct Import {
    /// Dockerfile instructions, as `--change` takes them.
    pub changes: Vec<String>,
    /// The history's comment.
    pub message: String,
    pub reference: Option<Reference>,
    pub platform: Platform,
    /// What the configuration says; the same time and tar give the same image.
    pub created: Timestamp,
}

/// Adds an image whose only layer is the tar that `source` yields, plain or packed with gzip or
/// zstd. The layer's blob is those bytes.
pub fn import(
    source: &mut dyn Read,
    how: &Import,
    store: &Store,
    unpack: &dyn Unpack,
    progress: &dyn Progress,
) -> Result<Image> {
    let config = change::apply(&how.changes)?;
    trust::check_files(&TrustPolicy::from_env()?, "tarball", None)?;
    store.clean_staging(&|tree| unpack.remove(tree))?;
    let spool = store.add();
    let (digest, size) = spool.put_blob(source, None)?;
    let layer = Blob { digest, size };

    let mut start = Vec::new();
    store.open_blob(&layer.digest)?.take(8).read_to_end(&mut start).doing("read the layer")?;
    let media_type = super::compression(&start)?.layer_media_type().to_owned();
    let diff_id = diff_id(&mut store.open_blob(&layer.digest)?)?;
    let created = how.created.to_string();
    let mut document = json!({
        "architecture": how.platform.architecture,
        "config": config,
        "created": created,
        "history": [{"created": created, "comment": how.message}],
        "os": how.platform.os,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    if let Some(variant) = &how.platform.variant {
        document["variant"] = json!(variant);
    }
    let bytes = serde_json::to_vec(&document)?;
    let (digest, size) = spool.put_blob(&mut &bytes[..], None)?;
    let config = Blob { digest, size };
    let layers = vec![(layer, media_type)];
    let manifest = make_manifest(&spool, Format::Oci, &config, &layers)?;
    let names = how.reference.iter().cloned().collect();
    add_made(store, Format::Oci, (manifest, config, layers), names, unpack, progress)
}

fn diff_id(blob: &mut dyn Read) -> Result<Digest> {
    struct Sink(Hasher);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Sink(Hasher::default());
    io::copy(&mut unpacked(blob)?, &mut sink).doing("decompress the layer")?;
    Ok(sink.0.finish())
}
