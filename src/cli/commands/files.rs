//! `cp`, `diff`, `export` and `commit`: a container's files.

use std::{
    fs,
    io::{self, IsTerminal as _},
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    process::ExitCode,
};

use serde_json::{Map, Value, json};

use super::super::{
    args::{
        life::{Commit, Cp, Diff, Export},
        store::ImageDiff,
    },
    exit,
    output::{
        self,
        template::{Template, View},
        units, visible,
    },
};
use crate::{
    engine::{
        Engine,
        container::{
            diff::CommitRequest,
            files::{CopyOptions, Place, create},
        },
    },
    error::{Context as _, Error, Result},
    image::layer::{Change, ChangeKind},
};

pub fn cp(engine: &Engine, args: &Cp) -> Result<ExitCode> {
    let options =
        CopyOptions { archive: args.archive, follow: args.follow_link, overwrite: args.overwrite };
    let size = match (args.source.as_str(), args.target.as_str()) {
        ("-", "-") => return Err(Error::invalid("only one of source and destination can be -")),
        (source, "-") => {
            let Place::Container(id, path) = place(engine, source)? else {
                return Err(no_container());
            };
            refuse_terminal("copy a tar")?;
            engine.copy_out(&id, &path, options.follow, io::stdout().as_fd())?;
            return Ok(ExitCode::SUCCESS);
        }
        ("-", target) => {
            let Place::Container(id, path) = place(engine, target)? else {
                return Err(no_container());
            };
            engine.copy_in(&id, &path, options, io::stdin().as_fd())?
        }
        (source, target) => {
            engine.copy(&place(engine, source)?, &place(engine, target)?, options)?
        }
    };
    if !args.quiet && io::stdout().is_terminal() {
        let size = units::human_size(size);
        exit::note(&format!("Successfully copied {size} to {}", visible(&args.target)));
    }
    Ok(ExitCode::SUCCESS)
}

fn no_container() -> Error {
    Error::invalid("must specify at least one container source")
        .hint("write CONTAINER:PATH for one of the two")
}

/// `CONTAINER:PATH`; what begins with a slash or a dot is a path of this host.
fn place(engine: &Engine, typed: &str) -> Result<Place> {
    let host = typed.starts_with(['/', '.']);
    match typed.split_once(':').filter(|_| !host) {
        Some((container, path)) if !container.contains('/') => {
            if path.is_empty() {
                return Err(Error::invalid(format!("{typed}: the path is missing")));
            }
            Ok(Place::Container(engine.find(container)?, path.to_owned()))
        }
        _ => {
            if typed.starts_with('/') {
                return Ok(Place::Host(typed.to_owned()));
            }
            let here = std::env::current_dir().doing("find the current directory")?;
            let here = here.to_str().ok_or_else(|| {
                Error::unsupported("the current directory's name is no text")
                    .hint("write an absolute path")
            })?;
            Ok(Place::Host(format!("{here}/{typed}")))
        }
    }
}

fn refuse_terminal(what: &str) -> Result<()> {
    if io::stdout().is_terminal() {
        return Err(Error::invalid(format!("refusing to {what} to a terminal"))
            .hint("redirect it to a file or a pipe"));
    }
    Ok(())
}

pub fn diff(engine: &Engine, args: &Diff) -> Result<ExitCode> {
    let id = match args.container.as_deref().filter(|_| !args.latest) {
        Some(name) => engine.find(name)?,
        None => engine.newest()?,
    };
    tell(&engine.diff(&id)?, args.format.as_deref())
}

pub fn image_diff(engine: &Engine, args: &ImageDiff) -> Result<ExitCode> {
    tell(&engine.image_diff(&args.image, args.other.as_deref())?, args.format.as_deref())
}

