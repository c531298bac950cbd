//! The measurements: `/proc`, `/sys` and `/dev` below a root path, so that tests can fake them,
//! and attempts, which only the real root can answer.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::errno::Errno;
use serde::Serialize;

use crate::sys::{
    attempt::{self, Cause},
    host::Kernel,
    inside,
    user::IdRange,
};

/// Everything measured. Absent values could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Who it is, here and outside.
    pub user: User,
    /// Its namespaces, those this kernel has.
    pub namespaces: Vec<Namespace>,
    /// Its number in its own pid namespace.
    pub pid: Option<u32>,
    /// How many processes `/proc` shows, this one included.
    pub visible_processes: usize,
    /// Its five capability sets.
    pub capabilities: Capabilities,
    /// Its system call filter.
    pub seccomp: Seccomp,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// The AppArmor or SELinux label.
    pub label: Option<String>,
    /// Dangerous calls, and what came of them.
    pub calls: Vec<Tried>,
    /// What is mounted on `/`.
    pub root_mount: Option<Mount>,
    /// How many mounts there are.
    pub mounts: usize,
    /// Places that tell of the host, opened for reading.
    pub masked: Vec<Tried>,
    /// Places that change the host, opened for writing.
    pub read_only: Vec<Tried>,
    /// Character and block devices below `/dev`.
    pub devices: Vec<Device>,
    /// Its cgroup and limits.
    pub cgroup: Cgroup,
    /// Its ways out.
    pub network: Network,
    /// Its uts namespace's.
    pub hostname: String,
    /// Open descriptors above 2, as `number -> target`.
    pub leaked_descriptors: Vec<String>,
    /// Octal, as the kernel writes it.
    pub umask: String,
    /// Those worth telling.
    pub limits: Vec<Limit>,
    /// Names only: values may be secrets.
    pub environment: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// `outside` is what the parent namespace calls it: the host, as far as can be known.
    pub uid_map: Vec<IdRange>,
    pub gid_map: Vec<IdRange>,
}

impl User {
    /// The own uid as the parent namespace knows it.
    pub fn uid_outside(&self) -> Option<u32> {
        self.uid_map.iter().find_map(|range| {
            let offset = self.uid.checked_sub(range.inside)?;
            (offset < range.size).then(|| range.outside.wrapping_add(offset))
        })
    }

    /// Every id maps to itself, as in the machine's first user namespace.
    pub fn is_unmapped(&self) -> bool {
        self.uid_map == [IdRange { inside: 0, outside: 0, size: u32::MAX }]
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// As `/proc/self/ns` calls it.
    pub kind: &'static str,
    pub inode: u64,
    pub whose: Whose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Whose {
    /// Not the machine's first one.
    Private,
    /// The machine's first one: shared with the host.
    Hosts,
    Unknown,
}

/// The five sets (`capabilities(7)`, "Thread capability sets"), by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    pub effective: Vec<String>,
    pub permitted: Vec<String>,
    pub inheritable: Vec<String>,
    pub bounding: Vec<String>,
    pub ambient: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    /// `proc_pid_status(5)`: 0 none, 1 strict, 2 filter.
    pub mode: u32,
    /// Since Linux 5.9.
    pub filters: Option<u32>,
}

/// Something that should be refused, and whether it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    pub what: String,
    pub outcome: Outcome,
    /// The kernel's words, or what the call would be good for.
    pub said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    Refused,
    Allowed,
    /// There is no such thing here, or it is empty: nothing to protect.
    Absent,
    /// It could not be tried.
    Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    pub kind: String,
    pub read_only: bool,
    /// The mount's own options (`proc_pid_mountinfo(5)`, field 6).
    pub options: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    pub name: String,
    pub block: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    /// In the cgroup v2 tree, as seen from the cgroup namespace.
    pub path: Option<String>,
    /// As in the files of the same name; absent if the controller is not there.
    pub memory_max: Option<String>,
    pub cpu_max: Option<String>,
    pub pids_max: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    pub interfaces: Vec<String>,
    /// The interface of a default route, if there is one.
    pub route_out: Option<String>,
}

/// `getrlimit(2)`, in the kernel's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    pub name: String,
    pub soft: String,
    pub hard: String,
}

