//! Everything about one container or image, in docker's words.
//!
//! What docker leaves out when it is empty is null here, so that a template may ask for it.

mod network;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value, json};

use super::{
    Engine,
    container::{Container, Status},
    volume::DRIVER as DRIVER_OF_VOLUMES,
};
use crate::{
    error::{Error, Kind, Result},
    image::{Image, store::CONFIG_MAX},
    oci::Reference,
    security::paths,
    state::{
        health::{HealthState, Startup},
        layout::ContainerPaths,
        record::{
            ContainerConfig, ContainerRecord, DeviceLimit, HostConfig, ImageMount, Mode, MountKind,
            MountRecord, SeccompChoice, SecretGrant, SecretShown, SecurityOptions, StateRecord,
            UserMode, VolumeMount, VolumeOrigin,
        },
        store::read_json,
    },
};

/// Which kind of object a name is looked up as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectType {
    Container,
    Image,
    Volume,
    /// A container, else an image, else a volume.
    Any,
}

/// One object's description, its fields in docker's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Document(pub(super) Vec<(&'static str, Value)>);

impl Document {
    /// For templates.
    pub fn to_value(&self) -> Value {
        let fields = self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Value::Object(fields.collect())
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// What docker calls layers that are kept apart.
const DRIVER: &str = "overlay2";
/// Docker's time for what never happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Engine {
    /// Describes what `typed` means; with `sizes`, a container's files are measured.
    pub fn inspect(&self, typed: &str, kind: ObjectType, sizes: bool) -> Result<Document> {
        if kind == ObjectType::Volume {
            return self.describe_volume(typed);
        }
        if kind != ObjectType::Image {
            match self.container(typed) {
                Ok(container) => return self.describe_container(&container, sizes),
                Err(err) if err.kind() != Kind::NotFound || kind == ObjectType::Container => {
                    return Err(err);
                }
                Err(_) => {}
            }
        }
        match self.here(typed) {
            Ok(Some(image)) => self.describe_image(&image),
            Ok(None) | Err(_)
                if kind == ObjectType::Any
                    && crate::volume::find(&self.layout, typed)?.is_some() =>
            {
                self.describe_volume(typed)
            }
            Err(err) if typed.parse::<Reference>().is_ok() => Err(err),
            // What cannot be an image's name names none.
            Ok(None) | Err(_) => Err(match kind {
                ObjectType::Image => Error::not_found(format!("No such image: {typed}"))
                    .hint("`dhow images` lists the images there are"),
                ObjectType::Container | ObjectType::Volume | ObjectType::Any => {
                    Error::not_found(format!("No such object: {typed}"))
                }
            }),
        }
    }

    /// Describes the volume of this name.
    pub fn describe_volume(&self, name: &str) -> Result<Document> {
        let record = self.volume(name)?;
        let map = |map: &BTreeMap<String, String>| match map.is_empty() {
            true => Value::Null,
            false => json!(map),
        };
        Ok(Document(vec![
            ("CreatedAt", json!(record.created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())),
            ("Driver", json!(DRIVER_OF_VOLUMES)),
            ("Labels", map(&record.labels)),
            ("Mountpoint", json!(self.layout.volume(name).data())),
            ("Name", json!(record.name)),
            ("Options", map(&record.options)),
            ("Scope", json!("local")),
        ]))
    }

    fn describe_container(&self, container: &Container, sizes: bool) -> Result<Document> {
        let Container { record, status } = container;
        let paths = self.layout.container(&record.id);
        let command: Vec<&String> =
            record.config.entrypoint.iter().chain(&record.config.cmd).collect();
        let (path, args) = command.split_first().map_or(("", &[][..]), |(path, args)| (path, args));
        // Written when the container is first started.
        let shared = self.network_files(record).unwrap_or_else(|_| paths.files());
        let file = |name: &str| {
            let dir = if name == "hostname" { &paths.files() } else { &shared };
            let path = dir.join(name);
            if path.exists() { json!(path) } else { json!("") }
        };
        let (own, all) = match sizes {
            true => {
                let (own, all) = self.sizes(&record.id, &record.image_id)?;
                (Some(own), Some(all))
            }
            false => (None, None),
        };
        let rootfs = record.host.special.rootfs.as_ref();
        let log = &record.host.log;
        let log_path = log
            .driver
            .has_file()
            .then(|| log.path.clone().unwrap_or_else(|| paths.log(log.driver)));
        Ok(Document(vec![
            ("Id", json!(record.id)),
            ("Created", json!(record.created)),
            ("Path", json!(path)),
            ("Args", json!(args)),
            ("State", state(status, self.health(record))),
            ("Image", rootfs.map_or_else(|| json!(record.image_id), |_| json!(""))),
            ("ResolvConfPath", file("resolv.conf")),
            ("HostnamePath", file("hostname")),
            ("HostsPath", file("hosts")),
            ("LogPath", log_path.map_or(json!(""), |path| json!(path))),
            ("Name", json!(format!("/{}", record.name))),
            ("RestartCount", json!(self.restarts(&paths))),
            ("Driver", json!(record.storage.driver())),
            ("Platform", json!("linux")),
            ("MountLabel", json!("")),
            ("ProcessLabel", json!("")),
            ("AppArmorProfile", json!(record.host.security.apparmor.as_deref().unwrap_or(""))),
            ("ExecIDs", Value::Null),
            ("HostConfig", host_config(&record.host)?),
            ("GraphDriver", self.graph_driver(record, &paths)),
            ("SizeRw", json!(own)),
            ("SizeRootFs", json!(all)),
            ("Mounts", record.host.mounts.iter().filter_map(|one| self.mount(one)).collect()),
            ("Config", own_config(record)),
            ("NetworkSettings", self.network_settings(record, status)),
        ]))
    }

    /// How often its policy has started it again since a user did.
    fn restarts(&self, paths: &ContainerPaths) -> u32 {
        let state: Option<StateRecord> = read_json(&paths.state()).ok().flatten();
        state.map_or(0, |state| state.restarts)
    }

    fn graph_driver(&self, record: &ContainerRecord, paths: &ContainerPaths) -> Value {
        let name = record.storage.driver();
        if !record.is_stacked() {
            let dir = record.own_directory().map_or_else(|| paths.copy(), Path::to_path_buf);
            return json!({ "Name": name, "Data": { "MergedDir": dir } });
        }
        let lowers = match &record.host.special.rootfs {
            Some(rootfs) => vec![rootfs.path.clone()],
            None => record.layers.iter().rev().map(|layer| self.layout.layer_diff(layer)).collect(),
        };
        json!({
            "Name": name,
            "Data": {
                "ID": record.id,
                "LowerDir": joined(lowers.into_iter()),
                "UpperDir": paths.upper(),
                "WorkDir": paths.work(),
                // In the container's own mount namespace only.
                "MergedDir": paths.rootfs(),
            },
        })
    }

    fn describe_image(&self, image: &Image) -> Result<Document> {
        let record = &image.record;
        // As it was pulled: fields that this version does not know are shown, too.
        let blob = self.store.read_blob(&record.id, CONFIG_MAX)?;
        let stored: Value = serde_json::from_slice(&blob)?;
        let text = |field: &str| stored[field].as_str().unwrap_or_default().to_owned();
        let comment = stored["history"]
            .as_array()
            .and_then(|history| history.last()?.get("comment")?.as_str())
            .unwrap_or_default();
        let tags = image.names.iter().filter(|name| name.name.tag().is_some());
        let tags: Vec<String> = tags.map(|name| name.name.familiar()).collect();
        let digests = image.names.iter().filter_map(|name| {
            let digest = name.digest.as_ref().or(name.name.digest())?;
            Some(format!("{}@{digest}", name.name.familiar_repository()))
        });
        let mut digests: Vec<String> = digests.collect();
        digests.dedup();
        let diff_ids: Vec<_> = record.layers.iter().map(|layer| &layer.diff_id).collect();
        let mut dirs =
            record.layers.iter().rev().map(|layer| self.layout.layer_diff(&layer.chain_id));
        Ok(Document(vec![
            ("Id", json!(record.id)),
            ("RepoTags", json!(tags)),
            ("RepoDigests", json!(digests)),
            ("Parent", json!("")),
            ("Comment", json!(comment)),
            ("Created", json!(record.created.map_or_else(String::new, |at| at.to_string()))),
            ("DockerVersion", json!(text("docker_version"))),
            ("Author", json!(text("author"))),
            ("Config", image_config(&stored["config"])),
            ("Architecture", json!(record.platform.architecture)),
            ("Variant", json!(record.platform.variant.as_deref().unwrap_or_default())),
            ("Os", json!(record.platform.os)),
            ("Size", json!(record.size)),
            (
                "GraphDriver",
                json!({
                    "Name": DRIVER,
                    "Data": {
                        "UpperDir": dirs.next(),
                        "LowerDir": joined(dirs),
                        // An image by itself is not mounted.
                        "MergedDir": null,
                        "WorkDir": null,
                    },
                }),
            ),
            ("RootFS", json!({ "Type": "layers", "Layers": diff_ids })),
            ("Metadata", json!({ "LastTagTime": record.added })),
        ]))
    }
}

/// Directories as overlayfs writes them, topmost first.
fn joined(dirs: impl Iterator<Item = PathBuf>) -> String {
    dirs.map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":")
}

