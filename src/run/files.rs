//! A container's files, as its processes see them: read into a tar, or written from one.
//!
//! dhow starts itself again in a hidden role for it, because the files belong to ids of the
//! container's user namespace, and those of a container that does not run have to be mounted
//! first. The role's mounts are in a mount namespace of its own and go with it.
//!
//! | descriptor | is |
//! | --- | --- |
//! | 3 | the request, JSON |
//! | 4 | where the reply goes, JSON |
//! | 5 | the tar, in or out |
//! | 6 | the init of a container that runs |

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Read, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use super::{
    fuse::{self, Server},
    pick::{self, Pick, Place},
    plan::Rootfs,
    rootfs::RootfsBuilder,
};
use crate::{
    error::{Context as _, Error, Kind, Result},
    image::{
        archive,
        layer::{Extract, TarWriter, extract, restore},
    },
    overlay::Stack,
    sys::{
        channel, fd,
        fs::{self, Dir, Errno, FileType, Root, kind},
        mount,
        process::{self, Child, SingleThreaded},
        user::IdMaps,
    },
};

pub const ROLE: &str = "files";

const BUFFER: usize = 256 << 10;
/// Links followed one after another (path_resolution(7)).
const LINKS_MAX: u32 = 40;

/// Where the files are.
#[derive(Debug, Serialize, Deserialize)]
pub enum View {
    /// Beneath this link of `/proc`, from within the container's user namespace if it has one.
    Running { root: PathBuf, joins: bool },
    /// To be mounted.
    Stopped {
        shown: Shown,
        target: PathBuf,
        /// Host path and path inside.
        binds: Vec<(PathBuf, PathBuf)>,
    },
}

/// What makes the files of a container that does not run seen.
#[derive(Debug, Serialize, Deserialize)]
pub enum Shown {
    /// The kernel's overlayfs.
    Overlay(Stack),
    /// This `fuse-overlayfs`.
    Fuse(Stack, PathBuf),
    /// They are there as they are.
    Plain,
}

/// What is to be done with them.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// Everything of the root file system itself, nothing of what is mounted in it.
    Export,
    /// A directory with all that is in it, for [`Task::Restore`].
    Dump,
    /// What [`Task::Dump`] wrote, packed or not, over what is in the directory.
    Restore { how: Extract },
    /// As `Export`, beneath a directory that is as old as is said (seconds since 1970).
    ExportInto { directory: String, time: i64 },
    /// One path, as a tar whose entries begin with its name.
    Tar { path: String, follow: bool },
    /// One path, for [`put`] on the other side.
    Get { path: String, follow: bool },
    /// What [`get`] sent, to this path.
    Put { path: String, how: Extract },
    /// A tar into the directory at this path.
    Untar { path: String, how: Extract },
    /// What these patterns mean, for [`Task::Place`].
    Pick { what: Pick, latest: Option<i64> },
    /// What [`Task::Pick`] sent.
    Place(Place),
    /// An archive into a directory that need not be there.
    PlaceArchive(Place),
    /// A directory that need not be there; nothing is read.
    MakeDir(Place),
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    view: View,
    task: Task,
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// So many bytes of content went by.
    Done(u64),
    Failed {
        kind: Kind,
        said: String,
        hint: Option<String>,
    },
    /// The other side of the tar has gone: it knows why.
    Cut,
}

/// What goes before the entries of [`get`], as JSON in a length of four bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Heading {
    /// What it is called at home.
    name: Vec<u8>,
    is_directory: bool,
    /// Only what is in the directory is meant.
    contents: bool,
}

/// The outcome of one side of a copy.
#[derive(Debug)]
pub enum Outcome {
    Done(u64),
    Failed(Error),
    Cut,
}

/// A role that is at work.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    answer: OwnedFd,
}

/// How a container that does not run is shown, where, and the host's paths in it.
pub type Mounted = (Shown, PathBuf, Vec<(PathBuf, PathBuf)>);

