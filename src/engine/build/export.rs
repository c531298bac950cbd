//! What becomes of what was built (`--output`): an image here or in a registry, an archive, files.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    Watch, attest,
    lock::Lock,
    remote::Material,
    sbom,
    shared::{CacheTo, Used, give},
    workspace::Workspace,
};
use crate::{
    engine::{Engine, registry::Reach},
    error::{Context as _, Error, Result},
    image::{
        Addition, Image, ImageRecord, Progress as Transfer,
        archive::{
            save::{Directory, Format, Save, Sink, Tar, Wanted, save},
            save_index,
        },
        layer::{Extract, Owner, extract},
        list::{Entry, ListRecord, platform_value},
        push::{self, Packing, PushOptions, push_list, repack},
    },
    oci::{Digest, Platform, Reference, media_type::Compression},
    run::files::{Outcome, Task},
    sys::{channel, fs::Dir},
};

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    pub kind: ExportKind,
    /// `name=`; without it the build's own.
    pub names: Vec<Reference>,
    /// `compression=` and what goes with it.
    pub packing: Option<Packing>,
    /// `annotation.KEY=`.
    pub annotations: Vec<Annotation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportKind {
    /// An image here; with `push`, in its registry too.
    Image { push: bool },
    /// The files alone: a directory, or with `tar` an archive. `split` says whether those of a platform
    /// are in a directory of their own, as they are if there may be several platforms.
    Files { tar: bool, to: Target, split: Option<bool> },
    /// Its steps are kept for the next build, and nothing else.
    Nothing,
    /// The image as an archive, or without `tar` as a directory.
    Archive { format: Format, tar: bool, to: Target },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Stdout,
    Path(PathBuf),
}

/// Where an annotation stands (image-spec annotations.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Manifest,
    Index,
    ManifestDescriptor,
    IndexDescriptor,
}

/// `--annotation [LEVEL[PLATFORM]:]KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    pub level: Level,
    /// Of every image, if there is none.
    pub platform: Option<Platform>,
    pub key: String,
    pub value: String,
}

/// An image that was built; its parts stay until this is dropped.
#[derive(Debug)]
pub struct Built<'e> {
    pub(super) addition: Addition<'e>,
    pub record: ImageRecord,
    /// What it was made of: package URLs of images, and addresses.
    pub materials: BTreeMap<String, Material>,
    /// The steps of all stages that were run for it.
    pub steps: Vec<Used>,
    /// What `dhow.lock` would say.
    pub taken: Lock,
    /// No time is later (seconds since 1970).
    pub(super) epoch: i64,
    /// Layers may have become nobody's.
    pub(super) replaced: bool,
}

/// What all exports of a build share.
#[derive(Debug)]
pub struct Exporting<'a> {
    /// At least one.
    pub exports: &'a [Export],
    pub names: &'a [Reference],
    pub annotations: &'a [Annotation],
    /// A statement about how each image was built goes with it.
    pub provenance: Option<attest::Provenance>,
    /// So does one about the packages in it.
    pub sbom: bool,
    pub reach: Reach,
    /// Where its steps go.
    pub caches: &'a [CacheTo],
    /// There are several images, or what leaves shall look as if there were.
    pub as_index: bool,
}

/// What there is now.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The configuration's digest, or the index's if there are several images.
    pub id: Digest,
    /// Of the manifest or index, as it left.
    pub descriptor: Value,
    pub names: Vec<Reference>,
    /// The image that is kept here.
    pub kept: bool,
    /// What is said of each image.
    pub said: Vec<Said>,
}

impl Engine {
    /// Does what the exports say, in their order.
    pub fn export_build(
        &self,
        built: Vec<Built<'_>>,
        how: &Exporting<'_>,
        watch: &dyn Watch,
        transfer: &dyn Transfer,
    ) -> Result<Exported> {
        let made = RefCell::default();
        let exported = self.export_all(&built, how, &made, transfer).and_then(|exported| {
            give(self, &built, how.caches, &how.reach, watch, &mut made.borrow_mut())?;
            Ok(exported)
        });
        let mut made: BTreeSet<Digest> = made.into_inner();
        made.extend(built.iter().flat_map(|built| built.record.blobs().cloned()));
        let replaced = built.iter().any(|built| built.replaced);
        // What was only made to leave, or not at all, goes with what held it.
        drop(built);
        self.store.collect_blobs(made)?;
        if replaced {
            let unpacker = self.unpacker();
            let in_use = || self.layers_in_use();
            self.store.collect_garbage(&in_use, &|tree| unpacker.remove(tree))?;
        }
        exported
    }

