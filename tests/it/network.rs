//! Networks with real traffic: to the world, from it, and between containers.
//!
//! The world is a network namespace of the test's own as root, and the machine's own address
//! otherwise; no packet leaves the machine.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
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
    env::{Env, Run, Running},
    fixture::BUSY,
    needs::{is_root, needs, own_address},
};

/// An environment and the host's network as its containers see it.
struct World {
    env: Env,
    /// As root: the process whose network it is.
    holder: Option<Child>,
    /// The host's, and not the loopback's.
    address: IpAddr,
}

impl World {
    fn new() -> Self {
        let env = Env::with("busy", BUSY);
        if !is_root() {
            return Self { env, holder: None, address: own_address().unwrap() };
        }
        let script =
            "ip link set lo up && ip addr add 198.51.100.1/32 dev lo && echo && exec sleep 600";
        let mut holder = Command::new("unshare")
            .args(["-n", "--kill-child", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { env, holder: Some(holder), address: Ipv4Addr::new(198, 51, 100, 1).into() }
    }

    /// dhow at home in this world.
    fn command(&self, line: &str) -> Command {
        let command = self.env.command(line);
        let Some(holder) = &self.holder else { return command };
        let mut within = Command::new("nsenter");
        within.arg(format!("--net=/proc/{}/ns/net", holder.id())).arg(command.get_program());
        within.args(command.get_args()).env_clear().current_dir("/var/tmp");
        within.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        within
    }

    #[must_use = "say what the run should have done"]
    #[track_caller]
    fn run(&self, line: &str) -> Run {
        self.env.run_command(line, self.command(line), Vec::new())
    }

    fn spawn(&self, line: &str) -> Running {
        self.env.spawn_command(line, self.command(line))
    }

    /// Something done in this world: sockets stay where they were made.
    fn here<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let path = self.holder.as_ref().map(|holder| format!("/proc/{}/ns/net", holder.id()));
        let inside = || {
            if let Some(path) = path {
                setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            }
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    fn listen(&self) -> (TcpListener, u16) {
        let at = SocketAddr::new(self.address, 0);
        let listener = self.here(|| TcpListener::bind(at).unwrap());
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    fn free_port(&self) -> u16 {
        self.listen().1
    }

    fn connect(&self, ip: IpAddr, port: u16) -> std::io::Result<TcpStream> {
        self.here(|| TcpStream::connect_timeout(&SocketAddr::new(ip, port), DEADLINE))
    }

    /// What a server sends that may still be starting.
    #[track_caller]
    fn fetch(&self, ip: IpAddr, port: u16) -> String {
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
        peer.write_all(b"hello\n").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        peer.read_to_string(&mut said).unwrap();
        said
    });
    let address = world.address;
    let line =
        format!("run --rm --network bridge busy sh -c 'echo from inside | nc {address} {port}'");
    world.run(&line).ok().prints("hello\n");
    assert_eq!(server.join().unwrap(), "from inside\n");

    let closed = world.free_port();
    let line = format!("run --rm --network bridge busy nc -w 20 {address} {closed}");
    let refused = world.run(&line);
    assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
    refused.exits(1);
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
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut count = 0;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match peer.read(&mut buffer).unwrap() {
                0 => break,
                n => count += n,
            }
        }
        sending.join().unwrap();
        count
    });
    let address = world.address;
    let script =
        format!("dd if=/dev/zero bs=1M count=16 2>/dev/null | nc {address} {port} | wc -c");
    world
        .run(&format!("run --rm --network bridge busy sh -c '{script}'"))
        .ok()
        .prints(&format!("{}\n", 24 << 20));
    assert_eq!(server.join().unwrap(), 16 << 20);
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
    let logs = world.run("logs web");
    assert!(logs.stderr.contains(&format!("{}]", world.address)), "{logs:?}");
    logs.warns("response:200");

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

mod rootless {
    use super::*;

    /// The network role of this environment, while it is there.
    fn role(world: &World) -> Option<Pid> {
        let mark = world.env.runroot();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.map(Pid::from_raw).find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("network-role") && line.contains(mark.to_str().unwrap())
        })
    }

    fn wait_until(what: &str, happens: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !happens() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn the_role_goes_with_the_last_container() {
        needs!(world);
        let world = World::new();
        world.run("run -d --name a --network bridge busy sleep 60").ok();
        assert!(role(&world).is_some());
        world.run("rm -f a").ok();
        wait_until("the role has gone", || role(&world).is_none());
        assert!(!world.env.runroot().join("network/role.sock").exists());
    }

    #[test]
    fn a_role_that_was_killed_is_replaced_and_serves_who_was_there() {
        needs!(world);
        let world = World::new();
        let port = world.free_port();
        world
            .run(&format!("run -d --name web -p {port}:80 busy sh -c 'while :; do echo hi | nc -l -p 80; done'"))
            .ok();
        assert_eq!(world.fetch(LOCAL, port), "hi\n");
        kill(role(&world).unwrap(), Signal::SIGKILL).unwrap();
        // The next command that needs the network brings it back for all.
        world.run("run --rm --network bridge busy true").ok();
        assert_eq!(world.fetch(LOCAL, port), "hi\n");
        assert_eq!(world.fetch(world.address, port), "hi\n");
    }
}
