//! Mounts, named for what they do rather than for their flags.
//!
//! The descriptor-based interface of Linux 5.2 and 5.12 is used throughout: a mount is made
//! detached, given its attributes, and only then attached to a target that was resolved
//! beneath the rootfs. Nothing is ever mounted by a path that a container could have replaced.

use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::{chdir, fchdir, pivot_root},
};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use serde::{Deserialize, Serialize};

use super::errno;

const NONE: Option<&str> = None;

/// Attributes of one mount, in `mount_setattr(2)`'s terms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`; 0 leaves it.
    pub propagation: u64,
}

pub const ATTR_RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub const ATTR_NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub const ATTR_NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub const ATTR_NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Stops mounts made from here on from reaching the namespace we came from.
///
/// `MS_SLAVE`, not `MS_PRIVATE`: a volume the host mounts later should still appear.
/// See mount_namespaces(7), "Shared subtrees".
pub fn receive_only(target: &Path) -> Result<(), Errno> {
    mount(NONE, target, NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)
}

/// Mounts an overlay on the directory `target`.
///
/// The directories are named `/proc/self/fd/N`, so sixteen bytes each instead of a long path:
/// `mount(2)` passes at most a page of options, and `fsconfig(2)` took only 256 bytes a value
/// before Linux 6.7 brought `lowerdir+`. Host paths stay out of the container's mountinfo, too.
pub fn overlay(target: BorrowedFd<'_>, options: &str) -> Result<(), Errno> {
    let target = fd_path(target);
    mount(Some("overlay"), target.as_str(), Some("overlay"), MsFlags::empty(), Some(options))
}

/// Takes away what is mounted on `path`; `lazily` even if somebody uses it, as soon as nobody does.
pub fn unmount(path: &Path, lazily: bool) -> Result<(), Errno> {
    let lazily = if lazily { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    umount2(path, MntFlags::UMOUNT_NOFOLLOW | lazily)
}

/// Whether something is mounted there (`statx(2)`, STATX_ATTR_MOUNT_ROOT, Linux 5.8).
pub fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whom a mount tells what is mounted in it (mount_namespaces(7), "Shared subtrees").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// Where it is mounted.
    pub point: String,
    /// It gives to others, and receives.
    pub is_shared: bool,
    /// It receives.
    pub is_slave: bool,
}

/// Of the mount that `path` is on; `None` if the kernel does not tell.
pub fn sharing_of(path: &Path) -> Option<Sharing> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let id = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?.stx_mnt_id;
    sharing_in(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, id)
}

/// proc_pid_mountinfo(5): number, parent, device, root, point and options, then tags until a dash.
fn sharing_in(mountinfo: &str, id: u64) -> Option<Sharing> {
    let id = id.to_string();
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let line = mountinfo.lines().map(fields).find(|fields| fields.first() == Some(&id))?;
    let tags = || line.iter().skip(6).take_while(|field| *field != "-");
    Some(Sharing {
        point: line.get(4)?.clone(),
        is_shared: tags().any(|tag| tag.starts_with("shared:")),
        is_slave: tags().any(|tag| tag.starts_with("master:")),
    })
}

/// The name under which this process reaches `fd` by path.
pub fn fd_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A fresh filesystem, not attached anywhere yet. An option without a value is a flag. `source` is
/// a device where the filesystem has one, and what /proc/mounts shows in the first column.
pub fn fresh(
    kind: &CStr,
    source: &CStr,
    options: &[(String, Option<String>)],
    attributes: Attributes,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(errno)?;
    fsconfig_set_string(&context, c"source", source).map_err(errno)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, key.as_str()),
        }
        .map_err(errno)?;
    }
    fsconfig_create(&context).map_err(errno)?;
    let bits = u32::try_from(attributes.set).map_err(|_| Errno::EINVAL)?;
    let attr = MountAttrFlags::from_bits_retain(bits);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr).map_err(errno)
}

/// A detached copy of what is mounted at `path`, with its submounts if `recursive`.
pub fn clone_path(path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(rustix::fs::CWD, path, flags).map_err(errno)
}

/// A detached copy of the mount that `fd` is in, beginning at `fd`.
pub fn clone_fd(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, c"", flags).map_err(errno)
}

/// Changes the attributes of the mount at `fd`, and of those below it if `recursive`
/// (`mount_setattr(2)`, Linux 5.12).
pub fn set_attributes(
    fd: BorrowedFd<'_>,
    recursive: bool,
    attributes: Attributes,
) -> Result<(), Errno> {
    if attributes == Attributes::default() {
        return Ok(());
    }
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    mount_setattr(fd, if recursive { libc::AT_RECURSIVE } else { 0 }, &attr)
}

fn mount_setattr(
    fd: BorrowedFd<'_>,
    flags: libc::c_int,
    attr: &libc::mount_attr,
) -> Result<(), Errno> {
    // SAFETY: an open descriptor, an empty path that lives for ever, and a fully initialised
    // mount_attr that outlives the call and whose size is passed with it.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attr),
            size_of_val(attr),
        )
    };
    Errno::result(r).map(drop)
}

