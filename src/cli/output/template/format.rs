//! How Go's `fmt` writes values, and its `printf` verbs.

use std::{borrow::Cow, fmt::Write as _};

use serde_json::Value;

/// The widest padding and the longest precision there is.
pub(super) const WIDEST: usize = 10_000;

/// Go's truth: not false, 0, empty or nil.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// What `{{.X}}` prints.
pub(super) fn shown(value: &Value) -> String {
    if value.is_null() { "<no value>".into() } else { plain(value) }
}

/// `%v`: `[a b]`, `map[k:v]`, `<nil>`.
fn plain(value: &Value) -> String {
    verb(value, 'v', &Spec::default())
}

/// Go's name for the type of a value.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Go's `fmt.Sprint`: a space between operands when neither is a string.
pub(super) fn print(args: &[Cow<'_, Value>]) -> String {
    let mut text = String::new();
    let mut after_string = true;
    for arg in args {
        if !after_string && !arg.is_string() {
            text.push(' ');
        }
        after_string = arg.is_string();
        text.push_str(&plain(arg));
    }
    text
}

/// Go's `fmt.Sprintln`: a space between all operands, and a newline.
pub(super) fn println(args: &[Cow<'_, Value>]) -> String {
    let words: Vec<String> = args.iter().map(|arg| plain(arg)).collect();
    words.join(" ") + "\n"
}

/// The flags, width and precision of one `%` directive.
#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    space: bool,
    zero: bool,
    sharp: bool,
    width: usize,
    precision: Option<usize>,
}

/// Go's `fmt.Sprintf`, without argument indexes and `*`.
pub(super) fn printf(format: &str, args: &[Cow<'_, Value>]) -> String {
    let mut text = String::new();
    let mut args = args.iter();
    let mut rest = format;
    while let Some((before, directive)) = rest.split_once('%') {
        text.push_str(before);
        let (spec, after) = spec(directive);
        let mut chars = after.chars();
        let letter = chars.next();
        rest = chars.as_str();
        match (letter, &spec) {
            (None, _) => text.push_str("%!(NOVERB)"),
            (Some('%'), _) => text.push('%'),
            (Some(_), None) => text.push_str("%!(BADWIDTH)"),
            (Some(letter), Some(spec)) => match args.next() {
                Some(arg) => text.push_str(&verb(arg, letter, spec)),
                None => text.extend(["%!", letter.encode_utf8(&mut [0; 4]), "(MISSING)"]),
            },
        }
    }
    text.push_str(rest);
    let extra: Vec<String> = args.map(|arg| format!("{}={}", type_name(arg), plain(arg))).collect();
    if !extra.is_empty() {
        text.extend(["%!(EXTRA ", &extra.join(", "), ")"]);
    }
    text
}

/// What stands between `%` and the verb, if it is not absurd, and the rest.
fn spec(text: &str) -> (Option<Spec>, &str) {
    let mut spec = Spec::default();
    let mut rest = text;
    while let Some(flag) = rest.chars().next() {
        match flag {
            '-' => spec.minus = true,
            '+' => spec.plus = true,
            ' ' => spec.space = true,
            '0' => spec.zero = true,
            '#' => spec.sharp = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    let (width, after) = digits(rest);
    rest = after;
    let mut precision = Some(None);
    if let Some(after) = rest.strip_prefix('.') {
        let (number, after) = digits(after);
        precision = number.map(Some);
        rest = after;
    }
    match (width, precision) {
        (Some(width), Some(precision)) => (Some(Spec { width, precision, ..spec }), rest),
        _ => (None, rest),
    }
}

/// The number at the head of `text`: 0 if there is none, `None` if it is too large.
fn digits(text: &str) -> (Option<usize>, &str) {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(end);
    let number = if digits.is_empty() { Some(0) } else { digits.parse().ok() };
    (number.filter(|&number| number <= WIDEST), rest)
}

/// One value by one verb; lists and maps by each of their elements.
fn verb(value: &Value, letter: char, spec: &Spec) -> String {
    match value {
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(|item| verb(item, letter, spec)).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let key = |key: &str| verb(&key.into(), letter, spec);
            let items: Vec<String> =
                map.iter().map(|(k, v)| format!("{}:{}", key(k), verb(v, letter, spec))).collect();
            format!("map[{}]", items.join(" "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            match scalar(value, letter, spec) {
                Some(text) => padded(text, value.is_number(), spec),
                None if value.is_null() => format!("%!{letter}(<nil>)"),
                None => format!("%!{letter}({}={})", type_name(value), plain(value)),
            }
        }
    }
}

fn scalar(value: &Value, letter: char, spec: &Spec) -> Option<String> {
    match (value, letter) {
        (Value::Null, 'v') => Some("<nil>".into()),
        (Value::Bool(truth), 'v' | 't') => Some(truth.to_string()),
        (Value::String(text), _) => string(text, letter, spec),
        (Value::Number(number), _) => match number.as_i64().map(i128::from) {
            Some(int) => integer(int, letter, spec),
            None => match number.as_u64() {
                Some(int) => integer(int.into(), letter, spec),
                None => float(number.as_f64()?, letter, spec),
            },
        },
        _ => None,
    }
}

fn string(text: &str, letter: char, spec: &Spec) -> Option<String> {
    let cut: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
    let hex = |upper: bool| {
        text.bytes().fold(String::new(), |mut hex, byte| {
            let digits = if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
            hex.push_str(&digits);
            hex
        })
    };
    match letter {
        'v' | 's' => Some(cut),
        'q' => Some(quote(&cut, '"')),
        'x' => Some(hex(false)),
        'X' => Some(hex(true)),
        _ => None,
    }
}

fn integer(int: i128, letter: char, spec: &Spec) -> Option<String> {
    let size = int.unsigned_abs();
    let prefix = |prefix: &'static str| if spec.sharp { prefix } else { "" };
    let digits = match letter {
        'v' | 'd' => size.to_string(),
        'x' => format!("{}{size:x}", prefix("0x")),
        'X' => format!("{}{size:X}", prefix("0X")),
        'o' => format!("{}{size:o}", prefix("0")),
        'b' => format!("{}{size:b}", prefix("0b")),
        'U' => return Some(format!("U+{size:04X}")),
        'c' | 'q' => {
            let c = u32::try_from(int).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
            return Some(if letter == 'c' {
                c.into()
            } else {
                quote(c.encode_utf8(&mut [0; 4]), '\'')
            });
        }
        _ => return None,
    };
    Some(format!("{}{digits:0>1$}", sign(int < 0, spec), spec.precision.unwrap_or(0)))
}

fn float(float: f64, letter: char, spec: &Spec) -> Option<String> {
    let size = float.abs();
    let digits = match letter {
        'v' | 'g' => shortest(size),
        'f' | 'F' => format!("{size:.*}", spec.precision.unwrap_or(6)),
        'e' => exponent(&format!("{size:.*e}", spec.precision.unwrap_or(6))),
        _ => return None,
    };
    Some(format!("{}{digits}", sign(float < 0.0, spec)))
}

fn sign(negative: bool, spec: &Spec) -> &'static str {
    match () {
        () if negative => "-",
        () if spec.plus => "+",
        () if spec.space => " ",
        () => "",
    }
}

/// Go's `%g`: the fewest digits that read back the same, with an exponent from 10^6 (where
/// there are no more digits than that, 10^21 is not treated otherwise) or below 10^-4.
fn shortest(size: f64) -> String {
    let scientific = format!("{size:e}");
    let power = scientific.split_once('e').and_then(|(_, power)| power.parse::<i32>().ok());
    match power {
        Some(-4..=5) => format!("{size}"),
        _ => exponent(&scientific),
    }
}

/// Rust's `1e8` as Go's `1e+08`.
fn exponent(text: &str) -> String {
    let Some((digits, power)) = text.split_once('e') else { return text.to_owned() };
    match power.strip_prefix('-') {
        Some(power) => format!("{digits}e-{power:0>2}"),
        None => format!("{digits}e+{power:0>2}"),
    }
}

fn padded(text: String, number: bool, spec: &Spec) -> String {
    let fill = spec.width.saturating_sub(text.chars().count());
    if fill == 0 {
        return text;
    }
    if spec.minus {
        return format!("{text}{:fill$}", "");
    }
    if spec.zero && number {
        // Zeros go between the sign and the digits.
        let digits = text.trim_start_matches(['+', '-', ' ']);
        let sign = &text[..text.len() - digits.len()];
        return format!("{sign}{:0<fill$}{digits}", "");
    }
    format!("{:fill$}{text}", "")
}

/// Go's `strconv.Quote`.
pub(super) fn quote(text: &str, mark: char) -> String {
    let mut quoted = String::from(mark);
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            '\\' => quoted.push_str("\\\\"),
            _ if c == mark => quoted.extend(['\\', c]),
            // Writing to a String cannot fail.
            _ if c.is_control() && u32::from(c) < 0x80 => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(c));
            }
            _ if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            _ => quoted.push(c),
        }
    }
    quoted.push(mark);
    quoted
}
