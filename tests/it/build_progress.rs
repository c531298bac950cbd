//! `build --progress` and `--trace`: what is told meanwhile.

use std::fs;

use serde_json::Value;

use crate::{build::Context, env::Env, fixture::BUSY};

#[test]
fn a_terminal_has_a_live_view() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nRUN echo said; read x < /dev/null; sleep 0.3\n");
    env.pty("build -t img ctx", |person| {
        person.expect("[+] Building ");
        person.expect(" => [2/2] RUN echo said");
        person.expect(" => => # said");
        person.expect("FINISHED");
        person.expect("naming to docker.io/library/img:latest");
    })
    .exits(0)
    // The cursor is there again.
    .shows("\x1b[?25h");
    let context = context.file("Dockerfile", "FROM busy\nRUN echo last words; exit 3\n");
    env.pty("build --progress tty ctx", |person| {
        person.expect(" => ERROR [2/2] RUN echo last words");
        person.expect("------");
        person.expect(" > [2/2] RUN echo last words; exit 3:");
        person.expect("last words");
        person.expect("2 | RUN echo last words; exit 3");
    })
    .exits(1);
    drop(context);
    env.pty("build --progress plain ctx", |person| {
        person.expect("#2 [2/2] RUN");
    })
    .exits(1)
    .hides("[+] Building");
}

#[test]
fn programs_read_json_and_browsers_a_timeline() {
    let env = Env::with("busy", BUSY);
    let context = Context::new(&env, "FROM busy\nRUN echo said\nRUN exit 3\n");
    let run = context.build("--progress rawjson --trace trace.json").exits(1);
    let lines: Vec<Value> =
        run.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let vertexes: Vec<&Value> =
        lines.iter().flat_map(|line| line["vertexes"].as_array()).flatten().collect();
    let of =
        |name: &str| vertexes.iter().rfind(|v| v["name"].as_str().unwrap().contains(name)).unwrap();
    assert!(of("RUN echo said")["completed"].is_string(), "{vertexes:?}");
    assert_eq!(of("RUN exit 3")["error"], "failed");
    let logs: Vec<&Value> =
        lines.iter().flat_map(|line| line["logs"].as_array()).flatten().collect();
    assert_eq!(logs[0]["data"], "c2FpZAo=");
    assert_eq!(logs[0]["vertex"], of("RUN echo said")["digest"]);
    let trace: Value = serde_json::from_slice(&fs::read(env.path("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!(events.len(), 3);
    assert_eq!(events[2]["args"]["outcome"], "failed");
    assert!(events[1]["dur"].as_u64().unwrap() > 0);
    let mut command = env.command("build -t img ctx");
    command.env("BUILDKIT_PROGRESS", "rawjson");
    env.run_command("build", command, Vec::new()).exits(1).tells("\"cached\":true");
    context.build("--trace none/trace.json").fails_with(1, "--trace");
}
