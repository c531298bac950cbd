//! What containers there are: `ps`.
//!
//! Thousands of stopped containers are common on build machines, so a listing reads two small
//! files a container and nothing else: which of them may run is told by one look at the runtime
//! directory, and only those are asked of the kernel.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::Read as _,
    ops::RangeInclusive,
    path::Path,
};

use jiff::Timestamp;
use regex_lite::Regex;
use rustix::fs::{Mode as FileMode, OFlags};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Status, no_record, recorded};
use crate::{
    engine::{Engine, build::BUILD_NAME},
    error::{Context as _, Error, Result},
    image::{
        layer::{Apply, Ownership},
        unpack::InUserNamespace,
    },
    network::attachment::Port,
    oci::Digest,
    run::discard,
    state::{
        ContainerId,
        health::{Health, HealthCheck, HealthState},
        network::{DEFAULT, NetworkChoice},
        record::{BuildRecord, Mode, MountRecord, NamespaceModes},
    },
    sys::fs,
};

/// Most records end within so many bytes: one read.
const RECORD: usize = 16 << 10;

/// A container as a listing shows it: the record without what only a start needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub id: ContainerId,
    pub name: String,
    pub created: Timestamp,
    /// The image's name as it was typed.
    pub image: String,
    pub image_id: Digest,
    /// Entrypoint and arguments.
    pub command: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub exposed_ports: Vec<String>,
    pub mounts: Vec<MountRecord>,
    pub network: Mode,
    /// Networks by name, if it has any of its own.
    pub networks: Vec<String>,
    /// What it publishes, while it runs.
    pub ports: Vec<Port>,
    pub status: Status,
    /// Of one that runs and is checked.
    pub health: Option<Health>,
    /// ChainIDs, bottom first.
    layers: Vec<Digest>,
}

/// What [`Engine::containers`] found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Newest first.
    pub containers: Vec<Listed>,
    /// Why the others are not among them: damaged records hide nobody else.
    pub damaged: Vec<Error>,
}

/// Which containers are asked for.
#[derive(Debug, Default)]
pub struct Query {
    /// Those that do not run, too.
    pub all: bool,
    /// Only so many of the newest, whether they run or not.
    pub last: Option<usize>,
    pub filters: Filters,
}

/// The namespaces of a container that runs, by their inode numbers (namespaces(7)), in the order
/// of [`NAMESPACES`]; empty where the kernel does not say.
pub fn namespaces_of(pid: i32) -> [String; NAMESPACES.len()] {
    NAMESPACES.map(|kind| {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap_or_default();
        let text = link.to_string_lossy();
        let number = text.split_once('[').and_then(|(_, number)| number.strip_suffix(']'));
        number.unwrap_or_default().to_owned()
    })
}

/// The files of `/proc/PID/ns` that a listing shows.
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

impl Engine {
    /// The container created last.
    pub fn newest(&self) -> Result<ContainerId> {
        let query = Query { last: Some(1), ..Query::default() };
        let newest = self.containers(&query)?.containers.into_iter().next();
        newest.map(|one| one.id).ok_or_else(|| Error::not_found("there is no container"))
    }
}

