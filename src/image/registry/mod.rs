//! A registry, as one who pulls sees it (OCI distribution-spec, "Pull").
//!
//! Everything that comes from it is verified by the caller or here, by digest; it is believed
//! about nothing. Credentials go to the registry and to the token service it names, over TLS
//! unless the registry itself is without, and to nobody else.

mod blob;
mod challenge;
mod conf;
mod credentials;
#[cfg(test)]
pub(in crate::image) mod fake;
pub mod login;
mod proxy;
mod referrers;
pub mod search;
mod token;
mod transport;
mod upload;
pub mod web;

use std::{
    io::Read as _,
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use ureq::{
    Body,
    http::{Method, Response, StatusCode},
};

pub use self::blob::BlobReader;
pub(super) use self::blob::Kept;
use self::transport::{Fault, Transport, clip, cut_off, drain, is_success, refusal, retrying};
pub use self::{
    conf::{Registries, Source},
    proxy::Proxies,
};
pub use self::{
    credentials::Credentials,
    referrers::Referrer,
    upload::{Outgoing, Sent},
};
use super::store::{CONFIG_MAX, MANIFEST_MAX};
use crate::{
    error::{Context as _, Error, Result},
    oci::{Digest, media_type},
};

/// How registries are reached: what the user, the environment and the machine's files say.
#[derive(Debug, Clone)]
pub struct Access {
    /// `false`: any certificate will do, and plain HTTP where there is no TLS.
    pub tls_verify: bool,
    /// Hosts (with or without port) for which the same holds.
    pub insecure: Vec<String>,
    /// Files with credentials, first one first.
    pub credentials: Vec<PathBuf>,
    /// Directories with certificates by host: containers-certs.d(5).
    pub certificates: Vec<PathBuf>,
    /// What registries.conf says.
    pub registries: Registries,
    /// What leads to hosts that are not asked directly.
    pub proxies: Proxies,
    /// Who the user says to be, whatever the files say (`--creds`).
    pub given: Option<Credentials>,
    /// A directory with certificates for any host (`--cert-dir`).
    pub certificate_dir: Option<PathBuf>,
    /// How often anything is tried before its failure is final.
    pub tries: u32,
    /// The wait before a second attempt; it doubles with each one after.
    pub pause: Duration,
}

impl Access {
    /// What this user's environment and files say. `DHOW_INSECURE_REGISTRIES` is a list of hosts
    /// separated by commas.
    pub fn from_env(tls_verify: bool) -> Result<Self> {
        let listed = std::env::var("DHOW_INSECURE_REGISTRIES").unwrap_or_default();
        let insecure = listed.split(',').map(str::trim).filter(|host| !host.is_empty());
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let own = home.map(|home| home.join(".config/containers/certs.d"));
        let machine = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
        Ok(Self {
            tls_verify,
            insecure: insecure.map(str::to_owned).collect(),
            credentials: credentials::files(),
            certificates: own.into_iter().chain(machine).collect(),
            registries: Registries::from_env()?,
            proxies: Proxies::from_env(),
            ..Self::none()
        })
    }

    /// Anonymous, verified, with no files looked at.
    pub fn none() -> Self {
        Self {
            tls_verify: true,
            insecure: Vec::new(),
            credentials: Vec::new(),
            certificates: Vec::new(),
            registries: Registries::default(),
            proxies: Proxies::default(),
            given: None,
            certificate_dir: None,
            tries: 5,
            pause: Duration::from_millis(500),
        }
    }

    fn credentials_for(&self, domain: &str, path: &str) -> Result<Option<Credentials>> {
        match &self.given {
            Some(given) => Ok(Some(given.clone())),
            None => credentials::find(&self.credentials, domain, path),
        }
    }
}

/// One repository of one registry.
#[derive(Debug)]
pub struct Client {
    domain: String,
    path: String,
    /// Where the registry is: `registry-1.docker.io`.
    host: String,
    /// `https://registry-1.docker.io`, once it is known which scheme it speaks.
    origin: OnceLock<String>,
    transport: Transport,
    authorization: Mutex<Option<String>>,
    /// For one who pushes: the repositories that blobs may be mounted from.
    mounts: Option<Vec<String>>,
    /// Held while a list of referrers is changed.
    referring: Mutex<()>,
}

/// A manifest or index as it was sent, its digest computed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// As they were sent.
    pub bytes: Vec<u8>,
    /// Of the bytes: the one it was asked for by, or else by SHA-256.
    pub digest: Digest,
    /// What the registry says it is; empty if it says nothing.
    pub media_type: String,
}

