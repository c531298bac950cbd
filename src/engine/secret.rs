//! Secrets: the verbs, and how containers get theirs.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use jiff::Timestamp;
use serde_json::json;

use super::{Engine, inspect::Document};
use crate::{
    error::{Context as _, Error, Result},
    run::plan::{ProcessPlan, c_strings},
    run::spec::merge_environment,
    state::{
        ContainerId,
        journal::{self, Event},
        layout::ContainerPaths,
        record::{ContainerRecord, SecretGrant, SecretShown},
        secret::{self, SecretRecord, SecretValue},
        store::{self, Durability, create_private_dir},
    },
};

/// The only driver there is: podman's name for a file of the user's own.
pub const DRIVER: &str = "file";

/// Where the files of secrets are in a container, unless a path was chosen.
pub const DIRECTORY: &str = "/run/secrets";

/// What to do about a secret that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfThere {
    Refuse,
    Keep,
    Replace,
}

impl Engine {
    /// Keeps a secret, and says what its id is.
    pub fn create_secret(
        &self,
        name: &str,
        value: SecretValue,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
        if_there: IfThere,
    ) -> Result<String> {
        secret::check_name(name)?;
        let now = Timestamp::now();
        let id: String = ContainerId::random()?.as_str().chars().take(25).collect();
        let name = name.to_owned();
        let mut record =
            SecretRecord { id, name, created: now, updated: now, labels, options, value };
        while !secret::create(&self.layout, &record)? {
            // It may go between the two.
            let Some(old) = secret::find(&self.layout, &record.name)? else { continue };
            match if_there {
                IfThere::Keep => return Ok(old.id),
                IfThere::Refuse => {
                    return Err(Error::conflict(format!("{}: secret name in use", record.name))
                        .hint("--replace puts this value in its place"));
                }
                IfThere::Replace => {
                    record.created = old.created;
                    secret::replace(&self.layout, &record)?;
                    break;
                }
            }
        }
        self.note_secret(&record, "create");
        Ok(record.id)
    }

    /// The secret of this name or id, or the one whose id begins so.
    pub fn secret(&self, typed: &str) -> Result<SecretRecord> {
        if let Some(found) = secret::find(&self.layout, typed)? {
            return Ok(found);
        }
        let begins = |record: &SecretRecord| record.id.starts_with(typed);
        let (found, _) = secret::list(&self.layout)?;
        let mut found = found.into_iter().filter(|record| !typed.is_empty() && begins(record));
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => {
                Err(Error::conflict(format!("{typed} is the beginning of several secrets' ids")))
            }
            (None, _) => Err(Error::not_found(format!(
                "no secret with name or id \"{typed}\": no such secret"
            ))
            .hint("`dhow secret ls` lists the secrets there are")),
        }
    }

    /// Describes a secret; its value only if that is to be shown.
    pub fn describe_secret(&self, typed: &str, value: bool) -> Result<Document> {
        let record = self.secret(typed)?;
        let mut fields = vec![
            ("ID", json!(record.id)),
            ("CreatedAt", json!(record.created)),
            ("UpdatedAt", json!(record.updated)),
            (
                "Spec",
                json!({
                    "Name": record.name,
                    "Driver": { "Name": DRIVER, "Options": record.options },
                    "Labels": record.labels,
                }),
            ),
        ];
        if value {
            fields.push(("SecretData", json!(String::from_utf8_lossy(record.value.bytes()))));
        }
        Ok(Document(fields))
    }

    /// Removes a secret. Containers keep what they were given.
    pub fn remove_secret(&self, typed: &str) -> Result<()> {
        // One that cannot be read can be removed all the same.
        let record = match secret::check_name(typed).is_ok() && self.layout.secret(typed).is_file()
        {
            true => secret::find(&self.layout, typed).ok().flatten(),
            false => Some(self.secret(typed)?),
        };
        let name = record.as_ref().map_or(typed, |record| &record.name);
        if !secret::remove(&self.layout, name)? {
            return Err(Error::not_found(format!(
                "no secret with name or id \"{typed}\": no such secret"
            )));
        }
        if let Some(record) = &record {
            self.note_secret(record, "remove");
        }
        Ok(())
    }

    fn note_secret(&self, record: &SecretRecord, action: &str) {
        let event = Event::now("secret", action, &record.id).with("name", &record.name);
        journal::append(&self.layout, &event);
    }

    /// Copies the secrets of a new container, for as long as it is there.
    pub(super) fn copy_secrets(&self, record: &ContainerRecord, staged: &Path) -> Result<()> {
        for (index, grant) in record.host.special.secrets.iter().enumerate() {
            let value = self.secret(&grant.name)?.value;
            let dir = staged.join("files/secrets").join(index.to_string());
            create_private_dir(&dir)?;
            self.copy_secret(record, grant, &value, &dir)
                .doing_with(|| format!("give the container secret {}", grant.name))?;
        }
        Ok(())
    }

    fn copy_secret(
        &self,
        record: &ContainerRecord,
        grant: &SecretGrant,
        value: &SecretValue,
        dir: &Path,
    ) -> Result<()> {
        let file = dir.join("value");
        store::write(&file, value.bytes(), Durability::Renamed)?;
        match &grant.shown {
            SecretShown::Env { .. } => match std::str::from_utf8(value.bytes()) {
                Ok(text) if !text.contains('\0') => Ok(()),
                Ok(_) | Err(_) => Err(Error::unsupported("a variable must be text without NUL")
                    .hint("type=mount gives it as a file")),
            },
            SecretShown::Mount { uid, gid, mode, .. } => {
                fs::set_permissions(&file, fs::Permissions::from_mode(*mode)).at(&file)?;
                // Who may enter the directories above is this user alone.
                fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).at(dir)?;
                let maps = self.maps_on_disk(record)?;
                self.give_to(dir, maps.as_ref(), (*uid, *gid))
            }
        }
    }

    /// Adds the variables that are secrets to what is executed: they are in no spec.
    pub(super) fn give_secret_variables(
        record: &ContainerRecord,
        paths: &ContainerPaths,
        process: &mut ProcessPlan,
    ) -> Result<()> {
        let mut variables = Vec::new();
        for (index, grant) in record.host.special.secrets.iter().enumerate() {
            let SecretShown::Env { name } = &grant.shown else { continue };
            let path = paths.secret(index);
            let value = fs::read(&path).at(&path).doing("read the container's secret")?;
            variables.push(format!("{name}={}", String::from_utf8_lossy(&value)));
        }
        if variables.is_empty() {
            return Ok(());
        }
        let env = process.env.iter().map(|entry| entry.to_string_lossy().into_owned()).collect();
        process.env = c_strings(&merge_environment(env, &variables))?;
        Ok(())
    }
}
