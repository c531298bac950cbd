//! Containers whose traffic a program carries: pasta, slirp4netns.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    capture::DEADLINE,
    env::poll,
    needs::{is_root, needs},
    network::World,
};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A host with a way out, which pasta wants to see.
fn world() -> World {
    let world = World::new();
    if is_root() {
        world.host(
            "ip link add up0 type veth peer name up1 && ip addr add 203.0.113.2/24 dev up0 && \
             ip link set up0 up && ip link set up1 up && ip route add default via 203.0.113.1",
        );
    }
    world
}

/// The programs that carry this container.
fn carriers(world: &World) -> Vec<Pid> {
    let network = world.env.runroot().join("containers").join(id(world)).join("netns");
    let network = network.to_str().unwrap().to_owned();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let names_it = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').any(|word| word == network)
    };
    pids.filter(names_it).map(Pid::from_raw).collect()
}

fn init_of(world: &World, name: &str) -> i32 {
    world.run(&format!("inspect -f '{{{{.State.Pid}}}}' {name}")).text().parse().unwrap()
}

/// A server on the host's loopback that says `hello` to everyone.
fn greet(world: &World) -> u16 {
    let listener = world.here(|| TcpListener::bind((LOCAL, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    crate::egress::greet(listener);
    port
}

/// Asks the echo server of a published port until it answers.
fn echoed(world: &World, port: u16) -> String {
    let client = world.here(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let mut buffer = [0; 2000];
    loop {
        client.send_to(b"hi", (LOCAL, port)).unwrap();
        if let Ok((count, _)) = client.recv_from(&mut buffer) {
            return String::from_utf8_lossy(&buffer[..count]).into_owned();
        }
        assert!(Instant::now() < deadline, "no answer");
    }
}

/// The whole of a carried container's life; `mode`, made of the port of a server on the host's
/// loopback, lets the container reach that at `gateway`.
fn carries(mode: impl Fn(u16) -> String, gateway: &str, resolver: &str) {
    let world = world();
    let host = greet(&world);
    let mode = mode(host);
    let name = mode.split(':').next().unwrap();
    // Of datagrams pasta's versions of 2023 cannot change the port.
    let (port, datagrams) = (world.free_port(), world.free_port());
    let it = std::env::current_exe().unwrap();
    let both = "/it --exact network::greeter --nocapture & exec /it --exact network::echo_server --nocapture";
    world
        .run(&format!(
            "run -d --name web --network {mode} -p {port}:80 -p 127.0.0.1:{datagrams}:{datagrams}/udp -v {}:/it:ro \
             -e DHOW_TEST_GREET=80 -e DHOW_TEST_ECHO={datagrams} busy sh -c '{both}'",
            it.display()
        ))
        .ok();
    // In, by both protocols.
    assert_eq!(world.fetch(LOCAL, port), "hi\n");
    assert!(echoed(&world, datagrams).ends_with(" hi"));
    // Out: the network is there when the command begins.
    let ask = format!("echo | nc -w 20 {gateway} {host}");
    world.run(&format!("exec web sh -c '{ask}'")).ok().prints("hello\n");
    let once = format!("run --rm --network {mode} busy sh -c '{ask}'");
    world.run(&once).ok().prints("hello\n");
    // As others see it.
    world.run("exec web cat /etc/resolv.conf").shows(&format!("nameserver {resolver}\n"));
    world.run("inspect -f '{{.HostConfig.NetworkMode}}' web").prints(&format!("{name}\n"));
    world.run("ps --format {{.Networks}}").prints(&format!("{name}\n"));
    world.run(&format!("port web {datagrams}/udp")).prints(&format!("127.0.0.1:{datagrams}\n"));
    world
        .run(&format!("run --rm --network {name} -p 127.0.0.1:{port}:80 busy true"))
        .fails_with(125, &format!("publish 80/tcp on 127.0.0.1:{port}"));
    world.run("network reload web").fails_with(1, &format!("the network that {name} makes"));
    // Its next life has the same ports.
    world.run("restart -t 0 web").prints("web\n");
    assert_eq!(world.fetch(LOCAL, port), "hi\n");
    // Whoever dies: nothing of it stays.
    let init = init_of(&world, "web");
    assert!(!carriers(&world).is_empty());
    let monitor =
        fs::read(world.env.runroot().join(format!("containers/{}/process.json", id(&world))));
    let monitor: serde_json::Value = serde_json::from_slice(&monitor.unwrap()).unwrap();
    let monitor = i32::try_from(monitor["monitor"]["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
    assert_eq!(world.fetch(LOCAL, port), "hi\n");
    kill(Pid::from_raw(init), Signal::SIGKILL).unwrap();
    poll("what carried it has gone", || carriers(&world).is_empty());
    world.run("rm -f web").ok();
}

fn id(world: &World) -> String {
    world.run("inspect -f '{{.Id}}' web").text()
}

#[test]
fn pasta_carries_a_container() {
    needs!(world);
    needs!(carrier("pasta"));
    carries(|port| format!("pasta:-T,{port}"), "127.0.0.1", "169.254.1.1");
}

#[test]
fn slirp4netns_carries_a_container() {
    needs!(world);
    needs!(carrier("slirp4netns"));
    let mode = "slirp4netns:allow_host_loopback=true,cidr=10.0.7.0/24";
    carries(|_| mode.to_owned(), "10.0.7.2", "10.0.7.3");
}

#[test]
fn a_carrier_gets_the_options_that_were_typed() {
    needs!(world);
    needs!(carrier("pasta"));
    needs!(carrier("slirp4netns"));
    let world = world();
    let link =
        |mode: &str| world.run(&format!("run --rm --network {mode} busy ip addr")).ok().stdout;
    let pasta = link("pasta:-I,tap7,--mtu,1400,-a,10.9.8.7,-n,24,-g,10.9.8.1");
    assert!(pasta.contains("tap7") && pasta.contains("10.9.8.7/24"), "{pasta}");
    let slirp = link("slirp4netns:mtu=1400,cidr=10.9.8.0/24,enable_ipv6=false");
    assert!(slirp.contains("mtu 1400") && slirp.contains("10.9.8.100/24"), "{slirp}");
    // What it says against them is told.
    let wrong = world.run("run --rm --network pasta:--no-such-option busy true");
    assert!(wrong.stderr.contains("no-such-option"), "{wrong:?}");
    drop(wrong.exits(125));
}

#[test]
fn what_a_carrier_cannot_do_is_refused() {
    let world = World::new();
    for (line, said) in [
        ("--network pasta:--netns,/x", "pasta's option --netns is dhow's to choose"),
        ("--network pasta:eth0", "\"eth0\" is no option of pasta"),
        ("--network slirp4netns:mtu=1", "invalid slirp4netns option \"mtu=1\""),
        ("--network slirp4netns:colour=red", "invalid slirp4netns option \"colour=red\""),
        ("--network slirp4netns:port_handler=rootlesskit", "rootlesskit does not forward"),
        ("--network pasta --network bridge", "conflicting options"),
        ("--network pasta --ip 10.89.0.7", "conflicting options"),
        ("--network pasta --egress deny", "conflicting options"),
    ] {
        world.run(&format!("create {line} busy true")).fails_with(125, said);
    }
    world.run("network create pasta").fails_with(1, "not permitted on predefined pasta network");
    world.run("create --name one --network slirp4netns busy sleep 1000").ok();
    world.run("network create own").ok();
    world.run("network connect own one").fails_with(1, "can have no other");
    world.run("rm one").ok();
}

/// On a kernel without nf_tables: sockets for it cannot be had.
#[cfg(target_arch = "x86_64")]
mod solo {
    use super::*;
    use crate::{
        env::{Env, Run},
        fixture::BUSY,
    };

    /// seccomp(2): `socket(AF_NETLINK, _, NETLINK_NETFILTER)` says EPROTONOSUPPORT.
    fn without_nf_tables() -> Vec<u8> {
        const LOAD: u16 = 0x20;
        const EQUALS: u16 = 0x15;
        const RETURN: u16 = 0x06;
        // Offsets in struct seccomp_data: nr, and the lower halves of the first and third argument.
        let program: [(u16, u8, u8, u32); 8] = [
            (LOAD, 0, 0, 0),
            (EQUALS, 0, 5, 41),
            (LOAD, 0, 0, 16),
            (EQUALS, 0, 3, 16),
            (LOAD, 0, 0, 32),
            (EQUALS, 0, 1, 12),
            (RETURN, 0, 0, 0x0005_0000 | 93),
            (RETURN, 0, 0, 0x7fff_0000),
        ];
        let bytes = |(code, yes, no, k): (u16, u8, u8, u32)| {
            [&code.to_ne_bytes()[..], &[yes, no], &k.to_ne_bytes()].concat()
        };
        program.into_iter().flat_map(bytes).collect()
    }

    fn run(env: &Env, hidden: &[&str], line: &str) -> Run {
        let filter = env.file("filter", without_nf_tables());
        let mut command = env.command(line);
        let hidden: String =
            hidden.iter().map(|path| format!(" --dev-bind /dev/null {path}")).collect();
        let mut within = std::process::Command::new("sh");
        within.args([
            "-c",
            &format!("exec bwrap --dev-bind / /{hidden} --seccomp 9 -- \"$@\" 9<{filter}"),
            "sh",
        ]);
        within.arg(command.get_program()).args(command.get_args());
        within.env_clear().current_dir("/var/tmp");
        command.env_remove("DHOW_NETWORK");
        within.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        env.run_command(line, within, Vec::new())
    }

    #[test]
    fn who_has_no_nf_tables_and_no_program_hears_what_is_missing() {
        needs!(tool("bwrap"));
        let env = Env::with("busy", BUSY);
        let programs = ["/usr/bin/pasta", "/usr/bin/slirp4netns"];
        let there: Vec<&str> =
            programs.into_iter().filter(|path| fs::exists(path).unwrap()).collect();
        let said = run(&env, &there, "run --rm busy true");
        for words in
            ["neither pasta nor slirp4netns is installed", "need nf_tables", "install passt"]
        {
            assert!(said.stderr.contains(words), "{words}: {said:?}");
        }
        drop(said.exits(125));
        run(&env, &there, "run --rm --network pasta busy true")
            .fails_with(125, "pasta is not installed");
        run(&env, &there, "run --rm --network none busy true").ok();
    }

    #[test]
    fn a_program_is_used_where_nf_tables_are_missing() {
        needs!(tool("bwrap"));
        needs!(carrier("pasta"));
        needs!(carrier("slirp4netns"));
        let env = Env::with("busy", BUSY);
        run(&env, &[], "run --rm busy cat /etc/resolv.conf").shows("nameserver 169.254.1.1\n");
        run(&env, &["/usr/bin/pasta"], "run --rm busy ip addr show tap0").shows("10.0.2.100/24");
        // It knows no neighbours.
        run(&env, &[], "network create own").ok();
        run(&env, &[], "run --rm --network own busy true").fails_with(125, "need nf_tables");
    }
}
