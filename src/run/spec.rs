//! What was meant, put into the OCI runtime specification.
//!
//! **Invariant:** this module performs no I/O. Everything it needs about the machine arrives in
//! [`Context`], so any host can be written down in a test.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{
    Box as ConsoleSize, BoxBuilder, Linux, LinuxCapabilities, LinuxDevice, LinuxDeviceCgroup,
    LinuxDeviceType, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType,
    LinuxPersonality, LinuxPersonalityDomain, LinuxResources, LinuxSeccomp, Mount, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec, User,
};

use super::{hooks, options};
use crate::{
    cgroup::devices::{self, rule},
    error::{Error, Result},
    oci::{Digest, runtime},
    security::{
        caps::{self, CapSet},
        paths,
        seccomp::Profile,
    },
    state::{
        layout::ContainerPaths,
        record::{
            ContainerRecord, Mode, MountKind, MountRecord, SeccompChoice, SecretShown, Special,
            Storage, SystemdMode, Ulimit,
        },
    },
    sys::{
        net,
        user::{IdMaps, IdRange},
    },
    volume::driver::Backing,
};

/// The facts a spec depends on besides the record.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub record: &'a ContainerRecord,
    /// Present when the container has a user namespace: its own, or one that it joins.
    pub maps: Option<IdMaps>,
    /// The container's root is that of the initial user namespace.
    pub rootful: bool,
    /// The caller is that root, but the container has a user namespace: what lies on disk is
    /// shown with its ids.
    pub shifts: bool,
    pub user: ResolvedUser,
    /// apt would become its user `_apt`, which a user namespace with one id does not have.
    pub apt_cannot_switch: bool,
    pub joined: Joined,
    pub resources: LinuxResources,
    /// The container's cgroup, as it will be recorded.
    pub cgroup: Option<PathBuf>,
    /// There is a cgroup v2 hierarchy to mount inside.
    pub has_cgroup2: bool,
    /// The host has POSIX message queues mounted for `--ipc host` to show.
    pub has_mqueue: bool,
    /// The directory with this container's hostname, hosts and resolv.conf.
    pub files: PathBuf,
    /// That of whose network it has, where the last two are.
    pub network_files: PathBuf,
    /// Capabilities the caller could hand on at all.
    pub host_bounding: CapSet,
    /// Major and minor.
    pub kernel: (u32, u32),
    pub seccomp_available: bool,
    pub apparmor_available: bool,
    /// Nodes from `--device` and `--privileged`, examined.
    pub devices: Vec<LinuxDevice>,
    /// Where the files of each volume are, by its name; never [`Backing::Own`].
    pub volumes: BTreeMap<String, Backing>,
    /// The lowerdirs of each image that is mounted, topmost first, by its id.
    pub images: BTreeMap<Digest, Vec<PathBuf>>,
    /// Where a container has the upperdirs of its overlays.
    pub overlays: PathBuf,
    /// Size of the caller's terminal.
    pub window: Option<(u16, u16)>,
}

/// Where a container with a single id finds apt's configuration: on the tmpfs of `/dev`, so that
/// nothing of it stays in the container's files.
const APT_CONFIG: &str = "/dev/.dhow-apt.conf";

/// Where the program of `--init-path` is inside.
const INIT_PATH: &str = "/run/dhow-init";

impl Context<'_> {
    /// Whether a device node of the host's opens for processes inside by its mode alone: for
    /// root of the initial user namespace it does, unless that is prevented.
    pub fn sees_devices(&self) -> bool {
        let own_user = self.maps.is_some() || self.joined.user.is_some();
        self.rootful && !own_user && !self.record.host.privileged
    }
}

/// `--user`, looked up in the image's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// Namespaces of a container that runs, as paths below `/proc/PID/ns`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joined {
    pub user: Option<PathBuf>,
    pub pid: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    pub cgroup: Option<PathBuf>,
    pub network: Option<PathBuf>,
}

