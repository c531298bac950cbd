//! `build`: the Dockerfile language where it has surprises, as BuildKit's frontend reads it.

use std::fs;

use crate::{
    build::{Context, sh},
    env::Env,
    fixture::BUSY,
};

/// Who made the layers, the newest first.
fn history(env: &Env) -> String {
    env.run("history --no-trunc --format {{.CreatedBy}} img").ok().text()
}

#[test]
fn what_is_above_the_context_is_the_context() {
    let env = Env::with("busy", BUSY);
    env.file("above", "of the host\n");
    let context = Context::new(
        &env,
        "FROM busy\nCOPY ../a /1\nCOPY /../../a d/../d/x /2/\nADD ./../d /3\n\
         RUN --mount=type=bind,source=../d,target=/m cat /m/x > /4\n",
    )
    .file("a", "a\n")
    .file("d/x", "x\n");
    context.build("").exits(0);
    assert_eq!(sh(&env, "cat /1 /2/a /2/x /3/x /4"), "a\na\nx\nx\nx");
    let context = context.file("Dockerfile", "FROM busy\nCOPY ../above /x\n");
    context.build("").fails_with(1, "\"/above\": not found");
}

#[test]
fn several_files_go_where_a_directory_is() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\nWORKDIR /app\nCOPY a d/x /app\nCOPY d a /new\nCOPY --parents a d/x /kept\n",
    )
    .file("a", "a\n")
    .file("d/x", "x\n");
    context.build("").exits(0);
    assert_eq!(
        sh(&env, "cd /; ls app new; find kept -type f | sort"),
        "app:\na\nx\n\nnew:\na\nx\nkept/a\nkept/d/x"
    );
    let context = context.file("Dockerfile", "FROM busy\nCOPY a d /new\n");
    context.build("").fails_with(1, "which is no directory");
}

#[test]
fn triggers_take_from_stages_and_have_heredocs() {
    let env = Env::with("busy", BUSY);
    Context::new(
        &env,
        "FROM busy AS base\nONBUILD COPY --from=maker /made /copied\n\
         ONBUILD RUN --mount=from=maker,target=/m cp /m/made /mounted\n\
         ONBUILD COPY <<EOF /here\nhi $GREETING\nEOF\nONBUILD RUN <<EOF\necho ran > /ran\nEOF\n",
    )
    .build("")
    .exits(0);
    // Only the image says that the stage is needed: nothing else asks for it.
    for base in ["img", "busy AS own\nONBUILD COPY --from=maker /made /copied\nFROM own"] {
        let text = format!("FROM busy AS maker\nRUN echo made > /made\nFROM {base}\n");
        Context::new(&env, &text).build("").exits(0);
        assert_eq!(sh(&env, "cat /copied"), "made", "{base}");
    }
    Context::new(&env, "FROM busy AS base\nONBUILD COPY --from=nobody:1 /made /copied\n")
        .build("-t other")
        .exits(0);
    Context::new(&env, "FROM other\n").build("").exits(1).tells("ONBUILD COPY --from=nobody:1");
    Context::new(&env, "FROM busy\nONBUILD ONBUILD RUN x\n")
        .build("")
        .fails_with(1, "isn't allowed as an ONBUILD trigger");
}

#[test]
fn heredocs_in_triggers_are_carried_out() {
    let env = Env::with("busy", BUSY);
    let text = "FROM busy AS base\nENV GREETING=you\nONBUILD COPY <<EOF /here\nhi $GREETING \\$x \\\\\nEOF\n\
                ONBUILD RUN <<EOF\necho ran > /ran\nEOF\nFROM base\n";
    Context::new(&env, text).build("").exits(0);
    assert_eq!(sh(&env, "cat /here /ran"), "hi you $x \\\nran");
}

#[test]
fn the_last_of_arg_and_env_counts_and_the_history_says_so() {
    let env = Env::with("busy", BUSY);
    Context::new(
        &env,
        "FROM busy\nARG V=1\nENV V=2\nRUN echo $V > /env\nARG V=3 W\nENV U=\"$V x\"\nRUN echo $V > /arg\n\
         LABEL a=$V \"b c\"=d\nEXPOSE 80 127.0.0.1:81:82/udp\nVOLUME /v /w\nSHELL [\"sh\", \"-c\"]\nCMD x \"y\"\n\
         COPY --chmod=7$V$V \"Dockerfile\" <<EOF /c/\nhi\nEOF\nHEALTHCHECK --interval=90s CMD true\n",
    )
    .build("")
    .exits(0)
    .tells("ExposeInvalidFormat");
    assert_eq!(sh(&env, "cat /env /arg; echo $V $U; stat -c %a /c/*"), "2\n3\n2 3 x\n733\n733");
    let told = history(&env);
    let expected = [
        "HEALTHCHECK {Test:[CMD-SHELL true] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
        "COPY --chmod=733 Dockerfile <<EOF /c/ # buildkit",
        "CMD [\"sh\" \"-c\" \"x \\\"y\\\"\"]",
        "SHELL [sh -c]",
        "VOLUME [/v /w]",
        "EXPOSE [80/tcp 82/udp]",
        "LABEL a=3 b c=d",
        "RUN |2 V=3 W= /bin/sh -c echo $V > /arg # buildkit",
        "ENV U=3 x",
        "ARG V=3 W",
        "RUN |1 V=2 /bin/sh -c echo $V > /env # buildkit",
        "ENV V=2",
        "ARG V=1",
    ];
    assert_eq!(told.lines().take(expected.len()).collect::<Vec<_>>(), expected);
}

