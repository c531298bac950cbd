//! Archives, manifests and configurations, changed a thousand times over: loaded whole, or refused
//! with nothing left of them.

use serde_json::json;

use super::tests::{docker, layer, load_into, tar};
use crate::{
    image::{
        config,
        mutate::{Chance, mend_checksums, mutate},
        pull::shape,
        store::tests::store,
    },
    oci::{Digest, Platform, Reference, media_type},
};

const ROUNDS: u64 = 80;

/// An OCI archive of one layer.
fn oci() -> Vec<u8> {
    let layer = layer("a");
    let diff_id = Digest::of(&layer);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
    .to_string();
    let entry = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": entry(media_type::OCI_CONFIG, config.as_bytes()),
        "layers": [entry(media_type::OCI_LAYER, &layer)],
    })
    .to_string();
    let mut named = entry(media_type::OCI_MANIFEST, manifest.as_bytes());
    named["annotations"] = json!({"org.opencontainers.image.ref.name": "app:1"});
    let index = json!({"schemaVersion": 2, "manifests": [named]}).to_string();
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    tar(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json", index.as_bytes()),
        (&path(manifest.as_bytes()), manifest.as_bytes()),
        (&path(config.as_bytes()), config.as_bytes()),
        (&path(&layer), &layer),
    ])
}

#[test]
fn a_changed_archive_is_loaded_whole_or_not_at_all() {
    let mut loaded = 0;
    for (kind, seed) in (0..).zip([docker(&json!(["app:1"]), |_| {}), oci()]) {
        for round in 0..ROUNDS {
            let mut archive = match round {
                0 => seed.clone(),
                _ => mutate(&seed, &mut Chance::new(kind << 32 | round)),
            };
            if round % 4 != 0 {
                mend_checksums(&mut archive);
            }
            let (_dir, store) = store();
            let outcome = load_into(&store, &archive);
            let images = store.list().expect("list");
            loaded += u64::from(outcome.is_ok());
            assert_eq!(outcome.is_ok(), !images.is_empty(), "{outcome:?}");
            for image in images {
                let here = image.record.blobs().all(|blob| store.has_blob(blob))
                    && image.record.chain_ids().all(|layer| store.has_layer(layer));
                assert!(here, "{image:?}");
                store.config(&image.record).expect("a configuration that reads");
            }
            let staging = std::fs::read_dir(store.layout().staging()).expect("list").count();
            assert_eq!(staging, 0, "round {round}: {outcome:?}");
        }
    }
    assert!(loaded >= 2, "those that were not changed are loaded");
}

#[test]
fn changed_documents_are_read_or_refused() {
    let documents = [
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7,"platform":{"architecture":"arm","os":"linux","variant":"v7"}}]}"#,
        r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:e3","size":-1},"layers":[],"manifests":null}"#,
        r#"{"architecture":"amd64","os":"linux","created":"2001-02-03T04:05:06Z","config":{"Env":["A=b"],"Cmd":["sh"],"ExposedPorts":{"80/tcp":{}},"Volumes":{"/v":null},"Labels":{"a":"b"}},"history":[{"created_by":"x","empty_layer":true}],"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#,
    ];
    let mut read = 0;
    for (kind, document) in (0..).zip(documents) {
        for round in 0..4000 {
            let bytes = mutate(document.as_bytes(), &mut Chance::new(kind << 32 | round));
            let found = shape(&Digest::of(&bytes), &bytes, media_type::OCI_INDEX);
            read += u64::from(found.is_ok()) + u64::from(config::parse(&bytes).is_ok());
        }
    }
    assert!(read > 100, "only {read} were read");
}

#[test]
fn changed_names_mean_what_they_say_or_nothing() {
    let names = [
        "alpine",
        "docker.io/library/alpine:3.20",
        "localhost:5000/a/b-c__d.e:x",
        "[::1]:5000/x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "../../etc/passwd",
        "UPPER/x:y",
        "a//b",
        "x:1/../../y",
        "-flag",
        "a\u{202e}b",
    ];
    for (kind, name) in (0..).zip(names) {
        for round in 0..2000 {
            let bytes = mutate(name.as_bytes(), &mut Chance::new(kind << 32 | round));
            let Ok(text) = std::str::from_utf8(&bytes) else { continue };
            if let Ok(reference) = text.parse::<Reference>() {
                let whole = reference.to_string();
                assert_eq!(whole.parse::<Reference>().as_ref(), Ok(&reference), "{text:?}");
                let mut parts = reference.path().split('/').chain([reference.domain()]);
                assert!(parts.all(|part| !part.is_empty() && !part.contains("..")), "{text:?}");
                assert!(whole.chars().all(|c| c.is_ascii_graphic()), "{text:?}");
            }
            // Neither may panic; what they accept has no path in it.
            if let Ok(digest) = text.parse::<Digest>() {
                assert!(digest.hex().bytes().all(|b| b.is_ascii_hexdigit()));
            }
            drop(text.parse::<Platform>());
        }
    }
}
