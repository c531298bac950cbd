//! What a build tells on stderr while it runs, in BuildKit's manner: a live view on a terminal,
//! lines elsewhere, JSON for programs; and a timeline in a file.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::super::output::visible;
use crate::{
    engine::build::{Ended, Watch},
    error::{Context as _, Error, Result},
    oci::{Digest, Platform},
};

/// How it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Live,
    Plain,
    Json,
    Nothing,
}

impl Show {
    /// `--progress`; `quiet` wins.
    pub(super) fn parse(text: &str, quiet: bool) -> Result<Self> {
        let show = match text {
            "auto" => {
                let is_dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
                if io::stderr().is_terminal() && !is_dumb { Self::Live } else { Self::Plain }
            }
            "plain" => Self::Plain,
            "tty" if io::stderr().is_terminal() || quiet => Self::Live,
            "tty" => {
                return Err(Error::invalid("--progress tty: stderr is no terminal")
                    .hint("--progress plain writes lines"));
            }
            "rawjson" => Self::Json,
            "quiet" | "none" => Self::Nothing,
            other => {
                return Err(Error::invalid(format!("invalid progress mode: {other}"))
                    .hint("there are auto, plain, tty, rawjson and quiet"));
            }
        };
        Ok(if quiet { Self::Nothing } else { show })
    }
}

/// Lines of a running step's output that the live view shows.
const LOG_ROWS: usize = 6;
/// Lines of a failed step's output that are shown again.
const FAILED_ROWS: usize = 40;
/// The clock of the live view.
const TICK: Duration = Duration::from_millis(100);
/// The live view is drawn no more often, unless something begins or ends.
const OFTEN: Duration = Duration::from_millis(80);

/// Hears what a build does.
pub(super) struct Progress {
    show: Show,
    begun: Instant,
    trace: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: BTreeMap<usize, Step>,
    /// Rows of the live view that are on the screen.
    rows: usize,
    /// Steps of earlier platforms, and what tells this one's.
    base: usize,
    prefix: String,
    drawn: Option<Instant>,
    is_finished: bool,
}

struct Step {
    label: String,
    begun: Instant,
    since: Timestamp,
    ended: Option<(Ended, Duration)>,
    /// The line it has not finished.
    rest: Vec<u8>,
    /// The last lines.
    log: VecDeque<String>,
    /// Of the timeline: steps that run at once are in rows of their own.
    lane: usize,
}

impl Progress {
    pub(super) fn new(show: Show, trace: Option<PathBuf>) -> Self {
        Self { show, begun: Instant::now(), trace, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last view, and the timeline. Nothing is told afterwards.
    pub(super) fn finish(&self) -> Result<()> {
        let mut state = self.state();
        if std::mem::replace(&mut state.is_finished, true) {
            return Ok(());
        }
        if self.show == Show::Live && !state.steps.is_empty() {
            let rows = state.view(self.begun.elapsed(), true, screen());
            state.put(&rows, true);
        }
        let Some(path) = &self.trace else { return Ok(()) };
        let text = serde_json::to_vec(&state.trace(self.begun))?;
        fs::write(path, text).at(path).doing("write --trace")
    }

    /// Does `build`; the view's times go on meanwhile.
    pub(super) fn during<T>(&self, build: impl FnOnce() -> T) -> T {
        if self.show != Show::Live {
            return build();
        }
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let clock = thread::Builder::new().spawn_scoped(scope, || {
                while !done.load(Ordering::Relaxed) {
                    thread::park_timeout(TICK);
                    self.draw(&mut self.state(), false);
                }
            });
            let built = build();
            done.store(true, Ordering::Relaxed);
            // Without a thread, times only change with what else does.
            if let Ok(clock) = clock {
                clock.thread().unpark();
            }
            built
        })
    }

