//! `build` with files from elsewhere: the web, git repositories, OCI layouts.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    build::{Context, sh},
    env::{Env, poll},
    fixture::{BUSY, Compression, compress, layer},
    needs::needs,
    server::{Reply, Server},
};

/// Serves `/a.txt` (which may be asked for again), `/t.tar.gz`, `/Dockerfile`.
fn server() -> Server {
    Server::start(|request| match request.path.as_str() {
        "/a.txt" if request.header("if-none-match") == "\"v1\"" => Reply::status(304),
        "/a.txt" => Reply::ok("from the web\n")
            .with("ETag", "\"v1\"")
            .with("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        "/t.tar.gz" => Reply::ok(compress(
            &layer("/Dockerfile 0644 FROM busy\\nCOPY in /in\\n\n/in 0644 packed\n"),
            Compression::Gzip,
        )),
        "/Dockerfile" => Reply::ok("FROM busy\nRUN echo served > /in\n"),
        _ => Reply::status(404),
    })
}

#[test]
fn files_of_the_web_are_added() {
    let env = Env::with("busy", BUSY);
    let server = server();
    let at = format!("http://{}", server.addr);
    let text = format!(
        "FROM busy\nADD {at}/a.txt /named\nADD --chmod=644 --chown=5:6 {at}/a.txt /dir/\n\
         ADD {at}/t.tar.gz /whole/\nADD --unpack=true {at}/t.tar.gz /unpacked/\n"
    );
    let context = Context::new(&env, &text);
    // The files' own times are told where the build's are later.
    let mut command = env.command("build -t img ctx");
    command.env("SOURCE_DATE_EPOCH", "1000000000");
    env.run_command("build", command, Vec::new()).exits(0);
    assert_eq!(
        sh(
            &env,
            "cd /; stat -c %a:%Y named; stat -c %u:%g:%a dir/a.txt; cat named unpacked/in; ls whole"
        ),
        "600:784111777\n5:6:644\nfrom the web\npacked\nt.tar.gz"
    );
    context.build("").exits(0);
    let asked = server.heard("/a.txt").len();
    context.build("").exits(0).tells("CACHED");
    let heard = server.heard("/a.txt");
    assert!(heard.len() > asked, "it is asked whether the file has changed");
    assert_eq!(heard.last().unwrap().header("if-none-match"), "\"v1\"");
    let digest = dhow::oci::Digest::of(b"from the web\n");
    let other = dhow::oci::Digest::of(b"other\n");
    for (line, said) in [
        (format!("ADD --checksum={other} {at}/a.txt /x"), "digest mismatch"),
        (format!("ADD {at}/none /x"), "404"),
        (format!("ADD --checksum=md5:1 {at}/a.txt /x"), "--checksum"),
        (format!("ADD --checksum={digest} Dockerfile /x"), "checksum requires HTTP(S) or Git"),
        (format!("ADD --keep-git-dir {at}/a.txt /x"), "--keep-git-dir is for git"),
        (format!("ADD {at}/ /x/"), "404"),
        (format!("COPY --checksum={digest} {at}/a.txt /x"), "unknown flag: --checksum"),
    ] {
        Context::new(&env, &format!("FROM busy\n{line}\n")).build("").exits(1).tells(said);
    }
    let text = format!("FROM busy\nADD --checksum={digest} {at}/a.txt /x\n");
    Context::new(&env, &text).build("").exits(0);
    assert_eq!(env.stored("staging"), Vec::<String>::new());
    env.run("builder prune -f").exits(0);
    assert!(fs::read_dir(env.root().join("steps")).unwrap().next().is_none());
}

