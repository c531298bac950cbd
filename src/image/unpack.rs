//! Unpacking where one may: in this process, or in a helper with a user namespace of its own.
//!
//! ```text
//!   command                               helper (dhow again, role `unpack`)
//!   ------------------------------------  --------------------------------------------
//!   request, target, reply pipe  ──────>  one thread for each message
//!   JSON into the request pipe   ──────>  reads it to its end
//!   tar into the tar pipe        ──────>  applies it beneath `target`
//!   reads the reply              <──────  JSON, and the end of the pipe
//! ```
//!
//! The helper is started when first needed and ends when the command does: the socket closes.
//! It opens nothing by a path that a layer could have had a say in.

use std::{
    ffi::{CStr, OsStr, OsString},
    fs::File,
    io::{self, Read, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde::{Deserialize, Serialize};

use super::{
    Seal, Sealing, Unpack, Unpacked,
    layer::{self, Applied, Apply, Change, Changes, Form, Marks, Sealed, Upper},
};
use crate::{
    error::{Context as _, Error, Kind, Result},
    sys::{
        channel,
        fs::{self, Dir, Root, Time, Usage},
        process::{Child, spawn_self},
        user::IdMaps,
    },
};

/// The hidden first argument of the helper, which calls [`serve`] on descriptor 3.
pub const ROLE: &CStr = c"unpack";

/// Bytes of a tar on their way to the helper.
const PIPE: usize = 1 << 20;
const BUFFER: usize = 256 << 10;

/// For root, and for a process that has its user namespace already.
#[derive(Debug, Clone, Copy)]
pub struct InProcess(pub Apply);

impl InProcess {
    /// Copies the lowerdirs `lowers`, bottom first and all called `diff`, into the `diff` of
    /// `target` as overlayfs would show them together.
    pub fn flatten(&self, lowers: &[PathBuf], target: &Path) -> Result<()> {
        copy(lowers, open(target)?, &Changes { owners: None, marks: Marks::Applied })
    }
}

impl Unpack for InProcess {
    fn unpack(&self, tar: &mut dyn Read, target: &Path) -> Result<Unpacked> {
        let target = open(target)?;
        layer::apply(tar, target.as_fd(), &self.0).map(Unpacked::from)
    }

    fn settle(&self, target: &Path, implied: &[PathBuf], below: &[PathBuf]) -> Result<()> {
        settle(&Root::from_fd(open(target)?), implied, below, &self.0)
    }

    fn remove(&self, tree: &Path) -> Result<()> {
        let (parent, name) = parent_and_name(tree)?;
        fs::remove_tree(parent.as_fd(), name.as_bytes()).at(tree).doing("remove")
    }
}

impl Seal for InProcess {
    fn merge(&self, layers: &[PathBuf], target: &Path) -> Result<()> {
        self.flatten(layers, target)
    }

    fn layer_tar(
        &self,
        dir: &Path,
        lowers: &[PathBuf],
        how: &Sealing,
        form: Form,
        file: &File,
    ) -> Result<()> {
        layer_tar(open(dir)?, lowers, how, form, file)
    }

    fn stack(&self, layers: &[PathBuf], target: &Path) -> Result<()> {
        let marks = Marks::Stacked { user_xattr: self.0.user_xattr };
        copy(layers, open(target)?, &Changes { owners: None, marks })
    }

    fn seal(&self, dir: &Path, lowers: &[PathBuf], how: &Sealing) -> Result<Sealed> {
        seal(open(dir)?, lowers, how)
    }

    fn sealed_tar(&self, layer: &Path, file: &File) -> Result<()> {
        sealed_tar(open(layer)?, file)
    }
}

impl From<Applied> for Unpacked {
    fn from(applied: Applied) -> Self {
        Self { size: applied.size, implied: applied.implied }
    }
}

/// For an ordinary user: everything happens in a helper whose user namespace maps `maps`.
#[derive(Debug)]
pub struct InUserNamespace {
    maps: IdMaps,
    how: Apply,
    helper: Mutex<Option<Arc<Helper>>>,
}

#[derive(Debug)]
struct Helper {
    /// `None` only while it ends.
    socket: Option<OwnedFd>,
    child: Option<Child>,
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It ends by itself when nobody can ask any more.
        self.socket.take();
        if let Some(Err(err)) = self.child.take().map(Child::wait) {
            log::debug!("wait for the unpack helper: {err}");
        }
    }
}

/// What the helper can do with the directory that comes with the request.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Apply the tar from the pipe that comes too.
    Apply(Apply),
    Settle {
        how: Apply,
        implied: Vec<Vec<u8>>,
        /// Directories of the store, absolute: nothing a layer says is in their paths.
        below: Vec<Vec<u8>>,
    },
    /// Remove this name and what is in it.
    Remove(Vec<u8>),
    /// Measure what is in it, or what of it has changed since.
    Usage { since: Option<Time> },
    /// Give it and what is in it one owner, by ids of the namespace.
    Chown { uid: u32, gid: u32 },
    /// Tell what differs between these stacks of lowerdirs, topmost first.
    Compare { newer: Vec<Vec<u8>>, older: Vec<Vec<u8>>, files_only: bool },
    /// Tell what is changed in this upperdir above the lowerdirs, topmost first.
    Changes { lowers: Vec<Vec<u8>>, places: Vec<Vec<u8>>, form: Form },
    /// The same as a layer's tar, into the file that comes too.
    LayerTar { lowers: Vec<Vec<u8>>, how: Sealing, form: Form },
    /// Make it, an upperdir above the lowerdirs, topmost first, a layer.
    Seal { lowers: Vec<Vec<u8>>, how: Sealing },
    /// Write the tar of a layer made that way into the file that comes too.
    SealedTar,
    /// Copy these lowerdirs of the store into its `diff`, bottom first; owners by ids of the
    /// namespace.
    Copy { lowers: Vec<Vec<u8>>, owners: Option<IdMaps>, marks: Marks },
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Applied { size: u64, entries: u64, implied: Vec<Vec<u8>> },
    Usage(Usage),
    Changes(Vec<Change>),
    Sealed(Sealed),
    Done,
    Failed { kind: Kind, said: String, hint: Option<String> },
}

