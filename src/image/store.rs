//! The images on this machine: blobs, unpacked layers, image records and names.
//!
//! Every object is complete or invisible: it is made in `staging/` (or `partial/`), verified,
//! synced and renamed into place, so that `kill -9` or a power cut leaves at most something in
//! those two directories, which [`Store::clean_staging`] recognises by its free lock. Layers wait
//! there for each other, so that one sync does for many.
//!
//! There is no global lock. What keeps an adder and a remover of the same object apart is a
//! [`Pin`] on that object:
//!
//! ```text
//!   adder (pull, load, build)                remover (rmi, prune)
//!   --------------------------------------   ----------------------------------------------
//!   pins each blob and layer: shared lock,   locks the image exclusively: waits for who is
//!     then checks it is still at its path      about to name it or to make a container of it
//!   makes what is missing in staging,        removes the names, then the record, then:
//!     pinned from birth; a rename carries    tries to lock each blob and layer exclusively;
//!     the pin along                            what is pinned is left to its adder
//!   pins the image's directory, writes       with those locks held, reads every image record
//!     image.json and the names                 and asks which layers containers use
//!   lets go                                  renames what nothing refers to into staging,
//!                                              and deletes it there
//! ```
//!
//! A record is written while its parts are pinned and references are read while parts are
//! locked, so a part is either seen to be referenced or cannot be referenced any more: the
//! adder finds it gone and makes it anew. An object is never replaced, only made or removed
//! (an image's record, which can only be replaced by an equal one or one with other
//! compressed layers, is the exception), so a pin is never on a stale copy. Names are replaced and
//! removed under the exclusive lock of the file that is there; the first is made by a link that
//! must not exist. A crash between any two steps leaves parts without a record or a record
//! without a name, never the reverse.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{collect::RemoveTree, config, lock::Pin};
use crate::{
    error::{Context as _, Error, Kind, Result},
    oci::{Digest, Platform, Reference},
    state::{
        Layout,
        store::{Durability, create_private_dir, read_json, read_json_or, write},
    },
};

/// The layout's version that this dhow writes, and the newest it reads.
const VERSION: u32 = 1;

/// Largest manifest or index, in bytes (distribution-spec, "Pushing Manifests", asks registries
/// for at least 4 MiB; nothing honest comes near).
pub const MANIFEST_MAX: u64 = 4 << 20;
/// Largest image configuration, in bytes.
pub const CONFIG_MAX: u64 = 8 << 20;
/// Most layers in one image. Each holds two descriptors while its image is being added, under
/// the usual soft limit of 1024; Docker's own limit is 127.
pub const LAYERS_MAX: usize = 400;

/// `images/<id>/image.json`: one image and its parts. The id is the digest of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of the configuration, which is a blob too.
    pub id: Digest,
    /// The blob with the manifest it came by last.
    pub manifest: Digest,
    /// As the registry or the manifest itself says.
    pub manifest_media_type: String,
    /// Bottom first.
    pub layers: Vec<LayerRef>,
    /// What the configuration says it runs on.
    pub platform: Platform,
    /// When the image says it was made.
    pub created: Option<Timestamp>,
    /// When it came here.
    pub added: Timestamp,
    /// Bytes of file content in all layers.
    pub size: u64,
}

impl ImageRecord {
    /// The chainIDs of the layers, bottom first: what a container's rootfs is stacked of.
    pub fn chain_ids(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().map(|layer| &layer.chain_id)
    }

    /// The blobs that the image can be pushed or saved from.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
        [&self.id, &self.manifest].into_iter().chain(self.layers.iter().map(|layer| &layer.digest))
    }
}

/// One layer of an image: as a blob, as a tar and as a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// Of the blob as it was pulled.
    pub digest: Digest,
    /// Of the uncompressed tar.
    pub diff_id: Digest,
    /// Of this layer and all below it (image-spec config.md, "Layer ChainID").
    pub chain_id: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// The blob's, which says how the tar is packed.
    pub media_type: String,
}

