//! The image that dhow carries in itself: `dhow/hello`, made from its own executable, so that a
//! first container needs no network and no image of anyone else's.
//!
//! The file in the image is a copy, never a link: nothing in a container may share an inode with
//! the host's own executable (CVE-2019-5736).

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Image, ImageRecord, LayerRef, Store, Unpack, addition::Addition, collect::InUse,
    store::LayerRecord,
};
use crate::{
    error::{Context as _, Kind, Result},
    oci::{Digest, Platform, Reference, media_type},
};

/// What a user types, completed.
pub const NAME: &str = "docker.io/dhow/hello:latest";

/// The label that records which executable the image was made from.
const MADE_FROM: &str = "dhow.executable";

/// Whether `name` is the built-in image's, so that it is worth calling [`ensure`].
pub fn is_builtin(name: &Reference) -> bool {
    name.to_string() == NAME
}

/// Makes the image unless it is here and was made from this very executable; three small reads
/// if so. An older dhow's image is removed when nothing uses it.
///
/// An image of someone else's under this name is left alone, and returned.
pub fn ensure(store: &Store, unpack: &dyn Unpack, in_use: InUse<'_>) -> Result<Image> {
    let executable = File::open("/proc/self/exe").at("/proc/self/exe")?;
    ensure_of(store, unpack, in_use, executable)
}

fn ensure_of(
    store: &Store,
    unpack: &dyn Unpack,
    in_use: InUse<'_>,
    executable: File,
) -> Result<Image> {
    let meta = executable.metadata().at("/proc/self/exe")?;
    let identity = identity(&meta);
    let name: Reference = NAME.parse()?;
    let old = match store.name(&name)? {
        Some(named) => store.image(&named.image)?,
        None => None,
    };
    if let Some(image) = &old {
        let made_from = made_from(store, image)?;
        if made_from.is_none_or(|made_from| made_from == identity) {
            return Ok(image.clone());
        }
    }
    let new = make(store, unpack, &name, &executable, &meta, &identity)
        .doing_with(|| format!("make the built-in image {}", name.familiar()))?;
    if let Some(old) = old {
        retire(store, unpack, in_use, &old, &name)?;
    }
    Ok(new)
}

