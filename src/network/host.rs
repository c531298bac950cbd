//! Networks as root: bridges on the host, and one table of packet rules for what goes out and
//! comes in.
//!
//! No process stays for it. The rules are made anew, whole, from what runs whenever that
//! changes, so nobody's end can leave some behind for longer than until the next change.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
    path::PathBuf,
};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::{
    attachment::{Attachment, Endpoint, Port, Protocol, Segment},
    boot_id,
    cable::{self, address, join, near_name},
    firewall, ids_that_ran, link,
    names::process,
    nft::{self, Chain, Hook, Place, Rule},
    running_one, sweep,
};
use crate::{
    error::{Context as _, Error, Kind, Result},
    state::{
        ContainerId, Layout,
        store::{Durability, Lock, create_private_dir, read_json, write_json},
    },
    sys::netlink::{Netlink, Refusal},
};

/// Connects a container that is recorded already, as its `network.json` says: whole, or the
/// container must not start. Whoever closes the socket waits until replaced rules are freed
/// ([`nft::settle`]).
pub fn attach(layout: &Layout, id: &ContainerId, namespace: BorrowedFd<'_>) -> Result<Netlink> {
    let dir = layout.run_network();
    create_private_dir(&dir)?;
    let _lock = Lock::exclusive(&dir)?;
    let path = layout.container(id).network();
    let mut attachment: Attachment = read_json(&path)?
        .ok_or_else(|| Error::not_found(format!("{}: no such file", path.display())))?;
    if !attachment.ports.is_empty() {
        choose_ports(layout, id, &mut attachment)?;
        write_json(&path, &attachment, Durability::Renamed)?;
    }
    let mut route = Netlink::route().doing("open a netlink socket")?;
    let mut theirs = socket_within(namespace)?;
    for end in &attachment.endpoints {
        lay_cable(layout, id, &mut route, &mut theirs, namespace, end)?;
    }
    let mut filter = packet_rules()?;
    let written = match Written::covering(layout, &mut filter, &attachment) {
        Some(written) => written,
        None => write_rules(nft::settle, layout, &mut filter, &Member::all(layout))?,
    };
    open_others(layout, &mut filter, &written, &attachment);
    if process::has_resolver(&attachment) {
        process::refresh(layout, Some(id))?;
    }
    Ok(filter)
}

/// Changes a container's networks to what its `network.json` says now; `before` is how it was.
pub fn update(
    layout: &Layout,
    id: &ContainerId,
    before: &Attachment,
    namespace: BorrowedFd<'_>,
) -> Result<()> {
    let dir = layout.run_network();
    create_private_dir(&dir)?;
    let lock = Lock::exclusive(&dir)?;
    let path = layout.container(id).network();
    let after: Attachment = read_json(&path)?.unwrap_or_default();
    let mut route = Netlink::route().doing("open a netlink socket")?;
    let mut theirs = socket_within(namespace)?;
    for end in before.endpoints.iter().filter(|end| !after.has(end)) {
        let (socket, name) = match end.segment.shared {
            Some(_) => (&mut theirs, end.interface.clone()),
            None => (&mut route, near_name(id, end)),
        };
        if let Some(index) = link::find(socket, &name)? {
            link::delete(socket, index).doing("remove a cable")?;
        }
    }
    for end in after.endpoints.iter().filter(|end| !before.has(end)) {
        lay_cable(layout, id, &mut route, &mut theirs, namespace, end)?;
    }
    if let Some(end) = after.new_way_out(before) {
        cable::route(&mut theirs, end)?;
    }
    let mut filter = packet_rules()?;
    let written = write_rules(nft::replace, layout, &mut filter, &Member::all(layout))?;
    open_others(layout, &mut filter, &written, &after);
    process::refresh(layout, process::has_resolver(&after).then_some(id))?;
    drop(lock);
    tidy(layout)?.remove()
}

fn lay_cable(
    layout: &Layout,
    id: &ContainerId,
    route: &mut Netlink,
    theirs: &mut Netlink,
    namespace: BorrowedFd<'_>,
    end: &Endpoint,
) -> Result<()> {
    match &end.segment.shared {
        Some(shared) => cable::share(route, namespace, shared, end)?,
        None => {
            note(layout, route, end)?;
            let bridge = raise(route, &end.segment)?;
            join(route, bridge, namespace, &near_name(id, end), end)?;
        }
    }
    if !end.sysctls.is_empty() {
        within(namespace, || cable::tune(end))??;
    }
    address(theirs, end)
}

