//! `dhow manifest`: lists made here and pushed.

use dhow::oci::Digest;
use serde_json::Value;

use crate::{
    depot::{Depot, Manners},
    env::Env,
    fixture::{BUSY, Compression, Image, host_architecture},
    needs::needs,
    registry::Registry,
    server::Parts,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn text(architecture: &str) -> String {
    format!("ARCHITECTURE {architecture}\n{BUSY}\n/for 0644 {architecture}")
}

/// Loads an image for that machine.
fn load(env: &Env, name: &str, architecture: &str) {
    let archive = Image::parse(&text(architecture)).oci_archive(name, Compression::Gzip);
    env.run_with_stdin("load -q", archive).exits(0);
}

#[test]
fn a_list_of_images_that_are_here_serves_every_machine() {
    needs!(tool("docker-registry"));
    let env = Env::new();
    let registry = Registry::start(&env);
    load(&env, "one:1", host_architecture());
    load(&env, "two:1", "s390x");
    let list = registry.name("many:1");
    env.run(&format!("manifest create {list} one:1"))
        .prints(&format!("Created manifest list {list}\n"));
    env.run(&format!("manifest create {list} two:1"))
        .fails_with(1, "refusing to amend an existing manifest list with no --amend flag");
    env.run(&format!("manifest create --amend --annotation made=here {list} two:1")).exits(0);
    env.run(&format!("manifest annotate --variant v9 --annotation a=b {list} two:1")).ok();
    let shown = env.run(&format!("manifest inspect {list}")).json();
    assert_eq!(shown["manifests"][0]["platform"]["architecture"], host_architecture());
    assert_eq!(shown["manifests"][1]["platform"]["variant"], "v9");
    assert_eq!(shown["manifests"][1]["annotations"]["a"], "b");
    assert_eq!(shown["annotations"]["made"], "here");

    let told = env.run(&format!("manifest inspect -v {list}")).json();
    assert_eq!(told[1]["Descriptor"]["platform"]["variant"], "v9");

    let file = env.path("digest");
    let pushed =
        env.run(&format!("manifest push -q -p --digestfile {} {list}", file.display())).text();
    assert_eq!(std::fs::read_to_string(file).unwrap(), pushed);
    env.run(&format!("manifest exists {list}")).exits(1);
    env.run("rmi one:1 two:1").exits(0);
    assert_eq!(env.run(&format!("manifest inspect {list}")).json(), shown, "from the registry now");
    let members = env.run(&format!("manifest inspect -v {list}")).json();
    assert_eq!(members, told, "from the registry now");
    let name = members[0]["Ref"].as_str().unwrap();
    let text = env.run(&format!("manifest inspect -v {name}")).text();
    assert!(text.starts_with("{\n\t\"Ref\": \""), "{text}");
    let one: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(one["Descriptor"]["digest"], shown["manifests"][0]["digest"]);
    let manifest = &one["OCIManifest"];
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    assert_eq!(*manifest, members[0]["OCIManifest"]);
    // As it was sent, in the order of its keys.
    let plain = env.run(&format!("manifest inspect {name}")).text();
    let squeezed: String = plain.split_whitespace().collect();
    let raw = one["Raw"].as_str().unwrap();
    let raw = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, raw).unwrap();
    assert_eq!(squeezed.as_bytes(), raw);
    env.run(&format!("run --rm --network none -q {list} cat /for"))
        .prints(&format!("{}\n", host_architecture()));
    env.run("images --digests --format {{.Digest}}").prints(&format!("{pushed}\n"));
}

