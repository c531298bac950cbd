//! Mount options: words to bits.
//!
//! The words are mount(8)'s and the runtime-spec's (config.md, "Linux mount options").

use std::path::{Path, PathBuf};

use crate::sys::mount::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, Attributes};

/// What a list of options means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub bind: bool,
    /// Shown with the ids of the container's user namespace.
    pub shifts: bool,
    pub recursive_bind: bool,
    pub attributes: Attributes,
    /// The attributes reach submounts: `rro` and friends.
    pub recursive: bool,
    /// What of a bind's source is mounted.
    pub beneath: Option<String>,
    /// A new file system begins with what is at its target.
    pub copy_up: bool,
    /// What is left is the file system's own.
    pub data: Vec<(String, Option<String>)>,
}

/// Begins the word for a part of a bind's source, which is resolved beneath it when it is mounted:
/// the source belongs to containers. For user space only, as mount(8) says of words with `x-`.
pub(super) const BENEATH: &str = "x-dhow.beneath=";

const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
/// The access time modes are one field: it is cleared whole, then set (mount_setattr(2)).
const ATIME_FIELD: u64 = libc::MOUNT_ATTR__ATIME;

pub(super) fn parse(words: &[String]) -> Parsed {
    let mut parsed = Parsed::default();
    for word in words {
        apply(&mut parsed, word);
    }
    parsed
}

fn apply(parsed: &mut Parsed, word: &str) {
    let attr = &mut parsed.attributes;
    let mut set = |bits: u64| {
        attr.set |= bits;
        attr.clear &= !bits;
    };
    match word {
        beneath if beneath.starts_with(BENEATH) => {
            parsed.beneath = Some(beneath[BENEATH.len()..].to_owned());
        }
        "defaults" | "async" | "rw" | "suid" | "dev" | "exec" | "relatime" | "diratime"
        | "norelatime" => relax(parsed, word),
        // Podman's and runc's.
        "tmpcopyup" => parsed.copy_up = true,
        "bind" => parsed.bind = true,
        "idmap" => parsed.shifts = true,
        "rbind" => (parsed.bind, parsed.recursive_bind) = (true, true),
        "ro" => set(ATTR_RDONLY),
        "rro" => {
            set(ATTR_RDONLY);
            parsed.recursive = true;
        }
        "nosuid" => set(ATTR_NOSUID),
        "nodev" => set(ATTR_NODEV),
        "noexec" => set(ATTR_NOEXEC),
        "nodiratime" => set(NODIRATIME),
        "nosymfollow" => set(NOSYMFOLLOW),
        "noatime" => (attr.set, attr.clear) = (attr.set | NOATIME, attr.clear | ATIME_FIELD),
        "strictatime" => {
            (attr.set, attr.clear) = (attr.set | STRICTATIME, attr.clear | ATIME_FIELD);
        }
        "shared" | "rshared" => attr.propagation = libc::MS_SHARED,
        "slave" | "rslave" => attr.propagation = libc::MS_SLAVE,
        "private" | "rprivate" => attr.propagation = libc::MS_PRIVATE,
        "unbindable" | "runbindable" => attr.propagation = libc::MS_UNBINDABLE,
        data => match data.split_once('=') {
            Some((key, value)) => parsed.data.push((key.to_owned(), Some(value.to_owned()))),
            None => parsed.data.push((data.to_owned(), None)),
        },
    }
}

/// The value of `lowerdir=` for these directories: `:` and `\` in a name are escaped.
pub(super) fn join_lowers<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> String {
    let escaped =
        dirs.into_iter().map(|dir| dir.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:"));
    escaped.collect::<Vec<_>>().join(":")
}

/// What [`join_lowers`] joined.
pub(super) fn split_lowers(value: &str) -> Vec<PathBuf> {
    let mut dirs = vec![String::new()];
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, dirs.last_mut()) {
            ('\\', Some(dir)) => dir.extend(chars.next()),
            (':', _) => dirs.push(String::new()),
            (c, Some(dir)) => dir.push(c),
            (_, None) => {}
        }
    }
    dirs.retain(|dir| !dir.is_empty());
    dirs.into_iter().map(PathBuf::from).collect()
}

/// Words that undo an earlier one. They never clear a flag of the source mount itself: in a
/// user namespace those are locked, and as root they are the host's decision.
fn relax(parsed: &mut Parsed, word: &str) {
    parsed.attributes.set &= !match word {
        "rw" => ATTR_RDONLY,
        "suid" => ATTR_NOSUID,
        "dev" => ATTR_NODEV,
        "exec" => ATTR_NOEXEC,
        "diratime" => NODIRATIME,
        _ => 0,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Parsed {
        parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn lowerdirs_survive_their_escapes() {
        let dirs = ["/a:b", "/c\\d", "/e"].map(PathBuf::from);
        assert_eq!(split_lowers(&join_lowers(dirs.iter().map(PathBuf::as_path))), dirs);
        assert_eq!(split_lowers(""), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn words_become_bits_and_the_rest_is_data() {
        let parsed = words("nosuid,noexec,nodev,mode=1777,size=64m,ro,exec");
        assert_eq!(parsed.attributes.set, ATTR_NOSUID | ATTR_NODEV | ATTR_RDONLY);
        assert_eq!(
            parsed.data,
            [("mode".into(), Some("1777".into())), ("size".into(), Some("64m".into()))]
        );
        let parsed = words("rbind,rro,rslave");
        assert!(parsed.bind && parsed.recursive_bind && parsed.recursive);
        assert_eq!(parsed.attributes.propagation, libc::MS_SLAVE);
        assert_eq!(words("ro,rw").attributes, Attributes::default());
    }
}
