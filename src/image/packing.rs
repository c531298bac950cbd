//! How a layer's tar is packed into a blob, and unpacked again.

use std::io::{BufRead, Read};

use crate::{
    error::{Context as _, Result},
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
