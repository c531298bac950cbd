//! What podman's flags of `build` come to.

use std::{collections::BTreeMap, env, fs};

use super::super::{
    super::{
        args::build::Build,
        value::{self, env as variables, mount, namespace, network, process, size, time},
    },
    create::{list, one},
    seldom::proxies,
};
use crate::{
    engine::{Engine, build::Retouch, container::cdi},
    error::{Context as _, Error, Result},
    state::record::{HostConfig, Mode, MountKind, NamespaceModes, Special},
};

/// Refuses values that are not the one there is.
pub(super) fn check(args: &Build) -> Result<()> {
    let more = &args.more;
    let refused = [
        (
            more.disable_compression == Some(false),
            "--disable-compression=false: layers are compressed when they leave this machine",
        ),
        (
            more.disable_content_trust == Some(false),
            "--disable-content-trust=false: there is no content trust",
        ),
        (
            more.identity_label == Some(true),
            "--identity-label: no label says what has built an image",
        ),
        (
            more.rewrite_timestamp == Some(false),
            "--rewrite-timestamp=false: no time in a layer is later than the image's",
        ),
    ];
    if let Some((_, said)) = refused.into_iter().find(|(is_refused, _)| *is_refused) {
        return Err(Error::unsupported(said));
    }
    if more.no_hosts && !args.add_host.is_empty() {
        return Err(Error::invalid("--no-hosts and --add-host conflict, can not be used together"));
    }
    match more.userns.as_deref() {
        None | Some("" | "host") => Ok(()),
        Some(other) => Err(Error::unsupported(format!(
            "--userns {other}: files of an image are made with the ids that containers usually have"
        ))
        .hint("`dhow run --userns` runs an image with others")),
    }
}

/// What each `RUN` is made with.
pub(super) fn surroundings(args: &Build) -> Result<HostConfig> {
    let more = &args.more;
    let paths: Vec<String> =
        more.device.iter().filter(|text| !cdi::is_name(text)).cloned().collect();
    let here = env::current_dir().doing("find the current directory")?;
    let mounts = list("--volume", &more.volume, |text| mount::volume(text, &here))?;
    let is_bind = |kind: &MountKind| matches!(kind, MountKind::Bind { .. });
    if let Some(other) = mounts.iter().find(|mount| !is_bind(&mount.kind)) {
        return Err(Error::unsupported(format!(
            "--volume {}: only a directory or file of this host can be shown to RUN",
            other.target
        ))
        .hint(
            "write --volume /SOURCE:/TARGET; RUN --mount=type=cache keeps files for the next build",
        ));
    }
    Ok(HostConfig {
        shm_size: args.shm_size.as_deref().map(size::bytes).transpose().doing("--shm-size")?,
        ulimits: args.ulimit.iter().map(|text| process::ulimit(text)).collect::<Result<_>>()?,
        extra_hosts: args
            .add_host
            .iter()
            .map(|text| network::add_host(text))
            .collect::<Result<_>>()?,
        resources: super::limits(args)?,
        cgroup_parent: args.cgroup_parent.clone(),
        security: super::security(&args.security_opt)?,
        cap_add: more.cap_add.clone(),
        cap_drop: more.cap_drop.clone(),
        devices: list("--device", &paths, process::device)?,
        mounts,
        namespaces: namespaces(args)?,
        group_add: more.group_add.clone(),
        dns: list("--dns", &more.dns, network::address)?,
        dns_search: more.dns_search.clone(),
        dns_options: more.dns_option.clone(),
        special: Special {
            no_hostname: more.no_hostname,
            no_hosts: more.no_hosts,
            ..Special::default()
        },
        ..HostConfig::default()
    })
}

/// The devices that have names of their vendors.
pub(super) fn cdi_devices(args: &Build) -> Vec<String> {
    args.more.device.iter().filter(|text| cdi::is_name(text)).cloned().collect()
}

