//! Appending to a log file, and rotating it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    Lines, Shape,
    line::Frame,
    pack::{Packer, packed},
};

/// Bytes of lines put together into one write.
const BATCH: usize = 256 << 10;

/// Appends lines to a log file and rotates it.
#[derive(Debug)]
pub struct LogWriter {
    shape: Shape,
    lines: Lines,
    file: Rotating,
    /// Lines that are not written yet.
    batch: Vec<u8>,
}

impl LogWriter {
    pub fn open(
        path: &Path,
        shape: Shape,
        max_size: Option<u64>,
        max_file: u32,
    ) -> io::Result<Self> {
        let file = Rotating::open(path, max_size, max_file)?;
        Ok(Self { shape, lines: Lines::default(), file, batch: Vec::new() })
    }

    /// Whether files that are full are packed.
    pub fn pack(&mut self, wanted: bool) {
        self.file.packer = wanted.then(Packer::default);
    }

    /// See [`Log::settle`](super::Log::settle).
    pub fn settle(&mut self) {
        self.file.settle();
    }

    /// See [`Log::write`](super::Log::write).
    pub fn write(&mut self, is_stderr: bool, bytes: &[u8]) -> io::Result<()> {
        let Self { shape, lines, file, batch } = self;
        let frame = shape.frame(is_stderr);
        lines.cut(is_stderr, bytes, |piece| put(file, batch, &frame, piece))?;
        flush(file, batch)
    }

    /// Writes what is left of unfinished lines.
    pub fn finish(&mut self) -> io::Result<()> {
        let Self { shape, lines, file, batch } = self;
        let frames = [false, true].map(|is_stderr| shape.frame(is_stderr));
        lines
            .finish(|is_stderr, piece| put(file, batch, &frames[usize::from(is_stderr)], piece))?;
        flush(file, batch)
    }

    /// Gives back the memory that a burst of output took.
    pub fn rest(&mut self) {
        self.batch = Vec::new();
        self.lines.rest();
    }
}

fn put(file: &mut Rotating, batch: &mut Vec<u8>, frame: &Frame, piece: &[u8]) -> io::Result<()> {
    frame.put(piece, batch);
    // Rotation looks at every line.
    let is_full = file.room().is_some_and(|room| batch.len() as u64 >= room);
    if is_full || batch.len() > BATCH { flush(file, batch) } else { Ok(()) }
}

fn flush(file: &mut Rotating, batch: &mut Vec<u8>) -> io::Result<()> {
    let written = if batch.is_empty() { Ok(()) } else { file.append(&[batch]) };
    batch.clear();
    written
}

/// A file that is appended to, and its predecessors.
#[derive(Debug)]
pub(super) struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: Option<u64>,
    max_file: u32,
    /// What packs files that are full, if they are to be.
    pub(super) packer: Option<Packer>,
}

impl Rotating {
    pub(super) fn open(path: &Path, max_size: Option<u64>, max_file: u32) -> io::Result<Self> {
        let file = append_to(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, max_size, max_file, packer: None })
    }

    /// Cuts the file off where `whole`, asked with its size, says that it is in order.
    pub(super) fn cut(
        &mut self,
        whole: impl FnOnce(&File, u64) -> io::Result<u64>,
    ) -> io::Result<()> {
        let size = whole(&self.file, self.size)?;
        if size < self.size {
            self.file.set_len(size)?;
            self.size = size;
        }
        Ok(())
    }

    /// How many bytes may still be appended before the file is rotated.
    pub(super) fn room(&self) -> Option<u64> {
        Some(self.max_size?.saturating_sub(self.size))
    }

    /// Appends `parts` as one, or nothing.
    pub(super) fn append(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if let Err(err) = write_all(&self.file, parts) {
            // A part of it would spoil what comes after.
            let _ = self.file.set_len(self.size);
            return Err(err);
        }
        self.size += length as u64;
        match self.max_size {
            Some(max) if self.size >= max => self.rotate(),
            _ => Ok(()),
        }
    }

    pub(super) fn settle(&mut self) {
        if let Some(packer) = &mut self.packer {
            packer.finish();
        }
    }

    /// `log.json` becomes `log.json.1` and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        if self.max_file <= 1 {
            self.file.set_len(0)?;
        } else {
            // Not renamed over: ext4 then writes what replaces a file to the disk first
            // (ext4(5), auto_da_alloc), and the container waits.
            let newest = rotated(&self.path, 1);
            if let Some(packer) = &mut self.packer {
                packer.wait(&newest);
            }
            let is_packed = self.packer.is_some();
            let oldest = rotated(&self.path, self.max_file - 1);
            remove_if_there(&oldest)?;
            if is_packed {
                remove_if_there(&packed(&oldest))?;
            }
            for number in (1..self.max_file - 1).rev() {
                let (from, to) = (rotated(&self.path, number), rotated(&self.path, number + 1));
                rename_if_there(&from, &to)?;
                if is_packed {
                    rename_if_there(&packed(&from), &packed(&to))?;
                }
            }
            rename_if_there(&self.path, &newest)?;
            self.file = append_to(&self.path)?;
            if let Some(packer) = &mut self.packer {
                packer.start(&newest);
            }
        }
        self.size = 0;
        Ok(())
    }
}

