//! events, stats, update, logs of several.

use std::fs;

use serde_json::Value;

use crate::{env::Env, fixture::BUSY, needs::needs};

fn busy() -> Env {
    Env::with("busy", BUSY)
}

#[test]
fn events_tell_a_life() {
    let env = busy();
    let id = env.run("create --name a --label k=v --network none busy sh -c 'exit 3'").text();
    env.run("start -a a").exits(3);
    env.run("rename a other").ok();
    env.run("rm other").ok();
    let actions = |flags: &str| {
        env.run(&format!("events --since 0 --stream=false {flags} --format '{{{{.Action}}}}'"))
            .text()
    };
    assert_eq!(actions("-f type=container"), "create\nattach\nstart\ndie\nrename\ndestroy");
    assert_eq!(actions(&format!("-f container={} -f event=die", &id[..12])), "die");
    assert_eq!(actions("-f container=other"), "rename\ndestroy");
    assert_eq!(actions("-f label=k=v -f label=k -f event=start -f event=create"), "create\nstart");
    assert_eq!(actions("-f label=k=other"), "");
    assert_eq!(actions("-f image=busy:latest -f type=container -f event=die"), "die");
    assert_eq!(actions("-f type=image"), "load");
    let die = env.run("events --since 0 --stream=false -f event=die").text();
    assert!(die.contains(&format!(" container die {id} (exitCode=3, image=")), "{die}");
    let json = env.run("events --since 0 --stream=false -f event=die --format json").json();
    assert_eq!((&json["Action"], &json["Type"]), (&"die".into(), &"container".into()));
    assert_eq!(json["Actor"]["Attributes"]["exitCode"], "3");
    assert_eq!(json["id"], id.as_str());
    // What is past is not shown again to those who ask for what is to come.
    env.run("events --until 0s").prints("");
    env.run("events -f bogus=1").fails_with(1, "invalid filter 'bogus'");
    env.run("events --since never").fails_with(1, "failed to parse value as time");
}

#[test]
fn events_are_heard_as_they_happen() {
    let env = busy();
    let live = env.spawn(
        "events --since 0 -f type=container --format '{{.Action}} {{.Actor.Attributes.name}}'",
    );
    env.run("run --rm --name a --network none busy true").ok();
    live.expect("create a\nattach a\nstart a\ndie a\ndestroy a\n");
    env.run("create --name b --network none busy true").ok();
    live.expect("create b\n");
}

#[test]
fn stats_of_what_runs() {
    let env = busy();
    env.run("run -d --name a --network none busy sh -c 'while :; do :; done'").ok();
    env.run("create --name b --network none busy true").ok();
    let table = env.run("stats --no-stream").text();
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT"),
        "{table}"
    );
    assert!(
        lines[0].ends_with("MEM %     NET I/O   BLOCK I/O   PIDS") || lines[0].ends_with("PIDS"),
        "{table}"
    );
    assert_eq!(lines.len(), 2, "{table}");
    let of = |flags: &str| env.run(&format!("stats --no-stream {flags}")).text();
    assert_eq!(of("--format '{{.Name}} {{.NetIO}}' a"), "a 0B / 0B");
    assert_eq!(of("-a --format '{{.Name}}={{.PIDs}}'"), of("--format '{{.Name}}={{.PIDs}}' b a"));
    assert_eq!(of("--format '{{.CPUPerc}} {{.MemUsage}} {{.PIDs}}' b"), "0.00% 0B / 0B 0");
    assert_eq!(of("--no-trunc --format '{{.ID}}' a").len(), 64);
    env.run("stats --no-stream no-such").fails_with(1, "No such container: no-such");
    // Again and again.
    let live = env.spawn("stats --format '{{.Name}} {{.PIDs}}'");
    live.expect("a ");
    needs!(cgroup_dir());
    assert_eq!(of("--format '{{.PIDs}}' a"), "1");
    assert_ne!(of("--format '{{.CPUPerc}}' a"), "0.00%");
}

#[test]
fn update_changes_the_record() {
    let env = busy();
    env.run("create --name a --network none busy true").ok();
    env.run("create --name rm --rm --network none busy true").ok();
    env.run("update --restart on-failure:3 a").prints("a\n");
    env.run("inspect -f '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}' a")
        .prints("on-failure 3\n");
    env.run("update --restart always rm").fails_with(1, "AutoRemove is enabled");
    env.run("update a").fails_with(1, "one or more flags");
    env.run("update -m 1m a").fails_with(1, "Minimum memory limit allowed is 6MB");
    env.run("update --restart no no-such a").exits(1).prints("a\n").tells("No such container");
}

