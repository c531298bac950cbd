//! What a registry has about an image: signatures, attestations, bills of materials (OCI
//! distribution-spec, "Listing Referrers"); and where it was put before there was such a list.

use std::{collections::BTreeMap, sync::PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::{Method, header};

use super::{
    Client, read_all,
    transport::{Fault, is_success, parse, resolve, retrying, same_origin},
};
use crate::{
    error::{Context as _, Error, Kind, Result},
    image::store::MANIFEST_MAX,
    oci::{Digest, media_type},
};

/// A manifest that is about another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Of the manifest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
    /// What it is, by its own words.
    pub artifact_type: String,
    /// Of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// What it is about.
    pub subject: Digest,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What is read of a manifest that is not known from a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    layers: Vec<Layer>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What is read of a manifest or index that was pushed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pushed {
    #[serde(default)]
    subject: Option<Subject>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Layer>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct Subject {
    digest: Digest,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
}

/// Entries that are read of a list, and pages.
const ENTRIES_MAX: usize = 10_000;
const PAGES_MAX: usize = 1_000;

impl Client {
    /// What the registry has about the manifest or index `subject`: by the referrers API, or the
    /// tag that stands for it where there is none; and under the tags that cosign gives.
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<Referrer>> {
        let mut found = self.referring(subject)?;
        for suffix in ["sig", "att", "sbom"] {
            let tag = format!("{}.{suffix}", tag(subject));
            if let Some(referrer) = self.cosigned(subject, &tag)?
                && found.iter().all(|known| known.digest != referrer.digest)
            {
                found.push(referrer);
            }
        }
        Ok(found)
    }

    /// What says itself that it is about `subject`, without cosign's tags.
    pub fn referring(&self, subject: &Digest) -> Result<Vec<Referrer>> {
        let entries = match self.listed_referrers(subject)? {
            Some(entries) => entries,
            None => self.tagged_referrers(subject)?,
        };
        let found = entries.into_iter().map(|entry| Referrer {
            artifact_type: entry.artifact_type.unwrap_or(entry.media_type),
            digest: entry.digest,
            size: entry.size,
            annotations: entry.annotations,
            subject: subject.clone(),
        });
        Ok(found.collect())
    }

    /// The API's list; `None` if the registry has no such thing.
    fn listed_referrers(&self, subject: &Digest) -> Result<Option<Vec<Entry>>> {
        let mut path = format!("/v2/{}/referrers/{subject}", self.path);
        let mut entries = Vec::new();
        for page in 0..PAGES_MAX {
            let asked = retrying(self.transport.access(), || {
                let accept = [("Accept", media_type::OCI_INDEX)];
                let response = match self.ask(&Method::GET, "referrers", &path, &accept) {
                    Err(Fault::Final(err)) if page == 0 && is_unknown(&err) => return Ok(None),
                    answer => answer?,
                };
                let kind = response.headers().get(header::CONTENT_TYPE);
                let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
                let is_index = kind.split(';').next().map(str::trim) == Some(media_type::OCI_INDEX);
                if !is_success(&response) || !is_index {
                    return Ok(None);
                }
                let link = response.headers().get(header::LINK);
                let link = link.and_then(|link| next(link.to_str().ok()?));
                Ok(Some((link, read_all(&self.domain, response, MANIFEST_MAX)?)))
            })?;
            let Some((link, bytes)) = asked else { return Ok(None) };
            entries.extend(read_index(&bytes)?);
            match link {
                Some(link) if entries.len() <= ENTRIES_MAX => path = self.at_home(&link)?,
                Some(_) => break,
                None => return Ok(Some(entries)),
            }
        }
        Err(Error::invalid("the list of referrers has no end"))
    }

    /// A link to this registry, as a path.
    fn at_home(&self, link: &str) -> Result<String> {
        let base = parse(self.origin()?)?;
        let target = resolve(&base, link)?;
        match target.path_and_query().filter(|_| same_origin(&base, &target)) {
            Some(path) => Ok(path.to_string()),
            None => Err(Error::invalid("the list of referrers goes on at another registry")),
        }
    }

    /// distribution-spec, "Referrers Tag Schema".
    fn tagged_referrers(&self, subject: &Digest) -> Result<Vec<Entry>> {
        match self.fetch_document(&tag(subject)) {
            Ok(document) => read_index(&document.bytes),
            Err(err) if err.kind() == Kind::NotFound => Ok(Vec::new()),
            Err(err) => Err(err),
        }
    }

    /// For a registry that has no referrers API: puts the manifest that was pushed into the list
    /// under the tag that stands for it, if it is about another one.
    pub(super) fn note_referrer(&self, media_type: &str, bytes: &[u8]) -> Result<()> {
        let Ok(pushed) = serde_json::from_slice::<Pushed>(bytes) else { return Ok(()) };
        let Some(subject) = pushed.subject else { return Ok(()) };
        let digest = Digest::of(bytes);
        let mut entry = json!({
            "mediaType": media_type, "digest": digest, "size": bytes.len(),
            "artifactType": pushed.artifact_type.or(pushed.config.map(|config| config.media_type)),
            "annotations": pushed.annotations,
        });
        if let Some(entry) = entry.as_object_mut() {
            entry.retain(|_, value| !value.is_null());
        }
        let tag = tag(&subject.digest);
        self.add_referrer(&tag, &digest, entry).doing_with(|| {
            format!("note in {tag} that manifest {} is about another", digest.short())
        })
    }

    fn add_referrer(&self, tag: &str, digest: &Digest, entry: Value) -> Result<()> {
        let _alone = self.referring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut index = match self.fetch_document(tag) {
            Ok(document) => {
                let index: Value = serde_json::from_slice(&document.bytes)?;
                let kind = index["mediaType"].as_str().unwrap_or(&document.media_type);
                if kind != media_type::OCI_INDEX || !index["manifests"].is_array() {
                    return Err(Error::conflict("the registry has something else under that tag"));
                }
                index
            }
            Err(err) if err.kind() == Kind::NotFound => {
                json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] })
            }
            Err(err) => return Err(err),
        };
        let Some(entries) = index["manifests"].as_array_mut() else { return Ok(()) };
        if entries.iter().any(|known| known["digest"].as_str() == Some(digest.as_str())) {
            return Ok(());
        }
        entries.push(entry);
        self.put_document(tag, media_type::OCI_INDEX, &serde_json::to_vec(&index)?)
    }

    fn cosigned(&self, subject: &Digest, tag: &str) -> Result<Option<Referrer>> {
        let document = match self.fetch_document(tag) {
            Ok(document) => document,
            Err(err) if err.kind() == Kind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        };
        let manifest: Manifest = serde_json::from_slice(&document.bytes)
            .map_err(|err| Error::invalid(format!("manifest {tag}: {err}")))?;
        // All are OCI images; what is in them tells what they are.
        let inside = manifest.layers.into_iter().next().map(|layer| layer.media_type);
        Ok(Some(Referrer {
            artifact_type: manifest.artifact_type.or(inside).unwrap_or_default(),
            size: document.bytes.len() as u64,
            digest: document.digest,
            annotations: manifest.annotations,
            subject: subject.clone(),
        }))
    }
}

