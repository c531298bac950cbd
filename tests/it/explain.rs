//! Verbs that only dhow or podman has: `explain`, `unshare`, `container clone`.

use crate::{
    env::{Env, poll},
    fixture::BUSY,
};

#[test]
fn why_a_container_does_not_run_is_told() {
    let env = Env::with("busy", BUSY);
    let make = |name: &str, command: &str| {
        env.run(&format!("run -d --network none --name {name} busy {command}")).exits(0);
        env.run(&format!("wait {name}")).exits(0);
    };
    env.run("create --network none --name fresh busy true").exits(0);
    env.run("explain fresh").shows("never started").shows("-> dhow start fresh");
    make("done", "sh -c 'echo last words; exit 3'");
    let told = env.run("explain done").shows("done: exited, exit code 3");
    told.shows("an error of its own").shows("what it said last:\n  last words\n");
    make("shell", "sh");
    env.run("explain shell").shows("nothing to read").shows("-it");
    make("lost", "sh -c 'kill -9 $$'");
    // As pid 1 of its namespace it cannot kill itself.
    env.run("explain lost").exits(0);
    env.run("run -d --network none --name nothing busy /nosuch").exits(127);
    env.run("explain nothing").shows("could not be started").shows("not in the image");
    env.run("run -d --network none --name killed busy sleep 1000").exits(0);
    env.run("explain killed").shows("killed: running").shows("it runs");
    env.run("kill killed").exits(0);
    env.run("wait killed").exits(0);
    env.run("explain killed").shows("somebody sent it signal").shows("  ");
    let json = env.run("explain --format json killed").json();
    assert_eq!((json["state"].as_str(), json["exit_code"].as_i64()), (Some("exited"), Some(137)));
    assert!(json["findings"][0]["why"].as_str().unwrap().contains("signal"));
    env.run("explain --format '{{.name}} {{.state}}' killed").prints("killed exited\n");
    env.run("explain nobody").fails_with(1, "No such container: nobody");
    env.run("explain --format '{{' killed").fails_with(1, "template");
}

#[test]
fn a_container_that_waits_to_be_restarted_says_so() {
    let env = Env::with("busy", BUSY);
    env.run("run -d --network none --name a --restart always busy sh -c 'exit 2'").exits(0);
    poll("it is restarting", || {
        env.run("explain a").exits(0).stdout.contains("restart policy starts it again in")
    });
    env.run("stop a").exits(0);
    env.run("explain a").shows("a: exited");
}

#[test]
fn a_clone_has_the_settings_and_not_the_files() {
    let env = Env::with("busy", BUSY);
    env.run("run --network none --name one -e V=1 --label x=y -v /data busy sh -c 'touch /f /data/g; echo $V'")
        .prints("1\n");
    let id = env.run("container clone one").text();
    env.run(&format!(
        "inspect -f '{{{{.Name}}}} {{{{.Config.Labels.x}}}} {{{{.State.Status}}}}' {id}"
    ))
    .prints("/one-clone y created\n");
    env.run("start -a one-clone").prints("1\n");
    let volume =
        |name: &str| env.run(&format!("inspect -f '{{{{(index .Mounts 0).Name}}}}' {name}")).text();
    assert_ne!(volume("one"), volume("one-clone"));
    env.run("container clone one").exits(0);
    env.run("container exists one-clone1").exits(0);
    env.run("container clone --run --name two one").exits(0);
    env.run("wait two").prints("0\n");
    env.run("logs two").prints("1\n");
    env.run("container clone --name two one").fails_with(1, "two");
    env.run("container clone nobody").fails_with(1, "No such container: nobody");
    env.run("container clone --cpus x one three").fails_with(1, "cpus");
    env.run("container clone one three nosuch").fails_with(1, "nosuch");
    env.run("container exists three").exits(1);
    env.run("container clone --destroy one three").exits(0);
    env.run("container exists one").exits(1);
    env.run("container clone -f three").fails_with(125, "--destroy");
}

#[test]
fn what_is_out_of_scope_is_refused_in_one_word() {
    let env = Env::new();
    for (command, reason) in [
        ("pod create", "there are no pods"),
        ("kube play x", "there are no pods"),
        ("swarm init", "there is no swarm"),
        ("container checkpoint x", "the state of processes is not saved"),
        ("container restore x", "the state of processes is not saved"),
        ("checkpoint ls", "the state of processes is not saved"),
        ("container cleanup x", "a container's monitor clears up"),
        ("compose up", "compose files are not read"),
        ("bake", "files of targets are not read"),
        ("auto-update", "nothing changes by itself"),
        ("quadlet list", "`dhow generate systemd --files` writes units"),
        ("generate spec x", "`dhow run --dry-run` prints"),
        ("system migrate", "there is nothing to do"),
        ("system renumber", "there is nothing to do"),
        ("system service", "there is no daemon"),
        ("volume reload", "there are no volume plugins"),
        ("image scp x y::", "`dhow save IMAGE | ssh HOST dhow load`"),
        ("container clone --pod x y", "--pod: there are no pods"),
        ("container runlabel x y", "not executed"),
    ] {
        env.run(command).fails_with(125, reason);
    }
    env.run("nosuch").fails_with(125, "unrecognized subcommand");
}

#[test]
fn an_exec_is_told_from_its_making_to_its_end() {
    let env = Env::with("busy", BUSY);
    env.run("run -d --network none --name a busy sleep 1000").exits(0);
    env.run("exec a sh -c 'exit 4'").exits(4);
    let told = env.run("events --since 1h --until 0s --format json --filter type=container").text();
    let events = told.lines().map(|line| serde_json::from_str(line).unwrap());
    let of_exec: Vec<serde_json::Value> = events
        .filter(|e: &serde_json::Value| e["Action"].as_str().unwrap().starts_with("exec_"))
        .collect();
    let actions: Vec<&str> =
        of_exec.iter().map(|event| event["Action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["exec_create: sh -c exit 4", "exec_start: sh -c exit 4", "exec_die"]);
    let attribute = |at: usize, key: &str| of_exec[at]["Actor"]["Attributes"][key].as_str();
    let exec_id = attribute(0, "execID").unwrap();
    assert_eq!(exec_id.len(), 64);
    assert!((1..3).all(|at| attribute(at, "execID") == Some(exec_id)));
    assert_eq!(attribute(2, "exitCode"), Some("4"));
}

mod rootless {
    use super::*;

    #[test]
    fn unshare_is_root_of_ones_own() {
        let env = Env::new();
        env.run("unshare id -u").prints("0\n");
        env.run("unshare sh -c 'mount -t tmpfs x /mnt && touch /mnt/f && ls /mnt'").prints("f\n");
        env.run("unshare sh -c 'exit 7'").exits(7);
        env.run("unshare /nosuch").fails_with(127, "exec /nosuch");
        env.run("unshare --rootless-netns true").fails_with(1, "--rootless-netns");
    }
}

mod as_root {
    use super::*;

    #[test]
    fn unshare_is_for_others() {
        Env::new().run("unshare id").fails_with(1, "please use unshare with rootless");
    }
}
