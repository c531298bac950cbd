//! `attach`: taking part in the streams of a container that runs.

use std::os::unix::net::UnixStream;

use super::Status;
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    run::{
        attach::{Frame, Wants},
        monitor,
    },
    state::{ContainerId, record::ContainerConfig},
};

impl Engine {
    /// Connects to a running container: what it writes from now on arrives on the stream.
    pub fn attach(
        &self,
        id: &ContainerId,
        wants: impl FnOnce(&ContainerConfig) -> Wants,
    ) -> Result<(UnixStream, ContainerConfig)> {
        let container = self.load(id)?;
        let name = &container.record.name;
        let refuse = |what: &str, verb: &str| {
            Err(Error::conflict(format!(
                "you cannot attach to a {what} container, {verb} it first"
            ))
            .hint(format!("`dhow {verb} {name}`")))
        };
        match container.status {
            // Of one that is prepared, what it will write.
            Status::Running(_) | Status::Initialized(_) => {}
            Status::Paused(_) => return refuse("paused", "unpause"),
            Status::Restarting(_) => {
                return Err(Error::conflict(
                    "you cannot attach to a restarting container, wait until it is running",
                ));
            }
            Status::Created | Status::Exited(_) | Status::Lost(_) => {
                return refuse("stopped", "start");
            }
        }
        self.note(&container.record, "attach");
        let config = container.record.config;
        let mut stream = monitor::connect(&self.layout.container(id))
            .doing_with(|| format!("attach to container {name}"))?;
        Frame::Hello(wants(&config)).write_to(&mut stream).doing("attach to the container")?;
        Ok((stream, config))
    }
}
