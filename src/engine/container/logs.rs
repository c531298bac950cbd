//! A container's output, read back: `logs`.
//!
//! The log is read in large blocks, whatever its size.
//! While following, the reader sleeps in `poll(2)`: on changes in the container's directory
//! (inotify(7)), which tell of output, rotation and the recorded end, and on the processes, whose
//! death nobody may be left to record.

mod journal;

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, Seek as _, SeekFrom},
    ops::ControlFlow,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

use super::{Status, lives};
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    run::log::{
        Chunk, Entry, Found, LINE_MAX_ENCODED, Lines, Shape,
        pack::{Identity, identity, identity_at, identity_of_packed, packed},
        rotated,
    },
    state::{
        ContainerId,
        record::{ContainerRecord, LogDriver, ProcessIdentity, ProcessRecord},
        store::read_json,
    },
    sys::process::open_pidfd,
};

/// Bytes read at a time.
const BLOCK: usize = 128 << 10;

/// Which part of the output is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogQuery {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only so many lines from the end; then, following, all that comes.
    pub tail: Option<u64>,
    /// Nothing written before.
    pub since: Option<Timestamp>,
    /// Nothing written after.
    pub until: Option<Timestamp>,
}

/// What a reader is told.
#[derive(Debug)]
pub enum Heard<'a> {
    Entry(&'a Entry<'a>),
    /// That was all for now: a good moment to show it.
    Pause,
}

