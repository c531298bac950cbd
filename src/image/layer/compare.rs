//! Two stacks of lowerdirs against each other, as overlayfs would show them.

use std::{collections::BTreeSet, fs::File, io::Read, os::fd::OwnedFd};

use super::{
    changes::{Below, Change, ChangeKind},
    entries::shown,
    tarball::joined,
};
use crate::{
    error::{Context as _, Result},
    sys::fs::{self, Dir, FileType, Stat, kind},
};

const BUFFER: usize = 128 << 10;

/// What differs in `newer` from `older`, both topmost first: parents before what is in them, a
/// directory that is gone without what was in it. With `files_only`, directories are not told of
/// for their own sake.
///
/// Files are equal if everything is that a user can see: type, owner, mode, time, attributes and
/// content. Those that both stacks have in common are not read.
pub fn compare(newer: &[Dir], older: &[Dir], files_only: bool) -> Result<Vec<Change>> {
    // A descriptor for each directory on the way, in each layer that has it.
    fs::raise_descriptor_limit();
    let mut comparison = Comparison { files_only, found: Vec::new() };
    let (newer, older): (Vec<&Dir>, Vec<&Dir>) = (newer.iter().collect(), older.iter().collect());
    comparison.level(&newer, &older, b"")?;
    Ok(comparison.found)
}

struct Comparison {
    files_only: bool,
    found: Vec<Change>,
}

impl Comparison {
    fn level(&mut self, newer: &[&Dir], older: &[&Dir], path: &[u8]) -> Result<()> {
        if identities(newer)? == identities(older)? {
            return Ok(());
        }
        let mut names = BTreeSet::new();
        for dir in newer.iter().chain(older) {
            names.extend(fs::list(dir)?.into_iter().map(|(name, _)| name));
        }
        for name in names {
            let name = name.to_bytes();
            let path = joined(path, name);
            self.one(newer, older, name, &path).doing_with(|| shown(&path))?;
        }
        Ok(())
    }

    fn one(&mut self, newer: &[&Dir], older: &[&Dir], name: &[u8], path: &[u8]) -> Result<()> {
        let (now, then) = (Below::find(newer, name)?, Below::find(older, name)?);
        let tell = |kind| Change { kind, path: path.to_vec() };
        let (now_stat, then_stat) = match (now.stat, then.stat) {
            (None, None) => return Ok(()),
            (None, Some(_)) => {
                self.found.push(tell(ChangeKind::Deleted));
                return Ok(());
            }
            (Some(stat), None) => {
                if !self.files_only || kind(&stat) != FileType::Directory {
                    self.found.push(tell(ChangeKind::Added));
                }
                return self.level(&refs(&now.dirs), &[], path);
            }
            (Some(now), Some(then)) => (now, then),
        };
        let both =
            kind(&now_stat) == FileType::Directory && kind(&then_stat) == FileType::Directory;
        if !both {
            if !is_equal(newer, older, name, &now_stat, &then_stat)? {
                self.found.push(tell(ChangeKind::Changed));
            }
            // What was no directory has nothing in it that could be gone.
            return self.level(&refs(&now.dirs), &[], path);
        }
        let before = self.found.len();
        self.level(&refs(&now.dirs), &refs(&then.dirs), path)?;
        let changed = facts(&now_stat) != facts(&then_stat) || self.found.len() > before;
        if changed && !self.files_only {
            self.found.insert(before, tell(ChangeKind::Changed));
        }
        Ok(())
    }
}

fn refs(dirs: &[Dir]) -> Vec<&Dir> {
    dirs.iter().collect()
}

/// Which directories these are.
fn identities(dirs: &[&Dir]) -> Result<Vec<(u64, u64)>> {
    let identity = |dir: &&Dir| Ok(dir.stat_self().map(|stat| (stat.st_dev, stat.st_ino))?);
    dirs.iter().map(identity).collect()
}