/// What a container's end leaves, in nobody's way: bridges without a container, which take the
/// kernel some 50 ms to remove, and rules that it has yet to free ([`nft::settle`]). Whoever does
/// not wait for a container removes them when there is time.
#[derive(Debug, Default)]
#[must_use]
pub struct Leftover {
    bridges_of: Option<Layout>,
    /// Whoever closes it waits until the rules are freed.
    _socket: Option<Netlink>,
}

impl Leftover {
    /// Removes it now.
    ///
    /// # Errors
    /// When a bridge cannot be removed: the next end of a container tries again.
    pub fn remove(self) -> Result<()> {
        self.bridges_of.as_ref().map_or(Ok(()), remove_bridges)
    }

    /// Has it removed in a moment, if no container wants it until then.
    pub fn remove_soon(self) {
        let Some(layout) = &self.bridges_of else { return };
        let removed = sweep::start(layout).or_else(|_| remove_bridges(layout));
        if let Err(err) = removed {
            log::debug!("{err}");
        }
    }
}

/// Takes away the rules that belong to nobody any more.
pub fn tidy(layout: &Layout) -> Result<Leftover> {
    let dir = layout.run_network();
    if !dir.is_dir() {
        return Ok(Leftover::default());
    }
    let _lock = Lock::exclusive(&dir)?;
    let bridges = bridges(layout)?;
    if bridges.is_empty() {
        return Ok(Leftover::default());
    }
    let all = Member::all(layout);
    let mut filter = packet_rules()?;
    let written = write_rules(nft::settle, layout, &mut filter, &all)?;
    open_others(layout, &mut filter, &written, &Attachment::default());
    let used = segments(&all);
    let has_unused = bridges.iter().any(|name| !used.contains_key(&**name));
    Ok(Leftover { bridges_of: has_unused.then(|| layout.clone()), _socket: Some(filter) })
}

/// Removes bridges that no container is on now.
pub(super) fn remove_bridges(layout: &Layout) -> Result<()> {
    let _lock = Lock::exclusive(&layout.run_network())?;
    let all = Member::all(layout);
    let used = segments(&all);
    let mut route = Netlink::route().doing("open a netlink socket")?;
    for name in bridges(layout)? {
        if used.contains_key(&*name) {
            continue;
        }
        if let Some(index) = link::find(&mut route, &name)? {
            link::delete(&mut route, index).doing_with(|| format!("remove the bridge {name}"))?;
        }
        let mark = mark(layout, &name);
        if fs::read(&mark).is_ok_and(|text| text == PASSED) {
            firewall::close_legacy(&name);
        }
        fs::remove_file(&mark).at(&mark).doing("remove")?;
    }
    Ok(())
}

/// The bridges that were made, each noted by a file of its name: others are not ours to remove.
fn bridges(layout: &Layout) -> Result<Vec<String>> {
    let dir = layout.run_network();
    let entries = fs::read_dir(&dir).at(&dir)?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let bridge = |name: String| match name.strip_prefix(CHOSEN) {
        Some(chosen) => Some(chosen.to_owned()),
        None => is_usual(&name).then_some(name),
    };
    Ok(names.filter_map(bridge).collect())
}

/// Begins the name of the note of a bridge whose own name was chosen.
const CHOSEN: &str = "bridge:";

/// Whether a bridge's name is one that dhow gives, which other files beside its note cannot have.
fn is_usual(bridge: &str) -> bool {
    bridge == "dhow0" || bridge.starts_with("br-")
}

/// The note of a bridge.
fn mark(layout: &Layout, bridge: &str) -> PathBuf {
    let prefix = if is_usual(bridge) { "" } else { CHOSEN };
    layout.run_network().join(format!("{prefix}{bridge}"))
}

/// A container that runs and is on networks.
#[derive(Debug)]
pub(super) struct Member {
    pub id: ContainerId,
    /// The pid of its init.
    pub init: i32,
    pub attachment: Attachment,
}

impl Member {
    /// `boot_id` is this boot's.
    fn find(layout: &Layout, id: ContainerId, boot_id: &str) -> Option<Self> {
        let process = running_one(layout, &id, boot_id)?;
        let attachment: Attachment = read_json(&layout.container(&id).network()).ok()??;
        (!attachment.by_role).then_some(Self { id, init: process.init.pid, attachment })
    }

    pub(super) fn of(layout: &Layout, id: &ContainerId) -> Option<Self> {
        Self::find(layout, id.clone(), &boot_id())
    }

