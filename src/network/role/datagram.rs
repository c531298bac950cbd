//! Datagrams: a pair of sockets for each flow, one in the host's network and one inside, and
//! echo requests through ping sockets.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        epoll::EpollFlags,
        socket::{MsgFlags, SockaddrStorage, recv, recvfrom, send, sendto},
    },
};

use super::{
    IN, Kind, Role,
    frame::{Flow, Packet, Unreachable},
    stream::unreachable,
    take_out,
};
use crate::{
    error::Result,
    network::share::Share,
    state::{ContainerId, egress::EgressProtocol},
    sys::net::{self, Transport},
};

/// Silence after which a flow is forgotten: conntrack's own times (nf_conntrack-sysctl.rst).
const UNANSWERED: Duration = Duration::from_secs(30);
const ANSWERED: Duration = Duration::from_secs(120);
/// A question of DNS, and its answer, are all there is.
const DNS: Duration = Duration::from_secs(10);

/// All flows, by number and by who talks to whom.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    flows: HashMap<u64, Pair>,
    outbound: HashMap<Flow, u64>,
    inbound: HashMap<(u64, SocketAddr), u64>,
    echoes: HashMap<(IpAddr, IpAddr, [u8; 2]), u64>,
}

/// One flow's sockets.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) owner: Option<ContainerId>,
    /// Where its bytes are counted.
    pub(super) account: Option<usize>,
    way: Way,
    last: Instant,
    is_answered: bool,
    /// In what is common to all.
    _shares: (Share, Share),
}

#[derive(Debug)]
enum Way {
    /// From a container to the world; `head` is the first frame's beginning.
    Out { flow: Flow, host: OwnedFd, inner: OwnedFd, head: Vec<u8> },
    /// From a client to the published port of this number.
    In { port: u64, client: SocketAddr, inner: OwnedFd },
    /// Echo requests.
    Echo { key: (IpAddr, IpAddr, [u8; 2]), host: OwnedFd, head: Vec<u8> },
}

impl Datagrams {
    /// Whether something could be forgotten.
    pub(super) fn is_waiting(&self) -> bool {
        !self.flows.is_empty()
    }

    pub(super) fn numbers(&self, which: impl Fn(&Pair) -> bool) -> Vec<u64> {
        let found = self.flows.iter().filter(|(_, pair)| which(pair));
        found.map(|(number, _)| *number).collect()
    }

    pub(super) fn forget(&mut self, number: u64) {
        let Some(pair) = take_out(&mut self.flows, &number) else { return };
        match pair.way {
            Way::Out { flow, .. } => take_out(&mut self.outbound, &flow),
            Way::In { port, client, .. } => take_out(&mut self.inbound, &(port, client)),
            Way::Echo { key, .. } => take_out(&mut self.echoes, &key),
        };
    }
}

impl Pair {
    fn new(
        owner: Option<ContainerId>,
        account: Option<usize>,
        way: Way,
        shares: (Share, Share),
    ) -> Self {
        let last = Instant::now();
        Self { owner, account, way, last, is_answered: false, _shares: shares }
    }

    fn patience(&self) -> Duration {
        match &self.way {
            Way::Out { flow, .. } if flow.server.port() == 53 => DNS,
            Way::Out { .. } | Way::In { .. } | Way::Echo { .. } => {
                if self.is_answered {
                    ANSWERED
                } else {
                    UNANSWERED
                }
            }
        }
    }
}

