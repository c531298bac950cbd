//! The process that stands behind a carrier: dhow itself in a hidden role, one for each
//! container that has one.
//!
//! ```text
//! start (launching process)          network-carrier
//! -------------------------------    -----------------------------------------------------
//! spawn, with init's pidfd       ->  joins the container's user namespace, as its root
//!                                    makes a pid and a mount namespace; their process goes on:
//!                                      shows the program the network as a file
//!                                      starts it, waits until the network is there
//!                                <-    Reply
//!                                      sleeps until init ends
//! ```
//!
//! The program cannot outlive the container: as soon as init ends the pid namespace ends with
//! its first process, whatever has become of the monitor; and were this process killed, the kernel
//! would kill the program.

use std::{
    convert::Infallible,
    ffi::{CString, OsString},
    fs::OpenOptions,
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, net::UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
};
use serde::{Deserialize, Serialize};

use super::{Carriage, Port};
use crate::{
    error::{Context as _, Error, Result},
    network::protocol::{Refused, Reply, receive, send},
    state::network::CarrierProgram,
    sys::{
        self, channel, fd, mount,
        process::{Birth, NewProcess, Side, SingleThreaded, clone3, spawn_self},
    },
};

pub const ROLE: &str = "network-carrier";

/// How long a network may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is kept of what the program says.
const SAID_MAX: usize = 16 << 10;
/// In the container's runtime directory, which is the role's working directory: a socket's path
/// holds 107 bytes (unix(7)).
const API: &str = "slirp4netns.sock";
/// There, too: the network namespace is mounted on it, for a program that has dropped the rights
/// which `/proc/PID/ns` asks for.
const NETWORK_FILE: &str = "netns";
const REPORT: i32 = 3;
const INIT: i32 = 4;
const DIRECTORY: i32 = 5;
const NETWORK: i32 = 6;
const USER: i32 = 7;

/// What the role is told, as one JSON word.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    program: CarrierProgram,
    words: Vec<String>,
    forwards: Option<(Vec<Port>, Ipv4Addr)>,
}

impl Carriage {
    /// Starts the program for the network of `init`, whose ids are mapped; it is there when this
    /// returns. `dir` is the container's runtime directory; `in_user_namespace`: the network is of
    /// init's own user namespace.
    pub fn start(&self, dir: &Path, init: i32, in_user_namespace: bool) -> Result<()> {
        let open = |path: &Path| std::fs::File::open(path).at(path);
        let network = dir.join(NETWORK_FILE);
        std::fs::write(&network, "").at(&network).doing("write")?;
        let network = network.into_os_string().into_string();
        let network =
            network.map_err(|_| Error::unsupported("the runtime directory is no text"))?;
        let mut words = self.words.clone();
        match self.carried.program {
            CarrierProgram::Pasta => words.extend(["--netns".to_owned(), network]),
            CarrierProgram::Slirp4netns => {
                words.push("--netns-type=path".to_owned());
                if self.forwards.is_some() {
                    words.push(format!("--api-socket={API}"));
                }
                words.extend([network, "tap0".to_owned()]);
            }
        }
        let orders =
            Orders { program: self.carried.program, words, forwards: self.forwards.clone() };
        let (report, theirs) = channel::pair().doing("create a socket pair")?;
        let pidfd = sys::process::open_pidfd(init).doing("open init")?;
        let directory = open(dir)?;
        let namespace = |kind: &str| open(format!("/proc/{init}/ns/{kind}").as_ref());
        let network = namespace("net")?;
        let user = in_user_namespace.then(|| namespace("user")).transpose()?;
        let mut fds = vec![theirs.as_fd(), pidfd.as_fd(), directory.as_fd(), network.as_fd()];
        fds.extend(user.as_ref().map(|user| user.as_fd()));
        let c = |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::invalid("a NUL in a path"));
        let argv = [
            c(b"dhow")?,
            c(ROLE.as_bytes())?,
            c(self.path.as_os_str().as_bytes())?,
            c(&serde_json::to_vec(&orders)?)?,
        ];
        let doing = || format!("start {}", self.path.display());
        let child = spawn_self(&argv.each_ref().map(|word| &**word), &fds, None)?;
        drop(theirs);
        // It leaves a process in a pid namespace of its own and ends.
        child.wait().doing_with(doing)?;
        let reply = receive::<Reply>(&report).doing_with(doing)?;
        match reply.map(|(reply, _)| reply.refused) {
            Some(None) => Ok(()),
            Some(Some(refused)) => Err(Error::from(refused).context(doing())),
            None => Err(Error::engine("it died before the network was there").context(doing())),
        }
    }
}

/// The hidden role's entry: `dhow network-carrier PROGRAM ORDERS`, and as descriptors 3 to 6 where
/// to report, init's pidfd, its runtime directory and its network; 7 is its user namespace, if it
/// has one.
pub fn main(args: &[OsString]) -> ! {
    let alone = SingleThreaded::from_the_start();
    let mut report = fd::inherited(REPORT);
    let Err(err) = begin(args, &mut report, &alone);
    refuse(report.as_ref(), &err);
    sys::process::exit_now(125)
}

