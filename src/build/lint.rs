//! What is legal in a Dockerfile, and likely a mistake: BuildKit's rules, with its names and words
//! (docs.docker.com, "Build checks").

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Command, Copy, Ignore, Kind, Source,
    instruction::{Instruction, parse},
    lex::{Lexed, Line, lex, raw_words},
    pattern::clean,
    suggest::similar,
};
use crate::error::{Error, Result};

/// A rule: its name, and what it says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub name: &'static str,
    pub description: &'static str,
}

/// A rule that is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub rule: &'static Rule,
    pub detail: String,
    /// The first line and the last.
    pub lines: (usize, usize),
}

/// What `# check=` or `BUILDKIT_DOCKERFILE_CHECK` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    skip: BTreeSet<String>,
    skip_all: bool,
    /// Rules that are only kept if they are named.
    experimental: BTreeSet<String>,
    all_experimental: bool,
    /// A warning is an error.
    pub error: bool,
}

/// For an image, and the platform of its `FROM`: the platforms that are expected and found.
pub type OtherPlatform<'a> = dyn Fn(&str, Option<&str>) -> Option<(String, String)> + 'a;

/// What the rules cannot read in the Dockerfile.
pub struct Surroundings<'a> {
    /// `--build-arg`.
    pub args: &'a BTreeMap<String, String>,
    pub ignore: Option<&'a Ignore>,
    /// Whether a variable is one that every build has.
    pub automatic: &'a dyn Fn(&str) -> bool,
    /// The names in the environment of an image; `None` if they are not known.
    pub environment: &'a dyn Fn(&str) -> Option<Vec<String>>,
    /// What a base image should be for, and what the one that is here is for; `None` if that is the same.
    /// The platform is that of its `FROM`.
    pub other_platform: &'a OtherPlatform<'a>,
    /// How a base image's name is read.
    pub is_image: &'a dyn Fn(&str) -> bool,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("args", self.args).finish_non_exhaustive()
    }
}

macro_rules! rules {
    ($($constant:ident $name:literal $description:literal;)*) => {
        $(const $constant: Rule = Rule { name: $name, description: $description };)*
    };
}

rules! {
    STAGE_NAME_CASING "StageNameCasing" "Stage names should be lowercase";
    FROM_AS_CASING "FromAsCasing" "The 'as' keyword should match the case of the 'from' keyword";
    NO_EMPTY_CONTINUATION "NoEmptyContinuation" "Empty continuation lines will become errors in a future release";
    CONSISTENT_CASING "ConsistentInstructionCasing" "All commands within the Dockerfile should use the same casing (either upper or lower)";
    DUPLICATE_STAGE "DuplicateStageName" "Stage names should be unique";
    RESERVED_STAGE "ReservedStageName" "Reserved words should not be used as stage names";
    JSON_ARGS "JSONArgsRecommended" "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
    MAINTAINER "MaintainerDeprecated" "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
    UNDEFINED_IN_FROM "UndefinedArgInFrom" "FROM command must use declared ARGs";
    RELATIVE_WORKDIR "WorkdirRelativePath" "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
    UNDEFINED_VAR "UndefinedVar" "Variables should be defined before their use";
    MULTIPLE "MultipleInstructionsDisallowed" "Multiple instructions of the same type should not be used in the same stage";
    LEGACY_PAIRS "LegacyKeyValueFormat" "Legacy key/value format with whitespace separator should not be used";
    OTHER_PLATFORM "InvalidBaseImagePlatform" "Base image platform does not match expected target platform";
    REDUNDANT_PLATFORM "RedundantTargetPlatform" "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
    SECRETS "SecretsUsedInArgOrEnv" "Sensitive data should not be used in the ARG or ENV commands";
    INVALID_DEFAULT "InvalidDefaultArgInFrom" "Default value for global ARG results in an empty or invalid base image name";
    CONSTANT_PLATFORM "FromPlatformFlagConstDisallowed" "FROM --platform flag should not use a constant value";
    IGNORED_FILE "CopyIgnoredFile" "Attempting to Copy file that is excluded by .dockerignore";
    PROTO_CASING "ExposeProtoCasing" "Protocol in EXPOSE instruction should be lowercase";
    INVALID_DESCRIPTION "InvalidDefinitionDescription" "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.";
    INVALID_EXPOSE "ExposeInvalidFormat" "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";
}

