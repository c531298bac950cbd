//! A registry for tests: an HTTP server on loopback that answers as it is told, and remembers
//! what it was asked.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// What was asked.
#[derive(Debug, Clone)]
pub(in crate::image) struct Request {
    /// With the query.
    pub(in crate::image) path: String,
    /// Names in lower case.
    pub(in crate::image) headers: BTreeMap<String, String>,
}

impl Request {
    pub(in crate::image) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(in crate::image) struct Reply {
    pub(in crate::image) status: u16,
    pub(in crate::image) headers: Vec<(&'static str, String)>,
    pub(in crate::image) body: Vec<u8>,
    /// Close after so many bytes of the body, whatever was promised.
    pub(in crate::image) cut: Option<usize>,
}

impl Reply {
    pub(in crate::image) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(in crate::image) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub(in crate::image) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

#[derive(Debug)]
pub(in crate::image) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Answers every request with what `answer` makes of it and of how many came before it.
    pub(in crate::image) fn new(
        answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, ended) = (Arc::clone(&requests), Arc::clone(&stop));
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
                // Who hangs up early is the client's business, and its tests'.
                thread::spawn(move || serve(stream, &asked, &*answer));
            }
        });
        Self { address, requests, stop }
    }

    /// `127.0.0.1:PORT`.
    pub(in crate::image) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(in crate::image) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic").clone()
    }

    /// How many requests had a path that holds `part`.
    pub(in crate::image) fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener, so that it sees the flag.
        TcpStream::connect(self.address).ok();
    }
}

fn serve(
    mut stream: TcpStream,
    asked: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&Request, usize) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let mut first = [0];
    if stream.peek(&mut first)? == 0 || first[0] == 0x16 {
        // A TLS handshake (RFC 8446, "Record Layer"): this server has none.
        return Ok(());
    }
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let path = lines[0].split(' ').nth(1).unwrap_or_default().to_owned();
    let header = |line: &String| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    };
    let request = Request { path, headers: lines[1..].iter().filter_map(header).collect() };
    let length = request.header("content-length").parse().unwrap_or(0);
    let mut form = vec![0; length];
    reader.read_exact(&mut form)?;
    let before = {
        let mut asked = asked.lock().expect("no panic");
        asked.push(request.clone());
        asked.len() - 1
    };
    let reply = answer(&request, before);
    let mut text = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !reply.headers.iter().any(|(name, _)| *name == "Content-Length") {
        text.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes())?;
    let end = reply.cut.unwrap_or(reply.body.len());
    stream.write_all(&reply.body[..end])
}
