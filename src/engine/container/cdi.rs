//! Devices of the Container Device Interface: `vendor.com/class=name`, described by files of their
//! vendors (CNCF CDI specification 1.0, JSON or YAML).
//!
//! What a device needs is looked up once, when the container is created.

mod yaml;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    error::{Context as _, Error, Result},
    state::record::{Device, Hook, Hooks, MountKind, MountRecord},
};

/// Directories with descriptions, separated by colons, instead of the usual ones.
pub const DIRS: &str = "DHOW_CDI_DIRS";

/// What devices come to.
#[derive(Debug, Default, PartialEq)]
pub struct Edits {
    pub devices: Vec<Device>,
    pub mounts: Vec<MountRecord>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// Additional groups.
    pub groups: Vec<String>,
    /// Programs of the vendor's.
    pub hooks: Hooks,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    kind: String,
    devices: Vec<Described>,
    #[serde(default)]
    container_edits: Stored,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    name: String,
    #[serde(default)]
    container_edits: Stored,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Stored {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<StoredMount>,
    hooks: Vec<StoredHook>,
    net_devices: Vec<serde_json::Value>,
    intel_rdt: Option<serde_json::Value>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: Option<PathBuf>,
    permissions: Option<String>,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredMount {
    host_path: PathBuf,
    container_path: String,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredHook {
    hook_name: String,
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<u32>,
}

/// Whether a word of `--device` is a name and not a path: `vendor/class=name`.
pub fn is_name(text: &str) -> bool {
    let parts = text.split_once('=').and_then(|(kind, name)| Some((kind.split_once('/')?, name)));
    let plain = |part: &str| {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        part.bytes().all(inside) && part.starts_with(|c: char| c.is_ascii_alphabetic())
    };
    let named = |name: &str| {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b"._-:".contains(&b);
        !name.is_empty() && name.bytes().all(inside)
    };
    parts.is_some_and(|((vendor, class), name)| plain(vendor) && plain(class) && named(name))
}

/// The directories that are searched; a later one's description replaces an earlier one's.
pub fn directories() -> Vec<PathBuf> {
    match std::env::var_os(DIRS) {
        Some(dirs) => std::env::split_paths(&dirs).collect(),
        None => ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).into(),
    }
}

/// What the named devices need.
pub fn resolve(names: &[String], dirs: &[PathBuf]) -> Result<Edits> {
    let found = descriptions(dirs)?;
    let mut edits = Edits::default();
    let mut kinds = Vec::new();
    for name in names {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let of_kind = || found.iter().filter(|(_, description)| description.kind == kind);
        let matching = of_kind().rev().find_map(|(path, description)| {
            let device = description.devices.iter().find(|one| one.name == device)?;
            Some((path, description, device))
        });
        let Some((path, description, device)) = matching else {
            return Err(unresolvable(name, dirs));
        };
        if !kinds.contains(&(kind, path)) {
            kinds.push((kind, path));
            edits.add(&description.container_edits, name)?;
        }
        edits.add(&device.container_edits, name)?;
    }
    Ok(edits)
}

fn unresolvable(name: &str, dirs: &[PathBuf]) -> Error {
    let places: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    Error::not_found(format!("CDI device injection failed: unresolvable CDI devices {name}"))
        .hint(format!("no file in {} describes it; {DIRS} names others", places.join(", ")))
}

fn descriptions(dirs: &[PathBuf]) -> Result<Vec<(PathBuf, Description)>> {
    let mut found = Vec::new();
    for dir in dirs {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        // As the specification has it: `.yml` is no name for one.
        paths.retain(|path| {
            ["json", "yaml"].iter().any(|ending| path.extension() == Some(OsStr::new(ending)))
        });
        paths.sort();
        for path in paths {
            let text = fs::read_to_string(&path).at(&path);
            let description = text.and_then(|text| description(&path, &text).at(&path));
            found.push((path, description.doing("read a description of devices")?));
        }
    }
    Ok(found)
}

fn description(path: &Path, text: &str) -> Result<Description> {
    Ok(match path.extension() == Some(OsStr::new("yaml")) {
        true => serde_json::from_value(yaml::parse(text)?)?,
        false => serde_json::from_str(text)?,
    })
}

impl Edits {
    fn add(&mut self, stored: &Stored, name: &str) -> Result<()> {
        for (set, what) in [
            (!stored.net_devices.is_empty(), "netDevices"),
            (stored.intel_rdt.is_some(), "intelRdt"),
        ] {
            if set {
                return Err(Error::unsupported(format!("CDI device {name}: no {what} here")));
            }
        }
        for node in &stored.device_nodes {
            let device = Device {
                host: node.host_path.clone().unwrap_or_else(|| node.path.clone().into()),
                container: node.path.clone(),
                permissions: node.permissions.clone().unwrap_or_else(|| "rwm".into()),
                mode: node.file_mode.map(|mode| mode & 0o7777),
                uid: node.uid,
                gid: node.gid,
            };
            if !self.devices.contains(&device) {
                self.devices.push(device);
            }
        }
        for mount in &stored.mounts {
            if let Some(kind) = &mount.kind
                && !["", "none", "bind"].contains(&kind.as_str())
            {
                return Err(Error::unsupported(format!("CDI device {name}: no {kind} mounts")));
            }
            let read_only = mount.options.iter().any(|option| option == "ro");
            let words = ["ro", "rw", "bind", "rbind"];
            let options = mount.options.iter().filter(|option| !words.contains(&option.as_str()));
            let mount = MountRecord {
                kind: MountKind::Bind { source: mount.host_path.clone(), create: false },
                target: mount.container_path.clone(),
                read_only,
                options: options.cloned().collect(),
            };
            if !self.mounts.contains(&mount) {
                self.mounts.push(mount);
            }
        }
        self.env.extend(stored.env.iter().cloned());
        self.groups.extend(stored.additional_gids.iter().map(u32::to_string));
        stored.hooks.iter().try_for_each(|hook| self.add_hook(hook, name))
    }

    fn add_hook(&mut self, stored: &StoredHook, name: &str) -> Result<()> {
        let hooks = &mut self.hooks;
        let list = match stored.hook_name.as_str() {
            "prestart" | "createRuntime" => &mut hooks.create_runtime,
            "createContainer" => &mut hooks.create_container,
            "poststart" => &mut hooks.poststart,
            "poststop" => &mut hooks.poststop,
            "startContainer" => {
                return Err(Error::unsupported(format!(
                    "CDI device {name} wants {} run in the container as a startContainer hook",
                    stored.path.display()
                ))
                .hint("a program of the image's is not given the rights of a start"));
            }
            other => {
                return Err(Error::invalid(format!(
                    "CDI device {name}: no hook is called {other}"
                )));
            }
        };
        if !stored.path.is_absolute() {
            let path = stored.path.display();
            return Err(Error::invalid(format!("CDI device {name}: hook {path} is no whole path")));
        }
        let hook = Hook {
            path: stored.path.clone(),
            args: stored.args.clone(),
            env: stored.env.clone(),
            timeout: stored.timeout.filter(|seconds| *seconds > 0),
        };
        if !list.contains(&hook) {
            list.push(hook);
        }
        Ok(())
    }
}

/// The devices that `--gpus` means: all, so many, or `device=A,B`.
pub fn gpus(text: &str) -> Result<Vec<String>> {
    let name = |device: &str| format!("nvidia.com/gpu={device}");
    let bad = || {
        Error::invalid(format!("invalid argument {text:?} for --gpus"))
            .hint("write all, a number, or device=0 or device=0,1")
    };
    let text = text.trim_matches('"');
    if let Some(devices) = text.strip_prefix("device=") {
        let devices: Vec<String> = devices.split(',').map(name).collect();
        return if devices.iter().all(|name| is_name(name)) { Ok(devices) } else { Err(bad()) };
    }
    match text {
        "all" | "-1" => Ok(vec![name("all")]),
        count => {
            let count: u32 = count.parse().map_err(|_| bad())?;
            Ok((0..count.min(64)).map(|number| name(&number.to_string())).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        for name in ["nvidia.com/gpu=all", "v.com/c=0:1", "a/b=c"] {
            assert!(is_name(name), "{name}");
        }
        for path in ["/dev/a", "/dev/a=b", "a/b", "a/b=", "a/b=c d", "/b=c", "1/b=c"] {
            assert!(!is_name(path), "{path}");
        }
    }

    #[test]
    fn gpus_are_names_of_devices() {
        let names = |text| gpus(text).ok().map(|names| names.join(" "));
        assert_eq!(names("all").as_deref(), Some("nvidia.com/gpu=all"));
        assert_eq!(names("2").as_deref(), Some("nvidia.com/gpu=0 nvidia.com/gpu=1"));
        assert_eq!(names("\"device=1,3\"").as_deref(), Some("nvidia.com/gpu=1 nvidia.com/gpu=3"));
        for bad in ["", "x", "device=", "all,capabilities=utility", "device=a b"] {
            assert!(gpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_done_is_refused() {
        let add = |text: &str| {
            let stored: Stored = serde_json::from_str(text).expect(text);
            Edits::default().add(&stored, "v/c=d").expect_err(text).to_string()
        };
        let hook = |name: &str| format!(r#"{{"hooks":[{{"hookName":"{name}","path":"/h"}}]}}"#);
        assert!(add(&hook("startContainer")).contains("/h"));
        assert!(add(&hook("sometime")).contains("sometime"));
        assert!(add(&hook("poststop").replace("/h", "h")).contains("no whole path"));
        assert!(
            add(r#"{"mounts":[{"hostPath":"/a","containerPath":"/b","type":"tmpfs"}]}"#)
                .contains("tmpfs")
        );
        assert!(add(r#"{"netDevices":[{}]}"#).contains("netDevices"));
        assert!(add(r#"{"intelRdt":{}}"#).contains("intelRdt"));
        assert!(serde_json::from_str::<Stored>(r#"{"surprise":1}"#).is_err());
    }
}
