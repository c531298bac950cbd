//! Starting a container: from its record to a running process and its monitor.

use std::{
    cell::{Cell, RefCell},
    fs,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{Status, connect::Connection, etc, exec, special};
use crate::{
    cgroup::{self, Cgroup, Limits},
    engine::{
        Engine, storage,
        told::{hear, hear_out, report_success, tell},
        user::{Accounts, KEEP_GROUPS},
    },
    error::{Context as _, Error, Result},
    network::host::Leftover,
    oci::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType, Spec},
    overlay::{Part, Stack},
    run::{
        Plan, Started, Stdio, Streams,
        attach::Wants,
        discard,
        fuse::Server,
        gate, launch,
        monitor::{self, Inheritance},
        plan::{Mount, MountSource, Rootfs},
        spec::{self, Joined},
        wire::Door,
    },
    security::caps::CapSet,
    state::{
        ContainerId, journal,
        layout::ContainerPaths,
        record::{
            Around, ContainerRecord, Hooks, LayersMount, LogDriver, Mode, NamespaceModes,
            ProcessIdentity, ProcessRecord, StateRecord, Storage, UserMode,
        },
        store::{Durability, Lock, create_private_dir, read_json, write_json},
    },
    sys::{
        mount::{ATTR_NODEV, ATTR_RDONLY, Attributes},
        process::{Birth, Side, SingleThreaded, clone3, start_time_of},
        user::IdMaps,
    },
};

/// How the caller takes part in the container's streams.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// What the caller wants to be attached to; nothing at all is a detached start.
    pub wants: Wants,
    /// The caller's terminal size, columns and rows.
    pub window: Option<(u16, u16)>,
    /// How often its policy has started it again since a user did, and how long was waited.
    pub restarts: u32,
    pub restart_delay: u64,
    /// Descriptors of the caller's that the command gets, by their numbers.
    pub preserve: Vec<i32>,
    /// It is only prepared, and waits for its start.
    pub held: bool,
    /// Test hook of debug builds: the step that is to fail.
    pub fail_at: Option<crate::run::Step>,
}

impl Engine {
    /// Starts a container that does not run. The stream is the caller's attachment, if it
    /// wanted one: connected before the first byte of output.
    pub fn start(&self, id: &ContainerId, options: StartOptions) -> Result<Option<UnixStream>> {
        self.start_unless_running(id, options)?.ok_or_else(|| {
            let name = self.load(id).map_or_else(|_| id.to_string(), |found| found.record.name);
            Error::conflict(format!("container {name} is running already"))
        })
    }

    /// As [`start`](Self::start); `None` if the container runs already.
    pub fn start_unless_running(
        &self,
        id: &ContainerId,
        options: StartOptions,
    ) -> Result<Option<Option<UnixStream>>> {
        let paths = self.layout.container(id);
        let lock = Cell::new(Some(Lock::exclusive(paths.dir())?));
        let container = self.load(id)?;
        // One that is not ready lost whoever was starting it: what is left of it goes.
        if container.status.is_running() && paths.ready().exists() {
            return Ok(None);
        }
        self.start_required(&container.record)?;
        let outcome = match matches!(container.status, Status::Initialized(_)) {
            true => self.let_go(&paths, &options),
            false => self.make(&container.record, &container.status, &paths, options, &lock),
        };
        if let Err(err) = &outcome {
            self.record_failure(&paths, err);
        }
        outcome.map(Some)
    }

    /// Starts a container that has no process; what it left of itself, should that fail, goes.
    pub(super) fn make(
        &self,
        record: &ContainerRecord,
        status: &Status,
        paths: &ContainerPaths,
        options: StartOptions,
        lock: &Cell<Option<Lock>>,
    ) -> Result<Option<UnixStream>> {
        if matches!(status, Status::Restarting(_)) {
            self.end_waiting(paths)?;
        }
        self.outlast_monitor(paths)?;
        forget_stop(paths)?;
        self.start_stopped(record, paths, options, lock).inspect_err(|_| {
            // A monitor that was killed on its way may have left a container that goes on.
            let _ = discard::abandoned(paths, &self.facts.boot_id);
            let _ = discard::runtime(&self.layout, paths).and_then(Leftover::remove);
        })
    }

