//! Networks with real traffic: to the world, from it, and between containers.
//!
//! The world is a network namespace of the test's own as root, and the machine's own address
//! otherwise; no packet leaves the machine.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    capture::DEADLINE,
    env::{Env, Run, Running, poll},
    fixture::BUSY,
    needs::{is_root, needs, own_address},
};

/// An environment and the host's network as its containers see it.
pub(crate) struct World {
    pub(crate) env: Env,
    /// As root: the process whose network it is.
    holder: Option<Child>,
    /// The host's, and not the loopback's.
    pub(crate) address: IpAddr,
}

impl World {
    /// The network role of this environment, while it is there: who works, and who stands behind.
    pub(crate) fn role(&self) -> Option<(Pid, Pid)> {
        let mark = self.env.runroot();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_role = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("network-role") && line.contains(mark.to_str().unwrap())
        };
        let parent = |pid: i32| -> Option<i32> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
        };
        let all: Vec<i32> = pids.filter(is_role).collect();
        let worker = all.iter().find(|pid| parent(**pid).is_some_and(|up| all.contains(&up)));
        worker.map(|pid| (Pid::from_raw(*pid), Pid::from_raw(parent(*pid).unwrap_or(0))))
    }

    pub(crate) fn new() -> Self {
        let env = Env::with("busy", BUSY);
        if !is_root() {
            return Self { env, holder: None, address: own_address().unwrap() };
        }
        let holder = hold("ip link set lo up && ip addr add 198.51.100.1/32 dev lo");
        Self { env, holder: Some(holder), address: Ipv4Addr::new(198, 51, 100, 1).into() }
    }

    /// Another machine on a link of this world's; as root only.
    pub(crate) fn machine(&self) -> Machine {
        let holder = hold("ip link set lo up");
        let pid = holder.id();
        self.host(&format!(
            "ip link add far0 type veth peer name far1 netns {pid} && ip link set far0 up && \
             ip addr add 203.0.113.1/24 dev far0"
        ));
        let up = "ip addr add 203.0.113.7/24 dev far1 && ip link set far1 up";
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--net=/proc/{pid}/ns/net")).args(["sh", "-c", up]);
        assert!(enter.status().unwrap().success());
        let (address, seen) = (Ipv4Addr::new(203, 0, 113, 7), Ipv4Addr::new(203, 0, 113, 1));
        Machine { holder, address, world: seen }
    }

    /// dhow at home in this world.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = self.env.command(line);
        command.env_remove("DHOW_NETWORK");
        let Some(holder) = &self.holder else { return command };
        let mut within = Command::new("nsenter");
        within.arg(format!("--net=/proc/{}/ns/net", holder.id())).arg(command.get_program());
        within.args(command.get_args()).env_clear().current_dir("/var/tmp");
        within.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        within
    }

    #[must_use = "say what the run should have done"]
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Run {
        self.env.run_command(line, self.command(line), Vec::new())
    }

    pub(crate) fn spawn(&self, line: &str) -> Running {
        self.env.spawn_command(line, self.command(line))
    }

    /// Something done in this world: sockets stay where they were made.
    pub(crate) fn here<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        match &self.holder {
            Some(holder) => within(holder, act),
            None => act(),
        }
    }

    /// A container `web` that says `hi` to who comes by this port.
    #[track_caller]
    pub(crate) fn publish_greeter(&self, port: u16) {
        let it = std::env::current_exe().unwrap();
        let line = format!(
            "run -d --name web --network bridge -p {port}:80 -v {}:/it:ro -e DHOW_TEST_GREET=80 busy /it --exact network::greeter --nocapture",
            it.display()
        );
        self.run(&line).ok();
    }

    /// This world's own network, as nsenter(1) wants to know it; as root only.
    pub(crate) fn network_path(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.holder.as_ref().unwrap().id())
    }

    /// Changes this world's own network; as root only.
    #[track_caller]
    pub(crate) fn host(&self, script: &str) {
        let mut enter = Command::new("nsenter");
        enter.arg(self.network_path()).args(["sh", "-c", script]);
        assert!(enter.status().unwrap().success(), "{script}");
    }

    pub(crate) fn listen(&self) -> (TcpListener, u16) {
        let at = SocketAddr::new(self.address, 0);
        let listener = self.here(|| TcpListener::bind(at).unwrap());
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    pub(crate) fn free_port(&self) -> u16 {
        self.listen().1
    }

    pub(crate) fn connect(&self, ip: IpAddr, port: u16) -> std::io::Result<TcpStream> {
        self.here(|| TcpStream::connect_timeout(&SocketAddr::new(ip, port), DEADLINE))
    }

    /// What a server sends that may still be starting.
    #[track_caller]
    pub(crate) fn fetch(&self, ip: IpAddr, port: u16) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let mut text = String::new();
            let read = self.connect(ip, port).and_then(|mut peer| peer.read_to_string(&mut text));
            if read.is_ok() && !text.is_empty() {
                return text;
            }
            assert!(Instant::now() < deadline, "{ip}:{port} says nothing: {read:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A network of its own, as this script makes it.
fn hold(script: &str) -> Child {
    let mut holder = Command::new("unshare")
        .args(["-n", "--kill-child", "sh", "-c", &format!("{script} && echo && exec sleep 600")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    holder
}

fn within<T: Send>(holder: &Child, act: impl FnOnce() -> T + Send) -> T {
    let path = format!("/proc/{}/ns/net", holder.id());
    let inside = || {
        setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        act()
    };
    thread::scope(|scope| scope.spawn(inside).join().unwrap())
}

/// One beside a world.
pub(crate) struct Machine {
    holder: Child,
    pub(crate) address: Ipv4Addr,
    /// The world, as it is seen from here.
    pub(crate) world: Ipv4Addr,
}

impl Machine {
    pub(crate) fn here<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        within(&self.holder, act)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Here, not where the environment would do it: the rules are this network's.
        let names = fs::read_dir(self.env.root().join("containers")).into_iter().flatten();
        let ids: Vec<_> =
            names.flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
        if !ids.is_empty() {
            drop(self.command(&format!("rm -f {}", ids.join(" "))).output());
        }
        if let Some(holder) = &mut self.holder {
            drop(holder.kill());
            drop(holder.wait());
        }
    }
}

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn a_container_reaches_the_world_and_hears_when_it_cannot() {
    needs!(world);
    let world = World::new();
    let (listener, port) = world.listen();
    let server = thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut said = String::new();
        BufReader::new(&peer).read_line(&mut said).unwrap();
        peer.write_all(b"hello\n").unwrap();
        said
    });
    let address = world.address;
    let line =
        format!("run --rm --network bridge busy sh -c 'echo from inside | nc {address} {port}'");
    world.run(&line).ok().prints("hello\n");
    assert_eq!(server.join().unwrap(), "from inside\n");

    // The second is where the role itself listens, elsewhere.
    for closed in [format!("{address} {}", world.free_port()), "10.89.0.1 15001".to_owned()] {
        let line = format!("run --rm --network bridge busy nc -w 20 {closed}");
        let refused = world.run(&line);
        assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
        refused.exits(1);
    }
}

#[test]
fn a_container_is_on_the_bridge_unless_told_otherwise() {
    needs!(world);
    let world = World::new();
    world.run("run -d --name one busy sleep 60").ok();
    world.run("exec one ip -o -4 addr show eth0").shows("inet 10.89.0.");
    world
        .run("inspect -f '{{.HostConfig.NetworkMode}} {{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}' one")
        .prints("bridge bridge\n");
    world.run("ps --format {{.Networks}}").prints("bridge\n");
    // Namespaces can be shared with it, whichever they are.
    world.run("run --rm --network container:one busy ip -o -4 addr show eth0").shows("10.89.0.");
    world.run("run --rm --pid container:one --ipc container:one busy ip link show eth0").ok();
    world.run("run --rm --network none busy ip -o link").hides("eth0");
    // Another default, for whoever wants it.
    let mut quiet = world.command("run --rm busy ip -o link");
    quiet.env("DHOW_NETWORK", "none");
    world.env.run_command("run", quiet, Vec::new()).hides("eth0");
}

/// The role has a working directory of its own.
#[test]
fn a_store_is_named_from_where_one_stands() {
    needs!(world);
    let world = World::new();
    let port = world.free_port();
    let it = std::env::current_exe().unwrap();
    let run = format!(
        "run -d --name web -p {port}:80 -v {}:/it:ro -e DHOW_TEST_GREET=80 busy /it --exact network::greeter --nocapture",
        it.display()
    );
    for line in [run.as_str(), "network create nearby", "network connect nearby web"] {
        let mut command = world.command(line);
        command.env("DHOW_ROOT", "r").env("DHOW_RUNROOT", "x").current_dir(world.env.path(""));
        world.env.run_command(line, command, Vec::new()).ok();
    }
    assert!(!world.fetch(world.address, port).is_empty());
}

/// Between a container and the role is no wire to be paced for.
#[test]
fn congestion_control_is_for_wires() {
    needs!(world);
    let world = World::new();
    let file = "/proc/sys/net/ipv4/tcp_congestion_control";
    let hosts = fs::read_to_string(file).unwrap();
    let expected = if is_root() { hosts.as_str() } else { "reno\n" };
    world.run(&format!("run --rm busy cat {file}")).prints(expected);
    let line = format!("run --rm --sysctl net.ipv4.tcp_congestion_control=reno busy cat {file}");
    world.run(&line).prints("reno\n");
}

#[test]
fn much_passes_whole_in_both_directions() {
    needs!(world);
    let world = World::new();
    let (listener, port) = world.listen();
    let server = thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut writer = peer.try_clone().unwrap();
        let sending = thread::spawn(move || {
            writer.write_all(&vec![b'x'; 24 << 20]).unwrap();
        });
        // Whole before the end: busybox's nc goes when its peer does.
        peer.read_exact(&mut vec![0; 16 << 20]).unwrap();
        sending.join().unwrap();
    });
    let address = world.address;
    let script =
        format!("dd if=/dev/zero bs=1M count=16 2>/dev/null | nc {address} {port} | wc -c");
    world
        .run(&format!("run --rm --network bridge busy sh -c '{script}'"))
        .ok()
        .prints(&format!("{}\n", 24 << 20));
    server.join().unwrap();
}

