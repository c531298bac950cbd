//! Every flag of `run` and `create`, seen from inside the container.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::{
    env::{Env, Run, Running},
    fixture::BUSY,
    needs::is_root,
};

fn busy() -> Env {
    Env::with("busy", BUSY)
}

/// `run --rm`, with no network and thus no note about it.
fn inside(env: &Env, rest: &str) -> Run {
    env.run(&format!("run --rm --network none {rest}"))
}

/// A run that has set its traps and waits for signals.
fn trapping(env: &Env, flags: &str, traps: &str) -> Running {
    let run = env.spawn(&format!(
        "run {flags} --network none busy sh -c '{traps}; echo up; while :; do sleep 0.02; done'"
    ));
    run.expect("up\n");
    run
}

/// The record of a container that is created with these flags.
fn created(env: &Env, flags: &str) -> serde_json::Value {
    let id = env.run(&format!("create --network none {flags}")).text();
    let record = env.root().join("containers").join(&id).join("container.json");
    serde_json::from_slice(&fs::read(record).unwrap()).unwrap()
}

#[test]
fn variables_come_from_docker_the_image_the_files_and_the_flags() {
    let env = Env::with("busy", &format!("{BUSY}\nENV FROM=image\nENV OVER=image"));
    let file = env.file("vars", "# a comment\n\nFILE=a b\nOVER=file\nHERE\nMISSING\n");
    let line = format!(
        "run --rm --network none -h box -e A=1 -e HERE --env=OVER=flag -e EMPTY= -e NOT_SET \
         --env-file {file} busy env"
    );
    let mut command = env.command(&line);
    command.env("HERE", "from outside");
    env.run_command(&line, command, Vec::new()).prints_lines([
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=box",
        "HOME=/root",
        "FROM=image",
        "OVER=flag",
        "FILE=a b",
        "HERE=from outside",
        "A=1",
        "EMPTY=",
    ]);
}

#[test]
fn a_bad_env_file_is_named_with_its_line() {
    let env = busy();
    let file = env.file("vars", "GOOD=1\nwith space=2\n");
    inside(&env, &format!("--env-file {file} busy true")).fails_with(125, &format!("{file}:2"));
    inside(&env, "--env-file /no/such/file busy true").fails_with(125, "/no/such/file");
    let binary = env.file("binary", [b'A', b'=', 0xff, b'\n']);
    inside(&env, &format!("--env-file {binary} busy true")).fails_with(125, "utf8");
    inside(&env, "-e =x busy true").fails_with(125, "invalid environment variable: =x");
}

#[test]
fn users_are_names_or_numbers_of_the_image() {
    let env = busy();
    for (user, expected) in [
        ("user", "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)"),
        ("1000", "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)"),
        ("1234", "uid=1234 gid=0(root) groups=0(root)"),
        ("1234:77", "uid=1234 gid=77 groups=77"),
        ("user:extra", "uid=1000(user) gid=2000(extra) groups=2000(extra)"),
        ("0:extra", "uid=0(root) gid=2000(extra) groups=2000(extra)"),
    ] {
        inside(&env, &format!("-u {user} busy id")).prints(&format!("{expected}\n"));
    }
    inside(&env, "--user user busy sh -c 'echo $HOME'").prints("/home/user\n");
    inside(&env, "--user 1234 busy sh -c 'echo $HOME'").prints("/\n");
    inside(&env, "-u 5 --group-add extra --group-add 33 busy id")
        .prints("uid=5 gid=0(root) groups=0(root),33,2000(extra)\n");
}

#[test]
fn a_user_nobody_knows_is_refused() {
    let env = busy();
    inside(&env, "-u nobody busy true").fails_with(125, "unable to find user nobody");
    inside(&env, "-u user:nogroup busy true").fails_with(125, "unable to find group nogroup");
    inside(&env, "--group-add nogroup busy true").fails_with(125, "unable to find group nogroup");
    inside(&env, "-u 4294967296 busy true").fails_with(125, "range");
    inside(&env, "-u -1 busy true").fails_with(125, "-1");
    inside(&env, "-u a:b:c busy true").fails_with(125, "a:b:c");
}

#[test]
fn the_image_names_a_user_and_a_directory() {
    let env = Env::with("busy", &format!("{BUSY}\nUSER user\nWORKDIR /home/user"));
    inside(&env, "busy sh -c 'id -un; pwd'").prints("user\n/home/user\n");
    inside(&env, "-u 0 -w /tmp busy sh -c 'id -un; pwd'").prints("root\n/tmp\n");
}

#[test]
fn the_working_directory_is_made() {
    let env = busy();
    inside(&env, "-w /made/here busy sh -c 'pwd; stat -c %a-%u /made /made/here'")
        .prints("/made/here\n755-0\n755-0\n");
    inside(&env, "-w relative busy true").fails_with(125, "needs to be an absolute path");
    inside(&env, "-w /bin/busybox busy true").fails_with(126, "/bin/busybox");
}

