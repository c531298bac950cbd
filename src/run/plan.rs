//! What a launch will do, worked out in full before anything happens.
//!
//! **Invariant:** nothing in this file makes a system call. A plan is a pure function of the
//! bundle, so it can be printed (`--dry-run`), compared and tested without privilege.

use std::{
    ffi::CString,
    path::{Path, PathBuf},
};

use nix::sched::CloneFlags;

use super::{
    fuse::Server,
    hooks,
    options::{self, Parsed},
};
use crate::{
    error::{Context as _, Error, Result},
    oci::runtime::{
        Capabilities, Capability, Linux, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType,
        LinuxPersonalityDomain, PosixRlimitType, Process, Spec,
    },
    overlay::{Part, Stack},
    security::{caps, seccomp},
    state::record::Around,
    sys::{
        mount::Attributes,
        user::{IdMaps, IdRange},
    },
};

/// One container start, decided. Both sides of the fork hold the same copy, so init can report
/// "mount 2" and the engine knows which mount that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Namespaces made by the clone; never the cgroup namespace (see `new_cgroup_namespace`).
    pub namespaces: CloneFlags,
    /// Unshared by init once it is in its cgroup, which then is the namespace's root
    /// (cgroup_namespaces(7)).
    pub new_cgroup_namespace: bool,
    /// Existing namespaces to join first.
    pub join: Vec<Join>,
    /// The user namespace that the container's own is made in, if that is not the caller's; the
    /// maps are in its terms.
    pub parent: Option<PathBuf>,
    /// Present when a user namespace is made.
    pub maps: Option<IdMaps>,
    /// The user namespace is there before init is, and what is the host's is shown with its ids:
    /// only root can, and root's layers need no copies so. The host's ids of its root.
    pub shifts: Option<(u32, u32)>,
    pub rootfs: Rootfs,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub masked: Vec<PathBuf>,
    pub read_only: Vec<PathBuf>,
    pub read_only_rootfs: bool,
    /// Device nodes in the root file system open for nobody.
    pub no_devices: bool,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Path below `/proc/sys` and value.
    pub sysctls: Vec<(String, String)>,
    pub process: ProcessPlan,
    /// Programs of the host's that are run on the way.
    pub around: Option<Around>,
    /// dhow's own executable could be written from inside, so the command is started from a
    /// read-only view of it.
    pub protect_exe: bool,
    /// Init waits, when everything but the process itself is done, to be let go once more.
    pub held: bool,
    /// Test hook: pretend this step failed with EIO.
    pub fail_at: Option<Step>,
}

/// A namespace that exists already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    pub kind: CloneFlags,
    /// `/proc/PID/ns/KIND`.
    pub path: PathBuf,
}

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// An overlay, mounted on `target` in the container's mount namespace only.
    Overlay { stack: Stack, target: PathBuf },
    /// The same, shown by `fuse-overlayfs`.
    Fuse { stack: Stack, target: PathBuf, server: Server },
    /// A directory that is complete already.
    Directory(PathBuf),
}

impl Rootfs {
    /// The same stack, shown by a server.
    #[must_use]
    pub fn served_by(self, server: Server) -> Self {
        match self {
            Self::Overlay { stack, target } => Self::Fuse { stack, target, server },
            other @ (Self::Fuse { .. } | Self::Directory(_)) => other,
        }
    }

    /// Whether the kernel syncs the whole file system beneath before it is gone.
    pub fn is_synced(&self) -> bool {
        matches!(self, Self::Overlay { stack, .. } if !stack.volatile)
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Overlay { target, .. } | Self::Fuse { target, .. } => target,
            Self::Directory(path) => path,
        }
    }
}

