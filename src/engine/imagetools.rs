//! Images of registries: what is there, and lists made of them (`buildx imagetools`).

use serde_json::{Map, Value, json};

use super::{
    Engine,
    build::{Annotation, Level},
    manifest::from_registry,
    registry::{Reach, not_local},
};
use crate::{
    error::{Context as _, Error, Result},
    image::{
        Progress,
        list::{Entry, ListRecord},
        push::{Pushed, push_index},
        registry::{Client, Document},
    },
    oci::{Digest, Platform, Reference, media_type},
};

/// A configuration or a statement that is read into memory, in bytes.
const SMALL_MAX: u64 = 64 << 20;

/// What a list is made of, as it is typed.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Name(Reference),
    /// In the only repository that is named.
    Digest(Digest),
    /// The same, and what its descriptor shall be.
    Descriptor(Digest, Value),
}

impl Source {
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let doing = || {
            format!(
                "failed to parse source {text:?}, valid sources are digests, references and descriptors"
            )
        };
        if text.starts_with('{') {
            let descriptor: Value = serde_json::from_str(text).doing_with(doing)?;
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            let digest = digest.parse().doing_with(doing)?;
            return Ok(Self::Descriptor(digest, descriptor));
        }
        match text.starts_with("sha256:") {
            true => text.parse().map(Self::Digest).doing_with(doing),
            false => text.parse().map(Self::Name).doing_with(doing),
        }
    }
}

/// How a list is made.
#[derive(Debug, Clone)]
pub struct Combine {
    pub sources: Vec<Source>,
    pub names: Vec<Reference>,
    pub annotations: Vec<Annotation>,
    /// Images for these alone; all if there are none.
    pub platforms: Vec<Platform>,
    /// A single image becomes a list, too.
    pub prefer_index: bool,
}

/// A document for a registry, and the images it is about.
#[derive(Debug, Clone)]
pub struct Combined {
    entries: Vec<Entry>,
    pub bytes: Vec<u8>,
    media_type: String,
}

/// What a name stands for in its registry.
#[derive(Debug)]
pub struct Described {
    pub name: Reference,
    pub document: Document,
    /// Of the document.
    pub media_type: String,
    client: Client,
}

impl Engine {
    /// Makes a list of images of registries.
    pub fn combine(&self, how: &Combine, reach: &Reach) -> Result<Combined> {
        let names = how.sources.iter().filter_map(|source| match source {
            Source::Name(name) => Some(name),
            Source::Digest(_) | Source::Descriptor(..) => None,
        });
        let mut repositories: Vec<String> =
            how.names.iter().chain(names).map(Reference::repository).collect();
        repositories.sort();
        repositories.dedup();
        let exact = |digest: &Digest| -> Result<Reference> {
            match &repositories[..] {
                [only] => Ok(format!("{only}@{digest}").parse()?),
                [] => Err(Error::invalid(
                    "no repositories specified, please set a reference in tag or source",
                )),
                _ => Err(Error::invalid(format!(
                    "multiple repositories specified, cannot infer repository for {digest}"
                ))),
            }
        };
        let mut entries: Vec<Entry> = Vec::new();
        let mut only = None;
        for source in &how.sources {
            let (name, wanted) = match source {
                Source::Name(name) => (name.clone(), None),
                Source::Digest(digest) => (exact(digest)?, None),
                Source::Descriptor(digest, descriptor) => (exact(digest)?, Some(descriptor)),
            };
            let (client, document) =
                self.remote(&name, reach).doing_with(|| format!("resolve {name}"))?;
            let found = from_registry(&client, document.clone(), &name, true)?;
            only = Some((kind_of(&document)?, document));
            for mut entry in found {
                if let Some(wanted) = wanted {
                    describe_as(&mut entry, wanted);
                }
                match entries.iter_mut().find(|known| known.digest == entry.digest) {
                    Some(known) => *known = entry,
                    None => entries.push(entry),
                }
            }
        }
        if !how.platforms.is_empty() {
            retain(&mut entries, &how.platforms)?;
        }
        let is_plain = how.annotations.is_empty()
            && how.platforms.is_empty()
            && matches!(&how.sources[..], [Source::Name(_) | Source::Digest(_)]);
        if let (true, Some((kind, document))) = (is_plain, only)
            && (!how.prefer_index || media_type::document(&kind)? == media_type::Document::Index)
        {
            return Ok(Combined { entries, bytes: document.bytes, media_type: kind });
        }
        let mut list = ListRecord {
            name: "localhost/list".parse()?,
            entries,
            annotations: Default::default(),
        };
        annotate(&mut list, &how.annotations)?;
        let (bytes, kind) = list.index()?;
        let value: Value = serde_json::from_slice(&bytes)?;
        let bytes = serde_json::to_vec_pretty(&value)?;
        Ok(Combined { entries: list.entries, bytes, media_type: kind.to_owned() })
    }

