//! One layer, from a stream of its compressed bytes to a directory in the store.
//!
//! ```text
//!   source -> sha256 = digest? -> decompress -> sha256 = diffID? -> channel -> unpack
//!   \______________________ one thread ____________________________/         \_ caller's _/
//! ```
//!
//! Memory is bounded by the channel. Unpacking begins before anything is verified, into a
//! directory that nobody sees; a layer whose digest, size or diffID is not as promised is
//! discarded.

use std::{
    io::{self, BufReader, Read, Write as _},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use super::{
    Addition, BlobWriter, Event, LayerRef, Progress, Unpack, Unpacked,
    addition::{StagedLayer, verify},
    packing,
    store::LayerRecord,
};
use crate::{
    error::{Context as _, Error, Result},
    oci::{Digest, Hasher, media_type::Compression},
};

const CHUNK: usize = 256 << 10;
/// Chunks that may wait for the unpacker: with [`CHUNK`], 2 MiB for each layer in flight.
const QUEUE: usize = 8;

/// A layer that is unpacked and verified, and waits for those below it.
#[derive(Debug)]
#[must_use]
pub struct Unsettled {
    staged: StagedLayer,
    unpacked: Unpacked,
    tar_size: u64,
    layer: LayerRef,
}

impl Unsettled {
    /// Where it is meanwhile.
    pub fn diff(&self) -> std::path::PathBuf {
        self.staged.diff()
    }

    /// Bytes of file content.
    pub fn size(&self) -> u64 {
        self.unpacked.size
    }

    /// Gives the layer up.
    pub fn discard(self, unpack: &dyn Unpack) -> Result<()> {
        self.staged.discard(&|tree| unpack.remove(tree))
    }
}

/// Adds the topmost layer of `stack` (bottom first; those below are in the store) from its
/// bytes, and the bytes themselves as a blob if `keep_blob`.
///
/// What is there already is not made again; `source` may then be left unread.
pub fn layer(
    addition: &Addition<'_>,
    source: &mut (dyn Read + Send),
    stack: &[LayerRef],
    keep_blob: bool,
    unpack: &dyn Unpack,
    progress: &dyn Progress,
) -> Result<()> {
    let Some((top, below)) = stack.split_last() else { return Ok(()) };
    let keep_blob = keep_blob && !addition.has_blob(&top.digest)?;
    if addition.has_layer(&top.chain_id)? {
        if keep_blob {
            addition.put_blob(source, Some((&top.digest, top.size)))?;
        }
        progress.layer(&top.digest, Event::Exists);
        return Ok(());
    }
    let blob = if keep_blob { Some(addition.new_blob()?) } else { None };
    let mut source = Observed { source, blob, done: 0, layer: top, progress };
    let unsettled = unpack_layer(addition, &mut source, top, unpack)?;
    if let Some(blob) = source.blob {
        addition.commit_blob(blob, &top.digest)?;
    }
    commit(addition, unsettled, below, unpack)?;
    progress.layer(&top.digest, Event::Done);
    Ok(())
}

/// Keeps a copy of what passes, and tells how much it was.
struct Observed<'a> {
    source: &'a mut (dyn Read + Send),
    blob: Option<BlobWriter>,
    done: u64,
    layer: &'a LayerRef,
    progress: &'a dyn Progress,
}

impl Read for Observed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(blob) = &mut self.blob {
            blob.write_all(&buffer[..count])?;
        }
        self.done += count as u64;
        let event = Event::Unpacking { done: self.done, total: self.layer.size };
        self.progress.layer(&self.layer.digest, event);
        Ok(count)
    }
}

