//! Signatures as cosign makes them (its specifications' SIGNATURE_SPEC.md): an image under the tag
//! `sha256-HEX.sig`, whose layers are what was signed and whose annotations are the signatures.
//!
//! Keys are ECDSA on P-256 with SHA-256, which is what cosign makes.

use std::{fs, io::Read as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, UnparsedPublicKey},
};
use serde_json::{Value, json};

use super::sealed;
use crate::{
    error::{Context as _, Error, Kind, Result},
    image::registry::{Client, Outgoing},
    oci::{Digest, media_type},
};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const PAYLOAD_TYPE: &str = "cosign container image signature";
/// Bytes of what is signed.
const PAYLOAD_MAX: u64 = 64 << 10;
/// Signatures of one image that are looked at.
const SIGNATURES_MAX: usize = 64;

/// The DER of a SubjectPublicKeyInfo for P-256, up to the point (RFC 5480).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Who may have signed.
#[derive(Debug, Clone)]
pub(super) struct PublicKey {
    /// Uncompressed.
    point: Vec<u8>,
}

impl PublicKey {
    /// A PEM file with a public key.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).at(path).doing("read the key")?;
        Self::parse(&text).at(path)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let der = pem(text, "PUBLIC KEY")?;
        match der.strip_prefix(&P256) {
            Some(point) if point.len() == 65 => Ok(Self { point: point.to_vec() }),
            _ => Err(Error::unsupported("the key is not an ECDSA key on P-256")
                .hint("that is what cosign makes, and `openssl ecparam -name prime256v1`")),
        }
    }

    pub(super) fn verifies(&self, payload: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(payload, signature)
            .is_ok()
    }
}

/// What signs.
pub struct SigningKey {
    pair: EcdsaKeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(hidden)")
    }
}

impl SigningKey {
    /// A PEM file with a private key: cosign's, under a password that is asked for only then, or
    /// in PKCS #8 without one.
    pub fn read(path: &Path, password: impl FnOnce() -> Result<String>) -> Result<Self> {
        let text = fs::read_to_string(path).at(path).doing("read the key")?;
        if sealed::is_sealed(&text) {
            let password = password()?;
            return sealed::open(&text, password.as_bytes())
                .and_then(|der| Self::of(&der))
                .at(path);
        }
        Self::parse(&text).at(path)
    }

    fn parse(text: &str) -> Result<Self> {
        if text.contains("BEGIN ENCRYPTED") {
            return Err(Error::unsupported("the key is encrypted, and not as cosign does it")
                .hint("`openssl pkcs8 -topk8 -nocrypt -in KEY` takes the password away"));
        }
        if text.contains("BEGIN EC PRIVATE KEY") {
            return Err(Error::unsupported("the key is not in PKCS #8")
                .hint("`openssl pkcs8 -topk8 -nocrypt -in KEY` converts it"));
        }
        Self::of(&pem(text, "PRIVATE KEY")?)
    }

    /// `der`: PKCS #8.
    fn of(der: &[u8]) -> Result<Self> {
        let kind = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(kind, der, &SystemRandom::new());
        pair.map(|pair| Self { pair }).map_err(|err| {
            Error::unsupported(format!("the key is not an ECDSA key on P-256 ({err})"))
        })
    }

    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>> {
        let signature = self.pair.sign(&SystemRandom::new(), payload);
        signature.map(|s| s.as_ref().to_vec()).map_err(|_| Error::engine("signing failed"))
    }
}

/// The bytes between the lines of RFC 7468.
pub(super) fn pem(text: &str, label: &str) -> Result<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let body = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    let body: Option<String> =
        body.map(|(body, _)| body.chars().filter(|c| !c.is_ascii_whitespace()).collect());
    let der = body.and_then(|body| BASE64.decode(body).ok());
    der.ok_or_else(|| Error::invalid(format!("this is no PEM file with a {label}")))
}

fn tag(digest: &Digest) -> String {
    format!("{}-{}.sig", digest.algorithm(), digest.hex())
}

