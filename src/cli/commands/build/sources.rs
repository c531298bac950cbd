//! Where the Dockerfile and the context come from.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use super::super::super::args::build::Build;
use crate::{
    build::{Source, lex},
    engine::{
        Engine,
        build::{Context, Fetched, LOCK_NAME, Lock, Named, Pins},
    },
    error::{Context as _, Error, Result},
};

/// What a Dockerfile is called that nobody names.
const NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// What `--locked` allows and `--lock` notes of contexts.
pub(super) struct Locks {
    is_locked: bool,
    /// `--locked`: what counts for this build. At first that of the directory where it is called, if there
    /// is one.
    pub(super) lock: Option<Lock>,
    /// Where the contexts have come from.
    pub(super) taken: Lock,
    /// The main context is from elsewhere.
    pub(super) is_remote: bool,
    /// Repositories that are contexts have their `.git`.
    keep_git_dir: bool,
}

impl Locks {
    pub(super) fn new(args: &Build, keep_git_dir: bool) -> Result<Self> {
        let here = Path::new(".");
        let lock = match args.locked && here.join(LOCK_NAME).exists() {
            true => Some(Lock::read(here)?),
            false => None,
        };
        Ok(Self {
            is_locked: args.locked,
            lock,
            taken: Lock::default(),
            is_remote: false,
            keep_git_dir,
        })
    }

    fn fetch(&mut self, engine: &Engine, address: &str) -> Result<Option<Fetched>> {
        let pins = match (&self.lock, self.is_locked) {
            (_, false) => Pins::Free,
            (Some(lock), true) if lock.knows(address) => Pins::Lock(lock),
            (_, true) => Pins::Exact,
        };
        engine.remote_context(address, pins, self.keep_git_dir, &mut self.taken)
    }

    /// From here on the lock of the context counts, unless it is the caller's that pins it.
    pub(super) fn settle(&mut self, args: &Build, context: &Context) -> Result<()> {
        let is_callers =
            self.is_remote && self.lock.as_ref().is_some_and(|lock| lock.knows(&args.context));
        if self.is_locked && !is_callers {
            self.lock = Some(Lock::read(context.path())?);
        }
        Ok(())
    }
}

/// The Dockerfile and the context.
pub(super) fn sources(
    engine: &Engine,
    args: &Build,
    locks: &mut Locks,
) -> Result<(Source, Context)> {
    let (source, mut context) = found(engine, args, locks)?;
    if let Some(path) = &args.more.ignorefile {
        context.ignore_as(path)?;
    }
    Ok((source, context))
}

fn found(engine: &Engine, args: &Build, locks: &mut Locks) -> Result<(Source, Context)> {
    let staging = engine.layout.staging();
    let file_is_stdin = args.file.as_deref() == Some(Path::new("-"));
    // What is there is meant, whatever it looks like.
    if args.context != "-"
        && !Path::new(&args.context).exists()
        && let Some(fetched) = locks.fetch(engine, &args.context)?
    {
        locks.is_remote = true;
        return match fetched {
            Fetched::Files(context) if file_is_stdin => Ok((from_stdin()?, context)),
            Fetched::Files(context) => in_context(context, args),
            Fetched::Dockerfile(_) if args.file.is_some() => Err(Error::invalid(
                "-f names a file of the context, and the address is that of a Dockerfile",
            )),
            Fetched::Dockerfile(text) => {
                Ok((Source::new("Dockerfile", text), Context::empty(&staging)?))
            }
        };
    }
    if args.context != "-" {
        let dir = Path::new(&args.context);
        if file_is_stdin {
            return Ok((from_stdin()?, Context::directory(dir, None)?));
        }
        let context = Context::directory(dir, None)?;
        let path = dockerfile(dir, args.file.as_deref())?;
        let source = read(&path)?;
        let mut own = path.into_os_string();
        own.push(".dockerignore");
        let own = PathBuf::from(own);
        return Ok(match own.is_file() {
            true => (source, Context::directory(dir, Some(&own))?),
            false => (source, context),
        });
    }
    if file_is_stdin {
        return Err(Error::invalid(
            "invalid argument: can't use stdin for both build context and dockerfile",
        ));
    }
    let mut stdin = BufReader::new(io::stdin().lock());
    let start = stdin.fill_buf().doing("read stdin")?;
    if !crate::engine::build::context::is_archive(start) {
        let mut text = String::new();
        stdin
            .take(lex::SIZE_MAX)
            .read_to_string(&mut text)
            .doing("read the Dockerfile from stdin")?;
        if args.file.is_some() {
            return Err(Error::invalid(
                "-f names a file of the context, and stdin has a Dockerfile",
            ));
        }
        return Ok((Source::new("Dockerfile", text), Context::empty(&staging)?));
    }
    in_context(Context::tar(stdin, &staging)?, args)
}

