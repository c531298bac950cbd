//! `buildx`: names of builders, each of which is dhow, and lists made of images of registries.

use serde_json::Value;

use crate::{
    build::Context,
    env::Env,
    fixture::{BUSY, Compression},
    needs::needs,
    registry::Registry,
};

#[test]
fn every_name_means_this_machine() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\n");
    env.run("buildx version").ok().shows("dhow/buildx v");
    env.run("buildx create --name ci --use --bootstrap --platform linux/amd64,linux/arm64")
        .ok()
        .prints("ci\n");
    env.run("buildx create --name other --driver docker-container --driver-opt network=host --buildkitd-flags '--debug --oci-worker-gc'")
        .warns("--driver-opt changes nothing")
        .prints("other\n");
    env.run("buildx ls --format '{{.Name}}'")
        .ok()
        .prints_lines(["ci", "ci0", "other", "other0", "default", "default"]);
    let listed = env.run("buildx ls").ok().shows("NAME/NODE").shows(" \\_ ci0").shows("running");
    assert!(listed.text().lines().any(|line| line.starts_with("ci*")));
    let json = env.run("buildx ls --format json").ok().text();
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(first["Name"], "ci");
    assert_eq!(first["Current"], true);
    let inspected = env.run("buildx inspect --bootstrap").ok().text();
    for line in ["Name:          ci", "Driver:        docker-container", "Nodes:", "Status:"] {
        assert!(inspected.contains(line), "{inspected}");
    }
    assert!(inspected.contains("linux/amd64*, linux/arm64*"), "{inspected}");
    env.run("buildx inspect other").ok().shows("network=\"host\"").shows("--debug --oci-worker-gc");
    env.run("buildx inspect default").ok().shows("Driver: dhow");
    for line in ["build --builder ci ctx", "buildx --builder other build ctx", "buildx build ctx"] {
        env.run(line).exits(0);
    }
    env.run("buildx du --builder ci").ok();
    env.run("builder prune -f --builder default").ok();
    env.run("buildx use other").ok().prints("");
    env.run("buildx inspect").ok().shows("other0");
    env.run("buildx use default").ok();
    env.run("buildx stop other").ok().prints("");
    env.run("buildx stop").ok();
    env.run("buildx rm other").exits(0).tells("other removed");
    env.run("buildx rm -f --all-inactive").ok();
    env.run("buildx create --use").ok();
    env.run("buildx rm").exits(0).tells(" removed");
    env.run("buildx -D rm ci").exits(0).tells("ci removed");
    env.run("buildx ls --format '{{.Name}}'").ok().prints("default\ndefault\n");
    drop(context);
}

#[test]
fn other_machines_and_unknown_names_are_refused() {
    let env = Env::with("busy", BUSY);
    Context::new(&env, "FROM busy\n");
    for (line, said) in [
        ("build --builder nope ctx", "no builder \"nope\" found"),
        ("buildx --builder nope du", "no builder \"nope\" found"),
        ("buildx use nope", "no builder \"nope\" found"),
        ("buildx inspect nope", "no builder \"nope\" found"),
        ("buildx rm nope", "no builder \"nope\" found"),
        ("buildx rm", "default cannot be removed"),
        ("buildx create --driver kubernetes", "on the machine where dhow is called"),
        ("buildx create --driver remote tcp://1.2.3.4:1234", "on the machine where dhow is called"),
        ("buildx create --driver bogus", "failed to find driver \"bogus\""),
        ("buildx create ssh://host", "there is no daemon to reach"),
        ("buildx create --name default", "default is a reserved name"),
        ("buildx create --name 1x", "invalid name 1x"),
        ("buildx create --platform x/y/z/w", "--platform"),
    ] {
        env.run(line).fails_with(1, said);
    }
    env.run("buildx create --name ci").ok();
    env.run("buildx create --name ci").fails_with(1, "existing instance for \"ci\"");
    env.run("buildx rm ci").exits(0).tells("ci removed");
    for (line, said) in [
        ("buildx bake", "dhow buildx bake: files of targets are not read"),
        ("bake", "dhow bake: "),
        ("buildx history ls", "no record of builds is kept"),
        ("buildx dial-stdio", "no daemon of BuildKit"),
        ("buildx create --append", "--append: a builder has one node"),
        (
            "buildx build --cpp-flag=-DX ctx",
            "--cpp-flag: a Dockerfile is not given to a preprocessor",
        ),
    ] {
        env.run(line).fails_with(125, said);
    }
}

