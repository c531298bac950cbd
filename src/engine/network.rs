//! `network`: making, finding, listing and removing networks.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use jiff::Timestamp;

use super::Engine;
use crate::{
    error::{Context as _, Error, Result},
    network::{
        attachment::{Attachment, Port, SharedLink},
        firewall, host, link,
    },
    state::{
        ContainerId,
        egress::EgressPolicy,
        name::{check_name, is_hex},
        network::{DEFAULT, Families, NetworkRecord, Pool, RESERVED, Route},
        record::ContainerRecord,
        store::{Durability, Lock, create_private_dir, read_json_or, write_json},
    },
    sys::netlink::Netlink,
};

/// What was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkRequest {
    pub name: String,
    pub v4: Option<Pool<Ipv4Addr>>,
    pub v6: Option<Pool<Ipv6Addr>>,
    /// IPv6 addresses are wanted, given or not.
    pub ipv6: bool,
    pub internal: bool,
    pub egress: Option<EgressPolicy>,
    pub disable_dns: bool,
    pub dns: Vec<IpAddr>,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// `bridge` unless another is named.
    pub driver: String,
    /// No IPv4 addresses.
    pub without_v4: bool,
    pub routes: Vec<Route>,
    pub reserved: BTreeMap<String, IpAddr>,
    pub attachable: bool,
    pub ipam_options: BTreeMap<String, String>,
    /// It is to be no network, but the options that others are made with.
    pub config_only: bool,
    /// Such a one, whose options it is to have.
    pub config_from: Option<String>,
}

/// A container that is connected to a network now.
#[derive(Debug, Clone)]
pub struct Connected {
    pub id: ContainerId,
    pub name: String,
    pub attachment: Attachment,
}

/// The prefix length of networks whose addresses are ours to choose: 4093 containers.
const CHOSEN_PREFIX: u8 = 20;

impl Engine {
    /// Makes a network.
    pub fn create_network(&self, request: NetworkRequest) -> Result<NetworkRecord> {
        let name = check_name(&request.name).map_err(|_| {
            Error::invalid(format!("invalid network name {:?}", request.name)).hint(
                "a name has the characters a-z A-Z 0-9 _ . - and begins with a letter or digit",
            )
        })?;
        if name == DEFAULT || RESERVED.contains(&name) {
            return Err(Error::conflict(format!(
                "operation is not permitted on predefined {name} network"
            )));
        }
        if request.config_only && (request.internal || request.attachable) {
            return Err(Error::invalid(
                "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.",
            )
            .hint("give --internal and --attachable to the network that is made with --config-from"));
        }
        let name = name.to_owned();
        self.add_network(NetworkRequest { name, ..request })
    }

    fn add_network(&self, request: NetworkRequest) -> Result<NetworkRecord> {
        create_private_dir(&self.layout.networks())?;
        // Held until the new one is there: two networks must not choose the same addresses.
        let _lock = Lock::exclusive(&self.layout.networks())?;
        let mut others = self.stored_networks()?;
        if others.iter().any(|other| other.name == request.name) {
            return Err(Error::conflict(format!(
                "network with name {} already exists",
                request.name
            )));
        }
        let request = match &request.config_from {
            Some(from) => request.with_options_of(&self.configuration(from)?)?,
            None => request,
        };
        // Nobody is on those that are options only.
        others.retain(|other| other.config_only.is_none() && !request.config_only);
        for (ip, prefix) in subnets(request.v4, request.v6) {
            if let Some(other) = others.iter().find(|other| other.overlaps(ip, prefix)) {
                return Err(Error::conflict(format!(
                    "invalid pool request: {ip}/{prefix} overlaps with the network {}",
                    other.name
                ))
                .hint("`dhow network ls` and `dhow network inspect` show what is taken"));
            }
        }
        let bridge = request.options.get("com.docker.network.bridge.name");
        let has_bridge = |other: &&NetworkRecord| bridge == Some(&other.bridge());
        if let Some(other) = others.iter().find(has_bridge) {
            return Err(Error::conflict(format!(
                "networks have same bridge name: {} is that of the network {}",
                other.bridge(),
                other.name
            )));
        }
        let id = ContainerId::random()?;
        let wanted = Families {
            v4: request.v4.is_some() || request.v6.is_none() && !request.without_v4,
            v6: request.v6.is_some() || request.ipv6,
        };
        let (mut v4, mut v6) = (request.v4, request.v6);
        if !request.config_only {
            v4 = match v4 {
                None if wanted.v4 => Some(free_subnet(&others)?),
                given => given,
            };
            v6 = v6.or_else(|| wanted.v6.then(|| unique_local(&id)));
        }
        let record = NetworkRecord {
            id,
            name: request.name,
            created: Timestamp::now(),
            driver: match (request.config_only, request.driver.is_empty()) {
                (true, _) => "null".into(),
                (false, true) => "bridge".into(),
                (false, false) => request.driver,
            },
            v4,
            v6,
            internal: request.internal,
            egress: request.egress,
            disable_dns: request.disable_dns,
            dns: request.dns,
            labels: request.labels,
            options: request.options,
            routes: request.routes,
            reserved: request.reserved,
            attachable: request.attachable,
            ipam_options: request.ipam_options,
            config_only: request.config_only.then_some(wanted),
            config_from: request.config_from,
        };
        self.check_driver(&record)?;
        record.check_addresses()?;
        let dir = self.layout.network(&record.name);
        create_private_dir(&dir)?;
        write_json(&dir.join("network.json"), &record, Durability::Synced)?;
        Ok(record)
    }

