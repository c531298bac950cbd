//! `RUN --mount`: what a step sees that is not in its image, and leaves no trace in its layer.

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, PermissionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    caches::Cache,
    context::Scratch,
    copy::{From, Job},
    stage::{Builder, State, key},
};
use crate::{
    build::{Mount, MountKind, instruction},
    error::{Context as _, Error, Result},
    image::LayerRef,
    overlay,
    state::{
        record::{LayersMount, MountKind as Kind, MountRecord, Storage},
        store::Lock,
    },
    sys::fs::{Dir, Errno, FileType, OFlags, Root, is_whiteout, kind},
};

/// Where files of secrets go (Dockerfile reference, "RUN --mount=type=secret").
const SECRETS: &str = "/run/secrets";
/// Links followed one after another (path_resolution(7)).
const LINKS_MAX: u32 = 40;
const AGENT: &str = "/run/buildkit/ssh_agent";

/// One mount, its variables replaced.
pub(super) enum Planned<'b> {
    Bind { from: Files<'b>, source: String, target: String, read_only: bool },
    Cache { cache: Cache, target: String, read_only: bool },
    Tmpfs { target: String, size: Option<u64> },
    Secret(Secret<'b>),
    Ssh { socket: &'b Path, target: String },
}

/// What a bind mount shows.
pub(super) enum Files<'b> {
    /// To be copied from the context; the digest of its content.
    Context(Box<Job<'b>>, String),
    Layers(Vec<LayerRef>),
}

/// A secret: a file, a variable, or both.
pub(super) struct Secret<'b> {
    value: &'b [u8],
    target: Option<String>,
    env: Option<String>,
    mode: u32,
    owner: (u32, u32),
}

/// What a step's container is made with.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) records: Vec<MountRecord>,
    pub(super) layers: Vec<LayersMount>,
    pub(super) env: Vec<String>,
    /// Paths that mounting may have made, relative to the root.
    pub(super) made: Vec<Vec<u8>>,
    /// Let go of when the step is over.
    held: Vec<Held>,
}

/// Kept while the step's container is there.
enum Held {
    Lock {
        _lock: Lock,
    },
    /// A directory whose files may belong to other ids.
    Files(Scratch),
}

impl Mounts {
    /// Ends them, once the container has gone.
    pub(super) fn release(&mut self, builder: &Builder<'_>) {
        for held in self.held.drain(..) {
            match held {
                Held::Lock { .. } => {}
                // What stays is removed by the next build.
                Held::Files(files) => {
                    let _ = builder.unpacker.remove(&files.path().join("files"));
                }
            }
        }
    }
}

impl<'b> Builder<'b> {
    /// The mounts of a `RUN`, and what its key has of them. Secrets are known by name alone.
    pub(super) fn plan_mounts(
        &'b self,
        state: &State,
        mounts: &[Mount],
    ) -> Result<(Vec<Planned<'b>>, String)> {
        let mut planned = Vec::new();
        let mut keys = Vec::new();
        for mount in mounts {
            let word = |text: &str| self.word(state, text);
            let settled = mount.open.as_ref().map(|text| instruction::mount_with(text, &word));
            let settled = settled.transpose()?;
            let mount = settled.as_ref().unwrap_or(mount);
            let (one, key) = self.plan_mount(state, mount, planned.len())?;
            keys.push(key);
            planned.extend(one);
        }
        Ok((planned, json!(keys).to_string()))
    }

