//! What a pull shows on stderr: a bar for each layer on a terminal, lines otherwise.
//!
//! Safe to use from the threads of a transfer. Nothing is drawn by a thread of its own.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::Mutex,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::visible;
use crate::{
    image::{self, Event},
    oci::Digest,
};

/// The layers of one transfer.
#[derive(Debug)]
pub struct Layers {
    /// Absent where lines are written.
    bars: Option<MultiProgress>,
    layers: Mutex<Vec<Layer>>,
}

/// One layer's line or bar.
#[derive(Debug, Clone)]
pub struct Layer {
    id: String,
    /// Absent where lines are written.
    bar: Option<ProgressBar>,
    said: std::sync::Arc<Mutex<String>>,
}

impl Layers {
    /// Bars if stderr is a terminal, plain lines if it is not.
    pub fn stderr() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bars = || MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { bars: terminal.then(bars), layers: Mutex::default() }
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
        let layer = Layer { id: id.to_owned(), bar, said: Default::default() };
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
        }
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
    }

    /// What is being done, in docker's words: `Downloading`. A line is written for each change.
    pub fn state(&self, text: &str) {
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *said == text {
            return;
        }
        text.clone_into(&mut said);
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
        let line = format!("{}: {}\n", visible(&self.id), visible(text));
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
        let progress = Layers { bars: Some(bars), layers: Mutex::default() };
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
        let layers = Layers { bars: None, layers: Mutex::default() };
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
            assert_eq!(*layers.layer("e3b0c44298fc").said.lock().expect("not poisoned"), words);
        }
    }

    #[test]
    fn the_styles_are_valid_and_a_state_is_said_once() {
        for template in [PLAIN, MEASURED] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
        let progress = Layers { bars: None, layers: Mutex::default() };
        progress.layer("a").state("Waiting");
        assert_eq!(*progress.layer("a").said.lock().expect("not poisoned"), "Waiting");
        assert_eq!(progress.layers.lock().expect("not poisoned").len(), 1);
    }
}
