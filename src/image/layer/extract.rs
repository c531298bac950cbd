//! Extracts a tar beneath a directory that has things in it already: what `cp` does.
//!
//! Nothing in the tar leads out of the directory: names are walked one by one, and a symbolic
//! link on the way, whoever made it, is an error.

use std::{io::Read, os::fd::AsFd};

use super::{
    apply::{clean, write_content},
    entries::{Entries, Entry, Kind, shown},
    tarball::joined,
};
use crate::{
    error::{Context as _, Error, Result},
    sys::fs::{self, Dir, Errno, FileType, Time, kind},
};

/// Who the extracted files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Owner {
    /// Whom the tar says.
    Told,
    /// This user and group.
    Fixed(u32, u32),
    /// Whoever extracts them.
    Caller,
}

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extract {
    pub owner: Owner,
    /// A directory may take the place of something else, and the other way round.
    pub overwrite: bool,
}

/// Extracts `tar` into `dir`; the top of the tar is called `name` there, or is `dir` itself if
/// the name is empty. Returns how many bytes of content there were.
pub fn extract(tar: &mut dyn Read, dir: &Dir, name: &[u8], how: Extract) -> Result<u64> {
    let extractor = Extractor { top: dir, name, how, whole: false, times: Vec::new(), size: 0 };
    extractor.run(tar)
}

/// As [`extract`], of a tar that [`TarWriter::whole`](super::TarWriter::whole) wrote: `dir` itself
/// gets the owner, mode and time that the tar says of it, if it says any.
pub fn restore(tar: &mut dyn Read, dir: &Dir, how: Extract) -> Result<u64> {
    let extractor = Extractor { top: dir, name: b"", how, whole: true, times: Vec::new(), size: 0 };
    extractor.run(tar)
}

struct Extractor<'a> {
    top: &'a Dir,
    name: &'a [u8],
    how: Extract,
    /// What the tar says of its top holds for `top`.
    whole: bool,
    times: Vec<(Vec<u8>, Time)>,
    size: u64,
}

