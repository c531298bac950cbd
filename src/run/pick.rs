//! What `COPY` does: takes files out of one tree by patterns, and places them in another.
//!
//! Both trees may be hostile: one side or the other is often an image's. Paths are resolved by
//! the kernel beneath the tree's root, links included; what leads out of it leads nowhere.

use std::{
    cell::Cell,
    collections::HashSet,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::files::locate;
use crate::{
    build::{
        Ignore,
        pattern::{self, Glob, clean},
    },
    error::{Context as _, Error, Result},
    image::layer::{Dress, Extract, TarWriter, extract},
    sys::fs::{self, Dir, Errno, FileType, Root, Stat, kind},
};

/// How many directories deep a tree may be.
const DEPTH_MAX: usize = 2048;

/// What to take.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Pick {
    /// Patterns, as they were written. A directory means what is in it.
    pub sources: Vec<String>,
    /// Patterns of `--exclude`.
    pub exclude: Vec<String>,
    /// The text of `.dockerignore`.
    pub ignore: String,
    /// Names keep the directories they are in.
    pub parents: bool,
    /// Owner and group of everything; as they are if there is none.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`, checked already.
    pub chmod: Option<String>,
}

/// One thing that a source means: its path in the tree, and where in it the name begins that it
/// keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: String,
    pub kept: usize,
    pub is_directory: bool,
}

/// What goes before the tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picked {
    /// The name of the only file, whose entry in the tar is called `.`.
    pub only: Option<String>,
    /// How many sources are files.
    pub files: usize,
    /// A directory is made of them, whatever the place is called.
    pub directory: bool,
}

/// Where to place it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// Absolute; with a slash at the end it is a directory, there or not.
    pub path: String,
    /// Of the directories that have to be made.
    pub owner: (u32, u32),
    /// `--chmod`, which they get as well.
    #[serde(default)]
    pub chmod: Option<String>,
    pub how: Extract,
}

impl Pick {
    /// What the sources mean in this tree, in their order. A pattern may mean nothing; a plain
    /// name that is not there is an error.
    pub fn find(&self, root: &Root) -> Result<Vec<Found>> {
        let ignore = Ignore::parse(&self.ignore).doing("read the ignore file")?;
        let mut found = Vec::new();
        for source in &self.sources {
            // As BuildKit has it, what is above the tree is the tree: `../x` is `x`.
            let (path, kept) = pivot(source, self.parents);
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            let before = found.len();
            search(root, "", &parts, &mut |path, stat| {
                let is_directory = kind(stat) == FileType::Directory;
                let hidden = !path.is_empty() && ignore.ignores(path);
                if !hidden || (is_directory && ignore.has_exceptions()) {
                    let kept = kept.min(path.len());
                    found.push(Found { path: path.to_owned(), kept, is_directory });
                }
                Ok(())
            })
            .doing_with(|| source.clone())?;
            if found.len() == before && !pattern::is_glob(&path) {
                return Err(Error::not_found(format!("\"/{path}\": not found"))
                    .hint("it is not in the build context (links are followed only inside of it), or .dockerignore leaves it out"));
            }
        }
        Ok(found)
    }

    /// Writes what was found as a tar; before it what [`place`] has to know, if `heading`.
    pub fn write(
        &self,
        root: &Root,
        found: &[Found],
        times: Option<i64>,
        heading: bool,
        out: &mut dyn Write,
    ) -> Result<()> {
        if heading {
            let text = serde_json::to_vec(&self.picked(found))?;
            let length =
                u32::try_from(text.len()).map_err(|_| Error::invalid("a name too long"))?;
            out.write_all(&length.to_le_bytes()).doing("write the tar")?;
            out.write_all(&text).doing("write the tar")?;
        }
        let mode = self.chmod.as_deref().map(mode_change).transpose()?;
        let dress = Dress { owner: self.owner, mode, latest: times };
        let mut tar = TarWriter::new(out).dressed(dress);
        self.each(root, found, &mut |dir, name, entry, stat| tar.add(dir, name, entry, stat))?;
        tar.finish()
    }

    /// What [`place`] has to know of it.
    pub fn picked(&self, found: &[Found]) -> Picked {
        let only = match found {
            [one] if !one.is_directory && !self.parents => {
                Some(one.path.rsplit('/').next().unwrap_or_default().to_owned())
            }
            _ => None,
        };
        let files = found.iter().filter(|found| !found.is_directory).count();
        let directory = self.parents || found.first().is_none_or(|found| found.is_directory);
        Picked { only, files, directory }
    }

