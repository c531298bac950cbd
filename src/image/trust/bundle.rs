//! Signatures as cosign 3 makes them: Sigstore bundles with a DSSE envelope (its BUNDLE_SPEC.md,
//! in-toto's statements), as artifacts that refer to the image.
//!
//! Such a signature is for content alone: it does not say what the image is called.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::Value;

use super::cosign::{PublicKey, fetch_blob};
use crate::{
    error::{Context as _, Error, Kind, Result},
    image::registry::Client,
    oci::Digest,
};

/// The beginning of the media types of bundles; a version follows.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// What makes a statement a signature, and no attestation of something else.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Bytes of a bundle.
const BUNDLE_MAX: u64 = 1 << 20;
/// Artifacts about one image that are looked at.
const ARTIFACTS_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    #[serde(default)]
    dsse_envelope: Option<Envelope>,
}

/// DSSE's envelope.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    #[serde(default)]
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
    subject: Vec<Value>,
}

/// Whether one of the keys has signed the digest.
///
/// NotFound: there is no bundle.
pub(super) fn verify(client: &Client, digest: &Digest, keys: &[PublicKey]) -> Result<()> {
    let mut any = false;
    for referrer in client.referring(digest)?.into_iter().take(ARTIFACTS_MAX) {
        // Lists that cosign keeps itself do not say what is in them: the manifest does.
        let document = client.fetch_document(referrer.digest.as_str())?;
        let manifest: Value = serde_json::from_slice(&document.bytes).doing("read a signature")?;
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            if !layer["mediaType"].as_str().unwrap_or_default().starts_with(BUNDLE) {
                continue;
            }
            any = true;
            if signs(&fetch_blob(client, layer, BUNDLE_MAX)?, digest, keys)? {
                return Ok(());
            }
            break;
        }
    }
    Err(match any {
        true => Error::new(
            Kind::Unauthorized,
            format!("no signature of {} is by a key that is trusted", digest.short()),
        ),
        false => Error::not_found("there is no bundle"),
    })
}

/// Whether the bundle is a signature of the digest by one of the keys.
fn signs(bundle: &[u8], digest: &Digest, keys: &[PublicKey]) -> Result<bool> {
    let bundle: Bundle = serde_json::from_slice(bundle).doing("read a bundle")?;
    let Some(envelope) = bundle.dsse_envelope else { return Ok(false) };
    let Ok(payload) = BASE64.decode(&envelope.payload) else { return Ok(false) };
    if envelope.payload_type != PAYLOAD_TYPE {
        return Ok(false);
    }
    let signed = pre_authentication(&envelope.payload_type, &payload);
    let by_one = envelope.signatures.iter().any(|signature| {
        let bytes = BASE64.decode(&signature.sig).unwrap_or_default();
        keys.iter().any(|key| key.verifies(&signed, &bytes))
    });
    if !by_one {
        return Ok(false);
    }
    // Only now is it worth reading.
    let statement: Statement = serde_json::from_slice(&payload).doing("read what was signed")?;
    let is_it = |subject: &Value| subject["digest"][digest.algorithm()] == digest.hex();
    Ok(statement.kind == STATEMENT
        && statement.predicate_type == SIGNED
        && statement.subject.iter().any(is_it))
}

/// What is signed of an envelope (DSSE's protocol, "PAE").
fn pre_authentication(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by cosign 3.1.1.
    const MADE: &[u8] = include_bytes!("../../../tests/corpus/signed/bundle.json");
    const IMAGE: &[u8] = include_bytes!("../../../tests/corpus/signed/manifest.json");

    fn keys() -> [PublicKey; 1] {
        let text = include_str!("../../../tests/corpus/keys/sealed.pub");
        [PublicKey::parse(text).expect("a key")]
    }

    #[test]
    fn a_bundle_of_cosign_s_signs_its_image_and_nothing_else() {
        let digest = Digest::of(IMAGE);
        assert!(signs(MADE, &digest, &keys()).expect("reads"));
        assert!(!signs(MADE, &digest, &[]).expect("reads"));
        assert!(!signs(MADE, &Digest::of(b""), &keys()).expect("reads"));
    }

    #[test]
    fn what_was_changed_is_not_signed() {
        let digest = Digest::of(IMAGE);
        let bundle: Value = serde_json::from_slice(MADE).expect("JSON");
        let changed = |pointer: &str, value: &str| {
            let mut other = bundle.clone();
            *other.pointer_mut(pointer).expect(pointer) = value.into();
            signs(other.to_string().as_bytes(), &digest, &keys())
        };
        let payload = BASE64.encode(format!(
            r#"{{"_type":"{STATEMENT}","predicateType":"{SIGNED}","subject":[{{"digest":{{"sha256":"{}"}}}}]}}"#,
            digest.hex()
        ));
        for (pointer, value) in [
            ("/dsseEnvelope/payload", payload.as_str()),
            ("/dsseEnvelope/payload", "!"),
            ("/dsseEnvelope/payloadType", "text/plain"),
            ("/dsseEnvelope/signatures/0/sig", "MEUC"),
            ("/dsseEnvelope/signatures/0/sig", ""),
        ] {
            assert!(!changed(pointer, value).expect("reads"), "{pointer}");
        }
        assert!(changed("/dsseEnvelope/signatures", "x").is_err());
        assert!(!signs(b"{}", &digest, &keys()).expect("reads"));
        assert!(signs(b"[", &digest, &keys()).is_err());
    }
}
