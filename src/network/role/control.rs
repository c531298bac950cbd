//! The role's door: who comes to it, what they want, and when the role may go.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::sys::wait::WaitStatus;
use rustix::net::{SocketFlags, accept_with};

use super::{IN, Kind, Role};
use crate::{
    error::{Context as _, Error, Result},
    network::{
        attachment::{Attachment, Endpoint, Port},
        cable::near_name,
        client,
        protocol::{Refused, Reply, Request, receive, send},
    },
    state::{
        ContainerId,
        store::{Lock, read_json},
    },
    sys::{self, fd, process::SingleThreaded},
};

/// How long the role stays for the next container: starting one after the other is usual.
const LINGER: Duration = Duration::from_secs(1);

/// How often a role that is killed is replaced.
const LIVES: usize = 1000;
/// A life that ends before is followed by a pause.
const SHORT_LIFE: Duration = Duration::from_millis(100);

/// The door, until it is taken: where an error has to be told if there is no role.
static DOOR: Mutex<Option<OwnedFd>> = Mutex::new(None);

#[derive(Debug)]
pub(super) struct Control {
    door: OwnedFd,
    callers: HashMap<u64, OwnedFd>,
    members: HashMap<ContainerId, Member>,
    pidfds: HashMap<u64, ContainerId>,
    /// Since when nobody needs the role.
    idle: Option<Instant>,
}

/// A container that is connected.
#[derive(Debug)]
struct Member {
    attachment: Attachment,
    number: u64,
    _init: OwnedFd,
}

impl Control {
    pub(super) fn new(door: OwnedFd) -> Self {
        Self {
            door,
            callers: HashMap::new(),
            members: HashMap::new(),
            pidfds: HashMap::new(),
            idle: Some(Instant::now()),
        }
    }

    /// Milliseconds until the role may go, if nobody needs it.
    pub(super) fn patience(&self) -> Option<u16> {
        let left = LINGER.saturating_sub(self.idle?.elapsed());
        Some(u16::try_from(left.as_millis() + 1).unwrap_or(1000))
    }

    fn settle(&mut self) {
        let is_idle = self.callers.is_empty() && self.members.is_empty();
        self.idle = match (is_idle, self.idle) {
            (false, _) => None,
            (true, None) => Some(Instant::now()),
            (true, since) => since,
        };
    }
}

/// Lets go of whoever started the role: session, streams, directory, parent. Returns in a process
/// that is replaced when it is killed.
pub(in crate::network) fn leave_the_caller(alone: &SingleThreaded) -> Result<()> {
    // The parent ends at once, so that whoever started it has no child left to wait for.
    if sys::process::fork(alone).doing("start the network role")?.is_some() {
        sys::process::exit_now(0);
    }
    *DOOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = fd::inherited(3);
    nix::unistd::setsid().doing("leave the caller's session")?;
    sys::process::default_signals().doing("reset the signals")?;
    // Of the two ends of a connection either may be gone when the other speaks.
    sys::entry::ignore_broken_pipes();
    nix::unistd::chdir("/").doing("leave the caller's directory")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").at("/dev/null")?;
    for number in 0..=2 {
        fd::install(null.as_fd(), number).doing("let go of the caller's streams")?;
    }
    // Two sockets a connection, thousands of connections.
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).doing("read the limit of files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).doing("raise the limit of files")?;
    guard(alone)
}

/// Stays behind, holding the door and the user namespace, while a child does the role's work; if
/// that is killed, the next child takes its place, and whoever knocks meanwhile waits. Should
/// this process be the one that is killed, the next command starts the role anew.
fn guard(alone: &SingleThreaded) -> Result<()> {
    for _ in 0..LIVES {
        let begun = Instant::now();
        let Some(worker) = sys::process::fork(alone).doing("start the network role")? else {
            return Ok(());
        };
        match nix::sys::wait::waitpid(worker, None) {
            Ok(WaitStatus::Signaled(..)) => {}
            Ok(WaitStatus::Exited(_, code)) => sys::process::exit_now(code),
            _ => sys::process::exit_now(125),
        }
        // One that dies at once, again and again, must not keep the machine busy.
        std::thread::sleep(SHORT_LIFE.saturating_sub(begun.elapsed()));
    }
    sys::process::exit_now(125)
}

pub(in crate::network) fn door() -> Option<OwnedFd> {
    DOOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
}

/// Tells everyone who waits at the door why there is no role.
pub(in crate::network) fn turn_away(err: &Error) {
    let Some(door) = door() else { return };
    let reply = Reply { refused: Some(Refused::from(err)), ..Reply::default() };
    // The one who started it is there already, or comes at once.
    while let Ok(caller) = accept_with(&door, SocketFlags::CLOEXEC) {
        let _ = receive::<Request>(&caller);
        if send(&caller, &reply, &[]).is_ok() {
            return;
        }
    }
}

