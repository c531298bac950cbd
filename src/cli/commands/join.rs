//! `--network` and what belongs to it, of a container that is made; `network connect`,
//! `disconnect` and `reload`.

use std::process::ExitCode;

use super::{
    super::{
        args::{
            container::ContainerFlags,
            network::{Connect, Disconnect, Reload, Update},
        },
        exit, output,
        value::network::{self, TypedNetwork},
    },
    create::{given, list},
};
use crate::{
    engine::Engine,
    error::{Error, Result},
    network::attachment::parse_mac,
    state::{
        network::{DEFAULT, LinkRecord, NetworkChoice},
        record::Mode,
    },
};

/// A mode, or networks by name.
pub(super) fn networks(
    engine: &Engine,
    flags: &ContainerFlags,
) -> Result<(Mode, Vec<NetworkChoice>)> {
    let mut choices: Vec<NetworkChoice> = Vec::new();
    let mut mode = None;
    for one in list("--network", &flags.network, network::network)? {
        match one {
            TypedNetwork::Mode(_) if mode.is_some() => {
                return Err(Error::invalid(
                    "conflicting options: only one of --network none, host and container can be specified",
                ));
            }
            TypedNetwork::Mode(typed) => mode = Some(typed.resolve(|name| engine.find(name))?),
            TypedNetwork::Network(mut choice) => {
                choice.name = engine.network(&choice.name)?.name;
                if choices.iter().any(|other| other.name == choice.name) {
                    return Err(Error::invalid(format!(
                        "network {} is specified multiple times",
                        choice.name
                    )));
                }
                choices.push(choice);
            }
        }
    }
    let details = flags.ip.iter().chain(&flags.ip6).chain(&flags.mac_address);
    let details = details.chain(&flags.network_alias).chain(&flags.link);
    let details = details.chain(&flags.link_local_ip);
    let has_details = details.count() > 0;
    match (mode, choices.is_empty()) {
        (Some(_), false) => {
            return Err(Error::invalid(
                "conflicting options: a network cannot be combined with --network none, host or container",
            ));
        }
        (Some(_), true) if has_details => {
            return Err(Error::invalid(
                "conflicting options: this network mode takes no address, alias or link",
            ));
        }
        (Some(mode), true) => {
            if let Mode::Container(_) = mode {
                refuse_what_is_shared(flags)?;
            }
            return Ok((mode, Vec::new()));
        }
        // The default one.
        (None, true) if !has_details => return Ok((Mode::Private, Vec::new())),
        (None, _) => {}
    }
    if choices.is_empty() {
        choices.push(NetworkChoice { name: DEFAULT.into(), ..NetworkChoice::default() });
    }
    // Docker: these are about the first.
    let first = &mut choices[0];
    for (flag, ip) in [("--ip", &flags.ip), ("--ip6", &flags.ip6)] {
        if let Some(ip) = ip {
            given(flag, ip, network::choose_ip(first, ip))?;
        }
    }
    if let Some(mac) = &flags.mac_address {
        given("--mac-address", mac, parse_mac(mac))?;
        first.mac_address = Some(mac.clone());
    }
    first.link_local.extend(list("--link-local-ip", &flags.link_local_ip, network::address)?);
    first.aliases.extend(list("--network-alias", &flags.network_alias, network::alias)?);
    for link in &flags.link {
        first.links.push(given("--link", link, self::link(engine, link))?);
    }
    if choices.iter().any(|choice| choice.name == DEFAULT && !choice.aliases.is_empty()) {
        return Err(Error::invalid(
            "network-scoped aliases are only supported for user-defined networks",
        )
        .hint("`dhow network create NAME` makes one, --network NAME joins it"));
    }
    Ok((Mode::Private, choices))
}

/// Docker's: who has another's network has its names, resolvers and ports, too.
fn refuse_what_is_shared(flags: &ContainerFlags) -> Result<()> {
    let has_dns = [&flags.dns, &flags.dns_search, &flags.dns_option];
    let typed = [
        (flags.hostname.is_some(), "hostname and the network mode"),
        (has_dns.iter().any(|list| !list.is_empty()), "dns and the network mode"),
        (!flags.add_host.is_empty(), "custom host-to-IP mapping and the network mode"),
        (
            !flags.publish.is_empty() || flags.publish_all,
            "port publishing and the container type network mode",
        ),
        (!flags.expose.is_empty(), "port exposing and the container type network mode"),
    ];
    match typed.into_iter().find(|(is_typed, _)| *is_typed) {
        Some((_, what)) => Err(Error::invalid(format!("conflicting options: {what}"))
            .hint("give it to the container whose network it is")),
        None => Ok(()),
    }
}

/// `CONTAINER[:ALIAS]`
pub(super) fn link(engine: &Engine, text: &str) -> Result<LinkRecord> {
    let (target, alias) = network::link(text)?;
    Ok(LinkRecord { container: engine.find(target)?, alias: alias.to_owned() })
}

pub(super) fn connect(engine: &Engine, args: &Connect) -> Result<ExitCode> {
    let id = engine.find(&args.container)?;
    let mut choice = NetworkChoice { name: args.network.clone(), ..NetworkChoice::default() };
    for (flag, ip) in [("--ip", &args.ip), ("--ip6", &args.ip6)] {
        if let Some(ip) = ip {
            given(flag, ip, network::choose_ip(&mut choice, ip))?;
        }
    }
    if let Some(mac) = &args.mac_address {
        given("--mac-address", mac, parse_mac(mac))?;
        choice.mac_address = Some(mac.clone());
    }
    choice.link_local = list("--link-local-ip", &args.link_local_ip, network::address)?;
    choice.aliases = list("--alias", &args.alias, network::alias)?;
    choice.gateway_priority = args.gw_priority;
    for option in &args.driver_opt {
        given("--driver-opt", option, network::driver_options(&mut choice, option))?;
    }
    choice.links = list("--link", &args.link, |text| link(engine, text))?;
    engine.connect_network(&id, choice)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn update(engine: &Engine, args: &Update) -> Result<ExitCode> {
    let add = list("--dns-add", &args.dns_add, network::address)?;
    let drop = list("--dns-drop", &args.dns_drop, network::address)?;
    let record = engine.update_network(&args.name, &add, &drop)?;
    output::print(&format!("{}\n", record.name))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn disconnect(engine: &Engine, args: &Disconnect) -> Result<ExitCode> {
    let id = engine.find(&args.container)?;
    engine.disconnect_network(&id, &args.network, args.force)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn reload(engine: &Engine, args: &Reload) -> Result<ExitCode> {
    let mut failed = false;
    let ids: Vec<_> = match args.all {
        true => engine.on_networks().into_iter().map(Ok).collect(),
        false if args.latest => vec![engine.newest()],
        false => args.containers.iter().map(|name| engine.find(name)).collect(),
    };
    for id in ids {
        match id.and_then(|id| engine.reload_networks(&id).map(|()| id)) {
            Ok(id) => output::print(&format!("{id}\n"))?,
            Err(err) => {
                failed = true;
                exit::report(&err);
            }
        }
    }
    Ok(exit::code(failed.into()))
}
