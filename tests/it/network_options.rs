//! What networks can be told: how many addresses they have, resolvers, links' names, and flags
//! that mean something in a cluster only.

use std::{net::IpAddr, thread, time::Duration};

use nix::{net::if_::if_nametoindex, sys::signal::Signal};

use crate::{env::poll, needs::needs, network::World};

#[test]
fn a_network_without_a_free_address_says_so_and_nothing_stays() {
    needs!(world);
    let world = World::new();
    for (name, flags) in [
        ("tiny", "--subnet 10.99.60.0/30"),
        ("part", "--subnet 10.99.61.0/24 --ip-range 10.99.61.8/32"),
    ] {
        world.run(&format!("network create {flags} {name}")).ok();
        world.run(&format!("run -d --name one --network {name} busy sleep 1000")).ok();
        let full = format!("network {name} has no free address left");
        world.run(&format!("run --rm --network {name} busy true")).fails_with(125, &full);
        world.run("ps -a --format {{.Names}}").prints("one\n");
        // One that is kept has nothing there until it starts.
        world
            .run(&format!("run --name two --network {name} busy true"))
            .fails_with(125, &full)
            .tells("remove containers, or create a network with a larger --subnet");
        world.run("ps -a --format '{{.Names}} {{.State}}'").shows("two ");
        world.run("run -d --name other busy sleep 1000").ok();
        world.run(&format!("network connect {name} other")).fails_with(1, &full);
        world.run("exec other ip -o link").hides("eth1");
        world.run(&format!("network inspect -f '{{{{len .Containers}}}}' {name}")).prints("1\n");
        world.run("rm -f -t 0 one").ok();
        world.run("start -a two").ok();
        world.run("rm -f -t 0 two other").ok();
        world.run(&format!("network rm {name}")).prints(&format!("{name}\n"));
    }
}

#[test]
fn a_start_that_is_killed_keeps_neither_address_nor_port() {
    needs!(world);
    let world = World::new();
    let port = world.free_port();
    // For one container.
    world.run("network create --subnet 10.99.69.0/30 tiny").ok();
    let flags = format!("--network tiny -p 127.0.0.1:{port}:80 busy");
    for patience in [5, 20, 40, 60, 80, 120] {
        let start = world.spawn(&format!("run -d --name web {flags} sleep 1000"));
        thread::sleep(Duration::from_millis(patience));
        start.signal(Signal::SIGKILL);
        let _ = start.finish().code;
        world.run("rm -f -t 0 web").exits(0);
        poll("another container has both", || {
            let run = world.run(&format!("run --rm {flags} true"));
            let code = run.code;
            drop(run.exits(code));
            code == 0
        });
    }
    world.run("network inspect -f '{{len .Containers}}' tiny").prints("0\n");
    world.run("ps -aq").prints("");
    world.run("network rm tiny").prints("tiny\n");
    // What was being made when its maker was killed goes with the next that is made so.
    world.env.image("other", "/f 0644 x\nCMD [\"x\"]");
    assert_eq!(world.env.stored("staging"), Vec::<String>::new());
}

#[test]
fn what_belongs_to_a_cluster_is_refused_with_a_word_on_it() {
    let world = World::new();
    world
        .run("network create -d overlay far")
        .fails_with(1, "overlay: networks of several hosts belong to a cluster's engine")
        .tells("run the image under containerd/Kubernetes");
    world.run("network create --scope swarm far").fails_with(1, "--scope").tells("Kubernetes");
    world.run("network create --scope moon far").fails_with(1, "invalid scope \"moon\"");
    world.run("network create --ingress far").exits(125).tells("--ingress").tells("Kubernetes");
    world.run("volume update far").exits(125).tells("those of a cluster belong to its engine");
    world.run("volume reload").exits(125).tells("there are no volume plugins");
    world.run("network exists far").exits(1);
    // What docker takes on one host.
    world
        .run("network create --attachable --scope local --ipam-opt a=b --ipam-driver default near")
        .ok();
    world
        .run("network inspect -f '{{.Attachable}} {{.Scope}} {{.IPAM.Options.a}}' near")
        .prints("true local b\n");
}

