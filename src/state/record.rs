//! What is on disk. A stored record is read by every later version: fields are added with a
//! default, never renamed or given another meaning.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    egress::EgressPolicy,
    health::{HealthCheck, HealthLog, OnFailure, StartupCheck},
    name::ContainerId,
    network::{Carrier, NetworkChoice, PortRecord},
    restart::RestartPolicy,
};
use crate::{
    error::{Error, Result},
    oci::Digest,
    sys::user::{IdMaps, IdRange},
};

/// `containers/<id>/container.json`: what the user asked for, image defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// For a step of a build: it is not one of the user's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildRecord>,
    pub id: ContainerId,
    pub name: String,
    pub created: Timestamp,
    /// The image as it was typed, completed: `docker.io/library/alpine:latest`.
    pub image: String,
    pub image_id: Digest,
    /// The image's layers, bottom first, by chainID.
    pub layers: Vec<Digest>,
    /// How its root file system was made, which it stays for life.
    #[serde(default)]
    pub storage: Storage,
    pub config: ContainerConfig,
    pub host: HostConfig,
}

impl ContainerRecord {
    /// The directory of the host's that is its root file system itself.
    pub fn own_directory(&self) -> Option<&Path> {
        let rootfs = self.host.special.rootfs.as_ref();
        rootfs.filter(|rootfs| !rootfs.overlay).map(|rootfs| rootfs.path.as_path())
    }

    /// Whether its root file system is an overlay.
    pub fn is_stacked(&self) -> bool {
        self.storage != Storage::Copy && self.own_directory().is_none()
    }
}

/// How a container's root file system is made of layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// The kernel's overlayfs.
    #[default]
    Native,
    /// `fuse-overlayfs(1)`, a process beside the container.
    Fuse,
    /// A full copy of the layers.
    Copy,
}

impl Storage {
    /// Reads dhow's own names and those of docker's and podman's storage drivers.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "native" | "overlay" | "overlay2" => Ok(Self::Native),
            "fuse" | "fuse-overlayfs" => Ok(Self::Fuse),
            "copy" | "vfs" => Ok(Self::Copy),
            other => Err(Error::invalid(format!("unknown storage driver {other:?}"))
                .hint("there are overlay, fuse-overlayfs and vfs (in DHOW_STORAGE also native, fuse and copy)")),
        }
    }

    /// Docker's name for it.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Native => "overlay2",
            Self::Fuse => "fuse-overlayfs",
            Self::Copy => "vfs",
        }
    }
}

/// What a container is to the build that it works for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// The lowerdirs, topmost first: some of the layers may not be in their place yet.
    pub lowers: Vec<PathBuf>,
    pub boot_id: String,
    pub builder: ProcessIdentity,
    /// Files of other images and stages that the step sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<LayersMount>,
}

/// `RUN --mount=type=bind`: layers shown together; what is written there is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayersMount {
    /// Topmost first.
    pub lowers: Vec<PathBuf>,
    /// What of them, resolved beneath them.
    pub source: String,
    /// Absolute, inside the container.
    pub target: String,
    pub read_only: bool,
}

/// The process: what Docker calls `Config`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `KEY=VALUE`, image's first, then the user's; later wins.
    pub env: Vec<String>,
    /// As typed: `user[:group]`, names or numbers. Empty is the image's root.
    pub user: String,
    pub working_dir: String,
    pub hostname: String,
    pub domainname: String,
    pub tty: bool,
    pub open_stdin: bool,
    /// Streams the creating command was attached to: subset of `stdin`, `stdout`, `stderr`.
    pub attach: Vec<String>,
    /// A name or number as the image or user gave it, e.g. `SIGTERM`. Empty is SIGTERM.
    pub stop_signal: String,
    /// Seconds between the stop signal and SIGKILL; `None` is 10, -1 waits for ever.
    pub stop_timeout: Option<i64>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// How it is told whether the container does its work; the image's, with what was typed.
    pub health: Option<HealthCheck>,
    pub exposed_ports: Vec<String>,
    /// Volume paths the image declares.
    pub volumes: Vec<String>,
}

