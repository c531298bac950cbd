//! Where images come from: registries.conf, proxies, one request for what has not changed.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use dhow::oci::Digest;

use crate::{
    env::{Env, Run},
    fixture::BUSY,
    server::{Parts, Reply, Request, Server},
};

/// Gives the user a registries.conf.
fn configure(env: &Env, text: &str) {
    fs::create_dir_all(env.path(".config/containers")).unwrap();
    env.file(".config/containers/registries.conf", text);
}

fn honest() -> Server {
    Server::of(Parts::of(BUSY), |_, _| None)
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_if_it_does_not_have_it() {
    let env = Env::new();
    let (mirror, registry) = (honest(), honest());
    configure(
        &env,
        &format!(
            "[[registry]]\nprefix = 'reg.example'\nlocation = '{}'\n\
             [[registry.mirror]]\nlocation = '{}/cache'\n",
            registry.addr, mirror.addr
        ),
    );
    env.run("pull -q reg.example/app:1").prints("reg.example/app:1\n");
    assert_eq!(mirror.heard("/v2/cache/app/manifests/1").len(), 1);
    assert_eq!(registry.heard("").len(), 0, "the mirror had all of it");
    env.run("images --format {{.Repository}}").prints("reg.example/app\n");

    let empty = Server::start(|_| Reply::status(404));
    env.run("rmi reg.example/app:1").exits(0);
    configure(
        &env,
        &format!(
            "[[registry]]\nprefix = 'reg.example'\nlocation = '{}/moved'\n\
             [[registry.mirror]]\nlocation = '{}'\n",
            registry.addr, empty.addr
        ),
    );
    env.run("pull -q reg.example/app:1").exits(0);
    assert_eq!(empty.heard("/v2/app/manifests/1").len(), 1);
    assert_eq!(registry.heard("/v2/moved/app/manifests/1").len(), 1);
}

#[test]
fn a_blocked_registry_is_not_asked() {
    let env = Env::new();
    let server = honest();
    configure(&env, &format!("[[registry]]\nlocation = '{}'\nblocked = true\n", server.addr));
    for verb in ["pull", "run --network none", "push dhow/hello"] {
        let code = if verb.starts_with("run") { 125 } else { 1 };
        if verb.starts_with("push") {
            env.run("run --rm --network none dhow/hello").exits(0);
        }
        env.run(&format!("{verb} {}", server.image()))
            .exits(code)
            .tells(&format!("registry {} is blocked in", server.addr));
    }
    assert_eq!(server.heard("").len(), 0);
}

#[test]
fn short_names_mean_what_the_files_say() {
    let env = Env::new();
    let (one, two) = (honest(), honest());
    fs::create_dir_all(env.path(".config/containers/registries.conf.d")).unwrap();
    env.file(
        ".config/containers/registries.conf.d/names.conf",
        format!("[aliases]\n'myapp' = '{}/team/app'\n", one.addr),
    );
    let empty = Server::start(|_| Reply::status(404));
    configure(
        &env,
        &format!("unqualified-search-registries = ['{}', '{}']\n", empty.addr, two.addr),
    );
    let alias = format!("{}/team/app:1", one.addr);
    env.run("pull -q myapp:1").prints(&format!("{alias}\n"));
    // From now on it is here, by the name that was typed too.
    let before = one.heard("").len();
    env.run("run --rm --network none myapp:1 echo hi").prints("hi\n");
    env.run("run --rm --network none --pull never myapp:1 echo hi").prints("hi\n");
    assert_eq!(one.heard("").len(), before, "a warm run asks nobody");

    env.run("pull -q other:1").prints(&format!("{}/other:1\n", two.addr));
    assert_eq!(empty.heard("/v2/other/manifests/1").len(), 1, "in the order of the list");
}

#[test]
fn whatever_looks_for_an_image_here_knows_short_names() {
    let env = Env::new();
    let one = honest();
    configure(
        &env,
        &format!(
            "unqualified-search-registries = ['{0}']\n[aliases]\n'myapp' = '{0}/team/app'\n",
            one.addr
        ),
    );
    let full = format!("{}/team/app:1", one.addr);
    for (typed, name) in [("myapp:1", full.clone()), ("sought:1", format!("{}/sought:1", one.addr))]
    {
        env.run(&format!("pull -q {typed}")).prints(&format!("{name}\n"));
        env.run(&format!("image exists {typed}")).ok();
        let id = env.run(&format!("inspect --format {{{{.Id}}}} {typed}")).text();
        env.run(&format!("images --format {{{{.Repository}}}}:{{{{.Tag}}}} {typed}"))
            .prints(&format!("{name}\n"));
        env.run(&format!("create --name box --network none {typed} true")).exits(0);
        env.run(&format!("ps -a --format {{{{.Names}}}} --filter ancestor={typed}"))
            .prints("box\n");
        env.run(&format!("rmi {typed}")).fails_with(1, "unable to remove repository reference");
        env.run("rm box").exits(0);
        env.run(&format!("tag {typed} other.example/kept:1")).ok();
        env.run(&format!("untag other.example/kept:1 {typed}")).ok();
        env.run(&format!("image exists {typed}")).exits(1);
        env.run(&format!("tag other.example/kept:1 {name}")).ok();
        env.run("untag other.example/kept:1 other.example/kept:1").ok();
        env.run(&format!("rmi {typed}")).shows(&format!("Untagged: {name}\n")).shows(&id);
        env.run("images -q").prints("");
    }
    env.run("images --format {{.Repository}} myapp").prints("");
}

#[test]
fn a_file_that_is_not_understood_is_named() {
    let env = Env::new();
    configure(&env, "[[registry]]\nlocation = 'a'\nblocked = maybe\n");
    env.run("pull a/b").exits(1).tells("registries.conf: line 3");
    configure(&env, "[registries.search]\nregistries = ['a']\n");
    env.run("pull a.example/b").exits(1).tells("version 1 of registries.conf");
    configure(&env, "[[registry]]\nprefix = 'a.example'\nlocation = 'B D'\n");
    env.run("pull a.example/b").exits(1).tells("location \"B D\"");
}

// ---- proxies ------------------------------------------------------------------------------------

/// A proxy that leads every CONNECT to one address, and remembers what was asked for.
struct Proxy {
    addr: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (log, target) = (Arc::clone(&asked), target.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, target) = (Arc::clone(&log), target.clone());
                thread::spawn(move || drop(lead(stream.unwrap(), &target, &log)));
            }
        });
        Self { addr, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn lead(mut stream: TcpStream, target: &str, log: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    log.lock().unwrap().push(first.split(' ').take(2).collect::<Vec<_>>().join(" "));
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let mut there = TcpStream::connect(target)?;
    let (mut back, mut to) = (there.try_clone()?, stream.try_clone()?);
    let answers = thread::spawn(move || {
        io::copy(&mut back, &mut to).and_then(|_| to.shutdown(std::net::Shutdown::Write))
    });
    io::copy(&mut reader, &mut there)?;
    there.shutdown(std::net::Shutdown::Write)?;
    answers.join().unwrap()
}

fn with(env: &Env, line: &str, variables: &[(&str, &str)]) -> Run {
    let mut command = env.command(line);
    command.envs(variables.iter().copied());
    env.run_command(line, command, Vec::new())
}

#[test]
fn a_proxy_leads_to_the_registry_unless_it_is_not_to() {
    let env = Env::new();
    let server = honest();
    let proxy = Proxy::to(&server.addr);
    // The name is the proxy's to look up.
    let name = "registry.invalid:5000/app:1";
    let pull = format!("pull -q --tls-verify=false {name}");
    let url = format!("http://{}", proxy.addr);
    let both = [("HTTPS_PROXY", url.as_str()), ("http_proxy", proxy.addr.as_str())];
    with(&env, &pull, &both).prints(&format!("{name}\n"));
    assert!(proxy.asked().contains(&"CONNECT registry.invalid:5000".to_owned()));
    assert!(!server.heard("/manifests/").is_empty());

    let asked = proxy.asked().len();
    let none = [both[0], both[1], ("NO_PROXY", ".invalid")];
    let failing = format!("pull --retry 0 --tls-verify=false {name}");
    with(&env, &failing, &none).exits(1).tells("cannot reach registry.invalid:5000");
    assert_eq!(proxy.asked().len(), asked, "it was not asked");
    // A proxy's loopback is not ours.
    with(&env, &format!("pull -q {}", server.image()), &both).exits(0);
    assert_eq!(proxy.asked().len(), asked);
    with(&env, &failing, &[("ALL_PROXY", "ftp://x")]).exits(1).tells("name no usable proxy");
}

// ---- as few requests as there can be ------------------------------------------------------------

#[test]
fn what_has_not_changed_costs_one_request_and_a_warm_run_none() {
    let env = Env::new();
    let parts = Parts::of(BUSY);
    let entry = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::of(&parts.manifest), "size": parts.manifest.len(),
        "platform": { "os": "linux", "architecture": crate::fixture::host_architecture() },
    });
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [entry] });
    let by_index = Server::of(parts, move |request: &Request, _: &Parts| {
        let asked = request.path.ends_with("/manifests/1");
        asked.then(|| Reply::ok(index.to_string()).with("Content-Type", kind))
    });
    for server in [honest(), by_index] {
        let name = server.image();
        env.run(&format!("pull -q {name}")).exits(0);
        let before = server.heard("").len();
        env.run(&format!("pull {name}"))
            .warns("Status: Image is up to date for")
            .tells(": Already exists\n");
        assert_eq!(server.heard("").len(), before + 1, "{:?}", server.heard(""));
        env.run(&format!("run --rm --network none {name} true")).ok();
        assert_eq!(server.heard("").len(), before + 1, "a warm run asks nobody");
        env.run(&format!("rmi -f {name}")).exits(0);
    }
}