    /// A monitor tells how its container ended before it forgets that it ran: what it is about to
    /// clear away must not be the next life's.
    fn outlast_monitor(&self, paths: &ContainerPaths) -> Result<()> {
        loop {
            let process: Option<ProcessRecord> = read_json(&paths.process())?;
            let process = process.filter(|process| {
                process.boot_id == self.facts.boot_id
                    && !process.restarting
                    && discard::living(process.init).is_none()
            });
            let Some(monitor) = process.and_then(|process| discard::living(process.monitor)) else {
                return Ok(());
            };
            discard::wait_for_end(monitor.as_fd(), Some(Duration::from_millis(5)))?;
        }
    }

    pub(super) fn start_stopped(
        &self,
        record: &ContainerRecord,
        paths: &ContainerPaths,
        options: StartOptions,
        lock: &Cell<Option<Lock>>,
    ) -> Result<Option<UnixStream>> {
        discard::abandoned(paths, &self.facts.boot_id)?;
        discard::runtime(&self.layout, paths)?.remove()?;
        let network = self.prepare_networks(record)?;
        let confined = self.confine(record, network.as_ref())?;
        let record = &*confined;
        let accounts = self.accounts(record, Some(paths))?;
        let host = cgroup::Host::detect()?;
        let limits = Limits::from_resources(&record.host.resources, cgroup::limits::online_cpus())?;
        let placement = match (record.host.special.no_cgroup, record.host.special.split_cgroup) {
            (true, _) => cgroup::Placement::None("--cgroups disabled".to_owned()),
            (false, true) => host.split(&record.id, &limits)?,
            (false, false) => host.place(&record.id, &record.host.cgroup_parent, &limits)?,
        };

        let mut context = self.context(record, &accounts, options.window, true)?;
        context.has_cgroup2 = host.mount.is_some();
        self.give_to_user(&context)?;
        self.make_overlays(&context)?;
        let spec = spec::compose(&context)?;
        let mut stack = self.stack(record, Some(paths));
        if let Some(lowers) = self.mapped_lowers(record)? {
            stack.lowers = lowers;
        }
        let mounted = self.mounted_before(record);
        let stack = (record.is_stacked() && mounted.is_none()).then_some(stack);
        let attachment = network.as_ref().map(Connection::attachment);
        let linked = network.as_ref().map_or(&[][..], Connection::linked);
        let by_role = attachment.map_or(self.facts.rootless(), |attachment| attachment.by_role);
        let base = self.hosts_base(record, paths)?;
        etc::write(record, paths, attachment, linked, base, by_role)?;
        special::write_files(record, paths, &accounts, &context.user)?;
        // What a volatile overlay leaves behind says that it may be torn; this user has chosen
        // to start it again. The kernel makes the directory anew.
        if record.host.auto_remove {
            discard::remove_tree(&paths.work().join("work"))?;
        }

        let mut plan = Plan::new(&spec, &paths.bundle(), stack.clone())?;
        if let Some(mounted) = mounted {
            if context.shifts {
                return Err(Error::conflict(format!(
                    "container {} is mounted, and not with the ids of its user namespace",
                    record.name
                ))
                .hint(format!("`dhow unmount {}` first", record.name)));
            }
            plan.rootfs = Rootfs::Directory(mounted);
        }
        if record.storage == Storage::Fuse {
            let server =
                Server { program: storage::fuse(&self.facts)?, maps: context.maps.clone() };
            plan.rootfs = plan.rootfs.served_by(server);
        }
        let own = record.host.mounts.iter().any(|mount| mount.target == "/dev/shm");
        if let (Mode::Container(_), Some(ipc), false) =
            (&record.host.namespaces.ipc, &context.joined.ipc, own)
        {
            plan.share_memory(ipc);
        }
        plan.process.init = record.host.init;
        plan.held = options.held;
        Self::give_secret_variables(record, paths, &mut plan.process)?;
        plan.process.keep_groups = record.host.group_add.iter().any(|name| name == KEEP_GROUPS);
        if context.maps.as_ref().is_some_and(IdMaps::is_single) {
            plan.process.live_with_a_single_id(self.facts.seccomp)?;
        }
        plan.protect_exe = executable_is_exposed(context.maps.as_ref());
        plan.fail_at = options.fail_at;
        bind_devices(&mut plan, &record.host.devices);
        if let Some(build) = &record.build {
            self.mount_layers(&mut plan, &build.mounts, paths)?;
        }
        let rules = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let rules = rules.and_then(|resources| resources.devices().as_deref());
        plan.no_devices = context.shifts || context.sees_devices() && rules.is_none();
        if context.shifts {
            let root = context
                .maps
                .as_ref()
                .and_then(|maps| Some((maps.uid_outside(0)?, maps.gid_outside(0)?)));
            let missing = || Error::unsupported("the user namespace has no root");
            plan.shifts = Some(root.ok_or_else(missing)?);
        }

        if let Some(parent) = network.as_ref().and_then(Connection::user_namespace) {
            if plan.shifts.is_some() {
                return Err(Error::unsupported(
                    "root's containers with a policy for egress have no user namespace of their own",
                )
                .hint("leave --userns away, or the policy"));
            }
            plan.maps = plan.maps.map(|maps| self.maps_within_role(&maps)).transpose()?;
            plan.parent = Some(parent);
        }
        tell_plan(&plan, &placement);
        // Not before: the monitor of an earlier life may still be clearing it away.
        create_private_dir(paths.run_dir())?;
        network.as_ref().map_or(Ok(()), Connection::write)?;
        let door = exec::door(record, &spec, context.maps.clone(), plan.process.clone());
        // An exec has none of these.
        plan.process.preserve.clone_from(&options.preserve);
        let network = network.as_ref();
        let papers = Papers { spec: &spec, stack: stack.as_ref(), door: &door };
        let launch = Launch {
            engine: self,
            record,
            paths,
            plan: &plan,
            papers,
            host: &host,
            placement,
            limits,
            devices: rules,
            lock,
            options,
            network,
        };
        if record.config.health.is_some() {
            let _ = fs::remove_file(paths.health());
        }
        launch.spawn_monitor(launch.options.wants)
    }

