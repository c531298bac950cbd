//! `--network NAME[:KEY=VALUE,...]`, `--publish`, `--expose` and `--add-host`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use super::{
    boolean, fields,
    namespace::{self, TypedMode},
};
use crate::{
    error::{Error, Result},
    network::{attachment::parse_mac, carrier},
    state::{
        network::{
            Carrier, CarrierProgram, DEFAULT, LinkSysctl, NetworkChoice, Pool, PortRecord, Route,
        },
        record::Mode,
    },
};

/// One `--network`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypedNetwork {
    /// None, the host's, or another container's.
    Mode(TypedMode),
    Network(NetworkChoice),
}

/// A name for a container on its networks.
pub fn alias(text: &str) -> Result<String> {
    let fits = |label: &str| {
        !label.is_empty()
            && label.len() < 64
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if text.len() < 254 && text.split('.').all(fits) {
        return Ok(text.to_owned());
    }
    Err(Error::invalid(format!("{text:?} is not a name that can be looked up"))
        .hint("a name has letters, digits, - and _, and parts of up to 63 of them between dots"))
}

/// `CONTAINER[:ALIAS]`; the container's name is its alias unless another is given.
pub fn link(text: &str) -> Result<(&str, &str)> {
    let (target, name) = text.split_once(':').unwrap_or((text, text));
    let bare = name.trim_start_matches('/');
    if target.is_empty() || bare.contains(':') {
        return Err(Error::invalid(format!("bad format for links: {text}")));
    }
    alias(bare)?;
    Ok((target, bare))
}

/// Docker's `name=NET,ip=A,alias=B`, podman's `NET:ip=A,alias=B`, or a name alone.
pub fn network(text: &str) -> Result<TypedNetwork> {
    if matches!(text, "none" | "host") || text.starts_with("container:") || text.starts_with("ns:")
    {
        return namespace::network(text).map(TypedNetwork::Mode);
    }
    let mut choice = NetworkChoice::default();
    // Podman's word for a namespace of its own; docker takes no word for none.
    if matches!(text, "private" | "") {
        choice.name = DEFAULT.to_owned();
        return Ok(TypedNetwork::Network(choice));
    }
    if let Some(carrier) = carrier(text)? {
        return Ok(TypedNetwork::Mode(TypedMode::Known(Mode::Program(carrier))));
    }
    let options = match text.split_once(':') {
        Some((name, options)) if !name.contains('=') => {
            choice.name = name.to_owned();
            options
        }
        _ if text.contains('=') => text,
        _ => {
            choice.name = text.to_owned();
            ""
        }
    };
    for option in fields(options)?.iter().filter(|option| !option.is_empty()) {
        let invalid = || Error::invalid(format!("invalid network option {option:?} in {text:?}"));
        let (key, value) = option.split_once('=').ok_or_else(invalid)?;
        match key {
            "name" => choice.name = value.to_owned(),
            "alias" => choice.aliases.push(alias(value)?),
            "ip" => choose_ip(&mut choice, value)?,
            "ip6" => choose_ip(&mut choice, value)?,
            "link-local-ip" => choice.link_local.push(address(value)?),
            "mac" | "mac-address" => {
                parse_mac(value)?;
                choice.mac_address = Some(value.to_owned());
            }
            "interface_name" => choice.interface = Some(interface(value)?),
            "driver-opt" => driver_option(&mut choice, value)?,
            "gw-priority" => choice.gateway_priority = value.parse().map_err(|_| invalid())?,
            _ => {
                return Err(invalid()
                    .hint("name, alias, ip, ip6, link-local-ip, mac-address, interface_name, driver-opt and gw-priority are understood"));
            }
        }
    }
    if choice.name.is_empty() {
        return Err(Error::invalid(format!("{text:?} names no network")));
    }
    if choice.name == "default" {
        choice.name = DEFAULT.to_owned();
    }
    Ok(TypedNetwork::Network(choice))
}

/// The name of a link in a container (dev_valid_name in the kernel's net/core/dev.c).
pub fn interface(text: &str) -> Result<String> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    let is_taken = matches!(text, "" | "." | ".." | "lo");
    if is_taken || text.len() > 15 || !text.bytes().all(fits) {
        return Err(Error::invalid(format!("{text:?} cannot be the name of an interface"))
            .hint("it has up to 15 characters, none of them a blank, / : or %, and is not lo"));
    }
    Ok(text.to_owned())
}

