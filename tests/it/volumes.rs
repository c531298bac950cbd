//! Volumes: what outlives a container, whose it is, and who may take it away.

use std::{fs, os::unix::fs::symlink, path::PathBuf, thread};

use nix::sys::signal::Signal;

use crate::{
    env::Env,
    fixture::{BUSY, layer},
    needs::needs,
};

/// Data below a path that is a link, with owners, modes and hard links; hidden and shown again by
/// a second layer.
const DATA: &str = "
    /srv/data/            2750 33:44
    /srv/data/index       0640 33:33 first
    /srv/data/twice       => srv/data/index
    /srv/data/sub/deep    0600 7:8 deep
    /srv/data/old         0644 old
    /srv/data/link        -> index
    /var/lib/app          -> ../../srv/data
    /srv/closed/          0700 33:33
    /srv/closed/f         0600 33:33 closed
    /srv/file             0644 a file
    ---
    /srv/data/old         whiteout
    /srv/data/new         0644 new
";

fn env() -> Env {
    Env::with("busy", &format!("{BUSY}{DATA}"))
}

const RUN: &str = "run --rm --network none";

fn data(env: &Env, name: &str) -> PathBuf {
    env.root().join("volumes").join(name).join("_data")
}

/// The names of all volumes.
#[track_caller]
fn names(env: &Env) -> Vec<String> {
    env.run("volume ls -q").ok().stdout.lines().map(str::to_owned).collect()
}

const STAT: &str = "sh -c 'cd /v; stat -c \"%n %u:%g %a %h\" . index twice sub sub/deep new link'";
const SEEN: [&str; 7] = [
    ". 33:44 2750 3",
    "index 33:33 640 2",
    "twice 33:33 640 2",
    "sub 0:0 755 2",
    "sub/deep 7:8 600 1",
    "new 0:0 644 1",
    "link 0:0 777 1",
];

// ---- the verbs ----------------------------------------------------------------------------------

#[test]
fn volumes_are_made_listed_described_and_removed() {
    let env = Env::new();
    env.run("volume create web").prints("web\n");
    env.run("volume create web").prints("web\n");
    env.run("volume create --label tier=db --label x data").prints("data\n");
    let anonymous = env.run("volume create").text();
    assert!(anonymous.len() == 64, "{anonymous}");
    env.run("volume ls -f name=a -f label=tier=db -q").prints("data\n");
    env.run("volume ls -f name=web").prints("DRIVER    VOLUME NAME\nlocal     web\n");
    env.run("volume ls -n -f name=web").prints("local     web\n");
    env.run("volume ls -f label!=x -f name=e --format '{{.Name}} {{.Scope}}'").shows("web local");
    env.run("volume ls -f label=tier --format json").shows("\"Labels\":\"tier=db,x=\"");
    env.run("volume inspect -f '{{.Name}} {{.Driver}} {{.Labels.tier}} {{.Options}}' data")
        .prints("data local db <no value>\n");
    env.run("volume inspect -f '{{.Mountpoint}}' web")
        .prints(&format!("{}\n", data(&env, "web").display()));
    env.run("inspect --type volume -f '{{.Name}}' web").prints("web\n");
    env.run("inspect -f '{{.Scope}}' web").prints("local\n");
    env.run("volume exists web").prints("");
    env.run("volume exists nosuch").exits(1).prints("");
    env.run(&format!("volume rm web {anonymous}")).prints(&format!("web\n{anonymous}\n"));
    env.run("volume rm -f nosuch data").prints("nosuch\ndata\n");
    env.run("volume ls").prints("DRIVER    VOLUME NAME\n");
}

