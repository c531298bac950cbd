//! Words: quotes, escapes, and variables in every form that docker's builder knows.

use super::lex::raw_words;
use crate::error::{Error, Result};

/// Says what a variable is.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How deep `${a:-${b:-...}}` may go.
const DEPTH_MAX: usize = 64;

/// One word: variables replaced, quotes and escapes taken away.
pub fn word(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String> {
    let value = Reader::new(text, escape, lookup).until(None, 0);
    Ok(value.map_err(|err| failed(text, err))?.text)
}

/// As [`word`], split where whitespace is not quoted: what `EXPOSE $PORTS` means.
pub fn words(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for raw in raw_words(text, escape) {
        let value = Reader::new(&raw, escape, lookup).until(None, 0);
        found.extend(value.map_err(|err| failed(&raw, err))?.split());
    }
    Ok(found)
}

/// A here-document: variables and escapes alone; quotes mean nothing in it, and `\\` is what
/// escapes, whatever does in the Dockerfile.
pub fn heredoc(text: &str, lookup: Lookup<'_>) -> Result<String> {
    let mut reader = Reader::new(text, '\\', lookup);
    reader.quotes = false;
    Ok(reader.until(None, 0)?.text)
}

fn failed(text: &str, err: Error) -> Error {
    err.context(format!("failed to process {text:?}"))
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
    /// Escapes stay where they are: what is read is a pattern.
    raw: bool,
}

impl<'a> Reader<'a> {
    fn new(text: &str, escape: char, lookup: Lookup<'a>) -> Self {
        Self { chars: text.chars().collect(), at: 0, escape, lookup, quotes: true, raw: false }
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
                c if c == self.escape => {
                    value.text.extend(Some(c).filter(|_| self.raw));
                    value.text.extend(self.next());
                }
                c => value.text.push(c),
            }
        }
        match end {
            None => Ok(value),
            Some('/') => Err(Error::invalid("syntax error: missing '/' in ${}")),
            Some(end) => Err(Error::invalid(format!("syntax error: missing '{end}'"))),
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
                c if c == self.escape => {
                    let next = self.peek();
                    let is_escaped =
                        next.is_some_and(|next| next == '"' || next == '$' || next == self.escape);
                    value.text.extend(Some(c).filter(|_| self.raw || !is_escaped));
                    if is_escaped {
                        value.text.extend(self.next());
                    }
                }
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
        match self.next() {
            None => Err(Error::invalid("syntax error: missing '}'")),
            Some('}') => Ok(value.unwrap_or_default()),
            Some('/') => self.replacement(&value.unwrap_or_default(), depth),
            Some(':') => match self.next() {
                None => Err(Error::invalid("syntax error: missing '}'")),
                Some(modifier) => self.modified(&name, (true, modifier), value, depth),
            },
            Some(modifier) => self.modified(&name, (false, modifier), value, depth),
        }
    }

    /// `-`, `+`, `?`, `#` and `%`; behind a colon an empty value is none.
    fn modified(
        &mut self,
        name: &str,
        (colon, modifier): (bool, char),
        value: Option<String>,
        depth: usize,
    ) -> Result<String> {
        let colon = if colon { ":" } else { "" };
        if !"-+?".contains(modifier) && (!colon.is_empty() || !"#%".contains(modifier)) {
            return Err(Error::invalid(format!(
                "unsupported modifier ({colon}{modifier}) in substitution"
            )));
        }
        let word = self.part('}', "#%".contains(modifier), depth)?;
        let is_there = value.as_ref().is_some_and(|value| colon.is_empty() || !value.is_empty());
        match (modifier, is_there) {
            ('-', false) | ('+', true) => Ok(word),
            ('+', false) => Ok(String::new()),
            ('?', false) => {
                let state = if value.is_some() { "empty" } else { "unset" };
                let said = match word.as_str() {
                    "" => &format!("is not allowed to be {state}"),
                    word => word,
                };
                Err(Error::invalid(format!("{name}: {said}")))
            }
            ('#' | '%', _) => {
                let greedy = word.starts_with(modifier);
                let pattern = pattern(&word[usize::from(greedy)..])?;
                let value: Vec<char> = value.unwrap_or_default().chars().collect();
                Ok(trimmed(&value, &pattern, modifier, greedy))
            }
            _ => Ok(value.unwrap_or_default()),
        }
    }

    /// Behind `${name/`.
    fn replacement(&mut self, value: &str, depth: usize) -> Result<String> {
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let what = self.part('/', true, depth)?;
        let with = self.part('}', true, depth)?;
        let value: Vec<char> = value.chars().collect();
        Ok(replaced(&value, &pattern(&what)?, &with, all))
    }

    /// Up to and with `end`.
    fn part(&mut self, end: char, raw: bool, depth: usize) -> Result<String> {
        let before = std::mem::replace(&mut self.raw, raw);
        let value = self.until(Some(end), depth + 1);
        self.raw = before;
        self.at += 1;
        Ok(value?.text)
    }

    fn name(&mut self) -> String {
        let Some(first) = self.peek() else { return String::new() };
        // A shell's special parameters are names of one character.
        if "@*#!?-$".contains(first) {
            self.at += 1;
            return first.to_string();
        }
        let is_number = first.is_numeric();
        let belongs = |c: &char| match is_number {
            true => c.is_numeric(),
            false => c.is_alphanumeric() || *c == '_',
        };
        let mut name = String::new();
        while let Some(c) = self.peek().filter(belongs) {
            name.push(c);
            self.at += 1;
        }
        name
    }
}