/// Conditions by docker's rules: one of the values of each key must hold, but every label.
#[derive(Debug, Default)]
pub struct Filters(BTreeMap<&'static str, Vec<Filter>>);

#[derive(Debug)]
enum Filter {
    Id(Regex),
    Name(Regex),
    Label(String, Option<String>),
    Status(String),
    Exited(i32),
    /// The image that was meant; `None` if there is no such image: nobody descends from it.
    Ancestor(Option<Ancestor>),
    Before(Timestamp),
    Since(Timestamp),
    Network(String),
    Health(String),
    Volume(String),
    Exposed(Ports),
    Published(Ports),
    /// Nothing of this kind exists here yet, so the answer is the same for every container.
    Constant(bool),
}

/// Ports of one protocol, from the first to the last.
#[derive(Debug)]
struct Ports {
    numbers: RangeInclusive<u16>,
    protocol: String,
}

#[derive(Debug)]
struct Ancestor {
    id: Digest,
    /// The chainID of its topmost layer.
    top: Option<Digest>,
}

impl Engine {
    /// The containers that `query` asks for. A container that is being removed meanwhile is in
    /// or out, never an error.
    pub fn containers(&self, query: &Query) -> Result<Listing> {
        let perhaps_running = self.perhaps_running()?;
        let every = query.all || query.last.is_some() || query.filters.0.contains_key("status");
        let ids = match every {
            true => self.container_ids()?,
            false => perhaps_running.iter().filter_map(|id| id.parse().ok()).collect(),
        };
        let mut listing = self.read_all(&ids, &perhaps_running)?;
        let wanted = |container: &Listed| {
            (every || container.status.is_running()) && query.filters.admit(container)
        };
        listing.containers.retain(wanted);
        listing.containers.retain(|one| !self.is_at_work(&one.name, &one.id));
        listing
            .containers
            .sort_unstable_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        listing.containers.truncate(query.last.unwrap_or(usize::MAX));
        Ok(listing)
    }

    /// Whether it works for a build that goes on: then it is nobody's to see.
    fn is_at_work(&self, name: &str, id: &ContainerId) -> bool {
        name.starts_with(BUILD_NAME)
            && self.load(id).is_ok_and(|container| {
                container.record.build.is_some_and(|build| self.builds_on(&build))
            })
    }

    /// Whether the build that a container was made for goes on.
    pub(in crate::engine) fn builds_on(&self, build: &BuildRecord) -> bool {
        build.boot_id == self.facts.boot_id && discard::living(build.builder).is_some()
    }

    /// The ids that have a place in the runtime directory. Without one a container does not run.
    fn perhaps_running(&self) -> Result<HashSet<String>> {
        let dir = self.layout.run_containers();
        let names = File::open(&dir).map_err(Error::from).and_then(|file| Ok(fs::list(file)?));
        let names = names.at(&dir)?.into_iter();
        Ok(names.filter_map(|(name, _)| name.into_string().ok()).collect())
    }

    // One thread: a second one was measured to cost half as much again in the allocator and in
    // the kernel's locks, and to save a tenth of the time at best.
    fn read_all(&self, ids: &[ContainerId], running: &HashSet<String>) -> Result<Listing> {
        let dir = self.layout.containers();
        let dir = File::open(&dir).at(&dir)?;
        let mut reader = Reader { engine: self, dir, buffer: vec![0; RECORD] };
        let mut listing = Listing::default();
        for id in ids {
            match reader.read(id, running.contains(id.as_str())) {
                Ok(container) => listing.containers.extend(container),
                Err(err) => listing.damaged.push(err),
            }
        }
        Ok(listing)
    }

    /// Bytes that a container's own files take, and with those of its image beneath them.
    pub fn sizes(&self, id: &ContainerId, image: &Digest) -> Result<(u64, u64)> {
        let paths = self.layout.container(id);
        // In a copy, the container's own files are those that changed after it was complete.
        let (upper, since) = match rustix::fs::stat(paths.copies()) {
            Ok(stat) => (paths.copy(), Some(fs::Time::changed(&stat))),
            Err(_) => (paths.upper(), None),
        };
        // One that is on a directory of the host's has none.
        let own = if upper.exists() { self.measure(&upper, since)?.size } else { 0 };
        let image = self.store.image(image)?.map_or(0, |image| image.record.size);
        Ok((own, own.saturating_add(image)))
    }

    /// Measures everything beneath `tree`, or what changed `since` a moment.
    pub fn measure(&self, tree: &Path, since: Option<fs::Time>) -> Result<fs::Usage> {
        let top = File::open(tree).map_err(Error::from);
        match top.and_then(|top| Ok(fs::usage(top, since)?)) {
            Ok(usage) => Ok(usage),
            // What belongs to a subordinate id may be closed to the user it is subordinate to.
            Err(err) if !self.facts.rootless() => Err(err).at(tree),
            Err(_) => {
                let how = Apply { ownership: Ownership::Keep, user_xattr: true };
                InUserNamespace::new(self.facts.id_maps(), how).usage(tree, since)
            }
        }
    }

    /// Reads `key=value` as typed.
    pub fn filters(&self, typed: &[String]) -> Result<Filters> {
        let mut filters = Filters::default();
        for text in typed {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                Error::invalid(format!("invalid filter {text:?}")).hint("write it as key=value")
            })?;
            let (key, filter) = self.filter(&key.trim().to_ascii_lowercase(), value.trim())?;
            filters.0.entry(key).or_default().push(filter);
        }
        Ok(filters)
    }

    fn filter(&self, key: &str, value: &str) -> Result<(&'static str, Filter)> {
        let wrong = || Error::invalid(format!("invalid filter '{key}={value}'"));
        let moment = |typed: &str| Ok::<_, Error>(self.container(typed)?.record.created);
        Ok(match key {
            "id" => ("id", Filter::Id(pattern(value)?)),
            "name" => ("name", Filter::Name(pattern(value)?)),
            "label" => match value.split_once('=') {
                Some((key, value)) => ("label", Filter::Label(key.into(), Some(value.into()))),
                None => ("label", Filter::Label(value.into(), None)),
            },
            "status" if STATES.contains(&value) => ("status", Filter::Status(value.into())),
            "status" => return Err(wrong().hint(format!("a status is {}", STATES.join(", ")))),
            "exited" => {
                let code = value.parse().map_err(|_| wrong().hint("an exit code is a number"))?;
                ("exited", Filter::Exited(code))
            }
            "ancestor" => ("ancestor", Filter::Ancestor(self.ancestor(value)?)),
            "before" => ("before", Filter::Before(moment(value)?)),
            "since" => ("since", Filter::Since(moment(value)?)),
            // By its id, too.
            "network" => {
                let name = self.network(value).map_or_else(|_| value.into(), |found| found.name);
                ("network", Filter::Network(name))
            }
            "volume" => ("volume", Filter::Volume(value.into())),
            "expose" => ("expose", Filter::Exposed(Ports::of(value).ok_or_else(wrong)?)),
            "publish" => ("publish", Filter::Published(Ports::of(value).ok_or_else(wrong)?)),
            "health" if HEALTH.contains(&value) => ("health", Filter::Health(value.into())),
            "health" => return Err(wrong().hint(format!("a health is {}", HEALTH.join(", ")))),
            "is-task" => match value {
                "true" | "1" => ("is-task", Filter::Constant(false)),
                "false" | "0" => ("is-task", Filter::Constant(true)),
                _ => return Err(wrong()),
            },
            _ => {
                return Err(Error::invalid(format!("invalid filter '{key}'")).hint(
                    "filters are ancestor, before, exited, expose, health, id, is-task, label, \
                     name, network, publish, since, status, volume",
                ));
            }
        })
    }

    fn ancestor(&self, typed: &str) -> Result<Option<Ancestor>> {
        let image = self.here(typed)?;
        Ok(image.map(|image| {
            let top = image.record.chain_ids().last().cloned();
            Ancestor { id: image.record.id, top }
        }))
    }
}

