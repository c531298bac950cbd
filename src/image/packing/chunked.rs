//! zstd:chunked, as containers/storage reads it: a zstd stream that is the whole tar to everybody,
//! with each file's content in frames of its own, and behind it, in frames that decompressors skip:
//!
//! ```text
//!   headers | content | headers | content | … | [contents] | [tar-split] | [footer]
//! ```
//!
//! The contents, JSON as CRFS has it, say where each file is, so that a client fetches only those it
//! does not have; tar-split is the tar without contents, with which the client makes the very tar
//! again. Annotations of the layer's descriptor say where both are, and are what the client trusts.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, Read, Seek as _, Write},
    path::Path,
    rc::Rc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde::Serialize;
use tar::Header;
use zstd::stream::raw::{Encoder, InBuffer, Operation as _, OutBuffer};

use crate::{
    error::{Context as _, Error, Result},
    image::layer::{
        apply::clean,
        entries::{Entries, Entry, Kind, number},
    },
    oci::{Digest, Hasher},
    sys::fs::Time,
};

/// Of the compressed contents.
pub(in crate::image) const CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
const POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
const TAR_SPLIT: &str = "io.github.containers.zstd-chunked.tarsplit-position";
/// What all of them begin with.
pub(in crate::image) const PREFIX: &str = "io.github.containers.zstd-chunked.";
/// The contents are those of CRFS.
const KIND: u64 = 1;
/// The footer's last bytes.
const MAGIC: &[u8; 8] = b"GNUlInUx";
const SKIPPABLE: u32 = 0x184d_2a50;
const BUFFER: usize = 128 << 10;
/// Bytes of the tar's end in one piece of tar-split.
const PIECE: usize = 64 << 10;

/// Packs all of `tar`, and returns the annotations that a client needs. `spool` is a directory for
/// files that nobody sees.
///
/// Errors: unsupported, if the tar holds what the format has no words for: sparse files, names
/// that are not UTF-8 or that come twice, files without their directories, types of its own.
pub(super) fn pack(
    tar: &mut dyn Read,
    blob: &mut dyn Write,
    level: i32,
    spool: &Path,
) -> Result<BTreeMap<String, String>> {
    let read = Rc::new(RefCell::new(Vec::new()));
    let mut source = Recorder { source: tar, read: read.clone() };
    let mut packer = Packer {
        frames: Pieces::new(blob, level)?,
        contents: Sidecar::new(spool, level)?,
        tar_split: Sidecar::new(spool, level)?,
        position: 0,
        is_first: true,
        seen: HashSet::new(),
        hash: RandomState::new(),
    };
    packer.contents.write_all(br#"{"version":1,"entries":["#)?;
    let mut entries = Entries::new(&mut source);
    while let Some(entry) = entries.next()? {
        let ahead = entries.ahead();
        let head = {
            let mut read = read.borrow_mut();
            let taken = read.len() - ahead;
            read.drain(..taken).collect::<Vec<u8>>()
        };
        packer.head(&head)?;
        packer.entry(&entry, &head, &mut entries, &read)?;
    }
    drop(entries);
    let rest = std::mem::take(&mut *read.borrow_mut());
    packer.end(&rest, source.source)?;
    packer.finish()
}

fn not_in_it(what: &str, name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::unsupported(format!("zstd:chunked has no {what}: {}", name.escape_debug()))
}

/// Keeps what passes until somebody takes it.
struct Recorder<'a> {
    source: &'a mut dyn Read,
    read: Rc<RefCell<Vec<u8>>>,
}

impl Read for Recorder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.read.borrow_mut().extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

/// One line of the contents.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    link_name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    mode: i64,
    #[serde(skip_serializing_if = "is_zero")]
    size: i64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: i64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    modtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accesstime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changetime: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: i64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_none_yet")]
    offset: u64,
    #[serde(skip_serializing_if = "is_none_yet")]
    end_offset: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's
fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's
fn is_none_yet(value: &u64) -> bool {
    *value == 0
}

/// A piece of tar-split: of the tar, or a file's place in it.
#[derive(Debug, Serialize)]
struct Split<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_none_yet")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

