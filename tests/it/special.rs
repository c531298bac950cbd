//! Flags that are seldom typed: podman's own, CDI devices, and words that may be typed and change
//! nothing.

use std::{os::unix::net::UnixDatagram, path::Path};

use crate::{
    env::{Env, Run},
    fixture::BUSY,
    needs::needs,
};

fn busy() -> Env {
    Env::with("busy", BUSY)
}

fn inside(env: &Env, rest: &str) -> Run {
    env.run(&format!("run --rm --network none {rest}"))
}

/// With variables of the caller's.
fn with(env: &Env, variables: &[(&str, &str)], rest: &str) -> Run {
    let line = format!("run --rm --network none {rest}");
    let mut command = env.command(&line);
    command.envs(variables.iter().copied());
    env.run_command(&line, command, Vec::new())
}

/// Flags, a command, and what it prints: by `run`, and by `create` and `start`.
const CASES: &[(&str, &str, &str)] = &[
    ("--umask 0077", "umask", "0077\n"),
    ("--unsetenv FROM", "env | grep -c FROM || true", "0\n"),
    ("--unsetenv FROM -e FROM=flag", "echo $FROM", "flag\n"),
    ("--unsetenv-all -e A=1", "echo $FROM-$A", "-1\n"),
    ("--env-merge FROM=${FROM}:more", "echo $FROM", "image:more\n"),
    ("--image-volume tmpfs", "mount | grep -c 'tmpfs on /data '", "1\n"),
    ("--image-volume ignore", "mount | grep -c ' on /data ' || true", "0\n"),
    ("--image-volume anonymous", "mount | grep -c ' on /data '", "1\n"),
    (
        "--read-only --read-only-tmpfs",
        "touch /tmp/a /run/b /var/tmp/c && touch /d || echo ro",
        "ro\n",
    ),
    ("--read-only --read-only-tmpfs=false", "touch /tmp/a || echo ro", "ro\n"),
    ("--no-hostname -h box", "cat /etc/hostname; hostname", "of the image\nbox\n"),
    ("--no-hosts", "cat /etc/hosts", "hosts of the image\n"),
    ("--hosts-file none --add-host a:192.0.2.1", "cat /etc/hosts", "192.0.2.1\ta\n"),
    (
        "--hosts-file image --add-host a:192.0.2.1",
        "cat /etc/hosts",
        "hosts of the image\n192.0.2.1\ta\n",
    ),
    ("--dns-opt ndots:3 --dns 192.0.2.9", "grep ndots /etc/resolv.conf", "options ndots:3\n"),
    (
        "--dns-option ndots:4 --dns-search lan --dns 192.0.2.9",
        "grep -v server /etc/resolv.conf",
        "search lan\noptions ndots:4\n",
    ),
    ("-u 77 --passwd", "tail -n 1 /etc/passwd", "77:*:77:0:container user:/:/bin/sh\n"),
    ("-u user --passwd", "tail -n 1 /etc/passwd", "user:x:1000:1000::/home/user:/bin/sh\n"),
    ("-u 78 --passwd-entry me:*:$UID:$GID::$HOME:/x", "tail -n 1 /etc/passwd", "me:*:78:0::/:/x\n"),
    ("--group-entry mine:x:77:", "tail -n 1 /etc/group", "mine:x:77:\n"),
    ("--systemd=false", "echo runs", "runs\n"),
    ("--systemd=true", "echo -$container", "-\n"),
    ("--cgroups disabled", "echo runs", "runs\n"),
    ("--cgroups enabled", "echo runs", "runs\n"),
    ("--cgroups=no-conmon", "echo runs", "runs\n"),
    ("--runtime dhow", "echo runs", "runs\n"),
    ("--isolation default", "echo runs", "runs\n"),
    ("--disable-content-trust", "echo runs", "runs\n"),
    ("--sdnotify ignore", "echo $NOTIFY_SOCKET", "\n"),
    ("--os linux", "echo runs", "runs\n"),
    ("--tls-verify=false --retry 1 --retry-delay 1s", "echo runs", "runs\n"),
    ("--pull never --authfile /none --cert-dir /none --creds a:b", "echo runs", "runs\n"),
];

/// Has what [`CASES`] ask for.
const SPECIAL: &str = "
    /var/tmp/ 1777
    /run/ 0755
    /etc/hostname 0644 of the image
    /etc/hosts 0644 hosts of the image
    VOLUME /data
    ENV FROM=image
";

