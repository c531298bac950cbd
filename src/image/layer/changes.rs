//! The other direction: from an overlay's upperdir to what was changed, as a list or as a layer.
//!
//! An upperdir holds what overlayfs wrote (filesystems/overlayfs.rst): what is new or changed,
//! whole; a character device 0:0 for what is gone; a mark on directories that hide what was below.
//! Directories are also there because something in them changed; those are told apart by a look
//! at the lowerdirs. `fuse-overlayfs(1)` writes files with names of a layer's whiteouts instead; and a
//! copy of the lowerdirs holds everything, so that only times tell what has changed since.

use std::{cell::Cell, collections::BTreeSet, ffi::CString, io::Write};

use serde::{Deserialize, Serialize};

use super::{
    apply::is_opaque,
    entries::shown,
    tarball::{Dress, TarWriter, joined},
};
use crate::{
    error::{Context as _, Result},
    sys::fs::{self, Dir, Errno, FileType, Stat, Time, is_whiteout, kind},
};

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChangeKind {
    Added,
    Changed,
    Deleted,
}

/// One path that is not as it was below; relative to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub kind: ChangeKind,
    pub path: Vec<u8>,
}

/// How a tree says what is changed in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// As the kernel's overlayfs.
    Overlay,
    /// As fuse-overlayfs.
    Fuse,
    /// It is a copy of the lowerdirs, which was complete then.
    Copy(Time),
}

impl Form {
    /// Whether this is what it was when the copy was complete.
    fn is_as_copied(self, stat: &Stat) -> bool {
        matches!(self, Self::Copy(since) if Time::changed(stat) <= since)
    }

    fn is_copy(self) -> bool {
        matches!(self, Self::Copy(_))
    }
}

/// An upperdir and what it lies on.
#[derive(Debug)]
pub struct Upper {
    pub upper: Dir,
    /// Topmost first.
    pub lowers: Vec<Dir>,
    /// Paths that whoever mounted the overlay has made to mount something on: not a change as
    /// long as they are empty.
    pub places: Vec<Vec<u8>>,
    /// Likewise, and nobody else had a reason to: no change unless something in them is.
    pub made: Vec<Vec<u8>>,
    /// The latest time that a layer's tar may tell (seconds since 1970).
    pub latest: Option<i64>,
    /// Everything in it is a change: it is a layer already.
    pub sealed: bool,
    /// How it is to be read.
    pub form: Form,
}

/// Every change, parents before what is in them.
pub fn changes(upper: &Upper) -> Result<Vec<Change>> {
    let mut list = List(Vec::new());
    walk(upper, &mut list)?;
    Ok(list.0)
}

/// Writes the changes as a layer's tar (image-spec layer.md, "Representing Changes").
pub fn layer_tar(upper: &Upper, out: &mut dyn Write) -> Result<()> {
    let dress = Dress { latest: upper.latest, ..Dress::default() };
    let mut layer = Layer(TarWriter::new(out).dressed(dress));
    walk(upper, &mut layer)?;
    layer.0.finish()
}

/// Hears of each change.
pub(super) trait Sink {
    fn there(&mut self, at: &At<'_>, kind: ChangeKind) -> Result<()>;
    fn gone(&mut self, dir: &[u8], name: &[u8]) -> Result<()>;
    /// The directory hides all that was below it.
    fn opaque(&mut self, path: &[u8]) -> Result<()>;
    /// Nothing more is said of this or of anything in it.
    fn over(&mut self, _at: &At<'_>, _over: Over) -> Result<()> {
        Ok(())
    }
}

/// What was said of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// It is a change, or one is in it.
    Told,
    /// It is a change, and a directory that has no need to hide what is below it.
    New,
    /// Nothing: it is not a change.
    Untold,
}

struct List(Vec<Change>);

impl Sink for List {
    fn there(&mut self, at: &At<'_>, kind: ChangeKind) -> Result<()> {
        self.0.push(Change { kind, path: at.path.clone() });
        Ok(())
    }

    fn gone(&mut self, dir: &[u8], name: &[u8]) -> Result<()> {
        self.0.push(Change { kind: ChangeKind::Deleted, path: joined(dir, name) });
        Ok(())
    }

