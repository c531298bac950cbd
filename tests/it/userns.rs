//! `--userns`: whom the caller is inside, and whose the image's files are.

use std::fs;

use crate::{env::Env, fixture::BUSY};

/// Owners, modes, links, capabilities, and a second layer that hides things.
const OWNERS: &str = "
    /srv/mail     0640 8:12 mail
    /srv/twice    => srv/mail
    /bin/suid     4755 3:4 x
    /old          0644 low
    /lib/low      0644 low
    /cap/grep     0755 xattr security.capability=\\x01\\0\\0\\x02\\0\\x04\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0 @host:/bin/busybox
    ---
    /old          whiteout
    /lib/         opaque
    /lib/new      0644 7:7 new
";

fn env() -> Env {
    Env::with("busy", &format!("{BUSY}{OWNERS}"))
}

/// How many copies of layers for other ids there are.
fn copies(env: &Env) -> usize {
    let layers = fs::read_dir(env.root().join("layers")).unwrap();
    let maps = layers.filter_map(|layer| fs::read_dir(layer.unwrap().path().join("maps")).ok());
    maps.map(Iterator::count).sum()
}

fn ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

const STAT: &str =
    "stat -c '%n %u:%g %a %h' / /root /home/user /srv/mail /srv/twice /bin/suid /lib/new /tmp";
const SEEN: [&str; 8] = [
    "/ 0:0 755 1",
    "/root 0:0 700 2",
    "/home/user 1000:1000 755 2",
    "/srv/mail 8:12 640 2",
    "/srv/twice 8:12 640 2",
    "/bin/suid 3:4 4755 1",
    "/lib/new 7:7 644 1",
    "/tmp 0:0 1777 2",
];

mod rootless {
    use super::*;
    use crate::needs::needs;

    #[test]
    fn keep_id_runs_as_the_caller() {
        needs!(subids);
        let env = env();
        let (uid, gid) = ids();
        let run = "run --rm --network none --userns keep-id";
        let id = format!("uid={uid} gid={gid} groups={gid}\n");
        env.run(&format!("{run} busy id")).prints(&id);
        env.file("mine", "");
        env.run(&format!("{run} -v ./mine:/mine busy stat -c %u:%g /mine"))
            .prints(&format!("{uid}:{gid}\n"));
        env.run(&format!("{run} busy touch /etc/x")).fails_with(1, "Permission denied");
        env.run(&format!("{run} --user 0 busy sh -c 'touch /etc/x && stat -c %u /etc/x'"))
            .prints("0\n");
        env.run(&format!("{run} --user user busy sh -c 'echo $HOME; id -G'"))
            .prints("/home/user\n1000 2000\n");
    }

    #[test]
    fn top_shows_users_that_the_host_does_not_know() {
        needs!(subids);
        let env = env();
        env.run("run -d --name one --network none --user 33 busy sleep 1000").ok();
        let pid = env.run("inspect -f '{{.State.Pid}}' one").ok().stdout;
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        env.run("top one").shows(uid.split_whitespace().next().unwrap());
        env.run("rm -ft 0 one").ok();
    }

    #[test]
    fn keep_id_can_be_told_which_ids() {
        needs!(subids);
        let env = env();
        let (uid, gid) = ids();
        let run = "run --rm --network none --userns keep-id:uid=5,gid=6";
        env.run(&format!("{run} busy id")).prints("uid=5 gid=6 groups=6\n");
        for (file, inside, outside) in [("uid_map", 5, uid), ("gid_map", 6, gid)] {
            let line = format!("{inside:>10} {outside:>10} {:>10}\n", 1);
            env.run(&format!("{run} busy grep ' 1$' /proc/self/{file}")).prints(&line);
        }
        env.file("mine", "");
        env.run(&format!("{run} -v ./mine:/mine busy stat -c %u:%g /mine")).prints("5:6\n");
    }

