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
    refused::{GLOBAL, REFUSED},
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

/// The test that types the flag with the command. `run` and `create` share all of theirs, and
/// tests leave the word to a helper.
fn test_of<'a>(typed: &'a [Typed], line: &Line) -> Option<&'a str> {
    let spellings: Vec<&str> = line.flag.split(", ").collect();
    let word = |text: &str| {
        text.split(|c: char| c.is_whitespace() || c == '=').any(|word| {
            let bundle = |flag: &str| {
                flag.len() == 2
                    && word.starts_with('-')
                    && !word.starts_with("--")
                    && word.len() < 5
                    && word.contains(&flag[1..])
            };
            spellings.iter().any(|flag| word == *flag || bundle(flag))
        })
    };
    let shared = ["run", "create"].contains(&line.command.as_str());
    let names_it = |text: &str| match line.command.contains(' ') {
        true => text.contains(&line.command),
        false => text.split(' ').any(|word| word == line.command),
    };
    let of_command = |one: &&Typed| shared || names_it(&one.text);
    // What is refused is typed, too.
    let known = |one: &&Typed| !one.place.starts_with("surface::");
    let mut found = typed.iter().filter(known).filter(of_command).filter(|one| word(&one.text));
    found.next().map(|one| one.place.as_str())
}

#[test]
fn every_flag_on_containers_is_accounted_for() {
    let (whole, typed) = (whole(), typed());
    let mut missing = Vec::new();
    for line in surface().iter().filter(|line| CONTAINER.contains(&line.command.as_str())) {
        let flag = format!("{} {}", line.command, line.flag);
        match answer(&whole, line) {
            Answer::Works if line.flag == "-" || test_of(&typed, line).is_some() => {}
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
    env.run("manifest inspect -v a").tells("--verbose: a list has the descriptors");
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
    ("--cgroups", "enabled and no-conmon; disabled and split are refused"),
    ("--device", "paths, and CDI names from JSON files without hooks"),
    ("--disable-content-trust", "true, which changes nothing; false is refused"),
    ("--gpus", "as CDI devices nvidia.com/gpu; capabilities are refused"),
    ("--kernel-memory", "warns: cgroup v2 has none"),
    ("--memory-swappiness", "warns: cgroup v2 has none"),
    ("--oom-kill-disable", "warns: cgroup v2 has none"),
    ("--runtime", "dhow; other names are refused"),
    ("--sdnotify", "container, conmon and ignore; healthy is refused"),
    ("--systemd", "false; true and always are refused"),
    (
        "--userns",
        "all modes; nomap is an ordinary user's, and root's auto takes the ids of the user containers",
    ),
];

/// `docs/flags.md`.
fn page() -> String {
    let (whole, typed) = (whole(), typed());
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
            let test = test_of(&typed, &line).filter(|_| works_here);
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
    let missing: Vec<String> = missing.iter().map(|command| format!("`{command}`")).collect();
    text.push_str(&format!(
        "\n## Commands that are not in this version\n\n{}\n",
        missing.join(", ")
    ));
    text
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