    fn opaque(&mut self, _path: &[u8]) -> Result<()> {
        Ok(())
    }
}

struct Layer<'out>(TarWriter<'out>);

impl Sink for Layer<'_> {
    fn there(&mut self, at: &At<'_>, _kind: ChangeKind) -> Result<()> {
        self.0.add(at.dir, at.name, &at.path, &at.stat)
    }

    fn gone(&mut self, dir: &[u8], name: &[u8]) -> Result<()> {
        self.0.mark(&joined(dir, &[b".wh.", name].concat()))
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        self.0.mark(&joined(path, b".wh..wh..opq"))
    }
}

/// Something in the upperdir.
pub(super) struct At<'a> {
    pub(super) dir: &'a Dir,
    pub(super) name: &'a [u8],
    pub(super) path: Vec<u8>,
    pub(super) stat: Stat,
}

/// A directory on the way, told of only if something in it is.
struct Above<'a> {
    above: Option<&'a Above<'a>>,
    at: Option<&'a At<'a>>,
    told: Cell<bool>,
}

impl Above<'_> {
    fn tell(&self, sink: &mut dyn Sink) -> Result<()> {
        if self.told.replace(true) {
            return Ok(());
        }
        if let Some(above) = self.above {
            above.tell(sink)?;
        }
        self.at.map_or(Ok(()), |at| sink.there(at, ChangeKind::Changed))
    }
}

pub(super) fn walk(upper: &Upper, sink: &mut dyn Sink) -> Result<()> {
    // A descriptor for each directory on the way, here and in each layer that has it.
    fs::raise_descriptor_limit();
    let top = Above { above: None, at: None, told: Cell::new(true) };
    let lowers: Vec<&Dir> = upper.lowers.iter().collect();
    level(upper, &upper.upper, &lowers, b"", &top, sink)
}

fn level(
    whole: &Upper,
    dir: &Dir,
    lowers: &[&Dir],
    path: &[u8],
    above: &Above<'_>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let list = |dir: &Dir| Ok::<_, Errno>(fs::list(dir)?.into_iter().map(|(name, _)| name));
    let mut names: BTreeSet<CString> = list(dir)?.collect();
    if whole.form.is_copy() {
        for lower in lowers {
            names.extend(list(lower)?);
        }
    }
    for name in &names {
        let name = name.to_bytes();
        let hidden = name.strip_prefix(b".wh.").filter(|_| whole.form == Form::Fuse);
        let stat = match dir.stat(name) {
            Err(Errno::NOENT) if whole.form.is_copy() => {
                missing(lowers, path, name, above, sink)?;
                continue;
            }
            Ok(_) if hidden.is_some() => {
                missing(lowers, path, hidden.unwrap_or_default(), above, sink)?;
                continue;
            }
            stat => stat?,
        };
        let at = At { dir, name, path: joined(path, name), stat };
        one(whole, &at, lowers, path, above, sink).doing_with(|| shown(&at.path))?;
    }
    Ok(())
}

/// A name that the tree does not have (any more).
fn missing(
    lowers: &[&Dir],
    parent: &[u8],
    name: &[u8],
    above: &Above<'_>,
    sink: &mut dyn Sink,
) -> Result<()> {
    // Of a directory that hides what is below it, the mark is told with the directory.
    if name == b".wh..opq" || Below::find(lowers, name)?.stat.is_none() {
        return Ok(());
    }
    above.tell(sink)?;
    sink.gone(parent, name)
}

