//! `build --check` and `--call`: what a Dockerfile says, without building it.

use crate::{build::Context, env::Env, fixture::BUSY};

#[test]
fn likely_mistakes_are_told_and_fail_the_check() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy as Base\nENV a b\nCMD echo hi\nUSER $NOBODY\n");
    let run = env.run("build --check ctx").exits(1);
    let run = run
        .shows("Check complete, 5 warnings have been found!\n\nWARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/\n'as' and 'FROM' keywords' casing do not match\nDockerfile:1\n--------------------\n   1 | >>> FROM busy as Base\n")
        .shows("WARNING: StageNameCasing")
        .shows("WARNING: UndefinedVar");
    drop(run);
    let json = env.run("build --call=check,format=json ctx").exits(1).json();
    assert_eq!(json["warnings"][4]["ruleName"], "UndefinedVar");
    assert_eq!(json["warnings"][4]["location"]["ranges"][0]["start"]["line"], 4);
    env.run("images -q --filter dangling=true").prints("");
    // A build tells them, and goes on.
    let context = context.file("Dockerfile", "FROM busy\nENV a b\n");
    context.build("").exits(0).tells("1 warning found").tells(" - LegacyKeyValueFormat: ");
    let context = context.file("Dockerfile", "# check=error=true\nFROM busy\nENV a b\n");
    context.build("").fails_with(1, "lint violation found for rules: LegacyKeyValueFormat");
    context.build("--build-arg BUILDKIT_DOCKERFILE_CHECK=skip=all").exits(0);
    let context =
        context.file("Dockerfile", "# check=skip=LegacyKeyValueFormat\nFROM busy\nENV a b\n");
    env.run("build --check ctx").ok().prints("Check complete, no warnings found.\n");
    let context = context
        .file("Dockerfile", "FROM busy\nCOPY left-out /\n")
        .file(".dockerignore", "left-out");
    env.run("build --check ctx").exits(1).shows("CopyIgnoredFile");
    drop(context.file("Dockerfile", "FROM busy\nNOPE\n"));
    env.run("build --check ctx").exits(1).tells("Dockerfile:2:1: unknown instruction: NOPE");
    env.run("build --call=bogus ctx").fails_with(1, "invalid call");
}

#[test]
fn targets_and_outlines() {
    let env = Env::new();
    Context::new(
        &env,
        "ARG G=5\nFROM scratch AS base\n# V the version\nARG V=1 W\nRUN --mount=type=secret,id=tok,required=true true\n\
         # app the thing\nFROM base AS app\nARG G\nFROM scratch AS other\nARG X\n",
    );
    env.run("build --call=targets ctx")
        .ok()
        .prints("TARGET          DESCRIPTION\nbase            \napp             the thing\nother (default) \n");
    env.run("build --call=outline --target app --build-arg G=9 ctx").ok().prints(
        "TARGET:      app\nDESCRIPTION: the thing\n\nBUILD ARG   VALUE   DESCRIPTION\nV           1       the version\n\
         W                   \nG           9       \n\nSECRET   REQUIRED\ntok      true\n",
    );
    let json = env.run("build --call=targets,format=json ctx").ok().json();
    assert_eq!(json["targets"][2]["default"], true);
    let json = env.run("build --call=outline,format=json --target app ctx").ok().json();
    assert_eq!(json["args"][0]["description"], "the version");
    assert_eq!(json["secrets"][0]["name"], "tok");
    env.run("images -aq").prints("");
}
