//! Atomic writes, tolerant reads, locks.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;

use crate::error::{Context as _, Error, Kind, Result};

/// Whether a write must survive a power cut, or only a crash of dhow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// `fsync(2)` the file before the rename.
    Synced,
    /// Rename alone: readers see the old or the new file, never a torn one, but a power cut may
    /// lose the newest. Right for what lives on tmpfs or can be derived again.
    Renamed,
}

/// Replaces `path` with `value` as JSON: complete or not at all.
pub fn write_json<T: Serialize>(path: &Path, value: &T, durability: Durability) -> Result<()> {
    let mut text = serde_json::to_vec(value).map_err(Error::from).at(path)?;
    text.push(b'\n');
    write(path, &text, durability)
}

/// Replaces `path` with `bytes`, mode 0600: complete or not at all.
pub fn write(path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let attempt = || -> io::Result<()> {
        let mut file = NamedTempFile::with_prefix_in(".tmp-", dir)?;
        file.write_all(bytes)?;
        if durability == Durability::Synced {
            file.as_file().sync_data()?;
        }
        file.persist(path)?;
        Ok(())
    };
    attempt().at(path).doing("write")
}

/// Reads a record. `None` if there is no such file; an error names the file and what is wrong
/// with it. Fields this version does not know are ignored.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    read_json_or(path, || {
        "`dhow rm -f` or `dhow rmi -f` removes the object this file belongs to".to_owned()
    })
}

/// As [`read_json`], with a remedy of the caller's for a file that is damaged.
pub fn read_json_or<T: DeserializeOwned>(
    path: &Path,
    remedy: impl FnOnce() -> String,
) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(err) if is_absent(&err) => return Ok(None),
        Err(err) => return Err(err).at(path),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|err| damaged(path, &err, &remedy()))
}

/// A record that is there and cannot be read.
pub fn damaged(path: &Path, err: &serde_json::Error, remedy: &str) -> Error {
    Error::engine(format!("{} is damaged: {err}", path.display())).hint(remedy)
}

/// ENOENT, or a parent that is not a directory: either way there is no such object.
fn is_absent(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Makes the file `path` with `bytes`, mode 0600, unless there is one: `false` then. It has a
/// name only once it is whole, so that a crash leaves no empty one; until then it is in `within`,
/// on the same file system.
pub fn write_new(path: &Path, bytes: &[u8], within: &Path) -> Result<bool> {
    let attempt = || -> io::Result<bool> {
        let mut file = NamedTempFile::with_prefix_in(".tmp-", within)?;
        file.write_all(bytes)?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(true),
            Err(err) if err.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(err) => Err(err.error),
        }
    };
    attempt().at(path).doing("write")
}

/// Creates `path` and its parents, mode 0700. Existing directories are left as they are.
pub fn create_private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at(path).doing("create")
}

/// A lock on one object, released when dropped, or when its holder dies. A child inherits it
/// and holds it, too, until it drops its copy, executes something, or dies.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Lock {
    /// Waits for the lock on the directory `dir` (`flock(2)`).
    pub fn exclusive(dir: &Path) -> Result<Self> {
        let file = open_directory(dir)?;
        file.lock().at(dir).doing("lock")?;
        Ok(Self { file })
    }

    /// Waits until nobody holds the lock on `dir` exclusively, and keeps it so.
    pub fn shared(dir: &Path) -> Result<Self> {
        let file = open_directory(dir)?;
        file.lock_shared().at(dir).doing("lock")?;
        Ok(Self { file })
    }

    /// As [`exclusive`](Self::exclusive), on what is at `dir` once the lock is held: while one
    /// waits, it may go and another come. `None` if there is nothing.
    pub fn exclusive_at(dir: &Path) -> Result<Option<Self>> {
        Self::held_at(dir, Self::exclusive)
    }

    /// The same, shared.
    pub fn shared_at(dir: &Path) -> Result<Option<Self>> {
        Self::held_at(dir, Self::shared)
    }

    fn held_at(dir: &Path, lock: impl Fn(&Path) -> Result<Self>) -> Result<Option<Self>> {
        loop {
            let lock = match lock(dir) {
                Err(err) if err.kind() == Kind::NotFound => return Ok(None),
                lock => lock?,
            };
            let held = lock.file.metadata().at(dir)?;
            match fs::symlink_metadata(dir) {
                Ok(there) if (there.dev(), there.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Some(lock));
                }
                Err(err) if !is_absent(&err) => return Err(err).at(dir),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Ends the lock for everyone who has a copy of this descriptor, too.
    pub fn release(self) -> Result<()> {
        self.file.unlock().doing("unlock")
    }

    /// Who has it holds the lock, too.
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.file)
    }

    /// Whether what it is on is at `dir`.
    pub fn is_at(&self, dir: &Path) -> bool {
        let same = |mine: &fs::Metadata, its: &fs::Metadata| {
            (mine.dev(), mine.ino()) == (its.dev(), its.ino())
        };
        match (self.file.metadata(), fs::metadata(dir)) {
            (Ok(mine), Ok(its)) => same(&mine, &its),
            _ => false,
        }
    }

    /// The lock on `dir`, shared, if nobody holds it exclusively.
    pub fn try_shared(dir: &Path) -> Result<Option<Self>> {
        let file = open_directory(dir)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Self { file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(err)) => Err(err).at(dir).doing("lock"),
        }
    }

    /// The lock on `dir` if nobody holds it.
    pub fn try_exclusive(dir: &Path) -> Result<Option<Self>> {
        let file = open_directory(dir)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(err)) => Err(err).at(dir).doing("lock"),
        }
    }
}

/// Makes a directory that no clean-up of the staging area takes for a leftover: those are told
/// by their lock being free. One that comes between the making and the locking is outdone.
pub fn stage(path: &Path) -> Result<Lock> {
    loop {
        create_private_dir(path)?;
        if let Some(lock) = Lock::exclusive_at(path)? {
            return Ok(lock);
        }
    }
}

fn open_directory(dir: &Path) -> Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(dir).at(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_whole_and_private_and_a_damagedfile_is_named() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a.json");
        assert_eq!(read_json::<Vec<u8>>(&path).expect("absent"), None);
        write_json(&path, &vec![1, 2], Durability::Synced).expect("write");
        assert_eq!(read_json::<Vec<u8>>(&path).expect("read"), Some(vec![1, 2]));
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "no temporary is left");
        fs::write(&path, "[1,").expect("truncate");
        let err = read_json::<Vec<u8>>(&path).expect_err("damaged");
        assert!(err.to_string().contains("a.json is damaged"), "{err}");
    }

    #[test]
    fn a_lock_excludes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let held = Lock::exclusive(dir.path()).expect("lock");
        assert!(Lock::try_exclusive(dir.path()).expect("try").is_none());
        drop(held);
        assert!(Lock::try_exclusive(dir.path()).expect("try").is_some());
        let shared = [(); 2].map(|()| Lock::shared(dir.path()).expect("lock"));
        assert!(Lock::try_exclusive(dir.path()).expect("try").is_none());
        drop(shared);
        assert!(Lock::try_exclusive(dir.path()).expect("try").is_some());
    }
}