    #[test]
    fn nomap_leaves_the_caller_out() {
        needs!(subids);
        let env = env();
        let run = "run --rm --network none --userns nomap";
        env.run(&format!("{run} busy id -u")).prints("0\n");
        env.file("mine", "");
        env.run(&format!("{run} -v ./mine:/mine busy stat -c %u:%g /mine")).prints("65534:65534\n");
        env.run(&format!("{run} busy sh -c 'rm /srv/mail && ls /srv; head -n 1 /etc/hosts'"))
            .prints("twice\n127.0.0.1\tlocalhost\n");
        let (uid, _) = ids();
        let map = env.run(&format!("{run} busy cat /proc/self/uid_map")).ok().stdout;
        assert!(
            map.lines().all(|l| l.split_whitespace().nth(1) != Some(&*uid.to_string())),
            "{map}"
        );
    }

    #[test]
    fn files_have_the_owners_the_image_gave_them() {
        needs!(subids);
        let env = env();
        for mode in ["host", "keep-id", "keep-id:uid=8,gid=3", "nomap"] {
            let run = format!("run --rm --network none --userns {mode}");
            env.run(&format!("{run} --user 0 busy {STAT}")).prints_lines(SEEN);
            env.run(&format!("{run} busy ls /old")).fails_with(1, "/old: No such file");
            env.run(&format!("{run} busy ls /lib")).prints("new\n");
            env.run(&format!("{run} --user 77 busy /cap/grep CapEff /proc/self/status"))
                .prints("CapEff:\t0000000000000400\n");
        }
    }

    #[test]
    fn layers_are_copied_once_for_each_map_and_go_with_the_image() {
        needs!(subids);
        let env = env();
        let run =
            |mode: &str| env.run(&format!("run --rm --network none --userns {mode} busy true"));
        run("host").exits(0);
        assert_eq!(copies(&env), 0);
        for mode in ["keep-id", "keep-id", "nomap"] {
            run(mode).exits(0);
        }
        assert_eq!(copies(&env), 4, "two layers, two maps");
        env.run("rmi busy").exits(0);
        assert_eq!(fs::read_dir(env.root().join("layers")).unwrap().count(), 0);
    }

    #[test]
    fn many_at_once_share_one_copy() {
        needs!(subids);
        let env = env();
        let line = "run --rm --network none --userns keep-id busy true";
        let running: Vec<_> = (0..6).map(|_| env.spawn(line)).collect();
        for run in running {
            run.finish().exits(0);
        }
        assert_eq!(copies(&env), 2);
    }

    #[test]
    fn exec_and_joined_containers_have_the_same_ids() {
        needs!(subids);
        let env = env();
        let (uid, gid) = ids();
        for mode in ["keep-id", "nomap"] {
            env.run(&format!("run -d --network none --name a --userns {mode} busy sleep 60"))
                .exits(0);
            let (uid, gid) = if mode == "nomap" { (0, 0) } else { (uid, gid) };
            env.run("exec a sh -c 'id -u; id -g'").prints(&format!("{uid}\n{gid}\n"));
            env.run("exec -u 1000 a sh -c 'id -u; stat -c %u /home/user'").prints("1000\n1000\n");
            let join = "run --rm --network none --pid container:a";
            env.run(&format!("{join} --user 0 busy {STAT}")).prints_lines(SEEN);
            env.run(&format!("{join} --userns keep-id:uid=9 busy true"))
                .fails_with(125, "--userns cannot be chosen");
            env.run("rm -f a").exits(0);
        }
    }

    #[test]
    fn a_stopped_container_starts_again_with_its_ids() {
        needs!(subids);
        let env = env();
        env.run("create --network none --name a --userns keep-id --user 0 busy sh -c 'stat -c %u:%g /srv/*; test ! -e /new || stat -c %u:%g /new; touch /new'").ok();
        env.run("start -a a").prints("8:12\n8:12\n");
        env.run("start -a a").prints("8:12\n8:12\n0:0\n");
    }
}

/// Ids that were asked for.
mod chosen {
    mod rootless {
        use super::super::*;
        use crate::needs::needs;

