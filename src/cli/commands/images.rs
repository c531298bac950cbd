//! What images there are and what they are made of: `images`, `history`, `image tree`.

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode};

use jiff::{Timestamp, Zoned};
use serde_json::{Map, Value, json};

use super::super::{
    args::store::{History, Images, Tree},
    exit,
    output::{self, table, units, visible},
    value,
};
use crate::{
    engine::{
        Engine,
        image::{
            filter::{fits, made},
            history::Step,
            tree::Node,
        },
    },
    error::{Error, Result},
    image::{Image, NameRecord},
    oci::Digest,
};

const FILTERS: [&str; 6] = ["before", "dangling", "label", "reference", "since", "until"];

pub fn images(engine: &Engine, args: &Images) -> Result<ExitCode> {
    let typed: Vec<_> =
        args.filter.iter().map(|text| value::env::filter(text)).collect::<Result<_>>()?;
    let now = Zoned::now();
    let moment = |text: &str| value::time::moment(text, &now);
    let filters = engine.image_filters(&typed, &FILTERS, &moment)?;
    let typed = args.reference.as_deref().map(|typed| meant(engine, typed)).unwrap_or_default();
    let wanted: Vec<&str> = filters.references().chain(typed.iter().map(String::as_str)).collect();
    let listing = engine.store.listing()?;
    for err in &listing.damaged {
        exit::warn(&err.clone().context("an image is not listed, or not by all its names"));
    }
    let mut list = listing.images;
    list.retain(|image| filters.admits(engine, image));
    // Docker: the youngest first.
    list.sort_by_key(|image| std::cmp::Reverse(image.record.created));
    sort(&mut list, &args.sort)?;
    let text = match () {
        () if args.tree => forest(engine, &list, &wanted, args)?,
        () if args.quiet && args.format.is_none() => ids(&list, &wanted, args.no_trunc),
        () => rows(engine, &list, &wanted, args)?,
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// `--sort`, podman's; the list comes with the youngest first.
fn sort(list: &mut [Image], key: &str) -> Result<()> {
    let named = |image: &Image, part: fn(&NameRecord) -> String| image.names.iter().map(part).min();
    match key {
        "created" => {}
        "id" => list.sort_by(|one, other| one.record.id.cmp(&other.record.id)),
        "size" => list.sort_by_key(|image| image.record.size),
        "repository" => {
            list.sort_by_key(|image| named(image, |named| named.name.familiar_repository()));
        }
        "tag" => {
            let tag = |named: &NameRecord| named.name.tag().unwrap_or_default().to_owned();
            list.sort_by_key(|image| named(image, tag));
        }
        other => {
            return Err(Error::invalid(format!("{other} is not a valid field for sorting"))
                .hint("there are created, id, repository, size and tag"));
        }
    }
    Ok(())
}

/// What was typed, and what the machine's short names say it stands for.
fn meant(engine: &Engine, typed: &str) -> Vec<String> {
    let mut all = vec![typed.to_owned()];
    let has_tag = typed.rsplit('/').next().unwrap_or_default().contains([':', '@']);
    // A pattern is no name, and stands for none.
    for meaning in engine.meanings(typed).unwrap_or_default() {
        all.push(match has_tag {
            true => meaning.familiar(),
            false => meaning.familiar_repository(),
        });
    }
    all
}

fn ids(list: &[Image], wanted: &[&str], whole: bool) -> String {
    let shown = list.iter().filter(|image| names(image, wanted).next().is_some());
    let mut lines: Vec<String> = shown.map(|image| id(&image.record.id, whole)).collect();
    lines.dedup();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn rows(engine: &Engine, list: &[Image], wanted: &[&str], args: &Images) -> Result<String> {
    let format = args.format.as_deref();
    // Only a template or json shows them.
    let counts = match format.is_some_and(|format| !format.is_empty() && format != "table") {
        true => containers(engine)?,
        false => BTreeMap::new(),
    };
    let rows: Vec<table::Row> = list
        .iter()
        .flat_map(|image| {
            let count = counts.get(&image.record.id).copied().unwrap_or(0);
            names(image, wanted).map(move |name| row(image, name, args.no_trunc, count))
        })
        .collect();
    let standard = match args.digests {
        true => "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        false => "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    };
    table::listed(&rows, format, standard, HEADERS, args.noheading)
}

/// How many containers are made of each image.
fn containers(engine: &Engine) -> Result<BTreeMap<Digest, usize>> {
    let query = crate::engine::container::list::Query { all: true, ..Default::default() };
    let mut counts = BTreeMap::new();
    for container in engine.containers(&query)?.containers {
        *counts.entry(container.image_id).or_default() += 1;
    }
    Ok(counts)
}

pub(super) const HEADERS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

/// The names to show, one line each; an image without any has one line all the same.
fn names<'a>(image: &'a Image, wanted: &'a [&str]) -> impl Iterator<Item = Option<&'a NameRecord>> {
    let nameless = image.names.is_empty() && wanted.is_empty();
    let matches = move |named: &&NameRecord| {
        wanted.is_empty() || wanted.iter().any(|wanted| fits(named, wanted))
    };
    image.names.iter().filter(matches).map(Some).chain(nameless.then_some(None))
}

fn id(id: &Digest, whole: bool) -> String {
    if whole { id.to_string() } else { id.short().to_owned() }
}

pub(super) fn row(
    image: &Image,
    named: Option<&NameRecord>,
    whole: bool,
    containers: usize,
) -> table::Row {
    let none = || "<none>".to_owned();
    let mut fields: Map<String, Value> = Map::new();
    for (key, value) in [
        ("ID", id(&image.record.id, whole)),
        ("Repository", named.map_or_else(none, |n| n.name.familiar_repository())),
        ("Tag", named.and_then(|n| n.name.tag()).map_or_else(none, str::to_owned)),
        ("Digest", named.and_then(|n| n.digest.as_ref()).map_or_else(none, ToString::to_string)),
        ("CreatedSince", image.record.created.map_or_else(|| "N/A".to_owned(), ago)),
        ("CreatedAt", made(image).strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()),
        ("Size", units::short_size(image.record.size)),
        ("VirtualSize", units::human_size(image.record.size)),
        ("Containers", containers.to_string()),
        // Docker: only `system df -v` looks for them.
        ("SharedSize", "N/A".to_owned()),
        ("UniqueSize", "N/A".to_owned()),
    ] {
        fields.insert(key.to_owned(), json!(value));
    }
    table::Row { fields, labels: BTreeMap::new() }
}

fn ago(moment: Timestamp) -> String {
    // A clock that was set back must not make the past the future.
    units::ago(std::time::Duration::try_from(Timestamp::now() - moment).unwrap_or_default())
}

/// `images --tree`: each image once, under all its names, and what it runs on.
fn forest(engine: &Engine, list: &[Image], wanted: &[&str], args: &Images) -> Result<String> {
    for (given, flag) in [
        (args.digests, "--digests"),
        (args.quiet, "--quiet"),
        (args.no_trunc, "--no-trunc"),
        (args.format.is_some(), "--format"),
    ] {
        if given {
            return Err(Error::invalid(format!("{flag} is not yet supported with --tree")));
        }
    }
    let used = containers(engine)?;
    let mut lines = vec![["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"].map(str::to_owned)];
    for image in list {
        let mut names: Vec<String> = names(image, wanted)
            .map(|name| name.map_or_else(|| "<untagged>".to_owned(), |n| n.name.familiar()))
            .collect();
        let Some(last) = names.pop() else { continue };
        lines.extend(
            names.into_iter().map(|name| [name, "".into(), "".into(), "".into(), "".into()]),
        );
        let content = engine.store.content_size(&image.record);
        let sizes = [content.saturating_add(image.record.size), content].map(units::short_size);
        let extra = if used.contains_key(&image.record.id) { "U" } else { "" };
        let [disk, content] = &sizes;
        let line = |name: String, id: &Digest| {
            [name, id.short().to_owned(), disk.clone(), content.clone(), extra.to_owned()]
        };
        lines.push(line(last, &image.record.id));
        lines.push(line(format!("└─ {}", image.record.platform), &image.record.manifest));
    }
    if args.noheading {
        lines.remove(0);
    }
    Ok(columns(&lines))
}

/// Names to the left, sizes to the right, each column as wide as it must be.
fn columns(lines: &[[String; 5]]) -> String {
    let width = |column: usize| {
        lines.iter().map(|line| visible(&line[column]).chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; 4] = std::array::from_fn(width);
    let mut text = String::new();
    for [name, id, disk, content, extra] in lines {
        let line = format!(
            "{:w0$}   {id:w1$}   {disk:>w2$}   {content:>w3$}   {extra}",
            visible(name),
            w0 = widths[0],
            w1 = widths[1],
            w2 = widths[2],
            w3 = widths[3],
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

// ---- history ------------------------------------------------------------------------------------

const HISTORY: &str = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const HISTORY_EXACT: &str = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";

pub fn history(engine: &Engine, args: &History) -> Result<ExitCode> {
    let image = engine.image_for(&args.image, args.platform.as_deref())?;
    let steps = engine.history(&image)?;
    let rows: Vec<table::Row> = steps.iter().map(|step| history_row(step, args)).collect();
    let headers = [
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ];
    let standard = if args.human { HISTORY } else { HISTORY_EXACT };
    let format = match &args.format {
        None if args.quiet => Some("{{.ID}}"),
        format => format.as_deref(),
    };
    let mut out = Vec::new();
    table::listing(&rows, format, standard, &headers, &mut out)?;
    output::print(&String::from_utf8_lossy(&out))?;
    Ok(ExitCode::SUCCESS)
}

fn history_row(step: &Step, args: &History) -> table::Row {
    let mut by = step.created_by.replace('\t', " ");
    if !args.no_trunc && by.chars().count() > 45 {
        by = by.chars().take(44).chain(['…']).collect();
    }
    let mut fields: Map<String, Value> = Map::new();
    for (key, value) in [
        ("ID", step.image.as_ref().map_or("<missing>".into(), |image| id(image, args.no_trunc))),
        ("CreatedSince", step.created.map_or_else(|| "N/A".to_owned(), ago)),
        (
            "CreatedAt",
            step.created
                .map_or_else(String::new, |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        ),
        ("CreatedBy", by),
        (
            "Size",
            match args.human {
                true => units::short_size(step.size),
                false => step.size.to_string(),
            },
        ),
        ("Comment", step.comment.clone()),
    ] {
        fields.insert(key.to_owned(), json!(value));
    }
    table::Row { fields, labels: BTreeMap::new() }
}

// ---- tree ---------------------------------------------------------------------------------------

pub fn tree(engine: &Engine, args: &Tree) -> Result<ExitCode> {
    let image = engine.image(&args.image)?;
    let names: Vec<_> = image.names.iter().map(|named| named.name.familiar()).collect();
    let mut text = format!(
        "Image ID: {}\nTags:     [{}]\nSize:     {}\n",
        image.record.id.short(),
        names.join(" "),
        units::short_size(image.record.size)
    );
    let root = match args.whatrequires {
        true => engine.dependents(&image)?,
        false => engine.layer_tree(&image)?,
    };
    match root {
        Some(root) => {
            text.push_str("Image Layers\n");
            branch(&root, "", true, &mut text);
        }
        None => text.push_str("No Image Layers\n"),
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// One layer's line and those of its children. A chain is drawn straight down, as podman does.
fn branch(node: &Node, indent: &str, last: bool, text: &mut String) {
    let straight = node.children.len() == 1;
    let mark = if last && !straight { "└──" } else { "├──" };
    let top = match node.top_of.is_empty() {
        true => String::new(),
        false => format!(" Top Layer of: [{}]", visible(&node.top_of.join(" "))),
    };
    let size = units::human_size(node.size);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{indent}{mark} ID: {} Size: {size}{top}", node.chain_id.short());
    let deeper = match straight {
        true => indent.to_owned(),
        false => format!("{indent}{}", if last { "    " } else { "│   " }),
    };
    for (at, child) in node.children.iter().enumerate() {
        branch(child, &deeper, at + 1 == node.children.len(), text);
    }
}