/// `layers/<chainID>/layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Of the tar that was unpacked.
    pub diff_id: Digest,
    /// Bytes of file content.
    pub size: u64,
    /// Bytes of the tar, if the dhow that unpacked it noted them.
    #[serde(default)]
    pub tar_size: Option<u64>,
    /// It was made here, by [`super::layer::seal`]: its tar can be made of it again at any time,
    /// so that no blob need be kept.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sealed: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

/// `refs/<sha256 of name>.json`: one name of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// Complete: with a tag or a digest.
    pub name: Reference,
    /// The image's id.
    pub image: Digest,
    /// The digest that the registry knows it by: the index's where there is one. `None` for
    /// what was built or loaded here.
    #[serde(default)]
    pub digest: Option<Digest>,
}

/// An image and its names, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The image.
    pub record: ImageRecord,
    /// What it is called; perhaps nothing.
    pub names: Vec<NameRecord>,
}

/// The images that can be read.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Newest first.
    pub images: Vec<Image>,
    /// Why others, or their names, are not among them.
    pub damaged: Vec<Error>,
}

/// The chainIDs of a stack of layers, bottom first, from their diffIDs (image-spec config.md,
/// "Layer ChainID").
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// The images of one user.
#[derive(Debug, Clone)]
pub struct Store {
    layout: Layout,
}

impl Store {
    /// Opens the store, making it if this is the first time.
    ///
    /// Refuses one that a newer dhow has written.
    pub fn open(layout: Layout) -> Result<Self> {
        let path = layout.version();
        match fs::read_to_string(&path) {
            Ok(text) => check_version(&text).at(&path)?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => create(&layout)?,
            Err(err) => return Err(err).at(&path),
        }
        Ok(Self { layout })
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Keeps the image from being removed while a container is made of it. `None` if it is not
    /// there (any more).
    pub fn pin(&self, id: &Digest) -> Result<Option<Pin>> {
        let Some(pin) = Pin::shared(&self.image_dir(id))? else { return Ok(None) };
        // The directory is made before the record and removed after it. The record's time is when
        // the image was last used: it is written once.
        let record = self.layout.image(id);
        let now = std::time::SystemTime::now();
        match File::open(&record) {
            Ok(file) => {
                if let Err(err) = file.set_times(fs::FileTimes::new().set_modified(now)) {
                    log::debug!("{}: note its use: {err}", record.display());
                }
                Ok(Some(pin))
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err).at(record),
        }
    }

    // ---- reading ----

    /// Whether the blob is here now. An [`super::Addition`] asks so that it stays.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.layout.blob(digest).exists()
    }

