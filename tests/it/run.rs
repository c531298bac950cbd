//! `run` in the foreground: exit codes, streams, signals, and launches that fail half way.

use std::{
    io::Read,
    process::{Command, Stdio},
};

use dhow::run::Step;
use nix::sys::signal::Signal;

use crate::{
    env::{Env, Run},
    fixture::BUSY,
};

fn busy() -> Env {
    Env::with("busy", BUSY)
}

fn inside(env: &Env, rest: &str) -> Run {
    env.run(&format!("run --rm --network none {rest}"))
}

#[test]
fn the_exit_code_is_the_commands() {
    let env = busy();
    inside(&env, "busy true").prints("");
    inside(&env, "busy false").exits(1);
    inside(&env, "busy sh -c 'exit 42'").exits(42);
    inside(&env, "busy sh -c 'exit 255'").exits(255);
    inside(&env, "busy sh -c 'kill -TERM $$'").exits(0); // pid 1 has no default action
    inside(&env, "--init busy sh -c 'kill -TERM $$'").exits(143);
    inside(&env, "--init busy sh -c 'kill -SEGV $$'").exits(139);
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let env = busy();
    inside(&env, "busy no-such-command")
        .fails_with(127, "no-such-command")
        .tells("No such file or directory")
        .tells("hint: ");
    inside(&env, "busy ''").fails_with(127, "name is empty");
    inside(&env, "busy /no/such/command").fails_with(127, "/no/such/command");
    env.image("scripts", &format!("{BUSY}\n/script 0755 #!/no/interpreter"));
    inside(&env, "scripts /script").fails_with(127, "interpreter");
}

#[test]
fn a_command_that_cannot_run_is_126() {
    let env = Env::with("busy", &format!("{BUSY}\n/plain 0644 text\n/text 0755 text"));
    inside(&env, "busy /plain").fails_with(126, "/plain").tells("Permission denied");
    inside(&env, "busy /etc").fails_with(126, "/etc").tells("Permission denied");
    inside(&env, "busy /text").fails_with(126, "/text").tells("Exec format error");
}

#[test]
fn a_container_that_cannot_be_is_125() {
    let env = busy();
    inside(&env, "--pull never no-such true").fails_with(125, "no-such").tells("hint: ");
    env.image("empty", "/etc/passwd 0644 root:x:0:0::/:/bin/sh");
    inside(&env, "empty").fails_with(125, "no command specified");
    inside(&env, "--bogus busy").exits(125);
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let env = busy();
    let run = inside(&env, "busy sh -c 'echo out; echo err >&2; exit 3'").exits(3).prints("out\n");
    assert_eq!(run.stderr, "err\n");
}

#[test]
fn stdin_is_given_with_i_only() {
    let env = busy();
    env.run_with_stdin("run --rm --network none -i busy cat", "hello\n").prints("hello\n");
    env.run_with_stdin("run --rm --network none busy cat", "hello\n").prints("");
    env.run_with_stdin("run --rm --network none -i busy head -c 2", "hello\n").prints("he");
}

