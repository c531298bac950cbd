//! Patterns over paths: those of Go's `path/filepath.Match`, and `.dockerignore` with its `**`.
//!
//! Paths are relative and clean: no `.`, no `..`, no empty component. Matching takes time in
//! proportion to pattern times path, whatever the pattern.

use crate::error::{Error, Result};

/// A compiled glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: one character, no slash.
    One,
    /// `*`: any, no slash.
    Star,
    /// `**`: any, slashes too.
    Deep,
    /// `**/`: nothing, or whole directories.
    DeepDirs,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// As Go's `filepath.Match` reads it; `**` means no more than `*`.
    pub fn new(pattern: &str) -> Result<Self> {
        Self::compile(pattern, false)
    }

    fn compile(pattern: &str, deep: bool) -> Result<Self> {
        let bad = || Error::invalid(format!("syntax error in pattern {pattern:?}"));
        let chars: Vec<char> = pattern.chars().collect();
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < chars.len() {
            let c = chars[at];
            at += 1;
            match c {
                '*' if deep && chars.get(at) == Some(&'*') => {
                    while chars.get(at) == Some(&'*') {
                        at += 1;
                    }
                    let slash = chars.get(at) == Some(&'/');
                    at += usize::from(slash);
                    tokens.push(if slash { Token::DeepDirs } else { Token::Deep });
                }
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::One),
                '\\' => {
                    tokens.push(Token::Char(*chars.get(at).ok_or_else(bad)?));
                    at += 1;
                }
                '[' => tokens.push(class(&chars, &mut at).ok_or_else(bad)?),
                c => tokens.push(Token::Char(c)),
            }
        }
        Ok(Self(tokens))
    }

    /// Whether the whole path is meant.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        let mut ends = vec![false; path.len() + 1];
        ends[0] = true;
        for token in &self.0 {
            ends = step(token, &path, &ends);
        }
        ends[path.len()]
    }
}

/// Where a match can end behind one more token.
fn step(token: &Token, path: &[char], before: &[bool]) -> Vec<bool> {
    let mut after = vec![false; path.len() + 1];
    let mut begun = false;
    for at in 0..=path.len() {
        let last = at.checked_sub(1).map(|last| path[last]);
        let came = at > 0 && before[at - 1];
        after[at] = match token {
            Token::Char(c) => came && last == Some(*c),
            Token::One => came && last != Some('/'),
            Token::Class { negated, ranges } => {
                came && last.is_some_and(|c| {
                    c != '/'
                        && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
                })
            }
            Token::Star => before[at] || (at > 0 && after[at - 1] && last != Some('/')),
            Token::Deep => before[at] || (at > 0 && after[at - 1]),
            Token::DeepDirs => {
                begun |= came;
                before[at] || (begun && last == Some('/'))
            }
        };
    }
    after
}

/// Behind a `[`.
fn class(chars: &[char], at: &mut usize) -> Option<Token> {
    let negated = chars.get(*at) == Some(&'^');
    *at += usize::from(negated);
    let mut ranges = Vec::new();
    loop {
        if chars.get(*at)? == &']' && !ranges.is_empty() {
            *at += 1;
            return Some(Token::Class { negated, ranges });
        }
        let low = class_char(chars, at)?;
        let mut high = low;
        if chars.get(*at) == Some(&'-') {
            *at += 1;
            high = class_char(chars, at)?;
        }
        ranges.push((low, high));
    }
}

fn class_char(chars: &[char], at: &mut usize) -> Option<char> {
    let mut c = *chars.get(*at)?;
    *at += 1;
    if c == '-' || c == ']' {
        return None;
    }
    if c == '\\' {
        c = *chars.get(*at)?;
        *at += 1;
    }
    Some(c)
}

/// Whether Go's functions see a pattern in it.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// A path without `.`, `..`, empty components and the slash at the beginning, as Go's
/// `filepath.Clean` of it beneath `/`. The top itself is empty.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What to leave out, and what of it to take in again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    glob: Glob,
    /// `!`: not left out after all.
    negated: bool,
}

