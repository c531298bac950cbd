//! A container's networks, as `inspect` tells them.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::{
    engine::{
        Engine,
        container::{Status, list::network_name},
    },
    network::attachment::{Attachment, Endpoint},
    state::{
        network::{DEFAULT, NetworkChoice},
        record::{ContainerRecord, HostConfig, Mode},
    },
};

/// Docker's `NetworkMode`.
pub(super) fn mode_name(host: &HostConfig) -> String {
    match &host.namespaces.network {
        Mode::Private => host.networks.first().map_or(DEFAULT, |choice| &choice.name).to_owned(),
        mode
        @ (Mode::None | Mode::Host | Mode::Container(_) | Mode::Path(_) | Mode::Program(_)) => {
            super::mode(mode, "default")
        }
    }
}

/// Docker's `PortBindings`: what was asked for.
pub(super) fn port_bindings(host: &HostConfig) -> Value {
    let mut bindings: Map<String, Value> = Map::new();
    for port in &host.ports {
        let key = format!("{}/{}", port.container_port, port.protocol);
        let binding = json!({
            "HostIp": port.host_ip.map_or_else(String::new, |ip| ip.to_string()),
            "HostPort": match (port.host_port, port.last_port) {
                (Some(first), Some(last)) => format!("{first}-{last}"),
                (Some(port), None) => port.to_string(),
                (None, _) => String::new(),
            },
        });
        push(&mut bindings, key, binding);
    }
    Value::Object(bindings)
}

fn push(all: &mut Map<String, Value>, key: String, value: Value) {
    match all.get_mut(&key) {
        Some(Value::Array(list)) => list.push(value),
        _ => drop(all.insert(key, json!([value]))),
    }
}

impl Engine {
    pub(super) fn network_settings(&self, record: &ContainerRecord, status: &Status) -> Value {
        let attachment = match status.made().is_some() {
            true => self.attachment(&record.id),
            false => Attachment::default(),
        };
        let mut networks = Map::new();
        if let Some(mode) = network_name(&record.host.namespaces.network) {
            networks.insert(mode.to_owned(), endpoint(None, None, ""));
        }
        if record.host.namespaces.network == Mode::Private && attachment.endpoints.is_empty() {
            for choice in &record.host.networks {
                networks.insert(choice.name.clone(), endpoint(Some(choice), None, ""));
            }
            if record.host.networks.is_empty() {
                networks.insert(DEFAULT.to_owned(), endpoint(None, None, ""));
            }
        }
        for end in &attachment.endpoints {
            let id = self.network(&end.segment.network).map(|network| network.id.to_string());
            let mut choices = record.host.networks.iter();
            let choice = choices.find(|choice| choice.name == end.segment.network);
            let mut described = endpoint(choice, Some(end), &id.unwrap_or_default());
            if end.segment.has_names {
                described["DNSNames"] = json!(dns_names(&attachment, end));
            }
            if !end.links.is_empty() {
                let links = end.links.iter();
                let text = links.map(|link| format!("{}:{}", link.container.short(), link.alias));
                described["Links"] = json!(text.collect::<Vec<_>>());
            }
            networks.insert(end.segment.network.clone(), described);
        }
        let mut ports = Map::new();
        for port in &attachment.ports {
            let key = format!("{}/{}", port.container_port, port.protocol.name());
            let binding = json!({
                "HostIp": port.host_ip.to_string(),
                "HostPort": port.host_port.to_string(),
            });
            push(&mut ports, key, binding);
        }
        if status.made().is_some() {
            for exposed in &record.config.exposed_ports {
                ports.entry(exposed.clone()).or_insert(Value::Null);
            }
        }
        // Docker fills these in for its default network only.
        let first = attachment.endpoints.iter().find(|end| end.segment.network == DEFAULT);
        let fields = addresses(first);
        let mut settings = json!({
            "Bridge": "", "SandboxID": "", "SandboxKey": "", "Ports": ports,
            "HairpinMode": false, "EndpointID": "", "Networks": networks,
        });
        if let (Value::Object(settings), Value::Object(fields)) = (&mut settings, fields) {
            settings.extend(fields);
        }
        settings
    }
}

