//! What is root's, shown with the ids of a container's user namespace.
//!
//! Files in the store and in volumes lie there with the ids that containers see. To a user
//! namespace of an ordinary user they belong by its maps; for root's they are id-mapped mounts
//! (mount_setattr(2), Linux 5.12; beneath overlayfs 5.19), which need no copy of a layer. Only root of the initial user namespace can make
//! them, and so they are made by the process that goes ahead of init. It has a mount namespace of
//! its own: what is mounted there is locked for the container, whatever its capabilities.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::{errno::Errno, sched::CloneFlags};
use rustix::fs::{Mode, mkdirat};

use super::{
    launch::Steps,
    plan::{Mount, MountSource, Plan, Rootfs, Step},
    rootfs::{OpenSource, RootfsBuilder},
};
use crate::{
    error::{Context as _, Result},
    overlay::Stack,
    sys::{
        errno,
        fs::Root,
        mount::{self, ATTR_NODEV, Attributes},
        process::{self, SingleThreaded},
    },
};

/// Mounts that init is to attach, by their places in the plan.
#[derive(Debug, Default)]
pub(super) struct Shifted {
    sources: Vec<(u16, OwnedFd)>,
    /// User namespaces with the ids of mounts that have their own.
    namespaces: Vec<(u16, OwnedFd)>,
}

impl Shifted {
    /// Takes what is to be mounted as number `index`.
    pub(super) fn add(&mut self, index: u16, tree: OwnedFd) {
        self.sources.push((index, tree));
    }

    /// What is to be mounted as number `index`: made ahead, or opened now.
    pub(super) fn source(&mut self, index: u16, wanted: &Mount) -> Result<OpenSource, Errno> {
        if let Some(at) = self.sources.iter().position(|(made, _)| *made == index) {
            return Ok(OpenSource::Tree(self.sources.swap_remove(at).1));
        }
        let source = RootfsBuilder::open_source(wanted)?;
        let namespace = self.namespaces.iter().find(|(for_it, _)| *for_it == index);
        if let (OpenSource::Tree(tree), Some((_, namespace))) = (&source, namespace) {
            mount::show_ids_of(tree.as_fd(), namespace.as_fd())?;
        }
        Ok(source)
    }

    /// The user namespaces that mounts with ids of their own need.
    pub(super) fn prepare(plan: &Plan, alone: &SingleThreaded) -> Result<Self> {
        let mut namespaces = Vec::new();
        for (index, wanted) in (0..).zip(&plan.mounts) {
            if let MountSource::Bind { ids: Some(ids), .. } = &wanted.what {
                namespaces.push((index, ids.namespace(alone)?));
            }
        }
        Ok(Self { sources: Vec::new(), namespaces })
    }
}

/// The user namespace that init will be in, if things are to be shown with its ids.
pub(super) fn namespace(plan: &Plan, alone: &SingleThreaded) -> Result<Option<OwnedFd>> {
    if plan.shifts.is_none() {
        return Ok(None);
    }
    let joined = plan.join.iter().find(|join| join.kind == CloneFlags::CLONE_NEWUSER);
    match (joined, &plan.maps) {
        (Some(join), _) => Ok(Some(std::fs::File::open(&join.path).at(&join.path)?.into())),
        (None, maps) => maps.as_ref().map(|maps| maps.namespace(alone)).transpose(),
    }
}

/// Mounts the root file system where init will find it, in a mount namespace that init's is a
/// copy of, and opens what else has the container's ids.
pub(super) fn show(
    plan: &Plan,
    namespace: BorrowedFd<'_>,
    shifted: &mut Shifted,
    steps: &Steps<'_>,
) -> Result<(), ()> {
    steps.take(Step::ShowIds, || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        mount::receive_only("/".as_ref())?;
        match &plan.rootfs {
            Rootfs::Overlay { stack, target } => {
                let root = plan.shifts.ok_or(Errno::EINVAL)?;
                mount_shifted(stack, target, namespace, root)
            }
            // Over itself: what init finds there.
            Rootfs::Directory(path) => {
                let tree = mount::clone_path(path, false)?;
                mount::show_ids_of(tree.as_fd(), namespace)?;
                let nodev = Attributes { set: ATTR_NODEV, ..Attributes::default() };
                mount::set_attributes(tree.as_fd(), false, nodev)?;
                mount::attach(tree.as_fd(), Root::open(path).map_err(errno)?.as_fd())
            }
            Rootfs::Fuse { .. } => Err(Errno::EOPNOTSUPP),
        }
    })?;
    for (index, wanted) in (0..).zip(&plan.mounts) {
        let MountSource::Bind { shifts, ids, .. } = &wanted.what else { continue };
        if !shifts && ids.is_none() {
            continue;
        }
        let source = steps.take_nth(Step::Mount, index, || {
            let source = shifted.source(index, wanted)?;
            if let (OpenSource::Tree(tree), None) = (&source, ids) {
                mount::show_ids_of(tree.as_fd(), namespace)?;
            }
            Ok(source)
        })?;
        // A symbolic link is init's to make.
        if let OpenSource::Tree(tree) = source {
            shifted.sources.push((index, tree));
        }
    }
    Ok(())
}

/// Mounts an overlay of id-mapped directories. They have to be attached for that (before Linux
/// 6.15): in a tmpfs beneath the overlay.
fn mount_shifted(
    stack: &Stack,
    target: &std::path::Path,
    namespace: BorrowedFd<'_>,
    root: (u32, u32),
) -> Result<(), Errno> {
    let place = Root::open(target).map_err(errno)?;
    let mode = [("mode".to_owned(), Some("700".to_owned()))];
    let scratch = mount::fresh(c"tmpfs", c"tmpfs", &mode, Attributes::default())?;
    mount::attach(scratch.as_fd(), place.as_fd())?;
    let mut count = 0;
    let open = stack.open_by(|dir| {
        let tree = mount::clone_path(dir, false)?;
        mount::show_ids_of(tree.as_fd(), namespace)?;
        count += 1;
        let name = format!("{count}");
        mkdirat(&scratch, &name, Mode::RWXU).map_err(errno)?;
        let there = Root::from_fd(scratch.try_clone().map_err(|_| Errno::EMFILE)?);
        mount::attach(tree.as_fd(), there.open_strict(&name).map_err(errno)?.as_fd())?;
        Ok(tree)
    })?;
    // Overlayfs makes files as who mounts it, and on these mounts the host's root is nobody.
    process::with_files_of(root, || open.mount(scratch.as_fd()))?;
    // Of the host's devices an image has none to give away.
    let shown = Root::open(target).map_err(errno)?;
    let nodev = Attributes { set: ATTR_NODEV, ..Attributes::default() };
    mount::set_attributes(shown.as_fd(), false, nodev)
}
