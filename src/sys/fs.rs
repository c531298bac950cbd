//! Paths that cannot leave a directory, and changes to one name in one directory.
//!
//! [`Root`] resolves whole paths beneath a directory with `openat2(2)` (Linux 5.6): what is
//! beneath may be hostile and may change meanwhile. [`Dir`] changes single names and never
//! follows a link in the last step. [`walk`] visits a tree of any depth by descriptors.
//! No path is ever joined as a string and given to the kernel without a root.

use std::{
    collections::HashSet,
    ffi::{CStr, CString, OsStr},
    fs::File,
    io::{self, Read as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    self as rfs, AtFlags, Dev, Gid, Mode, RawDir, ResolveFlags, Timespec, Timestamps, Uid,
    XattrFlags,
};

pub use rustix::{
    fs::{FileType, OFlags, Stat},
    io::{Errno, Result},
};

/// The directory beneath which every path of this type stays.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// Symbolic links lead where they lead for a process whose root this is; `..` stops there;
/// links of `/proc` that are not text are refused.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// No link anywhere, and no way up: `ELOOP` or `EXDEV` instead.
const STRICT: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Root {
    /// Holds the directory at `path`, which is trusted.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rfs::open(path, flags, Mode::empty()).map(Self)
    }

    /// Beneath this directory from now on. Any directory descriptor serves, `O_PATH` or not.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Opens `path` as a process would whose root this is: links are followed, inside.
    pub fn open_at(&self, path: impl AsRef<OsStr>, flags: OFlags) -> Result<OwnedFd> {
        resolve(self.as_fd(), path.as_ref(), flags, IN_ROOT)
    }

    /// The object at `path`, links followed inside, as an `O_PATH` descriptor.
    pub fn open_path(&self, path: impl AsRef<OsStr>) -> Result<OwnedFd> {
        self.open_at(path, OFlags::PATH)
    }

    /// The directory at `path`, links followed inside.
    pub fn open_dir(&self, path: impl AsRef<OsStr>) -> Result<Dir> {
        self.open_at(path, OFlags::PATH | OFlags::DIRECTORY).map(Dir)
    }

    /// The directory at `path`, links followed inside, readable: it can be listed, and its
    /// owner, mode, times and extended attributes changed.
    pub fn read_dir(&self, path: impl AsRef<OsStr>) -> Result<Dir> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY).map(Dir)
    }

    /// The object at `path` as an `O_PATH` descriptor if there is no link on the way; the last
    /// component may be a link, and is then opened itself.
    pub fn open_strict(&self, path: impl AsRef<OsStr>) -> Result<OwnedFd> {
        resolve(self.as_fd(), path.as_ref(), OFlags::PATH | OFlags::NOFOLLOW, STRICT)
    }

    /// The directory that holds `path`, created with its missing parents, and the last name.
    ///
    /// `EINVAL` if `path` names no single thing: it is empty, or ends in `..`.
    pub fn open_parent<'p>(&self, path: &'p Path, mode: u32) -> Result<(Dir, &'p OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.ensure_dir(parent, mode)?, name))
    }

    /// The directory at `path`; it and its missing parents are made with `mode` less the umask.
    ///
    /// What a dangling link on the way leads to is made, too: inside, like everything.
    pub fn ensure_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<Dir> {
        self.make_dir(path.as_ref(), mode, LINKS_MAX)
    }

    fn make_dir(&self, path: &Path, mode: u32, links: u32) -> Result<Dir> {
        match self.open_dir(path) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        // From the deepest prefix that exists: each is resolved from the root again, because
        // a link may lead anywhere inside it.
        let mut missing: Vec<&Path> = vec![path];
        let mut dir = loop {
            let above = missing[missing.len() - 1].parent().ok_or(Errno::NOENT)?;
            match self.open_dir(above) {
                Ok(dir) => break dir,
                Err(Errno::NOENT) => missing.push(above),
                Err(err) => return Err(err),
            }
        };
        while let Some(path) = missing.pop() {
            match path.file_name() {
                Some(name) => match dir.mkdir(name.as_bytes(), mode) {
                    Ok(()) => dir = dir.open_dir(name.as_bytes())?,
                    // Another process was faster, or it is a link.
                    Err(Errno::EXIST) => {
                        dir = match self.open_dir(path) {
                            Err(Errno::NOENT) => {
                                let end = end_of_link(&dir, path, name)?;
                                self.make_dir(&end, mode, one_less(links)?)?
                            }
                            found => found?,
                        };
                    }
                    Err(err) => return Err(err),
                },
                None => dir = self.open_dir(path)?,
            }
        }
        Ok(dir)
    }

    /// The object at `path` as an `O_PATH` descriptor; an empty file (0644 less the umask, in
    /// directories of 0755) if nothing is there. What a bind mount of a file needs as target.
    ///
    /// What a dangling link leads to is made: many an image's `/etc/resolv.conf` is one, into a
    /// `/run` that is empty in an image.
    pub fn ensure_file(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.make_file(path.as_ref(), LINKS_MAX)
    }

    fn make_file(&self, path: &Path, links: u32) -> Result<OwnedFd> {
        match self.open_path(path) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let (dir, name) = self.open_parent(path, 0o755)?;
        match dir.create(name.as_bytes(), 0o644) {
            Ok(_) => self.open_path(path),
            Err(Errno::EXIST) => match self.open_path(path) {
                Err(Errno::NOENT) => {
                    self.make_file(&end_of_link(&dir, path, name)?, one_less(links)?)
                }
                found => found,
            },
            Err(err) => Err(err),
        }
    }

    /// The content of the regular file at `path`, links followed inside.
    ///
    /// Never hangs on what an image may put there: a fifo, device or directory is `EINVAL`,
    /// a file of more than `cap` bytes `EFBIG`.
    pub fn read_small(&self, path: impl AsRef<OsStr>, cap: u64) -> io::Result<Vec<u8>> {
        // O_NONBLOCK: opening a fifo returns at once. O_NOCTTY: a terminal is not taken.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.open_at(path, flags)?;
        if kind(&rfs::fstat(&fd)?) != FileType::RegularFile {
            return Err(Errno::INVAL.into());
        }
        let mut content = Vec::new();
        File::from(fd).take(cap.saturating_add(1)).read_to_end(&mut content)?;
        if content.len() as u64 > cap {
            return Err(Errno::FBIG.into());
        }
        Ok(content)
    }
}

