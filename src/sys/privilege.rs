//! Giving things up: capabilities, ids, limits, system calls.

use nix::errno::Errno;

/// Leaves only the capabilities in `keep` in the bounding set (`capabilities(7)`).
///
/// A capability this kernel does not know ends the walk: they are numbered without gaps.
pub fn limit_bounding(keep: u64) -> Result<(), Errno> {
    for capability in 0..64_u64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: PR_CAPBSET_DROP takes plain integers.
        let r = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match Errno::result(r) {
            Ok(_) => {}
            Err(Errno::EINVAL) if capability > 20 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Replaces the effective, permitted and inheritable sets (`capset(2)`, version 3).
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let half = |shift: u32| {
        let bits = |set: u64| u32::try_from((set >> shift) & 0xffff_ffff).unwrap_or(0);
        Data {
            effective: bits(effective),
            permitted: bits(permitted),
            inheritable: bits(inheritable),
        }
    };
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two data blocks; both are fully initialised, laid
    // out as linux/capability.h says, and outlive the call.
    let r = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(r).map(drop)
}

/// Replaces the ambient set; each capability must be permitted and inheritable (Linux 4.3).
pub fn set_ambient(ambient: u64) -> Result<(), Errno> {
    let change = |operation: libc::c_int, capability: u64| {
        // SAFETY: PR_CAP_AMBIENT takes plain integers.
        let r = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation, capability, 0, 0) };
        Errno::result(r).map(drop)
    };
    change(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    (0..64)
        .filter(|n| ambient & (1 << n) != 0)
        .try_for_each(|capability| change(libc::PR_CAP_AMBIENT_RAISE, capability))
}

/// Whether permitted capabilities survive the change from root to another user
/// (`PR_SET_KEEPCAPS`); the next `execve` resets it.
pub fn keep_capabilities(keep: bool) -> Result<(), Errno> {
    // SAFETY: PR_SET_KEEPCAPS takes plain integers.
    let r = unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep), 0, 0, 0) };
    Errno::result(r).map(drop)
}

/// `setrlimit(2)` by number; `u64::MAX` is unlimited.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: one initialised rlimit that outlives the call; an unknown number is EINVAL.
    Errno::result(unsafe { libc::setrlimit(resource, &raw const limit) }).map(drop)
}

/// Installs a seccomp filter on this thread (`seccomp(2)`, SECCOMP_SET_MODE_FILTER). Needs
/// no_new_privs or CAP_SYS_ADMIN.
///
/// Speculative store bypass is not mitigated on its account (SECCOMP_FILTER_FLAG_SPEC_ALLOW,
/// Linux 4.17), as the kernel itself has defaulted to since 5.16.
pub fn install_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` names `len` initialised instructions that outlive the call; the kernel
    // copies and verifies them, and does not write through the pointer.
    let r = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    Errno::result(r).map(drop)
}