    fn plan_mount(
        &'b self,
        state: &State,
        mount: &Mount,
        index: usize,
    ) -> Result<(Option<Planned<'b>>, String)> {
        let is_anywhere = matches!(mount.kind, MountKind::Secret | MountKind::Ssh);
        // On the working directory, if nothing is said.
        let typed = mount.target.as_deref().or((!is_anywhere).then_some(""));
        let target = typed.map(|target| {
            let target = state.config.absolute(target);
            if target == "/" { target } else { target.trim_end_matches('/').to_owned() }
        });
        let needed = || target.clone().ok_or_else(|| Error::invalid("a mount without a target"));
        if target.as_deref() == Some("/") {
            return Err(Error::invalid("invalid mount target \"/\": it is the root itself"));
        }
        let owner = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let source = mount.source.clone().unwrap_or_default();
        match mount.kind {
            MountKind::Bind => {
                let target = needed()?;
                let read_only = mount.read_only.unwrap_or(true);
                let from = self.mounted_files(state, mount.from.as_deref(), &source)?;
                let what = match &from {
                    Files::Context(_, digest) => digest.clone(),
                    Files::Layers(layers) => chain(layers),
                };
                let key = json!(["bind", what, source, target, read_only]).to_string();
                Ok((Some(Planned::Bind { from, source, target, read_only }), key))
            }
            MountKind::Cache => {
                let target = needed()?;
                let base = match mount.from.as_deref() {
                    None => None,
                    Some(from) => match self.mounted_files(state, Some(from), &source)? {
                        Files::Layers(layers) => Some((layers, source)),
                        Files::Context(..) => {
                            return Err(Error::unsupported(
                                "a cache cannot begin with files of a build context",
                            )
                            .hint("copy them into a stage, and name that in from="));
                        }
                    },
                };
                let id = mount.id.clone().unwrap_or_else(|| target.clone());
                let cache = Cache {
                    id: match self.own_arg("BUILDKIT_CACHE_MOUNT_NS") {
                        Some(namespace) => format!("{namespace}/{id}"),
                        None => id,
                    },
                    sharing: mount.sharing.as_deref().unwrap_or("shared").to_owned(),
                    mode: mount.mode.unwrap_or(0o755),
                    owner,
                    base,
                };
                let read_only = mount.read_only.unwrap_or(false);
                let key = json!(["cache", cache.name().as_str(), target, read_only]).to_string();
                Ok((Some(Planned::Cache { cache, target, read_only }), key))
            }
            MountKind::Tmpfs => {
                let target = needed()?;
                let key = json!(["tmpfs", target, mount.size]).to_string();
                Ok((Some(Planned::Tmpfs { target, size: mount.size }), key))
            }
            MountKind::Secret => self.plan_secret(mount, target, owner),
            MountKind::Ssh => {
                let id = mount.id.as_deref().unwrap_or("default");
                let target = target.unwrap_or_else(|| format!("{AGENT}.{index}"));
                let key = json!(["ssh", id, target]).to_string();
                if owner != (0, 0) || mount.mode.is_some_and(|mode| mode != 0o600) {
                    return Err(Error::unsupported(
                        "an ssh mount of another owner or mode is not in this version",
                    )
                    .hint("the agent's socket is root's, 0600: use it as root"));
                }
                match self.request.ssh.get(id) {
                    Some(socket) => Ok((Some(Planned::Ssh { socket, target }), key)),
                    None if mount.required => {
                        Err(Error::invalid(format!("unset ssh forward key {id}"))
                            .hint(format!("--ssh {id} passes the agent of SSH_AUTH_SOCK on")))
                    }
                    None => Ok((None, key)),
                }
            }
        }
    }

    fn plan_secret(
        &'b self,
        mount: &Mount,
        target: Option<String>,
        owner: (u32, u32),
    ) -> Result<(Option<Planned<'b>>, String)> {
        let last = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        let id = mount.id.clone().or_else(|| mount.source.clone());
        let id = id.or_else(|| target.as_ref().map(last)).unwrap_or_default();
        let target = match (&target, &mount.env) {
            (None, Some(_)) => None,
            (None, None) => Some(format!("{SECRETS}/{}", last(&id))),
            (Some(target), _) => Some(target.clone()),
        };
        let key = json!(["secret", id, target, mount.env, mount.mode, owner]).to_string();
        let Some(value) = self.request.secrets.get(&id) else {
            return match mount.required {
                true => Err(Error::invalid(format!("secret {id}: not found")).hint(format!(
                    "--secret id={id},src=FILE or --secret id={id},env=NAME gives it"
                ))),
                false => Ok((None, key)),
            };
        };
        let mode = mount.mode.unwrap_or(0o400);
        let env = mount.env.clone();
        Ok((Some(Planned::Secret(Secret { value, target, env, mode, owner })), key))
    }

