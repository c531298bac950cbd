//! How one container is connected: written when it starts, read by whoever has to connect it
//! again.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::link::Mac;
use crate::{
    error::{Error, Kind, Result},
    state::egress::EgressPolicy,
    state::network::{CarrierProgram, LinkRecord, LinkSysctl, NetworkRecord, Route},
    sys::net::{self, Transport},
};

/// The host, to rootless containers: an address that is link-local everywhere else (RFC 3927).
/// The host's loopback is not reached by it, only what listens for others, too.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);

/// `containers/<id>/network.json` in the runtime directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<Port>,
    /// Names by which others on its networks find it, besides those of an endpoint.
    pub names: Vec<String>,
    /// The network role carries it: an ordinary user's, and with a policy root's, too.
    pub by_role: bool,
    /// Where it may go: its own policy and those of its networks, which all must agree. Without
    /// any it may go anywhere.
    pub egress: Vec<EgressPolicy>,
    /// It goes with its end, and so does the account of where it went.
    pub is_volatile: bool,
    /// Resolvers that its questions go to instead of the host's.
    pub resolvers: Vec<IpAddr>,
    /// A program carries it: then it has no endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carried: Option<Carried>,
}

/// What a container finds in a network that a program makes for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    pub program: CarrierProgram,
    /// Its own address, as far as that is known before there is a network.
    pub own: Option<IpAddr>,
    /// The host, as it is seen from inside.
    pub host: Option<IpAddr>,
    /// Where names are asked for.
    pub resolver: Option<IpAddr>,
}

/// One network as far as its bridge is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The network's name, for messages.
    pub network: String,
    /// The link's name.
    pub bridge: String,
    pub v4: Option<Subnet<Ipv4Addr>>,
    pub v6: Option<Subnet<Ipv6Addr>>,
    /// Without a way out.
    pub is_internal: bool,
    /// Containers find each other by name there.
    #[serde(default)]
    pub has_names: bool,
    /// The name server answers at the router's address.
    #[serde(default)]
    pub has_resolver: bool,
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Its ends are on a link of the host's; otherwise on a bridge.
    #[serde(default)]
    pub shared: Option<SharedLink>,
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Its containers do not reach each other.
    #[serde(default)]
    pub is_isolated: bool,
}

/// A link of the host's that containers have ends on beside the host itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedLink {
    pub parent: String,
    pub kind: SharedKind,
}

/// How it is shared; the numbers are the kernel's (linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SharedKind {
    /// Each end has a MAC address of its own.
    Macvlan(u32),
    /// All have the parent's.
    Ipvlan(u16),
}

impl SharedLink {
    /// What the options of a network say.
    pub fn of(network: &NetworkRecord) -> Result<Option<Self>> {
        let modes: &[(&str, SharedKind)] = match network.driver.as_str() {
            "macvlan" => &[
                ("bridge", SharedKind::Macvlan(4)),
                ("private", SharedKind::Macvlan(1)),
                ("vepa", SharedKind::Macvlan(2)),
                ("passthru", SharedKind::Macvlan(8)),
            ],
            "ipvlan" => &[
                ("l2", SharedKind::Ipvlan(0)),
                ("l3", SharedKind::Ipvlan(1)),
                ("l3s", SharedKind::Ipvlan(2)),
            ],
            _ => return Ok(None),
        };
        let option = |name: &str| network.options.get(name);
        let parent = option("parent").ok_or_else(|| {
            Error::invalid(format!("a network with --driver {} needs a link", network.driver))
                .hint("-o parent=LINK names it; `ip link` lists the host's")
        })?;
        let typed = option("mode").or_else(|| option(&format!("{}_mode", network.driver)));
        let known = || modes.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let kind = match typed {
            None => modes[0].1,
            Some(typed) => {
                let found = modes.iter().find(|(name, _)| name == typed);
                found.map(|(_, kind)| *kind).ok_or_else(|| {
                    Error::invalid(format!(
                        "requested {} mode '{typed}' is not valid",
                        network.driver
                    ))
                    .hint(format!("the modes are {}", known()))
                })?
            }
        };
        Ok(Some(Self { parent: parent.clone(), kind }))
    }
}

