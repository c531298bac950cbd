//! Archives as others write them, and as nobody should.

use std::{collections::HashSet, fs, io::Write as _};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Import, Loaded, import, load};
use crate::{
    error::Result,
    image::{
        Silent, Store,
        layer::{Apply, Ownership},
        store::tests::store,
        unpack::InProcess,
    },
    oci::{Digest, Platform},
};

const UNPACK: InProcess = InProcess(Apply { ownership: Ownership::Keep, user_xattr: true });

/// A tar of files and, where the content starts with `->`, symbolic links.
pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let mut content = *content;
        if let Some(target) = content.strip_prefix(b"->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name_literal(target).expect("target");
            content = b"";
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).expect("append");
    }
    builder.into_inner().expect("finish")
}

pub(super) fn layer(name: &str) -> Vec<u8> {
    tar(&[(name, name.as_bytes())])
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|tar| Digest::of(tar)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&config).expect("json")
}

/// Two layers of which the second is a link, as docker before 1.10 wrote what two images share.
pub(super) fn docker(tags: &Value, change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
    let (a, b) = (layer("a"), layer("b"));
    let config = config(&[&a, &b]);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let manifest = json!([{
        "Config": config_name, "RepoTags": tags, "Layers": ["1/layer.tar", "2/layer.tar"],
    }]);
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("1/layer.tar".into(), a),
        ("1/VERSION".into(), b"1.0".to_vec()),
        ("2/layer.tar".into(), b"->../3/layer.tar".to_vec()),
        ("3/layer.tar".into(), b),
        (config_name, config),
        ("manifest.json".into(), serde_json::to_vec(&manifest).expect("json")),
    ];
    change(&mut files);
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    tar(&files)
}

fn host() -> Platform {
    Platform::new("linux", "amd64", None)
}

pub(super) fn load_into(store: &Store, archive: &[u8]) -> Result<Vec<Loaded>> {
    load(
        super::Source { bytes: &mut &archive[..], path: None },
        store,
        Some(&host()),
        &UNPACK,
        &Silent,
    )
}

fn refused(archive: &[u8]) -> String {
    let (_dir, store) = store();
    let err = load_into(&store, archive).expect_err("it must be refused").to_string();
    assert!(store.list().expect("list").is_empty(), "nothing is left of it");
    assert_eq!(fs::read_dir(store.layout().staging()).expect("list").count(), 0, "{err}");
    err
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("write");
    encoder.finish().expect("finish")
}

#[test]
fn a_docker_archive_is_loaded_plain_and_packed() {
    let plain = docker(&json!(["app:1", "localhost:5000/x/app:2"]), |_| {});
    let zstd = zstd::encode_all(&plain[..], 1).expect("zstd");
    let mut ids = HashSet::new();
    for archive in [gzip(&plain), zstd, plain] {
        let (_dir, store) = store();
        let loaded = load_into(&store, &archive).expect("load").remove(0);
        let names: Vec<_> = loaded.names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["docker.io/library/app:1", "localhost:5000/x/app:2"]);
        assert!(store.resolve("app:1").expect("resolve").is_some());
        for (layer, name) in loaded.image.record.layers.iter().zip(["a", "b"]) {
            let diff = store.layout().layer_diff(&layer.chain_id);
            assert_eq!(fs::read_to_string(diff.join(name)).expect("read"), name);
            assert!(store.has_blob(&layer.digest), "it can be saved again");
        }
        ids.insert((loaded.image.record.id, loaded.image.record.manifest));
        assert_eq!(fs::read_dir(store.layout().staging()).expect("list").count(), 0);
    }
    assert_eq!(ids.len(), 1, "the same archive is the same image");
}

#[test]
fn an_archive_without_tags_has_an_id() {
    for tags in [Value::Null, json!([])] {
        let (_dir, store) = store();
        let loaded = load_into(&store, &docker(&tags, |_| {})).expect("load").remove(0);
        assert!(loaded.names.is_empty());
        let id = loaded.image.record.id.to_string();
        assert!(store.resolve(&id).expect("resolve").is_some());
    }
}

