//! The Dockerfile instructions that change an image's configuration without running anything
//! (docker import reference, `--change`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::{Context as _, Error, Result};

/// The `config` object of an image's configuration, keys sorted, after all `changes`.
pub(super) fn apply(changes: &[String]) -> Result<Value> {
    let mut config = Config::default();
    for change in changes {
        config.change(change).doing_with(|| format!("--change {change:?}"))?;
    }
    Ok(config.into_json())
}

/// `base`, a `config` object, after all `changes`: lists of names and values grow, the rest is
/// replaced. As in a Dockerfile, another entrypoint takes the old command away.
pub(super) fn apply_to(base: &Value, changes: &[String]) -> Result<Value> {
    let directory = base["WorkingDir"].as_str().map(str::to_owned);
    let mut config = Config { working_dir: directory, ..Config::default() };
    for change in changes {
        config.change(change).doing_with(|| format!("--change {change:?}"))?;
    }
    let new = config.into_json();
    let mut merged = base.as_object().cloned().unwrap_or_default();
    if !new["Entrypoint"].is_null() && new["Cmd"].is_null() {
        merged.remove("Cmd");
    }
    for (key, value) in new.as_object().into_iter().flatten() {
        match (merged.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                old.extend(new.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            (Some(Value::Array(old)), Value::Array(new)) if key == "Env" => {
                let name = |entry: &Value| {
                    let entry = entry.as_str().unwrap_or_default();
                    entry.split('=').next().unwrap_or_default().to_owned()
                };
                old.retain(|entry| !new.iter().any(|other| name(other) == name(entry)));
                old.extend(new.iter().cloned());
            }
            _ => drop(merged.insert(key.clone(), value.clone())),
        }
    }
    Ok(merged.into())
}

#[derive(Default)]
struct Config {
    cmd: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    env: Vec<(String, String)>,
    exposed: BTreeMap<String, Value>,
    labels: BTreeMap<String, String>,
    on_build: Vec<String>,
    stop_signal: Option<String>,
    user: Option<String>,
    volumes: BTreeMap<String, Value>,
    working_dir: Option<String>,
}

impl Config {
    fn change(&mut self, text: &str) -> Result<()> {
        let text = text.trim();
        let (instruction, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        if rest.is_empty() {
            return Err(Error::invalid("it needs an instruction and its argument")
                .hint("e.g. --change 'CMD [\"/bin/sh\"]'"));
        }
        match instruction.to_ascii_uppercase().as_str() {
            "CMD" => self.cmd = Some(command(rest)?),
            "ENTRYPOINT" => self.entrypoint = Some(command(rest)?),
            "ENV" => {
                for (key, value) in pairs(rest)? {
                    self.env.retain(|(other, _)| *other != key);
                    self.env.push((key, value));
                }
            }
            "EXPOSE" => {
                for port in words(rest)? {
                    self.exposed.extend(ports(&port)?.into_iter().map(|port| (port, json!({}))));
                }
            }
            "LABEL" => self.labels.extend(pairs(rest)?),
            "ONBUILD" => self.on_build.push(trigger(rest)?),
            "STOPSIGNAL" => self.stop_signal = Some(one(rest)?),
            "USER" => self.user = Some(one(rest)?),
            "VOLUME" => {
                let volumes = if rest.starts_with('[') { array(rest)? } else { words(rest)? };
                self.volumes.extend(volumes.into_iter().map(|volume| (volume, json!({}))));
            }
            "WORKDIR" => self.working_dir = Some(self.directory(&one(rest)?)),
            _ => {
                return Err(Error::invalid(format!("{instruction} cannot be applied here")).hint(
                    "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and \
                     WORKDIR can",
                ));
            }
        }
        Ok(())
    }

    /// A relative directory continues the last one, as in a Dockerfile.
    fn directory(&self, path: &str) -> String {
        if path.starts_with('/') {
            return path.to_owned();
        }
        let before = self.working_dir.as_deref().unwrap_or("/");
        format!("{}/{path}", before.trim_end_matches('/'))
    }

    fn into_json(self) -> Value {
        let mut config = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            config.extend(value.map(|value| (key.to_owned(), value)));
        };
        let env: Vec<_> = self.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        set("Cmd", self.cmd.map(Value::from));
        set("Entrypoint", self.entrypoint.map(Value::from));
        set("Env", (!env.is_empty()).then(|| env.into()));
        set("ExposedPorts", (!self.exposed.is_empty()).then(|| json!(self.exposed)));
        set("Labels", (!self.labels.is_empty()).then(|| json!(self.labels)));
        set("OnBuild", (!self.on_build.is_empty()).then(|| self.on_build.into()));
        set("StopSignal", self.stop_signal.map(Value::from));
        set("User", self.user.map(Value::from));
        set("Volumes", (!self.volumes.is_empty()).then(|| json!(self.volumes)));
        set("WorkingDir", self.working_dir.map(Value::from));
        Value::Object(config)
    }
}

/// The exec form, or the shell form.
fn command(text: &str) -> Result<Vec<String>> {
    match array(text) {
        Ok(words) => Ok(words),
        // As docker does: what is not a JSON array of strings is a shell's.
        Err(_) => Ok(vec!["/bin/sh".into(), "-c".into(), text.into()]),
    }
}

fn array(text: &str) -> Result<Vec<String>> {
    serde_json::from_str(text)
        .map_err(|err| Error::invalid(format!("not a JSON array of strings: {err}")))
}

fn one(text: &str) -> Result<String> {
    let mut words = words(text)?;
    match (words.pop(), words.is_empty()) {
        (Some(word), true) if !word.is_empty() => Ok(word),
        _ => Err(Error::invalid("it takes one argument")),
    }
}

/// `KEY=VALUE ...`, or the old `KEY VALUE` with all that follows as the value.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let first = text.split_whitespace().next().unwrap_or_default();
    let pairs = if first.contains('=') {
        let split = |word: String| {
            let (key, value) = word.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        };
        words(text)?.into_iter().map(split).collect::<Option<Vec<_>>>()
    } else {
        text.split_once(char::is_whitespace)
            .map(|(key, value)| vec![(key.to_owned(), value.trim().to_owned())])
    };
    pairs
        .filter(|pairs| pairs.iter().all(|(key, _)| !key.is_empty()))
        .ok_or_else(|| Error::invalid("it takes KEY=VALUE pairs"))
}

