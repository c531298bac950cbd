//! How a container's root file system is made: natively, by fuse-overlayfs, by copying. What is
//! true inside must not depend on it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    capture::DEADLINE,
    env::Env,
    fixture::BUSY,
    needs::{self, needs},
};

/// Three layers with owners, links and capabilities, and things that hide what is below them.
const LAYERS: &str = "
    /srv/mail     0640 8:12 mail
    /srv/twice    => srv/mail
    /bin/suid     4755 3:4 x
    /old          0644 low
    /lib/low      0644 low
    /turns/into   0644 file
    /deep/a/low   0644 low
    /cap/grep     0755 xattr security.capability=\\x01\\0\\0\\x02\\0\\x04\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0 @host:/bin/busybox
    ---
    /old          whiteout
    /lib/         opaque
    /lib/new      0644 7:7 new
    /turns        0644 a file now
    /deep/a/mid   0644 mid
    ---
    /deep/a/low   whiteout
    /deep/a/top   0644 top
    /old2         0644 another
";

const STAT: &str =
    "stat -c '%n %u:%g %a' / /root /home/user /srv/mail /srv/twice /bin/suid /lib/new /tmp";
const SEEN: [&str; 8] = [
    "/ 0:0 755",
    "/root 0:0 700",
    "/home/user 1000:1000 755",
    "/srv/mail 8:12 640",
    "/srv/twice 8:12 640",
    "/bin/suid 3:4 4755",
    "/lib/new 7:7 644",
    "/tmp 0:0 1777",
];

fn env() -> Env {
    Env::with("busy", &format!("{BUSY}{LAYERS}"))
}

/// The processes that serve file systems for containers of `env`.
fn servers(env: &Env) -> Vec<Pid> {
    let own = env.root().to_str().unwrap().to_owned();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("cmdline").starts_with(b"fuse-overlayfs\0")
            && String::from_utf8_lossy(&read("mountinfo")).contains(&own)
    })
    .map(Pid::from_raw)
    .collect()
}

fn wait_for_no_server(env: &Env) {
    let deadline = Instant::now() + DEADLINE;
    while !servers(env).is_empty() {
        assert!(Instant::now() < deadline, "the server stays");
        thread::sleep(Duration::from_millis(5));
    }
}

/// `init` or `monitor` of a container.
fn pid_of(env: &Env, id: &str, which: &str) -> Pid {
    let path = env.runroot().join("containers").join(id).join("process.json");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    Pid::from_raw(record[which]["pid"].as_i64().unwrap().try_into().unwrap())
}