#[test]
fn a_published_port_leads_to_the_container_and_shows_the_client() {
    needs!(world);
    let world = World::new();
    let port = world.free_port();
    let server = "httpd -f -v -p 80 -h /etc";
    world.run(&format!("run -d --name web -p {port}:80 busy {server}")).ok();
    let get = |ip: IpAddr| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let mut text = String::new();
            let got = world.connect(ip, port).and_then(|mut peer| {
                peer.write_all(b"GET /passwd HTTP/1.0\r\n\r\n")?;
                peer.read_to_string(&mut text)
            });
            if got.is_ok() && text.contains("root:x:0:0") {
                return;
            }
            assert!(Instant::now() < deadline, "{ip}: {got:?} {text}");
            thread::sleep(Duration::from_millis(10));
        }
    };
    get(LOCAL);
    get(world.address);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let logs = world.run("logs web").warns("");
        if logs.stderr.contains(&format!("{}]", world.address)) {
            break;
        }
        assert!(Instant::now() < deadline, "{logs:?}");
    }

    // From another container, by the host's address.
    let ask = format!(
        "printf \"GET /passwd HTTP/1.0\\\\r\\\\n\\\\r\\\\n\" | nc {} {port} | grep -c root",
        world.address
    );
    world.run(&format!("run --rm --network bridge busy sh -c '{ask}'")).ok().prints("1\n");
    // Another container cannot have the port, and leaves nothing behind.
    world
        .run(&format!("run --rm -p {port}:80 busy true"))
        .fails_with(125, &format!("publish 80/tcp on 0.0.0.0:{port}"));
    world.run("rm -f web").ok();
    assert!(world.connect(LOCAL, port).is_err(), "the port is closed with the container");
    if !is_root() {
        world.run("run -d --name lone --network none busy sleep 1000").ok();
        world
            .run("run --rm --pid container:lone busy true")
            .fails_with(125, "cannot join the pid namespace of lone");
    }
    world
        .run("run --rm --network bridge --network-alias x busy true")
        .fails_with(125, "network-scoped aliases are only supported for user-defined networks");
    // One that the host chooses is the same for both families.
    world.run("run -d --name web -p 80 busy sleep 1000").ok();
    let places = world.run("port web").ok().stdout;
    let mut ports = places.lines().map(|line| line.rsplit(':').next().unwrap());
    let first = ports.next().unwrap();
    assert!(ports.all(|port| port == first), "{places}");
}

