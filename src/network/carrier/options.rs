//! What the programs are told: podman's words for them, and dhow's defaults, which are podman's.

use std::net::{IpAddr, Ipv4Addr};

use super::RESOLVER;
use crate::{
    error::{Error, Result},
    network::attachment::{HOST_ADDRESS, Port, Protocol},
    state::network::{Carrier, CarrierProgram},
};

/// slirp4netns's most, and podman's default for both.
const MTU_MAX: u32 = 65_521;
const MTU: u32 = 65_520;

/// Refuses what cannot be meant, before there is a container.
pub fn check(carrier: &Carrier) -> Result<()> {
    match carrier.program {
        CarrierProgram::Pasta => pasta(&carrier.options, &[], true).map(drop),
        CarrierProgram::Slirp4netns => Slirp::parse(&carrier.options).map(drop),
    }
}

/// pasta's arguments, and what follows from them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pasta {
    pub words: Vec<String>,
    pub own: Option<IpAddr>,
    pub host: Option<IpAddr>,
    pub resolver: Option<IpAddr>,
}

/// What belongs to the start itself.
const NOT_FOR_PASTA: [&str; 14] = [
    "--netns",
    "--netns-only",
    "--no-netns-quit",
    "--userns",
    "--runas",
    "--pid",
    "-P",
    "--foreground",
    "-f",
    "--config-net",
    "--help",
    "-h",
    "--version",
    "--",
];

/// Its own options go as they are, in front of what dhow adds where they say nothing.
pub(super) fn pasta(options: &[String], ports: &[Port], maps_host: bool) -> Result<Pasta> {
    let name = |option: &String| option.split('=').next().unwrap_or_default().to_owned();
    if let Some(foreign) = options.iter().find(|option| NOT_FOR_PASTA.contains(&&*name(option))) {
        return Err(Error::invalid(format!("pasta's option {foreign} is dhow's to choose"))
            .hint("options about addresses, routes, ports and names can be given: pasta(1)"));
    }
    if options.first().is_some_and(|first| !first.starts_with('-')) {
        return Err(Error::invalid(format!("{:?} is no option of pasta", options[0]))
            .hint("as pasta:--mtu,1500 or pasta:-T,5201: pasta(1) has them"));
    }
    let mut words = vec!["--config-net".to_owned(), "--netns-only".to_owned()];
    words.extend(options.iter().filter(|option| *option != "--map-gw").cloned());
    for port in ports.iter().filter(|port| !is_second(port, ports)) {
        words.extend([flag(port.protocol).to_owned(), spec(port, ports)]);
    }
    let says = |names: &[&str]| options.iter().any(|option| names.contains(&&*name(option)));
    for (names, protocol) in [
        (["-t", "--tcp-ports"], Some(Protocol::Tcp)),
        (["-u", "--udp-ports"], Some(Protocol::Udp)),
        (["-T", "--tcp-ns"], None),
        (["-U", "--udp-ns"], None),
    ] {
        let publishes = ports.iter().any(|port| Some(port.protocol) == protocol);
        if !says(&names) && !publishes {
            words.extend([names[0], "none"].map(str::to_owned));
        }
    }
    if !says(&["--map-gw", "--no-map-gw"]) {
        words.push("--no-map-gw".to_owned());
    }
    let mut or_default = |names: &[&str], default: Option<Ipv4Addr>| match value(options, names) {
        Some(typed) => typed.parse().ok(),
        None => default.map(|default| {
            words.extend([names[0].to_owned(), default.to_string()]);
            IpAddr::from(default)
        }),
    };
    let resolver = or_default(&["--dns-forward"], Some(RESOLVER));
    let host = or_default(&["--map-guest-addr"], maps_host.then_some(HOST_ADDRESS));
    if !says(&["-q", "--quiet", "-d", "--debug", "--trace"]) {
        words.push("--quiet".to_owned());
    }
    let own = value(options, &["-a", "--address"]);
    let own = own.and_then(|text| text.split('/').next()?.parse().ok());
    Ok(Pasta { words, own, host, resolver })
}

/// What is given with an option, in either form.
fn value<'a>(options: &'a [String], names: &[&str]) -> Option<&'a str> {
    options.iter().enumerate().find_map(|(at, option)| match option.split_once('=') {
        Some((name, value)) if names.contains(&name) => Some(value),
        None if names.contains(&&**option) => options.get(at + 1).map(String::as_str),
        _ => None,
    })
}