fn refuse(report: Option<&OwnedFd>, err: &Error) {
    let reply = Reply { refused: Some(Refused::from(err)), ..Reply::default() };
    // Nobody may be there any more.
    let _ = report.map(|report| send(report, &reply, &[]));
}

/// Leaves a process behind, the first of a pid namespace.
fn begin(
    args: &[OsString],
    report: &mut Option<OwnedFd>,
    alone: &SingleThreaded,
) -> Result<Infallible> {
    let wrong = || Error::invalid("the carrier was started with the wrong arguments");
    let [program, orders] = args else { return Err(wrong()) };
    let orders: Orders = serde_json::from_slice(orders.as_bytes())?;
    let program = CString::new(program.as_bytes()).map_err(|_| wrong())?;
    let init = fd::inherited(INIT).ok_or_else(wrong)?;
    let directory = fd::inherited(DIRECTORY).ok_or_else(wrong)?;
    let network = fd::inherited(NETWORK).ok_or_else(wrong)?;
    leave_the_caller(&directory)?;
    if let Some(user) = fd::inherited(USER) {
        setns(&user, CloneFlags::CLONE_NEWUSER).doing("join the container's user namespace")?;
        sys::process::become_root().doing("become root of the container's user namespace")?;
    }
    let own = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    match clone3(&Birth::into_namespaces(own), alone).doing("make a pid namespace")? {
        Side::Parent(mut child) => {
            child.disarm();
            sys::process::exit_now(0)
        }
        Side::Child(new) => new.run(|| {
            let mut carrier = Running { program, orders, init };
            match show(&network).and_then(|()| carrier.start(alone)) {
                Ok(()) => {
                    let _ = report.take().map(|report| send(&report, &Reply::default(), &[]));
                    carrier.wait();
                }
                Err(err) => refuse(report.as_ref(), &err),
            }
            end()
        }),
    }
}

/// Mounts the container's network, where the program finds it.
fn show(network: &OwnedFd) -> Result<()> {
    let mounted = || -> Result<(), Errno> {
        mount::receive_only("/".as_ref())?;
        let tree = mount::clone_fd(network.as_fd(), false)?;
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let place = rustix::fs::open(NETWORK_FILE, flags, rustix::fs::Mode::empty());
        mount::attach(tree.as_fd(), place.map_err(sys::errno)?.as_fd())
    };
    mounted().doing("show the program the container's network")
}

/// Session, signals, directory, streams.
fn leave_the_caller(directory: &OwnedFd) -> Result<()> {
    nix::unistd::setsid().doing("leave the caller's session")?;
    sys::process::default_signals().doing("reset the signals")?;
    nix::unistd::fchdir(directory).doing("enter the container's directory")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").at("/dev/null")?;
    for number in 0..=2 {
        fd::install(null.as_fd(), number).doing("let go of the caller's streams")?;
    }
    Ok(())
}

/// Ends everybody in this pid namespace, and then itself: its ports are free when it has gone.
fn end() -> ! {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::SIGKILL);
    while !matches!(waitpid(None, None), Err(Errno::ECHILD)) {}
    sys::process::exit_now(0)
}

struct Running {
    program: CString,
    orders: Orders,
    init: OwnedFd,
}