fn facts(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

/// Of two files of which one at least is no directory.
fn is_equal(newer: &[&Dir], older: &[&Dir], name: &[u8], now: &Stat, then: &Stat) -> Result<bool> {
    if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino) {
        return Ok(true);
    }
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    if facts(now) != facts(then)
        || time(now) != time(then)
        || now.st_size != then.st_size
        || now.st_rdev != then.st_rdev
    {
        return Ok(false);
    }
    let (Some(one), Some(other)) = (holder(newer, name)?, holder(older, name)?) else {
        return Ok(false);
    };
    if attributes(one, name)? != attributes(other, name)? {
        return Ok(false);
    }
    match kind(now) {
        FileType::RegularFile => same_bytes(one.open_file(name)?, other.open_file(name)?),
        FileType::Symlink => Ok(one.read_link(name)? == other.read_link(name)?),
        FileType::Directory
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Ok(true),
    }
}

/// The topmost directory that has the name.
fn holder<'a>(dirs: &[&'a Dir], name: &[u8]) -> Result<Option<&'a Dir>> {
    for dir in dirs {
        match dir.stat(name) {
            Err(fs::Errno::NOENT) => {}
            stat => return Ok(stat.map(|_| Some(*dir))?),
        }
    }
    Ok(None)
}

/// The attributes that are the file's and not overlayfs's.
fn attributes(dir: &Dir, name: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let own =
        |key: &[u8]| key.starts_with(b"user.overlay.") || key.starts_with(b"trusted.overlay.");
    let mut all = dir.xattrs(name)?;
    all.retain(|(key, _)| !own(key));
    all.sort();
    Ok(all)
}

fn same_bytes(one: OwnedFd, other: OwnedFd) -> Result<bool> {
    let (mut one, mut other) = (File::from(one), File::from(other));
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(other.read(&mut right[..1])? == 0);
        }
        match other.read_exact(&mut right[..count]) {
            Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs as host, os::unix::fs::symlink, path::Path, time::SystemTime};

    use super::*;

    fn dir(path: &Path) -> Dir {
        Dir::from_fd(host::File::open(path).expect("open").into())
    }

    fn put(path: &Path, text: &str) {
        host::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        host::write(path, text).expect("write");
        let file = host::File::options().write(true).open(path).expect("open");
        file.set_modified(SystemTime::UNIX_EPOCH).expect("time");
    }

    fn lines(newer: &[&Path], older: &[&Path], files_only: bool) -> Vec<String> {
        let open = |paths: &[&Path]| paths.iter().map(|path| dir(path)).collect::<Vec<_>>();
        let found = compare(&open(newer), &open(older), files_only).expect("compare");
        let letter = |change: &Change| match change.kind {
            ChangeKind::Added => 'A',
            ChangeKind::Changed => 'C',
            ChangeKind::Deleted => 'D',
        };
        let line = |change: &Change| {
            format!("{} {}", letter(change), String::from_utf8_lossy(&change.path))
        };
        found.iter().map(line).collect()
    }

    #[test]
    fn what_can_be_seen_is_compared() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (base, one, two) =
            (temp.path().join("base"), temp.path().join("one"), temp.path().join("two"));
        put(&base.join("etc/same"), "same");
        put(&base.join("gone/deep/file"), "x");
        for (top, text) in [(&one, "new"), (&two, "old")] {
            put(&top.join("etc/conf"), text);
            put(&top.join("twin/file"), "twin");
            symlink(text, top.join("twin/link")).expect("symlink");
        }
        put(&one.join("more/in/it"), "y");
        dir(&one).mknod(b"gone", FileType::CharacterDevice, 0, (0, 0)).expect("whiteout");
        assert_eq!(
            lines(&[&one, &base], &[&two, &base], false),
            [
                "C etc",
                "C etc/conf",
                "D gone",
                "A more",
                "A more/in",
                "A more/in/it",
                "C twin",
                "C twin/link"
            ]
        );
        assert_eq!(
            lines(&[&one, &base], &[&two, &base], true),
            ["C etc/conf", "D gone", "A more/in/it", "C twin/link"]
        );
        assert_eq!(lines(&[&one, &base], &[&one, &base], false), Vec::<String>::new());
        // A directory of one layer only hides nothing of the other.
        assert_eq!(lines(&[&base], &[&two, &base], true), ["D etc/conf", "D twin"]);
        // A file in a directory's place.
        put(&two.join("more"), "file");
        assert_eq!(lines(&[&two], &[&one], false)[..2], ["C etc", "C etc/conf"]);
        assert!(lines(&[&two], &[&one], false).contains(&"C more".to_owned()));
        assert!(lines(&[&one], &[&two], false).contains(&"A more/in/it".to_owned()));
    }
}
