//! `rm` and `rename`.

use std::os::unix::net::UnixStream;

use super::{Status, list::Query};
use crate::{
    engine::{Engine, image::mount::take_away},
    error::{Error, Result},
    run::discard,
    state::{
        ContainerId,
        name::check_name,
        record::{ContainerRecord, Mode},
        store::{Durability, Lock, write_json, write_new},
    },
};

impl Engine {
    /// These containers and those that need one of them, which come first.
    pub fn with_dependents(&self, names: &[String]) -> Result<Vec<String>> {
        let mut all: Vec<String> = Vec::new();
        let listed = self.containers(&Query { all: true, ..Query::default() })?.containers;
        let records: Vec<_> =
            listed.iter().filter_map(|one| Some(self.load(&one.id).ok()?.record)).collect();
        for name in names {
            let mut rest = match self.find(name) {
                Ok(id) => vec![id],
                Err(_) => {
                    // The removal itself says what is wrong with it.
                    all.push(name.clone());
                    continue;
                }
            };
            while let Some(id) = rest.pop() {
                let text = id.to_string();
                all.retain(|known| *known != text);
                all.insert(0, text);
                let needs = |record: &&ContainerRecord| record.id != id && needs(record, &id);
                rest.extend(records.iter().filter(needs).map(|record| record.id.clone()));
            }
        }
        Ok(all)
    }

    /// Removes a container; one that runs only with `force`, which kills it. With `volumes`, the
    /// volumes that nobody named go as well.
    pub fn remove(&self, id: &ContainerId, force: bool, volumes: bool) -> Result<()> {
        self.remove_one_of_many(id, force, volumes, false).map(drop)
    }

    /// As [`remove`](Self::remove), of one that may be [killed](Self::kill) already. Who removes more
    /// keeps what it returns: dropped, it lets the monitor unmount what the container had, the kernel
    /// syncs all of the file system beneath then, and files that it is writing are slow to remove.
    pub fn remove_one_of_many(
        &self,
        id: &ContainerId,
        force: bool,
        volumes: bool,
        killed: bool,
    ) -> Result<Option<UnixStream>> {
        let mut monitor = None;
        let paths = self.layout.container(id);
        match self.status(&paths) {
            Ok(status) if status.is_running() => {
                let name = self.load(id)?.record.name;
                if !force && matches!(status, Status::Paused(_)) {
                    return Err(Error::conflict(format!(
                        "cannot remove container {name}: container is paused and must be unpaused first"
                    ))
                    .hint(format!("`dhow unpause {name}`, or `dhow rm -f {name}` kills it")));
                }
                if !force {
                    return Err(Error::conflict(format!(
                        "cannot remove container {name}: container is running"
                    ))
                    .hint(format!("`dhow rm -f {name}` stops it first")));
                }
                // It may end by itself, or remove itself, at any moment.
                let init = status.process().map(|process| process.init);
                let kill = || if killed { Ok(()) } else { self.kill(id, libc::SIGKILL) };
                let ended = match kill() {
                    Err(err) if init.and_then(discard::living).is_some() => Err(err),
                    Ok(()) | Err(_) => self.wait_until_recorded(id).map(|heard| monitor = heard),
                };
                match ended {
                    Err(err) if paths.dir().exists() => return Err(err),
                    _ => {}
                }
            }
            Ok(Status::Restarting(_)) => {
                let record = self.load(id)?.record;
                if !force {
                    return Err(Error::conflict(format!(
                        "cannot remove container {}: container is restarting",
                        record.name
                    ))
                    .hint(format!("`dhow rm -f {}` stops it first", record.name)));
                }
                self.mark_stopped(id, record.host.restart)?;
                if !self.cancel_restart(id)? {
                    // It was faster.
                    return self.remove_one_of_many(id, force, volumes, killed);
                }
            }
            Ok(Status::Initialized(_)) => {
                self.end_held(id)?;
            }
            Ok(_) => {}
            // A damaged container can still be removed, if one insists.
            Err(err) if !force => return Err(err),
            Err(_) => {}
        }
        let lock = match Lock::exclusive(paths.dir()) {
            Ok(lock) => lock,
            Err(_) if !paths.dir().exists() => return Ok(monitor),
            Err(err) => return Err(err),
        };
        discard::abandoned(&paths, &self.facts.boot_id)?;
        let record = self.load(id).map(|container| container.record);
        if record.as_ref().is_ok_and(|record| record.host.special.mounted) {
            take_away(&self.layout.container_mount(id), true)?;
        }
        discard::container(&self.layout, id, volumes)?;
        drop(lock);
        if let Ok(record) = record {
            self.note(&record, "destroy");
        }
        Ok(monitor)
    }

    /// Gives a container another name.
    pub fn rename(&self, id: &ContainerId, name: &str) -> Result<()> {
        let name = check_name(name)?;
        let paths = self.layout.container(id);
        let _lock = Lock::exclusive(paths.dir())?;
        let mut record = self.load(id)?.record;
        if record.name == name {
            return Err(Error::invalid(
                "renaming a container with the same name as its current name",
            ));
        }
        let claim = self.layout.names().join(name);
        if !write_new(&claim, id.as_str().as_bytes(), paths.dir())? {
            return Err(Error::conflict(format!(
                "the container name \"{name}\" is already in use"
            ))
            .hint("`dhow ps -a` shows whose it is"));
        }
        let old = std::mem::replace(&mut record.name, name.to_owned());
        if let Err(err) = write_json(&paths.record(), &record, Durability::Synced) {
            discard::release_name(&claim, id)?;
            return Err(err);
        }
        self.note_with(&record, "rename", "oldName", &old);
        discard::release_name(&self.layout.names().join(old), id)?;
        self.follow_name(&record)
    }
}

fn needs(record: &ContainerRecord, id: &ContainerId) -> bool {
    let modes = &record.host.namespaces;
    let all = [&modes.pid, &modes.ipc, &modes.uts, &modes.cgroup, &modes.network];
    record.host.special.requires.contains(id)
        || all.into_iter().any(|mode| matches!(mode, Mode::Container(other) if other == id))
}
