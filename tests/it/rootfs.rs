//! `--rootfs`: containers that are made of a directory, without an image.

use std::fs;

use crate::{env::Env, fixture::BUSY, needs::needs};

/// A tree at `tree` that an image was unpacked to, and nothing in the store that knows of it.
fn env() -> Env {
    let env = Env::with("busy", BUSY);
    env.run("create --name one --network none busy").ok();
    env.run("export -o tree.tar one").ok();
    fs::create_dir(env.path("tree")).unwrap();
    let tar = std::process::Command::new("tar")
        .args(["--no-same-owner", "-xf"])
        .args([env.path("tree.tar"), "-C".into(), env.path("tree")])
        .status();
    assert!(tar.unwrap().success());
    env.run("rm one").ok();
    env.run("rmi busy").exits(0);
    env
}

#[test]
fn a_directory_is_the_root_file_system_itself() {
    needs!(tool("tar"));
    let env = env();
    let run = "run --rm --network none --rootfs";
    env.run(&format!("{run} ./tree sh -c 'echo hi > /made; id -u; head -n 1 /etc/hosts'"))
        .prints("0\n127.0.0.1\tlocalhost\n");
    assert_eq!(fs::read_to_string(env.path("tree/made")).unwrap(), "hi\n");
    env.run(
        "create --name one --network none --user user --rootfs ./tree sh -c 'id -u; cat /made'",
    )
    .ok();
    env.run("start -a one").prints("1000\nhi\n");
    let tree = env.path("tree");
    env.run("inspect -f '{{.Config.Image}},{{.Image}},{{.GraphDriver.Data.MergedDir}}' one")
        .prints(&format!("{0},,{0}\n", tree.display()));
    env.file("f", "new");
    env.run("cp ./f one:/tmp/f").exits(0);
    assert_eq!(fs::read_to_string(env.path("tree/tmp/f")).unwrap(), "new");
    env.run("ps -as --format '{{.Size}}'").prints("0B\n");
    env.run("diff one").fails_with(1, "what it has changed is not known");
    env.run("commit one made").fails_with(1, "is made of no image");
    env.run("container clone one two").ok();
    env.run("start -a two").prints("1000\nhi\n");
    env.run("rm one two").ok();
    assert!(env.path("tree/bin/busybox").exists());
    env.run("--storage-driver vfs run --rm --network none --rootfs ./tree cat /made")
        .prints("hi\n");
    env.run("run --dry-run --rootfs ./tree true").shows(&format!("\"{}\"", tree.display()));
}

#[test]
fn an_overlay_keeps_what_is_written_apart() {
    needs!(tool("tar"));
    let env = env();
    env.run(
        "run --name one --network none --rootfs ./tree:O sh -c 'echo hi > /made; rm /etc/group'",
    )
    .ok();
    env.run("diff one").prints_lines(["C /etc", "D /etc/group", "A /made"]);
    assert!(!env.path("tree/made").exists() && env.path("tree/etc/group").exists());
    env.run("cp one:/made -").prints_tar(["made"]);
    env.run("commit one made").fails_with(1, "is made of no image");
    env.run("rm one").ok();
}

#[test]
fn what_is_no_root_file_system_is_refused() {
    let env = Env::new();
    fs::create_dir(env.path("empty")).unwrap();
    let run = "run --rm --network none --rootfs";
    for (rest, code, why) in [
        ("./none true", 125, "--rootfs ./none: no such directory"),
        ("/etc/passwd true", 125, "--rootfs /etc/passwd: it is not a directory"),
        ("/ true", 125, "the host's own root takes an overlay: /:O"),
        ("./empty:idmap=uids=0-1-1 true", 125, "an idmap with maps of its own"),
        ("./empty", 125, "no command specified"),
        ("./empty:O true", 127, "exec true: No such file or directory"),
    ] {
        env.run(&format!("{run} {rest}")).fails_with(code, why);
    }
    env.run(&format!("--storage-driver vfs {run} ./empty:O true"))
        .fails_with(125, "no overlay can be mounted here");
    env.run("ps -aq").prints("");
}

mod rootless {
    use super::*;

    #[test]
    fn id_maps_are_roots() {
        needs!(rootless);
        let env = Env::new();
        fs::create_dir(env.path("empty")).unwrap();
        env.run("run --rm --network none --rootfs ./empty:idmap true")
            .fails_with(125, "only root can make an id-mapped mount");
    }
}

mod as_root {
    use super::*;

    #[test]
    fn a_user_namespace_sees_its_own_ids() {
        needs!(root);
        needs!(tool("tar"));
        needs!(id_mapped_mounts);
        let env = env();
        let run = "run --rm --network none --uidmap 0:1000000:65536 --rootfs";
        let look = "sh -c 'touch /made; stat -c %u:%g /made /bin'";
        env.run(&format!("{run} ./tree:idmap:O {look}")).prints("0:0\n0:0\n");
        assert!(!env.path("tree/made").exists());
        env.run(&format!("{run} ./tree:idmap {look}")).prints("0:0\n0:0\n");
        assert!(env.path("tree/made").exists());
        env.run(&format!("{run} ./tree true")).fails_with(125, "write --rootfs PATH:idmap");
    }
}
