//! Monitors: logs on disk, and the truth about containers after violence.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    env::{Env, Running, poll},
    fixture::BUSY,
};

/// `sleep` that ends when asked to: the kernel drops default-action signals sent to a pid
/// namespace's init.
const SLEEPER: &str =
    "sh -c 'trap \"exit 0\" TERM; echo up; while :; do sleep 1000 & wait $!; done'";

#[track_caller]
fn busy() -> Env {
    Env::with("busy", BUSY)
}

/// Starts a detached container; its id.
#[track_caller]
fn start(env: &Env, flags: &str, command: &str) -> String {
    let run =
        env.run(&format!("run -d --network none --log-driver json-file {flags} busy {command}"));
    run.text()
}

/// A file of a container in the store.
fn stored(env: &Env, id: &str, name: &str) -> PathBuf {
    env.root().join("containers").join(id).join(name)
}

/// What the store says of a container's processes while it runs.
fn process(env: &Env, id: &str) -> Option<Value> {
    let path = env.runroot().join("containers").join(id).join("process.json");
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn pid_of(env: &Env, id: &str, which: &str) -> Pid {
    let process = process(env, id).unwrap();
    Pid::from_raw(process[which]["pid"].as_i64().unwrap().try_into().unwrap())
}

/// Kills one of a container's processes and waits until it is dead, reaped or not.
fn slay(pid: Pid) {
    kill(pid, Signal::SIGKILL).unwrap();
    poll("the process dies", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    });
}

