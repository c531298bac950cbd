//! Capabilities: their names, the default set, and what `--cap-add` and `--cap-drop` leave.
//!
//! **Invariant:** this module decides; it neither reads nor sets the capabilities of a process.

use std::collections::HashSet;

use crate::{
    error::{Error, Result},
    oci::runtime::Capability,
};

use Capability as C;

/// What a container gets without asking.
///
/// Docker's list, without three, as in podman:
///
/// * `NET_RAW` (forging packets on a shared bridge): `ping` works without it, because
///   `net.ipv4.ping_group_range` lets every group open a ping socket (icmp(7)).
/// * `MKNOD`: a device node made inside is refused by a user namespace in any case, and without
///   one it is the host's disk; the usual nodes are there already, and fifos, sockets and
///   overlay whiteouts (since Linux 5.8) need no capability.
/// * `AUDIT_WRITE` (forging records of the host's audit log): the seccomp profile answers its
///   netlink socket with EINVAL, which PAM, sudo and sshd take for a kernel without audit.
pub const DEFAULT: CapSet = CapSet::of(&[
    C::Chown,
    C::DacOverride,
    C::Fowner,
    C::Fsetid,
    C::Kill,
    C::Setgid,
    C::Setuid,
    C::Setpcap,
    C::NetBindService,
    C::SysChroot,
    C::Setfcap,
]);

/// Every capability with its name, in the order of its number (linux/capability.h).
const ALL: [(&str, Capability); 41] = [
    ("CAP_CHOWN", C::Chown),
    ("CAP_DAC_OVERRIDE", C::DacOverride),
    ("CAP_DAC_READ_SEARCH", C::DacReadSearch),
    ("CAP_FOWNER", C::Fowner),
    ("CAP_FSETID", C::Fsetid),
    ("CAP_KILL", C::Kill),
    ("CAP_SETGID", C::Setgid),
    ("CAP_SETUID", C::Setuid),
    ("CAP_SETPCAP", C::Setpcap),
    ("CAP_LINUX_IMMUTABLE", C::LinuxImmutable),
    ("CAP_NET_BIND_SERVICE", C::NetBindService),
    ("CAP_NET_BROADCAST", C::NetBroadcast),
    ("CAP_NET_ADMIN", C::NetAdmin),
    ("CAP_NET_RAW", C::NetRaw),
    ("CAP_IPC_LOCK", C::IpcLock),
    ("CAP_IPC_OWNER", C::IpcOwner),
    ("CAP_SYS_MODULE", C::SysModule),
    ("CAP_SYS_RAWIO", C::SysRawio),
    ("CAP_SYS_CHROOT", C::SysChroot),
    ("CAP_SYS_PTRACE", C::SysPtrace),
    ("CAP_SYS_PACCT", C::SysPacct),
    ("CAP_SYS_ADMIN", C::SysAdmin),
    ("CAP_SYS_BOOT", C::SysBoot),
    ("CAP_SYS_NICE", C::SysNice),
    ("CAP_SYS_RESOURCE", C::SysResource),
    ("CAP_SYS_TIME", C::SysTime),
    ("CAP_SYS_TTY_CONFIG", C::SysTtyConfig),
    ("CAP_MKNOD", C::Mknod),
    ("CAP_LEASE", C::Lease),
    ("CAP_AUDIT_WRITE", C::AuditWrite),
    ("CAP_AUDIT_CONTROL", C::AuditControl),
    ("CAP_SETFCAP", C::Setfcap),
    ("CAP_MAC_OVERRIDE", C::MacOverride),
    ("CAP_MAC_ADMIN", C::MacAdmin),
    ("CAP_SYSLOG", C::Syslog),
    ("CAP_WAKE_ALARM", C::WakeAlarm),
    ("CAP_BLOCK_SUSPEND", C::BlockSuspend),
    ("CAP_AUDIT_READ", C::AuditRead),
    ("CAP_PERFMON", C::Perfmon),
    ("CAP_BPF", C::Bpf),
    ("CAP_CHECKPOINT_RESTORE", C::CheckpointRestore),
];

/// A set of capabilities, as the bits that capset(2) and `/proc/PID/status` use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapSet(u64);

impl CapSet {
    /// No capability at all.
    pub const EMPTY: Self = Self(0);
    /// Every capability that has a name, up to Linux 6.17.
    pub const ALL: Self = Self((1 << ALL.len()) - 1);

