//! Adding to the store: blobs, layers and at last the image, each complete before it is visible.
//!
//! The rules that keep an adder and a remover apart are drawn in [`super::store`].

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use tempfile::{NamedTempFile, TempPath};

use super::{
    collect::RemoveTree,
    lock::Pin,
    store::{Image, ImageRecord, LayerRecord, NameRecord, Store, discard},
};
use crate::{
    error::{Context as _, Error, Result},
    oci::{Digest, Hasher, Reference},
    state::store::{Durability, write_json},
};

const BUFFER: usize = 128 << 10;
/// Layers that wait for one sync: who is killed loses no more than these.
const PENDING_MAX: usize = 16;

impl Store {
    /// Begins adding an image. Everything it makes or finds stays until it is finished or dropped.
    pub fn add(&self) -> Addition<'_> {
        Addition { store: self, pins: Mutex::default(), pending: Mutex::default() }
    }

    /// Writes one name. The caller pins the image.
    pub(super) fn write_name(&self, record: &NameRecord) -> Result<()> {
        let path = self.layout().reference(&record.name.to_string());
        let text = serde_json::to_vec(record).map_err(Error::from).at(&path)?;
        loop {
            // Held to the end, so that nobody removes what this puts in its place.
            let current = Pin::exclusive(&path)?;
            if current.is_some() && fs::read(&path).is_ok_and(|old| old == text) {
                return Ok(());
            }
            let mut new = self.stage_file()?;
            new.write(&text)?;
            if new.place(&path, current.is_some())? {
                return Ok(());
            }
        }
    }

    /// A new file in staging, pinned.
    fn stage_file(&self) -> Result<StagedFile> {
        loop {
            let dir = self.layout().staging();
            let (file, path) = NamedTempFile::with_prefix_in("file-", &dir).at(&dir)?.into_parts();
            let lock = file.try_clone().at(&path)?;
            if let Some(pin) = Pin::adopt(lock, &path)? {
                return Ok(StagedFile { file, path, pin });
            }
        }
    }

    /// A directory for a command's own use, which goes when it is discarded, or with what is left
    /// of killed commands.
    pub fn scratch(&self) -> Result<StagedLayer> {
        self.stage_dir()
    }

    /// A new directory in staging, pinned.
    pub(super) fn stage_dir(&self) -> Result<StagedLayer> {
        let dir = self.layout().staging();
        loop {
            let path = tempfile::Builder::new()
                .prefix("layer-")
                .permissions(fs::Permissions::from_mode(0o700))
                .tempdir_in(&dir)
                .at(&dir)?
                .keep();
            let Ok(file) = File::open(&path) else { continue };
            if let Some(pin) = Pin::adopt(file, &path)? {
                let layer = StagedLayer { path, pin };
                fs::create_dir(layer.diff()).at(layer.diff())?;
                // The container's `/` if no layer says otherwise; whatever the umask is.
                fs::set_permissions(layer.diff(), fs::Permissions::from_mode(0o755))
                    .at(layer.diff())?;
                return Ok(layer);
            }
        }
    }
}

/// A file being made.
#[derive(Debug)]
struct StagedFile {
    file: File,
    path: TempPath,
    pin: Pin,
}

impl StagedFile {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).at(&self.path).doing("write")
    }

    /// Puts the file at `path`. `false` if something is there and is not to be replaced.
    fn place(self, path: &Path, replace: bool) -> Result<bool> {
        self.file.sync_data().at(&self.path).doing("write")?;
        if replace {
            self.path.persist(path).map_err(|err| err.error).at(path).doing("write")?;
            return Ok(true);
        }
        rename_new(&self.path, path).at(path).doing("write")
    }
}

/// A layer being unpacked: a directory in staging that is renamed into place when complete.
///
/// Dropping it leaves it there for [`Store::clean_staging`], since only the caller can remove
/// files of subordinate ids: see [`StagedLayer::discard`].
#[derive(Debug)]
#[must_use]
pub struct StagedLayer {
    path: PathBuf,
    pin: Pin,
}

