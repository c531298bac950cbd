//! What the log options `labels`, `env` and `tag` say of a container in its log.

use std::collections::BTreeMap;

use regex_lite::Regex;

use crate::{
    error::{Error, Result},
    state::record::ContainerRecord,
};

/// Docker's template of a tag if none is given (moby daemon/logger/loggerutils/log_tag.go).
const DEFAULT_TAG: &str = "{{.ID}}";

/// The fields that a tag can have.
const FIELDS: [&str; 8] =
    ["ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName", "Command"];

/// What `attrs` of a JSON line holds: the labels and variables that were asked for, and the tag.
pub fn details(record: &ContainerRecord) -> BTreeMap<String, String> {
    let options = &record.host.log.options;
    let mut found = BTreeMap::new();
    if options.is_empty() {
        return found;
    }
    let option = |name: &str| options.get(name).map(String::as_str);
    let names = |list: &'static str| option(list).into_iter().flat_map(|text| text.split(','));
    for name in names("labels") {
        let label = record.config.labels.get_key_value(name);
        found.extend(label.map(|(key, value)| (key.clone(), value.clone())));
    }
    if let Some(pattern) = option("labels-regex").and_then(|text| Regex::new(text).ok()) {
        let labels = record.config.labels.iter().filter(|(key, _)| pattern.is_match(key));
        found.extend(labels.map(|(key, value)| (key.clone(), value.clone())));
    }
    let env = || record.config.env.iter().filter_map(|variable| variable.split_once('='));
    for name in names("env") {
        let variable = env().rfind(|(key, _)| *key == name);
        found.extend(variable.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
    if let Some(pattern) = option("env-regex").and_then(|text| Regex::new(text).ok()) {
        let variables = env().filter(|(key, _)| pattern.is_match(key));
        found.extend(variables.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
    if let Some(tag) = option("tag").filter(|tag| !tag.is_empty()) {
        found.insert("tag".into(), fill(tag, record));
    }
    found
}

/// The container's tag, docker's if none was given.
pub(super) fn tag(record: &ContainerRecord) -> String {
    let tag = record.host.log.options.get("tag").map(String::as_str);
    fill(tag.filter(|tag| !tag.is_empty()).unwrap_or(DEFAULT_TAG), record)
}

/// Refuses a tag with more than fields in it.
pub fn check_tag(template: &str) -> Result<()> {
    match pieces(template).find(|piece| matches!(piece, Piece::Unknown(_))) {
        Some(Piece::Unknown(field)) => {
            Err(Error::unsupported(format!("the log tag's {{{{{field}}}}} is not in this version"))
                .hint(format!(
                    "a tag can have these fields, as in {{{{.ID}}}}: {}",
                    FIELDS.join(", ")
                )))
        }
        _ => Ok(()),
    }
}

fn fill(template: &str, record: &ContainerRecord) -> String {
    let value = |piece: Piece<'_>| match piece {
        Piece::Text(text) | Piece::Unknown(text) => text.to_owned(),
        Piece::Field("ID") => record.id.short().to_owned(),
        Piece::Field("FullID") => record.id.to_string(),
        Piece::Field("Name") => record.name.clone(),
        Piece::Field("ImageName") => record.image.clone(),
        Piece::Field("ImageFullID") => record.image_id.to_string(),
        Piece::Field("ImageID") => record.image_id.hex().chars().take(12).collect(),
        Piece::Field("Command") => {
            let words: Vec<&str> = record
                .config
                .entrypoint
                .iter()
                .chain(&record.config.cmd)
                .map(String::as_str)
                .collect();
            words.join(" ")
        }
        Piece::Field(_) => "dhow".to_owned(),
    };
    pieces(template).map(value).collect()
}

enum Piece<'a> {
    Text(&'a str),
    Field(&'static str),
    Unknown(&'a str),
}

fn pieces(template: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let start = rest.find("{{").unwrap_or(rest.len());
        if start > 0 {
            let (text, behind) = rest.split_at(start);
            rest = behind;
            return Some(Piece::Text(text));
        }
        let Some((inside, behind)) = rest[2..].split_once("}}") else {
            return Some(Piece::Unknown(std::mem::take(&mut rest)));
        };
        rest = behind;
        let field = inside.trim().strip_prefix('.');
        let known = field.and_then(|field| FIELDS.iter().find(|known| **known == field));
        Some(known.map_or(Piece::Unknown(inside), |known| Piece::Field(known)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_text_and_fields() {
        assert_eq!(check_tag("a {{.ID}}/{{ .Name }}"), Ok(()));
        for wrong in ["{{.Nosuch}}", "{{upper .ID}}", "{{.ID"] {
            check_tag(wrong).expect_err(wrong);
        }
    }
}
