//! Cache mounts: directories that outlive the builds that use them.
//!
//! `caches/<name>/<n>/` is locked by who uses it: `data` in it is what the step sees. A cache has
//! more than one such directory only if steps asked for one of their own at the same time.

use std::{
    fs,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    stage::{Builder, key},
    workspace::Workspace,
};
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    image::{
        LayerRef,
        layer::{Apply, Extract, Owner, Ownership},
        unpack::InUserNamespace,
    },
    oci::Digest,
    run::{
        files::{Outcome, Task},
        pick::{Pick, Place},
    },
    state::store::{Durability, Lock, create_private_dir, read_json, write_json},
    sys::channel,
};

/// How often is looked whether a cache that another step has for itself is free.
const PATIENCE: Duration = Duration::from_millis(20);

/// A cache, as a mount asks for it.
pub(super) struct Cache {
    pub(super) id: String,
    /// `shared`, `private` or `locked`.
    pub(super) sharing: String,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    /// What is in it at first: layers, and a path in them.
    pub(super) base: Option<(Vec<LayerRef>, String)>,
}

/// `caches/<name>/cache.json`; its time is that of the last use.
#[derive(Debug, Serialize, Deserialize)]
struct CacheRecord {
    id: String,
    made: Timestamp,
    used: Timestamp,
}

/// A cache that is on disk.
#[derive(Debug)]
pub struct Kept {
    /// As it was asked for.
    pub id: String,
    /// What it is called on disk.
    pub name: String,
    pub made: Timestamp,
    pub used: Timestamp,
    pub size: u64,
    pub in_use: bool,
    dir: PathBuf,
}

impl Cache {
    /// What tells it from others: two that begin differently are not the same.
    pub(super) fn name(&self) -> Digest {
        let base = self.base.as_ref().map(|(layers, source)| {
            (layers.last().map(|layer| layer.chain_id.to_string()), source.clone())
        });
        key(&["cache 1", &self.id, &json!([base, self.mode, self.owner]).to_string()])
    }
}