impl InUserNamespace {
    /// Starts nothing yet.
    pub fn new(maps: IdMaps, how: Apply) -> Self {
        Self { maps, how, helper: Mutex::new(None) }
    }

    /// Measures everything beneath `tree`, as [`fs::usage`].
    pub fn usage(&self, tree: &Path, since: Option<Time>) -> Result<Usage> {
        let reply = self.call(&Request::Usage { since }, &hold(tree)?, None)?;
        let Reply::Usage(usage) = reply else { return Err(unexpected(&reply)) };
        Ok(usage)
    }

    /// Gives `tree` and everything beneath it to `uid:gid`, as numbered inside the namespace.
    pub fn chown(&self, tree: &Path, uid: u32, gid: u32) -> Result<()> {
        self.done(&Request::Chown { uid, gid }, &hold(tree)?)
    }

    /// Copies the lowerdir `lower`, which is called `diff`, into the `diff` of `staged`; what
    /// belongs to an id of `maps` belongs to it on the host afterwards.
    pub fn copy_mapped(&self, lower: &Path, staged: &Path, maps: &IdMaps) -> Result<()> {
        let lowers = bytes(&[lower.to_owned()]);
        let owners = Some(self.numbered_inside(maps)?);
        self.done(&Request::Copy { lowers, owners, marks: Marks::Kept }, &open(staged)?)
    }

    /// As [`InProcess::flatten`]; with `maps`, what belongs to an id of theirs belongs to it on the
    /// host afterwards.
    pub fn flatten(&self, lowers: &[PathBuf], target: &Path, maps: Option<&IdMaps>) -> Result<()> {
        let owners = maps.map(|maps| self.numbered_inside(maps)).transpose()?;
        let request = Request::Copy { lowers: bytes(lowers), owners, marks: Marks::Applied };
        self.done(&request, &open(target)?)
    }

    /// `maps` as the helper has to write them.
    fn numbered_inside(&self, maps: &IdMaps) -> Result<IdMaps> {
        maps.within(&self.maps).ok_or_else(|| {
            Error::unsupported("the container's ids are not all this user's subordinate ids")
                .hint("`dhow doctor` compares /etc/subuid and /etc/subgid with what is needed")
        })
    }