impl SharedKind {
    /// IPVLAN_MODE_L3 and L3S have no neighbours to ask for a router.
    pub(super) fn is_routed(self) -> bool {
        matches!(self, Self::Ipvlan(1..))
    }
}

/// Addresses that share a prefix, and their router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet<A> {
    pub network: A,
    pub prefix: u8,
    pub router: A,
}

/// One container's end on a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub segment: Segment,
    /// The link's name in the container.
    pub interface: String,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    /// As text, `02:42:...`.
    pub mac_address: String,
    pub aliases: Vec<String>,
    /// Names that this container alone has for others.
    #[serde(default)]
    pub links: Vec<LinkRecord>,
    /// Further addresses, for who is on the same link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<IpAddr>,
    /// This is the way out.
    pub is_default_route: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<LinkSysctl>,
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub protocol: Protocol,
    /// On the host; unspecified is every address of its family.
    pub host_ip: IpAddr,
    /// 0 until it is chosen.
    pub host_port: u16,
    /// Until it is chosen: the last of those that will do, if more than one will; otherwise 0.
    #[serde(default, skip_serializing_if = "is_none")]
    pub last_port: u16,
    pub container_port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_none(port: &u16) -> bool {
    *port == 0
}

impl Port {
    /// Goes on to the next port that will do, if there is one.
    pub(super) fn advance(&mut self) -> bool {
        let is_more = self.host_port < self.last_port;
        self.host_port += u16::from(is_more);
        is_more
    }

    /// Binds the port for a moment: another program's is refused, and 0 becomes a free one.
    pub(super) fn probe(&self) -> Result<u16> {
        self.try_probe().map_err(|errno| self.unavailable(errno))
    }

    pub(super) fn try_probe(&self) -> Result<u16, Errno> {
        let at = SocketAddr::new(self.host_ip, self.host_port);
        let transport = match self.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
        };
        let socket = net::ip_socket(transport, at.ip())?;
        if transport == Transport::Tcp {
            net::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        }
        net::bind_to(socket.as_fd(), at)?;
        Ok(net::local_address(socket.as_fd())?.port())
    }

    /// Why it cannot be had.
    pub(super) fn unavailable(&self, errno: Errno) -> Error {
        let at = SocketAddr::new(self.host_ip, self.host_port);
        let doing = format!("publish {}/{} on {at}", self.container_port, self.protocol.name());
        let err = Error::from(errno).context(doing);
        #[expect(clippy::wildcard_enum_match_arm, reason = "errnos are open")]
        match errno {
            Errno::EADDRINUSE => err
                .with_kind(Kind::Conflict)
                .hint("another program or container has this port; choose another one"),
            Errno::EACCES => err.hint(
                "ordinary users may have ports from net.ipv4.ip_unprivileged_port_start (1024) \
                 on: use a higher one, or lower that with sysctl",
            ),
            Errno::EADDRNOTAVAIL => err.hint("the host has no such address"),
            _ => err,
        }
    }
}

impl Segment {
    /// The bridge's addresses and prefix lengths.
    pub fn routers(&self) -> Vec<(IpAddr, u8)> {
        let v4 = self.v4.map(|subnet| (IpAddr::from(subnet.router), subnet.prefix));
        let v6 = self.v6.map(|subnet| (IpAddr::from(subnet.router), subnet.prefix));
        v4.into_iter().chain(v6).collect()
    }

    /// The router of this family.
    pub fn router(&self, like: IpAddr) -> Option<IpAddr> {
        self.routers().into_iter().map(|(router, _)| router).find(|r| r.is_ipv4() == like.is_ipv4())
    }

    /// The bridge's own, kept whatever ports it has: made of its name.
    pub fn mac(&self) -> Mac {
        let hash = self.bridge.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let hash = hash.to_be_bytes();
        [0x02, 0xd0, hash[4], hash[5], hash[6], hash[7]]
    }