/// The same tests for one kind of storage.
macro_rules! behaviours {
    ($module:ident, $driver:literal, $name:literal $(, $need:ident)?) => {
        mod $module {
            use super::*;

            const RUN: &str = concat!("--storage-driver ", $driver, " run --network none");

            #[test]
            fn layers_are_seen_as_one() {
                $(needs!($need);)?
                let env = env();
                let run = format!("{RUN} --rm busy");
                env.run(&format!("{run} {STAT}")).prints_lines(SEEN);
                env.run(&format!("{run} stat -c '%h %s' /srv/mail /srv/twice /old2"))
                    .prints("2 5\n2 5\n1 8\n");
                env.run(&format!("{run} ls /lib /deep/a")).prints("/deep/a:\nmid\ntop\n\n/lib:\nnew\n");
                env.run(&format!("{run} cat /turns /srv/twice")).prints("a file now\nmail\n");
                env.run(&format!("{run} ls /old")).fails_with(1, "/old: No such file");
                env.run(&format!("{RUN} --rm --user 77 busy /cap/grep CapEff /proc/self/status"))
                    .prints("CapEff:\t0000000000000400\n");
                env.run(&format!("{RUN} --rm --user user busy id -un")).prints("user\n");
            }

            #[test]
            fn what_is_written_stays_until_the_container_goes() {
                $(needs!($need);)?
                let env = env();
                let script = "test -e /new && cat /new /srv/mail && ls /lib && exit 3; \
                    echo hi > /new; rm /srv/twice /lib/new; echo more >> /srv/mail; \
                    chown 5:6 /new; mkdir /lib/dir; ln /new /lib/link; mknod /pipe p";
                env.run(&format!("{RUN} --name a busy sh -c '{script}'")).ok();
                // A container is started as it was made, whatever is chosen now.
                let mut start = env.command("start -a a");
                start.env("DHOW_STORAGE", "copy");
                env.run_command("start -a a", start, Vec::new())
                    .exits(3)
                    .prints("hi\nmail\nmore\ndir\nlink\n");
                env.run(&format!("{RUN} --rm busy cat /srv/twice")).prints("mail\n");
                env.run("inspect -f '{{.GraphDriver.Name}} {{.Driver}}' a")
                    .prints(concat!($name, " ", $name, "\n"));
                env.run("rm a").prints("a\n");
            }

            #[test]
            fn what_is_changed_is_told_and_becomes_a_layer() {
                $(needs!($need);)?
                let env = env();
                let script = "echo hi > /new; rm /lib/new; echo more >> /old2; mkdir /lib/dir; \
                    ln /new /lib/link; rm -r /deep/a; mkdir /deep/a; echo x > /deep/a/x; \
                    chmod 711 /root; rm /turns; mkdir /turns; echo y > /turns/y; mv /bin/suid /srv/";
                env.run(&format!("{RUN} --name a busy sh -c '{script}'")).exits(0);
                let seen = [
                    "C /bin", "D /bin/suid", "C /deep", "C /deep/a", "A /deep/a/x", "C /lib",
                    "A /lib/dir", "A /lib/link", "D /lib/new", "A /new", "C /old2", "C /root",
                    "C /srv", "A /srv/suid", "C /turns", "A /turns/y",
                ];
                let told = env.run("diff a").text();
                // What is gone from a directory that was made anew may be told or not.
                let told = told.lines().filter(|line| !line.starts_with("D /deep/a/"));
                assert_eq!(told.collect::<Vec<_>>(), seen);
                env.run("commit -q a changed").exits(0);
                let look = "cat /new /old2 /turns/y && ls /lib /deep/a && stat -c %a /root && stat -c %h /new && \
                    test ! -e /bin/suid && cat /srv/suid";
                let inside = "hi\nanother\nmore\ny\n/deep/a:\nx\n\n/lib:\ndir\nlink\n711\n2\nx\n";
                let seen = env.run(&format!("run --rm --network none changed sh -c '{look}'"));
                seen.prints(inside);
                // While it runs, too.
                env.run(&format!("{RUN} -d --name run busy sh -c 'echo a > /made; exec sleep 60'")).exits(0);
                crate::env::poll("the file", || env.run("exec run test -s /made").code == 0);
                env.run("diff run").prints("A /made\n");
                env.run("commit -q run running").exits(0);
                env.run("rm -f run").exits(0);
                env.run("run --rm --network none running cat /made").prints("a\n");
            }

            #[test]
            fn one_that_does_not_run_gives_and_takes_files() {
                $(needs!($need);)?
                let env = env();
                let script = "echo hi > /new; chown 5:6 /new; rm /lib/new; echo more >> /old2";
                env.run(&format!("{RUN} --name a busy sh -c '{script}'")).exits(0);
                env.run(&format!("--storage-driver {} create --name fresh --network none busy cat /in", $driver)).exits(0);
                // Out: of the layers, of what was changed, and not what is gone.
                env.run("cp a:/deep/a out").ok();
                let read = |path: &str| fs::read_to_string(env.path(path)).unwrap();
                assert_eq!((read("out/top").as_str(), env.path("out/low").exists()), ("top\n", false));
                env.run("cp a:/old2 old2").ok();
                assert_eq!(read("old2"), "another\nmore\n");
                env.run("cp a:/lib/new .").fails_with(1, "no such file or directory");
                env.run("cp fresh:/lib/new .").ok();
                assert_eq!(read("new"), "new\n");
                // In, and there when it starts.
                env.file("in", "from outside\n");
                for name in ["a", "fresh"] {
                    env.run(&format!("cp in {name}:/in")).ok();
                    env.run(&format!("cp out {name}:/lib/")).ok();
                    env.run(&format!("cp in {name}:/no/such/in")).fails_with(1, "no such file");
                }
                env.run("diff fresh").prints("A /in\nC /lib\nA /lib/out\nA /lib/out/mid\nA /lib/out/top\n");
                env.run("start -a fresh").prints("from outside\n");
                env.run("export -o a.tar a").ok();
                let file = fs::File::open(env.path("a.tar")).unwrap();
                let mut found = std::collections::BTreeMap::new();
                for entry in tar::Archive::new(file).entries().unwrap() {
                    let entry = entry.unwrap();
                    let header = entry.header();
                    let about = (header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap());
                    found.insert(entry.path().unwrap().to_str().unwrap().to_owned(), about);
                }
                for (path, about) in [
                    ("new", (5, 6, 0o644)), ("in", (0, 0, 0o644)), ("lib/out/top", (0, 0, 0o644)),
                    ("srv/mail", (8, 12, 0o640)), ("bin/suid", (3, 4, 0o4755)),
                ] {
                    assert_eq!(found.get(path), Some(&about), "{path}");
                }
                for path in ["lib/new", "lib/low", "old", "deep/a/low"] {
                    assert!(!found.contains_key(path), "{path} is gone");
                }
                env.run("import a.tar again").exits(0);
                env.run("run --rm --network none again cat /in /turns").prints("from outside\na file now\n");
            }

            #[test]
            fn only_its_own_files_count_as_its_size() {
                $(needs!($need);)?
                let env = env();
                env.run(&format!("--storage-driver {} create --name a --network none busy dd if=/dev/zero of=/big bs=1000 count=7", $driver)).ok();
                env.run("start a").ok();
                env.run("wait a").prints("0\n");
                env.run("inspect -s -f '{{.SizeRw}}' a").prints("7000\n");
                env.run("ps -as --format '{{.Size}}'").shows("7kB (virtual");
            }

            #[test]
            fn commands_join_and_read_only_is_read_only() {
                $(needs!($need);)?
                let env = env();
                env.run(&format!("{RUN} -d --read-only --name a busy sleep 60")).exits(0);
                env.run("exec a touch /f").fails_with(1, "Read-only file system");
                env.run("exec a cat /deep/a/top").prints("top\n");
                env.run("exec -u user a id -un").prints("user\n");
                env.run("rm -f a").exits(0);
                env.run(&format!("{RUN} -d --name b busy sleep 60")).exits(0);
                env.run("exec b sh -c 'echo joe:x:9:9::/:/bin/sh >> /etc/passwd'").ok();
                env.run("exec -u joe b id -u").prints("9\n");
                env.run("rm -f b").exits(0);
            }

            #[test]
            fn it_survives_its_monitor_and_ends_with_its_container() {
                $(needs!($need);)?
                let env = env();
                let id = env.run(&format!("{RUN} -d --name a busy sleep 60")).text();
                kill(pid_of(&env, &id, "monitor"), Signal::SIGKILL).unwrap();
                env.run("exec a sh -c 'echo hi > /f; cat /f'").prints("hi\n");
                env.run("rm -f a").exits(0);
            }

            #[test]
            fn an_image_without_layers_is_an_empty_directory() {
                $(needs!($need);)?
                let env = Env::new();
                env.file("busybox", fs::read("/bin/busybox").unwrap());
                let path = env.path("busybox");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
                env.image("nothing", "CMD [\"/busybox\"]");
                env.run(&format!("{RUN} --rm -v ./busybox:/busybox nothing /busybox ls /"))
                    .prints("busybox\ndev\netc\nproc\nsys\n");
            }
        }
    };
}

