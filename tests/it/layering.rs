//! The rule of the rooms (`src/lib.rs`), checked.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::LazyLock};

use regex::Regex;

/// The mechanisms, which do not use each other.
const MECHANISMS: [&str; 6] = ["image", "overlay", "cgroup", "network", "security", "volume"];

#[test]
fn rooms_only_look_down() {
    let order = rooms();
    let mut wrong = Vec::new();
    for (rank, room) in order.iter().enumerate() {
        for (file, used) in uses_of(room) {
            let Some(below) = order.iter().position(|other| *other == used) else { continue };
            let sideways =
                MECHANISMS.contains(&room.as_str()) && MECHANISMS.contains(&used.as_str());
            if below > rank || (sideways && below != rank) {
                wrong.push(format!("{} uses {used}", file.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "src/lib.rs says who may use whom");
}

#[test]
fn unsafe_lives_in_sys() {
    static UNSAFE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\bunsafe\b|allow\(unsafe_code\)").unwrap());
    let outside: Vec<String> = ["src", "tests", "benches"]
        .into_iter()
        .flat_map(rust_files)
        .filter(|file| !file.starts_with("src/sys") && !file.ends_with("tests/it/layering.rs"))
        .filter(|file| code(file).lines().any(|line| UNSAFE.is_match(&without_strings(line))))
        .map(|file| file.display().to_string())
        .collect();
    assert_eq!(outside, Vec::<String>::new());
}

/// A rule that finds nothing proves nothing: it must see what the code does do.
#[test]
fn the_rule_sees_both_ways_to_name_a_room() {
    assert_eq!(
        crate_paths("use crate::state::Store;\nlet x = crate::oci::Digest::of(b);"),
        ["state", "oci"]
    );
    assert_eq!(
        crate_paths("use crate::{\n    error::{Error, Result},\n    sys::fs,\n};"),
        ["error", "sys"]
    );
    assert!(uses_of("state").iter().any(|(_, used)| used == "oci"));
    assert!(rooms().len() > 8 && rooms().contains(&"cli".to_owned()));
}

/// The rooms in the order of the list at the top of `src/lib.rs`, lowest first.
fn rooms() -> Vec<String> {
    let text = fs::read_to_string("src/lib.rs").unwrap();
    let entry = Regex::new(r"(?m)^//! \* \[`(\w+)`\]").unwrap();
    entry.captures_iter(&text).map(|found| found[1].to_owned()).collect()
}

/// Which other rooms a room's files name, and where.
fn uses_of(room: &str) -> Vec<(PathBuf, String)> {
    let mut files = rust_files(&format!("src/{room}"));
    files.extend(Some(PathBuf::from(format!("src/{room}.rs"))).filter(|file| file.is_file()));
    let found = files.into_iter().flat_map(|file| {
        let used = crate_paths(&code(&file));
        used.into_iter().map(move |used| ((file.clone(), used), ()))
    });
    found.collect::<BTreeMap<_, _>>().into_keys().collect()
}

/// The first name after each `crate::`, those of a braced list included.
fn crate_paths(code: &str) -> Vec<String> {
    let path = Regex::new(r"\bcrate::(?:(\w+)|\{)").unwrap();
    let mut names = Vec::new();
    for found in path.captures_iter(code) {
        match found.get(1) {
            Some(name) => names.push(name.as_str().to_owned()),
            None => names.extend(first_names(&code[found.get(0).unwrap().end()..])),
        }
    }
    names
}

/// `error::{Error, Result}, sys::fs}` → `error`, `sys`.
fn first_names(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = vec![String::new()];
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(String::new()),
            _ if depth == 0 => names.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    let firsts = names.iter().map(|name| name.trim().split("::").next().unwrap().to_owned());
    firsts.filter(|name| !name.is_empty()).collect()
}

/// A file without its comments: they may speak of anything.
fn code(file: &PathBuf) -> String {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let lines = text.lines().map(|line| match line.trim_start().starts_with("//") {
        true => "",
        false => line.split(" // ").next().unwrap(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn without_strings(line: &str) -> String {
    line.split('"').step_by(2).collect()
}

fn rust_files(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from(dir)];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}
