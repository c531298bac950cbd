//! `--pid`, `--ipc`, `--uts`, `--cgroupns`, `--network` and `--userns`.

use std::path::Path;

use crate::{
    engine::container::userns::TypedMap,
    error::{Error, Result},
    state::{
        ContainerId,
        record::{AutoIds, Mode, UserMode},
    },
    sys::user::IdRange,
};

/// A namespace mode as typed: a [`Mode`] whose container has not been looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypedMode {
    Known(Mode),
    /// `container:NAME`, a name or the beginning of an id.
    Container(String),
}

impl TypedMode {
    /// The mode, with the container found by `lookup`.
    pub fn resolve(self, lookup: impl FnOnce(&str) -> Result<ContainerId>) -> Result<Mode> {
        match self {
            Self::Known(mode) => Ok(mode),
            Self::Container(name) => Ok(Mode::Container(lookup(&name)?)),
        }
    }
}

/// `--pid`.
pub fn pid(text: &str) -> Result<TypedMode> {
    mode(text, "PID")
}

/// `--ipc`. Every IPC namespace of ours may be joined, which docker calls `shareable`.
pub fn ipc(text: &str) -> Result<TypedMode> {
    match text {
        "shareable" => Ok(TypedMode::Known(Mode::Private)),
        "none" => Err(Error::unsupported("--ipc none is not in this version")
            .hint("use private; its /dev/shm can be made small with --shm-size")),
        _ => mode(text, "IPC"),
    }
}

/// `--uts`.
pub fn uts(text: &str) -> Result<TypedMode> {
    mode(text, "UTS")
}

/// `--cgroupns`.
pub fn cgroup(text: &str) -> Result<TypedMode> {
    mode(text, "CGROUP")
}

/// A `--network` that is a mode: the host's, another container's, or nothing but loopback.
pub fn network(text: &str) -> Result<TypedMode> {
    match text {
        "none" => Ok(TypedMode::Known(Mode::None)),
        "host" => Ok(TypedMode::Known(Mode::Host)),
        _ => mode(text, "network"),
    }
}

fn mode(text: &str, kind: &str) -> Result<TypedMode> {
    match (text, text.strip_prefix("container:")) {
        ("" | "private", _) => Ok(TypedMode::Known(Mode::Private)),
        ("host", _) => Ok(TypedMode::Known(Mode::Host)),
        (_, Some(name)) if !name.is_empty() => Ok(TypedMode::Container(name.to_owned())),
        _ => match text.strip_prefix("ns:").map(Path::new) {
            Some(path) if path.is_absolute() => Ok(TypedMode::Known(Mode::Path(path.to_owned()))),
            _ => Err(Error::invalid(format!("invalid {kind} mode {text:?}"))
                .hint("use host, private, container:NAME or ns:/PATH")),
        },
    }
}

/// `--userns`: a mode, or nothing for the default. Another container is looked up by `lookup`.
pub fn user(text: &str, lookup: impl FnOnce(&str) -> Result<ContainerId>) -> Result<UserMode> {
    let (word, options) = match text.split_once(':') {
        Some((word, options)) => (word, Some(options)),
        None => (text, None),
    };
    match (word, options) {
        ("", None) => Ok(UserMode::Default),
        ("host", None) => Ok(UserMode::Host),
        ("nomap", None) => Ok(UserMode::Nomap),
        ("keep-id", options) => keep_id(options, text),
        ("auto", options) => auto(options, text),
        ("container", Some(name)) if !name.is_empty() => Ok(UserMode::Container(lookup(name)?)),
        ("ns", Some(path)) if path.starts_with('/') => Ok(UserMode::Path(path.into())),
        _ => Err(invalid_user(text)),
    }
}

const USER_HINT: &str = "use host, keep-id[:uid=N,gid=N,size=N], auto[:size=N,uidmapping=C:H:N,gidmapping=C:H:N], nomap, container:NAME or ns:PATH";

fn invalid_user(text: &str) -> Error {
    Error::invalid(format!("invalid USER mode {text:?}")).hint(USER_HINT)
}

fn keep_id(options: Option<&str>, text: &str) -> Result<UserMode> {
    let (mut uid, mut gid, mut size) = (None, None, None);
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        let (slot, value) = match option.split_once('=') {
            Some(("uid", value)) => (&mut uid, value),
            Some(("gid", value)) => (&mut gid, value),
            Some(("size", value)) => (&mut size, value),
            _ => return Err(invalid_user(text)),
        };
        if slot.is_some() {
            return Err(invalid_user(text));
        }
        *slot = Some(id(value).ok_or_else(|| invalid_user(text))?);
    }
    match size {
        Some(0) => Err(invalid_user(text)),
        size => Ok(UserMode::KeepId { uid, gid, size }),
    }
}

/// 2^32 - 1 is (uid_t) -1, which no call accepts as an id.
fn id(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|&id| id != u32::MAX && !text.starts_with('+'))
}

fn auto(options: Option<&str>, text: &str) -> Result<UserMode> {
    let mut ids = AutoIds::default();
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        let invalid = || invalid_user(text);
        let (name, value) = option.split_once('=').ok_or_else(invalid)?;
        match name {
            "size" if ids.size.is_none() => {
                let size = id(value).filter(|size| *size > 0);
                ids.size = Some(size.ok_or_else(invalid)?);
            }
            "uidmapping" => ids.uid.push(range(value).ok_or_else(invalid)?),
            "gidmapping" => ids.gid.push(range(value).ok_or_else(invalid)?),
            _ => return Err(invalid()),
        }
    }
    Ok(UserMode::Auto(ids))
}

