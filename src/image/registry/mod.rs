//! A registry, as one who pulls sees it (OCI distribution-spec, "Pull").
//!
//! Everything that comes from it is verified by the caller or here, by digest; it is believed
//! about nothing. Credentials go to the registry and to the token service it names, over TLS
//! unless the registry itself is without, and to nobody else.

mod challenge;
mod credentials;
#[cfg(test)]
pub(in crate::image) mod fake;
mod transport;

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ureq::{
    Body,
    http::{Response, StatusCode, header},
};

use self::{
    challenge::Challenge,
    credentials::Credentials,
    transport::{Fault, Transport, clip, cut_off, drain, is_success, refusal, retrying},
};
use super::store::MANIFEST_MAX;
use crate::{
    error::{Error, Kind, Result},
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

    /// Fetches a small blob whole. Verified by whoever stores it.
    pub fn fetch_blob(&self, digest: &Digest, size: u64) -> BlobReader<'_> {
        self.resume_blob(digest, size, 0)
    }

    /// Reads a blob from byte `from` to its end, asking again for the rest each time the
    /// connection breaks.
    pub fn resume_blob(&self, digest: &Digest, size: u64, from: u64) -> BlobReader<'_> {
        BlobReader {
            client: self,
            digest: digest.clone(),
            size,
            done: from,
            failures: 0,
            body: None,
            stop: None,
        }
    }

    /// One answer with a blob's bytes from `from` on.
    fn open_blob(
        &self,
        digest: &Digest,
        size: u64,
        from: u64,
    ) -> Result<Box<dyn Read + Send>, Fault> {
        let what = format!("blob {digest}");
        let range = format!("bytes={from}-");
        let headers: &[(&str, &str)] = if from > 0 { &[("Range", &range)] } else { &[] };
        let response = self.get(&what, &format!("blobs/{digest}"), headers)?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        if partial && !begins_at(&response, from) {
            return Err(Error::engine(format!("{what}: the registry sent another range")).into());
        }
        let promised = if partial { size - from } else { size };
        if let Some(length) = response.body().content_length()
            && length != promised
        {
            return Err(Error::invalid(format!(
                "{what}: the registry has {length} bytes where the manifest says {promised}"
            ))
            .into());
        }
        let mut body = response.into_body().into_reader();
        if !partial && from > 0 {
            // A registry that knows no ranges sends it all again.
            io::copy(&mut body.by_ref().take(from), &mut io::sink())
                .map_err(|err| cut_off(&self.domain, &err))?;
        }
        Ok(Box::new(body))
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

    /// Finds out what to say to a 401. `None`: nothing better than what was said.
    ///
    /// Threads that are refused together wait here for the one that asks.
    fn authorize(
        &self,
        response: &Response<Body>,
        said: Option<&str>,
    ) -> Result<Option<String>, Fault> {
        let mut authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        if authorization.as_deref() != said {
            return Ok(authorization.clone());
        }
        let challenges = challenges(response);
        let credentials =
            credentials::find(&self.transport.access().credentials, &self.domain, &self.path)?;
        let scheme = |name: &str| challenges.iter().find(|challenge| challenge.scheme == name);
        let fresh = match (scheme("bearer"), scheme("basic"), credentials) {
            (_, _, Some(Credentials::Bearer(token))) => Some(format!("Bearer {token}")),
            (Some(bearer), _, credentials) => Some(self.fetch_token(bearer, credentials)?),
            (None, Some(_), Some(Credentials::Password { user, password })) => {
                Some(Credentials::basic(&user, &password))
            }
            _ => None,
        };
        if fresh.as_deref() == said {
            return Ok(None);
        }
        authorization.clone_from(&fresh);
        Ok(fresh)
    }

    /// distribution's "Token Authentication Specification" and, for a refresh token, its OAuth2 one.
    fn fetch_token(
        &self,
        challenge: &Challenge,
        credentials: Option<Credentials>,
    ) -> Result<String, Fault> {
        let what = format!("a token for {}/{}", self.domain, self.path);
        let realm = challenge.parameter("realm").unwrap_or_default();
        if self.origin.starts_with("https://") && !realm.starts_with("https://") {
            return Err(Error::new(
                Kind::Unauthorized,
                format!("{} names a token service without TLS: {:?}", self.domain, clip(realm)),
            )
            .hint("dhow sends nothing there: the registry is set up wrongly, or somebody is in between")
            .into());
        }
        let own_scope = format!("repository:{}:pull", self.path);
        let scope = challenge.parameter("scope").unwrap_or(&own_scope);
        let service = challenge.parameter("service").unwrap_or_default();
        let query = format!("service={}&scope={}", encode(service), encode(scope));
        let response = match credentials {
            Some(Credentials::Identity(token)) => {
                let grant = "grant_type=refresh_token&client_id=dhow";
                let form = format!("{grant}&{query}&refresh_token={}", encode(&token));
                self.transport.post_form(realm, &form)?
            }
            other => {
                let basic = other.and_then(|credentials| match credentials {
                    Credentials::Password { user, password } => {
                        Some(Credentials::basic(&user, &password))
                    }
                    Credentials::Identity(_) | Credentials::Bearer(_) => None,
                });
                let joint = if realm.contains('?') { '&' } else { '?' };
                self.transport.get(&format!("{realm}{joint}{query}"), &[], basic.as_deref())?.0
            }
        };
        if !is_success(&response) {
            return Err(refusal(&what, response));
        }
        read_token(&what, &self.domain, response).map(|token| format!("Bearer {token}"))
    }
}

