//! What containers have in common: descriptors, connections on their way, and flows.

use nix::sys::resource::{Resource, getrlimit};

use crate::{
    error::{Context as _, Result},
    network::share::{Share, Shares},
    state::ContainerId,
};

/// Connections being made at once. The first packets of more are lost, and sent again.
const OPENING_MAX: usize = 8192;
/// Flows of datagrams at once. The datagrams of more are lost.
const FLOWS_MAX: usize = 16_384;
/// Descriptors that stay for the role itself: published ports, inits, the name server's questions.
const OWN: usize = 1536;

/// Whose something is; nobody's, if an address is no container's.
type Owner = Option<ContainerId>;

#[derive(Debug)]
pub(super) struct Common {
    openings: Shares<Owner>,
    flows: Shares<Owner>,
    descriptors: Shares<Owner>,
}

impl Common {
    /// As many descriptors as this process may have, less its own.
    pub(super) fn new() -> Result<Self> {
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).doing("read the limit of files")?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let own = OWN.max(limit / 8).min(limit / 2);
        Ok(Self {
            openings: Shares::of(OPENING_MAX),
            flows: Shares::of(FLOWS_MAX),
            descriptors: Shares::of(limit - own),
        })
    }

    /// For a connection that is being made, and for its two sockets.
    pub(super) fn opening(&mut self, owner: &Owner) -> Option<(Share, Share)> {
        Some((self.openings.take(owner.clone(), 1)?, self.connection(owner)?))
    }

    /// For the two sockets of a connection.
    pub(super) fn connection(&mut self, owner: &Owner) -> Option<Share> {
        self.descriptors.take(owner.clone(), 2)
    }

    /// For a flow of so many sockets.
    pub(super) fn flow(&mut self, owner: &Owner, sockets: usize) -> Option<(Share, Share)> {
        let flow = self.flows.take(owner.clone(), 1)?;
        Some((flow, self.descriptors.take(owner.clone(), sockets)?))
    }
}
