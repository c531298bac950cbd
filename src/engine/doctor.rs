//! `dhow doctor`: finds trouble before a container does.
//!
//! Where something can be tried it is tried (a user namespace is made, ids are mapped, an
//! overlay is mounted on the store's own file system); settings are read only to explain a
//! refusal. Nothing is changed but for the store's own directories, which are made if absent.

mod networks;

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::statvfs::{FsFlags, Statvfs, statvfs},
};
use serde::Serialize;

use super::storage::Storages;
use crate::{
    cgroup::{self, Hierarchy},
    error::{Context as _, Result},
    state::{
        Layout,
        record::{ProcessRecord, Storage},
        store,
    },
    sys::{
        attempt::{self, Cause, Refused},
        host::{self, HostFacts, Kernel, SubIdRange},
        process,
        user::IdMaps,
    },
};

/// How bad a finding is; the worse, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Nothing to do.
    Ok,
    /// Containers run, with something slower or missing.
    Warning,
    /// Containers do not run, or not safely.
    Failure,
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at: a few words, the same every time.
    pub check: &'static str,
    /// How bad it is.
    pub grade: Grade,
    /// What was found, in this host's own numbers and words.
    pub found: String,
    /// Why that matters; empty if all is well.
    pub why: String,
    /// The commands or the file that mend it; empty if there is nothing to do.
    pub fix: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        let (why, fix) = (String::new(), String::new());
        Self { check, grade: Grade::Ok, found: found.into(), why, fix }
    }

    fn warning(check: &'static str, found: impl Into<String>) -> Self {
        Self { grade: Grade::Warning, ..Self::ok(check, found) }
    }

    fn failure(check: &'static str, found: impl Into<String>) -> Self {
        Self { grade: Grade::Failure, ..Self::ok(check, found) }
    }

    fn because(self, why: impl Into<String>) -> Self {
        Self { why: why.into(), ..self }
    }

    fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: fix.into(), ..self }
    }
}

/// Every check, in the order in which a container needs what it is about.
pub fn examine(layout: &Layout, storage: Option<Storage>, facts: &HostFacts) -> Vec<Finding> {
    let executable = std::env::current_exe().unwrap_or_else(|_| "/usr/local/bin/dhow".into());
    let mut findings = vec![kernel(&facts.kernel), user_namespaces(facts, &executable)];
    findings.extend(sub_ids(facts));
    findings.push(cgroups(&cgroup::Host::detect().map(Delegation::of)));
    findings.push(seccomp(facts));
    findings.push(runtime_directory(layout));
    findings.extend(store_file_system(layout, storage, facts));
    findings.push(orphans(layout));
    findings.extend(networks::lost(layout));
    if !facts.rootless() {
        findings.extend(networks::firewall());
    }
    findings.push(leftovers(layout));
    findings
}

/// The worst grade: `dhow doctor` exits with 1 on [`Grade::Failure`].
pub fn worst(findings: &[Finding]) -> Grade {
    findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok)
}

/// What newer kernels give. The first group is needed, the rest has a fallback.
fn kernel(kernel: &Kernel) -> Finding {
    const CHECK: &str = "kernel";
    const NEEDED: &[(u32, u32, &str)] =
        &[(5, 3, "clone3 and pidfds"), (5, 6, "openat2: paths that cannot leave a rootfs")];
    const WANTED: &[(u32, u32, &str)] = &[
        (5, 11, "overlayfs in user namespaces"),
        (5, 12, "mount_setattr: read-only binds with everything below them"),
        (5, 14, "cgroup.kill: all of a container's processes at once"),
    ];
    let lacking = |features: &[(u32, u32, &str)]| -> Vec<String> {
        let missing = features.iter().filter(|(major, minor, _)| !kernel.at_least(*major, *minor));
        missing.map(|(major, minor, what)| format!("{what} (Linux {major}.{minor})")).collect()
    };
    let found = format!("Linux {}", kernel.release);
    let (needed, wanted) = (lacking(NEEDED), lacking(WANTED));
    let update = "upgrade the distribution, or install its newer kernel (Debian: \
                  apt-get install -t bookworm-backports linux-image-amd64)";
    if !needed.is_empty() {
        let why = format!("dhow cannot do without {}", needed.join(", "));
        return Finding::failure(CHECK, found).because(why).fix(update);
    }
    if !wanted.is_empty() {
        let why = format!("fallbacks are used for {}", wanted.join(", "));
        return Finding::warning(CHECK, found).because(why).fix(update);
    }
    Finding::ok(CHECK, found)
}

