//! What builds have kept: steps and cache mounts, as one list.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{engine::Engine, error::Result};

/// Which of it is meant.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Last used before.
    pub until: Option<Timestamp>,
    /// `regular` or `exec.cachemount`.
    pub kind: Option<String>,
    /// What the id begins with.
    pub id: Option<String>,
    /// So many bytes of all there is may stay, of what was used last.
    pub keep: u64,
}

/// One thing that was kept.
#[derive(Debug, Clone)]
pub struct KeptPart {
    pub id: String,
    /// BuildKit's word for it.
    pub kind: &'static str,
    pub label: String,
    pub made: Timestamp,
    pub used: Timestamp,
    pub size: u64,
    pub in_use: bool,
}

const STEP: &str = "regular";
const CACHE: &str = "exec.cachemount";

impl Engine {
    /// What was kept and is meant, the newest first.
    pub fn build_cache(&self, selection: &Selection) -> Result<Vec<KeptPart>> {
        let images: BTreeSet<_> = self
            .store
            .list()?
            .iter()
            .flat_map(|image| image.record.chain_ids().cloned().collect::<Vec<_>>())
            .collect();
        let steps = self.store.steps()?.into_iter().map(|(path, step)| KeptPart {
            id: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            kind: STEP,
            in_use: images.contains(&step.layer.chain_id),
            label: step.label,
            made: step.made,
            used: step.made,
            size: step.size,
        });
        let mut kept: Vec<KeptPart> = steps.collect();
        kept.extend(self.build_caches()?.into_iter().map(|cache| KeptPart {
            label: format!("cached mount {}", cache.id),
            id: cache.name,
            kind: CACHE,
            made: cache.made,
            used: cache.used,
            size: cache.size,
            in_use: cache.in_use,
        }));
        kept.retain(|one| {
            selection.until.is_none_or(|until| one.used < until)
                && selection.kind.as_ref().is_none_or(|kind| one.kind == kind)
                && selection.id.as_ref().is_none_or(|id| one.id.starts_with(id))
        });
        kept.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.id.cmp(&b.id)));
        Ok(kept)
    }

    /// Forgets what is meant, and the layers and bytes that nothing else needs; the ids of what
    /// went, and how many bytes did.
    pub fn prune_builds(&self, selection: &Selection) -> Result<(Vec<String>, u64)> {
        let mut room = selection.keep;
        let mut forgotten = Vec::new();
        for one in self.build_cache(selection)? {
            match room.checked_sub(one.size) {
                // As long as there is room, what is newer stays.
                Some(rest) if selection.keep > 0 => room = rest,
                _ => {
                    room = 0;
                    forgotten.push(one);
                }
            }
        }
        let mut size = 0;
        let mut ids = Vec::new();
        for cache in self.build_caches()? {
            let is_meant = |one: &KeptPart| one.kind == CACHE && one.id == cache.name;
            if forgotten.iter().any(is_meant) && self.remove_cache(&cache)? {
                size += cache.size;
                ids.push(cache.name);
            }
        }
        let steps: BTreeSet<String> =
            forgotten.into_iter().filter(|one| one.kind == STEP).map(|one| one.id).collect();
        let unpacker = self.unpacker();
        let in_use = || self.layers_in_use();
        size += self.store.forget_steps(&steps, &in_use, &|tree| unpacker.remove(tree))?;
        ids.extend(steps);
        Ok((ids, size))
    }
}
