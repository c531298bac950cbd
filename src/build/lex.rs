//! Lines of a Dockerfile: what belongs together becomes one, comments and directives go.

use super::source::Source;
use crate::error::{Error, Result};

/// One instruction's line, continuations joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Of its first line, from 1.
    pub number: usize,
    /// Its last line, here-documents included.
    pub end: usize,
    /// Without the newline; continued lines are joined without a space, as docker does.
    pub text: String,
    pub heredocs: Vec<Heredoc>,
}

impl Line {
    /// The first line and the last.
    pub fn rows(&self) -> (usize, usize) {
        (self.number, self.end.max(self.number))
    }

    /// How many of its lines are here-documents'.
    pub fn heredoc_rows(&self) -> usize {
        self.heredocs.iter().map(|heredoc| heredoc.content.lines().count() + 1).sum()
    }
}

/// A here-document that a line begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    /// Variables are expanded in it: its name is not quoted.
    pub expand: bool,
    /// `<<-`: tabs at the beginning of each line are no part of it.
    pub chomp: bool,
    /// Each line with its newline.
    pub content: String,
}

/// The lines of a Dockerfile, and the character that continues one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lexed {
    pub escape: char,
    pub lines: Vec<Line>,
}

/// The longest Dockerfile that is read.
pub const SIZE_MAX: u64 = 8 << 20;

/// Splits the text into instructions' lines.
pub fn lex(source: &Source) -> Result<Lexed> {
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    let rows: Vec<&str> = text.lines().collect();
    let (escape, first) = directives(source, &rows)?;
    let mut lines = Vec::new();
    let mut at = first;
    while at < rows.len() {
        let row = rows[at].trim_start();
        if row.is_empty() || row.starts_with('#') {
            at += 1;
            continue;
        }
        let number = at + 1;
        let text = continued(&rows, &mut at, escape);
        let heredocs = heredocs(source, number, &text, &rows, &mut at, escape)?;
        lines.push(Line { number, end: at, text: text.trim().to_owned(), heredocs });
    }
    Ok(Lexed { escape, lines })
}

/// The escape character, and the row behind the parser directives.
fn directives(source: &Source, rows: &[&str]) -> Result<(char, usize)> {
    let mut escape = None;
    let mut seen: Vec<String> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let Some((key, value)) = directive(row) else { return Ok((escape.unwrap_or('\\'), at)) };
        if seen.contains(&key) {
            return Err(source.error(
                at + 1,
                "",
                format!("only one {key} parser directive can be used"),
            ));
        }
        if key == "syntax" && !is_frontend(value) {
            return Err(source
                .error(at + 1, value, format!("the frontend {value} is not in this version"))
                .hint("dhow reads the Dockerfile language itself, as docker/dockerfile has it"));
        }
        if key == "escape" {
            escape = match value {
                "\\" => Some('\\'),
                "`" => Some('`'),
                other => {
                    let said = format!("invalid ESCAPE '{other}': must be ` or \\");
                    return Err(source.error(at + 1, other, said));
                }
            };
        }
        seen.push(key);
    }
    Ok((escape.unwrap_or('\\'), rows.len()))
}

/// Whether an image of this name reads what is read here: the Dockerfile language, in whatever
/// version and from whatever registry.
pub fn is_frontend(image: &str) -> bool {
    let image = image.split_whitespace().next().unwrap_or_default();
    let name = image.split('@').next().unwrap_or_default();
    let (directory, last) = name.rsplit_once('/').unwrap_or(("", name));
    let last = last.split(':').next().unwrap_or_default();
    let is_dockers = directory == "docker" || directory.ends_with("/docker");
    is_dockers && ["dockerfile", "dockerfile-upstream"].contains(&last)
}

pub(super) fn directive(row: &str) -> Option<(String, &str)> {
    let (key, value) = row.strip_prefix('#')?.trim().split_once('=')?;
    let key = key.trim().to_ascii_lowercase();
    let known = ["syntax", "escape", "check"].contains(&key.as_str());
    let value = value.trim();
    (known && !value.is_empty()).then_some((key, value))
}

/// The row at `at` and those that continue it; `at` moves behind them.
fn continued(rows: &[&str], at: &mut usize, escape: char) -> String {
    let mut text = String::new();
    let mut is_first = true;
    while let Some(row) = rows.get(*at) {
        *at += 1;
        let trimmed = row.trim_start();
        // Comments and empty lines between continued ones are not there.
        if !is_first && (trimmed.is_empty() || trimmed.starts_with('#')) {
            continue;
        }
        let row = if is_first { trimmed } else { row };
        is_first = false;
        match continues(row, escape) {
            Some(part) => text.push_str(part),
            None => {
                text.push_str(row);
                break;
            }
        }
    }
    text
}

/// What stands before the escape character at the end; a doubled one is none.
fn continues(row: &str, escape: char) -> Option<&str> {
    let part = row.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!part.ends_with(escape)).then_some(part)
}

