//! The two things asked of systemd: a scope of our own to divide, and to move a process into
//! one from where this process may not (org.freedesktop.systemd1(5); systemd's
//! "Control Group APIs and Delegation").

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Context as _, Error, Result, describe},
    sys::dbus::{Body, Connection, Message, Method, Refusal, Value},
};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// A busy systemd answers late; one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the last scope of the same container may take to go away.
const LINGERING: Duration = Duration::from_secs(2);

/// Where a systemd may listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Address {
    socket: Socket,
    /// A message bus that passes calls on, rather than systemd's own socket.
    bus: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Socket {
    Path(PathBuf),
    Abstract(String),
}

impl Address {
    /// Whether it is worth a try.
    pub(super) fn exists(&self) -> bool {
        match &self.socket {
            Socket::Path(path) => path.exists(),
            Socket::Abstract(_) => true,
        }
    }

    fn connect(&self, uid: u32, patience: Duration) -> Result<Connection> {
        let stream = match &self.socket {
            Socket::Path(path) => UnixStream::connect(path),
            Socket::Abstract(name) => SocketAddr::from_abstract_name(name)
                .and_then(|address| UnixStream::connect_addr(&address)),
        };
        let mut connection = Connection::open(stream.doing("connect")?, uid, patience)?;
        if self.bus {
            greet(&mut connection).doing("greet the bus")?;
        }
        Ok(connection)
    }

    fn name(&self) -> String {
        match &self.socket {
            Socket::Path(path) => path.display().to_string(),
            Socket::Abstract(name) => format!("@{name}"),
        }
    }
}

/// A bus passes calls only after Hello, and signals only to who asked; systemd in turn sends
/// signals to a bus only for subscribers. Its own socket needs none of that.
fn greet(connection: &mut Connection) -> Result<()> {
    let bus = |member| Method {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member,
    };
    connection.call(bus("Hello"), &Body::default())?;
    let mut rule = Body::new("s");
    rule.string("type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'")?;
    connection.call(bus("AddMatch"), &rule)?;
    connection.call(manager("Subscribe"), &Body::default())?;
    Ok(())
}

/// The places to try, best first: systemd's own socket saves the way through a bus.
pub(super) fn addresses(root: &Path, rootless: bool, uid: u32) -> Vec<Address> {
    let path = |path: PathBuf, bus| Address { socket: Socket::Path(path), bus };
    if !rootless {
        return vec![
            path(root.join("run/systemd/private"), false),
            path(root.join("run/dbus/system_bus_socket"), true),
        ];
    }
    // A faked root is another machine: our environment says nothing about it.
    let variable = |name| env::var_os(name).filter(|_| root == Path::new("/"));
    let runtime = match variable("XDG_RUNTIME_DIR") {
        Some(dir) => dir.into(),
        None => root.join("run/user").join(uid.to_string()),
    };
    let mut found = vec![path(runtime.join("systemd/private"), false)];
    let session = variable("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    found.extend(parse_bus_addresses(&session.to_string_lossy()));
    let usual = path(runtime.join("bus"), true);
    if !found.contains(&usual) {
        found.push(usual);
    }
    found
}

/// D-Bus Specification, "Server Addresses": `unix:path=/run/user/1000/bus,guid=…;…`. Other
/// transports than Unix sockets are not on this machine.
fn parse_bus_addresses(text: &str) -> Vec<Address> {
    let unix = text.split(';').filter_map(|address| address.strip_prefix("unix:"));
    let pairs = unix.flat_map(|options| options.split(','));
    let sockets = pairs.filter_map(|pair| match pair.split_once('=')? {
        ("path", value) => Some(Socket::Path(unescape(value)?.into())),
        ("abstract", value) => Some(Socket::Abstract(unescape(value)?)),
        _ => None,
    });
    sockets.map(|socket| Address { socket, bus: true }).collect()
}

/// `%20` and the like.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut out = parts.next()?.as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        out.extend(part.as_bytes().get(2..)?);
    }
    String::from_utf8(out).ok()
}

