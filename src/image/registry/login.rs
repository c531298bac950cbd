//! Logging in and out: credentials proved to a registry, and kept where Docker and Podman look for
//! them (their config.json and containers-auth.json(5), and credential helpers).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use ureq::http::{Method, StatusCode};

use super::{
    Access, Client, Credentials,
    credentials::{self, HUB_KEY, bare, is_hub},
    transport::{drain, is_success, refusal, retrying},
};
use crate::{
    error::{Context as _, Error, Kind, Result},
    state::store::{Durability, Lock, write},
};

/// Where credentials were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In this file, readable to whoever reads the file.
    File(PathBuf),
    /// With this helper.
    Helper(String),
}

/// What a user typed for a registry, as credentials are filed under: the host alone.
pub fn registry_name(typed: &str) -> Result<String> {
    let bare = bare(typed);
    let host = bare.split('/').next().unwrap_or_default();
    let host = if is_hub(host) { "docker.io" } else { host };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
    if host.is_empty() || host.starts_with(['.', '-']) || !host.bytes().all(plain) {
        return Err(Error::invalid(format!("{typed:?} is not a registry's name"))
            .hint("a registry is HOST[:PORT]"));
    }
    Ok(host.to_owned())
}

/// Asks the registry whether it knows who `access.given` says to be.
pub fn verify(registry: &str, access: Access) -> Result<()> {
    let client = Client::new(registry, "", access);
    let verified = retrying(client.transport.access(), || {
        let url = format!("{}/v2/", client.origin()?);
        let ask = |authorization: Option<&str>| {
            client.transport.fetch(&Method::GET, &url, &[], authorization)
        };
        let (mut response, elsewhere) = ask(None)?;
        if response.status() == StatusCode::UNAUTHORIZED && !elsewhere {
            drain(&mut response);
            if let Some(fresh) = client.authorize(&response, None)? {
                response = ask(Some(&fresh))?.0;
            }
        }
        if is_success(&response) { Ok(()) } else { Err(refusal("the registry", response)) }
    });
    verified.map_err(|err| {
        if err.kind() != Kind::Unauthorized {
            return err;
        }
        let text = format!("{registry} refuses: incorrect username or password ({err})");
        Error::new(Kind::Unauthorized, text)
            .hint("some registries want a token in the password's place")
    })
}

/// The user's name that is on file for the registry.
pub fn user(registry: &str, access: &Access) -> Result<Option<String>> {
    Ok(credentials::find(&access.credentials, registry, "")?.map(|found| match found {
        Credentials::Password { user, .. } => user,
        Credentials::Identity(_) | Credentials::Bearer(_) => "<token>".to_owned(),
    }))
}

/// What is on file for the registry.
pub fn credentials(registry: &str, access: &Access) -> Result<Option<Credentials>> {
    credentials::find(&access.credentials, registry, "")
}

/// Puts credentials into the file that has some for this registry, or else into Docker's.
pub fn store(registry: &str, user: &str, password: &str, access: &Access) -> Result<Kept> {
    let key = key(registry);
    let file = home_of(registry, access)?;
    let target = file.clone();
    change(&file, |config| {
        let helper = helper_for(config, registry);
        let entry = match &helper {
            Some(helper) => {
                credentials::store_with_helper(helper, key, user, password)?;
                json!({})
            }
            None => json!({ "auth": credentials::encode_basic(user, password) }),
        };
        let auths = object(config, "auths")?;
        auths.retain(|have, _| bare(have) != bare(key));
        auths.insert(key.to_owned(), entry);
        Ok((true, helper.map_or(Kept::File(target.clone()), Kept::Helper)))
    })
}

/// Takes the credentials for a registry out of every file and helper. `false` if there were none.
pub fn erase(registry: &str, access: &Access) -> Result<bool> {
    let mut found = false;
    for file in access.credentials.iter().filter(|file| file.exists()) {
        found |= change(file, |config| {
            let helper = helper_for(config, registry);
            if let Some(helper) = &helper {
                credentials::erase_with_helper(helper, key(registry))?;
            }
            let auths = object(config, "auths")?;
            let before = auths.len();
            auths.retain(|have, _| !is_for(have, registry));
            let gone = auths.len() < before;
            Ok((gone, gone || helper.is_some()))
        })?;
    }
    Ok(found)
}

