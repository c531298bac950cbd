//! nginx, redis and PostgreSQL from Debian's packages, driven by their own clients.

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
fn nginx_serves_the_volume_it_was_given() {
    needs!(servers);
    needs!(world);
    let world = world();
    let port = world.free_port();
    let line = "--network lab -v www:/var/www/html servers nginx -g 'daemon off;'";
    world.run(&format!("run -d --name web -p {port}:80 {line}")).ok();
    // What the image has there was copied into the volume.
    assert!(client(&world, "curl -sf http://web/").contains("Welcome to nginx"));
    world.run("run --rm -v www:/www servers sh -c 'seq 100000 >/www/numbers'").ok();
    let sum = client(&world, "sh -c 'curl -sf http://web/numbers | sha256sum'");
    let own = client(&world, "sh -c 'seq 100000 | sha256sum'");
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

#[test]
fn redis_keeps_its_data_over_a_restart() {
    needs!(servers);
    needs!(world);
    let world = world();
    let line = "--network lab -v kv:/data servers redis-server --bind 0.0.0.0 --protected-mode no --dir /data --appendonly yes";
    world.run(&format!("run -d --name kv {line}")).ok();
    assert_eq!(client(&world, "redis-cli -h kv -e set answer 42"), "OK\n");
    world.run("restart -t 60 kv").ok();
    assert_eq!(client(&world, "redis-cli -h kv -e get answer"), "42\n");
    // Another container with the same volume.
    world.run("rm -f kv").ok();
    world.run(&format!("run -d --name two --network-alias kv {line}")).ok();
    assert_eq!(client(&world, "redis-cli -h kv -e get answer"), "42\n");
    world.run("rm -f two").ok();
}

#[test]
fn postgres_keeps_its_data_over_a_restart() {
    needs!(servers);
    needs!(world);
    // Its own user needs an id of its own.
    if !needs::is_root() {
        needs!(subids);
    }
    let world = world();
    let serve = "B=$(echo /usr/lib/postgresql/*/bin); \
                 [ -s $PGDATA/PG_VERSION ] || { $B/initdb -A trust && echo host all all all trust >>$PGDATA/pg_hba.conf; }; \
                 exec $B/postgres -c listen_addresses=* -c unix_socket_directories=/tmp";
    let flags =
        "--network lab --user postgres -v db:/var/lib/postgresql -e PGDATA=/var/lib/postgresql/own";
    world.run(&format!("run -d --name db {flags} servers sh -c '{serve}'")).ok();
    let psql = "psql -h db -U postgres -qtA -c";
    client(
        &world,
        &format!("{psql} 'create table numbers as select generate_series(1, 10000) as n'"),
    );
    let sum = format!("{psql} 'select sum(n) from numbers'");
    assert_eq!(client(&world, &sum), "50005000\n");
    world.run("restart -t 60 db").ok();
    assert_eq!(client(&world, &sum), "50005000\n");
    world.run("rm -f db").ok();
    world.run(&format!("run -d --name db {flags} servers sh -c '{serve}'")).ok();
    assert_eq!(client(&world, &sum), "50005000\n");
    world.run("rm -f db").ok();
}
