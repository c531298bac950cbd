//! Where a container's cgroup goes, and making it.
//!
//! | who | where |
//! | --- | --- |
//! | root, no systemd, or hybrid | `<mount>/dhow/<id>` |
//! | root under systemd | `system.slice/dhow-<id>.scope/container` |
//! | user in a unit with `Delegate=` | `dhow-<id>` in that unit, beside the own cgroup |
//! | user with a systemd of their own | `app.slice/dhow-<id>.scope/container` |
//! | user who owns their part of the tree | `dhow-<id>` in the nearest directory above that has no processes |
//! | anyone else | nowhere |
//! | anyone who asks for it | `dhow-<id>` in the own cgroup, who is there moves to `supervisor` |
//!
//! Under systemd a directory it does not know is not safe: it writes `cgroup.subtree_control`
//! of its slices as its own units need it, and so can take a limit away. Hence the scopes.
//!
//! A scope is made around the process that makes it (the monitor), which then sits in
//! `monitor`, beside `container`. So the container is born in its cgroup like any other, the
//! limits are its alone, and the scope, with the numbers in it, lasts until the monitor has
//! read how the container ended.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Cgroup, Host, Limits, host, host::Hierarchy, limits, systemd, write};
use crate::{
    error::{Context as _, Error, Result},
    state::ContainerId,
};

/// The container's directory in a scope.
pub(super) const LEAF: &str = "container";
/// The monitor's.
const MONITOR: &str = "monitor";
/// Where the processes go of a cgroup that is divided, by podman's name.
const SUPERVISOR: &str = "supervisor";
/// Enabled even when nothing is limited, where possible: they count, and report OOM kills.
const COUNTING: [&str; 3] = ["memory", "pids", "io"];

/// Where one container's cgroup goes. A value: nothing is made yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// A directory we make ourselves.
    Directory(PathBuf),
    /// A transient scope asked of systemd, made around the calling process.
    Scope { unit: String, slice: String },
    /// A directory in `parent`, whose own processes make room.
    Split { parent: PathBuf, path: PathBuf },
    /// There is no cgroup to be had here; why not. Containers run, limits cannot be set.
    None(String),
}

/// What [`Host::place`] chooses from, before a container's name is put on it.
enum Base {
    /// A directory of ours, and the one whose controllers limit what it can have.
    Directory(PathBuf),
    Scope,
    None(String),
}

impl Host {
    /// Decides where the cgroup of container `id` goes.
    ///
    /// `parent` is `--cgroup-parent`: empty, a slice's name, or a path below the mount (`/x`)
    /// or below dhow's own place (`x`). Fails with kind `Unsupported` if `wanted` has a limit
    /// that this host cannot set there; the error names the controller and what to do.
    pub fn place(&self, id: &ContainerId, parent: &str, wanted: &Limits) -> Result<Placement> {
        let base = self.base()?;
        let placement = self.put(&base, id, parent)?;
        self.require(&placement, wanted)?;
        Ok(placement)
    }

    /// The same within the cgroup that this process is in (`--cgroups split`).
    pub fn split(&self, id: &ContainerId, wanted: &Limits) -> Result<Placement> {
        let refuse = |why: &str| {
            Err(Error::unsupported(format!("divide this cgroup for --cgroups split: {why}"))
                .hint("run dhow in a systemd unit with Delegate=yes"))
        };
        let Some(mount) = self.mount.as_ref().filter(|_| !self.read_only) else {
            return refuse("no cgroup v2 hierarchy is mounted writable");
        };
        let Some(mut parent) = self.own()? else {
            return refuse("it is outside the mounted tree");
        };
        if parent.ends_with(SUPERVISOR) {
            parent.pop();
        }
        if parent == *mount {
            return refuse("it is the root of all");
        }
        if self.rootless && !self.is_ours(&parent) {
            return refuse("it is not delegated to this user");
        }
        let path = parent.join(format!("dhow-{id}"));
        let placement = Placement::Split { parent, path };
        self.require(&placement, wanted)?;
        Ok(placement)
    }

