//! An image's configuration, as instructions change it.

use serde_json::{Map, Value, json};

use crate::{
    build::{Command, HealthTest, Healthcheck},
    error::{Error, Result},
    oci::Platform,
    state::record::ContainerConfig,
};

/// What `RUN` and the shell forms start with.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What BuildKit says of the steps of a Dockerfile.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// A configuration in the making, as a document: what dhow does not know of it stays.
#[derive(Debug, Clone)]
pub(super) struct Config(pub(super) Value);

impl Config {
    /// Of `FROM scratch`.
    pub(super) fn scratch(platform: &Platform) -> Self {
        let mut document = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": { "Env": [PATH], "WorkingDir": "/" },
            "history": [],
        });
        if let Some(variant) = &platform.variant {
            document["variant"] = json!(variant);
        }
        Self(document)
    }

    /// Of a base image: without what is only true of the image itself.
    pub(super) fn based_on(mut document: Value) -> Result<Self> {
        let fields = document
            .as_object_mut()
            .ok_or_else(|| Error::invalid("the base's configuration is no object"))?;
        for old in
            ["container", "container_config", "docker_version", "id", "parent", "created", "rootfs"]
        {
            fields.remove(old);
        }
        fields.remove(super::shared::INLINE);
        if !fields.get("config").is_some_and(Value::is_object) {
            fields.insert("config".into(), json!({}));
        }
        if !fields.get("history").is_some_and(Value::is_array) {
            fields.insert("history".into(), json!([]));
        }
        Ok(Self(document))
    }

    /// What it is for.
    pub(super) fn platform(&self) -> Option<Platform> {
        let text = |key: &str| self.0[key].as_str();
        Some(Platform::new(text("os")?, text("architecture")?, text("variant")))
    }

    fn get(&self, key: &str) -> &Value {
        &self.0["config"][key]
    }

    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.0["config"][key] = value;
    }

    pub(super) fn unset(&mut self, key: &str) {
        if let Some(fields) = self.0["config"].as_object_mut() {
            fields.remove(key);
        }
    }

    fn texts(&self, key: &str) -> Vec<String> {
        let list = self.get(key).as_array();
        list.into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
    }

    pub(super) fn text(&self, key: &str) -> String {
        self.get(key).as_str().unwrap_or_default().to_owned()
    }

    /// `NAME=value`, in order.
    pub(super) fn env(&self) -> Vec<String> {
        self.texts("Env")
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.env().iter().rev().find_map(|entry| {
            let (key, value) = entry.split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    }

    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        let mut env = self.env();
        let entry = format!("{name}={value}");
        match env.iter_mut().find(|old| old.split('=').next() == Some(name)) {
            Some(old) => *old = entry,
            None => env.push(entry),
        }
        self.set("Env", json!(env));
    }

    /// Keeps what is wanted of a list.
    pub(super) fn retain(&mut self, key: &str, is_wanted: impl Fn(&str) -> bool) {
        if let Some(list) = self.0["config"].get_mut(key).and_then(Value::as_array_mut) {
            list.retain(|text| text.as_str().is_some_and(&is_wanted));
        }
    }

    /// Takes one member of a set away, and with the last one the set.
    pub(super) fn take_away(&mut self, key: &str, member: &str) {
        let Some(set) = self.0["config"].get_mut(key).and_then(Value::as_object_mut) else {
            return;
        };
        set.remove(member);
        if set.is_empty() {
            self.unset(key);
        }
    }

    /// Adds members to a set: labels, ports, volumes.
    pub(super) fn insert(&mut self, key: &str, members: impl IntoIterator<Item = (String, Value)>) {
        let mut set: Map<String, Value> = self.get(key).as_object().cloned().unwrap_or_default();
        set.extend(members);
        self.set(key, set.into());
    }

    pub(super) fn shell(&self) -> Vec<String> {
        let shell = self.texts("Shell");
        if shell.is_empty() { SHELL.map(str::to_owned).into() } else { shell }
    }

    /// The words of a command.
    pub(super) fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let mut words = self.shell();
                words.push(text.clone());
                words
            }
        }
    }

    pub(super) fn working_dir(&self) -> String {
        let dir = self.text("WorkingDir");
        if dir.is_empty() { "/".into() } else { dir }
    }

    /// A path as instructions mean it: relative to the working directory; a slash at the end stays.
    pub(super) fn absolute(&self, path: &str) -> String {
        let whole = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", self.working_dir()),
        };
        let is_dir = ["/", "/.", "/.."].iter().any(|end| whole.ends_with(end));
        let clean = crate::build::pattern::clean(&whole);
        let slash = if is_dir && !clean.is_empty() { "/" } else { "" };
        format!("/{clean}{slash}")
    }

    /// Sets it; what the history says of it (as Go shows BuildKit's record).
    pub(super) fn healthcheck(&mut self, check: &Healthcheck) -> String {
        let test = match &check.test {
            HealthTest::None => json!(["NONE"]),
            HealthTest::Command(Command::Shell(text)) => json!(["CMD-SHELL", text]),
            HealthTest::Command(Command::Exec(words)) => {
                json!([&["CMD".to_owned()][..], words].concat())
            }
        };
        let mut value = json!({ "Test": test });
        for (key, nanoseconds) in [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        ] {
            if nanoseconds != 0 {
                value[key] = json!(nanoseconds);
            }
        }
        if check.retries != 0 {
            value["Retries"] = json!(check.retries);
        }
        let test = value["Test"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let told = format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            go_list(test),
            go_duration(check.interval),
            go_duration(check.timeout),
            go_duration(check.start_period),
            go_duration(check.start_interval),
            check.retries
        );
        self.set("Healthcheck", value);
        told
    }

    /// The triggers of the base image, which are for this build.
    pub(super) fn take_triggers(&mut self) -> Vec<String> {
        let triggers = self.texts("OnBuild");
        self.unset("OnBuild");
        triggers
    }

    pub(super) fn add_trigger(&mut self, text: &str) {
        let mut triggers = self.texts("OnBuild");
        triggers.push(text.to_owned());
        self.set("OnBuild", json!(triggers));
    }

    pub(super) fn note(&mut self, created_by: &str, created: &str, empty_layer: bool) {
        // By its words a history is known that BuildKit could have written.
        let mut entry = json!({ "created": created, "created_by": created_by, "comment": COMMENT });
        if empty_layer {
            entry["empty_layer"] = json!(true);
        }
        if let Some(history) = self.0["history"].as_array_mut() {
            history.push(entry);
        }
    }

    /// What a container needs of it for a command.
    pub(super) fn container(
        &self,
        words: Vec<String>,
        env: Vec<String>,
        hostname: &str,
    ) -> ContainerConfig {
        ContainerConfig {
            entrypoint: words,
            env,
            user: self.text("User"),
            working_dir: self.working_dir(),
            hostname: hostname.to_owned(),
            ..ContainerConfig::default()
        }
    }
}

