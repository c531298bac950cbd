//! A container that a step works in, gone when the step is.

use std::{
    fs::File,
    io::{Seek as _, SeekFrom},
};

use jiff::Timestamp;

use super::stage::Builder;
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    image::{LayerRef, Silent, ingest, store::chain_ids},
    oci::{Digest, media_type::OCI_LAYER},
    run::files::{Outcome, Task, Worker},
    state::{
        ContainerId,
        record::{ContainerConfig, ContainerRecord, HostConfig},
        store::Durability,
    },
};

/// Removed when dropped.
pub(super) struct Workspace<'e> {
    engine: &'e Engine,
    pub(super) record: ContainerRecord,
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        // A later `rm` or prune finds what could not be removed.
        let _ = self.engine.remove(&self.record.id, true, true);
    }
}

impl<'e> Workspace<'e> {
    /// A container made of these layers, bottom first, which the caller holds.
    pub(super) fn new(
        engine: &'e Engine,
        layers: &[LayerRef],
        config: ContainerConfig,
        host: HostConfig,
    ) -> Result<Self> {
        let id = ContainerId::random()?;
        let record = ContainerRecord {
            name: format!("build-{}", id.short()),
            id,
            created: Timestamp::now(),
            image: "build".into(),
            image_id: layers.last().map_or_else(|| Digest::of(b""), |layer| layer.chain_id.clone()),
            storage: engine.storage.unwrap_or_default(),
            layers: layers.iter().map(|layer| layer.chain_id.clone()).collect(),
            config,
            host,
        };
        let record = engine.create_as(record, true, Durability::Renamed)?;
        Ok(Self { engine, record })
    }

    /// One whose files are only read or changed from outside.
    pub(super) fn still(engine: &'e Engine, layers: &[LayerRef]) -> Result<Self> {
        let config = ContainerConfig {
            entrypoint: vec!["/".into()],
            working_dir: "/".into(),
            ..ContainerConfig::default()
        };
        Self::new(engine, layers, config, HostConfig::default())
    }

    /// Numbers for `user[:group]`, as `--chown` reads them: a number without a group is both.
    pub(super) fn owner(&self, text: &str) -> Result<(u32, u32)> {
        let maps = self.engine.container_maps(&self.record)?;
        let is_single = maps.as_ref().is_some_and(crate::sys::user::IdMaps::is_single);
        let accounts = self.engine.accounts(&self.record, None)?;
        let alone = !text.contains(':') && text.bytes().all(|b| b.is_ascii_digit());
        let text = if alone { format!("{text}:{text}") } else { text.to_owned() };
        let user = accounts.resolve(&text, &[], None)?;
        // The one id there is has to do.
        Ok(if is_single { (0, 0) } else { (user.uid, user.gid) })
    }

    /// Whether files have one owner whatever they are told.
    pub(super) fn has_single_id(&self) -> Result<bool> {
        let maps = self.engine.container_maps(&self.record)?;
        Ok(maps.as_ref().is_some_and(crate::sys::user::IdMaps::is_single))
    }

    /// Starts the role that reads or changes the files; `tar` is its end of a pipe.
    pub(super) fn start(&self, task: Task, tar: std::os::fd::BorrowedFd<'_>) -> Result<Working> {
        let held = self.engine.files(&self.record.id)?;
        let (source, lock) = held.into_parts();
        Ok(Working { worker: source.start(task, tar)?, _lock: lock })
    }
}

/// A role at work, and what keeps others away from the files meanwhile.
pub(super) struct Working {
    worker: Worker,
    _lock: Option<crate::state::store::Lock>,
}

impl Working {
    pub(super) fn finish(self) -> Outcome {
        self.worker.finish()
    }
}

impl Builder<'_> {
    /// Makes a layer of what the container has changed, on top of `below`.
    pub(super) fn layer_of(&self, space: &Workspace<'_>, below: &[LayerRef]) -> Result<LayerRef> {
        let staging = self.engine.layout.staging();
        let file = tempfile::tempfile_in(&staging).at(&staging)?;
        self.engine
            .layer_tar(&space.record.id, Some(self.epoch), &file)
            .doing("read what the step has changed")?;
        self.add_layer(file, below)
    }

    /// Adds an uncompressed tar as a layer.
    fn add_layer(&self, mut file: File, below: &[LayerRef]) -> Result<LayerRef> {
        file.seek(SeekFrom::Start(0)).doing("read the layer")?;
        let (digest, size) = self.addition.put_blob(&mut file, None)?;
        let mut diff_ids: Vec<Digest> = below.iter().map(|layer| layer.diff_id.clone()).collect();
        diff_ids.push(digest.clone());
        let chain_id = chain_ids(&diff_ids).pop();
        let chain_id = chain_id.ok_or_else(|| Error::engine("a chain without layers"))?;
        let layer = LayerRef {
            digest: digest.clone(),
            diff_id: digest,
            chain_id,
            size,
            media_type: OCI_LAYER.into(),
        };
        let mut stack = below.to_vec();
        stack.push(layer.clone());
        file.seek(SeekFrom::Start(0)).doing("read the layer")?;
        let added =
            ingest::layer(self.addition, &mut file, &stack, false, &*self.unpacker, &Silent);
        // The next step stands on it.
        added.and(self.addition.publish(&|tree| self.unpacker.remove(tree)))?;
        Ok(layer)
    }
}
