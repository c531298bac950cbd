//! Every path dhow uses, drawn once.
//!
//! ```text
//! ROOT   $XDG_DATA_HOME/dhow, /var/lib/dhow as root
//!   VERSION                            the layout's version; doubles as dhow's mark on the tree
//!   blobs/sha256/<hex>                 immutable: manifests, configs, compressed layers
//!   partial/<hex>/data                 blobs still being fetched
//!   refs/<sha256 of the name>.json     one image name -> image id
//!   lists/<sha256 of the name>.json    one manifest list being made
//!   images/<id>/image.json             one image: manifest, config, layers
//!   layers/<chainID hex>/              one unpacked layer
//!                 layer.json
//!                 diff/                a lowerdir
//!                 maps/<hex>/diff/     the same with the owners of other id maps
//!   steps/<hex>.json                   what a build's step was made of -> the layer it made
//!         <sha256 of the address>.web  what a server said of a file that a build took
//!   caches/<hex>/<N>/                  cache mounts of builds
//!   builders/list.json                 names that builds are asked for by
//!   staging/                           what is being made; renamed into place when complete
//!   names/<name>                       a container's name: its content is the id
//!   events/journal[.1]                what has happened
//!   containers/<id>/container.json     what the user asked for
//!                   bundle/config.json what the kernel will be told (OCI runtime spec)
//!                   bundle/rootfs/     where the overlay is mounted (in the container only)
//!                   bundle/stack.json  the overlay's directories
//!                   upper/ work/       this container's upperdir and workdir
//!                   copy/diff/         instead, where there is no overlay: all of its files
//!                   overlays/<hex>/    upper/ and work/ of what is mounted with the option O
//!                   state.json         how it last started and ended
//!                   health.json        what its health checks found
//!                   stopped            somebody stopped it: no policy starts it again
//!                   files/             hostname, hosts, resolv.conf
//!                   files/secrets/<N>/ copies of the secrets it was given
//!                   egress.json        where it went, if that is limited or recorded
//!                   log.json[.N]       its output; log.raw, log.cri with other log drivers
//!   networks/<name>/network.json       one network: its addresses and options
//!                   leases.json        which container has which address
//!   volumes/<name>/volume.json         what the volume is
//!                  _data/              its files
//!                  fill/               locked by who copies an image's files into it
//!                  fill/begun          there while that is not finished
//!   secrets/<name>                     one secret
//! RUNROOT  $XDG_RUNTIME_DIR/dhow, /run/dhow as root; gone at reboot
//!   facts.json                         that overlayfs works on the store, found out once a boot
//!   containers/<id>/process.json       pid and start time of init and monitor
//!                   exec.plan          what an exec has to know; derived, may be missing
//!                   attach.sock        the monitor
//!                   start.sock         lets it go, while it is prepared and waits
//!                   ready              its start is through
//!                   keep               it is being restarted: its end does not remove it
//!                   network.json       its networks, addresses and published ports
//!   network/role.sock                  the network role
//!   mounts/<id>/rootfs/                where `image mount` mounts an image
//!   mounts/container-<id>/rootfs/      where `mount` mounts a container
//! ```

use std::path::{Path, PathBuf};

use super::{name::ContainerId, record::LogDriver};
use crate::oci::Digest;

/// The store's own directories, right beneath ROOT.
pub const TOP: [&str; 16] = [
    "blobs",
    "partial",
    "refs",
    "lists",
    "images",
    "layers",
    "staging",
    "steps",
    "caches",
    "names",
    "events",
    "containers",
    "volumes",
    "networks",
    "secrets",
    "builders",
];
/// What is right beneath RUNROOT.
pub const RUN_TOP: [&str; 5] = ["facts.json", "containers", "network", "mounts", "builds"];

/// The two roots, and the only place that joins a path below them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
    run: PathBuf,
}

impl Layout {
    pub fn new(root: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), run: run.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn run_root(&self) -> &Path {
        &self.run
    }

