//! Making a container: image defaults and what was typed become a record.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use jiff::Timestamp;

use super::{
    egress,
    hooks::{self, HookFile},
};
use crate::{
    engine::{Engine, user::Accounts},
    error::{Context as _, Error, Kind, Result},
    image::{Image, lock::Pin},
    oci::Digest,
    overlay::Stack,
    run::spec::{self, merge_environment},
    state::{
        ContainerId,
        health::HealthCheck,
        layout::ContainerPaths,
        name::{check_name, invent},
        project::{self, Limits},
        record::{
            ContainerConfig, ContainerRecord, HostConfig, MountKind, MountRecord, SeccompChoice,
            Storage, SystemdMode,
        },
        store::{Durability, stage, write_json, write_new},
    },
    sys::mount::sharing_of,
};

/// What was typed, before the image has its say.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// As typed; resolved already to `image`.
    pub image_name: String,
    pub name: Option<String>,
    /// `Some(vec![])` clears the image's.
    pub entrypoint: Option<Vec<String>>,
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub domainname: String,
    pub tty: bool,
    pub open_stdin: bool,
    pub attach: Vec<String>,
    pub stop_signal: Option<String>,
    pub stop_timeout: Option<i64>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// What was typed of it; the image's has the rest.
    pub health: HealthCheck,
    /// Below the image's own variables.
    pub host_env: Vec<String>,
    /// `NAME=TEXT`, in which `${NAME}` is the image's.
    pub env_merge: Vec<String>,
    /// Nothing but what was typed.
    pub unset_env: bool,
    pub image_volumes: ImageVolumes,
    /// The profile in the image's label is the container's, if there is one.
    pub seccomp_of_image: bool,
    /// Programs that may be meant for it.
    pub hooks: Vec<HookFile>,
    /// `--expose`, as `80/tcp`.
    pub exposed: Vec<String>,
    pub host: HostConfig,
}

/// What becomes of the volumes that an image declares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageVolumes {
    #[default]
    Anonymous,
    Tmpfs,
    Ignored,
}

/// The image's, those of `--expose`, and what is published.
fn exposed_ports(image: Vec<String>, typed: Vec<String>, host: &HostConfig) -> Vec<String> {
    let published =
        host.ports.iter().map(|port| format!("{}/{}", port.container_port, port.protocol));
    let mut all = image;
    for port in typed.into_iter().chain(published) {
        if !all.contains(&port) {
            all.push(port);
        }
    }
    all
}

/// Podman's, with a profile as JSON.
const SECCOMP_LABEL: &str = "io.containers.seccomp.profile";

impl Engine {
    /// Creates a container from an image that is here. Complete or not at all: until the last
    /// rename nobody can see it, and a crash leaves only what the next clean-up takes.
    pub fn create(&self, image: &Image, request: CreateRequest) -> Result<ContainerRecord> {
        // Held until the record says that the layers are in use.
        let _pin = self.pin(image)?;
        let defaults = self.defaults(image)?;
        self.create_from(defaults, request)
    }

    /// As [`create`](Self::create), on a directory of the host's that the request names.
    pub fn create_on_directory(&self, request: CreateRequest) -> Result<ContainerRecord> {
        self.create_from(Defaults::default(), request)
    }

    fn create_from(
        &self,
        defaults: Defaults,
        mut request: CreateRequest,
    ) -> Result<ContainerRecord> {
        let id = ContainerId::random()?;
        let is_named = request.name.is_some();
        let _images = self.take_images(&mut request.host)?;
        let mut record = self.resolve(defaults, request, id)?;
        let _ids = self.choose_ids(&mut record)?;
        // A container that goes with its end need not survive a power cut; a sync costs more
        // than the whole start.
        let durability = match record.host.auto_remove {
            true => Durability::Renamed,
            false => Durability::Synced,
        };
        self.create_as(record, is_named, durability)
    }

