//! `builder` and `buildx`: the names of builders, each of which means dhow on this machine.

use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::{
        args::builder::{Builder, BuilderCommand, Create, Ls, Rm},
        exit, messages,
        output::{self, table, visible},
        prompt,
    },
    build, imagetools,
};
use crate::{
    engine::{
        Engine,
        build::builders::{self, BuilderRecord, Builders, DEFAULT, DRIVER},
    },
    error::{Context as _, Error, Result},
    oci::Platform,
};

const VERSION: &str = concat!("dhow-v", env!("CARGO_PKG_VERSION"));
/// Columns of a listing of platforms, as buildx shortens it.
const SHOWN: usize = 4;

pub fn builder(engine: &Engine, args: &Builder) -> Result<ExitCode> {
    if args.debug {
        messages::listen(log::LevelFilter::Debug);
    }
    let chosen = args.builder.as_deref().unwrap_or_default();
    let known = engine.builders()?;
    known.find(chosen)?;
    // The one that is named, or else meant.
    let meant = |name: Option<&str>| match (name, chosen) {
        (Some(name), _) => name.to_owned(),
        (None, "") => known.current().to_owned(),
        (None, chosen) => chosen.to_owned(),
    };
    match &args.command {
        BuilderCommand::Build(args) => return build::build(engine, args),
        BuilderCommand::Du(args) => return build::du(engine, args),
        BuilderCommand::Prune(args) => return build::prune(engine, args),
        BuilderCommand::Imagetools(command) => return imagetools::imagetools(engine, command),
        BuilderCommand::Version(_) => {
            output::print(&format!("dhow/buildx v{}\n", env!("CARGO_PKG_VERSION")))?;
        }
        BuilderCommand::Ls(args) => ls(&known, args)?,
        BuilderCommand::Inspect(args) => {
            let name = meant(args.name.as_deref());
            output::print(&described(known.find(&name)?)?)?;
        }
        BuilderCommand::Create(args) => create(engine, args)?,
        BuilderCommand::Use(args) => {
            engine.change_builders(|builders| builders.choose(&args.name))?;
        }
        BuilderCommand::Rm(args) => return rm(engine, args, &meant(None)),
        // Nothing of it runs.
        BuilderCommand::Stop(args) => drop(known.find(&meant(args.name.as_deref()))?),
    }
    Ok(ExitCode::SUCCESS)
}

fn create(engine: &Engine, args: &Create) -> Result<()> {
    match args.driver.as_deref() {
        None | Some("docker" | "docker-container" | "dhow") => {}
        Some(known @ ("kubernetes" | "remote" | "cloud")) => {
            return Err(Error::unsupported(format!(
                "--driver {known}: builds are done on the machine where dhow is called"
            )));
        }
        Some(other) => {
            return Err(Error::invalid(format!("failed to find driver {other:?}"))
                .hint("there are docker-container and docker, whose place dhow takes"));
        }
    }
    match args.endpoint.as_deref() {
        None | Some("" | DEFAULT) => {}
        Some(other) => {
            return Err(Error::unsupported(format!(
                "{other}: there is no daemon to reach: dhow builds on the machine where it is called"
            )));
        }
    }
    let name = match args.name.as_deref() {
        None | Some("") => builders::invent_name()?,
        Some(name) => name.to_owned(),
    };
    builders::check_name(&name)?;
    for text in args.platform.iter().filter(|text| !text.is_empty()) {
        text.parse::<Platform>().doing("--platform")?;
    }
    let noted = [
        ("--driver-opt", !args.driver_opt.is_empty()),
        ("--buildkitd-flags", args.buildkitd_flags.is_some()),
    ];
    let flags = args.buildkitd_flags.iter().flat_map(|text| text.split_whitespace());
    let record = BuilderRecord {
        name: name.clone(),
        driver: args.driver.clone().unwrap_or_else(|| DRIVER.into()),
        options: args.driver_opt.clone(),
        flags: flags.map(str::to_owned).collect(),
        platforms: args.platform.clone(),
        created: Timestamp::now(),
    };
    engine.change_builders(|builders| {
        builders.add(record)?;
        if args.use_it {
            builders.choose(&name)?;
        }
        Ok(())
    })?;
    for (flag, _) in noted.into_iter().filter(|(_, is_typed)| *is_typed) {
        exit::note(&format!("WARNING: {flag} changes nothing: dhow itself builds"));
    }
    output::print(&format!("{name}\n"))
}

