//! The caller's terminal, streams and signals while a container or an exec is in the foreground.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
};

use crate::{
    engine::container::exec::Session,
    error::{Context as _, Error, Result},
    run::attach::{Frame, Outbox},
    sys::{
        process::{send_signal, wait_pidfd},
        tty::{self, RawMode, Window},
    },
};

/// Bytes read at a time. From this size on the allocator asks the kernel, which zeroes a page
/// when it is touched (malloc(3), M_MMAP_THRESHOLD): little output takes little time.
const CHUNK: usize = 128 << 10;
/// Milliseconds without output after which the streams of an exec that has ended are given up:
/// some process it left behind holds them.
const DRAIN_PATIENCE: u16 = 100;

/// How a foreground session came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process ended with this code.
    Exited(i32),
    /// The user typed the detach keys.
    Detached,
    /// The reader of our stdout has gone.
    BrokenPipe,
    /// A signal that is not for the container.
    Signalled(i32),
}

/// What the caller's side of a session is like.
#[derive(Debug)]
pub struct Console {
    pub stdin: bool,
    /// The container has a terminal.
    pub tty: bool,
    pub detach_keys: Vec<u8>,
    pub signals: Signals,
}

/// Signals taken off their default course from here on, to be read one by one.
#[derive(Debug)]
pub struct Signals(SignalFd);

/// Those that end or poke a program. Job control stays with the caller's shell.
const PROXIED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

impl Signals {
    /// Blocks them; what is started afterwards has to unblock them for itself.
    pub fn take() -> Result<Self> {
        Self::of(&PROXIED.into_iter().collect())
    }

    fn of(set: &SigSet) -> Result<Self> {
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(set), None).doing("block signals")?;
        SignalFd::with_flags(set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map(Self)
            .doing("listen for signals")
    }

    /// Only those that ask a command to end.
    pub fn of_end() -> Result<Self> {
        let set = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];
        Self::of(&set.into_iter().collect())
    }

    /// Readable once one has come.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn next(&self) -> Option<i32> {
        let info = self.0.read_signal().ok()??;
        i32::try_from(info.ssi_signo).ok()
    }
}

/// The size of the caller's terminal, if there is one on its output or input.
pub fn window() -> Option<(u16, u16)> {
    let size = tty::window(io::stdout().as_fd()).or_else(|| tty::window(io::stdin().as_fd()))?;
    Some((size.columns, size.rows))
}

/// `-t` with `-i` needs a terminal to put into raw mode; docker says so before it starts.
pub fn require_terminal(tty: bool, stdin: bool) -> Result<()> {
    if tty && stdin && !tty::is_terminal(io::stdin()) {
        return Err(Error::invalid("the input device is not a TTY")
            .hint("leave out -t when input comes from a pipe or a file"));
    }
    Ok(())
}

/// Takes part in a container's streams until it ends or the user detaches. `proxy` is called
/// with each signal; it says whether that was for the container.
///
/// Nothing here waits for the container to take its input: while it waits for us to take its
/// output, that would be for ever.
pub fn follow(
    stream: UnixStream,
    console: &Console,
    mut proxy: impl FnMut(i32) -> Result<bool>,
) -> Result<End> {
    let stdin = io::stdin();
    let _raw = raw_mode(console, stdin.as_fd());
    let mut keys = DetachKeys::new(&console.detach_keys);
    let mut reading = console.stdin;
    stream.set_nonblocking(true).doing("prepare the attachment")?;
    let mut outbox = Outbox::default();
    if let Some((columns, rows)) = window().filter(|_| console.tty) {
        outbox.push(&Frame::Window(columns, rows));
    }
    let mut inbox = Vec::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let ready = wait(
            &[
                Some((stream.as_fd(), PollFlags::POLLIN | writable(&outbox))),
                (reading && outbox.is_empty()).then(|| (stdin.as_fd(), PollFlags::POLLIN)),
                Some((console.signals.0.as_fd(), PollFlags::POLLIN)),
            ],
            PollTimeout::NONE,
        )?;
        if ready[0].contains(PollFlags::POLLOUT) {
            send(&mut outbox, &stream)?;
        }
        if ready[0].intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            match (&stream).read(&mut buffer) {
                Ok(0) => return Err(lost_monitor()),
                Ok(count) => inbox.extend(&buffer[..count]),
                Err(err) if is_passing(&err) => {}
                Err(_) => return Err(lost_monitor()),
            }
            for frame in Frame::take_all(&mut inbox).doing("hear from the monitor")? {
                let written = match &frame {
                    Frame::Stdout(bytes) => write_stdout(bytes),
                    Frame::Stderr(bytes) => io::stderr().write_all(bytes),
                    Frame::Exit(code) => return Ok(End::Exited(*code)),
                    Frame::Hello(_)
                    | Frame::Stdin(_)
                    | Frame::StdinEnd
                    | Frame::Window(..)
                    | Frame::Changed => Ok(()),
                };
                match written {
                    Err(err) if err.kind() == io::ErrorKind::BrokenPipe => {
                        return Ok(End::BrokenPipe);
                    }
                    written => written.doing("write the container's output")?,
                }
            }
        }
        if !ready[1].is_empty() {
            let (bytes, detach) = match read_stdin(&mut buffer)? {
                Some(0) => {
                    reading = false;
                    outbox.push(&Frame::StdinEnd);
                    (Vec::new(), false)
                }
                Some(count) => keys.scan(&buffer[..count], console.tty),
                None => (Vec::new(), false),
            };
            outbox.push(&Frame::Stdin(bytes));
            send(&mut outbox, &stream)?;
            if detach {
                return Ok(End::Detached);
            }
        }
        while let Some(signal) = console.signals.next() {
            match signal {
                libc::SIGWINCH => {
                    if let Some((columns, rows)) = window().filter(|_| console.tty) {
                        outbox.push(&Frame::Window(columns, rows));
                    }
                }
                libc::SIGCONT => {}
                signal if !proxy(signal)? => return Ok(End::Signalled(signal)),
                _ => {}
            }
        }
    }
}

