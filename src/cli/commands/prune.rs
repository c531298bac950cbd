//! `container prune`, and the question before everything that removes without being told names.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use jiff::Zoned;

use super::super::{
    args::life::Prune,
    exit,
    output::{self, units},
    value::time,
};
use crate::{
    engine::{Engine, container::prune::PruneFilters},
    error::{Context as _, Error, Result},
};

pub fn containers(engine: &Engine, args: &Prune) -> Result<ExitCode> {
    let filters = filters(&args.filter)?;
    let warning = "WARNING! This will remove all stopped containers.";
    if !args.force && !agreed(warning)? {
        return Ok(ExitCode::SUCCESS);
    }
    let pruned = engine.prune_containers(&filters)?;
    let mut text = String::new();
    if !pruned.removed.is_empty() {
        text.push_str("Deleted Containers:\n");
        for id in &pruned.removed {
            text.push_str(&format!("{id}\n"));
        }
        text.push('\n');
    }
    text.push_str(&format!("Total reclaimed space: {}\n", units::human_size(pruned.freed)));
    output::print(&text)?;
    for err in &pruned.failed {
        exit::report(err);
    }
    Ok(exit::code((!pruned.failed.is_empty()).into()))
}

fn filters(typed: &[String]) -> Result<PruneFilters> {
    let mut filters = PruneFilters::default();
    let now = Zoned::now();
    for text in typed {
        let label = |text: &str| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text.to_owned(), None),
        };
        if let Some(without) = text.strip_prefix("label!=") {
            filters.without.push(label(without));
        } else if let Some(with) = text.strip_prefix("label=") {
            filters.labels.push(label(with));
        } else if let Some(until) = text.strip_prefix("until=") {
            filters.until = Some(time::moment(until, &now)?);
        } else {
            return Err(Error::invalid(format!("invalid filter {text:?}"))
                .hint("filters are until=TIME, label=KEY[=VALUE] and label!=KEY[=VALUE]"));
        }
    }
    Ok(filters)
}

/// Asks on standard error, so that standard output stays what was asked for.
fn agreed(warning: &str) -> Result<bool> {
    let question = format!("{warning}\nAre you sure you want to continue? [y/N] ");
    io::stderr().write_all(question.as_bytes()).doing("ask")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).doing("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