    fn export_all(
        &self,
        built: &[Built<'_>],
        how: &Exporting<'_>,
        made: &RefCell<BTreeSet<Digest>>,
        transfer: &dyn Transfer,
    ) -> Result<Exported> {
        let [first, ..] = built else { return Err(Error::engine("nothing was built")) };
        let mut exported = Exported {
            id: first.record.id.clone(),
            descriptor: Value::Null,
            names: Vec::new(),
            kept: false,
            said: Vec::new(),
        };
        for built in built {
            let provenance = how.provenance.as_ref().map(|it| it.predicate(built));
            let sbom = how.sbom.then(|| sbom::document(built, built.epoch)).transpose()?;
            exported.said.push(Said { provenance, sbom });
        }
        for export in how.exports {
            if matches!(export.kind, ExportKind::Archive { .. } | ExportKind::Image { push: true })
            {
                built.iter().try_for_each(|built| self.make_blobs(&built.record))?;
            }
            let names = if export.names.is_empty() { how.names } else { &export.names };
            let annotations = [how.annotations, &export.annotations].concat();
            let one =
                One { engine: self, built, how, export, names, annotations: &annotations, made };
            one.run(&mut exported, transfer)?;
        }
        if exported.descriptor.is_null() {
            exported.descriptor = descriptor(&first.record, &first.addition)?;
        }
        if how.as_index
            && let Some(index) = exported.descriptor["digest"].as_str()
        {
            exported.id = index.parse()?;
        }
        Ok(exported)
    }
}

/// What is said of an image.
#[derive(Debug, Clone)]
pub struct Said {
    pub provenance: Option<Value>,
    pub sbom: Option<Value>,
}

impl Said {
    /// By type, in BuildKit's order.
    fn predicates(&self) -> Vec<(&'static str, &Value)> {
        let all = [(sbom::PREDICATE, &self.sbom), (attest::PREDICATE, &self.provenance)];
        all.into_iter().filter_map(|(kind, it)| Some((kind, it.as_ref()?))).collect()
    }
}

impl Exporting<'_> {
    /// Whether something is said of the images.
    fn says(&self) -> bool {
        self.provenance.is_some() || self.sbom
    }

    /// What cannot be done for so many platforms is told before anything is.
    pub fn check(&self, platforms: usize) -> Result<()> {
        check(platforms, self)
    }
}

fn check(platforms: usize, how: &Exporting<'_>) -> Result<()> {
    let several = how.as_index;
    let with_index = several || how.says();
    for export in how.exports {
        let names = if export.names.is_empty() { how.names } else { &export.names };
        match &export.kind {
            ExportKind::Archive { format, .. } if *format == Format::Docker && several => {
                return Err(Error::unsupported(
                    "docker exporter does not support exporting manifest lists, use the oci exporter instead",
                ));
            }
            ExportKind::Files { split: Some(false), .. } if platforms > 1 => {
                return Err(Error::unsupported(
                    "platform-split=false: files of several platforms are in a directory for each",
                ));
            }
            ExportKind::Image { push: true } if names.is_empty() => {
                return Err(Error::invalid("tag is needed when pushing to registry")
                    .hint("-t REGISTRY/NAME:TAG, or name= in --output"));
            }
            ExportKind::Archive { .. }
            | ExportKind::Image { .. }
            | ExportKind::Files { .. }
            | ExportKind::Nothing => {}
        }
        let notes = how.annotations.iter().chain(&export.annotations);
        let of_index = |note: &&Annotation| note.level != Level::Manifest;
        if let Some(note) = notes.clone().find(of_index).filter(|_| !with_index) {
            return Err(Error::unsupported(format!(
                "annotation {}: index annotations not supported for single platform export",
                note.key
            ))
            .hint("there is an index with several --platform, with --provenance and with --sbom"));
        }
        if let ExportKind::Image { push: true } = export.kind {
            names.iter().try_for_each(crate::engine::registry::not_local)?;
        }
    }
    if how.says()
        && how.exports.iter().all(|export| export.kind == ExportKind::Image { push: false })
    {
        return Err(Error::unsupported(
            "an image that stays here has no index that could hold its provenance or its packages",
        )
        .hint("--push, --output type=oci and --output type=local keep it"));
    }
    Ok(())
}

