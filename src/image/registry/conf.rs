//! containers-registries.conf(5), version 2: which registries stand for others, which are refused,
//! which need no TLS, and what short names mean.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    error::{Context as _, Error, Result},
    image::places,
    oci::Reference,
};

/// What all files together say.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    registries: Vec<Registry>,
    search: Vec<String>,
    aliases: BTreeMap<String, String>,
}

/// Where an image may be had, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Registry and repository.
    pub name: Reference,
    /// It may be without TLS.
    pub insecure: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    registry: Vec<Registry>,
    aliases: BTreeMap<String, String>,
    /// Version 1.
    registries: Option<toml::Table>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Registry {
    prefix: Option<String>,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
    #[serde(skip)]
    file: PathBuf,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<String>,
}

impl Registries {
    /// The files of this user, or else of the machine, and both directories of additions.
    pub fn from_env() -> Result<Self> {
        let own = places::containers();
        let machine = PathBuf::from("/etc/containers");
        let mains: Vec<_> = match places::variable("CONTAINERS_REGISTRIES_CONF") {
            Some(file) => vec![file],
            None => own.iter().chain([&machine]).map(|dir| dir.join("registries.conf")).collect(),
        };
        let mut all = Self::default();
        for main in mains {
            if all.add(&main)? {
                break;
            }
        }
        for dir in [Some(&machine), own.as_ref()].into_iter().flatten() {
            let dir = dir.join("registries.conf.d");
            let Ok(listing) = fs::read_dir(&dir) else { continue };
            let mut files: Vec<_> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
            files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
            files.sort();
            for file in files {
                all.add(&file)?;
            }
        }
        Ok(all)
    }

    /// Adds what a file says; what comes later wins. `false` if there is no such file.
    fn add(&mut self, path: &Path) -> Result<bool> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(err) => return Err(err).at(path),
        };
        self.merge(&text, path).at(path)?;
        Ok(true)
    }

    fn merge(&mut self, text: &str, path: &Path) -> Result<()> {
        let file: File = toml::from_str(text).map_err(|err| {
            let line = err.span().map_or(0, |span| text[..span.start].lines().count().max(1));
            Error::invalid(format!("line {line}: {}", err.message()))
        })?;
        if file.registries.is_some() {
            return Err(Error::unsupported("this is version 1 of registries.conf")
                .hint("containers-registries.conf(5) says how version 2 is written"));
        }
        if let Some(search) = file.unqualified_search_registries {
            self.search = search;
        }
        self.aliases.extend(file.aliases);
        for mut registry in file.registry {
            registry.file = path.to_owned();
            let prefix = registry.prefix().to_owned();
            if prefix.is_empty() {
                return Err(Error::invalid("a [[registry]] has neither prefix nor location"));
            }
            self.registries.retain(|known| known.prefix() != prefix);
            self.registries.push(registry);
        }
        Ok(())
    }

    /// What a name that was typed without a registry may mean, best first: its alias, or the name
    /// in each registry that is searched; Docker Hub where none is.
    pub fn meanings(&self, typed: &str) -> Result<Vec<Reference>> {
        let plain: Reference = typed.parse()?;
        if !is_short(typed, &plain) {
            return Ok(vec![plain]);
        }
        let suffix = &typed[typed.find(['@', ':']).unwrap_or(typed.len())..];
        let short = &typed[..typed.len() - suffix.len()];
        if let Some(full) = self.aliases.get(short).filter(|full| !full.is_empty()) {
            return Ok(vec![format!("{full}{suffix}").parse()?]);
        }
        if self.search.is_empty() {
            return Ok(vec![plain]);
        }
        let of = |registry: &String| Ok(format!("{registry}/{typed}").parse::<Reference>()?);
        self.search.iter().map(of).collect()
    }

    /// The registries that are searched for names without one; Docker Hub where none is listed.
    pub fn searched(&self) -> Vec<String> {
        match self.search.is_empty() {
            true => vec!["docker.io".to_owned()],
            false => self.search.clone(),
        }
    }

    /// Where the image that `name` names may be had, best first: mirrors, then the registry.
    pub fn sources(&self, name: &Reference) -> Result<Vec<Source>> {
        let Some(registry) = self.find(name) else {
            return Ok(vec![Source { name: name.clone(), insecure: false }]);
        };
        if registry.blocked {
            return Err(Error::unsupported(format!(
                "registry {} is blocked in {}",
                registry.prefix(),
                registry.file.display()
            )));
        }
        let mut sources = Vec::new();
        for mirror in &registry.mirror {
            let wanted = mirror.pull_from_mirror.as_deref().unwrap_or("all");
            let by_digest = name.digest().is_some();
            let digests_only = registry.mirror_by_digest_only || wanted == "digest-only";
            if digests_only && !by_digest || wanted == "tag-only" && by_digest {
                continue;
            }
            let name = registry.moved(name, &mirror.location)?;
            sources.push(Source { name, insecure: mirror.insecure });
        }
        let name = match &registry.location {
            Some(location) => registry.moved(name, location)?,
            None => name.clone(),
        };
        sources.push(Source { name, insecure: registry.insecure });
        Ok(sources)
    }

    /// Where what is pushed goes: mirrors take nothing.
    pub fn target(&self, name: &Reference) -> Result<Source> {
        let last = self.sources(name)?.pop();
        last.ok_or_else(|| Error::engine(format!("nowhere to push {}", name.familiar())))
    }

    /// The entry with the longest prefix.
    fn find(&self, name: &Reference) -> Option<&Registry> {
        let fitting = self.registries.iter().filter(|registry| registry.covers(name));
        fitting.max_by_key(|registry| registry.prefix().len())
    }
}

