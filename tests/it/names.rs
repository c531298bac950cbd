//! Names on networks: who knows whom, what is asked elsewhere, and what is written down.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::{
    capture::DEADLINE,
    env::{Run, poll},
    needs::needs,
    network::World,
};

/// What `busybox nslookup` finds, without what it says about the server.
fn found(run: &Run) -> String {
    let lines = run.stdout.lines().skip_while(|line| !line.is_empty());
    lines.filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("\n")
}

/// What is asked from inside of a container that runs.
#[track_caller]
fn ask(world: &World, container: &str, what: &str) -> String {
    let run = world.run(&format!("exec {container} busybox nslookup {what}"));
    let said = format!("{}{}", found(&run), run.stderr);
    let code = run.code;
    drop(run.exits(code));
    said
}

#[test]
fn containers_find_each_other_by_name() {
    needs!(world);
    let world = World::new();
    world.run("network create --subnet 10.99.20.0/24 web").ok();
    world.run("network create --subnet 10.99.21.0/24 db").ok();
    world
        .run("run -d --name one --network web:ip=10.99.20.10,alias=www --hostname first busy sleep 600")
        .ok();
    world
        .run("run -d --name two --network web:ip=10.99.20.11,alias=www --network db:ip=10.99.21.11 busy sleep 600")
        .ok();
    world.run("run -d --name three --network db --link two:cache busy sleep 600").ok();
    world.run("exec one cat /etc/resolv.conf").shows("nameserver 10.99.20.1\n");
    let a = |container: &str, name: &str| ask(&world, container, &format!("-type=a {name}"));
    assert_eq!(a("one", "two"), "Name:\ttwo\nAddress: 10.99.20.11");
    assert_eq!(a("one", "TWO.web"), "Name:\tTWO.web\nAddress: 10.99.20.11");
    assert_eq!(a("two", "first"), "Name:\tfirst\nAddress: 10.99.20.10");
    let www = a("two", "www");
    assert!(www.contains("10.99.20.10") && www.contains("10.99.20.11"), "{www}");
    assert_eq!(a("three", "cache"), "Name:\tcache\nAddress: 10.99.21.11");
    let id = world.run("inspect -f '{{slice .Id 0 12}}' two").ok().stdout;
    assert!(a("three", id.trim()).ends_with("Address: 10.99.21.11"));
    let ptr = ask(&world, "one", "10.99.20.11");
    assert_eq!(ptr, "11.20.99.10.in-addr.arpa\tname = two.web");
    let host = a("one", "host.docker.internal");
    let expected = if crate::needs::is_root() { "10.99.20.1" } else { "169.254.1.2" };
    assert!(host.ends_with(&format!("Address: {expected}")), "{host}");
    let none = ask(&world, "one", "-type=aaaa two");
    assert!(!none.contains("NXDOMAIN") && !none.contains("Address:"), "{none}");
    let names = "inspect -f '{{json (index .NetworkSettings.Networks \"web\").DNSNames}}' one";
    let id = world.run("inspect -f '{{slice .Id 0 12}}' one").ok().stdout;
    world.run(names).prints(&format!("[\"one\",\"www\",\"{}\",\"first\"]\n", id.trim()));

    world.run("rm -f two").ok();
    poll("a removed container is no longer found", || !a("one", "www").contains("10.99.20.11"));
    for (line, said) in [
        ("run --rm --network web --network-alias a_b:c busy true", "is not a name"),
        ("run --rm --network web --link none-such busy true", "No such container: none-such"),
        ("run --rm --network web --link one:b:c busy true", "bad format for links"),
        ("run --rm --network none --network-alias x busy true", "conflicting options"),
        ("run --rm --network web --network web busy true", "specified multiple times"),
    ] {
        world.run(line).fails_with(125, said);
    }
}

