//! `-v` and `--volumes-from`.

use std::path::Path;

use super::{PROPAGATION, check_volume_name, flag_pair, source_path, target_path};
use crate::{
    error::{Context as _, Error, Result},
    run::options::id_maps,
    state::record::{MountKind, MountRecord, VolumeMount},
};

/// `-v [SOURCE:]TARGET[:OPTIONS]`. A source that begins with `.` is taken from `cwd`, one that
/// begins with neither that nor a slash is a volume's name.
pub fn volume(text: &str, cwd: &Path) -> Result<MountRecord> {
    if text.is_empty() {
        return Err(Error::invalid("invalid empty volume spec").hint(VOLUME_HINT));
    }
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(Error::invalid(format!("invalid spec: {text}: empty section between colons"))
            .hint(VOLUME_HINT));
    }
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [drive, path, target] if is_of_windows(drive, path) && target.starts_with('/') => {
            return Err(Error::invalid(format!("invalid volume specification: '{text}'"))
                .hint(format!("{drive}:{path} is a path of Windows; here it begins with / or .")));
        }
        [source, target, options] => (source, target, options),
        _ => {
            return Err(
                Error::invalid(format!("invalid volume specification: '{text}'")).hint(VOLUME_HINT)
            );
        }
    };
    let spec = || format!("invalid volume specification: '{text}'");
    let target = target_path(target).doing_with(spec)?;
    let (read_only, mut options) = volume_options(options).doing_with(spec)?;
    let no_copy = options.iter().any(|option| NO_COPY.contains(&option.as_str()));
    options.retain(|option| option != "copy" && !NO_COPY.contains(&option.as_str()));
    let kind = match source_path(source, cwd) {
        Some(_) if no_copy => {
            return Err(Error::invalid("invalid mode: nocopy")
                .context(spec())
                .hint("nocopy is for named volumes"));
        }
        Some(source) => MountKind::Bind { source, create: true },
        None => {
            check_volume_name(source)?;
            if let Some(word) = options.iter().find(|word| PROPAGATION.contains(&word.as_str())) {
                return Err(Error::invalid(format!("invalid mode: {word}"))
                    .context(spec())
                    .hint("propagation is of directories of the host's; a volume has none"));
            }
            let volume = VolumeMount { name: source.to_owned(), no_copy, ..VolumeMount::default() };
            MountKind::Volume(volume)
        }
    };
    Ok(MountRecord { kind, target, read_only, options })
}

/// `C:\dir`, or `c:/dir`: what follows is no option but where it is to be.
fn is_of_windows(drive: &str, path: &str) -> bool {
    drive.len() == 1
        && drive.bytes().all(|b| b.is_ascii_alphabetic())
        && path.starts_with(['\\', '/'])
}

/// The second is in docker's manual.
const NO_COPY: [&str; 2] = ["nocopy", "volume-nocopy"];
const READ_ONLY: [&str; 2] = ["ro", "readonly"];

const VOLUME_HINT: &str = "write -v /host/path:/container/path[:ro], or -v NAME:/container/path";

/// `ro`, `rw` and the rest, each choice at most once.
fn volume_options(text: &str) -> Result<(bool, Vec<String>)> {
    let bad = || Error::invalid(format!("invalid mode: {text}"));
    let mut seen: Vec<&str> = Vec::new();
    let mut options = Vec::new();
    for option in text.split(',').filter(|_| !text.is_empty()) {
        let choice = match option {
            "ro" | "readonly" | "rw" => "access",
            "z" | "Z" => "label",
            "bind" | "rbind" => "depth",
            "consistent" | "cached" | "delegated" => "consistency",
            "copy" | "nocopy" | "volume-nocopy" => "copy",
            "U" => "owner",
            "O" => "overlay",
            "idmap" => "ids",
            _ if option.starts_with("idmap=") => {
                id_maps(&option["idmap=".len()..])?;
                "ids"
            }
            _ if PROPAGATION.contains(&option) => "propagation",
            _ => match option.split_once('=') {
                Some((key @ ("upperdir" | "workdir"), path)) => {
                    if !path.starts_with('/') {
                        return Err(bad().hint(format!("{key} is an absolute path of the host's")));
                    }
                    key
                }
                _ => flag_pair(option).ok_or_else(|| {
                    bad().hint(
                        "options are ro, rw, z, Z, U, O, idmap, nocopy, bind, rbind, exec, suid, dev and their no- forms, and [r]private, [r]shared, [r]slave, [r]unbindable",
                    )
                })?,
            },
        };
        if seen.contains(&choice) {
            return Err(bad().hint(format!("`{option}` repeats or contradicts another option")));
        }
        seen.push(choice);
        // Consistency is for Docker Desktop's shared folders; on Linux it means nothing.
        if !matches!(choice, "access" | "consistency") {
            options.push(option.to_owned());
        }
    }
    check_overlay(&seen).map_err(|hint| bad().hint(hint))?;
    Ok((text.split(',').any(|option| READ_ONLY.contains(&option)), options))
}

/// What goes with `O`, and what goes with nothing else.
fn check_overlay(seen: &[&str]) -> Result<(), &'static str> {
    let has = |choice| seen.contains(&choice);
    let dirs = (has("upperdir"), has("workdir"));
    if !has("overlay") {
        return match dirs {
            (false, false) => Ok(()),
            _ => Err("upperdir and workdir are of an overlay: write O as well"),
        };
    }
    if dirs.0 != dirs.1 {
        return Err("upperdir and workdir are given together, on one file system");
    }
    if ["owner", "depth", "propagation", "ids"].into_iter().any(has) {
        return Err("with O go ro, rw, z, Z, nocopy, upperdir=, workdir= and mount flags");
    }
    Ok(())
}

/// `--volumes-from CONTAINER[:OPTIONS]`: the container, and whether all becomes read-only.
pub fn volumes_from(text: &str) -> Result<(String, bool)> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(Error::invalid("volumes-from cannot be empty"));
    }
    let words: Vec<&str> = options.split(',').filter(|_| !options.is_empty()).collect();
    let access = words.iter().filter(|word| ["ro", "rw"].contains(word)).count();
    let labels = words.iter().filter(|word| ["z", "Z"].contains(word)).count();
    if access > 1 || labels > 1 || access + labels < words.len() {
        return Err(Error::invalid(format!("invalid mode: {options}"))
            .hint("write CONTAINER, CONTAINER:ro or CONTAINER:rw"));
    }
    Ok((name.to_owned(), words.contains(&"ro")))
}