    /// The blob's bytes, not verified again; they stay readable even if it is removed.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.layout.blob(digest);
        File::open(&path).map_err(|err| {
            if err.kind() == io::ErrorKind::NotFound {
                return Error::not_found(format!("blob {digest} is not here"));
            }
            Error::from(err).context(path.display().to_string())
        })
    }

    /// A small blob's bytes, verified again.
    pub fn read_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(max + 1)
            .read_to_end(&mut bytes)
            .doing_with(|| format!("read blob {digest}"))?;
        if bytes.len() as u64 > max {
            return Err(Error::invalid(format!("blob {digest} is larger than {max} bytes")));
        }
        if !digest.is_of(&bytes) {
            return Err(Error::engine(format!("blob {digest} is damaged on disk"))
                .hint("`dhow rmi -f` the image and pull it again"));
        }
        Ok(bytes)
    }

    /// A manifest or index.
    pub fn read_json_blob<T: DeserializeOwned>(&self, digest: &Digest) -> Result<T> {
        let bytes = self.read_blob(digest, MANIFEST_MAX)?;
        serde_json::from_slice(&bytes).doing_with(|| format!("read blob {digest}"))
    }

    /// The image's configuration.
    pub fn config(&self, image: &ImageRecord) -> Result<ImageConfiguration> {
        config::parse(&self.read_blob(&image.id, CONFIG_MAX)?)
    }

    /// When a container was last made of the image, or it was named; the time it came here else.
    pub fn last_used(&self, image: &ImageRecord) -> Timestamp {
        let noted = fs::metadata(self.layout.image(&image.id)).and_then(|meta| meta.modified());
        let noted = noted.ok().and_then(|time| Timestamp::try_from(time).ok());
        noted.map_or(image.added, |noted| noted.max(image.added))
    }

    /// Bytes of the image's blobs: what it takes to push or save it.
    pub fn content_size(&self, image: &ImageRecord) -> u64 {
        let size = |digest: &Digest| fs::metadata(self.layout.blob(digest)).map_or(0, |m| m.len());
        image.blobs().collect::<BTreeSet<_>>().into_iter().map(size).sum()
    }

    /// Whether the layer is here, complete.
    pub fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layout.layer(chain_id).exists()
    }

    /// What is known of an unpacked layer.
    pub fn layer(&self, chain_id: &Digest) -> Result<LayerRecord> {
        read_json(&self.layout.layer(chain_id).join("layer.json"))?
            .ok_or_else(|| Error::not_found(format!("layer {chain_id} is not here")))
    }

    /// Whether the layer's blob is here, or can be made of the layer.
    pub fn can_tell(&self, layer: &LayerRef) -> bool {
        self.has_blob(&layer.digest) || self.layer(&layer.chain_id).is_ok_and(|it| it.sealed)
    }

    /// Every image, newest first.
    pub fn list(&self) -> Result<Vec<Image>> {
        self.listing().map(|listing| listing.images)
    }

    /// Every image, newest first, and what cannot be read: damage hides nothing else.
    pub fn listing(&self) -> Result<Listing> {
        let (mut names, damaged) = self.read_names()?;
        let mut listing = Listing { images: Vec::new(), damaged };
        for id in self.image_ids()? {
            let (mine, others) = names.into_iter().partition(|name| name.image == id);
            names = others;
            match self.record(&id) {
                Ok(Some(record)) => listing.images.push(Image { record, names: mine }),
                Ok(None) => {}
                Err(err) => listing.damaged.push(err),
            }
        }
        let age = |image: &Image| std::cmp::Reverse((image.record.created, image.record.added));
        listing.images.sort_by_key(age);
        Ok(listing)
    }

    /// The image that has this id, with its names.
    pub fn image(&self, id: &Digest) -> Result<Option<Image>> {
        let Some(record) = self.record(id)? else { return Ok(None) };
        let names = self.names()?.into_iter().filter(|name| name.image == *id).collect();
        Ok(Some(Image { record, names }))
    }

    pub(super) fn record(&self, id: &Digest) -> Result<Option<ImageRecord>> {
        read_json_or(&self.layout.image(id), || {
            format!("`dhow rmi -f {}` removes the image; then pull or load it again", id.short())
        })
    }

    /// What one complete name stands for.
    pub fn name(&self, name: &Reference) -> Result<Option<NameRecord>> {
        read_name(&self.layout.reference(&name.to_string()))
    }

    /// Every name of every image, sorted. A damaged one hides no other: [`listing`] tells of it.
    ///
    /// [`listing`]: Self::listing
    pub fn names(&self) -> Result<Vec<NameRecord>> {
        self.read_names().map(|(names, _)| names)
    }

    /// The names, and why others cannot be read.
    pub(super) fn read_names(&self) -> Result<(Vec<NameRecord>, Vec<Error>)> {
        let (mut names, mut damaged) = (Vec::new(), Vec::new());
        for path in entries(&self.layout.refs())? {
            if path.extension().is_some_and(|extension| extension == "json") {
                match read_name(&path) {
                    Ok(name) => names.extend(name),
                    Err(err) => damaged.push(err),
                }
            }
        }
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((names, damaged))
    }

    /// The digests of all blobs.
    pub fn blobs(&self) -> Result<Vec<Digest>> {
        let mut blobs = digests_in(&self.layout.blobs().join("sha256"))?;
        blobs.extend(digests_in(&self.layout.blobs().join("sha512"))?);
        Ok(blobs)
    }

    /// Bytes of all blobs, and of those among `some`.
    pub fn blob_sizes(&self, some: &BTreeSet<Digest>) -> Result<(u64, u64)> {
        let (mut all, mut of_some) = (0, 0);
        for digest in self.blobs()? {
            let size = fs::metadata(self.layout.blob(&digest)).map_or(0, |meta| meta.len());
            all += size;
            of_some += if some.contains(&digest) { size } else { 0 };
        }
        Ok((all, of_some))
    }

    /// The chainIDs of all layers.
    pub fn layers(&self) -> Result<Vec<Digest>> {
        digests_in(&self.layout.layers())
    }

    /// Blobs that were begun and are not complete: bytes so far, and whether somebody is at it.
    pub fn downloads(&self) -> Result<Vec<(u64, bool)>> {
        let mut found = Vec::new();
        for dir in entries(&self.layout.partials())? {
            let Ok(data) = fs::metadata(dir.join("data")) else { continue };
            found.push((data.len(), Pin::exclusive_if_free(&dir)?.is_none()));
        }
        Ok(found)
    }

    pub(super) fn image_ids(&self) -> Result<Vec<Digest>> {
        digests_in(&self.layout.images())
    }

    pub(super) fn image_dir(&self, id: &Digest) -> PathBuf {
        self.layout.images().join(id.hex())
    }

    // ---- names ----

    /// Gives the image a name, taking it from whichever image had it.
    ///
    /// `digest` is what the registry calls it, if it came from one. An error if there is no such
    /// image.
    pub fn tag(&self, name: &Reference, id: &Digest, digest: Option<&Digest>) -> Result<()> {
        let _pin = self
            .pin(id)?
            .ok_or_else(|| Error::not_found(format!("no such image: {}", id.short())))?;
        self.write_name(&NameRecord {
            name: name.clone(),
            image: id.clone(),
            digest: digest.cloned(),
        })
    }

    /// Takes a name away. Returns what it stood for; `None` if there was no such name.
    pub fn untag(&self, name: &Reference) -> Result<Option<NameRecord>> {
        self.remove_name(&self.layout.reference(&name.to_string()), |_| true)
    }
}

