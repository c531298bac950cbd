//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf` as docker writes them.

use std::{fmt::Write as _, fs, net::IpAddr, os::unix::fs::PermissionsExt as _};

use crate::{
    error::{Context as _, Result},
    network::attachment::{Attachment, Carried, HOST_ADDRESS},
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
const HOST_NAMES: &str = "host.containers.internal host.docker.internal";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved keeps the resolvers behind its own at 127.0.0.53.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Writes the files of a container that is about to start.
pub(super) fn write(
    record: &ContainerRecord,
    paths: &ContainerPaths,
    attachment: Option<&Attachment>,
    linked: &[(IpAddr, String)],
    base: Option<String>,
    by_role: bool,
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
    let base = match (base, shares_host.then(|| fs::read_to_string("/etc/hosts"))) {
        (Some(base), _) => base,
        (None, Some(Ok(hosts))) => hosts,
        (None, _) => LOCALHOST.to_owned(),
    };
    // A step of a build finds its own name, whatever it is connected to (as BuildKit has it).
    let base = match &record.build {
        Some(_) if !shares_host => {
            let name = &record.config.hostname;
            base.replacen("127.0.0.1\tlocalhost\n", &format!("127.0.0.1\tlocalhost {name}\n"), 1)
        }
        _ => base,
    };
    write("hosts", &hosts(record, base, attachment, linked, by_role))?;
    write("apt.conf", "APT::Sandbox::User \"root\";\n")?;
    let host = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let text = match attachment.and_then(|attachment| attachment.carried.as_ref()) {
        Some(carried) => compose(record, &host, resolvers_of_carried(record, carried), false),
        None => resolv_conf(record, &host, name_server(record, attachment)),
    };
    write("resolv.conf", &text)
}

/// What a program answers for the host's resolvers, and behind it those that can be reached.
fn resolvers_of_carried(record: &ContainerRecord, carried: &Carried) -> Vec<String> {
    if !record.host.dns.is_empty() {
        return record.host.dns.iter().map(IpAddr::to_string).collect();
    }
    carried.resolver.iter().map(IpAddr::to_string).chain(host_resolvers()).collect()
}

/// Rewrites what says how a running container is connected, line by line: the rest may be the
/// container's own by now.
pub(super) fn follow(
    paths: &ContainerPaths,
    (record, before): (&ContainerRecord, &Attachment),
    (changed, after): (&ContainerRecord, &Attachment),
) -> Result<()> {
    let addresses = |attachment: &Attachment| -> Vec<IpAddr> {
        let ends = attachment.endpoints.iter();
        ends.flat_map(|end| end.addresses()).map(|(ip, _)| ip).collect()
    };
    let (gone, now) = (addresses(before), addresses(after));
    let stays = |line: &&str| {
        let ip = line.split_whitespace().next().and_then(|word| word.parse().ok());
        ip.is_none_or(|ip| !gone.contains(&ip) && !now.contains(&ip))
    };
    let own = own_names(record);
    let lines: String = now.iter().map(|address| format!("{address}\t{own}\n")).collect();
    change_hosts(paths, stays, &lines)?;
    let path = paths.files().join("resolv.conf");
    let host = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let as_of =
        |record, attachment| resolv_conf(record, &host, name_server(record, Some(attachment)));
    match fs::read_to_string(&path).at(&path)? == as_of(record, before) {
        true => fs::write(&path, as_of(changed, after)).at(&path).doing("write"),
        false => Ok(()),
    }
}

/// Takes the lines of a link out of a running container's `hosts`; `others` are the containers that
/// it was a name for, whose lines begin with it.
pub(super) fn forget_link(paths: &ContainerPaths, alias: &str, others: &[String]) -> Result<()> {
    let stays = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        !(words.next() == Some(alias) && words.any(|word| others.iter().any(|id| id == word)))
    };
    change_hosts(paths, stays, "")
}

/// Takes lines out of a running container's `hosts`, and adds others.
fn change_hosts(
    paths: &ContainerPaths,
    stays: impl FnMut(&&str) -> bool,
    more: &str,
) -> Result<()> {
    let path = paths.files().join("hosts");
    let old = fs::read_to_string(&path).at(&path)?;
    let mut text: String = old.lines().filter(stays).map(|line| format!("{line}\n")).collect();
    text.push_str(more);
    // In place: it is bound into the container.
    fs::write(&path, text).at(&path).doing("write")
}

/// Docker's: on a network with names it is always asked, and forwards to the chosen ones;
/// elsewhere those are written down themselves.
fn name_server(record: &ContainerRecord, attachment: Option<&Attachment>) -> Option<NameServer> {
    let ends = || attachment.into_iter().flat_map(|attachment| &attachment.endpoints);
    let end = ends().find(|end| end.segment.has_names).or_else(|| {
        // With an egress policy there is no other way to ask.
        let always = attachment.is_some_and(|attachment| !attachment.egress.is_empty());
        let asked = always || record.host.dns.is_empty();
        ends().find(|end| end.segment.has_resolver).filter(|_| asked)
    })?;
    let (address, _) = end.segment.routers().into_iter().next()?;
    Some(NameServer { address, knows_containers: end.segment.has_names })
}

/// The name server of a container's network.
#[derive(Debug, Clone, Copy)]
struct NameServer {
    address: IpAddr,
    knows_containers: bool,
}

/// The host's resolvers that a container on a network of its own can reach: those that are not
/// on the host's loopback, or else those behind systemd-resolved's.
pub(super) fn host_resolvers() -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let found = reachable(&read(RESOLV_CONF));
    if found.is_empty() { reachable(&read(RESOLVED)) } else { found }
}