/// Links followed one after another before `ELOOP` (path_resolution(7)).
const LINKS_MAX: u32 = 40;

fn one_less(links: u32) -> Result<u32> {
    links.checked_sub(1).ok_or(Errno::LOOP)
}

/// Where the link `path`, which is `name` in `dir`, leads to. Only a path to be resolved from
/// the root again: what it says is not trusted.
fn end_of_link(dir: &Dir, path: &Path, name: &OsStr) -> Result<PathBuf> {
    let target = rfs::readlinkat(&dir.0, single(name.as_bytes())?, Vec::new())?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok(parent.join(OsStr::from_bytes(target.as_bytes())))
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn resolve(
    root: BorrowedFd<'_>,
    path: &OsStr,
    flags: OFlags,
    how: ResolveFlags,
) -> Result<OwnedFd> {
    // openat2(2) knows no empty path; the root's own is a dot.
    let path = if path.is_empty() { OsStr::new(".") } else { path };
    loop {
        match rfs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            // A rename elsewhere made `..` uncertain: openat2(2), "ERRORS", EAGAIN.
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

/// What kind of thing this is.
pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether this is how overlayfs notes that a name below is gone: a character device 0:0
/// (filesystems/overlayfs.rst, "whiteouts and opaque directories").
pub fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Seconds since the epoch and nanoseconds below 10^9.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Time {
    /// When `stat`'s content was last changed.
    pub fn modified(stat: &Stat) -> Self {
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Self { seconds: stat.st_mtime, nanoseconds }
    }

    /// When `stat`'s file was last changed in any way.
    pub fn changed(stat: &Stat) -> Self {
        let nanoseconds = u32::try_from(stat.st_ctime_nsec).unwrap_or(0);
        Self { seconds: stat.st_ctime, nanoseconds }
    }

    fn both(self) -> Timestamps {
        let time = Timespec { tv_sec: self.seconds, tv_nsec: self.nanoseconds.into() };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// One directory, whose entries are changed by their single names.
///
/// Names with a slash, `.` and `..` are `EINVAL`, so that no method reaches another directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// The directory `name`, never through a link, readable: owner, mode and extended
    /// attributes can be changed through it.
    pub fn open_dir(&self, name: &[u8]) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rfs::openat(&self.0, single(name)?, flags, Mode::empty()).map(Self)
    }

    /// The directory that this one lies in.
    pub fn parent(&self) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rfs::openat(&self.0, c"..", flags, Mode::empty()).map(Self)
    }

    /// The regular file `name` for reading, never through a link. Returns at once for a fifo.
    pub fn open_file(&self, name: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rfs::openat(&self.0, single(name)?, flags, Mode::empty())
    }

    /// Where the link `name` leads.
    pub fn read_link(&self, name: &[u8]) -> Result<Vec<u8>> {
        rfs::readlinkat(&self.0, single(name)?, Vec::new()).map(CString::into_bytes)
    }

    /// Makes a regular file for writing. `EEXIST` if the name is taken, by a link too.
    pub fn create(&self, name: &[u8], mode: u32) -> Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rfs::openat(&self.0, single(name)?, flags, Mode::from_raw_mode(mode)).map(File::from)
    }

    pub fn mkdir(&self, name: &[u8], mode: u32) -> Result<()> {
        rfs::mkdirat(&self.0, single(name)?, Mode::from_raw_mode(mode))
    }

    pub fn symlink(&self, name: &[u8], target: &[u8]) -> Result<()> {
        rfs::symlinkat(target, &self.0, single(name)?)
    }

    /// Gives what `from` calls `old` the further name `name` here. A link is linked itself.
    pub fn link(&self, name: &[u8], from: &Self, old: &[u8]) -> Result<()> {
        rfs::linkat(&from.0, single(old)?, &self.0, single(name)?, AtFlags::empty())
    }

    /// Makes a device (`major`, `minor`), fifo or socket. Devices other than 0:0 need
    /// `CAP_MKNOD` in the first user namespace; 0:0 needs nothing since Linux 5.8.
    pub fn mknod(&self, name: &[u8], kind: FileType, mode: u32, device: (u32, u32)) -> Result<()> {
        let device: Dev = rfs::makedev(device.0, device.1);
        rfs::mknodat(&self.0, single(name)?, kind, Mode::from_raw_mode(mode), device)
    }

    pub fn unlink(&self, name: &[u8]) -> Result<()> {
        rfs::unlinkat(&self.0, single(name)?, AtFlags::empty())
    }

    /// Renames within this directory, replacing what may be there.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        rfs::renameat(&self.0, single(from)?, &self.0, single(to)?)
    }

    /// What `name` is; a link is described itself.
    pub fn stat(&self, name: &[u8]) -> Result<Stat> {
        rfs::statat(&self.0, single(name)?, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The directory itself.
    pub fn stat_self(&self) -> Result<Stat> {
        rfs::fstat(&self.0)
    }

    /// Sets the owner of `name`; of a link itself.
    pub fn chown(&self, name: &[u8], uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = owner(uid, gid)?;
        rfs::chownat(&self.0, single(name)?, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Sets the permission bits of `name`. A link has none of its own, and is `EOPNOTSUPP`.
    pub fn chmod(&self, name: &[u8], mode: u32) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat(&self.0, single(name)?, flags, Mode::empty())?;
        if kind(&rfs::fstat(&fd)?) == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        // fchmod(2) takes no O_PATH descriptor; its name in /proc is the object itself.
        rfs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode))
    }

    /// Sets both times of `name`; of a link itself.
    pub fn set_time(&self, name: &[u8], time: Time) -> Result<()> {
        rfs::utimensat(&self.0, single(name)?, &time.both(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Sets an extended attribute of `name`; of a link itself.
    pub fn set_xattr(&self, name: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
        rfs::lsetxattr(&*self.proc_path(name)?, key, value, XattrFlags::empty())
    }

    /// Takes an extended attribute of `name` away; of a link itself.
    pub fn remove_xattr(&self, name: &[u8], key: &[u8]) -> Result<()> {
        rfs::lremovexattr(&*self.proc_path(name)?, key)
    }

    /// The extended attributes of `name`; of a link itself.
    pub fn xattrs(&self, name: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let path = self.proc_path(name)?;
        // xattr(7): 64 KiB are the most that a list or a value has.
        let mut keys = vec![0; 64 << 10];
        let length = match rfs::llistxattr(&*path, &mut keys[..]) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            length => length?,
        };
        let mut found = Vec::new();
        for key in keys[..length].split(|&b| b == 0).filter(|key| !key.is_empty()) {
            let mut value = vec![0; 64 << 10];
            let length = rfs::lgetxattr(&*path, key, &mut value[..])?;
            value.truncate(length);
            found.push((key.to_vec(), value));
        }
        Ok(found)
    }

    /// A path to `name`: there is no setxattrat(2) before Linux 6.13. The first part is this
    /// directory's descriptor, the rest one name that the `l` calls do not follow.
    fn proc_path(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut path = format!("/proc/self/fd/{}/", self.0.as_raw_fd()).into_bytes();
        path.extend_from_slice(single(name)?);
        Ok(path)
    }

    /// Removes `name` and everything in it; see [`remove_tree`].
    pub fn remove_tree(&self, name: &[u8]) -> Result<()> {
        remove_tree(self.as_fd(), name)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn single(name: &[u8]) -> Result<&[u8]> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    Ok(name)
}

/// `u32::MAX` means "leave as it is" to chown(2), and is refused instead.
fn owner(uid: u32, gid: u32) -> Result<(Option<Uid>, Option<Gid>)> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    Ok((Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
}

/// The type, owner, mode and times of an open file or directory.
pub fn stat(fd: impl AsFd) -> Result<Stat> {
    rfs::fstat(fd)
}

/// Sets the owner of an open file or directory. Clears setuid, setgid and file capabilities.
pub fn chown(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    let (uid, gid) = owner(uid, gid)?;
    rfs::fchown(fd, uid, gid)
}

/// Sets the permission bits, setuid, setgid and sticky of an open file or directory.
pub fn chmod(fd: impl AsFd, mode: u32) -> Result<()> {
    rfs::fchmod(fd, Mode::from_raw_mode(mode))
}

/// Sets both times of an open file or directory.
pub fn set_time(fd: impl AsFd, time: Time) -> Result<()> {
    rfs::futimens(fd, &time.both())
}

/// Sets an extended attribute of an open file or directory.
pub fn set_xattr(fd: impl AsFd, key: &[u8], value: &[u8]) -> Result<()> {
    rfs::fsetxattr(fd, key, value, XattrFlags::empty())
}

/// The value of a short extended attribute (64 bytes at most), `None` if it is not there.
pub fn short_xattr(fd: impl AsFd, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut value = [0; 64];
    match rfs::fgetxattr(fd, key, &mut value) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(err) => Err(err),
    }
}

/// Tells files apart that have had the same inode number one after the other (`FS_IOC_GETVERSION`);
/// `None` where the file system does not know.
pub fn generation(file: impl AsFd) -> Option<u32> {
    /// `_IOR('v', 1, long)`; the kernel writes an int.
    const GET_VERSION: u64 = 0x8000_7601 | (size_of::<libc::c_long>() as u64) << 16;
    let mut generation: libc::c_long = 0;
    // SAFETY: the kernel writes an int to where there is room for a long.
    let r = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), GET_VERSION as _, &raw mut generation) };
    // Only the half that was written.
    (r == 0).then(|| u32::from_ne_bytes(*generation.to_ne_bytes().first_chunk().unwrap_or(&[0; 4])))
}

/// Makes `to` share the content of `from` (`ioctl_ficlone(2)`): same file system, and one that
/// can.
pub fn clone_content(from: impl AsFd, to: impl AsFd) -> Result<()> {
    rfs::ioctl_ficlone(to, from)
}

/// Where the first data at or after `at` begin and end; `None` if only a hole is left
/// (`lseek(2)`, "Seeking file data and holes").
pub fn next_data(file: impl AsFd, at: u64) -> Result<Option<(u64, u64)>> {
    match rfs::seek(&file, rfs::SeekFrom::Data(at)) {
        Ok(start) => Ok(Some((start, rfs::seek(&file, rfs::SeekFrom::Hole(start))?))),
        Err(Errno::NXIO) => Ok(None),
        Err(err) => Err(err),
    }
}

/// The mount that `name` of `dir` is on, a mount point's own included; of `dir` itself if the
/// name is empty (`statx(2)`, `STATX_MNT_ID`, Linux 5.8). Zero on a kernel that cannot tell.
pub fn mount_id(dir: &Dir, name: &[u8]) -> Result<u64> {
    let (name, flags) = match name {
        b"" => (&b""[..], AtFlags::EMPTY_PATH),
        name => (single(name)?, AtFlags::SYMLINK_NOFOLLOW),
    };
    let flags = flags | AtFlags::NO_AUTOMOUNT;
    Ok(rfs::statx(&dir.0, name, flags, rfs::StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Lets this process have as many descriptors as it may (`getrlimit(2)`, RLIMIT_NOFILE).
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Not being allowed to is no harm to anyone with ordinary trees.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Asks for everything written to the file system of `fd` to be on the disk.
pub fn sync_filesystem(fd: impl AsFd) -> Result<()> {
    rfs::syncfs(fd)
}

/// The user and group that this process's new files belong to.
pub fn creator() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The permission bits that this process's new files lose, as `/proc` tells them: umask(2)
/// itself cannot be asked without being changed, for all threads. All bits if unknown.
pub fn umask() -> u32 {
    let told = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    told.lines()
        .find_map(|line| line.strip_prefix("Umask:"))
        .and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok())
        .unwrap_or(0o777)
}

/// The names in a directory that was opened for reading, without `.` and `..`, in no order. One
/// that has been removed since has none.
pub fn list(dir: impl AsFd) -> Result<Vec<(CString, FileType)>> {
    let mut names = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Err(Errno::NOENT) => break,
            entry => entry?,
        };
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

/// When [`walk`] comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// At anything but a directory.
    File,
    /// At a directory, after everything in it.
    Directory,
}

/// Visits everything beneath `top`, by descriptors, following no link; deepest first.
///
/// Two descriptors at most are open at once, whatever the depth: the way up is `..`, checked
/// to be the directory the walk came from (`ESTALE` if someone moved it). With `force`, a
/// directory that its owner cannot read is made readable first. A directory that goes meanwhile
/// is passed over.
pub fn walk(
    top: OwnedFd,
    force: bool,
    visit: &mut dyn FnMut(&Dir, &CStr, Visit) -> Result<()>,
) -> Result<()> {
    struct Level {
        identity: (u64, u64),
        subdirs: Vec<CString>,
    }
    let enter = |dir: &Dir, visit: &mut dyn FnMut(&Dir, &CStr, Visit) -> Result<()>| {
        let stat = rfs::fstat(&dir.0)?;
        let mut subdirs = Vec::new();
        for (name, mut kind_of) in list(&dir.0)? {
            if kind_of == FileType::Unknown {
                kind_of = match dir.stat(name.to_bytes()) {
                    Err(Errno::NOENT) => continue,
                    stat => kind(&stat?),
                };
            }
            if kind_of == FileType::Directory {
                subdirs.push(name);
            } else {
                visit(dir, &name, Visit::File)?;
            }
        }
        Ok(Level { identity: (stat.st_dev, stat.st_ino), subdirs })
    };

    let mut dir = Dir(top);
    let mut levels = vec![enter(&dir, visit)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.subdirs.last() {
            dir = match open_for_walk(&dir, name.to_bytes(), force) {
                Err(Errno::NOENT) => {
                    level.subdirs.pop();
                    continue;
                }
                // Something else is there now.
                Err(Errno::NOTDIR | Errno::LOOP) if !force => {
                    level.subdirs.pop();
                    continue;
                }
                opened => opened?,
            };
            let below = enter(&dir, visit)?;
            levels.push(below);
            continue;
        }
        levels.pop();
        let Some(above) = levels.last_mut() else { break };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        dir = Dir(rfs::openat(&dir.0, c"..", flags, Mode::empty())?);
        let stat = rfs::fstat(&dir.0)?;
        if (stat.st_dev, stat.st_ino) != above.identity {
            return Err(Errno::STALE);
        }
        if let Some(name) = above.subdirs.pop() {
            visit(&dir, &name, Visit::Directory)?;
        }
    }
    Ok(())
}

fn open_for_walk(dir: &Dir, name: &[u8], force: bool) -> Result<Dir> {
    let child = match dir.open_dir(name) {
        Err(Errno::ACCESS) if force => {
            dir.chmod(name, 0o700)?;
            dir.open_dir(name)?
        }
        opened => opened?,
    };
    // Readable is not enough to unlink in it, as anyone but root.
    if force && rfs::fstat(&child.0)?.st_mode & 0o700 != 0o700 {
        rfs::fchmod(&child.0, Mode::RWXU)?;
    }
    Ok(child)
}

/// Removes `name` in `dir` and everything in it, whatever its depth, following no link;
/// directories that forbid it are made writable first. Fine if there is nothing, or if another
/// process removes it at the same time.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    /// Each finds at least one entry less; a file system that shows what is not there ends it.
    const ATTEMPTS: u32 = 10_000;
    let parent = Dir(dir.try_clone_to_owned().map_err(|_| Errno::MFILE)?);
    for _ in 1..ATTEMPTS {
        match try_to_remove_tree(&parent, name) {
            // A directory went while the walk was on its way into it.
            Err(Errno::NOENT) => {}
            done => return done,
        }
    }
    try_to_remove_tree(&parent, name)
}

fn try_to_remove_tree(parent: &Dir, name: &[u8]) -> Result<()> {
    match parent.unlink(name) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(err) => return Err(err),
    }
    let top = open_for_walk(parent, name, true)?;
    walk(top.into_fd(), true, &mut |dir, name, visit| {
        let flags = match visit {
            Visit::File => AtFlags::empty(),
            Visit::Directory => AtFlags::REMOVEDIR,
        };
        match rfs::unlinkat(&dir.0, name, flags) {
            // Someone else removes it too.
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    })?;
    rfs::unlinkat(&parent.0, single(name)?, AtFlags::REMOVEDIR)
}

/// What a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Bytes of content; a file with several names counts once.
    pub size: u64,
    /// Bytes of disk blocks.
    pub disk: u64,
    /// Files, directories and everything else, the top not counted.
    pub entries: u64,
}