behaviours!(native, "overlay", "overlay2");
behaviours!(copies, "vfs", "vfs");
behaviours!(served, "fuse-overlayfs", "fuse-overlayfs", fuse);

#[test]
fn a_server_ends_with_its_container_and_not_before() {
    needs!(fuse);
    let env = env();
    let run = "--storage-driver fuse-overlayfs run -d --network none --name a busy sleep 60";
    let id = env.run(run).text();
    assert_eq!(servers(&env).len(), 1);
    kill(pid_of(&env, &id, "monitor"), Signal::SIGKILL).unwrap();
    env.run("exec a ls /lib").prints("new\n");
    kill(pid_of(&env, &id, "init"), Signal::SIGKILL).unwrap();
    wait_for_no_server(&env);
    env.run("rm a").exits(0);
}

#[test]
fn a_container_whose_server_is_killed_can_be_removed() {
    needs!(fuse);
    let env = env();
    let run = "--storage-driver fuse-overlayfs run -d --network none --name a busy sleep 60";
    env.run(run).exits(0);
    for server in servers(&env) {
        kill(server, Signal::SIGKILL).unwrap();
    }
    wait_for_no_server(&env);
    // The command goes on until it has to read of its own program, and then dies of that.
    assert_ne!(env.run("exec a ls /").code, 0);
    env.run("rm -f a").exits(0);
}