#[test]
fn mounts_have_variables_and_commands_may_be_empty() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\nARG KIND=cache MODE=0711 AT=/t\n\
         RUN --mount=type=$KIND,target=$AT,mode=${MODE} stat -c %a /t > /mode\n\
         RUN --mount=type=tmpfs,'\"target=/a,b\"',size=${NONE:-1m} df -k | grep a,b | grep -c 1024 > /size\n\
         RUN <<EOF\nEOF\nCOPY --from=scratch / /nothing/\nRUN hostname > /name && grep -c buildkit /etc/hosts >> /name; env | grep -c HOSTNAME >> /name; true\n",
    );
    context.build("").exits(0);
    assert_eq!(sh(&env, "cat /mode /size /name"), "711\n1\nbuildkitsandbox\n1\n0");
    let bad = "FROM busy\nARG K=x\nRUN --mount=type=$K,target=/t true\n";
    context
        .file("Dockerfile", bad)
        .build("")
        .exits(1)
        .tells("Dockerfile:3:1: ")
        .tells("unsupported mount type \"x\"");
}

#[test]
fn arguments_of_the_builder() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(
        &env,
        "FROM busy\nRUN --mount=type=cache,target=/c,id=one hostname > /n; ls /c >> /n; touch /c/f\n",
    );
    let name = "--build-arg BUILDKIT_SANDBOX_HOSTNAME";
    context.build(&format!("{name}=first")).exits(0);
    context.build(&format!("{name}=second --build-arg BUILDKIT_CACHE_MOUNT_NS=other")).exits(0);
    assert_eq!(sh(&env, "cat /n"), "second", "another cache, and another name");
    context.build(&format!("{name}=third")).exits(0);
    assert_eq!(sh(&env, "cat /n"), "third\nf");
    context
        .build("--build-arg BUILDKIT_SYNTAX=other/frontend")
        .fails_with(1, "the frontend other/frontend is not in this version");
    context.build("--build-arg BUILDKIT_SYNTAX=docker/dockerfile:1").exits(0);
    context.build("--build-arg BUILDKIT_INLINE_CACHE=maybe").fails_with(1, "it is true or false");
    context.build("--build-arg BUILDKIT_INLINE_CACHE=1 -o type=oci,dest=layout,tar=false").exits(0);
    let holds = |dir: fs::ReadDir| {
        let mut files = dir.map(|file| fs::read(file.unwrap().path()).unwrap());
        files.any(|bytes| bytes.windows(15).any(|part| part == b"dhow.buildcache"))
    };
    assert!(holds(fs::read_dir(env.path("layout/blobs/sha256")).unwrap()));
    let context = context.file("Dockerfile", "# syntax=other/frontend\nFROM busy\n");
    context.build("").exits(1).tells("Dockerfile:1:10: the frontend other/frontend");
    let context = context.file("Dockerfile", "FROM busy\nRUN --network=host true\n");
    context.build("").exits(1).tells("network.host is not allowed");
    context.build("--allow network.host").exits(0);
}

#[test]
fn a_directory_is_a_base() {
    let env = Env::with("busy", BUSY);
    fs::create_dir_all(env.path("base/left")).unwrap();
    env.file("base/f", "f\n");
    env.file("base/left/out", "");
    env.file("base/.dockerignore", "left\n");
    let context =
        Context::new(&env, "FROM files AS made\nENV A=b\nFROM busy\nCOPY --from=made / /o/\n");
    context.build("--build-context files=base").exits(0);
    assert_eq!(sh(&env, "ls -A /o; stat -c %u /o/f"), ".dockerignore\nf\n0");
    context.build("--build-context files=base").exits(0).tells("CACHED");
    env.run("build -t img --build-context files=base --target made ctx").exits(0);
    let config = env.run("image inspect img").ok().json()[0]["Config"].clone();
    assert_eq!(config["Env"].as_array().unwrap().last().unwrap(), "A=b");
    // A stage that a context stands in for is not run.
    let context = context
        .file("Dockerfile", "FROM busy AS made\nRUN false\nFROM busy\nCOPY --from=made /f /g\n");
    context.build("--build-context made=base").exits(0);
    assert_eq!(sh(&env, "cat /g"), "f");
}
