//! `image cp`: an image from one place to another, in skopeo's words for places.
//!
//! Between two places that are not the store, the image passes through a store of its own in the
//! staging area: every blob, diffID and size is verified as for a pull, but no file of a layer is
//! made.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::save::{to_path, to_writer};
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    image::{
        Image, Progress, Store, Unpack, Unpacked,
        archive::{
            self, Called, DirTar,
            save::{Format, Save, Wanted},
        },
        pull::{self, Policy, PullOptions},
        push::{self, PushOptions},
        registry::Access,
        trust::{Trust, TrustPolicy},
    },
    oci::{Platform, Reference, media_type::Compression},
    state::Layout,
};

/// Where an image is, or shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This store, under a name, digest or id.
    Here(String),
    Registry(Reference),
    /// A file or directory, and the image's name in it.
    Files {
        layout: Format,
        directory: bool,
        path: PathBuf,
        name: Option<Name>,
    },
}

/// What an image is called in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    Whole(Reference),
    /// A tag alone, as OCI layouts may have it.
    Tag(String),
}

/// How it is copied.
#[derive(Debug, Clone)]
pub struct Copy {
    pub platform: Option<String>,
    pub tls_verify: bool,
    pub uncompressed: bool,
}

/// skopeo's transports that are not for here.
const ELSEWHERE: [&str; 5] =
    ["docker-daemon:", "containers-storage:", "ostree:", "sif:", "tarball:"];

impl Place {
    /// `docker://NAME`, `docker-archive:PATH[:NAME]`, `oci-archive:PATH[:NAME]`, `oci:DIR[:NAME]`,
    /// `dir:DIR`, or the name of an image that is here.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(name.parse()?));
        }
        if let Some(transport) = ELSEWHERE.iter().find(|transport| text.starts_with(*transport)) {
            return Err(Error::unsupported(format!("{transport} is nothing that dhow copies from or to"))
                .hint("places are docker://, docker-archive:, oci-archive:, oci:, dir: and names of images"));
        }
        let files = |rest: &str, layout, directory| {
            let (path, name) = match rest.split_once(':') {
                Some((path, name)) => (path, Some(name)),
                None => (rest, None),
            };
            if path.is_empty() {
                return Err(Error::invalid(format!("{text:?} names no path")));
            }
            let name = match name.filter(|name| !name.is_empty()) {
                Some(tag) if layout == Format::Oci && !tag.contains([':', '/']) => {
                    Some(Name::Tag(tag.to_owned()))
                }
                name => name.map(|name| name.parse().map(Name::Whole)).transpose()?,
            };
            Ok(Self::Files { layout, directory, path: path.into(), name })
        };
        match text.split_once(':') {
            Some(("docker-archive", rest)) => files(rest, Format::Docker, false),
            Some(("oci-archive", rest)) => files(rest, Format::Oci, false),
            Some(("oci", rest)) => files(rest, Format::Oci, true),
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Files {
                layout: Format::Dir,
                directory: true,
                path: path.into(),
                name: None,
            }),
            Some(("dir", _)) => Err(Error::invalid(format!("{text:?} names no path"))),
            _ => Ok(Self::Here(text.to_owned())),
        }
    }
}

impl Engine {
    /// Copies one image. Returns the image as it was found.
    pub fn copy_image(
        &self,
        from: &Place,
        to: &Place,
        how: &Copy,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let platform = how.platform.as_deref().map(str::parse::<Platform>).transpose()?;
        match (from, to) {
            (Place::Here(typed), _) => {
                let image = self.image_for(typed, how.platform.as_deref())?;
                self.put(&self.store, image, None, to, how, progress)
            }
            (_, Place::Here(name)) => {
                let name: Reference = name.parse()?;
                let unpacker = self.unpacker();
                let target = Target { store: &self.store, unpack: &*unpacker, name: Some(&name) };
                let image = self.take(&target, from, platform, how, progress)?;
                if let Place::Registry(_) = from {
                    self.store.tag(&name, &image.record.id, None)?;
                }
                Ok(image)
            }
            _ => {
                let scratch = self.store.scratch()?;
                let layout = Layout::new(scratch.diff().join("store"), scratch.diff().join("run"));
                let store = Store::open(layout)?;
                let target = Target { store: &store, unpack: &Passing, name: None };
                let taken = self
                    .take(&target, from, platform, how, progress)
                    .and_then(|image| self.put(&store, image, name_in(from), to, how, progress));
                scratch.discard(&|tree| fs::remove_dir_all(tree).at(tree))?;
                taken
            }
        }
    }

