//! `generate systemd`: units that bring containers back after a reboot.

use std::{fs, path::Path, process::ExitCode};

use clap::Parser as _;

use super::super::{
    args::{Cli, Command, watch::GenerateSystemd},
    output,
};
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    state::record::ContainerRecord,
};

/// systemd.service(5), `Restart=`.
const POLICIES: [&str; 7] =
    ["no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"];

pub fn generate(engine: &Engine, args: &GenerateSystemd) -> Result<ExitCode> {
    if !POLICIES.contains(&args.restart_policy.as_str()) {
        return Err(Error::invalid(format!(
            "{} is not a valid restart policy of systemd",
            args.restart_policy
        ))
        .hint(format!("it knows {}", POLICIES.join(", "))));
    }
    let (name, text) = match &args.container {
        Some(container) => of_one(engine, args, container)?,
        None => ("dhow-restart".to_owned(), of_all(engine, args)?),
    };
    if args.format.is_some() {
        output::print(&format!("{:#}\n", serde_json::json!({ name: text })))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.files {
        output::print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = std::env::current_dir().doing("find the current directory")?.join(name + ".service");
    fs::write(&path, text).at(&path).doing("write the unit")?;
    output::print(&format!("{}\n", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// What every unit begins and ends with.
fn unit(engine: &Engine, args: &GenerateSystemd, about: &str, service: &str) -> Result<String> {
    let header = match args.no_header {
        true => String::new(),
        false => format!("# made by dhow {} generate systemd\n\n", env!("CARGO_PKG_VERSION")),
    };
    let others = |key: &str, units: &[String]| -> Result<String> {
        let line = |unit: &String| Ok(format!("{key}={}\n", unit_name(unit)?));
        units.iter().map(line).collect()
    };
    let others = others("Wants", &args.wants)?
        + &others("After", &args.after)?
        + &others("Requires", &args.requires)?;
    let variables: String = args.env.iter().map(|entry| variable(entry)).collect::<Result<_>>()?;
    let restart = args.restart_sec.map(|seconds| format!("RestartSec={seconds}\n"));
    let start = args.start_timeout.map(|seconds| format!("TimeoutStartSec={seconds}\n"));
    let (restart, start) = (restart.unwrap_or_default(), start.unwrap_or_default());
    let target = if engine.facts.rootless() { "default.target" } else { "multi-user.target" };
    Ok(format!(
        "{header}[Unit]\nDescription={about}\nWants=network-online.target\n\
         After=network-online.target\n{others}\n[Service]\n{variables}{restart}{start}{service}\n\
         [Install]\nWantedBy={target}\n"
    ))
}

/// The name of a unit, or of a part of it (systemd.unit(5)).
fn unit_name(name: &str) -> Result<&str> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    match !name.is_empty() && name.chars().all(is_known) {
        true => Ok(name),
        false => Err(Error::invalid(format!("{name:?} is not the name of a unit"))
            .hint("letters, digits and :-_.\\@, as in db.service")),
    }
}

/// A line that sets a variable; one without a value has that of ours.
fn variable(entry: &str) -> Result<String> {
    let entry = match entry.split_once('=') {
        Some(_) => entry.to_owned(),
        None => {
            let value = std::env::var(entry).map_err(|_| {
                Error::invalid(format!("the environment has no {entry} to take over"))
                    .hint(format!("give it a value: --env {entry}=…"))
            })?;
            format!("{entry}={value}")
        }
    };
    if entry.starts_with('=') || entry.contains(char::is_control) {
        return Err(Error::invalid(format!("{entry:?} cannot be a variable of a unit")));
    }
    let text = entry.replace('%', "%%").replace('\\', "\\\\").replace('"', "\\\"");
    Ok(format!("Environment=\"{text}\"\n"))
}

fn of_all(engine: &Engine, args: &GenerateSystemd) -> Result<String> {
    let dhow = program(engine)?;
    let service = format!(
        "Type=oneshot\nRemainAfterExit=yes\nExecStart={dhow} start --all-restartable\n\
         ExecStop=-{dhow} stop --all --timeout {}\nKillMode=process\n",
        args.stop_timeout
    );
    unit(engine, args, "Containers that dhow starts again", &service)
}

fn of_one(engine: &Engine, args: &GenerateSystemd, container: &str) -> Result<(String, String)> {
    let record = engine.container(container)?.record;
    let name = if args.name { record.name.clone() } else { record.id.to_string() };
    let dhow = program(engine)?;
    let about = format!("Container {}", record.name);
    let (prefix, separator) = (unit_name(&args.container_prefix)?, unit_name(&args.separator)?);
    let instance = if args.template { "@" } else { "" };
    let unit_name = format!("{prefix}{separator}{name}{instance}");
    if args.new {
        let service = of_new(args, &record, &dhow)?;
        return Ok((unit_name, unit(engine, args, &about, &service)?));
    }
    // In the foreground: the unit lives as long as the container does.
    let service = format!(
        "Type=exec\nRestart={}\nTimeoutStopSec={}\nExecStart={dhow} start --attach {name}\n\
         ExecStop=-{dhow} stop --timeout {} {name}\nKillMode=process\n",
        args.restart_policy,
        args.stop_timeout + 60,
        args.stop_timeout,
    );
    Ok((unit_name, unit(engine, args, &about, &service)?))
}

/// The command line that made the container, for systemd to say again.
fn of_new(args: &GenerateSystemd, record: &ContainerRecord, dhow: &str) -> Result<String> {
    let quoted_words = |words: &[String]| -> Result<String> {
        words.iter().map(|word| Ok(" ".to_owned() + &quoted(Path::new(word))?)).collect()
    };
    let typed = &record.host.typed;
    let said = [&["run".to_owned()], &typed[..]].concat();
    let parsed = Cli::try_parse_from([&["dhow".to_owned()], &said[..]].concat());
    let Ok(Cli { command: Command::Run(run), .. }) = parsed else {
        return Err(Error::unsupported(format!(
            "how container {} was made is not known",
            record.name
        ))
        .hint("make it anew with `dhow run`, or leave --new away"));
    };
    let (flags, command) = typed.split_at(typed.len() - run.container.image_and_command.len());
    let instance = if args.template { "-%i" } else { "" };
    let cid = "%t/%n.ctr-id";
    Ok(format!(
        "Type=notify\nNotifyAccess=all\nRestart={}\nTimeoutStopSec={}\n\
         ExecStartPre=/bin/rm -f {cid}\n\
         ExecStart={dhow} run --cidfile={cid} --rm --sdnotify=conmon -d --replace --name {}{instance}{}{}\n\
         ExecStop=-{dhow} stop --ignore --timeout {} --cidfile={cid}\n\
         ExecStopPost=-{dhow} rm -f --ignore --cidfile={cid}\nKillMode=process\n",
        args.restart_policy,
        args.stop_timeout + 60,
        record.name,
        quoted_words(&other_flags(flags))?,
        quoted_words(command)?,
        args.stop_timeout,
    ))
}

/// Without those that the unit has its own of.
fn other_flags(flags: &[String]) -> Vec<String> {
    const WITH_VALUE: [&str; 8] = [
        "--name",
        "--cidfile",
        "--restart",
        "--sdnotify",
        "--root",
        "--runroot",
        "--storage-driver",
        "--conmon-pidfile",
    ];
    const ALONE: [&str; 3] = ["--rm", "--detach", "--replace"];
    let mut others = Vec::new();
    let mut words = flags.iter();
    while let Some(word) = words.next() {
        let (name, value) =
            word.split_once('=').map_or((word.as_str(), None), |(a, b)| (a, Some(b)));
        if WITH_VALUE.contains(&name) {
            if value.is_none() {
                words.next();
            }
            continue;
        }
        // `-d` may stand among others that take no value.
        let letters = word.strip_prefix('-').filter(|rest| rest.chars().all(|c| "dit".contains(c)));
        match letters {
            _ if ALONE.contains(&name) => {}
            Some(letters) if !letters.is_empty() => {
                let rest = letters.replace('d', "");
                others.extend((!rest.is_empty()).then(|| format!("-{rest}")));
            }
            _ => others.push(word.clone()),
        }
    }
    others
}

/// This program and where its store is, if that is not the usual place.
fn program(engine: &Engine) -> Result<String> {
    let program = fs::read_link("/proc/self/exe").at("/proc/self/exe")?;
    let mut words = vec![program];
    let layout = &engine.layout;
    for (flag, place, usual) in [
        ("--root", layout.root(), crate::engine::default_root()?),
        ("--runroot", layout.run_root(), crate::engine::default_run_root()?),
    ] {
        if place != usual {
            words.extend([Path::new(flag).to_owned(), place.to_owned()]);
        }
    }
    words.iter().map(|word| quoted(word)).collect::<Result<Vec<_>>>().map(|words| words.join(" "))
}

/// systemd.service(5), "COMMAND LINES".
fn quoted(word: &Path) -> Result<String> {
    let text = word.to_str().filter(|text| !text.contains(char::is_control));
    let text = text.ok_or_else(|| {
        Error::unsupported(format!("{} cannot be written in a unit", word.display()))
    })?;
    let text = text.replace('%', "%%").replace('$', "$$");
    Ok(match text.contains([' ', '"', '\'', '\\', ';']) {
        true => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        false => text,
    })
}
