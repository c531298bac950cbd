//! Links, addresses, routes and rules of one network namespace (rtnetlink(7)).

use std::{
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::errno::Errno;

use super::attachment::SharedKind;
use crate::{
    state::network::Route,
    sys::netlink::{
        Attributes, CREATE, EXCLUSIVE, Holder as _, Netlink, REPLACE, Refusal, Request,
    },
};

// linux/if_link.h, linux/veth.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// Usable at once: nobody else has it.
const IFA_F_NODAD: u8 = 2;
// linux/rtnetlink.h, linux/fib_rules.h
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RT_TABLE_MAIN: u8 = 254;
const FRA_FWMARK: u16 = 10;
const FRA_PRIORITY: u16 = 6;
const FR_ACT_TO_TBL: u8 = 1;

/// A link's six bytes.
pub type Mac = [u8; 6];

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: libc::c_int) -> Vec<u8> {
    let flags = flags.cast_unsigned().to_ne_bytes();
    [[0; 4], index.to_ne_bytes(), flags, flags].concat()
}

/// The family's number and the address's bytes.
fn bytes_of(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (2, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, v6.octets().to_vec()),
    }
}

/// Whether this kernel speaks IPv6 (`ipv6.disable` on its command line takes it away).
pub fn has_v6() -> bool {
    std::fs::exists("/proc/net/if_inet6").unwrap_or(false)
}

/// The index of the link called `name`, if there is one.
pub fn find(netlink: &mut Netlink, name: &str) -> Result<Option<u32>, Refusal> {
    let request =
        Request::new(libc::RTM_GETLINK, 0, &link_header(0, 0)).with_text(IFLA_IFNAME, name);
    match netlink.call_all(&[request]) {
        Ok(told) => Ok(told
            .iter()
            .find_map(|link| Some(u32::from_ne_bytes(link.body.get(4..8)?.try_into().ok()?)))),
        Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Whether a packet to this address would go to another host: the kernel's route is unicast, as
/// one to an address of this host's own is not. Without a route it goes nowhere, which is away.
pub fn leads_away(netlink: &mut Netlink, address: IpAddr) -> Result<bool, Refusal> {
    let (family, bytes) = bytes_of(address);
    // struct rtmsg: 12 bytes; the route's type is the eighth.
    const TYPE: usize = 7;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let header = [family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let request = Request::new(libc::RTM_GETROUTE, 0, &header).with(RTA_DST, &bytes);
    match netlink.call_all(&[request]) {
        Ok(told) => Ok(told.iter().any(|route| route.body.get(TYPE) == Some(&RTN_UNICAST))),
        Err(refusal) if [Errno::ENETUNREACH, Errno::EHOSTUNREACH].contains(&refusal.errno) => {
            Ok(true)
        }
        Err(refusal) => Err(refusal),
    }
}

/// Makes a bridge, up; returns its index. One that is there is taken as it is.
pub fn ensure_bridge(netlink: &mut Netlink, name: &str, mac: Mac) -> Result<u32, Refusal> {
    let info = Attributes::new().with_text(IFLA_INFO_KIND, "bridge");
    let request =
        Request::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, libc::IFF_UP))
            .with_text(IFLA_IFNAME, name)
            .with(IFLA_ADDRESS, &mac)
            .with_nest(IFLA_LINKINFO, &info);
    match netlink.call(&request) {
        Err(refusal) if refusal.errno != Errno::EEXIST => return Err(refusal),
        _ => {}
    }
    find(netlink, name)?.ok_or(Refusal::from(Errno::ENODEV))
}

/// One end of a pair, or both.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    pub name: &'a str,
    pub mac: Option<Mac>,
    /// The network namespace it is born in; `None` is the socket's.
    pub namespace: Option<BorrowedFd<'a>>,
    /// The bridge it is a port of.
    pub master: Option<u32>,
    /// No ARP.
    pub is_silent: bool,
}