#[test]
fn seldom_flags_do_what_they_say_at_run() {
    let env = Env::with("busy", &format!("{BUSY}{SPECIAL}"));
    for (flags, command, expected) in CASES {
        let run = inside(&env, &format!("{flags} busy sh -c \"{}\"", quoted(command)));
        let run = run.exits(0);
        assert_eq!(run.stdout, *expected, "{flags}: {}", run.stderr);
    }
}

#[test]
fn seldom_flags_do_what_they_say_at_create() {
    let env = Env::with("busy", &format!("{BUSY}{SPECIAL}"));
    for (flags, command, expected) in CASES {
        let line = format!("create --rm --network none {flags} busy sh -c \"{}\"", quoted(command));
        let id = env.run(&line).text();
        let run = env.run(&format!("start -a {id}"));
        let run = run.exits(0);
        assert_eq!(run.stdout, *expected, "{flags}: {}", run.stderr);
    }
}

fn quoted(command: &str) -> String {
    command.replace('\\', "\\\\").replace('"', "\\\"")
}

#[test]
fn seldom_values_that_cannot_be_are_refused() {
    let env = busy();
    for (flags, why) in [
        ("--hosts-file /no/such", "--hosts-file /no/such"),
        ("--no-hosts --add-host a:192.0.2.1", "--no-hosts"),
        ("--umask 9", "invalid umask string 9"),
        ("--umask 1777", "invalid umask string 1777"),
        ("--tz No/Such", "unknown time zone No/Such"),
        ("--tz ../../etc/passwd", "unknown time zone"),
        ("--image-volume x", "invalid image volume mode"),
        ("--passwd-entry x", "--passwd-entry"),
        ("--init-path /no/such", "--init-path /no/such"),
        ("--requires no-such", "--requires"),
        ("--replace", "cannot replace container without --name"),
        ("--systemd x", "--systemd values must be one of"),
        ("--sdnotify x", "invalid sdnotify value"),
        ("--cgroups split --cgroup-parent x", "--cgroups split conflicts with --cgroup-parent"),
        ("--cgroups disabled --pids-limit 9", "--cgroups disabled conflicts with limits"),
        ("--cgroups disabled --cgroup-parent x", "--cgroups disabled conflicts"),
        ("--cgroups x", "--cgroups"),
        ("--runtime runsc", "unknown or invalid runtime name: runsc"),
        ("--isolation hyperv", "linux only supports 'default'"),
        ("--disable-content-trust=false", "there is no content trust"),
        ("--env-merge A", "--env-merge A"),
        ("--unsetenv =", "--unsetenv"),
        ("--arch amd64 --platform linux/amd64", "--platform cannot be combined"),
        ("--gpus x", "--gpus"),
        ("--entrypoint '[\"a\"'", "--entrypoint"),
        ("--timeout x", "--timeout"),
        ("--retry-delay x", "--retry-delay"),
    ] {
        inside(&env, &format!("{flags} busy true")).fails_with(125, why);
    }
    env.run("ps -aq").prints("");
}

#[test]
fn an_entrypoint_may_be_a_list() {
    let env = busy();
    inside(&env, "--entrypoint '[\"echo\",\"a b\"]' busy c").prints("a b c\n");
}

#[test]
fn the_callers_variables_come_below_the_images() {
    let env = Env::with("busy", &format!("{BUSY}{SPECIAL}"));
    let line = "--env-host busy sh -c 'echo $MINE-$FROM'";
    with(&env, &[("MINE", "1"), ("FROM", "host")], line).prints("1-image\n");
    let proxies = [("http_proxy", "http://p:1"), ("NO_PROXY", "here")];
    let line = "--http-proxy busy sh -c 'echo $http_proxy $NO_PROXY'";
    with(&env, &proxies, line).prints("http://p:1 here\n");
    with(&env, &proxies, "busy sh -c 'echo $http_proxy'").prints("\n");
    with(&env, &proxies, "--http-proxy=false busy sh -c 'echo $http_proxy'").prints("\n");
}

#[test]
fn a_time_zone_is_a_file() {
    needs!(device("/usr/share/zoneinfo/Europe/Berlin"));
    let env = busy();
    let line = "--tz Europe/Berlin busy sh -c 'head -c 4 /etc/localtime; date -d @0 +%Z'";
    inside(&env, line).shows("TZif");
    inside(&env, "busy ls /etc/localtime").exits(1);
}