/// Measures everything beneath `top`; with `since`, what was made or changed after then only. A
/// file's time of change is the kernel's own and cannot be set (inode(7), `ctime`). Files may come
/// and go meanwhile; where a directory goes that it is in, it begins again, a few times.
pub fn usage(top: impl AsFd, since: Option<Time>) -> Result<Usage> {
    const ATTEMPTS: u32 = 10;
    for _ in 1..ATTEMPTS {
        match try_usage(top.as_fd(), since) {
            Err(Errno::STALE | Errno::NOENT) => {}
            done => return done,
        }
    }
    try_usage(top.as_fd(), since)
}

fn try_usage(top: BorrowedFd<'_>, since: Option<Time>) -> Result<Usage> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rfs::openat(top, c".", flags, Mode::empty())?;
    let mut total = Usage::default();
    let mut linked = HashSet::new();
    walk(top, false, &mut |dir, name, visit| {
        let stat = match dir.stat(name.to_bytes()) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        if since.is_some_and(|since| Time::changed(&stat) <= since) {
            return Ok(());
        }
        total.entries += 1;
        if visit == Visit::File && stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        total.disk += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if kind(&stat) == FileType::RegularFile {
            total.size += u64::try_from(stat.st_size).unwrap_or(0);
        }
        Ok(())
    })?;
    Ok(total)
}

