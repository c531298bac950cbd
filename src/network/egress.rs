//! Egress policies at work: what a container has learned by asking for names, what it may reach,
//! and the account of where it went.
//!
//! **Invariant:** nothing here makes a system call but to read clocks.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::attachment::HOST_ADDRESS;
use crate::state::egress::{EgressEntry, EgressLog, EgressPolicy, EgressProtocol};

/// Names of the host itself, as containers know it.
pub(crate) const HOST_NAMES: [&str; 2] = ["host.docker.internal", "host.containers.internal"];
/// An address is open for at least as long as it takes to use the answer that told of it.
const LEAST: Duration = Duration::from_secs(10);
/// And for at most this, whatever the answer says.
const MOST: Duration = Duration::from_secs(24 * 3600);
/// Entries of one sort in a container's log: of questions and of the rest, each allowed or refused.
/// Who wants to hide where it went cannot fill the log with what it was refused.
const ENTRIES: usize = 512;
/// The name of the entry in which what comes later is counted.
const REST: &str = "*";
/// Addresses that are remembered for a container.
const LEARNED: usize = 4096;
/// Names that are remembered for an address, the latest: who serves many hosts from one address
/// has many, and who answers for `*.DOMAIN` can invent them.
const NAMES: usize = 16;

/// One container's.
#[derive(Debug)]
pub(super) struct Guard {
    /// Its own and its networks': all must agree.
    policies: Vec<EgressPolicy>,
    /// The names by which an address was found, and until when that counts.
    learned: HashMap<IpAddr, Vec<(String, Instant)>>,
    log: EgressLog,
    index: HashMap<Key, usize>,
    /// The log says more than what was last written of it.
    pub(super) is_dirty: bool,
}

type Key = (EgressProtocol, Option<SocketAddr>, String, bool);

/// What was decided about one connection, flow or echo request, and where its bytes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) is_allowed: bool,
    /// In the log.
    pub(super) entry: usize,
}

impl Guard {
    /// With what an earlier role noted.
    pub(super) fn new(policies: Vec<EgressPolicy>, log: EgressLog) -> Self {
        let key = |entry: &EgressEntry| {
            let at = entry.address.map(|ip| SocketAddr::new(ip, entry.port));
            (entry.protocol, at, entry.name.clone(), entry.allowed)
        };
        let index = log.entries.iter().map(key).zip(0..).collect();
        Self { policies, learned: HashMap::new(), log, index, is_dirty: false }
    }

    /// Other policies from now on; what was learned and noted stays.
    pub(super) fn follow(&mut self, policies: Vec<EgressPolicy>) {
        self.policies = policies;
    }

    pub(super) fn log(&self) -> &EgressLog {
        &self.log
    }

    /// Decides about a connection to `to` and notes it. `leads_away`: whether the host's routes
    /// take it from the host.
    pub(super) fn judge(
        &mut self,
        protocol: EgressProtocol,
        to: SocketAddr,
        leads_away: impl FnOnce() -> bool,
    ) -> Verdict {
        let now = Instant::now();
        let known = self.learned.get(&to.ip());
        let fresh = known.into_iter().flatten().filter(|(_, until)| *until > now);
        let names: Vec<&str> = fresh.map(|(name, _)| name.as_str()).collect();
        let admitted = |names: &[&str]| self.policies.iter().all(|policy| policy.admits(to, names));
        let is_allowed = match to.ip() == IpAddr::from(HOST_ADDRESS) {
            true => admitted(&HOST_NAMES),
            false => admitted(&[]) || admitted(&names) && is_for_names(to.ip()) && leads_away(),
        };
        // For the log the last name is told, even if it no longer opens anything.
        let name = known.and_then(|names| names.last()).map(|(name, _)| name.clone());
        let entry = self.note(protocol, Some(to), name.unwrap_or_default(), is_allowed);
        Verdict { is_allowed, entry }
    }

    /// Whether what is counted in this entry may go on, now that policies have changed. That the
    /// answer which opened it has expired is no reason to end it.
    pub(super) fn still_admits(&self, entry: usize) -> bool {
        let Some(entry) = self.log.entries.get(entry) else { return false };
        let Some(ip) = entry.address else { return false };
        let names = match ip == IpAddr::from(HOST_ADDRESS) {
            true => HOST_NAMES.to_vec(),
            false => vec![entry.name.as_str()],
        };
        let to = SocketAddr::new(ip, entry.port);
        self.policies.iter().all(|policy| policy.admits(to, &names))
    }

    /// Notes a question that was answered or refused.
    pub(super) fn asked(&mut self, name: &str, is_allowed: bool) {
        self.note(EgressProtocol::Dns, None, name.to_owned(), is_allowed);
    }