    /// Sends a list and the images in it.
    pub fn push_combined(
        &self,
        combined: &Combined,
        name: &Reference,
        reach: &Reach,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        not_local(name)?;
        let document = (&combined.bytes[..], &*combined.media_type);
        push_index(&self.store, &combined.entries, document, name, &reach.access()?, progress)
            .doing_with(|| format!("push {}", name.familiar()))
    }

    /// What a name stands for in its registry.
    pub fn described(&self, name: &Reference, reach: &Reach) -> Result<Described> {
        let (client, document) =
            self.remote(name, reach).doing_with(|| format!("resolve {name}"))?;
        let media_type = kind_of(&document)?;
        Ok(Described { name: name.clone(), document, media_type, client })
    }
}

impl Described {
    /// The images and statements of an index; none of an image.
    pub fn manifests(&self) -> Result<Vec<Value>> {
        let value: Value = serde_json::from_slice(&self.document.bytes)?;
        Ok(value["manifests"].as_array().cloned().unwrap_or_default())
    }

    /// The configuration of an image, or of each image of an index by its platform.
    pub fn images(&self) -> Result<Value> {
        let config = |bytes: &[u8]| -> Result<Value> {
            let manifest: Value = serde_json::from_slice(bytes)?;
            self.small(&manifest["config"])
        };
        if media_type::document(&self.media_type)? == media_type::Document::Manifest {
            return config(&self.document.bytes);
        }
        let mut images = Map::new();
        for entry in self.manifests()? {
            if let Some(platform) = platform_of(&entry["platform"]) {
                let digest = entry["digest"].as_str().unwrap_or_default();
                let bytes = self.client.fetch_document(digest)?.bytes;
                images.insert(platform.to_string(), config(&bytes)?);
            }
        }
        Ok(images.into())
    }

    /// What is said of the images by statements of this type: of a single one, or by platform.
    pub fn statements(&self, kind: &str, key: &str) -> Result<Value> {
        let all = self.manifests()?;
        let mut found = Map::new();
        for entry in &all {
            let notes = &entry["annotations"];
            if notes["vnd.docker.reference.type"] != "attestation-manifest" {
                continue;
            }
            let about = &notes["vnd.docker.reference.digest"];
            let image = all.iter().find(|image| image["digest"] == *about);
            let platform = image.and_then(|image| platform_of(&image["platform"]));
            let platform = platform.map_or_else(String::new, |platform| platform.to_string());
            let digest = entry["digest"].as_str().unwrap_or_default();
            let manifest: Value =
                serde_json::from_slice(&self.client.fetch_document(digest)?.bytes)?;
            for layer in manifest["layers"].as_array().into_iter().flatten() {
                let said = layer["annotations"]["in-toto.io/predicate-type"].as_str();
                if said.is_some_and(|said| said.starts_with(kind)) {
                    let statement = self.small(layer)?;
                    found.insert(platform.clone(), json!({ key: statement["predicate"] }));
                }
            }
        }
        Ok(match found.len() {
            1 => found.into_iter().next().map(|(_, only)| only).unwrap_or_default(),
            _ => found.into(),
        })
    }

