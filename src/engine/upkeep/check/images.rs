//! Names, images and blobs.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _},
    path::Path,
};

use super::{Check, entries, is_temporary, name};
use crate::{
    error::{Context as _, Error, Result},
    image::{ImageRecord, NameRecord, lock::Pin, store::chain_ids},
    oci::{Digest, Hasher},
    state::store::read_json,
};

impl Check<'_> {
    /// Each name's file holds that name, of an image that is here.
    pub(super) fn names(&mut self) -> Result<()> {
        for path in entries(&self.engine.layout.refs())? {
            let what = format!("name file {}", path.display());
            let remove = || remove_locked(&path);
            let record = match read_json::<NameRecord>(&path) {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(err) => {
                    if !is_temporary(name(&path)) {
                        self.mendable(what, err.to_string(), "removes it", remove);
                    }
                    continue;
                }
            };
            let full = record.name.to_string();
            if path != self.engine.layout.reference(&full) {
                self.mendable(what, format!("it holds the name {full}"), "removes it", remove);
            } else if !self.engine.layout.image(&record.image).exists() {
                let wrong = format!("it names image {}, which is not here", record.image.short());
                self.mendable(
                    format!("name {}", record.name.familiar()),
                    wrong,
                    "removes it",
                    remove,
                );
            }
        }
        Ok(())
    }

    /// Each blob is what its name says.
    pub(super) fn blobs(&mut self) -> Result<()> {
        for algorithm in entries(&self.engine.layout.blobs())? {
            for path in entries(&algorithm)? {
                match format!("{}:{}", name(&algorithm), name(&path)).parse::<Digest>() {
                    Ok(digest) => self.blob(&path, &digest)?,
                    Err(_) => self.stranger(&path),
                }
            }
        }
        Ok(())
    }

    fn blob(&mut self, path: &Path, digest: &Digest) -> Result<()> {
        self.report.blobs += 1;
        if self.how.quick {
            return Ok(());
        }
        let found = match hash(path, digest) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.at(path)?,
        };
        if found == *digest {
            return Ok(());
        }
        // Gone, it can be fetched again; here, it would be taken for good.
        let wrong = format!("it is damaged: its content has digest {found}");
        self.mendable(format!("blob {digest}"), wrong, "removes it", || {
            fs::remove_file(path).at(path).doing("remove")
        });
        Ok(())
    }

    /// Each image's record fits its configuration, and its parts are here.
    pub(super) fn images(&mut self) -> Result<()> {
        for dir in entries(&self.engine.layout.images())? {
            let algorithm = if name(&dir).len() == 128 { "sha512" } else { "sha256" };
            let Ok(id) = format!("{algorithm}:{}", name(&dir)).parse::<Digest>() else {
                self.stranger(&dir);
                continue;
            };
            match read_json::<ImageRecord>(&self.engine.layout.image(&id)) {
                Ok(Some(record)) => self.image(&id, &record)?,
                Ok(None) => self.unborn(&dir)?,
                Err(err) => self.hopeless(&id, &err.to_string(), "pull or load it again"),
            }
        }
        Ok(())
    }

    /// A directory whose record was never written.
    fn unborn(&mut self, dir: &Path) -> Result<()> {
        let Some(_lock) = Pin::exclusive_if_free(dir)? else { return Ok(()) };
        if !dir.join("image.json").exists() {
            let what = format!("image directory {}", dir.display());
            self.mendable(what, "it has no record", "removes it", || {
                fs::remove_dir_all(dir).at(dir).doing("remove")
            });
        }
        Ok(())
    }

    /// An image that is of no use any more.
    fn hopeless(&mut self, id: &Digest, wrong: &str, again: &str) {
        let engine = self.engine;
        let remedy =
            format!("{again}; --repair --force, or `dhow rmi -f {}`, removes it", id.short());
        self.beyond_repair(format!("image {}", id.short()), wrong, remedy, || {
            engine.remove_image(id.as_str(), true).map(drop)
        });
    }

    fn image(&mut self, id: &Digest, record: &ImageRecord) -> Result<()> {
        self.report.images += 1;
        let layout = &self.engine.layout;
        let again = self.how_to_get(id);
        if record.id != *id {
            self.hopeless(id, &format!("its record is of image {}", record.id.short()), &again);
            return Ok(());
        }
        let parts: BTreeSet<&Digest> = record.blobs().collect();
        let can_be_made = |part: &Digest| {
            let layer = record.layers.iter().find(|layer| layer.digest == *part);
            layer.is_some_and(|layer| self.engine.store.can_tell(layer))
        };
        let lost: Vec<_> = parts
            .into_iter()
            .filter(|part| !layout.blob(part).exists() && !can_be_made(part))
            .collect();
        if !lost.is_empty() {
            let lost: Vec<_> = lost.into_iter().map(Digest::to_string).collect();
            let wrong = format!("its blob {} is not here", lost.join(", "));
            self.hopeless(id, &wrong, &again);
            return Ok(());
        }
        if let Err(err) = self.fits_config(record) {
            self.hopeless(id, &err.to_string(), &again);
            return Ok(());
        }
        for top in 0..record.layers.len() {
            if !layout.layer_diff(&record.layers[top].chain_id).is_dir() {
                self.lost_layer(record, top);
            }
        }
        Ok(())
    }

    fn fits_config(&self, record: &ImageRecord) -> Result<()> {
        let config = self.engine.store.config(record)?;
        let diff_ids: Vec<Digest> =
            config.rootfs().diff_ids().iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let chain = chain_ids(&diff_ids);
        let mine = record.layers.iter().map(|layer| (&layer.diff_id, &layer.chain_id));
        match mine.eq(diff_ids.iter().zip(&chain)) {
            true => Ok(()),
            false => Err(Error::engine("its record has other layers than its configuration")),
        }
    }

    /// What the user can do to have the image again.
    fn how_to_get(&self, id: &Digest) -> String {
        let names = self.engine.store.names().unwrap_or_default();
        let pulled = names.iter().find(|name| name.image == *id && name.digest.is_some());
        match pulled {
            Some(name) => format!("`dhow pull {}` fetches it again", name.name.familiar()),
            None => "load or build it again".to_owned(),
        }
    }
}

/// Removes a file that nobody else is about to replace.
fn remove_locked(path: &Path) -> Result<()> {
    let Some(_lock) = Pin::exclusive(path)? else { return Ok(()) };
    fs::remove_file(path).at(path).doing("remove")
}

fn hash(path: &Path, like: &Digest) -> io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Hasher::like(like);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
