//! Text to tokens: what is outside `{{ }}`, and the words inside.

/// What is wrong with a template, and at which byte.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) said: String,
}

impl Fault {
    pub(super) fn new(at: usize, said: impl Into<String>) -> Self {
        Self { at, said: said.into() }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.Name`, without the dot.
    Field(String),
    /// `.` alone.
    Dot,
    /// `$name`, without the dollar; `$` is empty.
    Variable(String),
    Word(String),
    Str(String),
    Int(i64),
    Float(f64),
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    LeftParen,
    RightParen,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether it follows its predecessor with no space between.
    pub(super) glued: bool,
}

/// All the tokens of `source`.
pub(super) fn lex(source: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { source, at: 0, tokens: Vec::new(), trim: false };
    while lexer.at < source.len() {
        lexer.text();
        if lexer.at < source.len() {
            lexer.action()?;
        }
    }
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    tokens: Vec<Token>,
    /// Whether the last action ended in `-}}`.
    trim: bool,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: Kind, length: usize, glued: bool) {
        let start = self.at;
        self.at += length;
        self.tokens.push(Token { kind, start, end: self.at, glued });
    }

    /// Everything up to the next `{{`, trimmed on either side where a marker asks for it.
    fn text(&mut self) {
        let length = self.rest().find("{{").unwrap_or(self.rest().len());
        let (mut text, after) = self.rest().split_at(length);
        if self.trim {
            text = text.trim_start_matches(is_space);
        }
        if opens_trimmed(after) {
            text = text.trim_end_matches(is_space);
        }
        if text.is_empty() {
            self.at += length;
        } else {
            self.push(Kind::Text(text.to_owned()), length, false);
        }
        self.trim = false;
    }

    fn action(&mut self) -> Result<(), Fault> {
        let start = self.at;
        let open = if opens_trimmed(self.rest()) { "{{- ".len() } else { "{{".len() };
        if self.rest()[open..].starts_with("/*") {
            return self.comment(open);
        }
        self.push(Kind::Open, open, false);
        loop {
            let spaces = self.rest().len() - self.rest().trim_start_matches(is_space).len();
            if spaces > 0 && self.rest()[spaces..].starts_with("-}}") {
                self.at += spaces;
                self.push(Kind::Close, 3, false);
                self.trim = true;
                return Ok(());
            }
            self.at += spaces;
            if self.rest().starts_with("}}") {
                self.push(Kind::Close, 2, false);
                return Ok(());
            }
            if self.rest().is_empty() {
                return Err(Fault::new(start, "unclosed action"));
            }
            self.token(spaces == 0)?;
        }
    }

    fn comment(&mut self, open: usize) -> Result<(), Fault> {
        let start = self.at;
        let body = &self.rest()[open..];
        let Some(end) = body.find("*/") else {
            return Err(Fault::new(start, "unclosed comment"));
        };
        let after = &body[end + 2..];
        let spaces = after.len() - after.trim_start_matches(is_space).len();
        let close = if after.starts_with("}}") {
            2
        } else if spaces > 0 && after[spaces..].starts_with("-}}") {
            self.trim = true;
            spaces + 3
        } else {
            return Err(Fault::new(start, "comment ends before closing delimiter"));
        };
        self.at += open + end + 2 + close;
        Ok(())
    }

    fn token(&mut self, glued: bool) -> Result<(), Fault> {
        let rest = self.rest();
        let mut chars = rest.chars();
        let Some(first) = chars.next() else { return Ok(()) };
        let second = chars.next().unwrap_or(' ');
        match first {
            '.' if second.is_ascii_digit() => self.number(glued),
            '.' => {
                let name = word(&rest[1..]);
                let kind = if name.is_empty() { Kind::Dot } else { Kind::Field(name.to_owned()) };
                self.push(kind, 1 + name.len(), glued);
                self.ends_word()
            }
            '$' => {
                let name = word(&rest[1..]);
                self.push(Kind::Variable(name.to_owned()), 1 + name.len(), glued);
                self.ends_word()
            }
            '"' => self.quoted(glued),
            '`' => self.raw(glued),
            '\'' => self.character(glued),
            '0'..='9' => self.number(glued),
            '+' | '-' if second.is_ascii_digit() || second == '.' => self.number(glued),
            _ if is_word(first) => {
                let name = word(rest);
                self.push(Kind::Word(name.to_owned()), name.len(), glued);
                self.ends_word()
            }
            ':' if second == '=' => {
                self.push(Kind::Declare, 2, glued);
                Ok(())
            }
            _ => {
                let kind = match first {
                    '=' => Kind::Assign,
                    '|' => Kind::Pipe,
                    ',' => Kind::Comma,
                    '(' => Kind::LeftParen,
                    ')' => Kind::RightParen,
                    _ => {
                        return Err(Fault::new(
                            self.at,
                            format!("unexpected {first:?} in command"),
                        ));
                    }
                };
                self.push(kind, 1, glued);
                Ok(())
            }
        }
    }

    /// Go's rule: a word ends in a space, a delimiter or one of `.,|:()=`.
    fn ends_word(&self) -> Result<(), Fault> {
        match self.rest().chars().next() {
            None => Ok(()),
            Some(c) if is_space(c) || ".,|:()=".contains(c) || self.rest().starts_with("}}") => {
                Ok(())
            }
            Some(c) => {
                Err(Fault::new(self.at, format!("bad character U+{:04X} {c:?}", u32::from(c))))
            }
        }
    }

    fn quoted(&mut self, glued: bool) -> Result<(), Fault> {
        let unterminated = || Fault::new(self.at, "unterminated quoted string");
        let mut content = String::new();
        let mut rest = &self.rest()[1..];
        loop {
            let c = rest.chars().next().ok_or_else(unterminated)?;
            match c {
                '"' => break,
                '\n' => return Err(unterminated()),
                _ => {
                    let (c, after) = unescape(rest)
                        .ok_or_else(|| Fault::new(self.at, "invalid escape in quoted string"))?;
                    content.push(c);
                    rest = after;
                }
            }
        }
        let length = self.rest().len() - rest.len() + 1;
        self.push(Kind::Str(content), length, glued);
        Ok(())
    }

    fn raw(&mut self, glued: bool) -> Result<(), Fault> {
        let (content, _) = self.rest()[1..]
            .split_once('`')
            .ok_or_else(|| Fault::new(self.at, "unterminated raw quoted string"))?;
        self.push(Kind::Str(content.to_owned()), content.len() + 2, glued);
        Ok(())
    }

    fn character(&mut self, glued: bool) -> Result<(), Fault> {
        let found =
            unescape(&self.rest()[1..]).and_then(|(c, after)| Some((c, after.strip_prefix('\'')?)));
        let (c, after) =
            found.ok_or_else(|| Fault::new(self.at, "unterminated character constant"))?;
        self.push(Kind::Int(u32::from(c).into()), self.rest().len() - after.len(), glued);
        Ok(())
    }

    fn number(&mut self, glued: bool) -> Result<(), Fault> {
        let rest = self.rest();
        let mut length = 0;
        let mut exponent = false;
        for c in rest.chars() {
            let sign = matches!(c, '+' | '-') && (length == 0 || exponent);
            if !(sign || c.is_ascii_alphanumeric() || c == '_' || c == '.') {
                break;
            }
            exponent = matches!(c, 'e' | 'E') && !rest.contains(['x', 'X']);
            length += c.len_utf8();
        }
        let text = &rest[..length];
        let kind = number(text)
            .ok_or_else(|| Fault::new(self.at, format!("bad number syntax: {text:?}")))?;
        self.push(kind, length, glued);
        Ok(())
    }
}

