//! Names given and taken, images removed: one by one, or all that nobody needs.

use super::{filter::ImageFilters, no_such_image};
use crate::{
    engine::{Engine, volume::overlay::images},
    error::{Error, Kind, Result},
    image::{Image, NameRecord, collect::Removed},
    oci::{Digest, Reference},
    state::ContainerId,
};

/// How often a removal looks again at an image that changes under its eyes.
const TURNS: usize = 8;

/// One line of what a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    Untagged(String),
    Deleted(Digest),
}

/// What a prune did.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    pub removals: Vec<Removal>,
    /// Bytes of content that went.
    pub reclaimed: u64,
    /// Why an image that could have gone did not.
    pub failures: Vec<Error>,
}

impl Engine {
    /// Gives the image that `source` means another name, taking it from the image that had it.
    pub fn tag_image(&self, source: &str, target: &str) -> Result<()> {
        let name: Reference = target.parse::<Reference>().map_err(|err| {
            let said = format!("Error parsing reference: {target:?} is not a valid repository/tag");
            Error::from(err).context(said)
        })?;
        if name.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference")
                .hint("a digest is the content's own name; leave it away"));
        }
        let image = self.image(source)?;
        // Names of one repository share what the registry calls the image.
        let twin = image.names.iter().find(|other| other.name.repository() == name.repository());
        let digest = twin.and_then(|twin| twin.digest.clone());
        self.store.tag(&name, &image.record.id, digest.as_ref())?;
        self.note_image(&image.record.id, "tag", &name.familiar());
        Ok(())
    }

    /// Takes these names from the image that `typed` means, or all it has if none is given; the
    /// image stays.
    pub fn untag_image(&self, typed: &str, names: &[String]) -> Result<()> {
        let image = self.image(typed)?;
        let mut known = Vec::new();
        for name in names {
            let reference: Reference = name.parse()?;
            let local = reference.local();
            let meanings = self.meanings(name)?;
            let is = |have: &&&Reference| {
                ***have == reference || Some(**have) == local.as_ref() || meanings.contains(have)
            };
            let names: Vec<&Reference> = image.names.iter().map(|named| &named.name).collect();
            let found = names.iter().find(is).copied();
            known.push(found.ok_or_else(|| {
                Error::not_found(format!("{}: tag not known", reference.familiar()))
                    .hint(format!("`dhow image inspect {typed}` lists the image's names"))
            })?);
        }
        if names.is_empty() {
            known.extend(image.names.iter().map(|named| &named.name));
        }
        known.into_iter().try_for_each(|name| {
            self.store.untag(name)?;
            self.note_image(&image.record.id, "untag", &name.familiar());
            Ok(())
        })
    }

    /// Docker's rules for `rmi`: a name is taken away, and with the last one the image goes,
    /// unless a container needs it. By force the name goes all the same, and the image too unless
    /// the container runs. A digest stands for the names that came by it.
    pub fn remove_image(&self, typed: &str, force: bool) -> Result<Vec<Removal>> {
        if force
            && let Some((id, _)) = self.here_as(typed)?
            && self.mount_of(&id).is_some()
        {
            self.unmount(&id, true)?;
        }
        let mut outcome = self.try_remove_image(typed, force)?;
        // A container or a name that came in between is a new question, with its own answer.
        for _ in 0..TURNS {
            if outcome.is_ok() {
                break;
            }
            outcome = self.try_remove_image(typed, force)?;
        }
        outcome
    }

    /// The inner error is one that holds because something changed after the image was looked at.
    fn try_remove_image(&self, typed: &str, force: bool) -> Result<Result<Vec<Removal>>> {
        let (id, name) = self.here_as(typed)?.ok_or_else(|| no_such_image(typed))?;
        let image = match self.store.image(&id) {
            Ok(image) => image.ok_or_else(|| no_such_image(typed))?,
            // A record that cannot be read is a thing to be rid of.
            Err(_) if force => return self.delete(&id, &|_| Ok(())).map(|gone| Ok(removals(gone))),
            Err(err) => return Err(err),
        };
        let meant = meant(&image, &name);
        if !meant.is_empty() && meant.len() < image.names.len() {
            return self.untag(&image, &meant).map(Ok);
        }
        if meant.is_empty() && image.names.len() > 1 && !force {
            let why = "image is referenced in multiple repositories";
            return Err(cannot_delete(&image, "must be forced", why)
                .hint("remove one name at a time, or all of them with -f"));
        }
        match self.user_of(&id)? {
            Some(user) if force && user.running && !meant.is_empty() => {
                return self.untag(&image, &meant).map(Ok);
            }
            Some(user) if !meant.is_empty() && !force => {
                return Err(user.refuses_name(typed, &image));
            }
            Some(user) if meant.is_empty() && (user.running || !force) => {
                return Err(user.refuses_id(&image));
            }
            _ => {}
        }
        let changed = std::cell::Cell::new(false);
        let may_go = |names: &[NameRecord]| {
            let refusal = match self.user_of(&id)? {
                Some(user) if !force || user.running => user.refuses_id(&image),
                _ if !force && names != image.names => {
                    cannot_delete(&image, "must be forced", "it was given another name meanwhile")
                }
                _ => return Ok(()),
            };
            changed.set(true);
            Err(refusal)
        };
        match self.delete(&id, &may_go) {
            Err(err) if changed.get() => Ok(Err(err)),
            gone => gone.map(|gone| Ok(removals(gone))),
        }
    }

    fn untag(&self, image: &Image, names: &[&NameRecord]) -> Result<Vec<Removal>> {
        let mut gone = Vec::new();
        for named in names {
            gone.extend(self.store.untag(&named.name)?);
        }
        for one in &gone {
            self.note_image(&image.record.id, "untag", &one.name.familiar());
        }
        let stay = |named: &&NameRecord| !gone.iter().any(|one| one.name == named.name);
        let rest: Vec<&NameRecord> = image.names.iter().filter(stay).collect();
        Ok(untagged(&gone, &rest))
    }

    fn delete(&self, id: &Digest, may_go: &dyn Fn(&[NameRecord]) -> Result<()>) -> Result<Removed> {
        if let Some(place) = self.mount_of(id) {
            return Err(Error::conflict(format!(
                "conflict: image {} is mounted at {}",
                id.short(),
                place.display()
            ))
            .hint(format!("`dhow image unmount {}` first", id.short())));
        }
        let unpacker = self.unpacker();
        let removed = self
            .store
            .remove_if(id, may_go, &|| self.layers_in_use(), &|tree| unpacker.remove(tree))?;
        self.note_image(id, "delete", &id.to_string());
        Ok(removed)
    }

    /// Removes the images that have no name, or with `all` those that no container is made of, if
    /// `filters` admit them; without filters also what interrupted commands have left.
    pub fn prune_images(&self, all: bool, filters: &ImageFilters) -> Result<Pruned> {
        let listing = self.store.listing()?;
        // An image without a name may be the one that a damaged name names.
        let certain = listing.damaged.is_empty();
        let mut pruned = Pruned { failures: listing.damaged, ..Pruned::default() };
        for image in &listing.images {
            if !(all || certain && image.names.is_empty()) || !filters.admits(self, image) {
                continue;
            }
            let id = &image.record.id;
            let may_go = |names: &[NameRecord]| match self.user_of(id)? {
                None if all || names.is_empty() => Ok(()),
                _ => Err(Error::conflict("in use")),
            };
            match self.delete(id, &may_go) {
                Ok(removed) => {
                    pruned.reclaimed += removed.size;
                    pruned.removals.extend(removals(removed));
                }
                // Somebody uses it, or was faster.
                Err(err) if matches!(err.kind(), Kind::Conflict | Kind::NotFound) => {}
                Err(err) => pruned.failures.push(err),
            }
        }
        if filters.is_empty() && certain {
            let unpacker = self.unpacker();
            let in_use = || self.layers_in_use();
            let removed = self.store.collect_garbage(&in_use, &|tree| unpacker.remove(tree))?;
            pruned.reclaimed += removed.size;
            pruned.removals.extend(removed.layers.into_iter().map(Removal::Deleted));
        }
        Ok(pruned)
    }

    /// A container that is made of the image: one that runs, if there is one.
    pub(in crate::engine) fn user_of(&self, image: &Digest) -> Result<Option<User>> {
        let mut found = None;
        for id in self.container_ids()? {
            // One that cannot be read does not tell what it is made of; its layers stay anyway.
            let Ok(container) = self.load(&id) else { continue };
            let mounted = images(&container.record).any(|one| one.id.as_ref() == Some(image));
            if container.record.image_id != *image && !mounted {
                continue;
            }
            let running = container.status.made().is_some();
            if running || found.is_none() {
                found = Some(User { id, running });
            }
        }
        Ok(found)
    }
}