impl Report {
    /// Measures the process it is called in. `root` is `/` but for tests.
    pub fn measure(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let status = text("proc/self/status");
        let mounts = text("proc/self/mountinfo");
        let number = |key: &str| field(&status, key).and_then(|value| value.parse().ok());
        Self {
            user: user(&status, &text("proc/self/uid_map"), &text("proc/self/gid_map")),
            namespaces: namespaces(root),
            // The last of NSpid is the number in the own namespace; Pid is what this /proc says.
            pid: field(&status, "NSpid")
                .and_then(|ids| ids.split_whitespace().last()?.parse().ok()),
            visible_processes: visible_processes(root),
            capabilities: capabilities(&status),
            seccomp: Seccomp {
                mode: number("Seccomp").unwrap_or(0),
                filters: number("Seccomp_filters"),
            },
            no_new_privileges: number("NoNewPrivs") == Some(1),
            label: label(root),
            calls: dangerous_calls(),
            root_mount: root_mount(&mounts),
            mounts: mounts.lines().count(),
            masked: MASKED.iter().map(|path| try_read(root, path)).collect(),
            read_only: READ_ONLY.iter().map(|path| try_write(root, path)).collect(),
            devices: devices(&root.join("dev")),
            cgroup: cgroup(root, &text("proc/self/cgroup"), &mounts),
            network: Network {
                interfaces: interfaces(&text("proc/self/net/dev")),
                route_out: route_v4(&text("proc/self/net/route"))
                    .or_else(|| route_v6(&text("proc/self/net/ipv6_route"))),
            },
            hostname: text("proc/sys/kernel/hostname").trim().to_owned(),
            leaked_descriptors: leaked_descriptors(root),
            umask: field(&status, "Umask").unwrap_or_default().to_owned(),
            limits: limits(&text("proc/self/limits")),
            environment: environment(),
        }
    }

    /// Whose namespace of this kind it is in.
    pub fn whose(&self, kind: &str) -> Whose {
        let found = self.namespaces.iter().find(|namespace| namespace.kind == kind);
        found.map_or(Whose::Unknown, |namespace| namespace.whose)
    }
}

/// One value of `proc_pid_status(5)`.
fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == key).then(|| value.trim())
    })
}

fn user(status: &str, uid_map: &str, gid_map: &str) -> User {
    let numbers = |key: &str| -> Vec<u32> {
        let text = field(status, key).unwrap_or_default();
        text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
    };
    // Of real, effective, saved and file system id the second counts.
    let effective = |key: &str| numbers(key).get(1).copied().unwrap_or_default();
    User {
        uid: effective("Uid"),
        gid: effective("Gid"),
        groups: numbers("Groups"),
        uid_map: id_map(uid_map),
        gid_map: id_map(gid_map),
    }
}

fn id_map(text: &str) -> Vec<IdRange> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(IdRange { inside: next()?, outside: next()?, size: next()? })
    };
    text.lines().filter_map(range).collect()
}

/// Each kind and its first namespace's inode number: ABI since Linux 3.8
/// (include/uapi/linux/nsfs.h, `enum init_ns_ino`).
const NAMESPACES: &[(&str, u64)] = &[
    ("user", 0xEFFF_FFFD),
    ("pid", 0xEFFF_FFFC),
    ("mnt", 0xEFFF_FFF8),
    ("net", 0xEFFF_FFF9),
    ("ipc", 0xEFFF_FFFF),
    ("uts", 0xEFFF_FFFE),
    ("cgroup", 0xEFFF_FFFB),
    ("time", 0xEFFF_FFFA),
];

