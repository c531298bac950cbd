//! Containers, their names and what runs.

use std::fs;

use super::{Check, entries, is_temporary, name};
use crate::{
    engine::container::Container,
    error::{Kind, Result},
    run::discard,
    state::{ContainerId, store::write_new},
};

impl Check<'_> {
    /// Each container has a record, its layers and its name; each name a container.
    pub(super) fn containers(&mut self) -> Result<()> {
        for dir in entries(&self.engine.layout.containers())? {
            let Ok(id) = name(&dir).parse::<ContainerId>() else {
                self.stranger(&dir);
                continue;
            };
            self.report.containers += 1;
            match self.engine.load(&id) {
                Ok(container) => self.container(&id, &container),
                Err(err) if err.kind() == Kind::NotFound => {}
                Err(err) => {
                    let engine = self.engine;
                    let remedy =
                        format!("--repair --force, or `dhow rm -f {}`, removes it", id.short());
                    let what = format!("container {}", id.short());
                    self.beyond_repair(what, err.to_string(), remedy, || {
                        engine.remove(&id, true, false)
                    });
                }
            }
        }
        self.claims()?;
        self.runtime()
    }

    fn container(&mut self, id: &ContainerId, container: &Container) {
        let layout = &self.engine.layout;
        let record = &container.record;
        let what = format!("container {}", record.name);
        for layer in &record.layers {
            if !layout.layer_diff(layer).is_dir() && !self.can_be_unpacked(layer) {
                let wrong = format!("its layer {layer} is not here");
                let remedy = format!("pull or load image {} again", record.image);
                self.stays(what.clone(), wrong, remedy);
            }
        }
        self.wants(record);
        let layout = &self.engine.layout;
        let claim = layout.names().join(&record.name);
        let owner = fs::read_to_string(&claim).unwrap_or_default();
        if owner.trim() == id.as_str() {
            return;
        }
        if owner.is_empty() {
            let dir = layout.container(id).dir().to_owned();
            self.mendable(what, "its name is not noted", "notes it", || {
                write_new(&claim, id.as_str().as_bytes(), &dir).map(drop)
            });
        } else {
            let wrong = format!("its name is that of container {}", owner.get(..12).unwrap_or("?"));
            self.stays(what, wrong, format!("`dhow rename {} OTHER`", id.short()));
        }
    }

    /// Whether an image's fault tells of the layer already, and how to mend it.
    fn can_be_unpacked(&self, layer: &crate::oci::Digest) -> bool {
        let images = self.engine.store.list().unwrap_or_default();
        images.iter().any(|image| image.record.chain_ids().any(|have| have == layer))
    }

    fn claims(&mut self) -> Result<()> {
        let layout = &self.engine.layout;
        for claim in entries(&layout.names())? {
            let owner = fs::read_to_string(&claim).unwrap_or_default();
            let is_here = owner.trim().parse::<ContainerId>().is_ok_and(|id| {
                let staged = layout.staging().join(format!("container-{id}"));
                layout.container(&id).dir().exists() || staged.exists()
            });
            if !is_here && claim.exists() && !is_temporary(name(&claim)) {
                let what = format!("container name {}", name(&claim));
                self.mendable(what, "there is no such container", "frees it", || {
                    match owner.trim().parse() {
                        Ok(id) => discard::release_name(&claim, &id),
                        Err(_) => Ok(fs::remove_file(&claim)?),
                    }
                });
            }
        }
        Ok(())
    }

    /// What is noted of running containers that are no more.
    fn runtime(&mut self) -> Result<()> {
        let layout = &self.engine.layout;
        for dir in entries(&layout.run_containers())? {
            let Ok(id) = name(&dir).parse::<ContainerId>() else {
                self.stranger(&dir);
                continue;
            };
            let paths = layout.container(&id);
            let staged = layout.staging().join(format!("container-{id}"));
            if paths.dir().exists() || staged.exists() {
                continue;
            }
            let boot_id = &self.engine.facts.boot_id;
            let what = format!("runtime directory of container {}", id.short());
            self.mendable(what, "there is no such container", "removes it", || {
                discard::abandoned(&paths, boot_id)?;
                discard::runtime(layout, &paths)?.remove()
            });
        }
        Ok(())
    }
}
