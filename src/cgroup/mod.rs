//! cgroup v2 directories: where a container's goes, its limits, statistics, freezing and end.
//!
//! [`Host`] says what this machine offers, [`Host::place`] where a container's cgroup belongs,
//! [`Placement::create`] makes it, and [`Cgroup`] is the handle. Version 1 hierarchies are
//! never touched: on a host that still has its controllers there, containers run without
//! limits and asking for one is an error. This module never decides what a limit should be.

mod delegate;
pub mod devices;
mod host;
pub mod limits;
pub mod stats;
mod systemd;

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Seek as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use self::{
    delegate::Placement,
    host::{Hierarchy, Host},
    limits::Limits,
};
use crate::error::{Context as _, Error, Result};

/// How long frozen or dying processes may take; beyond it something hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(10);

/// One cgroup directory that exists, or did when this was made.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: File,
}

impl Cgroup {
    /// An existing cgroup, for example the one a `ProcessRecord` names. Fails with kind
    /// `NotFound` if it is gone.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let dir = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(&path)
            .at(&path)
            .doing("open the container's cgroup")?;
        Ok(Self { path, dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, for `clone3(2)` with `CLONE_INTO_CGROUP` (Linux 5.7). Close-on-exec.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// One of its files, whole.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        fs::read_to_string(&path).at(path)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        write(&path, text).at(path)
    }

    /// Moves a process here.
    ///
    /// The kernel allows it to who may write `cgroup.procs` here and in the nearest common
    /// ancestor (admin-guide/cgroup-v2.rst, "Delegation Containment"). A terminal's session is
    /// outside the user's subtree; then systemd is asked to move it, if the cgroup is in a
    /// scope of its making. `CLONE_INTO_CGROUP` obeys the same rule and fails with EACCES.
    pub fn add(&self, pid: i32) -> Result<()> {
        let moved = write(&self.path.join("cgroup.procs"), &pid.to_string());
        let result = match (moved, delegate::scope_of(&self.path)) {
            (Err(err), Some(unit)) if err.kind() == ErrorKind::PermissionDenied => {
                systemd::attach(unit, delegate::LEAF, pid)
            }
            (moved, _) => moved.at(self.path.join("cgroup.procs")),
        };
        result.doing_with(|| format!("move process {pid} into the container's cgroup"))
    }

    /// Writes the limits. Also for a running container: they hold at once.
    pub fn apply(&self, limits: &Limits) -> Result<()> {
        for (file, text) in limits.writes() {
            let path = self.path.join(file);
            match write(&path, text) {
                // Without the BFQ scheduler, at all or on this device, weights are those of the I/O
                // cost model.
                Err(err)
                    if file == limits::BFQ_WEIGHT
                        && (err.kind() == ErrorKind::NotFound
                            || err.raw_os_error() == Some(libc::EOPNOTSUPP)) =>
                {
                    self.weigh_io(text)?;
                }
                // A kernel without swap has no such file, and no swap to limit.
                Err(err)
                    if err.kind() == ErrorKind::NotFound
                        && file == "memory.swap.max"
                        && !swap_in_use() => {}
                result => result.at(&path).doing_with(|| format!("set {file} to {text:?}"))?,
            }
        }
        Ok(())
    }

    fn weigh_io(&self, line: &str) -> Result<()> {
        match write(&self.path.join("io.weight"), &limits::io_weight(line)) {
            Err(err) if err.kind() == ErrorKind::NotFound => {
                Err(Error::unsupported("the kernel knows no weights of block I/O in cgroup v2")
                    .hint("it takes CONFIG_BFQ_GROUP_IOSCHED or CONFIG_BLK_CGROUP_IOCOST"))
            }
            result => result.at(self.path.join("io.weight")),
        }
    }

    /// Whether a living process is here or below. A zombie is not alive.
    pub fn populated(&self) -> Result<bool> {
        Ok(stats::field(&self.read("cgroup.events")?, "populated") == Some(1))
    }

    /// The processes here and below, in no order. A snapshot.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        collect_pids(&self.path, &mut pids)?;
        Ok(pids)
    }

    /// Sends SIGKILL to every process here and below, those forked meanwhile included
    /// (`cgroup.kill`, Linux 5.14; before that frozen and killed one by one). Does not wait.
    pub fn kill(&self) -> Result<()> {
        let path = self.path.join("cgroup.kill");
        match write(&path, "1") {
            Err(err) if err.kind() == ErrorKind::NotFound => self.kill_each(),
            result => result.at(path),
        }
        .doing("kill the container's processes")
    }

