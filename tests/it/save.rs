//! `dhow save` and `dhow image cp`: what is written, that others can read it, and that it comes
//! back the same.

use std::{fs, path::Path, process::Command};

use crate::{
    env::Env,
    fixture::{BUSY, Compression, Image},
    needs::needs,
    registry::Registry,
};

const FORMATS: [&str; 4] = ["docker-archive", "oci-archive", "oci-dir", "docker-dir"];

fn packed(env: &Env, name: &str, text: &str, how: Compression) {
    env.run_with_stdin("load -q", Image::parse(text).oci_archive(name, how)).exits(0);
}

#[track_caller]
fn id(env: &Env, name: &str) -> String {
    env.run(&format!("images -q --no-trunc {name}")).text()
}

/// What skopeo says of an image; its opinion of a right archive is not ours.
#[track_caller]
fn skopeo(env: &Env, line: &[&str]) -> String {
    let out = Command::new("skopeo")
        .args(["--insecure-policy", "--override-os", "linux"])
        .args(line)
        .env("HOME", env.path(""))
        .output()
        .unwrap();
    assert!(out.status.success(), "skopeo {line:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn what_is_saved_comes_back_the_same() {
    for packing in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let env = Env::new();
        packed(&env, "some/app:1", &format!("{BUSY}\n---\n/b 0644 b"), packing);
        for format in FORMATS {
            let out = env.path(format);
            env.run(&format!("save --format {format} -o {} some/app:1", out.display())).prints("");
            let other = Env::new();
            let says = match format {
                "docker-dir" => format!("Loaded image ID: {}\n", id(&env, "some/app:1")),
                _ => "Loaded image: some/app:1\n".to_owned(),
            };
            other.run(&format!("load -q -i {}", out.display())).prints(&says);
            let loaded = other.run("images -q --no-trunc").text();
            assert_eq!(loaded, id(&env, "some/app:1"), "{packing:?} {format}");
            // Before there is a container, which is still being removed when its command ends.
            other.run("system check").shows("The store is whole: 1 images");
            other.run(&format!("run --rm --network none {loaded} cat /b")).prints("b\n");
        }
    }
}

#[test]
fn the_same_images_are_the_same_bytes() {
    let env = Env::new();
    packed(&env, "app:1", BUSY, Compression::Gzip);
    packed(&env, "app:2", &format!("{BUSY}\n---\n/b 0644 b"), Compression::Gzip);
    env.run("tag app:1 other:x").prints("");
    let other = Env::new();
    for options in ["", "--format oci-archive", "--uncompressed", "-m -q"] {
        let first = env.run(&format!("save {options} app:1 app:2 other:x")).exits(0);
        let out = env.path("out.tar");
        env.run(&format!("save {options} -o {} app:1 app:2 other:x", out.display())).prints("");
        assert_eq!(bytes(&out), first.bytes, "{options}: to a file and to stdout");
        let loaded = other.run(&format!("load -q -i {}", out.display())).ok();
        let mut lines: Vec<_> = loaded.stdout.lines().collect();
        lines.sort_unstable();
        let says = ["Loaded image: app:1", "Loaded image: app:2", "Loaded image: other:x"];
        assert_eq!(lines, says, "{options}");
        if !options.contains("uncompressed") {
            // Also from another store that got it from here.
            let again = other.run(&format!("save {options} app:1 app:2 other:x")).exits(0);
            assert_eq!(again.bytes, first.bytes, "{options}: from another store");
        }
    }
    // A repository alone is all its tags, an id has no name.
    let all = env.run("save app").exits(0);
    let third = Env::new();
    let said = third.run_with_stdin("load -q", all.bytes).ok();
    assert_eq!(said.stdout.lines().count(), 2, "{}", said.stdout);
    let nameless = env.run(&format!("save {}", id(&env, "app:1"))).exits(0);
    Env::new().run_with_stdin("load -q", nameless.bytes).shows("Loaded image ID: sha256:");
}

