//! From flags to a container's record: `create`, and the first half of `run`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::Path,
    process::ExitCode,
};

use super::{
    super::{
        args::container::ContainerFlags,
        exit, output,
        value::{env, mount, namespace, network, process, security, size},
    },
    health, image, join, resources, seldom,
};
use crate::{
    engine::{
        Engine,
        container::{
            cdi::{self, Edits},
            create::CreateRequest,
            hooks,
        },
    },
    error::{Context as _, Error, Result},
    state::{
        egress::EgressPolicy,
        network::PortRecord,
        record::{
            ContainerRecord, Device, HostConfig, LogDriver, Mode, MountKind, MountRecord,
            NamespaceModes, Resources, Special, UserMode,
        },
    },
};

pub fn create(engine: &Engine, flags: &ContainerFlags) -> Result<ExitCode> {
    if flags.dry_run {
        return super::run::dry_run(engine, flags);
    }
    let record = make(engine, flags, false)?;
    output::print(&format!("{}\n", record.id))?;
    Ok(ExitCode::SUCCESS)
}

/// Creates the container, pulling its image if that is needed.
pub(super) fn make(
    engine: &Engine,
    flags: &ContainerFlags,
    detached: bool,
) -> Result<ContainerRecord> {
    let request = request(engine, flags, detached)?;
    let cid_file = flags.cidfile.as_deref().map(claim_cid_file).transpose()?;
    let made = make_from(engine, flags, request);
    match (&made, cid_file) {
        (Ok(record), Some((mut file, path))) => {
            file.write_all(record.id.as_str().as_bytes()).at(path).doing("write the id")?;
        }
        (Err(_), Some((_, path))) => {
            let _ = fs::remove_file(path);
        }
        (_, None) => {}
    }
    made
}

fn make_from(
    engine: &Engine,
    flags: &ContainerFlags,
    mut request: CreateRequest,
) -> Result<ContainerRecord> {
    if let Some(rootfs) = &request.host.special.rootfs {
        request.image_name = rootfs.path.to_string_lossy().into_owned();
        seldom::replace(engine, flags)?;
        return engine.create_on_directory(request);
    }
    let (image, name) = image::obtain(engine, flags)?;
    request.image_name = name;
    seldom::replace(engine, flags)?;
    engine.create(&image, request)
}

/// Docker refuses a file that is there already, before anything else happens.
fn claim_cid_file(path: &Path) -> Result<(fs::File, &Path)> {
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => Ok((file, path)),
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Error::conflict(format!("container ID file found: {} exists", path.display()))
                .hint("make sure that the other container is not running, then remove the file"))
        }
        Err(err) => Err(err).at(path).doing("create the container ID file"),
    }
}

/// What was typed, read and checked.
pub(super) fn request(
    engine: &Engine,
    flags: &ContainerFlags,
    detached: bool,
) -> Result<CreateRequest> {
    let (_, command) = image_and_command(flags)?;
    let lookup = |name: &str| std::env::var(name).ok();
    let more = seldom::read(engine, flags)?;
    let mut variables = more.env;
    for file in &flags.env_file {
        variables.extend(env::read_env_file(file, &lookup)?);
    }
    for text in &flags.env {
        variables.push(given("--env", text, env::env(text, &lookup))?);
    }
    let mut labels = BTreeMap::new();
    for file in &flags.label_file {
        labels.extend(env::read_label_file(file)?);
    }
    labels.extend(list("--label", &flags.label, env::label)?);
    // Docker: an empty value is one that was not given, as scripts write `--user "$USER_IF_ANY"`.
    let given_text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (name, user) = (given_text(&flags.name), given_text(&flags.user));
    let hostname = given_text(&flags.hostname);
    if let Some(hostname) = &hostname {
        given("--hostname", hostname, process::hostname(hostname))?;
    }
    if let Some(user) = &user {
        given("--user", user, process::user(user))?;
    }
    if let Some(signal) = &flags.stop_signal {
        given("--stop-signal", signal, crate::sys::signal::parse(signal))?;
    }
    if flags.working_dir_is_relative() {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            flags.workdir.as_deref().unwrap_or_default()
        )));
    }
    Ok(CreateRequest {
        image_name: String::new(),
        name,
        entrypoint: flags.entrypoint.as_ref().map(|text| process::entrypoint(text)).transpose()?,
        command: command.to_vec(),
        env: variables,
        user,
        working_dir: flags.workdir.clone(),
        hostname,
        domainname: flags.domainname.clone(),
        tty: flags.tty,
        open_stdin: flags.interactive,
        attach: streams(flags, detached)?,
        stop_signal: flags.stop_signal.clone(),
        stop_timeout: flags.stop_timeout,
        labels,
        annotations: list("--annotation", &flags.annotation, env::label)?.into_iter().collect(),
        health: health::check(&flags.health)?,
        host_env: more.host_env,
        env_merge: flags.seldom.env_merge.clone(),
        unset_env: flags.seldom.unsetenv_all,
        image_volumes: more.image_volumes,
        seccomp_of_image: flags.seldom.seccomp_policy.as_deref() == Some("image"),
        hooks: hooks::read(&flags.hooks_dir)?,
        exposed: list("--expose", &flags.expose, network::expose)?.into_iter().flatten().collect(),
        host: host(engine, flags, more.special, more.cdi)?,
    })
}

