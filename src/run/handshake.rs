//! The few words the two sides of a launch say to each other.
//!
//! A `SOCK_SEQPACKET` pair keeps message boundaries and reports the end of the other side as a
//! zero-length read. Messages are one to eight bytes; no text crosses, so a half-built
//! container cannot confuse the parser.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
        recvmsg, send, sendmsg, socketpair,
    },
};

use super::plan::Step;
use crate::sys::{fd, script::Mark};

/// Engine to init: the id maps are written, the container is recorded; go.
const GO: u8 = 1;

/// Init to engine.
#[derive(Debug)]
pub(super) enum Report {
    /// The terminal's master side.
    Terminal(OwnedFd),
    /// `/dev/fuse`, mounted as the root file system, which waits for a server.
    Fuse(OwnedFd),
    /// The network namespace that init will be born in, made by a process that joined others
    /// first: nobody can look into such an init.
    Network(OwnedFd),
    /// The root of the container's overlay: who has it open keeps it mounted.
    Root(OwnedFd),
    /// The real init, made by a process that joined existing namespaces first.
    Init(OwnedFd),
    /// The root file system is complete, and init waits for the hooks that are run here.
    Complete,
    /// Everything is made, and init waits to be let go once more.
    Held,
    Failed {
        step: Step,
        index: u16,
        errno: Errno,
    },
    /// The socket closed: the exec happened, or the process died.
    Closed,
}

#[derive(Debug)]
pub(super) struct EngineEnd(OwnedFd);
#[derive(Debug)]
pub(super) struct InitEnd(OwnedFd);

pub(super) fn pair() -> Result<(EngineEnd, InitEnd), Errno> {
    let (a, b) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((EngineEnd(a), InitEnd(b)))
}

impl EngineEnd {
    pub(super) fn go(&self) -> Result<(), Errno> {
        send(self.0.as_raw_fd(), &[GO], MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    pub(super) fn next(&self) -> Result<Report, Errno> {
        self.receive(MsgFlags::empty())
    }

    /// What init has said already; `EAGAIN` if it is silent.
    pub(super) fn said(&self) -> Result<Report, Errno> {
        self.receive(MsgFlags::MSG_DONTWAIT)
    }

    fn receive(&self, flags: MsgFlags) -> Result<Report, Errno> {
        let mut wire = [0; 8];
        let mut space = nix::cmsg_space!([i32; 1]);
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let (length, fds) = loop {
            let mut parts = [IoSliceMut::new(&mut wire)];
            match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Ok(message) => break (message.bytes, received(message.cmsgs()?)),
                // Once, the other side having ended before it read all that was said to it: what
                // it said itself comes after that (unix(7), ECONNRESET).
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(errno) => return Err(errno),
            }
        };
        decode(&wire[..length], fds).ok_or(Errno::EPROTO)
    }
}

fn received(messages: nix::sys::socket::CmsgIterator<'_>) -> Option<OwnedFd> {
    let mut first = None;
    for message in messages {
        if let ControlMessageOwned::ScmRights(fds) = message {
            first = fd::adopt(fds).into_iter().next();
        }
    }
    first
}

impl AsFd for InitEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl InitEnd {
    /// The same end in a process that was started with it as descriptor `fd`.
    pub(super) fn inherited(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Waits for the engine. Anything but its word, its death included, is an error: init must
    /// never run the command on its own.
    pub(super) fn wait(&self) -> Result<(), Errno> {
        let mut wire = [0];
        loop {
            match recv(self.0.as_raw_fd(), &mut wire, MsgFlags::empty()) {
                Ok(1) if wire[0] == GO => return Ok(()),
                Ok(_) => return Err(Errno::EPROTO),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// How the word of a failed step begins; the error's number follows.
    pub(super) fn mark(step: Step) -> Mark {
        [b'F', step as u8, 0, 0]
    }

    pub(super) fn failed(&self, step: Step, index: u16, errno: Errno) -> Result<(), Errno> {
        let [f, step, ..] = Self::mark(step);
        let [low, high] = index.to_le_bytes();
        self.failed_at([f, step, low, high], errno)
    }

    /// What is marked failed.
    pub(super) fn failed_at(&self, mark: Mark, errno: Errno) -> Result<(), Errno> {
        let mut wire = [0; 8];
        wire[..4].copy_from_slice(&mark);
        wire[4..].copy_from_slice(&(errno as i32).to_le_bytes());
        send(self.0.as_raw_fd(), &wire, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    pub(super) fn complete(&self) -> Result<(), Errno> {
        send(self.0.as_raw_fd(), b"C", MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    pub(super) fn held(&self) -> Result<(), Errno> {
        send(self.0.as_raw_fd(), b"H", MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    pub(super) fn send_terminal(&self, master: BorrowedFd<'_>) -> Result<(), Errno> {
        self.send_fd(b'T', master)
    }

    pub(super) fn send_fuse(&self, device: BorrowedFd<'_>) -> Result<(), Errno> {
        self.send_fd(b'U', device)
    }

    pub(super) fn send_init(&self, pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.send_fd(b'I', pidfd)
    }

    pub(super) fn send_network(&self, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
        self.send_fd(b'N', namespace)
    }

    pub(super) fn send_root(&self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        self.send_fd(b'R', root)
    }

    fn send_fd(&self, kind: u8, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let fds = [fd.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&fds)];
        let wire = [kind];
        let parts = [IoSlice::new(&wire)];
        sendmsg::<()>(self.0.as_raw_fd(), &parts, &message, MsgFlags::MSG_NOSIGNAL, None).map(drop)
    }
}

fn decode(wire: &[u8], fd: Option<OwnedFd>) -> Option<Report> {
    match *wire {
        [] => Some(Report::Closed),
        [b'C'] => Some(Report::Complete),
        [b'H'] => Some(Report::Held),
        [b'T'] => fd.map(Report::Terminal),
        [b'U'] => fd.map(Report::Fuse),
        [b'N'] => fd.map(Report::Network),
        [b'R'] => fd.map(Report::Root),
        [b'I'] => fd.map(Report::Init),
        [b'F', step, i0, i1, e0, e1, e2, e3] => Some(Report::Failed {
            step: Step::from_wire(step)?,
            index: u16::from_le_bytes([i0, i1]),
            errno: Errno::from_raw(i32::from_le_bytes([e0, e1, e2, e3])),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_survives_the_wire_and_silence_is_the_end() {
        for sent in Step::ALL {
            let (engine, init) = pair().expect("pair");
            init.failed(sent, 513, Errno::EPERM).expect("send");
            let report = engine.next().expect("receive");
            assert!(
                matches!(report, Report::Failed { step, index: 513, errno: Errno::EPERM } if step == sent)
            );
            drop(init);
            assert!(matches!(engine.next(), Ok(Report::Closed)));
        }
    }

    #[test]
    fn who_ends_without_listening_is_heard() {
        let (engine, init) = pair().expect("pair");
        assert!(matches!(engine.said(), Err(Errno::EAGAIN)));
        engine.go().expect("send");
        init.failed(Step::ALL[0], 0, Errno::EPERM).expect("send");
        drop(init);
        assert!(matches!(engine.said(), Ok(Report::Failed { errno: Errno::EPERM, .. })));
        assert!(matches!(engine.next(), Ok(Report::Closed)));
    }

    #[test]
    fn unknown_words_and_missing_descriptors_are_refused() {
        assert!(decode(&[b'F', 200, 0, 0, 0, 0, 0, 0], None).is_none());
        assert!(decode(b"T", None).is_none());
        assert!(decode(b"?", None).is_none());
    }
}
