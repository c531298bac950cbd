//! Connecting a container to its networks.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    network::{
        attachment::{Attachment, Endpoint, Port, Protocol, Segment, Subnet, parse_mac},
        client::RoleClient,
        host,
        lease::{self, Wish},
    },
    state::{
        ContainerId, Layout,
        network::{DEFAULT, NetworkChoice, NetworkRecord, Pool},
        record::{ContainerRecord, Mode},
        store::{Durability, write_json},
    },
    sys::{process::open_pidfd, user::IdMaps},
};

/// A container's networks, ready for it to be connected.
#[derive(Debug)]
pub(super) struct Connection {
    attachment: Attachment,
    /// An ordinary user's; root connects by itself.
    role: Option<RoleClient>,
    id: ContainerId,
    layout: Layout,
}

impl Engine {
    /// Leases addresses, decides how the container is connected, and finds the network role;
    /// `None` for a container without networks of its own.
    pub(super) fn prepare_networks(&self, record: &ContainerRecord) -> Result<Option<Connection>> {
        if record.host.namespaces.network != Mode::Private {
            return Ok(None);
        }
        let default = [NetworkChoice { name: DEFAULT.into(), ..NetworkChoice::default() }];
        let choices = match record.host.networks.is_empty() {
            true => &default[..],
            false => &record.host.networks,
        };
        let mut attachment =
            Attachment { names: vec![record.name.clone()], ..Attachment::default() };
        for (index, choice) in choices.iter().enumerate() {
            let endpoint = self.endpoint(record, choice, index)?;
            attachment.endpoints.push(endpoint);
        }
        // Docker: of several networks the first by name leads out, unless it is internal.
        let way_out = attachment.endpoints.iter_mut().find(|end| !end.segment.is_internal);
        if let Some(end) = way_out {
            end.is_default_route = true;
        }
        attachment.ports = ports(record)?;
        let role = match self.facts.rootless() {
            true => Some(RoleClient::open(&self.layout, &self.facts.id_maps())?),
            false => None,
        };
        Ok(Some(Connection {
            attachment,
            role,
            id: record.id.clone(),
            layout: self.layout.clone(),
        }))
    }

    /// The container's id maps in terms of the network role's user namespace, where its own is
    /// born.
    pub(super) fn maps_within_role(&self, maps: &IdMaps) -> Result<IdMaps> {
        maps.within(&self.facts.id_maps())
            .ok_or_else(|| Error::engine("the container has ids that the network role has not"))
    }

    fn endpoint(
        &self,
        record: &ContainerRecord,
        choice: &NetworkChoice,
        index: usize,
    ) -> Result<Endpoint> {
        let network = self.network(&choice.name)?;
        let exists = |id: &ContainerId| self.layout.container(id).dir().exists();
        let wish = Wish { v4: choice.v4, v6: choice.v6 };
        let dir = self.layout.network(&network.name);
        let (v4, v6) = lease::lease(&dir, &network, &record.id, wish, exists)?;
        let mac_address = match &choice.mac_address {
            Some(mac) => {
                parse_mac(mac)?;
                mac.to_ascii_lowercase().replace('-', ":")
            }
            None => mac_of(v4, &record.id),
        };
        Ok(Endpoint {
            segment: segment(&network)?,
            interface: format!("eth{index}"),
            v4,
            v6,
            mac_address,
            aliases: choice.aliases.clone(),
            is_default_route: false,
        })
    }
}

impl Connection {
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
        let namespace = self.role.as_ref()?.user_namespace();
        Some(format!("/proc/self/fd/{}", namespace.as_raw_fd()).into())
    }

    /// Connects the network namespace of `init`, which waits for it.
    pub(super) fn attach(&self, init: i32) -> Result<()> {
        let path = format!("/proc/{init}/ns/net");
        let namespace = File::open(&path).at(&path)?;
        let Some(role) = &self.role else {
            return host::attach(&self.layout, &self.id, namespace.as_fd());
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

/// A network as the bridge has to know it.
fn segment(network: &NetworkRecord) -> Result<Segment> {
    let mtu = network.options.get("com.docker.network.driver.mtu").or(network.options.get("mtu"));
    let mtu = mtu.map(|text| {
        text.parse()
            .map_err(|_| Error::invalid(format!("invalid mtu {text:?} of {}", network.name)))
    });
    Ok(Segment {
        network: network.name.clone(),
        bridge: match network.name == DEFAULT {
            true => "dhow0".into(),
            false => format!("br-{}", network.id.short()),
        },
        v4: network.v4.map(subnet),
        v6: network.v6.map(subnet),
        is_internal: network.internal,
        has_names: network.name != DEFAULT && !network.disable_dns,
        mtu: mtu.transpose()?,
    })
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

/// What was published, and with `-P` what is exposed, on every address that is meant.
fn ports(record: &ContainerRecord) -> Result<Vec<Port>> {
    let has_v6 = Path::new("/proc/net/if_inet6").exists();
    let mut ports = Vec::new();
    let mut publish = |protocol: &str,
                       container_port,
                       ip: Option<IpAddr>,
                       host_port: Option<u16>| {
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
        let addresses = ip.map_or_else(|| all.collect(), |ip| vec![ip]);
        let host_port = host_port.unwrap_or(0);
        ports.extend(addresses.into_iter().map(|host_ip| Port {
            protocol,
            host_ip,
            host_port,
            container_port,
        }));
        Ok(())
    };
    for port in &record.host.ports {
        publish(&port.protocol, port.container_port, port.host_ip, port.host_port)?;
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
            publish(protocol, port, None, None)?;
        }
    }
    Ok(ports)
}
