//! `build --lock` and `--locked`: what is taken from elsewhere, by digest.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    build::{Context, sh},
    build_remote::{Daemon, git},
    env::Env,
    fixture::BUSY,
    needs::needs,
    registry::Registry,
    server::{Reply, Server},
};

fn lock(context: &Context<'_>) -> serde_json::Value {
    serde_json::from_slice(&fs::read(context.dir.join("dhow.lock")).unwrap()).unwrap()
}

#[test]
fn what_is_not_as_it_was_is_refused() {
    let env = Env::with("busy", BUSY);
    env.image("other", "/bin/busybox 0755 @host:/bin/busybox\n/o 0644 o\n");
    let moved = Arc::new(AtomicBool::new(false));
    let is_moved = Arc::clone(&moved);
    let server = Server::start(move |_| {
        Reply::ok(if is_moved.load(Ordering::SeqCst) { "two\n" } else { "one\n" })
    });
    let url = format!("http://{}/f", server.addr);
    let text = format!("FROM busy\nCOPY --from=other /o /o\nADD --chmod=644 {url} /f\nCOPY . /c\n");
    let context = Context::new(&env, &text);
    context.build("--locked").fails_with(1, "there is no ctx/dhow.lock");
    context.build("--lock --locked").exits(125).tells("--locked");
    context.build("--lock").exits(0);
    let written = lock(&context);
    assert_eq!(written["files"][&url], dhow::oci::Digest::of(b"one\n").as_str());
    assert_eq!(written["images"].as_object().unwrap().len(), 2, "{written}");
    // The same again, of which the lock is a part, and no newer than the rest.
    let first = context.id("--locked");
    assert_eq!(context.id("--lock"), first);
    assert_eq!(context.id("--locked --no-cache"), first);
    moved.store(true, Ordering::SeqCst);
    context.build("--locked").fails_with(1, "f has changed: it is sha256:");
    context.build("--lock").exits(0);
    context.build("--locked").exits(0);
    // Another image by that name.
    env.run("tag other busy").ok();
    context.build("--locked").exits(0);
    env.run("tag busy:latest again").ok();
    let was = written["images"]["busy"]["id"].as_object().unwrap().values().next().unwrap();
    env.run("rmi img").ok();
    env.run("builder prune -af").exits(0);
    env.run("image prune -f").exits(0);
    let said = format!("dhow.lock pins {}", was.as_str().unwrap());
    context.build("--locked").fails_with(1, &said);
    context.build("").exits(0);
    // Something new.
    let context = context.file("Dockerfile", &format!("{text}FROM again\n"));
    context.build("--locked").fails_with(1, "dhow.lock does not pin image again");
    let context = context.file("dhow.lock", "{\"version\":7}");
    context.build("--locked").fails_with(1, "version 7 is not in this version");
    env.run_with_stdin("build --lock -", "FROM busy\n").fails_with(1, "which is no directory here");
    let away = "build --locked --build-context web=oci-layout://here ctx";
    env.run(away).fails_with(1, "the build context web");
}

#[test]
fn names_that_move_on_stay_where_they_were() {
    needs!(tool("docker-registry"));
    needs!(tool("git"));
    let env = Env::with("busy", BUSY);
    let registry = Registry::start(&env);
    let name = registry.name("base:1");
    let repository = env.path("repos/r.git");
    fs::create_dir_all(&repository).unwrap();
    git(&repository, "init --quiet --initial-branch=main");
    let commit = |text: &str| {
        fs::write(repository.join("f"), text).unwrap();
        git(&repository, "add .");
        git(&repository, &format!("commit --quiet -m {text}"));
    };
    commit("one");
    let daemon = Daemon::start(&env.path("repos"));
    let base = |text: &str| {
        Context::new(&env, &format!("FROM busy\nRUN echo {text} > /base\n"));
        env.run(&format!("build -t {name} --push ctx")).exits(0);
        env.run(&format!("rmi {name}")).ok();
    };
    base("one");
    let text = format!("FROM {name}\nADD git://{}/r.git#main /r\n", daemon.addr);
    Context::new(&env, &text).build("--lock").exits(0);
    base("two");
    commit("two");
    let read = |flags: &str| {
        Context::new(&env, &text).build(flags).exits(0);
        sh(&env, "cat /base /r/f; echo")
    };
    // Neither what is here by that name, nor what it means by now.
    assert_eq!(read("--locked"), "one\none");
    assert_eq!(read("--pull"), "two\ntwo");
    assert_eq!(read("--locked --no-cache"), "one\none");
    assert_eq!(read("--lock"), "two\ntwo");
    assert_eq!(read("--locked"), "two\ntwo");
}

#[test]
fn contexts_from_elsewhere_stay_where_they_were() {
    needs!(tool("git"));
    let env = Env::with("busy", BUSY);
    let repository = env.path("repos/r.git");
    fs::create_dir_all(&repository).unwrap();
    git(&repository, "init --quiet --initial-branch=main");
    let commit = |text: &str| {
        fs::write(repository.join("Dockerfile"), "FROM busy\nCOPY f /f\n").unwrap();
        fs::write(repository.join("f"), text).unwrap();
        git(&repository, "add .");
        git(&repository, &format!("commit --quiet -m {text}"));
        git(&repository, "rev-parse HEAD")
    };
    let first = commit("one");
    let daemon = Daemon::start(&env.path("repos"));
    let at = format!("git://{}/r.git", daemon.addr);
    // The commit that holds a lock is not in it: nothing says which one is meant.
    let build = |flags: &str| env.run(&format!("build -t img {flags}"));
    build(&format!("--locked {at}#main")).fails_with(1, "nothing pins the build context");
    build(&format!("--locked {at}#{first}")).fails_with(1, "there is no");
    // So it is noted where one is.
    let here = env.path("dhow.lock");
    build(&format!("--lock {at}#main")).exits(0);
    let written: serde_json::Value = serde_json::from_slice(&fs::read(&here).unwrap()).unwrap();
    assert_eq!(written["repositories"][format!("{at}#main")], first.as_str());
    assert!(written["images"]["busy"].is_object(), "{written}");
    commit("two");
    build(&format!("--locked {at}#main")).exits(0);
    assert_eq!(sh(&env, "cat /f"), "one");
    build(&format!("{at}#main")).exits(0);
    assert_eq!(sh(&env, "cat /f"), "two");
    build(&format!("--lock {at}#main")).exits(0);
    build(&format!("--locked {at}#main")).exits(0);
    assert_eq!(sh(&env, "cat /f"), "two");
    fs::remove_file(here).unwrap();
    // Named contexts of a directory are in its own lock.
    let context = Context::new(&env, "FROM busy\nCOPY --from=more f /f\n");
    let more = format!("--build-context more={at}#main");
    context.build(&format!("--lock {more}")).exits(0);
    commit("three");
    context.build(&format!("--locked {more}")).exits(0);
    assert_eq!(sh(&env, "cat /f"), "two");
    context.build(&more).exits(0);
    assert_eq!(sh(&env, "cat /f"), "three");
    let other = format!("--locked --build-context more={at}#none");
    context.build(&other).fails_with(1, "nothing pins the build context");
}
