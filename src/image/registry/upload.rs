//! Sending blobs and documents (OCI distribution-spec, "Push").
//!
//! ```text
//!   HEAD blob            200  it is there
//!   POST uploads?mount=  201  the registry took it from a repository that has it
//!                        202  a session, at a URL of the registry's choosing
//!   PATCH session             the bytes; all in one, or in pieces where the registry wants those
//!     cut off: GET session    says how many came; the rest follows
//!   PUT session?digest=  201
//! ```

use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use ureq::{
    Body,
    http::{Method, Response, StatusCode, header},
};

use super::{
    Client,
    token::encode,
    transport::{Fault, drain, parse, refusal, resolve, retrying, same_origin},
};
use crate::{
    error::{Error, Kind, Result},
    image::packing::given_up,
    oci::{Digest, media_type},
};

/// A blob as small as this goes with the request that ends its session.
const SMALL: u64 = 64 << 10;
/// Most that is sent at once to a registry that finds the whole too large: proxies allow 100 MB.
const PIECE_MAX: u64 = 32 << 20;
/// Least: a registry that refuses this takes no layers.
const PIECE_MIN: u64 = 256 << 10;

/// A blob to be sent.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Of its bytes.
    pub digest: &'a Digest,
    /// In bytes.
    pub size: u64,
    /// The bytes, from the first.
    pub file: &'a File,
    /// No more is sent once this is set.
    pub stop: Option<&'a AtomicBool>,
}

impl Outgoing<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The registry had it.
    Exists,
    /// The registry had it in this repository, and needed no bytes.
    Mounted(String),
    /// Its bytes were sent.
    Pushed,
}

/// An upload that the registry expects.
struct Session {
    url: String,
    /// Bytes that every PATCH but the last must have.
    minimum: u64,
}

/// Why a piece did not go through.
enum Trouble {
    TooLarge,
    Fault(Fault),
}

impl<E: Into<Fault>> From<E> for Trouble {
    fn from(err: E) -> Self {
        Self::Fault(err.into())
    }
}

impl Client {
    /// The client for pushing, who may have blobs mounted from these repositories of the registry.
    #[must_use]
    pub fn pushing(self, mounts: Vec<String>) -> Self {
        Self { mounts: Some(mounts), ..self }
    }