/// The files of one container.
#[derive(Debug)]
pub struct Source {
    /// The root directory, in `/proc`, and init of a container that runs.
    pub running: Option<(PathBuf, OwnedFd)>,
    /// For one that does not: what to mount, and the ids it has.
    pub stopped: Option<Mounted>,
    pub maps: Option<IdMaps>,
}

impl Source {
    /// Starts the role; `tar` is its end of the tar.
    pub fn start(self, task: Task, tar: BorrowedFd<'_>) -> Result<Worker> {
        let (asked, ask) = channel::pipe().doing("create a pipe")?;
        let (answer, answered) = channel::pipe().doing("create a pipe")?;
        let mut fds = vec![asked.as_fd(), answered.as_fd(), tar];
        let (view, maps) = match (&self.running, self.stopped) {
            (Some((root, init)), _) => {
                fds.push(init.as_fd());
                let joins = self.maps.is_some();
                (View::Running { root: root.clone(), joins }, None)
            }
            (None, Some((shown, target, binds))) => {
                (View::Stopped { shown, target, binds }, self.maps)
            }
            (None, None) => return Err(Error::engine("a container without files")),
        };
        let child = process::spawn_self_as_caller(&[c"dhow", c"files"], &fds, maps.as_ref())?;
        drop((asked, answered));
        let text = serde_json::to_vec(&Request { view, task })?;
        File::from(ask).write_all(&text).doing("ask for the container's files")?;
        Ok(Worker { child, answer })
    }
}

impl Worker {
    /// Waits for its end.
    pub fn finish(self) -> Outcome {
        let mut text = Vec::new();
        let read = File::from(self.answer).read_to_end(&mut text);
        let _ = self.child.wait();
        let reply = read.map_err(Error::from).and_then(|_| Ok(serde_json::from_slice(&text)?));
        match reply {
            Ok(Reply::Done(size)) => Outcome::Done(size),
            Ok(Reply::Cut) => Outcome::Cut,
            Ok(Reply::Failed { kind, said, hint }) => {
                let error = Error::new(kind, said);
                Outcome::Failed(match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                })
            }
            Err(_) => Outcome::Failed(Error::engine("the helper for files has ended early")),
        }
    }
}

/// The hidden role's entry; the exit code.
pub fn main() -> i32 {
    let hidden = process::forbid_inspection().map_err(Error::from);
    let reply = match hidden.and_then(|()| perform()).unwrap_or_else(Outcome::Failed) {
        Outcome::Done(size) => Reply::Done(size),
        Outcome::Cut => Reply::Cut,
        Outcome::Failed(err) => Reply::Failed {
            kind: err.kind(),
            said: err.to_string(),
            hint: err.hint_text().map(str::to_owned),
        },
    };
    let told = fd::inherited(4).and_then(|answer| {
        let text = serde_json::to_vec(&reply).ok()?;
        File::from(answer).write_all(&text).ok()
    });
    i32::from(told.is_none())
}

