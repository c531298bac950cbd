//! What `ADD` takes from elsewhere: files of the web and git repositories.

use std::{
    fs::{self, File},
    io::{Read, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use super::{
    context::{self, Context, Scratch},
    git::{self, Commit, Repository},
    lock::Lock,
    stage::{Builder, key},
};
use crate::{
    engine::{Engine, registry::Reach},
    error::{Context as _, Error, Result},
    image::{
        registry::web::{self, Answer, Download},
        steps::WebNote,
    },
    oci::{Digest, Hasher},
};

/// One source from elsewhere, as it is now.
pub(super) enum Remote {
    File { page: Page },
    Repository { repository: Repository, commit: Commit, keep_git_dir: bool },
}

/// The digest of something that was taken from elsewhere, by the name of its algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    pub algorithm: String,
    pub hex: String,
}

impl From<&Digest> for Material {
    fn from(digest: &Digest) -> Self {
        Self { algorithm: digest.algorithm().to_owned(), hex: digest.hex().to_owned() }
    }
}

impl Material {
    /// A commit, by its digest: repositories name their objects by either.
    pub(super) fn commit(id: &str) -> Self {
        let algorithm = if id.len() == 64 { "sha256" } else { "sha1" };
        Self { algorithm: algorithm.into(), hex: id.to_owned() }
    }
}

/// A file of the web.
pub(super) struct Page {
    url: String,
    pub(super) note: WebNote,
    /// Its content, if it had to be fetched.
    file: Option<Scratch>,
}

/// Where its files are.
pub(super) struct Place {
    pub(super) dir: PathBuf,
    /// The only file; all that is there if there is none.
    pub(super) name: Option<String>,
    _scratch: Scratch,
}

impl Page {
    /// Asks for what is at `url`; fetches it unless it is known to be what it was.
    pub(super) fn ask(engine: &Engine, url: &str, fresh: bool) -> Result<Self> {
        let known = match fresh {
            true => None,
            false => engine.store.web_note(url)?,
        };
        let access = Reach::default().access()?;
        let answer = web::get(url, known.as_ref().map(|note| &note.version), &access)
            .doing_with(|| format!("fetch {url}"))?;
        match (answer, known) {
            (Answer::Same, Some(note)) => Ok(Self { url: url.to_owned(), note, file: None }),
            (Answer::Here(download), _) => Self::take(engine, url, download),
            (Answer::Same, None) => Err(Error::engine(format!("{url}: nothing was sent"))),
        }
    }

    fn take(engine: &Engine, url: &str, mut download: Download) -> Result<Self> {
        let scratch = Scratch::new(&engine.layout.staging())?;
        let name = download.name.clone().or_else(|| web::name_of(url));
        let path = scratch.path().join("file");
        let mut file = File::create(&path).at(&path)?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = match download.body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(err) => return Err(err).doing_with(|| format!("fetch {url}")),
            };
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).at(&path)?;
        }
        let note = WebNote {
            url: url.to_owned(),
            version: download.version,
            modified: download.modified,
            name,
            digest: hasher.finish(),
        };
        engine.store.note_web(&note)?;
        Ok(Self { url: url.to_owned(), note, file: Some(scratch) })
    }

    /// The file, fetched now if it has not been.
    fn place(&self, engine: &Engine, name: &str) -> Result<Place> {
        let again = match &self.file {
            Some(_) => None,
            None => Some(Self::ask(engine, &self.url, true)?),
        };
        let page = again.as_ref().unwrap_or(self);
        if page.note.digest != self.note.digest {
            return Err(Error::conflict(format!("{} has changed while it was fetched", self.url)));
        }
        let held = page.file.as_ref().ok_or_else(|| Error::engine("a file was not fetched"))?;
        let scratch = Scratch::new(&engine.layout.staging())?;
        let path = scratch.path().join(name);
        let from = held.path().join("file");
        fs::hard_link(&from, &path).at(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).at(&path)?;
        if let Some(seconds) = page.note.modified.and_then(|time| u64::try_from(time).ok()) {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            File::open(&path).and_then(|file| file.set_modified(time)).at(&path)?;
        }
        Ok(Place { dir: scratch.path().to_owned(), name: Some(name.to_owned()), _scratch: scratch })
    }

    /// A reader of what was fetched.
    pub(super) fn open(&self) -> Result<File> {
        let held = self.file.as_ref().ok_or_else(|| Error::engine("a file was not fetched"))?;
        let path = held.path().join("file");
        File::open(&path).at(&path)
    }
}