fn check_version(text: &str) -> Result<()> {
    match text.trim().parse::<u32>() {
        Ok(version) if version <= VERSION => Ok(()),
        Ok(newer) => Err(Error::unsupported(format!(
            "the store has version {newer}; this dhow knows up to {VERSION}"
        ))
        .hint("use the newer dhow that wrote it, or another store with --root")),
        Err(_) => Err(Error::invalid("this is not the version of a dhow store")
            .hint("point --root at a directory of its own")),
    }
}

pub(super) fn read_name(path: &Path) -> Result<Option<NameRecord>> {
    read_json_or(path, || {
        "`dhow system check --repair` removes it; then name, pull or load the image again"
            .to_owned()
    })
}

/// Several first commands may do this at once; the version comes last, as the store's mark.
fn create(layout: &Layout) -> Result<()> {
    let dirs = [
        layout.blobs().join("sha256"),
        layout.root().join("partial"),
        layout.refs(),
        layout.images(),
        layout.layers(),
        layout.staging(),
    ];
    dirs.iter().try_for_each(|dir| create_private_dir(dir))?;
    write(&layout.version(), format!("{VERSION}\n").as_bytes(), Durability::Synced)
}

/// The paths in a directory; none if there is no such directory.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err).at(dir),
    };
    listing.map(|entry| Ok(entry.at(dir)?.path())).collect()
}

/// The digests that a directory's entries are called by; how long they are tells the algorithm.
pub(super) fn digests_in(dir: &Path) -> Result<Vec<Digest>> {
    let name = |path: &PathBuf| {
        let hex = path.file_name()?.to_str()?;
        Some(format!("{}:{hex}", if hex.len() == 128 { "sha512" } else { "sha256" }))
    };
    let digests = entries(dir)?;
    Ok(digests.iter().filter_map(name).filter_map(|text| text.parse().ok()).collect())
}