/// What docker's bridge is told of one container: `KEY=VALUE`, or several in one.
pub fn driver_options(choice: &mut NetworkChoice, text: &str) -> Result<()> {
    fields(text)?.iter().try_for_each(|option| driver_option(choice, option))
}

fn driver_option(choice: &mut NetworkChoice, text: &str) -> Result<()> {
    match text.split_once('=') {
        Some(("com.docker.network.endpoint.ifname", name)) => {
            choice.interface = Some(interface(name)?);
            Ok(())
        }
        Some(("com.docker.network.endpoint.sysctls", list)) => {
            let sysctls = list.split(',').map(sysctl).collect::<Result<Vec<_>>>()?;
            choice.sysctls.extend(sysctls);
            Ok(())
        }
        _ => Err(Error::invalid(format!("invalid driver option {text:?}"))
            .hint("com.docker.network.endpoint.ifname=NAME names the interface, com.docker.network.endpoint.sysctls=NAME=VALUE sets it")),
    }
}

/// `net.FAMILY.GROUP.IFNAME.KEY=VALUE`; docker's command line may have made the word small.
fn sysctl(text: &str) -> Result<LinkSysctl> {
    let is_plain = |part: &&str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["net", family @ ("ipv4" | "ipv6" | "mpls"), group, "IFNAME" | "ifname", key]
            if [group, key].iter().all(is_plain) && !value.is_empty() =>
        {
            let [family, group, key, value] = [family, group, key, value].map(str::to_owned);
            Ok(LinkSysctl { family, group, key, value })
        }
        _ => Err(Error::invalid(format!(
            "unrecognised network interface sysctl '{text}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
        ))),
    }
}

/// `pasta[:OPTION,...]` and `slirp4netns[:KEY=VALUE,...]`.
fn carrier(text: &str) -> Result<Option<Carrier>> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    let Some(program) = CarrierProgram::ALL.into_iter().find(|program| program.name() == name)
    else {
        return Ok(None);
    };
    let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned);
    let carrier = Carrier { program, options: options.collect() };
    carrier::check(&carrier).map(|()| Some(carrier))
}

/// `--ip` and `--ip6`: an address of either family.
pub fn choose_ip(choice: &mut NetworkChoice, text: &str) -> Result<()> {
    match address(text)? {
        IpAddr::V4(v4) => choice.v4 = Some(v4),
        IpAddr::V6(v6) => choice.v6 = Some(v6),
    }
    Ok(())
}

/// `--dns` and whatever else is an address alone.
pub fn address(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::invalid(format!("{text:?} is not an IP address")))
}

/// `[[IP:][HOST_PORT[-END]]:]PORT[-END][/PROTOCOL]`
pub fn publish(text: &str) -> Result<Vec<PortRecord>> {
    let (rest, protocol) = protocol(text, text)?;
    let (before, container) = match rest.rsplit_once(':') {
        Some((before, container)) => (Some(before), container),
        None => (None, rest),
    };
    let container = range(container, text, "containerPort")?;
    let (ip, host) = match before {
        None => (None, ""),
        Some(before) => split_address(before, text)?,
    };
    let host_ip = ip.map(address).transpose()?;
    let count = container.clone().count();
    if host.is_empty() {
        let one = |container_port| PortRecord {
            protocol: protocol.to_owned(),
            container_port,
            host_ip,
            host_port: None,
            last_port: None,
        };
        return Ok(container.map(one).collect());
    }
    let host = range(host, text, "hostPort")?;
    // Docker: whichever of a range is free, for one port.
    if count == 1 && host.start() != host.end() && *host.start() != 0 {
        return Ok(vec![PortRecord {
            protocol: protocol.to_owned(),
            container_port: *container.start(),
            host_ip,
            host_port: Some(*host.start()),
            last_port: Some(*host.end()),
        }]);
    }
    if host.clone().count() != count {
        return Err(Error::invalid(format!(
            "invalid ranges specified for container and host Ports: {text}"
        )));
    }
    let pairs = host.zip(container);
    let one = |(host_port, container_port)| PortRecord {
        protocol: protocol.to_owned(),
        container_port,
        host_ip,
        host_port: Some(host_port).filter(|port| *port != 0),
        last_port: None,
    };
    Ok(pairs.map(one).collect())
}