/// Docker's order: the name, aliases, the id, the host name.
fn dns_names<'a>(attachment: &'a Attachment, end: &'a Endpoint) -> Vec<&'a String> {
    let (name, others) = attachment.names.split_at(attachment.names.len().min(1));
    let mut names: Vec<&String> = Vec::new();
    for name in name.iter().chain(&end.aliases).chain(others) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What was chosen for a container on a network, and what it has there while it runs.
fn endpoint(choice: Option<&NetworkChoice>, end: Option<&Endpoint>, network: &str) -> Value {
    let aliases = choice.map(|choice| &choice.aliases).filter(|aliases| !aliases.is_empty());
    let mut described = json!({
        "IPAMConfig": choice.map_or(Value::Null, chosen_addresses), "Links": null,
        "Aliases": aliases, "DriverOpts": choice.map_or(Value::Null, driver_options),
        "GwPriority": choice.map_or(0, |choice| choice.gateway_priority),
        "NetworkID": network, "EndpointID": "", "DNSNames": null,
    });
    if let (Value::Object(described), Value::Object(fields)) = (&mut described, addresses(end)) {
        described.extend(fields);
    }
    described
}

/// Docker's `IPAMConfig`.
fn chosen_addresses(choice: &NetworkChoice) -> Value {
    let mut chosen = Map::new();
    let addresses = [
        ("IPv4Address", choice.v4.map(IpAddr::from)),
        ("IPv6Address", choice.v6.map(IpAddr::from)),
    ];
    for (field, address) in addresses {
        address.map(|address| chosen.insert(field.into(), json!(address)));
    }
    if !choice.link_local.is_empty() {
        chosen.insert("LinkLocalIPs".into(), json!(choice.link_local));
    }
    if chosen.is_empty() { Value::Null } else { chosen.into() }
}

/// Docker's `DriverOpts`.
fn driver_options(choice: &NetworkChoice) -> Value {
    let sysctls: Vec<_> = choice.sysctls.iter().map(ToString::to_string).collect();
    let options = [
        ("com.docker.network.endpoint.ifname", choice.interface.clone()),
        (
            "com.docker.network.endpoint.sysctls",
            Some(sysctls.join(",")).filter(|sysctls| !sysctls.is_empty()),
        ),
    ];
    let options: Map<_, _> = (options.into_iter())
        .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
        .collect();
    if options.is_empty() { Value::Null } else { options.into() }
}

fn addresses(end: Option<&Endpoint>) -> Value {
    let of = |is_v4: bool| {
        let all = end.map(Endpoint::addresses).unwrap_or_default();
        all.into_iter().find(|(ip, _)| ip.is_ipv4() == is_v4)
    };
    let router = |is_v4: bool| {
        let all = end.map(|end| end.segment.routers()).unwrap_or_default();
        all.into_iter().find(|(ip, _)| ip.is_ipv4() == is_v4).map(|(ip, _)| ip)
    };
    let text = |ip: Option<IpAddr>| ip.map_or_else(String::new, |ip| ip.to_string());
    let (v4, v6) = (of(true), of(false));
    json!({
        "MacAddress": end.map_or("", |end| &end.mac_address),
        "Gateway": text(router(true)),
        "IPAddress": text(v4.map(|(ip, _)| ip)),
        "IPPrefixLen": v4.map_or(0, |(_, prefix)| prefix),
        "IPv6Gateway": text(router(false)),
        "GlobalIPv6Address": text(v6.map(|(ip, _)| ip)),
        "GlobalIPv6PrefixLen": v6.map_or(0, |(_, prefix)| prefix),
    })
}
