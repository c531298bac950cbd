//! `diff` and `commit`: what a container has changed, and an image made of it.

use std::{
    fs::File,
    io::{Seek as _, SeekFrom},
    os::fd::AsFd as _,
    path::PathBuf,
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Container, Status};
use crate::{
    cgroup::Cgroup,
    engine::{Engine, image::no_such_image},
    error::{Context as _, Error, Result},
    image::{
        Image, Seal as _, Sealing, Silent,
        archive::{self, Commit},
        layer::{Apply, Change, Form, Ownership},
        push::Format,
        unpack::{self, InUserNamespace},
    },
    oci::Reference,
    state::{
        ContainerId,
        record::{ContainerConfig, MountKind, MountRecord, Storage},
    },
    sys::fs::Time,
};

/// What a start makes in the root file system to mount something on. Docker has these in a layer
/// of their own that belongs to nobody.
const PLACES: [&str; 6] = ["dev", "proc", "sys", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// What `commit` was told.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    pub reference: Option<Reference>,
    pub changes: Vec<String>,
    pub message: String,
    pub author: String,
    /// A container that runs stands still meanwhile.
    pub pause: bool,
    /// Fields of the image's configuration, over the container's own.
    pub config: Map<String, Value>,
    /// Where something is mounted is a volume of the image.
    pub include_volumes: bool,
    /// One layer of all its files.
    pub squash: bool,
    /// Whose media types the image's manifest has.
    pub format: Format,
}

/// An upperdir, what it lies on, and who can read it.
struct Layers {
    upper: PathBuf,
    lowers: Vec<PathBuf>,
    form: Form,
    helper: Option<InUserNamespace>,
}

impl Engine {
    /// What a container has changed, parents before what is in them. Paths are relative to its
    /// root.
    pub fn diff(&self, id: &ContainerId) -> Result<Vec<Change>> {
        let Layers { upper, lowers, form, helper } = self.layers(&self.load(id)?)?;
        match helper {
            Some(helper) => helper.changes(&upper, &lowers, &places(), form),
            None => unpack::changes_here(&upper, &lowers, &places(), form),
        }
    }

    /// Makes an image of a container: its image's layers, and one with what it has changed.
    pub fn commit(&self, id: &ContainerId, request: &CommitRequest) -> Result<Image> {
        let container = self.load(id)?;
        let record = &container.record;
        if record.host.special.rootfs.is_some() {
            return Err(Error::unsupported(format!(
                "container {} is made of no image that one of it could be made on",
                record.name
            ))
            .hint(format!(
                "`dhow export {} | dhow import -` makes one of all its files",
                record.name
            )));
        }
        let base = self.store.image(&record.image_id)?.ok_or_else(|| {
            no_such_image(&record.image).context("the container's image has been removed")
        })?;
        let layers = self.layers(&container)?;
        let file = tempfile::tempfile_in(self.layout.staging()).at(self.layout.staging())?;
        let written = {
            let still = Still::hold(&container, request.pause)?;
            if still.0.is_some() {
                self.note(record, "pause");
            }
            let Layers { upper, lowers, form, helper } = &layers;
            let how = Sealing { places: places(), ..Sealing::default() };
            let written = match helper {
                _ if request.squash => self.export_to(id, file.as_fd()).map(drop),
                Some(helper) => helper.layer_tar(upper, lowers, &how, *form, &file),
                None => self.unpacker().layer_tar(upper, lowers, &how, *form, &file),
            };
            if still.0.is_some() {
                self.note(record, "unpause");
            }
            written
        };
        written.doing_with(|| format!("read what container {} has changed", record.name))?;
        let mut file: File = file;
        file.seek(SeekFrom::Start(0)).doing("read the layer")?;
        let command = [&record.config.entrypoint[..], &record.config.cmd].concat();
        let commit = Commit {
            base: &base.record,
            config: {
                let mut config = config(&record.config);
                if request.include_volumes {
                    declare_volumes(&mut config, &record.host.mounts);
                }
                config.extend(request.config.clone());
                config
            },
            squash: request.squash,
            format: request.format,
            changes: &request.changes,
            message: &request.message,
            author: &request.author,
            created: Timestamp::now(),
            created_by: command.join(" "),
            reference: request.reference.clone(),
        };
        let image = archive::commit(&mut file, commit, &self.store, &*self.unpacker(), &Silent)?;
        self.note_with(record, "commit", "imageID", &image.record.id.to_string());
        Ok(image)
    }

