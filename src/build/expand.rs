//! Words: quotes, escapes, and variables in every form that docker's builder knows.

use super::lex::raw_words;
use crate::error::{Error, Result};

/// Says what a variable is.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How deep `${a:-${b:-...}}` may go.
const DEPTH_MAX: usize = 64;

/// One word: variables replaced, quotes and escapes taken away.
pub fn word(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String> {
    let mut reader = Reader::new(text, escape, lookup);
    let value = reader.until(None, 0)?;
    Ok(value.text)
}

/// As [`word`], split where whitespace is not quoted: what `EXPOSE $PORTS` means.
pub fn words(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for raw in raw_words(text, escape) {
        let value = Reader::new(&raw, escape, lookup).until(None, 0)?;
        found.extend(value.split());
    }
    Ok(found)
}

/// A here-document: variables alone; quotes mean nothing in it.
pub fn heredoc(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String> {
    let mut reader = Reader::new(text, escape, lookup);
    reader.quotes = false;
    Ok(reader.until(None, 0)?.text)
}

/// Text, and which of its bytes came out of quotes or were written so.
#[derive(Default)]
struct Value {
    text: String,
    /// Byte ranges in which whitespace separates words: what variables brought.
    loose: Vec<std::ops::Range<usize>>,
}

impl Value {
    fn push_loose(&mut self, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        self.loose.push(start..self.text.len());
    }

    fn split(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut word = String::new();
        for (at, c) in self.text.char_indices() {
            if c.is_whitespace() && self.loose.iter().any(|range| range.contains(&at)) {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            } else {
                word.push(c);
            }
        }
        if !word.is_empty() || self.text.is_empty() {
            words.push(word);
        }
        words.retain(|word| !word.is_empty());
        words
    }
}

struct Reader<'a> {
    chars: Vec<char>,
    at: usize,
    escape: char,
    lookup: Lookup<'a>,
    quotes: bool,
}

impl<'a> Reader<'a> {
    fn new(text: &str, escape: char, lookup: Lookup<'a>) -> Self {
        Self { chars: text.chars().collect(), at: 0, escape, lookup, quotes: true }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Up to the end, or up to and without `end`.
    fn until(&mut self, end: Option<char>, depth: usize) -> Result<Value> {
        let mut value = Value::default();
        if depth > DEPTH_MAX {
            return Err(Error::invalid("variables are nested too deeply"));
        }
        while let Some(c) = self.peek() {
            if Some(c) == end {
                return Ok(value);
            }
            self.at += 1;
            match c {
                '\'' if self.quotes => self.single(&mut value)?,
                '"' if self.quotes => self.double(&mut value, depth)?,
                '$' => {
                    let text = self.dollar(depth)?;
                    value.push_loose(&text);
                }
                c if c == self.escape => match self.next() {
                    Some(next) if self.quotes || next == '$' || next == self.escape => {
                        value.text.push(next);
                    }
                    next => {
                        // At the very end it stands for itself.
                        value.text.push(c);
                        value.text.extend(next);
                    }
                },
                c => value.text.push(c),
            }
        }
        match end {
            None => Ok(value),
            Some(end) => Err(Error::invalid(format!("a variable is not closed: missing {end}"))),
        }
    }

    fn single(&mut self, value: &mut Value) -> Result<()> {
        while let Some(c) = self.next() {
            if c == '\'' {
                return Ok(());
            }
            value.text.push(c);
        }
        Err(Error::invalid("unexpected end of statement while looking for matching single-quote"))
    }

    fn double(&mut self, value: &mut Value, depth: usize) -> Result<()> {
        while let Some(c) = self.next() {
            match c {
                '"' => return Ok(()),
                '$' => {
                    let text = self.dollar(depth)?;
                    value.text.push_str(&text);
                }
                c if c == self.escape => match self.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        value.text.push(next);
                    }
                    next => {
                        value.text.push(c);
                        value.text.extend(next);
                    }
                },
                c => value.text.push(c),
            }
        }
        Err(Error::invalid("unexpected end of statement while looking for matching double-quote"))
    }

    /// Behind a `$`.
    fn dollar(&mut self, depth: usize) -> Result<String> {
        if depth > DEPTH_MAX {
            return Err(Error::invalid("variables are nested too deeply"));
        }
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(match name.as_str() {
                "" => "$".to_owned(),
                name => (self.lookup)(name).unwrap_or_default(),
            });
        }
        self.at += 1;
        let name = self.name();
        if name.is_empty() {
            return Err(Error::invalid("syntax error: bad substitution"));
        }
        let value = (self.lookup)(&name);
        let unclosed = || Error::invalid("syntax error: missing '}'");
        match self.next().ok_or_else(unclosed)? {
            '}' => Ok(value.unwrap_or_default()),
            ':' => {
                let modifier = self.next().ok_or_else(unclosed)?;
                let there = value.filter(|value| !value.is_empty());
                self.conditional(&name, modifier, there, depth)
            }
            modifier @ ('-' | '+' | '?') => self.conditional(&name, modifier, value, depth),
            side @ ('#' | '%') => {
                let greedy = self.peek() == Some(side);
                self.at += usize::from(greedy);
                let pattern = self.pattern('}', depth)?;
                let value: Vec<char> = value.unwrap_or_default().chars().collect();
                Ok(trimmed(&value, &pattern, side, greedy))
            }
            '/' => {
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let pattern = self.pattern('/', depth)?;
                let with = self.until(Some('}'), depth + 1)?.text;
                self.at += 1;
                let value: Vec<char> = value.unwrap_or_default().chars().collect();
                Ok(replaced(&value, &pattern, &with, all))
            }
            other => Err(Error::invalid(format!("unsupported modifier ({other}) in substitution"))),
        }
    }

    fn conditional(
        &mut self,
        name: &str,
        modifier: char,
        value: Option<String>,
        depth: usize,
    ) -> Result<String> {
        let word = self.until(Some('}'), depth + 1)?.text;
        self.at += 1;
        match (modifier, value) {
            ('-', value) => Ok(value.unwrap_or(word)),
            ('+', value) => Ok(value.map(|_| word).unwrap_or_default()),
            ('?', Some(value)) => Ok(value),
            ('?', None) => {
                let said = if word.is_empty() { "not set" } else { &word };
                Err(Error::invalid(format!("{name}: {said}")))
            }
            (other, _) => {
                Err(Error::invalid(format!("unsupported modifier (:{other}) in substitution")))
            }
        }
    }

    fn name(&mut self) -> String {
        let Some(first) = self.peek() else { return String::new() };
        // Digits and a shell's special parameters are names of one character.
        if first.is_ascii_digit() || "@*#!?-$".contains(first) {
            self.at += 1;
            return first.to_string();
        }
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
            self.at += 1;
        }
        name
    }

    /// A glob up to and with `end`; an escaped character stands for itself.
    fn pattern(&mut self, end: char, depth: usize) -> Result<Vec<Glob>> {
        let mut pattern = Vec::new();
        loop {
            match self.next() {
                None => return Err(Error::invalid("syntax error: missing '}'")),
                Some(c) if c == end => return Ok(pattern),
                Some('*') => pattern.push(Glob::Any),
                Some('?') => pattern.push(Glob::One),
                Some('$') => {
                    let text = self.dollar(depth + 1)?;
                    pattern.extend(text.chars().map(Glob::Char));
                }
                Some(c) if c == self.escape => pattern.extend(self.next().map(Glob::Char)),
                Some(c) => pattern.push(Glob::Char(c)),
            }
        }
    }
}

