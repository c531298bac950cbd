//! Writes a tar of what is in directories: ustar, with PAX records where that is too small.
//!
//! What is read may be changed by a container meanwhile: everything is opened by descriptor, no
//! link is followed, and a file is written with the size it had when its turn came.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Write},
};

use tar::{EntryType, Header};

use super::entries::shown;
use crate::{
    error::{Context as _, Error, Kind, Result},
    sys::fs::{self, Dir, FileType, Stat, kind},
};

/// What a name in the header holds; longer ones are PAX records.
const NAME: usize = 100;

/// What an entry's header says instead of what the file has.
#[derive(Clone, Default)]
#[allow(missing_debug_implementations)]
pub struct Dress {
    /// Owner and group of everything.
    pub owner: Option<(u32, u32)>,
    pub mode: Option<ModeChange>,
    /// No time is later than this (seconds since 1970).
    pub latest: Option<i64>,
}

/// Another mode: of old mode and whether it is a directory.
pub type ModeChange = std::rc::Rc<dyn Fn(u32, bool) -> u32>;

/// A tar in the making.
#[allow(missing_debug_implementations)]
pub struct TarWriter<'out> {
    builder: tar::Builder<&'out mut dyn Write>,
    /// The path under which each file of several names was written first.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// The mount to stay in; what is mounted on top is an empty place.
    mount: Option<u64>,
    dress: Dress,
    /// Bytes of file content so far.
    content: u64,
}

impl<'out> TarWriter<'out> {
    pub fn new(out: &'out mut dyn Write) -> Self {
        Self {
            builder: tar::Builder::new(out),
            linked: HashMap::new(),
            mount: None,
            dress: Dress::default(),
            content: 0,
        }
    }

    /// Owners, modes and times as told.
    #[must_use]
    pub fn dressed(mut self, dress: Dress) -> Self {
        self.dress = dress;
        self
    }

    /// Nothing of other mounts than that of `top`.
    pub fn within_mount_of(mut self, top: &Dir) -> Result<Self> {
        self.mount = Some(fs::mount_id(top, b"")?);
        Ok(self)
    }

    /// Everything beneath `dir`, in the order of names; `path` is what its names begin with.
    pub fn tree(&mut self, dir: &Dir, path: &[u8]) -> Result<()> {
        let mut names = fs::list(dir)?;
        names.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, _) in names {
            let name = name.to_bytes();
            let stat = match dir.stat(name) {
                // Gone meanwhile.
                Err(fs::Errno::NOENT) => continue,
                stat => stat?,
            };
            let path = joined(path, name);
            match self.add(dir, name, &path, &stat) {
                Err(err) if err.kind() == Kind::NotFound => continue,
                added => added.doing_with(|| shown(&path))?,
            }
            if kind(&stat) == FileType::Directory
                && let Some(below) = self.below(dir, name)?
            {
                self.tree(&below, &path)?;
            }
        }
        Ok(())
    }

    /// The directory to go on in; `None` if it is another mount's, or there no longer.
    fn below(&self, dir: &Dir, name: &[u8]) -> fs::Result<Option<Dir>> {
        let opened = self.is_within(dir, name).and_then(|is_within| match is_within {
            true => dir.open_dir(name).map(Some),
            false => Ok(None),
        });
        match opened {
            Err(fs::Errno::NOENT | fs::Errno::NOTDIR | fs::Errno::LOOP) => Ok(None),
            opened => opened,
        }
    }

    /// `dir` itself, and everything beneath it.
    pub fn whole(&mut self, dir: &Dir) -> Result<()> {
        let header = self.described(&dir.stat_self()?);
        self.entry(header, b"./", None, &[], &mut io::empty())?;
        self.tree(dir, b"")
    }

    /// `name` of `dir` as an entry called `path`; of a directory only itself. Sockets mean
    /// nothing elsewhere, and are left out.
    pub fn add(&mut self, dir: &Dir, name: &[u8], path: &[u8], stat: &Stat) -> Result<()> {
        let mut header = self.described(stat);
        let inside = self.is_within(dir, name)?;
        let inode = (stat.st_dev, stat.st_ino);
        let is_directory = kind(stat) == FileType::Directory;
        let has_more = !is_directory && stat.st_nlink > 1 && inside;
        if has_more && let Some(first) = self.linked.get(&inode).cloned() {
            header.set_entry_type(EntryType::Link);
            header.set_size(0);
            return self.entry(header, path, Some(&first), &[], &mut io::empty());
        }
        let xattrs = if inside { kept(dir.xattrs(name)?)? } else { Vec::new() };
        match kind(stat) {
            FileType::RegularFile if inside => {
                let file = open_regular(dir, name)?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                header.set_size(size);
                self.content += size;
                // One that has become shorter is filled up: its size is said already.
                let mut content = file.chain(io::repeat(0)).take(size);
                self.entry(header, path, None, &xattrs, &mut content)?;
            }
            FileType::Symlink => {
                let target = match dir.read_link(name) {
                    // Something else is there now.
                    Err(fs::Errno::INVAL) => return Err(fs::Errno::NOENT.into()),
                    target => target?,
                };
                self.entry(header, path, Some(&target), &xattrs, &mut io::empty())?;
            }
            FileType::Socket | FileType::Unknown => return Ok(()),
            FileType::RegularFile
            | FileType::Directory
            | FileType::Fifo
            | FileType::CharacterDevice
            | FileType::BlockDevice => {
                let name = if is_directory { joined(path, b"") } else { path.to_vec() };
                self.entry(header, &name, None, &xattrs, &mut io::empty())?;
            }
        }
        if has_more {
            self.linked.insert(inode, path.to_vec());
        }
        Ok(())
    }

    /// The header of something, but for its names and content.
    fn described(&self, stat: &Stat) -> Header {
        let mut header = described(stat);
        if let Some((uid, gid)) = self.dress.owner {
            header.set_uid(uid.into());
            header.set_gid(gid.into());
        }
        if let Some(change) = &self.dress.mode
            && kind(stat) != FileType::Symlink
        {
            let is_directory = kind(stat) == FileType::Directory;
            header.set_mode(change(stat.st_mode & 0o7777, is_directory));
        }
        if let Some(latest) = self.dress.latest {
            header.set_mtime(u64::try_from(stat.st_mtime.min(latest)).unwrap_or(0));
        }
        header
    }

    /// An empty file that is not there: a whiteout.
    pub fn mark(&mut self, path: &[u8]) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        header.set_mtime(0);
        self.entry(header, path, None, &[], &mut io::empty())
    }

    /// A file with this content, of root's.
    pub fn file(&mut self, path: &[u8], mode: u32, content: &[u8]) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        self.entry(header, path, None, &[], &mut &*content)
    }

    /// A directory of root's.
    pub fn directory(&mut self, path: &[u8], mode: u32, time: i64) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        header.set_mtime(u64::try_from(time).unwrap_or(0));
        self.entry(header, &joined(path, b""), None, &[], &mut io::empty())
    }

    /// Bytes of file content so far.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// The end of the tar.
    pub fn finish(self) -> Result<()> {
        self.builder.into_inner().and_then(|out| out.flush()).doing("write the tar")
    }

    fn is_within(&self, dir: &Dir, name: &[u8]) -> fs::Result<bool> {
        Ok(match self.mount {
            Some(mount) => fs::mount_id(dir, name)? == mount,
            None => true,
        })
    }

    fn entry(
        &mut self,
        mut header: Header,
        path: &[u8],
        link: Option<&[u8]>,
        xattrs: &[(String, Vec<u8>)],
        content: &mut dyn io::Read,
    ) -> Result<()> {
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        let old = header.as_old_mut();
        fill(&mut old.name, path);
        if path.len() > NAME {
            records.push(("path", path));
        }
        if let Some(link) = link {
            fill(&mut old.linkname, link);
            if link.len() > NAME {
                records.push(("linkpath", link));
            }
        }
        records.extend(xattrs.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
        header.set_cksum();
        let written = (|| {
            if !records.is_empty() {
                self.builder.append_pax_extensions(records)?;
            }
            self.builder.append(&header, content)
        })();
        written.doing("write the tar")
    }
}

