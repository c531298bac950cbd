//! Walks the tree over the data.

use std::{borrow::Cow, ops::Range};

use serde_json::Value;

use super::{
    View, format,
    functions::{Body, Function, Refusal},
    parse::{Command, Node, Operand, Pipeline, Term},
};

/// Nodes rendered at most: far beyond any listing, and a second's work.
const WORK: u32 = 5_000_000;
/// Bytes written at most.
const OUTPUT: usize = 64 << 20;

/// Bytes of text that one call may make.
const TEXT: usize = 16 << 20;

/// Data is borrowed for as long as it can be.
pub(super) type Val<'a> = Cow<'a, Value>;

/// What went wrong while rendering, and over which part of the template.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) span: Range<usize>,
    pub(super) said: String,
    pub(super) hint: Option<String>,
}

fn failure(span: &Range<usize>, said: impl Into<String>) -> Failure {
    Failure { span: span.clone(), said: said.into(), hint: None }
}

/// What the rest of a list is to do.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

pub(super) fn run<'a>(
    nodes: &'a [Node],
    data: &'a Value,
    view: View<'a>,
    out: &mut String,
) -> Result<(), Failure> {
    let dot = Cow::Borrowed(data);
    let mut eval = Eval { view, variables: vec![("", dot.clone())], out, work: 0 };
    eval.walk(nodes, &dot).map(drop)
}

struct Eval<'a, 'o> {
    view: View<'a>,
    /// Innermost last; the first, with no name, is `$`.
    variables: Vec<(&'a str, Val<'a>)>,
    out: &'o mut String,
    work: u32,
}

