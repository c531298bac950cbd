//! `build --cache-from` and `--cache-to`: what one machine has built, another need not.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    build::{Context, sh},
    depot::{Depot, Manners},
    env::Env,
    fixture::BUSY,
    needs::needs,
    registry::Registry,
};

/// Nothing that is made twice is the same.
const TEXT: &str = "FROM busy AS made\n\
    RUN mkdir -p /o/d && cat /proc/sys/kernel/random/uuid > /o/d/one\n\
    FROM busy\n\
    COPY --from=made /o /\n\
    WORKDIR /w\n\
    COPY f .\n\
    RUN cat /proc/sys/kernel/random/uuid > two && chmod 750 /w\n\
    ENV A=b\n";

/// Another machine, with its own store and its own clone of the context.
fn machine() -> Env {
    let env = Env::with("busy", BUSY);
    Context::new(&env, TEXT).file("f", "same\n");
    env
}

fn built(env: &Env) -> String {
    sh(env, "cat /d/one two f; stat -c %a,%u /w /d/one")
}

fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob(dir: &Path, digest: &Value) -> std::path::PathBuf {
    dir.join("blobs/sha256").join(digest.as_str().unwrap().strip_prefix("sha256:").unwrap())
}

#[track_caller]
fn is_tidy(env: &Env) {
    env.run("system check").exits(0).shows("The store is whole");
}

#[test]
fn a_directory_carries_steps_to_another_machine() {
    let (here, there) = (machine(), machine());
    let cache = here.path("cache");
    let place = cache.display().to_string();
    // Clones of a repository have files of other times.
    let id = |env: &Env, flags: &str| {
        let line = format!("build -t img -q --build-arg SOURCE_DATE_EPOCH=1000000000 {flags} ctx");
        env.run(&line).exits(0).text()
    };
    let first = id(&here, &format!("--cache-to type=local,dest={place},mode=max"));
    is_tidy(&here);
    // What is inside is an image layout: five steps made a layer.
    let manifest = json(blob(&cache, &json(cache.join("index.json"))["manifests"][0]["digest"]));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 5, "{manifest}");
    let from =
        format!("--build-arg SOURCE_DATE_EPOCH=1000000000 --cache-from type=local,src={place}");
    there.run(&format!("build -t img --progress plain {from} ctx")).exits(0).tells("CACHED");
    assert_eq!(built(&there), built(&here));
    assert_eq!(id(&there, ""), first);
    is_tidy(&there);
    // The layers are kept as they came: what is built on them can leave again.
    there.run("save -o img.tar img").ok();
    there.run("rmi img").ok();
    there.run("load -q -i img.tar").exits(0);
    assert_eq!(built(&there), built(&here));
    // An older cache of the same tag goes, of another one stays.
    let files = || fs::read_dir(cache.join("blobs/sha256")).unwrap().count();
    let before = files();
    id(&here, &format!("--no-cache --cache-to type=local,dest={place},mode=max"));
    assert_eq!(files(), before);
    id(&here, &format!("--cache-to type=local,dest={place},tag=other,compression=gzip"));
    let index = json(cache.join("index.json"));
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    let least = json(blob(&cache, &index["manifests"][1]["digest"]));
    assert_eq!(least["layers"].as_array().unwrap().len(), 4, "the image's own alone: {least}");
    is_tidy(&here);
}

#[test]
fn caches_that_the_policy_refuses_give_nothing() {
    let env = machine();
    let depot = Depot::start(Manners::default());
    let (name, dir) = (depot.name("team/cache"), env.path("cache"));
    let places = [name.clone(), format!("type=local,src={}", dir.display())];
    let to = format!(
        "--cache-to type=registry,ref={name},mode=max --cache-to type=local,dest={},mode=max",
        dir.display()
    );
    let build = "build --build-arg SOURCE_DATE_EPOCH=1000000000 --progress plain";
    env.run(&format!("{build} {to} ctx")).exits(0);
    for (allowed, outcome) in [("/nowhere", "is refused"), ("", "CACHED")] {
        let accept = serde_json::json!({ allowed: [{ "type": "insecureAcceptAnything" }] });
        let policy = serde_json::json!({
            "default": [{ "type": "reject" }], "transports": { "docker": accept, "oci": accept },
        });
        for place in &places {
            let there = machine();
            fs::create_dir_all(there.path(".config/containers")).unwrap();
            there.file(".config/containers/policy.json", policy.to_string());
            let run = there.run(&format!("{build} --cache-from {place} ctx"));
            assert_eq!(run.stderr.contains("CACHED"), outcome == "CACHED", "{}", run.stderr);
            drop(run.exits(0).tells(match outcome {
                "CACHED" => "CACHED",
                _ if place == &name => "is refused by",
                _ => "images from oci: are refused by",
            }));
        }
    }
}

