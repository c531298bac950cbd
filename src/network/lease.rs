//! Addresses on a network, leased to containers.
//!
//! A lease is a line in one file, written under the network's lock, and it holds for as long as
//! its container exists: whoever looks for an address takes what belongs to nobody any more.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    state::{
        ContainerId,
        network::{NetworkRecord, Pool},
        store::{Durability, Lock, read_json, write_json},
    },
};

/// `networks/<name>/leases.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Leases {
    held: BTreeMap<IpAddr, ContainerId>,
    /// Where the last search ended: addresses are not used again at once.
    last: BTreeMap<String, IpAddr>,
}

/// What a container asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// Leases addresses of the network in `dir` to `owner`: those wished for, those it has already,
/// or the next free ones. `exists` tells whether a holder is still there.
pub fn lease(
    dir: &Path,
    network: &NetworkRecord,
    owner: &ContainerId,
    wish: Wish,
    exists: impl Fn(&ContainerId) -> bool,
) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>)> {
    let _lock = Lock::exclusive(dir)?;
    let path = dir.join("leases.json");
    let mut leases: Leases = read_json(&path)?.unwrap_or_default();
    let wished = [wish.v4.map(IpAddr::from), wish.v6.map(IpAddr::from)];
    for wished in wished.into_iter().flatten() {
        check_wish(network, wished)?;
        if let Some(holder) = leases.held.get(&wished)
            && holder != owner
            && exists(holder)
        {
            return Err(Error::conflict(format!(
                "address {wished} of network {} is in use by {}",
                network.name,
                holder.short()
            )));
        }
        // Only one of each family.
        leases.held.retain(|ip, holder| holder != owner || ip.is_ipv4() != wished.is_ipv4());
        leases.held.insert(wished, owner.clone());
    }
    let mut find = |range: Option<Range>| match range {
        Some(range) => leases.take(&range, network, owner, &exists).map(Some),
        None => Ok(None),
    };
    let v4 = find(network.v4.as_ref().map(Range::v4))?;
    let v6 = find(network.v6.as_ref().map(Range::v6))?;
    // Lost in a power cut, it was nobody's.
    write_json(&path, &leases, Durability::Renamed)?;
    let v4 = match v4 {
        Some(IpAddr::V4(v4)) => Some(v4),
        _ => None,
    };
    let v6 = match v6 {
        Some(IpAddr::V6(v6)) => Some(v6),
        _ => None,
    };
    Ok((v4, v6))
}

/// Gives back what `owner` has on the network in `dir`.
pub fn release(dir: &Path, owner: &ContainerId) -> Result<()> {
    let _lock = Lock::exclusive(dir)?;
    let path = dir.join("leases.json");
    let Some(mut leases) = read_json::<Leases>(&path)? else { return Ok(()) };
    leases.held.retain(|_, holder| holder != owner);
    write_json(&path, &leases, Durability::Renamed)
}

fn check_wish(network: &NetworkRecord, wished: IpAddr) -> Result<()> {
    let range = match wished {
        IpAddr::V4(_) => network.v4.as_ref().map(Range::v4),
        IpAddr::V6(_) => network.v6.as_ref().map(Range::v6),
    };
    let inside = range.is_some_and(|range| {
        let number = number(wished);
        range.whole.0 < number && number < range.whole.1 && wished != range.router
    });
    let reserved = network.reserved.values().any(|ip| *ip == wished);
    if inside && !reserved {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{wished} is not an address for containers of network {}",
        network.name
    ))
    .hint(format!("`dhow network inspect {}` shows its subnets", network.name)))
}

/// Addresses to choose from.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u128,
    last: u128,
    /// The subnet's own first and last address, which are nobody's.
    whole: (u128, u128),
    router: IpAddr,
}

impl Range {
    fn v4(pool: &Pool<Ipv4Addr>) -> Self {
        let number = |ip: Ipv4Addr| u128::from(u32::from(ip));
        let range = pool.range.map(|(ip, prefix)| (number(ip), prefix));
        Self::of(number(pool.network), pool.prefix, range, 32, pool.router.into())
    }

    fn v6(pool: &Pool<Ipv6Addr>) -> Self {
        let range = pool.range.map(|(ip, prefix)| (u128::from(ip), prefix));
        Self::of(pool.network.into(), pool.prefix, range, 128, pool.router.into())
    }