/// Composes the container's spec.
pub fn compose(context: &Context<'_>) -> Result<Spec> {
    let host = &context.record.host;
    let privileged = host.privileged;
    let capabilities =
        caps::resolve(&host.cap_add, &host.cap_drop, privileged)?.intersect(context.host_bounding);
    let covered = paths::resolve(&host.security.mask, &host.security.unmask, privileged)?;
    check_sysctls(context)?;
    let rules = device_rules(context, capabilities)?;
    let no_devices = context.shifts || context.sees_devices() && rules.is_none();
    let mut resources = context.resources.clone();
    resources.set_devices(rules);

    let mut linux = Linux::default();
    if let Some(maps) = context.maps.as_ref().filter(|_| context.joined.user.is_none()) {
        linux.set_uid_mappings(Some(maps.uid.iter().map(mapping).collect::<Result<_>>()?));
        linux.set_gid_mappings(Some(maps.gid.iter().map(mapping).collect::<Result<_>>()?));
    }
    linux
        .set_sysctl(Some(sysctls(context)))
        .set_resources(Some(resources))
        .set_cgroups_path(context.cgroup.clone())
        .set_namespaces(Some(namespaces(context)))
        .set_devices(Some(context.devices.clone()))
        .set_seccomp(seccomp(context, capabilities)?)
        .set_rootfs_propagation(Some("rslave".into()))
        .set_masked_paths(Some(covered.masked))
        .set_readonly_paths(Some(covered.read_only))
        .set_personality(host.special.personality.as_deref().map(personality));

    let mut root = Root::default();
    let rootfs = match (context.record.own_directory(), context.record.storage) {
        (Some(dir), _) => dir,
        (None, Storage::Native | Storage::Fuse) => Path::new(ContainerPaths::ROOTFS),
        (None, Storage::Copy) => Path::new(ContainerPaths::COPY),
    };
    root.set_path(rootfs.into()).set_readonly(Some(host.read_only));
    let mut spec = Spec::default();
    spec.set_root(Some(root))
        .set_mounts(Some(mounts(context, no_devices)?))
        .set_process(Some(process(context, capabilities)?))
        .set_hostname(own_uts(context).then(|| context.record.config.hostname.clone()))
        .set_domainname(
            Some(context.record.config.domainname.clone())
                .filter(|name| own_uts(context) && !name.is_empty()),
        )
        .set_annotations(Some(context.record.config.annotations.clone().into_iter().collect()))
        .set_hooks(hooks::to_spec(&host.special.hooks))
        .set_linux(Some(linux));
    Ok(spec)
}

fn personality(domain: &str) -> LinuxPersonality {
    let mut personality = LinuxPersonality::default();
    personality.set_domain(match domain {
        "LINUX32" => LinuxPersonalityDomain::PerLinux32,
        _ => LinuxPersonalityDomain::PerLinux,
    });
    personality
}

/// What a program on the cgroup is to decide over devices, where mounts without devices do not
/// suffice: nodes can be made inside, or one is given with less than all rights.
fn device_rules(
    context: &Context<'_>,
    capabilities: CapSet,
) -> Result<Option<Vec<LinuxDeviceCgroup>>> {
    use LinuxDeviceType::{A, B, C};
    let host = &context.record.host;
    if !context.sees_devices() {
        return Ok(None);
    }
    let limited = host.devices.iter().any(|device| device.permissions != "rwm");
    if !capabilities.contains(runtime::Capability::Mknod)
        && !limited
        && host.device_rules.is_empty()
    {
        return Ok(None);
    }
    let mut rules = vec![
        rule(false, A, None, None, "rwm"),
        // Docker's: every node may be made, the usual ones used.
        rule(true, B, None, None, "m"),
        rule(true, C, None, None, "m"),
        rule(true, C, Some(136), None, "rwm"),
    ];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule(true, C, Some(major), Some(minor), "rwm"));
    }
    if context.record.storage == Storage::Fuse {
        rules.push(rule(true, C, Some(10), Some(229), "rwm"));
    }
    for (device, node) in host.devices.iter().zip(&context.devices) {
        let numbers = (Some(node.major()), Some(node.minor()));
        rules.push(rule(true, node.typ(), numbers.0, numbers.1, &device.permissions));
    }
    for text in &host.device_rules {
        rules.push(devices::parse_rule(text)?);
    }
    Ok(Some(rules))
}

fn own_uts(context: &Context<'_>) -> bool {
    context.record.host.namespaces.uts == Mode::Private
}

fn own_network(context: &Context<'_>) -> bool {
    matches!(context.record.host.namespaces.network, Mode::Private | Mode::None | Mode::Program(_))
}

fn own_ipc(context: &Context<'_>) -> bool {
    context.record.host.namespaces.ipc == Mode::Private
}

fn mapping(range: &IdRange) -> Result<LinuxIdMapping> {
    LinuxIdMappingBuilder::default()
        .container_id(range.inside)
        .host_id(range.outside)
        .size(range.size)
        .build()
        .map_err(incomplete)
}

