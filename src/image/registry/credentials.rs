//! Who the user is to a registry: Docker's and Podman's files, and their credential helpers.
//!
//! What is found is held in memory for one command and never logged (the types have no `Debug`
//! that shows it). [`super::login`] writes them.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_PAD_INDIFFERENT as BASE64};
use serde::Deserialize;

use super::transport::clip;
use crate::{
    error::{Context as _, Error, Result},
    image::places::{self, variable},
};

/// Docker Hub's key in `auths`, from before registries had names.
pub(super) const HUB_KEY: &str = "https://index.docker.io/v1/";

/// What proves who the user is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user's name and what only the user knows.
    Password {
        /// Who.
        user: String,
        /// The secret.
        password: String,
    },
    /// An OAuth2 refresh token, to be exchanged for a bearer token.
    Identity(String),
    /// A bearer token as it is.
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

impl Credentials {
    /// The value of an `Authorization` header of scheme `Basic` (RFC 7617).
    pub(super) fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
    }
}

/// The files that may hold credentials, first one first: `REGISTRY_AUTH_FILE`, Podman's
/// (containers-auth.json(5)), then Docker's.
pub(super) fn files() -> Vec<PathBuf> {
    let docker = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
    [
        variable("REGISTRY_AUTH_FILE"),
        variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        places::containers().map(|dir| dir.join("auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthFile {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity: Option<String>,
    #[serde(rename = "registrytoken")]
    bearer: Option<String>,
}

/// The credentials for `domain/path`, from the first file that has some. `None`: anonymous.
pub(super) fn find(files: &[PathBuf], domain: &str, path: &str) -> Result<Option<Credentials>> {
    for file in files {
        if let Some(found) = find_in(file, domain, path).at(file).doing("read credentials")? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn find_in(path: &Path, domain: &str, repository: &str) -> Result<Option<Credentials>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(err)
            if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(err) => return Err(err.into()),
    };
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let file: AuthFile = serde_json::from_slice(&text).map_err(|err| {
        // serde's text could quote what it stumbled over, and that could be a secret.
        Error::invalid(format!("not valid JSON at line {}, column {}", err.line(), err.column()))
    })?;
    let keys = keys(domain, repository);
    let helper = keys.iter().find_map(|key| file.helpers.get(key)).or(file.store.as_ref());
    if let Some(helper) = helper
        && let Some(found) = ask_helper(helper, if is_hub(domain) { HUB_KEY } else { domain })?
    {
        return Ok(Some(found));
    }
    let fits = |key: &String| file.auths.iter().find(|(have, _)| bare(have) == key);
    keys.iter().find_map(fits).map_or(Ok(None), |(_, entry)| read_entry(entry))
}

pub(super) fn is_hub(domain: &str) -> bool {
    matches!(domain, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// The keys that may hold it, most specific first: Podman's namespaced ones, then the host.
fn keys(domain: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository;
    while !path.is_empty() {
        keys.push(format!("{domain}/{path}"));
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    keys.push(domain.to_owned());
    if is_hub(domain) {
        keys.extend([HUB_KEY, "index.docker.io", "docker.io"].map(str::to_owned));
    }
    keys
}

/// A key without the scheme and version that old `docker login` wrote.
pub(super) fn bare(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

fn read_entry(entry: &Entry) -> Result<Option<Credentials>> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(token) = given(&entry.identity) {
        return Ok(Some(Credentials::Identity(token)));
    }
    if let Some(token) = given(&entry.bearer) {
        return Ok(Some(Credentials::Bearer(token)));
    }
    if let Some(auth) = given(&entry.auth) {
        let decoded = BASE64.decode(auth.trim()).ok().and_then(|raw| String::from_utf8(raw).ok());
        let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':'))
        else {
            return Err(Error::invalid("`auth` is not base64 of USER:PASSWORD"));
        };
        let password = password.trim_end_matches('\0').to_owned();
        return Ok(Some(Credentials::Password { user: user.to_owned(), password }));
    }
    let password = given(&entry.username).zip(given(&entry.password));
    Ok(password.map(|(user, password)| Credentials::Password { user, password }))
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Runs `docker-credential-NAME get` (docker-credential-helpers, "Development").
fn ask_helper(name: &str, server: &str) -> Result<Option<Credentials>> {
    let program = program(name)?;
    converse(Command::new(&program).arg("get"), server).doing_with(|| format!("{program} get"))
}

/// Has a helper keep what proves who the user is.
pub(super) fn store_with_helper(
    name: &str,
    server: &str,
    user: &str,
    password: &str,
) -> Result<()> {
    let program = program(name)?;
    let said = serde_json::json!({ "ServerURL": server, "Username": user, "Secret": password });
    tell(Command::new(&program).arg("store"), &said.to_string())
        .doing_with(|| format!("{program} store"))
}

/// Has a helper forget.
pub(super) fn erase_with_helper(name: &str, server: &str) -> Result<()> {
    let program = program(name)?;
    match tell(Command::new(&program).arg("erase"), server) {
        Err(err) if err.to_string().to_ascii_lowercase().contains("not found") => Ok(()),
        told => told.doing_with(|| format!("{program} erase")),
    }
}

/// As `auth` has it.
pub(super) fn encode_basic(user: &str, password: &str) -> String {
    BASE64.encode(format!("{user}:{password}"))
}

fn program(name: &str) -> Result<String> {
    // The name completes a program's name and must not lead elsewhere.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(Error::invalid(format!("{name:?} is not a credential helper's name")));
    }
    Ok(format!("docker-credential-{name}"))
}

/// The server's name goes in, a JSON object comes out; a refusal is on either output.
fn converse(helper: &mut Command, server: &str) -> Result<Option<Credentials>> {
    let output = run(helper, server)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.to_ascii_lowercase().contains("credentials not found") {
            return Ok(None);
        }
        return Err(refused(&output));
    }
    // Whatever is wrong with it, it may be a secret: it is not shown.
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout)
        .map_err(|_| Error::invalid("the answer holds no Username and Secret"))?;
    Ok(Some(match answer.user.as_str() {
        "<token>" => Credentials::Identity(answer.secret),
        _ => Credentials::Password { user: answer.user, password: answer.secret },
    }))
}

fn tell(helper: &mut Command, what: &str) -> Result<()> {
    let output = run(helper, what)?;
    if output.status.success() { Ok(()) } else { Err(refused(&output)) }
}

fn run(helper: &mut Command, input: &str) -> Result<Output> {
    let spawned =
        helper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|err| {
        Error::from(err).hint("install the helper, or take its name out of the file")
    })?;
    if let Some(mut pipe) = child.stdin.take() {
        // A helper that does not read has its reasons, and says them below.
        pipe.write_all(input.as_bytes()).ok();
    }
    Ok(child.wait_with_output()?)
}

fn refused(output: &Output) -> Error {
    let (said, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Error::engine(clip(if err.trim().is_empty() { said.trim() } else { err.trim() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(text: &str, domain: &str, path: &str) -> Result<Option<Credentials>> {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("config.json");
        fs::write(&file, text).expect("write");
        find(&[dir.path().join("absent.json"), file], domain, path)
    }

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password { user: user.into(), password: password.into() }
    }

    #[test]
    fn keys_are_found_most_specific_first() {
        let file = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOnNlY3JldA=="},
            "https://r.io/v2/":{"auth":"aG9zdDpwOnc"},
            "r.io/team":{"username":"team","password":"x"},
            "id.io":{"auth":"","identitytoken":"refresh"},
            "b.io":{"registrytoken":"bearer"}}}"#;
        let found = |domain, path| lookup(file, domain, path).expect("reads");
        assert_eq!(found("docker.io", "library/alpine"), Some(password("hub", "secret")));
        assert_eq!(found("r.io", "other/app"), Some(password("host", "p:w")));
        assert_eq!(found("r.io", "team/app"), Some(password("team", "x")));
        assert_eq!(found("r.io", "teamster"), Some(password("host", "p:w")));
        assert_eq!(found("id.io", "a"), Some(Credentials::Identity("refresh".into())));
        assert_eq!(found("b.io", "a"), Some(Credentials::Bearer("bearer".into())));
        assert_eq!(found("evil.r.io", "a"), None);
    }

    #[test]
    fn damaged_files_are_named_and_secrets_are_not_shown() {
        let err = lookup(r#"{"auths":{"a":{"auth":secret}}}"#, "a", "b").expect_err("not JSON");
        assert!(err.to_string().contains("config.json"), "{err}");
        assert!(!err.to_string().contains("secret"), "{err}");
        let err = lookup(r#"{"auths":{"a":{"auth":"%%%"}}}"#, "a", "b").expect_err("not base64");
        assert!(err.to_string().contains("USER:PASSWORD"), "{err}");
        let err = lookup(r#"{"credsStore":"../../bin/sh"}"#, "a", "b").expect_err("a path");
        assert!(err.to_string().contains("not a credential helper's name"), "{err}");
        let err =
            lookup(r#"{"credHelpers":{"a":"surely-not-there"}}"#, "a", "b").expect_err("absent");
        assert!(err.to_string().contains("docker-credential-surely-not-there"), "{err}");
        assert_eq!(format!("{:?}", password("u", "secret")), "Credentials(hidden)");
    }

    #[test]
    fn a_helper_is_asked_and_its_answers_are_understood() {
        let ask = |script: &str| converse(Command::new("sh").args(["-c", script]), "r.io");
        let answer =
            r#"read s; printf '{"ServerURL":"%s","Username":"%s","Secret":"x"}' "$s" "$s""#;
        assert_eq!(ask(answer), Ok(Some(password("r.io", "x"))));
        let token = r#"echo '{"Username":"<token>","Secret":"refresh"}'"#;
        assert_eq!(ask(token), Ok(Some(Credentials::Identity("refresh".into()))));
        let none = "echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(ask(none), Ok(None));
        let locked = ask("echo the keychain is locked >&2; exit 1").expect_err("locked");
        assert_eq!(locked.to_string(), "the keychain is locked");
        let odd = ask(r#"echo '{"Secret":"s3cr3t"}'"#).expect_err("odd");
        assert!(!odd.to_string().contains("s3cr3t"), "{odd}");
    }
}