/// One mount inside the rootfs, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute, inside the container.
    pub target: PathBuf,
    pub what: MountSource,
    pub attributes: Attributes,
    /// Apply the attributes to submounts as well.
    pub recursive: bool,
    /// Apply the propagation to submounts as well.
    pub spreads: bool,
    /// Left out where its target is not there and cannot be made.
    pub optional: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    Fresh {
        kind: CString,
        source: CString,
        options: Vec<(String, Option<String>)>,
        /// It begins with what is at the target.
        copy_up: bool,
    },
    Overlay(Part),
    /// What is mounted at the same place in another container, by its mount namespace.
    Shared {
        namespace: PathBuf,
    },
    Bind {
        source: PathBuf,
        /// What of it, resolved beneath it.
        beneath: Option<String>,
        recursive: bool,
        /// With the ids of the container's user namespace.
        shifts: bool,
        /// If it is a symbolic link, one like it is made.
        copies_link: bool,
        /// With these ids: those on disk are inside, the host's that they become are outside.
        ids: Option<IdMaps>,
    },
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub target: PathBuf,
    pub what: DeviceSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSource {
    /// `mknod(2)`: needs the initial user namespace.
    Node { kind: LinuxDeviceType, major: u32, minor: u32, mode: u32, uid: u32, gid: u32 },
    /// The host's node, bound: all a user namespace can have.
    Bind { source: PathBuf },
}

/// Everything done to the process itself, after the root file system is in place. The same for
/// a container's command and for `exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessPlan {
    /// Where the program may be, in PATH's order.
    pub programs: Vec<CString>,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: CString,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    pub capabilities: CapabilityMasks,
    pub no_new_privileges: bool,
    /// BPF instructions, each packed into a number (code, jt, jf, k from the top down); `None`
    /// is unconfined.
    pub seccomp: Option<Vec<u64>>,
    /// Resource number, soft and hard limit (`setrlimit(2)`).
    pub rlimits: Vec<(u32, u64, u64)>,
    pub oom_score_adj: Option<i32>,
    pub apparmor: Option<String>,
    pub terminal: bool,
    /// Columns and rows of a new terminal; 0 leaves the kernel's.
    pub window: (u16, u16),
    /// Setgroups is denied in this user namespace, so the groups stay as they are.
    pub keep_groups: bool,
    /// `personality(2)`.
    pub personality: Option<u32>,
    /// Absorbs changes of owner; packed like `seccomp`.
    pub ownership: Option<Vec<u64>>,
    /// Stay as pid 1, reap, and pass signals on to the command.
    pub init: bool,
    /// Descriptors that the command gets besides the standard streams, by these numbers.
    pub preserve: Vec<i32>,
}

impl ProcessPlan {
    /// For a process in a user namespace that maps one id only.
    pub fn live_with_a_single_id(&mut self, has_seccomp: bool) -> Result<()> {
        self.keep_groups = true;
        if has_seccomp {
            self.ownership = Some(seccomp::absorb_ownership()?.iter().map(pack).collect());
        }
        Ok(())
    }
}

/// The five sets (capabilities(7)), one bit a capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilityMasks {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl CapabilityMasks {
    /// Docker's sets; see [`capability_sets`](super::spec::capability_sets).
    pub fn of(bounding: caps::CapSet, uid: u32) -> Self {
        let bounding = bounding.bits();
        let usable = if uid == 0 { bounding } else { 0 };
        Self { bounding, effective: usable, permitted: usable, inheritable: 0, ambient: 0 }
    }
}

/// Init's steps, in the order they are taken. Sent over the handshake by number, so the order
/// here is the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    SetScore,
    JoinNamespaces,
    ShowIds,
    NewSession,
    NewCgroupNamespace,
    RaiseLoopback,
    DetachMounts,
    BecomeRoot,
    MountRootfs,
    Mount,
    Device,
    Hook,
    OpenTerminal,
    Sysctl,
    MaskPath,
    ReadOnlyPath,
    MakeWorkdir,
    PivotRoot,
    SetHostname,
    SetDomainname,
    RestrictRootfs,
    ProtectExecutable,
    SetLimits,
    SetPersonality,
    NewKeyring,
    SetAppArmor,
    CloseDescriptors,
    ChangeDirectory,
    DropBounding,
    SetGroups,
    SetUser,
    SetCapabilities,
    LockPrivileges,
    InstallSeccomp,
    Exec,
}

impl Step {
    pub const ALL: [Self; 35] = [
        Self::SetScore,
        Self::JoinNamespaces,
        Self::ShowIds,
        Self::NewSession,
        Self::NewCgroupNamespace,
        Self::RaiseLoopback,
        Self::DetachMounts,
        Self::BecomeRoot,
        Self::MountRootfs,
        Self::Mount,
        Self::Device,
        Self::Hook,
        Self::OpenTerminal,
        Self::Sysctl,
        Self::MaskPath,
        Self::ReadOnlyPath,
        Self::MakeWorkdir,
        Self::PivotRoot,
        Self::SetHostname,
        Self::SetDomainname,
        Self::RestrictRootfs,
        Self::ProtectExecutable,
        Self::SetLimits,
        Self::SetPersonality,
        Self::NewKeyring,
        Self::SetAppArmor,
        Self::CloseDescriptors,
        Self::ChangeDirectory,
        Self::DropBounding,
        Self::SetGroups,
        Self::SetUser,
        Self::SetCapabilities,
        Self::LockPrivileges,
        Self::InstallSeccomp,
        Self::Exec,
    ];