    /// As [`create`](Self::create), of a record that is complete. Its layers must be held until
    /// this returns. An invented name is replaced if another command has it meanwhile.
    pub(in crate::engine) fn create_as(
        &self,
        mut record: ContainerRecord,
        is_named: bool,
        durability: Durability,
    ) -> Result<ContainerRecord> {
        egress::check(&record.host)?;
        self.check(&record)?;
        // A build has chosen for each step.
        if record.build.is_none() {
            record.storage = self.storage_of(&record)?;
        }
        self.check_shifts(&record)?;
        self.make_sources(&record)?;
        let volumes = self.take_volumes(&record)?;

        let staged = self.layout.staging().join(format!("container-{}", record.id));
        let cleanup = Cleanup(Some(&staged));
        let lock = stage(&staged)?;
        for dir in directories(&record) {
            let path = staged.join(dir);
            fs::create_dir(&path).at(&path).doing("create")?;
        }
        // Root inside passes through it to the rootfs, and may be nobody to it.
        let bundle = staged.join("bundle");
        fs::set_permissions(&bundle, fs::Permissions::from_mode(0o711)).at(&bundle)?;
        self.fill(&record, &staged)?;
        self.copy_secrets(&record, &staged)?;
        loop {
            write_json(&staged.join("container.json"), &record, durability)?;
            match self.claim_name(&record, &staged) {
                // Another command has invented the same one meanwhile.
                Err(err) if !is_named && err.kind() == Kind::Conflict => {
                    record.name = self.free_name(&record.id);
                }
                claim => break claim?,
            }
        }
        let home = self.layout.container(&record.id);
        if let Err(err) = fs::rename(&staged, home.dir()).at(home.dir()).doing("create") {
            crate::run::discard::release_name(&self.layout.names().join(&record.name), &record.id)?;
            return Err(err);
        }
        cleanup.done();
        drop(lock);
        volumes.keep();
        self.note(&record, "create");
        Ok(record)
    }

    /// What the container's root file system will be made with; a directory of the host's is shown
    /// as it is.
    fn storage_of(&self, record: &ContainerRecord) -> Result<Storage> {
        let Some(rootfs) = &record.host.special.rootfs else { return self.storage_for_new() };
        if rootfs.shifts && self.facts.rootless() {
            return Err(Error::unsupported(
                "--rootfs ...:idmap: only root can make an id-mapped mount of the host's file systems",
            )
            .hint("leave idmap away: what is yours belongs to the container's root"));
        }
        if !rootfs.overlay {
            return Ok(Storage::Native);
        }
        match self.storage_for_new()? {
            Storage::Copy => Err(Error::unsupported(
                "--rootfs ...:O: no overlay can be mounted here, and the storage driver vfs copies images only",
            )
            .hint("`dhow doctor` tells why; leave O away to write into the directory itself")),
            storage @ (Storage::Native | Storage::Fuse) => Ok(storage),
        }
    }

    /// Makes what the root file system will be made of.
    fn fill(&self, record: &ContainerRecord, staged: &std::path::Path) -> Result<()> {
        if record.own_directory().is_some() {
            return Ok(());
        }
        if record.storage == Storage::Copy {
            if record.host.special.size_limit.is_some() {
                return Err(no_size_limit().hint("the storage driver vfs copies images"));
            }
            return self.copy_layers(record, staged);
        }
        if let Some(bytes) = record.host.special.size_limit {
            let limits = Limits { bytes, ..Limits::default() };
            project::limit(&[&staged.join("upper"), &staged.join("work")], limits)
                .map_err(|err| no_size_limit().hint(project::hint(&err)))?;
        }
        if record.storage == Storage::Fuse {
            // The server is root inside, too, and renames between upper and work.
            fs::set_permissions(staged, fs::Permissions::from_mode(0o711)).at(staged)?;
        }
        self.dress_upper(record, &staged.join("upper"))?;
        self.map_layers(record, staged)
    }

    /// The spec of the container that [`create`](Self::create) would make; nothing is made.
    pub fn dry_run(
        &self,
        image: Option<&Image>,
        mut request: CreateRequest,
    ) -> Result<crate::oci::runtime::Spec> {
        let _images = self.take_images(&mut request.host)?;
        let defaults = image.map(|image| self.defaults(image)).transpose()?.unwrap_or_default();
        let mut record = self.resolve(defaults, request, ContainerId::random()?)?;
        self.choose_ids(&mut record)?;
        spec::compose(&self.unstarted(&record)?)
    }

