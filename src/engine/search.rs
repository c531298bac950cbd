//! What registries have: `search`. No store is needed.

use super::registry::{Reach, not_local};
use crate::{
    error::{Context as _, Error, Result},
    image::registry::{
        Access, Client,
        search::{self, Found},
    },
    oci::Reference,
};

/// A repository in a registry.
#[derive(Debug, Clone)]
pub struct Hit {
    /// As it would be typed to pull it.
    pub name: String,
    pub found: Found,
}

/// What `term` (`[REGISTRY/]WORD`) finds, `limit` from each registry at most.
///
/// If several registries are searched, those that fail are told in the second part, unless all do.
pub fn search(term: &str, limit: usize, reach: &Reach) -> Result<(Vec<Hit>, Vec<Error>)> {
    if term.contains("://") {
        return Err(Error::invalid(format!("{term:?} has a scheme"))
            .hint("a registry is HOST[:PORT], and a search REGISTRY/WORD"));
    }
    let access = reach.access()?;
    let (registries, word) = match term.split_once('/') {
        Some((first, word)) if first == "localhost" || first.contains(['.', ':']) => {
            (vec![first.to_owned()], word)
        }
        _ => (access.registries.searched(), term),
    };
    let (mut hits, mut failures) = (Vec::new(), Vec::new());
    for registry in &registries {
        match search_one(registry, word, limit, &access) {
            Ok(found) => hits.extend(found),
            Err(err) if registries.len() == 1 => return Err(err),
            Err(err) => failures.push(err),
        }
    }
    match failures.len() == registries.len() {
        true => Err(failures.remove(0)),
        false => Ok((hits, failures)),
    }
}

fn search_one(registry: &str, word: &str, limit: usize, access: &Access) -> Result<Vec<Hit>> {
    let is_hub = ["docker.io", "index.docker.io"].contains(&registry);
    let (registry, word) = match is_hub {
        // Docker: what is official is called so without its directory.
        true => ("docker.io", word.strip_prefix("library/").unwrap_or(word)),
        false => (registry, word),
    };
    let any: Reference = format!("{registry}/x").parse()?;
    not_local(&any)?;
    let mut access = access.clone();
    // Blocked ones are refused there.
    let source = access.registries.target(&any)?;
    if source.insecure {
        access.insecure.push(source.name.domain().to_owned());
    }
    let found = search::search(source.name.domain(), word, limit, &access)
        .doing_with(|| format!("search {registry}"))?;
    let named = |found: Found| match is_hub {
        true => Hit { name: found.name.clone(), found },
        false => Hit { name: format!("{registry}/{}", found.name), found },
    };
    Ok(found.into_iter().map(named).collect())
}

/// The tags that the repository `typed` has in its registry, in the first that is searched and has
/// it; and the repository's name.
pub fn list_tags(typed: &str, reach: &Reach) -> Result<(String, Vec<String>)> {
    let access = reach.access()?;
    let mut failed: Option<Error> = None;
    for meaning in access.registries.meanings(typed)? {
        if meaning.digest().is_some()
            || typed.ends_with(&format!(":{}", meaning.tag().unwrap_or_default()))
        {
            return Err(Error::invalid(format!("{typed}: a repository has no tag")));
        }
        not_local(&meaning)?;
        let source = access.registries.target(&meaning)?;
        let name = meaning.familiar_repository();
        match Client::of(&source, &access).tags() {
            Ok(tags) => return Ok((name, tags)),
            Err(err) => {
                failed.get_or_insert(err.context(format!("list the tags of {name}")));
            }
        }
    }
    Err(failed.unwrap_or_else(|| Error::engine(format!("{typed} has no source"))))
}
