//! What networks can be told: how many addresses they have, resolvers, links' names, and flags
//! that mean something in a cluster only.

use std::{net::IpAddr, thread, time::Duration};

use nix::{net::if_::if_nametoindex, sys::signal::Signal};

use crate::{
    env::poll,
    needs::{is_root, needs},
    network::World,
};

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

#[test]
fn networks_are_made_with_the_options_of_another() {
    needs!(world);
    let world = World::new();
    let plan = "--subnet 10.99.71.0/24 --ip-range 10.99.71.128/25 --label tier=web -o mtu=1400";
    world.run(&format!("network create --config-only {plan} plan")).ok();
    let told = |format: &str, name: &str| {
        world.run(&format!("network inspect -f '{format}' {name}")).ok().stdout
    };
    assert_eq!(told("{{.ConfigOnly}} {{.Driver}}", "plan"), "true null\n");
    world.run("network create --config-from plan one").ok();
    let fields = "{{.ConfigOnly}} {{.ConfigFrom.Network}} {{.Labels.tier}} {{.Options.mtu}}";
    assert_eq!(told(fields, "one"), "false plan web 1400\n");
    let run =
        "run --rm --network one busy sh -c 'ip -o -4 addr show eth0; cat /sys/class/net/eth0/mtu'";
    world.run(run).shows("inet 10.99.71.128/24").shows("\n1400\n");
    for (flags, said) in [
        ("--config-from plan", "overlaps with the network one"),
        (
            "--config-from plan --subnet 10.99.72.0/24",
            "user specified configurations are not supported",
        ),
        ("--config-from plan -o mtu=1500", "user specified configurations are not supported"),
        ("--config-from one", "configuration network \"one\" does not exist"),
        ("--config-from none-such", "configuration network \"none-such\" does not exist"),
        ("--config-only --config-from plan", "cannot depend on another configuration network"),
        (
            "--config-only --internal",
            "configuration network can only contain network specific fields",
        ),
        ("--config-only -o colour=red", "the network option colour is not in this version"),
    ] {
        world.run(&format!("network create {flags} two")).fails_with(1, said);
    }
    world.run("run --rm --network plan busy true").fails_with(125, "plan is configuration-only");
    world.run("network rm plan").fails_with(1, "configuration network \"plan\" is in use");
    world.run("network prune -f").prints("Deleted Networks:\none\n\n");
    // What any driver can be told, until there is one.
    world.run("network create --config-only -o parent=eth7 --ipv6 wide").ok();
    world
        .run("network create --config-from wide two")
        .fails_with(1, "use the options of wide")
        .tells("the network option parent is not in this version");
    world.run("network rm plan wide").prints("plan\nwide\n");
    // Each has addresses of its own where none were planned.
    world.run("network create --config-only --ipv6 wide").ok();
    for name in ["one", "two"] {
        world.run(&format!("network create --config-from wide {name}")).ok();
        assert_eq!(
            told("{{.EnableIPv4}} {{.EnableIPv6}} {{len .IPAM.Config}}", name),
            "true true 2\n"
        );
    }
    world.run("network rm one two wide").ok();
}

#[test]
fn networks_are_chosen_by_filters() {
    needs!(world);
    let world = World::new();
    world.run("network create --label tier=web --label x --subnet 10.99.73.0/24 web").ok();
    world.run("network create --label tier=db webdb").ok();
    world.run("run -d --name one --network web busy sleep 1000").ok();
    let id = world.run("network inspect -f {{.Id}} web").ok().stdout;
    for (filters, expected) in [
        ("-f type=custom", "web webdb"),
        ("-f type=builtin", "bridge host none"),
        ("-f name=^web$", "web"),
        ("-f name=web", "web webdb"),
        ("-f label=tier -f label=x", "web"),
        ("-f label=tier -f label!=x", "webdb"),
        ("-f driver=null -f driver=host", "host none"),
        ("-f scope=local -f dangling=true", "webdb"),
        ("-f dangling=false -f type=custom", "web"),
        ("-f scope=swarm", ""),
        ("-f until=10m -f type=custom", ""),
        (&format!("-f id={}", &id[..12]), "web"),
    ] {
        let run = world.run(&format!("network ls --format {{{{.Name}}}} {filters}")).ok();
        assert_eq!(
            run.stdout.split_whitespace().collect::<Vec<_>>().join(" "),
            expected,
            "{filters}"
        );
    }
    for (filter, said) in [
        ("colour=red", "invalid filter 'colour'"),
        ("type=odd", "invalid filter: 'type'='odd'"),
        ("dangling=perhaps", "invalid filter: 'dangling'='perhaps'"),
        ("name=(", "invalid filter pattern"),
        ("until=soon", "soon"),
    ] {
        world.run(&format!("network ls -f {filter}")).fails_with(1, said);
    }
    world.run(&format!("ps -f network={} --format {{{{.Names}}}}", id.trim())).prints("one\n");
    world.run("network prune -f --filter until=10m").prints("");
    world.run("network prune -f --filter label!=tier=db").prints("");
    world.run("network prune -f --filter colour=red").fails_with(1, "colour");
    world.run("network prune -f --filter label=tier").prints("Deleted Networks:\nwebdb\n\n");
}

#[test]
fn containers_are_found_by_the_ports_they_publish() {
    needs!(world);
    let world = World::new();
    let port = world.free_port();
    world.run(&format!("run -d --name web -p {port}:80 busy sleep 1000")).ok();
    for (filter, expected) in [
        (format!("{port}"), "web\n"),
        (format!("{}-{port}/tcp", port - 1), "web\n"),
        (format!("{port}/udp"), ""),
        ("80".to_owned(), ""),
    ] {
        world.run(&format!("ps -f publish={filter} --format {{{{.Names}}}}")).prints(expected);
    }
    world.run("ps -f expose=79-81 --format {{.Names}}").prints("web\n");
    world.run("ps -f publish=http").fails_with(1, "invalid filter 'publish=http'");
}