/// Variables that every `FROM` has (Dockerfile reference, "Automatic platform ARGs").
const AUTOMATIC: [&str; 8] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
];

/// Rules that are being tried out.
const EXPERIMENTAL: [&str; 1] = ["InvalidDefinitionDescription"];

/// What a comment says of the stage or argument `name`, if it begins with that.
pub fn described<'a>(comment: &'a str, name: &str) -> Option<&'a str> {
    let (word, text) = comment.split_once(' ')?;
    (!name.is_empty() && word == name).then(|| text.trim())
}

impl Rule {
    /// When BuildKit looks: as it reads a line, once it has read all, as it carries it out.
    fn stage(&self) -> u8 {
        let early = [
            &NO_EMPTY_CONTINUATION,
            &STAGE_NAME_CASING,
            &FROM_AS_CASING,
            &MAINTAINER,
            &INVALID_DESCRIPTION,
        ];
        match self.name {
            _ if early.contains(&self) => 0,
            name if name == CONSISTENT_CASING.name => 1,
            _ => 2,
        }
    }

    /// Where docker explains it, which it does not of every rule.
    pub fn url(&self) -> Option<String> {
        if self.name == OTHER_PLATFORM.name {
            return None;
        }
        let mut kebab = String::new();
        let mut before_upper = true;
        for (at, c) in self.name.char_indices() {
            let next_lower = self.name[at + 1..].starts_with(|c: char| c.is_ascii_lowercase());
            if c.is_ascii_uppercase() && at > 0 && (!before_upper || next_lower) {
                kebab.push('-');
            }
            before_upper = c.is_ascii_uppercase();
            kebab.push(c.to_ascii_lowercase());
        }
        Some(format!("https://docs.docker.com/go/dockerfile/rule/{kebab}/"))
    }
}

impl Checks {
    /// Reads `skip=RULE,RULE;error=true`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut checks = Self::default();
        for option in text.split(';').map(str::trim).filter(|option| !option.is_empty()) {
            let Some((key, value)) = option.split_once('=') else {
                return Err(Error::invalid(format!("invalid check option {option:?}"))
                    .hint("write skip=RULE,RULE;error=true"));
            };
            match (key.trim(), value.trim()) {
                ("skip", "all") => checks.skip_all = true,
                ("skip", list) => {
                    checks.skip.extend(list.split(',').map(|rule| rule.trim().to_owned()));
                }
                ("error", text) => {
                    checks.error = text.parse().map_err(|_| {
                        Error::invalid(format!(
                            "failed to parse check option {option:?}: error is true or false"
                        ))
                    })?;
                }
                ("experimental", "all") => checks.all_experimental = true,
                ("experimental", list) => {
                    checks.experimental.extend(list.split(',').map(|rule| rule.trim().to_owned()));
                }
                (other, _) => {
                    return Err(Error::invalid(format!("invalid check option {other:?}"))
                        .hint("there are skip, experimental and error"));
                }
            }
        }
        Ok(checks)
    }

    fn wants(&self, rule: &Rule) -> bool {
        let is_experimental = EXPERIMENTAL.contains(&rule.name)
            && !self.all_experimental
            && !self.experimental.contains(rule.name);
        !is_experimental && !self.skip_all && !self.skip.contains(rule.name)
    }
}

/// What the directive in the Dockerfile says, and whether there is one.
pub fn directive(source: &Source) -> Result<Option<Checks>> {
    for row in source.text.lines() {
        let Some((key, value)) = super::lex::directive(row) else { break };
        if key == "check" {
            return Checks::parse(value).map(Some);
        }
    }
    Ok(None)
}

