//! Loads images from a docker-archive (docker image spec v1.2, "Combined Image JSON + Filesystem
//! Changeset Format") or an OCI archive (image-spec image-layout.md).

use std::{collections::BTreeMap, io::Read, path::Path};

use jiff::Timestamp;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde_json::json;

use super::{
    members::{Blob, Members},
    unpacked,
};
use crate::{
    error::{Context as _, Error, Result},
    image::{
        Addition, Image, ImageRecord, LayerRef, Progress, Store, Unpack, config,
        pull::{Fetch, host_platform, shape},
        push::Format,
        store::{CONFIG_MAX, LAYERS_MAX, MANIFEST_MAX, chain_ids},
        trust::{self, TrustPolicy},
    },
    oci::{Digest, Platform, Reference, media_type, media_type::Compression},
};

/// How deep indexes may point to indexes.
const INDEX_DEPTH_MAX: usize = 4;
/// The full name, as containerd writes it; the other may be a tag alone.
const NAME_ANNOTATIONS: [&str; 2] =
    ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// One image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub image: Image,
    /// The names that the archive gives it; none is `Loaded image ID: ...`.
    pub names: Vec<Reference>,
}

/// One image of Docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// A manifest that was found or made, and what it names.
struct Found {
    manifest: Blob,
    media_type: String,
    config: Blob,
    /// Bottom first, with their media types.
    layers: Vec<(Blob, String)>,
    names: Vec<Reference>,
    /// What an OCI layout calls it where that is no whole name: a tag alone.
    tag: Option<String>,
}

/// What images are read from.
pub struct Source<'a> {
    /// A tar, or a directory as one ([`super::DirTar`]).
    pub bytes: &'a mut dyn Read,
    /// Where that is, unless it comes from a pipe: policies may speak of it.
    pub path: Option<&'a Path>,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Adds every image of the archive that `source` yields: a tar, plain or packed with gzip or
/// zstd. `platform` is what they must be for; `None` takes what runs best here where the archive
/// has one image for several.
pub fn load(
    source: Source<'_>,
    store: &Store,
    platform: Option<&Platform>,
    unpack: &dyn Unpack,
    progress: &dyn Progress,
) -> Result<Vec<Loaded>> {
    store.clean_staging(&|tree| unpack.remove(tree))?;
    spooled(store, |spool| {
        let found = read(source, spool, platform)?;
        found.into_iter().map(|found| add(store, found, unpack, progress)).collect()
    })
}