fn namespaces(root: &Path) -> Vec<Namespace> {
    let release = fs::read_to_string(root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
    let kernel = Kernel::parse(&release);
    let own = namespace_inode(root, "user");
    let listed = NAMESPACES.iter().filter_map(|(kind, first)| {
        let inode = namespace_inode(root, kind)?;
        let path = root.join("proc/self/ns").join(kind);
        let owner = || inside::owning_user_namespace(&path).ok().flatten();
        // mnt and net have their fixed numbers only in recent kernels: certainly in 6.18.
        let fixed = !matches!(*kind, "mnt" | "net") || kernel.at_least(6, 18);
        Some(Namespace { kind, inode, whose: whose(inode, *first, fixed, own, owner) })
    });
    listed.collect()
}

/// `kind:[inode]`, the link's text.
fn namespace_inode(root: &Path, kind: &str) -> Option<u64> {
    let link = fs::read_link(root.join("proc/self/ns").join(kind)).ok()?;
    link.to_str()?.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

/// By number where the number is fixed; else by who owns it: what belongs to a user namespace
/// other than the machine's cannot be the machine's.
fn whose(
    inode: u64,
    first: u64,
    fixed: bool,
    own_user: Option<u64>,
    owner: impl FnOnce() -> Option<u64>,
) -> Whose {
    const FIRST_USER: u64 = 0xEFFF_FFFD;
    if inode == first {
        return Whose::Hosts;
    }
    if fixed {
        return Whose::Private;
    }
    match (owner(), own_user) {
        (Some(owner), Some(own)) if owner == own && own != FIRST_USER => Whose::Private,
        _ => Whose::Unknown,
    }
}

fn visible_processes(root: &Path) -> usize {
    let is_pid = |name: &OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    list(&root.join("proc")).iter().filter(|path| path.file_name().is_some_and(is_pid)).count()
}

/// A directory's entries; none if it cannot be listed.
fn list(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn capabilities(status: &str) -> Capabilities {
    let set = |key: &str| {
        let bits = field(status, key).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        capability_names(bits.unwrap_or(0))
    };
    Capabilities {
        effective: set("CapEff"),
        permitted: set("CapPrm"),
        inheritable: set("CapInh"),
        bounding: set("CapBnd"),
        ambient: set("CapAmb"),
    }
}

/// Without their `CAP_`; a bit newer than this program by its number.
fn capability_names(bits: u64) -> Vec<String> {
    let known = caps::all();
    let name = |bit: u8| match known.iter().find(|cap| cap.index() == bit) {
        Some(cap) => cap.to_string().trim_start_matches("CAP_").to_owned(),
        None => format!("#{bit}"),
    };
    (0..64).filter(|bit| bits >> bit & 1 == 1).map(name).collect()
}

/// AppArmor's own file since Linux 5.8; the older one is shared with SELinux.
fn label(root: &Path) -> Option<String> {
    let files = ["proc/self/attr/apparmor/current", "proc/self/attr/current"];
    files.iter().find_map(|file| {
        let text = fs::read_to_string(root.join(file)).ok()?;
        let label = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        (!label.is_empty()).then(|| label.to_owned())
    })
}

fn dangerous_calls() -> Vec<Tried> {
    let tried = |dangerous: &inside::Dangerous| {
        let outcome = attempt::in_child(|| (dangerous.call)().map_err(|errno| (0, errno)));
        let (outcome, said) = match outcome {
            Ok(Ok(())) => (Outcome::Allowed, format!("could {}", dangerous.power)),
            Ok(Err(refused)) => (call_outcome(refused.cause), refused.to_string()),
            Err(err) => (Outcome::Unknown, err.to_string()),
        };
        Tried { what: dangerous.name.to_owned(), outcome, said }
    };
    inside::DANGEROUS.iter().map(tried).collect()
}

/// A call that the kernel lacks is as good as refused, but no merit of a filter.
fn call_outcome(cause: Cause) -> Outcome {
    match cause {
        Cause::Error(Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT) => Outcome::Absent,
        Cause::Error(_) | Cause::Killed(_) => Outcome::Refused,
    }
}

/// What docker and podman mask, without what only lists hardware.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: &[&str] = &[
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/panic_on_oom",
    "/proc/irq/default_smp_affinity",
    "/proc/fs/xfs/stat",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
    "/sys/fs/cgroup/cgroup.procs",
];

/// Masked means: no such path, refused, or empty (a tmpfs or `/dev/null` lies over it).
fn try_read(root: &Path, path: &str) -> Tried {
    let real = root.join(path.trim_start_matches('/'));
    let readable = || -> io::Result<bool> {
        if fs::metadata(&real)?.is_dir() {
            return Ok(fs::read_dir(&real)?.next().is_some());
        }
        Ok(File::open(&real)?.read(&mut [0])? > 0)
    };
    match readable() {
        Ok(true) => tried(path, Outcome::Allowed, "readable"),
        Ok(false) => tried(path, Outcome::Refused, "empty"),
        Err(err) => refused(path, &err),
    }
}

/// Opens for writing and writes nothing: the open is where the kernel decides.
fn try_write(root: &Path, path: &str) -> Tried {
    let real = root.join(path.trim_start_matches('/'));
    match OpenOptions::new().write(true).open(real) {
        Ok(_) => tried(path, Outcome::Allowed, "writable"),
        Err(err) => refused(path, &err),
    }
}

fn refused(path: &str, err: &io::Error) -> Tried {
    if err.kind() == io::ErrorKind::NotFound {
        return tried(path, Outcome::Absent, "absent");
    }
    tried(path, Outcome::Refused, &crate::error::describe(err))
}

fn tried(what: &str, outcome: Outcome, said: &str) -> Tried {
    Tried { what: what.to_owned(), outcome, said: said.to_owned() }
}

/// The uppermost mount on `/` (`proc_pid_mountinfo(5)`).
fn root_mount(mountinfo: &str) -> Option<Mount> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(4);
        let (point, options) = (fields.next()?, fields.next()?);
        let read_only = options.split(',').any(|option| option == "ro");
        let kind = kind.split(' ').next()?.to_owned();
        (point == "/").then(|| Mount { kind, read_only, options: options.to_owned() })
    };
    mountinfo.lines().filter_map(mount).next_back()
}