/// A regular file; what has taken its place since it was looked at is as good as none.
fn open_regular(dir: &Dir, name: &[u8]) -> fs::Result<File> {
    let file = match dir.open_file(name) {
        Err(fs::Errno::LOOP) => return Err(fs::Errno::NOENT),
        opened => opened?,
    };
    let is_regular = kind(&fs::stat(&file)?) == FileType::RegularFile;
    if is_regular { Ok(file.into()) } else { Err(fs::Errno::NOENT) }
}

/// The header of something, but for its names and content.
fn described(stat: &Stat) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header.set_entry_type(match kind(stat) {
        FileType::RegularFile | FileType::Socket | FileType::Unknown => EntryType::Regular,
        FileType::Directory => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        FileType::Fifo => EntryType::Fifo,
        FileType::CharacterDevice => EntryType::Char,
        FileType::BlockDevice => EntryType::Block,
    });
    if matches!(kind(stat), FileType::CharacterDevice | FileType::BlockDevice) {
        // A ustar header has room for both numbers.
        let _ = header.set_device_major(rustix::fs::major(stat.st_rdev));
        let _ = header.set_device_minor(rustix::fs::minor(stat.st_rdev));
    }
    header
}

/// The attributes that mean the same elsewhere, as PAX records call them.
fn kept(xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Vec<(String, Vec<u8>)>> {
    let mut kept = Vec::new();
    for (key, value) in xattrs {
        let name = String::from_utf8_lossy(&key).into_owned();
        if ["redirect", "metacopy"].iter().any(|what| name.ends_with(&format!(".overlay.{what}"))) {
            return Err(Error::unsupported(format!("the overlay left {name} here"))
                .hint("mount overlays with redirect_dir=off and metacopy=off (modprobe overlay)"));
        }
        let is_overlays = name.contains("overlay.") || name.contains("fuseoverlayfs.");
        let portable = name == "security.capability"
            || name.starts_with("system.posix_acl_")
            || (name.starts_with("user.") && !is_overlays);
        if portable && std::str::from_utf8(&key).is_ok() {
            kept.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    // Some file systems list them in the order they came.
    kept.sort();
    Ok(kept)
}

fn fill(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// `path/name`; the top of the tar is the empty path.
pub(super) fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
    [path, slash, name].concat()
}
