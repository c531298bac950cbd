//! `network connect`, `disconnect` and `reload`: a container's networks, while it runs or not.

use std::{fs::File, os::fd::AsFd as _};

use super::{
    Container,
    connect::{check_interfaces, choose_way_out, names},
    egress::check_address,
    etc,
};
use crate::{
    engine::Engine,
    error::{Context as _, Error, Kind, Result},
    network::{attachment::Attachment, client::RoleClient, host, lease},
    state::{
        ContainerId,
        egress::EgressPolicy,
        network::{DEFAULT, NetworkChoice},
        record::{ContainerRecord, Mode, ProcessRecord},
        store::{Durability, Lock, read_json, write_json},
    },
    sys::process::open_pidfd,
};

impl Engine {
    /// Connects a container to one network more, at once if it runs.
    pub fn connect_network(&self, id: &ContainerId, choice: NetworkChoice) -> Result<()> {
        let paths = self.layout.container(id);
        let _lock = Lock::exclusive(paths.dir())?;
        let Container { record, status } = self.load(id)?;
        let network = self.network(&choice.name)?;
        let mut choices = choices(&record)?;
        if choices.iter().any(|other| other.name == network.name) {
            return Err(Error::conflict(format!(
                "endpoint with name {} already exists in network {}",
                record.name, network.name
            )));
        }
        if network.name == DEFAULT && !choice.aliases.is_empty() {
            return Err(Error::invalid(
                "network-scoped aliases are only supported for user-defined networks",
            ));
        }
        let choice = NetworkChoice { name: network.name.clone(), ..choice };
        if let Some(process) = status.made() {
            let mut after = self.connected_as(&record)?;
            if let Some(policy) = &network.egress {
                refuse_unguarded(&record, &after)?;
                after.egress.push(policy.clone());
            }
            if after.egress.iter().any(|policy| !policy.record) {
                check_address(&choice)?;
            }
            let taken = |number: &usize| {
                let name = format!("{}{number}", network.interface_prefix());
                after.endpoints.iter().any(|end| end.interface == name)
            };
            let number = (0..).find(|number| !taken(number)).unwrap_or(0);
            let end = self.endpoint(&record, &choice, &network, number, after.by_role)?;
            after.endpoints.push(end);
            if let Err(err) = check_interfaces(&after) {
                let _ = lease::release(&self.layout.network(&network.name), id);
                return Err(err);
            }
            choices.push(choice);
            let changed = with_choices(&record, choices);
            if let Err(err) = self.reconnect(&record, &changed, process, after) {
                let _ = lease::release(&self.layout.network(&network.name), id);
                return Err(err);
            }
            return self.keep(&changed);
        }
        choices.push(choice);
        self.keep(&with_choices(&record, choices))
    }

    /// Takes a container off a network, at once if it runs.
    pub fn disconnect_network(&self, id: &ContainerId, typed: &str, force: bool) -> Result<()> {
        let paths = self.layout.container(id);
        let _lock = Lock::exclusive(paths.dir())?;
        let Container { record, status } = self.load(id)?;
        let name = match self.network(typed) {
            Ok(network) => network.name,
            // It may have been removed while the container was stopped.
            Err(err) if force && err.kind() == Kind::NotFound => typed.to_owned(),
            Err(err) => return Err(err),
        };
        let mut choices = choices(&record)?;
        let before = choices.len();
        choices.retain(|choice| choice.name != name);
        if choices.len() == before {
            return Err(Error::not_found(format!(
                "container {} is not connected to network {name}",
                record.name
            )));
        }
        let changed = with_choices(&record, choices);
        if let Some(process) = status.made() {
            let mut after = self.connected_as(&record)?;
            after.endpoints.retain(|end| end.segment.network != name);
            // Those of networks that cannot be asked any more hold on.
            if let Ok(policies) = self.policies(&record, &changed.host.networks) {
                after.egress = policies;
            }
            self.reconnect(&record, &changed, process, after)?;
        }
        lease::release(&self.layout.network(&name), id)?;
        self.keep(&changed)
    }