#[test]
fn a_program_of_the_hosts_can_be_init() {
    let env = busy();
    // busybox sh takes `--` as tini does: what follows is its script.
    let shell = env.file("init", "#!/bin/sh\nshift\necho init $$; exec \"$@\"\n");
    std::fs::set_permissions(&shell, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    inside(&env, &format!("--init-path {shell} busy sh -c 'echo command'"))
        .prints("init 1\ncommand\n");
}

#[test]
fn a_container_lives_as_long_as_it_may() {
    let env = busy();
    inside(&env, "--timeout 1 busy sleep 1000").exits(137);
    inside(&env, "--timeout 1000 busy echo done").prints("done\n");
}

#[test]
fn a_name_passes_to_the_next() {
    let env = busy();
    let first = env.run("run -d --name one --network none busy sleep 1000").text();
    env.run("run -d --name one --network none busy true").fails_with(125, "already in use");
    let second = env.run("run -d --replace --name one --network none busy sleep 1000").text();
    assert_ne!(first, second);
    env.run("ps -aq --no-trunc").prints(&format!("{second}\n"));
    env.run("create --replace --name two --network none busy true").ok();
    env.run("rm -f -t 0 one two").ok();
}

#[test]
fn what_is_required_is_started_before_and_removed_after() {
    let env = busy();
    let base = env.run("create --name base --network none busy sleep 1000").text();
    env.run("create --name mid --requires base --network none busy sleep 1000").ok();
    env.run("run -d --name top --requires mid,base --network none busy sleep 1000").ok();
    env.run("ps --format '{{.Names}}' --sort names").prints("base\nmid\ntop\n");
    env.run("rm -f --depend base").shows(&base);
    env.run("ps -aq").prints("");
}

#[test]
fn process_ids_are_written_where_one_says() {
    let env = busy();
    let (pid, monitor) = (env.path("pid"), env.path("monitor"));
    env.run(&format!(
        "run -d --name one --pidfile {} --conmon-pidfile {} --network none busy sleep 1000",
        pid.display(),
        monitor.display()
    ))
    .ok();
    let shown = env.run("inspect -f {{.State.Pid}} one").text();
    assert_eq!(std::fs::read_to_string(&pid).unwrap(), shown);
    let monitor = std::fs::read_to_string(&monitor).unwrap();
    assert!(Path::new("/proc").join(&monitor).exists() && monitor != shown);
    env.run("rm -f one").ok();
}

#[test]
fn systemd_is_told_that_the_container_runs() {
    let env = busy();
    let path = env.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let path = path.to_str().unwrap();
    with(&env, &[("NOTIFY_SOCKET", path)], "--sdnotify conmon busy echo runs").prints("runs\n");
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer).unwrap();
    let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(said.starts_with("MAINPID=") && said.ends_with("\nREADY=1"), "{said}");
    with(&env, &[("NOTIFY_SOCKET", path)], "--sdnotify=container busy sh -c 'ls $NOTIFY_SOCKET'")
        .prints("/run/notify/notify.sock\n");
}

#[test]
fn systemd_is_told_that_the_container_is_healthy() {
    let env = busy();
    let path = env.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let line = "run -d --name one --network none --sdnotify healthy --health-interval 1s \
                --health-cmd 'test -e /well' busy sleep 1000";
    let mut command = env.command(line);
    command.env("NOTIFY_SOCKET", &path);
    env.run_command(line, command, Vec::new()).ok();
    let mut buffer = [0; 100];
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut buffer).is_err(), "told too early");
    socket.set_nonblocking(false).unwrap();
    env.run("exec one touch /well").ok();
    let length = socket.recv(&mut buffer).unwrap();
    let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(said.starts_with("MAINPID=") && said.ends_with("\nREADY=1"), "{said}");
    env.run("rm -ft 0 one").ok();
}

#[test]
fn a_systemd_finds_what_it_needs() {
    let env = busy();
    let look = "sh -c 'echo $container; for d in /run /run/lock /tmp /var/log/journal; do grep -c \" $d tmpfs\" /proc/mounts; done'";
    inside(&env, &format!("--systemd always busy {look}")).prints("dhow\n1\n1\n1\n1\n");
    env.run("create --name one --network none --systemd=true busy /sbin/init").ok();
    env.run("inspect -f '{{.Config.StopSignal}}' one").prints("SIGRTMIN+3\n");
    env.run("create --name two --network none --systemd=true --stop-signal INT busy true").ok();
    env.run("inspect -f '{{.Config.StopSignal}}' two").prints("INT\n");
    env.run("rm one two").ok();
    if crate::needs::cgroup_dir().is_ok() {
        inside(&env, "--systemd always busy mkdir /sys/fs/cgroup/sub").exits(0);
        inside(&env, "busy mkdir /sys/fs/cgroup/sub").fails_with(1, "Read-only");
    }
}