    /// What a step sees of other images and stages: each is an overlay of its own, in front of
    /// what is mounted in it.
    fn mount_layers(
        &self,
        plan: &mut Plan,
        mounts: &[LayersMount],
        paths: &ContainerPaths,
    ) -> Result<()> {
        for (index, mount) in mounts.iter().enumerate() {
            let dir = paths.dir().join("mounts").join(index.to_string());
            let part = |name: &str| -> Result<PathBuf> {
                let path = dir.join(name);
                fs::create_dir_all(&path).at(&path)?;
                Ok(path)
            };
            let mut lowers = mount.lowers.clone();
            if lowers.is_empty() {
                lowers.push(part("empty")?);
            }
            let source = mount.source.trim_matches('/');
            let shown = Part {
                lowers,
                upper: Some((part("upper")?, part("work")?)),
                beneath: (!source.is_empty()).then(|| format!("/{source}")),
                user_xattr: self.facts.rootless(),
                volatile: true,
            };
            let set = ATTR_NODEV | if mount.read_only { ATTR_RDONLY } else { 0 };
            let wanted = Mount {
                target: PathBuf::from(&mount.target),
                what: MountSource::Overlay(shown),
                attributes: Attributes { set, ..Attributes::default() },
                recursive: false,
                spreads: false,
                optional: false,
            };
            let inside = |other: &Mount| other.target.starts_with(&wanted.target);
            let at = plan.mounts.iter().position(inside).unwrap_or(plan.mounts.len());
            plan.mounts.insert(at, wanted);
        }
        Ok(())
    }

    /// A failed start is part of a container's story: docker shows it as `.State.Error`.
    pub(super) fn record_failure(&self, paths: &ContainerPaths, err: &Error) {
        if self.status(paths).is_ok_and(|status| status.is_running()) {
            return;
        }
        self.forget_facts();
        let now = Timestamp::now();
        let state = StateRecord {
            started: Some(now),
            finished: Some(now),
            exit_code: Some(err.kind().exit_code().into()),
            oom_killed: false,
            error: err.to_string(),
            ..StateRecord::default()
        };
        let _ = write_json(&paths.state(), &state, Durability::Renamed);
    }

