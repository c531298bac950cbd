//! Flags of `build` that podman alone has.

use std::fs;

use serde_json::Value;

use crate::{
    build::{Context, sh},
    env::Env,
    fixture::BUSY,
};

fn document(env: &Env) -> Value {
    env.run("image inspect img").ok().json()[0].clone()
}

fn config(env: &Env) -> Value {
    document(env)["Config"].clone()
}

#[test]
fn what_the_image_says_is_changed_at_the_end() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy AS base\nLABEL of=base a=1\nENV KEPT=1 GONE=1\nFROM base\nLABEL b=2\nRUN echo ${NEW:-none} > /new\n",
    );
    context
        .build("--env NEW=to:$KEPT --env PATH=/first:${PATH} --env NOT_SET_HERE --unsetenv GONE --unsetlabel a --unsetlabel never")
        .exits(0);
    let config = config(&env);
    let variables: Vec<&str> =
        config["Env"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert!(variables.contains(&"NEW=to:1") && variables.contains(&"KEPT=1"), "{variables:?}");
    assert!(variables.iter().any(|text| text.starts_with("PATH=/first:/usr/local/sbin")));
    assert!(!variables.iter().any(|text| text.starts_with("GONE") || text.contains("NOT_SET")));
    assert_eq!(config["Labels"], serde_json::json!({ "of": "base", "b": "2" }));
    // The steps have none of it.
    assert_eq!(sh(&env, "cat /new"), "none");
    context.build("--inherit-labels=false").exits(0);
    assert_eq!(document(&env)["Config"]["Labels"], serde_json::json!({ "b": "2" }));
    context.build("--inherit-labels --omit-history --os-version 10.1 --os-feature win32k").exits(0);
    assert!(!env.run("history --no-trunc img").ok().text().contains("LABEL"));
    context.build("--env =x").fails_with(1, "invalid environment variable");
}

#[test]
fn manifests_are_of_the_kind_and_with_the_annotations_that_are_wanted() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nLABEL a=b\n");
    let manifest = |name: &str| {
        env.run(&format!("save --format oci-dir -o {name} img")).ok();
        let read = |path: &str| -> Value {
            serde_json::from_slice(&fs::read(env.path(name).join(path)).unwrap()).unwrap()
        };
        let digest = read("index.json")["manifests"][0]["digest"].as_str().unwrap().to_owned();
        read(&format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap()))
    };
    context.build("--format docker").exits(0);
    let docker = manifest("zero");
    assert_eq!(docker["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    let layer = docker["layers"][0]["mediaType"].as_str().unwrap();
    assert!(layer.starts_with("application/vnd.docker.image.rootfs.diff.tar"), "{layer}");
    context.build("--format oci --created-annotation --timestamp 1700000000").exits(0);
    let notes = manifest("one")["annotations"].clone();
    assert_eq!(notes["org.opencontainers.image.created"], "2023-11-14T22:13:20Z");
    assert!(document(&env)["Created"].as_str().unwrap().starts_with("2023-11-14T22:13:20"));
    // What the base's manifest says is not the image's, unless one asks.
    env.run("tag img noted").ok();
    let context = context.file("Dockerfile", "FROM noted\nLABEL c=d\n");
    context.build("").exits(0);
    assert!(manifest("two")["annotations"].is_null());
    context.build("--inherit-annotations").exits(0);
    assert!(manifest("three")["annotations"]["org.opencontainers.image.created"].is_string());
    let key = "org.opencontainers.image.created";
    context.build(&format!("--inherit-annotations --unsetannotation {key}")).exits(0);
    assert!(manifest("four")["annotations"].is_null());
    context.build("--format bogus").fails_with(1, "unrecognized image type \"bogus\"");
}

#[test]
fn times_are_no_later_than_said() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\nARG SOURCE_DATE_EPOCH\nRUN echo ${SOURCE_DATE_EPOCH:-none} > /f\n",
    );
    context.build("--source-date-epoch 1000000000 --rewrite-timestamp").exits(0);
    assert_eq!(sh(&env, "cat /f; stat -c %Y /f"), "1000000000\n1000000000");
    assert!(document(&env)["Created"].as_str().unwrap().starts_with("2001-09-09T01:46:40"));
    context.build("--source-date-epoch 1 --timestamp 2").exits(125).tells("--timestamp");
    context.build("--rewrite-timestamp=false").fails_with(1, "no time in a layer is later");
}

