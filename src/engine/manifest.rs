//! Manifest lists: made here of images that are here or in registries, and pushed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Engine, registry::Reach};
use crate::{
    error::{Context as _, Error, Result},
    image::{
        Progress,
        list::{Entry, ListRecord, Notes, descriptor, no_such_list, platform_value},
        push::{Pushed, push_list},
        registry::{Client, Document},
        store::MANIFEST_MAX,
    },
    oci::{Digest, Reference, media_type},
};

/// What a name stands for in a registry, or is being made into here.
#[derive(Debug)]
pub enum Manifests {
    One(Member),
    List(Vec<Member>),
}

/// A manifest, and what leads to it.
#[derive(Debug)]
pub struct Member {
    /// Complete; that of one of a list with its digest.
    pub name: String,
    /// With the platform (image-spec, image-index.md).
    pub descriptor: Value,
    /// As they were sent.
    pub bytes: Vec<u8>,
}

impl Member {
    fn new(list: &Reference, entry: &Entry, bytes: Vec<u8>) -> Self {
        let tag = list.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        let name = format!("{}{tag}@{}", list.repository(), entry.digest);
        Self { name, descriptor: descriptor(entry), bytes }
    }
}

impl Engine {
    /// Makes a list, or amends the one that is there.
    pub fn create_list(
        &self,
        name: &Reference,
        amend: bool,
        annotations: BTreeMap<String, String>,
    ) -> Result<ListRecord> {
        self.store.change_list(name, |known| match known {
            Some(_) if !amend => Err(Error::conflict(format!(
                "refusing to amend an existing manifest list with no --amend flag: {}",
                name.familiar()
            ))),
            Some(mut list) => {
                list.annotations.extend(annotations);
                Ok(list)
            }
            None => Ok(ListRecord { name: name.clone(), entries: Vec::new(), annotations }),
        })
    }

    /// Adds what `typed` names: an image that is here, or one of a registry; with `all`, every
    /// image of an index.
    pub fn add_to_list(
        &self,
        name: &Reference,
        typed: &str,
        all: bool,
        notes: &Notes,
        reach: &Reach,
    ) -> Result<ListRecord> {
        self.list(name)?;
        let mut entries = self.entries_of(typed, all, reach)?;
        for entry in &mut entries {
            entry.note(notes);
        }
        self.store.change_list(name, |known| {
            let mut list = known.ok_or_else(|| no_such_list(name))?;
            entries.into_iter().for_each(|entry| list.add(entry));
            Ok(list)
        })
    }

    /// The list of this name.
    pub fn list(&self, name: &Reference) -> Result<ListRecord> {
        self.store.list_record(name)?.ok_or_else(|| no_such_list(name))
    }

    /// Says more about the entry that `typed` names: by its digest, or as it was added.
    pub fn annotate_list(&self, name: &Reference, typed: &str, notes: &Notes) -> Result<()> {
        let digest = self.entry_digest(&self.list(name)?, typed)?;
        let changed = self.store.change_list(name, |known| {
            let mut list = known.ok_or_else(|| no_such_list(name))?;
            list.entries.iter_mut().filter(|e| e.digest == digest).for_each(|e| e.note(notes));
            Ok(list)
        });
        changed.map(drop)
    }

    /// Takes an entry away.
    pub fn remove_from_list(&self, name: &Reference, typed: &str) -> Result<Digest> {
        let digest = self.entry_digest(&self.list(name)?, typed)?;
        self.store.change_list(name, |known| {
            let mut list = known.ok_or_else(|| no_such_list(name))?;
            list.entries.retain(|entry| entry.digest != digest);
            Ok(list)
        })?;
        Ok(digest)
    }

    fn entry_digest(&self, list: &ListRecord, typed: &str) -> Result<Digest> {
        let typed_digest = typed.parse::<Digest>().ok();
        let reference = typed.parse::<Reference>().ok();
        let by_name = reference.as_ref().and_then(|name| name.digest().cloned());
        let here = || Some(self.here(typed).ok()??.record.manifest);
        let wanted = typed_digest.or(by_name).or_else(here);
        let fits = |entry: &&Entry| {
            Some(&entry.digest) == wanted.as_ref()
                || entry.source.is_some() && entry.source == reference
        };
        let found = list.entries.iter().find(fits).map(|entry| entry.digest.clone());
        found.ok_or_else(|| {
            Error::not_found(format!("{typed} is not in {}", list.name.familiar()))
                .hint("`dhow manifest inspect` shows what is")
        })
    }

