//! `-v`, `--mount` and `--tmpfs`: what they show, and what becomes of what is written there.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    process::Command,
};

use crate::{env::Env, fixture::BUSY, needs::needs};

const RUN: &str = "run --rm --network none";
const CONTENT: &str = "
    /srv/data/       0750 33:44
    /srv/data/index  0640 33:33 first
    /srv/data/link   -> index
    ---
    /srv/data/new    0644 new
";

fn env() -> Env {
    let env = Env::with("busy", &format!("{BUSY}{CONTENT}"));
    fs::create_dir(env.path("dir")).unwrap();
    env.file("dir/f", "host\n");
    env
}

#[test]
fn what_is_written_over_a_directory_goes_with_the_container() {
    let env = env();
    fs::set_permissions(env.path("dir"), fs::Permissions::from_mode(0o705)).unwrap();
    let write = "sh -c 'cat /d/f; echo in > /d/f; touch /d/mine; ls /d; stat -c %a:%u /d'";
    env.run(&format!("{RUN} -v ./dir:/d:O busy {write}")).prints("host\nf\nmine\n705:0\n");
    assert_eq!(fs::read_to_string(env.path("dir/f")).unwrap(), "host\n");
    assert_eq!(fs::read_dir(env.path("dir")).unwrap().count(), 1);
    // A second life begins anew, a volume is covered as a directory is.
    env.run("volume create one").exits(0);
    env.run("run --network none --name web -v one:/srv/data:O busy sh -c 'cat /srv/data/new; rm /srv/data/new'")
        .prints("new\n");
    env.run("start -a web").prints("new\n");
    env.run("restart web").exits(0);
    env.run("wait web").prints("0\n");
    let overlays = || fs::read_dir(env.root().join("containers")).unwrap().count();
    assert_eq!(overlays(), 1);
    env.run("cp web:/srv/data/new out").exits(0);
    env.run("rm web").exits(0);
    env.run(&format!("{RUN} -v one:/v:ro,O busy touch /v/x"))
        .fails_with(1, "Read-only file system");
    env.run(&format!("{RUN} -v one:/v:O,noexec busy sh -c 'cp /bin/busybox /v/true; /v/true'"))
        .fails_with(126, "Permission denied");
    env.run("volume rm one").exits(0);
}

#[test]
fn an_upperdir_of_ones_own_stays() {
    let env = env();
    for dir in ["upper", "work"] {
        fs::create_dir(env.path(dir)).unwrap();
    }
    let at = |name: &str| env.path(name).display().to_string();
    let line = format!("{RUN} -v ./dir:/d:O,upperdir={},workdir={}", at("upper"), at("work"));
    env.run(&format!("{line} busy sh -c 'echo in > /d/g'")).prints("");
    env.run(&format!("{line} busy cat /d/f /d/g")).prints("host\nin\n");
    assert_eq!(fs::read_to_string(env.path("upper/g")).unwrap(), "in\n");
    assert!(!env.path("dir/g").exists());
    env.run(&format!("{RUN} -v ./dir:/d:O,upperdir={} busy true", at("upper")))
        .fails_with(125, "invalid mode")
        .tells("given together");
    env.run(&format!("{RUN} -v ./dir/f:/d:O busy true")).fails_with(125, "is no directory");
    env.run(&format!("{RUN} -v ./dir:/d:O,U busy true")).fails_with(125, "invalid mode: O,U");
}

