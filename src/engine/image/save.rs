//! `save`: images into an archive or a directory.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use super::no_such_image;
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    image::{
        Store,
        archive::save::{Directory, Format, Placed, Save, Tar, Wanted, save},
    },
    oci::{Platform, Reference},
};

impl Engine {
    /// The images that are typed, each once, with the names they are saved by: those typed, all of
    /// a repository that was typed without a tag, none for an id. `platform` is what they must be
    /// for.
    pub fn images_to_save(&self, typed: &[String], platform: Option<&str>) -> Result<Vec<Wanted>> {
        let platform = platform.map(str::parse::<Platform>).transpose()?;
        let mut wanted: Vec<Wanted> = Vec::new();
        for text in typed {
            for one in self.named_images(text)? {
                let here = &one.image.platform;
                if let Some(platform) = platform.as_ref().filter(|p| p.rank(here).is_none()) {
                    return Err(Error::not_found(format!(
                        "image {text} is for {here}, not for {platform}"
                    )));
                }
                match wanted.iter_mut().find(|other| other.image.id == one.image.id) {
                    Some(other) => other.names.extend(one.names),
                    None => wanted.push(one),
                }
            }
        }
        for one in &wanted {
            self.make_blobs(&one.image)?;
        }
        Ok(wanted)
    }

    fn named_images(&self, typed: &str) -> Result<Vec<Wanted>> {
        let last = typed.rsplit('/').next().unwrap_or_default();
        if let Ok(reference) = typed.parse::<Reference>()
            && !last.contains([':', '@'])
        {
            let every = self.of_repository(&reference)?;
            if !every.is_empty() {
                return Ok(every);
            }
        }
        let image = self.image(typed)?;
        let reference = typed.parse::<Reference>().ok();
        let local = reference.as_ref().and_then(Reference::local);
        let names = image.names.into_iter().map(|named| named.name);
        let is_typed = |name: &Reference| {
            name.digest().is_none()
                && [&reference, &local].iter().any(|one| one.as_ref() == Some(name))
        };
        Ok(vec![Wanted { names: names.filter(is_typed).collect(), tag: None, image: image.record }])
    }

    /// Docker: a repository without a tag means all its tags.
    fn of_repository(&self, reference: &Reference) -> Result<Vec<Wanted>> {
        for repository in [Some(reference.repository()), reference.local().map(|l| l.repository())]
        {
            let Some(repository) = repository else { continue };
            let names = self.store.names()?.into_iter();
            let mine: Vec<_> = names
                .filter(|named| {
                    named.name.repository() == repository && named.name.digest().is_none()
                })
                .collect();
            let mut wanted = Vec::new();
            for named in mine {
                let image = self.store.image(&named.image)?;
                let image = image.ok_or_else(|| no_such_image(&named.name.familiar()))?;
                wanted.push(Wanted { image: image.record, names: vec![named.name], tag: None });
            }
            if !wanted.is_empty() {
                return Ok(wanted);
            }
        }
        Ok(Vec::new())
    }
}

/// Writes an archive to `out`.
pub fn to_writer(store: &Store, images: &[Wanted], how: Save, out: impl Write) -> Result<()> {
    let mut tar = Tar::new(std::io::BufWriter::with_capacity(1 << 20, out));
    save(store, images, how, &mut tar)?;
    tar.finish().map(drop)
}

/// Writes an archive to the file `path`, or a directory where `how` says so: whole or not at all.
pub fn to_path(
    store: &Store,
    images: &[Wanted],
    how: Save,
    as_directory: bool,
    path: &Path,
) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return Err(Error::not_found(format!("directory {:?} does not exist", parent.display()))
            .context("unable to validate output path"));
    }
    if as_directory {
        return to_directory(store, images, how, parent, path);
    }
    // A device or pipe is written to, a file replaced.
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        let out = File::options().write(true).open(path).at(path).doing("open")?;
        return to_writer(store, images, how, out);
    }
    if path.is_dir() {
        return Err(Error::invalid(format!("{} is a directory", path.display())));
    }
    let file = tempfile::NamedTempFile::with_prefix_in(".tmp-", parent).at(parent)?;
    save(store, images, how, &mut Placed::new(file.as_file(), store))?;
    file.persist(path).map_err(|err| err.error).at(path).doing("write")?;
    Ok(())
}

fn to_directory(
    store: &Store,
    images: &[Wanted],
    how: Save,
    parent: &Path,
    path: &Path,
) -> Result<()> {
    let made = tempfile::Builder::new().prefix(".tmp-").tempdir_in(parent).at(parent)?;
    fs::set_permissions(made.path(), fs::Permissions::from_mode(0o755)).at(made.path())?;
    save(store, images, how, &mut Directory(made.path().to_owned()))?;
    // rename(2) replaces an empty directory, and no other.
    match fs::rename(made.path(), path) {
        Ok(()) => {
            // It is there no more; this only stops the guard from looking for it.
            let _moved = made.keep();
            Ok(())
        }
        Err(err) if err.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            Err(Error::conflict(format!("{} is not empty", path.display()))
                .hint("name a directory that is not there yet"))
        }
        Err(err) => Err(err).at(path).doing("write"),
    }
}

/// `--format` of `save`: the layout, and whether it is a directory.
pub fn format(text: &str) -> Result<(Format, bool)> {
    match text {
        "docker-archive" => Ok((Format::Docker, false)),
        "oci-archive" => Ok((Format::Oci, false)),
        "oci-dir" => Ok((Format::Oci, true)),
        "docker-dir" => Ok((Format::Dir, true)),
        other => Err(Error::invalid(format!("unknown format {other:?}"))
            .hint("formats are docker-archive, oci-archive, oci-dir and docker-dir")),
    }
}
