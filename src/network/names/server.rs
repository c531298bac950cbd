//! The name server: sockets at the routers' addresses, questions that are forwarded, and answers
//! on their way back. It waits in an epoll set of its own, which whoever runs it watches.

use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{MsgFlags, SockaddrStorage, recv, recvfrom, send, sendto},
    },
};
use rustix::net::{SocketFlags, accept_with};

use super::{
    directory::{Directory, Found},
    framed::Framed,
    message::{self, Code, Question},
    resolvers::{PORT, Resolvers},
};
use crate::{
    error::{Context as _, Error, Result},
    network::{
        attachment::{Attachment, Segment},
        share::{Share, Shares},
    },
    state::ContainerId,
    sys::net::{self, Transport},
};

/// Questions forwarded at once, of which nobody has all; more fail.
const ASKED_MAX: usize = 1024;
/// Conversations over TCP at once.
const CALLERS_MAX: usize = 256;
/// How long one resolver is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long somebody may say nothing over TCP.
const SILENCE: Duration = Duration::from_secs(10);
const DATAGRAM_MAX: usize = 64 << 10;
/// Events, and datagrams of one socket, taken at once.
const BATCH: usize = 64;

/// Makes a socket that reaches containers (`true`), or one that reaches the world.
pub(crate) type MakeSocket = Box<dyn Fn(Transport, IpAddr, bool) -> Result<OwnedFd>>;

pub(crate) struct Server {
    epoll: Epoll,
    next: u64,
    directory: Directory,
    resolvers: Resolvers,
    random: File,
    make_socket: MakeSocket,
    ears: HashMap<u64, Ear>,
    callers: HashMap<u64, Caller>,
    asked: HashMap<u64, Asked>,
    buffer: Vec<u8>,
    /// About containers with an egress policy, until somebody takes it.
    observed: Vec<(ContainerId, Observed)>,
    /// Questions forwarded, and conversations.
    questions: Shares<ContainerId>,
    conversations: Shares<ContainerId>,
    /// Counts answers, so that of several addresses each comes first in turn.
    answers: usize,
}

/// What is seen of a container's questions to the world.
#[derive(Debug)]
pub(crate) enum Observed {
    /// It asked for this name, and may or may not.
    Asked { name: String, is_allowed: bool },
    /// It hears that the name stands for these addresses, for so many seconds.
    Learned { name: String, addresses: Vec<(IpAddr, u32)> },
}

/// A socket at a router's address.
#[derive(Debug)]
pub(crate) struct Ear {
    pub(crate) bridge: String,
    transport: Transport,
    socket: OwnedFd,
}

/// Somebody who asks over TCP.
struct Caller {
    from: IpAddr,
    stream: Framed,
    last: Instant,
    _share: Share,
}

/// A question that a resolver was asked.
struct Asked {
    /// As it came.
    query: Vec<u8>,
    question: Question,
    asker: Asker,
    id: u16,
    /// Those to be asked if this one does not answer.
    others: Vec<SocketAddr>,
    way: Way,
    until: Instant,
    share: Share,
}

#[derive(Debug, Clone, Copy)]
enum Asker {
    Datagram { ear: u64, client: SocketAddr },
    Caller(u64),
}

enum Way {
    Datagram(OwnedFd),
    Stream(Framed),
}

/// Opens a segment's sockets for questions, in the network namespace of its bridge.
pub(crate) fn listen(segment: &Segment) -> Result<Vec<Ear>> {
    let mut ears = Vec::new();
    for (router, _) in segment.routers() {
        let at = SocketAddr::new(router, PORT);
        for transport in [Transport::Udp, Transport::Tcp] {
            let open = || -> Result<OwnedFd, Errno> {
                let socket = net::ip_socket(transport, router)?;
                net::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
                net::bind_to(socket.as_fd(), at)?;
                if transport == Transport::Tcp {
                    rustix::net::listen(&socket, 64)
                        .map_err(|err| Errno::from_raw(err.raw_os_error()))?;
                }
                Ok(socket)
            };
            let socket = open().map_err(|errno| unavailable(errno, at, segment))?;
            ears.push(Ear { bridge: segment.bridge.clone(), transport, socket });
        }
    }
    Ok(ears)
}

