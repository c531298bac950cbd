//! `-v`, `--mount` and `--tmpfs`, as docker reads them.
//!
//! Nothing is looked up here: whether a source exists is for the launch to find. Options are
//! kept in mount(8)'s words and in the order given; the defaults they change (a tmpfs is
//! `noexec,nosuid,nodev`, a bind is recursive and `rprivate`) are the runtime spec's to add.

mod csv;
mod long;
mod short;
#[cfg(test)]
mod tests;
mod tmpfs;

use std::path::{Path, PathBuf};

pub use self::{
    long::mount,
    short::{volume, volumes_from},
    tmpfs::tmpfs,
};
use crate::error::{Error, Result};

const PROPAGATION: [&str; 8] =
    ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];

/// Mount flags a bind or a tmpfs may carry, as pairs that exclude each other.
const FLAGS: [[&str; 2]; 6] = [
    ["exec", "noexec"],
    ["suid", "nosuid"],
    ["dev", "nodev"],
    ["atime", "noatime"],
    ["diratime", "nodiratime"],
    ["relatime", "norelatime"],
];

fn flag_pair(option: &str) -> Option<&'static str> {
    FLAGS.iter().find(|pair| pair.contains(&option)).map(|pair| pair[0])
}

/// An empty one is for one that nobody names.
fn check_volume_name(name: &str) -> Result<()> {
    if name.is_empty() { Ok(()) } else { crate::volume::check_name(name) }
}

/// Octal permission bits; `1777` is the most there is.
fn mode(value: &str) -> Option<u32> {
    let digits = value.bytes().all(|b| matches!(b, b'0'..=b'7'));
    u32::from_str_radix(value, 8).ok().filter(|&mode| digits && mode <= 0o7777)
}

/// The path inside the container: absolute, tidied by its text alone, and not the root.
fn target_path(text: &str) -> Result<String> {
    if !text.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount path: '{text}' mount path must be absolute"
        ))
        .hint("the path inside the container begins with /"));
    }
    let clean = clean(Path::new(text)).display().to_string();
    if clean == "/" {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    Ok(clean)
}

/// `None` if it is the name of a volume.
fn source_path(text: &str, cwd: &Path) -> Option<PathBuf> {
    if text.starts_with('/') {
        return Some(clean(Path::new(text)));
    }
    let relative = text == "." || text == ".." || text.starts_with("./") || text.starts_with("../");
    relative.then(|| clean(&cwd.join(text)))
}

/// Go's `filepath.Clean` of an absolute path: docker tidies `..` before symbolic links are
/// looked at, and so the same flag means the same directory here.
fn clean(path: &Path) -> PathBuf {
    use std::path::Component;

    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}