/// Unpacks a layer into staging and verifies digest, size and diffID.
pub fn unpack_layer(
    addition: &Addition<'_>,
    source: &mut (dyn Read + Send),
    layer: &LayerRef,
    unpack: &dyn Unpack,
) -> Result<Unsettled> {
    let compression = Compression::of_layer(&layer.media_type)?;
    let staged = addition.stage_layer()?;
    let unpacked = thread::scope(|scope| {
        let (sender, receiver) = sync_channel(QUEUE);
        let producer = thread::Builder::new()
            .name("decompress".into())
            .spawn_scoped(scope, move || produce(source, layer, compression, &sender))
            .doing("start a thread")?;
        let unpacked = consume(receiver, &staged, unpack);
        match producer.join() {
            // What was wrong with the bytes explains what was wrong with the tar.
            Ok(Err(err)) => Err(err),
            Ok(Ok(tar_size)) => unpacked.map(|unpacked| (unpacked, tar_size)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    match unpacked.doing_with(|| format!("layer {}", layer.digest.short())) {
        Ok((unpacked, tar_size)) => {
            Ok(Unsettled { staged, unpacked, tar_size, layer: layer.clone() })
        }
        Err(err) => {
            // The first error is the one to tell; what stays is cleaned up by a later command.
            staged.discard(&|tree| unpack.remove(tree)).ok();
            Err(err)
        }
    }
}

/// Takes an unpacked layer in, as those `below` (bottom first) were.
pub fn commit(
    addition: &Addition<'_>,
    unsettled: Unsettled,
    below: &[LayerRef],
    unpack: &dyn Unpack,
) -> Result<()> {
    take(addition, unsettled, below, unpack)?;
    addition.publish_many(&|tree| unpack.remove(tree))
}

/// As [`commit`], for who publishes when it suits them.
pub fn take(
    addition: &Addition<'_>,
    unsettled: Unsettled,
    below: &[LayerRef],
    unpack: &dyn Unpack,
) -> Result<()> {
    let (staged, layer, record) = settled(addition, unsettled, below, unpack)?;
    addition.take_layer(staged, &layer.chain_id, &record, &|tree| unpack.remove(tree))
}

/// With the directories that its tar only implied as they are below.
fn settled(
    addition: &Addition<'_>,
    unsettled: Unsettled,
    below: &[LayerRef],
    unpack: &dyn Unpack,
) -> Result<(StagedLayer, LayerRef, LayerRecord)> {
    let Unsettled { staged, unpacked, tar_size, layer } = unsettled;
    if !unpacked.implied.is_empty() {
        let below: Vec<_> =
            below.iter().rev().map(|layer| addition.layer_diff(&layer.chain_id)).collect();
        unpack.settle(&staged.diff(), &unpacked.implied, &below)?;
    }
    let record = LayerRecord {
        diff_id: layer.diff_id.clone(),
        size: unpacked.size,
        tar_size: Some(tar_size),
        sealed: false,
    };
    Ok((staged, layer, record))
}

type Chunk = io::Result<Vec<u8>>;

/// The unpacker's side.
fn consume(chunks: Receiver<Chunk>, staged: &StagedLayer, unpack: &dyn Unpack) -> Result<Unpacked> {
    let mut tar = Chunks { chunks, current: Vec::new(), read: 0 };
    let unpacked = unpack.unpack(&mut tar, &staged.diff())?;
    // An unpacker may stop at the tar's end mark; the diffID covers what follows too.
    io::copy(&mut tar, &mut io::sink()).map_err(carried)?;
    Ok(unpacked)
}

struct Chunks {
    chunks: Receiver<Chunk>,
    current: Vec<u8>,
    read: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.current.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.current, self.read) = (chunk?, 0),
                // The producer is done.
                Err(_) => return Ok(0),
            }
        }
        let mut rest = &self.current[self.read..];
        let count = rest.read(buffer)?;
        self.read += count;
        Ok(count)
    }
}

/// The network's side: decompresses, verifies, and says how long the tar is. `Ok` also if the
/// unpacker has given up.
fn produce(
    source: &mut (dyn Read + Send),
    layer: &LayerRef,
    compression: Compression,
    sender: &SyncSender<Chunk>,
) -> Result<u64> {
    let mut source = Hashed::new(source.take(layer.size.saturating_add(1)), &layer.digest);
    // A plain tar that is called by its own digest is hashed once.
    let same = compression == Compression::None && layer.digest == layer.diff_id;
    let hasher = (!same).then(|| Hasher::like(&layer.diff_id));
    let decompressed = decompress(&mut source, compression, hasher, sender);
    if let Ok(None) = decompressed {
        return Ok(0);
    }
    let verified = check(&mut source, layer, decompressed);
    if verified.is_err() {
        // Not the end of the tar: the unpacker must not take what it has for complete.
        sender.send(Err(io::Error::other("the layer is broken"))).ok();
    }
    verified
}