    /// Makes the cgroup, enables the controllers it needs, and sets the limits. `None` for
    /// [`Placement::None`].
    ///
    /// For [`Placement::Scope`] the calling process moves into the scope and stays there: call
    /// this in the monitor, before the clone. Should systemd not answer, a container without
    /// limits goes without a cgroup.
    pub fn create(&self, placement: &Placement, limits: &Limits) -> Result<Option<Cgroup>> {
        let made = match placement {
            Placement::Directory(path) => self.make(path, limits),
            Placement::Split { parent, path } => {
                make_room(parent)?;
                self.make(path, limits)
            }
            Placement::Scope { unit, slice } => match self.enter_scope(unit, slice) {
                Ok(scope) => self.make(&scope.join(LEAF), limits),
                Err(err) if limits.is_empty() => {
                    log::warn!("no cgroup for this container: {err}");
                    return Ok(None);
                }
                Err(err) => Err(err),
            },
            Placement::None(_) => return Ok(None),
        };
        made.doing("make the container's cgroup").map(Some)
    }

    /// Sets other limits for a cgroup that [`create`](Self::create) made, with processes in it.
    pub fn change(&self, cgroup: &Cgroup, limits: &Limits) -> Result<()> {
        let mount = self.mount.as_deref().unwrap_or(cgroup.path());
        let parent = cgroup.path().parent().unwrap_or(mount);
        self.share_out(parent, &limits.controllers(), mount)?;
        cgroup.apply(limits)
    }

    fn base(&self) -> Result<Base> {
        let Some(mount) = &self.mount else {
            return Ok(Base::None("no cgroup v2 hierarchy is mounted here".into()));
        };
        if self.read_only {
            return Ok(Base::None(format!("{} is mounted read-only", mount.display())));
        }
        let asks = self.hierarchy == Hierarchy::Unified
            && self.managers.iter().any(systemd::Address::exists)
            && (self.rootless || self.systemd);
        if !self.rootless {
            return Ok(if asks { Base::Scope } else { Base::Directory(mount.join("dhow")) });
        }
        let Some(own) = self.own()? else {
            return Ok(Base::None("this process's cgroup is outside the mounted tree".into()));
        };
        if let Some(dir) = self.delegated_unit(&own) {
            return Ok(Base::Directory(dir));
        }
        if asks {
            return Ok(Base::Scope);
        }
        Ok(self.owned(&own).map_or_else(
            || {
                Base::None(
                    "no cgroup is delegated to this user, and no systemd user session is there"
                        .into(),
                )
            },
            Base::Directory,
        ))
    }

    /// A place of ours within the delegated unit this process runs in, if it runs in one.
    /// systemd marks such a unit's directory (version 251; "Control Group APIs and Delegation").
    fn delegated_unit(&self, own: &Path) -> Option<PathBuf> {
        let mount = self.mount.as_ref()?;
        let inside = || own.ancestors().take_while(|dir| dir.starts_with(mount));
        let unit = inside().find(|dir| {
            let mut value = [0; 2];
            rustix::fs::getxattr(*dir, "user.delegate", &mut value[..]) == Ok(1) && value[0] == b'1'
        })?;
        // That one is delegated to the user's systemd, not to us.
        let name = unit.file_name()?.to_string_lossy();
        if name.starts_with("user@") {
            return None;
        }
        let mut above = inside().skip(1).take_while(|dir| dir.starts_with(unit));
        above.find(|dir| self.is_ours(dir) && is_idle(dir)).map(Into::into)
    }

    /// The nearest directory above `own` that is ours and may have controllers enabled: one
    /// with processes may not (cgroup-v2.rst, "No Internal Process Constraint"). Failing that
    /// `own` itself, where a container can at least be frozen and killed.
    fn owned(&self, own: &Path) -> Option<PathBuf> {
        let mount = self.mount.as_ref()?;
        let mut above = own.ancestors().skip(1).take_while(|dir| dir.starts_with(mount));
        let free = above.find(|dir| self.is_ours(dir) && is_idle(dir));
        free.or_else(|| self.is_ours(own).then_some(own)).map(Into::into)
    }

    /// Delegation hands over the directory and these two files (cgroup-v2.rst, "Model of
    /// Delegation").
    fn is_ours(&self, dir: &Path) -> bool {
        let ours = |path: PathBuf| {
            fs::metadata(path).is_ok_and(|meta| meta.uid() == self.uid && meta.mode() & 0o200 != 0)
        };
        ours(dir.to_owned())
            && ours(dir.join("cgroup.procs"))
            && ours(dir.join("cgroup.subtree_control"))
    }

