//! YAML, as far as descriptions of devices use it.
//!
//! Mappings and sequences by indentation, lists in brackets and mappings in braces on one line,
//! plain and quoted scalars, comments and one document (YAML 1.2.2, chapters 6 to 9; plain scalars as
//! in its core schema). What else YAML has is an error that names the line: anchors, tags, block
//! scalars, text over several lines.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Collections in each other; beyond it a file is no description of devices.
const DEPTH: usize = 32;

/// Reads one document.
pub(super) fn parse(text: &str) -> Result<Value> {
    let mut reader = Reader { lines: lines(text)?, at: 0 };
    let Some(first) = reader.lines.first() else { return Ok(Value::Null) };
    let indent = first.indent;
    let value = reader.node(indent, 0)?;
    match reader.lines.get(reader.at) {
        Some(line) => Err(wrong(line.number, "it belongs to nothing above it")),
        None => Ok(value),
    }
}

fn wrong(number: usize, why: &str) -> Error {
    Error::invalid(format!("line {number}: {why}"))
}

/// A line that says something.
struct Line<'a> {
    number: usize,
    /// Columns before it begins.
    indent: usize,
    /// Without what is around it, comments included.
    text: &'a str,
}

fn lines(text: &str) -> Result<Vec<Line<'_>>> {
    let mut found = Vec::new();
    let mut ended = false;
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = without_comment(line).trim_end();
        let text = line.trim_start_matches(' ');
        let indent = line.len() - text.len();
        if text.is_empty() || (indent == 0 && text == "---" && found.is_empty()) {
            continue;
        }
        if text.starts_with('\t') {
            return Err(wrong(number, "a tab cannot indent"));
        }
        if indent == 0 && text == "..." {
            ended = true;
            continue;
        }
        if ended || (indent == 0 && (text == "---" || text.starts_with("--- "))) {
            return Err(wrong(number, "a second document is not read"));
        }
        if indent == 0 && text.starts_with('%') {
            return Err(wrong(number, "a directive is not read"));
        }
        found.push(Line { number, indent, text });
    }
    Ok(found)
}

/// A `#` begins a comment at the line's start or behind a blank, and not in quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if (c == '"' || c == '\'') && " [{,:-".contains(before) => quote = Some(c),
            None if c == '#' && (before == ' ' || before == '\t') => return &line[..at],
            None => {}
        }
        before = c;
    }
    line
}

struct Reader<'a> {
    lines: Vec<Line<'a>>,
    at: usize,
}

impl<'a> Reader<'a> {
    /// What begins at `indent`, from the current line on.
    fn node(&mut self, indent: usize, depth: usize) -> Result<Value> {
        let line = &self.lines[self.at];
        if depth > DEPTH {
            return Err(wrong(line.number, "too many collections in each other"));
        }
        if item(line.text).is_some() {
            return self.sequence(indent, depth);
        }
        if key(line)?.is_some() {
            return self.mapping(indent, depth);
        }
        self.at += 1;
        flow(line.text, line.number)
    }

    fn sequence(&mut self, indent: usize, depth: usize) -> Result<Value> {
        let mut list = Vec::new();
        while let Some(line) = self.lines.get(self.at).filter(|line| line.indent == indent) {
            let Some(rest) = item(line.text) else { break };
            list.push(match rest {
                "" => {
                    self.at += 1;
                    self.beneath(indent + 1, depth)?
                }
                rest => {
                    // What stands behind the dash begins there, as if on a line of its own.
                    let inner = indent + (line.text.len() - rest.len());
                    let number = line.number;
                    self.lines[self.at] = Line { number, indent: inner, text: rest };
                    self.node(inner, depth + 1)?
                }
            });
        }
        self.ends(indent)?;
        Ok(Value::Array(list))
    }

