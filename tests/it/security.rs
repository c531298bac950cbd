//! Attacks from inside a container, by its image and by its caller's circumstances, really tried.
//!
//! Identifiers are those of the public advisories for other engines.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

use dhow::oci::Digest;
use serde_json::json;

use crate::{
    env::{Env, Run},
    fixture::{BUSY, Image},
    needs::{is_root, needs},
};

const RUN: &str = "run --rm --network none";
const UP: &str = "run -d --name c --network none";

/// docker's set without NET_RAW, MKNOD and AUDIT_WRITE (`security::caps::DEFAULT`).
const DEFAULT_CAPS: &str = "00000000800405fb";

/// `dhow LINE`, started by a shell after `before`: descriptors, masks and traps of a caller.
#[track_caller]
fn run_after(env: &Env, before: &str, line: &str) -> Run {
    let like = env.command(line);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{before}\nexec \"$@\"")).arg("sh");
    command.arg(like.get_program()).args(like.get_args());
    dress(&mut command, &like);
    env.run_command(line, command, Vec::new())
}

/// `PROGRAM LINE` where dhow would have been started.
#[track_caller]
fn run_as(env: &Env, program: &Path, line: &str) -> Run {
    let like = env.command(line);
    let mut command = Command::new(program);
    command.args(like.get_args());
    dress(&mut command, &like);
    env.run_command(line, command, Vec::new())
}

fn dress(command: &mut Command, like: &Command) {
    command.env_clear().current_dir(like.get_current_dir().unwrap());
    command.envs(like.get_envs().filter_map(|(key, value)| Some((key, value?))));
}

