//! `dhow.lock`: what a build takes from elsewhere, by digest.
//!
//! `--lock` writes it into the context, `--locked` takes nothing that is not in it and nothing
//! else than what is in it. A context from elsewhere has its own, which cannot say which commit it
//! is in: that is in the one of the directory where the build is called. What one build takes does not take away what another has noted.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::remote::Material;

use crate::{
    error::{Context as _, Error, Result},
    oci::{Digest, Platform},
};

/// What the file is called, in the context.
pub const LOCK_NAME: &str = "dhow.lock";
const LOCK_MAX: u64 = 4 << 20;
const VERSION: u32 = 1;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// By the names in `FROM` and `--from`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    images: BTreeMap<String, ImagePin>,
    /// By the addresses in `ADD` and of contexts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<String, Digest>,
    /// Commits, by the addresses in `ADD` and of contexts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    repositories: BTreeMap<String, String>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ImagePin {
    /// What its registry knows it by.
    Digest(Digest),
    /// What was never in a registry: its configuration's, by platform.
    Id(BTreeMap<String, Digest>),
}

/// What it takes to take up what has changed.
const ANEW: &str = "`dhow build --lock` builds with what there is now, and writes dhow.lock anew";

impl Lock {
    /// Reads the lock of the context in `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK_NAME);
        let root = crate::sys::fs::Root::open(dir).at(dir)?;
        let bytes = match root.read_small(format!("/{LOCK_NAME}"), LOCK_MAX) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Err(Error::not_found(format!("--locked: there is no {}", path.display()))
                    .hint("`dhow build --lock` writes it"));
            }
            bytes => bytes.at(&path)?,
        };
        let lock: Self = serde_json::from_slice(&bytes).at(&path)?;
        match lock.version {
            VERSION => Ok(lock),
            other => Err(Error::unsupported(format!(
                "{}: version {other} is not in this version of dhow",
                path.display()
            ))),
        }
    }

    /// Writes it to the context in `dir`, with what was there of others. No file of the context
    /// becomes newer by it: its time is `epoch` (seconds since 1970), if that is earlier.
    pub fn write(self, dir: &Path, epoch: Option<i64>) -> Result<()> {
        let path = dir.join(LOCK_NAME);
        let mut lock = match path.exists() {
            true => Self::read(dir)?,
            false => Self::default(),
        };
        let before = lock.clone();
        lock.merge(self);
        if lock == before {
            return Ok(());
        }
        let mut text = serde_json::to_string_pretty(&lock)?;
        text.push('\n');
        let mut file = tempfile::NamedTempFile::with_prefix_in(".dhow-lock-", dir).at(dir)?;
        io::Write::write_all(&mut file, text.as_bytes()).at(&path).doing("write")?;
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).at(&path)?;
        if let Some(epoch) = epoch.and_then(|epoch| u64::try_from(epoch).ok()) {
            let time = UNIX_EPOCH + Duration::from_secs(epoch);
            file.as_file().set_modified(time).at(&path)?;
        }
        file.persist(&path).map_err(|err| err.error).at(&path).doing("write").map(drop)
    }

    /// Takes up what `other` says.
    pub fn merge(&mut self, other: Self) {
        self.version = VERSION;
        for (name, pin) in other.images {
            match (self.images.get_mut(&name), pin) {
                (Some(ImagePin::Id(ours)), ImagePin::Id(theirs)) => ours.extend(theirs),
                (_, pin) => drop(self.images.insert(name, pin)),
            }
        }
        self.files.extend(other.files);
        self.repositories.extend(other.repositories);
    }

    pub(super) fn note_image(
        &mut self,
        name: &str,
        known: Option<&Digest>,
        id: &Digest,
        platform: &Platform,
    ) {
        let pin = match known {
            Some(digest) => ImagePin::Digest(digest.clone()),
            None => ImagePin::Id([(platform.to_string(), id.clone())].into()),
        };
        self.merge(Self { images: [(name.to_owned(), pin)].into(), ..Self::default() });
    }

    pub(super) fn note_file(&mut self, url: &str, digest: &Digest) {
        self.files.insert(url.to_owned(), digest.clone());
    }

    pub(super) fn note_repository(&mut self, place: &str, commit: &str) {
        self.repositories.insert(place.to_owned(), commit.to_owned());
    }

    /// Whether it has something for the address.
    pub fn knows(&self, address: &str) -> bool {
        self.repositories.contains_key(address) || self.files.contains_key(address)
    }

    /// What was at the address of a build context.
    pub fn source(&self, address: &str) -> Option<Material> {
        let commit = self.repositories.get(address).map(|commit| Material::commit(commit));
        commit.or_else(|| self.files.get(address).map(Material::from))
    }

    /// What the image has to be.
    pub(super) fn image(&self, name: &str) -> Result<&ImagePin> {
        self.images.get(name).ok_or_else(|| missing(&format!("image {name}")))
    }

    /// The commit that the repository has to be at.
    pub(super) fn repository(&self, place: &str) -> Result<&str> {
        let commit = self.repositories.get(place);
        commit.map(String::as_str).ok_or_else(|| missing(place))
    }

    /// Refuses a file that has changed.
    pub(super) fn check_file(&self, url: &str, digest: &Digest) -> Result<()> {
        let pinned = self.files.get(url).ok_or_else(|| missing(url))?;
        if pinned == digest {
            return Ok(());
        }
        Err(Error::conflict(format!("{url} has changed: it is {digest}, dhow.lock pins {pinned}"))
            .hint(ANEW))
    }
}

