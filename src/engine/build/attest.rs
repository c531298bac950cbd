//! What is said about how an image was built: an in-toto statement with SLSA provenance, beside
//! the image in its index (in-toto attestation v0.1; slsa.dev/provenance/v0.2; BuildKit,
//! docs/attestations/attestation-storage.md).
//!
//! It holds no times: the same build says the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Built;
use crate::{
    error::Result,
    image::{Addition, ImageRecord, list::Entry},
    oci::{Digest, Reference, media_type},
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
    pub args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

impl Provenance {
    pub(super) fn predicate(&self, built: &Built<'_>) -> Value {
        let materials: Vec<Value> = (built.materials.iter())
            .map(|(uri, digest)| json!({ "uri": uri, "digest": { digest.algorithm(): digest.hex() } }))
            .collect();
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
                "configSource": { "entryPoint": self.dockerfile },
                "parameters": {
                    "frontend": "dockerfile.v0",
                    "args": args,
                    "locals": [{ "name": "context" }, { "name": "dockerfile" }],
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
    let platform = record.platform.to_string().replace('/', "%2F");
    let purl = |name: &Reference| {
        let tag = name.tag().map_or_else(String::new, |tag| format!("@{tag}"));
        (
            format!("pkg:docker/{}{tag}?platform={platform}", name.familiar_repository()),
            &record.manifest,
        )
    };
    let mut subjects: Vec<_> = names.iter().map(purl).collect();
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
