//! `dhow pull`: from a real registry, from images others made, and from registries that lie,
//! refuse, break off or stall.

use std::{fs, process::Command};

use insta::assert_snapshot;
use nix::sys::signal::Signal;
use regex::Regex;
use serde_json::json;

use crate::{
    env::{Env, Run, poll},
    fixture::{BUSY, Compression, Image, host_architecture},
    needs::needs,
    registry::Registry,
    server::{Parts, Reply, Server},
};

/// Runs a shell line in a new container of the image.
#[must_use]
#[track_caller]
fn inside(env: &Env, image: &str, script: &str) -> Run {
    env.run(&format!("run --rm --network none --pull never {image} sh -c '{script}'"))
}

/// The files below a directory of the store.
fn files(env: &Env, dir: &str) -> Vec<String> {
    let entries = fs::read_dir(env.root().join(dir)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Nothing of an image that did not come is left where it could be seen or in the way.
#[track_caller]
fn store_is_empty(env: &Env) {
    for dir in ["images", "refs", "layers", "staging"] {
        assert_eq!(env.stored(dir), Vec::<String>::new(), "{dir} in the store");
    }
}

// ---- from a real registry -----------------------------------------------------------------------

#[test]
fn the_name_goes_to_stdout_and_all_the_rest_to_stderr() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let name = registry.push(&env, "some/busy:1", BUSY, Compression::Gzip);
    let told = |run: &Run| env.tidy(&run.stderr).replace(&registry.addr, "[REGISTRY]");

    let first = env.run(&format!("pull {name}")).exits(0);
    assert_eq!(first.stdout, format!("{name}\n"));
    assert_snapshot!(told(&first), @r"
    [ID]: Waiting
    [ID]: Downloading
    [ID]: Download complete
    [ID]: Pull complete
    Digest: sha256:[ID]
    Status: Downloaded newer image for [REGISTRY]/some/busy:1
    ");
    let again = env.run(&format!("pull {name}")).exits(0);
    assert_eq!(again.stdout, format!("{name}\n"));
    assert_snapshot!(told(&again), @r"
    [ID]: Already exists
    Digest: sha256:[ID]
    Status: Image is up to date for [REGISTRY]/some/busy:1
    ");
    env.run(&format!("pull -q {name}")).prints(&format!("{name}\n"));
    inside(&env, &name, "echo hello").prints("hello\n");
}

#[test]
fn a_name_that_means_another_image_by_now_is_fetched_anew() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let name = registry.push(&env, "moves:1", &format!("{BUSY}\n/v 0644 one"), Compression::Gzip);
    env.run(&format!("pull -q {name}")).exits(0);
    registry.push(&env, "moves:1", &format!("{BUSY}\n/v 0644 two"), Compression::Gzip);
    env.run(&format!("run --rm --network none {name} cat /v")).prints("one\n");
    env.run(&format!("pull {name}")).warns("Status: Downloaded newer image");
    env.run(&format!("run --rm --network none {name} cat /v")).prints("two\n");
    // What had the name before has none now.
    env.run("images -q").prints_lines([
        &env.run(&format!("images -q {name}")).text(),
        &env.run("images -q --filter dangling=true").text(),
    ]);
}

#[test]
fn run_fetches_what_is_not_here_and_says_so() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let name = registry.push(&env, "busy:1", BUSY, Compression::Gzip);
    env.run(&format!("run --rm --network none --pull never {name} true"))
        .fails_with(125, &format!("No such image: {name}"));
    env.run(&format!("run --rm --network none {name} echo hi"))
        .warns(&format!("Unable to find image '{name}' locally\n"))
        .prints("hi\n");
    env.run(&format!("run --rm --network none {name} echo hi")).prints("hi\n");
    env.run(&format!("run --rm --network none --pull always --quiet {name} echo hi"))
        .prints("hi\n");
}

#[test]
fn a_terminal_shows_a_bar_for_each_layer() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let text = format!("{BUSY}\n---\n/b 0644 b");
    let name = registry.push(&env, "busy:1", &text, Compression::Gzip);
    let screen = env.pty(&format!("pull {name}"), |_| {}).exits(0).stdout;
    assert!(screen.matches('\u{1b}').count() > 2, "it draws: {screen:?}");
    for words in ["Digest: sha256:", "Status: Downloaded newer image for", &format!("{name}\r\n")] {
        assert!(screen.contains(words), "{words:?} in {screen:?}");
    }
    assert!(Regex::new("[0-9a-f]{12}: Pull complete").unwrap().is_match(&screen), "{screen:?}");
}

