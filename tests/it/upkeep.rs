//! `dhow system df`, `check`, `gc` and `reset`: stores that were tampered with, filled, thrown away.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    env::Env,
    fixture::{BUSY, Compression, Image},
    needs,
};

/// The only entry of a directory of the store.
#[track_caller]
fn only(env: &Env, dir: &str) -> PathBuf {
    let mut entries = fs::read_dir(env.root().join(dir)).unwrap();
    let path = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none(), "several in {dir}");
    path
}

fn count(env: &Env, dir: &str) -> usize {
    fs::read_dir(env.root().join(dir)).unwrap().count()
}

/// The blob that is packed with gzip: a layer.
fn layer_blob(env: &Env) -> PathBuf {
    let blobs = fs::read_dir(env.root().join("blobs/sha256")).unwrap();
    let mut paths = blobs.map(|blob| blob.unwrap().path());
    paths.find(|path| fs::read(path).unwrap().starts_with(&[0x1f, 0x8b])).unwrap()
}

fn packed(env: &Env, name: &str, text: &str) {
    let archive = Image::parse(text).oci_archive(name, Compression::Gzip);
    env.run_with_stdin("load -q", archive).exits(0);
}

// ---- df -----------------------------------------------------------------------------------------

#[test]
fn what_is_used_is_told_by_kind() {
    let env = Env::new();
    env.run("system df").prints(
        "TYPE                TOTAL     ACTIVE    SIZE      RECLAIMABLE\n\
         Images              0         0         0B        0B\n\
         Containers          0         0         0B        0B\n\
         Local Volumes       0         0         0B        0B\n\
         Partial Downloads   0         0         0B        0B\n",
    );
    env.image("app", &format!("{BUSY}\n---\n/a 0644 a"));
    env.image("two", &format!("{BUSY}\n---\n/b 0644 bbb"));
    env.run("create --network none --name c app true").exits(0);
    let id = env.run("images -q app").text();
    let partial = env.root().join("partial").join("0".repeat(64));
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("data"), [0; 1500]).unwrap();
    let row = |kind: &str, field: &str| {
        let text = env.run(&format!("system df --format '{{{{.Type}}}}|{{{{.{field}}}}}'")).text();
        let found = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix('|'));
        found.unwrap().to_owned()
    };
    assert_eq!(row("Images", "TotalCount"), "2");
    assert_eq!(row("Images", "Active"), "1");
    assert!(row("Images", "Reclaimable").ends_with("%)"));
    assert_eq!(row("Containers", "Active"), "0");
    assert_eq!(row("Partial Downloads", "Size"), "1.5kB");
    assert_eq!(row("Partial Downloads", "Reclaimable"), "1.5kB (100%)");

    let text = env.run("system df -v").text();
    let app = text.lines().find(|line| line.starts_with("app ")).unwrap();
    let words: Vec<_> = app.split_whitespace().collect();
    assert_eq!((words[2], words.last()), (id.as_str(), Some(&"1")), "{text}");
    assert_eq!(words[words.len() - 2], "2B", "what only app has: {text}");
    let json = env.run("system df -v --format json").json();
    assert_eq!(json["Images"].as_array().unwrap().len(), 2);
    assert_eq!(json["Containers"][0]["Names"], "c");
    assert!(env.run("system df --format json").text().lines().all(|line| line.starts_with('{')));
    env.run("system df -v --format '{{.Type}}'").fails_with(1, "with -v the format is");
    env.run("system df --format '{{.Nope}}'").exits(1);
}

// ---- check --------------------------------------------------------------------------------------

