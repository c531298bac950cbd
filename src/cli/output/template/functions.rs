//! The functions a template may call: Go's and docker's.

use std::{borrow::Cow, cmp::Ordering};

use serde_json::Value;

use super::format::{self, type_name};

#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    least: usize,
    most: Option<usize>,
    /// Whether a table's heading goes through it unchanged.
    pub(super) keeps_heading: bool,
    pub(super) body: Body,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Body {
    /// The first argument whose truth is this, or the last: `or` and `and`.
    Until(bool),
    Call(Call),
}

type Call = for<'v, 'a> fn(&'v [Cow<'a, Value>]) -> Outcome;
type Outcome = Result<Value, Refusal>;

#[derive(Debug)]
pub(super) enum Refusal {
    /// The argument at this place is of the wrong type.
    Argument(usize, String),
    Call(String),
}

impl Function {
    /// Whether it takes that many arguments, in Go's words if not.
    pub(super) fn check(&self, count: usize) -> Result<(), String> {
        let name = self.name;
        match self.most {
            Some(most) if most == self.least && count != most => {
                Err(format!("wrong number of args for {name}: want {most} got {count}"))
            }
            Some(most) if count > most => {
                Err(format!("wrong number of args for {name}: want at most {most} got {count}"))
            }
            _ if count < self.least => Err(format!(
                "wrong number of args for {name}: want at least {} got {count}",
                self.least
            )),
            _ => Ok(()),
        }
    }
}

const fn exact(name: &'static str, count: usize, call: Call) -> Function {
    Function { name, least: count, most: Some(count), keeps_heading: false, body: Body::Call(call) }
}

const fn text(name: &'static str, count: usize, call: Call) -> Function {
    Function { keeps_heading: true, ..exact(name, count, call) }
}

const fn open(name: &'static str, least: usize, body: Body) -> Function {
    Function { name, least, most: None, keeps_heading: false, body }
}

const FUNCTIONS: &[Function] = &[
    open("and", 1, Body::Until(false)),
    open("or", 1, Body::Until(true)),
    exact("not", 1, |args| Ok((!format::is_true(&args[0])).into())),
    open("eq", 1, Body::Call(eq)),
    exact("ne", 2, |args| equal(&args[0], &args[1]).map(|equal| (!equal).into())),
    exact("lt", 2, |args| compare(args, Ordering::is_lt)),
    exact("le", 2, |args| compare(args, Ordering::is_le)),
    exact("gt", 2, |args| compare(args, Ordering::is_gt)),
    exact("ge", 2, |args| compare(args, Ordering::is_ge)),
    exact("len", 1, len),
    open("index", 1, Body::Call(index)),
    open("slice", 1, Body::Call(slice)),
    open("print", 0, Body::Call(|args| Ok(format::print(args).into()))),
    open("println", 0, Body::Call(|args| Ok(format::println(args).into()))),
    open("printf", 1, Body::Call(|args| Ok(format::printf(string(args, 0)?, &args[1..]).into()))),
    text("json", 1, |args| Ok(args[0].to_string().into())),
    text("lower", 1, |args| Ok(string(args, 0)?.to_lowercase().into())),
    text("upper", 1, |args| Ok(string(args, 0)?.to_uppercase().into())),
    text("title", 1, |args| Ok(title(string(args, 0)?).into())),
    text("split", 2, split),
    text("join", 2, join),
    text("truncate", 2, truncate),
    exact("pad", 3, pad),
];

pub(super) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

fn string<'v>(args: &'v [Cow<'_, Value>], index: usize) -> Result<&'v str, Refusal> {
    args[index].as_str().ok_or_else(|| {
        Refusal::Argument(index, format!("expected string; found {}", format::shown(&args[index])))
    })
}

/// A count: an integer that is not absurd, since it may become spaces.
fn count(args: &[Cow<'_, Value>], index: usize) -> Result<usize, Refusal> {
    let count = args[index].as_i64().ok_or_else(|| {
        Refusal::Argument(index, format!("expected integer; found {}", format::shown(&args[index])))
    })?;
    usize::try_from(count).ok().filter(|&count| count <= format::WIDEST).ok_or_else(|| {
        Refusal::Argument(index, format!("{count} is not between 0 and {}", format::WIDEST))
    })
}

/// Letters after anything but a letter, digit or underscore become capitals; Go's `strings.Title`.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut title = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            title.push(c)
        } else {
            title.extend(c.to_uppercase())
        }
        inside = c.is_alphanumeric() || c == '_';
    }
    title
}

