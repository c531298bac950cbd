//! How an image came to be, and what its layers are shared with.

use jiff::Timestamp;

use crate::{engine::Engine, error::Result, image::Image, oci::Digest};

/// One step of an image's making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The image's id, of the newest step.
    pub image: Option<Digest>,
    pub created: Option<Timestamp>,
    pub created_by: String,
    pub comment: String,
    /// Bytes of content in its layer; 0 if it made none.
    pub size: u64,
}

impl Engine {
    /// The image's steps, newest first. A layer that the configuration is silent about has a step
    /// without words.
    pub fn history(&self, image: &Image) -> Result<Vec<Step>> {
        let config = self.store.config(&image.record)?;
        let mut layers = image.record.chain_ids();
        let mut steps = Vec::new();
        for entry in config.history().iter().flatten() {
            let layer = if entry.empty_layer() == Some(true) { None } else { layers.next() };
            steps.push(Step {
                image: None,
                created: entry.created().as_deref().and_then(|text| text.parse().ok()),
                created_by: entry.created_by().clone().unwrap_or_default(),
                comment: entry.comment().clone().unwrap_or_default(),
                size: layer.map_or(Ok(0), |layer| self.layer_size(layer))?,
            });
        }
        for layer in layers {
            let size = self.layer_size(layer)?;
            let (created_by, comment) = (String::new(), String::new());
            steps.push(Step { image: None, created: None, created_by, comment, size });
        }
        if let Some(newest) = steps.last_mut() {
            newest.image = Some(image.record.id.clone());
        }
        steps.reverse();
        Ok(steps)
    }

    fn layer_size(&self, layer: &Digest) -> Result<u64> {
        self.store.layer(layer).map(|record| record.size)
    }
}
