//! Locks on objects that may be renamed or removed while one waits for them.
//!
//! The lock is `flock(2)` on the object itself (a blob's file, a layer's directory): it needs
//! no file of its own, follows the object through a rename, and dies with its holder. A lock
//! counts only if the object is still at its path once the lock is held.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::error::{Context as _, Result};

/// A held lock. Dropping it lets go.
///
/// Shared, it pins the object: nobody removes it. Exclusive, it proves that nobody pins it.
#[derive(Debug)]
pub struct Pin {
    _file: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Shared,
    Exclusive,
    ExclusiveNow,
}

impl Pin {
    /// Pins the object at `path`; waits for a remover. `None` if there is no such object.
    pub fn shared(path: &Path) -> Result<Option<Self>> {
        Self::take(path, Wanted::Shared)
    }

    /// Waits until nobody else pins the object at `path`. `None` if there is no such object.
    pub fn exclusive(path: &Path) -> Result<Option<Self>> {
        Self::take(path, Wanted::Exclusive)
    }

    /// `None` if there is no such object, or if somebody pins it.
    pub fn exclusive_if_free(path: &Path) -> Result<Option<Self>> {
        Self::take(path, Wanted::ExclusiveNow)
    }

    /// Pins a file that this process has just made at `path`. `None` if a cleaner was faster.
    pub(super) fn adopt(file: File, path: &Path) -> Result<Option<Self>> {
        file.lock_shared().at(path).doing("lock")?;
        Ok(is_at(&file, path).at(path)?.then_some(Self { _file: file }))
    }

    fn take(path: &Path, wanted: Wanted) -> Result<Option<Self>> {
        loop {
            let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
                Ok(file) => file,
                Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(err) => return Err(err).at(path),
            };
            let locked = match wanted {
                Wanted::Shared => file.lock_shared(),
                Wanted::Exclusive => file.lock(),
                Wanted::ExclusiveNow => match file.try_lock() {
                    Ok(()) => Ok(()),
                    Err(TryLockError::WouldBlock) => return Ok(None),
                    Err(TryLockError::Error(err)) => Err(err),
                },
            };
            locked.at(path).doing("lock")?;
            // While this waited, the object may have gone and another may have come.
            if is_at(&file, path).at(path)? {
                return Ok(Some(Self { _file: file }));
            }
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_share_exclude_and_follow_a_rename() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir(&one).expect("mkdir");
        let pin = Pin::shared(&one).expect("lock").expect("exists");
        assert!(Pin::shared(&one).expect("lock").is_some());
        fs::rename(&one, &two).expect("rename");
        assert!(Pin::shared(&one).expect("lock").is_none());
        assert!(Pin::exclusive_if_free(&two).expect("lock").is_none(), "the pin went along");
        drop(pin);
        assert!(Pin::exclusive_if_free(&two).expect("lock").is_some());
    }

    #[test]
    fn an_object_replaced_while_waiting_is_locked_anew() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("object");
        fs::write(&path, "old").expect("write");
        let held = Pin::exclusive(&path).expect("lock").expect("exists");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Pin::shared(&path).expect("lock"));
            std::thread::sleep(std::time::Duration::from_millis(30));
            fs::remove_file(&path).expect("remove");
            fs::write(&path, "new").expect("write");
            drop(held);
            assert!(waiter.join().expect("join").is_some());
        });
    }
}