    fn mounted_files(
        &'b self,
        state: &State,
        from: Option<&str>,
        source: &str,
    ) -> Result<Files<'b>> {
        let context = match self.origin(state, from)? {
            From::Layers(layers) => return Ok(Files::Layers(layers)),
            From::Context(context) => context,
        };
        let source = source.trim_matches('/');
        let mut job = Job::of_all(context);
        job.pick.parents = true;
        if !source.is_empty() {
            job.pick.sources = vec![source.to_owned()];
        }
        let digest = self.content(&job)?.to_string();
        Ok(Files::Context(Box::new(job), digest))
    }

    /// Makes what the container is to see. The layers of `state` are those of the step.
    pub(super) fn open_mounts(&self, state: &State, planned: &[Planned<'_>]) -> Result<Mounts> {
        let mut mounts = Mounts::default();
        match self.open_each(state, planned, &mut mounts) {
            Ok(()) => Ok(mounts),
            Err(err) => {
                mounts.release(self);
                Err(err)
            }
        }
    }

    fn open_each(&self, state: &State, planned: &[Planned<'_>], mounts: &mut Mounts) -> Result<()> {
        for one in planned {
            let target = match one {
                Planned::Bind { from, source, target, read_only } => {
                    let layers = match from {
                        Files::Layers(layers) => layers.clone(),
                        Files::Context(job, digest) => {
                            vec![self.context_layer(state, job, digest)?]
                        }
                    };
                    self.open_layers(&layers, source, target, *read_only, mounts)?;
                    Some(target.clone())
                }
                Planned::Cache { cache, target, read_only } => {
                    let (dir, lock) = self.open_cache(cache)?;
                    mounts.held.push(Held::Lock { _lock: lock });
                    mounts.records.push(bind(dir, target, *read_only));
                    Some(target.clone())
                }
                Planned::Tmpfs { target, size } => {
                    mounts.records.push(MountRecord {
                        kind: Kind::Tmpfs,
                        target: target.clone(),
                        read_only: false,
                        options: size.map(|size| format!("size={size}")).into_iter().collect(),
                    });
                    Some(target.clone())
                }
                Planned::Secret(secret) => self.open_secret(secret, mounts)?,
                Planned::Ssh { socket, target } => {
                    let is_socket = fs::metadata(socket).at(socket)?.file_type().is_socket();
                    if !is_socket {
                        return Err(Error::invalid(format!("{} is no socket", socket.display())));
                    }
                    mounts.records.push(bind((*socket).to_owned(), target, false));
                    mounts.env.push(format!("SSH_AUTH_SOCK={target}"));
                    Some(target.clone())
                }
            };
            if let Some(target) = target {
                mounts.made.extend(self.made_by(state, &target));
            }
        }
        Ok(())
    }

    fn open_layers(
        &self,
        layers: &[LayerRef],
        source: &str,
        target: &str,
        read_only: bool,
        mounts: &mut Mounts,
    ) -> Result<()> {
        let lowers: Vec<PathBuf> =
            layers.iter().rev().map(|layer| self.addition.layer_diff(&layer.chain_id)).collect();
        let path = format!("/{}", source.trim_matches('/'));
        let file = file_in(&lowers, &path)?;
        let Some(mut file) = file else {
            let missing = || {
                Error::not_found(format!("\"{path}\": not found"))
                    .hint("what a mount shows must be there: a file or directory of its from=")
            };
            if path != "/" {
                overlay::directory(&lowers, &path).map_err(Error::from)?.ok_or_else(missing)?;
            }
            if self.storage != Storage::Native {
                return self.open_copies(&lowers, &path, target, read_only, mounts);
            }
            let (source, target) = (source.to_owned(), target.to_owned());
            mounts.layers.push(LayersMount { lowers, source, target, read_only });
            return Ok(());
        };
        if !read_only {
            // What is written there is lost.
            let scratch = Scratch::new(&self.engine.layout.staging())?;
            let dir = scratch.path().join("files");
            fs::create_dir(&dir).at(&dir)?;
            let copy = dir.join("file");
            fs::copy(&file, &copy).at(&file).doing("copy")?;
            file = copy;
            mounts.held.push(Held::Files(scratch));
        }
        mounts.records.push(bind(file, target, read_only));
        Ok(())
    }

    /// A directory of layers where overlayfs cannot show it: a copy, which goes with the step.
    fn open_copies(
        &self,
        lowers: &[PathBuf],
        path: &str,
        target: &str,
        read_only: bool,
        mounts: &mut Mounts,
    ) -> Result<()> {
        let scratch = Scratch::new(&self.engine.layout.staging())?;
        let dir = scratch.path().join("files");
        fs::create_dir(&dir).at(&dir)?;
        // Before anything is in it that only who removes such files can remove.
        mounts.held.push(Held::Files(scratch));
        let bottom_first: Vec<PathBuf> = lowers.iter().rev().cloned().collect();
        self.unpacker.merge(&bottom_first, &dir).doing("copy what the mount shows")?;
        let all = dir.join("diff");
        // Links lead nowhere but inside, and the container is not asked again.
        let root = Root::open(&all).at(&all)?;
        let shown = root.open_at(path, OFlags::PATH | OFlags::DIRECTORY).at(path)?;
        let place = format!("/proc/self/fd/{}", shown.as_raw_fd());
        let source = fs::read_link(&place).at(&place)?;
        let options = vec!["nodev".to_owned()];
        mounts.records.push(MountRecord { options, ..bind(source, target, read_only) });
        Ok(())
    }

    fn open_secret(&self, secret: &Secret<'_>, mounts: &mut Mounts) -> Result<Option<String>> {
        if let Some(env) = &secret.env {
            let value = std::str::from_utf8(secret.value)
                .map_err(|_| Error::invalid(format!("the secret for {env} is no text")))?;
            mounts.env.push(format!("{env}={value}"));
        }
        let Some(target) = &secret.target else { return Ok(None) };
        // The runtime directory is in memory where a host has such a thing.
        let home = self.engine.layout.run_builds();
        crate::state::store::create_private_dir(&home)?;
        let scratch = Scratch::new(&home)?;
        let dir = scratch.path().join("files");
        fs::create_dir(&dir).at(&dir)?;
        let file = dir.join("secret");
        fs::write(&file, secret.value).at(&file).doing("write a secret")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(secret.mode)).at(&file)?;
        mounts.held.push(Held::Files(scratch));
        if secret.owner != (0, 0) {
            self.engine.give_to_ids(&dir, secret.owner)?;
        }
        mounts.records.push(bind(file, target, true));
        Ok(Some(target.clone()))
    }

    /// The paths that making a place to mount on may make: the target, and what it lies in, by
    /// the names they have behind links.
    pub(super) fn made_by(&self, state: &State, target: &str) -> Vec<Vec<u8>> {
        let lowers: Vec<PathBuf> = state
            .layers
            .iter()
            .rev()
            .map(|layer| self.addition.layer_diff(&layer.chain_id))
            .collect();
        let mut real = target.trim_start_matches('/').to_owned();
        for parent in Path::new(target).ancestors().skip(1) {
            let there = overlay::directory(&lowers, &parent.to_string_lossy()).ok().flatten();
            let Some(top) = there.as_ref().and_then(|dirs| dirs.first()) else { continue };
            let place = fs::read_link(format!("/proc/self/fd/{}", top.as_raw_fd()));
            let below = place.ok().and_then(|place| {
                let inside = lowers.iter().find_map(|lower| place.strip_prefix(lower).ok())?;
                Some(inside.to_owned())
            });
            if let Some(below) = below {
                let rest = Path::new(target).strip_prefix(parent).unwrap_or(Path::new(""));
                real = below.join(rest).to_string_lossy().into_owned();
            }
            break;
        }
        let path = Path::new(&real);
        let all = path.ancestors().filter(|path| !path.as_os_str().is_empty());
        all.map(|path| path.as_os_str().as_encoded_bytes().to_vec()).collect()
    }

    /// The files of the context as a layer, made once for the same content.
    fn context_layer(&self, state: &State, job: &Job<'_>, digest: &str) -> Result<LayerRef> {
        let key = key(&["context 2", digest]);
        if let Some(layer) = self.known(state, &[], &key)? {
            return Ok(layer);
        }
        let (layer, size) = self.carry_out(&[], job)?;
        // What has changed meanwhile is not what the key stands for.
        if self.content(job)?.to_string() == digest {
            self.remember(&key, "mount of the build context", &layer, size);
        }
        Ok(layer)
    }
}

