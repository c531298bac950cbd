//! Egress policies: what may be reached, what becomes of the rest, and what is noted of both.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use nix::sys::{
    signal::{Signal, kill},
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv,
        send, setsockopt, socket, sockopt,
    },
    time::{TimeVal, TimeValLike as _},
};

use crate::{
    capture::DEADLINE,
    env::{Run, poll},
    needs::{is_root, needs},
    network::World,
};

/// Tries to reach something, in a container: this program again. `tcp` and `udp` say what came
/// of it; a datagram that nobody answers is as good as one that arrived.
#[test]
fn prober() {
    let Ok(what) = std::env::var("DHOW_TEST_PROBE") else { return };
    let (how, to) = what.split_once(' ').unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { "::".parse().unwrap() };
    let outcome = match how {
        "tcp" => TcpStream::connect_timeout(&to, DEADLINE).map(drop),
        "icmp" => ping(to),
        _ => UdpSocket::bind((any, 0)).and_then(|socket| {
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.connect(to)?;
            socket.send(b"question")?;
            match socket.recv(&mut [0; 64]) {
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
                other => other.map(drop),
            }
        }),
    };
    match outcome {
        Ok(()) => println!("probe: reached"),
        Err(err) => println!("probe: {}", err.raw_os_error().unwrap_or(0)),
    }
}

/// An echo request to an address of IPv4, by a ping socket (icmp(7)).
fn ping(to: SocketAddr) -> std::io::Result<()> {
    let kind = (AddressFamily::Inet, SockType::Datagram, SockFlag::empty());
    let socket = socket(kind.0, kind.1, kind.2, SockProtocol::Icmp)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    send(socket.as_raw_fd(), &[8, 0, 0, 0, 0, 1, 0, 1], MsgFlags::empty())?;
    recv(socket.as_raw_fd(), &mut [0; 64], MsgFlags::empty())?;
    Ok(())
}

/// A resolver, in a container: every name stands for `DHOW_TEST_ADDRESS`, for a minute.
#[test]
fn resolver() {
    let Ok(address) = std::env::var("DHOW_TEST_ADDRESS") else { return };
    let address: Ipv4Addr = address.parse().unwrap();
    let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
    let mut buffer = [0; 2000];
    loop {
        let (count, client) = socket.recv_from(&mut buffer).unwrap();
        let end = 12 + buffer[12..count].iter().position(|byte| *byte == 0).unwrap() + 5;
        let mut told = buffer[..end].to_vec();
        let is_address = told[end - 3] == 1;
        told[2..4].copy_from_slice(&[0x81, 0x80]);
        told[6..12].copy_from_slice(&[0, u8::from(is_address), 0, 0, 0, 0]);
        if is_address {
            told.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            told.extend(address.octets());
        }
        socket.send_to(&told, client).unwrap();
    }
}

fn this() -> String {
    format!("-v {}:/it:ro", std::env::current_exe().unwrap().display())
}

#[must_use]
#[track_caller]
fn probe(world: &World, container: &str, what: &str) -> String {
    let line = format!(
        "exec -e 'DHOW_TEST_PROBE={what}' {container} /it --exact egress::prober --nocapture"
    );
    let said = world.run(&line).ok().stdout;
    let found = said.lines().find_map(|line| line.split_once("probe: "));
    found.unwrap_or_else(|| panic!("{said}")).1.to_owned()
}

/// Answers `hello` to each line, for ever.
pub(crate) fn greet(listener: TcpListener) {
    thread::spawn(move || {
        for peer in listener.incoming() {
            let Ok(mut peer) = peer else { return };
            let mut said = String::new();
            let _ = BufReader::new(&peer).read_line(&mut said);
            let _ = peer.write_all(b"hello\n");
        }
    });
}

/// What is noted of places with this port: verdict, name, count, sent and received.
#[track_caller]
fn noted(world: &World, container: &str, port: u16) -> Vec<(String, String, u64, u64, u64)> {
    let log: Run = world.run(&format!("network log --format json {container}")).ok();
    let entries = log.stdout.lines().map(|line| {
        serde_json::from_str::<serde_json::Value>(line)
            .unwrap_or_else(|err| panic!("{err}: {line}"))
    });
    let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap().to_owned();
    entries
        .filter(|entry| entry["Port"] == port)
        .map(|entry| {
            let number = |key: &str| entry[key].as_u64().unwrap();
            (
                text(&entry, "Verdict"),
                text(&entry, "Name"),
                number("Count"),
                number("Sent"),
                number("Received"),
            )
        })
        .collect()
}

