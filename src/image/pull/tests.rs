use std::{
    io::Read as _,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use super::{choose::INDEX_DEPTH_MAX, *};
use crate::{
    error::Kind,
    image::{
        Event,
        ingest::tests::{Keep, gzip},
        registry::fake::{Reply, Request, Server},
        store::{MANIFEST_MAX, tests::store},
    },
    oci::media_type,
};

/// An image's documents and blobs.
#[derive(Clone)]
struct Parts {
    tars: Vec<Vec<u8>>,
    blobs: Vec<Vec<u8>>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    index: Vec<u8>,
}

fn parts(tars: &[&[u8]]) -> Parts {
    let tars: Vec<_> = tars.iter().map(|tar| tar.to_vec()).collect();
    let blobs: Vec<_> = tars.iter().map(|tar| gzip(tar)).collect();
    let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05Z",
        "config": { "Env": null, "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes();
    let describe = |bytes: &[u8], media_type: &str| json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() });
    let layers: Vec<_> =
        blobs.iter().map(|blob| describe(blob, media_type::OCI_LAYER_GZIP)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": describe(&config, media_type::OCI_CONFIG), "layers": layers,
    })
    .to_string()
    .into_bytes();
    let mut entry = describe(&manifest, media_type::OCI_MANIFEST);
    entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let mut other = entry.clone();
    other["platform"]["architecture"] = json!("s390x");
    other["digest"] = json!(Digest::of(b"for another machine"));
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [other, entry],
    })
    .to_string()
    .into_bytes();
    Parts { tars, blobs, config, manifest, index }
}

impl Parts {
    /// The same tar as another blob.
    fn repack(&mut self, layer: usize, blob: Vec<u8>, kind: &str) {
        let mut manifest: Value = serde_json::from_slice(&self.manifest).expect("json");
        manifest["layers"][layer] =
            json!({ "mediaType": kind, "digest": Digest::of(&blob), "size": blob.len() });
        self.blobs[layer] = blob;
        self.manifest = manifest.to_string().into_bytes();
        let mut index: Value = serde_json::from_slice(&self.index).expect("json");
        index["manifests"][1]["digest"] = json!(Digest::of(&self.manifest));
        index["manifests"][1]["size"] = json!(self.manifest.len());
        self.index = index.to_string().into_bytes();
    }

    /// What an honest registry says.
    fn answer(&self, request: &Request) -> Reply {
        let Some(name) = request.path.strip_prefix("/v2/app/") else {
            return Reply::status(200);
        };
        let called = |bytes: &Vec<u8>| name.ends_with(Digest::of(bytes).as_str());
        if name == "manifests/1" || name.starts_with("manifests/") && called(&self.index) {
            return Reply::ok(self.index.clone()).with("Content-Type", media_type::OCI_INDEX);
        }
        if name.starts_with("manifests/") && called(&self.manifest) {
            return Reply::ok(self.manifest.clone())
                .with("Content-Type", media_type::OCI_MANIFEST)
                .with("Docker-Content-Digest", Digest::of(&self.manifest).as_str());
        }
        let mut blobs = self.blobs.iter().chain([&self.config]);
        let Some(blob) = blobs.find(|blob| called(blob)) else { return Reply::status(404) };
        let range = request.header("range").strip_prefix("bytes=").map(|r| r.trim_end_matches('-'));
        match range.and_then(|from| from.parse::<usize>().ok()) {
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                Reply { status: 206, ..Reply::ok(&blob[from..]) }.with("Content-Range", range)
            }
            None => Reply::ok(blob.clone()),
        }
    }

    fn serve(&self) -> Server {
        let parts = self.clone();
        Server::new(move |request, _| parts.answer(request))
    }

    /// An honest registry, except where `lie` answers.
    fn serve_but(
        &self,
        lie: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Server {
        let parts = self.clone();
        Server::new(move |request, before| {
            lie(request, before).unwrap_or_else(|| parts.answer(request))
        })
    }
}

