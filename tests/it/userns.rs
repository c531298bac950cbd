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

mod as_root {
    use super::*;
    use crate::needs::needs;

    #[test]
    fn roots_containers_have_none_of_their_own() {
        needs!(root);
        let env = env();
        for flags in [
            "--userns auto",
            "--uidmap 0:1:9",
            "--userns keep-id:size=9",
            "--userns ns:/proc/1/ns/user",
        ] {
            env.run(&format!("run --rm --network none {flags} busy true"))
                .fails_with(125, "are for ordinary users");
        }
        env.run("run -d --name one --network none busy sleep 1000").ok();
        let inside = env.run("exec one readlink /proc/self/ns/user").ok().stdout;
        env.run("run --rm --network none --userns container:one busy readlink /proc/self/ns/user")
            .prints(&inside);
        env.run("rm -ft 0 one").ok();
    }

    #[test]
    fn keep_id_and_nomap_are_not_for_root() {
        needs!(root);
        let env = env();
        for mode in ["keep-id", "nomap"] {
            env.run(&format!("run --rm --network none --userns {mode} busy true"))
                .fails_with(125, "are for ordinary users");
        }
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