/// A copy of dhow that its user, and everyone else, may write to.
fn writable_dhow(env: &Env) -> (std::path::PathBuf, Digest) {
    let path = env.path("dhow");
    let content = fs::read(env.command("").get_program()).unwrap();
    fs::write(&path, &content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    (path, Digest::of(&content))
}

/// Fields of `/proc/self/status`, `NAME VALUE…` a line.
fn status(names: &str) -> String {
    format!("awk '/^({names}):/ {{ $1 = $1; print }}' /proc/self/status")
}

// --- dhow's own executable -----------------------------------------------------------------------

/// CVE-2019-5736: through `/proc/1/exe`, by one who may look at it.
#[test]
fn the_init_of_a_container_cannot_be_written_to() {
    let env = Env::with("busy", BUSY);
    let (dhow, before) = writable_dhow(&env);
    let line = format!("{UP} --init --cap-add SYS_PTRACE busy sleep 1000");
    run_as(&env, &dhow, &line).exits(0);
    // Not a path of any mount here, but the program that is meant.
    env.run("exec c sh -c 'cmp /proc/1/exe /bin/busybox >/dev/null || wc -c < /proc/1/exe'")
        .prints(&format!("{}\n", fs::metadata(&dhow).unwrap().len()));
    for attack in [
        "echo x > /proc/1/exe",
        "echo x >> /proc/1/exe",
        "dd if=/bin/busybox of=/proc/1/exe conv=notrunc",
        "chmod 4777 /proc/1/exe",
        "touch /proc/1/exe",
        "exec 3</proc/1/exe; cp /bin/busybox /proc/self/fd/3",
    ] {
        let run = run_as(&env, &dhow, &format!("exec c sh -c '{attack}'"));
        assert_ne!(run.code, 0, "{attack}");
        let refused = ["Read-only file system", "Text file busy", "Permission denied"];
        assert!(refused.iter().any(|why| run.stderr.contains(why)), "{attack}: {}", run.stderr);
    }
    assert_eq!(Digest::of(&fs::read(dhow).unwrap()), before);
}

/// CVE-2019-5736, the original: an entrypoint that is dhow, and a process that waits for it.
#[test]
fn an_entrypoint_that_is_dhow_itself_changes_nothing() {
    let env = Env::with(
        "busy",
        &format!("{BUSY}\n/self -> /proc/self/exe\n/script 0755 #!/proc/self/exe run"),
    );
    let (dhow, before) = writable_dhow(&env);
    for entry in ["/self version", "/script", "/proc/self/exe version"] {
        let run = run_as(&env, &dhow, &format!("{RUN} busy {entry}"));
        assert!(!run.stdout.contains("uid="), "{entry}");
    }
    // To open one is nothing yet: the last step of an exec is a sealed file of its own, which
    // can be opened for writing by whoever looked at it just before its process went on.
    let hunt = ": > /hit; while :; do for p in /proc/[0-9]*; do exe=$(readlink $p/exe); echo x >> $p/exe && echo $exe >> /hit; done; done 2>/dev/null";
    run_as(&env, &dhow, &format!("{UP} --cap-add SYS_PTRACE busy sh -c '{hunt}'")).exits(0);
    for entry in ["/self version", "/script", "true", "/proc/self/exe version"] {
        for _ in 0..4 {
            drop(run_as(&env, &dhow, &format!("exec c {entry}")));
        }
    }
    env.run("exec c cat /hit").prints("");
    assert_eq!(Digest::of(&fs::read(dhow).unwrap()), before);
}

/// CVE-2016-9962: a process that is about to enter the container is not to be looked into.
#[test]
fn an_entering_process_hides_its_descriptors_and_executable() {
    let env = Env::with("busy", BUSY);
    let (dhow, _) = writable_dhow(&env);
    let hunt = "while :; do for p in /proc/[0-9]*; do readlink $p/exe | grep -v ^/bin/busybox; readlink $p/fd/* | grep -v -e ^pipe: -e ^/dev/null -e ^/proc/ -e ^/out; done; done >> /out 2>/dev/null";
    run_as(&env, &dhow, &format!("{UP} busy sh -c '{hunt}'")).exits(0);
    for _ in 0..20 {
        run_as(&env, &dhow, "exec c true").ok();
    }
    env.run("exec c cat /out").prints("");
}

/// With a single id mapped, dhow's user is root inside and owns the file.
mod solo {
    use super::*;

    #[test]
    fn one_s_own_dhow_is_out_of_reach_of_one_s_containers() {
        needs!(no_subids);
        the_init_of_a_container_cannot_be_written_to();
        an_entrypoint_that_is_dhow_itself_changes_nothing();
        an_entering_process_hides_its_descriptors_and_executable();
    }
}

// --- descriptors ---------------------------------------------------------------------------------

#[test]
fn only_the_three_streams_are_open_inside() {
    let env = Env::with("busy", BUSY);
    let leak = "exec 3</etc 4</ 7</etc/passwd 9<.";
    // The fourth is the listing's own.
    let fds = "0\n1\n2\n3\n";
    run_after(&env, leak, &format!("{RUN} busy ls /proc/self/fd")).prints(fds);
    run_after(&env, leak, &format!("{RUN} -i busy ls /proc/self/fd")).prints(fds);
    run_after(&env, leak, &format!("{RUN} --init busy ls /proc/self/fd")).prints(fds);
    let tty = run_after(&env, leak, &format!("{RUN} -t busy ls -1 /proc/self/fd")).text();
    assert_eq!(tty.replace('\r', ""), "0\n1\n2\n3");
    run_after(&env, leak, &format!("{UP} --init busy sleep 1000")).exits(0);
    run_after(&env, leak, "exec c ls /proc/self/fd").prints(fds);
    run_after(&env, leak, "exec -i c ls /proc/self/fd").prints(fds);
}

/// CVE-2024-21626.
#[test]
fn no_working_directory_leads_out() {
    let env = Env::with("busy", BUSY);
    let look = "sh -c 'cd -P . && ls ../../../../../.. && pwd'";
    env.run(&format!("{UP} busy sleep 1000")).exits(0);
    for fd in (3..14).chain([62, 64, 65, 66]) {
        let run =
            run_after(&env, "exec 3</ 9</", &format!("{RUN} -w /proc/self/fd/{fd} busy {look}"));
        assert!((125..=127).contains(&run.code), "run, {fd}: {} {}", run.code, run.stdout);
        let run = run_after(&env, "exec 3</ 9</", &format!("exec -w /proc/self/fd/{fd} c {look}"));
        assert!((125..=127).contains(&run.code), "exec, {fd}: {} {}", run.code, run.stdout);
    }
    env.run(&format!("{RUN} -w /../../.. busy pwd")).prints("/\n");
}

#[test]
fn the_host_s_root_is_no_working_directory_even_with_its_processes_in_sight() {
    let env = Env::with("busy", BUSY);
    let own = std::process::id();
    for dir in [format!("/proc/{own}/root"), format!("/proc/{own}/cwd")] {
        let run = env.run(&format!("{RUN} --pid host -w {dir} busy ls"));
        assert!((125..=127).contains(&run.code), "{dir}: {} {}", run.code, run.stdout);
    }
}

/// What the caller has open does not stay open in the monitor.
#[test]
fn a_detached_container_holds_nothing_of_its_caller() {
    let env = Env::with("busy", BUSY);
    let lock = env.file("lock", "");
    run_after(&env, &format!("exec 9>{lock}"), &format!("{UP} busy sleep 1000")).exits(0);
    let holders = fs::read_dir("/proc").unwrap().flatten().filter(|process| {
        let fds = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        fds.map(|fd| fd.path()).any(|fd| fs::read_link(fd).is_ok_and(|to| to == Path::new(&lock)))
    });
    assert_eq!(holders.count(), 0);
}

/// The host's `/dev/null` is a container's stdin, and lies over masked files. Each change here
/// asks for what is already so: should it be granted, no harm is done.
#[test]
fn the_host_s_null_device_keeps_its_owner_and_mode() {
    let env = Env::with("busy", BUSY);
    let before = fs::metadata("/dev/null").unwrap();
    env.run(&format!("{RUN} -u 1000 busy true")).ok();
    env.run(&format!("{UP} busy sleep 1000")).exits(0);
    env.run("exec -d -u 1000 c true").ok();
    env.run("exec -u 1000 c true").ok();
    let after = fs::metadata("/dev/null").unwrap();
    assert_eq!((before.uid(), before.gid()), (after.uid(), after.gid()));
    let own = "sh -c 'readlink /proc/self/fd/0; [ /proc/self/fd/0 -ef /dev/null ] && stat -c %d /dev/null'";
    for line in [format!("{RUN} busy {own}"), format!("exec c {own}")] {
        let text = env.run(&line).text();
        let (name, device) = text.split_once('\n').unwrap();
        assert_eq!(name, "/dev/null");
        assert!(!is_root() || device != before.dev().to_string(), "{line}: the host's own");
    }
    env.run("exec c sh -c 'for f in keys interrupts timer_list kcore; do chmod 666 /proc/$f && exit 9; done; exit 0'").exits(0);
    env.run(&format!("{RUN} busy sh -c 'cat; echo x > /dev/null; echo y > /proc/self/fd/0'")).ok();
    if is_root() {
        // Without one of its own it gets the host's, but not to change.
        env.run("exec c sh -c 'rm /dev/null; ln -s /etc/passwd /dev/null'").ok();
        env.run("exec c chmod 666 /proc/self/fd/0").exits(1).tells("Read-only file system");
        env.run("exec -d c sh -c 'chmod 666 /proc/self/fd/1 || touch /refused; touch /done'").ok();
        env.run("exec c sh -c 'until [ -e /done ]; do usleep 1000; done; test -e /refused'").ok();
    }
}

// --- the image's links ---------------------------------------------------------------------------

/// CVE-2019-19921, CVE-2023-27561: the kernel's file systems go where they belong or nowhere.
#[test]
fn links_in_place_of_the_kernel_s_directories_are_refused() {
    for dir in ["proc", "sys", "dev"] {
        for target in ["/tmp", "../../../../tmp", "/nowhere"] {
            let env = Env::with("bad", &format!("{BUSY}\n/{dir} -> {target}"));
            let run = env.run(&format!("{RUN} bad ls /{dir}/"));
            assert_eq!(run.code, 125, "/{dir} -> {target}: {}{}", run.stdout, run.stderr);
        }
    }
}

/// Links to host paths: everything ends inside.
#[test]
fn the_image_s_links_to_host_paths_end_inside() {
    let env = Env::new();
    let victim = env.file("victim", "mine\n");
    let dir = env.path("dir");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let host = dir.to_str().unwrap();
    env.image("links", &format!(
        "{BUSY}\n/etc/hosts -> {victim}\n/etc/hostname -> ../../../../../../../..{victim}2\n/etc/resolv.conf -> {host}/resolv.conf\n/a -> {host}\n/up -> ../../../../..{host}"
    ));
    env.image(
        "fd",
        &format!(
            "{BUSY}\n/etc/hosts -> /proc/self/fd/0\n/etc/resolv.conf -> /proc/1/root/etc/passwd"
        ),
    );
    let given = env.file("given", "given\n");
    let run = format!(
        "{RUN} -h web -v {given}:/a/b/c -v {given}:/up/d/../e -v {given}:/a/../../../../..{host}/f --tmpfs /a/t links"
    );
    env.run(&format!("{run} cat /etc/hostname {host}/b/c {host}/e {host}/f"))
        .prints("web\ngiven\ngiven\ngiven\n");
    env.run(&format!("{run} sh -c 'echo x > /etc/hosts; echo x > /etc/resolv.conf; touch /a/t/x'"))
        .ok();
    assert_eq!(fs::read_to_string(victim).unwrap(), "mine\n");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    let run = env.run(&format!("{RUN} fd cat /etc/hosts"));
    assert_eq!(run.code, 125, "{}", run.stderr);
}

/// What many images have: a link into a directory that exists in a running system only.
#[test]
fn a_dangling_resolv_conf_is_made_at_its_end() {
    let env = Env::with(
        "systemd",
        &format!("{BUSY}\n/etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf"),
    );
    env.run(&format!(
        "{RUN} systemd sh -c 'cat /etc/resolv.conf > /dev/null; grep -c resolv.conf /proc/mounts'"
    ))
    .prints("1\n");
}

/// CVE-2021-30465: a volume's busy user swaps a mount destination for a link to the outside.
#[test]
fn a_mount_destination_swapped_meanwhile_stays_inside() {
    let env = Env::with("busy", BUSY);
    let (shared, data, victim) = (env.path("shared"), env.path("data"), env.path("victim"));
    for dir in [&shared, &data, &victim] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::write(data.join("mark"), "").unwrap();
    fs::create_dir(victim.join("x")).unwrap();
    let (shared, data) = (shared.display(), data.display());
    let flip = format!(
        "mkdir -p real/x; while :; do ln -s ../../../../../../../../..{} l; rm l; ln -s real l; rm l; mkdir -p l/x; rm -rf l; done",
        victim.display()
    );
    env.run(&format!("{UP} -v {shared}:/v -w /v busy sh -c '{flip}'")).exits(0);
    for _ in 0..25 {
        let run = env.run(&format!("{RUN} -v {shared}:/v -v {data}:/v/l/x busy sh -c 'grep -q /v /proc/mounts && touch /v/l/x/y; true'"));
        assert!([0, 125].contains(&run.code), "{} {}", run.code, run.stderr);
    }
    env.run("kill c").exits(0);
    assert_eq!(fs::read_dir(victim.join("x")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
}

// --- what a process is -----------------------------------------------------------------------------

/// Neither the caller's traps and masks nor its capabilities and groups come along; the filter is
/// there whichever way a process came.
#[test]
fn every_way_in_ends_equally_confined() {
    let env = Env::with("busy", BUSY);
    let look = status("SigBlk|SigIgn|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp|Groups");
    let hostile = "trap '' HUP INT QUIT USR1 USR2 PIPE ALRM TERM CHLD TSTP TTIN TTOU; umask 0";
    let confined = |caps: &str, nnp: u8, groups: &str| {
        format!(
            "Groups:{groups}\nSigBlk: 0000000000000000\nSigIgn: 0000000000000000\nCapInh: 0000000000000000\nCapPrm: {caps}\nCapEff: {caps}\nCapBnd: {DEFAULT_CAPS}\nCapAmb: 0000000000000000\nNoNewPrivs: {nnp}\nSeccomp: 2\n"
        )
    };
    let root = confined(DEFAULT_CAPS, 0, " 0");
    run_after(&env, hostile, &format!("{RUN} busy {look}")).prints(&root);
    run_after(&env, hostile, &format!("{RUN} --init busy {look}")).prints(&root);
    let locked = confined(DEFAULT_CAPS, 1, " 0");
    run_after(&env, hostile, &format!("{RUN} --security-opt no-new-privileges busy {look}"))
        .prints(&locked);
    let user = confined("0000000000000000", 0, " 1000 2000");
    run_after(&env, hostile, &format!("{RUN} -u user busy {look}")).prints(&user);
    let tty = run_after(&env, hostile, &format!("{RUN} -t busy {look}")).text();
    assert_eq!(tty.replace('\r', "") + "\n", root);

    run_after(&env, hostile, &format!("{UP} --security-opt no-new-privileges busy sleep 1000"))
        .exits(0);
    run_after(&env, hostile, &format!("exec c {look}")).prints(&locked);
    let tty = run_after(&env, hostile, &format!("exec -t c {look}")).text();
    assert_eq!(tty.replace('\r', "") + "\n", locked);
    let user = confined("0000000000000000", 1, " 1000 2000");
    run_after(&env, hostile, &format!("exec -u user c {look}")).prints(&user);
}

#[test]
fn exec_gains_nothing_that_the_container_does_not_have() {
    let env = Env::with("busy", BUSY);
    env.run(&format!("{UP} --cap-drop ALL --cap-add CHOWN -u user busy sleep 1000")).exits(0);
    let look = status("CapPrm|CapEff|CapBnd|Seccomp");
    env.run(&format!("exec -u 0 c {look}"))
        .prints("CapPrm: 0000000000000001\nCapEff: 0000000000000001\nCapBnd: 0000000000000001\nSeccomp: 2\n");
    env.run(&format!("exec c {look}"))
        .prints("CapPrm: 0000000000000000\nCapEff: 0000000000000000\nCapBnd: 0000000000000001\nSeccomp: 2\n");
    env.run(&format!("exec --privileged -u 0 c {}", status("Seccomp"))).prints("Seccomp: 0\n");
    env.run(&format!("{RUN} --privileged busy {}", status("Seccomp"))).prints("Seccomp: 0\n");
}

/// CVE-2022-24769, CVE-2022-2989.
mod as_root {
    use super::*;

    #[test]
    fn a_caller_s_ambient_capabilities_and_groups_stay_outside() {
        needs!(root);
        let env = Env::with("busy", BUSY);
        let look = status("CapInh|CapAmb|Groups");
        let line = format!("{RUN} busy {look}");
        let like = env.command(&line);
        let mut command = Command::new("setpriv");
        command.args([
            "--inh-caps",
            "+chown,+net_raw,+sys_admin",
            "--ambient-caps",
            "+chown,+net_raw,+sys_admin",
            "--groups",
            "4,27,100",
            "--",
        ]);
        command.arg(like.get_program()).args(like.get_args());
        dress(&mut command, &like);
        env.run_command(&line, command, Vec::new())
            .prints("Groups: 0\nCapInh: 0000000000000000\nCapAmb: 0000000000000000\n");
    }

    /// `/dev/fuse` is none of the devices that every container has.
    const OPEN: &str = ": < $f && echo r; : > $f && echo w";

    #[test]
    fn device_nodes_of_images_and_volumes_do_not_open() {
        needs!(root);
        needs!(fuse);
        let env = Env::with("busy", BUSY);
        let node = Path::new(&env.path("node")).to_owned();
        let mut mknod = Command::new("mknod");
        assert!(mknod.arg(&node).args(["c", "10", "229"]).status().unwrap().success());
        let mut tar = Command::new("tar");
        tar.args(["-C", env.path("").to_str().unwrap(), "-rf"]).arg(env.path("layer.tar"));
        assert!(tar.arg("node").status().unwrap().success());
        let mut fill = Command::new("tar");
        fill.args(["-C", "/", "-rf"]).arg(env.path("layer.tar")).arg("bin/busybox");
        assert!(fill.status().unwrap().success());
        env.run(&format!("import {} nodes", env.path("layer.tar").display())).exits(0);

        let script = format!("f=/node; {OPEN}");
        let within = |flags: &str, image: &str, shell: &str| {
            env.run(&format!("{RUN} {flags} {image} {shell} -c '{script}'"))
        };
        within("", "nodes", "/bin/busybox sh").exits(1).tells("/node: Permission denied");
        within("--cap-add MKNOD", "nodes", "/bin/busybox sh").exits(1).tells("not permitted");
        within("--privileged", "nodes", "/bin/busybox sh").prints("r\nw\n");
        let volume = format!("-v {}:/node", node.display());
        within(&volume, "busy", "sh").exits(1).tells("/node: Permission denied");
        within(&format!("--cap-add MKNOD {volume}"), "busy", "sh").exits(1).tells("not permitted");
    }

    #[test]
    fn a_device_is_used_as_far_as_it_was_given() {
        needs!(root);
        needs!(fuse);
        let env = Env::with("busy", BUSY);
        let within =
            |flags: &str, script: &str| env.run(&format!("{RUN} {flags} busy sh -c '{script}'"));
        let given = format!("f=/dev/k; {OPEN}");
        within("--device /dev/fuse:/dev/k", &given).prints("r\nw\n");
        within("--device /dev/fuse:/dev/k:r", &given).exits(1).shows("r\n").tells("not permitted");
        within("--device /dev/fuse:/dev/k:w", &given).exits(1).tells("not permitted");
        within("--device /dev/fuse:/dev/k:w", ": > /dev/k").exits(0);

        let made = format!("mknod /k c 10 229; f=/k; {OPEN}");
        within("", &made).exits(1).tells("mknod: /k: Operation not permitted");
        within("--cap-add MKNOD", &made).exits(1).tells("/k: Operation not permitted");
        let flags = "--cap-add MKNOD --device-cgroup-rule \"c 10:* r\"";
        within(flags, &made).exits(1).shows("r\n").tells("not permitted");
        let zero = "mknod /z c 1 5; head -c 4 /z | wc -c";
        within("--cap-add MKNOD", zero).prints("4\n");
        env.run(&format!("{UP} {flags} busy sleep 1000")).exits(0);
        env.run(&format!("exec c sh -c '{made}'")).exits(1).shows("r\n").tells("not permitted");
        env.run("inspect --format {{.HostConfig.DeviceCgroupRules}} c").prints("[c 10:* r]\n");
        env.run(&format!("{RUN} --device-cgroup-rule nonsense busy true"))
            .fails_with(125, "invalid device cgroup format");
    }

    /// A read-only volume covers what is mounted below it, and what a container mounts is its own.
    #[test]
    fn mounts_below_a_read_only_volume_and_mounts_made_inside() {
        needs!(root);
        let env = Env::with("busy", BUSY);
        let volume = env.path("volume");
        fs::create_dir_all(volume.join("sub")).unwrap();
        let volume = volume.display();
        let outside = |line: &str, after: &str| {
            let like = env.command(line);
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "shared", "sh", "-c"]);
            command
                .arg(format!(
                    "mount -t tmpfs none {volume}/sub && \"$@\"; code=$?; {after}; exit $code"
                ))
                .arg("sh");
            command.arg(like.get_program()).args(like.get_args());
            dress(&mut command, &like);
            env.run_command(line, command, Vec::new())
        };
        outside(&format!("{RUN} -v {volume}:/v:ro busy touch /v/sub/x"), "true")
            .exits(1)
            .tells("Read-only file system");
        outside(
            &format!("{RUN} --privileged -v {volume}:/v busy sh -c 'mount -t tmpfs none /v/sub && touch /v/sub/inside && mount -t tmpfs none /v && touch /v/inside'"),
            &format!("ls -A {volume} {volume}/sub"),
        )
        .prints(&format!("{volume}:\nsub\n\n{volume}/sub:\n"));
    }

    /// What belongs to one user is nothing to another.
    #[test]
    fn another_user_reaches_neither_the_store_nor_the_monitor() {
        needs!(root);
        let env = Env::with("busy", BUSY);
        run_after(&env, "umask 0", &format!("{UP} busy sleep 1000")).exits(0);
        for dir in [
            env.root().join("containers"),
            env.root().join("layers"),
            env.root().join("blobs"),
            env.runroot().join("containers"),
        ] {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "find"])
                .arg(&dir);
            let found = command.output().unwrap();
            let lines = String::from_utf8(found.stdout).unwrap().lines().count();
            assert!(lines <= 1 && !found.status.success(), "{}: {lines}", dir.display());
        }
    }
}