    /// The options of this name for networks to be made with.
    pub fn configuration(&self, typed: &str) -> Result<NetworkRecord> {
        let found = self.network(typed).ok();
        found.filter(|network| network.config_only.is_some()).ok_or_else(|| {
            Error::not_found(format!("configuration network {typed:?} does not exist"))
                .hint(format!("`dhow network create --config-only {typed}` makes it"))
        })
    }

    /// What a driver other than the bridge asks for.
    fn check_driver(&self, network: &NetworkRecord) -> Result<()> {
        if SharedLink::of(network)?.is_none() {
            return Ok(());
        }
        if self.facts.rootless() {
            return Err(Error::unsupported(format!(
                "networks with --driver {} are for root: they are on a link of the host's",
                network.driver
            ))
            .hint("use --driver bridge"));
        }
        if network.egress.is_some() {
            return Err(Error::unsupported(format!(
                "--egress needs --driver bridge: what leaves by a {} is not seen",
                network.driver
            )));
        }
        Ok(())
    }

    /// The network of this name, or whose id begins so. The default one is made when it is first
    /// asked for.
    pub fn network(&self, typed: &str) -> Result<NetworkRecord> {
        let name = if typed == "default" { DEFAULT } else { typed };
        if check_name(name).is_ok_and(|checked| checked == name)
            && let Some(record) = self.read_network(name)?
        {
            return Ok(record);
        }
        if name == DEFAULT {
            let request = NetworkRequest { name: name.to_owned(), ..NetworkRequest::default() };
            return match self.add_network(request) {
                // Somebody else was first.
                Err(err) if err.kind() == crate::error::Kind::Conflict => {
                    self.read_network(name)?.ok_or(err)
                }
                other => other,
            };
        }
        let mut found = Vec::new();
        if is_hex(name) {
            found = self.stored_networks()?;
            found.retain(|network| network.id.as_str().starts_with(name));
        }
        match (found.pop(), found.is_empty()) {
            (Some(network), true) => Ok(network),
            (Some(_), false) => Err(Error::invalid(format!(
                "network {name} is ambiguous: more than one id begins so"
            ))),
            (None, _) => {
                let hint = match RESERVED.contains(&name) {
                    true => format!("{name} is chosen when a container is made: --network {name}"),
                    false => format!("`dhow network create {name}` makes it"),
                };
                Err(Error::not_found(format!("network {name} not found")).hint(hint))
            }
        }
    }

    fn read_network(&self, name: &str) -> Result<Option<NetworkRecord>> {
        let path = self.layout.network(name).join("network.json");
        read_json_or(&path, || format!("`dhow network rm -f {name}` removes it"))
    }