#[test]
fn a_server_that_cannot_run_is_told_of() {
    needs!(fuse);
    let env = env();
    env.file("fuse-overlayfs", "#!/bin/sh\nexit 1\n");
    let program = env.path("fuse-overlayfs");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let line = "--storage-driver fuse-overlayfs run --rm --network none busy true";
    let mut command = env.command(line);
    command.env("PATH", format!("{}:/usr/bin:/bin", program.parent().unwrap().display()));
    env.run_command(line, command, Vec::new()).fails_with(125, "fuse-overlayfs has ended");
}

#[test]
fn an_unknown_driver_is_an_error() {
    let env = Env::new();
    for line in ["--storage-driver nosuch ps", "ps --storage-driver nosuch"] {
        env.run(line).fails_with(1, "unknown storage driver \"nosuch\"");
    }
    env.run("--storage-driver nosuch run busy").fails_with(125, "unknown storage driver");
    let mut command = env.command("ps");
    command.env("DHOW_STORAGE", "nosuch");
    env.run_command("ps", command, Vec::new()).fails_with(1, "overlay, fuse-overlayfs and vfs");
}

#[test]
fn info_and_doctor_tell_what_is_used_and_why() {
    let env = Env::new();
    env.run("info -f '{{.Driver}}'").shows("overlay2");
    env.run("--storage-driver vfs info").exits(0).shows("Storage Driver: vfs\n Reason: chosen by");
    env.run("--storage-driver vfs doctor").exits(0).shows("warning  overlay: vfs was chosen\n");
}

#[test]
fn what_is_noted_of_this_host_is_no_truth() {
    let env = env();
    let facts = env.runroot().join("facts.json");
    let run = "run --rm --network none busy";
    env.run(&format!("{run} true")).exits(0);
    fs::write(&facts, "{").unwrap();
    env.run(&format!("{run} true")).exits(0);
    assert!(fs::read_to_string(&facts).unwrap().contains("boot_id"));
    env.run(&format!("{run} nosuch")).exits(127);
    assert!(!facts.exists(), "a start that fails may have failed for it");
}

#[test]
fn a_copy_that_is_killed_leaves_nothing_in_the_way() {
    let env = env();
    let line = "--storage-driver vfs create --network none --name a busy true";
    for patience in [2, 5, 10, 20, 40] {
        let creation = env.spawn(line);
        thread::sleep(Duration::from_millis(patience));
        creation.signal(Signal::SIGKILL);
        let code = creation.finish().code;
        if code == 0 || !env.run("ps -aq").ok().stdout.is_empty() {
            env.run("rm -f a").exits(0);
        }
    }
    env.run(line).ok();
    // Read and written without being mounted.
    env.run("cp a:/etc/group -").prints_tar(["group"]);
    env.file("new", "new");
    env.run("cp ./new a:/new").exits(0);
    env.run("diff a").prints("A /new\n");
    env.run("start -a a").ok();
    env.run("rm a").exits(0);
    env.image("other", "/f 0644 x\nCMD [\"x\"]");
    env.run("rmi other").exits(0);
    assert_eq!(env.stored("staging"), Vec::<String>::new());
}

mod as_root {
    use super::*;