#[test]
fn bytes_pass_unchanged() {
    let env = busy();
    // Every byte value, at no round size, and more than any buffer on the way.
    let data: Vec<u8> =
        (0..3_000_017_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let run = env.run_with_stdin("run --rm --network none -i busy cat", data.clone()).exits(0);
    assert!(run.bytes == data, "{} bytes came back of {}", run.bytes.len(), data.len());
}

#[test]
fn a_tar_is_unpacked_from_a_pipe() {
    let env = busy();
    let layer = crate::fixture::layer("/dir/file 0644 content");
    env.run_with_stdin(
        "run --rm --network none -i busy sh -c 'cd /tmp && tar x && cat dir/file'",
        layer,
    )
    .prints("content\n");
    inside(&env, "busy sh -c 'mkdir /t && echo x > /t/f && tar c -C /t f'").prints_tar(["f"]);
}

#[test]
fn a_reader_that_has_enough_ends_the_run() {
    let env = busy();
    let line = env.command("run --rm --network none busy yes");
    let mut command = Command::new(line.get_program());
    command.args(line.get_args()).env_clear().current_dir(env.path(""));
    for (key, value) in line.get_envs() {
        command.env(key, value.unwrap());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    // As of any program in a pipeline; the container goes on, as docker's does.
    assert_eq!(crate::env::wait(&mut child, "dhow run yes | head -1"), 128 + 13);
    assert_eq!(&first, b"y\n");
}

#[test]
fn signals_are_passed_on() {
    let env = busy();
    let script = "run --rm --network none busy sh -c 'trap \"echo got TERM; exit 3\" TERM; trap \"echo got HUP\" HUP; echo up; while :; do sleep 0.02; done'";
    let run = env.spawn(script);
    run.expect("up\n");
    run.signal(Signal::SIGHUP);
    run.expect("got HUP\n");
    run.signal(Signal::SIGTERM);
    run.finish().exits(3).prints("up\ngot HUP\ngot TERM\n");
}

#[test]
fn signals_stay_outside_without_proxy() {
    let env = busy();
    env.run("create --name held --network none busy true").ok();
    let run = env.spawn("run --rm --name a --network none --sig-proxy=false busy sh -c 'trap \"echo got\" HUP; echo up; while :; do sleep 0.02; done'");
    run.expect("up\n");
    run.signal(Signal::SIGHUP);
    run.signal(Signal::SIGTERM);
    env.run("kill a").ok();
    assert!(!run.finish().stdout.contains("got"));
}

#[test]
fn a_killed_run_leaves_the_container_running() {
    let env = busy();
    let run = env.spawn("run --name a --network none busy sh -c 'echo up; sleep 1000'");
    run.expect("up\n");
    run.signal(Signal::SIGKILL);
    run.finish().exits(137);
    env.run("exec a echo alive").prints("alive\n");
    env.run("rm -f a").ok();
}

/// Each step of init's, with flags that make it happen and stop before it matters.
#[test]
fn a_launch_that_fails_at_any_step_says_so_and_leaves_nothing() {
    let env = busy();
    env.run("run -d --name other --network none busy sleep 1000").ok();
    let id = env.run("create --name c --network none busy true").text();
    for step in Step::ALL {
        // Root's containers have no user namespace to become root of.
        if step == Step::BecomeRoot && crate::needs::is_root() {
            continue;
        }
        // Only root's containers in user namespaces need that.
        let shifts = crate::needs::is_root() && crate::needs::id_mapped_mounts().is_ok();
        if step == Step::ShowIds && !shifts {
            continue;
        }
        // Refused before the launch where there is no AppArmor.
        if step == Step::SetAppArmor && !has_apparmor() {
            continue;
        }
        // A device of CDI brings them: special::cdi.
        if step == Step::Hook {
            continue;
        }
        let (flags, sentence) = at(step);
        let line = format!("run --rm {flags} busy true");
        let mut command = env.command(&line);
        command.env("DHOW_FAIL_AT", format!("{step:?}"));
        let is_last = matches!(step, Step::ChangeDirectory | Step::Exec);
        let code = if is_last { 126 } else { 125 };
        env.run_command(&format!("{line} failing at {step:?}"), command, Vec::new())
            .fails_with(code, sentence)
            .tells("I/O error");
    }
    env.run("rm -f other c").ok();
    assert_eq!(env.leftovers(), Vec::<String>::new(), "of {id} or others");
}

fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.trim() == "Y")
}

#[test]
fn a_profile_needs_apparmor() {
    let env = busy();
    inside(&env, "--security-opt apparmor=unconfined busy echo runs").prints("runs\n");
    let why = if has_apparmor() { "apply the AppArmor profile nope" } else { "not enabled" };
    inside(&env, "--security-opt apparmor=nope busy true").fails_with(125, why).tells("hint: ");
}

