//! The report as aligned text.

use std::fmt::Write as _;

use super::{
    Verdict,
    measure::{Cgroup, Namespace, Outcome, Report, Tried, User, Whose},
    verdict,
};
use crate::sys::user::IdRange;

pub(super) fn render(report: &Report, verdict: &Verdict) -> String {
    let mut page = Page::default();
    page.title("Hello from dhow! What this process can find out about itself, from inside:");
    users(&mut page, report);
    kernel_s_view(&mut page, report);
    privileges(&mut page, report);
    files(&mut page, report);
    resources(&mut page, report);
    page.gap();
    page.row("verdict", &verdict.sentence());
    page.0
}

/// Rows of a label and a value, wrapped.
#[derive(Default)]
struct Page(String);

/// Where values begin, and how wide they may be: 80 columns in all.
const INDENT: usize = 16;
const WIDTH: usize = 64;

impl Page {
    fn title(&mut self, text: &str) {
        let _ = writeln!(self.0, "{text}");
        self.gap();
    }

    fn gap(&mut self) {
        self.0.push('\n');
    }

    /// Names, labels and paths are not ours: whatever could steer a terminal is replaced.
    fn row(&mut self, label: &str, value: &str) {
        let value: String =
            value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let mut label = label;
        for line in wrap(&value) {
            let _ = writeln!(self.0, "{label:<INDENT$}{line}");
            label = "";
        }
    }
}

/// At blanks only: a long path stays whole.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn users(page: &mut Page, report: &Report) {
    let user = &report.user;
    let groups: Vec<_> = user.groups.iter().map(u32::to_string).collect();
    let groups = if groups.is_empty() { "none".to_owned() } else { groups.join(" ") };
    page.row("user", &format!("uid {}, gid {}, further groups {groups}", user.uid, user.gid));
    page.row("uid map", &id_map(&user.uid_map));
    page.row("gid map", &id_map(&user.gid_map));
    page.row("", &in_words(user));
}

fn id_map(map: &[IdRange]) -> String {
    let range = |r: &IdRange| match r.size {
        1 => format!("{} is {}", r.inside, r.outside),
        size => {
            let last = |first: u32| u64::from(first) + u64::from(size) - 1;
            format!("{}-{} are {}-{}", r.inside, last(r.inside), r.outside, last(r.outside))
        }
    };
    match map.is_empty() {
        true => "none".to_owned(),
        false => map.iter().map(range).collect::<Vec<_>>().join(", "),
    }
}

fn in_words(user: &User) -> String {
    let who = if user.uid == 0 { "root here".to_owned() } else { format!("uid {} here", user.uid) };
    match user.uid_outside() {
        _ if user.is_unmapped() && user.uid == 0 => format!("{who} is root outside"),
        _ if user.is_unmapped() => format!("{who} is the same user outside"),
        Some(outside) => format!("{who} is uid {outside} outside"),
        None => format!("{who} is nobody outside"),
    }
}

fn kernel_s_view(page: &mut Page, report: &Report) {
    let kinds = |whose: Whose| -> String {
        let of = report.namespaces.iter().filter(|namespace| namespace.whose == whose);
        of.map(|&Namespace { kind, .. }| kind).collect::<Vec<_>>().join(" ")
    };
    page.gap();
    let rows =
        [("its own", Whose::Private), ("the machine's", Whose::Hosts), ("unknown", Whose::Unknown)];
    let mut label = "namespaces";
    for (words, whose) in rows {
        let kinds = kinds(whose);
        if !kinds.is_empty() {
            page.row(label, &format!("{words}: {kinds}"));
            label = "";
        }
    }
    let pid = report.pid.map_or_else(|| "of unknown number".to_owned(), |pid| format!("{pid}"));
    let visible = report.visible_processes;
    page.row("processes", &format!("this is process {pid}; {visible} visible in all"));
    page.row("hostname", &report.hostname);
    let interfaces = match report.network.interfaces.is_empty() {
        true => "no interfaces".to_owned(),
        false => report.network.interfaces.join(" "),
    };
    let out = match &report.network.route_out {
        Some(interface) => format!("a route out through {interface}"),
        None => "no route out".to_owned(),
    };
    page.row("network", &format!("{interfaces}; {out}"));
}

