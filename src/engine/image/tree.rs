//! The layers of an image and the images that stand on them.

use std::collections::BTreeMap;

use crate::{engine::Engine, error::Result, image::Image, oci::Digest};

/// One layer in a tree of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The layer's chainID.
    pub chain_id: Digest,
    /// Bytes of content.
    pub size: u64,
    /// The names of the images whose topmost layer it is; an id where there is no name.
    pub top_of: Vec<String>,
    pub children: Vec<Node>,
}

impl Engine {
    /// The image's layers, lowest first, each the child of the one below.
    pub fn layer_tree(&self, image: &Image) -> Result<Option<Node>> {
        let tops = self.tops()?;
        let mut node: Option<Node> = None;
        for layer in image.record.layers.iter().rev() {
            node = Some(self.node(&layer.chain_id, &tops, node.into_iter().collect())?);
        }
        Ok(node)
    }

    /// The image's topmost layer and everything that stands on it.
    pub fn dependents(&self, image: &Image) -> Result<Option<Node>> {
        let Some(top) = image.record.chain_ids().last() else { return Ok(None) };
        let mut above: BTreeMap<Digest, Vec<Digest>> = BTreeMap::new();
        for other in self.store.list()? {
            let chain: Vec<_> = other.record.chain_ids().cloned().collect();
            for pair in chain.windows(2) {
                let children = above.entry(pair[0].clone()).or_default();
                if !children.contains(&pair[1]) {
                    children.push(pair[1].clone());
                }
            }
        }
        self.grow(top, &above, &self.tops()?).map(Some)
    }

    fn grow(
        &self,
        layer: &Digest,
        above: &BTreeMap<Digest, Vec<Digest>>,
        tops: &BTreeMap<Digest, Vec<String>>,
    ) -> Result<Node> {
        let children = above.get(layer).into_iter().flatten();
        let children =
            children.map(|child| self.grow(child, above, tops)).collect::<Result<_>>()?;
        self.node(layer, tops, children)
    }

    fn node(
        &self,
        chain_id: &Digest,
        tops: &BTreeMap<Digest, Vec<String>>,
        children: Vec<Node>,
    ) -> Result<Node> {
        Ok(Node {
            size: self.store.layer(chain_id)?.size,
            top_of: tops.get(chain_id).cloned().unwrap_or_default(),
            chain_id: chain_id.clone(),
            children,
        })
    }

    /// What each image's topmost layer is called by.
    fn tops(&self) -> Result<BTreeMap<Digest, Vec<String>>> {
        let mut tops: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for image in self.store.list()? {
            let Some(top) = image.record.chain_ids().last() else { continue };
            let names = tops.entry(top.clone()).or_default();
            names.extend(image.names.iter().map(|named| named.name.familiar()));
            if image.names.is_empty() {
                names.push(image.record.id.short().to_owned());
            }
        }
        Ok(tops)
    }
}