    /// A store on an overlay: the kernel refuses that as an upperdir.
    #[test]
    fn without_overlayfs_the_next_best_is_taken() {
        needs!(root);
        needs!(fuse);
        needs!(tool("unshare"));
        let env = Env::new();
        for dir in ["l", "u", "w", "m"] {
            fs::create_dir(env.path(dir)).unwrap();
        }
        let script = "
            set -e
            mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m
            mkdir m/r m/x
            dhow() { \"$0\" --root m/r --runroot m/x \"$@\"; }
            check() {
                dhow info -f '{{.Driver}}: {{.Overlay.Reason}}' 2>/dev/null
                dhow run --network none --name a dhow/hello > /dev/null
                dhow inspect -f '{{.GraphDriver.Name}}' a
                dhow start -a a | head -n 1
            }
            check
            mount --bind /dev/null /dev/fuse
            dhow rm a
            check
            dhow doctor | grep -A 2 overlay: | grep -c -e 'full copy' -e modprobe
            dhow rm a
        ";
        let dhow = env.command("").get_program().to_owned();
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(dhow).current_dir(env.path(""));
        let shown = env.run_command("unshare", command, Vec::new()).exits(0).stdout;
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 9, "{shown}");
        assert_eq!(lines[0], "fuse-overlayfs: the kernel's overlayfs does not work here");
        assert_eq!(lines[1], "fuse-overlayfs");
        assert!(lines[2].starts_with("Hello"), "{shown}");
        assert!(lines[4].starts_with("vfs: neither overlayfs nor fuse-overlayfs works"), "{shown}");
        assert_eq!(lines[5], "vfs");
        assert!(lines[6].starts_with("Hello"), "{shown}");
        assert_eq!(lines[7], "2");
    }
}

mod rootless {
    use super::*;

    #[test]
    fn copies_have_the_owners_of_other_id_maps() {
        needs!(subids);
        let env = env();
        for mode in ["keep-id", "nomap"] {
            let run = format!("--storage-driver vfs run --rm --network none --userns {mode}");
            env.run(&format!("{run} --user 0 busy {STAT}")).prints_lines(SEEN);
            env.run(&format!("{run} --user 77 busy /cap/grep CapEff /proc/self/status"))
                .prints("CapEff:\t0000000000000400\n");
        }
    }

    #[test]
    fn a_server_has_the_ids_of_other_maps() {
        needs!(subids);
        needs!(fuse);
        let env = env();
        for mode in ["keep-id", "nomap"] {
            let run =
                format!("--storage-driver fuse-overlayfs run --rm --network none --userns {mode}");
            env.run(&format!("{run} --user 0 busy {STAT}")).prints_lines(SEEN);
            env.run(&format!("{run} --user 0 busy sh -c 'echo > /srv/x; rm /old2; ls -n /srv/x'"))
                .shows(" 0        0 ");
        }
    }

    /// Containers of other ids, which do not run; of `nomap` the caller is nobody.
    fn gives_and_takes(driver: &str) {
        for mode in ["keep-id", "nomap"] {
            let env = env();
            env.file("in", "from outside\n");
            let create = format!("--storage-driver {driver} create --network none --userns {mode}");
            env.run(&format!("{create} --name one --user 0 busy stat -c '%u:%g' /in")).exits(0);
            env.run("cp in one:/in").ok();
            env.run("cp one:/srv/mail mail").ok();
            assert_eq!(fs::read_to_string(env.path("mail")).unwrap(), "mail\n");
            env.run("start -a one").prints("0:0\n");
            let tar = env.run("export one");
            let mut archive = tar::Archive::new(tar.bytes());
            let mut entries = archive.entries().unwrap().map(Result::unwrap);
            let mail = entries.find(|entry| entry.path().unwrap().to_str() == Some("srv/mail"));
            let header = mail.unwrap().header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (8, 12));
            drop(tar.ok());
        }
    }

    #[test]
    fn one_of_other_maps_gives_and_takes_files() {
        needs!(subids);
        gives_and_takes("overlay");
        gives_and_takes("vfs");
    }

    #[test]
    fn one_of_other_maps_gives_and_takes_files_by_a_server() {
        needs!(subids);
        needs!(fuse);
        gives_and_takes("fuse-overlayfs");
    }
}

mod solo {
    use super::*;

    #[test]
    fn a_single_id_is_enough_to_copy() {
        needs!(no_subids);
        let env = env();
        let run = "--storage-driver vfs run --rm --network none busy";
        env.run(&format!("{run} cat /turns /deep/a/top")).prints("a file now\ntop\n");
        env.run(&format!("{run} ls /old")).fails_with(1, "/old: No such file");
    }

    #[test]
    fn a_single_id_is_enough_for_a_server() {
        needs!(no_subids);
        needs!(fuse);
        let env = env();
        let run = "--storage-driver fuse-overlayfs run --rm --network none busy";
        env.run(&format!("{run} sh -c 'rm /turns; echo x > /lib/x; cat /deep/a/top; ls / /lib'"))
            .shows("top\n")
            .shows("new\nx\n")
            .hides("turns");
    }
}