/// The objects of one log file.
fn entries(path: PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One stream of a container's log as it was written.
fn logged(env: &Env, id: &str, stream: &str) -> String {
    let entries = entries(stored(env, id, "log.json"));
    let of_stream = entries.iter().filter(|entry| entry["stream"] == stream);
    of_stream.map(|entry| entry["log"].as_str().unwrap()).collect()
}

/// The only container in the store.
fn only_id(env: &Env) -> String {
    let mut ids = fs::read_dir(env.root().join("containers")).unwrap();
    ids.next().unwrap().unwrap().file_name().into_string().unwrap()
}

/// Lets a container end that waits for `/go`; it may take along whoever made that.
#[track_caller]
fn go(env: &Env) {
    let run = env.run("exec c touch /go");
    assert!([0, 137].contains(&run.code), "{run:?}");
}

// --- violence ------------------------------------------------------------------------------------

#[test]
fn a_killed_command_leaves_its_container_running_and_logged() {
    let env = busy();
    let line = "run -i --name c --network none --log-driver json-file busy sh -c 'echo one; while [ ! -e /go ]; do usleep 1000; done; echo two; exit 3'";
    let run = env.spawn(line);
    run.expect("one\n");
    run.signal(Signal::SIGKILL);
    drop(run);
    go(&env);
    env.run("wait c").prints("3\n");
    assert_eq!(logged(&env, &only_id(&env), "stdout"), "one\ntwo\n");
}

#[test]
fn a_killed_command_lets_a_talkative_container_go_on() {
    let env = busy();
    let run = env.spawn(
        "run --name c --network none busy sh -c 'yes | head -c 4000000; touch /done; sleep 1000'",
    );
    run.expect("y\n");
    run.signal(Signal::SIGSTOP);
    run.signal(Signal::SIGKILL);
    drop(run);
    poll("the rest is written", || env.run("exec c test -e /done").code == 0);
    env.run("rm -f c").exits(0);
}

#[test]
fn without_its_monitor_a_container_runs_and_can_be_stopped() {
    let env = busy();
    let id = start(&env, "--name c", SLEEPER);
    // Else the monitor can die before it has read this, and the log never holds it.
    poll("its trap is set", || env.run("logs c").stdout == "up\n");
    slay(pid_of(&env, &id, "monitor"));
    env.run("exec c echo alive").prints("alive\n");
    env.run("rm c").fails_with(1, "container is running");
    env.run("stop c").prints("c\n");
    // Nobody saw how it ended, and that is what is told.
    env.run("wait c").prints("255\n");
    env.run("start c").prints("c\n");
    poll("its trap is set again", || env.run("logs c").stdout == "up\nup\n");
    env.run("stop c").prints("c\n");
    env.run("wait c").prints("0\n");
}

#[test]
fn without_its_monitor_a_container_can_be_killed_and_removed() {
    let env = busy();
    let id = start(&env, "--name c", SLEEPER);
    slay(pid_of(&env, &id, "monitor"));
    env.run("kill c").prints("c\n");
    env.run("wait c").prints("255\n");
    env.run("rm c").prints("c\n");
    let id = start(&env, "--name c", SLEEPER);
    slay(pid_of(&env, &id, "monitor"));
    env.run("rm -f c").prints("c\n");
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

#[test]
fn a_wait_outlives_the_monitor() {
    let env = busy();
    let id = start(&env, "--name c", SLEEPER);
    let wait = env.spawn("wait c");
    slay(pid_of(&env, &id, "monitor"));
    env.run("kill c").exits(0);
    wait.finish().prints("255\n");
}

#[test]
fn a_killed_init_is_told_as_137() {
    let env = busy();
    let id = start(&env, "--name c", "sleep 1000");
    let wait = env.spawn("wait c");
    kill(pid_of(&env, &id, "init"), Signal::SIGKILL).unwrap();
    wait.finish().prints("137\n");
    env.run("wait c").prints("137\n");
}

#[test]
fn after_a_reboot_what_ran_has_ended_with_255_and_starts_again() {
    let env = busy();
    let id = start(&env, "--name c", SLEEPER);
    env.run("create --name never --network none busy true").exits(0);
    env.run("run --name done --network none busy sh -c 'exit 4'").exits(4);
    let (monitor, init) = (pid_of(&env, &id, "monitor"), pid_of(&env, &id, "init"));
    slay(monitor);
    slay(init);
    fs::remove_dir_all(env.runroot()).unwrap();
    env.run("wait c done").prints("255\n4\n");
    env.run("exec c true").exits(1).tells("is not running");
    env.run("start never c").exits(0);
    env.run("exec c echo again").prints("again\n");
    env.run("wait never").prints("0\n");
    env.run("stop c").exits(0);
}

#[test]
fn a_start_that_is_killed_anywhere_leaves_a_store_to_go_on_with() {
    let env = busy();
    env.run(&format!("create --name c --network none busy {SLEEPER}")).exits(0);
    let id = only_id(&env);
    for round in 0..24u32 {
        let mut command = env.command("start c");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut start = command.spawn().unwrap();
        // From right after the fork to about when it is through, on any machine.
        let children = format!("/proc/{0}/task/{0}/children", start.id());
        let mut victim = None;
        poll("there is a monitor, or it is through", || {
            let text = fs::read_to_string(&children).unwrap_or_default();
            victim = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
            victim.is_some() || start.try_wait().unwrap().is_some()
        });
        thread::sleep(Duration::from_micros(u64::from(round) * 700));
        if let Some(victim) = victim {
            // It may have gone by itself.
            let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
        }
        if round % 3 == 0 {
            let _ = start.kill();
        }
        start.wait().unwrap();
        // Whatever was left: it is running, or is started now.
        env.run("start c").exits(0);
        env.run("exec c true").exits(0);
        assert!(process(&env, &id).is_some());
        env.run("kill c").exits(0);
        env.run("wait c").exits(0);
    }
}

#[test]
fn a_descriptor_of_the_callers_parent_is_not_kept() {
    let env = busy();
    let dhow = env.command("");
    let mut sh = Command::new("/bin/sh");
    sh.args(["-c", r#"exec 9>&1 7>&2; exec "$0" run -d --network none busy sleep 1000"#]);
    sh.arg(dhow.get_program()).env_clear().current_dir(dhow.get_current_dir().unwrap());
    sh.envs(dhow.get_envs().filter_map(|(key, value)| Some((key, value?))));
    // `finish` insists on the end of both streams.
    env.spawn_command("sh -c 'dhow run -d'", sh).finish().exits(0);
}

// --- logs ----------------------------------------------------------------------------------------

#[test]
fn a_log_is_complete_to_the_last_byte() {
    let env = busy();
    let script = "seq 100000; yes \"$(seq -s, 250)\" | head -c 50000000; seq 100000";
    let id = start(&env, "", &format!("sh -c '{script}'"));
    env.run(&format!("wait {id}")).prints("0\n");
    let numbers = (1..=100_000).map(|n| format!("{n}\n")).collect::<String>();
    let line = (1..=250).map(|n| n.to_string()).collect::<Vec<_>>().join(",") + "\n";
    let much: String = line.chars().cycle().take(50_000_000).collect();
    assert!(logged(&env, &id, "stdout") == numbers.clone() + &much + &numbers);
}

#[test]
fn streams_keep_their_order_and_long_and_unfinished_lines_their_bytes() {
    let env = busy();
    let script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo o$i; echo e$i >&2; done; head -c 40000 /dev/zero | tr \"\\\\0\" x; echo; printf end; printf err >&2";
    let id = start(&env, "", &format!("sh -c '{script}'"));
    env.run(&format!("wait {id}")).prints("0\n");
    let numbered =
        |letter: char| (1..=300).map(|i| format!("{letter}{i}\n")).collect::<Vec<_>>().concat();
    assert_eq!(logged(&env, &id, "stdout"), numbered('o') + &"x".repeat(40000) + "\nend");
    assert_eq!(logged(&env, &id, "stderr"), numbered('e') + "err");
    let lengths: Vec<usize> = entries(stored(&env, &id, "log.json"))
        .iter()
        .filter_map(|entry| entry["log"].as_str().filter(|log| log.starts_with('x')))
        .map(str::len)
        .collect();
    assert_eq!(lengths, [16384, 16384, 7233]);
}

#[test]
fn what_is_no_text_is_logged_as_docker_does() {
    let env = busy();
    let id = start(&env, "", r#"printf 'a\0b\377c\001\033[0m"\\\302\251\n'"#);
    env.run(&format!("wait {id}")).prints("0\n");
    assert_eq!(logged(&env, &id, "stdout"), "a\0b\u{fffd}c\u{1}\u{1b}[0m\"\\©\n");
}

#[test]
fn logs_are_rotated() {
    let env = busy();
    let flags = "--log-opt max-size=10k --log-opt max-file=3";
    let id = start(&env, flags, "seq 1000");
    env.run(&format!("wait {id}")).prints("0\n");
    let mut numbers = Vec::new();
    for name in ["log.json.2", "log.json.1", "log.json"] {
        let path = stored(&env, &id, name);
        assert!(fs::metadata(&path).unwrap().len() < 10_000 + 200, "{name}");
        let entries = entries(path);
        numbers.extend(
            entries.iter().map(|e| e["log"].as_str().unwrap().trim().parse::<u32>().unwrap()),
        );
    }
    assert!(!stored(&env, &id, "log.json.3").exists());
    // The newest are all there, in order.
    let first: u32 = numbers[0];
    assert_eq!(numbers, (first..=1000).collect::<Vec<u32>>());
    assert!(first > 1);
}

// --- readers -------------------------------------------------------------------------------------

#[test]
fn what_goes_in_comes_out_however_much_it_is() {
    let env = busy();
    let input: Vec<u8> = (0..8_000_000u32).map(|n| (n / 251 + n).to_le_bytes()[0]).collect();
    let run = env.run_with_stdin("run -i --rm --network none busy cat", input.clone()).exits(0);
    assert!(run.bytes == input);
    start(&env, "--name c", "sleep 1000");
    let run = env.run_with_stdin("exec -i c cat", input.clone()).exits(0);
    assert!(run.bytes == input);
}

#[test]
fn a_slow_reader_holds_the_container_back_and_loses_nothing() {
    let env = busy();
    let mut command = env.command(
        "run --name c --network none busy sh -c 'seq 1000000; echo through >&2; touch /through'",
    );
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut run = command.spawn().unwrap();
    let mut stdout = run.stdout.take().unwrap();
    let mut all = vec![0; 10];
    stdout.read_exact(&mut all).unwrap();
    // Seven megabytes do not fit between the container and a reader who rests.
    let id = only_id(&env);
    let monitor = pid_of(&env, &id, "monitor");
    let mut before = 0;
    poll("the log rests", || {
        thread::sleep(Duration::from_millis(20));
        let size = fs::metadata(stored(&env, &id, "log.raw")).unwrap().len();
        std::mem::replace(&mut before, size) == size
    });
    env.run("exec c test -e /through").exits(1);
    let status = fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let resident: u64 = resident.split_whitespace().next().unwrap().parse().unwrap();
    assert!(resident < 8 << 10, "the monitor takes {resident} KiB");
    stdout.read_to_end(&mut all).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(0));
    let expected: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
    assert!(all == expected.as_bytes());
}

#[test]
fn a_reader_who_has_stopped_does_not_hide_the_end() {
    let env = busy();
    let run = env.spawn("run --name c --network none busy sh -c 'echo up; while [ ! -e /go ]; do usleep 1000; done; seq 5000'");
    run.expect("up\n");
    run.signal(Signal::SIGSTOP);
    go(&env);
    env.run("wait c").prints("0\n");
    env.run("rm c").prints("c\n");
    run.signal(Signal::SIGCONT);
    let expected: String = (1..=5000).map(|n| format!("{n}\n")).collect();
    run.finish().prints(&format!("up\n{expected}"));
}

#[test]
fn many_wait_for_one() {
    let env = busy();
    let id =
        start(&env, "--rm --name c", "sh -c 'while [ ! -e /go ]; do usleep 1000; done; exit 6'");
    let monitor = pid_of(&env, &id, "monitor");
    let open = || fs::read_dir(format!("/proc/{monitor}/fd")).unwrap().count();
    // The command that started it has gone, and its connection with it.
    let mut alone = 0;
    poll("the monitor is alone", || {
        thread::sleep(Duration::from_millis(20));
        let now = open();
        std::mem::replace(&mut alone, now) == now
    });
    let waits: Vec<Running> = (0..20).map(|_| env.spawn("wait c")).collect();
    // Each is heard: as many connections as there are waiters.
    poll("all are connected", || open() >= alone + 20);
    go(&env);
    waits.into_iter().for_each(|wait| drop(wait.finish().prints("6\n")));
}

#[test]
fn a_wait_may_come_before_the_start() {
    let env = busy();
    env.run("create --name c --network none busy sh -c 'exit 5'").exits(0);
    let wait = env.spawn("wait c");
    poll("it watches", || {
        let fds = fs::read_dir(format!("/proc/{}/fd", wait.pid())).unwrap();
        fds.flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("anon_inode:inotify")))
    });
    env.run("start c").exits(0);
    wait.finish().prints("5\n");
}

#[test]
fn a_stranger_on_the_socket_harms_nobody() {
    let env = busy();
    let id = start(&env, "--name c", SLEEPER);
    let dir = fs::File::open(env.runroot().join("containers").join(&id)).unwrap();
    let path = format!("/proc/self/fd/{}/attach.sock", std::os::fd::AsRawFd::as_raw_fd(&dir));
    let mut nonsense = UnixStream::connect(&path).unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // It hangs up, with a reset or an end.
    let _ = nonsense.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    let silent = UnixStream::connect(&path).unwrap();
    env.run("stop c").prints("c\n");
    env.run("wait c").prints("0\n");
    drop(silent);
}

#[test]
fn a_monitor_goes_though_others_hold_the_containers_pipes() {
    let env = busy();
    let id = start(&env, "--name c --pid host", "sh -c 'sleep 1000 & echo up; exit 3'");
    env.run("wait c").prints("3\n");
    assert_eq!(logged(&env, &id, "stdout"), "up\n");
    for pid in fs::read_dir("/proc").unwrap().flatten() {
        // Where no cgroup could take it along, the sleeper is still there.
        let root = fs::read(pid.path().join("mountinfo")).unwrap_or_default();
        let root = String::from_utf8_lossy(&root).into_owned();
        if root.contains(env.root().to_str().unwrap()) || root.contains(&id) {
            let pid: i32 = pid.file_name().to_str().unwrap().parse().unwrap();
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[test]
fn an_idle_monitor_sleeps() {
    let env = busy();
    let id = start(
        &env,
        "--name c -t",
        "sh -c 'exec 0<&- 1>&- 2>&-; while [ ! -e /go ]; do usleep 1000; done'",
    );
    env.run("exec c true").exits(0);
    let monitor = pid_of(&env, &id, "monitor");
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    // It has seen its terminal close; from here on nothing happens to it.
    poll("it has gone to sleep", || {
        let stat = fs::read_to_string(format!("/proc/{monitor}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('S')
    });
    let before = switches();
    env.run("exec c sleep 0.5").exits(0);
    assert!(switches() - before <= 1, "{} times awake", switches() - before);
    go(&env);
    env.run("wait c").prints("0\n");
}
