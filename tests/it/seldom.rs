//! Podman's seldom flags of containers, images, networks and volumes.

use std::fs;

use crate::{
    env::{Env, poll},
    fixture::BUSY,
};

fn busy() -> Env {
    Env::with("busy", BUSY)
}

#[test]
fn an_image_goes_with_its_container() {
    let env = busy();
    let gone = || env.run("images -q").text().is_empty();
    env.image("other", "/f 0644 x");
    env.run("rmi other").ok();
    // Another container uses it.
    env.run("create --name keeps --network none busy true").ok();
    env.run("run --rmi --network none busy echo hi").prints("hi\n");
    assert!(!gone());
    env.run("rm keeps").ok();
    env.run("run --rmi --name one --network none busy sh -c 'echo hi; exit 3'").exits(3);
    assert!(gone());
    env.run("container exists one").exits(1);
    env.image("busy", BUSY);
    // Nobody waits for the end, and it goes all the same.
    env.run("run -d --rmi --name one --network none busy true").ok();
    poll("the image is gone", gone);
    env.image("busy", BUSY);
    env.run("run --rmi --restart always busy true").fails_with(125, "both --restart and --rm");
    env.run("run --rmi --network none busy nosuch").exits(127);
    env.run("ps -aq").prints("");
}

#[test]
fn a_container_can_be_told_of_another_machine() {
    let env = busy();
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let name =
        |flags: &str| env.run(&format!("run --rm --network none {flags} busy uname -m")).text();
    assert_eq!(name("--personality LINUX32"), "i686");
    assert_eq!(name("--personality LINUX"), "x86_64");
    assert_eq!(name("--personality LINUX32 --init"), "i686");
    env.run("run -d --name one --network none --personality LINUX32 busy sleep 1000").ok();
    env.run("exec one uname -m").prints("i686\n");
    env.run("run --personality BSD busy true").fails_with(125, "unknown persona \"BSD\"");
    env.run("rm -ft 0 one").ok();
}

#[test]
fn users_of_the_host_are_known_inside() {
    let env = busy();
    let run = "run --rm --network none";
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let daemon = passwd.lines().find(|line| line.starts_with("daemon:")).unwrap();
    let uid = daemon.split(':').nth(2).unwrap();
    env.run(&format!("{run} --hostuser daemon busy grep ^daemon: /etc/passwd"))
        .prints(&format!("{daemon}\n"));
    env.run(&format!("{run} --hostuser {uid} --hostuser root -u daemon busy id -un"))
        .prints("daemon\n");
    // Who is there already stays, once.
    env.run(&format!("{run} --hostuser root busy grep -c ^root: /etc/passwd")).prints("1\n");
    env.run(&format!("{run} --hostuser no-such-user busy true"))
        .fails_with(125, "this host has no user no-such-user");
}

#[test]
fn files_that_are_written_are_shown_in_a_chroot_too() {
    let env = busy();
    let run = "run --rm --network none --hostname box --chrootdirs";
    env.run(&format!("{run} /jail,/other busy cat /jail/etc/hostname /other/etc/hostname"))
        .prints("box\nbox\n");
    env.run(&format!("{run} /jail busy sh -c 'cmp /jail/etc/hosts /etc/hosts && echo same'"))
        .exits(0)
        .stdout
        .contains("same");
    env.run(&format!("{run} jail busy true")).fails_with(125, "--chrootdirs");
}

#[test]
fn what_a_systemd_gets_has_a_size() {
    let env = busy();
    let run = "run --rm --network none --systemd always --shm-size-systemd";
    let line = "busy sh -c \"grep -c 'size=2048k' /proc/mounts\"";
    env.run(&format!("{run} 2m {line}")).prints("4\n");
    env.run(&format!("{run} much busy true")).fails_with(125, "--shm-size-systemd");
}

#[test]
fn an_image_can_bring_its_seccomp_profile() {
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let env = Env::with("busy", BUSY);
    env.run("create --name made --network none busy true").ok();
    let mut line = env.command("commit -c");
    line.args([
        format!("LABEL io.containers.seccomp.profile='{profile}'").as_str(),
        "made",
        "strict",
    ]);
    env.run_command("commit with a label", line, Vec::new()).ok();
    let run = "run --rm --network none --seccomp-policy";
    env.run(&format!("{run} image strict mkdir /new")).fails_with(1, "not permitted");
    env.run(&format!("{run} default strict mkdir /new")).ok();
    env.run(&format!("{run} image busy mkdir /new")).ok();
    // What is typed goes before what the image says.
    env.run(&format!("{run} image --security-opt seccomp=unconfined strict mkdir /new")).ok();
    env.run(&format!("{run} empty busy true"))
        .fails_with(125, "invalid --seccomp-policy \"empty\"");
    env.run("rm made").ok();
}

