//! Copies lowerdirs: with other owners, or several into one tree.
//!
//! The source was made by [`super::apply`] and may be hostile in what it holds, but nobody changes
//! it meanwhile: layers are immutable. Both trees are walked by descriptors and no link is
//! followed. Content is shared where the file system can (`ioctl_ficlone(2)`); holes stay holes.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::fd::{AsFd as _, OwnedFd},
};

use serde::{Deserialize, Serialize};

use super::{
    apply::{is_opaque, opaque_key},
    entries::shown,
};
use crate::{
    error::{Context as _, Error, Result},
    sys::{
        fs::{self, Dir, Errno, FileType, Stat, Time, is_whiteout, kind},
        user::IdMaps,
    },
};

/// What becomes of a tree on its way.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The new owner (`outside`) of what belongs to an id (`inside`), both as this process
    /// numbers them. `None` keeps owners.
    pub owners: Option<IdMaps>,
    /// What hides something in lowerdirs below.
    pub marks: Marks,
}

/// What becomes of whiteouts and opaque marks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Marks {
    /// They are copied.
    #[default]
    Kept,
    /// They take effect on what the target holds already, and are not copied.
    Applied,
    /// They take effect, and are copied: they hide what is below the target, too.
    Stacked { user_xattr: bool },
}

/// Copies the directory `name` of `from` to `name` in `to`, which may hold such a directory.
/// `links` is an empty directory of the same file system as `to`; it is left empty.
///
/// On an error the target holds a part of the tree and must be discarded.
pub fn copy(
    from: OwnedFd,
    to: OwnedFd,
    name: &[u8],
    links: OwnedFd,
    changes: &Changes,
) -> Result<()> {
    let mut copier = Copier::new(Some(links), changes);
    copier.tree(Dir::from_fd(from), Dir::from_fd(to), name)?;
    copier.finish()
}

/// Copies what is in the directory `from` into the directory `to`, which gets its owner, mode and
/// times. Without `links`, each name of a file becomes a file.
pub fn copy_into(
    from: OwnedFd,
    to: OwnedFd,
    links: Option<OwnedFd>,
    changes: &Changes,
) -> Result<()> {
    let mut copier = Copier::new(links, changes);
    let (from, to) = (Dir::from_fd(from), Dir::from_fd(to));
    let again = |dir: &Dir| -> Result<Dir> {
        Ok(Dir::from_fd(dir.as_fd().try_clone_to_owned().doing("hold a directory")?))
    };
    for name in copier.files(&from, &to)? {
        copier.tree(again(&from)?, again(&to)?, name.to_bytes())?;
    }
    let stat = fs::stat(&from)?;
    fs::chown(&to, copier.uid(stat.st_uid)?, copier.gid(stat.st_gid)?)?;
    fs::chmod(&to, stat.st_mode & 0o7777)?;
    fs::set_time(&to, Time::modified(&stat))?;
    copier.finish()
}

struct Copier<'a> {
    changes: &'a Changes,
    /// Holds a name for each file that has several, so that the next can be linked to it however
    /// deep the first lies.
    links: Option<Dir>,
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// The file systems have not refused to share content yet.
    clones: bool,
}

/// A directory that is being copied.
struct Level {
    /// How to tell on the way back that nobody moved them.
    from: (u64, u64),
    to: (u64, u64),
    name: Vec<u8>,
    left: Vec<CString>,
}

impl<'a> Copier<'a> {
    fn new(links: Option<OwnedFd>, changes: &'a Changes) -> Self {
        let links = links.map(Dir::from_fd);
        Self { changes, links, linked: HashMap::new(), clones: true }
    }

    fn finish(self) -> Result<()> {
        let Some(links) = &self.links else { return Ok(()) };
        let names = self.linked.values();
        names.into_iter().try_for_each(|link| links.unlink(link)).doing("forget a hard link")
    }