impl Builder<'_> {
    /// The cache's directory, for as long as the lock is held.
    pub(super) fn open_cache(&self, cache: &Cache) -> Result<(PathBuf, Lock)> {
        let home = self.engine.layout.caches().join(cache.name().hex());
        let (dir, lock) = self.take_cache(cache, &home)?;
        let record = home.join("cache.json");
        let now = Timestamp::now();
        let old: Option<CacheRecord> = read_json(&record)?;
        let made = old.map_or(now, |old| old.made);
        let noted = CacheRecord { id: cache.id.clone(), made, used: now };
        write_json(&record, &noted, Durability::Renamed)?;
        let data = dir.join("data");
        if !data.exists() {
            self.fill_cache(cache, &data)
                .doing_with(|| format!("make the cache {:?}", cache.id))?;
        }
        Ok((data, lock))
    }

    fn take_cache(&self, cache: &Cache, home: &Path) -> Result<(PathBuf, Lock)> {
        let mut number = 0;
        loop {
            let dir = home.join(number.to_string());
            create_private_dir(&dir)?;
            let taken = match cache.sharing.as_str() {
                "shared" => Lock::try_shared(&dir),
                _ => Lock::try_exclusive(&dir),
            };
            match taken {
                // Who prunes takes it away under an exclusive lock.
                Ok(Some(lock)) if lock.is_at(&dir) => return Ok((dir, lock)),
                Ok(Some(_)) => {}
                Ok(None) if cache.sharing == "private" => number += 1,
                Ok(None) => {
                    self.go_on()?;
                    thread::sleep(PATIENCE);
                }
                Err(_) if !dir.exists() => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// Makes the directory with what it holds at first. Two may do so at once: one wins.
    fn fill_cache(&self, cache: &Cache, data: &Path) -> Result<()> {
        let staged = self.addition.stage_layer()?;
        let new = staged.diff();
        if let Some((layers, source)) = &cache.base {
            let space = Workspace::still(self, &[])?;
            let what = Pick {
                sources: vec![if source.is_empty() { "/".to_owned() } else { source.clone() }],
                ..Pick::default()
            };
            let how = Extract { owner: Owner::Told, overwrite: false };
            let place = Place { path: "/".into(), owner: (0, 0), chmod: None, how };
            self.take_layers(&space, layers, &what, &place)?;
            let upper = space.files();
            fs::rename(&upper, &new).at(&upper)?;
        }
        fs::set_permissions(&new, fs::Permissions::from_mode(cache.mode)).at(&new)?;
        if cache.owner != (0, 0) {
            self.engine.give_to_ids(&new, cache.owner)?;
        }
        let placed = match fs::rename(&new, data) {
            Err(_) if data.exists() => Ok(()),
            placed => placed.at(data),
        };
        let removed = staged.discard(&|tree| self.unpacker.remove(tree));
        placed.and(removed)
    }

    pub(super) fn take_layers(
        &self,
        space: &Workspace<'_>,
        layers: &[LayerRef],
        pick: &Pick,
        place: &Place,
    ) -> Result<()> {
        let source = Workspace::still(self, layers)?;
        let (reader, writer) = channel::pipe().doing("create a pipe")?;
        let task = Task::Pick { what: pick.clone(), latest: None };
        let sending = source.start(task, writer.as_fd())?;
        drop(writer);
        let placing = space.start(Task::Place(place.clone()), reader.as_fd())?;
        drop(reader);
        let (sent, placed) = (sending.finish(), placing.finish());
        match (sent, placed) {
            (Outcome::Failed(err), _) | (_, Outcome::Failed(err)) => Err(err),
            (Outcome::Done(_), Outcome::Done(_)) => Ok(()),
            _ => Err(Error::engine("the copy was cut short")),
        }
    }
}

impl Engine {
    /// Gives a directory and what is in it to ids of the usual containers. Where there is one id
    /// only, it has to do.
    pub(super) fn give_to_ids(&self, dir: &Path, (uid, gid): (u32, u32)) -> Result<()> {
        let Some(maps) = self.maps() else {
            let file = fs::File::open(dir).at(dir)?;
            return Ok(crate::sys::fs::chown_tree(file.into(), uid, gid)?);
        };
        if maps.is_single() {
            return Ok(());
        }
        let how = Apply { ownership: Ownership::Keep, user_xattr: true };
        InUserNamespace::new(maps, how).chown(dir, uid, gid)
    }

    /// Every cache, the one used last first.
    pub fn build_caches(&self) -> Result<Vec<Kept>> {
        let home = self.layout.caches();
        let mut found = Vec::new();
        for dir in directories(&home)? {
            // One without a record was begun and not made.
            let Ok(Some(record)) = read_json::<CacheRecord>(&dir.join("cache.json")) else {
                continue;
            };
            let mut kept = Kept {
                id: record.id,
                name: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                made: record.made,
                used: record.used,
                size: 0,
                in_use: false,
                dir: dir.clone(),
            };
            for part in directories(&dir)? {
                kept.in_use |= Lock::try_exclusive(&part)?.is_none();
                kept.size += self.measure(&part, None)?.size;
            }
            found.push(kept);
        }
        found.sort_by_key(|kept| std::cmp::Reverse(kept.used));
        Ok(found)
    }

    /// Removes a cache; `false` if a step uses it.
    pub fn remove_cache(&self, kept: &Kept) -> Result<bool> {
        let mut locks = Vec::new();
        for part in directories(&kept.dir)? {
            match Lock::try_exclusive(&part)? {
                Some(lock) => locks.push(lock),
                None => return Ok(false),
            }
        }
        let trash = self.layout.staging().join(format!("cache-{}", kept.name));
        fs::rename(&kept.dir, &trash).at(&kept.dir).doing("remove")?;
        self.unpacker().remove(&trash)?;
        Ok(true)
    }
}

/// The directories in one that need not be there.
fn directories(home: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(home) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at(home)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths = paths.collect::<std::io::Result<Vec<_>>>().at(home)?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}