    /// Calls `hear` with everything that was found and what is in it, as it goes into the tar.
    pub fn each(&self, root: &Root, found: &[Found], hear: &mut Hear<'_>) -> Result<()> {
        let is_alone = self.picked(found).only.is_some();
        let mut walker = Walker {
            hear,
            ignore: Ignore::parse(&self.ignore)?,
            exclude: Ignore::new(self.exclude.iter().map(String::as_str))?,
            made: HashSet::new(),
        };
        for found in found {
            walker.one(root, found, self.parents, is_alone).doing_with(|| found.path.clone())?;
        }
        Ok(())
    }
}

/// Hears of a name in a directory, the name it goes by, and what it is.
type Hear<'a> = dyn FnMut(&Dir, &[u8], &[u8], &Stat) -> Result<()> + 'a;

/// The clean path, and where the part of it begins that `--parents` keeps: behind `/./`.
fn pivot(source: &str, parents: bool) -> (String, usize) {
    let whole = clean(source);
    let source = source.trim_start_matches("./");
    match source.split_once("/./").filter(|_| parents) {
        Some((before, _)) => {
            let kept = clean(before).len();
            let kept = if kept == 0 { 0 } else { kept + 1 };
            (whole, kept)
        }
        None => (whole, 0),
    }
}

/// Calls `hear` with each path that the components mean; links are followed.
fn search(
    root: &Root,
    path: &str,
    parts: &[&str],
    hear: &mut dyn FnMut(&str, &Stat) -> Result<()>,
) -> Result<()> {
    let join =
        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
    let Some((first, rest)) = parts.split_first() else {
        let stat = match root.open_path(beneath(path)) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            fd => fs::stat(&fd.map_err(Error::from)?)?,
        };
        return hear(path, &stat);
    };
    if !pattern::is_glob(first) {
        return search(root, &join(first), rest, hear);
    }
    let glob = Glob::new(first)?;
    let dir = match root.read_dir(beneath(path)) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        dir => dir.map_err(Error::from)?,
    };
    let mut names: Vec<_> = fs::list(&dir)?.into_iter().map(|(name, _)| name).collect();
    names.sort();
    for name in names {
        // A name that is no text is meant by no pattern.
        let Ok(name) = name.to_str() else { continue };
        if glob.matches(name) {
            search(root, &join(name), rest, hear)?;
        }
    }
    Ok(())
}

fn beneath(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

struct Walker<'a, 'h> {
    hear: &'a mut Hear<'h>,
    ignore: Ignore,
    exclude: Ignore,
    /// Directories that have their entry.
    made: HashSet<Vec<u8>>,
}

impl Walker<'_, '_> {
    fn one(&mut self, root: &Root, found: &Found, parents: bool, alone: bool) -> Result<()> {
        let name = &found.path[found.kept..];
        let name = name.rsplit('/').next().filter(|_| !parents).unwrap_or(name);
        if parents {
            self.above(root, found)?;
        }
        if !found.is_directory {
            if self.exclude.ignores(name) || self.exclude.ignores(&found.path) {
                return Ok(());
            }
            let (dir, last) = locate(root, &format!("/{}", found.path), true)?;
            let stat = dir.stat(&last)?;
            let entry = if alone { b"." } else { name.as_bytes() };
            return (self.hear)(&dir, &last, entry, &stat);
        }
        let dir = root.read_dir(beneath(&found.path)).map_err(Error::from)?;
        // Without --parents it is what is in the directory that goes.
        let prefix = if parents { name.as_bytes().to_vec() } else { Vec::new() };
        let at = At { path: found.path.as_bytes(), below: b"", entry: &prefix };
        self.tree(&dir, &at, None)
    }

    /// The directories that a kept name lies in, with their own owner and mode.
    fn above(&mut self, root: &Root, found: &Found) -> Result<()> {
        let kept = &found.path[found.kept..];
        let mut ends: Vec<usize> = kept.match_indices('/').map(|(at, _)| at).collect();
        ends.extend(found.is_directory.then_some(kept.len()));
        for end in ends.into_iter().filter(|end| *end > 0) {
            if self.made.insert(kept.as_bytes()[..end].to_vec()) {
                let (dir, last) =
                    locate(root, &format!("/{}", &found.path[..found.kept + end]), true)?;
                let stat = dir.stat(&last)?;
                (self.hear)(&dir, &last, &kept.as_bytes()[..end], &stat)?;
            }
        }
        Ok(())
    }

    /// What is in `dir`: `path` in the tree, `below` beneath the source, `entry` in the tar.
    /// Directories that are left out wait for something in them that is not.
    fn tree(&mut self, dir: &Dir, at: &At<'_>, waiting: Option<&Waiting<'_>>) -> Result<()> {
        if at.below.iter().filter(|&&b| b == b'/').count() > DEPTH_MAX {
            return Err(Error::invalid(format!("more than {DEPTH_MAX} directories deep")));
        }
        let mut names: Vec<_> = fs::list(dir)?.into_iter().map(|(name, _)| name).collect();
        names.sort();
        for name in names {
            let name = name.to_bytes();
            let (path, below, entry) =
                (joined(at.path, name), joined(at.below, name), joined(at.entry, name));
            let stat = match dir.stat(name) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            let is_directory = kind(&stat) == FileType::Directory;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let ignored = self.ignore.ignores(&text(&path));
            let excluded = self.exclude.ignores(&text(&below));
            let exceptions = (!ignored || self.ignore.has_exceptions())
                && (!excluded || self.exclude.has_exceptions());
            let left_out = ignored || excluded;
            if left_out && !(is_directory && exceptions) {
                continue;
            }
            let here =
                Waiting { above: waiting, dir, name, entry: &entry, stat, told: Cell::new(false) };
            if !left_out {
                here.tell(self)?;
            }
            if is_directory {
                let deeper = dir.open_dir(name)?;
                let at = At { path: &path, below: &below, entry: &entry };
                self.tree(&deeper, &at, Some(&here))?;
            }
        }
        Ok(())
    }
}

/// A directory by its three names.
struct At<'a> {
    path: &'a [u8],
    below: &'a [u8],
    entry: &'a [u8],
}

