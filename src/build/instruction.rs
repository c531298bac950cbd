//! What a line says: the instruction, its flags and its arguments, variables not yet replaced.

use super::{
    lex::{Heredoc, Line, csv, heredoc, lex, raw_words},
    source::Source,
    suggest::similar,
};
use crate::error::{Error, Result};

/// One instruction, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Of its first line.
    pub line: usize,
    /// As it is written, continuations joined.
    pub text: String,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    From { image: String, name: Option<String>, platform: Option<String> },
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Run(Run),
    Copy(Copy),
    Workdir(String),
    User(String),
    Cmd(Command),
    Entrypoint(Command),
    Expose(Vec<String>),
    Volume(Vec<String>),
    Shell(Vec<String>),
    StopSignal(String),
    Healthcheck(Healthcheck),
    Maintainer(String),
    Onbuild(String),
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// For the shell.
    Shell(String),
    /// A JSON list.
    Exec(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    pub heredocs: Vec<Heredoc>,
    pub mounts: Vec<Mount>,
    /// `default`, `none` or `host`.
    pub network: Option<String>,
    /// `--security=insecure`: with all rights there are.
    pub insecure: bool,
    pub devices: Vec<CdiDevice>,
}

/// `--device=NAME[,required]`, a name of the Container Device Interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CdiDevice {
    pub name: String,
    /// Otherwise it may be missing.
    pub required: bool,
}

/// `--mount`, its values as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// The whole of it, if variables are yet to be replaced; then what they may change is not read.
    pub open: Option<String>,
    pub kind: MountKind,
    pub id: Option<String>,
    pub target: Option<String>,
    pub source: Option<String>,
    pub from: Option<String>,
    /// `None`: as the kind has it.
    pub read_only: Option<bool>,
    pub required: bool,
    /// Of a secret: the variable that holds it.
    pub env: Option<String>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Of a cache: `shared`, `private` or `locked`.
    pub sharing: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    pub add: bool,
    pub sources: Vec<String>,
    /// Files whose content stands in the Dockerfile.
    pub inline: Vec<Heredoc>,
    pub target: String,
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
    /// `ADD --unpack`: whether archives are extracted; `None` as ADD and COPY do by themselves.
    pub unpack: Option<bool>,
    /// What a file from elsewhere must be.
    pub checksum: Option<String>,
    /// A repository keeps its `.git`.
    pub keep_git_dir: bool,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// Nanoseconds; zero is inherited.
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: u32,
    pub test: HealthTest,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HealthTest {
    /// `NONE`: the base image's is taken away.
    #[default]
    None,
    Command(Command),
}

/// Every instruction there is.
const VERBS: &str = "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL USER VOLUME WORKDIR";

/// Their flags.
const FLAGS: [(&str, &str); 5] = [
    ("ADD", "chown chmod link exclude unpack checksum keep-git-dir"),
    ("COPY", "chown chmod link exclude from parents"),
    ("FROM", "platform"),
    ("HEALTHCHECK", "interval timeout start-period start-interval retries"),
    ("RUN", "mount network security device"),
];

/// Reads a whole Dockerfile: its escape character and its instructions.
pub fn parse(source: &Source) -> Result<(char, Vec<Instruction>)> {
    let lexed = lex(source)?;
    let read = |line: &Line| instruction(source, line, lexed.escape);
    Ok((lexed.escape, lexed.lines.iter().map(read).collect::<Result<_>>()?))
}

/// Reads one instruction of `ONBUILD`, which stands in an image's configuration.
pub fn trigger(text: &str) -> Result<Instruction> {
    let source = Source::new("ONBUILD", text);
    match &lex(&source)?.lines[..] {
        [line] => instruction(&source, line, '\\'),
        _ => Err(source.error(1, "", "a trigger is one instruction")),
    }
}