/// Removes what an older executable's image left without a name, unless a container is made of it.
fn retire(
    store: &Store,
    unpack: &dyn Unpack,
    in_use: InUse<'_>,
    old: &Image,
    name: &Reference,
) -> Result<()> {
    let otherwise_named = old.names.iter().any(|record| record.name != *name);
    let used = in_use()?;
    if otherwise_named || old.record.chain_ids().any(|chain_id| used.contains(chain_id)) {
        return Ok(());
    }
    match store.remove(&old.record.id, in_use, &|tree| unpack.remove(tree)) {
        // Another command has seen the same and was faster.
        Err(err) if err.kind() == Kind::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// Differs between any two executables that were ever installed in one place.
fn identity(meta: &Metadata) -> String {
    format!("{}-{}.{:09}-{}", meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ino())
}

/// `None` if the image is not one of ours.
fn made_from(store: &Store, image: &Image) -> Result<Option<String>> {
    let config = store.config(&image.record)?;
    let labels = config.config().as_ref().and_then(|config| config.labels().as_ref());
    Ok(labels.and_then(|labels| labels.get(MADE_FROM)).cloned())
}

fn make(
    store: &Store,
    unpack: &dyn Unpack,
    name: &Reference,
    executable: &File,
    meta: &Metadata,
    identity: &str,
) -> Result<Image> {
    let addition = store.add();
    let (layer, content) = add_layer(&addition, unpack, executable, meta)?;
    let created = Timestamp::from_second(meta.mtime()).unwrap_or(Timestamp::UNIX_EPOCH);
    let platform = Platform::new("linux", std::env::consts::ARCH, None);
    let (id, config_size) =
        put_json(&addition, &config(&platform, created, &layer.diff_id, identity))?;
    let (manifest, _) = put_json(&addition, &manifest(&id, config_size, &layer))?;
    let record = ImageRecord {
        id,
        manifest,
        manifest_media_type: media_type::OCI_MANIFEST.to_owned(),
        layers: vec![layer],
        platform,
        created: Some(created),
        added: Timestamp::now(),
        size: content,
    };
    addition.finish(record, &[(name.clone(), None)])
}

/// The one layer, as an uncompressed tar, and unpacked. Gives its content's size too.
fn add_layer(
    addition: &Addition<'_>,
    unpack: &dyn Unpack,
    executable: &File,
    meta: &Metadata,
) -> Result<(LayerRef, u64)> {
    let mut tar = layer_tar(executable, meta)?;
    let (digest, size) = addition.put_blob(&mut tar, None)?;
    // The digest of an uncompressed layer is its diffID, and a lowest layer's is its chainID.
    let layer = LayerRef {
        diff_id: digest.clone(),
        chain_id: digest.clone(),
        digest,
        size,
        media_type: media_type::OCI_LAYER.to_owned(),
    };
    if !addition.has_layer(&layer.chain_id)? {
        let staged = addition.stage_layer()?;
        let mut blob = addition.store().open_blob(&layer.digest)?;
        let remove = |tree: &std::path::Path| unpack.remove(tree);
        let unpacked = match unpack.unpack(&mut blob, &staged.diff()) {
            Ok(unpacked) => unpacked,
            Err(err) => {
                // The first error is the one to tell; what stays is found by clean_staging.
                let _ = staged.discard(&remove);
                return Err(err);
            }
        };
        let record = LayerRecord {
            diff_id: layer.diff_id.clone(),
            size: unpacked.size,
            tar_size: Some(layer.size),
            sealed: false,
        };
        addition.commit_layer(staged, &layer.chain_id, &record, &remove)?;
        addition.publish(&remove)?;
    }
    Ok((layer, meta.size()))
}

/// A tar of `/hello` alone, read straight from the executable.
fn layer_tar<'a>(executable: &'a File, meta: &Metadata) -> Result<impl io::Read + use<'a>> {
    const BLOCK: u64 = 512;
    let mut header = tar::Header::new_ustar();
    header.set_path(crate::hello::PATH.trim_start_matches('/')).doing("name the program")?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(meta.size());
    header.set_cksum();
    // Content is padded to whole blocks, and two empty ones end the archive (ustar, pax(1)).
    let padding = meta.size().next_multiple_of(BLOCK) - meta.size() + 2 * BLOCK;
    let header = io::Cursor::new(header.as_bytes().to_vec());
    Ok(header.chain(executable.take(meta.size())).chain(io::repeat(0).take(padding)))
}

/// image-spec config.md.
fn config(platform: &Platform, created: Timestamp, diff_id: &Digest, identity: &str) -> Value {
    let created = created.to_string();
    json!({
        "created": created,
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {
            "Entrypoint": [crate::hello::PATH],
            "Env": ["PATH=/"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "dhow/hello",
                "org.opencontainers.image.description":
                    "reports the isolation it has, measured from inside",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                MADE_FROM: identity,
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": created, "created_by": "dhow, of its own executable" }],
    })
}

/// image-spec manifest.md.
fn manifest(config: &Digest, config_size: u64, layer: &LayerRef) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {
            "mediaType": media_type::OCI_CONFIG,
            "digest": config,
            "size": config_size,
        },
        "layers": [{
            "mediaType": layer.media_type,
            "digest": layer.digest,
            "size": layer.size,
        }],
    })
}