impl Role {
    /// The first datagram of a flow to the world; those that follow come by the inner socket.
    pub(super) fn open_flow(&mut self, flow: Flow, packet: &Packet<'_>) {
        if let Some(number) = self.datagrams.outbound.get(&flow) {
            // It was on its way before the inner socket was there.
            if let Some(Pair { way: Way::Out { host, .. }, last, owner, account, .. }) =
                self.datagrams.flows.get_mut(number)
            {
                *last = Instant::now();
                let sent = send(host.as_raw_fd(), packet.datagram(), MsgFlags::empty());
                self.guards.count_for(owner.as_ref(), *account, sent.unwrap_or(0), 0);
            }
            return;
        }
        let owner = self.container_at(flow.client.ip());
        let Some(shares) = self.common.flow(&owner, 2) else { return };
        let Ok(account) = self.judge(EgressProtocol::Udp, owner.as_ref(), flow.server) else {
            return self.put_back(&packet.unreachable(Unreachable::Prohibited));
        };
        let opened = self.pair_for(flow);
        let (host, inner) = match opened {
            Ok(pair) => pair,
            Err(errno) => {
                let why = unreachable(errno).unwrap_or(Unreachable::Port);
                return self.put_back(&packet.unreachable(why));
            }
        };
        let number = self.watch.number();
        let watched = self
            .watch
            .add(&host, Kind::Outer, number, IN)
            .and_then(|()| self.watch.add(&inner, Kind::InnerFlow, number, IN));
        if watched.is_err() {
            return;
        }
        let sent = send(host.as_raw_fd(), packet.datagram(), MsgFlags::empty()).unwrap_or(0);
        self.guards.count_for(owner.as_ref(), account, sent, 0);
        let way = Way::Out { flow, host, inner, head: packet.head().to_vec() };
        self.datagrams.outbound.insert(flow, number);
        self.datagrams.flows.insert(number, Pair::new(owner, account, way, shares));
    }

    fn pair_for(&self, flow: Flow) -> Result<(OwnedFd, OwnedFd), Errno> {
        let target = self.outside(flow.server)?;
        let host = net::ip_socket(Transport::Udp, target.ip())?;
        net::connect_to(host.as_fd(), target)?;
        let inner = self.inside.connected(Transport::Udp, flow.server, flow.client);
        Ok((host, inner.map_err(|_| Errno::ENETUNREACH)?))
    }

    /// An echo request to the world.
    pub(super) fn open_echo(&mut self, from: IpAddr, to: IpAddr, packet: &Packet<'_>) {
        let Some(id) = packet.transport().get(4..6).and_then(|id| id.try_into().ok()) else {
            return;
        };
        let key = (from, to, id);
        let known = self.datagrams.echoes.get(&key).copied();
        let number = match known {
            Some(number) => number,
            None => match self.new_echo(key, packet) {
                Ok(Some(number)) => number,
                Ok(None) => return,
                Err(errno) => {
                    let why = unreachable(errno).unwrap_or(Unreachable::Host);
                    return self.put_back(&packet.unreachable(why));
                }
            },
        };
        if let Some(Pair { way: Way::Echo { host, .. }, last, owner, account, .. }) =
            self.datagrams.flows.get_mut(&number)
        {
            *last = Instant::now();
            let sent = send(host.as_raw_fd(), packet.transport(), MsgFlags::empty()).unwrap_or(0);
            self.guards.count_for(owner.as_ref(), *account, sent, 0);
        }
    }

    /// `None` if there is no room for it.
    fn new_echo(
        &mut self,
        key: (IpAddr, IpAddr, [u8; 2]),
        packet: &Packet<'_>,
    ) -> Result<Option<u64>, Errno> {
        let at = SocketAddr::new(key.1, 0);
        let owner = self.container_at(key.0);
        let Some(shares) = self.common.flow(&owner, 1) else { return Ok(None) };
        let verdict = self.judge(EgressProtocol::Icmp, owner.as_ref(), at);
        let account = verdict.map_err(|()| Errno::EACCES)?;
        let target = self.outside(at)?;
        let host = net::ping_socket(target.ip())?;
        net::connect_to(host.as_fd(), target)?;
        let number = self.watch.number();
        self.watch.add(&host, Kind::Outer, number, IN).map_err(|_| Errno::ENOSPC)?;
        let way = Way::Echo { key, host, head: packet.head().to_vec() };
        self.datagrams.echoes.insert(key, number);
        self.datagrams.flows.insert(number, Pair::new(owner, account, way, shares));
        Ok(Some(number))
    }