fn instruction(source: &Source, line: &Line, escape: char) -> Result<Instruction> {
    let (verb, rest) = line.text.split_once(char::is_whitespace).unwrap_or((&line.text, ""));
    let name = verb.to_ascii_uppercase();
    if !VERBS.split(' ').any(|known| known == name) {
        let meant = similar(&name, VERBS.split(' ')).map(|meant| match verb == name {
            true => format!(" (did you mean {meant}?)"),
            false => format!(" (did you mean {}?)", meant.to_ascii_lowercase()),
        });
        let meant = meant.unwrap_or_default();
        return Err(source.error(line.number, verb, format!("unknown instruction: {verb}{meant}")));
    }
    let parts = Parts::new(&name, rest.trim(), line, escape);
    let kind = parts.and_then(|mut parts| {
        let kind = parts.kind()?;
        parts.no_more_flags()?;
        Ok(kind)
    });
    let kind = kind.map_err(|mistake| {
        let said = format!("{name}: {}", mistake.said);
        let error = source.error(line.number, &mistake.word, said);
        match mistake.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })?;
    Ok(Instruction { line: line.number, text: line.text.clone(), kind })
}

/// What is wrong, and with which word.
struct Mistake {
    said: String,
    word: String,
    hint: Option<String>,
}

type Read<T> = std::result::Result<T, Mistake>;

fn wrong<T>(word: &str, said: impl Into<String>) -> Read<T> {
    Err(Mistake { said: said.into(), word: word.to_owned(), hint: None })
}

impl From<Error> for Mistake {
    fn from(err: Error) -> Self {
        let hint = err.hint_text().map(str::to_owned);
        Self { said: err.to_string(), word: String::new(), hint }
    }
}

/// An instruction's flags and the rest of its line.
struct Parts<'a> {
    verb: &'a str,
    flags: Vec<(String, Option<String>)>,
    rest: &'a str,
    heredocs: &'a [Heredoc],
    escape: char,
}

