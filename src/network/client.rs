//! A command's side of the network role: finding it, starting it, asking it.

use std::{
    ffi::CString,
    fs::File,
    io::{Read as _, Seek as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
    },
};

use super::{
    attachment::{Attachment, Port},
    protocol::{Reply, Request, receive, send},
    role::ROLE,
    running,
};
use crate::{
    error::{Context as _, Error, Result},
    state::{
        ContainerId, Layout,
        egress::EgressLog,
        store::{Lock, create_private_dir, read_json},
    },
    sys::{net, process::spawn_self, user::IdMaps},
};

/// A process that is found by a socket in the runtime directory's `network/`.
#[derive(Debug)]
pub(super) struct Door {
    pub socket: &'static str,
    /// The hidden role behind it.
    pub role: &'static str,
}

pub(super) const DOOR: Door = Door { socket: "role.sock", role: ROLE };
/// How often a role that goes just when it is found is looked for again.
const ATTEMPTS: usize = 5;

/// A connection to the role, which stays for as long as somebody holds one.
#[derive(Debug)]
pub struct RoleClient {
    socket: OwnedFd,
    user_namespace: OwnedFd,
}

impl RoleClient {
    /// Connects to the user's network role, and starts it if there is none. `maps` are those of
    /// its user namespace; root's has none.
    pub fn open(layout: &Layout, maps: Option<&IdMaps>) -> Result<Self> {
        let dir = layout.run_network();
        create_private_dir(&dir)?;
        let mut attempt = Self::knock(&dir)?;
        for _ in 0..ATTEMPTS {
            if let Some(client) = attempt {
                return Ok(client);
            }
            let _lock = Lock::exclusive(&dir)?;
            attempt = match Self::knock(&dir)? {
                Some(client) => Some(client),
                None => {
                    start_role(layout, &dir, maps)?;
                    Self::knock(&dir)?
                }
            };
        }
        attempt.ok_or_else(|| Error::engine("the network role ended as soon as it was started"))
    }

    /// Connects if the role is there and says so.
    fn knock(dir: &Path) -> Result<Option<Self>> {
        let Some(socket) = connect_to(dir, &DOOR)? else { return Ok(None) };
        if send(&socket, &Request::Hello, &[]).is_err() {
            return Ok(None);
        }
        // One that ends just now closes without a word.
        let Ok(Some((reply, mut fds))) = receive::<Reply>(&socket) else { return Ok(None) };
        if let Some(refused) = reply.refused {
            return Err(Error::from(refused).context("start the network role"));
        }
        Ok(fds.pop().map(|user_namespace| Self { socket, user_namespace }))
    }

    /// The user namespace in which containers that want a network are born.
    pub fn user_namespace(&self) -> BorrowedFd<'_> {
        self.user_namespace.as_fd()
    }

    /// Connects a container; tells which ports it got.
    pub fn attach(
        &self,
        id: &ContainerId,
        namespace: BorrowedFd<'_>,
        init: BorrowedFd<'_>,
    ) -> Result<Vec<Port>> {
        let reply = self.ask(&Request::Attach(id.clone()), &[namespace, init])?;
        Ok(reply.ports)
    }

    /// Where a container has gone, if there is a role and it knows.
    pub fn log(layout: &Layout, id: &ContainerId) -> Result<Option<EgressLog>> {
        let dir = layout.run_network();
        if !dir.is_dir() {
            return Ok(None);
        }
        let Some(socket) = connect_to(&dir, &DOOR)? else { return Ok(None) };
        send(&socket, &Request::Log(id.clone()), &[])?;
        let Some((reply, mut fds)) = receive::<Reply>(&socket)? else { return Ok(None) };
        let file = match (reply.refused, fds.pop()) {
            (None, Some(file)) => File::from(file),
            // A container that has just ended.
            _ => return Ok(None),
        };
        let mut text = Vec::new();
        (&file).rewind().and_then(|()| (&file).read_to_end(&mut text)).doing("read the log")?;
        Ok(Some(serde_json::from_slice(&text)?))
    }

    /// Changes a container's networks to what is written down now.
    pub fn update(
        &self,
        id: &ContainerId,
        namespace: BorrowedFd<'_>,
        init: BorrowedFd<'_>,
    ) -> Result<Vec<Port>> {
        let reply = self.ask(&Request::Update(id.clone()), &[namespace, init])?;
        Ok(reply.ports)
    }

    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply> {
        send(&self.socket, request, fds)?;
        let (reply, _) = receive::<Reply>(&self.socket)?
            .ok_or_else(|| Error::engine("the network role died meanwhile"))?;
        match reply.refused {
            Some(refused) => Err(refused.into()),
            None => Ok(reply),
        }
    }
}

