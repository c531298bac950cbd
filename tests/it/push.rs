//! `dhow push`: to a real registry, and to one that cuts, refuses and wants small pieces.

use std::{fs, process::Command};

use dhow::oci::Digest;
use serde_json::{Value, json};

use crate::{
    depot::{Depot, Manners},
    env::{Env, Run},
    fixture::{BUSY, Compression, Image},
    needs::needs,
    registry::Registry,
};

/// What `push` says it sent.
fn pushed_digest(run: &Run) -> String {
    let (_, rest) = run.stdout.split_once("digest: ").unwrap();
    rest.split(' ').next().unwrap().to_owned()
}

/// A manifest as the registry has it.
fn manifest(registry: &Registry, repository: &str, tag: &str) -> (String, Value) {
    let answer = registry.get(&format!("/v2/{repository}/manifests/{tag}")).unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    let value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {answer}"));
    (body, value)
}

fn load(env: &Env, name: &str, text: &str) {
    env.image(name, text);
}

/// Content that does not compress, and is the same each time.
fn noise(length: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(next).collect()
}

/// Loads an image with one layer of about `length` bytes as a blob.
fn load_noise(env: &Env, name: &str, length: u64) {
    let path = env.file("noise", noise(length));
    load(env, name, &format!("/noise 0644 @host:{path}"));
}

// ---- to a real registry -------------------------------------------------------------------------

#[test]
fn what_was_pulled_is_pushed_as_the_same_bytes() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    for how in [Compression::Gzip, Compression::Zstd] {
        let text = format!("{BUSY}\n---\n/how 0644 {how:?}");
        let tag = format!("{how:?}");
        let name = registry.push(&env, &format!("from:{tag}"), &text, how);
        env.run(&format!("pull -q {name}")).exits(0);
        let to = registry.name(&format!("to:{tag}"));
        env.run(&format!("push -q {name} {to}")).prints(&format!("{to}\n"));
        assert_eq!(manifest(&registry, "from", &tag).0, manifest(&registry, "to", &tag).0);
    }
}

