//! `-v`, `--mount` and `--tmpfs`, as docker reads them.
//!
//! Nothing is looked up here: whether a source exists is for the launch to find. Options are
//! kept in mount(8)'s words and in the order given; the defaults they change (a tmpfs is
//! `noexec,nosuid,nodev`, a bind is recursive and `rprivate`) are the runtime spec's to add.

use std::path::{Path, PathBuf};

use std::collections::BTreeMap;

use crate::{
    error::{Context, Error, Result},
    state::record::{MountKind, MountRecord, VolumeMount, VolumeOrigin},
};

const PROPAGATION: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Mount flags a bind or a tmpfs may carry, as pairs that exclude each other.
const FLAGS: [[&str; 2]; 6] = [
    ["exec", "noexec"],
    ["suid", "nosuid"],
    ["dev", "nodev"],
    ["atime", "noatime"],
    ["diratime", "nodiratime"],
    ["relatime", "norelatime"],
];

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
    let no_copy = options.iter().any(|option| option == "nocopy");
    options.retain(|option| !["copy", "nocopy"].contains(&option.as_str()));
    let kind = match source_path(source, cwd) {
        Some(_) if no_copy => {
            return Err(Error::invalid("invalid mode: nocopy")
                .context(spec())
                .hint("nocopy is for named volumes"));
        }
        Some(source) => MountKind::Bind { source, create: true },
        None => {
            check_volume_name(source)?;
            let volume = VolumeMount { name: source.to_owned(), no_copy, ..VolumeMount::default() };
            MountKind::Volume(volume)
        }
    };
    Ok(MountRecord { kind, target, read_only, options })
}

/// An empty one is for one that nobody names.
fn check_volume_name(name: &str) -> Result<()> {
    if name.is_empty() { Ok(()) } else { crate::volume::check_name(name) }
}

const VOLUME_HINT: &str = "write -v /host/path:/container/path[:ro], or -v NAME:/container/path";

/// `ro`, `rw` and the rest, each choice at most once.
fn volume_options(text: &str) -> Result<(bool, Vec<String>)> {
    let bad = || Error::invalid(format!("invalid mode: {text}"));
    let mut seen: Vec<&str> = Vec::new();
    let mut options = Vec::new();
    for option in text.split(',').filter(|_| !text.is_empty()) {
        let choice = match option {
            "ro" | "rw" => "access",
            "z" | "Z" => "label",
            "bind" | "rbind" => "depth",
            "consistent" | "cached" | "delegated" => "consistency",
            "copy" | "nocopy" => "copy",
            "U" => "owner",
            "O" | "idmap" => {
                return Err(Error::unsupported(format!(
                    "volume option {option} is not in this version"
                )));
            }
            _ if PROPAGATION.contains(&option) => "propagation",
            _ => flag_pair(option).ok_or_else(|| {
                bad().hint(
                    "options are ro, rw, z, Z, bind, rbind, exec, suid, dev and their no- forms, and [r]private, [r]shared, [r]slave",
                )
            })?,
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
    Ok((text.split(',').any(|option| option == "ro"), options))
}

/// `--volumes-from CONTAINER[:OPTIONS]`: the container, and whether all becomes read-only.
pub fn volumes_from(text: &str) -> Result<(String, bool)> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(Error::invalid("volumes-from cannot be empty"));
    }
    for option in options.split(',').filter(|_| text.contains(':')) {
        if !["ro", "rw", "z", "Z", "nocopy"].contains(&option) {
            return Err(Error::invalid(format!("invalid mode: {options}"))
                .hint("write CONTAINER, CONTAINER:ro or CONTAINER:rw"));
        }
    }
    Ok((name.to_owned(), options.split(',').any(|option| option == "ro")))
}

fn flag_pair(option: &str) -> Option<&'static str> {
    FLAGS.iter().find(|pair| pair.contains(&option)).map(|pair| pair[0])
}