impl<'a> Parts<'a> {
    fn new(verb: &'a str, mut rest: &'a str, line: &'a Line, escape: char) -> Read<Self> {
        let mut flags = Vec::new();
        while rest.starts_with("--") {
            let end = word_end(rest, escape);
            let (flag, behind) = rest.split_at(end);
            rest = behind.trim_start();
            if flag == "--" {
                break;
            }
            let flag = unquoted(flag, escape);
            let (name, value) = match flag[2..].split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (flag[2..].to_owned(), None),
            };
            flags.push((name, value));
        }
        Ok(Self { verb, flags, rest, heredocs: &line.heredocs, escape })
    }

    fn kind(&mut self) -> Read<Kind> {
        if self.rest.is_empty() && !["CMD", "ENTRYPOINT", "RUN"].contains(&self.verb) {
            return wrong(self.verb, "requires at least one argument");
        }
        Ok(match self.verb {
            "FROM" => self.from()?,
            "ARG" => Kind::Arg(self.args()?),
            "ENV" => Kind::Env(self.pairs()?),
            "LABEL" => Kind::Label(self.pairs()?),
            "RUN" => Kind::Run(self.run()?),
            "COPY" | "ADD" => Kind::Copy(self.copy()?),
            "WORKDIR" => Kind::Workdir(self.rest.to_owned()),
            "USER" => Kind::User(self.rest.to_owned()),
            "CMD" => Kind::Cmd(command(self.rest)?),
            "ENTRYPOINT" => Kind::Entrypoint(command(self.rest)?),
            "EXPOSE" => Kind::Expose(raw_words(self.rest, self.escape)),
            "VOLUME" => Kind::Volume(self.list()?),
            "SHELL" => match json(self.rest)? {
                Some(shell) if !shell.is_empty() => Kind::Shell(shell),
                _ => {
                    return wrong(
                        self.rest,
                        "the shell must be written as a JSON list: [\"executable\", \"parameters\"]",
                    );
                }
            },
            "STOPSIGNAL" => match raw_words(self.rest, self.escape).len() {
                1 => Kind::StopSignal(self.rest.to_owned()),
                _ => return wrong(self.rest, "requires exactly one argument"),
            },
            "HEALTHCHECK" => Kind::Healthcheck(self.healthcheck()?),
            "MAINTAINER" => Kind::Maintainer(self.rest.to_owned()),
            _ => Kind::Onbuild(self.onbuild()?),
        })
    }

    /// The value of a flag that is given at most once.
    fn flag(&mut self, name: &str) -> Read<Option<String>> {
        let mut values = self.flag_list(name)?;
        if values.len() > 1 {
            return wrong(name, format!("the flag --{name} is given twice"));
        }
        Ok(values.pop())
    }

    fn flag_list(&mut self, name: &str) -> Read<Vec<String>> {
        let mut values = Vec::new();
        for (_, value) in self.flags.extract_if(.., |(flag, _)| flag == name) {
            match value {
                Some(value) => values.push(value),
                None => return wrong(name, format!("the flag --{name} needs a value")),
            }
        }
        Ok(values)
    }

    fn switch(&mut self, name: &str) -> Read<Option<bool>> {
        let mut found = None;
        for (_, value) in self.flags.extract_if(.., |(flag, _)| flag == name) {
            found = Some(match value.as_deref() {
                None | Some("true" | "1") => true,
                Some("false" | "0") => false,
                Some(other) => {
                    return wrong(other, format!("--{name} is true or false, not {other}"));
                }
            });
        }
        Ok(found)
    }

    fn no_more_flags(&self) -> Read<()> {
        let Some((name, _)) = self.flags.first() else { return Ok(()) };
        let known = FLAGS.iter().find(|(verb, _)| *verb == self.verb).map_or("", |(_, all)| *all);
        let meant = similar(name, known.split(' ').filter(|known| !known.is_empty()));
        let meant = meant.map(|meant| format!(" (did you mean {meant}?)")).unwrap_or_default();
        wrong(&format!("--{name}"), format!("unknown flag: --{name}{meant}"))
    }

    fn from(&mut self) -> Read<Kind> {
        let platform = self.flag("platform")?;
        let words: Vec<&str> = self.rest.split_whitespace().collect();
        match words[..] {
            [image] => Ok(Kind::From { image: image.into(), name: None, platform }),
            [image, between, name] if between.eq_ignore_ascii_case("as") => {
                let name = name.to_ascii_lowercase();
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
                    return wrong(
                        &name,
                        format!(
                            "invalid name for a stage: {name:?}, it can't start with a number or contain symbols"
                        ),
                    );
                }
                Ok(Kind::From { image: image.into(), name: Some(name), platform })
            }
            _ => wrong(self.rest, "requires either one or three arguments: IMAGE [AS NAME]"),
        }
    }

    fn args(&self) -> Read<Vec<(String, Option<String>)>> {
        let words = raw_words(self.rest, self.escape);
        let split = |word: &String| match word.split_once('=') {
            Some(("", _)) => wrong(word, "a name must not be empty"),
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok((word.clone(), None)),
        };
        words.iter().map(split).collect()
    }

    /// `key=value ...`, or the old `key the rest`.
    fn pairs(&self) -> Read<Vec<(String, String)>> {
        let words = raw_words(self.rest, self.escape);
        let first = words.first().map_or("", String::as_str);
        if !first.contains('=') {
            let value = self.rest[first.len().min(self.rest.len())..].trim_start();
            if value.is_empty() {
                return wrong(first, "must have two arguments: NAME=VALUE");
            }
            return Ok(vec![(first.to_owned(), value.to_owned())]);
        }
        let split = |word: &String| match word.split_once('=') {
            Some(("", _)) => wrong(word, "a name must not be empty"),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => {
                wrong(word, format!("can't find = in {word:?}. Must be of the form: name=value"))
            }
        };
        words.iter().map(split).collect()
    }

    fn list(&self) -> Read<Vec<String>> {
        let list = json(self.rest)?.unwrap_or_else(|| raw_words(self.rest, self.escape));
        match list.iter().any(String::is_empty) || list.is_empty() {
            true => wrong(self.rest, "an empty path"),
            false => Ok(list),
        }
    }

    fn run(&mut self) -> Read<Run> {
        let network = self.flag("network")?;
        if let Some(network) = &network
            && !["default", "none", "host"].contains(&network.as_str())
        {
            return wrong(network, format!("unsupported network mode {network:?}"));
        }
        let mounts = self.flag_list("mount")?;
        let mounts = mounts.iter().map(|text| mount(text, None)).collect::<Read<_>>()?;
        let insecure = match self.flag("security")?.as_deref() {
            None | Some("sandbox") => false,
            Some("insecure") => true,
            Some(other) => return wrong(other, format!("security {other:?} is not valid")),
        };
        let devices = self.flag_list("device")?;
        let devices = devices.iter().map(|text| device(text)).collect::<Read<_>>()?;
        let heredocs = self.heredocs.to_vec();
        Ok(Run { command: command(self.rest)?, heredocs, mounts, network, insecure, devices })
    }

    fn copy(&mut self) -> Read<Copy> {
        let add = self.verb == "ADD";
        let mut copy = Copy {
            add,
            chown: self.flag("chown")?,
            chmod: self.flag("chmod")?,
            link: self.switch("link")?.unwrap_or(false),
            exclude: self.flag_list("exclude")?,
            ..Copy::default()
        };
        if add {
            copy.unpack = self.switch("unpack")?;
            copy.checksum = self.flag("checksum")?;
            copy.keep_git_dir = self.switch("keep-git-dir")?.unwrap_or(false);
        } else {
            copy.from = self.flag("from")?;
            if let Some(from) = copy.from.as_deref().filter(|from| has_variable(from)) {
                return wrong(
                    from,
                    "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
                );
            }
            copy.parents = self.switch("parents")?.unwrap_or(false);
        }
        let mut words = json(self.rest)?.unwrap_or_else(|| raw_words(self.rest, self.escape));
        let Some(target) = words.pop().filter(|_| !words.is_empty()) else {
            return wrong(self.rest, "requires at least two arguments, but only one was provided");
        };
        copy.target = target;
        let mut inline = self.heredocs.iter();
        for word in words {
            match heredoc(&word) {
                Some(_) => copy.inline.extend(inline.next().cloned()),
                None => copy.sources.push(word),
            }
        }
        if heredoc(&copy.target).is_some() {
            return wrong(&copy.target, "the destination is missing: a here-document stands there");
        }
        Ok(copy)
    }

    fn healthcheck(&mut self) -> Read<Healthcheck> {
        let (kind, rest) = self.rest.split_once(char::is_whitespace).unwrap_or((self.rest, ""));
        let rest = rest.trim();
        let mut duration = |name: &str| match self.flag(name)? {
            None => Ok(0),
            Some(text) => match go_duration(&text) {
                Some(value) if value == 0 || value >= 1_000_000 => Ok(value),
                _ => wrong(&text, format!("--{name}: {text:?} is no duration of 1ms or more")),
            },
        };
        let mut check = Healthcheck {
            interval: duration("interval")?,
            timeout: duration("timeout")?,
            start_period: duration("start-period")?,
            start_interval: duration("start-interval")?,
            ..Healthcheck::default()
        };
        if let Some(text) = self.flag("retries")? {
            match text.parse() {
                Ok(retries) => check.retries = retries,
                Err(_) => return wrong(&text, format!("--retries: {text:?} is no number")),
            }
        }
        match kind.to_ascii_uppercase().as_str() {
            "NONE" if rest.is_empty() => {}
            "NONE" => return wrong(rest, "NONE takes no arguments"),
            "CMD" if rest.is_empty() => return wrong(kind, "missing command after CMD"),
            "CMD" => check.test = HealthTest::Command(command(rest)?),
            _ => return wrong(kind, format!("unknown type {kind:?} (try CMD)")),
        }
        Ok(check)
    }

    fn onbuild(&self) -> Read<String> {
        let first = self.rest.split_whitespace().next().unwrap_or_default();
        let name = first.to_ascii_uppercase();
        if ["ONBUILD", "FROM", "MAINTAINER"].contains(&name.as_str()) {
            return wrong(first, format!("{name} isn't allowed as an ONBUILD trigger"));
        }
        let mut text = self.rest.to_owned();
        for heredoc in self.heredocs {
            text.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
        }
        trigger(&text)?;
        Ok(text)
    }
}