#[test]
fn the_environment_is_the_image_s_and_what_was_asked_for() {
    let env = Env::with("busy", &format!("{BUSY}\nENV A=image"));
    let secret = "export SECRET=x LD_PRELOAD=/nope AWS_TOKEN=y; unset LD_PRELOAD";
    let expected = "A=image\nB=1\nHOME=/root\nHOSTNAME=web\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n";
    let sorted = |run: Run| {
        let text = run.text();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n") + "\n"
    };
    assert_eq!(sorted(run_after(&env, secret, &format!("{RUN} -h web -e B=1 busy env"))), expected);
    run_after(&env, secret, &format!("{UP} --init -h web -e B=1 busy sleep 1000")).exits(0);
    assert_eq!(sorted(run_after(&env, secret, "exec c env")), expected);
    env.run("exec c sh -c 'cat /proc/*/environ 2>/dev/null | grep -c SECRET'")
        .exits(1)
        .prints("0\n");
}

#[test]
fn the_caller_s_umask_changes_no_mode() {
    for mask in ["0", "027", "077"] {
        let env = Env::new();
        let archive = Image::parse(BUSY).docker_archive("busy");
        let load = env.file("busy.tar", archive);
        run_after(&env, &format!("umask {mask}"), &format!("load -q -i {load}")).exits(0);
        let look = "sh -c 'umask; touch /f; mkdir /d; stat -c \"%a %n\" / /f /d /etc/hosts /etc/hostname /etc/resolv.conf /bin/busybox /tmp /root /home/user /dev /dev/null /dev/shm /made /proc'";
        run_after(&env, &format!("umask {mask}"), &format!("{RUN} -w /made busy {look}")).prints(
            "0022\n755 /\n644 /f\n755 /d\n644 /etc/hosts\n644 /etc/hostname\n644 /etc/resolv.conf\n755 /bin/busybox\n1777 /tmp\n700 /root\n755 /home/user\n755 /dev\n666 /dev/null\n1777 /dev/shm\n755 /made\n555 /proc\n",
        );
        run_after(&env, &format!("umask {mask}"), &format!("{UP} busy sleep 1000")).exits(0);
        for top in [env.root(), env.runroot()] {
            for entry in fs::read_dir(&top).unwrap().flatten() {
                let mode = entry.metadata().unwrap().mode();
                assert_eq!(mode & 0o077, 0, "umask {mask}: {} is {mode:o}", entry.path().display());
            }
        }
        env.run("rm -f c").exits(0);
    }
}