/// Words between spaces; quotes keep them together, a backslash takes the next one as it is.
fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            _ if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            '\\' if quote != Some('\'') => {
                let next = chars.next().ok_or_else(|| Error::invalid("a backslash at the end"))?;
                word.get_or_insert_default().push(next);
            }
            c if c.is_whitespace() && quote.is_none() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(Error::invalid(format!("a {quote} without its end")));
    }
    words.extend(word);
    Ok(words)
}

/// `PORT[-PORT][/PROTOCOL]` as single ports.
pub fn ports(text: &str) -> Result<Vec<String>> {
    let bad = || {
        Error::invalid(format!("{text:?} is not a port"))
            .hint("a port is 1 to 65535, perhaps with /tcp, /udp or /sctp, or a range like 80-89")
    };
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
    let (first, last) = (number(first)?, number(last)?);
    if first > last || !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn trigger(text: &str) -> Result<String> {
    let first = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    if ["ONBUILD", "FROM", "MAINTAINER"].contains(&first.as_str()) {
        return Err(Error::invalid(format!("{first} cannot be a trigger")));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Value {
        let changes: Vec<String> = changes.iter().map(|&text| text.to_owned()).collect();
        apply(&changes).expect("apply")
    }

    #[test]
    fn every_instruction_finds_its_place() {
        let config = changed(&[
            "cmd [\"a\", \"b c\"]",
            "ENTRYPOINT exec top -b",
            "ENV A=1 B=\"two words\" C=a\\ b",
            "ENV OLD the rest",
            "ENV A=2",
            "EXPOSE 80 53/udp 8000-8001",
            "LABEL x='y z' empty=",
            "ONBUILD RUN make",
            "STOPSIGNAL SIGINT",
            "USER 1000:1000",
            "VOLUME [\"/data\", \"/with space\"]",
            "VOLUME /v",
            "WORKDIR /srv",
            "WORKDIR app",
        ]);
        assert_eq!(
            config,
            json!({
                "Cmd": ["a", "b c"],
                "Entrypoint": ["/bin/sh", "-c", "exec top -b"],
                "Env": ["B=two words", "C=a b", "OLD=the rest", "A=2"],
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}},
                "Labels": {"x": "y z", "empty": ""},
                "OnBuild": ["RUN make"],
                "StopSignal": "SIGINT",
                "User": "1000:1000",
                "Volumes": {"/data": {}, "/with space": {}, "/v": {}},
                "WorkingDir": "/srv/app",
            })
        );
        assert_eq!(changed(&[]), json!({}));
    }

    #[test]
    fn changes_are_laid_on_what_was_there() {
        let base = json!({
            "Cmd": ["old"], "Env": ["A=1", "B=2"], "Labels": {"x": "1"}, "WorkingDir": "/srv",
            "User": "u",
        });
        let on = |changes: &[&str]| {
            let changes: Vec<String> = changes.iter().map(|&text| text.to_owned()).collect();
            apply_to(&base, &changes).expect("apply")
        };
        assert_eq!(on(&[]), base);
        let changed = on(&["ENV B=3 C=4", "LABEL y=2", "WORKDIR app", "ENTRYPOINT [\"e\"]"]);
        assert_eq!(
            changed,
            json!({
                "Entrypoint": ["e"], "Env": ["A=1", "B=3", "C=4"],
                "Labels": {"x": "1", "y": "2"}, "WorkingDir": "/srv/app", "User": "u",
            })
        );
        let both = on(&["ENTRYPOINT [\"e\"]", "CMD [\"c\"]"]);
        assert_eq!((&both["Entrypoint"], &both["Cmd"]), (&json!(["e"]), &json!(["c"])));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "",
            "CMD",
            "RUN make",
            "ENV A",
            "ENV =x",
            "ENV A=1 B",
            "ENV A='x",
            "EXPOSE 0",
            "EXPOSE 65536",
            "EXPOSE 90-80",
            "EXPOSE 80/icmp",
            "USER a b",
            "USER ''",
            "ONBUILD FROM x",
            "VOLUME [1]",
            "LABEL a=b\\",
        ] {
            let err = apply(&[bad.to_owned()]).expect_err(bad);
            assert!(err.to_string().starts_with("--change"), "{err}");
        }
    }
}