        /// `uid_map` of one line for each range, without the spaces.
        const MAP: &str = "sh -c 'while read a b c; do echo $a:$b:$c; done < /proc/self/uid_map'";

        /// The ids of the usual map: this user's own and the first subordinate one.
        fn first(env: &Env) -> (u32, u32) {
            let usual = env.run(&format!("run --rm --network none busy {MAP}")).ok().stdout;
            let numbers: Vec<Vec<u32>> = usual
                .lines()
                .map(|line| line.split(':').map(|n| n.parse().unwrap()).collect())
                .collect();
            (numbers[0][1], numbers[1][1])
        }

        #[test]
        fn auto_gives_each_container_ids_of_its_own() {
            needs!(subids);
            let env = env();
            let (own, sub) = first(&env);
            let create = |name: &str, mode: &str| {
                env.run(&format!("create --network none --name {name} --userns {mode} busy {MAP}"))
                    .ok();
            };
            create("one", "auto:size=3000");
            create("two", "auto:size=1500");
            env.run("start -a one").prints(&format!("0:{sub}:3000\n"));
            env.run("start -a two").prints(&format!("0:{}:1500\n", sub + 3000));
            env.run("start -a one").prints(&format!("0:{sub}:3000\n"));
            env.run("inspect -f '{{.HostConfig.UsernsMode}}' one").prints("auto:size=3000\n");
            env.run("rm one").ok();
            create("three", "auto:size=2500");
            env.run("start -a three").prints(&format!("0:{sub}:2500\n"));
            env.run("rm two three").ok();
            env.run(&format!("run --rm --network none --userns auto busy {STAT}"))
                .prints_lines(SEEN);
            // As many as the image's users need: its highest group is 2000.
            env.run(&format!("run --rm --network none --userns auto busy {MAP}"))
                .prints(&format!("0:{sub}:2001\n"));
            env.run(&format!(
                "run --rm --network none --userns auto:size=3000,uidmapping=5:0:1 busy {MAP}"
            ))
            .shows(&format!("5:{own}:1\n"));
            env.run("run --rm --network none --userns auto:size=100000 busy true")
                .fails_with(125, "no 100000 subordinate ids in a row are free");
        }

        #[test]
        fn keep_id_can_be_made_smaller() {
            needs!(subids);
            let env = env();
            let (own, sub) = first(&env);
            let line = format!(
                "run --rm --network none --userns keep-id:uid=5,gid=5,size=3000 busy {MAP}"
            );
            env.run(&line).prints(&format!("0:{sub}:5\n5:{own}:1\n6:{}:2994\n", sub + 5));
        }

        #[test]
        fn maps_can_be_written_out() {
            needs!(subids);
            let env = env();
            let (own, sub) = first(&env);
            let run = "run --rm --network none";
            let with = |maps: &str| env.run(&format!("{run} {maps} busy {MAP}")).ok().stdout;
            assert_eq!(with("--uidmap 0:1:3000"), format!("0:{sub}:3000\n"));
            assert_eq!(
                with("--uidmap 0:1:1000 --uidmap 1000:0:1 --uidmap 1001:1001:2000"),
                format!("0:{sub}:1000\n1000:{own}:1\n1001:{}:2000\n", sub + 1000)
            );
            assert_eq!(with(&format!("--gidmap 0:@{sub}:3000")), format!("0:{sub}:3000\n"));
            let swapped = with("--uidmap +0:7:1 --uidmap +7:0:1");
            assert!(
                swapped.starts_with(&format!("0:{}:1\n1:{sub}:6\n7:{own}:1\n", sub + 6)),
                "{swapped}"
            );
            env.run(&format!("{run} --uidmap 0:1:3000 busy {STAT}")).prints_lines(SEEN);
            let name = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
            assert!(with(&format!("--subuidname {name}")).starts_with(&format!("0:{sub}:")));

            for (flags, why) in [
                ("--uidmap 0", "invalid id mapping"),
                ("--uidmap 0:1:1000000", "needs ids that this user does not have"),
                ("--uidmap 5:5:5", "no id is mapped to 0"),
                ("--uidmap 0:1:10 --uidmap 5:50:10", "an id is mapped twice inside"),
                ("--uidmap 0:1:10 --uidmap 50:5:10", "an id is mapped twice outside"),
                ("--gidmap 0:@1:10", "is not this user's to map"),
                ("--subuidname root", "are not this user's to map"),
                ("--userns keep-id --uidmap 0:1:9", "mutually exclusive"),
                ("--subgidname me --uidmap 0:1:9", "cannot be combined"),
                ("--userns auto:size=0", "invalid USER mode"),
                ("--userns ns:relative", "invalid USER mode"),
                ("--userns container:nosuch", "No such container"),
            ] {
                env.run(&format!("{run} {flags} busy true")).fails_with(125, why);
            }
            env.run("ps -aq").prints("");
        }