impl Engine {
    /// Tells everything `query` asks for, oldest first, until there is no more or `tell` breaks
    /// off. Returns how many lines could not be read: torn by a crash, or damaged.
    pub fn logs(
        &self,
        id: &ContainerId,
        query: &LogQuery,
        tell: &mut dyn FnMut(Heard<'_>) -> ControlFlow<()>,
    ) -> Result<u64> {
        let paths = self.layout.container(id);
        let record: ContainerRecord =
            read_json(&paths.record())?.ok_or_else(|| super::no_record(id))?;
        let config = &record.host.log;
        let format = match config.driver {
            LogDriver::Local => Format::Raw(Lines::default()),
            LogDriver::JsonFile => Format::Lines(Shape::Json(BTreeMap::new())),
            LogDriver::K8sFile => Format::Lines(Shape::Cri),
            LogDriver::Journald => return self.journal_logs(id, query, tell).map(|()| 0),
            LogDriver::None | LogDriver::Passthrough => return Err(unreadable(config.driver)),
        };
        let path = config.path.clone().unwrap_or_else(|| paths.log(config.driver));
        // Watched before anything is read, so that nothing happens unseen in between.
        let elsewhere = config.path.as_deref().and_then(Path::parent);
        let dirs = [Some(paths.dir()), elsewhere];
        let mut watch = query.follow.then(|| Watch::new(&dirs)).transpose()?;
        let mut log = Log::open(&path, format, config.max_file, query.follow)?;
        if let Some(lines) = query.tail {
            let goes_on = query.follow && running(self.status(&paths)?).is_some();
            log.skip_to_last(lines, goes_on)?;
        }
        loop {
            // Asked before the log is read: what was written until the end is then still read.
            let running = match &mut watch {
                Some(watch) => Some(watch).zip(running(self.status(&paths)?)),
                None => None,
            };
            if log.read(&mut |entry| pass(query, &entry, tell))?.is_break() {
                break;
            }
            let Some((watch, process)) = running else {
                log.finish(&mut |entry| pass(query, &entry, tell));
                // Of a container that runs, the rest may be on its way.
                let is_torn = !log.rest.is_empty() && !self.status(&paths)?.is_running();
                log.damaged += u64::from(is_torn);
                break;
            };
            if tell(Heard::Pause).is_break() || !watch.wait(&process, query.until)? {
                break;
            }
        }
        Ok(log.damaged)
    }
}

fn running(status: Status) -> Option<ProcessRecord> {
    match status {
        Status::Running(process) | Status::Paused(process) => Some(process),
        Status::Created
        | Status::Initialized(_)
        | Status::Restarting(_)
        | Status::Exited(_)
        | Status::Lost(_) => None,
    }
}

/// Why there is nothing to read.
fn unreadable(driver: LogDriver) -> Error {
    let hint = match driver == LogDriver::Passthrough {
        true => {
            "this container was made with --log-driver passthrough: its output went where the command's that started it went"
        }
        false => "this container was made with --log-driver none; attach to see its output",
    };
    Error::unsupported("configured logging driver does not support reading").hint(hint)
}

/// Tells `entry` if its moment is asked for.
fn pass(
    query: &LogQuery,
    entry: &Entry<'_>,
    tell: &mut dyn FnMut(Heard<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    if query.since.is_some() || query.until.is_some() {
        let moment: Option<Timestamp> = entry.time.parse().ok();
        if query.until.is_some_and(|until| moment.is_none_or(|moment| moment > until)) {
            return ControlFlow::Break(());
        }
        if query.since.is_some_and(|since| moment.is_none_or(|moment| moment < since)) {
            return ControlFlow::Continue(());
        }
    }
    tell(Heard::Entry(entry))
}

/// One file of the log. Its inode stays the same when it is rotated.
struct Part {
    file: File,
    identity: Identity,
    /// Where it is, if it is packed and has not been looked into.
    packed: Option<PathBuf>,
    /// Where to read next.
    at: u64,
    /// Where to stop: what is written later is not asked for.
    end: u64,
}

impl Part {
    fn open(path: &Path, endless: bool) -> Result<Option<Self>> {
        let open = |path: &Path| match File::open(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some).at(path),
        };
        if let Some(file) = open(path)? {
            let end = if endless { u64::MAX } else { file.metadata().at(path)?.len() };
            let identity = identity(&file).at(path)?;
            return Ok(Some(Self { file, identity, packed: None, at: 0, end }));
        }
        let path = packed(path);
        let Some(mut file) = open(&path)? else { return Ok(None) };
        let identity = match identity_of_packed(&file) {
            Some(identity) => identity,
            None => identity(&file).at(&path)?,
        };
        file.seek(SeekFrom::Start(0)).at(&path)?;
        Ok(Some(Self { file, identity, packed: Some(path), at: 0, end: u64::MAX }))
    }

    /// What is packed is put into a file that goes with this process.
    fn unpack(&mut self) -> Result<()> {
        let Some(path) = self.packed.take() else { return Ok(()) };
        let near = path.parent().map(tempfile::tempfile_in);
        // Its directory may be gone by now.
        let mut plain = match near {
            Some(Ok(file)) => file,
            _ => tempfile::tempfile().doing("make room for an unpacked log")?,
        };
        let packed = io::BufReader::new(&self.file);
        let unpacked = io::copy(&mut flate2::bufread::MultiGzDecoder::new(packed), &mut plain);
        unpacked.at(&path).doing("unpack the log")?;
        self.file = plain;
        Ok(())
    }

    /// Appends the next block to `buffer`; `false` at the end.
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<bool> {
        self.unpack()?;
        let old = buffer.len();
        let room = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(BLOCK).min(BLOCK);
        buffer.resize(old + room, 0);
        let count = self.file.read_at(&mut buffer[old..], self.at).doing("read the log")?;
        buffer.truncate(old + count);
        self.at += count as u64;
        Ok(count > 0)
    }

    /// Moves to the last `lines` lines; returns how many of them there are not.
    fn skip_to_last(&mut self, lines: u64) -> Result<u64> {
        self.unpack()?;
        let mut missing = lines;
        let mut block = vec![0; BLOCK];
        let mut end = self.file.metadata().doing("read the log")?.len().min(self.end);
        // What follows the last newline is not a line yet.
        let mut last = true;
        while end > 0 {
            let start = end.saturating_sub(BLOCK as u64);
            let size = usize::try_from(end - start).unwrap_or(BLOCK);
            self.file.read_exact_at(&mut block[..size], start).doing("read the log")?;
            for (index, _) in block[..size].iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
                if !std::mem::take(&mut last) && missing > 0 {
                    missing -= 1;
                }
                if missing == 0 {
                    self.at = start + index as u64 + 1;
                    return Ok(0);
                }
            }
            end = start;
        }
        self.at = 0;
        // The first line has no newline before it.
        Ok(if last { missing } else { missing - 1 })
    }
}