    fn mapping(&mut self, indent: usize, depth: usize) -> Result<Value> {
        let mut map = Map::new();
        while let Some(line) = self.lines.get(self.at).filter(|line| line.indent == indent) {
            let Some((name, rest)) = key(line)? else {
                return Err(wrong(line.number, "a key and a colon are missing"));
            };
            let number = line.number;
            self.at += 1;
            let value = match rest {
                // A list may stand right beneath its key.
                "" => {
                    let next = self.lines.get(self.at);
                    let list =
                        next.filter(|next| next.indent == indent && item(next.text).is_some());
                    let from = if list.is_some() { indent } else { indent + 1 };
                    self.beneath(from, depth)?
                }
                rest => flow(rest, number)?,
            };
            if map.insert(name, value).is_some() {
                return Err(wrong(number, "this key is there already"));
            }
        }
        self.ends(indent)?;
        Ok(Value::Object(map))
    }

    /// The next node if it begins at `from` or further in.
    fn beneath(&mut self, from: usize, depth: usize) -> Result<Value> {
        match self.lines.get(self.at) {
            Some(line) if line.indent >= from => {
                let indent = line.indent;
                self.node(indent, depth + 1)
            }
            _ => Ok(Value::Null),
        }
    }

    /// A collection is followed by what is further out.
    fn ends(&self, indent: usize) -> Result<()> {
        match self.lines.get(self.at) {
            Some(line) if line.indent > indent => {
                Err(wrong(line.number, "it is indented and continues nothing"))
            }
            _ => Ok(()),
        }
    }
}

/// What follows the dash of a sequence's entry.
fn item(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('-')?;
    (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim_start())
}

/// A line's key, and what follows its colon.
fn key<'a>(line: &Line<'a>) -> Result<Option<(String, &'a str)>> {
    let text = line.text;
    if text.starts_with(['"', '\'']) {
        let (name, rest) = quoted(text, line.number)?;
        let rest = rest.trim_start();
        let value = rest.strip_prefix(':').filter(|it| it.is_empty() || it.starts_with(' '));
        return Ok(value.map(|value| (name, value.trim_start())));
    }
    if text.starts_with(['[', '{']) {
        return Ok(None);
    }
    let end = text.find(": ").or_else(|| text.ends_with(':').then(|| text.len() - 1));
    let Some(end) = end else { return Ok(None) };
    let name = text[..end].trim_end();
    if name == "<<" || name.starts_with(['&', '*', '!', '?']) {
        return Err(wrong(line.number, "anchors, tags and merged keys are not read"));
    }
    Ok(Some((name.to_owned(), text[end + 1..].trim_start())))
}

/// A value on one line.
fn flow(text: &str, number: usize) -> Result<Value> {
    let (value, rest) = flow_value(text, number, false, 0)?;
    match rest.trim() {
        "" => Ok(value),
        _ => Err(wrong(number, "something follows a value that has ended")),
    }
}

/// A value, and what follows it; `inside` brackets or braces a comma ends it.
fn flow_value(text: &str, number: usize, inside: bool, depth: usize) -> Result<(Value, &str)> {
    let text = text.trim_start();
    if depth > DEPTH {
        return Err(wrong(number, "too many collections in each other"));
    }
    match text.chars().next() {
        Some('[') => flow_list(&text[1..], number, depth),
        Some('{') => flow_map(&text[1..], number, depth),
        Some('"' | '\'') => {
            let (value, rest) = quoted(text, number)?;
            Ok((Value::String(value), rest))
        }
        Some('&' | '*' | '!') => Err(wrong(number, "anchors and tags are not read")),
        Some('|' | '>') => Err(wrong(number, "text over several lines is not read")),
        Some('@' | '`' | '%') => Err(wrong(number, "no value begins so")),
        _ => {
            let end = match inside {
                true => text.find([',', ']', '}']).unwrap_or(text.len()),
                false => text.len(),
            };
            let (plain, rest) = text.split_at(end);
            let plain = plain.trim_end();
            if plain.contains(": ") || plain.ends_with(':') {
                return Err(wrong(number, "a key within a value"));
            }
            Ok((scalar(plain), rest))
        }
    }
}