#[test]
fn an_entrypoint_comes_before_the_command() {
    let env = busy();
    env.image("entry", &format!("{BUSY}\nENTRYPOINT [\"echo\", \"entry\"]\nCMD [\"cmd\"]"));
    inside(&env, "entry").prints("entry cmd\n");
    inside(&env, "entry a b").prints("entry a b\n");
    inside(&env, "--entrypoint pwd entry").prints("/\n");
    inside(&env, "--entrypoint echo entry x").prints("x\n");
    inside(&env, "--entrypoint '' entry echo plain").prints("plain\n");
    inside(&env, "--entrypoint '' entry").fails_with(125, "no command specified");
}

#[test]
fn names_of_host_and_domain() {
    let env = busy();
    inside(&env, "-h box --domainname example.net busy sh -c 'hostname; cat /proc/sys/kernel/domainname /etc/hostname'")
        .prints("box\nexample.net\nbox\n");
    let id = env.run("run -d --name a --network none busy sleep 1000").text();
    env.run("exec a hostname").prints(&format!("{}\n", &id[..12]));
    inside(&env, "-h -bad- busy true").fails_with(125, "invalid hostname");
}

#[test]
fn a_volume_is_a_directory_of_the_host() {
    let env = busy();
    fs::create_dir(env.path("data")).unwrap();
    let file = env.file("data/in", "from the host\n");
    let data = env.path("data").display().to_string();
    inside(&env, &format!("-v {data}:/data busy sh -c 'cat /data/in; echo back > /data/out'"))
        .prints("from the host\n");
    assert_eq!(fs::read_to_string(env.path("data/out")).unwrap(), "back\n");
    // Relative to where dhow runs, and one file alone.
    inside(&env, "-v ./data:/data busy cat /data/in").prints("from the host\n");
    inside(&env, &format!("-v {file}:/deep/er/file busy cat /deep/er/file"))
        .prints("from the host\n");
    inside(&env, &format!("-v {data}:/data:ro busy sh -c 'echo x > /data/y'"))
        .exits(1)
        .tells("Read-only file system");
    inside(&env, &format!("-v {data}:/data:rw busy touch /data/z")).ok();
    assert!(!env.path("data/y").exists() && env.path("data/z").exists());
}

#[test]
fn a_missing_source_is_made_for_v_and_refused_for_mount() {
    let env = busy();
    let data = env.path("new/dir").display().to_string();
    inside(&env, &format!("--mount type=bind,src={data},dst=/d busy true"))
        .fails_with(125, &format!("bind source path does not exist: {data}"));
    assert!(!env.path("new").exists());
    inside(&env, &format!("-v {data}:/d busy touch /d/f")).ok();
    assert!(env.path("new/dir/f").exists());
}

#[test]
fn volumes_that_cannot_be_are_refused() {
    let env = busy();
    for (flags, why) in [
        ("-v /tmp:relative", "must be absolute"),
        ("-v /tmp:/", "destination can't be '/'"),
        ("-v /tmp:/d:bogus", "invalid mode: bogus"),
        ("-v /tmp:/d -v /var:/d", "Duplicate mount point: /d"),
        ("--mount type=bind,src=/tmp", "target is required"),
        ("--mount type=nosuch,src=x,dst=/d", "mount type unknown"),
        ("--mount type=bind,src=tmp,dst=/d", "mount path must be absolute"),
        ("--mount type=bind,src=/tmp,dst=/d,x=y", "unexpected key 'x'"),
        ("--tmpfs relative", "must be absolute"),
        ("--tmpfs /t:bogus=1", "invalid tmpfs option"),
    ] {
        inside(&env, &format!("{flags} busy true")).fails_with(125, why);
    }
}

#[test]
fn the_long_form_of_a_mount() {
    let env = busy();
    fs::create_dir(env.path("data")).unwrap();
    let data = env.path("data").display().to_string();
    env.file("data/in", "content\n");
    inside(&env, &format!("--mount type=bind,source={data},target=/d,readonly busy sh -c 'cat /d/in; touch /d/x || echo refused'"))
        .exits(0)
        .prints("content\nrefused\n");
    inside(&env, "--mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700 busy sh -c 'stat -c %a /t; df -k /t | tail -1 | awk \"{print \\$2}\"'")
        .prints("700\n1024\n");
}

/// Runs a script in a mount namespace of its own, in which `"$@"` is dhow.
fn among_mounts(env: &Env, script: &str) -> Run {
    let dhow = env.command("");
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script, "sh"]).arg(dhow.get_program());
    command.env_clear().current_dir(env.path(""));
    for (key, value) in dhow.get_envs() {
        command.env(key, value.unwrap());
    }
    env.run_command(script, command, Vec::new())
}

