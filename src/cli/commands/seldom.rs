//! Flags of `run` and `create` that are seldom typed.

use std::{fs, os::unix::fs::MetadataExt as _};

use super::{
    super::{
        args::container::ContainerFlags,
        exit,
        value::{env, size},
    },
    create::{image_and_command, list, one},
    health, registry, secret,
};
use crate::{
    engine::{
        Engine,
        container::{
            cdi::{self, Edits},
            create::ImageVolumes,
            special::time_zone,
        },
        registry::Reach,
    },
    error::{Context as _, Error, Kind, Result},
    state::record::{Hooks, MountKind, MountRecord, RootDirectory, Special, SystemdMode},
};

/// What they come to.
#[derive(Default)]
pub(super) struct More {
    /// Before what was typed with `--env`.
    pub env: Vec<String>,
    pub host_env: Vec<String>,
    pub image_volumes: ImageVolumes,
    pub special: Special,
    pub cdi: Edits,
}

/// Reads and checks them; says what is left undone, in docker's words where it has some.
pub(super) fn read(engine: &Engine, flags: &ContainerFlags) -> Result<More> {
    let seldom = &flags.seldom;
    check_words(flags)?;
    let mut more = More { special: special(engine, flags)?, ..More::default() };
    if seldom.env_host {
        more.host_env = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    }
    if seldom.http_proxy == Some(true) {
        more.env.extend(proxies());
    }
    if let Some(text) = seldom.env_merge.iter().find(|text| !text.contains('=')) {
        return Err(Error::invalid(format!("invalid --env-merge {text}"))
            .hint("write NAME=TEXT, in which ${NAME} is the image's"));
    }
    more.env.extend(list("--unsetenv", &seldom.unsetenv, |name| env::env(name, &|_| None))?);
    more.image_volumes = match seldom.image_volume.as_deref() {
        None | Some("" | "anonymous" | "bind") => ImageVolumes::Anonymous,
        Some("tmpfs") => ImageVolumes::Tmpfs,
        Some("ignore") => ImageVolumes::Ignored,
        Some(other) => {
            return Err(Error::invalid(format!(
                "invalid image volume mode {other:?} required value: anonymous, tmpfs, ignore"
            )));
        }
    };
    if !more.special.cdi.is_empty() {
        more.cdi = cdi::resolve(&more.special.cdi, &cdi::directories())?;
        more.env.extend(more.cdi.env.clone());
        more.special.hooks = std::mem::take(&mut more.cdi.hooks);
    }
    if seldom.sdnotify.as_deref() == Some("container") {
        give_notify_socket(&mut more);
    }
    Ok(more)
}

/// The variables for proxies, as they are here.
pub(super) fn proxies() -> impl Iterator<Item = String> {
    let names = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
    let both = names.into_iter().flat_map(|name| [name.to_owned(), name.to_ascii_uppercase()]);
    both.filter_map(|name| std::env::var(&name).ok().map(|value| format!("{name}={value}")))
}

/// systemd's socket inside, if there is one that has a path.
fn give_notify_socket(more: &mut More) {
    const INSIDE: &str = "/run/notify/notify.sock";
    let socket = std::env::var("NOTIFY_SOCKET").ok().filter(|path| path.starts_with('/'));
    if let Some(socket) = socket {
        more.env.push(format!("NOTIFY_SOCKET={INSIDE}"));
        more.cdi.mounts.push(MountRecord {
            kind: MountKind::Bind { source: socket.into(), create: false },
            target: INSIDE.into(),
            read_only: false,
            options: Vec::new(),
        });
    }
}