/// Holds the archive's blobs until the last image is complete, and takes away those that none
/// has: indexes, other images, and all if something is wrong.
fn spooled(
    store: &Store,
    load: impl FnOnce(&Addition<'_>) -> Result<Vec<Loaded>>,
) -> Result<Vec<Loaded>> {
    let spool = store.add();
    let loaded = load(&spool);
    let mut left = spool.into_blobs();
    for one in loaded.iter().flatten() {
        left.retain(|blob| !one.image.record.blobs().any(|own| own == blob));
    }
    if !left.is_empty() {
        let collected = store.collect_blobs(left);
        return loaded.and_then(|loaded| collected.map(|()| loaded));
    }
    loaded
}

/// What an archive calls an image: whole names, and perhaps a tag alone.
pub type Called = (Vec<Reference>, Option<String>);

/// As [`load`], for one image: the one whose place among them `choose` tells. It gets the names in
/// `names` here instead of those it has in the archive.
pub fn load_one(
    source: Source<'_>,
    store: &Store,
    platform: Option<&Platform>,
    choose: &dyn Fn(&[Called]) -> Result<usize>,
    names: &[Reference],
    unpack: &dyn Unpack,
    progress: &dyn Progress,
) -> Result<Loaded> {
    store.clean_staging(&|tree| unpack.remove(tree))?;
    let loaded = spooled(store, |spool| {
        let mut found = read(source, spool, platform)?;
        let called: Vec<Called> =
            found.iter().map(|found| (found.names.clone(), found.tag.clone())).collect();
        let mut chosen = found.swap_remove(choose(&called)?);
        chosen.names = names.to_vec();
        Ok(vec![add(store, chosen, unpack, progress)?])
    })?;
    loaded.into_iter().next().ok_or_else(|| Error::engine("no image was chosen"))
}

/// Reads the archive to its end; what it holds is not unpacked yet.
fn read(
    source: Source<'_>,
    spool: &Addition<'_>,
    platform: Option<&Platform>,
) -> Result<Vec<Found>> {
    let chosen = platform.cloned().map_or_else(host_platform, Ok)?;
    let mut members = Members::read(&mut *unpacked(source.bytes)?, spool)?;
    let is_dir = members.has("version") && members.has("manifest.json");
    let kind = match (is_dir, members.has("manifest.json")) {
        (true, _) => "dir",
        (_, true) => "docker-archive",
        (_, false) if source.path.is_some_and(Path::is_dir) => "oci",
        (_, false) => "oci-archive",
    };
    trust::check_files(&TrustPolicy::from_env()?, kind, source.path)?;
    let found = if is_dir {
        vec![dir_image(&mut members, spool)?]
    } else if members.has("manifest.json") {
        docker_images(&mut members, spool)?
    } else if members.has("index.json") {
        oci_images(&mut members, spool, &chosen)?
    } else {
        return Err(Error::invalid("the archive has neither manifest.json nor index.json")
            .hint("`dhow import` makes an image of a tar that holds a root file system"));
    };
    if found.is_empty() {
        return Err(Error::invalid("the archive holds no image"));
    }
    for image in &found {
        let config = spool.store().read_blob(&image.config.digest, CONFIG_MAX)?;
        let other = platform_of(&config::parse(&config)?);
        if let Some(wanted) = platform.filter(|wanted| wanted.rank(&other).is_none()) {
            return Err(Error::not_found(format!("the archive has no image for {wanted}"))
                .hint(format!("there is: {other}")));
        }
    }
    Ok(found)
}

fn docker_images(members: &mut Members, spool: &Addition<'_>) -> Result<Vec<Found>> {
    let images: Vec<DockerImage> = members.json("manifest.json")?;
    images
        .iter()
        .map(|image| {
            let config = members.blob(&image.config, spool)?;
            let names = image.repo_tags.iter().flatten().map(|name| Ok(name.parse()?));
            let mut layers = Vec::new();
            for name in image.layers.iter().flatten() {
                let blob = members.blob(name, spool)?;
                let packed = packing(spool, &blob)?;
                layers.push((blob, packed.layer_media_type().to_owned()));
            }
            let manifest = make_manifest(spool, Format::Oci, &config, &layers)?;
            Ok(Found {
                manifest,
                media_type: media_type::OCI_MANIFEST.to_owned(),
                names: names.collect::<Result<_>>()?,
                tag: None,
                config,
                layers,
            })
        })
        .collect()
}

/// skopeo's `dir:`: the manifest as it was pulled, and blobs called by the hex of their digest.
fn dir_image(members: &mut Members, spool: &Addition<'_>) -> Result<Found> {
    let blob = members.blob("manifest.json", spool)?;
    let said: serde_json::Value = members.json("manifest.json")?;
    let media_type = said.get("mediaType").and_then(serde_json::Value::as_str);
    let media_type = media_type.unwrap_or(media_type::OCI_MANIFEST).to_owned();
    if media_type::document(&media_type)? != media_type::Document::Manifest {
        return Err(Error::unsupported("a dir: that holds several images"));
    }
    let manifest: ImageManifest = members.json("manifest.json")?;
    let mut part = |descriptor: &Descriptor| {
        let digest: Digest = descriptor.digest().to_string().parse()?;
        exactly(members.blob(digest.hex(), spool)?, &digest, descriptor)
    };
    let config = part(manifest.config())?;
    let mut layers = Vec::new();
    for layer in manifest.layers() {
        layers.push((part(layer)?, layer.media_type().to_string()));
    }
    Ok(Found { manifest: blob, media_type, config, layers, names: Vec::new(), tag: None })
}

/// How a layer is packed: Docker's archives do not say.
fn packing(spool: &Addition<'_>, blob: &Blob) -> Result<Compression> {
    let mut start = Vec::new();
    let file = spool.store().open_blob(&blob.digest)?;
    file.take(8).read_to_end(&mut start).doing("read a layer")?;
    super::compression(&start)
}

/// Writes the manifest that a docker-archive lacks, for layers whose media types are already this
/// format's. The same parts give the same bytes.
pub(super) fn make_manifest(
    addition: &Addition<'_>,
    format: Format,
    config: &Blob,
    layers: &[(Blob, String)],
) -> Result<Blob> {
    let descriptor = |blob: &Blob, media_type: &str| json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size});
    let layers: Vec<_> = layers.iter().map(|(blob, kind)| descriptor(blob, kind)).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": format.manifest_type(),
        "config": descriptor(config, format.config_type()),
        "layers": layers,
    });
    let bytes = serde_json::to_vec(&manifest)?;
    let (digest, size) = addition.put_blob(&mut &bytes[..], None)?;
    Ok(Blob { digest, size })
}

