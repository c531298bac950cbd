//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf` as docker writes them.

use std::{fmt::Write as _, fs, net::IpAddr, os::unix::fs::PermissionsExt as _};

use crate::{
    error::{Context as _, Result},
    network::attachment::{Attachment, HOST_ADDRESS},
    state::{
        layout::ContainerPaths,
        record::{ContainerRecord, Mode},
    },
};

const LOCALHOST: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";
/// Docker's, for a host whose own resolvers no container can reach.
const PUBLIC_RESOLVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
/// Where systemd-resolved keeps the resolvers behind its own at 127.0.0.53.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Writes the files of a container that is about to start.
pub(super) fn write(
    record: &ContainerRecord,
    paths: &ContainerPaths,
    attachment: Option<&Attachment>,
    rootless: bool,
) -> Result<()> {
    let files = paths.files();
    let write = |name: &str, text: &str| {
        let path = files.join(name);
        fs::write(&path, text).at(&path).doing("write")?;
        // Everyone inside reads them, whatever the caller's umask.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).at(&path)
    };
    write("hostname", &format!("{}\n", record.config.hostname))?;
    let shares_host = record.host.namespaces.network == Mode::Host;
    let base = match shares_host.then(|| fs::read_to_string("/etc/hosts")) {
        Some(Ok(hosts)) => hosts,
        _ => LOCALHOST.to_owned(),
    };
    write("hosts", &hosts(record, base, attachment, rootless))?;
    write("apt.conf", "APT::Sandbox::User \"root\";\n")?;
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let behind = fs::read_to_string(RESOLVED).unwrap_or_default();
    write("resolv.conf", &resolv_conf(record, &host, &behind))
}

fn hosts(
    record: &ContainerRecord,
    mut text: String,
    attachment: Option<&Attachment>,
    rootless: bool,
) -> String {
    let ends = || attachment.into_iter().flat_map(|attachment| &attachment.endpoints);
    let gateway = match rootless {
        true => Some(IpAddr::from(HOST_ADDRESS)),
        false => ends().flat_map(|end| end.segment.routers()).map(|(router, _)| router).next(),
    };
    for extra in &record.host.extra_hosts {
        let Some((name, address)) = extra.split_once(':') else { continue };
        let address = match address {
            "host-gateway" => gateway.map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string()),
            address => address.to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    let config = &record.config;
    let own = match config.domainname.is_empty() {
        true => config.hostname.clone(),
        false => format!("{0}.{1} {0}", config.hostname, config.domainname),
    };
    for (address, _) in ends().flat_map(|end| end.addresses()) {
        let _ = writeln!(text, "{address}\t{own}");
    }
    text
}

/// The host's, with what was chosen for this container instead. On a network of its own the
/// container cannot reach resolvers on the host's loopback: then those behind systemd-resolved's
/// (`behind`), or public ones.
fn resolv_conf(record: &ContainerRecord, host: &str, behind: &str) -> String {
    let chosen = &record.host;
    let is_private = chosen.namespaces.network == Mode::Private;
    if !is_private && chosen.dns.is_empty() && chosen.dns_search.is_empty() {
        return host.to_owned();
    }
    let lines = |text: &str, word: &str| -> Vec<String> {
        let values = text.lines().filter_map(|line| line.trim().strip_prefix(word));
        let values = values.filter(|rest| rest.starts_with(char::is_whitespace));
        values.map(|value| value.trim().to_owned()).collect()
    };
    let reachable = |text: &str| -> Vec<String> {
        let mut servers = lines(text, "nameserver");
        servers.retain(|server| {
            let ip = server.split('%').next().and_then(|ip| ip.parse::<IpAddr>().ok());
            !is_private || ip.is_some_and(|ip| !ip.is_loopback())
        });
        servers
    };
    let mut servers: Vec<String> = chosen.dns.iter().map(IpAddr::to_string).collect();
    if servers.is_empty() {
        servers = reachable(host);
    }
    if servers.is_empty() {
        servers = reachable(behind);
    }
    if servers.is_empty() {
        servers = PUBLIC_RESOLVERS.map(str::to_owned).into();
    }
    let or_hosts = |own: &[String], word: &str| match own {
        [] => lines(host, word),
        // Docker: a single dot is no search at all.
        [dot] if dot == "." => Vec::new(),
        own => vec![own.join(" ")],
    };
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for search in or_hosts(&chosen.dns_search, "search") {
        let _ = writeln!(text, "search {search}");
    }
    for options in or_hosts(&chosen.dns_options, "options") {
        let _ = writeln!(text, "options {options}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{oci::Digest, state::ContainerId};

    fn record() -> ContainerRecord {
        let mut record = ContainerRecord {
            id: ContainerId::random().expect("urandom"),
            name: "web".into(),
            created: jiff::Timestamp::UNIX_EPOCH,
            image: "i".into(),
            image_id: Digest::of(b"i"),
            storage: Default::default(),
            layers: Vec::new(),
            config: Default::default(),
            host: Default::default(),
        };
        record.config.hostname = "web".into();
        record.host.namespaces.network = Mode::Private;
        record
    }

    #[test]
    fn resolvers_are_those_that_can_be_reached() {
        let mut record = record();
        let host = "# x\nnameserver 127.0.0.53\nsearch lan\noptions edns0\n";
        assert_eq!(
            resolv_conf(&record, host, "nameserver 192.0.2.7\n"),
            "nameserver 192.0.2.7\nsearch lan\noptions edns0\n"
        );
        assert_eq!(resolv_conf(&record, "", ""), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        record.host.dns = vec![[192, 0, 2, 9].into()];
        record.host.dns_search = vec![".".into()];
        record.host.dns_options = vec!["ndots:1".into()];
        assert_eq!(resolv_conf(&record, host, ""), "nameserver 192.0.2.9\noptions ndots:1\n");
        record.host = Default::default();
        assert_eq!(resolv_conf(&record, host, ""), host, "nobody asked for anything else");
    }

    #[test]
    fn extra_hosts_come_before_its_own_name() {
        let mut record = record();
        record.host.extra_hosts = vec!["a:192.0.2.1".into(), "h:host-gateway".into()];
        let text = hosts(&record, String::new(), None, true);
        assert_eq!(text, "192.0.2.1\ta\n169.254.1.2\th\n");
    }
}
