//! Stacks of directories that overlayfs shows as one rootfs.
//!
//! This room knows lowerdirs, an upperdir and a workdir; it does not know images. See the
//! kernel's filesystems/overlayfs.rst.

mod lookup;

use std::{
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{errno::Errno, unistd::chdir};
use rustix::fs::{Mode, OFlags, open};
use serde::{Deserialize, Serialize};

use crate::sys::{
    errno,
    mount::{self, Attributes},
};

/// The directory of this process's descriptors.
const FDS: &str = "/proc/self/fd";

/// The directories of one overlay mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Topmost first, as the kernel wants them.
    pub lowers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Whiteouts and opaque marks are `user.overlay.*` attributes, as an unprivileged mount
    /// needs (Linux 5.11).
    pub user_xattr: bool,
    /// The upperdir will not outlive the mount by much, so nothing is synced: without this the
    /// kernel syncs the whole file system beneath at every unmount (Linux 5.10).
    pub volatile: bool,
}

impl Stack {
    /// Opens the directories, in the caller's own mount namespace: the kernel refuses lowerdirs
    /// of another one.
    pub fn open(&self) -> Result<OpenStack, Errno> {
        let (lowers, options) = open_lowers(&self.lowers)?;
        Ok(self.opened(lowers, options, open_dir(&self.upper)?, open_dir(&self.work)?))
    }

    /// As [`open`](Self::open), of what `show` makes of each lowerdir, and of the directory that
    /// the upperdir and the workdir are in: they have to be on one mount.
    pub fn open_by(
        &self,
        mut show: impl FnMut(&Path) -> Result<OwnedFd, Errno>,
    ) -> Result<OpenStack, Errno> {
        let lowers = self.lowers.iter().map(|dir| show(dir)).collect::<Result<Vec<_>, _>>()?;
        let options = lower_option(&lowers);
        let home = self.upper.parent().ok_or(Errno::EINVAL)?;
        let shown = show(home)?;
        let part = |dir: &Path| {
            let name = dir.strip_prefix(home).map_err(|_| Errno::EXDEV)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&shown, name, flags, Mode::empty()).map_err(errno)
        };
        Ok(self.opened(lowers, options, part(&self.upper)?, part(&self.work)?))
    }

    fn opened(
        &self,
        lowers: Vec<OwnedFd>,
        mut options: String,
        upper: OwnedFd,
        work: OwnedFd,
    ) -> OpenStack {
        options.push_str(",upperdir=");
        options.push_str(&mount::fd_path(upper.as_fd()));
        options.push_str(",workdir=");
        options.push_str(&mount::fd_path(work.as_fd()));
        if self.user_xattr {
            options.push_str(",userxattr");
        }
        if self.volatile {
            options.push_str(",volatile");
        }
        let dirs = lowers.into_iter().chain([upper, work]).collect();
        OpenStack { _dirs: dirs, options }
    }

    /// The content of a small regular file as the mounted stack would show it, without mounting
    /// it: how `--user` is resolved before anything runs. `None` if there is no such file.
    ///
    /// Symbolic links are followed inside the stack only; devices and pipes are never opened;
    /// at most `cap` bytes are read.
    pub fn read_small(&self, path: &str, cap: u64) -> Result<Option<Vec<u8>>, Errno> {
        let layers = std::iter::once(&self.upper).chain(&self.lowers);
        let roots = layers.map(|dir| open_dir(dir)).collect::<Result<Vec<_>, _>>()?;
        lookup::read_small(roots, path, cap)
    }
}

/// The directories of a mount that nothing can be written to, topmost first; two at least.
pub fn open_read_only(lowers: &[PathBuf], user_xattr: bool) -> Result<OpenStack, Errno> {
    let (dirs, mut options) = open_lowers(lowers)?;
    if user_xattr {
        options.push_str(",userxattr");
    }
    Ok(OpenStack { _dirs: dirs, options })
}

fn open_lowers(lowers: &[PathBuf]) -> Result<(Vec<OwnedFd>, String), Errno> {
    let lowers = lowers.iter().map(|dir| open_dir(dir)).collect::<Result<Vec<_>, _>>()?;
    let options = lower_option(&lowers);
    Ok((lowers, options))
}