/// `--mount type=bind|tmpfs,KEY=VALUE,...`: docker's comma-separated values, quotes included.
pub fn mount(text: &str, cwd: &Path) -> Result<MountRecord> {
    let mut fields = Fields::default();
    for field in csv(text)? {
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
    read_only: bool,
    propagation: Option<String>,
    recursive: Option<String>,
    non_recursive: bool,
    size: Option<u64>,
    mode: Option<u32>,
    volume: VolumeMount,
    /// Families of options seen: `bind`, `tmpfs`, `volume`, `image`.
    families: Vec<&'static str>,
}

impl Fields {
    fn set(&mut self, field: &str) -> Result<()> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), value),
            None => match field.to_ascii_lowercase() {
                key if matches!(
                    &*key,
                    "readonly" | "ro" | "bind-nonrecursive" | "volume-nocopy"
                ) =>
                {
                    (key, "true")
                }
                _ => {
                    return Err(Error::invalid(format!(
                        "invalid field '{field}' must be a key=value pair"
                    )));
                }
            },
        };
        let bad = || Error::invalid(format!("invalid value for {key}: {value}"));
        for family in ["bind", "tmpfs", "volume", "image"] {
            if key.strip_prefix(family).is_some_and(|rest| rest.starts_with('-')) {
                self.families.push(family);
            }
        }
        match key.as_str() {
            "type" => self.kind = Some(value.to_ascii_lowercase()),
            "source" | "src" => self.source = Some(value.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(value.to_owned()),
            "readonly" | "ro" => self.read_only = boolean(value).ok_or_else(bad)?,
            "consistency" => {} // for Docker Desktop's shared folders, as above
            "bind-propagation" if PROPAGATION.contains(&value) => {
                self.propagation = Some(value.to_owned());
            }
            "bind-propagation" => {
                return Err(bad().hint("it is one of [r]private, [r]shared and [r]slave"));
            }
            "bind-nonrecursive" => self.non_recursive = boolean(value).ok_or_else(bad)?,
            "bind-recursive" => self.recursive = Some(recursion(value)?),
            "tmpfs-size" => self.size = Some(super::size::bytes(value).map_err(|_| bad())?),
            "tmpfs-mode" => self.mode = Some(mode(value).ok_or_else(bad)?),
            "volume-nocopy" => self.volume.no_copy = boolean(value).ok_or_else(bad)?,
            "volume-subpath" => self.volume.subpath = subpath(value)?,
            "volume-driver" => {
                let name = self.source.as_deref().unwrap_or_default();
                crate::engine::volume::check_driver(name, value)?;
            }
            "volume-label" => insert(&mut self.volume.labels, value),
            "volume-opt" if value.split_once('=').is_none_or(|(key, _)| key.is_empty()) => {
                return Err(bad().hint("write volume-opt=KEY=VALUE"));
            }
            "volume-opt" => insert(&mut self.volume.options, value),
            _ if matches!(self.families.last(), Some(&("volume" | "image"))) => {
                return Err(Error::unsupported(format!("{key} is not in this version")));
            }
            _ => return Err(Error::invalid(format!("unexpected key '{key}' in '{field}'"))),
        }
        Ok(())
    }

    fn finish(mut self, cwd: &Path) -> Result<MountRecord> {
        let kind = self.kind.take();
        let kind = kind.as_deref().unwrap_or("volume");
        if kind.is_empty() {
            return Err(Error::invalid("type is required"));
        }
        if let Some(other) = self.families.iter().find(|&&family| family != kind) {
            return Err(Error::invalid(format!(
                "cannot mix '{other}-*' options with mount type '{kind}'"
            )));
        }
        let Some(target) = self.target.as_deref().filter(|target| !target.is_empty()) else {
            return Err(Error::invalid("target is required")
                .hint("write --mount type=bind,source=/host/path,target=/container/path"));
        };
        let doing = || format!("invalid mount config for type \"{kind}\"");
        let target = target_path(target).doing_with(doing)?;
        match kind {
            "bind" => self.bind(target, cwd).doing_with(doing),
            "tmpfs" => self.tmpfs(target).doing_with(doing),
            "volume" => self.volume(target).doing_with(doing),
            _ => Err(Error::unsupported(format!("mount type {kind} is not in this version"))
                .hint("use type=volume, type=bind or type=tmpfs")),
        }
    }

    fn bind(self, target: String, cwd: &Path) -> Result<MountRecord> {
        let Some(source) = self.source.as_deref().filter(|source| !source.is_empty()) else {
            return Err(Error::invalid("field Source must not be empty"));
        };
        if !source.starts_with(['/', '.']) {
            return Err(Error::invalid(format!(
                "invalid mount path: '{source}' mount path must be absolute"
            ))
            .hint("begin it with / or ./"));
        }
        let source = source_path(source, cwd).unwrap_or_else(|| clean(&cwd.join(source)));
        let mut options = Vec::new();
        match self.recursive.as_deref() {
            Some("readonly") => {
                self.check_read_only_tree()?;
                options.push("rro".to_owned());
            }
            Some("disabled") => options.push("bind".to_owned()),
            _ if self.non_recursive => options.push("bind".to_owned()),
            _ => {}
        }
        options.extend(self.propagation);
        Ok(MountRecord {
            kind: MountKind::Bind { source, create: false },
            target,
            read_only: self.read_only,
            options,
        })
    }

    fn volume(self, target: String) -> Result<MountRecord> {
        let name = self.source.unwrap_or_default();
        check_volume_name(&name)?;
        if self.propagation.is_some() || self.recursive.is_some() {
            return Err(Error::invalid("bind options are for mounts of type bind"));
        }
        if name.is_empty() && !self.volume.subpath.is_empty() {
            return Err(Error::invalid("must not set Subpath when using anonymous volumes"));
        }
        let volume = VolumeMount { name, origin: VolumeOrigin::Long, ..self.volume };
        Ok(MountRecord {
            kind: MountKind::Volume(volume),
            target,
            read_only: self.read_only,
            options: Vec::new(),
        })
    }

    /// Docker's two conditions: without them a mount below could be made writable again.
    fn check_read_only_tree(&self) -> Result<()> {
        let missing = if !self.read_only {
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

    fn tmpfs(self, target: String) -> Result<MountRecord> {
        if self.source.is_some() {
            return Err(Error::invalid("field Source must not be specified"));
        }
        let size = self.size.filter(|&size| size > 0).map(|size| format!("size={size}"));
        let mode = self.mode.map(|mode| format!("mode={mode:o}"));
        Ok(MountRecord {
            kind: MountKind::Tmpfs,
            target,
            read_only: self.read_only,
            options: size.into_iter().chain(mode).collect(),
        })
    }
}

/// `KEY=VALUE`, or a key alone.
fn insert(map: &mut BTreeMap<String, String>, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    map.insert(key.to_owned(), value.to_owned());
}

/// Where it leads is found out in the volume, when it is mounted; what could only lead out of it
/// is refused now.
fn subpath(value: &str) -> Result<String> {
    let path = Path::new(value);
    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
    if value.is_empty() || path.is_absolute() || climbs || value.contains('\0') {
        return Err(Error::invalid(
            "invalid mount config for type \"volume\": subpath must be a relative path within the volume",
        ));
    }
    Ok(value.to_owned())
}

fn recursion(value: &str) -> Result<String> {
    match value {
        "enabled" | "disabled" | "readonly" => Ok(value.to_owned()),
        "writable" => Err(Error::unsupported("bind-recursive=writable is not in this version")),
        _ => Err(Error::invalid(format!(
            "invalid value for bind-recursive: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
        ))),
    }
}

/// Go's `strconv.ParseBool`.
fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Octal permission bits; `1777` is the most there is.
fn mode(value: &str) -> Option<u32> {
    let digits = value.bytes().all(|b| matches!(b, b'0'..=b'7'));
    u32::from_str_radix(value, 8).ok().filter(|&mode| digits && mode <= 0o7777)
}

/// One record of RFC 4180, as Go's `encoding/csv` reads it.
fn csv(text: &str) -> Result<Vec<String>> {
    if text.is_empty() {
        return Err(Error::invalid("the mount is empty")
            .hint("write --mount type=bind,source=/host/path,target=/container/path"));
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = csv_field(rest).map_err(|(left, what)| {
            let column = text.len() - left + 1;
            Error::invalid(format!("parse error on line 1, column {column}: {what}"))
        })?;
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// The first field and what follows it, or how much was left at the fault and what it is.
fn csv_field(text: &str) -> Result<(String, &str), (usize, &'static str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let (field, after) = text.split_at(text.find(',').unwrap_or(text.len()));
        return match field.find('"') {
            Some(at) => Err((text.len() - at, "bare \" in non-quoted field")),
            None => Ok((field.to_owned(), after)),
        };
    };
    let mut field = String::new();
    loop {
        let fault = "extraneous or missing \" in quoted-field";
        let (before, after) = rest.split_once('"').ok_or((0, fault))?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None if after.is_empty() || after.starts_with(',') => return Ok((field, after)),
            None => return Err((after.len() + 1, fault)),
        }
    }
}

/// `--tmpfs TARGET[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Result<MountRecord> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = target_path(target).doing_with(|| format!("invalid tmpfs mount '{text}'"))?;
    let mut read_only = false;
    let mut kept = Vec::new();
    for option in options.split(',').filter(|_| !options.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            _ if is_tmpfs_option(option) => kept.push(option.to_owned()),
            _ => {
                return Err(Error::invalid(format!("invalid tmpfs option \"{option}\"")).hint(
                    "options are ro, rw, exec, suid, dev and their no- forms, size=, mode=, uid=, gid=, nr_inodes=, nr_blocks=",
                ));
            }
        }
    }
    Ok(MountRecord { kind: MountKind::Tmpfs, target, read_only, options: kept })
}

