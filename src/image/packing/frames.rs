//! Reads zstd (RFC 8878) frame by frame, so that what all decompressors of this process together
//! need is bounded.
//!
//! A frame says how far back it refers; its decompressor keeps that much. The window of each frame is
//! read before the decompressor sees it, and taken out of one budget: who finds it spent waits,
//! holding nothing, until others are done.

use std::{
    io::{self, BufRead, Read},
    sync::{Condvar, Mutex, PoisonError},
};

use zstd::stream::raw::{Decoder, InBuffer, Operation as _, OutBuffer};

use crate::error::{Error, Result};

/// All windows at once. What every engine's compressor asks for is 8 MiB and less.
const BUDGET: u64 = 32 << 20;
/// So that a decompressor is not made anew for each frame that is a little larger.
const LEAST: u64 = 256 << 10;
/// The longest header of a frame.
const HEADER_MAX: usize = 18;
/// RFC 8878, "Skippable Frames": the last four bits are anything.
const SKIPPABLE: u32 = 0x184d_2a50;
const MAGIC: u32 = 0xfd2f_b528;

static WINDOWS: Budget = Budget { spent: Mutex::new(0), freed: Condvar::new() };

struct Budget {
    spent: Mutex<u64>,
    freed: Condvar,
}

/// Part of the budget.
struct Grant {
    of: &'static Budget,
    size: u64,
}

impl Budget {
    /// Waits until so much is left.
    fn take(&'static self, size: u64) -> Grant {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        while *spent + size > BUDGET {
            spent = self.freed.wait(spent).unwrap_or_else(PoisonError::into_inner);
        }
        *spent += size;
        Grant { of: self, size }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        *self.of.spent.lock().unwrap_or_else(PoisonError::into_inner) -= self.size;
        self.of.freed.notify_all();
    }
}

/// The bytes behind zstd.
#[allow(missing_debug_implementations)] // zstd's decoder has none
pub struct Frames<R> {
    source: R,
    /// The next frame's header, as far as it was read and the decompressor has not seen it.
    header: Vec<u8>,
    /// With what was granted to it.
    decoder: Option<(Decoder<'static>, Grant)>,
    in_frame: bool,
}

impl<R: BufRead> Frames<R> {
    /// `source` begins with a frame, or holds nothing.
    pub fn new(source: R) -> Self {
        Self { source, header: Vec::new(), decoder: None, in_frame: false }
    }

    /// Gets ready for the next frame. `false`: there is none.
    fn begin(&mut self) -> io::Result<bool> {
        let missing = (HEADER_MAX - self.header.len()) as u64;
        self.source.by_ref().take(missing).read_to_end(&mut self.header)?;
        if self.header.is_empty() {
            return Ok(false);
        }
        let window = window(&self.header).map_err(io::Error::other)?;
        match &mut self.decoder {
            Some((decoder, grant)) if grant.size >= window => decoder.reinit()?,
            used => {
                // Memory first, then the grant: waiting while holding one could be for ever.
                drop(used.take());
                let grant = WINDOWS.take(window.next_power_of_two().max(LEAST));
                *used = Some((Decoder::new()?, grant));
            }
        }
        self.in_frame = true;
        Ok(true)
    }

    /// One step. `None`: nothing came of it, and the source is at its end.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some((decoder, _)) = &mut self.decoder else { return Ok(None) };
        let from_source = self.header.is_empty();
        let bytes = if from_source { self.source.fill_buf()? } else { &self.header[..] };
        let at_end = bytes.is_empty();
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(buffer);
        let left = decoder.run(&mut input, &mut output)?;
        let (read, written) = (input.pos(), output.pos());
        match from_source {
            true => self.source.consume(read),
            false => drop(self.header.drain(..read)),
        }
        self.in_frame = left > 0;
        Ok((written > 0 || !at_end || !self.in_frame).then_some(written))
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            match self.step(buffer)? {
                Some(0) => {}
                Some(written) => return Ok(written),
                None => {
                    let cut = "the last frame is incomplete";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut));
                }
            }
        }
    }
}

/// How much a decompressor of the frame keeps (RFC 8878, "Frame Header"). What is no frame, it will
/// say itself.
fn window(header: &[u8]) -> Result<u64> {
    let Some((magic, rest)) = header.split_first_chunk::<4>() else { return Ok(0) };
    let magic = u32::from_le_bytes(*magic);
    if magic & !0xf == SKIPPABLE || magic != MAGIC {
        return Ok(0);
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let Some((&descriptor, rest)) = rest.split_first() else { return Ok(0) };
    let is_single_segment = descriptor & 0x20 != 0;
    let wanted = match (is_single_segment, rest) {
        (false, [window, ..]) => {
            let base = 1_u64 << (10 + (window >> 3));
            base + base / 8 * u64::from(window & 7)
        }
        (true, rest) => {
            // The content itself is the window.
            let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
            let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
            let size = rest.get(dictionary..dictionary + length).map_or(0, number);
            if length == 2 { size + 256 } else { size }
        }
        (false, []) => 0,
    };
    match wanted <= BUDGET {
        true => Ok(wanted),
        false => Err(Error::unsupported(format!(
            "unpacking needs {} MiB at once; at most {} are taken",
            wanted >> 20,
            BUDGET >> 20
        ))
        .hint("it was packed with zstd's --long or --ultra; packed anew without, it is welcome")),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread};

    use super::*;

    fn packed(bytes: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("encoder");
        encoder.window_log(window_log).expect("window");
        encoder.write_all(bytes).expect("write");
        encoder.finish().expect("finish")
    }

    fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        // Headers that come byte by byte are headers, too.
        let source = io::BufReader::with_capacity(1, bytes);
        Frames::new(source).read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn frames_follow_each_other_and_some_are_skipped() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let skipped = [&0x184d_2a5a_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        let whole = zstd::bulk::compress(&text, 3).expect("pack");
        let all = [&packed(&text, 20)[..], &skipped, &whole, &packed(b"", 10), &skipped].concat();
        assert_eq!(unpack(&all).expect("unpack"), [&text[..], &text].concat());
        assert_eq!(unpack(b"").expect("nothing"), b"");
        for cut in [1, 3, 4, 5, 9, 100, whole.len() - 1] {
            assert!(unpack(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(unpack(b"neither this nor that").is_err());
        assert!(unpack(&[&whole[..], b"more"].concat()).is_err());
    }

    #[test]
    fn memory_is_bounded_whatever_frames_ask_for() {
        let large = packed(b"large", 25);
        thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| unpack(&large))).collect();
            for one in all {
                assert_eq!(one.join().expect("thread").expect("unpack"), b"large");
            }
        });
        let larger = [packed(b"small", 10), packed(b"larger", 26)].concat();
        let err = unpack(&larger).expect_err("too large").to_string();
        assert!(err.contains("needs 64 MiB at once; at most 32"), "{err}");
        // Half a gigabyte in one segment, of which nothing follows.
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let err = unpack(&header).expect_err("too large").to_string();
        assert!(err.contains("needs 512 MiB"), "{err}");
    }
}