fn seqpacket() -> Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .doing("open a socket")
}

/// A socket's path holds 107 bytes (unix(7)): it is reached through its directory's descriptor.
fn with_address<T>(dir: &Path, door: &Door, act: impl FnOnce(&UnixAddr) -> T) -> Result<T> {
    let opened = File::open(dir).at(dir)?;
    let path = format!("/proc/self/fd/{}/{}", opened.as_raw_fd(), door.socket);
    Ok(act(&UnixAddr::new(path.as_str())?))
}

/// Connects to the process behind a door; `None` if there is none.
pub(super) fn connect_to(dir: &Path, door: &Door) -> Result<Option<OwnedFd>> {
    let socket = seqpacket()?;
    match with_address(dir, door, |address| connect(socket.as_raw_fd(), address))? {
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(None),
        other => {
            other.doing_with(|| format!("connect to the {}", door.role)).map(|()| Some(socket))
        }
    }
}

/// Starts the role. The caller holds the lock of `dir`.
fn start_role(layout: &Layout, dir: &Path, maps: Option<&IdMaps>) -> Result<()> {
    // Containers that an earlier role left are in its user namespace: only from there can they
    // be reached.
    let earlier =
        running(layout).into_iter().filter(|_| maps.is_some()).find_map(|(id, process)| {
            let path = layout.container(&id).network();
            let attachment: Attachment = read_json(&path).ok().flatten()?;
            // One that a program carries was never in it.
            if !attachment.by_role {
                return None;
            }
            let own = File::open(format!("/proc/{}/ns/user", process.init.pid)).ok()?;
            net::parent_user_namespace(own.as_fd()).ok()
        });
    match &earlier {
        Some(namespace) => start(layout, dir, &DOOR, &[namespace.as_fd()], None),
        None => start(layout, dir, &DOOR, &[], maps),
    }
}

/// Starts the process behind a door, which it has as descriptor 3, and `others` from 4 on. The
/// caller holds the lock of `dir`.
pub(super) fn start(
    layout: &Layout,
    dir: &Path,
    door: &Door,
    others: &[BorrowedFd<'_>],
    maps: Option<&IdMaps>,
) -> Result<()> {
    let _ = std::fs::remove_file(dir.join(door.socket));
    let socket = seqpacket()?;
    let bound = with_address(dir, door, |address| bind(socket.as_raw_fd(), address))?;
    bound.at(dir).doing("bind a socket")?;
    listen(&socket, Backlog::MAXCONN).doing("listen")?;
    rustix::io::ioctl_fionbio(&socket, true).doing("make a socket non-blocking")?;
    let text = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::invalid("a path has a NUL"))
    };
    let (root, run) = (text(layout.root())?, text(layout.run_root())?);
    let verb = CString::new(door.role).unwrap_or_default();
    let fds: Vec<_> = std::iter::once(socket.as_fd()).chain(others.iter().copied()).collect();
    let child = spawn_self(&[c"dhow", &*verb, &*root, &*run], &fds, maps)?;
    // It leaves a process of its own and ends.
    child.wait().doing_with(|| format!("start the {}", door.role)).map(drop)
}
