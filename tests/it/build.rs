//! `build`: Dockerfiles to images, on a userland of one binary.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
};

use nix::sys::signal::Signal;

use crate::{
    env::{Env, Run, poll},
    fixture::BUSY,
};

/// A context directory called `ctx`.
pub(crate) struct Context<'e> {
    env: &'e Env,
    pub(crate) dir: PathBuf,
}

impl<'e> Context<'e> {
    pub(crate) fn new(env: &'e Env, dockerfile: &str) -> Self {
        let dir = env.path("ctx");
        fs::create_dir_all(&dir).unwrap();
        let context = Self { env, dir };
        context.file("Dockerfile", dockerfile)
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    #[track_caller]
    pub(crate) fn build(&self, flags: &str) -> Run {
        self.env.run(&format!("build -t img {flags} ctx"))
    }

    #[track_caller]
    pub(crate) fn id(&self, flags: &str) -> String {
        self.env.run(&format!("build -q {flags} ctx")).ok().text()
    }
}

/// What a container of `img` prints.
#[track_caller]
pub(crate) fn sh(env: &Env, line: &str) -> String {
    env.run(&format!("run --rm --network none img sh -c '{line}'")).ok().text()
}

fn config(env: &Env) -> serde_json::Value {
    env.run("image inspect img").ok().json()[0]["Config"].clone()
}

#[test]
fn a_copy_onto_scratch_holds_nothing_else() {
    let env = Env::new();
    let context = Context::new(&env, "FROM scratch\nCOPY a d /\nCMD [\"/a\"]\n")
        .file("a", "one\n")
        .file("d/b", "two\n");
    // Two sources want a directory, and `/` is one.
    context.build("").exits(0).tells("[1/1] COPY a d /");
    env.run("create --name made --network none img").ok();
    env.run("export made").prints_tar(["a", "b"]);
}

#[test]
fn stages_instructions_and_variables() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        r#"# escape=\
ARG base=busy
FROM ${base} AS maker
ARG V=1 W
ENV WHO=world NAME="a b"
WORKDIR /srv/app
RUN echo "hello $WHO $V $W" > out \
 # a comment
 && pwd > where
FROM maker AS unused
RUN exit 1
FROM busy
ARG V
LABEL v=$V "quoted key"="x y"
COPY --from=maker --chown=1000:2000 --chmod=0640 /srv/app/out /made/
COPY --from=0 /srv /copied
ENV A=1 B=${A:-none}
USER user
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
ENTRYPOINT ["sh", "-c"]
CMD ["cat /made/out"]
"#,
    );
    context.build("--build-arg V=7 --build-arg W=8 --label extra=1").exits(0);
    env.run("run --rm --network none --user 0 img").prints("hello world 7 8\n");
    env.run("run --rm --network none --user 0 img 'cat /copied/app/where; stat -c %u:%g:%a /made/out; id -u user'")
        .prints("/srv/app\n1000:2000:640\n1000\n");
    let config = config(&env);
    assert_eq!(config["User"], "user");
    assert_eq!(config["Labels"]["v"], "7");
    assert_eq!(config["Labels"]["quoted key"], "x y");
    assert_eq!(config["Labels"]["extra"], "1");
    assert_eq!(config["Env"].as_array().unwrap().last().unwrap(), "B=none");
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(config["Healthcheck"]["Test"][0], "CMD-SHELL");
    assert!(config["ExposedPorts"].get("53/udp").is_some(), "{config}");
    assert!(config["Volumes"].get("/data").is_some(), "{config}");
    context.build("--target unused").fails_with(1, "did not complete successfully: exit code: 1");
    env.run("build -t maker --target maker ctx").exits(0);
    env.run("run --rm --network none maker cat out").prints("hello world 1 \n");
}

