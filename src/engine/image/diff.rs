//! `image diff`: what an image has changed, or how two differ.

use std::path::PathBuf;

use crate::{
    engine::Engine,
    error::Result,
    image::{
        Image,
        layer::{Apply, Change, Ownership},
        unpack::{InUserNamespace, compare_here},
    },
};

impl Engine {
    /// What the image's topmost layer has changed; with `other`, how the image differs from that
    /// one. Paths are relative to the root, parents before what is in them.
    pub fn image_diff(&self, typed: &str, other: Option<&str>) -> Result<Vec<Change>> {
        let image = self.image(typed)?;
        let other = other.map(|other| self.image(other)).transpose()?;
        let of = [Some(&image), other.as_ref()].into_iter().flatten();
        let _pins: Vec<_> =
            of.map(|image| self.store.pin(&image.record.id)).collect::<Result<_>>()?;
        let newer = self.lowers_of(&image);
        let older = match &other {
            Some(other) => self.lowers_of(other),
            None => newer.get(1..).unwrap_or_default().to_vec(),
        };
        self.compare((&newer, &older), false)
    }

    /// What differs between two stacks of lowerdirs, topmost first.
    pub(in crate::engine) fn compare(
        &self,
        stacks: (&[PathBuf], &[PathBuf]),
        files_only: bool,
    ) -> Result<Vec<Change>> {
        let Some(maps) = self.maps() else { return compare_here(stacks, files_only) };
        let how = Apply { ownership: Ownership::Keep, user_xattr: true };
        InUserNamespace::new(maps, how).compare(stacks, files_only, &self.layout.layers())
    }

    /// Topmost first.
    pub(in crate::engine) fn lowers_of(&self, image: &Image) -> Vec<PathBuf> {
        let diff = |layer| self.layout.layer_diff(layer);
        let mut lowers: Vec<PathBuf> = image.record.chain_ids().map(diff).collect();
        lowers.reverse();
        lowers
    }
}