impl ContainerFlags {
    fn working_dir_is_relative(&self) -> bool {
        self.workdir.as_ref().is_some_and(|dir| !dir.is_empty() && !dir.starts_with('/'))
    }
}

/// The image, and the command that follows it. What looks like a flag in the image's place is
/// one that this command does not have.
pub(super) fn image_and_command(flags: &ContainerFlags) -> Result<(&str, &[String])> {
    let Some((image, command)) = flags.image_and_command.split_first() else {
        return Err(Error::invalid("\"dhow run\" requires an image"));
    };
    if image.starts_with('-') {
        return Err(super::super::args::unknown_flag("run", image));
    }
    Ok((image, command))
}

/// Those that whoever runs the container is attached to: without -a all there are.
fn streams(flags: &ContainerFlags, detached: bool) -> Result<Vec<String>> {
    let mut streams = Vec::new();
    if flags.attach.is_empty() && !detached {
        let input = flags.interactive.then_some("stdin");
        streams.extend(input.into_iter().chain(["stdout", "stderr"]).map(str::to_owned));
    }
    for text in &flags.attach {
        let stream = text.to_ascii_lowercase();
        if !["stdin", "stdout", "stderr"].contains(&stream.as_str()) {
            return Err(Error::invalid(format!(
                "invalid argument {text:?} for -a, --attach: valid streams are STDIN, STDOUT and STDERR"
            )));
        }
        streams.push(stream);
    }
    Ok(streams)
}

/// As an ordinary user nothing stands between a process and a device but the device's own mode.
fn device_rules(engine: &Engine, flags: &ContainerFlags) -> Result<Vec<String>> {
    for text in &flags.device_cgroup_rule {
        crate::cgroup::devices::parse_rule(text).doing("--device-cgroup-rule")?;
    }
    if engine.facts.rootless() {
        let limited = |text: &&String| {
            let given = process::device(text).map(|device| device.permissions);
            given.is_ok_and(|given| !(given.contains('r') && given.contains('w')))
        };
        let refused = "only root can restrict the use of a device";
        if !flags.device_cgroup_rule.is_empty() {
            return Err(Error::unsupported(format!("--device-cgroup-rule: {refused}"))
                .hint("--device gives a device that your own user may open"));
        }
        if let Some(text) = flags.device.iter().find(limited) {
            return Err(Error::unsupported(format!("--device {text}: {refused}"))
                .hint("give it without :r or :w"));
        }
    }
    Ok(flags.device_cgroup_rule.clone())
}

