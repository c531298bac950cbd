//! What registries have about images: `image referrers`; and that artifacts are no images.

use std::process::Command;

use dhow::oci::Digest;
use serde_json::{Value, json};

use crate::{
    depot::{Depot, Manners},
    env::Env,
    fixture::{BUSY, Compression},
    needs::needs,
    registry::Registry,
    server::{Parts, Reply, Server},
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &[u8] = b"{}";

/// An artifact about the manifest, as `oras attach` makes them.
fn artifact(subject: &[u8], kind: &str, note: &str) -> Vec<u8> {
    let empty = json!({
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": Digest::of(EMPTY), "size": EMPTY.len(),
    });
    let text = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
        "config": empty, "layers": [empty], "annotations": { "note": note },
        "subject": { "mediaType": MANIFEST, "digest": Digest::of(subject), "size": subject.len() },
    });
    text.to_string().into_bytes()
}

fn entry(artifact: &[u8]) -> Value {
    let value: Value = serde_json::from_slice(artifact).unwrap();
    json!({
        "mediaType": MANIFEST, "digest": Digest::of(artifact), "size": artifact.len(),
        "artifactType": value["artifactType"], "annotations": value["annotations"],
    })
}

fn index(entries: &[Value]) -> String {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string()
}

/// A registry with the API, one entry a page. It filters nothing.
fn with_api(artifacts: Vec<Vec<u8>>) -> Server {
    Server::of(Parts::of(BUSY), move |request, parts| {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let which = path.rsplit('/').next().unwrap();
        if let Some(found) = artifacts.iter().find(|bytes| Digest::of(bytes).as_str() == which) {
            return Some(Reply::ok(found.clone()).with("Content-Type", MANIFEST));
        }
        if path.contains("/manifests/sha256-") {
            return Some(Reply::status(404));
        }
        if !path.contains("/referrers/") {
            return None;
        }
        assert_eq!(which, Digest::of(&parts.manifest).as_str());
        let page: usize = query.strip_prefix("page=").map_or(0, |page| page.parse().unwrap());
        let reply = Reply::ok(index(&[entry(&artifacts[page])])).with("Content-Type", INDEX);
        Some(match page + 1 < artifacts.len() {
            true => reply.with("Link", format!("<{path}?page={}>; rel=\"next\"", page + 1)),
            false => reply,
        })
    })
}

#[test]
fn what_the_api_lists_is_listed_page_by_page() {
    let parts = Parts::of(BUSY);
    let made = |kind: &str| artifact(&parts.manifest, kind, kind);
    let artifacts = vec![made("example/sbom"), made("example/\u{1b}sig"), made("example/sbom.2")];
    let digests: Vec<Digest> = artifacts.iter().map(|bytes| Digest::of(bytes)).collect();
    let server = with_api(artifacts.clone());
    let env = Env::new();
    let subject = Digest::of(&parts.manifest);
    env.run(&format!("image referrers -q {}", server.image()))
        .prints(&format!("{}\n{}\n{}\n", digests[0], digests[1], digests[2]));
    env.run(&format!("image referrers {}", server.image()))
        .shows("ARTIFACT TYPE     DIGEST")
        .shows("example/\\x1bsig")
        .shows(&format!("{}   {}B      {}\n", digests[0], artifacts[0].len(), subject.short()));
    env.run(&format!("image referrers --artifact-type example/sbom.2 -q {}", server.image()))
        .prints(&format!("{}\n", digests[2]));
    let one = "--artifact-type example/sbom --format json";
    let found = env.run(&format!("image referrers {one} {}", server.image())).json();
    assert_eq!(found["Annotations"]["note"], "example/sbom");

    // None of them is an image.
    let name = format!("{}/app@{}", server.addr, digests[0]);
    for (verb, code) in [("pull", 1), ("run --rm --network none", 125)] {
        env.run(&format!("{verb} {name}"))
            .exits(code)
            .tells("this is an artifact of type example/sbom, not an image");
    }
    assert_eq!(std::fs::read_dir(env.root().join("images")).unwrap().count(), 0);
}