impl Client {
    /// A client for the repository of a source.
    pub fn of(source: &Source, access: &Access) -> Self {
        let mut access = access.clone();
        if source.insecure {
            access.insecure.push(source.name.domain().to_owned());
        }
        Self::new(source.name.domain(), source.name.path(), access)
    }

    /// A client for `domain/path`, as a reference names them. Nothing is asked yet.
    pub fn new(domain: &str, path: &str, access: Access) -> Self {
        // docker.io is a name; the registry is elsewhere (and has been since 2013).
        let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
        Self {
            domain: domain.into(),
            path: path.into(),
            host: host.into(),
            origin: OnceLock::new(),
            transport: Transport::new(access),
            authorization: Mutex::default(),
            mounts: None,
            referring: Mutex::default(),
        }
    }

    /// The registry's address. Asks which scheme it speaks, if that is open.
    fn origin(&self) -> Result<&str> {
        if let Some(known) = self.origin.get() {
            return Ok(known);
        }
        let found = self.transport.origin(&self.host)?;
        Ok(self.origin.get_or_init(|| found))
    }

    /// Fetches a manifest or index by tag or digest. By digest it is verified, and called so.
    pub fn fetch_document(&self, which: &str) -> Result<Document> {
        let what = format!("manifest {which}");
        let accept = media_type::MANIFESTS.join(", ");
        let path = format!("manifests/{which}");
        let document = retrying(self.transport.access(), || {
            let response = self.get(&what, &path, &[("Accept", &accept)])?;
            read_document(&what, &self.domain, response)
        })?;
        let Ok(wanted) = which.parse::<Digest>() else { return Ok(document) };
        if !wanted.is_of(&document.bytes) {
            return Err(Error::invalid(format!(
                "{what}: the registry sent another one, with digest {}",
                document.digest
            )));
        }
        Ok(Document { digest: wanted, ..document })
    }

    /// Every tag of the repository, sorted (OCI distribution-spec, "Listing Tags"); page by page.
    pub fn tags(&self) -> Result<Vec<String>> {
        let mut tags = Vec::new();
        self.listed("tags", &format!("/v2/{}/tags/list", self.path), |page| {
            tags.extend(page);
            false
        })?;
        tags.sort();
        Ok(tags)
    }