/// Holds what arrived against what was promised. Bytes that are not the promised ones explain
/// whatever else is wrong, so they come first.
fn check(
    source: &mut Hashed<io::Take<&mut (dyn Read + Send)>>,
    layer: &LayerRef,
    decompressed: Result<Option<(Option<Digest>, u64)>>,
) -> Result<u64> {
    io::copy(source, &mut io::sink()).map_err(carried)?;
    verify(&layer.digest, layer.size, &source.hasher.clone().finish(), source.size)?;
    match decompressed? {
        Some((Some(found), _)) if found != layer.diff_id => Err(Error::invalid(format!(
            "the tar has diffID {found}, the image's configuration says {}",
            layer.diff_id
        ))),
        found => Ok(found.map_or(0, |(_, size)| size)),
    }
}

/// Sends the decompressed bytes and returns their number, and digest if there is a `hasher`; `None`
/// if nobody wants them.
fn decompress(
    source: &mut (dyn Read + Send),
    compression: Compression,
    mut hasher: Option<Hasher>,
    sender: &SyncSender<Chunk>,
) -> Result<Option<(Option<Digest>, u64)>> {
    let mut tar = packing::unpacked(BufReader::with_capacity(CHUNK, source), compression);
    let mut size = 0;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        tar.by_ref().take(CHUNK as u64).read_to_end(&mut chunk).map_err(carried)?;
        if chunk.is_empty() {
            return Ok(Some((hasher.map(Hasher::finish), size)));
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(&chunk);
        }
        size += chunk.len() as u64;
        if sender.send(Ok(chunk)).is_err() {
            return Ok(None);
        }
    }
}

/// The error that a reader of ours put into an [`io::Error`]; otherwise what the decompressor
/// or the system says.
fn carried(err: io::Error) -> Error {
    if err.raw_os_error().is_some() {
        return err.into();
    }
    let text = err.to_string();
    match err.into_inner().map(|inner| inner.downcast::<Error>()) {
        Some(Ok(ours)) => *ours,
        _ => Error::invalid(format!("cannot decompress: {text}")),
    }
}