fn options() -> PullOptions {
    PullOptions {
        platform: Some(Platform::new("linux", "amd64", None)),
        policy: Policy::Always,
        trust: Trust::default(),
        access: Access { pause: Duration::from_millis(1), ..Access::none() },
    }
}

/// Hears everything.
#[derive(Default)]
struct Heard(Mutex<Vec<(Digest, Event)>>);

impl Progress for Heard {
    fn layer(&self, layer: &Digest, event: Event) {
        self.0.lock().expect("no panic").push((layer.clone(), event));
    }
}

fn reference(server: &Server, suffix: &str) -> Reference {
    format!("{}/app{suffix}", server.host()).parse().expect("reference")
}

fn pull_from(server: &Server, store: &Store) -> Result<Image> {
    pull(store, &reference(server, ":1"), &options(), &Keep, &Heard::default())
}

fn count(path: &Path) -> usize {
    fs::read_dir(path).expect("list").count()
}

/// Pulls, expects an error that says so, and that nothing is visible afterwards.
fn fails(server: &Server, says: &str) -> Error {
    let (_dir, store) = store();
    let err = pull_from(server, &store).expect_err(says);
    assert!(err.to_string().contains(says), "{err} should say {says:?}");
    assert!(store.list().expect("list").is_empty());
    assert_eq!(count(&store.layout().staging()), 0);
    err
}

#[test]
fn an_image_comes_whole_and_only_once() {
    let parts = parts(&[b"base", b"implied middle", &vec![b'x'; 1 << 20]]);
    let (server, (_dir, store)) = (parts.serve(), store());
    let heard = Heard::default();
    let name = reference(&server, ":1");
    let image = pull(&store, &name, &options(), &Keep, &heard).expect("pull");
    assert_eq!(image.record.id, Digest::of(&parts.config));
    assert_eq!(image.record.manifest, Digest::of(&parts.manifest));
    assert_eq!(image.names[0].name, name);
    assert_eq!(image.names[0].digest, Some(Digest::of(&parts.index)), "what the registry calls it");
    assert_eq!(image.record.created.expect("created").to_string(), "2026-01-02T03:04:05Z");
    assert_eq!(image.record.size, parts.tars.iter().map(|tar| tar.len() as u64).sum::<u64>());
    for (layer, (tar, blob)) in image.record.layers.iter().zip(parts.tars.iter().zip(&parts.blobs))
    {
        let diff = store.layout().layer_diff(&layer.chain_id);
        assert_eq!(&fs::read(diff.join("tar")).expect("read"), tar);
        assert_eq!(&fs::read(store.layout().blob(&layer.digest)).expect("read"), blob);
        let end = Event::Downloading { done: layer.size, total: layer.size };
        let heard = heard.0.lock().expect("no panic");
        for event in [Event::Waiting { total: layer.size }, end, Event::Settling, Event::Done] {
            assert!(heard.contains(&(layer.digest.clone(), event)), "{event:?}");
        }
    }
    let blobs = server.count("/blobs/");
    pull_from(&server, &store).expect("again");
    assert_eq!(server.count("/blobs/"), blobs, "nothing is fetched twice");
    let by_digest = reference(&server, &format!(":1@{}", Digest::of(&parts.index)));
    let same = pull(&store, &by_digest, &options(), &Keep, &heard).expect("by digest");
    assert_eq!(same.names.len(), 2);
    for dir in [store.layout().staging(), store.layout().root().join("partial")] {
        assert_eq!(count(&dir), 0, "{}", dir.display());
    }
}

#[test]
fn policies_ask_the_registry_or_not() {
    let parts = parts(&[b"base"]);
    let (server, (_dir, store)) = (parts.serve(), store());
    let name = reference(&server, ":1");
    let with = |policy| {
        let options = PullOptions { policy, ..options() };
        pull(&store, &name, &options, &Keep, &Heard::default())
    };
    assert_eq!(with(Policy::Never).expect_err("absent").kind(), Kind::NotFound);
    assert!(server.requests().is_empty());
    with(Policy::Missing).expect("pull");
    let asked = server.requests().len();
    with(Policy::Missing).expect("local");
    with(Policy::Never).expect("local");
    assert_eq!(server.requests().len(), asked);
    with(Policy::Always).expect("pull");
    assert!(server.requests().len() > asked);
}