#[test]
fn others_read_what_is_saved() {
    needs!(tool("skopeo"));
    for packing in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let env = Env::new();
        packed(&env, "some/app:1", &format!("{BUSY}\n---\n/b 0644 b"), packing);
        let id = id(&env, "some/app:1");
        for (format, transport, name) in [
            ("docker-archive", "docker-archive", ":some/app:1"),
            ("oci-archive", "oci-archive", ""),
            ("docker-archive", "oci-archive", ""),
            ("oci-dir", "oci", ":docker.io/some/app:1"),
            ("docker-dir", "dir", ""),
        ] {
            let out = env.path("out");
            env.run(&format!("save --format {format} -o {} some/app:1", out.display())).prints("");
            let source = format!("{transport}:{}{name}", out.display());
            let config = skopeo(&env, &["inspect", "--config", "--raw", &source]);
            assert_eq!(
                format!("sha256:{}", sha256(config.trim_end_matches('\n').as_bytes())),
                id,
                "{packing:?} {format}"
            );
            // Reads every layer, and holds it against its diffID.
            let copy = env.path("copy.tar");
            let target = format!("docker-archive:{}:x/y:1", copy.display());
            skopeo(&env, &["copy", "-q", &source, &target]);
            env.run(&format!("load -q -i {}", copy.display())).prints("Loaded image: x/y:1\n");
            env.run("run --rm --network none x/y:1 cat /b").prints("b\n");
            for path in [&out, &copy] {
                fs::remove_dir_all(path).or_else(|_| fs::remove_file(path)).unwrap();
            }
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    dhow::oci::Digest::of(bytes).hex().to_owned()
}

#[test]
fn what_cannot_be_saved_leaves_nothing() {
    let env = Env::with("app", "/a 0644 a");
    env.image("two", "/b 0644 b");
    let out = env.path("out");
    let save = |line: &str| env.run(&format!("save -o {} {line}", out.display()));
    save("nosuch").fails_with(1, "No such image: nosuch");
    save("app nosuch").fails_with(1, "No such image: nosuch");
    save("--format tar app").fails_with(1, "unknown format \"tar\"");
    save("--format docker-dir app two").fails_with(1, "a dir: holds one image");
    save("--platform linux/s390x app").fails_with(1, "not for linux/s390x");
    save("").exits(125).prints("");
    env.run("save --format oci-dir app").fails_with(1, "oci-dir is a directory");
    env.run("save -o /nosuch/dir/x app").fails_with(1, "unable to validate output path");
    env.run(&format!("save -o {} app", env.path("").display())).fails_with(1, "is a directory");
    assert!(!out.exists());
    let tty = env.pty("save app", |_| {});
    assert!(tty.exits(1).stdout.contains("cowardly refusing to save to a terminal"));

    let full = env.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "kept").unwrap();
    let line = format!("save --format oci-dir -o {} app", full.display());
    env.run(&line).fails_with(1, "is not empty");
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);

    // A file that is there is replaced only by a whole archive.
    fs::write(&out, "old").unwrap();
    let blobs = env.root().join("blobs/sha256");
    for blob in fs::read_dir(blobs).unwrap() {
        let path = blob.unwrap().path();
        let mut content = bytes(&path);
        let last = content.len() - 1;
        content[last] ^= 1;
        fs::write(path, content).unwrap();
    }
    let damaged = save("app").exits(1).prints("");
    assert!(damaged.stderr.contains("is damaged on disk"), "{}", damaged.stderr);
    assert_eq!(fs::read_to_string(&out).unwrap(), "old");
    let left: Vec<_> =
        fs::read_dir(env.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".tmp")), "{left:?}");
}

#[test]
fn an_archive_for_another_platform_is_refused_where_one_is_named() {
    let env = Env::new();
    let archive =
        env.file("a.tar", Image::parse("/a 0644 a\nARCHITECTURE s390x").docker_archive("app"));
    env.run(&format!("load -q --platform linux/amd64 -i {archive}"))
        .fails_with(1, "the archive has no image for linux/amd64");
    assert_eq!(fs::read_dir(env.root().join("images")).unwrap().count(), 0);
    env.run(&format!("load -q --platform linux/s390x -i {archive}"))
        .prints("Loaded image: app:latest\n");
    env.run("rmi app").exits(0);
    env.run(&format!("load -q --platform nonsense/x/y/z -i {archive}")).exits(1);
    env.run(&format!("load -q -i {archive}")).prints("Loaded image: app:latest\n");
    env.run(&format!("load -i {}", env.path("x").display())).exits(1);
}