#[test]
fn containers_reach_each_other_by_address() {
    needs!(world);
    let world = World::new();
    world.run("run -d --name web --network bridge busy httpd -f -p 80 -h /etc").ok();
    let show = world.run("exec web ip -4 addr show eth0").ok();
    let address = show.stdout.split_whitespace().find(|word| word.contains('/')).unwrap();
    let address = address.split('/').next().unwrap().to_owned();
    let ask = format!(
        "until printf \"GET /passwd HTTP/1.0\\\\r\\\\n\\\\r\\\\n\" | nc {address} 80 2>/dev/null; do :; done | grep -c root"
    );
    world.run(&format!("run --rm --network bridge busy sh -c '{ask}'")).ok().prints("1\n");
}

/// Datagrams to the world and back: busybox has a client of TFTP (RFC 1350).
#[test]
fn datagrams_go_out_and_come_back() {
    needs!(world);
    let world = World::new();
    let at = SocketAddr::new(world.address, 0);
    let socket = world.here(|| UdpSocket::bind(at).unwrap());
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let mut buffer = [0; 1500];
        let (count, client) = socket.recv_from(&mut buffer).unwrap();
        assert!(buffer[..count].starts_with(b"\0\x01file\0octet\0"), "{:?}", &buffer[..count]);
        socket.send_to(b"\0\x03\0\x01by datagram", client).unwrap();
        let (count, _) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"\0\x04\0\x01");
    });
    let get =
        format!("busybox tftp -g -r file -l /tmp/file {} {port} && cat /tmp/file", world.address);
    let run = world.run(&format!("run --rm --network bridge busy sh -c '{get}'"));
    assert_eq!(run.stdout, "by datagram", "{run:?}");
    drop(run.exits(0));
    server.join().unwrap();
}