/// Whether one of the keys has signed the digest, as something that `is_meant` accepts.
///
/// NotFound: there are no signatures.
pub(super) fn verify(
    client: &Client,
    digest: &Digest,
    keys: &[PublicKey],
    is_meant: impl Fn(&str) -> bool,
) -> Result<()> {
    let document = client.fetch_document(&tag(digest)).doing("look for signatures")?;
    let manifest: Value = serde_json::from_slice(&document.bytes).doing("read the signatures")?;
    let mut other_name = None;
    for layer in manifest["layers"].as_array().into_iter().flatten().take(SIGNATURES_MAX) {
        if layer["mediaType"] != PAYLOAD {
            continue;
        }
        let Some(signature) = layer["annotations"][SIGNATURE].as_str() else { continue };
        let Ok(signature) = BASE64.decode(signature) else { continue };
        let payload = fetch_blob(client, layer, PAYLOAD_MAX)?;
        if !keys.iter().any(|key| key.verifies(&payload, &signature)) {
            continue;
        }
        // Only now is it worth reading.
        let said: Value = serde_json::from_slice(&payload).doing("read what was signed")?;
        let critical = &said["critical"];
        let signed_as = critical["identity"]["docker-reference"].as_str().unwrap_or_default();
        if critical["type"] != PAYLOAD_TYPE
            || critical["image"]["docker-manifest-digest"] != digest.as_str()
        {
            continue;
        }
        if is_meant(signed_as) {
            return Ok(());
        }
        other_name = Some(signed_as.to_owned());
    }
    Err(Error::new(
        Kind::Unauthorized,
        match other_name {
            Some(name) => format!("{} was signed as {name:?}", digest.short()),
            None => format!("no signature of {} is by a key that is trusted", digest.short()),
        },
    ))
}

/// What a layer of a signature is, of so many bytes at most.
pub(super) fn fetch_blob(client: &Client, layer: &Value, most: u64) -> Result<Vec<u8>> {
    let digest: Digest = layer["digest"].as_str().unwrap_or_default().parse()?;
    let size = layer["size"].as_u64().filter(|size| *size <= most);
    let size = size.ok_or_else(|| Error::invalid("what was signed is too large"))?;
    let mut bytes = Vec::new();
    client.fetch_blob(&digest, size).read_to_end(&mut bytes).doing("fetch what was signed")?;
    if Digest::of(&bytes) != digest {
        return Err(Error::invalid(format!("{digest} has other content")));
    }
    Ok(bytes)
}

/// Signs the digest as `name`, and puts the signature beside those that are there.
pub fn sign(client: &Client, digest: &Digest, name: &str, key: &SigningKey) -> Result<()> {
    let payload = serde_json::to_vec(&json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": digest },
            "type": PAYLOAD_TYPE,
        },
        "optional": null,
    }))?;
    let signature = BASE64.encode(key.sign(&payload)?);
    let mut layers = match client.fetch_document(&tag(digest)) {
        Ok(known) => serde_json::from_slice::<Value>(&known.bytes)?["layers"].take(),
        Err(err) if err.kind() == Kind::NotFound => json!([]),
        Err(err) => return Err(err),
    };
    let layers = layers.as_array_mut().map(std::mem::take).unwrap_or_default();
    let payload_digest = put(client, &payload)?;
    // One signature of a payload is enough; this key's is renewed.
    let mut layers: Vec<Value> =
        layers.into_iter().filter(|layer| layer["digest"] != payload_digest.as_str()).collect();
    layers.push(json!({
        "mediaType": PAYLOAD, "digest": payload_digest, "size": payload.len(),
        "annotations": { SIGNATURE: signature },
    }));
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": "", "os": "", "created": "0001-01-01T00:00:00Z", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))?;
    let config_digest = put(client, &config)?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": {
            "mediaType": media_type::OCI_CONFIG, "digest": config_digest, "size": config.len(),
        },
        "layers": layers,
    }))?;
    client.put_document(&tag(digest), media_type::OCI_MANIFEST, &manifest)
}

fn put(client: &Client, bytes: &[u8]) -> Result<Digest> {
    let mut file = tempfile::tempfile().doing("make a temporary file")?;
    std::io::Write::write_all(&mut file, bytes).doing("write a temporary file")?;
    let digest = Digest::of(bytes);
    let blob = Outgoing { digest: &digest, size: bytes.len() as u64, file: &file, stop: None };
    client.push_blob(&blob, &[], &|_| ())?;
    Ok(digest)
}
