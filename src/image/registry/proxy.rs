//! Which proxy leads to a host, as the environment says: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`
//! and `NO_PROXY`, in capitals or not, with the meaning they have for Docker and Podman.
//!
//! **Invariant:** but for [`Proxies::from_env`], this module performs no I/O.

use std::net::IpAddr;

/// What the variables say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    https: Option<String>,
    http: Option<String>,
    none: Vec<String>,
}

impl Proxies {
    /// This process's.
    pub fn from_env() -> Self {
        let variable = |name: &str| {
            let value = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase()));
            value.ok().filter(|value| !value.is_empty())
        };
        let all = variable("ALL_PROXY");
        let none = variable("NO_PROXY").unwrap_or_default();
        let entries = none.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty());
        Self {
            https: variable("HTTPS_PROXY").or_else(|| all.clone()),
            http: variable("HTTP_PROXY").or(all),
            none: entries.map(str::to_ascii_lowercase).collect(),
        }
    }

    /// The proxy for `scheme` (`https` or `http`) to `host`, which may have a port.
    pub(super) fn of(&self, scheme: &str, host: &str) -> Option<String> {
        let proxy = if scheme == "https" { &self.https } else { &self.http };
        let proxy = proxy.as_ref().filter(|_| !self.is_direct(host))?;
        // As curl and Go have it: without a scheme it is an HTTP proxy.
        Some(if proxy.contains("://") { proxy.clone() } else { format!("http://{proxy}") })
    }

    fn is_direct(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let name = super::transport::without_port(&host);
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        self.none.iter().any(|entry| covers(entry, &host, bare))
    }
}

/// `*`, a domain and all below it, an address, or a network in CIDR notation; perhaps a port.
fn covers(entry: &str, host: &str, name: &str) -> bool {
    if entry == "*" || entry == host || entry == name {
        return true;
    }
    if let Ok(address) = name.parse::<IpAddr>() {
        return within(entry, address);
    }
    let below = entry.strip_prefix("*.").or_else(|| entry.strip_prefix('.')).unwrap_or(entry);
    let of = |name: &str| name.strip_suffix(below).is_some_and(|rest| rest.ends_with('.'));
    of(name) || of(host)
}

fn within(network: &str, address: IpAddr) -> bool {
    let Some((base, length)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme_has_its_proxy_and_some_hosts_have_none() {
        let none = "internal,.corp.example,*.lab,10.0.0.0/8,fd00::/8,r.io:5000";
        let proxies = Proxies {
            https: Some("proxy:3128".into()),
            http: Some("http://plain:8080".into()),
            none: none.split(',').map(str::to_owned).collect(),
        };
        assert_eq!(proxies.of("https", "docker.io").as_deref(), Some("http://proxy:3128"));
        assert_eq!(proxies.of("http", "docker.io:80").as_deref(), Some("http://plain:8080"));
        for direct in [
            "internal",
            "INTERNAL:5000",
            "a.internal",
            "x.corp.example",
            "y.lab:1",
            "10.1.2.3:5000",
            "[fd00::1]:5000",
            "r.io:5000",
        ] {
            assert_eq!(proxies.of("https", direct), None, "{direct}");
        }
        for proxied in ["notinternal", "corp.example.org", "11.0.0.1", "[fe80::1]", "r.io:5001"] {
            assert!(proxies.of("https", proxied).is_some(), "{proxied}");
        }
        assert_eq!(Proxies::default().of("https", "a"), None);
    }
}