#[test]
fn layers_come_packed_in_any_way() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    for how in [Compression::Gzip, Compression::Zstd] {
        let text = format!("{BUSY}\n---\n/how 0644 {how:?}");
        let tag = format!("{how:?}");
        let name = registry.push(&env, &format!("busy:{tag}"), &text, how);
        let manifest = registry.get(&format!("/v2/busy/manifests/{tag}")).unwrap();
        let kind = format!("\"application/vnd.oci.image.layer.v1.tar{}\"", how.suffix());
        assert_eq!(manifest.matches(&kind).count(), 2, "{manifest}");
        env.run(&format!("pull -q {name}")).exits(0);
        inside(&env, &name, "cat /how").prints(&format!("{how:?}\n"));
    }
    // skopeo packs what is not packed.
    let plain = Parts::packed(&format!("{BUSY}\n---\n/how 0644 plain"), Compression::None);
    let server = Server::of(plain, |_, _| None);
    env.run(&format!("pull -q {}", server.image())).exits(0);
    inside(&env, &server.image(), "cat /how").prints("plain\n");
}

#[test]
fn dockers_manifests_are_understood() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let archive = env.file("a.tar", Image::parse(BUSY).oci_archive("a", Compression::Gzip));
    let name = registry.copy(&env, &format!("oci-archive:{archive}"), "busy:1", "--format v2s2");
    let manifest = registry.get("/v2/busy/manifests/1").unwrap();
    assert!(manifest.contains("application/vnd.docker.distribution.manifest.v2+json"));
    env.run(&format!("pull -q {name}")).exits(0);
    inside(&env, &name, "echo hello").prints("hello\n");
}

#[test]
fn an_index_gives_the_image_for_the_platform() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let mut entries = Vec::new();
    for architecture in [host_architecture(), "s390x"] {
        let text = format!("ARCHITECTURE {architecture}\n{BUSY}\n/for 0644 {architecture}");
        registry.push(&env, &format!("many:{architecture}"), &text, Compression::Gzip);
        let answer = registry.get(&format!("/v2/many/manifests/{architecture}")).unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        entries.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": dhow::oci::Digest::of(body.as_bytes()), "size": body.len(),
            "platform": { "os": "linux", "architecture": architecture },
        }));
    }
    entries.reverse();
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": entries }).to_string();
    registry.put_manifest("many", "1", kind, &index);
    let name = registry.name("many:1");

    env.run(&format!("pull -q {name}")).exits(0);
    inside(&env, &name, "cat /for").prints(&format!("{}\n", host_architecture()));
    // The digest is the index's, as docker shows it.
    env.run("images --digests --format {{.Digest}}")
        .prints(&format!("{}\n", dhow::oci::Digest::of(index.as_bytes())));
    env.run(&format!("pull -q --platform linux/s390x {name}")).exits(0);
    env.run(&format!("create --network none {name} cat /for")).exits(0);
    env.run(&format!("pull {name} --platform linux/riscv64"))
        .fails_with(1, "the image has no version for linux/riscv64")
        .tells("linux/s390x");
    env.run(&format!("pull {name} --platform plan9")).exits(1);
}

#[test]
fn many_small_layers_are_stacked_in_order() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let more: String = (1..60).map(|n| format!("\n---\n/n/{n} 0644 {n}\n/last 0644 {n}")).collect();
    let name = registry.push(&env, "many:1", &format!("{BUSY}{more}"), Compression::Gzip);
    env.run(&format!("pull -q {name}")).exits(0);
    inside(&env, &name, "ls /n | wc -l; cat /last").prints_lines(["59", "59"]);
}

