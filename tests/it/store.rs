//! What becomes of the images that are here: names, removal, pruning, and how they were made.

use std::fs;

use crate::{
    env::Env,
    fixture::{BUSY, Compression, Image, compress},
    needs::needs,
    registry::Registry,
};

#[track_caller]
fn id(env: &Env, name: &str) -> String {
    env.run(&format!("images -q {name}")).text()
}

/// What the store holds: images, names, layers and blobs.
fn counts(env: &Env) -> [usize; 4] {
    ["images", "refs", "layers", "blobs/sha256"]
        .map(|dir| fs::read_dir(env.root().join(dir)).unwrap().count())
}

// ---- names --------------------------------------------------------------------------------------

#[test]
fn an_image_has_as_many_names_as_one_likes() {
    let env = Env::with("app", "/a 0644 a");
    env.image("other", "/b 0644 b");
    let app = id(&env, "app");
    env.run("tag app app:2").prints("");
    env.run(&format!("image tag {app} quay.io/x/y")).prints("");
    env.run("tag app:2 other").prints("");
    for name in ["app:2", "quay.io/x/y:latest", "other:latest"] {
        assert_eq!(id(&env, name), app, "{name}");
    }
    env.run("images -q --filter dangling=true").shows("\n");
    env.run("tag nosuch app:3").fails_with(1, "Error: No such image: nosuch");
    env.run("tag app BAD").fails_with(
        1,
        "Error parsing reference: \"BAD\" is not a valid repository/tag: invalid reference format: repository name (",
    );
    let digest = format!("x@sha256:{}", "0".repeat(64));
    env.run(&format!("tag app {digest}"))
        .fails_with(1, "refusing to create a tag with a digest reference");
    env.run("tag app").exits(125).prints("");
}

#[test]
fn names_are_taken_away_and_the_image_stays() {
    let env = Env::with("app:1", "/a 0644 a");
    for name in ["app:2", "app:3", "localhost/own:1"] {
        env.run(&format!("tag app:1 {name}")).prints("");
    }
    env.run("untag app:1 app:2 nosuch").fails_with(1, "nosuch:latest: tag not known");
    assert_eq!(id(&env, "app:2"), id(&env, "app:1"), "nothing is done by halves");
    env.run("untag app:1 app:2 own:1").prints("");
    env.run("images --format {{.Repository}}:{{.Tag}}").prints("app:1\napp:3\n");
    let id = id(&env, "app:1");
    env.run("image untag app:1").prints("");
    env.run("images -q --filter dangling=true").prints(&format!("{id}\n"));
    env.run("untag app:1").fails_with(1, "No such image: app:1");
}

#[test]
fn whether_an_image_is_here_is_an_exit_code() {
    let env = Env::with("app", "/a 0644 a");
    env.run("image exists app").exits(0).prints("");
    env.run(&format!("image exists {}", id(&env, "app"))).exits(0).prints("");
    for missing in ["nosuch", "0123456789ab", "NO:PE"] {
        let run = env.run(&format!("image exists {missing}")).exits(1).prints("");
        assert_eq!(run.stderr, "", "{missing}");
    }
}

#[test]
fn a_digest_stands_for_the_names_that_came_by_it() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    registry.push(&env, "app:1", "/a 0644 a", Compression::Gzip);
    let name = registry.name("app");
    env.run(&format!("pull -q --tls-verify=false {name}:1")).exits(0);
    env.run(&format!("tag {name}:1 {name}:2")).prints("");
    env.run(&format!("tag {name}:1 mine:1")).prints("");
    let digest = env.run(&format!("images --digests --format '{{{{.Digest}}}}' {name}:1")).text();
    assert!(digest.starts_with("sha256:"), "{digest}");
    env.run(&format!("images --digests --format '{{{{.Digest}}}}' {name}:2"))
        .prints(&format!("{digest}\n"));
    env.run("images --digests --format '{{.Digest}}' mine:1").prints("<none>\n");
    env.run(&format!("rmi {name}:1")).prints(&format!("Untagged: {name}:1\n"));
    env.run(&format!("rmi {name}@{digest}"))
        .prints(&format!("Untagged: {name}:2\nUntagged: {name}@{digest}\n"));
    env.run("images --format {{.Repository}}").prints("mine\n");
    env.run("rmi mine:1").shows("Untagged: mine:1\nDeleted: sha256:");
    assert_eq!(counts(&env), [0; 4]);
}

