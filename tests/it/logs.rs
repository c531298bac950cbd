//! `logs`: everything that was written, once, in order.

use std::{fs, io::Write as _};

use crate::{env::Env, fixture::BUSY};

#[test]
fn each_stream_goes_where_it_came_from() {
    let env = Env::with("busy", BUSY);
    env.run("run --network none --name a busy sh -c 'echo out; echo err >&2; printf end'").exits(0);
    let shown = env.run("logs a").exits(0);
    assert_eq!((shown.stdout.as_str(), shown.stderr.as_str()), ("out\nend", "err\n"));
    env.run("container logs -n 1 a").prints("end");
    env.run("logs nobody").fails_with(1, "No such container: nobody");
    env.run("logs -n few a").fails_with(1, "--tail");
    env.run("logs --since yesterday a").fails_with(1, "yesterday");
}

#[test]
fn lines_are_chosen_by_number_and_time() {
    let env = Env::with("busy", BUSY);
    env.run("run --network none --name a busy seq 5").exits(0);
    env.run("logs a").prints("1\n2\n3\n4\n5\n");
    env.run("logs --tail 2 a").prints("4\n5\n");
    env.run("logs --tail 0 a").prints("");
    env.run("logs --tail -1 a").prints("1\n2\n3\n4\n5\n");
    env.run("logs --tail 99 a").prints("1\n2\n3\n4\n5\n");
    env.run("logs --since 1h a").prints("1\n2\n3\n4\n5\n");
    env.run("logs --until 1h a").prints("");
    env.run("logs --since 2100-01-01 a").prints("");
    let stamped = env.run("logs -t -n 1 a").text();
    assert_eq!(env.tidy(&stamped), "[TIME] 5");
    let (time, _) = stamped.split_once(' ').unwrap();
    assert_eq!(time.len(), "2026-01-02T03:04:05.123456789Z".len());
    env.run(&format!("logs --since {time} -n 1 a")).prints("5\n");
    env.run("logs --details -n 1 a").prints(" 5\n");
}

#[test]
fn following_ends_with_the_container_and_misses_nothing() {
    let env = Env::with("busy", BUSY);
    let script =
        "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); usleep 500; done; printf tail";
    // Rotated about twenty times; more files than that are kept.
    env.run(&format!(
        "run --network none -d --name a --log-opt max-size=2k --log-opt max-file=99 busy sh -c '{script}'"
    ))
    .exits(0);
    let expected: String = (0..400).map(|n| format!("line {n}\n")).collect();
    let expected = expected + "tail";
    env.run("logs -f a").prints(&expected);
    env.run("logs a").prints(&expected);
    let id = env.run("ps -aq --no-trunc").text();
    assert!(env.root().join("containers").join(id).join("log.json.9").exists());
}

#[test]
fn following_a_container_that_is_removed_ends() {
    let env = Env::with("busy", BUSY);
    env.run("run --network none -d --rm --name a busy sh -c 'echo up; sleep 60'").exits(0);
    let follower = env.spawn("logs -f a");
    follower.expect("up\n");
    env.run("rm -f a").exits(0);
    follower.finish().prints("up\n");
}

#[test]
fn following_a_container_whose_monitor_is_killed_ends() {
    let env = Env::with("busy", BUSY);
    let id = env.run("run --network none -d --name a busy sh -c 'echo up; sleep 60'").text();
    let text = fs::read_to_string(env.runroot().join("containers").join(&id).join("process.json"));
    let process: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
    let follower = env.spawn("logs -f a");
    follower.expect("up\n");
    for who in ["monitor", "init"] {
        let pid = i32::try_from(process[who]["pid"].as_i64().unwrap()).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    follower.finish().prints("up\n");
}

#[test]
fn following_stops_at_until() {
    let env = Env::with("busy", BUSY);
    env.run("run --network none -d --name a busy sh -c 'echo up; sleep 60'").exits(0);
    let soon = jiff::Timestamp::now() + std::time::Duration::from_millis(300);
    env.run(&format!("logs -f --until {soon} a")).prints("up\n");
    assert!(jiff::Timestamp::now() >= soon);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let env = Env::with("busy", BUSY);
    env.run("run --network none --name a busy seq 50000").exits(0);
    let mut command = env.command("logs a");
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn without_a_log_there_is_nothing_to_read() {
    let env = Env::with("busy", BUSY);
    env.run("run --network none --name a --log-driver none busy echo hi").prints("hi\n");
    env.run("logs a").fails_with(1, "configured logging driver does not support reading");
    env.run("create --network none --name b busy echo hi").exits(0);
    env.run("logs b").prints("");
    env.run("logs -f b").prints("");
}

#[test]
fn a_torn_line_is_told_and_costs_only_itself() {
    let env = Env::with("busy", BUSY);
    let id = env.run("run --network none -d --name a busy echo one").text();
    env.run("wait a").prints("0\n");
    let log = env.root().join("containers").join(id).join("log.json");
    let mut file = fs::File::options().append(true).open(&log).unwrap();
    file.write_all(b"{\"log\":\"to").unwrap();
    env.run("start -a a").prints("one\n");
    let shown = env.run("logs a").warns("1 line of the log could not be read");
    assert_eq!(shown.stdout, "one\none\n");
}