        #[test]
        fn a_user_namespace_can_be_shared_and_joined_by_path() {
            needs!(subids);
            let env = env();
            env.run("run -d --name one --network none --userns auto:size=3000 busy sleep 1000")
                .ok();
            let inside = env.run("exec one readlink /proc/self/ns/user").ok().stdout;
            let look = "busy readlink /proc/self/ns/user";
            env.run(&format!("run --rm --network none --userns container:one {look}"))
                .prints(&inside);
            env.run(&format!("run --rm --network none --userns container:one busy {STAT}"))
                .prints_lines(SEEN);
            let pid = env.run("inspect -f '{{.State.Pid}}' one").ok().stdout;
            let path = format!("ns:/proc/{}/ns/user", pid.trim());
            env.run(&format!("run --rm --network none --userns {path} {look}")).prints(&inside);
            env.run(&format!("run --rm --network none --userns {path} busy {STAT}"))
                .prints_lines(SEEN);
            env.run("run --name two --network none --userns container:one busy true").ok();
            env.run("inspect -f '{{.HostConfig.UsernsMode}}' two").shows("container:");
            env.run("stop -t 0 one").ok();
            env.run("start two")
                .fails_with(1, "cannot join the user namespace of a non running container");
            env.run("rm one two").ok();
        }
    }
}

/// Root's, which have one only when it is asked for.
mod as_root {
    use std::process::Command;

    use super::*;
    use crate::{env::Run, needs::needs};

    /// Ids that nobody has; no user has to be told of them.
    const OWN: &str = "--uidmap 0:1000000:65536";
    const MAP: &str = "sh -c 'while read a b c; do echo $a:$b:$c; done < /proc/self/uid_map'";

