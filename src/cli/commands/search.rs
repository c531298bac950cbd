//! `search`.

use std::{collections::BTreeMap, process::ExitCode};

use serde_json::{Map, Value, json};

use super::{
    super::{
        args::registry::Search,
        exit,
        output::{self, table},
        value,
    },
    registry::reach,
};
use crate::{
    engine::search::{self, Hit},
    error::{Error, Result},
};

/// Docker's, and its most for a search.
const LIMIT: usize = 25;
const LIMIT_MAX: usize = 100;

const HEADERS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("Tag", "TAG"),
];

/// What `--filter` admits.
#[derive(Debug, Default)]
struct Filter {
    stars: u64,
    official: Option<bool>,
    /// Nothing has been built automatically since Docker Hub stopped saying so.
    nothing: bool,
}

pub fn search(args: &Search) -> Result<ExitCode> {
    let limit = match args.limit {
        None | Some(..=0) => LIMIT,
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    if args.list_tags {
        return list_tags(args, limit);
    }
    if limit > LIMIT_MAX {
        return Err(Error::invalid(format!(
            "limit {limit} is outside the range of [1, {LIMIT_MAX}]"
        )));
    }
    let filter = filter(&args.filter)?;
    let (hits, failures) = search::search(&args.term, limit, &reach(&args.registry)?)?;
    failures.iter().for_each(exit::warn);
    let is_json = args.format.as_deref() == Some("json");
    let rows: Vec<table::Row> = hits
        .iter()
        .filter(|hit| filter.admits(hit))
        .map(|hit| row(hit, args.no_trunc, is_json))
        .collect();
    print(&rows, args, "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}")
}

fn print(rows: &[table::Row], args: &Search, standard: &str) -> Result<ExitCode> {
    let mut out = Vec::new();
    table::listing(rows, args.format.as_deref(), standard, HEADERS, &mut out)?;
    output::print(&String::from_utf8_lossy(&out))?;
    Ok(ExitCode::SUCCESS)
}

impl Filter {
    fn admits(&self, hit: &Hit) -> bool {
        !self.nothing
            && hit.found.stars >= self.stars
            && self.official.is_none_or(|wanted| hit.found.official == wanted)
    }
}

fn filter(typed: &[String]) -> Result<Filter> {
    let mut filter = Filter::default();
    for text in typed {
        let (key, wanted) = value::env::filter(text)?;
        let truth = || match wanted.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(Error::invalid(format!("invalid filter '{key}=[{wanted}]'"))),
        };
        match key.as_str() {
            "stars" => {
                let stars = wanted.parse::<u64>().map_err(|_| {
                    Error::invalid(format!("invalid filter 'stars={wanted}'"))
                        .hint("it wants a number: --filter stars=100")
                })?;
                filter.stars = filter.stars.max(stars);
            }
            "is-official" => filter.official = Some(truth()?),
            "is-automated" => {
                exit::note("WARNING: the \"is-automated\" filter is deprecated: no image is.");
                filter.nothing |= truth()?;
            }
            _ => {
                return Err(Error::invalid(format!("invalid filter '{key}'"))
                    .hint("there are stars and is-official"));
            }
        }
    }
    Ok(filter)
}

fn row(hit: &Hit, whole: bool, is_json: bool) -> table::Row {
    let mut description = hit.found.description.replace(['\n', '\r'], " ");
    if !whole && description.chars().count() > 45 {
        description = description.chars().take(44).chain(['…']).collect();
    }
    let official = match (hit.found.official, is_json) {
        (official, true) => official.to_string(),
        (true, false) => "[OK]".to_owned(),
        (false, false) => String::new(),
    };
    let stars = hit.found.stars.to_string();
    fields([
        ("Name", &hit.name),
        ("Description", &description),
        ("StarCount", &stars),
        ("IsOfficial", &official),
    ])
}

fn fields<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a String)>) -> table::Row {
    let fields: Map<String, Value> =
        pairs.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    table::Row { fields, labels: BTreeMap::new() }
}

/// Podman's `--list-tags`.
fn list_tags(args: &Search, limit: usize) -> Result<ExitCode> {
    if !args.filter.is_empty() {
        return Err(Error::invalid("filters are not applicable to list tags result"));
    }
    let (name, mut tags) = search::list_tags(&args.term, &reach(&args.registry)?)?;
    tags.truncate(limit);
    if args.format.as_deref() == Some("json") {
        let text = format!("{:#}\n", json!([{ "Name": name, "Tags": tags }]));
        return output::print(&text).map(|()| ExitCode::SUCCESS);
    }
    let rows: Vec<_> = tags.iter().map(|tag| fields([("Name", &name), ("Tag", tag)])).collect();
    print(&rows, args, "{{.Name}}\t{{.Tag}}")
}