#[test]
fn a_whole_store_is_called_whole() {
    let env = Env::new();
    env.run("system check").prints(
        "The store is whole: 0 images, 0 layers, 0 blobs, 0 containers, 0 volumes, 0 networks.\n",
    );
    env.image("app", &format!("{BUSY}\n---\n/gone whiteout\n/a 0644 a\n/a 0644 again"));
    packed(&env, "packed", "/d/e/f 0644 f\n/link => d/e/f\n/pipe 0644 fifo");
    env.run("run -d --network none --name c app sleep 1000").exits(0);
    env.run("tag app other:1").prints("");
    let whole =
        "The store is whole: 2 images, 3 layers, 7 blobs, 1 containers, 0 volumes, 0 networks.\n";
    env.run("system check").prints(whole);
    env.run("system check --quick").prints(whole);
    env.run("system check --repair").prints(whole);
    env.run("rm -f c").exits(0);
    env.run("system check --format xml").fails_with(1, "invalid argument \"xml\" for --format");
    env.run("system check --force").exits(125).prints("");
}

/// Damages a store that holds one packed image; says what `check` tells of it, and whether it can
/// be mended so that a container runs again.
#[track_caller]
fn damaged(what: &str, damage: impl Fn(&Env), says: &str, mended: bool) {
    let env = Env::new();
    packed(&env, "app:1", BUSY);
    damage(&env);
    let found = env.run("system check").exits(1);
    assert!(found.stdout.contains(says), "{what}: {}", found.stdout);
    assert!(found.stdout.contains("fix: "), "{what}: {}", found.stdout);
    let again = env.run("system check").exits(1);
    assert_eq!(again.stdout, found.stdout, "{what}: looking changes nothing");
    let repair = env.run("system check --repair");
    assert_eq!(repair.code, i32::from(!mended), "{what}: {}{}", repair.stdout, repair.stderr);
    let repair = repair.exits(i32::from(!mended));
    assert!(repair.stdout.contains(says), "{what}: {}", repair.stdout);
    if !mended {
        env.run("system check --repair --force").exits(0);
        packed(&env, "app:1", BUSY);
    }
    env.run("system check").shows("The store is whole: 1 images");
    let names = env.run("images -q app:1").text();
    if names.is_empty() {
        packed(&env, "app:1", BUSY);
    }
    env.run("run --rm --network none app:1 echo runs").prints("runs\n");
}

#[test]
fn damaged_names_are_found_and_mended() {
    damaged("a cut name", |env| fs::write(only(env, "refs"), "{").unwrap(), "is damaged", true);
    let rename = |env: &Env| {
        let name = only(env, "refs");
        fs::rename(&name, name.with_file_name(format!("{}.json", "0".repeat(64)))).unwrap();
    };
    damaged("a name elsewhere", rename, "it holds the name docker.io/library/app:1", true);
}

#[test]
fn damaged_blobs_are_found_and_removed() {
    let flip = |env: &Env| {
        let blob = layer_blob(env);
        let mut bytes = fs::read(&blob).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&blob, bytes).unwrap();
    };
    damaged("a flipped bit", flip, "it is damaged: its content has digest sha256:", false);
    let cut = |env: &Env| fs::write(layer_blob(env), "").unwrap();
    damaged("a cut blob", cut, "it is damaged", false);
    damaged("a lost blob", |env| fs::remove_file(layer_blob(env)).unwrap(), "is not here", false);
}

#[test]
fn damaged_images_are_found() {
    let record = |env: &Env| only(env, "images").join("image.json");
    damaged("a cut record", |env| fs::write(record(env), "{").unwrap(), "is damaged", false);
    let lie = |env: &Env| {
        let text = fs::read_to_string(record(env)).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["layers"] = serde_json::json!([]);
        fs::write(record(env), value.to_string()).unwrap();
    };
    damaged("a lying record", lie, "its record has other layers than its configuration", false);
}

