//! One stage: its base, and each instruction in turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    BuildRequest, Ended, Named, Watch, attest, base_label,
    config::{Config, go_list, go_quoted},
    context::Context,
    copy::Job,
    graph::Graph,
    lock::{self, ImagePin, Lock},
    remote::Material,
    seen::Seen,
    shared::{Shared, Used},
    workspace::{Made, identity},
};
use crate::{
    build::{Base, Dockerfile, Instruction, Kind, Stage, expand, instruction},
    engine::{Engine, image::Want},
    error::{Context as _, Error, Result},
    image::{
        Addition, Image, LayerRef, Progress as Transfer, Seal, pull::Policy, steps::StepRecord,
    },
    oci::{Digest, Hasher, Platform, Reference},
    state::record::{ProcessIdentity, Storage},
};

/// Arguments that need no `ARG`, are known to every `RUN`, and change no key.
pub(super) const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What a stage has become.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// Bottom first.
    pub(super) layers: Vec<LayerRef>,
    pub(super) document: Value,
    pub(super) base: BaseSize,
    /// Of the base image's manifest, if they are wanted.
    pub(super) annotations: BTreeMap<String, String>,
}

/// How much of a stage is its base image's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BaseSize {
    /// Of the layers, from the bottom.
    pub(super) layers: usize,
    /// Of the history, from the beginning.
    pub(super) history: usize,
}

/// Everything that the stages of one build share.
pub(super) struct Builder<'a> {
    pub(super) engine: &'a Engine,
    pub(super) request: &'a BuildRequest<'a>,
    pub(super) file: &'a Dockerfile,
    pub(super) watch: &'a dyn Watch,
    transfer: &'a dyn Transfer,
    /// Holds what the build has made or found until its end.
    pub(super) addition: &'a Addition<'a>,
    pub(super) unpacker: Box<dyn Seal>,
    /// What steps run on.
    pub(super) storage: Storage,
    pub(super) identity: ProcessIdentity,
    pub(super) graph: Graph,
    /// No time is later (seconds since 1970).
    pub(super) epoch: i64,
    several: bool,
    steps: AtomicUsize,
    /// Images by the names that stages call them by: each is looked for once.
    images: Mutex<BTreeMap<String, Image>>,
    /// Notes of steps whose layers are not published yet, and when that was done last.
    notes: Mutex<(Vec<(Digest, StepRecord)>, Instant)>,
    /// Shared by who uses the places of layers, alone to who moves them.
    layers: RwLock<()>,
    /// What other machines have made.
    pub(super) shared: Shared,
    /// A step has made another layer than the last time, which may be nobody's by now.
    pub(super) replaced: AtomicBool,
    /// Steps that were done or found.
    pub(super) used: Mutex<Vec<Used>>,
    /// What the files of each context were, by its directory.
    seen: Mutex<BTreeMap<PathBuf, Arc<Seen>>>,
    /// What was fetched, and what it was: for `dhow.lock`, and for those who ask how it was made.
    pub(super) taken: Mutex<Lock>,
    pub(super) materials: Mutex<BTreeMap<String, Material>>,
}

/// Layers are published when so many wait, or so long after those before, if nobody uses them.
const WAITING_MAX: usize = 16;
const WAITING: Duration = Duration::from_secs(2);

/// A stage on its way.
pub(super) struct State {
    pub(super) stage: usize,
    pub(super) layers: Vec<LayerRef>,
    pub(super) config: Config,
    /// What its programs run on.
    pub(super) platform: Platform,
    /// `ARG`s so far; later ones win.
    pub(super) args: Vec<(String, Option<String>)>,
    /// Those that came after an `ENV` of that name, and win over it in this stage.
    pub(super) over: BTreeSet<String>,
    has_cmd: bool,
    base: BaseSize,
    annotations: BTreeMap<String, String>,
    /// How many of its steps are told of, and how many there are.
    told: usize,
    total: usize,
}

