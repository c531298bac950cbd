//! What a process is given: limits, devices, a user, a host name, detach keys.

use crate::{
    error::{Error, Result},
    state::record::{Device, Ulimit},
};

/// `--ulimit NAME=SOFT[:HARD]`; -1 and `unlimited` are no limit. Names are docker's (go-units).
pub fn ulimit(text: &str) -> Result<Ulimit> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let Some((name, limits)) = text.split_once('=') else {
        return Err(Error::invalid(format!("invalid ulimit argument: {text}"))
            .hint("write NAME=SOFT[:HARD], for example nofile=1024:2048"));
    };
    if !NAMES.contains(&name) {
        return Err(Error::invalid(format!("invalid ulimit type: {name}"))
            .hint(format!("types are {}", NAMES.join(", "))));
    }
    let (soft, hard) = match limits.split(':').collect::<Vec<_>>()[..] {
        [both] => (limit(both)?, limit(both)?),
        [soft, hard] => (limit(soft)?, limit(hard)?),
        _ => {
            return Err(Error::invalid(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            )));
        }
    };
    if soft > hard {
        let soft = if soft == u64::MAX { "-1 (unlimited)".into() } else { soft.to_string() };
        return Err(Error::invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

fn limit(text: &str) -> Result<u64> {
    if matches!(text, "-1" | "unlimited") {
        return Ok(u64::MAX);
    }
    text.parse::<u64>().ok().filter(|&n| i64::try_from(n).is_ok()).ok_or_else(|| {
        Error::invalid(format!("invalid ulimit value: {text:?}"))
            .hint("write a whole number, or -1 for unlimited")
    })
}

/// `--device HOST[:CONTAINER][:PERMISSIONS]`, permissions a subset of `rwm`.
pub fn device(text: &str) -> Result<Device> {
    let bad = |said: String| Error::invalid(said).hint("write --device /dev/a[:/dev/b][:rwm]");
    let is_mode = |part: &str| {
        let once = |c| part.matches(c).count() <= 1;
        !part.is_empty()
            && part.chars().all(|c| "rwm".contains(c))
            && ['r', 'w', 'm'].iter().all(|&c| once(c))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, permissions) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, mode] if is_mode(mode) => (host, host, mode),
        [host, container] => (host, container, "rwm"),
        [host, container, mode] if is_mode(mode) => (host, container, mode),
        [_, _, mode] => return Err(bad(format!("bad mode specified: {mode}"))),
        _ => return Err(bad(format!("invalid device specification: {text}"))),
    };
    for path in [host, container] {
        if !path.starts_with('/') {
            return Err(bad(format!("{path:?} is not an absolute path")));
        }
    }
    Ok(Device {
        host: host.into(),
        container: container.to_owned(),
        permissions: permissions.to_owned(),
        mode: None,
        uid: None,
        gid: None,
    })
}

/// `--entrypoint`: one word, or podman's JSON list; empty is none at all.
pub fn entrypoint(text: &str) -> Result<Vec<String>> {
    if text.starts_with('[') {
        return serde_json::from_str(text).map_err(|err| {
            Error::invalid(format!("invalid --entrypoint {text}: {err}"))
                .hint("write a program, or a JSON list of words")
        });
    }
    Ok(if text.is_empty() { Vec::new() } else { vec![text.to_owned()] })
}

/// `--user USER[:GROUP]`, names or numbers; who that is, the container's files say.
pub fn user(text: &str) -> Result<String> {
    let parts: Vec<&str> = text.split(':').collect();
    let printable = |part: &&str| !part.is_empty() && !part.contains(char::is_control);
    // A group alone is root's, as docker has it.
    let named = if parts.first() == Some(&"") { &parts[1..] } else { &parts[..] };
    if parts.len() > 2 || named.is_empty() || !named.iter().all(printable) {
        return Err(Error::invalid(format!("invalid user {text:?}"))
            .hint("write USER or USER:GROUP, each a name or a number"));
    }
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    // A number too large must not wrap round to root (CVE-2024-40635).
    if named.iter().any(|part| number(part) && part.parse::<i32>().is_err()) {
        return Err(Error::invalid("uids and gids must be in range 0-2147483647"));
    }
    Ok(text.to_owned())
}

/// `--hostname`: what sethostname(2) takes (64 bytes) and a resolver can say.
pub fn hostname(text: &str) -> Result<String> {
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        !label.is_empty()
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 64 && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err(Error::invalid(format!("invalid hostname format: {text:?}"))
        .hint("use up to 64 letters, digits, hyphens and dots"))
}

