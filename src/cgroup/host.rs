//! What this machine's cgroups are like. Read once a boot; a plain value that can be stored.
//!
//! Only what stays true until the next boot is in here. Which cgroup a process is in and what
//! is delegated to it differ between processes, so [`Host::place`](super::Host::place) asks
//! the kernel each time.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::systemd;
use crate::error::{Context as _, Result};

/// How this machine mounts cgroups (systemd's words).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hierarchy {
    /// Version 2 alone.
    Unified,
    /// Version 2 beside version 1, which usually holds the controllers.
    Hybrid,
    /// No version 2 is mounted.
    Legacy,
}

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub hierarchy: Hierarchy,
    /// Where cgroup v2 is mounted.
    pub mount: Option<PathBuf>,
    /// Which part of the hierarchy that mount shows: `/`, unless bound from elsewhere.
    pub(super) shows: PathBuf,
    /// Whether that mount is read-only, as in most containers.
    pub read_only: bool,
    /// Controllers a version 1 hierarchy holds: not to be had in version 2.
    pub legacy: Vec<String>,
    /// An ordinary user, or root of a user namespace.
    pub rootless: bool,
    /// The user's id as this process sees it.
    pub(super) uid: u32,
    /// Whether systemd runs this machine: `sd_booted(3)`.
    pub systemd: bool,
    /// Where that systemd, or the user's own, may listen, best first.
    pub(super) managers: Vec<systemd::Address>,
    /// `/`, except in tests.
    pub(super) root: PathBuf,
}

impl Host {
    /// Looks. Three files and a directory entry; no process is started or asked.
    pub fn detect() -> Result<Self> {
        let uid = nix::unistd::geteuid().as_raw();
        Self::detect_in(Path::new("/"), uid)
    }

    /// The same for a tree that looks like `/`, seen by user `uid`.
    pub fn detect_in(root: &Path, uid: u32) -> Result<Self> {
        let mounts = read(&root.join("proc/self/mountinfo"))?;
        let legacy = legacy_controllers(&read(&root.join("proc/self/cgroup"))?);
        let mount = choose_mount(&mounts);
        let hierarchy = match &mount {
            None => Hierarchy::Legacy,
            Some(_) if has_version_1(&mounts) => Hierarchy::Hybrid,
            Some(_) => Hierarchy::Unified,
        };
        let rootless = uid != 0 || in_user_namespace(root);
        Ok(Self {
            hierarchy,
            shows: mount.as_ref().map_or_else(|| "/".into(), |mount| mount.shows.clone()),
            read_only: mount.as_ref().is_some_and(|mount| mount.read_only),
            mount: mount.map(|mount| root.join(relative(&mount.point))),
            legacy,
            rootless,
            uid,
            systemd: root.join("run/systemd/system").is_dir(),
            managers: systemd::addresses(root, rootless, uid),
            root: root.to_owned(),
        })
    }

    /// The directory of the cgroup this process is in; `None` if the mount does not show it.
    pub(super) fn own(&self) -> Result<Option<PathBuf>> {
        let text = read(&self.root.join("proc/self/cgroup"))?;
        Ok(self.mount.as_ref().and_then(|mount| own_directory(&text, mount, &self.shows)))
    }

    /// The controllers that containers can be limited by, for `dhow info`. Empty: none.
    pub fn controllers(&self) -> Vec<String> {
        self.offered().unwrap_or_default().into_iter().collect()
    }
}

/// One line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)) that mounts cgroup2.
struct Mount {
    point: PathBuf,
    shows: PathBuf,
    read_only: bool,
}

/// The usual place, then the hybrid one, then any; of equals the last, which hides the others.
fn choose_mount(mountinfo: &str) -> Option<Mount> {
    let rank = |mount: &Mount| match mount.point.to_str() {
        Some("/sys/fs/cgroup") => 2,
        Some("/sys/fs/cgroup/unified") => 1,
        _ => 0,
    };
    mountinfo.lines().filter_map(parse_mount).max_by_key(rank)
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (shows, point, options) = (fields.next()?, fields.next()?, fields.next()?);
    let mut rest = after.split(' ');
    let version_2 = rest.next()? == "cgroup2";
    // The mount's own options, or the file system's as a whole.
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    version_2.then(|| Mount {
        point: unescape(point),
        shows: unescape(shows),
        read_only: read_only(options) || rest.nth(1).is_some_and(read_only),
    })
}

