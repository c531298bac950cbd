//! Writing a cache.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::Path,
};

use serde_json::{Value, json};

use super::{CACHE, CachePlace, CacheTo, List, Used, VERSION, steps};
use crate::{
    engine::{
        Engine,
        build::{Built, Watch},
        registry::Reach,
    },
    error::{Context as _, Error, Result},
    image::{
        Addition, ImageRecord, LayerRef,
        push::repack,
        registry::{Client, Outgoing},
    },
    oci::{
        Digest, Reference,
        media_type::{OCI_INDEX, OCI_MANIFEST},
    },
};

/// What goes: the list, and the manifest that names it and the layers.
struct Cache {
    list: Vec<u8>,
    manifest: Vec<u8>,
    layers: Vec<LayerRef>,
}

/// Writes the steps of the images to where `to` says. Blobs that were made for it are noted in
/// `made`.
pub(in crate::engine::build) fn give(
    engine: &Engine,
    built: &[Built<'_>],
    to: &[CacheTo],
    reach: &Reach,
    watch: &dyn Watch,
    made: &mut BTreeSet<Digest>,
) -> Result<()> {
    for to in to {
        let CacheTo::Place { place, all, packing, ignore_error } = to else { continue };
        let written = packed(engine, built, *all, *packing, made).and_then(|cache| match place {
            CachePlace::Directory(dir, tag) => to_directory(engine, &cache, dir, tag),
            CachePlace::Registry(name) => to_registry(engine, &cache, name, reach),
        });
        match written.doing_with(|| format!("export the build cache to {place}")) {
            Err(err) if *ignore_error => watch.warns(&err.to_string()),
            written => written?,
        }
    }
    Ok(())
}

fn packed(
    engine: &Engine,
    built: &[Built<'_>],
    all: bool,
    packing: crate::image::push::Packing,
    made: &mut BTreeSet<Digest>,
) -> Result<Cache> {
    let [first, ..] = built else { return Err(Error::engine("nothing was built")) };
    let used: Vec<Used> = built
        .iter()
        .flat_map(|built| {
            let in_image =
                |used: &&Used| built.record.chain_ids().any(|c| *c == used.layer.chain_id);
            built.steps.iter().filter(move |used| all || in_image(used)).cloned()
        })
        .collect();
    let mut seen = BTreeSet::new();
    let layers: Vec<LayerRef> = used
        .iter()
        .filter(|used| seen.insert(used.layer.chain_id.clone()))
        .map(|used| used.layer.clone())
        .collect();
    // An image of them, as far as packing is concerned.
    let record = ImageRecord { layers, ..first.record.clone() };
    engine.make_blobs(&record)?;
    made.extend(record.layers.iter().map(|layer| layer.digest.clone()));
    let packed = layers_packed(&first.addition, &record, packing, made)?;
    made.extend(packed.iter().map(|layer| layer.digest.clone()));
    let list = List { version: VERSION, steps: steps(&used, &packed) };
    let list = serde_json::to_vec(&list)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": CACHE, "digest": Digest::of(&list), "size": list.len()},
        "layers": packed.iter().map(|layer| json!({
            "mediaType": layer.media_type, "digest": layer.digest, "size": layer.size,
        })).collect::<Vec<_>>(),
    });
    Ok(Cache { list, manifest: serde_json::to_vec(&manifest)?, layers: packed })
}

/// The layers as they leave.
fn layers_packed(
    addition: &Addition<'_>,
    record: &ImageRecord,
    packing: crate::image::push::Packing,
    made: &mut BTreeSet<Digest>,
) -> Result<Vec<LayerRef>> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {},
        "layers": vec![json!({}); record.layers.len()],
    });
    let (manifest, _) = addition.put_small(&serde_json::to_vec(&manifest)?)?;
    made.insert(manifest.clone());
    let record =
        ImageRecord { manifest, manifest_media_type: OCI_MANIFEST.into(), ..record.clone() };
    let packed = repack(addition, &record, packing)?;
    made.insert(packed.manifest);
    Ok(packed.layers)
}

