//! An index and all it names, as an OCI image layout (image-spec image-layout.md).

use std::collections::BTreeSet;

use oci_spec::image::{Descriptor, ImageManifest};
use serde_json::{Value, json};

use super::save::{Sink, blob_path, put};
use crate::{
    error::{Context as _, Error, Result},
    image::{Store, list::ListRecord, store::MANIFEST_MAX},
    oci::{Digest, Reference, media_type},
};

/// Writes the images of a list, which the caller keeps from being removed, and its index.
/// `notes` are annotations of the index's own descriptor.
pub fn save_index(
    store: &Store,
    list: &ListRecord,
    names: &[Reference],
    notes: &Value,
    sink: &mut dyn Sink,
) -> Result<()> {
    sink.directory("blobs")?;
    sink.directory("blobs/sha256")?;
    let mut written = BTreeSet::new();
    for entry in &list.entries {
        let bytes = store.read_blob(&entry.digest, MANIFEST_MAX)?;
        let manifest: ImageManifest = serde_json::from_slice(&bytes).doing("read a manifest")?;
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            put_blob(store, blob, &mut written, sink)?;
        }
        if written.insert(entry.digest.clone()) {
            put(sink, &blob_path(&entry.digest), &bytes)?;
        }
    }
    let (bytes, kind) = list.index()?;
    let digest = Digest::of(&bytes);
    put(sink, &blob_path(&digest), &bytes)?;
    let entry = |name: Option<&Reference>| {
        let mut entry = json!({ "mediaType": kind, "digest": digest, "size": bytes.len() });
        let mut annotations = notes.as_object().cloned().unwrap_or_default();
        if let Some(name) = name {
            annotations.insert("io.containerd.image.name".into(), json!(name.to_string()));
            let key = "org.opencontainers.image.ref.name";
            annotations.insert(key.into(), json!(name.tag().unwrap_or_default()));
        }
        if !annotations.is_empty() {
            entry["annotations"] = annotations.into();
        }
        entry
    };
    let manifests: Vec<Value> = match names {
        [] => vec![entry(None)],
        names => names.iter().map(|name| entry(Some(name))).collect(),
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests,
    });
    put(sink, "index.json", &serde_json::to_vec(&index)?)?;
    put(sink, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
}

fn put_blob(
    store: &Store,
    blob: &Descriptor,
    written: &mut BTreeSet<Digest>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let digest: Digest = blob.digest().to_string().parse()?;
    if digest.algorithm() != "sha256" {
        return Err(Error::unsupported(format!("{digest} is not of SHA-256")));
    }
    if written.insert(digest.clone()) {
        let mut file = store.open_blob(&digest)?;
        sink.file(&blob_path(&digest), blob.size(), &mut file)?;
    }
    Ok(())
}
