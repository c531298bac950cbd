//! What `update` changes of a container beside its limits.

use crate::{
    env::{Env, poll},
    fixture::BUSY,
};

fn busy() -> Env {
    Env::with("busy", BUSY)
}

fn health(env: &Env) -> String {
    env.run("inspect -f '{{with .State.Health}}{{.Status}}{{end}}' one").text()
}

#[test]
fn another_health_check_is_felt_while_it_runs() {
    let env = busy();
    let check = "--health-cmd true --health-interval 1h --health-start-period 0s";
    env.run(&format!("run -d --name one --network none {check} busy sleep 1000")).ok();
    assert_eq!(health(&env), "starting");
    // What waits for an hour is done at once.
    env.run("update --health-interval 100ms one").prints("one\n");
    poll("the check has its turn", || health(&env) == "healthy");
    env.run("update --health-cmd 'echo why; false' --health-retries 2 --health-timeout 20s one")
        .ok();
    poll("the other check fails", || health(&env) == "unhealthy");
    let streak = env.run("inspect -f '{{.State.Health.FailingStreak}}' one").text();
    assert!(streak.parse::<u32>().unwrap() >= 2, "{streak}");
    env.run("update --health-max-log-count 1 --health-max-log-size 2 one").ok();
    let kept = "inspect -f '{{len .State.Health.Log}} {{(index .State.Health.Log 0).Output}}' one";
    poll("less is kept", || env.run(kept).text() == "1 wh");
    env.run("inspect -f '{{.Config.Healthcheck.Retries}} {{.Config.Healthcheck.Timeout}}' one")
        .prints("2 20000000000\n");
    // Its turn has come, and it is unhealthy already.
    env.run("update --health-on-failure kill one").ok();
    env.run("wait one").prints("137\n");
}

#[test]
fn a_health_check_comes_and_goes() {
    let env = busy();
    env.run("run -d --name one --network none busy sleep 1000").ok();
    assert_eq!(health(&env), "");
    env.run("update --health-interval 1s one")
        .fails_with(1, "no health check that could be changed");
    env.run("update --health-startup-retries 1 one")
        .fails_with(1, "no startup check that could be changed");
    env.run("update --health-startup-cmd true one").fails_with(1, "no health check");
    env.run("update --no-healthcheck --health-cmd true one").fails_with(1, "conflicts");
    env.run("update --health-on-failure explode one").fails_with(1, "--health-on-failure");
    env.run("update --health-interval never one").fails_with(1, "--health-interval");
    env.run(
        "update --health-cmd true --health-interval 100ms --health-startup-cmd 'test -e /up' \
         --health-startup-interval 100ms --health-startup-success 1 --health-startup-timeout 20s \
         --health-startup-retries 0 one",
    )
    .ok();
    env.run("healthcheck run one").exits(1).prints("starting\n");
    env.run("exec one touch /up").ok();
    poll("both have passed", || health(&env) == "healthy");
    env.run("update --no-healthcheck one").ok();
    assert_eq!(health(&env), "");
    env.run("healthcheck run one").fails_with(1, "no defined healthcheck");
    env.run("stop -t 0 one").ok();
    env.run("update --health-cmd false --health-interval 100ms --health-retries 1 one").ok();
    env.run("start one").ok();
    poll("the next life has it", || health(&env) == "unhealthy");
    let dir = env.path("logs");
    std::fs::create_dir(&dir).unwrap();
    env.run(&format!("update --health-log-destination {} one", dir.display())).ok();
    poll("a copy of the results is written", || std::fs::read_dir(&dir).unwrap().count() > 0);
    env.run("update --health-log-destination local --health-start-period 1h one").ok();
}

#[test]
fn variables_and_limits_are_for_the_next_start_and_for_execs() {
    let env = busy();
    let told = "sh -c 'echo $A $B $C $(ulimit -n) $(ulimit -f)'";
    env.run(&format!(
        "create --name one --network none -e A=a -e B=b --ulimit nofile=100:200 \
         --ulimit fsize=512000 busy sh -c '{}; sleep 1000'",
        told.trim_start_matches("sh -c ").trim_matches('\'')
    ))
    .ok();
    env.run("start one").ok();
    poll("it has told", || env.run("logs one").text() == "a b 100 1000");
    env.run("update -e A=new -e C=c --unsetenv B --ulimit nofile=50:60 one").prints("one\n");
    // What runs goes on with what it has.
    env.run(&format!("exec one {told}")).prints("new c 50 1000\n");
    env.run("exec -e C=mine one sh -c 'echo $A $C'").prints("new mine\n");
    env.run("restart -t 0 one").ok();
    poll("it has told again", || env.run("logs one").text() == "a b 100 1000\nnew c 50 1000");
    env.run("inspect -f '{{range .HostConfig.Ulimits}}{{.Name}}={{.Soft}} {{end}}' one")
        .prints("fsize=512000 nofile=50 \n");
    env.run("update --ulimit nosuch=1 one").fails_with(1, "--ulimit");
    env.run("update --ulimit nofile=9:1 one").fails_with(1, "--ulimit");
    env.run("update -e '' one").fails_with(1, "--env");
    env.run("exec one sh -c 'echo $A'").prints("new\n");
    env.run("rm -f one").ok();
}

#[test]
fn what_happens_is_told_as_docker_tells_it() {
    let env = busy();
    let told = || {
        let line = "events --since 0 --stream=false -f container=one --format '{{.Action}}'";
        let all = env.run(line).text();
        let words = all.lines().map(|line| line.split(':').next().unwrap());
        words.collect::<Vec<_>>().join(" ")
    };
    env.run("run -d --name one --network none --stop-signal KILL busy sleep 1000").ok();
    env.run("exec one true").ok();
    env.run("cp one:/etc/passwd -").exits(0);
    env.run("commit one made").ok();
    env.run("stop one").ok();
    env.run("rm one").ok();
    let paused = if told().contains(" pause ") { "pause unpause " } else { "" };
    assert_eq!(
        told(),
        format!(
            "create start exec_create exec_start exec_die archive-path {paused}commit kill die stop destroy"
        )
    );
}

#[test]
fn seldom_values_mean_what_they_mean_to_docker() {
    let env = busy();
    let run = "run --rm --network none";
    env.run(&format!("{run} -u :2000 busy sh -c 'id -u; id -g'")).prints("0\n2000\n");
    env.run(&format!("{run} -u : busy true")).fails_with(125, "invalid user");
    env.run(&format!("{run} --uts host -h box busy true"))
        .fails_with(125, "conflicting options: hostname and the UTS mode");
    env.run(&format!("{run} --network host busy true"))
        .fails_with(125, "only one of --network none, host and container");
    let labels = env.file("labels", "A=1\nB\n");
    env.run(&format!("run --name one --network none --label-file {labels} busy echo hi")).ok();
    env.run("inspect -f '{{json .Config.Labels}}' one").prints("{\"A\":\"1\"}\n");
    env.run("logs --until 0 one").prints("hi\n");
    env.run("rm one").ok();
}