    fn put(&self, base: &Base, id: &ContainerId, parent: &str) -> Result<Placement> {
        let mount = self.mount.clone().unwrap_or_default();
        let slice = parent.ends_with(".slice") && !parent.contains('/');
        let below = match parent {
            "" => PathBuf::new(),
            name if slice => slice_path(name)?,
            path => checked_path(path)?,
        };
        let unit = format!("dhow-{id}.scope");
        Ok(match base {
            Base::None(why) => Placement::None(why.clone()),
            _ if parent.starts_with('/') => {
                Placement::Directory(mount.join(below).join(id.as_str()))
            }
            Base::Scope if slice => Placement::Scope { unit, slice: parent.into() },
            Base::Scope if !parent.is_empty() => {
                return Err(Error::invalid(format!(
                    "cgroup parent {parent:?} is neither a slice nor an absolute path"
                ))
                .hint("systemd keeps the cgroups here: name a slice, as in `x.slice`"));
            }
            Base::Scope => {
                let slice = if self.rootless { "app.slice" } else { "system.slice" };
                Placement::Scope { unit, slice: slice.into() }
            }
            Base::Directory(_) if slice && !self.rootless => {
                Placement::Directory(mount.join(below).join(id.as_str()))
            }
            Base::Directory(dir) if parent.is_empty() && self.rootless => {
                Placement::Directory(dir.join(format!("dhow-{id}")))
            }
            Base::Directory(dir) => Placement::Directory(dir.join(below).join(id.as_str())),
        })
    }

    /// Refuses what cannot be set there, before anything is made.
    fn require(&self, placement: &Placement, wanted: &Limits) -> Result<()> {
        let Some(first) = wanted.controllers().first().copied() else { return Ok(()) };
        let near = match placement {
            Placement::Split { parent, .. } => {
                let offered = words(parent, "cgroup.controllers").at(parent)?;
                return self.check_offered(&offered, parent, wanted);
            }
            Placement::None(why) => return Err(self.missing(first, Some(why))),
            Placement::Directory(path) => path.ancestors().find(|dir| dir.exists()),
            Placement::Scope { .. } => None,
        };
        let near = near.map_or_else(|| self.manager_dir(), |dir| Some(dir.to_owned()));
        // Unknown: then making it will tell.
        let known = near.and_then(|near| Some((self.could_offer(&near)?, near)));
        let Some((offered, near)) = known else { return Ok(()) };
        self.check_offered(&offered, &near, wanted)
    }

    fn check_offered(
        &self,
        offered: &BTreeSet<String>,
        near: &Path,
        wanted: &Limits,
    ) -> Result<()> {
        match wanted.controllers().iter().find(|name| !offered.contains(**name)) {
            Some(controller) => Err(self.missing(controller, None)),
            None => check_cpuset(near, wanted),
        }
    }

    /// The controllers that a child of `dir` could have once those above `dir` have passed on what
    /// they have, as [`enable`] lets them.
    fn could_offer(&self, dir: &Path) -> Option<BTreeSet<String>> {
        let mut offered = offered_by(dir)?;
        let above = dir.parent().filter(|above| {
            let may = !self.rootless || self.is_ours(above);
            self.mount.as_deref() != Some(dir) && is_idle(dir) && may
        });
        offered.extend(above.and_then(|above| self.could_offer(above)).unwrap_or_default());
        Some(offered)
    }

    /// The directory systemd divides: its controllers are those a scope can have.
    fn manager_dir(&self) -> Option<PathBuf> {
        let mount = self.mount.as_ref()?;
        if !self.rootless {
            return Some(mount.clone());
        }
        let uid = self.uid;
        Some(mount.join(format!("user.slice/user-{uid}.slice/user@{uid}.service")))
    }

    pub(super) fn offered(&self) -> Option<BTreeSet<String>> {
        match self.base().ok()? {
            Base::Directory(dir) => offered_by(dir.ancestors().find(|dir| dir.exists())?),
            Base::Scope => offered_by(&self.manager_dir()?),
            Base::None(_) => None,
        }
    }

