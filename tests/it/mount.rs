//! `mount` and `unmount`, of containers and of images.

use crate::{env::Env, fixture::BUSY};

mod as_root {
    use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

    use super::{BUSY, Env};

    #[test]
    fn an_image_is_a_directory_that_cannot_be_written_to() {
        let env = Env::with(
            "app:1",
            &format!("{BUSY}\n/gone 0644 x\n---\n/gone whiteout\n/new 0644 new"),
        );
        env.image("flat:1", "/only 0644 only\n/gone whiteout\n/null 0666 char 1:3");
        let place = env.run("image mount app:1").text();
        let place = Path::new(&place);
        assert_eq!(fs::read_to_string(place.join("new")).unwrap(), "new\n");
        assert!(!place.join("gone").exists() && place.join("bin/busybox").exists());
        let refused = fs::write(place.join("more"), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(30), "EROFS");
        // Once is enough.
        env.run("image mount app:1").prints(&format!("{}\n", place.display()));
        let list = env.run("image mount").prints(&format!("app:1  {}\n", place.display()));
        drop(list);

        let flat = env.run("image mount flat:1").text();
        let flat = Path::new(&flat);
        assert_eq!(fs::read_to_string(flat.join("only")).unwrap(), "only\n");
        assert!(!flat.join("gone").exists(), "a whiteout of the only layer is nothing");
        assert!(fs::File::open(flat.join("null")).is_err(), "devices open for nobody");
        let json = env.run("image mount --format json").json();
        assert_eq!(json.as_array().unwrap().len(), 2);
        assert_eq!(
            json[0]["mountpoint"].as_str().map(Path::new).unwrap().metadata().unwrap().uid(),
            0
        );

        env.run("rmi app:1").fails_with(1, "is mounted at").tells("image unmount");
        env.run("image prune -af").hides("app:1");
        env.run("system check").shows("The store is whole");
        let open = fs::File::open(place.join("new")).unwrap();
        env.run("image unmount app:1").fails_with(1, "somebody uses it");
        drop(open);
        env.run("image unmount app:1").exits(0);
        env.run("image unmount app:1").fails_with(1, "is not mounted");
        assert!(!place.exists());
        env.run("rmi -f flat:1").shows("Untagged: flat:1");
        env.run("image mount").prints("");
        let both = env.run("image mount --all");
        both.shows("app:1  /");
        env.run("image umount --all").exits(0);
        env.run("image mount nosuch app:1").exits(1).tells("No such image: nosuch");
        env.run("image mount --format x").fails_with(1, "only supported value");
        env.run("image unmount nosuch").fails_with(1, "No such image: nosuch");
        env.run("image unmount").exits(125);
        // What is thrown away is not in use any more.
        env.run("system reset -f").exits(0);
        assert!(!place.exists());
    }
}

/// Of containers.
mod files {
    mod as_root {
        use std::{fs, path::Path};

        use super::super::{BUSY, Env};

        #[test]
        fn a_containers_files_are_a_directory_whether_it_runs_or_not() {
            let env = Env::with("busy", BUSY);
            env.run("create --name one --network none busy sh -c 'cat /put; sleep 1000'").ok();
            env.run("mount").prints("");
            let place = env.run("mount one").text();
            let place = Path::new(&place);
            assert!(place.join("bin/busybox").exists());
            fs::write(place.join("put"), "hi\n").unwrap();
            env.run("container mount one").prints(&format!("{}\n", place.display()));
            let id = env.run("ps -aq --no-trunc").text();
            env.run("mount").prints(&format!("{}  {}\n", &id[..12], place.display()));
            env.run("mount --no-trunc").prints(&format!("{id}  {}\n", place.display()));
            let json = env.run("mount --format json").json();
            assert_eq!(json[0]["mountpoint"].as_str(), place.to_str());
            // What starts has the same files.
            env.run("start one").ok();
            crate::env::poll("its output", || env.run("logs one").ok().stdout == "hi\n");
            env.run("exec one sh -c 'echo in > /in'").ok();
            assert_eq!(fs::read_to_string(place.join("in")).unwrap(), "in\n");
            env.run("diff one").prints_lines(["A /in", "A /put"]);
            env.run("cp one:/in -").prints_tar(["in"]);
            let open = fs::File::open(place.join("in")).unwrap();
            env.run("unmount one").fails_with(1, "somebody uses it");
            env.run("umount --force one").prints("one\n");
            drop(open);
            env.run("unmount one").prints("one\n");
            assert!(!place.exists());
            env.run("exec one cat /put").prints("hi\n");
            // Of one that runs it is what it has itself.
            env.run("mount --latest").prints(&format!("{}\n", place.display()));
            fs::write(place.join("live"), "live").unwrap();
            env.run("exec one cat /live").prints("live");
            env.run("stop -t 0 one").ok();
            env.run("cp one:/live -").prints_tar(["live"]);
            env.run("unmount --latest").exits(0);
            env.run("start one").ok();
            env.run("mount -a").shows("rootfs\n");
            env.run("unmount --all").exits(0);
            env.run("mount one").ok();
            env.run("rm -f -t 0 one").ok();
            assert!(!place.exists());
        }

        #[test]
        fn what_cannot_be_mounted_is_refused() {
            let env = Env::with("busy", BUSY);
            env.run("mount nosuch").fails_with(1, "No such container: nosuch");
            env.run("unmount nosuch").fails_with(1, "No such container: nosuch");
            env.run("mount --format x").fails_with(1, "only supported value");
            env.run("unmount").exits(125);
            env.run("run -d --rm --name one --network none busy sleep 1000").ok();
            env.run("mount one").fails_with(1, "goes with its end, and a mount would stay");
            env.run("rm -ft 0 one").ok();
            env.run("--storage-driver vfs create --name two --network none busy cat /put").ok();
            let place = env.run("mount two").text();
            fs::write(Path::new(&place).join("put"), "put").unwrap();
            env.run("start -a two").prints("put");
            env.run("unmount two").prints("two\n");
            env.run("rm two").ok();
        }
    }

    mod rootless {
        use super::super::{BUSY, Env};
        use crate::needs::needs;

        #[test]
        fn who_is_not_root_mounts_in_a_namespace_of_their_own() {
            needs!(subids);
            let env = Env::with("busy", BUSY);
            env.run("create --name one --network none busy cat /put").ok();
            for verb in ["mount", "unmount"] {
                env.run(&format!("{verb} one"))
                    .fails_with(1, "in rootless mode")
                    .tells("dhow unshare");
            }
            let dhow = env.command("");
            let dhow = dhow.get_program().to_str().unwrap();
            let script = format!("echo put > $({dhow} mount one)/put; {dhow} unmount one");
            env.run(&format!("unshare sh -c '{script}'")).prints("one\n");
            env.run("start -a one").prints("put\n");
            env.run("rm one").ok();
        }
    }
}

mod rootless {
    use super::{BUSY, Env};
    use crate::needs::needs;

    #[test]
    fn who_is_not_root_is_told_where_it_works() {
        needs!(rootless);
        let env = Env::with("app:1", BUSY);
        for verb in ["mount", "unmount"] {
            env.run(&format!("image {verb} app:1"))
                .fails_with(1, "in rootless mode")
                .tells("dhow unshare");
        }
        env.run("image mount").prints("");
        env.run("image mount nosuch").fails_with(1, "No such image: nosuch");
    }
}
