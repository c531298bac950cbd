//! Names and ids, and how what a user typed becomes one container.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};

/// A container's full id: 64 lower-case hex digits.
///
/// What a user types (a name, a prefix) is a `&str` until the engine's lookup makes it this.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(Box<str>);

impl ContainerId {
    /// A fresh id from the kernel's random source (`getrandom(2)`).
    pub fn random() -> Result<Self> {
        use std::io::Read as _;

        use crate::error::Context as _;

        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut bytes))
            .at("/dev/urandom")?;
        let hex = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
        Ok(Self(hex.filter_map(|n| char::from_digit(u32::from(n), 16)).collect()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as listings show them.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() == 64 && is_hex(text) {
            Ok(Self(text.into()))
        } else {
            Err(Error::invalid(format!("{text:?} is not a container id")))
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ContainerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Whether `text` could be the beginning of an id.
pub fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The rule for container names: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, one leading `/` dropped. As
/// podman; docker wants two characters at least.
///
/// The rule also keeps names from being paths or flags, since they become file names.
pub fn check_name(text: &str) -> Result<&str> {
    let name = text.strip_prefix('/').unwrap_or(text);
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && (1..=200).contains(&name.len()) {
        return Ok(name);
    }
    Err(Error::invalid(format!("invalid container name {text:?}")).hint(
        "a name has 1 to 200 of the characters a-z A-Z 0-9 _ . - and begins with a letter or digit",
    ))
}

const ADJECTIVES: &[&str] = &[
    "able", "amber", "apt", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "crisp",
    "deft", "eager", "early", "fair", "fast", "fine", "firm", "fleet", "fond", "free", "fresh",
    "glad", "golden", "good", "grand", "hale", "happy", "hardy", "keen", "kind", "lean", "light",
    "lively", "loyal", "lucid", "merry", "mild", "neat", "nimble", "noble", "open", "plain",
    "prime", "proud", "quick", "quiet", "rapid", "ready", "sharp", "silent", "sleek", "smart",
    "snug", "solid", "spry", "steady", "still", "sunny", "sure", "swift", "tidy", "true", "vivid",
    "warm", "wise", "witty",
];

const BOATS: &[&str] = &[
    "barge", "bark", "bireme", "brig", "canoe", "caravel", "carrack", "catboat", "clipper", "cog",
    "coracle", "corvette", "cutter", "dinghy", "dory", "felucca", "ferry", "frigate", "galleon",
    "galley", "gondola", "hulk", "jolly", "junk", "kayak", "keel", "ketch", "knarr", "launch",
    "lighter", "longship", "lugger", "packet", "pinnace", "pirogue", "prahu", "proa", "punt",
    "raft", "sampan", "schooner", "scow", "shallop", "skiff", "sloop", "smack", "snow", "tender",
    "trireme", "trawler", "tug", "whaler", "wherry", "xebec", "yacht", "yawl",
];

/// A readable name for a container nobody named. `attempt` beyond the first adds digits, so
/// that a full house still finds one.
pub fn invent(id: &ContainerId, attempt: usize) -> String {
    let seed = |at: usize| usize::from_str_radix(&id.as_str()[at..at + 8], 16).unwrap_or(0);
    let shift = 8 * (attempt % 3);
    let adjective = ADJECTIVES[seed(shift) % ADJECTIVES.len()];
    let boat = BOATS[seed(shift + 8) % BOATS.len()];
    if attempt < 3 {
        format!("{adjective}_{boat}")
    } else {
        format!("{adjective}_{boat}{}", attempt - 2)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_cannot_be_paths_or_flags() {
        assert_eq!(check_name("/web").ok(), Some("web"));
        assert_eq!(check_name("web_1.a-b").ok(), Some("web_1.a-b"));
        for bad in ["", "/", "..", "-a", ".a", "a/b", "a b", "a\n", "ä1", "//web"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_64_hex_and_invented_names_are_valid() {
        let id = ContainerId::random().expect("urandom");
        assert_eq!(id.as_str().parse::<ContainerId>().ok(), Some(id.clone()));
        assert!("../../x".parse::<ContainerId>().is_err());
        let names: BTreeSet<_> = (0..50).map(|attempt| invent(&id, attempt)).collect();
        assert!(names.len() > 45, "there is always another one");
        assert!(names.iter().all(|name| check_name(name).is_ok()));
    }
}