fn devices(dir: &Path) -> Vec<Device> {
    let device = |path: &PathBuf| {
        let kind = path.symlink_metadata().ok()?.file_type();
        let name = path.file_name()?.to_string_lossy().into_owned();
        let block = kind.is_block_device();
        (block || kind.is_char_device()).then_some(Device { name, block })
    };
    list(dir).iter().filter_map(device).collect()
}

fn cgroup(root: &Path, own: &str, mountinfo: &str) -> Cgroup {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"));
    // The uppermost; its own root (field 4) may be below the path in a shared namespace.
    let mount = |line: &str| {
        let (place, _) = line.split_once(" - cgroup2 ")?;
        place.split(' ').nth(4).map(str::to_owned)
    };
    let mount = mountinfo.lines().filter_map(mount).next_back();
    let value = |file: &str| {
        let relative = |path: &str| path.trim_start_matches('/').to_owned();
        let dir = root.join(relative(mount.as_deref()?)).join(relative(path?));
        Some(fs::read_to_string(dir.join(file)).ok()?.trim().to_owned())
    };
    Cgroup {
        memory_max: value("memory.max"),
        cpu_max: value("cpu.max"),
        pids_max: value("pids.max"),
        path: path.map(str::to_owned),
    }
}

/// `proc_pid_net(5)`, dev: two heading lines, then `name: counters`.
fn interfaces(text: &str) -> Vec<String> {
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    text.lines().skip(2).filter_map(name).collect()
}

/// A default route: destination and mask 0, flag up (`RTF_UP`, 1) and not reject (0x200).
fn route_v4(text: &str) -> Option<String> {
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let &[interface, destination, _, flags, _, _, _, mask, ..] = &fields[..] else {
            return None;
        };
        let out = leads_out(interface, flags) && destination == "00000000" && mask == "00000000";
        out.then(|| interface.to_owned())
    })
}

/// The same of `ipv6_route`: destination, its prefix length, and at the end flags and interface.
fn route_v6(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let &[destination, length, _, _, _, _, _, _, flags, interface] = &fields[..] else {
            return None;
        };
        let default = destination.bytes().all(|digit| digit == b'0') && length == "00";
        (default && leads_out(interface, flags)).then(|| interface.to_owned())
    })
}

fn leads_out(interface: &str, flags: &str) -> bool {
    const RTF_UP: u32 = 1;
    const RTF_REJECT: u32 = 0x200;
    let flags = u32::from_str_radix(flags, 16).unwrap_or(0);
    interface != "lo" && flags & (RTF_UP | RTF_REJECT) == RTF_UP
}

