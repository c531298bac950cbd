//! Registries and images that are not what one hopes for.

use std::{
    fs,
    io::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use dhow::oci::{Digest, Hasher};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::{
    depot::{Depot, Manners},
    env::Env,
    fixture::{BUSY, Compression, host_architecture},
    server::{Parts, Reply, Request, Server},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image whose manifest was changed.
fn with(change: impl Fn(&mut Value)) -> Server {
    let mut parts = Parts::of(BUSY);
    let mut manifest = serde_json::from_slice(&parts.manifest).unwrap();
    change(&mut manifest);
    parts.manifest = manifest.to_string().into_bytes();
    Server::of(parts, |_, _| None)
}

#[track_caller]
fn nothing_came(env: &Env) {
    for dir in ["images", "refs", "layers", "staging"] {
        assert_eq!(env.stored(dir), Vec::<String>::new(), "{dir} in the store");
    }
}

#[test]
fn what_is_no_image_for_this_machine_is_refused_with_a_word() {
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 7] = [
        (|m| m["schemaVersion"] = json!(1), "schema 1"),
        (
            |m| {
                m["layers"][0]["mediaType"] =
                    json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
            },
            "is a foreign layer",
        ),
        (
            |m| {
                m["layers"][0]["mediaType"] =
                    json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")
            },
            "is a foreign layer",
        ),
        (
            |m| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json"),
            "this is an artifact of type",
        ),
        (|m| m["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json"), "not an image"),
        (|m| m["layers"][0]["digest"] = json!("sha256:../../../etc/passwd"), "read manifest"),
        (|m| m["mediaType"] = json!(INDEX), "is not what it says"),
    ];
    for (change, says) in changes {
        let env = Env::new();
        let server = with(change);
        let run = env.run(&format!("pull {}", server.image())).exits(1).prints("").tells(says);
        assert_eq!(run.stderr.matches("Error: ").count(), 1, "{}", run.stderr);
        assert!(server.heard("/blobs/").len() < 3, "little is fetched of it");
        nothing_came(&env);
    }
}

/// The image, and on top a layer whose tar is that many zeros: a bomb, and an empty layer.
fn with_zeros(amount: usize) -> Parts {
    let mut parts = Parts::of(BUSY);
    let zeros = vec![0; 1 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut hasher = Hasher::default();
    for _ in 0..amount / zeros.len() {
        gzip.write_all(&zeros).unwrap();
        hasher.update(&zeros);
    }
    let bomb = gzip.finish().unwrap();
    let mut config: Value = serde_json::from_slice(&parts.config).unwrap();
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(json!(hasher.finish()));
    parts.config = config.to_string().into_bytes();
    let mut manifest: Value = serde_json::from_slice(&parts.manifest).unwrap();
    manifest["config"]["digest"] = json!(Digest::of(&parts.config));
    manifest["config"]["size"] = json!(parts.config.len());
    let mut layer = manifest["layers"][0].clone();
    (layer["digest"], layer["size"]) = (json!(Digest::of(&bomb)), json!(bomb.len()));
    manifest["layers"].as_array_mut().unwrap().push(layer);
    parts.manifest = manifest.to_string().into_bytes();
    parts.layers.push(bomb);
    parts
}

#[test]
fn what_a_layer_grows_to_takes_no_memory() {
    const BUDGET_KIB: i64 = 64 << 10;
    let env = Env::new();
    let server = Server::of(with_zeros(160 << 20), |_, _| None);
    let image = server.image();
    let archive = env.path("archive").display().to_string();
    for line in [
        format!("pull -q {image}"),
        format!("save --uncompressed -o {archive} {image}"),
        format!("rmi -f {image}"),
        format!("load -i {archive}"),
    ] {
        env.run(&line).exits(0);
        // The largest process among all that were waited for, in KiB: getrusage(2).
        let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
        assert!(peak < BUDGET_KIB, "{line}: {peak} KiB");
    }
    env.run(&format!("run --rm --network none {image} true")).exits(0);
}

#[test]
fn a_token_that_expires_on_the_way_is_replaced() {
    let env = Env::new();
    let addr = Arc::new(OnceLock::<String>::new());
    let own = Arc::clone(&addr);
    let tokens = AtomicUsize::new(0);
    let used = AtomicUsize::new(0);
    let server = Server::of(Parts::of(&format!("{BUSY}\n---\n/b 0644 b")), move |request, _| {
        if request.path.starts_with("/token?") {
            let number = tokens.fetch_add(1, Ordering::SeqCst);
            used.store(0, Ordering::SeqCst);
            return Some(Reply::ok(format!(r#"{{"token":"t{number}","expires_in":1}}"#)));
        }
        let newest = format!("Bearer t{}", tokens.load(Ordering::SeqCst).wrapping_sub(1));
        // Each token is good for two requests.
        let good =
            request.header("authorization") == newest && used.fetch_add(1, Ordering::SeqCst) < 2;
        let challenge =
            format!("Bearer realm=\"http://{}/token\",service=\"s\"", own.get().unwrap());
        (!good).then(|| Reply::status(401).with("WWW-Authenticate", challenge))
    });
    addr.set(server.addr.clone()).unwrap();
    env.run(&format!("pull -q {}", server.image())).exits(0);
    assert!(server.heard("/token?").len() >= 2, "{:?}", server.heard(""));
    env.run(&format!("run --rm --network none {} cat /b", server.image())).prints("b\n");
}

#[test]
fn what_an_earlier_pull_left_is_not_fetched_again() {
    let env = Env::new();
    let size = Parts::of(BUSY).layers[0].len();
    let cut = size / 2;
    let dead = Server::of(Parts::of(BUSY), move |request, parts| {
        let first = request.header("range").is_empty();
        let reply =
            || if first { parts.answer(request).cut_after(cut) } else { Reply::status(503) };
        parts.is_layer(request, 0).then(reply)
    });
    env.run(&format!("pull --retry 0 {}", dead.image())).exits(1);
    // Another registry, the same blob.
    let alive = Server::of(Parts::of(BUSY), |_, _| None);
    env.run(&format!("pull -q {}", alive.image())).exits(0);
    let parts = Parts::of(BUSY);
    let blobs = alive.heard("/blobs/");
    let asked: Vec<&Request> = blobs.iter().filter(|r| parts.is_layer(r, 0)).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("range"), format!("bytes={cut}-"), "only the rest");
}

#[test]
fn an_index_with_variants_gives_the_best_that_runs_here() {
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    let mut entries = Vec::new();
    let variants =
        [("amd64", "v1"), ("amd64", "v9"), ("arm64", "v8"), ("arm", "v7"), ("arm", "v6")];
    for (architecture, variant) in variants {
        let text =
            format!("ARCHITECTURE {architecture}\n{BUSY}\n/for 0644 {architecture}/{variant}");
        let parts = Parts::packed(&text, Compression::Gzip);
        for blob in parts.layers.iter().chain([&parts.config]) {
            depot.put_blob("app", blob);
        }
        depot.put_manifest("app", &format!("{architecture}{variant}"), MANIFEST, &parts.manifest);
        let platform = json!({ "os": "linux", "architecture": architecture, "variant": variant });
        entries.push(json!({
            "mediaType": MANIFEST, "digest": Digest::of(&parts.manifest),
            "size": parts.manifest.len(), "platform": platform,
        }));
    }
    // An attestation, as buildx adds them.
    entries.push(json!({
        "mediaType": MANIFEST, "digest": Digest::of(b"attestation"), "size": 3,
        "platform": { "os": "unknown", "architecture": "unknown" },
    }));
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    depot.put_manifest("app", "1", INDEX, index.to_string().as_bytes());
    let name = depot.name("app:1");
    if ["amd64", "arm64"].contains(&host_architecture()) {
        let best = if host_architecture() == "amd64" { "amd64/v1" } else { "arm64/v8" };
        env.run(&format!("run --rm --network none -q {name} cat /for"))
            .prints(&format!("{best}\n"));
    }
    for (platform, tag) in [("linux/arm/v7", "armv7"), ("linux/arm/v6", "armv6")] {
        env.run(&format!("pull -q --platform {platform} {name}")).exits(0);
        let (_, manifest) = depot.manifest("app", tag);
        let fetched = depot.heard("GET", &format!("/manifests/{}", Digest::of(&manifest)));
        assert_eq!(fetched.len(), 1, "{platform}");
    }
    env.run(&format!("pull --platform linux/s390x {name}"))
        .fails_with(1, "no version for linux/s390x")
        .tells("linux/arm/v7");
}

#[test]
fn a_layer_with_nothing_in_it_is_a_layer() {
    let env = Env::new();
    let server = Server::of(Parts::of(&format!("{BUSY}\n---\n---\n/b 0644 b")), |_, _| None);
    env.run(&format!("pull -q {}", server.image())).exits(0);
    env.run(&format!("run --rm --network none {} cat /b", server.image())).prints("b\n");
    // The same empty layer, pushed and pulled again.
    let depot = Depot::start(Manners::default());
    let to = depot.name("empty:1");
    env.run(&format!("push -q {} {to}", server.image())).exits(0);
    env.run(&format!("pull -q {to}")).exits(0);
}

#[test]
fn a_registry_that_lists_and_lists_is_read_page_by_page() {
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    let parts = Parts::of(BUSY);
    for blob in parts.layers.iter().chain([&parts.config]) {
        depot.put_blob("many", blob);
    }
    for tag in ["a", "b", "c", "d", "e"] {
        depot.put_manifest("many", tag, MANIFEST, &parts.manifest);
    }
    let pulled = env.run(&format!("pull -a -q {}", depot.name("many"))).ok().stdout;
    assert_eq!(pulled.lines().count(), 5, "{pulled}");
    assert_eq!(depot.heard("GET", "/tags/list").len(), 3);
    let endless = Server::start(|_| {
        Reply::ok(r#"{"name":"x","tags":["a"]}"#).with("Link", "</v2/x>; rel=\"next\"")
    });
    // It says the same for ever: that is an end.
    env.run(&format!("pull -a --retry 0 {}/x", endless.addr)).exits(1);
    assert!(endless.heard("/tags/list").len() < 4);
}

#[test]
fn a_redirect_to_plain_http_or_in_circles_is_not_followed_for_ever() {
    let env = Env::new();
    let circle =
        Server::start(|request| Reply::status(307).with("Location", format!("{}x", request.path)));
    env.run(&format!("pull --retry 0 {}/app", circle.addr)).fails_with(1, "redirects");
    let odd = Server::start(|_| Reply::status(302).with("Location", "file:///etc/passwd"));
    env.run(&format!("pull --retry 0 {}/app", odd.addr)).fails_with(1, "is not a web address");
    nothing_came(&env);
}

#[test]
fn what_is_here_already_is_for_no_other_platform() {
    let env = Env::new();
    let server = Server::of(Parts::of(BUSY), |_, _| None);
    let name = server.image();
    let own = format!("pull -q --platform linux/{} {name}", host_architecture());
    for _ in 0..2 {
        env.run(&own).prints(&format!("{name}\n"));
        env.run(&format!("pull --platform linux/s390x {name}"))
            .fails_with(1, "not for linux/s390x");
        env.run(&format!("run --rm --network none --platform linux/s390x {name} true"))
            .fails_with(125, "not for linux/s390x");
    }
    env.run(&format!("run --rm --network none {name} echo hi")).prints("hi\n");
}

/// Documents that are nested deeper than any parser's stack goes.
fn deep_documents() -> [String; 3] {
    let depth = 100_000;
    let list = "[".repeat(depth) + &"]".repeat(depth);
    [
        list.clone(),
        "{\"layers\":".repeat(depth) + "0" + &"}".repeat(depth),
        format!("{{\"schemaVersion\":2,\"unknown\":{list}}}"),
    ]
}

/// An error, and not a stack that ran over.
#[track_caller]
fn refused_orderly(env: &Env, line: &str) {
    let run = env.run(line);
    assert_eq!(run.code, 1, "`{line}`: {}", run.stderr);
    assert!(run.stderr.starts_with("Error: "), "`{line}`: {}", run.stderr);
    drop(run.exits(1));
}

#[test]
fn documents_of_any_depth_are_an_error() {
    let env = Env::new();
    for document in deep_documents() {
        let answers = |kind: &'static str| {
            let document = document.clone();
            Server::start(move |request| match request.path.as_str() {
                "/v2/" => Reply::ok("{}"),
                path if path.starts_with("/v1/") => Reply::status(404),
                _ => Reply::ok(document.clone()).with("Content-Type", kind),
            })
        };
        for kind in [MANIFEST, INDEX] {
            let server = answers(kind);
            for line in ["pull", "manifest inspect", "pull --verify-key k", "image referrers"] {
                env.file("k", "");
                refused_orderly(&env, &format!("{line} {}", server.image()));
            }
            refused_orderly(&env, &format!("pull -a {}/app", server.addr));
            refused_orderly(&env, &format!("search --list-tags {}/app", server.addr));
            refused_orderly(&env, &format!("search {}/app", server.addr));
        }
        // A configuration, as which it has to have the right digest.
        let mut parts = Parts::of(BUSY);
        let mut manifest: Value = serde_json::from_slice(&parts.manifest).unwrap();
        manifest["config"]["digest"] = Digest::of(document.as_bytes()).as_str().into();
        manifest["config"]["size"] = document.len().into();
        parts.config = document.clone().into_bytes();
        parts.manifest = manifest.to_string().into_bytes();
        refused_orderly(&env, &format!("pull {}", Server::of(parts, |_, _| None).image()));
        // A token, and the reasons of a refusal.
        let token = document.clone();
        let tokens = Server::start(move |request| {
            let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host"));
            match request.path.starts_with("/token") {
                true => Reply::ok(token.clone()),
                false => Reply::status(401).with("WWW-Authenticate", realm),
            }
        });
        refused_orderly(&env, &format!("pull {}", tokens.image()));
        let reasons = document.clone();
        let refuses = Server::start(move |_| Reply::status(403).saying(&reasons));
        refused_orderly(&env, &format!("pull {}", refuses.image()));
        // Signatures, and what they are about.
        let depot = Depot::start(Manners::default());
        let name = depot.name("app:1");
        let parts = Parts::of(BUSY);
        depot.put_manifest("app", "1", MANIFEST, &parts.manifest);
        let tag = format!("sha256-{}.sig", Digest::of(&parts.manifest).hex());
        depot.put_manifest("app", &tag, MANIFEST, document.as_bytes());
        let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/keys/sealed.pub");
        refused_orderly(&env, &format!("pull --verify-key {key} {name}"));
        // Files of the user's.
        fs::create_dir_all(env.path(".config/containers")).unwrap();
        fs::create_dir_all(env.path(".docker")).unwrap();
        for file in [".config/containers/policy.json", ".docker/config.json"] {
            env.file(file, &document);
            env.run(&format!("pull {name}")).exits(1);
            fs::remove_file(env.path(file)).unwrap();
        }
        nothing_came(&env);
    }
}

#[test]
fn archives_with_documents_of_any_depth_are_refused() {
    let env = Env::new();
    for document in deep_documents() {
        let tar = |members: &[(&str, &str)]| {
            let mut tar = tar::Builder::new(Vec::new());
            for (name, content) in members {
                let mut header = tar::Header::new_ustar();
                header.set_size(content.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, name, content.as_bytes()).unwrap();
            }
            tar.into_inner().unwrap()
        };
        let digest = Digest::of(document.as_bytes());
        let blob = format!("blobs/sha256/{}", digest.hex());
        let index = json!({ "schemaVersion": 2, "manifests": [
            { "mediaType": MANIFEST, "digest": digest, "size": document.len() } ] });
        let layout = ("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
        for archive in [
            tar(&[("manifest.json", &document)]),
            tar(&[
                ("manifest.json", "[{\"Config\":\"c.json\",\"Layers\":[]}]"),
                ("c.json", &document),
            ]),
            tar(&[layout, ("index.json", &document)]),
            tar(&[
                ("oci-layout", &document),
                ("index.json", &index.to_string()),
                (&blob, &document),
            ]),
            tar(&[layout, ("index.json", &index.to_string()), (&blob, &document)]),
        ] {
            let run = env.run_with_stdin("load", archive);
            assert_eq!(run.code, 1, "{}", run.stderr);
            drop(run.exits(1));
        }
        nothing_came(&env);
    }
}