/// Everything else: what Docker calls `HostConfig`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    pub mounts: Vec<MountRecord>,
    /// What was typed behind `run` or `create`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub typed: Vec<String>,
    /// `--volumes-from`, as it was written; what it gave is among the mounts.
    pub volumes_from: Vec<String>,
    pub read_only: bool,
    /// Bytes; `None` is 64 MiB.
    pub shm_size: Option<u64>,
    pub init: bool,
    pub ulimits: Vec<Ulimit>,
    pub sysctls: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    /// `--device-cgroup-rule`, as it was written.
    pub device_rules: Vec<String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security: SecurityOptions,
    pub privileged: bool,
    pub namespaces: NamespaceModes,
    pub group_add: Vec<String>,
    pub resources: Resources,
    /// Empty: dhow's own place.
    pub cgroup_parent: String,
    pub auto_remove: bool,
    pub restart: RestartPolicy,
    /// What happens when it becomes unhealthy.
    pub health_on_failure: OnFailure,
    pub log: LogConfig,
    pub oom_score_adj: Option<i32>,
    /// Where `--cidfile` wrote the id, so that inspect can say so.
    pub cid_file: Option<PathBuf>,
    /// Where it may go besides what its networks say; `None` is anywhere.
    pub egress: Option<EgressPolicy>,
    /// Networks of a container whose network mode is `Private`; none named is the default one.
    pub networks: Vec<NetworkChoice>,
    pub ports: Vec<PortRecord>,
    /// Publish exposed ports, too.
    pub publish_all: bool,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// `NAME:ADDRESS`, as typed.
    pub extra_hosts: Vec<String>,
    /// What is seldom asked for.
    #[serde(skip_serializing_if = "Special::is_nothing")]
    pub special: Special,
}

/// What is seldom asked for, so that a usual record has not a word of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Special {
    pub umask: Option<u32>,
    /// Seconds after which it is killed.
    pub timeout: Option<u32>,
    /// A file below the host's zoneinfo, or `local`.
    pub time_zone: Option<String>,
    /// `/etc/hostname` is the image's.
    pub no_hostname: bool,
    /// `/etc/hosts` is the image's.
    pub no_hosts: bool,
    /// What `/etc/hosts` begins with: a path, `image` or `none`.
    pub hosts_file: Option<String>,
    /// Its user gets a line in `/etc/passwd` if the image has none for it.
    pub passwd: bool,
    /// The line itself, with `$UID` and the like.
    pub passwd_entry: Option<String>,
    pub group_entry: Option<String>,
    /// A program of the host that is pid 1.
    pub init_path: Option<PathBuf>,
    /// Where the pids of the command and of the monitor are written.
    pub pid_file: Option<PathBuf>,
    pub monitor_pid_file: Option<PathBuf>,
    /// Containers that are started before.
    pub requires: Vec<ContainerId>,
    /// CDI devices, by name; what they gave is among devices, mounts and variables.
    pub cdi: Vec<String>,
    /// dhow tells systemd when it runs.
    pub notify: bool,
    /// dhow tells systemd when it is healthy.
    pub notify_healthy: bool,
    /// What is run before its health check.
    pub startup: Option<StartupCheck>,
    pub health_log: HealthLog,
    /// Programs of the host's that are run around its life.
    pub hooks: Hooks,
    /// It has no cgroup of its own.
    pub no_cgroup: bool,
    /// Its cgroup is within the one of who starts it, which is divided.
    pub split_cgroup: bool,
    /// Whether its command is a systemd, which makes cgroups.
    pub systemd: SystemdMode,
    /// Copies of them are with the container, in this order.
    pub secrets: Vec<SecretGrant>,
    /// It is made of no image, but of a directory of the host's.
    pub rootfs: Option<RootDirectory>,
    /// Bytes that its files may take beyond those of its image.
    pub size_limit: Option<u64>,
    /// Its image goes with it.
    pub removes_image: bool,
    /// `LINUX` or `LINUX32`: `personality(2)`.
    pub personality: Option<String>,
    /// Lines of the host's `/etc/passwd` that it gets.
    pub host_users: Vec<String>,
    /// Directories inside that get `/etc/hosts` and its like, too.
    pub chroot_dirs: Vec<String>,
    /// Bytes of each tmpfs that a systemd gets.
    pub systemd_size: Option<u64>,
    /// `mount` has mounted its overlay, and as long as that is there a start uses it.
    pub mounted: bool,
}

