//! The network role: carries the traffic of an ordinary user's containers.
//!
//! One process a user, dhow itself in a hidden role, started by the first container that needs
//! it and gone with the last. It is root of a user namespace in which the containers' own are
//! born, so it has rights over their networks, and it is at home in the host's network, so it
//! can open sockets there like any program of the user's. It sleeps in `epoll_wait(2)`.
//!
//! ```text
//! container               namespace inside                        role              host
//! eth0 --veth-- bridge --- kernel routes -- up0 ==cable== up1 --> packet socket
//!   first packet of a connection to the world --------------------> connect() ----------> server
//!                tproxy <------------------- put back <------------ connected
//!                listener ----------------- accepted socket ------> splice <------------> server
//!   or, if it cannot be: <-- reset or ICMP error <----------------- refused
//! ```
//!
//! So `connect()` in a container tells the truth, and after the first packet the kernel carries
//! both halves. Datagrams go the same way, through a pair of sockets for each flow (`datagram`).
//! Published ports are the same backwards: the host's socket is the listener, the socket inside
//! bears the client's address (`publish`). No container can take all of what the role has for
//! them (`common`).

mod common;
pub(super) mod control;
mod datagram;
mod frame;
mod guard;
mod inside;
mod publish;
mod relay;
mod stream;

use std::{
    collections::HashMap,
    ffi::OsString,
    hash::Hash,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use self::{
    common::Common,
    control::Control,
    datagram::Datagrams,
    frame::{Opening, Packet},
    guard::Guards,
    inside::Inside,
    publish::Published,
    relay::{Pipes, Relay, Side, Standing},
    stream::Opened,
};
use crate::{
    error::{Context as _, Error, Result},
    network::{
        attachment::HOST_ADDRESS,
        names::{Directory, RESOLV_CONF, Resolvers, Server},
        share::Share,
    },
    state::{ContainerId, Layout},
    sys::{self, fd, net, netlink::Netlink, process::SingleThreaded},
};

pub const ROLE: &str = "network-role";

/// Events taken at once.
const BATCH: usize = 64;
/// How often what waits in vain is looked for, while anything waits.
const SWEEP: Duration = Duration::from_secs(5);
/// A packet, whole: an IPv4 one's most, and the frame's header.
const FRAME_MAX: usize = (64 << 10) + 64;

/// What an event is about. Numbers are never used twice, so an event that comes late finds
/// nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// The role's end of the cable.
    Cable = 1,
    /// A connection that was put back arrives.
    Inner,
    /// Somebody wants to speak to the role.
    Door,
    /// Somebody does.
    Caller,
    /// A container's init.
    Container,
    /// A connection to the world is being made.
    Opening,
    /// One socket of a connection that is carried, and the other.
    Relay,
    RelayBack,
    /// A published port.
    Port,
    /// A connection from a published port to a container is being made.
    Arriving,
    /// The host's side of a flow of datagrams, and the container's.
    Outer,
    InnerFlow,
    /// The name server's.
    Names,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Cable,
        Self::Inner,
        Self::Door,
        Self::Caller,
        Self::Container,
        Self::Opening,
        Self::Relay,
        Self::RelayBack,
        Self::Port,
        Self::Arriving,
        Self::Outer,
        Self::InnerFlow,
        Self::Names,
    ];
}

/// Who waits for what.
#[derive(Debug)]
struct Watch {
    epoll: Epoll,
    next: u64,
}

impl Watch {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Events of `fd` come under this kind and number; with EPOLLET once each.
    fn add(&self, fd: impl AsFd, kind: Kind, number: u64, flags: EpollFlags) -> Result<()> {
        let event = EpollEvent::new(flags, number << 8 | kind as u64);
        self.epoll.add(fd, event).doing("watch a socket")
    }

    /// The same descriptor means something else from now on.
    fn change(&self, fd: impl AsFd, kind: Kind, number: u64, flags: EpollFlags) -> Result<()> {
        let mut event = EpollEvent::new(flags, number << 8 | kind as u64);
        self.epoll.modify(fd, &mut event).doing("watch a socket")
    }
}

const IN: EpollFlags = EpollFlags::EPOLLIN;

fn both_ways() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}

/// Takes one out of a map, and gives back the room of a crowd that has gone: by itself a map keeps
/// it for as many as there ever were.
fn take_out<K: Eq + Hash, V>(map: &mut HashMap<K, V>, key: &K) -> Option<V> {
    const FEW: usize = 256;
    let taken = map.remove(key);
    if map.len() < map.capacity() / 8 && map.capacity() > FEW {
        map.shrink_to(map.len() * 2);
    }
    taken
}