fn has_version_1(mountinfo: &str) -> bool {
    let kinds = mountinfo.lines().filter_map(|line| line.split_once(" - "));
    kinds.into_iter().any(|(_, after)| after.starts_with("cgroup "))
}

/// Spaces and the like are written `\040` in mountinfo.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(out).into()
}

/// cgroups(7), "/proc/pid/cgroup": `hierarchy-ID:controller-list:path`, version 2 is `0::path`.
fn legacy_controllers(text: &str) -> Vec<String> {
    let lists = text.lines().filter_map(|line| line.split(':').nth(1));
    let names = lists.flat_map(|list| list.split(','));
    names.filter(|name| !name.is_empty() && !name.starts_with("name=")).map(Into::into).collect()
}

fn own_directory(text: &str, mount: &Path, shows: &Path) -> Option<PathBuf> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    // A process seen from outside its cgroup namespace is at `/../..`.
    let below = Path::new(own).strip_prefix(shows).ok()?;
    let inside = below.components().all(|part| matches!(part, Component::Normal(_)));
    inside.then(|| if below.as_os_str().is_empty() { mount.to_owned() } else { mount.join(below) })
}

/// Outside of any, the map is the whole 32-bit range (user_namespaces(7)).
fn in_user_namespace(root: &Path) -> bool {
    let whole = ["0", "0", "4294967295"];
    match fs::read_to_string(root.join("proc/self/uid_map")) {
        Ok(map) => !map.split_ascii_whitespace().eq(whole),
        // A kernel without user namespaces.
        Err(_) => false,
    }
}

pub(super) fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// A proc file; one that is missing (a kernel without cgroups) reads as empty.
fn read(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.at(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "\
24 1 0:22 / /proc rw,nosuid - proc proc rw
31 24 0:27 / /sys/fs/cgroup rw,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate
";
    const HYBRID: &str = "\
32 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn tree(mountinfo: &str, cgroup: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        let own = dir.path().join("proc/self");
        fs::create_dir_all(&own).expect("mkdir");
        fs::write(own.join("mountinfo"), mountinfo).expect("write");
        fs::write(own.join("cgroup"), cgroup).expect("write");
        dir
    }

    #[test]
    fn hierarchies_are_told_apart() {
        let table = [
            (UNIFIED, "0::/x\n", Hierarchy::Unified, Some("sys/fs/cgroup"), vec![]),
            (
                HYBRID,
                "4:memory:/a\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n",
                Hierarchy::Hybrid,
                Some("sys/fs/cgroup/unified"),
                vec!["memory", "cpu", "cpuacct"],
            ),
            ("", "4:memory:/\n", Hierarchy::Legacy, None, vec!["memory"]),
        ];
        for (mountinfo, cgroup, hierarchy, mount, legacy) in table {
            let tree = tree(mountinfo, cgroup);
            let host = Host::detect_in(tree.path(), 1000).expect("detect");
            assert_eq!(host.hierarchy, hierarchy);
            assert_eq!(host.mount, mount.map(|path| tree.path().join(path)));
            assert_eq!(host.legacy, legacy);
            assert!(host.rootless && !host.systemd);
        }
    }

    #[test]
    fn facts_survive_being_stored() {
        let tree = tree(UNIFIED, "0::/x\n");
        let host = Host::detect_in(tree.path(), 0).expect("detect");
        let json = serde_json::to_string(&host).expect("json");
        assert_eq!(serde_json::from_str::<Host>(&json).expect("json"), host);
    }

    #[test]
    fn a_private_mount_is_found_with_its_odd_name() {
        let text = "5 4 0:9 /a /my\\040cgroups ro - cgroup2 none rw\n";
        let mount = choose_mount(text).expect("found");
        assert_eq!(mount.point, Path::new("/my cgroups"));
        assert_eq!(mount.shows, Path::new("/a"));
        assert!(mount.read_only);
    }

    #[test]
    fn the_own_directory_is_below_what_the_mount_shows() {
        let own = |path, shows: &str| {
            own_directory(&format!("0::{path}\n"), Path::new("/m"), Path::new(shows))
        };
        assert_eq!(own("/a/b", "/"), Some("/m/a/b".into()));
        assert_eq!(own("/a/b", "/a"), Some("/m/b".into()));
        assert_eq!(own("/", "/"), Some("/m".into()));
        assert_eq!(own("/b", "/a"), None);
        assert_eq!(own("/../x", "/"), None);
    }
}
