//! Reading caches, and taking layers from them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::PathBuf,
};

use serde::Deserialize;
use serde_json::Value;

use super::{CACHE, CachePlace, INLINE, LIST_MAX, List, VERSION};
use crate::{
    engine::{
        build::{Watch, stage::Builder},
        registry::Reach,
    },
    error::{Context as _, Error, Result},
    image::{
        LayerRef,
        ingest::{self, Unsettled},
        registry::Client,
        store::{MANIFEST_MAX, chain_ids},
        trust::{self, Trust, TrustPolicy},
    },
    oci::{Digest, Reference},
};

/// What caches offer.
#[derive(Debug, Default)]
pub(in crate::engine::build) struct Shared {
    sources: Vec<Source>,
    offers: BTreeMap<Digest, Offer>,
}

#[derive(Debug)]
enum Source {
    /// The directory of its blobs.
    Directory(PathBuf),
    Registry(Box<Client>),
}

/// What a step made elsewhere.
#[derive(Debug, Clone)]
struct Offer {
    label: String,
    diff_id: Digest,
    size: u64,
    blob: Descriptor,
    source: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Shared {
    /// Reads the caches. One that cannot be read is told of, and offers nothing.
    pub(in crate::engine::build) fn read(
        from: &[CachePlace],
        reach: &Reach,
        watch: &dyn Watch,
    ) -> Self {
        let mut shared = Self::default();
        for place in from {
            let read = match place {
                CachePlace::Directory(dir, tag) => shared.directory(dir.clone(), tag),
                CachePlace::Registry(name) => shared.registry(name, reach),
            };
            if let Err(err) = read.doing_with(|| format!("import the build cache from {place}")) {
                watch.warns(&err.to_string());
            }
        }
        shared
    }

    fn directory(&mut self, dir: PathBuf, tag: &str) -> Result<()> {
        trust::check_files(&TrustPolicy::from_env()?, "oci", Some(&dir))?;
        let path = dir.join("index.json");
        let index: Value = serde_json::from_slice(&small(&path, MANIFEST_MAX)?).at(&path)?;
        let entries = index["manifests"].as_array().into_iter().flatten();
        let entry = entries
            .filter(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag)
            .find_map(|entry| entry["digest"].as_str()?.parse::<Digest>().ok());
        let manifest = entry.ok_or_else(|| Error::not_found(format!("there is no tag {tag}")))?;
        let blobs = dir.join("blobs/sha256");
        let bytes = verified(small(&blobs.join(manifest.hex()), MANIFEST_MAX)?, &manifest)?;
        let manifest: Manifest = serde_json::from_slice(&bytes).doing("read the manifest")?;
        let config = small(&blobs.join(manifest.config.digest.hex()), LIST_MAX)?;
        self.offer(Source::Directory(blobs), &[(manifest, config)])
    }

    fn registry(&mut self, name: &Reference, reach: &Reach) -> Result<()> {
        let access = reach.access()?;
        let client = Client::of(&access.registries.target(name)?, &access);
        let which = name.digest().map(Digest::as_str).or(name.tag()).unwrap_or("latest");
        let top = client.fetch_document(which)?;
        // Its layers become an image's.
        let trust = Trust { policy: TrustPolicy::from_env()?, keys: Vec::new() };
        trust::check(&trust, &client, name, std::slice::from_ref(&top.digest))?;
        let document: Value = serde_json::from_slice(&top.bytes).doing("read the manifest")?;
        // Of an image for several platforms, all of them.
        let mut all = Vec::new();
        let listed = document["manifests"].as_array().into_iter().flatten();
        let listed: Vec<&str> = listed.filter_map(|entry| entry["digest"].as_str()).collect();
        match listed.is_empty() {
            true => all.push(top.bytes),
            false => {
                for digest in listed {
                    let digest: Digest = digest.parse()?;
                    all.push(client.fetch_document(digest.as_str())?.bytes);
                }
            }
        }
        let mut caches = Vec::new();
        for bytes in all {
            let manifest: Manifest = serde_json::from_slice(&bytes).doing("read the manifest")?;
            let config = &manifest.config;
            if config.size > LIST_MAX {
                return Err(Error::invalid(format!("a list of {} bytes", config.size)));
            }
            let mut bytes = Vec::new();
            client.fetch_blob(&config.digest, config.size).read_to_end(&mut bytes)?;
            caches.push((manifest, bytes));
        }
        self.offer(Source::Registry(Box::new(client)), &caches)
    }

    /// Takes up what the lists say. A step that an earlier cache has stays that one's.
    fn offer(&mut self, source: Source, caches: &[(Manifest, Vec<u8>)]) -> Result<()> {
        let at = self.sources.len();
        let mut has_list = false;
        for (manifest, config) in caches {
            let config = verified(config.clone(), &manifest.config.digest)?;
            let document: Value = serde_json::from_slice(&config).doing("read the list")?;
            let list = match manifest.config.media_type == CACHE {
                true => document,
                false => document.get(INLINE).cloned().unwrap_or_default(),
            };
            if list.is_null() {
                continue;
            }
            if list["version"] != VERSION {
                return Err(Error::unsupported("the cache is of another version of dhow"));
            }
            has_list = true;
            let list: List = serde_json::from_value(list).doing("read the list")?;
            for step in list.steps {
                let blob = manifest.layers.get(step.layer).cloned();
                let blob = blob.ok_or_else(|| Error::invalid("the list names no layer"))?;
                let (label, diff_id, size) = (step.label, step.diff_id, step.size);
                let offer = Offer { label, diff_id, size, blob, source: at };
                self.offers.entry(step.key).or_insert(offer);
            }
        }
        self.sources.push(source);
        match has_list {
            true => Ok(()),
            false => Err(Error::not_found("it holds no build cache of dhow's")
                .hint("--cache-to type=inline puts one into the image, type=registry beside it")),
        }
    }
}

impl Builder<'_> {
    /// The layer that a cache has for the step, fetched and unpacked; `None` if there is none, or
    /// it cannot be had.
    pub(in crate::engine::build) fn take_shared(
        &self,
        below: &[LayerRef],
        key: &Digest,
    ) -> Result<Option<LayerRef>> {
        let Some(offer) = self.shared.offers.get(key) else { return Ok(None) };
        let taken = self.take_offer(below, offer);
        match taken.doing_with(|| format!("take {:?} from the build cache", offer.label)) {
            Ok(layer) => {
                self.remember(key, &offer.label, &layer, offer.size);
                Ok(Some(layer))
            }
            Err(err) => {
                self.go_on()?;
                self.watch.warns(&err.to_string());
                Ok(None)
            }
        }
    }