impl Ignore {
    /// Reads `.dockerignore`.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self::new(lines.map(str::trim))
    }

    /// Patterns one by one; empty ones mean nothing.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut rules = Vec::new();
        for pattern in patterns {
            let (negated, pattern) = match pattern.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, pattern),
            };
            let clean = clean(pattern);
            if clean.is_empty() {
                if negated && pattern.is_empty() {
                    return Err(Error::invalid("illegal exclusion pattern: \"!\""));
                }
                continue;
            }
            let glob = Glob::compile(&clean, true)?;
            // Nothing is above the top.
            if !climbs(pattern) {
                rules.push(Rule { glob, negated });
            }
        }
        Ok(Self { rules })
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the path is left out, as docker finds out on its way down to it: what a rule has said of a
    /// directory holds for all in it, and a rule is only asked where its answer could change something.
    pub fn ignores(&self, path: &str) -> bool {
        let mut meant = vec![false; self.rules.len()];
        let mut ignored = false;
        for part in above(path) {
            ignored = false;
            for (rule, meant) in self.rules.iter().zip(&mut meant) {
                *meant = *meant || (rule.negated == ignored && rule.glob.matches(part));
                if *meant {
                    ignored = !rule.negated;
                }
            }
        }
        ignored
    }

    /// Whether something in a directory that is left out may be taken in again.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.negated)
    }
}

/// Whether a relative path leads above where it begins; Go's `filepath.Clean` keeps its `..`.
fn climbs(path: &str) -> bool {
    let mut depth = 0_i32;
    let climb = |part: &str| {
        depth += match part {
            "" | "." => 0,
            ".." => -1,
            _ => 1,
        };
        depth < 0
    };
    !path.starts_with('/') && path.split('/').any(climb)
}

/// `a`, `a/b`, `a/b/c` of `a/b/c`.
fn above(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_are_those_of_go() {
        for (pattern, path, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a?b", "a/b", false),
            ("a[^a]b", "a☺b", true),
            ("[\\]a]", "]", true),
            ("**", "a/b", false),
            ("*x", "xxx", true),
        ] {
            assert_eq!(
                Glob::new(pattern).expect(pattern).matches(path),
                expected,
                "{pattern} {path}"
            );
        }
        for bad in ["[", "[]a]", "[-]", "[a", "[a-", "[^", "a\\", "[x-]"] {
            Glob::new(bad).expect_err(bad);
        }
    }

    #[test]
    fn ignore_rules_are_those_of_docker() {
        for (rules, path, expected) in [
            ("a", "a", true),
            ("a", "a/b", true),
            ("a", "b/a", false),
            ("/a/", "a/x", true),
            ("**/a", "b/c/a", true),
            ("**/a", "a", true),
            ("**/a", "ba", false),
            ("a/**", "a/b/c", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("**", "x/y", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md\nREADME*", "README.md", true),
            ("*/temp*", "some/temporary.txt", true),
            ("*/temp*", "temp", false),
            ("d\n!d/keep", "d/keep", false),
            ("d\n!d/keep", "d/keep/x", false),
            ("d\n!d/keep", "d/x", true),
            ("# d\n\n  d  ", "d", true),
            ("!d\nd", "d", true),
            ("../x", "x", false),
            ("d/../../x", "x", false),
            ("/../x", "x", true),
            ("d/a\n!d", "d/a", true),
        ] {
            let ignore = Ignore::parse(rules).expect(rules);
            assert_eq!(ignore.ignores(path), expected, "{rules:?} {path}");
        }
        Ignore::parse("a[").expect_err("class");
        Ignore::parse("!").expect_err("alone");
    }

    /// What docker 28 took into an image by `COPY . /` with each of these files.
    #[test]
    fn files_are_left_out_as_docker_leaves_them_out() {
        let text = include_str!("../../tests/corpus/dockerignore/docker28.jsonl");
        let mut lines = text.lines().map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("a line of the corpus")
        });
        let list = |value: &serde_json::Value| -> Vec<String> {
            let list = value.as_array().into_iter().flatten();
            list.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let files = list(&lines.next().expect("the files")["files"]);
        for line in lines {
            let rules = line["ignore"].as_str().expect("rules");
            let Ok(ignore) = Ignore::parse(&format!("{rules}\n")) else {
                assert_eq!(line["error"], true, "{rules:?}");
                continue;
            };
            assert!(line["error"].is_null(), "{rules:?}");
            let (kept, left_out) = (list(&line["kept"]), list(&line["left_out"]));
            for file in &files {
                let expected = match line["kept"].is_array() {
                    true => !kept.contains(file),
                    false => left_out.contains(file),
                };
                assert_eq!(ignore.ignores(file), expected, "{rules:?} {file}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(rules in "[ -~\n*?!/\\[\\]^\\\\é-]{0,60}", path in "[a-c/]{0,20}") {
            if let Ok(ignore) = Ignore::parse(&rules) {
                ignore.ignores(&clean(&path));
            }
        }

        #[test]
        fn a_path_matches_itself(path in "[a-z]{1,3}(/[a-z]{1,3}){0,3}") {
            prop_assert!(Glob::new(&path).expect("plain").matches(&path));
            let all_but = Ignore::parse(&format!("**\n!{path}")).expect("rule");
            prop_assert!(!all_but.ignores(&path));
        }
    }
}
