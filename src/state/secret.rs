//! Secrets: values that containers are given and nobody is shown.
//!
//! One file each, mode 0600, replaced whole. A container gets a copy when it is created, so that
//! it starts again without the secret that it was made from.

use std::{collections::BTreeMap, fs, io::ErrorKind};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    Layout,
    store::{Durability, create_private_dir, read_json_or, write_json, write_new},
};
use crate::error::{Context as _, Error, Result};

/// Bytes of a secret at most; podman's bound, docker's is 500 KiB.
pub const LONGEST: usize = 512_000;

/// The value of a secret. It is not printed, not even by mistake.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Neither empty nor longer than [`LONGEST`].
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        match bytes.len() {
            1..LONGEST => Ok(Self(bytes)),
            _ => {
                Err(Error::invalid("secret data must be larger than 0 and less than 512000 bytes"))
            }
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretValue({} bytes)", self.0.len())
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(de::Error::custom)?;
        Self::new(bytes).map_err(de::Error::custom)
    }
}

/// `secrets/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRecord {
    /// 25 hex digits.
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    pub updated: Timestamp,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// As it was written; there is one driver.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    pub value: SecretValue,
}

/// Podman's rule, less what would be a path or could act on a terminal.
pub fn check_name(name: &str) -> Result<()> {
    let plain = !name.contains(['=', '/', ',']) && !name.chars().any(char::is_control);
    if plain && (1..=253).contains(&name.len()) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "secret name {name:?} can not include '=', '/', ',', or control characters, begin with '.' or '-', and be between 1 and 253 characters: invalid secret name"
    )))
}

/// The secret of this name, which need not be one that a secret can have.
pub fn find(layout: &Layout, name: &str) -> Result<Option<SecretRecord>> {
    if check_name(name).is_err() {
        return Ok(None);
    }
    read_json_or(&layout.secret(name), || format!("`dhow secret rm {name}` removes the secret"))
}

/// What there is, by name, and what could not be read.
pub fn list(layout: &Layout) -> Result<(Vec<SecretRecord>, Vec<Error>)> {
    let dir = layout.secrets();
    let entries = match fs::read_dir(&dir) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Default::default()),
        entries => entries.at(&dir)?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for name in names {
        match find(layout, &name) {
            Ok(record) => found.extend(record),
            Err(err) => damaged.push(err),
        }
    }
    found.sort_by(|one: &SecretRecord, two| one.name.cmp(&two.name));
    Ok((found, damaged))
}

/// Writes a secret that is not there yet; `false` if it is.
pub fn create(layout: &Layout, record: &SecretRecord) -> Result<bool> {
    check_name(&record.name)?;
    for dir in [layout.secrets(), layout.staging()] {
        create_private_dir(&dir)?;
    }
    let mut bytes = serde_json::to_vec(record)?;
    bytes.push(b'\n');
    write_new(&layout.secret(&record.name), &bytes, &layout.staging())
}

/// Writes a secret over the one that is there.
pub fn replace(layout: &Layout, record: &SecretRecord) -> Result<()> {
    check_name(&record.name)?;
    create_private_dir(&layout.secrets())?;
    write_json(&layout.secret(&record.name), record, Durability::Synced)
}

/// Removes a secret; `false` if there is none.
pub fn remove(layout: &Layout, name: &str) -> Result<bool> {
    check_name(name)?;
    let path = layout.secret(name);
    match fs::remove_file(&path) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
        removed => removed.at(&path).doing("remove").map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn record(name: &str, value: &[u8]) -> SecretRecord {
        SecretRecord {
            id: "1".into(),
            name: name.into(),
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            value: SecretValue::new(value.to_vec()).expect("short"),
        }
    }

    #[test]
    fn names_cannot_be_paths_or_flags() {
        for good in ["a", "db password", "a.b_c-d", "ä"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".tmp-x", "-a", "a/b", "a=b", "a,b", "a\nb", "a\0b"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name(&"a".repeat(254)).is_err());
    }

    #[test]
    fn a_secret_is_private_and_comes_back_as_it_was() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout::new(dir.path().join("r"), dir.path().join("x"));
        let first = record("db", &[0, 255, 10]);
        assert!(create(&layout, &first).expect("create"));
        assert!(!create(&layout, &record("db", b"x")).expect("there is one"));
        assert_eq!(find(&layout, "db").expect("read"), Some(first));
        let mode = fs::metadata(layout.secret("db")).expect("stat").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        replace(&layout, &record("db", b"new")).expect("replace");
        assert_eq!(list(&layout).expect("list").0[0].value.bytes(), b"new");
        assert!(remove(&layout, "db").expect("remove"));
        assert!(!remove(&layout, "db").expect("it is gone"));
    }

    #[test]
    fn a_value_is_not_shown() {
        let shown = format!("{:?}", record("db", b"hunter2"));
        assert!(shown.contains("7 bytes") && !shown.contains("hunter"), "{shown}");
        assert!(SecretValue::new(Vec::new()).is_err());
        assert!(SecretValue::new(vec![0; LONGEST]).is_err());
    }
}
