//! The life of containers: create, start, stop, kill, wait, rename, rm, and many at once.

use std::{fs, thread, time::Instant};

use nix::sys::signal::Signal;

use crate::{
    capture::DEADLINE,
    env::{Env, Running},
    fixture::BUSY,
};

fn busy() -> Env {
    Env::with("busy", BUSY)
}

#[test]
fn a_stopped_container_keeps_its_files() {
    let env = busy();
    env.run("run --name a --network none busy sh -c 'echo x >> /f; wc -l < /f; exit 3'")
        .exits(3)
        .prints("1\n");
    env.run("start -a a").exits(3).prints("2\n");
    env.run("start a").prints("a\n");
    env.run("wait a").prints("3\n");
    env.run("start -a a").exits(3).prints("4\n");
}

#[test]
fn a_created_container_is_started_with_its_input() {
    let env = busy();
    env.run("create -i --name a --network none busy cat").ok();
    env.run_with_stdin("start -a -i a", "through\n").prints("through\n");
    env.run_with_stdin("start -ai a", "again\n").prints("again\n");
    // Without -i its input is at its end.
    env.run("create --name b --network none busy cat").ok();
    env.run_with_stdin("start -ai b", "lost\n").prints("");
}

#[test]
fn one_that_fails_does_not_keep_the_others_from_starting() {
    let env = busy();
    for name in ["a", "b"] {
        env.run(&format!("create --name {name} --network none busy sleep 1000")).ok();
    }
    env.run("start a no-such b").exits(1).prints("a\nb\n").tells("No such container: no-such");
    env.run("start a").prints("a\n");
    env.run("start -a a b").fails_with(1, "cannot start and attach multiple containers");
    env.run("create --name broken --network none busy no-such-command").ok();
    env.run("start broken").exits(1).tells("no-such-command");
    env.run("rm -f a b no-such broken").prints("a\nb\nbroken\n");
}

#[test]
fn stop_asks_then_kills() {
    let env = busy();
    let polite = env.spawn("run --name polite --network none busy sh -c 'trap \"exit 7\" TERM; echo up; while :; do sleep 0.02; done'");
    polite.expect("up\n");
    env.run("run -d --name deaf --network none busy sleep 1000").ok();
    env.run("stop -t 0 deaf").prints("deaf\n");
    env.run("wait deaf").prints("137\n");
    env.run("stop polite").prints("polite\n");
    polite.finish().exits(7);
    env.run("stop polite deaf").prints("polite\ndeaf\n");
    env.run("stop no-such").fails_with(1, "No such container: no-such");
    env.run("start deaf").ok();
    env.run("stop --signal KILL deaf").ok();
    env.run("wait deaf").prints("137\n");
    env.run("stop -s BOGUS deaf").fails_with(1, "invalid signal: BOGUS");
}

#[test]
fn kill_sends_any_signal() {
    let env = busy();
    let run = env.spawn("run --name a --network none busy sh -c 'trap \"echo usr\" USR1; trap \"exit 4\" INT; echo up; while :; do sleep 0.02; done'");
    run.expect("up\n");
    env.run("kill -s USR1 a").prints("a\n");
    run.expect("usr\n");
    env.run("kill --signal SIGINT a").prints("a\n");
    run.finish().exits(4);
    env.run("kill a").fails_with(1, "is not running");
    env.run("kill -s BOGUS a").fails_with(1, "invalid signal: BOGUS");
}

#[test]
fn wait_prints_each_code() {
    let env = busy();
    env.run("run -d --name a --network none busy sh -c 'exit 1'").ok();
    env.run("run -d --name b --network none busy sh -c 'exit 2'").ok();
    env.run("wait a b").prints("1\n2\n");
    env.run("wait no-such").fails_with(1, "No such container: no-such");
    // Before its end, and of one that removes itself.
    let run = env.spawn("run --rm --name c --network none busy sh -c 'trap \"exit 5\" TERM; echo up; while :; do sleep 0.02; done'");
    run.expect("up\n");
    let wait = env.spawn("wait c");
    until_connected(&wait);
    env.run("kill -s TERM c").ok();
    wait.finish().prints("5\n");
    run.finish().exits(5);
}