/// The server of [`datagrams_reach_a_published_port`]: this program again, in a container.
#[test]
fn echo_server() {
    let Ok(port) = std::env::var("DHOW_TEST_ECHO") else { return };
    let socket = UdpSocket::bind(("0.0.0.0", port.parse().unwrap())).unwrap();
    let mut buffer = [0; 2000];
    loop {
        let (count, client) = socket.recv_from(&mut buffer).unwrap();
        let answer = [client.to_string().as_bytes(), b" ", &buffer[..count]].concat();
        socket.send_to(&answer, client).unwrap();
    }
}

#[test]
fn datagrams_reach_a_published_port() {
    needs!(world);
    let world = World::new();
    let port = world.free_port();
    let this = std::env::current_exe().unwrap();
    let server = "/it --exact network::echo_server --nocapture";
    let line = format!(
        "run -d --name echo -p {port}:9000/udp -e DHOW_TEST_ECHO=9000 -v {}:/it:ro busy {server}",
        this.display()
    );
    world.run(&line).ok();
    let client = SocketAddr::new(world.address, 0);
    let client = world.here(|| UdpSocket::bind(client).unwrap());
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let own = client.local_addr().unwrap();
    let deadline = Instant::now() + DEADLINE;
    let mut buffer = [0; 2000];
    let count = loop {
        client.send_to(b"hi", (world.address, port)).unwrap();
        if let Ok((count, _)) = client.recv_from(&mut buffer) {
            break count;
        }
        assert!(Instant::now() < deadline, "no answer");
    };
    assert_eq!(String::from_utf8_lossy(&buffer[..count]), format!("{own} hi"));
}