#[test]
fn archives_are_unpacked_however_they_are_packed() {
    needs!(tool("xz"));
    needs!(tool("bzip2"));
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nADD t.tar.xz t.tar.bz2 /x/\n");
    for (tool, name, content) in
        [("xz", "t.tar.xz", "/a 0644 one\n"), ("bzip2", "t.tar.bz2", "/b 0644 two\n")]
    {
        let tar = env.file("plain.tar", layer(content));
        let packed = Command::new(tool).arg("-c").arg(env.path(&tar)).output().unwrap();
        assert!(packed.status.success(), "{tool}");
        fs::write(context.dir.join(name), &packed.stdout).unwrap();
        // As a context, too.
        let dockerfile = format!("{content}/Dockerfile 0644 FROM busy\\nCOPY . /c\\n");
        let tar = env.file("context.tar", layer(&dockerfile));
        let packed = Command::new(tool).arg("-c").arg(env.path(&tar)).output().unwrap();
        env.run_with_stdin("build -t img -", packed.stdout).exits(0);
        assert!(["one", "two"].contains(&sh(&env, "cat /c/[ab]").as_str()), "{tool}");
    }
    context.build("").exits(0);
    assert_eq!(sh(&env, "cat /x/a /x/b"), "one\ntwo");
    fs::write(context.dir.join("t.tar.xz"), b"\xfd7zXZ\0garbage that is none").unwrap();
    // As docker has it: what cannot be read as an archive is a file.
    context.build("").exits(0);
    assert_eq!(sh(&env, "ls /x"), "b\nt.tar.xz");
}

#[test]
fn contexts_come_from_the_web() {
    let env = Env::with("busy", BUSY);
    let server = server();
    let at = format!("http://{}", server.addr);
    env.run(&format!("build -t img {at}/t.tar.gz")).exits(0);
    assert_eq!(sh(&env, "cat /in"), "packed");
    env.run(&format!("build -t img {at}/Dockerfile")).exits(0);
    assert_eq!(sh(&env, "cat /in"), "served");
    let context = Context::new(&env, "FROM busy\nCOPY --from=web in /other\n");
    context.build(&format!("--build-context web={at}/t.tar.gz")).exits(0);
    assert_eq!(sh(&env, "cat /other"), "packed");
    context
        .build(&format!("--build-context web={at}/Dockerfile"))
        .fails_with(1, "neither a tar nor");
    context.build(&format!("--build-context web={at}/none")).fails_with(1, "404");
    env.run(&format!("build {at}/none")).fails_with(1, "404");
    assert_eq!(env.stored("staging"), Vec::<String>::new());
}

#[test]
fn layouts_are_named_contexts() {
    let env = Env::with("busy", BUSY);
    env.image("other", "/other 0644 other");
    env.run("image cp other oci:layout:v1").exits(0);
    env.run("rmi other").ok();
    let before = env.run("images -aq").ok().text();
    let context = Context::new(&env, "FROM busy\nCOPY --from=lay /other /o\n");
    context.build("--build-context lay=oci-layout://layout:v1 -o type=tar,dest=t.tar").exits(0);
    assert_eq!(env.run("images -aq").ok().text(), before, "it goes again");
    context.build("--build-context lay=oci-layout://layout").exits(0);
    assert_eq!(sh(&env, "cat /o"), "other");
    for (place, said) in [
        ("oci-layout://layout:none", "holds no image none"),
        ("oci-layout://ctx", "no OCI layout"),
        ("ftp://x", "nothing that files are taken from"),
    ] {
        context.build(&format!("--build-context lay={place}")).fails_with(1, said);
    }
}

