//! Building the container's view of the file system, from inside its mount namespace.
//!
//! **Invariant:** every path that belongs to the container is resolved by the kernel beneath
//! the rootfs descriptor (`openat2(2)`), and everything in `/proc` beneath the very procfs that
//! was mounted here: an image or a shared volume cannot put a link, a mount or another file
//! system in the way (CVE-2019-19921, CVE-2021-30465, CVE-2025-31133, CVE-2025-52881).

use std::{
    ffi::{CString, OsString},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::errno::Errno;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, fstatfs, mknodat,
    openat2, readlink, readlinkat, symlinkat,
};
use rustix::io::Errno as Raw;

use super::{
    fuse,
    plan::{Device, DeviceSource, Mount, MountSource, Rootfs},
};
use crate::{
    image::layer::{self, Changes, Marks},
    oci::runtime::LinuxDeviceType,
    overlay::{OpenPart, OpenStack},
    sys::{
        errno,
        fs::{Dir, Root},
        mount::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, Attributes},
        tty,
    },
};

const PROC_SUPER_MAGIC: i64 = 0x9fa0;
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// A root file system in the making.
#[derive(Debug)]
pub(super) struct RootfsBuilder {
    root: Root,
    /// The procfs mounted at `/proc`, if it is a fresh one.
    proc: Option<OwnedFd>,
    /// An empty read-only directory to put over masked ones, made when first needed.
    empty: Option<OwnedFd>,
}

/// What a root file system is made of.
#[derive(Debug)]
pub(super) enum OpenRootfs {
    /// `target` is the directory `name` of `parent`.
    Overlay {
        stack: OpenStack,
        target: Root,
        parent: Root,
        name: OsString,
    },
    Fuse {
        device: OwnedFd,
        target: Root,
    },
    Directory {
        tree: OwnedFd,
        target: Root,
    },
}

/// What a mount shows, opened with the rights of who started the container.
#[derive(Debug)]
pub(super) enum OpenSource {
    /// Nothing of the host's.
    None,
    Tree(OwnedFd),
    /// What a symbolic link says.
    Link(CString),
    Overlay(OpenPart),
}

impl RootfsBuilder {
    /// Opens everything that the root file system is made of, with the rights that this process
    /// has now.
    pub(super) fn open(rootfs: &Rootfs) -> Result<OpenRootfs, Errno> {
        let target = Root::open(rootfs.path()).map_err(errno)?;
        match rootfs {
            Rootfs::Overlay { stack, target: path } => {
                let parent = Root::open(path.parent().ok_or(Errno::EINVAL)?).map_err(errno)?;
                let name = path.file_name().ok_or(Errno::EINVAL)?.to_owned();
                Ok(OpenRootfs::Overlay { stack: stack.open()?, target, parent, name })
            }
            Rootfs::Fuse { .. } => Ok(OpenRootfs::Fuse { device: fuse::open_device()?, target }),
            Rootfs::Directory(path) => Self::open_directory(path),
        }
    }