/// tmpfs(5), "Mount options".
fn is_tmpfs_option(option: &str) -> bool {
    let Some((key, value)) = option.split_once('=') else {
        return flag_pair(option).is_some() || PROPAGATION.contains(&option);
    };
    let quantity = |units: &[char]| {
        let number = value.strip_suffix(units).unwrap_or(value);
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    match key {
        "size" => quantity(&['k', 'K', 'm', 'M', 'g', 'G', '%']),
        "nr_inodes" | "nr_blocks" => quantity(&['k', 'K', 'm', 'M', 'g', 'G']),
        "mode" => mode(value).is_some(),
        "uid" | "gid" => value.parse::<u32>().is_ok(),
        _ => false,
    }
}

/// The path inside the container: absolute, tidied by its text alone, and not the root.
fn target_path(text: &str) -> Result<String> {
    if !text.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount path: '{text}' mount path must be absolute"
        ))
        .hint("the path inside the container begins with /"));
    }
    let clean = clean(Path::new(text)).display().to_string();
    if clean == "/" {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    Ok(clean)
}

/// `None` if it is the name of a volume.
fn source_path(text: &str, cwd: &Path) -> Option<PathBuf> {
    if text.starts_with('/') {
        return Some(clean(Path::new(text)));
    }
    let relative = text == "." || text == ".." || text.starts_with("./") || text.starts_with("../");
    relative.then(|| clean(&cwd.join(text)))
}

