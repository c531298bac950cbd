//! What builds have kept: steps and cache mounts, as one list.

use std::collections::BTreeSet;

use jiff::Timestamp;
use nix::sys::statvfs::statvfs;

use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
};

/// Which of it is meant.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Last used before.
    pub until: Option<Timestamp>,
    /// All of them hold.
    pub filters: Vec<Filter>,
}

/// What a part that is meant is like.
#[derive(Debug, Clone)]
pub enum Filter {
    Text {
        key: TextKey,
        test: Test,
        value: String,
    },
    /// A property, and whether it is there.
    Is(Property, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKey {
    Id,
    Kind,
    Description,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// An image has it.
    InUse,
    /// Steps that run change it.
    Mutable,
}

/// How a text is compared.
#[derive(Debug, Clone)]
pub enum Test {
    Equal,
    Other,
    Like(regex_lite::Regex),
}

/// How much may stay, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// So much stays in any case.
    pub reserved: u64,
    /// No more stays than this.
    pub used: Option<u64>,
    /// So much of the file system is to be free.
    pub free: Option<u64>,
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
    /// In bytes.
    pub size: u64,
    /// An image has it, or a step is using it: what is forgotten of it frees nothing.
    pub in_use: bool,
}

const STEP: &str = "regular";
const CACHE: &str = "exec.cachemount";

impl KeptPart {
    /// Steps that run change it.
    pub fn is_mutable(&self) -> bool {
        self.kind == CACHE
    }

    fn is_meant(&self, selection: &Selection) -> bool {
        let holds = |filter: &Filter| match filter {
            Filter::Is(Property::InUse, wanted) => self.in_use == *wanted,
            Filter::Is(Property::Mutable, wanted) => self.is_mutable() == *wanted,
            Filter::Text { key, test, value } => {
                let text = match key {
                    TextKey::Id => &self.id,
                    TextKey::Kind => self.kind,
                    TextKey::Description => &self.label,
                };
                match test {
                    Test::Equal => text == value,
                    Test::Other => text != value,
                    Test::Like(pattern) => pattern.is_match(text),
                }
            }
        };
        selection.until.is_none_or(|until| self.used < until) && selection.filters.iter().all(holds)
    }
}

impl Room {
    /// How many of `total` bytes may stay; all of them if nothing limits them.
    fn keep(&self, total: u64, free: u64) -> u64 {
        if *self == Self::default() {
            return 0;
        }
        let missing = self.free.map(|wanted| wanted.saturating_sub(free));
        let keep = match (self.used, missing) {
            (Some(used), missing) => used.min(total.saturating_sub(missing.unwrap_or(0))),
            (None, Some(missing)) => total.saturating_sub(missing),
            (None, None) => 0,
        };
        keep.max(self.reserved)
    }
}

impl Engine {
    /// What was kept and is meant, the newest first.
    pub fn build_cache(&self, selection: &Selection) -> Result<Vec<KeptPart>> {
        let images: BTreeSet<_> = self
            .store
            .list()?
            .iter()
            .flat_map(|image| image.record.chain_ids().cloned().collect::<Vec<_>>())
            .collect();
        let steps = self.store.steps()?.into_iter().map(|kept| KeptPart {
            id: kept.path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            kind: STEP,
            in_use: images.contains(&kept.step.layer.chain_id),
            label: kept.step.label,
            made: kept.step.made,
            used: kept.used,
            size: kept.step.size,
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
        kept.retain(|one| one.is_meant(selection));
        kept.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.id.cmp(&b.id)));
        Ok(kept)
    }

    /// Forgets what is meant and has no `room`, what was used longest ago first, and the layers and
    /// bytes that nothing else needs; what went, and how many bytes did.
    pub fn prune_builds(&self, selection: &Selection, room: &Room) -> Result<(Vec<KeptPart>, u64)> {
        let kept = self.build_cache(selection)?;
        let total = kept.iter().map(|one| one.size).sum();
        let free = match room.free {
            None => 0,
            Some(_) => {
                let root = self.layout.root();
                let vfs = statvfs(root).map_err(Error::from).at(root)?;
                vfs.blocks_available().saturating_mul(vfs.fragment_size())
            }
        };
        let keep = room.keep(total, free);
        let mut left = total;
        let mut gone = Vec::new();
        for one in kept.into_iter().rev() {
            // Without a limit what has no bytes goes as well.
            if keep > 0 && left <= keep {
                break;
            }
            left -= one.size;
            gone.push(one);
        }
        let mut size = 0;
        let names: BTreeSet<&str> =
            gone.iter().filter(|one| one.is_mutable()).map(|one| one.id.as_str()).collect();
        let mut held = BTreeSet::new();
        for cache in self.build_caches()?.into_iter().filter(|c| names.contains(&*c.name)) {
            match self.remove_cache(&cache)? {
                true => size += cache.size,
                false => _ = held.insert(cache.name),
            }
        }
        gone.retain(|one| !held.contains(&one.id));
        let steps: BTreeSet<String> =
            gone.iter().filter(|one| one.kind == STEP).map(|one| one.id.clone()).collect();
        let unpacker = self.unpacker();
        let in_use = || self.layers_in_use();
        size += self.store.forget_steps(&steps, &in_use, &|tree| unpacker.remove(tree))?;
        Ok((gone, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_the_limits_leave() {
        let room = |reserved, used, free| Room { reserved, used, free };
        for (room, keep) in [
            (Room::default(), 0),
            (room(30, None, None), 30),
            (room(0, Some(40), None), 40),
            (room(0, Some(400), None), 100),
            (room(50, Some(40), None), 50),
            // 10 bytes are free.
            (room(0, None, Some(10)), 100),
            (room(0, None, Some(30)), 80),
            (room(0, Some(90), Some(30)), 80),
            (room(0, Some(70), Some(30)), 70),
            (room(60, None, Some(1000)), 60),
        ] {
            assert_eq!(room.keep(100, 10), keep, "{room:?}");
        }
    }
}
