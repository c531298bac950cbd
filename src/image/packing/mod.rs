//! How a layer's tar is packed into a blob, and unpacked again.

mod chunked;
mod frames;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read, Write},
    path::Path,
};

pub(super) use self::chunked::{CHECKSUM, PREFIX};
pub use self::frames::Frames;
use crate::{
    error::{Error, Kind, Result},
    oci::media_type::Compression,
};

/// The bytes behind the compression.
pub(super) fn unpacked<'a>(
    source: impl BufRead + Send + 'a,
    compression: Compression,
) -> Box<dyn Read + Send + 'a> {
    match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(Frames::new(source)),
    }
}

/// Packs all of `tar`. The same tar, compression and level give the same bytes.
///
/// `level` has been checked; without one, 6 for gzip and 3 for zstd, the defaults of
/// their command line tools.
pub(super) fn pack(
    tar: &mut dyn Read,
    blob: &mut dyn Write,
    compression: Compression,
    level: Option<i32>,
) -> Result<()> {
    match compression {
        Compression::None => io::copy(tar, blob).map(drop)?,
        Compression::Gzip => {
            let level = u32::try_from(level.unwrap_or(6)).unwrap_or(6);
            let mut gzip = flate2::write::GzEncoder::new(blob, flate2::Compression::new(level));
            io::copy(tar, &mut gzip)?;
            gzip.finish()?;
        }
        Compression::Zstd => zstd::stream::copy_encode(tar, blob, level.unwrap_or(3))?,
    }
    Ok(())
}

/// As [`pack`] with zstd, so that clients may fetch single files ([`chunked`]); with the annotations
/// of such a layer's descriptor. Without them, where the format has no words for the tar.
///
/// `again` begins both anew; `spool` is a directory for files that nobody sees.
pub(super) fn pack_chunked<R: Read, W: Write>(
    again: &mut dyn FnMut() -> Result<(R, W)>,
    level: Option<i32>,
    spool: &Path,
) -> Result<(W, BTreeMap<String, String>)> {
    let (mut tar, mut blob) = again()?;
    match chunked::pack(&mut tar, &mut blob, level.unwrap_or(3), spool) {
        Ok(annotations) => Ok((blob, annotations)),
        Err(err) if err.kind() == Kind::Unsupported => {
            log::debug!("plain zstd instead: {err}");
            drop((tar, blob));
            let (mut tar, mut blob) = again()?;
            pack(&mut tar, &mut blob, Compression::Zstd, level)?;
            Ok((blob, BTreeMap::new()))
        }
        Err(err) => Err(err),
    }
}

/// Whether the compressor knows the level.
pub(super) fn check_level(compression: Compression, level: Option<i32>) -> Result<()> {
    let (name, most) = match compression {
        Compression::None => return Ok(()),
        Compression::Gzip => ("gzip", 9),
        Compression::Zstd => ("zstd", 20),
    };
    match level {
        Some(level) if !(1..=most).contains(&level) => {
            Err(Error::invalid(format!("{name} has no compression level {level}"))
                .hint(format!("its levels are 1 to {most}")))
        }
        _ => Ok(()),
    }
}

/// The last words of an error that only says that another one came first.
pub(super) const GIVEN_UP: &str = "given up";

/// For a reader or writer whose work is not wanted any more.
pub(super) fn given_up() -> io::Error {
    io::Error::other(Error::engine(GIVEN_UP))
}