fn split(args: &[Cow<'_, Value>]) -> Outcome {
    let (text, separator) = (string(args, 0)?, string(args, 1)?);
    Ok(match separator {
        "" => text.chars().map(String::from).collect(),
        _ => text.split(separator).collect(),
    })
}

fn join(args: &[Cow<'_, Value>]) -> Outcome {
    let separator = string(args, 1)?;
    let texts: Option<Vec<&str>> = match &*args[0] {
        Value::Array(list) => list.iter().map(Value::as_str).collect(),
        Value::Null => Some(Vec::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => None,
    };
    texts.map(|texts| texts.join(separator).into()).ok_or_else(|| {
        let found = type_name(&args[0]);
        Refusal::Argument(0, format!("wrong type for value; expected []string; got {found}"))
    })
}

fn truncate(args: &[Cow<'_, Value>]) -> Outcome {
    Ok(string(args, 0)?.chars().take(count(args, 1)?).collect::<String>().into())
}

fn pad(args: &[Cow<'_, Value>]) -> Outcome {
    let (text, before, after) = (string(args, 0)?, count(args, 1)?, count(args, 2)?);
    Ok(match text {
        "" => "".into(),
        _ => format!("{:before$}{text}{:after$}", "", "").into(),
    })
}

fn len(args: &[Cow<'_, Value>]) -> Outcome {
    match &*args[0] {
        Value::String(text) => Ok(text.len().into()),
        Value::Array(list) => Ok(list.len().into()),
        Value::Object(map) => Ok(map.len().into()),
        Value::Null => Err(Refusal::Call("len of nil pointer".into())),
        other @ (Value::Bool(_) | Value::Number(_)) => {
            Err(Refusal::Call(format!("len of type {}", type_name(other))))
        }
    }
}

fn index(args: &[Cow<'_, Value>]) -> Outcome {
    let mut item: &Value = &args[0];
    let nothing = Value::Null;
    for (at, key) in args.iter().enumerate().skip(1) {
        item = match (item, &**key) {
            (Value::Array(list), key) => {
                list.get(position(key, list.len(), "index")?).unwrap_or(&nothing)
            }
            (Value::Object(map), Value::String(key)) => map.get(key).unwrap_or(&nothing),
            (Value::Object(_), key) => {
                let found = type_name(key);
                return Err(Refusal::Call(format!("value has type {found}; should be string")));
            }
            (Value::String(text), key) if at + 1 == args.len() => {
                let at = position(key, text.len(), "index")?;
                return Ok(text.as_bytes().get(at).copied().into());
            }
            (Value::Null, _) => return Err(Refusal::Call("index of untyped nil".into())),
            (other, _) => {
                let found = type_name(other);
                return Err(Refusal::Call(format!("can't index item of type {found}")));
            }
        };
    }
    Ok(item.clone())
}

/// An index below `len`, or for a slice also `len` itself.
fn position(key: &Value, len: usize, what: &str) -> Result<usize, Refusal> {
    let Some(number) = key.as_i64() else {
        let found = type_name(key);
        return Err(Refusal::Call(format!("cannot {what} slice/array with type {found}")));
    };
    let end = if what == "slice" { len + 1 } else { len };
    usize::try_from(number)
        .ok()
        .filter(|&at| at < end)
        .ok_or_else(|| Refusal::Call(format!("index out of range: {number}")))
}

fn slice(args: &[Cow<'_, Value>]) -> Outcome {
    let len = match &*args[0] {
        Value::String(text) => text.len(),
        Value::Array(list) => list.len(),
        Value::Null => return Err(Refusal::Call("slice of untyped nil".into())),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
            return Err(Refusal::Call(format!("can't slice item of type {}", type_name(other))));
        }
    };
    if args.len() > 3 {
        return Err(Refusal::Call(format!("too many slice indexes: {}", args.len() - 1)));
    }
    let bound = |at: usize, default| match args.get(at) {
        Some(key) => position(key, len, "slice"),
        None => Ok(default),
    };
    let (from, to) = (bound(1, 0)?, bound(2, len)?);
    if from > to {
        return Err(Refusal::Call(format!("invalid slice index: {from} > {to}")));
    }
    Ok(match &*args[0] {
        // Go's strings are bytes: a cut through a character leaves a replacement mark.
        Value::String(text) => String::from_utf8_lossy(&text.as_bytes()[from..to]).into(),
        Value::Array(list) => list[from..to].to_vec().into(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Value::Null,
    })
}

/// True if the first equals any of the others.
fn eq(args: &[Cow<'_, Value>]) -> Outcome {
    let Some((first, others @ [_, ..])) = args.split_first() else {
        return Err(Refusal::Call("missing argument for comparison".into()));
    };
    for other in others {
        if equal(first, other)? {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

fn equal(a: &Value, b: &Value) -> Result<bool, Refusal> {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => Ok(a == b),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::String(a), Value::String(b)) => Ok(a == b),
        (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => Ok(a == b),
        _ => Err(Refusal::Call("incompatible types for comparison".into())),
    }
}

fn compare(args: &[Cow<'_, Value>], holds: fn(Ordering) -> bool) -> Outcome {
    let order = match (&*args[0], &*args[1]) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => match a.is_f64() {
            true => a.as_f64().partial_cmp(&b.as_f64()),
            false => Some(integer(a).cmp(&integer(b))),
        },
        (Value::Bool(_), Value::Bool(_)) => {
            return Err(Refusal::Call("invalid type for comparison".into()));
        }
        _ => None,
    };
    order
        .map(|order| holds(order).into())
        .ok_or_else(|| Refusal::Call("incompatible types for comparison".into()))
}

/// JSON integers are `i64` or `u64`; both fit.
fn integer(number: &serde_json::Number) -> i128 {
    number.as_i64().map_or_else(|| number.as_u64().unwrap_or_default().into(), i128::from)
}
