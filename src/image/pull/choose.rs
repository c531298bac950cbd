//! From the document that a name stands for to the manifest of one image: indexes are followed, and
//! what could be read as two things is refused.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde_json::Value;

use crate::{
    error::{Context as _, Error, Result},
    image::{
        registry::{Client, Document},
        store::MANIFEST_MAX,
    },
    oci::{Digest, Platform, media_type},
};

/// How deep an index may point to an index. The specification sets no limit; one is in use.
pub(super) const INDEX_DEPTH_MAX: usize = 4;

/// The manifest of one image.
pub(super) struct Chosen {
    pub(super) document: Document,
    pub(super) media_type: String,
    pub(super) manifest: ImageManifest,
    /// An index said that it is for the platform.
    pub(super) by_index: bool,
}

/// Follows indexes to the manifest for the platform.
pub(super) fn choose(client: &Client, first: Document, platform: &Platform) -> Result<Chosen> {
    let mut document = first;
    for depth in 0..INDEX_DEPTH_MAX {
        let (kind, media_type) = classify(&document)?;
        let what = || format!("read manifest {}", document.digest);
        if kind == media_type::Document::Manifest {
            let manifest = serde_json::from_slice(&document.bytes).doing_with(what)?;
            refuse_artifact(&manifest)?;
            return Ok(Chosen { document, media_type, manifest, by_index: depth > 0 });
        }
        let index: ImageIndex = serde_json::from_slice(&document.bytes).doing_with(what)?;
        let entry = best(index.manifests(), platform)?;
        document = fetch_entry(client, entry)?;
    }
    Err(Error::invalid(format!("more than {INDEX_DEPTH_MAX} indexes point to each other")))
}

/// An artifact (image-spec manifest.md, "Guidelines for Artifact Usage") is no image: nothing in it
/// can be run.
fn refuse_artifact(manifest: &ImageManifest) -> Result<()> {
    let config = manifest.config().media_type().to_string();
    if [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG].contains(&config.as_str()) {
        return Ok(());
    }
    let kind = manifest.artifact_type().as_ref().map_or(config, ToString::to_string);
    Err(Error::unsupported(format!("this is an artifact of type {kind}, not an image"))
        .hint("a chart, a signature or the like cannot be run; tools like oras fetch them"))
}

/// The digest of the manifest that a document is, or that an index has for the platform.
pub(super) fn leads_to(document: &Document, platform: &Platform) -> Result<Option<Digest>> {
    if classify(document)?.0 == media_type::Document::Manifest {
        return Ok(Some(document.digest.clone()));
    }
    let index: ImageIndex = serde_json::from_slice(&document.bytes)
        .doing_with(|| format!("read manifest {}", document.digest))?;
    digest_of(best(index.manifests(), platform)?).map(Some)
}

fn fetch_entry(client: &Client, entry: &Descriptor) -> Result<Document> {
    let digest = digest_of(entry)?;
    if entry.size() > MANIFEST_MAX {
        return Err(Error::invalid(format!(
            "manifest {digest} is larger than {MANIFEST_MAX} bytes"
        )));
    }
    let document = client.fetch_document(digest.as_str())?;
    if document.bytes.len() as u64 != entry.size() {
        return Err(Error::invalid(format!(
            "manifest {digest} has {} bytes where its index says {}",
            document.bytes.len(),
            entry.size()
        )));
    }
    Ok(document)
}

fn best<'a>(entries: &'a [Descriptor], platform: &Platform) -> Result<&'a Descriptor> {
    let offered: Vec<(Platform, &Descriptor)> = entries
        .iter()
        .filter_map(|entry| Some((Platform::from(entry.platform().as_ref()?), entry)))
        .collect();
    if let Some(index) = platform.best(offered.iter().map(|(platform, _)| platform)) {
        return Ok(offered[index].1);
    }
    // An index of one that does not say what it is for, as some tools write.
    if let [only] = entries
        && only.platform().is_none()
    {
        return Ok(only);
    }
    // Attestations have the platform unknown/unknown.
    let mut all: Vec<_> = offered.iter().map(|(platform, _)| platform.to_string()).collect();
    all.retain(|name| !name.starts_with("unknown/"));
    Err(Error::not_found(format!("the image has no version for {platform}"))
        .hint(format!("there are: {}", all.join(", "))))
}

/// What a document is, if there is only one thing it can be (CVE-2021-41190).
fn classify(document: &Document) -> Result<(media_type::Document, String)> {
    shape(&document.digest, &document.bytes, &document.media_type)
}

/// What a document of these bytes is, and its media type, if there is only one thing it can be
/// (CVE-2021-41190). `header` is what whoever gave it says it is; `digest` stands in errors.
pub fn shape(
    digest: &Digest,
    bytes: &[u8],
    header: &str,
) -> Result<(media_type::Document, String)> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|err| Error::invalid(format!("manifest {digest} is not JSON: {err}")))?;
    let has = |field: &str| value.get(field).is_some_and(|value| !value.is_null());
    let own = value.get("mediaType").and_then(Value::as_str).unwrap_or_default();
    if value.get("schemaVersion").and_then(Value::as_u64) == Some(1) || has("fsLayers") {
        return Err(media_type::schema1());
    }
    let index = has("manifests");
    if index == (has("layers") || has("config")) {
        let reason = if index { "could be an index and an image" } else { "is no image manifest" };
        return Err(Error::invalid(format!("manifest {digest} {reason}"))
            .hint("the reference may name something that is not an image"));
    }
    let shape = if index { media_type::Document::Index } else { media_type::Document::Manifest };
    // Some registries and proxies know only that it is JSON, or text.
    let vague =
        matches!(header, "" | "application/json" | "text/plain" | "application/octet-stream");
    for claim in [own, if vague { "" } else { header }] {
        if !claim.is_empty() && media_type::document(claim)? != shape {
            return Err(Error::invalid(format!("manifest {digest} is not what it says: {claim}")));
        }
    }
    if !own.is_empty() && !vague && own != header {
        return Err(Error::invalid(format!(
            "manifest {digest} says it is {own}, the registry says {header}"
        )));
    }
    let unsaid = if index { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
    let claims = [own, if vague { "" } else { header }, unsaid];
    let name = claims.into_iter().find(|claim| !claim.is_empty()).unwrap_or(unsaid);
    Ok((shape, name.to_owned()))
}

pub(super) fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    Ok(descriptor.digest().to_string().parse::<Digest>()?)
}
