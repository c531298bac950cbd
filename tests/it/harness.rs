//! The harness, tested: what every other test stands on.

use std::{fs, io::Read, process::Command, time::Duration};

use insta::assert_snapshot;
use nix::sys::signal::Signal;

use crate::{
    capture::Capture,
    env::{Env, Run, words},
    fixture::{self, BUSY, Compression, Image},
    needs::{self, needs},
    pty::Pty,
    registry::Registry,
};

#[test]
fn words_are_split_as_a_shell_splits_them() {
    assert_eq!(words("run  -it a"), ["run", "-it", "a"]);
    assert_eq!(
        words(r#"sh -c 'echo "hi" $X' "" "a b"c\ d"#),
        ["sh", "-c", "echo \"hi\" $X", "", "a bc d"]
    );
    assert_eq!(words(r#""\"" '\'"#), ["\"", "\\"]);
    assert!(std::panic::catch_unwind(|| words("sh -c 'oops")).is_err());
}

#[test]
fn a_layer_is_what_its_lines_say() {
    let layer = fixture::layer(
        r#"
        /tmp/ 1777
        /srv/mail 0600 8:12 one\ntwo
        /bin/{sh,ls} -> busybox
        /bin/hard => bin/busybox
        /old/file whiteout
        /lib/ opaque
        /pipe 0644 fifo
        /null 0666 char 1:3
        "../../etc/x" 0644 out\c
        /ping 0755 xattr user.a=\x01b caps
        "#,
    );
    let mut listing = String::new();
    for entry in tar::Archive::new(layer.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        let link =
            entry.link_name().unwrap().map_or(String::new(), |l| format!(" -> {}", l.display()));
        let extensions: Vec<String> = (entry.pax_extensions().unwrap().into_iter().flatten())
            .map(|pair| {
                pair.map(|p| format!(" {}={:?}", p.key().unwrap(), p.value().unwrap())).unwrap()
            })
            .collect();
        let header = entry.header();
        listing += &format!(
            "{:?} {:04o} {}:{} {}{link} {text:?}{}\n",
            header.entry_type(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            String::from_utf8_lossy(&entry.path_bytes()),
            extensions.concat(),
        );
    }
    assert_snapshot!(listing, @r#"
    Directory 1777 0:0 tmp/ ""
    Regular 0600 8:12 srv/mail "one\ntwo\n"
    Symlink 0777 0:0 bin/sh -> busybox ""
    Symlink 0777 0:0 bin/ls -> busybox ""
    Link 0644 0:0 bin/hard -> bin/busybox ""
    Regular 0644 0:0 old/.wh.file ""
    Regular 0644 0:0 lib/.wh..wh..opq ""
    Fifo 0644 0:0 pipe ""
    Char 0666 0:0 null ""
    Regular 0644 0:0 ../../etc/x "out"
    Regular 0755 0:0 ping "caps\n" SCHILY.xattr.user.a="\u{1}b"
    "#);
}

#[test]
fn long_names_survive() {
    let name = format!("/{}/file", "d".repeat(200));
    let layer = fixture::layer(&format!("{name} 0644 x"));
    let mut archive = tar::Archive::new(layer.as_slice());
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap().to_str().unwrap(), &name[1..]);
}

#[test]
fn others_can_read_our_fixtures() {
    needs!(tool("skopeo"));
    let dir = tempfile::tempdir().unwrap();
    let image = Image::parse("/a 0644 one\nENV X=1\nCMD [\"/a\"]\n---\n/b 0644 two");
    let archives = [
        ("docker-archive", image.docker_archive("fixture")),
        ("oci-archive", image.oci_archive("fixture", Compression::None)),
        ("oci-archive", image.oci_archive("fixture", Compression::Gzip)),
        ("oci-archive", image.oci_archive("fixture", Compression::Zstd)),
    ];
    for (transport, bytes) in archives {
        let path = dir.path().join("archive.tar");
        fs::write(&path, bytes).unwrap();
        // A copy reads every blob and checks its digest.
        let skopeo = Command::new("skopeo")
            .args(["copy", "--insecure-policy", &format!("{transport}:{}", path.display())])
            .arg(format!("dir:{}", dir.path().join("copy").display()))
            .env("HOME", dir.path())
            .output()
            .unwrap();
        assert!(
            skopeo.status.success(),
            "{transport}: {}",
            String::from_utf8_lossy(&skopeo.stderr)
        );
        let manifest = fs::read_to_string(dir.path().join("copy/manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 2, "{transport}");
    }
}

#[test]
fn a_registry_takes_and_gives_an_image() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let registry = Registry::start(&env);
    let name = registry.push(&env, "some/busy:1", BUSY, Compression::Gzip);
    assert_eq!(name, format!("{}/some/busy:1", registry.addr));
    let tags = registry.get("/v2/some/busy/tags/list").unwrap();
    assert!(tags.contains(r#""tags":["1"]"#), "{tags}");
    drop(registry);
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

#[test]
fn a_terminal_is_real() {
    let mut sh = Command::new("/bin/sh");
    sh.arg("-c").arg("test -t 0 && exec 3<>/dev/tty && stty size; read x; stty size; stty raw; echo raw; read y; exit 3");
    sh.env("PATH", "/usr/bin:/bin");
    let mut pty = Pty::spawn("sh", &sh);
    pty.expect("24 80");
    assert!(!pty.is_raw());
    pty.resize(40, 100);
    pty.send("\n");
    pty.expect("40 100");
    pty.expect("raw\n");
    assert!(pty.is_raw());
    pty.expect_silence(Duration::from_millis(20));
    pty.send("x\n");
    pty.finish().exits(3);
}

#[test]
fn a_process_that_stays_is_found() {
    let env = Env::new();
    let inside = env.path("sub");
    fs::create_dir(&inside).unwrap();
    let mut sleep = Command::new("/bin/sleep").arg("60").current_dir(&inside).spawn().unwrap();
    let left = env.leftovers();
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert_eq!(left, [format!("process {} (/bin/sleep 60 ): it has it open", sleep.id())]);
    assert_eq!(env.leftovers(), Vec::<String>::new());
}

#[test]
fn a_runtime_file_that_stays_is_found() {
    let env = Env::new();
    let stale = env.runroot().join("containers/abc");
    fs::create_dir_all(&stale).unwrap();
    assert_snapshot!(env.tidy(&env.leftovers().join("\n")), @"containers/abc in [DIR]/x");
    fs::remove_dir(stale).unwrap();
}

#[test]
fn snapshots_do_not_depend_on_when_and_where() {
    let env = Env::new();
    let id = "0123456789abcdef".repeat(4);
    let text = format!(
        "{id} {} {} 2026-11-22T00:12:16.5Z 2026-11-22 00:12:16 +0000 UTC\nUp 3 seconds, Exited (0) About a minute ago",
        &id[..12],
        env.path("f").display()
    );
    assert_snapshot!(env.tidy(&text), @r"
    [ID] [ID] [DIR]/f [TIME] [TIME]
    Up [AGO], Exited (0) [AGO]
    ");
}

#[test]
fn a_run_without_a_word_about_its_end_means_quiet_success() {
    let run = |code, stderr: &str| Run::new("x", b"out\n".to_vec(), stderr.into(), code);
    run(0, "").prints("out\n");
    run(0, "note").warns("note").prints_lines(["out"]);
    run(3, "note").exits(3).shows("out").hides("in");
    for wrong in [run(3, ""), run(0, "note")] {
        assert!(std::panic::catch_unwind(|| wrong.prints("out\n")).is_err());
    }
}

#[test]
fn a_running_command_is_heard_and_signalled() {
    let env = Env::new();
    let mut command = env.command("");
    command = replace_program(
        &command,
        "/bin/sh",
        "trap 'echo caught; exit 4' TERM; echo up; read x; read y",
    );
    let mut running = env.spawn_command("sh", command);
    running.expect("up\n");
    running.send("x\n");
    running.signal(Signal::SIGTERM);
    running.finish().exits(4).prints("up\ncaught\n");
}

/// `sh -c SCRIPT` in the environment dhow would have.
fn replace_program(like: &Command, sh: &str, script: &str) -> Command {
    let mut command = Command::new(sh);
    command.arg("-c").arg(script).current_dir(like.get_current_dir().unwrap()).env_clear();
    command.envs(like.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command
}

#[test]
fn a_stream_ends_or_the_wait_does() {
    let capture = Capture::of(b"abc".as_slice());
    assert_eq!(capture.whole(Duration::from_secs(5)).unwrap(), b"abc");
    let (_writer, reader) = (std::io::pipe().unwrap().1, std::io::pipe().unwrap());
    let never = Capture::of(reader.0.try_clone().unwrap());
    assert_eq!(never.whole(Duration::from_millis(10)), None);
}

#[test]
fn the_list_of_skips_names_tests_or_needs() {
    let list = "# comment\nmod::test  why\ncgroup(\"memory\") why";
    assert!(needs::allowed(list, "mod::test", "subids"));
    assert!(needs::allowed(list, "other", "cgroup(\"memory\")"));
    assert!(!needs::allowed(list, "other", "subids"));
}

mod as_root {
    use crate::needs::{is_root, needs};

    #[test]
    fn is_root_in_this_module() {
        needs!(root);
        assert!(is_root());
    }
}

mod rootless {
    use crate::needs::{is_root, needs};

    #[test]
    fn is_an_ordinary_user_with_ranges_in_this_module() {
        needs!(subids);
        assert!(!is_root());
    }
}

mod solo {
    use crate::needs::{is_root, needs};

    #[test]
    fn is_an_ordinary_user_without_ranges_in_this_module() {
        needs!(no_subids);
        assert!(!is_root());
    }
}

mod limits {
    use crate::needs::{cgroup, needs};

    #[test]
    fn memory_can_be_limited_in_this_module() {
        needs!(cgroup("memory"));
        assert!(cgroup("memory").is_ok() && cgroup("no-such-controller").is_err());
    }
}
