//! restart, pause, top, attach, wait for conditions, prune, exists, port.

use nix::sys::signal::Signal;

use crate::{env::Env, fixture::BUSY, needs::needs};

fn sleeping(names: &str) -> Env {
    let env = Env::with("busy", BUSY);
    for name in names.split(' ') {
        env.run(&format!("run -d --name {name} --network none busy sleep 1000")).ok();
    }
    env
}

fn state(env: &Env, name: &str, field: &str) -> String {
    env.run(&format!("inspect -f '{{{{.State.{field}}}}}' {name}")).text()
}

#[test]
fn restart_stops_and_starts() {
    let env = Env::with("busy", BUSY);
    env.run("run -d --name a --network none busy sh -c 'echo run >> /f; trap \"exit 0\" TERM; while :; do sleep 0.02; done'").ok();
    env.run("create --name b --network none busy sleep 1000").ok();
    env.run("exec a sh -c 'until test -s /f; do :; done'").ok();
    let before = state(&env, "a", "Pid");
    env.run("restart -t 5 a b").prints("a\nb\n");
    assert_ne!(state(&env, "a", "Pid"), before);
    env.run("exec a sh -c 'until test $(wc -l < /f) = 2; do :; done'").ok();
    assert_eq!(state(&env, "b", "Running"), "true");
    env.run("restart no-such").fails_with(1, "No such container: no-such");
    env.run("restart -s BOGUS a").fails_with(1, "invalid signal: BOGUS");
    env.run("restart").exits(125).tells("CONTAINER");
}

#[test]
fn a_restart_keeps_what_removes_itself() {
    let env = Env::with("busy", BUSY);
    env.run("run -d --rm --name a --network none busy sleep 1000").ok();
    env.run("restart -t 0 a").prints("a\n");
    assert_eq!(state(&env, "a", "Running"), "true");
    env.run("stop -t 0 a").ok();
    env.run("container exists a").exits(1);
}

#[test]
fn a_paused_container_stands_still() {
    needs!(cgroup_dir());
    let env = sleeping("a");
    env.run("run -d --name b --network none busy sh -c 'trap \"exit 9\" TERM; touch /set; while :; do sleep 0.02; done'").ok();
    env.run("exec b sh -c 'until test -e /set; do :; done'").ok();
    env.run("pause a b").prints("a\nb\n");
    assert_eq!(state(&env, "a", "Status"), "paused");
    assert_eq!(state(&env, "a", "Paused"), "true");
    assert_eq!(state(&env, "a", "Running"), "true");
    env.run("ps --filter status=paused --format {{.Names}}").prints("b\na\n");
    env.run("ps --format {{.Status}}").shows("(Paused)");
    env.run("pause a").fails_with(1, "container a is already paused");
    env.run("exec a true").fails_with(1, "is paused, unpause the container before exec");
    env.run("attach a").fails_with(1, "paused container");
    env.run("rm a").fails_with(1, "container is paused and must be unpaused first");
    env.run("start a").prints("a\n");
    assert_eq!(state(&env, "a", "Status"), "paused", "start leaves it alone");
    // A signal that ends it is heard.
    env.run("stop b").prints("b\n");
    env.run("wait b").prints("9\n");
    env.run("unpause a").prints("a\n");
    assert_eq!(state(&env, "a", "Status"), "running");
    env.run("exec a echo on").prints("on\n");
    env.run("unpause a").fails_with(1, "container a is not paused");
    env.run("pause b").fails_with(1, "container b is not running");
    env.run("unpause b").fails_with(1, "container b is not paused");
    env.run("pause --all").exits(0);
    env.run("kill a").prints("a\n");
    env.run("wait a").prints("137\n");
    env.run("start a").ok();
    env.run("pause a").ok();
    env.run("restart -t 0 a").ok();
    assert_eq!(state(&env, "a", "Status"), "running");
    env.run("pause a").ok();
    env.run("rm -f a").prints("a\n");
}