#[test]
fn volumes_are_found_by_what_is_known_of_them() {
    let env = Env::new();
    env.run("volume create one").exits(0);
    env.run("volume create -o type=tmpfs -o device=tmpfs one.two").exits(0);
    let anonymous = env.run("volume create").text();
    for (filter, found) in [
        ("name=^one$", "one\n"),
        ("name=o -f anonymous=0", "one\none.two\n"),
        ("opt=type", "one.two\n"),
        ("opt=type=tmpfs", "one.two\n"),
        ("opt=type=nfs", ""),
        ("anonymous=true", &format!("{anonymous}\n")),
        ("label=com.docker.volume.anonymous", &format!("{anonymous}\n")),
        ("since=one.two", &format!("{anonymous}\n")),
        ("after=one -f name=two", "one.two\n"),
        ("driver=local -f name=one.", "one.two\n"),
        ("driver=other", ""),
    ] {
        env.run(&format!("volume ls -q -f {filter}")).prints(found);
    }
    env.run("volume prune -af --filter opt=type=tmpfs").shows("Deleted Volumes:\none.two\n\n");
    env.run("volume prune -af --filter name=one").shows("Deleted Volumes:\none\n\n");
    assert_eq!(names(&env), [anonymous]);
}

#[test]
fn events_tell_of_volumes() {
    let env = env();
    env.run(&format!("{RUN} -v one:/v -v /anon busy true")).exits(0);
    env.run("volume create two").exits(0);
    env.run("volume rm one").exits(0);
    let events = "events --since 1h --stream=false --format '{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.driver}}'";
    env.run(&format!("{events} --filter volume=one"))
        .prints("volume create one local\nvolume destroy one local\n");
    env.run(&format!("{events} --filter type=volume --filter event=destroy")).shows("destroy one");
    env.run(&format!("{events} --filter volume=two")).prints("volume create two local\n");
}

/// Podman's: a volume has an owner before anything is in it, and keeps what the image has there out.
#[test]
fn a_new_volume_can_have_an_owner() {
    let env = env();
    let stat = format!("{RUN} -v one:/srv/data busy stat -c %u:%g /srv/data /srv/data/index");
    env.run("volume create --uid 5 --gid 6 one").prints("one\n");
    env.run(&stat).prints("5:6\n33:33\n");
    env.run("volume inspect -f '{{.Options.o}}' one").prints("uid=5,gid=6\n");
    env.run("volume rm one").exits(0);
    env.run("volume create -o o=uid=7,noquota,timeout=5 one").exits(0);
    env.run(&stat).prints("7:0\n33:33\n");
    env.run("volume rm one").exits(0);
    env.run("volume create -o nocopy one").exits(0);
    env.run(&format!("{RUN} -v one:/srv/data busy ls /srv/data")).prints("");
    env.run("volume rm one").exits(0);
    env.run(&format!("{RUN} --mount 'src=two,dst=/srv/data,\"volume-opt=o=uid=8,gid=9\"' busy stat -c %u:%g /srv/data"))
        .prints("8:9\n");
}