fn special(engine: &Engine, flags: &ContainerFlags) -> Result<Special> {
    let seldom = &flags.seldom;
    let mut cdi: Vec<String> =
        flags.device.iter().filter(|text| cdi::is_name(text)).cloned().collect();
    if let Some(text) = &seldom.gpus {
        cdi.extend(cdi::gpus(text)?);
    }
    if let Some(zone) = seldom.tz.as_deref() {
        time_zone(zone)?;
    }
    if let Some(path) = seldom.init_path.as_ref().filter(|path| !path.is_file()) {
        return Err(Error::invalid(format!("--init-path {}: no such file", path.display())));
    }
    for (flag, entry) in
        [("--passwd-entry", &seldom.passwd_entry), ("--group-entry", &seldom.group_entry)]
    {
        if entry.as_ref().is_some_and(|entry| entry.contains('\n') || !entry.contains(':')) {
            return Err(Error::invalid(format!(
                "{flag}: it is not one line of fields with colons"
            )));
        }
    }
    let here =
        |path: &std::path::PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    Ok(Special {
        umask: seldom.umask.as_deref().map(umask).transpose()?,
        timeout: seldom.timeout.filter(|seconds| *seconds > 0),
        time_zone: seldom.tz.clone(),
        no_hostname: seldom.no_hostname,
        no_hosts: seldom.no_hosts,
        hosts_file: hosts_file(flags)?,
        passwd: seldom.passwd == Some(true),
        passwd_entry: seldom.passwd_entry.clone(),
        group_entry: seldom.group_entry.clone(),
        init_path: seldom.init_path.as_ref().map(here),
        pid_file: seldom.pidfile.as_ref().map(here),
        monitor_pid_file: seldom.conmon_pidfile.as_ref().map(here),
        requires: list("--requires", &seldom.requires, |name| engine.find(name))?,
        cdi,
        hooks: Hooks::default(),
        startup: health::startup(&flags.health_more)?,
        health_log: health::log(&flags.health_more)?,
        notify: seldom.sdnotify.as_deref() == Some("conmon"),
        notify_healthy: seldom.sdnotify.as_deref() == Some("healthy"),
        no_cgroup: seldom.cgroups.as_deref() == Some("disabled"),
        split_cgroup: seldom.cgroups.as_deref() == Some("split"),
        systemd: match seldom.systemd.as_deref() {
            Some("always") => SystemdMode::Always,
            Some("true") => SystemdMode::IfCommand,
            _ => SystemdMode::Never,
        },
        rootfs: rootfs(flags)?,
        mounted: false,
        size_limit: size_limit(&seldom.storage_opt)?,
        removes_image: seldom.rmi,
        personality: seldom.personality.as_deref().map(personality).transpose()?,
        host_users: list("--hostuser", &seldom.hostuser, host_user)?,
        chroot_dirs: list("--chrootdirs", &seldom.chrootdirs, directory_inside)?,
        systemd_size: one("--shm-size-systemd", seldom.shm_size_systemd.as_ref(), size::bytes)?,
        secrets: list("--secret", &seldom.secret, |text| secret::grant(engine, text))?,
    })
}

/// `PATH[:O][:idmap]` in the image's place.
fn rootfs(flags: &ContainerFlags) -> Result<Option<RootDirectory>> {
    if !flags.seldom.rootfs {
        return Ok(None);
    }
    let (typed, _) = image_and_command(flags)?;
    let (mut path, mut overlay, mut shifts) = (typed, false, false);
    while let Some((rest, option)) = path.rsplit_once(':') {
        match option {
            "O" => overlay = true,
            "idmap" => shifts = true,
            _ if option.starts_with("idmap=") => {
                return Err(Error::unsupported(
                    "--rootfs: an idmap with maps of its own is not in this version",
                )
                .hint("`idmap` alone takes the container's own"));
            }
            _ => break,
        }
        path = rest;
    }
    let wrong = |what: &str| {
        Err(Error::invalid(format!("--rootfs {path}: {what}"))
            .hint("give the root directory of a file system tree, before the command"))
    };
    let identity = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
    let hosts = std::fs::metadata("/").ok().map(|meta| identity(&meta));
    match std::fs::metadata(path) {
        Ok(dir) if Some(identity(&dir)) == hosts && !overlay => {
            wrong("the host's own root takes an overlay: /:O")
        }
        Ok(dir) if dir.is_dir() => {
            let path = std::path::absolute(path).at(std::path::Path::new(path))?;
            Ok(Some(RootDirectory { path, overlay, shifts }))
        }
        Ok(_) => wrong("it is not a directory"),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => wrong("no such directory"),
        Err(err) => wrong(&err.to_string()),
    }
}

