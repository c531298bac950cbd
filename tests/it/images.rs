//! `dhow images` and `dhow rmi`, the image dhow carries in itself, and stores that are damaged,
//! full, read-only or of another time.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use insta::assert_snapshot;

use crate::{
    env::Env,
    fixture::{BUSY, Image},
    needs::needs,
};

/// The id that `docker images -q` would print.
#[track_caller]
fn id(env: &Env, name: &str) -> String {
    env.run(&format!("images -q {name}")).text()
}

/// An image as an archive with these names.
fn named(text: &str, names: &[&str]) -> Vec<u8> {
    let archive = Image::parse(text).docker_archive("placeholder");
    let names = names.join("\",\"");
    // Of the same length or not: manifest.json is written anew.
    crate::load::rewrite(&archive, |name, content| match name {
        "manifest.json" => {
            String::from_utf8(content).unwrap().replace("placeholder:latest", &names).into_bytes()
        }
        _ => content,
    })
}

/// Loads one image under several names.
#[track_caller]
fn load(env: &Env, text: &str, names: &[&str]) {
    env.run_with_stdin("load -q", named(text, names)).exits(0);
}

// ---- the list -----------------------------------------------------------------------------------

#[test]
fn the_list_looks_like_dockers() {
    let env = Env::new();
    env.run("images").prints("REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n");
    load(&env, "/a 0644 a", &["app:1", "app:2", "quay.io/x/y:z"]);
    load(&env, "/b 0644 b\\n", &["localhost/own:latest"]);
    let list = |options: &str| {
        let text = env.run(&format!("images {options}")).text();
        regex::Regex::new(r"\d+ years ago")
            .unwrap()
            .replace_all(&env.tidy(&text), "[YEARS]  ")
            .into_owned()
    };
    let mut lines: Vec<_> = list("").lines().map(str::to_owned).collect();
    lines.sort();
    assert_snapshot!(lines.join("\n"), @r"
    REPOSITORY      TAG       IMAGE ID       CREATED        SIZE
    app             1         [ID]   [YEARS]     2B
    app             2         [ID]   [YEARS]     2B
    localhost/own   latest    [ID]   [YEARS]     3B
    quay.io/x/y     z         [ID]   [YEARS]     2B
    ");
    assert_snapshot!(list("--digests --no-trunc app"), @r"
    REPOSITORY   TAG       DIGEST    IMAGE ID                                                                  CREATED        SIZE
    app          1         <none>    sha256:[ID]   [YEARS]     2B
    app          2         <none>    sha256:[ID]   [YEARS]     2B
    ");
    env.run("images --format '{{.Repository}}:{{.Tag}} {{.Size}} {{.CreatedAt}}' app:1")
        .prints("app:1 2B 2001-02-03 04:05:06 +0000 UTC\n");
    env.run("images --format 'table {{.Tag}}\\t{{.Repository}}' app:1")
        .prints("TAG       REPOSITORY\n1         app\n");
    let json = env.run("images --format json app:1").json();
    assert_eq!(json["Repository"], "app");
    assert_eq!(json["ID"], id(&env, "app:1"));
    let whole = env.run("images -q --no-trunc app:1").text();
    assert_eq!(&whole[..19], format!("sha256:{}", id(&env, "app:1")));
}

#[test]
fn the_list_is_filtered_as_dockers_is() {
    let env = Env::new();
    load(&env, "/a 0644 a\nLABEL tier=web", &["app:1", "app:22", "quay.io/x/app:1"]);
    load(&env, "/b 0644 b\nLABEL tier=db\nLABEL x=", &["base:1"]);
    let list = |options: &str| {
        let text = env
            .run(&format!("images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' {options}"))
            .text();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(list("app"), "app:1 app:22");
    assert_eq!(list("app:1"), "app:1");
    assert_eq!(list("'app:*'"), "app:1 app:22");
    assert_eq!(list("'*:1'"), "app:1 base:1");
    assert_eq!(list("'*/*/*:?'"), "quay.io/x/app:1");
    assert_eq!(list("--filter reference=base"), "base:1");
    assert_eq!(list("--filter reference=app:22"), "app:22");
    assert_eq!(list("--filter label=tier=web"), "app:1 app:22 quay.io/x/app:1");
    assert_eq!(list("--filter label=x"), "base:1");
    assert_eq!(
        list("--filter label=tier --filter dangling=false"),
        "app:1 app:22 base:1 quay.io/x/app:1"
    );
    assert_eq!(list("--filter dangling=true"), "");
    assert_eq!(list("docker.io/library/app:1"), "app:1");
    assert_eq!(list("nothing"), "");
    assert_eq!(list("--filter reference=base --filter 'reference=app:?'"), "app:1 base:1");
    env.run("images --filter colour=red").fails_with(1, "invalid filter 'colour'");
    env.run("images --filter dangling=maybe").fails_with(1, "invalid filter 'dangling=maybe'");
    env.run("images --format '{{.Colour}}'").exits(1);
}

#[test]
fn images_are_older_or_younger_than_others() {
    let env = Env::new();
    let hex = regex::Regex::new("[0-9a-f]{64}.json").unwrap();
    for (name, time) in [("old", "1999-01-01"), ("mid", "2001-01-01"), ("new", "2003-01-01")] {
        let archive = Image::parse(&format!("/{name} 0644 {name}")).docker_archive(name);
        let config = |content: Vec<u8>| {
            String::from_utf8(content)
                .unwrap()
                .replace("2001-02-03T04:05:06Z", &format!("{time}T00:00:00Z"))
        };
        // Without its digest for a name, which is another's now.
        let archive = crate::load::rewrite_names(&archive, |file, content| {
            if file == "manifest.json" {
                let text = String::from_utf8(content).unwrap();
                return (file.to_owned(), hex.replace(&text, "config").into_owned().into_bytes());
            }
            if file.ends_with(".json") {
                return ("config".to_owned(), config(content).into_bytes());
            }
            (file.to_owned(), content)
        });
        env.run_with_stdin("load -q", archive).exits(0);
    }
    let list =
        |options: &str| env.run(&format!("images --format {{{{.Repository}}}} {options}")).text();
    assert_eq!(list(""), "new\nmid\nold", "the youngest first");
    assert_eq!(list("--filter before=mid"), "old");
    assert_eq!(list("--filter since=mid"), "new");
    assert_eq!(list("--filter since=old --filter before=new"), "mid");
    env.run("images --filter since=missing").fails_with(1, "No such image: missing");
}

#[test]
fn image_is_another_way_to_say_it() {
    let env = Env::with("app", "/a 0644 a");
    assert_eq!(env.run("image ls").text(), env.run("images").text());
    env.run("image rm app").shows("Untagged: app:latest\n");
    env.run("images -q").prints("");
}

// ---- removing -----------------------------------------------------------------------------------

#[test]
fn the_last_name_takes_the_image_along() {
    let env = Env::new();
    load(&env, "/a 0644 a\n---\n/b 0644 b", &["app:1", "app:2"]);
    let id = id(&env, "app:1");
    env.run("rmi app:2").prints("Untagged: app:2\n");
    env.run("rmi app:2").fails_with(1, "No such image: app:2");
    let last = env.run("rmi app:1").ok();
    assert_snapshot!(env.tidy(&last.stdout), @r"
    Untagged: app:1
    Deleted: sha256:[ID]
    Deleted: sha256:[ID]
    Deleted: sha256:[ID]
    ");
    assert!(last.stdout.contains(&format!("Deleted: sha256:{id}")), "the image's own id is first");
    env.run("images -q").prints("");
    for dir in ["images", "refs", "layers", "staging", "blobs/sha256"] {
        assert_eq!(env.stored(dir), Vec::<String>::new(), "{dir}");
    }
}

#[test]
fn an_id_with_several_names_must_be_forced() {
    let env = Env::new();
    load(&env, "/a 0644 a", &["app:1", "other:1"]);
    let id = id(&env, "app:1");
    env.run(&format!("rmi {}", &id[..6])).fails_with(
        1,
        &format!("Error: conflict: unable to delete {id} (must be forced) - image is referenced in multiple repositories\n"),
    );
    env.run(&format!("rmi -f {id}")).shows("Untagged: app:1\nUntagged: other:1\nDeleted: sha256:");
    env.run("images -q").prints("");
}

#[test]
fn several_are_removed_and_each_failure_told() {
    let env = Env::new();
    load(&env, "/a 0644 a", &["a:1"]);
    load(&env, "/b 0644 b", &["b:1"]);
    let run = env.run("rmi a:1 missing b:1").exits(1).tells("Error: No such image: missing");
    assert_eq!(run.stdout.matches("Untagged: ").count(), 2, "{}", run.stdout);
    env.run("images -q").prints("");
    env.run("rmi -f missing").prints("");
}

#[test]
fn what_a_container_is_made_of_stays() {
    let env = Env::with("app", BUSY);
    let image = id(&env, "app");
    let running = env.run("run -d --network none app sleep 1000").text();
    let running = &running[..12];
    env.run("rmi app").fails_with(
        1,
        &format!("Error: conflict: unable to remove repository reference \"app\" (must force) - container {running} is using its referenced image {image}\n"),
    );
    env.run(&format!("rmi -f {image}")).fails_with(
        1,
        &format!("Error: conflict: unable to delete {image} (cannot be forced) - image is being used by running container {running}\n"),
    );
    // By force the name goes, as docker lets it; the image stays with its container.
    env.run("rmi -f app").prints("Untagged: app:latest\n");
    env.run("images --format '{{.Repository}} {{.Tag}} {{.ID}}'")
        .prints(&format!("<none> <none> {image}\n"));
    env.run(&format!("exec {running} echo alive")).prints("alive\n");

    env.run(&format!("kill {running}")).exits(0);
    env.run(&format!("wait {running}")).prints("137\n");
    env.run(&format!("rmi {image}")).fails_with(
        1,
        &format!("Error: conflict: unable to delete {image} (must be forced) - image is being used by stopped container {running}\n"),
    );
    env.run(&format!("rmi -f {image}")).shows("Deleted: sha256:");
    env.run("images -q").prints("");
    // Its layers are still there for it.
    env.run(&format!("start {running}")).exits(0);
    env.run(&format!("exec {running} echo alive")).prints("alive\n");
}

#[test]
fn a_name_given_anew_leaves_the_old_image_without_one() {
    let env = Env::with("app", "/a 0644 one");
    let old = id(&env, "app");
    env.image("app", "/a 0644 two");
    assert_ne!(id(&env, "app"), old);
    env.run("images -q --filter dangling=true").prints(&format!("{old}\n"));
    env.run(&format!("rmi {old}")).shows("Deleted: sha256:");
    env.run("images --format '{{.Repository}}'").prints("app\n");
}

#[test]
fn short_names_find_local_images_first() {
    let env = Env::new();
    load(&env, &format!("{BUSY}\n/which 0644 own"), &["localhost/app:latest"]);
    let which = |name: &str| env.run(&format!("run --rm --network none {name} cat /which")).text();
    assert_eq!(which("app"), "own");
    assert_eq!(which("localhost/app"), "own");
    load(&env, &format!("{BUSY}\n/which 0644 library"), &["app:latest"]);
    assert_eq!(which("app"), "library", "the whole name goes before the local one");
    assert_eq!(which("docker.io/library/app"), "library");
    assert_eq!(which("localhost/app:latest"), "own");
    assert_eq!(which(&id(&env, "localhost/app")), "own");
    env.run("rmi app").shows("Untagged: app:latest\n");
    env.run("rmi app").shows("Untagged: localhost/app:latest\n");
}

#[test]
fn those_who_load_run_and_remove_at_once_do_not_disturb_each_other() {
    let env = Env::new();
    let archives = ["one", "two"].map(|word| {
        env.file(&format!("{word}.tar"), named(&format!("{BUSY}\n---\n/w 0644 {word}"), &["app:1"]))
    });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..6 {
                env.run(&format!("load -q -i {}", archives[turn % 2]))
                    .prints("Loaded image: app:1\n");
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..6 {
                    let run = env.run("run --rm --network none --pull never app:1 cat /w");
                    match run.code {
                        0 => assert!(["one\n", "two\n"].contains(&run.ok().stdout.as_str())),
                        _ => drop(run.fails_with(125, "No such image: app:1")),
                    }
                }
            });
            scope.spawn(|| {
                for _ in 0..6 {
                    let run = env.run("rmi -f app:1").exits(0);
                    assert_eq!(run.stderr, "");
                }
            });
        }
    });
    assert_eq!(env.stored("staging"), Vec::<String>::new());
    env.run(&format!("load -q -i {}", archives[0])).exits(0);
    env.run("run --rm --network none app:1 cat /w").prints("one\n");
}