/// `[a b]`: a list as Go's `%v` shows it.
pub(super) fn go_list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    format!("[{}]", words.into_iter().collect::<Vec<_>>().join(" "))
}

/// `["a" "b"]`: a list as Go's `%q` shows it.
pub(super) fn go_quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// Nanoseconds as Go's `time.Duration` shows them: `1m30s`, `1.5s`, `250ms`, `0s`.
fn go_duration(nanoseconds: i64) -> String {
    const SECOND: i64 = 1_000_000_000;
    let part = |value: i64, unit: i64, name: &str| {
        let digits = unit.ilog10() as usize;
        let fraction = format!("{:0digits$}", value % unit);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() || unit == 1 { "" } else { "." };
        let fraction = if unit == 1 { "" } else { fraction };
        format!("{}{point}{fraction}{name}", value / unit)
    };
    match nanoseconds {
        0 => "0s".into(),
        1..1_000 => part(nanoseconds, 1, "ns"),
        1_000..1_000_000 => part(nanoseconds, 1_000, "µs"),
        1_000_000..SECOND => part(nanoseconds, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanoseconds / (60 * SECOND), nanoseconds % (60 * SECOND));
            let seconds = part(rest, SECOND, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_go_does() {
        for (nanoseconds, shown) in [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (5_000_000_000, "5s"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (3_690_000_000_000, "1h1m30s"),
        ] {
            assert_eq!(go_duration(nanoseconds), shown);
        }
        assert_eq!(go_quoted(&["a".into(), "b \"c\"".into()]), r#"["a" "b \"c\""]"#);
        assert_eq!(go_list(["a", "b"]), "[a b]");
    }
}
