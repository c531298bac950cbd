//! `container prune` and `system prune`.

use std::{collections::BTreeMap, process::ExitCode};

use jiff::{Timestamp, Zoned};

use super::{
    super::{
        args::{life::Prune, upkeep},
        exit,
        output::{self, units},
        prompt,
        value::{self, time},
    },
    network, store, volume,
};
use crate::{
    engine::{
        Engine, build,
        container::prune::{PruneFilters, Pruned},
        image::filter::ImageFilters,
    },
    error::{Error, Result},
};

pub fn containers(engine: &Engine, args: &Prune) -> Result<ExitCode> {
    let filters = filters(&args.filter)?;
    if !args.force && !prompt::agrees("This will remove all stopped containers.")? {
        return Ok(ExitCode::SUCCESS);
    }
    let pruned = engine.prune_containers(&filters)?;
    output::print(&format!(
        "{}Total reclaimed space: {}\n",
        tell(&pruned),
        units::human_size(pruned.freed)
    ))?;
    Ok(exit::code((!pruned.failed.is_empty()).into()))
}

/// What was pruned, in docker's words; failures go to stderr.
fn tell(pruned: &Pruned) -> String {
    pruned.failed.iter().for_each(exit::report);
    if pruned.removed.is_empty() {
        return String::new();
    }
    let ids: String = pruned.removed.iter().map(|id| format!("{id}\n")).collect();
    format!("Deleted Containers:\n{ids}\n")
}

/// `system prune`: containers first, since images go that no container is made of any more.
pub fn system(engine: &Engine, args: &upkeep::Prune) -> Result<ExitCode> {
    let containers = filters(&args.filter)?;
    let images = image_filters(engine, &args.filter, &["label", "label!", "until"])?;
    let which = match args.all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    };
    let volumes = match args.volumes {
        true if args.filter.iter().any(|filter| filter.starts_with("until=")) => {
            return Err(Error::invalid("The \"until\" filter is not supported with \"--volumes\""));
        }
        true => Some(volume::filters(engine, &args.filter, &["label", "label!"])?),
        false => None,
    };
    let too = match volumes {
        Some(_) => "  - all anonymous volumes not used by at least one container\n",
        None => "",
    };
    // Steps of builds have nothing to filter by.
    let with_builds = args.filter.is_empty();
    let builds = if with_builds { "  - unused build cache\n" } else { "" };
    let warning = format!(
        "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n{too}  - {which}\n{builds}"
    );
    if !args.force && !prompt::agrees(&warning)? {
        return Ok(ExitCode::SUCCESS);
    }
    let filters = containers;
    let containers = engine.prune_containers(&filters)?;
    output::print(&tell(&containers))?;
    let networks =
        engine.prune_networks(|network| !admits(&filters, &network.labels, network.created));
    output::print(&networks.as_deref().map(network::tell).unwrap_or_default())?;
    let volumes = volumes.map(|filters| engine.prune_volumes(false, &filters)).transpose()?;
    let volumes = volumes.unwrap_or_default();
    output::print(&volume::tell(&volumes))?;
    let images = engine.prune_images(args.all, &images)?;
    output::print(&store::tell(&images))?;
    let (steps, cache) = if with_builds {
        engine.prune_builds(&build::Selection::default(), &build::Room::default())?
    } else {
        (Vec::new(), 0)
    };
    if !steps.is_empty() {
        let ids: String = steps.iter().map(|step| format!("{}\n", step.id)).collect();
        output::print(&format!("Deleted build cache objects:\n{ids}\n"))?;
    }
    let size = containers.freed + volumes.freed + images.reclaimed + cache;
    output::print(&format!("Total reclaimed space: {}\n", units::human_size(size)))?;
    let failed =
        !containers.failed.is_empty() || !volumes.failed.is_empty() || !images.failures.is_empty();
    // One that somebody has just begun to use.
    networks.as_ref().err().into_iter().for_each(exit::warn);
    Ok(exit::code((failed || networks.is_err()).into()))
}

/// Whether something with these labels, made then, is meant.
pub(super) fn admits(
    filters: &PruneFilters,
    labels: &BTreeMap<String, String>,
    created: Timestamp,
) -> bool {
    let has = |(key, value): &(String, Option<String>)| {
        let own = labels.get(key);
        own.is_some_and(|own| value.as_ref().is_none_or(|value| own == value))
    };
    filters.labels.iter().all(has)
        && !filters.without.iter().any(has)
        && filters.until.is_none_or(|until| created <= until)
}

/// Reads `--filter` of the verbs that prune images.
pub(super) fn image_filters(
    engine: &Engine,
    typed: &[String],
    known: &[&str],
) -> Result<ImageFilters> {
    let typed: Vec<_> = typed.iter().map(|text| value::env::filter(text)).collect::<Result<_>>()?;
    let now = Zoned::now();
    engine.image_filters(&typed, known, &|text: &str| time::moment(text, &now))
}

/// `--filter` of what is pruned.
pub(super) fn filters(typed: &[String]) -> Result<PruneFilters> {
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