/// `[::1]:8080`, `127.0.0.1:8080`, `127.0.0.1:` or `8080`.
fn split_address<'a>(text: &'a str, whole: &str) -> Result<(Option<&'a str>, &'a str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let invalid = || Error::invalid(format!("invalid port specification: {whole:?}"));
        let (ip, behind) = rest.split_once(']').ok_or_else(invalid)?;
        return match behind.strip_prefix(':') {
            Some(port) => Ok((Some(ip), port)),
            None if behind.is_empty() => Ok((Some(ip), "")),
            None => Err(invalid()),
        };
    }
    match text.rsplit_once(':') {
        Some((ip, port)) => Ok((Some(ip), port)),
        // An address alone, as in `127.0.0.1::80` after its last colon was taken.
        None if text.parse::<IpAddr>().is_ok() => Ok((Some(text), "")),
        None => Ok((None, text)),
    }
}

/// `PORT[-END][/PROTOCOL]`, one entry a port.
pub fn expose(text: &str) -> Result<Vec<String>> {
    let (ports, protocol) = protocol(text, text)?;
    Ok(range(ports, text, "port")?.map(|port| format!("{port}/{protocol}")).collect())
}

fn protocol<'a>(text: &'a str, whole: &str) -> Result<(&'a str, &'static str)> {
    match text.split_once('/') {
        None => Ok((text, "tcp")),
        Some((ports, name)) => match name.to_ascii_lowercase().as_str() {
            "tcp" | "" => Ok((ports, "tcp")),
            "udp" => Ok((ports, "udp")),
            "sctp" => Err(Error::unsupported(format!("sctp in {whole:?} is not in this version"))
                .hint("tcp and udp can be published")),
            other => Err(Error::invalid(format!("invalid proto: {other}"))),
        },
    }
}

fn range(text: &str, whole: &str, what: &str) -> Result<RangeInclusive<u16>> {
    let invalid = || Error::invalid(format!("invalid {what}: {text}")).context(whole.to_owned());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let [first, last] = [first, last].map(|port| port.parse::<u16>().map_err(|_| invalid()));
    let (first, last) = (first?, last?);
    if first > last || (first == 0 && what != "hostPort") {
        Err(invalid())
    } else {
        Ok(first..=last)
    }
}

/// One pool a family.
pub type Pools = (Option<Pool<Ipv4Addr>>, Option<Pool<Ipv6Addr>>);

/// `--subnet`, `--gateway` and `--ip-range` of a new network.
pub fn pools(subnets: &[String], gateways: &[String], ranges: &[String]) -> Result<Pools> {
    let (mut v4, mut v6) = (None, None);
    for text in subnets {
        let (ip, prefix) = cidr(text)?;
        let twice = match ip {
            IpAddr::V4(network) => {
                let router = Ipv4Addr::from(u32::from(network) + 1);
                v4.replace(Pool { network, prefix, router, range: None }).is_some()
            }
            IpAddr::V6(network) => {
                let router = Ipv6Addr::from(u128::from(network) + 1);
                v6.replace(Pool { network, prefix, router, range: None }).is_some()
            }
        };
        if twice {
            return Err(Error::unsupported(format!(
                "a network has one subnet of each family, and {text} would be a second one"
            ))
            .hint(
                "make a network for each: a container can be on several (--network A --network B)",
            ));
        }
    }
    let inside = |network: u128, prefix: u8, width: u8, ip: u128| {
        let shift = u32::from(width - prefix);
        network.checked_shr(shift) == ip.checked_shr(shift)
    };
    let lost = |what: &str, text: &str| {
        Error::invalid(format!("no matching subnet for {what} {text}"))
            .hint("give the --subnet that it is in")
    };
    for text in gateways {
        match (address(text)?, &mut v4, &mut v6) {
            (IpAddr::V4(ip), Some(pool), _)
                if inside(
                    u32::from(pool.network).into(),
                    pool.prefix,
                    32,
                    u32::from(ip).into(),
                ) =>
            {
                pool.router = ip;
            }
            (IpAddr::V6(ip), _, Some(pool))
                if inside(pool.network.into(), pool.prefix, 128, ip.into()) =>
            {
                pool.router = ip;
            }
            _ => return Err(lost("gateway", text)),
        }
    }
    for text in ranges {
        // One address is enough.
        match (cidr_of(text, 0)?, &mut v4, &mut v6) {
            ((IpAddr::V4(ip), prefix), Some(pool), _)
                if prefix >= pool.prefix
                    && inside(
                        u32::from(pool.network).into(),
                        pool.prefix,
                        32,
                        u32::from(ip).into(),
                    ) =>
            {
                pool.range = Some((ip, prefix));
            }
            ((IpAddr::V6(ip), prefix), _, Some(pool))
                if prefix >= pool.prefix
                    && inside(pool.network.into(), pool.prefix, 128, ip.into()) =>
            {
                pool.range = Some((ip, prefix));
            }
            _ => return Err(lost("range", text)),
        }
    }
    Ok((v4, v6))
}