impl State {
    pub(super) fn chain(&self) -> String {
        self.layers.last().map_or_else(|| "scratch".into(), |layer| layer.chain_id.to_string())
    }

    pub(super) fn lookup(&self, name: &str) -> Option<String> {
        let arg = || {
            let arg = self.args.iter().rev().find(|(arg, value)| arg == name && value.is_some());
            arg.and_then(|(_, value)| value.clone())
        };
        match self.over.contains(name) {
            true => arg(),
            false => self.config.variable(name).or_else(arg),
        }
    }
}

/// Whether it says no more than that the build is over.
fn is_end(err: &Error) -> bool {
    let text = err.to_string();
    text == super::INTERRUPTED || text == super::STOPPED
}

/// The digest of some parts, none of which can run into the next.
pub(super) fn key(parts: &[&str]) -> Digest {
    let mut hasher = Hasher::default();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finish()
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        request: &'a BuildRequest<'a>,
        file: &'a Dockerfile,
        needed: &[usize],
        (watch, transfer): (&'a dyn Watch, &'a dyn Transfer),
        addition: &'a Addition<'a>,
    ) -> Result<Self> {
        let unpacker = engine.unpacker();
        Self::clean_up(engine)?;
        engine.store.clean_staging(&|tree| unpacker.remove(tree))?;
        let given = request.args.get("SOURCE_DATE_EPOCH").cloned();
        let given = given.or_else(|| std::env::var("SOURCE_DATE_EPOCH").ok());
        let epoch = match given.filter(|text| !text.is_empty()) {
            Some(text) => text.parse().map_err(|_| {
                Error::invalid(format!("SOURCE_DATE_EPOCH: {text:?} is no number of seconds"))
            })?,
            None => request.context.newest()?.unwrap_or(0),
        };
        Ok(Self {
            engine,
            request,
            file,
            watch,
            transfer,
            addition,
            unpacker,
            storage: engine.storage_for_new()?,
            epoch,
            several: needed.len() > 1,
            taken: Mutex::default(),
            materials: Mutex::default(),
            shared: Shared::read(&request.cache_from, &request.reach, watch),
            replaced: AtomicBool::new(false),
            used: Mutex::default(),
            seen: Mutex::default(),
            identity: identity()?,
            graph: Graph::new(request.jobs)?,
            steps: AtomicUsize::new(0),
            images: Mutex::default(),
            notes: Mutex::new((Vec::new(), Instant::now())),
            layers: RwLock::new(()),
        })
    }

    /// What is known of the context's files.
    pub(super) fn seen(&self, context: &Context) -> Result<Arc<Seen>> {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = all.get(context.path()) {
            return Ok(Arc::clone(seen));
        }
        let dir = context.path().canonicalize().at(context.path())?;
        let name = Digest::of(dir.as_os_str().as_encoded_bytes());
        let seen = Arc::new(Seen::read(self.engine.layout.seen_files(&name)));
        all.insert(context.path().to_owned(), Arc::clone(&seen));
        Ok(seen)
    }

    /// Notes what the contexts' files are, for the next build.
    pub(super) fn save_seen(&self) -> Result<()> {
        let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let contexts = self.request.contexts.values().filter_map(|named| match named {
            Named::Directory(context) => Some(context),
            Named::Image(_) => None,
        });
        for context in contexts.chain([&self.request.context]).filter(|one| !one.is_temporary()) {
            all.get(context.path()).map_or(Ok(()), |seen| seen.save())?;
        }
        Ok(())
    }

    /// Layers stay where they are until it is dropped.
    pub(super) fn hold_layers(&self) -> RwLockReadGuard<'_, ()> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every layer visible that was made so far, and then notes what each was made of.
    /// Waits for who is using one.
    pub(super) fn publish(&self) -> Result<()> {
        let _alone = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        self.publish_alone()
    }

    /// The same now and then, and only if nobody is using one.
    fn publish_some(&self) -> Result<()> {
        let last = self.notes.lock().unwrap_or_else(PoisonError::into_inner).1;
        if self.addition.waiting() < WAITING_MAX && last.elapsed() < WAITING {
            return Ok(());
        }
        match self.layers.try_write() {
            Ok(_alone) => self.publish_alone(),
            Err(_) => Ok(()),
        }
    }

    fn publish_alone(&self) -> Result<()> {
        self.addition.publish(&|tree| self.unpacker.remove(tree))?;
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, record) in notes.0.drain(..) {
            if self.request.no_cache || !self.request.no_cache_filter.is_empty() {
                let old = self.engine.store.step(self.addition, &key)?;
                let is_other = old.is_some_and(|old| old.layer.chain_id != record.layer.chain_id);
                self.replaced.fetch_or(is_other, Ordering::Relaxed);
            }
            self.engine.store.note_step(&key, &record)?;
        }
        notes.1 = Instant::now();
        Ok(())
    }

    /// The layer that was made of the same before, in this build or an earlier one, or elsewhere.
    /// `below` is what it stands on.
    pub(super) fn known(
        &self,
        state: &State,
        below: &[LayerRef],
        key: &Digest,
    ) -> Result<Option<LayerRef>> {
        match self.is_made_anew(state) {
            true => Ok(None),
            false => self.found(below, key),
        }
    }

    /// The same, whether or not the stage is to be made anew.
    pub(super) fn found(&self, below: &[LayerRef], key: &Digest) -> Result<Option<LayerRef>> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, record)) = notes.0.iter().find(|(noted, _)| noted == key) {
            return Ok(Some(record.layer.clone()));
        }
        drop(notes);
        let is_new = |made| self.request.cache_since.is_none_or(|since| made >= since);
        let known = self.engine.store.step(self.addition, key)?;
        if let Some(record) = known.filter(|record| is_new(record.made)) {
            self.use_step(key, &record);
            return Ok(Some(record.layer));
        }
        self.take_shared(below, key)
    }

    /// Notes what a layer was made of, as soon as it is published.
    pub(super) fn remember(&self, key: &Digest, label: &str, layer: &LayerRef, size: u64) {
        let (label, layer, made) = (label.to_owned(), layer.clone(), Timestamp::now());
        let record = StepRecord { label, layer, size, made };
        self.use_step(key, &record);
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.0.push((key.clone(), record));
    }

    fn use_step(&self, key: &Digest, record: &StepRecord) {
        let StepRecord { label, layer, size, .. } = record.clone();
        let used = Used { key: key.clone(), label, layer, size };
        self.used.lock().unwrap_or_else(PoisonError::into_inner).push(used);
    }

    /// Runs a stage.
    pub(super) fn stage(&self, number: usize) -> Result<Outcome> {
        let stage = &self.file.stages[number];
        let blame = |err: Error, line| self.file.source.blame(err, line);
        let is_told = |step: &&Instruction| {
            matches!(step.kind, Kind::Run(_) | Kind::Copy(_) | Kind::Workdir(_))
        };
        let platform = match &stage.platform {
            Some(text) => text.parse().map_err(|err| blame(err, stage.line))?,
            None => self.request.platform.clone(),
        };
        let mut state = State {
            stage: number,
            layers: Vec::new(),
            config: Config::scratch(&platform),
            platform,
            args: Vec::new(),
            over: BTreeSet::new(),
            has_cmd: false,
            base: BaseSize::default(),
            annotations: BTreeMap::new(),
            told: 0,
            total: stage.steps.iter().filter(is_told).count(),
        };
        self.base(&mut state, stage).map_err(|err| blame(err, stage.line))?;
        for text in state.config.take_triggers() {
            let trigger = instruction::trigger(&text)
                .map_err(|err| blame(err.context("a trigger of the base image"), stage.line))?;
            state.total += usize::from(is_told(&&trigger));
            self.step(&mut state, &trigger)
                .map_err(|err| blame(err.context(format!("ONBUILD {text}")), stage.line))?;
        }
        for step in &stage.steps {
            self.go_on()?;
            self.step(&mut state, step).map_err(|err| match is_end(&err) {
                true => err,
                false => blame(err, step.line),
            })?;
        }
        let State { layers, config, base, annotations, .. } = state;
        Ok(Outcome { layers, document: config.0, base, annotations })
    }

    fn base(&self, state: &mut State, stage: &Stage) -> Result<()> {
        let named = self.request.contexts.get(&stage.image.to_ascii_lowercase());
        let image = match (named, &stage.base) {
            (Some(Named::Directory(context)), _) => {
                state.total += 1;
                return self.directory_base(state, &base_label(stage), context);
            }
            (Some(Named::Image(image)), _) => image,
            (None, Base::Scratch) => return Ok(()),
            (None, Base::Stage(number)) => {
                let base = self.outcome(*number)?;
                state.layers = base.layers;
                state.config = Config(base.document);
                state.base = base.base;
                state.annotations = base.annotations;
                self.disinherit(state);
                if let Some(platform) = state.config.platform() {
                    state.platform = platform;
                }
                return Ok(());
            }
            (None, Base::Image(image)) => image,
        };
        state.total += 1;
        self.told(state, &base_label(stage), |state, _| {
            let image = self.image(image, &state.platform)?;
            state.layers.clone_from(&image.record.layers);
            let document = self.engine.store.read_json_blob(&image.record.id)?;
            state.config = Config::based_on(document)?;
            let history = state.config.0["history"].as_array().map_or(0, Vec::len);
            state.base = BaseSize { layers: state.layers.len(), history };
            if self.request.retouch.inherit_annotations {
                let manifest: Value = self.engine.store.read_json_blob(&image.record.manifest)?;
                let annotations = &manifest["annotations"];
                state.annotations = Deserialize::deserialize(annotations).unwrap_or_default();
            }
            self.disinherit(state);
            Ok(Ended::Done(Duration::ZERO))
        })
    }

    /// Takes the labels of what a stage stands on away, if they are not wanted.
    fn disinherit(&self, state: &mut State) {
        if self.request.retouch.without_labels {
            state.config.unset("Labels");
        }
    }

    /// A build context that stands where an image could: its files, without a configuration.
    fn directory_base(&self, state: &mut State, label: &str, context: &Context) -> Result<()> {
        let job = Job::of_all(context);
        let content = self.content(&job)?;
        let key = key(&["base 1", content.as_str()]);
        self.cached(state, label, label, &key, |state, _| {
            let layer = self.carry_out(&state.layers, &job)?;
            Ok((layer, self.content(&job)? == content))
        })?;
        state.base = BaseSize { layers: 1, history: 1 };
        Ok(())
    }

    /// An image for a platform that is here, or is fetched; its parts are held.
    pub(super) fn image(&self, name: &str, platform: &Platform) -> Result<Image> {
        // Held until it is here: another stage may want the same.
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{platform} {name}");
        if let Some(image) = images.get(&key) {
            return Ok(image.clone());
        }
        let image = match &self.request.locked {
            Some(lock) => self.pinned(lock, name, platform)?,
            None => self.obtain(name, platform, self.request.pull)?,
        };
        for layer in &image.record.layers {
            let has_blob = self.addition.has_blob(&layer.digest)?;
            if !self.addition.has_layer(&layer.chain_id)?
                || (!has_blob && !self.engine.store.can_tell(layer))
            {
                return Err(Error::engine(format!("image {name} has lost a layer"))
                    .hint("pull or load it again"));
            }
        }
        self.note_material(name, &image);
        images.insert(key, image.clone());
        Ok(image)
    }

    /// The image that the lock means by the name.
    fn pinned(&self, lock: &Lock, name: &str, platform: &Platform) -> Result<Image> {
        let here = self.engine.here(name)?;
        match lock.image(name)? {
            ImagePin::Digest(digest) => {
                let is_pinned = |image: &Image| {
                    image.record.manifest == *digest
                        || image.names.iter().any(|known| known.digest.as_ref() == Some(digest))
                };
                if here.as_ref().is_some_and(is_pinned) {
                    return self.obtain(name, platform, Policy::Missing);
                }
                let reference: Reference = name.parse()?;
                let exact = format!("{}@{digest}", reference.repository());
                self.obtain(&exact, platform, Policy::Missing)
                    .doing_with(|| format!("dhow.lock pins {name} to {digest}"))
            }
            ImagePin::Id(ids) => {
                let id = ids.get(&platform.to_string());
                let id =
                    id.ok_or_else(|| lock::missing(&format!("image {name} for {platform}")))?;
                if let Some(image) = self.engine.store.image(id)? {
                    return Ok(image);
                }
                let now = here.map(|image| image.record.id);
                Err(lock::drifted(name, now.as_ref(), id))
            }
        }
    }

    fn obtain(&self, name: &str, platform: &Platform, policy: Policy) -> Result<Image> {
        let before = self.engine.here(name)?;
        let is_own = *platform == self.request.host;
        let suits = |image: &Image| {
            let own = || crate::image::pull::host_platform().ok();
            let found = &image.record.platform;
            platform.rank(found).is_some()
                || (is_own && own().is_some_and(|own| own.rank(found).is_some()))
        };
        // What is here by that name may be for another platform.
        let is_other = before.as_ref().is_some_and(|image| !suits(image));
        let want = Want {
            platform: (!is_own || is_other).then(|| platform.to_string()),
            policy,
            reach: self.request.reach.clone(),
            verify_keys: Vec::new(),
        };
        let image = self.engine.obtain(name, &want, self.transfer)?;
        if !suits(&image) {
            return Err(Error::unsupported(format!(
                "image {name} is for {}, not for {platform}",
                image.record.platform
            )));
        }
        // A build for another platform takes no name away.
        if let Some(before) = before.filter(|before| before.record.id != image.record.id)
            && !is_own
        {
            for named in &before.names {
                self.engine.store.tag(&named.name, &named.image, named.digest.as_ref())?;
            }
        }
        Ok(image)
    }

    fn note_material(&self, name: &str, image: &Image) {
        let known = image.names.iter().find_map(|named| named.digest.clone());
        let digest = known.unwrap_or_else(|| image.record.manifest.clone());
        let repository = name.parse().ok().map(|name: Reference| name.repository());
        let known = image
            .names
            .iter()
            .filter(|known| Some(known.name.repository()) == repository)
            .find_map(|known| known.digest.as_ref());
        self.taken().note_image(name, known, &image.record.id, &image.record.platform);
        let platform = &image.record.platform;
        let uri = name.parse().map(|name| attest::purl(&name, platform));
        self.note_material_as(&uri.unwrap_or_else(|_| name.to_owned()), (&digest).into());
    }

    /// What `dhow.lock` would say.
    pub(super) fn taken(&self) -> std::sync::MutexGuard<'_, Lock> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was taken from elsewhere.
    pub(super) fn note_material_as(&self, uri: &str, digest: Material) {
        let mut materials = self.materials.lock().unwrap_or_else(PoisonError::into_inner);
        materials.insert(attest::redacted(uri), digest);
    }

    /// Does something that progress is told of.
    pub(super) fn told(
        &self,
        state: &mut State,
        text: &str,
        work: impl FnOnce(&mut State, usize) -> Result<Ended>,
    ) -> Result<()> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        state.told += 1;
        let stage = &self.file.stages[state.stage];
        let name = match &stage.name {
            Some(name) => format!("{name} "),
            None if self.several => format!("stage-{} ", state.stage),
            None => String::new(),
        };
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.watch.begins(step, &format!("[{name}{}/{}] {line}", state.told, state.total));
        let begun = Instant::now();
        let ended = work(state, step);
        let how = match &ended {
            Ok(Ended::Done(_)) => Ended::Done(begun.elapsed()),
            Ok(how) => *how,
            Err(err) if is_end(err) => Ended::Canceled,
            Err(_) => Ended::Failed,
        };
        self.watch.ends(step, how);
        ended.map(drop)
    }

    /// A step that makes a layer, unless it was made before.
    pub(super) fn cached(
        &self,
        state: &mut State,
        text: &str,
        created_by: &str,
        key: &Digest,
        work: impl FnOnce(&State, usize) -> Result<(Made, bool)>,
    ) -> Result<()> {
        self.told(state, text, |state, step| {
            let (layer, ended) = match self.known(state, &state.layers, key)? {
                Some(layer) => (layer, Ended::Cached),
                None => {
                    let _turn = self.graph.turn()?;
                    let ((layer, size), is_sure) = work(state, step)?;
                    if is_sure {
                        self.remember(key, text, &layer, size);
                    }
                    self.publish_some()?;
                    (layer, Ended::Done(Duration::ZERO))
                }
            };
            state.layers.push(layer);
            self.note(state, created_by, false);
            Ok(ended)
        })
    }

    fn is_made_anew(&self, state: &State) -> bool {
        let name = self.file.stages[state.stage].name.as_ref();
        let listed = &self.request.no_cache_filter;
        self.request.no_cache
            || name.is_some_and(|name| listed.iter().any(|l| l.eq_ignore_ascii_case(name)))
    }

    fn note(&self, state: &mut State, created_by: &str, empty: bool) {
        let created = Timestamp::from_second(self.epoch).unwrap_or(Timestamp::UNIX_EPOCH);
        state.config.note(created_by, &created.to_string(), empty);
    }

    /// An argument that is for the builder (Dockerfile reference, "BuildKit built-in build args").
    pub(super) fn own_arg(&self, name: &str) -> Option<&str> {
        self.request.args.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A word with its variables replaced.
    pub(super) fn word(&self, state: &State, text: &str) -> Result<String> {
        expand::word(text, self.file.escape, &|name| state.lookup(name))
    }

    fn step(&self, state: &mut State, step: &Instruction) -> Result<()> {
        let word = |state: &State, text: &str| self.word(state, text);
        let pairs = |state: &State, pairs: &[(String, String)]| {
            let value =
                |(key, value): &(String, String)| Ok((word(state, key)?, word(state, value)?));
            pairs.iter().map(value).collect::<Result<Vec<_>>>()
        };
        let told = |verb: &str, pairs: &[(String, String)]| {
            let pairs = pairs.iter().map(|(key, value)| format!(" {key}={value}"));
            format!("{verb}{}", pairs.collect::<String>())
        };
        let created_by;
        match &step.kind {
            Kind::Run(run) => return self.run(state, step, run),
            Kind::Copy(copy) => return self.copy(state, step, copy),
            Kind::Workdir(path) => return self.workdir(state, step, path),
            Kind::From { .. } => return Err(Error::engine("FROM within a stage")),
            Kind::Arg(args) => created_by = self.arg(state, args)?,
            Kind::Env(env) => {
                // Every value is read before any is set.
                let env = pairs(state, env)?;
                created_by = told("ENV", &env);
                for (name, value) in env {
                    state.config.set_env(&name, &value);
                    state.over.remove(&name);
                }
            }
            Kind::Label(labels) => {
                let labels = pairs(state, labels)?;
                created_by = told("LABEL", &labels);
                let labels = labels.into_iter().map(|(key, value)| (key, json!(value)));
                state.config.insert("Labels", labels);
            }
            Kind::User(user) => {
                let user = word(state, user)?;
                created_by = format!("USER {user}");
                state.config.set("User", json!(user));
            }
            Kind::Cmd(command) => {
                let words = state.config.words(command);
                created_by = format!("CMD {}", go_quoted(&words));
                state.config.set("Cmd", json!(words));
                // It means nothing on Linux, but docker has it.
                state.config.set("ArgsEscaped", json!(true));
                state.has_cmd = true;
            }
            Kind::Entrypoint(command) => {
                let words = state.config.words(command);
                created_by = format!("ENTRYPOINT {}", go_quoted(&words));
                state.config.set("Entrypoint", json!(words));
                // The base's command was for the base's entrypoint.
                if !state.has_cmd {
                    state.config.unset("Cmd");
                }
            }
            Kind::Expose(ports) => {
                let mut all = Vec::new();
                for port in ports {
                    for port in expand::words(port, self.file.escape, &|name| state.lookup(name))? {
                        // An address and a port of the host mean nothing here.
                        let port = port.rsplit_once(':').map_or(&*port, |(_, port)| port);
                        all.extend(crate::image::archive::ports(port)?);
                    }
                }
                created_by = format!("EXPOSE {}", go_list(all.iter().map(String::as_str)));
                let members = all.into_iter().map(|port| (port, json!({})));
                state.config.insert("ExposedPorts", members);
            }
            Kind::Volume(paths) => {
                let paths = paths.iter().map(|path| word(state, path));
                let paths = paths.collect::<Result<Vec<_>>>()?;
                created_by = format!("VOLUME {}", go_list(paths.iter().map(String::as_str)));
                state.config.insert("Volumes", paths.into_iter().map(|path| (path, json!({}))));
            }
            Kind::Shell(shell) => {
                created_by = format!("SHELL {}", go_list(shell.iter().map(String::as_str)));
                state.config.set("Shell", json!(shell));
            }
            Kind::StopSignal(signal) => {
                let signal = word(state, signal)?;
                crate::sys::signal::parse(&signal)?;
                created_by = format!("STOPSIGNAL {signal}");
                state.config.set("StopSignal", json!(signal));
            }
            Kind::Healthcheck(check) => created_by = state.config.healthcheck(check),
            Kind::Maintainer(author) => {
                created_by = format!("MAINTAINER {author}");
                state.config.0["author"] = json!(author);
            }
            // Docker's history tells of it once it is carried out.
            Kind::Onbuild(text) => {
                state.config.add_trigger(text);
                return Ok(());
            }
        }
        self.note(state, &created_by, true);
        Ok(())
    }

    /// What the history says of them.
    fn arg(&self, state: &mut State, args: &[(String, Option<String>)]) -> Result<String> {
        let mut told = String::from("ARG");
        for (name, default) in args {
            let default = default.as_ref().map(|text| self.word(state, text)).transpose()?;
            let automatic = |name: &str| self.request.automatic(name);
            let value = self.request.args.get(name).cloned();
            let value = value.or(default).or_else(|| self.file.global(name, &automatic));
            told.push_str(&format!(" {name}"));
            if let Some(value) = &value {
                told.push_str(&format!("={value}"));
                state.over.insert(name.clone());
            }
            state.args.push((name.clone(), value));
        }
        Ok(told)
    }

    /// The directory is made, and is the next instruction's.
    fn workdir(&self, state: &mut State, step: &Instruction, path: &str) -> Result<()> {
        let path = self.word(state, path)?;
        if path.is_empty() {
            return Err(Error::invalid("WORKDIR: the path is empty"));
        }
        let path = state.config.absolute(&path);
        let path = if path == "/" { path } else { path.trim_end_matches('/').to_owned() };
        let user = state.config.text("User");
        let key = key(&["workdir 1", &state.chain(), &path, &user]);
        let created_by = format!("WORKDIR {path}");
        self.cached(state, &step.text, &created_by, &key, |state, _| {
            self.make_dir(state, &path, &user).map(|layer| (layer, true))
        })?;
        state.config.set("WorkingDir", json!(path));
        Ok(())
    }
}