fn put_json(addition: &Addition<'_>, value: &Value) -> Result<(Digest, u64)> {
    let text = value.to_string();
    addition.put_blob(&mut text.as_bytes(), None)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        fs,
        io::Read,
        path::{Path, PathBuf},
    };

    use super::*;
    use crate::image::{Unpacked, store::tests as fixture};

    /// Reads the archive with a crate that did not write it, files only.
    struct Plain;

    impl Unpack for Plain {
        fn unpack(&self, tar: &mut dyn Read, target: &Path) -> Result<Unpacked> {
            let mut size = 0;
            let mut archive = tar::Archive::new(tar);
            for entry in archive.entries().doing("read")? {
                let mut entry = entry.doing("read")?;
                let path = target.join(entry.path().doing("read")?);
                let mut file = File::create(path).doing("create")?;
                size += io::copy(&mut entry, &mut file).doing("copy")?;
            }
            Ok(Unpacked { size, implied: Vec::new() })
        }

        fn settle(&self, _: &Path, _: &[PathBuf], _: &[PathBuf]) -> Result<()> {
            unreachable!("one layer, nothing implied")
        }

        fn remove(&self, tree: &Path) -> Result<()> {
            fs::remove_dir_all(tree).at(tree)
        }
    }

    fn nothing() -> Result<HashSet<Digest>> {
        Ok(HashSet::new())
    }

    fn ensure_from(store: &Store, program: &Path, in_use: InUse<'_>) -> Image {
        let program = File::open(program).expect("open");
        ensure_of(store, &Plain, in_use, program).expect("ensure")
    }

    #[test]
    fn the_image_holds_a_copy_and_is_made_once() {
        let (dir, store) = fixture::store();
        let program = dir.path().join("program");
        fs::write(&program, "\x7fELF and the rest").expect("write");
        let image = ensure_from(&store, &program, &nothing);
        let found = store.resolve("dhow/hello").expect("resolve").expect("it is there");
        assert_eq!(found.record, image.record);

        let config = store.config(&image.record).expect("config");
        let run = config.config().clone().expect("a process");
        assert_eq!(run.entrypoint(), &Some(vec!["/hello".to_owned()]));
        assert_eq!(config.rootfs().diff_ids().len(), 1);
        let manifest: oci_spec::image::ImageManifest =
            store.read_json_blob(&image.record.manifest).expect("manifest");
        assert_eq!(manifest.layers()[0].size(), image.record.layers[0].size);

        let chain_id = &image.record.layers[0].chain_id;
        let hello = store.layout().layer_diff(chain_id).join("hello");
        assert_eq!(fs::read(&hello).expect("read"), fs::read(&program).expect("read"));
        let inode = |path: &Path| fs::metadata(path).expect("stat").ino();
        assert_ne!(inode(&hello), inode(&program), "a copy, not a link");

        let again = ensure_from(&store, &program, &nothing);
        assert_eq!(again.record, image.record, "`added` would differ if it had been made anew");
    }

    #[test]
    fn a_new_executable_makes_a_new_image_and_retires_the_unused_old_one() {
        let (dir, store) = fixture::store();
        let program = dir.path().join("program");
        let version = |text: &str| fs::write(&program, text).expect("write");
        version("one");
        let one = ensure_from(&store, &program, &nothing);
        version("two!");
        let used = one.record.layers[0].chain_id.clone();
        let two = ensure_from(&store, &program, &|| Ok(HashSet::from([used.clone()])));
        assert_ne!(two.record.id, one.record.id);
        assert!(store.image(&one.record.id).expect("read").is_some(), "a container is made of it");
        version("three");
        let three = ensure_from(&store, &program, &nothing);
        assert!(store.image(&two.record.id).expect("read").is_none());
        assert!(!store.has_layer(&two.record.layers[0].chain_id));
        let named = store.resolve("dhow/hello").expect("resolve").expect("it is there");
        assert_eq!(named.record.id, three.record.id);
    }

    #[test]
    fn a_stranger_s_image_under_the_name_is_left_alone() {
        let (dir, store) = fixture::store();
        let program = dir.path().join("program");
        fs::write(&program, "x").expect("write");
        let stranger = fixture::add(
            &store,
            "{\"architecture\":\"amd64\",\"os\":\"linux\",\
            \"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}",
            &["a"],
            &[NAME],
        );
        assert_eq!(ensure_from(&store, &program, &nothing).record, stranger.record);
    }

    #[test]
    fn only_its_own_name_is_the_built_in_one() {
        let name = |text: &str| text.parse::<Reference>().expect("a reference");
        assert!(
            is_builtin(&name("dhow/hello")) && is_builtin(&name("docker.io/dhow/hello:latest"))
        );
        assert!(!is_builtin(&name("dhow/hello:2")) && !is_builtin(&name("localhost/dhow/hello")));
    }
}
