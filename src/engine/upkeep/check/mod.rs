//! `system check`: whether everything in the store is what it should be, and mending it.
//!
//! Nothing is believed that can be looked at: names against their digests, records against each
//! other, blobs against their content, layers against their blobs. What a command that runs now is
//! making is left to it: its locks tell.

mod containers;
mod images;
mod layers;
mod others;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    engine::Engine,
    error::{Context as _, Result},
    image::lock::Pin,
    run::discard,
    state::layout::TOP,
};

/// How a store is looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Mend what can be mended.
    pub repair: bool,
    /// Also remove images and containers that cannot be mended.
    pub force: bool,
    /// Do not read what blobs and layers hold.
    pub quick: bool,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// The object: `blob sha256:…`, `name alpine:3`.
    pub what: String,
    /// What is wrong with it.
    pub wrong: String,
    pub state: State,
    /// What was done, what would be, or what the user can do.
    pub remedy: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Repaired,
    /// `--repair` can.
    Repairable,
    /// Only the user can.
    Stays,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub faults: Vec<Fault>,
    pub images: usize,
    pub layers: usize,
    pub blobs: usize,
    pub containers: usize,
    pub volumes: usize,
    pub networks: usize,
}

impl Report {
    /// Whether nothing is left to be done.
    pub fn is_whole(&self) -> bool {
        self.faults.iter().all(|fault| fault.state == State::Repaired)
    }
}

impl Engine {
    /// Looks at everything in the store, once.
    pub fn check_store(&self, how: How) -> Result<Report> {
        let mut check = Check { engine: self, how, report: Report::default() };
        check.strangers()?;
        check.staging()?;
        check.names()?;
        check.blobs()?;
        check.layers()?;
        check.images()?;
        check.volumes()?;
        check.networks()?;
        check.secrets()?;
        check.containers()?;
        // Last: what was mended above may have been the last to refer to something.
        check.garbage()?;
        Ok(check.report)
    }
}

struct Check<'a> {
    engine: &'a Engine,
    how: How,
    report: Report,
}

impl Check<'_> {
    /// Notes a fault and mends it if that was asked for. `does` says what mending does, in a form
    /// that is true before and after.
    fn mendable(
        &mut self,
        what: impl Into<String>,
        wrong: impl Into<String>,
        does: &str,
        mend: impl FnOnce() -> Result<()>,
    ) {
        let (state, remedy) = match self.how.repair.then(mend) {
            None => (State::Repairable, format!("--repair {does}")),
            Some(Ok(())) => (State::Repaired, does.to_owned()),
            Some(Err(err)) => (State::Stays, format!("repair failed: {err}")),
        };
        self.report.faults.push(Fault { what: what.into(), wrong: wrong.into(), state, remedy });
    }

    /// Notes a fault that is the user's to mend.
    fn stays(
        &mut self,
        what: impl Into<String>,
        wrong: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.report.faults.push(Fault {
            what: what.into(),
            wrong: wrong.into(),
            state: State::Stays,
            remedy: remedy.into(),
        });
    }

    /// A fault of an object that only its removal mends, and that only if it is forced.
    fn beyond_repair(
        &mut self,
        what: impl Into<String>,
        wrong: impl Into<String>,
        remedy: impl Into<String>,
        remove: impl FnOnce() -> Result<()>,
    ) {
        match self.how.repair && self.how.force {
            true => self.mendable(what, wrong, "removes it", remove),
            false => self.stays(what, wrong, remedy),
        }
    }

    /// What lies among the store's directories and is none of them.
    fn strangers(&mut self) -> Result<()> {
        let layout = &self.engine.layout;
        let version = layout.version();
        for path in entries(layout.root())? {
            let known = path.file_name().and_then(|name| name.to_str());
            let known = known.is_some_and(|name| TOP.contains(&name) || is_temporary(name));
            if !known && path != version {
                self.stranger(&path);
            }
        }
        // Within these, what is called by no digest or id is found here, the rest by its kind.
        let algorithms = layout.blobs();
        for path in entries(&algorithms)? {
            if !path.ends_with("sha256") && !path.ends_with("sha512") {
                self.stranger(&path);
            }
        }
        Ok(())
    }

    fn stranger(&mut self, path: &Path) {
        self.stays(
            path.display().to_string(),
            "it is no part of a store",
            "it is left alone: look at it, and remove it if nobody misses it",
        );
    }

    /// What killed commands have left half made.
    fn staging(&mut self) -> Result<()> {
        for path in entries(&self.engine.layout.staging())? {
            if discard::is_going(&path) {
                continue;
            }
            let Some(lock) = Pin::exclusive_if_free(&path)? else { continue };
            let unpacker = self.engine.unpacker();
            let what = path.display().to_string();
            self.mendable(what, "an interrupted command left it half made", "removes it", || {
                crate::image::store::discard(&path, &|tree| unpacker.remove(tree))
            });
            drop(lock);
        }
        Ok(())
    }

    /// Layers and blobs that nothing refers to.
    fn garbage(&mut self) -> Result<()> {
        let engine = self.engine;
        let in_use = || engine.layers_in_use();
        let garbage = match engine.store.garbage(&in_use) {
            Ok(garbage) => garbage,
            Err(err) => {
                self.stays(
                    "layers and blobs",
                    format!("which of them are needed cannot be told: {err}"),
                    "mend or remove what is damaged, and check again",
                );
                return Ok(());
            }
        };
        if garbage.layers.is_empty() && garbage.blobs.is_empty() {
            return Ok(());
        }
        let unpacker = engine.unpacker();
        let remove = |tree: &Path| unpacker.remove(tree);
        // All at once; each of them is told.
        let removed = self.how.repair.then(|| engine.store.collect_garbage(&in_use, &remove));
        let removed = removed.transpose().map(drop);
        let layers = garbage.layers.iter().map(|id| format!("layer {id}"));
        let blobs = garbage.blobs.iter().map(|digest| format!("blob {digest}"));
        for what in layers.chain(blobs) {
            self.mendable(what, "nothing refers to it", "removes it", || removed.clone());
        }
        Ok(())
    }
}

/// The name of a file that is being written.
fn is_temporary(name: &str) -> bool {
    name.starts_with(".tmp-")
}

/// The paths in a directory, sorted; none if there is no such directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.at(dir)?,
    };
    let mut paths: Vec<PathBuf> =
        listing.map(|entry| Ok(entry.at(dir)?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// The digest or id that an entry is called by.
fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
