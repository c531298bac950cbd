//! The name server of containers' networks, at the address of each network's router.
//!
//! It answers the names, aliases and short ids of containers to those who share a network with
//! them, and the host's; everything else it asks of the host's resolvers, or of those chosen for
//! the container. An ordinary user's is part of the network role; root's is a process of its own
//! (`process`), there while a container is on a network with names.

mod directory;
mod framed;
mod message;
pub mod process;
mod resolvers;
mod server;

pub(super) use self::{
    directory::Directory,
    resolvers::Resolvers,
    server::{Ear, Observed, Server, listen},
};

/// Where the host's resolvers are named.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