fn host(
    engine: &Engine,
    flags: &ContainerFlags,
    special: Special,
    cdi: Edits,
) -> Result<HostConfig> {
    let (network, networks) = join::networks(engine, flags)?;
    let ports: Vec<PortRecord> =
        list("--publish", &flags.publish, network::publish)?.into_iter().flatten().collect();
    let shared = matches!(network, Mode::Container(_) | Mode::Path(_));
    if let (Mode::Host | Mode::None, false) = (&network, ports.is_empty()) {
        let which = if network == Mode::Host { "host" } else { "none" };
        exit::warn(&Error::engine(format!(
            "Published ports are discarded when using {which} network mode"
        )));
    }
    if shared && !ports.is_empty() {
        return Err(Error::invalid(
            "ports can only be published on a network of the container's own",
        )
        .hint("leave --publish away, or add --network bridge"));
    }
    let options = list("--security-opt", &flags.security_opt, security::security_option)?;
    let log = env::log_config(
        flags.log_driver.as_deref(),
        &list("--log-opt", &flags.log_opt, env::log_opt)?,
    )?;
    if log.driver == LogDriver::Passthrough && flags.tty {
        return Err(Error::invalid("the log driver passthrough cannot be used with -t"));
    }
    Ok(HostConfig {
        egress: EgressPolicy::parse(&flags.egress)?,
        mounts: mounts(engine, flags, cdi.mounts)?,
        typed: flags.typed.clone(),
        volumes_from: flags.volumes_from.clone(),
        read_only: flags.read_only,
        shm_size: one("--shm-size", flags.shm_size.as_ref(), size::bytes)?,
        init: flags.init,
        ulimits: list("--ulimit", &flags.ulimit, process::ulimit)?,
        sysctls: list("--sysctl", &flags.sysctl, env::sysctl)?.into_iter().collect(),
        devices: devices(flags, cdi.devices)?,
        device_rules: device_rules(engine, flags)?,
        cap_add: flags.cap_add.clone(),
        cap_drop: flags.cap_drop.clone(),
        security: security::resolve(&options)?,
        privileged: flags.privileged,
        namespaces: namespaces(engine, flags, network)?,
        group_add: [&flags.group_add[..], &cdi.groups].concat(),
        resources: resources(flags)?,
        cgroup_parent: flags.cgroup_parent.clone(),
        auto_remove: flags.goes(),
        restart: health::policy(flags)?,
        health_on_failure: health::on_failure(&flags.health)?,
        log,
        oom_score_adj: score(flags.oom_score_adj)?,
        cid_file: flags.cidfile.clone(),
        networks,
        ports,
        publish_all: flags.publish_all,
        dns: list("--dns", &flags.dns, network::address)?,
        dns_search: flags.dns_search.clone(),
        dns_options: flags.dns_option.clone(),
        extra_hosts: list("--add-host", &flags.add_host, network::add_host)?,
        special,
    })
}

/// Paths; what has a name is among `cdi`.
fn devices(flags: &ContainerFlags, cdi: Vec<Device>) -> Result<Vec<Device>> {
    let paths: Vec<String> =
        flags.device.iter().filter(|text| !cdi::is_name(text)).cloned().collect();
    let mut devices = list("--device", &paths, process::device)?;
    devices.extend(cdi);
    Ok(devices)
}

fn score(typed: Option<i32>) -> Result<Option<i32>> {
    match typed {
        Some(score) if !(-1000..=1000).contains(&score) => Err(Error::invalid(format!(
            "invalid value {score}, range for oom score adj is [-1000, 1000]"
        ))),
        score => Ok(score),
    }
}

fn mounts(
    engine: &Engine,
    flags: &ContainerFlags,
    cdi: Vec<MountRecord>,
) -> Result<Vec<MountRecord>> {
    let cwd = std::env::current_dir().doing("find the current directory")?;
    let mut mounts = list("--volume", &flags.volume, |text| mount::volume(text, &cwd))?;
    let long = list("--mount", &flags.mount, |text| mount::mount(text, &cwd))?;
    mounts.extend(long.into_iter().flatten());
    mounts.extend(list("--tmpfs", &flags.tmpfs, mount::tmpfs)?);
    mounts.extend(cdi);
    if let Some(driver) = &flags.volume_driver {
        given("--volume-driver", driver, crate::engine::volume::check_driver("", driver))?;
    }
    mounts.iter().for_each(warn_of_no_limit);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    if let Some(twice) = mounts.iter().find(|mount| !seen.insert(mount.target.clone())) {
        return Err(Error::invalid(format!("Duplicate mount point: {}", twice.target)));
    }
    if flags.read_only && flags.seldom.read_only_tmpfs == Some(true) {
        let free = ["/run", "/tmp", "/var/tmp"].into_iter();
        mounts.extend(free.filter(|path| !seen.contains(*path)).map(seldom::writable));
    }
    // Docker: of several containers the last counts, and what was typed over all of them.
    for (name, read_only) in
        list("--volumes-from", &flags.volumes_from, mount::volumes_from)?.iter().rev()
    {
        let other = engine.container(name)?;
        let theirs = engine.volumes_of(&other, *read_only).into_iter();
        mounts.extend(theirs.filter(|mount| seen.insert(mount.target.clone())));
    }
    Ok(mounts)
}