fn flag(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
    }
}

fn is_twin(one: &Port, other: &Port) -> bool {
    let key = |port: &Port| (port.protocol, port.host_port, port.container_port);
    key(one) == key(other)
        && one.host_ip.is_unspecified()
        && other.host_ip.is_unspecified()
        && one.host_ip != other.host_ip
}

/// Whether the port is IPv6's of one that was published on all addresses.
fn is_second(port: &Port, all: &[Port]) -> bool {
    port.host_ip.is_ipv6() && all.iter().any(|other| is_twin(port, other))
}

/// `[ADDRESS/]PORT:PORT`; without an address it is of both families.
fn spec(port: &Port, all: &[Port]) -> String {
    let ports = format!("{}:{}", port.host_port, port.container_port);
    match all.iter().any(|other| is_twin(port, other)) {
        true => ports,
        false => format!("{}/{ports}", port.host_ip),
    }
}

/// podman's options of slirp4netns.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slirp {
    pub host_loopback: bool,
    network: Ipv4Addr,
    prefix: u8,
    mtu: u32,
    v6: bool,
    outbound: Option<String>,
    outbound6: Option<String>,
}

impl Slirp {
    pub(super) fn parse(options: &[String]) -> Result<Self> {
        let mut slirp = Self {
            host_loopback: false,
            network: Ipv4Addr::new(10, 0, 2, 0),
            prefix: 24,
            mtu: MTU,
            v6: true,
            outbound: None,
            outbound6: None,
        };
        for option in options {
            let invalid = || Error::invalid(format!("invalid slirp4netns option {option:?}"));
            let (key, value) = option.split_once('=').ok_or_else(|| {
                invalid().hint("options are KEY=VALUE, as slirp4netns:mtu=1500,enable_ipv6=false")
            })?;
            let boolean = || match value {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(invalid().hint("true or false")),
            };
            match key {
                "allow_host_loopback" => slirp.host_loopback = boolean()?,
                "enable_ipv6" => slirp.v6 = boolean()?,
                "mtu" => {
                    let fits = |mtu: &u32| (68..=MTU_MAX).contains(mtu);
                    let mtu = value.parse().ok().filter(fits);
                    slirp.mtu = mtu.ok_or_else(|| {
                        invalid().hint(format!("an MTU is a number from 68 to {MTU_MAX}"))
                    })?;
                }
                "cidr" => {
                    (slirp.network, slirp.prefix) = network(value).ok_or_else(|| {
                        invalid().hint(
                            "a network of IPv4 with room for 126 addresses or more, as 10.0.2.0/24",
                        )
                    })?
                }
                "outbound_addr" => slirp.outbound = Some(value.to_owned()),
                "outbound_addr6" => slirp.outbound6 = Some(value.to_owned()),
                "port_handler" => match value {
                    "slirp4netns" => {}
                    "rootlesskit" => {
                        return Err(Error::unsupported(
                            "rootlesskit does not forward dhow's ports",
                        )
                        .hint("leave port_handler away: slirp4netns forwards them itself, and a server sees the client's own address"));
                    }
                    _ => return Err(invalid().hint("slirp4netns is the one there is")),
                },
                _ => {
                    return Err(invalid().hint(
                        "allow_host_loopback, mtu, cidr, enable_ipv6, outbound_addr, outbound_addr6 and port_handler are understood",
                    ));
                }
            }
        }
        if slirp.outbound6.is_some() && !slirp.v6 {
            return Err(Error::invalid("outbound_addr6 conflicts with enable_ipv6=false"));
        }
        Ok(slirp)
    }

    /// One of the addresses that slirp4netns(1) gives out, counted from the network's own.
    pub(super) fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + number)
    }

    pub(super) fn words(&self) -> Vec<String> {
        let mut words: Vec<String> =
            ["--configure", "--enable-sandbox", "--enable-seccomp"].map(str::to_owned).into();
        words.push(format!("--mtu={}", self.mtu));
        words.push(format!("--cidr={}/{}", self.network, self.prefix));
        let flags = [
            (!self.host_loopback).then(|| "--disable-host-loopback".to_owned()),
            self.v6.then(|| "--enable-ipv6".to_owned()),
            self.outbound.as_ref().map(|from| format!("--outbound-addr={from}")),
            self.outbound6.as_ref().map(|from| format!("--outbound-addr6={from}")),
        ];
        words.extend(flags.into_iter().flatten());
        words
    }
}

