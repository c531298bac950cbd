//! nginx, redis and PostgreSQL from Debian's packages, driven by their own clients; dig, curl,
//! iperf3 and wrk.
//!
//! One test, because the image is large: unpacking it takes longer than all the rest.

use crate::{
    env::poll,
    needs::{self, needs},
    network::World,
};

fn world() -> World {
    let world = World::new();
    let tar = needs::servers_tar();
    world.run(&format!("import {} servers", tar.display())).exits(0);
    world.run("network create --subnet 10.99.50.0/24 lab").ok();
    world
}

/// What a client in a container of its own says, once it succeeds: a server may still be starting.
fn client(world: &World, line: &str) -> String {
    let mut said = String::new();
    poll(line, || {
        let run = world.run(&format!("run --rm --network lab servers {line}"));
        let code = run.code;
        said.clone_from(&run.stdout);
        drop(run.exits(code));
        code == 0
    });
    said
}

#[test]
fn servers_of_debian_are_driven_by_their_own_clients() {
    needs!(servers);
    needs!(world);
    // PostgreSQL's own user needs an id of its own.
    if !needs::is_root() {
        needs!(subids);
    }
    let world = world();
    nginx_serves_the_volume_it_was_given(&world);
    redis_keeps_its_data_over_a_restart(&world);
    postgres_keeps_its_data_over_a_restart(&world);
    dig_is_answered_by_the_network(&world);
    iperf3_passes_in_and_out(&world);
    wrk_finds_no_error_behind_a_published_port(&world);
}

fn nginx_serves_the_volume_it_was_given(world: &World) {
    let port = world.free_port();
    let line = "--network lab -v www:/var/www/html servers nginx -g 'daemon off;'";
    world.run(&format!("run -d --name web -p {port}:80 {line}")).ok();
    // What the image has there was copied into the volume.
    assert!(client(world, "curl -sf http://web/").contains("Welcome to nginx"));
    world.run("run --rm -v www:/www servers sh -c 'seq 100000 >/www/numbers'").ok();
    let sum = client(world, "sh -c 'curl -sf http://web/numbers | sha256sum'");
    let own = client(world, "sh -c 'seq 100000 | sha256sum'");
    assert_eq!(sum, own);
    // Through the published port, too; and it sees who asked.
    let published =
        format!("run --rm --network host servers curl -sf http://{}:{port}/numbers", world.address);
    assert!(world.run(&published).ok().stdout.ends_with("100000\n"));
    let log = world.run("exec web cat /var/log/nginx/access.log");
    assert!(log.stdout.contains(&world.address.to_string()), "{log:?}");
    drop(log.ok());
    world.run("rm -f web").ok();
}

fn redis_keeps_its_data_over_a_restart(world: &World) {
    let line = "--network lab -v kv:/data servers redis-server --bind 0.0.0.0 --protected-mode no --dir /data --appendonly yes";
    world.run(&format!("run -d --name kv {line}")).ok();
    assert_eq!(client(world, "redis-cli -h kv -e set answer 42"), "OK\n");
    world.run("restart -t 60 kv").ok();
    assert_eq!(client(world, "redis-cli -h kv -e get answer"), "42\n");
    // Another container with the same volume.
    world.run("rm -f kv").ok();
    world.run(&format!("run -d --name two --network-alias kv {line}")).ok();
    assert_eq!(client(world, "redis-cli -h kv -e get answer"), "42\n");
    world.run("rm -f two").ok();
}

fn postgres_keeps_its_data_over_a_restart(world: &World) {
    let serve = "B=$(echo /usr/lib/postgresql/*/bin); \
                 [ -s $PGDATA/PG_VERSION ] || { $B/initdb -A trust && echo host all all all trust >>$PGDATA/pg_hba.conf; }; \
                 exec $B/postgres -c listen_addresses=* -c unix_socket_directories=/tmp";
    let flags =
        "--network lab --user postgres -v db:/var/lib/postgresql -e PGDATA=/var/lib/postgresql/own";
    world.run(&format!("run -d --name db {flags} servers sh -c '{serve}'")).ok();
    let psql = "psql -h db -U postgres -qtA -c";
    client(
        world,
        &format!("{psql} 'create table numbers as select generate_series(1, 10000) as n'"),
    );
    let sum = format!("{psql} 'select sum(n) from numbers'");
    assert_eq!(client(world, &sum), "50005000\n");
    world.run("restart -t 60 db").ok();
    assert_eq!(client(world, &sum), "50005000\n");
    world.run("rm -f db").ok();
    world.run(&format!("run -d --name db {flags} servers sh -c '{serve}'")).ok();
    assert_eq!(client(world, &sum), "50005000\n");
    world.run("rm -f db").ok();
}

