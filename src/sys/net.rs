//! Network interfaces, as far as a launch touches them.

use std::os::fd::AsRawFd as _;

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// `struct ifreq` with its flags (`netdevice(7)`): 40 bytes, all of which the kernel reads.
#[repr(C)]
struct FlagsRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Brings up `lo` of the calling process's network namespace, where it is born down
/// (`network_namespaces(7)`). The kernel gives it 127.0.0.1 and ::1 by itself.
pub fn raise_loopback() -> Result<(), Errno> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut request = FlagsRequest { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    request.flags = libc::c_short::try_from(libc::IFF_UP).map_err(|_| Errno::EINVAL)?;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which is as long as ours and lives until it returns.
    Errno::result(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    })
    .map(drop)
}
