//! Two connections made one: much goes from socket to socket through a pipe, inside the kernel
//! (splice(2)); a little is copied, in two calls instead of the four that splicing needs until it
//! knows that there is no more.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    io::Errno,
    net::{Shutdown, shutdown},
    pipe::{SpliceFlags, splice},
};

use super::EpollFlags;
use crate::{
    network::share::{Share, Shares},
    sys::{channel, net},
};

/// What is little. Who fills it has more to say.
const LITTLE: usize = 16 << 10;
/// What a pipe is asked to hold.
const PIPE: usize = 1 << 20;
/// Pipes kept for the next who needs one.
const SPARE: usize = 4;
/// Pipes that may be enlarged at once: what thousands of slow readers leave waiting is in sockets.
const LARGE: usize = 64;
/// Moves in one direction before somebody else has a turn.
const TURN: usize = 16;

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    _large: Option<Share>,
}

/// Pipes that hold nothing. Only a direction in which bytes wait has one, so that ten thousand
/// idle connections need none.
#[derive(Debug)]
pub(super) struct Pipes {
    spare: Vec<Pipe>,
    large: Shares<()>,
    /// What is being copied.
    little: Box<[u8]>,
}

impl Default for Pipes {
    fn default() -> Self {
        Self { spare: Vec::new(), large: Shares::of(LARGE), little: vec![0; LITTLE].into() }
    }
}

impl Pipes {
    fn take(&mut self) -> Result<Pipe, Errno> {
        if let Some(pipe) = self.spare.pop() {
            return Ok(pipe);
        }
        let (reader, writer) = channel::pipe()?;
        let large = self.large.take((), 1);
        if large.is_some() {
            channel::enlarge(&writer, PIPE);
        }
        Ok(Pipe { reader, writer, _large: large })
    }

    fn give_back(&mut self, pipe: Pipe) {
        if self.spare.len() < SPARE {
            self.spare.push(pipe);
        }
    }
}

/// One way through.
#[derive(Debug, Default)]
struct Direction {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// What was copied and the sink did not take yet.
    rest: Vec<u8>,
    /// The source has much to say.
    is_bulk: bool,
    /// Bytes that the source gave and nobody has counted.
    moved: u64,
    /// The source has said its last word.
    ended: bool,
    /// And the sink knows.
    done: bool,
}

/// Two sockets that talk to each other.
#[derive(Debug)]
pub(super) struct Relay {
    pub a: OwnedFd,
    pub b: OwnedFd,
    forth: Direction,
    back: Direction,
}

/// Which of a relay's two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    A,
    B,
}

/// How a relay stands after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing more to do until an event comes.
    Waits,
    /// There may be more, but others had no turn yet.
    Again,
    Over,
}

impl Relay {
    pub(super) fn new(a: OwnedFd, b: OwnedFd) -> Self {
        for socket in [&a, &b].map(OwnedFd::as_fd) {
            // What is written goes at once: who writes little waits for an answer.
            let _ = net::set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
            // A peer that has vanished does not stay for ever: neither side sees the other's probes.
            let _ = net::set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
            // Urgent bytes pass in their place: out of it they would be lost (tcp(7)).
            let _ = net::set_option(socket, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1);
        }
        Self { a, b, forth: Direction::default(), back: Direction::default() }
    }

