//! `build --output`: where an image or its files go, and what goes with them.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    build::{Context, sh},
    env::Env,
    fixture::BUSY,
    needs::needs,
    registry::Registry,
};

const FILES: &str = "FROM busy AS made\nRUN mkdir /o && echo one > /o/a && chmod 640 /o/a && ln -s a /o/l\n\
                     FROM scratch\nCOPY --from=made /o /\n";

fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A blob of a layout, by its digest.
fn blob(dir: &Path, digest: &Value) -> PathBuf {
    dir.join("blobs/sha256").join(digest.as_str().unwrap().strip_prefix("sha256:").unwrap())
}

/// Nothing but what the image `busy` and the steps need is left in the store.
fn is_tidy(env: &Env) {
    env.run("system check").exits(0).shows("The store is whole");
}

#[test]
fn files_leave_without_an_image() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, FILES);
    for flags in ["-o out", "--output type=local,dest=out"] {
        env.run(&format!("build {flags} ctx")).exits(0);
        let out = env.path("out");
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "one\n");
        assert_eq!(fs::metadata(out.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_link(out.join("l")).unwrap(), Path::new("a"));
        assert_eq!(fs::read_dir(&out).unwrap().count(), 2);
    }
    env.run("build -o - ctx").exits(0).prints_tar(["a", "l"]);
    env.run("build -o type=tar,dest=new/out.tar ctx").exits(0);
    assert!(fs::metadata(env.path("new/out.tar")).unwrap().len() > 1024);
    // Several at once, one of them the image.
    context.build("-o type=tar,dest=t.tar -o type=image").exits(0);
    env.run("images -q img").shows("");
    env.run("rmi img").ok();
    is_tidy(&env);
    env.run("images -aq").ok();
}

#[test]
fn archives_hold_what_load_takes() {
    let env = Env::with("busy", BUSY);
    let context =
        Context::new(&env, "FROM busy\nRUN echo made > /made\nCMD [\"cat\", \"/made\"]\n");
    for (output, unpacked) in [
        ("type=docker,dest=a.tar", false),
        ("type=oci,dest=a.tar", false),
        ("type=oci,dest=a.tar,compression=zstd,force-compression=true", false),
        ("type=docker,dest=a.tar,compression=uncompressed", false),
        ("type=oci,dest=dir,tar=false", true),
    ] {
        context.build(&format!("-o {output}")).exits(0);
        env.run("images -q img").prints("");
        match unpacked {
            false => env.run("load -i a.tar").exits(0),
            true => env.run("image cp oci:dir img").exits(0),
        };
        env.run("run --rm --network none img").prints("made\n");
        env.run("rmi img").ok();
    }
    is_tidy(&env);
    let index = json(env.path("dir/index.json"));
    assert_eq!(
        index["manifests"][0]["annotations"]["io.containerd.image.name"],
        "docker.io/library/img:latest"
    );
    let manifest = json(blob(&env.path("dir"), &index["manifests"][0]["digest"]));
    assert!(manifest["layers"][0]["mediaType"].as_str().unwrap().ends_with("+gzip"), "{manifest}");
    // The same again is the same file, and nothing takes the place of what is there.
    let bytes = |name: &str| fs::read(env.path(name)).unwrap();
    context.build("-o type=oci,dest=x.tar --no-cache").exits(0);
    context.build("-o type=oci,dest=y.tar").exits(0);
    assert!(bytes("x.tar") == bytes("y.tar"), "two archives of one image differ");
    context.build("-o type=oci,dest=dir,tar=false").fails_with(1, "not empty");
    env.run_with_stdin("load", env.run("build -t piped -o type=oci ctx").exits(0).bytes()).exits(0);
    env.run("run --rm --network none piped").prints("made\n");
}

