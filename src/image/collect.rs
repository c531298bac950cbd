//! Removing from the store: images, and what nothing refers to any more.
//!
//! The rules that keep a remover and an adder apart are drawn in [`super::store`].

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    NameRecord, Store,
    lock::Pin,
    store::{digests_in, discard, entries, read_name},
};
use crate::{
    error::{Context as _, Error, Result},
    oci::Digest,
};

/// What a removal did, in the order it happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The image's names.
    pub names: Vec<NameRecord>,
    /// The image's id, if the image itself went.
    pub image: Option<Digest>,
    /// ChainIDs.
    pub layers: Vec<Digest>,
    /// Manifests, configurations and compressed layers.
    pub blobs: Vec<Digest>,
    /// Bytes of content in the layers, blobs and partial downloads that went.
    pub size: u64,
}

/// Asks for the chainIDs that containers are made of. Called while candidates are locked.
pub type InUse<'a> = &'a dyn Fn() -> Result<HashSet<Digest>>;
/// Removes a directory tree whose files may belong to subordinate ids.
pub type RemoveTree<'a> = &'a dyn Fn(&Path) -> Result<()>;
/// Says whether an image may go, given its names, or why not. Called when nobody can name it or
/// make a container of it until it has answered and the image is gone.
pub type MayGo<'a> = &'a dyn Fn(&[NameRecord]) -> Result<()>;

#[derive(Debug, Default)]
struct Candidates {
    layers: BTreeSet<Digest>,
    blobs: BTreeSet<Digest>,
}

impl Store {
    /// Removes an image, its names, and the layers and blobs that nothing else refers to.
    ///
    /// Waits for whoever is about to name the image or to make a container of it. Layers that a
    /// container uses, or that a pull has pinned, stay.
    pub fn remove(
        &self,
        id: &Digest,
        in_use: InUse<'_>,
        remove: RemoveTree<'_>,
    ) -> Result<Removed> {
        self.remove_if(id, &|_| Ok(()), in_use, remove)
    }

