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
    /// In the place of stderr.
    log: Option<fs::File>,
    colours: Colours,
    begun: Instant,
    trace: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: BTreeMap<usize, Step>,
    /// Rows of the live view that are on the screen, by their widths.
    rows: Vec<usize>,
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
    /// The last lines, and when in the step they came.
    log: VecDeque<(Duration, String)>,
    /// Of the timeline: steps that run at once are in rows of their own.
    lane: usize,
}

impl Progress {
    pub(super) fn new(show: Show, trace: Option<PathBuf>, log: Option<fs::File>) -> Self {
        let colours = Colours::of_environment();
        Self { show, log, colours, begun: Instant::now(), trace, state: Mutex::default() }
    }

    /// Says something where all else is told.
    pub(super) fn note(&self, text: &str) {
        match &self.log {
            Some(log) => {
                let mut log: &fs::File = log;
                let _ = log.write_all(format!("{text}\n").as_bytes());
            }
            None => note(text),
        }
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
            state.put(&rows, true, &self.colours);
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
        state.put(&rows, false, &self.colours);
    }

    fn line(&self, number: usize, step: &mut Step, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        // What a bar draws over itself is its last state.
        let text = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
        let (time, text) = (step.begun.elapsed(), visible(text).into_owned());
        if self.show == Show::Plain {
            self.note(&format!("#{number} {}", timed(time, &text)));
        }
        step.log.push_back((time, text));
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
            Show::Plain => self.note(&format!("#{number} {}", step.label)),
            Show::Json => self.note(&json!({ "vertexes": [step.vertex(number)] }).to_string()),
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
            return self.note(&json!({ "logs": [log] }).to_string());
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
                self.note(&format!("#{number} DONE {:.1}s\n", time.as_secs_f64()));
            }
            (Show::Plain, Ended::Cached) => self.note(&format!("#{number} CACHED\n")),
            (Show::Plain, Ended::Failed) => self.note(&format!("#{number} ERROR\n")),
            (Show::Plain, Ended::Canceled) => self.note(&format!("#{number} CANCELED\n")),
            (Show::Json, _) => self.note(&json!({ "vertexes": [step.vertex(number)] }).to_string()),
            (Show::Live | Show::Nothing, _) => {}
        }
        self.draw(&mut state, true);
    }

    fn warns(&self, text: &str) {
        let text = format!("[Warning] {}", visible(text));
        match self.show {
            Show::Json => {
                let short = STANDARD.encode(&text);
                self.note(&json!({ "warnings": [{ "level": 1, "short": short }] }).to_string());
            }
            // `--quiet` is about progress.
            Show::Live | Show::Plain | Show::Nothing => {
                let mut state = self.state();
                state.put(&[], false, &self.colours);
                self.note(&text);
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
                Ended::Canceled => vertex["error"] = json!("context canceled"),
                Ended::Done(_) => {}
            }
        }
        vertex
    }

    /// Its row of the live view.
    fn row(&self, columns: usize) -> Row {
        let (tone, mark, time) = match self.ended {
            Some((Ended::Cached, _)) => (Tone::Done, "CACHED ", Duration::ZERO),
            Some((Ended::Failed, time)) => (Tone::Failed, "ERROR ", time),
            Some((Ended::Canceled, time)) => (Tone::Canceled, "CANCELED ", time),
            Some((Ended::Done(_), time)) => (Tone::Done, "", time),
            None => (Tone::Plain, "", self.begun.elapsed()),
        };
        (tone, between(&format!(" => {mark}{}", self.label), time, columns))
    }
}

/// What a row is about, which says how it is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Done,
    Canceled,
    Failed,
    Log,
}

type Row = (Tone, String);

/// The beginnings of coloured rows, by what BuildKit calls them (`BUILDKIT_COLORS`); none with
/// `NO_COLOR`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Colours {
    run: String,
    cancel: String,
    error: String,
    log: String,
}

impl Colours {
    fn of_environment() -> Self {
        let text = |name: &str| std::env::var(name).unwrap_or_default();
        match text("NO_COLOR").is_empty() {
            true => Self::parse(&text("BUILDKIT_COLORS")),
            false => Self {
                run: String::new(),
                cancel: String::new(),
                error: String::new(),
                log: String::new(),
            },
        }
    }

    /// `run=green:error=255,0,0:cancel=yellow`; what is not understood changes nothing.
    fn parse(text: &str) -> Self {
        let mut colours = Self {
            run: "\x1b[34m".into(),
            cancel: "\x1b[33m".into(),
            error: "\x1b[31m".into(),
            log: "\x1b[2m".into(),
        };
        for (key, value) in text.split(':').filter_map(|field| field.split_once('=')) {
            let place = match key.trim().to_ascii_lowercase().as_str() {
                "run" => &mut colours.run,
                "cancel" => &mut colours.cancel,
                "error" => &mut colours.error,
                _ => continue,
            };
            if let Some(start) = colour(value.trim()) {
                *place = start;
            }
        }
        colours
    }