fn rm(engine: &Engine, args: &Rm, current: &str) -> Result<ExitCode> {
    if args.all_inactive {
        let question = "This will remove all builders that are not in running state.";
        if !args.force {
            prompt::agrees(question)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let own = [current.to_owned()];
    let names = if args.names.is_empty() { &own[..] } else { &args.names };
    let mut failed = false;
    for name in names {
        match engine.change_builders(|builders| builders.remove(name)) {
            // As buildx, which says it on stderr.
            Ok(()) => exit::note(&format!("{name} removed")),
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}

/// Those that were named are marked, the others are what this machine runs.
fn platforms(record: Option<&BuilderRecord>) -> Result<Vec<String>> {
    let named = record.map(|record| &record.platforms[..]).unwrap_or_default();
    let mut all: Vec<String> = named.iter().map(|text| format!("{text}*")).collect();
    let own = builders::platforms()?.into_iter().map(|platform| platform.to_string());
    all.extend(own.filter(|text| !named.contains(text)));
    Ok(all)
}

fn driver(record: Option<&BuilderRecord>) -> &str {
    record.map_or("dhow", |record| &record.driver)
}

/// Name and node: buildx counts the nodes of those that were made.
fn names(record: Option<&BuilderRecord>) -> (&str, String) {
    record
        .map_or((DEFAULT, DEFAULT.to_owned()), |record| (&record.name, format!("{}0", record.name)))
}

fn described(record: Option<&BuilderRecord>) -> Result<String> {
    let (name, node) = names(record);
    let mut rows = vec![("Name", name.to_owned()), ("Driver", driver(record).to_owned())];
    if let Some(record) = record {
        let shown = record.created.strftime("%Y-%m-%d %H:%M:%S +0000 UTC");
        rows.push(("Last Activity", shown.to_string()));
    }
    let mut text = aligned(&rows);
    rows = vec![("Name", node), ("Endpoint", DEFAULT.to_owned())];
    if let Some(record) = record.filter(|record| !record.options.is_empty()) {
        let quoted = record.options.iter().map(|text| match text.split_once('=') {
            Some((key, value)) => format!("{key}={value:?}"),
            None => text.clone(),
        });
        rows.push(("Driver Options", quoted.collect::<Vec<_>>().join(" ")));
    }
    rows.push(("Status", "running".into()));
    if let Some(record) = record.filter(|record| !record.flags.is_empty()) {
        rows.push(("BuildKit daemon flags", record.flags.join(" ")));
    }
    rows.push(("BuildKit version", VERSION.into()));
    rows.push(("Platforms", platforms(record)?.join(", ")));
    text.push_str(&format!("\nNodes:\n{}", aligned(&rows)));
    Ok(text)
}

/// `KEY: value`, the values below each other.
fn aligned(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(key, _)| key.len() + 2).max().unwrap_or_default();
    let row =
        |(key, value): &(&str, String)| format!("{:width$}{}\n", format!("{key}:"), visible(value));
    rows.iter().map(row).collect()
}

fn ls(known: &Builders, args: &Ls) -> Result<()> {
    const STANDARD: &str =
        "{{.Name}}\t{{.DriverEndpoint}}\t{{.Status}}\t{{.Buildkit}}\t{{.Platforms}}";
    const HEADERS: [(&str, &str); 6] = [
        ("Name", "NAME/NODE"),
        ("DriverEndpoint", "DRIVER/ENDPOINT"),
        ("LastActivity", "LAST ACTIVITY"),
        ("Status", "STATUS"),
        ("Buildkit", "BUILDKIT"),
        ("Platforms", "PLATFORMS"),
    ];
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    let is_table = format.is_none_or(|format| format.starts_with("table"));
    let mut rows = Vec::new();
    for record in known.all.iter().map(Some).chain([None]) {
        let (name, node) = names(record);
        let is_current = name == known.current();
        let platforms = platforms(record)?;
        if format == Some("json") {
            rows.push(row(json!({
                "Name": name, "Driver": driver(record), "Current": is_current, "Dynamic": false,
                "LastActivity": record.map(|record| record.created.to_string()),
                "Nodes": [{
                    "Name": node, "Endpoint": DEFAULT, "Status": "running", "Version": VERSION,
                    "Platforms": platforms,
                }],
            })));
            continue;
        }
        let mark = if is_table && is_current { "*" } else { "" };
        let indent = if is_table { " \\_ " } else { "" };
        let shown = match is_table && !args.no_trunc && platforms.len() > SHOWN {
            true => {
                format!("{}, ({} more)", platforms[..SHOWN].join(", "), platforms.len() - SHOWN)
            }
            false => platforms.join(", "),
        };
        let created = record.map_or_else(String::new, |record| {
            record.created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
        });
        rows.push(row(json!({
            "Name": format!("{name}{mark}"), "DriverEndpoint": driver(record),
            "LastActivity": created, "Status": "", "Buildkit": "", "Platforms": "", "Error": "",
        })));
        rows.push(row(json!({
            "Name": format!("{indent}{node}"), "DriverEndpoint": format!("{indent}{DEFAULT}"),
            "LastActivity": "", "Status": "running", "Buildkit": VERSION, "Platforms": shown,
            "Error": "",
        })));
    }
    output::print(&table::listed(&rows, format, STANDARD, &HEADERS, false)?)
}

fn row(fields: Value) -> table::Row {
    let fields = fields.as_object().cloned().unwrap_or_default();
    table::Row { fields, ..table::Row::default() }
}