    /// Gives `tree` to the root of a user namespace with `maps`.
    pub fn give_to_root_of(&self, tree: &Path, maps: &IdMaps) -> Result<()> {
        let root = maps
            .within(&self.maps)
            .and_then(|within| Some((within.uid_outside(0)?, within.gid_outside(0)?)));
        let (uid, gid) = root.ok_or_else(|| Error::unsupported("these id maps have no root"))?;
        self.chown(tree, uid, gid)
    }

    /// What is changed in `upper`; see [`layer::changes`]. Ids are those of the namespace.
    pub fn changes(
        &self,
        upper: &Path,
        lowers: &[PathBuf],
        places: &[Vec<u8>],
        form: Form,
    ) -> Result<Vec<Change>> {
        let request = Request::Changes { lowers: bytes(lowers), places: places.to_vec(), form };
        let reply = self.call(&request, &open(upper)?, None)?;
        let Reply::Changes(changes) = reply else { return Err(unexpected(&reply)) };
        Ok(changes)
    }

    /// What differs between two stacks of lowerdirs, topmost first; see [`layer::compare`].
    /// `home` is any directory of the store.
    pub fn compare(
        &self,
        (newer, older): (&[PathBuf], &[PathBuf]),
        files_only: bool,
        home: &Path,
    ) -> Result<Vec<Change>> {
        let request = Request::Compare { newer: bytes(newer), older: bytes(older), files_only };
        let reply = self.call(&request, &open(home)?, None)?;
        let Reply::Changes(changes) = reply else { return Err(unexpected(&reply)) };
        Ok(changes)
    }

    fn done(&self, request: &Request, target: &OwnedFd) -> Result<()> {
        let reply = self.call(request, target, None)?;
        let Reply::Done = reply else { return Err(unexpected(&reply)) };
        Ok(())
    }

    fn call(
        &self,
        request: &Request,
        target: &OwnedFd,
        tar: Option<&mut dyn Read>,
    ) -> Result<Reply> {
        let helper = self.helper()?;
        let socket = helper.socket.as_ref().ok_or_else(gone)?;
        call(socket, request, target, tar.map_or(Stream::None, Stream::In))
    }

    fn helper(&self) -> Result<Arc<Helper>> {
        let mut slot = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(helper) = &*slot {
            return Ok(Arc::clone(helper));
        }
        let (ours, theirs) = channel::pair().doing("create a socket pair")?;
        let child = spawn_self(&[c"dhow", ROLE], &[theirs.as_fd()], Some(&self.maps))?;
        let helper = Arc::new(Helper { socket: Some(ours), child: Some(child) });
        Ok(Arc::clone(slot.insert(helper)))
    }
}

impl Unpack for InUserNamespace {
    fn unpack(&self, tar: &mut dyn Read, target: &Path) -> Result<Unpacked> {
        let reply = self.call(&Request::Apply(self.how), &open(target)?, Some(tar))?;
        let Reply::Applied { size, implied, .. } = reply else { return Err(unexpected(&reply)) };
        Ok(Unpacked { size, implied: implied.into_iter().map(path).collect() })
    }

    fn settle(&self, target: &Path, implied: &[PathBuf], below: &[PathBuf]) -> Result<()> {
        let request =
            Request::Settle { how: self.how, implied: bytes(implied), below: bytes(below) };
        self.done(&request, &open(target)?)
    }

    fn remove(&self, tree: &Path) -> Result<()> {
        let (parent, name) = parent_and_name(tree)?;
        self.done(&Request::Remove(name.as_bytes().to_vec()), &parent).at(tree).doing("remove")
    }
}

impl Seal for InUserNamespace {
    fn merge(&self, layers: &[PathBuf], target: &Path) -> Result<()> {
        self.flatten(layers, target, None)
    }

    fn layer_tar(
        &self,
        dir: &Path,
        lowers: &[PathBuf],
        how: &Sealing,
        form: Form,
        file: &File,
    ) -> Result<()> {
        let request = Request::LayerTar { lowers: bytes(lowers), how: how.clone(), form };
        let helper = self.helper()?;
        let socket = helper.socket.as_ref().ok_or_else(gone)?;
        let reply = call(socket, &request, &open(dir)?, Stream::Out(file))?;
        let Reply::Done = reply else { return Err(unexpected(&reply)) };
        Ok(())
    }