fn writable(outbox: &Outbox) -> PollFlags {
    if outbox.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT }
}

fn is_passing(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn lost_monitor() -> Error {
    Error::engine("the container's monitor has gone").hint("`dhow ps -a` shows what became of it")
}

/// A monitor that has ended does not take what is sent; its last words are still to be read.
fn send(outbox: &mut Outbox, mut stream: &UnixStream) -> Result<()> {
    match outbox.send(&mut stream) {
        Err(err)
            if matches!(err.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            outbox.clear();
            Ok(())
        }
        sent => sent.doing("send to the monitor"),
    }
}

/// Passes the streams of an exec to and fro until it ends; the exit code.
pub fn relay(session: Session, console: &Console) -> Result<End> {
    let Session { child, terminal, stdin: sink, stdout, stderr, .. } = session;
    let stdin = io::stdin();
    let _raw = raw_mode(console, stdin.as_fd());
    let mut keys = DetachKeys::new(&console.detach_keys);
    let master =
        terminal.as_ref().map(|fd| fd.try_clone()).transpose().doing("duplicate a terminal")?;
    let mut sink: Option<File> = sink.or(master).map(File::from).filter(|_| console.stdin);
    if let Some(sink) = &sink {
        rustix::io::ioctl_fionbio(sink, true).doing("prepare the input")?;
    }
    let mut pending = Outbox::default();
    let mut sources = [terminal.or(stdout).map(File::from), stderr.map(File::from)];
    let mut reading = console.stdin;
    let mut ended = None;
    let mut buffer = vec![0; CHUNK];
    while ended.is_none() || sources.iter().any(Option::is_some) {
        let input = PollFlags::POLLIN;
        let pidfd = ended.is_none().then(|| (child.as_fd(), input));
        let timeout =
            if ended.is_some() { PollTimeout::from(DRAIN_PATIENCE) } else { PollTimeout::NONE };
        let feeding = ended.is_none() && !pending.is_empty();
        let ready = wait(
            &[
                pidfd,
                sources[0].as_ref().map(|source| (source.as_fd(), input)),
                sources[1].as_ref().map(|source| (source.as_fd(), input)),
                (reading && pending.is_empty() && ended.is_none()).then(|| (stdin.as_fd(), input)),
                Some((console.signals.0.as_fd(), input)),
                sink.as_ref().filter(|_| feeding).map(|sink| (sink.as_fd(), PollFlags::POLLOUT)),
            ],
            timeout,
        )?;
        let ready: Vec<bool> = ready.iter().map(|events| !events.is_empty()).collect();
        if !ready.contains(&true) {
            break;
        }
        for (index, source) in sources.iter_mut().enumerate() {
            if ready[1 + index] && !pass(source, index == 1, &mut buffer)? {
                return Ok(End::BrokenPipe);
            }
        }
        if ready[0] {
            ended = Some(wait_pidfd(child.as_fd()).doing("wait for the process")?);
        }
        if ready[3] {
            let mut detach = false;
            match read_stdin(&mut buffer)? {
                Some(0) => reading = false,
                Some(count) => {
                    let bytes;
                    (bytes, detach) = keys.scan(&buffer[..count], console.tty);
                    pending.extend(&bytes);
                }
                None => {}
            }
            if detach {
                let mut child = child;
                child.disarm();
                return Ok(End::Detached);
            }
        }
        if let Some(file) = &mut sink {
            // An error is that of a process that has closed its input.
            if pending.send(file).is_err() {
                pending.clear();
                reading = false;
            }
            if !reading && pending.is_empty() {
                sink = None;
            }
        }
        if ready[4] {
            while let Some(signal) = console.signals.next() {
                match signal {
                    libc::SIGWINCH => resize(sources[0].as_ref(), console.tty),
                    libc::SIGCONT => {}
                    signal => drop(send_signal(child.as_fd(), signal)),
                }
            }
        }
    }
    let mut child = child;
    child.disarm();
    let status = match ended {
        Some(status) => status,
        None => wait_pidfd(child.as_fd()).doing("wait for the process")?,
    };
    Ok(End::Exited(status.shell_code()))
}

fn resize(master: Option<&File>, is_terminal: bool) {
    if let (Some(master), Some((columns, rows)), true) = (master, window(), is_terminal) {
        let _ = tty::set_window(master.as_fd(), Window { columns, rows });
    }
}

/// One read's worth of output; `false` if our stdout's reader has gone.
fn pass(source: &mut Option<File>, is_stderr: bool, buffer: &mut [u8]) -> Result<bool> {
    let Some(file) = source else { return Ok(true) };
    let count = match file.read(buffer) {
        Ok(count) => count,
        Err(err) if is_passing(&err) => return Ok(true),
        // EIO: the terminal's other side was closed (pty(7)).
        Err(_) => 0,
    };
    if count == 0 {
        *source = None;
        return Ok(true);
    }
    let written = match is_stderr {
        true => io::stderr().write_all(&buffer[..count]),
        false => write_stdout(&buffer[..count]),
    };
    match written {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.doing("write the output").map(|()| true),
    }
}

/// Past Rust's line buffer: what a program wrote is passed on when it comes, whole or not.
fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(io::stdout(), rest) {
            Ok(count) => rest = &rest[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                // Somebody made the shared terminal non-blocking.
                let stdout = io::stdout();
                let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PollTimeout::NONE);
            }
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

/// Zero at the end; `None` if there is nothing now.
fn read_stdin(buffer: &mut [u8]) -> Result<Option<usize>> {
    match rustix::io::read(io::stdin(), &mut *buffer) {
        Ok(count) => Ok(Some(count)),
        // Somebody made it non-blocking, and somebody else was faster.
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(None),
        // The terminal was hung up.
        Err(rustix::io::Errno::IO) => Ok(Some(0)),
        Err(err) => Err(err).doing("read standard input"),
    }
}

fn raw_mode<'fd>(console: &Console, stdin: BorrowedFd<'fd>) -> Option<RawMode<'fd>> {
    (console.tty && console.stdin && tty::is_terminal(stdin))
        .then(|| RawMode::enter(stdin).ok())
        .flatten()
}