#[test]
fn networks_are_made_listed_described_and_removed() {
    let world = World::new();
    let id = world.run("network create --subnet 10.99.7.0/24 --label a=b web").ok().stdout;
    world
        .run("network ls --filter type=custom --format '{{.Name}} {{.Driver}} {{.Scope}}'")
        .prints("web bridge local\n");
    world.run("network ls -q --no-trunc --filter name=web").prints(&id);
    world.run("network ls --format {{.Name}}").prints("bridge\nweb\nhost\nnone\n");
    let config = "network inspect -f '{{(index .IPAM.Config 0).Subnet}} {{(index .IPAM.Config 0).Gateway}} {{.Labels.a}}' web";
    world.run(config).prints("10.99.7.0/24 10.99.7.1 b\n");
    world.run("network exists web").ok();
    world.run("network rm web").prints("web\n");
    world.run("network exists web").exits(1);
    for (line, said) in [
        ("network create --subnet 10.99.7.0 x", "invalid CIDR address: 10.99.7.0"),
        ("network create --subnet 10.99.7.1/24 x", "it should be 10.99.7.0/24"),
        ("network create --driver overlay x", "cluster"),
        ("network create a/b", "invalid network name"),
        ("network create bridge", "not permitted on predefined bridge network"),
        ("network create -o foo=1 x", "the network option foo is not in this version"),
        ("network rm none-such", "network none-such not found"),
        ("network rm bridge", "pre-defined network"),
    ] {
        world.run(line).fails_with(1, said);
    }
    world
        .run("network inspect none-such")
        .exits(1)
        .tells("network none-such not found")
        .prints("[]\n");
    world.run("network create --subnet 10.99.7.0/24 one").ok();
    world.run("network create one").fails_with(1, "network with name one already exists");
    world
        .run("network create --subnet 10.99.0.0/16 two")
        .fails_with(1, "overlaps with the network one");
    world.run("network prune -f").prints("Deleted Networks:\none\n\n");
}

#[test]
fn neighbours_are_reached_by_further_addresses() {
    needs!(world);
    let world = World::new();
    world.run("network create web").ok();
    let serve = "busy httpd -f -p 80 -h /etc";
    world
        .run(&format!(
            "run -d --name one --network web --link-local-ip 169.254.8.8 \
             --link-local-ip fe80::8:8 {serve}"
        ))
        .ok();
    world
        .run(&format!("run -d --name two --network name=web,link-local-ip=169.254.8.9 {serve}"))
        .ok();
    world.run(&format!("run -d --name three {serve}")).ok();
    world.run("network connect --link-local-ip 169.254.8.10 web three").ok();
    for (from, to) in [("one", "169.254.8.9"), ("two", "169.254.8.10"), ("three", "169.254.8.8")] {
        let ask = format!("exec {from} wget -q -O - http://{to}/hostname");
        poll("the server answers", || world.run(&ask).code == 0);
    }
    let further =
        "{{with index .NetworkSettings.Networks \"web\"}}{{.IPAMConfig.LinkLocalIPs}}{{end}}";
    world.run(&format!("inspect -f '{further}' one")).prints("[169.254.8.8 fe80::8:8]\n");
    world.run("exec one ip -o addr").shows("169.254.8.8/16").shows("fe80::8:8/64");
    world
        .run("run --rm --network web --link-local-ip no busy true")
        .fails_with(125, "\"no\" is not an IP address");
    let policy = "an egress policy cannot be kept with --link-local-ip";
    world
        .run("run --rm --network web --egress deny --link-local-ip 169.254.8.11 busy true")
        .fails_with(125, policy);
    world.run("run -d --name shut --network web --egress deny busy sleep 60").ok();
    world.run("network create other").ok();
    world.run("network connect --link-local-ip 169.254.8.11 other shut").fails_with(1, policy);
}

#[test]
fn a_container_on_a_network_of_its_own_is_described() {
    needs!(world);
    let world = World::new();
    world.run("network create --subnet 10.99.8.0/24 web").ok();
    let port = world.free_port();
    let line = format!(
        "run -d --name a --network web --ip 10.99.8.77 --mac-address 02:42:00:00:00:77 \
         -p 127.0.0.1:{port}:80 --expose 90 --add-host db:192.0.2.5 --dns 192.0.2.53 busy sleep 60"
    );
    world.run(&line).ok();
    world.run("port a").prints(&format!("80/tcp -> 127.0.0.1:{port}\n"));
    world.run("port a 80").prints(&format!("127.0.0.1:{port}\n"));
    world.run("run -d --name all --network web -P --expose 90 busy sleep 60").ok();
    world.run("port all").shows("90/tcp -> 0.0.0.0:");
    world.run("rm -f -t 0 all").ok();
    world.run("port a 81").fails_with(1, "no public port '81/tcp' published for a");
    world
        .run("ps --format '{{.Ports}} {{.Networks}}'")
        .prints(&format!("90/tcp, 127.0.0.1:{port}->80/tcp web\n"));
    let settings = "inspect -f '{{with index .NetworkSettings.Networks \"web\"}}{{.IPAddress}}/{{.IPPrefixLen}} {{.Gateway}} {{.MacAddress}}{{end}} {{.HostConfig.NetworkMode}}' a";
    world.run(settings).prints("10.99.8.77/24 10.99.8.1 02:42:00:00:00:77 web\n");
    world.run("exec a cat /etc/resolv.conf").shows("nameserver 10.99.8.1\n");
    world.run("exec a grep -c -e '192.0.2.5.db' -e 10.99.8.77 /etc/hosts").prints("2\n");
    world
        .run("network inspect -f '{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}' web")
        .prints("a 10.99.8.77/24\n");
    world.run("network rm web").fails_with(1, "network web has active endpoints");
    world
        .run("run --rm --network web --ip 10.99.8.77 busy true")
        .fails_with(125, "address 10.99.8.77 of network web is in use");
    world
        .run("run --rm --network web --ip 10.99.9.1 busy true")
        .fails_with(125, "10.99.9.1 is not an address");
    world
        .run("run --rm --network none-such busy true")
        .fails_with(125, "network none-such not found");
    world
        .run("run --rm --network none --ip 10.99.8.5 busy true")
        .fails_with(125, "conflicting options");
    world.run("rm -f a").ok();
    // Its address is free again.
    world.run("run --rm --network web --ip 10.99.8.77 busy true").ok();
    world.run("network rm web").ok();
}

