//! `--mount`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use super::{FLAGS, PROPAGATION, check_volume_name, clean, csv, mode, source_path, target_path};
use crate::{
    build::pattern::{Glob, is_glob},
    cli::value::boolean,
    error::{Context as _, Error, Result},
    run::options::id_maps,
    state::record::{ImageMount, MountKind, MountRecord, VolumeMount, VolumeOrigin},
};

/// `--mount type=TYPE,KEY=VALUE,...`: docker's comma-separated values, quotes included, and
/// podman's further types and keys. A `glob` is as many mounts as there are matches.
pub fn mount(text: &str, cwd: &Path) -> Result<Vec<MountRecord>> {
    let mut fields = Fields::default();
    for field in csv::record(text)? {
        fields.set(&field)?;
    }
    fields.finish(cwd)
}

/// What `--mount` said so far. Docker's default type is `volume`.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    propagation: Option<String>,
    recursive: Option<String>,
    non_recursive: bool,
    /// A missing source is made.
    create: bool,
    /// In mount(8)'s words: what a file system is made with, mount flags, `U`, `z`.
    options: Vec<String>,
    subpath: String,
    volume: VolumeMount,
    /// Families of docker's options seen: `bind`, `tmpfs`, `volume`, `image`.
    families: Vec<&'static str>,
    /// Other keys that were seen and are not of every type.
    keys: Vec<String>,
}

/// Keys that may stand alone.
const BARE: [&str; 16] = [
    "readonly",
    "ro",
    "rw",
    "readwrite",
    "bind-nonrecursive",
    "bind-create-src",
    "volume-nocopy",
    "copy",
    "nocopy",
    "u",
    "chown",
    "idmap",
    "tmpcopyup",
    "notmpcopyup",
    "no-dereference",
    "noswap",
];

/// The types that a key of podman's is for.
fn types_of(key: &str) -> Option<&'static [&'static str]> {
    Some(match key {
        "u" | "chown" => &["bind", "volume", "tmpfs", "ramfs", "glob"],
        "idmap" => &["bind", "volume", "glob", "image"],
        "relabel" | "no-dereference" => &["bind", "glob"],
        "copy" | "nocopy" => &["volume"],
        "tmpcopyup" | "notmpcopyup" => &["tmpfs", "ramfs"],
        "noswap" => &["tmpfs"],
        "subpath" => &["volume", "image"],
        "uid" | "gid" | "mode" | "max" => &["devpts"],
        _ => return None,
    })
}

