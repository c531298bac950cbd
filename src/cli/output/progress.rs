//! What a pull shows on stderr: a bar for each layer on a terminal, lines otherwise.
//!
//! Safe to use from the threads of a transfer. Nothing is drawn by a thread of its own.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use serde_json::json;

use super::visible;
use crate::{
    error::{Error, Result},
    image::{self, Event},
    oci::Digest,
};

/// How a transfer is shown (`--progress`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Bars on a terminal, lines elsewhere.
    Auto,
    /// A line for each step.
    Plain,
    /// A line of JSON for each step and for bytes on their way, as docker's API has them.
    Json,
    /// Nothing at all.
    Nothing,
}

impl Show {
    /// What was typed; `quiet` wins.
    pub fn parse(text: &str, quiet: bool) -> Result<Self> {
        match text {
            _ if quiet => Ok(Self::Nothing),
            "auto" | "tty" => Ok(Self::Auto),
            "plain" => Ok(Self::Plain),
            "json" | "rawjson" => Ok(Self::Json),
            "quiet" | "none" => Ok(Self::Nothing),
            other => Err(Error::invalid(format!("invalid --progress {other:?}"))
                .hint("there are auto, plain, json and quiet")),
        }
    }
}

/// The layers of one transfer.
#[derive(Debug)]
pub struct Layers {
    /// Absent where lines are written.
    bars: Option<MultiProgress>,
    json: bool,
    layers: Mutex<Vec<Layer>>,
}

/// One layer's line or bar.
#[derive(Debug, Clone)]
pub struct Layer {
    id: String,
    /// Absent where lines are written.
    bar: Option<ProgressBar>,
    json: bool,
    said: std::sync::Arc<Mutex<Said>>,
}

/// What was last told of a layer.
#[derive(Debug, Default)]
struct Said {
    state: String,
    /// When its bytes were.
    at: Option<Instant>,
}

/// Bytes on their way are told as JSON this often.
const OFTEN: Duration = Duration::from_millis(100);

impl Layers {
    /// On stderr.
    pub fn stderr(show: Show) -> Self {
        let drawn = show == Show::Auto && std::io::stderr().is_terminal();
        let bars = || MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { bars: drawn.then(bars), json: show == Show::Json, layers: Mutex::default() }
    }

    /// The layer shown as `id`, the same one each time it is asked for.
    pub fn layer(&self, id: &str) -> Layer {
        // A thread that panicked while drawing has left nothing half done.
        let mut layers = self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = layers.iter().find(|layer| layer.id == id) {
            return known.clone();
        }
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(0).with_style(plain()));
            bar.set_prefix(visible(id).into_owned());
            bar
        });
        let layer = Layer { id: id.to_owned(), bar, json: self.json, said: Default::default() };
        layers.push(layer.clone());
        layer
    }

    /// Leaves every layer as it last was and draws no more.
    pub fn finish(&self) {
        let layers = self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        layers.iter().filter_map(|layer| layer.bar.as_ref()).for_each(ProgressBar::abandon);
    }
}

/// Docker's words for each step.
impl image::Progress for Layers {
    fn layer(&self, digest: &Digest, event: Event) {
        let layer = self.layer(digest.short());
        match event {
            Event::Waiting { total } => {
                layer.set(total, 0);
                layer.state("Waiting");
            }
            Event::Downloading { done, total } => {
                layer.state("Downloading");
                layer.set(total, done);
            }
            Event::Unpacking { done, total } => {
                layer.state("Extracting");
                layer.set(total, done);
            }
            Event::Settling => layer.state("Download complete"),
            Event::Done => layer.finish("Pull complete"),
            Event::Exists => layer.finish("Already exists"),
            Event::Preparing => layer.state("Preparing"),
            Event::Pushing { done, total } => {
                layer.state("Pushing");
                layer.set(total, done);
            }
            Event::Pushed => layer.finish("Pushed"),
            Event::There => layer.finish("Layer already exists"),
        }
    }

    fn mounted(&self, digest: &Digest, from: &str) {
        self.layer(digest.short()).finish(&format!("Mounted from {from}"));
    }
}