    fn stack(&self, layers: &[PathBuf], target: &Path) -> Result<()> {
        let marks = Marks::Stacked { user_xattr: self.how.user_xattr };
        let request = Request::Copy { lowers: bytes(layers), owners: None, marks };
        self.done(&request, &open(target)?)
    }

    fn seal(&self, dir: &Path, lowers: &[PathBuf], how: &Sealing) -> Result<Sealed> {
        let request = Request::Seal { lowers: bytes(lowers), how: how.clone() };
        let reply = self.call(&request, &open(dir)?, None)?;
        let Reply::Sealed(sealed) = reply else { return Err(unexpected(&reply)) };
        Ok(sealed)
    }

    fn sealed_tar(&self, layer: &Path, file: &File) -> Result<()> {
        let helper = self.helper()?;
        let socket = helper.socket.as_ref().ok_or_else(gone)?;
        let reply = call(socket, &Request::SealedTar, &open(layer)?, Stream::Out(file))?;
        let Reply::Done = reply else { return Err(unexpected(&reply)) };
        Ok(())
    }
}

/// What goes along with a request.
enum Stream<'a> {
    /// A tar for the helper to read.
    In(&'a mut dyn Read),
    /// A file for it to write.
    Out(&'a File),
    None,
}

/// Sends one request, pumps the tar and waits for the reply. For several threads at once.
fn call(
    socket: &OwnedFd,
    request: &Request,
    target: &OwnedFd,
    stream: Stream<'_>,
) -> Result<Reply> {
    let pipe = || channel::pipe().doing("create a pipe");
    let ((asked, ask), (answer, answered)) = (pipe()?, pipe()?);
    let mut fds = vec![asked.as_fd(), answered.as_fd(), target.as_fd()];
    let (tar_end, tar_in) = match stream {
        Stream::In(tar) => {
            let (reader, writer) = pipe()?;
            channel::enlarge(&writer, PIPE);
            (Some(reader), Some((tar, writer)))
        }
        Stream::Out(file) => {
            fds.push(file.as_fd());
            (None, None)
        }
        Stream::None => (None, None),
    };
    fds.extend(tar_end.iter().map(|end| end.as_fd()));
    channel::send(socket, &fds).map_err(io::Error::from).map_err(unasked)?;
    drop((asked, answered, tar_end));

    let text = serde_json::to_vec(request)?;
    File::from(ask).write_all(&text).map_err(unasked)?;
    let pumped = tar_in.map_or(Ok(()), |(tar, writer)| pump(tar, File::from(writer)));
    // Even if the stream broke: when the helper has answered, it has left the directory alone.
    let mut reply = Vec::new();
    File::from(answer).read_to_end(&mut reply).doing("hear the unpack helper")?;
    pumped?;
    if reply.is_empty() {
        return Err(gone());
    }
    match serde_json::from_slice(&reply).doing("hear the unpack helper")? {
        Reply::Failed { kind, said, hint } => {
            let error = Error::new(kind, said);
            Err(match hint {
                Some(hint) => error.hint(hint),
                None => error,
            })
        }
        reply @ (Reply::Applied { .. }
        | Reply::Usage(_)
        | Reply::Changes(_)
        | Reply::Sealed(_)
        | Reply::Done) => Ok(reply),
    }
}

/// Copies the tar to the helper. An end that closes early has an error to tell, in its reply.
fn pump(tar: &mut dyn Read, mut pipe: File) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match tar.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err).doing("read the tar"),
        };
        match pipe.write_all(&buffer[..length]) {
            Err(err) if err.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            done => done.doing("pass the tar on")?,
        }
    }
}

/// Why the helper could not be asked; that it has ended is heard here as a broken pipe.
fn unasked(err: io::Error) -> Error {
    match err.kind() == io::ErrorKind::BrokenPipe {
        true => gone(),
        false => Error::from(err).context("ask the unpack helper"),
    }
}

fn gone() -> Error {
    Error::engine("the unpack helper ended before it answered")
        .hint("`dmesg` tells if the kernel killed it for want of memory")
}