// ---- the image that is always there -------------------------------------------------------------

#[test]
fn hello_needs_nothing() {
    let env = Env::new();
    env.run("run --rm --network none dhow/hello").shows("Hello from dhow!");
    env.run("images --format '{{.Repository}}:{{.Tag}}'").prints("dhow/hello:latest\n");
    let first = id(&env, "dhow/hello");
    env.run("run --rm --network none dhow/hello").shows("Hello from dhow!");
    assert_eq!(id(&env, "dhow/hello"), first);
    env.run("pull -q dhow/hello").prints("docker.io/dhow/hello:latest\n");
    env.run("rmi dhow/hello").shows("Untagged: dhow/hello:latest\n");
    env.run("images -q").prints("");
}

#[test]
fn hello_follows_the_binary() {
    let env = Env::new();
    env.run("run --rm --network none dhow/hello").shows("Hello from dhow!");
    let first = id(&env, "dhow/hello");
    let program = env.command("").get_program().to_owned();
    let newer = env.path("dhow");
    fs::copy(program, &newer).unwrap();
    fs::set_permissions(&newer, fs::Permissions::from_mode(0o755)).unwrap();
    fs::File::options()
        .append(true)
        .open(&newer)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    let like = env.command("run --rm --network none dhow/hello");
    let mut command = Command::new(&newer);
    command.args(like.get_args()).current_dir(env.path("")).env_clear();
    command.envs(like.get_envs().filter_map(|(key, value)| Some((key, value?))));
    env.run_command("the copy", command, Vec::new()).shows("Hello from dhow!");
    assert_ne!(id(&env, "dhow/hello"), first);
    env.run("images -q").prints(&format!("{}\n", id(&env, "dhow/hello")));
}