#[test]
fn what_a_volume_takes_cannot_be_limited_everywhere() {
    let env = Env::new();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    if !mounts.contains("prjquota") && !mounts.contains("pquota") {
        for size in ["-o size=10m", "-o o=size=10m,inodes=5"] {
            env.run(&format!("volume create {size} one"))
                .fails_with(1, "create one: quota size requested but no quota support")
                .tells("hint: ");
        }
    }
    assert_eq!(names(&env), [""; 0]);
    assert_eq!(env.stored("staging"), Vec::<String>::new());
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let env = env();
    for (line, said) in [
        ("volume create b:d", "create b:d: \"b:d\" includes invalid characters for a local volume"),
        ("volume create ../x", "includes invalid characters"),
        ("volume create -o foo=bar x", "create x: invalid option: \"foo\""),
        ("volume create -o size=much x", "create x: invalid size: 'much'"),
        ("volume create -o type=nfs -o device=:/ -o size=1g x", "no quota support"),
        ("volume create -o o=uid=a x", "create x: invalid value in the option"),
        (
            "volume create -d image -o image=busy x",
            "create x: error looking up volume plugin image",
        ),
        ("volume mount nosuch", "get nosuch: no such volume"),
        ("volume create -o type=tmpfs x", "create x: missing required option: \"device\""),
        ("volume create -d nosuch x", "error looking up volume plugin nosuch"),
        ("volume rm nosuch", "get nosuch: no such volume"),
        ("volume rm ../containers", "no such volume"),
        ("volume ls -f x=y", "invalid filter 'x'"),
        ("volume ls -f dangling=foo", "invalid filter 'dangling=[foo]'"),
        ("volume prune -f --filter x=y", "invalid filter 'x'"),
        ("volume ls -f since=nosuch", "get nosuch: no such volume"),
        ("volume ls -f name=[", "invalid filter 'name=[[]'"),
    ] {
        env.run(line).fails_with(1, said);
    }
    // Whatever stands before the command.
    for (line, said) in [
        ("--log-level error volume reload", "dhow volume reload: there are no volume plugins"),
        ("--root r volume update x", "dhow volume update: volumes are this host's"),
        ("--root r volume create --availability x y", "--availability: volumes are this host's"),
        ("--root r pod ls", "dhow pod: there are no pods"),
    ] {
        env.run(line).fails_with(125, said);
    }
    env.run("volume inspect nosuch").exits(1).prints("[]\n");
    for (flags, said) in [
        ("-v b/d:/x", "includes invalid characters for a local volume name"),
        ("-v web:/srv/file", "cannot mount volume over existing file, file exists /srv/file"),
        ("-v web:x", "mount path must be absolute"),
        ("-v c:/web:/x", "is a path of Windows"),
        ("-v web:/x:foo", "invalid mode: foo"),
        ("-v web:/x -v /y:/x", "Duplicate mount point: /x"),
        ("-v web:/x:idmap=uids=0-1", "invalid idmap \"uids=0-1\""),
        ("-v /:/x:U", "changing the owner of / is not permitted"),
        ("--volume-driver nosuch -v web:/x", "error looking up volume plugin nosuch"),
        ("--volumes-from nosuch", "No such container: nosuch"),
        ("--volumes-from nosuch:zz", "invalid mode: zz"),
        ("--volumes-from nosuch:nocopy", "invalid mode: nocopy"),
        ("-v web:/x:rshared", "invalid mode: rshared"),
        ("--mount type=volume,src=web,dst=/x,volume-subpath=../x", "must be a relative path"),
        (
            "--mount type=volume,src=web,dst=/x,volume-driver=no",
            "error looking up volume plugin no",
        ),
        ("--mount type=volume,src=web,dst=/x,volume-opt=a=b", "invalid option: \"a\""),
        ("-v web:/ok -v web2:/x --mount type=bind,src=/nosuch,dst=/y", "does not exist"),
        ("-v web:/ok -v web2:/srv/file", "over existing file"),
    ] {
        env.run(&format!("{RUN} {flags} busy true")).fails_with(125, said);
        assert_eq!(names(&env), [""; 0], "{flags}");
    }
}

// ---- data and copies ----------------------------------------------------------------------------

#[test]
fn data_survives_its_containers() {
    let env = env();
    env.run(&format!("{RUN} -v web:/v busy sh -c 'echo one > /v/f; mkdir /v/d'")).prints("");
    env.run(&format!("{RUN} -v web:/v busy cat /v/f")).prints("one\n");
    env.run(&format!("{RUN} --mount src=web,dst=/other/place busy ls /other/place"))
        .prints("d\nf\n");
    env.run(&format!("{RUN} -v web:/v:ro busy touch /v/x")).fails_with(1, "Read-only file system");
    env.run(&format!("{RUN} --mount type=volume,src=web,dst=/v,ro busy rm /v/f"))
        .fails_with(1, "Read-only file system");
    assert_eq!(fs::read_to_string(data(&env, "web").join("f")).unwrap(), "one\n");
    env.run("volume rm web").prints("web\n");
}

#[test]
fn an_empty_volume_gets_what_the_image_has_there() {
    let env = env();
    for target in ["/srv/data", "/var/lib/app"] {
        env.run(&format!("{RUN} -v one:{target} busy true")).prints("");
        env.run(&format!("{RUN} -v one:/v busy {STAT}")).prints_lines(SEEN);
        env.run(&format!("{RUN} -v one:/v busy cat /v/link /v/new")).prints("first\nnew\n");
        env.run(&format!("{RUN} -v one:/v busy sh -c 'rm -r /v/*; touch /v/mine'")).prints("");
        env.run(&format!("{RUN} -v one:{target} busy ls {target}")).prints("mine\n");
        env.run("volume rm one").prints("one\n");
    }
    env.run(&format!("{RUN} -v two:/srv/data:nocopy busy ls /srv/data")).prints("");
    env.run(&format!("{RUN} --mount src=two,dst=/srv/data,volume-nocopy busy ls /srv/data"))
        .prints("");
    // Whom it belongs to is no secret to root, and its files can be read again.
    env.run(&format!("{RUN} -v three:/srv/closed busy cat /srv/closed/f")).prints("closed\n");
    env.run(&format!("{RUN} -v three:/srv/closed busy stat -c %u:%a /srv/closed"))
        .prints("33:700\n");
    env.run("volume rm two three").prints("two\nthree\n");
}

