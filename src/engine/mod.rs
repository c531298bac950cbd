//! What a user can ask for, one verb a file. Never prints.

pub mod build;
pub mod container;
pub mod doctor;
pub mod events;
pub mod image;
pub mod imagetools;
pub mod info;
pub mod inspect;
pub mod manifest;
pub mod network;
pub mod registry;
pub mod search;
pub mod secret;
pub mod storage;
mod told;
pub mod upkeep;
mod user;
pub mod volume;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{self, Path, PathBuf},
};

use nix::unistd::geteuid;

use crate::{
    error::{Context as _, Error, Result},
    image::Store,
    state::{Layout, record::Storage, store::create_private_dir},
    sys::{
        host::{Host, XdgDirs},
        user::IdMaps,
    },
};

/// One command's view of the store and of this host.
#[derive(Debug)]
pub struct Engine {
    pub layout: Layout,
    pub store: Store,
    pub facts: Host,
    /// What new containers' root file systems are to be made with, if somebody chose.
    pub storage: Option<Storage>,
}

impl Engine {
    /// Opens the store at `root` and `run_root`, or at their usual places, making them if they
    /// are not there.
    pub fn open(root: Option<PathBuf>, run_root: Option<PathBuf>) -> Result<Self> {
        let layout = Self::layout(root, run_root)?;
        let store = Store::open(layout.clone())?;
        for dir in [layout.containers(), layout.names(), layout.staging(), layout.run_containers()]
        {
            if !dir.is_dir() {
                create_private_dir(&dir).map_err(|err| {
                    err.hint("--root and --runroot (DHOW_ROOT, DHOW_RUNROOT) choose other places")
                })?;
            }
        }
        Ok(Self { layout, store, facts: Host::look()?, storage: None })
    }

    /// Where the store at `root` and `run_root`, or at their usual places, keeps everything.
    pub fn layout(root: Option<PathBuf>, run_root: Option<PathBuf>) -> Result<Layout> {
        Ok(Layout::new(
            root.map_or_else(default_root, from_anywhere)?,
            run_root.map_or_else(default_run_root, from_anywhere)?,
        ))
    }

    /// The id maps of this user's containers; root's have none.
    pub fn maps(&self) -> Option<IdMaps> {
        self.facts.rootless().then(|| self.facts.id_maps())
    }
}

/// The same place for processes that stay and have a working directory of their own.
fn from_anywhere(given: PathBuf) -> Result<PathBuf> {
    path::absolute(&given).doing_with(|| format!("find the directory {:?}", given.display()))
}

/// Where images and containers are kept: `/var/lib/dhow` for root, else the user's data
/// directory (XDG Base Directory Specification).
pub fn default_root() -> Result<PathBuf> {
    if geteuid().is_root() {
        return Ok("/var/lib/dhow".into());
    }
    let data = XdgDirs::from_env().data.ok_or_else(|| {
        Error::engine("neither XDG_DATA_HOME nor HOME is set: where should the store be?")
            .hint("set HOME, or choose a place with --root DIR")
    })?;
    Ok(data.join("dhow"))
}

/// Where running containers are noted: `/run/dhow` for root, else `$XDG_RUNTIME_DIR/dhow`, else
/// `/run/user/UID/dhow`, else a private directory in `/tmp`.
pub fn default_run_root() -> Result<PathBuf> {
    let uid = geteuid().as_raw();
    if uid == 0 {
        return Ok("/run/dhow".into());
    }
    let candidates = [XdgDirs::from_env().runtime, Some(format!("/run/user/{uid}").into())];
    if let Some(dir) = candidates.into_iter().flatten().find(|dir| is_private(dir, uid)) {
        return Ok(dir.join("dhow"));
    }
    let fallback = PathBuf::from(format!("/tmp/dhow-{uid}"));
    create_private_dir(&fallback)?;
    if is_private(&fallback, uid) {
        return Ok(fallback);
    }
    Err(Error::engine(format!("{} belongs to somebody else", fallback.display()))
        .hint("set XDG_RUNTIME_DIR to a directory of yours, or use --runroot DIR"))
}

/// A real directory of this user's that nobody else can write to.
fn is_private(dir: &Path, uid: u32) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|meta| {
        meta.is_dir() && meta.uid() == uid && meta.permissions().mode() & 0o022 == 0
    })
}
