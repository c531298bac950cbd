//! What Dockerfiles, contexts and images try against whoever builds them: the advisories of other
//! builders, each by its number; and a disk that is full.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    process::Command,
};

use crate::{
    build::{Context, sh},
    env::Env,
    fixture::BUSY,
};

/// A directory of the host that anyone may write to, with a secret in it.
fn outside(env: &Env) -> PathBuf {
    let outside = env.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(outside.join("secret"), "of the host\n").unwrap();
    outside
}

#[track_caller]
fn is_untouched(env: &Env) {
    let names = fs::read_dir(env.path("outside")).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["secret"]);
    assert_eq!(fs::read(env.path("outside/secret")).unwrap(), b"of the host\n");
}

/// CVE-2024-1753, CVE-2024-9407: the source of a bind mount, by a link or by `..`, with and without
/// the right to write.
#[test]
fn sources_of_mounts_stay_inside() {
    let env = Env::with("busy", BUSY);
    let outside = outside(&env);
    let text = |source: &str, how: &str| {
        format!(
            "FROM busy\nRUN --mount=type=bind,source={source},target=/x{how} cat /x /x/secret; echo gone > /x/secret; touch /x/new; false\n"
        )
    };
    let context = Context::new(&env, "FROM busy\n");
    symlink(&outside, context.dir.join("absolute")).unwrap();
    symlink("../outside", context.dir.join("up")).unwrap();
    symlink("..", context.dir.join("parent")).unwrap();
    for source in ["absolute", "up", "parent/outside", "../outside", "a/../../outside", "parent"] {
        for how in ["", ",rw"] {
            let run = Context::new(&env, &text(source, how)).build("").exits(1);
            assert!(!run.stderr.contains("of the host"), "{source}{how}: {}", run.stderr);
            is_untouched(&env);
        }
    }
}

/// CVE-2024-9675, CVE-2024-23651: a cache's id, its target, and what it begins with.
#[test]
fn caches_stay_inside() {
    let env = Env::with("busy", BUSY);
    let outside = outside(&env);
    let evil =
        format!("FROM busy AS evil\nRUN ln -s {0} /link && ln -s / /top\n", outside.display());
    for cache in [
        format!("id=../../../../../../../..{},target=/c", outside.display()),
        format!("id={},target=/c", outside.display()),
        "target=/c,from=evil,source=/link".to_owned(),
        format!("target=/c,from=evil,source=/top{}", outside.display()),
        "target=/link/c".to_owned(),
        format!("target=/c/../../../..{},id=up", outside.display()),
    ] {
        let text = format!(
            "{evil}FROM evil\nRUN --mount=type=cache,{cache} find / -name secret -path '*outside*' -exec cat {{}} +; touch /c/new /link/new; true\n"
        );
        let run = Context::new(&env, &text).build("");
        assert!(!run.stderr.contains("of the host"), "{cache}: {}", run.stderr);
        is_untouched(&env);
    }
    // Whatever they are called, they are directories of the store.
    for entry in fs::read_dir(env.root().join("caches")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    }
}

/// CVE-2024-23652: what a mount's place was made of is taken away, and nothing else.
#[test]
fn what_is_cleared_away_is_the_steps_own() {
    let env = Env::with("busy", BUSY);
    let outside = outside(&env);
    let text = format!(
        "FROM busy\nRUN mkdir /kept && touch /kept/f\n\
         RUN --mount=type=tmpfs,target=/kept/new/place rm -rf /kept/new 2>/dev/null; mv /kept /moved; ln -s {} /kept; true\n",
        outside.display()
    );
    Context::new(&env, &text).build("");
    is_untouched(&env);
    let text = "FROM busy\nRUN mkdir /kept && touch /kept/f\nRUN --mount=type=tmpfs,target=/kept/new true\n";
    Context::new(&env, text).build("").exits(0);
    assert_eq!(sh(&env, "ls -A /kept"), "f");
}

/// CVE-2021-3602: the proxy's password, and secrets, are seen by the step and kept nowhere.
#[test]
fn what_a_step_is_told_is_not_kept() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\nRUN --mount=type=secret,id=s,env=TOKEN echo $HTTP_PROXY $https_proxy $TOKEN | tr a-z n-za-m; env > /dev/null\n",
    );
    let secret = env.file("s", "tokenvalue");
    context
        .build(&format!(
            "--secret id=s,src={secret} --build-arg HTTP_PROXY=http://u:proxyvalue@h --build-arg https_proxy=http://u:proxyvalue@h -o type=oci,dest=out,tar=false -o type=image"
        ))
        .exits(0)
        // Seen, but not as it is.
        .tells("cebklinyhr")
        .tells("gbxrainyhr");
    let said =
        env.run("history --no-trunc img").ok().text() + &env.run("image inspect img").ok().text();
    let everywhere = Command::new("grep")
        .args(["-rlaE", "proxyvalue|tokenvalue"])
        .args([env.root(), env.path("out"), env.runroot()])
        .output()
        .unwrap();
    assert!(!said.contains("value@h") && !said.contains("tokenvalue"), "{said}");
    assert_eq!(String::from_utf8_lossy(&everywhere.stdout), "");
}

/// CVE-2022-27651: a step inherits no capabilities, and has no more than a container.
#[test]
fn steps_have_a_containers_rights() {
    let env = Env::with("busy", BUSY);
    let caps = "grep -E ^Cap.*: /proc/self/status";
    let context = Context::new(&env, &format!("FROM busy\nRUN {caps} > /caps\n"));
    context.build("").exits(0);
    let inside = sh(&env, "cat /caps");
    assert!(inside.contains("CapInh:\t0000000000000000"), "{inside}");
    assert_eq!(env.run(&format!("run --rm --network none busy {caps}")).ok().text(), inside);
}

mod as_root {
    use super::*;

    #[test]
    fn a_full_disk_is_told_of_and_leaves_a_whole_store() {
        let env = Env::with("busy", BUSY);
        env.run("save -o busy.tar busy").ok();
        Context::new(&env, "FROM busy\nRUN dd if=/dev/zero of=/large bs=1M count=48\nCOPY f /f\n")
            .file("f", "f\n");
        let script = "mkdir m && mount -t tmpfs -o size=32m none m && export DHOW_ROOT=$PWD/m DHOW_RUNROOT=$PWD/m-run &&
            $DHOW load -q -i busy.tar >/dev/null && { $DHOW build --network none -t img ctx; echo \"was $?\"; } &&
            printf 'FROM busy\\nCOPY f /f\\n' > ctx/Dockerfile &&
            $DHOW build --network none -q -t img ctx && $DHOW system check && ls m/staging && $DHOW ps -aq";
        let dhow = env.command("version").get_program().to_owned();
        let run = Command::new("unshare")
            .args(["-m", "sh", "-ec", script])
            .env("DHOW", dhow)
            .current_dir(env.path(""))
            .output()
            .unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{out}\n{err}");
        assert!(out.contains("was 1\n") && out.contains("The store is whole"), "{out}\n{err}");
        assert!(err.contains("No space left on device"), "{out}\n{err}");
    }
}