    /// Whoever runs and is on networks.
    pub(super) fn all(layout: &Layout) -> Vec<Self> {
        let boot_id = boot_id();
        ids_that_ran(layout).filter_map(|id| Self::find(layout, id, &boot_id)).collect()
    }
}

fn segments(all: &[Member]) -> BTreeMap<&str, &Segment> {
    let ends = all.iter().flat_map(|member| &member.attachment.endpoints);
    ends.filter(|end| end.segment.shared.is_none())
        .map(|end| (end.segment.bridge.as_str(), &end.segment))
        .collect()
}

/// The bridge, made if it is not there.
fn raise(route: &mut Netlink, segment: &Segment) -> Result<u32> {
    let name = &segment.bridge;
    let bridge = link::ensure_bridge(route, name, segment.mac())
        .doing_with(|| format!("make the bridge of {}", segment.network))?;
    for (router, prefix) in segment.routers() {
        link::add_address(route, bridge, router, prefix)
            .doing_with(|| format!("give the bridge of {} its address", segment.network))?;
        if segment.is_internal {
            continue;
        }
        match router {
            IpAddr::V4(_) => {
                enable("net/ipv4/ip_forward")?;
                // So that 127.0.0.1 leads to published ports; see `no_strangers`.
                enable(&format!("net/ipv4/conf/{name}/route_localnet"))?;
            }
            IpAddr::V6(_) => enable("net/ipv6/conf/all/forwarding")?,
        }
    }
    Ok(bridge)
}

/// Sets what is not set yet: where it cannot be written it may well be right already.
fn enable(name: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    match fs::read_to_string(&path) {
        Ok(value) if value.trim() == "1" => Ok(()),
        _ => fs::write(&path, "1").at(&path).doing("write"),
    }
}

/// Does something in the container's network. The caller has one thread.
fn within<T>(namespace: BorrowedFd<'_>, act: impl FnOnce() -> T) -> Result<T> {
    let path = "/proc/self/ns/net";
    let own = File::open(path).at(path)?;
    setns(namespace, CloneFlags::CLONE_NEWNET).doing("enter the container's network")?;
    let done = act();
    setns(&own, CloneFlags::CLONE_NEWNET).doing("return from the container's network")?;
    Ok(done)
}

/// A netlink socket of the container's network.
fn socket_within(namespace: BorrowedFd<'_>) -> Result<Netlink> {
    within(namespace, Netlink::route)?.doing("open a netlink socket")
}

/// Refuses ports that somebody has, and finds free ones where none is named.
fn choose_ports(layout: &Layout, id: &ContainerId, attachment: &mut Attachment) -> Result<()> {
    let others = Member::all(layout);
    let taken = |port: &Port, number: u16| {
        others.iter().filter(|other| other.id != *id).find(|other| {
            other.attachment.ports.iter().any(|theirs| {
                theirs.protocol == port.protocol
                    && theirs.host_port == number
                    && theirs.host_ip.is_ipv4() == port.host_ip.is_ipv4()
                    && (theirs.host_ip == port.host_ip
                        || theirs.host_ip.is_unspecified()
                        || port.host_ip.is_unspecified())
            })
        })
    };
    let mut chosen: BTreeMap<(Protocol, u16), u16> = BTreeMap::new();
    for port in &mut attachment.ports {
        let key = (port.protocol, port.container_port);
        let was_open = port.host_port == 0 || port.last_port != 0;
        // The same for both families.
        if let Some(number) = chosen.get(&key).filter(|_| was_open) {
            (port.host_port, port.last_port) = (*number, 0);
        }
        loop {
            let number = match port.probe() {
                Err(_) if port.advance() => continue,
                probed => probed?,
            };
            match taken(port, number) {
                None => {
                    port.host_port = number;
                    break;
                }
                Some(_) if port.host_port == 0 || port.advance() => {}
                Some(other) => {
                    return Err(Error::conflict(format!(
                        "publish {}/{} on {}:{number}: port is already allocated to container {}",
                        port.container_port,
                        port.protocol.name(),
                        port.host_ip,
                        other.id.short()
                    ))
                    .hint("choose another port, or stop that container"));
                }
            }
        }
        if was_open {
            port.last_port = 0;
            chosen.insert(key, port.host_port);
        }
    }
    Ok(())
}

/// Opens the host's other firewalls again for the networks of a container that runs.
pub fn open_firewalls(layout: &Layout, attachment: &Attachment) -> Result<()> {
    let mut filter = Netlink::netfilter().doing("open a netlink socket")?;
    let others = nft::others(&mut filter).doing("list the packet rules")?;
    for segment in bridged(attachment) {
        pass_legacy(layout, &segment.bridge)?;
        if others.has_firewalld {
            firewall::trust_again(layout, &segment.network, &segment.bridge)?;
        }
    }
    Ok(())
}