/// The network role of this environment.
/// EHOSTUNREACH: what an ICMP error of IPv4 that says "prohibited" means to a program.
const PROHIBITED: &str = "113";

#[test]
fn what_is_not_allowed_is_refused_at_once() {
    needs!(world);
    let world = World::new();
    let (listener, port) = world.listen();
    greet(listener);
    let address = world.address;
    let closed = world.free_port();
    world
        .run(&format!(
            "run -d --name web --network bridge --egress allow={address}:{port} {} busy sleep 600",
            this()
        ))
        .ok();
    let nc = |port: u16| format!("exec web sh -c 'echo hi | nc -w 20 {address} {port}'");
    world.run(&nc(port)).prints("hello\n");
    assert_eq!(probe(&world, "web", &format!("tcp {address}:{closed}")), PROHIBITED);
    assert_eq!(probe(&world, "web", "tcp 192.0.2.1:80"), PROHIBITED);
    assert_eq!(probe(&world, "web", "udp 192.0.2.1:53"), PROHIBITED);
    assert_eq!(probe(&world, "web", &format!("udp {address}:{closed}")), PROHIBITED);
    assert_eq!(probe(&world, "web", "icmp 192.0.2.1:0"), PROHIBITED);
    let echo = format!("icmp {address}:0");
    assert_eq!(probe(&world, "web", &echo), PROHIBITED, "one port is not all");
    world.run("exec web busybox nslookup -type=txt secret.example.org").exits(1).shows("REFUSED");
    assert_eq!(noted(&world, "web", port), [("allowed".into(), String::new(), 1, 3, 6)]);
    let refused = noted(&world, "web", closed);
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused.iter().all(|entry| entry.0 == "refused" && entry.3 == 0), "{refused:?}");
    let log =
        world.run("network log --format '{{.Verdict}} {{.Protocol}} {{.Name}} {{.Address}}' web");
    drop(log.shows("refused dns secret.example.org \n").shows("refused icmp  192.0.2.1\n"));
    world.run("network log web").shows("VERDICT   PROTOCOL   NAME");
    world
        .run("inspect -f '{{.HostConfig.Egress}}' web")
        .prints(&format!("allow={address}:{port}\n"));
    // Nobody in there can pretend to be another.
    world.run("exec web grep CapBnd /proc/self/status").shows("00000000800405fb");
    // The account outlives the container's end, and goes with the container.
    world.run("stop -t 0 web").ok();
    poll("the log is written", || {
        world
            .env
            .root()
            .join("containers")
            .read_dir()
            .unwrap()
            .flatten()
            .any(|one| one.path().join("egress.json").exists())
    });
    assert_eq!(noted(&world, "web", port).len(), 1);
}

#[test]
fn denied_is_everything() {
    needs!(world);
    let world = World::new();
    let address = world.address;
    let (listener, port) = world.listen();
    greet(listener);
    world.run("network create --egress deny --ipv6 --subnet 10.99.31.0/24 shut").ok();
    world.run("network inspect -f '{{.Egress}}' shut").prints("deny\n");
    let run = format!("run -d --network shut {}", this());
    world.run(&format!("{run} --name one busy sleep 600")).ok();
    world
        .run(&format!("{run} --name two --egress allow={address} busy httpd -f -p 80 -h /etc"))
        .ok();
    for name in ["one", "two"] {
        assert_eq!(probe(&world, name, &format!("tcp {address}:{port}")), PROHIBITED, "{name}");
        assert_eq!(probe(&world, name, "tcp 169.254.1.2:80"), PROHIBITED, "{name}: the host");
    }
    // EACCES is what IPv6's means.
    assert_eq!(probe(&world, "one", "tcp [2001:db8::1]:80"), "13");
    assert_eq!(probe(&world, "one", "udp [2001:db8::1]:80"), "13");
    // Those on the same network are not the world.
    poll("the neighbour answers", || {
        let run = world.run("exec one busybox wget -q -O - http://two/passwd");
        let fetched = run.stdout.contains("root:");
        let code = run.code;
        drop(run.exits(code));
        fetched
    });
    world.run("network log one").shows("refused");
}

