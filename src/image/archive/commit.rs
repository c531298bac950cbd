//! Makes an image of another one, one more layer, and a changed configuration.

use std::{fs::File, io::Read as _};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    change,
    load::{add_made, make_manifest},
    members::Blob,
};
use crate::{
    error::{Context as _, Error, Result},
    image::{
        Image, ImageRecord, Progress, Store, Unpack,
        push::{Format, layer_type},
    },
    oci::{Reference, media_type::Compression},
};

/// What the image shall be, besides its files.
#[derive(Debug)]
pub struct Commit<'a> {
    pub base: &'a ImageRecord,
    /// Fields of the configuration's `config` that are not the base's any more; null takes one
    /// away.
    pub config: Map<String, Value>,
    /// The layer is all there is: it has the base's files, too.
    pub squash: bool,
    /// Whose media types its manifest has.
    pub format: Format,
    /// Dockerfile instructions, as `--change` takes them, on top of that.
    pub changes: &'a [String],
    /// The history's comment.
    pub message: &'a str,
    pub author: &'a str,
    pub created: Timestamp,
    /// The history's word on how the layer was made.
    pub created_by: String,
    pub reference: Option<Reference>,
}

/// Adds the image whose topmost layer is the uncompressed tar in `layer`.
pub fn commit(
    layer: &mut File,
    how: Commit<'_>,
    store: &Store,
    unpack: &dyn Unpack,
    progress: &dyn Progress,
) -> Result<Image> {
    let mut document: Value = store.read_json_blob(&how.base.id)?;
    let damaged = || Error::engine("the base image's configuration is no object");
    let mut config = document["config"].as_object().cloned().unwrap_or_default();
    // Its triggers were for whoever builds on the base image.
    config.remove("OnBuild");
    config.extend(how.config);
    config.retain(|_, value| !value.is_null());
    let config = change::apply_to(&config.into(), how.changes)?;

    store.clean_staging(&|tree| unpack.remove(tree))?;
    let spool = store.add();
    let (digest, size) = spool.put_blob(layer, None)?;
    // Not packed: the blob's digest is the diffID.
    let diff_id = digest.clone();
    let mut layers = Vec::new();
    let below = if how.squash { &[][..] } else { &how.base.layers[..] };
    for base in below {
        let kind = layer_type(how.format, Compression::of_layer(&base.media_type)?)?.to_owned();
        layers.push((Blob { digest: base.digest.clone(), size: base.size }, kind));
    }
    layers.push((Blob { digest, size }, layer_type(how.format, Compression::None)?.to_owned()));

    let created = how.created.to_string();
    let fields = document.as_object_mut().ok_or_else(damaged)?;
    // What docker's builder and engine said of the container that made the base.
    for old in ["container", "container_config", "docker_version", "id", "parent"] {
        fields.remove(old);
    }
    fields.insert("config".into(), config);
    fields.insert("created".into(), json!(created));
    if how.author.is_empty() {
        fields.remove("author");
    } else {
        fields.insert("author".into(), json!(how.author));
    }
    let mut entry = json!({ "created": created, "created_by": how.created_by });
    for (key, text) in [("author", how.author), ("comment", how.message)] {
        if !text.is_empty() {
            entry[key] = json!(text);
        }
    }
    let history = fields.entry("history").or_insert_with(|| json!([]));
    match history.as_array_mut() {
        Some(history) => {
            if how.squash {
                history.iter_mut().for_each(|entry| entry["empty_layer"] = json!(true));
            }
            history.push(entry);
        }
        None => *history = json!([entry]),
    }
    let diff_ids = document["rootfs"]["diff_ids"].as_array_mut();
    match diff_ids.filter(|_| !how.squash) {
        Some(diff_ids) => diff_ids.push(json!(diff_id)),
        None => document["rootfs"] = json!({ "type": "layers", "diff_ids": [diff_id] }),
    }
    let bytes = serde_json::to_vec(&document)?;
    let (digest, size) = spool.put_blob(&mut bytes.as_slice().take(u64::MAX), None)?;
    let config = Blob { digest, size };
    let manifest = make_manifest(&spool, how.format, &config, &layers)?;
    let names = how.reference.into_iter().collect();
    add_made(store, how.format, (manifest, config, layers), names, unpack, progress)
        .doing("add the image")
}
