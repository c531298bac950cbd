//! `image referrers`.

use std::{collections::BTreeMap, process::ExitCode};

use serde_json::{Map, Value, json};

use super::{
    super::{
        args::registry::Referrers,
        output::{self, table, units},
    },
    registry::reach,
};
use crate::{engine::Engine, error::Result, image::registry::Referrer};

const STANDARD: &str = "{{.ArtifactType}}\t{{.Digest}}\t{{.Size}}\t{{.Subject}}";
const HEADERS: &[(&str, &str)] = &[
    ("ArtifactType", "ARTIFACT TYPE"),
    ("Digest", "DIGEST"),
    ("Size", "SIZE"),
    ("Subject", "SUBJECT"),
    ("Annotations", "ANNOTATIONS"),
];

pub fn referrers(engine: &Engine, args: &Referrers) -> Result<ExitCode> {
    let mut found =
        engine.referrers(&args.image, args.platform.as_deref(), &reach(&args.registry)?)?;
    if !args.artifact_type.is_empty() {
        found.retain(|referrer| args.artifact_type.contains(&referrer.artifact_type));
    }
    let format = match &args.format {
        None if args.quiet => Some("{{.Digest}}"),
        format => format.as_deref(),
    };
    let rows: Vec<table::Row> = found.iter().map(row).collect();
    let mut out = Vec::new();
    table::listing(&rows, format, STANDARD, HEADERS, &mut out)?;
    output::print(&String::from_utf8_lossy(&out))?;
    Ok(ExitCode::SUCCESS)
}

fn row(referrer: &Referrer) -> table::Row {
    let mut fields: Map<String, Value> = Map::new();
    for (key, value) in [
        ("ArtifactType", json!(referrer.artifact_type)),
        ("Digest", json!(referrer.digest)),
        ("Size", json!(units::short_size(referrer.size))),
        ("Subject", json!(referrer.subject.short())),
        ("Annotations", json!(referrer.annotations)),
    ] {
        fields.insert(key.to_owned(), value);
    }
    table::Row { fields, labels: BTreeMap::new() }
}
