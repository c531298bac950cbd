//! The container's output on disk, in docker's `json-file` format, and reading it back.
//!
//! One JSON object a line: `{"log":"…\n","stream":"stdout","time":"…Z"}`. A line longer than
//! [`LINE_MAX`] is split into several objects, of which only the last one's `log` ends in a
//! newline, as docker's do.

use std::{
    borrow::Cow,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// Bytes of one line kept together (moby daemon/logger/copier.go: 16 KiB).
pub const LINE_MAX: usize = 16 << 10;

/// Bytes of objects put together into one write.
const BATCH: usize = 128 << 10;

/// Appends to `log.json` and rotates it.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: Option<u64>,
    max_file: u32,
    /// What has arrived of a line that is not complete; one for each stream.
    partial: [Vec<u8>; 2],
    /// Objects that are not written yet.
    batch: Vec<u8>,
}

impl LogWriter {
    pub fn open(path: &Path, max_size: Option<u64>, max_file: u32) -> io::Result<Self> {
        let file = append_to(path)?;
        let size = file.metadata()?.len();
        let partial = [Vec::new(), Vec::new()];
        let batch = Vec::new();
        Ok(Self { path: path.to_owned(), file, size, max_size, max_file, partial, batch })
    }

    /// Takes output as it comes. Whole lines are written at once, the rest is kept until its
    /// line is complete or [`LINE_MAX`] long. What cannot be written is lost to the log, and
    /// takes no memory.
    pub fn write(&mut self, is_stderr: bool, mut bytes: &[u8]) -> io::Result<()> {
        let tail = tail(is_stderr);
        let stream = usize::from(is_stderr);
        while !bytes.is_empty() {
            let room = LINE_MAX - self.partial[stream].len();
            let window = &bytes[..bytes.len().min(room)];
            let (taken, complete) = match memchr::memchr(b'\n', window) {
                Some(at) => (at + 1, true),
                None => (window.len(), window.len() == room),
            };
            let (piece, rest) = bytes.split_at(taken);
            bytes = rest;
            if complete && self.partial[stream].is_empty() && piece.ends_with(b"\n") {
                self.put(piece, &tail)?;
                continue;
            }
            self.partial[stream].extend(piece);
            if complete {
                self.put_partial(stream, &tail)?;
            }
        }
        self.flush()
    }

    /// Writes what is left of unfinished lines.
    pub fn finish(&mut self) -> io::Result<()> {
        for stream in 0..2 {
            while !self.partial[stream].is_empty() {
                self.put_partial(stream, &tail(stream == 1))?;
            }
        }
        self.flush()
    }

    /// Gives back the memory that a burst of output took.
    pub fn rest(&mut self) {
        self.batch = Vec::new();
        self.partial.iter_mut().for_each(Vec::shrink_to_fit);
    }

    /// Puts what has gathered of one stream's line. A character that the line's limit cuts in
    /// two stays for the next object.
    fn put_partial(&mut self, stream: usize, tail: &str) -> io::Result<()> {
        let mut text = std::mem::take(&mut self.partial[stream]);
        let cut = if text.len() == LINE_MAX { LINE_MAX - cut_character(&text) } else { text.len() };
        let put = self.put(&text[..cut], tail);
        text.drain(..cut);
        self.partial[stream] = text;
        put
    }

