//! Finding a file in a stack of layers that is not mounted.
//!
//! One component at a time, in every layer that still counts, never following a link by the
//! kernel's hand: so nothing a layer contains can lead outside of it.

use std::{
    collections::VecDeque,
    fs::File,
    io::Read as _,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use nix::errno::Errno;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, getxattr, openat, readlinkat, statat,
};

use crate::sys::errno;

/// `path_resolution(7)`: the kernel's own limit.
const MAX_LINKS: usize = 40;

/// The layers in which a directory of the merged view exists, topmost first.
type Merged = Rc<Vec<OwnedFd>>;

enum Found {
    Nothing,
    Directory(Merged),
    Link(Vec<u8>),
    File(OwnedFd),
}

pub(super) fn read_small(
    roots: Vec<OwnedFd>,
    path: &str,
    cap: u64,
) -> Result<Option<Vec<u8>>, Errno> {
    match walk(roots, path)? {
        Found::File(fd) => read_capped(fd, cap).map(Some),
        Found::Nothing | Found::Directory(_) | Found::Link(_) => Ok(None),
    }
}

pub(super) fn directory(roots: Vec<OwnedFd>, path: &str) -> Result<Option<Vec<OwnedFd>>, Errno> {
    match walk(roots, path)? {
        Found::Nothing | Found::Link(_) => Ok(None),
        Found::File(_) => Err(Errno::ENOTDIR),
        Found::Directory(layers) => Rc::try_unwrap(layers).map(Some).map_err(|_| Errno::EBUSY),
    }
}

/// What is at `path`; never a link.
fn walk(roots: Vec<OwnedFd>, path: &str) -> Result<Found, Errno> {
    // The directories walked through, so that ".." can go back without asking a layer.
    let mut trail: Vec<Merged> = vec![Rc::new(roots)];
    let mut todo: VecDeque<Vec<u8>> = components(path.as_bytes());
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == b".." {
            trail.truncate((trail.len() - 1).max(1));
            continue;
        }
        let Some(here) = trail.last() else { return Ok(Found::Nothing) };
        match find(here, &name)? {
            Found::Nothing => return Ok(Found::Nothing),
            Found::Directory(merged) => trail.push(merged),
            Found::File(fd) if todo.is_empty() => return Ok(Found::File(fd)),
            Found::File(_) => return Ok(Found::Nothing),
            Found::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                if target.starts_with(b"/") {
                    trail.truncate(1);
                }
                for part in components(&target).into_iter().rev() {
                    todo.push_front(part);
                }
            }
        }
    }
    Ok(trail.pop().map_or(Found::Nothing, Found::Directory))
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

fn find(layers: &[OwnedFd], name: &[u8]) -> Result<Found, Errno> {
    let mut directories = Vec::new();
    for layer in layers {
        let stat = match statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(err) => return Err(errno(err)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let directory = open_nofollow(layer, name, OFlags::DIRECTORY)?;
                let opaque = is_opaque(&directory);
                directories.push(directory);
                if opaque {
                    break;
                }
            }
            _ if !directories.is_empty() || is_whiteout(&stat) => break,
            FileType::Symlink => {
                let target = readlinkat(layer, name, Vec::new()).map_err(errno)?;
                return Ok(Found::Link(target.into_bytes()));
            }
            FileType::RegularFile => {
                return open_nofollow(layer, name, OFlags::NONBLOCK).map(Found::File);
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Ok(Found::Nothing),
        }
    }
    if directories.is_empty() {
        return Ok(Found::Nothing);
    }
    Ok(Found::Directory(Rc::new(directories)))
}

fn open_nofollow(layer: &OwnedFd, name: &[u8], how: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | how;
    openat(layer, name, flags, Mode::empty()).map_err(errno)
}

/// overlayfs.rst, "whiteouts and opaque directories": a character device 0:0 hides a name.
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let path = crate::sys::mount::fd_path(directory.as_fd());
    ["trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"].iter().any(
        |name| {
            let mut value = [0; 1];
            matches!(getxattr(path.as_str(), *name, &mut value), Ok(1) if &value == b"y")
        },
    )
}

fn read_capped(fd: OwnedFd, cap: u64) -> Result<Vec<u8>, Errno> {
    let stat = fstat(&fd).map_err(errno)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::EINVAL);
    }
    let mut content = Vec::new();
    File::from(fd)
        .take(cap)
        .read_to_end(&mut content)
        .map_err(|err| Errno::from_raw(err.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    struct Layers(Vec<tempfile::TempDir>);

    impl Layers {
        fn new(count: usize) -> Self {
            Self((0..count).map(|_| tempfile::tempdir().expect("tempdir")).collect())
        }

        fn read(&self, path: &str) -> Option<String> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let open = |dir: &tempfile::TempDir| {
                rustix::fs::open(dir.path(), flags, Mode::empty()).expect("open layer")
            };
            let found = read_small(self.0.iter().map(open).collect(), path, 100).expect("read");
            found.map(|bytes| String::from_utf8(bytes).expect("text"))
        }

        fn write(&self, layer: usize, path: &str, text: &str) {
            let path = self.0[layer].path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
    }

    #[test]
    fn the_topmost_layer_wins_and_links_stay_inside() {
        let layers = Layers::new(2);
        layers.write(1, "etc/passwd", "low");
        assert_eq!(layers.read("/etc/passwd").as_deref(), Some("low"));
        layers.write(0, "etc/passwd", "top");
        assert_eq!(layers.read("/etc/passwd").as_deref(), Some("top"));

        symlink("/etc/../../etc/passwd", layers.0[0].path().join("etc/link")).expect("symlink");
        assert_eq!(layers.read("etc/link").as_deref(), Some("top"));
        symlink("/etc/hostname", layers.0[0].path().join("escape")).expect("symlink");
        assert_eq!(layers.read("escape"), None, "the host's file is out of reach");
        symlink("loop", layers.0[0].path().join("loop")).expect("symlink");
        let root = rustix::fs::open(layers.0[0].path(), OFlags::PATH, Mode::empty()).expect("open");
        assert_eq!(read_small(vec![root], "loop", 9), Err(Errno::ELOOP));
    }

    #[test]
    fn a_file_over_a_directory_hides_it_and_a_fifo_does_not_hang() {
        let layers = Layers::new(2);
        layers.write(1, "a/b", "low");
        layers.write(0, "a", "file");
        assert_eq!(layers.read("a/b"), None);
        nix::unistd::mkfifo(&layers.0[0].path().join("pipe"), nix::sys::stat::Mode::S_IRWXU)
            .expect("mkfifo");
        assert_eq!(layers.read("pipe"), None);
    }
}
