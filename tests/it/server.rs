//! A registry that does as the test says: lies, refuses, breaks off, stalls.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use dhow::oci::Digest;
use serde_json::json;

use crate::fixture::{Compression, Image, compress};

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A header's value; empty if there is none. `name` is in lower case.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// What is sent back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// How much of the body is sent before the connection closes.
    cut: Option<usize>,
    /// Where the body stops coming while the connection stays open.
    stall: Option<usize>,
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.into(), cut: None, stall: None }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::ok("") }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn saying(self, body: &str) -> Self {
        Self { body: body.into(), ..self }
    }

    /// As HEAD has it.
    pub(crate) fn without_body(self) -> Self {
        Self { body: Vec::new(), ..self }
    }

    /// The length is announced, but only so much of it comes.
    pub(crate) fn cut_after(self, bytes: usize) -> Self {
        Self { cut: Some(bytes), ..self }
    }

    /// So much comes, then nothing more.
    pub(crate) fn stalled_after(self, bytes: usize) -> Self {
        Self { stall: Some(bytes), ..self }
    }

    pub(crate) fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        stream.write_all(head.as_bytes())?;
        let end = self.cut.or(self.stall).unwrap_or(self.body.len());
        stream.write_all(&self.body[..end])?;
        if self.stall.is_some() {
            // Until the other side goes away, or the test does.
            let mut rest = Vec::new();
            std::io::Read::read_to_end(stream, &mut rest)?;
        }
        Ok(())
    }
}

/// Ends with the test's process.
#[derive(Debug)]
pub(crate) struct Server {
    /// `127.0.0.1:PORT`.
    pub(crate) addr: String,
    heard: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (heard, answer) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::new(answer));
        let log = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                thread::spawn(move || serve(stream.unwrap(), &log, &*answer));
            }
        });
        Self { addr, heard }
    }

    /// An honest registry with the image as `app:1`, except where `lie` answers.
    pub(crate) fn of(
        parts: Parts,
        lie: impl Fn(&Request, &Parts) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |request| lie(request, &parts).unwrap_or_else(|| parts.answer(request)))
    }

    /// `127.0.0.1:PORT/app:1`.
    pub(crate) fn image(&self) -> String {
        format!("{}/app:1", self.addr)
    }

    /// The requests so far whose path contains `part`.
    pub(crate) fn heard(&self, part: &str) -> Vec<Request> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|request| request.path.contains(part)).cloned().collect()
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&Request) -> Reply + Send + Sync),
) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    // Who speaks TLS is not understood, and goes away.
    let Some(Ok(first)) = lines.next() else { return };
    let mut words = first.split(' ');
    let (Some(method @ ("GET" | "HEAD")), Some(path)) = (words.next(), words.next()) else {
        return;
    };
    let headers = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
    let pair = |line: String| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    };
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: headers.filter_map(pair).collect(),
        body: Vec::new(),
    };
    log.lock().unwrap().push(request.clone());
    // The other side may have enough before the end.
    drop(answer(&request).send(&mut stream));
}

/// An image as a registry keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Parts {
    /// Layers packed with gzip.
    pub(crate) fn of(text: &str) -> Self {
        Self::packed(text, Compression::Gzip)
    }

    pub(crate) fn packed(text: &str, how: Compression) -> Self {
        let image = Image::parse(text);
        let layers: Vec<_> = image.layers.iter().map(|layer| compress(layer, how)).collect();
        let config = image.config_json();
        let layer_kind = format!("layer.v1.tar{}", how.suffix());
        let describe = |bytes: &[u8], kind: &str| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": Digest::of(bytes), "size": bytes.len(),
            })
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": describe(&config, "config.v1+json"),
            "layers": layers.iter().map(|l| describe(l, &layer_kind)).collect::<Vec<_>>(),
        });
        Self { layers, config, manifest: manifest.to_string().into_bytes() }
    }

    /// What an honest registry says.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if request.path == "/v2/" {
            return Reply::ok("{}");
        }
        if request.path.contains("/manifests/") {
            return Reply::ok(self.manifest.clone()).with("Content-Type", MANIFEST);
        }
        let asked = |bytes: &&Vec<u8>| request.path.ends_with(Digest::of(bytes).as_str());
        let Some(blob) = self.layers.iter().chain([&self.config]).find(asked) else {
            return Reply::status(404);
        };
        let range = request.header("range").strip_prefix("bytes=").unwrap_or_default();
        match range.trim_end_matches('-').parse::<usize>() {
            Ok(from) => Reply { status: 206, ..Reply::ok(&blob[from..]) }
                .with("Content-Range", format!("bytes {from}-{}/{}", blob.len() - 1, blob.len())),
            Err(_) => Reply::ok(blob.clone()),
        }
    }

    /// Whether the request is for the layer with this index.
    pub(crate) fn is_layer(&self, request: &Request, index: usize) -> bool {
        request.path.ends_with(&format!("/blobs/{}", Digest::of(&self.layers[index])))
    }
}
