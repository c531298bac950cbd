//! Applies one layer's tar to an empty directory, which becomes a lowerdir.
//!
//! Whiteouts become what overlayfs reads: `.wh.NAME` a character device 0:0, `.wh..wh..opq` an
//! attribute of its directory (image-spec layer.md, "Representing Changes";
//! filesystems/overlayfs.rst, "whiteouts and opaque directories"). They hide what lies in
//! *lower* layers only, so the order of entries does not matter to them.
//!
//! Decided where layers may ask for something odd:
//! * A leading `/` is the layer's root; `..` is refused; links are followed inside the layer.
//! * A name that is there already is replaced; only directories are merged.
//! * A hard link needs its target in this layer. A link is linked itself, never followed.
//! * Devices are made as root, and left out where the kernel forbids them (user namespaces):
//!   a container's devices are its own. Char 0:0 is a whiteout in disguise and refused.
//! * Attributes of overlayfs and fuse-overlayfs are refused: they rule how layers are stacked.
//!   Others that the kernel or file system does not take here are left out, file capabilities
//!   excepted: a program that needs them would fail strangely.
//! * Names of the aufs driver (`.wh..wh.*`) are left out, as every engine does.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::File,
    io::{Read, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::entries::{Entries, Entry, Kind, shown};
use crate::{
    error::{Context as _, Error, Result},
    sys::fs::{self, Dir, Errno, FileType, Root, Time, is_whiteout, kind},
};

/// How layers become directories on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    pub ownership: Ownership,
    /// Overlays are mounted with `userxattr` (Linux 5.11): their attributes are `user.overlay.*`
    /// instead of `trusted.overlay.*`, which needs `CAP_SYS_ADMIN` on the host.
    pub user_xattr: bool,
}

/// What to do about owners that this user namespace does not map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ownership {
    /// Refuse the layer: its files would belong to the wrong user.
    Keep,
    /// Leave such files to the one id there is.
    Absorb,
}

/// What came of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Bytes of file content, holes included.
    pub size: u64,
    pub entries: u64,
    /// Directories made because an entry lies in them, without an entry of their own, parents
    /// first, relative to the layer's root (which is the empty path). [`super::settle`] gives
    /// them their attributes.
    pub implied: Vec<PathBuf>,
}

/// Bytes of names held in memory for the end: of directories, whose times are set last.
const REMEMBERED_MAX: usize = 256 << 20;

const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Attributes by which layers could rule how they are stacked.
const RESERVED: [&[u8]; 4] =
    [b"trusted.overlay.", b"user.overlay.", b"trusted.fuseoverlayfs.", b"user.fuseoverlayfs."];

/// Applies the uncompressed layer `tar` to the empty directory `target`, reading it to its end.
///
/// On an error `target` holds a part of the layer and must be discarded.
pub fn apply(tar: &mut dyn Read, target: BorrowedFd<'_>, how: &Apply) -> Result<Applied> {
    let target = target.try_clone_to_owned().doing("hold the layer's directory")?;
    let mut applier = Applier::new(Root::from_fd(target), *how);
    let mut entries = Entries::new(tar);
    while let Some(entry) = entries.next()? {
        applier
            .place(&entry, &mut entries)
            .doing_with(|| format!("entry {}", shown(&entry.name)))?;
        applier.applied.entries += 1;
    }
    entries.finish()?;
    applier.finish()
}

/// The attribute by which an overlay knows that a directory hides what is below it.
pub(super) const fn opaque_key(user_xattr: bool) -> &'static [u8] {
    if user_xattr { b"user.overlay.opaque" } else { b"trusted.overlay.opaque" }
}