#[test]
fn a_link_is_set_as_it_was_asked_for() {
    needs!(world);
    let world = World::new();
    world.run("network create --subnet 10.99.74.0/24 lab").ok();
    world.run("network create --subnet 10.99.75.0/24 more").ok();
    let option = "driver-opt=com.docker.network.endpoint.sysctls";
    let sysctl = "net.ipv4.conf.IFNAME";
    let run = format!(
        "run -d --name one --network '\"name=lab\",\"{option}={sysctl}.log_martians=1,{sysctl}.accept_redirects=0\"' busy sleep 1000"
    );
    world.run(&run).ok();
    let read = |file: &str, expected: &str| {
        let line = format!("exec one cat /proc/sys/net/ipv4/conf/{file}");
        world.run(&line).prints(&format!("{expected}\n"));
    };
    read("eth0/log_martians", "1");
    read("eth0/accept_redirects", "0");
    world.run(&format!("network connect --{option}={sysctl}.log_martians=1 more one")).ok();
    read("eth1/log_martians", "1");
    world.run("inspect -f '{{json .NetworkSettings.Networks.more.DriverOpts}}' one").prints(
        "{\"com.docker.network.endpoint.sysctls\":\"net.ipv4.conf.IFNAME.log_martians=1\"}\n",
    );
    world.run("restart -t 0 one").ok();
    read("eth1/log_martians", "1");
    for (typed, said) in [
        ("net.ipv4.conf.eth0.log_martians=1", "unrecognised network interface sysctl"),
        ("net.core.conf.IFNAME.x=1", "unrecognised network interface sysctl"),
        ("net.ipv4.conf.IFNAME.../../x=1", "unrecognised network interface sysctl"),
        ("net.ipv4.conf.IFNAME.log_martians", "unrecognised network interface sysctl"),
        ("net.ipv4.conf.IFNAME.none_such=1", "set net.ipv4.conf.IFNAME.none_such=1 on network lab"),
    ] {
        world
            .run(&format!("run --rm --network name=lab,{option}={typed} busy true"))
            .fails_with(125, said);
    }
    world.run("ps -a --format {{.Names}}").prints("one\n");
}

#[test]
fn containers_of_a_network_can_be_kept_from_each_other() {
    needs!(world);
    let world = World::new();
    let port = world.free_port();
    if is_root() {
        // With br_netfilter what is published comes back as a frame between neighbours.
        let file = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        world.host(&format!("! test -e {file} || echo 0 > {file}"));
    }
    let option = "com.docker.network.bridge.enable_icc";
    world
        .run(&format!("network create -o {option}=maybe apart"))
        .fails_with(1, "invalid value \"maybe\"");
    world
        .run(&format!(
            "network create --subnet 10.99.76.0/24 --subnet fd00:99:76::/64 -o {option}=false apart"
        ))
        .ok();
    let web = "--network apart:ip=10.99.76.5,ip6=fd00:99:76::5";
    let this = std::env::current_exe().unwrap();
    world
        .run(&format!("run -d --name web {web} -p {port}:80 -v {}:/it:ro -e DHOW_TEST_GREET=80 busy /it --exact network::greeter --nocapture", this.display()))
        .ok();
    assert_eq!(world.fetch(world.address, port), "hi\n");
    world.run("run -d --name one --network apart busy sleep 1000").ok();
    let ask = |ip: &str, port: u16, seconds: u8| {
        let run = world.run(&format!("exec one sh -c 'nc -w {seconds} {ip} {port} </dev/null'"));
        let (code, said) = (run.code, run.stdout.clone());
        drop(run.exits(code));
        said
    };
    assert_eq!(ask("10.99.76.5", 80, 1), "");
    assert_eq!(ask("fd00:99:76::5", 80, 1), "");
    // Not by way of the router, either.
    let detour = "exec --privileged one ip route add 10.99.76.5/32 via 10.99.76.1";
    world.run(detour).ok();
    assert_eq!(ask("10.99.76.5", 80, 1), "");
    // What is published is everyone's; names and the world are there.
    assert_eq!(ask(&world.address.to_string(), port, 20), "hi\n");
    let found = world.run("exec one busybox nslookup -type=a web");
    assert!(found.stdout.ends_with("Address: 10.99.76.5\n\n"), "{found:?}");
    drop(found.exits(0));
    let (listener, port) = world.listen();
    let server = thread::spawn(move || {
        std::io::Write::write_all(&mut listener.accept().unwrap().0, b"out\n").unwrap()
    });
    assert_eq!(ask(&world.address.to_string(), port, 20), "out\n");
    server.join().unwrap();
}

mod as_root {
    use super::*;

    #[test]
    fn a_driver_takes_the_options_of_a_configuration() {
        needs!(world);
        let world = World::new();
        world.host("ip link add lab0 type veth peer name lab1 && ip link set lab0 up && ip link set lab1 up");
        world.run("network create --config-only --subnet 10.99.77.0/24 -o parent=lab0 -o mode=bridge plan").ok();
        world
            .run("network create --config-from plan -d ipvlan lan")
            .fails_with(1, "requested ipvlan mode 'bridge' is not valid");
        world.run("network create --config-from plan -d macvlan lan").ok();
        world
            .run("run --rm --network lan busy ip -o -4 addr show eth0")
            .shows("inet 10.99.77.2/24");
    }

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