/// Go's integers (`0x`, `0o`, `0b`, a leading 0 for octal, `_` between digits) and floats.
fn number(text: &str) -> Option<Kind> {
    let digits = text.replace('_', "");
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some(_) if lower.starts_with('0') && lower.bytes().all(|b| b.is_ascii_digit()) => {
            (8, &lower[1..])
        }
        _ => (10, &lower[..]),
    };
    let signed = if negative { format!("-{body}") } else { body.to_owned() };
    if let Ok(int) = i64::from_str_radix(&signed, radix) {
        return Some(Kind::Int(int));
    }
    let float: f64 = signed.parse().ok()?;
    let plain = radix == 10 && lower.contains(['.', 'e']) && float.is_finite();
    plain.then_some(Kind::Float(float))
}

/// One character of a quoted string, and what follows it (Go spec, "Rune literals").
fn unescape(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    if first != '\\' {
        return Some((first, chars.as_str()));
    }
    let code = chars.next()?;
    let rest = chars.as_str();
    let hex = |digits: usize| {
        let c = char::from_u32(u32::from_str_radix(rest.get(..digits)?, 16).ok()?)?;
        Some((c, &rest[digits..]))
    };
    let plain = match code {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'v' => '\x0b',
        '\\' | '"' | '\'' => code,
        'x' => return hex(2),
        'u' => return hex(4),
        'U' => return hex(8),
        _ => return None,
    };
    Some((plain, rest))
}

/// Whether `text` begins with `{{- `: the space is part of the marker.
fn opens_trimmed(text: &str) -> bool {
    text.strip_prefix("{{-").is_some_and(|rest| rest.starts_with(is_space))
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn word(text: &str) -> &str {
    text.split(|c| !is_word(c)).next().unwrap_or_default()
}
