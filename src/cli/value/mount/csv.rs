//! A line of comma-separated values.

use crate::error::{Error, Result};

/// One record of RFC 4180, as Go's `encoding/csv` reads it.
pub(super) fn record(text: &str) -> Result<Vec<String>> {
    if text.is_empty() {
        return Err(Error::invalid("the mount is empty")
            .hint("write --mount type=bind,source=/host/path,target=/container/path"));
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = field_of(rest).map_err(|(left, what)| {
            let column = text.len() - left + 1;
            Error::invalid(format!("parse error on line 1, column {column}: {what}"))
        })?;
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// The first field and what follows it, or how much was left at the fault and what it is.
fn field_of(text: &str) -> Result<(String, &str), (usize, &'static str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let (field, after) = text.split_at(text.find(',').unwrap_or(text.len()));
        return match field.find('"') {
            Some(at) => Err((text.len() - at, "bare \" in non-quoted field")),
            None => Ok((field.to_owned(), after)),
        };
    };
    let mut field = String::new();
    loop {
        let fault = "extraneous or missing \" in quoted-field";
        let (before, after) = rest.split_once('"').ok_or((0, fault))?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None if after.is_empty() || after.starts_with(',') => return Ok((field, after)),
            None => return Err((after.len() + 1, fault)),
        }
    }
}
