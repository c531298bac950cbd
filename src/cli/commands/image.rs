//! Images: `pull`, `images`, `rmi`, and the image a container is made of.

use std::{collections::BTreeMap, process::ExitCode};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    super::{
        args::{
            container::ContainerFlags,
            image::{Images, Import, Load, Pull, Rmi},
        },
        exit,
        output::{self, progress::Layers, table, units},
        value,
    },
    create,
};
use crate::{
    engine::{
        self, Engine,
        image::{Removal, Want},
    },
    error::{Context as _, Error, Kind, Result},
    image::{
        Image, Progress, Silent, archive, builtin,
        pull::{self, Policy},
        store::NameRecord,
    },
    oci::Reference,
    sys::tty,
};

/// The image to make a container of, and its name as it will be shown.
pub(super) fn obtain(engine: &Engine, flags: &ContainerFlags) -> Result<(Image, String)> {
    let (typed, _) = create::image_and_command(flags)?;
    let policy = match flags.pull.as_str() {
        "always" => Policy::Always,
        "missing" => Policy::Missing,
        "never" => Policy::Never,
        other => {
            return Err(Error::invalid(format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            )));
        }
    };
    let want = Want { platform: flags.platform.clone(), policy, tls_verify: true };
    let here = engine.store.resolve(typed)?.is_some();
    let image = if flags.quiet || here && policy == Policy::Missing || policy == Policy::Never {
        engine.obtain(typed, &want, &Silent)?
    } else {
        let name: Reference = typed.parse()?;
        if !here && !builtin::is_builtin(&name) {
            exit::note(&format!("Unable to find image '{}' locally", name.familiar()));
        }
        with_progress(|layers| engine.obtain(typed, &want, layers))?
    };
    Ok((image, typed.to_owned()))
}

fn with_progress<T>(act: impl FnOnce(&Layers) -> Result<T>) -> Result<T> {
    let layers = Layers::stderr();
    let done = act(&layers);
    layers.finish();
    done
}