fn oci_images(
    members: &mut Members,
    spool: &Addition<'_>,
    platform: &Platform,
) -> Result<Vec<Found>> {
    let index: ImageIndex = members.json("index.json")?;
    let mut by_name: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
    for entry in index.manifests() {
        by_name.entry(called(entry)).or_default().push(entry.clone());
    }
    let mut found = Vec::new();
    for (name, entries) in by_name {
        let whole = name.as_ref().filter(|name| name.contains([':', '/']));
        let whole = whole
            .map(|name| name.parse::<Reference>().doing_with(|| format!("the name {name:?}")))
            .transpose()?;
        for entry in choose(entries, platform)? {
            let mut image = oci_image(members, spool, &entry, platform)?;
            image.tag = if whole.is_none() { name.clone() } else { None };
            image.names.extend(whole.clone());
            found.push(image);
        }
    }
    Ok(found)
}

/// What the index calls an entry: a whole name if it tells one, else a tag.
fn called(entry: &Descriptor) -> Option<String> {
    let annotations = entry.annotations().as_ref()?;
    let mut names = NAME_ANNOTATIONS.iter().filter_map(|key| annotations.get(*key));
    let tag = annotations.get(NAME_ANNOTATIONS[1]);
    names.find(|name| name.contains([':', '/'])).or(tag).cloned()
}

/// Entries of one name are one image for several platforms, if they say so.
fn choose(entries: Vec<Descriptor>, platform: &Platform) -> Result<Vec<Descriptor>> {
    let platforms: Vec<Platform> =
        entries.iter().filter_map(|entry| Some(entry.platform().as_ref()?.into())).collect();
    if entries.len() < 2 || platforms.len() < entries.len() {
        return Ok(entries);
    }
    match platform.best(&platforms) {
        Some(best) => Ok(entries.into_iter().skip(best).take(1).collect()),
        None => {
            let all: Vec<_> = platforms.iter().map(ToString::to_string).collect();
            Err(Error::not_found(format!("the archive has no image for {platform}"))
                .hint(format!("there are: {}", all.join(", "))))
        }
    }
}

fn oci_image(
    members: &mut Members,
    spool: &Addition<'_>,
    entry: &Descriptor,
    platform: &Platform,
) -> Result<Found> {
    let mut entry = entry.clone();
    for _ in 0..INDEX_DEPTH_MAX {
        let media_type = entry.media_type().to_string();
        media_type::document(&media_type)?;
        let manifest = described(members, spool, &entry)?;
        let bytes = spool.store().read_blob(&manifest.digest, MANIFEST_MAX)?;
        let (shape, _) = shape(&manifest.digest, &bytes, &media_type)?;
        if shape == media_type::Document::Index {
            let index: ImageIndex = spool.store().read_json_blob(&manifest.digest)?;
            let chosen = choose(index.manifests().clone(), platform)?;
            let none = || Error::invalid("an index of the archive names no image");
            entry = chosen.into_iter().next().ok_or_else(none)?;
            continue;
        }
        let parsed: ImageManifest = spool.store().read_json_blob(&manifest.digest)?;
        let config = described(members, spool, parsed.config())?;
        let mut layers = Vec::new();
        for layer in parsed.layers() {
            layers.push((described(members, spool, layer)?, layer.media_type().to_string()));
        }
        return Ok(Found { manifest, media_type, config, layers, names: Vec::new(), tag: None });
    }
    Err(Error::invalid(format!("more than {INDEX_DEPTH_MAX} indexes point to each other")))
}

