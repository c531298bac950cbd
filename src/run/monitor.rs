//! The monitor: what stays with a container while it runs.
//!
//! One process for each container, dhow itself in a hidden role: parent of its init, owner of
//! its pipes or terminal, writer of its log, host of those attached. It sleeps in `poll(2)` and
//! does nothing else; when init ends it records how, and goes.
//!
//! It is started by `execve` from the process that launched the container, which is how it gets
//! rid of everything that process had in memory: a hundred monitors share their pages.
//!
//! ```text
//! dhow monitor ROOT RUNROOT ID PIDFD LISTENER CLIENT:WANTS|- TTY|- STDOUT|- STDERR|- STDIN|-
//! ```

use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use super::health::{FAILED_TO_START, HEALTHY, NOT_YET, STARTED, UNHEALTHY};
use super::{
    attach::{Frame, MAX_PAYLOAD, Outbox, Wants, would_pass},
    discard,
    health::{Act, HealthWatch, start_verb},
    log::Log,
};
use crate::{
    cgroup::Cgroup,
    error::{Context as _, Error, Result},
    state::{
        ContainerId, Layout,
        journal::{self, of_container},
        layout::ContainerPaths,
        record::{ContainerRecord, ProcessIdentity, ProcessRecord, StateRecord},
        restart,
        store::{Durability, Lock, read_json, write_json},
    },
    sys::{
        self, fd,
        process::{ExitStatus, send_signal, wait_pidfd},
        tty,
    },
};

pub const ROLE: &str = "monitor";

/// Output waiting for one slow reader; beyond it the container has to wait, too.
const OUTBOX_MAX: usize = 1 << 20;
/// What a pipe holds (pipe(7)).
const CHUNK: usize = 64 << 10;
/// What a pipe of a container that writes much is made to hold, and bytes read at a time: while
/// one batch is logged, the next one gathers.
const WIDE: usize = 256 << 10;
/// Bytes of a terminal's output that are awaited after init has ended.
const TERMINAL_REST: usize = 1 << 20;
/// How long those who have heard of the end may stay before what the container had is unmounted.
const PARTING: Duration = Duration::from_millis(500);
/// How long a builder that has closed its end of a step may take to end itself.
const FAREWELL: Duration = Duration::from_secs(2);
/// Bytes read at once that make a burst.
const BURST: usize = 4 << 10;
/// Milliseconds without output after which a terminal that outlived init is given up: some
/// process outside the container holds it.
const DRAIN_PATIENCE: u16 = 100;
/// Milliseconds without output after which memory that a burst took is given back, once.
const BURST_REST: u16 = 1000;

/// What the launching process hands over.
#[derive(Debug)]
pub struct Inheritance<'fd> {
    pub layout: &'fd Layout,
    pub id: &'fd ContainerId,
    pub pidfd: BorrowedFd<'fd>,
    pub listener: BorrowedFd<'fd>,
    pub client: Option<(BorrowedFd<'fd>, Wants)>,
    pub terminal: Option<BorrowedFd<'fd>>,
    pub stdout: Option<BorrowedFd<'fd>>,
    pub stderr: Option<BorrowedFd<'fd>>,
    pub stdin: Option<BorrowedFd<'fd>>,
    /// See [`Started::root`](super::launch::Started::root).
    pub root: Option<BorrowedFd<'fd>>,
    /// The lock of who has the root file system mounted.
    pub mounted: Option<BorrowedFd<'fd>>,
}

