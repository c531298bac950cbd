//! A container that a step works in, gone when the step is.

use std::{fs, io::Seek as _, path::PathBuf, sync::RwLockReadGuard};

use jiff::Timestamp;

use super::stage::Builder;
use crate::{
    engine::{Engine, container::diff::places},
    error::{Context as _, Error, Result},
    image::{LayerRef, Sealing, ingest, layer::Form, store::LayerRecord, store::chain_ids},
    oci::{Digest, media_type::OCI_LAYER},
    run::files::{Outcome, Task, Worker},
    state::{
        ContainerId,
        record::{
            BuildRecord, ContainerConfig, ContainerRecord, HostConfig, LayersMount,
            ProcessIdentity, Storage,
        },
        store::{Durability, Lock},
    },
    sys::{fs::Time, process::start_time_of},
};

/// What the names of these containers begin with.
pub const BUILD_NAME: &str = "build-";

/// Removed when dropped.
pub(super) struct Workspace<'b> {
    engine: &'b Engine,
    pub(super) record: ContainerRecord,
    /// The layers stay where they are.
    _still: Option<RwLockReadGuard<'b, ()>>,
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        // A later `rm` or prune finds what could not be removed.
        let _ = self.engine.remove(&self.record.id, true, true);
    }
}

impl<'b> Workspace<'b> {
    /// A container made of these layers, bottom first, which the builder holds.
    pub(super) fn new(
        builder: &'b Builder<'_>,
        layers: &[LayerRef],
        config: ContainerConfig,
        host: HostConfig,
        mounts: Vec<LayersMount>,
    ) -> Result<Self> {
        let still = builder.hold_layers();
        let build = builder.record(layers, mounts);
        let storage = builder.storage;
        Self::made(builder.engine, layers, storage, (config, host), build, Some(still))
    }

    /// One of layers that are in the store and held, whose files are only read.
    pub(super) fn of_image(engine: &'b Engine, layers: &[LayerRef]) -> Result<Self> {
        let lowers = layers.iter().rev();
        let build = BuildRecord {
            lowers: lowers.map(|layer| engine.layout.layer_diff(&layer.chain_id)).collect(),
            boot_id: engine.facts.boot_id.clone(),
            builder: identity()?,
            mounts: Vec::new(),
        };
        let storage = still_storage(engine.storage_for_new()?);
        Self::made(engine, layers, storage, (idle(), HostConfig::default()), build, None)
    }

    fn made(
        engine: &'b Engine,
        layers: &[LayerRef],
        storage: Storage,
        (config, host): (ContainerConfig, HostConfig),
        build: BuildRecord,
        still: Option<RwLockReadGuard<'b, ()>>,
    ) -> Result<Self> {
        let id = ContainerId::random()?;
        let record = ContainerRecord {
            build: Some(build),
            name: format!("{BUILD_NAME}{}", id.short()),
            id,
            created: Timestamp::now(),
            image: "build".into(),
            image_id: layers.last().map_or_else(|| Digest::of(b""), |layer| layer.chain_id.clone()),
            storage,
            layers: layers.iter().map(|layer| layer.chain_id.clone()).collect(),
            config,
            host,
        };
        let record = engine.create_as(record, true, Durability::Renamed)?;
        Ok(Self { engine, record, _still: still })
    }

    /// One whose files are only read or changed from outside.
    pub(super) fn still(builder: &'b Builder<'_>, layers: &[LayerRef]) -> Result<Self> {
        let still = builder.hold_layers();
        let build = builder.record(layers, Vec::new());
        let (config, host) = (idle(), HostConfig::default());
        let storage = still_storage(builder.storage);
        Self::made(builder.engine, layers, storage, (config, host), build, Some(still))
    }

    /// Where its own files are.
    pub(super) fn files(&self) -> PathBuf {
        let paths = self.engine.layout.container(&self.record.id);
        match self.record.storage {
            Storage::Native | Storage::Fuse => paths.upper(),
            Storage::Copy => paths.copy(),
        }
    }

