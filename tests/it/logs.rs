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
    let expected: String = (0..400).map(|n| format!("line {n}\n")).collect();
    let expected = expected + "tail";
    // Rotated about twenty times, or once at least; more files than that are kept.
    for (driver, old) in [("json-file", "log.json.9"), ("local", "log.raw.1")] {
        env.run(&format!(
            "run --network none -d --name one --log-driver {driver} --log-opt max-size=2k --log-opt max-file=99 busy sh -c '{script}'"
        ))
        .exits(0);
        env.run("logs -f one").prints(&expected);
        env.run("logs one").prints(&expected);
        let id = env.run("ps -aq --no-trunc").text();
        // Docker's `local` packs them.
        let old = env.root().join("containers").join(id).join(old);
        assert!(old.exists() || old.with_extension("1.gz").exists(), "{driver}");
        env.run("rm -f one").exits(0);
    }
}

#[test]
fn everything_is_kept_in_the_log_unless_told_otherwise() {
    let env = Env::with("busy", BUSY);
    // More than docker's `local` keeps, and no text.
    let script = "head -c 120000000 /dev/zero; printf \"\\377\"";
    env.run(&format!("run -d --network none --name one busy sh -c '{script}'")).exits(0);
    env.run("wait one").prints("0\n");
    let all = env.run("logs one").exits(0).bytes;
    assert!(all.len() == 120_000_001 && all.ends_with(&[0, 0xff]), "{} bytes", all.len());
    let of = |name: &str| {
        env.run(&format!("inspect -f '{{{{.HostConfig.LogConfig.Type}}}}' {name}")).text()
    };
    assert_eq!(of("one"), "local");
    // docker's default, for what only that one knows.
    env.run("create --network none --name two --log-opt tag=x busy true").exits(0);
    assert_eq!(of("two"), "json-file");
    // Who asks for docker's `local` gets its limits, and may ask for none.
    env.run(&format!(
        "run -d --network none --name three --log-driver local busy sh -c '{script}'"
    ))
    .exits(0);
    env.run("wait three").prints("0\n");
    let left = env.run("logs three").exits(0).bytes.len();
    assert!((79_000_000..100_500_000).contains(&left), "{left} bytes");
    let none = "--log-driver local --log-opt max-size=-1";
    env.run(&format!("run --network none {none} busy echo up")).prints("up\n");
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
    let id = env.run("run --network none -d --name a --log-driver json-file busy echo one").text();
    env.run("wait a").prints("0\n");
    let log = env.root().join("containers").join(id).join("log.json");
    let mut file = fs::File::options().append(true).open(&log).unwrap();
    file.write_all(b"{\"log\":\"to").unwrap();
    env.run("start -a a").prints("one\n");
    let shown = env.run("logs a").warns("1 line of the log could not be read");
    assert_eq!(shown.stdout, "one\none\n");
}

const TALK: &str = "i=0; while [ $i -lt 100 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done; printf '\\377\\001x\\n'; head -c 40000 /dev/zero | tr '\\000' x; echo; printf end";

/// What of `logs` must be the same, whatever keeps it.
#[test]
fn every_driver_keeps_every_byte() {
    let env = Env::with("busy", BUSY);
    for driver in ["local", "json-file", "k8s-file"] {
        let line =
            format!("run --network none -d --name {driver} --log-driver {driver} busy sh -c");
        let mut command = env.command(&line);
        command.arg(TALK);
        env.run_command(&line, command, Vec::new()).exits(0);
        env.run(&format!("wait {driver}")).prints("0\n");
        let logs = env.run(&format!("logs {driver}")).exits(0);
        let mut want: Vec<u8> = (0..100).flat_map(|n| format!("o{n}\n").into_bytes()).collect();
        // JSON has no bytes that are no text; docker's log has U+FFFD for them.
        want.extend(if driver == "json-file" { "\u{fffd}".as_bytes() } else { b"\xff" });
        want.extend(b"\x01x\n");
        want.extend("x".repeat(40_000).bytes());
        want.extend(b"\nend");
        assert!(logs.bytes() == want, "{driver}");
        let errors: String = (0..100).map(|n| format!("e{n}\n")).collect();
        assert_eq!(logs.stderr, errors, "{driver}");
        env.run(&format!("logs --since 1h -n 1 {driver}")).prints("end");
        let stamped = env.run(&format!("logs -t -n 1 {driver}")).text();
        assert_eq!(env.tidy(&stamped), "[TIME] end", "{driver}");
        let kind = env.run(&format!(
            "inspect -f '{{{{.HostConfig.LogConfig.Type}}}} {{{{.LogPath}}}}' {driver}"
        ));
        let kind = kind.text();
        let (name, path) = kind.split_once(' ').unwrap();
        assert_eq!(name, driver);
        assert!(fs::metadata(path).unwrap().len() > 40_000, "{path}");
    }
    let line = fs::read(env.run("inspect -f {{.LogPath}} k8s-file").text()).unwrap();
    let first = String::from_utf8_lossy(line.split(|b| *b == b'\n').next().unwrap()).into_owned();
    assert!([" stdout F o0", " stderr F e0"].iter().any(|end| first.ends_with(end)), "{first}");
}

