//! A registry that takes what is pushed, remembers who said what, and can be made to cut
//! connections, want small pieces, or hand out tokens.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use dhow::oci::Digest;

use crate::server::{Reply, Request};

/// How it behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manners {
    /// The first PATCH is cut off after so many bytes of its body, which are kept.
    pub(crate) cut_after: Option<usize>,
    /// A body longer than this is refused with 413.
    pub(crate) at_most: Option<usize>,
    /// `OCI-Chunk-Min-Length`.
    pub(crate) chunk_min: Option<usize>,
    /// The Authorization it wants, and the challenge it asks for it with.
    pub(crate) wants: Option<(String, String)>,
    /// Where uploads are sent: `http://HOST`, instead of here.
    pub(crate) uploads_at: Option<String>,
    /// It keeps the list of what is about a manifest.
    pub(crate) lists_referrers: bool,
}

/// What it has.
#[derive(Debug, Default)]
struct Kept {
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: Vec<Vec<u8>>,
    cut: bool,
    log: Vec<Request>,
}

/// Ends with the test's process.
#[derive(Debug, Clone)]
pub(crate) struct Depot {
    /// `127.0.0.1:PORT`.
    pub(crate) addr: String,
    kept: Arc<Mutex<Kept>>,
}

impl Depot {
    pub(crate) fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let depot = Self { addr, kept: Arc::default() };
        let served = depot.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (depot, manners) = (served.clone(), manners.clone());
                thread::spawn(move || depot.serve(stream.unwrap(), &manners));
            }
        });
        depot
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// `127.0.0.1:PORT/name`.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.addr)
    }

    /// The requests so far with this method whose path contains `part`.
    pub(crate) fn heard(&self, method: &str, part: &str) -> Vec<Request> {
        let kept = self.kept();
        let fits = |r: &&Request| r.method == method && r.path.contains(part);
        kept.log.iter().filter(fits).cloned().collect()
    }

    /// Everything that was asked, as `METHOD path`.
    pub(crate) fn log(&self) -> Vec<String> {
        self.kept().log.iter().map(|r| format!("{} {}", r.method, r.path)).collect()
    }

    /// The manifest under a tag.
    pub(crate) fn manifest(&self, repository: &str, tag: &str) -> (String, Vec<u8>) {
        self.kept().manifests[&(repository.to_owned(), tag.to_owned())].clone()
    }

    /// Gives it a manifest.
    pub(crate) fn put_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) {
        let digest = Digest::of(bytes).to_string();
        for which in [tag.to_owned(), digest] {
            let value = (kind.to_owned(), bytes.to_vec());
            self.kept().manifests.insert((repository.to_owned(), which), value);
        }
    }

    /// A blob that it has.
    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Vec<u8> {
        self.kept().blobs[&(repository.to_owned(), digest.to_owned())].clone()
    }

    /// Gives it a blob.
    pub(crate) fn put_blob(&self, repository: &str, bytes: &[u8]) {
        let digest = Digest::of(bytes).to_string();
        self.kept().blobs.insert((repository.to_owned(), digest), bytes.to_vec());
    }

    fn serve(&self, mut stream: TcpStream, manners: &Manners) {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let Some(mut request) = head(&mut reader) else { return };
        let length = request.header("content-length").parse().unwrap_or(0);
        let cut = (request.method == "PATCH" && !self.kept().cut).then_some(manners.cut_after);
        if let Some(Some(cut)) = cut {
            let mut some = vec![0; cut.min(length)];
            reader.read_exact(&mut some).unwrap();
            let mut kept = self.kept();
            kept.cut = true;
            let id = upload(&request.path).unwrap();
            kept.uploads[id].extend_from_slice(&some);
            request.body = some;
            kept.log.push(request);
            return;
        }
        request.body = vec![0; length];
        if reader.read_exact(&mut request.body).is_err() {
            return;
        }
        let mut reply = self.answer(&request, manners);
        if request.method == "HEAD" {
            reply = reply.without_body();
        }
        self.kept().log.push(request);
        // The other side may have enough before the end.
        drop(reply.send(&mut stream));
    }

    fn answer(&self, request: &Request, manners: &Manners) -> Reply {
        if let Some((wanted, challenge)) = &manners.wants {
            if request.path.starts_with("/token") {
                return Reply::ok(r#"{"token":"t0ken"}"#);
            }
            if request.header("authorization") != wanted {
                let challenge = challenge.replace("HOST", &self.addr);
                return Reply::status(401).with("WWW-Authenticate", challenge);
            }
        }
        if manners.at_most.is_some_and(|most| request.body.len() > most) {
            return Reply::status(413);
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let Some(rest) = path.strip_prefix("/v2/") else { return Reply::status(404) };
        if rest.is_empty() {
            return Reply::ok("{}");
        }
        if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
            return self.upload(request, (repository, id), query, manners);
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            let kept = self.kept();
            let blob = kept.blobs.get(&(repository.to_owned(), digest.to_owned()));
            return blob.map_or(Reply::status(404), |blob| Reply::ok(blob.clone()));
        }
        let Some((repository, which)) = rest.split_once("/manifests/") else {
            return self.listing(rest, query);
        };
        if request.method == "PUT" {
            self.put_manifest(repository, which, request.header("content-type"), &request.body);
            return match manners.lists_referrers {
                true => Reply::status(201).with("OCI-Subject", "sha256:x"),
                false => Reply::status(201),
            };
        }
        let kept = self.kept();
        match kept.manifests.get(&(repository.to_owned(), which.to_owned())) {
            Some((kind, bytes)) => Reply::ok(bytes.clone()).with("Content-Type", kind.clone()),
            None => Reply::status(404),
        }
    }

    /// `tags/list`, two a page.
    fn listing(&self, rest: &str, query: &str) -> Reply {
        let Some(repository) = rest.strip_suffix("/tags/list") else { return Reply::status(404) };
        let last = query.split('&').find_map(|pair| pair.strip_prefix("last="));
        let kept = self.kept();
        let tags = kept.manifests.keys().filter(|(of, _)| of == repository).map(|(_, tag)| tag);
        let tags = tags.filter(|tag| !tag.contains(':') && last.is_none_or(|l| tag.as_str() > l));
        let tags: Vec<_> = tags.collect();
        let page = &tags[..tags.len().min(2)];
        let reply = Reply::ok(serde_json::json!({ "name": repository, "tags": page }).to_string());
        match tags.len() > 2 {
            true => reply.with("Link", "</v2/elsewhere>; rel=\"next\""),
            false => reply,
        }
    }

    fn upload(
        &self,
        request: &Request,
        (repository, id): (&str, &str),
        query: &str,
        manners: &Manners,
    ) -> Reply {
        let mut kept = self.kept();
        let value = |name: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
            pair.map(|value| value.replace("%3A", ":").replace("%2F", "/"))
        };
        if request.method == "POST" {
            if let (Some(digest), Some(from)) = (value("mount"), value("from"))
                && let Some(blob) = kept.blobs.get(&(from, digest.clone())).cloned()
            {
                kept.blobs.insert((repository.to_owned(), digest), blob);
                return Reply::status(201).with("Location", "/x");
            }
            kept.uploads.push(Vec::new());
            let at = manners.uploads_at.clone().unwrap_or_default();
            let location =
                format!("{at}/v2/{repository}/blobs/uploads/{}?s=1", kept.uploads.len() - 1);
            let reply = Reply::status(202).with("Location", location);
            return match manners.chunk_min {
                Some(min) => reply.with("OCI-Chunk-Min-Length", min.to_string()),
                None => reply,
            };
        }
        let id: usize = id.parse().unwrap();
        if id >= kept.uploads.len() {
            return Reply::status(404);
        }
        if let Some((from, _)) = request.header("content-range").split_once('-')
            && from.parse() != Ok(kept.uploads[id].len())
        {
            return Reply::status(416);
        }
        let bytes = &mut kept.uploads[id];
        bytes.extend_from_slice(&request.body);
        let here = request.path.replace("s=1", "s=2");
        let range = format!("0-{}", bytes.len().saturating_sub(1));
        match request.method.as_str() {
            "GET" => Reply::status(204).with("Location", here).with("Range", range),
            "PATCH" => Reply::status(202).with("Location", here).with("Range", range),
            _ => {
                let (digest, bytes) = (value("digest").unwrap(), bytes.clone());
                if Digest::of(&bytes).as_str() != digest {
                    return Reply::status(400);
                }
                kept.blobs.insert((repository.to_owned(), digest), bytes);
                Reply::status(201)
            }
        }
    }
}

/// The number in an upload's path.
fn upload(path: &str) -> Option<usize> {
    path.split_once("/uploads/")?.1.split('?').next()?.parse().ok()
}

fn head(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = reader.lines();
    // Who speaks TLS is not understood, and goes away.
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
    let pair = |line: String| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    };
    Some(Request { method, path, headers: headers.filter_map(pair).collect(), body: Vec::new() })
}
