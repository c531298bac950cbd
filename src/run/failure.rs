//! Where errnos meet experience: what a failed step was doing, and what to do about it.

use nix::{errno::Errno, sched::CloneFlags};

use super::plan::{DeviceSource, MountSource, Plan, Step};
use crate::error::{Error, Kind};

/// A step of init's that the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) index: u16,
    pub(super) errno: Errno,
}

impl Failure {
    pub(super) fn explain(self, plan: &Plan) -> Error {
        let doing = describe(plan, self.step, usize::from(self.index));
        let error =
            Error::new(kind(self.step, self.errno), format!("{doing}: {}", self.errno.desc()));
        match self.hint(plan) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    fn hint(self, plan: &Plan) -> Option<&'static str> {
        let mount = plan.mounts.get(usize::from(self.index)).filter(|_| self.step == Step::Mount);
        match (mount.map(|mount| &mount.what), self.errno) {
            // mount_namespaces(7), "Restrictions on mount namespaces": flags are locked.
            (Some(MountSource::Bind { .. }), Errno::EPERM) => Some(
                "what the host's mount forbids stays so, and an ordinary user's container cannot change how it keeps access times: leave atime, noatime and their like away",
            ),
            _ => hint(self.step, self.errno),
        }
    }
}

/// Docker's convention for the exec itself: 127 not found, 126 not runnable.
fn kind(step: Step, errno: Errno) -> Kind {
    match (step, errno) {
        (Step::Exec, Errno::ENOENT | Errno::ENOTDIR) => Kind::NoCommand,
        (Step::Exec, _) => Kind::NotRunnable,
        (Step::ChangeDirectory, Errno::ENOENT) => Kind::NoCommand,
        (Step::ChangeDirectory, _) => Kind::NotRunnable,
        _ => Kind::Engine,
    }
}

/// What init was doing, in words a user can act on.
fn describe(plan: &Plan, step: Step, index: usize) -> String {
    let path = |list: &[std::path::PathBuf]| {
        list.get(index).map_or(String::new(), |path| path.display().to_string())
    };
    match step {
        Step::JoinNamespaces => "join the other container's namespaces".into(),
        Step::ShowIds => "show the image's files with the container's ids".into(),
        Step::BecomeRoot => "become root in the user namespace".into(),
        Step::NewSession => "begin a new session".into(),
        Step::NewCgroupNamespace => "make a cgroup namespace".into(),
        Step::RaiseLoopback => "bring up the loopback interface".into(),
        Step::DetachMounts => "detach from the host's mounts".into(),
        Step::MountRootfs => {
            format!("mount the root file system on {}", plan.rootfs.path().display())
        }
        Step::Mount => plan.mounts.get(index).map_or("mount".into(), |mount| match &mount.what {
            MountSource::Fresh { kind, .. } => {
                format!("mount {} on {}", kind.to_string_lossy(), mount.target.display())
            }
            MountSource::Shared { .. } => {
                format!("show {} of the other container", mount.target.display())
            }
            MountSource::Overlay(part) => {
                let over = part
                    .lowers
                    .last()
                    .map_or_else(Default::default, |dir| dir.display().to_string());
                format!("mount an overlay over {over} on {}", mount.target.display())
            }
            MountSource::Bind { source, shifts: true, .. } => {
                format!(
                    "bind {} with the container's ids on {}",
                    source.display(),
                    mount.target.display()
                )
            }
            MountSource::Bind { source, beneath, .. } => {
                let part = beneath.as_ref().map_or(source.clone(), |part| source.join(part));
                format!("bind {} on {}", part.display(), mount.target.display())
            }
        }),
        Step::Device => {
            plan.devices.get(index).map_or("make a device".into(), |device| match &device.what {
                DeviceSource::Node { .. } => format!("make the device {}", device.target.display()),
                DeviceSource::Bind { source } => {
                    format!("bind the device {} on {}", source.display(), device.target.display())
                }
            })
        }
        Step::Hook => "run the container's hooks".into(),
        Step::OpenTerminal => "open the container's terminal".into(),
        Step::Sysctl => plan
            .sysctls
            .get(index)
            .map_or("set a sysctl".into(), |(key, value)| format!("set sysctl {key}={value}")),
        Step::MaskPath => format!("mask {}", path(&plan.masked)),
        Step::ReadOnlyPath => format!("make {} read-only", path(&plan.read_only)),
        Step::MakeWorkdir => format!("create the working directory {}", cwd(plan)),
        Step::PivotRoot => "pivot into the root file system".into(),
        Step::SetHostname => {
            format!("set the hostname to {}", plan.hostname.as_deref().unwrap_or_default())
        }
        Step::SetDomainname => {
            format!("set the domain name to {}", plan.domainname.as_deref().unwrap_or_default())
        }
        Step::RestrictRootfs => "restrict the root file system".into(),
        Step::ProtectExecutable => "start again from a read-only view of dhow".into(),
        Step::SetScore => "set the OOM score".into(),
        Step::SetLimits => "set resource limits".into(),
        Step::SetPersonality => "set the execution domain".into(),
        Step::NewKeyring => "make a session keyring".into(),
        Step::SetAppArmor => format!(
            "apply the AppArmor profile {}",
            plan.process.apparmor.as_deref().unwrap_or_default()
        ),
        Step::CloseDescriptors => "close inherited descriptors".into(),
        Step::ChangeDirectory => format!("enter the working directory {}", cwd(plan)),
        Step::DropBounding => "drop capabilities from the bounding set".into(),
        Step::SetGroups => "set the supplementary groups".into(),
        Step::SetUser => {
            format!("become user {}:{}", plan.process.uid, plan.process.gid)
        }
        Step::SetCapabilities => "set capabilities".into(),
        Step::LockPrivileges => "forbid new privileges".into(),
        Step::InstallSeccomp => "install the seccomp filter".into(),
        Step::Exec => format!(
            "exec {}",
            plan.process.argv.first().map_or_else(Default::default, |arg| arg.to_string_lossy())
        ),
    }
}