#[test]
fn layers_are_unpacked_again() {
    let layer = |env: &Env| only(env, "layers");
    let lost = |env: &Env| {
        let path = layer(env);
        let status = match needs::is_root() {
            true => Command::new("rm").arg("-rf").arg(&path).status(),
            false => Command::new("unshare")
                .args(["--user", "--map-root-user", "--map-auto", "rm", "-rf"])
                .arg(&path)
                .status(),
        };
        assert!(status.unwrap().success());
    };
    damaged("a lost layer", lost, "it is not here", true);
    let record = |env: &Env| fs::write(layer(env).join("layer.json"), "{").unwrap();
    damaged("a cut record", record, "is damaged", true);
    let shorter = |env: &Env| fs::write(layer(env).join("diff/etc/passwd"), "").unwrap();
    damaged("a changed file", shorter, "where its blob has", true);
    // Not even its times tell, but for the kernel's own.
    let same_size = |env: &Env| {
        let path = layer(env).join("diff/etc/passwd");
        let (text, times) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap());
        let evil = String::from_utf8(text).unwrap().replace("user:x", "user:y");
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, evil.as_bytes()).unwrap();
        file.set_modified(times.modified().unwrap()).unwrap();
    };
    damaged(
        "a file of the same size",
        same_size,
        "1 of its files are not as in its blob: /etc/passwd",
        true,
    );
}

#[test]
fn a_store_that_was_touched_all_over_is_whole_all_the_same() {
    let env = Env::new();
    packed(&env, "app:1", "/d/e/f 0644 f\n---\n/d/x 0644 x\n/d/e/f whiteout");
    for dir in fs::read_dir(env.root().join("layers")).unwrap() {
        let diff = dir.unwrap().path().join("diff");
        // A change of mode and back leaves the kernel's time alone behind.
        let mode = fs::metadata(&diff).unwrap().permissions();
        fs::set_permissions(diff.join("d"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        fs::set_permissions(diff.join("d"), mode).unwrap();
    }
    env.run("system check").shows("The store is whole");
}

#[test]
fn volumes_and_networks_are_looked_at() {
    let env = Env::with("app:1", BUSY);
    env.run("volume create data").exits(0);
    env.run("network create net").exits(0);
    env.run("create --name box --network net -v data:/data -v kept:/kept app:1 true").exits(0);
    env.run("system check").shows(", 1 containers, 2 volumes, 1 networks.");
    let volumes = env.root().join("volumes");
    fs::write(volumes.join("data/_data/file"), "worth keeping").unwrap();
    fs::write(volumes.join("data/volume.json"), "{").unwrap();
    fs::remove_dir(volumes.join("kept/_data")).unwrap();
    fs::create_dir(env.root().join("networks/half")).unwrap();
    fs::write(env.root().join("volumes/.stranger"), "").unwrap();
    let found = env.run("system check").exits(1).stdout.clone();
    for said in [
        "volume data:",
        "writes one without labels",
        "volume kept: its files are gone",
        "network half: it has no record",
        ".stranger: it is no part of a store",
    ] {
        assert!(found.contains(said), "{said}: {found}");
    }
    env.run("system check --repair").exits(1);
    fs::remove_file(env.root().join("volumes/.stranger")).unwrap();
    env.run("system check").shows("The store is whole");
    env.run("run --rm --network none -v data:/data -v kept:/kept app:1 cat /data/file")
        .prints("worth keeping");

    fs::write(env.root().join("networks/net/network.json"), "{}").unwrap();
    env.run("system check --repair").exits(1);
    env.run("system check --repair --force").exits(1);
    let left = env.run("system check").exits(1).stdout.clone();
    assert!(left.contains("container box: its network net is not here"), "{left}");
    env.run("network create net").exits(0);
    env.run("system check").shows("The store is whole");
    env.run("rm box").exits(0);
}

#[test]
fn what_nobody_refers_to_is_found_and_removed() {
    let env = Env::with("app", "/a 0644 a");
    let root = env.root();
    let hex = "0123456789abcdef".repeat(4);
    fs::write(root.join("blobs/sha256").join(&hex), "x").unwrap();
    fs::create_dir(root.join("layers").join(&hex)).unwrap();
    fs::create_dir(root.join("images").join(&hex)).unwrap();
    fs::create_dir_all(root.join("staging/layer-left/diff")).unwrap();
    fs::write(root.join("names/ghost"), &hex).unwrap();
    fs::create_dir(env.runroot().join("containers").join(&hex)).unwrap();
    let text = env.run("system check").exits(1).stdout;
    for what in [
        format!("blob sha256:{hex}"),
        format!("layer sha256:{hex}"),
        format!("images/{hex}: it has no record"),
        "staging/layer-left: an interrupted command left it".to_owned(),
        "container name ghost: there is no such container".to_owned(),
        "runtime directory of container 0123456789ab: there is no such container".to_owned(),
    ] {
        assert!(text.contains(&what), "{what}: {text}");
    }
    let repaired = env.run("system check --repair").exits(0).stdout;
    assert!(repaired.contains("0 left for --repair, 0 left for you"), "{repaired}");
    env.run("system check").shows("The store is whole: 1 images");
}

#[test]
fn what_is_not_dhows_is_named_and_left_alone() {
    let env = Env::with("app", "/a 0644 a");
    let strangers = ["mine", "layers/mine", "images/mine", "blobs/sha256/mine", "blobs/md5"];
    for stranger in strangers {
        fs::create_dir(env.root().join(stranger)).unwrap();
    }
    let run = env.run("system check --repair --force").exits(1);
    assert_eq!(run.stdout.matches("it is no part of a store").count(), 5, "{}", run.stdout);
    let json = env.run("system check --format json").exits(1).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["faults"][0]["state"], "stays");
    assert!(strangers.iter().all(|stranger| env.root().join(stranger).exists()));
}

#[test]
fn a_container_without_its_name_gets_it_back() {
    let env = Env::with("app", BUSY);
    env.run("create --network none --name c app echo hello").exits(0);
    fs::remove_file(env.root().join("names/c")).unwrap();
    let run = env.run("system check").exits(1);
    assert!(run.stdout.contains("container c: its name is not noted"), "{}", run.stdout);
    env.run("system check --repair").shows("repaired container c");
    env.run("start -a c").prints("hello\n");
    env.run("create --network none --name c app true").fails_with(125, "already in use");
}

#[test]
fn a_store_in_use_is_checked_without_disturbing_anyone() {
    let env = Env::new();
    let archive = env.file("a.tar", Image::parse(BUSY).docker_archive("app:1"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..6 {
                env.run(&format!("load -q -i {archive}")).exits(0);
                env.run("run --rm --network none app:1 echo hello").prints("hello\n");
                env.run("rmi -f app:1").exits(0);
            }
        });
        scope.spawn(|| {
            for _ in 0..12 {
                // What it finds may be on its way; that it does no harm is what counts.
                let run = env.run("system check --repair");
                assert!(run.code <= 1, "{}", run.stderr);
            }
        });
    });
    env.run("system check --repair").exits(0);
    env.run("system check").shows("The store is whole: 0 images");
}

