//! `RUN --mount`, and what else a step is given: files, caches, secrets, an agent, rights.

use std::{fs, os::unix::fs::symlink, os::unix::net::UnixListener};

use crate::{
    build::{Context, sh},
    env::Env,
    fixture::BUSY,
};

/// Nothing of this is in the image.
#[track_caller]
fn image_lacks<const N: usize>(env: &Env, paths: [&str; N]) {
    env.run("create --name look --network none img true").ok();
    let tar = env.run("export look").ok();
    let mut archive = tar::Archive::new(tar.bytes());
    for entry in archive.entries().unwrap() {
        let path = entry.unwrap().path().unwrap().display().to_string();
        let path = path.trim_end_matches('/');
        assert!(!paths.contains(&path), "{path} is in the image");
    }
    env.run("rm look").ok();
}

#[test]
fn files_of_context_stages_and_images_are_seen_and_leave_no_trace() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy AS one\nRUN mkdir -p /a/b && echo lower > /a/b/f && echo x > /a/gone\n\
         RUN rm /a/gone && echo upper > /a/g && ln -s /a/b/f /a/link\n\
         FROM busy\n\
         RUN --mount=target=/src --mount=from=one,source=/a,target=/m/deep,rw \
             --mount=from=one,source=a/link,target=/file --mount=from=busy,target=/busy \
             ls /src /m/deep && cat /src/in/f /file /m/deep/b/f && ! echo x > /src/new && \
             echo y > /m/deep/b/f && test -e /busy/bin/sh && cat /m/deep/b/f > /result\n\
         RUN --mount=source=in,target=/in ! ls /in/ignored && ! test -e /m && cat /in/f\n",
    )
    .file("in/f", "context\n")
    .file("in/ignored", "no\n")
    .file(".dockerignore", "**/ignored\nDockerfile\n");
    let run = context.build("").exits(0);
    run.tells("context").tells("lower").tells("upper").tells("Read-only file system");
    assert_eq!(sh(&env, "cat /result; ls / | tr -d \"\\n\"").replace("run", ""), {
        let plain = sh(&env, "ls / | tr -d \"\\n\"").replace("run", "");
        format!("y\n{plain}")
    });
    env.run("run --rm --network none img sh -c 'test ! -e /m -a ! -e /src -a ! -e /file'").ok();
    // The content counts, and only of what is mounted.
    context.build("").exits(0).tells("CACHED");
    fs::write(context.dir.join("in/f"), "changed\n").unwrap();
    context.build("").exits(0).tells("changed");
}

/// As the Dockerfile of buildx has it.
#[test]
fn what_has_no_target_is_mounted_on_the_working_directory() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy AS made\nRUN mkdir /m && echo made > /m/f\nFROM busy\nWORKDIR /src\n\
         RUN --mount=from=made,source=/m cat f > /one\n\
         RUN --mount=type=bind cat file > /two\n\
         RUN --mount=type=cache echo kept > f && cp f /three\n",
    )
    .file("file", "of the context\n");
    context.build("").exits(0);
    assert_eq!(sh(&env, "cat /one /two /three; ls /src"), "made\nof the context\nkept");
    let context = context.file("Dockerfile", "FROM busy\nRUN --mount=type=tmpfs true\n");
    context.build("").fails_with(1, "invalid mount target \"/\"");
}

#[test]
fn caches_stay_and_are_not_in_the_image() {
    let env = Env::with("busy", BUSY);
    let text = |word: &str| {
        format!(
            "FROM busy AS base\nRUN mkdir /seed && echo seed > /seed/s\nFROM busy\n\
             RUN --mount=type=cache,target=/root/.cache/it,id=x,sharing=locked,mode=0750 \
                 echo {word} >> /root/.cache/it/f; stat -c %a /root/.cache/it; cat /root/.cache/it/f\n\
             RUN --mount=type=cache,target=/c,from=base,source=/seed echo {word}; cat /c/s; echo more > /c/s\n\
             RUN --mount=type=cache,target=/ro,id=x,mode=0750,ro ! echo x > /ro/x && cat /ro/f && echo {word}\n"
        )
    };
    Context::new(&env, &text("one")).build("").exits(0).tells("750").tells("one").tells("seed");
    let run = Context::new(&env, &text("two")).build("").exits(0);
    run.tells("one\n").tells("two").tells("more");
    image_lacks(&env, ["root/.cache", "c", "ro"]);
    env.run("builder prune -f").exits(0);
    let run = Context::new(&env, &text("three")).build("").exits(0);
    assert!(!run.tells("three").stderr.contains(" one"), "the cache has gone");
}