    /// The step of this name, as `{:?}` prints it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| format!("{step:?}") == name)
    }

    pub(super) fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl Plan {
    /// Reads a spec into system calls. `stack` is the overlay for `root.path`, if it has one.
    pub fn new(spec: &Spec, bundle: &Path, stack: Option<Stack>) -> Result<Self> {
        let linux =
            spec.linux().as_ref().ok_or_else(|| Error::invalid("the spec has no linux part"))?;
        let root = spec.root().as_ref().ok_or_else(|| Error::invalid("the spec has no root"))?;
        let process =
            spec.process().as_ref().ok_or_else(|| Error::invalid("the spec has no process"))?;
        let (namespaces, new_cgroup_namespace, join) = namespaces(spec)?;
        let maps = namespaces.contains(CloneFlags::CLONE_NEWUSER).then(|| IdMaps {
            uid: ranges(linux.uid_mappings().as_deref()),
            gid: ranges(linux.gid_mappings().as_deref()),
        });
        let joins_one = join.iter().any(|join| join.kind == CloneFlags::CLONE_NEWUSER);
        let in_user_namespace = maps.is_some() || joins_one;
        let target = bundle.join(root.path());
        let paths = |list: &Option<Vec<String>>| -> Vec<PathBuf> {
            list.iter().flatten().map(PathBuf::from).collect()
        };
        Ok(Self {
            namespaces,
            new_cgroup_namespace,
            join,
            parent: None,
            shifts: None,
            rootfs: match stack {
                Some(stack) => Rootfs::Overlay { stack, target },
                None => Rootfs::Directory(target),
            },
            mounts: spec.mounts().iter().flatten().map(mount).collect::<Result<_>>()?,
            devices: devices(spec, in_user_namespace),
            masked: paths(linux.masked_paths()),
            read_only: paths(linux.readonly_paths()),
            read_only_rootfs: root.readonly().unwrap_or(false),
            no_devices: false,
            hostname: spec.hostname().clone(),
            domainname: spec.domainname().clone(),
            sysctls: sysctls(linux.sysctl().as_ref()),
            process: process_plan(process, linux)?,
            around: hooks::of(spec, bundle),
            protect_exe: true,
            held: false,
            maps,
            fail_at: None,
        })
    }

    /// Shows the shared memory of the container whose IPC namespace is joined, by that one's path.
    pub fn share_memory(&mut self, ipc: &Path) {
        let place = Path::new("/dev/shm");
        let own = self
            .mounts
            .iter_mut()
            .find(|mount| mount.target == place && matches!(mount.what, MountSource::Fresh { .. }));
        if let Some(mount) = own {
            mount.what = MountSource::Shared { namespace: ipc.with_file_name("mnt") };
        }
    }

    /// Whether a process goes ahead into other namespaces, and makes init there.
    pub fn goes_ahead(&self) -> bool {
        !self.join.is_empty() || self.parent.is_some() || self.shifts.is_some()
    }

    /// Whether init is in such a namespace that is not the caller's.
    pub fn makes_or_joins(&self, kind: CloneFlags) -> bool {
        self.namespaces.contains(kind) || self.join.iter().any(|join| join.kind == kind)
    }
}

fn namespaces(spec: &Spec) -> Result<(CloneFlags, bool, Vec<Join>)> {
    let (mut new, mut cgroup, mut join) = (CloneFlags::empty(), false, Vec::new());
    let linux = spec.linux().as_ref();
    for namespace in linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten() {
        let kind = clone_flag(namespace.typ())?;
        match namespace.path() {
            Some(path) => join.push(Join { kind, path: path.clone() }),
            None if kind == CloneFlags::CLONE_NEWCGROUP => cgroup = true,
            None => new |= kind,
        }
    }
    if !new.contains(CloneFlags::CLONE_NEWNS) {
        return Err(Error::invalid("the spec asks for no mount namespace of its own"));
    }
    // setns(2): capabilities over the other namespaces come with the user namespace.
    join.sort_by_key(|join| join.kind != CloneFlags::CLONE_NEWUSER);
    Ok((new, cgroup, join))
}