    /// A complete tree, which is mounted on itself: pivot_root(2) wants a mount point.
    pub(super) fn open_directory(path: &Path) -> Result<OpenRootfs, Errno> {
        let target = Root::open(path).map_err(errno)?;
        let tree = mount::clone_path(path, true)?;
        // What the host mounts there later is not the container's.
        let propagation = libc::MS_PRIVATE;
        let private = Attributes { propagation, ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), true, private)?;
        Ok(OpenRootfs::Directory { tree, target })
    }

    /// Mounts it. `serve` hands the descriptor of a FUSE mount to who starts its server; until
    /// that answers, whoever looks into the mount waits.
    pub(super) fn mount(
        rootfs: OpenRootfs,
        serve: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<Self, Errno> {
        let root = match rootfs {
            OpenRootfs::Overlay { stack, target, parent, name } => {
                stack.mount(target.as_fd())?;
                // Opened after the mount, so that it is the root of what was mounted.
                parent.open_strict(name).map(Root::from_fd).map_err(errno)?
            }
            OpenRootfs::Fuse { device, target } => {
                let tree = fuse::mount(&device)?;
                serve(device.as_fd())?;
                mount::attach(tree.as_fd(), target.as_fd())?;
                Root::from_fd(tree)
            }
            OpenRootfs::Directory { tree, target } => {
                mount::attach(tree.as_fd(), target.as_fd())?;
                Root::from_fd(tree)
            }
        };
        Ok(Self { root, proc: None, empty: None })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What a bind mount shows, detached, with the rights that this process has now.
    pub(super) fn open_source(wanted: &Mount) -> Result<OpenSource, Errno> {
        let (source, beneath, recursive) = match &wanted.what {
            MountSource::Bind { source, copies_link: true, .. } if source.is_symlink() => {
                return readlink(source, Vec::new()).map(OpenSource::Link).map_err(errno);
            }
            MountSource::Bind { source, beneath, recursive, .. } => (source, beneath, recursive),
            MountSource::Overlay(part) => return part.open().map(OpenSource::Overlay),
            // Another's is opened ahead.
            MountSource::Fresh { .. } | MountSource::Shared { .. } => return Ok(OpenSource::None),
        };
        let tree = match beneath {
            None => mount::clone_path(source, *recursive)?,
            Some(path) => {
                let part = Root::open(source).and_then(|root| root.open_path(path));
                mount::clone_fd(part.map_err(errno)?.as_fd(), *recursive)?
            }
        };
        mount::set_attributes(tree.as_fd(), wanted.recursive, wanted.attributes)?;
        if wanted.spreads && !wanted.recursive {
            let propagation = wanted.attributes.propagation;
            let only = Attributes { propagation, ..Attributes::default() };
            mount::set_attributes(tree.as_fd(), true, only)?;
        }
        Ok(OpenSource::Tree(tree))
    }

    /// Adds a mount; of a bind mount, what [`open_source`](Self::open_source) opened.
    pub(super) fn add(&mut self, wanted: &Mount, source: OpenSource) -> Result<(), Errno> {
        match (source, &wanted.what) {
            (OpenSource::None, MountSource::Fresh { kind, source, options, copy_up }) => {
                self.add_fresh(wanted, kind, source, options, *copy_up)
            }
            (OpenSource::None, _) => Err(Errno::EBADF),
            (OpenSource::Link(text), _) => self.add_link(&wanted.target, &text),
            (OpenSource::Overlay(part), _) => {
                let target = self.root.ensure_dir(&wanted.target, 0o755).map_err(errno)?;
                mount::attach(part.mount(wanted.attributes)?.as_fd(), target.as_fd())
            }
            (OpenSource::Tree(tree), _) => {
                let is_dir = kind_of(tree.as_fd())? == FileType::Directory;
                let target = match is_dir {
                    true => self.root.ensure_dir(&wanted.target, 0o755).map(Dir::into_fd),
                    false => self.root.ensure_file(&wanted.target),
                };
                let target = match target {
                    Err(Raw::ROFS) if wanted.optional => return Ok(()),
                    target => target.map_err(errno)?,
                };
                if !is_dir && kind_of(target.as_fd())? == FileType::Directory {
                    return Err(Errno::EISDIR);
                }
                mount::attach(tree.as_fd(), target.as_fd())
            }
        }
    }

    /// Makes a symbolic link; one that says the same may be there.
    fn add_link(&self, target: &Path, text: &CString) -> Result<(), Errno> {
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(Errno::EINVAL);
        };
        let dir = self.root.ensure_dir(parent, 0o755).map_err(errno)?;
        match symlinkat(text.as_c_str(), &dir, name) {
            Err(Raw::EXIST) if readlinkat(&dir, name, Vec::new()).as_ref() == Ok(text) => Ok(()),
            other => other.map_err(errno),
        }
    }

    fn add_fresh(
        &mut self,
        wanted: &Mount,
        kind: &CString,
        source: &CString,
        options: &[(String, Option<String>)],
        copy_up: bool,
    ) -> Result<(), Errno> {
        let mut target = self.root.ensure_dir(&wanted.target, 0o755).map_err(errno)?.into_fd();
        // The image must not choose where the kernel's own file systems end up.
        if is_engine_path(&wanted.target) {
            target = self.strict(&wanted.target)?;
        }
        // The kernel's ramfs knows no owner.
        let owner = if kind.as_bytes() == b"ramfs" { owner_in(options) } else { None };
        let changes = copy_up || owner.is_some();
        let mut attributes = wanted.attributes;
        if changes {
            attributes.set &= !ATTR_RDONLY;
        }
        let tree = mount::fresh(kind, source, options, attributes)?;
        if copy_up {
            copy_content(target.as_fd(), tree.as_fd())?;
        }
        if let Some((uid, gid)) = owner {
            chownat(&tree, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(errno)?;
        }
        if changes {
            mount::set_attributes(
                tree.as_fd(),
                false,
                Attributes { propagation: 0, ..wanted.attributes },
            )?;
        }
        if wanted.attributes.propagation != 0 {
            let propagation = wanted.attributes.propagation;
            let only = Attributes { propagation, ..Attributes::default() };
            mount::set_attributes(tree.as_fd(), false, only)?;
        }
        mount::attach(tree.as_fd(), target.as_fd())?;
        if wanted.target == Path::new("/dev") {
            self.link_dev()?;
        }
        if wanted.target == Path::new("/proc") && kind.as_bytes() == b"proc" {
            self.proc = Some(tree);
        }
        Ok(())
    }

    /// The object at the absolute `path` if no link is on the way.
    fn strict(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.root.open_strict(path.strip_prefix("/").unwrap_or(path)).map_err(errno)
    }

    /// runtime-spec runtime-linux.md, "Dev symbolic links"; `core` and `ptmx` as docker has them.
    fn link_dev(&self) -> Result<(), Errno> {
        let dev = self.strict(Path::new("/dev"))?;
        for (target, name) in [
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
            ("/proc/kcore", "core"),
            ("pts/ptmx", "ptmx"),
        ] {
            symlinkat(target, &dev, name).map_err(errno)?;
        }
        Ok(())
    }

    pub(super) fn add_device(&self, device: &Device) -> Result<(), Errno> {
        match &device.what {
            DeviceSource::Bind { source } => {
                let tree = mount::clone_path(source, false)?;
                let target = self.root.ensure_file(&device.target).map_err(errno)?;
                mount::attach(tree.as_fd(), target.as_fd())
            }
            DeviceSource::Node { kind, major, minor, mode, uid, gid } => {
                let parent = device.target.parent().unwrap_or(Path::new("/"));
                let dir = self.root.ensure_dir(parent, 0o755).map_err(errno)?;
                let name = device.target.file_name().ok_or(Errno::EINVAL)?;
                let kind = match kind {
                    LinuxDeviceType::B => FileType::BlockDevice,
                    LinuxDeviceType::P => FileType::Fifo,
                    LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::A => {
                        FileType::CharacterDevice
                    }
                };
                let dev = rustix::fs::makedev(*major, *minor);
                match mknodat(&dir, name, kind, Mode::from_raw_mode(*mode), dev) {
                    Ok(()) => {}
                    // A volume or the image may have it already: good only if it is the same.
                    Err(rustix::io::Errno::EXIST) => {
                        let there = self.root.open_path(&device.target).map_err(errno)?;
                        let stat = fstat(&there).map_err(errno)?;
                        let same =
                            FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == dev;
                        return if same { Ok(()) } else { Err(Errno::EEXIST) };
                    }
                    Err(err) => return Err(errno(err)),
                }
                // mknod obeys the umask; the mode asked for is the mode meant.
                let node = self.strict(&device.target)?;
                let path = mount::fd_path(node.as_fd());
                rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(*mode)).map_err(errno)?;
                let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                chownat(&node, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(errno)
            }
        }
    }

    /// A new pseudo-terminal of the container's own devpts; its slave is also `/dev/console`.
    pub(super) fn open_terminal(
        &self,
        (columns, rows): (u16, u16),
    ) -> Result<(OwnedFd, OwnedFd), Errno> {
        let master = open_multiplexer(self.root.as_fd())?;
        let slave = tty::open_slave(master.as_fd())?;
        if columns > 0 && rows > 0 {
            tty::set_window(slave.as_fd(), tty::Window { columns, rows })?;
        }
        let console = self.root.ensure_file("/dev/console").map_err(errno)?;
        let tree = mount::clone_fd(slave.as_fd(), false)?;
        mount::attach(tree.as_fd(), console.as_fd())?;
        Ok((master, slave))
    }

    /// Writes below `/proc/sys`, through the procfs this namespace mounted.
    pub(super) fn set_sysctl(&self, key: &str, value: &str) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match &self.proc {
            Some(proc) => {
                let beneath =
                    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
                openat2(proc, format!("sys/{key}"), flags, Mode::empty(), beneath).map_err(errno)?
            }
            None => {
                let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
                openat2(&self.root, format!("proc/sys/{key}"), flags, Mode::empty(), inside)
                    .map_err(errno)?
            }
        };
        if file_system(file.as_fd())? != PROC_SUPER_MAGIC {
            return Err(Errno::EXDEV);
        }
        rustix::io::write(&file, value.as_bytes()).map(drop).map_err(errno)
    }

    /// Hides a file behind `/dev/null`, a directory behind an empty one. What is not there
    /// needs no hiding.
    pub(super) fn mask(&mut self, path: &Path) -> Result<(), Errno> {
        let Some(target) = self.locate(path)? else { return Ok(()) };
        if kind_of(target.as_fd())? != FileType::Directory {
            // The host's own /dev/null: the container's could have been replaced.
            return mount::attach(mount::null_view()?.as_fd(), target.as_fd());
        }
        // The first one is attached itself: only a mount that is attached can be cloned on
        // kernels before 6.15.
        if let Some(empty) = &self.empty {
            let copy = mount::clone_fd(empty.as_fd(), false)?;
            return mount::attach(copy.as_fd(), target.as_fd());
        }
        let empty = mount::fresh(
            c"tmpfs",
            c"tmpfs",
            &[("size".into(), Some("0".into())), ("mode".into(), Some("755".into()))],
            Attributes {
                set: ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC,
                ..Attributes::default()
            },
        )?;
        mount::attach(empty.as_fd(), target.as_fd())?;
        self.empty = Some(empty);
        Ok(())
    }

    /// Makes what is at `path`, submounts included, read-only.
    pub(super) fn make_read_only(&self, path: &Path) -> Result<(), Errno> {
        let Some(target) = self.locate(path)? else { return Ok(()) };
        let tree = mount::clone_fd(target.as_fd(), true)?;
        let read_only = Attributes { set: ATTR_RDONLY, ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), true, read_only)?;
        mount::attach(tree.as_fd(), target.as_fd())
    }

    /// The object to cover. Paths in `/proc` are walked from the procfs itself, never through a
    /// link or onto another mount.
    fn locate(&self, path: &Path) -> Result<Option<OwnedFd>, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = match (&self.proc, path.strip_prefix("/proc")) {
            (Some(proc), Ok(rest)) if !rest.as_os_str().is_empty() => {
                let beneath =
                    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
                openat2(proc, rest, flags, Mode::empty(), beneath).map_err(errno)
            }
            _ => self.root.open_path(path).map_err(errno),
        };
        match found {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            // Already covered by another mount: a path masked twice.
            Err(Errno::EXDEV) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Creates the working directory if it is missing, as docker does.
    pub(super) fn make_workdir(&self, cwd: &CString) -> Result<(), Errno> {
        let path = Path::new(std::ffi::OsStr::from_bytes(cwd.as_bytes()));
        match self.root.ensure_dir(path, 0o755) {
            // Not a directory, or on something read-only: entering it will say so.
            Ok(_) | Err(Raw::NOTDIR | Raw::EXIST | Raw::ROFS | Raw::ACCESS) => Ok(()),
            // Under /proc or another place that has no mkdir: likewise.
            Err(Raw::NOENT | Raw::PERM) => Ok(()),
            Err(err) => Err(errno(err)),
        }
    }

    /// Attributes of the root's own mount.
    pub(super) fn restrict_root(&self, read_only: bool, no_devices: bool) -> Result<(), Errno> {
        let set = if read_only { ATTR_RDONLY } else { 0 } | if no_devices { ATTR_NODEV } else { 0 };
        mount::set_attributes(self.root.as_fd(), false, Attributes { set, ..Attributes::default() })
    }
}

