//! The volumes of one container.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, ToSocketAddrs as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use super::{Engine, fill, fill::Order};
use crate::{
    engine::container::Container,
    error::{Context as _, Error, Result},
    image::{
        layer::{Apply, Ownership},
        unpack::InUserNamespace,
    },
    run::{discard, spec::Context as SpecContext},
    state::{
        record::{ContainerRecord, HostConfig, MountKind, MountRecord, VolumeMount, VolumeOrigin},
        store::Lock,
    },
    sys::{fs as tree, user::IdMaps},
    volume::{
        self,
        driver::{Backing, Design},
    },
};

/// The volumes of a container in the making: nobody removes them meanwhile. Unless it is kept,
/// what was made for it goes with it.
#[derive(Debug)]
pub(in crate::engine) struct Taken<'a> {
    engine: &'a Engine,
    pins: Vec<Lock>,
    made: Vec<String>,
}

impl Taken<'_> {
    /// The container is there for all to see.
    pub(in crate::engine) fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.pins.clear();
        for name in self.made.drain(..) {
            // Another container may have begun to use it.
            let _ = volume::remove(&self.engine.layout, &name, &discard::remove_tree);
        }
    }
}

impl Engine {
    /// Completes the mounts of a new container: the volumes that its image declares, and names
    /// for those that nobody named.
    pub(in crate::engine) fn complete_volumes(
        &self,
        host: &mut HostConfig,
        declared: &[String],
    ) -> Result<()> {
        for path in declared {
            let target = crate::run::spec::clean(path);
            if host.mounts.iter().any(|mount| crate::run::spec::clean(&mount.target) == target) {
                continue;
            }
            if target == "/" {
                return Err(Error::invalid("the image declares a volume at /, which cannot be"));
            }
            let volume = VolumeMount { origin: VolumeOrigin::Image, ..VolumeMount::default() };
            let kind = MountKind::Volume(volume);
            host.mounts.push(MountRecord { kind, target, read_only: false, options: Vec::new() });
        }
        for mount in &mut host.mounts {
            let MountKind::Volume(volume) = &mut mount.kind else { continue };
            if volume.name.is_empty() {
                volume.name = volume::random_name()?;
                volume.anonymous = true;
            }
        }
        Ok(())
    }

    /// What `--volumes-from` gives: the volumes and bind mounts of another container.
    pub fn volumes_of(&self, other: &Container, read_only: bool) -> Vec<MountRecord> {
        let mounts = other.record.host.mounts.iter().filter_map(|mount| {
            let mut mount = mount.clone();
            match &mut mount.kind {
                MountKind::Volume(volume) => {
                    volume.origin = VolumeOrigin::From;
                    volume.no_copy = true;
                }
                MountKind::Bind { create, .. } => *create = false,
                MountKind::Image(_) | MountKind::Tmpfs | MountKind::Ramfs | MountKind::Devpts => {
                    return None;
                }
            }
            // What is read-only there stays so, docker says.
            mount.read_only |= read_only;
            Some(mount)
        });
        mounts.collect()
    }