    /// An answer said that `name` stands for these addresses, for so many seconds each.
    pub(super) fn learn(&mut self, name: &str, addresses: &[(IpAddr, u32)]) {
        let now = Instant::now();
        for (address, seconds) in addresses {
            if self.learned.len() >= LEARNED && !self.learned.contains_key(address) {
                self.learned.retain(|_, names| names.iter().any(|(_, until)| *until > now));
                if self.learned.len() >= LEARNED {
                    // Fail closed: what is not remembered is not open.
                    continue;
                }
            }
            let until = now + Duration::from_secs((*seconds).into()).clamp(LEAST, MOST);
            let names = self.learned.entry(*address).or_default();
            let earlier =
                names.iter().position(|(known, _)| known == name).map(|at| names.remove(at));
            names.retain(|(_, until)| *until > now);
            let until = earlier.map_or(until, |(_, earlier)| earlier.max(until));
            if names.len() >= NAMES {
                names.remove(0);
            }
            names.push((name.to_owned(), until));
        }
    }

    /// Bytes that went, and came.
    pub(super) fn count(&mut self, entry: usize, sent: u64, received: u64) {
        let Some(entry) = self.log.entries.get_mut(entry) else { return };
        if sent + received > 0 {
            entry.sent += sent;
            entry.received += received;
            entry.last = Timestamp::now();
            self.is_dirty = true;
        }
    }

    fn note(
        &mut self,
        protocol: EgressProtocol,
        to: Option<SocketAddr>,
        name: String,
        allowed: bool,
    ) -> usize {
        self.is_dirty = true;
        let now = Timestamp::now();
        let mut key = (protocol, to, name, allowed);
        if !self.index.contains_key(&key) && self.is_full(protocol, allowed) {
            self.log.unlisted += 1;
            key = (protocol, None, REST.to_owned(), allowed);
        }
        if let Some(&at) = self.index.get(&key) {
            let entry = &mut self.log.entries[at];
            entry.count += 1;
            entry.last = now;
            return at;
        }
        let at = self.log.entries.len();
        self.log.entries.push(EgressEntry {
            name: key.2.clone(),
            address: key.1.map(|to| to.ip()),
            port: key.1.map_or(0, |to| to.port()),
            protocol,
            allowed,
            count: 1,
            sent: 0,
            received: 0,
            first: now,
            last: now,
        });
        self.index.insert(key, at);
        at
    }

    /// Whether the log has no room for another entry of this sort.
    fn is_full(&self, protocol: EgressProtocol, allowed: bool) -> bool {
        let sort = |protocol, allowed| (protocol == EgressProtocol::Dns, allowed);
        let same =
            |entry: &&EgressEntry| sort(entry.protocol, entry.allowed) == sort(protocol, allowed);
        self.log.entries.iter().filter(same).count() >= ENTRIES
    }
}

/// Whether a name can open an address. Whoever answers for a name chooses what it stands for, and
/// must not be able to open what is only near: the host, its links, and the services by which a
/// cloud tells a machine its secrets. Those are opened by an address or a CIDR. The host's own
/// addresses only its routes tell. Private networks a name does open: names within a company lead
/// there.
fn is_for_names(address: IpAddr) -> bool {
    /// Of Alibaba's and Azure's clouds, and of Amazon's by IPv6; the others' are link-local.
    const TELLERS: [IpAddr; 3] = [
        IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
        IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    ];
    let is_near = match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || within(v6).is_some_and(|v4| !is_for_names(v4.into()))
        }
    };
    !is_near && !TELLERS.contains(&address)
}

