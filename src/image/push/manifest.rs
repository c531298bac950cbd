//! The manifest that is sent: the image's own, or one that names other blobs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::PushOptions;
use crate::{
    error::{Error, Result},
    image::packing,
    oci::{Digest, media_type, media_type::Compression},
};

/// Whose media types a manifest uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// image-spec manifest.md.
    Oci,
    /// Docker's "Image Manifest V 2, Schema 2".
    Docker,
}

impl Format {
    /// The media type of a manifest.
    pub const fn manifest_type(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_MANIFEST,
            Self::Docker => media_type::DOCKER_MANIFEST,
        }
    }

    /// The media type of an image's configuration.
    pub const fn config_type(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_CONFIG,
            Self::Docker => media_type::DOCKER_CONFIG,
        }
    }
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "oci" => Ok(Self::Oci),
            "docker" | "v2s2" => Ok(Self::Docker),
            "v2s1" => Err(media_type::schema1()),
            other => Err(Error::invalid(format!("unknown manifest format {other:?}"))
                .hint("there are oci and docker (v2s2)")),
        }
    }
}

/// One layer as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SentLayer {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) compression: Compression,
    /// The manifest names this very blob.
    pub(super) as_it_was: bool,
    /// What its descriptor says besides.
    pub(super) annotations: BTreeMap<String, String>,
}

/// The format to send: as asked, else the manifest's own; zstd is the OCI's alone.
pub(super) fn format(options: &PushOptions, own: &str) -> Result<Option<Format>> {
    let zstd = options.compression == Some(Compression::Zstd);
    match options.format {
        Some(Format::Docker) if zstd => {
            Err(Error::unsupported("Docker's manifest format has no layers of zstd")
                .hint("leave --format away, or say --format oci"))
        }
        None if zstd && own == media_type::DOCKER_MANIFEST => Ok(Some(Format::Oci)),
        asked => Ok(asked.filter(|asked| *asked != format_of(own))),
    }
}

pub(super) fn format_of(media_type: &str) -> Format {
    if media_type == media_type::DOCKER_MANIFEST { Format::Docker } else { Format::Oci }
}

/// The media type of a layer in a manifest of this format.
pub fn layer_type(format: Format, compression: Compression) -> Result<&'static str> {
    Ok(match (format, compression) {
        (Format::Oci, other) => other.layer_media_type(),
        (Format::Docker, Compression::None) => media_type::DOCKER_LAYER,
        (Format::Docker, Compression::Gzip) => media_type::DOCKER_LAYER_GZIP,
        (Format::Docker, Compression::Zstd) => {
            return Err(Error::unsupported("Docker's manifest format has no layers of zstd")
                .hint("--compression gzip packs them anew"));
        }
    })
}

/// The manifest's bytes and media type. Untouched if nothing in it changes.
pub(super) fn rewrite(
    bytes: Vec<u8>,
    own: &str,
    format: Option<Format>,
    layers: &[SentLayer],
) -> Result<(Vec<u8>, String)> {
    if format.is_none() && layers.iter().all(|layer| layer.as_it_was) {
        return Ok((bytes, own.to_owned()));
    }
    let mut manifest: Value = serde_json::from_slice(&bytes)?;
    let to = format.unwrap_or_else(|| format_of(own));
    let (kind, config) = match to {
        Format::Oci => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
        Format::Docker => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
    };
    manifest["mediaType"] = json!(kind);
    manifest["config"]["mediaType"] = json!(config);
    let descriptors = manifest["layers"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
    for (descriptor, layer) in descriptors.iter_mut().zip(layers) {
        descriptor["mediaType"] = json!(layer_type(to, layer.compression)?);
        descriptor["digest"] = json!(layer.digest);
        descriptor["size"] = json!(layer.size);
        if !layer.as_it_was {
            annotate(descriptor, layer);
        }
        if to == Format::Docker {
            remove(descriptor, "annotations");
        }
    }
    if to == Format::Docker {
        // Schema 2 has no place for these.
        for field in ["annotations", "subject", "artifactType"] {
            remove(&mut manifest, field);
        }
    }
    Ok((serde_json::to_vec(&manifest)?, kind.to_owned()))
}

/// What was said of how the old blob is packed goes, what is said of the new one comes.
fn annotate(descriptor: &mut Value, layer: &SentLayer) {
    let mut annotations = descriptor["annotations"].as_object().cloned().unwrap_or_default();
    annotations.retain(|key, _| !key.starts_with(packing::PREFIX));
    annotations.extend(layer.annotations.iter().map(|(key, value)| (key.clone(), json!(value))));
    match annotations.is_empty() {
        true => remove(descriptor, "annotations"),
        false => descriptor["annotations"] = annotations.into(),
    }
}

fn remove(value: &mut Value, field: &str) {
    if let Some(object) = value.as_object_mut() {
        object.remove(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_changes_only_where_it_must() {
        let layer = |as_it_was, compression| SentLayer {
            digest: Digest::of(b"x"),
            size: 7,
            compression,
            as_it_was,
            annotations: BTreeMap::new(),
        };
        let text = json!({
            "schemaVersion": 2, "config": { "mediaType": media_type::OCI_CONFIG, "digest": "d" },
            "annotations": { "a": "b" },
            "layers": [{ "mediaType": media_type::OCI_LAYER,
                "annotations": { "c": "d", format!("{}x", packing::PREFIX): "y" } }],
        });
        let bytes = format!("{text} ").into_bytes();
        let own = media_type::OCI_MANIFEST;
        let rewritten = |format, layer| rewrite(bytes.clone(), own, format, &[layer]);
        let same = rewritten(None, layer(true, Compression::None)).expect("same");
        assert_eq!(same, (bytes.clone(), own.to_owned()));
        let (zstd, _) = rewritten(None, layer(false, Compression::Zstd)).expect("zstd");
        let zstd: Value = serde_json::from_slice(&zstd).expect("json");
        assert_eq!(zstd["layers"][0]["mediaType"], media_type::OCI_LAYER_ZSTD);
        assert_eq!(zstd["layers"][0]["size"], 7);
        assert_eq!(zstd["layers"][0]["annotations"], json!({ "c": "d" }));
        let to_docker = Some(Format::Docker);
        let (docker, kind) = rewritten(to_docker, layer(true, Compression::Gzip)).expect("docker");
        let docker: Value = serde_json::from_slice(&docker).expect("json");
        assert_eq!(kind, media_type::DOCKER_MANIFEST);
        assert_eq!(docker["config"]["mediaType"], media_type::DOCKER_CONFIG);
        assert_eq!(docker["layers"][0]["mediaType"], media_type::DOCKER_LAYER_GZIP);
        assert_eq!(docker.get("annotations"), None);
        assert!(rewritten(to_docker, layer(true, Compression::Zstd)).is_err());
    }
}
