//! `COPY`, `ADD` and `WORKDIR`: files from the context, stages and images, placed in a layer.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read as _, Write as _},
    os::fd::AsFd as _,
};

use serde_json::json;

use super::{
    Named,
    context::{self, Context, Scratch},
    remote::Remote,
    stage::{Builder, State, key},
    workspace::{Made, Working, Workspace},
};
use crate::{
    build::{Copy, Instruction, expand},
    error::{Context as _, Error, Result},
    image::{
        LayerRef,
        layer::{Extract, Owner},
    },
    oci::Digest,
    run::{
        files::{Outcome, Task},
        pick::{Found, Pick, Place, mode_change},
    },
    sys::{
        channel,
        fs::{OFlags, Root},
    },
};

/// Where files come from.
pub(super) enum From<'a> {
    Context(&'a Context),
    Layers(Vec<LayerRef>),
}

/// A copy, with its variables replaced.
pub(super) struct Job<'a> {
    pub(super) from: From<'a>,
    pub(super) pick: Pick,
    /// Content that stands in the Dockerfile, by name.
    pub(super) inline: Vec<(String, String)>,
    pub(super) target: String,
    /// The sources and the target, as written.
    pub(super) typed: Vec<String>,
    pub(super) chown: String,
    /// Archives are extracted.
    pub(super) unpack: bool,
    /// Those from elsewhere, too.
    pub(super) unpack_remote: bool,
    pub(super) link: bool,
    pub(super) remote: Vec<Remote>,
}

impl<'a> Job<'a> {
    /// Everything in a context that is not left out, as a root.
    pub(super) fn of_all(context: &'a Context) -> Self {
        Self {
            from: From::Context(context),
            pick: Pick {
                sources: vec![".".into()],
                ignore: context.ignore().to_owned(),
                owner: Some((0, 0)),
                ..Pick::default()
            },
            inline: Vec::new(),
            target: "/".into(),
            typed: Vec::new(),
            chown: String::new(),
            unpack: false,
            unpack_remote: false,
            link: true,
            remote: Vec::new(),
        }
    }
}

