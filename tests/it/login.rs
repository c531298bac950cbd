//! `dhow login` and `dhow logout`: what they ask of a registry, what they write and where.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};

use crate::{
    depot::{Depot, Manners},
    env::Env,
    fixture::BUSY,
    needs::needs,
    registry::Registry,
};

fn config(env: &Env, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(env.path(file)).unwrap()).unwrap()
}

/// A registry that wants `user:secret`.
fn closed() -> Depot {
    let wants = Some(("Basic dXNlcjpzZWNyZXQ=".to_owned(), "Basic realm=\"r\"".to_owned()));
    Depot::start(Manners { wants, ..Manners::default() })
}

#[test]
fn who_is_known_is_remembered_and_forgotten_again() {
    needs!(tool("docker-registry"));
    let env = Env::new();
    let registry = Registry::start_closed(&env);
    let addr = &registry.addr;
    let name = registry.name("busy:1");
    env.image(&name, BUSY);
    env.run_with_stdin(&format!("login -u user --password-stdin {addr}"), "wrong\n")
        .fails_with(1, "incorrect username or password");
    assert!(!env.path(".docker/config.json").exists(), "nothing is kept of a refusal");
    env.run(&format!("login --get-login {addr}")).fails_with(1, "not logged into");

    env.run_with_stdin(&format!("login -u user --password-stdin {addr}"), "secret\n")
        .warns("stored unencrypted")
        .prints("Login Succeeded\n");
    let file = env.path(".docker/config.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let auth = json!({ "auth": "dXNlcjpzZWNyZXQ=" });
    assert_eq!(config(&env, ".docker/config.json")["auths"][addr], auth);
    env.run(&format!("login --get-login {addr}")).prints("user\n");
    env.run(&format!("push -q {name}")).prints(&format!("{name}\n"));
    env.run(&format!("login {addr}"))
        .warns("Authenticating with existing credentials")
        .prints("Login Succeeded\n");

    env.run(&format!("logout {addr}")).prints(&format!("Removing login credentials for {addr}\n"));
    assert_eq!(config(&env, ".docker/config.json")["auths"], json!({}));
    env.run(&format!("logout {addr}")).prints(&format!("Not logged in to {addr}\n"));
    env.run(&format!("pull {name}")).fails_with(1, "401").tells("`dhow login`");
}

#[test]
fn the_file_can_be_elsewhere() {
    let env = Env::new();
    let depot = closed();
    let mine = env.path("of/mine");
    let login = format!("login -u user -p secret {}", depot.addr);
    env.run(&format!("--config {} {login}", mine.display()))
        .warns("of/mine/config.json")
        .prints("Login Succeeded\n");
    let kept = config(&env, "of/mine/config.json");
    assert_eq!(kept["auths"][&depot.addr]["auth"], "dXNlcjpzZWNyZXQ=");
    assert!(!env.path(".docker").exists());
    let get = format!("login --get-login {}", depot.addr);
    env.run(&get).fails_with(1, "not logged into");
    env.run(&format!("--config={} {get}", mine.display())).prints("user\n");
}

#[test]
fn what_else_is_in_the_file_stays() {
    let env = Env::new();
    let depot = closed();
    fs::create_dir(env.path(".docker")).unwrap();
    let before = json!({
        "auths": { "other.example": { "auth": "YTpi" } }, "psFormat": "table {{.ID}}", "x": [1],
    });
    // The file may be a link to where the user keeps such things.
    env.file("real.json", before.to_string());
    std::os::unix::fs::symlink("../real.json", env.path(".docker/config.json")).unwrap();
    env.run(&format!("login -u user -p secret http://{}/v2/", depot.addr))
        .warns("WARNING! Using --password via the CLI is insecure")
        .prints("Login Succeeded\n");
    assert!(env.path(".docker/config.json").is_symlink());
    let after = config(&env, "real.json");
    assert_eq!(after["psFormat"], before["psFormat"]);
    assert_eq!(after["auths"]["other.example"], before["auths"]["other.example"]);
    assert_eq!(after["auths"][&depot.addr]["auth"], "dXNlcjpzZWNyZXQ=");
    env.run("logout --all").prints("Removed login credentials for all registries\n");
    assert_eq!(config(&env, "real.json")["auths"], json!({}));
    assert_eq!(config(&env, "real.json")["x"], json!([1]));
}

#[test]
fn podmans_file_is_kept_up_where_it_has_an_entry() {
    let env = Env::new();
    let depot = closed();
    let run = env.path("run");
    fs::create_dir_all(run.join("containers")).unwrap();
    let stale = json!({ "auths": { &depot.addr: { "auth": "dXNlcjpzdGFsZQ==" } } });
    fs::write(run.join("containers/auth.json"), stale.to_string()).unwrap();
    let line = format!("login -u user -p secret {}", depot.addr);
    let mut command = env.command(&line);
    command.env("XDG_RUNTIME_DIR", &run);
    env.run_command(&line, command, Vec::new()).exits(0);
    assert_eq!(
        config(&env, "run/containers/auth.json")["auths"][&depot.addr]["auth"],
        "dXNlcjpzZWNyZXQ=",
        "or the stale entry would hide the new one"
    );
    assert!(!env.path(".docker/config.json").exists());
    let file = env.path("own/auth.json");
    let line = format!("login -u user -p secret --authfile {} {}", file.display(), depot.addr);
    env.run(&line).exits(0);
    assert!(file.exists());
    env.run(&format!("logout --authfile {} {}", file.display(), depot.addr)).exits(0);
    assert_eq!(config(&env, "own/auth.json")["auths"], json!({}));
}

#[test]
fn a_helper_keeps_the_secret() {
    let env = Env::new();
    let depot = closed();
    fs::create_dir_all(env.path("bin")).unwrap();
    let kept = env.path("kept");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0} ;;\nget) cat > /dev/null; test -f {0} || {{ echo 'credentials not found in native keychain'; exit 1; }}; cat {0} ;;\nerase) rm {0} ;;\nesac\n",
        kept.display()
    );
    let helper = env.file("bin/docker-credential-box", script);
    fs::set_permissions(helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(env.path(".docker")).unwrap();
    env.file(".docker/config.json", json!({ "credsStore": "box" }).to_string());
    let run = |line: &str| {
        let mut command = env.command(line);
        command.env("PATH", format!("{}:/usr/bin:/bin", env.path("bin").display()));
        env.run_command(line, command, Vec::new())
    };
    run(&format!("login --get-login {}", depot.addr)).fails_with(1, "not logged into");
    // No warning: the secret is not in the file.
    let login = run(&format!("login -u user -p secret {}", depot.addr)).exits(0).stderr;
    assert!(!login.contains("unencrypted"), "{login}");
    let secret: Value = serde_json::from_str(&fs::read_to_string(&kept).unwrap()).unwrap();
    assert_eq!(secret, json!({ "ServerURL": depot.addr, "Username": "user", "Secret": "secret" }));
    assert!(!fs::read_to_string(env.path(".docker/config.json")).unwrap().contains("dXNl"));
    run(&format!("login --get-login {}", depot.addr)).prints("user\n");
    run(&format!("logout {}", depot.addr)).shows("Removing login credentials");
    assert!(!kept.exists());
}

