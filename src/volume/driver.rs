//! The driver `local`: what its options mean (docker volume create, "Driver-specific options";
//! podman-volume-create(1), "--opt").

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    error::{Error, Result},
    state::{project::Limits, size},
};

/// What a volume's options ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Design {
    pub backing: Backing,
    /// Whom the volume's own directory belongs to, as containers number them.
    pub owner: Option<(u32, u32)>,
    /// What may be in it.
    pub limits: Limits,
    /// What an image has at the target is not copied into it.
    pub no_copy: bool,
}

/// Where a volume's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// In the volume's own directory.
    Own,
    /// In a directory of the host's, with mount(8)'s options.
    Directory { source: PathBuf, options: Vec<String> },
    /// In a file system that is mounted for each container that has the volume.
    FileSystem { kind: String, device: String, options: Vec<String> },
}

/// Docker's, and podman's last two.
const KEYS: [&str; 6] = ["type", "device", "o", "size", "copy", "nocopy"];

impl Design {
    /// Reads the options of the volume `name`.
    pub fn of(name: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        Self::read(options).map_err(|err| err.context(format!("create {name}")))
    }

    fn read(options: &BTreeMap<String, String>) -> Result<Self> {
        if let Some(key) = options.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(Error::invalid(format!("invalid option: {key:?}"))
                .hint(format!("the driver local has the options {}", KEYS.join(", "))));
        }
        let get = |key: &str| options.get(key).map_or("", String::as_str);
        let words: Vec<String> =
            get("o").split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let mut design = Self {
            backing: Backing::Own,
            owner: None,
            limits: Limits { bytes: bytes(get("size"))?, ..Limits::default() },
            no_copy: options.contains_key("nocopy"),
        };
        if get("type").is_empty() && get("device").is_empty() {
            for word in &words {
                design.apply(word)?;
            }
            return Ok(design);
        }
        design.backing = Backing::elsewhere(get("type"), get("device"), words)?;
        match &mut design.backing {
            Backing::FileSystem { kind, options, .. } if kind == "tmpfs" => {
                let bytes = std::mem::take(&mut design.limits).bytes;
                options.extend((bytes > 0).then(|| format!("size={bytes}")));
            }
            _ if design.limits != Limits::default() => return Err(no_quota()),
            Backing::Own | Backing::Directory { .. } | Backing::FileSystem { .. } => {}
        }
        Ok(design)
    }

    /// A word of `o` for the volume's own directory: podman's, there is nothing to mount.
    fn apply(&mut self, word: &str) -> Result<()> {
        let bad = || Error::invalid(format!("invalid value in the option \"o\": {word:?}"));
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let (uid, gid) = self.owner.unwrap_or_default();
        match key {
            "uid" => self.owner = Some((value.parse().map_err(|_| bad())?, gid)),
            "gid" => self.owner = Some((uid, value.parse().map_err(|_| bad())?)),
            "size" => self.limits.bytes = bytes(value)?,
            "inodes" => self.limits.inodes = value.parse().map_err(|_| bad())?,
            // No account is kept unless there is a limit, and nobody is waited for.
            "noquota" if value.is_empty() => {}
            "timeout" if value.parse::<u32>().is_ok() => {}
            _ => return Err(Error::invalid("missing required option: \"device\"")),
        }
        Ok(())
    }
}

/// 0 for an empty text.
fn bytes(text: &str) -> Result<u64> {
    if text.is_empty() { Ok(0) } else { size::bytes(text) }
}

/// Docker's words.
pub fn no_quota() -> Error {
    Error::unsupported("quota size requested but no quota support")
        .hint("-o type=tmpfs -o device=tmpfs -o o=size=64m makes a volume of that size in memory")
}

impl Backing {
    /// What mount(8) would do with these.
    fn elsewhere(kind: &str, device: &str, words: Vec<String>) -> Result<Self> {
        if device.is_empty() {
            return Err(Error::invalid("missing required option: \"device\""));
        }
        let binds = words.iter().any(|word| word == "bind" || word == "rbind");
        if kind.is_empty() && !binds {
            return Err(Error::invalid("missing required option: \"type\""));
        }
        if !matches!(kind, "" | "none" | "bind") && (!binds || kind == "tmpfs") {
            let (kind, device) = (kind.to_owned(), device.to_owned());
            return Ok(Self::FileSystem { kind, device, options: words });
        }
        if !device.starts_with('/') {
            return Err(Error::invalid(format!("the device {device:?} is not an absolute path")));
        }
        let of_own =
            |word: &&String| ["uid=", "gid=", "size="].iter().any(|key| word.starts_with(key));
        if let Some(word) = words.iter().find(of_own) {
            return Err(Error::unsupported(format!("{word}: {device} is not the volume's own")).hint(
                "leave type and device away, or change the directory itself; -v NAME:PATH:U gives it to the container's user",
            ));
        }
        Ok(Self::Directory { source: device.into(), options: words })
    }