impl Part {
    /// Goes back chunk by chunk, until as many lines as are missing end behind `at` and none has
    /// begun before; `false` if that is not in this file, which is then to be read from its start.
    fn back(&mut self, missing: &mut u64) -> Result<bool> {
        self.unpack()?;
        let mut end = self.file.metadata().doing("read the log")?.len().min(self.end);
        let mut chunk = Vec::new();
        let mut tail = [0; 4];
        while end > tail.len() as u64 {
            self.file.read_exact_at(&mut tail, end - 4).doing("read the log")?;
            let Some(start) = Chunk::start(tail, end) else { break };
            chunk.resize(usize::try_from(end - start).unwrap_or(0), 0);
            self.file.read_exact_at(&mut chunk, start).doing("read the log")?;
            // Torn, or being written: whatever it is, reading from the start deals with it.
            let Found::Chunk(chunk, _) = Chunk::first(&chunk) else { break };
            let lines = memchr::memchr_iter(b'\n', chunk.output).count() as u64;
            *missing = missing.saturating_sub(lines);
            end = start;
            if *missing == 0 && !chunk.continues && !chunk.other_continues {
                self.at = start;
                return Ok(true);
            }
        }
        self.at = 0;
        Ok(false)
    }
}

/// The log's files as one stream of lines.
struct Log {
    path: PathBuf,
    format: Format,
    max_file: u32,
    follow: bool,
    /// Oldest first; the first is being read.
    parts: VecDeque<Part>,
    /// The beginning of a line, or chunk, whose end has not been read.
    rest: Vec<u8>,
    /// What is read now belongs to a line that is too long to be one of ours.
    overlong: bool,
    damaged: u64,
    /// So many entries are not told.
    skip: u64,
    /// When the last chunk was written.
    time: String,
}

/// What the log's files look like.
enum Format {
    Lines(Shape),
    /// Chunks, and what has been read of unfinished lines.
    Raw(Lines),
}

impl Log {
    fn open(path: &Path, format: Format, max_file: u32, follow: bool) -> Result<Self> {
        let parts = parts(path, max_file, follow)?;
        let path = path.to_owned();
        Ok(Self {
            path,
            format,
            max_file,
            follow,
            parts,
            rest: Vec::new(),
            overlong: false,
            damaged: 0,
            skip: 0,
            time: String::new(),
        })
    }

    /// `goes_on` if unfinished lines at the end are still to be continued.
    fn skip_to_last(&mut self, lines: u64, goes_on: bool) -> Result<()> {
        if matches!(self.format, Format::Raw(_)) {
            return self.skip_chunks(lines, goes_on);
        }
        let mut missing = lines;
        let mut used = 0;
        for part in self.parts.iter_mut().rev() {
            used += 1;
            missing = part.skip_to_last(missing)?;
            if missing == 0 {
                break;
            }
        }
        self.parts.drain(..self.parts.len() - used);
        Ok(())
    }

    /// As [`skip_to_last`](Self::skip_to_last): back to where no line of the wanted ones begins
    /// earlier, and from there the superfluous are skipped.
    fn skip_chunks(&mut self, lines: u64, goes_on: bool) -> Result<()> {
        let mut missing = lines;
        let mut used = 0;
        for part in self.parts.iter_mut().rev() {
            used += 1;
            if part.back(&mut missing)? {
                break;
            }
        }
        self.parts.drain(..self.parts.len() - used);
        let starts: Vec<u64> = self.parts.iter().map(|part| part.at).collect();
        let (mut entries, mut unfinished) = (0_u64, Lines::default());
        for index in 0..self.parts.len() {
            let mut rest = Vec::new();
            while self.parts[index].read(&mut rest)? {
                let (done, _) = chunks(&rest, &mut |chunk| {
                    let count = |_: &[u8]| {
                        entries += 1;
                        Ok(())
                    };
                    let _ = unfinished.cut_chunk(&chunk, count);
                    ControlFlow::Continue(())
                });
                rest.drain(..done);
            }
        }
        if !goes_on {
            let _ = unfinished.finish(|_, _| {
                entries += 1;
                Ok(())
            });
        }
        for (part, start) in self.parts.iter_mut().zip(starts) {
            part.at = start;
        }
        self.skip = entries.saturating_sub(lines);
        Ok(())
    }

    /// Tells what there is of unfinished lines: nothing more will come.
    fn finish(&mut self, each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>) {
        let Self { format: Format::Raw(lines), time, skip, .. } = self else { return };
        let _ = lines.finish(|is_stderr, piece| tell_piece(is_stderr, piece, time, skip, each));
    }

