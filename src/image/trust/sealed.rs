//! Private keys under a password, as `cosign generate-key-pair` and `skopeo generate-sigstore-key`
//! write them: a PEM file whose body is JSON, with scrypt (RFC 7914) and NaCl's secretbox
//! (XSalsa20 and Poly1305).

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use poly1305::{Poly1305, universal_hash::KeyInit as _};
use salsa20::{
    XSalsa20,
    cipher::{KeyIvInit as _, StreamCipher as _},
};
use serde::Deserialize;

use super::cosign::pem;
use crate::error::{Context as _, Error, Result};

/// What stands in the lines around such a key: cosign's old word and its new one.
const LABELS: [&str; 2] = ["ENCRYPTED COSIGN PRIVATE KEY", "ENCRYPTED SIGSTORE PRIVATE KEY"];
/// Memory that a key may ask for; cosign's ask for 64 MiB.
const MEMORY_MAX: u64 = 256 << 20;
const TAG: usize = 16;

#[derive(Deserialize)]
struct Sealed {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

/// Whether the text is a key under a password of this kind.
pub(super) fn is_sealed(text: &str) -> bool {
    LABELS.iter().any(|label| text.contains(&format!("-----BEGIN {label}-----")))
}

/// The key within, in PKCS #8.
pub(super) fn open(text: &str, password: &[u8]) -> Result<Vec<u8>> {
    let body = LABELS.iter().find_map(|label| pem(text, label).ok());
    let body = body.ok_or_else(|| Error::invalid("the key is cut off, or no PEM file"))?;
    let sealed: Sealed = serde_json::from_slice(&body).doing("read the key")?;
    if (sealed.kdf.name.as_str(), sealed.cipher.name.as_str()) != ("scrypt", "nacl/secretbox") {
        return Err(Error::unsupported(format!(
            "the key is sealed by {:?} and {:?}",
            sealed.kdf.name, sealed.cipher.name
        ))
        .hint("cosign seals keys by scrypt and nacl/secretbox"));
    }
    let bytes = |text: &str| {
        BASE64.decode(text).map_err(|_| Error::invalid("the key is damaged: it is no base64"))
    };
    let nonce: [u8; 24] = bytes(&sealed.cipher.nonce)?
        .try_into()
        .map_err(|_| Error::invalid("the key is damaged: a nonce has 24 bytes"))?;
    let key = derive(&sealed.kdf.params, password, &bytes(&sealed.kdf.salt)?)?;
    open_box(&key, &nonce, &bytes(&sealed.ciphertext)?)
        .ok_or_else(|| Error::invalid("the password does not open the key"))
}

fn derive(params: &Params, password: &[u8], salt: &[u8]) -> Result<[u8; 32]> {
    let Params { n, r, p } = *params;
    let too_much = || Error::invalid(format!("scrypt with N={n}, r={r}, p={p} is not computed"));
    let memory = n.checked_mul(128).and_then(|bytes| bytes.checked_mul(u64::from(r)));
    if !n.is_power_of_two() || p > 16 || memory.is_none_or(|bytes| bytes > MEMORY_MAX) {
        return Err(too_much());
    }
    let log_n = u8::try_from(n.ilog2()).map_err(|_| too_much())?;
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| too_much())?;
    let mut key = [0; 32];
    scrypt::scrypt(password, salt, &params, &mut key).map_err(|_| too_much())?;
    Ok(key)
}

/// NaCl's `crypto_secretbox_open`: the first 32 bytes of the stream are Poly1305's key, the rest is
/// what the plain text was mixed with.
fn open_box(key: &[u8; 32], nonce: &[u8; 24], sealed: &[u8]) -> Option<Vec<u8>> {
    let (tag, sealed) = sealed.split_at_checked(TAG)?;
    let mut stream = XSalsa20::new(key.into(), nonce.into());
    let mut mac_key = [0; 32];
    stream.apply_keystream(&mut mac_key);
    let computed = Poly1305::new(&mac_key.into()).compute_unpadded(sealed);
    // Whoever could time this has the file.
    if computed[..] != *tag {
        return None;
    }
    let mut plain = sealed.to_vec();
    stream.apply_keystream(&mut plain);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by skopeo 1.22.
    const KEY: &str = include_str!("../../../tests/corpus/keys/sealed.key");

    #[test]
    fn a_key_opens_with_its_password_only() {
        let der = open(KEY, b"open sesame").expect("opens");
        assert_eq!(der[0], 0x30, "a DER sequence");
        let err = open(KEY, b"open").expect_err("another password");
        assert!(err.to_string().contains("does not open"), "{err}");
        assert!(is_sealed(KEY) && !is_sealed("-----BEGIN PRIVATE KEY-----"));
    }

    #[test]
    fn keys_that_ask_for_too_much_are_refused() {
        let refused = |n: u64, r: u32, p: u32| {
            let json = format!(
                r#"{{"kdf":{{"name":"scrypt","params":{{"N":{n},"r":{r},"p":{p}}},"salt":""}},
                "cipher":{{"name":"nacl/secretbox","nonce":"{}"}},"ciphertext":""}}"#,
                BASE64.encode([0; 24])
            );
            let body = BASE64.encode(json);
            let label = LABELS[1];
            let text = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
            open(&text, b"").expect_err("no key").to_string()
        };
        for (n, r, p) in [
            (0, 8, 1),
            (3, 8, 1),
            (1 << 40, 8, 1),
            (u64::MAX, 1, 1),
            (2, 0, 1),
            (16, 1, 0),
            (16, 1, 99),
        ] {
            assert!(refused(n, r, p).contains("is not computed"), "{n} {r} {p}");
        }
        assert!(refused(16, 1, 1).contains("does not open"));
    }
}