// ---- image cp -----------------------------------------------------------------------------------

#[test]
fn an_image_goes_from_any_place_to_any_other() {
    let env = Env::new();
    packed(&env, "app:1", BUSY, Compression::Gzip);
    let id = id(&env, "app:1");
    let dir = env.path("");
    let at = |place: &str| place.replace('@', dir.to_str().unwrap());
    let places =
        ["docker-archive:@/a.tar:x:1", "oci:@/layout:v1", "dir:@/d", "oci-archive:@/o.tar:x:2"];
    let mut from = "app:1".to_owned();
    for place in places {
        let to = at(place);
        env.run(&format!("image cp -q {from} {to}")).prints(&format!("{id}\n"));
        from = to;
    }
    env.run("rmi app:1").shows("Deleted: ");
    for (from, name) in places.iter().zip(["one", "two", "three", "four"]) {
        env.run(&format!("image cp -q {} {name}:1", at(from))).prints(&format!("{id}\n"));
        env.run(&format!("run --rm --network none {name}:1 echo {name}"))
            .prints(&format!("{name}\n"));
    }
    env.run("images --format {{.Repository}}:{{.Tag}}")
        .prints_lines(["four:1", "one:1", "three:1", "two:1"]);
    let piped = env.run("image cp -q one:1 docker-archive:-:piped:1").exits(0);
    Env::new().run_with_stdin("load -q", piped.bytes).prints("Loaded image: piped:1\n");
    env.run("system check").shows("The store is whole: 1 images");
}

#[test]
fn a_registry_is_a_place_too() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let name = registry.push(&env, "app:1", BUSY, Compression::Gzip);
    let out = env.path("a.tar");
    env.run(&format!(
        "image cp --tls-verify=false -q docker://{name} docker-archive:{}",
        out.display()
    ))
    .shows("sha256:");
    env.run("images -q").prints("");
    env.run(&format!("load -q -i {}", out.display())).prints(&format!("Loaded image: {name}\n"));
    env.run(&format!("image cp --tls-verify=false -q docker://{name} own:1")).shows("sha256:");
    env.run("run --rm --network none own:1 echo hello").prints("hello\n");
    // There, from here, from files and from another repository.
    let id = id(&env, "own:1");
    for (from, to) in [
        ("own:1".to_owned(), "from/here:1"),
        (format!("docker-archive:{}", out.display()), "from/files:1"),
        (format!("docker://{name}"), "from/there:1"),
    ] {
        let to = registry.name(to);
        env.run(&format!("image cp --tls-verify=false -q {from} docker://{to}"))
            .prints(&format!("{id}\n"));
        env.run(&format!("pull -q --tls-verify=false {to}")).exits(0);
        env.run(&format!("images -q --no-trunc {to}")).prints(&format!("{id}\n"));
    }
    assert_eq!(env.stored("staging"), Vec::<String>::new());
}

#[test]
fn places_that_are_none_are_refused() {
    let env = Env::with("app", "/a 0644 a");
    env.image("two", "/b 0644 b");
    let out = env.path("out");
    let out = out.display();
    let both = env.path("both.tar");
    env.run(&format!("save -o {} app two", both.display())).prints("");
    for (line, says) in [
        (format!("nosuch dir:{out}"), "No such image: nosuch"),
        (format!("docker-archive:/nosuch.tar dir:{out}"), "/nosuch.tar"),
        (format!("docker-daemon:app:1 dir:{out}"), "docker-daemon: is nothing that dhow copies"),
        ("app dir:".to_owned(), "names no path"),
        ("app oci:".to_owned(), "names no path"),
        (format!("docker-archive:{} dir:{out}", both.display()), "it holds several images"),
        (format!("docker-archive:{}:three:1 dir:{out}", both.display()), "no image of that name"),
        (format!("--platform linux/s390x app dir:{out}"), "not for linux/s390x"),
        ("app dir:/nosuch/x".to_owned(), "unable to validate output path"),
    ] {
        env.run(&format!("image cp -q {line}")).fails_with(1, says);
        assert!(!env.path("out").exists(), "{line}");
    }
    assert_eq!(env.stored("staging"), Vec::<String>::new());
    env.run(&format!("image cp -q docker-archive:{}:two:latest dir:{out}", both.display()))
        .exits(0);
}
