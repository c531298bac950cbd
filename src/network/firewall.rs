//! Other firewalls of the host: what root's bridges carry is let through by their own means.
//!
//! A packet that our table accepts another one can still drop. Docker leaves others a chain for
//! their rules ([`nft::pass_docker`](super::nft::pass_docker)). firewalld puts a link that it was
//! told nothing about into its default zone, which forwards nothing: it is told once for each
//! network that the bridge is trusted, at present and permanently, because a reload forgets what
//! is not. Whoever gives the bridge another zone afterwards is left in peace. Tables of iptables'
//! older kind are read and written by its own program only.

use std::{
    env, fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    error::{Context as _, Error, Result},
    state::Layout,
    sys::dbus::{Body, Connection, Message, Method, Refusal},
};

const FIREWALLD: &str = "org.fedoraproject.FirewallD1";
/// It accepts everything (firewalld.zones(5)).
const ZONE: &str = "trusted";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// A busy firewalld answers late; one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has firewalld trust the bridge of a network, unless it was told before.
///
/// # Errors
/// When it does not answer, or refuses. That the bridge has another zone is no error.
pub(super) fn trust(layout: &Layout, network: &str, bridge: &str) -> Result<()> {
    let mark = mark(layout, network);
    if mark.exists() {
        return Ok(());
    }
    trust_again(layout, network, bridge)
}

/// As [`trust`], whatever it was told before.
pub(super) fn trust_again(layout: &Layout, network: &str, bridge: &str) -> Result<()> {
    let doing = || format!("ask firewalld to trust {bridge}");
    let mut firewalld = Firewalld::reach().doing_with(doing)?;
    let mark = mark(layout, network);
    // Before, so that who removes the network knows.
    fs::write(&mark, bridge).at(&mark).doing("write")?;
    firewalld.bind(bridge).doing_with(doing).inspect_err(|_| drop(fs::remove_file(&mark)))
}

/// Has firewalld forget the bridge of a network that is about to be removed.
pub fn forget(layout: &Layout, network: &str) {
    let Ok(bridge) = fs::read_to_string(mark(layout, network)) else { return };
    let forgotten = Firewalld::reach().and_then(|mut firewalld| firewalld.unbind(&bridge));
    if let Err(err) = forgotten {
        log::debug!("firewalld still knows {bridge}: {err}");
    }
}

/// Whether firewalld is there to be asked.
pub fn answers() -> bool {
    Firewalld::reach()
        .and_then(|mut firewalld| firewalld.ask(Object::Runtime, "getZoneOfInterface", &["lo"]))
        .is_ok()
}

/// That firewalld was told of a network's bridge, whose name is in it.
fn mark(layout: &Layout, network: &str) -> PathBuf {
    layout.network(network).join("firewalld")
}

/// A connection to it by the system's bus.
struct Firewalld(Connection);

/// What of it is asked.
enum Object<'a> {
    /// How it is now.
    Runtime,
    /// How it is after a reload.
    Permanent,
    /// A zone after a reload, by its object path.
    Zone(&'a str),
}

impl Firewalld {
    fn reach() -> Result<Self> {
        let uid = nix::unistd::geteuid().as_raw();
        let stream = UnixStream::connect(system_bus()).doing("connect to the system's bus")?;
        let mut connection = Connection::open(stream, uid, PATIENCE)?;
        let hello = Method {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
        };
        connection.call(hello, &Body::default())?;
        Ok(Self(connection))
    }

    fn bind(&mut self, bridge: &str) -> Result<()> {
        self.ask(Object::Runtime, "addInterface", &[ZONE, bridge])?;
        let zone = self.permanent_zone()?;
        self.ask(Object::Zone(&zone), "addInterface", &[bridge]).map(drop)
    }

    fn unbind(&mut self, bridge: &str) -> Result<()> {
        let zone = self.permanent_zone()?;
        self.ask(Object::Zone(&zone), "removeInterface", &[bridge])?;
        self.ask(Object::Runtime, "removeInterface", &[ZONE, bridge]).map(drop)
    }

    fn permanent_zone(&mut self) -> Result<String> {
        let found = self.ask(Object::Permanent, "getZoneByName", &[ZONE])?;
        let found = found.ok_or_else(|| Error::engine("it has no such zone"))?;
        found.arguments().string()
    }

    /// The answer; `None` if what is asked for is so already, or somebody chose otherwise.
    fn ask(&mut self, object: Object<'_>, member: &str, words: &[&str]) -> Result<Option<Message>> {
        let (path, interface) = match object {
            Object::Runtime => ("/org/fedoraproject/FirewallD1", ".zone"),
            Object::Permanent => ("/org/fedoraproject/FirewallD1/config", ".config"),
            Object::Zone(path) => (path, ".config.zone"),
        };
        let interface = format!("{FIREWALLD}{interface}");
        let method = Method { destination: FIREWALLD, path, interface: &interface, member };
        let mut body = Body::new(if words.len() == 1 { "s" } else { "ss" });
        words.iter().try_for_each(|word| body.string(word))?;
        match self.0.call(method, &body) {
            Ok(message) => Ok(Some(message)),
            Err(Refusal::Named { says, .. }) if is_settled(&says) => {
                log::debug!("firewalld: {member} {words:?}: {says}");
                Ok(None)
            }
            Err(refusal) => Err(Error::from(refusal)),
        }
    }
}