fn one(
    whole: &Upper,
    at: &At<'_>,
    lowers: &[&Dir],
    parent: &[u8],
    above: &Above<'_>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let below = Below::find(lowers, at.name)?;
    if is_whiteout(&at.stat) && !whole.form.is_copy() {
        if below.stat.is_none() && !whole.sealed {
            return sink.over(at, Over::Untold);
        }
        above.tell(sink)?;
        sink.gone(parent, at.name)?;
        return sink.over(at, Over::Told);
    }
    let is_place = whole.places.contains(&at.path);
    if kind(&at.stat) != FileType::Directory {
        if below.stat.is_some() && whole.form.is_as_copied(&at.stat) {
            return sink.over(at, Over::Untold);
        }
        if (is_place || whole.made.contains(&at.path)) && at.stat.st_size == 0 {
            return sink.over(at, Over::Untold);
        }
        above.tell(sink)?;
        sink.there(at, change(below.stat.is_some()))?;
        return sink.over(at, Over::Told);
    }
    let dir = at.dir.open_dir(at.name)?;
    if is_place {
        // What is below it was made for the same purpose.
        return sink.over(at, Over::Untold);
    }
    let was_directory = below.stat.is_some_and(|stat| kind(&stat) == FileType::Directory);
    let opaque = (was_directory || whole.sealed) && hides(&dir, whole.form)?;
    let here = Above { above: Some(above), at: Some(at), told: Cell::new(false) };
    let made = whole.made.contains(&at.path);
    let whatever_time = made || holds_place(whole, at);
    let same = below.stat.is_some_and(|stat| match whole.form {
        // Owners may be shifted.
        Form::Copy(_) if !whatever_time => whole.form.is_as_copied(&at.stat),
        Form::Copy(_) => stat.st_mode == at.stat.st_mode,
        Form::Overlay | Form::Fuse => is_same(&stat, &at.stat, whatever_time),
    });
    // Without a directory below there is nothing to be the same as.
    let is_change = if was_directory { !same } else { !made };
    if opaque || is_change {
        above.tell(sink)?;
        sink.there(at, change(below.stat.is_some()))?;
        here.told.set(true);
    }
    if opaque {
        sink.opaque(&at.path)?;
    }
    let lowers: Vec<&Dir> = if opaque { Vec::new() } else { below.dirs.iter().collect() };
    level(whole, &dir, &lowers, &at.path, &here, sink)?;
    sink.over(
        at,
        match here.told.get() {
            false => Over::Untold,
            true if opaque => Over::Told,
            true => Over::New,
        },
    )
}

/// Whether nothing below the directory is to be seen.
fn hides(dir: &Dir, form: Form) -> Result<bool> {
    match form {
        Form::Overlay => is_opaque(dir),
        Form::Fuse => Ok(dir.stat(b".wh..wh..opq").is_ok() || is_opaque(dir)?),
        Form::Copy(_) => Ok(false),
    }
}

fn change(was_there: bool) -> ChangeKind {
    if was_there { ChangeKind::Changed } else { ChangeKind::Added }
}

/// Making a place to mount on has changed the time of the directory that holds it.
fn holds_place(whole: &Upper, at: &At<'_>) -> bool {
    whole.places.iter().any(|place| {
        place.iter().rposition(|&b| b == b'/').is_some_and(|slash| place[..slash] == at.path)
    })
}

fn is_same(old: &Stat, new: &Stat, whatever_time: bool) -> bool {
    let facts = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    facts(old) == facts(new) && (whatever_time || times(old) == times(new))
}

/// What the lowerdirs together show under one name.
#[derive(Default)]
pub(super) struct Below {
    /// `None` if there is nothing, or it is hidden.
    pub(super) stat: Option<Stat>,
    /// If it is a directory: those that are merged, topmost first.
    pub(super) dirs: Vec<Dir>,
}