/// Serves the repositories beneath a directory; ends with its test.
pub(crate) struct Daemon {
    pub(crate) addr: String,
    server: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Daemon {
    pub(crate) fn start(dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Without its wrapper, which would not die with it.
        let exec = Command::new("git").arg("--exec-path").output().unwrap();
        let path = Path::new(String::from_utf8(exec.stdout).unwrap().trim()).join("git-daemon");
        let server = Command::new(path)
            .args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", dir.display()))
            .arg(dir)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let addr = format!("127.0.0.1:{port}");
        poll("git daemon", || TcpStream::connect(&addr).is_ok());
        Self { addr, server }
    }
}

pub(crate) fn git(dir: &Path, line: &str) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"])
        .args(line.split(' '))
        .envs([("GIT_AUTHOR_DATE", "1700000000 +0000"), ("GIT_COMMITTER_DATE", "1700000000 +0000")])
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn repositories_are_contexts_and_sources() {
    needs!(tool("git"));
    let env = Env::with("busy", BUSY);
    let repository = env.path("repos/r.git");
    fs::create_dir_all(repository.join("sub")).unwrap();
    git(&repository, "init --quiet --initial-branch=main");
    fs::write(repository.join("Dockerfile"), "FROM busy\nCOPY . /c\n").unwrap();
    fs::write(repository.join("f"), "one\n").unwrap();
    fs::write(repository.join("sub/Dockerfile"), "FROM busy\nCOPY . /s\n").unwrap();
    git(&repository, "add .");
    git(&repository, "commit --quiet -m one");
    git(&repository, "tag -a -m tagged v1");
    let first = git(&repository, "rev-parse HEAD");
    fs::write(repository.join("f"), "two\n").unwrap();
    git(&repository, "commit --quiet -a -m two");
    let daemon = Daemon::start(&env.path("repos"));
    let at = format!("git://{}/r.git", daemon.addr);

    env.run(&format!("build -t img {at}")).exits(0);
    assert_eq!(sh(&env, "cd /c; cat f; ls -a"), "two\n.\n..\nDockerfile\nf\nsub");
    let id = env.run(&format!("build -q {at}")).ok().text();
    assert_eq!(env.run(&format!("build -q --no-cache {at}")).ok().text(), id);
    for (fragment, said) in [("#v1", "one"), (&format!("#{first}"), "one"), ("#main", "two")] {
        env.run(&format!("build -t img {at}{fragment}")).exits(0);
        assert_eq!(sh(&env, "cat /c/f"), said, "{fragment}");
    }
    env.run(&format!("build -t img {at}#v1:sub")).exits(0);
    assert_eq!(sh(&env, "ls /s"), "Dockerfile");
    let digits = &first[..12];
    for (query, said) in [
        ("tag=v1", "one"),
        (&format!("ref=v1&checksum={digits}"), "one"),
        ("branch=main&submodules=0", "two"),
    ] {
        env.run(&format!("build -t img {at}?{query}")).exits(0);
        assert_eq!(sh(&env, "cat /c/f; ls -d /c/.git 2>/dev/null; true"), said, "{query}");
    }
    env.run(&format!("build -t img {at}?tag=v1&subdir=sub")).exits(0);
    assert_eq!(sh(&env, "ls -A /s"), "Dockerfile");
    for flags in ["?keep-git-dir=1", " --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"] {
        env.run(&format!("build -t img {at}{flags}")).exits(0);
        assert_eq!(sh(&env, "ls -d /c/.git"), "/c/.git", "{flags}");
    }
    for (query, said) in [
        (format!("branch=main&checksum={digits}"), "expected checksum to match"),
        ("bogus=1".into(), "unexpected query \"bogus\""),
        ("tag=v1&branch=main".into(), "branch conflicts with tag"),
    ] {
        env.run(&format!("build {at}?{query}")).fails_with(1, said);
    }
    // What it was made of is told by the commit's own digest.
    env.run(&format!("build --metadata-file m {at}#v1")).exits(0);
    let meta: serde_json::Value =
        serde_json::from_slice(&fs::read(env.path("m")).unwrap()).unwrap();
    let provenance = &meta["buildx.build.provenance"];
    let source = &provenance["invocation"]["configSource"];
    assert_eq!(source["uri"], format!("{at}#v1"));
    assert_eq!(
        (&source["digest"]["sha1"], &source["entryPoint"]),
        (&first.clone().into(), &"Dockerfile".into())
    );
    let materials = provenance["materials"].as_array().unwrap();
    assert!(materials.iter().any(|one| one["digest"]["sha1"] == first.as_str()), "{provenance}");
    for (fragment, said) in [
        ("#none", "no branch or tag none"),
        ("#main:nowhere", "nowhere"),
        ("#-x", "no name of a commit"),
    ] {
        env.run(&format!("build {at}{fragment}")).fails_with(1, said);
    }

    let text = format!(
        "FROM busy\nADD {at}#v1 /a\nADD --keep-git-dir=true {at}#main /b/\nADD {at}#main:sub /c\n"
    );
    let context = Context::new(&env, &text);
    context.build("").exits(0);
    assert_eq!(
        sh(&env, "cat /a/f /b/f; ls -d /a/.git /b/.git 2>/dev/null; ls /c"),
        "one\ntwo\n/b/.git\nDockerfile"
    );
    context.build("").exits(0).tells("CACHED");
    fs::write(repository.join("f"), "three\n").unwrap();
    git(&repository, "commit --quiet -a -m three");
    context.build("").exits(0);
    assert_eq!(sh(&env, "cat /a/f /b/f"), "one\nthree", "a branch has moved on");
    assert_eq!(env.stored("staging"), Vec::<String>::new());
}
