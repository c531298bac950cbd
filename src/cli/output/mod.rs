//! What commands print: templates, tables, sizes and times in docker's words, progress.

pub mod progress;
pub mod table;
pub mod template;
pub mod units;

use std::{borrow::Cow, io::Write as _};

/// `text` with everything that could move a cursor, forge a line or reorder what is read
/// written out visibly (`\x1b`, `\n`, `\u202e`): names, labels and commands come from images.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            _ if is_unsafe(c) && u32::from(c) < 0x80 => {
                safe.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            _ if is_unsafe(c) => safe.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and the bidirectional
/// marks of Unicode UAX #9.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Prints what was asked for. A reader that went away is no error: the command ends quietly.
pub fn print(text: &str) -> crate::error::Result<()> {
    use crate::error::Context as _;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.doing("write to standard output"),
    }
}

/// As [`print`], for output without an end; `false` if its reader has gone.
pub fn print_on(text: &str) -> crate::error::Result<bool> {
    use crate::error::Context as _;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => written.doing("write to standard output").map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown_and_plain_text_is_kept() {
        assert!(matches!(visible("grün 漢字"), Cow::Borrowed(_)));
        assert_eq!(visible("a\x1b[31m\n\t\u{9b}\u{202e}\x7f"), r"a\x1b[31m\n\t\u009b\u202e\x7f");
    }
}
