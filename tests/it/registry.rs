//! A real registry on loopback: Debian's `docker-registry`.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    capture::DEADLINE,
    env::{Env, words},
    fixture::{Compression, Image},
};

/// Ends with its test. Ask for it first: `needs!(tool("docker-registry"))`.
#[derive(Debug)]
pub(crate) struct Registry {
    /// `127.0.0.1:PORT`, the first part of its images' names.
    pub(crate) addr: String,
    server: Child,
}

impl Registry {
    /// Starts an empty one that answers plain HTTP, with its files in `env`.
    pub(crate) fn start(env: &Env) -> Self {
        Self::start_with(env, "", "", "200")
    }

    /// Starts one that answers TLS alone, with a certificate of its own making for the name
    /// `registry.test`. Returns it too.
    /// Ask for `openssl` first.
    pub(crate) fn start_with_tls(env: &Env) -> (Self, PathBuf) {
        let (key, certificate) = (env.path("tls.key"), env.path("tls.crt"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=test"])
            .args(["-addext", "subjectAltName=DNS:registry.test"])
            // Debian's defaults make it an authority's, which none may answer with.
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let tls =
            format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
        // What it says to who speaks HTTP.
        (Self::start_with(env, &tls, "", "400"), certificate)
    }

    /// Starts one that wants the password `secret` of the user `user`.
    pub(crate) fn start_closed(env: &Env) -> Self {
        // bcrypt, the only scheme it takes.
        let line = "user:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";
        let file = env.file("htpasswd", line);
        let auth = format!("auth: {{htpasswd: {{realm: r, path: {file}}}}}\n");
        Self::start_with(env, "", &auth, "401")
    }

    /// Starts one that wants tokens of the issuer `tokens`, from the service at `realm` (an address
    /// of the web); they are signed by the owner of the certificate.
    pub(crate) fn start_with_tokens(env: &Env, realm: &str, certificate: &Path) -> Self {
        let auth = format!(
            "auth: {{token: {{realm: '{realm}', service: registry.test, issuer: tokens, \
             rootcertbundle: {}}}}}\n",
            certificate.display()
        );
        Self::start_with(env, "", &auth, "401")
    }

    /// More of configuration, in `http` and outside, and the status of its first page.
    fn start_with(env: &Env, http: &str, more: &str, status: &str) -> Self {
        // Somebody may take the port between our asking and the server's: then it ends at once.
        (0..5)
            .find_map(|attempt| {
                Self::try_start(&env.path(&format!("registry{attempt}")), http, more, status)
            })
            .expect("docker-registry does not start: see registry*/log in the test's directory")
    }

    fn try_start(dir: &Path, http: &str, more: &str, status: &str) -> Option<Self> {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        fs::create_dir(dir).unwrap();
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\nstorage:\n  \
             filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: '{addr}'{http}}}\n{more}",
            dir.join("data").display()
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut registry = Self { addr, server };
        registry.wait_until_up(status).then_some(registry)
    }

    fn wait_until_up(&mut self, status: &str) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline && self.server.try_wait().unwrap().is_none() {
            if self
                .get("/v2/")
                .is_some_and(|answer| answer.get(9..).is_some_and(|a| a.starts_with(status)))
            {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// One bare HTTP request; the whole answer.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        String::from_utf8(self.answer(path)?).ok()
    }

    /// A blob's bytes.
    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Vec<u8> {
        let answer = self.answer(&format!("/v2/{repository}/blobs/{digest}")).unwrap();
        let at = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        answer[at + 4..].to_vec()
    }

    fn answer(&self, path: &str) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect(&self.addr).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let accept = "application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json";
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n",
            self.addr
        )
        .ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(answer)
    }

    /// `127.0.0.1:PORT/name`.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.addr)
    }

    /// Pushes a fixture with skopeo, whose opinion of a correct push is not ours. Returns the
    /// name to pull.
    pub(crate) fn push(&self, env: &Env, name: &str, text: &str, how: Compression) -> String {
        let archive = env.path("push.oci.tar");
        fs::write(&archive, Image::parse(text).oci_archive("pushed", how)).unwrap();
        let target = self.copy(env, &format!("oci-archive:{}", archive.display()), name, "");
        fs::remove_file(archive).unwrap();
        target
    }

    /// Pushes what skopeo can read, with more of its options. Returns the name to pull.
    pub(crate) fn copy(&self, env: &Env, source: &str, name: &str, options: &str) -> String {
        let target = self.name(name);
        let out = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .args(words(options))
            .args([source, &format!("docker://{target}")])
            .env("HOME", env.path(""))
            .output()
            .unwrap();
        assert!(out.status.success(), "skopeo: {}", String::from_utf8_lossy(&out.stderr));
        target
    }

    /// Puts a document, which the registry checks, under a tag.
    pub(crate) fn put_manifest(&self, name: &str, tag: &str, media_type: &str, body: &str) {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        write!(
            stream,
            "PUT /v2/{name}/manifests/{tag} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n{body}",
            self.addr,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing to do about either failure.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}