#[test]
fn lists_are_made_of_what_registries_have() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let one =
        registry.push(&env, "one:amd64", "ARCHITECTURE amd64\n/f 0644 one\n", Compression::Gzip);
    let two =
        registry.push(&env, "two:arm64", "ARCHITECTURE arm64\n/f 0644 two\n", Compression::Gzip);
    let list = registry.name("list:both");
    let tools = |line: &str| env.run(&format!("buildx imagetools {line}"));
    let insecure = "--tls-verify=false";
    let shown = tools(&format!("create {insecure} --dry-run -t {list} {one} {two}")).ok().json();
    assert_eq!(shown["manifests"].as_array().unwrap().len(), 2);
    tools(&format!("inspect {insecure} {list}")).exits(1);
    tools(&format!(
        "create {insecure} --progress plain -t {list} --annotation index:a=b --annotation manifest-descriptor[linux/arm64]:c=d {one} {two}"
    ))
    .exits(0);
    let raw = tools(&format!("inspect {insecure} --raw {list}")).ok().json();
    assert_eq!(raw["annotations"]["a"], "b");
    assert_eq!(raw["manifests"][1]["annotations"]["c"], "d");
    assert_eq!(raw["manifests"][1]["platform"]["architecture"], "arm64");
    let text = tools(&format!("inspect {insecure} {list}")).ok().text();
    let digest = tools(&format!("inspect {insecure} --format '{{{{.Manifest.Digest}}}}' {list}"))
        .ok()
        .text();
    assert!(text.starts_with(&format!("Name:      {list}\nMediaType: application/vnd.oci.image.index.v1+json\nDigest:    {digest}\n")), "{text}");
    assert!(text.contains("Manifests: \n  Name:"), "{text}");
    assert!(text.contains("Platform:") && text.contains("linux/arm64"), "{text}");
    // A list is copied as it is, byte by byte; one image becomes a list unless it shall not.
    let copy = registry.name("copy:1");
    tools(&format!("create {insecure} -t {copy} {list}")).exits(0);
    assert_eq!(
        tools(&format!("inspect {insecure} --format {{{{.Manifest.Digest}}}} {copy}")).ok().text(),
        digest
    );
    tools(&format!("create {insecure} -t {copy} {one}")).exits(0);
    assert!(tools(&format!("inspect {insecure} --raw {copy}")).ok().json()["manifests"].is_array());
    tools(&format!("create {insecure} -t {copy} --prefer-index=false {one}")).exits(0);
    assert!(tools(&format!("inspect {insecure} --raw {copy}")).ok().json()["config"].is_object());
    let image =
        tools(&format!("inspect {insecure} --format '{{{{json .Image}}}}' {copy}")).ok().json();
    assert_eq!(image["architecture"], "amd64");
    let images =
        tools(&format!("inspect {insecure} --format '{{{{json .Image}}}}' {list}")).ok().json();
    assert_eq!(images["linux/arm64"]["architecture"], "arm64");
    // Added to, and filtered.
    tools(&format!("create {insecure} --append -t {copy} {two}")).exits(0);
    let raw = tools(&format!("inspect {insecure} --raw {copy}")).ok().json();
    assert_eq!(raw["manifests"].as_array().unwrap().len(), 2);
    tools(&format!("create {insecure} -p linux/arm64 -t {copy} {list}")).exits(0);
    let raw = tools(&format!("inspect {insecure} --raw {copy}")).ok().json();
    assert_eq!(raw["manifests"].as_array().unwrap().len(), 1);
    // A descriptor in a file.
    let mut entry = raw["manifests"][0].clone();
    entry["platform"]["variant"] = "v9".into();
    env.file("entry.json", entry.to_string());
    tools(&format!("create {insecure} -f entry.json -t {copy}")).exits(0);
    let raw = tools(&format!("inspect {insecure} --raw {copy}")).ok().json();
    assert_eq!(raw["manifests"][0]["platform"]["variant"], "v9");
    for (line, said) in [
        ("create -t x".to_owned(), "no sources specified"),
        (format!("create {one}"), "can't push with no tags specified"),
        (format!("create {insecure} -t {copy} {}", registry.name("none:1")), "none"),
        (format!("create {insecure} -p linux/s390x -t {copy} {list}"), "none of the sources"),
        (format!("create {insecure} -t {copy} --annotation a=b {list}"), "annotation a"),
        (format!("create {insecure} --dry-run sha256:1"), "failed to parse source"),
    ] {
        tools(&line).fails_with(1, said);
    }
}
