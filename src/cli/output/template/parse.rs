//! Tokens to a tree.

use std::ops::Range;

use serde_json::Value;

use super::{
    functions,
    lex::{Fault, Kind, Token},
};

/// Blocks and parentheses inside each other. Deeper is not a template but an attack on the stack.
const DEPTH: usize = 64;

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If { condition: Pipeline, then: Vec<Node>, other: Vec<Node> },
    With { value: Pipeline, then: Vec<Node>, other: Vec<Node> },
    Range { over: Pipeline, body: Vec<Node>, other: Vec<Node> },
    Break,
    Continue,
}

/// `$a, $b := stage | stage`.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) variables: Vec<String>,
    /// Whether the variables are new (`:=`) or known (`=`).
    pub(super) declares: bool,
    pub(super) stages: Vec<Command>,
}

/// A function or a value, and its arguments.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) words: Vec<Operand>,
    pub(super) span: Range<usize>,
}

#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) term: Term,
    /// What is picked from the term, outermost first.
    pub(super) fields: Vec<String>,
    pub(super) span: Range<usize>,
}

#[derive(Debug, Clone)]
pub(super) enum Term {
    Dot,
    Nil,
    Variable(String),
    Literal(Value),
    Function(&'static functions::Function),
    Group(Pipeline),
}

/// How a list of nodes ended.
enum Stop {
    Source,
    End,
    /// At `else`: what follows it is the caller's to read.
    Else(usize),
}

pub(super) fn parse(tokens: Vec<Token>) -> Result<Vec<Node>, Fault> {
    let end = tokens.last().map_or(0, |token| token.end);
    let mut parser =
        Parser { tokens, next: 0, end, variables: vec![String::new()], loops: 0, depth: 0 };
    match parser.list()? {
        (nodes, Stop::Source) => Ok(nodes),
        (_, Stop::End) => Err(Fault::new(parser.at(), "unexpected {{end}}")),
        (_, Stop::Else(at)) => Err(Fault::new(at, "unexpected {{else}}")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    /// The index of the first token not yet used.
    next: usize,
    /// Where the source ends, for faults found there.
    end: usize,
    /// Names in scope; the empty one is `$`.
    variables: Vec<String>,
    loops: usize,
    depth: usize,
}

impl Parser {
    fn token(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn peek(&self) -> Option<&Kind> {
        self.token().map(|token| &token.kind)
    }

    fn at(&self) -> usize {
        self.token().map_or(self.end, |token| token.start)
    }

    /// Uses the next token if it is one of those `wanted`.
    fn next_if(&mut self, wanted: impl FnOnce(&Token) -> bool) -> Option<Token> {
        let token = self.token().filter(|token| wanted(token))?.clone();
        self.next += 1;
        Some(token)
    }

    fn take(&mut self, kind: &Kind) -> bool {
        self.next_if(|token| token.kind == *kind).is_some()
    }

    fn word(&mut self, word: &str) -> bool {
        let is = |token: &Token| matches!(&token.kind, Kind::Word(found) if found == word);
        self.next_if(is).is_some()
    }

    fn close(&mut self, of: &str) -> Result<(), Fault> {
        if self.take(&Kind::Close) {
            return Ok(());
        }
        let at = self.at();
        Err(Fault::new(at, format!("unexpected {} in {of}", self.describe())))
    }

    fn describe(&self) -> String {
        match self.peek() {
            None => "EOF".into(),
            Some(Kind::Text(_)) => "text".into(),
            Some(Kind::Open) => "\"{{\"".into(),
            Some(Kind::Close) => "\"}}\"".into(),
            Some(Kind::Field(name)) => format!("<.{name}>"),
            Some(Kind::Dot) => "<.>".into(),
            Some(Kind::Variable(name)) => format!("\"${name}\""),
            Some(Kind::Word(word)) => format!("<{word}>"),
            Some(Kind::Str(text)) => format!("{text:?}"),
            Some(Kind::Int(int)) => format!("\"{int}\""),
            Some(Kind::Float(float)) => format!("\"{float}\""),
            Some(Kind::Pipe) => "\"|\"".into(),
            Some(Kind::Comma) => "\",\"".into(),
            Some(Kind::Declare) => "\":=\"".into(),
            Some(Kind::Assign) => "\"=\"".into(),
            Some(Kind::LeftParen) => "\"(\"".into(),
            Some(Kind::RightParen) => "right paren".into(),
        }
    }

    /// Nodes up to the end of the source or of the block they are in.
    fn list(&mut self) -> Result<(Vec<Node>, Stop), Fault> {
        let mut nodes = Vec::new();
        while let Some(token) = self.next_if(|_| true) {
            if let Kind::Text(text) = token.kind {
                nodes.push(Node::Text(text));
                continue;
            }
            // Outside an action there is only text and `{{`.
            if self.word("end") {
                self.close("end")?;
                return Ok((nodes, Stop::End));
            }
            let at = self.at();
            if self.word("else") {
                return Ok((nodes, Stop::Else(at)));
            }
            nodes.push(self.action(at)?);
        }
        Ok((nodes, Stop::Source))
    }

    fn action(&mut self, at: usize) -> Result<Node, Fault> {
        for keyword in ["if", "with", "range"] {
            if self.word(keyword) {
                return self.block(keyword);
            }
        }
        for (keyword, node) in [("break", Node::Break), ("continue", Node::Continue)] {
            if self.word(keyword) {
                if self.loops == 0 {
                    return Err(Fault::new(at, format!("{{{{{keyword}}}}} outside {{{{range}}}}")));
                }
                self.close(keyword)?;
                return Ok(node);
            }
        }
        for keyword in ["define", "template", "block"] {
            if self.word(keyword) {
                return Err(Fault::new(at, format!("{{{{{keyword}}}}} is not supported")));
            }
        }
        let pipeline = self.pipeline("command")?;
        self.close("command")?;
        Ok(Node::Print(pipeline))
    }

    fn block(&mut self, keyword: &'static str) -> Result<Node, Fault> {
        self.nested(|parser| {
            let scope = parser.variables.len();
            let node = parser.block_in_scope(keyword);
            parser.variables.truncate(scope);
            node
        })
    }

    fn block_in_scope(&mut self, keyword: &'static str) -> Result<Node, Fault> {
        let head = self.pipeline(keyword)?;
        self.close(keyword)?;
        let scope = self.variables.len();
        let looping = usize::from(keyword == "range");
        self.loops += looping;
        let (then, end) = self.list()?;
        self.loops -= looping;
        self.variables.truncate(scope);
        let other = match end {
            Stop::End => Vec::new(),
            Stop::Else(_) => self.otherwise(keyword)?,
            Stop::Source => return Err(Fault::new(self.end, "unexpected EOF")),
        };
        Ok(match keyword {
            "if" => Node::If { condition: head, then, other },
            "with" => Node::With { value: head, then, other },
            _ => Node::Range { over: head, body: then, other },
        })
    }

    /// What follows `{{else`: another `if` or `with`, which shares our `{{end}}`, or the last part.
    fn otherwise(&mut self, keyword: &'static str) -> Result<Vec<Node>, Fault> {
        if keyword != "range" && self.word(keyword) {
            return Ok(vec![self.block(keyword)?]);
        }
        self.close("else")?;
        match self.list()? {
            (nodes, Stop::End) => Ok(nodes),
            (_, Stop::Else(at)) => Err(Fault::new(at, "expected end; found {{else}}")),
            (_, Stop::Source) => Err(Fault::new(self.end, "unexpected EOF")),
        }
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth == DEPTH {
            return Err(Fault::new(self.at(), format!("nested more than {DEPTH} deep")));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn pipeline(&mut self, context: &str) -> Result<Pipeline, Fault> {
        let at = self.at();
        let (variables, declares) = self.declaration(context)?;
        let mut stages = Vec::new();
        while !matches!(self.peek(), None | Some(Kind::Close | Kind::RightParen)) {
            stages.push(self.command()?);
            if !self.take(&Kind::Pipe) {
                break;
            }
        }
        if stages.is_empty() {
            return Err(Fault::new(at, format!("missing value for {context}")));
        }
        for (number, stage) in (1..).zip(&stages).skip(1) {
            // A stage is called with the value of the one before it.
            let callable = match &stage.words[0] {
                Operand { term: Term::Literal(_) | Term::Nil, .. } => false,
                Operand { term: Term::Dot, fields, .. } => !fields.is_empty(),
                _ => true,
            };
            if !callable {
                return Err(Fault::new(
                    stage.span.start,
                    format!("non executable command in pipeline stage {number}"),
                ));
            }
        }
        if declares {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline { variables, declares, stages })
    }

    /// `$a :=`, `$a =`, or in a range `$a, $b :=`.
    fn declaration(&mut self, context: &str) -> Result<(Vec<String>, bool), Fault> {
        let mut names = Vec::new();
        let mut ahead = self.next;
        while let Some([Token { kind: Kind::Variable(name), start, .. }, after]) =
            self.tokens.get(ahead..ahead + 2)
        {
            names.push((name.clone(), *start));
            ahead += 2;
            let declares = after.kind == Kind::Declare;
            if declares || after.kind == Kind::Assign {
                if !declares {
                    names.iter().try_for_each(|(name, at)| self.known(name, *at))?;
                }
                self.next = ahead;
                return Ok((names.into_iter().map(|(name, _)| name).collect(), declares));
            }
            if after.kind != Kind::Comma || context != "range" {
                break;
            }
            if names.len() == 2 {
                return Err(Fault::new(*start, "too many declarations in range"));
            }
        }
        Ok((Vec::new(), false))
    }

    fn known(&self, name: &str, at: usize) -> Result<(), Fault> {
        if self.variables.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(Fault::new(at, format!("undefined variable \"${name}\"")))
    }

    fn command(&mut self) -> Result<Command, Fault> {
        let start = self.at();
        let mut words: Vec<Operand> = Vec::new();
        let mut end = start;
        loop {
            if let (Some(token), Some(last)) = (self.token(), words.last()) {
                let closes = matches!(token.kind, Kind::Close | Kind::Pipe | Kind::RightParen);
                if token.glued && !closes && token.start == last.span.end {
                    let at = token.start;
                    return Err(Fault::new(
                        at,
                        format!("unexpected {} in operand", self.describe()),
                    ));
                }
            }
            match self.operand()? {
                Some(operand) => {
                    end = operand.span.end;
                    words.push(operand);
                }
                None if words.is_empty() => {
                    let at = self.at();
                    return Err(match self.peek() {
                        None | Some(Kind::Close) => Fault::new(at, "missing value for command"),
                        _ => Fault::new(at, format!("unexpected {} in command", self.describe())),
                    });
                }
                None => return Ok(Command { words, span: start..end }),
            }
        }
    }

    /// A term and its fields; `None` if what is next cannot begin one.
    fn operand(&mut self) -> Result<Option<Operand>, Fault> {
        let start = self.at();
        let mut fields = Vec::new();
        let term = match self.peek() {
            Some(Kind::Dot) => Term::Dot,
            Some(Kind::Field(name)) => {
                fields.push(name.clone());
                Term::Dot
            }
            Some(Kind::Variable(name)) => {
                let name = name.clone();
                self.known(&name, start)?;
                Term::Variable(name)
            }
            Some(Kind::Str(text)) => Term::Literal(text.as_str().into()),
            Some(Kind::Int(int)) => Term::Literal((*int).into()),
            Some(Kind::Float(float)) => Term::Literal((*float).into()),
            Some(Kind::Word(word)) => match word.as_str() {
                "true" => Term::Literal(true.into()),
                "false" => Term::Literal(false.into()),
                "nil" => Term::Nil,
                name => Term::Function(functions::find(name).ok_or_else(|| {
                    Fault::new(start, format!("function \"{name}\" not defined"))
                })?),
            },
            Some(Kind::LeftParen) => return self.group(start).map(Some),
            _ => return Ok(None),
        };
        let end = self.next_if(|_| true).map_or(start, |token| token.end);
        self.fields(term, fields, start..end).map(Some)
    }

    fn group(&mut self, start: usize) -> Result<Operand, Fault> {
        self.next += 1;
        let inner = self.nested(|parser| parser.pipeline("parenthesized pipeline"))?;
        match self.next_if(|token| token.kind == Kind::RightParen) {
            Some(paren) => self.fields(Term::Group(inner), Vec::new(), start..paren.end),
            None => Err(Fault::new(start, "unclosed left paren")),
        }
    }

    /// The `.a.b` that follows a term without a space.
    fn fields(
        &mut self,
        term: Term,
        mut fields: Vec<String>,
        mut span: Range<usize>,
    ) -> Result<Operand, Fault> {
        let takes = match &term {
            Term::Dot => !fields.is_empty(),
            Term::Variable(_) | Term::Group(_) => true,
            Term::Nil | Term::Literal(_) | Term::Function(_) => false,
        };
        while let Some(token) =
            self.next_if(|token| token.glued && matches!(token.kind, Kind::Field(_)))
        {
            if !takes {
                return Err(Fault::new(token.start, "unexpected . after term"));
            }
            if let Kind::Field(name) = token.kind {
                fields.push(name);
            }
            span.end = token.end;
        }
        Ok(Operand { term, fields, span })
    }
}
