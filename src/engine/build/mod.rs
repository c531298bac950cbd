//! `build`: a Dockerfile to an image.
//!
//! Stages that the target does not need are not run. Each step that changes files is a container
//! made of the layers so far (see [`workspace`]): what its upperdir holds afterwards is the next
//! layer. A step is known by the digest of all it was made of, and is not done twice; nothing else
//! survives a build that fails. The same inputs give the same image: no time in a layer or a
//! configuration is later than the build's epoch, and no name of this host is in it.

mod attest;
pub mod builders;
mod caches;
mod config;
pub mod context;
mod copy;
mod export;
mod foreign;
mod git;
mod graph;
mod kept;
mod lock;
mod mounts;
mod platforms;
mod remote;
mod retouch;
mod run;
mod sbom;
mod seen;
mod shared;
mod squash;
mod stage;
mod start;
mod survey;
mod workspace;

use std::{
    collections::BTreeMap, os::fd::BorrowedFd, path::PathBuf, sync::PoisonError, time::Duration,
};

use jiff::Timestamp;
use serde_json::json;

pub use attest::Provenance;
pub use context::{Context, Named};
pub use export::{Annotation, Built, Export, ExportKind, Exported, Exporting, Level, Target};
use graph::STOPPED;
pub use kept::{Filter, KeptPart, Property, Room, Selection, Test, TextKey};
pub use lock::{LOCK_NAME, Lock};
pub use remote::{Fetched, Material, Pins};
pub use retouch::Retouch;
pub use shared::{CachePlace, CacheTo, Used};
pub use squash::Squash;
use stage::Builder;
pub use start::{ROLE, main};
pub use survey::{Checked, Listed, Outline, OutlineArg, OutlineSecret};
pub use workspace::BUILD_NAME;

use super::{Engine, registry::Reach};
use crate::{
    build::{Dockerfile, Source},
    error::Result,
    image::{
        ImageRecord, Progress as Transfer,
        pull::{self, Policy},
        push,
    },
    oci::{Platform, media_type::Compression},
    state::record::HostConfig,
};

/// What a build was told.
#[derive(Debug)]
pub struct BuildRequest<'a> {
    pub dockerfile: Source,
    pub context: Context,
    /// `--build-context`, by name.
    pub contexts: BTreeMap<String, Named>,
    pub args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub target: Option<String>,
    /// Nothing that was made before is used.
    pub no_cache: bool,
    /// Nor in stages of these names.
    pub no_cache_filter: Vec<String>,
    pub pull: Policy,
    /// What is built for.
    pub platform: Platform,
    /// What it is built on.
    pub host: Platform,
    pub network: Network,
    /// What each `RUN` is made with: what containers have that are told nothing else is its default.
    pub run: HostConfig,
    /// CDI devices that each `RUN` has.
    pub cdi: Vec<String>,
    /// By id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Sockets of agents, by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Nothing else is taken from elsewhere.
    pub locked: Option<Lock>,
    /// What was made elsewhere, in the order of preference.
    pub cache_from: Vec<CachePlace>,
    /// `--squash`.
    pub squash: Squash,
    /// The image says which steps made its layers.
    pub inline_cache: bool,
    /// How registries are reached.
    pub reach: Reach,
    /// `--allow network.host`.
    pub allow_host_network: bool,
    /// `--allow security.insecure`.
    pub allow_insecure: bool,
    /// `--allow device`: these, or all if there are none.
    pub allow_devices: Option<Vec<String>>,
    /// Stages that the target does not need are run, too.
    pub all_stages: bool,
    /// So many steps work at once; 0 is as many as there are.
    pub jobs: Option<usize>,
    /// What steps made before is made again.
    pub cache_since: Option<Timestamp>,
    /// Stands where the first `FROM` has its image.
    pub from: Option<String>,
    /// What is different about the image than its instructions say.
    pub retouch: Retouch,
    /// Readable once the user wants the build to end.
    pub interrupt: Option<BorrowedFd<'a>>,
}