pub fn pull(engine: &Engine, args: &Pull) -> Result<ExitCode> {
    let want = Want {
        platform: args.platform.clone(),
        policy: Policy::Always,
        tls_verify: args.tls_verify,
    };
    let reference: Reference = args.image.parse()?;
    let name = reference.stored();
    // A damaged one is no reason not to fetch a whole one.
    let before = engine.store.name(&name).ok().flatten();
    if args.quiet {
        engine.obtain(&args.image, &want, &Silent)?;
    } else {
        let image = with_progress(|layers| engine.obtain(&args.image, &want, layers))?;
        tell_outcome(&image, &name, before.as_ref());
    }
    output::print(&format!("{reference}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Docker's last words on a pull. They go to stderr: what was asked for is the name.
fn tell_outcome(image: &Image, reference: &Reference, before: Option<&NameRecord>) {
    let known = image.names.iter().find(|named| named.name == *reference);
    if let Some(digest) = known.and_then(|named| named.digest.as_ref()) {
        exit::note(&format!("Digest: {digest}"));
    }
    let status = match before {
        Some(before) if before.image == image.record.id => "Image is up to date for",
        _ => "Downloaded newer image for",
    };
    exit::note(&format!("Status: {status} {}", reference.familiar()));
}

/// From a file, or from stdin unless that is a terminal.
fn source(file: Option<&std::path::Path>) -> Result<Box<dyn std::io::Read>> {
    match file {
        Some(path) => Ok(Box::new(std::fs::File::open(path).at(path).doing("open")?)),
        None if tty::is_terminal(std::io::stdin()) => {
            Err(Error::invalid("requested load from stdin, but stdin is empty")
                .hint("name the archive with -i FILE, or pipe it in"))
        }
        None => Ok(Box::new(std::io::stdin().lock())),
    }
}

pub fn load(engine: &Engine, args: &Load) -> Result<ExitCode> {
    let mut source = source(args.input.as_deref())?;
    let platform = pull::host_platform()?;
    let unpacker = engine.unpacker();
    let mut run = |progress: &dyn Progress| {
        archive::load(&mut *source, &engine.store, &platform, &*unpacker, progress)
    };
    let loaded = match args.quiet {
        true => run(&Silent),
        false => with_progress(|layers| run(layers)),
    };
    let what = args.input.as_ref().map_or("stdin".to_owned(), |path| path.display().to_string());
    for image in loaded.doing_with(|| format!("load {what}"))? {
        for name in &image.names {
            output::print(&format!("Loaded image: {}\n", name.familiar()))?;
        }
        if image.names.is_empty() {
            output::print(&format!("Loaded image ID: {}\n", image.image.record.id))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn import(engine: &Engine, args: &Import) -> Result<ExitCode> {
    let file = (args.source != "-").then(|| std::path::Path::new(&args.source));
    let mut source = source(file)?;
    let platform = match &args.platform {
        Some(platform) => platform.parse()?,
        None => pull::host_platform()?,
    };
    let import = archive::Import {
        changes: args.change.clone(),
        message: args.message.clone(),
        reference: args.name.as_deref().map(str::parse).transpose()?,
        platform,
        created: Timestamp::now(),
    };
    let unpacker = engine.unpacker();
    let image = archive::import(&mut *source, &import, &engine.store, &*unpacker, &Silent)
        .doing_with(|| format!("import {}", args.source))?;
    output::print(&format!("{}\n", image.record.id))?;
    Ok(ExitCode::SUCCESS)
}

pub fn rmi(engine: &Engine, args: &Rmi) -> Result<ExitCode> {
    let mut failed = false;
    for typed in &args.images {
        match engine.remove_image(typed, args.force) {
            Ok(removals) => {
                for removal in removals {
                    output::print(&match removal {
                        Removal::Untagged(name) => format!("Untagged: {name}\n"),
                        Removal::Deleted(digest) => format!("Deleted: {digest}\n"),
                    })?;
                }
            }
            Err(err) if args.force && err.kind() == Kind::NotFound => {}
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}

pub fn images(engine: &Engine, args: &Images) -> Result<ExitCode> {
    let filters = filters(engine, args)?;
    // Of several references any will do; of other filters all must.
    let wanted: Vec<&str> =
        (filters.iter().filter_map(Filter::reference)).chain(args.reference.as_deref()).collect();
    let mut list = engine.store.list()?;
    list.retain(|image| filters.iter().all(|filter| filter.admits(engine, image)));
    // Docker: the youngest first.
    list.sort_by_key(|image| std::cmp::Reverse(image.record.created));
    if args.quiet && args.format.is_none() {
        let mut lines: Vec<String> = list
            .iter()
            .filter(|image| names(image, &wanted).next().is_some())
            .map(|image| id(image, args.no_trunc))
            .collect();
        lines.dedup();
        output::print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<table::Row> = list
        .iter()
        .flat_map(|image| names(image, &wanted).map(|name| row(image, name, args.no_trunc)))
        .collect();
    let standard = match args.digests {
        true => "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        false => "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    };
    let mut out = Vec::new();
    table::listing(&rows, args.format.as_deref(), standard, HEADERS, &mut out)?;
    output::print(&String::from_utf8_lossy(&out))?;
    Ok(ExitCode::SUCCESS)
}

const HEADERS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
];

/// The names to show, one line each; an image without any has one line all the same.
fn names<'a>(image: &'a Image, wanted: &'a [&str]) -> impl Iterator<Item = Option<&'a NameRecord>> {
    let nameless = image.names.is_empty() && wanted.is_empty();
    let matches = move |named: &&NameRecord| {
        wanted.is_empty() || wanted.iter().any(|wanted| matches(named, wanted))
    };
    image.names.iter().filter(matches).map(Some).chain(nameless.then_some(None))
}

/// `REPOSITORY` means every tag of it, `REPOSITORY:TAG` one; `*` and `?` are wildcards.
fn matches(named: &NameRecord, wanted: &str) -> bool {
    let (repository, tag) = match wanted.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (wanted, None),
    };
    let tag_fits = tag.is_none_or(|tag| named.name.tag().is_some_and(|have| glob(tag, have)));
    // Docker matches the familiar name; a whole name is understood too.
    let fits = named.name.repository() == repository
        || glob(repository, &named.name.familiar_repository());
    tag_fits && fits
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            // Go's path.Match: a star does not match a slash.
            let mut ends = ends.take_while(|at| !text[..*at].contains('/'));
            ends.any(|at| glob(rest, &text[at..]))
        }
        Some(want) => {
            let mut chars = text.chars();
            chars.next().is_some_and(|have| want == have || want == '?' && have != '/')
                && glob(&pattern[want.len_utf8()..], chars.as_str())
        }
    }
}

fn id(image: &Image, whole: bool) -> String {
    if whole { image.record.id.to_string() } else { image.record.id.short().to_owned() }
}

fn row(image: &Image, named: Option<&NameRecord>, whole: bool) -> table::Row {
    let created = made(image);
    let age = std::time::Duration::try_from(Timestamp::now() - created).unwrap_or_default();
    let none = || "<none>".to_owned();
    let mut fields: Map<String, Value> = Map::new();
    for (key, value) in [
        ("ID", json!(id(image, whole))),
        ("Repository", json!(named.map_or_else(none, |n| n.name.familiar_repository()))),
        ("Tag", json!(named.and_then(|n| n.name.tag()).map_or_else(none, str::to_owned))),
        (
            "Digest",
            json!(named.and_then(|n| n.digest.as_ref()).map_or_else(none, ToString::to_string)),
        ),
        (
            "CreatedSince",
            json!(image.record.created.map_or_else(|| "N/A".to_owned(), |_| units::ago(age))),
        ),
        ("CreatedAt", json!(created.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string())),
        ("Size", json!(units::short_size(image.record.size))),
    ] {
        fields.insert(key.to_owned(), value);
    }
    table::Row { fields, labels: BTreeMap::new() }
}

/// One `--filter` of `images`.
enum Filter {
    Dangling(bool),
    /// Chooses names rather than images.
    Reference(String),
    Label(String, Option<String>),
    /// Made before, or after, this time.
    Before(Timestamp),
    Since(Timestamp),
}

impl Filter {
    fn reference(&self) -> Option<&str> {
        match self {
            Self::Reference(pattern) => Some(pattern),
            Self::Dangling(_) | Self::Label(..) | Self::Before(_) | Self::Since(_) => None,
        }
    }

    fn admits(&self, engine: &Engine, image: &Image) -> bool {
        match self {
            Self::Dangling(wanted) => image.names.is_empty() == *wanted,
            Self::Reference(_) => true,
            Self::Before(time) => made(image) < *time,
            Self::Since(time) => made(image) > *time,
            Self::Label(key, value) => {
                let config = engine.store.config(&image.record).ok();
                let labels = config
                    .and_then(|config| config.config().clone())
                    .and_then(|config| config.labels().clone())
                    .unwrap_or_default();
                labels.get(key).is_some_and(|have| value.as_ref().is_none_or(|want| want == have))
            }
        }
    }
}

impl Images {
    fn typed_filters(&self) -> Result<Vec<(String, String)>> {
        self.filter.iter().map(|text| value::env::filter(text)).collect()
    }
}

/// An image that does not say is as old as can be.
fn made(image: &Image) -> Timestamp {
    image.record.created.unwrap_or(Timestamp::UNIX_EPOCH)
}

fn filters(engine: &Engine, args: &Images) -> Result<Vec<Filter>> {
    let made = |typed: &str| {
        let image = engine.store.resolve(typed)?;
        image.as_ref().map(made).ok_or_else(|| engine::image::no_such_image(typed))
    };
    args.typed_filters()?
        .into_iter()
        .map(|(key, value)| match key.as_str() {
            "dangling" => match value.as_str() {
                "true" | "1" => Ok(Filter::Dangling(true)),
                "false" | "0" => Ok(Filter::Dangling(false)),
                _ => Err(Error::invalid(format!("invalid filter 'dangling={value}'"))),
            },
            "reference" => Ok(Filter::Reference(value)),
            "label" => Ok(match value.split_once('=') {
                Some((key, value)) => Filter::Label(key.to_owned(), Some(value.to_owned())),
                None => Filter::Label(value, None),
            }),
            "before" => made(&value).map(Filter::Before),
            "since" => made(&value).map(Filter::Since),
            other => Err(Error::invalid(format!("invalid filter '{other}'"))
                .hint("images knows before, dangling, label, reference and since")),
        })
        .collect()
}