mod limits {
    use super::*;

    #[test]
    fn update_is_felt_at_once() {
        needs!(cgroup("memory"));
        needs!(cgroup("pids"));
        let env = busy();
        env.run("run -d --name a -m 64m --pids-limit 20 --network none busy sleep 1000").ok();
        let told = |file: &str| env.run(&format!("exec a cat /sys/fs/cgroup/{file}")).text();
        assert_eq!((told("memory.max"), told("pids.max")), ("67108864".into(), "20".into()));
        env.run("update -m 128m --pids-limit 30 a").prints("a\n");
        assert_eq!((told("memory.max"), told("pids.max")), ("134217728".into(), "30".into()));
        env.run("update --pids-limit -1 a").ok();
        assert_eq!(told("pids.max"), "max");
        env.run("inspect -f '{{.HostConfig.Memory}}' a").prints("134217728\n");
        let usage = env.run("stats --no-stream --format '{{.MemUsage}}' a").text();
        assert!(usage.ends_with(" / 128MiB"), "{usage}");
    }
}

#[test]
fn restart_policies() {
    let env = busy();
    let count = |name: &str| env.run(&format!("inspect -f '{{{{.RestartCount}}}}' {name}")).text();
    env.run("run -d --name a --restart on-failure:2 --network none busy sh -c 'echo run; exit 5'")
        .ok();
    env.run("wait --condition exited -i 50ms a").prints("5\n");
    assert_eq!(count("a"), "2");
    env.run("logs a").prints("run\nrun\nrun\n");
    env.run("inspect -f '{{.State.Status}} {{.State.ExitCode}}' a").prints("exited 5\n");
    // One that ends well is not a failure; a start begins to count anew.
    env.run("run -d --name well --restart on-failure --network none busy true").ok();
    env.run("wait --condition not-running well").prints("0\n");
    assert_eq!(count("well"), "0");
    env.run("start a").ok();
    env.run("wait --condition exited -i 50ms a").prints("5\n");
    assert_eq!(count("a"), "2");
    env.run("run --restart never busy").fails_with(125, "unknown policy 'never'");
    env.run("run --rm --restart always busy").fails_with(125, "both --restart and --rm");
}

#[test]
fn stop_ends_a_policy_and_start_brings_it_back() {
    let env = busy();
    env.run(
        "run -d --name a --restart always --network none busy sh -c 'echo run >> /f; sleep 1000'",
    )
    .ok();
    env.run("exec a sh -c 'until test -s /f; do :; done'").ok();
    env.run("run -d --name b --restart unless-stopped --network none busy sh -c 'exit 1'").ok();
    let busy_looping = env.spawn("events --since 0 -f container=b -f event=start --format started");
    busy_looping.expect("started\nstarted\nstarted\n");
    env.run("rm b").exits(1);
    env.run("stop -t 0 a b").prints("a\nb\n");
    for name in ["a", "b"] {
        env.run(&format!("inspect -f '{{{{.State.Status}}}} {{{{.State.Restarting}}}}' {name}"))
            .prints("exited false\n");
    }
    // After a reboot: always means always.
    env.run("start --all-restartable").prints("a\n");
    env.run("inspect -f '{{.State.Status}}' a").prints("running\n");
    env.run("kill a").ok();
    env.run("wait a").prints("137\n");
    env.run("start b").ok();
    drop(busy_looping);
    env.run("rm -f a b").prints("a\nb\n");
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
}

#[test]
fn a_killed_command_is_restarted() {
    let env = busy();
    env.run("run -d --name a --restart always --network none busy sh -c 'echo run; sleep 1000'")
        .ok();
    let follow = env.spawn("events --since 0 -f container=a -f event=start --format started");
    follow.expect("started\n");
    let pid = env.run("inspect -f '{{.State.Pid}}' a").text();
    if crate::needs::is_root() {
        // By somebody who is not dhow.
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid.parse().unwrap()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        follow.expect("started\nstarted\n");
        env.run("wait --condition running a").prints("-1\n");
        env.run("restart -t 0 a").ok();
        env.run("inspect -f '{{.RestartCount}}' a").prints("0\n");
    }
}

