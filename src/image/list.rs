//! Manifest lists being made: indexes that are here until they are pushed (image-spec
//! image-index.md).

use std::{collections::BTreeMap, fs, io};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Store;
use crate::{
    error::{Context as _, Error, Result},
    oci::{Digest, Platform, Reference, media_type},
    state::store::{Durability, Lock, create_private_dir, read_json, write_json},
};

/// `lists/<sha256 of the name>.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListRecord {
    /// Complete.
    pub name: Reference,
    /// In the order they were added.
    pub entries: Vec<Entry>,
    /// Of the index.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// One manifest of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Of the manifest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
    /// Of the manifest.
    pub media_type: String,
    /// image-index.md, `platform`.
    pub platform: Value,
    /// Of the descriptor.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Where it came from, unless it is an image of this store's.
    #[serde(default)]
    pub source: Option<Reference>,
}

/// What `annotate` and `add` say about an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// `platform.architecture`.
    pub architecture: Option<String>,
    /// `platform.os`.
    pub os: Option<String>,
    /// `platform["os.version"]`.
    pub os_version: Option<String>,
    /// `platform["os.features"]`.
    pub os_features: Vec<String>,
    /// `platform.features`, which image-spec reserves.
    pub features: Vec<String>,
    /// `platform.variant`.
    pub variant: Option<String>,
    /// Of the descriptor.
    pub annotations: BTreeMap<String, String>,
}

impl Entry {
    /// Says what the notes say.
    pub fn note(&mut self, notes: &Notes) {
        let words = [
            ("architecture", &notes.architecture),
            ("os", &notes.os),
            ("os.version", &notes.os_version),
            ("variant", &notes.variant),
        ];
        for (key, value) in words {
            if let Some(value) = value {
                self.platform[key] = json!(value);
            }
        }
        for (key, list) in [("os.features", &notes.os_features), ("features", &notes.features)] {
            if !list.is_empty() {
                self.platform[key] = json!(list);
            }
        }
        self.annotations.extend(notes.annotations.clone());
    }
}

/// image-index.md, `platform`.
pub fn platform_value(platform: &Platform) -> Value {
    let mut value = json!({ "architecture": platform.architecture, "os": platform.os });
    if let Some(variant) = &platform.variant {
        value["variant"] = json!(variant);
    }
    value
}

impl ListRecord {
    /// Adds an entry, in the place of one for the same manifest.
    pub fn add(&mut self, entry: Entry) {
        self.entries.retain(|known| known.digest != entry.digest);
        self.entries.push(entry);
    }

    /// The index's bytes and media type; the same entries give the same bytes. As Docker's where
    /// all entries are.
    pub fn index(&self) -> Result<(Vec<u8>, &'static str)> {
        let docker = |entry: &Entry| entry.media_type == media_type::DOCKER_MANIFEST;
        let plain = self.annotations.is_empty();
        let kind = match !self.entries.is_empty() && plain && self.entries.iter().all(docker) {
            true => media_type::DOCKER_INDEX,
            false => media_type::OCI_INDEX,
        };
        let entries: Vec<Value> = self.entries.iter().map(descriptor).collect();
        let mut index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": entries });
        if !plain {
            index["annotations"] = json!(self.annotations);
        }
        Ok((serde_json::to_vec(&index)?, kind))
    }
}

/// As an index has it.
pub fn descriptor(entry: &Entry) -> Value {
    let mut value = json!({
        "mediaType": entry.media_type, "digest": entry.digest, "size": entry.size,
        "platform": entry.platform,
    });
    if !entry.annotations.is_empty() {
        value["annotations"] = json!(entry.annotations);
    }
    value
}

impl Store {
    /// The list of this name, if there is one.
    pub fn list_record(&self, name: &Reference) -> Result<Option<ListRecord>> {
        read_json(&self.layout().list(&name.to_string()))
    }

    /// Makes or changes a list, alone. `change` gets the one that is there.
    pub fn change_list(
        &self,
        name: &Reference,
        change: impl FnOnce(Option<ListRecord>) -> Result<ListRecord>,
    ) -> Result<ListRecord> {
        let path = self.layout().list(&name.to_string());
        let dir = self.layout().lists();
        create_private_dir(&dir)?;
        let _lock = Lock::exclusive(&dir)?;
        let record = change(read_json(&path)?)?;
        write_json(&path, &record, Durability::Synced)?;
        Ok(record)
    }

    /// Removes a list. `false` if there is none.
    pub fn remove_list(&self, name: &Reference) -> Result<bool> {
        let path = self.layout().list(&name.to_string());
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err).at(path).doing("remove"),
        }
    }
}

/// There is no list of this name.
pub fn no_such_list(name: &Reference) -> Error {
    Error::not_found(format!("No such manifest: {}", name.familiar()))
        .hint("`dhow manifest create` makes one")
}