/// The `uid=` and `gid=` of a file system's options.
fn owner_in(options: &[(String, Option<String>)]) -> Option<(Uid, Gid)> {
    let id = |wanted: &str| {
        let (_, value) = options.iter().find(|(key, _)| key == wanted)?;
        value.as_ref()?.parse().ok()
    };
    Some((Uid::from_raw(id("uid")?), Gid::from_raw(id("gid")?)))
}

/// Fills a new file system with what it is going to cover.
fn copy_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let own = |fd: BorrowedFd<'_>| {
        openat2(
            fd,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::empty(),
        )
        .map_err(errno)
    };
    let changes = Changes { owners: None, marks: Marks::Kept };
    layer::copy_into(own(from)?, own(to)?, None, &changes).map_err(|_| {
        let is_full = fstatfs(to).is_ok_and(|stat| stat.f_bavail == 0);
        if is_full { Errno::ENOSPC } else { Errno::EIO }
    })
}

/// The terminal multiplexer of the devpts below `root`.
pub(super) fn open_multiplexer(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let master = openat2(
        root,
        "dev/pts/ptmx",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(errno)?;
    // CVE-2025-52565: a volume over /dev/pts must not pass for the kernel's devpts.
    if file_system(master.as_fd())? != DEVPTS_SUPER_MAGIC {
        return Err(Errno::ENOTTY);
    }
    Ok(master)
}

/// The `/dev/null` below `root`, if it is one: in a container that runs it may be anything.
pub(super) fn open_null(root: BorrowedFd<'_>) -> Option<OwnedFd> {
    let open = |flags| {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(root, "dev/null", flags | OFlags::CLOEXEC, Mode::empty(), how)
            .ok()
            .filter(|fd| mount::is_null(fd.as_fd()))
    };
    // Looked at before it is opened: opening may have effects.
    open(OFlags::PATH).and_then(|_| open(OFlags::RDWR | OFlags::NOCTTY))
}

/// As [`open_null`], of a container that runs while the caller, who may open any device, does not
/// belong to it: what was looked at is what is opened, whatever the container puts in its place.
pub(super) fn open_null_from_outside(root: BorrowedFd<'_>) -> Option<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let seen = openat2(root, "dev/null", flags, Mode::empty(), how).ok()?;
    if !mount::is_null(seen.as_fd()) {
        return None;
    }
    mount::reopen(seen.as_fd()).ok()
}

/// Where the kernel's own file systems go.
fn is_engine_path(target: &Path) -> bool {
    ["/proc", "/sys", "/dev"].iter().any(|top| target.starts_with(top))
}

fn kind_of(fd: BorrowedFd<'_>) -> Result<FileType, Errno> {
    fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode)).map_err(errno)
}

fn file_system(fd: BorrowedFd<'_>) -> Result<i64, Errno> {
    fstatfs(fd).map(|stat| stat.f_type).map_err(errno)
}