/// The builders fail only where a required field was left out.
fn incomplete(err: oci_spec::OciSpecError) -> Error {
    Error::engine(format!("compose the spec: {err}"))
}

fn namespaces(context: &Context<'_>) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType as Type;
    let (modes, joined) = (&context.record.host.namespaces, &context.joined);
    let mut list = vec![namespace(Type::Mount, None)];
    match (&joined.user, &context.maps) {
        (Some(path), _) => list.push(namespace(Type::User, Some(path))),
        (None, Some(_)) => list.push(namespace(Type::User, None)),
        (None, None) => {}
    }
    for (kind, mode, path) in [
        (Type::Pid, &modes.pid, &joined.pid),
        (Type::Ipc, &modes.ipc, &joined.ipc),
        (Type::Uts, &modes.uts, &joined.uts),
        (Type::Cgroup, &modes.cgroup, &joined.cgroup),
        (Type::Network, &modes.network, &joined.network),
    ] {
        match mode {
            Mode::Private | Mode::None | Mode::Program(_) => list.push(namespace(kind, None)),
            Mode::Host => {}
            Mode::Container(_) | Mode::Path(_) => list.push(namespace(kind, path.as_ref())),
        }
    }
    list
}

fn namespace(kind: LinuxNamespaceType, path: Option<&PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path.cloned());
    namespace
}

fn process(context: &Context<'_>, capabilities: CapSet) -> Result<Process> {
    let (config, host) = (&context.record.config, &context.record.host);
    let init = host.special.init_path.as_ref().map(|_| [INIT_PATH.to_owned(), "--".to_owned()]);
    let words = config.entrypoint.iter().chain(&config.cmd).cloned();
    let args: Vec<String> = init.into_iter().flatten().chain(words).collect();
    let mut user = User::default();
    user.set_uid(context.user.uid)
        .set_gid(context.user.gid)
        .set_umask(Some(host.special.umask.unwrap_or(0o022)))
        .set_additional_gids(Some(context.user.groups.clone()));
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_console_size(context.window.map(console_size).transpose()?)
        .set_user(user)
        .set_args(Some(args))
        .set_env(Some(environment(context)))
        .set_cwd(Path::new("/").join(&config.working_dir))
        .set_capabilities(Some(capability_sets(capabilities, context.user.uid)))
        .set_rlimits(Some(rlimits(&host.ulimits)?))
        .set_no_new_privileges(Some(host.security.no_new_privileges))
        .set_apparmor_profile(apparmor(context)?)
        .set_oom_score_adj(host.oom_score_adj);
    Ok(process)
}

pub fn console_size((columns, rows): (u16, u16)) -> Result<ConsoleSize> {
    BoxBuilder::default()
        .width(u64::from(columns))
        .height(u64::from(rows))
        .build()
        .map_err(incomplete)
}

/// Docker's sets: what is bounding is also effective and permitted for root, and for nobody
/// else; inheritable and ambient are empty (CVE-2022-24769).
pub fn capability_sets(bounding: CapSet, uid: u32) -> LinuxCapabilities {
    let usable = if uid == 0 { bounding } else { CapSet::EMPTY };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(bounding.to_oci()))
        .set_effective(Some(usable.to_oci()))
        .set_permitted(Some(usable.to_oci()))
        .set_inheritable(Some(CapSet::EMPTY.to_oci()))
        .set_ambient(Some(CapSet::EMPTY.to_oci()));
    sets
}

/// Docker's environment: its own variables first, so that the image and the user override them.
fn environment(context: &Context<'_>) -> Vec<String> {
    let config = &context.record.config;
    let mut env =
        vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    // A step of a build does not have it, with BuildKit as here.
    if context.record.build.is_none() {
        env.push(format!("HOSTNAME={}", config.hostname));
    }
    if config.tty {
        env.push("TERM=xterm".into());
    }
    env.push(format!("HOME={}", context.user.home));
    if context.apt_cannot_switch {
        env.push(format!("APT_CONFIG={APT_CONFIG}"));
    }
    without_unset(merge_environment(env, &config.env))
}

/// A bare name, docker's rule, takes the variable away.
pub fn without_unset(mut env: Vec<String>) -> Vec<String> {
    env.retain(|entry| entry.contains('='));
    env
}