#[test]
fn every_storage_copies_the_same() {
    let env = env();
    for driver in ["overlay", "vfs"] {
        env.run(&format!("--storage-driver {driver} {RUN} -v one:/srv/data busy true")).prints("");
        env.run(&format!("--storage-driver {driver} {RUN} -v one:/v busy {STAT}"))
            .prints_lines(SEEN);
        env.run("volume rm one").prints("one\n");
    }
    needs!(fuse);
    env.run(&format!(
        "--storage-driver fuse-overlayfs {RUN} -v one:/srv/data busy cat /srv/data/new"
    ))
    .prints("new\n");
}

#[test]
fn containers_that_start_together_copy_once() {
    let env = env();
    let runs: Vec<_> = (0..4)
        .map(|_| env.spawn(&format!("{RUN} -v one:/srv/data -v two:/srv/data/sub busy cat /srv/data/new /srv/data/sub/deep")))
        .collect();
    for run in runs {
        run.finish().prints("new\ndeep\n");
    }
    env.run(&format!("{RUN} -v one:/v busy {STAT}")).prints_lines(SEEN);
}

#[test]
fn a_copy_that_was_killed_is_made_by_the_next() {
    let env = env();
    env.run("volume create one").exits(0);
    // What somebody leaves who dies in the middle.
    fs::write(env.root().join("volumes/one/fill/begun"), "").unwrap();
    fs::create_dir(env.root().join("volumes/one/fill/links")).unwrap();
    fs::write(data(&env, "one").join("index"), "torn").unwrap();
    env.run(&format!("{RUN} -v one:/srv/data busy cat /srv/data/index")).prints("first\n");
    env.run(&format!("{RUN} -v one:/v busy {STAT}")).prints_lines(SEEN);
    env.run("volume rm one").exits(0);
    for patience in [1, 3, 6, 10, 15, 25] {
        let creation = env.spawn("create --network none --name web -v one:/srv/data busy true");
        thread::sleep(std::time::Duration::from_millis(patience));
        creation.signal(Signal::SIGKILL);
        let _ = creation.finish();
        env.run("rm -f web").exits(0);
        env.run(&format!("{RUN} -v one:/srv/data busy true")).exits(0);
        env.run(&format!("{RUN} -v one:/v busy {STAT}")).prints_lines(SEEN);
        env.run("volume rm one").exits(0);
    }
    env.image("other", "/f 0644 x\nCMD [\"x\"]");
    assert_eq!(env.stored("staging"), Vec::<String>::new());
}

#[test]
fn a_volume_cannot_lead_out_of_itself() {
    let env = env();
    env.file("secret", "secret\n");
    env.run(&format!("{RUN} -v web:/v busy sh -c 'mkdir -p /v/a/b; echo in > /v/a/b/f; ln -s a /v/rel; ln -s /a /v/abs; ln -s ../../../.. /v/up; echo passwd > /v/a/passwd'"))
        .prints("");
    symlink(env.path(""), data(&env, "web").join("out")).unwrap();
    symlink("/proc/self/root", data(&env, "web").join("magic")).unwrap();
    let sub =
        |path: &str| format!("{RUN} --mount type=volume,src=web,dst=/m,volume-subpath={path} busy");
    for inside in ["a", "rel", "abs", "up/a"] {
        env.run(&format!("{} cat /m/b/f", sub(inside))).prints("in\n");
    }
    env.run(&format!("{} cat /m", sub("a/passwd"))).prints("passwd\n");
    env.run(&format!("{} ls /m", sub("up"))).shows("abs\n").hides("secret");
    for outside in ["out", "magic", "nosuch"] {
        env.run(&format!("{} ls /m", sub(outside))).fails_with(125, "/_data");
    }
    // Nor the target: what the image has there may be a link.
    env.image("links", &format!("{BUSY}/up -> ../../../../etc\n"));
    env.run(&format!("{RUN} -v a2:/up links ls /etc")).shows("passwd\n");
    let copied = fs::read_to_string(data(&env, "a2").join("passwd")).unwrap();
    assert!(copied.contains("/home/user"), "{copied}");
}