#[test]
fn lies_are_found_out() {
    let parts = parts(&[b"base", b"top"]);
    let part = |bytes: &[u8]| Digest::of(bytes).to_string();
    let (layer, config) = (part(&parts.blobs[1]), part(&parts.config));
    let of_layer = layer.clone();
    let size = parts.blobs[1].len();
    let lie = move |reply: Reply, about: &str| {
        let about = about.to_owned();
        move |request: &Request, _| request.path.ends_with(&about).then(|| reply.clone())
    };
    let other = Reply::ok(vec![b'!'; size]);
    fails(&parts.serve_but(lie(other.clone(), &layer)), "other content");
    fails(&parts.serve_but(lie(Reply::ok("{}"), &config)), "the registry has 2 bytes");
    let longer = Reply::ok(vec![b'!'; size + 1]);
    fails(&parts.serve_but(lie(longer, &layer)), "where the manifest says");
    let manifest = part(&parts.manifest);
    let other = Reply::ok("{}").with("Content-Type", media_type::OCI_MANIFEST);
    fails(&parts.serve_but(lie(other, &manifest)), "the registry sent another one");
    let claim = Reply::ok(parts.index.clone())
        .with("Content-Type", media_type::OCI_INDEX)
        .with("Docker-Content-Digest", Digest::of(b"x").as_str());
    fails(&parts.serve_but(lie(claim, "manifests/1")), "the registry says it is");
    let huge = Reply::ok(vec![b' '; usize::try_from(MANIFEST_MAX).expect("small") + 1]);
    fails(&parts.serve_but(lie(huge, "manifests/1")), "is larger than");
    let short = Reply { cut: Some(9), ..Reply::ok(parts.blobs[1].clone()) };
    let server = parts.serve_but(lie(short, &of_layer));
    fails(&server, "ends after 9 of");
}

#[test]
fn documents_that_are_no_single_image_are_refused() {
    let parts = parts(&[b"base"]);
    let with = |edit: fn(&mut Value), media_type: &str| {
        let mut value: Value = serde_json::from_slice(&parts.manifest).expect("json");
        edit(&mut value);
        let reply = Reply::ok(value.to_string()).with("Content-Type", media_type);
        parts.serve_but(move |request, _| {
            request.path.ends_with("manifests/1").then(|| reply.clone())
        })
    };
    let oci = media_type::OCI_MANIFEST;
    fails(&with(|m| m["manifests"] = json!([]), oci), "an index and an image");
    fails(&with(|m| m["schemaVersion"] = json!(1), oci), "schema 1");
    fails(&with(|m| m["fsLayers"] = json!([]), oci), "schema 1");
    fails(&with(|m| m["mediaType"] = Value::Null, media_type::OCI_INDEX), "not what it says");
    fails(&with(|_| (), media_type::DOCKER_MANIFEST), "the registry says");
    let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    fails(&with(|m| m["mediaType"] = Value::Null, old), "schema 1");
    fails(&with(|m| m["layers"] = json!([]), oci), "0 layers, the image's configuration 1");
    fails(&with(|m| m["layers"] = json!("x"), oci), "invalid type");
    fails(&with(|m| m["layers"][0]["size"] = json!(-1), oci), "invalid value");
    fails(&with(|m| m["layers"][0]["digest"] = json!("sha256:../../x"), oci), "read manifest");
    fails(
        &with(|m| m["config"]["digest"] = json!("md5:0123456789abcdef0123456789abcdef"), oci),
        "digest",
    );
    fails(
        &with(
            |m| {
                m["layers"][0]["mediaType"] =
                    json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
            },
            oci,
        ),
        "foreign layer",
    );
    fails(
        &with(
            |m| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json"),
            oci,
        ),
        "this is an artifact of type",
    );
    fails(&with(|m| m["config"]["size"] = json!(1u64 << 40), oci), "larger than");
    let (_dir, store) = store();
    pull_from(&with(|m| m["mediaType"] = Value::Null, "text/plain"), &store).expect("vague");
}