/// The address of IPv4 that one of IPv6 leads to: mapped (RFC 4291, 2.5.5.2), behind a translator
/// (64:ff9b::/96, RFC 6052) or by 6to4 (2002::/16, RFC 3056).
fn within(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bytes = address.octets();
    let four = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => four(12),
        [0x2002, ..] => four(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(texts: &[&str]) -> Guard {
        let policies = texts
            .iter()
            .map(|text| EgressPolicy::parse(&[(*text).to_owned()]).expect("valid").expect("one"));
        Guard::new(policies.collect(), EgressLog::default())
    }

    fn judge(guard: &mut Guard, to: &str) -> bool {
        guard.judge(EgressProtocol::Tcp, to.parse().expect("an address"), || true).is_allowed
    }

    #[test]
    fn names_open_what_they_stand_for() {
        let mut guard = guard(&["allow=a.org:443,*.b.org"]);
        let address = |text: &str| -> (IpAddr, u32) { (text.parse().expect("an address"), 0) };
        assert!(!judge(&mut guard, "192.0.2.1:443"));
        guard.learn("a.org", &[address("192.0.2.1"), address("2001:db8::1")]);
        assert!(judge(&mut guard, "192.0.2.1:443") && judge(&mut guard, "[2001:db8::1]:443"));
        assert!(!judge(&mut guard, "192.0.2.1:80"));
        guard.learn("c.org", &[address("192.0.2.2")]);
        assert!(!judge(&mut guard, "192.0.2.2:443"), "a name that is not allowed opens nothing");
        for names in guard.learned.values_mut() {
            names.iter_mut().for_each(|(_, until)| *until = Instant::now());
        }
        assert!(!judge(&mut guard, "192.0.2.1:443"), "its time is over");
    }

    #[test]
    fn all_policies_must_agree() {
        let mut both = guard(&["allow=10.0.0.0/8", "allow=10.1.0.0/16,192.0.2.1"]);
        assert!(judge(&mut both, "10.1.0.1:1"));
        assert!(!judge(&mut both, "10.2.0.1:1") && !judge(&mut both, "192.0.2.1:1"));
        let entry = both.judge(EgressProtocol::Tcp, "10.1.0.1:1".parse().expect("one"), || true);
        let entry = entry.entry;
        assert!(both.still_admits(entry));
        both.follow(vec![EgressPolicy::default()]);
        assert!(!both.still_admits(entry));
        let mut host = guard(&["allow=host.docker.internal:80"]);
        assert!(judge(&mut host, "169.254.1.2:80") && !judge(&mut host, "169.254.1.2:81"));
    }

    #[test]
    fn names_do_not_open_what_is_near() {
        let near = [
            "127.0.0.1",
            "169.254.169.254",
            "169.254.1.2",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::169.254.169.254",
            "2002:7f00:1::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
        ];
        let mut named = guard(&["allow=a.org,*.b.org"]);
        for text in near {
            let to = SocketAddr::new(text.parse().expect("an address"), 80);
            for name in ["a.org", "x.b.org"] {
                named.learn(name, &[(to.ip(), 60)]);
            }
            let verdict = named.judge(EgressProtocol::Tcp, to, || true);
            assert!(!verdict.is_allowed, "{text}");
            let whole = if to.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let mut plain = guard(&[&format!("allow={whole}")]);
            assert!(judge(&mut plain, &to.to_string()), "{text}");
        }
        for text in ["10.0.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "64:ff9b::10.0.0.1"] {
            let to = SocketAddr::new(text.parse().expect("an address"), 80);
            named.learn("a.org", &[(to.ip(), 60)]);
            assert!(named.judge(EgressProtocol::Tcp, to, || true).is_allowed, "{text}");
            let here = named.judge(EgressProtocol::Tcp, to, || false);
            assert!(!here.is_allowed, "{text} is the host's own");
        }
    }

    #[test]
    fn invented_names_take_no_room() {
        let mut guard = guard(&["allow=a.org,*.b.org"]);
        let address = "192.0.2.1".parse().expect("an address");
        for number in 0..10 * NAMES {
            guard.learn(&format!("n{number}.b.org"), &[(address, 3600)]);
        }
        assert_eq!(guard.learned[&address].len(), NAMES);
        guard.learn("a.org", &[(address, 3600)]);
        assert_eq!(guard.learned[&address].last().map(|(name, _)| &**name), Some("a.org"));
    }

    #[test]
    fn the_log_counts_and_is_continued() {
        let mut guard = guard(&["record"]);
        guard.learn("a.org", &[("192.0.2.1".parse().expect("an address"), 60)]);
        let to = "192.0.2.1:80".parse().expect("an address");
        let first = guard.judge(EgressProtocol::Tcp, to, || true);
        assert_eq!(guard.judge(EgressProtocol::Tcp, to, || true), first);
        guard.count(first.entry, 5, 7);
        let mut again = Guard::new(Vec::new(), guard.log().clone());
        again.learn("a.org", &[(to.ip(), 60)]);
        again.judge(EgressProtocol::Tcp, to, || true);
        let [entry] = &again.log().entries[..] else { panic!("one entry") };
        assert_eq!((entry.count, entry.sent, entry.received, &*entry.name), (3, 5, 7, "a.org"));
        for port in 1..2000 {
            guard.judge(EgressProtocol::Udp, SocketAddr::new(to.ip(), port), || true);
        }
        assert_eq!(guard.log().entries.len(), ENTRIES + 1);
        assert_eq!(guard.log().unlisted, 1999 + 1 - ENTRIES as u64);
        // What is not listed is counted all the same.
        let more =
            guard.judge(EgressProtocol::Udp, "192.0.2.1:3000".parse().expect("one"), || true);
        guard.count(more.entry, 11, 0);
        let rest = guard.log().entries.last().expect("one");
        assert_eq!((&*rest.name, rest.count, rest.sent), (REST, guard.log().unlisted, 11));
        assert!(!guard.still_admits(ENTRIES), "nobody knows where it went");
        // And what is refused has room of its own.
        guard.asked("a.org", false);
        assert_eq!(guard.log().entries.last().map(|entry| &*entry.name), Some("a.org"));
    }
}