/// A shell's pattern without classes. Only what means something can be escaped.
fn pattern(text: &str) -> Result<Vec<Glob>> {
    let mut pattern = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        pattern.push(match c {
            '*' => Glob::Any,
            '?' => Glob::One,
            '\\' => match chars.next() {
                Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Glob::Char(c),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(Error::invalid(format!(
                        "invalid pattern ({text}) in substitution: invalid escape '\\{other}'"
                    )));
                }
            },
            c => Glob::Char(c),
        });
    }
    Ok(pattern)
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
                // Neither goes beyond a line.
                Glob::Any => {
                    next[at] = ends[at] || (at > 0 && next[at - 1] && value[at - 1] != '\n');
                }
                Glob::One => next[at] = at > 0 && ends[at - 1] && value[at - 1] != '\n',
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
    // Where the last one ended: nothing that is empty begins there.
    let mut end = None;
    while at <= value.len() {
        let longest = matches(&value[at..], pattern).last().copied();
        let found = longest.filter(|length| !done && (*length > 0 || end != Some(at)));
        if let Some(length) = found {
            out.push_str(with);
            done = !all;
            if length > 0 {
                at += length;
                end = Some(at);
                continue;
            }
        }
        out.extend(value.get(at));
        at += 1;
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
            "glob" => ".*",
            "stars" => "*a*",
            "12" => "twelve",
            "é" => "accent",
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
            ("${path#\"/usr\"}|${path#'/usr'}", "/lib/x.tar.gz|/lib/x.tar.gz"),
            ("${path%${glob}}", "/usr/lib/x.tar"),
            ("${stars#\\*}|${stars//\\*/x}|${stars//*/x}", "a*|xax|x"),
            ("${empty//*/x}|${a//*/x}|${a///-}", "x|x|-o-n-e-"),
            ("${none//x/y}|${a/n/\\/}", "|o\\/e"),
            ("$12|${12}|$é", "twelve|twelve|accent"),
            ("end\\", "end"),
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
        let text = heredoc("\"$a\" '$a' \\$a \\n \\\\ \\\n it's\n", &lookup).expect("heredoc");
        assert_eq!(text, "\"one\" 'one' $a n \\ \n it's\n");
    }

    #[test]
    fn mistakes_are_told() {
        for (bad, said) in [
            ("'x", "single-quote"),
            ("\"x", "double-quote"),
            ("${", "bad substitution"),
            ("${a", "missing '}'"),
            ("${}", "bad substitution"),
            ("${a:", "missing '}'"),
            ("${a:=x}", "unsupported modifier (:=) in substitution"),
            ("${none?}", "none: is not allowed to be unset"),
            ("${empty:?}", "empty: is not allowed to be empty"),
            ("${empty:?no}", "failed to process \"${empty:?no}\": empty: no"),
            ("${a!x}", "unsupported modifier (!) in substitution"),
            ("${a:#x}", "unsupported modifier (:#) in substitution"),
            ("${a/x}", "missing '/' in ${}"),
            ("${a/x/y", "missing '}'"),
            ("${a#\\o}", "invalid pattern (\\o) in substitution: invalid escape '\\o'"),
        ] {
            let err = word(bad, '\\', &lookup).expect_err(bad).to_string();
            assert!(err.contains(said), "{bad}: {err}");
        }
        let deep = format!("{}{}", "${x:-".repeat(5000), "}".repeat(5000));
        word(&deep, '\\', &lookup).expect_err("deep");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[ -~\n$\\{\\}\\\\'\"*?:é]{0,80}") {
            let _ = word(&text, '\\', &lookup);
            let _ = words(&text, '`', &lookup);
            let _ = heredoc(&text, &lookup);
        }

        #[test]
        fn what_is_quoted_stays(text in "[a-z $*?{}\"]{0,40}") {
            prop_assert_eq!(word(&format!("'{text}'"), '\\', &lookup).expect("quoted"), text);
        }
    }
}
