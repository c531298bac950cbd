//! Docker's and podman's whole surface, flag by flag: what works here has a test that types it,
//! what does not is refused by name, and `docs/flags.md` says which is which.
//!
//! `tests/surface.tsv` is read off the other two programs. A line added there fails here until
//! the flag works and is tested, or is refused with a reason. `DHOW_UPDATE_DOCS=1` writes the page
//! anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use clap::{Arg, Command, CommandFactory as _};
use dhow::cli::args::{
    Cli,
    refused::{GLOBAL, REFUSED, REFUSED_COMMANDS},
};
use regex::Regex;

use crate::{env::Env, fixture::BUSY};

/// Commands on containers: here each flag must be accounted for.
const CONTAINER: [&str; 23] = [
    "attach", "commit", "cp", "create", "diff", "exec", "export", "kill", "logs", "pause", "port",
    "ps", "rename", "restart", "rm", "run", "start", "stats", "stop", "top", "unpause", "update",
    "wait",
];

/// One line of the surface.
struct Line {
    command: String,
    /// `-a, --all`, or `-` for the command itself.
    flag: String,
    docker: bool,
    podman: bool,
}

impl Line {
    /// `--all`, or the short form where there is no other.
    fn name(&self) -> &str {
        self.flag.rsplit(", ").next().unwrap_or(&self.flag)
    }
}

/// What dhow does with a flag.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Works,
    /// For good, and why.
    Refused(&'static str),
    /// Not in this version, and said so.
    Absent,
}

fn source() -> PathBuf {
    env::var_os("INSTA_WORKSPACE_ROOT")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), Into::into)
}

fn surface() -> Vec<Line> {
    let text = include_str!("../surface.tsv");
    let lines = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [command, flag, docker, podman] = fields[..] else { panic!("{line:?}") };
            Line {
                command: command.to_owned(),
                flag: flag.to_owned(),
                docker: docker == "y",
                podman: podman == "y",
            }
        })
        .collect()
}

/// The grammar of a command: `run`, `image tree`; the global flags are the program's own.
fn grammar<'a>(whole: &'a Command, command: &str) -> Option<&'a Command> {
    let mut words = command.split(' ').filter(|word| *word != "(global)");
    words.try_fold(whole, |found, word| found.find_subcommand(word))
}

fn takes(grammar: &Command, flag: &str) -> bool {
    let spelled = |arg: &Arg| {
        let long = flag.strip_prefix("--").is_some_and(|name| {
            arg.get_long() == Some(name)
                || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        });
        let short = flag.strip_prefix('-').filter(|rest| rest.len() == 1);
        long || short.is_some_and(|rest| arg.get_short() == rest.chars().next())
    };
    grammar.get_arguments().any(spelled) || flag == "-"
}

fn refusal(command: &str, flag: &str) -> Option<&'static str> {
    let meant = |(verbs, name, _): &&(&str, &str, &'static str)| {
        *name == flag && verbs.split(' ').any(|verb| verb.replace('-', " ") == command)
    };
    REFUSED.iter().find(meant).map(|(_, _, reason)| *reason)
}

fn answer(whole: &Command, line: &Line) -> Answer {
    if let Some(reason) = refusal(&line.command, line.name()) {
        return Answer::Refused(reason);
    }
    match grammar(whole, &line.command) {
        Some(grammar) if takes(grammar, line.name()) => Answer::Works,
        _ => Answer::Absent,
    }
}

fn whole() -> Command {
    let mut whole = Cli::command();
    whole.build();
    whole
}

/// Text in quotes in a test.
struct Typed {
    text: String,
    /// `topic::function`; a helper's name where one writes the text for its callers.
    place: String,
}

/// Text in quotes of all tests.
fn typed() -> Vec<Typed> {
    let token =
        Regex::new(r#"(?m)^ *(?:pub\(crate\) )?fn (\w+)|"((?:[^"\\]|\\[\s\S])*)""#).unwrap();
    let mut typed = Vec::new();
    for entry in fs::read_dir(source().join("tests/it")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let topic = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut place = topic.clone();
            for found in token.captures_iter(&source) {
                match (found.get(1), found.get(2)) {
                    (Some(function), _) => place = format!("{topic}::{}", function.as_str()),
                    (None, Some(text)) => {
                        typed.push(Typed { text: text.as_str().to_owned(), place: place.clone() });
                    }
                    (None, None) => {}
                }
            }
        }
    }
    // The same first one wherever directories are read in another order.
    typed.sort_by(|one, two| one.place.cmp(&two.place));
    typed
}

