//! Images as files: what `docker load`, `podman load`, skopeo and dhow read.
//!
//! * [`Format::Docker`]: an OCI layout that also has docker's `manifest.json`, as docker writes it
//!   since version 25, so that readers of either kind find their way.
//! * [`Format::Oci`]: an OCI image layout (image-spec image-layout.md).
//! * [`Format::Dir`]: one image as skopeo's `dir:` has it.
//!
//! Layers are the blobs as they came: nothing is packed anew, and the same images give the same
//! bytes. Every blob is verified as it is read.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    num::NonZero,
    os::unix::fs::{DirBuilderExt as _, FileExt as _},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use oci_spec::image::ImageManifest;
use serde_json::{Value, json};

use super::header;
use crate::{
    error::{Context as _, Error, Result},
    image::{Addition, ImageRecord, LayerRef, Store, store::MANIFEST_MAX},
    oci::{Digest, Hasher, Reference, media_type},
};

const BUFFER: usize = 256 << 10;
const BLOCK: u64 = 512;

/// How the files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Docker,
    Oci,
    Dir,
}

/// How images are saved.
#[derive(Debug, Clone, Copy)]
pub struct Save {
    pub format: Format,
    /// Layers as plain tars, as docker writes them.
    pub uncompressed: bool,
}

/// One image and the names that it is saved with.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub image: ImageRecord,
    pub names: Vec<Reference>,
    /// What an OCI layout calls it if that is no whole name.
    pub tag: Option<String>,
}

/// Where the files go.
pub trait Sink {
    /// Makes a file of exactly `size` bytes, which `content` yields.
    fn file(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()>;
    /// Makes a directory.
    fn directory(&mut self, name: &str) -> Result<()>;
    /// Makes a file of a blob or a layer's tar, perhaps later.
    fn part(&mut self, name: &str, part: &Part, store: &Store) -> Result<()> {
        self.file(name, part.size, &mut *part.open(store)?)
    }
    /// Does what was left for later.
    fn complete(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A tar, whose members are nobody's and of no time.
#[derive(Debug)]
pub struct Tar<W>(W);

impl<W: Write> Tar<W> {
    pub fn new(out: W) -> Self {
        Self(out)
    }

    /// Ends the archive (pax(1): two empty blocks).
    pub fn finish(mut self) -> Result<W> {
        self.0.write_all(&[0; 2 * 512]).and_then(|()| self.0.flush()).doing("write the archive")?;
        Ok(self.0)
    }

    fn header(&mut self, name: &str, kind: tar::EntryType, size: u64) -> Result<()> {
        self.0.write_all(&header(name.as_bytes(), kind, size)).doing("write the archive")
    }
}

impl<W: Write> Sink for Tar<W> {
    fn file(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        self.header(name, tar::EntryType::Regular, size)?;
        copy(content, &mut self.0, size).doing_with(|| format!("write {name}"))?;
        let padding = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut io::repeat(0).take(padding), &mut self.0).doing("write the archive")?;
        Ok(())
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        self.header(&format!("{name}/"), tar::EntryType::Directory, 0)
    }
}

/// The same in a file of its own, which is empty: blobs and tars are written to their places side by
/// side, by as many as there are processors, and it is whole once that is complete.
#[derive(Debug)]
pub struct Placed<'a> {
    file: &'a File,
    store: &'a Store,
    at: u64,
    /// With their places.
    parts: Vec<(u64, Part)>,
}

impl<'a> Placed<'a> {
    pub fn new(file: &'a File, store: &'a Store) -> Self {
        Self { file, store, at: 0, parts: Vec::new() }
    }

    fn header(&mut self, name: &str, kind: tar::EntryType, size: u64) -> Result<()> {
        let header = header(name.as_bytes(), kind, size);
        self.file.write_all_at(&header, self.at).doing("write the archive")?;
        self.at += header.len() as u64;
        Ok(())
    }

    fn write(&self, at: u64, part: &Part) -> Result<()> {
        let mut place = Place { file: self.file, at };
        copy(&mut *part.open(self.store)?, &mut place, part.size)
            .doing_with(|| format!("write {}", part.path()))
    }
}

impl Sink for Placed<'_> {
    fn file(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        self.header(name, tar::EntryType::Regular, size)?;
        let mut place = Place { file: self.file, at: self.at };
        copy(content, &mut place, size).doing_with(|| format!("write {name}"))?;
        self.at += size.next_multiple_of(BLOCK);
        Ok(())
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        self.header(&format!("{name}/"), tar::EntryType::Directory, 0)
    }

    fn part(&mut self, name: &str, part: &Part, _store: &Store) -> Result<()> {
        self.header(name, tar::EntryType::Regular, part.size)?;
        self.parts.push((self.at, part.clone()));
        self.at += part.size.next_multiple_of(BLOCK);
        Ok(())
    }