/// `INSIDE:FROM[:SIZE]`, of which neither end passes the last id.
fn range(text: &str) -> Option<IdRange> {
    let mut parts = text.split(':').map(id);
    let (inside, outside) = (parts.next()??, parts.next()??);
    let size = parts.next().unwrap_or(Some(1))?;
    let ends = inside.checked_add(size).is_some() && outside.checked_add(size).is_some();
    (size > 0 && ends && parts.next().is_none()).then_some(IdRange { inside, outside, size })
}

/// `--uidmap` and `--gidmap`: `[FLAGS]INSIDE:[@]FROM[:SIZE]`.
pub fn id_map(text: &str) -> Result<TypedMap> {
    let flags = text.len() - text.trim_start_matches(['+', 'u', 'g']).len();
    let (flags, rest) = text.split_at(flags);
    let is_hosts = rest.contains(":@");
    let range = range(&rest.replacen(":@", ":", 1)).ok_or_else(|| {
        Error::invalid(format!("invalid id mapping {text:?}")).hint(
            "write INSIDE:FROM:SIZE; FROM counts 0 for you and the subordinate ids on, @FROM is the host's id, and + before it changes the usual map",
        )
    })?;
    Ok(TypedMap {
        changes: flags.contains('+'),
        only_users: flags.contains('u') && !flags.contains('g'),
        only_groups: flags.contains('g') && !flags.contains('u'),
        inside: range.inside,
        from: range.outside,
        is_hosts,
        size: range.size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_dockers() {
        assert_eq!(pid("host").ok(), Some(TypedMode::Known(Mode::Host)));
        assert_eq!(ipc("shareable").ok(), Some(TypedMode::Known(Mode::Private)));
        assert_eq!(uts("").ok(), Some(TypedMode::Known(Mode::Private)));
        assert_eq!(network("none").ok(), Some(TypedMode::Known(Mode::None)));
        assert_eq!(cgroup("container:a").ok(), Some(TypedMode::Container("a".into())));
        let err = pid("foo").expect_err("no such mode");
        assert_eq!(err.to_string(), "invalid PID mode \"foo\"");
        for bad in ["container:", "none", "Host"] {
            assert!(pid(bad).is_err(), "{bad}");
        }
        let path = TypedMode::Known(Mode::Path("/run/netns/a".into()));
        assert_eq!(network("ns:/run/netns/a").ok(), Some(path));
        for bad in ["bridge", "ns:", "ns:a"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_container_is_looked_up_once_it_can_be() {
        let id = ContainerId::random().expect("urandom");
        let found = TypedMode::Container("web".into()).resolve(|name| {
            assert_eq!(name, "web");
            Ok(id.clone())
        });
        assert_eq!(found.ok(), Some(Mode::Container(id)));
        let missing = TypedMode::Container("web".into())
            .resolve(|name| Err(Error::not_found(format!("no such container: {name}"))));
        assert!(missing.is_err());
    }

    #[test]
    fn user_modes_are_podmans() {
        let keep = |uid, gid| Some(UserMode::KeepId { uid, gid, size: None });
        let user = |text: &str| user(text, |_| Err(Error::not_found("no such container")));
        assert_eq!(user("").ok(), Some(UserMode::Default));
        assert_eq!(user("nomap").ok(), Some(UserMode::Nomap));
        assert_eq!(user("keep-id").ok(), keep(None, None));
        assert_eq!(user("keep-id:uid=5,gid=6").ok(), keep(Some(5), Some(6)));
        assert_eq!(user("keep-id:gid=6").ok(), keep(None, Some(6)));
        for bad in
            ["x", "keep-id:", "keep-id:uid=", "keep-id:uid=1,uid=2", "keep-id:uid=4294967295"]
        {
            assert!(user(bad).is_err(), "{bad}");
        }
        let one = |inside, outside, size| vec![IdRange { inside, outside, size }];
        let ids = AutoIds { size: Some(9), uid: one(0, 1, 1), gid: one(5, 6, 7) };
        let text = "auto:size=9,uidmapping=0:1:1,gidmapping=5:6:7";
        assert_eq!(user(text).ok(), Some(UserMode::Auto(ids)));
        assert_eq!(user("ns:/proc/1/ns/user").ok(), Some(UserMode::Path("/proc/1/ns/user".into())));
        for bad in [
            "auto:",
            "auto:size=0",
            "auto:uidmapping=0",
            "ns:",
            "ns:x",
            "container:",
            "container:x",
        ] {
            assert!(user(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn id_maps_are_podmans() {
        let plain = TypedMap { inside: 0, from: 1, size: 10, ..TypedMap::default() };
        assert_eq!(id_map("0:1:10").ok(), Some(plain));
        let hosts = TypedMap { is_hosts: true, changes: true, only_users: true, ..plain };
        assert_eq!(id_map("+u0:@1:10").ok(), Some(hosts));
        assert_eq!(id_map("ug3:4").ok().map(|map| (map.size, map.only_users)), Some((1, false)));
        for bad in ["", "0", "0:1:0", "a:1:1", "0:1:1:1", "-1:0:1", "0:4294967294:9", "0:@@1:1"] {
            assert!(id_map(bad).is_err(), "{bad}");
        }
    }
}
