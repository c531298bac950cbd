//! Sending an image to a registry: its layers side by side, its configuration, and last the
//! manifest that names them.
//!
//! What was pulled is pushed as the same bytes, and so keeps its digest. A layer is packed anew
//! only where the user asks for another compression, or where it came here as a plain tar by an
//! archive; then the manifest is rewritten.

mod layers;
mod list;
mod manifest;
mod repack;
mod together;

use std::{collections::BTreeSet, sync::Arc};

use oci_spec::image::ImageManifest;

use self::{
    layers::Layers,
    manifest::{SentLayer, rewrite},
};
pub use self::{
    list::{push_index, push_list},
    manifest::{Format, layer_type},
    repack::{Packing, repack},
};
use super::{
    Addition, BlobWriter, Image, ImageRecord, Progress, Store, packing,
    registry::{Access, Client, Outgoing},
    store::{CONFIG_MAX, MANIFEST_MAX},
    trust::{SigningKey, sign},
};
use crate::{
    error::{Context as _, Error, Result},
    oci::{Digest, Platform, Reference, media_type::Compression},
};

/// How an image is sent.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// How the registry is reached.
    pub access: Access,
    /// `None`: as each layer is.
    pub compression: Option<Compression>,
    /// Layers that are packed with zstd are packed so that clients may fetch single files.
    pub chunked: bool,
    /// Layers that are packed already are packed anew, too.
    pub force: bool,
    /// The compressor's own scale: 1 to 9 for gzip, 1 to 20 for zstd.
    pub level: Option<i32>,
    /// `None`: as the manifest is.
    pub format: Option<Format>,
    /// An image for another one is an error.
    pub platform: Option<Platform>,
    /// What it is signed with.
    pub sign_by: Option<Arc<SigningKey>>,
}

/// What the registry has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
}

