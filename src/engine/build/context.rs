//! Where a build's own files come from: a directory, perhaps one that a tar was unpacked into.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    build::Ignore,
    error::{Context as _, Error, Result},
    image::layer::{Extract, Owner, extract},
    oci::{Digest, Hasher},
    run::pick::{Found, Pick},
    state::store::Lock,
    sys::fs::{Dir, Root},
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
    _temporary: Option<Scratch>,
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
        Ok(Self { dir: dir.to_owned(), ignore, time: None, _temporary: None })
    }

    /// A context without files.
    pub fn empty(staging: &Path) -> Result<Self> {
        let dir = Scratch::new(staging)?;
        let path = dir.path().to_owned();
        Ok(Self { dir: path, ignore: String::new(), time: None, _temporary: Some(dir) })
    }

    /// A directory that goes with the context. Its files are of `time`.
    pub(super) fn owned(dir: &Path, temporary: Scratch, time: Option<i64>) -> Result<Self> {
        let context = Self::directory(dir, None)?;
        Ok(Self { time, _temporary: Some(temporary), ..context })
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
        Ok(Self { _temporary: Some(temporary), ..context })
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    pub(super) fn root(&self) -> Result<Root> {
        Root::open(&self.dir).at(&self.dir)
    }

    pub(super) fn ignore(&self) -> &str {
        &self.ignore
    }

    /// The time of the newest file that is not left out, in seconds since 1970.
    pub(super) fn newest(&self) -> Result<Option<i64>> {
        if self.time.is_some() {
            return Ok(self.time);
        }
        let mut newest = None;
        let ignore = Ignore::parse(&self.ignore)?;
        let mut pending = vec![PathBuf::new()];
        while let Some(below) = pending.pop() {
            let dir = self.dir.join(&below);
            for entry in fs::read_dir(&dir).at(&dir)? {
                let entry = entry.at(&dir)?;
                let path = below.join(entry.file_name());
                let ignored = ignore.ignores(&path.to_string_lossy());
                let meta = entry.metadata().at(entry.path())?;
                if meta.is_dir() {
                    if !ignored || ignore.has_exceptions() {
                        pending.push(path);
                    }
                } else if !ignored {
                    use std::os::unix::fs::MetadataExt as _;
                    newest = newest.max(Some(meta.mtime()));
                }
            }
        }
        Ok(newest)
    }
}

/// The digest of what was picked: names, kinds, modes, owners and contents, no times.
pub(super) fn digest(pick: &Pick, root: &Root, found: &[Found]) -> Result<Digest> {
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
    let mut sink = std::io::BufWriter::with_capacity(64 << 10, Sink(Hasher::default()));
    pick.write(root, found, Some(0), true, &mut sink)?;
    let sink = sink.into_inner().map_err(|err| err.into_error()).doing("read the build context")?;
    Ok(sink.0.finish())
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