/// Sleeps until something happens to one of the descriptors, and tells what; to absent ones
/// nothing ever does.
fn wait(
    fds: &[Option<(BorrowedFd<'_>, PollFlags)>],
    timeout: PollTimeout,
) -> Result<Vec<PollFlags>> {
    let mut list: Vec<PollFd<'_>> =
        fds.iter().flatten().map(|(fd, events)| PollFd::new(*fd, *events)).collect();
    loop {
        match poll(&mut list, timeout) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).doing("wait for input"),
        }
    }
    let mut results = list.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    let mut result = |present| if present { results.next() } else { None };
    Ok(fds.iter().map(|fd| result(fd.is_some()).unwrap_or(PollFlags::empty())).collect())
}

/// Finds the detach sequence in what is typed. Keys that only began it are passed on late.
#[derive(Debug)]
struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    fn new(keys: &[u8]) -> Self {
        Self { keys: keys.to_vec(), matched: 0 }
    }

    /// What is to be passed on, and whether the sequence is complete.
    fn scan(&mut self, bytes: &[u8], active: bool) -> (Vec<u8>, bool) {
        if !active || self.keys.is_empty() {
            return (bytes.to_vec(), false);
        }
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads_and_near_misses_pass() {
        let mut keys = DetachKeys::new(&[16, 17]);
        assert_eq!(keys.scan(b"a\x10", true), (b"a".to_vec(), false));
        assert_eq!(keys.scan(b"b", true), (b"\x10b".to_vec(), false));
        assert_eq!(keys.scan(b"\x10\x10\x11z", true), (b"\x10".to_vec(), true));
        let mut off = DetachKeys::new(&[16, 17]);
        assert_eq!(off.scan(b"\x10\x11", false), (b"\x10\x11".to_vec(), false));
    }
}