#[test]
fn following_a_log_that_is_rotated_loses_nothing_with_any_driver() {
    let env = Env::with("busy", BUSY);
    for driver in ["local", "k8s-file"] {
        env.run(&format!("run --network none -d --name {driver} --log-driver {driver} --log-opt max-size=2k --log-opt max-file=99 busy sh -c 'i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); usleep 300; done; printf tail'")).exits(0);
        let expected: String = (0..300).map(|n| format!("line {n}\n")).collect();
        let expected = expected + "tail";
        env.run(&format!("logs -f {driver}")).prints(&expected);
        env.run(&format!("logs {driver}")).prints(&expected);
        env.run(&format!("logs -n 2 {driver}")).prints("line 299\ntail");
    }
}

#[test]
fn what_passes_through_is_the_callers() {
    let env = Env::with("busy", BUSY);
    let run = "run --name a --network none --log-driver passthrough";
    env.run_with_stdin(&format!("{run} -i busy sh -c 'cat; echo err >&2; exit 3'"), "in\n")
        .exits(3)
        .tells("err")
        .prints("in\n");
    env.run("logs a").fails_with(1, "configured logging driver does not support reading");
    env.run("inspect -f '{{.LogPath}}' a").prints("\n");
    env.run("create -t --log-driver passthrough busy true")
        .fails_with(125, "passthrough cannot be used with -t");
    // In the background, too: to a file that the caller has opened.
    let file = fs::File::create(env.path("out")).unwrap();
    let mut command = env
        .command("run -d --rm --name b --network none --log-driver passthrough busy echo through");
    command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null()).stdout(file);
    assert!(command.status().unwrap().success());
    crate::env::poll("the output is there", || {
        fs::read_to_string(env.path("out")).unwrap().contains("through\n")
    });
    crate::env::poll("it is gone", || env.run("ps -aq --filter name=b").exits(0).stdout.is_empty());
}