/// The flag of `clone(2)` and `setns(2)` for a namespace of the spec.
pub fn clone_flag(kind: LinuxNamespaceType) -> Result<CloneFlags> {
    Ok(match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => {
            return Err(Error::unsupported("time namespaces are not supported yet"));
        }
    })
}

fn ranges(mappings: Option<&[LinuxIdMapping]>) -> Vec<IdRange> {
    let range = |m: &LinuxIdMapping| IdRange {
        inside: m.container_id(),
        outside: m.host_id(),
        size: m.size(),
    };
    mappings.unwrap_or_default().iter().map(range).collect()
}

fn mount(mount: &crate::oci::runtime::Mount) -> Result<Mount> {
    let target = mount.destination().clone();
    if !target.is_absolute() {
        return Err(Error::invalid(format!("mount destination {} is relative", target.display())));
    }
    let none = Vec::new();
    let parsed: Parsed = options::parse(mount.options().as_ref().unwrap_or(&none));
    let kind = mount.typ().as_deref().unwrap_or("bind");
    let what = if kind == "bind" || parsed.bind {
        let source = mount.source().clone();
        MountSource::Bind {
            source: source.ok_or_else(|| {
                Error::invalid(format!("bind mount on {} has no source", target.display()))
            })?,
            beneath: parsed.beneath,
            recursive: parsed.recursive_bind,
            shifts: parsed.shifts,
            copies_link: parsed.copies_link,
            ids: mount.uid_mappings().is_some().then(|| IdMaps {
                uid: ranges(mount.uid_mappings().as_deref()),
                gid: ranges(mount.gid_mappings().as_deref()),
            }),
        }
    } else if kind == "overlay" {
        MountSource::Overlay(overlay(&parsed))
    } else {
        let source = mount.source().as_deref().unwrap_or(Path::new(kind));
        let source = c_string(&source.to_string_lossy())?;
        MountSource::Fresh {
            kind: c_string(kind)?,
            source,
            options: parsed.data,
            copy_up: parsed.copy_up,
        }
    };
    Ok(Mount {
        target,
        what,
        attributes: parsed.attributes,
        recursive: parsed.recursive,
        spreads: parsed.spreads && parsed.recursive_bind,
        optional: parsed.optional,
    })
}

/// The directories that overlayfs is told of (filesystems/overlayfs.rst), by paths.
fn overlay(parsed: &Parsed) -> Part {
    let get = |wanted: &str| {
        let found = parsed.data.iter().find(|(key, _)| key == wanted);
        found.map(|(_, value)| value.clone().unwrap_or_default())
    };
    Part {
        lowers: options::split_lowers(&get("lowerdir").unwrap_or_default()),
        upper: get("upperdir").zip(get("workdir")).map(|(upper, work)| (upper.into(), work.into())),
        beneath: parsed.beneath.clone(),
        user_xattr: get("userxattr").is_some(),
        volatile: get("volatile").is_some(),
    }
}

/// The nodes every container has (runtime-spec config-linux.md, "Default Devices"), then the
/// spec's. In a user namespace `mknod(2)` is refused for all but whiteouts, so they are bound.
fn devices(spec: &Spec, in_user_namespace: bool) -> Vec<Device> {
    const DEFAULT: [(&str, u32, u32); 6] = [
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/full", 1, 7),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
        ("/dev/tty", 5, 0),
    ];
    let node = |major, minor, mode| DeviceSource::Node {
        kind: LinuxDeviceType::C,
        major,
        minor,
        mode,
        uid: 0,
        gid: 0,
    };
    let default = DEFAULT.iter().map(|(path, major, minor)| Device {
        target: path.into(),
        what: if in_user_namespace {
            DeviceSource::Bind { source: path.into() }
        } else {
            node(*major, *minor, 0o666)
        },
    });
    let linux = spec.linux().as_ref();
    let own = linux.and_then(|linux| linux.devices().as_ref()).into_iter().flatten();
    let own = own.map(|device| Device {
        target: device.path().clone(),
        what: DeviceSource::Node {
            kind: device.typ(),
            major: u32::try_from(device.major()).unwrap_or(0),
            minor: u32::try_from(device.minor()).unwrap_or(0),
            mode: device.file_mode().unwrap_or(0o660),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        },
    });
    default.chain(own).collect()
}