#[test]
fn a_name_opens_what_it_stands_for() {
    needs!(world);
    let world = World::new();
    let IpAddr::V4(own) = world.address else { return };
    // Only root can make a machine that is not the host, which no name opens.
    let machine = is_root().then(|| world.machine());
    let address = machine.as_ref().map_or(own, |machine| machine.address);
    let opened = if is_root() { "reached" } else { PROHIBITED };
    let listen = || TcpListener::bind((address, 0)).unwrap();
    let listener = machine.as_ref().map_or_else(|| world.here(listen), |one| one.here(listen));
    let port = listener.local_addr().unwrap().port();
    greet(listener);
    world.run("network create --egress record --subnet 10.99.32.0/24 lab").ok();
    world
        .run(&format!("run -d --name dns --network lab:ip=10.99.32.53 {} -e DHOW_TEST_ADDRESS={address} busy /it --exact egress::resolver --nocapture", this()))
        .ok();
    let flags = format!("--network lab --dns 10.99.32.53 {}", this());
    world
        .run(&format!("run -d --name one {flags} --egress allow=good.example:{port},*.wide.example busy sleep 600"))
        .ok();
    let to = format!("tcp {address}:{port}");
    assert_eq!(probe(&world, "one", &to), PROHIBITED, "nobody has asked for a name");
    let ask = |name: &str| {
        let run = world.run(&format!("exec one busybox nslookup -type=a {name}"));
        let code = run.code;
        let said = run.stdout.clone() + &run.stderr;
        drop(run.exits(code));
        said
    };
    for name in ["bad.example", "good.example.org", "data.good.example", "wide.example"] {
        let said = ask(name);
        assert!(said.contains("REFUSED"), "{name}: {said}");
    }
    assert_eq!(probe(&world, "one", &to), PROHIBITED, "a name that was refused opens nothing");
    poll("the resolver answers", || ask("Good.Example").contains(&format!("Address: {address}")));
    assert_eq!(probe(&world, "one", &to), opened);
    assert_eq!(probe(&world, "one", &format!("tcp {address}:{}", world.free_port())), PROHIBITED);
    assert!(ask("x.y.wide.example").contains(&address.to_string()));
    let named = noted(&world, "one", port).into_iter().rev().find(|entry| !entry.1.is_empty());
    let verdict = if is_root() { "allowed" } else { "refused" };
    let named = named.map(|entry| (entry.0, entry.1));
    assert_eq!(named, Some((verdict.to_owned(), "good.example".to_owned())));
    // What the network records of those without a policy of their own.
    world.run(&format!("run -d --name two {flags} busy sleep 600")).ok();
    world.run("exec two busybox nslookup -type=a any.example").shows(&address.to_string());
    assert_eq!(probe(&world, "two", &to), "reached");
    let log =
        world.run("network log --format '{{.Verdict}} {{.Protocol}} {{.Name}} {{.Port}}' two");
    drop(log.prints(&format!("allowed dns any.example 0\nallowed tcp any.example {port}\n")));
}

