//! `--hooks-dir`: programs of the host's that files choose by what a container is (podman's
//! oci-hooks(5), version 1.0.0).
//!
//! They are read when the container is created, and noted in its record.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use regex_lite::Regex;
use serde::Deserialize;

use crate::{
    error::{Context as _, Error, Result},
    state::record::{ContainerConfig, Hook, Hooks, HostConfig, MountKind, MountRecord},
};

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookFile {
    version: String,
    hook: Program,
    when: When,
    stages: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    timeout: Option<u32>,
}

/// All that is said must hold, and something must be said.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct When {
    always: Option<bool>,
    /// Expressions for a key and its value.
    annotations: BTreeMap<String, String>,
    /// Expressions for the command's first word.
    commands: Vec<String>,
    has_bind_mounts: Option<bool>,
}

/// Reads all `*.json` of these directories, by their names; of two with the same name the later
/// directory's counts.
pub fn read(dirs: &[PathBuf]) -> Result<Vec<HookFile>> {
    let mut files: BTreeMap<_, PathBuf> = BTreeMap::new();
    for dir in dirs {
        for entry in fs::read_dir(dir).at(dir).doing("read --hooks-dir")? {
            let path = entry.at(dir)?.path();
            if path.extension().is_some_and(|ending| ending == "json") {
                files.insert(path.file_name().map(ToOwned::to_owned), path);
            }
        }
    }
    files
        .values()
        .map(|path| parse(path).doing_with(|| format!("hook {}", path.display())))
        .collect()
}

fn parse(path: &Path) -> Result<HookFile> {
    let text = fs::read_to_string(path).at(path)?;
    let file: HookFile = serde_json::from_str(&text)?;
    if file.version != "1.0.0" {
        return Err(Error::unsupported(format!("its version is {:?}, not 1.0.0", file.version)));
    }
    if !file.hook.path.is_absolute() {
        let path = file.hook.path.display();
        return Err(Error::invalid(format!("the program {path} is no whole path")));
    }
    for stage in &file.stages {
        place(&mut Hooks::default(), stage)?;
    }
    let when = &file.when;
    let keys = when.annotations.iter().flat_map(|(key, value)| [key, value]);
    keys.chain(&when.commands).try_for_each(|text| expression(text).map(drop))?;
    Ok(file)
}

fn expression(text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|err| Error::invalid(format!("{text:?}: {err}")))
}

fn place<'a>(hooks: &'a mut Hooks, stage: &str) -> Result<&'a mut Vec<Hook>> {
    match stage {
        "prestart" | "createRuntime" => Ok(&mut hooks.create_runtime),
        "createContainer" => Ok(&mut hooks.create_container),
        "poststart" => Ok(&mut hooks.poststart),
        "poststop" => Ok(&mut hooks.poststop),
        "startContainer" => Err(Error::unsupported("there are no startContainer hooks")
            .hint("a program of the image's is not given the rights of a start")),
        other => Err(Error::invalid(format!("no stage is called {other:?}"))),
    }
}

/// Adds those that are meant for a container.
pub(super) fn add(
    files: &[HookFile],
    config: &ContainerConfig,
    host: &mut HostConfig,
) -> Result<()> {
    for file in files {
        if !holds(&file.when, config, host)? {
            continue;
        }
        for stage in &file.stages {
            let Program { path, args, env, timeout } = file.hook.clone();
            let timeout = timeout.filter(|seconds| *seconds > 0);
            place(&mut host.special.hooks, stage)?.push(Hook { path, args, env, timeout });
        }
    }
    Ok(())
}

fn holds(when: &When, config: &ContainerConfig, host: &HostConfig) -> Result<bool> {
    let mut said: Vec<bool> = when.always.into_iter().collect();
    if let Some(wanted) = when.has_bind_mounts {
        let is_bind = |mount: &MountRecord| matches!(mount.kind, MountKind::Bind { .. });
        said.push(host.mounts.iter().any(is_bind) == wanted);
    }
    for (key, value) in &when.annotations {
        let (key, value) = (expression(key)?, expression(value)?);
        said.push(config.annotations.iter().any(|(k, v)| key.is_match(k) && value.is_match(v)));
    }
    if !when.commands.is_empty() {
        let command = config.entrypoint.iter().chain(&config.cmd).next();
        let command = command.map_or("", String::as_str);
        let wanted: Vec<Regex> =
            when.commands.iter().map(|text| expression(text)).collect::<Result<_>>()?;
        said.push(wanted.iter().any(|wanted| wanted.is_match(command)));
    }
    Ok(!said.is_empty() && !said.contains(&false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(text: &str) -> bool {
        let when: When = serde_json::from_str(text).expect(text);
        let config = ContainerConfig {
            entrypoint: vec!["/bin/httpd".into()],
            annotations: [("a.b/c".to_owned(), "yes".to_owned())].into(),
            ..ContainerConfig::default()
        };
        holds(&when, &config, &HostConfig::default()).expect(text)
    }

    #[test]
    fn all_that_is_said_must_hold() {
        for holds in [
            r#"{"always":true}"#,
            r#"{"annotations":{"^a\\.b/":"^y"}}"#,
            r#"{"commands":["sh$","httpd$"]}"#,
            r#"{"hasBindMounts":false,"commands":["httpd"]}"#,
        ] {
            assert!(when(holds), "{holds}");
        }
        for fails in [
            "{}",
            r#"{"always":false}"#,
            r#"{"hasBindMounts":true}"#,
            r#"{"always":true,"commands":["^sh$"]}"#,
            r#"{"annotations":{"^a":"^n"}}"#,
        ] {
            assert!(!when(fails), "{fails}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let said = |text: &str| {
            fs::write(dir.path().join("a.json"), text).expect("write");
            read(&[dir.path().to_owned()]).expect_err(text).to_string()
        };
        let file = |stage: &str, path: &str, version: &str| {
            format!(
                r#"{{"version":"{version}","hook":{{"path":"{path}"}},"when":{{"always":true}},"stages":["{stage}"]}}"#
            )
        };
        assert!(said(&file("poststop", "/h", "0.1.0")).contains("0.1.0"));
        assert!(said(&file("poststop", "h", "1.0.0")).contains("no whole path"));
        assert!(said(&file("sometime", "/h", "1.0.0")).contains("sometime"));
        assert!(said(&file("startContainer", "/h", "1.0.0")).contains("startContainer"));
        assert!(
            said(&file("poststop", "/h", "1.0.0").replace("always", "often")).contains("often")
        );
        assert!(said("{").contains("a.json"));
    }
}