/// Exit codes are told also to who is started by a program that does not want to hear of them.
#[test]
fn a_caller_that_ignores_its_children_hears_of_the_container_s_end() {
    let env = Env::with("busy", BUSY);
    let ignoring = "set -- env --ignore-signal=CHLD \"$@\"";
    run_after(&env, ignoring, &format!("{RUN} busy sh -c 'exit 3'")).exits(3);
    run_after(&env, ignoring, &format!("{UP} busy sh -c 'sleep 1; exit 4'")).exits(0);
    env.run("wait c").prints("4\n");
    run_after(&env, ignoring, "start c").exits(0);
    run_after(&env, ignoring, "exec c sh -c 'exit 5'").exits(5);
}

// --- the kernel's files and calls ----------------------------------------------------------------

#[test]
fn the_host_s_kernel_cannot_be_configured_from_inside() {
    let env = Env::with("busy", BUSY);
    let core = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for file in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/ksm/run",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/release_agent",
    ] {
        // What is read is written back: nothing changes even where it is allowed.
        for more in ["", "--cgroupns host"] {
            env.run(&format!("{RUN} {more} busy sh -c '[ -e {file} ] || exit 3; echo 0 >> {file}; exit $(($? ? 3 : 0))'")).exits(3);
        }
    }
    env.run(&format!("{RUN} busy mkdir /sys/fs/cgroup/x")).exits(1);
    for sysctl in [
        "kernel.core_pattern=x",
        "net/../kernel/core_pattern=x",
        "net/./../vm/swappiness=1",
        "vm.swappiness=1",
        "net.=1",
    ] {
        env.run(&format!("{RUN} --sysctl {sysctl} busy true")).exits(125).prints("");
    }
    env.run(&format!("{RUN} --network host --sysctl net.ipv4.ip_forward=1 busy true"))
        .exits(125)
        .prints("");
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), core);
}

