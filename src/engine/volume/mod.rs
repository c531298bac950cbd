//! Volumes: what a user can ask for.

mod attach;
mod files;
pub mod fill;
pub(in crate::engine) mod overlay;

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Engine, container::prune::PruneFilters};
use crate::{
    error::{Error, Kind, Result},
    image::layer::{Apply, Ownership},
    image::unpack::InUserNamespace,
    run::discard,
    state::record::VolumeRecord,
    sys::fs as tree,
    volume::{self, driver::Backing},
};

/// Which volumes are meant: those of which, for each kind of condition, one holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeFilters {
    /// Parts of names.
    pub names: Vec<String>,
    /// No container has it, or one does.
    pub dangling: Option<bool>,
    pub drivers: Vec<String>,
    /// All must hold: labels it has, with a value or any.
    pub labels: Vec<(String, Option<String>)>,
    /// Labels it has not.
    pub without: Vec<(String, Option<String>)>,
    /// Created before this moment.
    pub until: Option<Timestamp>,
}

impl VolumeFilters {
    fn admit(&self, record: &VolumeRecord, used: bool) -> bool {
        let labels = PruneFilters {
            until: self.until,
            labels: self.labels.clone(),
            without: self.without.clone(),
        };
        let any = |list: &[String], holds: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|one| holds(one))
        };
        any(&self.names, &|part| record.name.contains(part))
            && any(&self.drivers, &|driver| driver == DRIVER)
            && self.dangling.is_none_or(|dangling| dangling != used)
            && labels.admit(record.created, &record.labels)
    }
}

/// The only driver there is.
pub const DRIVER: &str = "local";

/// A volume and what is known of it.
#[derive(Debug, Clone)]
pub struct Volume {
    pub record: VolumeRecord,
    /// How many containers have it.
    pub containers: usize,
}

/// What a prune did.
#[derive(Debug, Default)]
pub struct Pruned {
    pub removed: Vec<String>,
    /// Bytes.
    pub freed: u64,
    pub failed: Vec<Error>,
}

impl Engine {
    /// Makes a volume, or finds the one of this name, and says what it is called.
    pub fn create_volume(
        &self,
        name: Option<&str>,
        driver: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<String> {
        let anonymous = name.is_none();
        let name = name.map_or_else(volume::random_name, |name| Ok(name.to_owned()))?;
        check_driver(&name, driver)?;
        let backing = Backing::of(&name, &options)?;
        backing.check_rights(&name, self.facts.rootless())?;
        volume::create(&self.layout, &name, labels, options, anonymous)?;
        Ok(name)
    }

    /// The volume of this name.
    pub fn volume(&self, name: &str) -> Result<VolumeRecord> {
        volume::find(&self.layout, name)?.ok_or_else(|| volume::no_such(name))
    }

    /// The volumes there are, by name, and what could not be read.
    pub fn volumes(&self, filters: &VolumeFilters) -> Result<(Vec<Volume>, Vec<Error>)> {
        let (found, damaged) = volume::list(&self.layout)?;
        let users = volume::all_users(&self.layout)?;
        let with_users = found.into_iter().map(|record| {
            let containers = users.get(&record.name).map_or(0, Vec::len);
            Volume { record, containers }
        });
        let admitted = with_users.filter(|one| filters.admit(&one.record, one.containers > 0));
        Ok((admitted.collect(), damaged))
    }

    /// Removes a volume that no container has.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        volume::remove(&self.layout, name, &discard::remove_tree)
    }

    /// Removes the volumes that no container has: those nobody named, or with `all` every one.
    pub fn prune_volumes(&self, all: bool, filters: &VolumeFilters) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let (found, damaged) = self.volumes(filters)?;
        pruned.failed = damaged;
        for one in found.into_iter().filter(|one| one.containers == 0) {
            if !all && !one.record.anonymous {
                continue;
            }
            let size = self.volume_size(&one.record).unwrap_or(0);
            match self.remove_volume(&one.record.name) {
                Ok(()) => {
                    pruned.freed += size;
                    pruned.removed.push(one.record.name);
                }
                // Another command was faster, or has begun to use it.
                Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Conflict) => {}
                Err(err) => pruned.failed.push(err),
            }
        }
        Ok(pruned)
    }

    /// Bytes of a volume's own files; what is elsewhere is not its own.
    pub fn volume_size(&self, record: &VolumeRecord) -> Result<u64> {
        use crate::error::Context as _;
        let data = self.layout.volume(&record.name).data();
        let usage = match self.maps() {
            Some(maps) => {
                let how = Apply { ownership: Ownership::Keep, user_xattr: true };
                InUserNamespace::new(maps, how).usage(&data, None)?
            }
            None => tree::usage(std::fs::File::open(&data).at(&data)?.into(), None).at(&data)?,
        };
        Ok(usage.size)
    }
}

/// Docker's plugins are programs that answer for other drivers; there are none here.
pub fn check_driver(name: &str, driver: &str) -> Result<()> {
    if driver.is_empty() || driver == DRIVER {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
    ))
    .hint("the only driver is local; its options type, device and o mount other file systems"))
}