    pub(super) fn pin(&self, image: &Image) -> Result<Pin> {
        self.store.pin(&image.record.id)?.ok_or_else(|| {
            Error::not_found(format!("image {} was removed meanwhile", image.record.id.short()))
        })
    }

    /// What the image says.
    fn defaults(&self, image: &Image) -> Result<Defaults> {
        let stored = self.store.config(&image.record)?;
        Ok(Defaults {
            config: stored.config().clone().unwrap_or_default(),
            health: self.check_of(image)?,
            id: image.record.id.clone(),
            layers: image.record.chain_ids().cloned().collect(),
        })
    }

    /// Image defaults under what was typed.
    fn resolve(
        &self,
        image: Defaults,
        request: CreateRequest,
        id: ContainerId,
    ) -> Result<ContainerRecord> {
        let defaults = image.config;
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let (entrypoint, cmd) = match request.entrypoint {
            // Docker: another entrypoint takes the image's command away, too.
            Some(entrypoint) => (entrypoint, request.command),
            None if request.command.is_empty() => {
                (list(defaults.entrypoint()), list(defaults.cmd()))
            }
            None => (list(defaults.entrypoint()), request.command),
        };
        if entrypoint.iter().chain(&cmd).next().is_none() {
            return Err(Error::invalid("no command specified")
                .hint("the image has no CMD or ENTRYPOINT: name a command after the image"));
        }
        let mut labels: BTreeMap<String, String> =
            defaults.labels().clone().unwrap_or_default().into_iter().collect();
        let mut host = request.host;
        let profile = labels.get(SECCOMP_LABEL).filter(|_| request.seccomp_of_image);
        if let (Some(profile), SeccompChoice::Default) = (profile, &host.security.seccomp) {
            host.security.seccomp = SeccompChoice::Profile(profile.clone());
        }
        labels.extend(request.labels);
        let image_env = list(defaults.env());
        check_image_env(&image_env)?;
        let name = match &request.name {
            Some(name) => check_name(name)?.to_owned(),
            None => self.free_name(&id),
        };
        let volumes = match request.image_volumes {
            ImageVolumes::Ignored => Vec::new(),
            ImageVolumes::Anonymous | ImageVolumes::Tmpfs => list(defaults.volumes()),
        };
        if request.image_volumes == ImageVolumes::Tmpfs {
            mount_in_memory(&mut host.mounts, &volumes);
        }
        self.complete_volumes(&mut host, &volumes)?;
        let working_dir = request
            .working_dir
            .or_else(|| defaults.working_dir().clone())
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| "/".into());
        let stop_signal =
            request.stop_signal.or_else(|| defaults.stop_signal().clone()).unwrap_or_default();
        if !stop_signal.is_empty() {
            // Of the image's no one has looked yet; a container that cannot be stopped is no gift.
            crate::sys::signal::parse(&stop_signal).map_err(|err| {
                err.context("the container's stop signal")
                    .hint("--stop-signal SIGTERM chooses another than the image's")
            })?;
        }
        let mut config = ContainerConfig {
            entrypoint,
            cmd,
            env: environment(
                image_env,
                request.host_env,
                &request.env_merge,
                request.unset_env,
                &request.env,
            ),
            user: request
                .user
                .or_else(|| self.kept_user(&host))
                .or_else(|| defaults.user().clone())
                .unwrap_or_default(),
            working_dir,
            hostname: request.hostname.unwrap_or_else(|| self.default_hostname(&host, &id)),
            domainname: request.domainname,
            tty: request.tty,
            open_stdin: request.open_stdin,
            attach: request.attach,
            stop_signal,
            stop_timeout: request.stop_timeout,
            labels,
            annotations: request.annotations,
            health: health_check(image.health, request.health),
            exposed_ports: exposed_ports(list(defaults.exposed_ports()), request.exposed, &host),
            volumes,
        };
        hooks::add(&request.hooks, &config, &mut host)?;
        if is_systemd(&config, &host) {
            prepare_for_systemd(&mut config, &mut host);
        }
        Ok(ContainerRecord {
            build: None,
            id,
            name,
            created: Timestamp::now(),
            image: request.image_name,
            image_id: image.id,
            storage: self.storage.unwrap_or_default(),
            layers: image.layers,
            config,
            host,
        })
    }

    /// The image's health check.
    fn check_of(&self, image: &Image) -> Result<Option<HealthCheck>> {
        #[derive(serde::Deserialize)]
        struct Stored {
            #[serde(default)]
            config: Option<StoredConfig>,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct StoredConfig {
            #[serde(default)]
            healthcheck: Option<HealthCheck>,
        }
        let stored: Stored = self.store.read_json_blob(&image.record.id)?;
        Ok(stored.config.and_then(|config| config.healthcheck))
    }

    fn default_hostname(&self, host: &HostConfig, id: &ContainerId) -> String {
        use crate::state::record::Mode;
        // Docker: who shares a network is called as whose network it is.
        if let (Mode::Private, Mode::Container(other)) =
            (&host.namespaces.uts, &host.namespaces.network)
            && let Ok(other) = self.load(other)
        {
            return other.record.config.hostname;
        }
        match host.namespaces.uts {
            Mode::Host => nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            Mode::Private | Mode::None | Mode::Container(_) | Mode::Path(_) | Mode::Program(_) => {
                id.short().to_owned()
            }
        }
    }

    /// Everything that can be refused without starting anything is refused here.
    fn check(&self, record: &ContainerRecord) -> Result<()> {
        let mut context = self.unstarted(record)?;
        // The built-in profile is always in order, and reading it takes as long as all the rest.
        context.seccomp_available &= record.host.security.seccomp != SeccompChoice::Default;
        spec::compose(&context).map(drop)
    }

    /// What is known before a start: without a cgroup, from the image alone.
    fn unstarted<'a>(&self, record: &'a ContainerRecord) -> Result<spec::Context<'a>> {
        use crate::cgroup::limits::{Limits, online_cpus};
        let accounts = self.accounts(record, None)?;
        let context = self.context(record, &accounts, None, false)?;
        let limits = Limits::from_resources(&record.host.resources, online_cpus())?;
        if record.host.special.no_cgroup
            && !(limits.is_empty() && record.host.cgroup_parent.is_empty())
        {
            return Err(Error::invalid(
                "--cgroups disabled conflicts with limits and with --cgroup-parent",
            ));
        }
        let check = record.config.health.as_ref().and_then(HealthCheck::command);
        if record.host.special.startup.is_some() && check.is_none() {
            return Err(Error::invalid(
                "a startup check comes before a health check, and there is none",
            )
            .hint("--health-cmd gives the container one"));
        }
        if record.host.special.size_limit.is_some() {
            self.check_size_limit(record)?;
        }
        if record.host.special.split_cgroup && !record.host.cgroup_parent.is_empty() {
            return Err(Error::invalid("--cgroups split conflicts with --cgroup-parent"));
        }
        Ok(context)
    }

    /// What is known before there is a directory whose file system could be asked.
    fn check_size_limit(&self, record: &ContainerRecord) -> Result<()> {
        let missing = match record.own_directory() {
            Some(_) => "its root file system is a directory of this host's, which it writes into",
            None if self.facts.rootless() => "only root may set quotas",
            None => return Ok(()),
        };
        Err(no_size_limit().hint(missing))
    }

    /// The image's account files; `upper` is the container's own layer, once it has one.
    pub(in crate::engine) fn accounts(
        &self,
        record: &ContainerRecord,
        paths: Option<&ContainerPaths>,
    ) -> Result<Accounts> {
        let stack = self.stack(record, paths);
        for lower in &stack.lowers {
            if !lower.is_dir() {
                return Err(Error::engine(format!(
                    "layer {} of image {} is missing",
                    lower.display(),
                    record.image
                ))
                .hint("pull or load the image again"));
            }
        }
        let mut accounts = Accounts::read(|path, cap| stack.read_small(path, cap));
        accounts.add_users(&record.host.special.host_users);
        Ok(accounts)
    }

    /// The overlay of a container, or its copy alone; before it has directories of its own, the topmost
    /// layer stands in for them: what is looked for is found as it is there.
    pub(super) fn stack(&self, record: &ContainerRecord, paths: Option<&ContainerPaths>) -> Stack {
        let whole = match record.own_directory() {
            Some(dir) => Some(dir.to_owned()),
            None => paths.filter(|_| record.storage == Storage::Copy).map(ContainerPaths::copy),
        };
        let mut lowers: Vec<_> = match (&whole, &record.build, &record.host.special.rootfs) {
            (Some(_), ..) => Vec::new(),
            (None, Some(build), _) => build.lowers.clone(),
            (None, None, Some(rootfs)) => vec![rootfs.path.clone()],
            (None, None, None) => {
                record.layers.iter().rev().map(|layer| self.layout.layer_diff(layer)).collect()
            }
        };
        if lowers.is_empty() && whole.is_none() {
            lowers.extend(paths.map(ContainerPaths::empty));
        }
        let stand_in = || lowers.first().cloned().unwrap_or_else(|| self.layout.staging());
        Stack {
            upper: whole.unwrap_or_else(|| paths.map_or_else(stand_in, ContainerPaths::upper)),
            work: paths.map_or_else(stand_in, ContainerPaths::work),
            lowers,
            user_xattr: self.facts.rootless(),
            // What a step has made outlives its mount, but not a crash of its build.
            volatile: record.host.auto_remove || record.build.is_some(),
        }
    }

    /// `-v` makes a missing source directory, as docker does; `--mount` refuses.
    fn make_sources(&self, record: &ContainerRecord) -> Result<()> {
        for mount in &record.host.mounts {
            let MountKind::Bind { source, create } = &mount.kind else { continue };
            let copies_link = mount.options.iter().any(|option| option == "no-dereference");
            if source.exists() || (copies_link && source.is_symlink()) {
                self.check_sharing(source, &mount.options)?;
                continue;
            }
            if !create {
                return Err(Error::invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    source.display()
                ))
                .hint("create it, or use -v, which makes a missing directory"));
            }
            fs::create_dir_all(source).at(source).doing("create the bind source")?;
            self.check_sharing(source, &mount.options)?;
        }
        Ok(())
    }

    /// Docker's: what is mounted inside, or outside, is to be seen on the other side, and would not
    /// be. In a user namespace mounts only receive, whatever they are outside.
    fn check_sharing(&self, source: &Path, options: &[String]) -> Result<()> {
        let has = |words: [&str; 2]| options.iter().any(|word| words.contains(&word.as_str()));
        let shares = has(["shared", "rshared"]);
        if self.facts.rootless() || !(shares || has(["slave", "rslave"])) {
            return Ok(());
        }
        let Some(mount) = sharing_of(source) else { return Ok(()) };
        let (fits, wanted) = match shares {
            true => (mount.is_shared, "shared"),
            false => (mount.is_shared || mount.is_slave, "shared or slave"),
        };
        if fits {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "path {} is mounted on {} but it is not a {wanted} mount",
            source.display(),
            mount.point
        ))
        .hint(format!("`mount --make-shared {}` makes it one", mount.point)))
    }

    /// The upperdir's own mode and owner are the root directory's: those of the topmost layer.
    fn dress_upper(&self, record: &ContainerRecord, upper: &std::path::Path) -> Result<()> {
        let top = match (&record.build, &record.host.special.rootfs) {
            (Some(build), _) => build.lowers.first().cloned(),
            (None, Some(rootfs)) => Some(rootfs.path.clone()),
            (None, None) => record.layers.last().map(|layer| self.layout.layer_diff(layer)),
        };
        let mode = match top {
            Some(top) => fs::metadata(&top).at(&top)?.permissions().mode() & 0o7777,
            None => 0o755,
        };
        fs::set_permissions(upper, fs::Permissions::from_mode(mode)).at(upper)
    }

    /// One file, made exclusively, is the claim; its content is the id.
    fn claim_name(&self, record: &ContainerRecord, staged: &std::path::Path) -> Result<()> {
        let path = self.layout.names().join(&record.name);
        loop {
            if write_new(&path, record.id.as_str().as_bytes(), staged)? {
                return Ok(());
            }
            // A claim without a container is what a crash left between the two.
            let owner = fs::read_to_string(&path).unwrap_or_default();
            let abandoned = owner.trim().parse::<ContainerId>().is_ok_and(|owner| {
                let staged = self.layout.staging().join(format!("container-{owner}"));
                !self.layout.container(&owner).dir().exists() && !staged.exists()
            });
            if abandoned {
                crate::run::discard::release_name(&path, &owner.trim().parse()?)?;
                continue;
            }
            let short = owner.get(..12).unwrap_or("another container").to_owned();
            return Err(Error::conflict(format!(
                "the container name \"{}\" is already in use by {short}",
                record.name
            ))
            .hint(format!(
                "`dhow rm {0}` frees it, `dhow rename {0} OTHER` keeps both",
                record.name
            )));
        }
    }

    /// An invented name that is free at this moment.
    pub fn free_name(&self, id: &ContainerId) -> String {
        (0..)
            .map(|attempt| invent(id, attempt))
            .find(|name| !self.layout.names().join(name).exists())
            .unwrap_or_else(|| id.short().to_owned())
    }
}

