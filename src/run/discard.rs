//! Taking a container's files away.

use std::{fs, io, os::fd::AsFd as _, path::Path};

use crate::{
    cgroup::Cgroup,
    error::{Context as _, Result},
    state::{
        ContainerId, Layout,
        layout::ContainerPaths,
        record::{ContainerRecord, ProcessRecord},
        store,
    },
    sys::{fs as tree, host::HostFacts},
};

/// The hidden role that removes one tree from inside a user namespace.
pub const ROLE: &str = "remove-tree";

/// Removes a container that does not run: it disappears at once, its files right after.
pub fn container(layout: &Layout, id: &ContainerId) -> Result<()> {
    let paths = layout.container(id);
    let name = store::read_json::<ContainerRecord>(&paths.record())
        .ok()
        .flatten()
        .map(|record| layout.names().join(record.name));
    store::create_private_dir(&layout.staging())?;
    let doomed = layout.staging().join(format!("removed-{id}"));
    match fs::rename(paths.dir(), &doomed) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(err).at(paths.dir()).doing("remove"),
    }
    if let Some(name) = name {
        release_name(&name, id)?;
    }
    runtime(&paths)?;
    remove_tree(&doomed)
}

/// A name is given back only by whom it names.
pub fn release_name(name: &Path, id: &ContainerId) -> Result<()> {
    match fs::read_to_string(name) {
        Ok(owner) if owner.trim() == id.as_str() => fs::remove_file(name).at(name).doing("remove"),
        _ => Ok(()),
    }
}

/// Forgets that the container runs. What a monitor that was killed could not end, ends here.
pub fn runtime(paths: &ContainerPaths) -> Result<()> {
    // A damaged record must not keep the container from being removed.
    let process: Option<ProcessRecord> = store::read_json(&paths.process()).ok().flatten();
    if let Some(cgroup) = process.and_then(|process| Cgroup::open(process.cgroup?).ok()) {
        cgroup.kill()?;
        cgroup.remove()?;
    }
    match fs::remove_dir_all(paths.run_dir()) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err).at(paths.run_dir()),
        _ => Ok(()),
    }
}

/// Removes `path` and everything in it. What belongs to subordinate ids can be removed only by
/// root of a user namespace that maps them, so dhow starts itself again there if it must.
pub fn remove_tree(path: &Path) -> Result<()> {
    match remove_here(path) {
        Ok(()) => Ok(()),
        Err(err) if !nix::unistd::geteuid().is_root() => remove_as_root(path).map_err(|_| err),
        Err(err) => Err(err),
    }
}

fn remove_here(path: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let dir = match fs::File::open(parent) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.at(parent)?,
    };
    tree::remove_tree(dir.as_fd(), name.as_bytes()).at(path).doing("remove")
}

fn remove_as_root(path: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let maps = HostFacts::gather()?.id_maps();
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| crate::error::Error::invalid("a path has a NUL"))?;
    let child =
        crate::sys::process::spawn_self(&[c"dhow", c"remove-tree", &path], &[], Some(&maps))?;
    match child.wait().doing("wait for the removal")?.shell_code() {
        0 => Ok(()),
        _ => Err(crate::error::Error::engine("remove as root of a user namespace")),
    }
}

/// The hidden role's entry; the exit code.
pub fn main(args: &[std::ffi::OsString]) -> i32 {
    match args.first().map(|path| remove_here(Path::new(path))) {
        Some(Ok(())) => 0,
        _ => 1,
    }
}