/// Makes one and does something in it that needs its privileges: Ubuntu's restriction lets the
/// namespace be made and denies everything inside.
fn user_namespaces(facts: &HostFacts, executable: &Path) -> Finding {
    const MOUNT_NAMESPACE: u8 = 0;
    let maps = IdMaps::single(facts.euid, facts.egid);
    let outcome = attempt::in_user_namespace(&maps, || {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| (MOUNT_NAMESPACE, errno))
    });
    explain_user_namespaces(facts, executable, outcome)
}

fn explain_user_namespaces(
    facts: &HostFacts,
    executable: &Path,
    outcome: Result<attempt::Outcome>,
) -> Finding {
    const CHECK: &str = "user namespaces";
    let (said, cause) = match outcome {
        Ok(Ok(())) => {
            return Finding::ok(CHECK, "made one, and had its privileges inside");
        }
        Ok(Err(refused @ Refused { step: Refused::NAMESPACE, .. })) => {
            (format!("making one was refused: {refused}"), Some(refused.cause))
        }
        Ok(Err(refused)) => {
            (format!("one was made, but without privileges inside: {refused}"), Some(refused.cause))
        }
        Err(err) => (format!("one was made, but its ids could not be mapped: {err}"), None),
    };
    let (found, fix) = match facts.user_namespaces.obstacle(executable) {
        Some(obstacle) => (format!("{said}; {}", obstacle.found), obstacle.fix),
        None if cause == Some(Cause::Error(Errno::ENOSPC)) => (
            said,
            "sudo sysctl user.max_user_namespaces=28633: the present limit is used up, or \
             namespaces are nested 32 deep"
                .into(),
        ),
        None => (
            said,
            "no sysctl forbids it: if this is a container, its own seccomp profile does (run the \
             outer one with --privileged or --security-opt seccomp=unconfined); in a chroot the \
             kernel always refuses"
                .into(),
        ),
    };
    if facts.rootless() {
        Finding::failure(CHECK, found)
            .because("without root they are what a container is made of")
            .fix(fix)
    } else {
        Finding::warning(CHECK, found)
            .because("root runs containers without them; --userns and ordinary users cannot")
            .fix(fix)
    }
}

/// Nothing for root, who needs no ranges.
fn sub_ids(facts: &HostFacts) -> Vec<Finding> {
    if !facts.rootless() {
        return Vec::new();
    }
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (subuid, subgid, passwd) = (read("/etc/subuid"), read("/etc/subgid"), read("/etc/passwd"));
    let mut findings = vec![id_tools(facts)];
    findings.push(ranges(facts));
    if facts.has_sub_ids() {
        findings.push(full_map(facts));
        findings.extend(overlaps(facts, &subuid, &subgid, &passwd));
    }
    findings
}

const SINGLE_ID: &str = "with a single id, files of other users inside an image cannot keep their \
                         owners (dhow pretends)";

fn id_tools(facts: &HostFacts) -> Finding {
    const CHECK: &str = "newuidmap and newgidmap";
    let tools = [("newuidmap", &facts.newuidmap), ("newgidmap", &facts.newgidmap)];
    for (name, tool) in tools {
        match tool {
            None => {
                return Finding::warning(CHECK, format!("{name} is not installed"))
                    .because(SINGLE_ID)
                    .fix(
                        "Debian, Ubuntu: sudo apt-get install uidmap\n\
                         Fedora: sudo dnf install shadow-utils-subid",
                    );
            }
            Some(tool) if !tool.privileged => {
                let path = tool.path.display();
                let found = format!("{path} is neither setuid root nor has file capabilities");
                return Finding::warning(CHECK, found)
                    .because(SINGLE_ID)
                    .fix(format!("sudo chmod u+s {path}"));
            }
            Some(_) => {}
        }
    }
    let path = facts.newuidmap.as_ref().map(|tool| tool.path.display().to_string());
    Finding::ok(CHECK, path.unwrap_or_default())
}

/// Enough for every id that images use: up to `nobody`, 65534.
const FULL_RANGE: u64 = 65_536;