    fn put(&mut self, text: &[u8], tail: &str) -> io::Result<()> {
        self.batch.extend(br#"{"log":""#);
        escape(text, &mut self.batch);
        self.batch.extend(tail.as_bytes());
        // Rotation looks at every line.
        if self.max_size.is_some() || self.batch.len() > BATCH {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.batch);
        let length = self.batch.len() as u64;
        self.batch.clear();
        if let Err(err) = written {
            // Half an object would spoil the line after it.
            let _ = self.file.set_len(self.size);
            return Err(err);
        }
        self.size += length;
        match self.max_size {
            Some(max) if self.size >= max => self.rotate(),
            _ => Ok(()),
        }
    }

    /// `log.json` becomes `log.json.1` and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        if self.max_file <= 1 {
            self.file.set_len(0)?;
        } else {
            for number in (1..self.max_file - 1).rev() {
                rename_if_there(&rotated(&self.path, number), &rotated(&self.path, number + 1))?;
            }
            rename_if_there(&self.path, &rotated(&self.path, 1))?;
            self.file = append_to(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The name of the `number`th older log file.
pub fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// What follows the text in an object of output that comes now.
fn tail(is_stderr: bool) -> String {
    let stream = if is_stderr { "stderr" } else { "stdout" };
    format!("\",\"stream\":\"{stream}\",\"time\":\"{:.9}\"}}\n", Timestamp::now())
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

/// The inside of a JSON string. Bytes that are no UTF-8 become U+FFFD, as docker's do.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid().as_bytes();
        while let Some(at) = rest.iter().position(|byte| IS_SPECIAL[usize::from(*byte)]) {
            out.extend(&rest[..at]);
            escape_byte(rest[at], out);
            rest = &rest[at + 1..];
        }
        out.extend(rest);
        if !chunk.invalid().is_empty() {
            out.extend("\u{fffd}".as_bytes());
        }
    }
}

/// The bytes that JSON wants escaped (RFC 8259, section 7).
const IS_SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

fn escape_byte(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend(br#"\""#),
        b'\\' => out.extend(br"\\"),
        b'\n' => out.extend(br"\n"),
        b'\r' => out.extend(br"\r"),
        b'\t' => out.extend(br"\t"),
        _ => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend(br"\u00");
            out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// One object of the log.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Entry<'a> {
    /// With its newline, if the line ended here.
    #[serde(borrow)]
    pub log: Cow<'a, str>,
    /// `stdout` or `stderr`.
    #[serde(borrow)]
    pub stream: Cow<'a, str>,
    /// RFC 3339 in UTC, nine digits of a second.
    #[serde(borrow)]
    pub time: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams and texts.
    fn entries(path: &Path) -> Vec<(String, String)> {
        let text = fs::read_to_string(path).expect("log");
        let entry = |line| serde_json::from_str::<Entry<'_>>(line).expect("entry");
        text.lines().map(entry).map(|e| (e.stream.into(), e.log.into())).collect()
    }

    #[test]
    fn lines_come_back_as_they_were() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut log = LogWriter::open(&path, None, 1).expect("open");
        log.write(false, b"a\x01\"\\\tb\nhal").expect("write");
        log.write(true, "ü\n".as_bytes()).expect("write");
        log.write(false, b"f\nend\xff").expect("write");
        log.finish().expect("finish");
        let got = entries(&path);
        let out = |text: &str| ("stdout".to_owned(), text.to_owned());
        let err = ("stderr".to_owned(), "ü\n".to_owned());
        assert_eq!(got, [out("a\x01\"\\\tb\n"), err, out("half\n"), out("end\u{fffd}")]);
    }

    #[test]
    fn a_long_line_is_split_and_loses_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut log = LogWriter::open(&path, None, 1).expect("open");
        let long = "x".repeat(LINE_MAX * 2 + 5) + "\n";
        log.write(false, long.as_bytes()).expect("write");
        let got = entries(&path);
        assert_eq!(got.len(), 3);
        assert_eq!(got.iter().map(|(_, log)| log.as_str()).collect::<String>(), long);
    }

    #[test]
    fn a_character_across_the_limit_of_a_line_stays_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (offset, character) in [(1, "ü"), (1, "€"), (2, "€"), (1, "🛶"), (2, "🛶"), (3, "🛶")]
        {
            let path = dir.path().join(format!("{character}{offset}"));
            let mut log = LogWriter::open(&path, None, 1).expect("open");
            let line = "x".repeat(LINE_MAX - offset) + character + "\n";
            log.write(false, line.as_bytes()).expect("write");
            let got: Vec<_> = entries(&path).into_iter().map(|e| e.1).collect();
            assert_eq!(got, ["x".repeat(LINE_MAX - offset), format!("{character}\n")]);
        }
    }

    #[test]
    fn bytes_that_are_no_text_at_the_limit_go_on() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut log = LogWriter::open(&path, None, 1).expect("open");
        log.write(false, &vec![0xff; 2 * LINE_MAX]).expect("write");
        log.write(false, &vec![0xc3; 2 * LINE_MAX]).expect("write");
        log.finish().expect("finish");
        let got: usize = entries(&path).iter().map(|e| e.1.chars().count()).sum();
        assert_eq!(got, 4 * LINE_MAX);
    }

    #[test]
    fn what_cannot_be_written_takes_no_memory() {
        let mut log = LogWriter::open(Path::new("/dev/full"), None, 1).expect("open");
        for _ in 0..100 {
            log.write(false, "x\n".repeat(10_000).as_bytes()).expect_err("full");
        }
        assert!(log.batch.len() < 2 * BATCH);
    }

    #[test]
    fn rotation_keeps_so_many_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut log = LogWriter::open(&path, Some(200), 3).expect("open");
        for n in 0..20 {
            log.write(false, format!("line {n}\n").as_bytes()).expect("write");
        }
        let count = fs::read_dir(dir.path()).expect("list").count();
        assert_eq!(count, 3);
        let newest = entries(&rotated(&path, 1));
        assert!(newest.last().is_some_and(|(_, log)| log.starts_with("line ")));
    }
}