fn to_registry(engine: &Engine, cache: &Cache, name: &Reference, reach: &Reach) -> Result<()> {
    let access = reach.access()?;
    let client = Client::of(&access.registries.target(name)?, &access).pushing(Vec::new());
    for layer in &cache.layers {
        let file = engine.store.open_blob(&layer.digest)?;
        let blob = Outgoing { digest: &layer.digest, size: layer.size, file: &file, stop: None };
        client.push_blob(&blob, &[], &|_| ())?;
    }
    let addition = engine.store.add();
    let (digest, size) = addition.put_small(&cache.list)?;
    let file = engine.store.open_blob(&digest)?;
    let sent = client
        .push_blob(&Outgoing { digest: &digest, size, file: &file, stop: None }, &[], &|_| ())
        .map(drop);
    drop(addition);
    engine.store.collect_blobs([digest].into())?;
    sent?;
    let which = name.tag().unwrap_or("latest");
    client.put_document(which, OCI_MANIFEST, &cache.manifest)
}

/// Into an image layout, which may hold other tags, and an older cache of this one.
fn to_directory(engine: &Engine, cache: &Cache, dir: &Path, tag: &str) -> Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).at(&blobs).doing("create")?;
    let index_path = dir.join("index.json");
    let mut index: Value = match fs::read(&index_path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] })
        }
        bytes => serde_json::from_slice(&bytes.at(&index_path)?).at(&index_path)?,
    };
    for layer in &cache.layers {
        let mut from = engine.store.open_blob(&layer.digest)?;
        put(&blobs, &layer.digest, &mut from)?;
    }
    put(&blobs, &Digest::of(&cache.list), &mut &cache.list[..])?;
    let manifest = Digest::of(&cache.manifest);
    put(&blobs, &manifest, &mut &cache.manifest[..])?;
    let name = "org.opencontainers.image.ref.name";
    let entries = index["manifests"].as_array_mut();
    let entries = entries.ok_or_else(|| Error::invalid("index.json lists no manifests"))?;
    let is_older = |entry: &mut Value| entry["annotations"][name] == tag;
    let old: Vec<Value> = entries.extract_if(.., is_older).collect();
    entries.push(json!({
        "mediaType": OCI_MANIFEST, "digest": manifest, "size": cache.manifest.len(),
        "annotations": { name: tag },
    }));
    let needed: BTreeSet<String> =
        entries.iter().flat_map(|entry| named_by(&blobs, entry)).collect();
    write(dir, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    write(dir, "index.json", &serde_json::to_vec(&index)?)?;
    for gone in old.iter().flat_map(|entry| named_by(&blobs, entry)) {
        if !needed.contains(&gone) {
            // Nothing names it; another export may have been faster.
            let _ = fs::remove_file(blobs.join(gone));
        }
    }
    Ok(())
}

/// The files of a manifest and of what it names, as far as it can be read.
fn named_by(blobs: &Path, entry: &Value) -> Vec<String> {
    let file = |descriptor: &Value| {
        let digest: Digest = descriptor["digest"].as_str()?.parse().ok()?;
        Some(digest.hex().to_owned())
    };
    let own = file(entry);
    let read = own.as_ref().and_then(|own| fs::read(blobs.join(own)).ok());
    let manifest: Value = read.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    let layers = manifest["layers"].as_array().into_iter().flatten();
    own.into_iter().chain(layers.chain([&manifest["config"]]).filter_map(file)).collect()
}

fn put(blobs: &Path, digest: &Digest, from: &mut dyn io::Read) -> Result<()> {
    let path = blobs.join(digest.hex());
    if path.exists() {
        return Ok(());
    }
    let mut file = tempfile::NamedTempFile::with_prefix_in(".tmp-", blobs).at(blobs)?;
    io::copy(from, &mut file).at(&path).doing("write")?;
    readable(file.as_file(), &path)?;
    file.persist(&path).map_err(|err| err.error).at(&path).doing("write").map(drop)
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let mut file = tempfile::NamedTempFile::with_prefix_in(".tmp-", dir).at(dir)?;
    io::Write::write_all(&mut file, bytes).at(&path).doing("write")?;
    readable(file.as_file(), &path)?;
    file.persist(&path).map_err(|err| err.error).at(&path).doing("write").map(drop)
}

fn readable(file: &File, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644)).at(path)
}
