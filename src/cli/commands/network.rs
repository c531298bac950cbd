//! `network` and its verbs, and `port`.

use std::{collections::BTreeMap, process::ExitCode};

use serde_json::{Map, Value, json};

use super::super::{
    args::{
        life::Port,
        network::{Create, Exists, Inspect, Log, Prune, Rm},
    },
    exit,
    output::{
        self,
        table::{Row, listing},
        template::{Template, View},
        units,
    },
    prompt,
    value::{env, network},
};
use super::{container::remove_users, create::list, networks::Shown, prune};
use crate::{
    engine::{Engine, container::list::Query, network::NetworkRequest},
    error::{Error, Kind, Result},
    state::egress::{EgressEntry, EgressPolicy},
    state::network::{NetworkRecord, Route},
};

pub fn create(engine: &Engine, args: &Create) -> Result<ExitCode> {
    match args.driver.as_str() {
        known if DRIVERS.contains(&known) => {}
        "overlay" => {
            return Err(Error::unsupported(
                "overlay: networks of several hosts belong to a cluster's engine",
            )
            .hint(
                "run the image under containerd/Kubernetes, whose network plugins (CNI) do it; on one host --driver bridge",
            ));
        }
        other => return Err(Error::not_found(format!("could not find plugin {other}"))),
    }
    if args.ignore
        && let Ok(there) = engine.network(&args.name)
    {
        output::print(&format!("{}\n", there.id))?;
        return Ok(ExitCode::SUCCESS);
    }
    let pools = network::pools(&args.subnet, &args.gateway, &args.ip_range)?;
    check_ipam(args)?;
    check_scope(args.scope.as_deref())?;
    let ipam_options = args.ipam_opt.iter().map(|text| env::label(text)).collect::<Result<_>>()?;
    let labels = args.label.iter().map(|label| env::label(label)).collect::<Result<_>>()?;
    let record = engine.create_network(NetworkRequest {
        egress: EgressPolicy::parse(&args.egress)?,
        name: args.name.clone(),
        v4: pools.0,
        v6: pools.1,
        ipv6: args.ipv6,
        internal: args.internal,
        disable_dns: args.disable_dns,
        dns: list("--dns", &args.dns, network::address)?,
        labels,
        options: options(engine, args)?,
        driver: args.driver.clone(),
        without_v4: !args.ipv4,
        routes: list("--route", &args.route, network::route)?,
        reserved: list("--aux-address", &args.aux_address, network::reserved)?
            .into_iter()
            .collect(),
        attachable: args.attachable,
        ipam_options,
        config_only: args.config_only,
        config_from: args.config_from.clone(),
    })?;
    output::print(&format!("{}\n", record.id))?;
    Ok(ExitCode::SUCCESS)
}

const DRIVERS: [&str; 3] = ["bridge", "macvlan", "ipvlan"];

/// What the driver is told; with `--config-only`, what any of them can be told.
fn options(engine: &Engine, args: &Create) -> Result<BTreeMap<String, String>> {
    let parent = args.interface_name.as_ref().map(|name| format!("parent={name}"));
    let read = |text: &String| {
        let own = network::option(&args.driver, text);
        let others = DRIVERS.iter().filter(|_| args.config_only);
        others.map(|driver| network::option(driver, text)).find(Result::is_ok).unwrap_or(own)
    };
    if let Some(from) = &args.config_from {
        for (key, value) in engine.configuration(from)?.options {
            network::option(&args.driver, &format!("{key}={value}"))
                .map_err(|err| err.context(format!("use the options of {from}")))?;
        }
    }
    args.opt.iter().chain(&parent).map(read).collect()
}

/// Every network is of this host only.
fn check_scope(scope: Option<&str>) -> Result<()> {
    match scope {
        None | Some("" | "local") => Ok(()),
        Some("swarm" | "global") => Err(Error::unsupported(
            "--scope: networks of several hosts belong to a cluster's engine",
        )
        .hint("containerd/Kubernetes runs the same images; here every network is local")),
        Some(other) => {
            Err(Error::invalid(format!("invalid scope {other:?}: every network is local")))
        }
    }
}

