//! `ns:PATH`: namespaces that are no container's of ours, or not as such.

use std::{
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::sched::CloneFlags;

use crate::{
    engine::Engine,
    error::{Context as _, Error, Kind, Result},
    network,
    state::egress::EgressPolicy,
    sys::{
        inside::owning_user_namespace,
        net::namespace_kind,
        user::{IdMaps, IdRange},
    },
};

impl Engine {
    /// Whether the file stands for a namespace of this kind, and one that the caller may join.
    /// Returns the user namespace to be joined before it, which an ordinary user has to.
    pub(super) fn foreign_namespace(&self, file: &str, path: &Path) -> Result<Option<PathBuf>> {
        let wanted = match file {
            "pid" => CloneFlags::CLONE_NEWPID,
            "ipc" => CloneFlags::CLONE_NEWIPC,
            "uts" => CloneFlags::CLONE_NEWUTS,
            "cgroup" => CloneFlags::CLONE_NEWCGROUP,
            _ => CloneFlags::CLONE_NEWNET,
        };
        let opened = File::open(path).at(path)?;
        if namespace_kind(opened.as_fd()) != Ok(wanted) {
            return Err(Error::invalid(format!("{} is not a {file} namespace", path.display()))
                .hint(format!("give /proc/PID/ns/{file}, or where that is mounted")));
        }
        match self.facts.rootless() {
            true => self.user_namespace_beside(file, path).map(Some),
            false => Ok(None),
        }
    }

    /// Rights over a namespace come with the user namespace that owns it, and that can be
    /// joined by its own path alone.
    fn user_namespace_beside(&self, file: &str, path: &Path) -> Result<PathBuf> {
        const HINT: &str = "`dhow unshare unshare --net sleep 1d` makes one that can be joined, \
                            as ns:/proc/PID/ns/net with the pid of that sleep";
        let refused = |why: &str| {
            let what = format!("cannot join the {file} namespace {}: {why}", path.display());
            Error::new(Kind::Unsupported, what).hint(HINT)
        };
        let user = path.with_file_name("user");
        let owner = owning_user_namespace(path).at(path)?;
        let own = fs::metadata("/proc/self/ns/user").at("/proc/self/ns/user")?.ino();
        if owner.is_none_or(|owner| owner == own) {
            return Err(refused("it belongs to root"));
        }
        if fs::metadata(&user).ok().map(|meta| meta.ino()) != owner {
            return Err(refused("the user namespace it belongs to is not beside it"));
        }
        let process = path.ancestors().nth(2).unwrap_or(path);
        if maps_at(process) != Some(self.facts.id_maps()) {
            return Err(refused("its user namespace has other ids than dhow's containers"));
        }
        Ok(user)
    }

    /// What a container is bound to that enters the network at `path` by that way.
    pub(super) fn policies_of(&self, path: &Path) -> Vec<EgressPolicy> {
        let inode = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let Some(wanted) = inode(path) else { return Vec::new() };
        let running = network::running(&self.layout).into_iter();
        let has_it = running.filter(|(_, process)| {
            inode(format!("/proc/{}/ns/net", process.init.pid).as_ref()) == Some(wanted)
        });
        has_it.flat_map(|(id, _)| self.attachment(&id).egress).collect()
    }
}

/// The maps of the process whose directory in `/proc` this is.
fn maps_at(process: &Path) -> Option<IdMaps> {
    let read = |file: &str| {
        let text = fs::read_to_string(process.join(file)).ok()?;
        text.lines().map(range).collect::<Option<Vec<_>>>()
    };
    Some(IdMaps { uid: read("uid_map")?, gid: read("gid_map")? })
}

fn range(line: &str) -> Option<IdRange> {
    let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    Some(IdRange { inside: next()?, outside: next()?, size: next()? })
}