fn unexpected(reply: &Reply) -> Error {
    Error::engine(format!("the unpack helper answered something else: {reply:?}"))
}

/// The helper's life: answers requests that arrive on `socket` until its other end is closed.
pub fn serve(socket: OwnedFd) -> Result<()> {
    thread::scope(|scope| {
        while let Some(fds) = channel::receive(&socket).doing("receive a request")? {
            thread::Builder::new()
                .name("unpack".into())
                .spawn_scoped(scope, move || answer(fds))
                .doing("start a thread")?;
        }
        Ok(())
    })
}

/// Answers one request. What cannot be told (the asker is gone) is nobody's to hear.
fn answer(fds: Vec<OwnedFd>) {
    let mut fds = fds.into_iter();
    let (Some(asked), Some(answered), Some(target)) = (fds.next(), fds.next(), fds.next()) else {
        log::debug!("a request without its descriptors");
        return;
    };
    let reply = perform(asked, target, fds.next()).unwrap_or_else(|err| Reply::Failed {
        kind: err.kind(),
        said: err.to_string(),
        hint: err.hint_text().map(str::to_owned),
    });
    let told = serde_json::to_vec(&reply)
        .map_err(io::Error::from)
        .and_then(|text| File::from(answered).write_all(&text));
    if let Err(err) = told {
        log::debug!("answer a request: {err}");
    }
}

/// Does what was asked. Everything but the reply's pipe is closed when this returns, so that
/// the asker, who may be writing the tar still, goes on to hear the reply.
fn perform(asked: OwnedFd, target: OwnedFd, tar: Option<OwnedFd>) -> Result<Reply> {
    let mut text = Vec::new();
    File::from(asked).read_to_end(&mut text).doing("hear a request")?;
    match serde_json::from_slice(&text)? {
        Request::Apply(how) => {
            let tar = tar.ok_or_else(|| Error::engine("a request to unpack without a tar"))?;
            let applied = layer::apply(&mut File::from(tar), target.as_fd(), &how)?;
            let Applied { size, entries, implied } = applied;
            Ok(Reply::Applied { size, entries, implied: bytes(&implied) })
        }
        Request::Settle { how, implied, below } => {
            let paths = |list: Vec<Vec<u8>>| list.into_iter().map(path).collect::<Vec<_>>();
            settle(&Root::from_fd(target), &paths(implied), &paths(below), &how)?;
            Ok(Reply::Done)
        }
        Request::Remove(name) => {
            fs::remove_tree(target.as_fd(), &name)?;
            Ok(Reply::Done)
        }
        Request::Usage { since } => Ok(Reply::Usage(fs::usage(readable(target)?, since)?)),
        Request::Chown { uid, gid } => {
            fs::chown_tree(readable(target)?, uid, gid)?;
            Ok(Reply::Done)
        }
        Request::Changes { lowers, places, form } => {
            let upper = upper(target, &lowers.into_iter().map(path).collect::<Vec<_>>(), places)?;
            layer::changes(&Upper { form, ..upper }).map(Reply::Changes)
        }
        Request::Compare { newer, older, files_only } => {
            let paths = |list: Vec<Vec<u8>>| list.into_iter().map(path).collect::<Vec<_>>();
            compare_here((&paths(newer), &paths(older)), files_only).map(Reply::Changes)
        }
        Request::LayerTar { lowers, how, form } => {
            let file = tar.ok_or_else(|| Error::engine("a request for a tar without a file"))?;
            let lowers: Vec<_> = lowers.into_iter().map(path).collect();
            layer_tar(target, &lowers, &how, form, &File::from(file))?;
            Ok(Reply::Done)
        }
        Request::Seal { lowers, how } => {
            let lowers: Vec<_> = lowers.into_iter().map(path).collect();
            seal(target, &lowers, &how).map(Reply::Sealed)
        }
        Request::SealedTar => {
            let file = tar.ok_or_else(|| Error::engine("a request for a tar without a file"))?;
            sealed_tar(target, &File::from(file))?;
            Ok(Reply::Done)
        }
        Request::Copy { lowers, owners, marks } => {
            let lowers: Vec<_> = lowers.into_iter().map(path).collect();
            copy(&lowers, target, &Changes { owners, marks })?;
            Ok(Reply::Done)
        }
    }
}