/// An entry that is written when it is, or something in it is, not left out.
struct Waiting<'a> {
    above: Option<&'a Waiting<'a>>,
    dir: &'a Dir,
    name: &'a [u8],
    entry: &'a [u8],
    stat: Stat,
    told: Cell<bool>,
}

impl Waiting<'_> {
    fn tell(&self, walker: &mut Walker<'_, '_>) -> Result<()> {
        if self.told.replace(true) {
            return Ok(());
        }
        if let Some(above) = self.above {
            above.tell(walker)?;
        }
        let is_directory = kind(&self.stat) == FileType::Directory;
        if !is_directory || walker.made.insert(self.entry.to_vec()) {
            (walker.hear)(self.dir, self.name, self.entry, &self.stat)?;
        }
        Ok(())
    }
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
    [path, slash, name].concat()
}

/// Checks and reads `--chmod`: octal, or chmod(1)'s `u=rwX,go-w`.
pub fn mode_change(text: &str) -> Result<crate::image::layer::ModeChange> {
    let bad = || {
        Error::invalid(format!("invalid chmod parameter: '{text}'"))
            .hint("write it as chmod(1) does: 0755, or u=rwX,go=rX")
    };
    if !text.is_empty() && text.chars().all(|c| c.is_digit(8)) {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
        let mode = mode.ok_or_else(bad)?;
        return Ok(std::rc::Rc::new(move |_, _| mode));
    }
    let clauses: Option<Vec<Clause>> = text.split(',').map(Clause::parse).collect();
    let clauses = clauses.filter(|clauses| !clauses.is_empty()).ok_or_else(bad)?;
    Ok(std::rc::Rc::new(move |mode, is_directory| {
        clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_directory))
    }))
}

/// `ug+rw`.
struct Clause {
    /// Of user, group, others: each times 0o7.
    who: u32,
    actions: Vec<(char, String)>,
}

impl Clause {
    fn parse(text: &str) -> Option<Self> {
        let start = text.find(['+', '-', '='])?;
        let mut who = 0;
        for c in text[..start].chars() {
            who |= match c {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o0007,
                'a' => 0o7777,
                _ => return None,
            };
        }
        if who == 0 {
            who = 0o7777;
        }
        let mut actions: Vec<(char, String)> = Vec::new();
        for c in text[start..].chars() {
            match c {
                '+' | '-' | '=' => actions.push((c, String::new())),
                'r' | 'w' | 'x' | 'X' | 's' | 't' => actions.last_mut()?.1.push(c),
                _ => return None,
            }
        }
        Some(Self { who, actions })
    }