/// Podman's manual gives a ramfs a size, and its kernel passes over it (ramfs, inode.c).
fn warn_of_no_limit(mount: &MountRecord) {
    let has_size = mount.options.iter().any(|option| option.starts_with("size="));
    if mount.kind == MountKind::Ramfs && has_size {
        exit::warn(
            &Error::engine(format!("{}: the kernel keeps no ramfs to a size", mount.target))
                .hint("a tmpfs is kept to it; with noswap it stays in memory, too"),
        );
    }
}

fn namespaces(engine: &Engine, flags: &ContainerFlags, network: Mode) -> Result<NamespaceModes> {
    let mode = |flag: &str,
                typed: Option<&String>,
                parse: fn(&str) -> Result<namespace::TypedMode>,
                default: Mode| {
        match one(flag, typed, parse)? {
            Some(mode) => mode.resolve(|name| engine.find(name)),
            None => Ok(default),
        }
    };
    let uts = mode("--uts", flags.uts.as_ref(), namespace::uts, Mode::Private)?;
    if uts == Mode::Host && flags.hostname.as_ref().is_some_and(|name| !name.is_empty()) {
        return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
    }
    Ok(NamespaceModes {
        user: user_mode(engine, flags)?,
        pid: mode("--pid", flags.pid.as_ref(), namespace::pid, Mode::Private)?,
        ipc: mode("--ipc", flags.ipc.as_ref(), namespace::ipc, Mode::Private)?,
        uts,
        cgroup: mode("--cgroupns", flags.cgroupns.as_ref(), namespace::cgroup, Mode::Private)?,
        network,
    })
}

fn user_mode(engine: &Engine, flags: &ContainerFlags) -> Result<UserMode> {
    let typed = one("--userns", flags.userns.as_ref(), |text| {
        namespace::user(text, |name| engine.find(name))
    })?;
    let seldom = &flags.seldom;
    let own = ["--uidmap", "--gidmap"]
        .into_iter()
        .zip([&seldom.uidmap, &seldom.gidmap])
        .map(|(flag, texts)| list(flag, texts, namespace::id_map))
        .collect::<Result<Vec<_>>>()?;
    let names: BTreeSet<&String> =
        [&seldom.subuidname, &seldom.subgidname].into_iter().flatten().collect();
    let has_maps = own.iter().any(|maps| !maps.is_empty());
    if has_maps && !names.is_empty() {
        return Err(Error::invalid(
            "--uidmap and --gidmap cannot be combined with --subuidname and --subgidname",
        ));
    }
    if typed.is_some() && (has_maps || !names.is_empty()) {
        return Err(Error::invalid(
            "--userns and --uidmap/--gidmap/--subuidname/--subgidname are mutually exclusive",
        ));
    }
    let own = match (&own[..], names.len()) {
        ([uid, gid], 0) if has_maps => engine.own_maps(uid, gid)?,
        (_, 0) => return Ok(typed.unwrap_or_default()),
        (_, 1) => names
            .into_iter()
            .map(|name| engine.maps_of(name))
            .collect::<Result<Vec<_>>>()?
            .remove(0),
        _ => {
            return Err(Error::unsupported(
                "--subuidname and --subgidname: only your own subordinate ids are yours to map",
            ));
        }
    };
    Ok(UserMode::Own { typed: "private".to_owned(), maps: own })
}

fn resources(flags: &ContainerFlags) -> Result<Resources> {
    let typed = resources::read(&flags.resources)?;
    Ok(Resources {
        pids_limit: typed.pids_limit.filter(|limit| *limit > 0),
        unified: resources::unified(&flags.seldom.cgroup_conf)?,
        ..typed
    })
}

/// One value of a flag, with the flag's name on its error.
pub(super) fn given<T>(flag: &str, text: &str, parsed: Result<T>) -> Result<T> {
    parsed.map_err(|err| err.context(format!("invalid argument {text:?} for {flag}")))
}

pub(super) fn one<T>(
    flag: &str,
    text: Option<&String>,
    parse: impl Fn(&str) -> Result<T>,
) -> Result<Option<T>> {
    text.map(|text| given(flag, text, parse(text))).transpose()
}

pub(super) fn list<T>(
    flag: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T>,
) -> Result<Vec<T>> {
    texts.iter().map(|text| given(flag, text, parse(text))).collect()
}