#[test]
fn all_images_are_removed_at_once() {
    let env = Env::with("app:1", "/a 0644 a");
    env.run("tag app:1 app:2").prints("");
    env.image("other", "/b 0644 b");
    env.run("rmi --platform linux/s390x app:1").fails_with(1, "not for linux/s390x");
    env.run("rmi -i nosuch").prints("");
    env.run("rmi -a app:1").exits(125).prints("");
    let run = env.run("rmi -a").ok();
    assert_eq!(run.stdout.matches("Untagged: ").count(), 3, "{}", run.stdout);
    assert_eq!(counts(&env), [0; 4]);
    env.run("rmi -a").prints("");
}

// ---- how they were made -------------------------------------------------------------------------

#[test]
fn history_is_told_newest_first() {
    let env = Env::with("app", "/a 0644 a\n---\n/b 0644 bbbb");
    let id = id(&env, "app");
    let run = env.run("history app").ok();
    let age = regex::Regex::new(r"\d+ years ago").unwrap();
    let text = age.replace_all(&run.stdout, "AGE").into_owned();
    assert_eq!(
        text,
        format!(
            "IMAGE          CREATED   CREATED BY   SIZE      COMMENT\n\
             {id}   N/A       fixture      5B        \n\
             <missing>      N/A       fixture      2B        \n"
        )
    );
    env.run("history -q app").prints(&format!("{id}\n<missing>\n"));
    env.run("history --format '{{.CreatedBy}} {{.Size}}' app").prints("fixture 5B\nfixture 2B\n");
    env.run("image history -H=false --format {{.Size}} app").prints("5\n2\n");
    env.run("history --no-trunc -q app").shows(&format!("sha256:{id}"));
    let json = env.run("history --format json app").ok();
    assert_eq!(json.stdout.lines().count(), 2);
    assert!(json.stdout.contains("\"CreatedBy\":\"fixture\""), "{}", json.stdout);
    env.run("history nosuch").fails_with(1, "No such image: nosuch");
    env.run("history --platform linux/s390x app").fails_with(1, "not for linux/s390x");
    env.run("history").exits(125).prints("");
}

#[test]
fn layers_are_drawn_with_what_stands_on_them() {
    let env = Env::with("base:1", "/a 0644 a");
    env.image("one:1", "/a 0644 a\n---\n/b 0644 b");
    env.image("two:1", "/a 0644 a\n---\n/c 0644 c");
    let tree = |line: &str| env.tidy(&env.run(line).ok().stdout);
    assert_eq!(
        tree("image tree one:1"),
        "Image ID: [ID]\nTags:     [one:1]\nSize:     4B\nImage Layers\n\
         ├── ID: [ID] Size: 2B Top Layer of: [base:1]\n\
         └── ID: [ID] Size: 2B Top Layer of: [one:1]\n"
    );
    let above = tree("image tree --whatrequires base:1");
    assert!(
        above.contains("└── ID: [ID] Size: 2B Top Layer of: [base:1]\n    ├── ID: [ID]"),
        "{above}"
    );
    assert!(above.contains("[one:1]") && above.contains("[two:1]"), "{above}");
    env.run("tag base:1 base:2").prints("");
    let list = tree("images --tree base");
    assert!(list.starts_with("IMAGE"), "{list}");
    assert!(list.contains("\nbase:1\nbase:2") && list.contains("\n└─ linux/"), "{list}");
    env.run("images --tree -q").fails_with(1, "--quiet is not yet supported with --tree");
    env.run("image tree nosuch").fails_with(1, "No such image: nosuch");
}

// ---- pruning ------------------------------------------------------------------------------------

#[test]
fn only_nameless_images_are_pruned_unless_all_are_meant() {
    let env = Env::with("app", BUSY);
    let old = id(&env, "app");
    env.image("app", &format!("{BUSY}\n/new 0644 new"));
    env.image("spare", "/spare 0644 spare");
    // Whoever does not agree keeps everything.
    for answer in ["", "n\n", "yes\n"] {
        env.run_with_stdin("image prune", answer).prints(
            "WARNING! This will remove all dangling images.\n\
             Are you sure you want to continue? [y/N] ",
        );
    }
    let run = env.run_with_stdin("image prune", "y\n").ok();
    assert!(
        run.stdout.contains(&format!("Deleted Images:\ndeleted: sha256:{old}")),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("\n\nTotal reclaimed space: "), "{}", run.stdout);
    env.run("image prune -f").prints("Total reclaimed space: 0B\n");

    env.run("create --network none --name c app true").exits(0);
    let run = env.run("image prune -af").ok();
    assert!(run.stdout.contains("untagged: spare:latest\ndeleted: sha256:"), "{}", run.stdout);
    env.run("images --format {{.Repository}}").prints("app\n");
    env.run("start -a c").exits(0);
    env.run("rm c").exits(0);
    env.run("image prune -af").shows("untagged: app:latest");
    assert_eq!(counts(&env), [0; 4]);
}