    /// The error for a limit nobody can set here.
    fn missing(&self, controller: &str, why: Option<&str>) -> Error {
        let said = |why: &str| Error::unsupported(format!("set a {controller} limit: {why}"));
        if self
            .legacy
            .iter()
            .any(|name| name == controller || (controller == "io" && name == "blkio"))
        {
            return said(&format!(
                "a cgroup v1 hierarchy holds the {controller} controller on this host, \
                 so cgroup v2 does not have it"
            ))
            .hint(
                "boot with systemd.unified_cgroup_hierarchy=1, or cgroup_no_v1=all without systemd",
            );
        }
        if let Some(why) = why.filter(|_| self.mount.is_none() || self.read_only) {
            return said(why).hint("mount cgroup2 writable at /sys/fs/cgroup");
        }
        if let Some(why) = why {
            return said(&format!("the {controller} controller is not delegated: {why}")).hint(
                "log in through a systemd session, or as root run \
                 `loginctl enable-linger USER` and set XDG_RUNTIME_DIR=/run/user/UID",
            );
        }
        if self.rootless {
            return said(&format!("the {controller} controller is not delegated to this user"))
                .hint(
                    "as root run `systemctl edit user@.service`, add the lines `[Service]` and \
                     `Delegate=cpu cpuset io memory pids`, then log out of all sessions and in again",
                );
        }
        said(&format!("the {controller} controller is not available in this cgroup")).hint(format!(
            "cgroup.controllers does not list it: the kernel lacks it or has it off \
             (cgroup_enable={controller} on its command line), or processes in the parent \
             cgroup keep it from being shared out"
        ))
    }

    /// Becomes a member of the scope's `monitor` directory; returns the scope's.
    fn enter_scope(&self, unit: &str, slice: &str) -> Result<PathBuf> {
        // A restart by the same monitor.
        if let Some(scope) = self.own_scope(unit)? {
            return Ok(scope);
        }
        systemd::start_scope(&self.managers, self.uid, unit, slice, std::process::id())?;
        let scope = self.own_scope(unit)?.ok_or_else(|| {
            Error::engine(format!("systemd made {unit} and did not move this process into it"))
        })?;
        let monitor = scope.join(MONITOR);
        make_dir(&monitor)?;
        let procs = monitor.join("cgroup.procs");
        write(&procs, &std::process::id().to_string()).at(procs)?;
        Ok(scope)
    }

    /// The directory of that scope, if this process is in it.
    fn own_scope(&self, unit: &str) -> Result<Option<PathBuf>> {
        let own = self.own()?.unwrap_or_default();
        Ok(own.ancestors().find(|dir| dir.ends_with(unit)).map(Into::into))
    }

    fn make(&self, path: &Path, limits: &Limits) -> Result<Cgroup> {
        let mount = self.mount.as_deref().unwrap_or(path);
        let parent = path.parent().unwrap_or(mount);
        fs::create_dir_all(parent).at(parent)?;
        self.share_out(parent, &limits.controllers(), mount)?;
        for counting in COUNTING {
            // Statistics are worth having, not worth failing for.
            let _ = enable(parent, &BTreeSet::from([counting]), mount);
        }
        let cgroup = make_fresh(path)?;
        match cgroup.apply(limits) {
            Ok(()) => Ok(cgroup),
            Err(err) => {
                cgroup.remove()?;
                Err(err)
            }
        }
    }

    /// Enables `needed` for the children of `dir`, or says which could not be and why.
    fn share_out(&self, dir: &Path, needed: &BTreeSet<&str>, mount: &Path) -> Result<()> {
        let tried = enable(dir, needed, mount);
        let enabled = words(dir, "cgroup.subtree_control").at(dir)?;
        let Some(controller) = needed.iter().find(|name| !enabled.contains(**name)) else {
            return Ok(());
        };
        match tried {
            Ok(()) => Err(self.missing(controller, None)),
            Err(err) if err.raw_os_error() == Some(libc::EBUSY) => Err(Error::unsupported(
                format!(
                    "set a {controller} limit: {} has processes of its own, so its controllers \
                 cannot be shared out",
                    dir.display()
                ),
            )
            .hint("run dhow from another cgroup, or give --cgroup-parent one without processes")),
            Err(err) => {
                Err(err).at(dir).doing_with(|| format!("enable the {controller} controller"))
            }
        }
    }
}

/// The scope a container's directory is in, if it is one of ours: `dhow-<id>.scope`.
pub(super) fn scope_of(path: &Path) -> Option<&str> {
    let unit = path.parent()?.file_name()?.to_str()?;
    let ours = path.ends_with(LEAF) && unit.starts_with("dhow-") && unit.ends_with(".scope");
    ours.then_some(unit)
}