#[test]
fn an_image_is_mounted() {
    let env = env();
    env.image("data", CONTENT.trim_end());
    let image = |more: &str| format!("{RUN} --mount type=image,src=data,dst=/m{more} busy");
    env.run(&format!("{} cat /m/srv/data/index /m/srv/data/new", image(""))).prints("first\nnew\n");
    env.run(&format!("{} touch /m/x", image(""))).fails_with(1, "Read-only file system");
    env.run(&format!("{} sh -c 'ls /m; touch /m/mine'", image(",subpath=srv/data,rw=true")))
        .prints("index\nlink\nnew\n");
    env.run(&format!("{} ls /m", image(",image-subpath=srv,rw"))).prints("data\n");
    env.run(&format!("{} ls /m", image(",subpath=nosuch"))).fails_with(125, "No such file");
    env.run(&format!("{} ls /m", image(",subpath=srv/data/index")))
        .fails_with(125, "Not a directory");
    env.run(&format!("{RUN} --mount type=image,src=nosuch,dst=/m busy ls"))
        .fails_with(125, "No such image: nosuch");
    // One layer alone, and an image that a container has stays.
    env.image("thin", "/srv/x 0644 x\n");
    env.run(
        "create --network none --name web --mount type=image,src=thin,dst=/m busy cat /m/srv/x",
    )
    .exits(0);
    env.run("rmi thin").fails_with(1, "conflict: unable to remove");
    env.run("rmi -f thin").exits(0);
    env.run("image prune -af").exits(0);
    env.run("start -a web").prints("x\n");
    env.run("inspect -f '{{range .Mounts}}{{.Type}} {{.Name}} {{.RW}}{{end}}' web")
        .prints("image thin false\n");
    env.run("rm web").exits(0);
}

#[test]
fn file_systems_of_ones_own() {
    let env = env();
    let line = |flags: &str, command: &str| env.run(&format!("{RUN} {flags} busy {command}"));
    line(
        "--mount type=ramfs,dst=/r,tmpfs-mode=0700",
        "sh -c 'touch /r/f; stat -c %a /r; stat -fc %T /r'",
    )
    .prints("700\nramfs\n");
    line("--mount type=ramfs,dst=/r,U,ro --user 5:6", "stat -c %u:%g /r").prints("5:6\n");
    line(
        "--mount type=devpts,dst=/p,mode=0600",
        "sh -c 'ls /p; grep -c \" /p devpts\" /proc/mounts'",
    )
    .prints("ptmx\n1\n");
    let stat = "sh -c 'cd /srv/data; stat -c \"%n %u:%g %a\" . *; cat new; touch mine'";
    let seen = ". 33:44 750\nindex 33:33 640\nlink 0:0 777\nnew 0:0 644\nnew\n";
    for flags in [
        "--mount type=tmpfs,dst=/srv/data,tmpcopyup",
        "--tmpfs /srv/data:tmpcopyup,size=1m",
        "--mount type=ramfs,dst=/srv/data,tmpcopyup=true",
    ] {
        line(flags, stat).prints(seen);
    }
    line("--tmpfs /srv/data:tmpcopyup,ro", "touch /srv/data/x")
        .fails_with(1, "Read-only file system");
    line("--tmpfs /srv/data:tmpcopyup,notmpcopyup", "ls /srv/data").prints("");
    line("--tmpfs /bin2:size=4k,mode=700 --user 5:6 --mount type=tmpfs,dst=/mine,chown,tmpfs-mode=700",
        "sh -c 'touch /mine/f; stat -c %u:%g:%a /mine /bin2'").prints("5:6:700\n0:0:700\n");
    line("--tmpfs /bin:tmpcopyup,size=8k", "true").fails_with(125, "No space left");
    // Podman's manual has this example; the kernel keeps no ramfs to its size.
    line("--mount type=ramfs,tmpfs-size=512M,destination=/r", "stat -fc %T /r")
        .warns("/r: the kernel keeps no ramfs to a size")
        .prints("ramfs\n");
    line(
        "--tmpfs /t:sync,dirsync,strictatime,mpol=local",
        "sh -c 'grep \" /t \" /proc/mounts | tr , \"\\n\" | grep -cE \"sync|mpol=local\"'",
    )
    .prints("3\n");
    for (flags, said) in [
        ("--tmpfs /x:foo", "invalid tmpfs option \"foo\""),
        ("--mount type=devpts,dst=/x,tmpcopyup", "cannot mix option 'tmpcopyup'"),
        (
            "--mount type=nosuch,dst=/x",
            "invalid mount config for type \"nosuch\": mount type unknown",
        ),
        (
            "--mount type=tmpfs,dst=/x,no-dereference",
            "cannot mix option 'no-dereference' with mount type 'tmpfs'",
        ),
        ("--mount type=bind,src=/tmp,dst=/x,idmap=uids=0-1", "invalid idmap \"uids=0-1\""),
    ] {
        line(flags, "true").fails_with(125, said);
    }
}