/// The registry answered, and does not know what was asked for.
fn is_unknown(err: &Error) -> bool {
    err.kind() == Kind::NotFound
        || err.kind() == Kind::Engine && err.to_string().starts_with("referrers")
}

fn read_index(bytes: &[u8]) -> Result<Vec<Entry>> {
    let index: Index = serde_json::from_slice(bytes)
        .map_err(|err| Error::invalid(format!("the list of referrers: {err}")))?;
    Ok(index.manifests)
}

/// `sha256-HEX`; of a longer digest, as much as the specification says.
fn tag(subject: &Digest) -> String {
    format!("{}-{}", subject.algorithm(), &subject.hex()[..subject.hex().len().min(64)])
}

/// The target of a `Link` header to the next page (RFC 8288).
fn next(link: &str) -> Option<String> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    let relation = rest.replace(['"', ' '], "");
    relation.split(';').any(|part| part == "rel=next").then(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_tags() {
        assert_eq!(next("</v2/a?n=1>; rel=\"next\"").as_deref(), Some("/v2/a?n=1"));
        assert_eq!(next("</v2/a>; rel=prev"), None);
        assert_eq!(next("x"), None);
        let digest = Digest::of(b"");
        assert_eq!(tag(&digest), format!("sha256-{}", digest.hex()));
    }
}
