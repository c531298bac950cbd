//! What a process can find out about its own confinement only by calling the kernel: who owns a
//! namespace, and which dangerous calls are refused.
//!
//! Every call here is chosen so that it changes nothing even where it is allowed: it names a
//! file system that does not exist, a handle that is empty, a magic number that is wrong. The
//! kernel asks for permission first, so the errno still tells.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    ptr,
};

use nix::{errno::Errno, libc, mount::MsFlags, sched::CloneFlags};

/// The inode number of the user namespace that owns the namespace file `path`; `None` if that is
/// one the caller may not know, since it is neither its own nor below (`ioctl_nsfs(2)`,
/// NS_GET_USERNS, Linux 4.9).
pub fn owning_user_namespace(path: &Path) -> io::Result<Option<u64>> {
    use std::os::unix::fs::MetadataExt as _;
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    let namespace = File::open(path)?;
    // SAFETY: a live descriptor; this request takes no argument and touches no memory.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    match Errno::result(fd) {
        Ok(fd) => {
            // SAFETY: the ioctl succeeded, so this is a fresh descriptor that nobody else owns.
            let owner = unsafe { OwnedFd::from_raw_fd(fd) };
            File::from(owner).metadata().map(|meta| Some(meta.ino()))
        }
        Err(Errno::EPERM) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A call that a confined process should be refused.
#[derive(Debug, Clone, Copy)]
pub struct Dangerous {
    /// The call and its interesting argument.
    pub name: &'static str,
    /// What it would be good for.
    pub power: &'static str,
    /// Ok if the kernel would have let it happen. Makes one system call and allocates nothing;
    /// may change the calling process, so it belongs into a child of its own.
    pub call: fn() -> nix::Result<()>,
}

/// What a default seccomp filter and capability set should both keep from a container.
pub const DANGEROUS: &[Dangerous] = &[
    Dangerous { name: "mount", power: "mount file systems", call: mount },
    Dangerous { name: "unshare(user)", power: "regain capabilities", call: unshare_user },
    Dangerous { name: "keyctl", power: "reach the kernel's key rings", call: keyctl },
    Dangerous { name: "bpf", power: "load programs into the kernel", call: bpf },
    Dangerous { name: "io_uring_setup", power: "make calls past filters", call: io_uring },
    Dangerous { name: "open_by_handle_at", power: "open files outside", call: open_by_handle },
    Dangerous { name: "init_module", power: "load kernel modules", call: init_module },
    Dangerous { name: "reboot", power: "stop the machine", call: reboot },
    Dangerous { name: "syslog", power: "read the kernel's log", call: syslog },
    Dangerous { name: "socket(AF_VSOCK)", power: "talk to the hypervisor", call: vsock },
    Dangerous { name: "socket(AF_ALG)", power: "use the kernel's crypto code", call: alg },
    Dangerous { name: "socket(audit)", power: "talk to the audit system", call: audit },
];

/// These errnos are met only after the permission check.
fn past(outcome: nix::Result<()>, beyond: &[Errno]) -> nix::Result<()> {
    match outcome {
        Err(errno) if beyond.contains(&errno) => Ok(()),
        other => other,
    }
}

fn mount() -> nix::Result<()> {
    let kind = Some("dhow-no-such-fs");
    let outcome = nix::mount::mount(Some("none"), "/", kind, MsFlags::empty(), None::<&str>);
    past(outcome, &[Errno::ENODEV])
}

fn unshare_user() -> nix::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER)
}

fn keyctl() -> nix::Result<()> {
    const KEYCTL_GET_KEYRING_ID: libc::c_long = 0;
    const KEY_SPEC_SESSION_KEYRING: libc::c_long = -3;
    // SAFETY: three integers; asking for an id without `create` makes nothing.
    let id = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0_usize)
    };
    past(Errno::result(id).map(drop), &[Errno::ENOKEY])
}

fn bpf() -> nix::Result<()> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    let attributes = [0_u8; 48];
    // SAFETY: the attributes are 48 readable bytes, the size that is passed. A program of no
    // instructions is never accepted.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, attributes.as_ptr(), attributes.len())
    };
    past(Errno::result(fd).map(drop), &[Errno::EINVAL, Errno::E2BIG, Errno::EFAULT])
}