pub(super) fn missing(what: &str) -> Error {
    Error::conflict(format!("dhow.lock does not pin {what}")).hint(ANEW)
}

/// An image is another one than it was.
pub(super) fn drifted(name: &str, now: Option<&Digest>, pinned: &Digest) -> Error {
    let now = now.map_or_else(|| "is not here".into(), |now| format!("is {now}"));
    Error::conflict(format!("image {name} {now}, dhow.lock pins {pinned}"))
        .hint(format!("load or tag the pinned one again; or {ANEW}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_noted_stays() {
        let dir = tempfile::tempdir().expect("dir");
        let platform = |text: &str| text.parse::<Platform>().expect(text);
        let digest = |text: &str| Digest::of(text.as_bytes());
        let mut one = Lock::default();
        one.note_image("a", None, &digest("a"), &platform("linux/amd64"));
        one.note_image("b", Some(&digest("b")), &digest("x"), &platform("linux/amd64"));
        one.note_file("https://host/f", &digest("f"));
        one.clone().write(dir.path(), Some(7)).expect("write");
        let mut two = Lock::default();
        two.note_image("a", None, &digest("arm"), &platform("linux/arm64"));
        two.note_repository("https://host/r.git#main", "c0ffee");
        two.write(dir.path(), Some(7)).expect("write");
        let lock = Lock::read(dir.path()).expect("read");
        let ImagePin::Id(ids) = lock.image("a").expect("a") else { panic!("{lock:?}") };
        assert_eq!(ids.len(), 2);
        assert_eq!(lock.image("b").expect("b"), &ImagePin::Digest(digest("b")));
        lock.check_file("https://host/f", &digest("f")).expect("same");
        lock.check_file("https://host/f", &digest("g")).expect_err("changed");
        lock.check_file("https://host/g", &digest("g")).expect_err("unknown");
        assert_eq!(lock.repository("https://host/r.git#main").expect("r"), "c0ffee");
        let time = fs::metadata(dir.path().join(LOCK_NAME)).and_then(|m| m.modified());
        assert_eq!(time.expect("time"), UNIX_EPOCH + Duration::from_secs(7));
        for bad in ["{}", "{\"version\":2}", "{\"version\":1,\"x\":1}", "", "[]"] {
            fs::write(dir.path().join(LOCK_NAME), bad).expect("write");
            Lock::read(dir.path()).expect_err(bad);
        }
    }
}
