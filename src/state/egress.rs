//! Where containers may go: what was typed, what it means, and the log of where they went.
//!
//! Pure: names are resolved by nobody here.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What `--egress` said: of a container, or of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EgressPolicy {
    /// Everything may be reached, and all of it is noted.
    pub record: bool,
    /// What may be reached; otherwise nothing may.
    pub allow: Vec<Target>,
}

/// One thing that may be reached, at one port or all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Target {
    pub place: Place,
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A name, in small letters and without the last dot.
    Name(String),
    /// `*.NAME`: every name below it, and not the name itself.
    Below(String),
    /// All addresses with this prefix.
    Network(IpAddr, u8),
}

const HINT: &str =
    "write --egress deny, --egress record, or --egress allow=HOST[:PORT],*.DOMAIN,ADDRESS,CIDR";

impl EgressPolicy {
    /// Reads every `--egress` that was typed; `None` if there is none.
    pub fn parse(typed: &[String]) -> Result<Option<Self>> {
        let mut policy = Self::default();
        let mut words = Vec::new();
        for text in typed {
            let bad = |why: &str| {
                Err(Error::invalid(format!("invalid egress policy {text:?}: {why}")).hint(HINT))
            };
            match text.split_once('=') {
                None if text == "deny" || text == "record" => words.push(text.as_str()),
                Some(("allow", "")) => return bad("nothing is allowed"),
                Some(("allow", list)) => {
                    words.push("allow");
                    for target in list.split(',') {
                        let target = target.parse().map_err(|err: Error| {
                            err.context(format!("invalid egress policy {text:?}"))
                        })?;
                        if !policy.allow.contains(&target) {
                            policy.allow.push(target);
                        }
                    }
                }
                _ => return bad("it is deny, record or allow=..."),
            }
        }
        let Some(first) = words.first() else { return Ok(None) };
        if let Some(other) = words.iter().find(|word| *word != first) {
            return Err(Error::invalid(format!(
                "--egress {first} and --egress {other} contradict each other"
            ))
            .hint(
                "allow= already denies the rest, and what is denied or allowed is noted anyway",
            ));
        }
        policy.record = *first == "record";
        Ok(Some(policy))
    }

    /// As it can be typed.
    pub fn typed(&self) -> String {
        if self.record {
            return "record".into();
        }
        if self.allow.is_empty() {
            return "deny".into();
        }
        let targets: Vec<String> = self.allow.iter().map(Target::to_string).collect();
        format!("allow={}", targets.join(","))
    }

    /// Whether a name may be asked for.
    pub fn admits_name(&self, name: &str) -> bool {
        self.record || self.allow.iter().any(|target| target.is_named(name))
    }

    /// Whether `to` may be reached, if it was found by one of `names`. Echo requests have port 0:
    /// they go where all ports are open.
    pub fn admits(&self, to: SocketAddr, names: &[&str]) -> bool {
        let fits = |target: &&Target| target.port.is_none_or(|port| port == to.port());
        let mut open = self.allow.iter().filter(fits);
        self.record
            || open.any(|target| match target.place {
                Place::Network(network, prefix) => contains(network, prefix, to.ip()),
                Place::Name(_) | Place::Below(_) => names.iter().any(|name| target.is_named(name)),
            })
    }
}

