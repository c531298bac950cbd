//! Which images may come here: policy.json, and signatures in cosign's format.

use std::{fs, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::{
    depot::{Depot, Manners},
    env::Env,
    fixture::{BUSY, Compression, Image},
    needs::needs,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn openssl(args: &[&str]) -> bool {
    let out = Command::new("openssl").args(args).output().unwrap();
    out.status.success()
}

/// A new pair of keys: private and public.
fn keys(env: &Env, name: &str) -> (String, String) {
    let path = |end: &str| env.path(&format!("{name}{end}")).to_str().unwrap().to_owned();
    let (key, public) = (path(".key"), path(".pub"));
    let curve = "ec_paramgen_curve:P-256";
    assert!(openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", &key]));
    assert!(openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]));
    (key, public)
}

fn policy(env: &Env, value: &Value) {
    fs::create_dir_all(env.path(".config/containers")).unwrap();
    env.file(".config/containers/policy.json", value.to_string());
}

/// A key as cosign and skopeo make them, under the password `open sesame`.
const SEALED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/keys/sealed.key");
const SEALED_PUBLIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/keys/sealed.pub");

fn recorded(name: &str) -> Vec<u8> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/signed");
    fs::read(std::path::Path::new(dir).join(name)).unwrap()
}

/// `registry.example/team/app:1` as skopeo 1.22 or cosign 3.1 has signed it with that key; Debian
/// 12 has neither.
fn signed_by(env: &Env, by_cosign: bool) -> Depot {
    let read = recorded;
    let depot = Depot::start(Manners::default());
    for blob in ["layer.tar.gz", "config.json", "payload.json", "bundle.json"] {
        depot.put_blob("team/app", &read(blob));
    }
    let manifest = read("manifest.json");
    let tag = format!("sha256-{}", dhow::oci::Digest::of(&manifest).hex());
    depot.put_manifest("team/app", "1", MANIFEST, &manifest);
    if by_cosign {
        depot.put_manifest("team/app", "bundle", MANIFEST, &read("bundle-manifest.json"));
        let kind = "application/vnd.oci.image.index.v1+json";
        depot.put_manifest("team/app", &tag, kind, &read("referrers.json"));
    } else {
        let tag = format!("{tag}.sig");
        depot.put_manifest("team/app", &tag, MANIFEST, &read("signatures.json"));
    }
    fs::create_dir_all(env.path(".config/containers")).unwrap();
    env.file(
        ".config/containers/registries.conf",
        format!(
            "[[registry]]\nprefix = \"registry.example\"\nlocation = \"{}\"\ninsecure = true\n",
            depot.addr
        ),
    );
    depot
}