fn unavailable(errno: Errno, at: SocketAddr, segment: &Segment) -> Error {
    let err =
        Error::from(errno).context(format!("answer names of network {} at {at}", segment.network));
    match errno == Errno::EADDRINUSE {
        true => err.hint(
            "another name server has port 53 of every address: bind it to some, or make the network with --disable-dns",
        ),
        false => err,
    }
}

impl Server {
    pub(crate) fn new(
        directory: Directory,
        resolvers: Resolvers,
        make_socket: MakeSocket,
    ) -> Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing("make an epoll set")?,
            next: 0,
            directory,
            resolvers,
            random: File::open("/dev/urandom").at("/dev/urandom")?,
            make_socket,
            ears: HashMap::new(),
            callers: HashMap::new(),
            asked: HashMap::new(),
            buffer: Vec::new(),
            observed: Vec::new(),
            questions: Shares::of(ASKED_MAX),
            conversations: Shares::of(CALLERS_MAX),
            answers: 0,
        })
    }

    /// A container is there, or has changed.
    pub(crate) fn join(&mut self, id: ContainerId, attachment: Attachment) {
        self.directory.members.insert(id, attachment);
    }

    pub(crate) fn leave(&mut self, id: &ContainerId) {
        self.directory.members.remove(id);
    }

    /// Those who can ask.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&ContainerId, &Attachment)> {
        self.directory.members.iter()
    }

    /// The bridges where questions are heard.
    pub(crate) fn hears_at(&self, bridge: &str) -> bool {
        self.ears.values().any(|ear| ear.bridge == bridge)
    }

    pub(crate) fn open(&mut self, ears: Vec<Ear>) -> Result<()> {
        for ear in ears {
            let number = self.watch(ear.socket.as_fd(), EpollFlags::EPOLLIN)?;
            self.ears.insert(number, ear);
        }
        Ok(())
    }

    /// Closes the sockets of bridges that are not kept.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.ears.retain(|_, ear| keep(&ear.bridge));
    }

    /// Whether somebody waits for something that may never come.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.asked.is_empty() || !self.callers.is_empty()
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, flags: EpollFlags) -> Result<u64> {
        self.next += 1;
        self.epoll.add(fd, EpollEvent::new(flags, self.next)).doing("watch a socket")?;
        Ok(self.next)
    }

    /// What was seen since this was asked last; to be heeded before anything else is heard of
    /// the containers.
    pub(crate) fn take_observed(&mut self) -> Vec<(ContainerId, Observed)> {
        std::mem::take(&mut self.observed)
    }

    /// The container with this address, if it has an egress policy.
    fn confined(&self, from: IpAddr) -> Option<ContainerId> {
        let (id, member) = self.directory.member_at(from)?;
        (!member.egress.is_empty()).then(|| id.clone())
    }

    /// Does what there is to do now.
    pub(crate) fn serve(&mut self) {
        let mut events = [EpollEvent::empty(); BATCH];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..count] {
            let number = event.data();
            match self.ears.get(&number).map(|ear| ear.transport) {
                Some(Transport::Udp) => self.hear(number),
                Some(Transport::Tcp) => self.answer_door(number),
                None if self.callers.contains_key(&number) => self.listen_to(number),
                None => self.answered(number),
            }
        }
        if !self.is_waiting() {
            // Sleeping takes no memory.
            self.buffer = Vec::new();
        }
    }

    /// Asks the next resolver where one does not answer, and gives up on whoever is silent.
    pub(crate) fn sweep(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> = (self.asked.iter())
            .filter(|(_, asked)| asked.until <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            self.try_next(number);
        }
        let asking: Vec<u64> = (self.asked.values())
            .filter_map(|asked| match asked.asker {
                Asker::Caller(caller) => Some(caller),
                Asker::Datagram { .. } => None,
            })
            .collect();
        self.callers
            .retain(|number, caller| caller.last.elapsed() < SILENCE || asking.contains(number));
    }

    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(DATAGRAM_MAX, 0);
        buffer
    }

    /// Questions by datagram.
    fn hear(&mut self, ear: u64) {
        let mut buffer = self.buffer();
        for _ in 0..BATCH {
            let Some(socket) = self.ears.get(&ear).map(|ear| ear.socket.as_raw_fd()) else { break };
            let (count, client) = match recvfrom::<SockaddrStorage>(socket, &mut buffer) {
                Ok((count, Some(client))) => (count, client),
                // An earlier answer could not be delivered.
                Err(Errno::ECONNREFUSED) => continue,
                Ok((_, None)) | Err(_) => break,
            };
            if let Ok(client) = net::to_std(&client) {
                let asker = Asker::Datagram { ear, client };
                self.ask(asker, client.ip(), &buffer[..count]);
            }
        }
        self.buffer = buffer;
    }

    fn answer_door(&mut self, ear: u64) {
        for _ in 0..BATCH {
            let Some(door) = self.ears.get(&ear) else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = accept_with(&door.socket, flags) else { return };
            let Ok(from) = net::peer_address(socket.as_fd()) else { continue };
            let from = from.ip();
            let who = self.directory.member_at(from).map(|(id, _)| id.clone());
            let Some(share) = who.and_then(|id| self.conversations.take(id, 1)) else { continue };
            if let Ok(number) = self.watch(socket.as_fd(), both_ways()) {
                let (stream, last) = (Framed::new(socket), Instant::now());
                self.callers.insert(number, Caller { from, stream, last, _share: share });
            }
        }
    }

    fn listen_to(&mut self, number: u64) {
        let Some(caller) = self.callers.get_mut(&number) else { return };
        caller.last = Instant::now();
        let from = caller.from;
        let has_ended = caller.stream.advance().unwrap_or(true);
        let mut queries = Vec::new();
        while let Some(query) = caller.stream.take() {
            queries.push(query);
        }
        // Who asks and closes at once does not want the answer.
        if has_ended {
            self.callers.remove(&number);
            return;
        }
        for query in queries {
            self.ask(Asker::Caller(number), from, &query);
        }
    }

    fn ask(&mut self, asker: Asker, from: IpAddr, query: &[u8]) {
        let question = match message::parse(query) {
            Ok(Some(question)) => question,
            Ok(None) => return,
            Err(code) => return self.tell(asker, None, message::verdict(query, None, code)),
        };
        let found = self.directory.find(from, &question);
        if let Some(id) = self.confined(from) {
            let is_allowed = matches!(found, Found::Elsewhere(_));
            if is_allowed || matches!(found, Found::Nothing(Code::Refused)) {
                let name = question.name.clone();
                self.observed.push((id, Observed::Asked { name, is_allowed }));
            }
        }
        let told = match found {
            Found::Records(mut records) => {
                self.answers = self.answers.wrapping_add(1);
                let count = records.len().max(1);
                records.rotate_left(self.answers % count);
                message::answer(query, &question, &records)
            }
            Found::Nothing(code) => message::verdict(query, Some(&question), code),
            Found::Elsewhere(servers) => {
                let servers = match servers.is_empty() {
                    true => self.resolvers.now().to_vec(),
                    false => servers,
                };
                let who = self.directory.member_at(from).map(|(id, _)| id.clone());
                return match who.and_then(|id| self.questions.take(id, 1)) {
                    Some(share) => self.ask_first(asker, query.to_vec(), question, servers, share),
                    None => self.fail(asker, query, &question),
                };
            }
        };
        self.tell(asker, Some(&question), told);
    }

    fn tell(&mut self, asker: Asker, question: Option<&Question>, answer: Vec<u8>) {
        match asker {
            Asker::Datagram { ear, client } => {
                let Some(ear) = self.ears.get(&ear) else { return };
                let answer = match question {
                    Some(question) => message::fitting(answer, question),
                    None => answer,
                };
                let to = SockaddrStorage::from(client);
                let _ = sendto(ear.socket.as_raw_fd(), &answer, &to, MsgFlags::empty());
            }
            Asker::Caller(number) => {
                let Some(caller) = self.callers.get_mut(&number) else { return };
                if caller.stream.send(&answer).is_err() {
                    self.callers.remove(&number);
                }
            }
        }
    }

    fn fail(&mut self, asker: Asker, query: &[u8], question: &Question) {
        let failed = message::verdict(query, Some(question), Code::Failed);
        self.tell(asker, Some(question), failed);
    }

    /// Asks the first of these resolvers that can be asked.
    fn ask_first(
        &mut self,
        asker: Asker,
        query: Vec<u8>,
        question: Question,
        mut servers: Vec<SocketAddr>,
        share: Share,
    ) {
        while !servers.is_empty() {
            let server = servers.remove(0);
            if let Ok((number, way, id)) = self.send_to(asker, server, &query) {
                let until = Instant::now() + PATIENCE;
                let asked =
                    Asked { query, question, asker, id, others: servers, way, until, share };
                self.asked.insert(number, asked);
                return;
            }
        }
        self.fail(asker, &query, &question);
    }

    /// By the way the question came. A socket and a number of its own for each: who wants to
    /// answer in a resolver's place has to guess both (RFC 5452).
    fn send_to(
        &mut self,
        asker: Asker,
        server: SocketAddr,
        query: &[u8],
    ) -> Result<(u64, Way, u16)> {
        let mut random = [0; 2];
        self.random.read_exact(&mut random).at("/dev/urandom")?;
        let id = u16::from_ne_bytes(random);
        let transport = match asker {
            Asker::Datagram { .. } => Transport::Udp,
            Asker::Caller(_) => Transport::Tcp,
        };
        let is_inside = self.directory.is_inside(server.ip());
        let socket = (self.make_socket)(transport, server.ip(), is_inside)?;
        net::connect_to(socket.as_fd(), server)?;
        let query = message::renumbered(query, id);
        let way = match transport {
            Transport::Udp => {
                send(socket.as_raw_fd(), &query, MsgFlags::empty())?;
                Way::Datagram(socket)
            }
            Transport::Tcp => {
                let mut stream = Framed::new(socket);
                stream.send(&query)?;
                Way::Stream(stream)
            }
        };
        let number = match &way {
            Way::Datagram(socket) => self.watch(socket.as_fd(), EpollFlags::EPOLLIN)?,
            Way::Stream(stream) => self.watch(stream.as_fd(), both_ways())?,
        };
        Ok((number, way, id))
    }

    fn try_next(&mut self, number: u64) {
        let Some(asked) = self.asked.remove(&number) else { return };
        self.ask_first(asked.asker, asked.query, asked.question, asked.others, asked.share);
    }

    /// A resolver has said something.
    fn answered(&mut self, number: u64) {
        let mut buffer = self.buffer();
        let mut outcome = Heard::Nothing;
        if let Some(asked) = self.asked.get_mut(&number) {
            outcome = asked.hear(&mut buffer);
        }
        self.buffer = buffer;
        match outcome {
            Heard::Nothing => {}
            Heard::Failure => self.try_next(number),
            Heard::Answer(answer) => {
                let Some(asked) = self.asked.remove(&number) else { return };
                let answer = message::renumbered(&answer, message::id(&asked.query));
                let from = match asked.asker {
                    Asker::Datagram { client, .. } => Some(client.ip()),
                    Asker::Caller(caller) => self.callers.get(&caller).map(|caller| caller.from),
                };
                if let Some(id) = from.and_then(|from| self.confined(from)) {
                    let name = asked.question.name.clone();
                    let addresses = message::addresses(&answer);
                    self.observed.push((id, Observed::Learned { name, addresses }));
                }
                self.tell(asked.asker, Some(&asked.question), answer);
            }
        }
    }
}