impl<'a> Eval<'a, '_> {
    fn walk(&mut self, nodes: &'a [Node], dot: &Val<'a>) -> Result<Flow, Failure> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn spend(&mut self, span: &Range<usize>) -> Result<(), Failure> {
        self.work += 1;
        if self.work > WORK || self.out.len() > OUTPUT {
            return Err(failure(span, "the template does not come to an end"));
        }
        Ok(())
    }

    fn node(&mut self, node: &'a Node, dot: &Val<'a>) -> Result<Flow, Failure> {
        self.spend(&(0..0))?;
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.out.push_str(&format::shown(&value));
                }
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::If { .. } | Node::With { .. } | Node::Range { .. } => {
                let scope = self.variables.len();
                let flow = self.block(node, dot);
                self.variables.truncate(scope);
                return flow;
            }
        }
        Ok(Flow::On)
    }

    fn block(&mut self, node: &'a Node, dot: &Val<'a>) -> Result<Flow, Failure> {
        match node {
            Node::If { condition, then, other } => {
                let value = self.pipeline(condition, dot)?;
                self.walk(if format::is_true(&value) { then } else { other }, dot)
            }
            Node::With { value, then, other } => {
                let value = self.pipeline(value, dot)?;
                if format::is_true(&value) {
                    self.walk(then, &value)
                } else {
                    self.walk(other, dot)
                }
            }
            Node::Range { over, body, other } => self.range(over, body, other, dot),
            Node::Text(_) | Node::Print(_) | Node::Break | Node::Continue => Ok(Flow::On),
        }
    }

    fn range(
        &mut self,
        over: &'a Pipeline,
        body: &'a [Node],
        other: &'a [Node],
        dot: &Val<'a>,
    ) -> Result<Flow, Failure> {
        let value = self.stages(over, dot)?;
        let span = &over.stages[0].span;
        let mut empty = true;
        for (key, element) in items(value).map_err(|said| failure(span, said))? {
            empty = false;
            self.spend(span)?; // the body may be empty
            let scope = self.variables.len();
            match &over.variables[..] {
                [] => {}
                [one] => self.bind(over, one, element.clone()),
                [first, second, ..] => {
                    self.bind(over, first, Cow::Owned(key));
                    self.bind(over, second, element.clone());
                }
            }
            let flow = self.walk(body, &element)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        if empty { self.walk(other, dot) } else { Ok(Flow::On) }
    }

    fn bind(&mut self, pipeline: &Pipeline, name: &'a str, value: Val<'a>) {
        if pipeline.declares {
            self.variables.push((name, value));
        } else if let Some(known) = self.variables.iter_mut().rfind(|(known, _)| *known == name) {
            known.1 = value;
        }
    }

    fn pipeline(&mut self, pipeline: &'a Pipeline, dot: &Val<'a>) -> Result<Val<'a>, Failure> {
        let value = self.stages(pipeline, dot)?;
        for name in &pipeline.variables {
            self.bind(pipeline, name, value.clone());
        }
        Ok(value)
    }

    fn stages(&mut self, pipeline: &'a Pipeline, dot: &Val<'a>) -> Result<Val<'a>, Failure> {
        let mut value = None;
        for stage in &pipeline.stages {
            value = Some(self.command(stage, dot, value)?);
        }
        Ok(value.unwrap_or(Cow::Owned(Value::Null)))
    }

    /// `piped` is the value of the stage before, which becomes the last argument.
    fn command(
        &mut self,
        command: &'a Command,
        dot: &Val<'a>,
        piped: Option<Val<'a>>,
    ) -> Result<Val<'a>, Failure> {
        let (first, words) = (&command.words[0], &command.words[1..]);
        if let Term::Function(function) = &first.term {
            return self.function(function, command, dot, piped);
        }
        if words.is_empty() && piped.is_none() {
            if matches!(first.term, Term::Nil) {
                return Err(failure(&first.span, "nil is not a command"));
            }
            return self.operand(first, dot);
        }
        let Some(method) = first.fields.last() else {
            return Err(failure(&first.span, "can't give argument to non-function"));
        };
        let label = self.view.label.filter(|_| first.fields.len() == 1 && method == "Label");
        let mut arguments = self.arguments(words, dot)?;
        arguments.extend(piped);
        match (label, &arguments[..]) {
            (Some(label), [key]) if key.is_string() => {
                Ok(Cow::Owned(label(key.as_str().unwrap_or_default()).into()))
            }
            (Some(_), [_]) => Err(failure(&first.span, "expected string as the label's key")),
            (Some(_), _) => Err(failure(
                &first.span,
                format!("wrong number of args for Label: want 1 got {}", arguments.len()),
            )),
            (None, _) => {
                Err(failure(&first.span, format!("{method} is not a method but has arguments")))
            }
        }
    }

    fn arguments(&mut self, words: &'a [Operand], dot: &Val<'a>) -> Result<Vec<Val<'a>>, Failure> {
        words.iter().map(|word| self.operand(word, dot)).collect()
    }

    fn function(
        &mut self,
        function: &'static Function,
        command: &'a Command,
        dot: &Val<'a>,
        piped: Option<Val<'a>>,
    ) -> Result<Val<'a>, Failure> {
        let (name, words) = (&command.words[0].span, &command.words[1..]);
        let count = words.len() + usize::from(piped.is_some());
        function.check(count).map_err(|said| failure(name, said))?;

        let call = match function.body {
            // These two look no further than they need to.
            Body::Until(stop) => {
                let mut value = Cow::Owned(Value::Null);
                for word in words {
                    value = self.operand(word, dot)?;
                    if format::is_true(&value) == stop {
                        return Ok(value);
                    }
                }
                return Ok(piped.unwrap_or(value));
            }
            Body::Call(call) => call,
        };
        let mut arguments = self.arguments(words, dot)?;
        arguments.extend(piped);
        if self.view.heading && function.keeps_heading {
            return match arguments.swap_remove(0) {
                heading if heading.is_string() => Ok(heading),
                _ => Err(failure(name, "no heading")),
            };
        }
        let result = call(&arguments).map_err(|refusal| match refusal {
            Refusal::Argument(index, said) => {
                failure(words.get(index).map_or(&command.span, |word| &word.span), said)
            }
            Refusal::Call(said) => {
                failure(&command.span, format!("error calling {}: {said}", function.name))
            }
        })?;
        // A variable that is printed into itself doubles each time.
        if result.as_str().is_some_and(|text| text.len() > TEXT) {
            return Err(failure(&command.span, "the text is too long"));
        }
        Ok(Cow::Owned(result))
    }

    fn operand(&mut self, operand: &'a Operand, dot: &Val<'a>) -> Result<Val<'a>, Failure> {
        let mut value = match &operand.term {
            Term::Dot => dot.clone(),
            Term::Nil => Cow::Owned(Value::Null),
            Term::Variable(name) => self.variable(name),
            Term::Literal(value) => Cow::Borrowed(value),
            Term::Group(pipeline) => self.pipeline(pipeline, dot)?,
            Term::Function(function) => {
                return match (function.check(0), function.body) {
                    (Ok(()), Body::Call(call)) => call(&[]).map(Cow::Owned).map_err(|refusal| {
                        let (Refusal::Argument(_, said) | Refusal::Call(said)) = refusal;
                        failure(&operand.span, said)
                    }),
                    (Err(said), _) => Err(failure(&operand.span, said)),
                    (Ok(()), Body::Until(_)) => Ok(Cow::Owned(Value::Null)),
                };
            }
        };
        for name in &operand.fields {
            value = self.field(value, name, &operand.span)?;
        }
        Ok(value)
    }

    fn variable(&self, name: &str) -> Val<'a> {
        // The parser has seen it declared.
        let found = self.variables.iter().rfind(|(known, _)| *known == name);
        found.map_or(Cow::Owned(Value::Null), |(_, value)| value.clone())
    }

    fn field(&self, value: Val<'a>, name: &str, span: &Range<usize>) -> Result<Val<'a>, Failure> {
        let found = match &value {
            Cow::Borrowed(Value::Object(map)) => map.get(name).map(Cow::Borrowed),
            Cow::Owned(Value::Object(map)) => map.get(name).cloned().map(Cow::Owned),
            Cow::Borrowed(_) | Cow::Owned(_) => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        match &*value {
            Value::Object(map) if self.view.strict && is_struct(map, name) => Err(Failure {
                span: span.clone(),
                said: format!("can't evaluate field {name}"),
                hint: Some(format!(
                    "fields here are {}",
                    map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
                )),
            }),
            Value::Null if self.view.strict && is_exported(name) => {
                Err(failure(span, format!("nil pointer evaluating field {name}")))
            }
            Value::Null | Value::Object(_) => Ok(Cow::Owned(Value::Null)),
            other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                Err(failure(
                    span,
                    format!("can't evaluate field {name} in type {}", format::type_name(other)),
                ))
            }
        }
    }
}