#[test]
fn policies_say_when_to_ask() {
    let env = Env::new();
    let server = honest();
    let name = server.image();
    env.run(&format!("pull --policy never {name}")).fails_with(1, "No such image");
    env.run(&format!("pull -q --policy missing {name}")).exits(0);
    let before = server.heard("").len();
    env.run(&format!("pull -q --policy missing {name}")).prints(&format!("{name}\n"));
    env.run(&format!("pull -q --policy never {name}")).prints(&format!("{name}\n"));
    assert_eq!(server.heard("").len(), before);
    env.run(&format!("pull -q --policy newer {name}")).exits(0);
    assert_eq!(server.heard("").len(), before + 1);
    env.run(&format!("pull --policy daily {name}")).fails_with(1, "invalid --policy");
    // What is here will do where nobody answers.
    let gone = Server::of(Parts::of(BUSY), |_, _| None);
    let addr = gone.addr.clone();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    configure(&env, &format!("[[registry]]\nprefix = 'r.example'\nlocation = '{addr}'\n"));
    env.run("pull -q r.example/app:1").exits(0);
    configure(&env, &format!("[[registry]]\nprefix = 'r.example'\nlocation = '{dead}'\n"));
    env.run("pull --retry 0 r.example/app:1").exits(1).tells("cannot reach");
    env.run("pull -q --retry 0 --policy newer r.example/app:1").prints("r.example/app:1\n");
    env.run("run --rm --pull newer --network none -q r.example/app:1 echo hi").exits(0);
}
