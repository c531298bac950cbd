//! Connections from containers to the world.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::errno::Errno;
use rustix::net::SocketFlags;

use super::{
    Kind, Role, both_ways,
    frame::{Flow, Packet, Unreachable},
    take_out,
};
use crate::{
    network::{attachment::HOST_ADDRESS, share::Share},
    state::{ContainerId, egress::EgressProtocol},
    sys::net::{self, Transport},
};

/// How long a connected socket waits for the container's side of the handshake.
const ARRIVAL: Duration = Duration::from_secs(30);

/// Connections on their way.
#[derive(Debug, Default)]
pub(super) struct Opened {
    flows: HashMap<Flow, Attempt>,
    numbers: HashMap<u64, Flow>,
}

#[derive(Debug)]
pub(super) struct Attempt {
    number: u64,
    pub(super) owner: Option<ContainerId>,
    host: OwnedFd,
    /// Where its bytes are counted.
    pub(super) account: Option<usize>,
    descriptors: Share,
    _opening: Share,
    /// The first packet, to be put back or answered.
    frame: Vec<u8>,
    /// Since when it is connected, if it is.
    connected: Option<Instant>,
}

impl Opened {
    /// Whether something could come to nothing.
    pub(super) fn is_waiting(&self) -> bool {
        !self.flows.is_empty()
    }

    fn take(&mut self, flow: &Flow) -> Option<Attempt> {
        let attempt = take_out(&mut self.flows, flow)?;
        take_out(&mut self.numbers, &attempt.number);
        Some(attempt)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Attempt) -> bool) {
        self.flows.retain(|_, attempt| keep(attempt));
        self.numbers.retain(|_, flow| self.flows.contains_key(flow));
    }
}

impl Role {
    /// A container wants to connect: so do we, in its place.
    pub(super) fn open_connection(&mut self, flow: Flow, packet: &Packet<'_>) {
        match self.opened.flows.get(&flow) {
            // The kernel has lost what we put back, or its answer.
            Some(attempt) if attempt.connected.is_some() => {
                return self.put_back(&attempt.frame);
            }
            Some(_) => return,
            None => {}
        }
        let owner = self.container_at(flow.client.ip());
        let Some((opening, descriptors)) = self.common.opening(&owner) else { return };
        let Ok(account) = self.judge(EgressProtocol::Tcp, owner.as_ref(), flow.server) else {
            return self.refuse(Errno::EACCES, packet);
        };
        let number = self.watch.number();
        let connecting = || -> Result<OwnedFd, Errno> {
            let target = self.outside(flow.server)?;
            let host = net::ip_socket(Transport::Tcp, target.ip())?;
            net::connect_to(host.as_fd(), target)?;
            let _ = net::unpace_within_host(host.as_fd(), target.ip());
            Ok(host)
        };
        match connecting() {
            Err(errno) => self.refuse(errno, packet),
            Ok(host) => {
                if self.watch.add(&host, Kind::Opening, number, both_ways()).is_err() {
                    return;
                }
                let frame = packet.completed();
                self.opened.numbers.insert(number, flow);
                let attempt = Attempt {
                    number,
                    owner,
                    host,
                    account,
                    descriptors,
                    _opening: opening,
                    frame,
                    connected: None,
                };
                self.opened.flows.insert(flow, attempt);
            }
        }
    }

    /// The host's address for one that a container uses. What means the host itself on the host
    /// means nothing in a container.
    pub(super) fn outside(&self, server: SocketAddr) -> Result<SocketAddr, Errno> {
        let ip = server.ip();
        if ip == IpAddr::from(HOST_ADDRESS) {
            return Ok(SocketAddr::new(net::own_address()?, server.port()));
        }
        let is_nowhere = match ip {
            IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some() || v6.is_unicast_link_local(),
        };
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_nowhere {
            return Err(Errno::ENETUNREACH);
        }
        Ok(server)
    }