    fn take_offer(&self, below: &[LayerRef], offer: &Offer) -> Result<LayerRef> {
        let mut diff_ids: Vec<Digest> = below.iter().map(|layer| layer.diff_id.clone()).collect();
        diff_ids.push(offer.diff_id.clone());
        let chain_id = chain_ids(&diff_ids).pop();
        let chain_id = chain_id.ok_or_else(|| Error::engine("a chain without layers"))?;
        let layer = LayerRef {
            digest: offer.blob.digest.clone(),
            diff_id: offer.diff_id.clone(),
            chain_id,
            size: offer.blob.size,
            media_type: offer.blob.media_type.clone(),
        };
        let _still = self.hold_layers();
        let has_layer = self.addition.has_layer(&layer.chain_id)?;
        let has_blob = self.addition.has_blob(&layer.digest)?;
        if has_layer && has_blob {
            return Ok(layer);
        }
        let source: Box<dyn Read + Send> = match (has_blob, &self.shared.sources[offer.source]) {
            (true, _) => Box::new(self.addition.store().open_blob(&layer.digest)?),
            (false, Source::Directory(blobs)) => {
                let path = blobs.join(layer.digest.hex());
                Box::new(File::open(&path).at(&path)?)
            }
            (false, Source::Registry(client)) => {
                Box::new(client.fetch_blob(&layer.digest, layer.size))
            }
        };
        let mut source = Watched { builder: self, source };
        if has_layer {
            self.addition.put_blob(&mut source, Some((&layer.digest, layer.size)))?;
            return Ok(layer);
        }
        let blob = match has_blob {
            true => None,
            false => Some(self.addition.new_blob()?),
        };
        let mut kept = Kept { source, blob };
        let unpacked: Unsettled =
            ingest::unpack_layer(self.addition, &mut kept, &layer, &*self.unpacker)?;
        if let Some(blob) = kept.blob {
            self.addition.commit_blob(blob, &layer.digest)?;
        }
        ingest::take(self.addition, unpacked, below, &*self.unpacker)?;
        Ok(layer)
    }
}

/// Ends when the build does.
struct Watched<'a> {
    builder: &'a Builder<'a>,
    source: Box<dyn Read + Send + 'a>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.builder.go_on().map_err(io::Error::other)?;
        self.source.read(buffer)
    }
}

/// Keeps a copy of what passes.
struct Kept<R> {
    source: R,
    blob: Option<crate::image::BlobWriter>,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(blob) = &mut self.blob {
            io::Write::write_all(blob, &buffer[..count])?;
        }
        Ok(count)
    }
}

fn small(path: &std::path::Path, max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).at(path)?.take(max + 1).read_to_end(&mut bytes).at(path)?;
    match bytes.len() as u64 > max {
        true => Err(Error::invalid(format!("{} is larger than {max} bytes", path.display()))),
        false => Ok(bytes),
    }
}

fn verified(bytes: Vec<u8>, digest: &Digest) -> Result<Vec<u8>> {
    match digest.is_of(&bytes) {
        true => Ok(bytes),
        false => Err(Error::invalid(format!("{digest} has other content"))),
    }
}
