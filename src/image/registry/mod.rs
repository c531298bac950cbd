//! A registry, as one who pulls sees it (OCI distribution-spec, "Pull").
//!
//! Everything that comes from it is verified by the caller or here, by digest; it is believed
//! about nothing. Credentials go to the registry and to the token service it names, over TLS
//! unless the registry itself is without, and to nobody else.

mod blob;
mod challenge;
mod credentials;
#[cfg(test)]
pub(in crate::image) mod fake;
mod token;
mod transport;

use std::{
    io::Read as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ureq::{
    Body,
    http::{Response, StatusCode},
};

pub use self::blob::BlobReader;
pub(super) use self::blob::Kept;
use self::transport::{Fault, Transport, clip, cut_off, drain, is_success, refusal, retrying};
use super::store::MANIFEST_MAX;
use crate::{
    error::{Error, Result},
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
    /// The wait before a second attempt; it doubles with each one after.
    pub pause: Duration,
}

impl Access {
    /// What this user's environment and files say. `DHOW_INSECURE_REGISTRIES` is a list of hosts
    /// separated by commas.
    pub fn from_env(tls_verify: bool) -> Self {
        let listed = std::env::var("DHOW_INSECURE_REGISTRIES").unwrap_or_default();
        let insecure = listed.split(',').map(str::trim).filter(|host| !host.is_empty());
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let own = home.map(|home| home.join(".config/containers/certs.d"));
        let machine = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
        Self {
            tls_verify,
            insecure: insecure.map(str::to_owned).collect(),
            credentials: credentials::files(),
            certificates: own.into_iter().chain(machine).collect(),
            ..Self::none()
        }
    }

    /// Anonymous, verified, with no files looked at.
    pub fn none() -> Self {
        Self {
            tls_verify: true,
            insecure: Vec::new(),
            credentials: Vec::new(),
            certificates: Vec::new(),
            pause: Duration::from_millis(500),
        }
    }
}

/// One repository of one registry.
#[derive(Debug)]
pub struct Client {
    domain: String,
    path: String,
    /// `https://registry-1.docker.io`.
    origin: String,
    transport: Transport,
    authorization: Mutex<Option<String>>,
}

/// A manifest or index as it was sent, its digest computed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// As they were sent.
    pub bytes: Vec<u8>,
    /// Of the bytes.
    pub digest: Digest,
    /// What the registry says it is; empty if it says nothing.
    pub media_type: String,
}

impl Client {
    /// A client for `domain/path`, as a reference names them.
    pub fn new(domain: &str, path: &str, access: Access) -> Result<Self> {
        let transport = Transport::new(access);
        // docker.io is a name; the registry is elsewhere (and has been since 2013).
        let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
        Ok(Self {
            domain: domain.into(),
            path: path.into(),
            origin: transport.origin(host)?,
            transport,
            authorization: Mutex::default(),
        })
    }

    /// Fetches a manifest or index by tag or digest. By digest it is verified.
    pub fn fetch_document(&self, which: &str) -> Result<Document> {
        let what = format!("manifest {which}");
        let accept = media_type::MANIFESTS.join(", ");
        let path = format!("manifests/{which}");
        let document = retrying(self.transport.access().pause, || {
            let response = self.get(&what, &path, &[("Accept", &accept)])?;
            read_document(&what, &self.domain, response)
        })?;
        match which.parse::<Digest>() {
            Ok(wanted) if wanted != document.digest => Err(Error::invalid(format!(
                "{what}: the registry sent another one, with digest {}",
                document.digest
            ))),
            _ => Ok(document),
        }
    }

    /// A GET below this repository, authorized as asked.
    fn get(
        &self,
        what: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, Fault> {
        let url = format!("{}/v2/{}/{path}", self.origin, self.path);
        let known = self.known();
        let (mut response, mut elsewhere) = self.transport.get(&url, headers, known.as_deref())?;
        // Another host's challenge is not answered: it may name a service of its choosing.
        if response.status() == StatusCode::UNAUTHORIZED && !elsewhere {
            drain(&mut response);
            let fresh = self.authorize(&response, known.as_deref())?;
            if let Some(fresh) = fresh {
                (response, elsewhere) = self.transport.get(&url, headers, Some(&fresh))?;
            }
        }
        if is_success(&response) {
            return Ok(response);
        }
        let whose = if elsewhere { format!("{what}, by redirect") } else { what.to_owned() };
        Err(refusal(&whose, response))
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
    if claimed.starts_with("sha256:") && claimed != digest.as_str() {
        return Err(Error::invalid(format!(
            "{what}: the registry says it is {}, but it is {digest}",
            clip(&claimed)
        ))
        .into());
    }
    Ok(Document { bytes, digest, media_type })
}