fn command(text: &str) -> Read<Command> {
    Ok(json(text)?.map_or_else(|| Command::Shell(text.to_owned()), Command::Exec))
}

/// A list of strings in JSON; what is no list is text for a shell.
fn json(text: &str) -> Read<Option<Vec<String>>> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let strings: Option<Vec<String>> =
        list.iter().map(|one| one.as_str().map(str::to_owned)).collect();
    match strings {
        Some(strings) => Ok(Some(strings)),
        None => {
            wrong(text, "when using JSON array syntax, arrays must be comprised of strings only")
        }
    }
}

/// Whether a variable may stand in it.
fn has_variable(text: &str) -> bool {
    text.find('$').is_some_and(|at| at + 1 < text.len())
}

/// Where the first word ends.
fn word_end(text: &str, escape: char) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (escaped, quote, c) {
            (true, ..) => escaped = false,
            (_, _, c) if c == escape => escaped = true,
            (_, Some(open), c) if c == open => quote = None,
            (_, None, '"' | '\'') => quote = Some(c),
            (_, None, c) if c.is_whitespace() => return at,
            _ => {}
        }
    }
    text.len()
}

fn unquoted(word: &str, escape: char) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (_, c) if c == escape => out.extend(chars.next()),
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            _ => out.push(c),
        }
    }
    out
}