    /// The answer a connection gets that cannot be made, as true as ICMP has words for it.
    pub(super) fn refuse(&self, errno: Errno, packet: &Packet<'_>) {
        self.put_back(&match unreachable(errno) {
            Some(why) => packet.unreachable(why),
            None => packet.reset(),
        });
    }

    /// The connection stands, or does not.
    pub(super) fn opening_ready(&mut self, number: u64) {
        let Some(flow) = self.opened.numbers.get(&number).copied() else { return };
        let Some(attempt) = self.opened.flows.get_mut(&flow) else { return };
        if attempt.connected.is_some() {
            return;
        }
        match outcome(&attempt.host) {
            Some(Ok(())) => {
                attempt.connected = Some(Instant::now());
                let frame = std::mem::take(&mut attempt.frame);
                self.put_back(&frame);
                if let Some(attempt) = self.opened.flows.get_mut(&flow) {
                    attempt.frame = frame;
                }
            }
            Some(Err(errno)) => {
                if let Some(attempt) = self.opened.take(&flow)
                    && let Some(packet) = Packet::parse(&attempt.frame)
                {
                    self.refuse(errno, &packet);
                }
            }
            None => {}
        }
    }

    /// What was put back has become a connection.
    pub(super) fn accept_inner(&mut self, listener: u64) {
        for _ in 0..super::BATCH {
            let listener = usize::try_from(listener).ok().and_then(|n| self.listeners.get(n));
            let Some(Ok(inner)) = listener.map(|listener| {
                rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
            }) else {
                return;
            };
            let flow = || -> Result<Flow, Errno> {
                let client = net::peer_address(inner.as_fd())?;
                Ok(Flow { client, server: net::local_address(inner.as_fd())? })
            };
            let attempt = flow().ok().and_then(|flow| self.opened.take(&flow));
            let joined = match attempt {
                Some(Attempt { owner, account, descriptors, host, .. }) => self
                    .join_sockets(owner, account, descriptors, (inner, false), (host, true))
                    .is_ok(),
                None => {
                    let _ = net::reset_on_close(inner.as_fd());
                    true
                }
            };
            if !joined {
                log::debug!("a connection was lost: it could not be watched");
            }
        }
    }

    /// Gives up on containers that never came back for their connection.
    pub(super) fn sweep_opened(&mut self) {
        let late = |attempt: &Attempt| attempt.connected.is_some_and(|at| at.elapsed() > ARRIVAL);
        self.opened.retain(|attempt| !late(attempt));
    }

    /// Forgets the connections that this address has begun.
    pub(super) fn forget_opened(&mut self, of: IpAddr) {
        let flows: Vec<Flow> =
            self.opened.flows.keys().filter(|flow| flow.client.ip() == of).copied().collect();
        for flow in flows {
            self.opened.take(&flow);
        }
    }
}

/// Whether a connection has been made; `None` if that is not known yet.
pub(super) fn outcome(socket: &OwnedFd) -> Option<Result<(), Errno>> {
    match nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::SocketError) {
        Ok(0) => match net::peer_address(socket.as_fd()) {
            Ok(_) => Some(Ok(())),
            Err(Errno::ENOTCONN) => None,
            Err(errno) => Some(Err(errno)),
        },
        Ok(errno) => Some(Err(Errno::from_raw(errno))),
        Err(errno) => Some(Err(errno)),
    }
}

/// The error of ICMP that makes a kernel say this errno; `None` is a plain refusal.
pub(super) fn unreachable(errno: Errno) -> Option<Unreachable> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "errnos are open")]
    match errno {
        Errno::ECONNREFUSED | Errno::ECONNRESET => None,
        Errno::ENETUNREACH | Errno::EAFNOSUPPORT => Some(Unreachable::Network),
        Errno::EACCES | Errno::EPERM => Some(Unreachable::Prohibited),
        _ => Some(Unreachable::Host),
    }
}