/// Becomes the monitor; returns only to say why it could not.
pub fn become_monitor(inheritance: &Inheritance<'_>) -> Error {
    let attempt = || -> Result<std::convert::Infallible> {
        // What the caller had open must not stay open for the container's whole life.
        sys::process::close_on_exec_from(3).doing("let go of the caller's descriptors")?;
        let c = |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::invalid("a path has a NUL"));
        let number = |fd: Option<BorrowedFd<'_>>| -> Result<CString> {
            match fd {
                Some(fd) => {
                    fd::keep_across_exec(fd)?;
                    c(fd.as_raw_fd().to_string().as_bytes())
                }
                None => Ok(c"-".to_owned()),
            }
        };
        let client = match inheritance.client {
            Some((fd, wants)) => {
                fd::keep_across_exec(fd)?;
                c(format!("{}:{}", fd.as_raw_fd(), wants.bits()).as_bytes())?
            }
            None => c"-".to_owned(),
        };
        let argv = [
            c"dhow".to_owned(),
            c(ROLE.as_bytes())?,
            c(inheritance.layout.root().as_os_str().as_bytes())?,
            c(inheritance.layout.run_root().as_os_str().as_bytes())?,
            c(inheritance.id.as_str().as_bytes())?,
            number(Some(inheritance.pidfd))?,
            number(Some(inheritance.listener))?,
            client,
            number(inheritance.terminal)?,
            number(inheritance.stdout)?,
            number(inheritance.stderr)?,
            number(inheritance.stdin)?,
            number(inheritance.root)?,
            number(inheritance.mounted)?,
        ];
        let errno = sys::process::exec(sys::process::SELF_EXE, &argv, &environment());
        Err(Error::from(errno).context("start the container's monitor"))
    };
    match attempt() {
        Ok(never) => match never {},
        Err(err) => err,
    }
}

/// What a later removal of files needs: nothing but the way to the id-mapping helpers; and systemd's
/// socket, for who is to tell it that the container is healthy.
fn environment() -> Vec<CString> {
    let keep = |key: &str| {
        let value = std::env::var_os(key)?;
        CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok()
    };
    ["HOME", "USER", "XDG_RUNTIME_DIR", "NOTIFY_SOCKET"]
        .iter()
        .filter_map(|key| keep(key))
        .collect()
}

/// The hidden role's entry. Never returns.
pub fn main(args: &[OsString]) -> ! {
    let code = match Monitor::inherit(args) {
        Ok(mut monitor) => {
            monitor.watch();
            0
        }
        // Nobody is there to hear it: the next command finds the container without a monitor.
        Err(_) => 125,
    };
    sys::process::exit_now(code)
}

struct Monitor {
    layout: Layout,
    id: ContainerId,
    paths: ContainerPaths,
    pidfd: OwnedFd,
    listener: UnixListener,
    clients: Vec<Client>,
    /// Standard output and error; a terminal is the first of them.
    sources: [Option<Source>; 2],
    /// The container's side of its terminal, held open so that a container that closes it does
    /// not make its end look like a hangup, again and again (pty(7), EIO).
    slave: Option<OwnedFd>,
    stdin: Option<File>,
    /// Input that the container has not taken yet.
    pending: Outbox,
    stdin_ends: bool,
    /// Its input ends with that of the first client who sends any (docker's `StdinOnce`).
    stdin_once: bool,
    is_terminal: bool,
    log: Option<Log>,
    auto_remove: bool,
    health: Option<HealthWatch>,
    /// When its time is up.
    deadline: Option<Instant>,
    ended: Option<ExitStatus>,
    /// The container's, from init's end on.
    cgroup: Option<Cgroup>,
    buffer: Vec<u8>,
    /// There was much output, and no pause since.
    in_burst: bool,
    /// The container's root, and the lock of who has it mounted.
    mounted: (Option<OwnedFd>, Option<OwnedFd>),
    /// Who builds, if this is a step of a build; they are the first client.
    builder: Option<ProcessIdentity>,
    /// They have gone: the step is for nobody.
    is_orphan: bool,
}

/// One of the container's outputs.
struct Source {
    file: File,
    /// Bytes that are still to come after init's end.
    rest: usize,
    is_wide: bool,
}

struct Client {
    stream: UnixStream,
    wants: Wants,
    inbox: Vec<u8>,
    outbox: Outbox,
    gone: bool,
}