/// `NAME[,required]`; BuildKit's `name=NAME`, too.
fn device(text: &str) -> Read<CdiDevice> {
    let mut device = CdiDevice { name: String::new(), required: false };
    for field in text.split(',') {
        match field.split_once('=') {
            None if field == "required" => device.required = true,
            Some(("required", value @ ("true" | "false"))) => device.required = value == "true",
            Some(("name", name)) => device.name = name.to_owned(),
            Some((kind, _)) if kind.contains('/') => device.name = field.to_owned(),
            Some((key, _)) => return wrong(field, format!("unexpected key '{key}' in '{field}'")),
            None => device.name = field.to_owned(),
        }
    }
    match device.name.is_empty() {
        true => wrong(text, "--device needs a name: vendor.com/class=device"),
        false => Ok(device),
    }
}

/// Replaces the variables of a value.
type Expander<'a> = &'a dyn Fn(&str) -> Result<String>;

/// Reads `--mount`, its variables replaced.
pub fn mount_with(text: &str, expander: Expander<'_>) -> Result<Mount> {
    mount(text, Some(expander)).map_err(|mistake| {
        let error = Error::invalid(mistake.said);
        match mistake.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })
}

/// Without an expander, what has variables is left for later.
fn mount(text: &str, expander: Option<Expander<'_>>) -> Read<Mount> {
    let mut mount = Mount::default();
    let mut said_kind = "bind".to_owned();
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value)),
            None => (field.trim().to_ascii_lowercase(), None),
        };
        let value = match (value, expander) {
            (None, _) => None,
            (Some(value), Some(expander)) => Some(expander(value)?),
            (Some(value), None) if key == "from" && has_variable(value) => {
                return wrong(
                    value,
                    "'from' doesn't support variable expansion, define alias stage instead",
                );
            }
            (Some(value), None) if has_variable(value) => {
                mount.open = Some(text.to_owned());
                continue;
            }
            (Some(value), None) => Some(value.to_owned()),
        };
        if let (true, Some(value)) = (key == "type", &value) {
            said_kind.clone_from(value);
        }
        mount.set(&key, value)?;
    }
    if mount.open.is_none() {
        mount.check(&said_kind)?;
    }
    Ok(mount)
}

/// `key=value,...`.
fn fields(text: &str) -> Read<Vec<String>> {
    match csv(text) {
        Some(fields) => Ok(fields),
        None => wrong(text, "failed to parse csv mounts: a quote is not closed"),
    }
}