    /// The facts that the spec needs.
    pub(super) fn context<'a>(
        &self,
        record: &'a ContainerRecord,
        accounts: &Accounts,
        window: Option<(u16, u16)>,
        start: bool,
    ) -> Result<spec::Context<'a>> {
        let joined = self.joined(record)?;
        let maps = self.container_maps(record)?;
        let user = accounts.resolve(&record.config.user, &record.host.group_add, maps.as_ref())?;
        let resources = cgroup::limits::to_spec(&record.host.resources)?;
        let apt_cannot_switch =
            maps.as_ref().is_some_and(IdMaps::is_single) && accounts.has_user("_apt");
        Ok(spec::Context {
            record,
            rootful: !self.facts.rootless() && maps.is_none(),
            shifts: !self.facts.rootless() && maps.is_some(),
            devices: self.device_nodes(record, maps.is_some())?,
            maps,
            user,
            apt_cannot_switch,
            joined,
            resources,
            cgroup: None,
            has_cgroup2: false,
            has_mqueue: Path::new("/dev/mqueue").is_dir(),
            files: self.layout.container(&record.id).files(),
            network_files: self.network_files(record)?,
            host_bounding: bounding_set()?,
            kernel: (self.facts.kernel.major, self.facts.kernel.minor),
            seccomp_available: self.facts.seccomp,
            apparmor_available: self.facts.apparmor,
            volumes: self.volume_sources(record, start)?,
            images: self.image_lowers(record)?,
            overlays: self.layout.container(&record.id).overlays(),
            window,
        })
    }

    /// The namespaces of other containers, which must run.
    /// Where the files are that say how a container is connected: with whose network it has.
    pub(in crate::engine) fn network_files(&self, record: &ContainerRecord) -> Result<PathBuf> {
        let mut id = record.id.clone();
        let mut mode = record.host.namespaces.network.clone();
        while let Mode::Container(other) = mode {
            mode = self.load(&other)?.record.host.namespaces.network;
            id = other;
        }
        Ok(self.layout.container(&id).files())
    }

    fn joined(&self, record: &ContainerRecord) -> Result<Joined> {
        let modes: &NamespaceModes = &record.host.namespaces;
        let mut joined = Joined::default();
        if let UserMode::Path(path) = &modes.user {
            if modes.network == Mode::Private && self.facts.rootless() {
                return Err(Error::unsupported(
                    "a container on a network cannot join a user namespace by its path",
                )
                .hint("without root networks have user namespaces of their own: --network none or host"));
            }
            // Root's own is no other.
            if self.facts.rootless() || self.shifts(record)? {
                joined.user = Some(path.clone());
            }
        }
        let mut own = Mode::Private;
        if let UserMode::Container(id) = &modes.user
            && (self.facts.rootless() || self.shifts(record)?)
        {
            own = Mode::Container(id.clone());
        }
        let mut user = None;
        for (mode, file, place) in [
            (&own, "user", &mut user),
            (&modes.pid, "pid", &mut joined.pid),
            (&modes.ipc, "ipc", &mut joined.ipc),
            (&modes.uts, "uts", &mut joined.uts),
            (&modes.cgroup, "cgroup", &mut joined.cgroup),
            (&modes.network, "net", &mut joined.network),
        ] {
            let id = match mode {
                Mode::Container(id) => id,
                Mode::Path(path) => {
                    let user = self.foreign_namespace(file, path)?;
                    join_user_namespace(&mut joined.user, user)?;
                    *place = Some(path.clone());
                    continue;
                }
                Mode::Private | Mode::None | Mode::Host | Mode::Program(_) => continue,
            };
            let other = self.load(id)?;
            let Some(process) = other.status.process() else {
                return Err(Error::conflict(format!(
                    "cannot join the {file} namespace of a non running container: {}",
                    other.record.name
                ))
                .hint(format!("`dhow start {}` first", other.record.name)));
            };
            let namespaces = PathBuf::from(format!("/proc/{}/ns", process.init.pid));
            *place = Some(namespaces.join(file));
            // Rights over a namespace come with the user namespace that owns it.
            if self.facts.rootless() {
                let theirs = &other.record.host.namespaces.network;
                if modes.network == Mode::Private
                    && matches!(theirs, Mode::None | Mode::Host | Mode::Program(_))
                {
                    return Err(Error::unsupported(format!(
                        "a container on a network cannot join the {file} namespace of {}, which is on none",
                        other.record.name
                    ))
                    .hint("without root what is on a network is in a user namespace of its kind: start both with --network none, or none of them"));
                }
                join_user_namespace(&mut joined.user, Some(namespaces.join("user")))?;
            }
        }
        if !self.facts.rootless() {
            joined.user = joined.user.or(user);
            self.check_rights(record)?;
        }
        Ok(joined)
    }

    /// In a user namespace of its own a container may not mount what shows namespaces of others.
    fn check_rights(&self, record: &ContainerRecord) -> Result<()> {
        let modes = &record.host.namespaces;
        if modes.user == UserMode::Default || !self.shifts(record)? {
            return Ok(());
        }
        for (mode, kind) in [(&modes.pid, "pid"), (&modes.ipc, "ipc"), (&modes.cgroup, "cgroup")] {
            let shares = match mode {
                Mode::Container(id) => modes.user != UserMode::Container(id.clone()),
                Mode::Path(_) => true,
                Mode::Private | Mode::None | Mode::Host | Mode::Program(_) => false,
            };
            if shares {
                return Err(Error::unsupported(format!(
                    "the {kind} namespace of another user namespace cannot be shared"
                ))
                .hint("--userns container:NAME shares that container's user namespace, too"));
            }
        }
        Ok(())
    }

    /// Nodes to be made: what `--device` names, and for a privileged container every device of
    /// the host. In a user namespace they are bound instead (see [`bind_devices`]).
    fn device_nodes(
        &self,
        record: &ContainerRecord,
        in_user_namespace: bool,
    ) -> Result<Vec<LinuxDevice>> {
        let mut nodes = Vec::new();
        for device in &record.host.devices {
            let meta = fs::metadata(&device.host)
                .at(&device.host)
                .doing("gather device information for --device")?;
            let kind = device_type(&meta).ok_or_else(|| {
                Error::invalid(format!("{} is not a device", device.host.display()))
            })?;
            if !in_user_namespace {
                let mut own = node(Path::new(&device.container), kind, &meta)?;
                own.set_file_mode(device.mode.or(own.file_mode()));
                own.set_uid(device.uid.or(own.uid()));
                own.set_gid(device.gid.or(own.gid()));
                nodes.push(own);
            }
        }
        if record.host.privileged && !in_user_namespace {
            host_devices(Path::new("/dev"), &mut nodes)?;
        }
        Ok(nodes)
    }
}