    pub fn version(&self) -> PathBuf {
        self.root.join("VERSION")
    }

    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.algorithm()).join(digest.hex())
    }

    pub fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(digest.hex())
    }

    pub fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    /// The file that holds one image name. Names may hold `/` and exceed a file name's length,
    /// so the file is called by the name's digest.
    pub fn reference(&self, name: &str) -> PathBuf {
        self.refs().join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    pub fn lists(&self) -> PathBuf {
        self.root.join("lists")
    }

    /// The file that holds one manifest list, called as [`reference`](Self::reference) is.
    pub fn list(&self, name: &str) -> PathBuf {
        self.lists().join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    pub fn builders(&self) -> PathBuf {
        self.root.join("builders")
    }

    /// The names that builds are asked for by.
    pub fn builder_list(&self) -> PathBuf {
        self.builders().join("list.json")
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub fn image(&self, id: &Digest) -> PathBuf {
        self.images().join(id.hex()).join("image.json")
    }

    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub fn layer(&self, chain_id: &Digest) -> PathBuf {
        self.layers().join(chain_id.hex())
    }

    /// The lowerdir of an unpacked layer.
    pub fn layer_diff(&self, chain_id: &Digest) -> PathBuf {
        self.layer(chain_id).join("diff")
    }

    /// The layer with the owners that containers with the id maps of this digest want.
    pub fn layer_mapped(&self, chain_id: &Digest, maps: &Digest) -> PathBuf {
        self.layer(chain_id).join("maps").join(maps.hex())
    }

    pub fn steps(&self) -> PathBuf {
        self.root.join("steps")
    }

    /// What is known of the build step with this key.
    pub fn step(&self, key: &Digest) -> PathBuf {
        self.steps().join(format!("{}.json", key.hex()))
    }

    /// What a server said of the file with this address.
    pub fn web_note(&self, url: &Digest) -> PathBuf {
        self.steps().join(format!("{}.web", url.hex()))
    }

    /// What the files of the build context at this path (its digest) were.
    pub fn seen_files(&self, context: &Digest) -> PathBuf {
        self.steps().join(format!("{}.files", context.hex()))
    }

    /// Cache mounts of builds.
    pub fn caches(&self) -> PathBuf {
        self.root.join("caches")
    }

    /// What builds keep in memory.
    pub fn run_builds(&self) -> PathBuf {
        self.run.join("builds")
    }

    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    pub fn events(&self) -> PathBuf {
        self.root.join("events")
    }

    /// What has happened: see [`super::journal`].
    pub fn journal(&self) -> PathBuf {
        self.events().join("journal")
    }

    /// The file before it.
    pub fn old_journal(&self) -> PathBuf {
        self.events().join("journal.1")
    }

    pub fn networks(&self) -> PathBuf {
        self.root.join("networks")
    }

    /// One network's directory. A default one of every user's is there only once it was used.
    pub fn network(&self, name: &str) -> PathBuf {
        self.networks().join(name)
    }

    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub fn container(&self, id: &ContainerId) -> ContainerPaths {
        ContainerPaths {
            dir: self.containers().join(id.as_str()),
            run: self.run_containers().join(id.as_str()),
        }
    }

    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// `name` has passed [`check_name`](super::name::check_name)'s rule: it cannot be a path.
    pub fn volume(&self, name: &str) -> VolumePaths {
        VolumePaths { dir: self.volumes().join(name) }
    }

    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// `name` has passed [`check_name`](super::secret::check_name)'s rule: it cannot be a path.
    pub fn secret(&self, name: &str) -> PathBuf {
        self.secrets().join(name)
    }

    /// One directory for each container that runs, or ran when its monitor was killed.
    pub fn run_containers(&self) -> PathBuf {
        self.run.join("containers")
    }

    /// Where the network role is found. Its lock is held by who starts it, and by the role when
    /// it goes.
    pub fn run_network(&self) -> PathBuf {
        self.run.join("network")
    }

    /// One directory for each image that is mounted.
    pub fn image_mounts(&self) -> PathBuf {
        self.run.join("mounts")
    }

    /// Where `mount` shows a container's files.
    pub fn container_mount(&self, id: &ContainerId) -> PathBuf {
        self.image_mounts().join(format!("container-{id}"))
    }

    pub fn image_mount(&self, id: &Digest) -> PathBuf {
        self.image_mounts().join(id.hex())
    }

    pub fn facts(&self) -> PathBuf {
        self.run.join("facts.json")
    }
}

/// One container's paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPaths {
    dir: PathBuf,
    run: PathBuf,
}

impl ContainerPaths {
    /// The root file system, seen from the bundle.
    pub const ROOTFS: &str = "rootfs";
    /// The same of a container whose storage is a copy.
    pub const COPY: &str = "../copy/diff";

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    pub fn record(&self) -> PathBuf {
        self.dir.join("container.json")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    pub fn health(&self) -> PathBuf {
        self.dir.join("health.json")
    }

    /// There if a user has stopped the container since it was started.
    pub fn stopped(&self) -> PathBuf {
        self.dir.join("stopped")
    }

    pub fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    pub fn spec(&self) -> PathBuf {
        self.bundle().join("config.json")
    }

    pub fn stack(&self) -> PathBuf {
        self.bundle().join("stack.json")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.bundle().join(Self::ROOTFS)
    }

    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Holds nothing but [`copy`](Self::copy), and does not change once that is complete.
    pub fn copies(&self) -> PathBuf {
        self.dir.join("copy")
    }

    /// The rootfs of a container whose storage is a copy.
    pub fn copy(&self) -> PathBuf {
        self.copies().join("diff")
    }

    /// The lowerdir of a container whose image has no layer: overlayfs wants one.
    pub fn empty(&self) -> PathBuf {
        self.dir.join("empty")
    }

    /// Where it went, if it has an egress policy.
    pub fn egress_log(&self) -> PathBuf {
        self.dir.join("egress.json")
    }

    /// What was written over its overlay mounts since it was last started.
    pub fn overlays(&self) -> PathBuf {
        self.dir.join("overlays")
    }

    pub fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// The copy of one secret it was given.
    pub fn secret(&self, index: usize) -> PathBuf {
        Self::secret_among(&self.files(), index)
    }

    /// The same, beneath its [`files`](Self::files).
    pub fn secret_among(files: &Path, index: usize) -> PathBuf {
        files.join("secrets").join(index.to_string()).join("value")
    }

    pub fn log(&self, driver: LogDriver) -> PathBuf {
        self.dir.join(match driver {
            LogDriver::JsonFile => "log.json",
            LogDriver::K8sFile => "log.cri",
            LogDriver::Local | LogDriver::Journald | LogDriver::Passthrough | LogDriver::None => {
                "log.raw"
            }
        })
    }

    pub fn process(&self) -> PathBuf {
        self.run.join("process.json")
    }

    pub fn exec_plan(&self) -> PathBuf {
        self.run.join("exec.plan")
    }

    /// There from when the container's command runs.
    pub fn ready(&self) -> PathBuf {
        self.run.join("ready")
    }

    /// While this is there, a container that removes itself at its end does not.
    pub fn keep(&self) -> PathBuf {
        self.run.join("keep")
    }

    pub fn network(&self) -> PathBuf {
        self.run.join("network.json")
    }

    /// Why a new network role could not connect it again, if that is so.
    pub fn network_lost(&self) -> PathBuf {
        self.run.join("network.lost")
    }

    pub fn attach_socket(&self) -> PathBuf {
        self.run.join("attach.sock")
    }

    /// There while the container is prepared, and waits for somebody to start it.
    pub fn start_socket(&self) -> PathBuf {
        self.run.join("start.sock")
    }
}

/// One volume's paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePaths {
    dir: PathBuf,
}

impl VolumePaths {
    /// The files, seen from the volume's directory.
    pub const DATA: &str = "_data";

    /// The same names in a directory that is not in its place yet.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn record(&self) -> PathBuf {
        self.dir.join("volume.json")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join(Self::DATA)
    }

    pub fn fill(&self) -> PathBuf {
        self.dir.join("fill")
    }

    pub fn begun(&self) -> PathBuf {
        self.fill().join("begun")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names right beneath a root in the drawing at the head of this file.
    fn drawn(root: &str) -> Vec<String> {
        let drawing = include_str!("layout.rs").lines().map_while(|line| line.strip_prefix("//!"));
        let within = drawing.skip_while(|line| !line.starts_with(&format!(" {root} "))).skip(1);
        let within = within.take_while(|line| line.starts_with("   "));
        let names = within.filter_map(|line| {
            let name = line.strip_prefix("   ")?;
            let end = name.find(['/', ' '])?;
            (end > 0).then(|| name[..end].to_owned())
        });
        names.collect()
    }

    #[test]
    fn what_is_drawn_is_what_a_check_knows_and_a_reset_removes() {
        let (root, run) = (drawn("ROOT"), drawn("RUNROOT"));
        assert!(root.len() > 8 && run.len() > 1, "the drawing was found: {root:?} {run:?}");
        for name in root.iter().filter(|name| *name != "VERSION") {
            assert!(TOP.contains(&name.as_str()), "{name} is not in TOP");
        }
        assert!(run.iter().all(|name| RUN_TOP.contains(&name.as_str())), "{run:?}");
    }
}
