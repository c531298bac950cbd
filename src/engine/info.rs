//! What dhow is, and what it uses of this host: `version` and `info`.

use std::{fs, path::PathBuf, thread};

use jiff::Timestamp;
use serde::Serialize;

use super::{Engine, container::list::Query, storage::Storages};
use crate::{
    cgroup::{self, Hierarchy},
    error::{Context as _, Result},
    sys::{
        host::{HostFacts, Kernel},
        user::IdRange,
    },
};

/// This version of dhow, as released.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What runs, and on what. Client and engine are one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    pub version: String,
    pub os: String,
    /// Go's name for it, as in image platforms.
    pub arch: String,
    pub kernel_version: String,
}

impl Version {
    /// Of this program, on the kernel that runs.
    pub fn of(kernel: &Kernel) -> Self {
        Self {
            version: VERSION.into(),
            os: "linux".into(),
            arch: architecture().into(),
            kernel_version: kernel.release.clone(),
        }
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// Docker's fields where they mean something here, then dhow's own.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    pub server_version: String,
    pub containers: usize,
    pub containers_running: usize,
    pub containers_paused: usize,
    pub containers_stopped: usize,
    /// Containers whose records cannot be read.
    pub containers_damaged: usize,
    pub images: usize,
    pub driver: String,
    pub logging_driver: String,
    pub cgroup_driver: String,
    pub cgroup_version: String,
    pub kernel_version: String,
    pub operating_system: String,
    #[serde(rename = "OSType")]
    pub os_type: String,
    /// The kernel's name for it: `x86_64`.
    pub architecture: String,
    #[serde(rename = "NCPU")]
    pub cpus: usize,
    /// Bytes.
    pub mem_total: u64,
    /// The host's name.
    pub name: String,
    /// Docker's notation: `name=seccomp,profile=builtin`.
    pub security_options: Vec<String>,
    /// Where the store is; docker's name for it.
    pub docker_root_dir: String,
    pub run_root: String,
    pub system_time: Timestamp,
    pub rootless: bool,
    pub user: String,
    pub id_mapping: IdMapping,
    pub overlay: Overlay,
    pub cgroup: Cgroup,
    pub seccomp: bool,
    pub app_armor: bool,
    #[serde(rename = "SELinux")]
    pub selinux: bool,
    pub warnings: Vec<String>,
}

/// The ids of a container's files and processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct IdMapping {
    /// The rung of the ladder: `none` (root needs no map), `full range`, `single id`.
    pub rung: String,
    /// `inside outside size`, as the kernel shows it.
    pub uid: Vec<String>,
    pub gid: Vec<String>,
}

/// How layers are stacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Overlay {
    /// The kernel's overlayfs works on the store's file system.
    pub native: bool,
    /// Why not; empty if it does.
    pub refused: String,
    /// The `fuse-overlayfs` that works here.
    pub fuse: Option<PathBuf>,
    /// Why the driver is the one it is.
    pub reason: String,
}

/// How processes are counted and limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Cgroup {
    /// `unified`, `hybrid` or `legacy`.
    pub hierarchy: String,
    /// Where cgroup v2 is mounted; empty if it is not.
    pub mount: String,
    /// What containers can be limited by.
    pub controllers: Vec<String>,
    pub systemd: bool,
}

impl Engine {
    /// Looks at the host and counts what is here. Mounts an overlay for a moment to see whether
    /// that can be done.
    pub fn info(&self) -> Result<Info> {
        let facts = &self.facts;
        let found = self.containers(&Query { all: true, ..Query::default() })?;
        let running =
            found.containers.iter().filter(|container| container.status.is_running()).count();
        let host = cgroup::Host::detect()?;
        let storages = Storages::look(&self.layout, facts);
        let driver = self.storage.unwrap_or_else(|| storages.best()).driver();
        let overlay = overlay(storages, self.storage.is_some());
        let id_mapping = id_mapping(facts);
        let controllers = host.controllers();
        let warnings = warnings(facts, &id_mapping, &overlay, &controllers);
        Ok(Info {
            server_version: VERSION.into(),
            containers: found.containers.len(),
            containers_running: running,
            containers_paused: 0,
            containers_stopped: found.containers.len() - running,
            containers_damaged: found.damaged.len(),
            images: self.store.list()?.len(),
            driver: driver.into(),
            logging_driver: crate::state::record::LogDriver::default().name().into(),
            cgroup_driver: match () {
                () if host.mount.is_none() => "none",
                () if host.systemd => "systemd",
                () => "cgroupfs",
            }
            .into(),
            cgroup_version: if host.hierarchy == Hierarchy::Legacy { "1" } else { "2" }.into(),
            kernel_version: facts.kernel.release.clone(),
            operating_system: operating_system(),
            os_type: "linux".into(),
            architecture: facts.machine.clone(),
            cpus: thread::available_parallelism().map_or(1, std::num::NonZero::get),
            mem_total: memory()?,
            name: nix::unistd::gethostname()
                .doing("read the host's name")?
                .to_string_lossy()
                .into_owned(),
            security_options: security_options(facts),
            docker_root_dir: self.layout.root().display().to_string(),
            run_root: self.layout.run_root().display().to_string(),
            system_time: Timestamp::now(),
            rootless: facts.rootless(),
            user: facts.user.clone(),
            id_mapping,
            overlay,
            cgroup: Cgroup {
                hierarchy: match host.hierarchy {
                    Hierarchy::Unified => "unified",
                    Hierarchy::Hybrid => "hybrid",
                    Hierarchy::Legacy => "legacy",
                }
                .into(),
                mount: host.mount.map(|path| path.display().to_string()).unwrap_or_default(),
                controllers,
                systemd: host.systemd,
            },
            seccomp: facts.seccomp,
            app_armor: facts.apparmor,
            selinux: facts.selinux,
            warnings,
        })
    }
}