// ---- stores that are not as they should be ------------------------------------------------------

#[test]
fn a_damaged_record_is_named_with_the_remedy() {
    let env = Env::new();
    env.image("app", BUSY);
    let whole = env.run("images -q --no-trunc app").text();
    let record = env.root().join("images").join(&whole[7..]).join("image.json");
    let text = fs::read(&record).unwrap();
    fs::write(&record, &text[..text.len() / 2]).unwrap();
    env.image("other", "/other 0644 other");
    for (line, code) in [("images", 0), ("run --network none app true", 125)] {
        let told = env.run(line).exits(code);
        let told = told.tells(&format!("{} is damaged: EOF", record.display()));
        told.tells(&format!("hint: `dhow rmi -f {}`", &whole[7..19]));
    }
    env.run("images --format {{.Repository}}").exits(0).prints("other\n");
    env.run(&format!("rmi -f {}", &whole[7..19])).shows("Deleted: ");
    env.run("images --format {{.Repository}}").prints("other\n");
    env.image("app", BUSY);
    env.run("run --rm --network none app echo again").prints("again\n");
}

#[test]
fn a_damaged_name_is_named_with_the_remedy() {
    let env = Env::new();
    env.image("app", BUSY);
    let name = fs::read_dir(env.root().join("refs")).unwrap().next().unwrap().unwrap().path();
    fs::write(&name, "{").unwrap();
    env.image("other", "/other 0644 other");
    env.run("images --format {{.Repository}}")
        .warns(&format!("{} is damaged", name.display()))
        .tells("hint: ")
        .prints("other\n<none>\n");
    env.run("run --rm --network none app true").fails_with(125, "is damaged").tells("hint: ");
    env.run("run --rm --network none other /nothing").exits(127);
    env.run("rmi other").shows("Deleted: ");
    // Giving the name anew mends it.
    env.image("app", BUSY);
    env.run("run --rm --network none app echo mended").prints("mended\n");
}