/// Shows the detached mount at `fd`, but not those below it, with the ids of a user namespace:
/// what belongs to its user N belongs to the user that the namespace's N is outside
/// (`mount_setattr(2)`, "ID-mapped mounts", Linux 5.12; beneath an overlay Linux 5.19).
pub fn show_ids_of(fd: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(namespace.as_raw_fd().cast_unsigned()),
    };
    mount_setattr(fd, 0, &attr)
}

/// Puts a detached mount on `target`.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags).map_err(errno)
}

/// Makes `new_root` the root and lets go of the old one.
///
/// The second argument of pivot_root(2) normally names a directory to park the old root in.
/// Passing "." twice stacks it on top of the new root instead, so no scratch directory is
/// needed; the lazy unmount then removes it. See pivot_root(2), "pivot_root(\".\", \".\")".
pub fn pivot_into(new_root: BorrowedFd<'_>) -> Result<(), Errno> {
    fchdir(new_root)?;
    pivot_root(".", ".")?;
    // The old root is a slave of the host's already, so the unmount does not travel.
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

/// A read-only view of this process's executable, to start it from in reach of a container.
///
/// A container that gets hold of `/proc/PID/exe` of such a process finds it on a read-only
/// mount of its own, whatever the file's permissions (CVE-2019-5736). Two calls, instead of a
/// copy into a memfd, which remains for an executable that has been replaced since it was
/// started. The caller must be privileged over its mount namespace.
pub fn read_only_self() -> Result<OwnedFd, Errno> {
    // By its path in this mount namespace: the link itself leads into the one that the process
    // was started in, of which no mount can be cloned from here.
    let same = |path: &Path| -> Option<OwnedFd> {
        let exe = clone_path(path, false).ok()?;
        let (here, running) = (rustix::fs::fstat(&exe).ok()?, rustix::fs::stat(SELF).ok()?);
        ((here.st_dev, here.st_ino) == (running.st_dev, running.st_ino)).then_some(exe)
    };
    let Some(exe) = std::fs::read_link(SELF).ok().and_then(|path| same(&path)) else {
        return sealed_copy();
    };
    let read_only = Attributes { set: ATTR_RDONLY | ATTR_NOSUID, ..Attributes::default() };
    set_attributes(exe.as_fd(), false, read_only)?;
    Ok(exe)
}

const SELF: &str = "/proc/self/exe";

/// A detached view of the host's `/dev/null` through which its mode, owner and times cannot be
/// changed: root in a container without a user namespace owns the node itself. Writing to the
/// device is no change to the file system and goes on working.
pub fn null_view() -> Result<OwnedFd, Errno> {
    let null = clone_path(Path::new("/dev/null"), false)?;
    if !is_null(null.as_fd()) {
        return Err(Errno::ENODEV);
    }
    let set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NOEXEC;
    set_attributes(null.as_fd(), false, Attributes { set, ..Attributes::default() })?;
    Ok(null)
}

/// Whether this is the null device (admin-guide/devices.txt: character device 1:3).
pub fn is_null(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        super::fs::kind(&stat) == super::fs::FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3)
    })
}

/// `/dev/null`, opened to become the standard stream of a container's process.
///
/// An ordinary user may make no view of it, and needs none: the node's owner is not mapped in
/// any user namespace of theirs.
pub fn open_null() -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    if !rustix::process::geteuid().is_root() {
        return open("/dev/null", flags, Mode::empty()).map_err(errno);
    }
    reopen(null_view()?.as_fd())
}

/// Opens what a descriptor of kind `O_PATH` is of, for reading and writing (proc_pid_fd(5)).
pub fn reopen(seen: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(fd_path(seen), flags, Mode::empty()).map_err(errno)
}

fn sealed_copy() -> Result<OwnedFd, Errno> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let io = |err: std::io::Error| Errno::from_raw(err.raw_os_error().unwrap_or(libc::EIO));
    let copy =
        memfd_create("dhow", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(errno)?;
    let mut copy = std::fs::File::from(copy);
    std::io::copy(&mut std::fs::File::open(SELF).map_err(io)?, &mut copy).map_err(io)?;
    super::fd::seal(copy.as_fd())?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_tells_whom_it_shares_with() {
        let table = "\
            22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            31 22 0:28 / /a\\040b rw,nosuid master:5 - tmpfs tmpfs rw\n\
            32 22 0:29 /x /c rw - tmpfs shared:9 rw\n";
        let told = |id| sharing_in(table, id).map(|one| (one.point, one.is_shared, one.is_slave));
        assert_eq!(told(22), Some(("/".into(), true, false)));
        assert_eq!(told(31), Some(("/a\\040b".into(), false, true)));
        assert_eq!(told(32), Some(("/c".into(), false, false)));
        assert_eq!(told(3), None);
        assert!(sharing_of(Path::new("/proc/self")).is_some_and(|one| one.point == "/proc"));
    }
}
