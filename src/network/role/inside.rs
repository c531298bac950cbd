//! The role's other half: one thread that lives in the network namespace of the containers'
//! bridges, and makes there what only somebody inside can make.
//!
//! Sockets belong to the namespace in which they were made, whoever uses them. The role's main
//! thread stays in the host's, asks for what it needs, and waits for it: a system call or two.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::mpsc,
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::{
    error::{Context as _, Error, Kind, Result},
    network::{
        attachment::{Endpoint, Segment},
        cable::{self, address, join},
        link::{self, End},
        names::{Ear, listen},
        nft::{self, Chain, Hook, Place, Rule},
    },
    sys::{
        net::{self, Transport},
        netlink::Netlink,
    },
};

/// The kernel's end of the cable, and the role's.
const KERNEL_END: &str = "up0";
const ROLE_END: &str = "up1";
/// Where opened connections are handed to the role: at addresses that no container reaches.
const LISTENERS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15001),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 15001),
];
/// Packets that are for a socket of the role's.
const MARK: u32 = 1;
const TABLE: u8 = 100;
/// As large as an IPv4 packet gets, so that none is cut on the cable.
const CABLE_MTU: u32 = 65_535;
/// What a socket of the role's on this side may hold, in bytes.
const BUFFER: u32 = 1 << 20;
/// The thread calls the kernel and little else.
const STACK: usize = 128 << 10;

type Job = Box<dyn FnOnce(&mut World) + Send>;

/// The way to the thread.
#[derive(Debug, Clone)]
pub(super) struct Inside(mpsc::Sender<Job>);

/// What is made at the beginning.
#[derive(Debug)]
pub(super) struct Sockets {
    /// The role's end of the cable.
    pub packets: OwnedFd,
    /// Listeners for connections whose first packet was put back: IPv4's, and IPv6's if there is
    /// IPv6.
    pub listeners: Vec<OwnedFd>,
}

impl Inside {
    /// Starts the thread in a network namespace of its own, with a cable and no bridge yet.
    pub(super) fn start() -> Result<(Self, Sockets)> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (report, begun) = mpsc::channel();
        thread::Builder::new()
            .name("inside".into())
            .stack_size(STACK)
            .spawn(move || {
                let mut world = match World::make() {
                    Ok((world, sockets)) => {
                        let _ = report.send(Ok(sockets));
                        world
                    }
                    Err(err) => {
                        let _ = report.send(Err(err));
                        return;
                    }
                };
                while let Ok(job) = inbox.recv() {
                    job(&mut world);
                }
            })
            .doing("start the thread inside")?;
        let sockets = begun.recv().map_err(|_| Error::engine("the thread inside died"))??;
        Ok((Self(jobs), sockets))
    }

    /// Has something done inside.
    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut World) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (report, done) = mpsc::sync_channel(1);
        let job = Box::new(move |world: &mut World| drop(report.send(job(world))));
        self.0.send(job).map_err(|_| Error::engine("the thread inside died"))?;
        done.recv().map_err(|_| Error::engine("the thread inside died"))?
    }

    /// A socket that speaks as `from` with `to`, which is inside; neither needs to be ours.
    pub(super) fn connected(
        &self,
        transport: Transport,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<OwnedFd> {
        self.ask(move |_| {
            let socket = net::transparent_socket(transport, from.ip())?;
            net::bind_to(socket.as_fd(), from)?;
            net::connect_to(socket.as_fd(), to)?;
            Ok(socket)
        })
    }

    /// A socket that speaks with addresses like `like` inside.
    pub(super) fn socket(&self, transport: Transport, like: IpAddr) -> Result<OwnedFd> {
        self.ask(move |_| Ok(net::ip_socket(transport, like)?))
    }

    /// Connects a container's network namespace to a segment. The first there brings the name
    /// server's sockets with it.
    pub(super) fn attach(
        &self,
        namespace: OwnedFd,
        near: String,
        end: Endpoint,
    ) -> Result<Vec<Ear>> {
        self.ask(move |world| world.attach(namespace.as_fd(), &near, &end))
    }

    /// Makes an end the way out of its container.
    pub(super) fn route(&self, namespace: OwnedFd, end: Endpoint) -> Result<()> {
        self.ask(move |world| cable::route(&mut world.socket_within(namespace.as_fd())?, &end))
    }

    /// Takes the cable of this name away, and the bridge if it was the last there; `true` then.
    pub(super) fn detach(&self, near: String, segment: Segment) -> Result<bool> {
        self.ask(move |world| world.detach(&near, &segment))
    }
}