fn device_type(meta: &fs::Metadata) -> Option<LinuxDeviceType> {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = meta.file_type();
    if kind.is_char_device() {
        Some(LinuxDeviceType::C)
    } else if kind.is_block_device() {
        Some(LinuxDeviceType::B)
    } else {
        None
    }
}

fn node(path: &Path, kind: LinuxDeviceType, meta: &fs::Metadata) -> Result<LinuxDevice> {
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(i64::from(rustix::fs::major(meta.rdev())))
        .minor(i64::from(rustix::fs::minor(meta.rdev())))
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build()
        .map_err(|err| Error::engine(format!("compose the device {}: {err}", path.display())))
}

/// Every device below `/dev` but those that belong to the host's terminals and memory.
fn host_devices(dir: &Path, nodes: &mut Vec<LinuxDevice>) -> Result<()> {
    const OWN: [&str; 12] = [
        "pts", "shm", "mqueue", "fd", "console", "ptmx", "null", "zero", "full", "random",
        "urandom", "tty",
    ];
    for entry in fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        let name = entry.file_name();
        if OWN.iter().any(|own| name == *own) {
            continue;
        }
        let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
        if meta.is_dir() {
            host_devices(&entry.path(), nodes)?;
        } else if let Some(kind) = device_type(&meta) {
            nodes.push(node(&entry.path(), kind, &meta)?);
        }
    }
    Ok(())
}

/// For `--debug`: what will be done, before it is.
fn tell_plan(plan: &Plan, placement: &cgroup::Placement) {
    log::debug!("cgroup: {placement:?}");
    log::debug!("new namespaces: {:?}, joined: {:?}", plan.namespaces, plan.join);
    log::debug!("id maps: {:?}", plan.maps);
    log::debug!("root file system: {:?}", plan.rootfs);
    for mount in &plan.mounts {
        log::debug!("mount: {mount:?}");
    }
    log::debug!("dhow starts again from a read-only view of itself: {}", plan.protect_exe);
}