enum Heard {
    Nothing,
    Answer(Vec<u8>),
    /// It cannot, or will not.
    Failure,
}

impl Asked {
    fn hear(&mut self, buffer: &mut [u8]) -> Heard {
        loop {
            let answer = match &mut self.way {
                Way::Datagram(socket) => {
                    match recv(socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                        Ok(count) => buffer[..count].to_vec(),
                        Err(Errno::EAGAIN | Errno::EINTR) => return Heard::Nothing,
                        Err(_) => return Heard::Failure,
                    }
                }
                Way::Stream(stream) => {
                    let has_ended = stream.advance().unwrap_or(true);
                    match stream.take() {
                        Some(answer) => answer,
                        None if has_ended => return Heard::Failure,
                        None => return Heard::Nothing,
                    }
                }
            };
            let query = message::renumbered(&self.query, self.id);
            match message::code_of(&answer, &query) {
                // Not an answer to this: somebody guesses.
                None => {}
                Some(code) if is_failure(code) && !self.others.is_empty() => {
                    return Heard::Failure;
                }
                Some(_) => return Heard::Answer(answer),
            }
        }
    }
}

/// Another resolver may know.
fn is_failure(code: u8) -> bool {
    [Code::Failed as u8, Code::Refused as u8, Code::NotImplemented as u8].contains(&code)
}

fn both_ways() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}

impl AsFd for Server {
    /// Readable when there is something to [`serve`](Self::serve).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