fn settle(target: &Root, implied: &[PathBuf], below: &[PathBuf], how: &Apply) -> Result<()> {
    let below: Vec<Root> =
        below.iter().map(|path| Root::open(path).at(path)).collect::<Result<_>>()?;
    layer::settle(target, implied, &below, how)
}

fn upper(upper: OwnedFd, lowers: &[PathBuf], places: Vec<Vec<u8>>) -> Result<Upper> {
    let lowers = lowers.iter().map(|path| open(path).map(Dir::from_fd));
    Ok(Upper {
        upper: Dir::from_fd(upper),
        lowers: lowers.collect::<Result<_>>()?,
        places,
        made: Vec::new(),
        latest: None,
        sealed: false,
        form: Form::Overlay,
    })
}

fn seal(dir: OwnedFd, lowers: &[PathBuf], how: &Sealing) -> Result<Sealed> {
    let made = how.made.clone();
    layer::seal(&Upper { latest: how.latest, made, ..upper(dir, lowers, how.places.clone())? })
}

fn sealed_tar(dir: OwnedFd, file: &File) -> Result<()> {
    let mut out = io::BufWriter::with_capacity(BUFFER, file);
    layer::sealed_tar(Dir::from_fd(dir), &mut out)?;
    out.flush().doing("write the tar")
}

fn layer_tar(
    dir: OwnedFd,
    lowers: &[PathBuf],
    how: &Sealing,
    form: Form,
    file: &File,
) -> Result<()> {
    let upper = upper(dir, lowers, how.places.clone())?;
    let upper = Upper { latest: how.latest, made: how.made.clone(), form, ..upper };
    let mut out = io::BufWriter::with_capacity(BUFFER, file);
    layer::layer_tar(&upper, &mut out)?;
    out.flush().doing("write the tar")
}

/// As [`InUserNamespace::changes`], here.
pub fn changes_here(
    dir: &Path,
    lowers: &[PathBuf],
    places: &[Vec<u8>],
    form: Form,
) -> Result<Vec<Change>> {
    layer::changes(&Upper { form, ..upper(open(dir)?, lowers, places.to_vec())? })
}

/// As [`InUserNamespace::compare`], here.
pub fn compare_here(
    (newer, older): (&[PathBuf], &[PathBuf]),
    files_only: bool,
) -> Result<Vec<Change>> {
    let dirs = |paths: &[PathBuf]| -> Result<Vec<Dir>> {
        paths.iter().map(|path| open(path).map(Dir::from_fd)).collect()
    };
    layer::compare(&dirs(newer)?, &dirs(older)?, files_only)
}

/// Copies lowerdirs, bottom first, into the `diff` of `target`.
fn copy(lowers: &[PathBuf], target: OwnedFd, changes: &Changes) -> Result<()> {
    const LINKS: &[u8] = b"links";
    let target = Dir::from_fd(target);
    target.mkdir(LINKS, 0o700).doing("create a directory for hard links")?;
    for lower in lowers {
        let (parent, name) = parent_and_name(lower)?;
        let to = target.as_fd().try_clone_to_owned().doing("hold the copy's directory")?;
        let links = target.open_dir(LINKS)?.into_fd();
        layer::copy(parent, to, name.as_bytes(), links, changes).at(lower)?;
    }
    target.remove_tree(LINKS).doing("remove the directory for hard links")
}

/// A directory that only the helper may be able to read: see [`readable`].
fn hold(dir: &Path) -> Result<OwnedFd> {
    Root::open(dir).at(dir)?.as_fd().try_clone_to_owned().doing("hold a directory")
}

fn readable(held: OwnedFd) -> Result<OwnedFd> {
    Ok(Root::from_fd(held).read_dir("")?.into_fd())
}

/// A directory of the store, to be listed and changed.
fn open(dir: &Path) -> Result<OwnedFd> {
    let file = File::open(dir).at(dir)?;
    if !file.metadata().at(dir)?.is_dir() {
        return Err(Error::engine(format!("{} is not a directory", dir.display())));
    }
    Ok(file.into())
}