fn reachable(text: &str) -> Vec<String> {
    let mut servers = lines(text, "nameserver");
    servers.retain(|server| {
        let ip = server.split('%').next().and_then(|ip| ip.parse::<IpAddr>().ok());
        ip.is_some_and(|ip| !ip.is_loopback())
    });
    servers
}

/// What is behind a word at the beginning of lines.
fn lines(text: &str, word: &str) -> Vec<String> {
    let values = text.lines().filter_map(|line| line.trim().strip_prefix(word));
    let values = values.filter(|rest| rest.starts_with(char::is_whitespace));
    values.map(|value| value.trim().to_owned()).collect()
}

fn hosts(
    record: &ContainerRecord,
    mut text: String,
    attachment: Option<&Attachment>,
    linked: &[(IpAddr, String)],
    by_role: bool,
) -> String {
    let ends = || attachment.into_iter().flat_map(|attachment| &attachment.endpoints);
    let carried = attachment.and_then(|attachment| attachment.carried.as_ref());
    let gateway = match (carried, by_role) {
        (Some(carried), _) => carried.host,
        (None, true) => Some(IpAddr::from(HOST_ADDRESS)),
        (None, false) => {
            ends().flat_map(|end| end.segment.routers()).map(|(router, _)| router).next()
        }
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
    for (address, names) in linked {
        let _ = writeln!(text, "{address}\t{names}");
    }
    let own = own_names(record);
    for (address, _) in ends().flat_map(|end| end.addresses()) {
        let _ = writeln!(text, "{address}\t{own}");
    }
    // Elsewhere the name server knows the host; a program's knows what the host's resolvers do.
    if let Some(Carried { own: address, host, .. }) = carried {
        for (ip, names) in [(host, HOST_NAMES), (address, &*own)] {
            let _ = ip.map(|ip| writeln!(text, "{ip}\t{names}"));
        }
    }
    text
}

/// The host's, with what was chosen for this container instead.
fn resolv_conf(record: &ContainerRecord, host: &str, server: Option<NameServer>) -> String {
    let chosen = &record.host;
    let has_choice =
        [chosen.dns.is_empty(), chosen.dns_search.is_empty(), chosen.dns_options.is_empty()]
            .contains(&false);
    if chosen.namespaces.network != Mode::Private && !has_choice {
        return host.to_owned();
    }
    let servers: Vec<String> = match (server, chosen.dns.is_empty()) {
        (Some(server), _) => vec![server.address.to_string()],
        (None, false) => chosen.dns.iter().map(IpAddr::to_string).collect(),
        (None, true) if chosen.namespaces.network == Mode::Private => host_resolvers(),
        (None, true) => lines(host, "nameserver"),
    };
    let has_names = server.is_some_and(|server| server.knows_containers);
    compose(record, host, servers, has_names)
}

fn compose(
    record: &ContainerRecord,
    host: &str,
    servers: Vec<String>,
    knows_containers: bool,
) -> String {
    let chosen = &record.host;
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
    let mut options = or_hosts(&chosen.dns_options, "options");
    // Docker: names of containers have no dots, and are asked for as they are.
    let has_dots = options.iter().any(|options| options.contains("ndots:"));
    if knows_containers && !has_dots {
        options.push("ndots:0".to_owned());
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// What a container calls itself: whole, and without its domain.
fn own_names(record: &ContainerRecord) -> String {
    let config = &record.config;
    let full = match config.domainname.is_empty() {
        true => config.hostname.clone(),
        false => format!("{}.{}", config.hostname, config.domainname),
    };
    match full.split_once('.') {
        Some((bare, _)) => format!("{full} {bare}"),
        None => full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{oci::Digest, state::ContainerId};

    fn record() -> ContainerRecord {
        let mut record = ContainerRecord {
            build: None,
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
    fn resolvers_are_the_chosen_or_the_networks_own() {
        assert_eq!(reachable("nameserver 127.0.0.53\nnameserver 192.0.2.7\n"), ["192.0.2.7"]);
        let mut record = record();
        let host = "# x\nnameserver 127.0.0.53\nsearch lan\noptions edns0\n";
        let server = |knows_containers| {
            Some(NameServer { address: [10, 89, 0, 1].into(), knows_containers })
        };
        assert_eq!(
            resolv_conf(&record, host, server(true)),
            "nameserver 10.89.0.1\nsearch lan\noptions edns0 ndots:0\n"
        );
        assert_eq!(resolv_conf(&record, "", server(false)), "nameserver 10.89.0.1\n");
        record.host.dns = vec![[192, 0, 2, 9].into()];
        record.host.dns_search = vec![".".into()];
        record.host.dns_options = vec!["ndots:1".into()];
        assert_eq!(resolv_conf(&record, host, None), "nameserver 192.0.2.9\noptions ndots:1\n");
        assert_eq!(
            resolv_conf(&record, host, server(true)),
            "nameserver 10.89.0.1\noptions ndots:1\n",
            "the name server forwards to the chosen one"
        );
        record.host = Default::default();
        assert_eq!(resolv_conf(&record, host, None), host, "nobody asked for anything else");
    }

    #[test]
    fn extra_hosts_come_before_its_own_name() {
        let mut record = record();
        record.host.extra_hosts = vec!["a:192.0.2.1".into(), "h:host-gateway".into()];
        let text =
            hosts(&record, String::new(), None, &[([10, 0, 0, 2].into(), "db".into())], true);
        assert_eq!(text, "192.0.2.1\ta\n169.254.1.2\th\n10.0.0.2\tdb\n");
    }
}
