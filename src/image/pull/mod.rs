//! Fetching an image: index, manifest for the wanted platform, configuration, layers.
//!
//! Nothing that the registry says is believed. Every document and blob is verified against the
//! digest and size of what named it, down from the reference; a document that could be read as
//! two kinds is refused, and so is an image whose parts contradict each other.

mod choose;
mod layers;

use std::fs;

pub use choose::shape;
use jiff::Timestamp;
pub(super) use layers::Fetch;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};

use self::choose::{choose, digest_of, leads_to};
use super::{
    Addition, Event, Image, ImageRecord, LayerRef, Progress, Store, Unpack, config,
    registry::{Access, Client, Document},
    store::{CONFIG_MAX, LAYERS_MAX, chain_ids},
    trust::{self, Trust},
};
use crate::{
    error::{Context as _, Error, Result},
    oci::{Digest, Platform, Reference, media_type::Compression},
};

/// When to ask the registry (`--pull`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Always, even if the image is here: its name may mean another one by now.
    #[default]
    Always,
    /// Only if it is not here.
    Missing,
    /// Not even if it is not here: then it is an error.
    Never,
    /// Always, but what is here will do if the registry does not answer.
    Newer,
}

/// How an image is fetched.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// `None`: whatever runs best here.
    pub platform: Option<Platform>,
    /// When the registry is asked at all.
    pub policy: Policy,
    /// How it is reached.
    pub access: Access,
    /// What it must be signed by.
    pub trust: Trust,
}

/// Fetches the image that `reference` names, as the options say, and names it so.
///
/// Errors: not found, unauthorized, unsupported kinds of image, and what a registry that lies,
/// breaks off or cannot be reached leads to. What has arrived whole is kept for the next try.
pub fn pull(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    unpack: &dyn Unpack,
    progress: &dyn Progress,
) -> Result<Image> {
    if matches!(options.policy, Policy::Missing | Policy::Never)
        && let Some(image) = local(store, reference, options.platform.as_ref())?
    {
        return Ok(image);
    }
    if options.policy == Policy::Never {
        return Err(Error::not_found(format!("No such image: {}", reference.familiar()))
            .hint(format!("`dhow pull {}` fetches it", reference.familiar())));
    }
    store.clean_staging(&|tree| unpack.remove(tree))?;
    let fetched = fetch(store, reference, options, unpack, progress)
        .doing_with(|| format!("pull {}", reference.familiar()));
    match fetched {
        Err(err) if options.policy == Policy::Newer => {
            let here = local(store, reference, options.platform.as_ref())?;
            here.ok_or(err)
        }
        other => other,
    }
}

/// The image that the reference means here, if it is for the wanted platform.
fn local(store: &Store, reference: &Reference, wanted: Option<&Platform>) -> Result<Option<Image>> {
    let image = store.resolve(&reference.to_string())?;
    Ok(image.filter(|image| fits(wanted, image)))
}

fn fits(wanted: Option<&Platform>, image: &Image) -> bool {
    wanted.is_none_or(|wanted| wanted.rank(&image.record.platform).is_some())
}

fn fetch(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    unpack: &dyn Unpack,
    progress: &dyn Progress,
) -> Result<Image> {
    let platform = match &options.platform {
        Some(platform) => platform.clone(),
        None => host_platform()?,
    };
    let which = reference.digest().map(Digest::as_str).or(reference.tag()).unwrap_or("latest");
    let (client, first) = first_that_has(reference, &options.access, which)?;
    let named = first.digest.clone();
    let mut digests = vec![named.clone()];
    if !options.trust.accepts_anything() {
        digests.extend(leads_to(&first, &platform)?.filter(|digest| *digest != named));
    }
    trust::check(&options.trust, &client, reference, &digests)?;
    // One that is for something else is looked at again, by the rules below.
    let fits = |image: &Image| fits(options.platform.as_ref(), image);
    if let Some(image) = unchanged(store, reference, &first, &platform)?.filter(fits) {
        for layer in &image.record.layers {
            progress.layer(&layer.digest, Event::Exists);
        }
        return Ok(image);
    }
    let chosen = choose(&client, first, &platform)?;

    let addition = store.add();
    let wanted = (&chosen.document.digest, chosen.document.bytes.len() as u64);
    addition.put_blob(&mut &chosen.document.bytes[..], Some(wanted))?;
    let (id, config) = fetch_config(&client, &addition, chosen.manifest.config())?;
    let found = platform_of(&config);
    let mut claimed = found.clone();
    if chosen.by_index && config.variant().is_none() {
        // Older images for arm leave that to the index.
        claimed.variant.clone_from(&platform.variant);
    }
    if options.platform.is_some() && platform.rank(&claimed).is_none() {
        return Err(Error::not_found(format!("the image is for {found}, not for {platform}"))
            .hint("leave --platform away to take it anyway"));
    }
    let layers = layer_refs(&chosen.manifest, &config)?;
    let client = Some(&client);
    let fetched = Fetch { client, addition: &addition, layers: &layers, unpack, progress }.run();
    // Even if the rest did not come: the next try finds these.
    let published = addition.publish(&|tree| unpack.remove(tree));
    fetched.and(published)?;

    let mut size = 0;
    for layer in &layers {
        size += store.layer(&layer.chain_id)?.size;
    }
    let record = ImageRecord {
        id,
        manifest: chosen.document.digest,
        manifest_media_type: chosen.media_type,
        layers,
        platform: found,
        // An image that lies about its age, or is silent, has none.
        created: config.created().as_deref().and_then(|text| text.parse().ok()),
        added: Timestamp::now(),
        size,
    };
    addition.finish(record, &[(reference.stored(), Some(named))])
}

