//! Go's `text/template`, as much of it as `--format` needs, over JSON values.
//!
//! Fields, variables, pipelines, `if`, `with`, `range`, `break`, `continue`, trim markers,
//! comments, and docker's functions. Not here: `define`, `template`, `block`, `call`, `html`,
//! `js` and `urlquery`. A template is parsed once and rendered for each row. Nesting, work and
//! output are bounded, so that no template can take the machine down. Errors follow Go's.

mod eval;
mod format;
mod functions;
mod lex;
mod parse;

use serde_json::Value;

use crate::error::{Error, Result};

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    source: String,
    nodes: Vec<parse::Node>,
}

/// How a template sees its data.
#[derive(Clone, Copy, Default)]
pub struct View<'a> {
    /// Whether a field that is not there is an error. Go tells structs from maps by type; here
    /// an object is a struct if all its keys, and the name asked for, begin with a capital, as
    /// docker's do, so that a missing label is still `<no value>`.
    pub strict: bool,
    /// Answers `{{.Label "key"}}`.
    pub label: Option<&'a dyn Fn(&str) -> String>,
    /// For the heading of a table: functions that change text pass it on as it is.
    pub heading: bool,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("strict", &self.strict)
            .field("label", &self.label.is_some())
            .field("heading", &self.heading)
            .finish()
    }
}

impl Template {
    /// Parses `source`; errors name the line.
    pub fn parse(source: &str) -> Result<Self> {
        let nodes = lex::lex(source).and_then(parse::parse).map_err(|fault| {
            let (line, _) = position(source, fault.at);
            Error::invalid(format!("template parsing error: template: :{line}: {}", fault.said))
        })?;
        Ok(Self { source: source.to_owned(), nodes })
    }

    /// What the template prints for `data`.
    pub fn render(&self, data: &Value, view: View<'_>) -> Result<String> {
        let mut out = String::new();
        self.render_into(data, view, &mut out)?;
        Ok(out)
    }

    /// As [`Self::render`], appending; on an error, what came before it has been appended.
    pub fn render_into(&self, data: &Value, view: View<'_>, out: &mut String) -> Result<()> {
        eval::run(&self.nodes, data, view, out).map_err(|failure| {
            let (line, column) = position(&self.source, failure.span.start);
            let at = excerpt(self.source.get(failure.span).unwrap_or_default());
            let error = Error::invalid(format!(
                "template parsing error: template: :{line}:{column}: executing \"\" at <{at}>: {}",
                failure.said
            ));
            match failure.hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })
    }
}

/// Go's `strconv.Quote`, as `%q` prints it.
pub fn quote(text: &str) -> String {
    format::quote(text, '"')
}

/// The line, from 1, and the byte within it, from 0, as Go counts them.
fn position(source: &str, at: usize) -> (usize, usize) {
    let before = &source.as_bytes()[..at.min(source.len())];
    let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
    (1 + before.iter().filter(|&&b| b == b'\n').count(), before.len() - line_start)
}

/// At most twenty characters, as in Go's messages.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(20) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