/// Sends `image` to where `target` says, and notes the digest it has there if it is called so here.
///
/// Errors: unauthorized, and whatever a registry that refuses, breaks off or cannot be reached
/// leads to. Blobs that went through are there for the next try.
pub fn push(
    store: &Store,
    image: &Image,
    target: &Reference,
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Pushed> {
    if let Some(wanted) = &options.platform
        && wanted.rank(&image.record.platform).is_none()
    {
        return Err(Error::not_found(format!(
            "image {} is for {}, not for {wanted}",
            target.familiar(),
            image.record.platform
        )));
    }
    packing::check_level(options.compression.unwrap_or(Compression::Gzip), options.level)?;
    let _pin = store
        .pin(&image.record.id)?
        .ok_or_else(|| Error::not_found(format!("No such image: {}", image.record.id.short())))?;
    send(store, image, target, options, progress)
        .doing_with(|| format!("push {}", target.familiar()))
}

fn send(
    store: &Store,
    image: &Image,
    target: &Reference,
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let record = &image.record;
    let bytes = store.read_blob(&record.manifest, MANIFEST_MAX)?;
    let manifest: ImageManifest = serde_json::from_slice(&bytes).doing("read the manifest")?;
    let mounts = mounts(store, image, target)?;
    let place = options.access.registries.target(target)?;
    // What is mounted is named within the registry, which may stand for several.
    let moved = place.name.repository() != target.repository();
    let mounts = if moved { Vec::new() } else { mounts };
    let client = Client::of(&place, &options.access).pushing(mounts.clone());
    let format = manifest::format(options, &record.manifest_media_type)?;
    let addition = store.add();
    let layers = Layers {
        store,
        addition: &addition,
        client: &client,
        image,
        manifest: &manifest,
        mounts: &mounts,
        options,
        progress,
    };
    let (sent, made): (Vec<SentLayer>, Vec<_>) = layers.push()?.into_iter().unzip();

    let config = store.open_blob(&record.id)?;
    let size = config.metadata().doing("read the configuration")?.len();
    if size > CONFIG_MAX {
        return Err(Error::invalid(format!("configuration {} is too large", record.id)));
    }
    let config = Outgoing { digest: &record.id, size, file: &config, stop: None };
    client.push_blob(&config, &[], &|_| ())?;

    let (bytes, media_type) = rewrite(bytes, &record.manifest_media_type, format, &sent)?;
    let digest = Digest::of(&bytes);
    let which = target.tag().map_or_else(|| digest.to_string(), str::to_owned);
    if let Some(wanted) = target.digest().filter(|wanted| **wanted != digest) {
        return Err(Error::invalid(format!("the image's manifest is {digest}, not {wanted}")));
    }
    if let Some(key) = &options.sign_by {
        // Before the name means it: there is no moment without a signature.
        sign(&client, &digest, &target.to_string(), key).doing("sign it")?;
    }
    client.put_document(&which, &media_type, &bytes)?;
    // What was asked for by a flag is for that registry; how dhow packs by itself is worth keeping.
    if options.compression.is_none() && format.is_none() && digest != record.manifest {
        adopt(addition, record, (&bytes, &media_type), sent, made)?;
    }
    note(store, image, target, &digest)?;
    Ok(Pushed { digest, size: bytes.len() as u64 })
}

/// The image consists of the new blobs from now on: nothing needs to be packed next time, and the
/// plain tars can go.
fn adopt(
    addition: Addition<'_>,
    record: &ImageRecord,
    (manifest, media_type): (&[u8], &str),
    sent: Vec<SentLayer>,
    made: Vec<Option<BlobWriter>>,
) -> Result<()> {
    let store = addition.store().clone();
    let mut record = record.clone();
    let old: BTreeSet<Digest> = record.blobs().cloned().collect();
    (record.manifest, _) = addition.put_blob(&mut &manifest[..], None)?;
    record.manifest_media_type = media_type.to_owned();
    for ((layer, sent), made) in record.layers.iter_mut().zip(sent).zip(made) {
        if let Some(blob) = made {
            addition.commit_blob(blob, &sent.digest)?;
            layer.media_type = sent.compression.layer_media_type().to_owned();
            (layer.digest, layer.size) = (sent.digest, sent.size);
        }
    }
    addition.finish(record, &[])?;
    store.collect_blobs(old)
}

/// What the registry calls it, for `images --digests`.
fn note(store: &Store, image: &Image, target: &Reference, digest: &Digest) -> Result<()> {
    let name = target.stored();
    match store.name(&name)? {
        Some(named) if named.image == image.record.id && named.digest.is_none() => {
            store.tag(&name, &image.record.id, Some(digest))
        }
        _ => Ok(()),
    }
}

/// Other repositories of the registry that have layers of this image, as far as names here tell.
fn mounts(store: &Store, image: &Image, target: &Reference) -> Result<Vec<String>> {
    /// Each costs a request for every layer that it does not have.
    const MOUNTS_MAX: usize = 3;
    let diff_ids: BTreeSet<&Digest> = image.record.layers.iter().map(|l| &l.diff_id).collect();
    let mut found = BTreeSet::new();
    for other in store.list()? {
        if !other.record.layers.iter().any(|layer| diff_ids.contains(&layer.diff_id)) {
            continue;
        }
        // Only what has been there has a digest.
        let known = other.names.iter().filter(|named| named.digest.is_some());
        let names = known.map(|named| &named.name);
        let here = names.filter(|n| n.domain() == target.domain() && n.path() != target.path());
        found.extend(here.map(|name| name.path().to_owned()));
    }
    Ok(found.into_iter().take(MOUNTS_MAX).collect())
}

/// A compression that a flag names, and whether it is to be in chunks.
pub fn compression(name: &str) -> Result<(Compression, bool)> {
    match name {
        "gzip" => Ok((Compression::Gzip, false)),
        "zstd" => Ok((Compression::Zstd, false)),
        "zstd:chunked" => Ok((Compression::Zstd, true)),
        other => Err(Error::invalid(format!("unknown compression {other:?}"))
            .hint("there are gzip, zstd and zstd:chunked")),
    }
}

/// Docker's words for an image that is not here.
pub fn no_such_name(name: &Reference) -> Error {
    Error::not_found(format!("An image does not exist locally with the tag: {}", name.familiar()))
        .hint("`dhow images` lists the images there are; `dhow tag` gives them names")
}
