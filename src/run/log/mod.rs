//! The container's output on disk, written by its monitor.
//!
//! Four shapes: as it came, which is as fast as copying it (`local`); docker's
//! `json-file`, one JSON object a line; the Container Runtime Interface's (`k8s-file`); and
//! entries of systemd's journal. In all of them a line longer than [`LINE_MAX`] is split, as
//! docker splits it, and only its last piece ends it.

mod details;
mod file;
mod journal;
mod line;
pub mod pack;
mod raw;

use std::io;

pub use details::{check_tag, details};
pub use file::{LogWriter, rotated};
pub use journal::{
    END as JOURNAL_END, SOCKET as JOURNAL_SOCKET, is_own_field, is_there as journal_is_there,
};
pub use line::{Entry, LINE_MAX_ENCODED, Shape};
pub use raw::{Chunk, Found, RawWriter};

use self::journal::JournalWriter;
use crate::state::{
    layout::ContainerPaths,
    record::{ContainerRecord, LogDriver},
};

/// Bytes of one line kept together (moby daemon/logger/copier.go: 16 KiB).
pub const LINE_MAX: usize = 16 << 10;

/// Where a container's output is written to.
#[derive(Debug)]
pub enum Log {
    Raw(RawWriter),
    File(LogWriter),
    Journal(JournalWriter),
}

impl Log {
    /// `None` for a container whose output is kept nowhere.
    pub fn open(record: &ContainerRecord, paths: &ContainerPaths) -> io::Result<Option<Self>> {
        let config = &record.host.log;
        let path = || config.path.clone().unwrap_or_else(|| paths.log(config.driver));
        let shape = match config.driver {
            LogDriver::Local => {
                let mut writer = RawWriter::open(&path(), config.max_size, config.max_file)?;
                writer.pack(config.compress);
                return Ok(Some(Self::Raw(writer)));
            }
            LogDriver::None | LogDriver::Passthrough => return Ok(None),
            LogDriver::Journald => return JournalWriter::open(record).map(Self::Journal).map(Some),
            LogDriver::K8sFile => Shape::Cri,
            LogDriver::JsonFile => Shape::Json(details(record)),
        };
        let mut writer = LogWriter::open(&path(), shape, config.max_size, config.max_file)?;
        writer.pack(config.compress);
        Ok(Some(Self::File(writer)))
    }

    /// Takes output as it comes. Whole lines are written at once, the rest is kept until its
    /// line is complete or [`LINE_MAX`] long. What cannot be written is lost to the log, and
    /// takes no memory.
    pub fn write(&mut self, is_stderr: bool, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw(log) => log.write(is_stderr, bytes),
            Self::File(log) => log.write(is_stderr, bytes),
            Self::Journal(log) => log.write(is_stderr, bytes),
        }
    }

    /// Writes what is left of unfinished lines.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Raw(_) => Ok(()),
            Self::File(log) => log.finish(),
            Self::Journal(log) => log.finish(),
        }
    }

    /// Until nothing is done for it any more, after [`finish`](Self::finish).
    pub fn settle(&mut self) {
        match self {
            Self::Raw(log) => log.settle(),
            Self::File(log) => log.settle(),
            Self::Journal(_) => {}
        }
    }

    /// Gives back the memory that a burst of output took.
    pub fn rest(&mut self) {
        match self {
            Self::Raw(_) => {}
            Self::File(log) => log.rest(),
            Self::Journal(log) => log.rest(),
        }
    }
}

/// Cuts two streams into lines of no more than [`LINE_MAX`] bytes.
#[derive(Debug, Default)]
pub struct Lines {
    /// What has arrived of a line that is not complete; one for each stream.
    partial: [Vec<u8>; 2],
}

impl Lines {
    /// Calls `put` for every complete piece, with its newline if the line ended there.
    pub fn cut(
        &mut self,
        is_stderr: bool,
        mut bytes: &[u8],
        mut put: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let partial = &mut self.partial[usize::from(is_stderr)];
        while !bytes.is_empty() {
            let room = LINE_MAX - partial.len();
            let window = &bytes[..bytes.len().min(room)];
            let (taken, complete) = match memchr::memchr(b'\n', window) {
                Some(at) => (at + 1, true),
                None => (window.len(), window.len() == room),
            };
            let (piece, rest) = bytes.split_at(taken);
            bytes = rest;
            if complete && partial.is_empty() && piece.ends_with(b"\n") {
                put(piece)?;
                continue;
            }
            partial.extend(piece);
            if complete {
                put_partial(partial, &mut put)?;
            }
        }
        Ok(())
    }

    /// As [`cut`](Self::cut), of a chunk: what does not go on with a line has ended it.
    pub fn cut_chunk(
        &mut self,
        chunk: &Chunk<'_>,
        mut put: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let partial = &mut self.partial[usize::from(chunk.is_stderr)];
        while !chunk.continues && !partial.is_empty() {
            put_partial(partial, &mut put)?;
        }
        self.cut(chunk.is_stderr, chunk.output, put)
    }

    /// What is left of unfinished lines.
    pub fn finish(&mut self, mut put: impl FnMut(bool, &[u8]) -> io::Result<()>) -> io::Result<()> {
        for (stream, partial) in self.partial.iter_mut().enumerate() {
            while !partial.is_empty() {
                put_partial(partial, &mut |piece: &[u8]| put(stream == 1, piece))?;
            }
        }
        Ok(())
    }

    fn rest(&mut self) {
        self.partial.iter_mut().for_each(Vec::shrink_to_fit);
    }
}

/// Puts what has gathered of one stream's line. A character that the line's limit cuts in two
/// stays for the next piece.
fn put_partial(
    partial: &mut Vec<u8>,
    put: &mut impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut text = std::mem::take(partial);
    let cut = if text.len() == LINE_MAX { LINE_MAX - cut_character(&text) } else { text.len() };
    let put = put(&text[..cut]);
    text.drain(..cut);
    *partial = text;
    put
}

/// How many bytes at the end of `text` begin a UTF-8 character that is not complete.
fn cut_character(text: &[u8]) -> usize {
    let end = &text[text.len().saturating_sub(3)..];
    match end.utf8_chunks().last().map(|chunk| chunk.invalid()) {
        Some(invalid) if std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none()) => {
            invalid.len()
        }
        _ => 0,
    }
}