/// Docker's words for what a container does. Some never occur here.
const STATES: [&str; 8] =
    ["created", "initialized", "restarting", "running", "removing", "paused", "exited", "dead"];
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

/// Docker matches ids and names by pattern, anywhere unless it is anchored.
pub fn pattern(text: &str) -> Result<Regex> {
    Regex::new(text)
        .map_err(|err| Error::invalid(format!("invalid filter pattern {text:?}: {err}")))
}

impl Ports {
    /// `PORT[-END][/PROTOCOL]`
    fn of(text: &str) -> Option<Self> {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let numbers = first.parse().ok()?..=last.parse().ok()?;
        Some(Self { numbers, protocol: protocol.to_ascii_lowercase() })
    }

    fn contain(&self, number: u16, protocol: &str) -> bool {
        self.protocol == protocol && self.numbers.contains(&number)
    }
}

impl Filters {
    fn admit(&self, container: &Listed) -> bool {
        self.0.iter().all(|(key, filters)| {
            let mut verdicts = filters.iter().map(|filter| filter.admits(container));
            if *key == "label" { verdicts.all(|yes| yes) } else { verdicts.any(|yes| yes) }
        })
    }
}

impl Filter {
    fn admits(&self, container: &Listed) -> bool {
        let status = &container.status;
        match self {
            Self::Id(pattern) => pattern.is_match(container.id.as_str()),
            Self::Name(pattern) => pattern.is_match(&container.name),
            Self::Label(key, value) => container
                .labels
                .get(key)
                .is_some_and(|found| value.as_ref().is_none_or(|value| value == found)),
            Self::Status(word) => status.word() == word,
            Self::Exited(code) => {
                matches!(status, Status::Exited(_) | Status::Restarting(_) | Status::Lost(_))
                    && status.exit_code() == *code
            }
            Self::Ancestor(None) => false,
            Self::Ancestor(Some(ancestor)) => ancestor.is_of(container),
            Self::Before(moment) => container.created < *moment,
            Self::Since(moment) => container.created > *moment,
            Self::Health(word) => container.health.map_or("none", Health::word) == word,
            Self::Network(name) => {
                network_name(&container.network) == Some(name) || container.networks.contains(name)
            }
            Self::Volume(place) => container.mounts.iter().any(|mount| {
                mount.target == *place || bind_source(mount).is_some_and(|source| source == place)
            }),
            Self::Exposed(ports) => container.exposed_ports.iter().any(|exposed| {
                let (number, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
                number.parse().is_ok_and(|number| ports.contain(number, protocol))
            }),
            Self::Published(ports) => {
                let mut own = container.ports.iter();
                own.any(|port| ports.contain(port.host_port, port.protocol.name()))
            }
            Self::Constant(answer) => *answer,
        }
    }
}

impl Ancestor {
    /// A chainID stands for a layer and all below it, so an image built on another has the
    /// other's topmost chainID among its own.
    fn is_of(&self, container: &Listed) -> bool {
        let below = container.layers.split_last().map_or(&[][..], |(_, below)| below);
        container.image_id == self.id || self.top.as_ref().is_some_and(|top| below.contains(top))
    }
}

/// What docker calls the network a container is in; another container's has no name.
pub fn network_name(mode: &Mode) -> Option<&'static str> {
    match mode {
        Mode::None => Some("none"),
        Mode::Host => Some("host"),
        Mode::Program(carrier) => Some(carrier.program.name()),
        Mode::Private | Mode::Container(_) | Mode::Path(_) => None,
    }
}