fn ranges(facts: &HostFacts) -> Finding {
    const CHECK: &str = "subordinate ids";
    let total = |ranges: &[SubIdRange]| ranges.iter().map(|r| u64::from(r.count)).sum::<u64>();
    let (uids, gids) = (total(&facts.sub_uids), total(&facts.sub_gids));
    let found = format!("{uids} uids and {gids} gids for {}", facts.user);
    if uids >= FULL_RANGE && gids >= FULL_RANGE {
        return Finding::ok(CHECK, found);
    }
    let fix = format!(
        "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}\n\
         (choose a range that no line of /etc/subuid and /etc/subgid overlaps)",
        facts.user
    );
    let why = match uids.min(gids) {
        0 => SINGLE_ID.to_owned(),
        _ => format!("images use ids up to 65534: {FULL_RANGE} are the usual range"),
    };
    Finding::warning(CHECK, found).because(why).fix(fix)
}

/// Really maps them, in a namespace that is thrown away.
fn full_map(facts: &HostFacts) -> Finding {
    const CHECK: &str = "id mapping";
    let maps = facts.id_maps();
    let mapped: u64 = maps.uid.iter().map(|range| u64::from(range.size)).sum();
    let found = match attempt::in_user_namespace(&maps, || Ok(())) {
        Ok(Ok(())) => {
            return Finding::ok(CHECK, format!("mapped {mapped} uids in a test namespace"));
        }
        Ok(Err(refused)) => format!("a process with {mapped} mapped uids: {refused}"),
        Err(err) => err.to_string(),
    };
    Finding::failure(CHECK, found)
        .because("this user's containers start with every range that is listed")
        .fix(
            "compare `grep \"$USER\" /etc/subuid /etc/subgid` with what `newuidmap` says above; \
             ranges must not overlap, and a directory service (subid: in /etc/nsswitch.conf) must \
             agree with the files",
        )
}

/// Subordinate ids that someone else has too: files of one user's containers are then the
/// other's.
fn overlaps(facts: &HostFacts, subuid: &str, subgid: &str, passwd: &str) -> Option<Finding> {
    let mine = |owner: &str| owner == facts.user || owner.parse() == Ok(facts.euid);
    let files =
        [("/etc/subuid", subuid, &facts.sub_uids), ("/etc/subgid", subgid, &facts.sub_gids)];
    let mut shared = Vec::new();
    for (file, text, own) in files {
        for (owner, range) in host::sub_id_lines(text).filter(|(owner, _)| !mine(owner)) {
            if own.iter().any(|o| o.overlaps(range)) {
                shared.push(format!("{owner}:{}:{} in {file}", range.start, range.count));
            }
        }
    }
    for line in passwd.lines() {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next(), fields.nth(1).and_then(|uid| uid.parse().ok()));
        let (Some(name), Some(start)) = (name, uid) else { continue };
        let one = SubIdRange { start, count: 1 };
        if facts.sub_uids.iter().any(|own| own.overlaps(one)) {
            shared.push(format!("the user {name} ({start})"));
        }
    }
    if shared.is_empty() {
        return None;
    }
    let found = format!("your ranges are shared with {}", shared.join(", "));
    let why = "a process in a container with such an id may touch the other's files and processes";
    let fix = "give each line of /etc/subuid and /etc/subgid a range of its own; then remove and \
               pull again what was unpacked before";
    Some(Finding::warning("shared ids", found).because(why).fix(fix))
}

/// What [`cgroup::Host`] says, as far as it matters here.
#[derive(Debug, Clone)]
struct Delegation {
    hierarchy: Hierarchy,
    read_only: bool,
    rootless: bool,
    systemd: bool,
    /// Those that version 1 holds.
    legacy: Vec<String>,
    /// Those that containers can be limited by.
    controllers: Vec<String>,
}

impl Delegation {
    fn of(host: cgroup::Host) -> Self {
        Self {
            controllers: host.controllers(),
            hierarchy: host.hierarchy,
            read_only: host.read_only,
            rootless: host.rootless,
            systemd: host.systemd,
            legacy: host.legacy,
        }
    }
}

/// The controllers of docker's commonest limits.
const LIMITING: [&str; 3] = ["memory", "cpu", "pids"];

const NO_LIMITS: &str = "containers run without limits; --memory, --cpus and --pids-limit are \
                         refused where they cannot be kept";