/// Whoever answers for a name could have it stand for the host.
#[test]
fn the_host_is_opened_by_its_own_names_and_its_address() {
    needs!(world);
    let world = World::new();
    let IpAddr::V4(own) = world.address else { return };
    let (listener, port) = world.listen();
    greet(listener);
    if is_root() {
        // The host's address is the one by which it would speak to others.
        world.host(&format!("ip route add 192.0.2.0/24 dev lo src {own}"));
    }
    world.run("network create --subnet 10.99.36.0/24 lab").ok();
    let resolver = "--exact egress::resolver --nocapture";
    world
        .run(&format!("run -d --name dns --network lab:ip=10.99.36.53 --egress record {} -e DHOW_TEST_ADDRESS={own} busy /it {resolver}", this()))
        .ok();
    let flags = format!("--network lab --dns 10.99.36.53 {}", this());
    for (name, policy) in [
        ("named", format!("sly.example,host.docker.internal:{port}")),
        ("told", format!("sly.example,{own}:{port}")),
    ] {
        world
            .run(&format!("run -d --name {name} {flags} --egress allow={policy} busy sleep 600"))
            .ok();
        poll("the resolver answers", || {
            let run = world.run(&format!("exec {name} busybox nslookup -type=a sly.example"));
            let (code, answers) = (run.code, run.stdout.contains(&own.to_string()));
            drop(run.exits(code));
            answers
        });
    }
    let to = format!("tcp {own}:{port}");
    assert_eq!(probe(&world, "named", &to), PROHIBITED);
    assert_eq!(probe(&world, "told", &to), "reached");
    assert_eq!(probe(&world, "named", &format!("tcp 169.254.1.2:{port}")), "reached");
    assert_eq!(probe(&world, "told", &format!("tcp 169.254.1.2:{port}")), PROHIBITED);
    let refused = ("refused".into(), "sly.example".into(), 1, 0, 0);
    assert_eq!(noted(&world, "named", port).first(), Some(&refused));
}