    /// Whether each container that has it sees files of its own.
    pub fn is_private(&self) -> bool {
        matches!(self, Self::FileSystem { kind, .. } if kind == "tmpfs" || kind == "ramfs")
    }

    /// What an ordinary user cannot mount is refused.
    pub fn check_rights(&self, name: &str, rootless: bool) -> Result<()> {
        match self {
            Self::FileSystem { kind, .. } if rootless && !self.is_private() => {
                Err(Error::unsupported(format!(
                    "create {name}: only root can mount a file system of type {kind}"
                ))
                .hint("an ordinary user has volumes of type tmpfs, and of type none with o=bind"))
            }
            Self::Own | Self::Directory { .. } | Self::FileSystem { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn design(options: &[(&str, &str)]) -> Result<Design> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Design::of("v", &options)
    }

    fn of(options: &[(&str, &str)]) -> Result<Backing> {
        design(options).map(|design| design.backing)
    }

    #[test]
    fn options_say_where_the_files_are() {
        assert_eq!(of(&[]).ok(), Some(Backing::Own));
        let bind = of(&[("type", "none"), ("device", "/srv"), ("o", "bind,ro")]);
        let options = vec!["bind".to_owned(), "ro".to_owned()];
        assert_eq!(bind.ok(), Some(Backing::Directory { source: "/srv".into(), options }));
        let tmpfs = of(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]).expect("valid");
        assert!(tmpfs.is_private() && tmpfs.check_rights("v", true).is_ok());
        let sized = of(&[("type", "tmpfs"), ("device", "tmpfs"), ("size", "1m")]).expect("valid");
        let Backing::FileSystem { options, .. } = sized else { panic!("a tmpfs") };
        assert_eq!(options, ["size=1048576"]);
        let nfs = of(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=::1")]).expect("valid");
        assert!(nfs.check_rights("v", false).is_ok() && nfs.check_rights("v", true).is_err());
    }

    #[test]
    fn its_own_directory_has_an_owner_and_limits() {
        let own = design(&[("o", "uid=5,gid=6,size=1g,inodes=9"), ("nocopy", "")]).expect("valid");
        let limits = Limits { bytes: 1 << 30, inodes: 9 };
        let expected = Design { backing: Backing::Own, owner: Some((5, 6)), limits, no_copy: true };
        assert_eq!(own, expected);
        let own = design(&[("size", "64m")]).expect("valid");
        assert_eq!((own.limits.bytes, own.owner), (64 << 20, None));
        let own = design(&[("o", "noquota,timeout=10"), ("copy", "")]).expect("valid");
        assert_eq!((own.limits, own.no_copy), (Limits::default(), false));
    }

    #[test]
    fn bad_options_are_named() {
        for (options, said) in [
            (&[("foo", "1")][..], "create v: invalid option: \"foo\""),
            (&[("size", "much")], "create v: invalid size: 'much'"),
            (&[("o", "uid=x")], "create v: invalid value in the option \"o\": \"uid=x\""),
            (&[("o", "addr=::1")], "create v: missing required option: \"device\""),
            (
                &[("type", "none"), ("device", "/x"), ("o", "bind,uid=5")],
                "create v: uid=5: /x is not the volume's own",
            ),
            (
                &[("type", "nfs"), ("device", ":/x"), ("size", "1g")],
                "create v: quota size requested but no quota support",
            ),
            (&[("type", "tmpfs")], "create v: missing required option: \"device\""),
            (&[("device", "/x")], "create v: missing required option: \"type\""),
            (
                &[("type", "none"), ("device", "x")],
                "create v: the device \"x\" is not an absolute path",
            ),
        ] {
            assert_eq!(of(options).expect_err("refused").to_string(), said);
        }
    }
}
