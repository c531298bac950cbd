//! The program of the built-in image `dhow/hello`: reports, measured from inside, what isolation
//! it really has. It believes nobody: everything is read from the kernel or tried.
//!
//! Run as a plain process it says that it is not isolated. It is the one room that runs *in* a
//! container, so it uses only `sys`, and nothing here may panic on an odd environment: what
//! cannot be read is left out or said to be unknown.

mod measure;
mod text;
mod verdict;

use std::{ffi::OsString, path::Path, process::ExitCode};

pub use measure::Report;
pub use verdict::{Isolation, Verdict};

/// The path of the program in its image.
pub const PATH: &str = "/hello";

/// Runs the program; `args` are what follows its name. Exit code 0 whatever was measured, 2 for
/// an argument it does not know.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut json = false;
    for arg in args {
        if arg != "--json" {
            let said = format!("hello: unknown argument {arg:?}; the only one is --json\n");
            return write_all(&mut std::io::stderr(), &said, 2);
        }
        json = true;
    }
    let report = Report::measure(Path::new("/"));
    let verdict = verdict::judge(&report);
    let said = if json { to_json(&report, &verdict) } else { text::render(&report, &verdict) };
    write_all(&mut std::io::stdout(), &said, 0)
}

fn to_json(report: &Report, verdict: &Verdict) -> String {
    let value = serde_json::json!({ "report": report, "verdict": verdict });
    format!("{value:#}\n")
}

/// A reader that went away is no reason to complain.
fn write_all(stream: &mut impl std::io::Write, text: &str, code: u8) -> ExitCode {
    let written = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
    match written {
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::from(code),
    }
}
