//! What a build need not do again: the layer that a step has made, by the digest of all it was
//! made of.

use std::{collections::BTreeSet, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Addition, LayerRef, Store, collect::RemoveTree, registry::web::Version, store::entries,
};
use crate::{
    error::{Context as _, Result},
    oci::Digest,
    state::store::{Durability, create_private_dir, read_json, write_json},
};

/// `steps/<hex>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The instruction, as `du` shows it.
    pub label: String,
    pub layer: LayerRef,
    /// Bytes of file content.
    pub size: u64,
    pub made: Timestamp,
}

/// A note, and the file it is in.
#[derive(Debug, Clone)]
pub struct KeptStep {
    pub path: PathBuf,
    pub step: StepRecord,
    /// When a build last found it done, or did it: the file's own time.
    pub used: Timestamp,
}

/// `steps/<sha256 of the address>.web`: a file of the web that a build took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebNote {
    pub url: String,
    pub version: Version,
    /// When it was last changed, in seconds since 1970.
    pub modified: Option<i64>,
    /// What it is called.
    pub name: Option<String>,
    /// Of its content.
    pub digest: Digest,
}

impl Store {
    /// The layer that was made of what `key` stands for. It stays until the addition ends.
    pub fn step(&self, addition: &Addition<'_>, key: &Digest) -> Result<Option<StepRecord>> {
        let Some(record) = read_json::<StepRecord>(&self.layout().step(key))? else {
            return Ok(None);
        };
        let layer = &record.layer;
        // What somebody has removed is made again.
        let is_here = addition.has_layer(&layer.chain_id)?
            && (addition.has_blob(&layer.digest)? || self.can_tell(layer));
        if is_here {
            // Whether it can be told when the step was last of use does not matter to the build.
            let now = std::time::SystemTime::now();
            let note = std::fs::File::open(self.layout().step(key));
            let _ = note.and_then(|note| note.set_modified(now));
        }
        Ok(is_here.then_some(record))
    }

    /// Notes a layer that the addition holds.
    pub fn note_step(&self, key: &Digest, record: &StepRecord) -> Result<()> {
        create_private_dir(&self.layout().steps())?;
        write_json(&self.layout().step(key), record, Durability::Renamed)
    }

    /// What was noted of the file at `url`; nothing if that cannot be read.
    pub fn web_note(&self, url: &str) -> Result<Option<WebNote>> {
        let path = self.layout().web_note(&Digest::of(url.as_bytes()));
        Ok(read_json(&path).ok().flatten())
    }

    pub fn note_web(&self, note: &WebNote) -> Result<()> {
        create_private_dir(&self.layout().steps())?;
        let path = self.layout().web_note(&Digest::of(note.url.as_bytes()));
        write_json(&path, note, Durability::Renamed)
    }

    /// Every note. A damaged one is left out: it keeps nothing.
    pub fn steps(&self) -> Result<Vec<KeptStep>> {
        let is_note = |path: &PathBuf| path.extension().is_some_and(|it| it == "json");
        let paths = entries(&self.layout().steps())?.into_iter().filter(is_note);
        let read = |path: PathBuf| {
            let step: StepRecord = read_json(&path).ok()??;
            let modified = std::fs::metadata(&path).ok()?.modified().ok()?;
            let used = Timestamp::try_from(modified).ok()?.max(step.made);
            Some(KeptStep { path, step, used })
        };
        Ok(paths.filter_map(read).collect())
    }

    /// Forgets the steps with these keys (hexadecimal); layers and blobs that nothing else refers
    /// to go. How many bytes went.
    pub fn forget_steps(
        &self,
        keys: &BTreeSet<String>,
        in_use: super::collect::InUse<'_>,
        remove: RemoveTree<'_>,
    ) -> Result<u64> {
        for path in entries(&self.layout().steps())? {
            if path.extension().is_some_and(|extension| extension == "web" || extension == "files")
            {
                // It only saves a download, or reading.
                let _ = std::fs::remove_file(&path);
                continue;
            }
            let key = path.file_stem().unwrap_or_default().to_string_lossy();
            if !keys.contains(&*key) {
                continue;
            }
            match std::fs::remove_file(&path) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                    return Err(err).at(path).doing("remove");
                }
                _ => {}
            }
        }
        Ok(self.collect_garbage(in_use, remove)?.size)
    }
}