fn hosts_file(flags: &ContainerFlags) -> Result<Option<String>> {
    let seldom = &flags.seldom;
    if seldom.no_hosts && (seldom.hosts_file.is_some() || !flags.add_host.is_empty()) {
        return Err(Error::invalid(
            "--no-hosts and --add-host or --hosts-file cannot be set together",
        ));
    }
    Ok(match seldom.hosts_file.as_deref() {
        None | Some("") => None,
        Some(word @ ("image" | "none")) => Some(word.to_owned()),
        Some(path) => {
            let file = std::path::absolute(path).unwrap_or_else(|_| path.into());
            if !file.is_file() {
                return Err(Error::invalid(format!("--hosts-file {path}: no such file")));
            }
            Some(file.to_string_lossy().into_owned())
        }
    })
}

/// `--storage-opt size=SIZE`.
fn size_limit(typed: &[String]) -> Result<Option<u64>> {
    let limits = list("--storage-opt", typed, |text| match text.split_once('=') {
        Some((key, value)) if key.eq_ignore_ascii_case("size") => size::bytes(value),
        _ => {
            let key = text.split('=').next().unwrap_or(text);
            Err(Error::invalid(format!("unknown option {key}")).hint("write size=10g"))
        }
    })?;
    Ok(limits.last().copied().filter(|bytes| *bytes > 0))
}

fn personality(text: &str) -> Result<String> {
    match text {
        "LINUX" | "LINUX32" => Ok(text.to_owned()),
        _ => Err(Error::invalid(format!("unknown persona {text:?}")).hint("use LINUX or LINUX32")),
    }
}

/// The line of the host's own account files, found by name or number.
fn host_user(typed: &str) -> Result<String> {
    let text = fs::read_to_string("/etc/passwd").at("/etc/passwd")?;
    let is = |line: &&str| {
        let mut fields = line.split(':');
        fields.next() == Some(typed) || fields.nth(1) == Some(typed)
    };
    let line = text.lines().find(is).ok_or_else(|| {
        Error::not_found(format!("this host has no user {typed}"))
            .hint("`getent passwd` lists them; --passwd-entry adds a line of yours")
    })?;
    Ok(line.to_owned())
}

fn directory_inside(path: &str) -> Result<String> {
    match path.starts_with('/') && !path.trim_matches('/').is_empty() {
        true => Ok(path.to_owned()),
        false => Err(Error::invalid("it is not the absolute path of a directory below /")),
    }
}

fn umask(text: &str) -> Result<u32> {
    let mask = u32::from_str_radix(text, 8).ok().filter(|mask| *mask <= 0o777);
    mask.filter(|_| text.bytes().all(|b| b.is_ascii_digit())).ok_or_else(|| {
        Error::invalid(format!("invalid umask string {text}")).hint("write it in octal, like 0027")
    })
}