    /// Makes the volumes that are missing, keeps all from being removed, and copies into them
    /// what the image has at their targets.
    pub(in crate::engine) fn take_volumes(&self, record: &ContainerRecord) -> Result<Taken<'_>> {
        let mut taken = Taken { engine: self, pins: Vec::new(), made: Vec::new() };
        for mount in &record.host.mounts {
            let MountKind::Volume(wanted) = &mount.kind else { continue };
            self.take_volume(wanted, &mut taken)?;
            self.fill_volume(record, mount, wanted)
                .doing_with(|| format!("prepare the volume {}", wanted.name))?;
        }
        Ok(taken)
    }

    fn take_volume(&self, wanted: &VolumeMount, taken: &mut Taken<'_>) -> Result<()> {
        let name = &wanted.name;
        loop {
            let (labels, options) = (wanted.labels.clone(), wanted.options.clone());
            if self.make_volume(name, labels, options, wanted.anonymous)? {
                taken.made.push(name.clone());
            }
            // Somebody may have removed it in between.
            if let Some(pin) = volume::pin(&self.layout, name)? {
                taken.pins.push(pin);
                return Ok(());
            }
        }
    }

    fn fill_volume(
        &self,
        record: &ContainerRecord,
        mount: &MountRecord,
        wanted: &VolumeMount,
    ) -> Result<()> {
        let design = self.design(wanted)?;
        let elsewhere = match &design.backing {
            Backing::Own => None,
            Backing::Directory { source, .. } => Some(source.clone()),
            Backing::FileSystem { .. } => return Ok(()),
        };
        if design.no_copy
            || wanted.no_copy
            || !wanted.subpath.is_empty()
            || record.layers.is_empty()
        {
            return Ok(());
        }
        let owners = match self.unusual_maps(record)? {
            None => None,
            Some((maps, usual)) => Some(maps.within(&usual).ok_or_else(|| {
                Error::unsupported("the container's ids are not all this user's subordinate ids")
            })?),
        };
        let lowers = record.layers.iter().rev().map(|layer| self.layout.layer_diff(layer));
        let order = Order {
            lowers: lowers.collect(),
            target: mount.target.clone(),
            volume: self.layout.volume(&wanted.name).dir().to_owned(),
            elsewhere,
            owner: design.owner,
            owners,
            volatile: wanted.anonymous && record.host.auto_remove,
        };
        fill::carry_out(&order, self.maps().as_ref())
    }

    fn design(&self, wanted: &VolumeMount) -> Result<Design> {
        let record = self.volume(&wanted.name)?;
        Design::of(&record.name, &record.options)
    }

    /// Where the files of the container's volumes are. For one that is not there it is where
    /// they would be, unless the container is about to `start`.
    pub(in crate::engine) fn volume_sources(
        &self,
        record: &ContainerRecord,
        start: bool,
    ) -> Result<BTreeMap<String, Backing>> {
        let mut sources = BTreeMap::new();
        let shifts = self.shifts(record)?;
        for mount in &record.host.mounts {
            let MountKind::Volume(wanted) = &mount.kind else { continue };
            let design = match volume::find(&self.layout, &wanted.name)? {
                Some(found) => Design::of(&found.name, &found.options)?,
                None if start => return Err(volume::no_such(&wanted.name)),
                None => Design::of(&wanted.name, &wanted.options)?,
            };
            let backing = design.backing;
            if start && backing.is_private() {
                self.check_alone(record, &wanted.name)?;
            }
            let backing = match backing {
                Backing::Own => Backing::Directory {
                    source: self.layout.volume(&wanted.name).data(),
                    // Its files lie there with the ids that containers see.
                    options: if shifts { vec!["idmap".into()] } else { Vec::new() },
                },
                Backing::FileSystem { kind, device, options } if start => {
                    let options = with_numbers(&kind, options)
                        .doing_with(|| format!("mount the volume {}", wanted.name))?;
                    Backing::FileSystem { kind, device, options }
                }
                other @ (Backing::Directory { .. } | Backing::FileSystem { .. }) => other,
            };
            sources.insert(wanted.name.clone(), backing);
        }
        Ok(sources)
    }

    /// A file system in memory is mounted for each container anew: two that run together would
    /// believe to share it.
    fn check_alone(&self, record: &ContainerRecord, name: &str) -> Result<()> {
        for user in volume::users(&self.layout, name)? {
            let runs = || self.load(&user.id).is_ok_and(|other| other.status.made().is_some());
            if user.id != record.id && runs() {
                return Err(Error::unsupported(format!(
                    "the volume {name} is in memory and container {} has it mounted",
                    user.name
                ))
                .hint("containers that run together can share volumes on disk only"));
            }
        }
        Ok(())
    }

    /// `U`: what is mounted belongs to the container's user from now on.
    pub(in crate::engine) fn give_to_user(&self, context: &SpecContext<'_>) -> Result<()> {
        for mount in &context.record.host.mounts {
            if !mount.options.iter().any(|option| option == "U") {
                continue;
            }
            let mut shifts = mount.options.iter().any(|option| option == "idmap");
            let source = match &mount.kind {
                MountKind::Bind { source, .. } => source,
                MountKind::Volume(volume) => match context.volumes.get(&volume.name) {
                    Some(Backing::Directory { source, options }) => {
                        shifts |= options.iter().any(|option| option == "idmap");
                        source
                    }
                    Some(Backing::Own | Backing::FileSystem { .. }) | None => continue,
                },
                // Made for each start, and given to the user then.
                MountKind::Image(_) | MountKind::Tmpfs | MountKind::Ramfs | MountKind::Devpts => {
                    continue;
                }
            };
            let maps = context.maps.as_ref().filter(|_| !shifts);
            self.give(source, maps, context)
                .doing_with(|| format!("give {} to the container's user", source.display()))?;
        }
        Ok(())
    }

    fn give(&self, source: &Path, maps: Option<&IdMaps>, context: &SpecContext<'_>) -> Result<()> {
        check_givable(source)?;
        self.give_to(source, maps, (context.user.uid, context.user.gid))
    }

    /// Gives a tree to a user of a container with these id maps.
    pub(in crate::engine) fn give_to(
        &self,
        source: &Path,
        maps: Option<&IdMaps>,
        (uid, gid): (u32, u32),
    ) -> Result<()> {
        let missing = || Error::unsupported("the user is not mapped here");
        let outside =
            |maps: &IdMaps| maps.uid_outside(uid).zip(maps.gid_outside(gid)).ok_or_else(missing);
        let Some(usual) = self.maps() else {
            let (uid, gid) = maps.map_or(Ok((uid, gid)), outside)?;
            return Ok(tree::chown_tree(File::open(source).at(source)?.into(), uid, gid)?);
        };
        let maps = maps.and_then(|maps| maps.within(&usual));
        let (uid, gid) = maps.ok_or_else(missing).and_then(|maps| outside(&maps))?;
        if (uid, gid) == (0, 0) {
            // The caller, to whom it belongs already.
            return Ok(());
        }
        let how = Apply { ownership: Ownership::Keep, user_xattr: true };
        InUserNamespace::new(usual, how).chown(source, uid, gid)
    }
}