#[test]
fn what_a_log_says_of_its_container() {
    let env = Env::with("busy", BUSY);
    env.run("run --name a --network none --label a=1 --label 'b=x y' --label c=3 -e V=w --log-opt labels=a,b --log-opt env=V --log-opt 'tag={{.Name}}/{{.ID}}' --log-opt mode=non-blocking --log-opt max-buffer-size=1m busy echo hi").exits(0);
    let id = env.run("inspect -f {{.Id}} a").text();
    env.run("logs --details a").prints(&format!("V=w,a=1,b=x+y,tag=a%2F{} hi\n", &id[..12]));
    env.run("logs a").prints("hi\n");
    env.run("inspect -f '{{json .HostConfig.LogConfig}}' a").shows(r#""mode":"non-blocking""#);
    // A log at a place of one's own, which stays.
    let path = env.path("my.log");
    env.run(&format!(
        "run --rm --network none --log-driver k8s-file --log-opt path={} busy echo kept",
        path.display()
    ))
    .exits(0);
    assert!(fs::read_to_string(path).unwrap().ends_with(" stdout F kept\n"));
}

mod as_root {
    use super::*;
    use crate::needs::needs;

    /// A journal of its own, which nobody else sees, for as long as `$1` runs.
    const JOURNAL: &str = r#"
        mount --make-rprivate /
        mount -t tmpfs journal /run/systemd && mkdir /run/systemd/journal
        mkdir -p /run/log && mount -t tmpfs journal /run/log && mkdir /run/log/journal
        mount -t tmpfs journal /var/log
        /lib/systemd/systemd-journald 2>/run/log/said & journald=$!
        for i in $(seq 500); do test -S /run/systemd/journal/socket && break; sleep 0.02; done
        sh -c "$1"; code=$?
        kill $journald; wait $journald
        exit $code
    "#;

    #[test]
    fn what_the_journal_has_is_read_back() {
        needs!(device("/lib/systemd/systemd-journald"));
        needs!(tool("journalctl"));
        let env = Env::with("busy", BUSY);
        let dhow = env.command("ps");
        let program = dhow.get_program().to_str().unwrap();
        let run = "run --network none --log-driver journald";
        let script = format!(
            r#"
            dhow() {{ {program} "$@"; }}
            say() {{ echo "--- $1"; }}
            dhow {run} --name one --log-opt labels=a --label a=b busy sh -c \
                'for i in 1 2 3; do echo o$i; echo e$i >&2; done; printf "\377\001x\n"; printf end' \
                >/dev/null 2>&1
            say all; dhow logs one 2>/dev/null | od -An -c | tr -d ' \n'; echo
            say errors; dhow logs one 2>&1 >/dev/null
            say last; dhow logs -n 1 one; echo
            say details; dhow logs --details -n 1 one; echo
            say since; dhow logs --since 1h -n 1 one; echo
            say until; dhow logs --until 1h one
            say followed; dhow {run} -d --name two busy sh -c \
                'i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); usleep 2000; done; printf tail' \
                >/dev/null
            dhow logs -f two | tail -n 2; echo
            say again; dhow logs two | wc -l
            dhow start two >/dev/null; dhow wait two
            say both; dhow logs -f two | grep -c line
            dhow rm one two
            "#
        );
        let mut shell = std::process::Command::new("unshare");
        shell.args(["-m", "sh", "-c", JOURNAL, "sh", &script]);
        shell.current_dir(dhow.get_current_dir().unwrap()).env_clear();
        shell.envs(dhow.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let shown = env.run_command("logs of the journal", shell, Vec::new()).exits(0).stdout;
        let want = "--- all\no1\\no2\\no3\\n377001x\\nend\n--- errors\ne1\ne2\ne3\n--- last\nend\n\
                    --- details\nA=b end\n--- since\nend\n--- until\n--- followed\nline 29\ntail\n\
                    --- again\n30\n0\n--- both\n60\none\ntwo\n";
        assert_eq!(shown, want);
    }
}

#[test]
fn log_drivers_that_are_not_there_are_refused_with_the_reason() {
    let env = Env::with("busy", BUSY);
    for driver in ["syslog", "gelf", "fluentd", "awslogs", "splunk", "gcplogs"] {
        env.run(&format!("create --log-driver {driver} busy true"))
            .fails_with(125, "dhow sends no log to other machines");
    }
    env.run("create --log-driver nosuch busy true").fails_with(125, "no log driver named 'nosuch'");
    env.run("create --log-driver k8s-file --log-opt tag=x busy true")
        .fails_with(125, "unknown log opt 'tag' for k8s-file log driver");
    env.run("create --log-opt compress=true busy true")
        .fails_with(125, "compress cannot be true when max-file is less than 2");
    env.run("create --log-opt compress=perhaps busy true")
        .fails_with(125, "compress: 'perhaps' is neither true nor false");
    if !std::path::Path::new("/run/systemd/journal/socket").exists() {
        env.run("create --log-driver journald busy true").fails_with(125, "has no journal");
    }
}

/// Both drivers that can, however many lines are asked for.
#[test]
fn full_log_files_are_packed_and_read_all_the_same() {
    let env = Env::with("busy", BUSY);
    for (name, driver) in
        [("one", "--log-driver json-file --log-opt compress=true"), ("two", "--log-driver local")]
    {
        env.run(&format!("run --network none -d --name {name} {driver} --log-opt max-size=4k --log-opt max-file=99 busy sh -c 'seq 1000; read x; seq 1001 2000'")).exits(0);
        env.run(&format!("wait {name}")).prints("0\n");
        let log = env.run(&format!("inspect -f {{{{.LogPath}}}} {name}")).text();
        let dir = std::path::Path::new(&log).parent().unwrap().to_owned();
        let packed = || {
            let names = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().ends_with(".gz")).count()
        };
        // The last one may be on its way.
        crate::env::poll("files are packed", || packed() > 1);
        let numbers = |from: u32| -> String { (from..=2000).map(|n| format!("{n}\n")).collect() };
        env.run(&format!("logs {name}")).prints(&numbers(1));
        env.run(&format!("logs -f {name}")).prints(&numbers(1));
        for tail in [0, 1, 500, 1999, 2000, 3000] {
            let from = 2001 - 2000.min(tail);
            env.run(&format!("logs --tail {tail} {name}")).prints(&numbers(from));
        }
        env.run(&format!("rm {name}")).ok();
    }
    env.run("create --name three --log-driver local --log-opt max-file=1 --network none busy true")
        .ok();
    env.run("rm three").ok();
}