/// The listing itself holds one open: the descriptor of the directory being listed.
fn leaked_descriptors(root: &Path) -> Vec<String> {
    let dir = root.join("proc/self/fd");
    let own = fs::metadata(&dir).map(|meta| (meta.dev(), meta.ino())).ok();
    let describe = |path: PathBuf| {
        let number: u32 = path.file_name()?.to_str()?.parse().ok()?;
        let target = fs::read_link(&path).ok()?;
        let points_at = fs::metadata(&path).map(|meta| (meta.dev(), meta.ino())).ok();
        let listing = points_at.is_some() && points_at == own;
        (number > 2 && !listing).then(|| format!("{number} -> {}", target.display()))
    };
    list(&dir).into_iter().filter_map(describe).collect()
}

/// Columns are padded with blanks; names hold single ones (`proc_pid_limits(5)`).
fn limits(text: &str) -> Vec<Limit> {
    const TOLD: &[&str] = &[
        "Max open files",
        "Max processes",
        "Max core file size",
        "Max locked memory",
        "Max address space",
    ];
    let limit = |name: &&str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut values = rest.split_whitespace().map(str::to_owned);
        let name = name.trim_start_matches("Max ").to_owned();
        Some(Limit { name, soft: values.next()?, hard: values.next()? })
    };
    TOLD.iter().filter_map(limit).collect()
}