fn io_uring() -> nix::Result<()> {
    // SAFETY: the parameters are a null pointer, which the kernel answers with EFAULT.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_usize, ptr::null::<u8>()) };
    past(Errno::result(fd).map(drop), &[Errno::EFAULT, Errno::EINVAL])
}

fn open_by_handle() -> nix::Result<()> {
    // struct file_handle: 8 bytes of type FILEID_INO32_GEN, naming inode 0, which never exists.
    let handle = [8_u32, 1, 0, 0];
    // SAFETY: the handle is a whole struct file_handle, followed by the 8 bytes it claims.
    let fd = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, libc::AT_FDCWD, handle.as_ptr(), libc::O_PATH)
    };
    past(Errno::result(fd).map(drop), &[Errno::ESTALE])
}

fn init_module() -> nix::Result<()> {
    // SAFETY: an image of length 0 at a null address: nothing is read, nothing can be loaded.
    let outcome =
        unsafe { libc::syscall(libc::SYS_init_module, ptr::null::<u8>(), 0_usize, c"".as_ptr()) };
    past(Errno::result(outcome).map(drop), &[Errno::ENOEXEC, Errno::EFAULT, Errno::EINVAL])
}

fn reboot() -> nix::Result<()> {
    // SAFETY: integers; with both magic numbers wrong the kernel does nothing but answer EINVAL.
    let outcome = unsafe { libc::syscall(libc::SYS_reboot, 0_usize, 0_usize, 0_usize, 0_usize) };
    past(Errno::result(outcome).map(drop), &[Errno::EINVAL])
}

fn syslog() -> nix::Result<()> {
    const SYSLOG_ACTION_READ_ALL: libc::c_long = 3;
    let mut buffer = [0_u8; 1];
    // SAFETY: a writable buffer, of which 0 bytes are offered.
    let outcome = unsafe {
        libc::syscall(libc::SYS_syslog, SYSLOG_ACTION_READ_ALL, buffer.as_mut_ptr(), 0_usize)
    };
    Errno::result(outcome).map(drop)
}

fn vsock() -> nix::Result<()> {
    socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)
}

fn alg() -> nix::Result<()> {
    socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)
}

fn audit() -> nix::Result<()> {
    const NETLINK_AUDIT: i32 = 9;
    socket(libc::AF_NETLINK, libc::SOCK_RAW, NETLINK_AUDIT)
}

fn socket(domain: i32, kind: i32, protocol: i32) -> nix::Result<()> {
    // SAFETY: three integers.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    let fd = Errno::result(fd)?;
    // SAFETY: the call succeeded, so this descriptor is fresh and ours.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::attempt;

    #[test]
    fn each_call_is_answered_and_harmless() {
        for dangerous in DANGEROUS {
            let outcome = attempt::in_child(|| (dangerous.call)().map_err(|errno| (0, errno)));
            let outcome = outcome.expect("it can be tried");
            // EFAULT or ENOEXEC here would be a permission check that is not where we think.
            if let Err(refused) = outcome {
                let known = [
                    Errno::EPERM,
                    Errno::EACCES,
                    Errno::ENOSYS,
                    Errno::EAFNOSUPPORT,
                    Errno::EPROTONOSUPPORT,
                    Errno::ENOSPC,
                    Errno::EINVAL,
                ];
                let known = known.map(attempt::Cause::Error);
                assert!(known.contains(&refused.cause), "{}: {refused}", dangerous.name);
            }
        }
    }

    #[test]
    fn a_network_namespace_made_in_a_user_namespace_belongs_to_it() {
        use std::os::unix::fs::MetadataExt as _;
        let ids = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let maps = crate::sys::user::IdMaps::single(ids.0, ids.1);
        let user = |path: &str| std::fs::metadata(path).map(|meta| meta.ino());
        let outside = user("/proc/self/ns/user").expect("stat");
        let outcome = attempt::in_user_namespace(&maps, || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| (0, errno))?;
            let owner = owning_user_namespace(Path::new("/proc/self/ns/net"));
            let own = user("/proc/self/ns/user");
            match (owner, own) {
                (Ok(Some(owner)), Ok(own)) if owner == own && own != outside => Ok(()),
                _ => Err((1, Errno::EINVAL)),
            }
        });
        let outcome = outcome.expect("it can be tried");
        assert!(!matches!(outcome, Err(attempt::Refused { step: 1, .. })), "{outcome:?}");
    }
}