    /// How they tell what is changed.
    fn form(&self) -> Result<Form> {
        Ok(match self.record.storage {
            Storage::Native => Form::Overlay,
            Storage::Fuse => Form::Fuse,
            Storage::Copy => {
                let copies = self.engine.layout.container(&self.record.id).copies();
                let stat = rustix::fs::stat(&copies).map_err(Error::from).at(&copies)?;
                Form::Copy(Time::changed(&stat))
            }
        })
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

/// Of a container that never runs.
fn idle() -> ContainerConfig {
    ContainerConfig {
        entrypoint: vec!["/".into()],
        working_dir: "/".into(),
        ..ContainerConfig::default()
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

/// Who builds, for those who find what a build has left.
pub(super) fn identity() -> Result<ProcessIdentity> {
    let pid = std::process::id().cast_signed();
    let start_time = start_time_of(pid).ok_or_else(|| Error::engine("/proc has no process"))?;
    Ok(ProcessIdentity { pid, start_time })
}

/// A layer, and how many bytes of content are in it.
pub(super) type Made = (LayerRef, u64);

/// Files that nobody runs on are there without a server.
fn still_storage(storage: Storage) -> Storage {
    match storage {
        Storage::Fuse => Storage::Copy,
        Storage::Native | Storage::Copy => storage,
    }
}

impl Builder<'_> {
    fn record(&self, layers: &[LayerRef], mounts: Vec<LayersMount>) -> BuildRecord {
        let lowers = layers.iter().rev();
        BuildRecord {
            lowers: lowers.map(|layer| self.addition.layer_diff(&layer.chain_id)).collect(),
            boot_id: self.engine.facts.boot_id.clone(),
            builder: self.identity,
            mounts,
        }
    }

    /// Makes a layer of what the container has changed, on top of `below`: its upperdir becomes
    /// the layer's directory. `made` is what was made there to mount something on.
    pub(super) fn layer_of(
        &self,
        space: Workspace<'_>,
        below: &[LayerRef],
        made: &[Vec<u8>],
    ) -> Result<Made> {
        let upper = space.files();
        let lowers = space.record.build.as_ref().map(|build| build.lowers.clone());
        let lowers = lowers.unwrap_or_default();
        let how = Sealing { places: places(), made: made.to_vec(), latest: Some(self.epoch) };
        if space.record.storage != Storage::Native {
            return self.layer_read(&space, below, &lowers, &how);
        }
        let sealed =
            self.unpacker.seal(&upper, &lowers, &how).doing("read what the step has changed")?;
        let layer = layer_ref(below, &sealed.diff_id, sealed.tar_size)?;
        let staged = self.addition.stage_layer()?;
        fs::rename(&upper, staged.diff()).at(&upper).doing("move the layer into the store")?;
        let record = LayerRecord {
            diff_id: sealed.diff_id,
            size: sealed.size,
            tar_size: Some(sealed.tar_size),
            sealed: true,
        };
        drop(space);
        let remove = |tree: &std::path::Path| self.unpacker.remove(tree);
        self.addition.take_layer(staged, &layer.chain_id, &record, &remove)?;
        Ok((layer, sealed.size))
    }

    /// The same by way of a tar, where what is changed is not in the form that a layer has.
    fn layer_read(
        &self,
        space: &Workspace<'_>,
        below: &[LayerRef],
        lowers: &[PathBuf],
        how: &Sealing,
    ) -> Result<Made> {
        let staging = self.engine.layout.staging();
        let mut tar = tempfile::tempfile_in(&staging).at(&staging)?;
        self.unpacker
            .layer_tar(&space.files(), lowers, how, space.form()?, &tar)
            .doing("read what the step has changed")?;
        tar.rewind().doing("read the layer")?;
        let (diff_id, size) = self.addition.put_blob(&mut tar, None)?;
        let layer = layer_ref(below, &diff_id, size)?;
        tar.rewind().doing("read the layer")?;
        let unpacked = ingest::unpack_layer(self.addition, &mut tar, &layer, &*self.unpacker)?;
        let size = unpacked.size();
        ingest::take(self.addition, unpacked, below, &*self.unpacker)?;
        Ok((layer, size))
    }

    /// Removes what builds that were killed have left.
    pub(super) fn clean_up(engine: &Engine) -> Result<()> {
        let kept = engine.layout.run_builds();
        for entry in fs::read_dir(&kept).into_iter().flatten() {
            let path = entry.at(&kept)?.path();
            if let Ok(Some(_lock)) = Lock::try_exclusive(&path) {
                engine.unpacker().remove(&path)?;
            }
        }
        let names = engine.layout.names();
        for entry in fs::read_dir(&names).at(&names)? {
            let name = entry.at(&names)?.file_name();
            if !name.to_str().is_some_and(|name| name.starts_with(BUILD_NAME)) {
                continue;
            }
            let Ok(id) = fs::read_to_string(names.join(&name)) else { continue };
            let Ok(id) = id.trim().parse::<ContainerId>() else { continue };
            let Ok(container) = engine.load(&id) else { continue };
            if container.record.build.is_some_and(|build| !engine.builds_on(&build)) {
                engine.remove(&id, true, true)?;
            }
        }
        Ok(())
    }
}

/// The layer of an uncompressed tar on top of `below`.
pub(super) fn layer_ref(below: &[LayerRef], diff_id: &Digest, size: u64) -> Result<LayerRef> {
    let mut diff_ids: Vec<Digest> = below.iter().map(|layer| layer.diff_id.clone()).collect();
    diff_ids.push(diff_id.clone());
    let chain_id = chain_ids(&diff_ids).pop();
    let chain_id = chain_id.ok_or_else(|| Error::engine("a chain without layers"))?;
    Ok(LayerRef {
        digest: diff_id.clone(),
        diff_id: diff_id.clone(),
        chain_id,
        size,
        media_type: OCI_LAYER.into(),
    })
}