#[test]
fn a_read_only_container_cannot_write_to_its_network_files() {
    let env = Env::with("busy", BUSY);
    for file in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/x", "/etc/x"] {
        env.run(&format!("{RUN} --read-only busy sh -c 'echo x >> {file}'"))
            .exits(1)
            .tells("Read-only file system");
    }
    env.run(&format!("{RUN} --read-only busy touch /dev/shm/x")).ok();
}

/// Namespaces, mounts, sockets and other doors; by both of the kernel's system call tables, and
/// with rubbish in the unused half of arguments.
#[test]
fn dangerous_calls_are_refused() {
    needs!(tool("cc"));
    let env = Env::new();
    let source = env.file("probe.c", PROBE);
    let probe = env.path("probe");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-O1", "-o"]).arg(&probe).arg(source);
    let built = cc.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    env.image("probe", &format!("{BUSY}\n/probe 0755 @host:{}", probe.display()));
    env.run(&format!("{RUN} probe /probe")).prints("");
    env.run(&format!("{RUN} --security-opt no-new-privileges probe /probe")).prints("");
    env.run(&format!("{RUN} -u user probe /probe")).prints("");
    env.run(&format!("{UP} probe sleep 1000")).exits(0);
    env.run("exec c /probe").prints("");
    // It would tell: without the filter some of them work.
    env.run(&format!("{RUN} --security-opt seccomp=unconfined probe /probe")).shows("socket");
    if is_root() {
        env.run(&format!("{RUN} --privileged probe /probe")).shows("unshare user");
    }
}