impl Target {
    fn is_named(&self, name: &str) -> bool {
        match &self.place {
            Place::Name(own) => own == name,
            Place::Below(above) => name
                .strip_suffix(above.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Place::Network(..) => false,
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("{text:?} {why}")).hint(HINT);
        if text.is_empty() {
            return Err(bad("is no host, address or network"));
        }
        let port = |digits: &str| match digits.parse() {
            Ok(0) | Err(_) => Err(bad("has no valid port")),
            Ok(port) => Ok(Some(port)),
        };
        // An address of IPv6 with a port is in brackets.
        if let Some(rest) = text.strip_prefix('[') {
            let (inner, after) = rest.split_once(']').ok_or_else(|| bad("lacks a ]"))?;
            let port = match after.strip_prefix(':') {
                Some(digits) => port(digits)?,
                None if after.is_empty() => None,
                None => return Err(bad("has something behind the ]")),
            };
            let place = network(inner).ok_or_else(|| bad("is not an address of IPv6"))??;
            return Ok(Self { place, port });
        }
        if let Some(place) = network(text) {
            return Ok(Self { place: place?, port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, digits)) => (host, port(digits)?),
            None => (text, None),
        };
        if let Some(place) = network(host) {
            return Ok(Self { place: place?, port });
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let (below, rest) = match name.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, name.as_str()),
        };
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // What looks like an address and is none was meant as one.
        let is_number = rest.split('.').all(|label| label.bytes().all(|b| b.is_ascii_digit()));
        if rest.len() > 253 || is_number || !rest.split('.').all(is_label) {
            return Err(bad("is no host, address or network"));
        }
        let place = if below { Place::Below(rest.into()) } else { Place::Name(rest.into()) };
        Ok(Self { place, port })
    }
}

