//! Named volumes: directories that outlive containers.
//!
//! ```text
//!   who makes a container                    who removes a volume
//!   ---------------------------------------  ----------------------------------------
//!   makes the volume if it is not there
//!   locks it, shared                     ->  locks it, exclusively
//!   renames the container into place         reads every container's record
//!   lets go                                  renames the volume into staging, or refuses
//! ```
//!
//! Which containers have a volume is written in their own records, nowhere else.

pub mod driver;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    error::{Context as _, Error, Kind, Result},
    state::{
        ContainerId, Layout,
        journal::{self, Event},
        layout::VolumePaths,
        record::{MountKind, MountRecord, VolumeRecord},
        store::{self, Durability, Lock, create_private_dir, read_json_or, write_json},
    },
};

/// Docker's label of volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// Removes a directory tree whose files may belong to subordinate ids.
pub type RemoveTree<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// Docker's rule, except that one character is enough, as in podman. It also keeps names from
/// being paths or flags, since they become file names.
pub fn check_name(name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && name.len() <= 255 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed"
    ))
    .hint("if you intended to pass a host directory, use an absolute path"))
}

/// A name for a volume that nobody named: 64 hex digits, as docker's.
pub fn random_name() -> Result<String> {
    ContainerId::random().map(|id| id.to_string())
}

pub fn no_such(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
        .hint("`dhow volume ls` lists the volumes there are")
}

/// The volume of this name, which need not be one that a volume can have.
pub fn find(layout: &Layout, name: &str) -> Result<Option<VolumeRecord>> {
    if check_name(name).is_err() {
        return Ok(None);
    }
    let paths = layout.volume(name);
    let remedy = || format!("`dhow volume rm {name}` removes the volume");
    let mut record = read_json_or::<VolumeRecord>(&paths.record(), remedy)?;
    if let Some(record) = record.as_mut().filter(|record| record.anonymous) {
        record.labels.entry(ANONYMOUS.to_owned()).or_default();
    }
    if record.is_none() && paths.dir().exists() {
        return Err(Error::engine(format!("volume {name} has no record")).hint(remedy()));
    }
    Ok(record)
}

/// What there is, by name, and what could not be read.
pub fn list(layout: &Layout) -> Result<(Vec<VolumeRecord>, Vec<Error>)> {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for name in names(&layout.volumes())? {
        match find(layout, &name) {
            Ok(record) => found.extend(record),
            Err(err) => damaged.push(err),
        }
    }
    found.sort_by(|one: &VolumeRecord, two| one.name.cmp(&two.name));
    Ok((found, damaged))
}

/// Makes the volume, or finds that there is one: `false` then, and nothing is changed. `prepare` is
/// called with the directory for its files before anybody can see it.
pub fn create(
    layout: &Layout,
    name: &str,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    anonymous: bool,
    prepare: &dyn Fn(&Path) -> Result<()>,
) -> Result<bool> {
    check_name(name)?;
    let home = layout.volume(name);
    if home.dir().exists() {
        return Ok(false);
    }
    create_private_dir(&layout.volumes())?;
    let staged = layout.staging().join(format!("volume-{}", random_name()?));
    let lock = store::stage(&staged)?;
    let paths = VolumePaths::at(&staged);
    let record = VolumeRecord {
        name: name.to_owned(),
        created: Timestamp::now(),
        labels,
        options,
        anonymous,
    };
    let made = || -> Result<bool> {
        for dir in [paths.data(), paths.fill()] {
            create_private_dir(&dir)?;
        }
        // Docker's mode, until an image's directory says otherwise.
        fs::set_permissions(paths.data(), fs::Permissions::from_mode(0o755)).at(paths.data())?;
        prepare(&paths.data())?;
        write_json(&paths.record(), &record, Durability::Synced)?;
        match fs::rename(&staged, home.dir()) {
            Ok(()) => Ok(true),
            Err(err) if is_occupied(&err) => Ok(false),
            Err(err) => Err(err).at(home.dir()).doing("create the volume"),
        }
    };
    let made = made();
    if !matches!(made, Ok(true)) {
        // It holds nothing but what was just made; no file is in its directories.
        let _ = fs::remove_dir_all(&staged);
    }
    drop(lock);
    if matches!(made, Ok(true)) {
        note(layout, name, "create");
    }
    made
}

/// Tells who listens to `events`.
fn note(layout: &Layout, name: &str, action: &str) {
    journal::append(layout, &Event::now("volume", action, name).with("driver", "local"));
}

/// Who makes a container holds this until others can see that it has the volume.
pub fn pin(layout: &Layout, name: &str) -> Result<Option<Lock>> {
    Lock::shared_at(layout.volume(name).dir())
}

/// Removes the volume unless a container has it.
pub fn remove(layout: &Layout, name: &str, remove_tree: RemoveTree<'_>) -> Result<()> {
    let home = layout.volume(name);
    let lock = match check_name(name) {
        Ok(()) => Lock::exclusive_at(home.dir())?,
        Err(_) => None,
    };
    let Some(lock) = lock else { return Err(no_such(name)) };
    let users = users(layout, name)?;
    if !users.is_empty() {
        let ids: Vec<_> = users.iter().map(|user| user.id.as_str()).collect();
        let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
        return Err(Error::conflict(format!(
            "remove {name}: volume is in use - [{}]",
            ids.join(", ")
        ))
        .hint(format!("containers have it: `dhow rm {}` frees it", names.join(" "))));
    }
    take_away(layout, name, lock, remove_tree)
}