#[test]
fn a_layer_that_two_images_share_comes_once() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let pushed = ["one", "two"].map(|word| {
        let text = format!("{BUSY}\n---\n/word 0644 {word}");
        registry.push(&env, &format!("{word}:1"), &text, Compression::Gzip)
    });
    env.run(&format!("pull -q {}", pushed[0])).exits(0);
    let second = env.run(&format!("pull {}", pushed[1])).exits(0);
    let base: Vec<_> = second.stderr.lines().filter(|l| l.ends_with("Already exists")).collect();
    assert_eq!(base.len(), 1, "{}", second.stderr);
    assert_eq!(files(&env, "layers").len(), 3);
    // The shared layer stays with the image that is left.
    let removed = env.run(&format!("rmi {}", pushed[0])).ok();
    assert_eq!(removed.stdout.lines().count(), 4, "{}", removed.stdout);
    inside(&env, &pushed[1], "cat /word").prints("two\n");
}

#[test]
fn by_digest_it_is_that_image_and_no_other() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let name = registry.push(&env, "busy:1", BUSY, Compression::Gzip);
    let pulled = env.run(&format!("pull {name}")).exits(0);
    let digest = pulled.stderr.lines().find_map(|line| line.strip_prefix("Digest: ")).unwrap();
    let by_digest = format!("{}@{digest}", registry.name("busy"));
    // Known by its digest already, as it was when it came by its tag.
    inside(&env, &by_digest, "echo tag").prints("tag\n");
    env.run(&format!("rmi {name}")).exits(0);
    env.run(&format!("pull {by_digest}"))
        .warns(&format!("Status: Downloaded newer image for {by_digest}"))
        .prints(&format!("{by_digest}\n"));
    env.run("images --format '{{.Repository}} {{.Tag}} {{.Digest}}'")
        .prints(&format!("{} <none> {digest}\n", registry.name("busy")));
    inside(&env, &by_digest, "echo digest").prints("digest\n");
    // Another first digit; the address and the port keep theirs.
    let first = if digest.as_bytes()[7] == b'0' { "1" } else { "0" };
    let other = format!("{}@sha256:{first}{}", registry.name("busy"), &digest[8..]);
    env.run(&format!("pull {other}")).fails_with(1, "404");
}

// ---- as it was packed ---------------------------------------------------------------------------

/// Every kind of entry, and everything that an upper layer can do to a lower one.
fn all_kinds() -> String {
    let capability = r"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    format!(
        "{BUSY}
        /caps/cat 0755 xattr security.capability={capability} @host:/bin/busybox
        /k/keep 0640 3:4 kept
        /k/gone 0644 gone
        /k/dir/inner 0644 inner
        /k/opaque/ 0711 7:7
        /k/opaque/old 0644 old
        /k/tree/a/b/c 0644 deep
        /k/one 0600 5:6 shared
        /k/two => k/one
        /k/pipe 0622 fifo
        /k/suid 4755 s
        /k/sgid/ 2775 0:50
        /k/was-dir/x 0644 x
        /k/was-file 0644 y
        ---
        /k/gone whiteout
        /k/dir whiteout
        /k/opaque/ opaque
        /k/opaque/new 0644 new
        /tmp/file 0644 t
        /k/tree/a/fresh 0644 fresh
        /k/tree/a whiteout
        /k/link -> keep
        /k/sgid/file 0644 9:9 f
        /k/was-dir 0644 z
        /k/was-file/ 0700
        ---
        /k/opaque/later 0644 later"
    )
}

const LISTING: &str = r#"find /k /tmp | sort | xargs stat -c "%A %u:%g %h %n""#;