    /// Two descriptors at most are open at once, whatever the depth: see [`fs::walk`].
    fn tree(&mut self, from: Dir, to: Dir, name: &[u8]) -> Result<()> {
        let (mut from, mut to) = (from, to);
        let top = (identity(&from)?, identity(&to)?);
        let mut levels: Vec<Level> = Vec::new();
        let mut next = Some(name.to_vec());
        loop {
            if let Some(name) = next.take() {
                let level = self.enter(&mut from, &mut to, name)?;
                levels.push(level);
            }
            let Some(level) = levels.last_mut() else { return Ok(()) };
            next = level.left.pop().map(CString::into_bytes);
            if next.is_some() {
                continue;
            }
            let Some(done) = levels.pop() else { return Ok(()) };
            let above = levels.last().map_or(top, |level| (level.from, level.to));
            (from, to) = (from.parent()?, to.parent()?);
            if (identity(&from)?, identity(&to)?) != above {
                return Err(Error::from(Errno::STALE).context("a directory moved while copied"));
            }
            self.dress(&from, &to, &done.name).doing_with(|| copying(&done.name))?;
        }
    }

    /// Goes into a directory and copies everything in it but its directories.
    fn enter(&mut self, from: &mut Dir, to: &mut Dir, name: Vec<u8>) -> Result<Level> {
        let below = from.open_dir(&name)?;
        let opaque = self.changes.marks != Marks::Kept && is_opaque(&below)?;
        let mut replaced = false;
        let made = match to.stat(&name) {
            Err(Errno::NOENT) => to.mkdir(&name, 0o700),
            Ok(there) if kind(&there) == FileType::Directory && !opaque => Ok(()),
            Ok(_) => {
                replaced = true;
                to.remove_tree(&name).and_then(|()| to.mkdir(&name, 0o700))
            }
            Err(err) => Err(err),
        };
        made.doing_with(|| copying(&name))?;
        *to = to.open_dir(&name)?;
        if let Marks::Stacked { user_xattr } = self.changes.marks
            && replaced
        {
            // What was hidden by what it takes the place of stays so.
            fs::set_xattr(&*to, opaque_key(user_xattr), b"y").doing("mark a directory")?;
        }
        *from = below;
        let left = self.files(from, to)?;
        Ok(Level { from: identity(from)?, to: identity(to)?, name, left })
    }

    /// Copies everything in a directory but its directories, whose names are returned.
    fn files(&mut self, from: &Dir, to: &Dir) -> Result<Vec<CString>> {
        let mut left = Vec::new();
        for (name, _) in fs::list(from)? {
            let stat = from.stat(name.to_bytes())?;
            if kind(&stat) == FileType::Directory {
                left.push(name);
            } else {
                self.place(from, to, name.to_bytes(), &stat)
                    .doing_with(|| copying(name.to_bytes()))?;
            }
        }
        Ok(left)
    }

    /// Copies anything but a directory.
    fn place(&mut self, from: &Dir, to: &Dir, name: &[u8], stat: &Stat) -> Result<()> {
        if self.changes.marks != Marks::Kept {
            to.remove_tree(name)?;
            if self.changes.marks == Marks::Applied && is_whiteout(stat) {
                return Ok(());
            }
        }
        let inode = (stat.st_dev, stat.st_ino);
        if let (Some(links), Some(link)) = (&self.links, self.linked.get(&inode)) {
            return Ok(to.link(name, links, link)?);
        }
        match kind(stat) {
            FileType::RegularFile => {
                let mut content = File::from(from.open_file(name)?);
                let mut file = to.create(name, 0o600)?;
                self.content(&mut content, &mut file, stat)?;
            }
            FileType::Symlink => to.symlink(name, &from.read_link(name)?)?,
            special @ (FileType::Directory
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown) => {
                let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                to.mknod(name, special, 0o600, device)?;
            }
        }
        self.dress(from, to, name)?;
        if let Some(links) = &self.links
            && stat.st_nlink > 1
            && !is_whiteout(stat)
        {
            let link = self.linked.len().to_string().into_bytes();
            links.link(&link, to, name)?;
            self.linked.insert(inode, link);
        }
        Ok(())
    }