/// Docker's lines for what went. A repository's digest goes with its last name.
pub(in crate::engine) fn removals(removed: Removed) -> Vec<Removal> {
    let mut lines = untagged(&removed.names, &[]);
    lines.extend(removed.image.into_iter().chain(removed.layers).map(Removal::Deleted));
    lines
}

fn untagged(gone: &[NameRecord], rest: &[&NameRecord]) -> Vec<Removal> {
    let mut lines = Vec::new();
    for (at, named) in gone.iter().enumerate() {
        lines.push(Removal::Untagged(named.name.familiar()));
        let repository = named.name.repository();
        let mut others = gone[at + 1..].iter().chain(rest.iter().copied());
        if let (Some(digest), None) = (&named.digest, named.name.digest())
            && !others.any(|other| other.name.repository() == repository)
        {
            let repository = named.name.familiar_repository();
            lines.push(Removal::Untagged(format!("{repository}@{digest}")));
        }
    }
    lines
}

/// A container that keeps an image from being removed.
pub(in crate::engine) struct User {
    id: ContainerId,
    pub(in crate::engine) running: bool,
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

/// The names of the image that were typed: one, or those that came by a digest; none for an id.
fn meant<'a>(image: &'a Image, typed: &str) -> Vec<&'a NameRecord> {
    let Ok(typed) = typed.parse::<Reference>() else { return Vec::new() };
    for wanted in [Some(typed.clone()), typed.local()].into_iter().flatten() {
        if let Some(named) = image.names.iter().find(|named| named.name == wanted) {
            return vec![named];
        }
        let Some(digest) = wanted.digest() else { continue };
        let by_digest = |named: &&NameRecord| {
            named.name.repository() == wanted.repository()
                && (named.digest.as_ref() == Some(digest) || image.record.manifest == *digest)
        };
        let names: Vec<_> = image.names.iter().filter(by_digest).collect();
        if !names.is_empty() {
            return names;
        }
    }
    Vec::new()
}
