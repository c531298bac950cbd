//! Two connections made one: bytes go from socket to socket through a pipe, inside the kernel
//! (splice(2)).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    io::Errno,
    net::{Shutdown, shutdown},
    pipe::{SpliceFlags, splice},
};

use crate::sys::{channel, net};

/// What a pipe is asked to hold.
const PIPE: usize = 1 << 20;
/// Pipes kept for the next who needs one.
const SPARE: usize = 4;
/// Moves in one direction before somebody else has a turn.
const TURN: usize = 16;

/// A pipe: its reading end, its writing end.
type Pipe = (OwnedFd, OwnedFd);

/// Pipes that hold nothing. Only a direction in which bytes wait has one, so that ten thousand
/// idle connections need none.
#[derive(Debug, Default)]
pub(super) struct Pipes(Vec<Pipe>);

impl Pipes {
    fn take(&mut self) -> Result<Pipe, Errno> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let pipe = channel::pipe()?;
        channel::enlarge(&pipe.1, PIPE);
        Ok(pipe)
    }

    fn give_back(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE {
            self.0.push(pipe);
        }
    }
}

/// One way through.
#[derive(Debug, Default)]
struct Direction {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
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
        // What is written goes at once: who writes little waits for an answer.
        for socket in [&a, &b] {
            let _ = net::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        }
        Self { a, b, forth: Direction::default(), back: Direction::default() }
    }

    /// Bytes that came from `a` and from `b` since this was asked last.
    pub(super) fn take_moved(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.forth.moved), std::mem::take(&mut self.back.moved))
    }

    /// Moves what can be moved now.
    pub(super) fn turn(&mut self, pipes: &mut Pipes) -> Standing {
        let forth = self.forth.advance(self.a.as_fd(), self.b.as_fd(), pipes);
        let back = self.back.advance(self.b.as_fd(), self.a.as_fd(), pipes);
        match (forth, back) {
            (Err(_), _) | (_, Err(_)) => {
                // Who was cut off on one side is cut off on the other.
                let _ = net::reset_on_close(self.a.as_fd());
                let _ = net::reset_on_close(self.b.as_fd());
                Standing::Over
            }
            _ if self.forth.done && self.back.done => Standing::Over,
            (Ok(true), _) | (_, Ok(true)) => Standing::Again,
            (Ok(false), Ok(false)) => Standing::Waits,
        }
    }
}

impl Direction {
    /// `true` if there may be more to move.
    fn advance(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        pipes: &mut Pipes,
    ) -> Result<bool, Errno> {
        for _ in 0..TURN {
            if self.done {
                return Ok(false);
            }
            if self.held > 0 {
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
            let pipe = pipes.take()?;
            match move_bytes(from, pipe.1.as_fd(), PIPE) {
                Ok(0) => {
                    self.ended = true;
                    pipes.give_back(pipe);
                }
                Ok(count) => {
                    self.held = count;
                    self.moved += count as u64;
                    self.pipe = Some(pipe);
                }
                Err(Errno::AGAIN) => {
                    pipes.give_back(pipe);
                    return Ok(false);
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }

    /// From the pipe to the sink; `false` if it takes no more now.
    fn empty(&mut self, to: BorrowedFd<'_>) -> Result<bool, Errno> {
        let Some((reader, _)) = &self.pipe else { return Ok(true) };
        match move_bytes(reader.as_fd(), to, self.held) {
            Ok(count) => {
                self.held -= count;
                Ok(true)
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

fn move_bytes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, count: usize) -> Result<usize, Errno> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        match splice(from, None, to, None, count, flags) {
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
    fn bytes_and_ends_pass_both_ways_and_idle_relays_hold_no_pipe() {
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
        assert!(relay.forth.pipe.is_none() && relay.back.pipe.is_none());
        server.write_all(b"pong").expect("write");
        drop(server);
        run(&mut relay, &mut pipes, Standing::Over);
        drop(relay);
        text.clear();
        client.read_to_string(&mut text).expect("read");
        assert_eq!(text, "pong");
        assert!((1..=SPARE).contains(&pipes.0.len()));
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