    /// Frozen processes fork no more, so that one pass gets all; SIGKILL reaches them frozen.
    fn kill_each(&self) -> Result<()> {
        self.freeze()?;
        for pid in self.pids()? {
            // One that is gone already is what we want.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.thaw()
    }

    /// Stops every process here and below, and returns when they stand still. If some do not
    /// within ten seconds, all go on and the error says so.
    pub fn freeze(&self) -> Result<()> {
        self.write("cgroup.freeze", "1").doing("freeze the container")?;
        if self.wait_for("frozen", 1)? {
            return Ok(());
        }
        self.write("cgroup.freeze", "0").doing("thaw the container")?;
        Err(Error::engine("freeze the container: some of its processes do not stop")
            .hint("one is probably in an uninterruptible wait: look for state D in `ps`"))
    }

    /// Lets them go on. No need to wait: the kernel wakes them.
    pub fn thaw(&self) -> Result<()> {
        self.write("cgroup.freeze", "0").doing("thaw the container")
    }

    /// Whether it is frozen now.
    pub fn frozen(&self) -> Result<bool> {
        Ok(stats::field(&self.read("cgroup.events")?, "frozen") == Some(1))
    }

    /// Whether the kernel has killed a process here or below for want of memory
    /// (`memory.events`). Without the memory controller nobody knows: false.
    pub fn oom_killed(&self) -> bool {
        let events = self.read("memory.events").unwrap_or_default();
        // Killing the whole group (memory.oom.group) counts each victim in oom_kill too; the
        // group's own counter stands for kernels that count it alone.
        ["oom_kill", "oom_group_kill"].iter().any(|key| stats::field(&events, key) > Some(0))
    }

    /// Waits until no living process is here or below. False if that takes longer.
    pub fn wait_empty(&self) -> Result<bool> {
        self.wait_for("populated", 0)
    }

    /// Removes the directory and those the container made below it. Waits, bounded, for dying
    /// processes; living ones are an error. One that is gone already is no error.
    pub fn remove(self) -> Result<()> {
        self.remove_within(PATIENCE)
    }

    fn remove_within(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match remove_tree(&self.path) {
                Err(err)
                    if err.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
                {
                    // Populated, or empty since a moment and not let go of yet.
                    self.wait_until("populated", 0, deadline)?;
                    std::thread::sleep(Duration::from_millis(1));
                }
                result => return result.at(&self.path).doing("remove the container's cgroup"),
            }
        }
    }

    fn wait_for(&self, key: &str, value: u64) -> Result<bool> {
        self.wait_until(key, value, Instant::now() + PATIENCE)
    }

    /// Sleeps until `key` of `cgroup.events` has `value`. The kernel reports a change of that
    /// file as POLLPRI, counted from the last read.
    fn wait_until(&self, key: &str, value: u64, deadline: Instant) -> Result<bool> {
        let path = self.path.join("cgroup.events");
        let mut file = match File::open(&path) {
            // A removed cgroup is empty, and nothing in it can be waited for.
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(true),
            file => file.at(&path)?,
        };
        loop {
            let mut text = String::new();
            file.rewind().at(&path)?;
            match file.read_to_string(&mut text) {
                Err(err) if err.raw_os_error() == Some(libc::ENODEV) => return Ok(true),
                result => result.at(&path)?,
            };
            if stats::field(&text, key) == Some(value) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno).at(&path),
            }
        }
    }
}

/// One `write(2)` into a file that exists. Never creates: in a cgroup that would be EPERM, and
/// elsewhere a plain file that limits nothing.
fn write(path: &Path, text: &str) -> io::Result<()> {
    io::Write::write_all(&mut fs::OpenOptions::new().write(true).open(path)?, text.as_bytes())
}

fn swap_in_use() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// The directories directly below; empty if `path` is gone.
fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn collect_pids(path: &Path, into: &mut Vec<i32>) -> Result<()> {
    let file = path.join("cgroup.procs");
    match fs::read_to_string(&file) {
        Ok(text) => into.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // Removed meanwhile, or a threaded child, whose processes its parent lists.
        Err(err)
            if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENOTSUP)) => {}
        Err(err) => return Err(err).at(file),
    }
    for child in children(path).at(path)? {
        collect_pids(&child, into)?;
    }
    Ok(())
}

