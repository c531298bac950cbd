//! Images: fetching, finding, listing and removing them.

use std::collections::HashSet;

use super::Engine;
use crate::{
    error::{Error, Kind, Result},
    image::{
        Image, Progress, Unpack, builtin,
        layer::{Apply, Ownership},
        pull::{self, Policy, PullOptions},
        registry::Access,
        unpack::{InProcess, InUserNamespace},
    },
    oci::{Digest, Platform, Reference},
    state::ContainerId,
};

/// How an image is to be had.
#[derive(Debug, Clone)]
pub struct Want {
    pub platform: Option<String>,
    pub policy: Policy,
    pub tls_verify: bool,
}

/// One line of what a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    Untagged(String),
    Deleted(Digest),
}

impl Engine {
    /// What turns layers into directories here.
    pub fn unpacker(&self) -> Box<dyn Unpack> {
        match self.maps() {
            None => Box::new(InProcess(Apply { ownership: Ownership::Keep, user_xattr: false })),
            Some(maps) => {
                let ownership = if maps.is_single() { Ownership::Absorb } else { Ownership::Keep };
                Box::new(InUserNamespace::new(maps, Apply { ownership, user_xattr: true }))
            }
        }
    }

    /// The layers that containers are made of.
    pub fn layers_in_use(&self) -> Result<HashSet<Digest>> {
        let mut layers = HashSet::new();
        for id in self.container_ids()? {
            // One that cannot be read is not a reason to take its layers away: it stops here.
            match self.load(&id) {
                Ok(container) => layers.extend(container.record.layers),
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
        if want.policy != Policy::Always
            && let Some(image) = self.store.resolve(typed)?
        {
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
        let options = PullOptions {
            platform,
            policy: want.policy,
            access: Access::from_env(want.tls_verify),
        };
        pull::pull(&self.store, &reference, &options, &*self.unpacker(), progress)
    }

    /// Docker's rules for `rmi`: a name is taken away, and with the last one the image goes,
    /// unless a container needs it. By force the name goes all the same, and the image too unless
    /// the container runs.
    pub fn remove_image(&self, typed: &str, force: bool) -> Result<Vec<Removal>> {
        let id = self.store.resolve_id(typed)?.ok_or_else(|| no_such_image(typed))?;
        let image = match self.store.image(&id) {
            Ok(image) => image.ok_or_else(|| no_such_image(typed))?,
            // A record that cannot be read is a thing to be rid of.
            Err(_) if force => return self.delete(&id),
            Err(err) => return Err(err),
        };
        let name = named(&image, typed);
        let user = self.user_of(&image)?;
        match (name, user) {
            (Some(name), _) if image.names.len() > 1 => self.untag(&name),
            (None, _) if image.names.len() > 1 && !force => Err(cannot_delete(
                &image,
                "must be forced",
                "image is referenced in multiple repositories",
            )
            .hint("remove one name at a time, or all of them with -f")),
            (Some(name), Some(user)) if force && user.running => self.untag(&name),
            (Some(_), Some(user)) if !force => Err(user.refuses_name(typed, &image)),
            (None, Some(user)) if user.running || !force => Err(user.refuses_id(&image)),
            _ => self.delete(&image.record.id),
        }
    }

    fn untag(&self, name: &Reference) -> Result<Vec<Removal>> {
        self.store.untag(name)?;
        Ok(vec![Removal::Untagged(name.familiar())])
    }

    fn delete(&self, id: &Digest) -> Result<Vec<Removal>> {
        let unpacker = self.unpacker();
        let removed =
            self.store.remove(id, &|| self.layers_in_use(), &|tree| unpacker.remove(tree))?;
        let names = removed.names.iter().map(|name| Removal::Untagged(name.familiar()));
        let parts = removed.image.into_iter().chain(removed.layers).map(Removal::Deleted);
        Ok(names.chain(parts).collect())
    }

    /// A container that is made of the image: one that runs, if there is one.
    fn user_of(&self, image: &Image) -> Result<Option<User>> {
        let mut found = None;
        for id in self.container_ids()? {
            // One that cannot be read does not tell what it is made of; its layers stay anyway.
            let Ok(container) = self.load(&id) else { continue };
            if container.record.image_id != image.record.id {
                continue;
            }
            let running = container.status.is_running();
            if running || found.is_none() {
                found = Some(User { id, running });
            }
        }
        Ok(found)
    }
}

/// A container that keeps an image from being removed.
struct User {
    id: ContainerId,
    running: bool,
}

impl User {
    fn refuses_name(&self, typed: &str, image: &Image) -> Error {
        let (container, image) = (self.id.short(), image.record.id.short());
        Error::conflict(format!(
            "conflict: unable to remove repository reference \"{typed}\" (must force) - container {container} is using its referenced image {image}"
        ))
        .hint(self.hint())
    }

    fn refuses_id(&self, image: &Image) -> Error {
        let (how, state) = match self.running {
            true => ("cannot be forced", "running"),
            false => ("must be forced", "stopped"),
        };
        let why = format!("image is being used by {state} container {}", self.id.short());
        cannot_delete(image, how, &why).hint(self.hint())
    }

    fn hint(&self) -> String {
        let force = if self.running { " -f" } else { "" };
        format!("`dhow rm{force} {}` removes the container", self.id.short())
    }
}

fn cannot_delete(image: &Image, how: &str, why: &str) -> Error {
    let id = image.record.id.short();
    Error::conflict(format!("conflict: unable to delete {id} ({how}) - {why}"))
}

/// The name that was typed, if it was a name and not an id.
fn named(image: &Image, typed: &str) -> Option<Reference> {
    let typed: Reference = typed.parse().ok()?;
    let local = typed.local();
    let matches = |name: &Reference| *name == typed || Some(name) == local.as_ref();
    image.names.iter().map(|named| &named.name).find(|name| matches(name)).cloned()
}

/// Docker's words for an image that is not here.
pub fn no_such_image(typed: &str) -> Error {
    Error::not_found(format!("No such image: {typed}"))
        .hint("`dhow images` lists the images there are")
}