fn perform() -> Result<Outcome> {
    let missing = || Error::engine("the helper for files was started with the wrong descriptors");
    let mut text = Vec::new();
    let asked = fd::inherited(3).ok_or_else(missing)?;
    File::from(asked).read_to_end(&mut text).doing("hear a request")?;
    let request: Request = serde_json::from_slice(&text)?;
    let tar = fd::inherited(5).ok_or_else(missing)?;
    let root = match request.view {
        View::Running { root, joins } => {
            let init = fd::inherited(6).ok_or_else(missing)?;
            if joins {
                process::join_namespaces(init.as_fd(), CloneFlags::CLONE_NEWUSER)
                    .doing("join the container's user namespace")?;
                process::become_root().doing("become root of the container")?;
            }
            let root = Root::open(&root).at(&root)?;
            // Init still lives, so the number in the path is its own.
            process::send_signal(init.as_fd(), 0)
                .map_err(|_| Error::conflict("the container has just ended"))?;
            root
        }
        View::Stopped { shown, target, binds } => mounted(shown, target, &binds)?,
    };
    Ok(match request.task {
        Task::Export => sent(tar, |out| {
            let top = root.read_dir("")?;
            let mut writer = TarWriter::new(out).within_mount_of(&top)?;
            writer.tree(&top, b"")?;
            writer.finish()
        }),
        Task::Dump => sent(tar, |out| {
            let mut writer = TarWriter::new(out);
            writer.whole(&root.read_dir("")?)?;
            writer.finish()
        }),
        Task::Restore { how } => {
            let mut tar = File::from(tar);
            let restored = archive::unpacked(&mut tar)
                .and_then(|mut tar| restore(&mut tar, &root.read_dir("")?, how));
            restored.map_or_else(Outcome::Failed, Outcome::Done)
        }
        Task::ExportInto { directory, time } => sent(tar, |out| {
            let top = root.read_dir("")?;
            let mut writer = TarWriter::new(out).within_mount_of(&top)?;
            writer.directory(directory.as_bytes(), 0o755, time)?;
            writer.tree(&top, directory.as_bytes())?;
            writer.finish()
        }),
        Task::Tar { path, follow } => sent(tar, |out| read_path(&root, &path, follow, false, out)),
        Task::Get { path, follow } => get(&root, &path, follow, tar),
        Task::Put { path, how } => put(&root, &path, how, tar),
        Task::Untar { path, how } => untar(&root, &path, how, tar),
        Task::Pick { what, latest } => {
            sent(tar, |out| what.write(&root, &what.find(&root)?, latest, true, out))
        }
        Task::Place(at) => placed(tar, |tar| pick::place(&root, &at, tar)),
        Task::PlaceArchive(at) => placed(tar, |tar| pick::place_archive(&root, &at, tar)),
        Task::MakeDir(at) => {
            pick::make_dirs(&root, &at.path, &at).map_or_else(Outcome::Failed, |_| Outcome::Done(0))
        }
    })
}

/// The files of a container that does not run: mounted here, for as long as this process lives.
/// The host's paths are opened as the caller, who may be nobody in the container's user namespace;
/// overlayfs does all its work as who has mounted it.
fn mounted(shown: Shown, target: PathBuf, binds: &[(PathBuf, PathBuf)]) -> Result<Root> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).doing("make a mount namespace")?;
    mount::receive_only(Path::new("/")).doing("make mounts our own")?;
    let sources = binds.iter().map(|(source, _)| mount::clone_path(source, true).at(source));
    let sources = sources.collect::<Result<Vec<_>>>()?;
    let rootfs = match shown {
        Shown::Overlay(stack) => Rootfs::Overlay { stack, target },
        // This process is in the container's user namespace already, and so is the server.
        Shown::Fuse(stack, program) => {
            Rootfs::Fuse { stack, target, server: Server { program, maps: None } }
        }
        Shown::Plain => Rootfs::Directory(target),
    };
    let mut unserved = None;
    let opened = RootfsBuilder::open(&rootfs).doing("open the container's root file system")?;
    let is_served = matches!(rootfs, Rootfs::Fuse { .. });
    let become_root = || process::become_root().doing("become root of the container");
    if !is_served {
        become_root()?;
    }
    let built = RootfsBuilder::mount(opened, |device| {
        serve(&rootfs, device).map_err(|err| {
            unserved = Some(err);
            nix::errno::Errno::EIO
        })
    });
    if let Some(err) = unserved {
        return Err(err);
    }
    let rootfs = built.doing("mount the container's root file system")?;
    if is_served {
        become_root()?;
    }
    let root = rootfs.root().try_clone_to_owned().doing("hold the root directory")?;
    let root = Root::from_fd(root);
    for ((_, target), source) in binds.iter().zip(sources) {
        let is_directory = kind(&fs::stat(&source)?) == FileType::Directory;
        let place = match is_directory {
            true => root.ensure_dir(target, 0o755).map(Dir::into_fd),
            false => root.ensure_file(target),
        };
        let place = place.at(target)?;
        mount::attach(source.as_fd(), place.as_fd()).at(target).doing("mount")?;
    }
    Ok(root)
}