/// See [`View::strict`].
fn is_struct(map: &serde_json::Map<String, Value>, name: &str) -> bool {
    !map.is_empty() && is_exported(name) && map.keys().all(|key| is_exported(key))
}

fn is_exported(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
}

type Items<'a> = Box<dyn Iterator<Item = (Value, Val<'a>)> + 'a>;

/// What a range goes over: index and element, key and value (by key), or the numbers below one.
fn items(value: Val<'_>) -> Result<Items<'_>, String> {
    Ok(match value {
        Cow::Borrowed(Value::Array(list)) => {
            Box::new(list.iter().enumerate().map(|(i, v)| (i.into(), Cow::Borrowed(v))))
        }
        Cow::Owned(Value::Array(list)) => {
            Box::new(list.into_iter().enumerate().map(|(i, v)| (i.into(), Cow::Owned(v))))
        }
        Cow::Borrowed(Value::Object(map)) => {
            Box::new(map.iter().map(|(k, v)| (k.as_str().into(), Cow::Borrowed(v))))
        }
        Cow::Owned(Value::Object(map)) => {
            Box::new(map.into_iter().map(|(k, v)| (k.into(), Cow::Owned(v))))
        }
        other @ (Cow::Borrowed(_) | Cow::Owned(_)) => match (&*other, other.as_i64()) {
            (Value::Null, _) => Box::new(std::iter::empty()),
            (_, Some(count)) => {
                Box::new((0..count).map(|n| (n.into(), Cow::Owned(Value::from(n)))))
            }
            _ => return Err(format!("range can't iterate over {}", format::shown(&other))),
        },
    })
}