fn network(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    let hosts = u32::MAX.checked_shr(prefix.into()).filter(|_| (8..=25).contains(&prefix))?;
    (u32::from(address) & hosts == 0).then_some((address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn port(protocol: Protocol, host_ip: &str, host_port: u16) -> Port {
        Port {
            protocol,
            host_ip: host_ip.parse().expect("an address"),
            host_port,
            last_port: 0,
            container_port: 80,
        }
    }

    #[test]
    fn pasta_publishes_what_was_asked_for_and_nothing_else() {
        let words = |options: &str, ports: &[Port]| {
            pasta(&list(options), ports, false).expect("understood").words.join(" ")
        };
        assert_eq!(
            words("", &[]),
            "--config-net --netns-only -t none -u none -T none -U none --no-map-gw --dns-forward 169.254.1.1 --quiet"
        );
        let both = [port(Protocol::Tcp, "0.0.0.0", 8080), port(Protocol::Tcp, "::", 8080)];
        assert!(words("", &both).contains("--netns-only -t 8080:80 -u none -T"), "one for both");
        let one = [port(Protocol::Udp, "127.0.0.1", 53)];
        assert!(words("", &one).contains("-u 127.0.0.1/53:80 -t none -T none"));
        let own = words("--map-gw,-T,5201,--dns-forward,10.0.2.3,-d", &[]);
        assert_eq!(
            own,
            "--config-net --netns-only -T 5201 --dns-forward 10.0.2.3 -d -t none -u none -U none"
        );
    }

    #[test]
    fn what_pasta_is_told_is_told_to_the_container() {
        let told = |options: &str, maps_host| {
            let pasta = pasta(&list(options), &[], maps_host).expect("understood");
            [pasta.own, pasta.host, pasta.resolver]
                .map(|ip| ip.map_or_else(|| "-".into(), |ip: IpAddr| ip.to_string()))
                .join(" ")
        };
        assert_eq!(told("", true), "- 169.254.1.2 169.254.1.1");
        assert_eq!(told("", false), "- - 169.254.1.1");
        assert_eq!(
            told("-a,10.0.2.7,--dns-forward=10.0.2.3,--map-guest-addr,10.0.2.2", true),
            "10.0.2.7 10.0.2.2 10.0.2.3"
        );
        for bad in ["--netns,/x", "-f", "--runas=0", "--pid,x", "eth0"] {
            assert!(pasta(&list(bad), &[], true).is_err(), "{bad}");
        }
    }

    #[test]
    fn slirp_has_podmans_options() {
        let slirp = Slirp::parse(&[]).expect("defaults");
        assert_eq!(
            slirp.words().join(" "),
            "--configure --enable-sandbox --enable-seccomp --mtu=65520 --cidr=10.0.2.0/24 --disable-host-loopback --enable-ipv6"
        );
        assert_eq!(slirp.address(100).to_string(), "10.0.2.100");
        let slirp = Slirp::parse(&list(
            "allow_host_loopback=true,mtu=1500,cidr=10.9.0.0/16,enable_ipv6=false,outbound_addr=eth0,port_handler=slirp4netns",
        ));
        let slirp = slirp.expect("understood");
        assert_eq!(
            slirp.words().join(" "),
            "--configure --enable-sandbox --enable-seccomp --mtu=1500 --cidr=10.9.0.0/16 --outbound-addr=eth0"
        );
        for bad in [
            "mtu",
            "mtu=0",
            "mtu=70000",
            "cidr=10.0.2.0/30",
            "cidr=10.0.2.1/24",
            "cidr=::/64",
            "cidr=0.0.0.0/0",
            "enable_ipv6=perhaps",
            "port_handler=rootlesskit",
            "port_handler=x",
            "colour=red",
            "enable_ipv6=false,outbound_addr6=::1",
        ] {
            assert!(Slirp::parse(&list(bad)).is_err(), "{bad}");
        }
    }
}
