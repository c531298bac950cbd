//! `ps`: which containers, and in which words.

use std::fs;

use insta::assert_snapshot;

use crate::{env::Env, fixture::BUSY};

/// One that runs, one that has ended, one that was never started; created in this order.
fn three() -> Env {
    let env = Env::with("busy", BUSY);
    env.run("run --network none -d --name up -l tier=web -l x busy sleep 60").exits(0);
    env.run("run --network none --name down -l tier=db busy sh -c 'exit 3'").exits(3);
    env.run("create --network host --name new -v /srv:/srv:ro busy echo 'a b' c").exits(0);
    env
}

#[test]
fn the_table_is_dockers() {
    let env = three();
    let table = env.tidy(&env.run("ps -a").ok().stdout);
    // Ages and ids differ in length from what stands for them, so columns are not compared.
    let words: Vec<String> =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_snapshot!(words.join("\n"), @r#"
    CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES
    [ID] busy "echo 'a b' c" [AGO] Created new
    [ID] busy "sh -c 'exit 3'" [AGO] Exited (3) [AGO] down
    [ID] busy "sleep 60" [AGO] Up [AGO] up
    "#);
    env.run("ps --format {{.Names}}").prints("up\n");
}

#[test]
fn flags_choose_what_is_shown() {
    let env = three();
    env.run("ps -l --format {{.Names}}").prints("new\n");
    env.run("ps -n 2 --format {{.Names}}").prints("new\ndown\n");
    env.run("ps -n -1 --format {{.Names}}").prints("up\n");
    let full = env.run("ps -q --no-trunc").text();
    assert_eq!(full.len(), 64);
    env.run("ps -q").prints(&format!("{}\n", &full[..12]));
    env.run("container ls -aq -f name=up").prints(&format!("{}\n", &full[..12]));
    env.run("ps -q --format x")
        .warns("Ignoring custom format")
        .prints(&format!("{}\n", &full[..12]));
    env.run("ps -as --format '{{.Names}} {{.Size}}' -f name=down").shows("down 0B (virtual ");
}

#[test]
fn filters_are_dockers() {
    let env = three();
    let names = |filters: &str| env.run(&format!("ps --format {{{{.Names}}}} {filters}")).text();
    let up = env.run("ps -q").text();
    for (filters, expected) in [
        ("-a -f name=n", "new\ndown"),
        ("-a -f name=^n", "new"),
        ("-a -f name=/", ""),
        ("-a -f name=up -f name=new", "new\nup"),
        (&format!("-a -f id={up}"), "up"),
        ("-a -f label=tier", "down\nup"),
        ("-a -f label=tier=web", "up"),
        ("-a -f label=tier -f label=x", "up"),
        ("-f status=exited", "down"),
        ("-f status=created -f status=running", "new\nup"),
        ("-f status=paused", ""),
        ("-a -f exited=3", "down"),
        ("-a -f exited=0", ""),
        ("-a -f before=down", "up"),
        ("-a -f since=down", "new"),
        ("-a -f since=up -f before=new", "down"),
        ("-a -f ancestor=busy", "new\ndown\nup"),
        ("-a -f ancestor=none-such", ""),
        ("-a -f network=host", "new"),
        ("-a -f volume=/srv", "new"),
        ("-a -f publish=80", ""),
        ("-a -f health=none", "new\ndown\nup"),
        ("-a -f health=healthy", ""),
    ] {
        assert_eq!(names(filters), expected, "{filters}");
    }
    env.run("ps -f since=nobody").fails_with(1, "No such container: nobody");
    env.run("ps -f status=asleep").fails_with(1, "invalid filter 'status=asleep'");
    env.run("ps -f exited=x").fails_with(1, "invalid filter 'exited=x'");
    env.run("ps -f colour=red").fails_with(1, "invalid filter 'colour'");
    env.run("ps -f running").fails_with(1, "key=value");
    env.run("ps -f name=(").fails_with(1, "invalid filter pattern");
}

#[test]
fn an_image_built_on_another_descends_from_it() {
    let env = Env::with("base", BUSY);
    env.image("child", &format!("{BUSY}\n---\n/more 0644 x"));
    env.run("create --network none --name b base").exits(0);
    env.run("create --network none --name c child").exits(0);
    env.run("ps -a --format {{.Names}} -f ancestor=base").prints("c\nb\n");
    env.run("ps -a --format {{.Names}} -f ancestor=child").prints("c\n");
}

#[test]
fn templates_have_dockers_fields() {
    let env = three();
    let line = env.run("ps -a -f name=new --format json").json();
    let names: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names.join(" "),
        "Command CreatedAt ID Image Labels LocalVolumes Mounts Names Networks Platform Ports \
         RunningFor Size State Status"
    );
    assert_eq!(line["Mounts"], "/srv");
    assert_eq!(line["Networks"], "host");
    assert_eq!(line["State"], "created");
    env.run("ps --format '{{.Labels}} {{.Label \"tier\"}}'").prints("tier=web,x= web\n");
    env.run("ps --format 'table {{.Names}}\\t{{.State}}'")
        .prints("NAMES     STATE\nup        running\n");
    env.run("ps --format {{.Nope}}").fails_with(1, "Nope");
}