/// Hashes and counts what is read.
struct Hashed<R> {
    source: R,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> Hashed<R> {
    fn new(source: R, promised: &Digest) -> Self {
        Self { source, hasher: Hasher::like(promised), size: 0 }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{fs, path::Path, path::PathBuf};

    use super::*;
    use crate::{
        image::{
            Silent,
            store::{
                chain_ids,
                tests::{remove_tree, store},
            },
        },
        oci::media_type,
    };

    /// Writes the tar itself into `target`, as one file.
    #[derive(Debug, Default)]
    pub(in crate::image) struct Keep;

    impl Unpack for Keep {
        fn unpack(&self, tar: &mut dyn Read, target: &Path) -> Result<Unpacked> {
            let mut bytes = Vec::new();
            tar.read_to_end(&mut bytes).doing("read the tar")?;
            fs::write(target.join("tar"), &bytes).at(target)?;
            let implied = if bytes.starts_with(b"implied") { vec!["d".into()] } else { vec![] };
            Ok(Unpacked { size: bytes.len() as u64, implied })
        }

        fn settle(&self, target: &Path, implied: &[PathBuf], below: &[PathBuf]) -> Result<()> {
            assert_eq!(implied, [PathBuf::from("d")]);
            assert!(below.iter().all(|layer| layer.join("tar").exists()), "{below:?}");
            fs::write(target.join("settled"), below.len().to_string()).at(target)
        }

        fn remove(&self, tree: &Path) -> Result<()> {
            remove_tree(tree)
        }
    }

    pub(in crate::image) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("write");
        encoder.finish().expect("finish")
    }

    fn stack(layers: &[(&[u8], &[u8], &str)]) -> Vec<LayerRef> {
        let diff_ids: Vec<_> = layers.iter().map(|(tar, ..)| Digest::of(tar)).collect();
        let of =
            |((_, blob, media_type), (chain_id, diff_id)): (&(_, &[u8], &str), (_, &Digest))| {
                LayerRef {
                    digest: Digest::of(blob),
                    diff_id: diff_id.clone(),
                    chain_id,
                    size: blob.len() as u64,
                    media_type: (*media_type).into(),
                }
            };
        layers.iter().zip(chain_ids(&diff_ids).into_iter().zip(&diff_ids)).map(of).collect()
    }

    #[test]
    fn layers_of_every_packing_arrive_and_settle_on_those_below() {
        let (_dir, store) = store();
        let addition = store.add();
        let tars = [vec![b'a'; 3 << 20], b"implied b".to_vec(), b"implied c".to_vec()];
        let zstd = zstd::encode_all(&tars[2][..], 1).expect("zstd");
        let stack = stack(&[
            (&tars[0], &gzip(&tars[0]), media_type::DOCKER_LAYER_GZIP),
            (&tars[1], &tars[1], media_type::OCI_LAYER),
            (&tars[2], &zstd, media_type::OCI_LAYER_ZSTD),
        ]);
        let blobs = [gzip(&tars[0]), tars[1].clone(), zstd];
        for (top, blob) in blobs.iter().enumerate() {
            let keep_blob = top != 1;
            layer(&addition, &mut &blob[..], &stack[..=top], keep_blob, &Keep, &Silent)
                .expect("layer");
            addition.publish(&remove_tree).expect("publish");
            let diff = store.layout().layer_diff(&stack[top].chain_id);
            assert_eq!(fs::read(diff.join("tar")).expect("read"), tars[top]);
            assert_eq!(diff.join("settled").exists(), top > 0);
            assert_eq!(store.has_blob(&stack[top].digest), keep_blob);
            let size = store.layer(&stack[top].chain_id).expect("record").size;
            assert_eq!(size, tars[top].len() as u64);
        }
        assert_eq!(fs::read_dir(store.layout().staging()).expect("list").count(), 0);
    }

    #[test]
    fn broken_promises_are_named_and_leave_nothing() {
        let (_dir, store) = store();
        let addition = store.add();
        let blob = gzip(b"tar");
        let good = stack(&[(b"tar", &blob, media_type::OCI_LAYER_GZIP)]).remove(0);
        let fails = |layer: &LayerRef, bytes: &[u8], says: &str| {
            let err = super::layer(
                &addition,
                &mut &bytes[..],
                std::slice::from_ref(layer),
                true,
                &Keep,
                &Silent,
            )
            .expect_err(says);
            assert!(err.to_string().contains(says), "{err} should say {says}");
        };
        fails(&LayerRef { digest: Digest::of(b"x"), ..good.clone() }, &blob, "other content");
        fails(&LayerRef { diff_id: Digest::of(b"x"), ..good.clone() }, &blob, "diffID");
        fails(&LayerRef { size: 9, ..good.clone() }, &blob, "longer than the 9 bytes");
        fails(&good, &blob[..10], "ends after 10 of");
        fails(&good, b"not what was promised at all, and longer too", "longer than");
        let plain = stack(&[(b"tar", b"tar", media_type::OCI_LAYER_GZIP)]).remove(0);
        fails(&plain, b"tar", "cannot decompress");
        let foreign = LayerRef { media_type: "application/zip".into(), ..good };
        fails(&foreign, &blob, "not a layer's media type");
        for dir in [store.layout().staging(), store.layout().layers()] {
            assert_eq!(fs::read_dir(&dir).expect("list").count(), 0, "{}", dir.display());
        }
    }

    #[test]
    fn an_unpackers_refusal_ends_the_stream() {
        struct Refuse;
        impl Unpack for Refuse {
            fn unpack(&self, _tar: &mut dyn Read, _target: &Path) -> Result<Unpacked> {
                Err(Error::invalid("etc/passwd: is refused"))
            }
            fn settle(&self, _: &Path, _: &[PathBuf], _: &[PathBuf]) -> Result<()> {
                unreachable!("nothing was unpacked")
            }
            fn remove(&self, tree: &Path) -> Result<()> {
                remove_tree(tree)
            }
        }
        let (_dir, store) = store();
        let tar = vec![7; CHUNK * QUEUE * 3];
        let layer = stack(&[(&tar, &tar, media_type::OCI_LAYER)]).remove(0);
        let err = unpack_layer(&store.add(), &mut &tar[..], &layer, &Refuse).expect_err("refused");
        assert!(err.to_string().ends_with("etc/passwd: is refused"), "{err}");
        assert_eq!(fs::read_dir(store.layout().staging()).expect("list").count(), 0);
    }
}
