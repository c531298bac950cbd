//! `container prune`: everything that does not run.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::list::Query;
use crate::{
    engine::Engine,
    error::{Error, Result},
    state::ContainerId,
};

/// Which of the stopped containers go: every condition holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneFilters {
    /// Created before this moment.
    pub until: Option<Timestamp>,
    /// Labels it has, with a value or any.
    pub labels: Vec<(String, Option<String>)>,
    /// Labels it has not.
    pub without: Vec<(String, Option<String>)>,
}

/// What went.
#[derive(Debug, Default)]
pub struct Pruned {
    pub removed: Vec<ContainerId>,
    /// Bytes of the containers' own files.
    pub freed: u64,
    /// Why the others did not.
    pub failed: Vec<Error>,
}

impl Engine {
    /// Removes the containers that do not run.
    pub fn prune_containers(&self, filters: &PruneFilters) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let query = Query { all: true, ..Query::default() };
        let stopped = self.containers(&query)?.containers.into_iter();
        for one in stopped.filter(|one| !one.status.is_running()) {
            if !filters.admit(one.created, &one.labels) {
                continue;
            }
            let size = self.sizes(&one.id, &one.image_id).map_or(0, |(own, _)| own);
            match self.remove(&one.id, false, false) {
                Ok(()) => {
                    pruned.freed += size;
                    pruned.removed.push(one.id);
                }
                Err(err) => pruned.failed.push(err),
            }
        }
        Ok(pruned)
    }
}

impl PruneFilters {
    pub(in crate::engine) fn admit(
        &self,
        created: Timestamp,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        let has = |(key, value): &(String, Option<String>)| {
            labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        self.until.is_none_or(|until| created < until)
            && self.labels.iter().all(has)
            && !self.without.iter().any(has)
    }
}
