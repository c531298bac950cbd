//! `build --call` and `--check`: what a Dockerfile says, in BuildKit's words.

use std::process::ExitCode;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::super::super::{
    exit,
    output::{self, visible},
};
use crate::{
    build::{Source, lint::Warning},
    engine::{
        Engine,
        build::{BuildRequest, Checked, Listed, Outline, OutlineSecret},
    },
    error::{Error, Result},
};

/// What `--call` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Build,
    Check,
    Outline,
    Targets,
}

/// `METHOD[,format=json|text]`, and whether it is to be JSON.
pub(super) fn parse(text: &str) -> Result<(Call, bool)> {
    let (method, rest) = text.split_once(',').unwrap_or((text, ""));
    let call = match method {
        "" | "build" => Call::Build,
        "check" | "lint" => Call::Check,
        "outline" => Call::Outline,
        "targets" => Call::Targets,
        other => {
            return Err(Error::invalid(format!("invalid call {other:?}"))
                .hint("there are build, check, outline and targets"));
        }
    };
    match rest {
        "" | "format=text" => Ok((call, false)),
        "format=json" => Ok((call, true)),
        other => Err(Error::invalid(format!("invalid call option {other:?}"))
            .hint("there are format=text and format=json")),
    }
}

pub(super) fn call(
    engine: &Engine,
    request: &BuildRequest<'_>,
    call: Call,
    as_json: bool,
) -> Result<ExitCode> {
    let source = &request.dockerfile;
    match call {
        Call::Build => Err(Error::engine("a build is no call")),
        Call::Check => check(&engine.check_build(request)?, source, as_json),
        Call::Targets => {
            let listed = engine.targets_of_build(request)?;
            let text = match as_json {
                true => targets_json(&listed, source)?,
                false => targets(&listed),
            };
            output::print(&text).map(|()| ExitCode::SUCCESS)
        }
        Call::Outline => {
            let outline_of = engine.outline_of_build(request)?;
            let text = match as_json {
                true => outline_json(&outline_of, source)?,
                false => outline(&outline_of),
            };
            output::print(&text).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn check(checked: &Checked, source: &Source, as_json: bool) -> Result<ExitCode> {
    let text = match as_json {
        true => check_json(checked, source)?,
        // What cannot be read is told of below.
        false if checked.broken.is_some() && checked.warnings.is_empty() => String::new(),
        false => {
            let mut text = match checked.warnings.len() {
                0 => "Check complete, no warnings found.\n".to_owned(),
                1 => "Check complete, 1 warning has been found!\n".to_owned(),
                count => format!("Check complete, {count} warnings have been found!\n"),
            };
            for warning in &checked.warnings {
                text.push_str(&format!(
                    "\nWARNING: {}{}\n{}\n{}",
                    warning.rule.name,
                    warning.rule.url().map_or_else(String::new, |url| format!(" - {url}")),
                    visible(&warning.detail),
                    excerpt(source, warning.lines),
                ));
            }
            text
        }
    };
    output::print(&text)?;
    if let Some(broken) = &checked.broken {
        exit::report(broken);
    } else if let Some(err) = refused(checked) {
        exit::report(&err);
    }
    Ok(match checked.warnings.is_empty() && checked.broken.is_none() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The error that `# check=error=true` makes of warnings.
pub(super) fn refused(checked: &Checked) -> Option<Error> {
    if !checked.is_error || checked.warnings.is_empty() {
        return None;
    }
    let mut names: Vec<&str> = checked.warnings.iter().map(|warning| warning.rule.name).collect();
    names.sort_unstable();
    names.dedup();
    Some(Error::invalid(format!("lint violation found for rules: {}", names.join(", "))))
}

/// What a build says of them at its end.
pub(super) fn summary(warnings: &[Warning]) -> String {
    let count = match warnings.len() {
        0 => return String::new(),
        1 => "1 warning".to_owned(),
        count => format!("{count} warnings"),
    };
    let mut text = format!(" {count} found (--check explains):\n");
    for warning in warnings {
        text.push_str(&format!(
            " - {}: {} (line {})\n",
            warning.rule.name,
            visible(&warning.detail),
            warning.lines.0
        ));
    }
    text
}

/// The lines, marked, and two around them.
fn excerpt(source: &Source, (first, last): (usize, usize)) -> String {
    let rows: Vec<&str> = source.text.split('\n').collect();
    let pad = if first == last { 2 } else { 1 };
    let from = first.saturating_sub(pad).max(1);
    let to = (last + pad).min(rows.len());
    let mut text = format!("{}:{first}\n--------------------\n", source.name);
    for number in from..=to {
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        let row = rows.get(number - 1).copied().unwrap_or_default();
        text.push_str(&format!(" {number:3} | {mark} {}\n", row.replace('\t', "    ")));
    }
    text + "--------------------\n"
}

fn location((first, last): (usize, usize)) -> Value {
    let range = |line| json!({ "start": { "line": line }, "end": { "line": line } });
    json!({ "ranges": (first..=last).map(range).collect::<Vec<_>>() })
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn check_json(checked: &Checked, source: &Source) -> Result<String> {
    let warnings: Vec<Value> = (checked.warnings.iter())
        .map(|warning| {
            let mut value = json!({
                "ruleName": warning.rule.name, "description": warning.rule.description,
                "detail": warning.detail, "location": location(warning.lines),
            });
            if let Some(url) = warning.rule.url() {
                value["url"] = json!(url);
            }
            value
        })
        .collect();
    let data = STANDARD.encode(&source.text);
    let mut value = json!({
        // Docker's list that has nothing in it is none.
        "warnings": if warnings.is_empty() { Value::Null } else { warnings.into() },
        "sources": [{ "filename": source.name, "data": data, "language": "Dockerfile" }],
    });
    if let Some(broken) = &checked.broken {
        let text = broken.to_string();
        let mut parts = text.lines().next().unwrap_or_default().splitn(4, ':');
        let line = parts.nth(1).and_then(|line| line.parse::<usize>().ok());
        value["buildError"] = match (line, parts.nth(1)) {
            (Some(line), Some(said)) => json!({
                "message": format!("dockerfile parse error on line {line}:{said}"),
                "location": location((line, line)),
            }),
            _ => json!({ "message": text, "location": {} }),
        };
    } else if let Some(err) = refused(checked) {
        value["buildError"] = json!({ "message": err.to_string(), "location": {} });
    }
    pretty(&value)
}

fn targets(listed: &[Listed]) -> String {
    let rows: Vec<[String; 2]> = (listed.iter())
        .map(|target| {
            let name = match (target.name.as_str(), target.is_default) {
                ("", _) => "(default)".to_owned(),
                (name, true) => format!("{name} (default)"),
                (name, false) => name.to_owned(),
            };
            [name, visible(&target.description).into_owned()]
        })
        .collect();
    columns(["TARGET", "DESCRIPTION"], &rows, 1)
}

fn targets_json(listed: &[Listed], source: &Source) -> Result<String> {
    let one = |target: &Listed| {
        let mut value = json!({});
        for (key, text) in [("name", &target.name), ("description", &target.description)] {
            if !text.is_empty() {
                value[key] = json!(text);
            }
        }
        if target.is_default {
            value["default"] = json!(true);
        }
        value["base"] = json!(target.base);
        if let Some(platform) = &target.platform {
            value["platform"] = json!(platform);
        }
        value["location"] = location((target.line, target.line));
        value
    };
    let listed: Vec<Value> = listed.iter().map(one).collect();
    pretty(&json!({ "targets": listed, "sources": [STANDARD.encode(&source.text)] }))
}

fn outline(outline: &Outline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() {
        let gap = if outline.description.is_empty() { "" } else { "     " };
        text.push_str(&format!("TARGET: {gap}{}\n", outline.name));
    }
    if !outline.description.is_empty() {
        text.push_str(&format!("DESCRIPTION: {}\n", visible(&outline.description)));
    }
    let args: Vec<[String; 3]> = (outline.args.iter())
        .map(|arg| {
            let value = arg.value.clone().unwrap_or_default();
            let safe = |text: &str| visible(text).into_owned();
            [arg.name.clone(), safe(&value), safe(&arg.description)]
        })
        .collect();
    let by_id = |list: &[OutlineSecret]| -> Vec<[String; 2]> {
        let row = |secret: &OutlineSecret| {
            let required = if secret.required { "true" } else { "" };
            [visible(&secret.id).into_owned(), required.to_owned()]
        };
        list.iter().map(row).collect()
    };
    let (secrets, agents) = (by_id(&outline.secrets), by_id(&outline.agents));
    let mut tables = Vec::new();
    if !args.is_empty() {
        tables.push(columns(["BUILD ARG", "VALUE", "DESCRIPTION"], &args, 3));
    }
    if !secrets.is_empty() {
        tables.push(columns(["SECRET", "REQUIRED"], &secrets, 3));
    }
    if !agents.is_empty() {
        tables.push(columns(["SSH", "REQUIRED"], &agents, 3));
    }
    for table in tables {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&table);
    }
    text
}

fn outline_json(outline: &Outline, source: &Source) -> Result<String> {
    let mut value = json!({});
    for (key, text) in [("name", &outline.name), ("description", &outline.description)] {
        if !text.is_empty() {
            value[key] = json!(text);
        }
    }
    let args = outline.args.iter().map(|arg| {
        let mut value = json!({ "name": arg.name, "location": location((arg.line, arg.line)) });
        if !arg.description.is_empty() {
            value["description"] = json!(arg.description);
        }
        if let Some(text) = &arg.value {
            value["value"] = json!(text);
        }
        value
    });
    let args: Vec<Value> = args.collect();
    if !args.is_empty() {
        value["args"] = json!(args);
    }
    for (key, list) in [("secrets", &outline.secrets), ("ssh", &outline.agents)] {
        let list = list.iter().map(|secret| {
            let mut value =
                json!({ "name": secret.id, "location": location((secret.line, secret.line)) });
            if secret.required {
                value["required"] = json!(true);
            }
            value
        });
        let list: Vec<Value> = list.collect();
        if !list.is_empty() {
            value[key] = json!(list);
        }
    }
    value["sources"] = json!([STANDARD.encode(&source.text)]);
    pretty(&value)
}

/// Left-aligned columns, `gap` apart.
fn columns<const N: usize>(heading: [&str; N], rows: &[[String; N]], gap: usize) -> String {
    let widths: Vec<usize> = (0..N)
        .map(|at| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.chain([heading[at].len()]).max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        for (at, cell) in cells.iter().enumerate() {
            text.push_str(cell);
            if at + 1 < N {
                text.push_str(&" ".repeat(widths[at] - cell.chars().count() + gap));
            }
        }
        text.push('\n');
    };
    line(heading);
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_their_formats() {
        assert_eq!(parse("check").expect("check"), (Call::Check, false));
        assert_eq!(parse("targets,format=json").expect("json"), (Call::Targets, true));
        assert_eq!(parse("build").expect("build"), (Call::Build, false));
        for bad in ["bogus", "check,format=xml", "check,json"] {
            parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn an_excerpt_marks_its_lines() {
        let source = Source::new("Dockerfile", "FROM a\nCMD b\n");
        let expected = "Dockerfile:2\n--------------------\n   1 |     FROM a\n   2 | >>> CMD b\n   3 |     \n--------------------\n";
        assert_eq!(excerpt(&source, (2, 2)), expected);
    }
}
