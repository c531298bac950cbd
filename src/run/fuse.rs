//! `fuse-overlayfs(1)` beside a container: for where the kernel's overlayfs cannot be used.
//!
//! Init opens and mounts `/dev/fuse` in the container's own namespaces, which is what the kernel
//! asks for, and sends the descriptor to the launching process. That one starts the server on it:
//! out of the container's sight, in a user namespace of its own with the same maps, and in a
//! mount namespace where it sees the layers under short names whoever owns the way to them.
//!
//! Nobody has to end the server. It serves for as long as the mount exists, whoever of dhow's
//! processes is killed; with the last process of the container's mount namespace the mount goes,
//! the server's next read is answered with `ENODEV`, and it ends.

use std::{
    convert::Infallible,
    ffi::CString,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{errno::Errno, sched::CloneFlags};
use rustix::fs::{Mode, OFlags};

use super::{
    handshake::{self, InitEnd, Report},
    plan::Step,
};
use crate::{
    error::{Context as _, Error, Result},
    overlay::Stack,
    sys::{
        self, errno, fd,
        mount::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, Attributes},
        process::{Birth, Side, SingleThreaded, clone3},
        user::IdMaps,
    },
};

/// How the server is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `fuse-overlayfs`.
    pub program: PathBuf,
    /// Those of the container's user namespace; root's has none.
    pub maps: Option<IdMaps>,
}

/// Where the server sees the directories: in its own mount namespace, on a tmpfs.
const PLACE: &str = "/tmp";

/// Mounts what the server will serve through `device`; detached.
pub(super) fn mount(device: &OwnedFd) -> Result<OwnedFd, Errno> {
    let with = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    let flag = |key: &str| (key.to_owned(), None);
    let options = [
        with("fd", &device.as_raw_fd().to_string()),
        with("rootmode", "40000"),
        with("user_id", "0"),
        with("group_id", "0"),
        with("subtype", "fuse-overlayfs"),
        // The kernel checks modes and owners; everyone in the container may come.
        flag("default_permissions"),
        flag("allow_other"),
    ];
    mount::fresh(c"fuse", c"fuse", &options, Attributes::default())
}

/// The descriptor that [`mount`] needs, opened in the user namespace that will mount it.
pub(super) fn open_device() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(errno)
}

/// Starts the server of `stack` on `device`, which is mounted by now.
pub(super) fn serve(
    device: &OwnedFd,
    stack: &Stack,
    server: &Server,
    alone: &SingleThreaded,
) -> Result<()> {
    let doing = || format!("start {}", server.program.display());
    let (engine, server_end) = handshake::pair().doing("create a socket pair")?;
    let mut namespaces = CloneFlags::CLONE_NEWNS;
    namespaces.set(CloneFlags::CLONE_NEWUSER, server.maps.is_some());
    let mut child = match clone3(&Birth::into_namespaces(namespaces), alone).doing_with(doing)? {
        Side::Parent(child) => child,
        Side::Child(new) => {
            drop(engine);
            new.run(|| {
                let Err(errno) = become_server(device, stack, server, &server_end);
                // If the engine is gone there is nobody left to tell.
                let _ = server_end.failed(Step::MountRootfs, 0, errno);
                Err(())
            })
        }
    };
    drop(server_end);
    if let Some(maps) = &server.maps {
        maps.write(child.pid()).doing_with(doing)?;
    }
    engine.go().doing_with(doing)?;
    match engine.next().doing_with(doing)? {
        Report::Closed => {
            child.disarm();
            Ok(())
        }
        Report::Failed { errno, .. } => Err(Error::from(errno).context(doing())),
        Report::Terminal(_)
        | Report::Init(_)
        | Report::Fuse(_)
        | Report::Root(_)
        | Report::Network(_)
        | Report::Complete
        | Report::Held => Err(Error::engine("the server spoke out of turn")),
    }
}

/// In the new process.
fn become_server(
    device: &OwnedFd,
    stack: &Stack,
    server: &Server,
    engine: &InitEnd,
) -> Result<Infallible, Errno> {
    engine.wait()?;
    mount::receive_only("/".as_ref())?;
    let argv = show_directories(device, stack)?;
    let program = CString::new(server.program.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;

    // It applies no mask of its own: the kernel has applied the caller's.
    rustix::process::umask(Mode::empty());
    let null = mount::open_null()?;
    for number in 0..=2 {
        fd::install(null.as_fd(), number)?;
    }
    sys::process::close_on_exec_from(3)?;
    fd::keep_across_exec(device.as_fd())?;
    let path = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    Err(sys::process::exec(&program, &argv, &[path]))
}

/// Puts the layers and the container's own directory at [`PLACE`]; the server's arguments. What
/// the way to them is made of may be closed to who is root in the new user namespace, so they
/// are opened before one becomes root there.
fn show_directories(device: &OwnedFd, stack: &Stack) -> Result<[CString; 5], Errno> {
    let plain = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    let view = |dir: &Path, set| {
        let tree = mount::clone_path(dir, false)?;
        mount::set_attributes(tree.as_fd(), false, Attributes { set, ..Attributes::default() })?;
        Ok(tree)
    };
    let lowers = stack.lowers.iter().map(|lower| view(lower, plain | ATTR_RDONLY));
    let lowers = lowers.collect::<Result<Vec<_>, Errno>>()?;
    // Both in one mount: the server renames from one to the other.
    let own = view(stack.upper.parent().ok_or(Errno::EINVAL)?, plain)?;
    let (upper, work) = (stack.upper.file_name(), stack.work.file_name());
    let name = |name: Option<&std::ffi::OsStr>| {
        name.and_then(std::ffi::OsStr::to_str).map(str::to_owned).ok_or(Errno::EINVAL)
    };

    sys::process::become_root()?;
    let set = ATTR_NOSUID | ATTR_NODEV;
    let place = mount::fresh(
        c"tmpfs",
        c"tmpfs",
        &[("mode".into(), Some("700".into()))],
        Attributes { set, ..Attributes::default() },
    )?;
    mount::attach(place.as_fd(), directory(PLACE)?.as_fd())?;
    let show = |tree: &OwnedFd, name: &str| {
        let path = format!("{PLACE}/{name}");
        rustix::fs::mkdir(path.as_str(), Mode::RWXU).map_err(errno)?;
        mount::attach(tree.as_fd(), directory(&path)?.as_fd())?;
        Ok(path)
    };
    let lowers = lowers.iter().enumerate().map(|(index, lower)| show(lower, &index.to_string()));
    let lowers = lowers.collect::<Result<Vec<_>, Errno>>()?.join(":");
    let own = show(&own, "own")?;
    let directories =
        format!("lowerdir={lowers},upperdir={own}/{},workdir={own}/{}", name(upper)?, name(work)?);
    let c = |text: String| CString::new(text).map_err(|_| Errno::EINVAL);
    Ok([
        c"fuse-overlayfs".to_owned(),
        c"-f".to_owned(),
        c"-o".to_owned(),
        c(directories)?,
        // libfuse: a descriptor that is mounted already.
        c(format!("/dev/fd/{}", device.as_raw_fd()))?,
    ])
}

fn directory(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(errno)
}
