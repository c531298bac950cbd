//! Connecting a container to its networks.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use super::etc;
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    network::{
        attachment::{
            Attachment, Endpoint, Port, Protocol, Segment, SharedKind, SharedLink, Subnet,
            parse_mac,
        },
        carrier::{self, Carriage},
        client::RoleClient,
        host,
        lease::{self, Wish},
    },
    state::{
        ContainerId, Layout,
        network::{Carrier, DEFAULT, NetworkChoice, NetworkRecord, Pool},
        record::{ContainerRecord, Mode, UserMode},
        store::{Durability, write_json},
    },
    sys::{process::open_pidfd, user::IdMaps},
};

/// A container's networks, ready for it to be connected.
#[derive(Debug)]
pub(super) struct Connection {
    attachment: Attachment,
    /// Names for containers that it has in its `/etc/hosts`.
    linked: Vec<(IpAddr, String)>,
    /// An ordinary user's, or that of a container with an egress policy; otherwise root connects
    /// by itself.
    role: Option<RoleClient>,
    /// A program does it instead.
    carriage: Option<Carriage>,
    in_user_namespace: bool,
    id: ContainerId,
    layout: Layout,
}

impl Engine {
    /// Leases addresses, decides how the container is connected, and finds the network role;
    /// `None` for a container without networks of its own.
    pub(super) fn prepare_networks(&self, record: &ContainerRecord) -> Result<Option<Connection>> {
        match &record.host.namespaces.network {
            Mode::Private => {}
            Mode::Program(carrier) => return self.carried(record, carrier).map(Some),
            Mode::None | Mode::Host | Mode::Container(_) | Mode::Path(_) => return Ok(None),
        }
        let default = [NetworkChoice { name: DEFAULT.into(), ..NetworkChoice::default() }];
        let choices = match record.host.networks.is_empty() {
            true => &default[..],
            false => &record.host.networks,
        };
        let mut attachment = Attachment { names: names(record), ..Attachment::default() };
        attachment.resolvers.clone_from(&record.host.dns);
        let networks =
            choices.iter().map(|choice| self.network(&choice.name)).collect::<Result<Vec<_>>>()?;
        let policies = networks.iter().filter_map(|network| network.egress.clone());
        attachment.egress = record.host.egress.iter().cloned().chain(policies).collect();
        attachment.by_role = self.facts.rootless() || !attachment.egress.is_empty();
        attachment.is_volatile = record.host.auto_remove;
        for (index, (choice, network)) in choices.iter().zip(&networks).enumerate() {
            if record.host.dns.is_empty() {
                attachment.resolvers.extend(&network.dns);
            }
            attachment.endpoints.push(self.endpoint(
                record,
                choice,
                network,
                index,
                attachment.by_role,
            )?);
        }
        check_interfaces(&attachment)?;
        let linked = self.linked(&attachment)?;
        choose_way_out(&mut attachment, choices);
        let binding = networks.iter().find_map(NetworkRecord::host_binding);
        attachment.ports = ports(record, binding)?;
        check_reachable(&attachment)?;
        if !attachment.by_role {
            leave_unreachable_out(&mut attachment)?;
        }
        let maps = self.facts.rootless().then(|| self.facts.id_maps());
        let role = match attachment.by_role {
            true => match RoleClient::open(&self.layout, maps.as_ref()) {
                Ok(role) => Some(role),
                Err(why) => return self.without_role(record, &attachment, why).map(Some),
            },
            false => None,
        };
        Ok(Some(Connection {
            in_user_namespace: maps.is_some(),
            attachment,
            linked,
            role,
            carriage: None,
            id: record.id.clone(),
            layout: self.layout.clone(),
        }))
    }

    /// Only the default network can be had of a program: it knows no neighbours and no policies.
    fn without_role(
        &self,
        record: &ContainerRecord,
        attachment: &Attachment,
        why: Error,
    ) -> Result<Connection> {
        let is_default = |end: &Endpoint| end.segment.network == DEFAULT && end.links.is_empty();
        if !attachment.egress.is_empty() || !attachment.endpoints.iter().all(is_default) {
            return Err(why);
        }
        let said = why.to_string();
        let carrier = carrier::instead_of_role(why)?;
        lease::release(&self.layout.network(DEFAULT), &record.id)?;
        self.carried(record, &carrier).map_err(|err| err.context(said))
    }