/// An address, or one with a prefix length; `None` for what is neither, or has a port behind it; an
/// error for a length that cannot be.
fn network(text: &str) -> Option<Result<Place>> {
    let (address, length) = match text.split_once('/') {
        Some((_, length)) if length.contains(':') => return None,
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    Some(match length.map_or(Ok(most), str::parse::<u8>) {
        Ok(length) if length <= most => Ok(Place::Network(address, length)),
        _ => Err(Error::invalid(format!("invalid CIDR address: {text}")).hint(HINT)),
    })
}

/// Whether the first `prefix` bits are the same.
fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let same = |one: u128, two: u128, bits: u8| {
        let shift = u32::from(bits - prefix);
        one.checked_shr(shift).unwrap_or(0) == two.checked_shr(shift).unwrap_or(0)
    };
    match (network, address) {
        (IpAddr::V4(one), IpAddr::V4(two)) => {
            same(u32::from(one).into(), u32::from(two).into(), 32)
        }
        (IpAddr::V6(one), IpAddr::V6(two)) => same(one.into(), two.into(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Name(name) => f.write_str(name)?,
            Place::Below(name) => write!(f, "*.{name}")?,
            Place::Network(address, prefix) => {
                let whole = if address.is_ipv4() { 32 } else { 128 };
                let length = if *prefix == whole { String::new() } else { format!("/{prefix}") };
                match (address, self.port) {
                    (IpAddr::V6(_), Some(_)) => write!(f, "[{address}{length}]")?,
                    _ => write!(f, "{address}{length}")?,
                }
            }
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl TryFrom<String> for Target {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// `containers/<id>/egress.json`: where a container went, or wanted to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EgressLog {
    /// In the order they were first seen.
    pub entries: Vec<EgressEntry>,
    /// Attempts that have no entry of their own any more, but one with others.
    pub unlisted: u64,
}

/// One name, address, port and verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EgressEntry {
    /// By which it was found, or which was asked for; `*` for what came when there was no room.
    pub name: String,
    /// `None` for a question, and for what came when there was no room.
    pub address: Option<IpAddr>,
    /// 0 for echo requests.
    pub port: u16,
    pub protocol: EgressProtocol,
    pub allowed: bool,
    /// Connections, flows, or questions.
    pub count: u64,
    /// Bytes to the world, and from it.
    pub sent: u64,
    pub received: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressProtocol {
    Tcp,
    Udp,
    Icmp,
    Dns,
}

impl EgressProtocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Dns => "dns",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<Option<EgressPolicy>> {
        EgressPolicy::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    fn policy(text: &str) -> EgressPolicy {
        parse(&[text]).expect("valid").expect("one")
    }

    fn to(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn policies_are_what_they_say() {
        assert_eq!(parse(&[]), Ok(None));
        for text in [
            "deny",
            "record",
            "allow=example.org,*.lan:443,10.0.0.0/8,192.0.2.1:80,fd00::/8,[2001:db8::1]:53",
            "allow=10.0.0.0/8:443,[fd00::/8]:443",
        ] {
            assert_eq!(policy(text).typed(), text);
        }
        let both = parse(&["allow=a.org", "allow=B.org.,a.org"]).expect("valid").expect("one");
        assert_eq!(both.typed(), "allow=a.org,b.org");
        assert_eq!(policy("allow=fd00::/8:443").typed(), "allow=[fd00::/8]:443");
        let json = serde_json::to_string(&both).expect("json");
        assert_eq!(serde_json::from_str::<EgressPolicy>(&json).expect("json"), both);
    }

    #[test]
    fn what_is_not_allowed_is_denied() {
        let deny = policy("deny");
        assert!(!deny.admits(to("192.0.2.1:80"), &["a.org"]) && !deny.admits_name("a.org"));
        assert!(policy("record").admits(to("192.0.2.1:80"), &[]));
        let some = policy("allow=a.org:443,*.b.org,10.1.0.0/16,[fd00::1]:53");
        assert!(some.admits_name("a.org") && some.admits_name("x.b.org"));
        assert!(
            !some.admits_name("b.org")
                && !some.admits_name("xb.org")
                && !some.admits_name("x.a.org")
        );
        assert!(some.admits(to("192.0.2.1:443"), &["a.org"]));
        assert!(!some.admits(to("192.0.2.1:80"), &["a.org"]), "another port");
        assert!(!some.admits(to("192.0.2.1:443"), &["c.org"]));
        assert!(some.admits(to("192.0.2.1:1"), &["x.b.org"]));
        assert!(some.admits(to("10.1.2.3:9"), &[]) && !some.admits(to("10.2.0.1:9"), &[]));
        assert!(some.admits(to("[fd00::1]:53"), &[]) && !some.admits(to("[fd00::1]:54"), &[]));
        assert!(!some.admits(to("[fd00::1]:0"), &[]), "an echo request has no port");
        assert!(some.admits(to("10.1.2.3:0"), &[]) && some.admits(to("192.0.2.1:0"), &["x.b.org"]));
        assert!(policy("allow=0.0.0.0/0").admits(to("1.2.3.4:5"), &[]));
        assert!(!policy("allow=0.0.0.0/0").admits(to("[::1]:5"), &[]));
    }

    #[test]
    fn bad_policies_are_named() {
        for (texts, said) in [
            (&["x"][..], "invalid egress policy \"x\": it is deny, record or allow=..."),
            (&["allow="], "invalid egress policy \"allow=\": nothing is allowed"),
            (&["allow"], "invalid egress policy \"allow\": it is deny, record or allow=..."),
            (
                &["allow=a,"],
                "invalid egress policy \"allow=a,\": \"\" is no host, address or network",
            ),
            (&["allow=a:0"], "invalid egress policy \"allow=a:0\": \"a:0\" has no valid port"),
            (
                &["allow=a:http"],
                "invalid egress policy \"allow=a:http\": \"a:http\" has no valid port",
            ),
            (
                &["allow=10.0.0.0/33"],
                "invalid egress policy \"allow=10.0.0.0/33\": invalid CIDR address: 10.0.0.0/33",
            ),
            (
                &["allow=10.0.0.300"],
                "invalid egress policy \"allow=10.0.0.300\": \"10.0.0.300\" is no host, address or network",
            ),
            (
                &["allow=a b"],
                "invalid egress policy \"allow=a b\": \"a b\" is no host, address or network",
            ),
            (
                &["allow=*"],
                "invalid egress policy \"allow=*\": \"*\" is no host, address or network",
            ),
            (&["allow=[::1"], "invalid egress policy \"allow=[::1\": \"[::1\" lacks a ]"),
            (&["deny", "allow=a"], "--egress deny and --egress allow contradict each other"),
            (&["record", "deny"], "--egress record and --egress deny contradict each other"),
        ] {
            assert_eq!(parse(texts).expect_err("refused").to_string(), said);
        }
    }
}