// ---- prune --------------------------------------------------------------------------------------

#[test]
fn what_nobody_needs_goes_at_once() {
    let env = Env::with("app", BUSY);
    env.image("app", &format!("{BUSY}\n/new 0644 new"));
    env.image("spare", "/spare 0644 spare");
    env.run("create --network none --name c --label keep=1 app true").exits(0);
    env.run("run -d --network none --name r app sleep 1000").exits(0);
    env.run_with_stdin("system prune", "n\n").prints(
        "WARNING! This will remove:\n  - all stopped containers\n  \
         - all networks not used by at least one container\n  - all dangling images\n  \
         - unused build cache\n\nAre you sure you want to continue? [y/N] ",
    );
    env.run("system prune -f --filter colour=red").fails_with(1, "invalid filter");
    env.run("system prune -f --filter label!=keep").hides("Deleted Containers").shows("deleted: ");
    env.run("system prune -f").shows("Deleted Containers:\n").hides("Deleted Images");
    env.run("system prune -af").shows("untagged: spare:latest").hides("Deleted Containers");
    env.run("images --format {{.Repository}}").prints("app\n");
    env.run("rm -f r").exits(0);
    for network in ["spare", "kept", "used"] {
        env.run(&format!("network create --label {network} {network}")).exits(0);
    }
    env.run("create --name on --network used app true").exits(0);
    env.run("system prune -f --filter label!=kept --filter label!=x --filter until=1h")
        .hides("Deleted Networks");
    env.run("system prune -f --filter label=spare").shows("Deleted Networks:\nspare\n\n");
    env.run("system prune -f --filter label=nobodys").hides("Deleted");
    env.run("rm on").exits(0);
    env.run("system prune -f").shows("Deleted Networks:\nkept\nused\n\n");
    env.run("system prune -af --volumes").shows("untagged: app:latest");
    env.run("system check").shows("The store is whole: 0 images, 0 layers, 0 blobs");
}

