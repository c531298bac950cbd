//! What this host is and can do: read from `/proc`, `/sys` and `/etc`, changing nothing.
//!
//! [`HostFacts`] is plain data, so any host can be written down in a test. Nothing that depends
//! on the caller's environment variables is in it (see [`XdgDirs`]), because it is meant to be
//! kept for a boot. What must be *tried* to be known is not here but in [`probe_overlay`] and in
//! [`attempt`](super::attempt).

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    ops::Deref,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{chdir, getegid, geteuid, unlink},
};
use serde::{Deserialize, Serialize};

use super::{
    attempt::{self, Refused},
    user::{IdMaps, IdRange},
};
use crate::error::{Context as _, Error, Result};

/// What dhow decides by. Gathered by [`HostFacts::gather`] in well under a millisecond.
///
/// An answer that could not be read is `None` or `false`: absence of a sysctl is itself a fact
/// (a kernel without that restriction).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `/proc/sys/kernel/random/boot_id`: facts with another one are stale.
    pub boot_id: String,
    /// The effective ids these facts are about.
    pub euid: u32,
    /// See `euid`.
    pub egid: u32,
    /// The name `/etc/passwd` gives `euid`, else `$USER`, else the number.
    pub user: String,
    /// What runs.
    pub kernel: Kernel,
    /// `uname -m`.
    pub machine: String,
    /// This user's ranges in `/etc/subuid`, in the file's order.
    pub sub_uids: Vec<SubIdRange>,
    /// The same in `/etc/subgid`.
    pub sub_gids: Vec<SubIdRange>,
    /// The helper that maps `sub_uids`.
    pub newuidmap: Option<IdTool>,
    /// The helper that maps `sub_gids`.
    pub newgidmap: Option<IdTool>,
    /// The settings about them.
    pub user_namespaces: UserNamespaces,
    /// The kernel has seccomp filters (`seccomp(2)`; the actions list exists since 4.14).
    pub seccomp: bool,
    /// AppArmor is compiled in and on.
    pub apparmor: bool,
    /// SELinux is on: its file system is mounted.
    pub selinux: bool,
    /// `fuse-overlayfs(1)`, from `$PATH` or the usual directories.
    pub fuse_overlayfs: Option<PathBuf>,
    /// systemd is this host's init (`sd_booted(3)`).
    pub systemd: bool,
    /// `net.ipv4.ping_group_range`, first and last gid. The kernel's default, `1 0`, is nobody.
    pub ping_group_range: Option<(u32, u32)>,
    /// `net.ipv4.ip_unprivileged_port_start`: ports below it need `CAP_NET_BIND_SERVICE`.
    pub unprivileged_port_start: Option<u16>,
}

/// `uname -r`, and what it begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// All of it: `6.1.0-18-amd64`.
    pub release: String,
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl Kernel {
    /// From text such as `6.1.0-18-amd64`. Unreadable numbers count as 0: the oldest kernel.
    pub fn parse(release: &str) -> Self {
        let release = release.trim();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse());
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
        Self { release: release.to_owned(), major: next(), minor: next() }
    }

    /// Whether this kernel is of that version or newer.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

/// Subordinate ids: `subuid(5)`, second and third field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubIdRange {
    /// The first id.
    pub start: u32,
    /// How many ids.
    pub count: u32,
}

impl SubIdRange {
    /// One past the last id.
    pub fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.count)
    }

    /// Whether some id is in both.
    pub fn overlaps(self, other: Self) -> bool {
        u64::from(self.start) < other.end() && u64::from(other.start) < self.end()
    }
}

/// `newuidmap(1)` or `newgidmap(1)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdTool {
    /// Where it is.
    pub path: PathBuf,
    /// It is setuid root or carries file capabilities; without either it can map nothing.
    pub privileged: bool,
}

/// Whether an unprivileged process may make user namespaces, as far as settings tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespaces {
    /// `CONFIG_USER_NS`.
    pub compiled_in: bool,
    /// `user.max_user_namespaces`.
    pub max: Option<u64>,
    /// `kernel.unprivileged_userns_clone` (Debian's and Arch's patch).
    pub unprivileged_clone: Option<bool>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu 23.10 and later).
    pub apparmor_restricted: Option<bool>,
}