#[test]
fn the_first_of_several_is_waited_for() {
    let env = busy();
    env.run("run -d --name slow --network none busy sleep 1000").ok();
    env.run("run -d --name quick --network none busy sh -c 'exit 4'").ok();
    env.run("wait --exit-first-match slow quick").prints("4\n");
    env.run("wait --exit-first-match --condition running slow quick").prints("-1\n");
    env.run("wait --exit-first-match --ignore slow no-such").prints("-1\n");
    env.run("wait --exit-first-match slow no-such").fails_with(1, "No such container: no-such");
    let waiting = env.spawn("wait --exit-first-match -i 50ms slow");
    env.run("kill slow").ok();
    waiting.expect("137\n");
    env.run("rm slow quick").ok();
}

#[test]
fn a_commit_can_be_one_layer() {
    let env = busy();
    env.run("run --name one --network none -v /data -v kept:/vol busy sh -c 'rm /etc/group; echo hi > /f; echo no > /vol/f'").ok();
    let layers =
        |name: &str| env.run(&format!("inspect -f '{{{{len .RootFS.Layers}}}}' {name}")).text();
    env.run("commit one two").ok();
    assert_eq!(layers("two"), "2");
    env.run("commit --squash --include-volumes one flat").ok();
    assert_eq!(layers("flat"), "1");
    env.run(
        "run --rm --network none flat sh -c 'cat /f; test -e /etc/group || echo gone; ls /vol'",
    )
    .prints("hi\ngone\n");
    let volumes = "inspect -f '{{range $path, $_ := .Config.Volumes}}{{$path}} {{end}}'";
    env.run(&format!("{volumes} flat")).prints("/data /vol \n");
    env.run(&format!("{volumes} two")).prints("\n");
    fs::write(env.path("config.json"), r#"{"Cmd":["cat","/f"],"Env":["A=1"],"User":"1000"}"#)
        .unwrap();
    let config = env.path("config.json");
    env.run(&format!("commit --config {} -c 'ENV B=2' one other", config.display())).ok();
    env.run("run --rm --network none other").prints("hi\n");
    env.run("run --rm --network none other sh -c 'echo $A $B; id -u'").prints("1 2\n1000\n");
    fs::write(&config, r#"{"Comand":["x"]}"#).unwrap();
    env.run(&format!("commit --config {} one", config.display()))
        .fails_with(1, "no field \"Comand\"");
    fs::write(&config, "no").unwrap();
    env.run(&format!("commit --config {} one", config.display())).fails_with(1, "--config");
    env.run("commit --config /nosuch one").fails_with(1, "/nosuch");
    env.run("rm -v one").ok();
    env.run("volume rm kept").ok();
}

#[test]
fn networks_and_volumes_can_go_with_their_containers() {
    let env = busy();
    env.run("volume create kept").ok();
    env.run("run -d --name one --network none -v kept:/v busy sleep 1000").ok();
    env.run("create --name two --network none -v kept:/v busy true").ok();
    env.run("volume rm -f kept").exits(1);
    env.run("volume rm -t 0 kept").fails_with(125, "--force");
    env.run("volume rm -f -t 0 kept").prints("kept\n");
    env.run("ps -aq").prints("");
    env.run("network create --internal net").ok();
    env.run("create --name three --network net busy true").ok();
    env.run("network rm -t 0 net").fails_with(125, "--force");
    env.run("network rm -f --time 0 net").prints("net\n");
    env.run("ps -aq").prints("");
    env.run("network rm -f --time 0 net").prints("");
}

#[test]
fn a_unit_can_make_its_container_anew() {
    let env = busy();
    env.run("run -d --name one --network none --restart always --cidfile cid -e 'A=1 %' -e X=1000 -it busy sh -c 'sleep $X'").ok();
    let unit = env.run("generate systemd --new --name one").text();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let (_, words) = start.split_once(" run ").unwrap();
    assert_eq!(
        words,
        "--cidfile=%t/%n.ctr-id --rm --sdnotify=conmon -d --replace --name one --network none -e \
         \"A=1 %%\" -e X=1000 -it busy sh -c \"sleep $$X\""
    );
    for line in ["Type=notify", "ExecStartPre=/bin/rm -f %t/%n.ctr-id"] {
        assert!(unit.lines().any(|other| other == line), "{unit}");
    }
    let path = env.run("generate systemd --new --template --files --name one").text();
    assert!(path.ends_with("/container-one@.service"), "{path}");
    assert!(fs::read_to_string(&path).unwrap().contains(" --name one-%i "));
    env.run("generate systemd --template one").fails_with(125, "--new");
    // Its words, said again, make such a container.
    let again = words.replace("%t/%n.ctr-id", "again").replace("%%", "%").replace("$$", "$");
    env.run(&format!("run {again}")).ok();
    env.run("exec one sh -c 'echo $A'").prints("1 %\n");
    env.run("rm -ft 0 one").ok();
}

#[test]
fn what_is_inspected_may_be_a_network_or_the_newest_container() {
    let env = busy();
    env.run("network create --internal --label a=b net").ok();
    let line = "-f '{{.Name}} {{.Driver}} {{.Labels.a}}' net";
    for verb in ["network inspect", "inspect", "inspect --type network"] {
        env.run(&format!("{verb} {line}")).prints("net bridge b\n");
    }
    assert_eq!(env.run("inspect net").json()[0]["Name"], "net");
    env.run("inspect --type network nosuch").exits(1);
    env.run("inspect --type container net").exits(1);
    env.run("create --name one --network none busy true").ok();
    env.run("inspect --latest -f '{{.Name}}'").prints("/one\n");
    env.run("container inspect -l -f '{{.Name}}'").prints("/one\n");
    env.run("rm one").ok();
    env.run("inspect --latest").exits(1);
}

#[test]
fn files_choose_programs_that_are_run_around_a_life() {
    let env = busy();
    let notes = env.path("notes");
    let hook = env.file("hook", "#!/bin/sh\ncat >/dev/null; echo $1 >> $NOTES\n");
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let dir = env.path("hooks");
    fs::create_dir(&dir).unwrap();
    let file = |name: &str, when: &str, stage: &str| {
        let notes = notes.display();
        let text = format!(
            r#"{{"version": "1.0.0", "when": {{{when}}}, "stages": ["{stage}"], "hook":
               {{"path": "{hook}", "args": ["hook", "{name}"], "env": ["NOTES={notes}", "PATH=/bin:/usr/bin"]}}}}"#
        );
        env.file(&format!("hooks/{name}.json"), text);
    };
    file("first", r#""always": true"#, "createRuntime");
    file("last", r#""commands": ["^echo$"]"#, "poststop");
    file("marked", r#""annotations": {"^a$": "b"}"#, "prestart");
    file("never", r#""hasBindMounts": true"#, "prestart");
    let dhow = format!("--hooks-dir {}", dir.display());
    env.run(&format!("{dhow} create --name one --network none busy echo hi")).ok();
    assert!(!notes.exists());
    // The container has them, whoever starts it.
    env.run("start -a one").prints("hi\n");
    let noted = || fs::read_to_string(&notes).unwrap_or_default();
    poll("the last has run", || noted() == "first\nlast\n");
    fs::remove_file(&notes).unwrap();
    env.run(&format!("{dhow} run --rm --annotation a=b --network none busy true")).ok();
    poll("both have run", || noted() == "first\nmarked\n");
    env.file("hooks/bad.json", "{}");
    env.run(&format!("{dhow} run --network none busy true")).fails_with(125, "bad.json");
    env.run("--hooks-dir /nosuch run --network none busy true").fails_with(125, "/nosuch");
    env.run("rm one").ok();
}

#[test]
fn what_a_container_writes_cannot_be_limited_everywhere() {
    let env = busy();
    let run = "run --rm --network none --storage-opt";
    env.run(&format!("{run} size=much busy true")).fails_with(125, "--storage-opt");
    env.run(&format!("{run} inodes=3 busy true")).fails_with(125, "unknown option inodes");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    if !mounts.contains("prjquota") && !mounts.contains("pquota") {
        let said =
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option";
        env.run(&format!("{run} size=10m busy true")).fails_with(125, said).tells("hint: ");
    }
    env.run("ps -aq").prints("");
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

mod as_root {
    use super::*;
    use crate::needs::needs;

    struct Mounted(std::path::PathBuf);

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }

    #[test]
    fn what_a_container_writes_has_a_limit() {
        let env = busy();
        let dir = env.path("quotas");
        needs!(quotas(&dir));
        let _mounted = Mounted(dir.clone());
        env.run("save -o busy.tar busy").ok();
        let at = |line: &str| env.run(&format!("--root {}/r {line}", dir.display()));
        at("load -q -i busy.tar").ok();
        let write = "busy dd if=/dev/zero of=/f bs=1M";
        let limited = "--network none --storage-opt size=10m";
        at(&format!("run --rm {limited} {write} count=30")).fails_with(1, "Disk quota exceeded");
        at(&format!("run --rm --network none {write} count=30")).exits(0);
        // Each has its own.
        at(&format!("run -d --name one {limited} busy sleep 1000")).ok();
        at(&format!("run --name two {limited} {write} count=8")).exits(0);
        at("exec one dd if=/dev/zero of=/f bs=1M count=8").exits(0);
        at("exec one dd if=/dev/zero of=/g bs=1M count=8").fails_with(1, "Disk quota exceeded");
        // What is moved in the overlay stays within it, and so does a clone.
        at("exec one sh -c 'rm /f; mkdir /d; mv /etc/passwd /d/; mv /d /e; cat /e/passwd'")
            .exits(0);
        at("container clone --name three two").ok();
        at("inspect -f '{{json .HostConfig.StorageOpt}}' three")
            .prints("{\"size\":\"10485760\"}\n");
        at("start -a three").exits(0);
        at("rm -ft 0 one two three").ok();
        // So do volumes.
        at("volume create -o size=10m ten").ok();
        at(&format!("run --rm --network none -v ten:/v {} count=30", write.replace("/f", "/v/f")))
            .fails_with(1, "Disk quota exceeded");
        at("volume create -o o=inodes=4 few").ok();
        at("run --rm --network none -v few:/v busy sh -c 'cd /v; touch 1 2 3; touch 4'")
            .fails_with(1, "4: Disk quota exceeded");
        at("volume rm ten few").prints("ten\nfew\n");
    }
}