/// Programs of the host's, by when they are run (OCI runtime-spec, config.md, "POSIX-platform
/// Hooks").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// Here, when the container's root file system is complete and not entered yet: `prestart` and
    /// `createRuntime`.
    pub create_runtime: Vec<Hook>,
    /// Then, in the container's namespaces.
    pub create_container: Vec<Hook>,
    /// When the command runs.
    pub poststart: Vec<Hook>,
    /// When it has ended.
    pub poststop: Vec<Hook>,
}

impl Hooks {
    pub fn is_empty(&self) -> bool {
        [&self.create_runtime, &self.create_container, &self.poststart, &self.poststop]
            .iter()
            .all(|hooks| hooks.is_empty())
    }
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// The program's name among them.
    pub args: Vec<String>,
    /// All of its environment.
    pub env: Vec<String>,
    /// Seconds; `None` is as long as it takes.
    pub timeout: Option<u32>,
}

/// What is run around one container's life, and what it is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Around {
    pub hooks: Hooks,
    pub id: String,
    pub bundle: PathBuf,
    pub annotations: BTreeMap<String, String>,
}

/// `--systemd`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SystemdMode {
    #[default]
    Never,
    /// If the command looks like one.
    IfCommand,
    Always,
}

/// `--rootfs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDirectory {
    pub path: PathBuf,
    /// What is written lies over it, with the container.
    pub overlay: bool,
    /// Shown with the ids of a user namespace of root's.
    pub shifts: bool,
}

/// One `--secret`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretGrant {
    /// The secret's, when the container was created.
    pub id: String,
    pub name: String,
    pub shown: SecretShown,
}

/// How a container sees a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum SecretShown {
    Mount {
        /// Absolute, inside the container.
        target: String,
        /// Inside the container.
        uid: u32,
        gid: u32,
        mode: u32,
    },
    /// A variable of this name.
    Env { name: String },
}

impl Special {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// One `-v`, `--mount` or `--tmpfs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountRecord {
    pub kind: MountKind,
    /// Absolute, inside the container.
    pub target: String,
    pub read_only: bool,
    /// Extra options in mount(8)'s words, e.g. `noexec`, `rshared`, `size=64m`, `mode=1777`.
    #[serde(default)]
    pub options: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum MountKind {
    Bind {
        /// Absolute, on the host.
        source: PathBuf,
        /// `-v` creates a missing source directory (as docker does), `--mount` refuses.
        #[serde(default)]
        create: bool,
    },
    Volume(VolumeMount),
    Tmpfs,
    /// A file system in memory that has no limit.
    Ramfs,
    /// Pseudo-terminals.
    Devpts,
    Image(ImageMount),
}

/// The files of an image. What is written to them goes with the container's end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageMount {
    /// As typed.
    pub name: String,
    /// What it meant when the container was created.
    pub id: Option<Digest>,
    /// ChainIDs of the image's layers, lowest first.
    pub layers: Vec<Digest>,
    /// What of the image is mounted; empty is all of it.
    pub subpath: String,
}