/// Prints each call that is not refused.
const PROBE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void tell(const char *name, long result) {
    if (result >= 0 || (errno != EPERM && errno != ENOSYS && errno != EAFNOSUPPORT && errno != EACCES &&
                        !(errno == EINVAL && name[0] == 'a')))
        printf("%s: %ld %d\n", name, result, result < 0 ? errno : 0);
}

/* One after another in a child, so that none prepares the ground for the next. */
#define TRY(name, call) do { fflush(stdout); if (fork() == 0) { errno = 0; tell(name, call); fflush(stdout); _exit(0); } wait(0); } while (0)

#if defined(__x86_64__)
static long old(long nr, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    if (result < 0) { errno = -result; return -1; }
    return result;
}
#endif

int main(void) {
    TRY("unshare user", unshare(CLONE_NEWUSER));
    TRY("unshare mount", unshare(CLONE_NEWNS));
    TRY("clone user", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    TRY("clone3", syscall(SYS_clone3, 0, 0));
    TRY("setns", setns(open("/proc/self/ns/uts", O_RDONLY), 0));
    TRY("socket vsock", socket(40, SOCK_STREAM, 0));
    TRY("socket vsock, high half", syscall(SYS_socket, 0x100000028L, 1L, 0L));
    TRY("socket alg", socket(38, SOCK_SEQPACKET, 0));
    TRY("audit socket", socket(16, SOCK_RAW, 9));
    TRY("audit socket, high half", syscall(SYS_socket, 0x100000010L, 0x100000003L, 0x100000009L));
    TRY("packet socket", socket(17, SOCK_RAW, 0));
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "x", "x", 1, -3));
    TRY("bpf", syscall(SYS_bpf, 0, 0, 0));
    TRY("io_uring", syscall(SYS_io_uring_setup, 1, 0));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
    TRY("perf", syscall(SYS_perf_event_open, 0, 0, 0, 0, 0));
    TRY("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    TRY("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1));
    TRY("mount", mount("none", "/tmp", "tmpfs", 0, 0));
    TRY("remount", mount(0, "/proc/sys", 0, MS_REMOUNT | MS_BIND, 0));
    TRY("umount", umount2("/proc/sys", MNT_DETACH));
    TRY("pivot_root", syscall(SYS_pivot_root, ".", "."));
    TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, 0, 0));
    TRY("kexec", syscall(SYS_kexec_load, 0, 0, 0, 0));
    TRY("init_module", syscall(SYS_init_module, 0, 0, ""));
    TRY("personality", syscall(SYS_personality, 0x0400000));
    TRY("no such call", syscall(900, 0));
    TRY("TIOCLINUX", ioctl(0, 0x541c, "\2"));
    TRY("TIOCSTI", ioctl(0, TIOCSTI, "x"));