    fn stored_networks(&self) -> Result<Vec<NetworkRecord>> {
        let entries = match fs::read_dir(self.layout.networks()) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.at(self.layout.networks())?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let records = names.map(|name| self.read_network(&name));
        let mut all: Vec<_> = records.filter_map(Result::transpose).collect::<Result<_>>()?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// All networks, by name.
    pub fn networks(&self) -> Result<Vec<NetworkRecord>> {
        self.network(DEFAULT)?;
        self.stored_networks()
    }

    /// The running containers on a network.
    pub fn connected(&self, network: &str) -> Result<Vec<Connected>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.layout.run_containers()).into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let id: ContainerId = id;
            let paths = self.layout.container(&id);
            let attachment = crate::state::store::read_json::<Attachment>(&paths.network())?;
            let Some(attachment) = attachment else { continue };
            let is_on = |end: &crate::network::attachment::Endpoint| end.segment.network == network;
            if attachment.endpoints.iter().any(is_on)
                && matches!(self.status(&paths), Ok(status) if status.made().is_some())
            {
                let record: Option<ContainerRecord> =
                    crate::state::store::read_json(&paths.record())?;
                let name = record.map(|record| record.name).unwrap_or_default();
                found.push(Connected { id, name, attachment });
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// How a container is connected, while it runs.
    pub(super) fn attachment(&self, id: &ContainerId) -> Attachment {
        let path = self.layout.container(id).network();
        crate::state::store::read_json(&path).ok().flatten().unwrap_or_default()
    }

    /// The ports that a container publishes now.
    pub fn published(&self, id: &ContainerId) -> Result<Vec<Port>> {
        match self.status(&self.layout.container(id))?.made().is_some() {
            true => Ok(self.attachment(id).ports),
            false => Ok(Vec::new()),
        }
    }

    /// Changes the resolvers of a network, and of the containers that run on it.
    pub fn update_network(
        &self,
        typed: &str,
        add: &[IpAddr],
        drop: &[IpAddr],
    ) -> Result<NetworkRecord> {
        let name = self.network(typed)?.name;
        let dir = self.layout.network(&name);
        let lock = Lock::exclusive(&dir)?;
        let mut record = self.network(&name)?;
        if record.disable_dns || record.driver != "bridge" || name == DEFAULT {
            return Err(Error::conflict(format!(
                "network {name} has no name server of its own whose resolvers could be changed"
            ))
            .hint("--dns of `dhow run` chooses those of a container"));
        }
        let before = record.dns.clone();
        record.dns.retain(|ip| !drop.contains(ip));
        for ip in add.iter().filter(|ip| !drop.contains(ip)) {
            if !record.dns.contains(ip) {
                record.dns.push(*ip);
            }
        }
        if record.dns != before {
            write_json(&dir.join("network.json"), &record, Durability::Synced)?;
        }
        std::mem::drop(lock);
        for one in self.connected(&name)? {
            self.follow_resolvers(&one.id)?;
        }
        Ok(record)
    }

    /// Removes a network that no running container is on.
    pub fn remove_network(&self, typed: &str) -> Result<NetworkRecord> {
        let refuse = |name: &str| {
            let why = format!("{name} is a pre-defined network and cannot be removed");
            Err(Error::conflict(why))
        };
        if matches!(typed, "host" | "none") {
            return refuse(typed);
        }
        let record = self.network(typed)?;
        if record.name == DEFAULT {
            return refuse(DEFAULT);
        }
        let dir = self.layout.network(&record.name);
        // Who makes a network with the options of this one holds the first.
        let _all = Lock::exclusive(&self.layout.networks())?;
        let _lock = Lock::exclusive(&dir)?;
        if self
            .stored_networks()?
            .iter()
            .any(|other| other.config_from.as_ref() == Some(&record.name))
        {
            return Err(Error::conflict(format!(
                "configuration network {:?} is in use",
                record.name
            ))
            .hint("networks were made with its options: remove them first"));
        }
        let users = self.connected(&record.name)?;
        if let Some(user) = users.first() {
            return Err(Error::conflict(format!(
                "error while removing network: network {} has active endpoints (name:{:?} id:{:?})",
                record.name,
                user.name,
                user.id.short()
            ))
            .hint(format!("stop {} first", user.name)));
        }
        firewall::forget(&self.layout, &record.name);
        // Gone with one rename, whatever happens while its files are removed.
        create_private_dir(&self.layout.staging())?;
        let doomed = self.layout.staging().join(format!("network-{}", record.id));
        fs::rename(&dir, &doomed).at(&dir).doing("remove")?;
        fs::remove_dir_all(&doomed).at(&doomed).doing("remove")?;
        // Its bridge may be waiting for a container still.
        host::tidy(&self.layout)?.remove()?;
        Ok(record)
    }

    /// Removes networks that no container uses, running or not; what is options only stays.
    pub fn prune_networks(&self, keep: impl Fn(&NetworkRecord) -> bool) -> Result<Vec<String>> {
        let mut used = vec![DEFAULT.to_owned()];
        for entry in fs::read_dir(self.layout.containers()).into_iter().flatten().flatten() {
            let path = entry.path().join("container.json");
            if let Ok(Some(record)) = crate::state::store::read_json::<ContainerRecord>(&path) {
                used.extend(record.host.networks.into_iter().map(|choice| choice.name));
            }
        }
        let mut removed = Vec::new();
        for network in self.stored_networks()? {
            let id = |name: &String| *name == network.name || network.id.as_str().starts_with(name);
            if network.config_only.is_none() && !used.iter().any(id) && !keep(&network) {
                removed.push(self.remove_network(&network.name)?.name);
            }
        }
        Ok(removed)
    }
}

impl NetworkRequest {
    /// The same with the options of `from`, if it has none of its own.
    fn with_options_of(&self, from: &NetworkRecord) -> Result<Self> {
        let own = Self {
            name: self.name.clone(),
            driver: self.driver.clone(),
            internal: self.internal,
            attachable: self.attachable,
            config_from: self.config_from.clone(),
            ..Self::default()
        };
        if self.config_only {
            return Err(Error::invalid(
                "a configuration network cannot depend on another configuration network",
            ));
        }
        if *self != own {
            return Err(Error::invalid(
                "user specified configurations are not supported if the network depends on a configuration network",
            )
            .hint("beside --config-from go --driver, --internal and --attachable"));
        }
        let families = from.families();
        Ok(Self {
            v4: from.v4,
            v6: from.v6,
            ipv6: families.v6,
            without_v4: !families.v4,
            egress: from.egress.clone(),
            disable_dns: from.disable_dns,
            dns: from.dns.clone(),
            labels: from.labels.clone(),
            options: from.options.clone(),
            routes: from.routes.clone(),
            reserved: from.reserved.clone(),
            ipam_options: from.ipam_options.clone(),
            ..own
        })
    }
}

impl NetworkRecord {
    /// Routes and reserved addresses must be of its own subnets.
    fn check_addresses(&self) -> Result<()> {
        let width = |ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 };
        let lost = |what: &str, ip: IpAddr| {
            Error::invalid(format!("no matching subnet for {what} {ip}"))
                .hint("give the --subnet that it is in")
        };
        let gateways = self.routes.iter().map(|route| ("the gateway", route.gateway));
        let reserved = self.reserved.values().map(|ip| ("aux-address", *ip));
        for (what, ip) in gateways.chain(reserved) {
            if !self.overlaps(ip, width(ip)) {
                return Err(lost(what, ip));
            }
        }
        Ok(())
    }