/// The kernel takes a network namespace down some time after its last process has ended.
#[test]
fn who_is_restarted_at_once_is_on_its_network_again() {
    needs!(world);
    let world = World::new();
    world.run("run -d --name web --network bridge busy sleep 1000").ok();
    for _ in 0..6 {
        world.run("restart -t 0 web").prints("web\n");
        world.run("exec web busybox ip -o addr show dev eth0").ok();
    }
}

#[test]
fn networks_are_kept_apart_and_internal_ones_in() {
    needs!(world);
    let world = World::new();
    world.run("network create --subnet 10.99.10.0/24 one").ok();
    world.run("network create --subnet 10.99.11.0/24 --internal two").ok();
    world.run("run -d --name a --network one --ip 10.99.10.5 busy httpd -f -p 80 -h /etc").ok();
    world.run("run -d --name b --network two --ip 10.99.11.5 busy httpd -f -p 80 -h /etc").ok();
    let get = |from: &str, ip: &str| {
        let ask = format!("nc -w 1 {ip} 80 </dev/null");
        world.run(&format!("run --rm --network {from} busy sh -c '{ask}'"))
    };
    let reached = |run: Run| {
        let code = run.code;
        drop(run.exits(code));
        code == 0
    };
    let deadline = Instant::now() + DEADLINE;
    while !reached(get("one", "10.99.10.5")) || !reached(get("two", "10.99.11.5")) {
        assert!(Instant::now() < deadline, "neighbours reach each other");
    }
    assert!(!reached(get("one", "10.99.11.5")));
    let (listener, port) = world.listen();
    let ask = format!("nc -w 1 {} {port} </dev/null", world.address);
    let out = world.run(&format!("run --rm --network two busy sh -c '{ask}'"));
    assert!(!reached(out));
    drop(listener);
}

/// Greets whoever comes, in a container: this program again.
#[test]
fn greeter() {
    let Ok(port) = std::env::var("DHOW_TEST_GREET") else { return };
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port.parse().unwrap());
    for peer in TcpListener::bind(any).unwrap().incoming() {
        drop(peer.and_then(|mut peer| peer.write_all(b"hi\n")));
    }
}

mod rootless {
    use super::*;

    /// Descriptors and KiB written that the working role has. What it has only read, of its own
    /// program, is its own or not as others run the same.
    fn weight(world: &World) -> (usize, u64) {
        let (worker, _) = world.role().unwrap();
        let fds = fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count();
        let smaps = fs::read_to_string(format!("/proc/{worker}/smaps_rollup")).unwrap();
        let private = smaps.lines().filter(|line| line.starts_with("Private_Dirty"));
        let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        (fds, kib.sum())
    }