/// `more` over `base`: a variable keeps its place and takes its last value.
pub fn merge_environment(base: Vec<String>, more: &[String]) -> Vec<String> {
    let mut merged = base;
    for entry in more {
        let key = entry.split('=').next().unwrap_or(entry);
        let same = |have: &&mut String| have.split('=').next() == Some(key);
        match merged.iter_mut().find(same) {
            Some(have) => have.clone_from(entry),
            None => merged.push(entry.clone()),
        }
    }
    merged
}

/// Refuses a limit that there is not.
pub fn rlimits(limits: &[Ulimit]) -> Result<Vec<PosixRlimit>> {
    limits.iter().map(rlimit).collect()
}

fn rlimit(limit: &Ulimit) -> Result<PosixRlimit> {
    use PosixRlimitType as Type;
    let kind = match limit.name.as_str() {
        "cpu" => Type::RlimitCpu,
        "fsize" => Type::RlimitFsize,
        "data" => Type::RlimitData,
        "stack" => Type::RlimitStack,
        "core" => Type::RlimitCore,
        "rss" => Type::RlimitRss,
        "nproc" => Type::RlimitNproc,
        "nofile" => Type::RlimitNofile,
        "memlock" => Type::RlimitMemlock,
        "as" => Type::RlimitAs,
        "locks" => Type::RlimitLocks,
        "sigpending" => Type::RlimitSigpending,
        "msgqueue" => Type::RlimitMsgqueue,
        "nice" => Type::RlimitNice,
        "rtprio" => Type::RlimitRtprio,
        "rttime" => Type::RlimitRttime,
        other => return Err(Error::invalid(format!("invalid ulimit type: {other}"))),
    };
    PosixRlimitBuilder::default()
        .typ(kind)
        .soft(limit.soft)
        .hard(limit.hard)
        .build()
        .map_err(incomplete)
}

/// Without AppArmor everything is unconfined, and asking for just that is no error.
fn apparmor(context: &Context<'_>) -> Result<Option<String>> {
    match &context.record.host.security.apparmor {
        Some(name) if !context.apparmor_available && name != "unconfined" => {
            Err(Error::unsupported(format!(
                "cannot apply the AppArmor profile {name}: AppArmor is not enabled on this host"
            ))
            .hint("leave --security-opt apparmor away, or write apparmor=unconfined"))
        }
        profile => Ok(profile.clone().filter(|_| context.apparmor_available)),
    }
}

fn seccomp(context: &Context<'_>, capabilities: CapSet) -> Result<Option<LinuxSeccomp>> {
    let host = &context.record.host;
    if host.privileged || !context.seccomp_available {
        return Ok(None);
    }
    let profile = match &host.security.seccomp {
        SeccompChoice::Unconfined => return Ok(None),
        SeccompChoice::Default => Profile::standard()?,
        SeccompChoice::Profile(text) => Profile::parse(text)?,
    };
    Ok(Some(profile.resolve(capabilities, context.kernel)))
}

/// Only what belongs to a namespace of the container's own may be set; the rest is the host's.
fn check_sysctls(context: &Context<'_>) -> Result<()> {
    for key in context.record.host.sysctls.keys() {
        let name = key.replace('/', ".");
        // `net/../kernel/core_pattern` begins like a network setting and is none.
        if name.split('.').any(str::is_empty) {
            return Err(Error::invalid(format!("{key:?} is not the name of a sysctl")));
        }
        let (allowed, owner) = if name.starts_with("net.") {
            (own_network(context), "network")
        } else if is_ipc_sysctl(&name) {
            (own_ipc(context), "ipc")
        } else if matches!(name.as_str(), "kernel.hostname" | "kernel.domainname") {
            (own_uts(context), "uts")
        } else {
            return Err(Error::invalid(format!("sysctl {key} is not in a separate kernel namespace"))
                .hint("it would change the host; only net.*, fs.mqueue.* and the System V IPC settings can be set"));
        };
        if !allowed {
            return Err(Error::invalid(format!(
                "sysctl {key} not allowed: the container shares another's {owner} namespace"
            )));
        }
    }
    Ok(())
}

/// ipc_namespaces(7), the list of `/proc` interfaces.
fn is_ipc_sysctl(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
    ];
    NAMES.contains(&name) || name == "kernel.shm_rmid_forced" || name.starts_with("fs.mqueue.")
}

