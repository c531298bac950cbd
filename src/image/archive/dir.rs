//! An image layout in a directory, read as the tar it could be.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::header;
use crate::error::{Context as _, Error, Result};

const BLOCK: u64 = 512;
/// `blobs/sha256/<hex>`.
const DEPTH_MAX: usize = 3;
const FILES_MAX: usize = 100_000;

/// Yields a tar of the regular files in a directory. Links are not followed, other files and
/// deeper directories are no part of a layout.
pub struct DirTar {
    root: PathBuf,
    files: VecDeque<PathBuf>,
    current: Option<Box<dyn Read>>,
}

impl std::fmt::Debug for DirTar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DirTar({})", self.root.display())
    }
}

impl DirTar {
    pub fn new(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(root, DEPTH_MAX, &mut files)?;
        files.sort();
        Ok(Self { root: root.to_owned(), files: files.into(), current: None })
    }

    /// The next member, header to padding; the archive's end after the last.
    fn next(&mut self) -> Result<Option<Box<dyn Read>>> {
        let Some(path) = self.files.pop_front() else { return Ok(None) };
        let file = File::open(&path).at(&path)?;
        let size = file.metadata().at(&path)?.len();
        let name = path.strip_prefix(&self.root).unwrap_or(&path);
        let header =
            io::Cursor::new(header(name.as_os_str().as_bytes(), tar::EntryType::Regular, size));
        let padding = size.next_multiple_of(BLOCK) - size;
        Ok(Some(Box::new(header.chain(file.take(size)).chain(io::repeat(0).take(padding)))))
    }
}

impl Read for DirTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(current) = &mut self.current {
                match current.read(buffer)? {
                    0 if !buffer.is_empty() => self.current = None,
                    count => return Ok(count),
                }
            }
            self.current = match self.next().map_err(io::Error::other)? {
                Some(next) => Some(next),
                // A reader that goes on after the end mark finds nothing.
                None => return Ok(0),
            };
        }
    }
}

fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        let kind = entry.file_type().at(entry.path())?;
        if kind.is_dir() && depth > 1 {
            collect(&entry.path(), depth - 1, files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
        if files.len() > FILES_MAX {
            return Err(Error::invalid(format!("more than {FILES_MAX} files"))).at(dir);
        }
    }
    Ok(())
}