    /// Whether the repository has the blob.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        self.has(&format!("blob {digest}"), &format!("blobs/{digest}"), &[])
    }

    /// Sends a blob unless it is there. `from` are repositories that may have it; `tell` hears how
    /// many bytes are through.
    pub fn push_blob(
        &self,
        blob: &Outgoing<'_>,
        from: &[String],
        tell: &dyn Fn(u64),
    ) -> Result<Sent> {
        if self.has_blob(blob.digest)? {
            return Ok(Sent::Exists);
        }
        let mut session = None;
        for repository in from {
            let (answer, mounted) = self.begin(blob.digest, Some(repository))?;
            if mounted {
                return Ok(Sent::Mounted(repository.clone()));
            }
            // A session that is not used ends by itself; the last one is.
            session = Some(answer);
        }
        let session = match session {
            Some(session) => session,
            None => self.begin(blob.digest, None)?.0,
        };
        self.upload(blob, session, tell).map(|()| Sent::Pushed)
    }

    /// Whether the repository has the manifest.
    pub fn has_document(&self, which: &str) -> Result<bool> {
        let accept = media_type::MANIFESTS.join(", ");
        self.has(
            &format!("manifest {which}"),
            &format!("manifests/{which}"),
            &[("Accept", &accept)],
        )
    }

    fn has(&self, what: &str, path: &str, headers: &[(&str, &str)]) -> Result<bool> {
        retrying(self.transport.access(), || match self.fetch(&Method::HEAD, what, path, headers) {
            Ok(_) => Ok(true),
            Err(Fault::Final(err)) if err.kind() == Kind::NotFound => Ok(false),
            Err(fault) => Err(fault),
        })
    }

    /// Has the registry take the blob from another of its repositories. `false`: it would not.
    pub fn mount(&self, digest: &Digest, from: &str) -> Result<bool> {
        Ok(self.begin(digest, Some(from))?.1)
    }

    /// Opens a session, or has the blob mounted: `true`.
    fn begin(&self, digest: &Digest, from: Option<&str>) -> Result<(Session, bool)> {
        let query = from.map_or(String::new(), |from| {
            format!("?mount={}&from={}", encode(digest.as_str()), encode(from))
        });
        let what = format!("push blob {digest}");
        retrying(self.transport.access(), || {
            let url = format!("{}/v2/{}/blobs/uploads/{query}", self.origin()?, self.path);
            let mut response = self.send(&Method::POST, &url, &[], None)?;
            let mounted = response.status() == StatusCode::CREATED && from.is_some();
            if !mounted && response.status() != StatusCode::ACCEPTED {
                return Err(refusal(&what, response));
            }
            drain(&mut response);
            let minimum = number(&response, "oci-chunk-min-length").unwrap_or(0);
            let url = if mounted { String::new() } else { self.location(&url, &response)? };
            Ok((Session { url, minimum }, mounted))
        })
    }

    /// Where the registry wants the rest.
    fn location(&self, base: &str, response: &Response<Body>) -> Result<String> {
        let value = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let value = value.ok_or_else(|| {
            Error::invalid(format!("{}: the registry does not say where to upload", self.domain))
        })?;
        Ok(resolve(&parse(base)?, value)?.to_string())
    }

    /// Sends the bytes, as often as it takes, each time from where the registry has them.
    fn upload(&self, blob: &Outgoing<'_>, mut session: Session, tell: &dyn Fn(u64)) -> Result<()> {
        let access = self.transport.access();
        let (mut at, mut failures, mut piece) = (0, 0, u64::MAX);
        loop {
            let fault = match self.send_rest(blob, &mut session, &mut at, piece, tell) {
                Ok(()) => return Ok(()),
                Err(Trouble::TooLarge) => {
                    piece = smaller(piece, blob.size, session.minimum)?;
                    log::debug!("{} takes less at once; trying {piece} bytes", self.domain);
                    (session, at) = (self.begin(blob.digest, None)?.0, 0);
                    continue;
                }
                Err(Trouble::Fault(fault)) => fault,
            };
            let (err, asked) = match fault {
                Fault::Final(err) => return Err(err),
                Fault::Again(err, asked) => (err, asked),
            };
            if blob.is_stopped() {
                return Err(given_up().into());
            }
            failures += 1;
            if failures >= access.tries {
                return Err(err);
            }
            log::debug!("{err}; looking what came");
            thread::sleep(asked.unwrap_or(access.pause).min(Duration::from_secs(60)));
            let (next, came) = match self.progress_of(&session) {
                Some((url, came)) if came <= blob.size => (Session { url, ..session }, came),
                _ => (self.begin(blob.digest, None)?.0, 0),
            };
            if came > at {
                failures = 0;
            }
            (session, at) = (next, came);
        }
    }

    fn send_rest(
        &self,
        blob: &Outgoing<'_>,
        session: &mut Session,
        at: &mut u64,
        piece: u64,
        tell: &dyn Fn(u64),
    ) -> Result<(), Trouble> {
        if *at == 0 && blob.size <= SMALL {
            return self.close(blob, session, Some((0, blob.size)));
        }
        while *at < blob.size {
            let length = piece.min(blob.size - *at);
            let range = format!("{}-{}", *at, *at + length - 1);
            let mut headers = vec![("Content-Type", "application/octet-stream")];
            // Some registries know whole uploads only, and no ranges.
            if length < blob.size {
                headers.push(("Content-Range", &range));
            }
            let told = |sent| tell(*at + sent);
            let content = Some((blob, *at, length, &told as &dyn Fn(u64)));
            let mut response = self.send(&Method::PATCH, &session.url, &headers, content)?;
            if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
                return Err(Trouble::TooLarge);
            }
            if !matches!(response.status(), StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
                return Err(Trouble::Fault(misplaced(&what(blob), response)));
            }
            drain(&mut response);
            session.url = self.location(&session.url, &response)?;
            *at += length;
        }
        self.close(blob, session, None)
    }

    /// Says what the whole should be, and perhaps sends it.
    fn close(
        &self,
        blob: &Outgoing<'_>,
        session: &Session,
        content: Option<(u64, u64)>,
    ) -> Result<(), Trouble> {
        let joint = if session.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{joint}digest={}", session.url, encode(blob.digest.as_str()));
        let headers = [("Content-Type", "application/octet-stream")];
        let silent: &dyn Fn(u64) = &|_| ();
        let content = content.map(|(from, length)| (blob, from, length, silent));
        let response = self.send(&Method::PUT, &url, &headers, content)?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(Trouble::Fault(misplaced(&what(blob), response))),
        }
    }

    /// How much of an interrupted session came, and where the rest goes. `None`: it is lost.
    fn progress_of(&self, session: &Session) -> Option<(String, u64)> {
        let response = self.send(&Method::GET, &session.url, &[], None).ok()?;
        if response.status() != StatusCode::NO_CONTENT {
            return None;
        }
        let range = response.headers().get(header::RANGE)?.to_str().ok()?;
        let (_, last) = range.trim_start_matches("bytes=").split_once('-')?;
        let last: u64 = last.parse().ok()?;
        // "0-0" is one byte, or none: what is sent twice is refused, so it is none.
        let came = if last == 0 { 0 } else { last + 1 };
        let url = self.location(&session.url, &response).unwrap_or_else(|_| session.url.clone());
        (came > 0).then_some((url, came))
    }

    /// One request with a body, authorized as asked. Its status is the caller's to judge.
    ///
    /// The authorization goes to the registry's own address alone, wherever it says to upload.
    fn send(
        &self,
        method: &Method,
        url: &str,
        headers: &[(&str, &str)],
        content: Option<Part<'_>>,
    ) -> Result<Response<Body>, Fault> {
        let at_home = same_origin(&parse(self.origin()?)?, &parse(url)?);
        let attempt = |authorization: Option<&str>| {
            let authorization = authorization.filter(|_| at_home);
            let Some((blob, from, length, tell)) = content else {
                return self.transport.send(
                    method,
                    url,
                    headers,
                    (&mut &b""[..], 0),
                    authorization,
                );
            };
            let mut reader = Window { blob, at: from, end: from + length, from, tell };
            self.transport.send(method, url, headers, (&mut reader, length), authorization)
        };
        self.authorized(at_home, attempt)
    }

    /// Does `attempt` with what the registry was told before, and again with what it asks for.
    fn authorized(
        &self,
        at_home: bool,
        attempt: impl Fn(Option<&str>) -> Result<Response<Body>, Fault>,
    ) -> Result<Response<Body>, Fault> {
        let known = self.known();
        let mut response = attempt(known.as_deref())?;
        if response.status() == StatusCode::UNAUTHORIZED && at_home {
            drain(&mut response);
            if let Some(fresh) = self.authorize(&response, known.as_deref())? {
                return attempt(Some(&fresh));
            }
        }
        Ok(response)
    }

    /// Puts a manifest or index under a tag or its digest; if it is about another one, says so to
    /// whoever asks for what is (distribution-spec, "Pushing Manifests with Subject").
    pub fn put_document(&self, which: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let is_noted = retrying(self.transport.access(), || {
            let url = format!("{}/v2/{}/manifests/{which}", self.origin()?, self.path);
            let headers = [("Content-Type", media_type)];
            let length = bytes.len() as u64;
            let response = self.authorized(true, |authorization| {
                let content: (&mut dyn Read, u64) = (&mut &bytes[..], length);
                self.transport.send(&Method::PUT, &url, &headers, content, authorization)
            })?;
            match response.status() {
                StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => {
                    Ok(response.headers().contains_key("oci-subject"))
                }
                _ => Err(refusal(&format!("push manifest {which}"), response)),
            }
        })?;
        if is_noted { Ok(()) } else { self.note_referrer(media_type, bytes) }
    }
}

