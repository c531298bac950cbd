//! Fetching blobs, over as many connections as it takes (OCI distribution-spec, "Pulling blobs").

use std::{
    io::{self, Read, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use ureq::{
    Body,
    http::{Response, StatusCode, header},
};

use super::{
    Client,
    transport::{Fault, cut_off, retrying},
};
use crate::{
    error::{Error, Result},
    image::packing::given_up,
    oci::Digest,
};

impl Client {
    /// Fetches a small blob whole. Verified by whoever stores it.
    pub fn fetch_blob(&self, digest: &Digest, size: u64) -> BlobReader<'_> {
        self.resume_blob(digest, size, 0)
    }

    /// Reads a blob from byte `from` to its end, asking again for the rest each time the
    /// connection breaks.
    pub fn resume_blob(&self, digest: &Digest, size: u64, from: u64) -> BlobReader<'_> {
        BlobReader {
            client: self,
            digest: digest.clone(),
            size,
            done: from,
            failures: 0,
            body: None,
            stop: None,
        }
    }

    /// One answer with a blob's bytes from `from` on.
    fn open_blob(
        &self,
        digest: &Digest,
        size: u64,
        from: u64,
    ) -> Result<Box<dyn Read + Send>, Fault> {
        let what = format!("blob {digest}");
        let range = format!("bytes={from}-");
        let headers: &[(&str, &str)] = if from > 0 { &[("Range", &range)] } else { &[] };
        let response = self.get(&what, &format!("blobs/{digest}"), headers)?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        if partial && !begins_at(&response, from) {
            return Err(Error::engine(format!("{what}: the registry sent another range")).into());
        }
        let promised = if partial { size - from } else { size };
        if let Some(length) = response.body().content_length()
            && length != promised
        {
            return Err(Error::invalid(format!(
                "{what}: the registry has {length} bytes where the manifest says {promised}"
            ))
            .into());
        }
        let mut body = response.into_body().into_reader();
        if !partial && from > 0 {
            // A registry that knows no ranges sends it all again.
            io::copy(&mut body.by_ref().take(from), &mut io::sink())
                .map_err(|err| cut_off(&self.domain, &err))?;
        }
        Ok(Box::new(body))
    }
}

/// RFC 9110, "Content-Range": `bytes FROM-TO/SIZE`.
fn begins_at(response: &Response<Body>, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    first.is_some_and(|first| first.parse() == Ok(from))
}

/// A blob's bytes, over as many connections as it takes.
pub struct BlobReader<'a> {
    client: &'a Client,
    digest: Digest,
    size: u64,
    done: u64,
    /// Since the last byte that came.
    failures: u32,
    body: Option<Box<dyn Read + Send>>,
    stop: Option<&'a AtomicBool>,
}

impl std::fmt::Debug for BlobReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobReader({} {}/{})", self.digest, self.done, self.size)
    }
}

impl<'a> BlobReader<'a> {
    /// Ends with an error once `stop` is set.
    #[must_use]
    pub fn until(mut self, stop: &'a AtomicBool) -> Self {
        self.stop = Some(stop);
        self
    }

    fn body(&mut self) -> Result<&mut Box<dyn Read + Send>> {
        if self.body.is_none() {
            let access = self.client.transport.access();
            let open = || self.client.open_blob(&self.digest, self.size, self.done);
            self.body = Some(retrying(access, open)?);
        }
        self.body.as_mut().ok_or_else(|| Error::engine("no answer"))
    }

    /// One read; `None` if the connection broke and another may be tried.
    fn read_once(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        let left = self.size - self.done;
        let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let reason = match self.body()?.read(&mut buffer[..want]) {
            Ok(0) => "the connection closed".to_owned(),
            Ok(count) => {
                self.failures = 0;
                self.done += count as u64;
                return Ok(Some(count));
            }
            Err(err) => crate::error::describe(&err),
        };
        self.body = None;
        self.failures += 1;
        if self.failures < self.client.transport.access().tries {
            log::debug!("{self:?}: {reason}; resuming");
            std::thread::sleep(self.client.transport.access().pause);
            return Ok(None);
        }
        Err(Error::engine(format!(
            "blob {} ends after {} of {} bytes: {reason}",
            self.digest, self.done, self.size
        ))
        .hint("what has arrived is kept; pulling again fetches only the rest"))
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.done >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(given_up());
            }
            // The error travels inside the I/O error, through decompressors, to the caller.
            if let Some(count) = self.read_once(buffer).map_err(io::Error::other)? {
                return Ok(count);
            }
        }
    }
}

/// A reader that keeps what passes.
pub(in crate::image) struct Kept<R, W> {
    pub(in crate::image) source: R,
    pub(in crate::image) copy: W,
}

impl<R: Read, W: Write> Read for Kept<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.copy.write_all(&buffer[..count])?;
        Ok(count)
    }
}
