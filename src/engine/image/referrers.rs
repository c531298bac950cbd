//! What a registry has about an image: `image referrers`.

use serde_json::Value;

use crate::{
    engine::{
        Engine,
        registry::{Reach, not_local},
    },
    error::{Context as _, Error, Result},
    image::{
        pull::host_platform,
        registry::{Client, Document, Referrer},
    },
    oci::{Digest, Platform, media_type},
};

impl Engine {
    /// Signatures, attestations and what else the registry of `typed` has about it: about the index
    /// that it may be, and about the image in it for `platform` (as typed; else this machine's).
    pub fn referrers(
        &self,
        typed: &str,
        platform: Option<&str>,
        reach: &Reach,
    ) -> Result<Vec<Referrer>> {
        let platform = match platform {
            Some(text) => text.parse::<Platform>()?,
            None => host_platform()?,
        };
        let mut failed: Option<Error> = None;
        for name in self.meanings(typed)? {
            not_local(&name)?;
            let found = self
                .remote(&name, reach)
                .and_then(|(client, document)| referrers(&client, &document, &platform));
            match found.doing_with(|| format!("look for what is about {}", name.familiar())) {
                Ok(found) => return Ok(found),
                Err(err) => failed = failed.or(Some(err)),
            }
        }
        Err(failed.unwrap_or_else(|| Error::not_found(format!("No such image: {typed}"))))
    }
}

fn referrers(client: &Client, document: &Document, platform: &Platform) -> Result<Vec<Referrer>> {
    let mut found = client.referrers(&document.digest)?;
    let value: Value = serde_json::from_slice(&document.bytes)?;
    let kind = value["mediaType"].as_str().unwrap_or(&document.media_type);
    if media_type::document(kind)? == media_type::Document::Manifest {
        return Ok(found);
    }
    let entries: Vec<&Value> = value["manifests"].as_array().into_iter().flatten().collect();
    let platforms: Vec<Platform> = entries.iter().map(|entry| platform_of(entry)).collect();
    let Some(at) = platform.best(platforms.iter()) else { return Ok(found) };
    let subject: Digest = entries[at]["digest"].as_str().unwrap_or_default().parse()?;
    found.extend(client.referrers(&subject)?);
    found.extend(entries.iter().filter_map(|entry| attestation(entry, &subject)));
    Ok(found)
}

fn platform_of(entry: &Value) -> Platform {
    let text = |key: &str| entry["platform"][key].as_str();
    let (os, architecture) = (text("os").unwrap_or("unknown"), text("architecture"));
    Platform::new(os, architecture.unwrap_or("unknown"), text("variant"))
}

/// BuildKit puts what it knows of an image into the index beside it.
fn attestation(entry: &Value, subject: &Digest) -> Option<Referrer> {
    let annotations = &entry["annotations"];
    if annotations["vnd.docker.reference.digest"].as_str()? != subject.as_str() {
        return None;
    }
    let kind = annotations["vnd.docker.reference.type"].as_str()?;
    Some(Referrer {
        digest: entry["digest"].as_str()?.parse().ok()?,
        size: entry["size"].as_u64()?,
        artifact_type: kind.to_owned(),
        annotations: serde_json::from_value(annotations.clone()).ok()?,
        subject: subject.clone(),
    })
}
