//! Users, id mappings, and who may write them.

use std::{
    fmt::Write as _,
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Stdio},
};

use nix::{
    fcntl::OFlag,
    sched::CloneFlags,
    unistd::{Pid, Uid},
};
use serde::{Deserialize, Serialize};

use super::process::{Birth, Side, SingleThreaded, clone3};
use crate::error::{Context as _, Error, Result};

/// One line of a `uid_map` or `gid_map` (user_namespaces(7), "User and group ID mappings").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub size: u32,
}

/// The mappings of one user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    pub uid: Vec<IdRange>,
    pub gid: Vec<IdRange>,
}

impl IdMaps {
    /// The caller's own ids alone, as root inside: what every user may have.
    pub fn single(uid: u32, gid: u32) -> Self {
        let one = |outside| vec![IdRange { inside: 0, outside, size: 1 }];
        Self { uid: one(uid), gid: one(gid) }
    }

    /// Every id as itself: what the initial user namespace has.
    pub fn identity() -> Self {
        let all = || vec![IdRange { inside: 0, outside: 0, size: u32::MAX }];
        Self { uid: all(), gid: all() }
    }

    /// Whether only one id of each kind is mapped.
    pub fn is_single(&self) -> bool {
        let count = |ranges: &[IdRange]| ranges.iter().map(|r| u64::from(r.size)).sum::<u64>();
        count(&self.uid) <= 1 || count(&self.gid) <= 1
    }

    /// The host's id for `inside`.
    pub fn uid_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.uid, inside)
    }

    pub fn gid_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.gid, inside)
    }

    /// The id inside for the host's `outside`.
    pub fn uid_inside(&self, outside: u32) -> Option<u32> {
        inside(&self.uid, outside, 1)
    }

    pub fn gid_inside(&self, outside: u32) -> Option<u32> {
        inside(&self.gid, outside, 1)
    }

    /// The host's ids of these maps as they are numbered inside `namespace`, which has them all.
    /// `None` if it lacks some.
    pub fn within(&self, namespace: &Self) -> Option<Self> {
        let ids = |ranges: &[IdRange], all: &[IdRange]| -> Option<Vec<IdRange>> {
            let range = |range: &IdRange| {
                Some(IdRange { outside: inside(all, range.outside, range.size)?, ..*range })
            };
            ranges.iter().map(range).collect()
        };
        Some(Self { uid: ids(&self.uid, &namespace.uid)?, gid: ids(&self.gid, &namespace.gid)? })
    }

    /// Writes the maps of the process `pid`, which must be in a user namespace that has none.
    ///
    /// Root writes them directly; so may anyone who maps nothing but themselves, if setgroups
    /// is denied first (user_namespaces(7), "Defining user and group ID mappings"). Other maps
    /// go through `newuidmap` and `newgidmap`, both at once.
    pub fn write(&self, pid: Pid) -> Result<()> {
        self.begin_to_write(pid)?.finish()
    }

    /// As [`write`](Self::write), which goes on while the caller does something else.
    pub fn begin_to_write(&self, pid: Pid) -> Result<Writing> {
        let is_root = Uid::effective().is_root();
        if is_root || self.maps_only_the_caller() {
            self.write_directly(pid, !is_root)?;
            return Ok(Writing { helpers: None });
        }
        let uid = start_helper("newuidmap", pid, &self.uid)?;
        let gid = start_helper("newgidmap", pid, &self.gid)?;
        Ok(Writing { helpers: Some((uid, gid)) })
    }

    /// A user namespace with these maps and nobody in it, made by a process that ends at once.
    pub fn namespace(&self, alone: &SingleThreaded) -> Result<OwnedFd> {
        let (wait, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC).doing("create a pipe")?;
        let birth = Birth::into_namespaces(CloneFlags::CLONE_NEWUSER);
        match clone3(&birth, alone).doing("make a user namespace")? {
            Side::Child(new) => new.run(|| {
                // It lasts until the namespace is open, or whoever wants it is gone.
                drop(ours);
                let _ = nix::unistd::read(&wait, &mut [0]);
                Err(())
            }),
            // The child is killed and waited for in the end.
            Side::Parent(child) => {
                self.write(child.pid())?;
                let path = format!("/proc/{}/ns/user", child.pid());
                Ok(fs::File::open(&path).at(&path)?.into())
            }
        }
    }

    fn maps_only_the_caller(&self) -> bool {
        let me = (Uid::effective().as_raw(), nix::unistd::Gid::effective().as_raw());
        matches!((&self.uid[..], &self.gid[..]), ([u], [g])
            if (u.outside, g.outside) == me && u.size == 1 && g.size == 1)
    }

    fn write_directly(&self, pid: Pid, deny_setgroups: bool) -> Result<()> {
        let write = |file: &str, text: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::write(&path, text).at(&path).doing("write")
        };
        if deny_setgroups {
            write("setgroups", "deny")?;
        }
        write("uid_map", &lines(&self.uid))?;
        write("gid_map", &lines(&self.gid))
    }
}

