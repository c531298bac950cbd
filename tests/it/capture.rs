//! What a process writes, gathered while it runs, so that nobody waits without a deadline.

use std::{
    io::Read,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Longer than anything a test does on a loaded machine, shorter than patience.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The growing output of one stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capture(Arc<(Mutex<Seen>, Condvar)>);

#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: bool,
}

impl Capture {
    /// Reads `stream` to its end in a thread of its own. EIO is the end of a terminal.
    pub(crate) fn of(mut stream: impl Read + Send + 'static) -> Self {
        let capture = Self::default();
        let writer = capture.clone();
        thread::spawn(move || {
            let mut piece = [0; 16 * 1024];
            while let Ok(n @ 1..) = stream.read(&mut piece) {
                writer.update(|seen| seen.bytes.extend_from_slice(&piece[..n]));
            }
            writer.update(|seen| seen.ended = true);
        });
        capture
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    /// Waits until `enough` finds what it looks for in the output so far. `None` is a stream that
    /// ended, or time that ran out, without it.
    pub(crate) fn wait<T>(
        &self,
        limit: Duration,
        enough: impl Fn(&[u8], bool) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut seen = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = enough(&seen.bytes, seen.ended) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if seen.ended || left.is_zero() {
                return None;
            }
            seen = self.0.1.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The whole output, once the stream has ended; `None` if it has not within `limit`.
    pub(crate) fn whole(&self, limit: Duration) -> Option<Vec<u8>> {
        self.wait(limit, |bytes, ended| ended.then(|| bytes.to_vec()))
    }

    /// What has been written so far.
    pub(crate) fn so_far(&self) -> String {
        self.wait(Duration::ZERO, |bytes, _| Some(String::from_utf8_lossy(bytes).into_owned()))
            .unwrap_or_default()
    }
}