/// The namespace as its inhabitant sees it.
struct World {
    namespace: File,
    route: Netlink,
    filter: Netlink,
    has_v6: bool,
    /// Segments by their bridge's name, and how many ends are on each.
    segments: BTreeMap<String, (Segment, usize)>,
}

impl World {
    fn make() -> Result<(Self, Sockets)> {
        unshare(CloneFlags::CLONE_NEWNET).doing("make a network namespace")?;
        let path = "/proc/thread-self/ns/net";
        let namespace = File::open(path).at(path)?;
        net::raise_loopback().doing("raise the loopback interface")?;
        let mut world = Self {
            namespace,
            route: Netlink::route().doing("open a netlink socket")?,
            filter: Netlink::netfilter().map_err(|err| no_nftables(err.into()))?,
            has_v6: link::has_v6(),
            segments: BTreeMap::new(),
        };
        world.lay_cable().map_err(no_links)?;
        world.write_rules().map_err(no_nftables)?;
        let up1 = net::interface_index(ROLE_END).doing("find the cable")?;
        let packets = net::packet_socket(up1).doing("open a packet socket")?;
        let listeners = world.listeners().iter().map(|at| listener(*at)).collect::<Result<_>>()?;
        Ok((world, Sockets { packets, listeners }))
    }

    /// Everything that is for nobody here goes out by the cable, and what is for a socket of the
    /// role's comes in, whatever address it bears.
    fn lay_cable(&mut self) -> Result<()> {
        let end = |name| End { name, mac: None, namespace: None, master: None, is_silent: true };
        let cable =
            link::add_veth(&mut self.route, end(KERNEL_END), end(ROLE_END), Some(CABLE_MTU));
        cable.doing("make the cable to the role")?;
        for name in [ROLE_END, KERNEL_END] {
            let index = net::interface_index(name).doing("find the cable")?;
            link::raise_silently(&mut self.route, index).doing("raise the cable")?;
        }
        self.set("ipv4/ip_forward", "1")?;
        // No wire is between the role's sockets and a container's.
        self.set("ipv4/tcp_congestion_control", net::UNPACED)?;
        // And what lies in its buffers has left the caches by the time it is read: larger ones than
        // these carry a fifth less.
        for (what, usual) in [("rmem", 131_072), ("wmem", 16_384)] {
            self.set(&format!("ipv4/tcp_{what}"), &format!("4096 {usual} {BUFFER}"))?;
        }
        for link in ["all", KERNEL_END, ROLE_END, "default"] {
            // Packets put back bear a container's address where none is expected.
            self.set(&format!("ipv4/conf/{link}/rp_filter"), "0")?;
        }
        let up0 = net::interface_index(KERNEL_END).doing("find the cable")?;
        let lo = net::interface_index("lo").doing("find the loopback interface")?;
        let families: &[bool] = if self.has_v6 { &[false, true] } else { &[false] };
        if self.has_v6 {
            self.set("ipv6/conf/all/forwarding", "1")?;
            self.set(&format!("ipv6/conf/{ROLE_END}/disable_ipv6"), "1")?;
        }
        for &v6 in families {
            let route = &mut self.route;
            link::add_default_route(route, v6, link::Default::Out(up0), None)
                .doing("route to the role")?;
            link::add_default_route(route, v6, link::Default::Here(lo), Some(TABLE))
                .doing("route to the role's sockets")?;
            link::add_mark_rule(route, v6, MARK, TABLE).doing("route to the role's sockets")?;
        }
        Ok(())
    }

