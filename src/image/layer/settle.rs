//! Pays what a layer owes to the layers below it, once those are complete.
//!
//! An overlay takes a directory's owner, mode and times from the topmost layer that has it. A
//! tar may leave out the directories above its entries; in the image they must keep what the
//! layers below gave them (`/tmp` must not turn 0755). An opaque *root* needs help too: overlayfs
//! does not look for that mark on the root of a layer.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::apply::{Apply, Ownership, opaque_key};
use crate::{
    error::{Context as _, Result},
    sys::fs::{self, Dir, Errno, FileType, Root, Stat, Time, kind},
};

/// Gives the `implied` directories of the layer `target` what they have in the layers `below`
/// (topmost first), or root and 0755 if none of them shows the directory.
pub fn settle(target: &Root, implied: &[PathBuf], below: &[Root], how: &Apply) -> Result<()> {
    for path in implied {
        let dir = match target.read_dir(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            opened => opened.at(path)?,
        };
        if path.as_os_str().is_empty() && is_opaque(&dir)? {
            hide_all(&dir, below, how).doing("hide the layers below an opaque root")?;
        } else if under_opaque(target, path)? {
            // The layer itself hides what is below here.
        } else if let Some(stat) = attributes(path, below).at(path)? {
            inherit(&dir, &stat, how.ownership).at(path)?;
        }
    }
    Ok(())
}

fn is_opaque(dir: &Dir) -> Result<bool> {
    for user_xattr in [false, true] {
        if fs::short_xattr(dir, opaque_key(user_xattr))?.is_some_and(|value| value == b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the merged view of the layers `below` shows at `path`, if it is a directory.
fn attributes(path: &Path, below: &[Root]) -> Result<Option<Stat>> {
    for layer in below {
        match layer.open_strict(path) {
            Ok(found) => {
                let stat = fs::stat(&found)?;
                return Ok((kind(&stat) == FileType::Directory).then_some(stat));
            }
            // A parent is no directory here (a whiteout perhaps): nothing shows through.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(Errno::NOENT) if under_opaque(layer, path)? => return Ok(None),
            Err(Errno::NOENT) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(None)
}

/// Whether a directory of `layer` above `path` hides the layers below.
fn under_opaque(layer: &Root, path: &Path) -> Result<bool> {
    for above in path.ancestors().skip(1) {
        match layer.read_dir(above) {
            Ok(dir) if is_opaque(&dir)? => return Ok(true),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(false)
}

fn inherit(dir: &Dir, stat: &Stat, ownership: Ownership) -> Result<()> {
    match fs::chown(dir, stat.st_uid, stat.st_gid) {
        Err(Errno::INVAL | Errno::PERM) if ownership == Ownership::Absorb => {}
        done => done.doing("change its owner")?,
    }
    fs::chmod(dir, stat.st_mode & 0o7777)?;
    fs::set_time(dir, Time::modified(stat))?;
    Ok(())
}

/// Makes every name at the root of the layers `below` invisible.
fn hide_all(root: &Dir, below: &[Root], how: &Apply) -> Result<()> {
    let before = Time::modified(&fs::stat(root)?);
    let mut seen = HashSet::new();
    for layer in below {
        for (name, _) in fs::list(layer.read_dir("")?)? {
            if !seen.insert(name.clone()) {
                continue;
            }
            let name = name.to_bytes();
            match root.stat(name) {
                Err(Errno::NOENT) => {
                    root.mknod(name, FileType::CharacterDevice, 0, (0, 0))?;
                }
                Ok(stat) if kind(&stat) == FileType::Directory => {
                    fs::set_xattr(root.open_dir(name)?, opaque_key(how.user_xattr), b"y")?;
                }
                other => {
                    other.doing_with(|| String::from_utf8_lossy(name).into_owned())?;
                }
            }
        }
    }
    fs::set_time(root, before)?;
    Ok(())
}
