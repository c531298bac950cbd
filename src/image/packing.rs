//! How a layer's tar is packed into a blob, and unpacked again.

use std::io::{self, BufRead, Read, Write};

use crate::{
    error::{Context as _, Error, Result},
    oci::media_type::Compression,
};

/// The bytes behind the compression.
pub(super) fn unpacked<'a>(
    source: impl BufRead + Send + 'a,
    compression: Compression,
) -> Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        // Its default window limit, 128 MiB, bounds what a hostile frame can make it allocate.
        Compression::Zstd => Box::new(
            zstd::stream::read::Decoder::with_buffer(source).doing("start the decompressor")?,
        ),
    })
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
