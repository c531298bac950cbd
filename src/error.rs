//! How dhow fails: one error that says what was tried, on what, why, and what to do next.
//!
//! Modules whose reasons have parts (a parser's column, a launch step and its errno) define a
//! leaf type of their own and turn it into this one at their edge. Nothing here prints.

use std::{fmt, io, path::Path};

use nix::errno::Errno;

/// What a program may branch on. One table turns it into an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// The thing named does not exist.
    NotFound,
    /// The thing exists already, or is in a state that forbids the request.
    Conflict,
    /// What was typed, or what was read, cannot mean anything.
    Invalid,
    /// Understood, but this host or this version cannot do it.
    Unsupported,
    /// A remote side refused the credentials, or wants some.
    Unauthorized,
    /// The container's command does not exist.
    NoCommand,
    /// The container's command exists and cannot be run.
    NotRunnable,
    /// Everything else: the kernel, the disk, the network.
    Engine,
}

impl Kind {
    /// Docker's convention (docker run reference, "Exit status").
    ///
    /// `run`, `create`, `start` and `exec` exit with this; other verbs exit with 1 on any error.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::NoCommand => 127,
            Self::NotRunnable => 126,
            Self::NotFound
            | Self::Conflict
            | Self::Invalid
            | Self::Unsupported
            | Self::Unauthorized
            | Self::Engine => 125,
        }
    }
}

/// An error ready to be shown: a chain of context, outermost first, and perhaps a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    said: Vec<String>,
    hint: Option<String>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, said: impl Into<String>) -> Self {
        Self { kind, said: vec![said.into()], hint: None }
    }

    pub fn engine(said: impl Into<String>) -> Self {
        Self::new(Kind::Engine, said)
    }

    pub fn invalid(said: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, said)
    }

    pub fn not_found(said: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, said)
    }

    pub fn conflict(said: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, said)
    }

    pub fn unsupported(said: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, said)
    }

    /// Adds what the user can do about it. The innermost hint wins: it knows most.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Says what was being done when this happened.
    #[must_use]
    pub fn context(mut self, doing: impl Into<String>) -> Self {
        self.said.insert(0, doing.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said.join(": "))
    }
}

impl std::error::Error for Error {}

/// The system's words for an errno, without the number Rust appends.
pub fn describe(err: &io::Error) -> String {
    match err.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => err.to_string(),
    }
}

impl From<io::Error> for Error {
    fn from(err: io::Error) -> Self {
        // One of ours that came through a reader or writer keeps its kind and hint.
        let err = match err.downcast::<Self>() {
            Ok(ours) => return ours,
            Err(other) => other,
        };
        let absent = err.kind() == io::ErrorKind::NotFound;
        let kind = if absent { Kind::NotFound } else { Kind::Engine };
        let error = Self::new(kind, describe(&err));
        // By kind: tempfile wraps the errno away when it adds a path.
        if matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return error.hint("free space on this file system, or move the store with --root");
        }
        if err.kind() == io::ErrorKind::ReadOnlyFilesystem {
            return error.hint("this file system is read-only; move the store with --root");
        }
        error
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<serde_json::Error> for Error {
    fn from(err: serde_json::Error) -> Self {
        Self::invalid(err.to_string())
    }
}

/// Adds what was being done to any failure.
pub trait Context<T> {
    /// `.doing("create the pipe")?`
    fn doing(self, what: impl Into<String>) -> Result<T>;
    /// `.doing_with(|| format!(...))?`, for text that costs something to make.
    fn doing_with<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
    /// `.at(&path)?`: an I/O error knows its path.
    fn at(self, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|err| err.into().context(what))
    }

    fn doing_with<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|err| err.into().context(what()))
    }

    fn at(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|err| err.into().context(path.as_ref().display().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_reads_outermost_first() {
        let missing: io::Result<()> = Err(io::Error::from_raw_os_error(libc::ENOENT));
        let err = missing.at("/x/container.json").doing("start web").expect_err("it is an error");
        assert_eq!(err.to_string(), "start web: /x/container.json: No such file or directory");
        assert_eq!(err.kind(), Kind::NotFound);
    }

    #[test]
    fn a_file_system_that_takes_no_more_has_a_hint() {
        let hint = |errno| {
            let plain = io::Error::from_raw_os_error(errno);
            let wrapped = io::Error::new(plain.kind(), "at path x");
            assert_eq!(Error::from(wrapped).hint, Error::from(plain).hint);
            Error::from(io::Error::from_raw_os_error(errno)).hint.unwrap_or_default()
        };
        assert!(hint(libc::ENOSPC).contains("free space"));
        assert!(hint(libc::EDQUOT).contains("free space"));
        assert!(hint(libc::EROFS).contains("read-only"));
        assert_eq!(hint(libc::EACCES), "");
    }

    #[test]
    fn an_error_of_ours_comes_whole_through_io() {
        let ours = Error::invalid("bad").hint("mend it");
        let through: Result<()> = Err(io::Error::other(ours.clone())).doing("read");
        assert_eq!(through, Err(ours.context("read")));
    }

    #[test]
    fn the_innermost_hint_wins() {
        let err = Error::engine("a").hint("inner").context("b").hint("outer");
        assert_eq!(err.hint_text(), Some("inner"));
    }
}