/// Whether a directory hides what is beneath it, whoever's overlay it is of.
pub(super) fn is_opaque(dir: &Dir) -> Result<bool> {
    for user in [false, true] {
        if fs::short_xattr(dir, opaque_key(user))?.is_some_and(|value| value == b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Applier {
    root: Root,
    how: Apply,
    umask: u32,
    /// Who new files belong to.
    uid: u32,
    gid: u32,
    /// The directory of the last entry: the next one is mostly in it too.
    last: Option<Parent>,
    /// Something was replaced that may have been on the way to that directory.
    stale: bool,
    /// Inode number and path of each implied directory: its path may change under links.
    implied: HashMap<u64, Vec<u8>>,
    /// Directories and their times; what is made in one changes them.
    times: Vec<(Vec<u8>, Time)>,
    remembered: usize,
    root_told: bool,
    root_opaque: bool,
    applied: Applied,
}

/// A directory that is being filled.
struct Parent {
    path: Vec<u8>,
    dir: Dir,
    /// New entries get this group if the directory is setgid or the mount says so.
    gid: u32,
    setgid: bool,
}

impl Parent {
    fn new(path: &[u8], dir: Dir) -> Result<Self> {
        let stat = fs::stat(&dir)?;
        let setgid = stat.st_mode & 0o2000 != 0;
        Ok(Self { path: path.to_vec(), dir, gid: stat.st_gid, setgid })
    }
}

impl Applier {
    fn new(root: Root, how: Apply) -> Self {
        let (uid, gid) = fs::creator();
        Self {
            root,
            how,
            umask: fs::umask(),
            uid,
            gid,
            last: None,
            stale: false,
            implied: HashMap::new(),
            times: Vec::new(),
            remembered: 0,
            root_told: false,
            root_opaque: false,
            applied: Applied::default(),
        }
    }

    fn place(&mut self, entry: &Entry, entries: &mut Entries<'_>) -> Result<()> {
        let path = clean(&entry.name)?;
        let Some((above, name)) = split(&path) else {
            return self.place_root(entry);
        };
        if above.split(|&b| b == b'/').any(|part| part.starts_with(AUFS)) {
            return Ok(());
        }
        if above.split(|&b| b == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return Err(Error::invalid("it lies in a whiteout"));
        }
        if name.starts_with(WHITEOUT) {
            return self.place_whiteout(above, name);
        }
        let parent = self.enter(above)?;
        match &entry.kind {
            Kind::File => self.place_file(&parent, name, entry, entries)?,
            Kind::Directory => {
                let directory = self.place_directory(&parent, &path, name, entry)?;
                self.keep(directory);
                return Ok(());
            }
            Kind::Symlink(target) => {
                self.make(&parent, name, |dir| dir.symlink(name, target))?;
                self.finish_node(&parent, name, entry)?;
            }
            Kind::Link(target) => self.place_link(&parent, name, target)?,
            Kind::Fifo => {
                self.place_node(&parent, name, entry, FileType::Fifo, (0, 0))?;
            }
            Kind::Character(0, 0) => {
                return Err(Error::invalid("a character device 0:0, which overlays hide"));
            }
            &Kind::Character(major, minor) => {
                self.place_node(&parent, name, entry, FileType::CharacterDevice, (major, minor))?;
            }
            &Kind::Block(major, minor) => {
                self.place_node(&parent, name, entry, FileType::BlockDevice, (major, minor))?;
            }
        }
        self.keep(parent);
        Ok(())
    }

    fn place_root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Error::invalid("the layer's root is not a directory"));
        }
        let dir = self.readable(b"")?;
        self.finish_open(&dir, entry, true, true)?;
        self.remember(b"", entry.modified)?;
        self.root_told = true;
        Ok(())
    }

    fn place_whiteout(&mut self, above: &[u8], name: &[u8]) -> Result<()> {
        if name == OPAQUE {
            self.last = Some(self.enter(above)?);
            self.root_opaque |= above.is_empty();
            return self.make_opaque(&self.readable(above)?);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::invalid("a whiteout that hides no name"));
        }
        let parent = self.enter(above)?;
        match parent.dir.stat(hidden) {
            Err(Errno::NOENT) => {
                let made = parent.dir.mknod(hidden, FileType::CharacterDevice, 0, (0, 0));
                made.doing("make a whiteout").map_err(|err| {
                    err.hint("an ordinary user can make whiteouts since Linux 5.8")
                })?;
            }
            Ok(stat) if kind(&stat) == FileType::Directory => {
                // It is new in this layer, and owes nothing to the one it hides.
                self.implied.remove(&stat.st_ino);
                self.make_opaque(&parent.dir.open_dir(hidden)?)?;
            }
            Ok(_) => {}
            Err(err) => return Err(err.into()),
        }
        self.last = Some(parent);
        Ok(())
    }

    fn place_file(
        &mut self,
        parent: &Parent,
        name: &[u8],
        entry: &Entry,
        entries: &mut Entries<'_>,
    ) -> Result<()> {
        let mut file = self.make(parent, name, |dir| dir.create(name, entry.mode & 0o777))?;
        self.applied.size += write_content(&mut file, entries)?;
        let new_owner = self.owner_differs(entry, parent);
        let bits = entry.mode & (self.umask | 0o7000) != 0;
        self.finish_open(&file, entry, new_owner, bits)?;
        fs::set_time(&file, entry.modified)?;
        Ok(())
    }

    /// Makes, or finds, the directory and returns it, for what lies in it comes next.
    fn place_directory(
        &mut self,
        parent: &Parent,
        path: &[u8],
        name: &[u8],
        entry: &Entry,
    ) -> Result<Parent> {
        let existing = match parent.dir.mkdir(name, entry.mode & 0o777) {
            Ok(()) => None,
            Err(Errno::EXIST) => Some(parent.dir.stat(name)?),
            Err(err) => return Err(err.into()),
        };
        let merged = existing.is_some_and(|stat| kind(&stat) == FileType::Directory);
        if existing.is_some() && !merged {
            self.make(parent, name, |dir| dir.mkdir(name, entry.mode & 0o777))?;
        }
        let dir = parent.dir.open_dir(name)?;
        if existing.is_some_and(|stat| is_whiteout(&stat)) {
            self.make_opaque(&dir)?;
        }
        if !self.implied.is_empty() {
            self.implied.remove(&fs::stat(&dir)?.st_ino);
        }
        let new_owner = merged || self.owner_differs(entry, parent);
        let bits = merged || parent.setgid || entry.mode & (self.umask | 0o7000) != 0;
        self.finish_open(&dir, entry, new_owner, bits)?;
        self.remember(path, entry.modified)?;
        let setgid = entry.mode & 0o2000 != 0;
        // As it should be; if the owner was absorbed, more is done than need be, not less.
        Ok(Parent { path: path.to_vec(), dir, gid: entry.gid, setgid })
    }

    fn place_link(&mut self, parent: &Parent, name: &[u8], target: &[u8]) -> Result<()> {
        let missing =
            || Error::invalid(format!("a hard link to {}, which this layer lacks", shown(target)));
        let target = clean(target)?;
        let (above, old) = split(&target).ok_or_else(missing)?;
        let from = match self.root.open_dir(bytes(above)) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            opened => opened?,
        };
        let stat = match from.stat(old) {
            Err(Errno::NOENT) => return Err(missing()),
            stat => stat?,
        };
        if is_whiteout(&stat) {
            return Err(missing());
        }
        if kind(&stat) == FileType::Directory {
            return Err(Error::invalid("a hard link to a directory"));
        }
        if parent.dir.stat(name).is_ok_and(|taken| taken.st_ino == stat.st_ino) {
            return Ok(());
        }
        self.make(parent, name, |dir| dir.link(name, &from, old))?;
        Ok(())
    }

    fn place_node(
        &mut self,
        parent: &Parent,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        device: (u32, u32),
    ) -> Result<()> {
        let made = self.make(parent, name, |dir| {
            match dir.mknod(name, kind, entry.mode & 0o777, device) {
                Err(Errno::PERM) if kind != FileType::Fifo => Ok(false),
                made => made.map(|()| true),
            }
        })?;
        if !made {
            log::debug!("device {} left out: it cannot be made here", shown(&entry.name));
            return Ok(());
        }
        self.finish_node(parent, name, entry)
    }

    /// Does `what`, after removing what is in its way.
    fn make<T>(
        &mut self,
        parent: &Parent,
        name: &[u8],
        what: impl Fn(&Dir) -> fs::Result<T>,
    ) -> Result<T> {
        match what(&parent.dir) {
            Err(Errno::EXIST) => {}
            made => return Ok(made?),
        }
        self.stale = true;
        parent.dir.remove_tree(name).doing("replace an earlier entry")?;
        Ok(what(&parent.dir)?)
    }

    fn keep(&mut self, parent: Parent) {
        self.last = (!std::mem::take(&mut self.stale)).then_some(parent);
    }

    /// The directory at `path`, which is made if the tar left it out.
    fn enter(&mut self, path: &[u8]) -> Result<Parent> {
        if let Some(last) = self.last.take_if(|last| last.path == path) {
            return Ok(last);
        }
        match self.root.open_dir(bytes(path)) {
            Ok(dir) => Ok(Parent::new(path, dir)?),
            Err(Errno::NOENT | Errno::NOTDIR) => self.imply(path),
            Err(err) => Err(err.into()),
        }
    }

    fn imply(&mut self, path: &[u8]) -> Result<Parent> {
        let mut missing = vec![path];
        let mut parent = loop {
            let above = split(missing[missing.len() - 1]).map_or(&b""[..], |(above, _)| above);
            match self.root.open_dir(bytes(above)) {
                Ok(dir) => break Parent::new(above, dir)?,
                Err(Errno::NOENT | Errno::NOTDIR) if !above.is_empty() => missing.push(above),
                Err(err) => return Err(err.into()),
            }
        };
        while let Some(path) = missing.pop() {
            parent = self.imply_one(&parent, path)?;
        }
        Ok(parent)
    }

    fn imply_one(&mut self, parent: &Parent, path: &[u8]) -> Result<Parent> {
        let name = split(path).map_or(&b""[..], |(_, name)| name);
        let mut hides = false;
        match parent.dir.mkdir(name, 0o755) {
            Err(Errno::EXIST) => {
                let stat = parent.dir.stat(name)?;
                hides = is_whiteout(&stat);
                if !hides {
                    let what = if kind(&stat) == FileType::Symlink {
                        "a link that leads to no directory of this layer"
                    } else {
                        "not a directory"
                    };
                    return Err(Error::invalid(format!("{} is {what}", shown(path))));
                }
                parent.dir.unlink(name)?;
                parent.dir.mkdir(name, 0o755)?;
            }
            made => made?,
        }
        let dir = parent.dir.open_dir(name)?;
        // Of root and 0755 until it is known what the layers below say.
        if (self.uid, self.gid, parent.gid) != (0, 0, 0) {
            self.owned(fs::chown(&dir, 0, 0), 0, 0)?;
        }
        if parent.setgid || 0o755 & self.umask != 0 {
            fs::chmod(&dir, 0o755)?;
        }
        if hides {
            self.make_opaque(&dir)?;
        } else {
            self.count(path)?;
            self.implied.insert(fs::stat(&dir)?.st_ino, path.to_vec());
        }
        Parent::new(path, dir)
    }

    fn owner_differs(&self, entry: &Entry, parent: &Parent) -> bool {
        (entry.uid, entry.gid) != (self.uid, self.gid) || parent.gid != self.gid
    }

    /// Owner, bits and attributes of an open file or directory, in this order: chown(2) clears
    /// setuid, setgid and file capabilities.
    fn finish_open(&self, file: &impl AsFd, entry: &Entry, chown: bool, chmod: bool) -> Result<()> {
        if chown {
            self.owned(fs::chown(file, entry.uid, entry.gid), entry.uid, entry.gid)?;
        }
        if chmod {
            fs::chmod(file, entry.mode)?;
        }
        set_xattrs(entry, |key, value| fs::set_xattr(file, key, value))
    }

    /// The same for what cannot be opened without consequences, and the times.
    fn finish_node(&self, parent: &Parent, name: &[u8], entry: &Entry) -> Result<()> {
        if self.owner_differs(entry, parent) {
            self.owned(parent.dir.chown(name, entry.uid, entry.gid), entry.uid, entry.gid)?;
        }
        let link = matches!(entry.kind, Kind::Symlink(_));
        if !link && entry.mode & (self.umask | 0o7000) != 0 {
            parent.dir.chmod(name, entry.mode)?;
        }
        set_xattrs(entry, |key, value| parent.dir.set_xattr(name, key, value))?;
        parent.dir.set_time(name, entry.modified)?;
        Ok(())
    }

    fn owned(&self, done: fs::Result<()>, uid: u32, gid: u32) -> Result<()> {
        match done {
            // EINVAL: not mapped in this user namespace. EPERM: the only id that is.
            Err(Errno::INVAL | Errno::PERM) if self.how.ownership == Ownership::Absorb => Ok(()),
            Err(err @ (Errno::INVAL | Errno::PERM)) => {
                Err(Error::from(err).context(format!("give it to {uid}:{gid}")).hint(
                    "the ranges of this user in /etc/subuid and /etc/subgid are too small for \
                     this image; `usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST \
                     USER` enlarges them",
                ))
            }
            done => Ok(done?),
        }
    }

    fn make_opaque(&self, dir: &Dir) -> Result<()> {
        fs::set_xattr(dir, opaque_key(self.how.user_xattr), b"y")
            .doing("mark a directory as opaque")
            .map_err(|err| err.hint("the store needs a file system with extended attributes"))
    }

    /// The directory at `path`, with which attributes can be changed.
    fn readable(&self, path: &[u8]) -> Result<Dir> {
        Ok(self.root.read_dir(bytes(path))?)
    }

    fn remember(&mut self, path: &[u8], time: Time) -> Result<()> {
        self.count(path)?;
        self.times.push((path.to_vec(), time));
        Ok(())
    }

    fn count(&mut self, path: &[u8]) -> Result<()> {
        self.remembered += path.len() + size_of::<(Vec<u8>, Time)>();
        if self.remembered > REMEMBERED_MAX {
            return Err(Error::invalid(format!(
                "the names of this layer's directories exceed {REMEMBERED_MAX} bytes"
            )));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Applied> {
        for (path, time) in std::mem::take(&mut self.times) {
            // A later entry may have put something else there.
            match self.readable(&path) {
                Ok(dir) => fs::set_time(&dir, time).doing_with(|| shown(&path))?,
                Err(err) => log::debug!("no time for {}: {err}", shown(&path)),
            }
        }
        for (inode, path) in std::mem::take(&mut self.implied) {
            let still = self.root.open_path(bytes(&path)).and_then(fs::stat);
            if still.is_ok_and(|stat| stat.st_ino == inode) {
                self.applied.implied.push(OsString::from_vec(path).into());
            }
        }
        if !self.root_told || self.root_opaque {
            self.applied.implied.push(PathBuf::new());
        }
        self.applied.implied.sort();
        Ok(self.applied)
    }
}

/// Writes what the current entry holds, holes left out, and returns its size.
pub(super) fn write_content(file: &mut File, entries: &mut Entries<'_>) -> Result<u64> {
    let content = entries.content();
    let mut at = 0;
    for segment in content.segments {
        if segment.offset != at {
            file.seek(SeekFrom::Start(segment.offset)).doing("write")?;
        }
        let mut left = segment.length;
        while left > 0 {
            let chunk = entries.take(left)?;
            file.write_all(chunk).doing("write")?;
            left -= chunk.len() as u64;
        }
        at = segment.offset + segment.length;
    }
    if at < content.size {
        file.set_len(content.size).doing("write")?;
    }
    Ok(content.size)
}

fn set_xattrs(entry: &Entry, set: impl Fn(&[u8], &[u8]) -> fs::Result<()>) -> Result<()> {
    for (key, value) in &entry.xattrs {
        if RESERVED.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(Error::invalid(format!("it has the reserved attribute {}", shown(key))));
        }
        match set(key, value) {
            Err(err @ (Errno::OPNOTSUPP | Errno::PERM)) if key != b"security.capability" => {
                log::debug!("{}: attribute {} left out: {err}", shown(&entry.name), shown(key));
            }
            done => done.doing_with(|| format!("set the attribute {}", shown(key)))?,
        }
    }
    Ok(())
}

/// A path without leading, doubled and trailing slashes and without `.`; `..` is refused.
pub(in crate::image) fn clean(name: &[u8]) -> Result<Vec<u8>> {
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        if part == b".." {
            return Err(Error::invalid(format!("{} leaves the layer by \"..\"", shown(name))));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    Ok(path)
}

/// The directory part (empty at the root) and the last name of a cleaned path; `None` of the
/// root's.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None if path.is_empty() => None,
        None => Some((b"", path)),
    }
}

fn bytes(path: &[u8]) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(path)
}
