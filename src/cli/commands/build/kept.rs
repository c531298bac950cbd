//! `buildx du` and `builder prune`: what builds have kept.

use std::process::ExitCode;

use serde_json::json;

use super::super::super::{
    args::build::{BuilderDu, BuilderPrune},
    output::{self, table, units, visible},
    prompt,
    value::{build as value, size, time},
};
use crate::{
    engine::{
        Engine,
        build::{KeptPart, Room, Selection},
    },
    error::{Context as _, Result},
};

const STANDARD: &str = "{{.ID}}\t{{.Reclaimable}}\t{{.Size}}\t{{.LastUsedAt}}";
const HEADERS: [(&str, &str); 10] = [
    ("ID", "ID"),
    ("CreatedAt", "CREATED AT"),
    ("Description", "DESCRIPTION"),
    ("LastUsedAt", "LAST ACCESSED"),
    ("Mutable", "MUTABLE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Shared", "SHARED"),
    ("Size", "SIZE"),
    ("Type", "TYPE"),
    ("InUse", "IN USE"),
];

pub fn du(engine: &Engine, args: &BuilderDu) -> Result<ExitCode> {
    let kept = engine.build_cache(&selection(&args.filter)?)?;
    let mut text = match args.verbose {
        true => kept.iter().map(one_by_one).collect(),
        false => rows(&kept, args.format.as_deref())?,
    };
    if args.format.is_none() {
        let sum = |wanted: fn(&&KeptPart) -> bool| {
            units::human_size(kept.iter().filter(wanted).map(|one| one.size).sum())
        };
        text.push_str(&format!(
            "Reclaimable:\t{}\nTotal:\t\t{}\n",
            sum(|one| !one.in_use),
            sum(|_| true)
        ));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub fn prune(engine: &Engine, args: &BuilderPrune) -> Result<ExitCode> {
    let selection = selection(&args.filter)?;
    let bytes = |text: &Option<String>, flag: &str| {
        text.as_deref().map(size::bytes).transpose().doing_with(|| flag.to_owned())
    };
    let room = Room {
        reserved: bytes(&args.reserved_space, "--reserved-space")?.unwrap_or(0),
        used: bytes(&args.max_used_space, "--max-used-space")?.filter(|bytes| *bytes > 0),
        free: bytes(&args.min_free_space, "--min-free-space")?.filter(|bytes| *bytes > 0),
    };
    if !args.force && !prompt::agrees("This will remove all build cache.")? {
        return Ok(ExitCode::SUCCESS);
    }
    let (gone, size) = engine.prune_builds(&selection, &room)?;
    let mut text = match (args.verbose, gone.is_empty()) {
        (true, _) => gone.iter().map(one_by_one).collect(),
        (false, true) => String::new(),
        (false, false) => rows(&gone, None)?,
    };
    text.push_str(&format!("Total:\t{}\n", units::human_size(size)));
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn selection(filters: &[String]) -> Result<Selection> {
    let mut selection = Selection::default();
    for text in filters {
        match text.split_once('=') {
            Some(("until" | "unused-for", age)) => {
                selection.until = Some(time::moment(age, &jiff::Zoned::now())?);
            }
            _ => selection.filters.push(value::kept(text)?),
        }
    }
    Ok(selection)
}

fn rows(kept: &[KeptPart], format: Option<&str>) -> Result<String> {
    // For people sizes and times are short; for programs they are whole.
    let is_table = format.is_none_or(|format| format.is_empty() || format.starts_with("table"));
    let row = |one: &KeptPart| {
        let fields = json!({
            "ID": one.id,
            "CreatedAt": one.made.to_string(),
            "Description": one.label,
            "InUse": one.in_use,
            "LastUsedAt": if is_table { last_used(one) } else { one.used.to_string() },
            "Mutable": one.is_mutable(),
            "Reclaimable": !one.in_use,
            "Shared": is_shared(one),
            "Size": units::human_size(one.size),
            "Type": one.kind,
        });
        let fields = fields.as_object().cloned().unwrap_or_default();
        table::Row { fields, ..table::Row::default() }
    };
    let rows: Vec<table::Row> = kept.iter().map(row).collect();
    table::listed(&rows, format, STANDARD, &HEADERS, false)
}

/// Everything that is known of it.
fn one_by_one(one: &KeptPart) -> String {
    format!(
        "ID:\t\t{}\nCreated at:\t{}\nMutable:\t{}\nReclaimable:\t{}\nShared:\t\t{}\nSize:\t\t{}\n\
         Description:\t{}\nLast used:\t{}\nType:\t\t{}\n\n",
        one.id,
        one.made,
        one.is_mutable(),
        !one.in_use,
        is_shared(one),
        units::human_size(one.size),
        visible(&one.label),
        last_used(one),
        one.kind
    )
}

/// An image has it, too.
fn is_shared(one: &KeptPart) -> bool {
    one.in_use && !one.is_mutable()
}

fn last_used(one: &KeptPart) -> String {
    let ago = jiff::Timestamp::now().duration_since(one.used);
    units::ago(ago.try_into().unwrap_or_default())
}