/// The kernel's network file systems know servers by number alone; docker, too, looks the name up.
fn with_numbers(kind: &str, options: Vec<String>) -> Result<Vec<String>> {
    if !matches!(kind, "nfs" | "nfs4" | "cifs") {
        return Ok(options);
    }
    let number = |option: String| match option.strip_prefix("addr=") {
        Some(name) if name.parse::<IpAddr>().is_err() => {
            let found = (name, 0).to_socket_addrs().doing_with(|| format!("find {name}"))?.next();
            let missing = || Error::not_found(format!("{name} has no address"));
            Ok(format!("addr={}", found.ok_or_else(missing)?.ip()))
        }
        _ => Ok(option),
    };
    options.into_iter().map(number).collect()
}

/// Nobody means to give these away.
fn check_givable(source: &Path) -> Result<()> {
    const SYSTEM: [&str; 18] = [
        "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt",
        "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var",
    ];
    let meta = std::fs::metadata(source).at(source)?;
    if !meta.is_dir() {
        return Err(Error::unsupported("the option U is for directories, and this is a file"));
    }
    // However it was written, and whatever links lead to it.
    let is = |system: &&&str| {
        std::fs::metadata(system)
            .is_ok_and(|there| (there.dev(), there.ino()) == (meta.dev(), meta.ino()))
    };
    match SYSTEM.iter().find(is) {
        None => Ok(()),
        Some(system) => {
            Err(Error::invalid(format!("changing the owner of {system} is not permitted"))
                .hint("leave the option U away, or mount a directory below it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_known_by_number() {
        let with = |kind, option: &str| with_numbers(kind, vec![option.to_owned()]);
        let found = with("nfs", "addr=localhost").expect("found").remove(0);
        assert!(["addr=127.0.0.1", "addr=::1"].contains(&found.as_str()), "{found}");
        for (kind, option) in [("nfs", "addr=::1"), ("nfs", "soft"), ("ext4", "addr=localhost")] {
            assert_eq!(with(kind, option).expect("as it was"), [option]);
        }
    }
}