/// Starts the server of a FUSE mount. It ends with this process, whose mount it is.
fn serve(rootfs: &Rootfs, device: BorrowedFd<'_>) -> Result<()> {
    let Rootfs::Fuse { stack, server, .. } = rootfs else {
        return Err(Error::engine("a root file system without a server"));
    };
    let alone = SingleThreaded::verify().doing("start a server")?;
    let device = device.try_clone_to_owned().doing("hold /dev/fuse")?;
    fuse::serve(&device, stack, server, &alone)
}

/// Sends one path for [`put`]. A path that ends in `/.` means what is in the directory.
pub fn get(root: &Root, path: &str, follow: bool, tar: OwnedFd) -> Outcome {
    sent(tar, |out| read_path(root, path, follow, true, out))
}

/// Runs `write` with the pipe to write to, and tells a reader that has gone from a failure.
fn sent(tar: OwnedFd, write: impl FnOnce(&mut dyn io::Write) -> Result<()>) -> Outcome {
    let mut out = Out { file: BufWriter::with_capacity(BUFFER, tar.into()), size: 0, cut: false };
    let written = write(&mut out).and_then(|()| out.flush().doing("write the tar"));
    match written {
        _ if out.cut => Outcome::Cut,
        Ok(()) => Outcome::Done(out.size),
        Err(err) => Outcome::Failed(err),
    }
}

struct Out {
    file: BufWriter<File>,
    size: u64,
    cut: bool,
}

impl Out {
    fn heed<T>(&mut self, written: io::Result<T>) -> io::Result<T> {
        if written.as_ref().is_err_and(|err| err.kind() == io::ErrorKind::BrokenPipe) {
            self.cut = true;
        }
        written
    }
}

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        let count = self.heed(written)?;
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.file.flush();
        self.heed(flushed)
    }
}

fn read_path(
    root: &Root,
    path: &str,
    follow: bool,
    heading: bool,
    out: &mut dyn io::Write,
) -> Result<()> {
    let contents = path == "." || path.ends_with("/.") || path.trim_matches('/').is_empty();
    let follow = follow || contents || path.ends_with('/');
    let (dir, name) = locate(root, path, follow)?;
    let stat = match name.as_slice() {
        b"" => fs::stat(&dir)?,
        name => dir.stat(name).map_err(|errno| no_such(errno, path))?,
    };
    let is_directory = kind(&stat) == FileType::Directory;
    if !is_directory && path.ends_with('/') {
        return Err(Error::invalid(format!("{path}: not a directory")));
    }
    // What was typed names it, not what it leads to.
    let typed = Path::new(path).file_name().map_or(&b"."[..], |name| name.as_bytes());
    let called = if heading { b"" } else { typed };
    if heading {
        let contents = contents && is_directory;
        let text = serde_json::to_vec(&Heading { name: typed.to_vec(), is_directory, contents })?;
        let length = u32::try_from(text.len()).map_err(|_| Error::invalid("a name too long"))?;
        out.write_all(&length.to_le_bytes()).doing("write the tar")?;
        out.write_all(&text).doing("write the tar")?;
    }
    let mut writer = TarWriter::new(out);
    if is_directory {
        let below = match name.as_slice() {
            b"" => root.read_dir("")?,
            name => dir.open_dir(name).at(path)?,
        };
        match name.as_slice() {
            b"" => {}
            name => writer.add(&dir, name, called, &stat)?,
        }
        let prefix = if called == b"." { b"" } else { called };
        writer.tree(&below, prefix)?;
    } else {
        let entry = if called.is_empty() { b"." } else { called };
        writer.add(&dir, &name, entry, &stat)?;
    }
    writer.finish()
}

fn no_such(errno: Errno, path: &str) -> Error {
    match errno {
        Errno::NOENT | Errno::NOTDIR => {
            Error::not_found(format!("{path}: no such file or directory"))
        }
        errno => Error::from(errno).context(path),
    }
}

