//! What `log` messages become: lines on stderr, warnings always, the rest with `--debug`.
//!
//! One `write(2)` a line and nothing buffered, so that a fork copies nothing twice.

use std::io::Write as _;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::output::visible;

struct Messages;

static MESSAGES: Messages = Messages;

/// Lets messages through from now on.
pub(super) fn listen(level: LevelFilter) {
    // A second call keeps the first logger; only the level matters then.
    let _ = log::set_logger(&MESSAGES);
    log::set_max_level(level);
}

impl Log for Messages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries have much to say that is of no use to a user.
        metadata.level() <= Level::Warn || metadata.target().starts_with("dhow")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error | Level::Warn => "warning",
            Level::Info | Level::Debug | Level::Trace => "debug",
        };
        let text = record.args().to_string();
        let line = format!("{level}: {}\n", visible(&text));
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