impl Fields {
    fn set(&mut self, field: &str) -> Result<()> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), value),
            None => match field.to_ascii_lowercase() {
                key if BARE.contains(&&*key) || FLAGS.concat().contains(&&*key) => (key, "true"),
                _ => {
                    return Err(Error::invalid(format!(
                        "invalid field '{field}' must be a key=value pair"
                    )));
                }
            },
        };
        let bad = || Error::invalid(format!("invalid value for {key}: {value}"));
        let truth = || boolean(value).ok_or_else(bad);
        for family in ["bind", "tmpfs", "volume", "image"] {
            if key.strip_prefix(family).is_some_and(|rest| rest.starts_with('-')) {
                self.families.push(family);
            }
        }
        if types_of(&key).is_some() {
            self.keys.push(key.clone());
        }
        match key.as_str() {
            "type" => self.kind = Some(value.to_ascii_lowercase()),
            "source" | "src" => self.source = Some(value.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(value.to_owned()),
            "readonly" | "ro" => self.read_only = Some(truth()?),
            "rw" | "readwrite" => self.read_only = Some(!truth()?),
            "consistency" => {} // for Docker Desktop's shared folders
            "bind-propagation" if PROPAGATION.contains(&value) => {
                self.propagation = Some(value.to_owned());
            }
            "bind-propagation" => {
                return Err(
                    bad().hint("it is one of [r]private, [r]shared, [r]slave and [r]unbindable")
                );
            }
            "bind-nonrecursive" => self.non_recursive = truth()?,
            "bind-recursive" => self.recursive = Some(recursion(value)?),
            "bind-create-src" => self.create = truth()?,
            "no-dereference" => self.word("no-dereference", truth()?),
            "relabel" => self.options.push(match value {
                "shared" => "z".into(),
                "private" => "Z".into(),
                _ => return Err(bad().hint("it is shared or private")),
            }),
            "u" | "chown" => self.word("U", truth()?),
            "idmap" => match boolean(value) {
                Some(wanted) => self.word("idmap", wanted),
                None => {
                    id_maps(value)?;
                    self.options.push(format!("idmap={value}"));
                }
            },
            "tmpcopyup" => self.word("tmpcopyup", truth()?),
            "notmpcopyup" => self.word("tmpcopyup", !truth()?),
            "noswap" => self.word("noswap", truth()?),
            "tmpfs-size" => match super::super::size::bytes(value).map_err(|_| bad())? {
                0 => {}
                size => self.options.push(format!("size={size}")),
            },
            "tmpfs-mode" | "mode" => {
                self.options.push(format!("mode={:o}", mode(value).ok_or_else(bad)?));
            }
            "uid" | "gid" | "max" => {
                let number: u32 = value.parse().map_err(|_| bad())?;
                self.options.push(format!("{key}={number}"));
            }
            "volume-nocopy" | "nocopy" => self.volume.no_copy = truth()?,
            "copy" => self.volume.no_copy = !truth()?,
            "volume-subpath" | "image-subpath" | "subpath" => self.subpath = value.to_owned(),
            "volume-driver" => {
                let name = self.source.as_deref().unwrap_or_default();
                crate::engine::volume::check_driver(name, value)?;
            }
            "volume-label" => insert(&mut self.volume.labels, value),
            "volume-opt" if value.split_once('=').is_none_or(|(key, _)| key.is_empty()) => {
                return Err(bad().hint("write volume-opt=KEY=VALUE"));
            }
            "volume-opt" => insert(&mut self.volume.options, value),
            _ if FLAGS.concat().contains(&&*key) && boolean(value) == Some(true) => {
                self.options.push(key);
            }
            _ => return Err(Error::invalid(format!("unexpected key '{key}' in '{field}'"))),
        }
        Ok(())
    }

    fn word(&mut self, word: &str, wanted: bool) {
        self.options.retain(|option| option != word);
        if wanted {
            self.options.push(word.to_owned());
        }
    }

    fn finish(mut self, cwd: &Path) -> Result<Vec<MountRecord>> {
        let kind = self.kind.take();
        let kind = kind.as_deref().unwrap_or("volume");
        self.check_keys(kind)?;
        if kind == "glob" && self.target.as_ref().is_none_or(String::is_empty) {
            return self.glob(None, cwd).doing_with(|| "invalid mount config for type \"glob\"");
        }
        let Some(target) = self.target.as_deref().filter(|target| !target.is_empty()) else {
            return Err(Error::invalid("target is required")
                .hint("write --mount type=bind,source=/host/path,target=/container/path"));
        };
        let doing = || format!("invalid mount config for type \"{kind}\"");
        let target = target_path(target).doing_with(doing)?;
        let record = match kind {
            "bind" => self.bind(target, cwd),
            "glob" => return self.glob(Some(&target), cwd).doing_with(doing),
            "volume" => self.volume(target),
            "image" => self.image(target),
            "tmpfs" => self.own(MountKind::Tmpfs, target),
            "ramfs" => self.own(MountKind::Ramfs, target),
            "devpts" => self.own(MountKind::Devpts, target),
            _ => {
                return Err(Error::invalid("mount type unknown")
                    .context(doing())
                    .hint("types are volume, bind, tmpfs, image, ramfs, devpts and glob"));
            }
        };
        Ok(vec![record.doing_with(doing)?])
    }

    fn check_keys(&self, kind: &str) -> Result<()> {
        if kind.is_empty() {
            return Err(Error::invalid("type is required"));
        }
        let fits = |family: &str| match kind {
            "glob" => family == "bind",
            "ramfs" => family == "tmpfs",
            _ => family == kind,
        };
        if let Some(other) = self.families.iter().find(|family| !fits(family)) {
            return Err(Error::invalid(format!(
                "cannot mix '{other}-*' options with mount type '{kind}'"
            )));
        }
        let strange = |key: &&String| types_of(key).is_some_and(|types| !types.contains(&kind));
        match self.keys.iter().find(strange) {
            Some(key) => {
                Err(Error::invalid(format!("cannot mix option '{key}' with mount type '{kind}'")))
            }
            None => Ok(()),
        }
    }

    fn source(&self, cwd: &Path) -> Result<PathBuf> {
        let Some(source) = self.source.as_deref().filter(|source| !source.is_empty()) else {
            return Err(Error::invalid("field Source must not be empty"));
        };
        if !source.starts_with(['/', '.']) {
            return Err(Error::invalid(format!(
                "invalid mount path: '{source}' mount path must be absolute"
            ))
            .hint("begin it with / or ./"));
        }
        Ok(source_path(source, cwd).unwrap_or_else(|| clean(&cwd.join(source))))
    }

    fn bind(self, target: String, cwd: &Path) -> Result<MountRecord> {
        let source = self.source(cwd)?;
        let mut options = Vec::new();
        match self.recursive.as_deref() {
            Some("readonly") => {
                self.check_read_only_tree()?;
                options.push("rro".to_owned());
            }
            // What is mounted below stays as it is.
            Some("writable") => options.push("ro".to_owned()),
            Some("disabled") => options.push("bind".to_owned()),
            _ if self.non_recursive => options.push("bind".to_owned()),
            _ => {}
        }
        options.retain(|option| option != "ro" || self.read_only == Some(true));
        options.extend(self.propagation);
        options.extend(self.options);
        Ok(MountRecord {
            kind: MountKind::Bind { source, create: self.create },
            target,
            read_only: self.read_only.unwrap_or(false),
            options,
        })
    }

    /// Podman's: what matches is bound, each by its name, in the directory `target`; without one
    /// where it is on the host.
    fn glob(self, target: Option<&str>, cwd: &Path) -> Result<Vec<MountRecord>> {
        let pattern = self.source(cwd)?;
        let found = matches(&pattern)?;
        if found.is_empty() {
            return Err(Error::not_found(format!(
                "no file paths matching glob \"{}\"",
                pattern.display()
            )));
        }
        let one = self.bind(String::new(), cwd)?;
        let each = found.into_iter().map(|source| {
            let name = source.file_name().unwrap_or_default().to_string_lossy();
            let target = match target {
                Some(target) => format!("{}/{name}", target.trim_end_matches('/')),
                None => source.display().to_string(),
            };
            let kind = MountKind::Bind { source, create: false };
            MountRecord { kind, target, ..one.clone() }
        });
        Ok(each.collect())
    }

    fn volume(self, target: String) -> Result<MountRecord> {
        let name = self.source.unwrap_or_default();
        check_volume_name(&name)?;
        if name.is_empty() && !self.subpath.is_empty() {
            return Err(Error::invalid("must not set Subpath when using anonymous volumes"));
        }
        if name.is_empty() && self.read_only == Some(true) {
            return Err(Error::invalid("must not set ReadOnly mode when using anonymous volumes")
                .hint("nobody could write into it: give it a name"));
        }
        let origin = VolumeOrigin::Long;
        let volume =
            VolumeMount { name, origin, subpath: subpath(&self.subpath, "volume")?, ..self.volume };
        Ok(MountRecord {
            kind: MountKind::Volume(volume),
            target,
            read_only: self.read_only.unwrap_or(false),
            options: self.options,
        })
    }

    fn image(self, target: String) -> Result<MountRecord> {
        let Some(name) = self.source.filter(|name| !name.is_empty()) else {
            return Err(Error::invalid("field Source must not be empty"));
        };
        let subpath = subpath(&self.subpath, "image")?;
        // Its files have the container's ids anyhow.
        let mut options = self.options;
        options.retain(|option| option != "idmap");
        if options.iter().any(|option| option.starts_with("idmap=")) {
            return Err(Error::unsupported("the files of an image have the container's ids")
                .hint("leave the ranges of idmap away"));
        }
        Ok(MountRecord {
            kind: MountKind::Image(ImageMount { name, subpath, ..ImageMount::default() }),
            target,
            read_only: self.read_only.unwrap_or(true),
            options,
        })
    }

    /// Docker's two conditions: without them a mount below could be made writable again.
    fn check_read_only_tree(&self) -> Result<()> {
        let missing = if self.read_only != Some(true) {
            "readonly"
        } else if self.propagation.as_deref() != Some("rprivate") {
            "bind-propagation=rprivate"
        } else {
            return Ok(());
        };
        Err(Error::invalid(format!(
            "option 'bind-recursive=readonly' requires '{missing}' to be specified in conjunction"
        )))
    }

    /// A file system of the container's own.
    fn own(self, kind: MountKind, target: String) -> Result<MountRecord> {
        if self.source.is_some() {
            return Err(Error::invalid("field Source must not be specified"));
        }
        let read_only = self.read_only.unwrap_or(false);
        Ok(MountRecord { kind, target, read_only, options: self.options })
    }
}