fn cgroups(host: &Result<Delegation>) -> Finding {
    const CHECK: &str = "cgroups";
    let host = match host {
        Ok(host) => host,
        Err(err) => return Finding::warning(CHECK, err.to_string()).because(NO_LIMITS),
    };
    let missing: Vec<_> =
        LIMITING.into_iter().filter(|name| !host.controllers.iter().any(|c| c == name)).collect();
    if missing.is_empty() {
        return Finding::ok(CHECK, format!("version 2 with {}", host.controllers.join(" ")));
    }
    let missing = missing.join(" ");
    let boot = "boot with cgroup v2 alone: systemd.unified_cgroup_hierarchy=1 on the kernel's \
                command line, or cgroup_no_v1=all without systemd";
    let (found, fix) = match host.hierarchy {
        Hierarchy::Legacy => ("only cgroup version 1 is mounted".to_owned(), boot),
        Hierarchy::Hybrid if host.controllers.is_empty() => {
            let held = host.legacy.join(" ");
            (format!("version 2 is there, but version 1 holds the controllers: {held}"), boot)
        }
        Hierarchy::Hybrid | Hierarchy::Unified if host.read_only => (
            "version 2 is mounted read-only: this is a container".to_owned(),
            "give the outer container a writable cgroup namespace, or do without limits",
        ),
        Hierarchy::Hybrid | Hierarchy::Unified if host.rootless && host.systemd => (
            format!("version 2, but not delegated to this user: {missing}"),
            "sudo systemctl edit user@.service, with the lines\n[Service]\n\
             Delegate=cpu cpuset io memory pids\nthen log out of all sessions and in again \
             (not by su: by ssh, on a console, or machinectl shell)",
        ),
        Hierarchy::Hybrid | Hierarchy::Unified if host.rootless => (
            format!("version 2, but not delegated to this user: {missing}"),
            "as root, make a cgroup with these controllers and give the directory, its \
             cgroup.procs, cgroup.threads and cgroup.subtree_control to this user; start dhow in it",
        ),
        Hierarchy::Hybrid | Hierarchy::Unified => (
            format!("version 2, but these cannot be had here: {missing}"),
            "the kernel lacks them or has them off (cgroup_enable=memory on its command line), or \
             this is a cgroup with processes that was not shared out",
        ),
    };
    Finding::warning(CHECK, found).because(NO_LIMITS).fix(fix)
}

fn seccomp(facts: &HostFacts) -> Finding {
    const CHECK: &str = "seccomp";
    if facts.seccomp {
        return Finding::ok(CHECK, "filters are supported");
    }
    Finding::failure(CHECK, "this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)")
        .because("containers are started with a filter that hides dangerous system calls")
        .fix("boot a distribution kernel, or use --security-opt seccomp=unconfined each time")
}

fn runtime_directory(layout: &Layout) -> Finding {
    const CHECK: &str = "runtime directory";
    let dir = layout.run_root();
    if let Err(err) = writable(dir) {
        return Finding::failure(CHECK, err.to_string())
            .because("sockets and process records of running containers live there")
            .fix(
                "log in so that systemd makes $XDG_RUNTIME_DIR (ssh or a console, not su; or \
                 sudo loginctl enable-linger $USER), or name a directory with --runroot",
            );
    }
    let kind = file_system_kind(dir);
    if kind == Some("tmpfs") {
        return Finding::ok(CHECK, format!("{} on tmpfs", dir.display()));
    }
    let kind = kind.unwrap_or("a disk");
    Finding::warning(CHECK, format!("{} is on {kind}, not on tmpfs", dir.display()))
        .because("records of what runs outlive a reboot (dhow tells them by the boot id)")
        .fix("name a directory on a tmpfs with --runroot, or with XDG_RUNTIME_DIR")
}

/// Makes `dir` and a file in it, which is removed again.
fn writable(dir: &Path) -> Result<()> {
    store::create_private_dir(dir)?;
    tempfile::tempfile_in(dir).at(dir).doing("create a file in").map(drop)
}

fn store_file_system(layout: &Layout, chosen: Option<Storage>, facts: &HostFacts) -> Vec<Finding> {
    const CHECK: &str = "store";
    let root = layout.root();
    if let Err(err) = writable(root) {
        return vec![
            Finding::failure(CHECK, err.to_string())
                .because("images and containers are kept there")
                .fix("make it writable for this user, or name another directory with --root"),
        ];
    }
    let storages = Storages::look(layout, facts);
    let used = chosen.unwrap_or_else(|| storages.best());
    let mut findings = vec![match chosen {
        Some(chosen) => explain_choice(chosen, &storages),
        None => explain_overlay(&storages, facts, file_system_kind(root)),
    }];
    match statvfs(root) {
        Ok(vfs) => findings.push(room(root, &Room::of(&vfs), used != Storage::Copy)),
        Err(errno) => findings.push(Finding::warning(CHECK, format!("statfs: {}", errno.desc()))),
    }
    findings
}