    /// The network that a program makes.
    fn carried(&self, record: &ContainerRecord, carrier: &Carrier) -> Result<Connection> {
        let rootless = self.facts.rootless();
        let modes = &record.host.namespaces;
        let joins = |mode: &Mode| matches!(mode, Mode::Container(_) | Mode::Path(_));
        let joins_user = matches!(modes.user, UserMode::Container(_) | UserMode::Path(_));
        if rootless
            && (joins_user
                || [&modes.pid, &modes.ipc, &modes.uts, &modes.cgroup].into_iter().any(joins))
        {
            return Err(Error::unsupported(format!(
                "{} cannot be had by a container that joins another's namespaces",
                carrier.program.name()
            ))
            .hint("leave out one of the two"));
        }
        let carriage = Carriage::prepare(carrier, ports(record, None)?, !rootless)?;
        let attachment = Attachment {
            names: names(record),
            ports: carriage.ports.clone(),
            is_volatile: record.host.auto_remove,
            carried: Some(carriage.carried.clone()),
            ..Attachment::default()
        };
        Ok(Connection {
            attachment,
            linked: Vec::new(),
            role: None,
            carriage: Some(carriage),
            in_user_namespace: rootless,
            id: record.id.clone(),
            layout: self.layout.clone(),
        })
    }

    /// The container's id maps in terms of the network role's user namespace, where its own is
    /// born.
    pub(super) fn maps_within_role(&self, maps: &IdMaps) -> Result<IdMaps> {
        maps.within(&self.facts.id_maps())
            .ok_or_else(|| Error::engine("the container has ids that the network role has not"))
    }

    pub(super) fn endpoint(
        &self,
        record: &ContainerRecord,
        choice: &NetworkChoice,
        network: &NetworkRecord,
        index: usize,
        by_role: bool,
    ) -> Result<Endpoint> {
        if network.config_only.is_some() {
            return Err(Error::conflict(format!(
                "network {} is configuration-only: no container can be on it",
                network.name
            ))
            .hint(format!("`dhow network create --config-from {} NAME` makes one", network.name)));
        }
        let exists = |id: &ContainerId| self.layout.container(id).dir().exists();
        let wish = Wish { v4: choice.v4, v6: choice.v6 };
        let dir = self.layout.network(&network.name);
        let (v4, v6) = lease::lease(&dir, network, &record.id, wish, exists)?;
        let segment = self.segment(network, by_role)?;
        if segment.shared.is_some() && by_role {
            return Err(Error::unsupported(format!(
                "an egress policy cannot be kept on network {}, which is the host's own link",
                network.name
            ))
            .hint("leave the policy out, or use a network with --driver bridge"));
        }
        let mac_address = match &choice.mac_address {
            // Its ends have the parent's.
            None if matches!(&segment.shared, Some(link) if matches!(link.kind, SharedKind::Ipvlan(_))) => {
                String::new()
            }
            Some(mac) => {
                parse_mac(mac)?;
                mac.to_ascii_lowercase().replace('-', ":")
            }
            None => mac_of(v4, &record.id),
        };
        Ok(Endpoint {
            segment,
            interface: choice
                .interface
                .clone()
                .unwrap_or_else(|| format!("{}{index}", network.interface_prefix())),
            v4,
            v6,
            mac_address,
            aliases: choice.aliases.clone(),
            links: choice.links.clone(),
            link_local: choice.link_local.clone(),
            is_default_route: false,
            sysctls: choice.sysctls.clone(),
        })
    }
}

impl Engine {
    /// A network as the bridge has to know it.
    fn segment(&self, network: &NetworkRecord, by_role: bool) -> Result<Segment> {
        let mtu =
            network.options.get("com.docker.network.driver.mtu").or(network.options.get("mtu"));
        let mtu = mtu.map(|text| {
            text.parse()
                .map_err(|_| Error::invalid(format!("invalid mtu {text:?} of {}", network.name)))
        });
        let is_default = network.name == DEFAULT;
        let shared = SharedLink::of(network)?;
        let has_names = !is_default && !network.disable_dns && shared.is_none();
        Ok(Segment {
            network: network.name.clone(),
            bridge: network.bridge(),
            v4: network.v4.map(subnet),
            v6: network.v6.map(subnet),
            is_internal: network.internal,
            has_names,
            // The role is there anyhow, and knows resolvers that no container could reach. Root's
            // name server is started where nothing else will do.
            has_resolver: has_names || is_default && (by_role || etc::host_resolvers().is_empty()),
            mtu: mtu.transpose()?,
            shared,
            routes: network.routes.clone(),
            is_isolated: network.is_isolated(),
        })
    }