/// Docker: what a volume covers, the container's own files cover in turn.
#[test]
fn a_volume_over_etc_has_the_files_of_the_container() {
    let env = env();
    fs::create_dir(env.path("dir")).unwrap();
    env.run(&format!("{RUN} -v ./dir:/etc:ro busy ls /etc")).prints("");
    for flags in ["-v one:/etc", "-v two:/etc:nocopy", "-v ./dir:/etc"] {
        env.run(&format!("{RUN} --hostname box {flags} busy cat /etc/hostname")).prints("box\n");
        env.run(&format!("{RUN} --add-host db:192.0.2.5 {flags} busy grep db /etc/hosts"))
            .prints("192.0.2.5\tdb\n");
    }
    for flags in ["-v one:/etc:ro", "-v ./dir:/etc:ro"] {
        env.run(&format!("{RUN} --hostname box {flags} busy cat /etc/hostname")).prints("box\n");
    }
    env.run(&format!("{RUN} -v one:/etc busy cat /etc/passwd")).shows("root:x:0:0");
    // The files of that name in the volume stay empty.
    assert_eq!(fs::read(data(&env, "two").join("hosts")).unwrap(), b"");
}

// ---- who has it ---------------------------------------------------------------------------------

#[test]
fn a_volume_in_use_stays() {
    let env = env();
    let id = env.run("create --network none --name web -v one:/v -v /anon busy true").text();
    env.run("volume rm one")
        .fails_with(1, &format!("remove one: volume is in use - [{id}]"))
        .tells("dhow rm web");
    env.run("volume rm -f one").fails_with(1, "volume is in use");
    env.run("volume ls -q -f dangling=false").shows("one\n");
    env.run("volume ls -q -f dangling=true").prints("");
    env.run("volume prune -af").prints("Total reclaimed space: 0B\n");
    env.run("ps -aq --filter volume=one --no-trunc").prints(&format!("{id}\n"));
    env.run("ps -a --format '{{.LocalVolumes}} {{.Mounts}}'").shows("2 one,");
    env.run("rm web").exits(0);
    env.run("volume ls -q -f dangling=true").shows("one\n");
    env.run("volume rm one").prints("one\n");
    assert_eq!(names(&env).len(), 1, "the anonymous one stays");
}

#[test]
fn anonymous_volumes_go_with_their_container() {
    let env = env();
    env.image("db", &format!("{BUSY}{DATA}\nVOLUME /srv/data\nVOLUME /scratch\n"));
    env.run(&format!("{RUN} db cat /srv/data/new")).prints("new\n");
    env.run(&format!("{RUN} -v /more -v keep:/v db touch /scratch/f /v/f /more/f")).prints("");
    assert_eq!(names(&env), ["keep"]);
    env.run(&format!("{RUN} -v keep:/scratch --tmpfs /srv/data db ls /scratch")).prints("f\n");
    assert_eq!(names(&env), ["keep"]);
    env.run("run --network none --name web db touch /scratch/f").prints("");
    assert_eq!(names(&env).len(), 3);
    env.run("start -a web").prints("");
    let mounts =
        "{{range .Mounts}}{{.Type}} {{.Destination}} {{.Driver}} {{.RW}} {{.Mode}}|{{end}}";
    env.run(&format!("inspect -f '{mounts}' web"))
        .prints("volume /scratch local true |volume /srv/data local true |\n");
    env.run("rm web").exits(0);
    assert_eq!(names(&env).len(), 3, "without -v they stay");
    env.run("volume prune -f").shows("Deleted Volumes:\n").shows("Total reclaimed space: ");
    assert_eq!(names(&env), ["keep"]);
    env.run("create --network none --name web -v keep:/scratch -v /x db true").exits(0);
    env.run("rm -v web").exits(0);
    assert_eq!(names(&env), ["keep"]);
    // A start that fails takes them, too.
    env.run(&format!("{RUN} db nosuch")).exits(127);
    assert_eq!(names(&env), ["keep"]);
    env.run("volume prune -f").prints("Total reclaimed space: 0B\n");
    env.run("volume prune -f -a --filter label=x").prints("Total reclaimed space: 0B\n");
    env.run("volume prune -f --filter all=true").shows("Deleted Volumes:\nkeep\n\n");
}