    /// Bytes that came from `a` and from `b` since this was asked last.
    pub(super) fn take_moved(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.forth.moved), std::mem::take(&mut self.back.moved))
    }

    /// Moves what can be moved now.
    pub(super) fn turn(&mut self, pipes: &mut Pipes) -> Standing {
        let forth = self.forth.advance(self.a.as_fd(), self.b.as_fd(), true, pipes);
        let back = self.back.advance(self.b.as_fd(), self.a.as_fd(), true, pipes);
        self.standing(forth, back)
    }

    /// Moves what these events of one socket say can be moved, when nothing else was left to do.
    pub(super) fn heed(&mut self, side: Side, events: EpollFlags, pipes: &mut Pipes) -> Standing {
        let (near, far) = (self.a.as_fd(), self.b.as_fd());
        let (near, far, forth, back) = match side {
            Side::A => (near, far, &mut self.forth, &mut self.back),
            Side::B => (far, near, &mut self.back, &mut self.forth),
        };
        let ends = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let is_ending = events.intersects(ends);
        let forth = match is_ending || events.contains(EpollFlags::EPOLLIN) {
            true => forth.advance(near, far, is_ending, pipes),
            false => Ok(false),
        };
        let back = match back.is_holding() {
            true => back.advance(far, near, true, pipes),
            false => Ok(false),
        };
        self.standing(forth, back)
    }

    /// Moves what has been said on both sides, one of which has ended with its container. What the
    /// other does not take now is cut off, and seen to be.
    pub(super) fn finish(&mut self, pipes: &mut Pipes) -> Standing {
        while self.turn(pipes) == Standing::Again {}
        match self.forth.is_holding() || self.back.is_holding() {
            true => self.cut(),
            false => Standing::Over,
        }
    }

    /// Resets both sides.
    pub(super) fn cut(&self) -> Standing {
        for socket in [&self.a, &self.b] {
            let _ = net::reset_on_close(socket.as_fd());
        }
        Standing::Over
    }

    fn standing(&self, forth: Result<bool, Errno>, back: Result<bool, Errno>) -> Standing {
        match (forth, back) {
            (Err(_), _) | (_, Err(_)) => {
                // Who was cut off on one side is cut off on the other.
                self.cut()
            }
            _ if self.forth.done && self.back.done => Standing::Over,
            (Ok(true), _) | (_, Ok(true)) => Standing::Again,
            (Ok(false), Ok(false)) => Standing::Waits,
        }
    }
}

impl Direction {
    fn is_holding(&self) -> bool {
        self.held > 0 || !self.rest.is_empty()
    }

    /// `true` if there may be more to move. `to_the_end`: the source may have ended, so it must be
    /// asked until it says so, or that it has no more; else a socket that gave less than was asked
    /// for has no more, and the next event is of what comes then (epoll(7), question 9).
    fn advance(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        to_the_end: bool,
        pipes: &mut Pipes,
    ) -> Result<bool, Errno> {
        for _ in 0..TURN {
            if self.done {
                return Ok(false);
            }
            if self.is_holding() {
                if !self.empty(to)? {
                    return Ok(false);
                }
                continue;
            }
            if let Some(pipe) = self.pipe.take() {
                pipes.give_back(pipe);
            }
            if self.ended {
                self.done = true;
                // The sink may have gone before us.
                let _ = shutdown(to, Shutdown::Write);
                return Ok(false);
            }
            // Without a descriptor for a pipe it is slower, and no worse.
            let pipe = if self.is_bulk { pipes.take().ok() } else { None };
            let taken = match pipe {
                Some(pipe) => self.fill(from, pipe, pipes),
                None => self.copy(from, to, pipes),
            };
            match taken {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.moved += count as u64;
                    let was_bulk = std::mem::replace(&mut self.is_bulk, count >= LITTLE);
                    if !was_bulk && count < LITTLE && !to_the_end {
                        return Ok(false);
                    }
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }

    /// From the source to the sink, or to what is left for it.
    fn copy(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        pipes: &mut Pipes,
    ) -> Result<usize, Errno> {
        let count = again(|| rustix::io::read(from, &mut *pipes.little))?;
        let taken = &pipes.little[..count];
        if count > 0 {
            let sent = match again(|| rustix::io::write(to, taken)) {
                Err(Errno::AGAIN) => 0,
                sent => sent?,
            };
            self.rest.extend_from_slice(&taken[sent..]);
        }
        Ok(count)
    }

    /// From the source to a pipe.
    fn fill(
        &mut self,
        from: BorrowedFd<'_>,
        pipe: Pipe,
        pipes: &mut Pipes,
    ) -> Result<usize, Errno> {
        match move_bytes(from, pipe.writer.as_fd(), PIPE) {
            Ok(count) if count > 0 => {
                self.held = count;
                self.pipe = Some(pipe);
                Ok(count)
            }
            nothing => {
                pipes.give_back(pipe);
                nothing
            }
        }
    }

    /// What is held to the sink; `false` if it takes no more now.
    fn empty(&mut self, to: BorrowedFd<'_>) -> Result<bool, Errno> {
        let sent = match &self.pipe {
            _ if !self.rest.is_empty() => again(|| rustix::io::write(to, &self.rest)),
            Some(pipe) => move_bytes(pipe.reader.as_fd(), to, self.held),
            None => return Ok(true),
        };
        match sent {
            Ok(count) if self.rest.is_empty() => self.held -= count,
            // The room it took is not kept: ten thousand may wait.
            Ok(count) if count == self.rest.len() => self.rest = Vec::new(),
            Ok(count) => drop(self.rest.drain(..count)),
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        Ok(true)
    }
}

fn move_bytes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, count: usize) -> Result<usize, Errno> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    again(|| splice(from, None, to, None, count, flags))
}

fn again(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn connection() -> (TcpStream, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        far.set_nonblocking(true).expect("non-blocking");
        (near, far.into())
    }

    fn run(relay: &mut Relay, pipes: &mut Pipes, until: Standing) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while relay.turn(pipes) != until {
            assert!(std::time::Instant::now() < deadline, "{relay:?}");
        }
    }