/// The host's paths that match, in order.
fn matches(pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.components() {
        let Component::Normal(part) = part else { continue };
        let text = part.to_string_lossy();
        if !is_glob(&text) {
            found = found.into_iter().map(|dir| dir.join(part)).filter(|at| at.exists()).collect();
            continue;
        }
        let names = Glob::new(&text)?;
        let mut next = Vec::new();
        for dir in found {
            // What cannot be looked into has no matches, as in a shell.
            for entry in fs::read_dir(&dir).into_iter().flatten().filter_map(Result::ok) {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if (!name.starts_with('.') || text.starts_with('.')) && names.matches(&name) {
                    next.push(entry.path());
                }
            }
        }
        next.sort();
        found = next;
    }
    Ok(found)
}

/// `KEY=VALUE`, or a key alone.
fn insert(map: &mut BTreeMap<String, String>, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    map.insert(key.to_owned(), value.to_owned());
}

/// Where it leads is found out in the volume or image, when it is mounted; what could only lead
/// out of it is refused now.
fn subpath(value: &str, of: &str) -> Result<String> {
    let climbs = Path::new(value).components().any(|part| part == Component::ParentDir);
    if climbs || value.contains('\0') {
        return Err(Error::invalid(format!("subpath must be a relative path within the {of}")));
    }
    // Docker's manual begins it with a slash, and podman takes that.
    Ok(value.trim_start_matches('/').to_owned())
}

fn recursion(value: &str) -> Result<String> {
    match value {
        "enabled" | "disabled" | "readonly" | "writable" => Ok(value.to_owned()),
        _ => Err(Error::invalid(format!(
            "invalid value for bind-recursive: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
        ))),
    }
}
