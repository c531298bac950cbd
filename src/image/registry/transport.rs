//! HTTP to one registry and to the hosts it points at: which scheme, which certificates, which
//! redirects, and when to try again.

use std::{
    collections::HashMap,
    fs,
    io::{ErrorKind, Read},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ureq::{
    Agent, Body, Proxy, SendBody,
    http::{self, Method, Response, StatusCode, Uri, header},
    tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::Access;
use crate::error::{Context as _, Error, Kind, Result};

const CONNECT: Duration = Duration::from_secs(15);
/// For the first byte of an answer, and between any two: a registry may be busy, not silent.
const SILENCE: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 10;
/// Longest wait that a registry may ask for with `Retry-After`.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an error's body that are looked at.
const COMPLAINT_MAX: u64 = 64 << 10;

/// Where this system keeps the certificates it trusts, as one file: Debian, Fedora, SUSE, Alpine.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why an attempt failed, and whether another may help.
#[derive(Debug)]
pub(super) enum Fault {
    /// After the given time, or after one of our choosing.
    Again(Error, Option<Duration>),
    Final(Error),
}

impl From<Error> for Fault {
    fn from(err: Error) -> Self {
        Self::Final(err)
    }
}

/// Makes an attempt until it succeeds, fails for good, or has failed as often as `access` allows,
/// waiting twice as long each time.
pub(super) fn retrying<T>(
    access: &Access,
    mut attempt: impl FnMut() -> Result<T, Fault>,
) -> Result<T> {
    let mut tries = 1;
    loop {
        let (err, asked) = match attempt() {
            Ok(value) => return Ok(value),
            Err(Fault::Final(err)) => return Err(err),
            Err(Fault::Again(err, asked)) => (err, asked),
        };
        let ours = access.pause.saturating_mul(2_u32.saturating_pow(tries - 1)).min(PATIENCE);
        let wait = asked.unwrap_or(ours);
        if tries >= access.tries || wait > PATIENCE {
            return Err(err);
        }
        log::debug!("{err}; trying again in {wait:?}");
        std::thread::sleep(wait);
        tries += 1;
    }
}

/// The hosts of one registry, each with the trust it deserves.
#[derive(Debug)]
pub(super) struct Transport {
    access: Access,
    agents: Mutex<HashMap<String, Agent>>,
}

impl Transport {
    pub(super) fn new(access: Access) -> Self {
        Self { access, agents: Mutex::default() }
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// `https://host`, or `http://host` for a host that may be without TLS and is.
    pub(super) fn origin(&self, host: &str) -> Result<String> {
        if !self.is_lenient(host) {
            return Ok(format!("https://{host}"));
        }
        let ping = |origin: &str| self.fetch(&Method::GET, &format!("{origin}/v2/"), &[], None);
        match self.discover(host, ping) {
            Ok((origin, (mut response, _))) => {
                drain(&mut response);
                Ok(origin)
            }
            Err(Fault::Again(err, _) | Fault::Final(err)) => Err(err),
        }
    }

    /// Does `ask` with the origin that answers, and says which one that was.
    ///
    /// As Docker does: HTTPS is tried first even where it need not be, and nowhere else is
    /// anything else tried.
    pub(super) fn discover<T>(
        &self,
        host: &str,
        ask: impl Fn(&str) -> Result<T, Fault>,
    ) -> Result<(String, T), Fault> {
        let secure = format!("https://{host}");
        let tls = match ask(&secure) {
            Ok(answer) => return Ok((secure, answer)),
            Err(fault) if !self.is_lenient(host) => return Err(fault),
            Err(Fault::Again(err, _) | Fault::Final(err)) => err.to_string(),
        };
        let plain = format!("http://{host}");
        let tls = tls.strip_prefix(&format!("cannot reach {host}: ")).unwrap_or(&tls).to_owned();
        let both = |err: Error| err.context(format!("neither HTTPS ({tls}) nor HTTP works"));
        match ask(&plain) {
            Ok(answer) => Ok((plain, answer)),
            Err(Fault::Again(err, wait)) => Err(Fault::Again(both(err), wait)),
            Err(Fault::Final(err)) => Err(Fault::Final(both(err))),
        }
    }

    /// Whether the host may go without TLS, or with a certificate that proves nothing.
    fn is_lenient(&self, host: &str) -> bool {
        let name = without_port(host);
        let listed = |entry: &String| entry == host || entry == name;
        !self.access.tls_verify || is_loopback(name) || self.access.insecure.iter().any(listed)
    }

    /// Sends a GET or HEAD and follows redirects. Returns also whether the answer is from elsewhere.
    ///
    /// `authorization` goes to the host of `url` alone, over the scheme of `url` alone
    /// (CVE-2020-15157), and nothing that began with TLS goes on without.
    pub(super) fn fetch(
        &self,
        method: &Method,
        url: &str,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Result<(Response<Body>, bool), Fault> {
        let first = parse(url)?;
        let mut current = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            let host = current.authority().map_or("", |authority| authority.as_str());
            let at_home = same_origin(&first, &current);
            let request = request(method, &current, headers, authorization.filter(|_| at_home))?;
            let answered = self.agent(&current)?.run(bodiless(request)?);
            let mut response = answered.map_err(|err| transient(host, &err))?;
            log::debug!("{method} {current}: {}", response.status());
            let Some(target) = redirect(&response) else { return Ok((response, !at_home)) };
            drain(&mut response);
            current = resolve(&current, &target)?;
        }
        Err(Fault::Final(Error::engine(format!("{url}: more than {REDIRECTS_MAX} redirects"))))
    }

    /// Sends `length` bytes of `content`; follows nothing.
    ///
    /// `authorization` is for the caller to withhold from other hosts.
    pub(super) fn send(
        &self,
        method: &Method,
        url: &str,
        headers: &[(&str, &str)],
        (content, length): (&mut dyn Read, u64),
        authorization: Option<&str>,
    ) -> Result<Response<Body>, Fault> {
        let target = parse(url)?;
        let host = target.authority().map_or("", |authority| authority.as_str());
        let request = request(method, &target, headers, authorization)?
            .header(header::CONTENT_LENGTH, length)
            .body(SendBody::from_reader(content))
            .map_err(|err| Error::invalid(err.to_string()))?;
        let answered = self.agent(&target)?.run(request);
        let response = answered.map_err(|err| transient(host, &err))?;
        log::debug!("{method} {target}: {}", response.status());
        Ok(response)
    }

    /// Sends a form (OAuth2); follows nothing.
    pub(super) fn post_form(&self, url: &str, form: &str) -> Result<Response<Body>, Fault> {
        let target = parse(url)?;
        let host = target.authority().map_or("", |authority| authority.as_str());
        self.agent(&target)?
            .post(target.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .send(form)
            .map_err(|err| transient(host, &err))
    }

    fn agent(&self, url: &Uri) -> Result<Agent> {
        let host = url.authority().map_or("", |authority| authority.as_str());
        let scheme = url.scheme_str().unwrap_or("https");
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{scheme}://{host}");
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let agent = self.new_agent(scheme, host)?;
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    fn new_agent(&self, scheme: &str, host: &str) -> Result<Agent> {
        let files = CertificateFiles::read(&self.access, host)?;
        let mut tls = TlsConfig::builder()
            .disable_verification(self.is_lenient(host))
            .client_cert(files.client)
            .root_certs(RootCerts::PlatformVerifier);
        if !files.authorities.is_empty() {
            let mut roots = files.authorities;
            roots.extend(system_certificates());
            tls = tls.root_certs(RootCerts::new_with_certs(&roots));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("dhow/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .proxy(self.proxy(scheme, host)?)
            .tls_config(tls.build());
        Ok(config.build().new_agent())
    }

    fn proxy(&self, scheme: &str, host: &str) -> Result<Option<Proxy>> {
        // A proxy's loopback is not ours.
        let text =
            self.access.proxies.of(scheme, host).filter(|_| !is_loopback(without_port(host)));
        let proxy = text.as_deref().map(Proxy::new).transpose();
        proxy.map_err(|err| {
            Error::invalid(format!("the proxy variables name no usable proxy for {host}: {err}"))
                .hint("HTTPS_PROXY and HTTP_PROXY want http://[USER:PASSWORD@]HOST:PORT")
        })
    }
}

fn request(
    method: &Method,
    url: &Uri,
    headers: &[(&str, &str)],
    authorization: Option<&str>,
) -> Result<http::request::Builder> {
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    match request.headers_ref() {
        Some(_) => Ok(request),
        None => Err(Error::invalid(format!("{method} {url}: a header that HTTP does not allow"))),
    }
}

fn bodiless(request: http::request::Builder) -> Result<http::Request<()>> {
    request.body(()).map_err(|err| Error::invalid(err.to_string()))
}

pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

fn is_loopback(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

pub(super) fn parse(url: &str) -> Result<Uri> {
    let parsed = url.parse::<Uri>().ok().filter(|uri| {
        let web = matches!(uri.scheme_str(), Some("http" | "https"));
        // No `user@host`: it would be somebody's credentials, and confuses which host it is.
        web && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    parsed.ok_or_else(|| Error::invalid(format!("{:?} is not a web address", clip(url))))
}

pub(super) fn same_origin(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && one.authority() == other.authority()
}

fn redirect(response: &Response<Body>) -> Option<String> {
    let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let target = response.headers().get(header::LOCATION).filter(|_| moved)?;
    Some(target.to_str().unwrap_or_default().to_owned())
}

/// RFC 9110, "Location"; RFC 3986, "Reference Resolution", for the forms that registries use.
pub(super) fn resolve(base: &Uri, target: &str) -> Result<Uri> {
    let target = target.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let next = if target.starts_with("//") {
        parse(&format!("{scheme}:{target}"))
    } else if target.starts_with('/') {
        parse(&format!("{scheme}://{authority}{target}"))
    } else {
        parse(target)
    }
    .doing_with(|| format!("go where {authority} points"))?;
    if scheme == "https" && next.scheme_str() != Some("https") {
        return Err(Error::engine(format!(
            "{authority} points from HTTPS to {}, which is not",
            next.authority().map_or("", |authority| authority.as_str())
        ))
        .hint(
            "the registry is set up wrongly, or somebody is in between; nothing was sent there",
        ));
    }
    Ok(next)
}

/// Text of somebody else's, fit to be shown.
pub(super) fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "ureq may add errors; they have words")]
fn words(err: &ureq::Error) -> String {
    match err {
        ureq::Error::Io(err) => crate::error::describe(err),
        ureq::Error::HostNotFound => "no such host".into(),
        ureq::Error::Timeout(what) => format!("no answer in time ({what})"),
        ureq::Error::Rustls(err) => format!("TLS: {err}"),
        other => other.to_string(),
    }
}

fn unreachable(host: &str, err: &ureq::Error) -> Error {
    let text = words(err);
    let says = |part| text.contains(part);
    let hint = if is_unknown_host(err) {
        "check the registry's name, DNS, and the proxy variables".into()
    } else if says("InvalidContentType") {
        format!(
            "it seems to speak plain HTTP; if you trust the network between, allow it with \
             --tls-verify=false or DHOW_INSECURE_REGISTRIES={host}"
        )
    } else if says("CaUsedAsEndEntity") {
        // rustls refuses what Go accepts: a self-signed certificate that is marked as a CA's.
        "the registry's certificate is marked as a certificate authority's; \
         make it with `-addext basicConstraints=critical,CA:FALSE`"
            .into()
    } else if says("certificate") {
        format!(
            "put the registry's CA into ~/.config/containers/certs.d/{host}/ca.crt, \
             or check that the ca-certificates package is installed and the clock is right"
        )
    } else {
        "check that the registry is up and that this machine may reach it".into()
    };
    Error::engine(format!("cannot reach {host}: {text}")).hint(hint)
}

/// std tells a failed lookup by its text alone.
fn is_unknown_host(err: &ureq::Error) -> bool {
    let lookup = |err: &std::io::Error| err.to_string().contains("failed to lookup address");
    matches!(err, ureq::Error::HostNotFound) || matches!(err, ureq::Error::Io(err) if lookup(err))
}

/// What a failed exchange means for the next: worth another try if the network broke, not if
/// there is nobody, or nobody to be trusted.
#[expect(clippy::wildcard_enum_match_arm, reason = "ureq may add errors; they are final")]
fn transient(host: &str, err: &ureq::Error) -> Fault {
    let error = unreachable(host, err);
    match err {
        // rustls reports what it thinks of a certificate as invalid data.
        ureq::Error::Io(io)
            if !matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::ConnectionRefused)
                && !is_unknown_host(err) =>
        {
            Fault::Again(error, None)
        }
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => {
            Fault::Again(error, None)
        }
        _ => Fault::Final(error),
    }
}

/// Reads what is left of a small body that nobody wants, so that its connection can be used
/// again. What cannot be read costs a connection, no more.
pub(super) fn drain(response: &mut Response<Body>) {
    std::io::copy(&mut response.body_mut().as_reader().take(COMPLAINT_MAX), &mut std::io::sink())
        .ok();
}

/// A fault in reading an answer's body.
pub(super) fn cut_off(host: &str, err: &std::io::Error) -> Fault {
    Fault::Again(
        Error::engine(format!("{host}: the answer was cut off: {}", crate::error::describe(err))),
        None,
    )
}

/// The fault that a status other than success is. `what` names the thing that was asked for.
pub(super) fn refusal(what: &str, response: Response<Body>) -> Fault {
    let status = response.status();
    let after = retry_after(&response);
    let said = complaint(response);
    let line = format!("{what}: {status}{said}");
    match status.as_u16() {
        401 => Error::new(Kind::Unauthorized, line)
            .hint("check the name; if the image is private, log in first: `dhow login`")
            .into(),
        403 => Error::new(Kind::Unauthorized, line)
            .hint("the registry knows you and refuses; check the name and your rights")
            .into(),
        404 => Error::not_found(line).hint("check the image's name and tag").into(),
        429 => Fault::Again(
            Error::engine(line).hint(match after {
                Some(wait) => format!("too many requests; the registry asks to wait {} s. Logging in often raises the limit", wait.as_secs()),
                None => "too many requests; wait, or log in: that often raises the limit".into(),
            }),
            after,
        ),
        408 | 500 | 502 | 503 | 504 => Fault::Again(
            Error::engine(line).hint("the registry has trouble of its own; try again later"),
            after,
        ),
        _ => Error::engine(line).into(),
    }
}

/// RFC 9110, "Retry-After": seconds, or a date.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    parse_wait(response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim())
}

fn parse_wait(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = date.duration_since(jiff::Timestamp::now());
    // What is past is now.
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// `: code: message` of a distribution-spec error document, "Error Codes"; else nothing.
fn complaint(response: Response<Body>) -> String {
    #[derive(serde::Deserialize)]
    struct Complaints {
        errors: Vec<Complaint>,
    }
    #[derive(serde::Deserialize)]
    struct Complaint {
        code: String,
        #[serde(default)]
        message: Option<String>,
    }
    let mut text = Vec::new();
    // What cannot be read adds nothing; the status is the error.
    response.into_body().into_reader().take(COMPLAINT_MAX).read_to_end(&mut text).ok();
    let Ok(Complaints { errors }) = serde_json::from_slice(&text) else { return String::new() };
    errors.first().map_or_else(String::new, |first| {
        format!(
            ": {}",
            clip(first.message.as_deref().filter(|m| !m.is_empty()).unwrap_or(&first.code))
        )
    })
}

/// Whether the answer is one to [`Transport::get`] that can be used.
pub(super) fn is_success(response: &Response<Body>) -> bool {
    matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT)
}

/// containers-certs.d(5): `HOST[:PORT]/*.crt` are authorities, `*.cert` with `*.key` is who we are.
#[derive(Default)]
struct CertificateFiles {
    authorities: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

impl CertificateFiles {
    fn read(access: &Access, host: &str) -> Result<Self> {
        let mut found = Self::default();
        // The host may be one that a redirect named; it is not to name another directory.
        let plain = !host.is_empty() && !host.starts_with('.');
        let of_host = access.certificates.iter().filter(|_| plain).map(|dir| dir.join(host));
        for dir in access.certificate_dir.iter().cloned().chain(of_host) {
            let Ok(listing) = fs::read_dir(&dir) else { continue };
            let mut paths: Vec<_> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
            paths.sort();
            for path in paths {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => found.authorities.extend(certificates(&path)?),
                    Some("cert") if found.client.is_none() => found.client = Some(client(&path)?),
                    _ => {}
                }
            }
        }
        Ok(found)
    }
}

fn pem(path: &Path) -> Result<Vec<PemItem<'static>>> {
    let text = fs::read(path).at(path)?;
    parse_pem(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|err| Error::invalid(format!("{}: not a PEM file: {err}", path.display())))
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for item in pem(path)? {
        if let PemItem::Certificate(certificate) = item {
            found.push(certificate);
        }
    }
    Ok(found)
}

fn client(path: &Path) -> Result<ClientCert> {
    let chain = certificates(path)?;
    let key = path.with_extension("key");
    let only = |item| if let PemItem::PrivateKey(key) = item { Some(key) } else { None };
    match pem(&key)?.into_iter().find_map(only) {
        Some(key) if !chain.is_empty() => Ok(ClientCert::new_with_certs(&chain, key)),
        _ => Err(Error::invalid(format!("{} and its .key are not a pair", path.display()))),
    }
}

/// The machine's own authorities, for a host that has some besides. An unreadable bundle adds none.
fn system_certificates() -> Vec<Certificate<'static>> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = SYSTEM_CERTIFICATES.iter().map(PathBuf::from);
    let bundle = named.into_iter().chain(usual).find(|path| path.exists());
    bundle.and_then(|path| certificates(&path).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_listed_hosts_may_lack_tls() {
        let transport = |tls_verify, insecure: &[&str]| {
            let insecure = insecure.iter().map(|host| (*host).to_owned()).collect();
            Transport::new(Access { tls_verify, insecure, ..Access::none() })
        };
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(transport(true, &[]).is_lenient(host), "{host}");
        }
        for host in ["localhost.evil.io", "10.0.0.1:5000", "registry-1.docker.io", "127.0.0.1.x"] {
            assert!(!transport(true, &[]).is_lenient(host), "{host}");
            assert_eq!(transport(true, &[]).origin(host), Ok(format!("https://{host}")));
            assert!(transport(false, &[]).is_lenient(host), "{host}");
        }
        assert!(transport(true, &["r.io:5000"]).is_lenient("r.io:5000"));
        assert!(transport(true, &["r.io"]).is_lenient("r.io:5000"));
        assert!(!transport(true, &["r.io:5000"]).is_lenient("r.io"));
    }

    #[test]
    fn waits_are_seconds_or_dates() {
        assert_eq!(parse_wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse_wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let far = parse_wait("Fri, 31 Dec 2100 23:59:59 GMT").expect("a date");
        assert!(far > PATIENCE);
        assert_eq!(parse_wait("soon"), None);
    }

    #[test]
    fn redirects_resolve_and_never_leave_tls() {
        let base = parse("https://a.b:1/v2/x").expect("url");
        let to = |target| resolve(&base, target).map(|uri| uri.to_string());
        assert_eq!(to("/y?q=1#f"), Ok("https://a.b:1/y?q=1".into()));
        assert_eq!(to("//c.d/y"), Ok("https://c.d/y".into()));
        assert_eq!(to("https://c.d/y"), Ok("https://c.d/y".into()));
        for bad in ["http://a.b:1/y", "file:///etc/passwd", "y", "", "https://user@c.d/"] {
            assert!(to(bad).is_err(), "{bad}");
        }
    }
}