/// The blob that a descriptor names, if it is as described.
fn described(members: &mut Members, spool: &Addition<'_>, descriptor: &Descriptor) -> Result<Blob> {
    let digest: Digest = descriptor.digest().to_string().parse()?;
    let name = format!("blobs/{}/{}", digest.algorithm(), digest.hex());
    exactly(members.blob(&name, spool)?, &digest, descriptor)
}

fn exactly(blob: Blob, digest: &Digest, descriptor: &Descriptor) -> Result<Blob> {
    if blob.digest != *digest || blob.size != descriptor.size() {
        return Err(Error::invalid(format!(
            "blob {digest} has {} bytes where its descriptor says {}",
            blob.size,
            descriptor.size()
        )));
    }
    Ok(blob)
}

/// Unpacks what is missing and makes the image visible.
fn add(
    store: &Store,
    found: Found,
    unpack: &dyn Unpack,
    progress: &dyn Progress,
) -> Result<Loaded> {
    let parsed = config::parse(&store.read_blob(&found.config.digest, CONFIG_MAX)?)?;
    let layers = layer_refs(&found.layers, &parsed)?;
    let addition = store.add();
    let added =
        Fetch { client: None, addition: &addition, layers: &layers, unpack, progress }.run();
    added.and(addition.publish(&|tree| unpack.remove(tree)))?;
    let names = found.names.clone();
    let image = finish(addition, found, layers, &parsed)?;
    Ok(Loaded { image, names })
}

/// Pairs the blobs with the configuration's diffIDs.
fn layer_refs(blobs: &[(Blob, String)], config: &ImageConfiguration) -> Result<Vec<LayerRef>> {
    let diff_ids: Vec<Digest> =
        config.rootfs().diff_ids().iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    if diff_ids.len() != blobs.len() || diff_ids.len() > LAYERS_MAX {
        return Err(Error::invalid(format!(
            "the archive has {} layers for an image, its configuration {} (at most {LAYERS_MAX})",
            blobs.len(),
            diff_ids.len()
        )));
    }
    let chain = chain_ids(&diff_ids);
    let parts = blobs.iter().zip(diff_ids.into_iter().zip(chain));
    Ok(parts
        .map(|((blob, media_type), (diff_id, chain_id))| LayerRef {
            digest: blob.digest.clone(),
            diff_id,
            chain_id,
            size: blob.size,
            media_type: media_type.clone(),
        })
        .collect())
}

fn platform_of(config: &ImageConfiguration) -> Platform {
    let architecture = config.architecture().to_string();
    Platform::new(&config.os().to_string(), &architecture, config.variant().as_deref())
}

fn finish(
    addition: Addition<'_>,
    found: Found,
    layers: Vec<LayerRef>,
    config: &ImageConfiguration,
) -> Result<Image> {
    let mut size = 0;
    for layer in &layers {
        size += addition.store().layer(&layer.chain_id)?.size;
    }
    let record = ImageRecord {
        id: found.config.digest,
        manifest: found.manifest.digest,
        manifest_media_type: found.media_type,
        layers,
        platform: platform_of(config),
        created: config.created().as_deref().and_then(|text| text.parse().ok()),
        added: Timestamp::now(),
        size,
    };
    let names: Vec<_> = found.names.into_iter().map(|name| (name, None)).collect();
    addition.finish(record, &names)
}

/// Adds one image from parts that are blobs already.
pub(super) fn add_made(
    store: &Store,
    format: Format,
    parts: (Blob, Blob, Vec<(Blob, String)>),
    names: Vec<Reference>,
    unpack: &dyn Unpack,
    progress: &dyn Progress,
) -> Result<Image> {
    let (manifest, config, layers) = parts;
    let media_type = format.manifest_type().to_owned();
    let found = Found { manifest, media_type, config, layers, names, tag: None };
    add(store, found, unpack, progress).map(|loaded| loaded.image)
}