    /// As [`remove`](Self::remove), if `may_go` lets it.
    pub fn remove_if(
        &self,
        id: &Digest,
        may_go: MayGo<'_>,
        in_use: InUse<'_>,
        remove: RemoveTree<'_>,
    ) -> Result<Removed> {
        let dir = self.image_dir(id);
        let Some(lock) = Pin::exclusive(&dir)? else {
            return Err(Error::not_found(format!("no such image: {}", id.short())));
        };
        let (names, _) = self.read_names()?;
        let names: Vec<_> = names.into_iter().filter(|name| name.image == *id).collect();
        may_go(&names)?;
        let mut removed = Removed::default();
        for name in names {
            let path = self.layout().reference(&name.name.to_string());
            removed.names.extend(self.remove_name(&path, |name| name.image == *id)?);
        }
        // A damaged record names no parts: then everything is a candidate.
        let parts = self.record(id).ok().flatten();
        for path in [self.layout().image(id)].into_iter().chain(entries(&dir)?) {
            match fs::remove_file(&path) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    return Err(err).at(path).doing("remove");
                }
                _ => removed.image = Some(id.clone()),
            }
        }
        fs::remove_dir(&dir).at(&dir).doing("remove")?;
        drop(lock);
        let digests = removed.names.iter().filter_map(|name| name.digest.clone());
        let candidates = match parts {
            Some(record) => Candidates {
                layers: record.chain_ids().cloned().collect(),
                blobs: record.blobs().cloned().chain(digests).collect(),
            },
            None => self.everything()?,
        };
        self.collect(&candidates, in_use, remove, &mut removed)?;
        Ok(removed)
    }

    /// Removes every layer, blob and download that nothing refers to and nobody is about to.
    pub fn collect_garbage(&self, in_use: InUse<'_>, remove: RemoveTree<'_>) -> Result<Removed> {
        let mut removed = Removed::default();
        self.clean_staging(remove)?;
        removed.size += self.clean_partial()?;
        self.clean_images()?;
        self.collect(&self.everything()?, in_use, remove, &mut removed)?;
        Ok(removed)
    }

    /// Removes those of the blobs that nothing refers to any more.
    pub fn collect_blobs(&self, blobs: BTreeSet<Digest>) -> Result<()> {
        let candidates = Candidates { blobs, ..Candidates::default() };
        let no_layers = || Ok(HashSet::new());
        let no_trees = |tree: &Path| fs::remove_dir_all(tree).at(tree);
        self.collect(&candidates, &no_layers, &no_trees, &mut Removed::default())
    }

    /// What [`collect_garbage`](Self::collect_garbage) would remove of layers and blobs.
    pub fn garbage(&self, in_use: InUse<'_>) -> Result<Removed> {
        let all = self.everything()?;
        let layers = self.lock_idle(&all.layers, |chain_id| self.layout().layer(chain_id))?;
        let blobs = self.lock_idle(&all.blobs, |digest| self.layout().blob(digest))?;
        let live = self.live(in_use)?;
        let dead = |locked: Vec<(&Digest, Pin)>, live: &BTreeSet<Digest>| {
            let dead = locked.into_iter().filter(|(digest, _)| !live.contains(*digest));
            dead.map(|(digest, _)| digest.clone()).collect()
        };
        Ok(Removed {
            layers: dead(layers, &live.layers),
            blobs: dead(blobs, &live.blobs),
            ..Removed::default()
        })
    }

    /// Removes what killed commands have left half made.
    pub fn clean_staging(&self, remove: RemoveTree<'_>) -> Result<()> {
        for path in entries(&self.layout().staging())? {
            let Some(_lock) = Pin::exclusive_if_free(&path)? else { continue };
            discard(&path, remove)?;
        }
        Ok(())
    }

    /// Removes blobs that were cut off while being fetched, and that nobody is fetching now.
    /// Returns the bytes of them.
    pub fn clean_partial(&self) -> Result<u64> {
        let mut size = 0;
        for path in entries(&self.layout().partials())? {
            let Some(_lock) = Pin::exclusive_if_free(&path)? else { continue };
            size += fs::metadata(path.join("data")).map_or(0, |meta| meta.len());
            discard(&path, &|tree| fs::remove_dir_all(tree).at(tree))?;
        }
        Ok(size)
    }

    /// Removes the directories of images whose record was never written.
    fn clean_images(&self) -> Result<()> {
        for id in self.image_ids()? {
            let dir = self.image_dir(&id);
            let Some(_lock) = Pin::exclusive_if_free(&dir)? else { continue };
            if !self.layout().image(&id).exists() {
                fs::remove_dir_all(&dir).at(&dir).doing("remove")?;
            }
        }
        Ok(())
    }

    fn everything(&self) -> Result<Candidates> {
        Ok(Candidates {
            layers: digests_in(&self.layout().layers())?.into_iter().collect(),
            blobs: self.blobs()?.into_iter().collect(),
        })
    }

    fn collect(
        &self,
        candidates: &Candidates,
        in_use: InUse<'_>,
        remove: RemoveTree<'_>,
        removed: &mut Removed,
    ) -> Result<()> {
        let layers =
            self.lock_idle(&candidates.layers, |chain_id| self.layout().layer(chain_id))?;
        let blobs = self.lock_idle(&candidates.blobs, |digest| self.layout().blob(digest))?;
        let live = self.live(in_use)?;
        for (chain_id, _lock) in layers {
            if !live.layers.contains(chain_id) {
                removed.size += self.layer(chain_id).map_or(0, |record| record.size);
                self.remove_layer(chain_id, remove)?;
                removed.layers.push(chain_id.clone());
            }
        }
        for (digest, _lock) in blobs {
            if !live.blobs.contains(digest) {
                let path = self.layout().blob(digest);
                removed.size += fs::metadata(&path).map_or(0, |meta| meta.len());
                fs::remove_file(&path).at(&path).doing("remove")?;
                removed.blobs.push(digest.clone());
            }
        }
        Ok(())
    }

    fn lock_idle<'a>(
        &self,
        digests: &'a BTreeSet<Digest>,
        path: impl Fn(&Digest) -> PathBuf,
    ) -> Result<Vec<(&'a Digest, Pin)>> {
        let mut locked = Vec::new();
        for digest in digests {
            if let Some(lock) = Pin::exclusive_if_free(&path(digest))? {
                locked.push((digest, lock));
            }
        }
        Ok(locked)
    }

    /// Everything that is referred to. A damaged record is an error: what it refers to is unknown.
    fn live(&self, in_use: InUse<'_>) -> Result<Candidates> {
        let mut live = Candidates::default();
        // One image may have been pulled by several manifests; each name keeps its own.
        live.blobs.extend(self.names()?.into_iter().filter_map(|name| name.digest));
        for id in self.image_ids()? {
            if let Some(record) = self.record(&id)? {
                live.layers.extend(record.chain_ids().cloned());
                live.blobs.extend(record.blobs().cloned());
            }
        }
        for kept in self.steps()? {
            live.layers.insert(kept.step.layer.chain_id);
            live.blobs.insert(kept.step.layer.digest);
        }
        // Containers last: an image goes only once the containers being made of it can be seen,
        // so one of the two tells of a layer.
        live.layers.extend(in_use()?);
        Ok(live)
    }

    /// The caller holds the layer's exclusive lock, which goes along to staging.
    fn remove_layer(&self, chain_id: &Digest, remove: RemoveTree<'_>) -> Result<()> {
        let path = self.layout().layer(chain_id);
        let trash = tempfile::Builder::new()
            .prefix("trash-")
            .tempdir_in(self.layout().staging())
            .at(self.layout().staging())?
            .keep();
        fs::rename(&path, &trash).at(&path).doing("remove")?;
        discard(&trash, remove)
    }

    /// Takes a name away if it is `wanted`. What cannot be read is nobody's name.
    pub(super) fn remove_name(
        &self,
        path: &Path,
        wanted: impl Fn(&NameRecord) -> bool,
    ) -> Result<Option<NameRecord>> {
        let Some(_lock) = Pin::exclusive(path)? else { return Ok(None) };
        let record = read_name(path)?.filter(wanted);
        if record.is_some() {
            fs::remove_file(path).at(path).doing("remove")?;
        }
        Ok(record)
    }
}