/// The next size of a piece to try, after one was too large.
fn smaller(piece: u64, whole: u64, minimum: u64) -> Result<u64> {
    let half = if piece == u64::MAX { PIECE_MAX.min(whole / 2) } else { piece / 2 };
    let next = half.max(minimum);
    if next < PIECE_MIN || next >= piece {
        return Err(Error::engine(format!(
            "the registry takes no {} bytes at once",
            piece.min(whole)
        ))
        .hint("a proxy in front of it limits the size of requests"));
    }
    Ok(next)
}

fn what(blob: &Outgoing<'_>) -> String {
    format!("push blob {}", blob.digest)
}

/// A session that has gone, or is further than we think, is worth a look at what came.
fn misplaced(what: &str, response: Response<Body>) -> Fault {
    let again = matches!(response.status().as_u16(), 404 | 416);
    match refusal(what, response) {
        Fault::Final(err) if again => Fault::Again(err, None),
        fault @ (Fault::Final(_) | Fault::Again(..)) => fault,
    }
}

fn number(response: &Response<Body>, name: &str) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Some bytes of a blob: from where, how many, and who hears how many of them are through.
type Part<'a> = (&'a Outgoing<'a>, u64, u64, &'a dyn Fn(u64));

/// Part of a file.
struct Window<'a> {
    blob: &'a Outgoing<'a>,
    from: u64,
    at: u64,
    end: u64,
    tell: &'a dyn Fn(u64),
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.blob.is_stopped() {
            return Err(given_up());
        }
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        // Several threads may read the same open file: the position is ours.
        let count = self.blob.file.read_at(&mut buffer[..left], self.at)?;
        self.at += count as u64;
        (self.tell)(self.at - self.from);
        Ok(count)
    }
}