    /// Takes a name away that a container has for another one: `CONTAINER/ALIAS`.
    pub fn remove_link(&self, typed: &str) -> Result<()> {
        let Some((owner, alias)) = typed.trim_start_matches('/').rsplit_once('/') else {
            return Err(Error::conflict(format!(
                "cannot remove the default link name of the container: {typed}"
            ))
            .hint("a link is CONTAINER/ALIAS; without --link the container itself goes"));
        };
        let id = self.find(owner)?;
        let paths = self.layout.container(&id);
        let _lock = Lock::exclusive(paths.dir())?;
        let Container { record, status } = self.load(&id)?;
        let mut choices = choices(&record)?;
        let mut others = Vec::new();
        for choice in &mut choices {
            let gone = choice.links.extract_if(.., |link| link.alias == alias);
            others.extend(gone.map(|link| link.container.short().to_owned()));
        }
        if others.is_empty() {
            return Err(Error::not_found(format!("container {owner} has no link {alias}")).hint(
                format!("`dhow inspect -f '{{{{.HostConfig.Links}}}}' {owner}` lists them"),
            ));
        }
        let changed = with_choices(&record, choices);
        if let Some(process) = status.made() {
            let mut after = self.connected_as(&record)?;
            for end in &mut after.endpoints {
                end.links.retain(|link| link.alias != alias);
            }
            self.reconnect(&record, &changed, process, after)?;
            etc::forget_link(&paths, alias, &others)?;
        }
        self.keep(&changed)
    }

    /// Makes a running container's links, rules and ports anew.
    pub fn reload_networks(&self, id: &ContainerId) -> Result<()> {
        let paths = self.layout.container(id);
        let _lock = Lock::exclusive(paths.dir())?;
        let Container { record, status } = self.load(id)?;
        let Some(process) = status.process() else {
            return Err(Error::conflict(format!("container {} is not running", record.name)));
        };
        choices(&record)?;
        let attachment = self.connected_as(&record)?;
        let Some(role) = self.role(&attachment)? else {
            self.apply(&record, process, &attachment)?;
            return host::open_firewalls(&self.layout, &attachment);
        };
        let (namespace, init) = handles(process)?;
        role.attach(id, namespace.as_fd(), init.as_fd()).map(drop)
    }

    /// The containers that run and have networks.
    pub fn on_networks(&self) -> Vec<ContainerId> {
        let running = crate::network::running(&self.layout).into_iter();
        running.map(|(id, _)| id).filter(|id| self.attachment(id).carried.is_none()).collect()
    }

    /// The role, if it carries the container.
    fn role(&self, attachment: &Attachment) -> Result<Option<RoleClient>> {
        match (self.facts.rootless(), attachment.by_role) {
            (true, _) => RoleClient::open(&self.layout, Some(&self.facts.id_maps())).map(Some),
            (false, true) => RoleClient::open(&self.layout, None).map(Some),
            (false, false) => Ok(None),
        }
    }

    /// What a container on these networks is bound to.
    fn policies(
        &self,
        record: &ContainerRecord,
        choices: &[NetworkChoice],
    ) -> Result<Vec<EgressPolicy>> {
        let networks = choices.iter().map(|choice| self.network(&choice.name));
        let networks = networks.collect::<Result<Vec<_>>>()?;
        let theirs = networks.into_iter().filter_map(|network| network.egress);
        Ok(record.host.egress.iter().cloned().chain(theirs).collect())
    }

    /// A running container that has been renamed is found by its new name.
    pub(super) fn follow_name(&self, record: &ContainerRecord) -> Result<()> {
        let status = self.status(&self.layout.container(&record.id))?;
        let before = self.attachment(&record.id);
        let after = Attachment { names: names(record), ..before.clone() };
        match status.made() {
            Some(process) if !before.endpoints.is_empty() => {
                self.apply(record, process, &after).doing("tell its networks the new name")
            }
            _ => Ok(()),
        }
    }

    /// A running container asks the resolvers that its networks have now.
    pub(in crate::engine) fn follow_resolvers(&self, id: &ContainerId) -> Result<()> {
        let paths = self.layout.container(id);
        let _lock = Lock::exclusive(paths.dir())?;
        let Container { record, status } = self.load(id)?;
        let Some(process) = status.made().filter(|_| record.host.dns.is_empty()) else {
            return Ok(());
        };
        let mut after = self.attachment(id);
        after.resolvers.clear();
        for end in &after.endpoints {
            after.resolvers.extend(self.network(&end.segment.network)?.dns);
        }
        self.apply(&record, process, &after)
    }

