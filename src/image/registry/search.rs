//! Looking for repositories: Docker's search, and for registries that have none, their catalogue
//! (distribution's "Listing Repositories"; neither is in the OCI's specification).

use serde::Deserialize;
use ureq::http::Method;

use super::{
    Access, Client, read_all, token,
    transport::{Fault, retrying},
};
use crate::{
    error::{Error, Kind, Result},
    image::store::MANIFEST_MAX,
};

/// A repository that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Within its registry.
    pub name: String,
    /// Empty if the registry knows none, as a catalogue does not.
    pub description: String,
    /// How many users like it.
    pub stars: u64,
    /// The registry's owner answers for it.
    pub official: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    results: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: u64,
    #[serde(default)]
    is_official: bool,
}

/// The repositories of a registry whose name or description fits `word`, `limit` at most; all of
/// them if it is empty.
///
/// Errors: unauthorized, not found (the registry lists nothing), and what a registry that lies or
/// cannot be reached leads to.
pub fn search(registry: &str, word: &str, limit: usize, access: &Access) -> Result<Vec<Found>> {
    let is_hub = registry == "docker.io";
    // The registry of Docker Hub has no search; its index has.
    let host = if is_hub { "index.docker.io" } else { registry };
    let client = Client::new(host, "", access.clone());
    if is_hub || !word.is_empty() {
        match asked(&client, word, limit) {
            Ok(found) => return Ok(found),
            Err(err) if is_hub || err.kind() == Kind::Engine => return Err(err),
            Err(err) => log::debug!("{registry} has no search of its own: {err}"),
        }
    }
    listed(&client, word, limit)
}

/// Docker's search (`/v1/search`).
fn asked(client: &Client, word: &str, limit: usize) -> Result<Vec<Found>> {
    let path = format!("/v1/search?q={}&n={limit}", token::encode(word));
    let text = retrying(client.transport.access(), || {
        let response = client.ask(&Method::GET, "search", &path, &[]).map_err(no_such_service)?;
        read_all(&client.domain, response, MANIFEST_MAX)
    })?;
    let answer: Answer = serde_json::from_slice(&text).map_err(|err| {
        Error::invalid(format!(
            "{}: the answer to a search is not understood: {err}",
            client.domain
        ))
    })?;
    let found = answer.results.into_iter().take(limit).map(|entry| Found {
        name: entry.name,
        description: entry.description.unwrap_or_default(),
        stars: entry.star_count,
        official: entry.is_official,
    });
    Ok(found.collect())
}

/// A registry that answers, but not to this, may have a catalogue.
fn no_such_service(fault: Fault) -> Fault {
    if let Fault::Final(err) = &fault
        && err.to_string().starts_with("search")
    {
        return Fault::Final(Error::new(Kind::NotFound, err.to_string()));
    }
    fault
}

/// What of the catalogue has `word` in its name; that very name first.
fn listed(client: &Client, word: &str, limit: usize) -> Result<Vec<Found>> {
    let mut names: Vec<String> = Vec::new();
    let whole = |names: &[String]| names.first().is_some_and(|name| name == word);
    let taken = client.listed("repositories", "/v2/_catalog", |page| {
        for name in page.into_iter().filter(|name| name.contains(word)) {
            let at = if name == word { 0 } else { names.len() };
            names.insert(at, name);
        }
        // A name that is the word itself may be on any page.
        names.len() > limit && (word.is_empty() || whole(&names))
    });
    taken.map_err(|err| {
        if err.kind() != Kind::NotFound {
            return err;
        }
        Error::unsupported(format!("{} tells nobody what it has: {err}", client.domain))
            .hint("`dhow search --list-tags NAME` asks for the tags of a repository")
    })?;
    names.truncate(limit);
    let found = |name| Found { name, description: String::new(), stars: 0, official: false };
    Ok(names.into_iter().map(found).collect())
}