#[test]
fn hostile_docker_archives_are_refused() {
    let tags = json!(["app:1"]);
    let edit = |name: &str, content: &[u8]| {
        refused(&docker(&tags, |files| {
            files.retain(|(other, _)| other != name);
            files.insert(0, (name.to_owned(), content.to_vec()));
        }))
    };
    let manifest = |text: &str| edit("manifest.json", text.as_bytes());
    // CVE-2014-9356, CVE-2014-9358, CVE-2020-10696: names and ids that are paths.
    assert!(edit("../escape", b"x").contains("\"..\""));
    assert!(edit("2/layer.tar", b"->/etc/passwd").contains("absolute"));
    assert!(edit("2/layer.tar", b"->../../../etc/passwd").contains("leaves the archive"));
    assert!(edit("2/layer.tar", b"->layer.tar").contains("circle"));
    assert!(edit("2/layer.tar", b"->nothing").contains("no member"));
    let outside = r#"[{"Config":"../../etc/passwd","Layers":[]}]"#;
    assert!(manifest(outside).contains("\"..\""));
    let absolute = r#"[{"Config":"/etc/passwd","Layers":[]}]"#;
    assert!(manifest(absolute).contains("no member"));
    assert!(refused(&docker(&json!(["../../x:1"]), |_| {})).contains("invalid reference"));
    // Promises that are not kept.
    assert!(edit("1/layer.tar", &layer("other")).contains("diffID"));
    assert!(
        refused(&docker(&tags, |files| {
            let config = files.iter_mut().find(|(name, _)| name.len() > 60).expect("config");
            config.1.push(b' ');
        }))
        .contains("other content")
    );
    assert!(manifest("[]").contains("no image"));
    assert!(manifest("{").contains("manifest.json"));
    assert!(refused(&tar(&[("etc/passwd", b"x")])).contains("neither"));
    assert!(refused(b"\xfd7zXZ\0 and so on").contains("xz"));
    let whole = docker(&tags, |_| {});
    assert!(refused(&whole[..1600]).contains("middle"));
    assert!(refused(&gzip(&whole)[..200]).contains("read the tar"));
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes.to_vec())
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// An OCI archive of one image for each architecture, behind a nested index.
fn oci(annotation: (&str, &str), change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
    use crate::oci::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
    let mut files = Vec::new();
    let mut entries = Vec::new();
    for architecture in ["arm64", "amd64"] {
        let tar = layer(architecture);
        let (config, packed) = (config(&[&tar]), gzip(&tar));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &config),
            "layers": [descriptor(OCI_LAYER_GZIP, &packed)],
        });
        let manifest = serde_json::to_vec(&manifest).expect("json");
        let mut entry = descriptor(OCI_MANIFEST, &manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
        // Of the other platform, as of many archives, nothing more is here.
        files.push(blob(&manifest));
        if architecture == "amd64" {
            files.extend([blob(&config), blob(&packed)]);
        }
    }
    let nested = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    let nested = serde_json::to_vec(&nested).expect("json");
    let mut top = descriptor(OCI_INDEX, &nested);
    top["annotations"] = json!({annotation.0: annotation.1});
    let index = json!({"schemaVersion": 2, "manifests": [top]});
    files.push(blob(&nested));
    files.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    files.push(("index.json".into(), serde_json::to_vec(&index).expect("json")));
    change(&mut files);
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    tar(&files)
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[test]
fn an_oci_archive_is_loaded_for_the_platform() {
    for (annotation, names) in [
        (("io.containerd.image.name", "docker.io/library/app:1"), 1),
        ((REF_NAME, "app:1"), 1),
        ((REF_NAME, "latest"), 0),
    ] {
        let (_dir, store) = store();
        let loaded = load_into(&store, &oci(annotation, |_| {})).expect("load").remove(0);
        assert_eq!(loaded.names.len(), names);
        assert_eq!(store.resolve("app:1").expect("resolve").is_some(), names == 1);
        let layer = &loaded.image.record.layers[0];
        let diff = store.layout().layer_diff(&layer.chain_id);
        assert!(diff.join("amd64").exists());
        assert!(store.has_blob(&layer.digest) && store.has_blob(&loaded.image.record.manifest));
    }
}

#[test]
fn an_oci_archive_that_lies_is_refused() {
    let edit = |which: usize, bytes: &[u8]| {
        refused(&oci((REF_NAME, "app:1"), |files| files[which].1 = bytes.to_vec()))
    };
    // In the order they are written: manifest, manifest, config, layer, index.
    for which in 1..5 {
        let err = edit(which, b"{}");
        assert!(err.contains("other content"), "{which}: {err}");
    }
    assert!(refused(&oci((REF_NAME, "../x:1"), |_| {})).contains("invalid reference"));
    let index = |text: &str| refused(&tar(&[("index.json", text.as_bytes())]));
    let entry = |digest: &str| {
        index(&format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":2}}]}}"#
        ))
    };
    assert!(!entry("sha256:../../etc/passwd").is_empty());
    assert!(entry(&format!("sha256:{}", "a".repeat(64))).contains("no member"));
    assert!(index(r#"{"schemaVersion":2,"manifests":[]}"#).contains("no image"));
}

#[test]
fn a_rootfs_becomes_an_image_the_same_each_time() {
    let how = Import {
        changes: vec!["CMD [\"/x\"]".into(), "ENV A=1".into()],
        message: "from a test".into(),
        reference: Some("rootfs:1".parse().expect("reference")),
        platform: host(),
        created: Timestamp::from_second(1).expect("time"),
    };
    let plain = layer("x");
    let mut ids = HashSet::new();
    for source in [plain.clone(), gzip(&plain), plain] {
        let (_dir, store) = store();
        let image = import(&mut &source[..], &how, &store, &UNPACK, &Silent).expect("import");
        let config = store.config(&image.record).expect("config");
        assert_eq!(config.history().as_ref().map(Vec::len), Some(1));
        let inner = config.config().clone().expect("config");
        assert_eq!(inner.cmd().as_deref(), Some(&["/x".to_owned()][..]));
        assert!(store.resolve("rootfs:1").expect("resolve").is_some());
        let chain = image.record.chain_ids().next().expect("a layer");
        assert!(store.layout().layer_diff(chain).join("x").exists());
        ids.insert(image.record.id);
    }
    assert_eq!(ids.len(), 1, "reproducible, however it came");

    let (_dir, store) = store();
    let bad = Import { changes: vec!["RUN x".into()], ..how };
    let err = import(&mut &b""[..], &bad, &store, &UNPACK, &Silent).expect_err("bad");
    assert!(err.to_string().contains("RUN cannot be applied"), "{err}");
    assert!(store.list().expect("list").is_empty());
}