/// What an image says about its containers; of a directory of the host's nobody says anything.
struct Defaults {
    config: crate::oci::image::Config,
    health: Option<HealthCheck>,
    id: Digest,
    layers: Vec<Digest>,
}

impl Default for Defaults {
    fn default() -> Self {
        let config = crate::oci::image::Config::default();
        Self { config, health: None, id: Digest::of(b""), layers: Vec::new() }
    }
}

/// The image's check under what was typed; `None` if there is none.
fn health_check(of_image: Option<HealthCheck>, typed: HealthCheck) -> Option<HealthCheck> {
    if typed.test.first().is_some_and(|kind| kind == "NONE") {
        return Some(typed);
    }
    let mut check = of_image.unwrap_or_default();
    if !typed.test.is_empty() {
        check.test = typed.test;
    }
    for (mine, theirs) in [
        (&mut check.interval, typed.interval),
        (&mut check.timeout, typed.timeout),
        (&mut check.start_period, typed.start_period),
        (&mut check.start_interval, typed.start_interval),
    ] {
        if theirs != 0 {
            *mine = theirs;
        }
    }
    if typed.retries != 0 {
        check.retries = typed.retries;
    }
    (!check.test.is_empty()).then_some(check)
}

/// The image's variables under what was typed.
fn environment(
    image: Vec<String>,
    host: Vec<String>,
    merged: &[String],
    unset: bool,
    typed: &[String],
) -> Vec<String> {
    let merged: Vec<String> = merged.iter().map(|entry| expand(entry, &image)).collect();
    let mut base = if host.is_empty() { image } else { merge_environment(host, &image) };
    if unset {
        // Bare names, which are taken away at the end; dhow's own defaults with them.
        let name = |entry: &String| entry.split('=').next().unwrap_or(entry).to_owned();
        base = base.iter().map(name).chain(["PATH", "TERM"].map(str::to_owned)).collect();
    }
    merge_environment(merge_environment(base, &merged), typed)
}

