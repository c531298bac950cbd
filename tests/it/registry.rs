//! A real registry on loopback: Debian's `docker-registry`.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    capture::DEADLINE,
    env::Env,
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
        // Somebody may take the port between our asking and the server's: then it ends at once.
        (0..5)
            .find_map(|attempt| Self::try_start(&env.path(&format!("registry{attempt}"))))
            .expect("docker-registry does not start: see registry*/log in the test's directory")
    }

    fn try_start(dir: &Path) -> Option<Self> {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        fs::create_dir(dir).unwrap();
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\nstorage:\n  \
             filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: '{addr}'}}\n",
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
        registry.wait_until_up().then_some(registry)
    }

    fn wait_until_up(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline && self.server.try_wait().unwrap().is_none() {
            if self.get("/v2/").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// One bare HTTP request; the whole answer.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.addr).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.addr)
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
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
        let target = self.name(name);
        let out = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .args([format!("oci-archive:{}", archive.display()), format!("docker://{target}")])
            .env("HOME", env.path(""))
            .output()
            .unwrap();
        assert!(out.status.success(), "skopeo: {}", String::from_utf8_lossy(&out.stderr));
        fs::remove_file(archive).unwrap();
        target
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing to do about either failure.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}