fn heredocs(
    source: &Source,
    number: usize,
    text: &str,
    rows: &[&str],
    at: &mut usize,
    escape: char,
) -> Result<Vec<Heredoc>> {
    let mut verbs = text.split_whitespace().map(str::to_ascii_uppercase);
    let verb = verbs.next().filter(|verb| verb != "ONBUILD").or_else(|| verbs.next());
    let takes = verb.is_some_and(|verb| ["RUN", "COPY", "ADD"].contains(&verb.as_str()));
    if !takes || !text.contains("<<") {
        return Ok(Vec::new());
    }
    let words = raw_words(text, escape);
    let mut found: Vec<Heredoc> = words.iter().filter_map(|word| heredoc(word)).collect();
    for heredoc in &mut found {
        loop {
            let Some(row) = rows.get(*at) else {
                return Err(unterminated(source, number, &heredoc.name));
            };
            *at += 1;
            let row = if heredoc.chomp { row.trim_start_matches('\t') } else { row };
            if row == heredoc.name {
                break;
            }
            heredoc.content.push_str(row);
            heredoc.content.push('\n');
        }
    }
    Ok(found)
}

fn unterminated(source: &Source, number: usize, name: &str) -> Error {
    source.error(number, name, format!("unterminated heredoc: no line is {name}"))
}

/// `[n]<<[-]NAME`, the name perhaps in quotes.
pub fn heredoc(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let name: String = rest.chars().filter(|c| !['"', '\'', '\\'].contains(c)).collect();
    let expand = name.len() == rest.len();
    (!name.is_empty()).then(|| Heredoc { name, expand, chomp, content: String::new() })
}

/// Words as a shell splits them, quotes and escapes kept.
pub fn raw_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == escape && quote != Some('\'') {
            word.push(c);
            word.extend(chars.next());
            continue;
        }
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The fields of one record (RFC 4180): one with a comma stands in quotes. `None` if a quote is not
/// closed.
pub fn csv(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut();
        match (c, quoted) {
            ('"', true) if chars.peek() == Some(&'"') => {
                chars.next();
                field.into_iter().for_each(|field| field.push('"'));
            }
            ('"', _) => quoted = !quoted,
            (',', false) => fields.push(String::new()),
            (c, _) => field.into_iter().for_each(|field| field.push(c)),
        }
    }
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(text: &str) -> Vec<(usize, String)> {
        let lexed = lex(&Source::new("Dockerfile", text)).expect("lex");
        lexed.lines.into_iter().map(|line| (line.number, line.text)).collect()
    }

    #[test]
    fn lines_are_continued_and_comments_go() {
        let text = "# a comment\n\nFROM x\n  # another\nRUN a \\\n  # inside\n\n  && b \\  \n && c\n# end\nCMD d\\\\\n";
        let expected = [(3, "FROM x"), (5, "RUN a   && b  && c"), (11, "CMD d\\\\")]
            .map(|(n, t)| (n, t.to_owned()));
        assert_eq!(lines(text), expected);
    }

    #[test]
    fn directives_come_first() {
        let text = "# escape=`\n# syntax = docker/dockerfile:1\nRUN a `\nb\n";
        assert_eq!(lines(text), [(3, "RUN a b".to_owned())]);
        assert_eq!(lines("# hi\n# escape=`\nRUN a \\\nb"), [(3, "RUN a b".to_owned())]);
        for known in
            ["docker.io/docker/dockerfile:1-labs", "h:5/m/docker/dockerfile-upstream@sha256:0"]
        {
            assert_eq!(lines(&format!("# syntax={known}\nFROM x")).len(), 1, "{known}");
        }
        for bad in ["# escape=x\nFROM x", "# escape=`\n# escape=`\n", "# syntax=a/b\nFROM x"] {
            lex(&Source::new("D", bad)).expect_err(bad);
        }
    }

    #[test]
    fn heredocs_are_taken_whole() {
        let text = "COPY <<ONE <<-\"TWO\" /d/\n# x\n$y\nONE\n\t\tz\n\tTWO\nRUN cat <<<x\n";
        let lexed = lex(&Source::new("D", text)).expect("lex");
        let [copy, run] = &lexed.lines[..] else { panic!("{lexed:?}") };
        assert_eq!(copy.heredocs[0].content, "# x\n$y\n");
        assert!(copy.heredocs[0].expand && !copy.heredocs[1].expand);
        assert_eq!(copy.heredocs[1].content, "z\n");
        assert_eq!((run.number, run.heredocs.len()), (7, 0));
        let lexed = lex(&Source::new("D", "ONBUILD RUN <<E\nx\nE\nCMD <<E\n")).expect("lex");
        assert_eq!(lexed.lines[0].heredocs[0].content, "x\n");
        assert_eq!(lexed.lines[1].text, "CMD <<E");
        let err = lex(&Source::new("D", "RUN <<E\nx\n")).expect_err("open").to_string();
        assert!(err.starts_with("D:1:7: unterminated heredoc"), "{err}");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[ -~\n\t\"'\\\\`<$é]{0,200}") {
            let _ = lex(&Source::new("D", text));
        }
    }
}
