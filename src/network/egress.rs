//! Egress policies at work: what a container has learned by asking for names, what it may reach,
//! and the account of where it went.
//!
//! **Invariant:** nothing here makes a system call but to read clocks.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
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
/// Entries of a container's log; what comes later is only counted.
const ENTRIES: usize = 1024;
/// Addresses that are remembered for a container.
const LEARNED: usize = 4096;

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
    /// In the log; `None` if that is full.
    pub(super) entry: Option<usize>,
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

    /// Decides about a connection to `to` and notes it.
    pub(super) fn judge(&mut self, protocol: EgressProtocol, to: SocketAddr) -> Verdict {
        let now = Instant::now();
        let known = self.learned.get(&to.ip());
        let fresh = known.into_iter().flatten().filter(|(_, until)| *until > now);
        let mut names: Vec<&str> = fresh.map(|(name, _)| name.as_str()).collect();
        if to.ip() == IpAddr::from(HOST_ADDRESS) {
            names.extend(HOST_NAMES);
        }
        let is_allowed = self.policies.iter().all(|policy| policy.admits(to, &names));
        // For the log the last name is told, even if it no longer opens anything.
        let name = known.and_then(|names| names.last()).map(|(name, _)| name.clone());
        let entry = self.note(protocol, Some(to), name.unwrap_or_default(), is_allowed);
        Verdict { is_allowed, entry }
    }

    /// Notes a question that was answered or refused.
    pub(super) fn asked(&mut self, name: &str, is_allowed: bool) {
        self.note(EgressProtocol::Dns, None, name.to_owned(), is_allowed);
    }

    /// An answer said that `name` stands for these addresses, for so many seconds each.
    pub(super) fn learn(&mut self, name: &str, addresses: &[(IpAddr, u32)]) {
        let now = Instant::now();
        // The host and what is only near it are not the world: whoever answers for a name must
        // not be able to open them.
        let is_near = |ip: &IpAddr| match ip {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_multicast(),
            IpAddr::V6(v6) => {
                v6.is_loopback()
                    || v6.is_unicast_link_local()
                    || v6.is_multicast()
                    || v6.to_ipv4_mapped().is_some()
            }
        };
        for (address, seconds) in addresses.iter().filter(|(ip, _)| !is_near(ip)) {
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
    ) -> Option<usize> {
        self.is_dirty = true;
        let now = Timestamp::now();
        let key = (protocol, to, name, allowed);
        if let Some(&at) = self.index.get(&key) {
            let entry = &mut self.log.entries[at];
            entry.count += 1;
            entry.last = now;
            return Some(at);
        }
        let at = self.log.entries.len();
        if at >= ENTRIES {
            self.log.unlisted += 1;
            return None;
        }
        self.log.entries.push(EgressEntry {
            name: key.2.clone(),
            address: to.map(|to| to.ip()),
            port: to.map_or(0, |to| to.port()),
            protocol,
            allowed,
            count: 1,
            sent: 0,
            received: 0,
            first: now,
            last: now,
        });
        self.index.insert(key, at);
        Some(at)
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
        guard.judge(EgressProtocol::Tcp, to.parse().expect("an address")).is_allowed
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
        let mut near = guard(&["allow=a.org"]);
        near.learn("a.org", &[("169.254.169.254".parse().expect("an address"), 60)]);
        assert!(!judge(&mut near, "169.254.169.254:80"));
        let mut host = guard(&["allow=host.docker.internal:80"]);
        assert!(judge(&mut host, "169.254.1.2:80") && !judge(&mut host, "169.254.1.2:81"));
    }

    #[test]
    fn the_log_counts_and_is_continued() {
        let mut guard = guard(&["record"]);
        guard.learn("a.org", &[("192.0.2.1".parse().expect("an address"), 60)]);
        let to = "192.0.2.1:80".parse().expect("an address");
        let first = guard.judge(EgressProtocol::Tcp, to);
        assert_eq!(guard.judge(EgressProtocol::Tcp, to), first);
        guard.count(first.entry.expect("room"), 5, 7);
        let mut again = Guard::new(Vec::new(), guard.log().clone());
        again.learn("a.org", &[(to.ip(), 60)]);
        again.judge(EgressProtocol::Tcp, to);
        let [entry] = &again.log().entries[..] else { panic!("one entry") };
        assert_eq!((entry.count, entry.sent, entry.received, &*entry.name), (3, 5, 7, "a.org"));
        for port in 1..2000 {
            guard.judge(EgressProtocol::Udp, SocketAddr::new(to.ip(), port));
        }
        assert_eq!(guard.log().entries.len(), ENTRIES);
        assert_eq!(guard.log().unlisted, 1999 - 1023);
    }
}
