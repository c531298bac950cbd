//! Taking a container's files away.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::hooks;
use crate::{
    cgroup::Cgroup,
    error::{Context as _, Kind, Result},
    network::{self, host::Leftover},
    state::{
        ContainerId, Layout,
        layout::ContainerPaths,
        network::DEFAULT,
        record::{ContainerRecord, Mode, MountKind, ProcessIdentity, ProcessRecord},
        store::{self, Lock},
    },
    sys::{
        fs as tree,
        host::HostFacts,
        process::{is_alive, open_pidfd, send_signal},
    },
    volume,
};

/// The hidden role that removes one tree from inside a user namespace.
pub const ROLE: &str = "remove-tree";

/// What the names of their files begin with in staging.
const REMOVED: &str = "removed-";

/// A container that is gone for everyone; its files wait in staging.
#[derive(Debug)]
#[must_use]
pub struct Gone {
    files: PathBuf,
    /// What says that they are no leftover; whoever called holds it already if this is `None`.
    _lock: Option<Lock>,
}

impl Gone {
    /// Removes the files.
    pub fn remove(self) -> Result<()> {
        remove_tree(&self.files)
    }
}

/// Removes a container that does not run. With `volumes`, those that nobody named go as well,
/// unless another container has them.
pub fn container(layout: &Layout, id: &ContainerId, volumes: bool) -> Result<()> {
    let (gone, leftover) = forget(layout, id, volumes)?;
    gone.remove().and(leftover.remove())
}

/// The part of [`container`] that others can see.
pub fn forget(layout: &Layout, id: &ContainerId, volumes: bool) -> Result<(Gone, Leftover)> {
    let paths = layout.container(id);
    let record = store::read_json::<ContainerRecord>(&paths.record()).ok().flatten();
    let name = record.as_ref().map(|record| layout.names().join(&record.name));
    store::create_private_dir(&layout.staging())?;
    let files = layout.staging().join(format!("{REMOVED}{id}"));
    // Before the rename: nobody is to find it in staging with its lock free.
    let lock = Lock::try_exclusive(paths.dir()).ok().flatten();
    match fs::rename(paths.dir(), &files) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(err).at(paths.dir()).doing("remove"),
    }
    if let Some(name) = name {
        release_name(&name, id)?;
    }
    release_addresses(layout, id, record.as_ref());
    let leftover = runtime(layout, &paths)?;
    let mounts = record.filter(|_| volumes).map(|record| record.host.mounts);
    for mount in mounts.into_iter().flatten() {
        let MountKind::Volume(of) = mount.kind else { continue };
        if !of.anonymous {
            continue;
        }
        match volume::remove(layout, &of.name, &remove_tree) {
            // Another container has it, or somebody was faster.
            Err(err) if matches!(err.kind(), Kind::Conflict | Kind::NotFound) => {}
            done => done?,
        }
    }
    Ok((Gone { files, _lock: lock }, leftover))
}

/// Whether `path` in staging is a container's that is being removed: a moment later it is gone.
/// Who removes it cannot always lock it, since who started it may still do.
pub fn is_going(path: &Path) -> bool {
    const PATIENCE: Duration = Duration::from_secs(2);
    let name = path.file_name().and_then(|name| name.to_str());
    if !name.is_some_and(|name| name.starts_with(REMOVED)) {
        return false;
    }
    let deadline = Instant::now() + PATIENCE;
    while path.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    !path.exists()
}

/// Gives a container's addresses back. Should that fail, they are found to be nobody's later.
fn release_addresses(layout: &Layout, id: &ContainerId, record: Option<&ContainerRecord>) {
    let Some(host) = record.map(|record| &record.host) else { return };
    if host.namespaces.network != Mode::Private {
        return;
    }
    let named = host.networks.iter().map(|choice| choice.name.as_str());
    let default = host.networks.is_empty().then_some(DEFAULT);
    for name in named.chain(default) {
        let _ = network::lease::release(&layout.network(name), id);
    }
}

