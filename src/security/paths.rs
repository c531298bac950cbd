//! Paths of `/proc` and `/sys` that a container may not see, or not write.
//!
//! **Invariant:** this module decides; whoever mounts must resolve these inside the rootfs, and
//! must check that what it mounts over is what it meant (CVE-2025-31133).

use crate::error::{Error, Result};

/// Hidden by default: an empty directory or `/dev/null` lies over each that exists.
///
/// The union of docker's and podman's lists: what leaks the host's memory, keys, timers and
/// hardware, or lets a container measure its neighbours (`powercap`: CVE-2020-8694).
pub const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Read-only by default: what would configure the host's kernel.
///
/// Docker's list. Podman's also has `/proc/asound`, which is hidden already.
pub const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a container's paths come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    pub masked: Vec<String>,
    pub read_only: Vec<String>,
}

/// The default lists, changed by `--security-opt mask=…` and `unmask=…`.
///
/// Podman's rules. Each word holds paths separated by colons. `unmask` lifts the hiding and the
/// write protection of the default paths it names; it may use `*` and `?`, which do not match a
/// `/`, and `ALL` lifts everything. `mask` adds paths, and wins. A privileged container starts
/// with no default paths; what `mask` asks for is hidden all the same.
///
/// # Errors
/// A path that is empty, relative or not normal, or a pattern this does not read.
pub fn resolve(mask: &[String], unmask: &[String], privileged: bool) -> Result<Paths> {
    let everything = unmask.iter().any(|word| word.eq_ignore_ascii_case("ALL"));
    let lifted = split(unmask, "unmask")?;
    let kept = |path: &str| {
        !privileged && !everything && !lifted.iter().any(|pattern| matches(pattern, path))
    };
    let keep = |paths: &[&str]| paths.iter().filter(|p| kept(p)).map(|&p| p.to_owned()).collect();

    let mut paths = Paths { masked: keep(&MASKED), read_only: keep(&READ_ONLY) };
    for path in split(mask, "mask")? {
        if let Some(letter) = path.chars().find(|c| "*?[\\".contains(*c)) {
            return Err(Error::invalid(format!(
                "mask={path}: {letter:?} is not read as a pattern"
            ))
            .hint("name each path to hide"));
        }
        if !paths.masked.iter().any(|have| have == path) {
            paths.masked.push(path.to_owned());
        }
    }
    Ok(paths)
}

/// The paths of all words, checked.
fn split<'a>(words: &'a [String], option: &str) -> Result<Vec<&'a str>> {
    let words = words.iter().filter(|w| option != "unmask" || !w.eq_ignore_ascii_case("ALL"));
    let paths = words.flat_map(|word| word.split(':'));
    paths.map(|path| check(path, option)).collect()
}

fn check<'a>(path: &'a str, option: &str) -> Result<&'a str> {
    let wrong = |why: &str| Err(Error::invalid(format!("{option}={path}: {why}")));
    if !path.starts_with('/') {
        return wrong("not an absolute path")
            .map_err(|err| err.hint(format!("for example {option}=/proc/acpi:/sys/firmware")));
    }
    if path.contains('\0') {
        return wrong("a path cannot hold a NUL");
    }
    if path[1..].split('/').any(|part| matches!(part, "" | "." | "..")) {
        return wrong("not a plain path")
            .map_err(|err| err.hint("write it without `.`, `..`, doubled or final slashes"));
    }
    if option == "unmask" && path.contains(['[', '\\']) {
        return wrong("only `*` and `?` are patterns here");
    }
    Ok(path)
}

/// Whether a pattern means a path; `*` and `?` do not match a `/`.
fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    pattern.len() == path.len()
        && pattern.iter().zip(path).all(|(p, name)| part_matches(p.as_bytes(), name.as_bytes()))
}

/// One component. A star that fails is tried one byte further, from its latest place only:
/// quadratic at worst, whatever the pattern.
fn part_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, seen)) => {
                    star = Some((at, seen + 1));
                    (p, n) = (at + 1, seen + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn resolved(mask: &str, unmask: &str, privileged: bool) -> Paths {
        resolve(&words(mask), &words(unmask), privileged).expect("valid paths")
    }

    #[test]
    fn the_defaults_stand_without_options() {
        let paths = resolved("", "", false);
        assert_eq!(paths.masked, MASKED);
        assert_eq!(paths.read_only, READ_ONLY);
    }

    #[test]
    fn unmask_lifts_what_it_names_from_both_lists() {
        let paths = resolved("", "/proc/kcore:/proc/sys /sys/fs/selinux", false);
        assert_eq!(paths.masked.len(), MASKED.len() - 2);
        assert!(!paths.masked.contains(&"/proc/kcore".to_owned()));
        assert!(!paths.read_only.contains(&"/proc/sys".to_owned()));

        let paths = resolved("", "/proc/*", false);
        assert_eq!(
            paths.masked,
            ["/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux"]
        );
        assert!(paths.read_only.is_empty());
    }

    #[test]
    fn all_and_privileged_lift_everything_and_mask_still_hides() {
        assert_eq!(resolved("", "all", false), Paths::default());
        for (unmask, privileged) in [("ALL", false), ("", true)] {
            let paths = resolved("/a:/b /a", unmask, privileged);
            assert_eq!(paths.masked, ["/a", "/b"]);
            assert!(paths.read_only.is_empty());
        }
    }

    #[test]
    fn mask_adds_each_path_once() {
        let paths = resolved("/proc/kcore:/etc/motd", "", false);
        assert_eq!(paths.masked.len(), MASKED.len() + 1);
        assert_eq!(paths.masked.last().map(String::as_str), Some("/etc/motd"));
    }

    #[test]
    fn patterns_stay_within_a_component() {
        for (pattern, path, want) in [
            ("/proc/*", "/proc/sys", true),
            ("/proc/*", "/proc/sys/kernel", false),
            ("/proc/timer_????s", "/proc/timer_stats", true),
            ("/proc/t*_*s*", "/proc/timer_stats", true),
            ("/proc/t*_*x", "/proc/timer_stats", false),
            ("/*", "/proc/sys", false),
            ("/proc/sys", "/proc/sysrq-trigger", false),
            ("/proc/sys**", "/proc/sysrq-trigger", true),
        ] {
            assert_eq!(matches(pattern, path), want, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_not_a_path_is_refused() {
        for bad in ["proc/kcore", "/proc/../etc", "/a//b", "/a/", "/", ":", "ALL:/a", "/[a]"] {
            assert!(resolve(&words(bad), &[], false).is_err(), "mask={bad}");
            assert!(resolve(&[], &words(bad), false).is_err(), "unmask={bad}");
        }
        assert!(resolve(&[String::new()], &[], false).is_err());
        assert!(resolve(&words("/proc/*"), &[], false).is_err());
        let err = resolve(&words("kcore"), &[], false).expect_err("relative");
        assert_eq!(err.to_string(), "mask=kcore: not an absolute path");
    }
}