/// Every rule of a Dockerfile that parses, in the order of its lines.
pub fn check(source: &Source, checks: &Checks, around: &Surroundings<'_>) -> Result<Vec<Warning>> {
    let lexed = lex(source)?;
    let (_, instructions) = parse(source)?;
    let mut linter = Linter {
        source,
        lexed: &lexed,
        around,
        warnings: Vec::new(),
        globals: BTreeMap::new(),
        stages: Vec::new(),
    };
    linter.casing();
    for (line, instruction) in lexed.lines.iter().zip(&instructions) {
        linter.line(line);
        linter.instruction(line, instruction);
    }
    let mut warnings = linter.warnings;
    warnings.retain(|warning| checks.wants(warning.rule));
    warnings.sort_by_key(|warning| (warning.lines.0, warning.rule.stage()));
    Ok(warnings)
}

/// What is known of a stage on the way through it.
#[derive(Clone, Default)]
struct Stage {
    name: Option<String>,
    /// `ENV` and `ARG` so far, and what comes from below.
    variables: BTreeSet<String>,
    /// The environment below is not known: no variable can be called undefined.
    is_open: bool,
    has_shell: bool,
    has_workdir: bool,
    /// The last `CMD`, `ENTRYPOINT` and `HEALTHCHECK`.
    seen: BTreeMap<&'static str, (usize, usize)>,
}

struct Linter<'a> {
    source: &'a Source,
    lexed: &'a Lexed,
    around: &'a Surroundings<'a>,
    warnings: Vec<Warning>,
    /// With their defaults.
    globals: BTreeMap<String, Option<String>>,
    stages: Vec<Stage>,
}

