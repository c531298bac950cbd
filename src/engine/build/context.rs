//! Where a build's own files come from: a directory, perhaps one that a tar was unpacked into.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::seen::Seen;
use crate::{
    build::Ignore,
    error::{Context as _, Error, Result},
    image::layer::{Dress, Extract, Owner, TarWriter, extract},
    oci::{Digest, Hasher},
    run::pick::{Found, Pick},
    state::store::Lock,
    sys::fs::{Dir, FileType, Root, Stat, kind},
};

/// A directory of files for `COPY`, and what of it is left out.
#[derive(Debug)]
pub struct Context {
    dir: PathBuf,
    /// The text of `.dockerignore`.
    ignore: String,
    /// The time of its newest file, where that is not to be looked for.
    time: Option<i64>,
    /// What goes with it.
    temporary: Option<Scratch>,
}

/// A directory of this build's own, gone when it is dropped. Nobody takes it for a leftover.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: TempDir,
    _lock: Lock,
}

impl Scratch {
    pub(super) fn new(staging: &Path) -> Result<Self> {
        loop {
            let dir = tempfile::Builder::new().prefix("build-").tempdir_in(staging).at(staging)?;
            // Somebody who cleans up may be faster than the lock.
            let Ok(lock) = Lock::exclusive(dir.path()) else { continue };
            if dir.path().exists() {
                return Ok(Self { dir, _lock: lock });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// What `--build-context` gives a name to.
#[derive(Debug)]
pub enum Named {
    Directory(Context),
    /// Another image than the one of that name.
    Image(String),
}

impl Context {
    /// A directory on this host. `own` is the Dockerfile's own ignore file, which is preferred.
    pub fn directory(dir: &Path, own: Option<&Path>) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::invalid(format!("path \"{}\" not found", dir.display()))
                .hint("the context is a directory, or - for a Dockerfile or a tar on stdin"));
        }
        let usual = dir.join(".dockerignore");
        let mut ignore = String::new();
        for path in own.into_iter().chain([usual.as_path()]) {
            match fs::read_to_string(path) {
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
                text => {
                    ignore = text.at(path).doing("read")?;
                    Ignore::parse(&ignore).at(path)?;
                    break;
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), ignore, time: None, temporary: None })
    }

    /// Leaves out what this file says, and nothing else.
    pub fn ignore_as(&mut self, path: &Path) -> Result<()> {
        self.ignore = fs::read_to_string(path).at(path).doing("read")?;
        Ignore::parse(&self.ignore).map(drop).at(path)
    }

    /// A context without files.
    pub fn empty(staging: &Path) -> Result<Self> {
        let dir = Scratch::new(staging)?;
        let path = dir.path().to_owned();
        Ok(Self { dir: path, ignore: String::new(), time: None, temporary: Some(dir) })
    }

    /// A directory that goes with the context. Its files are of `time`.
    pub(super) fn owned(dir: &Path, temporary: Scratch, time: Option<i64>) -> Result<Self> {
        let context = Self::directory(dir, None)?;
        Ok(Self { time, temporary: Some(temporary), ..context })
    }

    /// The files of a tar, however it is packed.
    pub fn tar(source: impl Read, staging: &Path) -> Result<Self> {
        let temporary = Scratch::new(staging)?;
        let dir = Dir::from_fd(File::open(temporary.path()).at(temporary.path())?.into());
        let mut source = BufReader::new(source);
        let mut tar = unpacked(&mut source)?;
        let how = Extract { owner: Owner::Caller, overwrite: true };
        extract(&mut *tar, &dir, b"", how).doing("unpack the build context")?;
        let context = Self::directory(temporary.path(), None)?;
        Ok(Self { temporary: Some(temporary), ..context })
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    pub(super) fn root(&self) -> Result<Root> {
        Root::open(&self.dir).at(&self.dir)
    }

    /// Whether it goes with the build: nobody sees its files again.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    pub(super) fn ignore(&self) -> &str {
        &self.ignore
    }

    /// The time of the newest file that is not left out, in seconds since 1970.
    pub fn newest(&self) -> Result<Option<i64>> {
        if self.time.is_some() {
            return Ok(self.time);
        }
        let mut newest = None;
        let all =
            Pick { sources: vec![".".into()], ignore: self.ignore.clone(), ..Pick::default() };
        let root = self.root()?;
        all.each(&root, &all.find(&root)?, &mut |_, _, _, stat| {
            if kind(stat) != FileType::Directory {
                newest = newest.max(Some(stat.st_mtime));
            }
            Ok(())
        })?;
        Ok(newest)
    }
}

/// The digest of what was picked: names, kinds, modes and contents, no times. Files that have not
/// changed since they were `seen` are not read.
pub(super) fn digest(pick: &Pick, root: &Root, found: &[Found], seen: &Seen) -> Result<Digest> {
    let mut all = Hasher::default();
    all.update(&serde_json::to_vec(&pick.picked(found))?);
    let mut linked: HashMap<(u64, u64), u64> = HashMap::new();
    let mut count = 0_u64;
    pick.each(root, found, &mut |dir, name, entry, stat| {
        let is_file = kind(stat) == FileType::RegularFile;
        let mut read = || of_entry(dir, name, stat);
        let digest = if is_file { seen.digest(stat, &mut read)? } else { read()? };
        count += 1;
        // Two names of one file are not two files.
        let first = match is_file && stat.st_nlink > 1 {
            true => *linked.entry((stat.st_dev, stat.st_ino)).or_insert(count),
            false => count,
        };
        all.update(&(entry.len() as u64).to_le_bytes());
        all.update(entry);
        all.update(&digest);
        all.update(&(count - first).to_le_bytes());
        Ok(())
    })?;
    Ok(all.finish())
}

/// Of one thing by itself, whatever it is called.
fn of_entry(dir: &Dir, name: &[u8], stat: &Stat) -> Result<[u8; 32]> {
    struct Sink(Hasher);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut alone = *stat;
    alone.st_nlink = 1;
    let mut sink = Sink(Hasher::default());
    let dress = Dress { owner: Some((0, 0)), mode: None, latest: Some(0) };
    let mut tar = TarWriter::new(&mut sink).dressed(dress);
    tar.add(dir, name, b".", &alone)?;
    tar.finish()?;
    let digest = sink.0.finish().bytes();
    digest.try_into().map_err(|_| Error::engine("a digest of another length"))
}

/// Whether it begins as an archive does that [`Context::tar`] takes.
pub fn is_archive(start: &[u8]) -> bool {
    archive(start).is_some()
}

/// KiB that unpacking may take: more than `xz -9` asks for.
const XZ_MEMORY: u32 = 256 << 10;

/// How an archive is packed, told by its first bytes; `None` if it is none.
pub(super) fn archive(start: &[u8]) -> Option<&'static str> {
    match start {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        start if start.get(257..262) == Some(b"ustar") => Some("tar"),
        _ => None,
    }
}

/// The tar behind the compression.
pub(super) fn unpacked<'a>(source: &'a mut dyn std::io::BufRead) -> Result<Box<dyn Read + 'a>> {
    let start = source.fill_buf().doing("read the archive")?;
    Ok(match archive(start) {
        Some("gzip") => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Some("zstd") => Box::new(crate::image::Frames::new(source)),
        Some("bzip2") => Box::new(bzip2_rs::DecoderReader::new(source)),
        Some("xz") => Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, XZ_MEMORY)),
        _ => Box::new(source),
    })
}