    #[test]
    fn bytes_and_ends_pass_both_ways() {
        let ((mut client, a), (mut server, b)) = (connection(), connection());
        let (mut relay, mut pipes) = (Relay::new(a, b), Pipes::default());
        client.write_all(b"ping").expect("write");
        client.shutdown(std::net::Shutdown::Write).expect("shutdown");
        run(&mut relay, &mut pipes, Standing::Waits);
        let mut text = String::new();
        while !relay.forth.done {
            relay.turn(&mut pipes);
        }
        server.read_to_string(&mut text).expect("read");
        assert_eq!(text, "ping");
        server.write_all(b"pong").expect("write");
        drop(server);
        run(&mut relay, &mut pipes, Standing::Over);
        assert_eq!(relay.take_moved(), (4, 4));
        drop(relay);
        text.clear();
        client.read_to_string(&mut text).expect("read");
        assert_eq!(text, "pong");
        assert!(pipes.spare.is_empty(), "so little needs no pipe");
    }

    /// Events as `epoll_wait` would tell them, and no others.
    #[test]
    fn what_an_event_tells_of_is_moved() {
        let ((mut client, a), (mut server, b)) = (connection(), connection());
        let (mut relay, mut pipes) = (Relay::new(a, b), Pipes::default());
        let (readable, writable) = (EpollFlags::EPOLLIN, EpollFlags::EPOLLOUT);
        let mut got = [0; 8];
        for _ in 0..3 {
            client.write_all(b"question").expect("write");
            assert_eq!(relay.heed(Side::A, writable, &mut pipes), Standing::Waits);
            assert_eq!(relay.heed(Side::A, readable, &mut pipes), Standing::Waits);
            server.read_exact(&mut got).expect("read");
            server.write_all(b"answered").expect("write");
            assert_eq!(relay.heed(Side::B, readable | writable, &mut pipes), Standing::Waits);
            client.read_exact(&mut got).expect("read");
        }
        assert_eq!((relay.take_moved(), &got), ((24, 24), b"answered"));
        client.write_all(b"and bye!").expect("write");
        client.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let last = readable | EpollFlags::EPOLLRDHUP;
        assert_eq!(relay.heed(Side::A, last, &mut pipes), Standing::Waits);
        assert!(relay.forth.done);
        drop(server);
        let end = last | EpollFlags::EPOLLHUP;
        assert_eq!(relay.heed(Side::B, end, &mut pipes), Standing::Over);
    }

    /// More than sockets hold, to a sink that is slow: all of it arrives, in order, and what waits
    /// is in a pipe.
    #[test]
    fn much_goes_through_a_pipe() {
        let ((mut client, a), (mut server, b)) = (connection(), connection());
        let (mut relay, mut pipes) = (Relay::new(a, b), Pipes::default());
        let much: Vec<u8> = (0..24_u32 << 20).map(|n| (n / 251 % 253) as u8).collect();
        let sent = much.clone();
        let writer = std::thread::spawn(move || client.write_all(&sent).expect("write"));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        // Nobody reads yet.
        while relay.forth.pipe.is_none() || !relay.forth.is_holding() {
            relay.turn(&mut pipes);
            assert!(std::time::Instant::now() < deadline, "{relay:?}");
        }
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            server.read_to_end(&mut got).expect("read");
            got
        });
        run(&mut relay, &mut pipes, Standing::Waits);
        while !relay.forth.done {
            relay.turn(&mut pipes);
            assert!(std::time::Instant::now() < deadline, "it ends");
        }
        writer.join().expect("a writer");
        drop(relay);
        assert!(reader.join().expect("a reader") == much, "the same bytes");
    }

    #[test]
    fn a_reset_on_one_side_is_one_on_the_other() {
        let ((client, a), (mut server, b)) = (connection(), connection());
        let (mut relay, mut pipes) = (Relay::new(a, b), Pipes::default());
        net::reset_on_close(client.as_fd()).expect("linger");
        drop(client);
        run(&mut relay, &mut pipes, Standing::Over);
        drop(relay);
        let err = server.read(&mut [0]).expect_err("a reset");
        assert_eq!(err.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