/// The flags that bring a launch to `step`, and what is said when it fails.
fn at(step: Step) -> (&'static str, &'static str) {
    let plain = "--network none";
    match step {
        Step::JoinNamespaces => {
            ("--network container:other", "join the other container's namespaces")
        }
        Step::ShowIds => {
            ("--network none --uidmap 0:1000000:65536", "files with the container's ids")
        }
        Step::BecomeRoot => (plain, "become root in the user namespace"),
        Step::NewSession => (plain, "begin a new session"),
        Step::NewCgroupNamespace => (plain, "make a cgroup namespace"),
        Step::RaiseLoopback => (plain, "bring up the loopback interface"),
        Step::DetachMounts => (plain, "detach from the host's mounts"),
        Step::MountRootfs => (plain, "mount the root file system on"),
        Step::Mount => (plain, "mount proc on /proc"),
        Step::Device => ("--network none --device /dev/zero:/dev/zero2", "device /dev/"),
        Step::Hook => (plain, "run the hook"),
        Step::OpenTerminal => (plain, "open the container's terminal"),
        Step::Sysctl => ("--network none --sysctl net.ipv4.ip_forward=1", "set sysctl net"),
        Step::MaskPath => (plain, "mask /proc/"),
        Step::ReadOnlyPath => (plain, "make /proc/"),
        Step::MakeWorkdir => ("--network none -w /work", "create the working directory /work"),
        Step::PivotRoot => (plain, "pivot into the root file system"),
        Step::SetHostname => ("--network none -h box", "set the hostname to box"),
        Step::SetDomainname => ("--network none --domainname d", "set the domain name to d"),
        Step::RestrictRootfs => ("--network none --read-only", "restrict the root file system"),
        Step::ProtectExecutable => {
            ("--network none --init", "start again from a read-only view of dhow")
        }
        Step::SetScore => (plain, "set the OOM score"),
        Step::SetLimits => (plain, "set resource limits"),
        Step::SetPersonality => ("--network none --personality LINUX", "set the execution domain"),
        Step::NewKeyring => (plain, "make a session keyring"),
        Step::SetAppArmor => {
            ("--network none --security-opt apparmor=x", "apply the AppArmor profile x")
        }
        Step::CloseDescriptors => (plain, "close inherited descriptors"),
        Step::ChangeDirectory => (plain, "enter the working directory /"),
        Step::DropBounding => (plain, "drop capabilities from the bounding set"),
        Step::SetGroups => (plain, "set the supplementary groups"),
        Step::SetUser => ("--network none -u 5:6", "become user 5:6"),
        Step::SetCapabilities => (plain, "set capabilities"),
        Step::LockPrivileges => {
            ("--network none --security-opt no-new-privileges", "forbid new privileges")
        }
        Step::InstallSeccomp => (plain, "install the seccomp filter"),
        Step::Exec => (plain, "exec true"),
    }
}

mod solo {
    use super::{BUSY, Env, busy, inside};

    #[test]
    fn a_single_id_is_enough_to_unpack_and_run() {
        // Files of other owners in the image are all the user's.
        let env = Env::with("busy", &format!("{BUSY}\n/srv/mail 0640 8:12 letter"));
        inside(&env, "busy sh -c 'id -u; stat -c %u:%g /srv/mail /home/user; cat /srv/mail'")
            .prints("0\n0:0\n0:0\nletter\n");
        inside(&env, "busy cat /proc/self/uid_map").shows("1\n");
    }

    #[test]
    fn files_can_be_changed_and_stay() {
        let env = busy();
        env.run("run --name a --network none busy sh -c 'rm /etc/group; echo x > /etc/passwd; mkdir /new'")
            .ok();
        env.run("start -a a").exits(1).tells("/etc/group").tells("'/new': File exists");
        env.run("rm a").ok();
    }

    #[test]
    fn another_user_than_root_cannot_be() {
        let env = busy();
        inside(&env, "--user 33 busy true").fails_with(125, "uid 33").tells("hint: ");
        inside(&env, "--user user busy true").fails_with(125, "uid 1000").tells("/etc/subuid");
    }

    #[test]
    fn a_container_joins_anothers_namespaces() {
        let env = busy();
        env.run("run -d --name a --network none busy sleep 1000").ok();
        for flags in ["--network none --pid", "--network none --ipc", "--network"] {
            env.run(&format!("run --rm {flags} container:a busy id -u")).prints("0\n");
        }
    }

    #[test]
    fn execs_join_it() {
        let env = busy();
        env.run("run -d --name a --network none busy sleep 1000").ok();
        env.run("exec a id -u").prints("0\n");
        env.run("exec -u 33 a id -u").fails_with(125, "uid 33");
    }
}

#[test]
fn debug_says_what_is_done_and_only_then() {
    let env = Env::with("busy", BUSY);
    let line = "run --rm --network none busy echo hi";
    env.run(line).ok().prints("hi\n");
    let told = env.run(&format!("--debug {line}")).warns("debug: new namespaces:").prints("hi\n");
    assert!(told.stderr.contains("debug: mount:"), "{}", told.stderr);
}