/// In a user namespace a device can only be the host's own node, with the caller's own rights.
fn bind_devices(plan: &mut Plan, devices: &[crate::state::record::Device]) {
    use crate::run::plan::{Device, DeviceSource};
    if !plan.makes_or_joins(nix::sched::CloneFlags::CLONE_NEWUSER) {
        return;
    }
    plan.devices.extend(devices.iter().map(|device| Device {
        target: PathBuf::from(&device.container),
        what: DeviceSource::Bind { source: device.host.clone() },
    }));
}

/// The caller's own bounding set: no container can have more (`/proc/self/status`, CapBnd).
pub(super) fn bounding_set() -> Result<CapSet> {
    let status = fs::read_to_string("/proc/self/status").at("/proc/self/status")?;
    let bits = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
    Ok(bits.map_or(CapSet::ALL, CapSet::from_bits))
}

/// Whether some id inside could write to the executable that is running now.
pub(super) fn executable_is_exposed(maps: Option<&IdMaps>) -> bool {
    let Some(maps) = maps else { return true };
    let Ok(meta) = fs::metadata("/proc/self/exe") else { return true };
    let mapped = |ranges: &[crate::sys::user::IdRange], id: u32| {
        ranges.iter().any(|range| {
            id >= range.outside && u64::from(id) < u64::from(range.outside) + u64::from(range.size)
        })
    };
    mapped(&maps.uid, meta.uid())
        || (meta.mode() & 0o020 != 0 && mapped(&maps.gid, meta.gid()))
        || meta.mode() & 0o002 != 0
}

/// What later commands read of how the container was started. Written while init is on its way.
struct Papers<'a> {
    spec: &'a Spec,
    stack: Option<&'a Stack>,
    door: &'a Door,
}

impl Papers<'_> {
    fn write(&self, paths: &ContainerPaths) -> Result<()> {
        write_json(&paths.spec(), self.spec, Durability::Renamed)?;
        write_json(&paths.stack(), &self.stack, Durability::Renamed)?;
        self.door.write(&paths.exec_plan())
    }
}

/// Who asked for the start: they hear how it went, and have what is written from the first byte.
struct Caller {
    report: UnixStream,
    client: Option<UnixStream>,
    wants: Wants,
}

/// Who has the root file system of an earlier life mounted lets go of it: the kernel may sync it
/// for a while after the container has ended, and its upperdir is for one mount at a time.
pub(super) fn outlast_mount(paths: &ContainerPaths) -> Result<()> {
    mount_lock(paths).map(drop)
}

/// The lock of who has the root file system mounted and will be slow to let go of it.
fn mount_lock(paths: &ContainerPaths) -> Result<Lock> {
    Lock::exclusive(&paths.bundle())
}

/// Everything the process needs that becomes the monitor.
struct Launch<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    paths: &'a ContainerPaths,
    plan: &'a Plan,
    papers: Papers<'a>,
    host: &'a cgroup::Host,
    placement: cgroup::Placement,
    limits: Limits,
    /// Which devices may be used, if mounts do not say it.
    devices: Option<&'a [LinuxDeviceCgroup]>,
    /// On the container. It is inherited by all who take part in the start, so that it is held
    /// until the command runs or init is dead, whoever of them is killed.
    lock: &'a Cell<Option<Lock>>,
    options: StartOptions,
    network: Option<&'a Connection>,
}