/// Removes a file or tree that another command may be removing too: what one finds gone, the
/// other has removed.
pub fn discard(path: &Path, remove: RemoveTree<'_>) -> Result<()> {
    const TURNS: usize = 100;
    for _ in 0..TURNS {
        let removed = match fs::symlink_metadata(path) {
            Ok(there) if there.is_dir() => remove(path),
            Ok(_) => fs::remove_file(path).at(path).doing("remove"),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(err).at(path),
        };
        match removed {
            Err(err) if err.kind() == Kind::NotFound => {}
            other => return other,
        }
    }
    Err(Error::engine(format!("{} cannot be removed", path.display())))
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::HashSet, io::Write as _, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::image::Addition;

    pub(in crate::image) fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(Layout::new(dir.path().join("root"), dir.path().join("run")));
        (dir, store.expect("open"))
    }

    pub(in crate::image) fn remove_tree(tree: &Path) -> Result<()> {
        fs::remove_dir_all(tree).at(tree)
    }

    fn nothing_in_use() -> Result<HashSet<Digest>> {
        Ok(HashSet::new())
    }

    fn name(text: &str) -> Reference {
        text.parse().expect(text)
    }

    fn put(addition: &Addition<'_>, content: &str) -> Digest {
        addition.put_blob(&mut content.as_bytes(), None).expect("put").0
    }

    fn put_layer(addition: &Addition<'_>, content: &str, chain_id: &Digest) {
        if addition.has_layer(chain_id).expect("has") {
            return;
        }
        let staged = addition.stage_layer().expect("stage");
        fs::write(staged.diff().join("file"), content).expect("write");
        let record = LayerRecord {
            diff_id: Digest::of(content.as_bytes()),
            size: 1,
            tar_size: Some(content.len() as u64),
            sealed: false,
        };
        addition.commit_layer(staged, chain_id, &record, &remove_tree).expect("commit");
        addition.publish(&remove_tree).expect("publish");
    }

    /// An image whose layers are the given texts, bottom first.
    pub(in crate::image) fn add(
        store: &Store,
        config: &str,
        layers: &[&str],
        names: &[&str],
    ) -> Image {
        let addition = store.add();
        let diff_ids: Vec<_> = layers.iter().map(|text| Digest::of(text.as_bytes())).collect();
        let refs = layers.iter().zip(&diff_ids).zip(chain_ids(&diff_ids));
        let layers = refs.map(|((text, diff_id), chain_id)| {
            put_layer(&addition, text, &chain_id);
            LayerRef {
                digest: put(&addition, text),
                diff_id: diff_id.clone(),
                chain_id,
                size: text.len() as u64,
                media_type: crate::oci::media_type::OCI_LAYER.into(),
            }
        });
        let record = ImageRecord {
            layers: layers.collect(),
            id: put(&addition, config),
            manifest: put(&addition, &format!("manifest of {config}")),
            manifest_media_type: crate::oci::media_type::OCI_MANIFEST.into(),
            platform: Platform::new("linux", "amd64", None),
            created: None,
            added: Timestamp::UNIX_EPOCH,
            size: 1,
        };
        let names: Vec<_> = names.iter().map(|text| (name(text), None)).collect();
        addition.finish(record, &names).expect("finish")
    }

    fn count(path: &Path) -> usize {
        fs::read_dir(path).expect("list").count()
    }

    #[test]
    fn a_newer_store_is_refused_and_a_foreign_directory_too() {
        let (_dir, store) = store();
        Store::open(store.layout.clone()).expect("opens again");
        fs::write(store.layout.version(), "2\n").expect("write");
        let err = Store::open(store.layout.clone()).expect_err("newer");
        assert!(err.to_string().contains("the store has version 2"), "{err}");
        fs::write(store.layout.version(), "cat").expect("write");
        assert_eq!(Store::open(store.layout.clone()).expect_err("foreign").kind(), Kind::Invalid);
    }

    #[test]
    fn the_store_is_private() {
        let (_dir, store) = store();
        for path in [store.layout.root().to_owned(), store.layout.blobs(), store.layout.staging()] {
            let mode = fs::metadata(&path).expect("stat").permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn a_blob_is_verified_or_leaves_nothing() {
        let (_dir, store) = store();
        let addition = store.add();
        let good = Digest::of(b"content");
        let put = |bytes: &str, digest: &Digest, size| {
            addition
                .put_blob(&mut bytes.as_bytes(), Some((digest, size)))
                .map_err(|e| e.to_string())
        };
        assert!(
            put("content", &Digest::of(b"x"), 7).expect_err("digest").contains("other content")
        );
        assert!(put("conten", &good, 7).expect_err("short").contains("ends after 6 of 7"));
        assert!(put("content!", &good, 7).expect_err("long").contains("longer than the 7"));
        let sha512 = format!("sha512:{}", "0".repeat(128)).parse().expect("digest");
        assert!(put("content", &sha512, 7).expect_err("sha512").contains("other content"));
        assert_eq!(count(&store.layout.staging()), 0);
        assert_eq!(count(&store.layout.blobs().join("sha256")), 0);
        assert_eq!(put("content", &good, 7), Ok((good.clone(), 7)));
        assert_eq!(put("content", &good, 7), Ok((good.clone(), 7)), "again is no error");
        let mut hasher = crate::oci::Hasher::like(&sha512);
        hasher.update(b"content");
        let long = hasher.finish();
        assert_eq!(put("content", &long, 7), Ok((long.clone(), 7)));
        assert_eq!(store.read_blob(&long, 7).expect("read"), b"content");
        assert_eq!(store.blobs().expect("list").len(), 2);
        assert_eq!(store.read_blob(&good, 7).expect("read"), b"content");
        assert!(store.read_blob(&good, 6).expect_err("cap").to_string().contains("larger"));
        fs::write(store.layout.blob(&good), "c0ntent").expect("damage");
        assert!(store.read_blob(&good, 7).expect_err("damage").to_string().contains("damaged"));
    }

    #[test]
    fn what_is_typed_finds_the_local_image() {
        let (_dir, store) = store();
        let one = add(&store, "one", &["a"], &["alpine:3", "localhost/app"]);
        let two = add(&store, "two", &["a"], &["ghcr.io/x/y:1"]);
        let index = Digest::of(b"index");
        store.tag(&name("ghcr.io/x/y:2"), &two.record.id, Some(&index)).expect("tag");
        let resolve = |typed: &str| store.resolve(typed).expect(typed).map(|image| image.record.id);
        for typed in ["alpine:3", "docker.io/library/alpine:3", "app", "localhost/app:latest"] {
            assert_eq!(resolve(typed).as_ref(), Some(&one.record.id), "{typed}");
        }
        let id = &two.record.id;
        let by_index = format!("ghcr.io/x/y@{index}");
        let by_manifest = format!("ghcr.io/x/y:1@{}", two.record.manifest);
        let prefix = format!("sha256:{}", id.short());
        for typed in
            ["ghcr.io/x/y:1", &by_index, &by_manifest, id.hex(), id.as_str(), id.short(), &prefix]
        {
            assert_eq!(resolve(typed).as_ref(), Some(id), "{typed}");
        }
        for typed in ["alpine", "y:1", &format!("z@{index}"), "abcdefabcdef"] {
            assert_eq!(resolve(typed), None, "{typed}");
        }
        assert!(store.resolve("NO:PE").is_err());
    }

    #[test]
    fn an_ambiguous_beginning_is_an_error() {
        let (_dir, store) = store();
        for n in 0..=255u8 {
            fs::create_dir(store.layout.images().join(Digest::of(&[n, 1]).hex())).ok();
        }
        let prefix = (0..=255).map(|b| format!("{b:02x}")).find(|p| {
            store.image_ids().expect("ids").iter().filter(|id| id.hex().starts_with(p)).count() > 1
        });
        let err =
            store.resolve(&prefix.expect("256 ids share a beginning")).expect_err("ambiguous");
        assert!(err.to_string().contains("several images"), "{err}");
    }

    #[test]
    fn names_move_and_go() {
        let (_dir, store) = store();
        let one = add(&store, "one", &["a"], &["app"]);
        let two = add(&store, "two", &["a"], &["app"]);
        assert_eq!(store.image(&one.record.id).expect("read").expect("there").names, []);
        assert_eq!(two.names.len(), 1);
        let gone = store.untag(&name("app")).expect("untag").expect("was there");
        assert_eq!(gone.image, two.record.id);
        assert_eq!(store.untag(&name("app")).expect("untag"), None);
        assert_eq!(store.list().expect("list").len(), 2, "nameless images stay");
        let nobody = Digest::of(b"nobody");
        assert_eq!(store.tag(&name("x"), &nobody, None).expect_err("none").kind(), Kind::NotFound);
    }

    #[test]
    fn removal_leaves_what_others_use() {
        let (_dir, store) = store();
        let one = add(&store, "one", &["base", "top one"], &["one"]);
        let two = add(&store, "two", &["base", "top two"], &["two"]);
        let three = add(&store, "three", &["base", "top three"], &["three"]);
        let top = two.record.layers[1].chain_id.clone();
        let container = || Ok([top.clone()].into());
        let removed = store.remove(&one.record.id, &container, &remove_tree).expect("remove");
        assert_eq!(removed.names, one.names);
        assert_eq!(removed.layers, [one.record.layers[1].chain_id.clone()]);
        assert_eq!(removed.blobs.len(), 3, "config, manifest and its own layer");
        let removed = store.remove(&two.record.id, &container, &remove_tree).expect("remove");
        assert_eq!(removed.layers, [], "a container stands on the top, an image on the base");
        store.remove(&three.record.id, &container, &remove_tree).expect("remove");
        assert_eq!(digests_in(&store.layout.layers()).expect("list"), std::slice::from_ref(&top));
        store.collect_garbage(&nothing_in_use, &remove_tree).expect("collect");
        for dir in [
            store.layout.layers(),
            store.layout.blobs().join("sha256"),
            store.layout.images(),
            store.layout.refs(),
            store.layout.staging(),
        ] {
            assert_eq!(count(&dir), 0, "{}", dir.display());
        }
    }

    #[test]
    fn what_an_addition_found_stays_until_it_ends() {
        let (_dir, store) = store();
        let one = add(&store, "one", &["base"], &["one"]);
        let layer = one.record.layers[0].clone();
        let addition = store.add();
        assert!(addition.has_layer(&layer.chain_id).expect("has"));
        assert!(addition.has_blob(&layer.digest).expect("has"));
        store.remove(&one.record.id, &nothing_in_use, &remove_tree).expect("remove");
        assert!(store.has_layer(&layer.chain_id) && store.has_blob(&layer.digest));
        drop(addition);
        store.collect_garbage(&nothing_in_use, &remove_tree).expect("collect");
        assert!(!store.has_layer(&layer.chain_id) && !store.has_blob(&layer.digest));
    }

    #[test]
    fn removal_waits_for_who_pins_the_image() {
        let (_dir, store) = store();
        let id = add(&store, "one", &["base"], &["one"]).record.id;
        let pin = store.pin(&id).expect("pin").expect("there");
        std::thread::scope(|scope| {
            let remover = scope.spawn(|| store.remove(&id, &nothing_in_use, &remove_tree));
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert!(store.image(&id).expect("read").is_some());
            drop(pin);
            remover.join().expect("join").expect("remove");
        });
        assert!(store.pin(&id).expect("pin").is_none());
    }

    #[test]
    fn leftovers_of_the_dead_go_and_work_of_the_living_stays() {
        let (_dir, store) = store();
        fs::create_dir_all(store.layout.staging().join("layer-dead/diff/x")).expect("mkdir");
        fs::write(store.layout.staging().join("file-dead"), "x").expect("write");
        let addition = store.add();
        let staged = addition.stage_layer().expect("stage");
        let mut writer = addition.new_blob().expect("blob");
        writer.write_all(b"x").expect("write");
        store.collect_garbage(&nothing_in_use, &remove_tree).expect("collect");
        assert_eq!(count(&store.layout.staging()), 2);
        assert!(staged.diff().exists());
        addition.commit_blob(writer, &Digest::of(b"x")).expect("commit");
        staged.discard(&remove_tree).expect("discard");
        assert_eq!(count(&store.layout.staging()), 0);
    }

    #[test]
    fn a_partial_blob_survives_and_is_taken_up() {
        let (_dir, store) = store();
        let digest = Digest::of(b"whole");
        let addition = store.add();
        let mut partial = addition.fetch_blob(&digest).expect("fetch").expect("mine");
        partial.writer().write_all(b"who").expect("write");
        drop(partial);
        let mut partial = addition.fetch_blob(&digest).expect("fetch").expect("mine");
        assert_eq!(partial.size().expect("size"), 3);
        partial.writer().write_all(b"le").expect("write");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| store.add().fetch_blob(&digest).expect("fetch").is_none());
            std::thread::sleep(std::time::Duration::from_millis(30));
            addition.commit_fetched(partial, &digest).expect("commit");
            assert!(waiter.join().expect("join"), "who waited finds the blob");
        });
        assert_eq!(store.read_blob(&digest, 9).expect("read"), b"whole");
        assert_eq!(count(&store.layout.root().join("partial")), 0);
    }

    #[test]
    fn a_damaged_record_stops_collection_but_not_its_own_removal() {
        let (_dir, store) = store();
        let one = add(&store, "one", &["base"], &["one"]);
        let two = add(&store, "two", &["other"], &["two"]);
        fs::write(store.layout.image(&one.record.id), "{\"id\":").expect("truncate");
        let listing = store.listing().expect("list");
        assert_eq!(listing.images, std::slice::from_ref(&two), "damage hides nothing else");
        assert!(listing.damaged[0].to_string().contains("damaged"));
        assert!(store.remove(&two.record.id, &nothing_in_use, &remove_tree).is_err());
        assert!(store.has_layer(&one.record.layers[0].chain_id), "unknown references protect");
        store.remove(&one.record.id, &nothing_in_use, &remove_tree).expect("remove");
        assert_eq!(count(&store.layout.layers()), 0);
    }

    #[test]
    fn adders_and_removers_never_leave_an_image_without_its_parts() {
        let (_dir, store) = store();
        let whole = |image: &Image| {
            image.record.chain_ids().all(|chain_id| store.has_layer(chain_id))
                && image.record.blobs().all(|digest| store.has_blob(digest))
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..40 {
                        let config = format!("config {}", (thread + round) % 3);
                        let top = format!("top {}", round % 2);
                        let image = add(
                            store,
                            &config,
                            &["base", &top],
                            &["app", &config.replace(' ', "")],
                        );
                        if round % 3 == thread % 3 {
                            let removed =
                                store.remove(&image.record.id, &nothing_in_use, &remove_tree);
                            let gone = removed.as_ref().err().map(Error::kind);
                            assert!(matches!(gone, None | Some(Kind::NotFound)), "{removed:?}");
                        }
                        if round % 7 == 0 {
                            store.collect_garbage(&nothing_in_use, &remove_tree).expect("collect");
                        }
                    }
                });
            }
        });
        let images = store.list().expect("list");
        assert!(images.iter().all(whole), "{images:?}");
        for name in store.names().expect("names") {
            assert!(images.iter().any(|image| image.record.id == name.image), "{name:?} dangles");
        }
        for image in images {
            store.remove(&image.record.id, &nothing_in_use, &remove_tree).expect("remove");
        }
        store.collect_garbage(&nothing_in_use, &remove_tree).expect("collect");
        assert_eq!(count(&store.layout.layers()), 0);
        assert_eq!(count(&store.layout.staging()), 0);
    }
}