    /// The addresses of linked containers where names are not answered: on docker's bridge.
    fn linked(&self, attachment: &Attachment) -> Result<Vec<(IpAddr, String)>> {
        let mut lines = Vec::new();
        for end in attachment.endpoints.iter().filter(|end| !end.segment.has_names) {
            for link in &end.links {
                let other = self.load(&link.container)?.record.name;
                let theirs = self.attachment(&link.container);
                let theirs = theirs
                    .endpoints
                    .iter()
                    .find(|their| their.segment.network == end.segment.network);
                let addresses = theirs.map(|end| end.addresses()).unwrap_or_default();
                if addresses.is_empty() {
                    return Err(Error::conflict(format!(
                        "cannot link to {other}, which does not run on network {}, as {}",
                        end.segment.network, link.alias
                    ))
                    .hint(format!("`dhow start {other}` first, or use a network of your own")));
                }
                let mut names = vec![link.alias.as_str(), link.container.short(), other.as_str()];
                names.dedup();
                lines.extend(addresses.iter().map(|(ip, _)| (*ip, names.join(" "))));
            }
        }
        Ok(lines)
    }
}

impl Connection {
    /// Lines for its `/etc/hosts`.
    pub(super) fn linked(&self) -> &[(IpAddr, String)] {
        &self.linked
    }

    /// How the container is connected.
    pub(super) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Writes it down for whoever connects the container, now or again.
    pub(super) fn write(&self) -> Result<()> {
        let path = self.layout.container(&self.id).network();
        write_json(&path, &self.attachment, Durability::Renamed)
    }

    /// The user namespace that the container's own must be born in, as a path for `launch`.
    pub(super) fn user_namespace(&self) -> Option<PathBuf> {
        let role = self.role.as_ref().filter(|_| self.in_user_namespace);
        let namespace = role?.user_namespace();
        Some(format!("/proc/self/fd/{}", namespace.as_raw_fd()).into())
    }

    /// Connects the network namespace of `init`, which waits for it.
    pub(super) fn attach(&self, init: i32, namespace: Option<BorrowedFd<'_>>) -> Result<()> {
        if self.carriage.is_some() {
            return Ok(());
        }
        let path = format!("/proc/{init}/ns/net");
        let namespace = match namespace {
            Some(namespace) => namespace.try_clone_to_owned().doing("duplicate a descriptor")?,
            None => File::open(&path).at(&path)?.into(),
        };
        let Some(role) = &self.role else {
            let socket = host::attach(&self.layout, &self.id, namespace.as_fd())?;
            // The container does not wait for this: the exec that makes this process the monitor
            // closes it.
            std::mem::forget(socket);
            return Ok(());
        };
        let init = open_pidfd(init).doing("open init")?;
        let ports = role.attach(&self.id, namespace.as_fd(), init.as_fd())?;
        if ports == self.attachment.ports {
            return Ok(());
        }
        let attachment = Attachment { ports, ..self.attachment.clone() };
        write_json(&self.layout.container(&self.id).network(), &attachment, Durability::Renamed)
    }
}

impl Connection {
    /// Has a program connect the network of `init`, whose ids are mapped, if one is to.
    pub(super) fn carry(&self, init: i32) -> Result<()> {
        let Some(carriage) = &self.carriage else { return Ok(()) };
        let paths = self.layout.container(&self.id);
        carriage.start(paths.run_dir(), init, self.in_user_namespace)
    }
}

/// Docker's: of several networks the one with the highest priority leads out, then the first;
/// never an internal one.
pub(super) fn choose_way_out(attachment: &mut Attachment, choices: &[NetworkChoice]) {
    let priority = |end: &Endpoint| {
        let own = choices.iter().find(|choice| choice.name == end.segment.network);
        own.map_or(0, |choice| choice.gateway_priority)
    };
    let best = (attachment.endpoints.iter().enumerate())
        .filter(|(_, end)| !end.segment.is_internal)
        .min_by_key(|(index, end)| (-i64::from(priority(end)), *index));
    let best = best.map(|(index, _)| index);
    for (index, end) in attachment.endpoints.iter_mut().enumerate() {
        end.is_default_route = Some(index) == best;
    }
}

/// A name is one link's only.
pub(super) fn check_interfaces(attachment: &Attachment) -> Result<()> {
    let names: Vec<_> = attachment.endpoints.iter().map(|end| &end.interface).collect();
    match names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
        Some((_, name)) => Err(Error::conflict(format!(
            "two networks of the container have the interface name {name}"
        ))
        .hint("give each a name of its own, or none of them one")),
        None => Ok(()),
    }
}

