//! Containers with an egress policy: what they must not be able to do, and where they went.

use std::borrow::Cow;

use super::connect::Connection;
use crate::{
    engine::Engine,
    error::{Error, Result},
    network::client::RoleClient,
    oci::runtime::Capability,
    security::caps,
    state::{
        ContainerId,
        egress::{EgressLog, EgressPolicy},
        network::NetworkChoice,
        record::{ContainerRecord, HostConfig, Mode},
        store::read_json,
    },
};

impl Engine {
    /// The record as it is to be started. Who could send packets in another container's name
    /// could have its policy as well: so a confined one has no raw sockets.
    pub(super) fn confine<'r>(
        &self,
        record: &'r ContainerRecord,
        network: Option<&Connection>,
    ) -> Result<Cow<'r, ContainerRecord>> {
        let shared = match &record.host.namespaces.network {
            // It may itself be in another's.
            Mode::Container(id) => self.policies_around(id)?,
            Mode::Path(path) => self.policies_of(path),
            Mode::Private | Mode::None | Mode::Host | Mode::Program(_) => Vec::new(),
        };
        let own = network.map(|network| &*network.attachment().egress).unwrap_or_default();
        if !own.iter().chain(&shared).any(|policy| !policy.record) {
            return Ok(Cow::Borrowed(record));
        }
        check_confinable(&record.host)?;
        let mut confined = record.clone();
        confined.host.cap_drop.push("NET_RAW".into());
        Ok(Cow::Owned(confined))
    }

    /// The policies of whose network a container that runs is in.
    fn policies_around(&self, id: &ContainerId) -> Result<Vec<EgressPolicy>> {
        let status = self.status(&self.layout.container(id))?;
        let network = |init: i32| format!("/proc/{init}/ns/net");
        let made = status.made().map(|process| network(process.init.pid));
        Ok(made.map_or_else(Vec::new, |path| self.policies_of(path.as_ref())))
    }

    /// Refuses a process in a container that could take another one's address.
    pub(super) fn check_privileged_exec(&self, id: &ContainerId) -> Result<()> {
        match self.policies_around(id)?.iter().any(|policy| !policy.record) {
            true => Err(unconfinable()),
            false => Ok(()),
        }
    }

    /// Where a container went, since it was created.
    pub fn egress_log(&self, id: &ContainerId) -> Result<EgressLog> {
        let container = self.load(id)?;
        if container.status.made().is_some()
            && let Some(log) = RoleClient::log(&self.layout, id)?
        {
            return Ok(log);
        }
        let path = self.layout.container(id).egress_log();
        if let Some(log) = read_json(&path)? {
            return Ok(log);
        }
        let host = &container.record.host;
        let networks = host.networks.iter().map(|choice| self.network(&choice.name));
        let is_noted = host.egress.is_some()
            || networks.filter_map(Result::ok).any(|network| network.egress.is_some());
        match is_noted {
            true => Ok(EgressLog::default()),
            false => Err(Error::conflict(format!(
                "nobody notes where container {} goes: it has no egress policy",
                container.record.name
            ))
            .hint("make it, or its network, with --egress record")),
        }
    }
}

/// Refuses rights that go together with no policy.
pub(super) fn check_confinable(host: &HostConfig) -> Result<()> {
    // What was asked for by name.
    let asked = caps::resolve(&host.cap_add, &["ALL".to_owned()], false)?;
    let too_much = [Capability::NetRaw, Capability::NetAdmin].map(|cap| asked.contains(cap));
    if host.privileged || too_much.contains(&true) {
        return Err(unconfinable());
    }
    host.networks.iter().try_for_each(check_address)
}

fn unconfinable() -> Error {
    Error::conflict(
        "an egress policy cannot be kept with --privileged, NET_ADMIN or NET_RAW: the container could take another one's address",
    )
    .hint("leave the capabilities away, or use --egress record")
}

/// As [`check_confinable`], of an address that nobody has leased.
pub(super) fn check_address(choice: &NetworkChoice) -> Result<()> {
    match choice.link_local.is_empty() {
        true => Ok(()),
        false => Err(Error::conflict(
            "an egress policy cannot be kept with --link-local-ip: it could be another one's address",
        )
        .hint("leave the address away, or use --egress record")),
    }
}

/// What can be refused when a container is created.
pub(super) fn check(host: &HostConfig) -> Result<()> {
    let Some(policy) = &host.egress else { return Ok(()) };
    if host.namespaces.network != Mode::Private {
        return Err(Error::invalid(
            "conflicting options: --egress is for containers with a network of their own",
        )
        .hint("use --network bridge, or the name of a network"));
    }
    if policy.record { Ok(()) } else { check_confinable(host) }
}
