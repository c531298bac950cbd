//! `system df`, `system check`, `system gc` and `system reset`.

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode};

use serde_json::{Map, Value, json};

use super::{
    super::{
        args::upkeep::{Check, Df, Gc, Reset},
        exit,
        output::{self, table, units, visible},
        prompt, value,
    },
    images, ps, store, volume,
};
use crate::{
    engine::{
        Engine,
        upkeep::{
            check::{How, Report, State},
            reset,
            usage::{DiskUsage, ImageUsage, Total},
        },
    },
    error::{Error, Result},
    state::Layout,
};

// ---- df -----------------------------------------------------------------------------------------

const TOTALS: &str = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
const HEADERS: [(&str, &str); 5] = [
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

pub fn df(engine: &Engine, args: &Df) -> Result<ExitCode> {
    let usage = engine.disk_usage()?;
    for err in &usage.damaged {
        exit::warn(&err.clone().context("something is not counted"));
    }
    let text = match (args.verbose, args.format.as_deref()) {
        (true, None | Some("" | "table")) => in_detail(engine, &usage)?,
        (true, Some("json")) => {
            let fields =
                |rows: Vec<table::Row>| rows.into_iter().map(|row| Value::Object(row.fields));
            let images: Vec<_> = fields(image_rows(&usage, true)).collect();
            let containers: Vec<_> =
                fields(ps::rows_for_df(engine, &usage.by_container, true)?).collect();
            let volumes: Vec<_> = fields(volume_rows(engine, &usage)).collect();
            json!({ "Images": images, "Containers": containers, "Volumes": volumes }).to_string()
                + "\n"
        }
        (true, Some(_)) => {
            return Err(Error::invalid("with -v the format is table or json")
                .hint("leave -v away to use a template"));
        }
        (false, format) => {
            let rows = [
                ("Images", usage.images),
                ("Containers", usage.containers),
                ("Local Volumes", usage.volumes),
                ("Partial Downloads", usage.downloads),
            ]
            .map(|(kind, total)| total_row(kind, &total));
            listing(&rows, format, TOTALS, &HEADERS)?
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn listing(
    rows: &[table::Row],
    format: Option<&str>,
    standard: &str,
    headers: &[(&str, &str)],
) -> Result<String> {
    let mut out = Vec::new();
    table::listing(rows, format, standard, headers, &mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn row<const N: usize>(cells: [(&str, String); N]) -> table::Row {
    let fields: Map<String, Value> =
        cells.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    table::Row { fields, labels: BTreeMap::new() }
}

fn total_row(kind: &str, total: &Total) -> table::Row {
    let share = match total.size {
        0 => String::new(),
        size => format!(" ({}%)", u128::from(total.reclaimable) * 100 / u128::from(size)),
    };
    row([
        ("Type", kind.to_owned()),
        ("TotalCount", total.count.to_string()),
        ("Active", total.active.to_string()),
        ("Size", units::human_size(total.size)),
        ("Reclaimable", format!("{}{share}", units::human_size(total.reclaimable))),
    ])
}

fn in_detail(engine: &Engine, usage: &DiskUsage) -> Result<String> {
    let images = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
    let containers = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
    let images = listing(&image_rows(usage, false), None, images, images::HEADERS)?;
    let rows = ps::rows_for_df(engine, &usage.by_container, false)?;
    let containers = listing(&rows, None, containers, &ps::HEADERS)?;
    let volumes = "{{.Name}}\t{{.Links}}\t{{.Size}}";
    let volumes = listing(&volume_rows(engine, usage), None, volumes, &volume::HEADERS)?;
    Ok(format!(
        "Images space usage:\n\n{images}\nContainers space usage:\n\n{containers}\nLocal Volumes space usage:\n\n{volumes}\nPartial downloads usage: {}\n",
        units::human_size(usage.downloads.size)
    ))
}

fn volume_rows(engine: &Engine, usage: &DiskUsage) -> Vec<table::Row> {
    let rows = usage.by_volume.iter().map(|(one, size)| {
        let mut row = volume::row(engine, &one.record);
        row.fields.insert("Links".to_owned(), json!(one.containers.to_string()));
        row.fields.insert("Size".to_owned(), json!(units::human_size(*size)));
        row
    });
    rows.collect()
}

fn image_rows(usage: &DiskUsage, whole: bool) -> Vec<table::Row> {
    let rows = |one: &ImageUsage| {
        let mut row = images::row(&one.image, one.image.names.first(), whole, one.containers);
        for (key, size) in [("SharedSize", one.shared), ("UniqueSize", one.unique)] {
            row.fields.insert(key.to_owned(), json!(units::human_size(size)));
        }
        row
    };
    usage.by_image.iter().map(rows).collect()
}

// ---- check --------------------------------------------------------------------------------------

pub fn check(engine: &Engine, args: &Check) -> Result<ExitCode> {
    if !["text", "json"].contains(&args.format.as_str()) {
        return Err(Error::invalid(format!("invalid argument {:?} for --format", args.format))
            .hint("a format is text or json"));
    }
    let how = How { repair: args.repair, force: args.force, quick: args.quick };
    let report = engine.check_store(how)?;
    output::print(&match args.format.as_str() {
        "json" => serde_json::to_string(&report)? + "\n",
        _ => check_text(&report),
    })?;
    Ok(exit::code((!report.is_whole()).into()))
}

fn check_text(report: &Report) -> String {
    let mut text = String::new();
    for fault in &report.faults {
        let state = match fault.state {
            State::Repaired => "repaired",
            State::Repairable => "damaged",
            State::Stays => "damaged",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{state:<8} {}: {}", visible(&fault.what), visible(&fault.wrong));
        let _ = writeln!(text, "{:9}fix: {}", "", visible(&fault.remedy));
    }
    let count = |state| report.faults.iter().filter(|fault| fault.state == state).count();
    let counts = format!(
        "{} images, {} layers, {} blobs, {} containers, {} volumes, {} networks",
        report.images,
        report.layers,
        report.blobs,
        report.containers,
        report.volumes,
        report.networks
    );
    let _ = match report.faults.len() {
        0 => writeln!(text, "The store is whole: {counts}."),
        faults => writeln!(
            text,
            "{faults} faults, {} repaired, {} left for --repair, {} left for you: {counts}.",
            count(State::Repaired),
            count(State::Repairable),
            count(State::Stays),
        ),
    };
    text
}

// ---- gc and reset -------------------------------------------------------------------------------

pub fn gc(engine: &Engine, args: &Gc) -> Result<ExitCode> {
    let keep = args.keep.as_deref().map(value::size::bytes).transpose()?.unwrap_or(u64::MAX);
    let pruned = engine.gc(keep)?;
    output::print(&store::tell(&pruned))?;
    output::print(&format!("Total reclaimed space: {}\n", units::human_size(pruned.reclaimed)))?;
    let left = engine.images_size()?;
    if left > keep {
        exit::note(&format!(
            "WARNING: images still take {}: containers are made of what is left",
            units::human_size(left)
        ));
    }
    Ok(exit::code((!pruned.failures.is_empty()).into()))
}

/// Looks for the mark before a store is made where there is none.
pub fn reset(layout: &Layout, args: &Reset) -> Result<ExitCode> {
    reset::check_mark(layout)?;
    let warning = format!(
        "This will remove:\n  - all containers\n  - all images\n  - all volumes and what is in them\n  - everything else of dhow's in {}\n",
        visible(&layout.root().display().to_string())
    );
    if !args.force && !prompt::agrees(&warning)? {
        return Ok(ExitCode::SUCCESS);
    }
    let engine = Engine::open(Some(layout.root().into()), Some(layout.run_root().into()))?;
    for stranger in engine.reset()?.strangers {
        exit::note(&format!("{} is left alone: it is nothing of dhow's", stranger.display()));
    }
    Ok(ExitCode::SUCCESS)
}