    /// As `run`, where these are the subordinate ids of this machine's users.
    fn run_with_ids(env: &Env, ids: &str, line: &str) -> Run {
        let file = env.file("subids", ids);
        let script = "mount --bind $0 /etc/subuid && mount --bind $0 /etc/subgid && exec \"$@\"";
        let plain = env.command(line);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, &file]);
        command.arg(plain.get_program()).args(plain.get_args());
        command.current_dir(plain.get_current_dir().unwrap()).env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        env.run_command(line, command, Vec::new())
    }

    #[test]
    fn files_are_shown_with_its_ids_and_not_copied() {
        needs!(root);
        needs!(id_mapped_mounts);
        let env = env();
        let run = format!("run --rm --network none {OWN}");
        env.run(&format!("{run} busy {STAT}")).prints_lines(SEEN);
        env.run(&format!("{run} busy ls /old")).fails_with(1, "/old: No such file");
        env.run(&format!("{run} busy ls /lib")).prints("new\n");
        env.run(&format!("{run} busy {MAP}")).prints("0:1000000:65536\n");
        env.run(&format!("{run} --user 77 busy /cap/grep CapEff /proc/self/status"))
            .prints("CapEff:\t0000000000000400\n");
        env.run(&format!("{run} --user user busy touch /etc/x")).fails_with(1, "Permission denied");
        assert_eq!(copies(&env), 0);
        env.run("run --name one --network none --uidmap 0:1000000:70000 busy sh -c 'touch /new; chown 8:12 /new; rm /srv/mail; mkdir /srv/d'").ok();
        env.run("diff one").prints_lines(["A /new", "C /srv", "A /srv/d", "D /srv/mail"]);
        env.run("start -a one").fails_with(1, "/srv/mail");
        env.run("cp one:/new -").prints_tar(["new"]);
        env.run("commit -q one made").ok();
        env.run("run --rm --network none made stat -c %u:%g /new /srv/d").prints("8:12\n0:0\n");
        env.run("rm one").ok();
    }

    #[test]
    fn what_runs_is_nobody_on_the_host() {
        needs!(root);
        needs!(id_mapped_mounts);
        let env = env();
        env.run(&format!("run -d --name one --network none {OWN} --user 33 busy sleep 1000")).ok();
        let pid = env.run("inspect -f '{{.State.Pid}}' one").ok().stdout;
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
        assert!(status.contains("Uid:\t1000033\t"), "{status}");
        env.run("top one").shows("1000033");
        env.run("exec --user 0 one sh -c 'echo a > /root/a; stat -c %u /root/a'").prints("0\n");
        env.file("mine", "b");
        env.run("cp ./mine one:/root/b").exits(0);
        env.run("exec --user 0 one stat -c %u:%g /root/b").prints("0:0\n");
        env.run("stop -t 0 one").ok();
        env.run("cp ./mine one:/root/c").exits(0);
        env.run("start one").ok();
        env.run("exec --user 0 one stat -c %u:%g /root/b /root/c").prints("0:0\n0:0\n");

        let inside = env.run("exec one readlink /proc/self/ns/user").ok().stdout;
        let look = "busy readlink /proc/self/ns/user";
        env.run(&format!("run --rm --network none --userns container:one {look}")).prints(&inside);
        env.run(&format!("run --rm --network none --userns container:one busy {STAT}"))
            .prints_lines(SEEN);
        env.run("run --rm --network none --userns container:one --pid container:one busy ps")
            .shows("sleep 1000");
        let pid = env.run("inspect -f '{{.State.Pid}}' one").ok().stdout;
        let path = format!("ns:/proc/{}/ns/user", pid.trim());
        env.run(&format!("run --rm --network none --userns {path} {look}")).prints(&inside);
        env.run(&format!("run --rm --network none {OWN} --pid container:one busy true"))
            .fails_with(125, "the pid namespace of another user namespace cannot be shared");
        env.run(&format!(
            "run --rm {OWN} --network container:one --uts container:one busy ls /sys"
        ))
        .shows("class\n");
        env.run("run --rm --pid container:one busy ps").shows("sleep 1000");
        env.run("rm -ft 0 one").ok();
    }

    #[test]
    fn it_has_no_rights_over_the_host() {
        needs!(root);
        needs!(id_mapped_mounts);
        let env = env();
        env.file("mine", "");
        let privileged = format!("run --rm --network none {OWN} --privileged");
        env.run(&format!("{privileged} busy mknod /x b 8 0")).fails_with(1, "not permitted");
        env.run(&format!("{privileged} busy mount -o remount,bind,dev /"))
            .fails_with(1, "permission denied");
        env.run(&format!("{privileged} -v ./mine:/mine busy touch /mine"))
            .fails_with(1, "Permission denied");
        env.run(&format!("{privileged} -v ./mine:/mine busy stat -c %u:%g /mine"))
            .prints("65534:65534\n");
        let hosts = "--privileged --pid host --network host --ipc host";
        env.run(&format!("run --rm {OWN} {hosts} busy ls /sys")).shows("class\n");
    }

    #[test]
    fn volumes_have_its_ids() {
        needs!(root);
        needs!(id_mapped_mounts);
        let env = env();
        fs::create_dir(env.path("dir")).unwrap();
        env.file("dir/f", "");
        let run = "run --rm --network none";
        let stat = "busy stat -c %u:%g /v /v/f";
        // What an image has is copied into it, for whoever comes.
        env.run(&format!("{run} {OWN} -v data:/srv busy touch /srv/own")).exits(0);
        for flags in ["--uidmap 0:3000000:2000", "", OWN] {
            env.run(&format!("{run} {flags} -v data:/v busy stat -c %u:%g /v /v/mail /v/own"))
                .prints("0:0\n8:12\n0:0\n");
        }
        env.run(&format!("{run} {OWN} -v data:/v:U --user 5:6 busy stat -c %u:%g /v /v/own"))
            .prints("5:6\n5:6\n");
        env.run(&format!("{run} {OWN} -v ./dir:/v {stat}")).prints("65534:65534\n65534:65534\n");
        env.run(&format!("{run} {OWN} -v ./dir:/v:idmap {stat}")).prints("0:0\n0:0\n");
        env.run(&format!("{run} {OWN} --mount type=bind,src=./dir,dst=/v,idmap=true {stat}"))
            .prints("0:0\n0:0\n");
        env.run(&format!("{run} {OWN} -v ./dir:/v:U {stat}")).prints("0:0\n0:0\n");
        assert_eq!(
            std::os::unix::fs::MetadataExt::uid(&fs::metadata(env.path("dir/f")).unwrap()),
            1_000_000
        );
        env.run(&format!("{run} {OWN} -v ./dir:/v:O {stat}"))
            .fails_with(125, "images and overlays are not mounted in user namespaces of root's");
        env.run_with_stdin("secret create key -", "s").ok();
        env.run(&format!(
            "{run} {OWN} --secret key,uid=5,mode=0400 busy stat -c '%u %a' /run/secrets/key"
        ))
        .prints("5 400\n");
        env.run("secret rm key").ok();
        env.run("volume rm data").ok();
    }

    #[test]
    fn keep_id_means_the_hosts_own_ids() {
        needs!(root);
        needs!(id_mapped_mounts);
        let env = env();
        let run = "run --rm --network none --userns";
        env.run(&format!("{run} keep-id busy {MAP}")).prints("0:0:4294967295\n");
        env.run(&format!("{run} keep-id:size=3000 busy {MAP}")).prints("0:0:3000\n");
        env.run(&format!("{run} keep-id:uid=5,gid=6 busy id")).prints("uid=5 gid=6 groups=6\n");
        env.run(&format!("{run} keep-id busy {STAT}")).prints_lines(SEEN);
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        let own = format!("{}\n", own.to_str().unwrap());
        let look = "busy readlink /proc/self/ns/user";
        env.run(&format!("{run} ns:/proc/self/ns/user {look}")).prints(&own);
        env.run(&format!("{run} host {look}")).prints(&own);
        env.run("run -d --name one --network none busy sleep 1000").ok();
        env.run(&format!("{run} container:one {look}")).prints(&own);
        env.run("rm -ft 0 one").ok();
    }

    #[test]
    fn auto_takes_the_ids_of_containers() {
        needs!(root);
        needs!(id_mapped_mounts);
        needs!(tool("unshare"));
        let env = env();
        let ids = "containers:2000000:10000\nother:3000000:65536\n";
        let run = |line: &str| run_with_ids(&env, ids, line);
        let create = |name: &str, mode: &str| {
            run(&format!("create --network none --name {name} --userns {mode} busy {MAP}")).ok();
        };
        create("one", "auto:size=3000");
        create("two", "auto:size=1500");
        env.run("start -a one").prints("0:2000000:3000\n");
        env.run("start -a two").prints("0:2003000:1500\n");
        env.run("rm one").ok();
        create("three", "auto:size=2500,uidmapping=5:0:1");
        env.run("start -a three").prints("0:2000000:5\n5:0:1\n6:2000005:2494\n");
        run("run --rm --network none --userns auto:size=20000 busy true")
            .fails_with(125, "no 20000 subordinate ids in a row are free; 10000 are there in all");
        run(&format!("run --rm --network none --subuidname other busy {MAP}"))
            .prints("0:3000000:65536\n");
        env.run("rm two three").ok();
        let none = |line: &str| run_with_ids(&env, "other:3000000:65536\n", line);
        none("run --rm --userns auto busy true")
            .fails_with(125, "containers has no subordinate ids in /etc/subuid and /etc/subgid");
    }

    #[test]
    fn ids_that_cannot_be_are_refused() {
        needs!(root);
        let env = env();
        let run = "run --rm --network none";
        for (flags, why) in [
            ("--userns nomap", "for root there is nobody to leave out"),
            ("--uidmap 5:5:5", "no id is mapped to 0"),
            ("--uidmap 0:1:10 --uidmap 5:50:10", "an id is mapped twice inside"),
            ("--uidmap 0:1:10 --uidmap 50:5:10", "an id is mapped twice outside"),
            ("--subuidname nosuchuser", "has no subordinate ids in /etc/subuid"),
        ] {
            env.run(&format!("{run} {flags} busy true")).fails_with(125, why);
        }
        env.run(&format!("--storage-driver vfs {run} {OWN} busy true"))
            .fails_with(125, "takes the kernel's overlayfs");
        env.run("ps -aq").prints("");
    }
}