struct Packer<'a> {
    frames: Pieces<'a>,
    contents: Sidecar,
    tar_split: Sidecar,
    /// In tar-split.
    position: u64,
    is_first: bool,
    /// Names, hashed.
    seen: HashSet<u64>,
    hash: RandomState,
}

impl Packer<'_> {
    /// Bytes of the tar that are no content: headers, and padding before them.
    fn head(&mut self, bytes: &[u8]) -> Result<()> {
        self.frames.feed(bytes)?;
        self.split(2, "", 0, Some(BASE64.encode(bytes)))
    }

    fn split(&mut self, kind: u8, name: &str, size: u64, payload: Option<String>) -> Result<()> {
        let split = Split { kind, name, size, payload, position: self.position };
        serde_json::to_writer(&mut self.tar_split, &split)?;
        self.tar_split.write_all(b"\n")?;
        self.position += 1;
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &Entry,
        head: &[u8],
        entries: &mut Entries<'_>,
        read: &RefCell<Vec<u8>>,
    ) -> Result<()> {
        let name = text(&entry.name)?;
        let cleaned = clean(&entry.name)?;
        if !self.seen.insert(self.hash.hash_one(&cleaned)) {
            return Err(not_in_it("two entries of one name", &entry.name));
        }
        // Clients that make the files by themselves do not make what they lie in.
        let parent = cleaned.iter().rposition(|&b| b == b'/').map(|slash| &cleaned[..slash]);
        if parent.is_some_and(|parent| !self.seen.contains(&self.hash.hash_one(parent))) {
            return Err(not_in_it("files without their directories", &entry.name));
        }
        let mut line = describe(entry, name, head)?;
        let mut size = 0;
        let mut sum = None;
        if entry.kind == Kind::File {
            let content = entries.content();
            size = content.size;
            if content.segments.iter().map(|s| s.length).sum::<u64>() != size {
                return Err(not_in_it("sparse files", &entry.name));
            }
            line.size = i64::try_from(size).unwrap_or(i64::MAX);
        }
        if size > 0 {
            line.offset = self.frames.cut()?;
            self.frames.pledge(size)?;
            let (mut hasher, mut crc) = (Hasher::default(), Crc::new());
            let mut left = size;
            while left > 0 {
                let chunk = entries.take(left)?;
                hasher.update(chunk);
                crc.update(chunk);
                self.frames.feed(chunk)?;
                let count = chunk.len();
                left -= count as u64;
                let mut read = read.borrow_mut();
                // The recorder has what was taken, and what is ahead.
                drop(read.drain(..count));
            }
            line.end_offset = self.frames.cut()?;
            line.digest = Some(hasher.finish());
            sum = Some(BASE64.encode(crc.finish().to_be_bytes()));
        }
        self.split(1, name, size, sum)?;
        if !std::mem::take(&mut self.is_first) {
            self.contents.write_all(b",")?;
        }
        serde_json::to_writer(&mut self.contents, &line)?;
        Ok(())
    }

    /// What follows the last entry: its padding, and empty blocks.
    fn end(&mut self, rest: &[u8], source: &mut dyn Read) -> Result<()> {
        let mut piece = rest.to_vec();
        loop {
            if piece.iter().any(|&byte| byte != 0) {
                return Err(not_in_it("bytes behind the tar's end", b""));
            }
            if !piece.is_empty() {
                self.head(&piece)?;
            }
            piece.clear();
            (&mut *source).take(PIECE as u64).read_to_end(&mut piece)?;
            if piece.is_empty() {
                return Ok(());
            }
        }
    }

    fn finish(mut self) -> Result<BTreeMap<String, String>> {
        let tar_split = self.tar_split.finish()?;
        write!(self.contents, r#"],"tarSplitDigest":"{}"}}"#, tar_split.digest)?;
        let contents = self.contents.finish()?;
        self.frames.cut()?;
        let contents_at = self.frames.skipped(&contents)?;
        let tar_split_at = self.frames.skipped(&tar_split)?;
        let numbers = [
            contents_at,
            contents.length,
            contents.unpacked,
            KIND,
            tar_split_at,
            tar_split.length,
            tar_split.unpacked,
        ];
        let mut footer: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        footer.extend_from_slice(MAGIC);
        self.frames.skippable(footer.len() as u64)?;
        self.frames.out.write_all(&footer)?;
        let [at, length, unpacked, kind, split_at, split_length, split_unpacked] = numbers;
        Ok(BTreeMap::from([
            (CHECKSUM.to_owned(), contents.digest.to_string()),
            (POSITION.to_owned(), format!("{at}:{length}:{unpacked}:{kind}")),
            (TAR_SPLIT.to_owned(), format!("{split_at}:{split_length}:{split_unpacked}")),
        ]))
    }
}