fn tell(changes: &[Change], format: Option<&str>) -> Result<ExitCode> {
    let text = match format.filter(|format| !format.is_empty()) {
        None => {
            changes.iter().map(|change| format!("{} {}\n", letter(change), path(change))).collect()
        }
        Some("json") => grouped(changes)?,
        Some(format) => {
            let template = Template::parse(format)?;
            let mut text = String::new();
            for change in changes {
                let data = json!({ "Kind": letter(change), "Path": path(change) });
                let view = View { strict: true, ..View::default() };
                text.push_str(&(template.render(&data, view)? + "\n"));
            }
            text
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn letter(change: &Change) -> &'static str {
    match change.kind {
        ChangeKind::Added => "A",
        ChangeKind::Changed => "C",
        ChangeKind::Deleted => "D",
    }
}

fn path(change: &Change) -> String {
    format!("/{}", visible(&String::from_utf8_lossy(&change.path)))
}

/// Podman's form: three lists, those that are empty left out.
fn grouped(changes: &[Change]) -> Result<String> {
    let mut groups = serde_json::Map::new();
    for (name, kind) in [
        ("changed", ChangeKind::Changed),
        ("added", ChangeKind::Added),
        ("deleted", ChangeKind::Deleted),
    ] {
        let paths: Vec<Value> = changes
            .iter()
            .filter(|change| change.kind == kind)
            .map(|change| json!(format!("/{}", String::from_utf8_lossy(&change.path))))
            .collect();
        if !paths.is_empty() {
            groups.insert(name.to_owned(), paths.into());
        }
    }
    Ok(serde_json::to_string_pretty(&groups)? + "\n")
}

pub fn export(engine: &Engine, args: &Export) -> Result<ExitCode> {
    let id = engine.find(&args.container)?;
    tar_to(args.output.as_deref(), |out| engine.export(&id, out))
}

/// Has a tar written to a file, or to standard output.
pub(super) fn tar_to(
    output: Option<&Path>,
    export: impl FnOnce(BorrowedFd<'_>) -> Result<u64>,
) -> Result<ExitCode> {
    match output.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let file = create(path)?;
            let written = export(file.as_fd());
            if written.is_err() {
                // Half a tar is of no use.
                let _ = fs::remove_file(path);
            }
            written?;
        }
        None => {
            if io::stdout().is_terminal() {
                return Err(Error::invalid("cowardly refusing to save to a terminal")
                    .hint("use the -o flag or redirect"));
            }
            export(io::stdout().as_fd())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn commit(engine: &Engine, args: &Commit) -> Result<ExitCode> {
    let id = engine.find(&args.container)?;
    let request = CommitRequest {
        reference: args.name.as_deref().map(str::parse).transpose()?,
        changes: args.change.clone(),
        message: args.message.clone(),
        author: args.author.clone(),
        pause: args.pause && !args.no_pause,
        config: args.config.as_deref().map(configuration).transpose()?.unwrap_or_default(),
        include_volumes: args.include_volumes,
        squash: args.squash,
        format: args.format.parse()?,
    };
    let image = engine.commit(&id, &request)?;
    let text = format!("{}\n", image.record.id);
    if let Some(path) = &args.iidfile {
        fs::write(path, text.trim_end()).at(path).doing("write the image's id")?;
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Fields of an image's configuration, by docker's names.
fn configuration(path: &Path) -> Result<Map<String, Value>> {
    const KNOWN: [&str; 13] = [
        "Hostname",
        "Domainname",
        "User",
        "ExposedPorts",
        "Env",
        "Cmd",
        "Entrypoint",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "Healthcheck",
        "OnBuild",
    ];
    let text = fs::read_to_string(path).at(path).doing("read the configuration")?;
    let fields: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|err| Error::invalid(format!("--config {}: {err}", path.display())))?;
    match fields.keys().find(|field| !KNOWN.contains(&field.as_str())) {
        Some(other) => Err(Error::invalid(format!("--config: an image has no field {other:?}"))
            .hint(format!("it has {}", KNOWN.join(", ")))),
        None => Ok(fields),
    }
}