mod solo {
    use super::*;
    use crate::needs::{self, needs};

    #[test]
    fn keep_id_and_nomap_need_subordinate_ids() {
        needs!(no_subids);
        let env = Env::with("busy", BUSY);
        for mode in ["keep-id", "nomap"] {
            env.run(&format!("run --rm --network none --userns {mode} busy true"))
                .fails_with(125, "need subordinate ids");
        }
    }

    #[test]
    fn changes_of_owner_are_absorbed() {
        needs!(no_subids);
        let env = Env::with("busy", BUSY);
        let script =
            "touch a; chown 8:12 a; chgrp 12 a; stat -c %u:%g a; chown 0:0 a; chown 0:0 no";
        let line = format!("run --name c --network none busy sh -c '{script}'");
        env.run(&line).exits(1).shows("0:0\n").tells("no: No such file");
        for flags in ["--security-opt seccomp=unconfined", "--privileged", "--cap-drop all"] {
            let line = format!("run --rm --network none {flags} busy chown 8:12 /etc/passwd");
            env.run(&line).exits(0);
        }
        let line = "run --rm --network none --security-opt no-new-privileges busy chown 8 /etc";
        env.run(line).exits(0);
        env.run("run -d --name d --network none busy sleep 1000").exits(0);
        env.run("exec d sh -c 'touch /a; chown 8:12 /a'").exits(0);
    }