    /// What the name stands for; with `all`, every image of an index of a registry.
    pub(super) fn entries_of(&self, typed: &str, all: bool, reach: &Reach) -> Result<Vec<Entry>> {
        let typed = typed.strip_prefix("docker://").unwrap_or(typed);
        if let Some(image) = self.here(typed)?
            && !all
        {
            let bytes = self.store.read_blob(&image.record.manifest, MANIFEST_MAX)?;
            return Ok(vec![Entry {
                digest: image.record.manifest.clone(),
                size: bytes.len() as u64,
                media_type: image.record.manifest_media_type.clone(),
                platform: platform_value(&image.record.platform),
                annotations: BTreeMap::new(),
                source: None,
            }]);
        }
        let name: Reference = typed.parse()?;
        let (client, document) = self.remote(&name, reach)?;
        from_registry(&client, document, &name, all)
            .doing_with(|| format!("add {}", name.familiar()))
    }

    /// A manifest or index as its registry has it.
    pub fn remote(&self, name: &Reference, reach: &Reach) -> Result<(Client, Document)> {
        let access = reach.access()?;
        let client = Client::of(&access.registries.target(name)?, &access);
        let which = name.digest().map(Digest::as_str).or(name.tag()).unwrap_or("latest");
        let document = client.fetch_document(which)?;
        Ok((client, document))
    }

    /// The manifest that a name stands for, or every one of a list, with its name and descriptor.
    pub fn manifests(&self, name: &Reference, reach: &Reach) -> Result<Manifests> {
        if let Some(list) = self.store.list_record(name)? {
            let member = |entry: &Entry| {
                let source = entry.source.as_ref().unwrap_or(name);
                match self.store.read_blob(&entry.digest, MANIFEST_MAX) {
                    Ok(bytes) if entry.source.is_none() => Ok(Member::new(source, entry, bytes)),
                    _ => self.member(source, entry, reach),
                }
            };
            return Ok(Manifests::List(list.entries.iter().map(member).collect::<Result<_>>()?));
        }
        let (client, document) = self.remote(name, reach)?;
        let (bytes, digest) = (document.bytes.clone(), document.digest.clone());
        let entries = from_registry(&client, document, name, true)?;
        match entries.as_slice() {
            [alone] if alone.digest == digest => {
                let name = name.to_string();
                Ok(Manifests::One(Member { name, descriptor: descriptor(alone), bytes }))
            }
            entries => {
                let member = |entry| self.member(name, entry, reach);
                Ok(Manifests::List(entries.iter().map(member).collect::<Result<_>>()?))
            }
        }
    }

    /// One of a list in a registry.
    fn member(&self, source: &Reference, entry: &Entry, reach: &Reach) -> Result<Member> {
        let name: Reference = format!("{}@{}", source.repository(), entry.digest).parse()?;
        Ok(Member::new(source, entry, self.remote(&name, reach)?.1.bytes))
    }

    /// Sends the list and what it names.
    pub fn push_list(
        &self,
        name: &Reference,
        target: &Reference,
        reach: &Reach,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        super::registry::not_local(target)?;
        let list = self.list(name)?;
        for image in self.store.list()? {
            if list.entries.iter().any(|entry| entry.digest == image.record.manifest) {
                self.make_blobs(&image.record)?;
            }
        }
        push_list(&self.store, &list, target, &reach.access()?, progress)
            .doing_with(|| format!("push {}", target.familiar()))
    }
}

/// The images that a manifest or an index is about; of an index only with `all`.
pub(super) fn from_registry(
    client: &Client,
    document: Document,
    name: &Reference,
    all: bool,
) -> Result<Vec<Entry>> {
    let value: Value = serde_json::from_slice(&document.bytes)?;
    let kind = value["mediaType"].as_str().unwrap_or(&document.media_type).to_owned();
    let entry = |digest: Digest, size: u64, kind: &str, platform: Value| Entry {
        digest,
        size,
        media_type: kind.to_owned(),
        platform,
        annotations: BTreeMap::new(),
        source: Some(name.clone()),
    };
    if media_type::document(&kind)? == media_type::Document::Manifest {
        let platform = client.platform_of(&value)?;
        let size = document.bytes.len() as u64;
        return Ok(vec![entry(document.digest, size, &kind, platform)]);
    }
    if !all {
        return Err(Error::invalid(format!("{} is a manifest list itself", name.familiar()))
            .hint("--all adds every image of it; NAME@DIGEST adds one"));
    }
    let manifests = value["manifests"].as_array().cloned().unwrap_or_default();
    let parse = |m: &Value| {
        let digest = m["digest"].as_str().unwrap_or_default().parse::<Digest>()?;
        let kind = m["mediaType"].as_str().unwrap_or(media_type::OCI_MANIFEST).to_owned();
        let size = m["size"].as_u64().unwrap_or_default();
        // They say which of them is an attestation.
        let annotations = Deserialize::deserialize(&m["annotations"]).unwrap_or_default();
        Ok(Entry { annotations, ..entry(digest, size, &kind, m["platform"].clone()) })
    };
    manifests.iter().map(parse).collect()
}