/// A name is given back only by whom it names.
pub fn release_name(name: &Path, id: &ContainerId) -> Result<()> {
    match fs::read_to_string(name) {
        Ok(owner) if owner.trim() == id.as_str() => fs::remove_file(name).at(name).doing("remove"),
        _ => Ok(()),
    }
}

/// Forgets that the container runs. What a monitor that was killed could not end, ends here.
pub fn runtime(layout: &Layout, paths: &ContainerPaths) -> Result<Leftover> {
    // A damaged record must not keep the container from being removed.
    let process: Option<ProcessRecord> = store::read_json(&paths.process()).ok().flatten();
    let (cgroup, afterwards) =
        process.map_or((None, None), |process| (process.cgroup, process.afterwards));
    if let Some(cgroup) = cgroup.and_then(|path| Cgroup::open(path).ok()) {
        cgroup.kill()?;
        cgroup.remove()?;
    }
    let had_network = paths.network().exists();
    match fs::remove_dir_all(paths.run_dir()) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err).at(paths.run_dir())?,
        _ => {}
    }
    // Once only: nobody else finds them.
    if let Some(around) = afterwards {
        hooks::run_afterwards(&around);
    }
    // An ordinary user's network role sees by itself that a container has gone.
    match had_network && nix::unistd::geteuid().is_root() {
        true => network::host::tidy(layout),
        false => Ok(Leftover::default()),
    }
}

/// Ends a container that lost its monitor; the rest goes with [`runtime`]. `boot_id` is this
/// boot's: numbers of processes of another one mean nothing.
pub fn abandoned(paths: &ContainerPaths, boot_id: &str) -> Result<()> {
    // A damaged record must not keep the container from being removed.
    let process: Option<ProcessRecord> = store::read_json(&paths.process()).ok().flatten();
    let process = process.filter(|process| process.boot_id == boot_id);
    let Some(init) = process.and_then(|process| living(process.init)) else { return Ok(()) };
    // One that ends by itself meanwhile is what we want, too.
    let _ = send_signal(init.as_fd(), libc::SIGKILL);
    wait_for_end(init.as_fd(), None).map(drop)
}

/// A handle on a process that lives, which cannot come to mean another one.
pub fn living(process: ProcessIdentity) -> Option<OwnedFd> {
    let pidfd = open_pidfd(process.pid).ok()?;
    // Checked after the open: from here on the descriptor means this very process.
    is_alive(process.pid, process.start_time).then_some(pidfd)
}

/// `false` if the process outlived `patience`.
pub fn wait_for_end(pidfd: BorrowedFd<'_>, patience: Option<Duration>) -> Result<bool> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                // Rounded up, so that the last fraction is not spent spinning.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], timeout) {
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Ok(false);
            }
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno).doing("wait for a process"),
        }
    }
}

/// Removes `path` and everything in it. What belongs to subordinate ids can be removed only by
/// root of a user namespace that maps them, so dhow starts itself again there if it must.
pub fn remove_tree(path: &Path) -> Result<()> {
    match remove_here(path) {
        Ok(()) => Ok(()),
        Err(err) if !nix::unistd::geteuid().is_root() => remove_as_root(path).map_err(|_| err),
        Err(err) => Err(err),
    }
}

fn remove_here(path: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let dir = match fs::File::open(parent) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.at(parent)?,
    };
    tree::remove_tree(dir.as_fd(), name.as_bytes()).at(path).doing("remove")
}

fn remove_as_root(path: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let maps = HostFacts::gather()?.id_maps();
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| crate::error::Error::invalid("a path has a NUL"))?;
    let child =
        crate::sys::process::spawn_self(&[c"dhow", c"remove-tree", &path], &[], Some(&maps))?;
    match child.wait().doing("wait for the removal")?.shell_code() {
        0 => Ok(()),
        _ => Err(crate::error::Error::engine("remove as root of a user namespace")),
    }
}

/// The hidden role's entry; the exit code.
pub fn main(args: &[std::ffi::OsString]) -> i32 {
    match args.first().map(|path| remove_here(Path::new(path))) {
        Some(Ok(())) => 0,
        _ => 1,
    }
}