/// Whether no registry was typed.
fn is_short(typed: &str, parsed: &Reference) -> bool {
    let named = ["docker.io/", "index.docker.io/"].iter().any(|domain| typed.starts_with(domain));
    parsed.domain() == "docker.io" && !named
}

impl Registry {
    fn prefix(&self) -> &str {
        self.prefix.as_deref().or(self.location.as_deref()).unwrap_or_default()
    }

    fn covers(&self, name: &Reference) -> bool {
        let prefix = self.prefix();
        if let Some(below) = prefix.strip_prefix("*.") {
            let host = name.domain().split(':').next().unwrap_or_default();
            return host.strip_suffix(below).is_some_and(|rest| rest.ends_with('.'));
        }
        let rest = name.to_string();
        let rest = rest.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
    }

    /// The name with the location in the prefix's place.
    fn moved(&self, name: &Reference, location: &str) -> Result<Reference> {
        let text = name.to_string();
        let rest = match self.prefix().starts_with("*.") {
            true => &text[name.domain().len()..],
            false => &text[self.prefix().len()..],
        };
        if location.is_empty() {
            return Ok(name.clone());
        }
        let moved = format!("{location}{rest}").parse::<Reference>();
        moved.doing_with(|| format!("location {location:?} in {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Registries> {
        let mut registries = Registries::default();
        registries.merge(text, Path::new("registries.conf")).map(|()| registries)
    }

    fn shown(sources: Vec<Source>) -> Vec<String> {
        let show = |s: Source| format!("{}{}", s.name, if s.insecure { " insecure" } else { "" });
        sources.into_iter().map(show).collect()
    }

    #[test]
    fn mirrors_come_first_and_the_longest_prefix_wins() {
        let registries = read(
            r#"
            [[registry]]
            prefix = "docker.io"
            location = "hub.example/proxy"
            [[registry.mirror]]
            location = "mirror.example:5000/hub"
            insecure = true
            [[registry.mirror]]
            location = "digests.example"
            pull-from-mirror = "digest-only"
            [[registry]]
            location = "docker.io/library"
            blocked = true
            [[registry]]
            prefix = "*.corp"
            location = "one.corp/all"
            [[registry]]
            location = "plain.example"
            insecure = true"#,
        )
        .expect("reads");
        let sources = |name: &str| registries.sources(&name.parse().expect(name)).map(shown);
        let digest = crate::oci::Digest::of(b"");
        assert_eq!(
            sources("user/app:1").expect("sources"),
            ["mirror.example:5000/hub/user/app:1 insecure", "hub.example/proxy/user/app:1"]
        );
        let by_digest = sources(&format!("user/app@{digest}")).expect("sources");
        assert_eq!(by_digest[1], format!("digests.example/user/app@{digest}"));
        assert!(sources("alpine").expect_err("blocked").to_string().contains("is blocked in"));
        assert_eq!(sources("a.corp/x:1").expect("sources"), ["one.corp/all/x:1"]);
        assert_eq!(sources("plain.example/x").expect("s"), ["plain.example/x:latest insecure"]);
        assert_eq!(sources("plain.example.org/x").expect("s"), ["plain.example.org/x:latest"]);
    }

    #[test]
    fn short_names_have_aliases_or_are_searched() {
        let registries = read(
            r#"
            unqualified-search-registries = ["one.example", "docker.io"]
            [aliases]
            "app" = "two.example/team/app""#,
        )
        .expect("reads");
        let meanings = |typed: &str| {
            let names = registries.meanings(typed).expect(typed);
            names.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(meanings("app:7"), ["two.example/team/app:7"]);
        assert_eq!(meanings("b"), ["one.example/b:latest", "docker.io/library/b:latest"]);
        assert_eq!(meanings("docker.io/b"), ["docker.io/library/b:latest"]);
        assert_eq!(meanings("x.example/app"), ["x.example/app:latest"]);
        let none = Registries::default().meanings("b").expect("b");
        assert_eq!(none[0].to_string(), "docker.io/library/b:latest");
    }

    #[test]
    fn mistakes_are_named() {
        let says = |text: &str| read(text).expect_err(text).to_string();
        assert!(
            says("a = 1\n[[registry]\n").contains("line 2"),
            "{}",
            says("a = 1\n[[registry]\n")
        );
        assert!(says("[registries.search]\nregistries = []").contains("version 1"));
        assert!(says("[[registry]]\nblocked = true").contains("neither prefix nor location"));
        assert!(says("[[registry]]\nlocation = 7").contains("line 2"));
    }
}
