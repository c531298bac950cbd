//! Root's name server: a process of its own, started with the first container on a network with
//! names and gone with the last. Whoever connects or removes a container tells it to look again
//! at what runs; that one has ended, it sees by itself.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustix::net::{SocketFlags, accept_with};

use super::{Directory, RESOLV_CONF, Resolvers, Server, listen};
use crate::{
    error::{Context as _, Error, Result},
    network::{
        attachment::Attachment,
        client::{self, Door},
        host::Member,
        protocol::{Refused, Reply, Request, receive, send},
        role::control,
    },
    state::{ContainerId, Layout, store::Lock},
    sys::{self, net, process::SingleThreaded},
};

pub const ROLE: &str = "network-names";
pub(in crate::network) const DOOR: Door = Door { socket: "names.sock", role: ROLE };

const AT_DOOR: u64 = 0;
const AT_SERVER: u64 = 1;
/// How long it stays for the next container: starting one after the other is usual.
const LINGER: Duration = Duration::from_secs(1);

/// Has the server look again, and start if `id`, which has just been connected, needs it. The
/// caller holds the lock of the runtime directory's `network/`.
pub(in crate::network) fn refresh(layout: &Layout, id: Option<&ContainerId>) -> Result<()> {
    let dir = layout.run_network();
    let Some(socket) = client::connect_to(&dir, &DOOR)? else {
        return match id {
            Some(_) => {
                client::start(layout, &dir, &DOOR, &[], None)?;
                ask(client::connect_to(&dir, &DOOR)?, id)
            }
            None => Ok(()),
        };
    };
    ask(Some(socket), id)
}

fn ask(socket: Option<OwnedFd>, id: Option<&ContainerId>) -> Result<()> {
    let gone = || Error::engine("the name server ended as soon as it was started");
    let socket = socket.ok_or_else(gone)?;
    send(&socket, &Request::Refresh(id.cloned()), &[])?;
    let (reply, _) = receive::<Reply>(&socket)?.ok_or_else(gone)?;
    reply.refused.map_or(Ok(()), |refused| Err(refused.into()))
}

/// The hidden role's entry: `dhow network-names ROOT RUNROOT`, the door as descriptor 3.
pub fn main(args: &[OsString]) -> ! {
    let code = match Process::inherit(args) {
        Ok(mut process) => {
            // In the place of one that was killed there is somebody to serve already.
            process.look_again();
            process.serve();
            0
        }
        Err(err) => {
            control::turn_away(&err);
            125
        }
    };
    sys::process::exit_now(code)
}

struct Process {
    layout: Layout,
    epoll: Epoll,
    next: u64,
    door: OwnedFd,
    server: Server,
    callers: HashMap<u64, OwnedFd>,
    /// Inits, by the number of their event.
    members: HashMap<u64, (ContainerId, OwnedFd)>,
    idle: Instant,
}