/// Topics whose helpers do not complete the flags of a container.
const OF_IMAGES: [&str; 12] = [
    "build", "images", "load", "login", "manifest", "mirrors", "pull", "push", "registry", "save",
    "search", "trust",
];

/// Which test types which flag: read as the program reads a command line, so that what belongs to
/// a container's own command is none of ours.
struct Tests(BTreeMap<(String, String), String>);

impl Tests {
    fn of(whole: &mut Command, typed: &[Typed]) -> Self {
        let mut found = BTreeMap::new();
        // What is refused is typed here, too.
        for one in typed.iter().filter(|one| !one.place.starts_with("surface::")) {
            let words = words_of(&one.text);
            let about_containers = !OF_IMAGES.iter().any(|topic| one.place.starts_with(topic));
            let both = words.iter().flat_map(|words| lines(whole, words, about_containers));
            for (command, line) in both.collect::<BTreeSet<_>>() {
                let Some(flags) = flags_of(whole, &command, &line) else { continue };
                for flag in flags {
                    let place = one.place.clone();
                    found.entry((command.clone(), flag)).or_insert(place);
                }
            }
        }
        Self(found)
    }

    /// `run` and `create` share all of theirs.
    fn of_flag(&self, line: &Line) -> Option<&str> {
        let other = match &*line.command {
            "run" => "create",
            "create" => "run",
            command => command,
        };
        let alone = line.command.strip_prefix("container ");
        let same: Vec<&str> = [&*line.command, other].into_iter().chain(alone).collect();
        let spellings = line.flag.split(", ");
        let mut all = spellings.flat_map(|flag| same.iter().map(move |command| (*command, flag)));
        all.find_map(|(command, flag)| {
            Some(self.0.get(&(command.to_owned(), flag.to_owned()))?.as_str())
        })
    }
}

/// The words of a line in a test, in two ways; what is put in later is some word.
fn words_of(text: &str) -> [Vec<String>; 2] {
    let hole = Regex::new(r"\{[^{} ]*\}").unwrap();
    let text = text.replace("{{", "<").replace("}}", ">").replace("\\\"", "'");
    let text = hole.replace_all(&text, "HOLE").replace("\\\n", " ");
    let words: Vec<String> = match text.matches('\'').count() % 2 {
        0 => crate::env::words(&text),
        _ => text.split_whitespace().map(str::to_owned).collect(),
    };
    // Between flags it is the value of one, or stands for more of them.
    let is_flag = |word: Option<&String>| word.is_some_and(|word| word.starts_with('-'));
    let stays = |(at, word): &(usize, &String)| {
        let before = at.checked_sub(1).and_then(|at| words.get(at));
        *word != "HOLE" || is_flag(before) || !is_flag(words.get(at + 1))
    };
    let as_values = words.iter().enumerate().filter(stays).map(|(_, word)| word.clone()).collect();
    let stays = |(at, word): &(usize, &String)| *word != "HOLE" || !is_flag(words.get(at + 1));
    let as_flags = words.iter().enumerate().filter(stays).map(|(_, word)| word.clone()).collect();
    [as_values, as_flags]
}

/// What a text may be: a command line, or the flags of one that a helper completes.
fn lines(whole: &Command, words: &[String], about_containers: bool) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for start in 0..words.len().min(4) {
        let mut path = String::new();
        let mut grammar = whole;
        for (count, word) in words[start..].iter().enumerate().take(2) {
            let Some(found) = grammar.find_subcommand(word) else { break };
            grammar = found;
            path = format!("{path} {}", found.get_name()).trim_start().to_owned();
            if !found.has_subcommands() {
                all.push((path.clone(), words[start + count + 1..].to_vec()));
            }
        }
    }
    let begins = words.first().is_some_and(|word| word.starts_with('-') || word == "HOLE");
    if all.is_empty() && begins && about_containers {
        let rest = words.iter().skip_while(|word| *word == "HOLE").cloned();
        all.push(("run".to_owned(), rest.chain(["image".to_owned()]).collect()));
    }
    all
}