/// An address and the length of its prefix, with nothing behind it.
fn cidr(text: &str) -> Result<(IpAddr, u8)> {
    let (ip, prefix) = cidr_of(text, 2)?;
    match prefix {
        0 => Err(invalid_cidr(text)),
        _ => Ok((ip, prefix)),
    }
}

fn invalid_cidr(text: &str) -> Error {
    Error::invalid(format!("invalid CIDR address: {text}"))
        .hint("write an address and a prefix length, as 10.90.0.0/24")
}

/// The same, with as many bits for hosts `least`.
fn cidr_of(text: &str, least: u8) -> Result<(IpAddr, u8)> {
    let invalid = || invalid_cidr(text);
    let (ip, prefix) = text.split_once('/').ok_or_else(invalid)?;
    let ip: IpAddr = ip.parse().map_err(|_| invalid())?;
    let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
    let (width, bits) = match ip {
        IpAddr::V4(v4) => (32, u128::from(u32::from(v4))),
        IpAddr::V6(v6) => (128, u128::from(v6)),
    };
    if prefix > width - least {
        return Err(invalid());
    }
    let free = u32::from(width - prefix);
    let network = bits.checked_shr(free).unwrap_or(0).checked_shl(free).unwrap_or(0);
    if network != bits {
        let first = match ip {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::from(u32::try_from(network).unwrap_or(0))),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::from(network)),
        };
        return Err(Error::invalid(format!(
            "invalid subnet {text}: it should be {first}/{prefix}"
        )));
    }
    Ok((ip, prefix))
}

/// `DESTINATION,GATEWAY[,METRIC]`, podman's.
pub fn route(text: &str) -> Result<Route> {
    let invalid = || {
        Error::invalid(format!("invalid route {text:?}"))
            .hint("write DESTINATION,GATEWAY[,METRIC], as 10.20.0.0/16,10.90.0.5")
    };
    let mut parts = text.split(',');
    let (destination, gateway) = parts.next().zip(parts.next()).ok_or_else(invalid)?;
    let metric = parts.next().map(|metric| metric.parse().map_err(|_| invalid())).transpose()?;
    let (destination, prefix) = cidr_of(destination, 0)?;
    let gateway = address(gateway)?;
    if parts.next().is_some() || destination.is_ipv4() != gateway.is_ipv4() {
        return Err(invalid());
    }
    Ok(Route { destination, prefix, gateway, metric })
}

/// `--aux-address NAME=ADDRESS`
pub fn reserved(text: &str) -> Result<(String, IpAddr)> {
    let invalid =
        || Error::invalid(format!("invalid auxiliary address {text:?}")).hint("write NAME=ADDRESS");
    let (name, ip) = text.split_once('=').ok_or_else(invalid)?;
    Ok((name.to_owned(), address(ip)?))
}

