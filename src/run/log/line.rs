//! One line of a log file: how it is written, and read back.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use serde::Deserialize;

use super::LINE_MAX;

/// No line that the monitor writes is longer: [`LINE_MAX`] bytes of output, each escaped as six,
/// and what is said of them, the labels and variables of docker's `attrs` included.
pub const LINE_MAX_ENCODED: usize = LINE_MAX * 16;

/// How every JSON line begins; the quotes cannot occur within one.
const JSON_START: &[u8] = br#"{"log":""#;

/// What a log file's lines look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// `{"log":"…\n","stream":"stdout","time":"…Z"}`, docker's; with `attrs` for what
    /// `--log-opt` labels, env and tag say of the container.
    Json(BTreeMap<String, String>),
    /// `TIME stdout F …`; P instead of F where the line goes on (Kubernetes' design document
    /// "CRI: Log management").
    Cri,
}

impl Shape {
    /// What goes around the lines of a stream that are written now: it is made once for many.
    pub(super) fn frame(&self, is_stderr: bool) -> Frame {
        let stream = if is_stderr { "stderr" } else { "stdout" };
        let now = Timestamp::now();
        match self {
            Self::Cri => Frame {
                head: format!("{now:.9} {stream} F "),
                tail: "\n".to_owned(),
                is_json: false,
            },
            Self::Json(attrs) => {
                let attrs = match attrs.is_empty() {
                    true => String::new(),
                    false => {
                        let attrs = serde_json::to_string(attrs).unwrap_or_default();
                        format!("\"attrs\":{attrs},")
                    }
                };
                Frame {
                    head: String::new(),
                    tail: format!("\",\"stream\":\"{stream}\",{attrs}\"time\":\"{now:.9}\"}}\n"),
                    is_json: true,
                }
            }
        }
    }

    /// The entry of a line (with its newline), and whether it is all that the line holds. What a
    /// crash tore has the next start's first entry glued to it.
    pub fn parse<'a>(&self, line: &'a [u8]) -> (Option<Entry<'a>>, bool) {
        match self {
            Self::Cri => {
                let entry = parse_cri(line);
                let is_whole = entry.is_some();
                (entry, is_whole)
            }
            Self::Json(_) => {
                if let Ok(entry) = serde_json::from_slice::<JsonLine<'_>>(line) {
                    return (Some(entry.into()), true);
                }
                let mut starts = line.windows(JSON_START.len());
                let glued = starts.rposition(|start| start == JSON_START).map(|at| &line[at..]);
                let entry =
                    glued.and_then(|line| serde_json::from_slice::<JsonLine<'_>>(line).ok());
                (entry.map(Entry::from), false)
            }
        }
    }
}

/// What stands before and behind the text of a line.
#[derive(Debug)]
pub(super) struct Frame {
    head: String,
    tail: String,
    is_json: bool,
}

impl Frame {
    /// Appends one piece of output as a line of the log.
    pub(super) fn put(&self, text: &[u8], out: &mut Vec<u8>) {
        let (body, is_whole) = match text.split_last() {
            Some((b'\n', body)) => (body, true),
            _ => (text, false),
        };
        if self.is_json {
            out.extend_from_slice(JSON_START);
            escape(body, out);
            if is_whole {
                out.extend_from_slice(br"\n");
            }
        } else {
            out.extend_from_slice(self.head.as_bytes());
            if !is_whole {
                // The flag, before the blank at the end.
                let flag = out.len() - 2;
                out[flag] = b'P';
            }
            out.extend_from_slice(body);
        }
        out.extend_from_slice(self.tail.as_bytes());
    }
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// With its newline, if the line ended here.
    pub log: Cow<'a, [u8]>,
    pub is_stderr: bool,
    /// RFC 3339 in UTC, nine digits of a second.
    pub time: Cow<'a, str>,
    /// What `--details` shows.
    pub attrs: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

#[derive(Deserialize)]
struct JsonLine<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow, default)]
    attrs: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

impl<'a> From<JsonLine<'a>> for Entry<'a> {
    fn from(line: JsonLine<'a>) -> Self {
        let log = match line.log {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Self { log, is_stderr: line.stream == "stderr", time: line.time, attrs: line.attrs }
    }
}

