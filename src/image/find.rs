//! What a typed name means among the images that are here, without asking any registry.

use super::{Image, Store};
use crate::{
    error::{Error, Result},
    oci::{Digest, Reference},
};

impl Store {
    /// What a typed name means here: a name as Docker completes
    /// it, the same name under `localhost/`, a digest, or the beginning of an id (two hex
    /// digits or more).
    ///
    /// Names go before beginnings of ids. A beginning that fits several images is an error.
    pub fn resolve(&self, typed: &str) -> Result<Option<Image>> {
        match self.resolve_id(typed)? {
            Some(id) => self.image(&id),
            None => Ok(None),
        }
    }

    /// The id alone of what [`resolve`](Self::resolve) finds, even where its record is damaged.
    pub fn resolve_id(&self, typed: &str) -> Result<Option<Digest>> {
        let hex = typed.strip_prefix("sha256:").or_else(|| typed.strip_prefix("sha512:"));
        let hex = hex.unwrap_or(typed);
        let is_hex = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let could_be_id = is_hex && (2..=128).contains(&hex.len());
        let only_id = could_be_id && (matches!(hex.len(), 64 | 128) || hex.len() < typed.len());
        if !only_id {
            let reference: Reference = typed.parse()?;
            if let Some(id) = self.resolve_name(&reference)? {
                return Ok(Some(id));
            }
        }
        if could_be_id { self.resolve_prefix(hex) } else { Ok(None) }
    }

    fn resolve_name(&self, typed: &Reference) -> Result<Option<Digest>> {
        for name in [Some(typed.clone()), typed.local()].into_iter().flatten() {
            if let Some(record) = self.name(&name)? {
                return Ok(Some(record.image));
            }
            if let Some(digest) = name.digest()
                && let Some(id) = self.resolve_digest(&name.repository(), digest)?
            {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// `repo@sha256:…`: the digest of an index or manifest that the repository gave us.
    fn resolve_digest(&self, repository: &str, digest: &Digest) -> Result<Option<Digest>> {
        for name in self.names()? {
            if name.name.repository() != repository {
                continue;
            }
            if name.digest.as_ref() == Some(digest) {
                return Ok(Some(name.image));
            }
            // One that is damaged is not the one that is looked for, as far as anyone can tell.
            let record = self.record(&name.image).ok().flatten();
            if record.is_some_and(|record| record.manifest == *digest) {
                return Ok(Some(name.image));
            }
        }
        Ok(None)
    }

    fn resolve_prefix(&self, prefix: &str) -> Result<Option<Digest>> {
        let ids = self.image_ids()?;
        let mut fitting = ids.into_iter().filter(|id| id.hex().starts_with(prefix));
        match (fitting.next(), fitting.next()) {
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("{prefix} is the beginning of several images' ids"))
                    .hint("type more of it; `dhow images -q --no-trunc` lists them"))
            }
            (one, _) => Ok(one),
        }
    }
}