fn bridged(attachment: &Attachment) -> impl Iterator<Item = &Segment> {
    let segments = attachment.endpoints.iter().map(|end| &end.segment);
    segments.filter(|segment| segment.shared.is_none())
}

/// Our table as it was written last, in the runtime directory's `network/rules.json`: whoever
/// begins to run need not read about all who do, only to find that nothing in it changes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    stamp: Vec<u8>,
    segments: BTreeMap<String, Segment>,
}

impl Written {
    fn path(layout: &Layout) -> PathBuf {
        layout.run_network().join("rules.json")
    }

    /// What is in the kernel, if that is right for `new`, too.
    fn covering(layout: &Layout, filter: &mut Netlink, new: &Attachment) -> Option<Self> {
        let written: Self = read_json(&Self::path(layout)).ok()??;
        let is_there = |segment: &Segment| written.segments.get(&segment.bridge) == Some(segment);
        let is_covered = new.ports.is_empty() && bridged(new).all(is_there);
        (is_covered && nft::stamp(filter).ok()? == Some(written.stamp.clone())).then_some(written)
    }

    /// Notes what is in the kernel now; without a stamp there is nothing to know it by.
    fn note(layout: &Layout, filter: &mut Netlink, all: &[Member]) -> Result<Self> {
        let segments = segments(all).into_iter();
        let segments = segments.map(|(bridge, segment)| (bridge.to_owned(), segment.clone()));
        let stamp = nft::stamp(filter).doing("look at the packet rules")?.unwrap_or_default();
        let written = Self { stamp, segments: segments.collect() };
        let path = Self::path(layout);
        if written.stamp.is_empty() {
            let _ = fs::remove_file(&path);
        } else if read_json(&path).ok().flatten().as_ref() != Some(&written) {
            write_json(&path, &written, Durability::Renamed)?;
        }
        Ok(written)
    }
}

fn packet_rules() -> Result<Netlink> {
    Netlink::netfilter().doing("open a netlink socket").map_err(no_nftables)
}

fn no_nftables(err: Error) -> Error {
    err.with_kind(Kind::Unsupported).hint(
        "networks need nf_tables with its nat and fib parts; or use --network pasta, slirp4netns, host or none",
    )
}

/// Writes our rules for all who run.
fn write_rules(
    write: impl Fn(&mut Netlink, &[Chain]) -> Result<(), Refusal>,
    layout: &Layout,
    filter: &mut Netlink,
    all: &[Member],
) -> Result<Written> {
    let done = write(filter, &rules(all)).doing("write the packet rules");
    done.map_err(no_nftables)?;
    Written::note(layout, filter, all)
}

/// Opens the host's other firewalls for what is written; firewalld's for `new`, of which it was
/// perhaps not told.
fn open_others(layout: &Layout, filter: &mut Netlink, written: &Written, new: &Attachment) {
    let bridges: Vec<&str> = written.segments.keys().map(String::as_str).collect();
    // `doctor` tells of what is in the way.
    let closed = |refusal: &dyn fmt::Display| log::debug!("a firewall stays closed: {refusal}");
    let others = match nft::others(filter) {
        Err(refusal) => return closed(&refusal),
        Ok(others) => others,
    };
    if let Err(refusal) = nft::pass_docker(filter, &others, &bridges) {
        closed(&refusal);
    }
    for segment in bridged(new).filter(|_| others.has_firewalld) {
        if let Err(err) = firewall::trust(layout, &segment.network, &segment.bridge) {
            closed(&err);
        }
    }
}

/// What becomes of packets on the host: nothing new for those that are not to or from a bridge
/// of ours.
fn rules(all: &[Member]) -> Vec<Chain> {
    let segments = segments(all);
    if segments.is_empty() {
        return Vec::new();
    }
    let published: Vec<Rule> =
        all.iter().flat_map(|member| redirects(&member.attachment)).collect();
    let chain = |name, kind, place, priority, rules| Chain {
        name,
        hook: Hook { kind, place, priority },
        rules,
    };
    vec![
        chain("strangers", "filter", Place::Prerouting, -300, no_strangers(&segments)),
        chain("incoming", "nat", Place::Prerouting, -100, published.clone()),
        chain("local", "nat", Place::Output, -100, published),
        chain("outgoing", "nat", Place::Postrouting, 100, masquerades(&segments)),
        chain("between", "filter", Place::Forward, 0, between(&segments)),
    ]
}