#[test]
fn a_store_of_another_time_is_left_alone() {
    let env = Env::new();
    env.image("app", "/a 0644 a");
    let version = env.root().join("VERSION");
    fs::write(&version, "999\n").unwrap();
    env.run("images")
        .fails_with(1, &format!("{}: the store has version 999", version.display()))
        .tells("hint: use the newer dhow that wrote it");
    env.run("rmi app").fails_with(1, "version 999");
    fs::write(&version, "not a number").unwrap();
    env.run("images").fails_with(1, "this is not the version of a dhow store");
    fs::write(&version, "1\n").unwrap();
    env.run("images --format '{{.Repository}}'").prints("app\n");
}

#[test]
fn a_root_that_cannot_be_written_is_named() {
    let env = Env::new();
    let file = env.file("file", "");
    env.run(&format!("--root {file}/store images")).fails_with(1, &file);
}

mod as_root {
    use super::*;

    /// Runs a script in a mount namespace of its own, where `/mnt` is the given file system.
    #[track_caller]
    fn on_tmpfs(env: &Env, options: &str, script: &str) -> (i32, String) {
        let dhow = env.command("").get_program().to_owned();
        let out = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg(format!("mount -t tmpfs -o {options} tmpfs /mnt && {script}"))
            .env("DHOW", dhow)
            .env("DHOW_RUNROOT", env.runroot())
            .current_dir(env.path(""))
            .output()
            .unwrap();
        let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (out.status.code().unwrap(), text.concat())
    }