/// The hidden role's entry: `dhow network-role ROOT RUNROOT`, the door as descriptor 3, and as
/// descriptor 4 the user namespace of containers that an earlier role left.
pub fn main(args: &[OsString]) -> ! {
    let code = match Role::inherit(args) {
        Ok(mut role) => {
            role.serve();
            0
        }
        Err(err) => {
            // Whoever waits at the door hears it.
            control::turn_away(&err);
            125
        }
    };
    sys::process::exit_now(code)
}

/// Resolvers that are containers can be reached from inside only.
fn name_server(inside: &Inside) -> Result<Server> {
    let inside = inside.clone();
    let make = move |transport, to, is_inside| match is_inside {
        true => inside.socket(transport, to),
        false => Ok(net::ip_socket(transport, to)?),
    };
    let directory = Directory { host: Some(HOST_ADDRESS.into()), ..Directory::default() };
    Server::new(directory, Resolvers::of(RESOLV_CONF), Box::new(make))
}

/// A connection that is carried.
#[derive(Debug)]
struct Carried {
    owner: Option<ContainerId>,
    relay: Relay,
    /// Where its bytes are counted.
    account: Option<usize>,
    _descriptors: Share,
}

struct Role {
    layout: Layout,
    watch: Watch,
    inside: Inside,
    /// Our end of the cable.
    cable: OwnedFd,
    listeners: Vec<OwnedFd>,
    control: Control,
    pipes: Pipes,
    opened: Opened,
    relays: HashMap<u64, Carried>,
    /// Relays that wait for their next turn.
    again: Vec<u64>,
    published: Published,
    datagrams: Datagrams,
    names: Server,
    guards: Guards,
    common: Common,
    /// The host's.
    routes: Netlink,
    buffer: Vec<u8>,
    swept: Instant,
}