/// The directory or file of the host, or the volume by its name, that a mount shows.
pub fn bind_source(mount: &MountRecord) -> Option<&Path> {
    use crate::state::record::MountKind;
    match &mount.kind {
        MountKind::Bind { source, .. } => Some(source),
        MountKind::Volume(volume) => Some(Path::new(&volume.name)),
        MountKind::Image(image) => Some(Path::new(&image.name)),
        MountKind::Tmpfs | MountKind::Ramfs | MountKind::Devpts => None,
    }
}

/// One that has just been started looks as if it had been lost, or were to be started again.
fn may_have_changed(status: &Status) -> bool {
    matches!(status, Status::Lost(_)) || matches!(status, Status::Exited(state) if state.restarting)
}

/// The fields of a record that a listing needs; the parser skips the others.
#[derive(Deserialize)]
struct Brief {
    id: ContainerId,
    name: String,
    created: Timestamp,
    image: String,
    image_id: Digest,
    layers: Vec<Digest>,
    #[serde(default)]
    config: BriefConfig,
    #[serde(default)]
    host: BriefHost,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BriefConfig {
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    labels: BTreeMap<String, String>,
    exposed_ports: Vec<String>,
    health: Option<HealthCheck>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BriefHost {
    mounts: Vec<MountRecord>,
    namespaces: NamespaceModes,
    networks: Vec<NetworkChoice>,
}

/// Reads containers one after the other through one buffer.
struct Reader<'a> {
    engine: &'a Engine,
    /// The directory of all containers, open: the kernel need not walk to it each time.
    dir: File,
    /// [`RECORD`] bytes.
    buffer: Vec<u8>,
}

impl Reader<'_> {
    /// `None` if it was removed meanwhile.
    fn read(&mut self, id: &ContainerId, perhaps_running: bool) -> Result<Option<Listed>> {
        let Some(brief) = self.file::<Brief>(id, "container.json")? else {
            let there = self.engine.layout.container(id).dir().exists();
            return if there { Err(no_record(id)) } else { Ok(None) };
        };
        let settled = match perhaps_running {
            true => None,
            // Then look again.
            false => Some(recorded(self.file(id, "state.json")?))
                .filter(|status| !may_have_changed(status)),
        };
        let status = match settled {
            Some(status) => status,
            None => self.engine.status(&self.engine.layout.container(id))?,
        };
        let checked = brief.config.health.as_ref().and_then(HealthCheck::command).is_some();
        let health = match checked && status.is_running() {
            true => self.file::<HealthState>(id, "health.json")?.unwrap_or_default().status.into(),
            false => None,
        };
        let network = &brief.host.namespaces.network;
        let is_private = *network == Mode::Private;
        let publishes = matches!(network, Mode::Private | Mode::Program(_));
        let ports = match publishes && status.is_running() {
            true => self.engine.attachment(id).ports,
            false => Vec::new(),
        };
        let mut networks: Vec<String> =
            brief.host.networks.into_iter().map(|choice| choice.name).collect();
        if is_private && networks.is_empty() {
            networks.push(DEFAULT.to_owned());
        }
        Ok(Some(Listed {
            networks,
            ports,
            id: brief.id,
            name: brief.name,
            created: brief.created,
            image: brief.image,
            image_id: brief.image_id,
            command: [brief.config.entrypoint, brief.config.cmd].concat(),
            labels: brief.config.labels,
            exposed_ports: brief.config.exposed_ports,
            mounts: brief.host.mounts,
            network: brief.host.namespaces.network,
            status,
            health,
            layers: brief.layers,
        }))
    }

    fn file<T: DeserializeOwned>(&mut self, id: &ContainerId, name: &str) -> Result<Option<T>> {
        let path = || self.engine.layout.container(id).dir().join(name);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let relative = format!("{id}/{name}");
        let mut file = match rustix::fs::openat(&self.dir, relative, flags, FileMode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno).at(path()),
        };
        let count = file.read(&mut self.buffer);
        let count = count.doing_with(|| path().display().to_string())?;
        let mut bytes = &self.buffer[..count];
        let mut longer = Vec::new();
        // That a record is complete is told by its newline, so neither its size nor a second
        // read has to be asked for.
        if bytes.last() != Some(&b'\n') {
            longer.extend(bytes);
            file.read_to_end(&mut longer).at(path())?;
            bytes = &longer;
        }
        let parsed = serde_json::from_slice(bytes).map(Some);
        parsed.map_err(|err| crate::state::store::damaged(&path(), &err, "`dhow rm -f` removes it"))
    }
}