    /// The set of these.
    pub const fn of(caps: &[Capability]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < caps.len() {
            bits |= 1 << number(caps[at]);
            at += 1;
        }
        Self(bits)
    }

    /// The set a kernel mask means; bits without a name are left out.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The mask for the kernel: bit N is the capability of number N.
    pub const fn bits(self) -> u64 {
        self.0
    }

    pub const fn contains(self, cap: Capability) -> bool {
        self.0 & (1 << number(cap)) != 0
    }

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both have; with the host's bounding set, what can be given at all.
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The members in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        ALL.iter().map(|&(_, cap)| cap).filter(move |&cap| self.contains(cap))
    }

    /// The names, `CAP_` included, in the order of their numbers.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.iter().map(name)
    }

    /// The shape `process.capabilities` of the runtime spec wants.
    pub fn to_oci(self) -> HashSet<Capability> {
        self.iter().collect()
    }
}

impl FromIterator<Capability> for CapSet {
    fn from_iter<I: IntoIterator<Item = Capability>>(caps: I) -> Self {
        caps.into_iter().fold(Self::EMPTY, |set, cap| set.union(Self::of(&[cap])))
    }
}

/// The kernel's number (linux/capability.h).
pub const fn number(cap: Capability) -> u8 {
    match cap {
        C::Chown => 0,
        C::DacOverride => 1,
        C::DacReadSearch => 2,
        C::Fowner => 3,
        C::Fsetid => 4,
        C::Kill => 5,
        C::Setgid => 6,
        C::Setuid => 7,
        C::Setpcap => 8,
        C::LinuxImmutable => 9,
        C::NetBindService => 10,
        C::NetBroadcast => 11,
        C::NetAdmin => 12,
        C::NetRaw => 13,
        C::IpcLock => 14,
        C::IpcOwner => 15,
        C::SysModule => 16,
        C::SysRawio => 17,
        C::SysChroot => 18,
        C::SysPtrace => 19,
        C::SysPacct => 20,
        C::SysAdmin => 21,
        C::SysBoot => 22,
        C::SysNice => 23,
        C::SysResource => 24,
        C::SysTime => 25,
        C::SysTtyConfig => 26,
        C::Mknod => 27,
        C::Lease => 28,
        C::AuditWrite => 29,
        C::AuditControl => 30,
        C::Setfcap => 31,
        C::MacOverride => 32,
        C::MacAdmin => 33,
        C::Syslog => 34,
        C::WakeAlarm => 35,
        C::BlockSuspend => 36,
        C::AuditRead => 37,
        C::Perfmon => 38,
        C::Bpf => 39,
        C::CheckpointRestore => 40,
    }
}

/// The name as the specification writes it, `CAP_` included.
pub fn name(cap: Capability) -> &'static str {
    ALL[usize::from(number(cap))].0
}

/// Reads one name, in any case, with or without `CAP_`.
///
/// # Errors
/// An unknown name, with the nearest known one as a hint.
pub fn parse(text: &str) -> Result<Capability> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let known = ALL.iter().find(|(name, _)| &name["CAP_".len()..] == bare);
    known.map(|&(_, cap)| cap).ok_or_else(|| unknown(text, bare))
}

/// What a container has: the default set as changed by `--cap-add` and `--cap-drop`.
///
/// Docker's rules. The order on the command line does not matter. `ALL` added means all but
/// what is dropped by name; `ALL` dropped means only what is added; a capability both added and
/// dropped is there. A privileged container has everything, whatever else is said.
///
/// `ALL` is every capability known here: the caller keeps to what the host can give
/// ([`CapSet::intersect`]).
///
/// # Errors
/// An unknown name, also in a list that would not matter.
pub fn resolve(add: &[String], drop: &[String], privileged: bool) -> Result<CapSet> {
    let (add, drop) = (Named::parse(add)?, Named::parse(drop)?);
    Ok(if privileged {
        CapSet::ALL
    } else if add.all {
        CapSet::ALL.without(drop.caps)
    } else if drop.all {
        add.caps
    } else {
        DEFAULT.without(drop.caps).union(add.caps)
    })
}

/// A list of names, where `ALL` stays apart because it means something else when dropped.
struct Named {
    all: bool,
    caps: CapSet,
}