#[test]
fn pruning_is_filtered() {
    let env = Env::new();
    env.image("a", "/a 0644 a\nLABEL keep=yes");
    env.image("b", "/b 0644 b\nLABEL tier=web");
    env.image("c", "/c 0644 c");
    let left = || env.run("images --format {{.Repository}}").text().replace('\n', " ");
    env.run("image prune -f --filter colour=red").fails_with(1, "invalid filter 'colour'");
    env.run("image prune -f --filter until=soon").fails_with(1, "failed to parse value");
    env.run("image prune -f --filter reference=a").fails_with(1, "invalid filter 'reference'");
    // The fixtures are of 2001.
    env.run("image prune -af --filter until=2000-01-01").prints("Total reclaimed space: 0B\n");
    env.run("image prune -af --filter label=tier=db").prints("Total reclaimed space: 0B\n");
    env.run("image prune -af --filter label=tier=web --filter until=1h")
        .shows("untagged: b:latest");
    env.run("image prune -af --filter label!=keep").shows("untagged: c:latest");
    assert_eq!(left(), "a");
    env.run("image prune -f --filter dangling=false").shows("untagged: a:latest");
    assert_eq!(counts(&env), [0; 4]);
}

#[test]
fn what_a_pull_left_half_done_is_pruned() {
    let env = Env::with("app", "/a 0644 a");
    let partial = env.root().join("partial").join("0".repeat(64));
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("data"), [0; 1000]).unwrap();
    let blob = env.root().join("blobs/sha256").join("1".repeat(64));
    fs::write(&blob, [0; 500]).unwrap();
    env.run("image prune -f --filter until=1h").prints("Total reclaimed space: 0B\n");
    assert!(partial.exists() && blob.exists(), "a filter names images, not leftovers");
    env.run("image prune -f").prints("Total reclaimed space: 1.5kB\n");
    assert!(!partial.exists() && !blob.exists());
    env.run("images --format {{.Repository}}").prints("app\n");
}

#[test]
fn nothing_is_pruned_that_a_damaged_name_may_name() {
    let env = Env::with("app", "/a 0644 a");
    let name = fs::read_dir(env.root().join("refs")).unwrap().next().unwrap().unwrap().path();
    fs::write(&name, "{").unwrap();
    let before = counts(&env);
    env.run("image prune -f").exits(1).tells(&format!("{} is damaged", name.display()));
    assert_eq!(counts(&env), before);
}

// ---- at once ------------------------------------------------------------------------------------

#[test]
fn a_container_being_made_holds_its_image_against_removal() {
    let env = Env::new();
    let archive = env.file("app.tar", Image::parse(BUSY).docker_archive("app:1"));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..8 {
                    env.run(&format!("load -q -i {archive}")).exits(0);
                    let run = env.run("create --network none --pull never app:1 echo whole");
                    if run.code == 0 {
                        // Whatever was removed since: what it is made of is here.
                        let container = run.ok().stdout.trim().to_owned();
                        env.run(&format!("start -a {container}")).prints("whole\n");
                        env.run(&format!("rm {container}")).exits(0);
                    } else {
                        let run = run.exits(125);
                        let gone = ["No such image", "was removed meanwhile"];
                        assert!(
                            gone.iter().any(|words| run.stderr.contains(words)),
                            "{}",
                            run.stderr
                        );
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..12 {
                env.run("image prune -af").exits(0);
            }
        });
        scope.spawn(|| {
            for _ in 0..12 {
                env.run("rmi -f app:1").exits(0);
            }
        });
    });
    env.run("image prune -af").exits(0);
    assert_eq!(counts(&env), [0; 4]);
}

#[test]
fn those_who_load_the_same_image_at_once_share_it() {
    let env = Env::new();
    let text = format!("{BUSY}\n---\n/b 0644 b\n---\n/c 0644 c");
    let packed =
        compress(&Image::parse(&text).oci_archive("app:1", Compression::Gzip), Compression::None);
    let archive = env.file("app.tar", packed);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                env.run(&format!("load -q -i {archive}")).prints("Loaded image: app:1\n")
            });
        }
    });
    assert_eq!(counts(&env), [1, 1, 3, 5]);
    assert_eq!(env.stored("staging"), Vec::<String>::new());
    env.run("run --rm --network none app:1 cat /b /c").prints("b\nc\n");
}