    #[test]
    fn debians_package_manager_works() {
        needs!(no_subids);
        needs!(debian);
        let env = Env::new();
        env.run(&format!("import {} debian:own", needs::debian_tar().display())).exits(0);
        // A package with files of others and a script that gives files away, in a repository.
        let script = r##"
            mkdir -p /p/DEBIAN /p/var/lib/thing /repo
            echo hi > /p/var/lib/thing/a
            chown -R 8:12 /p/var
            printf "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.com>\nDescription: x\n" > /p/DEBIAN/control
            printf "#!/bin/sh -e\nuseradd --system thing\nchown -R thing:thing /var/lib/thing\n" > /p/DEBIAN/postinst
            chmod 755 /p/DEBIAN/postinst
            dpkg-deb -b /p /repo/thing.deb >/dev/null
            cd /repo
            { cat /p/DEBIAN/control
              echo "Filename: ./thing.deb"
              echo "Size: $(stat -c %s thing.deb)"
              echo "SHA256: $(sha256sum thing.deb | cut -d" " -f1)"
            } > Packages
            rm -rf /etc/apt/sources.list.d
            echo "deb [trusted=yes] file:/repo ./" > /etc/apt/sources.list
            apt-get -qq update
            DEBIAN_FRONTEND=noninteractive apt-get -qq install thing >/dev/null
            dpkg --audit
            id -un thing
            stat -c %u:%g /var/lib/thing/a
            find /dev/.dhow-apt.conf"##;
        env.run(&format!("run --name c --network none debian:own sh -ec '{script}'"))
            .prints("thing\n0:0\n/dev/.dhow-apt.conf\n");
    }
}