impl Running {
    /// Starts the program and returns when the network is there.
    fn start(&mut self, alone: &SingleThreaded) -> Result<()> {
        let (mut said, stderr) = channel::pipe().doing("create a pipe")?;
        let (mut ready, told) = channel::pipe().doing("create a pipe")?;
        let Some(pid) = sys::process::fork(alone).doing("start a process")? else {
            NewProcess::forked().run(|| {
                let Err(errno) = self.become_program(&stderr, &told);
                let _ = rustix::io::write(&stderr, errno.desc().as_bytes());
                Err(())
            })
        };
        drop((stderr, told));
        let child = sys::process::open_pidfd(pid.as_raw()).doing("watch the program")?;
        let deadline = Instant::now() + PATIENCE;
        let mut text = Vec::new();
        let (mut is_silent, mut is_quiet) = (false, false);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // What has said its last word would tell of it again and again.
            let init = self.init.as_fd();
            let said_or_not = if is_silent { init } else { said.as_fd() };
            let ready_or_not = if is_quiet { init } else { ready.as_fd() };
            let [ended, gone, speaks, is_ready] =
                wait_for([init, child.as_fd(), said_or_not, ready_or_not], left)?;
            if ended {
                end();
            }
            if speaks {
                is_silent = !hear(&mut said, &mut text);
            }
            if gone {
                return self.ended(pid, &mut said, text);
            }
            if is_ready {
                is_quiet = !matches!(rustix::io::read(&mut ready, &mut [0; 1]), Ok(1));
                if !is_quiet {
                    return self.forward();
                }
            }
            if left.is_zero() {
                return Err(Error::engine("the network is not there after half a minute"));
            }
        }
    }

    /// In the new process.
    fn become_program(&self, stderr: &OwnedFd, told: &OwnedFd) -> Result<Infallible, Errno> {
        for number in [1, 2] {
            fd::install(stderr.as_fd(), number)?;
        }
        // pasta takes another disposition than the default for an error.
        sys::process::default_signal(nix::sys::signal::Signal::SIGPIPE)?;
        let name = self.orders.program.name();
        let c = |text: &str| CString::new(text).map_err(|_| Errno::EINVAL);
        let mut argv = vec![c(name)?];
        sys::process::close_on_exec_from(3)?;
        if self.orders.program == CarrierProgram::Slirp4netns {
            fd::keep_across_exec(told.as_fd())?;
            argv.push(c(&format!("--ready-fd={}", told.as_raw_fd()))?);
        }
        for word in &self.orders.words {
            argv.push(c(word)?);
        }
        let path = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        Err(sys::process::exec(&self.program, &argv, &[path]))
    }

    /// The process that was started has ended. pasta's does when the network is there, and leaves
    /// another one behind.
    fn ended(&self, pid: nix::unistd::Pid, said: &mut OwnedFd, mut text: Vec<u8>) -> Result<()> {
        let status = waitpid(pid, None).doing("hear how the program ended")?;
        let goes_on = waitpid(None, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive);
        let is_pasta = self.orders.program == CarrierProgram::Pasta;
        if is_pasta && matches!(status, WaitStatus::Exited(_, 0)) && goes_on {
            return Ok(());
        }
        if !goes_on {
            while hear(said, &mut text) {}
        }
        let text = String::from_utf8_lossy(&text);
        Err(Error::engine(match complaint(&text) {
            Some(line) => line.to_owned(),
            None => format!("it ended without a word ({status:?})"),
        }))
    }

    /// Tells slirp4netns of the published ports.
    fn forward(&self) -> Result<()> {
        let Some((ports, address)) = &self.orders.forwards else { return Ok(()) };
        for port in ports {
            let doing = || {
                let (ip, number) = (port.host_ip, port.host_port);
                format!("publish {}/{} on {ip}:{number}", port.container_port, port.protocol.name())
            };
            let request = serde_json::json!({ "execute": "add_hostfwd", "arguments": {
                "proto": port.protocol.name(),
                "host_addr": port.host_ip.to_string(), "host_port": port.host_port,
                "guest_addr": address.to_string(), "guest_port": port.container_port,
            }});
            let ask = || -> std::io::Result<String> {
                let mut api = UnixStream::connect(API)?;
                api.set_read_timeout(Some(PATIENCE))?;
                api.write_all(request.to_string().as_bytes())?;
                api.shutdown(std::net::Shutdown::Write)?;
                let mut answer = String::new();
                api.read_to_string(&mut answer).map(|_| answer)
            };
            let answer = ask().map_err(Error::from).doing_with(doing)?;
            let answer: serde_json::Value = serde_json::from_str(answer.trim())?;
            if let Some(error) = answer.get("error") {
                return Err(Error::conflict(error["desc"].to_string()).context(doing()));
            }
        }
        Ok(())
    }

    /// Until init ends.
    fn wait(&self) {
        // Its directory is not needed any more, and will be removed.
        let _ = nix::unistd::chdir("/");
        let mut fds = [PollFd::new(self.init.as_fd(), PollFlags::POLLIN)];
        while !matches!(poll(&mut fds, PollTimeout::NONE), Ok(1..)) {}
    }
}

/// What a program died of: a wrong option comes before its help, anything else is said last.
fn complaint(text: &str) -> Option<&str> {
    // That it cannot tell the system's log is not what it died of.
    let is_said = |line: &&str| !line.is_empty() && !line.starts_with("Failed to send ");
    let lines = || text.lines().map(str::trim).filter(is_said);
    let is_about_options = |line: &&str| {
        ["nrecognized option", "nvalid option", "requires an argument"]
            .iter()
            .any(|words| line.contains(words))
    };
    lines().find(is_about_options).or_else(|| lines().next_back())
}

/// Which of them have something to tell.
fn wait_for<const N: usize>(of: [BorrowedFd<'_>; N], left: Duration) -> Result<[bool; N]> {
    let mut fds = of.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, left) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno).doing("wait for the program"),
    }
    Ok(fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty())))
}

/// Reads some of what the program says; `false` at its end.
fn hear(said: &mut OwnedFd, text: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 1024];
    match rustix::io::read(said, &mut buffer) {
        Ok(count @ 1..) => {
            text.extend_from_slice(&buffer[..count]);
            text.drain(..text.len().saturating_sub(SAID_MAX));
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_died_of_is_found() {
        let help = "pasta: unrecognized option '--x'\nUsage: pasta\n --ns-mac-addr\n";
        assert_eq!(complaint(help), Some("pasta: unrecognized option '--x'"));
        let log =
            "Template interface: eth0\nNo routable interface\nFailed to send 3 bytes to syslog\n";
        assert_eq!(complaint(log), Some("No routable interface"));
        assert_eq!(complaint("\n"), None);
    }
}