#[test]
fn steps_have_the_surroundings_that_are_asked_for() {
    let env = Env::with("busy", BUSY);
    fs::create_dir(env.path("shown")).unwrap();
    env.file("shown/a", "of the host\n");
    let shown = env.path("shown").display().to_string();
    let context = Context::new(
        &env,
        "FROM busy\nRUN cat /shown/a && touch /shown/b && grep Cap /proc/self/status && id -G && { test -e /etc/hosts || echo no hosts; }\n\
         RUN head -c 3 /dev/given | wc -c\n",
    );
    let run = context
        .build(&format!("-v {shown}:/shown --cap-drop all --cap-add chown --group-add 2000 --no-hosts --no-hostname --device /dev/zero:/dev/given"))
        .exits(0);
    let run = run.tells("of the host").tells("CapEff:\\t0000000000000001").tells("no hosts");
    drop(run.tells(" 2000\n").tells(" 3\n"));
    assert!(env.path("shown/b").exists());
    // Where it was shown there is nothing in the image.
    assert_eq!(sh(&env, "ls -d /shown 2>/dev/null; echo end"), "end");
    // They are part of what a step is made of.
    context.build("").fails_with(1, "did not complete successfully");
    for (flags, said) in [
        ("-v name:/shown", "only a directory or file of this host"),
        ("-v /nonexistent-xyz", "only a directory or file of this host"),
        ("--no-hosts --add-host a:1.2.3.4", "--no-hosts and --add-host"),
        ("--device nowhere", "not an absolute path"),
        ("--userns keep-id", "with the ids that containers usually have"),
        ("--pid container:x", "joins no container's namespace"),
        ("--ipc bogus", "invalid IPC mode"),
        ("--cap-add bogus", "bogus"),
    ] {
        context.build(flags).fails_with(1, said);
    }
    env.run("ps -aq").prints("");
}

#[test]
fn namespaces_may_be_the_hosts() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\nRUN for one in ipc uts cgroup; do readlink /proc/self/ns/$one; done; hostname\n",
    );
    let own =
        |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let run = context.build("--ipc host --uts host --cgroupns host --userns host").exits(0);
    let run = run.tells(&own("ipc")).tells(&own("uts")).tells(&own("cgroup"));
    drop(run);
    let run = context.build("--ipc container --uts private --cgroupns private --pid private");
    let run = run.exits(0);
    assert!(!run.stderr.contains(&own("ipc")) && !run.stderr.contains(&own("uts")));
}

#[test]
fn arguments_bases_and_what_is_left_out_come_from_files_and_flags() {
    let env = Env::with("busy", BUSY);
    env.image("other", &format!("{BUSY}\n/other 0644 other"));
    env.file("args", "# values\n\nA=from the file\n B=two=2 \n");
    let context = Context::new(
        &env,
        "FROM busy AS first\nFROM first\nARG A B\nRUN echo $A $B > /args; ls /other || true\nCOPY . /ctx\n",
    )
    .file("left-out", "x")
    .file("kept", "y")
    .file(".dockerignore", "kept\n");
    env.file("ignore", "left-out\nDockerfile\n.dockerignore\n");
    context
        .build("--build-arg-file args --build-arg A=typed --from other --ignorefile ignore")
        .exits(0);
    assert_eq!(sh(&env, "cat /args /other; ls -A /ctx"), "typed two=2\nother\nkept");
    context.build("--build-arg-file none").fails_with(1, "--build-arg-file");
    context.build("--ignorefile none").fails_with(1, "none");
    env.file("args", "nothing\n");
    context.build("--build-arg-file args").fails_with(1, "\"nothing\" is not NAME=VALUE");
    let context = context.file("Dockerfile", "FROM busy\nRUN echo proxy=$http_proxy\n");
    let build = |flags: &str| {
        let line = format!("build --no-cache {flags} ctx");
        let mut command = env.command(&line);
        command.env("http_proxy", "http://proxy.test:3128");
        env.run_command(&line, command, Vec::new()).exits(0)
    };
    drop(context);
    drop(build("--http-proxy").tells("proxy=http://proxy.test:3128"));
    assert!(!build("--http-proxy=false").stderr.contains("proxy.test:3128"));
}