fn write_all(mut file: &File, parts: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut rest, count),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)
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

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::LINE_MAX, *};

    const SHAPES: [Shape; 2] = [Shape::Json(BTreeMap::new()), Shape::Cri];

    fn open(path: &Path, max_size: Option<u64>, max_file: u32) -> LogWriter {
        let [json, _] = SHAPES;
        LogWriter::open(path, json, max_size, max_file).expect("open")
    }

    /// Streams and texts.
    fn entries_as(shape: &Shape, path: &Path) -> Vec<(bool, String)> {
        let bytes = fs::read(path).expect("log");
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let entries = lines.map(|line| shape.parse(line).0.expect("entry"));
        entries
            .map(|entry| (entry.is_stderr, String::from_utf8_lossy(&entry.log).into_owned()))
            .collect()
    }

    fn entries(path: &Path) -> Vec<(bool, String)> {
        entries_as(&SHAPES[0], path)
    }

    #[test]
    fn lines_come_back_as_they_were() {
        for shape in SHAPES {
            let dir = tempfile::tempdir().expect("tempdir");
            let path = dir.path().join("log");
            let mut log = LogWriter::open(&path, shape.clone(), None, 1).expect("open");
            log.write(false, b"a\x01\"\\\tb\nhal").expect("write");
            log.write(true, "ü\n".as_bytes()).expect("write");
            log.write(false, b"f\nend\xff").expect("write");
            log.finish().expect("finish");
            let got = entries_as(&shape, &path);
            let out = |text: &str| (false, text.to_owned());
            let err = (true, "ü\n".to_owned());
            assert_eq!(got, [out("a\x01\"\\\tb\n"), err, out("half\n"), out("end\u{fffd}")]);
        }
    }

    #[test]
    fn a_long_line_is_split_and_loses_nothing() {
        for shape in SHAPES {
            let dir = tempfile::tempdir().expect("tempdir");
            let path = dir.path().join("log");
            let mut log = LogWriter::open(&path, shape.clone(), None, 1).expect("open");
            let long = "x".repeat(LINE_MAX * 2 + 5) + "\n";
            log.write(false, long.as_bytes()).expect("write");
            let got = entries_as(&shape, &path);
            assert_eq!(got.len(), 3);
            assert_eq!(got.iter().map(|(_, log)| log.as_str()).collect::<String>(), long);
        }
    }

    #[test]
    fn a_character_across_the_limit_of_a_line_stays_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (offset, character) in [(1, "ü"), (1, "€"), (2, "€"), (1, "🛶"), (2, "🛶"), (3, "🛶")]
        {
            let path = dir.path().join(format!("{character}{offset}"));
            let mut log = open(&path, None, 1);
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
        let mut log = open(&path, None, 1);
        log.write(false, &vec![0xff; 2 * LINE_MAX]).expect("write");
        log.write(false, &vec![0xc3; 2 * LINE_MAX]).expect("write");
        log.finish().expect("finish");
        let got: usize = entries(&path).iter().map(|e| e.1.chars().count()).sum();
        assert_eq!(got, 4 * LINE_MAX);
    }

    #[test]
    fn what_cannot_be_written_takes_no_memory() {
        let mut log = open(Path::new("/dev/full"), None, 1);
        for _ in 0..100 {
            log.write(false, "x\n".repeat(10_000).as_bytes()).expect_err("full");
        }
        assert!(log.batch.len() < 2 * BATCH);
    }

    #[test]
    fn rotation_keeps_so_many_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut log = open(&path, Some(200), 3);
        for n in 0..20 {
            log.write(false, format!("line {n}\n").as_bytes()).expect("write");
        }
        let count = fs::read_dir(dir.path()).expect("list").count();
        assert_eq!(count, 3);
        let newest = entries(&rotated(&path, 1));
        assert!(newest.last().is_some_and(|(_, log)| log.starts_with("line ")));
    }

    #[test]
    fn rotation_looks_at_every_line_of_a_batch() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let mut log = open(&path, Some(200), 99);
        log.write(false, "0123456789\n".repeat(100).as_bytes()).expect("write");
        let sizes = fs::read_dir(dir.path()).expect("list");
        let sizes = sizes.map(|file| file.expect("entry").metadata().expect("meta").len());
        assert!(sizes.into_iter().all(|size| size < 300), "none much larger than asked for");
    }
}