#[test]
fn images_of_registries_are_copied_or_mounted() {
    let env = Env::new();
    let (from, to) = (Depot::start(Manners::default()), Depot::start(Manners::default()));
    for architecture in ["amd64", "arm64"] {
        let parts = Parts::packed(&text(architecture), Compression::Gzip);
        for depot in [&from, &to] {
            for blob in parts.layers.iter().chain([&parts.config]) {
                depot.put_blob("parts", blob);
            }
            depot.put_manifest("parts", architecture, MANIFEST, &parts.manifest);
        }
    }
    let list = to.name("list:1");
    // One of another registry, one of another repository of the same.
    env.run(&format!(
        "manifest create {list} {} {}",
        from.name("parts:amd64"),
        to.name("parts:arm64")
    ))
    .exits(0);
    env.run(&format!("manifest push -q {list}")).exits(0);
    let mounted = to.heard("POST", "?mount=");
    assert!(!mounted.is_empty(), "{:?}", to.log());
    let (kind, bytes) = to.manifest("list", "1");
    assert_eq!(kind, "application/vnd.oci.image.index.v1+json");
    let index: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "amd64");
    for architecture in ["amd64", "arm64"] {
        env.run(&format!("pull -q --platform linux/{architecture} {list}")).exits(0);
    }
    // All of a list at once; an image alone of it by its digest.
    env.run(&format!("manifest create --all again {list}")).exits(0);
    assert_eq!(env.run("manifest inspect again").json()["manifests"], index["manifests"]);
    let first = index["manifests"][0]["digest"].as_str().unwrap();
    env.run(&format!("manifest remove again {first}")).exits(0);
    let left = env.run("manifest inspect again").json();
    assert_eq!(left["manifests"].as_array().unwrap().len(), 1);
    let digest = env.run(&format!("manifest add again {}@{first}", to.name("list"))).text();
    assert_ne!(digest, Digest::of(&bytes).to_string(), "in another order");
    env.run("manifest rm again").prints("Removed: docker.io/library/again:latest\n");
}

#[test]
fn what_images_of_a_list_share_is_sent_once_and_the_rest_side_by_side() {
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    for architecture in ["amd64", "arm64", "s390x", "ppc64le", "riscv64", "386"] {
        load(&env, &format!("{architecture}:1"), architecture);
    }
    let list = depot.name("many:1");
    env.run(&format!("manifest create {list} amd64:1 arm64:1 s390x:1 ppc64le:1 riscv64:1 386:1"))
        .exits(0);
    env.run(&format!("manifest push -q {list}")).exits(0);
    let blobs: Vec<_> = depot.heard("PUT", "/blobs/uploads/").into_iter().map(|r| r.path).collect();
    let digest = |path: &String| path.split("digest=").nth(1).map(str::to_owned);
    let distinct: std::collections::BTreeSet<_> = blobs.iter().map(digest).collect();
    assert_eq!(distinct.len(), blobs.len(), "no blob twice: {blobs:?}");
    let log = depot.log();
    let last = |part: &str| log.iter().rposition(|line| line.contains(part)).unwrap();
    let first = log.iter().position(|line| line.starts_with("PUT /v2/many/manifests/")).unwrap();
    assert!(last("/blobs/uploads/") < first, "no manifest before its blobs: {log:?}");
    assert!(log.last().unwrap().ends_with("manifests/1"), "the list comes last: {log:?}");
    env.run(&format!("manifest push -q {list}")).exits(0);
    assert_eq!(depot.heard("PUT", "/blobs/uploads/").len(), blobs.len(), "all of it is there");
}

#[test]
fn mistakes_are_named() {
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    env.image("busy:1", BUSY);
    env.run("manifest create one busy:1").exits(0);
    for (line, says) in [
        ("manifest inspect localhost:1/nosuch", "cannot reach"),
        ("manifest annotate nosuch busy:1", "No such manifest: nosuch:latest"),
        ("manifest annotate one nosuch:1", "nosuch:1 is not in one:latest"),
        ("manifest annotate --annotation x one busy:1", "it should be KEY=VALUE"),
        ("manifest add nosuch busy:1", "No such manifest"),
        ("manifest push one localhost/x", "is not in a registry"),
        ("manifest push nosuch localhost:1/x", "No such manifest"),
        ("manifest rm nosuch", "No such manifest"),
        ("manifest create A", "must be lowercase"),
    ] {
        env.run(line).fails_with(1, says);
    }
    env.run("manifest rm -i nosuch").ok();
    // What cannot be added leaves no list behind.
    env.run(&format!("manifest create two {}", depot.name("nosuch"))).fails_with(1, "404");
    env.run("manifest exists two").exits(1);
    env.run("manifest exists one").ok();
}
