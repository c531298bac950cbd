//! `system reset`: takes everything away, if it is dhow's.

use std::{fs, io, path::PathBuf};

use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    network::{firewall, host},
    run::discard,
    state::{Layout, layout},
};

/// What a reset did not remove, because it is nothing of dhow's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reset {
    pub strangers: Vec<PathBuf>,
}

/// Whether the tree at the layout's root carries dhow's mark. An error says what it lacks.
pub fn check_mark(layout: &Layout) -> Result<()> {
    let root = layout.root();
    let not_ours = |why: String| {
        Err(Error::invalid(format!("{} is no store of dhow's: {why}", root.display()))
            .hint("nothing was removed; --root names the store"))
    };
    let meta = match fs::symlink_metadata(root) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            return Err(Error::not_found(format!("there is no store at {}", root.display())));
        }
        meta => meta.at(root)?,
    };
    if !meta.is_dir() {
        return not_ours("it is not a directory".into());
    }
    match fs::read_to_string(layout.version()) {
        Ok(text) if text.trim().parse::<u32>().is_ok() => Ok(()),
        Ok(_) => not_ours("VERSION is not a store's version".into()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => not_ours("it has no VERSION".into()),
        Err(err) => Err(err).at(layout.version()),
    }
}

impl Engine {
    /// Kills and removes every container, then everything of the store; its mark goes last, so
    /// that a reset that was interrupted can be begun again. What is not of dhow's making stays.
    pub fn reset(&self) -> Result<Reset> {
        check_mark(&self.layout)?;
        for id in self.container_ids()? {
            // What cannot be read or stopped in order is removed with the rest.
            if let Err(err) = self.remove(&id, true, false) {
                log::debug!("remove container {id}: {err}");
                discard::abandoned(&self.layout.container(&id), &self.facts.boot_id)?;
                discard::container(&self.layout, &id, false)?;
            }
        }
        self.unmount_all()?;
        for network in fs::read_dir(self.layout.networks()).into_iter().flatten().flatten() {
            firewall::forget(&self.layout, &network.file_name().to_string_lossy());
        }
        host::tidy(&self.layout)?.remove()?;
        let root = self.layout.root();
        for name in layout::TOP {
            discard::remove_tree(&root.join(name))?;
        }
        let run = self.layout.run_root();
        for name in layout::RUN_TOP {
            discard::remove_tree(&run.join(name))?;
        }
        fs::remove_file(self.layout.version()).at(self.layout.version()).doing("remove")?;
        let mut strangers = Vec::new();
        for dir in [root, run] {
            match fs::remove_dir(dir) {
                Ok(()) => {}
                Err(err) if err.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    let entries = fs::read_dir(dir).at(dir)?;
                    strangers.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
                }
                // A mount point, or the directory of somebody else who lent it.
                Err(err) => log::debug!("{}: {err}", dir.display()),
            }
        }
        Ok(Reset { strangers })
    }
}