#[test]
fn a_registry_carries_steps_to_another_machine() {
    needs!(tool("docker-registry"));
    let (here, there, third) = (machine(), machine(), machine());
    let registry = Registry::start(&here);
    let (cache, image) = (registry.name("cache:steps"), registry.name("app:1"));
    // Clones of a repository have files of other times.
    let id = |env: &Env, flags: &str| {
        let line = format!("build -t img -q --build-arg SOURCE_DATE_EPOCH=1000000000 {flags} ctx");
        env.run(&line).exits(0).text()
    };
    let first = id(&here, &format!("--cache-to type=registry,ref={cache},mode=max"));
    assert_eq!(id(&there, &format!("--cache-from {cache}")), first);
    assert_eq!(built(&there), built(&here));
    is_tidy(&there);
    // With the image: its own steps alone, so that the other stage is run; it makes another layer,
    // and what is copied of it is another layer, too.
    here.run(&format!("build -t {image} --push --cache-to type=inline ctx")).exits(0);
    let text = "FROM busy\nWORKDIR /w\nCOPY f .\nRUN cat /proc/sys/kernel/random/uuid > two\n";
    for env in [&here, &third] {
        fs::write(env.path("ctx/Dockerfile"), text).unwrap();
    }
    here.run(&format!("build -t {image} --push --cache-to type=inline ctx")).exits(0);
    here.run(&format!("tag {image} img")).ok();
    third.run(&format!("build -t img --cache-from type=registry,ref={image} ctx")).exits(0);
    assert_eq!(sh(&third, "cat /w/two"), sh(&here, "cat /w/two"));
    is_tidy(&third);
    // What is built on such an image does not say that it has made its layers.
    fs::write(third.path("ctx/Dockerfile"), format!("FROM {image}\nENV A=b\n")).unwrap();
    third.run("build -t next ctx").exits(0);
    third.run("save -o next.tar next").ok();
    let next = fs::read(third.path("next.tar")).unwrap();
    let inline = b"dhow.buildcache";
    assert!(!next.windows(inline.len()).any(|part| part == inline));
}

#[test]
fn caches_that_cannot_be_had_are_told_of() {
    let env = machine();
    let place = env.path("cache").display().to_string();
    let from = format!("--cache-from type=local,src={place}");
    let build = |flags: &str| env.run(&format!("build -t img {flags} ctx"));
    build(&from).exits(0).tells("import the build cache from");
    build(&format!("--cache-to type=local,dest={place},mode=max")).exits(0);
    // Blobs that are not what they should be are not believed; neither is a list.
    let index = json(env.path("cache/index.json"));
    let manifest = json(blob(&env.path("cache"), &index["manifests"][0]["digest"]));
    let layer = blob(&env.path("cache"), &manifest["layers"][0]["digest"]);
    let other = machine();
    fs::write(&layer, "something else").unwrap();
    let told = other.run(&format!("build -t img {from} ctx")).exits(0);
    told.tells("from the build cache");
    is_tidy(&other);
    fs::write(blob(&env.path("cache"), &manifest["config"]["digest"]), "{}").unwrap();
    build(&from).exits(0).tells("has other content");
    env.file("cache/index.json", "{}");
    build(&from).exits(0).tells("there is no tag latest");
    for (flags, said) in [
        ("--cache-to type=gha", "not in this version"),
        ("--cache-from type=nope,src=x", "unknown cache importer"),
        ("--cache-to type=local", "needs dest="),
        ("--cache-to type=registry,ref=localhost/x", "not in a registry"),
        ("--cache-to type=local,dest=/proc/nowhere", "export the build cache to /proc/nowhere"),
    ] {
        build(flags).fails_with(1, said);
    }
    build("--cache-to type=local,dest=/proc/nowhere,ignore-error=true")
        .exits(0)
        .tells("export the build cache");
    is_tidy(&env);
}