    /// Datagrams for a published port.
    pub(super) fn read_port(&mut self, port: u64) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..super::BATCH {
            let Some(listening) = self.published.ports.get(&port) else { break };
            let received = recvfrom::<SockaddrStorage>(listening.socket.as_raw_fd(), &mut buffer);
            let (count, client) = match received {
                Ok((count, Some(client))) => (count, client),
                // An earlier answer could not be delivered: that is not about what is to come.
                Err(Errno::ECONNREFUSED) => continue,
                Ok((_, None)) | Err(_) => break,
            };
            let Ok(client) = net::to_std(&client) else { continue };
            self.deliver(port, client, &buffer[..count]);
        }
        self.buffer = buffer;
    }

    fn deliver(&mut self, port: u64, client: SocketAddr, datagram: &[u8]) {
        let key = (port, client);
        let number = match self.datagrams.inbound.get(&key) {
            Some(number) => *number,
            None => {
                let Some(listening) = self.published.ports.get(&port) else { return };
                let owner = Some(listening.owner.clone());
                let Some(shares) = self.common.flow(&owner, 1) else { return };
                let Ok(inner) = self.inner_socket(Transport::Udp, listening, client) else {
                    return;
                };
                let number = self.watch.number();
                if self.watch.add(&inner, Kind::InnerFlow, number, IN).is_err() {
                    return;
                }
                self.datagrams.inbound.insert(key, number);
                let pair = Pair::new(owner, None, Way::In { port, client, inner }, shares);
                self.datagrams.flows.insert(number, pair);
                number
            }
        };
        if let Some(pair) = self.datagrams.flows.get_mut(&number) {
            pair.last = Instant::now();
            if let Way::In { inner, .. } = &pair.way {
                let _ = send(inner.as_raw_fd(), datagram, MsgFlags::empty());
            }
        }
    }

    /// From the world to a container.
    pub(super) fn outer_ready(&mut self, number: u64, _events: EpollFlags) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..super::BATCH {
            let Some(pair) = self.datagrams.flows.get_mut(&number) else { break };
            let (host, head) = match &pair.way {
                Way::Out { host, head, .. } | Way::Echo { host, head, .. } => (host, head),
                Way::In { .. } => break,
            };
            match recv(host.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(count) => {
                    pair.last = Instant::now();
                    pair.is_answered = true;
                    self.guards.count_for(pair.owner.as_ref(), pair.account, 0, count);
                    let received = &buffer[..count];
                    match &pair.way {
                        Way::Out { inner, .. } => {
                            let _ = send(inner.as_raw_fd(), received, MsgFlags::empty());
                        }
                        Way::Echo { head, .. } => {
                            let answer =
                                Packet::parse(head).map(|asked| asked.echo_reply(received));
                            self.put_back(&answer.unwrap_or_default());
                        }
                        Way::In { .. } => {}
                    }
                }
                Err(Errno::EAGAIN) => break,
                // What the world says of it, the container hears.
                Err(errno) => {
                    let why = unreachable(errno).unwrap_or(Unreachable::Port);
                    let error = Packet::parse(head).map(|asked| asked.unreachable(why));
                    self.put_back(&error.unwrap_or_default());
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// From a container: to the world, or back to a client.
    pub(super) fn inner_ready(&mut self, number: u64, _events: EpollFlags) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..super::BATCH {
            let Some(pair) = self.datagrams.flows.get_mut(&number) else { break };
            let (Way::Out { inner, .. } | Way::In { inner, .. }) = &pair.way else { break };
            let count = match recv(inner.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(count) => count,
                Err(Errno::EAGAIN) => break,
                // The container's port is closed. The next datagram asks again.
                Err(_) => continue,
            };
            pair.last = Instant::now();
            match &pair.way {
                Way::Out { host, .. } => {
                    let sent = send(host.as_raw_fd(), &buffer[..count], MsgFlags::empty());
                    let owner = pair.owner.as_ref();
                    self.guards.count_for(owner, pair.account, sent.unwrap_or(0), 0);
                }
                Way::In { port, client, .. } => {
                    pair.is_answered = true;
                    if let Some(port) = self.published.ports.get(port) {
                        let to = SockaddrStorage::from(*client);
                        let socket = port.socket.as_raw_fd();
                        let _ = sendto(socket, &buffer[..count], &to, MsgFlags::empty());
                    }
                }
                Way::Echo { .. } => {}
            }
        }
        self.buffer = buffer;
    }

    /// Forgets flows that have been silent for long.
    pub(super) fn sweep_datagrams(&mut self) {
        for number in self.datagrams.numbers(|pair| pair.last.elapsed() > pair.patience()) {
            self.datagrams.forget(number);
        }
    }

    /// Passes on what a container has sent last, and forgets its flows.
    pub(super) fn finish_datagrams_of(&mut self, owner: &ContainerId) {
        for number in self.datagrams.numbers(|pair| pair.owner.as_ref() == Some(owner)) {
            self.inner_ready(number, EpollFlags::empty());
            self.datagrams.forget(number);
        }
    }
}