#[test]
fn what_was_packed_is_what_a_container_sees() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let name = registry.push(&env, "kinds:1", &all_kinds(), Compression::Gzip);
    env.run(&format!("pull -q {name}")).exits(0);
    let seen = inside(&env, &name, LISTING).text();
    let files: String =
        seen.lines().filter(|l| !l.starts_with('d')).map(|l| format!("{l}\n")).collect();
    assert_snapshot!(files, @r"
    -rw-r----- 3:4 1 /k/keep
    lrwxrwxrwx 0:0 1 /k/link
    -rw------- 5:6 2 /k/one
    -rw-r--r-- 0:0 1 /k/opaque/later
    -rw-r--r-- 0:0 1 /k/opaque/new
    prw--w--w- 0:0 1 /k/pipe
    -rw-r--r-- 9:9 1 /k/sgid/file
    -rwsr-xr-x 0:0 1 /k/suid
    -rw-r--r-- 0:0 1 /k/tree/a/fresh
    -rw------- 5:6 2 /k/two
    -rw-r--r-- 0:0 1 /k/was-dir
    -rw-r--r-- 0:0 1 /tmp/file
    ");
    // The number of a directory's links is the file system's affair.
    let dirs = Regex::new(r" \d+ /").unwrap();
    let dirs: String = (seen.lines().filter(|line| line.starts_with('d')))
        .map(|line| format!("{}\n", dirs.replace(line, " /")))
        .collect();
    assert_snapshot!(dirs, @r"
    drwxr-xr-x 0:0 /k
    drwx--x--x 7:7 /k/opaque
    drwxrwsr-x 0:50 /k/sgid
    drwxr-xr-x 0:0 /k/tree
    drwxr-xr-x 0:0 /k/tree/a
    drwx------ 0:0 /k/was-file
    drwxrwxrwt 0:0 /tmp
    ");
    env.run(&format!("run --rm --network none -u 1000 {name} /caps/cat /proc/self/status"))
        .shows("CapEff:\t0000000000000400\n");
    env.run(&format!("run --rm --network none -u 1000 {name} cat /proc/self/status"))
        .shows("CapEff:\t0000000000000000\n");
}

mod as_root {
    use super::*;

    #[test]
    fn a_certificate_is_believed_where_the_user_says_so() {
        needs!(root);
        needs!(tool("docker-registry"));
        needs!(tool("skopeo"));
        needs!(tool("openssl"));
        let env = Env::new();
        let (registry, certificate) = Registry::start_with_tls(&env);
        let archive = env.file("a.tar", Image::parse(BUSY).oci_archive("a", Compression::Gzip));
        registry.copy(&env, &format!("oci-archive:{archive}"), "busy:1", "");
        let name = registry.name("busy:1").replace("127.0.0.1", "registry.test");
        // Loopback by a name that does not say so, and so gets no leniency.
        let hosts = env.file("hosts", "127.0.0.1 registry.test\n");
        let pull = |line: &str| {
            let like = env.command(&format!("pull -q {line}"));
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c"]);
            command.arg(format!("mount --bind {hosts} /etc/hosts && exec \"$0\" \"$@\""));
            command.arg(like.get_program()).args(like.get_args()).current_dir(env.path(""));
            command.env_clear().envs(like.get_envs().filter_map(|(k, v)| Some((k, v?))));
            env.run_command(line, command, Vec::new())
        };
        pull(&name).fails_with(1, "cannot reach registry.test").tells("certs.d/registry.test");
        pull(&format!("--tls-verify=false {name}")).prints(&format!("{name}\n"));
        env.run(&format!("rmi {name}")).exits(0);
        let dir = env.path(".config/containers/certs.d").join(name.split('/').next().unwrap());
        fs::create_dir_all(&dir).unwrap();
        fs::copy(certificate, dir.join("ca.crt")).unwrap();
        pull(&name).prints(&format!("{name}\n"));
        inside(&env, &name, "echo hello").prints("hello\n");
    }

    #[test]
    fn umoci_unpacks_the_same() {
        needs!(tool("docker-registry"));
        needs!(tool("skopeo"));
        needs!(tool("umoci"));
        let env = Env::new();
        let registry = Registry::start(&env);
        let name = registry.push(&env, "kinds:1", &all_kinds(), Compression::Gzip);
        env.run(&format!("pull -q {name}")).exits(0);
        let sh = |script: &str| {
            let out = Command::new("sh").arg("-ec").arg(script).current_dir(env.path("")).output();
            let out = out.unwrap();
            assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        sh(&format!(
            "HOME=$PWD skopeo copy -q --insecure-policy --src-tls-verify=false docker://{name} oci:u:1; umoci --log error unpack --image u:1 b"
        ));
        // From the rootfs, by the same busybox, so that only the files can differ.
        let theirs = sh(&format!("chroot b/rootfs /bin/sh -c '{LISTING}'"));
        let plain = |text: &str| {
            Regex::new(r"(?m)^(d.*) \d+ /").unwrap().replace_all(text, "$1 /").into_owned()
        };
        assert_eq!(plain(&inside(&env, &name, LISTING).text()), plain(theirs.trim_end()));
    }
}

mod solo {
    use super::*;

    #[test]
    fn owners_that_cannot_be_are_ones_own() {
        needs!(no_subids);
        needs!(tool("docker-registry"));
        needs!(tool("skopeo"));
        let env = Env::new();
        let registry = Registry::start(&env);
        let name = registry.push(&env, "kinds:1", &all_kinds(), Compression::Gzip);
        env.run(&format!("pull -q {name}")).exits(0);
        inside(&env, &name, r#"stat -c "%A %u:%g" /k/keep /k/opaque /tmp"#).prints_lines([
            "-rw-r----- 0:0",
            "drwx--x--x 0:0",
            "drwxrwxrwt 0:0",
        ]);
        env.run(&format!("rmi {name}")).exits(0);
        store_is_empty(&env);
    }
}

// ---- who may ------------------------------------------------------------------------------------

#[test]
fn credentials_are_found_where_docker_leaves_them() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start_closed(&env);
    let archive = env.file("a.tar", Image::parse(BUSY).oci_archive("a", Compression::Gzip));
    let source = format!("oci-archive:{archive}");
    let name = registry.copy(&env, &source, "busy:1", "--dest-creds user:secret");
    env.run(&format!("pull {name}"))
        .fails_with(1, "401")
        .tells("hint: check the name; if the image is private, log in first");
    store_is_empty(&env);

    let login = |pair: &str| {
        let auth = Command::new("base64").arg("-w0").arg(env.file("pair", pair)).output().unwrap();
        let auth = String::from_utf8(auth.stdout).unwrap();
        let config = json!({ "auths": { &registry.addr: { "auth": auth } } });
        fs::create_dir_all(env.path(".docker")).unwrap();
        env.file(".docker/config.json", config.to_string());
    };
    login("user:wrong");
    env.run(&format!("pull {name}")).fails_with(1, "401").tells("hint: ");
    login("user:secret");
    env.run(&format!("pull -q {name}")).prints(&format!("{name}\n"));
    env.file(".docker/config.json", "{ oops");
    env.run(&format!("pull {name}")).fails_with(1, ".docker/config.json");
}