    /// Leaves frames between containers to the bridge alone, where the module br_netfilter would
    /// have each of them go through packet rules, too.
    fn pass_frames(&self) {
        for kind in ["iptables", "ip6tables", "arptables"] {
            let name = format!("bridge/bridge-nf-call-{kind}");
            let is_there = fs::exists(format!("/proc/sys/net/{name}")).unwrap_or(false);
            if is_there && let Err(err) = self.set(&name, "0") {
                // They are slower, and no worse.
                log::debug!("{err}");
            }
        }
    }

    /// Writes a setting of this network namespace: procfs shows each thread its own.
    fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).at(&path).doing("write")
    }

    fn listeners(&self) -> &'static [SocketAddr] {
        if self.has_v6 { &LISTENERS } else { &LISTENERS[..1] }
    }

    fn write_rules(&mut self) -> Result<(), Error> {
        let listeners = self.listeners();
        let segments = self.segments.values().map(|(segment, _)| segment);
        nft::replace(&mut self.filter, &rules(listeners, segments)).doing("write the packet rules")
    }

    fn attach(
        &mut self,
        namespace: BorrowedFd<'_>,
        near: &str,
        end: &Endpoint,
    ) -> Result<Vec<Ear>> {
        let (bridge, ears) = self.raise(&end.segment)?;
        let joined = self.socket_within(namespace).and_then(|mut theirs| {
            // What a role that was killed left there goes away with its network, but not at once.
            if let Some(index) = link::find(&mut theirs, &end.interface)? {
                link::delete(&mut theirs, index).doing("remove an old cable")?;
            }
            join(&mut self.route, bridge, namespace, near, end)?;
            if !end.sysctls.is_empty() {
                self.within(namespace, || cable::tune(end))??;
            }
            address(&mut theirs, end)
        });
        if joined.is_err() {
            let _ = self.detach(near, &end.segment);
        }
        joined.map(|()| ears)
    }

    /// The bridge of a segment, made if it is the first end there; counts one end more.
    fn raise(&mut self, segment: &Segment) -> Result<(u32, Vec<Ear>)> {
        let bridge = link::ensure_bridge(&mut self.route, &segment.bridge, segment.mac())
            .doing_with(|| format!("make the bridge of {}", segment.network))?;
        if let Some((_, ends)) = self.segments.get_mut(&segment.bridge) {
            *ends += 1;
            return Ok((bridge, Vec::new()));
        }
        self.pass_frames();
        for (router, prefix) in segment.routers() {
            link::add_address(&mut self.route, bridge, router, prefix)
                .doing_with(|| format!("give the bridge of {} its address", segment.network))?;
        }
        self.segments.insert(segment.bridge.clone(), (segment.clone(), 1));
        self.write_rules()?;
        if !segment.has_resolver {
            return Ok((bridge, Vec::new()));
        }
        match listen(segment) {
            Ok(ears) => Ok((bridge, ears)),
            Err(err) => {
                self.segments.remove(&segment.bridge);
                Err(err)
            }
        }
    }

    fn detach(&mut self, near: &str, segment: &Segment) -> Result<bool> {
        if let Some(index) = link::find(&mut self.route, near)? {
            link::delete(&mut self.route, index).doing("remove a cable")?;
        }
        let Some((_, ends)) = self.segments.get_mut(&segment.bridge) else { return Ok(false) };
        *ends -= 1;
        if *ends > 0 {
            return Ok(false);
        }
        self.segments.remove(&segment.bridge);
        if let Some(index) = link::find(&mut self.route, &segment.bridge)? {
            link::delete(&mut self.route, index).doing("remove a bridge")?;
        }
        self.write_rules().map(|()| true)
    }

    /// Does something in a container's namespace: the way in and back is ours, since its user
    /// namespace is below the role's.
    fn within<T>(&self, namespace: BorrowedFd<'_>, act: impl FnOnce() -> T) -> Result<T> {
        setns(namespace, CloneFlags::CLONE_NEWNET).doing("enter the container's network")?;
        let done = act();
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).doing("return to the role's network")?;
        Ok(done)
    }

    fn socket_within(&self, namespace: BorrowedFd<'_>) -> Result<Netlink> {
        self.within(namespace, Netlink::route)?.doing("open a netlink socket")
    }
}

