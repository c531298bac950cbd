//! Layers with other owners.
//!
//! Layers are unpacked for the usual id maps. A container with others would see its files belong
//! to the wrong users, so each layer is copied for such maps when first needed. The copy lies in
//! the layer's own directory and goes with it. Like a layer it is made in staging and renamed
//! into place, complete; whoever makes one pins the layer meanwhile.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use super::{Store, Unpack as _, addition::is_occupied, lock::Pin, unpack::InUserNamespace};
use crate::{
    error::{Context as _, Error, Result},
    oci::Digest,
    state::store::create_private_dir,
    sys::user::IdMaps,
};

impl Store {
    /// The lowerdir of a layer for containers with `maps`; made by `helper` if it is not there.
    pub fn mapped_layer(
        &self,
        chain_id: &Digest,
        maps: &IdMaps,
        helper: &InUserNamespace,
    ) -> Result<PathBuf> {
        let home = self.layout().layer_mapped(chain_id, &digest(maps)?);
        let diff = home.join("diff");
        if diff.exists() {
            return Ok(diff);
        }
        let layer = self.layout().layer(chain_id);
        let _pin = Pin::shared(&layer)?
            .ok_or_else(|| Error::not_found(format!("layer {chain_id} is not here")))?;
        let staged = self.stage_dir()?;
        let copied = helper
            .copy_mapped(&layer.join("diff"), staged.path(), maps)
            .doing_with(|| format!("copy layer {} for other id maps", chain_id.short()));
        if let Err(err) = copied {
            staged.discard(&|tree| helper.remove(tree))?;
            return Err(err);
        }
        // As for a layer: after a power cut a copy that can be seen must be whole.
        let dir = File::open(staged.path()).at(staged.path())?;
        nix::unistd::syncfs(&dir).at(staged.path()).doing("sync")?;
        create_private_dir(&layer.join("maps"))?;
        match fs::rename(staged.path(), &home) {
            Ok(()) => {}
            // Another command was faster; both copies are equal.
            Err(err) if is_occupied(&err) => staged.discard(&|tree| helper.remove(tree))?,
            Err(err) => return Err(err).at(&home).doing("commit a copied layer"),
        }
        Ok(diff)
    }

    /// Where [`mapped_layer`](Self::mapped_layer) puts it.
    pub fn mapped_layer_path(&self, chain_id: &Digest, maps: &IdMaps) -> Result<PathBuf> {
        Ok(self.layout().layer_mapped(chain_id, &digest(maps)?).join("diff"))
    }
}

/// What names a copy: the same maps mean the same owners on disk.
fn digest(maps: &IdMaps) -> Result<Digest> {
    Ok(Digest::of(&serde_json::to_vec(maps)?))
}