    /// What comes is another platform's; its steps are counted after those before.
    pub(super) fn next(&self, platform: Option<&Platform>) {
        let mut state = self.state();
        state.base = state.steps.keys().next_back().copied().unwrap_or_default();
        state.prefix = platform.map_or_else(String::new, |platform| format!("{platform} "));
    }

    fn draw(&self, state: &mut State, now: bool) {
        if self.show != Show::Live || state.is_finished {
            return;
        }
        if !now && state.drawn.is_some_and(|at| at.elapsed() < OFTEN) {
            return;
        }
        state.drawn = Some(Instant::now());
        let rows = state.view(self.begun.elapsed(), false, screen());
        state.put(&rows, false);
    }

    fn line(&self, number: usize, step: &mut Step, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        // What a bar draws over itself is its last state.
        let text = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
        let text = format!("{:.3} {}", step.begun.elapsed().as_secs_f64(), visible(text));
        if self.show == Show::Plain {
            note(&format!("#{number} {text}"));
        }
        step.log.push_back(text);
        if step.log.len() > FAILED_ROWS {
            step.log.pop_front();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Who could hear of an error has called it before.
        let _ = self.finish();
    }
}

impl Watch for Progress {
    fn begins(&self, number: usize, label: &str) {
        let mut state = self.state();
        let number = state.base + number;
        let label = match label.strip_prefix('[') {
            Some(rest) => format!("[{}{rest}", state.prefix),
            None => label.to_owned(),
        };
        let busy: Vec<usize> =
            state.steps.values().filter(|s| s.ended.is_none()).map(|s| s.lane).collect();
        let step = Step {
            label: visible(&label).into_owned(),
            begun: Instant::now(),
            since: Timestamp::now(),
            ended: None,
            rest: Vec::new(),
            log: VecDeque::new(),
            lane: (0..).find(|lane| !busy.contains(lane)).unwrap_or_default(),
        };
        match self.show {
            Show::Plain => note(&format!("#{number} {}", step.label)),
            Show::Json => note(&json!({ "vertexes": [step.vertex(number)] }).to_string()),
            Show::Live | Show::Nothing => {}
        }
        state.steps.insert(number, step);
        self.draw(&mut state, true);
    }

    fn says(&self, number: usize, bytes: &[u8]) {
        let mut state = self.state();
        let number = state.base + number;
        let Some(step) = state.steps.get_mut(&number) else { return };
        if self.show == Show::Json {
            let log = json!({
                "vertex": step.digest(number), "stream": 1, "data": STANDARD.encode(bytes),
                "timestamp": Timestamp::now().to_string(),
            });
            return note(&json!({ "logs": [log] }).to_string());
        }
        step.rest.extend(bytes);
        while let Some(end) = step.rest.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = step.rest.drain(..=end).collect();
            self.line(number, step, &line[..end]);
        }
        self.draw(&mut state, false);
    }

    fn ends(&self, number: usize, how: Ended) {
        let mut state = self.state();
        let number = state.base + number;
        let Some(step) = state.steps.get_mut(&number) else { return };
        let rest = std::mem::take(&mut step.rest);
        if !rest.is_empty() {
            self.line(number, step, &rest);
        }
        step.ended = Some((how, step.begun.elapsed()));
        match (self.show, how) {
            (Show::Plain, Ended::Done(time)) => {
                note(&format!("#{number} DONE {:.1}s\n", time.as_secs_f64()));
            }
            (Show::Plain, Ended::Cached) => note(&format!("#{number} CACHED\n")),
            (Show::Plain, Ended::Failed) => note(&format!("#{number} ERROR\n")),
            (Show::Json, _) => note(&json!({ "vertexes": [step.vertex(number)] }).to_string()),
            (Show::Live | Show::Nothing, _) => {}
        }
        self.draw(&mut state, true);
    }

