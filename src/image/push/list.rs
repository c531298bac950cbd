//! Sending a manifest list: each image that the repository lacks, then the index.

use std::{fs::File, io};

use oci_spec::image::{Descriptor, ImageManifest};

use super::Pushed;
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
    let place = access.registries.target(target)?;
    let same =
        |source: &&Reference| source.domain() == target.domain() && source.path() != target.path();
    let sources = list.entries.iter().filter_map(|entry| entry.source.as_ref()).filter(same);
    let mut mounts: Vec<String> = sources.map(|source| source.path().to_owned()).collect();
    mounts.sort();
    mounts.dedup();
    let client = Client::of(&place, access).pushing(mounts);
    for entry in &list.entries {
        let send =
            Copy { store, entry, client: &client, access, addition: store.add(), target, progress };
        send.run().doing_with(|| format!("push manifest {}", entry.digest.short()))?;
    }
    let (bytes, media_type) = list.index()?;
    let digest = Digest::of(&bytes);
    let which = target.tag().map_or_else(|| digest.to_string(), str::to_owned);
    client.put_document(&which, media_type, &bytes)?;
    Ok(Pushed { digest, size: bytes.len() as u64 })
}

/// One image on its way from here, or from another registry.
struct Copy<'a> {
    store: &'a Store,
    entry: &'a Entry,
    client: &'a Client,
    access: &'a Access,
    addition: Addition<'a>,
    target: &'a Reference,
    progress: &'a dyn Progress,
}

impl Copy<'_> {
    fn run(&self) -> Result<()> {
        let digest = &self.entry.digest;
        if self.client.has_document(digest.as_str())? {
            self.progress.layer(digest, Event::There);
            return Ok(());
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
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            self.blob(blob, source.as_ref())?;
        }
        self.client.put_document(digest.as_str(), &self.entry.media_type, &bytes)?;
        self.progress.layer(digest, Event::Pushed);
        Ok(())
    }

    fn blob(&self, descriptor: &Descriptor, source: Option<&Client>) -> Result<()> {
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
        let blob = Outgoing { digest: &digest, size, file: &file, stop: None };
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
