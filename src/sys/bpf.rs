//! `bpf(2)`: loading a program that decides over devices, and attaching it to a cgroup.

use std::{
    mem,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::errno::Errno;

// linux/bpf.h: commands, types and flags.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// One instruction of eBPF, laid out as `struct bpf_insn` (linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u8,
    /// The destination register in the low, the source in the high four bits.
    pub registers: u8,
    /// How many instructions a jump skips, or where in memory a load reads.
    pub offset: i16,
    pub immediate: i32,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` reads.
#[repr(C)]
struct Attach {
    target: i32,
    program: i32,
    kind: u32,
    flags: u32,
}

/// Loads a program of the type that is asked about each use of a device (Linux 4.15).
///
/// # Errors
/// EPERM without `CAP_BPF` or `CAP_SYS_ADMIN` in the initial user namespace, ENOSYS or EINVAL
/// where the kernel was built without it, EINVAL or EACCES if the verifier refuses the program.
pub fn load_device_program(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let attr = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        license: c"".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    let fd = bpf(BPF_PROG_LOAD, &attr)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device program to a cgroup v2 directory, beside those that are there and above it:
/// all of them must allow.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let attr = Attach {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attr).map(drop)
}

fn bpf<T>(command: libc::c_int, attr: &T) -> Result<libc::c_int, Errno> {
    // SAFETY: the kernel reads as many bytes as it is told, which is all of `attr`; what that
    // points to lives in the caller until the call returns. It writes to none of it: no log is
    // asked for.
    let result = Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw const *attr, mem::size_of::<T>())
    })?;
    libc::c_int::try_from(result).map_err(|_| Errno::EOVERFLOW)
}