#[test]
fn health_checks() {
    let env = busy();
    env.run("run -d --name a --health-cmd 'test -e /well && echo fine' --health-interval 50ms --health-retries 2 --network none busy sleep 1000").ok();
    env.run(
        "run -d --name young --health-cmd true --health-interval 1h --network none busy sleep 1000",
    )
    .ok();
    env.run("ps --filter name=young --format '{{.Status}}'").shows("(health: starting)");
    env.run("ps -q --filter health=starting --filter name=young").shows("\n");
    env.run("rm -f young").ok();
    env.run("wait --condition unhealthy a").prints("-1\n");
    env.run("exec a touch /well").ok();
    env.run("wait --condition healthy a").prints("-1\n");
    env.run("ps --format '{{.Status}}'").shows("(healthy)");
    env.run("ps -q --filter health=healthy --filter name=a").shows("\n");
    env.run("ps -q --filter health=unhealthy").prints("");
    let health = env.run("inspect -f '{{json .State.Health}}' a").json();
    assert_eq!((&health["Status"], &health["FailingStreak"]), (&"healthy".into(), &0.into()));
    let log = health["Log"].as_array().unwrap();
    assert!(log.len() <= 5 && log.last().unwrap()["Output"] == "fine\n", "{health}");
    env.run("healthcheck run a").prints("");
    env.run("exec a rm /well").ok();
    env.run("healthcheck run a").exits(1);
    let events = env
        .run("events --since 0 --stream=false -f event=health_status --format '{{.Action}}'")
        .text();
    assert!(events.starts_with("health_status: unhealthy\nhealth_status: healthy"), "{events}");
    env.run("inspect -f '{{json .Config.Healthcheck.Test}}' a")
        .prints("[\"CMD-SHELL\",\"test -e /well && echo fine\"]\n");
    env.run("run -d --name none --network none busy sleep 1000").ok();
    env.run("healthcheck run none").fails_with(1, "has no defined healthcheck");
    env.run("inspect -f '{{.State.Health}}' none").exits(0);
    env.run("run --health-interval x busy").fails_with(125, "--health-interval");
    env.run("run --no-healthcheck --health-cmd x busy").fails_with(125, "conflicts");
    env.run("run --health-on-failure x busy").fails_with(125, "--health-on-failure");
}

#[test]
fn unhealthy_containers_are_dealt_with() {
    let env = busy();
    let flags = "--health-cmd false --health-interval 30ms --health-retries 1 --network none";
    env.run(&format!("run -d --name killed --health-on-failure kill {flags} busy sleep 1000")).ok();
    env.run("wait killed").prints("137\n");
    env.run("run -d --name slow --health-timeout 100ms --health-cmd 'sleep 100' --health-interval 30ms --health-retries 1 --network none busy sleep 1000").ok();
    env.run("wait --condition unhealthy slow").prints("-1\n");
    let log = env.run("inspect -f '{{json .State.Health.Log}}' slow").json();
    assert!(
        log[0]["Output"].as_str().unwrap().starts_with("Health check exceeded timeout"),
        "{log}"
    );
    env.run(&format!(
        "run -d --name again --health-on-failure restart --stop-timeout 0 {flags} busy sleep 1000"
    ))
    .ok();
    let live = env.spawn("events --since 0 -f container=again -f event=start --format started");
    live.expect("started\nstarted\n");
    env.run("rm -f again slow killed").exits(0);
}

#[test]
fn units_for_systemd() {
    let env = busy();
    env.run("create --name a --network none busy true").ok();
    let unit = env.run("generate systemd --name a").text();
    assert!(
        unit.contains("Description=Container a\n") && unit.contains(" start --attach a\n"),
        "{unit}"
    );
    env.run("generate systemd").shows("start --all-restartable\n");
    let path = env.run("generate systemd --files --name a").text();
    assert!(path.ends_with("/container-a.service"), "{path}");
    assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), unit);
    let line = "generate systemd --name --container-prefix box --separator _ --wants b.service,c.mount \
                --after b.service --requires d.service -e A=\"1 %\" --restart-sec 3 --start-timeout 9 one";
    env.run("create --name one --network none busy true").ok();
    let unit = env.run(line).text();
    for text in [
        "Wants=b.service\nWants=c.mount\nAfter=b.service\nRequires=d.service\n\n[Service]\n",
        "[Service]\nEnvironment=\"A=1 %%\"\nRestartSec=3\nTimeoutStartSec=9\nType=exec\n",
    ] {
        assert!(unit.contains(text), "{text} should be in {unit}");
    }
    let both: Value =
        serde_json::from_str(&env.run(&format!("{line} --format json")).text()).unwrap();
    assert_eq!(both["box_one"].as_str().unwrap().trim_end(), unit);
    env.run("generate systemd --after 'a b' one").fails_with(1, "is not the name of a unit");
    env.run("generate systemd -e NO_SUCH one").fails_with(1, "the environment has no NO_SUCH");
    env.run("generate systemd --restart-policy x a").fails_with(1, "not a valid restart policy");
    env.run("generate systemd no-such").fails_with(1, "No such container");
}