    #[test]
    fn a_full_disk_is_one_clear_error_and_nothing_stays() {
        needs!(root);
        let env = Env::new();
        env.file("app.tar", Image::parse(BUSY).docker_archive("app"));
        // Room for the archive's spooled layer, but not for its files too.
        for size in ["64k", "1m", "3m"] {
            let script = "$DHOW --root /mnt load -q -i app.tar; echo exit $?; $DHOW --root /mnt images -q; ls -A /mnt/images /mnt/layers /mnt/refs /mnt/staging | grep -v : | grep .";
            let (_, text) = on_tmpfs(&env, &format!("size={size}"), script);
            let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
            assert_eq!(lines.first(), Some(&"exit 1"), "{size}: {text}");
            assert!(lines[1].starts_with("Error: "), "{size}: {text}");
            assert!(lines[1].contains("No space left on device"), "{size}: {text}");
            assert_eq!(
                lines[2],
                "hint: free space on this file system, or move the store with --root"
            );
            assert_eq!(lines.len(), 3, "{size}: {text}");
        }
    }

    #[test]
    fn a_read_only_store_can_be_listed_and_refuses_the_rest() {
        needs!(root);
        let env = Env::new();
        env.file("app.tar", Image::parse(BUSY).docker_archive("app"));
        let script = "export DHOW_ROOT=/mnt; $DHOW load -q -i app.tar >/dev/null && mount -o remount,ro /mnt && \
            $DHOW images --format '{{.Repository}}' && ! $DHOW rmi app && ! $DHOW load -i app.tar && ! $DHOW run --network none app true";
        let (code, text) = on_tmpfs(&env, "size=64m", script);
        assert_eq!(code, 0, "{text}");
        assert!(text.starts_with("app\n"), "{text}");
        assert_eq!(text.matches("Error: ").count(), 3, "{text}");
        assert_eq!(text.matches("Read-only file system").count(), 3, "{text}");
        assert_eq!(text.matches("hint: this file system is read-only").count(), 3, "{text}");
    }
}

// ---- diff ---------------------------------------------------------------------------------------

