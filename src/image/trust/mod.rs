//! Which images may come here: containers-policy.json(5), and signatures in cosign's format.
//!
//! What the policy refuses is refused before a layer is fetched. What it demands and this version
//! cannot check is refused too, by name.

mod bundle;
mod cosign;
mod policy;
mod sealed;

use std::path::{Path, PathBuf};

pub use self::cosign::{SigningKey, sign};
pub use self::policy::TrustPolicy;
use self::{
    cosign::PublicKey,
    policy::{Identity, Requirement},
};
use super::registry::Client;
use crate::{
    error::{Error, Kind, Result},
    oci::{Digest, Reference},
};

/// What a pull demands.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The machine's, or the user's.
    pub policy: TrustPolicy,
    /// Keys of which one must have signed, whatever the policy says (`--verify-key`).
    pub keys: Vec<PathBuf>,
}

impl Trust {
    /// Nothing is demanded of any image.
    pub fn accepts_anything(&self) -> bool {
        self.keys.is_empty() && self.policy.file().is_none()
    }
}

/// Whether the image that `name` stands for may come: `digests` are of what the registry has by
/// that name, and of the manifest that an index has for this machine. One of them has to be signed
/// where signatures are demanded.
pub fn check(trust: &Trust, client: &Client, name: &Reference, digests: &[Digest]) -> Result<()> {
    if !trust.keys.is_empty() {
        let old = signed(client, name, digests, &trust.keys, &Identity::Repository);
        return old.or_else(|err| bundled(client, digests, &trust.keys, err));
    }
    for requirement in trust.policy.of_registry(name) {
        match requirement {
            Requirement::Accept => {}
            Requirement::Reject => return Err(refused(name, trust.policy.file())),
            Requirement::Unsupported(err) => {
                return Err(err.clone().context(refused(name, trust.policy.file()).to_string()));
            }
            Requirement::Signed { keys, identity } => {
                signed(client, name, digests, keys, identity)?;
            }
        }
    }
    Ok(())
}

/// Whether an image may come from files: by the transport that containers-policy.json(5) has for
/// them (`docker-archive`, `oci-archive`, `oci`, `dir`, `tarball`), and where they are, if that is known.
pub fn check_files(policy: &TrustPolicy, transport: &str, path: Option<&Path>) -> Result<()> {
    for requirement in policy.of_files(transport, path) {
        if !matches!(requirement, Requirement::Accept) {
            let file = policy.file().map_or_else(String::new, |file| file.display().to_string());
            return Err(Error::unsupported(format!(
                "images from {transport}: are refused by {file}"
            ))
            .hint("containers-policy.json(5) says how to allow them"));
        }
    }
    Ok(())
}

fn refused(name: &Reference, file: Option<&Path>) -> Error {
    let file = file.map_or_else(String::new, |file| format!(" by {}", file.display()));
    Error::unsupported(format!("{} is refused{file}", name.familiar()))
        .hint("containers-policy.json(5) says how to allow it")
}

/// Whether there is a signature that says nothing of names: whoever names a key themselves asks
/// for no more. `err`: what was wrong with those that do.
fn bundled(client: &Client, digests: &[Digest], keys: &[PathBuf], err: Error) -> Result<()> {
    let Ok(keys) = read(keys) else { return Err(err) };
    let mut reason = None;
    for digest in digests {
        match bundle::verify(client, digest, &keys) {
            Ok(()) => return Ok(()),
            Err(other) if other.kind() == Kind::NotFound => {}
            Err(other) => reason = Some(other.context("the image is not trusted")),
        }
    }
    // What is wrong with a signature that is there says more than that another is not.
    Err(reason.filter(|_| err.kind() == Kind::NotFound).unwrap_or(err))
}

fn read(keys: &[PathBuf]) -> Result<Vec<PublicKey>> {
    keys.iter().map(|key| PublicKey::read(key)).collect()
}

fn signed(
    client: &Client,
    name: &Reference,
    digests: &[Digest],
    keys: &[PathBuf],
    identity: &Identity,
) -> Result<()> {
    let keys = read(keys)?;
    let mut reasons = Vec::new();
    for digest in digests {
        match cosign::verify(client, digest, &keys, |signed_as| identity.fits(name, signed_as)) {
            Ok(()) => return Ok(()),
            Err(err) if err.kind() == Kind::NotFound => {}
            Err(err) => reasons.push(err),
        }
    }
    let unsigned = || {
        Error::not_found("it has no signature").hint("`dhow push --sign-by KEY` makes signatures")
    };
    Err(reasons.into_iter().next().unwrap_or_else(unsigned))
        .map_err(|err: Error| err.context("the image is not trusted"))
}