    fn of(network: u128, prefix: u8, range: Option<(u128, u8)>, width: u8, router: IpAddr) -> Self {
        let last = |first: u128, prefix: u8| {
            let free = u32::from(width.saturating_sub(prefix));
            first | 1_u128.checked_shl(free).map_or(u128::MAX, |size| size - 1)
        };
        let whole = (network, last(network, prefix));
        let (first, last) = match range {
            Some((first, prefix)) => (first, last(first, prefix)),
            None => whole,
        };
        let (first, last) = (first.max(whole.0 + 1), last.min(whole.1 - 1));
        Self { first, last, whole, router }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The address of this number in the family of `like`.
fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(0)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

impl Leases {
    fn take(
        &mut self,
        range: &Range,
        network: &NetworkRecord,
        owner: &ContainerId,
        exists: &impl Fn(&ContainerId) -> bool,
    ) -> Result<IpAddr> {
        let family = |ip: &IpAddr| ip.is_ipv4() == range.router.is_ipv4();
        if let Some((own, _)) = self.held.iter().find(|(ip, held)| *held == owner && family(ip)) {
            return Ok(*own);
        }
        let free = self.next(range, network).or_else(|| {
            self.held.retain(|_, holder| exists(holder));
            self.next(range, network)
        });
        let free = free.ok_or_else(|| {
            Error::conflict(format!("network {} has no free address left", network.name))
                .hint("remove containers, or create a network with a larger --subnet")
        })?;
        self.held.insert(free, owner.clone());
        self.last.insert(key(range.router).to_owned(), free);
        Ok(free)
    }

    fn next(&self, range: &Range, network: &NetworkRecord) -> Option<IpAddr> {
        if range.first > range.last {
            return None;
        }
        let last = self.last.get(key(range.router)).map_or(range.first, |ip| number(*ip) + 1);
        let start = if (range.first..=range.last).contains(&last) { last } else { range.first };
        let reserved = |ip: &IpAddr| network.reserved.values().any(|other| other == ip);
        // No more can be taken than are held or reserved, and the router's.
        let tries =
            u128::try_from(self.held.len() + network.reserved.len() + 2).unwrap_or(u128::MAX);
        let size = range.last - range.first + 1;
        (0..tries.min(size))
            .map(|step| range.first + (start - range.first + step) % size)
            .map(|number| address(number, range.router))
            .find(|ip| *ip != range.router && !self.held.contains_key(ip) && !reserved(ip))
    }
}

fn key(like: IpAddr) -> &'static str {
    if like.is_ipv4() { "4" } else { "6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(prefix: u8) -> NetworkRecord {
        NetworkRecord {
            attachable: false,
            ipam_options: BTreeMap::new(),
            id: ContainerId::random().expect("urandom"),
            name: "n".into(),
            created: jiff::Timestamp::UNIX_EPOCH,
            driver: "bridge".into(),
            v4: Some(Pool {
                network: Ipv4Addr::new(10, 89, 1, 0),
                prefix,
                router: Ipv4Addr::new(10, 89, 1, 1),
                range: None,
            }),
            v6: None,
            internal: false,
            egress: None,
            disable_dns: false,
            dns: Vec::new(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            routes: Vec::new(),
            reserved: BTreeMap::new(),
            config_only: None,
            config_from: None,
        }
    }

    fn take(
        dir: &Path,
        network: &NetworkRecord,
        owner: &ContainerId,
        exists: bool,
    ) -> Result<Option<Ipv4Addr>> {
        lease(dir, network, owner, Wish::default(), |_| exists).map(|(v4, _)| v4)
    }

    #[test]
    fn addresses_are_kept_exhausted_and_taken_from_the_dead() {
        let dir = tempfile::tempdir().expect("tempdir");
        // Of eight addresses five are for containers.
        let network = network(29);
        let owners: Vec<_> = (0..6).map(|_| ContainerId::random().expect("urandom")).collect();
        let mut taken = Vec::new();
        for owner in &owners[..5] {
            let got = take(dir.path(), &network, owner, true).expect("free").expect("v4");
            assert_eq!(take(dir.path(), &network, owner, true).expect("kept"), Some(got));
            taken.push(got.octets()[3]);
        }
        taken.sort_unstable();
        assert_eq!(taken, [2, 3, 4, 5, 6]);
        let err = take(dir.path(), &network, &owners[5], true).expect_err("full");
        assert!(err.to_string().contains("no free address"), "{err}");
        assert!(take(dir.path(), &network, &owners[5], false).expect("of the dead").is_some());
        release(dir.path(), &owners[5]).expect("release");
        assert!(take(dir.path(), &network, &owners[0], true).expect("free").is_some());
    }

    #[test]
    fn a_wish_is_granted_if_it_can_be() {
        let dir = tempfile::tempdir().expect("tempdir");
        let network = network(24);
        let [a, b] = [0; 2].map(|_| ContainerId::random().expect("urandom"));
        let wish = |last| Wish { v4: Some(Ipv4Addr::new(10, 89, 1, last)), v6: None };
        let got = lease(dir.path(), &network, &a, wish(9), |_| true).expect("free");
        assert_eq!(got.0, Some(Ipv4Addr::new(10, 89, 1, 9)));
        let err = lease(dir.path(), &network, &b, wish(9), |_| true).expect_err("taken");
        assert!(err.to_string().contains("is in use"), "{err}");
        for bad in [0, 1, 255] {
            assert!(lease(dir.path(), &network, &b, wish(bad), |_| true).is_err(), "{bad}");
        }
        assert!(lease(dir.path(), &network, &b, wish(9), |_| false).is_ok(), "of the dead");
    }
}