    /// How a running container is connected, as far as it can be changed.
    fn connected_as(&self, record: &ContainerRecord) -> Result<Attachment> {
        let path = self.layout.container(&record.id).network();
        match read_json::<Attachment>(&path)? {
            Some(Attachment { carried: Some(carried), .. }) => Err(Error::conflict(format!(
                "the network of container {} is {}'s as long as it runs",
                record.name,
                carried.program.name()
            ))
            .hint(format!("`dhow restart {}` makes it anew", record.name))),
            Some(attachment) => Ok(attachment),
            None if self.facts.rootless() => Err(Error::unsupported(format!(
                "container {} was started without a network, and runs",
                record.name
            ))
            .hint(format!(
                "its user namespace is not one of the networks': `dhow stop {}` first",
                record.name
            ))),
            None => Ok(Attachment {
                names: names(record),
                is_volatile: record.host.auto_remove,
                ..Attachment::default()
            }),
        }
    }

    /// Changes how a running container is connected: whole, or not at all.
    fn reconnect(
        &self,
        record: &ContainerRecord,
        changed: &ContainerRecord,
        process: &ProcessRecord,
        mut after: Attachment,
    ) -> Result<()> {
        choose_way_out(&mut after, &changed.host.networks);
        let paths = self.layout.container(&record.id);
        let before = self.attachment(&record.id);
        self.apply(record, process, &after).inspect_err(|_| {
            let _ = self.apply(record, process, &before);
        })?;
        etc::follow(&paths, (record, &before), (changed, &after))
    }

    fn apply(
        &self,
        record: &ContainerRecord,
        process: &ProcessRecord,
        after: &Attachment,
    ) -> Result<()> {
        let path = self.layout.container(&record.id).network();
        let before = self.attachment(&record.id);
        // A role that is started for it takes up who runs, as they were.
        let role = self.role(after)?;
        write_json(&path, after, Durability::Renamed)?;
        let (namespace, init) = handles(process)?;
        match role {
            Some(role) => role.update(&record.id, namespace.as_fd(), init.as_fd()).map(drop),
            None => host::update(&self.layout, &record.id, &before, namespace.as_fd()),
        }
    }

    fn keep(&self, record: &ContainerRecord) -> Result<()> {
        write_json(&self.layout.container(&record.id).record(), record, Durability::Synced)
    }
}

/// The container with other networks.
fn with_choices(record: &ContainerRecord, choices: Vec<NetworkChoice>) -> ContainerRecord {
    let mut changed = record.clone();
    changed.host.namespaces.network = match choices.is_empty() {
        // No choice at all would be the default network.
        true => Mode::None,
        false => Mode::Private,
    };
    changed.host.networks = choices;
    changed
}

/// Who starts without a policy keeps rights that go with none.
fn refuse_unguarded(record: &ContainerRecord, attachment: &Attachment) -> Result<()> {
    if !attachment.egress.is_empty() {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{} runs without an egress policy, and cannot be put under that of a network",
        record.name
    ))
    .hint(format!("`dhow stop {}` first", record.name)))
}

/// The networks of a container, the default one by its name.
fn choices(record: &ContainerRecord) -> Result<Vec<NetworkChoice>> {
    match (&record.host.namespaces.network, record.host.networks.is_empty()) {
        (Mode::None, _) => Ok(Vec::new()),
        (Mode::Private, true) => {
            Ok(vec![NetworkChoice { name: DEFAULT.into(), ..NetworkChoice::default() }])
        }
        (Mode::Private, false) => Ok(record.host.networks.clone()),
        (Mode::Program(carrier), _) => Err(Error::conflict(format!(
            "container {} has the network that {} makes, and can have no other",
            record.name,
            carrier.program.name()
        ))
        .hint("`--network bridge` or the name of a network can be changed while it runs")),
        (Mode::Host | Mode::Container(_) | Mode::Path(_), _) => Err(Error::conflict(format!(
            "container {} shares the network of the host or of somebody else: it has none of its own",
            record.name
        ))),
    }
}

/// A container's network namespace, and its init.
fn handles(process: &ProcessRecord) -> Result<(File, std::os::fd::OwnedFd)> {
    let path = format!("/proc/{}/ns/net", process.init.pid);
    let init = open_pidfd(process.init.pid).doing("open init")?;
    Ok((File::open(&path).at(&path)?, init))
}