/// `$NAME` and `${NAME}` of the value, as the image sets them.
fn expand(entry: &str, image: &[String]) -> String {
    let value = |name: &str| {
        let of = |entry: &String| Some(entry.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        image.iter().rev().find_map(of).unwrap_or_default()
    };
    let mut text = String::new();
    let mut rest = entry;
    while let Some((before, behind)) = rest.split_once('$') {
        text.push_str(before);
        let braced = behind.strip_prefix('{').and_then(|name| name.split_once('}'));
        let end = behind.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
        let (name, after) = braced.unwrap_or(behind.split_at(end.unwrap_or(behind.len())));
        match name {
            "" => text.push('$'),
            name => text.push_str(&value(name)),
        }
        rest = after;
    }
    text + rest
}

/// A tmpfs at each of the image's volumes that nothing else is mounted on.
fn mount_in_memory(mounts: &mut Vec<MountRecord>, volumes: &[String]) {
    for path in volumes {
        let target = spec::clean(path);
        if mounts.iter().all(|mount| spec::clean(&mount.target) != target) {
            mounts.push(MountRecord {
                kind: MountKind::Tmpfs,
                target,
                read_only: false,
                options: vec!["exec".into()],
            });
        }
    }
}

/// `--systemd always`, or `true` and the command is one.
fn is_systemd(config: &ContainerConfig, host: &HostConfig) -> bool {
    const PROGRAMS: [&str; 5] =
        ["/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init", "systemd", "init"];
    let command = config.entrypoint.iter().chain(&config.cmd).next();
    let is_one =
        |command: &String| PROGRAMS.contains(&command.as_str()) || command.ends_with("/systemd");
    match host.special.systemd {
        SystemdMode::Never => false,
        SystemdMode::Always => true,
        SystemdMode::IfCommand => command.is_some_and(is_one),
    }
}

/// What systemd wants of who starts it in a container (systemd.io, "The Container Interface"), as
/// podman gives it.
fn prepare_for_systemd(config: &mut ContainerConfig, host: &mut HostConfig) {
    for (path, mode) in
        [("/run", "755"), ("/run/lock", "1777"), ("/tmp", "1777"), ("/var/log/journal", "755")]
    {
        if host.mounts.iter().all(|mount| spec::clean(&mount.target) != path) {
            let size = host.special.systemd_size.map(|bytes| format!("size={bytes}"));
            let options = ["exec".to_owned(), format!("mode={mode}")].into_iter().chain(size);
            host.mounts.push(MountRecord {
                kind: MountKind::Tmpfs,
                target: path.into(),
                read_only: false,
                options: options.collect(),
            });
        }
    }
    if !config.env.iter().any(|entry| entry.starts_with("container=")) {
        config.env.push("container=dhow".into());
    }
    if config.stop_signal.is_empty() {
        config.stop_signal = "SIGRTMIN+3".into();
    }
    host.special.systemd = SystemdMode::Always;
}

/// Docker's words.
fn no_size_limit() -> Error {
    Error::unsupported(
        "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
    )
}

/// What a container's directory is made with.
fn directories(record: &ContainerRecord) -> Vec<&'static str> {
    let mut dirs = vec!["bundle", "files"];
    let is_empty = record.layers.is_empty();
    match record.storage {
        _ if record.own_directory().is_some() => {}
        Storage::Native | Storage::Fuse => {
            dirs.extend(["bundle/rootfs", "upper", "work"]);
            dirs.extend(is_empty.then_some("empty"));
        }
        Storage::Copy => {
            dirs.push("copy");
            dirs.extend(is_empty.then_some("copy/diff"));
        }
    }
    dirs
}