    fn complete(&mut self) -> Result<()> {
        // What nobody writes to is zeros.
        self.file.set_len(self.at + 2 * BLOCK).doing("write the archive")?;
        // The largest first, so that nobody is left alone with one at the end.
        self.parts.sort_by_key(|(_, part)| std::cmp::Reverse(part.size));
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some((at, part)) = self.parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(err) = self.write(*at, part) {
                    next.store(self.parts.len(), Ordering::Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(err);
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        thread::scope(|scope| {
            for _ in 1..threads.min(self.parts.len()) {
                // Without a thread, those that there are do its share.
                if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// A place in a file.
struct Place<'a> {
    file: &'a File,
    at: u64,
}

impl Write for Place<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write_at(bytes, self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Files in a directory, which is there.
#[derive(Debug)]
pub struct Directory(pub PathBuf);

impl Sink for Directory {
    fn file(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        let path = self.0.join(name);
        let mut file = File::create_new(&path).at(&path).doing("create")?;
        copy(content, &mut file, size).at(&path)
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        fs::DirBuilder::new().mode(0o755).create(&path).at(&path).doing("create")
    }
}

/// Copies exactly `size` bytes, and reads on to the end, where a source may say what is wrong.
fn copy(source: &mut dyn Read, target: &mut dyn Write, size: u64) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    loop {
        match source.read(&mut buffer)? {
            0 if done == size => return Ok(()),
            0 => return Err(Error::engine(format!("only {done} of {size} bytes are there"))),
            count if done + count as u64 > size => {
                return Err(Error::engine(format!("there are more than {size} bytes")));
            }
            count => {
                target.write_all(&buffer[..count])?;
                done += count as u64;
            }
        }
    }
}

/// Writes the images to `sink`. Nothing of them can be removed meanwhile.
pub fn save(store: &Store, images: &[Wanted], how: Save, sink: &mut dyn Sink) -> Result<()> {
    let addition = store.add();
    let saved: Vec<Saved> = images
        .iter()
        .map(|wanted| {
            Saved::new(&addition, wanted, how.uncompressed)
                .doing_with(|| format!("save image {}", wanted.image.id.short()))
        })
        .collect::<Result<_>>()?;
    match how.format {
        Format::Dir => dir(store, &saved, sink)?,
        Format::Docker | Format::Oci => layout(store, &saved, how.format, sink)?,
    }
    sink.complete()
}

/// One image's files.
struct Saved {
    names: Vec<Reference>,
    tag: Option<String>,
    config: Part,
    /// Bottom first.
    layers: Vec<Part>,
    manifest: Vec<u8>,
    media_type: String,
}

/// A blob of the archive: of the store, or a layer's tar.
#[derive(Debug, Clone)]
pub struct Part {
    digest: Digest,
    size: u64,
    tar: Option<LayerRef>,
}

impl Part {
    fn of_blob(addition: &Addition<'_>, digest: &Digest) -> Result<Self> {
        if !addition.has_blob(digest)? {
            return Err(Error::not_found(format!("blob {digest} is not here"))
                .hint("`dhow system check` tells how to get it again"));
        }
        let file = addition.store().open_blob(digest)?;
        let size = file.metadata().doing("measure a blob")?.len();
        Ok(Self { digest: digest.clone(), size, tar: None })
    }

    fn of_tar(addition: &Addition<'_>, layer: &LayerRef) -> Result<Self> {
        Self::of_blob(addition, &layer.digest)?;
        let size = addition.store().tar_size(layer)?;
        Ok(Self { digest: layer.diff_id.clone(), size, tar: Some(layer.clone()) })
    }

    fn open(&self, store: &Store) -> Result<Box<dyn Read>> {
        Ok(match &self.tar {
            Some(layer) => Box::new(store.tarball(layer)?),
            None => Box::new(Verified {
                blob: store.open_blob(&self.digest)?,
                hasher: Hasher::like(&self.digest),
                digest: self.digest.clone(),
            }),
        })
    }

    fn path(&self) -> String {
        blob_path(&self.digest)
    }
}

pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// A blob, whose last read is an error if it is not what it is called.
struct Verified {
    blob: File,
    hasher: Hasher,
    digest: Digest,
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        if count == 0 && !buffer.is_empty() && self.hasher.clone().finish() != self.digest {
            let damaged = Error::engine(format!("blob {} is damaged on disk", self.digest));
            return Err(io::Error::other(damaged.hint("`dhow system check --repair` removes it")));
        }
        Ok(count)
    }
}

impl Saved {
    fn new(addition: &Addition<'_>, wanted: &Wanted, uncompressed: bool) -> Result<Self> {
        let image = &wanted.image;
        let layers: Vec<Part> = image
            .layers
            .iter()
            .map(|layer| match uncompressed && layer.digest != layer.diff_id {
                true => Part::of_tar(addition, layer),
                false => Part::of_blob(addition, &layer.digest),
            })
            .collect::<Result<_>>()?;
        let config = Part::of_blob(addition, &image.id)?;
        let manifest = addition.store().read_blob(&image.manifest, MANIFEST_MAX)?;
        let parsed: ImageManifest = serde_json::from_slice(&manifest)?;
        let named = parsed.layers().iter().map(|layer| layer.digest().to_string());
        // The manifest may name the same tars in another packing than is kept here.
        let (manifest, media_type) = match named
            .eq(layers.iter().map(|part| part.digest.to_string()))
        {
            true => (manifest, image.manifest_media_type.clone()),
            false => (manifest_of(image, &config, &layers)?, media_type::OCI_MANIFEST.to_owned()),
        };
        let mut names: Vec<_> = wanted.names.clone();
        names.sort();
        names.dedup();
        Ok(Self { names, tag: wanted.tag.clone(), config, layers, manifest, media_type })
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}

fn manifest_of(image: &ImageRecord, config: &Part, layers: &[Part]) -> Result<Vec<u8>> {
    let layers: Vec<Value> = layers
        .iter()
        .zip(&image.layers)
        .map(|(part, layer)| {
            let packed = if part.tar.is_some() { media_type::OCI_LAYER } else { &layer.media_type };
            json!({ "mediaType": packed, "digest": part.digest, "size": part.size })
        })
        .collect();
    let config = json!({
        "mediaType": media_type::OCI_CONFIG, "digest": config.digest, "size": config.size,
    });
    Ok(serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": config,
        "layers": layers,
    }))?)
}

pub(super) fn put(sink: &mut dyn Sink, name: &str, bytes: &[u8]) -> Result<()> {
    sink.file(name, bytes.len() as u64, &mut &bytes[..])
}

/// An OCI layout, with docker's manifest if that is the format.
fn layout(store: &Store, saved: &[Saved], format: Format, sink: &mut dyn Sink) -> Result<()> {
    sink.directory("blobs")?;
    let mut algorithms = BTreeSet::new();
    let mut written = BTreeSet::new();
    for image in saved {
        for part in image.layers.iter().chain([&image.config]) {
            if algorithms.insert(part.digest.algorithm().to_owned()) {
                sink.directory(&format!("blobs/{}", part.digest.algorithm()))?;
            }
            if written.insert(part.digest.clone()) {
                sink.part(&part.path(), part, store)?;
            }
        }
        if algorithms.insert("sha256".to_owned()) {
            sink.directory("blobs/sha256")?;
        }
        if written.insert(image.digest()) {
            put(sink, &blob_path(&image.digest()), &image.manifest)?;
        }
    }
    let manifests: Vec<Value> = saved.iter().flat_map(|image| entries(image, format)).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": manifests,
    });
    put(sink, "index.json", &serde_json::to_vec(&index)?)?;
    if format == Format::Docker {
        let images: Vec<Value> = saved.iter().map(docker_entry).collect();
        put(sink, "manifest.json", &serde_json::to_vec(&images)?)?;
    }
    put(sink, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
}

/// The index's entries for an image: one for each name.
fn entries(image: &Saved, format: Format) -> Vec<Value> {
    let entry = |name: Option<&Reference>| {
        let mut entry = json!({
            "mediaType": image.media_type,
            "digest": image.digest(),
            "size": image.manifest.len(),
        });
        if let Some(name) = name {
            // containerd and docker want the tag alone beside their own key, podman and skopeo
            // know only this key.
            let reference = match format {
                Format::Docker => name.tag().unwrap_or_default().to_owned(),
                Format::Oci | Format::Dir => name.to_string(),
            };
            entry["annotations"] = json!({
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": reference,
            });
        }
        entry
    };
    match image.names.is_empty() {
        true => {
            let mut only = entry(None);
            if let Some(tag) = &image.tag {
                only["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
            }
            vec![only]
        }
        false => image.names.iter().map(|name| entry(Some(name))).collect(),
    }
}

/// docker image spec v1.2, `manifest.json`.
fn docker_entry(image: &Saved) -> Value {
    let names: Vec<String> = image.names.iter().map(Reference::familiar).collect();
    json!({
        "Config": image.config.path(),
        "RepoTags": if names.is_empty() { Value::Null } else { json!(names) },
        "Layers": image.layers.iter().map(Part::path).collect::<Vec<_>>(),
    })
}

/// containers/image, "directory transport": one image, its files called by the hex of their digest.
fn dir(store: &Store, saved: &[Saved], sink: &mut dyn Sink) -> Result<()> {
    let [image] = saved else {
        return Err(Error::invalid("a dir: holds one image")
            .hint("an OCI layout (oci:, oci-archive:) holds several"));
    };
    put(sink, "version", b"Directory Transport Version: 1.1\n")?;
    let mut written = BTreeSet::new();
    for part in image.layers.iter().chain([&image.config]) {
        if written.insert(&part.digest) {
            sink.part(part.digest.hex(), part, store)?;
        }
    }
    put(sink, "manifest.json", &image.manifest)
}
