//! cp, diff, export, commit.

use std::{fs, os::unix::fs::symlink};

use serde_json::Value;

use crate::{env::Env, fixture::BUSY};

/// Containers `up`, which runs, and `down`, which does not; both have been written to.
fn two() -> Env {
    let env = Env::with("busy", BUSY);
    let make = "mkdir -p /d/sub && echo one > /d/one && echo two > /d/sub/two && ln -s one /d/link && ln -s /d /ln && chown 5:6 /d/one && chmod 640 /d/one && echo up > /ready";
    env.run(&format!("run -d --name up --network none busy sh -c '{make}; sleep 1000'")).ok();
    env.run(&format!("run --name down --network none busy sh -c '{make}'")).ok();
    env.run("exec up sh -c 'until test -s /ready; do :; done'").ok();
    env
}

#[test]
fn cp_brings_files_out() {
    let env = two();
    for name in ["up", "down"] {
        let dir = env.path(name);
        fs::create_dir(&dir).unwrap();
        let at = |file: &str| dir.join(file);
        env.run(&format!("cp {name}:/d/one {name}/")).prints("");
        env.run(&format!("cp {name}:d/one {name}/other")).prints("");
        for file in ["one", "other"] {
            assert_eq!(fs::read_to_string(at(file)).unwrap(), "one\n", "{name}");
        }
        // The directory itself, what is in it, and to a name that is new.
        env.run(&format!("cp {name}:/d {name}")).ok();
        env.run(&format!("cp {name}:/d/. {name}/contents")).ok();
        env.run(&format!("cp {name}:/ln/sub {name}/new")).ok();
        for file in ["d/sub/two", "contents/sub/two", "new/two"] {
            assert_eq!(fs::read_to_string(at(file)).unwrap(), "two\n", "{name}: {file}");
        }
        assert_eq!(fs::read_link(at("d/link")).unwrap().to_str(), Some("one"));
        // A link is a link, unless it is to be followed.
        env.run(&format!("cp {name}:/d/link {name}/l")).ok();
        env.run(&format!("cp -L {name}:/d/link {name}/followed")).ok();
        assert!(fs::symlink_metadata(at("l")).unwrap().is_symlink());
        assert!(fs::symlink_metadata(at("followed")).unwrap().is_file());
        env.run(&format!("cp {name}:/no/such {name}")).fails_with(1, "no such file or directory");
        env.run(&format!("cp {name}:/d {name}/one")).fails_with(1, "cannot copy a directory onto");
        env.run(&format!("cp {name}:/d/one {name}/nowhere/")).fails_with(1, "no such directory");
        env.run(&format!("cp {name}:/d/one {name}/nowhere/x")).fails_with(1, "nowhere");
        env.run(&format!("cp {name}:/d -")).prints_tar([
            "d/",
            "d/link",
            "d/one",
            "d/sub/",
            "d/sub/two",
        ]);
    }
    env.run("cp no-such:/f .").fails_with(1, "No such container: no-such");
    env.run("cp ./a ./b").fails_with(1, "must specify at least one container source");
    env.run("cp up: .").fails_with(1, "the path is missing");
}