/// Enables controllers for the children of `dir`, and above it as far as that takes.
///
/// Each level can only pass on what it was given (cgroup-v2.rst, "Top-down Constraint"). What
/// an upper level refuses shows below as not available.
fn enable(dir: &Path, wanted: &BTreeSet<&str>, mount: &Path) -> io::Result<()> {
    let enabled = words(dir, "cgroup.subtree_control")?;
    let missing: BTreeSet<_> =
        wanted.iter().copied().filter(|name| !enabled.contains(*name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut available = words(dir, "cgroup.controllers")?;
    let mut above = Ok(());
    if !missing.iter().all(|name| available.contains(*name))
        && dir != mount
        && let Some(parent) = dir.parent()
    {
        above = enable(parent, &missing, mount);
        available = words(dir, "cgroup.controllers")?;
    }
    let add: Vec<_> = missing.into_iter().filter(|name| available.contains(*name)).collect();
    if add.is_empty() {
        return above;
    }
    let text: Vec<_> = add.iter().map(|name| format!("+{name}")).collect();
    write(&dir.join("cgroup.subtree_control"), &text.join(" ")).and(above)
}

/// The controllers a child of `dir` could have.
fn offered_by(dir: &Path) -> Option<BTreeSet<String>> {
    // The hierarchy's root alone has no type, and alone may have processes beside children.
    let root = !dir.join("cgroup.type").exists();
    let file = if root || is_idle(dir) { "cgroup.controllers" } else { "cgroup.subtree_control" };
    words(dir, file).ok()
}

/// The kernel takes CPUs that do not exist and then ignores the whole list, so docker checks.
fn check_cpuset(dir: &Path, wanted: &Limits) -> Result<()> {
    for (file, what) in [("cpuset.cpus", "CPUs"), ("cpuset.mems", "memory nodes")] {
        let Some(asked) = wanted.get(file) else { continue };
        // Not there where the controller is yet to be enabled.
        let Ok(text) = fs::read_to_string(dir.join(format!("{file}.effective"))) else { continue };
        let there = limits::parse_list(&text).unwrap_or_default();
        if !limits::parse_list(asked).is_some_and(|set| set.is_subset(&there)) {
            return Err(Error::invalid(format!(
                "Requested {what} are not available - requested {asked}, available: {}",
                text.trim()
            )));
        }
    }
    Ok(())
}

/// Moves the processes of a cgroup into one beneath it: only one without can share out its
/// controllers.
fn make_room(dir: &Path) -> Result<()> {
    /// What is forked meanwhile is in the next round.
    const ROUNDS: usize = 100;
    let supervisor = dir.join(SUPERVISOR);
    make_dir(&supervisor)?;
    let (from, to) = (dir.join("cgroup.procs"), supervisor.join("cgroup.procs"));
    for _ in 0..ROUNDS {
        let there = fs::read_to_string(&from).at(&from)?;
        if there.is_empty() {
            return Ok(());
        }
        for pid in there.lines() {
            match write(&to, pid) {
                // It has ended.
                Err(err) if err.raw_os_error() == Some(libc::ESRCH) => {}
                moved => moved.at(&to).doing_with(|| format!("make room: move process {pid}"))?,
            }
        }
    }
    Err(Error::engine(format!("processes go on to appear in {}", dir.display())))
}

fn is_idle(dir: &Path) -> bool {
    fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|text| text.is_empty())
}

fn words(dir: &Path, file: &str) -> io::Result<BTreeSet<String>> {
    let text = fs::read_to_string(dir.join(file))?;
    Ok(text.split_ascii_whitespace().map(Into::into).collect())
}

/// An empty cgroup that did not exist before: a left-over one would still have the counters of
/// the container's last run.
fn make_fresh(path: &Path) -> Result<Cgroup> {
    match fs::create_dir(path) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists => {
            let old = Cgroup::open(path)?;
            if old.populated()? {
                return Err(Error::conflict(format!(
                    "{} still has processes of an earlier run",
                    path.display()
                )));
            }
            old.remove()?;
            fs::create_dir(path).at(path)?;
        }
        result => result.at(path)?,
    }
    Cgroup::open(path)
}

fn make_dir(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => result.at(path),
    }
}

/// systemd.slice(5): `a-b.slice` is `a.slice/a-b.slice`.
fn slice_path(name: &str) -> Result<PathBuf> {
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b);
    if stem.split('-').any(str::is_empty) || !stem.bytes().all(plain) {
        return Err(Error::invalid(format!("{name:?} is not a slice's name")));
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Ok(ends.map(|end| format!("{}.slice", &stem[..end])).collect())
}