/// The host's loopback is nobody's who comes by a bridge, although it is routed now.
fn no_strangers(segments: &BTreeMap<&str, &Segment>) -> Vec<Rule> {
    let loopback = Ipv4Addr::new(127, 0, 0, 0).into();
    segments
        .keys()
        .map(|bridge| Rule::new().from_link(bridge).address_in(false, loopback, 8).drop())
        .collect()
}

fn redirects(attachment: &Attachment) -> Vec<Rule> {
    let redirect = |port: &Port| {
        let (_, ip) = attachment.target(port.host_ip)?;
        // Between families there is no translation.
        if ip.is_ipv4() != port.host_ip.is_ipv4() {
            return None;
        }
        let protocol = match port.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        let any = port.host_ip.is_unspecified();
        let prefix = if port.host_ip.is_ipv4() { 32 } else { 128 };
        let rule = match any {
            true if port.host_ip.is_ipv6() => {
                // The kernel routes nothing of it (IPv4's route_localnet is IPv4's only): who asks
                // there is refused, and does not wait.
                let own = Ipv6Addr::LOCALHOST.into();
                Rule::new().address_not_in(false, own, 128).to_this_host()
            }
            true => Rule::new().of_family(port.host_ip).to_this_host(),
            false => Rule::new().address_in(false, port.host_ip, prefix),
        };
        Some(rule.of_protocol(protocol).to_port(port.host_port).redirect(ip, port.container_port))
    };
    attachment.ports.iter().filter_map(redirect).collect()
}

fn masquerades(segments: &BTreeMap<&str, &Segment>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (bridge, segment) in segments {
        let v4 = segment.v4.map(|subnet| (IpAddr::from(subnet.network), subnet.prefix));
        let v6 = segment.v6.map(|subnet| (IpAddr::from(subnet.network), subnet.prefix));
        for (network, prefix) in v4.into_iter().chain(v6) {
            let from_here = || Rule::new().address_in(true, network, prefix);
            // A container that asks for a published port of its own network.
            rules.push(from_here().to_link(bridge).of_changed_destination().masquerade());
            if !segment.is_internal {
                rules.push(from_here().not_to_link(bridge).masquerade());
            }
        }
        let loopback = Ipv4Addr::new(127, 0, 0, 0).into();
        rules.push(Rule::new().address_in(true, loopback, 8).to_link(bridge).masquerade());
    }
    rules
}

/// Networks are kept apart; into one comes what was published, and answers.
fn between(segments: &BTreeMap<&str, &Segment>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (bridge, segment) in segments {
        // Frames between ports that are isolated do not pass the bridge, packets that the host
        // routes not here, unless they are for what is published. (Where br_netfilter is on, the
        // bridge takes those for frames.)
        if !segment.is_isolated {
            rules.push(Rule::new().from_link(bridge).to_link(bridge).accept());
        }
        if segment.is_internal {
            rules.push(Rule::new().from_link(bridge).drop());
            rules.push(Rule::new().to_link(bridge).drop());
        }
    }
    for bridge in segments.keys() {
        rules.push(Rule::new().to_link(bridge).of_known_connection().accept());
        rules.push(Rule::new().to_link(bridge).of_changed_destination().accept());
        rules.push(Rule::new().to_link(bridge).drop());
    }
    rules
}

/// Notes a bridge before it is made, so that it is removed whatever happens.
fn note(layout: &Layout, route: &mut Netlink, end: &Endpoint) -> Result<()> {
    let name = &end.segment.bridge;
    let mark = mark(layout, name);
    if mark.exists() {
        return Ok(());
    }
    if !is_usual(name) && link::find(route, name)?.is_some() {
        return Err(Error::conflict(format!(
            "the host has a link {name} already: it cannot be the bridge of network {}",
            end.segment.network
        ))
        .hint("choose another name for the bridge: -o com.docker.network.bridge.name=LINK"));
    }
    fs::write(&mark, "").at(&mark).doing("write")?;
    pass_legacy(layout, &end.segment.bridge)
}

/// In a bridge's note: rules were made for it that others list.
const PASSED: &[u8] = b"passed";

fn pass_legacy(layout: &Layout, bridge: &str) -> Result<()> {
    if !firewall::pass_legacy(bridge) {
        return Ok(());
    }
    let mark = mark(layout, bridge);
    fs::write(&mark, PASSED).at(&mark).doing("write")
}
