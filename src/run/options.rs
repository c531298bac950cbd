//! Mount options: words to bits.
//!
//! The words are mount(8)'s and the runtime-spec's (config.md, "Linux mount options").

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    sys::{
        mount::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, Attributes},
        user::IdRange,
    },
};

/// What a list of options means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub bind: bool,
    /// Shown with the ids of the container's user namespace.
    pub shifts: bool,
    pub recursive_bind: bool,
    /// Where its target cannot be made, on a read-only mount, it is left out.
    pub optional: bool,
    /// A source that is a symbolic link is made anew, and not followed.
    pub copies_link: bool,
    pub attributes: Attributes,
    /// The attributes reach submounts: `rro` and friends.
    pub recursive: bool,
    /// The propagation reaches submounts: `rprivate` and friends.
    pub spreads: bool,
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
        | "norelatime" | "nostrictatime" => relax(parsed, word),
        // Podman's and runc's.
        "tmpcopyup" => parsed.copy_up = true,
        "bind" => parsed.bind = true,
        "idmap" => parsed.shifts = true,
        "nofail" => parsed.optional = true,
        // Podman's word, and crun's.
        "no-dereference" | "copy-symlink" => parsed.copies_link = true,
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
        "shared" | "slave" | "private" | "unbindable" => {
            (attr.propagation, parsed.spreads) = (propagation(word), false);
        }
        "rshared" | "rslave" | "rprivate" | "runbindable" => {
            (attr.propagation, parsed.spreads) = (propagation(&word[1..]), true);
        }
        data => match data.split_once('=') {
            Some((key, value)) => parsed.data.push((key.to_owned(), Some(value.to_owned()))),
            None => parsed.data.push((data.to_owned(), None)),
        },
    }
}

fn propagation(word: &str) -> u64 {
    match word {
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "private" => libc::MS_PRIVATE,
        _ => libc::MS_UNBINDABLE,
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

/// One range of the ids that a mount has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MountIds {
    /// Those on disk are inside.
    pub ids: IdRange,
    /// What is outside is an id of the container's.
    pub is_relative: bool,
}

/// Podman's and crun's `uids=0-1000-10#10-2000-5;gids=@0-0-1`, of users and of groups: the first
/// id on disk, the first that it becomes, and how many. A `@` before a range says that those are
/// the container's.
pub(crate) fn id_maps(typed: &str) -> Result<[Vec<MountIds>; 2]> {
    let bad = || {
        Error::invalid(format!("invalid idmap {typed:?}")).hint(
            "write idmap=uids=ON_DISK-HOST-COUNT[#...];gids=..., with @ for the container's ids",
        )
    };
    let mut maps = [Vec::new(), Vec::new()];
    for part in typed.split(';') {
        let (place, ranges) = match part.split_once('=') {
            Some(("uids", ranges)) => (0, ranges),
            Some(("gids", ranges)) => (1, ranges),
            _ => return Err(bad()),
        };
        for range in ranges.split('#') {
            let (range, is_relative) = match range.strip_prefix('@') {
                Some(range) => (range, true),
                None => (range, false),
            };
            let numbers: Vec<u32> = range
                .split('-')
                .map(|number| number.parse().map_err(|_| bad()))
                .collect::<Result<_>>()?;
            let &[inside, outside, size] = &numbers[..] else { return Err(bad()) };
            if size == 0 {
                return Err(bad());
            }
            let ids = IdRange { inside, outside, size };
            maps[place].push(MountIds { ids, is_relative });
        }
    }
    Ok(maps)
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
    fn ids_of_a_mount_are_ranges() {
        let [users, groups] = id_maps("uids=0-1-10#@10-11-20;gids=0-100-10").expect("valid");
        let range = |inside, outside, size, is_relative| MountIds {
            ids: IdRange { inside, outside, size },
            is_relative,
        };
        assert_eq!(users, [range(0, 1, 10, false), range(10, 11, 20, true)]);
        assert_eq!(groups, [range(0, 100, 10, false)]);
        for bad in ["", "uids", "uids=", "uids=0-1", "uids=0-1-0", "uids=0-1-x", "ids=0-1-2"] {
            assert!(id_maps(bad).is_err(), "{bad}");
        }
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
        assert!(parsed.bind && parsed.recursive_bind && parsed.recursive && parsed.spreads);
        assert_eq!(parsed.attributes.propagation, libc::MS_SLAVE);
        let parsed = words("rshared,private");
        assert_eq!((parsed.attributes.propagation, parsed.spreads), (libc::MS_PRIVATE, false));
        assert_eq!(words("ro,rw").attributes, Attributes::default());
    }
}
