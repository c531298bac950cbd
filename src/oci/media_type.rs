//! Media types: the OCI's and Docker's names for the same few things.

use crate::error::{Error, Result};

// The names themselves, from image-spec media-types.md and distribution's
// "Image Manifest V 2, Schema 2".
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";

/// What a manifest request accepts, best first.
pub const MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// What a document that names other blobs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// Many images, one for each platform.
    Index,
    /// One image.
    Manifest,
}

/// Which document a media type promises.
pub fn document(media_type: &str) -> Result<Document> {
    match media_type {
        OCI_INDEX | DOCKER_INDEX => Ok(Document::Index),
        OCI_MANIFEST | DOCKER_MANIFEST => Ok(Document::Manifest),
        old if old.starts_with(DOCKER_SCHEMA1) => Err(schema1()),
        other => Err(Error::unsupported(format!("{other:?} is not an image's media type"))),
    }
}

/// The refusal of Docker's first manifest format, which names no verifiable config.
pub fn schema1() -> Error {
    Error::unsupported("the image is in Docker's schema 1 format, withdrawn in 2019")
        .hint("push the image again with a current tool; `skopeo copy` converts it")
}

/// How a layer's tar is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// What a layer's media type promises. Foreign layers, whose bytes live at a URL of the
    /// publisher's choosing, are refused (image-spec layer.md, "Non-Distributable Layers";
    /// CVE-2020-15157).
    pub fn of_layer(media_type: &str) -> Result<Self> {
        match media_type {
            OCI_LAYER | DOCKER_LAYER => Ok(Self::None),
            OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => Ok(Self::Gzip),
            OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Ok(Self::Zstd),
            foreign if foreign.contains("nondistributable") || foreign.contains("foreign") => {
                Err(Error::unsupported(format!("{foreign} is a foreign layer"))
                    .hint("its bytes are not in the registry; only Windows images need those"))
            }
            other => Err(Error::unsupported(format!("{other:?} is not a layer's media type"))
                .hint("this may be an artifact (a chart, a signature) rather than an image")),
        }
    }

    /// What a stream is by its first bytes (RFC 1952, "Member header"; RFC 8878, "Magic_Number").
    pub fn of_bytes(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The OCI media type of a layer packed so.
    pub const fn layer_media_type(self) -> &'static str {
        match self {
            Self::None => OCI_LAYER,
            Self::Gzip => OCI_LAYER_GZIP,
            Self::Zstd => OCI_LAYER_ZSTD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn documents_and_layers_are_told_apart() {
        assert_eq!(document(DOCKER_INDEX), Ok(Document::Index));
        assert_eq!(document(OCI_MANIFEST), Ok(Document::Manifest));
        let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(document(old).expect_err("old").to_string().contains("schema 1"));
        assert_eq!(Compression::of_layer(DOCKER_LAYER_GZIP), Ok(Compression::Gzip));
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let err = Compression::of_layer(foreign).expect_err("foreign");
        assert_eq!(err.kind(), Kind::Unsupported);
    }
}