enum Glob {
    Any,
    One,
    Char(char),
}

/// Every length of `value`'s beginning that the pattern matches, in one pass for each part.
fn matches(value: &[char], pattern: &[Glob]) -> Vec<usize> {
    let mut ends: Vec<bool> = vec![false; value.len() + 1];
    ends[0] = true;
    for part in pattern {
        let mut next = vec![false; value.len() + 1];
        for at in 0..=value.len() {
            match part {
                Glob::Any => next[at] = ends[at] || (at > 0 && next[at - 1]),
                Glob::One => next[at] = at > 0 && ends[at - 1],
                Glob::Char(c) => next[at] = at > 0 && ends[at - 1] && value[at - 1] == *c,
            }
        }
        ends = next;
    }
    ends.iter().enumerate().filter_map(|(at, is_end)| is_end.then_some(at)).collect()
}

fn trimmed(value: &[char], pattern: &[Glob], side: char, greedy: bool) -> String {
    if side == '#' {
        let ends = matches(value, pattern);
        let cut = if greedy { ends.last() } else { ends.first() };
        return value[cut.copied().unwrap_or(0)..].iter().collect();
    }
    let mut starts = (0..=value.len())
        .filter(|start| matches(&value[*start..], pattern).contains(&(value.len() - start)));
    let cut = if greedy { starts.next() } else { starts.next_back() };
    value[..cut.unwrap_or(value.len())].iter().collect()
}