/// Those of this host, or each step's own.
fn namespaces(args: &Build) -> Result<NamespaceModes> {
    type Parse = fn(&str) -> Result<namespace::TypedMode>;
    let mode = |flag: &str, typed: &Option<String>, parse: Parse| -> Result<Mode> {
        // Buildah's word.
        let typed = typed.as_ref().filter(|text| *text != "container");
        match one(flag, typed, parse)? {
            None => Ok(Mode::Private),
            Some(namespace::TypedMode::Known(mode)) => Ok(mode),
            Some(namespace::TypedMode::Container(_)) => {
                Err(Error::unsupported(format!("{flag}: a step joins no container's namespace"))
                    .hint("there are private, host and ns:/PATH"))
            }
        }
    };
    let more = &args.more;
    Ok(NamespaceModes {
        pid: mode("--pid", &more.pid, namespace::pid)?,
        ipc: mode("--ipc", &more.ipc, namespace::ipc)?,
        uts: mode("--uts", &more.uts, namespace::uts)?,
        cgroup: mode("--cgroupns", &more.cgroupns, namespace::cgroup)?,
        ..NamespaceModes::default()
    })
}

/// What is different about the image than its instructions say.
pub(super) fn retouch(args: &Build) -> Result<Retouch> {
    let more = &args.more;
    let lookup = |name: &str| env::var(name).ok();
    let mut set = Vec::new();
    for text in list("--env", &more.env, |text| variables::env(text, &lookup))? {
        // One that is not set here is not set there.
        if let Some((name, value)) = text.split_once('=') {
            set.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(Retouch {
        env: set,
        unset_env: more.unsetenv.clone(),
        unset_labels: more.unsetlabel.clone(),
        unset_annotations: more.unsetannotation.clone(),
        without_labels: more.inherit_labels == Some(false),
        inherit_annotations: more.inherit_annotations == Some(true),
        created_annotation: more.created_annotation == Some(true),
        no_history: more.omit_history == Some(true),
        os_version: more.os_version.clone(),
        os_features: more.os_feature.clone(),
        docker: match more.format.as_deref() {
            None | Some("" | "oci") => false,
            Some("docker") => true,
            Some(other) => {
                return Err(Error::invalid(format!("unrecognized image type {other:?}"))
                    .hint("there are oci and docker"));
            }
        },
    })
}

/// Adds to the arguments what is not typed as such.
pub(super) fn add_args(args: &Build, all: &mut BTreeMap<String, String>) -> Result<()> {
    let more = &args.more;
    let mut usual = BTreeMap::new();
    if more.http_proxy == Some(true) {
        for text in proxies() {
            if let Some((name, value)) = text.split_once('=') {
                usual.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    for path in &more.build_arg_file {
        let text = fs::read_to_string(path).at(path).doing("read --build-arg-file")?;
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once('=').ok_or_else(|| {
                Error::invalid(format!("{}: {line:?} is not NAME=VALUE", path.display()))
            })?;
            usual.insert(name.to_owned(), value.to_owned());
        }
    }
    if let Some(seconds) = more.source_date_epoch.or(more.timestamp) {
        usual.insert("SOURCE_DATE_EPOCH".into(), seconds.to_string());
    }
    for (name, value) in usual {
        all.entry(name).or_insert(value);
    }
    Ok(())
}

/// The moment before which steps are too old.
pub(super) fn cache_since(args: &Build) -> Result<Option<jiff::Timestamp>> {
    let Some(typed) = &args.more.cache_ttl else { return Ok(None) };
    let age = time::duration(typed).doing("--cache-ttl")?;
    let now = jiff::Timestamp::now();
    Ok(Some(now.checked_sub(age).unwrap_or(jiff::Timestamp::MIN)))
}

/// `--arch` and its like make a platform of this machine's.
pub(super) fn platform(args: &Build) -> Result<Vec<String>> {
    let more = &args.more;
    if [&more.os, &more.arch, &more.variant].iter().all(|part| part.is_none()) {
        return Ok(args.platform.clone());
    }
    let own = crate::engine::build::host_platform()?;
    let os = more.os.as_ref().unwrap_or(&own.os);
    let arch = more.arch.as_ref().unwrap_or(&own.architecture);
    let variant = more.variant.iter().map(|variant| format!("/{variant}")).collect::<String>();
    Ok(vec![format!("{os}/{arch}{variant}")])
}

/// Adds what was built to `--manifest`.
pub(super) fn add_to_list(engine: &Engine, args: &Build, ids: &[String]) -> Result<()> {
    let Some(typed) = &args.more.manifest else { return Ok(()) };
    let name = value::build::name(typed)?;
    engine.create_list(&name, true, BTreeMap::new())?;
    let reach = super::reach(&args.registry)?;
    for id in ids {
        engine.add_to_list(&name, id, false, &Default::default(), &reach)?;
    }
    Ok(())
}