fn text(name: &[u8]) -> Result<&str> {
    std::str::from_utf8(name).map_err(|_| not_in_it("names that are not UTF-8", name))
}

/// What the header says, in the words of the contents: clients hold one against the other.
fn describe<'a>(entry: &'a Entry, name: &'a str, head: &[u8]) -> Result<Line<'a>> {
    let other = || not_in_it("entries of this type", &entry.name);
    let block = head.last_chunk::<512>().ok_or_else(other)?;
    let header = Header::from_byte_slice(block);
    let old = header.as_old();
    let (kind, link) = match (&entry.kind, old.linkflag[0]) {
        (Kind::File, 0 | b'0') if !name.ends_with('/') => ("reg", ""),
        (Kind::Directory, _) => ("dir", ""),
        (Kind::Symlink(target), _) => ("symlink", text(target)?),
        (Kind::Link(target), _) => ("hardlink", text(target)?),
        (Kind::Character(..), _) => ("char", ""),
        (Kind::Block(..), _) => ("block", ""),
        (Kind::Fifo, _) => ("fifo", ""),
        (Kind::File, _) => return Err(other()),
    };
    // GNU's header has room for more times, which its incremental archives use.
    if header.as_gnu().is_some_and(|gnu| gnu.atime[0] != 0 || gnu.ctime[0] != 0) {
        return Err(other());
    }
    let is_v7 = header.as_ustar().is_none() && header.as_gnu().is_none();
    let device = |at: usize| if is_v7 { Ok(0) } else { number(&block[at..at + 8]) };
    let xattrs = entry.xattrs.iter().map(|(key, value)| Ok((text(key)?, BASE64.encode(value))));
    Ok(Line {
        kind,
        name,
        link_name: link,
        mode: number(&old.mode)?,
        size: number(&old.size)?,
        uid: entry.uid.into(),
        gid: entry.gid.into(),
        modtime: time(Some(entry.modified))?,
        accesstime: time(entry.accessed)?,
        changetime: time(entry.changed)?,
        dev_major: device(329)?,
        dev_minor: device(337)?,
        xattrs: xattrs.collect::<Result<_>>()?,
        digest: None,
        offset: 0,
        end_offset: 0,
    })
}

/// RFC 3339; `None` for the beginning of 1970, which counts as no time.
fn time(time: Option<Time>) -> Result<Option<String>> {
    let Some(time) = time.filter(|time| (time.seconds, time.nanoseconds) != (0, 0)) else {
        return Ok(None);
    };
    let nanoseconds = i32::try_from(time.nanoseconds).unwrap_or(0);
    let stamp = Timestamp::new(time.seconds, nanoseconds);
    stamp.map(|stamp| Some(stamp.to_string())).map_err(|_| not_in_it("times so far away", b""))
}

/// Frames, one after another.
struct Pieces<'a> {
    out: &'a mut dyn Write,
    encoder: Encoder<'static>,
    buffer: Vec<u8>,
    /// Bytes of `out` so far.
    written: u64,
    is_open: bool,
}

impl<'a> Pieces<'a> {
    fn new(out: &'a mut dyn Write, level: i32) -> Result<Self> {
        let encoder = Encoder::new(level).doing("start the compressor")?;
        Ok(Self { out, encoder, buffer: vec![0; BUFFER], written: 0, is_open: false })
    }