#[test]
fn the_digest_goes_to_stdout_and_all_the_rest_to_stderr() {
    needs!(tool("docker-registry"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let name = registry.name("some/busy:1");
    load(&env, &name, &format!("{BUSY}\n---\n/b 0644 b"));
    let told = |run: &Run| {
        let mut lines: Vec<_> = env
            .tidy(&run.stderr)
            .replace(&registry.addr, "[REGISTRY]")
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines.dedup();
        lines.join("\n")
    };
    let file = env.path("digest");
    let first = env.run(&format!("push --digestfile {} {name}", file.display())).exits(0);
    assert_eq!(
        told(&first),
        "The push refers to repository [[REGISTRY]/some/busy]\n\
         [ID]: Preparing\n\
         [ID]: Pushed\n\
         [ID]: Pushing"
    );
    let (body, _) = manifest(&registry, "some/busy", "1");
    let digest = Digest::of(body.as_bytes());
    assert_eq!(first.stdout, format!("1: digest: {digest} size: {}\n", body.len()));
    assert_eq!(fs::read_to_string(file).unwrap(), digest.to_string());
    env.run("images --digests --format {{.Digest}}").prints(&format!("{digest}\n"));

    let again = env.run(&format!("push {name}")).exits(0);
    assert_eq!(
        told(&again),
        "The push refers to repository [[REGISTRY]/some/busy]\n\
         [ID]: Layer already exists\n\
         [ID]: Preparing"
    );
    assert_eq!(again.stdout, first.stdout);
    env.run(&format!("rmi {name}")).exits(0);
    env.run(&format!("run --rm --network none -q {name} cat /b")).prints("b\n");
}

#[test]
fn a_blob_of_another_repository_is_mounted() {
    needs!(tool("docker-registry"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let name = registry.name("one:1");
    load(&env, &name, BUSY);
    env.run(&format!("push -q {name}")).exits(0);
    let two = registry.name("team/two:1");
    env.run(&format!("push {name} {two}")).warns(": Mounted from one\n");
    env.run(&format!("pull -q {two}")).exits(0);
}

#[test]
fn layers_are_packed_as_asked() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    load(&env, "busy:1", &format!("{BUSY}\n---\n/b 0644 b"));
    let push = |flags: &str, tag: &str| {
        let to = registry.name(&format!("busy:{tag}"));
        let run = env.run(&format!("push {flags} busy:1 {to}")).exits(0);
        let (body, value) = manifest(&registry, "busy", tag);
        assert_eq!(pushed_digest(&run), Digest::of(body.as_bytes()).to_string());
        // Another's opinion of a correct image.
        let out = Command::new("skopeo")
            .args(["copy", "-q", "--insecure-policy", "--src-tls-verify=false"])
            .args([&format!("docker://{to}"), &format!("dir:{}", env.path(tag).display())])
            .env("HOME", env.path(""))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        value
    };
    let kinds = |value: &Value| {
        let layer = |layer: &Value| layer["mediaType"].as_str().unwrap().to_owned();
        value["layers"].as_array().unwrap().iter().map(layer).collect::<Vec<_>>()
    };
    let oci = "application/vnd.oci.image.layer.v1.tar";
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let plain = push("", "default");
    assert_eq!(kinds(&plain), vec![format!("{oci}+gzip"); 2]);
    let zstd = push("--compression zstd", "zstd");
    assert_eq!(kinds(&zstd), vec![format!("{oci}+zstd"); 2]);
    let small = push("--compression zstd --compression-level 9", "small");
    let size = |value: &Value| value["layers"][0]["size"].as_u64().unwrap();
    assert!(size(&small) < size(&zstd));
    let schema2 = push("--format docker", "docker");
    assert_eq!(schema2["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(kinds(&schema2), [docker, docker]);
    // The same again is the same.
    assert_eq!(push("--compression zstd", "again"), zstd);
    env.run(&format!("run --rm --network none -q {} cat /b", registry.name("busy:zstd")))
        .prints("b\n");
    assert_eq!(env.stored("staging"), Vec::<String>::new());
}

#[test]
fn layers_in_chunks_are_layers_to_everyone() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let text =
        "/bin/ 0755\n/bin/busybox 0755 @host:/bin/busybox\n/bin/cat -> busybox\nENV PATH=/bin";
    load(&env, "busy:1", &format!("{text}\n---\n/etc/ 0755\n/etc/b 0644 b\n/c 0644 c\n/l -> c"));
    let to = |tag: &str| registry.name(&format!("busy:{tag}"));
    let push = |flags: &str, from: &str, tag: &str| {
        env.run(&format!("push -q {flags} {from} {}", to(tag))).exits(0);
        manifest(&registry, "busy", tag).1["layers"].clone()
    };
    let chunked = push("--compression zstd:chunked", "busy:1", "chunked");
    let notes = |layer: &Value, name: &str| {
        let note = &layer["annotations"][format!("io.github.containers.zstd-chunked.{name}")];
        note.as_str().map(str::to_owned)
    };
    for layer in chunked.as_array().unwrap() {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
        // The table of contents is where it is said to be, and what.
        let position = notes(layer, "manifest-position").unwrap();
        let numbers: Vec<usize> = position.split(':').map(|n| n.parse().unwrap()).collect();
        let blob = registry.blob("busy", layer["digest"].as_str().unwrap());
        let packed = &blob[numbers[0]..numbers[0] + numbers[1]];
        assert_eq!(Digest::of(packed).to_string(), notes(layer, "manifest-checksum").unwrap());
        let contents = zstd::decode_all(packed).unwrap();
        assert_eq!((contents.len(), numbers[3]), (numbers[2], 1));
        let contents: Value = serde_json::from_slice(&contents).unwrap();
        assert_eq!(contents["version"], 1);
    }
    // Another's opinion, and dhow's own.
    let out = Command::new("skopeo")
        .args(["copy", "-q", "--insecure-policy", "--src-tls-verify=false", "--dest-decompress"])
        .args([&format!("docker://{}", to("chunked")), &format!("dir:{}", env.path("d").display())])
        .env("HOME", env.path(""))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    env.run(&format!("run --rm --network none -q {} cat /l /etc/b", to("chunked")))
        .prints("c\nb\n");
    // What is in chunks stays so; what is packed otherwise does not say that it is.
    assert_eq!(push("--compression zstd:chunked", &to("chunked"), "again"), chunked);
    for flags in ["--compression zstd --force-compression=false", ""] {
        assert_eq!(push(flags, &to("chunked"), "same"), chunked, "{flags}");
    }
    for flags in ["--compression gzip", "--force-compression"] {
        let gzip = push(flags, &to("chunked"), "gzip");
        assert_eq!(gzip[0].get("annotations"), None, "{flags}: {gzip}");
        assert_eq!(gzip[0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    }
    // Two of one name have no place in the contents: then it is zstd, and no more.
    load(&env, "odd:1", "/a 0644 x\n/a 0644 y");
    let odd = push("--compression zstd:chunked", "odd:1", "odd");
    assert_eq!((odd[0].get("annotations"), odd.as_array().unwrap().len()), (None, 1));
}

#[test]
fn who_is_about_another_is_listed_where_there_is_no_list() {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let env = Env::new();
    let subject = Digest::of(b"what it is about");
    let about = |depot: &Depot, name: &str| {
        let archive = crate::server::Parts::of(&format!("{BUSY}\nLABEL name={name}"));
        for blob in archive.layers.iter().chain([&archive.config]) {
            depot.put_blob("from", blob);
        }
        let mut manifest: Value = serde_json::from_slice(&archive.manifest).unwrap();
        manifest["subject"] = json!({ "mediaType": MANIFEST, "digest": subject, "size": 16 });
        manifest["annotations"] = json!({ "name": name });
        let bytes = manifest.to_string().into_bytes();
        depot.put_manifest("from", name, MANIFEST, &bytes);
        env.run(&format!("pull -q {}", depot.name(&format!("from:{name}")))).exits(0);
        (Digest::of(&bytes), bytes.len())
    };
    let tag = format!("sha256-{}", subject.hex());
    let depot = Depot::start(Manners::default());
    let push = |depot: &Depot, name: &str| {
        let names = ["from", "to"].map(|repository| depot.name(&format!("{repository}:{name}")));
        env.run(&format!("push -q {} {}", names[0], names[1]))
    };
    let (one, size) = about(&depot, "one");
    let (two, _) = about(&depot, "two");
    for name in ["one", "two", "one"] {
        push(&depot, name).exits(0);
    }
    let (kind, bytes) = depot.manifest("to", &tag);
    let index: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((kind.as_str(), &index["mediaType"]), (INDEX, &json!(INDEX)));
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(
        entries[0],
        json!({
            "mediaType": MANIFEST, "digest": one, "size": size, "annotations": { "name": "one" },
            "artifactType": "application/vnd.oci.image.config.v1+json",
        })
    );
    assert_eq!((entries[1]["digest"].as_str(), entries.len()), (Some(two.as_str()), 2));

    // Something else under that tag is left alone, and told.
    let other = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "manifests": [] }).to_string();
    depot.put_manifest("to", &tag, MANIFEST, other.as_bytes());
    push(&depot, "one").fails_with(1, "has something else under that tag");
    // A registry that has the list needs no tag.
    let depot = Depot::start(Manners { lists_referrers: true, ..Manners::default() });
    about(&depot, "one");
    push(&depot, "one").exits(0);
    assert!(depot.log().iter().all(|line| !line.contains("sha256-")), "{:?}", depot.log());
}

#[test]
fn every_tag_goes_and_every_tag_comes() {
    needs!(tool("docker-registry"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let names = ["1", "2", "3"].map(|tag| registry.name(&format!("many:{tag}")));
    for name in &names {
        load(&env, name, &format!("{BUSY}\n/name 0644 {name}"));
    }
    let many = registry.name("many");
    env.run(&format!("push -a {many}")).exits(0).tells("The push refers to repository");
    for name in &names {
        env.run(&format!("rmi {name}")).exits(0);
    }
    let pulled = env.run(&format!("pull -a -q {many}")).ok().stdout;
    assert_eq!(pulled, names.iter().map(|name| format!("{name}\n")).collect::<String>());
    for verb in ["push", "pull"] {
        env.run(&format!("{verb} -a {many}:1"))
            .fails_with(1, "tag can't be used with --all-tags/-a");
    }
}

#[test]
fn who_may_not_is_told_so() {
    needs!(tool("docker-registry"));
    let env = Env::new();
    let registry = Registry::start_closed(&env);
    let name = registry.name("busy:1");
    load(&env, &name, BUSY);
    env.run(&format!("push {name}")).fails_with(1, "401").tells("hint: ");
    env.run(&format!("push --creds user:wrong {name}")).fails_with(1, "401");
    env.run(&format!("push -q --creds user:secret {name}")).prints(&format!("{name}\n"));
    env.run(&format!("pull -q --creds user:secret {name}")).prints(&format!("{name}\n"));
    env.run(&format!("push --authfile {} {name}", env.path("nosuch").display()))
        .fails_with(1, "nosuch does not exist");
}

// ---- what cannot be pushed ----------------------------------------------------------------------

#[test]
fn mistakes_are_named_and_nothing_is_asked() {
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    load(&env, "busy:1", BUSY);
    let to = depot.name("busy:1");
    for (line, says) in [
        (format!("push {to}"), format!("An image does not exist locally with the tag: {to}")),
        ("push localhost/busy".into(), "is not in a registry".into()),
        ("push busy:1 localhost/busy".into(), "is not in a registry".into()),
        ("push Busy".into(), "must be lowercase".into()),
        (format!("push busy:1 oci:{to}"), "push does not write to oci:".into()),
        (format!("push --compression xz busy:1 {to}"), "unknown compression \"xz\"".into()),
        (
            format!("push --compression zstd:chunked --compression-level 21 busy:1 {to}"),
            "zstd has no compression level 21".into(),
        ),
        (
            format!("push --format docker --compression zstd:chunked busy:1 {to}"),
            "no layers of zstd".into(),
        ),
        (
            format!("push --compression gzip --compression-level 10 busy:1 {to}"),
            "gzip has no compression level 10".into(),
        ),
        (format!("push --format v2s1 busy:1 {to}"), "schema 1".into()),
        (format!("push --format tar busy:1 {to}"), "unknown manifest format \"tar\"".into()),
        (
            format!("push --format docker --compression zstd busy:1 {to}"),
            "no layers of zstd".into(),
        ),
        (format!("push --platform linux/s390x busy:1 {to}"), "not for linux/s390x".into()),
        (format!("push --progress loud busy:1 {to}"), "invalid --progress".into()),
        (format!("push -a {to}"), "tag can't be used".into()),
        (format!("push -a {}", depot.name("nosuch")), "does not exist locally".into()),
        (format!("push --retry-delay soon busy:1 {to}"), "--retry-delay".into()),
    ] {
        let run = env.run(&line).fails_with(1, &says);
        assert_eq!(run.stderr.matches("Error: ").count(), 1, "{}", run.stderr);
    }
    assert!(depot.heard("PUT", "").is_empty(), "{:?}", depot.log());
}

// ---- registries with manners of their own -------------------------------------------------------

#[test]
fn an_upload_that_is_cut_off_goes_on_where_it_was() {
    let env = Env::new();
    let manners = Manners { cut_after: Some(300_000), ..Manners::default() };
    let depot = Depot::start(manners);
    let to = depot.name("noise:1");
    load_noise(&env, &to, 1_000_000);
    env.run(&format!("push -q {to}")).prints(&format!("{to}\n"));
    let sent = depot.heard("PATCH", "");
    assert_eq!(sent.len(), 2, "{:?}", depot.log());
    assert_eq!(sent[0].header("content-range"), "", "the first try is all of it");
    let whole: usize = sent[0].header("content-length").parse().unwrap();
    assert_eq!(sent[1].header("content-range"), format!("300000-{}", whole - 1));
    assert_eq!(sent[1].body.len(), whole - 300_000, "only what is missing is sent again");
    env.run(&format!("rmi {to}")).exits(0);
    env.run(&format!("pull -q {to}")).prints(&format!("{to}\n"));
}

#[test]
fn a_registry_that_takes_little_at_once_gets_pieces() {
    for (chunk_min, first) in [(None, 0), (Some(700_000), 700_000)] {
        let env = Env::new();
        let manners = Manners { at_most: Some(900_000), chunk_min, ..Manners::default() };
        let depot = Depot::start(manners);
        let to = depot.name("noise:1");
        load_noise(&env, &to, 1_000_000);
        env.run(&format!("push -q {to}")).prints(&format!("{to}\n"));
        let sent = depot.heard("PATCH", "");
        let whole: usize = sent[0].header("content-length").parse().unwrap();
        assert!(whole > 900_000, "the first try is all of it");
        let piece = if first > 0 { first } else { whole / 2 };
        assert_eq!(sent[1].header("content-range"), format!("0-{}", piece - 1));
        let bytes: usize = sent[1..].iter().map(|request| request.body.len()).sum();
        assert_eq!(bytes, whole);
    }
    // One that takes next to nothing is told about.
    let env = Env::new();
    let depot = Depot::start(Manners { at_most: Some(100_000), ..Manners::default() });
    load_noise(&env, &depot.name("noise:1"), 1_000_000);
    env.run(&format!("push {}", depot.name("noise:1")))
        .exits(1)
        .tells("bytes at once")
        .tells("limits the size of requests");
}

#[test]
fn one_token_for_all_that_a_push_needs() {
    let env = Env::new();
    let challenge =
        "Bearer realm=\"http://HOST/token\",service=\"s\",scope=\"repository:busy:pull\"";
    let wants = Some(("Bearer t0ken".to_owned(), challenge.to_owned()));
    let depot = Depot::start(Manners { wants, ..Manners::default() });
    let to = depot.name("busy:1");
    load(&env, &to, &format!("{BUSY}\n---\n/b 0644 b"));
    env.run(&format!("push -q {to}")).prints(&format!("{to}\n"));
    let asked = depot.heard("GET", "/token");
    assert_eq!(asked.len(), 1, "{:?}", depot.log());
    assert!(
        asked[0].path.ends_with("?service=s&scope=repository%3Abusy%3Apull%2Cpush"),
        "{asked:?}"
    );
}

#[test]
fn credentials_do_not_follow_an_upload_elsewhere() {
    let env = Env::new();
    let elsewhere = Depot::start(Manners::default());
    // "user:secret".
    let wants = Some(("Basic dXNlcjpzZWNyZXQ=".to_owned(), "Basic realm=\"r\"".to_owned()));
    let depot = Depot::start(Manners {
        wants,
        uploads_at: Some(format!("http://{}", elsewhere.addr)),
        ..Manners::default()
    });
    let to = depot.name("busy:1");
    load(&env, &to, BUSY);
    // It has no such session: that is not the point.
    env.run(&format!("push --retry 0 --creds user:secret {to}")).exits(1);
    let asked: Vec<_> =
        ["PATCH", "PUT", "GET"].iter().flat_map(|method| elsewhere.heard(method, "")).collect();
    assert!(asked.iter().all(|request| request.header("authorization").is_empty()), "{asked:?}");
    assert!(depot.heard("POST", "").iter().any(|r| !r.header("authorization").is_empty()));
}

#[test]
fn an_image_whose_blob_came_in_another_packing_is_pushed_all_the_same() {
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    let image = Image::parse(BUSY);
    for (tag, how) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
        let archive = env.file(tag, image.oci_archive(&depot.name(&format!("busy:{tag}")), how));
        let out = env.run(&format!("load -q -i {archive}")).exits(0);
        drop(out);
    }
    env.run(&format!("push -q {}", depot.name("busy:gzip"))).exits(0);
    env.run(&format!("push -q {}", depot.name("busy:zstd"))).exits(0);
    for tag in ["gzip", "zstd"] {
        let (_, bytes) = depot.manifest("busy", tag);
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        assert_ne!(manifest["layers"], json!([]));
        env.run(&format!("pull -q {}", depot.name(&format!("busy:{tag}")))).exits(0);
    }
}

#[test]
fn progress_is_json_where_asked() {
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    let to = depot.name("noise:1");
    load_noise(&env, &to, 1_000_000);
    let lines = |run: Run| -> Vec<Value> {
        run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let pushed = lines(env.run(&format!("push --progress json {to}")).exits(0));
    assert!(pushed.iter().any(|line| line["status"] == "Pushed"), "{pushed:?}");
    let bytes = pushed
        .iter()
        .find(|line| line["status"] == "Pushing" && line["progressDetail"].is_object());
    assert!(bytes.unwrap()["progressDetail"]["total"].as_u64().unwrap() > 900_000);
    env.run(&format!("rmi {to}")).exits(0);
    let pulled = lines(env.run(&format!("pull --progress json {to}")).exits(0));
    assert!(pulled.iter().any(|line| line["status"] == "Pull complete"), "{pulled:?}");
}