    /// Whether it shares addresses with this network.
    pub fn overlaps(&self, ip: IpAddr, prefix: u8) -> bool {
        subnets(self.v4, self.v6).any(|(own, own_prefix)| overlap((own, own_prefix), (ip, prefix)))
    }
}

fn subnets(
    v4: Option<Pool<Ipv4Addr>>,
    v6: Option<Pool<Ipv6Addr>>,
) -> impl Iterator<Item = (IpAddr, u8)> {
    let v4 = v4.map(|pool| (IpAddr::from(pool.network), pool.prefix));
    v4.into_iter().chain(v6.map(|pool| (IpAddr::from(pool.network), pool.prefix)))
}

fn overlap(a: (IpAddr, u8), b: (IpAddr, u8)) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => v6.into(),
    };
    let shift = 128 - u32::from(a.1.min(b.1));
    a.0.is_ipv4() == b.0.is_ipv4() && bits(a.0).checked_shr(shift) == bits(b.0).checked_shr(shift)
}

/// The first of our subnets that neither another network nor a route of the host's has.
fn free_subnet(others: &[NetworkRecord]) -> Result<Pool<Ipv4Addr>> {
    let mut routes = Netlink::route().doing("open a netlink socket")?;
    let routed = link::routed_networks(&mut routes).doing("list the host's routes")?;
    let subnets =
        (89..=127).flat_map(|second| (0..=240).step_by(16).map(move |third| (second, third)));
    for (second, third) in subnets {
        let network = Ipv4Addr::new(10, second, third, 0);
        let own = (IpAddr::from(network), CHOSEN_PREFIX);
        if !others.iter().any(|other| other.overlaps(own.0, own.1))
            && !routed.iter().any(|route| overlap(own, *route))
        {
            let router = Ipv4Addr::new(10, second, third, 1);
            return Ok(Pool { network, prefix: CHOSEN_PREFIX, router, range: None });
        }
    }
    Err(Error::conflict("all predefined address pools have been fully subnetted")
        .hint("remove networks, or choose one with --subnet"))
}

/// Addresses that no other network has, most likely: 40 bits of its id (RFC 4193, 3.2).
fn unique_local(id: &ContainerId) -> Pool<Ipv6Addr> {
    let digit = |at: usize| u16::from_str_radix(&id.as_str()[at..at + 4], 16).unwrap_or(0);
    let [a, b, c] = [0xfd00 | digit(0) & 0xff, digit(4), digit(8)];
    let at = |last| Ipv6Addr::new(a, b, c, 0, 0, 0, 0, last);
    Pool { network: at(0), prefix: 64, router: at(1), range: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_overlap_in_both_directions_and_never_across_families() {
        let net = |text: &str, prefix| (text.parse::<IpAddr>().expect("an address"), prefix);
        assert!(overlap(net("10.0.0.0", 8), net("10.89.0.0", 20)));
        assert!(overlap(net("10.89.0.0", 20), net("10.0.0.0", 8)));
        assert!(!overlap(net("10.89.0.0", 20), net("10.89.16.0", 20)));
        assert!(overlap(net("fd00::", 64), net("fd00::1", 128)));
        assert!(!overlap(net("::", 1), net("0.0.0.0", 1)));
    }
}
