//! Images from files: what `docker save`, `podman save` and others wrote, and plain rootfs tars.
//!
//! * [`load`]: docker-archive, OCI layout and skopeo's `dir:`, in a tar or (by [`DirTar`]) not.
//! * [`save`]: the same, written.
//! * [`import`]: a rootfs becomes an image of one layer.
//! * [`commit`]: one more layer on another image.
//! * [`change`]: the Dockerfile instructions that `import` takes.
//!
//! An archive is read once, forwards, so that it may come through a pipe. Nothing in it becomes
//! a path: its members are spooled into the store's staging and known by the names they have in
//! the archive, which lead nowhere else (CVE-2014-9356, CVE-2014-9358, CVE-2020-10696).

mod change;
mod commit;
mod dir;
mod import;
mod index;
mod load;
mod members;
pub mod save;

use std::io::{BufRead, BufReader, Read};

pub use change::ports;
pub use commit::{Commit, commit};
pub use dir::DirTar;
pub use import::{Import, import};
pub use index::save_index;
pub use load::{Called, Loaded, Source, load, load_one};

use tar::EntryType;

use crate::{
    error::{Context as _, Error, Result},
    image::Frames,
    oci::media_type::Compression,
};

const BUFFER: usize = 256 << 10;

/// What a stream is packed with, by its first bytes. Packings that dhow does not read are
/// errors that say how to unpack them.
fn compression(start: &[u8]) -> Result<Compression> {
    let foreign = match start {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some(("xz", "xz -dc")),
        [b'B', b'Z', b'h', ..] => Some(("bzip2", "bzip2 -dc")),
        _ => None,
    };
    if let Some((name, tool)) = foreign {
        return Err(Error::unsupported(format!("the archive is compressed with {name}"))
            .hint(format!("`{tool} FILE | dhow ...` passes it on unpacked")));
    }
    Ok(Compression::of_bytes(start))
}

/// The bytes behind gzip or zstd, or as they are.
pub fn unpacked<'a>(source: &'a mut dyn Read) -> Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(BUFFER, source);
    let start = source.fill_buf().doing("read the archive")?;
    Ok(match compression(start)? {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(Frames::new(source)),
    })
}

/// The header of a member that is nobody's and of no time; of a name beyond 100 bytes (those of
/// SHA-512 blobs are) with the record that GNU tar has for such.
fn header(name: &[u8], kind: EntryType, size: u64) -> Vec<u8> {
    const FIELD: usize = 100;
    let mut blocks = Vec::new();
    if name.len() > FIELD {
        blocks.extend(header(b"././@LongLink", EntryType::GNULongName, name.len() as u64 + 1));
        blocks.extend_from_slice(name);
        blocks.resize((blocks.len() + 1).next_multiple_of(512), 0);
    }
    let mut header = tar::Header::new_gnu();
    let short = &name[..name.len().min(FIELD)];
    header.as_old_mut().name[..short.len()].copy_from_slice(short);
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    blocks.extend_from_slice(header.as_bytes());
    blocks
}

#[cfg(test)]
mod mutations;
#[cfg(test)]
mod tests;