    /// Brings the image at `from` into a store.
    fn take(
        &self,
        target: &Target<'_>,
        from: &Place,
        platform: Option<Platform>,
        how: &Copy,
        progress: &dyn Progress,
    ) -> Result<Image> {
        match from {
            Place::Here(typed) => self.image_for(typed, how.platform.as_deref()),
            Place::Registry(reference) => {
                let access = Access::from_env(how.tls_verify)?;
                let options = PullOptions {
                    platform,
                    policy: Policy::Always,
                    access,
                    trust: Trust { policy: TrustPolicy::from_env()?, keys: Vec::new() },
                };
                pull::pull(target.store, reference, &options, target.unpack, progress)
            }
            Place::Files { path, name, .. } => {
                let mut source: Box<dyn Read> = match path.is_dir() {
                    true => Box::new(DirTar::new(path)?),
                    false => Box::new(File::open(path).at(path).doing("open")?),
                };
                let names: Vec<_> = target.name.cloned().into_iter().collect();
                let loaded = archive::load_one(
                    archive::Source { bytes: &mut *source, path: Some(path) },
                    target.store,
                    platform.as_ref(),
                    &|called| choose(called, name.as_ref()),
                    &names,
                    target.unpack,
                    progress,
                );
                Ok(loaded.doing_with(|| format!("read {}", path.display()))?.image)
            }
        }
    }

    /// Writes the image of `store` to `to`.
    fn put(
        &self,
        store: &Store,
        image: Image,
        name: Option<Name>,
        to: &Place,
        how: &Copy,
        progress: &dyn Progress,
    ) -> Result<Image> {
        self.make_blobs(&image.record)?;
        match to {
            Place::Here(name) => self.store.tag(&name.parse()?, &image.record.id, None)?,
            Place::Registry(target) => {
                let options = PushOptions {
                    access: Access::from_env(how.tls_verify)?,
                    compression: how.uncompressed.then_some(Compression::None),
                    chunked: false,
                    force: how.uncompressed,
                    level: None,
                    format: None,
                    platform: None,
                    sign_by: None,
                };
                push::push(store, &image, target, &options, progress)?;
            }
            Place::Files { layout, directory, path, name: given } => {
                let own =
                    || image.names.iter().map(|named| &named.name).find(|n| n.digest().is_none());
                let own = || own().cloned().map(Name::Whole);
                let (names, tag) = match given.clone().or(name).or_else(own) {
                    Some(Name::Whole(name)) => (vec![name], None),
                    Some(Name::Tag(tag)) => (Vec::new(), Some(tag)),
                    None => (Vec::new(), None),
                };
                let wanted = [Wanted { image: image.record.clone(), names, tag }];
                let save = Save { format: *layout, uncompressed: how.uncompressed };
                match path == Path::new("-") && !directory {
                    true => to_writer(store, &wanted, save, io::stdout().lock())?,
                    false => to_path(store, &wanted, save, *directory, path)?,
                }
            }
        }
        Ok(image)
    }
}

fn name_in(place: &Place) -> Option<Name> {
    match place {
        Place::Files { name, .. } => name.clone(),
        Place::Registry(name) if name.digest().is_none() => Some(Name::Whole(name.clone())),
        Place::Registry(_) | Place::Here(_) => None,
    }
}

/// A store that an image is brought into, and the name it gets there.
struct Target<'a> {
    store: &'a Store,
    unpack: &'a dyn Unpack,
    name: Option<&'a Reference>,
}

/// Which image of an archive was meant.
fn choose(images: &[Called], name: Option<&Name>) -> Result<usize> {
    let fits = |(names, tag): &Called| match name {
        None => true,
        Some(Name::Whole(name)) => names.contains(name),
        Some(Name::Tag(wanted)) => {
            tag.as_ref() == Some(wanted) || names.iter().any(|name| name.tag() == Some(wanted))
        }
    };
    let known = || {
        let names = images
            .iter()
            .flat_map(|(names, tag)| names.iter().map(Reference::familiar).chain(tag.clone()));
        names.collect::<Vec<_>>().join(", ")
    };
    match images.iter().position(fits) {
        Some(_) if name.is_none() && images.len() > 1 => {
            Err(Error::invalid("it holds several images").hint(format!("name one: {}", known())))
        }
        Some(found) => Ok(found),
        None => Err(Error::not_found("it holds no image of that name")
            .hint(format!("there are: {}", known()))),
    }
}

/// Lets layers pass, verified by their reader, and makes no file of them.
struct Passing;

impl Unpack for Passing {
    fn unpack(&self, tar: &mut dyn Read, _target: &Path) -> Result<Unpacked> {
        io::copy(tar, &mut io::sink()).doing("read the layer")?;
        Ok(Unpacked::default())
    }

    fn settle(&self, _target: &Path, _implied: &[PathBuf], _below: &[PathBuf]) -> Result<()> {
        Ok(())
    }

    fn remove(&self, tree: &Path) -> Result<()> {
        fs::remove_dir_all(tree).at(tree).doing("remove")
    }
}