#[test]
fn what_builds_keep_is_listed_and_pruned_by_kind_and_size() {
    let env = Env::with("busy", BUSY);
    let text =
        "FROM busy\nRUN --mount=type=cache,target=/c,id=mine echo x > /c/f\nRUN echo y > /y\n";
    let context = Context::new(&env, text);
    context.build("").exits(0);
    let list = env.run("builder du --verbose").ok();
    list.shows("cached mount mine")
        .shows("exec.cachemount")
        .shows("RUN echo y > /y")
        .shows("regular");
    env.run("builder du --filter type=exec.cachemount").ok().shows("Total:\t\t2B");
    let ids =
        |filter: &str| env.run(&format!("buildx du {filter} --format {{{{.ID}}}}")).ok().text();
    assert_eq!(ids("").lines().count(), 3);
    assert_eq!(ids("--filter mutable").lines().count(), 1);
    assert_eq!(ids("--filter type!=regular"), ids("--filter mutable=true"));
    assert_eq!(ids("--filter description~=y$").lines().count(), 1);
    assert_eq!(ids("--filter until=24h"), "");
    let id = ids("--filter description~=cached");
    assert_eq!(ids(&format!("--filter id={}", &id[..12])), id);
    let told = env.run("buildx du --format json --filter mutable").ok().json();
    assert_eq!((&told["Type"], &told["Mutable"]), (&"exec.cachemount".into(), &true.into()));
    for stays in
        ["--keep-storage 1g", "--reserved-space 1g --max-used-space 1", "--min-free-space 1"]
    {
        env.run(&format!("builder prune -f {stays}")).ok().shows("Total:\t0B");
    }
    context.build("").exits(0).tells("CACHED");
    env.run("builder prune -f --filter type=exec.cachemount").ok().shows("Total:\t2B");
    env.run("builder du").ok().hides("exec.cachemount");
    context.build("").exits(0).tells("CACHED");
    env.run("builder prune -f").ok();
    env.run("builder du").ok().shows("Total:\t\t0B");
    context.build("").exits(0);
    env.run("builder prune -f --max-used-space 1 --verbose")
        .ok()
        .shows("Description:")
        .shows("Type:");
    env.run("builder du").ok().shows("Total:\t\t0B");
    env.run("builder prune -f --filter bogus=1").fails_with(1, "invalid filter");
    env.run("builder prune -f --builder other").fails_with(1, "no builder \"other\" found");
    env.run("builder prune -f --min-free-space lots").fails_with(1, "--min-free-space");
}

