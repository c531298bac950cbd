//! How one process of ours tells another that it has done its part, or why not.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
};

use crate::error::{Context as _, Error, Kind, Result};

/// One byte of success, or the error as JSON.
pub(super) fn report_success(report: &UnixStream) -> Result<()> {
    let mut stream = report;
    stream.write_all(b"+").doing("report success")
}

/// An error on its way from the process that failed to the command that tells it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Told {
    kind: Kind,
    said: String,
    hint: Option<String>,
}

pub(super) fn tell(report: &UnixStream, err: &Error) {
    let hint = err.hint_text().map(str::to_owned);
    let told = Told { kind: err.kind(), said: err.to_string(), hint };
    let mut stream = report;
    let _ = serde_json::to_vec(&told).map(|text| stream.write_all(&text));
}

/// Waits until the other end has let go of everything of ours, having reported success: it
/// becomes another program.
pub(super) fn hear_out(report: &UnixStream) {
    let mut stream = report;
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Waits for either; `silence` is the error if the other end closes without a word.
pub(super) fn hear(report: &UnixStream, silence: &str) -> Result<()> {
    let mut text = Vec::new();
    let mut first = [0];
    let mut stream = report;
    match stream.read(&mut first).doing("hear how it went")? {
        0 => return Err(Error::engine(silence)),
        _ if first == *b"+" => return Ok(()),
        _ => text.extend(first),
    }
    stream.read_to_end(&mut text).doing("hear how it went")?;
    let told: Told = serde_json::from_slice(&text)?;
    let error = Error::new(told.kind, told.said);
    Err(match told.hint {
        Some(hint) => error.hint(hint),
        None => error,
    })
}