#[test]
fn propagation_is_private_unless_asked_for() {
    let env = busy();
    fs::create_dir(env.path("data")).unwrap();
    let data = env.path("data").display().to_string();
    let fields = |options: &str| {
        inside(&env, &format!("-v {data}:/d{options} busy grep ' /d ' /proc/self/mountinfo"))
            .text()
            .split(" - ")
            .next()
            .unwrap()
            .to_owned()
    };
    assert!(!fields("").contains("master:") && !fields("").contains("shared:"));
}

#[test]
fn temporary_file_systems() {
    let env = busy();
    inside(&env, "--tmpfs /t busy sh -c 'stat -c %a /t; grep \" /t \" /proc/mounts | cut -d\" \" -f4 | tr , \"\\n\" | grep -E \"^no(suid|exec|dev)$\" | sort'")
        .prints("1777\nnodev\nnoexec\nnosuid\n");
    inside(&env, "--tmpfs /t:size=64k,mode=750,exec,uid=5 busy sh -c 'stat -c %a-%u /t; cp /bin/busybox /t/ 2>&1 | tail -1; cp /bin/busybox /dev/null; grep \" /t \" /proc/mounts'")
        .exits(0)
        .shows("750-5\n")
        .shows("No space left on device")
        .shows("size=64k")
        .hides("noexec");
}

#[test]
fn a_read_only_root_still_has_writable_mounts() {
    let env = busy();
    inside(
        &env,
        "--read-only --tmpfs /t busy sh -c 'touch /t/a /dev/shm/b && echo written; touch /c'",
    )
    .exits(1)
    .prints("written\n")
    .tells("/c: Read-only file system");
}

#[test]
fn shared_memory_has_a_size() {
    let env = busy();
    let kib = "df -k /dev/shm | tail -1 | awk \"{print \\$2}\"";
    inside(&env, &format!("busy sh -c '{kib}'")).prints("65536\n");
    inside(&env, &format!("--shm-size 2m busy sh -c '{kib}'")).prints("2048\n");
    inside(&env, "--shm-size lots busy true").fails_with(125, "--shm-size");
}

#[test]
fn limits_of_the_process() {
    let env = busy();
    inside(
        &env,
        "--ulimit nofile=100:200 --ulimit core=0 busy sh -c 'ulimit -Sn; ulimit -Hn; ulimit -c'",
    )
    .prints("100\n200\n0\n");
    inside(&env, "--ulimit bogus=1 busy true").fails_with(125, "invalid ulimit type: bogus");
    inside(&env, "--ulimit nofile=2:1 busy true").fails_with(125, "soft limit must be less");
    if !is_root() {
        inside(&env, "--ulimit nofile=1:1073741816 busy true")
            .fails_with(125, "set resource limits")
            .tells("hint: a hard limit cannot be raised");
    }
}

#[test]
fn sysctls_of_its_own_namespaces_only() {
    let env = busy();
    inside(&env, "--sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=4096 busy cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax")
        .prints("1\n4096\n");
    inside(&env, "--sysctl vm.swappiness=1 busy true").fails_with(125, "vm.swappiness");
    env.run("run --rm --network host --sysctl net.ipv4.ip_forward=1 busy true")
        .fails_with(125, "sysctl net.ipv4.ip_forward not allowed");
    inside(&env, "--ipc host --sysctl kernel.msgmax=1 busy true")
        .fails_with(125, "sysctl kernel.msgmax not allowed");
    inside(&env, "--sysctl net.ipv4.no_such=1 busy true")
        .fails_with(125, "set sysctl net/ipv4/no_such=1");
}

#[test]
fn a_device_of_the_host() {
    let env = busy();
    inside(&env, "--device /dev/zero:/dev/other busy sh -c 'test -c /dev/other && head -c 4 /dev/other | wc -c'")
        .prints("4\n");
    inside(&env, "--device /dev/no-such busy true").fails_with(125, "/dev/no-such");
    inside(&env, "--device /etc/passwd busy true").fails_with(125, "is not a device");
}