    fn paint(&self, (tone, text): &Row) -> String {
        let start = match tone {
            Tone::Plain => "",
            Tone::Done => &self.run,
            Tone::Canceled => &self.cancel,
            Tone::Failed => &self.error,
            Tone::Log => &self.log,
        };
        match start.is_empty() {
            true => text.clone(),
            false => format!("{start}{text}\x1b[0m"),
        }
    }
}

/// How a colour begins, which is a name or three numbers.
fn colour(text: &str) -> Option<String> {
    const NAMES: [&str; 8] =
        ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    let lower = text.to_ascii_lowercase();
    if let Some(at) = NAMES.iter().position(|name| *name == lower) {
        return Some(format!("\x1b[{}m", 30 + at));
    }
    if let Some(at) = NAMES.iter().position(|name| Some(*name) == lower.strip_prefix("light")) {
        return Some(format!("\x1b[{}m", 90 + at));
    }
    let parts: Option<Vec<u8>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    match parts?[..] {
        [red, green, blue] => Some(format!("\x1b[38;2;{red};{green};{blue}m")),
        _ => None,
    }
}

/// Columns that a character takes: letters of East Asia and pictures take two.
fn width_of(c: char) -> usize {
    let wide = [
        0x1100..=0x115f,
        0x2e80..=0x303e,
        0x3041..=0xa4cf,
        0xac00..=0xd7a3,
        0xf900..=0xfaff,
        0xfe30..=0xfe6f,
        0xff00..=0xff60,
        0xffe0..=0xffe6,
        0x1f300..=0x1f64f,
        0x1f680..=0x1f6ff,
        0x1f900..=0x1f9ff,
        0x20000..=0x3fffd,
    ];
    1 + usize::from(wide.iter().any(|range| range.contains(&u32::from(c))))
}

fn width(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

/// As much of the text as so many columns hold.
fn cut(text: &str, columns: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += width_of(*c);
        used <= columns
    };
    text.chars().take_while(fits).collect()
}

/// A line of output, with its time within the step.
fn timed(time: Duration, text: &str) -> String {
    format!("{:.3} {text}", time.as_secs_f64())
}

/// Text on the left and a time on the right.
fn between(left: &str, time: Duration, columns: usize) -> String {
    let right = format!("{:.1}s", time.as_secs_f64());
    let room = columns.saturating_sub(right.len() + 1);
    let left = cut(left, room);
    let gap = room - width(&left) + 1;
    cut(&format!("{left}{}{right}", " ".repeat(gap)), columns)
}

impl State {
    /// The rows of the live view, for a screen of so many rows and columns.
    fn view(&self, time: Duration, last: bool, (rows, columns): (usize, usize)) -> Vec<Row> {
        let done = self.steps.values().filter(|step| step.ended.is_some()).count();
        let word = if last { " FINISHED" } else { "" };
        let heading =
            format!("[+] Building {:.1}s ({done}/{}){word}", time.as_secs_f64(), self.steps.len());
        let mut view = vec![(Tone::Plain, cut(&heading, columns))];
        let mut body: Vec<(bool, Vec<Row>)> = Vec::new();
        for step in self.steps.values() {
            let mut lines = vec![step.row(columns)];
            if step.ended.is_none() && !last {
                let skipped = step.log.len().saturating_sub(LOG_ROWS);
                let log = step.log.iter().skip(skipped);
                lines.extend(
                    log.map(|(_, line)| (Tone::Log, cut(&format!(" => => # {line}"), columns))),
                );
            }
            body.push((step.ended.is_some(), lines));
        }
        if !last {
            fit(&mut body, rows.saturating_sub(2).max(1));
            view.extend(body.into_iter().flat_map(|(_, lines)| lines));
            return view;
        }
        view.extend(body.into_iter().flat_map(|(_, lines)| lines));
        for step in self.steps.values() {
            if matches!(step.ended, Some((Ended::Failed, _))) {
                let mut whole = |text: String| view.push((Tone::Plain, text));
                whole("------".into());
                whole(format!(" > {}:", step.label));
                step.log.iter().for_each(|(time, line)| whole(timed(*time, line)));
                whole("------".into());
            }
        }
        view
    }

