//! Published ports: how they are typed, chosen, listed and refused.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

use crate::{
    env::{Run, poll},
    needs::{is_root, needs},
    network::{Machine, World},
};

/// Runs `line` with a port of which the following are free, too, as far as one can know.
#[track_caller]
fn with_ports(world: &World, line: impl Fn(u16) -> String) -> u16 {
    for _ in 0..20 {
        let first = world.free_port();
        if first > 65_000 {
            continue;
        }
        let run: Run = world.run(&line(first));
        if run.code == 0 {
            drop(run.exits(0));
            return first;
        }
        drop(run.fails_with(125, "publish "));
        world.run("rm -f web").exits(0);
    }
    panic!("no ports are free");
}

/// On every address, in docker's words; as root nothing leads from IPv6 to the default network.
fn everywhere(what: &str) -> String {
    let has_v6 = !is_root() && Path::new("/proc/net/if_inet6").exists();
    let v6 = if has_v6 { format!(", [::]:{what}") } else { String::new() };
    format!("0.0.0.0:{what}{v6}")
}

#[test]
fn ports_that_follow_each_other_are_listed_as_one() {
    needs!(world);
    let world = World::new();
    let first = with_ports(&world, |first| {
        let range = format!("{first}-{}", first + 2);
        format!("run -d --name web -p {range}:{range} --expose 90-92 --expose 94 busy sleep 1000")
    });
    let range = format!("{first}-{}", first + 2);
    let published = everywhere(&format!("{range}->{range}/tcp"));
    world.run("ps --format {{.Ports}}").prints(&format!("90-92/tcp, 94/tcp, {published}\n"));
    world.run("rm -f -t 0 web").exits(0);

    let first = with_ports(&world, |first| {
        format!("run -d --name web -p 127.0.0.1:{first}-{}:80-81 busy sleep 1000", first + 1)
    });
    let second = first + 1;
    world
        .run("ps --format {{.Ports}}")
        .prints(&format!("127.0.0.1:{first}->80/tcp, 127.0.0.1:{second}->81/tcp\n"));
    world
        .run("port web")
        .prints(&format!("80/tcp -> 127.0.0.1:{first}\n81/tcp -> 127.0.0.1:{second}\n"));
}

#[test]
fn one_of_a_range_is_chosen() {
    needs!(world);
    let world = World::new();
    let any = (Ipv4Addr::UNSPECIFIED, 0);
    // Somebody has the first.
    let taken = world.here(|| TcpListener::bind(any).unwrap());
    let first = taken.local_addr().unwrap().port();
    let last = first.saturating_add(40);
    let range = format!("-p {first}-{last}:80");
    let mut chosen = Vec::new();
    for name in ["one", "two"] {
        world.run(&format!("run -d --name {name} {range} busy sleep 1000")).ok();
        let places = world.run(&format!("port {name} 80")).ok().stdout;
        let ports: Vec<u16> =
            places.lines().map(|line| line.rsplit(':').next().unwrap().parse().unwrap()).collect();
        assert!(ports.iter().all(|port| *port == ports[0]), "{places}");
        assert!(ports[0] > first && ports[0] <= last, "{places}");
        chosen.push(ports[0]);
    }
    assert_ne!(chosen[0], chosen[1]);
    let asked =
        "inspect -f '{{(index (index .HostConfig.PortBindings \"80/tcp\") 0).HostPort}}' one";
    world.run(asked).prints(&format!("{first}-{last}\n"));
    world
        .run("run --rm -p 8000-8002:80-81 busy true")
        .fails_with(125, "invalid ranges specified for container and host Ports: 8000-8002:80-81");
}