#[test]
fn a_killed_role_leaves_nothing_open() {
    needs!(world);
    let world = World::new();
    let address = world.address;
    let (listener, port) = world.listen();
    greet(listener);
    let closed = world.free_port();
    let flags = format!("--network bridge --egress allow={address}:{port} {}", this());
    world.run(&format!("run -d --name web {flags} busy sleep 600")).ok();
    let open = format!("tcp {address}:{port}");
    assert_eq!(probe(&world, "web", &open), "reached");
    poll("the log is written", || {
        let containers = world.env.root().join("containers").read_dir().unwrap();
        containers.flatten().any(|one| one.path().join("egress.json").exists())
    });
    let (worker, guard) = world.role().unwrap();
    kill(worker, Signal::SIGKILL).unwrap();
    poll("another comes by itself", || world.role().is_some_and(|(now, _)| now != worker));
    poll("the way is open again", || probe(&world, "web", &open) == "reached");
    assert_eq!(probe(&world, "web", &format!("tcp {address}:{closed}")), PROHIBITED);
    // Both of them: their network goes with them.
    for pid in [guard, world.role().unwrap().0] {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    poll("the way out is gone", || {
        let run = world.run("exec web ls /sys/class/net");
        let is_gone = !run.stdout.contains("eth0");
        drop(run.ok());
        is_gone
    });
    assert_ne!(probe(&world, "web", &open), "reached");
    assert_ne!(probe(&world, "web", &format!("tcp {address}:{closed}")), "reached");
    // The next that needs a role brings it back, with the policy and the log.
    world.run(&format!("run --rm {flags} busy true")).ok();
    assert_eq!(probe(&world, "web", &open), "reached");
    assert_eq!(probe(&world, "web", &format!("tcp {address}:{closed}")), PROHIBITED);
    let counted = noted(&world, "web", port);
    assert_eq!(counted.iter().map(|entry| entry.2).sum::<u64>(), 3, "{counted:?}");
}

#[test]
fn policies_follow_the_networks_of_a_container_that_runs() {
    needs!(world);
    let world = World::new();
    let address = world.address;
    let (listener, port) = world.listen();
    greet(listener);
    world.run("network create --subnet 10.99.33.0/24 open").ok();
    world
        .run(&format!("network create --subnet 10.99.34.0/24 --egress allow={address}:{port} lab"))
        .ok();
    world.run("network create --subnet 10.99.35.0/24 --egress deny shut").ok();
    world.run(&format!("run -d --rm --name web --network lab {} busy sleep 600", this())).ok();
    let to = format!("tcp {address}:{port}");
    assert_eq!(probe(&world, "web", &to), "reached");
    world.run("network connect open web").ok();
    world.run("exec web ip -o -4 addr show eth1").shows("10.99.33.");
    assert_eq!(probe(&world, "web", &to), "reached");
    world.run("network connect shut web").ok();
    assert_eq!(probe(&world, "web", &to), PROHIBITED, "all must agree");
    world.run("network disconnect shut web").ok();
    assert_eq!(probe(&world, "web", &to), "reached");
    let counted = |world: &World| {
        noted(world, "web", port)
            .iter()
            .filter(|entry| entry.0 == "allowed")
            .map(|entry| entry.2)
            .sum::<u64>()
    };
    assert_eq!(counted(&world), 3);
    world.run("network reload web").ok();
    assert_eq!(probe(&world, "web", &to), "reached");
    assert_eq!(counted(&world), 4, "the account goes on");
    let closed = format!("tcp {address}:{}", world.free_port());
    assert_eq!(probe(&world, "web", &closed), PROHIBITED);

    // Who started without a policy may have rights that go with none.
    world.run("run -d --name free --network open busy sleep 600").ok();
    world.run("network connect lab free").fails_with(
        1,
        "free runs without an egress policy, and cannot be put under that of a network",
    );
    world.run("exec free ip -o link").hides("eth1");
    world.run("rm -f web free").ok();
}

/// Who shares a confined container's network, or enters it, is confined as it is.
#[test]
fn nobody_gets_rights_over_a_confined_network_by_the_back_door() {
    needs!(world);
    let world = World::new();
    let run = |flags: &str| format!("run -d {flags} busy sleep 600");
    world.run(&run("--name shut --network bridge --egress deny")).ok();
    world.run(&run("--name guest --network container:shut")).ok();
    world.run(&run("--name third --network container:guest")).ok();
    let too_much = "an egress policy cannot be kept with --privileged, NET_ADMIN or NET_RAW";
    for name in ["shut", "guest", "third"] {
        world.run(&format!("exec {name} grep CapBnd /proc/self/status")).shows("00000000800405fb");
        assert_eq!(probe_raw(&world, name), "Operation not permitted");
        world.run(&format!("exec --privileged {name} true")).exits(1).tells(too_much);
        for rights in ["--privileged", "--cap-add NET_ADMIN", "--cap-add NET_RAW"] {
            world
                .run(&format!("run --rm {rights} --network container:{name} busy true"))
                .fails_with(125, too_much);
        }
    }
    world.run("rm -f -t 0 third guest shut").ok();
    // What is only noted takes nothing away.
    world.run(&run("--name noted --network bridge --egress record")).ok();
    world.run("exec --privileged noted true").ok();
    world.run("run --rm --cap-add NET_ADMIN --network container:noted busy true").ok();
}

/// What becomes of another address on a container's link.
#[must_use]
#[track_caller]
fn probe_raw(world: &World, container: &str) -> String {
    let run = world.run(&format!("exec {container} ip addr add 192.0.2.77/32 dev eth0"));
    let said = run.stderr.trim().rsplit(": ").next().unwrap_or_default().to_owned();
    let code = run.code;
    drop(run.exits(code));
    said
}

#[test]
fn what_cannot_be_a_policy_is_explained() {
    needs!(world);
    let world = World::new();
    for (flags, said) in [
        ("--egress foo", "invalid egress policy \"foo\": it is deny, record or allow=..."),
        ("--egress allow=", "nothing is allowed"),
        ("--egress allow=10.0.0.0/99", "invalid CIDR address: 10.0.0.0/99"),
        ("--egress allow=a.org:99999", "has no valid port"),
        ("--egress deny --egress record", "contradict each other"),
        ("--egress deny --network none", "--egress is for containers with a network of their own"),
        ("--egress deny --network host", "--egress is for containers with a network of their own"),
        ("--egress deny --privileged", "an egress policy cannot be kept with --privileged"),
        ("--egress deny --cap-add NET_RAW", "an egress policy cannot be kept with"),
        ("--egress allow=a.org --cap-add ALL", "an egress policy cannot be kept with"),
    ] {
        let line = match flags.contains("--network") {
            true => format!("run --rm {flags} busy true"),
            false => format!("run --rm --network bridge {flags} busy true"),
        };
        world.run(&line).fails_with(125, said);
    }
    world.run("network create --egress nope lab").fails_with(1, "invalid egress policy");
    world.run("network inspect lab").exits(1);
    world.run("create --name web --network bridge busy true").exits(0);
    world.run("network log web").fails_with(1, "nobody notes where container web goes");
    world.run("network log nosuch").fails_with(1, "No such container: nosuch");
    world.run("ps -aq --filter name=web").exits(0);
}
