//! What the measurements add up to.

use serde::Serialize;

use super::measure::{Outcome, Report, Tried, Whose};

/// The measurements, judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// How far it is apart from the host.
    pub isolation: Isolation,
    /// What docker's defaults would have kept from it, each in a few words.
    pub weak_points: Vec<String>,
}

/// By what a container has at least: processes and files of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Isolation {
    /// Both, as far as can be told. Weak points may remain.
    Isolated,
    /// One of them.
    Partial,
    /// Neither: a plain process.
    None,
}

/// Docker's default bounding set (docker 28): what a container may have without being weak.
const USUAL_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Capabilities that could be gained and are not usual.
pub(super) fn unusual_capabilities(report: &Report) -> Vec<&str> {
    let usual = |name: &str| USUAL_CAPABILITIES.contains(&name);
    report.capabilities.bounding.iter().map(String::as_str).filter(|name| !usual(name)).collect()
}

pub(super) fn judge(report: &Report) -> Verdict {
    let shared = |kind| report.whose(kind) == Whose::Hosts;
    let isolation = match (report.whose("pid"), report.whose("mnt")) {
        // The mount namespace of older kernels can be told from the machine's only by its owner.
        (Whose::Private, Whose::Private | Whose::Unknown) => Isolation::Isolated,
        (Whose::Private, Whose::Hosts) | (_, Whose::Private) => Isolation::Partial,
        (Whose::Hosts | Whose::Unknown, Whose::Hosts | Whose::Unknown) => Isolation::None,
    };
    let mut weak_points = Vec::new();
    let hosts: Vec<_> = ["pid", "mnt", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|kind| shared(kind))
        .collect();
    if !hosts.is_empty() {
        weak_points.push(format!("shares the machine's namespaces: {}", hosts.join(" ")));
    }
    let unusual = unusual_capabilities(report);
    if !unusual.is_empty() {
        weak_points.push(format!("{} capabilities beyond docker's default", unusual.len()));
    }
    if report.seccomp.mode == 0 {
        weak_points.push("no seccomp filter".to_owned());
    }
    let lists = [
        ("dangerous calls allowed", &report.calls),
        ("readable", &report.masked),
        ("writable", &report.read_only),
    ];
    for (weakness, tried) in lists {
        let allowed = allowed(tried);
        if !allowed.is_empty() {
            weak_points.push(format!("{weakness}: {}", allowed.join(" ")));
        }
    }
    if report.devices.iter().any(|device| device.block) {
        weak_points.push("block devices in /dev".to_owned());
    }
    if !report.leaked_descriptors.is_empty() {
        weak_points.push(format!("{} leaked descriptors", report.leaked_descriptors.len()));
    }
    Verdict { isolation, weak_points }
}

pub(super) fn allowed(tried: &[Tried]) -> Vec<&str> {
    tried.iter().filter(|t| t.outcome == Outcome::Allowed).map(|t| t.what.as_str()).collect()
}

impl Verdict {
    /// One line.
    pub fn sentence(&self) -> String {
        let how = match self.isolation {
            Isolation::Isolated => "isolated",
            Isolation::Partial => "only partly isolated",
            Isolation::None => {
                return "not isolated: this is a process of the machine like any other".to_owned();
            }
        };
        match &self.weak_points[..] {
            [] => format!("{how}: everything tried from inside was refused"),
            [point] => format!("{how}, with one weak point: {point}"),
            points => format!("{how}, with {} weak points: {}", points.len(), points.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::measure::{Namespace, Seccomp};

    fn good() -> Report {
        let private = |kind| Namespace { kind, inode: 9, whose: Whose::Private };
        Report {
            namespaces: ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"].map(private).into(),
            seccomp: Seccomp { mode: 2, filters: Some(1) },
            ..Report::default()
        }
    }

    #[test]
    fn a_good_container_has_no_weak_points_and_each_weakness_is_one() {
        assert_eq!(
            judge(&good()),
            Verdict { isolation: Isolation::Isolated, weak_points: Vec::new() }
        );
        let said = |change: fn(&mut Report)| {
            let mut report = good();
            change(&mut report);
            judge(&report).sentence()
        };
        let expect = [
            (said(|r| r.namespaces[3].whose = Whose::Hosts), "namespaces: net"),
            (said(|r| r.capabilities.bounding.push("SYS_ADMIN".into())), "1 capabilities"),
            (said(|r| r.seccomp.mode = 0), "seccomp"),
            (said(|r| r.leaked_descriptors.push("3 -> /".into())), "leaked"),
            (
                said(|r| {
                    let what = "/proc/kcore".to_owned();
                    r.masked.push(Tried { what, outcome: Outcome::Allowed, said: "".into() });
                }),
                "readable: /proc/kcore",
            ),
        ];
        for (sentence, part) in expect {
            assert!(sentence.starts_with("isolated, with one weak point: "), "{sentence}");
            assert!(sentence.contains(part), "{sentence}");
        }
    }

    #[test]
    fn a_plain_process_is_not_isolated() {
        let mut plain = good();
        plain.namespaces[1].whose = Whose::Hosts;
        assert_eq!(judge(&plain).isolation, Isolation::Partial, "it has files of its own");
        plain.namespaces[2].whose = Whose::Hosts;
        assert_eq!(judge(&plain).isolation, Isolation::None);
        assert_eq!(judge(&Report::default()).isolation, Isolation::None, "nothing is known");
    }
}