/// `-o KEY=VALUE` of a network: what this version understands.
pub fn option(driver: &str, text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let is_shared = driver != "bridge";
    let links_own = match key {
        "parent" => !value.is_empty() && value.len() < 16,
        "mode" => !value.is_empty(),
        _ => key.strip_suffix("_mode") == Some(driver),
    };
    match key {
        _ if is_shared && links_own => Ok((key.to_owned(), value.to_owned())),
        "mtu" | "com.docker.network.driver.mtu" => match value.parse::<u32>() {
            Ok(68..=65_535) => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::invalid(format!("invalid mtu {value:?}"))),
        },
        "com.docker.network.bridge.enable_icc" if !is_shared => {
            let enabled = boolean(value).ok_or_else(|| {
                Error::invalid(format!("invalid value {value:?} of {key}")).hint("write true or false")
            })?;
            Ok((key.to_owned(), enabled.to_string()))
        }
        _ if !is_shared && bridge_option(key, value)? => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::unsupported(format!("the network option {key} is not in this version"))
            .hint(
                "mtu=N is understood; with a bridge com.docker.network.bridge.name=LINK, .host_binding_ipv4=IP and .enable_icc=false, com.docker.network.container_iface_prefix=WORD and isolate=true; with macvlan and ipvlan parent=LINK and mode=MODE",
            )),
    }
}

