//! `secret`, and `--secret` of `run` and `create`.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use crate::{env::Env, fixture::BUSY};

/// What a secret holds here; it must be nowhere that it was not given to.
const VALUE: &str = "hunter2-0b9c";

fn env() -> Env {
    let env = Env::with("busy", BUSY);
    env.run_with_stdin("secret create db -", VALUE).ok();
    env
}

/// Files below `dir` that hold the value, or its base64.
fn holding(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(holding(&path));
        } else if meta.is_file() {
            let text = fs::read(&path).unwrap_or_default();
            let has = |part: &str| text.windows(part.len()).any(|w| w == part.as_bytes());
            if has(VALUE) || has("aHVudGVyMi0wYjlj") {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn a_secret_is_kept_listed_described_and_removed() {
    let env = env();
    env.file("value", "first");
    let id = env.run("secret create -l team=a --label tier=1 web ./value").ok().stdout;
    let id = id.trim();
    assert!(id.len() == 25 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let mode = fs::metadata(env.root().join("secrets/web")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);

    env.run("secret create web ./value").fails_with(1, "web: secret name in use");
    env.run("secret create --ignore web ./value").prints(&format!("{id}\n"));
    env.run("secret ls --format '{{.Name}} {{.Driver}} {{.Labels}}'")
        .prints("db file \nweb file team=a,tier=1\n");
    env.run("secret ls")
        .shows("ID")
        .shows("NAME")
        .shows("DRIVER")
        .shows("CREATED")
        .shows("UPDATED");
    env.run("secret ls --noheading --filter name=we --format 'table {{.Name}}'").prints("web\n");
    env.run("secret ls -q --filter label=team").prints(&format!("{id}\n"));
    env.run(&format!("secret list -n -f id={} --format '{{{{.Name}}}}'", &id[..12]))
        .prints("web\n");
    env.run("secret ls --filter color=red").fails_with(1, "invalid filter 'color'");

    env.run("secret inspect --format '{{.ID}} {{.Spec.Name}} {{.Spec.Labels.team}}' web")
        .prints(&format!("{id} web a\n"));
    env.run("secret inspect --pretty web").shows("Name:              web\nLabels:\n - team=a\n");
    env.run("secret inspect -f '{{.Spec.Driver.Name}}' web db").prints("file\nfile\n");
    assert!(!env.run("secret inspect db").ok().stdout.contains(VALUE));
    env.run("secret inspect --showsecret -f '{{.SecretData}}' db").prints(&format!("{VALUE}\n"));

    let new = env.run("secret create --replace web ./value").ok().stdout;
    assert_ne!(new.trim(), id);
    env.run(&format!("secret exists {}", new.trim())).exits(0);
    env.run("secret exists nosuch").exits(1);
    env.run("secret rm nosuch").fails_with(1, "no secret with name or id \"nosuch\"");
    env.run("secret rm --ignore web nosuch").prints("web\n");
    env.run("secret rm --all").prints("db\n");
    env.run("secret ls -q").prints("");
    env.run("system check").ok();
}

#[test]
fn what_is_no_secret_is_refused() {
    let env = Env::with("busy", BUSY);
    env.file("value", "x");
    env.file("empty", "");
    env.file("long", vec![b'x'; 512_000]);
    let too = "secret data must be larger than 0 and less than 512000 bytes";
    env.run("secret create one ./empty").fails_with(1, too);
    env.run("secret create one ./long").fails_with(1, too);
    env.run("secret create one ./nosuch").fails_with(1, "No such file");
    env.run("secret create one").fails_with(1, "requires 2 arguments");
    for name in ["a/b", "..", "a=b", "a,b", ".hidden"] {
        env.run(&format!("secret create {name} ./value")).fails_with(1, "invalid secret name");
    }
    env.run("secret create -d vault one ./value").fails_with(1, "invalid driver \"vault\"");
    env.run("secret create --env one NO_SUCH").fails_with(1, "NO_SUCH is not set");
    let mut command = env.command("secret create --driver-opts path=x --env one GIVEN");
    command.env("GIVEN", "from the environment");
    env.run_command("secret create --env", command, Vec::new()).ok();
    env.run("secret inspect --showsecret -f '{{.SecretData}}' one")
        .prints("from the environment\n");

    for (typed, why) in [
        ("nosuch", "no secret with name or id \"nosuch\""),
        ("one,type=file", "type file is invalid"),
        ("one,color=red", "option color=red invalid"),
        ("one,mode=9", "mode 9 invalid"),
        ("one,uid=-1", "uid -1 invalid"),
        ("one,type=env,uid=1", "cannot be set with secret type env"),
        (",type=env", "does not begin with a secret's name"),
    ] {
        env.run(&format!("run --rm --secret {typed} busy true")).fails_with(125, why);
    }
    env.run("ps -aq").prints("");
}

#[test]
fn a_container_sees_its_secrets_as_files() {
    let env = env();
    let show = "sh -c 'cd /run/secrets && cat db && stat -c \" %a %u:%g\" db'";
    env.run(&format!("run --rm --secret db busy {show}")).prints(&format!("{VALUE} 444 0:0\n"));
    env.run("run --rm --secret source=db,target=other busy cat /run/secrets/other").prints(VALUE);
    env.run("run --rm --secret db,target=/etc/db.key,mode=0400,uid=0,gid=0 busy sh -c 'cat /etc/db.key; stat -c %a /etc/db.key'")
        .prints(&format!("{VALUE}400\n"));
    env.run("run --rm --read-only --secret db --tmpfs /run busy cat /run/secrets/db").prints(VALUE);
    env.run("run --rm --secret db busy sh -c 'echo x > /run/secrets/db'").exits(1);
}

#[test]
fn a_secret_is_somebodys() {
    if !nix::unistd::geteuid().is_root() {
        crate::needs::needs!(subids);
    }
    let env = env();
    let run = "run --rm --secret db,uid=1000,gid=2000,mode=0400";
    env.run(&format!("{run} busy stat -c %u:%g /run/secrets/db")).prints("1000:2000\n");
    env.run(&format!("{run} --user 1000 busy cat /run/secrets/db")).prints(VALUE);
    env.run(&format!("{run} --user 1001 --cap-drop all busy cat /run/secrets/db"))
        .fails_with(1, "Permission denied");
}

#[test]
fn a_secret_is_a_variable_of_what_runs_and_nothing_else() {
    let env = env();
    env.run("run --rm --secret db,type=env busy sh -c 'echo $db'").prints(&format!("{VALUE}\n"));
    env.run("run --name box -d -e KEY=public --secret db,type=env,target=KEY busy sh -c 'trap exit TERM; while :; do sleep 0.1; done'").ok();
    env.run("exec box sh -c 'echo $KEY'").prints(&format!("{VALUE}\n"));
    // What a start wrote down for it may be lost.
    fs::remove_file(exec_plan(&env)).unwrap();
    env.run("exec box sh -c 'echo $KEY'").prints(&format!("{VALUE}\n"));
    let shown = env.run("inspect box").ok().stdout;
    assert!(!shown.contains(VALUE) && shown.contains("\"KEY=public\""), "{shown}");
    env.run("inspect -f '{{range .Config.Secrets}}{{.Name}}{{end}}' box").prints("db\n");
    env.run("rm -ft 0 box").ok();
}

fn exec_plan(env: &Env) -> std::path::PathBuf {
    let containers = env.runroot().join("containers");
    let only = fs::read_dir(containers).unwrap().next().unwrap().unwrap();
    only.path().join("exec.plan")
}

#[test]
fn secrets_outlive_what_they_were_made_from_and_go_with_the_container() {
    let env = env();
    let run = "run --name box --secret db --secret db,type=env,target=KEY busy";
    let show = "sh -c 'cat /run/secrets/db; echo \" $KEY\"'";
    let both = format!("{VALUE} {VALUE}\n");
    env.run(&format!("{run} {show}")).prints(&both);
    env.run("secret rm db").ok();
    env.run("start -a box").prints(&both);
    // The log has what the container said of them; that is the container's doing.
    env.run("commit box made").ok();
    let image = env.run("image inspect made").ok().stdout;
    assert!(!image.contains(VALUE), "{image}");
    env.run("run --rm made sh -c 'cat /run/secrets/db; echo $KEY'").prints("\n");
    let spec = env.run("run --dry-run --rm busy true").ok().stdout;
    assert!(!spec.contains(VALUE));
    env.run("rm box").ok();
    assert_eq!(holding(&env.root()), Vec::<String>::new());
    assert_eq!(holding(&env.runroot()), Vec::<String>::new());
}

#[test]
fn a_secret_is_copied_to_its_container_and_nowhere_else() {
    let env = env();
    let id = env.run("create --secret db --secret db,type=env busy true").ok().stdout;
    let home = env.root().join("containers").join(id.trim()).join("files/secrets");
    let holding = holding(&env.root());
    assert_eq!(holding.len(), 3, "{holding:?}");
    let own = |path: &String| Path::new(path).starts_with(&home);
    assert_eq!(holding.iter().filter(|path| own(path)).count(), 2, "{holding:?}");
    // The one that is a file is read by whoever the container lets; no other user gets there.
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(home.parent().unwrap().parent().unwrap()) & 0o077, 0);
    assert_eq!(mode(&home.join("1/value")), 0o600);
    env.run(&format!("rm {}", id.trim())).ok();
}

#[test]
fn a_clone_takes_the_secret_as_it_is() {
    let env = env();
    env.run("create --name box --secret db busy cat /run/secrets/db").ok();
    env.run_with_stdin("secret create --replace db -", "changed").ok();
    env.run("start -a box").prints(VALUE);
    env.run("container clone box twin").ok();
    env.run("start -a twin").prints("changed");
    env.run("secret rm db").ok();
    env.run("container clone box third").fails_with(1, "no secret with name or id \"db\"");
    env.run("rm box twin").ok();
}