/// The signature image of what is called so.
fn signature(depot: &Depot, repository: &str, tag: &str) -> (String, Value) {
    let digest = dhow::oci::Digest::of(&depot.manifest(repository, tag).1);
    let sig = format!("sha256-{}.sig", digest.hex());
    let (_, bytes) = depot.manifest(repository, &sig);
    (sig, serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn what_is_signed_is_known_by_its_key() {
    needs!(tool("openssl"));
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    let (key, public) = keys(&env, "own");
    let (_, stranger) = keys(&env, "stranger");
    let (signed, plain) = (depot.name("team/app:1"), depot.name("plain:1"));
    env.image(&signed, BUSY);
    env.image(&plain, &format!("{BUSY}\n/b 0644 b"));
    env.run(&format!("push -q --sign-by {key} {signed}")).exits(0);
    env.run(&format!("push -q {plain}")).exits(0);
    env.run(&format!("rmi {signed} {plain}")).exits(0);

    // Another's opinion of the signature.
    let (_, manifest) = signature(&depot, "team/app", "1");
    let layer = &manifest["layers"][0];
    let blob = depot.blob("team/app", layer["digest"].as_str().unwrap());
    let payload = env.file("payload", &blob);
    let text = layer["annotations"]["dev.cosignproject.cosign/signature"].as_str().unwrap();
    let bytes = env.file("signature", BASE64.decode(text).unwrap());
    assert!(openssl(&["dgst", "-sha256", "-verify", &public, "-signature", &bytes, &payload]));
    let said: Value = serde_json::from_slice(&blob).unwrap();
    assert_eq!(said["critical"]["type"], "cosign container image signature");

    env.run(&format!("pull --verify-key {stranger} {signed}"))
        .fails_with(1, "the image is not trusted")
        .tells("by a key that is trusted");
    env.run(&format!("pull --verify-key {public} {plain}"))
        .fails_with(1, "the image is not trusted: it has no signature");
    assert!(depot.heard("GET", "/blobs/").iter().all(|r| r.path.contains("team/app")));
    assert_eq!(fs::read_dir(env.root().join("layers")).unwrap().count(), 0);
    env.run(&format!("pull -q --verify-key {stranger} --verify-key {public} {signed}"))
        .prints(&format!("{signed}\n"));
    env.run(&format!("run --rm --network none {signed} echo hi")).prints("hi\n");

    // A second key's signature stands beside the first.
    let (second, second_public) = keys(&env, "second");
    env.run(&format!("push -q --sign-by {second} {signed}")).exits(0);
    env.run(&format!("pull -q --verify-key {second_public} {signed}")).exits(0);
}

/// The recorded image is pulled with the key it was signed by, and with no other; that one is
/// returned.
#[track_caller]
fn only_its_key_will_do(env: &Env, name: &str) -> String {
    let (_, stranger) = keys(env, "stranger");
    env.run(&format!("pull --verify-key {stranger} {name}"))
        .fails_with(1, "no signature of db97a3cb1019 is by a key that is trusted");
    env.run(&format!("pull -q --verify-key {SEALED_PUBLIC} {name}")).prints(&format!("{name}\n"));
    env.run(&format!("rmi {name}")).exits(0);
    stranger
}

#[test]
fn what_skopeo_has_signed_is_known() {
    needs!(tool("openssl"));
    let env = Env::new();
    let depot = signed_by(&env, false);
    let name = "registry.example/team/app:1";
    let stranger = only_its_key_will_do(&env, name);
    let demand = |key: &str| {
        let signed = json!([{ "type": "sigstoreSigned", "keyPath": key }]);
        let scopes = json!({ "registry.example": signed });
        policy(
            &env,
            &json!({ "default": [{ "type": "reject" }], "transports": { "docker": scopes } }),
        );
    };
    demand(&stranger);
    env.run(&format!("pull {name}")).fails_with(1, "the image is not trusted");
    demand(SEALED_PUBLIC);
    env.run(&format!("pull -q {name}")).ok();
    // Another name for it is not what was signed, and one more byte is another image.
    let (_, manifest) = depot.manifest("team/app", "1");
    let (_, signatures) = signature(&depot, "team/app", "1");
    depot.put_manifest("team/app", "2", MANIFEST, &manifest);
    env.run("pull registry.example/team/app:2").fails_with(1, "was signed as");
    let changed = [manifest.as_slice(), b"\n"].concat();
    let tag = format!("sha256-{}.sig", dhow::oci::Digest::of(&changed).hex());
    depot.put_manifest("team/app", "1", MANIFEST, &changed);
    depot.put_manifest("team/app", &tag, MANIFEST, signatures.to_string().as_bytes());
    env.run(&format!("pull {name}")).fails_with(1, "by a key that is trusted");
}

#[test]
fn what_cosign_3_has_signed_is_known() {
    needs!(tool("openssl"));
    let env = Env::new();
    let depot = signed_by(&env, true);
    let name = "registry.example/team/app:1";
    only_its_key_will_do(&env, name);
    // It says nothing of names, as which a policy wants it.
    policy(&env, &json!({ "default": [{ "type": "sigstoreSigned", "keyPath": SEALED_PUBLIC }] }));
    env.run(&format!("pull {name}")).fails_with(1, "it has no signature");
    fs::remove_file(env.path(".config/containers/policy.json")).unwrap();
    // One more byte is another image, whatever the list says.
    let changed = [recorded("manifest.json").as_slice(), b"\n"].concat();
    depot.put_manifest("team/app", "1", MANIFEST, &changed);
    let tag = format!("sha256-{}", dhow::oci::Digest::of(&changed).hex());
    let kind = "application/vnd.oci.image.index.v1+json";
    depot.put_manifest("team/app", &tag, kind, &recorded("referrers.json"));
    env.run(&format!("pull --verify-key {SEALED_PUBLIC} {name}"))
        .fails_with(1, "by a key that is trusted");
}

#[test]
fn a_key_is_opened_by_its_password() {
    needs!(tool("openssl"));
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    let to = depot.name("busy:1");
    env.image(&to, BUSY);
    let line = format!("push -q --sign-by {SEALED} {to}");
    env.run(&line).fails_with(1, "the key has a password").tells("COSIGN_PASSWORD");
    for (password, code) in [("open sesame", 0), ("open", 1)] {
        let mut command = env.command(&line);
        command.env("COSIGN_PASSWORD", password);
        let run = env.run_command(&line, command, Vec::new());
        match code {
            0 => run.prints(&format!("{to}\n")),
            _ => run.fails_with(1, "the password does not open the key"),
        };
    }
    let wrong = env.file("wrong", "sesame\n");
    env.run(&format!("{line} --sign-passphrase-file {wrong}"))
        .fails_with(1, "the password does not open the key");
    env.run(&format!("{line} --sign-passphrase-file nosuch")).fails_with(1, "nosuch");
    env.run(&format!("pull -q --verify-key {SEALED_PUBLIC} {to}")).ok();
    let typed = env.pty(&line, |person| {
        person.expect("Password of ");
        person.send("open sesame\r");
    });
    let typed = typed.exits(0).stdout;
    assert!(!typed.contains("sesame"), "{typed:?}");
}

#[test]
fn a_signature_of_something_else_is_none() {
    needs!(tool("openssl"));
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    let (key, public) = keys(&env, "own");
    env.image("a:1", BUSY);
    env.image("b:1", &format!("{BUSY}\n/b 0644 b"));
    env.run(&format!("push -q --sign-by {key} a:1 {}", depot.name("x:a"))).exits(0);
    env.run(&format!("push -q b:1 {}", depot.name("x:b"))).exits(0);
    // Another image's signature, put where this one's would be.
    let (_, stolen) = signature(&depot, "x", "a");
    let digest = dhow::oci::Digest::of(&depot.manifest("x", "b").1);
    let tag = format!("sha256-{}.sig", digest.hex());
    depot.put_manifest("x", &tag, MANIFEST, stolen.to_string().as_bytes());
    env.run(&format!("pull --verify-key {public} {}", depot.name("x:b")))
        .fails_with(1, "the image is not trusted");
    // The same image under another repository's name.
    let (_, bytes) = depot.manifest("x", "a");
    depot.put_manifest("y", "a", MANIFEST, &bytes);
    let (sig, signed) = signature(&depot, "x", "a");
    depot.put_manifest("y", &sig, MANIFEST, signed.to_string().as_bytes());
    for layer in signed["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        depot.put_blob("y", &depot.blob("x", digest));
    }
    env.run(&format!("pull --verify-key {public} {}", depot.name("y:a")))
        .fails_with(1, "was signed as");
}

#[test]
fn the_policy_decides_by_name() {
    needs!(tool("openssl"));
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    let (key, public) = keys(&env, "own");
    let archive = env.file("a.tar", Image::parse(BUSY).oci_archive("a:1", Compression::Gzip));
    env.run(&format!("load -q -i {archive}")).exits(0);
    for tag in ["open:1", "signed:1", "gpg:1", "other:1"] {
        let sign = if tag == "signed:1" { format!("--sign-by {key}") } else { String::new() };
        env.run(&format!("push -q {sign} a:1 {}", depot.name(tag))).exits(0);
    }
    env.run("rmi a:1").exits(0);
    let file = |demand: Value| {
        policy(
            &env,
            &json!({
                "default": [{ "type": "reject" }],
                "transports": { "docker": {
                    depot.name("open"): [{ "type": "insecureAcceptAnything" }],
                    depot.name("gpg"): [{ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k" }],
                    depot.name("signed"): [demand],
                } },
            }),
        );
    };
    file(json!({ "type": "sigstoreSigned", "keyPath": public }));
    env.run(&format!("pull -q {}", depot.name("open:1"))).exits(0);
    env.run(&format!("pull -q {}", depot.name("signed:1"))).exits(0);
    let before = depot.heard("GET", "/blobs/").len();
    for (name, code, verb) in [("other:1", 1, "pull"), ("other:1", 125, "run --network none -q")] {
        env.run(&format!("{verb} {}", depot.name(name)))
            .fails_with(code, "is refused by")
            .tells(".config/containers/policy.json");
    }
    env.run(&format!("pull {}", depot.name("gpg:1")))
        .exits(1)
        .tells("\"signedBy\" is not in this version");
    env.run(&format!("load -i {archive}"))
        .exits(1)
        .tells("images from oci-archive: are refused by");
    let identity = json!({ "type": "exactRepository", "dockerRepository": "r.example/else" });
    file(json!({ "type": "sigstoreSigned", "keyPath": public, "signedIdentity": identity }));
    env.run(&format!("pull {}", depot.name("signed:1"))).fails_with(1, "was signed as");
    assert_eq!(depot.heard("GET", "/blobs/").len(), before + 1, "what was signed, and no layer");

    policy(&env, &json!({ "default": [{ "type": "insecureAcceptAnything" }] }));
    env.run(&format!("pull -q {}", depot.name("other:1"))).exits(0);
    env.file(".config/containers/policy.json", "{ oops");
    env.run(&format!("pull {}", depot.name("other:1"))).exits(1).tells("policy.json");
}

#[test]
fn the_policy_decides_by_where_files_are() {
    let env = Env::new();
    let image = Image::parse(BUSY);
    let docker = env.file("docker.tar", image.docker_archive("a:1"));
    fs::create_dir(env.path("good")).unwrap();
    let good = env.file("good/oci.tar", image.oci_archive("b:1", Compression::Gzip));
    let other = env.file("oci.tar", image.oci_archive("c:1", Compression::Gzip));
    let rootfs = env.file("rootfs.tar", &image.layers[0]);
    let path = |name: &str| env.path(name).to_str().unwrap().to_owned();
    let (accept, reject) =
        (json!([{ "type": "insecureAcceptAnything" }]), json!([{ "type": "reject" }]));
    policy(
        &env,
        &json!({ "default": reject, "transports": {
            "docker-archive": { "": accept },
            "oci-archive": { path("good"): accept, "": reject },
        } }),
    );
    env.run(&format!("load -q -i {docker}")).prints("Loaded image: a:1\n");
    env.run(&format!("load -q -i {good}")).prints("Loaded image: b:1\n");
    env.run(&format!("image cp oci-archive:{good} cp:1")).exits(0);
    env.run("rmi a:1 b:1 cp:1").exits(0);
    let refused = |line: &str, input: Vec<u8>, transport: &str| {
        env.run_with_stdin(line, input)
            .fails_with(1, &format!("images from {transport}: are refused by"))
            .tells("policy.json");
        assert_eq!(env.run("images -qa").text(), "");
    };
    refused(&format!("load -i {other}"), Vec::new(), "oci-archive");
    // What comes by a pipe lies nowhere.
    refused("load", fs::read(&good).unwrap(), "oci-archive");
    refused(&format!("image cp oci-archive:{other} cp:1"), Vec::new(), "oci-archive");
    refused(&format!("import {rootfs} r:1"), Vec::new(), "tarball");
    refused("import - r:1", image.layers[0].clone(), "tarball");
    let layout = env.path("layout");
    fs::create_dir(&layout).unwrap();
    tar::Archive::new(fs::File::open(&other).unwrap()).unpack(&layout).unwrap();
    refused(&format!("load -i {}", layout.display()), Vec::new(), "oci");
    policy(
        &env,
        &json!({ "default": reject, "transports": { "oci": { path("layout"): accept } } }),
    );
    env.run(&format!("load -q -i {}", env.path("layout").display())).prints("Loaded image: c:1\n");
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    needs!(tool("openssl"));
    let env = Env::new();
    let depot = Depot::start(Manners::default());
    let to = depot.name("busy:1");
    env.image(&to, BUSY);
    env.run(&format!("push -q {to}")).exits(0);
    let (key, public) = keys(&env, "own");
    let rsa = env.path("rsa.pem").to_str().unwrap().to_owned();
    assert!(openssl(&["genpkey", "-algorithm", "RSA", "-out", &rsa]));
    let sealed = env.file("sealed", "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n");
    let nosuch = env.path("nosuch").to_str().unwrap().to_owned();
    for (line, says) in [
        (format!("push --sign-by {nosuch} {to}"), "No such file"),
        (format!("push --sign-by {public} {to}"), "no PEM file with a PRIVATE KEY"),
        (format!("push --sign-by {rsa} {to}"), "not an ECDSA key on P-256"),
        (format!("push --sign-by {sealed} {to}"), "the key has a password"),
        (format!("pull --verify-key {nosuch} {to}"), "No such file"),
        (format!("pull --verify-key {key} {to}"), "no PEM file with a PUBLIC KEY"),
    ] {
        env.run(&line).fails_with(1, says);
    }
    env.run(&format!("push --sign-passphrase-file {sealed} {to}")).fails_with(125, "--sign-by");
}