/// The Dockerfile is in the context, which is not this user's: a name in it stays in it.
fn in_context(context: Context, args: &Build) -> Result<(Source, Context)> {
    let names: Vec<PathBuf> = match &args.file {
        Some(file) => vec![file.clone()],
        None => NAMES.map(PathBuf::from).into(),
    };
    let root = crate::sys::fs::Root::open(context.path()).at(context.path())?;
    for name in &names {
        if let Ok(bytes) = root.read_small(Path::new("/").join(name), lex::SIZE_MAX) {
            let text = String::from_utf8(bytes)
                .map_err(|_| Error::invalid(format!("{} is no text", name.display())))?;
            return Ok((Source::new(name.display().to_string(), text), context));
        }
    }
    Err(no_dockerfile(&names[0]))
}

fn from_stdin() -> Result<Source> {
    let mut text = String::new();
    io::stdin()
        .take(lex::SIZE_MAX)
        .read_to_string(&mut text)
        .doing("read the Dockerfile from stdin")?;
    Ok(Source::new("Dockerfile", text))
}

fn dockerfile(dir: &Path, named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let paths = NAMES.map(|name| dir.join(name));
    paths.iter().find(|path| path.exists()).cloned().ok_or_else(|| no_dockerfile(&paths[0]))
}

fn no_dockerfile(path: &Path) -> Error {
    Error::not_found(format!(
        "failed to read dockerfile: open {}: no such file or directory",
        path.display()
    ))
    .hint("-f names another file")
}

fn read(path: &Path) -> Result<Source> {
    let file = match fs::File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(no_dockerfile(path)),
        file => file.at(path).doing("failed to read dockerfile")?,
    };
    let mut text = String::new();
    file.take(lex::SIZE_MAX)
        .read_to_string(&mut text)
        .at(path)
        .doing("failed to read dockerfile")?;
    let name = path.file_name().map_or_else(|| "Dockerfile".into(), |name| name.to_string_lossy());
    Ok(Source::new(name, text))
}

/// `--build-context`, by name; and the images that were brought here for it alone.
pub(super) fn contexts(
    engine: &Engine,
    list: &[String],
    locks: &mut Locks,
) -> Result<(BTreeMap<String, Named>, Vec<String>)> {
    let mut contexts = BTreeMap::new();
    let mut brought = Vec::new();
    for text in list {
        let Some((name, place)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Error::invalid(format!(
                "invalid context value: {text}, expected key=value"
            )));
        };
        let named = match (
            place.strip_prefix("docker-image://"),
            place.strip_prefix("oci-layout://"),
        ) {
            (Some(image), _) => Named::Image(image.to_owned()),
            (_, Some(layout)) => {
                let (id, is_new) = engine.take_layout(layout)?;
                brought.extend(is_new.then(|| id.clone()));
                Named::Image(id)
            }
            _ => match files(engine, name, place, locks)? {
                Some(context) => Named::Directory(context),
                None if place.contains("://") => {
                    return Err(Error::unsupported(format!(
                        "--build-context {name}: {place} is nothing that files are taken from"
                    ))
                    .hint("there are directories, docker-image://, oci-layout://, git repositories and tars of the web"));
                }
                None => Named::Directory(Context::directory(Path::new(place), None)?),
            },
        };
        contexts.insert(name.to_ascii_lowercase(), named);
    }
    Ok((contexts, brought))
}

/// The files at an address; `None` if it is none.
fn files(engine: &Engine, name: &str, place: &str, locks: &mut Locks) -> Result<Option<Context>> {
    if Path::new(place).exists() {
        return Ok(None);
    }
    match locks.fetch(engine, place)? {
        None => Ok(None),
        Some(Fetched::Files(context)) => Ok(Some(context)),
        Some(Fetched::Dockerfile(_)) => Err(Error::invalid(format!(
            "--build-context {name}: {place} is neither a tar nor a git repository"
        ))),
    }
}
