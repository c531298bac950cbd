//! Sockets, as far as neither `nix` nor the standard library has them safely, and the loopback
//! interface.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sched::CloneFlags,
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
        getpeername, getsockname, socket, sockopt::TcpCongestion,
    },
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
    #[allow(
        clippy::cast_possible_truncation,
        clippy::unnecessary_cast,
        reason = "its type is the C library's choice"
    )]
    let change = libc::SIOCSIFFLAGS as libc::Ioctl;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which is as long as ours and lives until it returns.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), change, &raw const request) }).map(drop)
}

/// Sets an option that is an `int` (`setsockopt(2)`).
pub fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    // SAFETY: the value is one initialised int that outlives the call, and its size is passed.
    Errno::result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(4),
        )
    })
    .map(drop)
}

/// Makes `close(2)` reset the connection instead of ending it properly (SO_LINGER of 0 seconds,
/// socket(7)).
pub fn reset_on_close(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Linger, &linger)
}

/// The congestion control for where no wire is: what the host has for wires only costs there
/// (BBR's pacing half of the throughput). Every kernel has Reno, and lets everyone choose it
/// (tcp(7)).
pub const UNPACED: &str = "reno";

/// Gives a TCP socket that is connected to `peer` the congestion control [`UNPACED`], if that is
/// this host, too (TCP_CONGESTION, tcp(7)).
pub fn unpace_within_host(socket: BorrowedFd<'_>, peer: IpAddr) -> Result<(), Errno> {
    // The way to an address of one's own begins at that address.
    if local_address(socket)?.ip() != peer {
        return Ok(());
    }
    nix::sys::socket::setsockopt(&socket, TcpCongestion, &OsString::from(UNPACED))
}

/// What a socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A socket for addresses like `like`, which never blocks.
pub fn ip_socket(transport: Transport, like: IpAddr) -> Result<OwnedFd, Errno> {
    let kind = match transport {
        Transport::Tcp => SockType::Stream,
        Transport::Udp => SockType::Datagram,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family(like), kind, flags, None)?;
    if like.is_ipv6() {
        // Each family has sockets of its own, so that addresses are what they seem.
        set_option(as_fd(&socket), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    Ok(socket)
}

/// As [`ip_socket`], able to use addresses that are not this host's (IP_TRANSPARENT, ip(7);
/// needs CAP_NET_ADMIN over the network namespace).
pub fn transparent_socket(transport: Transport, like: IpAddr) -> Result<OwnedFd, Errno> {
    const IPV6_TRANSPARENT: libc::c_int = 75;
    let socket = ip_socket(transport, like)?;
    match like {
        IpAddr::V4(_) => set_option(as_fd(&socket), libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1)?,
        IpAddr::V6(_) => set_option(as_fd(&socket), libc::IPPROTO_IPV6, IPV6_TRANSPARENT, 1)?,
    }
    set_option(as_fd(&socket), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    Ok(socket)
}

/// A ping socket (icmp(7), "ICMP echo sockets"): allowed to the groups of `ping_group_range`.
pub fn ping_socket(like: IpAddr) -> Result<OwnedFd, Errno> {
    let protocol = match like {
        IpAddr::V4(_) => SockProtocol::Icmp,
        IpAddr::V6(_) => SockProtocol::IcmpV6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family(like), SockType::Datagram, flags, protocol)
}

fn as_fd(socket: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(socket)
}

fn family(like: IpAddr) -> AddressFamily {
    match like {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub fn bind_to(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
}

/// Begins to connect; a connection that is not there at once is no error.
pub fn connect_to(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Err(Errno::EINPROGRESS) => Ok(()),
        other => other,
    }
}

/// The address a socket is bound to.
pub fn local_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    to_std(&getsockname::<SockaddrStorage>(socket.as_raw_fd())?)
}

/// The address a socket is connected to.
pub fn peer_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    to_std(&getpeername::<SockaddrStorage>(socket.as_raw_fd())?)
}

/// The standard library's form of an address of the internet's.
pub fn to_std(address: &SockaddrStorage) -> Result<SocketAddr, Errno> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Ok(SocketAddr::from((v4.ip(), v4.port()))),
        (None, Some(v6)) => Ok(SocketAddr::from((v6.ip(), v6.port()))),
        (None, None) => Err(Errno::EAFNOSUPPORT),
    }
}

/// The address by which this host would speak to others: a route is looked up, nothing is sent.
pub fn own_address() -> Result<IpAddr, Errno> {
    let anyone = SocketAddr::from(([192, 0, 2, 1], 9));
    let socket = ip_socket(Transport::Udp, anyone.ip())?;
    connect_to(socket.as_fd(), anyone)?;
    Ok(local_address(socket.as_fd())?.ip())
}

/// Whole frames of the interface with this index, both directions' (packet(7)).
pub fn packet_socket(interface: u32) -> Result<OwnedFd, Errno> {
    let protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: three integers. No protocol: nothing is received before the bind.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the call succeeded, so this is a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // What we send ourselves is not shown to us (PACKET_IGNORE_OUTGOING, Linux 4.20).
    const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
    set_option(as_fd(&socket), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or(17),
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(interface).map_err(|_| Errno::EINVAL)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: one initialised sockaddr_ll that outlives the call, and its size.
    Errno::result(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(socket)
}

/// The index of the interface called `name` in this network namespace.
pub fn interface_index(name: &str) -> Result<u32, Errno> {
    nix::net::if_::if_nametoindex(name)
}

/// The user namespace that owns `namespace`, or its parent if it is one itself
/// (`ioctl_nsfs(2)`, Linux 4.9). Refused unless it is the caller's or below.
pub fn parent_user_namespace(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    // SAFETY: a live descriptor; this request takes no argument.
    let fd = Errno::result(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) })?;
    // SAFETY: the call succeeded, so this is a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What kind of namespace a descriptor stands for, as the flag that makes one; EINVAL or ENOTTY
/// for any other file (`ioctl_nsfs(2)`, NS_GET_NSTYPE, Linux 4.11).
pub fn namespace_kind(namespace: BorrowedFd<'_>) -> Result<CloneFlags, Errno> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: a live descriptor; this request takes no argument and touches no memory.
    let kind = Errno::result(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) })?;
    CloneFlags::from_bits(kind).ok_or(Errno::EINVAL)
}
