//! The driver `local`: what its options `type`, `device` and `o` mean (docker volume create,
//! "Driver-specific options").

use std::{collections::BTreeMap, path::PathBuf};

use crate::error::{Error, Result};

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

impl Backing {
    /// Reads the options of the volume `name`.
    pub fn of(name: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let refused = |what: String| Error::invalid(format!("create {name}: {what}"));
        let get = |key: &str| options.get(key).map_or("", String::as_str);
        let words: Vec<String> =
            get("o").split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        // Of a directory; a file system in memory has a size of its own.
        let sized = get("type").is_empty() && words.iter().any(|word| word.starts_with("size="));
        if options.contains_key("size") || sized {
            return Err(Error::unsupported(format!(
                "create {name}: quota size requested but no quota support"
            ))
            .hint(
                "-o type=tmpfs -o device=tmpfs -o o=size=64m makes a volume of that size in memory",
            ));
        }
        if let Some(key) =
            options.keys().find(|key| !["type", "device", "o"].contains(&key.as_str()))
        {
            return Err(refused(format!("invalid option: {key:?}"))
                .hint("the driver local has the options type, device and o"));
        }
        let (kind, device) = (get("type"), get("device"));
        if options.is_empty() {
            return Ok(Self::Own);
        }
        if device.is_empty() {
            return Err(refused("missing required option: \"device\"".into()));
        }
        let binds = words.iter().any(|word| word == "bind" || word == "rbind");
        match kind {
            "" if !binds => Err(refused("missing required option: \"type\"".into())),
            "" | "none" | "bind" => match device.starts_with('/') {
                true => Ok(Self::Directory { source: device.into(), options: words }),
                false => Err(refused(format!("the device {device:?} is not an absolute path"))),
            },
            _ if binds && kind != "tmpfs" => {
                Ok(Self::Directory { source: device.into(), options: words })
            }
            kind => Ok(Self::FileSystem {
                kind: kind.to_owned(),
                device: device.to_owned(),
                options: words,
            }),
        }
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

    fn of(options: &[(&str, &str)]) -> Result<Backing> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Backing::of("v", &options)
    }

    #[test]
    fn options_say_where_the_files_are() {
        assert_eq!(of(&[]).ok(), Some(Backing::Own));
        let bind = of(&[("type", "none"), ("device", "/srv"), ("o", "bind,ro")]);
        let options = vec!["bind".to_owned(), "ro".to_owned()];
        assert_eq!(bind.ok(), Some(Backing::Directory { source: "/srv".into(), options }));
        let tmpfs = of(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]).expect("valid");
        assert!(tmpfs.is_private() && tmpfs.check_rights("v", true).is_ok());
        let nfs = of(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=::1")]).expect("valid");
        assert!(nfs.check_rights("v", false).is_ok() && nfs.check_rights("v", true).is_err());
    }

    #[test]
    fn bad_options_are_named() {
        for (options, said) in [
            (&[("size", "1g")][..], "create v: quota size requested but no quota support"),
            (&[("o", "size=1g,uid=5")], "create v: quota size requested but no quota support"),
            (&[("foo", "1")], "create v: invalid option: \"foo\""),
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
