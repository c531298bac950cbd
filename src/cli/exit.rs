//! The one place that tells the user what went wrong.

use std::{io::Write as _, process::ExitCode};

use super::output::visible;
use crate::error::Error;

/// Prints the chain and the hint to stderr.
pub fn report(err: &Error) {
    tell("Error", err);
}

/// As [`report`], for what did not keep the command from doing the rest.
pub fn warn(err: &Error) {
    tell("WARNING", err);
}

fn tell(heading: &str, err: &Error) {
    let mut text = format!("{heading}: {}\n", safe_lines(&err.to_string()));
    if let Some(hint) = err.hint_text() {
        text.push_str(&format!("hint: {}\n", safe_lines(hint)));
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Names and messages come from images and registries: nothing in them may move the cursor.
fn safe_lines(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

/// A note on stderr, for what the user should know although nothing failed.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The exit code for a number that is one already: a container's, or docker's.
pub fn code(number: i32) -> ExitCode {
    ExitCode::from(u8::try_from(number & 0xff).unwrap_or(255))
}
