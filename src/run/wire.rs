//! Plans as bytes, for dhow to read again: in a memfd across an exec, or in a file beside the
//! record of a running container. Every process reads what the same build wrote; what another
//! one left is told by its first line and not read.
//!
//! Little-endian numbers, lists and strings behind their length, no names: parsing it costs a
//! tenth of what JSON does, and `exec` does little else.

use std::{ffi::CString, path::Path};

use nix::sched::CloneFlags;

use super::plan::{CapabilityMasks, ProcessPlan, Step};
use crate::{
    error::Result,
    state::store::{self, Durability},
    sys::user::{IdMaps, IdRange},
};

/// What another process needs to know of a container that runs, to enter it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Those it does not share with this host.
    pub namespaces: CloneFlags,
    /// Of its user namespace, if it has one.
    pub maps: Option<IdMaps>,
    /// As whom it runs unless something else is asked for, and with which groups besides.
    pub user: String,
    /// See `user`.
    pub group_add: Vec<String>,
    /// Its root is a FUSE mount.
    pub is_fuse: bool,
    /// Its own command's.
    pub process: ProcessPlan,
}

/// The first line: the version, and a number for changes within one.
const MARK: &[u8] = concat!("dhow ", env!("CARGO_PKG_VERSION"), " plan 1\n").as_bytes();

impl Door {
    /// Leaves it where an `exec` finds it.
    pub fn write(&self, path: &Path) -> Result<()> {
        store::write(path, &to_bytes(self), Durability::Renamed)
    }

    /// `None` where there is none, or one that is not this build's.
    pub fn read(path: &Path) -> Option<Self> {
        from_bytes(&std::fs::read(path).ok()?)
    }
}

/// A plan and the step that is to fail, read back as a pair.
pub(super) fn message(plan: &ProcessPlan, fail_at: Option<Step>) -> Vec<u8> {
    let mut bytes = to_bytes(plan);
    fail_at.put(&mut bytes);
    bytes
}

fn to_bytes<T: Wire>(value: &T) -> Vec<u8> {
    let mut bytes = MARK.to_vec();
    value.put(&mut bytes);
    bytes
}

/// All of `bytes` or nothing.
pub(super) fn from_bytes<T: Wire>(bytes: &[u8]) -> Option<T> {
    let mut rest = bytes.strip_prefix(MARK)?;
    T::take(&mut rest).filter(|_| rest.is_empty())
}

pub(super) trait Wire: Sized {
    fn put(&self, bytes: &mut Vec<u8>);
    /// Takes itself off the front.
    fn take(bytes: &mut &[u8]) -> Option<Self>;
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                let (number, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_le_bytes(*number))
            }
        }
    )*};
}
number!(u8, u16, u32, i32, u64);

/// A field that is forgotten here does not compile.
macro_rules! fields {
    ($type:ident { $($field:ident),* }) => {
        impl Wire for $type {
            fn put(&self, bytes: &mut Vec<u8>) {
                $(self.$field.put(bytes);)*
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: Wire::take(bytes)?),* })
            }
        }
    };
}
fields!(IdRange { inside, outside, size });
fields!(IdMaps { uid, gid });
fields!(CapabilityMasks { bounding, effective, permitted, inheritable, ambient });
fields!(ProcessPlan {
    programs,
    argv,
    env,
    cwd,
    uid,
    gid,
    groups,
    umask,
    capabilities,
    no_new_privileges,
    seccomp,
    ownership,
    rlimits,
    oom_score_adj,
    apparmor,
    terminal,
    window,
    keep_groups,
    personality,
    init,
    preserve
});
fields!(Door { namespaces, maps, user, group_add, is_fuse, process });