#[test]
fn a_token_is_asked_for_and_used() {
    let env = Env::new();
    let addr = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let own = std::sync::Arc::clone(&addr);
    let server = Server::of(Parts::of(BUSY), move |request, _| {
        if request.path.starts_with("/token?") {
            return Some(match request.path.contains("scope=repository%3Aapp%3Apull") {
                true => Reply::ok(r#"{"token":"t0ken"}"#),
                false => Reply::status(400),
            });
        }
        let challenge =
            format!("Bearer realm=\"http://{}/token\",service=\"here\"", own.get().unwrap());
        let known = request.header("authorization") == "Bearer t0ken";
        (!known).then(|| Reply::status(401).with("WWW-Authenticate", challenge))
    });
    addr.set(server.addr.clone()).unwrap();
    env.run(&format!("pull -q {}", server.image())).exits(0);
    assert_eq!(server.heard("/token?").len(), 1, "one token serves all requests");
    inside(&env, &server.image(), "echo hello").prints("hello\n");
}

#[test]
fn credentials_do_not_follow_a_redirect() {
    let env = Env::new();
    let elsewhere = Server::of(Parts::of(BUSY), |_, _| None);
    let target = elsewhere.addr.clone();
    let server = Server::of(Parts::of(BUSY), move |request, _| {
        if request.header("authorization").is_empty() {
            return Some(Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\""));
        }
        let to = format!("http://{target}{}", request.path);
        request.path.contains("/blobs/").then(|| Reply::status(307).with("Location", to))
    });
    fs::create_dir(env.path(".docker")).unwrap();
    let config = json!({ "auths": { &server.addr: { "auth": "dXNlcjpzZWNyZXQ=" } } });
    env.file(".docker/config.json", config.to_string());
    env.run(&format!("pull -q {}", server.image())).exits(0);
    let asked = elsewhere.heard("/blobs/");
    assert_eq!(asked.len(), 2, "the configuration and the layer");
    assert!(asked.iter().all(|request| request.header("authorization").is_empty()), "{asked:?}");
}