impl Named {
    fn parse(names: &[String]) -> Result<Self> {
        let is_all = |n: &str| n.eq_ignore_ascii_case("ALL") || n.eq_ignore_ascii_case("CAP_ALL");
        let caps = names.iter().filter(|n| !is_all(n)).map(|n| parse(n)).collect::<Result<_>>()?;
        Ok(Self { all: names.iter().any(|n| is_all(n)), caps })
    }
}

fn unknown(typed: &str, bare: &str) -> Error {
    let err = Error::invalid(format!("unknown capability {typed:?}"));
    let near = ALL.iter().map(|(name, _)| &name["CAP_".len()..]);
    match near.min_by_key(|name| distance(name, bare)) {
        Some(name) if distance(name, bare) <= name.len().div_ceil(3) => {
            err.hint(format!("did you mean {name}?"))
        }
        _ => err.hint("capabilities(7) lists them; ALL means every one"),
    }
}

/// How many characters to insert, delete or replace to turn one into the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    // Nobody's slip is longer than every name, and this takes time in proportion.
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    fn resolved(add: &str, drop: &str) -> CapSet {
        resolve(&list(add), &list(drop), false).expect("known names")
    }

    #[test]
    fn the_table_is_in_the_order_of_the_numbers() {
        for (at, &(name, cap)) in ALL.iter().enumerate() {
            assert_eq!(usize::from(number(cap)), at, "{name}");
            assert_eq!(parse(name).expect("a name"), cap);
            assert_eq!(format!("CAP_{cap}"), name);
        }
        assert_eq!(CapSet::ALL.bits(), 0x1ff_ffff_ffff);
    }

    #[test]
    fn the_default_set_is_what_it_says() {
        // As `CapBnd` of a rootless podman container shows it.
        assert_eq!(DEFAULT.bits(), 0x0000_0000_8004_05fb);
    }

    #[test]
    fn names_are_read_in_every_common_spelling() {
        for text in ["SYS_ADMIN", "sys_admin", "CAP_SYS_ADMIN", "cap_Sys_Admin"] {
            assert_eq!(parse(text).expect("a name"), C::SysAdmin, "{text}");
        }
    }

    #[test]
    fn add_and_drop_follow_docker() {
        let none = CapSet::EMPTY;
        let admin = CapSet::of(&[C::SysAdmin]);
        let chown = CapSet::of(&[C::Chown]);
        for (add, drop, want) in [
            ("", "", DEFAULT),
            ("sys_admin", "", DEFAULT.union(admin)),
            ("", "CHOWN", DEFAULT.without(chown)),
            ("", "ALL", none),
            ("all", "", CapSet::ALL),
            ("ALL", "chown", CapSet::ALL.without(chown)),
            ("sys_admin", "ALL", admin),
            ("ALL", "ALL", CapSet::ALL),
            ("chown", "chown", DEFAULT),
            ("sys_admin", "sys_admin", DEFAULT.union(admin)),
            ("CAP_ALL", "", CapSet::ALL),
        ] {
            assert_eq!(resolved(add, drop), want, "add {add:?} drop {drop:?}");
        }
        assert_eq!(resolve(&[], &list("ALL"), true).expect("valid"), CapSet::ALL);
    }

    #[test]
    fn an_unknown_name_meets_its_neighbour() {
        let err = parse("NET_ADMN").expect_err("no such capability");
        assert_eq!(err.to_string(), "unknown capability \"NET_ADMN\"");
        assert_eq!(err.hint_text(), Some("did you mean NET_ADMIN?"));
        assert_eq!(
            parse("").expect_err("empty").hint_text(),
            parse("frobnicate").expect_err("no").hint_text()
        );
        assert!(resolve(&list("NOPE"), &[], true).is_err(), "checked although it changes nothing");
    }

    #[test]
    fn sets_convert_both_ways() {
        assert_eq!(DEFAULT.iter().collect::<CapSet>(), DEFAULT);
        assert_eq!(DEFAULT.to_oci().into_iter().collect::<CapSet>(), DEFAULT);
        assert_eq!(CapSet::from_bits(u64::MAX), CapSet::ALL);
        assert_eq!(
            CapSet::of(&[C::Bpf, C::Chown]).names().collect::<Vec<_>>(),
            ["CAP_CHOWN", "CAP_BPF"]
        );
    }
}