impl Remote {
    /// What `ADD` source this is; `None` for one of the context's.
    pub(super) fn ask(
        builder: &Builder<'_>,
        source: &str,
        checksum: Option<&str>,
        keep_git_dir: bool,
    ) -> Result<Option<Self>> {
        let repository = match Repository::looks_local(source) {
            true => None,
            false => Repository::parse(source)?,
        };
        if let Some(repository) = repository {
            let commit = match &builder.request.locked {
                Some(lock) => repository.at(lock.repository(source)?)?,
                None => repository.resolve()?,
            };
            builder.taken().note_repository(source, &commit.id);
            repository.check(checksum, &commit)?;
            builder.note_material_as(source, Material::commit(&commit.id));
            let keep_git_dir = keep_git_dir || repository.keep_git_dir.unwrap_or(false);
            return Ok(Some(Self::Repository { repository, commit, keep_git_dir }));
        }
        if !web::is_web(source) {
            return Ok(None);
        }
        if keep_git_dir {
            return Err(Error::invalid("--keep-git-dir is for git repositories"));
        }
        let checksum = checksum.map(str::parse::<Digest>).transpose().doing("--checksum")?;
        let page = Page::ask(builder.engine, source, builder.request.no_cache)?;
        if let Some(wanted) = checksum.as_ref().filter(|wanted| **wanted != page.note.digest) {
            return Err(Error::invalid(format!("digest mismatch {}: {wanted}", page.note.digest))
                .hint(format!("{source} is not what the checksum promises")));
        }
        if let Some(lock) = &builder.request.locked {
            lock.check_file(source, &page.note.digest)?;
        }
        builder.taken().note_file(source, &page.note.digest);
        builder.note_material_as(source, (&page.note.digest).into());
        Ok(Some(Self::File { page }))
    }

    /// What the outcome depends on.
    pub(super) fn key(&self) -> Digest {
        match self {
            Self::File { page } => {
                let modified = format!("{:?} {:?}", page.note.modified, page.note.name);
                key(&["web", page.note.digest.as_str(), &modified])
            }
            Self::Repository { repository, commit, keep_git_dir } => key(&[
                "git",
                &repository.url,
                &commit.id,
                repository.subdir.as_deref().unwrap_or_default(),
                &format!("{keep_git_dir} {}", repository.is_alone),
            ]),
        }
    }

    /// Brings the files here. `target` is what a file without a name of its own is called by.
    pub(super) fn fetch(&self, engine: &Engine, target: &str) -> Result<Place> {
        match self {
            Self::File { page } => {
                let last = target.rsplit('/').next().unwrap_or_default().to_owned();
                let own = page.note.name.clone();
                let name = match target.ends_with('/') {
                    true => own.ok_or_else(|| {
                        Error::invalid(format!("cannot determine filename for source {}", page.url))
                            .hint("name the file in the destination")
                    })?,
                    // The only file takes the destination's name.
                    false => own.unwrap_or(if last.is_empty() { "file".into() } else { last }),
                };
                page.place(engine, &name)
            }
            Self::Repository { repository, commit, keep_git_dir } => {
                let scratch = Scratch::new(&engine.layout.staging())?;
                let dir = repository.fetch(commit, scratch.path(), *keep_git_dir)?;
                Ok(Place { dir, name: None, _scratch: scratch })
            }
        }
    }
}

/// What the address of a build context means.
#[derive(Debug)]
pub enum Fetched {
    /// Files, among which the Dockerfile is.
    Files(Context),
    /// The Dockerfile itself.
    Dockerfile(String),
}

/// What a build context may be.
#[derive(Debug, Clone, Copy)]
pub enum Pins<'a> {
    /// What its address means now.
    Free,
    /// What this lock has for the address.
    Lock(&'a Lock),
    /// What its address says, which is a commit.
    Exact,
}

fn inexact(text: &str) -> Error {
    Error::conflict(format!("--locked: nothing pins the build context {text}"))
        .hint("name a commit (ADDRESS#COMMIT); or `dhow build --lock` with it, which writes dhow.lock where it is called")
}

