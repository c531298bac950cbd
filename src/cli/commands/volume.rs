//! The verbs of `volume`.

use std::{collections::BTreeMap, fs::File, io, os::fd::AsFd as _, path::Path, process::ExitCode};

use jiff::{Zoned, tz::TimeZone};
use regex_lite::Regex;
use serde_json::{Map, Value, json};

use super::{
    super::{
        args::volume::{Create, Exists, Export, Import, Inspect, Ls, Mount, Prune, Rm, Unmount},
        exit,
        output::{self, table, units},
        prompt,
        value::{boolean, env, time},
    },
    container::remove_users,
    files, inspect,
};
use crate::{
    engine::{
        Engine,
        volume::{DRIVER, Pruned, VolumeFilters},
    },
    error::{Context as _, Error, Kind, Result},
    state::record::VolumeRecord,
};

pub fn create(engine: &Engine, args: &Create) -> Result<ExitCode> {
    let pairs = |list: &[String]| -> Result<BTreeMap<String, String>> {
        list.iter().map(|text| env::label(text)).collect()
    };
    let name = args.name.as_deref().filter(|name| !name.is_empty());
    let mut options = pairs(&args.opt)?;
    for (key, id) in [("uid", args.uid), ("gid", args.gid)] {
        let Some(id) = id else { continue };
        let words = options.entry("o".into()).or_default();
        let comma = if words.is_empty() { "" } else { "," };
        words.push_str(&format!("{comma}{key}={id}"));
    }
    let made = engine.create_volume(name, &args.driver, pairs(&args.label)?, options)?;
    output::print(&format!("{made}\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) const HEADERS: [(&str, &str); 7] = [
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
];

pub fn ls(engine: &Engine, args: &Ls) -> Result<ExitCode> {
    let (found, damaged) = engine.volume_records(&filters(engine, &args.filter, FILTERS)?)?;
    for err in &damaged {
        exit::warn(&err.clone().context("a volume is not listed"));
    }
    if args.quiet && args.format.is_none() {
        let names: String = found.iter().map(|one| format!("{}\n", one.name)).collect();
        output::print(&names)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = found.iter().map(|one| row(engine, one)).collect();
    let standard = "{{.Driver}}\t{{.Name}}";
    let format = args.format.as_deref();
    output::print(&table::listed(&rows, format, standard, &HEADERS, args.noheading)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn row(engine: &Engine, record: &VolumeRecord) -> table::Row {
    let labels: Vec<_> =
        record.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let fields: Map<String, Value> = [
        // Of clusters.
        ("Availability", "N/A".to_owned()),
        ("Driver", DRIVER.to_owned()),
        ("Group", "N/A".to_owned()),
        ("Labels", labels.join(",")),
        // Docker: only `system df -v` looks for them.
        ("Links", "N/A".to_owned()),
        ("Mountpoint", engine.layout.volume(&record.name).data().display().to_string()),
        ("Name", record.name.clone()),
        ("Scope", "local".to_owned()),
        ("Size", "N/A".to_owned()),
        ("Status", "N/A".to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), json!(value)))
    .collect();
    table::Row { fields, labels: record.labels.clone() }
}

pub fn inspect(engine: &Engine, args: &Inspect) -> Result<ExitCode> {
    let every: Vec<String>;
    let names = match args.all {
        true => {
            let (found, damaged) = engine.volume_records(&VolumeFilters::default())?;
            damaged.iter().for_each(exit::warn);
            every = found.into_iter().map(|one| one.name).collect();
            &every
        }
        false => &args.names,
    };
    inspect::each(names, args.format.as_deref(), |name| engine.describe_volume(name))
}

pub fn rm(engine: &Engine, args: &Rm) -> Result<ExitCode> {
    if args.all {
        let pruned = engine.prune_volumes(true, &VolumeFilters::default())?;
        let names: String = pruned.removed.iter().map(|name| format!("{name}\n")).collect();
        output::print(&names)?;
        pruned.failed.iter().for_each(exit::report);
        return Ok(exit::code((!pruned.failed.is_empty()).into()));
    }
    let mut failed = false;
    for name in &args.names {
        if args.time.is_some() {
            failed |= !remove_users(engine, "volume", name, args.time)?;
        }
        match engine.remove_volume(name) {
            Err(err) if !(args.force && err.kind() == Kind::NotFound) => {
                failed = true;
                exit::report(&err);
            }
            Ok(()) | Err(_) => output::print(&format!("{name}\n"))?,
        }
    }
    Ok(exit::code(failed.into()))
}

pub fn prune(engine: &Engine, args: &Prune) -> Result<ExitCode> {
    // Docker: the filter all=true is another way to say -a.
    let (every, others): (Vec<_>, Vec<_>) =
        args.filter.iter().cloned().partition(|text| text.starts_with("all="));
    let mut all = args.all;
    for text in every {
        all |= boolean(text.trim_start_matches("all="))
            .ok_or_else(|| Error::invalid(format!("invalid filter '{text}'")))?;
    }
    let filters = filters(engine, &others, FILTERS)?;
    let which = if all { "all" } else { "anonymous" };
    let warning =
        format!("This will remove {which} local volumes not used by at least one container.");
    if !args.force && !prompt::agrees(&warning)? {
        return Ok(ExitCode::SUCCESS);
    }
    let pruned = engine.prune_volumes(all, &filters)?;
    output::print(&tell(&pruned))?;
    output::print(&format!("Total reclaimed space: {}\n", units::human_size(pruned.freed)))?;
    Ok(exit::code((!pruned.failed.is_empty()).into()))
}

/// What was pruned, in docker's words; failures go to stderr.
pub(super) fn tell(pruned: &Pruned) -> String {
    pruned.failed.iter().for_each(exit::report);
    if pruned.removed.is_empty() {
        return String::new();
    }
    let names: String = pruned.removed.iter().map(|name| format!("{name}\n")).collect();
    format!("Deleted Volumes:\n{names}\n")
}

/// Podman's: 0 or 1, and not a word.
pub fn exists(engine: &Engine, args: &Exists) -> Result<ExitCode> {
    match engine.volume(&args.name) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(err) if err.kind() == Kind::NotFound => Ok(exit::code(1)),
        Err(err) => Err(err),
    }
}

pub fn export(engine: &Engine, args: &Export) -> Result<ExitCode> {
    // Before a file is made for it.
    engine.volume(&args.name)?;
    files::tar_to(args.output.as_deref(), |out| engine.export_volume(&args.name, out))
}

pub fn import(engine: &Engine, args: &Import) -> Result<ExitCode> {
    engine.volume(&args.name)?;
    match args.source.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let file = File::open(path).at(path).doing("open the tar")?;
            engine.import_volume(&args.name, file.as_fd())?;
        }
        None => {
            engine.import_volume(&args.name, io::stdin().as_fd())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn mount(engine: &Engine, args: &Mount) -> Result<ExitCode> {
    each(&args.names, |name| Ok(engine.volume_directory(name)?.display().to_string()))
}

pub fn unmount(engine: &Engine, args: &Unmount) -> Result<ExitCode> {
    each(&args.names, |name| engine.volume(name).map(|volume| volume.name))
}

/// A line for each; what fails does not keep the others from it.
fn each(names: &[String], tell: impl Fn(&str) -> Result<String>) -> Result<ExitCode> {
    let mut failed = false;
    for name in names {
        match tell(name) {
            Ok(line) => output::print(&format!("{line}\n"))?,
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}

const FILTERS: &[&str] = &[
    "after",
    "anonymous",
    "dangling",
    "driver",
    "label",
    "label!",
    "name",
    "opt",
    "scope",
    "since",
    "until",
];

/// Reads `--filter`: docker's and podman's.
pub(super) fn filters(engine: &Engine, typed: &[String], known: &[&str]) -> Result<VolumeFilters> {
    let mut filters = VolumeFilters::default();
    let now = Zoned::now().with_time_zone(TimeZone::system());
    for text in typed {
        let (key, value) = env::filter(text)?;
        let bad = || Error::invalid(format!("invalid filter '{key}=[{value}]'"));
        if !known.contains(&key.as_str()) {
            return Err(Error::invalid(format!("invalid filter '{key}'"))
                .hint(format!("filters are {}", known.join(", "))));
        }
        let pair = || match value.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (value.clone(), None),
        };
        let truth = || match value.as_str() {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(bad()),
        };
        match key.as_str() {
            "label" => filters.labels.push(pair()),
            "label!" => filters.without.push(pair()),
            "opt" => filters.options.push(pair()),
            "name" => filters.names.push(Regex::new(&value).map_err(|_| bad())?),
            "driver" => filters.drivers.push(value),
            "until" => filters.until = Some(time::moment(&value, &now)?),
            "after" | "since" => filters.since = Some(engine.volume(&value)?.created),
            "scope" if value == "local" => {}
            "scope" => return Err(bad().hint("every volume is local")),
            "anonymous" => filters.anonymous = Some(truth()?),
            _ => filters.dangling = Some(truth()?),
        }
    }
    Ok(filters)
}