    fn warns(&self, text: &str) {
        let text = format!("[Warning] {}", visible(text));
        match self.show {
            Show::Json => {
                let short = STANDARD.encode(&text);
                note(&json!({ "warnings": [{ "level": 1, "short": short }] }).to_string());
            }
            // `--quiet` is about progress.
            Show::Live | Show::Plain | Show::Nothing => {
                let mut state = self.state();
                state.put(&[], false);
                note(&text);
                if !state.steps.is_empty() {
                    self.draw(&mut state, true);
                }
            }
        }
    }
}

impl Step {
    /// What tells it from others.
    fn digest(&self, number: usize) -> Digest {
        Digest::of(format!("{number} {}", self.label).as_bytes())
    }

    /// BuildKit's `SolveStatus.vertexes`.
    fn vertex(&self, number: usize) -> Value {
        let mut vertex = json!({
            "digest": self.digest(number), "name": self.label,
            "started": self.since.to_string(),
        });
        if let Some((how, _)) = self.ended {
            vertex["completed"] = json!(Timestamp::now().to_string());
            match how {
                Ended::Cached => vertex["cached"] = json!(true),
                Ended::Failed => vertex["error"] = json!("failed"),
                Ended::Done(_) => {}
            }
        }
        vertex
    }

    /// Its row of the live view.
    fn row(&self, columns: usize) -> String {
        let (mark, time) = match self.ended {
            Some((Ended::Cached, _)) => ("CACHED ", Duration::ZERO),
            Some((Ended::Failed, time)) => ("ERROR ", time),
            Some((Ended::Done(_), time)) => ("", time),
            None => ("", self.begun.elapsed()),
        };
        between(&format!(" => {mark}{}", self.label), time, columns)
    }
}

/// Text on the left and a time on the right.
fn between(left: &str, time: Duration, columns: usize) -> String {
    let right = format!("{:.1}s", time.as_secs_f64());
    let room = columns.saturating_sub(right.len() + 1);
    let left: String = left.chars().take(room).collect();
    let gap = room - left.chars().count() + 1;
    format!("{left}{}{right}", " ".repeat(gap))
}

impl State {
    /// The rows of the live view, for a screen of so many rows and columns.
    fn view(&self, time: Duration, last: bool, (rows, columns): (usize, usize)) -> Vec<String> {
        let done = self.steps.values().filter(|step| step.ended.is_some()).count();
        let word = if last { " FINISHED" } else { "" };
        let heading =
            format!("[+] Building {:.1}s ({done}/{}){word}", time.as_secs_f64(), self.steps.len());
        let mut view = vec![heading];
        let mut body: Vec<(bool, Vec<String>)> = Vec::new();
        for step in self.steps.values() {
            let mut lines = vec![step.row(columns)];
            if step.ended.is_none() && !last {
                let skipped = step.log.len().saturating_sub(LOG_ROWS);
                let log = step.log.iter().skip(skipped);
                lines.extend(log.map(|line| {
                    format!(" => => # {line}").chars().take(columns).collect::<String>()
                }));
            }
            body.push((step.ended.is_some(), lines));
        }
        if !last {
            // What does not fit is what was finished first.
            let room = rows.saturating_sub(2).max(1);
            let mut size: usize = body.iter().map(|(_, lines)| lines.len()).sum();
            body.retain(|(is_finished, lines)| {
                let goes = *is_finished && size > room;
                if goes {
                    size -= lines.len();
                }
                !goes
            });
            let mut lines: Vec<String> = body.into_iter().flat_map(|(_, lines)| lines).collect();
            lines.drain(..lines.len().saturating_sub(room));
            view.extend(lines);
            return view;
        }
        view.extend(body.into_iter().flat_map(|(_, lines)| lines));
        for step in self.steps.values() {
            if matches!(step.ended, Some((Ended::Failed, _))) {
                view.push("------".into());
                view.push(format!(" > {}:", step.label));
                view.extend(step.log.iter().cloned());
                view.push("------".into());
            }
        }
        view
    }