/// The user's, over docker's two: ping without CAP_NET_RAW for every mapped group, and low
/// ports without CAP_NET_BIND_SERVICE. And where the network role ends every connection, no wire
/// is between a container's sockets and the next; the role's own are paced for the rest of the way.
fn sysctls(context: &Context<'_>) -> HashMap<String, String> {
    let mut all = HashMap::new();
    if own_network(context) {
        all.insert("net.ipv4.ping_group_range".into(), format!("0 {}", last_group(context)));
        all.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
    }
    let is_rootless = !context.rootful && !context.shifts;
    if is_rootless && context.record.host.namespaces.network == Mode::Private {
        all.insert("net.ipv4.tcp_congestion_control".into(), net::UNPACED.into());
    }
    all.extend(context.record.host.sysctls.clone());
    all
}

/// Both ends of the range must be mapped (`net/ipv4/ping_group_range`, icmp(7)).
fn last_group(context: &Context<'_>) -> u64 {
    match &context.maps {
        None => i32::MAX.unsigned_abs().into(),
        Some(maps) => {
            let ends = maps.gid.iter().map(|range| u64::from(range.inside) + u64::from(range.size));
            ends.max().unwrap_or(1) - 1
        }
    }
}

fn mounts(context: &Context<'_>, no_devices: bool) -> Result<Vec<Mount>> {
    let host = &context.record.host;
    let mut list = system_mounts(context);
    let shift: &[&str] = if context.shifts { &["idmap"] } else { &[] };
    let files = [
        ("hostname", "/etc/hostname"),
        ("hosts", "/etc/hosts"),
        ("resolv.conf", "/etc/resolv.conf"),
    ];
    // Parents first, however they were typed: a mount must not hide an earlier one below it.
    let mut own: Vec<&MountRecord> = host.mounts.iter().collect();
    own.sort_by_key(|mount| Path::new(&clean(&mount.target)).components().count());
    for wanted in own {
        let target = clean(&wanted.target);
        if target == "/" {
            return Err(Error::invalid("invalid mount destination: it cannot be /"));
        }
        list.retain(|have| have.destination() != Path::new(&target));
        list.push(user_mount(context, wanted, &target, no_devices)?);
    }
    // Docker: also in a directory of one of these.
    let special = &host.special;
    let given = |target: &str| host.mounts.iter().any(|mount| clean(&mount.target) == target);
    let files_of = |file: &str| match file {
        "resolv.conf" => &context.network_files,
        "hosts" if special.hosts_file.is_none() => &context.network_files,
        _ => &context.files,
    };
    for (file, target) in files.into_iter().chain(special_files(special)) {
        let is_images = match file {
            "hostname" => special.no_hostname,
            "hosts" => special.no_hosts,
            _ => false,
        };
        // A directory of the user's may be read-only, and have no such file.
        let is_below = |mount: &MountRecord| Path::new(target).starts_with(clean(&mount.target));
        let optional: &[&str] = if host.mounts.iter().any(is_below) { &["nofail"] } else { &[] };
        if !given(target) && !is_images {
            list.push(mount(
                target,
                "bind",
                Some(&files_of(file).join(file)),
                &[&["bind", "rprivate", if host.read_only { "ro" } else { "rw" }], shift, optional]
                    .concat(),
            ));
        }
    }
    for dir in &special.chroot_dirs {
        for (file, target) in files {
            let target = clean(&format!("{dir}{target}"));
            if given(&target) {
                continue;
            }
            list.push(mount(
                &target,
                "bind",
                Some(&files_of(file).join(file)),
                &[&["bind", "rprivate", if host.read_only { "ro" } else { "rw" }], shift].concat(),
            ));
        }
    }
    if context.apt_cannot_switch && !given(APT_CONFIG) {
        let file = context.files.join("apt.conf");
        list.push(mount(APT_CONFIG, "bind", Some(&file), &["bind", "rprivate", "ro"]));
    }
    if let Some(init) = special.init_path.as_ref().filter(|_| !given(INIT_PATH)) {
        list.push(mount(INIT_PATH, "bind", Some(init), &["bind", "rprivate", "ro"]));
    }
    // Last: a path may have been chosen that is in one of the others.
    for (index, grant) in special.secrets.iter().enumerate() {
        let SecretShown::Mount { target, .. } = &grant.shown else { continue };
        let file = ContainerPaths::secret_among(&context.files, index);
        list.push(mount(
            &clean(target),
            "bind",
            Some(&file),
            &[&["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"], shift].concat(),
        ));
    }
    Ok(list)
}

/// Files that a start writes only if they are asked for.
fn special_files(special: &Special) -> impl Iterator<Item = (&'static str, &'static str)> {
    let passwd = special.passwd || special.passwd_entry.is_some() || !special.host_users.is_empty();
    let group = special.passwd || special.group_entry.is_some();
    [
        (special.time_zone.is_some(), ("localtime", "/etc/localtime")),
        (passwd, ("passwd", "/etc/passwd")),
        (group, ("group", "/etc/group")),
    ]
    .into_iter()
    .filter_map(|(wanted, file)| wanted.then_some(file))
}