#[test]
fn prune_asks_first_and_heeds_labels() {
    let env = Env::new();
    for (name, label) in [("one", "a=1"), ("two", "a=2"), ("three", "b")] {
        env.run(&format!("volume create --label {label} {name}")).exits(0);
    }
    env.run_with_stdin("volume prune -a", "n\n")
        .shows("all local volumes not used by at least one");
    assert_eq!(names(&env).len(), 3);
    env.run("volume prune -af --filter label=a=1").shows("Deleted Volumes:\none\n");
    env.run("volume prune -af --filter label!=b").shows("Deleted Volumes:\ntwo\n");
    env.run("volume prune -af --filter until=1h").prints("Total reclaimed space: 0B\n");
    env.run("volume rm -a").prints("three\n");
}

#[test]
fn inspect_tells_volumes_as_docker_does() {
    let env = env();
    env.run("create --network none --name web -v foo:/bar -v /anon --mount type=volume,src=mm,dst=/mm,ro,volume-label=a=b -v foo:/bar2:ro,nocopy busy true").exits(0);
    let mounts = "{{range .Mounts}}{{.Destination}} {{.Mode}} {{.RW}} {{.Propagation}}|{{end}}";
    env.run(&format!("inspect -f '{mounts}' web"))
        .prints("/bar z true |/anon  true |/bar2 ro,nocopy false |/mm z false |\n");
    env.run("inspect -f '{{json .HostConfig.Binds}} {{json .Config.Volumes}}' web")
        .prints("[\"foo:/bar\",\"foo:/bar2:ro,nocopy\"] {\"/anon\":{}}\n");
    env.run("inspect -f '{{json .HostConfig.Mounts}}' web").prints(
        "[{\"ReadOnly\":true,\"Source\":\"mm\",\"Target\":\"/mm\",\"Type\":\"volume\",\"VolumeOptions\":{\"Labels\":{\"a\":\"b\"}}}]\n",
    );
    env.run("volume inspect -f '{{.Labels.a}}' mm").prints("b\n");
}

#[test]
fn nodes_in_a_volume_open_for_nobody() {
    let env = env();
    env.run(&format!("{RUN} -v one:/v busy sh -c 'grep \" /v \" /proc/self/mounts'")).shows(" /v ");
    env.run(&format!(
        "{RUN} -v one:/v:noexec,nosuid busy sh -c 'cp /bin/busybox /v/true; /v/true'"
    ))
    .fails_with(126, "Permission denied");
}

#[test]
fn memory_and_directories_can_be_volumes() {
    let env = env();
    fs::create_dir(env.path("dir")).unwrap();
    let device = env.path("dir").display().to_string();
    env.run(&format!("volume create -o type=none -o device={device} -o o=bind one")).exits(0);
    env.run(&format!("{RUN} -v one:/v busy sh -c 'echo x > /v/f'")).prints("");
    assert_eq!(fs::read_to_string(env.path("dir/f")).unwrap(), "x\n");
    env.run("volume rm one").exits(0);
    assert!(env.path("dir/f").exists());
    env.run("volume create -o type=tmpfs -o device=tmpfs -o o=size=64k two").exits(0);
    env.run(&format!("{RUN} -v two:/v busy sh -c 'echo x > /v/f; df -k /v | tail -n 1'"))
        .shows(" 64 ");
    env.run(&format!("{RUN} -v two:/v busy ls /v")).prints("");
    env.run("run -d --network none --name web -v two:/v busy sleep 60").exits(0);
    env.run(&format!("{RUN} -v two:/v busy ls /v"))
        .fails_with(125, "the volume two is in memory and container web has it mounted");
    env.run("rm -f web").exits(0);
    env.run("volume inspect -f '{{.Options.o}}' two").prints("size=64k\n");
}