impl Mount {
    fn set(&mut self, key: &str, value: Option<String>) -> Read<()> {
        let switch = || match value.as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => wrong(other, format!("invalid value for {key}: {other}")),
        };
        match key {
            "readonly" | "ro" => self.read_only = Some(switch()?),
            "readwrite" | "rw" => self.read_only = Some(!switch()?),
            "required" => self.required = switch()?,
            _ => match value {
                Some(value) => return self.set_value(key, value),
                None => {
                    return wrong(key, format!("invalid field '{key}' must be a key=value pair"));
                }
            },
        }
        Ok(())
    }

    fn set_value(&mut self, key: &str, value: String) -> Read<()> {
        match key {
            "type" => {
                self.kind = match value.to_ascii_lowercase().as_str() {
                    "bind" => MountKind::Bind,
                    "cache" => MountKind::Cache,
                    "tmpfs" => MountKind::Tmpfs,
                    "secret" => MountKind::Secret,
                    "ssh" => MountKind::Ssh,
                    _ => return wrong(&value, format!("unsupported mount type {value:?}")),
                };
            }
            "id" => self.id = Some(value),
            "target" | "dst" | "destination" => self.target = Some(value),
            "source" | "src" => self.source = Some(value),
            "from" => self.from = Some(value),
            "env" => self.env = Some(value),
            "mode" => match u32::from_str_radix(&value, 8) {
                Ok(mode) if mode <= 0o7777 => self.mode = Some(mode),
                _ => return wrong(&value, format!("invalid value {value} for mode")),
            },
            "uid" | "gid" => {
                let Ok(id) = value.parse() else {
                    return wrong(&value, format!("invalid value {value} for {key}"));
                };
                *(if key == "uid" { &mut self.uid } else { &mut self.gid }) = Some(id);
            }
            "size" => match bytes(&value) {
                Some(size) => self.size = Some(size),
                None => return wrong(&value, format!("invalid value for size: {value}")),
            },
            "sharing" => match value.to_ascii_lowercase().as_str() {
                known @ ("shared" | "private" | "locked") => self.sharing = Some(known.into()),
                _ => return wrong(&value, format!("unsupported sharing value {value:?}")),
            },
            _ => return wrong(key, format!("unexpected key '{key}' in '{key}={value}'")),
        }
        Ok(())
    }

    /// What makes sense for the kind.
    fn check(&self, kind: &str) -> Read<()> {
        let is = |kind: MountKind| self.kind == kind;
        let has_id = !is(MountKind::Bind) && !is(MountKind::Tmpfs);
        let has = [
            ("size", self.size.is_some(), is(MountKind::Tmpfs)),
            ("env", self.env.is_some(), is(MountKind::Secret)),
            ("required", self.required, is(MountKind::Secret) || is(MountKind::Ssh)),
            ("sharing", self.sharing.is_some(), is(MountKind::Cache)),
            ("from", self.from.is_some(), is(MountKind::Bind) || is(MountKind::Cache)),
            ("source", self.source.is_some(), !is(MountKind::Tmpfs) && !is(MountKind::Ssh)),
            ("id", self.id.is_some(), has_id),
            ("mode", self.mode.is_some(), has_id),
            ("uid", self.uid.is_some(), has_id),
            ("gid", self.gid.is_some(), has_id),
            ("readonly", self.read_only.is_some(), is(MountKind::Bind) || is(MountKind::Cache)),
        ];
        for (key, given, allowed) in has {
            if given && !allowed {
                return wrong(key, format!("unexpected key '{key}' for mount type '{kind}'"));
            }
        }
        let named = self.id.is_some() || self.source.is_some();
        match self.kind {
            MountKind::Secret if !named && self.target.is_none() => {
                wrong("secret", "a secret needs an id")
            }
            // Without a target it is the working directory that is mounted on.
            MountKind::Secret
            | MountKind::Ssh
            | MountKind::Bind
            | MountKind::Cache
            | MountKind::Tmpfs => Ok(()),
        }
    }
}

/// `64`, `64m`, `1g`, `10kb`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (number, shift) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 10),
        'm' => (&text[..text.len() - 1], 20),
        'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `1m30s`, `500ms`, `0`: Go's durations, in nanoseconds.