fn system_mounts(context: &Context<'_>) -> Vec<Mount> {
    let host = &context.record.host;
    let modes = &host.namespaces;
    let in_userns = !context.rootful;
    let write = if host.privileged { "rw" } else { "ro" };
    let hardened = ["nosuid", "noexec", "nodev"];
    let mut list = Vec::new();

    // In a user namespace the kernel grants a fresh proc or sysfs only along with the pid or
    // network namespace it shows (mount_namespaces(7), "Restrictions"); else the host's is bound.
    if in_userns && modes.pid == Mode::Host {
        list.push(mount(
            "/proc",
            "bind",
            Some("/proc".as_ref()),
            &["rbind", "nosuid", "noexec", "nodev"],
        ));
    } else {
        list.push(mount("/proc", "proc", None, &hardened));
    }
    list.push(mount(
        "/dev",
        "tmpfs",
        None,
        &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
    ));
    let gid5 = context.maps.as_ref().is_none_or(|maps| maps.gid_outside(5).is_some());
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if gid5 {
        pts.push("gid=5");
    }
    list.push(mount("/dev/pts", "devpts", None, &pts));
    let is_foreign = match modes.network {
        Mode::Host => in_userns,
        // Of another user namespace, unless that is shared as well.
        Mode::Container(_) | Mode::Path(_) => context.shifts && context.joined.user.is_none(),
        Mode::Private | Mode::None | Mode::Program(_) => false,
    };
    if is_foreign {
        list.push(mount(
            "/sys",
            "bind",
            Some("/sys".as_ref()),
            &["rbind", "nosuid", "noexec", "nodev", if host.privileged { "rw" } else { "rro" }],
        ));
    } else {
        list.push(mount("/sys", "sysfs", None, &[&hardened[..], &[write]].concat()));
        if context.has_cgroup2 {
            let fresh = !in_userns || modes.cgroup == Mode::Private;
            // A systemd makes cgroups beneath its own.
            let write = if host.special.systemd == SystemdMode::Always { "rw" } else { write };
            list.push(match fresh {
                true => {
                    mount("/sys/fs/cgroup", "cgroup2", None, &[&hardened[..], &[write]].concat())
                }
                false => mount(
                    "/sys/fs/cgroup",
                    "bind",
                    Some("/sys/fs/cgroup".as_ref()),
                    &["rbind", "rro"],
                ),
            });
        }
    }
    if modes.ipc == Mode::Host {
        list.push(mount(
            "/dev/shm",
            "bind",
            Some("/dev/shm".as_ref()),
            &["rbind", "nosuid", "noexec", "nodev"],
        ));
        if context.has_mqueue {
            list.push(mount(
                "/dev/mqueue",
                "bind",
                Some("/dev/mqueue".as_ref()),
                &["rbind", "nosuid", "noexec", "nodev"],
            ));
        }
    } else {
        list.push(mount("/dev/mqueue", "mqueue", None, &hardened));
        let size = format!("size={}", host.shm_size.unwrap_or(64 << 20));
        list.push(mount(
            "/dev/shm",
            "tmpfs",
            None,
            &["nosuid", "noexec", "nodev", "mode=1777", &size],
        ));
    }
    list
}