/// What somebody chose either works or it does not.
fn explain_choice(chosen: Storage, storages: &Storages) -> Finding {
    const CHECK: &str = "overlay";
    const LEAVE: &str = "leave --storage-driver and DHOW_STORAGE out, and dhow takes what works";
    let refused = match chosen {
        Storage::Native => storages.native.as_ref().err(),
        Storage::Fuse => storages.fuse.as_ref().err(),
        Storage::Copy => None,
    };
    let name = chosen.driver();
    match refused {
        Some(err) => {
            Finding::failure(CHECK, format!("{name} was chosen, and does not work: {err}"))
                .because("new containers cannot be made with it")
                .fix(LEAVE)
        }
        None if chosen != storages.best() && storages.native.is_ok() => {
            Finding::warning(CHECK, format!("{name} was chosen"))
                .because("the kernel's overlayfs works here, and is faster")
                .fix(LEAVE)
        }
        None => Finding::ok(CHECK, format!("{name} was chosen")),
    }
}

fn explain_overlay(storages: &Storages, facts: &HostFacts, kind: Option<&str>) -> Finding {
    const CHECK: &str = "overlay";
    let Err(err) = &storages.native else {
        let place = kind.map_or_else(String::new, |kind| format!(" on {kind}"));
        return Finding::ok(CHECK, format!("mounted one{place} and deleted through it"));
    };
    let instead = match &storages.fuse {
        Ok(path) => format!("{} is used instead: slower", path.display()),
        Err(why) => {
            format!("each container gets a full copy of its image: slow, and large ({why})")
        }
    };
    let mut fix = match kind {
        Some("nfs") => {
            "network file systems cannot be an upperdir: keep the store on a local \
                        disk with --root"
        }
        _ if !facts.overlay_in_user_namespace() && facts.rootless() => "Linux 5.11 or later",
        _ => "keep the store on ext4, xfs, btrfs or tmpfs with --root",
    }
    .to_owned();
    if let Err(why) = &storages.fuse {
        let better = why.hint_text().unwrap_or("let this user open /dev/fuse");
        fix = format!("{fix}; else, for fuse-overlayfs: {better}");
    }
    Finding::warning(CHECK, err.to_string()).because(instead).fix(fix)
}

/// What `statvfs(3)` says, in bytes and inodes.
#[derive(Debug, Clone, Copy)]
struct Room {
    bytes: u64,
    /// `None` where the file system has no fixed number (btrfs, zfs).
    inodes: Option<u64>,
    read_only: bool,
    noexec: bool,
}

impl Room {
    fn of(vfs: &Statvfs) -> Self {
        Self {
            bytes: vfs.blocks_available().saturating_mul(vfs.fragment_size()),
            inodes: (vfs.files() > 0).then(|| vfs.files_available()),
            read_only: vfs.flags().contains(FsFlags::ST_RDONLY),
            noexec: vfs.flags().contains(FsFlags::ST_NOEXEC),
        }
    }
}

/// Of the mount's flags only `ro`, and `noexec` without overlay, matter: programs, setuid bits
/// and devices are looked up through the overlay's own mount, whose flags are dhow's.
fn room(root: &Path, room: &Room, native_overlay: bool) -> Finding {
    const CHECK: &str = "store";
    const MIB: u64 = 1 << 20;
    let inodes = room.inodes.map_or_else(String::new, |n| format!(" and {n} inodes"));
    let found = format!("{}: {} MiB{inodes} free", root.display(), room.bytes / MIB);
    if room.read_only {
        return Finding::failure(CHECK, format!("{found}, mounted read-only"))
            .because("images and containers are kept there")
            .fix("remount it read-write, or name another directory with --root");
    }
    if room.noexec && !native_overlay {
        return Finding::failure(CHECK, format!("{found}, mounted noexec"))
            .because("without overlayfs, programs are run from there")
            .fix("sudo mount -o remount,exec on it, or name another directory with --root");
    }
    let low = |bytes, inodes| room.bytes < bytes || room.inodes.is_some_and(|n| n < inodes);
    let remove = "`dhow rmi` and `dhow rm` free space, or name another directory with --root";
    if low(64 * MIB, 1000) {
        return Finding::failure(CHECK, found).because("no image fits").fix(remove);
    }
    if low(2048 * MIB, 100_000) {
        return Finding::warning(CHECK, found).because("a large image may not fit").fix(remove);
    }
    Finding::ok(CHECK, found)
}

