//! `inspect`, `version`, `info`, `doctor`: what scripts read.

use std::fs;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::{
    env::{Env, poll},
    fixture::BUSY,
    needs,
};

#[test]
fn a_container_is_described_in_dockers_fields() {
    let env = Env::with("busy", BUSY);
    env.run(
        "run --network none -d --name web -e A=b -l k=v -w /tmp -v /srv:/srv:ro --tmpfs /scratch:size=1m \
         --cap-drop ALL --security-opt no-new-privileges --read-only --stop-timeout 3 busy sleep 60",
    )
    .exits(0);
    let described = env.run("inspect web").json();
    let web = &described[0];
    let state = &web["State"];
    assert_eq!(state["Status"], "running");
    assert_eq!((&state["Running"], &state["OOMKilled"]), (&json!(true), &json!(false)));
    let pid = state["Pid"].as_i64().unwrap();
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("sleep"));
    assert_eq!(
        (&web["Name"], &web["Path"], &web["Args"]),
        (&json!("/web"), &json!("sleep"), &json!(["60"]))
    );
    let config = &web["Config"];
    assert_eq!((&config["Image"], &config["WorkingDir"]), (&json!("busy"), &json!("/tmp")));
    assert_eq!((&config["Labels"], &config["Entrypoint"]), (&json!({"k": "v"}), &Value::Null));
    assert!(config["Env"].as_array().unwrap().contains(&json!("A=b")));
    let host = &web["HostConfig"];
    assert_eq!(host["Binds"], json!(["/srv:/srv:ro"]));
    assert_eq!(host["Tmpfs"], json!({"/scratch": "size=1m"}));
    assert_eq!((&host["CapDrop"], &host["CapAdd"]), (&json!(["ALL"]), &Value::Null));
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
    assert_eq!((&host["ReadonlyRootfs"], &host["NetworkMode"]), (&json!(true), &json!("none")));
    assert!(host["MaskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
    assert_eq!(web["Mounts"][0]["Source"], "/srv");
    for file in ["ResolvConfPath", "HostnamePath", "HostsPath", "LogPath"] {
        // The monitor makes the log when it begins.
        poll(file, || fs::exists(web[file].as_str().unwrap()).unwrap());
    }
    assert!(fs::exists(web["GraphDriver"]["Data"]["UpperDir"].as_str().unwrap()).unwrap());
    // The order of docker's fields, for people who read.
    let text = env.run("container inspect web").ok().stdout;
    let at = |field: &str| text.find(&format!("\n        \"{field}\":")).unwrap();
    assert!(
        at("Id") < at("State") && at("State") < at("HostConfig") && at("Mounts") < at("Config")
    );
}

#[test]
fn the_end_of_a_container_is_told() {
    let env = Env::with("busy", BUSY);
    env.run("create --network none --name a busy sh -c 'exit 7'").exits(0);
    let line = "inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.FinishedAt}}' a";
    env.run(line).prints("created 0 0001-01-01T00:00:00Z\n");
    env.run("start -a a").exits(7);
    assert_snapshot!(env.tidy(&env.run(line).text()), @"exited 7 [TIME]");
}

#[test]
fn an_image_is_described_in_dockers_fields() {
    let env = Env::with("busy:1", &format!("{BUSY}\n    USER 33\n    EXPOSE 80/tcp"));
    let described = env.run("inspect busy:1").json();
    let image = &described[0];
    assert_eq!(image["RepoTags"], json!(["busy:1"]));
    assert_eq!((&image["Os"], &image["RootFS"]["Type"]), (&json!("linux"), &json!("layers")));
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    assert_eq!((&image["Config"]["Cmd"], &image["Config"]["User"]), (&json!(["sh"]), &json!("33")));
    assert_eq!(image["Config"]["ExposedPorts"], json!({"80/tcp": {}}));
    assert!(image["Size"].as_u64().unwrap() > 100_000);
    let id = image["Id"].as_str().unwrap();
    env.run(&format!("image inspect --format {{{{.Id}}}} {}", &id[7..19]))
        .prints(&format!("{id}\n"));
}

#[test]
fn a_name_is_a_container_then_an_image() {
    let env = Env::with("busy", BUSY);
    env.run("create --network none --name busy busy true").exits(0);
    env.run("inspect -f '{{.Name}}' busy").prints("/busy\n");
    env.run("inspect --type image -f '{{.RepoTags}}' busy").prints("[busy:latest]\n");
    env.run("inspect --type nosuch busy").fails_with(1, "--type");
    env.run("container inspect --type image busy").fails_with(1, "--type");
}

#[test]
fn what_is_not_there_is_said_and_the_rest_is_shown() {
    let env = Env::with("busy", BUSY);
    env.run("create --network none --name a busy true").exits(0);
    let some = env.run("inspect --format {{.Name}} nobody a Nobody:").exits(1);
    assert_eq!(some.stdout, "/a\n");
    assert_eq!(some.stderr, "Error: No such object: nobody\nError: No such object: Nobody:\n");
    let none = env.run("inspect nobody").exits(1).tells("Error: No such object: nobody");
    assert_eq!(none.stdout, "[]\n");
    env.run("container inspect busy").exits(1).tells("No such container: busy");
    env.run("image inspect a").exits(1).tells("No such image: a");
    env.run("inspect -f {{.Nope}} a").exits(1).tells("Nope");
    env.run("inspect -f {{.Name a").fails_with(1, "template parsing error");
}

#[test]
fn sizes_are_told_on_request() {
    let env = Env::with("busy", BUSY);
    env.run("run --network none --name a busy sh -c 'head -c 5000 /dev/zero >/f'").exits(0);
    env.run("inspect -f {{.SizeRw}} a").prints("<no value>\n");
    env.run("inspect -s -f {{.SizeRw}} a").prints("5000\n");
    env.run("ps -a --format {{.Size}}").shows("5kB (virtual ");
}

/// A directory of a subordinate id that is closed to everybody else, its user included.
#[test]
fn files_of_other_ids_are_measured() {
    let env = Env::with("busy", BUSY);
    if !needs::is_root() {
        needs::needs!(subids);
    }
    let script = "mkdir /d; head -c 3000 /dev/zero >/d/f; chown -R 1000:1000 /d; chmod 700 /d";
    env.run(&format!("run --network none --name a busy sh -c '{script}'")).exits(0);
    env.run("inspect -s -f {{.SizeRw}} a").prints("3000\n");
}

#[test]
fn version_and_info_tell_what_there_is() {
    let env = Env::with("busy", BUSY);
    let version = env!("CARGO_PKG_VERSION");
    env.run("version").shows(version);
    env.run("version --format '{{.Client.Version}} {{.Server.Os}}'")
        .prints(&format!("{version} linux\n"));
    env.run("create --network none busy true").exits(0);
    let info = env.run("info --format json").json();
    assert_eq!((&info["Containers"], &info["ContainersRunning"]), (&json!(1), &json!(0)));
    assert_eq!((&info["Images"], &info["Rootless"]), (&json!(1), &json!(!needs::is_root())));
    assert_eq!(info["DockerRootDir"], env.root().to_str().unwrap());
    assert_eq!(info["Overlay"]["Native"], true);
    let rung = if needs::is_root() { "none" } else { "full range" };
    assert_eq!(info["IdMapping"]["Rung"], rung);
    env.run("system info").exits(0).shows("ID Mapping: ");
}

#[test]
fn the_doctor_looks_even_where_there_is_no_store() {
    let env = Env::new();
    let report = env.run("doctor").exits(0);
    assert!(report.stdout.contains("ok       kernel: Linux "), "{}", report.stdout);
    let findings = env.run("system doctor --format json").json();
    assert!(findings.as_array().unwrap().iter().all(|finding| finding["grade"] != "failure"));
    env.run("doctor --format yaml").fails_with(1, "--format");
    let mut broken = env.command("doctor --format json");
    broken.env("DHOW_ROOT", "/proc/none");
    let report = env.run_command("doctor", broken, Vec::new()).exits(1);
    let findings: Value = serde_json::from_str(&report.stdout).unwrap();
    assert!(findings.as_array().unwrap().iter().any(|finding| finding["grade"] == "failure"));
}

#[test]
fn completions_and_pages_come_from_the_binary() {
    let env = Env::new();
    for shell in ["bash", "zsh", "fish"] {
        env.run(&format!("completion {shell}")).shows("dhow");
    }
    env.run(&format!("man {}", env.path("man").display())).prints("");
    for page in ["dhow.1", "dhow-run.1", "dhow-container-ls.1"] {
        assert!(env.path("man").join(page).exists(), "{page}");
    }
}