/// firewalld's errors begin with a word (firewall/errors.py).
fn is_settled(says: &str) -> bool {
    const SETTLED: [&str; 5] = [
        "ALREADY_ENABLED",
        "NOT_ENABLED",
        "ZONE_ALREADY_SET",
        "ZONE_CONFLICT",
        "UNKNOWN_INTERFACE",
    ];
    SETTLED.iter().any(|word| says.starts_with(word))
}

/// D-Bus Specification, "Well-known Message Bus Instances".
fn system_bus() -> PathBuf {
    let told = env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_default();
    let paths = told.split([';', ',']).filter_map(|part| part.strip_prefix("unix:path="));
    paths.map(PathBuf::from).next().unwrap_or_else(|| SYSTEM_BUS.into())
}

/// iptables' older tables of one family.
struct Legacy {
    /// Its tables in this network, a line each; not there where the kernel has none of them.
    names: &'static str,
    programs: [&'static str; 2],
}

const LEGACY: [Legacy; 2] = [
    Legacy { names: "/proc/self/net/ip_tables_names", programs: ["iptables-legacy", "iptables"] },
    Legacy {
        names: "/proc/self/net/ip6_tables_names",
        programs: ["ip6tables-legacy", "ip6tables"],
    },
];

impl Legacy {
    /// The program and what it lists, where packets are dropped unless a rule accepts them.
    fn dropping(&self) -> Option<(&'static str, String)> {
        let (program, listed) = self.listed()?;
        listed.lines().any(|line| line == "-P FORWARD DROP").then_some((program, listed))
    }

    /// What the table for filters has, if there is one.
    fn listed(&self) -> Option<(&'static str, String)> {
        let names = fs::read_to_string(self.names).unwrap_or_default();
        if !names.lines().any(|name| name == "filter") {
            return None;
        }
        // The usual name may be that of the newer kind.
        let is_older = |program: &&str| told(program, &["-V"]).is_some_and(|v| !v.contains("nf_"));
        let program = self.programs.into_iter().find(is_older)?;
        Some((program, told(program, &["-w", "5", "-S"])?))
    }
}

/// Lets a new bridge through where iptables' older tables drop what is forwarded. `true` if rules
/// were made for it.
pub(super) fn pass_legacy(bridge: &str) -> bool {
    let mut is_noted = false;
    for (program, listed) in LEGACY.iter().filter_map(Legacy::dropping) {
        is_noted = true;
        if !noted(&listed, bridge).is_empty() {
            continue;
        }
        let has_docker = listed.lines().any(|line| line == "-A FORWARD -j DOCKER-USER");
        let chain = if has_docker { "DOCKER-USER" } else { "FORWARD" };
        let comment = note(bridge);
        for rule in rules(bridge).iter().rev() {
            let mut words = vec!["-w", "5", "-I", chain];
            words.extend(rule.split(' '));
            words
                .splice(words.len() - 2..words.len() - 2, ["-m", "comment", "--comment", &comment]);
            if told(program, &words).is_none() {
                log::debug!("{program} {words:?} failed");
            }
        }
    }
    is_noted
}

/// Takes away what [`pass_legacy`] made.
pub(super) fn close_legacy(bridge: &str) {
    for (program, listed) in LEGACY.iter().filter_map(Legacy::listed) {
        for rule in noted(&listed, bridge) {
            let mut words = vec!["-w", "5", "-D"];
            words.extend(rule.split(' ').skip(1));
            if told(program, &words).is_none() {
                log::debug!("{program} {words:?} failed");
            }
        }
    }
}

/// As those in docker's newer tables; the verdict comes last.
fn rules(bridge: &str) -> [String; 5] {
    [
        format!("-i {bridge} -o {bridge} -j ACCEPT"),
        format!("-i {bridge} -o docker+ -j RETURN"),
        format!("-i {bridge} -o br-+ -j RETURN"),
        format!("-i {bridge} -j ACCEPT"),
        format!("-o {bridge} -j ACCEPT"),
    ]
}

/// Of characters that are listed as they were written, without quotes.
fn note(bridge: &str) -> String {
    format!("dhow-{bridge}")
}

fn noted<'a>(listed: &'a str, bridge: &str) -> Vec<&'a str> {
    let comment = format!(" {} ", note(bridge));
    let is_ours = |line: &&str| line.contains(&comment);
    listed.lines().filter(is_ours).collect()
}

/// What a program prints, if it is there and succeeds.
fn told(program: &str, words: &[&str]) -> Option<String> {
    let path = Path::new("/usr/sbin").join(program);
    let program = if path.exists() { path } else { program.into() };
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