fn parse_cri(line: &[u8]) -> Option<Entry<'_>> {
    let mut words = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(words.next()?).ok()?;
    let is_stderr = match words.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let flag = words.next()?;
    let text = words.next()?;
    let log = match flag {
        b"F" => text,
        b"P" => text.strip_suffix(b"\n")?,
        _ => return None,
    };
    (time.len() > 19 && time.ends_with('Z')).then(|| Entry {
        log: Cow::Borrowed(log),
        is_stderr,
        time: Cow::Borrowed(time),
        attrs: BTreeMap::new(),
    })
}

/// The inside of a JSON string. Bytes that are no UTF-8 become U+FFFD, as docker's do.
fn escape(mut bytes: &[u8], out: &mut Vec<u8>) {
    loop {
        let (plain, rest) = bytes.split_at(plain(bytes));
        out.extend_from_slice(plain);
        let Some(&first) = rest.first() else { return };
        if first.is_ascii() {
            escape_byte(first, out);
            bytes = &rest[1..];
            continue;
        }
        // To the next ASCII byte: it ends every character, whole or not.
        let end = rest.iter().position(u8::is_ascii).unwrap_or(rest.len());
        for chunk in rest[..end].utf8_chunks() {
            out.extend_from_slice(chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
        bytes = &rest[end..];
    }
}

/// How many bytes at the beginning are ASCII that JSON takes as it is.
fn plain(bytes: &[u8]) -> usize {
    const BLOCK: usize = 16;
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    // Without a branch inside, so that the compiler looks at a block at once.
    let is_plain = |block: &&[u8; BLOCK]| !block.iter().fold(false, |any, b| any | is_special(*b));
    let from = blocks.iter().take_while(is_plain).count() * BLOCK;
    let rest = bytes[from..].iter();
    rest.take_while(|byte| !is_special(**byte)).count() + from
}

/// The bytes that JSON wants escaped (RFC 8259, section 7), and those beyond ASCII.
const fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\') | (byte >= 0x80)
}

fn escape_byte(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend(br#"\""#),
        b'\\' => out.extend(br"\\"),
        b'\n' => out.extend(br"\n"),
        b'\r' => out.extend(br"\r"),
        b'\t' => out.extend(br"\t"),
        _ => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend(br"\u00");
            out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn back(shape: &Shape, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        shape.frame(true).put(text, &mut out);
        let newlines = out.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!((newlines, out.last()), (1, Some(&b'\n')));
        let (entry, is_whole) = shape.parse(&out);
        let entry = entry.expect("an entry");
        assert!(is_whole && entry.is_stderr);
        entry.log.into_owned()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), b' '..=b'~'], 0..200),
            is_whole: bool,
        ) {
            let mut text: Vec<u8> = bytes.into_iter().filter(|byte| *byte != b'\n').collect();
            if is_whole {
                text.push(b'\n');
            }
            prop_assert_eq!(&back(&Shape::Cri, &text), &text);
            let json = back(&Shape::Json(BTreeMap::new()), &text);
            prop_assert_eq!(String::from_utf8(json).expect("UTF-8"), String::from_utf8_lossy(&text));
        }

        #[test]
        fn text_survives_json(text in "[^\n]{0,100}") {
            let json = back(&Shape::Json(BTreeMap::new()), text.as_bytes());
            prop_assert_eq!(String::from_utf8(json).expect("UTF-8"), text);
        }
    }

    #[test]
    fn attributes_are_between_stream_and_time() {
        let attrs = BTreeMap::from([("tag".to_owned(), "a\"b".to_owned())]);
        let shape = Shape::Json(attrs);
        let mut out = Vec::new();
        shape.frame(false).put(b"x\n", &mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        let start = r#"{"log":"x\n","stream":"stdout","attrs":{"tag":"a\"b"},"time":""#;
        assert!(text.starts_with(start), "{text}");
        let (entry, _) = shape.parse(text.as_bytes());
        assert_eq!(entry.expect("an entry").attrs["tag"], "a\"b");
    }

    #[test]
    fn what_is_no_line_is_none() {
        for line in ["", "\n", "x stdout F a\n", "2026-01-02T03:04:05.5Z stdin F a\n"] {
            assert_eq!(Shape::Cri.parse(line.as_bytes()), (None, false), "{line:?}");
        }
    }
}