/// Removes those of the volumes that no container has and nobody is about to use, and tells of
/// each that it tried how it went. Containers are looked through once for many volumes.
pub fn remove_unused(
    layout: &Layout,
    names: &[String],
    remove_tree: RemoveTree<'_>,
) -> Result<Vec<(String, Result<()>)>> {
    /// Each is a descriptor that is held open.
    const AT_ONCE: usize = 64;
    let mut tried = Vec::new();
    for names in names.chunks(AT_ONCE) {
        let locks: Vec<_> = names.iter().map(|name| try_lock(layout, name)).collect();
        let users = all_users(layout)?;
        for (name, lock) in names.iter().zip(locks) {
            let done = match lock {
                Ok(Some(lock)) if !users.contains_key(name) => {
                    take_away(layout, name, lock, remove_tree)
                }
                Ok(_) => continue,
                Err(err) => Err(err),
            };
            tried.push((name.clone(), done));
        }
    }
    Ok(tried)
}

/// The lock on a volume that is there, if nobody holds it.
fn try_lock(layout: &Layout, name: &str) -> Result<Option<Lock>> {
    let home = layout.volume(name);
    match Lock::try_exclusive(home.dir()) {
        Err(err) if err.kind() == Kind::NotFound => Ok(None),
        lock => Ok(lock?.filter(|lock| lock.is_at(home.dir()))),
    }
}

fn take_away(layout: &Layout, name: &str, lock: Lock, remove_tree: RemoveTree<'_>) -> Result<()> {
    let home = layout.volume(name);
    create_private_dir(&layout.staging())?;
    let doomed = layout.staging().join(format!("volume-{}", random_name()?));
    fs::rename(home.dir(), &doomed).at(home.dir()).doing("remove")?;
    note(layout, name, "destroy");
    let removed = remove_tree(&doomed);
    drop(lock);
    removed
}

/// A container that has a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: ContainerId,
    pub name: String,
}

#[derive(Deserialize)]
struct Brief {
    id: ContainerId,
    name: String,
    #[serde(default)]
    host: BriefHost,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BriefHost {
    mounts: Vec<MountRecord>,
}

/// The containers that have the volume, whatever state they are in.
pub fn users(layout: &Layout, name: &str) -> Result<Vec<User>> {
    Ok(all_users(layout)?.remove(name).unwrap_or_default())
}

/// The containers of each volume that has any. A record that cannot be read is an error: what
/// such a container has is not known.
pub fn all_users(layout: &Layout) -> Result<BTreeMap<String, Vec<User>>> {
    let mut users: BTreeMap<String, Vec<User>> = BTreeMap::new();
    for id in names(&layout.containers())? {
        let path = layout.containers().join(&id).join("container.json");
        let remedy = || {
            format!(
                "`dhow rm -f {id}` removes the container; until then it is unknown which volumes it has"
            )
        };
        let Some(brief) = read_json_or::<Brief>(&path, remedy)? else { continue };
        let mut own: Vec<&str> = brief.host.mounts.iter().filter_map(volume_name).collect();
        own.sort_unstable();
        own.dedup();
        for name in own {
            let user = User { id: brief.id.clone(), name: brief.name.clone() };
            users.entry(name.to_owned()).or_default().push(user);
        }
    }
    Ok(users)
}

/// The volume that a mount shows, if it shows one.
pub fn volume_name(mount: &MountRecord) -> Option<&str> {
    match &mount.kind {
        MountKind::Volume(volume) => Some(&volume.name),
        MountKind::Bind { .. }
        | MountKind::Image(_)
        | MountKind::Tmpfs
        | MountKind::Ramfs
        | MountKind::Devpts => None,
    }
}

/// The names in a directory that may not be there.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at(dir)?,
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

fn is_occupied(err: &io::Error) -> bool {
    matches!(err.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_be_paths_or_flags() {
        for good in ["a", "web_1.a-b", "0"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "-a", ".a", "a/b", "a b", "a\n", "ä1", "b:d"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name(&"a".repeat(256)).is_err());
    }

    #[test]
    fn a_volume_is_made_once_and_removed_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout::new(dir.path().join("r"), dir.path().join("x"));
        let make = || create(&layout, "one", BTreeMap::new(), BTreeMap::new(), false, &|_| Ok(()));
        assert!(make().expect("made"));
        assert!(!make().expect("there already"));
        assert_eq!(list(&layout).expect("list").0.len(), 1);
        assert!(pin(&layout, "one").expect("lock").is_some());
        let gone = |tree: &Path| fs::remove_dir_all(tree).at(tree);
        remove(&layout, "one", &gone).expect("removed");
        let err = remove(&layout, "one", &gone).expect_err("gone");
        assert_eq!(err.to_string(), "get one: no such volume");
        assert!(pin(&layout, "one").expect("lock").is_none());
        assert_eq!(fs::read_dir(layout.staging()).expect("list").count(), 0);
    }
}