#[test]
fn what_was_made_before_is_used_as_far_as_one_wants() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy AS unused\nRUN echo unused > /u\nFROM busy\nRUN echo one > /one\nRUN echo two > /two\n",
    );
    context.build("--jobs 1").exits(0);
    drop(context.build("--cache-ttl 24h --jobs 0").exits(0).tells("CACHED"));
    let run = context.build("--cache-ttl 0s").exits(0);
    assert!(!run.stderr.contains("CACHED"), "{}", run.stderr);
    drop(context.build("--skip-unused-stages=false").exits(0).tells("RUN echo unused"));
    let run = context.build("--skip-unused-stages").exits(0);
    assert!(!run.stderr.contains("RUN echo unused"), "{}", run.stderr);
    context.build("--layers=false").exits(0);
    let layers = document(&env)["RootFS"]["Layers"].as_array().unwrap().len();
    assert_eq!(layers, 2);
    context.build("--layers").exits(0);
    assert_eq!(document(&env)["RootFS"]["Layers"].as_array().unwrap().len(), 3);
    context.build("--cache-ttl soon").fails_with(1, "--cache-ttl");
    context.build("--jobs many").exits(125).tells("--jobs");
}

#[test]
fn what_is_done_is_told_in_a_file() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nRUN echo into the file\n");
    env.run("build -t img --logfile log ctx").ok().prints("");
    let log = fs::read_to_string(env.path("log")).unwrap();
    assert!(
        log.contains("into the file") && log.contains("naming to docker.io/library/img"),
        "{log}"
    );
    let context = context.file("Dockerfile", "FROM busy\nRUN echo last words; exit 3\n");
    context
        .build("--logfile log --disable-compression --identity-label=false")
        .fails_with(1, "exit code: 3");
    assert!(fs::read_to_string(env.path("log")).unwrap().contains("last words"));
    context.build("--logfile none/log").fails_with(1, "--logfile");
    context.build("--disable-compression=false").fails_with(1, "compressed when they leave");
    context.build("--identity-label").fails_with(1, "no label says");
    context.build("--disable-content-trust=false").fails_with(1, "no content trust");
}

#[test]
fn images_are_for_the_platforms_of_their_bases() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM scratch\nCOPY a /\n").file("a", "a");
    context.build("--arch s390x").exits(0);
    assert_eq!(document(&env)["Architecture"], "s390x");
    context.build("--os linux --arch arm --variant v7").exits(0);
    assert_eq!(document(&env)["Variant"], "v7");
    context.build("--arch arm64 --platform linux/amd64").exits(125).tells("--platform");
    // A list to build on, and one to add to.
    for architecture in ["amd64", "riscv64"] {
        let line =
            format!("build --platform linux/{architecture} -t {architecture} --manifest both ctx");
        env.run(&line).exits(0);
    }
    let list = env.run("manifest inspect both").ok().json();
    let platforms: Vec<&str> = list["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["platform"]["architecture"].as_str().unwrap())
        .collect();
    assert_eq!(platforms, ["amd64", "riscv64"]);
    env.run("tag amd64 both").ok();
    let context = context.file("Dockerfile", "FROM both\nCOPY a /b\n");
    env.run("build --all-platforms ctx").exits(1).tells("riscv64");
    drop(context.file("Dockerfile", "FROM amd64 AS one\nFROM riscv64\n"));
    env.run("build --all-platforms --skip-unused-stages=false ctx")
        .fails_with(1, "no platform that all");
    env.run("manifest rm both").ok();
}