#[test]
fn the_default_bridge_knows_links_only() {
    needs!(world);
    let world = World::new();
    world.run("run -d --name one --network bridge busy sleep 600").ok();
    let show = "inspect -f '{{.NetworkSettings.IPAddress}} {{slice .Id 0 12}}' one";
    let shown = world.run(show).ok().stdout;
    let (ip, id) = shown.trim().split_once(' ').unwrap();
    let linked = "run --rm --network bridge --link one:db busy grep -w db /etc/hosts";
    world.run(linked).prints(&format!("{ip}\tdb {id} one\n"));
    world.run("run -d --name two --network bridge --link one:db --add-host db:192.0.2.7 busy sleep 600").ok();
    world.run("exec two grep -w db /etc/hosts").shows(&format!("{ip}\tdb {id} one\n"));
    world.run("rm --link /two/db").prints("/two/db\n");
    world.run("exec two grep -w db /etc/hosts").prints("192.0.2.7\tdb\n");
    world.run("inspect -f '{{.HostConfig.Links}}' two").hides("db");
    world.run("rm --link two/db").fails_with(1, "container two has no link db");
    world.run("rm --link two").fails_with(1, "cannot remove the default link name");
    world.run("stop -t 0 one").ok();
    world.run(linked).fails_with(125, "cannot link to one");
}

#[test]
fn files_say_what_was_chosen() {
    needs!(world);
    let world = World::new();
    world.run("network create --subnet 10.99.22.0/24 web").ok();
    world.run("network create --subnet 10.99.23.0/24 --disable-dns quiet").ok();
    let flags = "--dns 192.0.2.5 --dns-search lan --dns-search home --dns-option timeout:1";
    let show = "busy cat /etc/resolv.conf";
    world
        .run(&format!("run --rm --network web {flags} {show}"))
        .prints("nameserver 10.99.22.1\nsearch lan home\noptions timeout:1 ndots:0\n");
    world
        .run(&format!("run --rm --network quiet {flags} {show}"))
        .prints("nameserver 192.0.2.5\nsearch lan home\noptions timeout:1\n");
    world
        .run(&format!("run --rm --network bridge {flags} {show}"))
        .prints("nameserver 192.0.2.5\nsearch lan home\noptions timeout:1\n");
    world
        .run("run --rm --network web:ip=10.99.22.9 --hostname box --domainname lan.example busy sh -c 'hostname; grep box /etc/hosts; cat /etc/hostname'")
        .prints("box\n10.99.22.9\tbox.lan.example box\nbox\n");
}

/// A resolver, in a container: this program again. It answers every question with 192.0.2.77,
/// `many` with more than a datagram holds, and `gone` not at all.
#[test]
fn resolver() {
    if std::env::var("DHOW_TEST_RESOLVER").is_err() {
        return;
    }
    fn answer(query: &[u8], count: u16) -> Vec<u8> {
        let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let mut message = query[..end].to_vec();
        message[2..4].copy_from_slice(&[0x81, 0x80]);
        message[6..8].copy_from_slice(&count.to_be_bytes());
        message[8..12].fill(0);
        for number in 0..count {
            let [_, low] = number.to_be_bytes();
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 77 + low]);
        }
        message
    }
    fn says(query: &[u8], name: &[u8]) -> bool {
        query[12..].windows(name.len()).any(|part| part == name)
    }
    let listener = TcpListener::bind("0.0.0.0:53").unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).unwrap();
            let told = answer(&query, if says(&query, b"many") { 100 } else { 1 });
            let length = u16::try_from(told.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length, &*told].concat()).unwrap();
        }
    });
    let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
    let mut buffer = [0; 2000];
    loop {
        let (count, client) = socket.recv_from(&mut buffer).unwrap();
        let query = &buffer[..count];
        if says(query, b"gone") {
            continue;
        }
        let mut told = answer(query, 1);
        if says(query, b"many") {
            told[2] |= 2;
        }
        socket.send_to(&told, client).unwrap();
    }
}