#[test]
fn top_shows_the_containers_processes_and_no_others() {
    let env = sleeping("a b");
    let pid = state(&env, "a", "Pid");
    let top = env.run("top a").text();
    let lines: Vec<Vec<&str>> = top.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert_eq!(lines.len(), 2, "{top}");
    assert_eq!((lines[1][1], &lines[1][7..]), (pid.as_str(), &["sleep", "1000"][..]));
    env.run("container top a").shows("sleep 1000");
    env.run("top no-such").fails_with(1, "No such container: no-such");
    env.run("stop -t 0 b").ok();
    env.run("top b").fails_with(1, "container b is not running");
    needs!(tool("ps"));
    let top = env.run("top a -o pid,args").text();
    assert_eq!(top.lines().count(), 2, "{top}");
    assert!(top.lines().next().is_some_and(|line| line.starts_with("PID")), "{top}");
    assert!(top.contains(&pid) && top.ends_with("sleep 1000"), "{top}");
    env.run("top a -o args").fails_with(1, "PID field");
    env.run("top a --no-such-option").exits(1).tells("ps --no-such-option");
}

#[test]
fn attach_joins_and_leaves() {
    let env = Env::with("busy", BUSY);
    env.run("run -d -i --name a --network none busy sh -c '(while :; do echo tick; sleep 0.02; done) & while read line; do echo got $line; done; exit 3'").ok();
    let mut one = env.spawn("attach a");
    one.send("first\n");
    one.expect("got first\n");
    // The container's input outlives those who write to it: it was started detached.
    let two = env.spawn("attach --no-stdin a");
    two.expect("tick\n");
    drop(one);
    let mut three = env.spawn("attach a");
    three.send("second\n");
    three.expect("got second\n");
    two.expect("got second\n");
    env.run("kill a").ok();
    three.finish().exits(137);
    two.finish().exits(137);
    env.run("attach a").fails_with(1, "you cannot attach to a stopped container");
    env.run("attach no-such").fails_with(1, "No such container: no-such");
}

#[test]
fn attach_passes_signals_on_unless_told_otherwise() {
    let env = Env::with("busy", BUSY);
    env.run("run -d --name a --network none busy sh -c 'trap \"exit 4\" INT; while :; do echo up; sleep 0.02; done'").ok();
    let other = env.spawn("attach --sig-proxy=false a");
    other.expect("up\n");
    other.signal(Signal::SIGINT);
    other.finish().exits(130);
    let attached = env.spawn("attach a");
    attached.expect("up\n");
    attached.signal(Signal::SIGINT);
    attached.finish().exits(4);
}

#[test]
fn attach_on_a_terminal_can_be_left() {
    let env = Env::with("busy", BUSY);
    env.run("run -d -it --name a --network none busy sh").ok();
    let left = env.pty("attach --detach-keys ctrl-x a", |person| {
        person.send("echo here $((40+2))\n");
        person.expect("here 42");
        person.send("\x18");
    });
    left.exits(0);
    env.run("exec a true").ok();
    env.run_with_stdin("attach a", "").fails_with(1, "not a TTY");
}

#[test]
fn wait_for_a_condition() {
    let env = sleeping("a");
    env.run("wait --condition running a").prints("-1\n");
    env.run("create --name two --network none busy sh -c 'exit 6'").ok();
    env.run("wait --condition created two").prints("-1\n");
    let exit = env.spawn("wait --condition exited two");
    let removed = env.spawn("wait --condition removed two");
    env.run("start two").ok();
    exit.finish().prints("6\n");
    env.run("wait --condition stopped --condition paused two").prints("6\n");
    env.run("rm two").ok();
    removed.finish().prints("6\n");
    env.run("wait --ignore two").prints("-1\n");
    env.run("wait two").fails_with(1, "No such container: two");
    env.run("wait --condition bogus a").fails_with(1, "invalid condition: \"bogus\"");
}

