//! The cable between a bridge and a container.

use std::{fs, os::fd::BorrowedFd};

use super::{
    attachment::{Endpoint, SharedKind, SharedLink},
    link::{self, End},
};
use crate::{
    error::{Context as _, Error, Kind, Result},
    state::ContainerId,
    sys::netlink::{Netlink, Refusal},
};

/// The name of the bridge's end of a container's cable: 15 bytes at most.
pub(super) fn near_name(id: &ContainerId, end: &Endpoint) -> String {
    let number = end.interface.strip_prefix("eth").and_then(|digits| digits.parse::<u8>().ok());
    if let Some(number) = number {
        return format!("v{number}-{}", &id.as_str()[..10]);
    }
    let hash = end
        .interface
        .bytes()
        .fold(0xcbf2_9ce4_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("v{:06x}{}", hash >> 8, &id.as_str()[..8])
}

/// Puts the two ends of a new cable onto the bridge and into the container.
pub(super) fn join(
    route: &mut Netlink,
    bridge: u32,
    namespace: BorrowedFd<'_>,
    near: &str,
    end: &Endpoint,
) -> Result<()> {
    let ours =
        End { name: near, mac: None, namespace: None, master: Some(bridge), is_silent: false };
    let theirs = End {
        name: &end.interface,
        mac: Some(end.mac()?),
        namespace: Some(namespace),
        master: None,
        is_silent: false,
    };
    let near_end = |route: &mut Netlink| -> Result<(), Refusal> {
        let added = match link::add_veth(route, ours, theirs, end.segment.mtu) {
            Err(refusal) if refusal.errno == nix::errno::Errno::EEXIST => {
                remove_leftover(route, near)?;
                link::add_veth(route, ours, theirs, end.segment.mtu)
            }
            added => added,
        };
        added?;
        let index = link::find(route, near)?.ok_or(nix::errno::Errno::ENODEV)?;
        if end.segment.is_isolated {
            link::isolate(route, index)?;
        }
        link::raise_silently(route, index)
    };
    near_end(route).doing_with(|| format!("connect the container to {}", end.segment.network))
}

/// Removes the cable of the container's earlier life: the kernel takes a network namespace down
/// some time after its last process has ended.
fn remove_leftover(route: &mut Netlink, near: &str) -> Result<(), Refusal> {
    let Some(index) = link::find(route, near)? else { return Ok(()) };
    match link::delete(route, index) {
        Err(refusal) if refusal.errno != nix::errno::Errno::ENODEV => Err(refusal),
        _ => Ok(()),
    }
}

/// Sets the container's end as it was asked for, before it is up. The calling thread is in the
/// container's network: procfs shows each thread its own.
pub(super) fn tune(end: &Endpoint) -> Result<()> {
    for sysctl in &end.sysctls {
        let path = sysctl.path(&end.interface);
        fs::write(&path, &sysctl.value)
            .at(&path)
            .doing_with(|| format!("set {sysctl} on network {}", end.segment.network))?;
    }
    Ok(())
}

/// Gives the container's end its addresses and routes.
pub(super) fn address(theirs: &mut Netlink, end: &Endpoint) -> Result<()> {
    let missing = || Refusal::from(nix::errno::Errno::ENODEV);
    let index = link::find(theirs, &end.interface)?.ok_or_else(missing)?;
    link::raise(theirs, index).doing("raise the container's link")?;
    for (address, prefix) in end.addresses().into_iter().chain(end.link_locals()) {
        link::add_address(theirs, index, address, prefix)
            .doing_with(|| format!("give the container the address {address}"))?;
    }
    for route in &end.segment.routes {
        link::add_route(theirs, route)
            .doing_with(|| format!("route {} by {}", route.destination, route.gateway))?;
    }
    if end.is_default_route { route(theirs, end) } else { Ok(()) }
}

/// Gives the container an end on a link of the host's.
pub(super) fn share(
    route: &mut Netlink,
    namespace: BorrowedFd<'_>,
    shared: &SharedLink,
    end: &Endpoint,
) -> Result<()> {
    let parent = link::find(route, &shared.parent)?.ok_or_else(|| {
        Error::not_found(format!(
            "network {} is on the link {}, which is not there",
            end.segment.network, shared.parent
        ))
        .hint("`ip link` lists the host's links; `-o parent=LINK` of `dhow network create` chooses one")
    })?;
    let theirs = End {
        name: &end.interface,
        mac: match shared.kind {
            SharedKind::Macvlan(_) => Some(end.mac()?),
            SharedKind::Ipvlan(_) => None,
        },
        namespace: Some(namespace),
        master: None,
        is_silent: false,
    };
    let added = link::add_shared(route, parent, shared.kind, theirs, end.segment.mtu);
    let unknown = matches!(&added, Err(refusal) if refusal.errno == nix::errno::Errno::EOPNOTSUPP);
    let added = added.doing_with(|| format!("connect the container to {}", end.segment.network));
    match unknown {
        true => added.map_err(|err| {
            err.with_kind(Kind::Unsupported)
                .hint("the kernel has no links of this kind: load the module macvlan or ipvlan")
        }),
        false => added,
    }
}

/// Makes this end the way out.
pub(super) fn route(theirs: &mut Netlink, end: &Endpoint) -> Result<()> {
    let is_routed = end.segment.shared.as_ref().is_some_and(|shared| shared.kind.is_routed());
    let own = match is_routed {
        true => link::find(theirs, &end.interface)?,
        false => None,
    };
    for (router, _) in end.segment.routers() {
        let via = own.map_or(link::Default::Via(router), link::Default::Out);
        link::add_default_route(theirs, router.is_ipv6(), via, None)
            .doing_with(|| format!("route by {router}"))?;
    }
    Ok(())
}
