//! Directories of the store that may take only so much: each is a project of its file system's.

use std::{fs::File, path::Path};

use super::ContainerId;
use crate::{
    error::{Context as _, Error, Result},
    sys::quota,
};

pub use crate::sys::quota::Limits;

/// Gives new, empty directories of one file system a project quota of their own. The kernel moves
/// files from one to the other, since they are of the same project.
pub fn limit(dirs: &[&Path], limits: Limits) -> Result<()> {
    let open = |dir: &&Path| File::open(dir).at(dir);
    let dirs = dirs.iter().map(open).collect::<Result<Vec<_>>>()?;
    let Some(first) = dirs.first() else { return Ok(()) };
    let project = loop {
        let id = ContainerId::random()?;
        let number = u32::from_str_radix(&id.as_str()[..7], 16).unwrap_or(0);
        // 0 is who has none.
        if number > 0 && !quota::is_in_use(first, number)? {
            break number;
        }
    };
    for dir in &dirs {
        quota::set_project(dir, project)?;
    }
    Ok(quota::set_limits(first, project, limits)?)
}

/// What to tell whom [`limit`] has failed for.
pub fn hint(err: &Error) -> String {
    format!(
        "the store is on a file system without project quotas ({err}): XFS keeps them with -o \
         pquota, ext4 with -O quota,project and -o prjquota"
    )
}