/// One export on its way.
struct One<'a> {
    engine: &'a Engine,
    built: &'a [Built<'a>],
    how: &'a Exporting<'a>,
    export: &'a Export,
    names: &'a [Reference],
    annotations: &'a [Annotation],
    /// Blobs that are not the image's as it is kept.
    made: &'a RefCell<BTreeSet<Digest>>,
}

impl One<'_> {
    fn run(&self, exported: &mut Exported, transfer: &dyn Transfer) -> Result<()> {
        match &self.export.kind {
            ExportKind::Files { tar, to, split } => {
                let split = split.unwrap_or(self.how.as_index);
                match tar {
                    true => self.tar(split, to),
                    false => self.files(split, to, exported),
                }
            }
            ExportKind::Nothing => Ok(()),
            ExportKind::Archive { format, tar, to } => {
                let images = self.packed(Compression::Gzip)?;
                self.archive(&images, *format, *tar, to, exported)
            }
            ExportKind::Image { push } => {
                self.keep(exported)?;
                match push {
                    true => self.push(exported, transfer),
                    false => Ok(()),
                }
            }
        }
    }

    /// The images as they leave: annotated, and packed.
    fn packed(&self, usual: Compression) -> Result<Vec<ImageRecord>> {
        let packing = self.export.packing.unwrap_or(Packing {
            compression: usual,
            level: None,
            force: false,
            format: None,
        });
        let one = |built: &Built<'_>| {
            let record = self.annotated(built)?;
            let record = repack(&built.addition, &record, packing)?;
            self.made.borrow_mut().extend(record.blobs().cloned());
            Ok(record)
        };
        self.built.iter().map(one).collect()
    }

    /// With the annotations of this image's manifest.
    fn annotated(&self, built: &Built<'_>) -> Result<ImageRecord> {
        let notes: BTreeMap<&str, &str> = self.notes(Level::Manifest, &built.record.platform);
        let mut record = built.record.clone();
        if notes.is_empty() {
            return Ok(record);
        }
        let mut manifest: Value = self.engine.store.read_json_blob(&record.manifest)?;
        for (key, value) in notes {
            manifest["annotations"][key] = json!(value);
        }
        let bytes = serde_json::to_vec(&manifest)?;
        (record.manifest, _) = built.addition.put_blob(&mut &bytes[..], None)?;
        self.made.borrow_mut().insert(record.manifest.clone());
        Ok(record)
    }

    fn notes(&self, level: Level, platform: &Platform) -> BTreeMap<&str, &str> {
        let fits = |note: &&Annotation| {
            note.level == level && note.platform.as_ref().is_none_or(|p| p == platform)
        };
        let fitting = self.annotations.iter().filter(fits);
        fitting.map(|note| (note.key.as_str(), note.value.as_str())).collect()
    }

    /// Puts the images into the store.
    fn keep(&self, exported: &mut Exported) -> Result<()> {
        let own = super::host_platform()?;
        let best = own.best(self.built.iter().map(|built| &built.record.platform));
        let mut entries = Vec::new();
        for (at, built) in self.built.iter().enumerate() {
            let record = self.annotated(built)?;
            let named = self.built.len() == 1 || best == Some(at);
            let names: Vec<_> =
                self.names.iter().filter(|_| named).map(|name| (name.clone(), None)).collect();
            let image = self.engine.store.add().finish(record, &names).doing("add the image")?;
            exported.descriptor = descriptor(&image.record, &built.addition)?;
            entries.push(entry(&image.record, &built.addition)?);
        }
        exported.names.extend(self.names.iter().cloned());
        exported.kept = true;
        if self.how.as_index {
            for name in self.names {
                let list = self.list(name, entries.clone());
                self.engine.store.change_list(name, |_| Ok(list))?;
            }
            let list = self.list(&nobody()?, entries);
            exported.descriptor = index_descriptor(&list)?;
        }
        Ok(())
    }

    fn push(&self, exported: &mut Exported, transfer: &dyn Transfer) -> Result<()> {
        let access = self.how.reach.access()?;
        if !self.how.as_index && !self.how.says() {
            let image = self.engine.store.image(&self.built[0].record.id)?;
            let image = image.ok_or_else(|| Error::engine("the image has gone"))?;
            let packing = self.export.packing;
            let options = PushOptions {
                access,
                compression: packing.map(|packing| packing.compression),
                chunked: false,
                force: packing.is_some_and(|packing| packing.force),
                level: packing.and_then(|packing| packing.level),
                format: packing.and_then(|packing| packing.format),
                platform: None,
                sign_by: None,
            };
            for name in self.names {
                let pushed = push::push(&self.engine.store, &image, name, &options, transfer)?;
                let image: Image = self.engine.image(&image.record.id.to_string())?;
                exported.descriptor = json!({
                    "mediaType": image.record.manifest_media_type,
                    "digest": pushed.digest, "size": pushed.size,
                    "platform": platform_value(&image.record.platform),
                });
            }
            return Ok(());
        }
        let images = self.packed(Compression::Gzip)?;
        let entries = self.entries(&images, exported)?;
        for name in self.names {
            let list = self.list(name, entries.clone());
            push_list(&self.engine.store, &list, name, &access, transfer)
                .doing_with(|| format!("push {}", name.familiar()))?;
            exported.descriptor = index_descriptor(&list)?;
        }
        Ok(())
    }

    fn list(&self, name: &Reference, entries: Vec<Entry>) -> ListRecord {
        let fits = self.annotations.iter().filter(|note| note.level == Level::Index);
        let annotations = fits.map(|note| (note.key.clone(), note.value.clone())).collect();
        ListRecord { name: name.clone(), entries, annotations }
    }

    /// The index's entries: the images, then what is said about each.
    fn entries(&self, images: &[ImageRecord], exported: &Exported) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut said = Vec::new();
        for (at, (record, built)) in images.iter().zip(self.built).enumerate() {
            let mut entry = entry(record, &built.addition)?;
            let notes = self.notes(Level::ManifestDescriptor, &record.platform);
            entry.annotations.extend(notes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
            let statements = exported.said.get(at).map(Said::predicates).unwrap_or_default();
            if !statements.is_empty() {
                let (entry, blobs) =
                    attest::manifest(&built.addition, record, self.names, &statements)?;
                self.made.borrow_mut().extend(blobs);
                said.push(entry);
            }
            entries.push(entry);
        }
        entries.extend(said);
        Ok(entries)
    }

    fn archive(
        &self,
        images: &[ImageRecord],
        format: Format,
        tar: bool,
        to: &Target,
        exported: &mut Exported,
    ) -> Result<()> {
        let store = &self.engine.store;
        if !self.how.as_index && (!self.how.says() || format == Format::Docker) {
            let record = &images[0];
            exported.descriptor = descriptor(record, &self.built[0].addition)?;
            let names = self.names.to_vec();
            let wanted = [Wanted { image: record.clone(), names, tag: None }];
            let how = Save { format, uncompressed: false };
            return written(tar, to, &mut |sink| save(store, &wanted, how, sink));
        }
        let list = self.list(&nobody()?, self.entries(images, exported)?);
        exported.descriptor = index_descriptor(&list)?;
        let of_index = self.annotations.iter().filter(|n| n.level == Level::IndexDescriptor);
        let notes: BTreeMap<&str, &str> =
            of_index.map(|note| (note.key.as_str(), note.value.as_str())).collect();
        let notes = json!(notes);
        written(tar, to, &mut |sink| save_index(store, &list, self.names, &notes, sink))
    }

    /// The files, without an image around them; `split`, those of each platform in a directory.
    fn files(&self, split: bool, to: &Target, exported: &Exported) -> Result<()> {
        let Target::Path(path) = to else {
            return Err(Error::invalid("files are written to a directory"));
        };
        for (at, built) in self.built.iter().enumerate() {
            let space = Workspace::of_image(self.engine, &built.record.layers)?;
            let path = if split { path.join(directory(built)) } else { path.clone() };
            let (reader, writer) = channel::pipe().doing("create a pipe")?;
            fs::create_dir_all(&path).at(&path).doing("create")?;
            let working = space.start(Task::Export, writer.as_fd())?;
            drop(writer);
            let placed = place(File::from(reader), &path);
            match (working.finish(), placed) {
                (_, Err(err)) => return Err(err),
                (outcome, Ok(())) => finished(outcome)?,
            }
            statements(&exported.said[at], &path)?;
        }
        Ok(())
    }

    /// The same as a tar.
    fn tar(&self, split: bool, to: &Target) -> Result<()> {
        let write = |out: OwnedFd| match (split, self.built) {
            (false, [only]) => {
                let space = Workspace::of_image(self.engine, &only.record.layers)?;
                finished(space.start(Task::Export, out.as_fd())?.finish())
            }
            _ => self.tar_of_all(File::from(out)),
        };
        match to {
            Target::Stdout => {
                write(io::stdout().as_fd().try_clone_to_owned().doing("write to stdout")?)
            }
            Target::Path(path) => {
                to_file(path, |file| write(OwnedFd::from(file.try_clone().at(path)?)))
            }
        }
    }

    /// The tars of all platforms, one after another, as one.
    fn tar_of_all(&self, out: File) -> Result<()> {
        let mut out = Joined { out: io::BufWriter::with_capacity(256 << 10, out), zeros: 0 };
        for built in self.built {
            let space = Workspace::of_image(self.engine, &built.record.layers)?;
            let (reader, writer) = channel::pipe().doing("create a pipe")?;
            let task = Task::ExportInto { directory: directory(built), time: built.epoch };
            let working = space.start(task, writer.as_fd())?;
            drop(writer);
            let copied = out.add(&mut io::BufReader::with_capacity(256 << 10, File::from(reader)));
            match (working.finish(), copied) {
                (Outcome::Failed(err), _) => return Err(err),
                (Outcome::Done(_) | Outcome::Cut, copied) => copied.doing("write the tar")?,
            }
        }
        out.finish().doing("write the tar")
    }
}