/// Until the command has a socket open: it listens to the container's monitor.
fn until_connected(command: &Running) {
    let fds = format!("/proc/{}/fd", command.pid());
    let is_socket = |link: fs::DirEntry| {
        fs::read_link(link.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    let deadline = Instant::now() + DEADLINE;
    while !fs::read_dir(&fds).unwrap().any(|link| is_socket(link.unwrap())) {
        assert!(Instant::now() < deadline, "the command does not connect");
        thread::yield_now();
    }
}

#[test]
fn remove_takes_many_and_kills_if_forced() {
    let env = busy();
    for name in ["a", "b", "c"] {
        env.run(&format!("run -d --name {name} --network none busy sleep 1000")).ok();
    }
    env.run("rm a").fails_with(1, "cannot remove container a: container is running");
    env.run("rm -f a b c").prints("a\nb\nc\n");
    env.run("rm -f a").prints("");
    env.run("rm a").fails_with(1, "No such container: a");
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

#[test]
fn files_nobody_may_write_are_removed_too() {
    let env = busy();
    env.run("run --name a --network none busy sh -c 'mkdir -p /d/e && echo x > /d/e/f && chmod 0 /d/e /d/e/f && chown 5:6 /d /d/e'")
        .ok();
    env.run("rm a").prints("a\n");
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

#[test]
fn a_name_is_free_after_the_container() {
    let env = busy();
    for _ in 0..2 {
        env.run("run --name a --network none busy true").ok();
        env.run("rm a").ok();
        env.run("run --rm --name a --network none busy true").ok();
    }
}

#[test]
fn an_id_is_known_by_its_beginning() {
    let env = busy();
    let id = env.run("create --network none busy true").text();
    assert!(id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    env.run(&format!("start {}", &id[..12])).prints(&format!("{}\n", &id[..12]));
    env.run(&format!("wait {}", &id[..6])).prints("0\n");
    env.run(&format!("rm {id}")).prints(&format!("{id}\n"));
    env.run(&format!("rm {id}")).fails_with(1, "No such container");
}

#[test]
fn a_renamed_container_is_found_by_the_new_name() {
    let env = busy();
    env.run("create --name first --network none busy echo hi").ok();
    env.run("create --name other --network none busy true").ok();
    env.run("rename first other").fails_with(1, "already in use");
    env.run("rename first first").fails_with(1, "same name");
    env.run("rename first -- -x").fails_with(1, "invalid container name");
    env.run("rename first second").prints("");
    env.run("start -a second").prints("hi\n");
    env.run("start first").fails_with(1, "No such container: first");
    env.run("create --name first --network none busy true").ok();
}

#[test]
fn a_container_that_cannot_start_and_removes_itself_leaves_nothing() {
    let env = busy();
    env.run("run --rm --name a --network none busy no-such").exits(127);
    env.run("run --rm -d --name a --network none busy no-such").exits(127).prints("");
    env.run("run --rm --name a --network none -w /etc/passwd busy true").exits(126);
    assert_eq!(env.leftovers(), Vec::<String>::new());
    // Without --rm it stays, with its code.
    env.run("run --name a --network none busy no-such").exits(127);
    env.run("wait a").prints("127\n");
}

#[test]
fn of_two_that_want_one_name_one_gets_it() {
    let env = busy();
    let racers: Vec<_> =
        (0..8).map(|_| env.spawn("create --name a --network none busy true")).collect();
    let ends: Vec<_> = racers.into_iter().map(|racer| racer.finish()).collect();
    let winners = ends.iter().filter(|end| end.code == 0).count();
    assert_eq!(winners, 1, "{ends:?}");
    for loser in ends.into_iter().filter(|end| end.code != 0) {
        loser.fails_with(125, "\"a\" is already in use");
    }
    env.run("rm a").ok();
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

#[test]
fn sixteen_run_side_by_side() {
    let env = busy();
    let runs: Vec<_> = (0..16)
        .map(|n| env.spawn(&format!("run --rm --network none busy sh -c 'echo {n}; exit {n}'")))
        .collect();
    for (n, run) in runs.into_iter().enumerate() {
        run.finish().exits(i32::try_from(n).unwrap()).prints(&format!("{n}\n"));
    }
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

#[test]
fn a_container_cannot_be_started_twice_at_once() {
    let env = busy();
    env.run("create --name a --network none busy sh -c 'echo x >> /count; sleep 1000'").ok();
    let starts: Vec<_> = (0..4).map(|_| env.spawn("start a")).collect();
    for start in starts {
        let end = start.finish();
        assert!(end.code == 0 || end.stderr.contains("running already"), "{end:?}");
    }
    env.run("exec a sh -c 'until test -s /count; do :; done; wc -l < /count'").prints("1\n");
}

#[test]
fn a_full_log_or_pipe_does_not_stop_a_detached_container() {
    let env = busy();
    env.run("run -d --name a --network none busy sh -c 'head -c 300000 /dev/zero | tr \"\\0\" x; echo; exit 6'")
        .ok();
    env.run("wait a").prints("6\n");
}

#[test]
fn a_damaged_record_is_told_and_can_be_removed() {
    let env = busy();
    let id = env.run("create --name a --network none busy true").text();
    let record = env.root().join("containers").join(&id).join("container.json");
    let text = fs::read(&record).unwrap();
    fs::write(&record, &text[..text.len() / 2]).unwrap();
    env.run("start a").exits(1).tells("container.json");
    env.run("exec a true").exits(125).tells("container.json");
    env.run("rm -f a").prints("a\n");
    env.run("create --name a --network none busy true").ok();
}

#[test]
fn a_killed_creation_leaves_a_store_that_works() {
    let env = busy();
    for _ in 0..5 {
        let run = env.spawn("create --name a --network none busy true");
        // At some moment of its life, or after it.
        run.signal(Signal::SIGKILL);
        drop(run.finish());
        env.run("rm -f a").exits(0);
        env.run("create --name a --network none busy true").ok();
        env.run("rm a").ok();
    }
    // What it staged is no container; a later clean-up takes it.
    for entry in fs::read_dir(env.root().join("staging")).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
}
