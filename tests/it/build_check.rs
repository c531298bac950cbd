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
        "TARGET:      app\nDESCRIPTION: the thing\n\nBUILD ARG   VALUE   DESCRIPTION\nG           9       \n\
         V           1       the version\nW                   \n\nSECRET   REQUIRED\ntok      true\n",
    );
    let json = env.run("build --call=targets,format=json ctx").ok().json();
    assert_eq!(json["targets"][2]["default"], true);
    let json = env.run("build --call=outline,format=json --target app ctx").ok().json();
    assert_eq!(
        (&json["args"][0]["name"], &json["args"][1]["description"]),
        (&"G".into(), &"the version".into())
    );
    assert_eq!(json["secrets"][0]["name"], "tok");
    // As it is written.
    Context::new(&env, "ARG V=1\nFROM --platform=$BUILDPLATFORM img:${V} AS one\n");
    let written = env.run("build --call=targets,format=json ctx").ok().json();
    assert_eq!(written["targets"][0]["base"], "img:${V}");
    assert_eq!(written["targets"][0]["platform"], "$BUILDPLATFORM");
    env.run("images -aq").prints("");
}

/// The bad examples of docs.docker.com, "Build checks": the rule, its line, what it says.
#[test]
fn every_rule_of_the_documentation() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "").file(".dockerignore", "tmp/\n").file("tmp/Dockerfile", "");
    let name =
        |rule: &str| format!("WARNING: {rule} - https://docs.docker.com/go/dockerfile/rule/");
    for (text, found) in [
        (
            "From busy\nRun echo hello\nEntryPoint [\"/greeting.sh\"]\n",
            &[
                (
                    "ConsistentInstructionCasing",
                    1,
                    "Command 'From' should match the case of the command majority (uppercase)",
                ),
                (
                    "ConsistentInstructionCasing",
                    2,
                    "Command 'Run' should match the case of the command majority (uppercase)",
                ),
                (
                    "ConsistentInstructionCasing",
                    3,
                    "Command 'EntryPoint' should match the case of the command majority (uppercase)",
                ),
            ][..],
        ),
        (
            "FROM busy\nCOPY ./tmp/Dockerfile /foo\n",
            &[(
                "CopyIgnoredFile",
                2,
                "Attempting to Copy file \"./tmp/Dockerfile\" that is excluded by .dockerignore",
            )],
        ),
        (
            "FROM busy AS builder\nRUN true\nFROM busy AS builder\n",
            &[(
                "DuplicateStageName",
                3,
                "Duplicate stage name \"builder\", stage names should be unique",
            )],
        ),
        (
            "FROM busy\nEXPOSE 127.0.0.1:80:80\nEXPOSE 80:80\nEXPOSE 8080/TcP\n",
            &[
                (
                    "ExposeInvalidFormat",
                    2,
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
                ),
                (
                    "ExposeInvalidFormat",
                    3,
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '80:80'",
                ),
                (
                    "ExposeProtoCasing",
                    4,
                    "Defined protocol '8080/TcP' in EXPOSE instruction should be lowercase",
                ),
            ],
        ),
        (
            "FROM busy as builder\n",
            &[("FromAsCasing", 1, "'as' and 'FROM' keywords' casing do not match")],
        ),
        (
            "FROM --platform=linux/amd64 busy AS base\n",
            &[(
                "FromPlatformFlagConstDisallowed",
                1,
                "FROM --platform flag should not use constant value \"linux/amd64\"",
            )],
        ),
        (
            "ARG TAG\nFROM busy:${TAG}\n",
            &[(
                "InvalidDefaultArgInFrom",
                2,
                "Default value for ARG busy:${TAG} results in empty or invalid base image name",
            )],
        ),
        (
            "# check=experimental=InvalidDefinitionDescription\n# a comment that says nothing\nFROM scratch AS base\n\n# another one\n\nARG VERSION=1\n#\nARG OTHER=2\n# LAST what it is\nARG LAST\n",
            &[
                (
                    "InvalidDefinitionDescription",
                    3,
                    "Comment for FROM should follow the format: `# base <description>`",
                ),
                (
                    "InvalidDefinitionDescription",
                    7,
                    "Comment for ARG should follow the format: `# VERSION <description>`",
                ),
            ],
        ),
        (
            "FROM busy\nENTRYPOINT my-program start\nCMD x\n",
            &[
                (
                    "JSONArgsRecommended",
                    2,
                    "JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals",
                ),
                (
                    "JSONArgsRecommended",
                    3,
                    "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
                ),
            ],
        ),
        (
            "FROM busy\nENV DIR /var\n",
            &[(
                "LegacyKeyValueFormat",
                2,
                "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            )],
        ),
        (
            "FROM busy\nMAINTAINER moby@example.com\n",
            &[(
                "MaintainerDeprecated",
                2,
                "Maintainer instruction is deprecated in favor of using label",
            )],
        ),
        (
            "FROM busy\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]\n",
            &[(
                "MultipleInstructionsDisallowed",
                2,
                "Multiple ENTRYPOINT instructions should not be used in the same stage because only the last one will be used",
            )],
        ),
        ("FROM busy\nEXPOSE \\\n\n80\n", &[("NoEmptyContinuation", 4, "Empty continuation line")]),
        (
            "FROM --platform=$TARGETPLATFORM busy AS builder\n",
            &[(
                "RedundantTargetPlatform",
                1,
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            )],
        ),
        (
            "FROM busy AS scratch\nFROM busy AS context\n",
            &[
                (
                    "ReservedStageName",
                    1,
                    "Stage name should not use the same name as reserved stage \"scratch\"",
                ),
                (
                    "ReservedStageName",
                    2,
                    "Stage name should not use the same name as reserved stage \"context\"",
                ),
            ],
        ),
        (
            "FROM scratch\nARG AWS_SECRET_ACCESS_KEY\n",
            &[(
                "SecretsUsedInArgOrEnv",
                2,
                "Do not use ARG or ENV instructions for sensitive data (ARG \"AWS_SECRET_ACCESS_KEY\")",
            )],
        ),
        (
            "FROM busy AS BuilderBase\n",
            &[("StageNameCasing", 1, "Stage name 'BuilderBase' should be lowercase")],
        ),
        (
            "FROM busy:${VARIANT:-latest} AS jsbuilder\n",
            &[("UndefinedArgInFrom", 1, "FROM argument 'VARIANT' is not declared")],
        ),
        (
            "FROM busy AS base\nCOPY ${foo:-x} .\nENV A=$PAHT\n",
            &[
                ("UndefinedVar", 2, "Usage of undefined variable '$foo'"),
                ("UndefinedVar", 3, "Usage of undefined variable '$PAHT' (did you mean $PATH?)"),
            ],
        ),
        (
            "FROM busy\nWORKDIR usr/share\nWORKDIR nginx\n",
            &[(
                "WorkdirRelativePath",
                2,
                "Relative workdir \"usr/share\" can have unexpected results if the base image changes",
            )],
        ),
    ] {
        std::fs::write(context.dir.join("Dockerfile"), text).unwrap();
        let told = env.run("build --check ctx").exits(1).stdout;
        for (rule, line, said) in found {
            let block = told.split("\n\n").find(|block| {
                block.starts_with(&name(rule)) && block.contains(&format!("\nDockerfile:{line}\n"))
            });
            let block = block.unwrap_or_else(|| panic!("{rule} in line {line} of {text}: {told}"));
            assert_eq!(block.lines().nth(1), Some(*said), "{text}");
        }
        assert_eq!(told.matches("WARNING: ").count(), found.len(), "{text}: {told}");
    }
}

#[test]
fn checks_and_outlines_for_programs() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nRUNN x\n");
    let json = env.run("build --call=check,format=json ctx").exits(1).json();
    assert_eq!(
        json["buildError"]["message"],
        "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)"
    );
    assert_eq!(json["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
    env.run("build --check ctx").exits(1).prints("").tells("Dockerfile:2:1");
    let context = context.file("Dockerfile", "# check=error=true\nFROM busy AS A\n");
    let json = env.run("build --call=check,format=json ctx").exits(1).json();
    assert_eq!(json["buildError"]["message"], "lint violation found for rules: StageNameCasing");
    drop(context.file(
        "Dockerfile",
        "ARG G=5\nFROM busy AS base\nARG V=1 X=$V-$G TARGETARCH\nARG G\n\
         RUN --mount=type=ssh,required --mount=type=ssh,id=k --mount=type=secret,target=/etc/t true\nFROM base\nARG Y=${V}z\n",
    ));
    env.run("build --call=outline --build-arg V=9 ctx").ok().prints(
        "BUILD ARG   VALUE   DESCRIPTION\nG           5       \nV           9       \nX           9-      \nY           9z      \n\n\
         SECRET   REQUIRED\nt        \n\nSSH       REQUIRED\ndefault   true\nk         \n",
    );
    let json = env.run("build --call=outline,format=json ctx").ok().json();
    assert_eq!(json["ssh"][0]["required"], true);
    assert_eq!(json["args"][0]["location"]["ranges"][0]["start"]["line"], 1);
}