fn lower_option(lowers: &[OwnedFd]) -> String {
    let mut options = String::with_capacity(4 * lowers.len() + 96);
    options.push_str("lowerdir=");
    for (index, lower) in lowers.iter().enumerate() {
        if index > 0 {
            options.push(':');
        }
        // A name beneath `FDS`, and as short as can be: mount(2) takes one page of options.
        options.push_str(&lower.as_raw_fd().to_string());
    }
    options
}

/// The directories that the stack of `lowers`, topmost first, would show together at `path`,
/// likewise. `None` if nothing is there, `ENOTDIR` if it is a file. Links lead inside the stack
/// only.
pub fn directory(lowers: &[PathBuf], path: &str) -> Result<Option<Vec<OwnedFd>>, Errno> {
    let roots = lowers.iter().map(|dir| open_dir(dir)).collect::<Result<Vec<_>, _>>()?;
    lookup::directory(roots, path)
}

/// A stack whose directories are open: whoever mounts it need not be able to reach them.
#[derive(Debug)]
pub struct OpenStack {
    _dirs: Vec<OwnedFd>,
    /// Names the directories by their descriptors.
    options: String,
}

impl OpenStack {
    /// Mounts the stack on the directory `target`. For a process of one thread: the working
    /// directory is `/` afterwards, because the one before may be out of reach by now. What the kernel keeps of the caller, its user
    /// and capabilities, is what the overlay does its work with.
    pub fn mount(&self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        chdir(FDS)?;
        let mounted = mount::overlay(target, &self.options);
        chdir("/")?;
        mounted
    }
}

/// A stack that is shown somewhere inside of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Topmost first.
    pub lowers: Vec<PathBuf>,
    /// The upperdir and its workdir; without them nothing can be written.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// What of the lowerdirs is shown, if that is not all.
    pub beneath: Option<String>,
    /// See [`Stack::user_xattr`].
    pub user_xattr: bool,
    /// See [`Stack::volatile`].
    pub volatile: bool,
}

impl Part {
    /// Opens the directories, as [`Stack::open`] does.
    pub fn open(&self) -> Result<OpenPart, Errno> {
        let lowers = match &self.beneath {
            Some(path) => directory(&self.lowers, path)?.ok_or(Errno::ENOENT)?,
            None => self.lowers.iter().map(|dir| open_dir(dir)).collect::<Result<_, _>>()?,
        };
        let upper = match &self.upper {
            Some((upper, work)) => Some((open_dir(upper)?, open_dir(work)?)),
            None => None,
        };
        Ok(OpenPart { lowers, upper, user_xattr: self.user_xattr, volatile: self.volatile })
    }
}

/// As [`OpenStack`].
#[derive(Debug)]
pub struct OpenPart {
    lowers: Vec<OwnedFd>,
    upper: Option<(OwnedFd, OwnedFd)>,
    user_xattr: bool,
    volatile: bool,
}

impl OpenPart {
    /// A mount that is not attached anywhere yet. For a process of one thread, as
    /// [`OpenStack::mount`].
    pub fn mount(&self, attributes: Attributes) -> Result<OwnedFd, Errno> {
        // Overlayfs wants two directories at least.
        if let ([only], None) = (&self.lowers[..], &self.upper) {
            let tree = mount::clone_fd(only.as_fd(), false)?;
            mount::set_attributes(tree.as_fd(), false, attributes)?;
            return Ok(tree);
        }
        if self.lowers.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut options = self.lower_options();
        let mut set = |key: &str, value: Option<String>| options.push((key.to_owned(), value));
        if let Some((upper, work)) = &self.upper {
            set("upperdir", Some(mount::fd_path(upper.as_fd())));
            set("workdir", Some(mount::fd_path(work.as_fd())));
            if self.volatile {
                set("volatile", None);
            }
        }
        if self.user_xattr {
            set("userxattr", None);
        }
        chdir(FDS)?;
        let mounted = mount::fresh(c"overlay", c"overlay", &options, attributes);
        chdir("/")?;
        mounted
    }

    fn lower_options(&self) -> Vec<(String, Option<String>)> {
        /// `fsconfig(2)` takes no longer value, and `lowerdir+` came with Linux 6.7.
        const LONGEST: usize = 255;
        let names: Vec<_> = self.lowers.iter().map(|lower| lower.as_raw_fd().to_string()).collect();
        let joined = names.join(":");
        if joined.len() <= LONGEST {
            return vec![("lowerdir".into(), Some(joined))];
        }
        names.into_iter().map(|name| ("lowerdir+".into(), Some(name))).collect()
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(errno)
}