impl Below {
    pub(super) fn find(lowers: &[&Dir], name: &[u8]) -> Result<Self> {
        let mut below = Self::default();
        for lower in lowers {
            let stat = match lower.stat(name) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            if kind(&stat) != FileType::Directory {
                if below.stat.is_none() && !is_whiteout(&stat) {
                    below.stat = Some(stat);
                }
                return Ok(below);
            }
            below.stat.get_or_insert(stat);
            let dir = lower.open_dir(name)?;
            let last = is_opaque(&dir)?;
            below.dirs.push(dir);
            if last {
                return Ok(below);
            }
        }
        Ok(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs as host,
        os::unix::fs::{PermissionsExt as _, symlink},
        path::Path,
    };

    fn dir(path: &Path) -> Dir {
        host::create_dir_all(path).expect("mkdir");
        Dir::from_fd(host::File::open(path).expect("open").into())
    }

    /// `below` is two layers of which the upper one hides `gone-before`.
    fn upper(top: &Path) -> Upper {
        let (upper, a, b) = (top.join("upper"), top.join("a"), top.join("b"));
        for path in ["b/etc/sub", "b/gone-before", "a/dev", "b/opaque", "b/same/in"] {
            host::create_dir_all(top.join(path)).expect("mkdir");
        }
        for (path, text) in
            [("b/etc/conf", "old"), ("a/file", "old"), ("b/removed", "x"), ("b/opaque/x", "x")]
        {
            host::write(top.join(path), text).expect("write");
        }
        dir(&a).mknod(b"gone-before", FileType::CharacterDevice, 0, (0, 0)).expect("whiteout");
        for path in ["etc", "dev/pts", "gone-before", "opaque", "same", "new/deep"] {
            host::create_dir_all(upper.join(path)).expect("mkdir");
        }
        let from = |path: &str| host::metadata(top.join(path)).expect("stat").modified();
        host::write(upper.join("etc/conf"), "new").expect("write");
        host::write(upper.join("etc/hosts"), "").expect("write");
        let same = host::File::open(upper.join("same")).expect("open");
        same.set_modified(from("b/same").expect("time")).expect("time");
        let held = dir(&upper);
        for name in [&b"removed"[..], b"never-was"] {
            held.mknod(name, FileType::CharacterDevice, 0, (0, 0)).expect("whiteout");
        }
        fs::set_xattr(dir(&upper.join("opaque")), b"user.overlay.opaque", b"y").expect("xattr");
        host::write(upper.join("new/deep/f"), "f").expect("write");
        host::hard_link(upper.join("new/deep/f"), upper.join("new/g")).expect("link");
        symlink("/etc/conf", upper.join("new/link")).expect("symlink");
        host::set_permissions(upper.join("new/deep/f"), host::Permissions::from_mode(0o4751))
            .expect("chmod");
        let places = [&b"dev"[..], b"etc/hosts"].map(<[u8]>::to_vec).into();
        Upper {
            upper: held,
            lowers: vec![dir(&a), dir(&b)],
            places,
            made: Vec::new(),
            latest: None,
            sealed: false,
            form: Form::Overlay,
        }
    }

    #[test]
    fn changes_are_told_and_nothing_else_is() {
        let top = tempfile::tempdir().expect("tempdir");
        let found = changes(&upper(top.path())).expect("walk");
        let lines: Vec<String> = found
            .iter()
            .map(|change| format!("{:?} {}", change.kind, String::from_utf8_lossy(&change.path)))
            .collect();
        assert_eq!(
            lines,
            [
                "Changed etc",
                "Changed etc/conf",
                "Added gone-before",
                "Added new",
                "Added new/deep",
                "Added new/deep/f",
                "Added new/g",
                "Added new/link",
                "Changed opaque",
                "Deleted removed",
            ]
        );
    }

    #[test]
    fn a_layer_made_of_them_makes_them_again() {
        use crate::image::layer::{Apply, Ownership, apply};
        use std::os::fd::AsFd as _;
        let top = tempfile::tempdir().expect("tempdir");
        let mut tar = Vec::new();
        layer_tar(&upper(top.path()), &mut tar).expect("tar");
        let target = dir(&top.path().join("target"));
        let how = Apply { ownership: Ownership::Keep, user_xattr: true };
        apply(&mut &tar[..], target.as_fd(), &how).expect("apply");
        let at = |name: &str| top.path().join("target").join(name);
        assert_eq!(host::read(at("etc/conf")).expect("read"), b"new");
        assert!(!at("etc/hosts").exists() && !at("dev").exists() && !at("same").exists());
        assert!(is_whiteout(&target.stat(b"removed").expect("stat")));
        assert!(target.stat(b"never-was").is_err());
        assert!(is_opaque(&target.open_dir(b"opaque").expect("open")).expect("xattr"));
        assert_eq!(
            target
                .stat(b"new")
                .and_then(|_| target.open_dir(b"new")?.stat(b"g"))
                .expect("g")
                .st_nlink,
            2
        );
        assert_eq!(
            host::metadata(at("new/deep/f")).expect("stat").permissions().mode() & 0o7777,
            0o4751
        );
        assert_eq!(host::read_link(at("new/link")).expect("link"), Path::new("/etc/conf"));
    }
}