#[test]
fn secrets_are_seen_and_nowhere_kept() {
    let env = Env::with("busy", BUSY);
    let secret = env.file("token", "hunter2\n");
    let context = Context::new(
        &env,
        "FROM busy\n\
         RUN --mount=type=secret,id=token cat /run/secrets/token > /dev/null && stat -c %a:%u /run/secrets/token\n\
         RUN --mount=type=secret,id=token,target=/etc/t,mode=0444 test -s /etc/t && stat -c %a /etc/t\n\
         RUN --mount=type=secret,id=token,env=TOKEN test ${#TOKEN} -ge 7 && ! test -e /run/secrets/token\n\
         RUN --mount=type=secret,id=absent ! ls /run/secrets/absent\n",
    );
    let run = context.build(&format!("--secret id=token,src={secret}")).exits(0);
    run.tells("400:0").tells("444");
    image_lacks(&env, ["run/secrets", "run", "etc/t"]);
    let history = env.run("history --no-trunc img").ok().text();
    assert!(!history.contains("hunter2"));
    // Not on disk: neither in records nor in layers.
    let found = std::process::Command::new("grep")
        .args(["-rlsI", "hunter2"])
        .args([env.root(), env.runroot()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    // Another value makes no step anew; without it a required one is an error.
    env.file("token", "other\n");
    context.build(&format!("--secret id=token,src={secret}")).exits(0).tells("CACHED");
    let context = Context::new(&env, "FROM busy\nRUN --mount=type=secret,id=token,required true\n");
    context.build("").exits(1).tells("Dockerfile:2:1: ").tells("secret token: not found");
    context.build("--secret id=token,src=/nonexistent").exits(1).tells("/nonexistent");
    context.build("--secret src=x").exits(1).tells("needs an id");
    context.build("--secret id=token,bogus=x").exits(1).tells("unexpected key 'bogus'");
}

#[test]
fn an_agents_socket_is_passed_on() {
    let env = Env::with("busy", BUSY);
    let socket = env.path("agent");
    let _agent = UnixListener::bind(&socket).unwrap();
    let context = Context::new(
        &env,
        "FROM busy\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK\n\
         RUN --mount=type=ssh,id=other test -z \"$SSH_AUTH_SOCK\"\n",
    );
    let run = context.build(&format!("--ssh default={}", socket.display())).exits(0);
    run.tells("/run/buildkit/ssh_agent.0");
    image_lacks(&env, ["run", "run/buildkit"]);
    let context = Context::new(&env, "FROM busy\nRUN --mount=type=ssh,required true\n");
    context.build("").exits(1).tells("unset ssh forward key default");
    let file = env.file("key", "no socket");
    context.build(&format!("--ssh default={file}")).exits(1).tells("no agent's socket");
}

#[test]
fn memory_hosts_and_rights() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\n\
         RUN --mount=type=tmpfs,target=/t,size=1m ! dd if=/dev/zero of=/t/x bs=1M count=2 2>/dev/null; df /t | tail -n 1\n\
         RUN grep build.test /etc/hosts\n",
    );
    let run = context.build("--add-host build.test:10.1.2.3").exits(0);
    run.tells("tmpfs").tells("10.1.2.3");
    image_lacks(&env, ["t"]);
    let context =
        Context::new(&env, "FROM busy\nRUN --security=insecure grep Cap /proc/self/status\n");
    context.build("").exits(1).tells("security.insecure is not allowed");
    context.build("--allow security.insecure").exits(0).tells("CapEff");
    context.build("--allow bogus").exits(1).tells("--allow bogus is not in this version");
    context.build("--allow security.insecure --security-opt no-new-privileges").exits(0);
    let text = "FROM busy\nRUN grep NoNewPrivs /proc/self/status\n";
    let flags = "--security-opt no-new-privileges --compress --builder default";
    Context::new(&env, text).build(flags).exits(0).tells("NoNewPrivs:").tells("t1\n");
}

#[test]
fn devices_by_the_names_of_their_vendors() {
    let env = Env::with("busy", BUSY);
    let data = env.file("of-vendor", "of the vendor\n");
    let data = env.path(&data).display().to_string();
    fs::create_dir(env.path("cdi")).unwrap();
    env.file(
        "cdi/test.json",
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "example.com/thing", "devices": [
                {{"name": "one", "containerEdits": {{
                    "env": ["ONE=1"],
                    "deviceNodes": [{{"path": "/dev/thing", "hostPath": "/dev/zero"}}],
                    "mounts": [{{"hostPath": "{data}", "containerPath": "/vendor/data",
                                 "options": ["ro", "bind"]}}]}}}}]}}"#
        ),
    );
    let build = |device: &str, flags: &str| {
        let text = format!(
            "FROM busy\nRUN --device={device} echo $ONE; cat /vendor/data; head -c 2 /dev/thing | wc -c\n"
        );
        Context::new(&env, &text);
        let line = format!("build -t img {flags} ctx");
        let mut command = env.command(&line);
        command.env("DHOW_CDI_DIRS", env.path("cdi"));
        env.run_command(&line, command, Vec::new())
    };
    let one = "example.com/thing=one";
    build(one, "--allow device").exits(0).tells(" 1\n").tells("of the vendor").tells(" 2\n");
    image_lacks(&env, ["vendor"]);
    build(&format!("name={one},required"), &format!("--allow device={one}")).exits(0);
    build(one, "").exits(1).tells("device example.com/thing=one is not allowed");
    build(one, "--allow device=example.com/other").exits(1).tells("is not allowed");
    build("example.com/thing=none", "--allow device").exits(0).tells("unresolvable CDI devices");
    build("example.com/thing=none,required", "--allow device").exits(1).tells("unresolvable");
}