/// What a `RUN` may reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// What containers have that are told nothing else.
    #[default]
    Default,
    None,
    Host,
}

/// Hears what a build is doing, from several threads. Steps are counted from 1.
pub trait Watch: Sync {
    fn begins(&self, step: usize, label: &str);
    /// What a `RUN` has written, as it came.
    fn says(&self, step: usize, bytes: &[u8]);
    fn ends(&self, step: usize, how: Ended);
    /// Something that is odd, but no error.
    fn warns(&self, text: &str);
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Done(Duration),
    /// It was done before.
    Cached,
    Failed,
    /// Another one has failed, or the user has asked for the end.
    Canceled,
}

/// What an interrupted build says.
pub const INTERRUPTED: &str = "the build was interrupted";

impl Engine {
    /// Builds an image for one platform. Nobody sees it before it is exported.
    pub fn build(
        &self,
        request: &BuildRequest<'_>,
        watch: &dyn Watch,
        transfer: &dyn Transfer,
    ) -> Result<Built<'_>> {
        let file = request.read()?;
        let target = file.target(request.target.as_deref())?;
        let needed = needed(&file, target, request)?;
        let addition = self.store.add();
        let builder = Builder::new(self, request, &file, &needed, (watch, transfer), &addition)?;
        builder.warn_of_unused(&file);
        let built = builder.stages(&needed, target).and_then(|mut outcome| {
            builder.squash(&mut outcome)?;
            Ok(outcome)
        });
        // What is done need not be done again, however the rest went.
        builder.publish()?;
        builder.save_seen()?;
        let record = builder.finish(built?)?;
        let materials = builder.materials.into_inner().unwrap_or_else(PoisonError::into_inner);
        let steps = builder.used.into_inner().unwrap_or_else(PoisonError::into_inner);
        let taken = builder.taken.into_inner().unwrap_or_else(PoisonError::into_inner);
        let replaced = builder.replaced.into_inner();
        let epoch = builder.epoch;
        Ok(Built { addition, record, materials, steps, taken, epoch, replaced })
    }
}

/// The stages to run. What `--build-context` names stands in for a stage of that name.
fn needed(file: &Dockerfile, target: usize, request: &BuildRequest<'_>) -> Result<Vec<usize>> {
    let replaced = |stage: &usize| {
        let name = file.stages[*stage].name.as_ref();
        *stage != target && name.is_some_and(|name| request.contexts.contains_key(name))
    };
    let mut pending = match request.all_stages {
        true => (0..=target).collect(),
        false => vec![target],
    };
    let mut found = std::collections::BTreeSet::new();
    while let Some(stage) = pending.pop() {
        if found.insert(stage) {
            let below = file.dependencies(stage)?;
            pending.extend(below.into_iter().filter(|stage| !replaced(stage)));
        }
    }
    Ok(found.into_iter().collect())
}

impl BuildRequest<'_> {
    /// The Dockerfile, its variables replaced by what is given.
    fn read(&self) -> Result<Dockerfile> {
        let given = |name: &str| self.args.get(name).cloned();
        let automatic = |name: &str| self.automatic(name);
        let mut file = Dockerfile::read(self.dockerfile.clone(), &given, &automatic)?;
        if let (Some(image), Some(stage)) = (&self.from, file.stages.first_mut()) {
            stage.stand_on(image);
        }
        Ok(file)
    }

    /// The variables that every build has (Dockerfile reference, "Automatic platform ARGs").
    fn automatic(&self, name: &str) -> Option<String> {
        let parts = |platform: &Platform, what: &str| match what {
            "PLATFORM" => Some(platform.to_string()),
            "OS" => Some(platform.os.clone()),
            "ARCH" => Some(platform.architecture.clone()),
            "VARIANT" => Some(platform.variant.clone().unwrap_or_default()),
            _ => None,
        };
        match name {
            "TARGETSTAGE" => Some(self.target.clone().unwrap_or_else(|| "default".into())),
            _ => match (name.strip_prefix("TARGET"), name.strip_prefix("BUILD")) {
                (Some(what), _) => parts(&self.platform, what),
                (_, Some(what)) => parts(&self.host, what),
                _ => None,
            },
        }
    }
}

