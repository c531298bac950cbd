//! Volumes and networks, and that what containers want of them is there.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use jiff::Timestamp;

use super::{Check, entries, is_temporary, name};
use crate::{
    error::{Context as _, Result},
    state::{
        name::check_name,
        network::{DEFAULT, NetworkRecord},
        record::{ContainerRecord, VolumeRecord},
        secret,
        store::{Durability, Lock, create_private_dir, read_json, write_json},
    },
    volume,
};

impl Check<'_> {
    /// Each volume has a record that names it, and a directory for its files.
    pub(super) fn volumes(&mut self) -> Result<()> {
        for dir in entries(&self.engine.layout.volumes())? {
            if volume::check_name(name(&dir)).is_err() || !dir.is_dir() {
                self.stranger(&dir);
                continue;
            }
            self.report.volumes += 1;
            self.volume(&dir);
        }
        Ok(())
    }

    fn volume(&mut self, dir: &Path) {
        let called = name(dir).to_owned();
        let paths = self.engine.layout.volume(&called);
        let what = format!("volume {called}");
        let wrong = match read_json::<VolumeRecord>(&paths.record()) {
            Ok(Some(record)) if record.name == called => None,
            Ok(Some(record)) => Some(format!("its record is of volume {}", record.name)),
            Ok(None) if !dir.exists() => return,
            Ok(None) => Some("it has no record".to_owned()),
            Err(err) => Some(err.to_string()),
        };
        // What it holds is the user's, and worth more than what was said of it.
        if let Some(wrong) = wrong {
            self.mendable(what.clone(), wrong, "writes one without labels and options", || {
                let _lock = Lock::exclusive(dir)?;
                let made = fs::metadata(dir).at(dir)?;
                let record = VolumeRecord {
                    name: called.clone(),
                    created: Timestamp::from_second(made.mtime())
                        .unwrap_or_else(|_| Timestamp::now()),
                    labels: Default::default(),
                    options: Default::default(),
                    anonymous: false,
                };
                write_json(&paths.record(), &record, Durability::Synced)
            });
        }
        if !paths.data().is_dir() {
            self.mendable(what, "its files are gone", "makes it anew, empty", || {
                create_private_dir(&paths.data())?;
                fs::set_permissions(paths.data(), fs::Permissions::from_mode(0o755))
                    .at(paths.data())
            });
        }
    }

    /// Each network has a record that names it.
    pub(super) fn networks(&mut self) -> Result<()> {
        for dir in entries(&self.engine.layout.networks())? {
            let called = name(&dir).to_owned();
            if is_temporary(&called) {
                continue;
            }
            if check_name(&called).is_err() || !dir.is_dir() {
                self.stranger(&dir);
                continue;
            }
            self.report.networks += 1;
            let what = format!("network {called}");
            let wrong = match read_json::<NetworkRecord>(&dir.join("network.json")) {
                Ok(Some(record)) if record.name == called => continue,
                Ok(Some(record)) => format!("its record is of network {}", record.name),
                // It is being made, or was to be.
                Ok(None) => match fs::read_dir(&dir).map(|mut inside| inside.next().is_none()) {
                    Ok(true) => {
                        self.mendable(what, "it has no record", "removes it", || gone(&dir));
                        continue;
                    }
                    _ => "it has no record".to_owned(),
                },
                Err(err) => err.to_string(),
            };
            // Its addresses are known from nowhere else.
            let remedy = format!(
                "--repair --force removes it; `dhow network create {called}` makes it again"
            );
            self.beyond_repair(what, wrong, remedy, || {
                fs::remove_dir_all(&dir).at(&dir).doing("remove")
            });
        }
        Ok(())
    }

    /// Each secret can be read, and is of the name it is found by.
    pub(super) fn secrets(&mut self) -> Result<()> {
        for path in entries(&self.engine.layout.secrets())? {
            let called = name(&path).to_owned();
            if is_temporary(&called) {
                continue;
            }
            if secret::check_name(&called).is_err() || !path.is_file() {
                self.stranger(&path);
                continue;
            }
            let wrong = match secret::find(&self.engine.layout, &called) {
                Ok(Some(record)) if record.name != called => {
                    format!("its record is of secret {}", record.name)
                }
                Ok(_) => continue,
                Err(err) => err.to_string(),
            };
            let remedy = format!(
                "--repair --force removes it; `dhow secret create {called} FILE` makes it again"
            );
            self.beyond_repair(format!("secret {called}"), wrong, remedy, || {
                fs::remove_file(&path).at(&path).doing("remove")
            });
        }
        Ok(())
    }

    /// What a container cannot start without.
    pub(super) fn wants(&mut self, record: &ContainerRecord) {
        let what = format!("container {}", record.name);
        for volume in record.host.mounts.iter().filter_map(volume::volume_name) {
            if !self.engine.layout.volume(volume).dir().is_dir() {
                let wrong = format!("its volume {volume} is not here");
                let remedy = format!("`dhow volume create {volume}` makes it, empty");
                self.stays(what.clone(), wrong, remedy);
            }
        }
        for choice in record.host.networks.iter().filter(|choice| choice.name != DEFAULT) {
            let lost = self.engine.network(&choice.name);
            if lost.is_err_and(|err| err.kind() == crate::error::Kind::NotFound) {
                let wrong = format!("its network {} is not here", choice.name);
                let remedy = format!("`dhow network create {}` makes it", choice.name);
                self.stays(what.clone(), wrong, remedy);
            }
        }
    }
}

/// Removes a directory with nothing in it.
fn gone(dir: &Path) -> Result<()> {
    match fs::remove_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.at(dir).doing("remove"),
    }
}
