//! `--squash`: one layer of those that the build has put on its base.

use serde_json::{Value, json};

use super::{
    stage::{Builder, Outcome, key},
    workspace::{Made, layer_ref},
};
use crate::{
    error::{Context as _, Error, Result},
    image::{LayerRef, Sealing, store::LayerRecord},
};

/// Which layers become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Squash {
    #[default]
    No,
    /// Those of the build.
    New,
    /// Those of its base, too.
    All,
}

impl Builder<'_> {
    pub(super) fn squash(&self, outcome: &mut Outcome) -> Result<()> {
        let base = match self.request.squash {
            Squash::No => return Ok(()),
            Squash::New => outcome.base,
            Squash::All => Default::default(),
        };
        let (below, new) = outcome.layers.split_at(base.layers);
        let [_, .., top] = new else { return Ok(()) };
        let chain = below.last().map_or("scratch", |layer| layer.chain_id.as_str());
        let key = key(&["squash 1", chain, top.chain_id.as_str(), &self.epoch.to_string()]);
        let layer = match self.found(below, &key)? {
            Some(layer) => layer,
            None => {
                let (layer, size) = self.as_one(below, new).doing("squash the layers")?;
                self.remember(&key, "squashed layers", &layer, size);
                layer
            }
        };
        let count = new.len();
        outcome.layers.truncate(base.layers);
        outcome.layers.push(layer);
        // As docker's engine has it: the steps stay to be read, without layers.
        let history = outcome.document["history"].as_array_mut();
        let history = history.ok_or_else(|| Error::engine("a history that is no list"))?;
        let created = history.last().map_or(Value::Null, |last| last["created"].clone());
        history.iter_mut().skip(base.history).for_each(|entry| entry["empty_layer"] = json!(true));
        history.push(json!({ "created": created, "comment": format!("squash {count} layers") }));
        Ok(())
    }

    /// A layer that shows and hides what those of `new` do together, above `below`.
    fn as_one(&self, below: &[LayerRef], new: &[LayerRef]) -> Result<Made> {
        let _still = self.hold_layers();
        let diff = |layer: &LayerRef| self.addition.layer_diff(&layer.chain_id);
        let staged = self.addition.stage_layer()?;
        let dir = staged.diff();
        let target = dir.parent().ok_or_else(|| Error::engine("a layer without a place"))?;
        let sealed =
            self.unpacker.stack(&new.iter().map(diff).collect::<Vec<_>>(), target).and_then(|()| {
                let lowers: Vec<_> = below.iter().rev().map(diff).collect();
                let how = Sealing { latest: Some(self.epoch), ..Sealing::default() };
                self.unpacker.seal(&dir, &lowers, &how)
            });
        let remove = |tree: &std::path::Path| self.unpacker.remove(tree);
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(err) => {
                // What stays is cleaned up by a later command.
                staged.discard(&remove).ok();
                return Err(err);
            }
        };
        let layer = layer_ref(below, &sealed.diff_id, sealed.tar_size)?;
        let record = LayerRecord {
            diff_id: sealed.diff_id,
            size: sealed.size,
            tar_size: Some(sealed.tar_size),
            sealed: true,
        };
        self.addition.take_layer(staged, &layer.chain_id, &record, &remove)?;
        Ok((layer, sealed.size))
    }
}