#[test]
fn heredocs_are_files_and_scripts() {
    let env = Env::with("busy", BUSY);
    Context::new(
        &env,
        "FROM busy\nARG who=you\nCOPY <<one <<'two' /d/\nhi $who\none\nhi $who\ntwo\n\
         RUN <<EOF\nset -e\nx=3\necho $x > /script\nEOF\n\
         RUN <<EOF\n#!/bin/cat\nshebang\nEOF\n\
         RUN cat <<EOF > /fed\nfed\nEOF\n",
    )
    .build("")
    .exits(0)
    .tells("shebang");
    assert_eq!(sh(&env, "cat /d/one /d/two /script /fed"), "hi you\nhi $who\n3\nfed");
}

#[test]
fn what_was_done_is_not_done_again() {
    let env = Env::with("busy", BUSY);
    let text = "FROM busy\nCOPY a /a\nRUN cat /proc/sys/kernel/random/uuid > /uuid\nCOPY b /b\n";
    let context = Context::new(&env, text).file("a", "1").file("b", "1");
    context.build("").exits(0);
    let first = sh(&env, "cat /uuid");
    context.build("").exits(0).tells("CACHED");
    assert_eq!(sh(&env, "cat /uuid"), first);
    // What comes later does not matter, nor does a time.
    let context = context.file("a", "1").file("b", "2");
    context.build("").exits(0);
    assert_eq!(sh(&env, "cat /uuid"), first, "RUN did not run again");
    // Nor do the image and its name.
    env.run("rmi img").ok();
    context.build("").exits(0);
    assert_eq!(sh(&env, "cat /uuid"), first);
    let context = context.file("a", "2");
    context.build("").exits(0);
    let second = sh(&env, "cat /uuid");
    assert_ne!(second, first, "what it stands on has changed");
    context.build("--no-cache").exits(0);
    assert_ne!(sh(&env, "cat /uuid"), second);
    let third = sh(&env, "cat /uuid");
    env.run("system check").exits(0).shows("The store is whole");
    env.run("builder prune -f").exits(0).shows("Total");
    context.build("").exits(0);
    assert_ne!(sh(&env, "cat /uuid"), third);
}

#[test]
fn the_same_twice_is_the_same_image() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\nWORKDIR /w\nCOPY . .\nRUN mkdir x && echo 1 > x/z && touch x/a && ln x/z x/y && rm a\n",
    )
    .file("a", "1")
    .file("d/e/f", "2");
    let first = context.id("");
    assert_eq!(context.id("--no-cache"), first);
    env.run("builder prune -f").exits(0);
    assert_eq!(context.id(""), first);
    let mut command = env.command("build -q --no-cache ctx");
    command.env("SOURCE_DATE_EPOCH", "1000");
    let run = env.run_command("build with an epoch", command, Vec::new()).ok();
    assert_ne!(run.text(), first);
    env.run("images --no-trunc --format {{.ID}}").shows(&first);
}

#[test]
fn ignored_files_are_not_there() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nCOPY . /c\nRUN find /c -type f | sort > /list\n")
        .file(".dockerignore", "# no\n*.log\nd\n!d/keep\nDockerfile\n.dockerignore\n")
        .file("a", "")
        .file("x.log", "")
        .file("d/gone", "")
        .file("d/keep", "");
    context.build("").exits(0);
    assert_eq!(sh(&env, "cat /list"), "/c/a\n/c/d/keep");
    let context = context.file("Dockerfile.dockerignore", "**\n!a\n");
    context.build("").exits(0);
    assert_eq!(sh(&env, "cat /list"), "/c/a");
    let context = context.file("Dockerfile", "FROM scratch\nCOPY x.log /\n");
    context.build("").fails_with(1, "\"/x.log\": not found");
}