    /// Draws the rows over those that are there; the cursor is hidden until the last.
    fn put(&mut self, rows: &[String], last: bool) {
        let mut text = String::new();
        if self.rows > 0 {
            text.push_str(&format!("\x1b[{}A\r\x1b[J", self.rows));
        } else if !rows.is_empty() {
            text.push_str("\x1b[?25l");
        }
        for row in rows {
            text.push_str(row);
            text.push_str("\r\n");
        }
        if last || (rows.is_empty() && self.rows > 0) {
            text.push_str("\x1b[?25h");
        }
        self.rows = if last { 0 } else { rows.len() };
        if !text.is_empty() {
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }

    /// Trace Event Format, complete events: opens in about:tracing and Perfetto.
    fn trace(&self, begun: Instant) -> Value {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let events = self.steps.iter().map(|(number, step)| {
            let (how, time) = match step.ended {
                Some((Ended::Cached, time)) => ("cached", time),
                Some((Ended::Failed, time)) => ("failed", time),
                Some((Ended::Done(_), time)) => ("done", time),
                None => ("interrupted", step.begun.elapsed()),
            };
            json!({
                "name": step.label, "cat": "build", "ph": "X", "pid": 1, "tid": step.lane + 1,
                "ts": micros(step.begun.saturating_duration_since(begun)), "dur": micros(time),
                "args": { "step": number, "outcome": how },
            })
        });
        json!({ "traceEvents": events.collect::<Vec<_>>(), "displayTimeUnit": "ms" })
    }
}

/// Rows and columns of the terminal.
fn screen() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            (usize::from(size.ws_row), usize::from(size.ws_col))
        }
        _ => (24, 80),
    }
}

/// To stderr; a reader that has gone is no reason to stop.
pub(super) fn note(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(steps: usize) -> Progress {
        let progress = Progress::new(Show::Nothing, None);
        for number in 1..=steps {
            progress.begins(number, &format!("[{number}/{steps}] RUN step {number}"));
        }
        progress
    }

    #[test]
    fn the_view_fits_the_screen_and_keeps_what_runs() {
        let progress = progress(30);
        for number in 1..=28 {
            progress.ends(number, Ended::Cached);
        }
        progress.says(30, b"one\ntwo\n50%\r100%\nhalf");
        let rows = progress.state().view(Duration::from_millis(1234), false, (10, 40));
        assert_eq!(rows.len(), 9);
        assert_eq!(rows[0], "[+] Building 1.2s (28/30)");
        assert!(rows.iter().all(|row| row.chars().count() <= 40), "{rows:?}");
        assert!(rows[4].starts_with(" => [29/30] RUN step 29"), "{rows:?}");
        assert!(rows[8].starts_with(" => => # ") && rows[8].ends_with("100%"), "{rows:?}");
        progress.ends(29, Ended::Failed);
        progress.ends(30, Ended::Done(Duration::ZERO));
        let rows = progress.state().view(Duration::ZERO, true, (10, 40));
        assert_eq!(rows[0], "[+] Building 0.0s (30/30) FINISHED");
        assert_eq!(rows[1], format!(" => CACHED [1/30] RUN step 1{}0.0s", " ".repeat(8)));
        assert_eq!(rows[32], " > [29/30] RUN step 29:");
    }

    #[test]
    fn steps_at_once_have_lanes_of_their_own() {
        let progress = progress(2);
        progress.ends(1, Ended::Done(Duration::ZERO));
        progress.begins(3, "three");
        let trace = progress.state().trace(progress.begun);
        let events = trace["traceEvents"].as_array().expect("events");
        let lanes: Vec<_> = events.iter().map(|event| event["tid"].as_u64()).collect();
        assert_eq!(lanes, [Some(1), Some(2), Some(1)]);
        assert_eq!(events[0]["args"]["outcome"], "done");
        assert_eq!(events[2]["args"]["outcome"], "interrupted");
    }
}