    fn content(&mut self, from: &mut File, to: &mut File, stat: &Stat) -> Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size == 0 {
            return Ok(());
        }
        if self.clones {
            match fs::clone_content(&*from, &*to) {
                Ok(()) => return Ok(()),
                // Another file system, or one that cannot: the next file will fare no better.
                Err(_) => self.clones = false,
            }
        }
        let mut at = 0;
        while let Some((start, end)) = fs::next_data(&*from, at)? {
            from.seek(SeekFrom::Start(start)).doing("read")?;
            to.seek(SeekFrom::Start(start)).doing("write")?;
            // By copy_file_range(2) where it works, says std.
            io::copy(&mut (&*from).take(end - start), to).doing("copy")?;
            at = end;
        }
        if at < size {
            to.set_len(size).doing("write")?;
        }
        Ok(())
    }

    /// Owner, mode, attributes and times, in the order in which none undoes another: a new owner
    /// clears setuid and file capabilities.
    fn dress(&self, from: &Dir, to: &Dir, name: &[u8]) -> Result<()> {
        let stat = from.stat(name)?;
        let (uid, gid) = (self.uid(stat.st_uid)?, self.gid(stat.st_gid)?);
        to.chown(name, uid, gid)?;
        if kind(&stat) != FileType::Symlink {
            to.chmod(name, stat.st_mode & 0o7777)?;
        }
        for (key, value) in from.xattrs(name)? {
            self.attribute(to, name, &key, value)
                .doing_with(|| format!("set the attribute {}", shown(&key)))?;
        }
        Ok(to.set_time(name, Time::modified(&stat))?)
    }

    fn attribute(&self, to: &Dir, name: &[u8], key: &[u8], mut value: Vec<u8>) -> Result<()> {
        let of_overlay = [false, true].iter().any(|user| key == opaque_key(*user));
        if of_overlay && self.changes.marks == Marks::Applied {
            return Ok(());
        }
        if key == b"security.capability" {
            value = self.capability(value)?;
        } else if key.starts_with(b"system.posix_acl_") {
            self.translate_acl(&mut value)?;
        }
        match to.set_xattr(name, key, &value) {
            Err(err @ (Errno::OPNOTSUPP | Errno::PERM))
                if !of_overlay && key != b"security.capability" =>
            {
                // A label of the host's security module, say, which the new file has of its own.
                log::debug!("{}: attribute {} left out: {err}", shown(name), shown(key));
                Ok(())
            }
            done => Ok(done?),
        }
    }

    /// File capabilities count in the user namespace whose root they name (capabilities(7), "File
    /// capability versioning"): in this one, unless they are told otherwise.
    fn capability(&self, value: Vec<u8>) -> Result<Vec<u8>> {
        const VERSION_2: usize = 20;
        let root = self.uid(0)?;
        if root == 0 || value.len() != VERSION_2 {
            return Ok(value);
        }
        let mut versioned = value;
        // The version is the topmost byte of the first word, little-endian.
        versioned[3] = 3;
        versioned.extend(root.to_le_bytes());
        Ok(versioned)
    }

    /// linux/posix_acl_xattr.h: a version, then tag, permissions and id of each entry.
    fn translate_acl(&self, value: &mut [u8]) -> Result<()> {
        const USER: u16 = 0x02;
        const GROUP: u16 = 0x08;
        let Some(entries) = value.get_mut(4..) else { return Ok(()) };
        for entry in entries.chunks_exact_mut(8) {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            let new = match u16::from_le_bytes([entry[0], entry[1]]) {
                USER => self.uid(id)?,
                GROUP => self.gid(id)?,
                _ => continue,
            };
            entry[4..].copy_from_slice(&new.to_le_bytes());
        }
        Ok(())
    }

    fn uid(&self, uid: u32) -> Result<u32> {
        let new = self.changes.owners.as_ref().map_or(Some(uid), |owners| owners.uid_outside(uid));
        new.ok_or_else(|| unmapped("uid", uid))
    }

    fn gid(&self, gid: u32) -> Result<u32> {
        let new = self.changes.owners.as_ref().map_or(Some(gid), |owners| owners.gid_outside(gid));
        new.ok_or_else(|| unmapped("gid", gid))
    }
}

fn unmapped(what: &str, id: u32) -> Error {
    Error::unsupported(format!("it belongs to {what} {id}, which the container would not have"))
        .hint("more subordinate ids are needed in /etc/subuid and /etc/subgid")
}

fn copying(name: &[u8]) -> String {
    format!("copy {}", shown(name))
}