fn flow_list(mut rest: &str, number: usize, depth: usize) -> Result<(Value, &str)> {
    let mut list = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(behind) = rest.strip_prefix(']') {
            return Ok((Value::Array(list), behind));
        }
        let (value, behind) = flow_value(rest, number, true, depth + 1)?;
        list.push(value);
        rest = next(behind, ']', number)?;
    }
}

fn flow_map(mut rest: &str, number: usize, depth: usize) -> Result<(Value, &str)> {
    let mut map = Map::new();
    loop {
        rest = rest.trim_start();
        if let Some(behind) = rest.strip_prefix('}') {
            return Ok((Value::Object(map), behind));
        }
        let (name, behind) = match rest.starts_with(['"', '\'']) {
            true => quoted(rest, number)?,
            false => {
                let end = rest.find(':').ok_or_else(|| wrong(number, "a colon is missing"))?;
                (rest[..end].trim_end().to_owned(), &rest[end..])
            }
        };
        let behind = behind.trim_start().strip_prefix(':');
        let behind = behind.ok_or_else(|| wrong(number, "a colon is missing"))?;
        let (value, behind) = flow_value(behind, number, true, depth + 1)?;
        map.insert(name, value);
        rest = next(behind, '}', number)?;
    }
}

/// Past the comma behind an entry; the closing character stays.
fn next(rest: &str, close: char, number: usize) -> Result<&str> {
    let rest = rest.trim_start();
    match rest.strip_prefix(',') {
        Some(behind) => Ok(behind),
        None if rest.starts_with(close) => Ok(rest),
        None => Err(wrong(number, "a list or mapping does not end on its line")),
    }
}

