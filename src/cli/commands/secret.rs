//! The verbs of `secret`, and `--secret` of `run` and `create`.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    process::ExitCode,
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    super::{
        args::secret::{Create, Exists, Inspect, Ls, Rm},
        exit,
        output::{self, table, units, visible},
        value::env,
    },
    inspect,
};
use crate::{
    engine::{
        Engine,
        secret::{DIRECTORY, DRIVER, IfThere},
    },
    error::{Context as _, Error, Kind, Result},
    state::{
        record::{SecretGrant, SecretShown},
        secret::{self, LONGEST, SecretRecord, SecretValue},
    },
};

pub fn create(engine: &Engine, args: &Create) -> Result<ExitCode> {
    if args.driver != DRIVER {
        return Err(Error::unsupported(format!("invalid driver {:?}", args.driver))
            .hint("the only driver is file: a file that only you can read"));
    }
    let pairs = |list: &[String]| -> Result<BTreeMap<String, String>> {
        list.iter().map(|text| env::label(text)).collect()
    };
    let if_there = match (args.replace, args.ignore) {
        (true, _) => IfThere::Replace,
        (false, true) => IfThere::Keep,
        (false, false) => IfThere::Refuse,
    };
    secret::check_name(&args.name)?;
    let (labels, options) = (pairs(&args.label)?, pairs(&args.driver_opts)?);
    let id = engine.create_secret(&args.name, value(args)?, labels, options, if_there)?;
    output::print(&format!("{id}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn value(args: &Create) -> Result<SecretValue> {
    let missing = || {
        Error::invalid("\"dhow secret create\" requires 2 arguments").hint(
            "name a file with the value, or - for standard input; --env takes a variable's name",
        )
    };
    let source = args.source.as_deref().ok_or_else(missing)?;
    if args.env {
        let value = std::env::var(source)
            .map_err(|_| Error::invalid(format!("environment variable {source} is not set")))?;
        return SecretValue::new(value.into_bytes());
    }
    match source {
        "-" => read(io::stdin().lock()).doing("read standard input"),
        path => read(File::open(path).at(path)?).at(path),
    }
}

/// No more than what is too long already.
fn read(from: impl Read) -> Result<SecretValue> {
    let mut bytes = Vec::new();
    let most = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    from.take(most + 1).read_to_end(&mut bytes)?;
    SecretValue::new(bytes)
}

const HEADERS: [(&str, &str); 6] = [
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("CreatedAt", "CREATED"),
    ("UpdatedAt", "UPDATED"),
    ("Labels", "LABELS"),
];

pub fn ls(engine: &Engine, args: &Ls) -> Result<ExitCode> {
    let (mut found, damaged) = secret::list(&engine.layout)?;
    for err in &damaged {
        exit::warn(&err.clone().context("a secret is not listed"));
    }
    let filters: Vec<(String, String)> =
        args.filter.iter().map(|text| env::filter(text)).collect::<Result<_>>()?;
    if let Some((key, _)) =
        filters.iter().find(|(key, _)| !["id", "label", "name"].contains(&key.as_str()))
    {
        return Err(Error::invalid(format!("invalid filter '{key}'"))
            .hint("filters are id, label and name"));
    }
    found.retain(|record| admits(&filters, record));
    if args.quiet && args.format.is_none() {
        let ids: String = found.iter().map(|record| format!("{}\n", record.id)).collect();
        output::print(&ids)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = found.iter().map(row).collect();
    let standard = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}";
    let format = args.format.as_deref();
    output::print(&table::listed(&rows, format, standard, &HEADERS, args.noheading)?)?;
    Ok(ExitCode::SUCCESS)
}

/// One of the names or ids, and all of the labels.
fn admits(filters: &[(String, String)], record: &SecretRecord) -> bool {
    let any = |wanted: &str, holds: &dyn Fn(&str) -> bool| {
        let mut values = filters.iter().filter(|(key, _)| key == wanted).peekable();
        values.peek().is_none() || values.any(|(_, value)| holds(value))
    };
    let labels = filters.iter().filter(|(key, _)| key == "label").all(|(_, label)| {
        match label.split_once('=') {
            Some((key, value)) => record.labels.get(key).is_some_and(|own| own == value),
            None => record.labels.contains_key(label),
        }
    });
    labels
        && any("name", &|part| record.name.contains(part))
        && any("id", &|start| record.id.starts_with(start))
}

fn row(record: &SecretRecord) -> table::Row {
    let labels: Vec<_> =
        record.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let ago = |moment: Timestamp| {
        let length = Timestamp::now().duration_since(moment);
        units::ago(length.unsigned_abs())
    };
    let fields: Map<String, Value> = [
        ("CreatedAt", ago(record.created)),
        ("Driver", DRIVER.to_owned()),
        ("ID", record.id.clone()),
        ("Labels", labels.join(",")),
        ("Name", record.name.clone()),
        ("UpdatedAt", ago(record.updated)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), json!(value)))
    .collect();
    table::Row { fields, labels: record.labels.clone() }
}

pub fn inspect(engine: &Engine, args: &Inspect) -> Result<ExitCode> {
    if !args.pretty {
        return inspect::each(&args.names, args.format.as_deref(), |name| {
            engine.describe_secret(name, args.showsecret)
        });
    }
    let mut failed = false;
    for name in &args.names {
        match engine.secret(name) {
            Ok(record) => output::print(&pretty(&record, args.showsecret))?,
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}

/// Docker's layout.
fn pretty(record: &SecretRecord, show: bool) -> String {
    let moment = |moment: Timestamp| moment.strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC").to_string();
    let labels: String = record
        .labels
        .iter()
        .map(|(key, value)| format!(" - {}={}\n", visible(key), visible(value)))
        .collect();
    let value = String::from_utf8_lossy(record.value.bytes());
    let value = match show {
        true => format!("SecretData:        {}\n", visible(&value)),
        false => String::new(),
    };
    format!(
        "ID:              {}\nName:              {}\nLabels:\n{labels}Driver:            {DRIVER}\nCreated at:        {}\nUpdated at:        {}\n{value}",
        record.id,
        record.name,
        moment(record.created),
        moment(record.updated)
    )
}

pub fn rm(engine: &Engine, args: &Rm) -> Result<ExitCode> {
    let every: Vec<String>;
    let names = match args.all {
        true => {
            let (found, damaged) = secret::list(&engine.layout)?;
            damaged.iter().for_each(exit::warn);
            every = found.into_iter().map(|record| record.name).collect();
            &every
        }
        false => &args.names,
    };
    let mut failed = false;
    for name in names {
        match engine.remove_secret(name) {
            Ok(()) => output::print(&format!("{name}\n"))?,
            Err(err) if args.ignore && err.kind() == Kind::NotFound => {}
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}

/// Podman's: 0 or 1, and not a word.
pub fn exists(engine: &Engine, args: &Exists) -> Result<ExitCode> {
    match engine.secret(&args.name) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(err) if err.kind() == Kind::NotFound => Ok(exit::code(1)),
        Err(err) => Err(err),
    }
}

/// `--secret NAME[,type=mount|env,target=,uid=,gid=,mode=]`.
pub(super) fn grant(engine: &Engine, text: &str) -> Result<SecretGrant> {
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let name = first.strip_prefix("source=").unwrap_or(first);
    if name.is_empty() || name.contains('=') {
        return Err(Error::invalid(format!("{text:?} does not begin with a secret's name"))
            .hint("write NAME[,type=mount|env,target=,uid=,gid=,mode=]"));
    }
    let mut given: BTreeMap<&str, &str> = BTreeMap::new();
    for part in parts {
        let known = ["type", "target", "uid", "gid", "mode"];
        let pair = part.split_once('=').filter(|(key, _)| known.contains(key));
        let (key, value) = pair.ok_or_else(|| {
            Error::invalid(format!("option {part} invalid: error parsing secret"))
                .hint("options are type, target, uid, gid and mode")
        })?;
        given.insert(key, value);
    }
    let number = |key: &str, radix: u32, most: u32, otherwise: u32| match given.get(key) {
        None => Ok(otherwise),
        Some(value) => u32::from_str_radix(value, radix)
            .ok()
            .filter(|number| *number <= most && !value.starts_with('+'))
            .ok_or_else(|| Error::invalid(format!("{key} {value} invalid: error parsing secret"))),
    };
    let (uid, gid) = (number("uid", 10, u32::MAX - 1, 0)?, number("gid", 10, u32::MAX - 1, 0)?);
    let mode = number("mode", 8, 0o777, 0o444)?;
    let target = given.get("target").copied().filter(|target| !target.is_empty());
    let record = engine.secret(name)?;
    let shown = match given.get("type").copied().unwrap_or("mount") {
        "mount" => {
            let target = target.unwrap_or(&record.name);
            let target = match target.starts_with('/') {
                true => target.to_owned(),
                false => format!("{DIRECTORY}/{target}"),
            };
            SecretShown::Mount { target, uid, gid, mode }
        }
        "env" if ["uid", "gid", "mode"].iter().any(|key| given.contains_key(key)) => {
            return Err(Error::invalid(
                "UID, GID, Mode options cannot be set with secret type env",
            ));
        }
        "env" => {
            let name = target.unwrap_or(&record.name).to_owned();
            if name.contains('=') {
                return Err(Error::invalid(format!("{name} cannot be a variable's name")));
            }
            SecretShown::Env { name }
        }
        other => {
            return Err(Error::invalid(format!("type {other} is invalid: error parsing secret"))
                .hint("a type is mount or env"));
        }
    };
    Ok(SecretGrant { id: record.id, name: record.name, shown })
}