// ---- gc -----------------------------------------------------------------------------------------

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let env = Env::new();
    let text = |word: &str| format!("{BUSY}\n/{word} 0644 {word}");
    for word in ["a", "b", "c"] {
        env.image(word, &text(word));
    }
    let names = || env.run("images --format {{.Repository}}").text();
    // Used last, so it stays longest; b is needed.
    env.run("run --rm --network none a true").exits(0);
    env.run("create --network none --name needs b true").exits(0);
    env.run("system gc").prints("Total reclaimed space: 0B\n");
    env.run("system gc --keep 1g").prints("Total reclaimed space: 0B\n");
    let size = fs::metadata("/bin/busybox").unwrap().len();
    env.run(&format!("system gc --keep {}", size * 5))
        .shows("untagged: c:latest\ndeleted: sha256:");
    assert_eq!(names(), "b\na");
    let run = env.run("system gc --keep 0").exits(0);
    assert!(run.stdout.contains("untagged: a:latest"), "{}", run.stdout);
    assert!(run.stderr.contains("WARNING: images still take"), "{}", run.stderr);
    assert_eq!(names(), "b");
    env.run("system gc --keep lots").fails_with(1, "invalid size");
    env.run("start -a needs").exits(0);
}

// ---- reset --------------------------------------------------------------------------------------

#[test]
fn everything_goes_and_nothing_else() {
    let env = Env::with("app", BUSY);
    env.run("run -d --network none --name c app sh -c 'mkdir -p /x/y; chmod 0 /x; sleep 1000'")
        .exits(0);
    let mine = env.root().join("mine");
    fs::write(&mine, "kept").unwrap();
    let asked = env.run_with_stdin("system reset", "n\n").ok();
    assert!(
        asked.stdout.starts_with("WARNING! This will remove:\n  - all containers\n"),
        "{}",
        asked.stdout
    );
    env.run("ps -q").shows("\n");
    env.run("system reset -f").warns(&format!("{} is left alone", mine.display()));
    assert_eq!(fs::read_dir(env.root()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(&mine).unwrap(), "kept");
    fs::remove_file(&mine).unwrap();
    env.run("system reset -f").fails_with(1, "is no store of dhow's: it has no VERSION");
    env.run("ps -aq").prints("");
    env.run("system reset -f").prints("");
    assert!(!env.root().exists());
    env.run("system reset -f").fails_with(1, "there is no store at");
    assert!(!env.root().exists(), "asking makes none");
}

#[test]
fn a_tree_without_the_mark_is_not_touched() {
    let env = Env::new();
    let other = env.path("other");
    fs::create_dir_all(other.join("images")).unwrap();
    let line = format!("--root {} system reset -f", other.display());
    env.run(&line).fails_with(1, "it has no VERSION");
    fs::write(other.join("VERSION"), "cat\n").unwrap();
    env.run(&line).fails_with(1, "VERSION is not a store's version");
    assert!(other.join("images").exists());
    let file = env.file("file", "x");
    env.run(&format!("--root {file} system reset -f")).fails_with(1, "it is not a directory");
    let link = env.path("link");
    std::os::unix::fs::symlink(env.root(), &link).unwrap();
    env.run("images").exits(0);
    env.run(&format!("--root {} system reset -f", link.display()))
        .fails_with(1, "it is not a directory");
    assert_eq!(count(&env, "images"), 0);
}
