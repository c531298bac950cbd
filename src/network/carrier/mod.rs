//! Programs that carry a container's traffic in the place of the network role: pasta(1) and
//! slirp4netns(1). They are for who asks for them by name, and for where the role cannot be.
//!
//! Each container has a process of its own: a tap link in the container's network at one end,
//! plain sockets of the host's at the other. `options` is what it is started with, `process` how,
//! and what ends it.

mod options;
pub mod process;

use std::{
    env,
    fs::{self, OpenOptions},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

pub use self::options::check;
use self::options::{Slirp, pasta};
use super::attachment::{Carried, Port, Protocol};
use crate::{
    error::{Context as _, Error, Kind, Result},
    state::network::{Carrier, CarrierProgram},
    sys::net::own_address,
};

/// Where pasta answers for the host's resolver: link-local everywhere else (RFC 3927).
const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// How long a port may still be another process's that is ending: that of the same container's
/// earlier life goes right after the container.
const PATIENCE: Duration = Duration::from_secs(1);

/// A program with its arguments, ready to be started.
#[derive(Debug)]
pub struct Carriage {
    path: PathBuf,
    /// All but the network that it carries.
    words: Vec<String>,
    /// Ports that the program is told of when it runs, and the container's address.
    forwards: Option<(Vec<Port>, Ipv4Addr)>,
    pub carried: Carried,
    pub ports: Vec<Port>,
}

impl Carriage {
    /// Finds the program, asks it what it can do, and decides how it is started. Ports that were
    /// left to the host are chosen.
    pub fn prepare(carrier: &Carrier, mut ports: Vec<Port>, is_root: bool) -> Result<Self> {
        let path = find(carrier.program).ok_or_else(|| missing(carrier.program))?;
        probe_tap()?;
        match carrier.program {
            CarrierProgram::Pasta => {
                choose(&mut ports)?;
                let maps_host = can_map_the_host(&path)?;
                let pasta = pasta(&carrier.options, &ports, maps_host)?;
                let mut words = pasta.words;
                if is_root {
                    // It would become `nobody`, who has no rights over the network.
                    words.extend(["--runas", "0:0"].map(str::to_owned));
                }
                let carried = Carried {
                    program: carrier.program,
                    own: pasta.own.or_else(|| own_address().ok()),
                    host: pasta.host,
                    resolver: pasta.resolver,
                };
                Ok(Self { path, words, forwards: None, carried, ports })
            }
            CarrierProgram::Slirp4netns => {
                let slirp = Slirp::parse(&carrier.options)?;
                refuse_v6(&mut ports)?;
                choose(&mut ports)?;
                let host = match slirp.host_loopback {
                    true => Some(slirp.address(2).into()),
                    false => own_address().ok(),
                };
                let own = slirp.address(100);
                let carried = Carried {
                    program: carrier.program,
                    own: Some(own.into()),
                    host,
                    resolver: Some(slirp.address(3).into()),
                };
                let forwards = (!ports.is_empty()).then(|| (ports.clone(), own));
                Ok(Self { path, words: slirp.words(), forwards, carried, ports })
            }
        }
    }
}

/// A container's network is this program's, if `why` is that the role cannot carry it here.
pub fn instead_of_role(why: Error) -> Result<Carrier> {
    if why.kind() != Kind::Unsupported {
        return Err(why);
    }
    let installed = CarrierProgram::ALL.into_iter().find(|program| find(*program).is_some());
    let Some(program) = installed else {
        return Err(
            why.context("neither pasta nor slirp4netns is installed, which could do without")
        );
    };
    log::debug!("{} in the place of the network role: {why}", program.name());
    Ok(Carrier { program, options: Vec::new() })
}

fn missing(program: CarrierProgram) -> Error {
    let package = match program {
        CarrierProgram::Pasta => "passt",
        CarrierProgram::Slirp4netns => "slirp4netns",
    };
    Error::unsupported(format!("{} is not installed", program.name()))
        .hint(format!("apt-get install {package} (Fedora: dnf install {package}); or leave --network away: dhow's own network needs no helper"))
}

fn find(program: CarrierProgram) -> Option<PathBuf> {
    let typed = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin"].map(PathBuf::from);
    let dirs = env::split_paths(&typed).filter(|dir| dir.is_absolute()).chain(usual);
    dirs.map(|dir| dir.join(program.name())).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Both make a tap link.
fn probe_tap() -> Result<()> {
    let path = "/dev/net/tun";
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map(drop).at(path).map_err(|err| {
        err.with_kind(Kind::Unsupported)
            .hint("`sudo modprobe tun`; /dev/net/tun is for everyone with mode 0666")
    })
}

/// Whether this pasta has an address of its own for the host (since August 2024).
fn can_map_the_host(path: &Path) -> Result<bool> {
    let told = Command::new(path).arg("--help").stdin(Stdio::null()).output();
    let told = told.at(path).doing("run")?;
    let text = [told.stdout, told.stderr].concat();
    Ok(String::from_utf8_lossy(&text).contains("--map-guest-addr"))
}

/// slirp4netns forwards ports of IPv4 only.
fn refuse_v6(ports: &mut Vec<Port>) -> Result<()> {
    let any: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    let v4 = ports.clone();
    ports.retain(|port| {
        let same = |other: &Port| {
            other.host_ip == IpAddr::from(Ipv4Addr::UNSPECIFIED)
                && (other.protocol, other.container_port) == (port.protocol, port.container_port)
        };
        port.host_ip != any || !v4.iter().any(same)
    });
    match ports.iter().find(|port| port.host_ip.is_ipv6()) {
        None => Ok(()),
        Some(port) => Err(Error::unsupported(format!(
            "slirp4netns cannot publish {}/{} on [{}]",
            port.container_port,
            port.protocol.name(),
            port.host_ip
        ))
        .hint("publish it on an address of IPv4, or use --network pasta")),
    }
}

/// Refuses ports that somebody has, and finds free ones where none is named: the same for both
/// families.
fn choose(ports: &mut [Port]) -> Result<()> {
    let mut chosen: Vec<(Protocol, u16, u16)> = Vec::new();
    for port in ports {
        let was_open = port.host_port == 0 || port.last_port != 0;
        let before = chosen.iter().find(|(protocol, container, _)| {
            (*protocol, *container) == (port.protocol, port.container_port)
        });
        if let (true, Some((.., number))) = (was_open, before) {
            (port.host_port, port.last_port) = (*number, 0);
        }
        while port.try_probe().is_err() && port.advance() {}
        port.last_port = 0;
        port.host_port = wait_for(port)?;
        if was_open {
            chosen.push((port.protocol, port.container_port, port.host_port));
        }
    }
    Ok(())
}

fn wait_for(port: &Port) -> Result<u16> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match port.try_probe() {
            Err(Errno::EADDRINUSE) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            other => return other.map_err(|errno| port.unavailable(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: &str, host_port: u16) -> Port {
        let host_ip = host_ip.parse().expect("an address");
        Port { protocol: Protocol::Tcp, host_ip, host_port, last_port: 0, container_port: 80 }
    }

    #[test]
    fn a_port_left_to_the_host_is_one_for_both_families() {
        let mut ports = [port("127.0.0.1", 0), port("127.0.0.1", 0)];
        ports[1].protocol = Protocol::Udp;
        choose(&mut ports).expect("free ones");
        assert!(ports.iter().all(|port| port.host_port > 0), "{ports:?}");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let number = taken.local_addr().expect("address").port();
        let err = choose(&mut [port("127.0.0.1", number)]).expect_err("it is taken");
        assert_eq!(err.kind(), Kind::Conflict, "{err}");
    }

    #[test]
    fn slirp_is_for_one_family() {
        let mut both = vec![port("0.0.0.0", 8080), port("::", 8080)];
        refuse_v6(&mut both).expect("the second is dropped");
        assert_eq!(both, [port("0.0.0.0", 8080)]);
        assert!(refuse_v6(&mut vec![port("::1", 8080)]).is_err());
    }

    #[test]
    fn only_what_the_role_cannot_do_is_done_by_others() {
        let why = instead_of_role(Error::conflict("a port")).expect_err("passed on");
        assert_eq!(why.to_string(), "a port");
    }
}