/// A path that stays below where it is put.
fn checked_path(path: &str) -> Result<PathBuf> {
    let below = host::relative(Path::new(path));
    if below.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(below.to_owned());
    }
    Err(Error::invalid(format!("cgroup parent {path:?} has `.` or `..` in it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const ALL: &str = "cpuset cpu io memory pids";

    /// A machine made of files: whose user is this test's, so that "ours" is true of it.
    struct Fake {
        dir: tempfile::TempDir,
        uid: u32,
    }

    impl Fake {
        fn new(mountinfo: &str, own: &str) -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let fake = Self { dir, uid: nix::unistd::geteuid().as_raw() };
            fake.file("proc/self/mountinfo", mountinfo);
            fake.file("proc/self/cgroup", own);
            // Root of a user namespace is an ordinary user outside.
            fake.file("proc/self/uid_map", "0 1000 1\n");
            fake
        }

        fn root_user(self) -> Self {
            self.file("proc/self/uid_map", "0 0 4294967295\n");
            self
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().expect("not /")).expect("mkdir");
            fs::write(path, text).expect("write");
        }

        fn cgroup(&self, path: &str, controllers: &str, procs: &str) -> &Self {
            for (file, text) in [
                ("cgroup.controllers", controllers),
                ("cgroup.subtree_control", ""),
                ("cgroup.procs", procs),
            ] {
                self.file(&format!("sys/fs/cgroup/{path}/{file}"), text);
            }
            if !path.is_empty() {
                self.file(&format!("sys/fs/cgroup/{path}/cgroup.type"), "domain\n");
            }
            self
        }

        fn host(&self, uid: u32) -> Host {
            Host::detect_in(self.dir.path(), uid).expect("detect")
        }

        /// Where a container goes, below the root, with its id written `ID`.
        fn place(&self, uid: u32, parent: &str, wanted: &Limits) -> Result<String> {
            let id: ContainerId = "a".repeat(64).parse().expect("an id");
            let placement = self.host(uid).place(&id, parent, wanted)?;
            let text = match placement {
                Placement::Directory(path) => {
                    path.strip_prefix(self.dir.path()).expect("below").display().to_string()
                }
                Placement::Scope { unit, slice } => format!("{slice} {unit}"),
                Placement::Split { .. } => "split".to_owned(),
                Placement::None(why) => format!("none: {why}"),
            };
            Ok(text.replace(id.as_str(), "ID"))
        }
    }

    fn limit(file: &str, text: &str) -> Limits {
        let spec = serde_json::json!({ "unified": { file: text } });
        Limits::from_spec(&serde_json::from_value(spec).expect("json")).expect("limits")
    }

    fn free() -> Limits {
        Limits::default()
    }

    #[test]
    fn root_without_systemd_has_a_directory_of_its_own() {
        let fake = Fake::new(UNIFIED, "0::/x\n").root_user();
        fake.cgroup("", ALL, "1\n");
        assert_eq!(fake.place(0, "", &free()).expect("place"), "sys/fs/cgroup/dhow/ID");
        assert_eq!(fake.place(0, "a/b", &free()).expect("place"), "sys/fs/cgroup/dhow/a/b/ID");
        assert_eq!(fake.place(0, "/a", &free()).expect("place"), "sys/fs/cgroup/a/ID");
        assert_eq!(
            fake.place(0, "a-b.slice", &limit("memory.max", "1")).expect("place"),
            "sys/fs/cgroup/a.slice/a-b.slice/ID"
        );
        for bad in ["../x", "/a/../..", "a--b.slice", "./x"] {
            assert!(fake.place(0, bad, &free()).is_err(), "{bad}");
        }
    }

    #[test]
    fn under_systemd_a_scope_is_asked_for() {
        let fake = Fake::new(UNIFIED, "0::/x\n").root_user();
        fake.cgroup("", ALL, "1\n");
        fake.file("run/systemd/system/x", "");
        fake.file("run/systemd/private", "");
        let place = |parent| fake.place(0, parent, &limit("pids.max", "1")).expect("place");
        assert_eq!(place(""), "system.slice dhow-ID.scope");
        assert_eq!(place("x.slice"), "x.slice dhow-ID.scope");
        assert_eq!(place("/x"), "sys/fs/cgroup/x/ID");
        assert!(fake.place(0, "x", &free()).is_err());
    }

    #[test]
    fn a_user_climbs_out_of_a_cgroup_with_processes() {
        let fake = Fake::new(UNIFIED, "0::/app/term\n");
        fake.cgroup("app/term", ALL, "7\n").cgroup("app", ALL, "");
        let wanted = limit("memory.max", "1");
        assert_eq!(fake.place(fake.uid, "", &wanted).expect("place"), "sys/fs/cgroup/app/dhow-ID");
        // Nobody's but another user's.
        let placed = fake.place(fake.uid + 1, "", &free()).expect("place");
        assert!(placed.starts_with("none: no cgroup is delegated"), "{placed}");
    }

    #[test]
    fn a_user_whose_only_cgroup_is_busy_gets_one_without_controllers() {
        let fake = Fake::new(UNIFIED, "0::/app\n");
        fake.cgroup("app", ALL, "7\n");
        let placed = fake.place(fake.uid, "", &free()).expect("place");
        assert_eq!(placed, "sys/fs/cgroup/app/dhow-ID");
        assert!(fake.place(fake.uid, "", &limit("memory.max", "1")).is_err());
    }

    #[test]
    fn a_user_with_a_systemd_gets_a_scope() {
        let fake = Fake::new(UNIFIED, "0::/app/term\n");
        fake.cgroup("app/term", ALL, "7\n").cgroup("app", ALL, "");
        fake.file(&format!("run/user/{}/bus", fake.uid), "");
        let placed = fake.place(fake.uid, "", &free()).expect("place");
        assert_eq!(placed, "app.slice dhow-ID.scope");
        // What the user's systemd was given is all there is.
        let uid = fake.uid;
        let service = format!("user.slice/user-{uid}.slice/user@{uid}.service");
        fake.cgroup(&service, "memory pids", "");
        assert!(fake.place(fake.uid, "", &limit("memory.max", "1")).is_ok());
        let err = fake.place(fake.uid, "", &limit("cpuset.cpus", "0")).expect_err("cpuset");
        assert_eq!(
            err.to_string(),
            "set a cpuset limit: the cpuset controller is not delegated to this user"
        );
        assert!(err.hint_text().is_some_and(|hint| hint.contains("systemctl edit user@.service")));
    }

    #[test]
    fn a_hybrid_host_says_where_the_controller_is() {
        let mounts = "\
32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let fake = Fake::new(mounts, "4:memory:/\n0::/\n").root_user();
        fake.cgroup("unified", "", "1\n");
        assert_eq!(fake.place(0, "", &free()).expect("place"), "sys/fs/cgroup/unified/dhow/ID");
        let err = fake.place(0, "", &limit("memory.max", "1")).expect_err("memory");
        assert_eq!(
            err.to_string(),
            "set a memory limit: a cgroup v1 hierarchy holds the memory controller on this \
             host, so cgroup v2 does not have it"
        );
        assert_eq!(err.kind(), crate::error::Kind::Unsupported);
    }

    #[test]
    fn absent_cpus_are_refused_as_docker_does() {
        let fake = Fake::new(UNIFIED, "0::/\n").root_user();
        fake.cgroup("", ALL, "1\n");
        fake.file("sys/fs/cgroup/cpuset.cpus.effective", "0-1\n");
        assert!(fake.place(0, "", &limit("cpuset.cpus", "1")).is_ok());
        let err = fake.place(0, "", &limit("cpuset.cpus", "0,9")).expect_err("absent");
        assert_eq!(
            err.to_string(),
            "Requested CPUs are not available - requested 0,9, available: 0-1"
        );
    }

    #[test]
    fn without_a_mount_only_a_limit_is_an_error() {
        let fake = Fake::new("", "4:memory:/\n").root_user();
        let placed = fake.place(0, "", &free()).expect("place");
        assert_eq!(placed, "none: no cgroup v2 hierarchy is mounted here");
        assert!(fake.place(0, "", &limit("cpu.weight", "1")).is_err());
    }

    #[test]
    fn only_our_scopes_are_recognised() {
        assert_eq!(scope_of(Path::new("/m/dhow-1.scope/container")), Some("dhow-1.scope"));
        assert_eq!(scope_of(Path::new("/m/other.scope/container")), None);
        assert_eq!(scope_of(Path::new("/m/dhow-1.scope/monitor")), None);
    }
}