/// Words that can be one thing only, and what cgroup v2 has not.
fn check_words(flags: &ContainerFlags) -> Result<()> {
    let seldom = &flags.seldom;
    match seldom.runtime.as_deref() {
        None | Some("" | "dhow") => {}
        Some(other) => {
            return Err(Error::invalid(format!("unknown or invalid runtime name: {other}"))
                .hint("dhow is the runtime itself; leave --runtime away"));
        }
    }
    match seldom.isolation.as_deref() {
        None | Some("" | "default") => {}
        Some(other) => {
            return Err(Error::invalid(format!(
                "invalid isolation ({other}): linux only supports 'default'"
            )));
        }
    }
    match seldom.systemd.as_deref() {
        None | Some("false" | "true" | "always") => {}
        Some(_) => {
            return Err(Error::invalid("--systemd values must be one of \"true, false, always\""));
        }
    }
    match seldom.seccomp_policy.as_deref() {
        None | Some("default" | "image") => {}
        Some(other) => {
            return Err(Error::invalid(format!("invalid --seccomp-policy {other:?}"))
                .hint("use default or image"));
        }
    }
    match seldom.sdnotify.as_deref() {
        None | Some("container" | "conmon" | "healthy" | "ignore") => {}
        Some(other) => {
            return Err(Error::invalid(format!(
                "invalid sdnotify value {other:?}: must be conmon, container, healthy or ignore"
            )));
        }
    }
    match seldom.cgroups.as_deref() {
        None | Some("enabled" | "no-conmon" | "disabled" | "split") => {}
        Some(other) => {
            return Err(Error::invalid(format!("invalid --cgroups {other:?}"))
                .hint("use enabled, disabled, no-conmon or split"));
        }
    }
    if seldom.disable_content_trust == Some(false) {
        return Err(Error::unsupported("--disable-content-trust=false: there is no content trust")
            .hint("`dhow pull --verify-key FILE` checks signatures"));
    }
    if seldom.oom_kill_disable == Some(true) {
        exit::note(
            "WARNING: Your kernel does not support OomKillDisable. OomKillDisable discarded.",
        );
    }
    if seldom.kernel_memory.is_some() {
        exit::note(
            "WARNING: cgroup v2 counts the kernel's memory as --memory. Kernel memory limit discarded.",
        );
    }
    Ok(())
}

/// Removes the container whose name is wanted.
pub(super) fn replace(engine: &Engine, flags: &ContainerFlags) -> Result<()> {
    if !flags.seldom.replace {
        return Ok(());
    }
    let Some(name) = flags.name.as_deref().filter(|name| !name.is_empty()) else {
        return Err(Error::invalid("cannot replace container without --name being set"));
    };
    match engine.find(name) {
        Ok(id) if engine.load(&id)?.record.name == name => engine.remove(&id, true, true),
        Ok(_) => Ok(()),
        Err(err) if err.kind() == Kind::NotFound => Ok(()),
        Err(err) => Err(err),
    }
}

/// What `--read-only-tmpfs` mounts.
pub(super) fn writable(path: &str) -> MountRecord {
    let mode = if path == "/run" { "mode=755" } else { "mode=1777" };
    MountRecord {
        kind: MountKind::Tmpfs,
        target: path.into(),
        read_only: false,
        options: vec!["exec".into(), mode.into()],
    }
}

/// How the image's registry is reached.
pub(super) fn reach(flags: &ContainerFlags) -> Result<Reach> {
    let seldom = &flags.seldom;
    registry::reach(&super::super::args::image::RegistryFlags {
        authfile: seldom.authfile.clone(),
        cert_dir: seldom.cert_dir.clone(),
        creds: seldom.creds.clone(),
        retry: seldom.retry,
        retry_delay: seldom.retry_delay.clone(),
        tls_verify: seldom.tls_verify.unwrap_or(true),
    })
}

/// `--platform`, or what `--os`, `--arch` and `--variant` make of this machine's.
pub(super) fn platform(flags: &ContainerFlags) -> Result<Option<String>> {
    let seldom = &flags.seldom;
    let parts = [&seldom.os, &seldom.arch, &seldom.variant];
    if parts.iter().all(|part| part.is_none()) {
        return Ok(flags.platform.clone());
    }
    if flags.platform.is_some() {
        return Err(Error::invalid(
            "conflicting options: --platform cannot be combined with --os, --arch or --variant",
        ));
    }
    let os = seldom.os.as_deref().unwrap_or("linux");
    let arch = seldom.arch.as_deref().unwrap_or(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    });
    let variant = seldom.variant.iter().map(|variant| format!("/{variant}")).collect::<String>();
    Ok(Some(format!("{os}/{arch}{variant}")))
}