impl StagedLayer {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The empty directory that becomes the lowerdir.
    pub fn diff(&self) -> PathBuf {
        self.path.join("diff")
    }

    /// Removes it and what was unpacked into it.
    pub fn discard(self, remove: RemoveTree<'_>) -> Result<()> {
        discard(&self.path, remove)
    }
}

/// A blob being written; it becomes visible when it is committed under its digest.
#[derive(Debug)]
pub struct BlobWriter {
    file: File,
    path: PathBuf,
    pin: Pin,
    /// Removes the file if it is dropped uncommitted. Partial downloads have none: they stay.
    temporary: Option<TempPath>,
}

impl BlobWriter {
    /// What has been written, from the first byte.
    pub(super) fn reader(&self) -> Result<File> {
        File::open(&self.path).at(&self.path)
    }

    fn discard(self) -> Result<()> {
        match self.temporary {
            Some(temporary) => temporary.close().at(&self.path),
            None => fs::remove_file(&self.path).at(&self.path),
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A blob being fetched, perhaps begun by an earlier command; no other command fetches it
/// meanwhile.
#[derive(Debug)]
pub struct Partial {
    blob: BlobWriter,
    dir: PathBuf,
    _turn: Pin,
}

impl Partial {
    /// Bytes that are here already.
    pub fn size(&self) -> Result<u64> {
        Ok(self.blob.file.metadata().at(&self.blob.path)?.len())
    }

    /// The bytes that are here, from the first.
    pub fn reader(&self) -> Result<File> {
        File::open(&self.blob.path).at(&self.blob.path)
    }

    /// Where the bytes that follow are written.
    pub fn writer(&mut self) -> &mut BlobWriter {
        &mut self.blob
    }

    /// Forgets what is here.
    pub fn restart(&mut self) -> Result<()> {
        self.blob.file.set_len(0).at(&self.blob.path).doing("truncate")
    }
}

/// An image being added: holds a pin on each of its parts. Shared by the threads that fetch them.
#[derive(Debug)]
pub struct Addition<'a> {
    store: &'a Store,
    /// By the object's path.
    pins: Mutex<HashMap<PathBuf, Pin>>,
    /// Layers that are complete and that nobody else sees yet, in the order they came.
    pending: Mutex<Vec<(Digest, StagedLayer)>>,
}

impl Addition<'_> {
    /// The store that is added to.
    pub fn store(&self) -> &Store {
        self.store
    }

    fn pins(&self) -> MutexGuard<'_, HashMap<PathBuf, Pin>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Vec<(Digest, StagedLayer)>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, path: PathBuf, pin: Pin) {
        self.pins().insert(path, pin);
    }

    fn keep_shared(&self, path: PathBuf) -> Result<bool> {
        if self.pins().contains_key(&path) {
            return Ok(true);
        }
        let pin = Pin::shared(&path)?;
        Ok(pin.map(|pin| self.keep(path, pin)).is_some())
    }