/// The document, from the first source that has it: mirrors come before the registry, whose words
/// are told if nobody does.
fn first_that_has(
    reference: &Reference,
    access: &Access,
    which: &str,
) -> Result<(Client, Document)> {
    let mut sources = access.registries.sources(reference)?.into_iter().peekable();
    while let Some(source) = sources.next() {
        let client = Client::of(&source, access);
        match client.fetch_document(which) {
            Ok(document) => return Ok((client, document)),
            Err(err) if sources.peek().is_some() => {
                log::debug!("mirror {}: {err}", source.name.repository());
            }
            Err(err) => return Err(err),
        }
    }
    Err(Error::engine(format!("{} has no source", reference.familiar())))
}

/// The image that the reference means here, if that is what the registry means by it still: then
/// there is nothing more to ask.
fn unchanged(
    store: &Store,
    reference: &Reference,
    first: &Document,
    platform: &Platform,
) -> Result<Option<Image>> {
    let name = reference.stored();
    // One that is damaged is fetched anew.
    let Some(named) = store.name(&name).ok().flatten() else { return Ok(None) };
    let Some(image) = store.image(&named.image).ok().flatten() else { return Ok(None) };
    let means_it = leads_to(first, platform)? == Some(image.record.manifest.clone());
    let whole = image.record.chain_ids().all(|chain_id| store.has_layer(chain_id))
        && image.record.blobs().all(|digest| store.has_blob(digest));
    if !means_it || !whole {
        return Ok(None);
    }
    if named.digest.as_ref() != Some(&first.digest) {
        store.tag(&name, &named.image, Some(&first.digest))?;
        return store.image(&named.image);
    }
    Ok(Some(image))
}

/// This machine, for choosing from an index.
pub fn host_platform() -> Result<Platform> {
    let path = "/proc/cpuinfo";
    let cpu = fs::read_to_string(path).at(path)?;
    let flags = cpu.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    Ok(Platform::host(std::env::consts::ARCH, flags))
}

fn platform_of(config: &ImageConfiguration) -> Platform {
    let architecture = config.architecture().to_string();
    Platform::new(&config.os().to_string(), &architecture, config.variant().as_deref())
}

fn fetch_config(
    client: &Client,
    addition: &Addition<'_>,
    descriptor: &Descriptor,
) -> Result<(Digest, ImageConfiguration)> {
    let (digest, size) = (digest_of(descriptor)?, descriptor.size());
    if size > CONFIG_MAX {
        return Err(Error::invalid(format!(
            "configuration {digest} is larger than {CONFIG_MAX} bytes"
        )));
    }
    if !addition.has_blob(&digest)? {
        addition.put_blob(&mut client.fetch_blob(&digest, size), Some((&digest, size)))?;
    }
    let bytes = addition.store().read_blob(&digest, CONFIG_MAX)?;
    Ok((digest, config::parse(&bytes)?))
}

/// Pairs the manifest's blobs with the configuration's diffIDs.
pub fn layer_refs(manifest: &ImageManifest, config: &ImageConfiguration) -> Result<Vec<LayerRef>> {
    let diff_ids = config.rootfs().diff_ids();
    let (blobs, tars) = (manifest.layers().len(), diff_ids.len());
    if blobs != tars {
        return Err(Error::invalid(format!(
            "the manifest has {blobs} layers, the image's configuration {tars}"
        )));
    }
    if blobs > LAYERS_MAX {
        return Err(Error::unsupported(format!(
            "the image has {blobs} layers; {LAYERS_MAX} are supported"
        )));
    }
    let diff_ids: Vec<Digest> =
        diff_ids.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let chain = chain_ids(&diff_ids);
    let pairs = manifest.layers().iter().zip(diff_ids.into_iter().zip(chain));
    pairs
        .map(|(blob, (diff_id, chain_id))| {
            let media_type = blob.media_type().to_string();
            Compression::of_layer(&media_type)?;
            let digest = digest_of(blob)?;
            Ok(LayerRef { digest, diff_id, chain_id, size: blob.size(), media_type })
        })
        .collect()
}

#[cfg(test)]
mod tests;
