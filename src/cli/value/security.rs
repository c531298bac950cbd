//! `--security-opt`, docker's and podman's, with `=` or the older `:` after the name.

use std::path::PathBuf;

use crate::{
    error::{Context, Error, Result},
    state::record::{SeccompChoice, SecurityOptions},
};

/// One `--security-opt`, syntax only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityOption {
    NoNewPrivileges(bool),
    /// dhow's own profile, which docker calls `builtin`.
    SeccompDefault,
    SeccompUnconfined,
    SeccompFile(PathBuf),
    Apparmor(String),
    Label(String),
    Mask(Vec<String>),
    /// Paths, or `ALL`.
    Unmask(Vec<String>),
}

/// Parses one `--security-opt`.
pub fn security_option(text: &str) -> Result<SecurityOption> {
    let invalid = || {
        Error::invalid(format!("invalid --security-opt: {text:?}")).hint(
            "options are no-new-privileges, seccomp=, apparmor=, label=, mask=, unmask= and systempaths=unconfined",
        )
    };
    if text == "no-new-privileges" {
        return Ok(SecurityOption::NoNewPrivileges(true));
    }
    let separator = if text.contains('=') { '=' } else { ':' };
    let (name, value) = text.split_once(separator).ok_or_else(invalid)?;
    if value.is_empty() {
        return Err(invalid());
    }
    match (name, value) {
        ("no-new-privileges", "true") => Ok(SecurityOption::NoNewPrivileges(true)),
        ("no-new-privileges", "false") => Ok(SecurityOption::NoNewPrivileges(false)),
        ("seccomp", "unconfined") => Ok(SecurityOption::SeccompUnconfined),
        ("seccomp", "builtin") => Ok(SecurityOption::SeccompDefault),
        ("seccomp", file) => Ok(SecurityOption::SeccompFile(file.into())),
        ("apparmor", profile) => Ok(SecurityOption::Apparmor(profile.to_owned())),
        ("label", label) => Ok(SecurityOption::Label(label.to_owned())),
        ("mask", list) => Ok(SecurityOption::Mask(paths(list)?)),
        ("unmask", "ALL" | "all") | ("systempaths", "unconfined") => {
            Ok(SecurityOption::Unmask(vec!["ALL".into()]))
        }
        ("unmask", list) => Ok(SecurityOption::Unmask(paths(list)?)),
        _ => Err(invalid()),
    }
}

/// Absolute paths with colons between, as podman writes them.
fn paths(list: &str) -> Result<Vec<String>> {
    match list.split(':').find(|path| !path.starts_with('/')) {
        None => Ok(list.split(':').map(str::to_owned).collect()),
        Some(path) => {
            Err(Error::invalid(format!("invalid --security-opt: {path:?} is not an absolute path"))
                .hint("write mask=/proc/a:/proc/b, or unmask=ALL"))
        }
    }
}

/// All of them together, the last of each kind winning; reads the seccomp profile, whose
/// meaning the compiler checks: here only that it is JSON.
pub fn resolve(options: &[SecurityOption]) -> Result<SecurityOptions> {
    let mut resolved = SecurityOptions::default();
    for option in options {
        match option {
            SecurityOption::NoNewPrivileges(on) => resolved.no_new_privileges = *on,
            SecurityOption::SeccompDefault => resolved.seccomp = SeccompChoice::Default,
            SecurityOption::SeccompUnconfined => resolved.seccomp = SeccompChoice::Unconfined,
            SecurityOption::SeccompFile(path) => {
                let profile = std::fs::read_to_string(path).map_err(Error::from).and_then(|text| {
                    Ok(serde_json::from_str::<serde_json::Value>(&text).map(|_| text)?)
                });
                let doing = || format!("opening seccomp profile ({}) failed", path.display());
                resolved.seccomp = SeccompChoice::Profile(profile.doing_with(doing)?);
            }
            SecurityOption::Apparmor(profile) => resolved.apparmor = Some(profile.clone()),
            SecurityOption::Label(label) => resolved.label.push(label.clone()),
            SecurityOption::Mask(paths) => resolved.mask.extend_from_slice(paths),
            SecurityOption::Unmask(paths) => resolved.unmask.extend_from_slice(paths),
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators_are_read() {
        use SecurityOption as O;
        for (text, option) in [
            ("no-new-privileges", O::NoNewPrivileges(true)),
            ("no-new-privileges:false", O::NoNewPrivileges(false)),
            ("no-new-privileges=true", O::NoNewPrivileges(true)),
            ("seccomp:unconfined", O::SeccompUnconfined),
            ("seccomp=builtin", O::SeccompDefault),
            ("seccomp=a:b.json", O::SeccompFile("a:b.json".into())),
            ("apparmor=unconfined", O::Apparmor("unconfined".into())),
            ("label=type:x_t", O::Label("type:x_t".into())),
            ("label:disable", O::Label("disable".into())),
            ("mask=/a:/b", O::Mask(vec!["/a".into(), "/b".into()])),
            ("unmask=ALL", O::Unmask(vec!["ALL".into()])),
            ("unmask:/a:/b", O::Unmask(vec!["/a".into(), "/b".into()])),
            ("systempaths=unconfined", O::Unmask(vec!["ALL".into()])),
        ] {
            assert_eq!(security_option(text).ok(), Some(option), "{text}");
        }
        for bad in [
            "",
            "foo",
            "foo=1",
            "seccomp=",
            "seccomp",
            "no-new-privileges:maybe",
            "mask=a",
            "mask=/a:",
        ] {
            assert!(security_option(bad).is_err(), "{bad}");
        }
        let err = security_option("foo").expect_err("unknown");
        assert_eq!(err.to_string(), "invalid --security-opt: \"foo\"");
    }

    #[test]
    fn the_profile_is_copied_in_and_the_last_choice_wins() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("p.json");
        std::fs::write(&path, "{}").expect("write");
        let file = SecurityOption::SeccompFile(path.clone());
        let mask = |p: &str| SecurityOption::Mask(vec![p.into()]);
        let resolved =
            resolve(&[SecurityOption::SeccompUnconfined, file.clone(), mask("/a"), mask("/b")])
                .expect("valid");
        assert_eq!(resolved.seccomp, SeccompChoice::Profile("{}".into()));
        assert_eq!(resolved.mask, ["/a", "/b"]);

        std::fs::write(&path, "{").expect("write");
        assert_eq!(
            resolve(std::slice::from_ref(&file)).expect_err("cut off").kind(),
            crate::error::Kind::Invalid
        );
        std::fs::remove_file(&path).expect("remove");
        let err = resolve(&[file]).expect_err("missing");
        assert!(err.to_string().ends_with("p.json) failed: No such file or directory"), "{err}");
    }
}