/// The file that the stack of `lowers`, topmost first, shows at `path`, on this host; `None` if
/// there is none, or a directory.
fn file_in(lowers: &[PathBuf], path: &str) -> Result<Option<PathBuf>> {
    let mut path = PathBuf::from(path);
    'links: for _ in 0..LINKS_MAX {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        let parent = parent.to_owned();
        let dirs = match overlay::directory(lowers, &parent.to_string_lossy()) {
            Err(nix::errno::Errno::ENOTDIR) => return Ok(None),
            dirs => dirs.map_err(Error::from)?,
        };
        for dir in dirs.into_iter().flatten() {
            let dir = Dir::from_fd(dir);
            let stat = match dir.stat(name.as_encoded_bytes()) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            match kind(&stat) {
                _ if is_whiteout(&stat) => return Ok(None),
                FileType::Directory => return Ok(None),
                FileType::Symlink => {
                    let to = dir.read_link(name.as_encoded_bytes())?;
                    path = parent.join(OsStr::from_bytes(&to));
                    continue 'links;
                }
                FileType::RegularFile
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => {
                    let place = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
                    return Ok(Some(fs::read_link(&place).at(&place)?.join(name)));
                }
            }
        }
        return Ok(None);
    }
    Err(Error::from(Errno::LOOP).context(path.display().to_string()))
}

fn chain(layers: &[LayerRef]) -> String {
    layers.last().map_or_else(|| "scratch".into(), |layer| layer.chain_id.to_string())
}

fn bind(source: PathBuf, target: &str, read_only: bool) -> MountRecord {
    MountRecord {
        kind: Kind::Bind { source, create: false },
        target: target.to_owned(),
        read_only,
        options: Vec::new(),
    }
}
