//! Egress policies of the role's containers. Whoever is refused gets a true answer, an ICMP
//! error that says "prohibited", and so an error at once; what nobody decided about is refused.

use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::Role;
use crate::{
    error::{Context as _, Error, Result},
    network::{attachment::Attachment, egress::Guard, link, names::Observed},
    state::{
        ContainerId, Layout,
        egress::{EgressLog, EgressProtocol},
        store::{Durability, read_json, write_json},
    },
    sys::fd,
};

/// How long what is new in a log waits for more of it.
const PAUSE: Duration = Duration::from_secs(1);

/// The guards of those who have one.
#[derive(Debug, Default)]
pub(super) struct Guards {
    all: HashMap<ContainerId, Guarded>,
    written: Option<Instant>,
}

#[derive(Debug)]
struct Guarded {
    guard: Guard,
    /// Its log is kept here only.
    is_volatile: bool,
}

impl Guards {
    /// A container is about to be connected. `account` is what this role has of it already.
    pub(super) fn add(
        &mut self,
        layout: &Layout,
        id: &ContainerId,
        attachment: &Attachment,
        account: Option<EgressLog>,
    ) {
        if attachment.egress.is_empty() {
            return;
        }
        // A log that cannot be read is begun anew.
        let written = || read_json(&layout.container(id).egress_log()).ok().flatten();
        let log = account.or_else(written).unwrap_or_default();
        let guarded = Guarded {
            guard: Guard::new(attachment.egress.clone(), log),
            is_volatile: attachment.is_volatile,
        };
        self.all.insert(id.clone(), guarded);
    }

    /// A container's networks change, and with them the policies that must agree.
    pub(super) fn update(&mut self, id: &ContainerId, attachment: &Attachment) {
        if let Some(guarded) = self.all.get_mut(id) {
            guarded.guard.follow(attachment.egress.clone());
        }
    }

    /// Whether what is counted there may go on under the policies of now.
    fn still_admits(&self, owner: &ContainerId, account: Option<usize>) -> bool {
        let guard = self.all.get(owner).map(|guarded| &guarded.guard);
        guard.zip(account).is_none_or(|(guard, account)| guard.still_admits(account))
    }

    /// Where a container has gone, as far as this role knows.
    pub(super) fn account(&self, id: &ContainerId) -> Option<EgressLog> {
        self.all.get(id).map(|guarded| guarded.guard.log().clone())
    }

    pub(super) fn remove(&mut self, layout: &Layout, id: &ContainerId) {
        if let Some(mut guarded) = self.all.remove(id) {
            guarded.write(layout, id);
        }
    }

    /// Whether something is to be written.
    pub(super) fn are_dirty(&self) -> bool {
        self.all.values().any(|one| one.guard.is_dirty && !one.is_volatile)
    }

    /// Writes what is new, unless that has just been done.
    pub(super) fn write(&mut self, layout: &Layout) {
        if !self.are_dirty() || self.written.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        self.written = Some(Instant::now());
        for (id, guarded) in &mut self.all {
            guarded.write(layout, id);
        }
    }

    /// What containers asked for, and what they were told.
    pub(super) fn observe(&mut self, observed: Vec<(ContainerId, Observed)>) {
        for (id, what) in observed {
            let Some(guarded) = self.all.get_mut(&id) else { continue };
            match what {
                Observed::Asked { name, is_allowed } => guarded.guard.asked(&name, is_allowed),
                Observed::Learned { name, addresses } => guarded.guard.learn(&name, &addresses),
            }
        }
    }

    pub(super) fn count(&mut self, owner: &ContainerId, account: usize, sent: u64, received: u64) {
        if let Some(guarded) = self.all.get_mut(owner) {
            guarded.guard.count(account, sent, received);
        }
    }

    /// As [`count`](Self::count), if it is to be counted.
    pub(super) fn count_for(
        &mut self,
        owner: Option<&ContainerId>,
        account: Option<usize>,
        sent: usize,
        received: usize,
    ) {
        if let (Some(owner), Some(account)) = (owner, account) {
            self.count(owner, account, sent as u64, received as u64);
        }
    }

    /// A file with a container's log.
    pub(super) fn report(&self, id: &ContainerId) -> Result<File> {
        let none = || Error::not_found(format!("the network role has no log of {id}"));
        let log: &EgressLog = self.all.get(id).ok_or_else(none)?.guard.log();
        let mut file = File::from(fd::memory(c"egress").doing("make a file in memory")?);
        file.write_all(&serde_json::to_vec(log)?).doing("write the log")?;
        Ok(file)
    }
}

impl Guarded {
    fn write(&mut self, layout: &Layout, id: &ContainerId) {
        if !self.guard.is_dirty || self.is_volatile {
            return;
        }
        self.guard.is_dirty = false;
        let path = layout.container(id).egress_log();
        if let Err(err) = write_json(&path, self.guard.log(), Durability::Renamed) {
            log::debug!("{err}");
        }
    }
}

impl Role {
    /// Ends what a container's policies no longer allow.
    pub(super) fn cut_off(&mut self, id: &ContainerId) {
        let guards = &self.guards;
        let is_over = |owner: &Option<ContainerId>, account| {
            owner.as_ref() == Some(id) && !guards.still_admits(id, account)
        };
        let relays = self.relays.iter().filter(|(_, one)| is_over(&one.owner, one.account));
        let relays: Vec<u64> = relays.map(|(number, _)| *number).collect();
        let flows = self.datagrams.numbers(|pair| is_over(&pair.owner, pair.account));
        self.opened.retain(|attempt| !is_over(&attempt.owner, attempt.account));
        for number in relays {
            self.turn(number, |relay, _| relay.cut());
        }
        for number in flows {
            self.datagrams.forget(number);
        }
    }

    /// Whether `owner` may reach `to`, and where that is counted.
    pub(super) fn judge(
        &mut self,
        protocol: EgressProtocol,
        owner: Option<&ContainerId>,
        to: SocketAddr,
    ) -> Result<Option<usize>, ()> {
        if self.guards.all.is_empty() {
            return Ok(None);
        }
        // Whoever has no address of their own could have another's policy as well.
        let owner = owner.ok_or(())?;
        let Some(guarded) = self.guards.all.get_mut(owner) else { return Ok(None) };
        // What cannot be told is not open.
        let leads_away = || link::leads_away(&mut self.routes, to.ip()).unwrap_or(false);
        let verdict = guarded.guard.judge(protocol, to, leads_away);
        if verdict.is_allowed { Ok(Some(verdict.entry)) } else { Err(()) }
    }
}