/// The longest Dockerfile that is taken from the web.
const DOCKERFILE_MAX: u64 = crate::build::lex::SIZE_MAX;

impl Engine {
    /// Fetches a build context: a git repository, a tar or a Dockerfile, and notes in `taken` what it
    /// was. A repository has its `.git` with `keep_git_dir`, unless its address says otherwise.
    /// `None` if `text` is no address.
    pub fn remote_context(
        &self,
        text: &str,
        pins: Pins<'_>,
        keep_git_dir: bool,
        taken: &mut Lock,
    ) -> Result<Option<Fetched>> {
        if let Some(repository) = Repository::parse(text)? {
            let commit = match pins {
                Pins::Free => repository.resolve()?,
                Pins::Lock(lock) => repository.at(lock.repository(text)?)?,
                Pins::Exact if repository.is_exact() => repository.resolve()?,
                Pins::Exact => return Err(inexact(text)),
            };
            repository.check(None, &commit)?;
            taken.note_repository(text, &commit.id);
            let scratch = Scratch::new(&self.layout.staging())?;
            let dir = repository.fetch(&commit, scratch.path(), true)?;
            let time = git::time_of(scratch.path())?;
            if !repository.keep_git_dir.unwrap_or(keep_git_dir) {
                let own = scratch.path().join(".git");
                fs::remove_dir_all(&own).at(&own).doing("remove")?;
            }
            return Ok(Some(Fetched::Files(Context::owned(&dir, scratch, Some(time))?)));
        }
        if !web::is_web(text) {
            return Ok(None);
        }
        if matches!(pins, Pins::Exact) {
            return Err(inexact(text));
        }
        let page = Page::ask(self, text, true)?;
        if let Pins::Lock(lock) = pins {
            lock.check_file(text, &page.note.digest)?;
        }
        taken.note_file(text, &page.note.digest);
        let mut file = std::io::BufReader::new(page.open()?);
        let start = std::io::BufRead::fill_buf(&mut file).doing("read the build context")?;
        if context::archive(start).is_some() {
            return Ok(Some(Fetched::Files(Context::tar(file, &self.layout.staging())?)));
        }
        let mut text = String::new();
        file.take(DOCKERFILE_MAX)
            .read_to_string(&mut text)
            .doing_with(|| format!("read the Dockerfile at {}", page.url))?;
        Ok(Some(Fetched::Dockerfile(text)))
    }

    /// Brings an image of an OCI layout (`DIR[:TAG]` or `DIR[@DIGEST]`) into the store, without a
    /// name. Returns its id, and whether it was not here before.
    pub fn take_layout(&self, place: &str) -> Result<(String, bool)> {
        let (path, wanted) = match place.split_once('@') {
            Some((path, digest)) => (path, Some(digest)),
            None => match place.rsplit_once(':') {
                Some((path, tag)) => (path, Some(tag)),
                None => (place, None),
            },
        };
        let root = std::path::Path::new(path);
        if !root.join("index.json").is_file() {
            return Err(Error::not_found(format!("{path} is no OCI layout: it has no index.json")));
        }
        if wanted.is_some_and(|wanted| wanted.contains(':')) {
            return Err(Error::unsupported("an image of an OCI layout is chosen by its tag")
                .hint("write oci-layout://DIR:TAG"));
        }
        let mut tar = crate::image::archive::DirTar::new(root)?;
        let choose = |called: &[crate::image::archive::Called]| {
            let fits = |(names, tag): &crate::image::archive::Called| match wanted {
                None => true,
                Some(wanted) => {
                    tag.as_deref() == Some(wanted)
                        || names.iter().any(|name| name.tag() == Some(wanted))
                }
            };
            called.iter().position(fits).ok_or_else(|| {
                Error::not_found(format!("{path} holds no image {}", wanted.unwrap_or_default()))
            })
        };
        let before = self.store.list()?;
        let unpacker = self.unpacker();
        let silent = &crate::image::Silent;
        let loaded = crate::image::archive::load_one(
            crate::image::archive::Source { bytes: &mut tar, path: Some(root) },
            &self.store,
            None,
            &choose,
            &[],
            &*unpacker,
            silent,
        );
        let id = loaded.doing_with(|| format!("read {path}"))?.image.record.id;
        let is_new = !before.iter().any(|image| image.record.id == id);
        Ok((id.to_string(), is_new))
    }
}