fn challenges(response: &Response<Body>) -> Vec<Challenge> {
    let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
    headers.iter().filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect()
}

fn read_token(what: &str, host: &str, response: Response<Body>) -> Result<String, Fault> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    const TOKEN_MAX: u64 = 1 << 20;
    let text = read_all(host, response, TOKEN_MAX)?;
    let answer = serde_json::from_slice::<Answer>(&text).ok();
    let token = answer.and_then(|answer| answer.token.or(answer.access_token));
    let sane = |token: &String| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    token
        .filter(sane)
        .ok_or_else(|| Error::invalid(format!("{what}: the answer holds none")).into())
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

/// RFC 9110, "Content-Range": `bytes FROM-TO/SIZE`.
fn begins_at(response: &Response<Body>, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    first.is_some_and(|first| first.parse() == Ok(from))
}

/// RFC 3986, "Percent-Encoding".
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// A blob's bytes, over as many connections as it takes.
pub struct BlobReader<'a> {
    client: &'a Client,
    digest: Digest,
    size: u64,
    done: u64,
    /// Since the last byte that came.
    failures: u32,
    body: Option<Box<dyn Read + Send>>,
    stop: Option<&'a AtomicBool>,
}

impl std::fmt::Debug for BlobReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobReader({} {}/{})", self.digest, self.done, self.size)
    }
}

const FAILURES_MAX: u32 = 5;

impl<'a> BlobReader<'a> {
    /// Ends with an error once `stop` is set.
    #[must_use]
    pub fn until(mut self, stop: &'a AtomicBool) -> Self {
        self.stop = Some(stop);
        self
    }

    fn body(&mut self) -> Result<&mut Box<dyn Read + Send>> {
        if self.body.is_none() {
            let pause = self.client.transport.access().pause;
            let open = || self.client.open_blob(&self.digest, self.size, self.done);
            self.body = Some(retrying(pause, open)?);
        }
        self.body.as_mut().ok_or_else(|| Error::engine("no answer"))
    }

    /// One read; `None` if the connection broke and another may be tried.
    fn read_once(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        let left = self.size - self.done;
        let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let reason = match self.body()?.read(&mut buffer[..want]) {
            Ok(0) => "the connection closed".to_owned(),
            Ok(count) => {
                self.failures = 0;
                self.done += count as u64;
                return Ok(Some(count));
            }
            Err(err) => crate::error::describe(&err),
        };
        self.body = None;
        self.failures += 1;
        if self.failures < FAILURES_MAX {
            log::debug!("{self:?}: {reason}; resuming");
            std::thread::sleep(self.client.transport.access().pause);
            return Ok(None);
        }
        Err(Error::engine(format!(
            "blob {} ends after {} of {} bytes: {reason}",
            self.digest, self.done, self.size
        ))
        .hint("what has arrived is kept; pulling again fetches only the rest"))
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.done >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(io::Error::other(Error::engine("given up")));
            }
            // The error travels inside the I/O error, through decompressors, to the caller.
            if let Some(count) = self.read_once(buffer).map_err(io::Error::other)? {
                return Ok(count);
            }
        }
    }
}

/// A reader that keeps what passes.
pub(super) struct Kept<R, W> {
    pub(super) source: R,
    pub(super) copy: W,
}

impl<R: Read, W: Write> Read for Kept<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.copy.write_all(&buffer[..count])?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_to_a_token_service_without_tls() {
        let client = Client {
            domain: "r.io".into(),
            path: "app".into(),
            origin: "https://r.io".into(),
            transport: Transport::new(Access::none()),
            authorization: Mutex::default(),
        };
        for realm in ["http://r.io/token", "http://127.0.0.1:1/", "//r.io/token", ""] {
            let header = format!(r#"Bearer realm="{realm}",service="x""#);
            let challenge = challenge::parse(&header).remove(0);
            let credentials =
                Credentials::Password { user: "user".into(), password: "pass".into() };
            let fault = client.fetch_token(&challenge, Some(credentials));
            let Err(Fault::Final(err)) = fault else { panic!("{realm}: {fault:?}") };
            assert!(err.to_string().contains("without TLS"), "{err}");
        }
    }

    #[test]
    fn query_values_cannot_add_parameters() {
        assert_eq!(
            encode("repository:a/b:pull&x=1 é"),
            "repository%3Aa%2Fb%3Apull%26x%3D1%20%C3%A9"
        );
    }
}