/// The host itself cannot reach what has ends on its links, so it can publish nothing of it.
fn check_reachable(attachment: &Attachment) -> Result<()> {
    let mut shared = attachment.endpoints.iter().filter(|end| end.segment.shared.is_some());
    let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    match shared.next() {
        Some(end) if !attachment.ports.is_empty() && attachment.target(any).is_none() => {
            Err(Error::unsupported(format!(
                "no port can be published on network {}, which is the host's own link",
                end.segment.network
            ))
            .hint(
                "others on that link reach the container's address as it is; leave --publish out",
            ))
        }
        _ => Ok(()),
    }
}

/// Root's packet rules do not translate between the families of addresses, and lead nowhere from
/// IPv6's loopback address: what was published everywhere is published where it is reached, as by
/// docker without its proxy; an address that was typed is refused.
fn leave_unreachable_out(attachment: &mut Attachment) -> Result<()> {
    let all = std::mem::take(&mut attachment.ports);
    let is_reached = |port: &Port| {
        let target = attachment.target(port.host_ip);
        target.is_none_or(|(_, ip)| ip.is_ipv4() == port.host_ip.is_ipv4())
            && port.host_ip != IpAddr::from(Ipv6Addr::LOCALHOST)
    };
    let (kept, lost): (Vec<Port>, Vec<Port>) = all.into_iter().partition(is_reached);
    let is_everywhere = |port: &Port| {
        let twin = |other: &Port| {
            (other.protocol, other.container_port) == (port.protocol, port.container_port)
        };
        port.host_ip.is_unspecified() && kept.iter().any(twin)
    };
    if let Some(port) = lost.iter().find(|port| !is_everywhere(port)) {
        let (number, kind) = (port.container_port, port.protocol.name());
        return Err(Error::unsupported(format!(
            "publish {number}/{kind} on {}: nothing leads from there to the container's address",
            port.host_ip
        ))
        .hint("publish it on an address of the container's own family that is not ::1; a network has IPv6 by `dhow network create --ipv6`"));
    }
    attachment.ports = kept;
    Ok(())
}

/// Docker's: by what others on its networks find a container, besides its aliases.
pub(super) fn names(record: &ContainerRecord) -> Vec<String> {
    let mut names = vec![record.name.clone(), record.id.short().to_owned()];
    if !names.contains(&record.config.hostname) {
        names.push(record.config.hostname.clone());
    }
    names
}

fn subnet<A>(pool: Pool<A>) -> Subnet<A> {
    Subnet { network: pool.network, prefix: pool.prefix, router: pool.router }
}

/// Docker's rule: an address that keeps its owner. Without IPv4, some of the id.
fn mac_of(v4: Option<Ipv4Addr>, id: &ContainerId) -> String {
    let bytes = v4.map_or_else(
        || {
            let digit = |at| u8::from_str_radix(&id.as_str()[at..at + 2], 16).unwrap_or(0);
            [0, 2, 4, 6].map(digit)
        },
        |v4| v4.octets(),
    );
    let [a, b, c, d] = bytes;
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// What was published, and with `-P` what is exposed, on every address that is meant; on `binding`
/// where no address was typed.
fn ports(record: &ContainerRecord, binding: Option<Ipv4Addr>) -> Result<Vec<Port>> {
    let has_v6 = Path::new("/proc/net/if_inet6").exists();
    let mut ports = Vec::new();
    let mut publish = |protocol: &str,
                       container_port,
                       ip: Option<IpAddr>,
                       host_ports: (Option<u16>, Option<u16>)| {
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => {
                return Err(Error::unsupported(format!("ports of {other} cannot be published"))
                    .hint("tcp and udp can"));
            }
        };
        let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        let all = all.into_iter().filter(|ip| ip.is_ipv4() || has_v6);
        let addresses = match ip.or(binding.map(IpAddr::from)) {
            Some(ip) => vec![ip],
            None => all.collect(),
        };
        let (host_port, last_port) = (host_ports.0.unwrap_or(0), host_ports.1.unwrap_or(0));
        ports.extend(addresses.into_iter().map(|host_ip| Port {
            protocol,
            host_ip,
            host_port,
            last_port,
            container_port,
        }));
        Ok(())
    };
    for port in &record.host.ports {
        let host_ports = (port.host_port, port.last_port);
        publish(&port.protocol, port.container_port, port.host_ip, host_ports)?;
    }
    if record.host.publish_all {
        for exposed in &record.config.exposed_ports {
            let (port, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
            let taken = |given: &&crate::state::network::PortRecord| {
                given.container_port.to_string() == port && given.protocol == protocol
            };
            if record.host.ports.iter().any(|given| taken(&given)) {
                continue;
            }
            let port =
                port.parse().map_err(|_| Error::invalid(format!("invalid port {exposed:?}")))?;
            publish(protocol, port, None, (None, None))?;
        }
    }
    Ok(ports)
}
