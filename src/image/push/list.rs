//! Sending a manifest list: each image that the repository lacks, then the index.

use std::{collections::BTreeSet, fs::File, io, sync::atomic::AtomicBool};

use oci_spec::image::{Descriptor, ImageManifest};

use super::{Pushed, together::together};
use crate::{
    error::{Context as _, Error, Result},
    image::{
        Addition, BlobWriter, Event, Progress, Store,
        list::{Entry, ListRecord},
        registry::{Access, Client, Outgoing},
        store::MANIFEST_MAX,
    },
    oci::{Digest, Reference},
};

/// Sends the list and what it names to `target`.
///
/// What is not here comes from where the list found it, and is gone again afterwards.
pub fn push_list(
    store: &Store,
    list: &ListRecord,
    target: &Reference,
    access: &Access,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let (bytes, media_type) = list.index()?;
    push_index(store, &list.entries, (&bytes, media_type), target, access, progress)
}

/// Sends these images, and then a document about them, whose media type is the other one.
pub fn push_index(
    store: &Store,
    entries: &[Entry],
    (bytes, media_type): (&[u8], &str),
    target: &Reference,
    access: &Access,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let place = access.registries.target(target)?;
    let same =
        |source: &&Reference| source.domain() == target.domain() && source.path() != target.path();
    let sources = entries.iter().filter_map(|entry| entry.source.as_ref()).filter(same);
    let mut mounts: Vec<String> = sources.map(|source| source.path().to_owned()).collect();
    mounts.sort();
    mounts.dedup();
    let client = Client::of(&place, access).pushing(mounts);
    let addition = store.add();
    let copies: Vec<Copy<'_>> = (entries.iter())
        .map(|entry| Copy {
            store,
            entry,
            client: &client,
            access,
            addition: &addition,
            target,
            progress,
        })
        .collect();
    let named = |copy: &Copy<'_>| format!("push manifest {}", copy.entry.digest.short());
    // What several images of a list have in common is sent once.
    let prepared =
        together(copies.len(), |at, _| copies[at].prepare().doing_with(|| named(&copies[at])))?;
    let mut blobs = Vec::new();
    let mut seen = BTreeSet::new();
    for (copy, prepared) in copies.iter().zip(&prepared) {
        for blob in prepared.iter().flat_map(Prepared::blobs) {
            if seen.insert(blob.digest().to_string()) {
                blobs.push((copy, prepared, blob));
            }
        }
    }
    together(blobs.len(), |at, stop| {
        let (copy, prepared, blob) = blobs[at];
        let source = prepared.as_ref().and_then(|prepared| prepared.source.as_ref());
        copy.blob(blob, source, stop).doing_with(|| named(copy))
    })?;
    together(copies.len(), |at, _| match &prepared[at] {
        Some(prepared) => copies[at].finish(prepared).doing_with(|| named(&copies[at])),
        None => Ok(()),
    })?;
    let digest = Digest::of(bytes);
    let which = target.tag().map_or_else(|| digest.to_string(), str::to_owned);
    client.put_document(&which, media_type, bytes)?;
    Ok(Pushed { digest, size: bytes.len() as u64 })
}

/// One image on its way from here, or from another registry.
struct Copy<'a> {
    store: &'a Store,
    entry: &'a Entry,
    client: &'a Client,
    access: &'a Access,
    addition: &'a Addition<'a>,
    target: &'a Reference,
    progress: &'a dyn Progress,
}

/// What is missing there of an image.
struct Prepared {
    source: Option<Client>,
    bytes: Vec<u8>,
    manifest: ImageManifest,
}

impl Prepared {
    fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifest.layers().iter().chain([self.manifest.config()])
    }
}

impl Copy<'_> {
    /// `None` if the registry has the image.
    fn prepare(&self) -> Result<Option<Prepared>> {
        let digest = &self.entry.digest;
        if self.client.has_document(digest.as_str())? {
            self.progress.layer(digest, Event::There);
            return Ok(None);
        }
        let source = match &self.entry.source {
            Some(source) => Some(Client::of(&self.access.registries.target(source)?, self.access)),
            None => None,
        };
        let bytes = match (self.store.has_blob(digest), &source) {
            (true, _) => self.store.read_blob(digest, MANIFEST_MAX)?,
            (false, Some(source)) => source.fetch_document(digest.as_str())?.bytes,
            (false, None) => return Err(gone(digest)),
        };
        let manifest: ImageManifest = serde_json::from_slice(&bytes).doing("read the manifest")?;
        Ok(Some(Prepared { source, bytes, manifest }))
    }

    /// Once its blobs are there.
    fn finish(&self, prepared: &Prepared) -> Result<()> {
        let digest = &self.entry.digest;
        self.client.put_document(digest.as_str(), &self.entry.media_type, &prepared.bytes)?;
        self.progress.layer(digest, Event::Pushed);
        Ok(())
    }

    fn blob(
        &self,
        descriptor: &Descriptor,
        source: Option<&Client>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let digest: Digest = descriptor.digest().to_string().parse()?;
        let size = descriptor.size();
        let from: Vec<String> = (self.entry.source.iter())
            .filter(|s| s.domain() == self.target.domain() && s.path() != self.target.path())
            .map(|source| source.path().to_owned())
            .collect();
        if self.client.has_blob(&digest)? {
            return Ok(());
        }
        if let [from] = &from[..]
            && self.client.mount(&digest, from)?
        {
            return Ok(());
        }
        let (file, _temporary) = self.obtain(&digest, size, source)?;
        let blob = Outgoing { digest: &digest, size, file: &file, stop: Some(stop) };
        let tell = |done| self.progress.layer(&digest, Event::Pushing { done, total: size });
        self.client.push_blob(&blob, &[], &tell)?;
        self.progress.layer(&digest, Event::Pushed);
        Ok(())
    }

    fn obtain(
        &self,
        digest: &Digest,
        size: u64,
        source: Option<&Client>,
    ) -> Result<(File, Option<BlobWriter>)> {
        if self.store.has_blob(digest) {
            return Ok((self.store.open_blob(digest)?, None));
        }
        let source = source.ok_or_else(|| gone(digest))?;
        let mut blob = self.addition.new_blob()?;
        // The registry that it goes to verifies it.
        io::copy(&mut source.fetch_blob(digest, size), &mut blob)?;
        Ok((blob.reader()?, Some(blob)))
    }
}

fn gone(digest: &Digest) -> Error {
    Error::not_found(format!("{digest} is not here any more"))
        .hint("pull or load the image again, and add it to the list anew")
}