impl Linter<'_> {
    fn warn(&mut self, rule: &'static Rule, lines: (usize, usize), detail: impl Into<String>) {
        self.warnings.push(Warning { rule, detail: detail.into(), lines });
    }

    /// All instructions are written large, or all small.
    fn casing(&mut self) {
        let verbs: Vec<(&str, (usize, usize))> =
            self.lexed.lines.iter().map(|line| (verb(line), line.rows())).collect();
        let lower = verbs.iter().filter(|(verb, _)| *verb == verb.to_ascii_lowercase()).count();
        let is_lower = lower > verbs.len() - lower;
        for (verb, lines) in verbs {
            let (right, name) = match is_lower {
                true => (verb.to_ascii_lowercase(), "lowercase"),
                false => (verb.to_ascii_uppercase(), "uppercase"),
            };
            if verb != right {
                let detail = format!(
                    "Command '{verb}' should match the case of the command majority ({name})"
                );
                self.warn(&CONSISTENT_CASING, lines, detail);
            }
        }
    }

    /// What shows in the text alone.
    fn line(&mut self, line: &Line) {
        let (first, last) = line.rows();
        let rows: Vec<&str> = self.source.text.lines().collect();
        let body = rows.get(first..last - line.heredoc_rows()).unwrap_or_default();
        if body.iter().any(|row| row.trim().is_empty()) {
            self.warn(&NO_EMPTY_CONTINUATION, (last, last), "Empty continuation line");
        }
        let rest = line.text[verb(line).len()..].trim_start();
        let name = verb(line).to_ascii_uppercase();
        if ["ENV", "LABEL"].contains(&name.as_str()) {
            let words = raw_words(rest, self.lexed.escape);
            if words.first().is_some_and(|first| !first.contains('=')) {
                let detail = format!(
                    "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                );
                self.warn(&LEGACY_PAIRS, (first, last), detail);
            }
        }
    }

    fn instruction(&mut self, line: &Line, instruction: &Instruction) {
        let lines = line.rows();
        let Some(stage) = self.stages.last_mut() else {
            if let Kind::Arg(args) = &instruction.kind {
                self.global(args, lines);
            } else if let Kind::From { image, name, platform } = &instruction.kind {
                self.from(line, image, name.as_deref(), platform.as_deref());
            }
            return;
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "no rule is about the others")]
        match &instruction.kind {
            Kind::From { image, name, platform } => {
                self.from(line, image, name.as_deref(), platform.as_deref());
            }
            Kind::Shell(_) => stage.has_shell = true,
            Kind::Cmd(command) => self.command("CMD", Some(command), lines),
            Kind::Entrypoint(command) => self.command("ENTRYPOINT", Some(command), lines),
            Kind::Healthcheck(_) => self.command("HEALTHCHECK", None, lines),
            Kind::Maintainer(_) => {
                let said = "Maintainer instruction is deprecated in favor of using label";
                self.warn(&MAINTAINER, lines, said);
            }
            Kind::Arg(args) => {
                for (name, default) in args {
                    self.description("ARG", name, lines);
                    self.secret("ARG", name, lines);
                    self.uses(default.as_deref().unwrap_or_default(), lines);
                    self.define(name);
                }
            }
            Kind::Env(pairs) => {
                for (_, value) in pairs {
                    self.uses(value, lines);
                }
                for (name, _) in pairs {
                    self.secret("ENV", name, lines);
                    self.define(name);
                }
            }
            Kind::Label(pairs) => {
                for (key, value) in pairs {
                    self.uses(key, lines);
                    self.uses(value, lines);
                }
            }
            Kind::Workdir(path) => {
                let is_absolute = path.starts_with(['/', '$']);
                // The first one mends those that follow.
                if !std::mem::replace(&mut stage.has_workdir, true) && !is_absolute {
                    let detail = format!(
                        "Relative workdir {path:?} can have unexpected results if the base image changes"
                    );
                    self.warn(&RELATIVE_WORKDIR, lines, detail);
                }
                self.uses(path, lines);
            }
            Kind::User(text) | Kind::StopSignal(text) => self.uses(text, lines),
            Kind::Volume(paths) => paths.iter().for_each(|path| self.uses(path, lines)),
            Kind::Expose(ports) => ports.iter().for_each(|port| self.expose(port, lines)),
            Kind::Copy(copy) => self.copy(copy, lines),
            _ => {}
        }
    }

    fn define(&mut self, name: &str) {
        if let Some(stage) = self.stages.last_mut() {
            stage.variables.insert(name.to_owned());
        }
    }

    /// The comments right above a `FROM` or an `ARG` say what it is.
    fn description(&mut self, verb: &str, name: &str, lines: (usize, usize)) {
        let comments = self.source.comments_above(lines.0);
        let comments = comments.into_iter().filter(|text| !is_directive(text));
        let comments: Vec<&str> = comments.collect();
        if !name.is_empty()
            && !comments.is_empty()
            && !comments.iter().any(|text| described(text, name).is_some())
        {
            let detail =
                format!("Comment for {verb} should follow the format: `# {name} <description>`");
            self.warn(&INVALID_DESCRIPTION, lines, detail);
        }
    }

    fn global(&mut self, args: &[(String, Option<String>)], lines: (usize, usize)) {
        for (name, default) in args {
            self.description("ARG", name, lines);
            let default = default.as_deref().map(|text| self.defaulted(text));
            self.globals.insert(name.clone(), default);
        }
    }

    /// With the defaults of the global ARGs, and nothing given.
    fn defaulted(&self, text: &str) -> String {
        let lookup = |name: &str| match self.globals.get(name) {
            Some(default) => default.clone(),
            // Whatever it is, it is something.
            None => (self.around.automatic)(name).then(|| "automatic".to_owned()),
        };
        super::expand::word(text, self.lexed.escape, &lookup).unwrap_or_else(|_| text.to_owned())
    }

    fn from(&mut self, line: &Line, image: &str, name: Option<&str>, platform: Option<&str>) {
        let lines = line.rows();
        let words: Vec<&str> = line.text.split_whitespace().collect();
        let keyword = words.iter().rev().nth(1).filter(|_| name.is_some()).copied();
        if let (Some(keyword), Some(from)) = (keyword, words.first()) {
            let is_upper = |text: &str| text == text.to_ascii_uppercase();
            let is_lower = |text: &str| text == text.to_ascii_lowercase();
            if !(is_upper(keyword) && is_upper(from) || is_lower(keyword) && is_lower(from)) {
                let detail = format!("'{keyword}' and '{from}' keywords' casing do not match");
                self.warn(&FROM_AS_CASING, lines, detail);
            }
        }
        if let (Some(typed), Some(name)) = (words.last(), name) {
            if *typed != name {
                let detail = format!("Stage name '{typed}' should be lowercase");
                self.warn(&STAGE_NAME_CASING, lines, detail);
            }
            if ["context", "scratch"].contains(&name) {
                let detail =
                    format!("Stage name should not use the same name as reserved stage {name:?}");
                self.warn(&RESERVED_STAGE, lines, detail);
            }
            if self.stages.iter().any(|stage| stage.name.as_deref() == Some(name)) {
                let detail = format!("Duplicate stage name {name:?}, stage names should be unique");
                self.warn(&DUPLICATE_STAGE, lines, detail);
            }
        }
        self.description("FROM", name.unwrap_or_default(), lines);
        self.platform(name, platform, lines);
        self.base(image, platform, lines);
        let resolved = self.defaulted(image);
        let below = self.stages.iter().rev().find(|stage| {
            stage.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(&resolved))
        });
        let mut stage = match below {
            Some(below) => Stage { seen: BTreeMap::new(), ..below.clone() },
            None if resolved == "scratch" => Stage::default(),
            None => {
                if let Some((expected, actual)) = (self.around.other_platform)(&resolved, platform)
                {
                    let detail = format!(
                        "Base image {resolved} was pulled with platform {actual:?}, expected {expected:?} for current build"
                    );
                    self.warn(&OTHER_PLATFORM, lines, detail);
                }
                match (self.around.environment)(&resolved) {
                    Some(names) => {
                        Stage { variables: names.into_iter().collect(), ..Stage::default() }
                    }
                    None => Stage { is_open: true, ..Stage::default() },
                }
            }
        };
        stage.variables.insert("PATH".into());
        stage.name = name.map(str::to_owned);
        self.stages.push(stage);
    }

    fn platform(&mut self, name: Option<&str>, platform: Option<&str>, lines: (usize, usize)) {
        let Some(platform) = platform else { return };
        if ["$TARGETPLATFORM", "${TARGETPLATFORM}"].contains(&platform) {
            let detail = format!(
                "Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
            );
            self.warn(&REDUNDANT_PLATFORM, lines, detail);
        }
        let named = |name: &str| platform.split('/').any(|part| name.contains(part));
        if !platform.contains('$') && !name.is_some_and(named) {
            let detail = format!("FROM --platform flag should not use constant value {platform:?}");
            self.warn(&CONSTANT_PLATFORM, lines, detail);
        }
    }

    /// The variables of a `FROM` are declared, and their defaults make a name.
    fn base(&mut self, image: &str, platform: Option<&str>, lines: (usize, usize)) {
        let used = [image, platform.unwrap_or_default()].map(|text| variables(text, '\\'));
        for name in used.iter().flatten() {
            if !self.globals.contains_key(name) && !(self.around.automatic)(name) {
                let mut known: Vec<&str> = self.globals.keys().map(String::as_str).collect();
                known.extend(AUTOMATIC);
                let hint = similar(name, known).map(|near| format!(" (did you mean {near}?)"));
                let detail =
                    format!("FROM argument '{name}' is not declared{}", hint.unwrap_or_default());
                self.warn(&UNDEFINED_IN_FROM, lines, detail);
            }
        }
        let resolved = self.defaulted(image);
        let is_stage =
            |stage: &Stage| stage.name.as_deref() == Some(&*resolved.to_ascii_lowercase());
        if !used[0].is_empty()
            && !(self.around.is_image)(&resolved)
            && !self.stages.iter().any(is_stage)
        {
            let detail = format!(
                "Default value for ARG {image} results in empty or invalid base image name"
            );
            self.warn(&INVALID_DEFAULT, lines, detail);
        }
    }

    fn command(&mut self, verb: &'static str, command: Option<&Command>, lines: (usize, usize)) {
        let Some(stage) = self.stages.last_mut() else { return };
        let has_shell = stage.has_shell;
        if let Some(before) = stage.seen.insert(verb, lines) {
            // The one before has no effect.
            let detail = format!(
                "Multiple {verb} instructions should not be used in the same stage because only the last one will be used"
            );
            self.warn(&MULTIPLE, before, detail);
        }
        if matches!(command, Some(Command::Shell(_))) && !has_shell {
            let detail = format!(
                "JSON arguments recommended for {verb} to prevent unintended behavior related to OS signals"
            );
            self.warn(&JSON_ARGS, lines, detail);
        }
    }

    fn secret(&mut self, verb: &str, name: &str, lines: (usize, usize)) {
        const WORDS: [&str; 10] = [
            "apikey",
            "auth",
            "credential",
            "credentials",
            "key",
            "password",
            "pword",
            "passwd",
            "secret",
            "token",
        ];
        let lower = name.to_ascii_lowercase();
        let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
        if has(&WORDS) && !has(&["public"]) {
            let detail =
                format!("Do not use ARG or ENV instructions for sensitive data ({verb} {name:?})");
            self.warn(&SECRETS, lines, detail);
        }
    }

    /// Every variable in `text` has been defined.
    fn uses(&mut self, text: &str, lines: (usize, usize)) {
        let Some(stage) = self.stages.last().filter(|stage| !stage.is_open) else { return };
        let mut said = Vec::new();
        for name in variables(text, self.lexed.escape) {
            if !stage.variables.contains(&name) {
                let known: Vec<&str> = stage.variables.iter().map(String::as_str).collect();
                let hint = similar(&name, known).map(|near| format!(" (did you mean ${near}?)"));
                said.push(format!(
                    "Usage of undefined variable '${name}'{}",
                    hint.unwrap_or_default()
                ));
            }
        }
        for detail in said {
            self.warn(&UNDEFINED_VAR, lines, detail);
        }
    }

    fn expose(&mut self, port: &str, lines: (usize, usize)) {
        if let Some((_, protocol)) = port.rsplit_once('/')
            && protocol != protocol.to_ascii_lowercase()
            && !protocol.contains('$')
        {
            let detail =
                format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
            self.warn(&PROTO_CASING, lines, detail);
        }
        if port.contains(':') && !port.contains('$') {
            let detail = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            );
            self.warn(&INVALID_EXPOSE, lines, detail);
        }
    }

    fn copy(&mut self, copy: &Copy, lines: (usize, usize)) {
        for text in copy.sources.iter().chain([&copy.target]) {
            self.uses(text, lines);
        }
        let Some(ignore) = self.around.ignore.filter(|_| copy.from.is_none()) else { return };
        for source in &copy.sources {
            let is_remote = source.contains("://") || source.starts_with("git@");
            let path = clean(source);
            if !is_remote && !source.contains('$') && !path.is_empty() && ignore.ignores(&path) {
                let verb = if copy.add { "Add" } else { "Copy" };
                let detail = format!(
                    "Attempting to {verb} file {source:?} that is excluded by .dockerignore"
                );
                self.warn(&IGNORED_FILE, lines, detail);
            }
        }
    }
}

