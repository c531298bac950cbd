//! `build --platform`: one image for each, and an index.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    build::{Context, sh},
    env::Env,
    fixture::{BUSY, host_architecture},
};

const PLATFORMS: &str = "--platform linux/amd64,linux/arm64";

fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn several_platforms_make_an_index() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM --platform=$BUILDPLATFORM busy AS make\nARG TARGETARCH BUILDARCH\nRUN echo $BUILDARCH-$TARGETARCH > /made\n\
         FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /f\nCOPY --from=make /made /\n",
    )
    .file("amd64", "for amd64\n")
    .file("arm64", "for arm64\n");
    env.run(&format!("build {PLATFORMS} -o out ctx")).exits(0).tells("[linux/arm64 make 2/2] RUN");
    for architecture in ["amd64", "arm64"] {
        let dir = env.path(&format!("out/linux_{architecture}"));
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(read("f"), format!("for {architecture}\n"));
        assert_eq!(read("made"), format!("{}-{architecture}\n", host_architecture()));
    }
    context
        .build(&format!(
            "{PLATFORMS} -o type=oci,dest=l,tar=false --iidfile id --provenance=true --annotation manifest-descriptor[linux/arm64]:a=b"
        ))
        .exits(0);
    let dir = env.path("l");
    let blob = |digest: &Value| {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        json(dir.join("blobs/sha256").join(hex))
    };
    let outer = json(dir.join("index.json"));
    let digest = &outer["manifests"][0]["digest"];
    assert_eq!(fs::read_to_string(env.path("id")).unwrap(), digest.as_str().unwrap());
    let index = blob(digest);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 4, "{index}");
    assert_eq!(index["manifests"][1]["platform"]["architecture"], "arm64");
    assert_eq!(index["manifests"][1]["annotations"]["a"], "b");
    assert!(index["manifests"][0]["annotations"].is_null());
    let config = blob(&blob(&index["manifests"][1]["digest"])["config"]["digest"]);
    assert_eq!(config["architecture"], "arm64");
    // Here the name is the image that runs here, and a list.
    context.build(PLATFORMS).exits(0);
    env.run("images --format '{{.Repository}}' img").prints("img\n");
    let inspected = env.run("image inspect img").ok().json();
    assert_eq!(inspected[0]["Architecture"], host_architecture());
    let list = env.run("manifest inspect img").ok().json();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 2);
    context
        .build(&format!("{PLATFORMS} -o type=docker,dest=d.tar"))
        .fails_with(1, "manifest lists");
    context.build(&format!("{PLATFORMS} -o -")).fails_with(1, "several platforms");
    env.run("manifest rm img").ok();
}

#[test]
fn programs_of_other_platforms_need_an_emulator() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM scratch\nCOPY Dockerfile /x\nRUN [\"/x\"]\n");
    let run = context.build("--platform linux/s390x").exits(1);
    if !Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists() {
        run.tells("Dockerfile:3:1: RUN for linux/s390x")
            .tells("no emulator is registered")
            .tells("--install s390x");
    }
    let context =
        context.file("Dockerfile", "FROM busy AS here\nFROM --platform=linux/bogus busy\n");
    context.build("").fails_with(1, "Dockerfile:2:");
    // What runs here is known as what it is.
    let context = context.file("Dockerfile", "FROM busy\nARG TARGETPLATFORM BUILDPLATFORM\nRUN echo $TARGETPLATFORM $BUILDPLATFORM > /p\n");
    context.build("").exits(0);
    let own = format!("linux/{}", host_architecture());
    assert_eq!(sh(&env, "cat /p"), format!("{own} {own}"));
}