#if defined(__x86_64__)
    TRY("x32 unshare", syscall(0x40000000 | 272, CLONE_NEWUSER));
    TRY("i386 unshare", old(310, CLONE_NEWUSER, 0, 0));
    TRY("i386 clone", old(120, CLONE_NEWUSER | SIGCHLD, 0, 0));
    TRY("i386 socket", old(359, 40, 1, 0));
    TRY("i386 keyctl", old(288, 0, -3, 0));
    TRY("i386 mount", old(21, 0, 0, 0));
#endif
    return 0;
}
"#;

// --- names, images and other text -----------------------------------------------------------------

#[test]
fn names_that_are_paths_or_flags_name_nothing() {
    let env = Env::with("busy", BUSY);
    for name in ["../x", "/../x", ".", "..", "a/b", "-x", "x\\ y"] {
        env.run(&format!("{RUN} --name={name} busy true")).fails_with(125, "");
    }
    fs::create_dir(env.root().join("victim")).unwrap();
    for name in ["../victim", "../../r/victim", "..", ".", "/", "../containers", "''"] {
        for verb in ["rm", "stop", "start", "rename x", "wait", "kill", "exec"] {
            let (name, rest) = if verb == "rename x" { ("x", name) } else { (name, "true") };
            let rest = if matches!(verb, "exec" | "rename x") { rest } else { "" };
            let verb = verb.trim_end_matches(" x");
            let run = env.run(&format!("{verb} {name} {rest}"));
            assert_ne!(run.code, 0, "{verb} {name} {rest}: {}", run.stdout);
        }
    }
    assert!(env.root().join("victim").exists());
}