#[test]
fn globs_bind_what_matches() {
    let env = env();
    for name in ["a1", "a2", "b1", ".a3"] {
        env.file(&format!("dir/{name}"), format!("{name}\n"));
    }
    env.run(&format!("{RUN} --mount type=glob,src=./d*/[a]?,dst=/m,ro busy touch /m/a1"))
        .fails_with(1, "Read-only file system");
    env.run(&format!("{RUN} --mount type=glob,src=./dir/a*,dst=/m busy sh -c 'cat /m/*'"))
        .prints("a1\na2\n");
    env.run(&format!("{RUN} --mount type=glob,src=./dir/z*,dst=/m busy true"))
        .fails_with(125, "no file paths matching glob");
    // Without a target it is where it is on the host.
    let dir = env.path("dir").display().to_string();
    env.run(&format!("{RUN} --mount type=glob,src=./dir/a*,ro busy sh -c 'cd {dir}; cat *'"))
        .prints("a1\na2\n");
}

#[test]
fn a_symbolic_link_is_made_anew() {
    let env = env();
    symlink("dir/f", env.path("link")).unwrap();
    symlink("nowhere", env.path("lost")).unwrap();
    let bind = |source: &str, target: &str| {
        format!("{RUN} --mount type=bind,src=./{source},dst={target},no-dereference busy")
    };
    let show = "sh -c 'readlink /made/link; ls -d /made'";
    env.run(&format!("{} {show}", bind("link", "/made/link"))).prints("dir/f\n/made\n");
    env.run(&format!("{} readlink /lost", bind("lost", "/lost"))).prints("nowhere\n");
    // What is no link is bound as ever.
    env.run(&format!("{} cat /d/f", bind("dir", "/d"))).prints("host\n");
    env.run(&format!("{} true", bind("link", "/bin/busybox")))
        .fails_with(125, "on /bin/busybox: File exists");
    env.run(&format!("{RUN} --mount type=bind,src=./link,dst=/l busy cat /l")).prints("host\n");
    env.run(&format!("{RUN} --mount type=bind,src=./lost,dst=/l busy true"))
        .fails_with(125, "bind source path does not exist");
}

#[test]
fn a_missing_source_is_made_if_asked() {
    let env = env();
    let mount = "--mount type=bind,src=./new/one,dst=/d,bind-create-src";
    env.run(&format!("{RUN} {mount} busy touch /d/f")).prints("");
    assert!(env.path("new/one/f").exists());
    env.run(&format!("{RUN} {mount}=false busy true")).exits(0);
    env.run(&format!("{RUN} --mount type=bind,src=./no,dst=/d,bind-create-src=false busy true"))
        .fails_with(125, "bind source path does not exist");
    env.run(&format!("{RUN} -v ./dir:/d:unbindable busy cat /d/f")).prints("host\n");
    env.run(&format!(
        "{RUN} --mount type=bind,src=./dir,dst=/d,bind-propagation=runbindable busy cat /d/f"
    ))
    .prints("host\n");
    env.run(&format!("{RUN} --mount type=volume,src=one,dst=/srv/data,nocopy busy ls /srv/data"))
        .prints("");
    env.run("volume rm one").exits(0);
}

mod as_root {
    use super::*;