/// `--platform OS[/ARCH[/VARIANT]]` or `ARCH`: its shape only; the registry client knows the words.
pub fn platform(text: &str) -> Result<String> {
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    };
    if text.split('/').count() <= 3 && text.split('/').all(plain) {
        return Ok(text.to_owned());
    }
    Err(Error::invalid(format!("invalid platform {text:?}"))
        .hint("write OS/ARCH[/VARIANT], for example linux/arm64"))
}

/// `--detach-keys ctrl-p,ctrl-q` as the bytes a terminal sends. Empty is no sequence.
pub fn detach_keys(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|key| detach_key(key, text)).collect()
}

fn detach_key(key: &str, all: &str) -> Result<u8> {
    let bytes = key.strip_prefix("ctrl-").unwrap_or(key).as_bytes();
    let control = bytes.len() != key.len();
    match *bytes {
        [byte] if !control && byte.is_ascii() => Ok(byte),
        // A control byte is its letter's code without the upper three bits (ASCII).
        [byte @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(byte & 0x1f),
        _ => Err(Error::invalid(format!("invalid detach keys {all:?}: unknown character: '{key}'"))
            .hint("write keys with commas between: single characters, or ctrl- and one of a-z @ [ \\ ] ^ _")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_are_checked() {
        let limit = |name: &str, soft, hard| Some(Ulimit { name: name.into(), soft, hard });
        assert_eq!(ulimit("nofile=1024:2048").ok(), limit("nofile", 1024, 2048));
        assert_eq!(ulimit("core=0").ok(), limit("core", 0, 0));
        assert_eq!(ulimit("nproc=5:-1").ok(), limit("nproc", 5, u64::MAX));
        assert_eq!(ulimit("memlock=unlimited").ok(), limit("memlock", u64::MAX, u64::MAX));
        for (text, said) in [
            ("nofile", "invalid ulimit argument: nofile"),
            ("foo=1", "invalid ulimit type: foo"),
            ("nofile=", "invalid ulimit value: \"\""),
            ("nofile=-2", "invalid ulimit value: \"-2\""),
            ("nofile=2:1", "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
            (
                "nofile=-1:5",
                "ulimit soft limit must be less than or equal to hard limit: -1 (unlimited) > 5",
            ),
            (
                "nofile=1:2:3",
                "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
            ),
        ] {
            assert_eq!(ulimit(text).expect_err(text).to_string(), said);
        }
    }

    #[test]
    fn devices_have_paths_and_permissions() {
        let parts = |text| device(text).ok().map(|d| (d.host, d.container, d.permissions));
        let some = |a: &str, b: &str, c: &str| Some((a.into(), b.to_owned(), c.to_owned()));
        assert_eq!(parts("/dev/a"), some("/dev/a", "/dev/a", "rwm"));
        assert_eq!(parts("/dev/a:r"), some("/dev/a", "/dev/a", "r"));
        assert_eq!(parts("/dev/a:/dev/b:rm"), some("/dev/a", "/dev/b", "rm"));
        for bad in
            ["", "a", "/dev/a:", "/dev/a:b", "/dev/a:rr", "/dev/a:/b:q", "/dev/a:/b:", "/a:/b:r:w"]
        {
            assert!(device(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn users_hostnames_and_platforms_are_plain() {
        for good in ["root", ":b", ":5", "0", "1000:1000", "a:b", "a:5", "2147483647"] {
            assert!(user(good).is_ok(), "{good}");
        }
        for bad in ["", ":", "a:", "a:b:c", "4294967296", "0:2147483648", "a\nb"] {
            assert!(user(bad).is_err(), "{bad}");
        }
        assert!(hostname("web-1.example").is_ok());
        for bad in ["", "-a", "a b", "a..b", "é", "a\n", &"a".repeat(65)] {
            assert!(hostname(bad).is_err(), "{bad}");
        }
        assert!(platform("linux/arm/v7").is_ok() && platform("linux").is_ok());
        for bad in ["", "a//b", "a/b/c/d", "a b"] {
            assert!(platform(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn detach_keys_are_bytes() {
        assert_eq!(detach_keys("ctrl-p,ctrl-q").ok(), Some(vec![16, 17]));
        assert_eq!(detach_keys("a,ctrl-@,ctrl-[,ctrl-_").ok(), Some(vec![b'a', 0, 27, 31]));
        assert_eq!(detach_keys("").ok(), Some(vec![]));
        for bad in ["ab", "ctrl-", "ctrl-1", "ctrl-P", "a,,b", "é"] {
            assert!(detach_keys(bad).is_err(), "{bad}");
        }
    }
}