#[test]
fn an_image_is_compared_with_what_is_below_it_or_with_another() {
    let env = Env::with("base:1", &format!("{BUSY}\n/etc/old 0644 old\n/gone/in/it 0644 x"));
    let script = "echo a > /newfile; mkdir -p /dir/sub; echo x > /dir/sub/f; chmod 700 /tmp; \
                  rm /etc/old; rm -r /gone";
    env.run(&format!("run --network none --name box base:1 sh -c '{script}'")).exits(0);
    env.run("commit -q box changed:1").exits(0);
    env.run("rm box").exits(0);
    let changed =
        "C /etc\nD /etc/old\nA /dir\nA /dir/sub\nA /dir/sub/f\nA /newfile\nC /tmp\nD /gone\n";
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort_by(|a, b| a[2..].cmp(&b[2..]));
        lines
    };
    let alone = env.run("image diff changed:1").text();
    assert_eq!(sorted(&alone), sorted(changed));
    assert_eq!(alone.lines().map(str::to_owned).collect::<Vec<_>>(), sorted(changed), "by name");
    env.run("image diff changed:1 base:1").prints(&format!("{alone}\n"));
    env.run("image diff base:1 changed:1").prints(
        "D /dir\nC /etc\nA /etc/old\nA /gone\nA /gone/in\nA /gone/in/it\nD /newfile\nC /tmp\n",
    );
    env.run("image diff base:1 base:1").prints("");
    let json = env.run("image diff --format json changed:1").json();
    assert_eq!(json["deleted"], serde_json::json!(["/etc/old", "/gone"]));
    env.run("image diff --format '{{.Kind}}' base:1 changed:1").shows("D\nC\nA\n");
    env.run("image diff base:1").shows("A /bin/busybox\n").shows("A /etc/old\n");

    // Of the same size and time, and yet not the same.
    env.image("one:1", "/f 0644 one\n/same 0644 x");
    env.image("two:1", "/f 0644 two\n/same 0644 x");
    env.run("image diff one:1 two:1").prints("C /f\n");
    env.run("image diff nosuch").fails_with(1, "No such image: nosuch");
    env.run("image diff one:1 nosuch").fails_with(1, "No such image: nosuch");
    env.run("image diff --format '{{.X}}' one:1 two:1").exits(1);
}

#[test]
fn the_order_of_the_list_is_asked_for() {
    let env = Env::new();
    for (name, text) in [("bb:1", "/a 0644 aaa"), ("aa:2", "/a 0644 b")] {
        env.image(name, text);
    }
    let sorted = |key: &str| {
        env.run(&format!("images --sort {key} --format {{{{.Repository}}}}:{{{{.Tag}}}}")).text()
    };
    assert_eq!(sorted("repository"), "aa:2\nbb:1");
    assert_eq!(sorted("tag"), "bb:1\naa:2");
    assert_eq!(sorted("size"), "aa:2\nbb:1");
    env.run("images --sort age").fails_with(1, "age is not a valid field for sorting");
    env.run("image inspect --platform linux/s390x aa:2").exits(1).tells("not for linux/s390x");
    let own = env.run("image inspect --format {{.Architecture}} aa:2").text();
    env.run(&format!("image inspect --platform linux/{} --format {{{{.Os}}}} aa:2", own.trim()))
        .prints("linux\n");
    env.run("inspect --platform linux/s390x aa:2").fails_with(1, "--platform is for images");
}

#[test]
fn what_platform_a_tar_is_for_is_said_in_parts() {
    let env = Env::new();
    let tar = env.file("root.tar", crate::fixture::layer("/a 0644 a"));
    env.run(&format!("import -q --os linux --arch arm --variant v7 {tar} arm")).exits(0);
    env.run("image inspect --format {{.Os}}/{{.Architecture}}/{{.Variant}} arm")
        .prints("linux/arm/v7\n");
    env.run(&format!("import --os linux --platform linux/arm {tar}")).fails_with(125, "--platform");
    env.run("pull --disable-content-trust=false x").fails_with(1, "there is no content trust");
    env.run("push --disable-content-trust=false x").fails_with(1, "there is no content trust");
    env.run("pull --arch arm --platform linux/arm x").fails_with(125, "--platform");
}