impl Launch<'_> {
    /// Forks the process that launches the container and becomes its monitor; returns once the
    /// command runs, or is held.
    fn spawn_monitor(&self, wants: Wants) -> Result<Option<UnixStream>> {
        let alone = SingleThreaded::verify().doing("start a container")?;
        let (ours, theirs) = UnixStream::pair().doing("create a socket pair")?;
        let attached = match wants == Wants::default() {
            true => None,
            false => Some(UnixStream::pair().doing("create a socket pair")?),
        };
        match clone3(&Birth::default(), &alone).doing("start the monitor")? {
            Side::Child(new) => new.run(|| {
                drop(ours);
                let client = attached.map(|(_, theirs)| theirs);
                let caller = RefCell::new(Caller { report: theirs, client, wants });
                let Err(err) = self.launch_and_report(&caller, &alone);
                tell(&caller.borrow().report, &err);
                Err(())
            }),
            Side::Parent(mut child) => {
                drop(theirs);
                child.disarm();
                hear(&ours, "the monitor died before the container ran")?;
                // Who is told of a detached start may count on its locks and pipes being free.
                if attached.is_none() && !self.options.held {
                    hear_out(&ours);
                }
                Ok(attached.map(|(ours, _)| ours))
            }
        }
    }

    /// In the new process: launch, report, and become the monitor. Returns only on failure.
    fn launch_and_report(
        &self,
        caller: &RefCell<Caller>,
        alone: &SingleThreaded,
    ) -> Result<std::convert::Infallible> {
        nix::unistd::setsid().doing("leave the caller's session")?;
        crate::sys::process::ignore_requests_to_end().doing("block signals")?;
        // A cgroup that everyone may write to is not the caller's to choose.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let listener = monitor::listen(self.paths)?;
        let streams = match (self.record.config.tty, self.record.host.log.driver) {
            (true, _) => Streams::none(None)?,
            (false, LogDriver::Passthrough) => Streams::inherited()?,
            (false, _) => Streams::piped(self.record.config.open_stdin, None)?,
        };
        // Not before the kernel has synced what an earlier life had mounted.
        let mounted = match self.plan.rootfs.is_synced() {
            true => Some(mount_lock(self.paths)?),
            false => None,
        };
        let cgroup = self.host.create(&self.placement, &self.limits)?;
        let started = self
            .restrict_devices(cgroup.as_ref())
            .and_then(|()| self.start(&streams.inner, cgroup.as_ref(), caller, alone));
        let started = started.inspect_err(|_| {
            if let Some(cgroup) = cgroup {
                let _ = cgroup.kill();
                let _ = cgroup.remove();
            }
        })?;
        drop(streams.inner);
        // Nothing of the caller's stays open: who waits for its pipes to close must not wait for
        // the container.
        self.release_stdio()?;
        fs::File::create(self.paths.ready()).at(self.paths.ready()).doing("create")?;
        // Before this process can hear of the end.
        self.note_start(caller.borrow().client.is_some());
        drop(self.lock.take());
        special::notify(self.record, std::process::id());
        // Should the command have been killed meanwhile, what it started goes on.
        let caller = caller.borrow();
        let _ = report_success(&caller.report);

        let inheritance = Inheritance {
            layout: &self.engine.layout,
            id: &self.record.id,
            pidfd: started.child.as_fd(),
            listener: listener.as_fd(),
            client: caller.client.as_ref().map(|client| (client.as_fd(), caller.wants)),
            terminal: started.terminal.as_ref().map(|fd| fd.as_fd()),
            stdout: streams.stdout.as_ref().map(|fd| fd.as_fd()),
            stderr: streams.stderr.as_ref().map(|fd| fd.as_fd()),
            stdin: streams.stdin.as_ref().map(|fd| fd.as_fd()),
            root: started.root.as_ref().map(|fd| fd.as_fd()),
            mounted: mounted.as_ref().map(|fd| fd.as_fd()),
        };
        Err(monitor::become_monitor(&inheritance))
    }

    /// With one write, however many they are.
    fn note_start(&self, is_attached: bool) {
        if self.record.build.is_some() {
            return;
        }
        let actions = if is_attached { &["attach", "start"][..] } else { &["start"] };
        let events: Vec<_> =
            actions.iter().map(|action| journal::of_container(self.record, *action)).collect();
        journal::append_all(&self.engine.layout, &events);
    }

    fn restrict_devices(&self, cgroup: Option<&Cgroup>) -> Result<()> {
        match (self.devices, cgroup) {
            (None, _) => Ok(()),
            (Some(rules), Some(cgroup)) => cgroup.restrict_devices(rules),
            (Some(_), None) => Err(Error::unsupported(
                "restrict the container's devices: there is no cgroup for it",
            )
            .hint("`dhow doctor` says why; without --cap-add MKNOD and limited devices none is needed")),
        }
    }

    fn start(
        &self,
        stdio: &Stdio,
        cgroup: Option<&Cgroup>,
        caller: &RefCell<Caller>,
        alone: &SingleThreaded,
    ) -> Result<Started> {
        let path = cgroup.map(|cgroup| cgroup.path().to_owned());
        let record = |init, namespace: Option<BorrowedFd<'_>>| {
            let init = identity(init)?;
            let process = ProcessRecord {
                boot_id: self.engine.facts.boot_id.clone(),
                init,
                monitor: identity(std::process::id().cast_signed())?,
                started: Timestamp::now(),
                cgroup: path,
                restarting: false,
                held: self.options.held,
                afterwards: self.afterwards(),
            };
            self.record_process(&process)?;
            special::write_pids(self.record, init.pid, process.monitor.pid)?;
            self.papers.write(self.paths)?;
            self.network.map_or(Ok(()), |network| network.attach(init.pid, namespace))
        };
        let mapped = |init| self.network.map_or(Ok(()), |network| network.carry(init));
        launch(self.plan, stdio, cgroup.map(Cgroup::dir), alone, record, mapped, |init| {
            self.hold(init, caller)
        })
    }

    /// What of it is run at the end.
    fn afterwards(&self) -> Option<Box<Around>> {
        let around = self.plan.around.as_ref().filter(|it| !it.hooks.poststop.is_empty())?;
        let hooks = Hooks { poststop: around.hooks.poststop.clone(), ..Hooks::default() };
        Some(Box::new(Around { hooks, ..around.clone() }))
    }

    /// Who runs; and, unless it is only prepared, that it has been started.
    fn record_process(&self, process: &ProcessRecord) -> Result<()> {
        write_json(&self.paths.process(), process, Durability::Renamed)?;
        if process.held {
            return Ok(());
        }
        let state = StateRecord {
            started: Some(process.started),
            restarts: self.options.restarts,
            restart_delay: self.options.restart_delay,
            ..StateRecord::default()
        };
        write_json(&self.paths.state(), &state, Durability::Renamed)
    }

    /// Tells that the container is prepared, and waits until somebody else starts it: to them all
    /// that comes later is told.
    fn hold(&self, init: BorrowedFd<'_>, caller: &RefCell<Caller>) -> Result<()> {
        let gate = gate::listen(self.paths)?;
        self.release_stdio()?;
        self.engine.note(self.record, "init");
        // Init has a copy of it.
        self.lock.take().map_or(Ok(()), Lock::release)?;
        let _ = report_success(&caller.borrow().report);
        let Some((stream, wants)) = gate::wait(&gate, self.paths, init)? else {
            // Whoever has ended it and holds the lock clears up, too.
            if let Ok(Some(_lock)) = Lock::try_exclusive(self.paths.dir()) {
                let _ =
                    discard::runtime(&self.engine.layout, self.paths).and_then(Leftover::remove);
            }
            return Err(Error::conflict("the container was ended before it was started"));
        };
        let client = match wants == Wants::default() {
            true => None,
            false => Some(stream.try_clone().doing("duplicate a socket")?),
        };
        caller.replace(Caller { report: stream, client, wants });
        let process: ProcessRecord = read_json(&self.paths.process())?
            .ok_or_else(|| Error::engine("the container's process is not recorded"))?;
        self.record_process(&ProcessRecord { held: false, started: Timestamp::now(), ..process })
    }

    fn release_stdio(&self) -> Result<()> {
        let null =
            fs::OpenOptions::new().read(true).write(true).open("/dev/null").at("/dev/null")?;
        for number in 0..=2 {
            crate::sys::fd::install(null.as_fd(), number)
                .doing("let go of the caller's streams")?;
        }
        Ok(())
    }
}

/// From here on its policy holds again.
pub(super) fn forget_stop(paths: &ContainerPaths) -> Result<()> {
    match paths.stopped().exists() {
        true => fs::remove_file(paths.stopped()).at(paths.stopped()).doing("forget the stop"),
        false => Ok(()),
    }
}

/// A process is in one user namespace: what it joins has to belong to the same one.
fn join_user_namespace(joined: &mut Option<PathBuf>, user: Option<PathBuf>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    if joined.get_or_insert_with(|| user.clone()) == &user {
        return Ok(());
    }
    Err(Error::unsupported("joining namespaces of two different containers needs root")
        .hint("each rootless container has a user namespace of its own; join one container only"))
}

fn identity(pid: i32) -> Result<ProcessIdentity> {
    let start_time = start_time_of(pid)
        .ok_or_else(|| Error::engine("the container's init died before it was ready"))?;
    Ok(ProcessIdentity { pid, start_time })
}

/// The spec a container was last started with.
pub fn read_spec(paths: &ContainerPaths) -> Result<Option<Spec>> {
    crate::state::store::read_json(&paths.spec())
}