#[test]
fn logs_of_several_containers() {
    let env = busy();
    let a = env.run("run -d --name a --network none busy sh -c 'echo one; echo two'").text();
    let b = env.run("run -d --name b --network none busy echo three").text();
    env.run("wait a b").prints("0\n0\n");
    env.run("logs --names a b").prints("a one\na two\nb three\n");
    env.run("logs a b").prints(&format!("{0} one\n{0} two\n{1} three\n", &a[..12], &b[..12]));
    env.run("logs --names --color a")
        .prints("\u{1b}[32ma\u{1b}[0m one\n\u{1b}[32ma\u{1b}[0m two\n");
    let follow = env.run("logs -f --names a b").text();
    let mut lines: Vec<&str> = follow.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a one", "a two", "b three"]);
    env.run("logs --latest").prints("three\n");
    env.run("logs a no-such").fails_with(1, "No such container: no-such");
}

#[test]
fn a_startup_check_comes_before_the_health_check() {
    let env = Env::with("busy", BUSY);
    let check = "--health-cmd 'test -e /well' --health-interval 1s --health-retries 1";
    let startup = "--health-startup-cmd 'test -e /up' --health-startup-interval 1s \
                   --health-startup-success 2 --health-startup-timeout 10s";
    let logs = env.path("logs");
    std::fs::create_dir(&logs).unwrap();
    let log = format!(
        "--health-log-destination {} --health-max-log-count 2 --health-max-log-size 3",
        logs.display()
    );
    env.run(&format!("run -d --name one --network none {check} {startup} {log} busy sleep 1000"))
        .ok();
    let status = || env.run("inspect -f '{{.State.Health.Status}}' one").text();
    // Whatever its health, it is not asked for yet.
    env.run("healthcheck run one").exits(1).prints("starting\n");
    assert_eq!(status(), "starting");
    env.run("exec one touch /up").ok();
    crate::env::poll("the health check has its turn, and fails", || status() == "unhealthy");
    env.run("exec one touch /well").ok();
    crate::env::poll("it passes", || status() == "healthy");
    let kept = env.run("inspect -f '{{len .State.Health.Log}}' one").text();
    assert_eq!(kept, "2");
    // The next check may be about to replace it.
    let names = std::fs::read_dir(&logs).unwrap().map(|it| it.unwrap().file_name());
    let copies: Vec<String> = names
        .map(|name| name.into_string().unwrap())
        .filter(|name| !name.starts_with(".tmp-"))
        .collect();
    assert!(copies.len() == 1 && copies[0].ends_with("-healthcheck.log"), "{copies:?}");
    env.run("inspect -f '{{.Config.StartupHealthCheck.Successes}}' one").prints("2\n");
    env.run("rm -ft 0 one").ok();
    for (flags, why) in [
        ("--health-startup-cmd true", "there is none"),
        ("--health-cmd true --health-startup-retries 2", "need --health-startup-cmd"),
        ("--health-log-destination /no/such", "no such directory"),
        ("--health-log-destination events_logger", "events tell of changes only"),
        ("--health-cmd a --health-startup-cmd b --health-startup-interval x", "startup-interval"),
    ] {
        env.run(&format!("create {flags} busy true")).fails_with(125, why);
    }
}

#[test]
fn a_container_whose_startup_check_fails_is_started_anew() {
    let env = Env::with("busy", BUSY);
    env.run(
        "run -d --name one --network none --health-cmd true --health-startup-cmd 'echo no; false' \
         --health-startup-interval 1s --health-startup-retries 1 --stop-timeout 0 \
         busy sh -c 'echo up; sleep 1000'",
    )
    .ok();
    crate::env::poll("it has been started again", || {
        env.run("logs one").exits(0).stdout.lines().count() >= 2
    });
    env.run("rm -ft 0 one").ok();
}
