//! How a layer's tar is packed into a blob, and unpacked again.

mod chunked;
mod frames;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    num::NonZero,
    path::Path,
    thread,
};

use zstd::zstd_safe::CParameter;

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
        Compression::Zstd => pack_zstd(tar, blob, level.unwrap_or(3), packers())?,
    }
    Ok(())
}

fn pack_zstd(tar: &mut dyn Read, blob: &mut dyn Write, level: i32, by: u32) -> io::Result<()> {
    let mut zstd = zstd::stream::write::Encoder::new(blob, level)?;
    zstd.multithread(by)?;
    zstd.set_parameter(CParameter::JobSize(JOB))?;
    // In pieces that are worth waking a thread for.
    io::copy(&mut BufReader::with_capacity(256 << 10, tar), &mut zstd)?;
    zstd.finish().map(drop)
}

/// Threads that pack one stream with zstd. Never none, which packs to other bytes; how many there
/// are does not show (`ZSTD_c_nbWorkers`, zstd.h). More than four wait for the tar.
fn packers() -> u32 {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    u32::try_from(cores).unwrap_or(MOST_PACKERS).min(MOST_PACKERS)
}

const MOST_PACKERS: u32 = 4;

/// Bytes that one of them packs at once, of which several are in memory. Left to itself zstd
/// takes four times as much, and packs no better.
const JOB: u32 = 2 << 20;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// More than four jobs' worth, so that all have something to do.
    #[test]
    fn how_many_pack_does_not_show() {
        let byte = |n: u32| u8::try_from((n / 7 + n / 4099 % 13) % 251).expect("a byte");
        let tar: Vec<u8> = (0..40 << 20).map(byte).collect();
        let packed = |by| {
            let mut blob = Vec::new();
            pack_zstd(&mut &tar[..], &mut blob, 3, by).expect("pack");
            blob
        };
        let alone = packed(1);
        assert!(alone == packed(4), "the same bytes");
        assert!(zstd::decode_all(&alone[..]).expect("unpack") == tar);
    }
}