fn cwd(plan: &Plan) -> std::borrow::Cow<'_, str> {
    plan.process.cwd.to_string_lossy()
}

/// The likely reason, where a bare errno would send the user to a search engine.
fn hint(step: Step, errno: Errno) -> Option<&'static str> {
    Some(match (step, errno) {
        (Step::Exec, Errno::ENOENT | Errno::ENOTDIR) => {
            "the command, or the interpreter its first line names, is not in the image"
        }
        (Step::Exec, Errno::ENOEXEC) => {
            "it is no program for this machine: the image may be built for another architecture, or a script lacks its #! line"
        }
        (Step::Exec, Errno::EACCES) => {
            "it is a directory, lacks the execute permission, or is on a noexec mount"
        }
        (Step::Mount, Errno::EPERM) => {
            "a fresh proc or sysfs needs an unmasked one outside; nested in a container, run the outer one with --security-opt unmask=ALL"
        }
        (Step::Mount | Step::Device, Errno::ELOOP) => {
            "the image or a volume has a symbolic link where a system directory must be"
        }
        (Step::Mount, Errno::ENOENT) => "the source does not exist",
        (Step::Mount, Errno::ENOTDIR | Errno::EISDIR) => {
            "a file can be mounted on a file only, a directory on a directory only"
        }
        (_, Errno::ENOTCONN | Errno::ECONNABORTED) => {
            "fuse-overlayfs has ended; `fuse-overlayfs --version` shows if it can run at all, and --storage-driver vfs does without it"
        }
        (Step::ShowIds, Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            "that takes id-mapped mounts beneath an overlay (Linux 5.19) and a file system that has them: move the store with --root, or run without --userns"
        }
        (Step::MountRootfs, Errno::EPERM) => {
            "overlayfs in a user namespace needs Linux 5.11; `dhow doctor` tells more"
        }
        (Step::MountRootfs, Errno::EINVAL) => {
            "this file system cannot hold an upper directory; move the store with --root"
        }
        (Step::MountRootfs, Errno::ENOENT) => {
            "a layer of its image is missing: pull or load the image again"
        }
        (Step::SetUser | Step::SetGroups, Errno::EINVAL) => {
            "that id is not mapped here; `dhow info` shows the mapped ranges, `dhow doctor` how to widen them"
        }
        (Step::Sysctl, Errno::ENOENT | Errno::EACCES | Errno::EPERM) => {
            "only sysctls that belong to one of the container's own namespaces can be set"
        }
        (Step::JoinNamespaces, Errno::EPERM) => {
            "the other container must belong to the same user and run in the same user namespace"
        }
        (Step::SetScore, Errno::EACCES | Errno::EPERM) => {
            "a score below the caller's own needs CAP_SYS_RESOURCE; raise it instead"
        }
        (Step::SetAppArmor, _) => "`aa-status` lists the profiles that are loaded",
        (Step::ChangeDirectory, Errno::ENOTDIR) => "it is a file; choose another with --workdir",
        (Step::SetLimits, Errno::EPERM) => {
            "a hard limit cannot be raised beyond the caller's own; see `ulimit -H -a`"
        }
        _ => return None,
    })
}

/// Why the clone itself failed.
pub(super) fn clone(errno: Errno, plan: &Plan) -> Error {
    let error = Error::from(errno).context("make the container's namespaces");
    let in_user_namespace = plan.namespaces.contains(CloneFlags::CLONE_NEWUSER);
    if in_user_namespace && matches!(errno, Errno::EPERM | Errno::EACCES) {
        return error.with_kind(Kind::Unsupported).hint(
            "user namespaces are forbidden to ordinary users here; `dhow doctor` names the setting and the fix",
        );
    }
    if errno == Errno::ENOSPC {
        return error.hint(
            "the limit on namespaces is reached; raise user.max_user_namespaces and its siblings with sysctl",
        );
    }
    if matches!(errno, Errno::ENOSYS | Errno::EINVAL) {
        return error.hint("dhow needs Linux 5.12 or newer with namespaces enabled");
    }
    error
}
