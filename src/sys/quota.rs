//! Project quotas: how much a directory and all that is made in it may take (`quotactl(2)`,
//! `ioctl_xfs_fsgetxattr(2)`).

use std::{fs::File, mem::offset_of, os::fd::AsRawFd as _};

use nix::errno::Errno;

/// Kernel's `struct fsxattr` (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_XFLAG_PROJINHERIT`: what is made inside is of the same project.
const INHERIT: u32 = 0x200;
/// `_IOR('X', 31, struct fsxattr)` and `_IOW('X', 32, struct fsxattr)`.
const GET_XATTR: u32 = 0x801c_581f;
const SET_XATTR: u32 = 0x401c_5820;

/// Kernel's `struct if_dqblk` (linux/quota.h). Limits of space are in KiB.
#[repr(C)]
#[derive(Default)]
struct Quota {
    hard: u64,
    soft: u64,
    /// Bytes.
    used: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    time: u64,
    inode_time: u64,
    valid: u32,
}

const PROJECT: u32 = 2;
const GET_QUOTA: u32 = 0x80_0007;
const SET_QUOTA: u32 = 0x80_0008;
/// `QIF_BLIMITS` and `QIF_ILIMITS`.
const ALL_LIMITS: u32 = 1 | 4;

/// What a project may take at most; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub bytes: u64,
    /// Files, directories and everything else that has a name.
    pub inodes: u64,
}

/// Puts a directory and what will be made in it into a project.
pub fn set_project(dir: &File, project: u32) -> Result<(), Errno> {
    const { assert!(size_of::<FsXattr>() == 28 && offset_of!(FsXattr, project) == 12) };
    let mut xattr = FsXattr::default();
    // SAFETY: the kernel writes one struct fsxattr, 28 bytes, to where there is one.
    let r = unsafe { libc::ioctl(dir.as_raw_fd(), GET_XATTR as _, &raw mut xattr) };
    Errno::result(r)?;
    xattr.project = project;
    xattr.flags |= INHERIT;
    // SAFETY: the kernel reads one struct fsxattr, which outlives the call.
    let r = unsafe { libc::ioctl(dir.as_raw_fd(), SET_XATTR as _, &raw const xattr) };
    Errno::result(r).map(drop)
}

/// Whether the file system of `file` has an account of this project that is in use: it has a limit
/// or files. An error if it keeps no such accounts.
pub fn is_in_use(file: &File, project: u32) -> Result<bool, Errno> {
    let mut quota = Quota::default();
    match quotactl(file, GET_QUOTA, project, &mut quota) {
        Ok(()) => Ok([quota.hard, quota.inode_hard, quota.used, quota.inodes] != [0; 4]),
        // XFS, of a project it has never heard of.
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Sets how much a project may take.
pub fn set_limits(file: &File, project: u32, limits: Limits) -> Result<(), Errno> {
    let (hard, inode_hard) = (limits.bytes.div_ceil(1024), limits.inodes);
    let mut quota = Quota { hard, inode_hard, valid: ALL_LIMITS, ..Quota::default() };
    quotactl(file, SET_QUOTA, project, &mut quota)
}

/// `quotactl_fd(2)`, Linux 5.14.
fn quotactl(file: &File, command: u32, project: u32, quota: &mut Quota) -> Result<(), Errno> {
    let command = command << 8 | PROJECT;
    // SAFETY: the kernel reads or writes one struct if_dqblk, which outlives the call; a file that
    // is on no such file system is an error.
    let r = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, project, &raw mut *quota)
    };
    Errno::result(r).map(drop)
}
