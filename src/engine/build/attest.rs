//! What is said about how an image was built: an in-toto statement with SLSA provenance, beside
//! the image in its index (in-toto attestation v0.1; slsa.dev/provenance/v0.2; BuildKit,
//! docs/attestations/attestation-storage.md).
//!
//! It holds no times: the same build says the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Built, remote::Material};
use crate::{
    error::Result,
    image::{Addition, ImageRecord, list::Entry},
    oci::{Digest, Platform, Reference, media_type},
};

const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";
pub(super) const PREDICATE: &str = "https://slsa.dev/provenance/v0.2";

/// `--provenance`: what was asked of the build, as far as it may be told.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// `mode=max`: build arguments and the Dockerfile are told too.
    pub max: bool,
    pub builder: String,
    pub target: Option<String>,
    pub dockerfile: String,
    pub text: String,
    /// The address of the build context, and what was there; `None` for a local one.
    pub source: Option<(String, Material)>,
    pub args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

impl Provenance {
    /// What is to be said of an image (slsa.dev/provenance/v0.2).
    pub fn predicate(&self, built: &Built<'_>) -> Value {
        let material = |uri: &str, digest: &Material| {
            let Material { algorithm, hex } = digest;
            json!({ "uri": redacted(uri), "digest": { algorithm: hex } })
        };
        let mut all: BTreeMap<&str, &Material> =
            built.materials.iter().map(|(uri, digest)| (uri.as_str(), digest)).collect();
        all.extend(self.source.iter().map(|(uri, digest)| (uri.as_str(), digest)));
        let materials: Vec<Value> =
            all.into_iter().map(|(uri, digest)| material(uri, digest)).collect();
        let mut source = json!({ "entryPoint": self.dockerfile });
        let mut locals = json!([{ "name": "context" }, { "name": "dockerfile" }]);
        if let Some((uri, digest)) = &self.source {
            source = material(uri, digest);
            source["entryPoint"] = json!(self.dockerfile);
            locals = json!([]);
        }
        let mut args = BTreeMap::new();
        if let Some(target) = &self.target {
            args.insert("target".to_owned(), target.clone());
        }
        if self.max {
            args.extend(self.args.iter().map(|(k, v)| (format!("build-arg:{k}"), v.clone())));
            args.extend(self.labels.iter().map(|(k, v)| (format!("label:{k}"), v.clone())));
        }
        let platform = built.record.platform.to_string();
        let mut predicate = json!({
            "builder": { "id": self.builder },
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": materials,
            "invocation": {
                "configSource": source,
                "parameters": {
                    "frontend": "dockerfile.v0",
                    "args": args,
                    "locals": locals,
                },
                "environment": { "platform": platform },
            },
            "metadata": {
                "completeness": {
                    "parameters": self.max, "environment": true, "materials": false,
                },
                "reproducible": false,
            },
        });
        if self.max {
            use base64::Engine as _;
            let data = base64::engine::general_purpose::STANDARD.encode(&self.text);
            predicate["metadata"]["https://mobyproject.org/buildkit@v1#metadata"] = json!({
                "source": { "infos": [{ "filename": self.dockerfile, "data": data }] },
            });
        }
        predicate
    }
}

/// The package URL of an image (github.com/package-url/purl-spec, type `docker`).
pub(super) fn purl(name: &Reference, platform: &Platform) -> String {
    let tag = name.tag().map_or_else(String::new, |tag| format!("@{tag}"));
    let digest = name.digest().map_or_else(String::new, |digest| format!("digest={digest}&"));
    let platform = platform.to_string().replace('/', "%2F");
    format!("pkg:docker/{}{tag}?{digest}platform={platform}", name.familiar_repository())
}

/// An address without the name and password in it.
pub(super) fn redacted(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://").filter(|(s, _)| s.starts_with("http")) else {
        return uri.to_owned();
    };
    let (host, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    match host.rsplit_once('@') {
        Some((user, host)) => {
            let hidden = if user.contains(':') { "xxxxx:xxxxx" } else { "xxxxx" };
            format!("{scheme}://{hidden}@{host}{path}")
        }
        None => uri.to_owned(),
    }
}

/// The predicate of a type, said about images by name and digest.
pub(super) fn statement(subjects: &[(String, &Digest)], kind: &str, predicate: &Value) -> Value {
    let subjects: Vec<Value> = (subjects.iter())
        .map(|(name, digest)| json!({ "name": name, "digest": { digest.algorithm(): digest.hex() } }))
        .collect();
    json!({
        "_type": STATEMENT, "predicateType": kind, "subject": subjects,
        "predicate": predicate,
    })
}

/// Makes the manifest that holds statements, by type; the addition keeps its parts.
pub(super) fn manifest(
    addition: &Addition<'_>,
    record: &ImageRecord,
    names: &[Reference],
    predicates: &[(&str, &Value)],
) -> Result<(Entry, Vec<Digest>)> {
    let subject = |name: &Reference| (purl(name, &record.platform), &record.manifest);
    let mut subjects: Vec<_> = names.iter().map(subject).collect();
    if subjects.is_empty() {
        subjects.push(("_".into(), &record.manifest));
    }
    let mut layers = Vec::new();
    let mut blobs = Vec::new();
    for (kind, predicate) in predicates {
        let statement = serde_json::to_vec(&statement(&subjects, kind, predicate))?;
        let (layer, size) = addition.put_blob(&mut &statement[..], None)?;
        layers.push(json!({
            "mediaType": "application/vnd.in-toto+json", "digest": layer, "size": size,
            "annotations": { "in-toto.io/predicate-type": kind },
        }));
        blobs.push(layer);
    }
    let config = serde_json::to_vec(&json!({
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": { "type": "layers", "diff_ids": blobs },
    }))?;
    let (config, config_size) = addition.put_blob(&mut &config[..], None)?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {
            "mediaType": media_type::OCI_CONFIG, "digest": config, "size": config_size,
        },
        "layers": layers,
    }))?;
    let (digest, size) = addition.put_blob(&mut &manifest[..], None)?;
    let annotations = [
        ("vnd.docker.reference.digest", record.manifest.to_string()),
        ("vnd.docker.reference.type", "attestation-manifest".to_owned()),
    ];
    blobs.extend([digest.clone(), config]);
    let entry = Entry {
        digest,
        size,
        media_type: media_type::OCI_MANIFEST.into(),
        platform: json!({ "architecture": "unknown", "os": "unknown" }),
        annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
        source: None,
    };
    Ok((entry, blobs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_addresses_are_not_told() {
        for (uri, told) in [
            ("https://me:pw@h/x.git#v1", "https://xxxxx:xxxxx@h/x.git#v1"),
            ("http://token@h", "http://xxxxx@h"),
            ("https://h/a@b", "https://h/a@b"),
            ("git@h:x", "git@h:x"),
            ("ssh://git@h/x", "ssh://git@h/x"),
        ] {
            assert_eq!(redacted(uri), told);
        }
    }

    #[test]
    fn images_have_package_urls() {
        let platform = Platform::new("linux", "arm64", Some("v8"));
        let url = |name: &str| purl(&name.parse().expect(name), &platform);
        assert_eq!(url("alpine"), "pkg:docker/alpine@latest?platform=linux%2Farm64");
        assert_eq!(url("h.io/a/b:1"), "pkg:docker/h.io/a/b@1?platform=linux%2Farm64");
    }
}