    /// Whether an address is one of this network's.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |network: u128, address: u128, length: u8, prefix: u8| {
            let shift = u32::from(length - prefix);
            network.checked_shr(shift) == address.checked_shr(shift)
        };
        match address {
            IpAddr::V4(address) => self.v4.is_some_and(|subnet| {
                bits(u32::from(subnet.network).into(), u32::from(address).into(), 32, subnet.prefix)
            }),
            IpAddr::V6(address) => self.v6.is_some_and(|subnet| {
                bits(subnet.network.into(), address.into(), 128, subnet.prefix)
            }),
        }
    }
}

impl Endpoint {
    /// The container's addresses and prefix lengths.
    pub fn addresses(&self) -> Vec<(IpAddr, u8)> {
        let v4 = self.v4.zip(self.segment.v4).map(|(ip, subnet)| (ip.into(), subnet.prefix));
        let v6 = self.v6.zip(self.segment.v6).map(|(ip, subnet)| (ip.into(), subnet.prefix));
        v4.into_iter().chain(v6).collect()
    }

    /// Its further addresses, with the prefix lengths of link-local ones (RFC 3927; RFC 4291,
    /// section 2.5.6), as docker gives them.
    pub fn link_locals(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.link_local.iter().map(|ip| (*ip, if ip.is_ipv4() { 16 } else { 64 }))
    }

    pub fn mac(&self) -> Result<Mac> {
        parse_mac(&self.mac_address)
    }
}

impl Attachment {
    /// Whether it has an end of this link's name on this network.
    pub fn has(&self, end: &Endpoint) -> bool {
        let is = |own: &&Endpoint| {
            own.interface == end.interface && own.segment.network == end.segment.network
        };
        self.endpoints.iter().any(|own| is(&own))
    }

    /// The end that has become the way out since `before`.
    pub fn new_way_out(&self, before: &Self) -> Option<&Endpoint> {
        let end = self.endpoints.iter().find(|end| end.is_default_route)?;
        let was = before.endpoints.iter().find(|old| old.interface == end.interface);
        was.is_some_and(|old| !old.is_default_route && before.has(end)).then_some(end)
    }

    /// Where a port that is published on an address like `like` leads, and by which endpoint:
    /// the same family if the container has it.
    pub fn target(&self, like: IpAddr) -> Option<(&Endpoint, IpAddr)> {
        let all = || {
            let is_open =
                |end: &&Endpoint| !end.segment.is_internal && end.segment.shared.is_none();
            let ends = self.endpoints.iter().filter(is_open);
            ends.flat_map(|end| end.addresses().into_iter().map(move |(ip, _)| (end, ip)))
        };
        all().find(|(_, ip)| ip.is_ipv4() == like.is_ipv4()).or_else(|| all().next())
    }
}

/// `02:42:ac:11:00:02`
pub fn parse_mac(text: &str) -> Result<Mac> {
    let invalid = || {
        Error::invalid(format!("{text:?} is not a MAC address"))
            .hint("write six bytes in hexadecimal, as 02:42:ac:11:00:02")
    };
    let mut mac = Mac::default();
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
    }
    // The lowest bit of the first byte is a group's (IEEE 802).
    if parts.next().is_some() || mac[0] & 1 != 0 { Err(invalid()) } else { Ok(mac) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_knows_its_own_addresses() {
        let segment = Segment {
            network: "n".into(),
            bridge: "br-1".into(),
            v4: Some(Subnet {
                network: [10, 89, 1, 0].into(),
                prefix: 24,
                router: [10, 89, 1, 1].into(),
            }),
            v6: None,
            is_internal: false,
            has_names: false,
            has_resolver: false,
            mtu: None,
            shared: None,
            routes: Vec::new(),
            is_isolated: false,
        };
        let contains = |text: &str| segment.contains(text.parse().expect("an address"));
        assert!(contains("10.89.1.7") && !contains("10.89.2.7") && !contains("::1"));
        assert_eq!(segment.mac()[0] & 1, 0);
    }

    #[test]
    fn a_mac_address_is_six_bytes_of_one_station() {
        assert_eq!(parse_mac("02:42:ac:11:00:02").ok(), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        for bad in ["", "02:42", "03:42:ac:11:00:02", "02:42:ac:11:00:02:03", "2:42:ac:11:00:02"] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}
