//! Root's networks beside a firewall of somebody else's.

mod as_root {
    use std::{
        fs::File,
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::{TcpListener, TcpStream},
        process::{Command, Stdio},
        thread,
    };

    use nix::sched::{CloneFlags, setns};

    use crate::{env::poll, needs::needs, network::World};

    /// In a network namespace.
    fn there<T: Send>(path: &str, act: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    #[test]
    fn containers_pass_dockers_firewall_as_long_as_they_are() {
        needs!(world);
        needs!(tool("iptables"));
        let world = World::new();
        // A host behind another one, with what docker leaves in its tables.
        let script = "ip link set lo up && echo && exec sleep 600";
        let mut beyond = Command::new("unshare")
            .args(["-n", "--kill-child", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(beyond.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let path = format!("/proc/{}/ns/net", beyond.id());
        world.host(&format!(
            "ip link add up0 type veth peer name up1 netns {0} && ip addr add 203.0.113.2/24 dev up0 && \
             ip link set up0 up && nsenter --net=/proc/{0}/ns/net sh -c \
             'ip addr add 203.0.113.1/24 dev up1 && ip link set up1 up' && \
             iptables -P FORWARD DROP && iptables -N DOCKER-USER && iptables -A DOCKER-USER -i none9 -j DROP && \
             iptables -A FORWARD -j DOCKER-USER",
            beyond.id()
        ));
        let rules = || {
            let mut list = Command::new("nsenter");
            list.arg(world.network_path()).args(["iptables", "-S", "DOCKER-USER"]);
            String::from_utf8(list.output().unwrap().stdout).unwrap()
        };
        let before = rules();
        let port = world.free_port();
        world.publish_greeter(port);
        // In, through the published port.
        poll("the port is reached from beyond", || {
            let mut said = String::new();
            let read = there(&path, || {
                TcpStream::connect(("203.0.113.2", port))
                    .and_then(|mut peer| peer.read_to_string(&mut said).map(drop))
            });
            read.is_ok() && said == "hi\n"
        });
        // Out.
        let listener = there(&path, || TcpListener::bind("203.0.113.1:0").unwrap());
        let outside = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || listener.accept().unwrap().0.write_all(b"world\n"));
        let ask = format!("run --rm --network bridge busy nc -w 20 203.0.113.1 {outside}");
        world.run(&ask).ok().prints("world\n");
        server.join().unwrap().unwrap();
        // In front of what was there; docker judges what goes to its own bridges.
        let during = rules();
        assert!(during.ends_with("-A DOCKER-USER -i none9 -j DROP\n"), "{during}");
        let first = during.lines().nth(1).unwrap();
        assert!(first.starts_with("-A DOCKER-USER -i dhow0 -o docker+ "), "{during}");
        assert!(first.ends_with("-j RETURN"), "{during}");
        // Another container changes nothing.
        world.run("run -d --name two --network bridge busy sleep 1000").ok();
        assert_eq!(rules(), during);
        world.run("rm -f -t 0 web two").ok();
        assert_eq!(rules(), before);
        beyond.kill().unwrap();
        drop(beyond.wait());
    }
}