/// Takes all credentials out of every file. Those that helpers keep are erased one by one.
pub fn erase_all(access: &Access) -> Result<()> {
    for file in access.credentials.iter().filter(|file| file.exists()) {
        change(file, |config| {
            let names: Vec<String> = object(config, "auths")?.keys().cloned().collect();
            for name in names {
                if let Some(helper) = helper_for(config, bare(&name)) {
                    credentials::erase_with_helper(&helper, &name)?;
                }
            }
            object(config, "auths")?.clear();
            Ok((true, ()))
        })?;
    }
    Ok(())
}

fn key(registry: &str) -> &str {
    if is_hub(registry) { HUB_KEY } else { registry }
}

fn is_for(have: &str, registry: &str) -> bool {
    let have = bare(have);
    have == registry || is_hub(registry) && (is_hub(have) || have == bare(HUB_KEY))
}

/// The first file that has credentials for the registry, so that no other hides what is stored;
/// Docker's, the last of the list, where none has.
fn home_of(registry: &str, access: &Access) -> Result<PathBuf> {
    for file in &access.credentials {
        if let Some(config) = read(file)?
            && config["auths"].as_object().is_some_and(|a| a.keys().any(|k| is_for(k, registry)))
        {
            return Ok(file.clone());
        }
    }
    access.credentials.last().cloned().ok_or_else(|| {
        Error::engine("HOME is not set: where should credentials be kept?")
            .hint("--authfile FILE names a place")
    })
}

fn helper_for(config: &Value, registry: &str) -> Option<String> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    text(&config["credHelpers"][key(registry)])
        .or_else(|| text(&config["credHelpers"][registry]))
        .or_else(|| text(&config["credsStore"]))
}

fn object<'a>(config: &'a mut Value, name: &str) -> Result<&'a mut Map<String, Value>> {
    let value = &mut config[name];
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or_else(|| Error::invalid(format!("`{name}` is not an object")))
}

fn read(file: &Path) -> Result<Option<Value>> {
    let text = match fs::read(file) {
        Ok(text) if text.trim_ascii().is_empty() => return Ok(None),
        Ok(text) => text,
        Err(err)
            if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(err) => return Err(err).at(file),
    };
    let value: Value = serde_json::from_slice(&text)
        // serde's text could quote what it stumbled over, and that could be a secret.
        .map_err(|err| Error::invalid(format!("not valid JSON at line {}", err.line())))
        .at(file)?;
    if !value.is_object() {
        return Err(Error::invalid("not a JSON object")).at(file);
    }
    Ok(Some(value))
}

/// Reads, changes and replaces a file, alone: whole or not at all, and private. What this version
/// does not know in it stays.
fn change<T>(file: &Path, how: impl Fn(&mut Value) -> Result<(bool, T)>) -> Result<T> {
    // A link that leads to where the user keeps such files stays one.
    let file = fs::read_link(file)
        .map_or_else(|_| file.to_owned(), |to| file.parent().unwrap_or(Path::new("/")).join(to));
    let dir = match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    crate::state::store::create_private_dir(dir)?;
    let _lock = Lock::exclusive(dir)?;
    let mut config = read(&file)?.unwrap_or_else(|| json!({}));
    let (changed, result) = how(&mut config).at(&file)?;
    if changed {
        let mut text = serde_json::to_vec_pretty(&config)?;
        text.push(b'\n');
        write(&file, &text, Durability::Synced)?;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_called_by_their_host() {
        for (typed, name) in [
            ("https://r.io:5000/v2/", "r.io:5000"),
            ("r.io/team", "r.io"),
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
        ] {
            assert_eq!(registry_name(typed).expect(typed), name);
        }
        for typed in ["", "../x", "a b", "-x"] {
            assert!(registry_name(typed).is_err(), "{typed}");
        }
    }
}