/// The directory and the name of `path`; of the root itself the name is empty. With `follow`
/// also through a link at the end, to something that need not be there.
pub(super) fn locate(root: &Root, path: &str, follow: bool) -> Result<(Dir, Vec<u8>)> {
    let mut path = Path::new("/").join(path.trim_start_matches('/'));
    for _ in 0..LINKS_MAX {
        let plain = path.components().next_back();
        let name = match plain {
            Some(std::path::Component::Normal(name)) => name.to_owned(),
            // `/`, and what ends in `..`: the directory there, which has a name of its own only
            // elsewhere.
            _ => {
                let dir = root.read_dir(&path).at(&path)?;
                return Ok((dir, Vec::new()));
            }
        };
        let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
        let dir =
            root.read_dir(&parent).map_err(|errno| no_such(errno, &path.display().to_string()))?;
        match dir.read_link(name.as_bytes()) {
            Ok(target) if follow => path = parent.join(OsStr::from_bytes(&target)),
            _ => return Ok((dir, name.as_bytes().to_vec())),
        }
    }
    Err(Error::from(Errno::LOOP).context(path.display().to_string()))
}

/// Receives what [`get`] sent, by the rules of `docker cp`.
pub fn put(root: &Root, path: &str, how: Extract, tar: OwnedFd) -> Outcome {
    let mut tar = BufReader::with_capacity(BUFFER, File::from(tar));
    let heading = match read_heading(&mut tar) {
        Ok(heading) => heading,
        Err(_) => return Outcome::Cut,
    };
    match put_here(root, path, how, &heading, &mut tar) {
        Ok(size) => Outcome::Done(size),
        Err(err) => Outcome::Failed(err),
    }
}

fn read_heading(tar: &mut impl Read) -> Result<Heading> {
    let mut length = [0; 4];
    tar.read_exact(&mut length).doing("read the tar")?;
    let length = u64::from(u32::from_le_bytes(length)).min(BUFFER as u64);
    Ok(serde_json::from_reader(tar.take(length))?)
}

fn put_here(
    root: &Root,
    path: &str,
    how: Extract,
    heading: &Heading,
    tar: &mut dyn Read,
) -> Result<u64> {
    let wants_directory = path.ends_with('/') || path.ends_with("/.") || path == ".";
    let there = match root.open_path(absolute(path)) {
        Ok(fd) => Some(kind(&fs::stat(&fd)?)),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(no_such(errno, path)),
    };
    match there {
        Some(FileType::Directory) => {
            let dir = root.read_dir(absolute(path)).at(path)?;
            let name = if heading.contents { &b""[..] } else { &heading.name };
            extract(tar, &dir, name, how)
        }
        Some(_) if heading.is_directory && !how.overwrite => {
            Err(Error::conflict(format!("cannot copy a directory onto the file {path}")))
        }
        Some(_) if wants_directory => Err(Error::invalid(format!("{path}: not a directory"))),
        None if wants_directory && !heading.is_directory => {
            Err(Error::not_found(format!("{path}: no such directory")))
        }
        Some(_) | None => {
            let (dir, name) = locate(root, path, true)?;
            extract(tar, &dir, &name, how)
        }
    }
}

/// Reads to the end, even what failed: the other side is not to blame.
fn placed(tar: OwnedFd, place: impl FnOnce(&mut dyn Read) -> Result<u64>) -> Outcome {
    let mut tar = BufReader::with_capacity(BUFFER, File::from(tar));
    // A writer that failed before it wrote anything has said why.
    if tar.fill_buf().is_ok_and(<[u8]>::is_empty) {
        return Outcome::Cut;
    }
    let done = place(&mut tar).map_or_else(Outcome::Failed, Outcome::Done);
    pick::drain(&mut tar);
    done
}

fn untar(root: &Root, path: &str, how: Extract, tar: OwnedFd) -> Outcome {
    let mut tar = BufReader::with_capacity(BUFFER, File::from(tar));
    let done = match root.open_path(absolute(path)) {
        Ok(_) => match root.read_dir(absolute(path)) {
            Err(Errno::NOTDIR) => Err(Error::invalid(format!("{path}: not a directory"))),
            opened => opened.at(path).and_then(|dir| extract(&mut tar, &dir, b"", how)),
        },
        Err(errno) => Err(no_such(errno, path)),
    };
    done.map_or_else(Outcome::Failed, Outcome::Done)
}

/// Paths in a container begin at its root, whether they say so or not.
fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path.trim_start_matches('/'))
}