impl Role {
    /// Whether the role may go; then its door is gone, too.
    pub(super) fn is_done(&mut self) -> bool {
        if self.control.patience().is_none_or(|_| self.control.lingers()) {
            return false;
        }
        // Who starts a role holds this lock; who found the door open will find it closed, and
        // start another one.
        let dir = self.layout.run_network();
        match Lock::try_exclusive(&dir) {
            Ok(None) => false,
            Ok(Some(_lock)) => {
                self.open_door();
                if self.control.idle.is_none() {
                    return false;
                }
                let _ = std::fs::remove_file(dir.join(client::DOOR.socket));
                // With the lock still held.
                sys::process::exit_now(0)
            }
            // The runtime directory was removed: nobody can find this role again.
            Err(_) => true,
        }
    }

    pub(super) fn open_door(&mut self) {
        while let Ok(caller) = accept_with(&self.control.door, SocketFlags::CLOEXEC) {
            let number = self.watch.number();
            if self.watch.add(&caller, Kind::Caller, number, IN).is_ok() {
                self.control.callers.insert(number, caller);
            }
            self.control.settle();
        }
    }

    pub(super) fn hear(&mut self, number: u64) {
        let Some(caller) = self.control.callers.remove(&number) else { return };
        if let Ok(Some((request, fds))) = receive::<Request>(&caller)
            && self.answer(&caller, request, fds).is_ok()
        {
            self.control.callers.insert(number, caller);
        }
        self.control.settle();
    }

    /// An error means that the caller has gone.
    fn answer(&mut self, caller: &OwnedFd, request: Request, fds: Vec<OwnedFd>) -> Result<()> {
        let mut reply = Reply::default();
        match request {
            Request::Hello => {
                let namespace = File::open("/proc/self/ns/user").at("/proc/self/ns/user")?;
                return send(caller, &reply, &[namespace.as_fd()]);
            }
            Request::Refresh(_) => {}
            Request::Log(id) => match self.guards.report(&id) {
                Ok(file) => return send(caller, &reply, &[file.as_fd()]),
                Err(err) => reply.refused = Some(Refused::from(&err)),
            },
            Request::Attach(id) => hear(&mut reply, fds, |ns, init| self.attach(&id, ns, init)),
            Request::Update(id) => hear(&mut reply, fds, |ns, init| self.update(&id, ns, init)),
        }
        send(caller, &reply, &[])
    }

    /// Connects a container: whole, or not at all.
    fn attach(
        &mut self,
        id: &ContainerId,
        namespace: OwnedFd,
        init: OwnedFd,
    ) -> Result<Attachment> {
        let account = self.guards.account(id);
        self.detach(id);
        let path = self.layout.container(id).network();
        let mut attachment: Attachment = read_json(&path)?
            .ok_or_else(|| Error::not_found(format!("{}: no such file", path.display())))?;
        let number = self.watch.number();
        self.watch.add(&init, Kind::Container, number, IN)?;
        // Before there is a way out.
        self.guards.add(&self.layout, id, &attachment, account);
        for end in 0..attachment.endpoints.len() {
            if let Err(err) = self.lay_cable(id, &namespace, &attachment.endpoints[end]) {
                attachment.endpoints.truncate(end);
                self.disconnect(id, &attachment);
                return Err(err);
            }
        }
        if let Err(err) = self.publish(id, &mut attachment) {
            self.disconnect(id, &attachment);
            return Err(err);
        }
        let member = Member { attachment: attachment.clone(), number, _init: init };
        self.names.join(id.clone(), attachment.clone());
        self.control.members.insert(id.clone(), member);
        self.control.pidfds.insert(number, id.clone());
        self.control.settle();
        let _ = std::fs::remove_file(self.layout.container(id).network_lost());
        Ok(attachment)
    }

    fn lay_cable(&mut self, id: &ContainerId, namespace: &OwnedFd, end: &Endpoint) -> Result<()> {
        let namespace = namespace.try_clone().doing("duplicate a descriptor")?;
        let ears = self.inside.attach(namespace, near_name(id, end), end.clone())?;
        self.names.open(ears)
    }