impl UserNamespaces {
    /// The setting that keeps an unprivileged process from making a *useful* user namespace,
    /// and what changes it: the first one that is known to.
    ///
    /// `executable` is dhow's own path, which an AppArmor profile has to name.
    pub fn obstacle(&self, executable: &Path) -> Option<Obstacle> {
        let found = |found: &str, fix: String| Some(Obstacle { found: found.to_owned(), fix });
        if !self.compiled_in {
            return found(
                "this kernel is built without user namespaces (CONFIG_USER_NS)",
                "boot a kernel that has them, or run dhow as root".into(),
            );
        }
        if self.unprivileged_clone == Some(false) {
            return found(
                "kernel.unprivileged_userns_clone is 0",
                sysctl_fix("kernel.unprivileged_userns_clone", "1"),
            );
        }
        if self.max == Some(0) {
            return found(
                "user.max_user_namespaces is 0",
                sysctl_fix("user.max_user_namespaces", "28633"),
            );
        }
        if self.apparmor_restricted == Some(true) {
            return found(
                "kernel.apparmor_restrict_unprivileged_userns is 1, and no AppArmor profile \
                 allows this executable",
                apparmor_fix(executable),
            );
        }
        None
    }
}

/// What is in the way, and the commands that clear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The setting, as it is.
    pub found: String,
    /// Commands for a shell.
    pub fix: String,
}

fn sysctl_fix(name: &str, value: &str) -> String {
    format!("echo {name}={value} | sudo tee /etc/sysctl.d/99-dhow.conf && sudo sysctl --system")
}

/// A profile that confines nothing and only allows user namespaces, as Ubuntu ships them for
/// browsers (apparmor.d(5), "Unprivileged user namespaces").
fn apparmor_fix(executable: &Path) -> String {
    format!(
        "sudo tee /etc/apparmor.d/dhow <<'EOF' && sudo apparmor_parser -r /etc/apparmor.d/dhow\n\
         abi <abi/4.0>,\n\
         include <tunables/global>\n\
         \n\
         profile dhow \"{}\" flags=(unconfined) {{\n  userns,\n\n  \
         include if exists <local/dhow>\n}}\n\
         EOF",
        executable.display()
    )
}

/// This host, of which only what every command needs is known from the start: the rest takes
/// sixty system calls, and is read when it is first asked for.
#[derive(Debug)]
pub struct Host {
    /// As in [`HostFacts`].
    pub boot_id: String,
    /// As in [`HostFacts`].
    pub euid: u32,
    facts: OnceLock<HostFacts>,
}

impl Host {
    /// Fails where [`HostFacts::gather`] does.
    pub fn look() -> Result<Self> {
        let boot_id = boot_id_at(Path::new("/"))?;
        Ok(Self { boot_id, euid: geteuid().as_raw(), facts: OnceLock::new() })
    }

    /// Whether an ordinary user runs dhow.
    pub fn rootless(&self) -> bool {
        self.euid != 0
    }
}

impl Deref for Host {
    type Target = HostFacts;

    fn deref(&self) -> &HostFacts {
        self.facts.get_or_init(|| HostFacts::of_this_host(self.boot_id.clone()))
    }
}

impl HostFacts {
    /// Reads this host, for the calling process's effective ids.
    pub fn gather() -> Result<Self> {
        Ok(Self::of_this_host(boot_id_at(Path::new("/"))?))
    }

    fn of_this_host(boot_id: String) -> Self {
        let ids = (geteuid().as_raw(), getegid().as_raw());
        let path = env::var_os("PATH").unwrap_or_default();
        Self::gather_at(Path::new("/"), boot_id, ids, &path, env::var("USER").ok())
    }