// ---- registries that refuse, lie and break off --------------------------------------------------

#[test]
fn a_refusal_is_told_with_what_to_do() {
    for (status, body, says, hint) in [
        (401, "", "manifest 1: 401 Unauthorized", "log in first"),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"no business here"}]}"#,
            "manifest 1: 403 Forbidden: no business here",
            "check the name and your rights",
        ),
        (
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            "manifest 1: 404 Not Found: manifest unknown",
            "check the image's name and tag",
        ),
        (418, "", "manifest 1: 418 I'm a teapot", ""),
    ] {
        let env = Env::new();
        let server = Server::of(Parts::of(BUSY), move |request, _| {
            let asked = request.path.contains("/manifests/");
            asked.then(|| Reply::status(status).saying(body))
        });
        let run = env.run(&format!("pull {}", server.image())).fails_with(1, says).tells(hint);
        assert!(
            run.stderr.starts_with(&format!("Error: pull {}: ", server.image())),
            "{}",
            run.stderr
        );
        assert_eq!(server.heard("/manifests/").len(), 1, "{status} is not tried again");
        store_is_empty(&env);
    }
}

#[test]
fn trouble_that_passes_is_waited_out() {
    for status in [429, 500, 503] {
        let env = Env::new();
        let tries = std::sync::atomic::AtomicUsize::new(0);
        let server = Server::of(Parts::of(BUSY), move |request, _| {
            let asked = request.path.contains("/manifests/")
                && tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2;
            asked.then(|| Reply::status(status).with("Retry-After", "0"))
        });
        env.run(&format!("pull -q {}", server.image())).prints(&format!("{}\n", server.image()));
        assert_eq!(server.heard("/manifests/").len(), 3);
    }
}

#[test]
fn trouble_that_does_not_pass_ends_in_one_error() {
    for (status, says, hint) in [
        (429, "429 Too Many Requests", "too many requests"),
        (500, "500 Internal Server Error", "the registry has trouble of its own"),
    ] {
        let env = Env::new();
        let server = Server::of(Parts::of(BUSY), move |request, _| {
            request.path.contains("/blobs/").then(|| Reply::status(status).with("Retry-After", "0"))
        });
        let run = env.run(&format!("pull {}", server.image())).fails_with(1, says).tells(hint);
        assert_eq!(run.stderr.matches("Error: ").count(), 1, "{}", run.stderr);
        store_is_empty(&env);
    }
}

#[test]
fn who_asks_to_wait_for_hours_is_not_waited_for() {
    let env = Env::new();
    let server = Server::of(Parts::of(BUSY), |request, _| {
        let asked = request.path.contains("/manifests/");
        asked.then(|| Reply::status(429).with("Retry-After", "7200"))
    });
    env.run(&format!("pull {}", server.image()))
        .fails_with(1, "429 Too Many Requests")
        .tells("the registry asks to wait 7200 s");
    assert_eq!(server.heard("/manifests/").len(), 1);
}