#[test]
fn copies_by_pattern_and_into_links() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\nRUN mkdir /real && ln -s real /link && ln -s /nowhere /dangling\n\
         COPY *.txt /link/\nCOPY --parents s/./t/*.o s/t/n /p/\nCOPY --exclude=*.o s/t /e\n\
         COPY none* /nothing/\nCOPY --chmod=u=rwX,go= s /m\nCOPY a.txt /real/name\nCOPY --link b.txt /l/\n\
         COPY a.txt real\n",
    )
    .file("a.txt", "a")
    .file("b.txt", "b")
    .file("s/t/x.o", "x")
    .file("s/t/n", "n");
    context.build("").exits(0);
    assert_eq!(
        sh(&env, "cd /; find real p e m l -type f | sort; stat -c %a m/t m/t/n"),
        "e/n\nl/b.txt\nm/t/n\nm/t/x.o\np/s/t/n\np/t/x.o\nreal/a.txt\nreal/b.txt\nreal/name\n700\n600"
    );
}

#[test]
fn archives_are_extracted_by_add_alone() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nADD t.tar.gz plain.gz /x/\nCOPY t.tar.gz /y/\n");
    let tar = crate::fixture::layer("/in/file 0640 1000:2000 text\n/in/link -> file");
    let pack = |bytes: &[u8]| crate::fixture::compress(bytes, crate::fixture::Compression::Gzip);
    fs::write(context.dir.join("t.tar.gz"), pack(&tar)).unwrap();
    fs::write(context.dir.join("plain.gz"), pack(b"no tar")).unwrap();
    context.build("").exits(0);
    assert_eq!(
        sh(&env, "cd /; stat -c %u:%g:%a x/in/file; readlink x/in/link; find x y | sort"),
        "1000:2000:640\nfile\nx\nx/in\nx/in/file\nx/in/link\nx/plain.gz\ny\ny/t.tar.gz"
    );
}

#[test]
fn nothing_leaves_the_context_or_the_root() {
    let env = Env::with("busy", BUSY);
    let secret = env.file("secret", "secret\n");
    let context = Context::new(&env, "FROM busy\nCOPY out /x\n");
    symlink(&secret, context.dir.join("out")).unwrap();
    symlink("../secret", context.dir.join("up")).unwrap();
    symlink("..", context.dir.join("dir")).unwrap();
    for source in ["out", "up", "../secret", "dir/secret", "/../secret", "dir/../../secret"] {
        let context = Context::new(&env, &format!("FROM busy\nCOPY {source} /x\n"));
        let said = context.build("").exits(1);
        said.tells("Dockerfile:2:1: ");
    }
    // A link in the image leads nowhere but into the image.
    let outside = env.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    let text = format!(
        "FROM busy\nRUN ln -s {0} /evil && ln -s {0}/f /file\nCOPY Dockerfile /evil/\nCOPY Dockerfile /file\n\
         FROM busy\nCOPY --from=0 /evil/ /y/\n",
        outside.display()
    );
    Context::new(&env, &text).build("").exits(0);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // What an archive unpacks first does not lead the rest of it away.
    let context = Context::new(&env, "FROM busy\nADD t.tar /x/\n");
    let tar = crate::fixture::layer(&format!("/l -> {}\n/l/f 0644 x", outside.display()));
    fs::write(context.dir.join("t.tar"), tar).unwrap();
    context.build("").exits(1);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_step_that_fails_says_where_and_what() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\n\nRUN true\nRUN echo last words; exit 3\n");
    let run = context.build("").exits(1);
    let run = run.tells("Dockerfile:4:1: ").tells("exit code: 3").tells("> last words");
    run.tells("4 | RUN echo last words; exit 3");
    env.run("ps -aq").prints("");
    env.run("images -q img").prints("");
    // What was done before it failed is not done again.
    context.build("").exits(1).tells("CACHED");
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let env = Env::with("busy", BUSY);
    Context::new(&env, "FROM busy\nRUN sleep 1000\n");
    let running = env.spawn("build -t img ctx");
    // The container runs before Ctrl-C comes, and is nobody's to see.
    let begun = || {
        let dirs = fs::read_dir(env.runroot().join("containers")).into_iter().flatten();
        dirs.flatten().any(|dir| dir.path().join("ready").exists())
    };
    while !begun() {
        std::thread::yield_now();
    }
    env.run("ps -aq").prints("");
    running.signal(Signal::SIGINT);
    running.finish().exits(130).tells("interrupted");
    env.run("ps -aq").prints("");
    env.run("images -q img").prints("");
    assert_eq!(env.stored("staging"), Vec::<String>::new());
}

#[test]
fn a_build_that_was_killed_leaves_what_the_next_one_clears_away() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nRUN echo one > /one\n");
    context.build("").exits(0);
    // Only the step that sleeps has a container.
    let context = context.file("Dockerfile", "FROM busy\nRUN echo one > /one\nRUN sleep 1000\n");
    let running = env.spawn("build -t other ctx");
    let containers =
        || fs::read_dir(env.runroot().join("containers")).into_iter().flatten().flatten();
    poll("the step that sleeps", || containers().any(|dir| dir.path().join("ready").exists()));
    let process = containers().next().unwrap().path().join("process.json");
    let process: serde_json::Value = serde_json::from_slice(&fs::read(process).unwrap()).unwrap();
    let init = PathBuf::from(format!("/proc/{}", process["init"]["pid"]));
    assert!(init.exists());
    running.signal(Signal::SIGKILL);
    drop(running.finish());
    // It does not wait for another command.
    poll("the end of the step", || !init.exists());
    poll("the end of its container", || containers().count() == 0);
    env.run("images -q other").prints("");
    let context = context.file("Dockerfile", "FROM busy\nRUN echo one > /one\n");
    context.build("").exits(0).tells("CACHED");
    env.run("ps -aq").prints("");
    assert_eq!(env.stored("staging"), Vec::<String>::new());
    assert_eq!(containers().count(), 0);
    env.run("system check").exits(0).shows("The store is whole");
}

#[test]
fn from_stdin() {
    let env = Env::with("busy", BUSY);
    env.run_with_stdin("build -t img -", "FROM busy\nRUN echo stdin > /f\n").exits(0);
    assert_eq!(sh(&env, "cat /f"), "stdin");
    let tar = crate::fixture::layer("/a 0644 tarred\n/sub/File 0644 FROM busy\\nCOPY a /f\\n");
    env.run_with_stdin("build -t img -f sub/File -", tar.clone()).exits(0);
    assert_eq!(sh(&env, "cat /f"), "tarred");
    env.run_with_stdin("build -", tar).fails_with(1, "open Dockerfile: no such file");
    Context::new(&env, "").file("a", "context");
    env.run_with_stdin("build -t img -f - ctx", "FROM busy\nCOPY a /f\n").exits(0);
    assert_eq!(sh(&env, "cat /f"), "context");
    env.run_with_stdin("build -", "FROM busy\nCOPY a /f\n").fails_with(1, "\"/a\": not found");
}

#[test]
fn named_contexts_and_triggers() {
    let env = Env::with("busy", BUSY);
    env.image("other", "/other 0644 other");
    let more = env.path("more");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("m"), "more").unwrap();
    let context = Context::new(
        &env,
        "FROM alias AS base\nONBUILD COPY a /triggered\nONBUILD RUN echo $0 > /ran\n\
         FROM base\nCOPY --from=extra m /m\nCOPY --from=other /other /o\n",
    )
    .file("a", "a");
    let contexts = "--build-context extra=more --build-context alias=docker-image://busy";
    context.build(&format!("--target base {contexts}")).exits(0);
    let context = context
        .file("Dockerfile", "FROM img\nCOPY --from=extra m /m\nCOPY --from=other /other /o\n");
    context.build(contexts).exits(0);
    assert_eq!(sh(&env, "cat /triggered /m /o"), "amoreother");
    assert!(config(&env).get("OnBuild").is_none_or(serde_json::Value::is_null));
}

#[test]
fn a_users_directory_is_theirs() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\nUSER user\nWORKDIR /home/user/new\nRUN id -un > me && stat -c %U . >> me\nCOPY a .\n",
    )
    .file("a", "");
    context.build("").exits(0);
    assert_eq!(sh(&env, "cat me; stat -c %U a"), "user\nuser\nroot");
}

#[test]
fn a_user_of_an_upper_layer_is_found() {
    let env = Env::with("busy", BUSY);
    let text = "FROM busy\nRUN echo new:x:77:88::/:/bin/sh >> /etc/passwd\nUSER new\nCMD [\"id\", \"-u\"]\n";
    Context::new(&env, text).build("").exits(0);
    env.run("run --rm --network none img").prints("77\n");
}

#[test]
fn what_cannot_be_built_is_told() {
    let env = Env::with("busy", BUSY);
    for (text, said) in [
        ("FORM busy\n", "Dockerfile:1:1: unknown instruction: FORM"),
        ("FROM busy\nRUN --bogus x\n", "Dockerfile:2:5: RUN: unknown flag: --bogus"),
        ("FROM busy AS a\nCOPY --from=a x y\n", "circular dependency"),
        ("FROM localhost/none\n", "No such image: localhost/none"),
        ("FROM busy\nCOPY missing /x\n", "Dockerfile:2:1: \"/missing\": not found"),
        ("FROM busy\nCOPY --chown=nobody-here Dockerfile /x\n", "unable to find user nobody-here"),
        ("FROM busy\nCOPY --chmod=9 Dockerfile /x\n", "invalid chmod parameter"),
        ("FROM busy\nCOPY Dockerfile Dockerfile /x\n", "which is no directory"),
        (
            "FROM busy\nENV A=${B?missing}\n",
            "Dockerfile:2:1: failed to process \"${B?missing}\": B: missing",
        ),
        ("FROM busy\nSTOPSIGNAL NOPE\n", "NOPE"),
        ("FROM busy\nEXPOSE 99999\n", "is not a port"),
        ("FROM --platform=plan9/mips busy\n", "plan9"),
        ("", "there is no FROM"),
    ] {
        Context::new(&env, text).build("").exits(1).tells(said);
    }
    let context = Context::new(&env, "FROM busy\n");
    for (flags, said) in [
        ("--target nope", "target stage \"nope\" could not be found"),
        ("-f ctx/none", "open ctx/none: no such file"),
        ("--platform a/b/c/d", "invalid platform"),
        ("--network other", "is not in this version"),
        ("--progress tty", "stderr is no terminal"),
        ("--progress bogus", "invalid progress mode"),
        ("-t UPPER:", "invalid tag"),
    ] {
        context.build(flags).exits(1).tells(said);
    }
    context.build("--builder other").exits(1).tells("no builder \"other\" found");
    context.build("--security-opt bogus").exits(1).tells("--security-opt bogus");
    context.build("--add-host a").exits(1).tells("bad format for add-host");
    env.run("build no-such-dir").fails_with(1, "path \"no-such-dir\" not found");
    env.run("images -q img").prints("");
    env.run("ps -aq").prints("");
}

#[test]
fn the_ways_to_ask() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nARG unknown_to_none\n");
    let id = context.id("-t one -t two:x --iidfile id");
    assert_eq!(fs::read_to_string(env.path("id")).unwrap(), id);
    for line in ["buildx build", "builder build", "image build", "build --load"] {
        assert_eq!(env.run(&format!("{line} -q ctx")).ok().text(), id, "{line}");
    }
    env.run("images --format '{{.Repository}}:{{.Tag}}' one").prints("one:latest\n");
    env.run("images --format '{{.Repository}}:{{.Tag}}' two").prints("two:x\n");
    context.build("--build-arg nobody=1").exits(0).tells("not consumed: nobody");
}

mod rootless {
    use super::*;

    #[test]
    fn owners_are_the_containers() {
        let env = Env::with("busy", BUSY);
        let context = Context::new(
            &env,
            "FROM busy\nRUN mkdir /own && chown 1000:1000 /own && chmod 700 /own\nUSER user\nRUN echo x > /own/f && chmod 600 /own/f\n\
             FROM busy\nCOPY --from=0 /own /own\nCOPY --from=0 --chown=5:6 /own/f /f\n",
        );
        context.build("").exits(0);
        assert_eq!(sh(&env, "stat -c %u:%g:%a /own/f /f; cat /own/f"), "1000:1000:600\n5:6:600\nx");
    }
}