    /// Tells every line that has been written so far.
    fn read(
        &mut self,
        each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        loop {
            // Asked before the read: nothing is written to a file once it was rotated.
            let superseded = self.superseded()?;
            let Some(part) = self.parts.front_mut() else { return Ok(ControlFlow::Continue(())) };
            let more = part.read(&mut self.rest)?;
            if self.lines(each).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            match superseded {
                _ if more => {}
                true => self.advance()?,
                false if self.rewind()? => {}
                false => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    /// Whether there is a newer file than the one being read.
    fn superseded(&mut self) -> Result<bool> {
        if self.parts.is_empty() {
            // Nothing had been written when the log was opened.
            self.parts = parts(&self.path, self.max_file, self.follow)?;
        }
        match self.parts.front() {
            Some(part) if self.follow && self.parts.len() == 1 => match identity_at(&self.path) {
                Ok(newest) => Ok(newest != part.identity),
                // Between two renames, or removed with its container.
                Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(err) => Err(err).at(&self.path),
            },
            _ => Ok(self.parts.len() > 1),
        }
    }

    /// Tells the lines of the complete chunks of what was read.
    fn chunks(&mut self, each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let Self { format: Format::Raw(lines), rest, time, skip, .. } = self else {
            return ControlFlow::Continue(());
        };
        let mut flow = ControlFlow::Continue(());
        let (done, damaged) = chunks(rest, &mut |chunk| {
            *time = format!("{:.9}", chunk.time);
            let told = lines
                .cut_chunk(&chunk, |piece| tell_piece(chunk.is_stderr, piece, time, skip, each));
            if told.is_err() {
                flow = ControlFlow::Break(());
            }
            flow
        });
        rest.drain(..done);
        self.damaged += damaged;
        flow
    }

    /// Goes on with the next newer file.
    fn advance(&mut self) -> Result<()> {
        self.damaged += u64::from(!self.rest.is_empty() || self.overlong);
        self.rest.clear();
        self.overlong = false;
        if self.parts.len() > 1 {
            self.parts.pop_front();
            return Ok(());
        }
        // It may have been rotated more than once, or dropped, meanwhile.
        let mut newer = parts(&self.path, self.max_file, self.follow)?;
        let current = self.parts.front().map(|part| part.identity);
        if let Some(at) = newer.iter().position(|part| Some(part.identity) == current) {
            newer.drain(..=at);
        }
        if !newer.is_empty() {
            self.parts = newer;
        }
        Ok(())
    }

    /// With `max-file=1` the log is emptied instead of rotated: begins again then.
    fn rewind(&mut self) -> Result<bool> {
        let Some(part) = self.parts.front_mut().filter(|_| self.follow) else { return Ok(false) };
        let emptied = part.file.metadata().doing("read the log")?.len() < part.at;
        if emptied {
            part.at = 0;
            self.rest.clear();
        }
        Ok(emptied)
    }

    /// Tells the complete lines of what was read.
    fn lines(&mut self, each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let shape = match &mut self.format {
            Format::Lines(shape) => shape,
            Format::Raw(_) => return self.chunks(each),
        };
        let mut start = 0;
        let mut flow = ControlFlow::Continue(());
        while flow.is_continue()
            && let Some(length) = memchr::memchr(b'\n', &self.rest[start..])
        {
            let line = &self.rest[start..=start + length];
            start += length + 1;
            let (entry, whole) = shape.parse(line);
            let whole = !std::mem::take(&mut self.overlong) && whole;
            self.damaged += u64::from(!whole);
            if let Some(entry) = entry {
                flow = each(entry);
            }
        }
        self.rest.drain(..start);
        if self.rest.len() > LINE_MAX_ENCODED {
            self.rest.clear();
            self.overlong = true;
        }
        flow
    }
}

/// The complete chunks that `bytes` begin with: how many bytes they are, and how often there was
/// something else.
fn chunks(bytes: &[u8], each: &mut dyn FnMut(Chunk<'_>) -> ControlFlow<()>) -> (usize, u64) {
    let (mut at, mut damaged) = (0, 0);
    while at < bytes.len() {
        match Chunk::first(&bytes[at..]) {
            Found::Part => break,
            Found::Damage(length) => {
                at += length;
                damaged += 1;
            }
            Found::Chunk(chunk, length) => {
                at += length;
                if each(chunk).is_break() {
                    break;
                }
            }
        }
    }
    (at, damaged)
}

/// Tells one line of a chunk, unless it is to be skipped. Breaking off is an error to
/// [`Lines`], of any kind.
fn tell_piece(
    is_stderr: bool,
    piece: &[u8],
    time: &str,
    skip: &mut u64,
    each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> io::Result<()> {
    if *skip > 0 {
        *skip -= 1;
        return Ok(());
    }
    let entry = Entry {
        log: Cow::Borrowed(piece),
        is_stderr,
        time: Cow::Borrowed(time),
        attrs: BTreeMap::new(),
    };
    match each(entry) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// The log's files, oldest first. With `follow` they are read to whatever end they will have.
///
/// Opened newest first, as rotation only moves files to higher numbers: one that moves
/// meanwhile is met twice, never missed.
fn parts(path: &Path, max_file: u32, follow: bool) -> Result<VecDeque<Part>> {
    let mut parts: VecDeque<Part> = VecDeque::new();
    let mut absent = 0;
    for number in 0..max_file.max(1) {
        let name = if number == 0 { path.to_owned() } else { rotated(path, number) };
        match Part::open(&name, follow)? {
            Some(part) if parts.iter().any(|known| known.identity == part.identity) => {}
            Some(part) => parts.push_front(part),
            // Halfway through a rotation one number is free.
            None => absent += 1,
        }
        if absent == 2 {
            break;
        }
    }
    Ok(parts)
}

/// Sleeps until there may be something new.
struct Watch {
    inotify: Inotify,
    processes: Option<Processes>,
}

/// Handles on the processes whose end is the end of the output.
struct Processes {
    of: ProcessRecord,
    /// `None` once they have ended.
    handles: [Option<OwnedFd>; 2],
}

impl Watch {
    fn new(dirs: &[Option<&Path>]) -> Result<Self> {
        let watch = || {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let events = AddWatchFlags::IN_MODIFY
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_MOVE_SELF
                | AddWatchFlags::IN_DELETE_SELF;
            for dir in dirs.iter().flatten() {
                inotify.add_watch(*dir, events)?;
            }
            Ok::<_, nix::errno::Errno>(inotify)
        };
        let inotify = watch().doing("watch the log").map_err(|err| {
            err.hint("if too many files are watched, raise fs.inotify.max_user_instances")
        })?;
        Ok(Self { inotify, processes: None })
    }

    /// `false` if `until` has come.
    fn wait(&mut self, process: &ProcessRecord, until: Option<Timestamp>) -> Result<bool> {
        let timeout = match until.map(|until| until.duration_since(Timestamp::now())) {
            None => PollTimeout::NONE,
            Some(left) if left.is_negative() => return Ok(false),
            // Rounded up, so that the last fraction is not spent spinning.
            Some(left) => PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX),
        };
        let processes = match self.processes.take() {
            Some(known) if known.of == *process => self.processes.insert(known),
            _ => self.processes.insert(Processes {
                of: process.clone(),
                handles: [process.init, process.monitor].map(handle),
            }),
        };
        let mut fds = vec![PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        let handles = processes.handles.iter().flatten();
        fds.extend(handles.map(|handle| PollFd::new(handle.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).doing("wait for output"),
        }
        let mut ended =
            fds[1..].iter().map(|fd| fd.any() == Some(true)).collect::<Vec<_>>().into_iter();
        for handle in processes.handles.iter_mut().filter(|handle| handle.is_some()) {
            if ended.next() == Some(true) {
                *handle = None;
            }
        }
        match self.inotify.read_events() {
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(true),
            Err(errno) => Err(errno).doing("wait for output"),
        }
    }
}

/// `None` if it has ended.
fn handle(process: ProcessIdentity) -> Option<OwnedFd> {
    let handle = open_pidfd(process.pid).ok()?;
    // Checked after the open: from here on the descriptor means this very process.
    lives(process).then_some(handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{
        self,
        log::{LogWriter, RawWriter},
    };

    const JSON: Shape = Shape::Json(BTreeMap::new());

    fn json() -> Format {
        Format::Lines(JSON)
    }

    fn told(log: &mut Log) -> String {
        let mut text = String::new();
        let flow = log.read(&mut |entry| {
            text.push_str(&String::from_utf8_lossy(&entry.log));
            ControlFlow::Continue(())
        });
        assert_eq!(flow, Ok(ControlFlow::Continue(())));
        text
    }

    /// Both kinds of log: who writes it, and how it is read.
    fn kinds(path: &Path, max_size: u64, max_file: u32) -> [(run::log::Log, Format); 2] {
        let other = rotated(path, 0);
        let lines = LogWriter::open(path, JSON, Some(max_size), max_file).expect("open");
        let raw = RawWriter::open(&other, Some(max_size), max_file).expect("open");
        [
            (run::log::Log::File(lines), json()),
            (run::log::Log::Raw(raw), Format::Raw(Lines::default())),
        ]
    }

    fn paths(path: &Path) -> [PathBuf; 2] {
        [path.to_owned(), rotated(path, 0)]
    }

    fn put(writer: &mut run::log::Log, range: std::ops::Range<u32>) -> String {
        range.fold(String::new(), |all, number| {
            let line = format!("line {number}\n");
            writer.write(false, line.as_bytes()).expect("write");
            all + &line
        })
    }

    #[test]
    fn the_last_lines_are_found_across_blocks_and_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        for ((mut writer, _), path) in kinds(&path, 150 << 10, 9).into_iter().zip(paths(&path)) {
            let is_raw = matches!(writer, run::log::Log::Raw(_));
            let all = put(&mut writer, 0..9000);
            assert!(rotated(&path, 1).exists());
            let lines: Vec<&str> = all.split_inclusive('\n').collect();
            for tail in [0, 1, 2, 1000, 3999, 4000, 4001, 8999, 9000, 9001, u64::MAX] {
                let format = if is_raw { Format::Raw(Lines::default()) } else { json() };
                let mut log = Log::open(&path, format, 9, false).expect("open");
                log.skip_to_last(tail, false).expect("skip");
                let tail = usize::try_from(tail).unwrap_or(usize::MAX);
                let from = lines.len() - tail.min(lines.len());
                assert_eq!(told(&mut log), lines[from..].concat(), "{tail}");
                assert_eq!(log.damaged, 0);
            }
        }
    }

    #[test]
    fn the_last_lines_of_a_raw_log_are_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let mut writer = RawWriter::open(&path, None, 1).expect("open");
        for (is_stderr, bytes) in [
            (false, &b"one\ntwo\n"[..]),
            (true, b"a long "),
            (false, b"three\n"),
            (true, b"error"),
            (false, b"four\nfi"),
            (true, b"\n"),
            (false, b"ve"),
        ] {
            writer.write(is_stderr, bytes).expect("write");
        }
        let all = ["one\n", "two\n", "three\n", "four\n", "a long error\n", "five"];
        for tail in 0..=all.len() {
            let format = Format::Raw(Lines::default());
            let mut log = Log::open(&path, format, 1, false).expect("open");
            log.skip_to_last(tail as u64, false).expect("skip");
            let mut text = told(&mut log);
            log.finish(&mut |entry| {
                text.push_str(&String::from_utf8_lossy(&entry.log));
                ControlFlow::Continue(())
            });
            assert_eq!(text, all[all.len() - tail..].concat());
        }
    }

    #[test]
    fn following_crosses_rotations() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        for ((mut writer, format), path) in kinds(&path, 400, 50).into_iter().zip(paths(&path)) {
            let mut log = Log::open(&path, format, 50, true).expect("open");
            let (mut written, mut read) = (String::new(), String::new());
            // Bursts of none to several rotations between two reads.
            for burst in 0..20 {
                written += &put(&mut writer, burst * 100..burst * 100 + burst * burst % 17);
                read += &told(&mut log);
            }
            assert_eq!(read, written);
            assert_eq!(log.damaged, 0);
        }
    }

    #[test]
    fn an_emptied_log_is_read_from_its_start() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        for ((mut writer, format), path) in kinds(&path, 400, 1).into_iter().zip(paths(&path)) {
            let mut log = Log::open(&path, format, 1, true).expect("open");
            put(&mut writer, 0..3);
            assert_eq!(told(&mut log), "line 0\nline 1\nline 2\n");
            put(&mut writer, 3..40);
            let after = told(&mut log);
            assert!(after.ends_with("line 39\n"), "{after}");
        }
    }

    #[test]
    fn torn_lines_cost_only_themselves() {
        let entry = |text: &str| {
            format!(r#"{{"log":"{text}\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}}"#)
        };
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log.json");
        let long = "x".repeat(3 * LINE_MAX_ENCODED);
        let text = format!(
            "{}\n{}{}\n{long}{}\n\0\0\n{}\n{}",
            entry("a"),
            &entry("torn")[..20],
            entry("b"),
            entry("lost"),
            entry("c"),
            &entry("torn")[..30]
        );
        std::fs::write(&path, text).expect("write");
        let mut log = Log::open(&path, json(), 1, false).expect("open");
        let told = told(&mut log);
        assert!(told.starts_with("a\nb\n") && told.ends_with("c\n"), "{told}");
        assert_eq!(log.damaged, 3);
        assert!(!log.rest.is_empty(), "what may still be completed is kept");
    }
}
