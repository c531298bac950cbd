//! Netlink (netlink(7), rtnetlink(7)): requests with attributes, and the kernel's answers.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
        setsockopt, socket, sockopt,
    },
};

use crate::error::Error;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// NLM_F_ROOT | NLM_F_MATCH.
const NLM_F_DUMP: u16 = 0x300;
pub const CREATE: u16 = 0x400;
pub const EXCLUSIVE: u16 = 0x200;
pub const REPLACE: u16 = 0x100;
pub const APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Answers of a dump come in pieces of up to this many bytes (netlink(7), "Address formats").
const ANSWER_MAX: usize = 32 << 10;

/// What the kernel answered to a request that it did not grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub errno: Errno,
    /// The kernel's own explanation (NETLINK_EXT_ACK, Linux 4.12), often empty.
    pub words: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words.is_empty() {
            true => f.write_str(self.errno.desc()),
            false => write!(f, "{} ({})", self.errno.desc(), self.words.trim_end_matches('.')),
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, words: String::new() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::engine(refusal.to_string())
    }
}

/// One request: a header of its family's, then attributes.
#[derive(Debug, Clone)]
pub struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    /// `header` is the family's fixed part, e.g. `struct ifinfomsg`.
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut body = header.to_vec();
        pad(&mut body);
        Self { kind, flags, body }
    }

    /// What follows the message's header.
    pub fn as_bytes(&self) -> &[u8] {
        &self.body
    }

    fn encode(&self, sequence: u32, extra: u16, into: &mut Vec<u8>) {
        let length = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        into.extend(length.to_ne_bytes());
        into.extend(self.kind.to_ne_bytes());
        into.extend((self.flags | NLM_F_REQUEST | extra).to_ne_bytes());
        into.extend(sequence.to_ne_bytes());
        into.extend(0_u32.to_ne_bytes());
        into.extend(&self.body);
    }
}

/// NLA_F_NESTED: this attribute holds attributes.
const NESTED: u16 = 0x8000;

/// Attributes to be put into one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Begins with a fixed part, as VETH_INFO_PEER does.
    pub fn after(header: &[u8]) -> Self {
        let mut body = header.to_vec();
        pad(&mut body);
        Self(body)
    }
}

/// What attributes are appended to (netlink(7), "struct nlattr").
pub trait Holder: Sized {
    fn body(&mut self) -> &mut Vec<u8>;

    #[must_use]
    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        put(self.body(), kind, value);
        self
    }

    /// A number in the host's order, as rtnetlink has them.
    #[must_use]
    fn with_u32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// A string with its NUL.
    #[must_use]
    fn with_text(self, kind: u16, value: &str) -> Self {
        self.with(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// Attributes within an attribute.
    #[must_use]
    fn with_nest(self, kind: u16, inside: &Attributes) -> Self {
        self.with(kind | NESTED, &inside.0)
    }
}

impl Holder for Request {
    fn body(&mut self) -> &mut Vec<u8> {
        &mut self.body
    }
}

impl Holder for Attributes {
    fn body(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    pad(body);
}

/// Everything is aligned to four bytes.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// One message of the kernel's: its type, and what follows the header.
#[derive(Debug)]
pub struct Answer {
    pub kind: u16,
    pub body: Vec<u8>,
}

impl Answer {
    /// The attributes behind a fixed part of `header` bytes.
    pub fn attributes(&self, header: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.body.get(header..).unwrap_or_default())
    }
}

/// Reads a list of attributes; ends at the first that does not fit.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, value))
    })
}

