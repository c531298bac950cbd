//! Files of git repositories, by the `git` of this machine.
//!
//! Only what is asked for is fetched: one commit, without its past. Neither hooks nor the settings
//! of whoever calls are read, and no protocol that would start a program but ssh is spoken.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Context as _, Error, Result};

/// What may be a repository or a directory of that name; only for a build context it is the former.
const LOCAL_LOOKING: &str = "github.com/";

/// A place in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    /// As git reads it.
    pub url: String,
    /// A branch, tag, commit or whole reference; the remote's HEAD if there is none.
    pub reference: Option<String>,
    /// A directory in it.
    pub subdir: Option<String>,
    /// How the digest of the commit begins.
    pub checksum: Option<String>,
    /// Whether `.git` stays; `None` as who asks has it.
    pub keep_git_dir: Option<bool>,
    /// What it takes of other repositories stays away.
    pub is_alone: bool,
}

/// A commit, and the reference that it was found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit {
    pub id: String,
    fetched_as: String,
}

impl Repository {
    /// Reads `USER@HOST:PATH`, `git://`, `ssh://`, `https://….git` and `github.com/…`, with
    /// `#REF:DIR` or `?branch=…&subdir=…` behind it (docs.docker.com, "Build context", Git
    /// repositories); `None` if it is no repository.
    pub(super) fn parse(text: &str) -> Result<Option<Self>> {
        let (place, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (place, query) = place.split_once('?').unwrap_or((place, ""));
        let is_web = place.starts_with("https://") || place.starts_with("http://");
        let known = place.starts_with("git://")
            || place.starts_with("ssh://")
            || place.starts_with(LOCAL_LOOKING)
            || is_of_a_user(place)
            || (is_web && place.ends_with(".git"));
        if !known {
            return Ok(None);
        }
        let url = match place.starts_with(LOCAL_LOOKING) {
            true => format!("https://{place}"),
            false => place.to_owned(),
        };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let mut found = Self {
            url,
            reference: some(reference),
            subdir: some(subdir),
            checksum: None,
            keep_git_dir: None,
            is_alone: false,
        };
        found.query(query).doing_with(|| text.to_owned())?;
        Ok(Some(found))
    }

    /// What stands behind the `?`.
    fn query(&mut self, query: &str) -> Result<()> {
        let mut seen: Vec<&str> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            if seen.contains(&key) {
                return Err(Error::invalid(format!("query {key:?} has multiple values")));
            }
            seen.push(key);
            let switch = || match value.as_str() {
                "" | "1" | "t" | "true" => Ok(true),
                "0" | "f" | "false" => Ok(false),
                _ => Err(Error::invalid(format!("invalid {key} value: {value:?}"))),
            };
            match key {
                "keep-git-dir" => self.keep_git_dir = Some(switch()?),
                "submodules" => self.is_alone = !switch()?,
                "ref" | "tag" | "branch" | "subdir" | "checksum" | "commit" if value.is_empty() => {
                    return Err(Error::invalid(format!("query {key:?} has no value")));
                }
                "ref" => same("ref", &mut self.reference, value)?,
                "tag" if seen.contains(&"branch") => {
                    return Err(Error::invalid("branch conflicts with tag"));
                }
                "branch" if seen.contains(&"tag") => {
                    return Err(Error::invalid("branch conflicts with tag"));
                }
                "tag" => same("ref", &mut self.reference, whole("refs/tags/", &value))?,
                "branch" => same("ref", &mut self.reference, whole("refs/heads/", &value))?,
                "subdir" => same("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => self.checksum = Some(value),
                _ => {
                    return Err(Error::invalid(format!("unexpected query {key:?}")).hint(
                        "there are ref, branch, tag, subdir, checksum, keep-git-dir and submodules",
                    ));
                }
            }
        }
        if self.reference.is_none() {
            self.reference.clone_from(&self.checksum);
        }
        Ok(())
    }

    /// Whether `text` could be a name of a local file as well.
    pub(super) fn looks_local(text: &str) -> bool {
        text.starts_with(LOCAL_LOOKING)
    }

    /// Refuses another commit than the one that `wanted` is the beginning of.
    pub(super) fn check(&self, wanted: Option<&str>, commit: &Commit) -> Result<()> {
        for wanted in wanted.into_iter().chain(self.checksum.as_deref()) {
            if !commit.id.starts_with(&wanted.to_ascii_lowercase()) {
                return Err(Error::invalid(format!(
                    "expected checksum to match {wanted}, got {}",
                    commit.id
                )));
            }
        }
        Ok(())
    }

    /// Whether it names a commit by its whole digest.
    pub(super) fn is_exact(&self) -> bool {
        self.reference.as_deref().is_some_and(is_commit)
    }

    /// The commit that is meant now.
    pub(super) fn resolve(&self) -> Result<Commit> {
        let wanted = self.reference.as_deref().unwrap_or("HEAD");
        if wanted.starts_with('-') {
            return Err(Error::invalid(format!("{wanted:?} is no name of a commit")));
        }
        if is_commit(wanted) {
            return Ok(Commit { id: wanted.to_ascii_lowercase(), fetched_as: wanted.to_owned() });
        }
        let peeled = format!("{wanted}^{{}}");
        let listed = git(None, &["ls-remote", "--", &self.url, wanted, &peeled])
            .doing_with(|| format!("read the git repository {}", self.url))?;
        let rows: Vec<(&str, &str)> =
            listed.lines().filter_map(|row| row.split_once('\t')).collect();
        let candidates =
            [wanted.to_owned(), format!("refs/heads/{wanted}"), format!("refs/tags/{wanted}")];
        for name in candidates {
            let find = |name: &str| rows.iter().find(|(_, known)| *known == name);
            let tag = format!("{name}^{{}}");
            if let Some((id, _)) = find(&tag).or_else(|| find(&name)) {
                return Ok(Commit { id: (*id).to_owned(), fetched_as: name });
            }
        }
        Err(Error::not_found(format!("{}: there is no branch or tag {wanted}", self.url)))
    }

    /// This commit of it, whatever the reference means by now.
    pub(super) fn at(&self, commit: &str) -> Result<Commit> {
        if !is_commit(commit) {
            return Err(Error::invalid(format!("{commit:?} is no commit")));
        }
        Ok(Commit { id: commit.to_owned(), fetched_as: commit.to_owned() })
    }

    /// Checks the commit out into `dir`, which is empty; where the wanted directory is in it.
    pub(super) fn fetch(&self, commit: &Commit, dir: &Path, keep_git_dir: bool) -> Result<PathBuf> {
        let run = |args: &[&str]| git(Some(dir), args);
        let fetched = || -> Result<()> {
            run(&["init", "--quiet", "--initial-branch=main"])?;
            run(&["remote", "add", "origin", &self.url])?;
            let shallow = ["fetch", "--quiet", "--depth=1", "--no-tags", "origin"];
            let asked = [&shallow[..], &[&commit.fetched_as]].concat();
            // A server may not give single commits away.
            if let Err(err) = run(&asked) {
                if !is_commit(&commit.fetched_as) {
                    return Err(err);
                }
                run(&["fetch", "--quiet", "origin", "+refs/*:refs/remotes/origin/*"])?;
            }
            run(&["-c", "advice.detachedHead=false", "checkout", "--quiet", &commit.id])?;
            if !self.is_alone && dir.join(".gitmodules").is_file() {
                run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"])?;
            }
            Ok(())
        };
        fetched().doing_with(|| format!("fetch {} of {}", commit.id, self.url))?;
        if !keep_git_dir {
            let own = dir.join(".git");
            fs::remove_dir_all(&own).at(&own).doing("remove")?;
        }
        let Some(subdir) = &self.subdir else { return Ok(dir.to_owned()) };
        let path = dir.join(subdir.trim_start_matches('/'));
        let real = path.canonicalize().at(&path)?;
        let top = dir.canonicalize().at(dir)?;
        match real.starts_with(&top) && real.is_dir() {
            true => Ok(real),
            false => Err(Error::not_found(format!("{subdir} is no directory of {}", self.url))),
        }
    }
}

/// `USER@HOST:PATH`, as ssh reads it.
fn is_of_a_user(place: &str) -> bool {
    let plain = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let host = place.split_once('@').filter(|(user, _)| plain(user, "-_."));
    host.and_then(|(_, rest)| rest.split_once(':')).is_some_and(|(host, _)| plain(host, "-."))
}

/// A reference with its directory.
fn whole(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

/// Sets what is not set, unless to the same.
fn same(what: &str, place: &mut Option<String>, value: String) -> Result<()> {
    match place.replace(value) {
        Some(old) if Some(&old) != place.as_ref() => Err(Error::invalid(format!(
            "{what} conflicts: {old:?} vs {:?}",
            place.as_deref().unwrap_or_default()
        ))),
        _ => Ok(()),
    }
}

/// `%2F` is a slash.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| first == b'%');
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &behind[2..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// When the commit that is checked out in `dir` was made, in seconds since 1970.
pub(super) fn time_of(dir: &Path) -> Result<i64> {
    let text = git(Some(dir), &["log", "-1", "--format=%ct"])?;
    text.trim().parse().map_err(|_| Error::engine(format!("git tells no time: {text:?}")))
}

fn is_commit(text: &str) -> bool {
    [40, 64].contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What git prints.
fn git(dir: Option<&Path>, args: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    if let Some(dir) = dir {
        command.arg("-C").arg(dir);
    }
    for setting in [
        "core.hooksPath=/dev/null",
        "protocol.allow=never",
        "protocol.https.allow=always",
        "protocol.http.allow=always",
        "protocol.git.allow=always",
        "protocol.ssh.allow=always",
    ] {
        command.args(["-c", setting]);
    }
    command
        .args(args)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .stdin(Stdio::null());
    let output = match command.output() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::unsupported("git is not installed")
                .hint("dhow fetches repositories by the git of this machine: install it"));
        }
        output => output.doing("start git")?,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed");
        let verb = args.iter().find(|arg| !arg.starts_with('-')).unwrap_or(&"");
        return Err(Error::engine(format!("git {verb}: {last}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_repositories() {
        let parse = |text: &str| Repository::parse(text).expect(text);
        let place = |text: &str| parse(text).map(|r| (r.url, r.reference, r.subdir));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            place("https://a/b.git#v1:sub/dir"),
            Some(("https://a/b.git".into(), some("v1"), some("sub/dir")))
        );
        assert_eq!(place("git@a:b/c#main"), Some(("git@a:b/c".into(), some("main"), None)));
        assert_eq!(place("me@a.org:b"), Some(("me@a.org:b".into(), None, None)));
        assert_eq!(
            place("github.com/a/b?ref=x&subdir=y"),
            Some(("https://github.com/a/b".into(), some("x"), some("y")))
        );
        assert_eq!(
            place("https://a/b.git?tag=v1&subdir=y%2Fz"),
            Some(("https://a/b.git".into(), some("refs/tags/v1"), some("y/z")))
        );
        assert_eq!(
            place("git://h/r?branch=main#refs/heads/main"),
            Some(("git://h/r".into(), some("refs/heads/main"), None))
        );
        assert_eq!(place("git://h/r#:d"), Some(("git://h/r".into(), None, some("d"))));
        let all = parse("git://h/r?commit=ab&keep-git-dir&submodules=false").expect("all");
        assert_eq!((all.checksum, all.reference), (some("ab"), some("ab")));
        assert_eq!((all.keep_git_dir, all.is_alone), (Some(true), true));
        for other in ["https://a/b.tar", "http://a/b", "dir.git", "./github.com", "file:///x.git"] {
            assert_eq!(place(other), None, "{other}");
        }
        for (bad, said) in [
            ("git://h/r?x=y", "unexpected query \"x\""),
            ("git://h/r?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
            ("git://h/r?branch=a&tag=b", "branch conflicts with tag"),
            ("git://h/r?tag", "query \"tag\" has no value"),
            ("git://h/r?ref=a&ref=b", "multiple values"),
            ("git://h/r?submodules=perhaps", "invalid submodules value"),
        ] {
            let err = Repository::parse(bad).expect_err(bad).to_string();
            assert!(err.contains(said), "{bad}: {err}");
        }
    }
}
