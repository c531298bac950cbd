//! What a command and the network role say to each other, over a socket that keeps messages
//! apart: one JSON text each way, descriptors beside it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::attachment::Port;
use crate::{
    error::{Context as _, Error, Kind, Result},
    state::ContainerId,
    sys::channel,
};

/// A message's bytes at most: below what a socket takes at once (`net.core.wmem_default`).
pub(super) const MESSAGE_MAX: usize = 128 << 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Request {
    /// Are you there? The answer brings the user namespace that containers are born in.
    Hello,
    /// Connect this container as its `network.json` says. Comes with its network namespace and
    /// with init's pidfd.
    Attach(ContainerId),
    /// Where has this container gone? The answer brings a file with its log.
    Log(ContainerId),
    /// Change a container's networks to what its `network.json` says now. Comes as `Attach` does.
    Update(ContainerId),
    /// Root's name server: see what runs now. This container has just been connected.
    Refresh(Option<ContainerId>),
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) refused: Option<Refused>,
    /// The published ports as they have become.
    #[serde(default)]
    pub(super) ports: Vec<Port>,
}

/// An error on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refused {
    kind: Kind,
    said: String,
    hint: Option<String>,
}

impl From<&Error> for Refused {
    fn from(err: &Error) -> Self {
        let hint = err.hint_text().map(str::to_owned);
        Self { kind: err.kind(), said: err.to_string(), hint }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let error = Self::new(refused.kind, refused.said);
        match refused.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > MESSAGE_MAX {
        return Err(Error::engine("a message to the network role is too long"));
    }
    channel::send_with(socket, &text, fds).doing("speak to the network role")
}

/// `None` when the other side has gone.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; MESSAGE_MAX];
    let Some((count, fds)) =
        channel::receive_with(socket, &mut buffer).doing("hear from the network role")?
    else {
        return Ok(None);
    };
    Ok(Some((serde_json::from_slice(&buffer[..count])?, fds)))
}
