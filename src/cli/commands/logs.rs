//! `logs`: what the container wrote to its output and error, to ours.

use std::{
    io::{self, ErrorKind, Write as _},
    ops::ControlFlow,
    process::ExitCode,
};

use jiff::Zoned;

use super::super::{args::container::Logs, exit, value::time};
use crate::{
    engine::{
        Engine,
        container::{
            list::Query,
            logs::{Heard, LogQuery},
        },
    },
    error::{Context as _, Error, Result},
    run::log::Entry,
    state::ContainerId,
};

/// Bytes gathered before they are written.
const BUFFER: usize = 64 << 10;

pub fn logs(engine: &Engine, args: &Logs) -> Result<ExitCode> {
    let now = Zoned::now();
    let moment = |text: &Option<String>| {
        // Docker: 0 is none.
        text.as_deref()
            .filter(|text| !["", "0"].contains(text))
            .map(|text| time::moment(text, &now))
    };
    let query = LogQuery {
        follow: args.follow,
        tail: tail(&args.tail)?,
        since: moment(&args.since).transpose()?,
        until: moment(&args.until).transpose()?,
    };
    let mut names = args.containers.clone();
    if args.latest {
        let query = Query { last: Some(1), ..Query::default() };
        let newest = engine.containers(&query)?.containers.into_iter().next();
        names.push(newest.ok_or_else(|| Error::not_found("there is no container"))?.id.to_string());
    }
    let ids: Vec<ContainerId> =
        names.iter().map(|name| engine.find(name)).collect::<Result<_>>()?;
    let mut prefixes = Vec::with_capacity(ids.len());
    for (index, id) in ids.iter().enumerate() {
        prefixes.push(prefix(engine, id, index, ids.len(), args)?);
    }
    let show = |(id, prefix): (&ContainerId, Vec<u8>)| show(engine, id, prefix, args, &query);
    let each = ids.iter().zip(prefixes);
    if ids.len() == 1 || !args.follow {
        each.into_iter().try_for_each(show)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Each is waited for by a thread of its own; nothing is started from here on.
    std::thread::scope(|scope| {
        let threads: Vec<_> = each.map(|one| scope.spawn(|| show(one))).collect();
        threads.into_iter().try_for_each(|thread| {
            let died = |_| Err(Error::engine("a reader of logs has died"));
            thread.join().unwrap_or_else(died)
        })
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Shows one container's log.
fn show(
    engine: &Engine,
    id: &ContainerId,
    prefix: Vec<u8>,
    args: &Logs,
    query: &LogQuery,
) -> Result<()> {
    let mut printer = Printer::new(args, prefix);
    let damaged = engine.logs(id, query, &mut |heard| match heard {
        Heard::Entry(entry) => printer.put(entry),
        Heard::Pause => printer.flush(),
    })?;
    // What is left; if that cannot be written, the outcome says so.
    let _ = printer.flush();
    if damaged > 0 {
        let lines = if damaged == 1 { "1 line" } else { &format!("{damaged} lines") };
        exit::note(&format!("WARNING: {lines} of the log could not be read and are not shown"));
    }
    match printer.outcome {
        // The reader has gone, as `head` does: it has what it wanted.
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.doing("show the log"),
    }
}

/// What each line begins with: podman's short id where there are several, or the name.
fn prefix(
    engine: &Engine,
    id: &ContainerId,
    index: usize,
    count: usize,
    args: &Logs,
) -> Result<Vec<u8>> {
    /// Green, yellow, blue, magenta, cyan, red (ECMA-48, "SGR").
    const COLOURS: [u8; 6] = [32, 33, 34, 35, 36, 31];
    let word = match (args.names, count) {
        (true, _) => engine.load(id)?.record.name,
        (false, 1) => return Ok(Vec::new()),
        (false, _) => id.short().to_owned(),
    };
    Ok(match args.color {
        true => format!("\x1b[{}m{word}\x1b[0m ", COLOURS[index % COLOURS.len()]),
        false => format!("{word} "),
    }
    .into_bytes())
}

/// Docker: `all` or a negative number is everything.
fn tail(text: &str) -> Result<Option<u64>> {
    match text.parse::<i64>() {
        _ if text == "all" => Ok(None),
        Ok(lines) => Ok(u64::try_from(lines).ok()),
        Err(_) => Err(Error::invalid(format!("invalid argument {text:?} for -n, --tail"))
            .hint("write a number of lines, or all")),
    }
}

/// As in a URL's query (Go's `url.QueryEscape`).
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        b' ' => "+".to_owned(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

struct Printer {
    timestamps: bool,
    details: bool,
    /// What each line begins with.
    prefix: Vec<u8>,
    /// Whether the last entry of stdout, and of stderr, was the beginning of a longer line.
    in_line: [bool; 2],
    /// Which of the two `buffer` is for.
    to_stderr: bool,
    buffer: Vec<u8>,
    outcome: io::Result<()>,
}

impl Printer {
    fn new(args: &Logs, prefix: Vec<u8>) -> Self {
        let (timestamps, details) = (args.timestamps, args.details);
        let buffer = Vec::with_capacity(BUFFER * 2);
        Self {
            timestamps,
            details,
            prefix,
            in_line: [false; 2],
            to_stderr: false,
            buffer,
            outcome: Ok(()),
        }
    }

    fn put(&mut self, entry: &Entry<'_>) -> ControlFlow<()> {
        let to_stderr = entry.is_stderr;
        // Where both lead to the same place, the order must be the container's.
        if to_stderr != self.to_stderr || self.buffer.len() >= BUFFER {
            self.flush()?;
            self.to_stderr = to_stderr;
        }
        if !self.in_line[usize::from(to_stderr)] {
            self.buffer.extend(&self.prefix);
        }
        self.in_line[usize::from(to_stderr)] = !entry.log.ends_with(b"\n");
        if self.timestamps {
            self.buffer.extend(entry.time.as_bytes());
            self.buffer.push(b' ');
        }
        if self.details {
            // moby client: in the order of their names, as in a URL's query.
            for (index, (key, value)) in entry.attrs.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                self.buffer.extend(format!("{comma}{}={}", escaped(key), escaped(value)).bytes());
            }
            self.buffer.push(b' ');
        }
        self.buffer.extend_from_slice(&entry.log);
        ControlFlow::Continue(())
    }

    fn flush(&mut self) -> ControlFlow<()> {
        if self.buffer.is_empty() {
            return ControlFlow::Continue(());
        }
        self.outcome = match self.to_stderr {
            true => io::stderr().write_all(&self.buffer),
            false => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&self.buffer).and_then(|()| stdout.flush())
            }
        };
        self.buffer.clear();
        match self.outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(tail("all"), Ok(None));
        assert_eq!(tail("-1"), Ok(None));
        assert_eq!(tail("0"), Ok(Some(0)));
        assert_eq!(tail("20"), Ok(Some(20)));
        assert!(tail("1k").is_err());
    }
}
