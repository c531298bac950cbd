//! Builders, as buildx calls them: names of whoever builds. All of them mean dhow on this machine.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::foreign;
use crate::{
    engine::Engine,
    error::{Error, Result},
    oci::Platform,
    state::{
        name::ContainerId,
        store::{Durability, Lock, create_private_dir, read_json, write_json},
    },
};

/// The one that is always there.
pub const DEFAULT: &str = "default";
/// What a builder is made with that nobody chose otherwise for (buildx).
pub const DRIVER: &str = "docker-container";

/// A name, and what was said when it was made; none of that changes how it builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuilderRecord {
    pub name: String,
    pub driver: String,
    /// `KEY=VALUE`.
    #[serde(default)]
    pub options: Vec<String>,
    #[serde(default)]
    pub flags: Vec<String>,
    /// Those that were named.
    #[serde(default)]
    pub platforms: Vec<String>,
    pub created: Timestamp,
}

/// `builders/list.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builders {
    /// The one in use, unless it is `default`.
    #[serde(default)]
    pub current: Option<String>,
    #[serde(default)]
    pub all: Vec<BuilderRecord>,
}

impl Builders {
    /// The name of the one in use.
    pub fn current(&self) -> &str {
        self.current.as_deref().unwrap_or(DEFAULT)
    }

    /// One that was made; `None` is `default`.
    pub fn find(&self, name: &str) -> Result<Option<&BuilderRecord>> {
        if name.is_empty() || name == DEFAULT {
            return Ok(None);
        }
        let found = self.all.iter().find(|builder| builder.name == name);
        found.map(Some).ok_or_else(|| {
            Error::not_found(format!("no builder {name:?} found"))
                .hint("`dhow buildx ls` lists them; every one of them means dhow on this machine")
        })
    }

    /// Makes one.
    pub fn add(&mut self, builder: BuilderRecord) -> Result<()> {
        if builder.name == DEFAULT {
            return Err(Error::invalid(
                "default is a reserved name and cannot be used to identify builder instance",
            ));
        }
        if self.all.iter().any(|known| known.name == builder.name) {
            return Err(Error::conflict(format!(
                "existing instance for {:?} but no append mode, specify the node name to make changes for existing instances",
                builder.name
            ))
            .hint(format!("`dhow buildx rm {}` removes it", builder.name)));
        }
        self.all.push(builder);
        self.all.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(())
    }

    /// Chooses the one in use.
    pub fn choose(&mut self, name: &str) -> Result<()> {
        self.current = self.find(name)?.map(|builder| builder.name.clone());
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Result<()> {
        let Some(name) = self.find(name)?.map(|builder| builder.name.clone()) else {
            return Err(Error::invalid("the builder default cannot be removed"));
        };
        self.all.retain(|builder| builder.name != name);
        if self.current.as_deref() == Some(&*name) {
            self.current = None;
        }
        Ok(())
    }
}

impl Engine {
    pub fn builders(&self) -> Result<Builders> {
        Ok(read_json(&self.layout.builder_list())?.unwrap_or_default())
    }

    /// Changes them, alone.
    pub fn change_builders<T>(&self, change: impl FnOnce(&mut Builders) -> Result<T>) -> Result<T> {
        let dir = self.layout.builders();
        create_private_dir(&dir)?;
        let _lock = Lock::exclusive(&dir)?;
        let mut builders = self.builders()?;
        let done = change(&mut builders)?;
        write_json(&self.layout.builder_list(), &builders, Durability::Synced)?;
        Ok(done)
    }
}

/// A name for one that nobody named.
pub fn invent_name() -> Result<String> {
    Ok(crate::state::name::invent(&ContainerId::random()?, 0))
}

/// A name as buildx allows it.
pub fn check_name(name: &str) -> Result<()> {
    let rest = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(rest) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "invalid name {name}, name needs to start with a letter and may not contain symbols, except ._-"
        ))),
    }
}

/// What programs of can run here: this machine's own, then those that an emulator is registered for.
pub fn platforms() -> Result<Vec<Platform>> {
    let own = super::host_platform()?;
    let mut found = vec![own.clone()];
    found.extend(foreign::emulated().filter(|other| other.architecture != own.architecture));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> BuilderRecord {
        BuilderRecord {
            name: name.into(),
            driver: DRIVER.into(),
            options: Vec::new(),
            flags: Vec::new(),
            platforms: Vec::new(),
            created: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn one_of_them_is_in_use() {
        let mut builders = Builders::default();
        assert_eq!(builders.current(), "default");
        builders.add(record("two")).expect("two");
        builders.add(record("one")).expect("one");
        builders.add(record("one")).expect_err("twice");
        builders.add(record("default")).expect_err("reserved");
        builders.choose("two").expect("choose");
        assert_eq!(builders.current(), "two");
        builders.choose("three").expect_err("unknown");
        builders.remove("two").expect("remove");
        assert_eq!(builders.current(), "default");
        builders.remove("default").expect_err("default");
        assert_eq!(builders.find("one").expect("one").expect("made").name, "one");
    }

    #[test]
    fn names_are_those_of_buildx() {
        for name in ["ci", "a.b-c_1"] {
            check_name(name).expect(name);
        }
        for name in ["1a", "", "a/b", "a b", "-a"] {
            check_name(name).expect_err(name);
        }
    }
}