#[test]
fn cp_brings_files_in() {
    let env = two();
    fs::create_dir_all(env.path("src/deep")).unwrap();
    fs::write(env.path("src/deep/f"), "from outside\n").unwrap();
    symlink("/etc/passwd", env.path("src/l")).unwrap();
    for name in ["up", "down"] {
        env.run(&format!("cp src/deep/f {name}:/tmp")).ok();
        env.run(&format!("cp src/deep/f {name}:/tmp/g")).ok();
        env.run(&format!("cp src {name}:/d")).ok();
        env.run(&format!("cp src/. {name}:/fresh")).ok();
        // Through a link that leads somewhere in the container, and nowhere else.
        env.run(&format!("cp src/deep/f {name}:/ln/through")).ok();
        env.run(&format!("cp src/deep/f {name}:/d/link")).ok();
        env.run(&format!("cp src/deep/f {name}:/no/such/place")).fails_with(1, "no such file");
        env.run(&format!("cp src {name}:/d/one")).fails_with(1, "cannot copy a directory onto");
        env.run(&format!("cp no-such {name}:/tmp")).fails_with(1, "no such file or directory");
    }
    for name in ["up", "down"] {
        let text = |path: &str| {
            let tar = env.run(&format!("cp -L {name}:{path} -"));
            let mut archive = tar::Archive::new(tar.bytes());
            let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
            let owner = (entry.header().uid().unwrap(), entry.header().gid().unwrap());
            let text = std::io::read_to_string(&mut entry).unwrap();
            drop(tar.ok());
            (owner, text)
        };
        for path in ["/tmp/f", "/tmp/g", "/d/src/deep/f", "/fresh/deep/f", "/d/through"] {
            assert_eq!(text(path), ((0, 0), "from outside\n".to_owned()), "{name}: {path}");
        }
    }
    env.run("exec up cat /d/one").prints("from outside\n");
    env.run("exec up readlink /d/src/l").prints("/etc/passwd\n");
}

#[test]
fn cp_between_containers_and_through_pipes() {
    let env = two();
    env.run("cp up:/d down:/from-up").ok();
    env.run("cp -a down:/from-up/one up:/kept").ok();
    env.run("exec up cat /kept").prints("one\n");
    env.run("cp up:/d up:/e").fails_with(1, "within one container");
    let tar = env.run("cp up:/d -");
    let bytes = tar.bytes().to_vec();
    drop(tar.ok());
    env.run_with_stdin("cp - up:/tmp", bytes.clone()).ok();
    env.run("exec up sh -c 'cat /tmp/d/sub/two; stat -c %u:%g:%a /tmp/d/one'")
        .prints("two\n5:6:640\n");
    env.run_with_stdin("cp - up:/no-such", bytes.clone()).fails_with(1, "/no-such: no such file");
    env.run_with_stdin("cp - up:/kept", bytes).fails_with(1, "not a directory");
    env.run_with_stdin("cp - up:/tmp", "no tar at all, and more of it").fails_with(1, "tar");
}

#[test]
fn cp_sees_mounts() {
    let env = Env::with("busy", BUSY);
    let host = env.path("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("f"), "shared\n").unwrap();
    let host = host.to_str().unwrap();
    env.run(&format!("create --name down -v {host}:/mnt --network none busy true")).ok();
    env.run(&format!("run -d --name up -v {host}:/mnt --network none busy sleep 1000")).ok();
    for name in ["up", "down"] {
        env.run(&format!("cp {name}:/mnt/f got-{name}")).ok();
        assert_eq!(fs::read_to_string(env.path(&format!("got-{name}"))).unwrap(), "shared\n");
        env.run(&format!("cp got-{name} {name}:/mnt/back-{name}")).ok();
        let back = env.path("host").join(format!("back-{name}"));
        assert_eq!(fs::read_to_string(back).unwrap(), "shared\n");
    }
    assert!(env.leftovers().iter().all(|left| !left.starts_with("mount")), "mounts stayed");
}

#[test]
fn diff_tells_what_changed() {
    let env = two();
    for name in ["up", "down"] {
        env.run(&format!("diff {name}"))
            .prints("A /d\nA /d/link\nA /d/one\nA /d/sub\nA /d/sub/two\nA /ln\nA /ready\n");
    }
    env.run("exec up sh -c 'rm /etc/group; echo x >> /etc/passwd; rm -r /home; mkdir -p /home/me; rm /ready'").ok();
    env.run("diff up").prints(
        "A /d\nA /d/link\nA /d/one\nA /d/sub\nA /d/sub/two\nC /etc\nD /etc/group\nC /etc/passwd\nC /home\nA /home/me\nA /ln\n",
    );
    env.run("diff --format json down").shows("\"added\"");
    env.run("diff --format '{{.Kind}}={{.Path}}' down").shows("A=/ready\n");
    env.run("diff no-such").fails_with(1, "No such container: no-such");
    env.run("create --name fresh --network none busy true").ok();
    env.run("diff fresh").prints("");
}

#[test]
fn export_writes_the_whole_file_system() {
    let env = two();
    env.run("export -o up.tar up").prints("");
    env.run("export -o down.tar down").prints("");
    for name in ["up", "down"] {
        let file = fs::File::open(env.path(&format!("{name}.tar"))).unwrap();
        let mut found = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(file).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            let about = (header.uid().unwrap(), header.mode().unwrap(), header.size().unwrap());
            found.insert(entry.path().unwrap().to_str().unwrap().to_owned(), about);
        }
        assert_eq!(found.get("d/one"), Some(&(5, 0o640, 4)), "{name}: {found:?}");
        assert!(found.contains_key("bin/busybox") && found.contains_key("proc/"), "{name}");
        let mounted = found.keys().find(|path| path.starts_with("proc/") && *path != "proc/");
        assert_eq!(mounted, None, "{name}");
        env.run(&format!("import {name}.tar again:{name}")).ok();
        env.run(&format!("run --rm --network none again:{name} cat /d/sub/two")).prints("two\n");
    }
    env.run("export -o /no/such/dir/x up").fails_with(1, "/no/such/dir/x");
}

