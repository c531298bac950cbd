//! `init`: a container that is made and mounted, and whose first process waits for its start.

use std::{fs, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    env::{Env, poll},
    fixture::BUSY,
};

fn created(command: &str) -> Env {
    let env = Env::with("busy", BUSY);
    env.run(&format!("create --name one --network none {command}")).ok();
    env
}

fn state(env: &Env, field: &str) -> String {
    env.run(&format!("inspect -f '{{{{.State.{field}}}}}' one")).text()
}

/// The pid of init, or of the one that holds it.
fn pid_of(env: &Env, who: &str) -> Pid {
    let id = env.run("ps -aq --no-trunc -f name=one").text();
    let path = env.runroot().join("containers").join(id).join("process.json");
    let process: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    Pid::from_raw(process[who]["pid"].as_i64().unwrap().try_into().unwrap())
}

fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn a_container_is_prepared_and_then_started() {
    let env = created("busy sh -c 'cat /given; echo err >&2; exit 3'");
    let given = env.file("given", "hi\n");
    env.run("init one").prints("one\n");
    assert_eq!(
        (state(&env, "Status"), state(&env, "Running")),
        ("initialized".into(), "false".into())
    );
    let pid = state(&env, "Pid");
    assert_eq!(Pid::from_raw(pid.parse().unwrap()), pid_of(&env, "init"));
    assert!(Path::new("/proc").join(&pid).exists());
    env.run("ps -q").prints("");
    env.run("ps -a --format '{{.Names}} {{.State}} {{.Status}}'")
        .prints("one initialized Initialized\n");
    env.run("ps -a -f status=initialized --format {{.Names}}").prints("one\n");
    env.run("wait --condition initialized one").prints("-1\n");
    env.run("explain one").shows("waits to be started").shows("dhow start one");
    env.run("logs one").prints("");
    // Its files are there to be seen and changed.
    env.run(&format!("cp {given} one:/given")).exits(0);
    env.run("start -a one").exits(3).tells("err").prints("hi\n");
    assert_eq!((state(&env, "Status"), state(&env, "ExitCode")), ("exited".into(), "3".into()));
    assert!(!lives(Pid::from_raw(pid.parse().unwrap())));
    // And once more, after its end.
    env.run("container init one").prints("one\n");
    env.run("start one").prints("one\n");
    env.run("wait one").prints("3\n");
    env.run("logs one").exits(0).tells("err\nerr").prints("hi\nhi\n");
    let events =
        env.run("events --stream=false --filter container=one --format {{.Action}}").text();
    let seen: Vec<_> =
        events.lines().filter(|line| ["init", "start", "die"].contains(line)).collect();
    assert_eq!(seen, ["init", "start", "die", "init", "start", "die"]);
}

#[test]
fn it_is_the_prepared_process_that_becomes_the_command() {
    let env = created("--init -h box busy sleep 1000");
    env.run("init one").ok();
    let pid = pid_of(&env, "init");
    let holder = pid_of(&env, "monitor");
    env.run("start one").prints("one\n");
    assert_eq!((pid_of(&env, "init"), pid_of(&env, "monitor")), (pid, holder));
    assert_eq!(state(&env, "Status"), "running");
    env.run("exec one hostname").prints("box\n");
    env.run("start one").prints("one\n");
    env.run("init one").fails_with(1, "it is running already");
    env.run("rm -f one").ok();
}

#[test]
fn what_wants_a_command_that_runs_is_refused() {
    let env = created("busy sleep 1000");
    env.run("init one").ok();
    env.run("init one").fails_with(1, "it is initialized already").tells("hint: ");
    env.run("exec one true").fails_with(1, "container one is not running");
    env.run("pause one").fails_with(1, "container one is not running");
    env.run("kill one").fails_with(1, "is not running");
    env.run("top one").fails_with(1, "is not running");
    env.run("init no-such").fails_with(1, "No such container: no-such");
    env.run("init").exits(125).tells("CONTAINER");
    env.run("create --name two --network none busy true").ok();
    env.run("init --all").hides("one").exits(0);
    env.run("ps -a -f status=initialized --format {{.Names}} --sort names").prints("one\ntwo\n");
    env.run("stop two").prints("two\n");
    env.run("init --latest").exits(0);
    env.run("start --all").exits(0);
    env.run("wait two").prints("0\n");
    env.run("rm -f one two").ok();
}