impl Builder<'_> {
    /// Makes the image of a stage's outcome.
    fn finish(&self, result: stage::Outcome) -> Result<ImageRecord> {
        let created = Timestamp::from_second(self.epoch).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut document = result.document;
        for (key, value) in &self.request.labels {
            document["config"]["Labels"][key] = json!(value);
        }
        let retouch = &self.request.retouch;
        retouch.document(&mut document)?;
        document["created"] = json!(created.to_string());
        let diff_ids: Vec<_> = result.layers.iter().map(|layer| &layer.diff_id).collect();
        document["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        if self.request.inline_cache {
            let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            document[shared::INLINE] = shared::inline(&used, &result.layers);
        }
        let bytes = serde_json::to_vec(&document)?;
        let (id, size) = self.addition.put_small(&bytes)?;
        let mut layers = result.layers;
        let format = if retouch.docker { push::Format::Docker } else { push::Format::Oci };
        for layer in layers.iter_mut().filter(|_| retouch.docker) {
            let packed = Compression::of_layer(&layer.media_type)?;
            push::layer_type(format, packed)?.clone_into(&mut layer.media_type);
        }
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": format.manifest_type(),
            "config": {"mediaType": format.config_type(), "digest": id, "size": size},
            "layers": layers.iter().map(|layer| json!({
                "mediaType": layer.media_type, "digest": layer.digest, "size": layer.size,
            })).collect::<Vec<_>>(),
        });
        let annotations = retouch.annotations(result.annotations, &created);
        if !annotations.is_empty() {
            manifest["annotations"] = json!(annotations);
        }
        let bytes = serde_json::to_vec(&manifest)?;
        let (manifest, _) = self.addition.put_small(&bytes)?;
        let mut size = 0;
        for layer in &layers {
            size += self.engine.store.layer(&layer.chain_id)?.size;
        }
        let text = |key: &str| document[key].as_str().map(str::to_owned);
        let platform = Platform::new(
            &text("os").unwrap_or_else(|| "linux".into()),
            &text("architecture").unwrap_or_default(),
            text("variant").as_deref(),
        );
        Ok(ImageRecord {
            id,
            manifest,
            manifest_media_type: format.manifest_type().into(),
            layers,
            platform,
            created: Some(created),
            added: Timestamp::now(),
            size,
        })
    }

    /// `--build-arg` that no `ARG` asks for.
    fn warn_of_unused(&self, file: &Dockerfile) {
        let mut declared: Vec<&str> = stage::PREDEFINED.into();
        declared.extend(file.globals.iter().map(|(name, _)| name.as_str()));
        for step in file.stages.iter().flat_map(|stage| &stage.steps) {
            if let crate::build::Kind::Arg(args) = &step.kind {
                declared.extend(args.iter().map(|(name, _)| name.as_str()));
            }
        }
        let names = self.request.args.keys().map(String::as_str);
        // These are for the builder.
        let own = |name: &str| name == "SOURCE_DATE_EPOCH" || name.starts_with("BUILDKIT_");
        let unused: Vec<&str> =
            names.filter(|name| !declared.contains(name) && !own(name)).collect();
        if !unused.is_empty() {
            self.watch
                .warns(&format!("one or more build-args were not consumed: {}", unused.join(", ")));
        }
    }
}

/// This machine's platform as images are built for it: without what its processor has beyond others.
pub fn host_platform() -> Result<Platform> {
    let own = pull::host_platform()?;
    Ok(match own.architecture.as_str() {
        "amd64" => Platform { variant: None, ..own },
        _ => own,
    })
}

/// How a stage's base is told in errors and progress.
fn base_label(stage: &crate::build::Stage) -> String {
    format!("FROM {}", stage.image)
}
