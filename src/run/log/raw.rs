//! Output as it came: the driver `local`.
//!
//! Whatever was read at once is one chunk, written with one system call and not looked at. Lines
//! are found when the log is read. A chunk has its length at both ends, so that the last lines
//! are found without reading all.
//!
//! ```text
//! ff 6f 75 74   mark
//! flags         1: standard error; 2: begins within a line; 4: the other stream is within one
//! 00 00 00
//! nanoseconds   since 1970, 8 bytes, little-endian as all numbers
//! length        4 bytes
//! …             the output
//! length        4 bytes, again
//! ```

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use jiff::Timestamp;

use super::{file::Rotating, pack::Packer};

/// No chunk has more bytes of output.
const CHUNK_MAX: usize = 1 << 20;
/// Bytes before the output of a chunk, and behind it.
const HEAD: usize = 20;
const TAIL: usize = 4;
/// The first byte occurs in no UTF-8 text.
const MARK: [u8; 4] = [0xff, b'o', b'u', b't'];
const STDERR: u8 = 1;
const CONTINUES: u8 = 2;
const OTHER_CONTINUES: u8 = 4;

/// Appends chunks to a log file and rotates it.
#[derive(Debug)]
pub struct RawWriter {
    file: Rotating,
    /// What came last on each stream did not end its line.
    in_line: [bool; 2],
}

impl RawWriter {
    pub fn open(path: &Path, max_size: Option<u64>, max_file: u32) -> io::Result<Self> {
        let mut file = Rotating::open(path, max_size, max_file)?;
        file.cut(whole_chunks)?;
        Ok(Self { file, in_line: [false; 2] })
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
    pub fn write(&mut self, is_stderr: bool, mut bytes: &[u8]) -> io::Result<()> {
        let nanoseconds = Timestamp::now().as_nanosecond();
        let nanoseconds = i64::try_from(nanoseconds).unwrap_or(i64::MAX);
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(self.portion(bytes));
            bytes = rest;
            let stream = usize::from(is_stderr);
            let flag = |is_set, flag| if is_set { flag } else { 0 };
            let flags = flag(is_stderr, STDERR)
                | flag(self.in_line[stream], CONTINUES)
                | flag(self.in_line[1 - stream], OTHER_CONTINUES);
            self.in_line[stream] = !chunk.ends_with(b"\n");
            let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_le_bytes();
            let mut head = [0; HEAD];
            head[..4].copy_from_slice(&MARK);
            head[4] = flags;
            head[8..16].copy_from_slice(&nanoseconds.to_le_bytes());
            head[16..].copy_from_slice(&length);
            self.file.append(&[&head, chunk, &length])?;
        }
        Ok(())
    }

    /// How much goes into the next chunk: to the end of the line with which the file is full.
    fn portion(&self, bytes: &[u8]) -> usize {
        let most = bytes.len().min(CHUNK_MAX);
        let Some(room) = self.file.room() else { return most };
        let room = usize::try_from(room).unwrap_or(usize::MAX).saturating_sub(HEAD + TAIL).max(1);
        if most <= room {
            return most;
        }
        memchr::memchr(b'\n', &bytes[room - 1..most]).map_or(most, |at| room + at)
    }
}

/// How much of a log of `size` bytes are whole chunks: what a crash has torn is at the end.
fn whole_chunks(file: &File, size: u64) -> io::Result<u64> {
    let chunk_at = |at: u64| -> io::Result<Option<u64>> {
        let mut head = [0; HEAD];
        let end = at + (HEAD + TAIL) as u64;
        if end > size {
            return Ok(None);
        }
        file.read_exact_at(&mut head, at)?;
        let end = end + length_in(&head) as u64;
        Ok((head[..4] == MARK && end <= size).then_some(end))
    };
    // As it mostly is: the last chunk is whole.
    let mut tail = [0; TAIL];
    if size > TAIL as u64 {
        file.read_exact_at(&mut tail, size - TAIL as u64)?;
        if let Some(start) = Chunk::start(tail, size)
            && chunk_at(start)? == Some(size)
        {
            return Ok(size);
        }
    }
    let mut at = 0;
    while let Some(next) = chunk_at(at)? {
        at = next;
    }
    Ok(at)
}

/// A chunk that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    pub is_stderr: bool,
    /// The line it begins with has begun before.
    pub continues: bool,
    /// The other stream has begun a line before that was not complete then.
    pub other_continues: bool,
    /// When it was written.
    pub time: Timestamp,
    pub output: &'a [u8],
}

/// What a log has at some place.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A chunk, and how many bytes of the log it takes.
    Chunk(Chunk<'a>, usize),
    /// The beginning of a chunk, maybe: there has to be more of the log.
    Part,
    /// So many bytes that are none.
    Damage(usize),
}