impl Role {
    fn inherit(args: &[OsString]) -> Result<Self> {
        let wrong = || Error::invalid("the network role was started with the wrong arguments");
        let [root, run] = [0, 1].map(|index| args.get(index));
        let layout = Layout::new(root.ok_or_else(wrong)?, run.ok_or_else(wrong)?);
        control::leave_the_caller(&SingleThreaded::from_the_start())?;
        if let Some(namespace) = fd::inherited(4) {
            // Before there is a thread: it is refused afterwards (setns(2)).
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWUSER)
                .doing("join the user namespace of running containers")?;
        }
        let (inside, sockets) = Inside::start()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing("make an epoll set")?;
        let watch = Watch { epoll, next: 1 };
        watch.add(&sockets.packets, Kind::Cable, 0, IN)?;
        for (number, listener) in (0..).zip(&sockets.listeners) {
            watch.add(listener, Kind::Inner, number, IN)?;
        }
        let names = name_server(&inside)?;
        watch.add(&names, Kind::Names, 0, IN)?;
        let door = control::door().ok_or_else(wrong)?;
        watch.add(&door, Kind::Door, 0, IN)?;
        let mut role = Self {
            layout,
            watch,
            inside,
            cable: sockets.packets,
            listeners: sockets.listeners,
            control: Control::new(door),
            pipes: Pipes::default(),
            opened: Opened::default(),
            relays: HashMap::new(),
            again: Vec::new(),
            published: Published::default(),
            datagrams: Datagrams::default(),
            names,
            guards: Guards::default(),
            common: Common::new()?,
            routes: Netlink::route().doing("open a netlink socket")?,
            buffer: vec![0; FRAME_MAX],
            swept: Instant::now(),
        };
        role.restore();
        Ok(role)
    }

    /// Until nobody needs it.
    fn serve(&mut self) {
        let mut events = [EpollEvent::empty(); BATCH];
        while !self.is_done() {
            let waiting = self.opened.is_waiting() || self.datagrams.is_waiting();
            let asking = self.names.is_waiting();
            let timeout = match (self.again.is_empty(), waiting || asking, self.control.patience())
            {
                (false, ..) => EpollTimeout::ZERO,
                (true, _, Some(patience)) => EpollTimeout::from(patience),
                (true, _, None) if self.guards.are_dirty() => EpollTimeout::from(1000_u16),
                (true, true, None) if asking => EpollTimeout::from(1000_u16),
                (true, true, None) => EpollTimeout::from(5000_u16),
                (true, false, None) => EpollTimeout::NONE,
            };
            let count = self.watch.epoll.wait(&mut events, timeout).unwrap_or(0);
            for event in &events[..count] {
                self.handle(event.data(), event.events());
            }
            for number in std::mem::take(&mut self.again) {
                self.turn(number, Relay::turn);
            }
            if asking {
                self.names.sweep();
            }
            self.guards.write(&self.layout);
            if waiting && self.swept.elapsed() >= SWEEP {
                self.swept = Instant::now();
                self.sweep_opened();
                self.sweep_datagrams();
            }
        }
    }

    fn handle(&mut self, data: u64, events: EpollFlags) {
        let number = data >> 8;
        let Some(kind) = Kind::ALL.into_iter().find(|kind| *kind as u64 == data & 0xff) else {
            return;
        };
        match kind {
            Kind::Cable => self.read_cable(),
            Kind::Inner => self.accept_inner(number),
            Kind::Door => self.open_door(),
            Kind::Caller => self.hear(number),
            Kind::Container => self.container_ended(number),
            Kind::Opening => self.opening_ready(number),
            Kind::Relay => self.turn(number, |relay, pipes| relay.heed(Side::A, events, pipes)),
            Kind::RelayBack => self.turn(number, |relay, pipes| relay.heed(Side::B, events, pipes)),
            Kind::Port => self.port_ready(number),
            Kind::Arriving => self.arriving_ready(number),
            Kind::Outer => self.outer_ready(number, events),
            Kind::InnerFlow => self.inner_ready(number, events),
            Kind::Names => {
                self.names.serve();
                self.guards.observe(self.names.take_observed());
            }
        }
    }

    /// What nobody inside could take: first packets to the world.
    fn read_cable(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..BATCH {
            let Ok(count) = nix::unistd::read(&self.cable, &mut buffer) else { break };
            let Some(packet) = Packet::parse(&buffer[..count]) else { continue };
            match packet.opening() {
                Some(Opening::Tcp(flow)) => self.open_connection(flow, &packet),
                Some(Opening::Udp(flow)) => self.open_flow(flow, &packet),
                Some(Opening::Echo { from, to }) => self.open_echo(from, to, &packet),
                None => {}
            }
        }
        self.buffer = buffer;
    }

    /// Sends a frame to the kernel's end of the cable. One that does not fit now is lost, as
    /// packets may be.
    fn put_back(&self, frame: &[u8]) {
        let _ = nix::unistd::write(&self.cable, frame);
    }

    /// Lets two sockets talk from now on, for as long as this container is there. Each comes
    /// with the number under which it was watched before, if it was.
    fn join_sockets(
        &mut self,
        owner: Option<ContainerId>,
        account: Option<usize>,
        descriptors: Share,
        a: (OwnedFd, bool),
        b: (OwnedFd, bool),
    ) -> Result<()> {
        let number = self.watch.number();
        for ((socket, was_watched), kind) in [(&a, Kind::Relay), (&b, Kind::RelayBack)] {
            match was_watched {
                true => self.watch.change(socket, kind, number, both_ways())?,
                false => self.watch.add(socket, kind, number, both_ways())?,
            }
        }
        let relay = Relay::new(a.0, b.0);
        let carried = Carried { owner, relay, account, _descriptors: descriptors };
        self.relays.insert(number, carried);
        self.turn(number, Relay::turn);
        Ok(())
    }

    /// Ends a container's connections, after what has been said.
    fn finish_relays_of(&mut self, owner: &ContainerId) {
        let its = self.relays.iter().filter(|(_, carried)| carried.owner.as_ref() == Some(owner));
        for number in its.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.turn(number, Relay::finish);
        }
    }

    fn turn(&mut self, number: u64, take: impl FnOnce(&mut Relay, &mut Pipes) -> Standing) {
        let Some(Carried { owner, relay, account, .. }) = self.relays.get_mut(&number) else {
            return;
        };
        let standing = take(relay, &mut self.pipes);
        if let (Some(owner), Some(account)) = (owner, account) {
            let (sent, received) = relay.take_moved();
            self.guards.count(owner, *account, sent, received);
        }
        match standing {
            Standing::Waits => {}
            Standing::Again => self.again.push(number),
            Standing::Over => drop(take_out(&mut self.relays, &number)),
        }
    }
}