/// A netlink socket of the network namespace in which it was made.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Links, addresses, routes and rules.
    pub fn route() -> Result<Self, Errno> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// nf_tables.
    pub fn netfilter() -> Result<Self, Errno> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Self, Errno> {
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        explain(socket.as_fd());
        // A refused request is quoted in the answer otherwise, which may be long.
        setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes one request and waits for the kernel's word on it.
    pub fn call(&mut self, request: &Request) -> Result<(), Refusal> {
        self.call_all(std::slice::from_ref(request)).map(drop)
    }

    /// Makes requests in one go and returns what the kernel tells; the first refusal is returned
    /// instead, and those behind it are made all the same.
    pub fn call_all(&mut self, requests: &[Request]) -> Result<Vec<Answer>, Refusal> {
        let mut bytes = Vec::new();
        for request in requests {
            self.sequence += 1;
            request.encode(self.sequence, NLM_F_ACK, &mut bytes);
        }
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let (mut outcome, mut told) = (Ok(()), Vec::new());
        let mut buffer = vec![0; ANSWER_MAX];
        let mut missing = requests.len();
        while missing > 0 {
            for message in self.receive(&mut buffer)? {
                if message.kind == NLMSG_ERROR {
                    missing = missing.saturating_sub(1);
                    outcome = outcome.and(verdict(&message));
                } else {
                    told.push(message);
                }
            }
        }
        outcome.map(|()| told)
    }

    /// Makes requests that the kernel grants all or none of (nfnetlink's batches), between
    /// `begin` and `end`.
    pub fn transact(
        &mut self,
        begin: &Request,
        requests: &[Request],
        end: &Request,
    ) -> Result<(), Refusal> {
        let mut bytes = Vec::new();
        begin.encode(0, 0, &mut bytes);
        for (index, request) in requests.iter().enumerate() {
            // One good word is enough, on the last: what fails before it is told by itself.
            let last = index + 1 == requests.len();
            request.encode(1, if last { NLM_F_ACK } else { 0 }, &mut bytes);
        }
        end.encode(2, 0, &mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut buffer = vec![0; ANSWER_MAX];
        let mut outcome = Ok(());
        let mut flags = MsgFlags::empty();
        loop {
            let messages = match self.receive_with(&mut buffer, flags) {
                Err(refusal) if refusal.errno == Errno::EAGAIN => return outcome,
                other => other?,
            };
            for message in messages.iter().filter(|message| message.kind == NLMSG_ERROR) {
                outcome = outcome.and(verdict(message));
            }
            // The kernel has answered everything before send(2) returned.
            flags = MsgFlags::MSG_DONTWAIT;
        }
    }

    /// Everything the kernel lists in answer to `request`.
    pub fn list(&mut self, request: &Request) -> Result<Vec<Answer>, Refusal> {
        self.sequence += 1;
        let mut bytes = Vec::new();
        request.encode(self.sequence, NLM_F_DUMP, &mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let (mut all, mut buffer) = (Vec::new(), vec![0; ANSWER_MAX]);
        loop {
            for message in self.receive(&mut buffer)? {
                match message.kind {
                    NLMSG_DONE => return Ok(all),
                    NLMSG_ERROR => {
                        verdict(&message)?;
                        return Ok(all);
                    }
                    _ => all.push(message),
                }
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<Vec<Answer>, Refusal> {
        self.receive_with(buffer, MsgFlags::empty())
    }

    fn receive_with(&self, buffer: &mut [u8], flags: MsgFlags) -> Result<Vec<Answer>, Refusal> {
        let length = loop {
            match recv(self.socket.as_raw_fd(), buffer, flags) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        let mut rest = &buffer[..length];
        let mut messages = Vec::new();
        while let Some(length) = rest.get(..4).and_then(|head| head.try_into().ok()) {
            let length = u32::from_ne_bytes(length) as usize;
            let Some(message) = rest.get(..length).filter(|_| length >= HEADER) else { break };
            let kind = u16::from_ne_bytes([message[4], message[5]]);
            messages.push(Answer { kind, body: message[HEADER..].to_vec() });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks for words with every refusal, and for no more of the request than its header. Where the
/// kernel is too old for them the errno has to do.
fn explain(socket: BorrowedFd<'_>) {
    const NETLINK_CAP_ACK: libc::c_int = 10;
    const NETLINK_EXT_ACK: libc::c_int = 11;
    for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK] {
        let _ = super::net::set_option(socket, libc::SOL_NETLINK, option, 1);
    }
}

/// `struct nlmsgerr`: the negated errno, the request's header, then attributes.
fn verdict(message: &Answer) -> Result<(), Refusal> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = message.body.get(..4).and_then(|code| code.try_into().ok());
    match code.map_or(-libc::EPROTO, i32::from_ne_bytes) {
        0 => Ok(()),
        code => {
            let text = message.attributes(4 + HEADER).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG);
            let words = text.map(|(_, text)| String::from_utf8_lossy(text).into_owned());
            let words = words.unwrap_or_default().trim_end_matches('\0').to_owned();
            Err(Refusal { errno: Errno::from_raw(-code), words })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_nested_and_read_back() {
        let inner = Attributes::new().with_text(1, "abc").with_u32(2, 7);
        let request = Request::new(16, 0, &[9; 3]).with_nest(5, &inner).with(6, b"x");
        let mut wire = Vec::new();
        request.encode(3, NLM_F_ACK, &mut wire);
        assert_eq!(wire.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes(wire[..4].try_into().expect("4")) as usize, wire.len());
        let found: Vec<_> = attributes(&wire[HEADER + 4..]).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], (6, b"x".as_slice()));
        let inside: Vec<_> = attributes(found[0].1).collect();
        assert_eq!(inside, [(1, b"abc\0".as_slice()), (2, 7_u32.to_ne_bytes().as_slice())]);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0, "too long for what is there");
    }

    #[test]
    fn the_kernel_lists_links_and_explains_refusals() {
        let mut netlink = Netlink::route().expect("socket");
        let links = netlink.list(&Request::new(libc::RTM_GETLINK, 0, &[0; 16])).expect("list");
        let loopback = |answer: &Answer| {
            answer.attributes(16).any(|(kind, name)| kind == libc::IFLA_IFNAME && name == b"lo\0")
        };
        assert!(links.iter().any(loopback));
        let absent = Request::new(libc::RTM_DELLINK, 0, &[0; 16])
            .with_text(libc::IFLA_IFNAME, "no-such-link0");
        assert!(netlink.call(&absent).is_err());
    }
}
