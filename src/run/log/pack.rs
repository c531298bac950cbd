//! Packing log files that are full (docker's `compress`): a role of dhow's own, so that neither
//! the container waits for it nor the monitor grows by it.
//!
//! The file is locked (flock(2)) while it is being packed. Whoever rotates the log waits for the
//! lock, so that nothing is renamed meanwhile, even if another monitor had begun it.

use std::{
    ffi::{CString, OsString},
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder, bufread::GzDecoder};
use rustix::fs::{AtFlags, FlockOperation, StatxFlags, flock, statx};

use crate::sys::{
    fs::generation,
    process::{Child, spawn_self},
};

pub const ROLE: &str = "pack-log";

/// Which file it is, also when it is packed: device, inode, and which of those that have had
/// the inode's number.
pub type Identity = (u64, u64, i128);

/// The name of a file once it is packed.
pub fn packed(path: &Path) -> PathBuf {
    with(path, ".gz")
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// See [`Identity`].
pub fn identity(file: &File) -> io::Result<Identity> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
    let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
    let made = stat.stx_btime;
    let made = i128::from(made.tv_sec) * 1_000_000_000 + i128::from(made.tv_nsec);
    // The clock of file systems ticks slowly.
    let made = generation(file).map_or(made, i128::from);
    Ok((device, stat.stx_ino, made))
}

/// Of the file that is at `path` now.
pub fn identity_at(path: &Path) -> io::Result<Identity> {
    identity(&File::open(path)?)
}

/// The identity that the file had before it was packed.
pub fn identity_of_packed(file: &File) -> Option<Identity> {
    let decoder = GzDecoder::new(io::BufReader::new(file));
    let extra: &[u8; 32] = decoder.header()?.extra()?.try_into().ok()?;
    let (dev, rest) = extra.split_first_chunk()?;
    let (ino, made) = rest.split_first_chunk()?;
    let made = made.try_into().ok()?;
    Some((u64::from_le_bytes(*dev), u64::from_le_bytes(*ino), i128::from_le_bytes(made)))
}

/// Packs one file at a time.
#[derive(Debug, Default)]
pub(super) struct Packer(Option<Child>);

impl Packer {
    /// Begins with the file at `path`. One that cannot be packed stays as it is.
    pub(super) fn start(&mut self, path: &Path) {
        self.0 = start(path).ok();
    }

    /// Until `path`, if it is there, is not being packed any more.
    pub(super) fn wait(&mut self, path: &Path) {
        if let Some(child) = self.0.take() {
            let _ = child.wait();
        }
        if let Ok(file) = File::open(path) {
            let _ = flock(&file, FlockOperation::LockExclusive);
        }
    }

    /// Until nothing is being packed any more.
    pub(super) fn finish(&mut self) {
        if let Some(child) = self.0.take() {
            let _ = child.wait();
        }
    }
}

fn start(path: &Path) -> io::Result<Child> {
    let file = File::open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let role = CString::new(ROLE)?;
    spawn_self(&[c"dhow", &role, &path], &[file.as_fd()], None).map_err(io::Error::other)
}

/// The hidden role's entry: `dhow pack-log PATH`, with the locked file as descriptor 3.
pub fn main(args: &[OsString]) -> i32 {
    let ([path], Some(file)) = (args, crate::sys::fd::inherited(3)) else { return 125 };
    match pack(Path::new(path), &File::from(file)) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn pack(path: &Path, file: &File) -> io::Result<()> {
    let (dev, ino, made) = identity(file)?;
    let extra = [&dev.to_le_bytes()[..], &ino.to_le_bytes(), &made.to_le_bytes()].concat();
    let begun = with(path, ".gz.part");
    let mut how = OpenOptions::new();
    let target = how.create(true).write(true).truncate(true).mode(0o600).open(&begun)?;
    let written = || -> io::Result<()> {
        let mut gzip = GzBuilder::new().extra(extra).write(&target, Compression::default());
        io::copy(&mut io::BufReader::with_capacity(64 << 10, file), &mut gzip)?;
        gzip.finish().map(drop)
    };
    if let Err(err) = written().and_then(|()| fs::rename(&begun, packed(path))) {
        let _ = fs::remove_file(&begun);
        return Err(err);
    }
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_packed_file_is_known_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.1");
        let text = "a line\n".repeat(100_000);
        fs::write(&path, &text).expect("write");
        let file = File::open(&path).expect("open");
        let before = identity(&file).expect("statx");
        pack(&path, &file).expect("pack");
        assert!(!path.exists());
        let gzip = File::open(packed(&path)).expect("open");
        assert_eq!(identity_of_packed(&gzip), Some(before));
        let mut unpacked = String::new();
        let reader = io::BufReader::new(File::open(packed(&path)).expect("open"));
        GzDecoder::new(reader).read_to_string(&mut unpacked).expect("unpack");
        assert_eq!(unpacked, text);
    }

    #[test]
    fn what_cannot_be_packed_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.1");
        fs::write(&path, "x").expect("write");
        fs::create_dir(packed(&path)).expect("mkdir");
        assert!(pack(&path, &File::open(&path).expect("open")).is_err());
        assert_eq!(fs::read(&path).expect("read"), b"x");
        assert!(!with(&path, ".gz.part").exists());
    }
}