#[test]
fn long_commands_are_cut_and_control_characters_are_shown() {
    let env = Env::with("busy", BUSY);
    env.run("create --network none busy echo '\u{1b}[31mred' and much more of it").exits(0);
    env.run("ps -a --format {{.Command}}").prints("\"echo \\x1b[31mred and m…\"\n");
    env.run("ps -a --no-trunc").shows("\\x1b[31mred and much more of it\"");
}

#[test]
fn a_damaged_container_hides_nobody() {
    let env = three();
    let id = env.run("ps -aq --no-trunc -f name=down").text();
    let record = env.root().join("containers").join(&id).join("container.json");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, &text[..text.len() / 2]).unwrap();
    let listed = env.run("ps -a --format {{.Names}}").warns("is damaged");
    assert_eq!(listed.stdout, "new\nup\n");
    fs::write(&record, text).unwrap();
    env.run("ps -a --format {{.Names}}").prints("new\ndown\nup\n");
}

#[test]
fn who_is_killed_with_its_monitor_has_exited() {
    let env = three();
    let id = env.run("ps -q --no-trunc").text();
    let text = fs::read_to_string(env.runroot().join("containers").join(&id).join("process.json"));
    let process: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
    for who in ["monitor", "init"] {
        let pid = process[who]["pid"].as_i64().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    // The kernel takes a moment to end the rest of a pid namespace.
    while !env.run("ps -q").text().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    env.run("ps -a -f name=up --format '{{.State}} {{.Status}}'").prints("exited Exited (255)\n");
}

#[test]
fn thousands_of_stopped_containers_are_listed_newest_first() {
    let env = Env::with("busy", BUSY);
    env.run("create --network none --name first busy true").exits(0);
    let first = env.run("ps -aq --no-trunc").text();
    let containers = env.root().join("containers");
    let text = fs::read_to_string(containers.join(&first).join("container.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids: Vec<String> = (0..1500).map(|number| format!("{number:064x}")).collect();
    for (number, id) in ids.iter().enumerate() {
        let mut copy = record.clone();
        copy["id"] = id.as_str().into();
        copy["name"] = format!("c{number}").into();
        copy["created"] = format!("2020-01-01T00:{:02}:{:02}Z", number / 60, number % 60).into();
        fs::create_dir(containers.join(id)).unwrap();
        fs::write(containers.join(id).join("container.json"), copy.to_string() + "\n").unwrap();
    }
    let expected: Vec<String> =
        ["first".to_owned()].into_iter().chain((0..1500).rev().map(|n| format!("c{n}"))).collect();
    env.run("ps -a --format {{.Names}}").prints(&(expected.join("\n") + "\n"));
    for id in ids {
        fs::remove_dir_all(containers.join(id)).unwrap();
    }
}