/// Maps that are being written.
#[derive(Debug)]
#[must_use]
pub struct Writing {
    /// `newuidmap` and `newgidmap`, if it takes them.
    helpers: Option<(std::process::Child, std::process::Child)>,
}

impl Writing {
    /// Returns once both maps are there.
    pub fn finish(self) -> Result<()> {
        let Some((uid, gid)) = self.helpers else { return Ok(()) };
        finish_helper("newuidmap", uid)?;
        finish_helper("newgidmap", gid)
    }
}

fn outside(ranges: &[IdRange], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.size).then(|| range.outside + offset)
    })
}

/// What the `size` ids of the host's from `outside` on are called inside, if one range has them.
fn inside(ranges: &[IdRange], outside: u32, size: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = outside.checked_sub(range.outside)?;
        (u64::from(offset) + u64::from(size) <= u64::from(range.size))
            .then(|| range.inside + offset)
    })
}

fn lines(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for range in ranges {
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.size);
    }
    text
}

fn start_helper(program: &str, pid: Pid, ranges: &[IdRange]) -> Result<std::process::Child> {
    let mut command = Command::new(find_helper(program)?);
    command.arg(pid.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for range in ranges {
        command.args([range.inside, range.outside, range.size].map(|n| n.to_string()));
    }
    command.spawn().doing_with(|| format!("run {program}"))
}

fn finish_helper(program: &str, child: std::process::Child) -> Result<()> {
    let output = child.wait_with_output().doing_with(|| format!("run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::engine(format!("{program}: {}", said.trim()))
        .hint("`dhow doctor` compares /etc/subuid and /etc/subgid with what is needed"))
}

/// `newuidmap` and `newgidmap` are setuid programs: only the system's own directories count,
/// not whatever PATH says.
fn find_helper(program: &str) -> Result<PathBuf> {
    ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/run/wrappers/bin"]
        .iter()
        .map(|dir| PathBuf::from(dir).join(program))
        .find(|path| path.exists())
        .ok_or_else(|| {
            Error::unsupported(format!("{program} is not installed")).hint(
                "install it: apt-get install uidmap (Debian), dnf install shadow-utils (Fedora)",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_through_ranges() {
        let maps = IdMaps {
            uid: vec![
                IdRange { inside: 0, outside: 1000, size: 1 },
                IdRange { inside: 1, outside: 100_000, size: 65_536 },
            ],
            gid: vec![IdRange { inside: 0, outside: 1000, size: 1 }],
        };
        assert_eq!(maps.uid_outside(0), Some(1000));
        assert_eq!(maps.uid_outside(33), Some(100_032));
        assert_eq!(maps.uid_outside(70_000), None);
        assert_eq!(maps.gid_outside(1), None);
        assert!(maps.is_single());
        assert_eq!(lines(&maps.uid), "0 1000 1\n1 100000 65536\n");

        let range = |inside, outside, size| IdRange { inside, outside, size };
        let gid = maps.gid.clone();
        let kept = IdMaps { uid: vec![range(0, 100_000, 5), range(5, 1000, 1)], gid };
        let within = kept.within(&maps).expect("it has them all");
        assert_eq!(within.uid, [range(0, 1, 5), range(5, 0, 1)]);
        let beyond = IdMaps { uid: vec![range(0, 165_536, 2)], ..IdMaps::default() };
        assert_eq!(beyond.within(&maps), None);
    }
}