fn go_duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded on the line above")]
    (text.len() > 1 && total < 9e18).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Result<Kind> {
        let (_, mut all) = parse(&Source::new("Dockerfile", text))?;
        Ok(all.remove(0).kind)
    }

    fn exec(words: &[&str]) -> Command {
        Command::Exec(words.iter().map(|&word| word.to_owned()).collect())
    }

    #[test]
    fn both_forms_of_a_command() {
        assert_eq!(one("cmd [\"a\", \"b c\"]").expect("exec"), Kind::Cmd(exec(&["a", "b c"])));
        assert_eq!(
            one("CMD ['a']").expect("shell"),
            Kind::Cmd(Command::Shell("['a']".into())),
            "what is no JSON is for the shell"
        );
        assert_eq!(one("ENTRYPOINT []").expect("empty"), Kind::Entrypoint(exec(&[])));
    }

    #[test]
    fn pairs_in_both_forms() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            one("ENV A=1 B=\"two words\" C=a\\ b").expect("new"),
            Kind::Env(vec![pair("A", "1"), pair("B", "\"two words\""), pair("C", "a\\ b")])
        );
        assert_eq!(
            one("LABEL x  the rest").expect("old"),
            Kind::Label(vec![pair("x", "the rest")])
        );
    }

    #[test]
    fn copies_and_mounts() {
        let Kind::Copy(copy) =
            one("COPY --from=b --chown=1:2 --exclude=*.o --exclude=x --link a b /c/")
                .expect("copy")
        else {
            panic!()
        };
        assert_eq!((copy.from.as_deref(), copy.exclude.len(), copy.link), (Some("b"), 2, true));
        assert_eq!((copy.sources.len(), copy.target.as_str()), (2, "/c/"));
        let Kind::Run(run) = one(
            "RUN --mount=type=cache,target=/c,sharing=locked,mode=0750 --mount=target=/s,from=x,rw --network=none a b",
        )
        .expect("run") else {
            panic!()
        };
        assert_eq!(run.mounts[0].kind, MountKind::Cache);
        assert_eq!((run.mounts[0].mode, run.mounts[1].read_only), (Some(0o750), Some(false)));
        assert!(run.mounts.iter().all(|mount| mount.open.is_none()));
        let text = "type=$kind,\"target=/a,b\",mode=$mode,id=$kind";
        let Kind::Run(open) = one(&format!("RUN --mount='{text}' x")).expect("run") else {
            panic!()
        };
        assert_eq!(open.mounts[0].open.as_deref(), Some(text));
        let value = |text: &str| Ok(text.replace("$kind", "cache").replace("$mode", "700"));
        let mount = mount_with(text, &value).expect("mount");
        assert_eq!((mount.kind, mount.mode), (MountKind::Cache, Some(0o700)));
        assert_eq!((mount.target.as_deref(), mount.id.as_deref()), (Some("/a,b"), Some("cache")));
        mount_with(text, &|_| Ok("7x".into())).expect_err("a kind that is none");
        assert_eq!(run.command, Command::Shell("a b".into()));
        let Kind::Healthcheck(check) =
            one("HEALTHCHECK --interval=1m30s --retries=2 CMD [\"x\"]").expect("health")
        else {
            panic!()
        };
        assert_eq!((check.interval, check.retries), (90_000_000_000, 2));
    }

    #[test]
    fn mistakes_name_line_and_column() {
        for (text, said) in [
            ("FROM a\nRUM x", "D:2:1: unknown instruction: RUM (did you mean RUN?)"),
            ("NOTHING x", "D:1:1: unknown instruction: NOTHING\n"),
            ("CMD [\"a\", 1]", "arrays must be comprised of strings only"),
            ("COPY [\"a\", null]", "arrays must be comprised of strings only"),
            ("COPY --from=$x a b", "variable expansion is not supported for --from"),
            ("RUN --mount=from=$x,target=/y z", "'from' doesn't support variable expansion"),
            ("RUN --mount=type=cache,target=/x,mode=9 y", "invalid value 9 for mode"),
            ("RUN --bogus=1 x", "D:1:5: RUN: unknown flag: --bogus"),
            ("RUN --security=lax x", "is not valid"),
            ("RUN --device=required y", "needs a name"),
            ("RUN --device=a/b=c,bogus=1 y", "unexpected key 'bogus'"),
            ("COPY x", "requires at least two arguments"),
            ("COPY", "requires at least one argument"),
            ("FROM a b", "either one or three"),
            ("FROM a AS 1x", "invalid name for a stage"),
            ("ENV A", "must have two arguments"),
            ("ENV A=1 B", "can't find ="),
            ("SHELL sh", "JSON"),
            ("HEALTHCHECK PING", "unknown type"),
            ("HEALTHCHECK --interval=1x CMD a", "no duration"),
            ("ONBUILD FROM x", "isn't allowed"),
            ("ONBUILD NOPE x", "unknown instruction: NOPE"),
            ("ONBUILD ONBUILD RUN x", "isn't allowed"),
            ("RUN --mount=type=ssh,source=x y", "unexpected key 'source'"),
            ("RUN --mount=type=tmpfs,target=/x,id=1 x", "unexpected key 'id'"),
            ("RUN --mount=type=bind,target=/x,size=1 x", "unexpected key 'size'"),
            ("RUN --network=x y", "unsupported network mode"),
            ("COPY --from=a --from=b x y", "given twice"),
            ("COPY --form=a x y", "unknown flag: --form (did you mean from?)"),
            ("COPY --link=maybe x y", "true or false"),
        ] {
            let err = parse(&Source::new("D", text)).expect_err(text).to_string();
            assert!(err.starts_with("D:") && err.contains(said), "{text}: {err}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(
            verb in "(FROM|RUN|COPY|ADD|ENV|ARG|LABEL|HEALTHCHECK|VOLUME|ONBUILD RUN|SHELL|EXPOSE|USER)",
            rest in "[ -~\n\\\\\"'\\[\\]=<é-]{0,80}",
        ) {
            let _ = parse(&Source::new("D", format!("{verb} {rest}")));
        }
    }
}