/// The flags that are typed, in each of their spellings; `None` if it is no command line.
fn flags_of(whole: &mut Command, command: &str, line: &[String]) -> Option<Vec<String>> {
    let mut grammar = &mut *whole;
    for word in command.split(' ') {
        grammar = grammar.find_subcommand_mut(word)?;
    }
    let words = std::iter::once(command.to_owned()).chain(line.iter().cloned());
    let matches = grammar.clone().ignore_errors(true).try_get_matches_from(words).ok()?;
    let typed = |arg: &&Arg| {
        let id = arg.get_id().as_str();
        matches.try_contains_id(id).unwrap_or(false)
            && matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine)
    };
    let spellings = |arg: &Arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        let long = arg.get_long().into_iter().chain(aliases).map(|name| format!("--{name}"));
        let short = arg.get_short().map(|name| format!("-{name}"));
        long.chain(short).collect::<Vec<_>>()
    };
    Some(grammar.get_arguments().filter(typed).flat_map(spellings).collect())
}

#[test]
fn every_flag_on_containers_is_accounted_for() {
    let mut whole = whole();
    let tests = Tests::of(&mut whole, &typed());
    let mut missing = Vec::new();
    for line in surface().iter().filter(|line| CONTAINER.contains(&line.command.as_str())) {
        let flag = format!("{} {}", line.command, line.flag);
        match answer(&whole, line) {
            Answer::Works if line.flag == "-" || tests.of_flag(line).is_some() => {}
            Answer::Works if UNTESTED.contains(&line.name()) => {}
            Answer::Works => missing.push(format!("{flag}: works, but no test types it")),
            Answer::Refused(_) => {}
            Answer::Absent => missing.push(format!("{flag}: neither works nor is refused")),
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Flags that work, and that no test types yet; nothing may be added here.
const UNTESTED: &[&str] = &["--ip6", "--net-alias"];

#[test]
fn what_is_refused_says_why() {
    let env = Env::with("busy", BUSY);
    for (verbs, flag, reason) in REFUSED {
        if *verbs == GLOBAL {
            env.run(&format!("{flag} x ps")).fails_with(125, &format!("{flag}: {reason}"));
            env.run(&format!("{flag}=x run busy true")).fails_with(125, reason);
            continue;
        }
        for verb in verbs.split(' ') {
            let verb = &*verb.replace('-', " ");
            let rest = match verb {
                "run" | "create" => "busy true",
                "exec" => "box true",
                "ps" => "",
                _ => "box",
            };
            let mut lines = vec![format!("{verb} {flag} {rest}")];
            if CONTAINER.contains(&verb) {
                lines.push(format!("container {verb} {flag} {rest}"));
            }
            for line in lines {
                env.run(&line).fails_with(125, &format!("{flag}: {reason}"));
            }
            let run = env.run(&format!("{verb} {flag}=x {rest}"));
            run.fails_with(125, &format!("{flag}: {reason}"));
        }
    }
    for flag in ["-H tcp://127.0.0.1:1", "-c other", "-r"] {
        env.run(&format!("{flag} ps")).fails_with(125, "there is no daemon to reach");
    }
    env.run("ps -aq").prints("");
}

#[test]
fn other_forms_of_a_command_and_a_flag_are_refused_alike() {
    let env = Env::new();
    env.run("container start --checkpoint x a").tells("--checkpoint: the state of processes");
    env.run("image push --encrypt-layer 1 a").tells("encrypted layers cannot be made");
}

#[test]
fn nothing_is_refused_that_works() {
    let whole = whole();
    for (verbs, flag, _) in REFUSED {
        for verb in verbs.split(' ') {
            let grammar = grammar(&whole, &verb.replace('-', " ")).unwrap();
            assert!(!takes(grammar, flag), "{verb} {flag}");
        }
    }
}

/// Values that are refused of flags that work, or that change nothing.
const NOTES: &[(&str, &str)] = &[
    ("--cgroups", "enabled, no-conmon, split and disabled"),
    ("--device", "paths, and CDI names; a startContainer hook is refused"),
    ("--disable-content-trust", "true, which changes nothing; false is refused"),
    ("--gpus", "as CDI devices nvidia.com/gpu; capabilities are refused"),
    ("--kernel-memory", "warns: cgroup v2 has none"),
    ("--memory-swappiness", "warns: cgroup v2 has none"),
    ("--oom-kill-disable", "warns: cgroup v2 has none"),
    ("--runtime", "dhow; other names are refused"),
    (
        "--userns",
        "all modes; nomap is an ordinary user's, and root's auto takes the ids of the user containers",
    ),
];

/// `docs/flags.md`.
fn page() -> String {
    let mut whole = whole();
    let tests = Tests::of(&mut whole, &typed());
    let mut sections: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut missing: BTreeSet<String> = BTreeSet::new();
    let (mut works, mut refused, mut absent) = (0, 0, 0);
    let yes = |has: bool| if has { "yes" } else { "–" };
    for line in surface() {
        if grammar(&whole, &line.command).is_none() {
            missing.insert(line.command);
            continue;
        }
        let answer = answer(&whole, &line);
        let works_here = answer == Answer::Works;
        let answer = match answer {
            Answer::Works => {
                works += 1;
                let about_run = ["run", "create"].contains(&line.command.as_str());
                let note = NOTES.iter().find(|(flag, _)| about_run && *flag == line.name());
                match note {
                    Some((_, note)) => format!("works: {note}"),
                    None if about_run && UNTESTED.contains(&line.name()) => {
                        "works (no test of its own)".to_owned()
                    }
                    None => "works".to_owned(),
                }
            }
            Answer::Refused(reason) => {
                refused += 1;
                format!("refused: {reason}")
            }
            Answer::Absent => {
                absent += 1;
                "not in this version".to_owned()
            }
        };
        if line.flag != "-" {
            let test = tests.of_flag(&line).filter(|_| works_here);
            let test = test.map_or(String::new(), |test| format!("`{test}`"));
            sections.entry(line.command).or_default().push(format!(
                "| `{}` | {} | {} | {answer} | {test} |",
                line.flag,
                yes(line.docker),
                yes(line.podman)
            ));
        }
    }
    let mut text = format!(
        "# Flags\n\nEvery flag of docker 28/29 and podman 5.8, and what dhow does with it: {works} work, \
         {refused} are refused with a reason, {absent} are not in this version (and are refused by \
         name). *Works* means that the flag is read and acted on; *test* is one in `tests/it` that \
         types it, and for commands on containers there must be one. `tests/it/surface.rs` writes this page from `tests/surface.tsv` and the program's own \
         grammar: `DHOW_UPDATE_DOCS=1 cargo nextest run --test it the_page_of_flags`.\n"
    );
    for (command, rows) in sections {
        text.push_str(&format!(
            "\n## {command}\n\n| flag | docker | podman | dhow | test |\n| --- | --- | --- | --- | --- |\n"
        ));
        text.push_str(&rows.join("\n"));
        text.push('\n');
    }
    text.push_str("\n## Commands that are refused\n\n| command | why |\n| --- | --- |\n");
    let mut refused: BTreeMap<&str, &str> = BTreeMap::new();
    missing.retain(|command| {
        let reason = command_refusal(command);
        refused.extend(reason);
        reason.is_none()
    });
    for (command, reason) in refused {
        text.push_str(&format!("| `{command}` | {reason} |\n"));
    }
    let missing: Vec<String> = missing.iter().map(|command| format!("`{command}`")).collect();
    text.push_str(&format!(
        "\n## Commands that are not in this version\n\n{}\n",
        missing.join(", ")
    ));
    text
}

/// Of a command, or of the one that it is a part of.
fn command_refusal(command: &str) -> Option<(&'static str, &'static str)> {
    let is = |name: &str| {
        command.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    REFUSED_COMMANDS.iter().find(|(name, _)| is(name)).copied()
}

#[test]
fn nothing_is_missing_but_what_builds() {
    let whole = whole();
    let of_builds = |line: &Line| line.command.starts_with("build");
    let mut missing = Vec::new();
    for line in surface().iter().filter(|line| !of_builds(line)) {
        let is_there = grammar(&whole, &line.command).is_some();
        if !is_there && command_refusal(&line.command).is_none()
            || is_there && answer(&whole, line) == Answer::Absent
        {
            missing.push(format!("{} {}", line.command, line.flag));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_page_of_flags_is_true() {
    let path: &Path = &source().join("docs/flags.md");
    let page = page();
    if env::var_os("DHOW_UPDATE_DOCS").is_some() {
        fs::write(path, &page).unwrap();
    }
    let there = fs::read_to_string(path).unwrap_or_default();
    let first = page.lines().zip(there.lines()).find(|(new, old)| new != old);
    assert!(page == there, "docs/flags.md is stale (DHOW_UPDATE_DOCS=1 writes it): {first:?}");
}

#[test]
fn a_log_level_is_as_loud_as_it_says() {
    let env = Env::with("busy", BUSY);
    let run = "run --rm --network none busy echo hi";
    for level in ["-l debug", "--log-level=TRACE", "-D"] {
        env.run(&format!("{level} {run}")).exits(0).tells("debug: ");
    }
    for level in ["info", "warn", "warning", "error", "fatal", "panic"] {
        env.run(&format!("--log-level {level} {run}")).prints("hi\n");
    }
    env.run(&format!("-l loud {run}")).fails_with(125, "it is debug, info, warn, error or fatal");
}