    /// The names that the registry lists under `key` of the document at `path`, page by page, until
    /// `take` has enough.
    fn listed(
        &self,
        key: &str,
        path: &str,
        mut take: impl FnMut(Vec<String>) -> bool,
    ) -> Result<()> {
        /// Pages that lead to more pages have to end somewhere.
        const PAGES_MAX: usize = 10_000;
        let mut last: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let more = last.as_deref().map(|last| format!("&last={}", token::encode(last)));
            let path = format!("{path}?n=1000{}", more.unwrap_or_default());
            let (text, is_last) = retrying(self.transport.access(), || {
                let response = self.ask(&Method::GET, key, &path, &[])?;
                let is_last = response.headers().get("link").is_none();
                Ok((read_all(&self.domain, response, MANIFEST_MAX)?, is_last))
            })?;
            let page: Value = serde_json::from_slice(&text)
                .map_err(|err| Error::invalid(format!("the list of {key} is not JSON: {err}")))?;
            // No such list, or null, is an empty one.
            let page = page.get(key).and_then(Value::as_array).into_iter().flatten();
            let page: Vec<String> = page.filter_map(Value::as_str).map(str::to_owned).collect();
            let end = page.last().cloned();
            // The next page begins after the last name of this one, wherever the link points.
            if take(page) || is_last || end.is_none() || end == last {
                return Ok(());
            }
            last = end;
        }
        Err(Error::invalid(format!("the list of {key} has no end")))
    }

    /// What an image's manifest says it runs on: its configuration knows.
    pub fn platform_of(&self, manifest: &Value) -> Result<Value> {
        let config = &manifest["config"];
        let digest: Digest = config["digest"].as_str().unwrap_or_default().parse()?;
        let size = config["size"].as_u64().filter(|size| *size <= CONFIG_MAX).unwrap_or_default();
        let config = self.fetch_json("configuration", &digest, size)?;
        let mut platform = json!({});
        for key in ["architecture", "os", "os.version", "variant"] {
            if config[key].as_str().is_some_and(|text| !text.is_empty()) {
                platform[key] = config[key].clone();
            }
        }
        Ok(platform)
    }

    /// What is in a blob of JSON, read into memory and compared with its digest; errors call it
    /// `what`.
    pub fn fetch_json(&self, what: &str, digest: &Digest, size: u64) -> Result<Value> {
        let mut bytes = Vec::new();
        let read = self.fetch_blob(digest, size).read_to_end(&mut bytes);
        read.doing_with(|| format!("read the {what}"))?;
        if Digest::of(&bytes) != *digest {
            return Err(Error::invalid(format!("{what} {digest} has other content")));
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// A GET below this repository, authorized as asked.
    fn get(
        &self,
        what: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, Fault> {
        self.fetch(&Method::GET, what, path, headers)
    }

    /// A GET or HEAD below this repository, authorized as asked.
    fn fetch(
        &self,
        method: &Method,
        what: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, Fault> {
        self.ask(method, what, &format!("/v2/{}/{path}", self.path), headers)
    }

    /// As [`fetch`](Self::fetch), from the registry's own root.
    fn ask(
        &self,
        method: &Method,
        what: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, Fault> {
        let known = self.known();
        let (mut response, mut elsewhere) = self.first(method, path, headers, known.as_deref())?;
        let url = format!("{}{path}", self.origin()?);
        // Another host's challenge is not answered: it may name a service of its choosing.
        if response.status() == StatusCode::UNAUTHORIZED && !elsewhere {
            drain(&mut response);
            let fresh = self.authorize(&response, known.as_deref())?;
            if let Some(fresh) = fresh {
                (response, elsewhere) =
                    self.transport.fetch(method, &url, headers, Some(&fresh))?;
            }
        }
        if is_success(&response) {
            return Ok(response);
        }
        let whose = if elsewhere { format!("{what}, by redirect") } else { what.to_owned() };
        Err(refusal(&whose, response))
    }

    /// One request, which may be the first: then it also finds out which scheme the registry speaks.
    fn first(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        known: Option<&str>,
    ) -> Result<(Response<Body>, bool), Fault> {
        if let Some(origin) = self.origin.get() {
            return self.transport.fetch(method, &format!("{origin}{path}"), headers, known);
        }
        let (origin, answer) = self.transport.discover(&self.host, |origin| {
            self.transport.fetch(method, &format!("{origin}{path}"), headers, known)
        })?;
        self.origin.get_or_init(|| origin);
        Ok(answer)
    }

    fn known(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads an answer that should be small. One that is longer than `max` comes back `max + 1` long.
fn read_all(host: &str, response: Response<Body>, max: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let mut body = response.into_body().into_reader().take(max + 1);
    body.read_to_end(&mut bytes).map_err(|err| cut_off(host, &err))?;
    Ok(bytes)
}

fn read_document(what: &str, host: &str, response: Response<Body>) -> Result<Document, Fault> {
    let text = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().trim().to_owned()
    };
    let media_type = text("content-type").split(';').next().unwrap_or_default().trim().to_owned();
    let claimed = text("docker-content-digest");
    let bytes = read_all(host, response, MANIFEST_MAX)?;
    if bytes.len() as u64 > MANIFEST_MAX {
        return Err(Error::invalid(format!("{what} is larger than {MANIFEST_MAX} bytes")).into());
    }
    let digest = Digest::of(&bytes);
    let lies = match claimed.parse::<Digest>() {
        Ok(claimed) => !claimed.is_of(&bytes),
        Err(_) => claimed.starts_with("sha256:"),
    };
    if lies {
        return Err(Error::invalid(format!(
            "{what}: the registry says it is {}, but it is {digest}",
            clip(&claimed)
        ))
        .into());
    }
    Ok(Document { bytes, digest, media_type })
}