/// Every kind of step, on layers that hide things of each other.
const DOCKERFILE: &str = r#"FROM busy AS made
RUN mkdir -p /o/d && echo x > /o/d/x && chown -R 5:6 /o && ln -s d/x /o/l && ln -s /o/d /o/dir && ln /o/d/x /o/h
FROM busy
COPY . /ctx
COPY --from=made --chown=user /o /o
COPY --link f /linked/f
WORKDIR /deep/er
RUN rm /old2 && rm /lib/new && echo again > /lib/new2 && chmod 4711 /bin/suid && mv /turns /moved
RUN --mount=type=bind,from=made,source=/o/dir,target=/m --mount=type=bind,target=/c \
    --mount=type=bind,from=made,source=/o/l,target=/one --mount=type=cache,target=/cache \
    --mount=type=bind,from=made,source=/o,target=/w,rw --mount=type=tmpfs,target=/t \
    cat /m/x /c/f /one > seen && touch /cache/kept /w/new /t/x && ls /w /cache >> seen
RUN --mount=type=cache,target=/cache --mount=type=cache,id=other,from=made,source=/o,target=/p ls /cache /p > listed
RUN true
RUN rm -r /deep/a && mkdir /deep/a && touch /deep/a/new
"#;

#[test]
fn builds_make_the_same_image_on_all() {
    let env = env();
    let context = env.path("ctx");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    fs::write(context.join("f"), "of the context\n").unwrap();
    let build = |driver: &str, name: &str| {
        // fuse-overlayfs makes directories anew that the kernel gives their old time.
        let flags = format!("--no-cache --build-arg SOURCE_DATE_EPOCH=1 -t {name}");
        env.run(&format!("--storage-driver {driver} build {flags} ctx")).exits(0);
        let image = env.run(&format!("image inspect {name}")).ok().json();
        let mut layers = image[0]["RootFS"]["Layers"].as_array().unwrap().clone();
        // A directory that was made anew hides what it had been in one way or the other.
        layers.pop();
        layers
    };
    let copied = build("copy", "copied");
    let files = "cat seen listed; ls -R /o /linked /lib /srv /deep /ctx; stat -c '%n %u:%g %a' /o/d/x /bin/suid; ls /old2 /m /w /cache 2>&1; true";
    let see = |name: &str| env.run(&format!("run --rm {name} sh -c \"{files}\"")).exits(0).text();
    let seen = see("copied");
    assert!(seen.starts_with("x\nof the context\nx\n"), "{seen}");
    assert_eq!(seen.matches("kept").count(), 2, "{seen}");
    assert_eq!(build("overlay", "native"), copied, "overlay");
    assert_eq!(see("native"), seen);
    if needs::fuse().is_ok() {
        assert_eq!(build("fuse-overlayfs", "fused"), copied, "fuse-overlayfs");
        assert_eq!(see("fused"), seen);
        wait_for_no_server(&env);
    }
    // What was made elsewhere is there for all.
    env.run("--storage-driver copy build --build-arg SOURCE_DATE_EPOCH=1 ctx")
        .exits(0)
        .tells("CACHED");
    // It leaves, and comes back.
    env.run("--storage-driver copy build -o type=docker,dest=t.tar -t copied ctx").exits(0);
    env.run("rmi copied").ok();
    env.run("load -i t.tar").exits(0);
    assert_eq!(see("copied"), seen);
    env.run("--storage-driver copy build -o out ctx").exits(0);
    assert_eq!(fs::read_to_string(env.path("out/linked/f")).unwrap(), "of the context\n");
    // Files go in and out of a container of it that does not run.
    env.run("--storage-driver copy create --name still --network none copied").ok();
    env.run("cp ctx/f still:/put").ok();
    env.run("cp still:/linked/f got").ok();
    assert_eq!(fs::read_to_string(env.path("got")).unwrap(), "of the context\n");
    env.run("diff still").prints("A /put\n");
    env.run("rm still").ok();
    // A step that fails leaves nothing.
    fs::write(context.join("Dockerfile"), "FROM busy\nRUN touch /x && exit 3\n").unwrap();
    env.run("--storage-driver copy build ctx").fails_with(1, "exit code: 3");
    env.run("ps -aq").prints("");
    env.run("system check").exits(0).shows("The store is whole");
}