    /// Whether the blob is here. If so, it stays until the addition ends.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        self.keep_shared(self.store.layout().blob(digest))
    }

    /// The blobs that it made or found; they may go from now on.
    pub(super) fn into_blobs(self) -> BTreeSet<Digest> {
        let blobs = self.store.layout().blobs();
        let pins = self.pins.into_inner().unwrap_or_else(PoisonError::into_inner);
        let digest = |path: &Path| {
            let name = path.strip_prefix(&blobs).ok()?.to_str()?;
            name.replacen('/', ":", 1).parse().ok()
        };
        pins.keys().filter_map(|path| digest(path)).collect()
    }

    /// Whether the layer is here. If so, it stays until the addition ends.
    pub fn has_layer(&self, chain_id: &Digest) -> Result<bool> {
        if self.pending().iter().any(|(pending, _)| pending == chain_id) {
            return Ok(true);
        }
        self.keep_shared(self.store.layout().layer(chain_id))
    }

    /// Stores a blob, verified against the digest and size that were promised.
    ///
    /// Reads no more than promised; without a promise, to the end. Returns what it was.
    pub fn put_blob(
        &self,
        source: &mut dyn Read,
        expected: Option<(&Digest, u64)>,
    ) -> Result<(Digest, u64)> {
        let limit = expected.map_or(u64::MAX, |(_, size)| size.saturating_add(1));
        let mut writer = self.new_blob()?;
        let hasher = expected.map_or_else(Hasher::default, |(digest, _)| Hasher::like(digest));
        let (digest, size) = copy_hashed(&mut source.take(limit), &mut writer, hasher)?;
        if let Some((promised, promised_size)) = expected {
            verify(promised, promised_size, &digest, size)?;
        }
        self.commit_blob(writer, &digest)?;
        Ok((digest, size))
    }

    /// Stores a small blob, unless it is here. Returns what it is.
    pub fn put_small(&self, bytes: &[u8]) -> Result<(Digest, u64)> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        match self.has_blob(&digest)? {
            true => Ok((digest, size)),
            false => self.put_blob(&mut &*bytes, Some((&digest, size))),
        }
    }

    /// A blob to be written; gone again if it is dropped before [`Addition::commit_blob`].
    pub fn new_blob(&self) -> Result<BlobWriter> {
        let StagedFile { file, path, pin } = self.store.stage_file()?;
        Ok(BlobWriter { file, path: path.to_path_buf(), pin, temporary: Some(path) })
    }

    /// Makes a blob visible whose bytes the caller has found to have `digest`.
    pub fn commit_blob(&self, writer: BlobWriter, digest: &Digest) -> Result<()> {
        let target = self.store.layout().blob(digest);
        if let Some(dir) = target.parent() {
            make_dir(dir)?;
        }
        writer.file.sync_data().at(&writer.path).doing("write")?;
        loop {
            if self.has_blob(digest)? {
                return writer.discard();
            }
            if rename_new(&writer.path, &target).at(&target).doing("write")? {
                break;
            }
        }
        if let Some(temporary) = writer.temporary {
            // It is there no more; this only stops the guard from looking for it.
            temporary.keep().map_err(|err| err.error).at(&writer.path)?;
        }
        self.keep(target, writer.pin);
        Ok(())
    }

    /// Takes the turn at fetching a blob, after whoever is fetching it now. `None` if the blob
    /// is here (by now); it stays until the addition ends.
    pub fn fetch_blob(&self, digest: &Digest) -> Result<Option<Partial>> {
        let dir = self.store.layout().partial(digest);
        // Who was killed just after it had all has left the directory; who is at work has a file in it.
        let is_here = || {
            let is_here = self.has_blob(digest)?;
            if is_here {
                let _ = fs::remove_dir(&dir);
            }
            Ok::<_, Error>(is_here)
        };
        loop {
            if is_here()? {
                return Ok(None);
            }
            make_dir(&dir)?;
            let Some(turn) = Pin::exclusive(&dir)? else { continue };
            if is_here()? {
                return Ok(None);
            }
            let path = dir.join("data");
            let file = OpenOptions::new().append(true).create(true).open(&path).at(&path)?;
            let lock = file.try_clone().at(&path)?;
            if let Some(pin) = Pin::adopt(lock, &path)? {
                let blob = BlobWriter { file, path, pin, temporary: None };
                return Ok(Some(Partial { blob, dir, _turn: turn }));
            }
        }
    }

    /// Makes a fetched blob visible whose bytes the caller has found to have `digest`.
    pub fn commit_fetched(&self, partial: Partial, digest: &Digest) -> Result<()> {
        self.commit_blob(partial.blob, digest)?;
        // The turn is still held: who waits for it finds the directory gone and looks again.
        match fs::remove_dir(&partial.dir) {
            // Who found the blob here in this moment was faster.
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.at(&partial.dir).doing("remove"),
        }
    }

    /// A directory for a layer to be unpacked in.
    pub fn stage_layer(&self) -> Result<StagedLayer> {
        self.store.stage_dir()
    }

    /// Takes an unpacked layer in. It is visible with the next [`publish`](Self::publish).
    pub fn commit_layer(
        &self,
        staged: StagedLayer,
        chain_id: &Digest,
        record: &LayerRecord,
        remove: RemoveTree<'_>,
    ) -> Result<()> {
        self.take_layer(staged, chain_id, record, remove)?;
        self.publish_many(remove)
    }

    /// Publishes what has been taken in, if it is as much as may wait.
    pub fn publish_many(&self, remove: RemoveTree<'_>) -> Result<()> {
        let mut pending = self.pending();
        if pending.len() < PENDING_MAX {
            return Ok(());
        }
        self.publish_all(&mut pending, remove)
    }

    /// As [`commit_layer`](Self::commit_layer), for who publishes when it suits them: until then
    /// the layer stays where [`layer_diff`](Self::layer_diff) says.
    pub fn take_layer(
        &self,
        staged: StagedLayer,
        chain_id: &Digest,
        record: &LayerRecord,
        remove: RemoveTree<'_>,
    ) -> Result<()> {
        if self.has_layer(chain_id)? {
            return staged.discard(remove);
        }
        write_json(&staged.path.join("layer.json"), record, Durability::Renamed)?;
        self.pending().push((chain_id.clone(), staged));
        Ok(())
    }

    /// How many layers wait to be published.
    pub fn waiting(&self) -> usize {
        self.pending().len()
    }

    /// Makes visible the layers that were taken in, complete even after a power cut. If another
    /// command was faster its result stays and ours is discarded: they are equal, being named by
    /// content.
    pub fn publish(&self, remove: RemoveTree<'_>) -> Result<()> {
        self.publish_all(&mut self.pending(), remove)
    }

    fn publish_all(
        &self,
        pending: &mut Vec<(Digest, StagedLayer)>,
        remove: RemoveTree<'_>,
    ) -> Result<()> {
        let Some((_, first)) = pending.first() else { return Ok(()) };
        // One sync for the thousands of files in all of them (syncfs(2)): each waits for whatever
        // else the disk has to do.
        let dir = File::open(&first.path).at(&first.path)?;
        nix::unistd::syncfs(&dir).at(&first.path).doing("sync")?;
        for (chain_id, staged) in pending.drain(..) {
            let target = self.store.layout().layer(&chain_id);
            loop {
                if self.keep_shared(target.clone())? {
                    staged.discard(remove)?;
                    break;
                }
                // rename(2) replaces no directory that has something in it, and a layer always has.
                match fs::rename(&staged.path, &target) {
                    Ok(()) => {
                        self.keep(target, staged.pin);
                        break;
                    }
                    Err(err) if is_occupied(&err) => {}
                    Err(err) => return Err(err).at(&target).doing("commit layer"),
                }
            }
        }
        Ok(())
    }

    /// The lowerdir of a layer that is here or was taken in.
    pub fn layer_diff(&self, chain_id: &Digest) -> PathBuf {
        let pending = self.pending();
        let staged = pending.iter().find(|(pending, _)| pending == chain_id);
        staged.map_or_else(|| self.store.layout().layer_diff(chain_id), |(_, staged)| staged.diff())
    }

    /// Makes the image visible and gives it its names, each with the digest its registry knows
    /// it by.
    ///
    /// An error if a part of it has not been added or found.
    pub fn finish(
        self,
        record: ImageRecord,
        names: &[(Reference, Option<Digest>)],
    ) -> Result<Image> {
        let missing = |what: &str, digest: &Digest| {
            Err(Error::engine(format!("{what} {digest} is not in the store")))
        };
        // Who could remove what is superfluous has published before; the rest is left to the next
        // clean-up of the staging area.
        self.publish(&|_| Ok(()))?;
        for chain_id in record.chain_ids() {
            if !self.has_layer(chain_id)? {
                return missing("layer", chain_id);
            }
        }
        for digest in record.blobs() {
            let layer = record.layers.iter().find(|layer| layer.digest == *digest);
            if !self.has_blob(digest)? && !layer.is_some_and(|layer| self.store.can_tell(layer)) {
                return missing("blob", digest);
            }
        }
        let _pin = self.write_record(&record)?;
        for (name, digest) in names {
            self.store.write_name(&NameRecord {
                name: name.clone(),
                image: record.id.clone(),
                digest: digest.clone(),
            })?;
        }
        let names =
            self.store.names()?.into_iter().filter(|name| name.image == record.id).collect();
        Ok(Image { record, names })
    }

    fn write_record(&self, record: &ImageRecord) -> Result<Pin> {
        let dir = self.store.image_dir(&record.id);
        loop {
            make_dir(&dir)?;
            if let Some(pin) = Pin::shared(&dir)? {
                let path = self.store.layout().image(&record.id);
                let old = self.store.record(&record.id).ok().flatten();
                let is_same = |old: &ImageRecord| {
                    *record == ImageRecord { added: record.added, ..old.clone() }
                };
                // What is there already need not be made durable again; its time is its last use.
                let touched = old.filter(is_same).is_some() && touch(&path).is_ok();
                if !touched {
                    write_json(&path, record, Durability::Synced)?;
                }
                return Ok(pin);
            }
        }
    }
}

