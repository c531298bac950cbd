//! What is different about an image than its instructions say (buildah's flags of that kind).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::config::Config;
use crate::{build::expand, error::Result};

/// When an image was made (image-spec annotations.md).
const CREATED: &str = "org.opencontainers.image.created";

/// Changes to the target, and to what stages take over from their bases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retouch {
    /// Variables, whose values may name others of the image.
    pub env: Vec<(String, String)>,
    pub unset_env: Vec<String>,
    pub unset_labels: Vec<String>,
    pub unset_annotations: Vec<String>,
    /// No stage has its base's labels.
    pub without_labels: bool,
    /// The image's manifest has the annotations of its base's.
    pub inherit_annotations: bool,
    /// It says when it was made in an annotation, too.
    pub created_annotation: bool,
    pub no_history: bool,
    /// `os.version` and `os.features` of the configuration (image-spec config.md).
    pub os_version: Option<String>,
    pub os_features: Vec<String>,
    /// The manifest is of Docker's kind.
    pub docker: bool,
}

impl Retouch {
    /// Changes an image's configuration.
    pub(super) fn document(&self, document: &mut Value) -> Result<()> {
        let mut config = Config(document.take());
        for (name, value) in &self.env {
            let value = expand::heredoc(value, &|name| config.variable(name))?;
            config.set_env(name, &value);
        }
        config.retain("Env", |entry| {
            let name = entry.split('=').next().unwrap_or_default();
            !self.unset_env.iter().any(|unset| unset == name)
        });
        for label in &self.unset_labels {
            config.take_away("Labels", label);
        }
        *document = config.0;
        if self.no_history
            && let Some(fields) = document.as_object_mut()
        {
            fields.remove("history");
        }
        if let Some(version) = &self.os_version {
            document["os.version"] = json!(version);
        }
        if !self.os_features.is_empty() {
            document["os.features"] = json!(self.os_features);
        }
        Ok(())
    }

    /// The annotations of an image's manifest: what its base's have come to.
    pub(super) fn annotations(
        &self,
        mut inherited: BTreeMap<String, String>,
        created: &Timestamp,
    ) -> BTreeMap<String, String> {
        // Docker's manifests have none.
        if self.docker {
            return BTreeMap::new();
        }
        inherited.retain(|key, _| !self.unset_annotations.contains(key));
        if self.created_annotation {
            inherited.insert(CREATED.into(), created.to_string());
        }
        inherited
    }
}