#[test]
fn a_container_can_be_without_a_cgroup() {
    let env = busy();
    env.run("run -d --name one --network none --cgroups disabled busy sleep 1000").ok();
    let pid = env.run("inspect -f {{.State.Pid}} one").text();
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = env.run("ps -q --no-trunc").text();
    assert!(!cgroup.contains(&own), "{cgroup}");
    env.run("exec one echo hi").prints("hi\n");
    env.run("rm -ft 0 one").ok();
}

/// Which cgroup a process is in, beneath what the caller's is.
fn cgroup_of(pid: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    line.to_owned()
}

#[test]
fn the_callers_cgroup_can_be_divided() {
    needs!(cgroup_beside());
    let beside = crate::needs::cgroup_beside().unwrap();
    let env = busy();
    let name = format!("dhow-test-split-{}", std::process::id());
    let own = beside.join(&name);
    let name =
        own.strip_prefix(crate::needs::cgroup_mount().unwrap()).unwrap().display().to_string();
    std::fs::create_dir(&own).unwrap();
    let monitor = env.path("monitor");
    let line =
        |flags: &str| format!("run -d --network none --cgroups split {flags} busy sleep 1000");
    let within = |line: &str| {
        let dhow = env.command(line);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(&own);
        shell.arg(dhow.get_program()).args(dhow.get_args());
        shell.current_dir(dhow.get_current_dir().unwrap()).env_clear();
        shell.envs(dhow.get_envs().filter_map(|(key, value)| Some((key, value?))));
        env.run_command(line, shell, Vec::new())
    };
    let first = line(&format!("--name one --conmon-pidfile {}", monitor.display()));
    let id = within(&first).text();
    let pid = env.run("inspect -f {{.State.Pid}} one").text();
    let monitor = std::fs::read_to_string(monitor).unwrap();
    assert_eq!(cgroup_of(&pid), format!("{name}/dhow-{id}"));
    assert_eq!(cgroup_of(&monitor), format!("{name}/supervisor"));
    // Another one beside it, from where the first one's caller has gone.
    let supervisor = own.join("supervisor");
    let second = line("--name two");
    let mut shell = std::process::Command::new("sh");
    let dhow = env.command(&second);
    shell.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(&supervisor);
    shell.arg(dhow.get_program()).args(dhow.get_args());
    shell.current_dir(dhow.get_current_dir().unwrap()).env_clear();
    shell.envs(dhow.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let id = env.run_command(&second, shell, Vec::new()).text();
    let pid = env.run("inspect -f {{.State.Pid}} two").text();
    assert_eq!(cgroup_of(&pid), format!("{name}/dhow-{id}"));
    env.run("pause two").ok();
    env.run("rm -f one two").ok();
    crate::env::poll("only the supervisors' directory is left", || {
        std::fs::remove_dir(&supervisor).is_ok()
    });
    std::fs::remove_dir(&own).unwrap();
    // Who is in no cgroup of their own has none to divide.
    if crate::needs::is_root() && cgroup_of("self").is_empty() {
        env.run(&line("--name three")).fails_with(125, "it is the root of all").tells("hint: ");
        env.run("rm three").ok();
    }
}

#[test]
fn the_callers_groups_can_be_kept() {
    let env = busy();
    let own = nix::unistd::getgroups().unwrap().len();
    let run = inside(&env, "--group-add keep-groups busy grep Groups /proc/self/status");
    let run = run.exits(0);
    assert_eq!(run.stdout.split_whitespace().count() - 1, own, "{}", run.stdout);
}

#[test]
fn the_variables_umask_and_groups_of_a_container_are_an_execs_too() {
    let env = busy();
    env.run("run -d --name one --umask 027 --cidfile cid --network none busy sleep 1000").ok();
    env.run("exec one sh -c umask").prints("0027\n");
    env.run("exec --latest sh -c umask").prints("0027\n");
    env.run("exec --cidfile cid --no-session sh -c umask").prints("0027\n");
    env.run("exec --preserve-fds 1 one true").fails_with(125, "file descriptor 3 is not available");
    env.run("top --latest -o pid").shows("PID");
    env.run("update --latest --restart no").shows("");
    env.run("kill --latest").ok();
    env.run("wait --latest").prints("137\n");
}

#[test]
fn a_listing_can_be_ordered_and_bare() {
    let env = busy();
    for name in ["zwei", "eins"] {
        env.run(&format!("run -d --name {name} --network none busy sleep 1000")).ok();
    }
    let names = "--format '{{.Names}}'";
    env.run(&format!("ps --sort names --sync --external {names}")).prints("eins\nzwei\n");
    env.run(&format!("ps --sort created {names}")).prints("zwei\neins\n");
    env.run("ps --sort age").fails_with(1, "invalid argument \"age\" for --sort");
    assert_eq!(env.run("ps --noheading").text().lines().count(), 2);
    let table = env.run("ps --ns").text();
    assert!(table.starts_with("CONTAINER ID") && table.contains("USERNS"), "{table}");
    let pid = env.run("inspect -f {{.State.Pid}} eins").text();
    let link = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let number = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
    assert!(table.lines().any(|line| line.contains(&pid) && line.contains(&number)), "{table}");
    env.run("ps --watch 0").fails_with(1, "--watch 0");
    env.run("ps --pod").fails_with(125, "--pod: there are no pods");
    env.run("rm -f eins zwei").ok();
}

/// The verbs that can be told which containers by more than names.
#[test]
fn containers_are_chosen_by_file_filter_age_or_all() {
    let env = busy();
    let start = "run -d --network none -l chosen=yes --name";
    env.run(&format!("{start} old --stop-timeout 0 --cidfile old.cid busy sleep 1000")).ok();
    env.run(&format!("{start} new --stop-timeout 0 busy sleep 1000")).ok();
    let new = env.run("ps -lq --no-trunc").text();
    let both = |run: Run| assert_eq!(run.text().lines().count(), 2);
    let old = std::fs::read_to_string(env.path("old.cid")).unwrap();
    let line = |id: &str| format!("{id}\n");

    env.run("restart --latest").prints(&line(&new));
    env.run("restart --cidfile old.cid").prints(&line(&old));
    both(env.run("restart --filter label=chosen"));
    both(env.run("restart --running -t 0"));
    both(env.run("restart --all"));
    if crate::needs::cgroup_dir().is_ok() {
        env.run("pause --latest").prints(&line(&new));
        env.run("unpause --latest").prints(&line(&new));
        env.run("pause --cidfile old.cid").prints(&line(&old));
        env.run("unpause --cidfile old.cid").prints(&line(&old));
        both(env.run("pause --filter label=chosen"));
        both(env.run("unpause --filter label=chosen"));
        both(env.run("pause --all"));
        both(env.run("unpause --all"));
    }
    env.run("stop --latest").prints(&line(&new));
    env.run("stop --filter label=chosen").prints(&line(&old));
    both(env.run("start --all"));
    env.run("diff --latest").prints("");
    env.run("port --latest").prints("");
    env.run("port --all").prints("");
    env.run("kill --cidfile old.cid").prints(&line(&old));
    env.run("wait old").prints("137\n");
    env.run("kill --all").prints(&line(&new));
    env.run("wait new").prints("137\n");
    env.run("start --sig-proxy=false --detach-keys ctrl-x old").prints("old\n");
    env.run("exec --detach-keys ctrl-x old echo hi").prints("hi\n");
    env.run("rm -f --time 0 --cidfile old.cid").prints(&line(&old));
    env.run("rm --latest").prints(&line(&new));
    env.run(&format!("{start} more busy true")).ok();
    env.run("wait more").prints("0\n");
    env.run("rm --filter label=chosen").ok();
    env.run("ps -aq").prints("");
}

#[test]
fn the_newest_container_can_be_attached_to() {
    let env = busy();
    env.run("run -di --name one --network none busy sh -c 'read a; echo got $a'").ok();
    env.run_with_stdin("attach --latest", "it\n").prints("got it\n");
    env.file("taken", "over");
    env.run("cp --overwrite one:/etc/group taken").ok();
    assert!(std::fs::read_to_string(env.path("taken")).unwrap().starts_with("root:"));
    env.run("commit --no-pause -q one it:1").shows("sha256:");
    env.run("rm one").ok();
}

#[test]
fn statistics_are_of_the_containers_that_are_meant() {
    let env = busy();
    let old = env.run("run -d --name one --network none busy sleep 1000").text();
    let new = env.run("create --name two --network none busy sleep 1000").text();
    let stats =
        |line: &str| env.run(&format!("{line} --no-stream --format {{{{.ID}}}}")).exits(0).stdout;
    assert_eq!(stats("stats --no-trunc"), format!("{old}\n"));
    let all = stats("stats --no-trunc --all --no-reset --interval 1");
    assert!(all.contains(&old) && all.contains(&new), "{all}");
    assert_eq!(stats("stats --no-trunc --latest"), format!("{new}\n"));
    env.run("rm -f one two").ok();
}

#[test]
fn a_check_has_time_to_start_up() {
    let env = busy();
    let line = "create --name one --network none --health-cmd true --health-start-period 7s \
                --health-start-interval 2s busy true";
    env.run(line).ok();
    let check = "inspect -f '{{.Config.Healthcheck.StartPeriod}} {{.Config.Healthcheck.StartInterval}}' one";
    env.run(check).prints("7000000000 2000000000\n");
}

mod cdi {
    use super::*;

    fn describe(env: &Env, text: &str) -> String {
        std::fs::create_dir_all(env.path("cdi")).unwrap();
        env.file("cdi/test.json", text);
        env.path("cdi").to_str().unwrap().to_owned()
    }

    #[test]
    fn a_device_has_nodes_mounts_variables_and_groups() {
        let env = busy();
        let data = env.file("data", "of the vendor\n");
        let dirs = describe(
            &env,
            &format!(
                r#"{{"cdiVersion": "0.6.0", "kind": "example.com/thing",
                "containerEdits": {{"env": ["ALL=yes"]}},
                "devices": [
                  {{"name": "one", "containerEdits": {{
                    "env": ["ONE=1"],
                    "deviceNodes": [{{"path": "/dev/thing", "hostPath": "/dev/zero"}}],
                    "mounts": [{{"hostPath": "{data}", "containerPath": "/data",
                                 "options": ["ro", "nosuid", "bind"]}}]}}}},
                  {{"name": "two", "containerEdits": {{"env": ["TWO=2"]}}}},
                  {{"name": "hooked", "containerEdits": {{
                    "hooks": [{{"hookName": "startContainer", "path": "/usr/bin/hook"}}]}}}}]}}"#
            ),
        );
        let run = |line: &str| with(&env, &[("DHOW_CDI_DIRS", &dirs)], line);
        run("--device example.com/thing=one busy sh -c 'echo $ALL $ONE-$TWO; cat /data; head -c 2 /dev/thing | wc -c; touch /data 2>&1 | grep -c Read-only'")
            .prints("yes 1-\nof the vendor\n2\n1\n");
        run("--device example.com/thing=one --device=example.com/thing=two busy sh -c 'echo $ONE$TWO'")
            .prints("12\n");
        run("--device example.com/thing=none busy true")
            .fails_with(125, "unresolvable CDI devices example.com/thing=none")
            .tells("hint: ");
        run("--device example.com/thing=hooked busy true").fails_with(125, "startContainer hook");
        let line = "create --name one --network none --device example.com/thing=two busy env";
        let mut command = env.command(line);
        command.env("DHOW_CDI_DIRS", &dirs);
        env.run_command(line, command, Vec::new()).ok();
        env.run("inspect -f '{{(index .HostConfig.DeviceRequests 0).DeviceIDs}}' one")
            .prints("[example.com/thing=two]\n");
        env.run("start -a one").shows("TWO=2");
    }

    mod as_root {
        use super::*;

        #[test]
        fn nodes_are_whose_the_description_says() {
            let env = busy();
            let dirs = describe(
                &env,
                r#"{"cdiVersion": "0.6.0", "kind": "v/c", "devices": [{"name": "one", "containerEdits": {
                    "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero",
                                     "fileMode": 432, "uid": 7, "gid": 9}]}}]}"#,
            );
            with(
                &env,
                &[("DHOW_CDI_DIRS", &dirs)],
                "--device v/c=one busy stat -c '%a %u %g %t:%T' /dev/thing",
            )
            .prints("660 7 9 1:5\n");
        }
    }

    #[test]
    fn gpus_are_devices_of_nvidias_kind() {
        let env = busy();
        let dirs = describe(
            &env,
            r#"{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [
                {"name": "0", "containerEdits": {"env": ["GPU0=yes"]}},
                {"name": "1", "containerEdits": {"env": ["GPU1=yes"]}},
                {"name": "all", "containerEdits": {"env": ["GPUS=all"]}}]}"#,
        );
        let run = |line: &str| with(&env, &[("DHOW_CDI_DIRS", &dirs)], line);
        let print = "busy sh -c 'echo $GPU0,$GPU1,$GPUS'";
        run(&format!("--gpus all {print}")).prints(",,all\n");
        run(&format!("--gpus 1 {print}")).prints("yes,,\n");
        run(&format!("--gpus '\"device=0,1\"' {print}")).prints("yes,yes,\n");
        inside(&env, &format!("--gpus all {print}"))
            .fails_with(125, "unresolvable CDI devices nvidia.com/gpu=all");
    }

    #[test]
    fn a_description_that_cannot_be_read_is_named() {
        let env = busy();
        for bad in
            ["{", r#"{"kind": "v/c", "devices": [{"name": "d", "containerEdits": {"x": 1}}]}"#]
        {
            let dirs = describe(&env, bad);
            with(&env, &[("DHOW_CDI_DIRS", &dirs)], "--device v/c=d busy true")
                .fails_with(125, "test.json");
        }
        std::fs::remove_file(env.path("cdi/test.json")).unwrap();
        env.file("cdi/x.yaml", "kind: v/c\ndevices: &all\n");
        let dirs = env.path("cdi").to_str().unwrap().to_owned();
        with(&env, &[("DHOW_CDI_DIRS", &dirs)], "--device v/c=d busy true")
            .fails_with(125, "x.yaml: line 2: anchors");
    }

    /// A hook that notes its moment, the state it is told, and what it sees.
    const HOOK: &str = "#!/bin/sh
state=$(cat)
case $state in *'\"id\":'*'\"bundle\":'* | *'\"bundle\":'*'\"id\":'*) ;; *) exit 9 ;; esac
status=$(echo \"$state\" | sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/')
echo \"$1 $2 $status $A\" >> \"$NOTES\"
test \"$1\" != fails || { echo the reason >&2; exit 3; }
test \"$1\" != slow || exec sleep 60
bundle=$(echo \"$state\" | sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/')
test \"$1\" != makes || echo made > \"$bundle/rootfs/made\"
";

    /// A directory with a description in YAML whose devices have hooks, and the file of notes.
    fn hooked(env: &Env) -> (String, std::path::PathBuf) {
        let hook = env.file("hook", HOOK);
        std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let notes = env.path("notes");
        let entry = |moment: &str, word: &str, more: &str| {
            let notes = notes.display();
            format!(
                "    - hookName: {moment}\n      path: {hook}\n{more}      args:\n      - hook\n      \
                 - {word}\n      - {moment}\n      env: [A=b, \"NOTES={notes}\", \"PATH=/usr/bin:/bin\"]\n"
            )
        };
        let device = |name: &str, entries: &[String]| {
            format!("- name: {name}\n  containerEdits:\n    hooks:\n{}", entries.concat())
        };
        let all = ["poststop", "createContainer", "prestart", "createRuntime", "poststart"];
        let all = all.map(|moment| entry(moment, "notes", ""));
        let text = format!(
            "# of the tests\ncdiVersion: 0.6.0\nkind: v/c\ndevices:\n{}{}{}{}",
            device("all", &all),
            device("makes", &[entry("createContainer", "makes", "")]),
            device(
                "fails",
                &[entry("createContainer", "fails", ""), entry("poststop", "notes", "")]
            ),
            device("slow", &[entry("prestart", "slow", "      timeout: 1\n")]),
        );
        std::fs::create_dir_all(env.path("cdi")).unwrap();
        env.file("cdi/v.yaml", text);
        (env.path("cdi").to_str().unwrap().to_owned(), notes)
    }

    #[test]
    fn hooks_are_run_around_a_containers_life() {
        let env = busy();
        let (dirs, notes) = hooked(&env);
        let run = |line: &str| with(&env, &[("DHOW_CDI_DIRS", &dirs)], line);
        let noted = || std::fs::read_to_string(&notes).unwrap_or_default();
        run("--device v/c=all busy echo hi").prints("hi\n");
        let before = "notes prestart creating b\nnotes createRuntime creating b\n\
                      notes createContainer creating b\nnotes poststart running b\n";
        let whole = format!("{before}notes poststop stopped b\n");
        crate::env::poll("the last hook has run", || noted() == whole);
        // What init's hook writes beneath the bundle's root is in the container.
        run("--device v/c=makes busy cat /made").prints("made\n");
        run("--gpus all busy true").fails_with(125, "nvidia.com/gpu=all");
    }

    #[test]
    fn a_hook_that_fails_is_the_starts_failure() {
        let env = busy();
        let (dirs, notes) = hooked(&env);
        let run = |line: &str| with(&env, &[("DHOW_CDI_DIRS", &dirs)], line);
        run("--device v/c=fails busy true")
            .fails_with(125, "hook: the reason; exit code 3")
            .tells("run the hook ");
        let noted = std::fs::read_to_string(&notes).unwrap();
        assert_eq!(noted, "fails createContainer creating b\nnotes poststop stopped b\n");
        run("--device v/c=slow busy true").fails_with(125, "it took longer than 1 s");
        env.run("ps -aq").prints("");
        assert_eq!(env.leftovers(), Vec::<String>::new());
    }

    #[test]
    fn the_last_hooks_are_run_by_whoever_clears_up() {
        let env = busy();
        let (dirs, notes) = hooked(&env);
        let line = "run -d --name one --network none --device v/c=all busy sleep 1000";
        let mut command = env.command(line);
        command.env("DHOW_CDI_DIRS", &dirs);
        let id = env.run_command(line, command, Vec::new()).text();
        let path = env.runroot().join("containers").join(id).join("process.json");
        let process: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for who in ["monitor", "init"] {
            let pid = i32::try_from(process[who]["pid"].as_i64().unwrap()).unwrap();
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        env.run("rm -f one").ok();
        let noted = std::fs::read_to_string(&notes).unwrap();
        assert!(
            noted.ends_with("notes poststart running b\nnotes poststop stopped b\n"),
            "{noted}"
        );
    }

    #[test]
    fn hooks_of_a_container_that_is_prepared_are_run_then() {
        let env = busy();
        let (dirs, notes) = hooked(&env);
        let line = "create --name one --network none --device v/c=all busy echo hi";
        let mut command = env.command(line);
        command.env("DHOW_CDI_DIRS", &dirs);
        env.run_command(line, command, Vec::new()).ok();
        let noted = || std::fs::read_to_string(&notes).unwrap_or_default();
        assert_eq!(noted(), "");
        env.run("init one").prints("one\n");
        let made = "notes prestart creating b\nnotes createRuntime creating b\n\
                    notes createContainer creating b\n";
        assert_eq!(noted(), made);
        env.run("start -a one").prints("hi\n");
        let whole = format!("{made}notes poststart running b\nnotes poststop stopped b\n");
        crate::env::poll("the last hook has run", || noted() == whole);
    }
}

/// `dhow LINE` from a shell, which opens what dhow is to pass on.
#[track_caller]
fn with_descriptors(env: &Env, line: &str, redirections: &str) -> crate::env::Run {
    let dhow = env.command(line);
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(format!("exec \"$0\" \"$@\" {redirections}")).arg(dhow.get_program());
    shell.args(dhow.get_args()).current_dir(dhow.get_current_dir().unwrap()).env_clear();
    shell.envs(dhow.get_envs().filter_map(|(key, value)| Some((key, value?))));
    env.run_command(line, shell, Vec::new())
}

#[test]
fn open_descriptors_are_passed_on_if_asked() {
    let env = busy();
    env.file("three", "third\n");
    env.file("nine", "ninth\n");
    let open = "3<three 4>four 9<nine";
    let run = "--network none --name one";
    for flags in ["--rm", "--rm --init", "--rm --privileged", "--rm --cap-drop all"] {
        let line = format!("run {flags} {run} --preserve-fds 2 busy sh -c 'cat <&3; echo out >&4'");
        with_descriptors(&env, &line, open).prints("third\n");
        assert_eq!(std::fs::read_to_string(env.path("four")).unwrap(), "out\n", "{flags}");
    }
    let show = "sh -c 'cat <&9; cat <&3; for n in 3 4 5 6 7 8 9; do test -e /proc/self/fd/$n && echo $n; done; true'";
    let line = format!("run --rm {run} --preserve-fd 9,3 busy {show}");
    with_descriptors(&env, &line, open).prints("ninth\nthird\n3\n9\n");
    let line = format!(
        "run --rm {run} busy sh -c 'test ! -e /proc/self/fd/4 && test ! -e /proc/self/fd/9'"
    );
    with_descriptors(&env, &line, open).prints("");

    let line = format!("run -d {run} --preserve-fds 1 busy sleep 1000");
    with_descriptors(&env, &line, open).ok();
    let line = "exec --preserve-fds 1 one sh -c 'cat <&3'";
    with_descriptors(&env, line, open).prints("third\n");
    // What the container was given is not its execs'.
    env.run("exec one test -e /proc/self/fd/3").exits(1);
    with_descriptors(&env, "exec --preserve-fd 7 one true", open)
        .fails_with(125, "file descriptor 7 is not available");
    env.run("rm -ft 0 one").ok();
    env.run("run --rm --preserve-fds 3 busy true")
        .fails_with(125, "file descriptor 3 is not available");
    env.run("run --rm --preserve-fds -1 busy true").exits(125);
    env.run("ps -aq").prints("");
}