fn touch(path: &Path) -> io::Result<()> {
    let now = std::time::SystemTime::now();
    File::open(path)?.set_times(fs::FileTimes::new().set_modified(now))
}

/// Makes one directory unless it is there. It may go again at once: who makes it then locks it,
/// and looks whether it is still there.
fn make_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err).at(path).doing("create"),
        _ => Ok(()),
    }
}

/// Renames unless something is at `to` already: then `false`.
fn rename_new(from: &Path, to: &Path) -> io::Result<bool> {
    let renamed = renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    match renamed {
        // Some network file systems have no such flag; a link replaces nothing either.
        Err(Errno::INVAL | Errno::NOSYS) => match fs::hard_link(from, to) {
            Ok(()) => fs::remove_file(from).map(|()| true),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(err) => Err(err),
        },
        Err(Errno::EXIST) => Ok(false),
        other => other.map(|()| true).map_err(io::Error::from),
    }
}

/// The name is taken by a directory that has something in it.
pub(super) fn is_occupied(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

/// Says which promise was broken.
pub(super) fn verify(
    promised: &Digest,
    promised_size: u64,
    digest: &Digest,
    size: u64,
) -> Result<()> {
    if size < promised_size {
        return Err(Error::invalid(format!(
            "{promised} ends after {size} of {promised_size} bytes"
        )));
    }
    if size > promised_size {
        return Err(Error::invalid(format!(
            "{promised} is longer than the {promised_size} bytes it should have"
        )));
    }
    if digest != promised {
        return Err(Error::invalid(format!("{promised} has other content, with digest {digest}"))
            .hint("what was sent is not what was asked for: a broken proxy, or worse"));
    }
    Ok(())
}

/// Reads a blob's bytes to their end and holds them against what was promised.
pub(super) fn check_blob(source: &mut dyn Read, digest: &Digest, size: u64) -> Result<()> {
    let mut source = source.take(size.saturating_add(1));
    let (found, found_size) = copy_hashed(&mut source, &mut io::sink(), Hasher::like(digest))?;
    verify(digest, size, &found, found_size)
}

/// Copies to the end, hashing what passes.
fn copy_hashed(
    source: &mut dyn Read,
    target: &mut dyn Write,
    mut hasher: Hasher,
) -> Result<(Digest, u64)> {
    let mut size = 0;
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Ok(count) => count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err).doing("read"),
        };
        hasher.update(&buffer[..count]);
        target.write_all(&buffer[..count]).doing("write")?;
        size += count as u64;
    }
}