fn user_mount(
    context: &Context<'_>,
    wanted: &MountRecord,
    target: &str,
    no_devices: bool,
) -> Result<Mount> {
    // Labels mean nothing without SELinux, and the owner has been changed already. Without a user
    // namespace an id is itself.
    let mut options: Vec<&str> = wanted.options.iter().map(String::as_str).collect();
    let ids = wanted.options.iter().find_map(|option| option.strip_prefix("idmap="));
    let wants_ids = ids.is_some() || options.contains(&"idmap");
    if wants_ids && !context.rootful && !context.shifts {
        return Err(Error::unsupported(format!(
            "{target}: only root can make an id-mapped mount of the host's file systems"
        ))
        .hint("-v ...:U changes the owner of the files instead"));
    }
    let chown = options.contains(&"U");
    options.retain(|option| !["z", "Z", "U"].contains(option));
    options.retain(|option| *option != "idmap" || context.shifts);
    options.retain(|option| !option.starts_with("idmap="));
    let over = matches!(wanted.kind, MountKind::Image(_)) || options.contains(&"O");
    if context.shifts && over {
        return Err(Error::unsupported(format!(
            "{target}: images and overlays are not mounted in user namespaces of root's"
        ))
        .hint("leave --userns away, or mount it without the option O"));
    }
    let (uid, gid) = (format!("uid={}", context.user.uid), format!("gid={}", context.user.gid));
    let mut made = match &wanted.kind {
        MountKind::Bind { source, .. } if options.contains(&"O") => {
            overlay(context, wanted, target, std::slice::from_ref(source), &options, no_devices)
        }
        MountKind::Image(image) => {
            let lowers = image.id.as_ref().and_then(|id| context.images.get(id));
            let lowers = lowers.map_or(&[][..], Vec::as_slice);
            let beneath = format!("{}{}", options::BENEATH, image.subpath);
            if !image.subpath.is_empty() {
                options.push(&beneath);
            }
            overlay(context, wanted, target, lowers, &options, no_devices)
        }
        MountKind::Bind { source, .. } => bind(wanted, source, target, options, no_devices),
        MountKind::Volume(volume) => {
            let missing = || Error::engine(format!("where is the volume {}?", volume.name));
            let beneath = format!("{}{}", options::BENEATH, volume.subpath);
            if !volume.subpath.is_empty() {
                options.push(&beneath);
            }
            match context.volumes.get(&volume.name).ok_or_else(missing)? {
                Backing::Own => return Err(missing()),
                Backing::Directory { source, .. } if options.contains(&"O") => overlay(
                    context,
                    wanted,
                    target,
                    std::slice::from_ref(source),
                    &options,
                    no_devices,
                ),
                Backing::FileSystem { kind, .. } if options.contains(&"O") => {
                    return Err(Error::unsupported(format!(
                        "{target}: no overlay goes over a volume of type {kind}"
                    ))
                    .hint("leave the option O away"));
                }
                Backing::Directory { source, options: more } => {
                    options.extend(more.iter().map(String::as_str));
                    bind(wanted, source, target, options, no_devices)
                }
                Backing::FileSystem { kind, device, options: more } => {
                    options.extend(more.iter().map(String::as_str));
                    if no_devices {
                        options.push("nodev");
                    }
                    if wanted.read_only {
                        options.push("ro");
                    }
                    mount(target, kind, Some(device.as_ref()), &options)
                }
            }
        }
        MountKind::Tmpfs => {
            if options.contains(&"noswap") && !context.rootful {
                return Err(Error::unsupported(format!(
                    "{target}: only root's containers can have a tmpfs with noswap"
                ))
                .hint("a ramfs is never swapped out, but keeps to no size"));
            }
            let mut all = vec!["nosuid", "nodev"];
            if !options.contains(&"exec") {
                all.push("noexec");
            }
            if wanted.read_only {
                all.push("ro");
            }
            // A copy brings the mode of what it is a copy of.
            if !options.iter().any(|option| option.starts_with("mode=")) {
                all.push("mode=1777");
            }
            if chown {
                all.extend([uid.as_str(), &gid]);
            }
            all.extend(options);
            mount(target, "tmpfs", None, &all)
        }
        MountKind::Ramfs | MountKind::Devpts => {
            let is_ramfs = wanted.kind == MountKind::Ramfs;
            let mut all = vec!["nosuid", "noexec"];
            all.extend(is_ramfs.then_some("nodev"));
            all.extend(wanted.read_only.then_some("ro"));
            if !is_ramfs {
                all.extend(["newinstance", "ptmxmode=0666"]);
            }
            if chown {
                all.extend([uid.as_str(), &gid]);
            }
            all.extend(options);
            mount(target, if is_ramfs { "ramfs" } else { "devpts" }, None, &all)
        }
    };
    if let Some(typed) = ids {
        let [uid, gid] = mount_ids(typed, context)?;
        made.set_uid_mappings(Some(uid)).set_gid_mappings(Some(gid));
    }
    Ok(made)
}

