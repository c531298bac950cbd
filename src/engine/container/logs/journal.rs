//! A container's output, read back from systemd's journal by `journalctl(1)`.
//!
//! Entries arrive in the journal's export format (systemd.io, "Journal Export Format"). The monitor
//! sends one behind the last output that says so: what is asked of a container that has ended is
//! complete when that one has arrived, and following ends there.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    io::{ErrorKind, Read as _},
    ops::ControlFlow,
    os::fd::AsFd as _,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{BLOCK, Heard, LogQuery, handle, pass, running};
use crate::{
    engine::{Engine, container::Status},
    error::{Context as _, Error, Result},
    run::log::{Entry, JOURNAL_END, is_own_field},
    state::{ContainerId, layout::ContainerPaths},
};

/// For what is on its way from a container that has ended to the journal.
const PATIENCE: Duration = Duration::from_secs(2);

type Tell<'a> = &'a mut dyn FnMut(Heard<'_>) -> ControlFlow<()>;

impl Engine {
    /// As [`logs`](Self::logs).
    pub(super) fn journal_logs(
        &self,
        id: &ContainerId,
        query: &LogQuery,
        tell: Tell<'_>,
    ) -> Result<()> {
        let paths = self.layout.container(id);
        let status = self.status(&paths)?;
        let wanted = Wanted { id, query, since: status.started() };
        let mut kept = Kept { limit: query.tail, entries: VecDeque::new() };
        let mut past = Reader::start(id, None, false)?;
        let mut ended = false;
        while let Some(found) = past.next(None)? {
            ended = wanted.is_end(&found);
            if !ended && kept.take(found, &wanted, tell).is_break() {
                return Ok(());
            }
        }
        past.finish()?;
        // One that has ended may have written more than the journal has got yet.
        let awaited = match &status {
            Status::Running(_) | Status::Paused(_) => query.follow,
            Status::Exited(state) => !ended && state.started.is_some() && state.error.is_empty(),
            Status::Created | Status::Initialized(_) | Status::Restarting(_) | Status::Lost(_) => {
                false
            }
        };
        if status.process().is_some() {
            kept.tell(&wanted, tell)?;
        }
        if awaited && !ended {
            let cursor = past.cursor.take();
            self.rest_of_journal(&paths, &wanted, cursor, &mut kept, tell)?;
        }
        kept.tell(&wanted, tell)
    }

    /// What comes from now on, until the container's last output has come.
    fn rest_of_journal(
        &self,
        paths: &ContainerPaths,
        wanted: &Wanted<'_>,
        cursor: Option<String>,
        kept: &mut Kept,
        tell: Tell<'_>,
    ) -> Result<()> {
        let mut reader = Reader::start(wanted.id, cursor.as_deref(), true)?;
        let until = wanted.query.until;
        loop {
            let process = running(self.status(paths)?);
            let init = process.and_then(|process| handle(process.init));
            let patience = match (&init, until) {
                (None, _) => Some(PATIENCE),
                (_, None) => None,
                (_, Some(until)) => {
                    let left = until.duration_since(Timestamp::now());
                    Some(Duration::try_from(left).unwrap_or_default())
                }
            };
            if tell(Heard::Pause).is_break() {
                return Ok(());
            }
            match reader.await_more(init.as_ref().map(|init| init.as_fd()), patience)? {
                Waited::InTime => {}
                Waited::Ended => continue,
                Waited::TooLong => return Ok(()),
            }
            while let Some(found) = reader.next(Some(Duration::ZERO))? {
                if wanted.is_end(&found) || kept.take(found, wanted, tell).is_break() {
                    return Ok(());
                }
            }
            if reader.is_over {
                return Ok(());
            }
        }
    }
}

struct Wanted<'a> {
    id: &'a ContainerId,
    query: &'a LogQuery,
    /// When the life began whose end is awaited.
    since: Option<Timestamp>,
}

impl Wanted<'_> {
    /// Whether nothing of the container's last life follows.
    fn is_end(&self, found: &Found) -> bool {
        found.is_end && self.since.is_none_or(|since| found.time >= since)
    }
}

/// Entries that wait until it is known which are the last.
struct Kept {
    limit: Option<u64>,
    entries: VecDeque<Found>,
}