fn environment() -> Vec<String> {
    let mut names: Vec<_> =
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A container's `/proc`, `/sys` and `/dev`, as rootless dhow means to make them.
    fn contained() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("tempdir");
        let files = [
            (
                "proc/self/status",
                "Name:\thello\nUmask:\t0022\nPid:\t1\nNSpid:\t4711\t1\nUid:\t0\t0\t0\t0\n\
                 Gid:\t0\t0\t0\t0\nGroups:\t0 65534 \nCapInh:\t0000000000000000\n\
                 CapPrm:\t00000000800405fb\nCapEff:\t00000000800405fb\n\
                 CapBnd:\t00000000800405fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n\
                 Seccomp:\t2\nSeccomp_filters:\t1\n",
            ),
            (
                "proc/self/uid_map",
                "         0       1000          1\n         1     100000      65536\n",
            ),
            ("proc/self/gid_map", "0 1000 1\n"),
            ("proc/sys/kernel/osrelease", "6.18.1\n"),
            ("proc/sys/kernel/hostname", "3f2a9c81d0e4\n"),
            ("proc/1/status", ""),
            ("proc/77/status", ""),
            (
                "proc/self/mountinfo",
                "22 1 0:21 / / rw,relatime - ext4 /dev/sda rw\n\
                 50 22 0:40 / / ro,nosuid - overlay overlay rw,lowerdir=a\n\
                 51 50 0:41 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw\n",
            ),
            ("proc/self/cgroup", "1:cpu:/\n0::/\n"),
            ("sys/fs/cgroup/memory.max", "67108864\n"),
            ("sys/fs/cgroup/pids.max", "max\n"),
            ("proc/kcore", ""),
            ("proc/interrupts", "CPU0"),
            ("proc/acpi/x", ""),
            ("proc/self/attr/current", "docker-default (enforce)\n\0"),
            ("proc/self/net/dev", "Inter-|\n face |\n    lo: 0 0\n  eth0: 1 2\n"),
            (
                "proc/self/net/route",
                "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU\n\
                 eth0 0000A8C0 00000000 0001 0 0 0 00FFFFFF 0\n\
                 eth0 00000000 0100A8C0 0003 0 0 0 00000000 0\n",
            ),
            (
                "proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max open files            1024                 1048576              files     \n\
                 Max core file size        0                    unlimited            bytes     \n",
            ),
        ];
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, content).expect("write");
        }
        fs::create_dir_all(root.path().join("proc/scsi")).expect("mkdir");
        fs::create_dir_all(root.path().join("proc/self/ns")).expect("mkdir");
        for (kind, number) in
            [("user", 4_026_532_200_u64), ("pid", 4_026_532_203), ("mnt", 0xEFFF_FFF8)]
        {
            let link = root.path().join("proc/self/ns").join(kind);
            symlink(format!("{kind}:[{number}]"), link).expect("symlink");
        }
        root
    }

    #[test]
    fn a_container_is_measured() {
        let root = contained();
        let report = Report::measure(root.path());
        assert_eq!(report.user.uid_outside(), Some(1000));
        assert_eq!(report.user.groups, [0, 65534]);
        assert_eq!(report.pid, Some(1));
        assert_eq!(report.visible_processes, 2);
        assert_eq!(report.whose("user"), Whose::Private);
        assert_eq!(report.whose("pid"), Whose::Private);
        assert_eq!(report.whose("mnt"), Whose::Hosts);
        assert_eq!(report.whose("net"), Whose::Unknown, "no such link");
        assert_eq!(report.capabilities.effective.len(), 11);
        assert_eq!(report.capabilities.effective[0], "CHOWN");
        assert_eq!(report.seccomp, Seccomp { mode: 2, filters: Some(1) });
        assert!(report.no_new_privileges);
        assert_eq!(report.label.as_deref(), Some("docker-default (enforce)"));
        let mount = Mount { kind: "overlay".into(), read_only: true, options: "ro,nosuid".into() };
        assert_eq!(report.root_mount, Some(mount), "the uppermost one");
        assert_eq!(report.cgroup.memory_max.as_deref(), Some("67108864"));
        assert_eq!(report.cgroup.cpu_max, None);
        assert_eq!(report.network.interfaces, ["lo", "eth0"]);
        assert_eq!(report.network.route_out.as_deref(), Some("eth0"));
        assert_eq!(report.hostname, "3f2a9c81d0e4");
        assert_eq!(report.umask, "0022");
        let files =
            Limit { name: "open files".into(), soft: "1024".into(), hard: "1048576".into() };
        assert_eq!(report.limits[0], files);
    }

    #[test]
    fn masks_are_looked_behind() {
        let root = contained();
        let outcome = |path| try_read(root.path(), path).outcome;
        assert_eq!(outcome("/proc/kcore"), Outcome::Refused, "empty file");
        assert_eq!(outcome("/proc/scsi"), Outcome::Refused, "empty directory");
        assert_eq!(outcome("/proc/keys"), Outcome::Absent);
        assert_eq!(outcome("/proc/interrupts"), Outcome::Allowed);
        assert_eq!(outcome("/proc/acpi"), Outcome::Allowed);
        assert_eq!(try_write(root.path(), "/proc/kcore").outcome, Outcome::Allowed);
        assert_eq!(try_write(root.path(), "/proc/sysrq-trigger").outcome, Outcome::Absent);
        assert_eq!(try_write(root.path(), "/proc/scsi").outcome, Outcome::Refused, "a directory");
    }

    #[test]
    fn a_namespace_without_a_fixed_number_is_known_by_its_owner() {
        let own = Some(7);
        assert_eq!(whose(1, 1, false, own, || None), Whose::Hosts);
        assert_eq!(whose(2, 1, true, own, || None), Whose::Private);
        assert_eq!(whose(2, 1, false, own, || Some(7)), Whose::Private);
        assert_eq!(whose(2, 1, false, own, || None), Whose::Unknown);
        let first = Some(0xEFFF_FFFD);
        assert_eq!(whose(2, 1, false, first, || first), Whose::Unknown);
    }

    #[test]
    fn only_a_route_that_leads_out_counts() {
        let reject = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                      00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n";
        assert_eq!(route_v6(reject), None);
        let out = reject.replace("00200200 lo", "00450003 eth0");
        assert_eq!(route_v6(&out).as_deref(), Some("eth0"));
        assert_eq!(route_v4("Iface\nlo 00000000 0 0001 0 0 0 00000000\nx y\n"), None);
    }

    #[test]
    fn an_empty_world_does_not_panic() {
        let root = tempfile::tempdir().expect("tempdir");
        let report = Report::measure(root.path());
        assert_eq!(report.namespaces, []);
        assert!(report.masked.iter().all(|tried| tried.outcome == Outcome::Absent));
        assert_eq!(capability_names(1 << 63), ["#63"]);
    }

    #[test]
    fn an_open_descriptor_is_a_leak_and_the_listing_is_not() {
        let file = tempfile::NamedTempFile::new().expect("tempfile");
        let leaked = leaked_descriptors(Path::new("/"));
        let name = file.path().display().to_string();
        assert!(leaked.iter().any(|leak| leak.ends_with(&name)), "{leaked:?}");
        assert!(!leaked.iter().any(|leak| leak.ends_with("/fd")), "{leaked:?}");
    }
}