    #[test]
    fn what_is_mounted_below_is_read_only_too_unless_told() {
        needs!(root);
        let env = env();
        let below = env.path("dir/below");
        fs::create_dir(&below).unwrap();
        // In a mount namespace of the command's own.
        let script = |flags: &str, command: &str| {
            let line = format!("{RUN} {flags} busy {command}");
            let inner = env.command(&line);
            let mut outer = Command::new("unshare");
            let mount = format!("mount -t tmpfs tmpfs {} && exec \"$@\"", below.display());
            outer.args(["-m", "sh", "-c", &mount, "sh"]).arg(inner.get_program());
            outer.args(inner.get_args()).env_clear();
            outer.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
            outer.current_dir(inner.get_current_dir().unwrap());
            env.run_command(&line, outer, Vec::new()).stderr
        };
        assert!(script("-v ./dir:/d:ro", "touch /d/below/x").contains("Read-only"));
        let mount = "--mount type=bind,src=./dir,dst=/d,ro";
        assert!(script(mount, "touch /d/below/x").contains("Read-only"));
        assert!(
            script(&format!("{mount},bind-recursive=writable"), "touch /d/x").contains("Read-only")
        );
        assert_eq!(script(&format!("{mount},bind-recursive=writable"), "touch /d/below/x"), "");
        let strict = format!("{mount},bind-recursive=readonly,bind-propagation=rprivate");
        assert!(script(&strict, "touch /d/below/x").contains("Read-only"));
        assert!(
            script(&format!("{mount},bind-nonrecursive"), "sh -c 'ls /d/below >&2'").is_empty()
        );
        // Without a user namespace an id is itself.
        env.run(&format!("{RUN} -v ./dir:/d:idmap busy cat /d/f")).prints("host\n");
    }

    #[test]
    fn a_mount_has_ids_of_its_own() {
        needs!(root);
        needs!(id_mapped_mounts);
        let env = env();
        let stat = "busy stat -c %u:%g /d /d/f";
        let ids = "idmap=uids=0-1000-10;gids=0-50-1";
        std::os::unix::fs::chown(env.path("dir/f"), Some(3), Some(0)).unwrap();
        env.run(&format!("{RUN} -v './dir:/d:{ids}' {stat}")).prints("1000:50\n1003:50\n");
        env.run(&format!("{RUN} --mount 'type=bind,src=./dir,dst=/d,{ids}' {stat}"))
            .prints("1000:50\n1003:50\n");
        // What has no id in the map is nobody's.
        env.run(&format!("{RUN} -v './dir:/d:idmap=uids=0-1000-1' {stat}"))
            .prints("1000:0\n65534:0\n");
        // In a user namespace, by its own ids.
        let apart = "--uidmap 0:200000:1000";
        env.run(&format!("{RUN} {apart} -v './dir:/d:idmap=uids=@0-7-10;gids=@0-8-1' {stat}"))
            .prints("7:8\n10:8\n");
        env.run(&format!(
            "{RUN} {apart} -v './dir:/d:idmap=uids=0-200005-1;gids=0-200006-1' {stat}"
        ))
        .prints("5:6\n65534:6\n");
        env.run(&format!("{RUN} {apart} -v './dir:/d:idmap=uids=@0-5000-1' busy true"))
            .fails_with(125, "the container has no id 5000");
    }
}

mod rootless {
    use super::*;

    #[test]
    fn owners_are_right_in_what_is_mounted() {
        needs!(subids);
        let env = env();
        env.image("data", CONTENT.trim_end());
        for mode in ["", "--userns keep-id --user 0"] {
            let stat = "stat -c %u:%g /m/srv/data /m/srv/data/index";
            env.run(&format!("{RUN} {mode} --mount type=image,src=data,dst=/m busy {stat}"))
                .prints("33:44\n33:33\n");
            env.run(&format!("{RUN} {mode} -v one:/srv/data busy true")).prints("");
            env.run(&format!(
                "{RUN} {mode} -v one:/m:O busy sh -c 'stat -c %u:%g:%a /m; touch /m/x; rm /m/new'"
            ))
            .prints("33:44:750\n");
            env.run("volume rm one").exits(0);
        }
        env.run(&format!("{RUN} -v ./dir:/d:idmap busy cat /d/f"))
            .fails_with(125, "only root can make an id-mapped mount");
        env.run(&format!("{RUN} --mount type=tmpfs,dst=/t,noswap busy true"))
            .fails_with(125, "only root's containers can have a tmpfs with noswap");
        env.run(&format!("{RUN} -v './dir:/d:idmap=uids=0-1-1' busy cat /d/f"))
            .fails_with(125, "only root can make an id-mapped mount");
    }
}