/// What the directory of a platform is called (BuildKit).
fn directory(built: &Built<'_>) -> String {
    built.record.platform.to_string().replace('/', "_")
}

/// Blocks of a tar (pax(1), "ustar Interchange Format").
const BLOCK: usize = 512;

/// Tars one after another, with one end.
struct Joined<W> {
    out: W,
    /// Blocks of zeros that may be an end.
    zeros: usize,
}

impl<W: Write> Joined<W> {
    fn add(&mut self, tar: &mut impl io::Read) -> io::Result<()> {
        let mut block = [0; BLOCK];
        // What the one before has ended with.
        self.zeros = 0;
        loop {
            match tar.read_exact(&mut block) {
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            if block == [0; BLOCK] {
                self.zeros += 1;
                continue;
            }
            for _ in 0..std::mem::take(&mut self.zeros) {
                self.out.write_all(&[0; BLOCK])?;
            }
            self.out.write_all(&block)?;
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }
}

/// `provenance.json` and `sbom.spdx.json` beside the files.
fn statements(said: &Said, path: &Path) -> Result<()> {
    for (kind, predicate) in said.predicates() {
        let name = if kind == sbom::PREDICATE { "sbom.spdx.json" } else { "provenance.json" };
        let statement = attest::statement(&[], kind, predicate);
        let path = path.join(name);
        fs::write(&path, serde_json::to_vec_pretty(&statement)?).at(&path).doing("write")?;
    }
    Ok(())
}

fn nobody() -> Result<Reference> {
    Ok("localhost/build".parse()?)
}

fn finished(outcome: Outcome) -> Result<()> {
    match outcome {
        Outcome::Failed(err) => Err(err),
        // Its reader has what it wanted.
        Outcome::Done(_) | Outcome::Cut => Ok(()),
    }
}

/// Extracts as whoever asked.
fn place(reader: File, path: &Path) -> Result<()> {
    let dir = Dir::from_fd(File::open(path).at(path)?.into());
    let how = Extract { owner: Owner::Caller, overwrite: true };
    let mut reader = io::BufReader::with_capacity(256 << 10, reader);
    extract(&mut reader, &dir, b"", how)
        .map(drop)
        .doing_with(|| format!("write to {}", path.display()))
}

/// A file that is there whole or not at all; a device or pipe is written to.
fn to_file(path: &Path, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        return write(&File::options().write(true).open(path).at(path).doing("open")?);
    }
    if path.is_dir() {
        return Err(Error::invalid(format!("{} is a directory", path.display())));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).at(parent).doing("create")?;
    let file = tempfile::NamedTempFile::with_prefix_in(".tmp-", parent).at(parent)?;
    write(file.as_file())?;
    use std::os::unix::fs::PermissionsExt as _;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).at(path)?;
    file.persist(path).map_err(|err| err.error).at(path).doing("write")?;
    Ok(())
}

