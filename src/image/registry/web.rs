//! One file of the web, for builds: asked for again only if it has changed.

use std::io::Read;

use ureq::http::{Method, Response, StatusCode, header};

use super::{
    Access,
    transport::{Fault, Transport, retrying},
};
use crate::error::{Error, Result};

/// What a server said of a file, so that it can be asked whether that still holds (RFC 9110,
/// "Conditional Requests").
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Version {
    pub etag: Option<String>,
    /// As it was sent.
    pub last_modified: Option<String>,
}

/// The answer.
pub enum Answer {
    /// It is what it was.
    Same,
    Here(Download),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Same => f.write_str("Same"),
            Self::Here(download) => write!(f, "Here({:?})", download.version),
        }
    }
}

/// A file on its way.
pub struct Download {
    pub version: Version,
    /// When it was last changed, in seconds since 1970.
    pub modified: Option<i64>,
    /// What the server calls it.
    pub name: Option<String>,
    pub body: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Download({:?})", self.version)
    }
}

/// Whether it is an address of the web.
pub fn is_web(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Asks for a file, unless it is still the one that is `known`.
pub fn get(url: &str, known: Option<&Version>, access: &Access) -> Result<Answer> {
    let transport = Transport::new(access.clone());
    let url = url.split('#').next().unwrap_or_default();
    let mut headers = Vec::new();
    if let Some(known) = known {
        headers.extend(known.etag.as_deref().map(|etag| ("If-None-Match", etag)));
        headers.extend(known.last_modified.as_deref().map(|time| ("If-Modified-Since", time)));
    }
    retrying(transport.access(), || {
        let (response, _) = transport.fetch(&Method::GET, url, &headers, None)?;
        match response.status() {
            StatusCode::OK => Ok(Answer::Here(download(response))),
            StatusCode::NOT_MODIFIED if known.is_some() => Ok(Answer::Same),
            status => {
                let err = Error::not_found(format!("{url}: invalid response status {status}"));
                match status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                    true => Err(Fault::Again(err, None)),
                    false => Err(Fault::Final(err)),
                }
            }
        }
    })
}

fn download(response: Response<ureq::Body>) -> Download {
    let text = |name: header::HeaderName| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let version = Version { etag: text(header::ETAG), last_modified: text(header::LAST_MODIFIED) };
    let modified = version.last_modified.as_deref().and_then(date);
    let name = text(header::CONTENT_DISPOSITION).and_then(|value| filename(&value));
    Download { version, modified, name, body: Box::new(response.into_body().into_reader()) }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, "Date/Time Formats").
fn date(text: &str) -> Option<i64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(time.as_second())
}

/// RFC 6266; a name, never a path.
fn filename(value: &str) -> Option<String> {
    let named = value.split(';').find_map(|part| part.trim().strip_prefix("filename="))?;
    let name = named.trim_matches('"').rsplit(['/', '\\']).next().unwrap_or_default();
    (!name.is_empty() && name != "." && name != "..").then(|| name.to_owned())
}

/// The last part of an address's path.
pub fn name_of(url: &str) -> Option<String> {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    let (_, path) = bare.split_once("://")?.1.split_once('/')?;
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    (!name.is_empty() && name != "." && name != "..").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_dates() {
        assert_eq!(name_of("https://a/b/c.tar?x=/y#z").as_deref(), Some("c.tar"));
        assert_eq!(name_of("https://a/b/").as_deref(), Some("b"));
        assert_eq!(name_of("https://a/").as_deref(), None);
        assert_eq!(name_of("https://a").as_deref(), None);
        assert_eq!(name_of("https://a/b/..").as_deref(), None);
        assert_eq!(filename("attachment; filename=\"../x\"").as_deref(), Some("x"));
        assert_eq!(filename("inline"), None);
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(date("yesterday"), None);
    }
}
