//! The files of an archive, by their names in it, spooled.

use std::{
    collections::BTreeMap,
    io::{Read, Write as _},
};

use serde::de::DeserializeOwned;

use crate::{
    error::{Context as _, Error, Result},
    image::{
        Addition, BlobWriter,
        layer::{
            apply::clean,
            entries::{Entries, Kind, shown},
        },
        store::LAYERS_MAX,
    },
    oci::{Digest, Hasher},
};

/// Files up to this size are held in memory: documents, mostly.
const SMALL: u64 = 1 << 20;
/// All of them together.
const MEMORY_MAX: u64 = 64 << 20;
/// Names in one archive.
const MEMBERS_MAX: usize = 100_000;
/// A link to a link to a link.
const LINKS_MAX: usize = 8;

/// An archive that was read to its end.
#[derive(Default)]
pub(super) struct Members {
    by_name: BTreeMap<Vec<u8>, Member>,
    /// Bytes in memory, and files that are open.
    memory: u64,
    spooled: usize,
}

enum Member {
    Small(Vec<u8>),
    /// In staging; `None` once it is a blob.
    Spooled {
        digest: Digest,
        size: u64,
        writer: Option<BlobWriter>,
    },
    /// Another name of what this cleaned name names.
    Link(Vec<u8>),
}

/// A member that has become a blob.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Members {
    /// Reads the tar `source`; what is large goes to the staging of `addition`.
    pub(super) fn read(source: &mut dyn Read, addition: &Addition<'_>) -> Result<Self> {
        let mut members = Self::default();
        let mut entries = Entries::new(source);
        while let Some(entry) = entries.next()? {
            let doing = || format!("archive member {}", shown(&entry.name));
            let name = clean(&entry.name).doing_with(doing)?;
            let member = match &entry.kind {
                Kind::File => members.spool(&name, &mut entries, addition).doing_with(doing)?,
                Kind::Symlink(target) => Member::Link(link(&name, target).doing_with(doing)?),
                Kind::Link(target) => Member::Link(clean(target).doing_with(doing)?),
                Kind::Directory => continue,
                Kind::Character(..) | Kind::Block(..) | Kind::Fifo => {
                    return Err(Error::invalid("neither a file nor a link")).doing_with(doing);
                }
            };
            if members.by_name.len() == MEMBERS_MAX {
                return Err(Error::invalid(format!("an archive of more than {MEMBERS_MAX} files")));
            }
            members.by_name.insert(name, member);
        }
        entries.finish()?;
        Ok(members)
    }

    fn spool(
        &mut self,
        name: &[u8],
        entries: &mut Entries<'_>,
        addition: &Addition<'_>,
    ) -> Result<Member> {
        let content = entries.content();
        let size = content.size;
        if content.segments.iter().map(|segment| segment.length).sum::<u64>() != size {
            return Err(Error::unsupported("a sparse file in an archive of images"));
        }
        let mut left = size;
        if size <= SMALL && self.memory + size <= MEMORY_MAX {
            self.memory += size;
            let mut bytes = Vec::new();
            while left > 0 {
                let chunk = entries.take(left)?;
                bytes.extend_from_slice(chunk);
                left -= chunk.len() as u64;
            }
            return Ok(Member::Small(bytes));
        }
        self.spooled += 1;
        if self.spooled > LAYERS_MAX {
            return Err(Error::unsupported(format!(
                "an archive of more than {LAYERS_MAX} large files"
            )));
        }
        let mut writer = addition.new_blob()?;
        let promise = std::str::from_utf8(name).ok().and_then(promised);
        let mut hasher = promise.as_ref().map_or_else(Hasher::default, Hasher::like);
        while left > 0 {
            let chunk = entries.take(left)?;
            hasher.update(chunk);
            writer.write_all(chunk).doing("write to the store")?;
            left -= chunk.len() as u64;
        }
        Ok(Member::Spooled { digest: hasher.finish(), size, writer: Some(writer) })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name.as_bytes())
    }

    /// The name that is no link. `None` if there is nothing.
    fn follow(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut at = clean(name)?;
        for _ in 0..LINKS_MAX {
            match self.by_name.get(&at) {
                None => return Ok(None),
                Some(Member::Link(target)) => at.clone_from(target),
                Some(Member::Small(_) | Member::Spooled { .. }) => return Ok(Some(at)),
            }
        }
        Err(Error::invalid(format!("{} is a link that leads in a circle", shown(name))))
    }

    /// Makes a member a blob of the store. A name that is a digest is a promise, and kept.
    pub(super) fn blob(&mut self, name: &str, addition: &Addition<'_>) -> Result<Blob> {
        let missing = || Error::invalid(format!("the archive has no member {name:?}"));
        let real = self.follow(name.as_bytes())?.ok_or_else(missing)?;
        let blob = match self.by_name.get_mut(&real).ok_or_else(missing)? {
            Member::Small(bytes) => {
                let promise = promised(name).filter(|promise| promise.is_of(bytes));
                let expected = promise.as_ref().map(|promise| (promise, bytes.len() as u64));
                let (digest, size) = addition.put_blob(&mut &bytes[..], expected)?;
                Blob { digest, size }
            }
            Member::Spooled { digest, size, writer } => {
                if let Some(writer) = writer.take() {
                    addition.commit_blob(writer, digest)?;
                }
                Blob { digest: digest.clone(), size: *size }
            }
            Member::Link(_) => return Err(missing()),
        };
        match promised(name) {
            Some(promise) if promise != blob.digest => Err(Error::invalid(format!(
                "archive member {name:?} has other content than its name says: {}",
                blob.digest
            ))),
            _ => Ok(blob),
        }
    }

    /// A document of the archive.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let missing = || Error::invalid(format!("the archive has no member {name:?}"));
        let real = self.follow(name.as_bytes())?.ok_or_else(missing)?;
        match self.by_name.get(&real) {
            Some(Member::Small(bytes)) => {
                serde_json::from_slice(bytes).doing_with(|| format!("archive member {name:?}"))
            }
            Some(Member::Spooled { size, .. }) => {
                Err(Error::invalid(format!("archive member {name:?} is of {size} bytes")))
            }
            Some(Member::Link(_)) | None => Err(missing()),
        }
    }
}

/// Where a symbolic link leads, as a name of the archive.
fn link(name: &[u8], target: &[u8]) -> Result<Vec<u8>> {
    if target.starts_with(b"/") {
        return Err(Error::invalid("a link to an absolute path"));
    }
    let mut parts: Vec<&[u8]> = name.split(|&b| b == b'/').collect();
    parts.pop();
    for part in target.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or_else(|| Error::invalid("a link that leaves the archive"))?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// The digest that a name tells: `blobs/sha256/<hex>` and Docker's `<hex>.json`.
fn promised(name: &str) -> Option<Digest> {
    if let Some(hex) = name.strip_prefix("blobs/sha512/") {
        return format!("sha512:{hex}").parse().ok();
    }
    let hex = name.strip_prefix("blobs/sha256/").or(name.strip_suffix(".json"))?;
    format!("sha256:{hex}").parse().ok()
}