/// A volume, as a container has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    /// Empty until the container is created, for one that nobody named.
    pub name: String,
    /// Nobody named it: it goes with the container.
    pub anonymous: bool,
    pub origin: VolumeOrigin,
    /// What the image has at the target is not copied into it.
    pub no_copy: bool,
    /// What of the volume is mounted; empty is all of it.
    pub subpath: String,
    /// What it is made with if it is not there.
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

/// Who asked for a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeOrigin {
    /// `-v`
    #[default]
    Short,
    /// `--mount`
    Long,
    /// The image's `VOLUME`.
    Image,
    /// `--volumes-from`
    From,
}

/// `volumes/<name>/volume.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub name: String,
    pub created: Timestamp,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `type`, `device` and `o`, as they were written.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Nobody named it.
    #[serde(default)]
    pub anonymous: bool,
}

/// `setrlimit(2)` values; `u64::MAX` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Docker's name: `nofile`, `nproc`, ...
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host: PathBuf,
    pub container: String,
    /// Subset of `rwm`.
    pub permissions: String,
    /// Of the node in the container, instead of the host's: what a CDI specification says. An
    /// ordinary user's containers have the host's node itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityOptions {
    pub no_new_privileges: bool,
    pub seccomp: SeccompChoice,
    /// An AppArmor profile's name, or `unconfined`.
    pub apparmor: Option<String>,
    /// SELinux label options as typed (`type:x_t`, `disable`, ...).
    pub label: Vec<String>,
    /// Paths to mask besides the defaults.
    pub mask: Vec<String>,
    /// Paths not to mask or make read-only; `ALL` is all of them.
    pub unmask: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompChoice {
    #[default]
    Default,
    Unconfined,
    /// The profile's JSON, copied in when the container was created.
    Profile(String),
}

/// How each namespace is made. An empty container part of `Container` never occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceModes {
    pub user: UserMode,
    pub pid: Mode,
    pub ipc: Mode,
    pub uts: Mode,
    pub cgroup: Mode,
    pub network: Mode,
}

impl Default for NamespaceModes {
    fn default() -> Self {
        Self {
            user: UserMode::Default,
            pid: Mode::Private,
            ipc: Mode::Private,
            uts: Mode::Private,
            cgroup: Mode::Private,
            network: Mode::None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A new namespace.
    Private,
    /// A new network namespace with nothing but loopback.
    None,
    /// The host's.
    Host,
    /// Another container's.
    Container(ContainerId),
    /// One that a file stands for, `/proc/PID/ns/KIND` or a mount of it.
    Path(PathBuf),
    /// A new network namespace that a program connects to the world.
    Program(Carrier),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserMode {
    /// Rootless: the caller is root, subordinate ids follow. Rootful: the host's.
    #[default]
    Default,
    Host,
    /// The caller keeps their own ids inside.
    KeepId {
        uid: Option<u32>,
        gid: Option<u32>,
        /// Ids from this one on are not mapped, but for the caller's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u32>,
    },
    /// The caller's own id is not mapped at all.
    Nomap,
    /// Ids that no other container has; chosen when the container is created.
    Auto(AutoIds),
    /// These.
    Own {
        /// What was asked for: `auto`, or `private` if it was these.
        typed: String,
        maps: IdMaps,
    },
    /// Another container's.
    Container(ContainerId),
    /// The user namespace at this path.
    Path(PathBuf),
}

/// `--userns auto:...`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoIds {
    pub size: Option<u32>,
    /// Mapped whatever is chosen; `outside` counts the ids of the usual maps.
    pub uid: Vec<IdRange>,
    pub gid: Vec<IdRange>,
}

/// Limits in docker's units. `None` is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes of memory *and* swap; -1 is unlimited swap (docker's meaning).
    pub memory_swap: Option<i64>,
    /// Bytes.
    pub memory_reservation: Option<u64>,
    /// Billionths of a CPU (docker's `NanoCpus`).
    pub nano_cpus: Option<u64>,
    /// 2 to 262144, default 1024.
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; negative is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Negative or zero as typed is stored as `None`.
    pub pids_limit: Option<i64>,
    /// 10 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blkio_weight: Option<u16>,
    /// The same for single devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blkio_weight_device: Vec<DeviceLimit>,
    /// Bytes a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_read_bps: Vec<DeviceLimit>,
    /// Bytes a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_write_bps: Vec<DeviceLimit>,
    /// Operations a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_read_iops: Vec<DeviceLimit>,
    /// Operations a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_write_iops: Vec<DeviceLimit>,
    /// Files of the container's cgroup and what is written into them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unified: BTreeMap<String, String>,
}

/// A limit on one block device of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimit {
    pub path: PathBuf,
    pub value: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    pub driver: LogDriver,
    /// Bytes after which the log is rotated; `None` never.
    pub max_size: Option<u64>,
    /// How many log files are kept, the current one included.
    pub max_file: u32,
    /// Files that are full are packed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub compress: bool,
    /// Where the log is, if not in the container's directory. Absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// What the log does not take at once is lost to it (docker's `mode=non-blocking`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub non_blocking: bool,
    /// Bytes that may wait then (docker's `max-buffer-size`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_buffer: Option<u64>,
    /// `--log-opt`, as it was written.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            driver: LogDriver::default(),
            max_size: None,
            max_file: 1,
            compress: false,
            path: None,
            non_blocking: false,
            max_buffer: None,
            options: BTreeMap::new(),
        }
    }
}