#[test]
fn volumes_come_from_other_containers() {
    let env = env();
    fs::create_dir(env.path("dir")).unwrap();
    env.run("create --network none --name one -v ./dir:/dir -v named:/named -v /anon -v ro:/ro:ro --tmpfs /tmpfs busy true").exits(0);
    let from = format!("{RUN} --volumes-from");
    env.run(&format!("{from} one busy sh -c 'touch /dir/f /named/f /anon/f; ls -d /tmpfs'"))
        .fails_with(1, "/tmpfs: No such file");
    assert!(env.path("dir/f").exists());
    env.run(&format!("{from} one busy touch /ro/f")).fails_with(1, "Read-only file system");
    env.run(&format!("{from} one:ro busy touch /anon/g")).fails_with(1, "Read-only file system");
    env.run(&format!("{from} one -v other:/named busy ls /named /anon"))
        .prints_lines(["/anon:", "f", "", "/named:"]);
    env.run("create --network none --name two --volumes-from one:ro busy true").exits(0);
    env.run("inspect -f '{{json .HostConfig.VolumesFrom}}' two").prints("[\"one:ro\"]\n");
    // The anonymous one goes with the last that has it.
    let before = names(&env).len();
    env.run("rm -v one").exits(0);
    assert_eq!(names(&env).len(), before);
    env.run("rm -v two").exits(0);
    assert_eq!(names(&env), ["named", "other", "ro"]);
}

#[test]
fn a_volume_leaves_and_arrives_as_a_tar() {
    let env = env();
    env.run(&format!("{RUN} -v one:/srv/data busy true")).prints("");
    let out = env.run("volume export one").ok().bytes;
    assert!(!out.is_empty());
    env.run("volume export -o all.tar one").prints("");
    assert_eq!(fs::read(env.path("all.tar")).unwrap(), out);
    env.run("volume create two").exits(0);
    env.run("volume import two all.tar").prints("");
    env.run(&format!("{RUN} -v two:/v busy {STAT}")).prints_lines(SEEN);
    env.run(&format!("{RUN} -v two:/v busy sh -c 'rm /v/new; echo mine > /v/mine'")).prints("");
    env.run_with_stdin("volume import two -", out).prints("");
    env.run(&format!("{RUN} -v two:/v busy cat /v/new /v/mine")).prints("new\nmine\n");
    for (line, said) in [
        ("volume import nosuch all.tar", "get nosuch: no such volume"),
        ("volume import two nosuch.tar", "nosuch.tar"),
        ("volume export -o never.tar nosuch", "get nosuch: no such volume"),
    ] {
        env.run(line).fails_with(1, said);
    }
    assert!(!env.path("never.tar").exists());
    env.run_with_stdin("volume import two", "no tar at all")
        .fails_with(1, "import into volume two");
}

#[test]
fn a_volume_can_be_given_to_the_user() {
    let env = env();
    env.run(&format!("{RUN} -v one:/srv/data:U --user 1000:2000 busy sh -c 'touch /srv/data/mine; stat -c %u:%g /srv/data /srv/data/sub/deep'"))
        .prints("1000:2000\n1000:2000\n");
    fs::create_dir(env.path("dir")).unwrap();
    env.run(&format!("{RUN} -v ./dir:/d:U,ro --user 1000 busy stat -c %u:%g /d"))
        .prints("1000:1000\n");
    env.file("file", "");
    env.run(&format!("{RUN} -v ./file:/f:U busy true"))
        .fails_with(125, "the option U is for directories");
}

