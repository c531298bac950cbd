//! `dhow search`: Docker's search, a catalogue where there is none, the tags of a repository.

use std::fs;

use serde_json::json;

use crate::{
    env::Env,
    fixture::{BUSY, Compression},
    needs::needs,
    registry::Registry,
    server::{Reply, Server},
};

/// A registry with Docker's search.
fn index() -> Server {
    Server::start(|request| {
        match request.path.starts_with("/v1/search?q=") {
        true => Reply::ok(
            json!({ "num_results": 3, "query": "alp", "results": [
                { "name": "alpine", "star_count": 11000, "is_official": true,
                  "description": "A minimal image based on Alpine Linux\nwith a complete package index" },
                { "name": "foo/alp", "description": null, "star_count": 3 },
                { "name": "bar/\u{1b}[31malp", "description": "red", "star_count": 1 },
            ]})
            .to_string(),
        ),
        false => Reply::status(404),
    }
    })
}

#[test]
fn what_is_found_is_listed_as_docker_does() {
    let env = Env::new();
    let server = index();
    let addr = &server.addr;
    let pad = " ".repeat(addr.len());
    env.run(&format!("search --limit 2 {addr}/alp")).prints(&format!(
        "NAME    {pad}   DESCRIPTION                                     STARS     OFFICIAL\n\
         {addr}/alpine    A minimal image based on Alpine Linux with a…   11000     [OK]\n\
         {addr}/foo/alp                                                   3         \n"
    ));
    assert_eq!(server.heard("/v1/search")[0].path, "/v1/search?q=alp&n=2");
    env.run(&format!("search --no-trunc --format '{{{{.Description}}}}' {addr}/alp"))
        .shows("Linux with a complete package index\n");
    env.run(&format!("search -f stars=4 -f stars=2 --format '{{{{.Name}}}}' {addr}/alp"))
        .prints(&format!("{addr}/alpine\n"));
    env.run(&format!("search --filter is-official=false --limit 2 --format json {addr}/alp"))
        .prints(&format!(
            "{{\"Description\":\"\",\"IsOfficial\":\"false\",\"Name\":\"{addr}/foo/alp\",\"StarCount\":\"3\"}}\n"
        ));
    env.run(&format!("search {addr}/alp")).shows("bar/\\x1b[31malp");
    env.run(&format!("search -f is-automated=true --format x {addr}/alp"))
        .warns("deprecated")
        .prints("");
}

#[test]
fn a_registry_without_search_has_a_catalogue_and_tags() {
    needs!(tool("docker-registry"));
    let env = Env::new();
    let registry = Registry::start_closed(&env);
    let addr = &registry.addr;
    env.image("busy", BUSY);
    for name in ["team/app:1", "team/app:2", "team/app-tools:1", "zoo/animal:1", "app:1"] {
        env.run(&format!("push -q --creds user:secret busy {addr}/{name}")).exits(0);
    }
    let search = |rest: &str| env.run(&format!("search --creds user:secret {rest}"));
    search(&format!("--format '{{{{.Name}}}}' {addr}/team"))
        .prints(&format!("{addr}/team/app\n{addr}/team/app-tools\n"));
    // What is called so comes first, wherever the catalogue has it.
    search(&format!("--format '{{{{.Name}}}}' --limit 2 {addr}/team/app-tools"))
        .prints(&format!("{addr}/team/app-tools\n"));
    search(&format!("--format '{{{{.Name}}}}' --limit 2 {addr}/app"))
        .prints(&format!("{addr}/app\n{addr}/team/app\n"));
    let every = search(&format!("{addr}/"));
    every.shows("NAME ").shows(&format!("\n{addr}/zoo/animal"));
    search(&format!("{addr}/nothing")).prints("NAME      DESCRIPTION   STARS     OFFICIAL\n");

    search(&format!("--list-tags --format '{{{{.Name}}}} {{{{.Tag}}}}' {addr}/team/app"))
        .prints(&format!("{addr}/team/app 1\n{addr}/team/app 2\n"));
    let json = search(&format!("--list-tags --limit 1 --format json {addr}/team/app")).json();
    assert_eq!(json, json!([{ "Name": format!("{addr}/team/app"), "Tags": ["1"] }]));
    search(&format!("--list-tags {addr}/nothing")).fails_with(1, "404");
    env.run(&format!("search {addr}/app")).fails_with(1, "401").tells("`dhow login`");
    env.run(&format!("search --list-tags {addr}/app")).fails_with(1, "401");
}

#[test]
fn registries_conf_says_where_a_word_is_looked_for() {
    needs!(tool("docker-registry"));
    needs!(tool("skopeo"));
    let env = Env::new();
    let (registry, server) = (Registry::start(&env), index());
    registry.push(&env, "alp", BUSY, Compression::Gzip);
    let gone = "127.0.0.1:1";
    fs::create_dir_all(env.path(".config/containers")).unwrap();
    let conf = |list: &str, more: &str| {
        env.file(
            ".config/containers/registries.conf",
            format!("unqualified-search-registries = [{list}]\n{more}"),
        );
    };
    conf(&format!("'{}', '{}', '{gone}'", registry.addr, server.addr), "");
    env.run("search --limit 1 --format '{{.Name}}' alp")
        .warns("search 127.0.0.1:1")
        .prints(&format!("{0}/alp\n{1}/alpine\n", registry.addr, server.addr));
    env.run("search --list-tags --format '{{.Tag}}' alp").prints("latest\n");
    conf(&format!("'{gone}'"), "");
    env.run("search alp").fails_with(1, "cannot reach 127.0.0.1:1");
    conf("'blocked.example'", "[[registry]]\nlocation = 'blocked.example'\nblocked = true\n");
    env.run("search alp").fails_with(1, "registry blocked.example is blocked");
}

#[test]
fn mistakes_are_told() {
    let env = Env::new();
    let server = index();
    let addr = &server.addr;
    for (line, said) in [
        ("--limit 101 ADDR/a", "limit 101 is outside the range of [1, 100]"),
        ("--filter foo=1 ADDR/a", "invalid filter 'foo'"),
        ("--filter stars=x ADDR/a", "invalid filter 'stars=x'"),
        ("--filter is-official=x ADDR/a", "invalid filter 'is-official=[x]'"),
        ("--list-tags --filter stars=1 ADDR/a", "filters are not applicable"),
        ("--list-tags ADDR/a:1", "a repository has no tag"),
        ("--format '{{.IsAutomated}}' ADDR/a", "IsAutomated"),
        ("http://ADDR/a", "has a scheme"),
        ("localhost/a", "not in a registry"),
        ("ADDR/", "tells nobody what it has"),
    ] {
        env.run(&format!("search {}", line.replace("ADDR", addr))).fails_with(1, said);
    }
    let liar = Server::start(|request| match request.path.starts_with("/v1/") {
        true => Reply::ok("<html>"),
        false => Reply::ok(r#"{"repositories":"none"}"#),
    });
    env.run(&format!("search --format '{{{{.Name}}}}' {}/a", liar.addr)).prints("");
}