/// Who asks over TCP, in a container: this program again.
#[test]
fn questioner() {
    let Ok(server) = std::env::var("DHOW_TEST_ASK") else { return };
    let server: IpAddr = server.parse().unwrap();
    let mut stream = TcpStream::connect(SocketAddr::new(server, 53)).unwrap();
    for (name, count) in [("many", 100_u16), ("few", 1)] {
        let mut query = vec![0, 0, 7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.push(u8::try_from(name.len()).unwrap());
        query.extend([name.as_bytes(), &[0, 0, 1, 0, 1]].concat());
        query[1] = u8::try_from(query.len() - 2).unwrap();
        stream.write_all(&query).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut told = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(told[..2], [7, 7]);
        assert_eq!(told[6..8], count.to_be_bytes());
    }
}

#[test]
fn other_names_are_asked_of_the_chosen_resolvers() {
    needs!(world);
    let world = World::new();
    world.run("network create --subnet 10.99.24.0/24 web").ok();
    let this = format!("-v {}:/it:ro", std::env::current_exe().unwrap().display());
    let server = format!(
        "run -d --name dns --network web:ip=10.99.24.53 {this} -e DHOW_TEST_RESOLVER=1 busy \
         /it --exact names::resolver --nocapture"
    );
    world.run(&server).ok();
    // The first resolver does not exist: the next one is asked.
    let client = "--network web --dns 10.99.24.54 --dns 10.99.24.53";
    world.run(&format!("run -d --name one {client} {this} busy sleep 600")).ok();
    let deadline = Instant::now() + DEADLINE;
    let said = loop {
        let said = ask(&world, "one", "-type=a example.org");
        if said.contains("192.0.2.77") {
            break said;
        }
        assert!(Instant::now() < deadline, "{said}");
        thread::sleep(Duration::from_millis(20));
    };
    assert!(said.ends_with("Name:\texample.org\nAddress: 192.0.2.77"), "{said}");
    let tcp = "exec -e DHOW_TEST_ASK=10.99.24.1 one /it --exact names::questioner --nocapture";
    world.run(tcp).ok();
    // Nobody outside of the network is answered.
    world.run("network create --subnet 10.99.25.0/24 --internal inner").ok();
    world.run("run -d --name two --network inner --dns 10.99.24.53 busy sleep 600").ok();
    let said = ask(&world, "two", "-type=a example.org");
    assert!(!said.contains("192.0.2.77"), "{said}");
}

#[test]
fn networks_are_joined_and_left_while_a_container_runs() {
    needs!(world);
    let world = World::new();
    world.run("network create --subnet 10.99.26.0/24 one").ok();
    world.run("network create --subnet 10.99.27.0/24 two").ok();
    world.run("run -d --name web --network one --ip 10.99.26.9 busy sleep 600").ok();
    world.run("run -d --name cli --network two --ip 10.99.27.8 busy sleep 600").ok();
    world.run("network connect --alias www --ip 10.99.27.9 two web").ok();
    world.run("exec web ip -o -4 addr show eth1").shows("inet 10.99.27.9/24");
    world.run("exec web grep -c -e 10.99.26.9 -e 10.99.27.9 /etc/hosts").prints("2\n");
    let found = ask(&world, "cli", "-type=a www");
    assert_eq!(found, "Name:\twww\nAddress: 10.99.27.9");
    let containers = "network inspect -f '{{range .Containers}}{{.Name}} {{end}}' two";
    let listed = world.run(containers).ok().stdout;
    assert!(listed.contains("web") && listed.contains("cli"), "{listed}");
    world
        .run("network connect two web")
        .fails_with(1, "endpoint with name web already exists in network two");
    world.run("network connect two none-such").fails_with(1, "No such container: none-such");
    world.run("network connect none-such web").fails_with(1, "network none-such not found");
    world
        .run("network connect --ip 10.99.27.8 two web")
        .fails_with(1, "endpoint with name web already exists");

    // A new name is known at once, the old one no more.
    world.run("rename web shop").ok();
    assert_eq!(ask(&world, "cli", "-type=a shop"), "Name:\tshop\nAddress: 10.99.27.9");
    let old = world.run("exec cli busybox nslookup -type=a web");
    assert!(!old.stdout.contains("10.99.27.9"), "{old:?}");
    drop(old);
    world.run("rename shop web").ok();

    // The way out moves to the network that is left.
    world.run("exec web ip route").shows("default via 10.99.26.1");
    world.run("network disconnect one web").ok();
    world.run("exec web ip route").shows("default via 10.99.27.1").hides("10.99.26");
    world.run("exec web ip -o link").hides("eth0");
    world.run("network disconnect one web").fails_with(1, "web is not connected to network one");
    world.run("network rm one").prints("one\n");
    world.run("network reload web").ok();
    assert_eq!(ask(&world, "cli", "-type=a www"), "Name:\twww\nAddress: 10.99.27.9");

    // Also of one that does not run, and it lasts.
    world.run("stop -t 0 web").ok();
    world.run("network create --subnet 10.99.28.0/24 three").ok();
    world.run("network connect three web").ok();
    world.run("network reload web").fails_with(1, "container web is not running");
    world.run("start web").ok();
    world.run("exec web ip -o -4 addr").shows("inet 10.99.27.9/24").shows("inet 10.99.28.");
    world.run("network disconnect two web").ok();
    world.run("network disconnect three web").ok();
    world.run("exec web ip -o link").hides("eth");
    world.run("network connect --ip 10.99.27.9 two web").ok();
    world.run("exec web ip route").shows("default via 10.99.27.1");
    world.run("exec web cat /etc/resolv.conf").shows("nameserver 10.99.27.1");
    world.run("run -d --name deaf --network none busy sleep 600").ok();
    world.run("run -d --name twin --network container:cli busy sleep 600").ok();
    world.run("network connect two twin").fails_with(1, "it has none of its own");
    if !crate::needs::is_root() {
        world.run("network connect two deaf").fails_with(1, "was started without a network");
    }
}

#[test]
fn who_has_anothers_network_has_its_names() {
    needs!(world);
    let world = World::new();
    world.run("network create --subnet 10.99.33.0/24 lab").ok();
    world.run("network create --subnet 10.99.34.0/24 more").ok();
    let web = "run -d --name web --network lab --add-host far:192.0.2.9 --hostname web.lab.test";
    world.run(&format!("{web} busy sleep 600")).ok();
    world.run("run -d --name twin --network container:web busy sleep 600").ok();
    // And who has the network of who has it.
    world.run("run -d --name third --network container:twin busy sleep 600").ok();
    for name in ["twin", "third"] {
        let hosts = world.run(&format!("exec {name} cat /etc/hosts"));
        hosts.shows("192.0.2.9\tfar").shows("10.99.33.2\tweb.lab.test web\n");
        world.run(&format!("exec {name} cat /etc/resolv.conf")).shows("nameserver 10.99.33.1");
        world.run(&format!("exec {name} hostname")).prints("web.lab.test\n");
    }
    world.run("network connect more web").ok();
    world.run("exec third cat /etc/hosts").shows("10.99.34.2\tweb.lab.test web\n");
    let path = |name: &str| world.run(&format!("inspect -f {{{{.HostsPath}}}} {name}")).ok().stdout;
    assert_eq!(path("third"), path("web"));
    for (flags, what) in [
        ("--hostname x", "hostname and the network mode"),
        ("--dns 192.0.2.1", "dns and the network mode"),
        ("--dns-search lan", "dns and the network mode"),
        ("--add-host a:192.0.2.1", "custom host-to-IP mapping and the network mode"),
        ("-p 80:80", "port publishing and the container type network mode"),
        ("-P", "port publishing and the container type network mode"),
    ] {
        world
            .run(&format!("run --rm --network container:web {flags} busy true"))
            .fails_with(125, &format!("conflicting options: {what}"));
    }
}
