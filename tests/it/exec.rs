//! `exec`: another process in a container that runs.

use crate::{env::Env, fixture::BUSY};

/// A container `a` that sleeps.
fn sleeping(flags: &str) -> Env {
    let env = Env::with("busy", BUSY);
    env.run(&format!("run -d --name a --network none {flags} busy sleep 1000")).ok();
    env
}

#[test]
fn exec_is_inside() {
    let env = sleeping("-h box");
    env.run("exec a hostname").prints("box\n");
    env.run("exec a ps -o args").shows("sleep 1000");
    for ns in ["pid", "ipc", "uts", "net", "mnt", "cgroup", "user"] {
        let of = |pid: &str| env.run(&format!("exec a readlink /proc/{pid}/ns/{ns}")).text();
        assert_eq!(of("1"), of("self"), "the {ns} namespace");
    }
    let confinement = "grep -E '^(CapBnd|CapEff|Seccomp|NoNewPrivs):'";
    let of = |pid: &str| env.run(&format!("exec a {confinement} /proc/{pid}/status")).text();
    assert_eq!(of("1"), of("self"));
}

/// What its start left for an exec is a short cut and no more: without it, or with another
/// version's, the spec says the same.
#[test]
fn it_is_the_same_without_the_plan_that_the_start_left() {
    let env = sleeping("-u user --group-add 7 -e A=1 -w /tmp --cap-drop chown");
    let look = "exec a sh -c 'id; env; pwd; grep -E ^Cap\\|^Seccomp /proc/self/status'";
    let before = env.run(look).text();
    let id = env.run("inspect --format {{.Id}} a").text();
    let plan = env.runroot().join("containers").join(id.trim()).join("exec.plan");
    for foreign in ["", "dhow 0.0.0 plan 0\n"] {
        std::fs::write(&plan, foreign).unwrap();
        assert_eq!(env.run(look).text(), before);
    }
    std::fs::remove_file(&plan).unwrap();
    assert_eq!(env.run(look).text(), before);
    assert!(before.contains("A=1") && before.contains("/tmp"), "{before}");
}

#[test]
fn its_environment_is_the_containers_and_more() {
    let env = sleeping("-e A=1 -e B=2 -h box");
    let file = env.file("vars", "C=3\nB=file\n");
    env.run(&format!("exec --env-file {file} -e D=4 -e A=exec a env")).prints_lines([
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=box",
        "HOME=/root",
        "A=exec",
        "B=file",
        "C=3",
        "D=4",
    ]);
    env.run("exec -u user a sh -c 'echo $HOME'").prints("/home/user\n");
    env.run("exec --env-file /no/such a env").fails_with(125, "/no/such");
}

#[test]
fn its_user_and_directory() {
    let env = sleeping("-u user -w /tmp");
    env.run("exec a id").prints("uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)\n");
    env.run("exec -u 0 a id -u").prints("0\n");
    env.run("exec -u 5:6 a sh -c 'id -u; id -g'").prints("5\n6\n");
    env.run("exec a pwd").prints("/tmp\n");
    env.run("exec -w /etc a pwd").prints("/etc\n");
    env.run("exec -w /no/such a pwd").exits(127).tells("/no/such");
    env.run("exec -w relative a pwd").fails_with(125, "not absolute");
    env.run("exec -u nobody a true").fails_with(125, "unable to find user nobody");
}

#[test]
fn accounts_are_those_of_now() {
    let env = sleeping("");
    env.run("exec a sh -c 'echo late:x:77:78::/late:/bin/sh >> /etc/passwd'").ok();
    env.run("exec -u late a sh -c 'id -u; id -g; echo $HOME'").prints("77\n78\n/late\n");
}

#[test]
fn its_exit_code_is_the_commands() {
    let env = sleeping("");
    env.run("exec a sh -c 'exit 42'").exits(42);
    env.run("exec a sh -c 'kill -9 $$'").exits(137);
    env.run("exec a no-such").fails_with(127, "no-such");
    env.run("exec a /etc").fails_with(126, "/etc");
    env.run("exec a").exits(125);
    env.run("exec").exits(125);
    env.run("exec --bogus a true").exits(125);
}

#[test]
fn only_in_a_container_that_runs() {
    let env = Env::with("busy", BUSY);
    env.run("create --name made --network none busy true").ok();
    env.run("exec made true")
        .fails_with(1, "container made is not running")
        .tells("dhow start made");
    env.run("exec no-such true").fails_with(1, "No such container: no-such");
    env.run("run --name ended --network none busy true").ok();
    env.run("exec ended true").fails_with(1, "container ended is not running");
}

#[test]
fn its_streams() {
    let env = sleeping("");
    let run = env.run("exec a sh -c 'echo out; echo err >&2'").exits(0).prints("out\n");
    assert_eq!(run.stderr, "err\n");
    env.run_with_stdin("exec -i a cat", "hello").prints("hello");
    env.run_with_stdin("exec a cat", "hello").prints("");
    let data: Vec<u8> =
        (0..1_000_003_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let back = env.run_with_stdin("exec -i a cat", data.clone()).exits(0);
    assert!(back.bytes == data, "{} bytes came back of {}", back.bytes.len(), data.len());
    env.run("exec -t a true").exits(0);
    env.run_with_stdin("exec -it a true", "").fails_with(125, "TTY");
}

#[test]
fn on_a_terminal() {
    let env = sleeping("");
    env.pty("exec -it a sh -c 'tty; echo $TERM; stty size; read x; echo got $x'", |person| {
        person.expect("/dev/pts/");
        person.expect("xterm");
        person.expect("24 80");
        person.send("line\r");
        person.expect("got line");
    })
    .exits(0);
}

#[test]
fn in_the_background() {
    let env = sleeping("");
    env.run("exec -d a sh -c 'sleep 0.05; touch /tmp/done'").prints("");
    env.run("exec a sh -c 'until test -e /tmp/done; do sleep 0.02; done; echo seen'")
        .prints("seen\n");
    env.run("exec -d a no-such").exits(127);
}

#[test]
fn a_privileged_one_has_every_capability() {
    let env = sleeping("");
    env.run("exec a sh -c 'mkdir /m; mount -t tmpfs none /m'").exits(1);
    env.run("exec --privileged a mount -t tmpfs none /m").ok();
    env.run("exec --privileged a grep Seccomp: /proc/self/status").prints("Seccomp:\t0\n");
}

#[test]
fn it_is_in_the_containers_cgroup() {
    let env = sleeping("");
    let of = |pid: &str| env.run(&format!("exec a grep ^0:: /proc/{pid}/cgroup")).text();
    assert_eq!(of("1"), of("self"));
}

#[test]
fn it_ends_with_its_container() {
    let env = sleeping("");
    let exec = env.spawn("exec a sh -c 'echo up; sleep 1000'");
    exec.expect("up\n");
    env.run("kill a").prints("a\n");
    exec.finish().exits(137);
}

mod rootless {
    use super::sleeping;

    #[test]
    fn a_user_that_is_not_mapped_is_named() {
        let env = sleeping("");
        env.run("exec -u 70000 a true").fails_with(125, "uid 70000");
    }
}