#[test]
fn a_token_service_is_asked_with_the_credentials() {
    let env = Env::new();
    let challenge = "Bearer realm=\"http://HOST/token\",service=\"s\"".to_owned();
    let wants = Some(("Bearer t0ken".to_owned(), challenge));
    let depot = Depot::start(Manners { wants, ..Manners::default() });
    env.run(&format!("login -u user -p secret {}", depot.addr)).exits(0);
    let asked = depot.heard("GET", "/token");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/token?service=s");
    assert_eq!(asked[0].header("authorization"), "Basic dXNlcjpzZWNyZXQ=");
}

#[test]
fn a_person_is_asked_and_the_password_is_not_shown() {
    let env = Env::new();
    let depot = closed();
    let screen = env.pty(&format!("login {}", depot.addr), |person| {
        person.expect("Username: ");
        person.send("user\n");
        person.expect("Password: ");
        person.send("secret\n");
        person.expect("Login Succeeded");
    });
    let screen = screen.exits(0).stdout;
    assert!(!screen.contains("secret"), "{screen:?}");
}

#[test]
fn mistakes_are_named() {
    let env = Env::new();
    let depot = closed();
    let addr = &depot.addr;
    for (line, says) in [
        (format!("login {addr}"), "Cannot perform an interactive login from a non TTY device"),
        (format!("login -u user {addr}"), "non TTY device"),
        (format!("login --password-stdin {addr}"), "Must provide --username with --password-stdin"),
        (
            format!("login -u u -p x --password-stdin {addr}"),
            "--password and --password-stdin are mutually exclusive",
        ),
        (format!("login -u a:b -p x {addr}"), "no colon"),
        (format!("login -u '' -p x {addr}"), "must not be empty"),
        ("login -u u -p x ../etc".into(), "is not a registry's name"),
        (format!("logout --all {addr}"), "--all takes no registry"),
    ] {
        env.run(&line).fails_with(1, says);
    }
    assert!(depot.log().is_empty(), "{:?}", depot.log());
    fs::create_dir(env.path(".docker")).unwrap();
    let file = env.file(".docker/config.json", "{ oops");
    env.run(&format!("login -u user -p secret {addr}")).exits(1).tells("not valid JSON");
    assert_eq!(fs::read_to_string(file).unwrap(), "{ oops", "a file that is not understood stays");
}
