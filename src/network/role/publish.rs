//! Published ports: from the host to a container, with the client's own address.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
};

use nix::errno::Errno;
use rustix::net::SocketFlags;

use super::{IN, Kind, Role, both_ways, stream::outcome, take_out};
use crate::{
    error::{Error, Result},
    network::{
        attachment::{Attachment, Endpoint, Port, Protocol},
        share::Share,
    },
    state::ContainerId,
    sys::net::{self, Transport},
};

/// The host's listening sockets, and connections on their way from there.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) ports: HashMap<u64, Listening>,
    arriving: HashMap<u64, Arriving>,
}

/// One port on one address of the host's.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) owner: ContainerId,
    transport: Transport,
    pub(super) socket: OwnedFd,
    /// Where it leads.
    pub(super) target: SocketAddr,
    pub(super) end: Endpoint,
}

/// A client is here; the container has not answered yet.
#[derive(Debug)]
struct Arriving {
    owner: Option<ContainerId>,
    client: OwnedFd,
    inner: OwnedFd,
    descriptors: Share,
}

impl Role {
    /// Opens a container's published ports; all or none.
    pub(super) fn publish(&mut self, owner: &ContainerId, to: &mut Attachment) -> Result<()> {
        let mut ports = to.ports.clone();
        let mut opened = Vec::with_capacity(ports.len());
        for at in 0..ports.len() {
            let (before, rest) = ports.split_at_mut(at);
            let (before, port) = (before.last(), &mut rest[0]);
            opened.push(match before.filter(|before| pairs(before, &to.ports[at - 1], port)) {
                // One number for both families, if it is free in the second, too.
                Some(first) => {
                    let same = Port { host_port: first.host_port, ..port.clone() };
                    listen(owner, to, &same).or_else(|_| listen_at_one(owner, to, port))?
                }
                None => listen_at_one(owner, to, port)?,
            });
            port.last_port = 0;
            port.host_port = net::local_address(opened[at].socket.as_fd())?.port();
        }
        to.ports = ports;
        for listening in opened {
            let number = self.watch.number();
            self.watch.add(&listening.socket, Kind::Port, number, IN)?;
            self.published.ports.insert(number, listening);
        }
        Ok(())
    }

    /// Closes a container's published ports.
    pub(super) fn unpublish(&mut self, owner: &ContainerId) {
        self.published.ports.retain(|_, port| port.owner != *owner);
        self.published.arriving.retain(|_, arriving| arriving.owner.as_ref() != Some(owner));
    }

    /// Somebody knocks at a published port.
    pub(super) fn port_ready(&mut self, number: u64) {
        match self.published.ports.get(&number).map(|port| port.transport) {
            Some(Transport::Tcp) => self.accept_clients(number),
            Some(Transport::Udp) => self.read_port(number),
            None => {}
        }
    }

    fn accept_clients(&mut self, number: u64) {
        for _ in 0..super::BATCH {
            let Some(port) = self.published.ports.get(&number) else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(client) = rustix::net::accept_with(&port.socket, flags) else { return };
            let owner = Some(port.owner.clone());
            let descriptors = self.common.connection(&owner);
            let inner = net::peer_address(client.as_fd()).map_err(Error::from).and_then(|from| {
                let _ = net::unpace_within_host(client.as_fd(), from.ip());
                self.inner_socket(Transport::Tcp, port, from)
            });
            let arriving = inner.and_then(|inner| {
                let id = self.watch.next + 1;
                self.watch.add(&inner, Kind::Arriving, id, both_ways())?;
                Ok((id, inner))
            });
            // A client that cannot be served must not wait.
            let _ = net::reset_on_close(client.as_fd());
            if let (Ok((id, inner)), Some(descriptors)) = (arriving, descriptors) {
                self.watch.next = id;
                let arriving = Arriving { owner, client, inner, descriptors };
                self.published.arriving.insert(id, arriving);
            }
        }
    }

    /// A socket inside that bears the client's address, or the router's for a client whose
    /// address could not find its way back.
    pub(super) fn inner_socket(
        &self,
        transport: Transport,
        port: &Listening,
        client: SocketAddr,
    ) -> Result<OwnedFd> {
        let segment = &port.end.segment;
        let mut from = client;
        if client.ip().is_loopback()
            || client.is_ipv4() != port.target.is_ipv4()
            || segment.contains(client.ip())
        {
            let router = segment.router(port.target.ip());
            from = SocketAddr::new(router.ok_or(Errno::EADDRNOTAVAIL)?, 0);
        }
        self.inside.connected(transport, from, port.target)
    }

    /// The container has taken the connection, or refused it.
    pub(super) fn arriving_ready(&mut self, number: u64) {
        let Some(arriving) = self.published.arriving.get(&number) else { return };
        match outcome(&arriving.inner) {
            None => return,
            // Dropped, the client is reset.
            Some(Err(_)) => drop(take_out(&mut self.published.arriving, &number)),
            Some(Ok(())) => {}
        }
        let Some(arriving) = take_out(&mut self.published.arriving, &number) else { return };
        let Arriving { owner, client, inner, descriptors } = arriving;
        let proper = libc::linger { l_onoff: 0, l_linger: 0 };
        let _ = nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::Linger, &proper);
        let (client, inner) = ((client, false), (inner, true));
        if self.join_sockets(owner, None, descriptors, client, inner).is_err() {
            log::debug!("a connection was lost: it could not be watched");
        }
    }
}

/// Whether `port` is the same one of a container's as the one `before` it, for the other family,
/// and both were left to be chosen.
fn pairs(before: &Port, asked: &Port, port: &Port) -> bool {
    let is_open = |port: &Port| port.host_port == 0 || port.last_port != 0;
    is_open(asked)
        && is_open(port)
        && before.host_ip.is_ipv4() != port.host_ip.is_ipv4()
        && (before.container_port, before.protocol) == (port.container_port, port.protocol)
}

/// Opens the first port on the host that can be had, of those that will do.
fn listen_at_one(owner: &ContainerId, to: &Attachment, port: &mut Port) -> Result<Listening> {
    loop {
        match listen(owner, to, port) {
            Err(_) if port.advance() => {}
            other => return other,
        }
    }
}

/// Opens one port on the host.
fn listen(owner: &ContainerId, to: &Attachment, port: &Port) -> Result<Listening> {
    let at = SocketAddr::new(port.host_ip, port.host_port);
    let transport = match port.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    };
    let (end, ip) = to.target(port.host_ip).ok_or_else(|| {
        Error::invalid("a port can only be published on a network that leads to the world")
    })?;
    let open = || -> Result<OwnedFd, Errno> {
        let socket = net::ip_socket(transport, at.ip())?;
        if transport == Transport::Tcp {
            // Old connections of an earlier container do not keep the port.
            net::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        }
        net::bind_to(socket.as_fd(), at)?;
        if transport == Transport::Tcp {
            rustix::net::listen(&socket, 4096)
                .map_err(|err| Errno::from_raw(err.raw_os_error()))?;
        }
        Ok(socket)
    };
    let socket = open().map_err(|errno| port.unavailable(errno))?;
    let target = SocketAddr::new(ip, port.container_port);
    Ok(Listening { owner: owner.clone(), transport, socket, target, end: end.clone() })
}