#[test]
fn commit_makes_an_image_that_runs() {
    let env = two();
    env.run("exec up sh -c 'rm /etc/group; rm -r /home; mkdir -p /home/me'").ok();
    let id = env
        .run("commit -a 'Jane <j@e>' -m 'why not' -c 'CMD [\"cat\", \"/d/one\"]' -c 'ENV A=1' up made:one")
        .text();
    assert!(id.starts_with("sha256:"), "{id}");
    env.run("run --rm --network none made:one").prints("one\n");
    env.run("run --rm --network none made:one sh -c 'echo $A; stat -c %u:%g:%a /d/one; ls -A /home; test -e /etc/group || echo gone; readlink /d/link'")
        .prints("1\n5:6:640\nme\ngone\none\n");
    env.run("exec up true").ok();
    let about = env.run("inspect made:one").json();
    assert_eq!(
        (&about[0]["Author"], &about[0]["Comment"]),
        (&"Jane <j@e>".into(), &"why not".into())
    );
    assert_eq!(about[0]["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    // On top of that again, of a container that does not run, without a name.
    env.run("run --name next --network none made:one sh -c 'rm -r /d; echo 2 > /second'").ok();
    let second = env.run("commit --pause=false --iidfile iid next").text();
    assert_eq!(fs::read_to_string(env.path("iid")).unwrap(), second);
    env.run(&format!(
        "run --rm --network none {second} sh -c 'cat /second; test -e /d || echo gone'"
    ))
    .prints("2\ngone\n");
    env.run("commit -c 'RUN x' up").fails_with(1, "cannot be applied here");
    env.run("commit --format other up").fails_with(1, "unknown manifest format \"other\"");
    env.run("commit -q --format docker up made:docker").ok();
    env.run("save --format oci-dir -o docker made:docker").ok();
    let blobs = fs::read_dir(env.path("docker/blobs/sha256")).unwrap().flatten();
    let texts: Vec<_> = blobs.filter_map(|blob| fs::read_to_string(blob.path()).ok()).collect();
    let is_manifest = |text: &&String| text.contains("vnd.docker.distribution.manifest.v2+json");
    let manifest: Value = serde_json::from_str(texts.iter().find(is_manifest).unwrap()).unwrap();
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    for layer in manifest["layers"].as_array().unwrap() {
        let kind = layer["mediaType"].as_str().unwrap();
        assert!(kind.starts_with("application/vnd.docker.image.rootfs.diff.tar"), "{kind}");
    }
    env.run("run --rm --network none made:docker true").ok();
    env.run("commit no-such").fails_with(1, "No such container: no-such");
}
