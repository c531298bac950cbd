//! Images: finding them, here or in a registry, and what else is done with one.

pub mod copy;
mod diff;
pub mod filter;
pub mod history;
pub(in crate::engine) mod mount;
pub mod referrers;
pub mod remove;
pub mod save;
pub mod tree;

use std::{collections::HashSet, path::PathBuf};

use super::{Engine, registry::Reach};
use crate::{
    engine::volume::overlay::images,
    error::{Context as _, Error, Kind, Result},
    image::{
        Addition, Image, ImageRecord, LayerRef, Progress, Seal, builtin,
        layer::{Apply, Ownership},
        pull::{self, Policy, PullOptions},
        trust::{Trust, TrustPolicy},
        unpack::{InProcess, InUserNamespace},
    },
    oci::{Digest, Platform, Reference},
    sys::channel,
};

/// How an image is to be had.
#[derive(Debug, Clone)]
pub struct Want {
    pub platform: Option<String>,
    pub policy: Policy,
    pub reach: Reach,
    /// Keys of which one must have signed it.
    pub verify_keys: Vec<PathBuf>,
}

impl Engine {
    /// What turns layers into directories here.
    pub fn unpacker(&self) -> Box<dyn Seal> {
        match self.maps() {
            None => Box::new(InProcess(Apply { ownership: Ownership::Keep, user_xattr: false })),
            Some(maps) => {
                let ownership = if maps.is_single() { Ownership::Absorb } else { Ownership::Keep };
                Box::new(InUserNamespace::new(maps, Apply { ownership, user_xattr: true }))
            }
        }
    }

    /// Makes the blobs of an image whose layers were made here and have none. Whoever sends or
    /// saves an image asks for it first; while the image is here they stay.
    pub fn make_blobs(&self, image: &ImageRecord) -> Result<()> {
        let addition = self.store.add();
        for layer in &image.layers {
            if addition.has_blob(&layer.digest)? || !addition.has_layer(&layer.chain_id)? {
                continue;
            }
            if self.store.layer(&layer.chain_id)?.sealed {
                self.make_blob(&addition, layer)
                    .doing_with(|| format!("make the tar of layer {}", layer.diff_id.short()))?;
            }
        }
        Ok(())
    }