#[test]
fn a_registry_without_the_api_has_tags_for_it() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    needs!(tool("openssl"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let name = registry.push(&env, "app:1", BUSY, Compression::Gzip);
    env.run(&format!("image referrers -q {name}")).prints("");
    env.run(&format!("pull -q {name}")).exits(0);
    let key = env.path("key");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    env.run(&format!("push -q --sign-by {} {name}", key.display())).exits(0);
    env.run(&format!("image referrers --format {{{{.ArtifactType}}}} {name}"))
        .prints("application/vnd.dev.cosign.simplesigning.v1+json\n");

    // The registry checks that an index names what it has: any manifest will do.
    let digest = env.run("images --digests --format {{.Digest}}").text();
    let digest = digest.trim().strip_prefix("sha256:").unwrap().to_owned();
    let manifest = registry.get(&format!("/v2/app/manifests/sha256:{digest}")).unwrap();
    let (_, body) = manifest.split_once("\r\n\r\n").unwrap();
    let mut listed = entry(&artifact(b"x", "example/report", "text"));
    listed["digest"] = json!(Digest::of(body.as_bytes()));
    listed["size"] = json!(body.len());
    registry.put_manifest("app", &format!("sha256-{digest}"), INDEX, &index(&[listed]));
    env.run(&format!("image referrers --format {{{{.ArtifactType}}}} {name}"))
        .prints("example/report\napplication/vnd.dev.cosign.simplesigning.v1+json\n");
}

#[test]
fn an_index_and_the_image_in_it_may_both_have_some() {
    let depot = Depot::start(Manners::default());
    let env = Env::new();
    let parts = Parts::of(BUSY);
    for blob in parts.layers.iter().chain([&parts.config]) {
        depot.put_blob("app", blob);
    }
    depot.put_manifest("app", "one", MANIFEST, &parts.manifest);
    let image = Digest::of(&parts.manifest);
    let attestation = artifact(&parts.manifest, "x", "y");
    let list = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [
            { "mediaType": MANIFEST, "digest": image, "size": parts.manifest.len(),
              "platform": { "os": "linux", "architecture": "s390x" } },
            { "mediaType": MANIFEST, "digest": Digest::of(&attestation), "size": attestation.len(),
              "platform": { "os": "unknown", "architecture": "unknown" },
              "annotations": { "vnd.docker.reference.type": "attestation-manifest",
                               "vnd.docker.reference.digest": image } },
        ],
    });
    let list = list.to_string().into_bytes();
    depot.put_manifest("app", "1", INDEX, &list);
    for (subject, kind) in [(Digest::of(&list), "of/index"), (image, "of/image")] {
        let tag = format!("sha256-{}", subject.hex());
        let about = index(&[entry(&artifact(&list, kind, ""))]);
        depot.put_manifest("app", &tag, INDEX, about.as_bytes());
    }
    let shown = "--format {{.ArtifactType}}";
    env.run(&format!("image referrers {shown} --platform linux/s390x {}", depot.name("app:1")))
        .prints("of/index\nof/image\nattestation-manifest\n");
    env.run(&format!("image referrers {shown} --platform plan9/386 {}", depot.name("app:1")))
        .prints("of/index\n");
}

#[test]
fn lists_that_lie_are_refused() {
    let env = Env::new();
    for (body, link, said) in [
        ("{", "", "the list of referrers"),
        (r#"{"manifests":[{"mediaType":"m","digest":"md5:1","size":1}]}"#, "", "sha256 or sha512"),
        (r#"{"manifests":[]}"#, "<http://127.0.0.1:1/v2/x>; rel=\"next\"", "at another registry"),
        (r#"{"manifests":[]}"#, "</v2/app/referrers/x>; rel=\"next\"", "has no end"),
    ] {
        let server = Server::of(Parts::of(BUSY), move |request, _| {
            let list = request.path.contains("/referrers/");
            let reply = Reply::ok(body).with("Content-Type", INDEX);
            list.then(|| if link.is_empty() { reply } else { reply.with("Link", link) })
        });
        env.run(&format!("image referrers {}", server.image())).fails_with(1, said);
    }
    let depot = Depot::start(Manners::default());
    env.run(&format!("image referrers {}", depot.name("nosuch"))).fails_with(1, "404");
    env.run("image referrers localhost/a").fails_with(1, "not in a registry");
    env.run(&format!("image referrers --platform x/y/z/w {}", depot.name("a"))).exits(1);
}