    fn apply(&self, mut mode: u32, is_directory: bool) -> u32 {
        for (action, rights) in &self.actions {
            let mut bits = 0;
            for right in rights.chars() {
                bits |= match right {
                    'r' => 0o444,
                    'w' => 0o222,
                    'X' if !is_directory && mode & 0o111 == 0 => 0,
                    'x' | 'X' => 0o111,
                    's' => 0o6000,
                    _ => 0o1000,
                };
            }
            // The sticky bit is nobody's in particular.
            let who = self.who | if bits & 0o1000 != 0 { 0o1000 } else { 0 };
            mode = match action {
                '+' => mode | (bits & who),
                '-' => mode & !(bits & who),
                _ => (mode & !who) | (bits & who),
            };
        }
        mode
    }
}

/// Places what [`Pick::write`] wrote; how many bytes of content there were.
pub fn place(root: &Root, place: &Place, tar: &mut dyn Read) -> Result<u64> {
    let mut length = [0; 4];
    tar.read_exact(&mut length).doing("read the tar")?;
    let length = u64::from(u32::from_le_bytes(length)).min(1 << 16);
    let mut text = Vec::new();
    (&mut *tar).take(length).read_to_end(&mut text).doing("read the tar")?;
    let picked: Picked = serde_json::from_slice(&text)?;
    let path = &place.path;
    let is_there = match root.open_dir(path) {
        Ok(_) => true,
        Err(Errno::NOENT | Errno::NOTDIR) => false,
        Err(errno) => return Err(Error::from(errno).context(path)),
    };
    let as_directory = is_there || path.ends_with('/') || picked.directory;
    if !as_directory && picked.only.is_none() {
        return Err(Error::invalid(format!(
            "several files are copied to {path}, which is no directory"
        ))
        .hint("a destination that ends with / is made as a directory"));
    }
    if as_directory {
        let dir = make_dirs(root, path, place)?;
        let name = picked.only.unwrap_or_default();
        return extract(tar, &dir, name.as_bytes(), place.how);
    }
    let target = Path::new(path);
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Error::invalid(format!("{path} names no file")));
    };
    let dir = make_dirs(root, &parent.to_string_lossy(), place)?;
    extract(tar, &dir, name.as_encoded_bytes(), place.how)
}

/// Extracts an archive into the directory at `place.path`, which is made if it is not there.
pub fn place_archive(root: &Root, place: &Place, tar: &mut dyn Read) -> Result<u64> {
    let dir = make_dirs(root, &place.path, place)?;
    extract(tar, &dir, b"", place.how)
}

/// The directory at `path`; what is missing of it is made, as `place` says: 0755 if it says nothing.
pub fn make_dirs(root: &Root, path: &str, place: &Place) -> Result<Dir> {
    let change = place.chmod.as_deref().map(mode_change).transpose()?;
    let mode = change.map_or(0o755, |change| change(0o755, true));
    let mut at = PathBuf::from("/");
    let mut dir = root.read_dir(&at).map_err(Error::from)?;
    for name in clean(path).split('/').filter(|name| !name.is_empty()) {
        at.push(name);
        dir = match root.read_dir(&at) {
            Err(Errno::NOENT) => {
                match dir.mkdir(name.as_bytes(), 0o755) {
                    // A link that leads to nothing: what it leads to is made.
                    Err(Errno::EXIST) => drop(root.ensure_dir(&at, 0o755).at(&at)?),
                    made => {
                        made.at(&at)?;
                        dir.chown(name.as_bytes(), place.owner.0, place.owner.1).at(&at)?;
                        dir.chmod(name.as_bytes(), mode).at(&at)?;
                    }
                }
                root.read_dir(&at).at(&at)?
            }
            Err(Errno::NOTDIR) => {
                return Err(Error::invalid(format!("{} is not a directory", at.display())));
            }
            opened => opened.at(&at)?,
        };
    }
    Ok(dir)
}

