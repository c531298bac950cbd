//! `--pid`, `--ipc`, `--uts`, `--cgroupns`, `--network` and `--userns`.

use crate::{
    error::{Error, Result},
    state::{
        ContainerId,
        record::{Mode, UserMode},
    },
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
        _ if text.starts_with("container:") => mode(text, "network"),
        _ => Err(Error::unsupported(format!("network {text:?} is not in this version"))
            .hint("use --network none, host or container:NAME")),
    }
}

fn mode(text: &str, kind: &str) -> Result<TypedMode> {
    match (text, text.strip_prefix("container:")) {
        ("" | "private", _) => Ok(TypedMode::Known(Mode::Private)),
        ("host", _) => Ok(TypedMode::Known(Mode::Host)),
        (_, Some(name)) if !name.is_empty() => Ok(TypedMode::Container(name.to_owned())),
        _ => Err(Error::invalid(format!("invalid {kind} mode {text:?}"))
            .hint("use host, private or container:NAME")),
    }
}

/// `--userns`: `host`, `keep-id[:uid=N,gid=N]`, `nomap`, or nothing for the default.
pub fn user(text: &str) -> Result<UserMode> {
    match text {
        "" => Ok(UserMode::Default),
        "host" => Ok(UserMode::Host),
        "nomap" => Ok(UserMode::Nomap),
        "keep-id" => Ok(UserMode::KeepId { uid: None, gid: None }),
        _ if text == "auto" || text.starts_with("auto:") || text.starts_with("container:") => {
            Err(Error::unsupported(format!("--userns {text} is not in this version"))
                .hint(USER_HINT))
        }
        _ => match text.strip_prefix("keep-id:").map(|options| keep_id(options, text)) {
            Some(kept) => kept,
            None => Err(invalid_user(text)),
        },
    }
}

const USER_HINT: &str = "use host, keep-id, keep-id:uid=N,gid=N or nomap";

fn invalid_user(text: &str) -> Error {
    Error::invalid(format!("invalid USER mode {text:?}")).hint(USER_HINT)
}

fn keep_id(options: &str, text: &str) -> Result<UserMode> {
    let (mut uid, mut gid) = (None, None);
    for option in options.split(',') {
        let (slot, value) = match option.split_once('=') {
            Some(("uid", value)) => (&mut uid, value),
            Some(("gid", value)) => (&mut gid, value),
            _ => return Err(invalid_user(text)),
        };
        // 2^32 - 1 is (uid_t) -1, which no call accepts as an id.
        let id = value.parse::<u32>().ok().filter(|&id| id != u32::MAX);
        if slot.is_some() || id.is_none() {
            return Err(invalid_user(text));
        }
        *slot = id;
    }
    Ok(UserMode::KeepId { uid, gid })
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
        for later in ["bridge", "private", "mynet", ""] {
            let err = network(later).expect_err(later);
            assert_eq!(err.kind(), crate::error::Kind::Unsupported);
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
        let keep = |uid, gid| Some(UserMode::KeepId { uid, gid });
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
        assert_eq!(user("auto").expect_err("later").kind(), crate::error::Kind::Unsupported);
    }
}
