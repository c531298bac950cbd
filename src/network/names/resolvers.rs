//! The host's resolvers, as its `resolv.conf` names them now (resolv.conf(5)).

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

/// MAXNS of the C library: more are not asked.
const SERVERS_MAX: usize = 3;
pub(crate) const PORT: u16 = 53;

/// What the file said when it was last read, and how to see that it says something else.
#[derive(Debug)]
pub(crate) struct Resolvers {
    path: PathBuf,
    seen: Option<(u64, i64, i64, u64)>,
    servers: Vec<SocketAddr>,
}

impl Resolvers {
    pub(crate) fn of(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: None, servers: parse("") }
    }

    /// Those that are named now: the file is read again whenever it has changed.
    pub(crate) fn now(&mut self) -> &[SocketAddr] {
        let seen = fs::metadata(&self.path)
            .ok()
            .map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()));
        if seen.is_none() || seen != self.seen {
            self.servers = parse(&fs::read_to_string(&self.path).unwrap_or_default());
            self.seen = seen;
        }
        &self.servers
    }
}

/// Without any, the one of this machine is meant.
fn parse(text: &str) -> Vec<SocketAddr> {
    let values = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    let mut servers: Vec<_> = values.filter_map(address).take(SERVERS_MAX).collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    }
    servers
}

/// `192.0.2.1`, `2001:db8::1` or `fe80::1%eth0`.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, zone) = text.split_once('%').unwrap_or((text, ""));
    match ip.parse().ok()? {
        IpAddr::V6(v6) if !zone.is_empty() => {
            let scope = zone.parse().ok().or_else(|| nix::net::if_::if_nametoindex(zone).ok())?;
            Some(SocketAddrV6::new(v6, PORT, 0, scope).into())
        }
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => Some(SocketAddr::new(ip, PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_followed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("resolv.conf");
        let mut resolvers = Resolvers::of(&path);
        let mut now = || resolvers.now().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(now(), ["127.0.0.1:53"]);
        fs::write(&path, "# x\nnameserver 192.0.2.1\nsearch lan\nnameserver\t2001:db8::1 \n")
            .expect("write");
        assert_eq!(now(), ["192.0.2.1:53", "[2001:db8::1]:53"]);
        // As NetworkManager and resolvconf do it.
        let new = dir.path().join("new");
        fs::write(&new, "nameserver fe80::1%lo\nnameserver x\n").expect("write");
        fs::rename(&new, &path).expect("rename");
        assert_eq!(now(), ["[fe80::1%1]:53"]);
        fs::remove_file(&path).expect("remove");
        assert_eq!(now(), ["127.0.0.1:53"]);
    }
}