#[test]
fn it_can_be_undone() {
    let env = created("busy echo hi");
    env.run("init one").ok();
    let (pid, holder) = (pid_of(&env, "init"), pid_of(&env, "monitor"));
    env.run("stop one").prints("one\n");
    assert!(!lives(pid) && !lives(holder));
    // As podman has it.
    assert_eq!((state(&env, "Status"), state(&env, "ExitCode")), ("exited".into(), "137".into()));
    env.run("init one").ok();
    let (pid, holder) = (pid_of(&env, "init"), pid_of(&env, "monitor"));
    // What does not run is removed without force.
    env.run("rm one").prints("one\n");
    assert!(!lives(pid) && !lives(holder));
    env.run("create --name one --network none busy true").ok();
    env.run("init one").ok();
    env.run("restart one").prints("one\n");
    env.run("wait one").prints("0\n");
    env.run("init one").ok();
    env.run("container prune -f").exits(0);
    env.run("ps -aq").prints("");
}

#[test]
fn whoever_of_the_two_is_killed_it_is_what_it_was() {
    let env = created("busy echo hi");
    for who in ["init", "monitor"] {
        env.run("init one").ok();
        let (init, holder) = (pid_of(&env, "init"), pid_of(&env, "monitor"));
        kill(if who == "init" { init } else { holder }, Signal::SIGKILL).unwrap();
        poll("both have ended", || !lives(init) && !lives(holder));
        assert_eq!(state(&env, "Status"), "created", "{who} was killed");
        env.run("system check").exits(0);
    }
    env.run("start -a one").prints("hi\n");
}

#[test]
fn who_waits_or_attaches_before_the_start_is_there() {
    let env = created("-i busy sh -c 'read line; echo got $line; exit 4'");
    env.run("init one").ok();
    let waiting = env.spawn("wait one");
    let mut attached = env.spawn("attach one");
    attached.send("word\n");
    let paths = env.runroot().join("containers").join(env.run("ps -aq --no-trunc").text());
    assert!(paths.join("start.sock").exists());
    env.run("start one").ok();
    attached.expect("got word\n");
    attached.finish().exits(4);
    waiting.finish().prints("4\n");
}

#[test]
fn a_command_that_cannot_be_run_is_told_at_the_start() {
    let env = created("busy no-such-command");
    env.run("init one").prints("one\n");
    env.run("start one").fails_with(1, "exec no-such-command").tells("hint: ");
    assert_eq!((state(&env, "Status"), state(&env, "ExitCode")), ("exited".into(), "127".into()));
    env.run("rm one").ok();
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_prepared_stays_as_it_is() {
    let env = created("--mount type=bind,source=/etc/passwd,target=/bin busy true");
    env.run("init one").fails_with(1, "bind /etc/passwd on /bin");
    assert_eq!(state(&env, "Status"), "created");
    env.run("rm one").ok();
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

#[test]
fn a_terminal_is_there_from_the_start_on() {
    let env = created("-it busy sh -c 'stty size; read line; echo got $line'");
    env.run("init one").ok();
    let run = env.pty("start -ai one", |person| {
        person.expect("\r\n");
        person.send("word\r");
        person.expect("got word");
    });
    run.exits(0);
}

#[test]
fn its_networks_are_there() {
    let env = Env::with("busy", BUSY);
    env.run("network create mine").ok();
    env.run("create --name one --network mine busy sleep 1000").ok();
    env.run("init one").ok();
    let address = "inspect -f '{{.NetworkSettings.Networks.mine.IPAddress}}' one";
    let before = env.run(address).text();
    assert!(before.contains('.'), "{before}");
    env.run("network rm mine").fails_with(1, "active endpoints");
    env.run("start one").ok();
    env.run("exec one hostname -i").prints(&format!("{before}\n"));
    env.run("rm -f one").ok();
}