#[test]
fn df_and_prune_know_volumes() {
    let env = env();
    env.run(&format!("{RUN} -v one:/v busy dd if=/dev/zero of=/v/f bs=1000 count=7")).exits(0);
    env.run("create --network none --name web -v two:/v busy true").exits(0);
    let anonymous = env.run("volume create --label a=b").text();
    env.run(
        "system df --format '{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}'",
    )
    .shows("Local Volumes 3 1 7kB 7kB (100%)\n");
    env.run("system df -v").shows("VOLUME NAME").shows("one").shows("7kB");
    // One that its owner alone may look into.
    env.run(&format!("{RUN} -v three:/srv/closed busy true")).prints("");
    env.run("system df --format '{{.Type}} {{.TotalCount}} {{.Size}}'")
        .shows("Volumes 4 7.007kB\n");
    env.run("volume rm three").prints("three\n");
    env.run("system prune -f").hides("Deleted Volumes");
    env.run("system prune -f --volumes --filter until=1h").fails_with(1, "not supported with");
    env.run("system prune -f --volumes --filter label=x").hides("Deleted Volumes");
    env.run("system prune -f --volumes").shows(&format!("Deleted Volumes:\n{anonymous}\n"));
    assert_eq!(names(&env), ["one", "two"]);
}

#[test]
fn a_stopped_container_is_copied_from_with_its_volumes() {
    let env = env();
    env.run("create --network none --name web -v one:/srv/data busy true").exits(0);
    env.run("cp web:/srv/data/new out").exits(0);
    assert_eq!(fs::read_to_string(env.path("out")).unwrap(), "new\n");
    env.file("in", "in\n");
    env.run("cp in web:/srv/data/in").exits(0);
    env.run(&format!("{RUN} -v one:/v busy cat /v/in")).prints("in\n");
    env.run(
        "create --network none --name part --mount src=one,dst=/x,volume-subpath=sub busy true",
    )
    .exits(0);
    env.run("cp part:/x/deep out").fails_with(1, "only while it runs");
}

mod as_root {
    use super::*;

    #[test]
    fn device_nodes_in_a_volume_do_not_open() {
        needs!(root);
        let env = env();
        env.run(&format!("{RUN} --cap-drop MKNOD -v one:/v busy true")).prints("");
        let node = data(&env, "one").join("null");
        let made =
            std::process::Command::new("mknod").arg(&node).args(["c", "1", "3"]).status().unwrap();
        assert!(made.success());
        env.run(&format!("{RUN} --cap-drop MKNOD -v one:/v busy cat /v/null"))
            .fails_with(1, "Permission denied");
    }
}

mod rootless {
    use super::*;

    #[test]
    fn owners_are_right_whatever_the_id_maps() {
        needs!(subids);
        let env = env();
        for mode in ["keep-id", "nomap", "keep-id:uid=7,gid=3"] {
            let run = format!("{RUN} --userns {mode} --user 0");
            env.run(&format!("{run} -v one:/srv/data busy true")).prints("");
            env.run(&format!("{run} -v one:/v busy {STAT}")).prints_lines(SEEN);
            env.run("volume rm one").prints("one\n");
        }
        env.run(&format!(
            "{RUN} --userns keep-id -v two:/v busy sh -c 'touch /v/mine; stat -c %u /v/mine'"
        ))
        .prints(&format!("{}\n", nix::unistd::geteuid()));
    }

    #[test]
    fn only_root_mounts_file_systems() {
        needs!(subids);
        let env = Env::new();
        env.run("volume create -o type=nfs -o device=:/x -o o=addr=127.0.0.1 one")
            .fails_with(1, "only root can mount a file system of type nfs");
        assert_eq!(names(&env), [""; 0]);
    }
}

mod solo {
    use super::*;

    #[test]
    fn a_single_id_is_enough() {
        needs!(no_subids);
        let env = env();
        env.run(&format!("{RUN} -v one:/srv/data busy cat /srv/data/new")).prints("new\n");
        env.run(&format!("{RUN} -v one:/v busy sh -c 'cat /v/index; rm -r /v/sub'"))
            .prints("first\n");
        // Whoever a tar's files belong to.
        env.run_with_stdin("volume import one", layer("\"./\" 0750 3:4\n/mine 0640 1:2 x"))
            .prints("");
        env.run(&format!("{RUN} -v one:/v busy stat -c %u:%g:%a /v /v/mine"))
            .prints("0:0:750\n0:0:640\n");
        env.run("volume rm one").prints("one\n");
    }
}