    fn make_blob(&self, addition: &Addition<'_>, layer: &LayerRef) -> Result<()> {
        let unpacker = self.unpacker();
        let diff = self.store.layout().layer_diff(&layer.chain_id);
        let (reader, writer) = channel::pipe().doing("create a pipe")?;
        std::thread::scope(|scope| {
            let store = std::thread::Builder::new().name("blob".into()).spawn_scoped(scope, || {
                let mut reader = std::fs::File::from(reader);
                addition.put_blob(&mut reader, Some((&layer.digest, layer.size)))
            });
            let store = store.doing("start a thread")?;
            let writer = std::fs::File::from(writer);
            let written = unpacker.sealed_tar(&diff, &writer);
            drop(writer);
            match store.join() {
                // Why there was too little to store.
                Ok(stored) => written.and(stored.map(drop)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The layers that containers are made of, and those that builds would use again.
    pub fn layers_in_use(&self) -> Result<HashSet<Digest>> {
        let steps = self.store.steps()?.into_iter();
        let mut layers: HashSet<Digest> = steps.map(|kept| kept.step.layer.chain_id).collect();
        for id in self.container_ids()? {
            // One that cannot be read is not a reason to take its layers away: it stops here.
            match self.load(&id) {
                Ok(container) => {
                    let mounted = images(&container.record).flat_map(|image| image.layers.clone());
                    layers.extend(mounted);
                    layers.extend(container.record.layers);
                }
                Err(err) if err.kind() == Kind::NotFound => {}
                Err(err) => return Err(err),
            }
        }
        Ok(layers)
    }

    /// The image that `typed` means: what is here first, unless the policy says otherwise, then
    /// the registry's. `dhow/hello` is made on the spot.
    pub fn obtain(&self, typed: &str, want: &Want, progress: &dyn Progress) -> Result<Image> {
        let platform = want.platform.as_deref().map(str::parse::<Platform>).transpose()?;
        if let Ok(reference) = typed.parse::<Reference>()
            && builtin::is_builtin(&reference)
        {
            return builtin::ensure(&self.store, &*self.unpacker(), &|| self.layers_in_use());
        }
        let own = typed.parse::<Reference>().is_ok_and(|name| name.domain() == "localhost");
        let local_will_do = match want.policy {
            Policy::Always => false,
            Policy::Newer => own,
            Policy::Missing | Policy::Never => true,
        };
        if local_will_do && let Some(image) = self.here(typed)? {
            let other = platform.as_ref().filter(|p| p.rank(&image.record.platform).is_none());
            match other {
                None => return Ok(image),
                Some(platform) if want.policy == Policy::Never => {
                    return Err(Error::not_found(format!(
                        "image {typed} is for {}, not for {platform}",
                        image.record.platform
                    ))
                    .hint("without --pull never, the one for that platform is fetched"));
                }
                Some(_) => {}
            }
        }
        let reference: Reference = typed.parse()?;
        if reference.domain() == "localhost" {
            return Err(Error::not_found(format!("No such image: {typed}"))
                .hint("names that begin with localhost/ are never fetched (localhost:PORT/ are); `dhow images` lists what is here"));
        }
        let access = want.reach.access()?;
        let meanings = access.registries.meanings(typed)?;
        let trust = Trust { policy: TrustPolicy::from_env()?, keys: want.verify_keys.clone() };
        let options = PullOptions { platform, policy: want.policy, access, trust };
        let mut failed: Option<Error> = None;
        for meaning in meanings {
            match pull::pull(&self.store, &meaning, &options, &*self.unpacker(), progress) {
                Ok(image) => {
                    self.note_image(&image.record.id, "pull", &meaning.familiar());
                    return Ok(image);
                }
                Err(err) => {
                    // The first registry that is searched is the likeliest one to be meant.
                    if let Some(first) = &failed {
                        log::debug!("{err}; before: {first}");
                    }
                    failed.get_or_insert(err);
                }
            }
        }
        Err(failed.unwrap_or_else(|| no_such_image(typed)))
    }
}

impl Engine {
    /// What was typed, if it is here: by that name, or by one that the machine's short names say it
    /// stands for.
    pub fn here(&self, typed: &str) -> Result<Option<Image>> {
        match self.here_as(typed)? {
            Some((id, _)) => self.store.image(&id),
            None => Ok(None),
        }
    }

    /// The id alone, even where its record is damaged, and the name that was found: what was typed
    /// or what that stands for.
    pub(in crate::engine) fn here_as(&self, typed: &str) -> Result<Option<(Digest, String)>> {
        if let Some(id) = self.store.resolve_id(typed)? {
            return Ok(Some((id, typed.to_owned())));
        }
        // An id is no name that could stand for another.
        let Ok(meanings) = self.meanings(typed) else { return Ok(None) };
        for meaning in meanings {
            let name = meaning.to_string();
            if let Some(id) = self.store.resolve_id(&name)? {
                return Ok(Some((id, name)));
            }
        }
        Ok(None)
    }

    /// The image that is here under a name, a digest or the beginning of an id.
    pub fn image(&self, typed: &str) -> Result<Image> {
        self.here(typed)?.ok_or_else(|| no_such_image(typed))
    }

    /// As [`image`](Self::image), if it is for `platform` (as typed).
    pub fn image_for(&self, typed: &str, platform: Option<&str>) -> Result<Image> {
        let image = self.image(typed)?;
        let wanted = platform.map(str::parse::<Platform>).transpose()?;
        match wanted.filter(|wanted| wanted.rank(&image.record.platform).is_none()) {
            None => Ok(image),
            Some(wanted) => Err(Error::not_found(format!(
                "image {typed} is for {}, not for {wanted}",
                image.record.platform
            ))
            .hint("a name here means one image for one platform: pull the other one first")),
        }
    }
}

/// Docker's words for an image that is not here.
pub fn no_such_image(typed: &str) -> Error {
    Error::not_found(format!("No such image: {typed}"))
        .hint("`dhow images` lists the images there are")
}
