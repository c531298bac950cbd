//! `--cache-from` and `--cache-to`: what steps have made, on its way between machines.
//!
//! A cache is a manifest whose layers are blobs, and whose configuration ([`CACHE`]) lists steps:
//! the key of each, and which of the layers it made. In a directory it is an OCI image layout, in a
//! registry a tag. An inline cache is the same list as a field of the image's own configuration
//! ([`INLINE`]), and speaks of the image's layers. Keys are digests of all that a step was made
//! of, so that they mean the same everywhere; blobs are held against their digest and diffID.

mod give;
mod take;

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

pub(super) use give::give;
pub(super) use take::Shared;

use crate::{
    image::{LayerRef, push::Packing},
    oci::{Digest, Reference},
};

/// The media type of the list of steps.
const CACHE: &str = "application/vnd.dhow.buildcache.v1+json";
/// Where it stands in an image's configuration.
pub(super) const INLINE: &str = "dhow.buildcache.v1";
/// Of the list; steps take about 200 bytes each.
const LIST_MAX: u64 = 16 << 20;
const VERSION: u32 = 1;

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// An OCI image layout, and the tag in it.
    Directory(PathBuf, String),
    /// A repository and a tag.
    Registry(Reference),
}

/// One `--cache-to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheTo {
    /// With the image.
    Inline,
    Place {
        place: CachePlace,
        /// Steps of all stages, rather than those whose layers are in the image.
        all: bool,
        packing: Packing,
        /// What goes wrong is only told.
        ignore_error: bool,
    },
}

impl fmt::Display for CachePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path, tag) => write!(f, "{}:{tag}", path.display()),
            Self::Registry(name) => f.write_str(&name.familiar()),
        }
    }
}

/// The list of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct List {
    version: u32,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    /// Of all that it was made of.
    key: Digest,
    /// The instruction, for people.
    label: String,
    /// Which of the manifest's layers.
    layer: usize,
    #[serde(rename = "diffID")]
    diff_id: Digest,
    /// Bytes of file content.
    size: u64,
}

/// A step that a build has done, or found done.
#[derive(Debug, Clone)]
pub struct Used {
    pub key: Digest,
    pub label: String,
    pub layer: LayerRef,
    /// Bytes of file content.
    pub size: u64,
}

/// The list for an image of these layers, as its configuration holds it.
pub(super) fn inline(used: &[Used], layers: &[LayerRef]) -> serde_json::Value {
    serde_json::json!(List { version: VERSION, steps: steps(used, layers) })
}

/// The steps that made these layers, in the order of their keys.
fn steps(used: &[Used], layers: &[LayerRef]) -> Vec<Step> {
    let place = |used: &Used| layers.iter().position(|l| l.chain_id == used.layer.chain_id);
    let step = |used: &Used| {
        Some(Step {
            key: used.key.clone(),
            label: used.label.clone(),
            layer: place(used)?,
            diff_id: used.layer.diff_id.clone(),
            size: used.size,
        })
    };
    let mut steps: Vec<Step> = used.iter().filter_map(step).collect();
    steps.sort_by(|a, b| a.key.cmp(&b.key));
    steps.dedup_by(|a, b| a.key == b.key);
    steps
}