#[test]
fn links_have_the_names_that_were_chosen() {
    needs!(world);
    let world = World::new();
    world.run("network create --subnet 10.99.65.0/24 web").ok();
    world.run("network create --subnet 10.99.66.0/24 db").ok();
    world
        .run("network create --subnet 10.99.67.0/24 -o com.docker.network.container_iface_prefix=lab lab")
        .ok();
    let ifname = "driver-opt=com.docker.network.endpoint.ifname";
    let run = format!(
        "run -d --name one --network web:interface_name=lan0 --network name=db,{ifname}=db0 \
         --network lab busy sleep 1000"
    );
    world.run(&run).ok();
    let seen = |line: &str| {
        let shown = world.run(line).ok().stdout;
        let names = shown.lines().map(|line| line.split(": ").nth(1).unwrap());
        let mut names: Vec<String> =
            names.map(|name| name.split('@').next().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(seen("exec one ip -o link"), ["db0", "lab2", "lan0", "lo"]);
    world.run("restart -t 0 one").ok();
    assert_eq!(seen("exec one ip -o link"), ["db0", "lab2", "lan0", "lo"]);
    world.run("exec one ip route").shows("default via 10.99.65.1 dev lan0");
    let option = "--driver-opt com.docker.network.endpoint.ifname";
    world.run("network disconnect db one").ok();
    world
        .run(&format!("network connect {option}=lan0 db one"))
        .fails_with(1, "two networks of the container have the interface name lan0");
    world.run(&format!("network connect {option}=db1 db one")).ok();
    assert_eq!(seen("exec one ip -o link"), ["db1", "lab2", "lan0", "lo"]);
    for (network, said) in [
        ("web:interface_name=lo", "\"lo\" cannot be the name of an interface"),
        ("web:interface_name=a/b", "cannot be the name of an interface"),
        ("web:interface_name=sixteencharacter", "cannot be the name of an interface"),
        ("name=web,driver-opt=foo=1", "invalid driver option \"foo=1\""),
        ("web:interface_name=x0 --network db:interface_name=x0", "the interface name x0"),
    ] {
        world.run(&format!("run --rm --network {network} busy true")).fails_with(125, said);
    }
}

#[test]
fn resolvers_of_a_network_change_while_it_is_used() {
    needs!(world);
    let world = World::new();
    let IpAddr::V4(address) = world.address else { return };
    world.run("network create --subnet 10.99.68.0/24 lab").ok();
    let this = std::env::current_exe().unwrap();
    let serve = format!(
        "run -d --name dns --network lab:ip=10.99.68.53 -v {}:/it:ro -e DHOW_TEST_ADDRESS={address} \
         busy /it --exact egress::resolver --nocapture",
        this.display()
    );
    world.run(&serve).ok();
    world.run("run -d --name one --network lab busy sleep 1000").ok();
    world.run("run -d --name two --network lab --dns 192.0.2.9 busy sleep 1000").ok();
    world.run("network update --dns-add 10.99.68.53 lab").prints("lab\n");
    poll("the new resolver is asked", || {
        let run = world.run("exec one busybox nslookup -type=a any.example");
        let code = run.code;
        let found = run.stdout.contains(&format!("Address: {address}"));
        drop(run.exits(code));
        found
    });
    world.run("network inspect -f '{{json .DNS}}' lab").prints("[\"10.99.68.53\"]\n");
    world.run("network update --dns-drop 10.99.68.53 --dns-add 192.0.2.7,192.0.2.8 lab").ok();
    world.run("network inspect -f '{{json .DNS}}' lab").prints("[\"192.0.2.7\",\"192.0.2.8\"]\n");
    world.run("network update --dns-add x lab").fails_with(1, "\"x\" is not an IP address");
    world.run("network update --dns-add 192.0.2.7 none-such").fails_with(1, "none-such not found");
    world
        .run("network update --dns-add 192.0.2.7 bridge")
        .fails_with(1, "network bridge has no name server of its own");
}

mod as_root {
    use super::*;

    #[test]
    fn a_bridge_has_the_name_that_was_chosen() {
        needs!(world);
        let world = World::new();
        let option = "-o com.docker.network.bridge.name";
        world.run(&format!("network create {option}=lab0 lab")).ok();
        world
            .run(&format!("network create {option}=lab0 other"))
            .fails_with(1, "networks have same bridge name: lab0 is that of the network lab");
        world.run("run -d --name one --network lab busy sleep 1000").ok();
        world.host("ip link show lab0 >/dev/null");
        world.run("rm -f -t 0 one").ok();
        poll("its bridge is gone", || world.here(|| if_nametoindex("lab0").is_err()));
        // A link of the host's is not taken.
        world.host("ip link add lab0 type veth peer name lab1");
        world
            .run("run --rm --network lab busy true")
            .fails_with(125, "the host has a link lab0 already");
        world.host("ip link show lab0 >/dev/null && ip link del lab0");
        world.run("run --rm --network lab busy true").ok();
    }
}