    /// Draws the rows over those that are there; the cursor is hidden until the last.
    fn put(&mut self, rows: &[Row], last: bool, colours: &Colours) {
        let mut text = String::new();
        if !self.rows.is_empty() {
            // A terminal that has become narrower has broken those that are there.
            let (_, columns) = screen();
            let there: usize = self.rows.iter().map(|width| width.div_ceil(columns).max(1)).sum();
            text.push_str(&format!("\x1b[{there}A\r\x1b[J"));
        } else if !rows.is_empty() {
            text.push_str("\x1b[?25l");
        }
        for row in rows {
            text.push_str(&colours.paint(row));
            text.push_str("\r\n");
        }
        if last || (rows.is_empty() && !self.rows.is_empty()) {
            text.push_str("\x1b[?25h");
        }
        self.rows = match last {
            true => Vec::new(),
            false => rows.iter().map(|(_, text)| width(text)).collect(),
        };
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
                Some((Ended::Canceled, time)) => ("canceled", time),
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

/// Takes away what there is no room for: first steps that are finished, the oldest first, then the
/// older lines of who writes most.
fn fit(body: &mut Vec<(bool, Vec<Row>)>, room: usize) {
    let mut size: usize = body.iter().map(|(_, lines)| lines.len()).sum();
    body.retain(|(is_finished, lines)| {
        let goes = *is_finished && size > room;
        if goes {
            size -= lines.len();
        }
        !goes
    });
    while size > room {
        let longest = body.iter_mut().max_by_key(|(_, lines)| lines.len());
        match longest {
            // The row of the step itself stays.
            Some((_, lines)) if lines.len() > 1 => drop(lines.remove(1)),
            _ => break,
        }
        size -= 1;
    }
    let surplus = body.len().saturating_sub(room);
    body.drain(..surplus.min(size.saturating_sub(room)));
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
        let progress = Progress::new(Show::Nothing, None, None);
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
        let texts = |rows: Vec<Row>| rows.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        let rows = texts(progress.state().view(Duration::from_millis(1234), false, (10, 40)));
        assert_eq!(rows.len(), 9);
        assert_eq!(rows[0], "[+] Building 1.2s (28/30)");
        assert!(rows.iter().all(|row| row.chars().count() <= 40), "{rows:?}");
        assert!(rows[4].starts_with(" => [29/30] RUN step 29"), "{rows:?}");
        assert!(rows[8].starts_with(" => => # ") && rows[8].ends_with("100%"), "{rows:?}");
        progress.ends(29, Ended::Failed);
        progress.ends(30, Ended::Done(Duration::ZERO));
        let rows = texts(progress.state().view(Duration::ZERO, true, (10, 40)));
        assert_eq!(rows[0], "[+] Building 0.0s (30/30) FINISHED");
        assert_eq!(rows[1], format!(" => CACHED [1/30] RUN step 1{}0.0s", " ".repeat(8)));
        assert_eq!(rows[32], " > [29/30] RUN step 29:");
    }

    #[test]
    fn a_small_screen_keeps_the_steps_that_run() {
        let progress = progress(3);
        for line in 0..9 {
            progress.says(2, format!("line {line}\n").as_bytes());
        }
        let rows = progress.state().view(Duration::ZERO, false, (7, 20));
        let texts: Vec<&str> = rows.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts.len(), 6, "{texts:?}");
        assert_eq!(texts[1], " => [1/3] RUN s 0.0s");
        assert_eq!(texts[3], " => => # line 7");
        assert_eq!(texts[4], " => => # line 8");
        assert!(texts[5].starts_with(" => [3/3]"), "{texts:?}");
        let rows = progress.state().view(Duration::ZERO, false, (3, 20));
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert!(rows.iter().all(|(_, text)| width(text) <= 20));
    }

    #[test]
    fn rows_are_cut_by_what_they_show() {
        assert_eq!(cut("ab漢字", 5), "ab漢");
        assert_eq!(between("漢字漢字", Duration::ZERO, 10), "漢字  0.0s");
        assert_eq!(between("x", Duration::ZERO, 3), " 0.");
    }

    #[test]
    fn colours_are_those_of_the_environment() {
        let usual = Colours::parse("");
        assert_eq!(usual.paint(&(Tone::Failed, "x".into())), "\x1b[31mx\x1b[0m");
        let own = Colours::parse("run=green:ERROR=1,2,3:cancel=nope:bogus");
        assert_eq!(own.run, "\x1b[32m");
        assert_eq!(own.error, "\x1b[38;2;1;2;3m");
        assert_eq!(own.cancel, usual.cancel);
        assert_eq!(colour("lightblue"), Some("\x1b[94m".into()));
        assert_eq!(colour("1,2,300"), None);
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