#[test]
fn a_port_of_somebody_elses_is_refused_and_nothing_stays() {
    needs!(world);
    let world = World::new();
    let taken = world.here(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    let port = taken.local_addr().unwrap().port();
    world.run("network create --subnet 10.99.64.0/24 web").ok();
    world
        .run(&format!("run --rm --network web -p {port}:80 busy true"))
        .fails_with(125, &format!("publish 80/tcp on 0.0.0.0:{port}: Address already in use"))
        .tells("another program or container has this port");
    world.run("ps -aq").prints("");
    world.run("network inspect -f '{{len .Containers}}' web").prints("0\n");
    world.run("network rm web").prints("web\n");
}

#[test]
fn a_network_may_say_where_ports_are_published() {
    needs!(world);
    let world = World::new();
    let option = "com.docker.network.bridge.host_binding_ipv4";
    world.run(&format!("network create -o {option}=127.0.0.1 near")).ok();
    world.run("run -d --name web --network near -p 80 busy sleep 1000").ok();
    world.run("port web 80").shows("127.0.0.1:").hides("0.0.0.0").hides("::");
    world
        .run(&format!("network create -o {option}=x far"))
        .fails_with(1, "\"x\" is not an IPv4 address");
}

/// Tells whoever comes by which address it sees them, in a container: this program again.
#[test]
fn teller() {
    let Ok(port) = std::env::var("DHOW_TEST_TELL") else { return };
    let at = (Ipv4Addr::UNSPECIFIED, port.parse().unwrap());
    for peer in TcpListener::bind(at).unwrap().incoming() {
        let Ok(mut peer) = peer else { continue };
        let from = peer.peer_addr().unwrap().ip();
        drop(writeln!(peer, "{from}"));
    }
}

mod as_root {
    use super::*;

    /// A server of datagrams tells of its client, once it answers.
    fn check_datagrams(machine: &Machine, port: u16) {
        let client = machine.here(|| UdpSocket::bind((machine.address, 0)).unwrap());
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut buffer = [0; 200];
        let mut said = String::new();
        poll("the server answers", || {
            client.send_to(b"hi", (machine.world, port)).unwrap();
            let Ok((count, _)) = client.recv_from(&mut buffer) else { return false };
            said = String::from_utf8_lossy(&buffer[..count]).into_owned();
            true
        });
        assert_eq!(said, format!("{} hi", client.local_addr().unwrap()));
    }

    /// On the host's bridge, and carried by the role, as an ordinary user's are.
    #[test]
    fn clients_are_seen_as_they_are_wherever_they_come_from() {
        needs!(world);
        let world = World::new();
        let machine = world.machine();
        let it = std::env::current_exe().unwrap();
        let both = "/it --exact ports::teller --nocapture & exec /it --exact network::echo_server --nocapture";
        let own = world.address;
        for (name, policy) in [("bridged", ""), ("carried", "--egress record")] {
            let port = world.free_port();
            let line = format!(
                "run -d --name {name} {policy} -p {port}:80 -p {port}:9000/udp -v {}:/it:ro \
                 -e DHOW_TEST_TELL=80 -e DHOW_TEST_ECHO=9000 busy sh -c '{both}'",
                it.display()
            );
            world.run(&line).ok();
            assert_eq!(world.fetch(own, port), format!("{own}\n"), "{name}: the host");
            // Loopback is no address to answer to: the router stands in for it.
            let router = world.fetch(Ipv4Addr::LOCALHOST.into(), port);
            assert!(router.starts_with("10.89.") && router.ends_with(".1\n"), "{name}: {router}");
            let mut seen = String::new();
            let at = SocketAddr::from((machine.world, port));
            machine
                .here(|| TcpStream::connect(at).and_then(|mut peer| peer.read_to_string(&mut seen)))
                .unwrap();
            assert_eq!(seen, format!("{}\n", machine.address), "{name}");
            check_datagrams(&machine, port);
        }
    }

    #[test]
    fn what_is_listed_is_reached() {
        needs!(world);
        let world = World::new();
        for (typed, said) in [
            ("[::1]:8080:80", "publish 80/tcp on ::1: nothing leads from there"),
            ("[::]:8080:80", "publish 80/tcp on ::: nothing leads from there"),
        ] {
            world.run(&format!("run --rm -p {typed} busy true")).fails_with(125, said);
        }
        let port = world.free_port();
        world.publish_greeter(port);
        world.run("port web").prints(&format!("80/tcp -> 0.0.0.0:{port}\n"));
        let here = std::net::IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(world.fetch(here, port), "hi\n");
        if !Path::new("/proc/net/if_inet6").exists() {
            return;
        }
        // Who asks at ::1 first hears so at once.
        let refused = world.connect(std::net::Ipv6Addr::LOCALHOST.into(), port).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        world.run("rm -f -t 0 web").ok();

        world.run("network create --ipv6 six").ok();
        world.run(&format!("run -d --name web --network six -p {port}:80 busy sleep 1000")).ok();
        let both = format!("80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::]:{port}\n");
        world.run("port web").prints(&both);
        let refused = world.connect(std::net::Ipv6Addr::LOCALHOST.into(), port).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

mod rootless {
    use super::*;

    #[test]
    fn the_sysctl_of_low_ports_is_named() {
        needs!(rootless);
        needs!(world);
        let world = World::new();
        let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let start: u16 = start.unwrap().trim().parse().unwrap();
        if start < 2 {
            return;
        }
        let port = start - 1;
        world
            .run(&format!("run --rm -p {port}:80 busy true"))
            .fails_with(125, &format!("publish 80/tcp on 0.0.0.0:{port}: Permission denied"))
            .tells("net.ipv4.ip_unprivileged_port_start");
        world.run("ps -aq").prints("");
    }
}