/// Makes two ethernet links that are the two ends of one cable (veth(4)), both down.
pub fn add_veth(
    netlink: &mut Netlink,
    near: End<'_>,
    far: End<'_>,
    mtu: Option<u32>,
) -> Result<(), Refusal> {
    // Not up: an end that has no other yet cannot be.
    let flags = |end: End<'_>| if end.is_silent { libc::IFF_NOARP } else { 0 };
    let peer = describe(far, mtu, Attributes::after(&link_header(0, flags(far))));
    let info = Attributes::new()
        .with_text(IFLA_INFO_KIND, "veth")
        .with_nest(IFLA_INFO_DATA, &Attributes::new().with_nest(VETH_INFO_PEER, &peer));
    let header = describe(near, mtu, Attributes::after(&link_header(0, flags(near))));
    let request = Request::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, header.as_bytes());
    netlink.call(&request.with_nest(IFLA_LINKINFO, &info))
}

/// Makes a link of `namespace` that sends and receives by the link `parent`; it is down.
pub fn add_shared(
    netlink: &mut Netlink,
    parent: u32,
    kind: SharedKind,
    end: End<'_>,
    mtu: Option<u32>,
) -> Result<(), Refusal> {
    let (name, data) = match kind {
        SharedKind::Macvlan(mode) => {
            ("macvlan", Attributes::new().with_u32(IFLA_MACVLAN_MODE, mode))
        }
        SharedKind::Ipvlan(mode) => {
            ("ipvlan", Attributes::new().with(IFLA_IPVLAN_MODE, &mode.to_ne_bytes()))
        }
    };
    let info = Attributes::new().with_text(IFLA_INFO_KIND, name).with_nest(IFLA_INFO_DATA, &data);
    let header = describe(end, mtu, Attributes::after(&link_header(0, 0)));
    let request = Request::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, header.as_bytes());
    netlink.call(&request.with_u32(IFLA_LINK, parent).with_nest(IFLA_LINKINFO, &info))
}

/// What a new end is, in attributes.
fn describe(end: End<'_>, mtu: Option<u32>, mut to: Attributes) -> Attributes {
    to = to.with_text(IFLA_IFNAME, end.name);
    if let Some(mac) = end.mac {
        to = to.with(IFLA_ADDRESS, &mac);
    }
    if let Some(mtu) = mtu {
        to = to.with_u32(IFLA_MTU, mtu);
    }
    if let Some(namespace) = end.namespace {
        to = to.with_u32(IFLA_NET_NS_FD, namespace.as_raw_fd().cast_unsigned());
    }
    if let Some(master) = end.master {
        to = to.with_u32(IFLA_MASTER, master);
    }
    to
}

/// Brings a link up that makes no IPv6 address of its own and asks for no routers.
pub fn raise_silently(netlink: &mut Netlink, index: u32) -> Result<(), Refusal> {
    if has_v6() {
        let inet6 = Attributes::new().with(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        let families = Attributes::new().with_nest(10, &inet6);
        let request = Request::new(libc::RTM_NEWLINK, 0, &index_header(index));
        netlink.call(&request.with_nest(IFLA_AF_SPEC, &families))?;
    }
    raise(netlink, index)
}

/// Keeps a port of a bridge from others that are kept so: it has the bridge itself only (bridge(8),
/// `isolated`; Linux 4.18).
pub fn isolate(netlink: &mut Netlink, index: u32) -> Result<(), Refusal> {
    const AF_BRIDGE: u8 = 7;
    let mut header = index_header(index);
    header[0] = AF_BRIDGE;
    let port = Attributes::new().with(IFLA_BRPORT_ISOLATED, &[1]);
    netlink.call(&Request::new(libc::RTM_SETLINK, 0, &header).with_nest(IFLA_PROTINFO, &port))
}

/// Brings a link up.
pub fn raise(netlink: &mut Netlink, index: u32) -> Result<(), Refusal> {
    let mut header = index_header(index);
    header[8..].copy_from_slice(&[libc::IFF_UP.to_ne_bytes(); 2].concat());
    netlink.call(&Request::new(libc::RTM_NEWLINK, 0, &header))
}

/// `struct ifinfomsg` that changes no flag.
fn index_header(index: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]].concat()
}

/// Takes a link away, and with one end of a pair the other.
pub fn delete(netlink: &mut Netlink, index: u32) -> Result<(), Refusal> {
    netlink.call(&Request::new(libc::RTM_DELLINK, 0, &link_header(index, 0)))
}