fn identity(dir: &Dir) -> Result<(u64, u64)> {
    let stat = fs::stat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs as host,
        os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
        path::Path,
    };

    struct Trees(tempfile::TempDir);

    impl Trees {
        fn new() -> Self {
            let trees = Self(tempfile::tempdir().expect("tempdir"));
            for dir in ["a/diff", "b/diff", "to/diff", "links"] {
                host::create_dir_all(trees.path(dir)).expect("mkdir");
            }
            trees
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join(name)
        }

        fn copy(&self, from: &str, changes: &Changes) -> Result<()> {
            let open = |name: &str| OwnedFd::from(File::open(self.path(name)).expect("open"));
            copy(open(from), open("to"), b"diff", open("links"), changes)?;
            let left = host::read_dir(self.path("links")).expect("list").count();
            assert_eq!(left, 0, "names of hard links are left");
            Ok(())
        }
    }

    fn mode(path: &Path) -> u32 {
        host::symlink_metadata(path).expect("stat").permissions().mode() & 0o7777
    }

    #[test]
    fn kinds_modes_times_links_and_holes_arrive() {
        let trees = Trees::new();
        let at = |name: &str| trees.path("a/diff").join(name);
        host::create_dir_all(at("d/e")).expect("mkdir");
        host::write(at("d/e/f"), "content").expect("write");
        host::hard_link(at("d/e/f"), at("g")).expect("link");
        symlink("/nowhere", at("l")).expect("symlink");
        let sparse = File::create(at("sparse")).expect("create");
        sparse.write_all_at(b"end", 64 << 20).expect("write");
        sparse.set_len(128 << 20).expect("size");
        let old = Time { seconds: 1000, nanoseconds: 5 };
        let dir = Dir::from_fd(File::open(at("d")).expect("open").into());
        dir.mknod(b"pipe", FileType::Fifo, 0o600, (0, 0)).expect("mkfifo");
        host::set_permissions(at("d/e"), host::Permissions::from_mode(0o3711)).expect("chmod");
        host::set_permissions(at("g"), host::Permissions::from_mode(0o4750)).expect("chmod");
        dir.set_time(b"e", old).expect("utime");

        trees.copy("a", &Changes::default()).expect("copy");
        let to = |name: &str| trees.path("to/diff").join(name);
        assert_eq!(host::read(to("g")).expect("read"), b"content");
        let (one, two) = (host::metadata(to("g")), host::metadata(to("d/e/f")));
        assert_eq!(one.expect("stat").ino(), two.expect("stat").ino());
        assert_eq!(host::metadata(to("g")).expect("stat").nlink(), 2);
        assert_eq!((mode(&to("d/e")), mode(&to("g"))), (0o3711, 0o4750));
        assert_eq!(host::read_link(to("l")).expect("link"), Path::new("/nowhere"));
        let made = host::metadata(to("d/e")).expect("stat");
        assert_eq!((made.mtime(), made.mtime_nsec()), (1000, 5));
        let sparse = host::metadata(to("sparse")).expect("stat");
        assert_eq!(sparse.len(), 128 << 20);
        assert!(sparse.blocks() < 4096, "{} blocks", sparse.blocks());
        let mut end = [0; 4];
        File::open(to("sparse")).expect("open").read_exact_at(&mut end, 64 << 20).expect("read");
        assert_eq!(&end, b"end\0");
    }

    #[test]
    fn layers_merge_and_what_they_hide_goes() {
        let trees = Trees::new();
        for (file, text) in [("keep/low", "1"), ("gone", "1"), ("hidden/low", "1"), ("kind", "1")] {
            let path = trees.path("a/diff").join(file);
            host::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            host::write(path, text).expect("write");
        }
        let upper = trees.path("b/diff");
        for dir in ["keep", "hidden", "kind"] {
            host::create_dir(upper.join(dir)).expect("mkdir");
        }
        host::write(upper.join("hidden/new"), "2").expect("write");
        let dir = Dir::from_fd(File::open(&upper).expect("open").into());
        dir.mknod(b"gone", FileType::CharacterDevice, 0, (0, 0)).expect("whiteout");
        dir.set_xattr(b"hidden", b"user.overlay.opaque", b"y").expect("opaque");

        let changes = Changes { marks: Marks::Applied, ..Changes::default() };
        trees.copy("a", &changes).expect("copy");
        trees.copy("b", &changes).expect("copy");
        let to = trees.path("to/diff");
        let exists = |name: &str| to.join(name).exists();
        assert!(exists("keep/low") && exists("hidden/new") && to.join("kind").is_dir());
        assert!(!exists("hidden/low"));
        assert!(host::symlink_metadata(to.join("gone")).is_err());
        let merged = Dir::from_fd(File::open(&to).expect("open").into());
        assert_eq!(merged.xattrs(b"hidden").expect("list"), []);
    }

    #[test]
    fn layers_stack_and_hide_what_is_below_them_all() {
        let trees = Trees::new();
        let (a, b) = (trees.path("a/diff"), trees.path("b/diff"));
        for path in ["keep", "hidden", "again"] {
            host::create_dir_all(b.join(path)).expect("mkdir");
        }
        host::create_dir_all(a.join("hidden")).expect("mkdir");
        for path in ["a/diff/file", "a/diff/hidden/low", "b/diff/again/new"] {
            host::write(trees.path(path), "x").expect("write");
        }
        let open = |path: &Path| Dir::from_fd(File::open(path).expect("open").into());
        let whiteout = |dir: &Dir, name: &[u8]| {
            dir.mknod(name, FileType::CharacterDevice, 0, (0, 0)).expect("whiteout");
        };
        whiteout(&open(&a), b"gone");
        whiteout(&open(&a), b"again");
        whiteout(&open(&b), b"file");
        open(&b).set_xattr(b"hidden", b"user.overlay.opaque", b"y").expect("opaque");
        let changes = Changes { marks: Marks::Stacked { user_xattr: true }, ..Changes::default() };
        trees.copy("a", &changes).expect("copy");
        trees.copy("b", &changes).expect("copy");
        let to = trees.path("to/diff");
        let top = open(&to);
        for name in [&b"gone"[..], b"file"] {
            assert!(is_whiteout(&top.stat(name).expect("stat")));
        }
        let opaque = |name: &str| is_opaque(&open(&to.join(name))).expect("xattr");
        assert!(opaque("hidden") && opaque("again") && !opaque("keep"));
        assert!(!to.join("hidden/low").exists() && to.join("again/new").exists());
    }

    #[test]
    fn a_tree_deeper_than_a_path_is_copied() {
        let trees = Trees::new();
        let mut at = Dir::from_fd(File::open(trees.path("a/diff")).expect("open").into());
        for _ in 0..4096 {
            at.mkdir(b"d", 0o755).expect("mkdir");
            at = at.open_dir(b"d").expect("open");
        }
        trees.copy("a", &Changes::default()).expect("copy");
        let to = File::open(trees.path("to/diff")).expect("open");
        assert_eq!(fs::usage(to, None).expect("usage").entries, 4096);
        for name in ["a", "to"] {
            let top = Dir::from_fd(File::open(trees.path(name)).expect("open").into());
            top.remove_tree(b"diff").expect("remove");
        }
    }

    #[test]
    fn an_owner_without_a_new_one_is_an_error() {
        let trees = Trees::new();
        host::write(trees.path("a/diff/f"), "").expect("write");
        let owners = Some(IdMaps::default());
        let err =
            trees.copy("a", &Changes { owners, marks: Marks::Kept }).expect_err("nobody is mapped");
        assert!(err.to_string().contains("which the container would not have"), "{err}");
    }

    #[test]
    fn capabilities_and_lists_name_ids_of_the_new_namespace() {
        use crate::sys::user::IdRange;
        let map = vec![IdRange { inside: 0, outside: 7, size: 10 }];
        let changes =
            Changes { owners: Some(IdMaps { uid: map.clone(), gid: map }), marks: Marks::Kept };
        let copier = Copier::new(None, &changes);
        let mut value = vec![1, 0, 0, 2];
        value.resize(20, 9);
        let versioned = copier.capability(value).expect("mapped");
        assert_eq!((&versioned[..4], &versioned[20..]), (&[1, 0, 0, 3][..], &[7, 0, 0, 0][..]));
        let mut list = vec![2, 0, 0, 0, 2, 0, 7, 0, 3, 0, 0, 0, 4, 0, 7, 0, 255, 255, 255, 255];
        copier.translate_acl(&mut list).expect("mapped");
        assert_eq!(list[4..12], [2, 0, 7, 0, 10, 0, 0, 0]);
        assert_eq!(list[16..], [255; 4]);
    }
}