    /// Changes a container's networks to what is written down now; connections by those that
    /// stay go on, as far as the policies of those that have come allow them.
    fn update(
        &mut self,
        id: &ContainerId,
        namespace: OwnedFd,
        init: OwnedFd,
    ) -> Result<Attachment> {
        let Some(before) = self.control.members.get(id).map(|member| member.attachment.clone())
        else {
            return self.attach(id, namespace, init);
        };
        let path = self.layout.container(id).network();
        let mut after: Attachment = read_json(&path)?
            .ok_or_else(|| Error::not_found(format!("{}: no such file", path.display())))?;
        after.ports.clone_from(&before.ports);
        for end in before.endpoints.iter().filter(|end| !after.has(end)) {
            self.remove_cable(id, end);
        }
        // Before there is another way out.
        self.guards.update(id, &after);
        self.cut_off(id);
        for end in after.endpoints.iter().filter(|end| !before.has(end)) {
            self.lay_cable(id, &namespace, end)?;
        }
        if let Some(end) = after.new_way_out(&before) {
            self.inside.route(namespace, end.clone())?;
        }
        let target = |attachment: &Attachment, port: &Port| {
            attachment.target(port.host_ip).map(|(_, ip)| ip)
        };
        let mut outcome = Ok(());
        if after.ports.iter().any(|port| target(&before, port) != target(&after, port)) {
            self.unpublish(id);
            if after.ports.iter().all(|port| target(&after, port).is_some()) {
                outcome = self.publish(id, &mut after);
            }
        }
        self.names.join(id.clone(), after.clone());
        if let Some(member) = self.control.members.get_mut(id) {
            member.attachment = after.clone();
        }
        outcome.map(|()| after)
    }

    pub(super) fn container_ended(&mut self, number: u64) {
        if let Some(id) = self.control.pidfds.get(&number).cloned() {
            self.detach(&id);
        }
        self.control.settle();
    }

    fn detach(&mut self, id: &ContainerId) {
        if let Some(member) = self.control.members.remove(id) {
            self.control.pidfds.remove(&member.number);
            self.disconnect(id, &member.attachment);
        }
    }

    fn disconnect(&mut self, id: &ContainerId, attachment: &Attachment) {
        self.finish_relays_of(id);
        self.finish_datagrams_of(id);
        self.guards.remove(&self.layout, id);
        self.names.leave(id);
        self.unpublish(id);
        for end in &attachment.endpoints {
            self.remove_cable(id, end);
        }
    }

    fn remove_cable(&mut self, id: &ContainerId, end: &Endpoint) {
        for (address, _) in end.addresses() {
            self.forget_opened(address);
        }
        match self.inside.detach(near_name(id, end), end.segment.clone()) {
            Ok(true) => self.names.retain(|bridge| bridge != end.segment.bridge),
            Ok(false) => {}
            Err(err) => log::debug!("disconnect {id}: {err}"),
        }
    }

    /// Which container has this address.
    pub(super) fn container_at(&self, address: IpAddr) -> Option<ContainerId> {
        let has = |member: &Member| {
            let ends = member.attachment.endpoints.iter();
            ends.flat_map(|end| end.addresses()).any(|(own, _)| own == address)
        };
        let found = self.control.members.iter().find(|(_, member)| has(member));
        found.map(|(id, _)| id.clone())
    }

    /// Connects again what an earlier role left when it was killed.
    pub(super) fn restore(&mut self) {
        for (id, process) in crate::network::running(&self.layout) {
            // As root the others are on the host's bridges.
            let path = self.layout.container(&id).network();
            if !read_json::<Attachment>(&path).ok().flatten().is_some_and(|found| found.by_role) {
                continue;
            }
            let attach = || -> Result<()> {
                let init = sys::process::open_pidfd(process.init.pid)?;
                let path = format!("/proc/{}/ns/net", process.init.pid);
                let namespace = File::open(&path).at(&path)?;
                self.attach(&id, namespace.into(), init).map(drop)
            };
            let mut attach = attach;
            // Told by `doctor` until it is connected.
            let outcome = attach();
            let lost = self.layout.container(&id).network_lost();
            if let Err(err) = outcome {
                log::debug!("connect {id} again: {err}");
                let _ = std::fs::write(lost, err.to_string());
            }
        }
    }
}

/// Answers a request that comes with a container's network namespace and its init.
fn hear(
    reply: &mut Reply,
    fds: Vec<OwnedFd>,
    act: impl FnOnce(OwnedFd, OwnedFd) -> Result<Attachment>,
) {
    let mut fds = fds.into_iter();
    let outcome = match (fds.next(), fds.next()) {
        (Some(namespace), Some(init)) => act(namespace, init),
        _ => Err(Error::invalid("a container without descriptors")),
    };
    match outcome {
        Ok(attachment) => reply.ports = attachment.ports,
        Err(err) => reply.refused = Some(Refused::from(&err)),
    }
}

impl Control {
    fn lingers(&self) -> bool {
        self.idle.is_some_and(|since| since.elapsed() < LINGER)
    }
}