fn replaced(value: &[char], pattern: &[Glob], with: &str, all: bool) -> String {
    let mut out = String::new();
    let mut at = 0;
    let mut done = false;
    while at < value.len() {
        let longest = matches(&value[at..], pattern).last().copied().filter(|length| *length > 0);
        match longest.filter(|_| !done) {
            Some(length) => {
                out.push_str(with);
                at += length;
                done = !all;
            }
            None => {
                out.push(value[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> Option<String> {
        let value = match name {
            "a" => "one",
            "empty" => "",
            "path" => "/usr/lib/x.tar.gz",
            "two" => "x  y",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn every_form() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$a-${a}", "one-one"),
            ("$none|${none}|$", "||$"),
            ("'$a' \"$a\" \\$a \"\\$a\\n\"", "$a one $a $a\\n"),
            ("${none:-x}${empty:-y}${empty-z}${none-w}", "xyw"),
            ("${a:+x}${empty:+y}${empty+z}", "xz"),
            ("${none:-${a:-b}}", "one"),
            ("${none:-\"a b\"}", "a b"),
            ("${a:?no}${a?no}", "oneone"),
            ("${path#*/}", "usr/lib/x.tar.gz"),
            ("${path##*/}", "x.tar.gz"),
            ("${path%.*}", "/usr/lib/x.tar"),
            ("${path%%.*}", "/usr/lib/x"),
            ("${path/l?b/L}", "/usr/L/x.tar.gz"),
            ("${path//./-}", "/usr/lib/x-tar-gz"),
            ("${path//\\//:}", ":usr:lib:x.tar.gz"),
            ("end\\", "end\\"),
        ] {
            assert_eq!(word(text, '\\', &lookup).expect(text), expected, "{text}");
        }
        assert_eq!(word("`$a \\$a", '`', &lookup).expect("escape"), "$a \\one");
    }

    #[test]
    fn words_split_what_variables_bring() {
        let found = words("a$two \"$two\" $none 80", '\\', &lookup).expect("words");
        assert_eq!(found, ["ax", "y", "x  y", "80"]);
    }

    #[test]
    fn quotes_mean_nothing_in_a_heredoc() {
        let text = heredoc("\"$a\" '$a' \\$a \\n it's\n", '\\', &lookup).expect("heredoc");
        assert_eq!(text, "\"one\" 'one' $a \\n it's\n");
    }

    #[test]
    fn mistakes_are_told() {
        for bad in
            ["'x", "\"x", "${", "${a", "${}", "${a:", "${a:=x}", "${none?}", "${a!x}", "${a/x}"]
        {
            word(bad, '\\', &lookup).expect_err(bad);
        }
        let deep = format!("{}{}", "${x:-".repeat(5000), "}".repeat(5000));
        word(&deep, '\\', &lookup).expect_err("deep");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[ -~\n$\\{\\}\\\\'\"*?:é]{0,80}") {
            let _ = word(&text, '\\', &lookup);
            let _ = words(&text, '`', &lookup);
            let _ = heredoc(&text, '\\', &lookup);
        }

        #[test]
        fn what_is_quoted_stays(text in "[a-z $*?{}\"]{0,40}") {
            prop_assert_eq!(word(&format!("'{text}'"), '\\', &lookup).expect("quoted"), text);
        }
    }
}