fn privileges(page: &mut Page, report: &Report) {
    let caps = &report.capabilities;
    let names = |names: &[String]| match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(" "),
    };
    page.gap();
    page.row("capabilities", &format!("effective: {}", names(&caps.effective)));
    let others = [
        ("permitted", &caps.permitted, &caps.effective),
        ("bounding", &caps.bounding, &caps.effective),
    ];
    for (set, have, same_as) in others {
        let told = if have == same_as { "the same".to_owned() } else { names(have) };
        page.row("", &format!("{set}: {told}"));
    }
    page.row("", &format!("inheritable: {}", names(&caps.inheritable)));
    page.row("", &format!("ambient: {}", names(&caps.ambient)));
    let unusual = verdict::unusual_capabilities(report);
    let unusual = match unusual.len() {
        0 => "nothing".to_owned(),
        n => format!("{n} capabilities"),
    };
    page.row("", &format!("beyond docker's default: {unusual}"));
    let filters = match (report.seccomp.mode, report.seccomp.filters) {
        (0, _) => "no filter".to_owned(),
        (1, _) => "strict".to_owned(),
        (_, Some(1)) => "1 filter".to_owned(),
        (_, Some(n)) => format!("{n} filters"),
        (_, None) => "filtered".to_owned(),
    };
    page.row("seccomp", &filters);
    page.row(
        "new privileges",
        if report.no_new_privileges { "never" } else { "by setuid programs" },
    );
    page.row("security label", report.label.as_deref().unwrap_or("none"));
    let mut label = "tried to call";
    for tried in &report.calls {
        page.row(label, &format!("{:<18} {}", tried.what, result(tried)));
        label = "";
    }
}

fn files(page: &mut Page, report: &Report) {
    page.gap();
    let root = match &report.root_mount {
        Some(root) => format!("{} ({})", root.kind, root.options),
        None => "unknown".to_owned(),
    };
    page.row("root", &format!("{root}; {} mounts in all", report.mounts));
    page.row("hidden", &summary(&report.masked, "readable"));
    page.row("read-only", &summary(&report.read_only, "writable"));
    let devices: Vec<_> = report
        .devices
        .iter()
        .map(|d| if d.block { format!("{} (block)", d.name) } else { d.name.clone() })
        .collect();
    // A machine's own /dev holds hundreds.
    let devices = match devices.len() {
        n @ 25.. => format!("{n}, among them {}", devices[..12].join(" ")),
        0 => "none".to_owned(),
        _ => devices.join(" "),
    };
    page.row("devices", &devices);
    let leaked = match report.leaked_descriptors.is_empty() {
        true => "none".to_owned(),
        false => report.leaked_descriptors.join(", "),
    };
    page.row("open files", &format!("beyond 0, 1 and 2: {leaked}"));
}

/// `9 of 12 protected, 3 absent`, and which were not.
fn summary(tried: &[Tried], allowed_word: &str) -> String {
    let count = |outcome| tried.iter().filter(|t| t.outcome == outcome).count();
    let mut text = format!(
        "{} of {} places protected, {} absent",
        count(Outcome::Refused),
        tried.len(),
        count(Outcome::Absent)
    );
    let allowed = verdict::allowed(tried);
    if !allowed.is_empty() {
        let _ = write!(text, "; {allowed_word}: {}", allowed.join(" "));
    }
    text
}

fn result(tried: &Tried) -> String {
    match tried.outcome {
        Outcome::Refused => format!("refused: {}", tried.said),
        Outcome::Allowed => format!("ALLOWED: {}", tried.said),
        Outcome::Absent => "not in this kernel".to_owned(),
        Outcome::Unknown => format!("could not be tried: {}", tried.said),
    }
}

fn resources(page: &mut Page, report: &Report) {
    page.gap();
    let Cgroup { path, memory_max, cpu_max, pids_max } = &report.cgroup;
    page.row("cgroup", path.as_deref().unwrap_or("none in the v2 tree"));
    let limits: Vec<_> = [("memory", memory_max), ("cpu", cpu_max), ("pids", pids_max)]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}.max {}", value.as_ref()?)))
        .collect();
    let limits = match limits.is_empty() {
        true => "no limits to be seen".to_owned(),
        false => limits.join(", "),
    };
    page.row("", &limits);
    let rlimits: Vec<_> =
        report.limits.iter().map(|l| format!("{} {}/{}", l.name, l.soft, l.hard)).collect();
    page.row("resource limits", &rlimits.join(", "));
    page.row("umask", &report.umask);
    page.row("environment", &report.environment.join(" "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_wrap_below_their_label() {
        let mut page = Page::default();
        page.row("label", &"word ".repeat(14));
        let lines: Vec<_> = page.0.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("label           word word"));
        assert!(lines[1].starts_with("                word"));
    }

    #[test]
    fn a_hostile_hostname_cannot_steer_the_terminal() {
        let report = Report { hostname: "a\u{1b}[2Jb\nc".into(), ..Report::default() };
        let text = render(&report, &verdict::judge(&report));
        assert!(text.contains("a\u{fffd}[2Jb\u{fffd}c"), "{text}");
    }

    #[test]
    fn maps_are_told_in_words() {
        let mut user = User {
            uid_map: vec![
                IdRange { inside: 0, outside: 1000, size: 1 },
                IdRange { inside: 1, outside: 100_000, size: 65_536 },
            ],
            ..User::default()
        };
        assert_eq!(id_map(&user.uid_map), "0 is 1000, 1-65536 are 100000-165535");
        assert_eq!(in_words(&user), "root here is uid 1000 outside");
        user.uid = 70_000;
        assert_eq!(in_words(&user), "uid 70000 here is nobody outside");
        user.uid_map = vec![IdRange { inside: 0, outside: 0, size: u32::MAX }];
        assert_eq!(in_words(&user), "uid 70000 here is the same user outside");
    }
}
