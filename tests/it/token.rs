//! Token authentication (distribution's "Token Authentication Specification"): Debian's registry,
//! which checks what is signed, and a service of our own that signs.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use crate::{
    env::Env,
    fixture::BUSY,
    needs::needs,
    registry::Registry,
    server::{Reply, Request, Server},
};

/// Who signs tokens: a key and its certificate.
struct Signer {
    key: PathBuf,
    certificate: PathBuf,
    /// Where what is to be signed is put.
    dir: PathBuf,
    signed: AtomicUsize,
}

impl Signer {
    fn new(env: &Env) -> Self {
        let (key, certificate) = (env.path("token.key"), env.path("token.crt"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=tokens", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        Self { key, certificate, dir: env.path(""), signed: AtomicUsize::new(0) }
    }

    /// A token (RFC 7519) that allows what `access` says; signed with RS256.
    fn token(&self, access: &Value) -> String {
        let pem = fs::read_to_string(&self.certificate).unwrap();
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
        let claims = json!({
            "iss": "tokens", "sub": "", "aud": "registry.test", "jti": "x", "access": access,
            "nbf": now - 10, "iat": now, "exp": now + 300,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&head), encode(&claims));
        let file = self.dir.join(format!("claims{}", self.signed.fetch_add(1, Ordering::Relaxed)));
        fs::write(&file, &text).unwrap();
        let signature = Command::new("openssl")
            .args(["dgst", "-sha256", "-sign"])
            .args([&self.key, &file])
            .output()
            .unwrap();
        assert!(signature.status.success());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.stdout))
    }
}

/// The values of a query's parameter.
fn values(request: &Request, name: &str) -> Vec<String> {
    let query = request.path.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let decode = |text: &str| {
        text.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace("%2A", "*")
    };
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| decode(value)).collect()
}

/// The user `user`, with the password `secret`, may do everything; anybody may pull `public/…`.
fn service(signer: Signer) -> Server {
    let known = format!("Basic {}", STANDARD.encode("user:secret"));
    Server::start(move |request| {
        assert_eq!(values(request, "service"), ["registry.test"]);
        let said = request.header("authorization");
        if !said.is_empty() && said != known {
            return Reply::status(401).saying("{\"details\":\"who are you\"}");
        }
        let allowed: Vec<Value> = values(request, "scope")
            .iter()
            .filter_map(|scope| {
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                let mut actions: Vec<_> = actions.split(',').collect();
                if said.is_empty() {
                    actions.retain(|action| *action == "pull" && name.starts_with("public/"));
                }
                Some(json!({ "type": kind, "name": name, "actions": actions }))
            })
            .collect();
        let field = if said.is_empty() { "access_token" } else { "token" };
        Reply::ok(json!({ field: signer.token(&json!(allowed)) }).to_string())
    })
}

#[test]
fn a_real_registry_takes_the_tokens_that_are_fetched_for_it() {
    needs!(tool("docker-registry"));
    needs!(tool("openssl"));
    let env = Env::new();
    let signer = Signer::new(&env);
    let certificate = signer.certificate.clone();
    let service = service(signer);
    let realm = format!("http://{}/token", service.addr);
    let registry = Registry::start_with_tokens(&env, &realm, &certificate);
    let (public, private) = (registry.name("public/app:1"), registry.name("private/app:1"));
    env.image("busy:1", BUSY);
    for name in [&public, &private] {
        env.run(&format!("tag busy:1 {name}")).ok();
        env.run(&format!("push -q {name}")).exits(1).tells("401").tells("`dhow login`");
    }
    env.run(&format!("push --creds user:wrong {public}")).exits(1).tells("401");
    env.run_with_stdin(&format!("login -u user --password-stdin {}", registry.addr), "wrong")
        .fails_with(1, "incorrect username or password");
    env.run_with_stdin(&format!("login -u user --password-stdin {}", registry.addr), "secret")
        .warns("stored unencrypted")
        .prints("Login Succeeded\n");

    let before = service.heard("/token").len();
    env.run(&format!("push -q {public}")).exits(0);
    assert_eq!(service.heard("/token").len(), before + 1, "one token for all of a push");
    // The layer is mounted from the other repository, which the token has to allow, too.
    env.run(&format!("push {private}")).exits(0).tells("Mounted from public/app");
    let scopes = values(service.heard("/token").last().unwrap(), "scope");
    assert_eq!(scopes, ["repository:private/app:pull,push", "repository:public/app:pull"]);
    env.run(&format!("search --format '{{{{.Name}}}}' {}/", registry.addr))
        .prints(&format!("{0}/private/app\n{0}/public/app\n", registry.addr));
    let scopes = values(service.heard("/token").last().unwrap(), "scope");
    assert_eq!(scopes, ["registry:catalog:*"]);

    env.run(&format!("rmi busy:1 {public} {private}")).exits(0);
    let before = service.heard("/token").len();
    env.run(&format!("pull -q {private}")).exits(0);
    assert_eq!(service.heard("/token").len(), before + 1, "one token for all of a pull");
    env.run(&format!("logout {}", registry.addr)).exits(0);
    env.run(&format!("rmi {private}")).exits(0);
    env.run(&format!("pull -q {private}")).exits(1).tells("401").tells("`dhow login`");
    env.run(&format!("pull -q {public}")).prints(&format!("{public}\n"));
    env.run(&format!("run --rm --network none {public} echo hi")).prints("hi\n");
}