/// Null for what is empty.
fn unless_empty<T: Serialize>(list: &[T]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

/// Docker's sets: objects whose keys are the members.
fn set(members: &[String]) -> Value {
    if members.is_empty() {
        return Value::Null;
    }
    members.iter().map(|member| (member.clone(), json!({}))).collect::<Map<_, _>>().into()
}

fn state(status: &Status, health: Option<HealthState>) -> Value {
    let health = health.map(|health| HealthState { startup: Startup::default(), ..health });
    let moment = |moment: Option<Timestamp>| moment.map_or(NEVER.to_owned(), |at| at.to_string());
    let (pid, oom_killed, error) = match status {
        Status::Created => (0, false, ""),
        Status::Initialized(process) | Status::Running(process) | Status::Paused(process) => {
            (process.init.pid, false, "")
        }
        Status::Exited(state) | Status::Restarting(state) | Status::Lost(state) => {
            (0, state.oom_killed, state.error.as_str())
        }
    };
    // Docker: what will run again at once counts as running.
    let restarting = matches!(status, Status::Restarting(_));
    json!({
        "Status": status.word(),
        "Running": status.is_running() || restarting,
        "Paused": matches!(status, Status::Paused(_)),
        "Restarting": restarting,
        "OOMKilled": oom_killed,
        "Dead": false,
        "Pid": pid,
        "ExitCode": status.exit_code(),
        "Error": error,
        "StartedAt": moment(status.started()),
        "FinishedAt": moment(status.finished()),
        "Health": health,
    })
}

/// With podman's list of secrets, if there are any; never their values.
fn own_config(record: &ContainerRecord) -> Value {
    let mut config = config(&record.config, &record.image, &record.host.mounts);
    if let Some(startup) = &record.host.special.startup {
        config["StartupHealthCheck"] = json!(startup);
    }
    let secrets = &record.host.special.secrets;
    if !secrets.is_empty() {
        config["Secrets"] = secrets.iter().map(secret).collect();
    }
    config
}

fn secret(grant: &SecretGrant) -> Value {
    let (uid, gid, mode) = match grant.shown {
        SecretShown::Mount { uid, gid, mode, .. } => (uid, gid, mode),
        SecretShown::Env { .. } => (0, 0, 0),
    };
    json!({ "Name": grant.name, "ID": grant.id, "UID": uid, "GID": gid, "Mode": mode })
}

fn config(config: &ContainerConfig, image: &str, mounts: &[MountRecord]) -> Value {
    let attached = |stream: &str| config.attach.iter().any(|name| name == stream);
    json!({
        "Hostname": config.hostname,
        "Domainname": config.domainname,
        "User": config.user,
        "AttachStdin": attached("stdin"),
        "AttachStdout": attached("stdout"),
        "AttachStderr": attached("stderr"),
        "ExposedPorts": set(&config.exposed_ports),
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.open_stdin && attached("stdin"),
        "Env": config.env,
        "Cmd": unless_empty(&config.cmd),
        "Healthcheck": config.health,
        "Image": image,
        "Volumes": set(&[&config.volumes[..], &anonymous_targets(mounts)].concat()),
        "WorkingDir": config.working_dir,
        "Entrypoint": unless_empty(&config.entrypoint),
        "OnBuild": null,
        "Labels": config.labels,
        "Annotations": config.annotations,
        "StopSignal": if config.stop_signal.is_empty() { "SIGTERM" } else { &config.stop_signal },
        "StopTimeout": config.stop_timeout,
        "Shell": null,
    })
}

/// Docker's form of CDI devices.
fn device_requests(names: &[String]) -> Value {
    match names {
        [] => Value::Null,
        names => json!([{
            "Driver": "cdi",
            "Count": 0,
            "DeviceIDs": names,
            "Capabilities": null,
            "Options": null,
        }]),
    }
}

fn devices_with(value: &str, limits: &[DeviceLimit]) -> Value {
    limits.iter().map(|limit| json!({ "Path": limit.path, value: limit.value })).collect()
}

fn host_config(host: &HostConfig) -> Result<Value> {
    let Value::Object(mut fields) = json!({
        "Binds": unless_empty(&host.mounts.iter().filter_map(bind).collect::<Vec<_>>()),
        "ContainerIDFile": host.cid_file.as_deref().unwrap_or(Path::new("")),
        "LogConfig": { "Type": host.log.driver.name(), "Config": log_options(host) },
        "NetworkMode": network::mode_name(host),
        "PortBindings": network::port_bindings(host),
        "RestartPolicy": { "Name": host.restart.word(), "MaximumRetryCount": host.restart.max },
        "AutoRemove": host.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": unless_empty(&host.volumes_from),
        "CapAdd": unless_empty(&capabilities(&host.cap_add)),
        "CapDrop": unless_empty(&capabilities(&host.cap_drop)),
        "CgroupnsMode": mode(&host.namespaces.cgroup, "private"),
        "Dns": host.dns,
        "DnsOptions": host.dns_options,
        "DnsSearch": host.dns_search,
        "ExtraHosts": unless_empty(&host.extra_hosts),
        "GroupAdd": unless_empty(&host.group_add),
        "IpcMode": mode(&host.namespaces.ipc, "private"),
        "Cgroup": "",
        "Links": null,
        "OomScoreAdj": host.oom_score_adj.unwrap_or(0),
        "PidMode": mode(&host.namespaces.pid, ""),
        "Privileged": host.privileged,
        "PublishAllPorts": host.publish_all,
        "ReadonlyRootfs": host.read_only,
        "SecurityOpt": unless_empty(&security_options(&host.security)),
        "Tmpfs": tmpfs(&host.mounts),
        "UTSMode": mode(&host.namespaces.uts, ""),
        "UsernsMode": user_mode(&host.namespaces.user),
        "ShmSize": host.shm_size.unwrap_or(64 << 20),
        "Sysctls": if host.sysctls.is_empty() { Value::Null } else { json!(host.sysctls) },
        "Runtime": "dhow",
        "Mounts": unless_empty(&host.mounts.iter().filter_map(strict_bind).collect::<Vec<_>>()),
        "Init": host.init,
    }) else {
        return Err(Error::engine("describe the container's host configuration"));
    };
    let paths = paths::resolve(&host.security.mask, &host.security.unmask, host.privileged)?;
    if let Some(policy) = &host.egress {
        fields.insert("Egress".into(), json!(policy.typed()));
    }
    if let Some(bytes) = host.special.size_limit {
        fields.insert("StorageOpt".into(), json!({ "size": bytes.to_string() }));
    }
    fields.insert("MaskedPaths".into(), json!(paths.masked));
    fields.insert("ReadonlyPaths".into(), json!(paths.read_only));
    fields.extend(resources(host));
    Ok(Value::Object(fields))
}

/// Docker's spelling: `CAP_NET_ADMIN`, and `ALL`.
fn capabilities(typed: &[String]) -> Vec<String> {
    let spelled = |name: &String| {
        let upper = name.to_ascii_uppercase();
        match upper.as_str() == "ALL" || upper.starts_with("CAP_") {
            true => upper,
            false => format!("CAP_{upper}"),
        }
    };
    typed.iter().map(spelled).collect()
}

/// Limits; docker's zeros are "none".
fn resources(host: &HostConfig) -> Map<String, Value> {
    let limits = &host.resources;
    let limit = |value: u64| i64::try_from(value).unwrap_or(-1);
    let ulimits: Vec<Value> = host
        .ulimits
        .iter()
        .map(|ulimit| {
            let (hard, soft) = (limit(ulimit.hard), limit(ulimit.soft));
            json!({ "Name": ulimit.name, "Hard": hard, "Soft": soft })
        })
        .collect();
    let devices: Vec<Value> = host
        .devices
        .iter()
        .map(|device| {
            json!({
                "PathOnHost": device.host,
                "PathInContainer": device.container,
                "CgroupPermissions": device.permissions,
            })
        })
        .collect();
    let fields = [
        ("CpuShares", json!(limits.cpu_shares.unwrap_or(0))),
        ("Memory", json!(limits.memory.unwrap_or(0))),
        ("NanoCpus", json!(limits.nano_cpus.unwrap_or(0))),
        ("CgroupParent", json!(host.cgroup_parent)),
        ("BlkioWeight", json!(limits.blkio_weight.unwrap_or(0))),
        ("BlkioWeightDevice", devices_with("Weight", &limits.blkio_weight_device)),
        ("BlkioDeviceReadBps", devices_with("Rate", &limits.device_read_bps)),
        ("BlkioDeviceWriteBps", devices_with("Rate", &limits.device_write_bps)),
        ("BlkioDeviceReadIOps", devices_with("Rate", &limits.device_read_iops)),
        ("BlkioDeviceWriteIOps", devices_with("Rate", &limits.device_write_iops)),
        ("CpuPeriod", json!(limits.cpu_period.unwrap_or(0))),
        ("CpuQuota", json!(limits.cpu_quota.unwrap_or(0))),
        ("CpusetCpus", json!(limits.cpuset_cpus.as_deref().unwrap_or(""))),
        ("CpusetMems", json!(limits.cpuset_mems.as_deref().unwrap_or(""))),
        ("Devices", json!(devices)),
        ("DeviceCgroupRules", unless_empty(&host.device_rules)),
        ("DeviceRequests", device_requests(&host.special.cdi)),
        ("MemoryReservation", json!(limits.memory_reservation.unwrap_or(0))),
        ("MemorySwap", json!(limits.memory_swap.unwrap_or(0))),
        ("MemorySwappiness", Value::Null),
        ("OomKillDisable", Value::Null),
        ("PidsLimit", json!(limits.pids_limit)),
        ("Ulimits", json!(ulimits)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn log_options(host: &HostConfig) -> Value {
    if !host.log.options.is_empty() {
        return json!(host.log.options);
    }
    // Of a container that was made before options were kept as they were written.
    let mut options = Map::new();
    if let Some(size) = host.log.max_size {
        options.insert("max-size".into(), json!(size.to_string()));
    }
    if host.log.max_file > 1 {
        options.insert("max-file".into(), json!(host.log.max_file.to_string()));
    }
    options.into()
}

/// `private` is docker's word for a namespace of the container's own.
fn mode(mode: &Mode, private: &str) -> String {
    match mode {
        Mode::Private => private.to_owned(),
        Mode::None => "none".to_owned(),
        Mode::Host => "host".to_owned(),
        Mode::Container(id) => format!("container:{id}"),
        Mode::Path(path) => format!("ns:{}", path.display()),
        Mode::Program(carrier) => carrier.program.name().to_owned(),
    }
}

fn user_mode(mode: &UserMode) -> String {
    match mode {
        UserMode::Default => String::new(),
        UserMode::Host => "host".into(),
        UserMode::Nomap => "nomap".into(),
        UserMode::Auto(_) => "auto".into(),
        UserMode::Own { typed, .. } => typed.clone(),
        UserMode::Container(id) => format!("container:{id}"),
        UserMode::Path(path) => format!("ns:{}", path.display()),
        UserMode::KeepId { uid, gid, size } => {
            let part = |name: &str, id: &Option<u32>| id.map(|id| format!("{name}={id}"));
            let parts: Vec<String> = [part("uid", uid), part("gid", gid), part("size", size)]
                .into_iter()
                .flatten()
                .collect();
            let colon = if parts.is_empty() { "" } else { ":" };
            format!("keep-id{colon}{}", parts.join(","))
        }
    }
}

fn security_options(security: &SecurityOptions) -> Vec<String> {
    let mut options = Vec::new();
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    match &security.seccomp {
        SeccompChoice::Default => {}
        SeccompChoice::Unconfined => options.push("seccomp=unconfined".to_owned()),
        SeccompChoice::Profile(text) => options.push(format!("seccomp={text}")),
    }
    options.extend(security.apparmor.iter().map(|name| format!("apparmor={name}")));
    options.extend(security.label.iter().map(|label| format!("label={label}")));
    options.extend(security.mask.iter().map(|path| format!("mask={path}")));
    options.extend(security.unmask.iter().map(|path| format!("unmask={path}")));
    options
}

/// What `-v` was given: `SOURCE:TARGET[:OPTIONS]`.
fn bind(mount: &MountRecord) -> Option<String> {
    let source = match &mount.kind {
        MountKind::Bind { source, create: true } => source.display().to_string(),
        MountKind::Volume(volume) if volume.origin == VolumeOrigin::Short && !volume.anonymous => {
            volume.name.clone()
        }
        MountKind::Bind { .. } | MountKind::Volume(_) | MountKind::Image(_) => return None,
        MountKind::Tmpfs | MountKind::Ramfs | MountKind::Devpts => return None,
    };
    let options = options(mount);
    let colon = if options.is_empty() { "" } else { ":" };
    Some(format!("{source}:{}{colon}{options}", mount.target))
}

/// What `--mount` was given.
fn strict_bind(mount: &MountRecord) -> Option<Value> {
    let (kind, source, options) = match &mount.kind {
        MountKind::Bind { source, create: false } => ("bind", json!(source), Value::Null),
        MountKind::Volume(volume) if volume.origin == VolumeOrigin::Long => {
            let name = if volume.anonymous { "" } else { &volume.name };
            ("volume", json!(name), volume_options(volume))
        }
        MountKind::Image(image) => ("image", json!(image.name), image_options(image)),
        MountKind::Bind { .. } | MountKind::Volume(_) => return None,
        MountKind::Tmpfs | MountKind::Ramfs | MountKind::Devpts => return None,
    };
    let mut told = json!({
        "Type": kind, "Source": source, "Target": mount.target, "ReadOnly": mount.read_only,
    });
    if !options.is_null() {
        told[if kind == "image" { "ImageOptions" } else { "VolumeOptions" }] = options;
    }
    Some(told)
}

fn image_options(image: &ImageMount) -> Value {
    match image.subpath.as_str() {
        "" => Value::Null,
        subpath => json!({ "Subpath": subpath }),
    }
}

/// Null if there are none.
fn volume_options(volume: &VolumeMount) -> Value {
    let mut told = Map::new();
    if volume.no_copy {
        told.insert("NoCopy".into(), json!(true));
    }
    if !volume.subpath.is_empty() {
        told.insert("Subpath".into(), json!(volume.subpath));
    }
    if !volume.labels.is_empty() {
        told.insert("Labels".into(), json!(volume.labels));
    }
    if !volume.options.is_empty() {
        told.insert("DriverConfig".into(), json!({ "Options": volume.options }));
    }
    if told.is_empty() { Value::Null } else { told.into() }
}

/// Docker shows what `-v /path` was given beside what the image declares.
fn anonymous_targets(mounts: &[MountRecord]) -> Vec<String> {
    let anonymous = mounts.iter().filter(|mount| {
        matches!(&mount.kind, MountKind::Volume(volume)
            if volume.anonymous && volume.origin == VolumeOrigin::Short)
    });
    anonymous.map(|mount| mount.target.clone()).collect()
}

fn options(mount: &MountRecord) -> String {
    let read_only = mount.read_only.then(|| "ro".to_owned());
    let no_copy = matches!(&mount.kind, MountKind::Volume(volume)
        if volume.no_copy && volume.origin == VolumeOrigin::Short);
    let no_copy = no_copy.then(|| "nocopy".to_owned());
    let options = read_only.into_iter().chain(no_copy).chain(mount.options.iter().cloned());
    options.collect::<Vec<_>>().join(",")
}

impl Engine {
    /// An entry of `.Mounts`.
    fn mount(&self, mount: &MountRecord) -> Option<Value> {
        match &mount.kind {
            MountKind::Bind { source, .. } => Some(bind_mount(mount, source)),
            MountKind::Volume(volume) => Some(json!({
                "Type": "volume",
                "Name": volume.name,
                "Source": self.layout.volume(&volume.name).data(),
                "Destination": mount.target,
                "Driver": DRIVER_OF_VOLUMES,
                "Mode": volume_mode(mount, volume),
                "RW": !mount.read_only,
                "Propagation": "",
            })),
            MountKind::Image(image) => Some(json!({
                "Type": "image",
                "Name": image.name,
                "Source": image.id,
                "Destination": mount.target,
                "Mode": options(mount),
                "RW": !mount.read_only,
                "Propagation": "",
            })),
            MountKind::Tmpfs | MountKind::Ramfs | MountKind::Devpts => None,
        }
    }
}

/// What was typed; docker's `z` where nothing was.
fn volume_mode(mount: &MountRecord, volume: &VolumeMount) -> String {
    let options = options(mount);
    let shares_label = match volume.origin {
        VolumeOrigin::Short => !volume.anonymous && options.is_empty(),
        VolumeOrigin::Long => true,
        VolumeOrigin::Image | VolumeOrigin::From => return String::new(),
    };
    if shares_label { "z".into() } else { options }
}

fn bind_mount(mount: &MountRecord, source: &Path) -> Value {
    let propagation = mount.options.iter().rev().find(|option| {
        ["private", "shared", "slave"].contains(&option.strip_prefix('r').unwrap_or(option))
    });
    json!({
        "Type": "bind",
        "Source": source,
        "Destination": mount.target,
        "Mode": options(mount),
        "RW": !mount.read_only,
        "Propagation": propagation.map_or("rprivate", String::as_str),
    })
}

fn tmpfs(mounts: &[MountRecord]) -> Value {
    let mounts = mounts.iter().filter(|mount| mount.kind == MountKind::Tmpfs);
    let mounts: Map<_, _> =
        mounts.map(|mount| (mount.target.clone(), json!(options(mount)))).collect();
    if mounts.is_empty() { Value::Null } else { mounts.into() }
}

/// The image's own, with what it leaves out.
fn image_config(stored: &Value) -> Value {
    let Value::Object(mut config) = json!({
        "User": "", "WorkingDir": "", "Env": null, "Cmd": null, "Entrypoint": null,
        "Labels": null, "Volumes": null, "ExposedPorts": null, "OnBuild": null,
        "Healthcheck": null, "StopSignal": null, "Shell": null,
    }) else {
        return Value::Null;
    };
    for (name, value) in stored.as_object().into_iter().flatten() {
        config.insert(name.clone(), value.clone());
    }
    Value::Object(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_told_as_docker_tells_them() {
        let bind_of = |create, read_only, options: &[&str]| MountRecord {
            kind: MountKind::Bind { source: "/src".into(), create },
            target: "/t".into(),
            read_only,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let plain = bind_of(true, false, &[]);
        assert_eq!(bind(&plain).as_deref(), Some("/src:/t"));
        assert_eq!(bind_mount(&plain, Path::new("/src"))["Propagation"], "rprivate");
        let shared = bind_of(true, true, &["rshared", "noexec"]);
        assert_eq!(bind(&shared).as_deref(), Some("/src:/t:ro,rshared,noexec"));
        let told = bind_mount(&shared, Path::new("/src"));
        assert_eq!((&told["Propagation"], &told["RW"]), (&json!("rshared"), &json!(false)));
        let strict = bind_of(false, false, &[]);
        assert_eq!((bind(&strict), strict_bind(&strict).is_some()), (None, true));
        let scratch = MountRecord {
            kind: MountKind::Tmpfs,
            target: "/run".into(),
            read_only: false,
            options: vec!["size=64m".into()],
        };
        assert_eq!(tmpfs(&[plain, scratch]), json!({ "/run": "size=64m" }));
    }

    #[test]
    fn what_an_image_leaves_out_is_null() {
        let config = image_config(&json!({ "Cmd": ["sh"], "Custom": 1 }));
        assert_eq!(config["Cmd"], json!(["sh"]));
        assert_eq!(config["Custom"], 1);
        assert!(config.as_object().is_some_and(|config| config["Entrypoint"].is_null()));
        assert!(image_config(&Value::Null)["Env"].is_null());
    }
}