impl Wire for bool {
    fn put(&self, bytes: &mut Vec<u8>) {
        u8::from(*self).put(bytes);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        match u8::take(bytes)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.is_some().put(bytes);
        if let Some(value) = self {
            value.put(bytes);
        }
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        match bool::take(bytes)? {
            true => T::take(bytes).map(Some),
            false => Some(None),
        }
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, bytes: &mut Vec<u8>) {
        (self.len() as u64).put(bytes);
        self.iter().for_each(|value| value.put(bytes));
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let length = usize::try_from(u64::take(bytes)?).ok()?;
        // Nothing is shorter than a byte: a wrong length cannot ask for more than there is.
        let mut list = Self::with_capacity(length.min(bytes.len()));
        for _ in 0..length {
            list.push(T::take(bytes)?);
        }
        Some(list)
    }
}

impl Wire for CString {
    fn put(&self, bytes: &mut Vec<u8>) {
        (self.as_bytes().len() as u64).put(bytes);
        bytes.extend(self.as_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let length = usize::try_from(u64::take(bytes)?).ok()?;
        let (text, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Self::new(text).ok()
    }
}

impl Wire for String {
    fn put(&self, bytes: &mut Vec<u8>) {
        (self.len() as u64).put(bytes);
        bytes.extend(self.as_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let length = usize::try_from(u64::take(bytes)?).ok()?;
        let (text, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        str::from_utf8(text).map(str::to_owned).ok()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.0.put(bytes);
        self.1.put(bytes);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::take(bytes)?, B::take(bytes)?))
    }
}

impl<A: Wire, B: Wire, C: Wire> Wire for (A, B, C) {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.0.put(bytes);
        self.1.put(bytes);
        self.2.put(bytes);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::take(bytes)?, B::take(bytes)?, C::take(bytes)?))
    }
}

impl Wire for CloneFlags {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.bits().put(bytes);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Self::from_bits(i32::take(bytes)?)
    }
}

impl Wire for Step {
    fn put(&self, bytes: &mut Vec<u8>) {
        (*self as u8).put(bytes);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Self::from_wire(u8::take(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door() -> Door {
        let maps = IdMaps::single(1000, 1001);
        let process = ProcessPlan {
            argv: vec![c"a".into(), c"".into()],
            env: vec![c"K=\xff".into()],
            cwd: c"/".into(),
            groups: vec![7],
            umask: Some(0o22),
            capabilities: CapabilityMasks { bounding: 1 << 40, ..CapabilityMasks::default() },
            seccomp: Some(vec![u64::MAX, 1]),
            rlimits: vec![(7, 1, u64::MAX)],
            oom_score_adj: Some(-5),
            apparmor: Some("x".into()),
            window: (80, 24),
            keep_groups: true,
            ..ProcessPlan::default()
        };
        Door {
            namespaces: CloneFlags::CLONE_NEWPID,
            maps: Some(maps),
            user: "web".into(),
            group_add: vec!["1".into()],
            is_fuse: true,
            process,
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let bytes = to_bytes(&door());
        assert_eq!(from_bytes(&bytes), Some(door()));
        let bytes_of_message = message(&door().process, Some(Step::Exec));
        assert_eq!(from_bytes(&bytes_of_message), Some((door().process, Some(Step::Exec))));
        for cut in 0..bytes.len() {
            assert_eq!(from_bytes::<Door>(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(from_bytes::<Door>(&[&bytes[..], b"x"].concat()), None, "too long");
        let mut foreign = bytes;
        foreign[5] ^= 1;
        assert_eq!(from_bytes::<Door>(&foreign), None, "another version's");
    }

    #[test]
    fn a_length_that_lies_takes_no_memory() {
        let bytes = [MARK, &u64::MAX.to_le_bytes(), b"abc"].concat();
        assert_eq!(from_bytes::<Vec<u8>>(&bytes), None);
        assert_eq!(from_bytes::<String>(&bytes), None);
    }

    #[test]
    fn a_door_that_is_not_there_or_damaged_is_none() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("door");
        assert_eq!(Door::read(&path), None);
        door().write(&path).expect("write");
        assert_eq!(Door::read(&path), Some(door()));
        std::fs::write(&path, "{}").expect("damage");
        assert_eq!(Door::read(&path), None);
    }
}