#[test]
fn other_bytes_than_promised_are_refused() {
    type Lie = fn(&Parts) -> Reply;
    let lies: [(&str, Lie, &str); 4] = [
        (
            "other content of the same length",
            |parts| {
                let mut blob = parts.layers[0].clone();
                let last = blob.len() - 1;
                blob[last] ^= 1;
                Reply::ok(blob)
            },
            "",
        ),
        (
            "longer",
            |parts| Reply::ok([&parts.layers[0][..], b"x"].concat()),
            "where the manifest says",
        ),
        ("shorter", |parts| Reply::ok(&parts.layers[0][..9]), "where the manifest says"),
        ("another layer", |parts| Reply::ok(vec![0; parts.layers[0].len()]), ""),
    ];
    for (what, lie, says) in lies {
        let env = Env::new();
        let server = Server::of(Parts::of(BUSY), move |request, parts| {
            parts.is_layer(request, 0).then(|| lie(parts))
        });
        let run = env.run(&format!("pull {}", server.image())).exits(1).prints("").tells(says);
        assert_eq!(run.stderr.matches("Error: ").count(), 1, "{what}: {}", run.stderr);
        assert!(run.stderr.contains("sha256:"), "{what}: which blob? {}", run.stderr);
        store_is_empty(&env);
    }
}

#[test]
fn a_manifest_that_is_not_what_its_digest_says_is_refused() {
    let env = Env::new();
    let server = Server::of(Parts::of(BUSY), |_, _| None);
    let name = format!("{}/app@sha256:{}", server.addr, "0".repeat(64));
    env.run(&format!("pull {name}")).fails_with(1, "the registry sent another one");
    for (body, says) in [
        ("<html>", "is not JSON"),
        ("{}", "is no image manifest"),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema"),
        (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "could be an index and an image"),
    ] {
        let server = Server::of(Parts::of(BUSY), move |request, _| {
            request.path.contains("/manifests/").then(|| Reply::ok(body))
        });
        env.run(&format!("pull {}", server.image())).fails_with(1, says);
    }
    store_is_empty(&env);
}

#[test]
fn a_connection_that_breaks_is_taken_up_again() {
    let env = Env::new();
    let broken = std::sync::atomic::AtomicBool::new(false);
    let server = Server::of(Parts::of(BUSY), move |request, parts| {
        let first =
            parts.is_layer(request, 0) && !broken.swap(true, std::sync::atomic::Ordering::SeqCst);
        first.then(|| parts.answer(request).cut_after(100_000))
    });
    env.run(&format!("pull -q {}", server.image())).exits(0);
    let ranges: Vec<String> = (server.heard("/blobs/").iter())
        .map(|request| request.header("range").to_owned())
        .filter(|range| !range.is_empty())
        .collect();
    assert_eq!(ranges, ["bytes=100000-"]);
    inside(&env, &server.image(), "echo whole").prints("whole\n");
}

#[test]
fn a_layer_that_never_comes_whole_is_told_and_kept() {
    let env = Env::new();
    let server = Server::of(Parts::of(BUSY), |request, parts| {
        let cut = if request.header("range").is_empty() { 100_000 } else { 0 };
        parts.is_layer(request, 0).then(|| parts.answer(request).cut_after(cut))
    });
    let size = Parts::of(BUSY).layers[0].len();
    env.run(&format!("pull {}", server.image()))
        .fails_with(1, &format!("ends after 100000 of {size} bytes"))
        .tells("hint: what has arrived is kept; pulling again fetches only the rest");
    store_is_empty(&env);
    assert_eq!(partial_bytes(&env), 100_000);
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let env = Env::new();
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    env.run(&format!("pull {addr}/app"))
        .fails_with(1, &format!("cannot reach {addr}: Connection refused"))
        .tells("hint: check that the registry is up");
    env.run(&format!("run --network none {addr}/app")).fails_with(125, "cannot reach");
}

#[test]
fn localhost_without_a_port_is_no_registry() {
    let env = Env::new();
    env.run("pull localhost/app")
        .fails_with(1, "No such image: localhost/app")
        .tells("never fetched");
    env.run("run --network none localhost/app")
        .fails_with(125, "No such image: localhost/app")
        .tells("never fetched");
    let server = Server::of(Parts::of(BUSY), |_, _| None);
    let name = server.image().replace("127.0.0.1", "localhost");
    env.run(&format!("pull -q {name}")).prints(&format!("{name}\n"));
}

// ---- killed, and several at once ----------------------------------------------------------------