impl Layer {
    /// Bytes to come in all, and those that have.
    pub fn set(&self, len: u64, pos: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(len) {
                bar.set_length(len);
                bar.set_style(if len > 0 { measured() } else { plain() });
            }
            bar.set_position(pos);
        }
        if self.json && len > 0 {
            self.tell_bytes(len, pos);
        }
    }

    fn tell_bytes(&self, total: u64, current: u64) {
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let recent = said.at.is_some_and(|at| at.elapsed() < OFTEN) && current < total;
        if recent || said.state.is_empty() {
            return;
        }
        said.at = Some(Instant::now());
        let detail = json!({ "current": current, "total": total });
        let line = json!({ "status": said.state, "progressDetail": detail, "id": self.id });
        let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
    }

    /// What is being done, in docker's words: `Downloading`. A line is written for each change.
    pub fn state(&self, text: &str) {
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if said.state == text {
            return;
        }
        *said = Said { state: text.to_owned(), at: None };
        match &self.bar {
            Some(bar) => bar.set_message(visible(text).into_owned()),
            None => self.write_line(text),
        }
    }

    /// The last state: `Pull complete`. The bar goes, its line stays.
    pub fn finish(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_style(plain());
        }
        self.state(text);
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn write_line(&self, text: &str) {
        let line = match self.json {
            true => format!("{}\n", json!({ "status": text, "id": self.id })),
            false => format!("{}: {}\n", visible(&self.id), visible(text)),
        };
        // One write a line; where nobody can read progress, the work goes on without it.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

const PLAIN: &str = "{prefix}: {msg}";
const MEASURED: &str = "{prefix}: {msg:13} [{bar:50}] {decimal_bytes}/{decimal_total_bytes}";

fn plain() -> ProgressStyle {
    style(PLAIN)
}

fn measured() -> ProgressStyle {
    style(MEASURED)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use indicatif::TermLike;

    use super::*;

    /// A terminal that remembers all that was written to it.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl Paper {
        fn read(&self) -> String {
            self.0.lock().expect("not poisoned").clone()
        }
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            120
        }
        fn height(&self) -> u16 {
            10
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().expect("not poisoned").push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bars_give_way_to_their_last_word() {
        let paper = Paper::default();
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        let bars = MultiProgress::with_draw_target(target);
        let progress = Layers { bars: Some(bars), json: false, layers: Mutex::default() };
        let layer = progress.layer("abc");
        layer.state("Downloading");
        layer.set(100, 50);
        layer.bar.as_ref().expect("a bar").tick();
        assert!(paper.read().contains("abc: Downloading   [="), "{}", paper.read());
        assert!(paper.read().contains("50 B/100 B"), "{}", paper.read());
        progress.layer("abc").finish("Pull complete");
        progress.layer("d\x1b").finish("Already exists");
        progress.finish();
        assert!(paper.read().contains("abc: Pull complete"), "{}", paper.read());
        assert!(paper.read().contains("d\\x1b: Already exists"), "{}", paper.read());
    }

    #[test]
    fn a_transfer_is_told_in_dockers_words() {
        let layers = Layers { bars: None, json: false, layers: Mutex::default() };
        let digest = Digest::of(b"");
        for (event, words) in [
            (Event::Waiting { total: 2 }, "Waiting"),
            (Event::Downloading { done: 1, total: 2 }, "Downloading"),
            (Event::Unpacking { done: 1, total: 2 }, "Extracting"),
            (Event::Settling, "Download complete"),
            (Event::Done, "Pull complete"),
            (Event::Exists, "Already exists"),
        ] {
            image::Progress::layer(&layers, &digest, event);
            let layer = layers.layer("e3b0c44298fc");
            assert_eq!(layer.said.lock().expect("not poisoned").state, words);
        }
    }

    #[test]
    fn the_styles_are_valid_and_a_state_is_said_once() {
        for template in [PLAIN, MEASURED] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
        let progress = Layers { bars: None, json: false, layers: Mutex::default() };
        progress.layer("a").state("Waiting");
        assert_eq!(progress.layer("a").said.lock().expect("not poisoned").state, "Waiting");
        assert_eq!(progress.layers.lock().expect("not poisoned").len(), 1);
    }
}