#[test]
fn an_index_has_an_end_and_a_fitting_entry() {
    let parts = parts(&[b"base"]);
    let (server, (_dir, store)) = (parts.serve(), store());
    let options =
        PullOptions { platform: Some(Platform::new("linux", "riscv64", None)), ..options() };
    let err = pull(&store, &reference(&server, ":1"), &options, &Keep, &Heard::default())
        .expect_err("no such platform");
    assert!(err.to_string().contains("no version for linux/riscv64"), "{err}");
    assert!(err.hint_text().expect("hint").contains("linux/amd64"), "{err:?}");

    let mut nested = parts.manifest.clone();
    let mut nests = vec![];
    for _ in 0..=INDEX_DEPTH_MAX {
        let digest = Digest::of(&nested);
        let entry =
            json!({ "mediaType": media_type::OCI_INDEX, "digest": digest, "size": nested.len() });
        nests.push(nested);
        nested = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
    }
    let server = parts.serve_but(move |request, _| {
        let top = request.path.ends_with("manifests/1").then_some(&nested);
        let called = |d: &&Vec<u8>| request.path.ends_with(Digest::of(d).as_str());
        top.or(nests.iter().find(called)).map(|bytes| Reply::ok(bytes.clone()))
    });
    fails(&server, "indexes point to each other");
}