fn overlay(found: Storages, chosen: bool) -> Overlay {
    let refused = found.native.err().map(|err| err.to_string()).unwrap_or_default();
    let reason = match (chosen, refused.is_empty(), &found.fuse) {
        (true, _, _) => "chosen by --storage-driver or DHOW_STORAGE".into(),
        (false, true, _) => "the kernel's overlayfs works on the store's file system".into(),
        (false, false, Ok(_)) => "the kernel's overlayfs does not work here".into(),
        (false, false, Err(err)) => format!("neither overlayfs nor fuse-overlayfs works: {err}"),
    };
    Overlay { native: refused.is_empty(), refused, fuse: found.fuse.ok(), reason }
}

fn id_mapping(facts: &HostFacts) -> IdMapping {
    if !facts.rootless() {
        return IdMapping { rung: "none".into(), uid: Vec::new(), gid: Vec::new() };
    }
    let maps = facts.id_maps();
    let lines = |ranges: &[IdRange]| {
        let lines = ranges.iter().map(|r| format!("{} {} {}", r.inside, r.outside, r.size));
        lines.collect()
    };
    IdMapping {
        rung: if maps.is_single() { "single id" } else { "full range" }.into(),
        uid: lines(&maps.uid),
        gid: lines(&maps.gid),
    }
}

fn security_options(facts: &HostFacts) -> Vec<String> {
    let options = [
        (facts.apparmor, "name=apparmor"),
        (facts.seccomp, "name=seccomp,profile=builtin"),
        (facts.selinux, "name=selinux"),
        (facts.rootless(), "name=rootless"),
        (true, "name=cgroupns"),
    ];
    options.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.to_owned()).collect()
}

fn warnings(
    facts: &HostFacts,
    ids: &IdMapping,
    overlay: &Overlay,
    controllers: &[String],
) -> Vec<String> {
    let mut warnings = Vec::new();
    if ids.rung == "single id" {
        warnings.push(
            "no subordinate ids: containers have a single id (`dhow doctor` says how to get more)"
                .into(),
        );
    }
    if !overlay.native {
        warnings.push(format!(
            "the kernel's overlayfs cannot be used: {} (`dhow doctor` says what to do)",
            overlay.refused
        ));
    }
    if !facts.seccomp {
        warnings.push("this kernel has no seccomp filters".into());
    }
    for (controller, what) in [("memory", "memory"), ("cpu", "CPU"), ("pids", "process count")] {
        if !controllers.iter().any(|name| name == controller) {
            warnings.push(format!("no {what} limits: no {controller} controller of cgroup v2"));
        }
    }
    warnings
}

/// `os-release(5)`, `PRETTY_NAME`.
fn operating_system() -> String {
    let read = |path| fs::read_to_string(path).ok();
    let text = read("/etc/os-release").or_else(|| read("/usr/lib/os-release")).unwrap_or_default();
    pretty_name(&text).unwrap_or("Linux").to_owned()
}

fn pretty_name(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches(['"', '\'']))
}

/// `proc_meminfo(5)`, `MemTotal`, in bytes.
fn memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").at("/proc/meminfo")?;
    Ok(mem_total(&text).unwrap_or(0))
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_and_etc_are_read() {
        assert_eq!(mem_total("MemTotal:       16307 kB\nMemFree: 1 kB\n"), Some(16307 * 1024));
        assert_eq!(mem_total("MemFree: 1 kB\n"), None);
        let text = "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(text), Some("Debian GNU/Linux 12 (bookworm)"));
    }
}