impl Kept {
    fn take(&mut self, found: Found, wanted: &Wanted<'_>, tell: Tell<'_>) -> ControlFlow<()> {
        if found.is_end {
            return ControlFlow::Continue(());
        }
        let Some(limit) = self.limit else { return found.tell(wanted.query, tell) };
        self.entries.push_back(found);
        if self.entries.len() as u64 > limit {
            self.entries.pop_front();
        }
        ControlFlow::Continue(())
    }

    /// Tells those that are kept; from then on nothing is.
    fn tell(&mut self, wanted: &Wanted<'_>, tell: Tell<'_>) -> Result<()> {
        self.limit = None;
        for found in self.entries.drain(..) {
            if found.tell(wanted.query, tell).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// An entry of the journal.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    time: Timestamp,
    message: Vec<u8>,
    is_stderr: bool,
    is_end: bool,
    attrs: BTreeMap<String, String>,
}

impl Found {
    fn tell(&self, query: &LogQuery, tell: Tell<'_>) -> ControlFlow<()> {
        let entry = Entry {
            log: Cow::Borrowed(&self.message),
            is_stderr: self.is_stderr,
            time: Cow::Owned(format!("{:.9}", self.time)),
            attrs: self
                .attrs
                .iter()
                .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                .collect(),
        };
        pass(query, &entry, tell)
    }
}

/// What `await_more` has waited for.
enum Waited {
    /// There is something to be read.
    InTime,
    /// The container has ended.
    Ended,
    TooLong,
}

/// `journalctl` at work; it ends with this.
struct Reader {
    child: Child,
    stdout: ChildStdout,
    bytes: Vec<u8>,
    /// Where the last entry was.
    cursor: Option<String>,
    /// It writes no more.
    is_over: bool,
}

impl Reader {
    fn start(id: &ContainerId, cursor: Option<&str>, follow: bool) -> Result<Self> {
        let mut command = Command::new("journalctl");
        command.args(["--quiet", "--no-pager", "--output=export", "--lines=all"]);
        command.args(follow.then_some("--follow"));
        command.args(cursor.map(|cursor| format!("--after-cursor={cursor}")));
        // Either of the two.
        command.args([
            format!("CONTAINER_ID_FULL={id}"),
            "+".into(),
            format!("{JOURNAL_END}={id}"),
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|err| {
            Error::from(err)
                .context("read the journal with journalctl")
                .hint("it comes with systemd; the container's output is in the journal only")
        })?;
        let stdout =
            child.stdout.take().ok_or_else(|| Error::engine("journalctl has no output"))?;
        rustix::io::ioctl_fionbio(&stdout, true).doing("make a descriptor non-blocking")?;
        Ok(Self { child, stdout, bytes: Vec::new(), cursor: None, is_over: false })
    }

    /// The next entry; `None` if there is none in time, or at the end.
    fn next(&mut self, patience: Option<Duration>) -> Result<Option<Found>> {
        loop {
            if let Some((found, length)) = parse(&self.bytes, &mut self.cursor) {
                self.bytes.drain(..length);
                return Ok(Some(found));
            }
            if self.is_over {
                return Ok(None);
            }
            if let Waited::TooLong = self.await_more(None, patience)? {
                return Ok(None);
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<()> {
        let old = self.bytes.len();
        self.bytes.resize(old + BLOCK, 0);
        let count = match self.stdout.read(&mut self.bytes[old..]) {
            Ok(0) => {
                self.is_over = true;
                0
            }
            Ok(count) => count,
            Err(err) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&err.kind()) => 0,
            Err(err) => return Err(err).doing("read the journal"),
        };
        self.bytes.truncate(old + count);
        Ok(())
    }

    fn await_more(
        &self,
        init: Option<std::os::fd::BorrowedFd<'_>>,
        patience: Option<Duration>,
    ) -> Result<Waited> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = match left {
                None => PollTimeout::NONE,
                // Rounded up, so that the last fraction is not spent spinning.
                Some(left) if left.is_zero() => PollTimeout::ZERO,
                Some(left) => PollTimeout::try_from(left + Duration::from_millis(1))
                    .unwrap_or(PollTimeout::MAX),
            };
            let mut fds = vec![PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
            fds.extend(init.map(|init| PollFd::new(init, PollFlags::POLLIN)));
            match poll(&mut fds, timeout) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(Waited::TooLong),
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(errno).doing("wait for the journal"),
                Ok(_) if fds[0].any() == Some(true) => return Ok(Waited::InTime),
                Ok(_) => return Ok(Waited::Ended),
            }
        }
    }

    /// Whether it could read at all.
    fn finish(&mut self) -> Result<()> {
        match self.child.wait().doing("wait for journalctl")?.success() {
            true => Ok(()),
            false => Err(Error::engine("journalctl could not read the journal")
                .hint("`journalctl` by itself says why")),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The entry that `bytes` begin with, and its length: lines `FIELD=value`, or a field's name, eight
/// bytes of length and a value with newlines, and an empty line.
fn parse(bytes: &[u8], cursor: &mut Option<String>) -> Option<(Found, usize)> {
    let mut found = Found::default();
    let mut is_partial = false;
    let mut at = 0;
    loop {
        let end = at + memchr::memchr(b'\n', &bytes[at..])?;
        let line = &bytes[at..end];
        at = end + 1;
        if line.is_empty() {
            // Only what the container's line ended with ends ours.
            if !found.is_end && !is_partial {
                found.message.push(b'\n');
            }
            return Some((found, at));
        }
        let (name, value) = match memchr::memchr(b'=', line) {
            Some(equals) => (&line[..equals], &line[equals + 1..]),
            None => {
                let length = u64::from_le_bytes(*bytes[at..].first_chunk()?);
                let start = at + 8;
                let end = start.checked_add(usize::try_from(length).ok()?)?;
                let value = bytes.get(start..end)?;
                // And the newline behind it.
                bytes.get(end)?;
                at = end + 1;
                (line, value)
            }
        };
        let text = || String::from_utf8_lossy(value).into_owned();
        match name {
            b"__CURSOR" => *cursor = Some(text()),
            b"__REALTIME_TIMESTAMP" if found.time == Timestamp::default() => {
                let micros = text().parse().ok();
                let time = micros.and_then(|micros| Timestamp::from_microsecond(micros).ok());
                found.time = time.unwrap_or_default();
            }
            // The monitor's own, which is earlier and finer.
            b"SYSLOG_TIMESTAMP" => found.time = text().parse().unwrap_or(found.time),
            b"PRIORITY" => found.is_stderr = value == b"3",
            b"MESSAGE" => found.message = value.to_vec(),
            b"CONTAINER_PARTIAL_MESSAGE" => is_partial = value == b"true",
            name if name == JOURNAL_END.as_bytes() => found.is_end = true,
            name => {
                let name = String::from_utf8_lossy(name);
                if !is_own_field(&name) {
                    found.attrs.insert(name.into_owned(), text());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_whole() {
        let mut bytes = b"__CURSOR=s=1\n__REALTIME_TIMESTAMP=1000000\n_PID=1\nPRIORITY=3\n\
            CONTAINER_NAME=a\nLABEL=x\nMESSAGE\n"
            .to_vec();
        bytes.extend(5_u64.to_le_bytes());
        bytes.extend(b"o\nne\n\n\n");
        let first = bytes.len();
        bytes.extend(b"CONTAINER_LOG_END=ID\n__REALTIME_TIMESTAMP=2000000\n\n");
        let mut cursor = None;
        for end in 0..first {
            assert!(parse(&bytes[..end], &mut cursor).is_none(), "{end}");
        }
        let (found, length) = parse(&bytes, &mut cursor).expect("an entry");
        assert_eq!((length, cursor.as_deref()), (first, Some("s=1")));
        assert_eq!(found.message, b"o\nne\n\n");
        assert!(found.is_stderr && !found.is_end);
        assert_eq!(found.time.as_second(), 1);
        assert_eq!(found.attrs.into_iter().collect::<Vec<_>>(), [("LABEL".into(), "x".into())]);
        let (end, _) = parse(&bytes[first..], &mut cursor).expect("an entry");
        assert!(end.is_end && end.message.is_empty());
        assert_eq!(end.time.as_second(), 2);
    }
}