#[test]
fn capabilities_are_added_and_dropped() {
    let env = busy();
    let bounding = |flags: &str| {
        let line = inside(&env, &format!("{flags} busy grep CapBnd /proc/self/status")).text();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    let default = bounding("");
    assert_eq!(default, 0x8004_05fb, "the default eleven");
    assert_eq!(bounding("--cap-drop ALL"), 0);
    assert_eq!(bounding("--cap-drop all --cap-add chown"), 1);
    assert_eq!(bounding("--cap-drop CAP_CHOWN"), default & !1);
    assert_eq!(bounding("--cap-add SYS_ADMIN"), default | 1 << 21);
    assert_eq!(bounding("--cap-add ALL"), bounding("--privileged"));
    assert!(bounding("--cap-add ALL") > bounding("--cap-add ALL --cap-drop SYS_ADMIN"));
    inside(&env, "--cap-add BOGUS busy true").fails_with(125, "BOGUS");
    // Effective for root only.
    inside(&env, "-u 5 busy grep CapEff /proc/self/status").prints("CapEff:\t0000000000000000\n");
}

#[test]
fn security_options() {
    let env = busy();
    let status = |flags: &str, field: &str| {
        let line = inside(&env, &format!("{flags} busy grep ^{field}: /proc/self/status")).text();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(status("", "NoNewPrivs"), "0");
    assert_eq!(status("--security-opt no-new-privileges", "NoNewPrivs"), "1");
    assert_eq!(status("--security-opt no-new-privileges=false", "NoNewPrivs"), "0");
    assert_eq!(status("", "Seccomp"), "2");
    assert_eq!(status("--security-opt seccomp=unconfined", "Seccomp"), "0");
    let profile = env.file(
        "seccomp.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#,
    );
    inside(&env, &format!("--security-opt seccomp={profile} busy mkdir /x"))
        .exits(1)
        .tells("Operation not permitted");
    inside(&env, "--security-opt seccomp=/no/such busy true").fails_with(125, "/no/such");
    let torn = env.file("torn.json", r#"{"defaultAction":"SCMP"#);
    inside(&env, &format!("--security-opt seccomp={torn} busy true")).fails_with(125, "torn.json");
    inside(&env, "--security-opt bogus=1 busy true").fails_with(125, "bogus");
}

#[test]
fn paths_are_masked_and_unmasked() {
    let env = busy();
    inside(&env, "busy sh -c 'wc -c < /proc/timer_list; touch /proc/sys/kernel/x'")
        .exits(1)
        .prints("0\n");
    inside(&env, "--security-opt mask=/etc busy ls /etc").prints("");
    inside(&env, "--security-opt mask=/etc/passwd busy cat /etc/passwd").prints("");
    let masks = "grep -c ' /proc/' /proc/self/mountinfo";
    let count = |flags: &str| -> u32 {
        inside(&env, &format!("{flags} busy sh -c \"{masks} || true\"")).text().parse().unwrap()
    };
    assert!(count("") > 5);
    assert_eq!(count("--security-opt unmask=ALL"), 0);
    assert_eq!(count("--security-opt unmask=/proc/sys"), count("") - 1);
}

#[test]
fn a_privileged_container_is_not_confined() {
    let env = busy();
    inside(&env, "--privileged busy sh -c 'grep -E \"^(Seccomp|NoNewPrivs):\" /proc/self/status; mount -t tmpfs none /mnt 2>&1 || { mkdir /m && mount -t tmpfs none /m && echo mounted; }'")
        .exits(0)
        .shows("NoNewPrivs:\t0\nSeccomp:\t0\n")
        .shows("mounted\n");
    inside(&env, "busy sh -c 'mkdir /m && mount -t tmpfs none /m'").exits(1);
}

#[test]
fn namespaces_are_its_own_or_the_hosts() {
    let env = busy();
    for (flag, file) in
        [("pid", "pid"), ("ipc", "ipc"), ("uts", "uts"), ("cgroupns", "cgroup"), ("network", "net")]
    {
        let ours = fs::read_link(format!("/proc/self/ns/{file}")).unwrap();
        let theirs = |mode: &str| {
            let network = if flag == "network" { "" } else { "--network none" };
            env.run(&format!(
                "run --rm {network} --{flag} {mode} busy readlink /proc/self/ns/{file}"
            ))
            .text()
        };
        assert_eq!(theirs("host"), ours.to_str().unwrap(), "--{flag} host");
        let own = if flag == "network" { "none" } else { "private" };
        assert_ne!(theirs(own), ours.to_str().unwrap(), "--{flag} {own}");
    }
    inside(&env, "--pid bogus busy true").fails_with(125, "--pid");
    inside(&env, "--uts container:x busy true").exits(125);
    env.run("run --rm --network bogus busy true").fails_with(125, "network bogus not found");
}

#[test]
fn with_the_hosts_pids_the_container_sees_the_host() {
    let env = busy();
    let me = std::process::id();
    inside(&env, &format!("--pid host busy sh -c 'test -d /proc/{me} && echo seen'"))
        .prints("seen\n");
    inside(&env, "busy sh -c 'echo $$'").prints("1\n");
}

#[test]
fn with_the_hosts_name_it_has_the_hosts_name() {
    let env = busy();
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    inside(&env, "--uts host busy hostname").prints(&format!("{name}\n"));
}

#[test]
fn the_network_is_loopback_or_the_hosts() {
    let env = busy();
    inside(&env, "busy sh -c 'ls /sys/class/net; cat /sys/class/net/lo/flags'").prints("lo\n0x9\n");
    let count = fs::read_dir("/sys/class/net").unwrap().count();
    env.run("run --rm --network host busy sh -c 'ls /sys/class/net | wc -l'")
        .prints(&format!("{count}\n"));
}

#[test]
fn a_container_joins_anothers_namespaces() {
    let env = busy();
    env.run("run -d --name a --network none --ipc shareable busy sleep 1000").ok();
    for (flag, file) in [("pid", "pid"), ("ipc", "ipc"), ("network", "net")] {
        let theirs = env.run(&format!("exec a readlink /proc/self/ns/{file}")).text();
        let network = if flag == "network" { "" } else { "--network none" };
        env.run(&format!(
            "run --rm {network} --{flag} container:a busy readlink /proc/self/ns/{file}"
        ))
        .prints(&format!("{theirs}\n"));
    }
    inside(&env, "--pid container:a busy ps -o args").shows("sleep 1000");
    inside(&env, "--ipc container:no-such busy true").fails_with(125, "No such container: no-such");
    env.run("create --name b busy true").exits(0);
    inside(&env, "--pid container:b busy true").fails_with(125, "non running container: b");
}

#[test]
fn user_namespace_modes_that_are_none_are_refused() {
    let env = busy();
    inside(&env, "--userns auto:color=red busy true").fails_with(125, "invalid USER mode");
    inside(&env, "--userns bogus busy true").fails_with(125, "invalid USER mode");
}

mod as_root {
    use super::{Env, among_mounts, busy, capabilities, fs, inside};

    #[test]
    fn what_is_mounted_below_a_read_only_volume_is_read_only_too() {
        let env = busy();
        fs::create_dir_all(env.path("data/sub")).unwrap();
        let script = "mount -t tmpfs none data/sub
            \"$@\" run --rm --network none -v ./data:/d:ro busy \
                sh -c 'touch /d/f; touch /d/sub/f; touch /tmp/f && echo end'";
        among_mounts(&env, script)
            .exits(0)
            .prints("end\n")
            .tells("/d/f: Read-only file system")
            .tells("/d/sub/f: Read-only file system");
    }

    #[test]
    fn a_bind_takes_what_is_mounted_below_unless_told_not_to() {
        let env = busy();
        fs::create_dir_all(env.path("data/sub")).unwrap();
        let script = "mount -t tmpfs none data/sub; touch data/sub/below
            \"$@\" run --rm --network none -v ./data:/d busy ls /d/sub
            \"$@\" run --rm --network none -v ./data:/d:bind busy ls /d/sub
            \"$@\" run --rm --network none --mount type=bind,src=./data,dst=/d,bind-nonrecursive \
                busy ls /d/sub";
        among_mounts(&env, script).prints("below\n");
    }

    #[test]
    fn what_is_mounted_inside_is_seen_outside_if_asked_for() {
        let env = busy();
        fs::create_dir(env.path("shared")).unwrap();
        fs::create_dir(env.path("plain")).unwrap();
        let script = "mount -t tmpfs t shared; mount --make-shared shared; mkdir shared/d shared/sub
            mount -t tmpfs t shared/sub; mkdir shared/sub/d; mount -t tmpfs t plain
            run() { mode=$1 dir=$2; shift 2; \"$@\" run --rm --network none --privileged \
                -v $PWD/shared:/s:$mode busy mount -t tmpfs inside /s/$dir; }
            seen() { grep -c ' inside ' /proc/self/mountinfo || :; }
            for mode in rprivate private rslave slave; do run $mode d \"$@\"; run $mode sub/d \"$@\"; done; seen
            run rshared d \"$@\"; seen
            run rshared sub/d \"$@\"; seen
            for mode in shared rslave; do
                \"$@\" run --rm --network none -v $PWD/plain:/s:$mode busy true || echo $?
            done
            \"$@\" ps -aq";
        among_mounts(&env, script)
            .exits(0)
            .prints("0\n1\n2\n125\n125\n")
            .tells("plain but it is not a shared mount")
            .tells("plain but it is not a shared or slave mount")
            .tells("mount --make-shared");
    }

    /// What the host mounts later is seen inside where that was asked for, and only there.
    #[test]
    fn what_is_mounted_outside_is_seen_inside_if_asked_for() {
        let env = busy();
        fs::create_dir(env.path("shared")).unwrap();
        let script = "mount -t tmpfs t shared; mount --make-shared shared; mkdir shared/d shared/sub
            mount -t tmpfs t shared/sub; mkdir shared/sub/d
            for mode in rprivate rslave rshared; do
                \"$@\" run -d --name $mode --network none -v $PWD/shared:/s:$mode busy sleep 1000 >/dev/null
            done
            mount -t tmpfs later shared/d; mount -t tmpfs later shared/sub/d
            for mode in rprivate rslave rshared; do
                \"$@\" exec $mode sh -c 'grep -c \" later \" /proc/self/mountinfo || :'
            done
            \"$@\" rm -ft 0 rprivate rslave rshared >/dev/null";
        among_mounts(&env, script).prints("0\n2\n2\n");
    }

    #[test]
    fn a_full_or_read_only_store_is_named_and_kept_whole() {
        let env = busy();
        let script =
            "mkdir m; mount -t tmpfs -o size=64m none m; cp -a r/. m; export DHOW_ROOT=$PWD/m
            dd if=/dev/zero of=m/fill bs=64k 2>/dev/null || true
            \"$@\" run --rm --network none busy true || echo $?
            rm m/fill; \"$@\" run --rm --network none busy echo room
            mkdir n; mount --bind m n; mount -o remount,bind,ro n; export DHOW_ROOT=$PWD/n
            \"$@\" run --rm --network none busy true || echo $?
            ls m/containers m/names m/staging | grep -v :$ | grep . || echo nothing left";
        among_mounts(&env, script)
            .exits(0)
            .prints("125\nroom\n125\nnothing left\n")
            .tells("No space left on device")
            .tells("Read-only file system");
    }

    #[test]
    fn the_user_namespace_is_the_hosts() {
        let env = busy();
        let ours = fs::read_link("/proc/self/ns/user").unwrap();
        inside(&env, "busy readlink /proc/self/ns/user")
            .prints(&format!("{}\n", ours.to_str().unwrap()));
        inside(&env, "--userns host busy readlink /proc/self/ns/user")
            .prints(&format!("{}\n", ours.to_str().unwrap()));
    }

    #[test]
    fn a_device_node_keeps_its_numbers_and_mode() {
        let env = busy();
        inside(&env, "--device /dev/zero:/dev/other busy stat -c '%t:%T %a' /dev/other")
            .prints("1:5 666\n");
        inside(&env, "--privileged busy sh -c 'test -c /dev/kmsg && echo there'").prints("there\n");
    }

    #[test]
    fn the_oom_score_can_be_lowered_with_the_capability_for_it() {
        let env = busy();
        let run = inside(&env, "--oom-score-adj -500 busy cat /proc/self/oom_score_adj");
        // CAP_SYS_RESOURCE, which a container's or machine's root may lack.
        match capabilities() >> 24 & 1 {
            1 => run.prints("-500\n"),
            _ => run.fails_with(125, "set the OOM score: Permission denied"),
        };
    }

    #[test]
    fn a_cgroup_below_the_one_named() {
        let env: Env = busy();
        let Some(mount) = crate::needs::cgroup_mount() else { return };
        let parent = format!("dhow-test-{}", std::process::id());
        env.run(&format!(
            "run -d --name a --network none --cgroup-parent /{parent} busy sleep 1000"
        ))
        .ok();
        let children = fs::read_dir(mount.join(&parent)).unwrap();
        let made = children.filter(|e| e.as_ref().unwrap().path().is_dir()).count();
        env.run("rm -f a").ok();
        let gone = fs::remove_dir(mount.join(&parent));
        assert_eq!(made, 1);
        gone.unwrap();
    }
}

/// The effective ones of the test itself.
fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    u64::from_str_radix(line, 16).unwrap()
}

mod rootless {
    use super::{busy, env_file_owner, fs, inside};

    #[test]
    fn only_root_can_limit_a_device() {
        let env = busy();
        inside(&env, "--device /dev/zero:/dev/other:rw busy head -c 1 /dev/other").exits(0);
        for flags in ["--device /dev/zero:/dev/other:r", "--device-cgroup-rule \"c 1:5 r\""] {
            inside(&env, &format!("{flags} busy true"))
                .fails_with(125, "only root can restrict the use of a device");
        }
    }

    #[test]
    fn root_inside_is_the_user_outside() {
        let env = busy();
        fs::create_dir(env.path("data")).unwrap();
        let data = env.path("data").display().to_string();
        inside(&env, &format!("-v {data}:/d busy sh -c 'id -u; touch /d/mine'")).prints("0\n");
        assert_eq!(
            env_file_owner(&env.path("data/mine")),
            nix::unistd::geteuid().as_raw(),
            "a file made by root inside"
        );
    }

    #[test]
    fn a_user_that_is_not_mapped_is_named() {
        let env = busy();
        inside(&env, "-u 70000 busy true").fails_with(125, "uid 70000").tells("hint: ");
        inside(&env, "-u 5:70000 busy true").fails_with(125, "gid 70000");
        inside(&env, "--group-add 70000 busy true").fails_with(125, "gid 70000");
    }

    #[test]
    fn the_oom_score_cannot_be_lowered() {
        let env = busy();
        inside(&env, "--oom-score-adj -500 busy true")
            .fails_with(125, "set the OOM score")
            .tells("Permission denied");
    }
}

fn env_file_owner(path: &std::path::Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().uid()
}

#[test]
fn the_oom_score_can_be_raised() {
    let env = busy();
    inside(&env, "--oom-score-adj 700 busy cat /proc/self/oom_score_adj").prints("700\n");
    inside(&env, "--oom-score-adj 1001 busy true").fails_with(125, "[-1000, 1000]");
}

#[test]
fn an_init_reaps_forwards_and_passes_the_code_on() {
    let env = busy();
    inside(&env, "--init busy sh -c 'echo $$; exit 7'").exits(7).prints("2\n");
    inside(&env, "--init busy sh -c 'kill -9 $$'").exits(137);
    // An orphan's end is collected: no zombie stays.
    inside(&env, "--init busy sh -c '(sleep 0.01 & echo $! > /pid); while test -d /proc/$(cat /pid); do :; done; echo reaped'")
        .prints("reaped\n");
    let run = trapping(&env, "--name a --init", "trap \"exit 9\" TERM");
    env.run("stop a").prints("a\n");
    run.finish().exits(9);
}

#[test]
fn the_stop_signal_and_timeout_of_a_container() {
    let env = busy();
    let run = trapping(&env, "--name a --stop-signal USR1", "trap \"exit 5\" USR1");
    env.run("stop a").ok();
    run.finish().exits(5);
    env.run("run -d --name b --network none --stop-timeout 0 busy sleep 1000").ok();
    env.run("stop b").ok();
    env.run("wait b").prints("137\n");
    inside(&env, "--stop-signal BOGUS busy true").fails_with(125, "invalid signal: BOGUS");
    let record = created(&env, "--stop-signal 12 --stop-timeout 3 busy true");
    assert_eq!(record["config"]["stop_signal"], "12");
    assert_eq!(record["config"]["stop_timeout"], 3);
}

#[test]
fn labels_and_annotations_are_recorded() {
    let env = Env::with("busy", &format!("{BUSY}\nLABEL from=image\nLABEL over=image"));
    let file = env.file("labels", "# comment\nfile=1\nover=file\n");
    let record = created(
        &env,
        &format!("--label over=flag -l bare --label-file {file} --annotation a.b=c busy true"),
    );
    assert_eq!(
        record["config"]["labels"],
        serde_json::json!({ "bare": "", "file": "1", "from": "image", "over": "flag" })
    );
    assert_eq!(record["config"]["annotations"], serde_json::json!({ "a.b": "c" }));
    inside(&env, "-l '=x' busy true").fails_with(125, "empty name");
    inside(&env, "--label-file /no/such busy true").fails_with(125, "/no/such");
}

#[test]
fn the_id_is_written_to_a_file_that_must_be_new() {
    let env = busy();
    let file = env.path("cid").display().to_string();
    let id = env.run(&format!("run -d --name a --cidfile {file} busy sleep 1000")).exits(0).text();
    assert_eq!(fs::read_to_string(env.path("cid")).unwrap(), id);
    inside(&env, &format!("--cidfile {file} busy true")).fails_with(125, &format!("{file} exists"));
    let fresh = env.path("fresh").display().to_string();
    inside(&env, &format!("--cidfile {fresh} --pull never no-such true")).exits(125);
    assert!(!env.path("fresh").exists());
    inside(&env, "--cidfile /no/such/dir/cid busy true").fails_with(125, "/no/such/dir/cid");
}

#[test]
fn names_follow_rules_and_are_given_once() {
    let env = busy();
    for bad in ["-x", "a/b", ".a", "ä"] {
        env.run(&format!("create --network none --name={bad} busy true"))
            .fails_with(125, "invalid container name");
    }
    let id = env.run("create --network none --name one.of-the_2 busy true").text();
    env.run("create --name one.of-the_2 --network none busy true")
        .fails_with(125, "already in use by")
        .tells(&id[..12])
        .tells("hint: ");
    env.run("rm one.of-the_2").ok();
    env.run("create --name one.of-the_2 --network none busy true").ok();
}

#[test]
fn an_image_that_is_not_here_is_not_pulled_if_told_so() {
    let env = busy();
    inside(&env, "--pull never no-such true").fails_with(125, "no-such");
    inside(&env, "--pull bogus busy true").fails_with(125, "bogus");
    inside(&env, "--pull never --quiet busy echo here").prints("here\n");
    inside(&env, "UPPER true").fails_with(125, "UPPER");
}

#[test]
fn another_platform_than_the_images_is_not_run() {
    let env = busy();
    inside(&env, "--pull never --platform linux/s390x busy true").fails_with(125, "s390x");
    inside(&env, "--platform bogus/x/y/z busy true").fails_with(125, "invalid platform");
}

#[test]
fn a_dry_run_prints_the_plan_and_does_nothing() {
    let env = busy();
    let spec = inside(&env, "--dry-run --name a -e A=1 -h box busy echo hi").json();
    assert_eq!(spec["process"]["args"], serde_json::json!(["echo", "hi"]));
    assert_eq!(spec["hostname"], "box");
    let create = env.run("create --dry-run --network none busy true").json();
    assert_eq!(create["process"]["args"], serde_json::json!(["true"]));
    env.run("rm a").fails_with(1, "No such container: a");
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

#[test]
fn only_the_streams_asked_for_are_attached() {
    let env = busy();
    let script = "busy sh -c 'echo out; echo err >&2'";
    inside(&env, script).exits(0).prints("out\n").tells("err\n");
    let out = inside(&env, &format!("-a stdout {script}"));
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", ""));
    let err = inside(&env, &format!("-a STDERR {script}"));
    assert_eq!((err.stdout.as_str(), err.stderr.as_str()), ("", "err\n"));
    inside(&env, "-a bogus busy true").fails_with(125, "valid streams are");
    env.run("run -d -a stdout --network none busy true")
        .fails_with(125, "cannot specify both --attach and --detach");
    env.run_with_stdin("run --rm --network none -i -a stdin -a stdout busy cat", "in").prints("in");
}

#[test]
fn logging_can_be_off() {
    let env = busy();
    for (driver, logs) in [("json-file", true), ("none", false)] {
        let id = env
            .run(&format!(
                "run -d --name {driver} --network none --log-driver {driver} busy echo hi"
            ))
            .text();
        env.run(&format!("wait {driver}")).prints("0\n");
        let dir = env.root().join("containers").join(&id);
        let logged = fs::read_dir(&dir).unwrap().any(|entry| {
            let path = entry.unwrap().path();
            path.is_file() && fs::read_to_string(path).is_ok_and(|text| text.contains("\"hi\\n\""))
        });
        assert_eq!(logged, logs, "--log-driver {driver}");
    }
    inside(&env, "--log-driver syslog busy true").fails_with(125, "syslog");
    inside(&env, "--log-opt max-file=3 busy true").fails_with(125, "max-file");
}

#[test]
fn an_empty_value_is_one_that_was_not_given() {
    let env = busy();
    inside(&env, "--user '' --name '' --hostname '' --workdir '' busy sh -c 'id -u; pwd'")
        .prints("0\n/\n");
}

#[test]
fn a_file_goes_on_a_file_and_a_directory_on_a_directory() {
    let env = busy();
    let file = env.file("file", "x");
    let dir = env.path("").display().to_string();
    for line in [format!("-v {file}:/etc"), format!("-v {dir}:/etc/passwd")] {
        inside(&env, &format!("{line} busy true"))
            .fails_with(125, "bind /")
            .tells("hint: a file can be mounted on a file only, a directory on a directory only");
    }
}

#[test]
fn a_flag_that_is_not_there_is_named() {
    let env = busy();
    inside(&env, "--no-such-flag busy true").fails_with(125, "unknown flag: --no-such-flag");
    inside(&env, "--link-local-ip 1.2.3.4 busy true")
        .fails_with(125, "takes no address, alias or link");
    inside(&env, "--use-api-socket busy true").fails_with(125, "--use-api-socket: there is no");
    inside(&env, "--link a busy true").fails_with(125, "takes no address, alias or link");
    inside(&env, "-p 80:80 busy true")
        .warns("WARNING: Published ports are discarded when using none network mode");
    env.run("run --rm --network host -p 80:80 busy true")
        .warns("WARNING: Published ports are discarded when using host network mode");
    env.run("run").exits(125);
    env.run("create").exits(125);
}

#[test]
fn files_of_the_host_that_the_container_gets_are_its_own() {
    let env = busy();
    inside(&env, "busy sh -c 'echo 1.2.3.4 x >> /etc/hosts && tail -1 /etc/hosts; grep localhost /etc/hosts | head -1'")
        .prints("1.2.3.4 x\n127.0.0.1\tlocalhost\n");
    let own = env.file("resolv", "nameserver 9.9.9.9\n");
    inside(&env, &format!("-v {own}:/etc/resolv.conf busy cat /etc/resolv.conf"))
        .prints("nameserver 9.9.9.9\n");
}

#[test]
fn the_root_directory_has_the_images_mode() {
    let env = busy();
    inside(&env, "busy stat -c %a /").prints("755\n");
    let host = fs::metadata(env.root()).unwrap().permissions().mode() & 0o777;
    assert_ne!(host, 0, "the store itself is reachable");
}
