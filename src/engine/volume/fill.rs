//! What an image has at a volume's target is copied into the volume when it is first used.
//!
//! The copy is made from the layers, which nobody changes; nothing is mounted for it. As an
//! ordinary user dhow starts itself again in a user namespace, since owners are subordinate ids.
//! Who copies holds the lock on `fill/`, so that it happens once; `fill/begun` says that it is not
//! complete, and the next container repeats it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::{
    engine::told::{hear, report_success, tell},
    error::{Context as _, Error, Result},
    image::layer::{self, Changes, Marks},
    overlay,
    state::layout::VolumePaths,
    state::store::Lock,
    sys::{
        fs::{self as tree, OFlags, Root},
        process::spawn_self,
        user::IdMaps,
    },
};

/// The hidden first argument of the helper; descriptor 3 is the socket to hear the order from.
pub const ROLE: &str = "fill-volume";

/// What is to be copied where.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// Topmost first.
    pub(super) lowers: Vec<PathBuf>,
    /// The target in the container.
    pub(super) target: String,
    /// The volume's own directory.
    pub(super) volume: PathBuf,
    /// The directory with its files, if that is another one.
    pub(super) elsewhere: Option<PathBuf>,
    /// Whom the directory belongs to, whatever the image says, as who copies numbers them.
    pub(super) owner: Option<(u32, u32)>,
    /// New owners, as [`Changes::owners`].
    pub(super) owners: Option<IdMaps>,
    /// A power cut may take the copy away again.
    pub(super) volatile: bool,
}

/// Copies, in a user namespace with `maps` if there are any.
pub(super) fn carry_out(order: &Order, maps: Option<&IdMaps>) -> Result<()> {
    let paths = VolumePaths::at(&order.volume);
    // Inherited by the helper: held until both of us are done, or dead.
    let lock = Lock::exclusive(&paths.fill())?;
    let Some(maps) = maps else { return perform(order) };
    let (mut ours, theirs) = UnixStream::pair().doing("create a socket pair")?;
    let fds = [theirs.as_fd(), lock.as_fd()];
    let child = spawn_self(&[c"dhow", c"fill-volume"], &fds, Some(maps))?;
    drop(theirs);
    let told =
        ours.write_all(&serde_json::to_vec(order)?).and_then(|()| ours.shutdown(Shutdown::Write));
    let heard = hear(&ours, "the helper that copies into volumes died");
    child.wait().doing("wait for the helper that copies into volumes")?;
    heard.and(told.doing("ask the helper that copies into volumes"))
}

/// The helper's entry.
pub fn main() -> ExitCode {
    let Some(socket) = crate::sys::fd::inherited(3) else { return ExitCode::FAILURE };
    let mut socket = UnixStream::from(socket);
    let mut text = Vec::new();
    let heard = socket.read_to_end(&mut text).doing("hear the order");
    let order = heard.and_then(|_| Ok(serde_json::from_slice::<Order>(&text)?));
    match order.and_then(|order| perform(&order)) {
        Ok(()) => report_success(&socket).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        Err(err) => {
            tell(&socket, &err);
            ExitCode::FAILURE
        }
    }
}

/// Copies if the volume is empty, or if somebody died copying.
fn perform(order: &Order) -> Result<()> {
    const LINKS: &[u8] = b"links";
    let paths = VolumePaths::at(&order.volume);
    let begun = paths.begun();
    let data = open_data(order, &paths)?;
    if !begun.exists() && !tree::list(&data).at(paths.data())?.is_empty() {
        return Ok(());
    }
    let Some(layers) = source(order)? else { return Ok(()) };
    File::create(&begun).at(&begun)?;
    let fill = Root::open(&paths.fill()).at(paths.fill())?.open_dir("").at(paths.fill())?;
    fill.remove_tree(LINKS).at(paths.fill())?;
    fill.mkdir(LINKS, 0o700).at(paths.fill())?;
    let changes = Changes { owners: order.owners.clone(), marks: Marks::Applied };
    for layer in layers.into_iter().rev() {
        // Hard links stay such where both are on one file system.
        let links = match order.elsewhere {
            None => Some(fill.open_dir(LINKS).at(paths.fill())?.into_fd()),
            Some(_) => None,
        };
        let into = data.try_clone().doing("hold the volume's directory")?;
        layer::copy_into(layer, into, links, &changes)
            .doing_with(|| format!("copy {} of the image into the volume", order.target))?;
    }
    fill.remove_tree(LINKS).at(paths.fill())?;
    if let Some((uid, gid)) = order.owner {
        tree::chown(&data, uid, gid).at(paths.data())?;
    }
    if !order.volatile {
        // What says that the copy is complete must not outlive it.
        tree::sync_filesystem(&data).at(paths.data()).doing("sync")?;
    }
    std::fs::remove_file(&begun).at(&begun)
}

/// The volume's directory is never reached through a link; one of the user's own may be.
fn open_data(order: &Order, paths: &VolumePaths) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match &order.elsewhere {
        Some(path) => Ok(File::open(path).at(path)?.into()),
        None => Root::open(paths.dir())
            .and_then(|dir| dir.open_at(VolumePaths::DATA, flags | OFlags::NOFOLLOW))
            .at(paths.data()),
    }
}

/// The directories that the image's layers have at the target, topmost first.
fn source(order: &Order) -> Result<Option<Vec<OwnedFd>>> {
    match overlay::directory(&order.lowers, &order.target) {
        Ok(found) => Ok(found),
        Err(Errno::ENOTDIR) => Err(Error::invalid(format!(
            "cannot mount volume over existing file, file exists {}",
            order.target
        ))
        .hint("a volume is a directory; choose another target")),
        // Nothing can be copied through a loop, and the start will say what is wrong with it.
        Err(Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno).at(Path::new(&order.target)).doing("look into the image"),
    }
}