/// A quoted scalar, and what follows it.
fn quoted(text: &str, number: usize) -> Result<(String, &str)> {
    let open = || wrong(number, "a quote does not end on its line");
    let mut chars = text.char_indices();
    let quote = chars.next().map_or('"', |(_, quote)| quote);
    let mut value = String::new();
    while let Some((at, c)) = chars.next() {
        let rest = &text[at + c.len_utf8()..];
        if c == quote && quote == '\'' && rest.starts_with('\'') {
            chars.next();
            value.push('\'');
        } else if c == quote {
            return Ok((value, rest));
        } else if c == '\\' && quote == '"' {
            let (_, escape) = chars.next().ok_or_else(open)?;
            value.push(match escape {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'e' => '\u{1b}',
                'x' | 'u' | 'U' => {
                    let digits = match escape {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                    let code = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                    code.ok_or_else(|| wrong(number, "an escape names no character"))?
                }
                '"' | '\\' | '/' | ' ' => escape,
                _ => return Err(wrong(number, "this escape is not read")),
            });
        } else {
            value.push(c);
        }
    }
    Err(open())
}

/// The core schema's null, truths and numbers; everything else is text.
fn scalar(plain: &str) -> Value {
    match plain {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix = |prefix, radix| {
        plain.strip_prefix(prefix).and_then(|digits| u64::from_str_radix(digits, radix).ok())
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return number.into();
    }
    let digits = plain.strip_prefix(['-', '+']).unwrap_or(plain);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        // An unsigned one that begins with 0 is octal to those who write such files.
        let octal = digits.len() > 1 && digits.starts_with('0') && digits == plain;
        let number = if octal { i64::from_str_radix(digits, 8) } else { plain.parse::<i64>() };
        if let Ok(number) = number {
            return number.into();
        }
    }
    let is_decimal = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    let decimal = plain.bytes().all(is_decimal) && plain.bytes().any(|byte| byte.is_ascii_digit());
    match plain.parse::<f64>() {
        Ok(number) if decimal => number.into(),
        _ => Value::String(plain.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nvidias_tool_writes_is_read() {
        let text = r#"---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidia-modeset
  - fileMode: 438
    path: /dev/nvidiactl
    permissions: rw
  env:
  - NVIDIA_VISIBLE_DEVICES=void   # nothing else
  hooks:
  - args:
    - nvidia-cdi-hook
    - create-symlinks
    - --link
    - libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so
    env:
      - NVIDIA_CTK_DEBUG=false
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
  mounts: []
devices:
-
  name: "0"
  containerEdits: {deviceNodes: [{path: /dev/nvidia0, hostPath: '/dev/it''s'}], env: []}
- containerEdits:
    env: ["A=\u0041 # no comment", 'B=#c']
  name: all
  annotations:
kind: nvidia.com/gpu
"#;
        let expected = json!({
            "cdiVersion": "0.5.0",
            "containerEdits": {
                "deviceNodes": [
                    {"path": "/dev/nvidia-modeset"},
                    {"fileMode": 438, "path": "/dev/nvidiactl", "permissions": "rw"},
                ],
                "env": ["NVIDIA_VISIBLE_DEVICES=void"],
                "hooks": [{
                    "args": [
                        "nvidia-cdi-hook",
                        "create-symlinks",
                        "--link",
                        "libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so",
                    ],
                    "env": ["NVIDIA_CTK_DEBUG=false"],
                    "hookName": "createContainer",
                    "path": "/usr/bin/nvidia-cdi-hook",
                }],
                "mounts": [],
            },
            "devices": [
                {"name": "0", "containerEdits": {
                    "deviceNodes": [{"path": "/dev/nvidia0", "hostPath": "/dev/it's"}], "env": [],
                }},
                {"containerEdits": {"env": ["A=A # no comment", "B=#c"]}, "name": "all",
                 "annotations": null},
            ],
            "kind": "nvidia.com/gpu",
        });
        assert_eq!(parse(text).expect("yaml"), expected);
    }

    #[test]
    fn scalars_are_what_they_look_like() {
        let value = |text: &str| parse(text).expect(text);
        assert_eq!(
            value("[1, -2, 0x1f, 0o17, 0644, 1.5, 1.2.3, true, ~, no, -, a b, 'c d']"),
            json!([1, -2, 31, 15, 420, 1.5, "1.2.3", true, null, "no", "-", "a b", "c d"])
        );
        assert_eq!(value(""), Value::Null);
        assert_eq!(value("# nothing\n---\n\n"), Value::Null);
        assert_eq!(
            value("- - a\n  - b\n- c: d\n  e:\n    f: g\n"),
            json!([
                ["a", "b"], {"c": "d", "e": {"f": "g"}}
            ])
        );
        assert_eq!(
            value("a: http://b:80/c\n\"d e\": f:g\n"),
            json!({
                "a": "http://b:80/c", "d e": "f:g"
            })
        );
    }

    #[test]
    fn what_is_not_read_is_refused_by_its_line() {
        for (text, why) in [
            ("a: b\n  c: d\n", "line 2: it is indented and continues nothing"),
            ("a: 1\na: 2\n", "line 2: this key is there already"),
            ("a: &x 1\n", "line 1: anchors and tags"),
            ("a: *x\n", "line 1: anchors and tags"),
            ("<<: a\n", "line 1: anchors, tags and merged keys"),
            ("a: |\n  text\n", "line 1: text over several lines"),
            ("a: 1\n---\nb: 2\n", "line 2: a second document"),
            ("a:\n\tb: 1\n", "line 2: a tab cannot indent"),
            ("a: [b,\n  c]\n", "line 1: a list or mapping does not end on its line"),
            ("a: \"b\n", "line 1: a quote does not end on its line"),
            ("a: 'b' c\n", "line 1: something follows"),
            ("a: b: c\n", "line 1: a key within a value"),
            ("- a\nb: c\n", "line 2: it belongs to nothing above it"),
            ("a: 1\njust text\n", "line 2: a key and a colon are missing"),
        ] {
            let said = parse(text).expect_err(text).to_string();
            assert!(said.starts_with(why), "{text:?}: {said}");
        }
        let deep = "[".repeat(100);
        assert!(parse(&deep).is_err());
        let deep: String = (0..100).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert!(parse(&deep).is_err());
    }
}