#[test]
fn hostile_image_configurations_are_refused_or_harmless() {
    let env = Env::new();
    let load = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let mut image = Image::parse(BUSY);
        change(&mut image.config);
        env.run_with_stdin("load -q", image.docker_archive(name))
    };
    for user in ["4294967296", "4294967295", "-1", "2147483648", "0:4294967296", "root:root:root"] {
        load("bad", &|config| config["User"] = json!(user)).exits(0);
        let run = env.run(&format!("{RUN} bad id"));
        assert_eq!((run.code, run.stdout.as_str()), (125, ""), "{user}: {}", run.stderr);
    }
    for (dir, seen) in
        [("../..", "/\n"), ("/../../tmp", "/tmp\n"), ("tmp", "/tmp\n"), ("/a/../b", "/b\n")]
    {
        load("dir", &|config| config["WorkingDir"] = json!(dir)).exits(0);
        env.run(&format!("{RUN} dir pwd")).prints(seen);
    }
    load("env", &|config| config["Env"] = json!(["NOVALUE", "A=1\nB=2", "PATH=/bin"])).exits(0);
    env.run(&format!("{RUN} env sh -c 'echo $A-$B-$NOVALUE'")).prints("1 B=2--\n");
    load("env", &|config| config["Env"] = json!(["=x"])).exits(0);
    env.run(&format!("{RUN} env true")).fails_with(125, "malformed variable");
    load("null", &|config| {
        for key in ["Volumes", "ExposedPorts", "Labels", "Env", "Entrypoint", "OnBuild"] {
            config[key] = json!(null);
        }
    })
    .exits(0);
    env.run(&format!("{RUN} null /bin/echo fine")).prints("fine\n");
    for (key, value) in [
        ("Entrypoint", json!({ "a": 1 })),
        ("Cmd", json!(7)),
        ("Env", json!("A=1")),
        ("User", json!(0)),
    ] {
        let run = load("type", &|config| config[key] = value.clone());
        let run = if run.code == 0 { env.run(&format!("{RUN} type true")) } else { run };
        assert_ne!(run.code, 0, "{key} = {value}");
        assert!(run.stderr.starts_with("Error: "), "{key} = {value}: {}", run.stderr);
    }
    load("nul", &|config| config["WorkingDir"] = json!("/a\0b")).exits(0);
    env.run(&format!("{RUN} nul true")).fails_with(125, "NUL");
    load("signal", &|config| config["StopSignal"] = json!("SIGRUBBISH")).exits(0);
    env.run(&format!("{RUN} signal true")).fails_with(125, "SIGRUBBISH");
    env.run(&format!("{RUN} --stop-signal TERM signal echo fine")).prints("fine\n");
}

#[test]
fn errors_do_not_move_the_cursor() {
    let env = Env::new();
    let mut image = Image::parse(BUSY);
    image.config["Entrypoint"] = json!(["/\u{1b}]0;owned\u{7}\u{1b}[2J\nError: forged"]);
    env.run_with_stdin("load -q", image.docker_archive("esc")).exits(0);
    let run = env.run(&format!("{RUN} esc"));
    assert_eq!(run.code, 127, "{}", run.stderr);
    assert!(!run.stderr.contains(['\u{1b}', '\u{7}']), "{:?}", run.stderr);
    image.config["Entrypoint"] = json!(["true"]);
    image.config["User"] = json!("\u{1b}[31mx");
    env.run_with_stdin("load -q", image.docker_archive("esc")).exits(0);
    let run = env.run(&format!("{RUN} esc"));
    assert_eq!(run.code, 125, "{}", run.stderr);
    assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
}

/// A container that fills its own directories with links and locked ones takes nothing along.
#[test]
fn removal_follows_no_link() {
    let env = Env::with("busy", BUSY);
    let keep = env.path("keep");
    fs::create_dir(&keep).unwrap();
    fs::write(keep.join("file"), "x").unwrap();
    let host = keep.display();
    env.run(&format!(
        "run --name c --network none busy sh -c 'ln -s {host} /l; mkdir -p /a/b; ln -s {host} /a/b/l; rm -rf /tmp; ln -s {host} /tmp; mkdir -m 0 /locked; chmod 0 /a'"
    ))
    .ok();
    env.run("rm c").prints("c\n");
    assert_eq!(fs::read_to_string(keep.join("file")).unwrap(), "x");
}
