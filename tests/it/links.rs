//! How containers are connected other than by a bridge alone: namespaces by path, the host's
//! links, routes and addresses of one's own choice.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use crate::{
    env::poll,
    needs::{is_root, needs},
    network::World,
};

/// A network namespace with an address in it, and the pid of a process that is there.
///
/// An ordinary user makes it where their containers' ids are known.
fn namespace(world: &World) -> (std::process::Child, String) {
    // Until nobody has the other end of its stdin.
    let script =
        "ip link set lo up && ip addr add 192.0.2.33/32 dev lo && echo $$ && exec cat >/dev/null";
    let mut command = match is_root() {
        true => Command::new("unshare"),
        false => world.command("unshare unshare"),
    };
    let mut child = command
        .args(["--net", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = line.trim().to_owned();
    (child, format!("/proc/{pid}/ns/net"))
}

#[test]
fn a_namespace_is_joined_by_its_path() {
    needs!(world);
    let world = World::new();
    let (mut holder, path) = namespace(&world);
    let line = format!("--network ns:{path} busy");
    world.run(&format!("run --rm {line} ip -o -4 addr")).shows("192.0.2.33/32");
    world.run(&format!("run -d --name one {line} sleep 600")).ok();
    let mode = "inspect -f '{{.HostConfig.NetworkMode}}' one";
    world.run(mode).prints(&format!("ns:{path}\n"));
    world.run("exec one ip -o -4 addr").shows("192.0.2.33/32");
    world.run("run --rm --network container:one busy ip -o -4 addr").shows("192.0.2.33/32");
    world.run("network connect bridge one").fails_with(1, "it has none of its own");

    // What is none, what is another's, and what is not there.
    world
        .run("run --rm --network ns:/proc/self/ns/mnt busy true")
        .fails_with(125, "/proc/self/ns/mnt is not a net namespace");
    world
        .run("run --rm --network ns:/etc/passwd busy true")
        .fails_with(125, "is not a net namespace");
    world.run("run --rm --network ns:/no/such busy true").fails_with(125, "/no/such: No such file");
    world.run("run --rm --network ns:here busy true").fails_with(125, "invalid network mode");
    let ports = format!("run --rm -p 80 {line} true");
    world.run(&ports).fails_with(125, "ports can only be published");
    if !is_root() {
        world.run("run --rm --network ns:/proc/1/ns/net busy true").exits(125);
        world
            .run("run --rm --network ns:/proc/self/ns/net busy true")
            .fails_with(125, "it belongs to root");
    }
    world.run("rm -f one").ok();
    drop(holder.stdin.take());
    holder.wait().unwrap();
    poll("the namespace has gone", || std::fs::metadata(&path).is_err());
    world.run(&format!("run --rm {line} true")).fails_with(125, "No such file");
}

#[test]
fn a_network_has_routes_and_reserved_addresses() {
    needs!(world);
    let world = World::new();
    let create = "network create --subnet 10.99.40.0/29 --aux-address a=10.99.40.2 \
                  --aux-address b=10.99.40.3 --route 192.0.2.0/24,10.99.40.3,50 web";
    world.run(create).ok();
    let described = "network inspect -f '{{json .Routes}} {{json .IPAM.Config}}' web";
    world
        .run(described)
        .shows(r#"{"destination":"192.0.2.0/24","gateway":"10.99.40.3","metric":50}"#)
        .shows(r#""AuxiliaryAddresses":{"a":"10.99.40.2","b":"10.99.40.3"}"#);
    world
        .run("run --rm --network web busy ip route")
        .shows("192.0.2.0/24 via 10.99.40.3 dev eth0")
        .shows("metric 50")
        .shows("default via 10.99.40.1");
    world
        .run("run --rm --network web --ip 10.99.40.2 busy true")
        .fails_with(125, "10.99.40.2 is not an address for containers");
    // Three are left: 4, 5 and 6.
    for number in 0..3 {
        world.run(&format!("run -d --name web{number} --network web busy sleep 600")).ok();
    }
    world
        .run("run --rm --network web busy true")
        .fails_with(125, "network web has no free address left");
    for (flags, said) in [
        ("--route 192.0.2.0/24,10.1.1.1", "no matching subnet for the gateway 10.1.1.1"),
        ("--route 192.0.2.1/24,10.99.41.2", "it should be 192.0.2.0/24"),
        ("--route 192.0.2.0/24", "invalid route"),
        ("--route 192.0.2.0/24,::1", "invalid route"),
        ("--aux-address a", "invalid auxiliary address"),
        ("--aux-address a=10.1.1.1", "no matching subnet for aux-address 10.1.1.1"),
        ("--ipv4=false", "IPv4 or IPv6 must be enabled"),
        ("--ipam-driver dhcp", "leased by dhow"),
        ("--ipam-driver other", "could not find plugin other"),
    ] {
        let line = format!("network create --subnet 10.99.41.0/24 {flags} two");
        let line = line.replace("--subnet 10.99.41.0/24 --ipv4=false", "--ipv4=false");
        world.run(&line).fails_with(1, said);
    }
    world.run("network exists two").exits(1);
    world.run("network ls -n --format '{{.Name}} {{.IPv4}}'").shows("web true");
    world.run("network ls -n").hides("NETWORK ID");
}

#[test]
fn addresses_of_the_sixth_kind_are_chosen() {
    needs!(world);
    let world = World::new();
    world.run("network create --ipv4=false --ipv6 --subnet fd00:99:42::/64 six").ok();
    world
        .run("run --rm --network six --ip6 fd00:99:42::99 busy ip -o addr show eth0")
        .shows("fd00:99:42::99/64")
        .hides(" inet ");
    world
        .run("run --rm --network six --ip6 fd00:99:43::99 busy true")
        .fails_with(125, "not an address for containers of network six");
}

#[test]
fn the_way_out_is_the_network_of_highest_priority() {
    needs!(world);
    let world = World::new();
    world.run("network create --subnet 10.99.43.0/24 one").ok();
    world.run("network create --subnet 10.99.44.0/24 two").ok();
    let line = "run -d --name web --network one --network name=two,gw-priority=1 busy sleep 600";
    world.run(line).ok();
    world.run("exec web ip route").shows("default via 10.99.44.1").hides("default via 10.99.43.1");
    world.run("network create --subnet 10.99.45.0/24 three").ok();
    world.run("network connect --gw-priority 2 three web").ok();
    world.run("exec web ip route").shows("default via 10.99.45.1").hides("default via 10.99.44.1");
    world.run("network disconnect three web").ok();
    world.run("exec web ip route").shows("default via 10.99.44.1");
    world.run("restart -t 0 web").ok();
    world.run("exec web ip route").shows("default via 10.99.44.1");
}

#[test]
fn a_link_of_the_hosts_is_shared() {
    needs!(world);
    let world = World::new();
    let create = "network create -d macvlan --subnet 10.99.46.0/24 -o parent=wire0";
    if !is_root() {
        world.run(&format!("{create} mac")).fails_with(1, "are for root");
        world.run("network exists mac").exits(1);
        return;
    }
    let wire = "ip link add wire0 type veth peer name far0 && ip link set wire0 up && \
                ip link set far0 up && ip addr add 10.99.46.1/24 dev far0";
    world.here(|| assert!(Command::new("sh").args(["-c", wire]).status().unwrap().success()));
    world.run(&format!("{create} mac")).ok();
    let flags = "--network mac --ip 10.99.46.7 --cap-add NET_RAW busy";
    world.run(&format!("run -d --name one {flags} sleep 600")).ok();
    world
        .run("exec one ip route")
        .shows("default via 10.99.46.1 dev eth0")
        .shows("10.99.46.0/24 dev eth0");
    world.run("exec one busybox ping -c 1 -w 20 10.99.46.1").shows("1 packets received");
    let line = "run --rm --cap-add NET_RAW --network mac busy busybox ping -c 1 -w 20 10.99.46.7";
    world.run(line).shows("1 packets received");
    // No bridge is made for it, and it is left again.
    world.run("run --rm --network host busy ip -o link").hides("br-");
    world.run("network disconnect mac one").ok();
    world.run("exec one ip -o link").hides("eth0");
    world.run("network connect --ip 10.99.46.8 mac one").ok();
    world.run("exec one busybox ping -c 1 -w 20 10.99.46.1").shows("1 packets received");
    world.run("rm -f one").ok();
    world
        .run("run --rm -p 80 --network mac busy true")
        .fails_with(125, "no port can be published on network");
    world
        .run("run --rm --network mac --egress deny busy true")
        .fails_with(125, "an egress policy cannot be kept on network mac");
    world.run("network rm mac").ok();

    // Few kernels have no ipvlan, and say so.
    let create = create.replace("macvlan", "ipvlan");
    world.run(&format!("{create} -o ipvlan_mode=l3 three")).ok();
    world.run("network inspect -f '{{.Driver}}' three").prints("ipvlan\n");
    let run = world.run("run --rm --network three busy ip route");
    match run.code {
        0 => drop(run.shows("default dev eth0")),
        _ => drop(run.fails_with(125, "load the module macvlan or ipvlan")),
    }
    for (flags, said) in [
        ("-d macvlan", "needs a link"),
        ("-d macvlan -o parent=x -o mode=loud", "mode 'loud' is not valid"),
        ("-d macvlan -o parent=x --egress deny", "--egress needs --driver bridge"),
        ("-d bridge -o parent=x", "the network option parent is not in this version"),
    ] {
        world.run(&format!("network create {flags} --subnet 10.99.47.0/24 x")).fails_with(1, said);
    }
    world.run("network create -d macvlan --interface-name gone0 --subnet 10.99.47.0/24 x").ok();
    world
        .run("run --rm --network x busy true")
        .fails_with(125, "network x is on the link gone0, which is not there");
}