/// Addresses are ours to give, of one family at least.
fn check_ipam(args: &Create) -> Result<()> {
    match args.ipam_driver.as_deref() {
        None | Some("default" | "host-local" | "") => {}
        Some("dhcp" | "none") => {
            return Err(Error::unsupported(
                "--ipam-driver: a container's addresses are leased by dhow, and not asked of others",
            )
            .hint("--ip-range says which are dhow's to give"));
        }
        Some(other) => {
            return Err(Error::not_found(format!("could not find plugin {other}")));
        }
    }
    let has_v4 = args.subnet.iter().any(|subnet| !subnet.contains(':'));
    match (args.ipv4, args.ipv6 || args.subnet.iter().any(|subnet| subnet.contains(':'))) {
        (false, false) => {
            Err(Error::invalid("IPv4 or IPv6 must be enabled: add --ipv6 to --ipv4=false"))
        }
        (false, true) if has_v4 => Err(Error::invalid("--ipv4=false goes with no IPv4 --subnet")),
        _ => Ok(()),
    }
}

pub fn inspect(engine: &Engine, args: &Inspect) -> Result<ExitCode> {
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    let template = format.filter(|format| *format != "json").map(Template::parse).transpose()?;
    let (mut found, mut lines, mut failed) = (Vec::new(), String::new(), false);
    for name in &args.names {
        match (description(engine, name), &template) {
            (Ok(document), None) => found.push(document),
            (Ok(document), Some(template)) => {
                let view = View { strict: true, ..View::default() };
                lines.push_str(&(template.render(&document, view)? + "\n"));
            }
            (Err(err), _) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    output::print(&match (template, format) {
        (Some(_), _) => lines,
        (None, Some(_)) => serde_json::to_string(&found)? + "\n",
        (None, None) => super::inspect::indented(&found)?,
    })?;
    Ok(exit::code(failed.into()))
}

/// What `inspect` says of the network of this name.
pub(super) fn description(engine: &Engine, name: &str) -> Result<Value> {
    match Shown::mode(name) {
        Some(mode) => mode.describe(engine),
        None => describe(engine, &engine.network(name)?),
    }
}

fn describe(engine: &Engine, record: &NetworkRecord) -> Result<Value> {
    let mut config = Vec::new();
    if let Some(pool) = &record.v4 {
        config.push(subnet(pool.network, pool.prefix, pool.router, pool.range));
    }
    if let Some(pool) = &record.v6 {
        config.push(subnet(pool.network, pool.prefix, pool.router, pool.range));
    }
    for (name, ip) in &record.reserved {
        let of_family = |config: &&mut Value| {
            config["Gateway"].as_str().is_some_and(|gateway| gateway.contains(':') == ip.is_ipv6())
        };
        if let Some(config) = config.iter_mut().find(of_family) {
            config["AuxiliaryAddresses"][name] = json!(ip);
        }
    }
    let mut containers = Map::new();
    for one in engine.connected(&record.name)? {
        let ends = one.attachment.endpoints.iter();
        for end in ends.filter(|end| end.segment.network == record.name) {
            let with_prefix = |is_v4: bool| {
                let all = end.addresses();
                let found = all.iter().find(|(ip, _)| ip.is_ipv4() == is_v4);
                found.map_or(String::new(), |(ip, prefix)| format!("{ip}/{prefix}"))
            };
            let entry = json!({
                "Name": one.name,
                "EndpointID": "",
                "MacAddress": end.mac_address,
                "IPv4Address": with_prefix(true),
                "IPv6Address": with_prefix(false),
            });
            containers.insert(one.id.to_string(), entry);
        }
    }
    let mut described = json!({
        "Name": record.name,
        "Id": record.id,
        "Created": record.created,
        "Scope": "local",
        "Driver": record.driver,
        "EnableIPv4": record.families().v4,
        "EnableIPv6": record.families().v6,
        "IPAM": { "Driver": "default", "Options": record.ipam_options, "Config": config },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": record.config_from.as_deref().unwrap_or_default() },
        "ConfigOnly": record.config_only.is_some(),
        "Containers": containers,
        "Options": record.options,
        "Labels": record.labels,
    });
    if !record.routes.is_empty() {
        let route = |route: &Route| {
            let destination = format!("{}/{}", route.destination, route.prefix);
            let mut shown = json!({ "destination": destination, "gateway": route.gateway });
            if let Some(metric) = route.metric {
                shown["metric"] = json!(metric);
            }
            shown
        };
        described["Routes"] = record.routes.iter().map(route).collect();
    }
    if !record.dns.is_empty() {
        described["DNS"] = json!(record.dns);
    }
    if let Some(policy) = &record.egress {
        described["Egress"] = json!(policy.typed());
    }
    Ok(described)
}

fn subnet<A: std::fmt::Display>(
    network: A,
    prefix: u8,
    router: A,
    range: Option<(A, u8)>,
) -> Value {
    let mut config = json!({ "Subnet": format!("{network}/{prefix}") });
    if let Some((first, prefix)) = range {
        config["IPRange"] = json!(format!("{first}/{prefix}"));
    }
    config["Gateway"] = json!(router.to_string());
    config
}

pub fn rm(engine: &Engine, args: &Rm) -> Result<ExitCode> {
    let mut failed = false;
    for name in &args.names {
        if args.time.is_some() {
            failed |= !remove_users(engine, "network", name, args.time)?;
        }
        match engine.remove_network(name) {
            Ok(_) => output::print(&format!("{name}\n"))?,
            Err(err) if args.force && err.kind() == Kind::NotFound => {}
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}

pub fn prune(engine: &Engine, args: &Prune) -> Result<ExitCode> {
    let filters = prune::filters(&args.filter)?;
    let warning = "This will remove all custom networks not used by at least one container.";
    if !args.force && !prompt::agrees(warning)? {
        return Ok(ExitCode::SUCCESS);
    }
    let removed = engine
        .prune_networks(|network| !prune::admits(&filters, &network.labels, network.created))?;
    output::print(&tell(&removed))?;
    Ok(ExitCode::SUCCESS)
}

/// What was pruned, in docker's words.
pub(super) fn tell(removed: &[String]) -> String {
    if removed.is_empty() {
        return String::new();
    }
    let names: String = removed.iter().map(|name| format!("{name}\n")).collect();
    format!("Deleted Networks:\n{names}\n")
}

pub fn exists(engine: &Engine, args: &Exists) -> Result<ExitCode> {
    match engine.network(&args.name) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(err) if err.kind() == Kind::NotFound => Ok(ExitCode::FAILURE),
        Err(err) => Err(err),
    }
}

const LOGGED: &str = "{{.Verdict}}\t{{.Protocol}}\t{{.Name}}\t{{.Address}}\t{{.Port}}\t{{.Count}}\t{{.Sent}}\t{{.Received}}\t{{.Last}}";
const LOG_HEADERS: [(&str, &str); 10] = [
    ("Verdict", "VERDICT"),
    ("Protocol", "PROTOCOL"),
    ("Name", "NAME"),
    ("Address", "ADDRESS"),
    ("Port", "PORT"),
    ("Count", "COUNT"),
    ("Sent", "SENT"),
    ("Received", "RECEIVED"),
    ("First", "FIRST"),
    ("Last", "LAST"),
];

/// `network log`: a line for each place; JSON has numbers as numbers.
pub fn log(engine: &Engine, args: &Log) -> Result<ExitCode> {
    let id = engine.find(&args.container)?;
    let log = engine.egress_log(&id)?;
    let as_json = args.format.as_deref() == Some("json");
    let rows: Vec<Row> = log.entries.iter().map(|entry| logged(entry, as_json)).collect();
    let mut text = Vec::new();
    listing(&rows, args.format.as_deref(), LOGGED, &LOG_HEADERS, &mut text)?;
    output::print(&String::from_utf8_lossy(&text))?;
    if log.unlisted > 0 {
        let more = format!("{} more attempts went to places that are not listed", log.unlisted);
        exit::warn(&Error::engine(more));
    }
    Ok(ExitCode::SUCCESS)
}

fn logged(entry: &EgressEntry, as_json: bool) -> Row {
    let number = |value: u64| match as_json {
        true => json!(value),
        false => json!(value.to_string()),
    };
    let size = |bytes: u64| match as_json {
        true => json!(bytes),
        false => json!(units::human_size(bytes)),
    };
    let moment = |at: jiff::Timestamp| json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let fields = [
        ("Verdict", json!(if entry.allowed { "allowed" } else { "refused" })),
        ("Protocol", json!(entry.protocol.name())),
        ("Name", json!(entry.name)),
        ("Address", json!(entry.address.map_or(String::new(), |ip| ip.to_string()))),
        ("Port", number(entry.port.into())),
        ("Count", number(entry.count)),
        ("Sent", size(entry.sent)),
        ("Received", size(entry.received)),
        ("First", moment(entry.first)),
        ("Last", moment(entry.last)),
    ];
    let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Row { fields, labels: BTreeMap::new() }
}

/// A line in its parts, numbers among them: docker sorts 90 in front of 100.
fn natural(line: &str) -> Vec<(String, u64)> {
    let mut parts = vec![(String::new(), 0_u64)];
    let mut was_digit = false;
    for c in line.chars() {
        if !c.is_ascii_digit() && was_digit {
            parts.push((String::new(), 0));
        }
        was_digit = c.is_ascii_digit();
        if let Some((text, number)) = parts.last_mut() {
            match c.to_digit(10) {
                Some(digit) => *number = number.saturating_mul(10).saturating_add(digit.into()),
                None => text.push(c),
            }
        }
    }
    parts
}

/// Podman's `port --all`.
fn all_ports(engine: &Engine) -> Result<ExitCode> {
    let mut text = String::new();
    for one in engine.containers(&Query::default())?.containers {
        for port in &one.ports {
            let at = std::net::SocketAddr::new(port.host_ip, port.host_port);
            let (id, number, kind) = (one.id.short(), port.container_port, port.protocol.name());
            text.push_str(&format!("{id}\t{number}/{kind} -> {at}\n"));
        }
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// `port`: docker's lines.
pub fn port(engine: &Engine, args: &Port) -> Result<ExitCode> {
    if args.all {
        return all_ports(engine);
    }
    let (id, port) = match (&args.container, args.latest) {
        // The one word is the port then.
        (port, true) => (engine.newest()?, port.as_ref()),
        (Some(container), false) => (engine.find(container)?, args.port.as_ref()),
        (None, false) => return Err(Error::invalid("\"dhow port\" requires a container")),
    };
    let ports = engine.published(&id)?;
    let at = |port: &crate::network::attachment::Port| {
        std::net::SocketAddr::new(port.host_ip, port.host_port).to_string()
    };
    let full = |port: &crate::network::attachment::Port| {
        format!("{}/{}", port.container_port, port.protocol.name())
    };
    let text: String = match port {
        None => {
            let mut lines: Vec<_> =
                ports.iter().map(|port| format!("{} -> {}\n", full(port), at(port))).collect();
            lines.sort_by_cached_key(|line| natural(line));
            lines.concat()
        }
        Some(wanted) => {
            let wanted = match wanted.contains('/') {
                true => wanted.clone(),
                false => format!("{wanted}/tcp"),
            };
            let found: String = (ports.iter().filter(|port| full(port) == wanted))
                .map(|port| at(port) + "\n")
                .collect();
            if found.is_empty() {
                return Err(Error::not_found(format!(
                    "no public port '{wanted}' published for {}",
                    args.container.as_deref().filter(|_| !args.latest).unwrap_or(id.short())
                )));
            }
            found
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