impl Builder<'_> {
    pub(super) fn copy(&self, state: &mut State, step: &Instruction, copy: &Copy) -> Result<()> {
        let job = self.job(state, copy)?;
        let created_by = created_by(copy, &job);
        let content = self.content(&job)?;
        let key = key(&[
            "copy 2",
            &state.chain(),
            content.as_str(),
            &job.target,
            &job.chown,
            &format!("{:?} {} {} {}", job.pick.chmod, job.unpack, job.link, job.unpack_remote),
        ]);
        self.cached(state, &step.text, &created_by, &key, |state, _| {
            let layer = self.carry_out(&state.layers, &job)?;
            // What has changed meanwhile is not what the key stands for.
            Ok((layer, self.content(&job)? == content))
        })
    }

    fn job<'b>(&'b self, state: &State, copy: &Copy) -> Result<Job<'b>> {
        let words = |list: &[String]| {
            list.iter().map(|text| self.word(state, text)).collect::<Result<Vec<_>>>()
        };
        let mut sources = words(&copy.sources)?;
        let typed = sources.clone();
        let remote = self.remote(&mut sources, copy)?;
        let target = self.word(state, &copy.target)?;
        let chmod = copy.chmod.as_ref().map(|text| self.word(state, text)).transpose()?;
        if let Some(text) = &chmod {
            mode_change(text)?;
        }
        let from = self.origin(state, copy.from.as_deref())?;
        // Owners on this host mean nothing in an image; those in an image do.
        let (ignore, owner) = match &from {
            From::Context(context) => (context.ignore().to_owned(), Some((0, 0))),
            From::Layers(_) => (String::new(), None),
        };
        let inline = copy.inline.iter().map(|heredoc| {
            let content = match heredoc.expand {
                true => expand::heredoc(&heredoc.content, &|name| state.lookup(name))?,
                false => heredoc.content.clone(),
            };
            Ok((heredoc.name.clone(), content))
        });
        let target_typed = target.clone();
        let target = if target == "." { "./".to_owned() } else { target };
        Ok(Job {
            pick: Pick {
                sources,
                exclude: words(&copy.exclude)?,
                ignore,
                parents: copy.parents,
                owner,
                chmod,
            },
            inline: inline.collect::<Result<_>>()?,
            target: state.config.absolute(&target),
            typed: [typed, vec![target_typed]].concat(),
            chown: copy
                .chown
                .as_ref()
                .map(|text| self.word(state, text))
                .transpose()?
                .unwrap_or_default(),
            unpack: copy.add && copy.unpack != Some(false),
            unpack_remote: copy.unpack == Some(true),
            link: copy.link,
            remote,
            from,
        })
    }

    /// What `ADD` takes from elsewhere, out of the sources.
    fn remote(&self, sources: &mut Vec<String>, copy: &Copy) -> Result<Vec<Remote>> {
        let mut remote = Vec::new();
        let mut local = Vec::new();
        if !copy.add {
            return Ok(remote);
        }
        let checksum = copy.checksum.as_deref();
        for source in sources.drain(..) {
            match Remote::ask(self, &source, checksum, copy.keep_git_dir)? {
                Some(found) => remote.push(found),
                None => local.push(source),
            }
        }
        *sources = local;
        match (checksum, remote.len(), sources.len()) {
            (Some(_), 1, 0) | (None, ..) => Ok(remote),
            (Some(_), 0, _) => Err(Error::invalid("checksum requires HTTP(S) or Git sources")),
            (Some(_), ..) => Err(Error::invalid("checksum requires a single source")),
        }
    }

    pub(super) fn origin(&self, state: &State, from: Option<&str>) -> Result<From<'_>> {
        let Some(from) = from else { return Ok(From::Context(&self.request.context)) };
        match self.request.contexts.get(&from.to_ascii_lowercase()) {
            Some(Named::Directory(context)) => return Ok(From::Context(context)),
            Some(Named::Image(image)) => {
                return Ok(From::Layers(self.image(image, &state.platform)?.record.layers));
            }
            None => {}
        }
        match self.file.earlier(state.stage, from)? {
            Some(stage) => Ok(From::Layers(self.outcome(stage)?.layers)),
            None if from == "scratch" => Ok(From::Layers(Vec::new())),
            None => Ok(From::Layers(self.image(from, &state.platform)?.record.layers)),
        }
    }

    /// What the files are, as far as the outcome depends on it.
    pub(super) fn content(&self, job: &Job<'_>) -> Result<Digest> {
        let pick = serde_json::to_string(&job.pick)?;
        let inline = json!(job.inline).to_string();
        let elsewhere: Vec<Digest> = job.remote.iter().map(Remote::key).collect();
        let inline = match elsewhere.is_empty() {
            true => inline,
            false => format!("{inline} {}", json!(elsewhere)),
        };
        Ok(match &job.from {
            From::Context(context) => {
                let root = context.root()?;
                let found = job.pick.find(&root)?;
                // A file that is the only one keeps its own name.
                let seen = self.seen(context)?;
                let digest = context::digest(&job.pick, &root, &found, &seen)?;
                key(&["context", digest.as_str(), &inline])
            }
            From::Layers(layers) => {
                let chain = layers.last().map_or("scratch", |layer| layer.chain_id.as_str());
                key(&["layers", chain, &pick, &inline])
            }
        })
    }

    pub(super) fn carry_out(&self, layers: &[LayerRef], job: &Job<'_>) -> Result<Made> {
        // A linked layer knows nothing of what is below it.
        let below: &[LayerRef] = if job.link { &[] } else { layers };
        let space = Workspace::still(self, below)?;
        let owner = match job.chown.as_str() {
            "" => (0, 0),
            text if job.link => Workspace::still(self, layers)?.owner(text)?,
            text => space.owner(text)?,
        };
        let mut pick = job.pick.clone();
        if !job.chown.is_empty() {
            pick.owner = Some(owner);
        }
        let how = Extract { owner: Owner::Told, overwrite: false };
        let chmod = job.pick.chmod.clone();
        let place = Place { path: job.target.clone(), owner, chmod, how };
        match &job.from {
            _ if pick.sources.is_empty() => {}
            From::Context(context) => {
                self.take_context(&space, &context.root()?, &pick, &place, job)?
            }
            From::Layers(layers) => self.take_layers(&space, layers, &pick, &place)?,
        }
        for remote in &job.remote {
            self.take_remote(&space, &pick, &place, job, remote)?;
        }
        if !job.inline.is_empty() {
            self.take_inline(&space, &pick, &place, job)?;
        }
        self.layer_of(space, layers, &[])
    }

    fn take_context(
        &self,
        space: &Workspace<'_>,
        root: &Root,
        pick: &Pick,
        place: &Place,
        job: &Job<'_>,
    ) -> Result<()> {
        let found = pick.find(root)?;
        let (archives, found): (Vec<Found>, Vec<Found>) =
            found.into_iter().partition(|found| job.unpack && is_archive(root, found));
        if !found.is_empty() {
            let working = Sending::start(space, Task::Place(place.clone()))?;
            let mut out = BufWriter::with_capacity(64 << 10, &working.pipe);
            let sent = pick.write(root, &found, None, true, &mut out);
            let sent = sent.and_then(|()| out.flush().doing("write the tar"));
            drop(out);
            working.finish(sent)?;
        }
        for archive in &archives {
            let mut place = place.clone();
            // As docker has it, the archive's directory takes the place of what is none.
            place.how.overwrite = true;
            // --chmod is for files.
            place.chmod = None;
            if space.has_single_id()? {
                place.how.owner = Owner::Fixed(0, 0);
            } else if !job.chown.is_empty() {
                place.how.owner = Owner::Fixed(place.owner.0, place.owner.1);
            }
            let file = open_file(root, archive)?;
            let mut file = BufReader::with_capacity(64 << 10, file);
            let mut tar = context::unpacked(&mut file).doing_with(|| archive.path.clone())?;
            let working = Sending::start(space, Task::PlaceArchive(place))?;
            let sent = std::io::copy(&mut tar, &mut &working.pipe);
            let sent = sent.map(drop).doing_with(|| format!("extract {}", archive.path));
            working.finish(sent)?;
        }
        Ok(())
    }

    /// `ADD https://…` and `ADD git@…`.
    fn take_remote(
        &self,
        space: &Workspace<'_>,
        pick: &Pick,
        place: &Place,
        job: &Job<'_>,
        remote: &Remote,
    ) -> Result<()> {
        let fetched = remote.fetch(self.engine, &job.target)?;
        let source = fetched.name.clone().unwrap_or_else(|| ".".into());
        let pick = Pick {
            sources: vec![source],
            ignore: String::new(),
            parents: false,
            owner: Some(place.owner),
            ..pick.clone()
        };
        let root = Root::open(&fetched.dir).at(&fetched.dir)?;
        let plain = Job {
            from: From::Layers(Vec::new()),
            pick: Pick::default(),
            inline: Vec::new(),
            target: String::new(),
            typed: Vec::new(),
            chown: job.chown.clone(),
            unpack: job.unpack_remote,
            unpack_remote: false,
            link: false,
            remote: Vec::new(),
        };
        self.take_context(space, &root, &pick, place, &plain)
    }

    /// `COPY <<EOF`.
    fn take_inline(
        &self,
        space: &Workspace<'_>,
        pick: &Pick,
        place: &Place,
        job: &Job<'_>,
    ) -> Result<()> {
        let staging = self.engine.layout.staging();
        let dir = Scratch::new(&staging)?;
        for (name, content) in &job.inline {
            if name.contains('/') || name == "." || name == ".." {
                return Err(Error::invalid(format!("a here-document cannot be called {name}")));
            }
            let path = dir.path().join(name);
            fs::write(&path, content).at(&path)?;
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).at(&path)?;
        }
        let pick = Pick {
            sources: job.inline.iter().map(|(name, _)| name.clone()).collect(),
            exclude: Vec::new(),
            ignore: String::new(),
            parents: false,
            owner: Some(place.owner),
            chmod: pick.chmod.clone(),
        };
        let root = Root::open(dir.path()).at(dir.path())?;
        let plain = Job {
            from: From::Layers(Vec::new()),
            pick: Pick::default(),
            inline: Vec::new(),
            target: String::new(),
            typed: Vec::new(),
            chown: String::new(),
            unpack: false,
            unpack_remote: false,
            link: false,
            remote: Vec::new(),
        };
        self.take_context(space, &root, &pick, place, &plain)
    }

    /// A layer with a directory, which the user of the stage owns if it is new.
    pub(super) fn make_dir(&self, state: &State, path: &str, user: &str) -> Result<Made> {
        let space = Workspace::still(self, &state.layers)?;
        let owner = if user.is_empty() { (0, 0) } else { space.owner(user)? };
        let how = Extract { owner: Owner::Told, overwrite: false };
        let place = Place { path: path.to_owned(), owner, chmod: None, how };
        Sending::start(&space, Task::MakeDir(place))?.finish(Ok(()))?;
        self.layer_of(space, &state.layers, &[])
    }
}