    #[test]
    fn ten_thousand_connections_leave_nothing_in_the_role() {
        needs!(world);
        let world = World::new();
        let port = world.free_port();
        world.publish_greeter(port);
        assert_eq!(world.fetch(LOCAL, port), "hi\n");
        let open = |count: usize| {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..count / 4).for_each(|_| drop(world.fetch(LOCAL, port))));
                }
            });
        };
        open(1000);
        let (mut before, mut after) = (weight(&world), (0, 0));
        poll("the first thousand is forgotten", || {
            let now = weight(&world);
            now == std::mem::replace(&mut before, now)
        });
        open(9000);
        poll("their descriptors are closed", || {
            after = weight(&world);
            after.0 <= before.0
        });
        assert!(after.1 < before.1 + 512, "{before:?} has become {after:?}");
    }

    /// Holds what connections it gets, in a container: this program again.
    #[test]
    fn hog() {
        let Ok(to) = std::env::var("DHOW_TEST_HOG") else { return };
        let to = to.parse().unwrap();
        let begin = |_| TcpStream::connect_timeout(&to, Duration::from_millis(100)).ok();
        let held: Vec<TcpStream> = (0..120).filter_map(begin).collect();
        println!("held {} of 120", held.len());
        thread::sleep(Duration::from_secs(600));
    }

    #[test]
    fn one_container_cannot_have_all_that_the_role_has() {
        needs!(world);
        let world = World::new();
        let (listener, port) = world.listen();
        thread::spawn(move || {
            for peer in listener.incoming() {
                thread::spawn(move || {
                    let mut peer = peer.unwrap();
                    drop(peer.write_all(b"hi\n"));
                    drop(peer.read(&mut [0]));
                });
            }
        });
        let it = std::env::current_exe().unwrap();
        let line = format!(
            "run -d --name hog -v {}:/it:ro -e DHOW_TEST_HOG={}:{port} busy /it --exact network::rootless::hog --nocapture",
            it.display(),
            world.address
        );
        // Little for the role that this command starts.
        let command = world.command(&line);
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 256; exec \"$@\"", "sh"]).arg(command.get_program());
        limited.args(command.get_args()).env_clear().current_dir("/var/tmp");
        limited.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        world.env.run_command(&line, limited, Vec::new()).ok();
        poll("it has what it gets", || {
            let run = world.run("logs hog");
            let held = run.stdout.contains(" of 120");
            drop(run.ok());
            held
        });
        let held = world.run("logs hog").ok().stdout;
        assert!(!held.contains("held 120"), "{held}");
        let ask = format!("sh -c 'echo | nc -w 20 {} {port}'", world.address);
        for _ in 0..3 {
            world.run(&format!("run --rm busy {ask}")).ok().prints("hi\n");
        }
        world.run("rm -f -t 0 hog").ok();
    }

    #[test]
    fn the_role_goes_with_the_last_container() {
        needs!(world);
        let world = World::new();
        world.run("run -d --name a --network bridge busy sleep 60").ok();
        assert!(world.role().is_some());
        world.run("rm -f a").ok();
        poll("the role has gone", || world.role().is_none());
        assert!(!world.env.runroot().join("network/role.sock").exists());
    }

    #[test]
    fn a_role_that_was_killed_is_replaced_and_serves_who_was_there() {
        needs!(world);
        let world = World::new();
        let port = world.free_port();
        world.run("network create --subnet 10.99.31.0/24 web").ok();
        world
            .run(&format!("run -d --name web --network web:ip=10.99.31.5 -p {port}:80 busy sh -c 'while :; do echo hi | nc -l -p 80; done'"))
            .ok();
        assert_eq!(world.fetch(LOCAL, port), "hi\n");
        let (worker, guard) = world.role().unwrap();
        kill(worker, Signal::SIGKILL).unwrap();
        // By itself: no command has to come.
        poll("the role is replaced", || world.role().is_some_and(|(now, _)| now != worker));
        assert_eq!(world.fetch(LOCAL, port), "hi\n");
        assert_eq!(world.fetch(world.address, port), "hi\n");
        let found = world.run("exec web busybox nslookup -type=a web");
        assert!(found.stdout.ends_with("Address: 10.99.31.5\n\n"), "{found:?}");
        drop(found.exits(0));

        // Both of them: the next command that needs the network brings it back for all.
        for pid in [guard, world.role().unwrap().0] {
            kill(pid, Signal::SIGKILL).unwrap();
        }
        world.run("run --rm busy true").ok();
        assert_eq!(world.fetch(LOCAL, port), "hi\n");
        assert_eq!(world.fetch(world.address, port), "hi\n");
    }
}
