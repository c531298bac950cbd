//! What has happened: one line of JSON for each event, appended to a file.
//!
//! Whoever changes something writes its line with a single `write(2)` to a file opened with
//! `O_APPEND`: lines of several writers do not mix (open(2)). A file that has grown long is
//! renamed, and the one before it forgotten. Nobody waits for anybody, and an event that cannot
//! be written is lost: telling must not keep anything from being done.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};

use super::{Layout, record::ContainerRecord, store::create_private_dir};
use crate::error::{Context as _, Result};

/// Bytes after which a new file is begun.
const LONG: u64 = 1 << 20;

/// One event, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub time: Timestamp,
    /// `container` or `image`.
    pub kind: String,
    /// `create`, `start`, `die`, ...
    pub action: String,
    /// Of whom it is told.
    pub id: String,
    /// Names, labels, exit codes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// Something that happens now.
    pub fn now(kind: &str, action: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            time: Timestamp::now(),
            kind: kind.to_owned(),
            action: action.into(),
            id: id.into(),
            attributes: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.attributes.insert(key.to_owned(), value.into());
        self
    }
}

/// What has happened to a container, with docker's attributes: its labels, image and name.
pub fn of_container(record: &ContainerRecord, action: impl Into<String>) -> Event {
    let mut event = Event::now("container", action, record.id.as_str());
    event.attributes.clone_from(&record.config.labels);
    event.with("image", &record.image).with("name", &record.name)
}

/// Appends an event; see the head of this file for what becomes of one that cannot be.
pub fn append(layout: &Layout, event: &Event) {
    append_all(layout, std::slice::from_ref(event));
}

/// Appends events that belong together, with one write.
pub fn append_all(layout: &Layout, events: &[Event]) {
    if let Err(err) = try_append(layout, events) {
        log::debug!("an event is lost: {err}");
    }
}

fn try_append(layout: &Layout, events: &[Event]) -> Result<()> {
    let path = layout.journal();
    let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let mut file = match open() {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            create_private_dir(&layout.events())?;
            open()
        }
        file => file,
    }
    .at(&path)?;
    let mut lines = Vec::new();
    for event in events {
        serde_json::to_writer(&mut lines, event)?;
        lines.push(b'\n');
    }
    file.write_all(&lines).at(&path)?;
    let about = file.metadata().at(&path)?;
    if about.len() > LONG && file.try_lock().is_ok() {
        // Only the file that is still in its place, so that of two writers one renames it.
        if fs::metadata(&path).is_ok_and(|there| there.ino() == about.ino()) {
            fs::rename(&path, layout.old_journal()).at(&path)?;
        }
    }
    Ok(())
}

/// Reads the journal from its beginning, and goes on with what is added.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    inotify: Inotify,
    file: Option<File>,
    /// The beginning of a line whose rest has not come yet.
    rest: Vec<u8>,
    /// What the old file held when reading began.
    old: Vec<u8>,
}

impl Reader {
    /// Watches before it reads, so that nothing happens unseen.
    pub fn open(layout: &Layout) -> Result<Self> {
        create_private_dir(&layout.events())?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .doing("watch the journal")?;
        let news = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(&layout.events(), news).doing("watch the journal")?;
        let old = fs::read(layout.old_journal()).unwrap_or_default();
        let path = layout.journal();
        Ok(Self { file: File::open(&path).ok(), path, inotify, rest: Vec::new(), old })
    }

    /// Everything that has been added since the last call, oldest first. Lines that a crash has
    /// torn are passed over.
    pub fn read(&mut self) -> Result<Vec<Event>> {
        // Taken before reading: what comes later makes it readable again.
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        let mut bytes = std::mem::take(&mut self.old);
        bytes.append(&mut self.rest);
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut bytes).at(&self.path)?;
        }
        let there = fs::metadata(&self.path).ok().map(|about| about.ino());
        let held = match &self.file {
            Some(file) => file.metadata().ok().map(|about| about.ino()),
            None => None,
        };
        if there != held {
            // Renamed: the last lines of the old one were read just now.
            self.file = File::open(&self.path).ok();
            if let Some(file) = &mut self.file {
                file.read_to_end(&mut bytes).at(&self.path)?;
            }
        }
        let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        self.rest = bytes.split_off(end);
        let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Readable when there may be more.
    pub fn news(&self) -> &Inotify {
        &self.inotify
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_back_and_outlive_a_long_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout::new(dir.path(), dir.path().join("run"));
        let event = Event::now("container", "start", "abc").with("name", "x".repeat(1000));
        append(&layout, &event);
        let mut reader = Reader::open(&layout).expect("open");
        assert_eq!(reader.read().expect("read"), std::slice::from_ref(&event));
        assert_eq!(reader.read().expect("read"), []);
        let mut count = 0;
        for _ in 0..2500 {
            append(&layout, &event);
            count += reader.read().expect("read").len();
        }
        assert_eq!(count, 2500);
        let size = |path: PathBuf| fs::metadata(path).expect("stat").len();
        assert!(size(layout.journal()) < 2 * LONG && size(layout.old_journal()) < 2 * LONG);
        let kept = Reader::open(&layout).expect("open").read().expect("read").len();
        assert!((1000..2501).contains(&kept), "{kept}");
    }

    #[test]
    fn a_torn_line_hides_no_other() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layout = Layout::new(dir.path(), dir.path().join("run"));
        let event = Event::now("image", "pull", "x");
        append(&layout, &event);
        let mut file = OpenOptions::new().append(true).open(layout.journal()).expect("open");
        file.write_all(b"{\"time\":\"20\n").expect("write");
        append(&layout, &event);
        let mut reader = Reader::open(&layout).expect("open");
        assert_eq!(reader.read().expect("read"), [event.clone(), event]);
    }
}