fn parent_and_name(tree: &Path) -> Result<(OwnedFd, &OsStr)> {
    let nameless = || Error::engine(format!("{} cannot be removed", tree.display()));
    let name = tree.file_name().ok_or_else(nameless)?;
    Ok((open(tree.parent().ok_or_else(nameless)?)?, name))
}

fn bytes(paths: &[PathBuf]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect()
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::layer::Ownership;

    const HOW: Apply = Apply { ownership: Ownership::Keep, user_xattr: true };

    /// Runs `body` with a helper that is a thread of this process.
    fn with_helper(body: impl FnOnce(&InUserNamespace)) {
        let (ours, theirs) = channel::pair().expect("pair");
        let served = thread::spawn(move || serve(theirs));
        let unpack = InUserNamespace::new(IdMaps::single(0, 0), HOW);
        let helper = Helper { socket: Some(ours), child: None };
        *unpack.helper.lock().expect("lock") = Some(Arc::new(helper));
        body(&unpack);
        drop(unpack);
        served.join().expect("thread").expect("the helper ends when nobody can ask");
    }

    fn tar(name: &str, size: u64) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let data = io::repeat(7).take(size);
        builder.append_data(&mut header, name, data).expect("append");
        builder.into_inner().expect("finish")
    }

    #[test]
    fn a_layer_lives_and_dies_in_the_helper() {
        let dir = tempfile::tempdir().expect("tempdir");
        let make = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("mkdir");
            path
        };
        with_helper(|unpack| {
            thread::scope(|scope| {
                for name in ["a", "b", "c"] {
                    let target = make(name);
                    scope.spawn(move || {
                        let tar = tar("d/f", 3 << 20);
                        let unpacked = unpack.unpack(&mut &tar[..], &target).expect("unpack");
                        assert_eq!(unpacked.size, 3 << 20);
                        assert_eq!(unpacked.implied, [PathBuf::new(), "d".into()]);
                    });
                }
            });
            use std::os::unix::fs::PermissionsExt as _;
            let (a, b) = (dir.path().join("a"), dir.path().join("b"));
            let mode = std::fs::Permissions::from_mode(0o1777);
            std::fs::set_permissions(a.join("d"), mode).expect("chmod");
            unpack.settle(&b, &["d".into()], std::slice::from_ref(&a)).expect("settle");
            let mode = std::fs::metadata(b.join("d")).expect("stat").permissions().mode();
            assert_eq!(mode & 0o7777, 0o1777);
            let usage = unpack.usage(&b, None).expect("usage");
            assert_eq!((usage.size, usage.entries), (3 << 20, 2));
            unpack.remove(&b).expect("remove");
            assert!(!b.exists() && a.exists());
        });
    }

    #[test]
    fn a_refusal_keeps_its_kind_and_hint_and_does_not_wait_for_the_rest() {
        struct Endless<'a>(&'a [u8]);
        impl Read for Endless<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() {
                    buffer.fill(b'x');
                    return Ok(buffer.len());
                }
                self.0.read(buffer)
            }
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let bad = tar("d/.wh..", 0);
        with_helper(|unpack| {
            let err = unpack.unpack(&mut Endless(&bad), dir.path()).expect_err("refused");
            assert_eq!(err.kind(), Kind::Invalid);
            assert_eq!(err.to_string(), "entry \"d/.wh..\": a whiteout that hides no name");
        });
    }

    #[test]
    fn an_asker_whose_stream_breaks_says_so() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the network is gone"))
            }
        }
        let dir = tempfile::tempdir().expect("tempdir");
        with_helper(|unpack| {
            let err = unpack.unpack(&mut Broken, dir.path()).expect_err("broken");
            assert!(err.to_string().contains("the network is gone"), "{err}");
        });
    }

    #[test]
    fn a_helper_that_dies_is_noticed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (ours, theirs) = channel::pair().expect("pair");
        let target = open(dir.path()).expect("open");
        let dies = thread::spawn(move || drop(channel::receive(&theirs)));
        let request = Request::Usage { since: None };
        let err = call(&ours, &request, &target, Stream::None).expect_err("dead");
        dies.join().expect("thread");
        assert!(err.to_string().contains("ended before"), "{err}");
    }
}