/// Forgets what it is given.
pub fn drain(tar: &mut dyn Read) {
    let _ = io::copy(tar, &mut io::sink());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::layer::Owner;
    use std::{fs as host, os::unix::fs::symlink};

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let top = tempfile::tempdir().expect("tempdir");
        for file in files {
            let path = top.path().join(file);
            host::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            host::write(path, file).expect("write");
        }
        top
    }

    fn names(top: &Path, pick: &Pick) -> Result<Vec<String>> {
        let root = Root::open(top).expect("root");
        let mut tar = Vec::new();
        pick.write(&root, &pick.find(&root)?, None, false, &mut tar)?;
        let mut archive = tar::Archive::new(&tar[..]);
        let entries = archive.entries().expect("tar");
        Ok(entries.map(|e| e.expect("entry").path().expect("path").display().to_string()).collect())
    }

    fn pick(sources: &[&str]) -> Pick {
        let sources = sources.iter().map(|&s| s.to_owned()).collect();
        Pick { sources, ..Pick::default() }
    }

    #[test]
    fn sources_are_found_by_dockers_rules() {
        let top = tree(&["a.txt", "b.txt", "d/x", "d/e/y.o", "d/e/z"]);
        symlink("/d", top.path().join("link")).expect("symlink");
        symlink("../../../../etc/passwd", top.path().join("out")).expect("symlink");
        let list = |pick: &Pick| names(top.path(), pick).expect("names");
        assert_eq!(list(&pick(&["a.txt"])), ["."]);
        assert_eq!(list(&pick(&["*.txt"])), ["a.txt", "b.txt"]);
        assert_eq!(list(&pick(&["d", "a.txt"])), ["e/", "e/y.o", "e/z", "x", "a.txt"]);
        assert_eq!(list(&pick(&["link"])), ["e/", "e/y.o", "e/z", "x"]);
        assert_eq!(list(&pick(&["no*"])), Vec::<String>::new());
        let parents = Pick { parents: true, ..pick(&["d/e/z", "d/./e/y.o"]) };
        assert_eq!(list(&parents), ["d/", "d/e/", "d/e/z", "e/", "e/y.o"]);
        let exclude = Pick { exclude: vec!["**/*.o".into(), "x".into()], ..pick(&["d"]) };
        assert_eq!(list(&exclude), ["e/", "e/z"]);
        let ignore = Pick { ignore: "d\n!d/e/z\n*.txt".into(), ..pick(&["."]) };
        assert_eq!(list(&ignore), ["d/", "d/e/", "d/e/z", "link", "out"]);
        for bad in ["gone", "out", "../x", "d/../../x", "d/x/y", "a.txt/"] {
            let found = names(top.path(), &pick(&[bad]));
            assert!(found.is_err() || bad == "a.txt/", "{bad}: {found:?}");
        }
    }

    #[test]
    fn what_is_placed_stays_inside() {
        let from = tree(&["f", "d/x"]);
        let to = tempfile::tempdir().expect("tempdir");
        let outside = tempfile::tempdir().expect("tempdir");
        symlink("run", to.path().join("var")).expect("symlink");
        symlink(outside.path(), to.path().join("evil")).expect("symlink");
        let source = Root::open(from.path()).expect("root");
        let target = Root::open(to.path()).expect("root");
        let copy = |what: &str, path: &str| {
            let pick = pick(&[what]);
            let mut tar = Vec::new();
            pick.write(&source, &pick.find(&source)?, None, true, &mut tar)?;
            let how = Extract { owner: Owner::Caller, overwrite: false };
            let owner = fs::creator();
            place(&target, &Place { path: path.into(), owner, how, chmod: None }, &mut &tar[..])
        };
        copy("f", "/new/name").expect("file");
        copy("f", "/new").expect("into");
        copy("f", "/dir/").expect("slash");
        copy("d", "/tree/deep").expect("tree");
        copy("f", "/var/lock/").expect("link");
        copy("f", "/evil/").expect("made inside");
        for path in ["new/name", "new/f", "dir/f", "tree/deep/x", "run/lock/f"] {
            assert!(to.path().join(path).is_file(), "{path}");
        }
        assert_eq!(host::read_dir(outside.path()).expect("list").count(), 0);
        copy("d", "/dir/f").expect_err("a file is no directory");
    }

    #[test]
    fn modes_are_those_of_chmod() {
        let mode = |text: &str, old, dir| mode_change(text).expect(text)(old, dir);
        assert_eq!(mode("0755", 0o600, false), 0o755);
        assert_eq!(mode("u=rwX,go=rX", 0o600, false), 0o644);
        assert_eq!(mode("u=rwX,go=rX", 0o700, true), 0o755);
        assert_eq!(mode("a+x,g-r", 0o640, false), 0o711);
        assert_eq!(mode("+t,u+s", 0o755, true), 0o5755);
        for bad in ["", "8", "77777", "u", "q+x", "u+q", "u+x,"] {
            assert!(mode_change(bad).is_err(), "{bad}");
        }
    }
}