#[test]
fn a_cut_blob_is_resumed_by_range_in_this_pull_and_the_next() {
    let big: Vec<u8> =
        (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let parts = parts(&[&big]);
    let blob = parts.blobs[0].clone();
    let digest = Digest::of(&blob).to_string();
    let about = digest.clone();
    // The first answer breaks off; the next one continues.
    let cut = {
        let blob = blob.clone();
        move |request: &Request, _| {
            let first = request.path.ends_with(&about) && request.header("range").is_empty();
            first.then(|| Reply { cut: Some(100_000), ..Reply::ok(blob.clone()) })
        }
    };
    let (_dir, fresh) = store();
    let server = parts.serve_but(cut);
    pull_from(&server, &fresh).expect("resumes");
    let ranges: Vec<_> = server.requests().iter().map(|r| r.header("range").to_owned()).collect();
    assert!(ranges.contains(&"bytes=100000-".to_owned()), "{ranges:?}");

    // Every answer breaks off; what came is kept, and another pull asks for the rest only.
    let about = digest.clone();
    let partial_then_dead = {
        let blob = blob.clone();
        move |request: &Request, _| {
            if !request.path.ends_with(&about) {
                return None;
            }
            let first = request.header("range").is_empty();
            Some(if first {
                Reply { cut: Some(5000), ..Reply::ok(blob.clone()) }
            } else {
                Reply::status(503)
            })
        }
    };
    let (_dir, store) = store();
    let err = pull_from(&parts.serve_but(partial_then_dead), &store).expect_err("dead");
    assert!(err.to_string().contains("503"), "{err}");
    let kept = store.layout().partial(&digest.parse().expect("digest")).join("data");
    assert_eq!(fs::metadata(&kept).expect("kept").len(), 5000);
    let server = parts.serve();
    pull_from(&server, &store).expect("the rest");
    let ranges: Vec<_> = server.requests().iter().map(|r| r.header("range").to_owned()).collect();
    assert!(ranges.contains(&"bytes=5000-".to_owned()), "{ranges:?}");
}

#[test]
fn a_damaged_partial_blob_is_fetched_anew() {
    let parts = parts(&[&vec![b'x'; 100_000]]);
    let (server, (_dir, store)) = (parts.serve(), store());
    let partial = store.layout().partial(&Digest::of(&parts.blobs[0]));
    fs::create_dir(&partial).expect("mkdir");
    fs::write(partial.join("data"), "garbage").expect("write");
    pull_from(&server, &store).expect("pull");
}

#[test]
fn a_tar_that_is_here_in_another_packing_comes_as_its_manifest_says() {
    let one = parts(&[b"base", b"top"]);
    let mut two = parts(&[b"base", b"other top"]);
    two.repack(0, zstd::encode_all(&b"base"[..], 1).expect("zstd"), media_type::OCI_LAYER_ZSTD);
    let (_dir, store) = store();
    let first = pull_from(&one.serve(), &store).expect("gzip");
    let second = pull_from(&two.serve(), &store).expect("zstd");
    assert_eq!(second.record.layers[0].chain_id, first.record.layers[0].chain_id);
    assert_eq!(second.record.layers[0].digest, Digest::of(&two.blobs[0]));
    for (image, parts) in [(&first, &one), (&second, &two)] {
        let blob = store.layout().blob(&image.record.layers[0].digest);
        assert_eq!(fs::read(blob).expect("read"), parts.blobs[0]);
        let mut tar = String::new();
        let mut tarball = store.tarball(&image.record.layers[0]).expect("open");
        tarball.read_to_string(&mut tar).expect("read");
        assert_eq!(tar, "base");
    }
}

#[test]
fn a_layer_without_its_blob_gets_the_blob_alone() {
    let parts = parts(&[b"base"]);
    let (server, (_dir, store)) = (parts.serve(), store());
    let image = pull_from(&server, &store).expect("pull");
    let blob = store.layout().blob(&image.record.layers[0].digest);
    fs::remove_file(&blob).expect("lose the blob");
    pull_from(&server, &store).expect("again");
    assert_eq!(fs::read(blob).expect("read"), parts.blobs[0]);
}

#[test]
fn a_registry_without_ranges_still_serves_the_rest() {
    let parts = parts(&[b"some layer that is long enough"]);
    let (blob, digest) = (parts.blobs[0].clone(), Digest::of(&parts.blobs[0]).to_string());
    let server = parts.serve_but(move |request, _| {
        request.path.ends_with(&digest).then(|| {
            let first = request.header("range").is_empty();
            Reply { cut: first.then_some(9), ..Reply::ok(blob.clone()) }
        })
    });
    let (_dir, store) = store();
    pull_from(&server, &store).expect("skips what it has");
}

#[test]
fn trouble_passes_or_is_told() {
    let parts = parts(&[b"base"]);
    let at_first = |status: u16, times: usize, after: &'static str| {
        let count = AtomicUsize::new(0);
        parts.serve_but(move |request, _| {
            let again = request.path.contains("manifests/1")
                && count.fetch_add(1, Ordering::Relaxed) < times;
            let reply = Reply::status(status);
            again.then(|| if after.is_empty() { reply } else { reply.with("Retry-After", after) })
        })
    };
    for (status, after) in [(500, ""), (502, ""), (503, "0"), (429, "0")] {
        let server = at_first(status, 2, after);
        let (_dir, store) = store();
        pull_from(&server, &store).expect("passes");
        assert_eq!(server.count("manifests/1"), 3, "{status}");
    }
    let server = at_first(500, 99, "");
    fails(&server, "500");
    assert_eq!(server.count("manifests/1"), 5);
    let server = at_first(429, 99, "3600");
    let err = fails(&server, "429");
    assert!(err.hint_text().expect("hint").contains("3600 s"), "{err:?}");
    assert_eq!(server.count("manifests/1"), 1, "an hour is not waited for");
    let gone = parts.serve_but(|request, _| {
        let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no\u001b[31m such"}]}"#;
        request.path.contains("manifests").then(|| Reply { status: 404, ..Reply::ok(unknown) })
    });
    let err = fails(&gone, "404 Not Found: no[31m such");
    assert_eq!(err.kind(), Kind::NotFound);
    let denied = parts
        .serve_but(|request, _| request.path.contains("manifests").then(|| Reply::status(403)));
    assert_eq!(fails(&denied, "403").kind(), Kind::Unauthorized);
    let nobody = { parts.serve().host() };
    let (_dir, store) = store();
    let name = format!("{nobody}/app").parse().expect("reference");
    std::thread::sleep(Duration::from_millis(20));
    let err = pull(&store, &name, &options(), &Keep, &Heard::default()).expect_err("closed");
    assert!(err.to_string().contains("neither HTTPS"), "{err}");
}

#[test]
fn a_token_is_fetched_with_the_credentials_and_sent() {
    let parts = parts(&[b"base", b"top"]);
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("config.json");
    let server = parts.serve_but(|request, _| {
        if request.path.starts_with("/token") {
            let good = request.header("authorization") == "Basic dXNlcjpwYXNz"
                && request.path.ends_with("?service=me&scope=repository%3Aapp%3Apull");
            return Some(if good {
                Reply::ok(r#"{"access_token":"T0k"}"#)
            } else {
                Reply::status(401)
            });
        }
        let allowed = request.path == "/v2/" || request.header("authorization") == "Bearer T0k";
        let realm = format!(
            r#"Basic realm="x", Bearer realm="http://{}/token",service="me""#,
            request.header("host")
        );
        (!allowed).then(|| Reply::status(401).with("WWW-Authenticate", realm))
    });
    let mut options = options();
    options.access.credentials = vec![file.clone()];
    let name = reference(&server, ":1");
    let (_dir, store) = store();
    let err = pull(&store, &name, &options, &Keep, &Heard::default()).expect_err("anonymous");
    assert_eq!(err.kind(), Kind::Unauthorized, "{err}");
    let auths = json!({ "auths": { server.host(): { "auth": "dXNlcjpwYXNz" } } });
    fs::write(&file, auths.to_string()).expect("write");
    pull(&store, &name, &options, &Keep, &Heard::default()).expect("with credentials");
    assert_eq!(server.count("/token"), 2, "one refused, one for the whole pull");
}

#[test]
fn credentials_stay_with_their_host() {
    let parts = parts(&[b"base"]);
    let elsewhere = parts.serve();
    let greedy = Server::new(|request, _| {
        let realm =
            format!(r#"Basic realm="x", Bearer realm="http://{}/token""#, request.header("host"));
        Reply::status(401).with("WWW-Authenticate", realm)
    });
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("config.json");
    let mut options = options();
    options.access.credentials = vec![file.clone()];
    for other in [&elsewhere, &greedy] {
        let host = other.host();
        let server = parts.serve_but(move |request, _| {
            if request.path != "/v2/" && request.header("authorization") != "Basic dXNlcjpwYXNz" {
                return Some(Reply::status(401).with("WWW-Authenticate", r#"Basic realm="x""#));
            }
            let moved =
                Reply::status(307).with("Location", format!("http://{host}{}", request.path));
            request.path.contains("/blobs/").then_some(moved)
        });
        let auths = json!({ "auths": { server.host(): { "auth": "dXNlcjpwYXNz" } } });
        fs::write(&file, auths.to_string()).expect("write");
        let (_dir, store) = store();
        let pulled = pull(&store, &reference(&server, ":1"), &options, &Keep, &Heard::default());
        assert_eq!(pulled.is_ok(), std::ptr::eq(other, &elsewhere), "{pulled:?}");
        assert!(other.count("/blobs/") > 0, "it was asked");
        assert_eq!(other.count("/token"), 0, "its challenge was not answered");
        let told: Vec<_> = other
            .requests()
            .into_iter()
            .filter(|r| r.headers.contains_key("authorization"))
            .collect();
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn two_pulls_of_one_image_share_the_work() {
    let parts = parts(&[b"base", b"implied top"]);
    let (server, (_dir, store)) = (parts.serve(), store());
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| pull_from(&server, &store))).collect();
        for one in pulls {
            one.join().expect("join").expect("pull");
        }
    });
    for blob in &parts.blobs {
        assert_eq!(server.count(Digest::of(blob).as_str()), 1, "each layer is fetched once");
    }
    assert_eq!(store.list().expect("list").len(), 1);
    assert_eq!(count(&store.layout().staging()), 0);
}