impl Process {
    fn inherit(args: &[OsString]) -> Result<Self> {
        let wrong = || Error::invalid("the name server was started with the wrong arguments");
        let [root, run] = [0, 1].map(|index| args.get(index));
        let layout = Layout::new(root.ok_or_else(wrong)?, run.ok_or_else(wrong)?);
        control::leave_the_caller(&SingleThreaded::from_the_start())?;
        let make = |transport, to, _| Ok(net::ip_socket(transport, to)?);
        let resolvers = Resolvers::of(RESOLV_CONF);
        let server = Server::new(Directory::default(), resolvers, Box::new(make))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing("make an epoll set")?;
        let door = control::door().ok_or_else(wrong)?;
        let watch = |fd: BorrowedFd<'_>, number| {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number)).doing("watch a socket")
        };
        watch(door.as_fd(), AT_DOOR)?;
        watch(server.as_fd(), AT_SERVER)?;
        let (callers, members, idle) = (HashMap::new(), HashMap::new(), Instant::now());
        Ok(Self { layout, epoll, next: AT_SERVER, door, server, callers, members, idle })
    }

    /// Until nobody needs it.
    fn serve(&mut self) {
        let mut events = [EpollEvent::empty(); 16];
        while !self.is_done() {
            let timeout = match (self.members.is_empty(), self.server.is_waiting()) {
                (false, false) => EpollTimeout::NONE,
                _ => EpollTimeout::from(1000_u16),
            };
            let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
            for event in &events[..count] {
                match event.data() {
                    AT_DOOR => self.open_door(),
                    AT_SERVER => self.server.serve(),
                    number => self.hear(number),
                }
            }
            if self.server.is_waiting() {
                self.server.sweep();
            }
        }
    }

    fn watch(&mut self, fd: BorrowedFd<'_>) -> Result<u64> {
        self.next += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.next);
        self.epoll.add(fd, event).doing("watch a descriptor")?;
        Ok(self.next)
    }

    fn open_door(&mut self) {
        while let Ok(caller) = accept_with(&self.door, SocketFlags::CLOEXEC) {
            if let Ok(number) = self.watch(caller.as_fd()) {
                self.callers.insert(number, caller);
            }
        }
    }

    fn hear(&mut self, number: u64) {
        if self.members.contains_key(&number) {
            self.look_again();
            return;
        }
        let Some(caller) = self.callers.remove(&number) else { return };
        if let Ok(Some((Request::Refresh(id), _))) = receive::<Request>(&caller) {
            let outcome = match id {
                Some(id) => self.look_at(&id),
                None => {
                    self.look_again();
                    Ok(())
                }
            };
            let refused = outcome.err().map(|err| Refused::from(&err));
            let _ = send(&caller, &Reply { refused, ..Reply::default() }, &[]);
        }
    }

    /// Learns what runs now.
    fn look_again(&mut self) {
        let mut all = Member::all(&self.layout);
        all.retain(|member| has_resolver(&member.attachment));
        let here: HashSet<&ContainerId> = all.iter().map(|member| &member.id).collect();
        self.members.retain(|_, (id, _)| here.contains(id));
        let known = self.server.members().map(|(id, _)| id);
        let gone: Vec<ContainerId> = known.filter(|id| !here.contains(id)).cloned().collect();
        gone.iter().for_each(|id| self.server.leave(id));
        for member in all {
            if let Err(err) = self.welcome(member) {
                log::debug!("{err}");
            }
        }
        self.settle();
    }

    /// Learns how a container is connected now, without a look at the others.
    fn look_at(&mut self, id: &ContainerId) -> Result<()> {
        let member = Member::of(&self.layout, id);
        match member.filter(|member| has_resolver(&member.attachment)) {
            Some(member) => self.welcome(member)?,
            None => self.server.leave(id),
        }
        self.settle();
        Ok(())
    }

    fn welcome(&mut self, member: Member) -> Result<()> {
        let Member { id, init, attachment } = member;
        for end in attachment.endpoints.iter().filter(|end| end.segment.has_resolver) {
            if !self.server.hears_at(&end.segment.bridge) {
                self.server.open(listen(&end.segment)?)?;
            }
        }
        self.server.join(id.clone(), attachment);
        if self.members.values().any(|(known, _)| *known == id) {
            return Ok(());
        }
        // One that has ended meanwhile is found out with the next look.
        if let Ok(pidfd) = sys::process::open_pidfd(init) {
            let number = self.watch(pidfd.as_fd())?;
            self.members.insert(number, (id, pidfd));
        }
        Ok(())
    }

    /// Closes the sockets of bridges that nobody is on any more, and stays a while from now on.
    fn settle(&mut self) {
        let ends = self.server.members().flat_map(|(_, attachment)| &attachment.endpoints);
        let used: HashSet<String> = ends.map(|end| end.segment.bridge.clone()).collect();
        self.server.retain(|bridge| used.contains(bridge));
        self.idle = Instant::now();
    }

    /// Whether it may go; then its door is gone, too.
    fn is_done(&mut self) -> bool {
        if !self.members.is_empty() || self.idle.elapsed() < LINGER {
            return false;
        }
        // Who connects a container holds this lock while they speak to the server.
        let dir = self.layout.run_network();
        match Lock::try_exclusive(&dir) {
            Ok(None) => false,
            Ok(Some(_lock)) => {
                let _ = std::fs::remove_file(dir.join(DOOR.socket));
                // With the lock still held.
                sys::process::exit_now(0)
            }
            // The runtime directory was removed: nobody can find this process again.
            Err(_) => true,
        }
    }
}

/// Whether a container asks the server.
pub(in crate::network) fn has_resolver(attachment: &Attachment) -> bool {
    attachment.endpoints.iter().any(|end| end.segment.has_resolver)
}