/// Environment entries of an image are data from a stranger: they must at least be entries.
fn check_image_env(env: &[String]) -> Result<()> {
    match env.iter().find(|entry| entry.starts_with('=') || entry.contains('\0')) {
        Some(bad) => Err(Error::invalid(format!("the image sets a malformed variable {bad:?}"))),
        None => Ok(()),
    }
}

/// Removes a staged container unless told that it is done.
struct Cleanup<'path>(Option<&'path std::path::Path>);

impl Cleanup<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // What is left of a copy may belong to subordinate ids.
            let _ = crate::run::discard::remove_tree(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_refer_to_the_images() {
        let image = ["PATH=/bin".to_owned(), "A=1".to_owned()];
        assert_eq!(expand("PATH=${PATH}:/x", &image), "PATH=/bin:/x");
        assert_eq!(expand("B=$A-$NONE-$", &image), "B=1--$");
        let merged = ["A=${A}2".to_owned()];
        let typed = ["C=3".to_owned()];
        assert_eq!(
            environment(image.to_vec(), vec!["A=0".into(), "H=h".into()], &merged, false, &typed),
            ["A=12", "H=h", "PATH=/bin", "C=3"]
        );
        let alone = environment(image.to_vec(), Vec::new(), &[], true, &typed);
        assert_eq!(spec::without_unset(alone), ["C=3"]);
    }
}