#[test]
fn prune_takes_what_does_not_run() {
    let env = sleeping("a");
    env.run("create --name b --label keep=1 --network none busy true").ok();
    let id = env.run("run -d --name c --network none busy sh -c 'echo 12345 > /f'").text();
    env.run("wait c").prints("0\n");
    let asked = env.run_with_stdin("container prune", "n\n").exits(0);
    assert!(asked.stdout.ends_with("Are you sure you want to continue? [y/N] "));
    env.run("container prune -f --filter until=2000-01-01").prints("Total reclaimed space: 0B\n");
    env.run("container prune -f --filter label!=keep")
        .prints(&format!("Deleted Containers:\n{id}\n\nTotal reclaimed space: 6B\n"));
    env.run("container prune -f --filter bogus=1").fails_with(1, "invalid filter");
    env.run_with_stdin("container prune --filter label=keep=1", "y\n")
        .shows("WARNING! This will remove all stopped containers");
    env.run("ps -a --format {{.Names}}").prints("a\n");
}

#[test]
fn exists_and_port_tell() {
    let env = sleeping("a");
    env.run("container exists a").prints("");
    env.run("container exists no-such").fails_with(1, "");
    env.run("port a").prints("");
    env.run("port a 80").fails_with(1, "no public port '80/tcp' published for a");
    env.run("port no-such").fails_with(1, "No such container: no-such");
    let sizes = env.run("container inspect -s -f '{{.SizeRw}} {{.SizeRootFs}}' a").text();
    assert!(sizes.starts_with("0 ") && !sizes.ends_with(" 0"), "{sizes}");
}

#[test]
fn several_are_chosen_at_once() {
    let env = sleeping("a b");
    let file = env.path("cid");
    let file = file.to_str().unwrap();
    env.run(&format!(
        "create --cidfile {file} --name c --label x=y --network none busy sleep 1000"
    ))
    .ok();
    env.run("start --filter label=x=y").exits(0);
    assert_eq!(state(&env, "c", "Running"), "true");
    env.run(&format!("stop -t 0 --cidfile {file}")).exits(0);
    assert_eq!(state(&env, "c", "Running"), "false");
    env.run("kill --latest").fails_with(1, "is not running");
    env.run("stop -t 0 --ignore no-such b").prints("b\n");
    env.run("stop -t 0 --all").exits(0);
    env.run("ps -q").prints("");
    env.run("rm --all").exits(0);
    env.run("ps -aq").prints("");
    env.run("start --latest").fails_with(1, "there is no container");
}

#[test]
fn a_joined_ipc_namespace_brings_its_shared_memory() {
    let env = Env::with("busy", BUSY);
    env.run("run -d --name one --ipc shareable --network none busy sh -c 'echo hi > /dev/shm/f; sleep 1000'").ok();
    env.run("exec one sh -c 'until test -s /dev/shm/f; do :; done'").ok();
    let run = "run --rm --network none --ipc container:one";
    env.run(&format!("{run} busy sh -c 'cat /dev/shm/f; echo back > /dev/shm/g'")).prints("hi\n");
    env.run("exec one cat /dev/shm/g").prints("back\n");
    env.run(&format!("{run} --pid container:one busy cat /dev/shm/g")).prints("back\n");
    env.run(&format!("{run} --tmpfs /dev/shm busy ls /dev/shm")).prints("");
    env.run("run --rm --network none busy ls /dev/shm").prints("");
    env.run("rm -f one").ok();
}

#[test]
fn a_flag_takes_a_truth() {
    let env = Env::with("busy", BUSY);
    let run = "run --rm=true --network none --privileged=false -i=false";
    env.run(&format!("{run} busy echo hi -t=false --rm=true")).prints("hi -t=false --rm=true\n");
    env.run("ps -a=true -q=1").prints("");
    env.run("run -d=true --init=T --name one --network none busy sleep 1000").ok();
    env.run("exec -t=false one echo on").prints("on\n");
    env.run("rm --force=true one").prints("one\n");
    env.run("run --rm=maybe busy true").exits(125).tells("maybe");
}