#[test]
fn names_annotations_and_metadata() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\n");
    context
        .build("--annotation a.b=c --annotation manifest:d=e --metadata-file meta.json --iidfile id -o type=image,name=other:1")
        .exits(0);
    let id = fs::read_to_string(env.path("id")).unwrap();
    let meta = json(env.path("meta.json"));
    assert_eq!(meta["containerimage.config.digest"], id.as_str());
    assert_eq!(meta["image.name"], "docker.io/library/other:1");
    assert_eq!(meta["containerimage.digest"], meta["containerimage.descriptor"]["digest"]);
    env.run("images -q img").prints("");
    env.run("image cp other:1 oci:layout").exits(0);
    let index = json(env.path("layout/index.json"));
    assert_eq!(index["manifests"][0]["digest"], meta["containerimage.digest"]);
    let manifest = json(blob(&env.path("layout"), &index["manifests"][0]["digest"]));
    assert_eq!(manifest["annotations"]["a.b"], "c");
    assert_eq!(manifest["annotations"]["d"], "e");
    env.run("rmi other:1").ok();
    is_tidy(&env);
}

#[test]
fn provenance_stands_in_the_index() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nARG V\nRUN true\n");
    context
        .build("--provenance=mode=max --build-arg V=7 --annotation index:i=1 -o type=oci,dest=l,tar=false --metadata-file m")
        .exits(0);
    let dir = env.path("l");
    let outer = json(dir.join("index.json"));
    let index = json(blob(&dir, &outer["manifests"][0]["digest"]));
    assert_eq!(index["annotations"]["i"], "1");
    let [image, said] = &index["manifests"].as_array().unwrap()[..] else { panic!("{index}") };
    assert_eq!(said["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    assert_eq!(said["platform"]["architecture"], "unknown");
    let manifest = json(blob(&dir, &said["digest"]));
    let statement = json(blob(&dir, &manifest["layers"][0]["digest"]));
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v0.2");
    let digest = image["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    assert_eq!(statement["subject"][0]["digest"]["sha256"], digest);
    let args = &statement["predicate"]["invocation"]["parameters"]["args"];
    assert_eq!(args["build-arg:V"], "7");
    let uri = statement["predicate"]["materials"][0]["uri"].as_str().unwrap();
    assert!(uri.starts_with("pkg:docker/busy@latest?platform=linux%2F"), "{uri}");
    // The file says the least, unless it is told otherwise.
    let noted = json(env.path("m"))["buildx.build.provenance"].clone();
    assert_eq!(noted["materials"], statement["predicate"]["materials"]);
    assert_eq!(noted["invocation"]["parameters"]["args"], serde_json::json!({}));
    for (how, noted) in [("max", &statement["predicate"]), ("disabled", &Value::Null)] {
        let mut command = env.command("build --build-arg V=7 --metadata-file m ctx");
        command.env("BUILDX_METADATA_PROVENANCE", how);
        env.run_command("build with metadata", command, Vec::new()).exits(0);
        assert_eq!(json(env.path("m"))["buildx.build.provenance"], *noted, "{how}");
    }
    is_tidy(&env);
    // An index is loaded as the image that it has for this machine.
    env.run("image cp oci:l img").exits(0);
    env.run("rmi img").ok();
    context.build("--provenance=true").fails_with(1, "no index that could hold");
    context.build("--provenance=false --sbom=false").exits(0);
}

#[test]
fn packages_are_told_of() {
    let env = Env::with("busy", BUSY);
    let text = r#"FROM busy
COPY <<EOF /etc/os-release
ID=debian
VERSION_ID="13"
EOF
COPY <<EOF /var/lib/dpkg/status
Package: libx
Status: install ok installed
Maintainer: Some One <one@example.com>
Architecture: amd64
Version: 1:2+b~1

Package: gone
Status: deinstall ok config-files
Version: 1
EOF
COPY <<EOF /var/lib/dpkg/status.d/part
Package: part
Version: 7
EOF
COPY <<EOF /lib/apk/db/installed
P:musl
V:1.2-r0
A:x86_64
L:MIT
EOF
"#;
    let context = Context::new(&env, text);
    context.build("--sbom=true --provenance=true -o type=oci,dest=l,tar=false").exits(0);
    let dir = env.path("l");
    let index = json(blob(&dir, &json(dir.join("index.json"))["manifests"][0]["digest"]));
    let [image, said] = &index["manifests"].as_array().unwrap()[..] else { panic!("{index}") };
    assert_eq!(said["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    let layers = json(blob(&dir, &said["digest"]))["layers"].clone();
    let kinds: Vec<&Value> = (layers.as_array().unwrap().iter())
        .map(|layer| &layer["annotations"]["in-toto.io/predicate-type"])
        .collect();
    assert_eq!(kinds, ["https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2"]);
    let statement = json(blob(&dir, &layers[0]["digest"]));
    let digest = image["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    assert_eq!(statement["subject"][0]["digest"]["sha256"], digest);
    let document = &statement["predicate"];
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    let purls: Vec<&str> = (document["packages"].as_array().unwrap().iter())
        .filter_map(|package| package["externalRefs"][0]["referenceLocator"].as_str())
        .collect();
    assert_eq!(
        purls,
        [
            "pkg:apk/debian/musl@1.2-r0?arch=x86_64&distro=debian-13",
            "pkg:deb/debian/libx@1%3A2%2Bb~1?arch=amd64&distro=debian-13",
            "pkg:deb/debian/part@7?distro=debian-13",
        ]
    );
    // The same build says the same, beside its files too.
    context.build("--attest type=sbom -o out").exits(0);
    assert_eq!(json(env.path("out/sbom.spdx.json"))["predicate"]["packages"], document["packages"]);
    assert!(!env.path("out/provenance.json").exists());
    context.build("--sbom=true").fails_with(1, "no index that could hold");
    context.build("--sbom=generator=x -o out2").fails_with(1, "generator is not supported");
    let context =
        context.file("Dockerfile", "FROM busy\nCOPY Dockerfile /var/lib/rpm/rpmdb.sqlite\n");
    context.build("--sbom=true -o out2").fails_with(1, "its packages are RPM's");
    is_tidy(&env);
}

#[test]
fn what_is_built_is_pushed() {
    needs!(tool("docker-registry"));
    let env = Env::with("busy", BUSY);
    let registry = Registry::start(&env);
    let name = registry.name("built:1");
    Context::new(&env, "FROM busy\nRUN echo pushed > /f\n");
    for flags in ["--push", "-o type=registry", "-o type=image,push=true,compression=zstd"] {
        env.run(&format!("build -t {name} {flags} --metadata-file m ctx")).exits(0);
        let digest = json(env.path("m"))["containerimage.digest"].as_str().unwrap().to_owned();
        let answer = registry.get(&format!("/v2/built/manifests/{digest}")).unwrap();
        assert!(answer.contains("200 OK"), "{flags}: {answer}");
        env.run(&format!("rmi {name}")).ok();
        env.run(&format!("run --rm --network none {name} cat /f")).exits(0).shows("pushed\n");
        env.run(&format!("rmi {name}")).ok();
    }
    env.run(&format!("build -t {name} --push --provenance=true ctx")).exits(0);
    env.run(&format!("rmi {name}")).ok();
    env.run(&format!("run --rm --network none {name} cat /f")).exits(0).shows("pushed\n");
    env.run("build --push ctx").fails_with(1, "tag is needed when pushing");
    env.run("build -t localhost/x --push ctx").fails_with(1, "is not in a registry");
    env.run(&format!("rmi {name}")).ok();
    is_tidy(&env);
}

#[test]
fn a_stage_is_made_anew_by_name() {
    let env = Env::with("busy", BUSY);
    let uuid = "RUN cat /proc/sys/kernel/random/uuid >";
    let text = format!(
        "FROM busy AS one\n{uuid} /1\nFROM busy AS two\n{uuid} /2\nFROM busy\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n"
    );
    let context = Context::new(&env, &text);
    let read = || (sh(&env, "cat /1"), sh(&env, "cat /2"));
    context.build("").exits(0);
    let first = read();
    context.build("--no-cache-filter two").exits(0);
    let second = read();
    assert_eq!(first.0, second.0);
    assert_ne!(first.1, second.1);
}

#[test]
fn layers_are_squashed() {
    let env = Env::with("busy", BUSY);
    let text = "FROM busy AS first\nRUN mkdir -p /d/low /gone /kept && echo 1 > /d/low/f && echo x > /gone/f && echo k > /kept/k\n\
        FROM first\nRUN rm -r /gone /d/low && echo 2 > /kept/l && rm /bin/httpd\n\
        RUN mkdir /d/low && echo 3 > /d/low/g\nENV A=b\n";
    let context = Context::new(&env, text);
    let count = |name: &str| {
        let image = env.run(&format!("image inspect {name}")).ok().json();
        image[0]["RootFS"]["Layers"].as_array().unwrap().len()
    };
    let files = "cd / && find d gone kept bin/httpd 2>/dev/null | sort && cat kept/k kept/l d/low/g && echo $A";
    context.build("").exits(0);
    let (before, base) = (sh(&env, files), count("busy"));
    assert_eq!(count("img"), base + 3);
    context.build("--squash").exits(0);
    assert_eq!(sh(&env, files), before);
    assert_eq!(count("img"), base + 1);
    assert!(before.contains("d/low/g") && !before.contains("gone"), "{before}");
    // What was taken away is in no layer, and every step is told of.
    let history = env.run("history --no-trunc --format {{.Size}}:{{.CreatedBy}}:{{.Comment}} img");
    let history = history.ok().text();
    assert_eq!(history.lines().filter(|line| line.contains("RUN")).count(), 3, "{history}");
    assert_eq!(history.lines().filter(|line| line.starts_with("0B:RUN")).count(), 3, "{history}");
    assert!(history.lines().next().unwrap().ends_with(":squash 3 layers"), "{history}");
    let id = context.id("--squash");
    assert_eq!(context.id("--squash --no-cache"), id, "the same files, the same image");
    // It leaves as any other.
    context.build("--squash -o type=docker,dest=one.tar").exits(0);
    env.run("rmi img").ok();
    env.run("load -i one.tar").exits(0);
    assert_eq!(sh(&env, files), before);
    context.build("--squash-all").exits(0);
    assert_eq!(sh(&env, files), before);
    assert_eq!(count("img"), 1);
    // One layer is one already.
    Context::new(&env, "FROM busy\nRUN echo > /f\n").build("--squash").exits(0);
    assert_eq!(count("img"), base + 1);
    is_tidy(&env);
}

#[test]
fn wrong_outputs_are_told() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\n");
    for (flags, said) in [
        ("-o type=nope", "unsupported exporter"),
        ("-o type=local", "dest is required"),
        ("-o type=oci,dest=x,bogus=1", "bogus is not supported"),
        ("-o type=tar,dest=ctx", "is a directory"),
        ("-o type=oci,dest=-,tar=false", "tar=false needs dest"),
        ("-o - -o type=oci", "only one output"),
        ("-q -o type=nope", "unsupported exporter"),
        ("--annotation x", "invalid annotation"),
        ("--annotation index:x=y", "index annotations not supported"),
        ("--sbom", "no index that could hold"),
        ("--attest type=sbom", "no index that could hold"),
        ("--provenance=mode=some", "invalid provenance mode"),
        ("--pull=perhaps", "invalid --pull"),
        ("--rm=false", "--rm=false"),
    ] {
        context.build(flags).exits(1).tells(said);
    }
    env.run("images -q img").prints("");
    is_tidy(&env);
}
