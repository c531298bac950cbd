//! Listings: `table` templates aligned in columns, plain templates, JSON lines.
//!
//! Docker's layout: columns at least ten wide, three spaces between, nothing after the last.

use std::{collections::BTreeMap, io::Write};

use serde_json::{Map, Value};

use super::{
    template::{Template, View},
    visible,
};
use crate::error::{Context, Error, Result};

/// Width of a column at least, and the spaces after its longest cell (docker's tabwriter).
const LEAST: usize = 10;
const GAP: usize = 3;

/// One line of a listing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// What a template sees: capitalised names, as docker's.
    pub fields: Map<String, Value>,
    /// What `{{.Label "key"}}` looks in; not shown by `json`.
    pub labels: BTreeMap<String, String>,
}

/// Writes `rows` as `format` asks: `json`, `table`, `table TEMPLATE`, or a template a row.
///
/// No format, an empty one and `table` alone are the table of `default_template`, in which
/// `\t` divides columns. `headers` gives the heading of each field. In a table, text that
/// could act on a terminal is made visible; the other formats give values as they are.
pub fn listing(
    rows: &[Row],
    format: Option<&str>,
    default_template: &str,
    headers: &[(&str, &str)],
    out: &mut dyn Write,
) -> Result<()> {
    let format = format.unwrap_or_default();
    let text = match format.strip_prefix("table").map(str::trim_start) {
        _ if format == "json" => json_lines(rows)?,
        None if !format.is_empty() => lines(rows, &template(format)?)?,
        Some(template_text) if !template_text.is_empty() => {
            table(rows, &template(template_text)?, headers)?
        }
        Some(_) | None => table(rows, &template(default_template)?, headers)?,
    };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).doing("write the listing")
}

/// As [`listing`], as text; `headless` leaves the heading of a table away.
pub fn listed(
    rows: &[Row],
    format: Option<&str>,
    default_template: &str,
    headers: &[(&str, &str)],
    headless: bool,
) -> Result<String> {
    let mut out = Vec::new();
    listing(rows, format, default_template, headers, &mut out)?;
    let text = String::from_utf8_lossy(&out);
    let is_table = format.is_none_or(|format| format.is_empty() || format.starts_with("table"));
    Ok(without_heading(&text, headless && is_table).to_owned())
}

/// Without the first line, if it is not wanted.
pub fn without_heading(text: &str, unwanted: bool) -> &str {
    match text.split_once('\n') {
        Some((_, rest)) if unwanted => rest,
        _ => text,
    }
}

/// Docker reads `\t` and `\n` in a listing's format before the template does.
fn template(text: &str) -> Result<Template> {
    Template::parse(&text.replace("\\t", "\t").replace("\\n", "\n"))
}

fn json_lines(rows: &[Row]) -> Result<String> {
    let lines: Result<Vec<String>, _> =
        rows.iter().map(|row| serde_json::to_string(&row.fields)).collect();
    Ok(lines?.into_iter().fold(String::new(), |all, line| all + &line + "\n"))
}

fn lines(rows: &[Row], template: &Template) -> Result<String> {
    let mut text = String::new();
    for row in rows {
        render(template, &Value::Object(row.fields.clone()), row, &mut text)?;
        text.push('\n');
    }
    Ok(text)
}

fn table(rows: &[Row], template: &Template, headers: &[(&str, &str)]) -> Result<String> {
    let mut text = String::new();
    heading(template, headers, &mut text);
    text.push('\n');
    for row in rows {
        let fields = row.fields.iter().map(|(name, value)| (name.clone(), safe(value)));
        render(template, &Value::Object(fields.collect()), row, &mut text)?;
        text.push('\n');
    }
    Ok(align(&text))
}

fn render(template: &Template, data: &Value, row: &Row, text: &mut String) -> Result<()> {
    let label = |key: &str| visible(row.labels.get(key).map_or("", String::as_str)).into_owned();
    let view = View { strict: true, label: Some(&label), heading: false };
    template.render_into(data, view, text)
}

/// The template with every field replaced by its heading. What has none (`{{json .}}`, an
/// index) ends the line there, as in docker: the rows themselves report what is wrong.
fn heading(template: &Template, headers: &[(&str, &str)], text: &mut String) {
    let data = headers.iter().map(|(name, head)| ((*name).to_owned(), Value::from(*head)));
    // Docker: the last part of the key, its hyphens and underscores as spaces.
    let label = |key: &str| key.rsplit('.').next().unwrap_or_default().replace(['-', '_'], " ");
    let view = View { strict: false, label: Some(&label), heading: true };
    let ended: Result<(), Error> = template.render_into(&Value::Object(data.collect()), view, text);
    drop(ended);
}