    /// Reads the host whose root directory is `root`; `path` is a `$PATH`.
    fn gather_at(
        root: &Path,
        boot_id: String,
        (euid, egid): (u32, u32),
        path: &OsStr,
        name: Option<String>,
    ) -> Self {
        let text = |file: &str| read_trimmed(&root.join(file));
        let sysctl = |name: &str| text(&format!("proc/sys/{name}"));
        let flag = |name: &str| sysctl(name).map(|value| value != "0");
        let passwd = text("etc/passwd").unwrap_or_default();
        let user = user_name(&passwd, euid).or(name).unwrap_or_else(|| euid.to_string());
        let ranges = |file: &str| sub_ids(&text(file).unwrap_or_default(), &user, euid);
        // Setuid helpers are taken from the system's directories, whatever PATH says.
        let id_tool = |name: &str| find_program(root, "".as_ref(), name).map(IdTool::examine);
        Self {
            boot_id,
            euid,
            egid,
            sub_uids: ranges("etc/subuid"),
            sub_gids: ranges("etc/subgid"),
            user,
            kernel: Kernel::parse(&sysctl("kernel/osrelease").unwrap_or_default()),
            machine: env::consts::ARCH.to_owned(),
            newuidmap: id_tool("newuidmap"),
            newgidmap: id_tool("newgidmap"),
            user_namespaces: UserNamespaces {
                compiled_in: root.join("proc/self/ns/user").symlink_metadata().is_ok(),
                max: sysctl("user/max_user_namespaces").and_then(|n| n.parse().ok()),
                unprivileged_clone: flag("kernel/unprivileged_userns_clone"),
                apparmor_restricted: flag("kernel/apparmor_restrict_unprivileged_userns"),
            },
            seccomp: sysctl("kernel/seccomp/actions_avail").is_some(),
            apparmor: text("sys/module/apparmor/parameters/enabled").is_some_and(|v| v == "Y"),
            selinux: root.join("sys/fs/selinux/enforce").exists(),
            fuse_overlayfs: find_program(root, path, "fuse-overlayfs"),
            systemd: root.join("run/systemd/system").is_dir(),
            ping_group_range: sysctl("net/ipv4/ping_group_range").and_then(|t| number_pair(&t)),
            unprivileged_port_start: sysctl("net/ipv4/ip_unprivileged_port_start")
                .and_then(|port| port.parse().ok()),
        }
    }

    /// Whether an ordinary user runs dhow.
    pub fn rootless(&self) -> bool {
        self.euid != 0
    }

    /// Overlayfs can be mounted in a user namespace: Linux 5.11 (`userxattr`). Only
    /// [`probe_overlay`] knows whether it also can on one file system.
    pub fn overlay_in_user_namespace(&self) -> bool {
        self.kernel.at_least(5, 11)
    }

    /// The widest id maps this user may have written: themselves as root, then every
    /// subordinate range in order; their own ids alone where there are none.
    pub fn id_maps(&self) -> IdMaps {
        if !self.has_sub_ids() {
            return IdMaps::single(self.euid, self.egid);
        }
        self.id_maps_with(Some((0, 0)))
    }

    /// The subordinate ids in order, with this user's own as `own` (user and group) among them,
    /// or not at all. Only where there are subordinate ids.
    pub fn id_maps_with(&self, own: Option<(u32, u32)>) -> IdMaps {
        let at = |inside, outside| IdRange { inside, outside, size: 1 };
        IdMaps {
            uid: id_map(own.map(|(uid, _)| at(uid, self.euid)), &self.sub_uids),
            gid: id_map(own.map(|(_, gid)| at(gid, self.egid)), &self.sub_gids),
        }
    }

    /// The subordinate ids that belong to `name`, from 0 on; empty if it has none. For root, who
    /// may map anybody's.
    pub fn id_maps_of(&self, name: &str) -> IdMaps {
        let ranges =
            |file: &str| sub_ids(&fs::read_to_string(file).unwrap_or_default(), name, u32::MAX);
        IdMaps {
            uid: id_map(None, &ranges("/etc/subuid")),
            gid: id_map(None, &ranges("/etc/subgid")),
        }
    }

    /// Ranges and tools for a full id map are there.
    pub fn has_sub_ids(&self) -> bool {
        let usable = |tool: &Option<IdTool>| tool.as_ref().is_some_and(|tool| tool.privileged);
        !self.sub_uids.is_empty()
            && !self.sub_gids.is_empty()
            && usable(&self.newuidmap)
            && usable(&self.newgidmap)
    }
}

/// The ids of `ranges` from 0 on, stepping around `own`.
fn id_map(own: Option<IdRange>, ranges: &[SubIdRange]) -> Vec<IdRange> {
    let mut map: Vec<IdRange> = own.into_iter().collect();
    // 2^32 - 1 is no id (credentials(7)); a range that would reach it is cut short.
    let taken = own.map_or(u32::MAX, |own| own.inside);
    let mut inside: u32 = 0;
    for range in ranges {
        let mut outside = range.start;
        let mut left = range.count.min(u32::MAX - range.start);
        while left > 0 && inside < u32::MAX {
            if inside == taken {
                inside += 1;
            }
            let end = if inside < taken { taken } else { u32::MAX };
            let size = left.min(end - inside);
            map.push(IdRange { inside, outside, size });
            inside += size;
            outside += size;
            left -= size;
        }
    }
    map.sort_unstable_by_key(|range| range.inside);
    map
}