/// Gives `top` and everything beneath it one owner; links themselves, not what they lead to.
pub fn chown_tree(top: OwnedFd, uid: u32, gid: u32) -> Result<()> {
    chown(&top, uid, gid)?;
    walk(top, false, &mut |dir, name, _| match dir.chown(name.to_bytes(), uid, gid) {
        // Gone meanwhile.
        Err(Errno::NOENT) => Ok(()),
        done => done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = Root::open(dir.path()).expect("open");
        (dir, root)
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let (dir, root) = root();
        fs::create_dir(dir.path().join("etc")).expect("mkdir");
        fs::write(dir.path().join("etc/passwd"), "inside").expect("write");
        symlink("/etc/passwd", dir.path().join("absolute")).expect("symlink");
        symlink("../../../../etc/passwd", dir.path().join("up")).expect("symlink");
        for name in ["absolute", "up", "../etc/passwd", "/etc/passwd", "etc/../../etc/passwd"] {
            assert_eq!(root.read_small(name, 100).expect(name), b"inside", "{name}");
        }
        assert_eq!(root.open_strict("absolute/x").expect_err("link"), Errno::LOOP);
        assert_eq!(root.open_strict("../x").expect_err("up"), Errno::XDEV);
    }

    #[test]
    fn reading_never_hangs_and_is_capped() {
        let (dir, root) = root();
        let held = root.open_dir("").expect("dir");
        held.mknod(b"fifo", FileType::Fifo, 0o600, (0, 0)).expect("mkfifo");
        fs::write(dir.path().join("big"), [0; 11]).expect("write");
        let errno = |name| root.read_small(name, 10).expect_err("refused").raw_os_error();
        assert_eq!(errno("fifo"), Some(libc::EINVAL));
        assert_eq!(errno("big"), Some(libc::EFBIG));
        assert_eq!(errno(""), Some(libc::EINVAL));
    }

    #[test]
    fn missing_parents_are_made_and_files_are_ensured_through_links() {
        let (dir, root) = root();
        symlink("../../run", dir.path().join("var")).expect("symlink");
        root.ensure_dir("var/lock", 0o755).expect("made at the end of the link");
        assert!(dir.path().join("run/lock").is_dir());
        fs::create_dir(dir.path().join("etc")).expect("mkdir");
        symlink("../../../srv/../srv/a/conf", dir.path().join("etc/conf")).expect("symlink");
        root.ensure_file("etc/conf").expect("made at the end of the link");
        assert!(dir.path().join("srv/a/conf").is_file());
        symlink("loop", dir.path().join("loop")).expect("symlink");
        assert_eq!(root.ensure_file("loop").expect_err("loop"), Errno::LOOP);
        symlink("/b", dir.path().join("a")).expect("symlink");
        symlink("/a/x", dir.path().join("b")).expect("symlink");
        assert_eq!(root.ensure_dir("a/y", 0o755).expect_err("loop"), Errno::LOOP);
        root.ensure_file("var/lock/a/file").expect("ensure");
        assert!(dir.path().join("run/lock/a/file").is_file());
        root.ensure_file("var/lock/a/file").expect("again");
        assert_eq!(root.ensure_dir("run/lock/a/file/x", 0o755).expect_err("file"), Errno::NOTDIR);
    }

    #[test]
    fn names_are_single() {
        let (_dir, root) = root();
        let dir = root.open_dir("").expect("dir");
        for name in [&b""[..], b".", b"..", b"a/b", b"/a"] {
            assert_eq!(dir.mkdir(name, 0o755).expect_err("refused"), Errno::INVAL);
        }
        assert_eq!(dir.chown(b"a", u32::MAX, 0).expect_err("refused"), Errno::INVAL);
    }

    #[test]
    fn a_deep_tree_is_removed_and_links_out_of_it_are_not_followed() {
        let (dir, root) = root();
        let top = root.open_dir("").expect("dir");
        fs::write(dir.path().join("keep"), "x").expect("write");
        top.mkdir(b"tree", 0o755).expect("mkdir");
        let mut at = top.open_dir(b"tree").expect("open");
        for _ in 0..4096 {
            at.mkdir(b"d", 0o755).expect("mkdir");
            at = at.open_dir(b"d").expect("open");
        }
        at.symlink(b"out", dir.path().as_os_str().as_bytes()).expect("symlink");
        drop(at);
        let tree = top.open_dir(b"tree").expect("open").into_fd();
        assert_eq!(usage(tree, None).expect("usage").entries, 4097);
        top.remove_tree(b"tree").expect("remove");
        assert!(!dir.path().join("tree").exists());
        assert!(dir.path().join("keep").exists());
        top.remove_tree(b"tree").expect("nothing to remove");
    }

    #[test]
    fn usage_counts_a_file_with_two_names_once() {
        let (dir, root) = root();
        fs::create_dir(dir.path().join("a")).expect("mkdir");
        fs::write(dir.path().join("a/f"), [1; 1000]).expect("write");
        fs::hard_link(dir.path().join("a/f"), dir.path().join("g")).expect("link");
        let readable = OFlags::RDONLY | OFlags::DIRECTORY;
        let usage = usage(root.open_at("", readable).expect("open"), None).expect("usage");
        assert_eq!((usage.size, usage.entries), (1000, 3));
    }
}