/// Go's `filepath.Clean` of an absolute path: docker tidies `..` before symbolic links are
/// looked at, and so the same flag means the same directory here.
fn clean(path: &Path) -> PathBuf {
    use std::path::Component;

    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, create: bool, target: &str, ro: bool, options: &[&str]) -> MountRecord {
        MountRecord {
            kind: MountKind::Bind { source: source.into(), create },
            target: target.into(),
            read_only: ro,
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        }
    }

    fn said(result: Result<MountRecord>) -> String {
        result.expect_err("it is refused").to_string()
    }

    #[test]
    fn volumes_are_binds_of_host_paths() {
        let volume = |text| volume(text, Path::new("/home/a")).ok();
        assert_eq!(volume("/a:/b"), Some(bind("/a", true, "/b", false, &[])));
        assert_eq!(volume("./x:/y:ro"), Some(bind("/home/a/x", true, "/y", true, &[])));
        assert_eq!(volume("../x//y:/y/../z/"), Some(bind("/home/x/y", true, "/z", false, &[])));
        assert_eq!(volume(".:/y:rw,cached"), Some(bind("/home/a", true, "/y", false, &[])));
        assert_eq!(
            volume("/a:/b:Z,ro,rshared,noexec"),
            Some(bind("/a", true, "/b", true, &["Z", "rshared", "noexec"]))
        );
    }

    #[test]
    fn what_is_no_path_is_a_volume() {
        let named = |name: &str, no_copy| {
            let volume = VolumeMount { name: name.into(), no_copy, ..VolumeMount::default() };
            MountKind::Volume(volume)
        };
        let volume = |text| volume(text, Path::new("/")).expect("valid");
        assert_eq!(volume("vol:/x").kind, named("vol", false));
        assert_eq!(volume("/x").kind, named("", false));
        let all = volume("vol:/x:ro,nocopy,noexec");
        assert_eq!((all.kind, all.read_only), (named("vol", true), true));
        assert_eq!(all.options, ["noexec"]);
        let text = "src=v,dst=/x,ro,volume-nocopy,volume-label=a=b,volume-opt=type=tmpfs,volume-subpath=a/b";
        let MountKind::Volume(all) = mount(text, Path::new("/")).expect("valid").kind else {
            panic!("the default type is volume")
        };
        assert_eq!((all.name.as_str(), all.subpath.as_str(), all.no_copy), ("v", "a/b", true));
        assert_eq!((&*all.labels["a"], &*all.options["type"]), ("b", "tmpfs"));
    }

    #[test]
    fn bad_volumes_are_explained() {
        for (text, expected) in [
            ("", "invalid empty volume spec"),
            ("/a:/b:", "invalid spec: /a:/b:: empty section between colons"),
            (":/b", "invalid spec: :/b: empty section between colons"),
            ("/a:/b:c:d", "invalid volume specification: '/a:/b:c:d'"),
            (
                "/a:b",
                "invalid volume specification: '/a:b': invalid mount path: 'b' mount path must be absolute",
            ),
            (
                "/a:/x/..",
                "invalid volume specification: '/a:/x/..': invalid specification: destination can't be '/'",
            ),
            ("/a:/b:foo", "invalid volume specification: '/a:/b:foo': invalid mode: foo"),
            ("/a:/b:ro,rw", "invalid volume specification: '/a:/b:ro,rw': invalid mode: ro,rw"),
            ("/a:/b:ro,,", "invalid volume specification: '/a:/b:ro,,': invalid mode: ro,,"),
            (
                "/a:/b:exec,noexec",
                "invalid volume specification: '/a:/b:exec,noexec': invalid mode: exec,noexec",
            ),
            (
                "b/d:/x",
                "create b/d: \"b/d\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed",
            ),
            ("/a:/b:nocopy", "invalid volume specification: '/a:/b:nocopy': invalid mode: nocopy"),
        ] {
            assert_eq!(said(volume(text, Path::new("/"))), expected);
        }
    }

    #[test]
    fn mounts_are_comma_separated() {
        let mount = |text| mount(text, Path::new("/home/a"));
        assert_eq!(
            mount("type=bind,src=/a,dst=/b").ok(),
            Some(bind("/a", false, "/b", false, &[]))
        );
        assert_eq!(
            mount("\"TYPE=bind\",\"source=./a,\"\"b\",destination=/b,ro,bind-propagation=rslave")
                .ok(),
            Some(bind("/home/a/a,\"b", false, "/b", true, &["rslave"]))
        );
        assert_eq!(
            mount("type=bind,src=/a,dst=/b,readonly=false,bind-nonrecursive").ok(),
            Some(bind("/a", false, "/b", false, &["bind"]))
        );
        assert_eq!(
            mount("type=bind,src=/a,dst=/b,ro,bind-recursive=readonly,bind-propagation=rprivate")
                .ok(),
            Some(bind("/a", false, "/b", true, &["rro", "rprivate"]))
        );
        let tmpfs = mount("type=tmpfs,target=/x,tmpfs-size=1m,tmpfs-mode=1770").expect("valid");
        assert_eq!(
            (tmpfs.kind, tmpfs.options.join(",")),
            (MountKind::Tmpfs, "size=1048576,mode=1770".into())
        );
    }

    #[test]
    fn bad_mounts_are_explained() {
        for (text, expected) in [
            ("", "the mount is empty"),
            ("type=bind", "target is required"),
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("type=bind,src=/a,dst=/b,", "invalid field '' must be a key=value pair"),
            ("type=,dst=/b", "type is required"),
            ("type=bind,src=/a,dst=/b,ro=x", "invalid value for ro: x"),
            ("type=bind,src=/a,dst=/b,foo=1", "unexpected key 'foo' in 'foo=1'"),
            (
                "type=bind,dst=/b,tmpfs-size=1m",
                "cannot mix 'tmpfs-*' options with mount type 'bind'",
            ),
            ("type=tmpfs,dst=/x,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
            ("type=tmpfs,dst=/x,tmpfs-size=x", "invalid value for tmpfs-size: x"),
            (
                "type=tmpfs,dst=/x,src=/a",
                "invalid mount config for type \"tmpfs\": field Source must not be specified",
            ),
            (
                "type=bind,dst=/x",
                "invalid mount config for type \"bind\": field Source must not be empty",
            ),
            (
                "type=bind,src=a,dst=/x",
                "invalid mount config for type \"bind\": invalid mount path: 'a' mount path must be absolute",
            ),
            (
                "type=bind,src=/a,dst=b",
                "invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute",
            ),
            ("type=nosuch,target=/x", "mount type nosuch is not in this version"),
            (
                "type=volume,dst=/x,volume-subpath=a",
                "invalid mount config for type \"volume\": must not set Subpath when using anonymous volumes",
            ),
            (
                "type=volume,src=v,dst=/x,volume-subpath=../a",
                "invalid mount config for type \"volume\": subpath must be a relative path within the volume",
            ),
            ("type=volume,src=v,dst=/x,volume-opt=a", "invalid value for volume-opt: a"),
            (
                "type=bind,src=/a,dst=/x,volume-nocopy",
                "cannot mix 'volume-*' options with mount type 'bind'",
            ),
            ("type=bind,src=/a,dst=/b,bind-propagation=x", "invalid value for bind-propagation: x"),
            (
                "type=bind,src=/a,dst=/b,bind-recursive=readonly",
                "invalid mount config for type \"bind\": option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction",
            ),
            (
                "\"type=bind",
                "parse error on line 1, column 11: extraneous or missing \" in quoted-field",
            ),
            (
                "type=bind,src=/a,dst=/b,\"x\"y",
                "parse error on line 1, column 27: extraneous or missing \" in quoted-field",
            ),
            ("type=bi\"nd", "parse error on line 1, column 8: bare \" in non-quoted field"),
        ] {
            assert_eq!(said(mount(text, Path::new("/"))), expected, "{text}");
        }
    }

    #[test]
    fn tmpfs_options_are_the_kernels() {
        let record = tmpfs("/run:ro,noexec,size=64m,mode=1777,uid=5").expect("valid");
        assert_eq!(record.target, "/run");
        assert!(record.read_only);
        assert_eq!(record.options, ["noexec", "size=64m", "mode=1777", "uid=5"]);
        assert!(tmpfs("/x:size=50%").is_ok() && tmpfs("/x").is_ok());
        for bad in
            ["", "x", "/", "/x:foo", "/x:size=", "/x:size=1q", "/x:mode=8", "/x:uid=-1", "/x:ro,,"]
        {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }
}