/// Writes an archive, or without `tar` a directory.
fn written(
    tar: bool,
    to: &Target,
    write: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
) -> Result<()> {
    let mut as_tar = |out: &mut dyn Write| {
        let mut sink = Tar::new(io::BufWriter::with_capacity(1 << 20, out));
        write(&mut sink)?;
        sink.finish().map(drop)
    };
    match (tar, to) {
        (true, Target::Stdout) => as_tar(&mut io::stdout().lock()),
        (true, Target::Path(path)) => to_file(path, |file| as_tar(&mut &*file)),
        (false, Target::Stdout) => Err(Error::invalid("tar=false needs dest=DIR")),
        (false, Target::Path(path)) => {
            fs::create_dir_all(path).at(path).doing("create")?;
            if fs::read_dir(path).at(path)?.next().is_some() {
                return Err(Error::conflict(format!("{} is not empty", path.display()))
                    .hint("name a directory that is not there yet"));
            }
            write(&mut Directory(path.clone()))
        }
    }
}

/// Of an image's manifest (image-spec descriptor.md).
fn descriptor(record: &ImageRecord, addition: &Addition<'_>) -> Result<Value> {
    let file = addition.store().open_blob(&record.manifest)?;
    Ok(json!({
        "mediaType": record.manifest_media_type,
        "digest": record.manifest,
        "size": file.metadata().doing("measure a blob")?.len(),
        "platform": platform_value(&record.platform),
    }))
}

fn index_descriptor(list: &ListRecord) -> Result<Value> {
    let (bytes, kind) = list.index()?;
    Ok(json!({ "mediaType": kind, "digest": Digest::of(&bytes), "size": bytes.len() }))
}

fn entry(record: &ImageRecord, addition: &Addition<'_>) -> Result<Entry> {
    let file = addition.store().open_blob(&record.manifest)?;
    Ok(Entry {
        digest: record.manifest.clone(),
        size: file.metadata().doing("measure a blob")?.len(),
        media_type: record.manifest_media_type.clone(),
        platform: platform_value(&record.platform),
        annotations: BTreeMap::new(),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tars_are_joined_without_the_ends_between() {
        let block = |byte: u8| [byte; BLOCK].to_vec();
        let one = [block(1), block(0), block(2), block(0), block(0)].concat();
        let two = [block(3), block(0), block(0), block(0)].concat();
        let mut joined = Joined { out: Vec::new(), zeros: 0 };
        joined.add(&mut &one[..]).expect("one");
        joined.add(&mut &two[..]).expect("two");
        let mut out = Vec::new();
        std::mem::swap(&mut out, &mut joined.out);
        assert_eq!(out, [block(1), block(0), block(2), block(3)].concat());
    }
}