/// The ids of users and of groups that `idmap=uids=...;gids=...` gives a mount.
fn mount_ids(typed: &str, context: &Context<'_>) -> Result<[Vec<LinuxIdMapping>; 2]> {
    let missing = |id| {
        Error::invalid(format!("idmap={typed}: the container has no id {id}"))
            .hint("without @ the second number of each range is an id of the host's")
    };
    let all = IdRange { inside: 0, outside: 0, size: u32::MAX };
    let [users, groups] = options::id_maps(typed)?;
    let resolve = |ranges: Vec<options::MountIds>, outside: &dyn Fn(u32) -> Option<u32>| {
        let ids = ranges.into_iter().map(|one| match one.is_relative {
            true => outside(one.ids.outside)
                .map(|outside| IdRange { outside, ..one.ids })
                .ok_or_else(|| missing(one.ids.outside)),
            false => Ok(one.ids),
        });
        let ids = ids.collect::<Result<Vec<_>>>()?;
        let ids = if ids.is_empty() { vec![all] } else { ids };
        ids.iter().map(mapping).collect::<Result<Vec<_>>>()
    };
    let maps = context.maps.as_ref();
    Ok([
        resolve(users, &|id| maps.map_or(Some(id), |maps| maps.uid_outside(id)))?,
        resolve(groups, &|id| maps.map_or(Some(id), |maps| maps.gid_outside(id)))?,
    ])
}

/// Directories of the host's that what is written inside does not change.
fn overlay(
    context: &Context<'_>,
    wanted: &MountRecord,
    target: &str,
    lowers: &[PathBuf],
    options: &[&str],
    no_devices: bool,
) -> Mount {
    let lower = format!("lowerdir={}", options::join_lowers(lowers.iter().map(PathBuf::as_path)));
    let own = overlay_dirs(&context.overlays, target);
    let (upper, work) =
        (format!("upperdir={}", own.0.display()), format!("workdir={}", own.1.display()));
    let mut all = vec![lower.as_str()];
    let given = options.iter().any(|option| option.starts_with("upperdir="));
    if !given && !wanted.read_only {
        all.extend([upper.as_str(), &work, "volatile"]);
    }
    all.extend((!context.rootful).then_some("userxattr"));
    all.extend(options.iter().filter(|option| !["O", "ro"].contains(option)));
    all.extend(no_devices.then_some("nodev"));
    all.extend(wanted.read_only.then_some("ro"));
    mount(target, "overlay", None, &all)
}

/// Whether the mount is an overlay whose upperdir goes with the container's end.
pub fn has_upperdir(mount: &MountRecord) -> bool {
    let has = |word: &str| mount.options.iter().any(|option| option.starts_with(word));
    let over = matches!(mount.kind, MountKind::Image(_)) || mount.options.iter().any(|o| o == "O");
    over && !mount.read_only && !has("upperdir=")
}

/// The upperdir and workdir of the overlay at `target`, in the directory for all of a container's.
pub fn overlay_dirs(overlays: &Path, target: &str) -> (PathBuf, PathBuf) {
    let dir = overlays.join(Digest::of(clean(target).as_bytes()).hex());
    (dir.join("upper"), dir.join("work"))
}

/// A view of something of the host's.
fn bind(
    wanted: &MountRecord,
    source: &Path,
    target: &str,
    mut options: Vec<&str>,
    no_devices: bool,
) -> Mount {
    if !options.contains(&"bind") {
        options.push("rbind");
    }
    let propagation = ["shared", "slave", "private", "unbindable"];
    if !options.iter().any(|o| propagation.contains(&o.trim_start_matches('r'))) {
        options.push("rprivate");
    }
    if no_devices && !options.contains(&"dev") {
        options.push("nodev");
    }
    if wanted.read_only && !options.contains(&"ro") {
        // Docker 25 on: what is mounted below a read-only volume is read-only, too, unless
        // bind-recursive=writable said that just this one is.
        options.push("rro");
    }
    mount(target, "bind", Some(source), &options)
}

/// Lexically: no `.`, `..`, doubled or trailing slashes.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn mount(target: &str, kind: &str, source: Option<&Path>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.map_or_else(|| kind.into(), Path::to_path_buf)))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_variable_wins_in_its_first_place() {
        let base = vec!["PATH=/bin".to_owned(), "A=1".to_owned()];
        let more = ["B=2".to_owned(), "PATH=/usr/bin".to_owned()];
        assert_eq!(merge_environment(base, &more), ["PATH=/usr/bin", "A=1", "B=2"]);
    }

    #[test]
    fn a_bare_name_takes_a_variable_away() {
        let base = vec!["A=1".to_owned(), "B=2".to_owned()];
        assert_eq!(without_unset(merge_environment(base, &["A".to_owned()])), ["B=2"]);
    }

    #[test]
    fn targets_are_cleaned() {
        assert_eq!(clean("//a/./b/../c/"), "/a/c");
        assert_eq!(clean("/../.."), "/");
    }
}
