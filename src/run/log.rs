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
    line: Vec<u8>,
}

impl LogWriter {
    pub fn open(path: &Path, max_size: Option<u64>, max_file: u32) -> io::Result<Self> {
        let file = append_to(path)?;
        let size = file.metadata()?.len();
        let partial = [Vec::new(), Vec::new()];
        let line = Vec::new();
        Ok(Self { path: path.to_owned(), file, size, max_size, max_file, partial, line })
    }

    /// Takes output as it comes. Whole lines are written at once, the rest is kept until its
    /// line is complete or [`LINE_MAX`] long.
    pub fn write(&mut self, is_stderr: bool, mut bytes: &[u8]) -> io::Result<()> {
        let now = Timestamp::now();
        let stream = usize::from(is_stderr);
        while !bytes.is_empty() {
            let room = LINE_MAX - self.partial[stream].len();
            let window = &bytes[..bytes.len().min(room)];
            let (taken, complete) = match window.iter().position(|b| *b == b'\n') {
                Some(at) => (at + 1, true),
                None => (window.len(), window.len() == room),
            };
            self.partial[stream].extend(&bytes[..taken]);
            bytes = &bytes[taken..];
            if complete {
                self.put_line(stream, now)?;
            }
        }
        self.flush()
    }

    /// Writes what is left of unfinished lines.
    pub fn finish(&mut self) -> io::Result<()> {
        let now = Timestamp::now();
        for stream in 0..2 {
            if !self.partial[stream].is_empty() {
                self.put_line(stream, now)?;
            }
        }
        self.flush()
    }

    fn put_line(&mut self, stream: usize, now: Timestamp) -> io::Result<()> {
        let text = std::mem::take(&mut self.partial[stream]);
        self.line.extend(br#"{"log":""#);
        escape(&text, &mut self.line);
        self.line.extend(br#"","stream":""#);
        self.line.extend([&b"stdout"[..], b"stderr"][stream]);
        write!(self.line, r#"","time":"{now:.9}"}}"#)?;
        self.line.push(b'\n');
        self.partial[stream] = text;
        self.partial[stream].clear();
        if self.max_size.is_some() || self.line.len() > 256 << 10 {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.line)?;
        self.size += self.line.len() as u64;
        self.line.clear();
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

/// The inside of a JSON string. Bytes that are no UTF-8 become U+FFFD, as docker's do.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            match byte {
                b'"' => out.extend(br#"\""#),
                b'\\' => out.extend(br"\\"),
                b'\n' => out.extend(br"\n"),
                b'\r' => out.extend(br"\r"),
                b'\t' => out.extend(br"\t"),
                0..0x20 => {
                    let _ = write!(out, "\\u{byte:04x}");
                }
                _ => out.push(byte),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend("\u{fffd}".as_bytes());
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
