//! A command's side of the network role: finding it, starting it, asking it.

use std::{
    ffi::CString,
    fs::File,
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
    attachment::Port,
    protocol::{Reply, Request, receive, send},
    role::ROLE,
    running,
};
use crate::{
    error::{Context as _, Error, Result},
    state::{
        ContainerId, Layout,
        store::{Lock, create_private_dir},
    },
    sys::{net, process::spawn_self, user::IdMaps},
};

/// The role's socket, in the runtime directory's `network/`.
pub(super) const DOOR: &str = "role.sock";
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
    /// its user namespace.
    pub fn open(layout: &Layout, maps: &IdMaps) -> Result<Self> {
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
                    start(layout, &dir, maps)?;
                    Self::knock(&dir)?
                }
            };
        }
        attempt.ok_or_else(|| Error::engine("the network role ended as soon as it was started"))
    }

    /// Connects if the role is there and says so.
    fn knock(dir: &Path) -> Result<Option<Self>> {
        let socket = seqpacket()?;
        match with_address(dir, |address| connect(socket.as_raw_fd(), address))? {
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Ok(None),
            other => other.doing("connect to the network role")?,
        }
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
fn with_address<T>(dir: &Path, act: impl FnOnce(&UnixAddr) -> T) -> Result<T> {
    let opened = File::open(dir).at(dir)?;
    let path = format!("/proc/self/fd/{}/{DOOR}", opened.as_raw_fd());
    Ok(act(&UnixAddr::new(path.as_str())?))
}

/// Starts the role. The caller holds the lock of `dir`.
fn start(layout: &Layout, dir: &Path, maps: &IdMaps) -> Result<()> {
    let _ = std::fs::remove_file(dir.join(DOOR));
    let door = seqpacket()?;
    with_address(dir, |address| bind(door.as_raw_fd(), address))?.at(dir).doing("bind a socket")?;
    listen(&door, Backlog::MAXCONN).doing("listen")?;
    rustix::io::ioctl_fionbio(&door, true).doing("make a socket non-blocking")?;
    let text = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::invalid("a path has a NUL"))
    };
    let (root, run) = (text(layout.root())?, text(layout.run_root())?);
    let verb = CString::new(ROLE).unwrap_or_default();
    let args = [c"dhow", &*verb, &*root, &*run];
    // Containers that an earlier role left are in its user namespace: only from there can they
    // be reached.
    let earlier = running(layout).into_iter().find_map(|(_, process)| {
        let own = File::open(format!("/proc/{}/ns/user", process.init.pid)).ok()?;
        net::parent_user_namespace(own.as_fd()).ok()
    });
    let child = match &earlier {
        Some(namespace) => spawn_self(&args, &[door.as_fd(), namespace.as_fd()], None)?,
        None => spawn_self(&args, &[door.as_fd()], Some(maps))?,
    };
    // It leaves a process of its own and ends.
    child.wait().doing("start the network role").map(drop)
}