/// Whether it is one of docker's and podman's options of a bridge; those that can have one value
/// only here are refused with another.
fn bridge_option(key: &str, value: &str) -> Result<bool> {
    let only = |values: &[&str], why: &str| match values.contains(&value) {
        true => Ok(true),
        false => Err(Error::unsupported(format!("the network option {key}={value}: {why}"))),
    };
    match key {
        "com.docker.network.bridge.name" => interface(value).map(|_| true),
        "com.docker.network.container_iface_prefix" => {
            interface(&format!("{value}99")).map(|_| !value.is_empty())
        }
        "com.docker.network.bridge.host_binding_ipv4" => match value.parse::<Ipv4Addr>() {
            Ok(_) => Ok(true),
            Err(_) => Err(Error::invalid(format!("{value:?} is not an IPv4 address"))),
        },
        "com.docker.network.bridge.enable_ip_masquerade" => {
            only(&["true", "1"], "what leaves a network has the host's address")
        }
        "com.docker.network.bridge.gateway_mode_ipv4"
        | "com.docker.network.bridge.gateway_mode_ipv6" => {
            only(&["nat"], "what leaves a network has the host's address")
        }
        "isolate" => only(&["true", "1", "strict"], "networks are always kept apart"),
        _ => Ok(false),
    }
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`; the address may be `host-gateway`.
pub fn add_host(text: &str) -> Result<String> {
    let invalid = || {
        Error::invalid(format!("bad format for add-host: {text:?}"))
            .hint("write NAME:ADDRESS, or NAME:host-gateway")
    };
    let (name, ip) = text.split_once(['=', ':']).ok_or_else(invalid)?;
    let bare = ip.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(invalid());
    }
    if bare != "host-gateway" {
        bare.parse::<IpAddr>()
            .map_err(|_| Error::invalid(format!("invalid IP address in add-host: {ip:?}")))?;
    }
    Ok(format!("{name}:{bare}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str) -> (Option<String>, Option<u16>, u16, String) {
        let mut all = publish(text).unwrap_or_else(|err| panic!("{text}: {err}"));
        assert_eq!(all.len(), 1, "{text}");
        let one = all.remove(0);
        let ip = one.host_ip.map(|ip| ip.to_string());
        (ip, one.host_port, one.container_port, one.protocol)
    }

    #[test]
    fn ports_are_published_in_dockers_forms() {
        let local = || Some("127.0.0.1".to_owned());
        assert_eq!(port("80"), (None, None, 80, "tcp".into()));
        assert_eq!(port("8080:80"), (None, Some(8080), 80, "tcp".into()));
        assert_eq!(port("127.0.0.1:8080:80/udp"), (local(), Some(8080), 80, "udp".into()));
        assert_eq!(port("127.0.0.1::80"), (local(), None, 80, "tcp".into()));
        assert_eq!(port("[::1]:8080:80"), (Some("::1".into()), Some(8080), 80, "tcp".into()));
        assert_eq!(port("0:80"), (None, None, 80, "tcp".into()));
        let range: Vec<_> = publish("8000-8002:80-82").expect("a range");
        let pairs: Vec<_> = range.iter().map(|p| (p.host_port, p.container_port)).collect();
        assert_eq!(pairs, [(Some(8000), 80), (Some(8001), 81), (Some(8002), 82)]);
        let [one] = &publish("8000-8010:80").expect("one of a range")[..] else { panic!("one") };
        assert_eq!((one.host_port, one.last_port), (Some(8000), Some(8010)));
        for bad in
            ["", "x", "0", "80:x", "1-2:3-5", "3-2:1", "70000", "80/foo", "1:2:3:4", "[::1:80"]
        {
            assert!(publish(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_have_addresses_and_aliases() {
        let choice = |text: &str| match network(text) {
            Ok(TypedNetwork::Network(choice)) => choice,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(choice("default").name, "bridge");
        let long = choice("name=web,ip=10.89.0.9,alias=a,alias=b.c");
        assert_eq!(long, choice("web:ip=10.89.0.9,alias=a,alias=b.c"));
        assert_eq!(long.aliases, ["a", "b.c"]);
        assert_eq!(link("db:/data").ok(), Some(("db", "data")));
        assert_eq!(link("db").ok(), Some(("db", "db")));
        for bad in ["", ":x", "a:b:c", "a:b c"] {
            assert!(link(bad).is_err(), "{bad}");
        }
        assert_eq!(long.v4.map(|v4| v4.octets()[3]), Some(9));
        for bad in [
            "name=",
            "web:ip=x",
            "web:alias=",
            "web:alias=a b",
            "web:foo=1",
            "web:mac=03:00:00:00:00:01",
            "pasta:--netns,/x",
            "slirp4netns:mtu=x",
        ] {
            assert!(network(bad).is_err(), "{bad}");
        }
        assert_eq!(choice("private"), choice("bridge"));
        let options = vec!["--mtu".to_owned(), "1500".to_owned()];
        let carrier = Carrier { program: CarrierProgram::Pasta, options };
        assert_eq!(
            network("pasta:--mtu,1500").ok(),
            Some(TypedNetwork::Mode(TypedMode::Known(Mode::Program(carrier))))
        );
    }

    #[test]
    fn subnets_have_routers_and_ranges() {
        let text = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let all = |subnets: &[&str], gateways: &[&str], ranges: &[&str]| {
            pools(&text(subnets), &text(gateways), &text(ranges))
        };
        let (v4, v6) = all(&["10.90.0.0/24", "fd00:1::/64"], &["10.90.0.9"], &["10.90.0.128/25"])
            .expect("fine");
        let v4 = v4.expect("v4");
        assert_eq!(v4.router, Ipv4Addr::new(10, 90, 0, 9));
        assert_eq!(v4.range, Some((Ipv4Addr::new(10, 90, 0, 128), 25)));
        assert_eq!(v6.map(|pool| pool.router), "fd00:1::1".parse().ok());
        for (subnets, gateways, ranges) in [
            (&["10.90.0.1/24"][..], &[][..], &[][..]),
            (&["10.90.0.0"], &[], &[]),
            (&["10.90.0.0/31"], &[], &[]),
            (&["10.90.0.0/33"], &[], &[]),
            (&["10.90.0.0/24"], &["10.91.0.1"], &[]),
            (&["10.90.0.0/24"], &[], &["10.90.0.0/16"]),
            (&[], &["10.90.0.1"], &[]),
            (&["10.90.0.0/24", "10.91.0.0/24"], &[], &[]),
        ] {
            assert!(all(subnets, gateways, ranges).is_err(), "{subnets:?}{gateways:?}{ranges:?}");
        }
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        assert_eq!(add_host("a:1.2.3.4").ok().as_deref(), Some("a:1.2.3.4"));
        assert_eq!(add_host("a=[::1]").ok().as_deref(), Some("a:::1"));
        assert_eq!(add_host("h:host-gateway").ok().as_deref(), Some("h:host-gateway"));
        for bad in ["a", ":1.2.3.4", "a:b", "a b:1.2.3.4"] {
            assert!(add_host(bad).is_err(), "{bad}");
        }
        assert_eq!(expose("80-81/udp").ok(), Some(vec!["80/udp".into(), "81/udp".into()]));
    }
}