impl<'a> Chunk<'a> {
    /// Reads what `bytes` begin with.
    pub fn first(bytes: &'a [u8]) -> Found<'a> {
        let known = bytes.len().min(MARK.len());
        if bytes[..known] != MARK[..known] {
            return damage(bytes);
        }
        let Some((head, behind)) = bytes.split_first_chunk::<HEAD>() else { return Found::Part };
        let (length, flags) = (length_in(head), head[4]);
        if length > CHUNK_MAX || flags > 7 {
            return damage(bytes);
        }
        let Some((output, behind)) = behind.split_at_checked(length) else { return Found::Part };
        let Some(tail) = behind.first_chunk::<TAIL>() else { return Found::Part };
        if u32::from_le_bytes(*tail) as usize != length {
            return damage(bytes);
        }
        let mut nanoseconds = [0; 8];
        nanoseconds.copy_from_slice(&head[8..16]);
        let nanoseconds = i128::from(i64::from_le_bytes(nanoseconds));
        let time = Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH);
        let chunk = Chunk {
            is_stderr: flags & STDERR != 0,
            continues: flags & CONTINUES != 0,
            other_continues: flags & OTHER_CONTINUES != 0,
            time,
            output,
        };
        Found::Chunk(chunk, HEAD + length + TAIL)
    }

    /// Where the chunk begins that ends at `end`, by the four bytes before `end`; `None` if there
    /// can be none.
    pub fn start(tail: [u8; TAIL], end: u64) -> Option<u64> {
        let length = u32::from_le_bytes(tail) as usize;
        let whole = (HEAD + length + TAIL) as u64;
        (length <= CHUNK_MAX).then(|| end.checked_sub(whole)).flatten()
    }
}

fn length_in(head: &[u8; HEAD]) -> usize {
    let mut length = [0; 4];
    length.copy_from_slice(&head[16..]);
    u32::from_le_bytes(length) as usize
}

/// To the next mark, if there is one.
fn damage(bytes: &[u8]) -> Found<'_> {
    let mut marks = memchr::memchr_iter(MARK[0], bytes).filter(|at| *at > 0);
    let next = marks.find(|at| {
        let known = (bytes.len() - at).min(MARK.len());
        bytes[*at..*at + known] == MARK[..known]
    });
    Found::Damage(next.unwrap_or(bytes.len()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Streams, continuations and outputs; how much is damaged.
    fn read(mut bytes: &[u8]) -> (Vec<(bool, bool, String)>, usize) {
        let (mut chunks, mut damaged) = (Vec::new(), 0);
        while !bytes.is_empty() {
            let length = match Chunk::first(bytes) {
                Found::Chunk(chunk, length) => {
                    let output = String::from_utf8_lossy(chunk.output).into_owned();
                    chunks.push((chunk.is_stderr, chunk.continues, output));
                    length
                }
                Found::Damage(length) => {
                    damaged += length;
                    length
                }
                Found::Part => break,
            };
            bytes = &bytes[length..];
        }
        (chunks, damaged)
    }

    #[test]
    fn chunks_are_what_came() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let mut log = RawWriter::open(&path, None, 1).expect("open");
        log.write(false, b"a\nb").expect("write");
        log.write(true, b"e\n").expect("write");
        log.write(false, b"b\n").expect("write");
        let bytes = fs::read(&path).expect("read");
        let chunk = |stderr, continues, text: &str| (stderr, continues, text.to_owned());
        let all =
            vec![chunk(false, false, "a\nb"), chunk(true, false, "e\n"), chunk(false, true, "b\n")];
        assert_eq!(read(&bytes), (all.clone(), 0));
        // However it is torn, only what is torn is lost.
        for end in 0..bytes.len() {
            fs::write(&path, &bytes[..end]).expect("write");
            let before = read(&bytes[..end]).0.len();
            let mut log = RawWriter::open(&path, None, 1).expect("open");
            log.write(false, b"new\n").expect("write");
            let (chunks, damaged) = read(&fs::read(&path).expect("read"));
            assert_eq!((chunks.len(), damaged), (before + 1, 0), "{end}");
            assert_eq!(chunks[..before], all[..before]);
        }
        // The way back.
        let tail = bytes.last_chunk().expect("tail");
        let start = Chunk::start(*tail, bytes.len() as u64).expect("start");
        assert_eq!(read(&bytes[usize::try_from(start).expect("small")..]).0, all[2..]);
    }

    #[test]
    fn files_are_full_at_the_end_of_a_line() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let mut log = RawWriter::open(&path, Some(200), 99).expect("open");
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        log.write(false, text.as_bytes()).expect("write");
        let mut read_back = String::new();
        for number in (0..99).rev() {
            let name =
                if number == 0 { path.clone() } else { super::super::rotated(&path, number) };
            let Ok(bytes) = fs::read(name) else { continue };
            assert!(bytes.len() < 220);
            for (_, continues, output) in read(&bytes).0 {
                assert!(!continues && output.ends_with('\n'));
                read_back += &output;
            }
        }
        assert_eq!(read_back, text);
    }
}