    /// The next frame will hold so much.
    fn pledge(&mut self, size: u64) -> Result<()> {
        Ok(self.encoder.set_pledged_src_size(Some(size))?)
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        self.is_open |= !bytes.is_empty();
        let mut input = InBuffer::around(bytes);
        while input.pos() < bytes.len() {
            let mut output = OutBuffer::around(&mut self.buffer[..]);
            self.encoder.run(&mut input, &mut output)?;
            let count = output.pos();
            self.put(count)?;
        }
        Ok(())
    }

    /// Ends the frame that is open, if one is. Returns where the next begins.
    fn cut(&mut self) -> Result<u64> {
        while self.is_open {
            let mut output = OutBuffer::around(&mut self.buffer[..]);
            let left = self.encoder.finish(&mut output, true)?;
            let count = output.pos();
            self.put(count)?;
            if left == 0 {
                self.encoder.reinit()?;
                self.is_open = false;
            }
        }
        Ok(self.written)
    }

    fn put(&mut self, count: usize) -> Result<()> {
        self.out.write_all(&self.buffer[..count])?;
        self.written += count as u64;
        Ok(())
    }

    /// The head of a frame that decompressors skip.
    fn skippable(&mut self, length: u64) -> Result<()> {
        let too_long = |_| Error::unsupported("zstd:chunked has no contents of 4 GiB and more");
        let length = u32::try_from(length).map_err(too_long)?;
        self.out.write_all(&SKIPPABLE.to_le_bytes())?;
        self.out.write_all(&length.to_le_bytes())?;
        self.written += 8;
        Ok(())
    }

    /// Such a frame. Returns where what it holds begins.
    fn skipped(&mut self, what: &Written) -> Result<u64> {
        self.skippable(what.length)?;
        let at = self.written;
        io::copy(&mut &what.file, self.out)?;
        self.written += what.length;
        Ok(at)
    }
}

/// What is written behind the layer: compressed, in a file of its own until then.
struct Sidecar {
    encoder: zstd::stream::write::Encoder<'static, Hashed>,
    unpacked: u64,
}

struct Hashed {
    file: File,
    hasher: Hasher,
    length: u64,
}

/// Such a thing, from its first byte.
struct Written {
    file: File,
    digest: Digest,
    length: u64,
    unpacked: u64,
}

impl Sidecar {
    fn new(spool: &Path, level: i32) -> Result<Self> {
        let file = tempfile::tempfile_in(spool).at(spool)?;
        let hashed = Hashed { file, hasher: Hasher::default(), length: 0 };
        let encoder = zstd::stream::write::Encoder::new(hashed, level)?;
        Ok(Self { encoder, unpacked: 0 })
    }

    fn finish(self) -> Result<Written> {
        let Hashed { mut file, hasher, length } = self.encoder.finish()?;
        file.rewind()?;
        Ok(Written { file, digest: hasher.finish(), length, unpacked: self.unpacked })
    }
}

impl Write for Sidecar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.encoder.write(bytes)?;
        self.unpacked += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// CRC-64 of ISO 3309, which tar-split has for each file.
struct Crc {
    table: [u64; 256],
    value: u64,
}

const CRC_TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut value = at as u64;
        let mut bit = 0;
        while bit < 8 {
            let carry = value & 1;
            value = (value >> 1) ^ (carry * 0xd800_0000_0000_0000);
            bit += 1;
        }
        table[at] = value;
        at += 1;
    }
    table
};

impl Crc {
    fn new() -> Self {
        Self { table: CRC_TABLE, value: u64::MAX }
    }

    fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let [low, ..] = self.value.to_le_bytes();
            self.value = self.table[usize::from(low ^ byte)] ^ (self.value >> 8);
        }
    }

    fn finish(self) -> u64 {
        !self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: u8, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if kind == b'1' {
            header.set_link_name("d/small").expect("link");
        }
        tar.append_data(&mut header, name, content).expect("append");
    }

    fn number(text: &str, at: usize) -> usize {
        text.split(':').nth(at).expect("field").parse().expect("number")
    }

    #[test]
    fn the_layer_is_the_tar_and_its_parts_are_where_they_are_said_to_be() {
        let noise: Vec<u8> =
            (0..700_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, "d/", b'5', b"");
        add(&mut tar, "d/small", b'0', b"small\n");
        add(&mut tar, "d/empty", b'0', b"");
        add(&mut tar, &format!("d/{}", "long".repeat(40)), b'0', &noise);
        add(&mut tar, "link", b'1', b"");
        let tar = tar.into_inner().expect("tar");
        let dir = tempfile::tempdir().expect("tempdir");
        let mut blob = Vec::new();
        let notes = pack(&mut &tar[..], &mut blob, 3, dir.path()).expect("pack");
        assert_eq!(zstd::decode_all(&blob[..]).expect("unpack"), tar);

        let position = &notes[POSITION];
        let packed = &blob[number(position, 0)..][..number(position, 1)];
        assert_eq!(Digest::of(packed).to_string(), notes[CHECKSUM]);
        let contents = zstd::decode_all(packed).expect("contents");
        assert_eq!((contents.len(), number(position, 3)), (number(position, 2), 1));
        let contents: Value = serde_json::from_slice(&contents).expect("json");
        let entries = contents["entries"].as_array().expect("entries");
        let names: Vec<_> = entries.iter().map(|e| e["name"].as_str().expect("name")).collect();
        assert_eq!((names[0], names[1], names.len()), ("d/", "d/small", 5));
        assert_eq!(entries[1]["modtime"], "2023-11-14T22:13:20Z");
        assert_eq!(
            (&entries[4]["type"], &entries[4]["linkName"]),
            (&"hardlink".into(), &"d/small".into())
        );
        for (at, content) in [(1, &b"small\n"[..]), (3, &noise)] {
            let offset = |key: &str| usize::try_from(entries[at][key].as_u64().expect("offset"));
            let piece =
                &blob[offset("offset").expect("usize")..offset("endOffset").expect("usize")];
            assert_eq!(zstd::decode_all(piece).expect("piece"), content);
            assert_eq!(entries[at]["digest"], Digest::of(content).to_string());
        }

        let position = &notes[TAR_SPLIT];
        let packed = &blob[number(position, 0)..][..number(position, 1)];
        assert_eq!(contents["tarSplitDigest"], Digest::of(packed).to_string());
        let split = zstd::decode_all(packed).expect("tar-split");
        assert_eq!(split.len(), number(position, 2));
        // With the contents it is the tar again.
        let mut again = Vec::new();
        let files = [("d/small", &b"small\n"[..]), (names[3], &noise)];
        for line in split.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).expect("line");
            match line["type"].as_u64() {
                Some(2) => {
                    let bytes = line["payload"].as_str().expect("payload");
                    again.extend(BASE64.decode(bytes).expect("base64"));
                }
                _ => files.iter().filter(|f| line["name"] == f.0).for_each(|f| again.extend(f.1)),
            }
        }
        assert!(again == tar);
        let footer = blob.last_chunk::<64>().expect("footer");
        assert_eq!(&footer[56..], MAGIC);
    }

    #[test]
    fn what_has_no_words_in_it_is_told() {
        let dir = tempfile::tempdir().expect("tempdir");
        let refused = |names: &[&[u8]]| {
            let mut tar = tar::Builder::new(Vec::new());
            for name in names {
                let mut header = Header::new_ustar();
                header.as_old_mut().name[..name.len()].copy_from_slice(name);
                header.set_size(0);
                header.set_entry_type(tar::EntryType::Regular);
                header.set_cksum();
                tar.append(&header, &b""[..]).expect("append");
            }
            let tar = tar.into_inner().expect("tar");
            let packed = pack(&mut &tar[..], &mut Vec::new(), 3, dir.path());
            packed.expect_err("refused")
        };
        for names in [&[&b"a"[..], b"./a"][..], &[b"\xff"], &[b"a/"], &[b"a/b"]] {
            assert_eq!(refused(names).kind(), crate::error::Kind::Unsupported, "{names:?}");
        }
    }

    #[test]
    fn the_sum_is_that_of_iso_3309() {
        let mut crc = Crc::new();
        crc.update(b"123456789");
        assert_eq!(crc.finish(), 0xb909_56c7_75a4_1001);
    }
}