impl Monitor {
    fn inherit(args: &[OsString]) -> Result<Self> {
        let text = |index: usize| args.get(index).and_then(|arg| arg.to_str()).unwrap_or("-");
        let descriptor = |index: usize| text(index).parse().ok().and_then(fd::inherited);
        let missing = || Error::invalid("the monitor was started with the wrong arguments");
        let [root, run] = [0, 1].map(|index| args.get(index).map(OsString::as_os_str));
        let layout = Layout::new(root.ok_or_else(missing)?, run.ok_or_else(missing)?);
        let id: ContainerId = text(2).parse()?;
        let paths = layout.container(&id);
        let record: ContainerRecord = read_json(&paths.record())?.ok_or_else(missing)?;
        let (pidfd, listener) = (descriptor(3), descriptor(4));
        let client = text(5).split_once(':').and_then(|(number, bits)| {
            let stream = fd::inherited(number.parse().ok()?)?;
            Some(Client::new(stream.into(), Wants::from_bits(bits.parse().ok()?)))
        });
        let terminal = descriptor(6);
        let is_terminal = terminal.is_some();
        let slave = terminal.as_ref().and_then(|master| tty::open_slave(master.as_fd()).ok());
        let stdin = match &terminal {
            Some(master) => Some(master.try_clone().doing("duplicate the terminal")?.into()),
            None => descriptor(9).map(File::from),
        };
        let log = Log::open(&record, &paths).ok().flatten();
        let mut monitor = Self {
            layout,
            id,
            paths,
            pidfd: pidfd.ok_or_else(missing)?,
            listener: listener.ok_or_else(missing)?.into(),
            clients: client.into_iter().collect(),
            sources: [terminal.or_else(|| descriptor(7)), descriptor(8)]
                .map(|fd| fd.map(|fd| Source { file: fd.into(), rest: 0, is_wide: is_terminal })),
            slave,
            stdin,
            pending: Outbox::default(),
            stdin_ends: false,
            stdin_once: record.config.attach.iter().any(|stream| stream == "stdin"),
            is_terminal,
            log,
            auto_remove: record.host.auto_remove,
            health: HealthWatch::of(&record),
            deadline: record
                .host
                .special
                .timeout
                .map(|seconds| Instant::now() + Duration::from_secs(seconds.into())),
            ended: None,
            cgroup: None,
            buffer: Vec::new(),
            in_burst: false,
            mounted: (descriptor(10), descriptor(11)),
            builder: record.build.as_ref().map(|build| build.builder),
            is_orphan: false,
        };
        monitor.prepare()?;
        Ok(monitor)
    }

    fn prepare(&mut self) -> Result<()> {
        let outputs = self.sources.iter().flatten().map(|source| &source.file);
        let fds = outputs.chain(&self.stdin).map(AsFd::as_fd);
        let fds = fds.chain([self.listener.as_fd()]);
        for fd in fds.chain(self.clients.iter().map(|client| client.stream.as_fd())) {
            rustix::io::ioctl_fionbio(fd, true).doing("make a descriptor non-blocking")?;
        }
        Ok(())
    }

    /// Until init has ended and its last output is delivered.
    fn watch(&mut self) {
        let mut quiet = false;
        while self.ended.is_none() || (self.sources.iter().any(Option::is_some) && !quiet) {
            quiet = !self.step();
        }
        self.finish();
    }

    /// Sleeps until something happens and deals with it; `false` if init had ended and nothing
    /// more came in time.
    fn step(&mut self) -> bool {
        let Ok(ready) = self.poll() else { return true };
        self.mind_health(ready.check);
        self.mind_deadline();
        if !ready.any {
            self.rest();
            return self.ended.is_none();
        }
        if ready.init {
            self.init_ended();
        }
        for stream in 0..2 {
            if ready.sources[stream] {
                self.pass_output(stream);
            }
        }
        if ready.stdin {
            self.feed();
        }
        if ready.clients.iter().any(|events| !events.is_empty()) {
            self.make_buffer();
            for (client, events) in self.clients.iter_mut().zip(&ready.clients) {
                client.serve(*events, &mut self.buffer);
            }
        }
        if ready.listener {
            self.accept();
        }
        self.obey();
        self.mind_builder();
        self.clients.retain(|client| !client.gone);
        true
    }

    /// Kills a step whose builder has let go of it: killed, or about to remove it.
    fn mind_builder(&mut self) {
        let has_gone = || self.clients.first().is_none_or(|builder| builder.gone);
        if self.builder.is_some() && !self.is_orphan && has_gone() {
            self.is_orphan = true;
            let _ = send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        }
    }

    /// Begins a health check when it is time, and sees to what comes of it.
    fn mind_health(&mut self, has_ended: bool) {
        let Some(health) = self.health.as_mut().filter(|_| self.ended.is_none()) else { return };
        if has_ended {
            match health.hear() {
                Some(Act::Kill) => drop(send_signal(self.pidfd.as_fd(), libc::SIGKILL)),
                Some(Act::Run(verb)) => start_verb(&self.layout, verb, self.id.as_str()),
                None => {}
            }
        }
        health.begin(&self.layout, &self.id);
    }

