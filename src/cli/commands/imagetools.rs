//! `buildx imagetools`: images and lists of registries.

use std::{fs, process::ExitCode};

use serde_json::{Map, Value, json};

use super::{
    super::{
        args::builder::{ImagetoolsCommand, ImagetoolsCreate, ImagetoolsInspect},
        output::{
            self,
            progress::Show,
            template::{Template, View},
            visible,
        },
        value::build as value,
    },
    registry::{reach, with_progress},
};
use crate::{
    engine::{
        Engine,
        imagetools::{Combine, Described, Source, platform_of},
    },
    error::{Context as _, Error, Result},
    oci::{Reference, media_type},
};

pub fn imagetools(engine: &Engine, command: &ImagetoolsCommand) -> Result<ExitCode> {
    match command {
        ImagetoolsCommand::Inspect(args) => inspect(engine, args)?,
        ImagetoolsCommand::Create(args) => create(engine, args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn create(engine: &Engine, args: &ImagetoolsCreate) -> Result<()> {
    if args.sources.is_empty() && args.file.is_empty() {
        return Err(Error::invalid("no sources specified"));
    }
    if !args.dry_run && args.tag.is_empty() {
        return Err(Error::invalid(
            "can't push with no tags specified, please set --tag or --dry-run",
        ));
    }
    let show = Show::parse(&args.progress, false)?;
    let names =
        args.tag.iter().map(|text| value::name(text)).collect::<Result<Vec<Reference>>>()?;
    let mut sources = Vec::new();
    if args.append {
        sources.extend(names.first().cloned().map(Source::Name));
    }
    for path in &args.file {
        let text = fs::read_to_string(path).at(path).doing("read a source")?;
        sources.push(Source::parse(&text)?);
    }
    for text in &args.sources {
        sources.push(Source::parse(text)?);
    }
    let annotations = args.annotation.iter().map(|text| value::annotation(text));
    let platforms = args.platform.iter().filter(|text| !text.is_empty()).map(|text| text.parse());
    let how = Combine {
        sources,
        names,
        annotations: annotations.collect::<Result<Vec<_>>>()?.concat(),
        platforms: platforms.collect::<Result<_>>()?,
        prefer_index: args.prefer_index.unwrap_or(true),
    };
    let reach = reach(&args.registry)?;
    let combined = engine.combine(&how, &reach)?;
    if args.dry_run {
        return output::print(&format!("{}\n", String::from_utf8_lossy(&combined.bytes)));
    }
    for name in &how.names {
        with_progress(show, |layers| engine.push_combined(&combined, name, &reach, layers))?;
    }
    Ok(())
}

fn inspect(engine: &Engine, args: &ImagetoolsInspect) -> Result<()> {
    let name: Reference = args.name.parse()?;
    let found = engine.described(&name, &reach(&args.registry)?)?;
    if args.raw {
        // Without an end of line, so that its digest is that of what is printed.
        return output::print(&String::from_utf8_lossy(&found.document.bytes));
    }
    match args.format.as_deref().filter(|format| !format.is_empty()) {
        None => output::print(&table(&found)?),
        Some(format) => output::print(&formatted(&found, format)?),
    }
}

fn table(found: &Described) -> Result<String> {
    let mut text = format!(
        "Name:      {}\nMediaType: {}\nDigest:    {}\n",
        found.name,
        visible(&found.media_type),
        found.document.digest
    );
    let manifests = found.manifests()?;
    if media_type::document(&found.media_type)? == media_type::Document::Manifest {
        return Ok(text);
    }
    // As Go's tabwriter leaves it, with the widths of each block.
    text.push_str("           \nManifests: \n");
    let mut rows: Vec<(String, String)> = Vec::new();
    for (at, entry) in manifests.iter().enumerate() {
        if at > 0 {
            rows.push((String::new(), String::new()));
        }
        let word = |key: &str| visible(entry[key].as_str().unwrap_or_default()).into_owned();
        // The tag stays beside the digest.
        let tag = found.name.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        let name = format!("{}{tag}@{}", found.name.repository(), word("digest"));
        rows.push(("  Name:".into(), name));
        rows.push(("  MediaType:".into(), word("mediaType")));
        if entry["platform"].is_object() {
            let platform = platform_of(&entry["platform"]);
            let shown = platform.map_or_else(|| "unknown/unknown".into(), |one| one.to_string());
            rows.push(("  Platform:".into(), shown));
            if let Some(version) = entry["platform"]["os.version"].as_str() {
                rows.push(("  OSVersion:".into(), visible(version).into_owned()));
            }
        }
        let notes: Vec<_> = entry["annotations"].as_object().into_iter().flatten().collect();
        if !notes.is_empty() {
            rows.push(("  Annotations:".into(), String::new()));
        }
        for (key, value) in notes {
            let value = value.as_str().unwrap_or_default();
            rows.push((format!("    {}:", visible(key)), visible(value).into_owned()));
        }
    }
    let width = rows.iter().map(|(key, _)| key.chars().count() + 1).max().unwrap_or_default();
    for (key, value) in rows {
        text.push_str(&format!("{key:width$}{value}\n"));
    }
    Ok(text)
}

fn formatted(found: &Described, format: &str) -> Result<String> {
    let is_asked = |word: &str| format.contains(word) || format.contains("json .}");
    let mut manifest: Value = match media_type::document(&found.media_type)? {
        media_type::Document::Index => serde_json::from_slice(&found.document.bytes)?,
        media_type::Document::Manifest => json!({ "mediaType": found.media_type }),
    };
    manifest["digest"] = json!(found.document.digest);
    manifest["size"] = json!(found.document.bytes.len());
    let mut data = json!({ "Name": found.name.to_string(), "Manifest": manifest });
    if is_asked(".Image") {
        data["Image"] = found.images()?;
    }
    if is_asked(".Provenance") {
        data["Provenance"] = found.statements("https://slsa.dev/provenance/", "SLSA")?;
    }
    if is_asked(".SBOM") {
        data["SBOM"] = found.statements("https://spdx.dev/Document", "SPDX")?;
    }
    // Templates name Go's fields, JSON the documents' own.
    let data = match format.contains("json ") {
        true if format.contains("json .}") => lowered(data),
        true => data,
        false => capitalised(data),
    };
    let text = Template::parse(format)?.render(&data, View { strict: true, ..View::default() })?;
    Ok(format!("{text}\n"))
}

/// The top's own names as they are in JSON.
fn lowered(data: Value) -> Value {
    let Value::Object(fields) = data else { return data };
    let name = |key: String| if key == "SBOM" { key } else { key.to_ascii_lowercase() };
    Value::Object(fields.into_iter().map(|(key, value)| (name(key), value)).collect())
}

/// Names as Go has them, but those that are somebody's own.
fn capitalised(data: Value) -> Value {
    match data {
        Value::Object(fields) => {
            let one = |(key, value): (String, Value)| {
                let is_own = ["Labels", "annotations", "ExposedPorts", "Volumes"];
                let value = if is_own.contains(&&*key) { value } else { capitalised(value) };
                let is_name = !key.contains(['/', '.', '-']);
                let mut letters = key.chars();
                let name = match letters.next().filter(|_| is_name) {
                    Some(_) if key == "os" => "OS".to_owned(),
                    Some(first) => first.to_ascii_uppercase().to_string() + letters.as_str(),
                    None => key,
                };
                (name, value)
            };
            Value::Object(fields.into_iter().map(one).collect::<Map<_, _>>())
        }
        Value::Array(list) => list.into_iter().map(capitalised).collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_in_go() {
        let data = json!({ "mediaType": "x", "os": "linux", "a/b": { "Labels": { "k": 1 } } });
        let expected = json!({ "MediaType": "x", "OS": "linux", "a/b": { "Labels": { "k": 1 } } });
        assert_eq!(capitalised(data), expected);
        assert_eq!(lowered(json!({ "Name": 1, "SBOM": 2 })), json!({ "name": 1, "SBOM": 2 }));
    }
}