    fn layers(&self, container: &Container) -> Result<Layers> {
        let record = &container.record;
        let paths = self.layout.container(&record.id);
        let form = match record.storage {
            Storage::Native => Form::Overlay,
            Storage::Fuse => {
                settle(container);
                Form::Fuse
            }
            Storage::Copy => {
                let copies = paths.copies();
                let stat = rustix::fs::stat(&copies).map_err(Error::from).at(&copies)?;
                Form::Copy(Time::changed(&stat))
            }
        };
        if let Some(dir) = record.own_directory() {
            return Err(Error::unsupported(format!(
                "container {} writes into {} itself: what it has changed is not known",
                record.name,
                dir.display()
            ))
            .hint("--rootfs PATH:O keeps what is written apart"));
        }
        let mut lowers: Vec<PathBuf> = match &record.host.special.rootfs {
            Some(rootfs) => vec![rootfs.path.clone()],
            None => record.layers.iter().rev().map(|layer| self.layout.layer_diff(layer)).collect(),
        };
        // Copies were made of the layers themselves.
        if let Some(mapped) = self.mapped_lowers(record)?.filter(|_| !matches!(form, Form::Copy(_)))
        {
            lowers = mapped;
        }
        let upper = match form {
            Form::Overlay | Form::Fuse => paths.upper(),
            Form::Copy(_) => paths.copy(),
        };
        let how = Apply { ownership: Ownership::Keep, user_xattr: true };
        let maps = self.maps_on_disk(record)?;
        let helper = maps.map(|maps| InUserNamespace::new(maps, how));
        Ok(Layers { upper, lowers, form, helper })
    }
}

/// The kernel may hold what a container that runs has written, and its server does not know of yet.
fn settle(container: &Container) {
    let Status::Running(process) = &container.status else { return };
    let root = format!("/proc/{}/root", process.init.pid);
    if let Err(err) = File::open(&root).and_then(|root| Ok(nix::unistd::syncfs(root)?)) {
        log::debug!("sync {root}: {err}");
    }
}

pub(in crate::engine) fn places() -> Vec<Vec<u8>> {
    PLACES.map(|place| place.as_bytes().to_vec()).into()
}

/// A container that was running stands still for as long as this lives. One without a cgroup
/// cannot be made to; docker's image of it would be as good as the moment, and so is ours.
struct Still(Option<Cgroup>);

impl Still {
    fn hold(container: &Container, pause: bool) -> Result<Self> {
        let Status::Running(process) = &container.status else { return Ok(Self(None)) };
        match process.cgroup.clone().filter(|_| pause) {
            Some(path) => {
                let cgroup = Cgroup::open(path)?;
                cgroup.freeze()?;
                Ok(Self(Some(cgroup)))
            }
            None => Ok(Self(None)),
        }
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.0 {
            // One that has been removed meanwhile needs nothing more.
            let _ = cgroup.thaw();
        }
    }
}

fn declare_volumes(config: &mut Map<String, Value>, mounts: &[MountRecord]) {
    let is_volume =
        |mount: &&MountRecord| matches!(mount.kind, MountKind::Bind { .. } | MountKind::Volume(_));
    let targets = mounts.iter().filter(is_volume).map(|mount| (mount.target.clone(), json!({})));
    let all = config.entry("Volumes").or_insert(Value::Null);
    let mut volumes = all.as_object().cloned().unwrap_or_default();
    volumes.extend(targets);
    if !volumes.is_empty() {
        *all = volumes.into();
    }
}

/// The container's own configuration as an image has it.
fn config(own: &ContainerConfig) -> Map<String, Value> {
    let set = |members: &[String]| -> Value {
        members.iter().map(|member| (member.clone(), json!({}))).collect::<Map<_, _>>().into()
    };
    let fields = [
        ("User", json!(own.user), own.user.is_empty()),
        ("Env", json!(own.env), own.env.is_empty()),
        ("Entrypoint", json!(own.entrypoint), own.entrypoint.is_empty()),
        ("Cmd", json!(own.cmd), own.cmd.is_empty()),
        ("WorkingDir", json!(own.working_dir), own.working_dir.is_empty()),
        ("Labels", json!(own.labels), own.labels.is_empty()),
        ("ExposedPorts", set(&own.exposed_ports), own.exposed_ports.is_empty()),
        ("Volumes", set(&own.volumes), own.volumes.is_empty()),
        ("StopSignal", json!(own.stop_signal), own.stop_signal.is_empty()),
    ];
    // Null: the container has none, whatever its image had.
    let value = |(name, value, empty): (&str, Value, bool)| {
        (name.to_owned(), if empty { Value::Null } else { value })
    };
    fields.into_iter().map(value).collect()
}