/// What the image's history says, in BuildKit's words.
fn created_by(copy: &Copy, job: &Job<'_>) -> String {
    let mut text = if copy.add { "ADD" } else { "COPY" }.to_owned();
    if copy.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in
        [("chown", &job.chown), ("chmod", job.pick.chmod.as_ref().unwrap_or(&String::new()))]
    {
        if !value.is_empty() {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    let (target, sources) = job.typed.split_last().map_or(("", &[][..]), |(last, all)| (last, all));
    for source in sources {
        text.push_str(&format!(" {source}"));
    }
    for heredoc in &copy.inline {
        text.push_str(&format!(" <<{}", heredoc.name));
    }
    format!("{text} {target} # buildkit")
}

/// Our end of a tar for the role that places it.
struct Sending {
    working: Working,
    pipe: File,
}

impl Sending {
    fn start(space: &Workspace<'_>, task: Task) -> Result<Self> {
        let (reader, writer) = channel::pipe().doing("create a pipe")?;
        let working = space.start(task, reader.as_fd())?;
        Ok(Self { working, pipe: writer.into() })
    }

    /// Closes the pipe and waits. What the role says explains why it stopped reading.
    fn finish(self, sent: Result<()>) -> Result<()> {
        drop(self.pipe);
        match (self.working.finish(), sent) {
            (Outcome::Failed(_), Err(err)) if !is_broken_pipe(&err) => Err(err),
            (Outcome::Failed(err), _) | (_, Err(err)) => Err(err),
            (Outcome::Done(_), Ok(())) => Ok(()),
            (Outcome::Cut, Ok(())) => Err(Error::engine("the copy was cut short")),
        }
    }
}

fn is_broken_pipe(err: &Error) -> bool {
    err.to_string().to_ascii_lowercase().contains("broken pipe")
}

fn open_file(root: &Root, found: &Found) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    root.open_at(format!("/{}", found.path), flags).map(File::from).at(&found.path)
}

/// Whether it is an archive that ADD extracts, told by its first bytes.
fn is_archive(root: &Root, found: &Found) -> bool {
    let Ok(file) = open_file(root, found) else { return false };
    if found.is_directory || !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return false;
    }
    let mut start = Vec::new();
    let mut file = BufReader::new(file);
    if (&mut file).take(512).read_to_end(&mut start).is_err() {
        return false;
    }
    match context::archive(&start) {
        None => false,
        Some("tar") => true,
        // A compressed file that holds no tar is copied as it is.
        Some(_) => holds_tar(root, found),
    }
}

fn holds_tar(root: &Root, found: &Found) -> bool {
    let Ok(file) = open_file(root, found) else { return false };
    let mut file = BufReader::new(file);
    let Ok(tar) = context::unpacked(&mut file) else { return false };
    let mut start = Vec::new();
    tar.take(512).read_to_end(&mut start).is_ok() && context::archive(&start) == Some("tar")
}