/// The kinds that matter here, by `statfs(2)` magic.
fn file_system_kind(path: &Path) -> Option<&'static str> {
    let magic = rustix::fs::statfs(path).ok()?.f_type;
    let names = [
        (0x0102_1994, "tmpfs"),
        (0x8584_58f6, "ramfs"),
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x2fc1_2fc1, "zfs"),
        (0x794c_7630, "overlay"),
        (0x6969, "nfs"),
        (0x6573_5546, "fuse"),
        (0xff53_4d42, "cifs"),
        (0x0102_1997, "9p"),
    ];
    // Some architectures sign-extend the magic; its 32 bits are what is defined.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "32-bit magics")]
    let magic = magic as u32;
    names.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name)
}

/// Containers whose monitor was killed while they ran.
fn orphans(layout: &Layout) -> Finding {
    const CHECK: &str = "monitors";
    let mut orphans = Vec::new();
    let mut damaged = Vec::new();
    for dir in entries(&layout.run_containers()) {
        match store::read_json::<ProcessRecord>(&dir.join("process.json")) {
            Ok(Some(record)) if is_orphan(&record) => orphans.push(short_name(&dir)),
            Ok(_) => {}
            Err(err) => damaged.push(err.to_string()),
        }
    }
    if !damaged.is_empty() {
        return Finding::warning(CHECK, damaged.join("; "))
            .because("whether these containers run cannot be told")
            .fix("`dhow rm -f` them");
    }
    if orphans.is_empty() {
        return Finding::ok(CHECK, "every running container has one");
    }
    Finding::warning(CHECK, format!("killed, while the container runs on: {}", orphans.join(" ")))
        .because("nothing records such a container's output and exit status")
        .fix(format!("dhow rm -f {}", orphans.join(" ")))
}

fn is_orphan(record: &ProcessRecord) -> bool {
    let alive =
        |who: &crate::state::record::ProcessIdentity| process::is_alive(who.pid, who.start_time);
    alive(&record.init) && !alive(&record.monitor)
}

/// What an interrupted command left half made. Younger things may be in the making.
fn leftovers(layout: &Layout) -> Finding {
    const CHECK: &str = "leftovers";
    const OLD: Duration = Duration::from_secs(24 * 60 * 60);
    let now = SystemTime::now();
    let old = |path: &Path| {
        let modified = path.symlink_metadata().and_then(|meta| meta.modified());
        modified.is_ok_and(|time| now.duration_since(time).is_ok_and(|age| age > OLD))
    };
    let dirs = [layout.staging(), layout.root().join("partial")];
    let found: Vec<_> = dirs.iter().flat_map(|dir| entries(dir)).filter(|path| old(path)).collect();
    let Some(first) = found.first() else {
        return Finding::ok(CHECK, "nothing half made is lying about");
    };
    let dir = first.parent().unwrap_or(first).display();
    Finding::warning(CHECK, format!("{} interrupted downloads or unpackings in {dir}", found.len()))
        .because("they take space; a pull of the same image takes a partial download up again")
        .fix(match first.starts_with(layout.staging()) {
            true => "nothing to do: the next `dhow pull` or `dhow load` removes them".to_owned(),
            false => "pull those images again, or: dhow system gc".to_owned(),
        })
}

fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// A container directory's name, as listings show ids.
fn short_name(dir: &Path) -> String {
    dir.file_name().map(OsStr::to_string_lossy).unwrap_or_default().chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::host::{IdTool, UserNamespaces};

    /// An ordinary Debian 12, for uid 1000.
    fn debian() -> HostFacts {
        let tool =
            |name: &str| Some(IdTool { path: Path::new("/usr/bin").join(name), privileged: true });
        HostFacts {
            boot_id: "b".into(),
            euid: 1000,
            egid: 1000,
            user: "ann".into(),
            kernel: Kernel::parse("6.1.0-18-amd64"),
            machine: "x86_64".into(),
            sub_uids: vec![SubIdRange { start: 100_000, count: 65_536 }],
            sub_gids: vec![SubIdRange { start: 100_000, count: 65_536 }],
            newuidmap: tool("newuidmap"),
            newgidmap: tool("newgidmap"),
            user_namespaces: UserNamespaces {
                compiled_in: true,
                max: Some(9),
                ..UserNamespaces::default()
            },
            seccomp: true,
            apparmor: true,
            selinux: false,
            fuse_overlayfs: None,
            systemd: true,
            ping_group_range: Some((0, 2_147_483_647)),
            unprivileged_port_start: Some(1024),
        }
    }

    const EXE: &str = "/opt/dhow";

    fn refused(step: u8, errno: Errno) -> Result<attempt::Outcome> {
        Ok(Err(Refused { step, cause: Cause::Error(errno) }))
    }

    #[test]
    fn old_kernels_are_told_what_they_lack() {
        let grade = |release: &str| kernel(&Kernel::parse(release)).grade;
        assert_eq!(grade("5.4.0"), Grade::Failure);
        assert_eq!(grade("5.10.0-28-amd64"), Grade::Warning);
        assert_eq!(grade("6.1.0"), Grade::Ok);
        let debian_11 = kernel(&Kernel::parse("5.10.0"));
        assert!(debian_11.why.contains("overlayfs in user namespaces (Linux 5.11)"));
    }

    #[test]
    fn ubuntu_s_restriction_is_named_with_the_profile_to_install() {
        let mut facts = debian();
        facts.user_namespaces.apparmor_restricted = Some(true);
        let finding = explain_user_namespaces(&facts, EXE.as_ref(), refused(0, Errno::EACCES));
        assert_eq!(finding.grade, Grade::Failure);
        assert!(finding.found.contains("without privileges inside: Permission denied"));
        assert!(
            finding.found.contains("apparmor_restrict_unprivileged_userns"),
            "{}",
            finding.found
        );
        assert!(finding.fix.contains("profile dhow \"/opt/dhow\""), "{}", finding.fix);
        // A profile that is there already: what works is not complained about.
        let fine = explain_user_namespaces(&facts, EXE.as_ref(), Ok(Ok(())));
        assert_eq!(fine.grade, Grade::Ok);
    }

    #[test]
    fn a_refusal_without_a_setting_points_outside() {
        let full = refused(Refused::NAMESPACE, Errno::ENOSPC);
        let finding = explain_user_namespaces(&debian(), EXE.as_ref(), full);
        assert!(finding.fix.contains("user.max_user_namespaces="), "{}", finding.fix);
        let root = HostFacts { euid: 0, ..debian() };
        let outer = refused(Refused::NAMESPACE, Errno::EPERM);
        let finding = explain_user_namespaces(&root, EXE.as_ref(), outer);
        assert_eq!(finding.grade, Grade::Warning, "root does without");
        assert!(finding.fix.contains("seccomp"), "{}", finding.fix);
    }

    #[test]
    fn missing_tools_and_ranges_have_their_command() {
        assert_eq!(id_tools(&debian()).grade, Grade::Ok);
        let missing = id_tools(&HostFacts { newgidmap: None, ..debian() });
        assert!(
            missing.found.contains("newgidmap") && missing.fix.contains("apt-get install uidmap")
        );
        assert_eq!(ranges(&debian()).grade, Grade::Ok);
        let none = ranges(&HostFacts { sub_uids: Vec::new(), ..debian() });
        assert_eq!(none.grade, Grade::Warning);
        assert!(
            none.fix.contains("usermod --add-subuids 100000-165535") && none.fix.contains(" ann")
        );
    }

    #[test]
    fn each_kind_of_cgroup_host_is_explained() {
        let words = |names: &str| names.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let delegated = Delegation {
            hierarchy: Hierarchy::Unified,
            read_only: false,
            rootless: true,
            systemd: true,
            legacy: Vec::new(),
            controllers: words("cpu io memory pids"),
        };
        let told = |host: &Delegation| cgroups(&Ok(host.clone()));
        assert_eq!(told(&delegated).grade, Grade::Ok);
        let debian_user = Delegation { controllers: words("memory pids"), ..delegated.clone() };
        let finding = told(&debian_user);
        assert!(finding.found.ends_with("not delegated to this user: cpu"), "{}", finding.found);
        assert!(finding.fix.contains("Delegate=cpu cpuset io memory pids"), "{}", finding.fix);
        let hybrid = Delegation {
            hierarchy: Hierarchy::Hybrid,
            legacy: words("cpu memory"),
            controllers: Vec::new(),
            ..delegated
        };
        let finding = told(&hybrid);
        assert!(finding.found.contains("version 1 holds the controllers: cpu memory"));
        assert!(finding.fix.contains("systemd.unified_cgroup_hierarchy=1"), "{}", finding.fix);
        let failed = cgroups(&Err(crate::error::Error::engine("no /proc")));
        assert_eq!((failed.grade, &*failed.found), (Grade::Warning, "no /proc"));
    }

    #[test]
    fn shared_ids_are_found_by_range_and_by_user() {
        let own = "ann:100000:65536\n1000:100000:65536\n";
        let found = |subuid: &str, passwd: &str| overlaps(&debian(), subuid, own, passwd);
        assert_eq!(found(own, "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n"), None);
        let shared = found("bob:165535:65536\neve:165536:65536\n", "").expect("shared");
        assert!(shared.found.contains("bob") && !shared.found.contains("eve"), "{}", shared.found);
        let shared = found(own, "svc:x:100500:1::/:/bin/sh\n").expect("shared");
        assert!(shared.found.contains("the user svc (100500)"), "{}", shared.found);
    }

    #[test]
    fn a_full_disk_is_told_before_it_is_met() {
        let plenty = Room { bytes: 1 << 40, inodes: None, read_only: false, noexec: false };
        let grade = |r: Room, native| room(Path::new("/s"), &r, native).grade;
        assert_eq!(grade(plenty, true), Grade::Ok);
        assert_eq!(grade(Room { bytes: 1 << 30, ..plenty }, true), Grade::Warning);
        assert_eq!(grade(Room { inodes: Some(3), ..plenty }, true), Grade::Failure);
        assert_eq!(grade(Room { read_only: true, ..plenty }, true), Grade::Failure);
        assert_eq!(grade(Room { noexec: true, ..plenty }, true), Grade::Ok);
        assert_eq!(grade(Room { noexec: true, ..plenty }, false), Grade::Failure);
    }

    #[test]
    fn a_container_that_outlived_its_monitor_is_named() {
        use crate::state::{ContainerId, record::ProcessIdentity};
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout::new(dir.path().join("root"), dir.path().join("run"));
        assert_eq!(orphans(&layout).grade, Grade::Ok, "no directory at all");
        let id = ContainerId::random().expect("id");
        let paths = layout.container(&id);
        store::create_private_dir(paths.run_dir()).expect("mkdir");
        let pid = i32::try_from(std::process::id()).expect("pid");
        let start_time = process::start_time_of(pid).expect("stat");
        let mine = ProcessIdentity { pid, start_time };
        let gone = ProcessIdentity { pid, start_time: start_time + 1 };
        let grade_with = |init, monitor| {
            let record = ProcessRecord {
                boot_id: String::new(),
                init,
                monitor,
                started: jiff::Timestamp::now(),
                cgroup: None,
                restarting: false,
                held: false,
                afterwards: None,
            };
            store::write_json(&paths.process(), &record, store::Durability::Renamed)
                .expect("write");
            orphans(&layout)
        };
        assert_eq!(grade_with(mine, mine).grade, Grade::Ok);
        assert_eq!(grade_with(gone, gone).grade, Grade::Ok, "it ended: nothing to mend");
        let orphaned = grade_with(mine, gone);
        assert_eq!(orphaned.grade, Grade::Warning);
        assert!(orphaned.fix.ends_with(id.short()), "{}", orphaned.fix);
        fs::write(paths.process(), "{").expect("truncate");
        assert!(orphans(&layout).found.contains("damaged"));
    }

    #[test]
    fn only_old_staging_is_a_leftover() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout::new(dir.path(), dir.path());
        let entry = layout.staging().join("x");
        fs::create_dir_all(&entry).expect("mkdir");
        assert_eq!(leftovers(&layout).grade, Grade::Ok);
        let old = SystemTime::now() - Duration::from_secs(90_000);
        fs::File::open(&entry).expect("open").set_modified(old).expect("utimens");
        assert_eq!(leftovers(&layout).grade, Grade::Warning);
    }

    #[test]
    fn this_host_is_examined_and_keeps_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout::new(dir.path().join("root"), dir.path().join("run"));
        let facts = HostFacts::gather().expect("facts");
        let findings = examine(&layout, None, &facts);
        let store: Vec<_> = findings.iter().filter(|f| f.check == "store").collect();
        assert!(store.iter().any(|f| f.found.contains("MiB")), "{findings:#?}");
        assert_eq!(entries(layout.root()).len() + entries(layout.run_root()).len(), 0);
        let blocked = Layout::new("/proc/dhow", "/proc/dhow");
        assert_eq!(worst(&examine(&blocked, None, &facts)), Grade::Failure);
    }
}
