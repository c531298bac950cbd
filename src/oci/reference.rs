//! Image references: what a user types, completed the way Docker completes it.
//!
//! The grammar is distribution's `reference` package (the one every Docker tool shares), whose
//! domain part is wider than the OCI distribution-spec's, which has none. `oci_spec`'s own
//! `Reference` is not used: it takes weak digests and compiles a large regular expression on
//! the way to every `run`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A complete image reference: registry domain, repository path, and a tag or digest or both.
///
/// `alpine` is `docker.io/library/alpine:latest`. A reference with a digest and no tag stays
/// without one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not fit the grammar.
    #[error("invalid reference format: {0:?}")]
    Format(String),
    /// Only its capitals are wrong.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// Domain and path together.
    #[error("repository name must not be more than {NAME_MAX} characters")]
    TooLong,
    /// It could be taken for an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// What follows the colon.
    #[error("invalid tag format: {0:?}")]
    Tag(String),
    /// What follows the `@`.
    #[error("invalid reference format: {0}")]
    Digest(#[from] super::DigestError),
}

impl From<ReferenceError> for crate::error::Error {
    fn from(err: ReferenceError) -> Self {
        Self::invalid(err.to_string())
            .hint("an image is [REGISTRY[:PORT]/]NAME[:TAG][@DIGEST], e.g. `debian:13`")
    }
}

impl Reference {
    /// The registry's name as a reference writes it: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within its registry: `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What follows the colon.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// What follows the `@`.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path without tag or digest: `docker.io/library/alpine`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as Docker's listings show it: `alpine`, `user/app`, `localhost/app`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match (self.path.strip_prefix(OFFICIAL_PREFIX), self.path.split_once('/')) {
            (Some(name), _) if !name.contains('/') => name.to_owned(),
            // Read again, it would be another registry's.
            (_, Some((first, _))) if first.contains('.') || first == "localhost" => {
                self.repository()
            }
            _ => self.path.clone(),
        }
    }

    /// The whole reference as Docker's listings show it: `alpine:latest`.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_repository();
        self.push_suffix(&mut text);
        text
    }

    /// The name that a pulled image is kept under. As Docker does: with a digest, that is the
    /// name, and a tag beside it is only for the reader.
    #[must_use]
    pub fn stored(&self) -> Self {
        let tag = if self.digest.is_some() { None } else { self.tag.clone() };
        Self { tag, ..self.clone() }
    }

    /// `localhost/NAME` for a reference that was typed without a registry: where images that
    /// were built or loaded here under a short name live.
    pub fn local(&self) -> Option<Self> {
        let name = (self.domain == DEFAULT_DOMAIN).then(|| self.familiar_repository())?;
        Some(Self { domain: "localhost".into(), path: name, ..self.clone() })
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.repository();
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Parses and completes what a user typed.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let format = || ReferenceError::Format(text.chars().take(300).collect());
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(named);
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(tag.chars().take(300).collect()));
        }
        let (domain, path) = split_domain(name);
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(ReferenceError::TooLong);
        }
        if path.len() == 64 && name.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ReferenceError::LooksLikeId(path.into()));
        }
        if !is_domain(domain) || !path.split('/').all(is_component) {
            let lower = path.to_ascii_lowercase();
            let only_case = is_domain(domain) && lower.split('/').all(is_component);
            return Err(if only_case { ReferenceError::Uppercase(path.into()) } else { format() });
        }
        let (domain, path) = complete(domain, path);
        let tag = tag.or_else(|| digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
        Ok(Self { domain, path, tag, digest })
    }
}

/// `repo:tag`: the colon after the last slash, so that a registry's port is none.
fn split_tag(named: &str) -> (&str, Option<&str>) {
    match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    }
}

/// The first component is a registry if it could not be a user's name.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn complete(domain: &str, path: &str) -> (String, String) {
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        return (domain.into(), format!("{OFFICIAL_PREFIX}{path}"));
    }
    (domain.into(), path.into())
}

/// `[\w][\w.-]{0,127}`.
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_MAX).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Alphanumeric runs joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(alphanumeric)
        && text.bytes().next_back().is_some_and(alphanumeric);
    ends && text
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

/// A host name, IPv4 or bracketed IPv6 address, and perhaps a port.
fn is_domain(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_path_that_looks_like_a_registry_keeps_its_own() {
        for name in ["docker.io/other.io/app:1", "docker.io/localhost/app:1"] {
            assert_eq!(name.parse::<Reference>().expect(name).familiar(), name);
        }
    }

    #[test]
    fn short_names_are_completed_and_shown_short() {
        let digested = format!("alpine@sha256:{HEX}");
        let both = format!("alpine:3.20@sha256:{HEX}");
        for (typed, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
            ("host:5000", "docker.io/library/host:5000", "host:5000"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            ("Host/x", "Host/x:latest", "Host/x:latest"),
            (
                "ghcr.io/a/b__c-d---e.f:T_1",
                "ghcr.io/a/b__c-d---e.f:T_1",
                "ghcr.io/a/b__c-d---e.f:T_1",
            ),
            (&digested, &format!("docker.io/library/{digested}"), &digested),
            (&both, &format!("docker.io/library/{both}"), &both),
        ] {
            let reference: Reference = typed.parse().expect(typed);
            assert_eq!(reference.to_string(), full, "{typed}");
            assert_eq!(reference.familiar(), familiar, "{typed}");
            assert_eq!(full.parse().as_ref(), Ok(&reference), "{full} is its own completion");
        }
    }

    #[test]
    fn refusals_are_dockers() {
        let long = format!("a.b/{}", "a".repeat(252));
        let tag = format!("a:{}", "t".repeat(129));
        for (typed, says) in [
            ("", "invalid reference format"),
            (":tag", "invalid reference format"),
            ("Alpine", "repository name (Alpine) must be lowercase"),
            ("ghcr.io/A/b", "repository name (A/b) must be lowercase"),
            ("a//b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a-", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a._b", "invalid reference format"),
            ("../../etc", "invalid reference format"),
            ("a/../b", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("https://a.b/c", "invalid reference format"),
            ("host:99999/x", "invalid reference format"),
            ("host:/x", "invalid reference format"),
            ("a:", "invalid tag format"),
            ("a:.x", "invalid tag format"),
            (&tag, "invalid tag format"),
            (&long, "not be more than 255"),
            (HEX, "64-byte hexadecimal"),
            ("a@md5:d41d8cd98f00b204e9800998ecf8427e", "not a sha256 or sha512 digest"),
            ("a@sha256:../../etc/passwd", "not a sha256 or sha512 digest"),
            ("a@sha256:00@sha256:00", "not a sha256 or sha512 digest"),
        ] {
            let err = typed.parse::<Reference>().expect_err(typed).to_string();
            assert!(err.contains(says), "{typed}: {err}");
        }
    }

    #[test]
    fn a_short_name_has_a_local_twin() {
        let local = |typed: &str| typed.parse::<Reference>().expect(typed).local();
        assert_eq!(local("app:1").expect("short").to_string(), "localhost/app:1");
        assert_eq!(local("a.b/app"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_is_stable(text in "\\PC{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse(), Ok(reference));
            }
        }

        #[test]
        fn what_looks_like_a_reference_is_stable(text in "[a-zA-Z0-9._:/@\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
                prop_assert!(!reference.to_string().contains(".."), "no path component climbs");
            }
        }
    }
}