fn dig_is_answered_by_the_network(world: &World) {
    let lab = "--network lab:ip=10.99.50.7 --network-alias www";
    world.run(&format!("run -d --name web {lab} servers sleep 1000")).ok();
    let dig = |what: &str| {
        let run = world.run(&format!("run --rm --network lab servers dig +tries=5 {what}"));
        run.ok().stdout
    };
    for name in ["web", "www", "WEB"] {
        assert_eq!(dig(&format!("+short {name}")), "10.99.50.7\n", "{name}");
    }
    assert_eq!(dig("+short +tcp web A"), "10.99.50.7\n");
    // There, and without an address of IPv6: no error, and no answer.
    let none = dig("web AAAA");
    assert!(none.contains("status: NOERROR") && none.contains("ANSWER: 0"), "{none}");
    assert!(dig("-x 10.99.50.7").contains("web."), "the address has a name");
    world.run("rm -f -t 0 web").ok();
}

fn iperf3_passes_in_and_out(world: &World) {
    let (port, outside) = (world.free_port(), world.free_port());
    let address = world.address;
    world
        .run(&format!("run -d --name in -p {port}:5201 -p {port}:5201/udp servers iperf3 -s"))
        .ok();
    world.run(&format!("run -d --name out --network host servers iperf3 -s -p {outside}")).ok();
    let sent = |network: &str, arguments: &str| {
        let mut said = String::new();
        // A server may still be starting, or be busy with the end of another test.
        poll("iperf3", || {
            let line =
                format!("run --rm --network {network} servers iperf3 -J -c {address} {arguments}");
            let run = world.run(&line);
            let code = run.code;
            said.clone_from(&run.stdout);
            drop(run.exits(code));
            code == 0
        });
        let told: serde_json::Value = serde_json::from_str(&said).unwrap();
        // What has arrived is counted when the sender has sent its last: some may be on its way.
        let bytes = |sum: &str| told["end"][sum]["bytes"].as_u64();
        assert!(bytes("sum_received") != Some(0), "{said}");
        bytes("sum_sent").or(bytes("sum")).unwrap()
    };
    assert!(sent("host", &format!("-p {port} -n 32M")) >= 32 << 20);
    assert!(sent("host", &format!("-p {port} -n 32M -R -P 8")) >= 32 << 20);
    assert!(sent("host", &format!("-p {port} -n 1M -u -b 100M -l 1000")) > 0);
    assert!(sent("bridge", &format!("-p {outside} -n 32M -P 8")) >= 32 << 20);
    assert!(sent("bridge", &format!("-p {outside} -n 32M -R")) >= 32 << 20);
    world.run("rm -f -t 0 in out").ok();
}

fn wrk_finds_no_error_behind_a_published_port(world: &World) {
    let port = world.free_port();
    world.run(&format!("run -d --name web -p {port}:80 servers nginx -g 'daemon off;'")).ok();
    let url = format!("http://{}:{port}/", world.address);
    poll("nginx", || {
        let run = world.run(&format!("run --rm --network host servers curl -sf {url}"));
        let code = run.code;
        drop(run.exits(code));
        code == 0
    });
    let said = world
        .run(&format!("run --rm --network host servers wrk -t 2 -c 32 -d 2s --timeout 60s {url}"))
        .ok();
    assert!(said.stdout.contains(" requests in "), "{said:?}");
    assert!(!said.stdout.contains("Socket errors") && !said.stdout.contains("Non-2xx"), "{said:?}");
    world.run("rm -f -t 0 web").ok();
}