/// The value with all its text made visible.
fn safe(value: &Value) -> Value {
    match value {
        Value::String(text) => visible(text).into(),
        Value::Array(list) => list.iter().map(safe).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| (visible(key).into_owned(), safe(value))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Pads cells that end in a tab to the width of their column. As in Go's tabwriter, a column
/// is a run of lines that each have such a cell there, so that a line with fewer divides it.
pub fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut first = 0;
        while first < lines.len() {
            let run = widths[first..].iter().take_while(|cells| cells.len() > column).count();
            let longest =
                lines[first..first + run].iter().map(|cells| cells[column].chars().count());
            let width = longest.max().map_or(0, |longest| LEAST.max(longest + GAP));
            for line in &mut widths[first..first + run] {
                line[column] = width;
            }
            first += run.max(1);
        }
    }
    let mut aligned = String::with_capacity(text.len() * 2);
    for (cells, widths) in lines.iter().zip(&widths) {
        for (cell, &width) in cells.iter().zip(widths) {
            aligned.push_str(&format!("{cell:width$}"));
        }
        aligned.extend([cells.last().copied().unwrap_or_default(), "\n"]);
    }
    aligned
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEADERS: [(&str, &str); 3] =
        [("ID", "CONTAINER ID"), ("Names", "NAMES"), ("Error", "ERROR")];

    fn row(id: &str, name: &str, error: &str) -> Row {
        let Value::Object(fields) = json!({"ID": id, "Names": name, "Error": error}) else {
            panic!("an object")
        };
        Row { fields, labels: [("com.x-y".to_owned(), "v\x1b".to_owned())].into() }
    }

    fn list(format: Option<&str>) -> Result<String> {
        let rows = [row("0123456789ab", "web", ""), row("b", "a\x1b[31m\nforged", "x")];
        let mut out = Vec::new();
        listing(&rows, format, "{{.ID}}\t{{.Names}}\t{{.Error}}", &HEADERS, &mut out)?;
        Ok(String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn tables_are_aligned_and_inert() {
        let table = "\
CONTAINER ID   NAMES               ERROR
0123456789ab   web                 \n\
b              a\\x1b[31m\\nforged   x
";
        assert_eq!(list(None).as_deref(), Ok(table));
        assert_eq!(list(Some("table")).as_deref(), Ok(table));
    }

    #[test]
    fn table_templates_have_the_headings_of_their_fields() {
        let table = list(Some("table {{upper .Error}}\\t{{.Label \"com.x-y\"}}\\t{{.Nope}}"));
        assert!(table.is_err());
        let table = list(Some("table {{.Error}}\\t{{.Label \"com.x-y\"}}|{{truncate .ID 3}}"));
        assert_eq!(
            table.as_deref(),
            Ok("ERROR     x y|CONTAINER ID\n          v\\x1b|012\nx         v\\x1b|b\n")
        );
        let table = list(Some("table {{json .ID}}\\t{{.Names}}"));
        assert!(table.is_ok_and(|table| table.starts_with("CONTAINER ID     NAMES\n\"0123")));
        let table = list(Some("table {{len .}}|{{json .}}"));
        assert!(table.is_ok_and(|table| table.starts_with("3|\n3|{\"Error\"")));
    }

    #[test]
    fn other_formats_are_one_line_a_row() {
        assert_eq!(list(Some("{{.ID}}\\t{{.Error}}")).as_deref(), Ok("0123456789ab\t\nb\tx\n"));
        let json = list(Some("json")).expect("valid");
        let first = r#"{"Error":"","ID":"0123456789ab","Names":"web"}"#;
        assert_eq!(json.lines().next(), Some(first));
        assert_eq!(json.lines().count(), 2);
        assert_eq!(list(Some("raw")).as_deref(), Ok("raw\nraw\n"));
    }

    #[test]
    fn a_line_with_fewer_cells_divides_a_column() {
        assert_eq!(align("a\tb\nlong\nabcdefghij\tc\n"), "a         b\nlong\nabcdefghij   c\n");
        assert_eq!(align("é\t漢\n"), "é         漢\n");
    }
}
