//! containers-policy.json(5).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    error::{Context as _, Error, Result},
    image::places,
    oci::Reference,
};

/// What the file says; without one, everything is accepted.
#[derive(Debug, Clone, Default)]
pub struct TrustPolicy {
    path: Option<PathBuf>,
    default: Vec<Requirement>,
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Requirement {
    Accept,
    Reject,
    /// This version cannot check it: what demands it is refused, and nothing else.
    Unsupported(Error),
    /// By one of these keys, as that image.
    Signed {
        keys: Vec<PathBuf>,
        identity: Identity,
    },
}

/// What a signature must say it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// The same name; for a name by digest, the same repository.
    RepoDigestOrExact,
    /// The same name.
    Exact,
    /// The same repository.
    Repository,
    /// This name.
    ExactReference(String),
    /// This repository.
    ExactRepository(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Said>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Said>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    key_path: Option<PathBuf>,
    #[serde(default)]
    key_paths: Vec<PathBuf>,
    #[serde(default)]
    signed_identity: Option<SaidIdentity>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SaidIdentity {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    docker_reference: String,
    #[serde(default)]
    docker_repository: String,
}

impl TrustPolicy {
    /// The user's file, or else the machine's.
    pub fn from_env() -> Result<Self> {
        let own = places::containers().map(|dir| dir.join("policy.json"));
        let machine = PathBuf::from("/etc/containers/policy.json");
        for path in own.into_iter().chain([machine]) {
            match fs::read(&path) {
                Ok(text) => return Self::parse(&text, Some(&path)).at(&path),
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(err).at(path),
            }
        }
        Ok(Self::default())
    }

    fn parse(text: &[u8], path: Option<&Path>) -> Result<Self> {
        let file: File = serde_json::from_slice(text)?;
        if file.default.is_empty() {
            return Err(Error::invalid("`default` demands nothing, not even acceptance"));
        }
        let of = |said| Requirement::of(said).unwrap_or_else(Requirement::Unsupported);
        let all = |list: Vec<Said>| list.into_iter().map(of).collect::<Vec<_>>();
        let mut transports = BTreeMap::new();
        for (transport, scopes) in file.transports {
            let scopes = scopes.into_iter().map(|(scope, list)| (scope, all(list))).collect();
            transports.insert(transport, scopes);
        }
        Ok(Self { path: path.map(Path::to_owned), default: all(file.default), transports })
    }

    pub(super) fn file(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What an image of a registry must fulfil: the most specific scope counts alone.
    pub(super) fn of_registry(&self, name: &Reference) -> &[Requirement] {
        let Some(scopes) = self.transports.get("docker") else { return &self.default };
        let mut scope = name.to_string();
        let mut candidates = vec![scope.clone(), name.repository()];
        scope = name.repository();
        while let Some((parent, _)) = scope.rsplit_once('/') {
            candidates.push(parent.to_owned());
            scope = parent.to_owned();
        }
        let mut host = name.domain();
        while let Some((_, parent)) = host.split_once('.') {
            candidates.push(format!("*.{parent}"));
            host = parent;
        }
        candidates.push(String::new());
        let found = candidates.iter().find_map(|scope| scopes.get(scope));
        found.unwrap_or(&self.default)
    }

    /// What files must fulfil: the longest scope that they lie in counts alone. Scopes are
    /// absolute paths; docker's archives and plain tars have none.
    pub(super) fn of_files(&self, transport: &str, path: Option<&Path>) -> &[Requirement] {
        let Some(scopes) = self.transports.get(transport) else { return &self.default };
        let path = path.filter(|_| !["docker-archive", "tarball"].contains(&transport));
        let path = path.and_then(|path| path.canonicalize().ok()).unwrap_or_default();
        let above = path.ancestors().filter_map(Path::to_str).filter(|scope| *scope != "/");
        let found = above.chain([""]).find_map(|scope| scopes.get(scope));
        found.unwrap_or(&self.default)
    }
}

impl Requirement {
    fn of(said: Said) -> Result<Self> {
        match said.kind.as_str() {
            "insecureAcceptAnything" => return Ok(Self::Accept),
            "reject" => return Ok(Self::Reject),
            "sigstoreSigned" => {}
            other => {
                return Err(Error::unsupported(format!(
                    "the requirement {other:?} is not in this version"
                ))
                .hint("there are insecureAcceptAnything, reject and sigstoreSigned with keys"));
            }
        }
        if let Some(field) = said.rest.keys().next() {
            return Err(Error::unsupported(format!(
                "sigstoreSigned with {field:?} is not in this version"
            ))
            .hint("signatures are checked against keyPath or keyPaths"));
        }
        let keys: Vec<_> = said.key_path.into_iter().chain(said.key_paths).collect();
        if keys.is_empty() {
            return Err(Error::invalid("sigstoreSigned names no key"));
        }
        let identity =
            said.signed_identity.map_or(Ok(Identity::RepoDigestOrExact), Identity::of)?;
        Ok(Self::Signed { keys, identity })
    }
}

impl Identity {
    fn of(said: SaidIdentity) -> Result<Self> {
        Ok(match said.kind.as_str() {
            "matchRepoDigestOrExact" => Self::RepoDigestOrExact,
            "matchExact" => Self::Exact,
            "matchRepository" => Self::Repository,
            "exactReference" => Self::ExactReference(said.docker_reference),
            "exactRepository" => Self::ExactRepository(said.docker_repository),
            other => {
                return Err(Error::unsupported(format!(
                    "signedIdentity {other:?} is not in this version"
                )));
            }
        })
    }

    /// Whether a signature for `signed_as` is one for `name`.
    pub(super) fn fits(&self, name: &Reference, signed_as: &str) -> bool {
        // What has no tag is no name of an image, only of a repository.
        let tagged = signed_as.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        let Ok(signed) = signed_as.parse::<Reference>() else { return false };
        let same_repository = signed.repository() == name.repository();
        let exact = tagged && signed == *name;
        match self {
            Self::RepoDigestOrExact if name.digest().is_some() => same_repository,
            Self::RepoDigestOrExact | Self::Exact => exact,
            Self::Repository => same_repository,
            Self::ExactReference(wanted) => {
                tagged && wanted.parse::<Reference>().is_ok_and(|wanted| wanted == signed)
            }
            Self::ExactRepository(wanted) => {
                let wanted = wanted.parse::<Reference>();
                wanted.is_ok_and(|wanted| wanted.repository() == signed.repository())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TrustPolicy> {
        TrustPolicy::parse(text.as_bytes(), None)
    }

    #[test]
    fn the_most_specific_scope_counts() {
        let policy = parse(
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{
            "r.io/team":[{"type":"insecureAcceptAnything"}],
            "r.io/team/app:1":[{"type":"reject"}],
            "r.io/team/app":[{"type":"sigstoreSigned","keyPath":"/k"}],
            "*.corp.example":[{"type":"insecureAcceptAnything"}]},
            "docker-archive":{"":[{"type":"insecureAcceptAnything"}]}}}"#,
        )
        .expect("reads");
        let of = |name: &str| policy.of_registry(&name.parse().expect(name))[0].clone();
        assert_eq!(of("r.io/team/other"), Requirement::Accept);
        assert_eq!(of("r.io/team/app:1"), Requirement::Reject);
        assert!(matches!(of("r.io/team/app:2"), Requirement::Signed { .. }));
        assert_eq!(of("r.io/teams"), Requirement::Reject);
        assert_eq!(of("a.b.corp.example/x"), Requirement::Accept);
        assert_eq!(of("alpine"), Requirement::Reject);
        assert_eq!(policy.of_files("docker-archive", None)[0], Requirement::Accept);
        assert_eq!(policy.of_files("oci-archive", None)[0], Requirement::Reject);
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let says = |requirement: &str| {
            let text = format!(r#"{{"default":[{requirement}]}}"#);
            let policy = parse(&text).expect(requirement);
            let Requirement::Unsupported(err) = &policy.of_files("docker", None)[0] else {
                panic!("{requirement} is no requirement that can be checked");
            };
            err.to_string()
        };
        assert!(
            says(r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}"#).contains("signedBy")
        );
        assert!(says(r#"{"type":"sigstoreSigned"}"#).contains("names no key"));
        let fulcio = r#"{"type":"sigstoreSigned","keyPath":"/k","rekorPublicKeyPath":"/r"}"#;
        assert!(says(fulcio).contains("rekorPublicKeyPath"));
        let remap =
            r#"{"type":"sigstoreSigned","keyPath":"/k","signedIdentity":{"type":"remapIdentity"}}"#;
        assert!(says(remap).contains("remapIdentity"));
        assert!(parse(r#"{"default":[]}"#).is_err());
        assert!(
            parse(r#"{"default":[{"type":"reject"}],"transport":{}}"#).is_err(),
            "a typing error"
        );
    }

    #[test]
    fn a_signature_is_for_one_name_or_repository() {
        let name = |text: &str| text.parse::<Reference>().expect(text);
        let exact = Identity::RepoDigestOrExact;
        assert!(exact.fits(&name("r.io/a:1"), "r.io/a:1"));
        assert!(!exact.fits(&name("r.io/a:1"), "r.io/a:2"));
        assert!(!exact.fits(&name("r.io/a"), "r.io/a"), "a repository is no image");
        let digest = crate::oci::Digest::of(b"");
        assert!(exact.fits(&name(&format!("r.io/a@{digest}")), "r.io/a:2"));
        assert!(Identity::Repository.fits(&name("r.io/a:1"), "r.io/a"));
        assert!(!Identity::Repository.fits(&name("r.io/a:1"), "r.io/b"));
        assert!(Identity::ExactRepository("r.io/b".into()).fits(&name("r.io/a:1"), "r.io/b:7"));
        assert!(!Identity::ExactReference("r.io/b:1".into()).fits(&name("r.io/a:1"), "r.io/b:7"));
    }
}