/// Where a container's output goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Docker's default: what reads docker's log files reads these.
    JsonFile,
    /// As it came, byte for byte; the fastest.
    #[default]
    Local,
    K8sFile,
    Journald,
    /// The streams of the command that starts it are the container's own.
    Passthrough,
    None,
}

impl LogDriver {
    pub const ALL: [(&str, Self); 6] = [
        ("json-file", Self::JsonFile),
        ("local", Self::Local),
        ("k8s-file", Self::K8sFile),
        ("journald", Self::Journald),
        ("passthrough", Self::Passthrough),
        ("none", Self::None),
    ];

    /// Docker's or podman's name for it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, driver)| *driver == self).map_or("", |(name, _)| name)
    }

    /// Whether it writes a file.
    pub fn has_file(self) -> bool {
        matches!(self, Self::JsonFile | Self::Local | Self::K8sFile)
    }
}

/// `containers/<id>/state.json`: how the container last started and ended. Written by the monitor.
///
/// *Running* is not in here: it is a fact about a process, asked of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateRecord {
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    /// 128 + n for a signal.
    pub exit_code: Option<i32>,
    pub oom_killed: bool,
    /// Why the last start failed; empty if it did not.
    pub error: String,
    /// How often its policy has started it again since a user did.
    pub restarts: u32,
    /// Milliseconds that the last restart was waited for.
    pub restart_delay: u64,
    /// Its monitor has promised to start it again.
    pub restarting: bool,
}

/// `containers/<id>/process.json` in the runtime directory: who to ask the kernel about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// `/proc/sys/kernel/random/boot_id`: a runtime directory that is not on tmpfs outlives the
    /// processes it speaks of.
    #[serde(default)]
    pub boot_id: String,
    pub init: ProcessIdentity,
    pub monitor: ProcessIdentity,
    pub started: Timestamp,
    /// The container's cgroup directory, if it has one.
    pub cgroup: Option<PathBuf>,
    /// Init has ended, and the monitor waits to start it again.
    #[serde(default)]
    pub restarting: bool,
    /// Init waits before the command: the container is prepared, and not started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// What is to be run when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub afterwards: Option<Box<Around>>,
}

/// A process that cannot be mistaken for a later one with the same number: `proc_pid_stat(5)`,
/// field 22, in clock ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub pid: i32,
    pub start_time: u64,
}