mod limits {
    use super::*;
    use crate::needs::needs;

    #[test]
    fn steps_are_limited() {
        needs!(cgroup("memory"));
        needs!(cgroup("cpu"));
        needs!(cgroup("cpuset"));
        let env = Env::with("busy", BUSY);
        let text = "FROM busy\nRUN cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpuset.cpus\n";
        Context::new(&env, text)
            .build("-m 64m --memory-swap 64m --cpu-period 50000 --cpu-quota 20000 -c 512 --cpuset-cpus 0 --cpuset-mems 0")
            .exits(0)
            .tells(" 67108864\n")
            .tells(" 20000 50000\n");
    }
}

#[test]
fn steps_are_on_the_default_network() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\nRUN ip -o link | wc -l\nRUN --network=none ip -o link show eth0; echo was $?\n",
    );
    let run = context.build("--network default").exits(0);
    run.tells(" 2\n").tells("find device");
    context.build("--network none").exits(0).tells(" 1\n");
}

#[test]
fn mounts_stay_inside() {
    let env = Env::with("busy", BUSY);
    let outside = env.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret\n").unwrap();
    // A link in the context, in another stage, or at the target leads nowhere but inside
    // (CVE-2024-23651, CVE-2024-23652, CVE-2024-23653).
    let context =
        Context::new(&env, "FROM busy\nRUN --mount=source=link,target=/x cat /x/secret\n");
    symlink(&outside, context.dir.join("link")).unwrap();
    context.build("").exits(1);
    let outside = outside.display();
    let stage =
        format!("FROM busy AS evil\nRUN ln -s {outside} /link && ln -s {outside}/secret /file\n");
    for source in ["/link", "/file", "/link/secret", "../../../../../../..{outside}"] {
        let text = format!(
            "{stage}FROM busy\nRUN --mount=from=evil,source={source},target=/x cat /x /x/secret\n"
        );
        let run = Context::new(&env, &text).build("").exits(1);
        assert!(!run.stderr.contains("> secret"), "{source}");
    }
    let text = format!(
        "{stage}RUN --mount=type=tmpfs,target=/link/dir --mount=type=cache,target=/link/c true\n"
    );
    Context::new(&env, &text).build("--target evil").exits(0);
    assert!(!env.path("outside").join("dir").exists() && !env.path("outside").join("c").exists());
    // What a step makes of the place that a mount was on takes nothing away outside.
    let text = format!(
        "FROM busy\nRUN --mount=type=cache,target=/p/q/c mkdir /p/q/own; mv /p /moved && ln -s {outside} /p; true\n"
    );
    Context::new(&env, &text).build("");
    assert!(env.path("outside").join("secret").exists());
    for bad in ["target=/", "type=cache,target=/"] {
        let text = format!("FROM busy\nRUN --mount={bad} true\n");
        Context::new(&env, &text).build("").exits(1).tells("invalid mount target");
    }
}

#[test]
fn stages_run_side_by_side_and_stop_together() {
    let env = Env::with("busy", BUSY);
    // Each waits for the other: in turn they would never end.
    let cache = "--mount=type=cache,target=/c";
    let stage = |own: &str, other: &str| {
        format!(
            "FROM busy AS {own}\nRUN {cache} touch /c/{own}; for i in $(seq 2000); do test -e /c/{other} && exit 0; usleep 10000; done; exit 1\n"
        )
    };
    let last = "FROM busy\nCOPY --from=left /etc/passwd /l\nCOPY --from=right /etc/passwd /r\n";
    let text = [stage("left", "right"), stage("right", "left"), last.into()].concat();
    Context::new(&env, &text).build("").exits(0).tells("[left 2/2]").tells("[right 2/2]");
    let text = format!(
        "FROM busy AS slow\nRUN {cache} touch /c/begun; sleep 1000\n\
         FROM busy AS bad\nRUN {cache} while ! test -e /c/begun; do usleep 10000; done; exit 7\n{}",
        last.replace("left", "slow").replace("right", "bad")
    );
    let run = Context::new(&env, &text).build("").exits(1);
    run.tells("exit code: 7").tells("Dockerfile:4:1");
    env.run("ps -aq").prints("");
}