/// Asks for a delegated scope with one process in it, and waits until it is there.
///
/// A scope lives as long as a process is in it; then systemd removes it and all below.
pub(super) fn start_scope(
    addresses: &[Address],
    uid: u32,
    unit: &str,
    slice: &str,
    pid: u32,
) -> Result<()> {
    let mut connection = connect(addresses, uid)?;
    let arguments = scope_arguments(unit, slice, pid)?;
    let deadline = Instant::now() + LINGERING;
    let doing = || format!("ask systemd for {unit}");
    let reply = loop {
        match connection.call(manager("StartTransientUnit"), &arguments) {
            // A container that has just ended: its scope is on its way out.
            Err(Refusal::Named { name, .. }) if name == EXISTS && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            reply => break reply.doing_with(doing)?,
        }
    };
    let job = reply.arguments().string().doing_with(doing)?;
    let result = connection.wait_signal(|signal| job_result(signal, &job)).doing_with(doing)?;
    match result.as_str() {
        "done" => Ok(()),
        other => Err(Error::engine(format!("the start job ended as {other:?}")))
            .doing_with(doing)
            .map_err(|err| err.hint(format!("`systemctl status {unit}` may say more"))),
    }
}

/// Asks to have a process moved into a sub-directory of a delegated unit (systemd 238). It must
/// belong to the unit's user.
pub(super) fn attach(unit: &str, below: &str, pid: i32) -> Result<()> {
    let uid = nix::unistd::geteuid().as_raw();
    let mut connection = connect(&addresses(Path::new("/"), uid != 0, uid), uid)?;
    let mut body = Body::new("ssau");
    body.string(unit)?;
    body.string(&format!("/{below}"))?;
    body.numbers(&[pid.unsigned_abs()])?;
    connection
        .call(manager("AttachProcessesToUnit"), &body)
        .doing_with(|| format!("ask systemd to move it into {unit}"))?;
    Ok(())
}

/// The first that answers; if none does, what each said.
fn connect(addresses: &[Address], uid: u32) -> Result<Connection> {
    let mut said = Vec::new();
    for address in addresses.iter().filter(|address| address.exists()) {
        match address.connect(uid, PATIENCE) {
            Ok(connection) => return Ok(connection),
            Err(err) => said.push(format!("{}: {err}", address.name())),
        }
    }
    if said.is_empty() {
        said.push(describe(&io::Error::from_raw_os_error(libc::ENOENT)));
    }
    Err(Error::engine(said.join("; "))).doing("reach systemd")
}

fn manager(member: &str) -> Method<'_> {
    Method { destination: SYSTEMD, path: "/org/freedesktop/systemd1", interface: MANAGER, member }
}

fn scope_arguments(unit: &str, slice: &str, pid: u32) -> Result<Body> {
    let mut body = Body::new("ssa(sv)a(sa(sv))");
    body.string(unit)?;
    body.string("fail")?;
    body.array(8, |properties| {
        properties.property("Description", Value::Text("dhow container"))?;
        properties.property("Slice", Value::Text(slice))?;
        properties.property("PIDs", Value::Numbers(&[pid]))?;
        // Also makes an out-of-memory kill inside the container's own business (systemd.scope(5),
        // OOMPolicy=): otherwise systemd would end the whole scope.
        properties.property("Delegate", Value::Flag(true))?;
        // systemd's default for units is a share of the machine's; docker's is no limit.
        properties.property("TasksMax", Value::Number(u64::MAX))?;
        // Nobody collects a failed one.
        properties.property("CollectMode", Value::Text("inactive-or-failed"))
    })?;
    // Auxiliary units: none.
    body.array(8, |_| Ok(()))?;
    Ok(body)
}

/// `JobRemoved(u id, o job, s unit, s result)`.
fn job_result(signal: &Message, job: &str) -> Option<String> {
    if signal.member != "JobRemoved" {
        return None;
    }
    let mut arguments = signal.arguments();
    arguments.u32().ok()?;
    let which = arguments.string().ok()?;
    arguments.string().ok()?;
    let result = arguments.string().ok()?;
    (which == job).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_addresses_are_read_as_specified() {
        let path = |text: &str| Address { socket: Socket::Path(text.into()), bus: true };
        assert_eq!(
            parse_bus_addresses("unix:path=/run/user/1000/bus,guid=00"),
            vec![path("/run/user/1000/bus")]
        );
        assert_eq!(
            parse_bus_addresses("tcp:host=x;unix:path=/a%20b;unix:abstract=/tmp/x"),
            vec![path("/a b"), Address { socket: Socket::Abstract("/tmp/x".into()), bus: true }]
        );
        assert_eq!(parse_bus_addresses("unix:path=/a%2"), vec![]);
        assert_eq!(parse_bus_addresses(""), vec![]);
    }

    #[test]
    fn a_faked_root_has_faked_sockets() {
        let found = addresses(Path::new("/fake"), true, 7);
        let names: Vec<_> = found.iter().map(Address::name).collect();
        assert_eq!(names, ["/fake/run/user/7/systemd/private", "/fake/run/user/7/bus"]);
        assert!(connect(&found, 7).is_err_and(|err| err.to_string().contains("reach systemd")));
    }
}