    /// A small blob, which is JSON.
    fn small(&self, descriptor: &Value) -> Result<Value> {
        let digest: Digest = descriptor["digest"].as_str().unwrap_or_default().parse()?;
        let size = descriptor["size"].as_u64().unwrap_or_default();
        if size > SMALL_MAX {
            return Err(Error::unsupported(format!(
                "{digest} has {size} bytes, which is too much"
            )));
        }
        self.client.fetch_json("blob", &digest, size)
    }
}

fn kind_of(document: &Document) -> Result<String> {
    let value: Value = serde_json::from_slice(&document.bytes)?;
    Ok(value["mediaType"].as_str().unwrap_or(&document.media_type).to_owned())
}

/// `None` of what is for no platform.
pub fn platform_of(value: &Value) -> Option<Platform> {
    let text = |key: &str| value[key].as_str().filter(|text| *text != "unknown");
    Some(Platform::new(text("os")?, text("architecture")?, text("variant")))
}

/// Replaces what a descriptor says of itself.
fn describe_as(entry: &mut Entry, wanted: &Value) {
    if let Some(kind) = wanted["mediaType"].as_str() {
        kind.clone_into(&mut entry.media_type);
    }
    if wanted["platform"].is_object() {
        entry.platform = wanted["platform"].clone();
    }
    if let Some(notes) = wanted["annotations"].as_object() {
        let text =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        entry.annotations = notes.iter().filter_map(text).collect();
    }
}

/// Keeps images for these platforms, and what is said about them.
fn retain(entries: &mut Vec<Entry>, platforms: &[Platform]) -> Result<()> {
    let is_wanted =
        |entry: &Entry| platform_of(&entry.platform).is_some_and(|one| platforms.contains(&one));
    let wanted: Vec<String> = entries
        .iter()
        .filter(|entry| is_wanted(entry))
        .map(|entry| entry.digest.to_string())
        .collect();
    if wanted.is_empty() {
        return Err(Error::not_found("none of the sources is for one of these platforms"));
    }
    entries.retain(|entry| {
        let about = entry.annotations.get("vnd.docker.reference.digest");
        is_wanted(entry) || about.is_some_and(|about| wanted.contains(about))
    });
    Ok(())
}

fn annotate(list: &mut ListRecord, annotations: &[Annotation]) -> Result<()> {
    for note in annotations {
        let pair = (note.key.clone(), note.value.clone());
        match note.level {
            Level::Index => {
                list.annotations.extend([pair]);
            }
            Level::ManifestDescriptor => {
                for entry in &mut list.entries {
                    let own = platform_of(&entry.platform);
                    if own.is_some() && (note.platform.is_none() || note.platform == own) {
                        entry.annotations.extend([pair.clone()]);
                    }
                }
            }
            Level::Manifest | Level::IndexDescriptor => {
                return Err(Error::unsupported(format!(
                    "annotation {}: a list is annotated by index: and manifest-descriptor:",
                    note.key
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_digests_names_or_descriptors() {
        let digest = Digest::of(b"a");
        let parse = |text: &str| Source::parse(text).expect(text);
        assert_eq!(parse(digest.as_str()), Source::Digest(digest.clone()));
        assert_eq!(parse("a/b:c"), Source::Name("a/b:c".parse().expect("name")));
        let text = format!("{{\"digest\":\"{digest}\",\"size\":1}}\n");
        assert!(matches!(parse(&text), Source::Descriptor(known, _) if known == digest));
        for bad in ["sha256:x", "{", "{}", "A b", ""] {
            Source::parse(bad).expect_err(bad);
        }
    }
}
