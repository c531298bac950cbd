//! `build --platform`: one image for each, and an index.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use serde_json::Value;

use crate::{
    build::{Context, sh},
    env::{Env, poll},
    fixture::{BUSY, host_architecture},
    needs::{self, needs},
    registry::Registry,
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
    env.run("manifest rm img").ok();
}

/// As BuildKit lays them out: each platform in a directory, in one archive, too.
#[test]
fn files_of_platforms_are_in_directories_of_their_own() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /d/f\n")
        .file("amd64", "for amd64\n")
        .file("arm64", "for arm64\n");
    let both = [
        "linux_amd64/",
        "linux_amd64/d/",
        "linux_amd64/d/f",
        "linux_arm64/",
        "linux_arm64/d/",
        "linux_arm64/d/f",
    ];
    env.run(&format!("build -q {PLATFORMS} -o - ctx")).ok().prints_tar(both);
    env.run(&format!("build {PLATFORMS} -o type=tar,dest=t.tar ctx")).exits(0);
    assert!(fs::metadata(env.path("t.tar")).unwrap().len() > 1024);
    let one = ["linux_amd64/", "linux_amd64/d/", "linux_amd64/d/f"];
    let single = "build -q --platform linux/amd64";
    env.run(&format!("{single} -o type=tar,platform-split=true ctx")).ok().prints_tar(one);
    let opted = format!("{single} --build-arg BUILDKIT_MULTI_PLATFORM=1");
    env.run(&format!("{opted} -o - ctx")).ok().prints_tar(one);
    env.run(&format!("{opted} -o type=tar,platform-split=false ctx"))
        .ok()
        .prints_tar(["d/", "d/f"]);
    env.run(&format!("{opted} -o out ctx")).ok();
    assert!(env.path("out/linux_amd64/d/f").exists());
    // So is an image in an index, even alone.
    env.run(&format!("{opted} -o type=oci,dest=l,tar=false ctx")).ok();
    let outer = json(env.path("l/index.json"));
    assert_eq!(outer["manifests"][0]["mediaType"], "application/vnd.oci.image.index.v1+json");
    for (flags, said) in [
        (
            format!("{PLATFORMS} --build-arg BUILDKIT_MULTI_PLATFORM=0"),
            "returning multiple target platforms",
        ),
        (
            format!("{PLATFORMS} -o type=local,dest=o,platform-split=false"),
            "in a directory for each",
        ),
        ("--build-arg BUILDKIT_MULTI_PLATFORM=perhaps".to_owned(), "true or false"),
        ("-o type=local,dest=o,platform-split=perhaps".to_owned(), "non-bool value"),
    ] {
        context.build(&flags).fails_with(1, said);
    }
    // Nothing but what makes the next build faster.
    context.build("-o type=cacheonly").exits(0);
    env.run("images -q img").prints("");
}

#[test]
fn an_index_is_pushed_and_read_by_others() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::with("busy", BUSY);
    let registry = Registry::start(&env);
    let name = registry.name("many:1");
    Context::new(
        &env,
        "FROM --platform=$BUILDPLATFORM busy AS make\nARG TARGETARCH\nRUN echo $TARGETARCH > /made\n\
         FROM scratch\nCOPY --from=make /made /\nCMD [\"x\"]\n",
    );
    let line = format!("build {PLATFORMS} -t {name} --push --sbom=true --metadata-file m ctx");
    env.run(&line).exits(0);
    let skopeo = |words: &str| {
        let words = words.replace(" AT", &format!(" docker://{name}"));
        needs::said(&format!("skopeo --insecure-policy --override-os linux {words}")).unwrap()
    };
    let index: Value =
        serde_json::from_str(&skopeo("inspect --raw --tls-verify=false AT")).unwrap();
    let pushed = json(env.path("m"))["containerimage.digest"].as_str().unwrap().to_owned();
    assert_eq!(
        dhow::oci::Digest::of(skopeo("inspect --raw --tls-verify=false AT").as_bytes()).as_str(),
        pushed
    );
    let all = index["manifests"].as_array().unwrap();
    let architectures: Vec<&Value> = all.iter().map(|it| &it["platform"]["architecture"]).collect();
    assert_eq!(architectures, ["amd64", "arm64", "unknown", "unknown"]);
    for architecture in ["amd64", "arm64"] {
        let read = skopeo(&format!(
            "--override-arch {architecture} inspect --config --tls-verify=false AT"
        ));
        let config: Value = serde_json::from_str(&read).unwrap();
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["config"]["Cmd"][0], "x");
        // Another engine takes it whole.
        let dir = env.path(architecture);
        let to = format!(
            "--override-arch {architecture} copy --quiet --src-tls-verify=false AT dir:{}",
            dir.display()
        );
        skopeo(&to);
        assert!(dir.join("manifest.json").is_file());
    }
    // And it comes back for each.
    for architecture in ["amd64", "arm64"] {
        let other = Env::new();
        other.run(&format!("pull -q --platform linux/{architecture} {name}")).exits(0);
        let image = other.run(&format!("image inspect {name}")).ok().json();
        assert_eq!(image[0]["Architecture"], architecture);
    }
}

/// What makes a user namespace with an emulator of its own, and runs the words behind it there. The emulator
/// shows what the program's file holds: a kernel's own way to it is all that is asked for.
const EMULATED: &str = r#"
read -r mapped
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
magic='\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xf3\\x00'
printf ":foreign:M::$magic::$EMULATOR:F" > /proc/sys/fs/binfmt_misc/register
exec setpriv --reuid 4321 --regid 4321 --clear-groups "$@"
"#;

#[test]
fn programs_of_other_platforms_run_by_an_emulator() {
    needs!(own_emulators);
    let env = Env::with("busy", BUSY);
    let context =
        Context::new(&env, "FROM scratch\nCOPY program /bin/program\nRUN [\"/bin/program\"]\n");
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(16, 0);
    program.extend(b"\x02\x00\xf3\x00\nemulated\n");
    let program_path = context.dir.join("program");
    fs::write(&program_path, program).unwrap();
    fs::set_permissions(&program_path, fs::Permissions::from_mode(0o755)).unwrap();
    context.build("--platform linux/riscv64").fails_with(1, "no emulator is registered");
    // In there an ordinary user builds, with one id. The emulator is called by its file's name.
    let emulator = env.path("cat");
    fs::copy("/bin/busybox", &emulator).unwrap();
    let own = env.path("own");
    fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(4321), Some(4321)).unwrap();
    let line =
        "--root own/r --runroot own/x build --network none -t img --platform linux/riscv64 ctx";
    let dhow = env.command(line);
    let mut command = Command::new("unshare");
    command.args(["--user", "--mount", "sh", "-ec", EMULATED, "sh"]).arg(dhow.get_program());
    command.args(dhow.get_args()).env("EMULATOR", &emulator).current_dir(env.path(""));
    command.envs(dhow.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let mut running = env.spawn_command(line, command);
    let pid = running.pid();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    poll("its user namespace", || namespace(&pid.to_string()) != namespace("self"));
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), "0 0 65536").unwrap();
    }
    running.send("mapped\n");
    running.finish().exits(0).tells("emulated");
    fs::remove_dir_all(own).unwrap();
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