    /// Checks what the record says now. A check that runs is the last of the old ones.
    fn check_anew(&mut self) {
        let record: Option<ContainerRecord> = read_json(&self.paths.record()).ok().flatten();
        let state = read_json(&self.paths.health()).ok().flatten().unwrap_or_default();
        let old = self.health.take();
        self.health =
            record.and_then(|record| HealthWatch::of(&record)).map(|new| new.follow(old, &state));
        // Until the next burst.
        self.in_burst = true;
    }

    /// Kills a container whose time is up.
    fn mind_deadline(&mut self) {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.deadline = None;
            let _ = send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        }
    }

    /// Zeroed by the kernel, page by page: little output takes little memory.
    fn make_buffer(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; WIDE];
        }
    }

    /// Gives back what a burst of output needed.
    fn rest(&mut self) {
        self.in_burst = false;
        self.buffer = Vec::new();
        if let Some(log) = &mut self.log {
            log.rest();
        }
        sys::process::trim_memory();
    }

    /// Reaps init, and finds out how much output there is still to be read. All that init wrote
    /// is in the pipes by now, and whatever lived in its pid namespace died before it did.
    fn init_ended(&mut self) {
        self.ended = wait_pidfd(self.pidfd.as_fd()).ok().or(Some(ExitStatus::Code(255)));
        // With a pid namespace of its own nothing is left; otherwise the cgroup knows.
        self.cgroup = self.find_cgroup();
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill();
        }
        self.slave = None;
        for place in &mut self.sources {
            let Some(source) = place else { continue };
            source.rest = match self.is_terminal {
                true => TERMINAL_REST,
                false => rustix::io::ioctl_fionread(&source.file)
                    .ok()
                    .and_then(|count| usize::try_from(count).ok())
                    .unwrap_or(0),
            };
            if source.rest == 0 {
                *place = None;
            }
        }
    }

    /// The time until a check is due, or until the deadline.
    fn rest_until(&self, check: Option<Duration>) -> Option<Duration> {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        check.into_iter().chain(self.deadline.map(left)).min()
    }

    fn poll(&self) -> io::Result<Ready> {
        // After the end there is no more than the pipes hold; nobody is made to wait for it.
        let congested = self.ended.is_none()
            && self.clients.iter().any(|client| client.outbox.len() > OUTBOX_MAX);
        let mut fds = Vec::with_capacity(5 + self.clients.len());
        let idle = PollFlags::empty();
        if self.ended.is_none() {
            fds.push(PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN));
        }
        let at_listener = fds.len();
        fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        let mut at_sources = [None; 2];
        for (source, at) in self.sources.iter().zip(&mut at_sources) {
            if let Some(source) = source.as_ref().filter(|_| !congested) {
                *at = Some(fds.len());
                fds.push(PollFd::new(source.file.as_fd(), PollFlags::POLLIN));
            }
        }
        let mut at_stdin = None;
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.pending.is_empty()) {
            at_stdin = Some(fds.len());
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
        }
        let check = self.health.as_ref().filter(|_| self.ended.is_none());
        let mut at_check = None;
        if let Some(ending) = check.and_then(HealthWatch::ending) {
            at_check = Some(fds.len());
            fds.push(PollFd::new(ending, PollFlags::POLLIN));
        }
        let at_clients = fds.len();
        for client in &self.clients {
            // A client that sends faster than the container reads is not read for a while.
            let read = if self.pending.len() > CHUNK { idle } else { PollFlags::POLLIN };
            fds.push(PollFd::new(client.stream.as_fd(), read | client.awaited()));
        }
        let timeout = match self.ended {
            Some(_) => PollTimeout::from(DRAIN_PATIENCE),
            None if self.in_burst => PollTimeout::from(BURST_REST),
            None => match self.rest_until(check.and_then(HealthWatch::rest)) {
                // Rounded up, so that the last fraction is not spent spinning.
                Some(rest) => PollTimeout::try_from(rest + Duration::from_millis(1))
                    .unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            },
        };
        let count = poll(&mut fds, timeout)?;
        let events = |at: usize| fds[at].revents().unwrap_or(idle);
        let happened = |at: Option<usize>| at.is_some_and(|at| !events(at).is_empty());
        Ok(Ready {
            any: count > 0,
            init: self.ended.is_none() && happened(Some(0)),
            listener: happened(Some(at_listener)),
            sources: at_sources.map(happened),
            stdin: happened(at_stdin),
            check: happened(at_check),
            clients: (at_clients..fds.len()).map(events).collect(),
        })
    }

    /// From the container to the log and to everyone attached.
    fn pass_output(&mut self, stream: usize) {
        self.make_buffer();
        let Some(source) = &mut self.sources[stream] else { return };
        let limit = if self.ended.is_some() { source.rest.min(WIDE) } else { WIDE };
        let count = match source.file.read(&mut self.buffer[..limit]) {
            Ok(count) => count,
            Err(err) if would_pass(&err) => return,
            // EIO: the last process has closed its side of the terminal (pty(7)).
            Err(_) => 0,
        };
        source.rest = source.rest.saturating_sub(count);
        if count == 0 || (self.ended.is_some() && source.rest == 0) {
            self.sources[stream] = None;
        } else if count > BURST {
            self.in_burst = true;
            if count >= CHUNK && !source.is_wide {
                source.is_wide = true;
                // Refused to a user whose pipes hold too much already: then it stays as it is.
                let _ = rustix::pipe::fcntl_setpipe_size(&source.file, WIDE);
            }
        }
        let is_stderr = stream == 1;
        let bytes = &self.buffer[..count];
        if let Some(log) = &mut self.log {
            // A full disk must not stop the container; what does not fit is lost to the log.
            let _ = log.write(is_stderr, bytes);
        }
        for client in &mut self.clients {
            if if is_stderr { client.wants.stderr } else { client.wants.stdout } {
                client.tell(is_stderr, bytes);
            }
        }
    }

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept() {
            let _ = stream.set_nonblocking(true);
            self.clients.push(Client::new(stream, Wants::default()));
        }
    }

    /// Does what the clients have said.
    fn obey(&mut self) {
        let mut frames = Vec::new();
        for client in &mut self.clients {
            let said = Frame::take_all(&mut client.inbox).unwrap_or_else(|_| {
                client.gone = true;
                Vec::new()
            });
            for frame in said {
                if let Frame::Hello(wants) = frame {
                    client.wants = wants;
                }
                frames.push(frame);
            }
            // A pipeline's producer that was killed must not leave its consumer waiting.
            if client.gone && client.wants.stdin {
                frames.push(Frame::StdinEnd);
            }
        }
        for frame in frames {
            match frame {
                Frame::Stdin(bytes) => self.pending.extend(&bytes),
                Frame::StdinEnd => self.stdin_ends |= self.stdin_once && !self.is_terminal,
                Frame::Window(columns, rows) => self.resize(columns, rows),
                Frame::Changed => self.check_anew(),
                Frame::Hello(_) | Frame::Stdout(_) | Frame::Stderr(_) | Frame::Exit(_) => {}
            }
        }
        self.feed();
    }

    /// As much pending input as the container takes now.
    fn feed(&mut self) {
        let Some(stdin) = &mut self.stdin else {
            self.pending.clear();
            return;
        };
        // Unless it has closed its input: what else comes is for nobody.
        if self.pending.send(stdin).is_err() {
            self.pending.clear();
            self.stdin = None;
        }
        if !self.pending.is_empty() {
            return;
        }
        if self.stdin_ends {
            self.stdin = None;
        }
    }

    fn resize(&self, columns: u16, rows: u16) {
        if let Some(master) = self.sources[0].as_ref().filter(|_| self.is_terminal) {
            let _ = tty::set_window(master.file.as_fd(), tty::Window { columns, rows });
        }
    }

    fn find_cgroup(&self) -> Option<Cgroup> {
        let process: ProcessRecord = read_json(&self.paths.process()).ok()??;
        Cgroup::open(process.cgroup?).ok()
    }

    /// Records how it ended, cleans up, and tells everyone attached, in this order: who has
    /// heard of the end finds it recorded.
    fn finish(&mut self) {
        if let Some(health) = &mut self.health {
            health.end();
        }
        if let Some(log) = &mut self.log {
            let _ = log.finish();
        }
        let code = self.ended.map_or(255, ExitStatus::shell_code);
        let mut state: StateRecord =
            read_json(&self.paths.state()).ok().flatten().unwrap_or_default();
        let cgroup = self.cgroup.take();
        let now = Timestamp::now();
        state.finished = Some(now);
        state.exit_code = Some(code);
        state.oom_killed = cgroup.as_ref().is_some_and(Cgroup::oom_killed);
        if let Some(cgroup) = cgroup {
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
        // As it is now: a policy can be changed, and a container renamed.
        let record: Option<ContainerRecord> = read_json(&self.paths.record()).ok().flatten();
        self.note_end(record.as_ref(), code, state.oom_killed);
        let (gone, leftover) = if self.auto_remove && !self.paths.keep().exists() {
            let forgotten = discard::forget(&self.layout, &self.id, true).ok();
            if let Some(record) = &record {
                journal::append(&self.layout, &of_container(record, "destroy"));
                // Otherwise whoever has attached does it.
                if record.host.special.removes_image && self.clients.is_empty() {
                    start_verb(&self.layout, "rmi", &record.image);
                }
            }
            forgotten.unzip()
        } else if !self.paths.stopped().exists()
            && record.is_some_and(|record| record.host.restart.applies(code, state.restarts))
        {
            let ran = state.started.map_or(Duration::ZERO, |started| {
                now.duration_since(started).try_into().unwrap_or_default()
            });
            state.restart_delay = restart::delay(ran, state.restart_delay);
            state.restarting = true;
            self.promise_restart();
            let _ = write_json(&self.paths.state(), &state, Durability::Renamed);
            self.say_goodbye(code);
            self.see_off();
            self.unmount();
            self.hear_out();
            self.log.iter_mut().for_each(Log::settle);
            self.become_restarter(Duration::from_millis(state.restart_delay));
            return;
        } else {
            let _ = write_json(&self.paths.state(), &state, Durability::Renamed);
            (None, discard::runtime(&self.layout, &self.paths).ok())
        };
        self.say_goodbye(code);
        self.see_off();
        self.unmount();
        // Nobody has to wait for this: there is no such container any more.
        if let Some(gone) = gone {
            let _ = gone.remove();
        }
        self.hear_out();
        self.log.iter_mut().for_each(Log::settle);
        if self.is_orphan {
            self.leave_nothing();
        }
        if let Some(leftover) = leftover {
            leftover.remove_soon();
        }
    }

    /// Removes a step whose builder was killed; one who lives does that.
    fn leave_nothing(&self) {
        let builder = self.builder.and_then(discard::living);
        let has_ended = builder
            .is_none_or(|pidfd| discard::wait_for_end(pidfd.as_fd(), Some(FAREWELL)) == Ok(true));
        // Whoever builds next may be removing it already, with its lock.
        if has_ended && let Ok(Some(_lock)) = Lock::try_exclusive(self.paths.dir()) {
            let _ = discard::container(&self.layout, &self.id, true);
        }
    }

    fn note_end(&self, record: Option<&ContainerRecord>, code: i32, oom_killed: bool) {
        let Some(record) = record.filter(|record| record.build.is_none()) else { return };
        if oom_killed {
            journal::append(&self.layout, &of_container(record, "oom"));
        }
        let died = of_container(record, "die").with("exitCode", code.to_string());
        journal::append(&self.layout, &died);
    }

    /// Says that the container will run again, before it is recorded how it ended. Nobody can
    /// attach from here on.
    fn promise_restart(&self) {
        let process: Option<ProcessRecord> = read_json(&self.paths.process()).ok().flatten();
        if let Some(process) = process {
            let process = ProcessRecord { restarting: true, cgroup: None, ..process };
            let _ = write_json(&self.paths.process(), &process, Durability::Renamed);
        }
        for path in [self.paths.ready(), self.paths.attach_socket()] {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Waits, and becomes the role that starts the container again. Whoever changes their mind
    /// meanwhile kills this process: it holds nothing.
    fn become_restarter(&mut self, wait: Duration) {
        self.clients = Vec::new();
        self.sources = [None, None];
        (self.stdin, self.slave, self.log) = (None, None, None);
        self.rest();
        std::thread::sleep(wait);
        let c = |bytes: &[u8]| CString::new(bytes).ok();
        let words = [
            c(b"dhow"),
            c(b"restart-container"),
            c(self.layout.root().as_os_str().as_bytes()),
            c(self.layout.run_root().as_os_str().as_bytes()),
            c(self.id.as_str().as_bytes()),
        ];
        let argv: Vec<CString> = words.into_iter().flatten().collect();
        let _ = sys::process::close_on_exec_from(3);
        let _ = sys::process::exec(sys::process::SELF_EXE, &argv, &environment());
    }

    /// Tells everyone attached, those included who have only knocked. From the removal of the
    /// socket on nobody else can come.
    fn say_goodbye(&mut self, code: i32) {
        while let Ok((stream, _)) = self.listener.accept() {
            let _ = stream.set_nonblocking(true);
            self.clients.push(Client::new(stream, Wants::default()));
        }
        for client in &mut self.clients {
            client.outbox.push(&Frame::Exit(code));
            client.send();
        }
    }

    /// Gives those attached a moment to leave: who removes the container stays until its files are
    /// gone.
    fn see_off(&mut self) {
        let until = Instant::now() + PARTING;
        self.make_buffer();
        while self.mounted.0.is_some() && !self.clients.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(left) = PollTimeout::try_from(left) else { return };
            let mut fds: Vec<_> = (self.clients.iter())
                .map(|client| {
                    PollFd::new(client.stream.as_fd(), PollFlags::POLLIN | client.awaited())
                })
                .collect();
            match poll(&mut fds, left) {
                Ok(0) => return,
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
            let events: Vec<_> =
                fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
            for (client, events) in self.clients.iter_mut().zip(events) {
                client.serve(events, &mut self.buffer);
            }
            self.clients.retain(|client| !client.gone);
        }
    }

    /// Lets go of the container's root file system, which the kernel syncs now. Who wants to mount
    /// it again waits for the lock.
    fn unmount(&mut self) {
        self.mounted.0 = None;
        self.mounted.1 = None;
    }

    /// Stays for as long as those attached go on reading.
    fn hear_out(&mut self) {
        loop {
            self.clients.retain(|client| !client.gone && !client.outbox.is_empty());
            if self.clients.is_empty() {
                return;
            }
            let streams = self.clients.iter().map(|client| client.stream.as_fd());
            let mut fds: Vec<_> =
                streams.map(|stream| PollFd::new(stream, PollFlags::POLLOUT)).collect();
            let _ = poll(&mut fds, PollTimeout::NONE);
            self.clients.iter_mut().for_each(Client::send);
        }
    }
}

struct Ready {
    any: bool,
    init: bool,
    listener: bool,
    sources: [bool; 2],
    stdin: bool,
    check: bool,
    clients: Vec<PollFlags>,
}

impl Client {
    fn new(stream: UnixStream, wants: Wants) -> Self {
        Self { stream, wants, inbox: Vec::new(), outbox: Outbox::default(), gone: false }
    }

    fn serve(&mut self, events: PollFlags, buffer: &mut [u8]) {
        if events.contains(PollFlags::POLLOUT) {
            self.send();
        }
        if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            match self.stream.read(buffer) {
                Ok(0) => self.gone = true,
                Ok(count) => self.inbox.extend(&buffer[..count]),
                Err(err) => self.gone = !would_pass(&err),
            }
        }
    }

    /// That it takes more, if there is more for it.
    fn awaited(&self) -> PollFlags {
        if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT }
    }

    /// As much as the client takes now.
    fn send(&mut self) {
        self.gone |= self.outbox.send(&mut self.stream).is_err();
    }

    /// Output, as much of it as the client takes now.
    fn tell(&mut self, is_stderr: bool, bytes: &[u8]) {
        for bytes in bytes.chunks(MAX_PAYLOAD) {
            if self.gone {
                return;
            }
            let sent = self.outbox.send_output(&mut self.stream, is_stderr, bytes);
            self.gone |= sent.is_err();
        }
    }
}

/// Makes the socket on which a container's monitor listens.
pub fn listen(paths: &ContainerPaths) -> Result<UnixListener> {
    let path = paths.attach_socket();
    with_short_path(&path, |path| UnixListener::bind(path)).at(&path)
}

/// Connects to a container's monitor.
pub fn connect(paths: &ContainerPaths) -> Result<UnixStream> {
    let path = paths.attach_socket();
    with_short_path(&path, |path| UnixStream::connect(path)).at(&path)
}

/// A socket's path holds 107 bytes (unix(7)), fewer than an id below a long home directory: it
/// is reached through a descriptor of its directory.
pub(super) fn with_short_path<T>(
    path: &Path,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let dir = File::open(path.parent().unwrap_or(path))?;
    let near = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
    act(&near.join(path.file_name().unwrap_or_default()))
}
