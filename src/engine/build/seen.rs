//! What the files of a context were when they were read last: who has not changed since is not
//! read again.
//!
//! `steps/<sha256 of the context's path>.files` is the digest of what follows it, then a record of
//! 64 bytes for each file, sorted: device, inode, time of the last change in nanoseconds, size, and
//! the digest of the file as an entry. Numbers are big-endian. A file's ctime follows every change
//! of content, mode, owner and attributes (inode(7)).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    error::{Context as _, Result},
    oci::Digest,
    sys::fs::Stat,
};

const WHO: usize = 16;
const RECORD: usize = 64;
const HEAD: usize = 32;
/// 64 MiB of them.
const RECORDS_MAX: usize = 1 << 20;
/// A file that changed so short a time before it was read may change again and show the same time:
/// some file systems count in two seconds.
const TOO_FRESH: i128 = 2_000_000_000;

/// One file, as `stat` tells it from others and from what it was before.
type Who = [u8; WHO];
type What = [u8; RECORD - WHO];

/// The files of one context.
#[derive(Debug)]
pub(super) struct Seen {
    path: PathBuf,
    /// As they were noted before.
    old: Vec<u8>,
    new: Mutex<BTreeMap<Who, What>>,
}

impl Seen {
    /// What was noted in the file at `path`; nothing if that is missing or damaged.
    pub(super) fn read(path: PathBuf) -> Self {
        let bytes = fs::read(&path).unwrap_or_default();
        let old = match bytes.split_at_checked(HEAD) {
            Some((sum, rest)) if rest.len() % RECORD == 0 && sum == Digest::of(rest).bytes() => {
                bytes[HEAD..].to_vec()
            }
            _ => Vec::new(),
        };
        Self { path, old, new: Mutex::default() }
    }

    /// The digest of a regular file as an entry: the one it had if it has not changed, or what
    /// `read` finds.
    pub(super) fn digest(
        &self,
        stat: &Stat,
        read: &mut dyn FnMut() -> Result<[u8; 32]>,
    ) -> Result<[u8; 32]> {
        let (who, changed, mut what) = told(stat);
        if let Some(known) = self.known(&who, &what) {
            return Ok(known);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| i128::try_from(now.as_nanos()).unwrap_or(0));
        let digest = read()?;
        if changed < now - TOO_FRESH {
            what[RECORD - WHO - 32..].copy_from_slice(&digest);
            self.new.lock().unwrap_or_else(PoisonError::into_inner).insert(who, what);
        }
        Ok(digest)
    }

    fn known(&self, who: &Who, what: &What) -> Option<[u8; 32]> {
        let at = |index: usize| &self.old[index * RECORD..(index + 1) * RECORD];
        let (mut low, mut high) = (0, self.old.len() / RECORD);
        while low < high {
            let middle = low + (high - low) / 2;
            match at(middle)[..WHO].cmp(who) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let (told, digest) = at(middle)[WHO..].split_at(RECORD - WHO - 32);
                    return (told == &what[..RECORD - WHO - 32])
                        .then(|| digest.try_into().ok())
                        .flatten();
                }
            }
        }
        None
    }

    /// Notes what was read, for the next build.
    pub(super) fn save(&self) -> Result<()> {
        let new = std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner));
        if new.is_empty() {
            return Ok(());
        }
        let mut all: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
        if self.old.len() / RECORD + new.len() <= RECORDS_MAX {
            all.extend(self.old.chunks_exact(RECORD).map(|record| record.split_at(WHO)));
        }
        all.extend(new.iter().map(|(who, what)| (&who[..], &what[..])));
        let mut rest = Vec::with_capacity(all.len() * RECORD);
        for (who, what) in all.into_iter().take(RECORDS_MAX) {
            rest.extend(who);
            rest.extend(what);
        }
        let mut bytes = Digest::of(&rest).bytes().to_vec();
        bytes.extend(rest);
        write(&self.path, &bytes).doing("note what the context's files are")
    }
}

/// Who it is, when it was changed, and what it was, but for the digest.
fn told(stat: &Stat) -> (Who, i128, What) {
    let mut who = [0; WHO];
    who[..8].copy_from_slice(&stat.st_dev.to_be_bytes());
    who[8..].copy_from_slice(&stat.st_ino.to_be_bytes());
    let changed = i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
    let mut what = [0; RECORD - WHO];
    let low = i64::try_from(changed).unwrap_or(i64::MAX);
    what[..8].copy_from_slice(&low.to_be_bytes());
    what[8..16].copy_from_slice(&stat.st_size.to_be_bytes());
    (who, changed, what)
}

/// Whole or not at all; it need not outlive a power cut, since a damaged one is not believed.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    crate::state::store::create_private_dir(dir)?;
    let mut file = tempfile::NamedTempFile::with_prefix_in(".files-", dir).at(dir)?;
    io::Write::write_all(&mut file, bytes).at(path)?;
    file.persist(path).map_err(|err| err.error).at(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn only_what_has_changed_is_read() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("steps/x.files");
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).expect("write");
            let mut stat = crate::sys::fs::stat(fs::File::open(path).expect("open")).expect("stat");
            // As if it were old.
            stat.st_ctime -= 100;
            stat
        };
        let stats: Vec<Stat> = ["a", "b", "c"].map(file).into();
        let count = Cell::new(0);
        let digest = |seen: &Seen, stat: &Stat| {
            let mut read = || {
                count.set(count.get() + 1);
                Ok([u8::try_from(stat.st_ino & 0xff).expect("byte"); 32])
            };
            seen.digest(stat, &mut read).expect("digest")
        };
        let seen = Seen::read(path.clone());
        let first: Vec<_> = stats.iter().map(|stat| digest(&seen, stat)).collect();
        seen.save().expect("save");
        assert_eq!(count.replace(0), 3);
        let seen = Seen::read(path.clone());
        let again: Vec<_> = stats.iter().map(|stat| digest(&seen, stat)).collect();
        assert_eq!((first, count.get()), (again, 0));
        // Changed, or only just made: read, and the latter each time.
        let mut changed = stats[0];
        changed.st_ctime_nsec ^= 1;
        digest(&seen, &changed);
        let mut fresh = stats[1];
        fresh.st_ctime += 100;
        digest(&seen, &fresh);
        seen.save().expect("save");
        let seen = Seen::read(path.clone());
        count.set(0);
        digest(&seen, &changed);
        digest(&seen, &stats[1]);
        digest(&seen, &stats[2]);
        assert_eq!(count.get(), 0);
        digest(&seen, &fresh);
        assert_eq!(count.get(), 1);
        // A damaged one says nothing.
        let mut bytes = fs::read(&path).expect("read");
        bytes[70] ^= 1;
        fs::write(&path, bytes).expect("write");
        assert!(Seen::read(path).old.is_empty());
    }
}