/// Whether a comment is for the parser.
fn is_directive(text: &str) -> bool {
    super::lex::directive(&format!("#{text}")).is_some()
}

fn verb(line: &Line) -> &str {
    line.text.split_whitespace().next().unwrap_or_default()
}

/// `$name` and `${name…}`, each once: what has an answer if it is not defined should be, too.
fn variables(text: &str, escape: char) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    let mut single = false;
    let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    while let Some(&c) = chars.get(at) {
        at += 1;
        match c {
            '\'' => single = !single,
            c if c == escape && !single => at += 1,
            '$' if !single => {
                let braced = chars.get(at) == Some(&'{');
                at += usize::from(braced);
                let name: String =
                    chars[at.min(chars.len())..].iter().take_while(|c| is_name(c)).collect();
                at += name.len();
                if !name.is_empty() && !found.contains(&name) {
                    found.push(name);
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn warnings(text: &str) -> Vec<(usize, &'static str, String)> {
        let ignore = Ignore::parse("ignored\n").expect("rules");
        let around = Surroundings {
            args: &BTreeMap::new(),
            ignore: Some(&ignore),
            automatic: &|name| name == "TARGETARCH",
            environment: &|image| (image == "known").then(|| vec!["HOME".to_owned()]),
            other_platform: &|image, _| {
                (image == "foreign").then(|| ("linux/amd64".into(), "linux/arm64".into()))
            },
            is_image: &|name| !name.is_empty() && !name.ends_with(':'),
        };
        let source = Source::new("Dockerfile", text);
        let checks = directive(&source).expect("directive").unwrap_or_default();
        let found = check(&source, &checks, &around).expect(text);
        found.into_iter().map(|w| (w.lines.0, w.rule.name, w.detail)).collect()
    }

    #[test]
    fn every_rule() {
        for (text, line, rule, said) in [
            (
                "FROM foreign\n",
                1,
                "InvalidBaseImagePlatform",
                "Base image foreign was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build",
            ),
            ("FROM known AS Base\n", 1, "StageNameCasing", "Stage name 'Base' should be lowercase"),
            (
                "FROM known as base\n",
                1,
                "FromAsCasing",
                "'as' and 'FROM' keywords' casing do not match",
            ),
            ("FROM known\nRUN a \\\n\n b\n", 4, "NoEmptyContinuation", "Empty continuation line"),
            (
                "FROM known\nRUN a\nrun b\n",
                3,
                "ConsistentInstructionCasing",
                "Command 'run' should match the case of the command majority (uppercase)",
            ),
            ("from known\nrun a\nRUN b\n", 3, "ConsistentInstructionCasing", "(lowercase)"),
            (
                "FROM known AS a\nFROM known AS a\n",
                2,
                "DuplicateStageName",
                "Duplicate stage name \"a\", stage names should be unique",
            ),
            ("FROM known AS context\n", 1, "ReservedStageName", "reserved stage \"context\""),
            (
                "FROM known\nCMD a\n",
                2,
                "JSONArgsRecommended",
                "JSON arguments recommended for CMD to",
            ),
            ("FROM known\nMAINTAINER me\n", 2, "MaintainerDeprecated", "in favor of using label"),
            (
                "ARG base=known\nFROM ${bas}x\n",
                2,
                "UndefinedArgInFrom",
                "FROM argument 'bas' is not declared (did you mean base?)",
            ),
            ("FROM known\nWORKDIR a\n", 2, "WorkdirRelativePath", "Relative workdir \"a\" can"),
            (
                "FROM known\nCOPY $HOMER /\n",
                2,
                "UndefinedVar",
                "Usage of undefined variable '$HOMER' (did you mean $HOME?)",
            ),
            (
                "FROM known\nCMD [\"a\"]\nCMD [\"b\"]\n",
                2,
                "MultipleInstructionsDisallowed",
                "Multiple CMD instructions",
            ),
            (
                "FROM known\nENV a b\n",
                2,
                "LegacyKeyValueFormat",
                "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            ),
            (
                "FROM --platform=$TARGETPLATFORM known\n",
                1,
                "RedundantTargetPlatform",
                "predefined $TARGETPLATFORM in FROM",
            ),
            ("FROM scratch\nARG API_TOKEN\n", 2, "SecretsUsedInArgOrEnv", "(ARG \"API_TOKEN\")"),
            (
                "ARG tag\nFROM known:$tag\n",
                2,
                "InvalidDefaultArgInFrom",
                "Default value for ARG known:$tag results",
            ),
            (
                "FROM --platform=linux/amd64 known\n",
                1,
                "FromPlatformFlagConstDisallowed",
                "constant value \"linux/amd64\"",
            ),
            (
                "FROM known\nCOPY ./ignored /x\n",
                2,
                "CopyIgnoredFile",
                "Attempting to Copy file \"./ignored\" that is excluded",
            ),
            (
                "# check=experimental=all\n# other\nARG base=1\n# base is it\nARG base=1\nFROM known\n",
                3,
                "InvalidDefinitionDescription",
                "Comment for ARG should follow the format: `# base <description>`",
            ),
            (
                "# check=experimental=InvalidDefinitionDescription\n# One is it\nFROM known AS one\n",
                3,
                "InvalidDefinitionDescription",
                "Comment for FROM should follow the format: `# one <description>`",
            ),
            ("FROM known\nEXPOSE 80/TCP\n", 2, "ExposeProtoCasing", "'80/TCP'"),
            (
                "FROM known\nEXPOSE 1.2.3.4:80:80\n",
                2,
                "ExposeInvalidFormat",
                "found '1.2.3.4:80:80'",
            ),
        ] {
            let found = warnings(text);
            assert!(
                found.iter().any(|w| w.0 == line && w.1 == rule && w.2.contains(said)),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_well_written_is_left_alone() {
        let text = "ARG base=known\nFROM ${base} AS one\nARG X=1\nENV A=$X B=\"${X:-z}\" PUBLIC_KEY=1\n\
                    WORKDIR /a\nWORKDIR b\nRUN echo $undefined \\\n # fine\n && x\nEXPOSE 80 ${X}/udp\nCOPY other /\n\
                    SHELL [\"sh\"]\nCMD a\nFROM one\nCOPY $A '$none' \\$none /\nFROM unknown\nUSER $WHO\n\
                    FROM --platform=linux/arm64 known AS tool-arm64\nFROM --platform=$TARGETARCH known\n";
        assert_eq!(warnings(text), []);
        let skipped =
            "# check=skip=StageNameCasing, MaintainerDeprecated\nFROM scratch AS A\nMAINTAINER x\n";
        assert_eq!(warnings(skipped), []);
        assert_eq!(warnings("# check=skip=all\nFROM scratch AS A\n"), []);
    }

    #[test]
    fn directives_and_addresses() {
        let source = Source::new("D", "# syntax=x\n# check=error=true;skip=A,B\nFROM scratch\n");
        let checks = directive(&source).expect("directive").expect("there");
        assert!(checks.error && checks.skip.contains("B"));
        for bad in ["skip", "error=perhaps", "bogus=1"] {
            Checks::parse(bad).expect_err(bad);
        }
        for (rule, end) in [
            (JSON_ARGS, "/rule/json-args-recommended/"),
            (FROM_AS_CASING, "/rule/from-as-casing/"),
            (SECRETS, "/rule/secrets-used-in-arg-or-env/"),
        ] {
            assert!(rule.url().is_some_and(|url| url.ends_with(end)), "{end}");
        }
        assert_eq!(OTHER_PLATFORM.url(), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(
            verb in "(FROM|RUN|COPY|ADD|ENV|ARG|LABEL|EXPOSE|WORKDIR|cmd)",
            rest in "[ -~\n\\\\\"'$\\{\\}=<é-]{0,80}",
        ) {
            let around = Surroundings {
                args: &BTreeMap::new(),
                ignore: None,
                automatic: &|_| false,
                environment: &|_| Some(Vec::new()),
                other_platform: &|_, _| None,
                is_image: &|_| false,
            };
            let text = format!("ARG a\nFROM x\n{verb} {rest}\n");
            let _ = check(&Source::new("D", text), &Checks::default(), &around);
        }
    }
}
