//! The tar of a layer that is here, byte for byte as it was unpacked.
//!
//! A lowerdir cannot give its tar back: the order of entries, their headers' dialect, padding,
//! and owners that an ordinary user's kernel refused are not in it. So the blob that a layer came
//! by is kept as long as an image refers to it ([`super::Addition::finish`] insists), and whoever
//! wants the tar (`push` with another compression, `save`) reads it from there. What was pulled
//! is pushed as that very blob.

use std::{
    fs::File,
    io::{self, BufReader, Read},
};

use super::{LayerRef, Store, packing};
use crate::{
    error::{Error, Result},
    oci::{Digest, Hasher, media_type::Compression},
};

const BUFFER: usize = 256 << 10;

/// A layer's tar as a stream. Its last read is an error if it does not have the layer's diffID.
pub struct Tarball {
    tar: Box<dyn Read + Send>,
    hasher: Hasher,
    diff_id: Digest,
    size: u64,
}

impl std::fmt::Debug for Tarball {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tarball({} at {})", self.diff_id, self.size)
    }
}

impl Read for Tarball {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tar.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.size += count as u64;
        if count == 0 && !buffer.is_empty() {
            let found = self.hasher.clone().finish();
            if found != self.diff_id {
                return Err(io::Error::other(damaged(&self.diff_id)));
            }
        }
        Ok(count)
    }
}

fn damaged(diff_id: &Digest) -> Error {
    Error::engine(format!("the blob of layer {diff_id} is damaged on disk"))
        .hint("`dhow rmi -f` the image and pull it again")
}

impl Store {
    /// The tar of one of an image's layers, verified as it is read: read it to its end.
    pub fn tarball(&self, layer: &LayerRef) -> Result<Tarball> {
        let blob: File = self.open_blob(&layer.digest)?;
        let compression = Compression::of_layer(&layer.media_type)?;
        let tar = packing::unpacked(BufReader::with_capacity(BUFFER, blob), compression);
        let hasher = Hasher::like(&layer.diff_id);
        Ok(Tarball { tar, hasher, diff_id: layer.diff_id.clone(), size: 0 })
    }

    /// Bytes of the layer's tar. Known since it was unpacked, or found by unpacking the blob once
    /// more where an older dhow did not note it.
    pub fn tar_size(&self, layer: &LayerRef) -> Result<u64> {
        if Compression::of_layer(&layer.media_type)? == Compression::None {
            return Ok(layer.size);
        }
        if let Some(size) = self.layer(&layer.chain_id)?.tar_size {
            return Ok(size);
        }
        Ok(io::copy(&mut self.tarball(layer)?, &mut io::sink())?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        image::{
            Silent, ingest,
            ingest::tests::{Keep, gzip},
            store::tests::{remove_tree, store},
        },
        oci::media_type,
    };

    #[test]
    fn a_tar_comes_back_as_it_went_in_or_not_at_all() {
        let (_dir, store) = store();
        let addition = store.add();
        let tar = vec![b'x'; 700_000];
        let blob = gzip(&tar);
        let layer = LayerRef {
            digest: Digest::of(&blob),
            diff_id: Digest::of(&tar),
            chain_id: Digest::of(&tar),
            size: blob.len() as u64,
            media_type: media_type::OCI_LAYER_GZIP.into(),
        };
        let stack = std::slice::from_ref(&layer);
        ingest::layer(&addition, &mut &blob[..], stack, true, &Keep, &Silent).expect("layer");
        addition.publish(&remove_tree).expect("publish");
        let read = || {
            let mut bytes = Vec::new();
            store.tarball(&layer).expect("open").read_to_end(&mut bytes).map(|_| bytes)
        };
        assert_eq!(read().expect("read"), tar);
        assert_eq!(store.layer(&layer.chain_id).expect("record").tar_size, Some(700_000));
        assert_eq!(store.tar_size(&layer).expect("size"), 700_000);

        fs::write(store.layout().blob(&layer.digest), gzip(b"other")).expect("damage");
        assert!(read().expect_err("damage").to_string().contains("damaged on disk"));
    }
}