/// Gives a link an address; one that it has already is no error.
pub fn add_address(
    netlink: &mut Netlink,
    index: u32,
    address: IpAddr,
    prefix: u8,
) -> Result<(), Refusal> {
    let (family, bytes) = bytes_of(address);
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut header = vec![family, prefix, flags, 0];
    header.extend(index.to_ne_bytes());
    let mut request = Request::new(libc::RTM_NEWADDR, CREATE | EXCLUSIVE, &header)
        .with(IFA_LOCAL, &bytes)
        .with(IFA_ADDRESS, &bytes);
    if let IpAddr::V4(v4) = address
        && prefix < 31
    {
        let last = u32::from(v4) | u32::MAX >> prefix;
        request = request.with(IFA_BROADCAST, &last.to_be_bytes());
    }
    granted(netlink.call(&request))
}

/// Where packets go that no narrower route takes.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// To the router at this address.
    Via(IpAddr),
    /// Out of this link, whatever is behind it.
    Out(u32),
    /// To this host itself, out of `lo`, whose index it is.
    Here(u32),
}

/// Adds a default route to `table`, for IPv6 if `v6`, in the place of the one there was.
pub fn add_default_route(
    netlink: &mut Netlink,
    v6: bool,
    route: Default,
    table: Option<u8>,
) -> Result<(), Refusal> {
    let family = if v6 { 10 } else { 2 };
    let (scope, kind) = match route {
        Default::Via(_) => (0, RTN_UNICAST),
        Default::Out(_) => (if v6 { 0 } else { RT_SCOPE_LINK }, RTN_UNICAST),
        Default::Here(_) => (if v6 { 0 } else { RT_SCOPE_HOST }, RTN_LOCAL),
    };
    let table = table.unwrap_or(RT_TABLE_MAIN);
    let header = [family, 0, 0, 0, table, RTPROT_STATIC, scope, kind, 0, 0, 0, 0];
    let request = Request::new(libc::RTM_NEWROUTE, CREATE | REPLACE, &header);
    let request = match route {
        Default::Via(router) => request.with(RTA_GATEWAY, &bytes_of(router).1),
        Default::Out(link) | Default::Here(link) => request.with_u32(RTA_OIF, link),
    };
    netlink.call(&request)
}

/// Adds a route by a router.
pub fn add_route(netlink: &mut Netlink, route: &Route) -> Result<(), Refusal> {
    let (family, destination) = bytes_of(route.destination);
    let table = RT_TABLE_MAIN;
    let header = [family, route.prefix, 0, 0, table, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0];
    let request = Request::new(libc::RTM_NEWROUTE, CREATE | EXCLUSIVE, &header)
        .with(RTA_DST, &destination)
        .with(RTA_GATEWAY, &bytes_of(route.gateway).1);
    granted(netlink.call(&match route.metric {
        Some(metric) => request.with_u32(RTA_PRIORITY, metric),
        None => request,
    }))
}

/// Packets with this mark are routed by `table`.
pub fn add_mark_rule(netlink: &mut Netlink, v6: bool, mark: u32, table: u8) -> Result<(), Refusal> {
    const PRIORITY: u32 = 100;
    let family = if v6 { 10 } else { 2 };
    let header = [family, 0, 0, 0, table, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    let request = Request::new(libc::RTM_NEWRULE, CREATE | EXCLUSIVE, &header)
        .with_u32(FRA_PRIORITY, PRIORITY)
        .with_u32(FRA_FWMARK, mark);
    granted(netlink.call(&request))
}

/// The IPv4 and IPv6 networks that this namespace has routes to, with their prefix lengths.
pub fn routed_networks(netlink: &mut Netlink) -> Result<Vec<(IpAddr, u8)>, Refusal> {
    let routes = netlink.list(&Request::new(libc::RTM_GETROUTE, 0, &[0; 12]))?;
    let network = |route: &crate::sys::netlink::Answer| {
        let prefix = *route.body.get(1).filter(|prefix| **prefix > 0)?;
        let (_, bytes) = route.attributes(12).find(|(kind, _)| *kind == RTA_DST)?;
        let address = match bytes.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        };
        Some((address, prefix))
    };
    Ok(routes.iter().filter_map(network).collect())
}

/// What is there already was asked for before.
fn granted(outcome: Result<(), Refusal>) -> Result<(), Refusal> {
    match outcome {
        Err(refusal) if refusal.errno == Errno::EEXIST => Ok(()),
        other => other,
    }
}