impl IdTool {
    fn examine(path: PathBuf) -> Self {
        let setuid_root =
            fs::metadata(&path).is_ok_and(|meta| meta.mode() & 0o4000 != 0 && meta.uid() == 0);
        // `capabilities(7)`, "File capabilities". Only whether there are any is asked.
        let capable =
            || rustix::fs::getxattr(&path, "security.capability", &mut [0_u8; 64]).is_ok();
        Self { privileged: setuid_root || capable(), path }
    }
}

/// The caller's base directories (XDG Base Directory Specification), absolute ones only, as
/// the specification demands. They come from the environment, so they are asked each time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XdgDirs {
    /// `$XDG_RUNTIME_DIR`; there is no default.
    pub runtime: Option<PathBuf>,
    /// `$XDG_DATA_HOME`, `~/.local/share`.
    pub data: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`, `~/.config`.
    pub config: Option<PathBuf>,
}

impl XdgDirs {
    /// Those of the calling process.
    pub fn from_env() -> Self {
        Self::from_vars(|name| env::var_os(name))
    }

    fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let absolute = |name| var(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
        let home = absolute("HOME");
        let or_in_home =
            |name, below| absolute(name).or_else(|| home.as_ref().map(|home| home.join(below)));
        Self {
            runtime: absolute("XDG_RUNTIME_DIR"),
            data: or_in_home("XDG_DATA_HOME", ".local/share"),
            config: or_in_home("XDG_CONFIG_HOME", ".config"),
        }
    }

    /// The user's message bus, if its socket is there.
    pub fn user_bus(&self) -> Option<PathBuf> {
        let socket = self.runtime.as_ref()?.join("bus");
        socket.exists().then_some(socket)
    }
}

/// This boot's identity (`random(4)`, "/proc interfaces").
pub fn boot_id() -> Result<String> {
    boot_id_at(Path::new("/"))
}

fn boot_id_at(root: &Path) -> Result<String> {
    let path = root.join("proc/sys/kernel/random/boot_id");
    fs::read_to_string(&path).map(|id| id.trim().to_owned()).at(&path)
}

/// Mounts an overlay over scratch directories in `dir`, in a throw-away mount namespace (and
/// user namespace, unless the caller is root), and deletes a lower file through it.
///
/// That is the whole of what containers need from the file system: extended attributes, a
/// work directory, whiteouts. The error says which of these was refused. Nothing stays.
pub fn probe_overlay(dir: &Path) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix(".probe-").tempdir_in(dir).at(dir)?;
    let at = |name: &str| scratch.path().join(name);
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(at(name)).at(at(name))?;
    }
    fs::write(at("lower/file"), "").at(at("lower/file"))?;

    let outcome = try_overlay(scratch.path())?;
    make_removable(&at("work/work"));
    let Err(refused) = outcome else { return Ok(()) };
    let place = dir.display();
    let doing = match refused.step {
        Refused::NAMESPACE => "make a namespace to mount in".to_owned(),
        WHITEOUT => format!("delete a file through an overlay on {place}"),
        _ => format!("mount an overlay on {place}"),
    };
    Err(Error::unsupported(refused.to_string()).context(doing))
}

/// Whether this user may serve a file system from user space (fuse(4)).
pub fn probe_fuse() -> Result<()> {
    let device = "/dev/fuse";
    let file = fs::OpenOptions::new().read(true).write(true).open(device).at(device)?;
    // admin-guide/devices.txt: misc device 229.
    match file.metadata().at(device)?.rdev() == rustix::fs::makedev(10, 229) {
        true => Ok(()),
        false => Err(Error::unsupported(format!("{device} is another device"))),
    }
}

fn try_overlay(scratch: &Path) -> Result<attempt::Outcome> {
    let (euid, egid) = (geteuid(), getegid());
    let userxattr = if euid.is_root() { "" } else { ",userxattr" };
    // Relative names, since the path to them may hold a comma or a colon.
    let options = format!("lowerdir=lower,upperdir=upper,workdir=work{userxattr}");
    let body = || {
        mount_overlay(scratch, &options)?;
        unlink("merged/file").map_err(|errno| (WHITEOUT, errno))
    };
    if euid.is_root() {
        return attempt::in_child(body);
    }
    attempt::in_user_namespace(&IdMaps::single(euid.as_raw(), egid.as_raw()), body)
}

/// The steps of [`try_overlay`].
const MOUNT: u8 = 1;
const WHITEOUT: u8 = 2;

fn mount_overlay(scratch: &Path, options: &str) -> attempt::Step {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
        .map_err(|errno| (Refused::NAMESPACE, errno))?;
    chdir(scratch)
        .and_then(|()| {
            mount(Some("overlay"), "merged", Some("overlay"), MsFlags::empty(), Some(options))
        })
        .map_err(|errno| (MOUNT, errno))
}

/// Overlayfs leaves `work/work` without permissions, which stops its owner from removing it.
fn make_removable(work: &Path) {
    // It is absent if nothing was mounted; the scratch directory's removal tells of the rest.
    let _ = fs::set_permissions(work, fs::Permissions::from_mode(0o700));
}

fn read_trimmed(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The name of `uid` in `passwd(5)` text.
pub fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// The ranges of one user in `subuid(5)` text, where users are given by name or by number.
fn sub_ids(text: &str, user: &str, uid: u32) -> Vec<SubIdRange> {
    let owned = |owner: &str| owner == user || owner.parse() == Ok(uid);
    sub_id_lines(text).filter(|(owner, _)| owned(owner)).map(|(_, range)| range).collect()
}

/// Every well-formed line of `subuid(5)` text: owner and range. Empty ranges are left out.
pub fn sub_id_lines(text: &str) -> impl Iterator<Item = (&str, SubIdRange)> {
    text.lines().filter_map(|line| {
        let (owner, range) = line.trim().split_once(':')?;
        let (start, count) = range.split_once(':')?;
        let range = SubIdRange { start: start.parse().ok()?, count: count.parse().ok()? };
        (range.count > 0).then_some((owner, range))
    })
}

/// The two numbers of a sysctl such as `0\t2147483647`.
fn number_pair(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// An executable of this name in `$PATH`, or where distributions put it.
fn find_program(root: &Path, path: &OsStr, name: &str) -> Option<PathBuf> {
    let usual = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/run/wrappers/bin"];
    env::split_paths(path).filter(|dir| dir.is_absolute()).chain(usual.map(PathBuf::from)).find_map(
        |dir| {
            let program = root.join(dir.strip_prefix("/").ok()?).join(name);
            let meta = fs::metadata(&program).ok()?;
            (meta.is_file() && meta.mode() & 0o111 != 0).then_some(program)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host's tree: path and content.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("tempdir");
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, content).expect("write");
        }
        root
    }

    #[test]
    fn an_ubuntu_host_is_read() {
        let root = tree(&[
            ("proc/sys/kernel/random/boot_id", "1b4e-28ba\n"),
            ("proc/sys/kernel/osrelease", "6.8.0-31-generic\n"),
            ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"),
            ("proc/sys/kernel/seccomp/actions_avail", "allow\n"),
            ("proc/sys/user/max_user_namespaces", "127\n"),
            ("proc/sys/net/ipv4/ping_group_range", "0\t2147483647\n"),
            ("proc/sys/net/ipv4/ip_unprivileged_port_start", "1024\n"),
            ("proc/self/ns/user", ""),
            ("sys/module/apparmor/parameters/enabled", "Y\n"),
            ("run/systemd/system/x", ""),
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"),
            ("etc/subuid", "bob:1:1\nann:100000:65536\n1000:300000:10\nann:x:1\nann:5:0\n"),
            ("etc/subgid", "annette:100000:65536\n"),
            ("usr/bin/newuidmap", ""),
        ]);
        let tool = root.path().join("usr/bin/newuidmap");
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("chmod");
        let boot_id = boot_id_at(root.path()).expect("boot id");
        let path = OsStr::new("/opt/bin");
        let facts = HostFacts::gather_at(root.path(), boot_id, (1000, 1000), path, None);
        assert_eq!(
            facts,
            HostFacts {
                boot_id: "1b4e-28ba".into(),
                euid: 1000,
                egid: 1000,
                user: "ann".into(),
                kernel: Kernel { release: "6.8.0-31-generic".into(), major: 6, minor: 8 },
                machine: env::consts::ARCH.into(),
                sub_uids: vec![
                    SubIdRange { start: 100_000, count: 65_536 },
                    SubIdRange { start: 300_000, count: 10 },
                ],
                sub_gids: vec![],
                newuidmap: Some(IdTool { path: tool, privileged: false }),
                newgidmap: None,
                user_namespaces: UserNamespaces {
                    compiled_in: true,
                    max: Some(127),
                    unprivileged_clone: None,
                    apparmor_restricted: Some(true),
                },
                seccomp: true,
                apparmor: true,
                selinux: false,
                fuse_overlayfs: None,
                systemd: true,
                ping_group_range: Some((0, 2_147_483_647)),
                unprivileged_port_start: Some(1024),
            }
        );
        assert!(!facts.has_sub_ids(), "no group ranges, and the tool has no privilege");
    }

    #[test]
    fn kernels_compare_by_number() {
        let kernel = Kernel::parse("5.11-rc3\n");
        assert!(kernel.at_least(5, 11) && kernel.at_least(4, 20) && !kernel.at_least(5, 12));
        assert_eq!(
            Kernel::parse("strange"),
            Kernel { release: "strange".into(), ..Kernel::default() }
        );
    }

    #[test]
    fn the_map_is_the_user_and_then_every_range() {
        let range = |start, count| SubIdRange { start, count };
        let line = |inside, outside, size| IdRange { inside, outside, size };
        let own = |inside| Some(line(inside, 1000, 1));
        let map = id_map(own(0), &[range(100_000, 65_536), range(300_000, 10)]);
        let ranges = [line(0, 1000, 1), line(1, 100_000, 65_536), line(65_537, 300_000, 10)];
        assert_eq!(map, ranges);
        let kept = id_map(own(5), &[range(100, 3), range(200, 4)]);
        let ranges = [line(0, 100, 3), line(3, 200, 2), line(5, 1000, 1), line(6, 202, 2)];
        assert_eq!(kept, ranges);
        assert_eq!(id_map(own(9), &[range(100, 3)]), [line(0, 100, 3), line(9, 1000, 1)]);
        assert_eq!(id_map(None, &[range(100, 3)]), [line(0, 100, 3)]);
        let all = id_map(None, &[range(0, u32::MAX), range(5, 7)]);
        assert_eq!(all, [line(0, 0, u32::MAX)], "no overflow");
        let top = id_map(Some(line(0, 0, 1)), &[range(1, u32::MAX), range(5, u32::MAX)]);
        assert_eq!(top, [line(0, 0, 1), line(1, 1, u32::MAX - 1)], "cut short, no overflow");
    }

    #[test]
    fn an_obstacle_names_the_setting_and_the_fix() {
        let open = UserNamespaces { compiled_in: true, max: Some(9), ..UserNamespaces::default() };
        let told = |host: &UserNamespaces| host.obstacle(Path::new("/usr/bin/dhow"));
        assert_eq!(told(&open), None);
        let ubuntu = told(&UserNamespaces { apparmor_restricted: Some(true), ..open.clone() });
        let ubuntu = ubuntu.expect("an obstacle").fix;
        assert!(
            ubuntu.contains("profile dhow \"/usr/bin/dhow\" flags=(unconfined) {\n  userns,\n")
        );
        let debian = told(&UserNamespaces { unprivileged_clone: Some(false), ..open.clone() });
        assert!(debian.expect("an obstacle").fix.contains("kernel.unprivileged_userns_clone=1"));
        let none = told(&UserNamespaces { max: Some(0), ..open });
        assert!(none.expect("an obstacle").found.contains("max_user_namespaces"));
    }

    #[test]
    fn ranges_overlap_by_their_ends() {
        let range = |start, count| SubIdRange { start, count };
        assert!(range(10, 10).overlaps(range(19, 1)));
        assert!(!range(10, 10).overlaps(range(20, 1)));
        assert_eq!(range(u32::MAX, u32::MAX).end(), 2 * u64::from(u32::MAX), "no overflow");
    }

    #[test]
    fn base_directories_must_be_absolute() {
        let vars = |name: &str| match name {
            "HOME" => Some("/home/ann".into()),
            "XDG_DATA_HOME" => Some("relative".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1000".into()),
            _ => None,
        };
        let dirs = XdgDirs::from_vars(vars);
        assert_eq!(dirs.data.as_deref(), Some(Path::new("/home/ann/.local/share")));
        assert_eq!(dirs.runtime.as_deref(), Some(Path::new("/run/user/1000")));
    }

    #[test]
    fn the_overlay_probe_tries_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let outcome = probe_overlay(dir.path());
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0, "nothing stays");
        // An overlay cannot have its upper directory on procfs: there the probe must say no.
        assert!(probe_overlay(Path::new("/proc")).is_err());
        if let Err(err) = outcome {
            assert!(err.to_string().contains("overlay") || err.to_string().contains("namespace"));
        }
    }
}