impl Extractor<'_> {
    fn run(mut self, tar: &mut dyn Read) -> Result<u64> {
        let mut entries = Entries::new(tar);
        while let Some(entry) = entries.next()? {
            self.place(&entry, &mut entries).doing_with(|| shown(&entry.name))?;
        }
        entries.finish()?;
        // Last, deepest first: what is made in a directory changes its time.
        for (path, time) in self.times.iter().rev() {
            if path.is_empty() {
                fs::set_time(self.top, *time)?;
                continue;
            }
            let (above, name) = split(path);
            self.enter(above)?.set_time(name, *time).doing_with(|| shown(path))?;
        }
        Ok(self.size)
    }

    fn path(&self, name: &[u8]) -> Result<Vec<u8>> {
        let path = clean(name)?;
        Ok(match (self.name, path.is_empty()) {
            (b"", _) => path,
            (top, true) => top.to_vec(),
            (top, false) => joined(top, &path),
        })
    }

    fn place(&mut self, entry: &Entry, entries: &mut Entries<'_>) -> Result<()> {
        let path = self.path(&entry.name)?;
        if path.is_empty() {
            // Otherwise the directory that was there before keeps its own mode and owner.
            if self.whole && entry.kind == Kind::Directory {
                if let Some((uid, gid)) = self.owner(entry) {
                    fs::chown(self.top, uid, gid)
                        .doing_with(|| format!("give it to {uid}:{gid}"))?;
                }
                fs::chmod(self.top, entry.mode)?;
                self.times.push((path, entry.modified));
            }
            return Ok(());
        }
        let (above, name) = split(&path);
        let dir = self.enter(above)?;
        self.make_room(&dir, name, entry.kind == Kind::Directory)?;
        match &entry.kind {
            Kind::Directory => {
                match dir.mkdir(name, 0o700) {
                    Err(Errno::EXIST) => {}
                    made => made?,
                }
                self.times.push((path.clone(), entry.modified));
            }
            Kind::File => {
                let mut file = dir.create(name, 0o600)?;
                self.size += write_content(&mut file, entries)?;
            }
            Kind::Symlink(target) => dir.symlink(name, target)?,
            Kind::Link(target) => {
                let target = self.path(target)?;
                let (above, old) = split(&target);
                dir.link(name, &self.enter(above)?, old)
                    .doing_with(|| format!("link to {}", shown(&target)))?;
                return Ok(());
            }
            Kind::Fifo => dir.mknod(name, FileType::Fifo, 0o600, (0, 0))?,
            &Kind::Character(major, minor) => {
                dir.mknod(name, FileType::CharacterDevice, 0o600, (major, minor))
                    .doing("make a device")?;
            }
            &Kind::Block(major, minor) => {
                dir.mknod(name, FileType::BlockDevice, 0o600, (major, minor))
                    .doing("make a device")?;
            }
        }
        self.dress(&dir, name, entry)
    }

    /// Takes away what is there already; only directories are merged.
    fn make_room(&self, dir: &Dir, name: &[u8], for_directory: bool) -> Result<()> {
        let there = match dir.stat(name) {
            Err(Errno::NOENT) => return Ok(()),
            there => there?,
        };
        let is_directory = kind(&there) == FileType::Directory;
        if is_directory && for_directory {
            return Ok(());
        }
        if is_directory != for_directory && !self.how.overwrite {
            let (old, new) = match is_directory {
                true => ("directory", "non-directory"),
                false => ("non-directory", "directory"),
            };
            return Err(Error::conflict(format!("cannot overwrite {old} with {new}")));
        }
        Ok(dir.remove_tree(name)?)
    }

    /// `None` leaves what it has.
    fn owner(&self, entry: &Entry) -> Option<(u32, u32)> {
        match self.how.owner {
            Owner::Told => Some((entry.uid, entry.gid)),
            Owner::Fixed(uid, gid) => Some((uid, gid)),
            Owner::Caller => None,
        }
    }

    /// Owner, mode, attributes and times, in the order in which none undoes another.
    fn dress(&self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<()> {
        if let Some((uid, gid)) = self.owner(entry) {
            dir.chown(name, uid, gid).doing_with(|| format!("give it to {uid}:{gid}"))?;
        }
        if !matches!(entry.kind, Kind::Symlink(_)) {
            dir.chmod(name, entry.mode)?;
        }
        for (key, value) in &entry.xattrs {
            match dir.set_xattr(name, key, value) {
                // Another file system, another user: the content is what was asked for.
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NODATA | Errno::INVAL) => {}
                set => set.doing_with(|| format!("set the attribute {}", shown(key)))?,
            }
        }
        Ok(dir.set_time(name, entry.modified)?)
    }

    /// The directory at `path`, made if it is not there.
    fn enter(&self, path: &[u8]) -> Result<Dir> {
        let held = self.top.as_fd().try_clone_to_owned().doing("hold a directory")?;
        let mut dir = Dir::from_fd(held);
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            dir = match dir.open_dir(name) {
                Err(Errno::NOENT) => {
                    dir.mkdir(name, 0o755)?;
                    if let Owner::Fixed(uid, gid) = self.how.owner {
                        dir.chown(name, uid, gid)?;
                    }
                    dir.open_dir(name)?
                }
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    return Err(Error::invalid(format!("{} is not a directory", shown(name))));
                }
                below => below?,
            };
        }
        Ok(dir)
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::layer::TarWriter;
    use std::{fs as host, os::unix::fs::symlink, path::Path};

    fn dir(path: &Path) -> Dir {
        Dir::from_fd(host::File::open(path).expect("open").into())
    }

    const HOW: Extract = Extract { owner: Owner::Caller, overwrite: false };

    #[test]
    fn a_tree_arrives_under_another_name_and_over_an_older_one() {
        let top = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| top.path().join(name);
        host::create_dir_all(at("from/d/e")).expect("mkdir");
        host::write(at("from/d/e/f"), "new").expect("write");
        host::hard_link(at("from/d/e/f"), at("from/g")).expect("link");
        symlink("../outside", at("from/l")).expect("symlink");
        let long = "n".repeat(150);
        host::write(at("from").join(&long), "long").expect("write");
        host::create_dir_all(at("to/x/d/e")).expect("mkdir");
        host::write(at("to/x/d/e/f"), "old").expect("write");
        host::write(at("to/x/d/kept"), "kept").expect("write");
        let mut tar = Vec::new();
        let mut writer = TarWriter::new(&mut tar);
        writer.tree(&dir(&at("from")), b"").expect("tar");
        writer.finish().expect("end");
        let size = extract(&mut &tar[..], &dir(&at("to")), b"x", HOW).expect("extract");
        assert_eq!(size, 3 + 4);
        for (name, text) in [("d/e/f", "new"), ("g", "new"), ("d/kept", "kept"), (&long, "long")] {
            assert_eq!(host::read_to_string(at("to/x").join(name)).expect(name), text);
        }
        assert_eq!(host::read_link(at("to/x/l")).expect("link"), Path::new("../outside"));
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let top = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| top.path().join(name);
        host::create_dir_all(at("to")).expect("mkdir");
        host::create_dir_all(at("out")).expect("mkdir");
        symlink(at("out"), at("to/l")).expect("symlink");
        let tar = |path: &[u8]| {
            let mut tar = Vec::new();
            let mut writer = TarWriter::new(&mut tar);
            writer.file(path, 0o644, b"x").expect("write");
            writer.finish().expect("end");
            tar
        };
        for path in [&b"../f"[..], b"l/f", b"a/../../f"] {
            extract(&mut &tar(path)[..], &dir(&at("to")), b"", HOW).expect_err("refused");
        }
        assert_eq!(host::read_dir(at("out")).expect("list").count(), 0);
        extract(&mut &tar(b"l")[..], &dir(&at("to")), b"", HOW).expect("a link is replaced");
        host::create_dir(at("to/d")).expect("mkdir");
        let err = extract(&mut &tar(b"d")[..], &dir(&at("to")), b"", HOW).expect_err("refused");
        assert!(err.to_string().contains("cannot overwrite directory with non-directory"), "{err}");
    }
}