/// Children first. The files in a cgroup go with its directory.
fn remove_tree(path: &Path) -> io::Result<()> {
    for child in children(path)? {
        remove_tree(&child)?;
    }
    match fs::remove_dir(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What a real kernel does, and a real systemd where there is one: `--ignored`, each in a process
/// of its own (as nextest does), since under systemd a test moves its whole process.
#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::ExitStatusExt as _,
        process::{Child, Command, Stdio},
    };

    use super::*;
    use crate::state::{ContainerId, record::Resources};

    fn made(resources: &Resources) -> Cgroup {
        let limits = Limits::from_resources(resources, limits::online_cpus()).expect("limits");
        let host = Host::detect().expect("detect");
        let id = ContainerId::random().expect("id");
        let placement = host.place(&id, "", &limits).expect("place");
        host.create(&placement, &limits).expect("create").expect("a cgroup")
    }

    /// A process that does not outlive its test, not even one that fails.
    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A shell that runs `script` once it is in the cgroup, with a child of its own.
    fn inside(cgroup: &Cgroup, script: &str) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; sleep 20 & {script}")])
            .stdin(Stdio::piped())
            .spawn()
            .expect("spawn");
        cgroup.add(child.id().try_into().expect("a pid")).expect("add");
        io::Write::write_all(child.stdin.as_mut().expect("piped"), b"\n").expect("go");
        child
    }

    fn until(what: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !what() {
            assert!(Instant::now() < deadline, "it never came true");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    #[ignore = "needs a cgroup v2 that may be written"]
    fn processes_are_frozen_killed_and_their_cgroup_removed() {
        let cgroup = made(&Resources::default());
        let path = cgroup.path().to_owned();
        assert!(!cgroup.populated().expect("events"));
        let mut child = inside(&cgroup, "wait");
        until(|| cgroup.pids().expect("pids").len() == 2);
        assert!(cgroup.populated().expect("events"));
        assert!(cgroup.remove_within(Duration::from_millis(50)).is_err(), "it is populated");

        cgroup.freeze().expect("freeze");
        assert!(cgroup.frozen().expect("events"));
        cgroup.thaw().expect("thaw");
        until(|| !cgroup.frozen().expect("events"));

        // As a container with a cgroup namespace of its own may.
        fs::create_dir_all(path.join("a/b")).expect("mkdir");
        cgroup.freeze().expect("freeze");
        cgroup.kill().expect("kill");
        assert_eq!(child.wait().expect("wait").signal(), Some(9), "frozen ones die too");
        assert!(cgroup.wait_empty().expect("wait"));
        assert!(!cgroup.oom_killed());
        cgroup.remove().expect("remove");
        assert!(!path.exists());
        assert!(Cgroup::open(&path).is_err_and(|err| err.kind() == crate::error::Kind::NotFound));
    }

    #[test]
    #[ignore = "needs a cgroup v2 that may be written"]
    fn older_kernels_kill_one_by_one() {
        let cgroup = made(&Resources::default());
        let mut child = inside(&cgroup, "wait");
        until(|| cgroup.pids().expect("pids").len() == 2);
        cgroup.kill_each().expect("kill");
        assert_eq!(child.wait().expect("wait").signal(), Some(9));
        cgroup.remove().expect("remove");
    }

    #[test]
    #[ignore = "needs the memory, pids and cpu controllers in cgroup v2"]
    fn limits_are_what_the_kernel_says_they_are() {
        let cgroup = made(&Resources {
            memory: Some(64 << 20),
            memory_reservation: Some(8 << 20),
            nano_cpus: Some(500_000_000),
            cpu_shares: Some(512),
            pids_limit: Some(7),
            ..Resources::default()
        });
        for (file, text) in [
            ("memory.max", "67108864\n"),
            ("memory.low", "8388608\n"),
            ("cpu.max", "50000 100000\n"),
            ("cpu.weight", "59\n"),
            ("pids.max", "7\n"),
        ] {
            assert_eq!(cgroup.read(file).expect(file), text, "{file}");
        }
        let mut child = inside(&cgroup, "wait");
        until(|| stats::read(&cgroup).pids == Some(2));
        let stats = stats::read(&cgroup);
        assert_eq!((stats.memory_limit, stats.pids_limit), (Some(64 << 20), Some(7)));
        assert!(stats.memory > Some(0) && stats.cpu_usec.is_some());

        let more = Resources { pids_limit: Some(9), ..Resources::default() };
        cgroup.apply(&Limits::from_resources(&more, 1).expect("limits")).expect("apply");
        assert_eq!(cgroup.read("pids.max").expect("pids.max"), "9\n");
        cgroup.kill().expect("kill");
        child.wait().expect("wait");
        cgroup.remove().expect("remove");
    }

    #[test]
    #[ignore = "needs the memory controller in cgroup v2"]
    fn an_out_of_memory_kill_is_known() {
        let cgroup = made(&Resources {
            memory: Some(16 << 20),
            memory_swap: Some(16 << 20),
            ..Resources::default()
        });
        // One line without end.
        let mut child = inside(&cgroup, "exec tail /dev/zero");
        assert_eq!(child.wait().expect("wait").signal(), Some(9));
        assert!(cgroup.oom_killed());
        cgroup.kill().expect("kill");
        cgroup.remove().expect("remove");
    }

    #[test]
    #[ignore = "needs a user's systemd, and a session outside of it"]
    fn systemd_moves_a_process_from_a_session_into_the_scope() {
        let mut child = Killed(Command::new("sleep").arg("20").spawn().expect("spawn"));
        let cgroup = made(&Resources::default());
        let unit = delegate::scope_of(cgroup.path()).expect("a scope").to_owned();
        let pid = child.0.id().try_into().expect("a pid");
        let refused = write(&cgroup.path().join("cgroup.procs"), &child.0.id().to_string());
        assert!(refused.is_err_and(|err| err.kind() == ErrorKind::PermissionDenied));
        cgroup.add(pid).expect("add");
        assert_eq!(cgroup.pids().expect("pids"), [pid]);
        assert!(unit.starts_with("dhow-"));
        cgroup.kill().expect("kill");
        assert_eq!(child.0.wait().expect("wait").signal(), Some(9));
        cgroup.remove().expect("remove");
    }
}
