//! Messages on a stream, each behind its length (RFC 1035, 4.2.2).

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};

/// Bytes that may wait for somebody who does not read.
const OUTBOX_MAX: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Framed {
    socket: OwnedFd,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

impl Framed {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, inbox: Vec::new(), outbox: Vec::new() }
    }

    /// Sends what can be sent and reads what is there; `true` at the end of the stream.
    pub(crate) fn advance(&mut self) -> Result<bool, Errno> {
        self.flush()?;
        let mut chunk = [0; 4096];
        loop {
            match recv(self.socket.as_raw_fd(), &mut chunk, MsgFlags::empty()) {
                Ok(0) => return Ok(true),
                Ok(count) => self.inbox.extend(&chunk[..count]),
                Err(Errno::EAGAIN | Errno::ENOTCONN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
            if self.inbox.len() > OUTBOX_MAX {
                return Err(Errno::EMSGSIZE);
            }
        }
    }

    /// The next whole message.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes(self.inbox.get(..2)?.try_into().ok()?));
        let message = self.inbox.get(2..2 + length)?.to_vec();
        self.inbox.drain(..2 + length);
        Some(message)
    }

    /// Sends a message, as much of it as can be sent now.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<(), Errno> {
        let length = u16::try_from(message.len()).map_err(|_| Errno::EMSGSIZE)?;
        self.outbox.extend(length.to_be_bytes());
        self.outbox.extend(message);
        if self.outbox.len() > OUTBOX_MAX {
            return Err(Errno::EMSGSIZE);
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Errno> {
        while !self.outbox.is_empty() {
            match send(self.socket.as_raw_fd(), &self.outbox, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => drop(self.outbox.drain(..count)),
                // Still being connected, too.
                Err(Errno::EAGAIN | Errno::ENOTCONN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

impl AsFd for Framed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
