//! Volumes: what a user can ask for.

mod attach;
mod files;
pub mod fill;
pub(in crate::engine) mod overlay;

use std::{collections::BTreeMap, path::Path};

use jiff::Timestamp;
use regex_lite::Regex;

use super::{Engine, container::prune::PruneFilters};
use crate::{
    error::{Error, Result},
    run::discard,
    state::{
        project::{self, Limits},
        record::VolumeRecord,
    },
    volume::{
        self,
        driver::{self, Design},
    },
};

/// Which volumes are meant: those of which, for each kind of condition, one holds.
#[derive(Debug, Clone, Default)]
pub struct VolumeFilters {
    /// What names have in them.
    pub names: Vec<Regex>,
    /// No container has it, or one does.
    pub dangling: Option<bool>,
    /// Nobody named it, or somebody did.
    pub anonymous: Option<bool>,
    pub drivers: Vec<String>,
    /// Options it was made with, with a value or any.
    pub options: Vec<(String, Option<String>)>,
    /// All must hold: labels it has, with a value or any.
    pub labels: Vec<(String, Option<String>)>,
    /// Labels it has not.
    pub without: Vec<(String, Option<String>)>,
    /// Created before this moment.
    pub until: Option<Timestamp>,
    /// Created after this moment.
    pub since: Option<Timestamp>,
}

impl VolumeFilters {
    fn admit(&self, record: &VolumeRecord, used: bool) -> bool {
        let labels = PruneFilters {
            until: self.until,
            labels: self.labels.clone(),
            without: self.without.clone(),
        };
        let has_option = |(key, value): &(String, Option<String>)| {
            let own = record.options.get(key);
            own.is_some_and(|own| value.as_ref().is_none_or(|value| own == value))
        };
        any(&self.names, |pattern| pattern.is_match(&record.name))
            && any(&self.drivers, |driver| driver == DRIVER)
            && any(&self.options, has_option)
            && self.dangling.is_none_or(|dangling| dangling != used)
            && self.anonymous.is_none_or(|anonymous| anonymous == record.anonymous)
            && self.since.is_none_or(|since| record.created > since)
            && labels.admit(record.created, &record.labels)
    }
}

/// Of no condition none need hold.
fn any<T>(list: &[T], holds: impl FnMut(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(holds)
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
        self.make_volume(&name, labels, options, anonymous)?;
        Ok(name)
    }

    /// Makes the volume unless there is one: `false` then.
    fn make_volume(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
        anonymous: bool,
    ) -> Result<bool> {
        let design = Design::of(name, &options)?;
        design.backing.check_rights(name, self.facts.rootless())?;
        volume::create(&self.layout, name, labels, options, anonymous, &|data| {
            self.prepare(&design, data).map_err(|err| err.context(format!("create {name}")))
        })
    }

    /// Makes the new directory for a volume's files what its options say.
    fn prepare(&self, design: &Design, data: &Path) -> Result<()> {
        if design.limits != Limits::default() {
            if self.facts.rootless() {
                return Err(driver::no_quota().hint("only root may set quotas"));
            }
            project::limit(&[data], design.limits)
                .map_err(|err| driver::no_quota().hint(project::hint(&err)))?;
        }
        match design.owner {
            Some(owner) => self.give_to(data, self.maps().as_ref(), owner),
            None => Ok(()),
        }
    }

    /// The volume of this name.
    pub fn volume(&self, name: &str) -> Result<VolumeRecord> {
        volume::find(&self.layout, name)?.ok_or_else(|| volume::no_such(name))
    }

    /// The volumes there are, by name, and what could not be read. Who has them is asked only if
    /// a filter wants to know: that takes a look at every container.
    pub fn volume_records(
        &self,
        filters: &VolumeFilters,
    ) -> Result<(Vec<VolumeRecord>, Vec<Error>)> {
        if filters.dangling.is_some() {
            let (found, damaged) = self.volumes(filters)?;
            return Ok((found.into_iter().map(|one| one.record).collect(), damaged));
        }
        let (mut found, damaged) = volume::list(&self.layout)?;
        found.retain(|record| filters.admit(record, false));
        Ok((found, damaged))
    }

    /// The same, with how many containers have each.
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
        let (found, damaged) = self.volumes(filters)?;
        let mut pruned = Pruned { failed: damaged, ..Pruned::default() };
        let unused = found.into_iter().filter(|one| one.containers == 0);
        let meant = unused.map(|one| one.record).filter(|record| all || record.anonymous);
        let size = |record: VolumeRecord| {
            let size = self.volume_size(&record).unwrap_or(0);
            (record.name, size)
        };
        let sizes: BTreeMap<_, _> = meant.map(size).collect();
        let names: Vec<_> = sizes.keys().cloned().collect();
        for (name, done) in volume::remove_unused(&self.layout, &names, &discard::remove_tree)? {
            match done {
                Ok(()) => {
                    pruned.freed += sizes.get(&name).copied().unwrap_or(0);
                    pruned.removed.push(name);
                }
                Err(err) => pruned.failed.push(err),
            }
        }
        Ok(pruned)
    }

    /// Bytes of a volume's own files; what is elsewhere is not its own.
    pub fn volume_size(&self, record: &VolumeRecord) -> Result<u64> {
        Ok(self.measure(&self.layout.volume(&record.name).data(), None)?.size)
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
    .hint(match driver {
        "image" => "--mount type=image,source=IMAGE,target=PATH shows an image's files",
        _ => "the only driver is local; its options type, device and o mount other file systems",
    }))
}
