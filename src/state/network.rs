//! What is on disk about networks.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{egress::EgressPolicy, name::ContainerId};

/// `networks/<name>/network.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// 64 hex digits, as a container's.
    pub id: ContainerId,
    pub name: String,
    pub created: Timestamp,
    pub driver: String,
    pub v4: Option<Pool<Ipv4Addr>>,
    #[serde(default)]
    pub v6: Option<Pool<Ipv6Addr>>,
    /// No way out, none in.
    #[serde(default)]
    pub internal: bool,
    /// Where its containers may go; `None` is anywhere.
    #[serde(default)]
    pub egress: Option<EgressPolicy>,
    #[serde(default)]
    pub disable_dns: bool,
    /// Resolvers for containers on this network, instead of the host's.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `-o KEY=VALUE`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// What its containers reach by another router than the network's own.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Addresses that no container gets, by a word for whose they are.
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
    /// Docker's `--attachable` and `--ipam-opt`: shown, and without a meaning on one host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attachable: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ipam_options: BTreeMap<String, String>,
    /// It is no network, but the options that others are made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_only: Option<Families>,
    /// The name of the network whose options it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_from: Option<String>,
}

/// Which kinds of addresses there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

impl NetworkRecord {
    /// The name of its bridge.
    pub fn bridge(&self) -> String {
        match self.options.get("com.docker.network.bridge.name") {
            _ if self.name == DEFAULT => "dhow0".to_owned(),
            Some(name) => name.clone(),
            None => format!("br-{}", self.id.short()),
        }
    }

    /// What the names of containers' links begin with.
    pub fn interface_prefix(&self) -> &str {
        let typed = self.options.get("com.docker.network.container_iface_prefix");
        typed.map_or("eth", String::as_str)
    }

    /// What its containers have, or those of networks that are made with its options.
    pub fn families(&self) -> Families {
        let own = Families { v4: self.v4.is_some(), v6: self.v6.is_some() };
        self.config_only.unwrap_or(own)
    }

    /// Its containers do not reach each other (docker's inter-container communication).
    pub fn is_isolated(&self) -> bool {
        self.options.get("com.docker.network.bridge.enable_icc").is_some_and(|on| on == "false")
    }

    /// Where ports are published for which no address was typed.
    pub fn host_binding(&self) -> Option<Ipv4Addr> {
        self.options.get("com.docker.network.bridge.host_binding_ipv4")?.parse().ok()
    }
}

/// A route that the containers of a network have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: IpAddr,
    pub prefix: u8,
    pub gateway: IpAddr,
    #[serde(default)]
    pub metric: Option<u32>,
}

/// The addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool<A> {
    pub network: A,
    pub prefix: u8,
    pub router: A,
    /// What containers get addresses from, if not the whole network: an address and its prefix.
    pub range: Option<(A, u8)>,
}

/// One `--network` of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkChoice {
    pub name: String,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub mac_address: Option<String>,
    pub aliases: Vec<String>,
    pub links: Vec<LinkRecord>,
    /// Addresses that it has there besides, which reach no further.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<IpAddr>,
    /// Of several networks the one with the highest leads out.
    pub gateway_priority: i32,
    /// Its link's name in the container, instead of `eth0` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// What its link there is set to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<LinkSysctl>,
}

/// A setting of one link in a container: `net.FAMILY.GROUP.IFNAME.KEY=VALUE`, where docker's word
/// IFNAME stands for the link's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSysctl {
    /// `ipv4`, `ipv6` or `mpls`.
    pub family: String,
    /// `conf` or `neigh`.
    pub group: String,
    pub key: String,
    pub value: String,
}

impl LinkSysctl {
    /// Its file, where the link has this name.
    pub fn path(&self, interface: &str) -> String {
        format!("/proc/sys/net/{}/{}/{interface}/{}", self.family, self.group, self.key)
    }
}

impl fmt::Display for LinkSysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net.{}.{}.IFNAME.{}={}", self.family, self.group, self.key, self.value)
    }
}

/// One `--link`: a name that a container has for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    pub container: ContainerId,
    pub alias: String,
}

/// One `--publish`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// `tcp` or `udp`.
    pub protocol: String,
    pub container_port: u16,
    /// `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// `None` is whatever is free.
    pub host_port: Option<u16>,
    /// The last of those that will do, if more than one will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_port: Option<u16>,
}

/// A program that carries a container's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carrier {
    pub program: CarrierProgram,
    /// Its own options, or for slirp4netns podman's, as typed.
    #[serde(default)]
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CarrierProgram {
    Pasta,
    Slirp4netns,
}

impl CarrierProgram {
    /// The better one first.
    pub const ALL: [Self; 2] = [Self::Pasta, Self::Slirp4netns];

    /// The executable's name, and podman's for the network mode.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        }
    }
}

/// The network every user has, docker's name for it.
pub const DEFAULT: &str = "bridge";
/// Names that are modes, not networks.
pub const RESERVED: [&str; 7] =
    ["none", "host", "default", "container", "private", "pasta", "slirp4netns"];