#[test]
fn a_killed_pull_is_resumed_where_it_was() {
    let env = Env::new();
    let stalled = std::sync::atomic::AtomicBool::new(false);
    let server =
        Server::of(Parts::of(&format!("{BUSY}\n---\n/b 0644 b")), move |request, parts| {
            let first = parts.is_layer(request, 0)
                && !stalled.swap(true, std::sync::atomic::Ordering::SeqCst);
            first.then(|| parts.answer(request).stalled_after(300_000))
        });
    let pull = env.spawn(&format!("pull {}", server.image()));
    poll("300000 bytes of a layer are here", || partial_bytes(&env) == 300_000);
    pull.signal(Signal::SIGKILL);
    pull.finish().exits(137).prints("");
    env.run("images -q").prints("");

    env.run(&format!("pull -q {}", server.image())).exits(0);
    // Layers come in parallel, in any order.
    let heard = server.heard("/blobs/");
    let ranges: Vec<&str> = heard.iter().map(|request| request.header("range")).collect();
    assert!(ranges.contains(&"bytes=300000-"), "{ranges:?}");
    for dir in ["staging", "partial"] {
        assert_eq!(env.stored(dir), Vec::<String>::new(), "{dir}");
    }
    inside(&env, &server.image(), "cat /b").prints("b\n");
}

/// Bytes of layers that have not come whole.
fn partial_bytes(env: &Env) -> u64 {
    let mut sum = 0;
    let mut pending = vec![env.root().join("partial")];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => pending.push(entry.path()),
                Ok(meta) => sum += meta.len(),
                Err(_) => {}
            }
        }
    }
    sum
}

#[test]
fn two_pulls_of_one_image_share_the_work() {
    let env = Env::new();
    let server = Server::of(Parts::of(&format!("{BUSY}\n---\n/b 0644 b")), |_, _| None);
    let pulls: Vec<_> = (0..3).map(|_| env.spawn(&format!("pull -q {}", server.image()))).collect();
    for pull in pulls {
        pull.finish().prints(&format!("{}\n", server.image()));
    }
    let parts = Parts::of(&format!("{BUSY}\n---\n/b 0644 b"));
    let layers = server.heard("/blobs/").iter().filter(|r| parts.is_layer(r, 0)).count();
    assert_eq!(layers, 1, "each layer is fetched once");
    inside(&env, &server.image(), "cat /b").prints("b\n");
    for dir in ["staging", "partial"] {
        assert_eq!(env.stored(dir), Vec::<String>::new(), "{dir}");
    }
}

#[test]
fn a_manifest_may_be_named_by_sha512() {
    let parts = Parts::of(BUSY);
    let long = |bytes: &[u8]| {
        let any: dhow::oci::Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        let mut hasher = dhow::oci::Hasher::like(&any);
        hasher.update(bytes);
        hasher.finish()
    };
    let (right, wrong) = (long(&parts.manifest), long(b"another"));
    // A registry may say its own digest, which must be of the same bytes.
    let said = long(&parts.manifest);
    let server = Server::of(parts, move |request, parts| {
        request.path.contains("/manifests/").then(|| {
            Reply::ok(parts.manifest.clone())
                .with("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                .with("Docker-Content-Digest", said.to_string())
        })
    });
    let env = Env::new();
    let name = format!("{}/app@{right}", server.addr);
    env.run(&format!("pull -q {}/app@{wrong}", server.addr))
        .fails_with(1, "the registry sent another one");
    store_is_empty(&env);
    env.run(&format!("pull -q {name}")).prints(&format!("{name}\n"));
    inside(&env, &name, "echo hi").prints("hi\n");
    env.run("images --digests --format {{.Digest}}").prints(&format!("{right}\n"));
    env.run(&format!("pull {name}")).tells("Image is up to date");
    // By its tag it is the same image, with the digest that everybody knows.
    env.run(&format!("pull -q {}", server.image())).exits(0);
    env.run(&format!("rmi {name}")).shows(&format!("Untagged: {name}\n"));
    env.run(&format!("rmi {}", server.image())).shows("Deleted: sha256:");
    env.run("image prune -f").exits(0);
    assert_eq!(files(&env, "blobs/sha512"), Vec::<String>::new());
}