fn listener(at: SocketAddr) -> Result<OwnedFd> {
    let socket = net::transparent_socket(Transport::Tcp, at.ip()).doing("open a socket")?;
    net::bind_to(socket.as_fd(), at).doing("bind a socket")?;
    rustix::net::listen(&socket, 1024).doing("listen")?;
    Ok(socket)
}

fn no_links(err: Error) -> Error {
    err.context("networks need veth and bridge links in the kernel")
        .with_kind(Kind::Unsupported)
        .hint("load the modules veth and bridge, or install passt or slirp4netns, which then carry the default network; or use --network host or none")
}

fn no_nftables(err: Error) -> Error {
    err.context("rootless networks need nf_tables in the kernel, with its tproxy and socket parts")
        .with_kind(Kind::Unsupported)
        .hint(
            "load the modules nf_tables, nft_tproxy and nft_socket, or install passt or slirp4netns, which then carry the default network; or use --network host or none",
        )
}

/// What becomes of packets inside.
///
/// Before routing: what bears an address that is none of its network's is dropped (BCP 38), so
/// that nobody is taken for a container of another network; what comes out of the cable's far end
/// is the role's and goes no further; a connection that was put back goes to the listener; the
/// first packet of any other goes where routes say; what belongs to a socket of the role's is
/// delivered. Then networks are kept apart from each other, and internal ones from the world.
fn rules<'a>(listeners: &[SocketAddr], segments: impl Iterator<Item = &'a Segment>) -> Vec<Chain> {
    let delivered = |rule: Rule| rule.for_transparent_socket().mark(MARK).accept();
    let segments: Vec<&Segment> = segments.collect();
    let mut before: Vec<Rule> = segments.iter().flat_map(|segment| strangers(segment)).collect();
    before.extend([Rule::new().from_link(ROLE_END).drop()]);
    before.extend(listeners.iter().map(|at| {
        Rule::new().from_link(KERNEL_END).opens_tcp().to_listener(*at).mark(MARK).accept()
    }));
    before.extend([
        Rule::new().opens_tcp().accept(),
        delivered(Rule::new().of_protocol(6)),
        delivered(Rule::new().of_protocol(17)),
    ]);
    let mut between = Vec::new();
    for segment in segments {
        let bridge = &segment.bridge;
        if !segment.is_isolated {
            between.push(Rule::new().from_link(bridge).to_link(bridge).accept());
        }
        if segment.is_internal {
            between.push(Rule::new().from_link(bridge).drop());
        }
    }
    between.push(Rule::new().from_link(KERNEL_END).accept());
    between.push(Rule::new().to_link(KERNEL_END).accept());
    between.push(Rule::new().drop());
    let hook = |place, priority| Hook { kind: "filter", place, priority };
    vec![
        Chain { name: "before", hook: hook(Place::Prerouting, -150), rules: before },
        Chain { name: "between", hook: hook(Place::Forward, 0), rules: between },
    ]
}

/// What comes by a segment's bridge from addresses that are not the segment's; neighbours look for
/// each other by link-local ones (RFC 4861, 4.3).
fn strangers(segment: &Segment) -> Vec<Rule> {
    let from_here = || Rule::new().from_link(&segment.bridge);
    let v4 = segment.v4.map(|subnet| {
        from_here().address_not_in(true, subnet.network.into(), subnet.prefix).drop()
    });
    let v6 = segment.v6.map(|subnet| {
        from_here()
            .address_not_in(true, subnet.network.into(), subnet.prefix)
            .address_not_in(true, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 10)
            .address_not_in(true, Ipv6Addr::UNSPECIFIED.into(), 128)
            .drop()
    });
    v4.into_iter().chain(v6).collect()
}
