//! Root's networks beside firewalls of somebody else's.

mod as_root {
    use std::{
        fs::File,
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::unix::net::{UnixListener, UnixStream},
        process::{Child, Command, Stdio},
        sync::{Arc, Mutex},
        thread,
    };

    use dhow::sys::netlink::{Holder as _, Netlink, Request};
    use nix::{
        net::if_::if_nametoindex,
        sched::{CloneFlags, setns},
    };

    use crate::{
        env::{Run, poll},
        needs::needs,
        network::World,
    };

    /// In a network namespace.
    fn there<T: Send>(path: &str, act: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// A host behind a world's, which has 203.0.113.2 there and forwards.
    struct Beyond(Child);

    impl Beyond {
        fn new(world: &World) -> Self {
            let script = "ip link set lo up && echo && exec sleep 600";
            let mut child = Command::new("unshare")
                .args(["-n", "--kill-child", "sh", "-c", script])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
            world.host(&format!(
                "ip link add up0 type veth peer name up1 netns {0} && \
                 ip addr add 203.0.113.2/24 dev up0 && \
                 ip link set up0 up && nsenter --net=/proc/{0}/ns/net sh -c \
                 'ip addr add 203.0.113.1/24 dev up1 && ip link set up1 up'",
                child.id()
            ));
            Self(child)
        }

        fn path(&self) -> String {
            format!("/proc/{}/ns/net", self.0.id())
        }

        /// A container is published on this port; it is reached from beyond.
        fn comes_in(&self, port: u16) {
            poll("the port is reached from beyond", || {
                let mut said = String::new();
                let read = there(&self.path(), || {
                    TcpStream::connect(("203.0.113.2", port))
                        .and_then(|mut peer| peer.read_to_string(&mut said).map(drop))
                });
                read.is_ok() && said == "hi\n"
            });
        }

        /// A container reaches what is beyond.
        fn is_reached(&self, world: &World) {
            let listener = there(&self.path(), || TcpListener::bind("203.0.113.1:0").unwrap());
            let outside = listener.local_addr().unwrap().port();
            let server = thread::spawn(move || listener.accept().unwrap().0.write_all(b"world\n"));
            let ask = format!("run --rm --network bridge busy nc -w 20 203.0.113.1 {outside}");
            world.run(&ask).ok().prints("world\n");
            server.join().unwrap().unwrap();
        }
    }

    impl Drop for Beyond {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    /// What a program prints in a world.
    fn told(world: &World, words: &[&str]) -> String {
        let mut list = Command::new("nsenter");
        list.arg(world.network_path()).args(words);
        String::from_utf8(list.output().unwrap().stdout).unwrap()
    }

    #[test]
    fn containers_pass_dockers_firewall_as_long_as_they_are() {
        needs!(world);
        needs!(tool("iptables"));
        let world = World::new();
        let beyond = Beyond::new(&world);
        // What docker leaves in its tables.
        world.host(
            "iptables -P FORWARD DROP && iptables -N DOCKER-USER && \
             iptables -A DOCKER-USER -i none9 -j DROP && iptables -A FORWARD -j DOCKER-USER",
        );
        let rules = || told(&world, &["iptables", "-S", "DOCKER-USER"]);
        let before = rules();
        let port = world.free_port();
        world.publish_greeter(port);
        beyond.comes_in(port);
        beyond.is_reached(&world);
        // In front of what was there; docker judges what goes to its own bridges.
        let during = rules();
        assert!(during.ends_with("-A DOCKER-USER -i none9 -j DROP\n"), "{during}");
        let first = during.lines().nth(1).unwrap();
        assert!(first.starts_with("-A DOCKER-USER -i dhow0 -o dhow0 "), "{during}");
        let second = during.lines().nth(2).unwrap();
        assert!(second.starts_with("-A DOCKER-USER -i dhow0 -o docker+ "), "{during}");
        assert!(second.ends_with("-j RETURN"), "{during}");
        // Another container changes nothing.
        world.run("run -d --name two --network bridge busy sleep 1000").ok();
        assert_eq!(rules(), during);
        world.run("rm -f -t 0 web two").ok();
        assert_eq!(rules(), before);
    }

    #[test]
    fn containers_pass_iptables_of_the_older_kind() {
        needs!(world);
        needs!(tool("iptables-legacy"));
        let world = World::new();
        let rules = || told(&world, &["iptables-legacy", "-S"]);
        if !rules().contains("-P FORWARD ACCEPT") {
            // A kernel without those tables.
            return;
        }
        let beyond = Beyond::new(&world);
        for (script, chain) in [
            ("iptables-legacy -P FORWARD DROP", "FORWARD"),
            (
                "iptables-legacy -N DOCKER-USER && iptables-legacy -A FORWARD -j DOCKER-USER",
                "DOCKER-USER",
            ),
        ] {
            world.host(script);
            let before = rules();
            let port = world.free_port();
            world.publish_greeter(port);
            beyond.comes_in(port);
            beyond.is_reached(&world);
            let during = rules();
            let first = format!("-A {chain} -i dhow0 -o dhow0 -m comment --comment dhow-dhow0 ");
            assert!(during.contains(&first), "{during}");
            world.run("run -d --name two --network bridge busy sleep 1000").ok();
            world.run("network reload web").exits(0);
            assert_eq!(rules(), during);
            world.run("rm -f -t 0 web two").ok();
            poll("the rules go with the bridge", || rules() == before);
        }
    }

    /// What is asked of firewalld: methods and their words.
    type Asked = Arc<Mutex<Vec<String>>>;

    /// As much of firewalld on a system's bus as has to do with zones.
    fn firewalld(listener: UnixListener) -> Asked {
        let asked = Asked::default();
        let heard = Arc::clone(&asked);
        thread::spawn(move || {
            for peer in listener.incoming() {
                let Ok(peer) = peer else { return };
                drop(answer(peer, &heard));
            }
        });
        asked
    }

    /// One connection (D-Bus Specification, "Message Protocol"), little-endian.
    fn answer(mut peer: UnixStream, asked: &Asked) -> std::io::Result<()> {
        let mut hello = Vec::new();
        while !hello.ends_with(b"BEGIN\r\n") {
            let mut byte = [0];
            peer.read_exact(&mut byte)?;
            hello.push(byte[0]);
        }
        peer.write_all(b"OK 1234\r\n")?;
        loop {
            let mut fixed = [0; 16];
            peer.read_exact(&mut fixed)?;
            let number = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().unwrap());
            let (body, serial, fields) = (number(4) as usize, number(8), number(12) as usize);
            let mut header = vec![0; fields.next_multiple_of(8)];
            peer.read_exact(&mut header)?;
            let mut words = vec![0; body];
            peer.read_exact(&mut words)?;
            // The field MEMBER: its number, the signature `s`, a length, the text.
            let at = header.windows(4).position(|bytes| bytes == b"\x03\x01s\0").unwrap() + 4;
            let member = text(&header, at);
            let mut line = member.clone();
            let mut at = 0;
            while at < words.len() {
                let word = text(&words, at);
                at = (at + 4 + word.len() + 1).next_multiple_of(4);
                line = format!("{line} {word}");
            }
            asked.lock().unwrap().push(line);
            let path = "/org/fedoraproject/FirewallD1/config/zone/9";
            let (signature, told) = match member.as_str() {
                "getZoneByName" => ("o", path),
                _ => ("s", "trusted"),
            };
            let mut body = u32::try_from(told.len()).unwrap().to_le_bytes().to_vec();
            body.extend(told.bytes().chain([0]));
            // REPLY_SERIAL and SIGNATURE.
            let mut fields = b"\x05\x01u\0".to_vec();
            fields.extend(serial.to_le_bytes());
            fields.extend([8, 1, b'g', 0, 1, signature.as_bytes()[0], 0]);
            let mut reply = vec![b'l', 2, 0, 1];
            reply.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
            reply.extend(1_u32.to_le_bytes());
            reply.extend(u32::try_from(fields.len()).unwrap().to_le_bytes());
            reply.extend(&fields);
            reply.resize(reply.len().next_multiple_of(8), 0);
            reply.extend(body);
            peer.write_all(&reply)?;
        }
    }

    fn text(bytes: &[u8], at: usize) -> String {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        String::from_utf8(bytes[at + 4..at + 4 + length].to_vec()).unwrap()
    }

    #[test]
    fn firewalld_is_told_to_trust_bridges() {
        needs!(world);
        needs!(tool("iptables"));
        let world = World::new();
        // What it begins with where it has no table of its own.
        world.host("iptables -N FORWARD_direct");
        let bus = world.env.path("bus");
        let asked = firewalld(UnixListener::bind(&bus).unwrap());
        let run = |line: &str| -> Run {
            let mut command = world.command(line);
            command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", bus.display()));
            world.env.run_command(line, command, Vec::new())
        };
        let heard = || std::mem::take(&mut *asked.lock().unwrap());
        let bound = |bridge: &str| {
            let all = ["Hello", "addInterface trusted", "getZoneByName trusted", "addInterface"];
            [0, 1, 2, 3].map(|at| match at {
                1 | 3 => format!("{} {bridge}", all[at]),
                _ => all[at].to_owned(),
            })
        };
        run("run -d --name web --network bridge busy sleep 1000").ok();
        assert_eq!(heard(), bound("dhow0"));
        // It knows by now, whoever comes and goes.
        run("run --rm --network bridge busy true").ok();
        run("rm -f -t 0 web").ok();
        run("run -d --name web --network bridge busy sleep 1000").ok();
        assert_eq!(heard(), [""; 0]);
        run("network reload web").exits(0);
        assert_eq!(heard(), bound("dhow0"));
        run("network create -o com.docker.network.bridge.name=lab0 lab").ok();
        run("network connect lab web").ok();
        assert_eq!(heard(), bound("lab0"));
        run("network disconnect lab web").ok();
        run("network rm lab").prints("lab\n");
        assert_eq!(
            heard(),
            [
                "Hello",
                "getZoneByName trusted",
                "removeInterface lab0",
                "removeInterface trusted lab0"
            ]
        );
        run("rm -f -t 0 web").ok();
        run("doctor").exits(0).hides("firewalld");
        // Nobody answers: containers run all the same.
        std::fs::remove_file(&bus).unwrap();
        run("doctor")
            .exits(0)
            .shows("firewalld has rules, and does not answer on the system's bus");
        run("network create lab").ok();
        run("run --rm --network lab busy true").ok();
    }

    /// A request about our table (linux/netfilter/nf_tables.h: NFT_MSG_GETTABLE is 1, ..DELTABLE 2).
    fn table(message: u16) -> Request {
        Request::new(10 << 8 | message, 0, &[1, 0, 0, 0]).with_text(1, "dhow")
    }

    /// The number of our table, which no other one gets: NFTA_TABLE_HANDLE.
    fn table_number() -> Option<Vec<u8>> {
        let told = Netlink::netfilter().unwrap().call_all(&[table(1)]).ok()?;
        let mut found = told.iter().flat_map(|answer| answer.attributes(4));
        found.find(|(kind, _)| *kind == 4).map(|(_, number)| number.to_vec())
    }

    #[test]
    fn rules_are_written_when_they_change_and_bridges_go_with_the_last() {
        needs!(world);
        let world = World::new();
        world.run("run -d --name one busy sleep 1000").ok();
        let made = world.here(table_number);
        assert!(made.is_some());
        world.run("run --rm busy true").ok();
        assert_eq!(world.here(table_number), made, "nothing has changed");
        world.run(&format!("run -d --name two -p {}:80 busy sleep 1000", world.free_port())).ok();
        let published = world.here(table_number);
        assert_ne!(published, made, "a port was published");
        world.run("rm -f two").ok();
        assert_ne!(world.here(table_number), published, "and is no more");

        // What somebody takes away is there again with the next container.
        world.here(|| {
            let batch = |kind| Request::new(kind, 0, &[0, 0, 0, 10]);
            let mut netlink = Netlink::netfilter().unwrap();
            netlink.transact(&batch(0x10), &[table(2)], &batch(0x11)).unwrap();
        });
        assert_eq!(world.here(table_number), None);
        world.run("run --rm busy true").ok();
        assert!(world.here(table_number).is_some());

        world.run("rm -f one").ok();
        assert_eq!(world.here(table_number), None);
        poll("the bridge is gone", || world.here(|| if_nametoindex("dhow0").is_err()));
    }
}