fn sysctls(map: Option<&std::collections::HashMap<String, String>>) -> Vec<(String, String)> {
    let mut list: Vec<_> =
        map.into_iter().flatten().map(|(key, value)| (sysctl_path(key), value.clone())).collect();
    list.sort();
    list
}

/// `net.ipv4.ip_forward` and `net/ipv4/ip_forward` are the same file; with slashes, dots
/// belong to names (sysctl(8)).
fn sysctl_path(key: &str) -> String {
    if key.contains('/') { key.to_owned() } else { key.replace('.', "/") }
}

/// `linux/personality.h`: the machine's name is that of its 32-bit kin.
const PER_LINUX32: u32 = 8;

/// What is done to a process: shared by a container's command and `exec`.
pub fn process_plan(process: &Process, linux: &Linux) -> Result<ProcessPlan> {
    let seccomp_profile = linux.seccomp().as_ref();
    let args = process.args().as_ref().filter(|args| !args.is_empty());
    let args = args.ok_or_else(|| {
        Error::invalid("no command specified")
            .hint("the image has no CMD or ENTRYPOINT: name a command after the image")
    })?;
    let env = process.env().clone().unwrap_or_default();
    let user = process.user();
    Ok(ProcessPlan {
        programs: programs(&args[0], &env)?,
        argv: c_strings(args)?,
        env: c_strings(&env)?,
        cwd: c_string(&process.cwd().to_string_lossy())?,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: masks(process.capabilities().as_ref()),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        seccomp: seccomp_profile
            .map(|profile| seccomp::compile(profile).doing("compile the seccomp profile"))
            .transpose()?
            .map(|program| program.iter().map(pack).collect()),
        rlimits: process
            .rlimits()
            .iter()
            .flatten()
            .map(|limit| (rlimit_number(limit.typ()), limit.soft(), limit.hard()))
            .collect(),
        oom_score_adj: process.oom_score_adj(),
        apparmor: process.apparmor_profile().clone().filter(|name| !name.is_empty()),
        terminal: process.terminal().unwrap_or(false),
        window: process.console_size().map_or((0, 0), |size| {
            let cell = |n: u64| u16::try_from(n).unwrap_or(0);
            (cell(size.width()), cell(size.height()))
        }),
        keep_groups: false,
        personality: linux.personality().as_ref().map(|personality| match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
        }),
        preserve: Vec::new(),
        ownership: None,
        init: false,
    })
}

fn pack(instruction: &seccomp::Instruction) -> u64 {
    u64::from(instruction.code) << 48
        | u64::from(instruction.jt) << 40
        | u64::from(instruction.jf) << 32
        | u64::from(instruction.k)
}

/// execvp(3)'s candidates, made here so that the child only has to try them.
pub fn programs(name: &str, env: &[String]) -> Result<Vec<CString>> {
    if name.is_empty() {
        return Err(Error::new(crate::error::Kind::NoCommand, "the command's name is empty"));
    }
    if name.contains('/') {
        return Ok(vec![c_string(name)?]);
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
    path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| c_string(&format!("{}/{name}", dir.trim_end_matches('/'))))
        .collect()
}

fn masks(capabilities: Option<&oci_spec::runtime::LinuxCapabilities>) -> CapabilityMasks {
    let Some(sets) = capabilities else { return CapabilityMasks::default() };
    let mask = |set: &Option<Capabilities>| -> u64 {
        set.iter().flatten().map(|cap: &Capability| 1 << caps::number(*cap)).sum()
    };
    CapabilityMasks {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    }
}

#[allow(
    clippy::cast_sign_loss,
    clippy::unnecessary_cast,
    reason = "their type is the C library's choice"
)]
fn rlimit_number(kind: PosixRlimitType) -> u32 {
    let number = match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    number as u32
}

pub fn c_strings(texts: &[String]) -> Result<Vec<CString>> {
    texts.iter().map(|text| c_string(text)).collect()
}

/// As the kernel takes it; an error if a NUL is in it.
pub fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{text:?} contains a NUL byte")))
}
