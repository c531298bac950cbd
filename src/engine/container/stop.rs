//! Ending containers: `stop`, `kill`, and waiting for the end.

use std::{
    io::ErrorKind,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Status;
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    run::{attach::Frame, monitor},
    state::{ContainerId, record::ProcessRecord},
    sys::process::send_signal,
};

impl Engine {
    /// Sends the stop signal, waits, then SIGKILL; returns when the end is recorded. `timeout`
    /// in seconds; negative waits for ever; `None` is the container's own, else ten.
    pub fn stop(&self, id: &ContainerId, signal: Option<i32>, timeout: Option<i64>) -> Result<()> {
        let container = self.load(id)?;
        let Status::Running(process) = &container.status else { return Ok(()) };
        let signal = match signal {
            Some(signal) => signal,
            None => stop_signal(&container.record.config.stop_signal)?,
        };
        let seconds = timeout.or(container.record.config.stop_timeout).unwrap_or(10);
        self.signal(process, signal)?;
        let patience = u64::try_from(seconds).ok().map(Duration::from_secs);
        if !self.wait_for_init(process, patience)? {
            self.signal(process, libc::SIGKILL)?;
            self.wait_for_init(process, None)?;
        }
        self.wait_until_recorded(id)
    }

    /// Sends `signal` to a running container's init.
    pub fn kill(&self, id: &ContainerId, signal: i32) -> Result<()> {
        let container = self.load(id)?;
        match &container.status {
            Status::Running(process) => self.signal(process, signal),
            Status::Created | Status::Exited(_) | Status::Lost(_) => Err(Error::conflict(format!(
                "cannot kill container: {}: container {} is not running",
                container.record.name,
                id.short()
            ))),
        }
    }

    /// Waits for the end; the exit code. With `auto_remove` the record is gone by then, so the
    /// monitor itself is asked.
    pub fn wait(&self, id: &ContainerId) -> Result<i32> {
        loop {
            let container = self.load(id)?;
            match &container.status {
                Status::Exited(_) | Status::Lost(_) => return Ok(container.status.exit_code()),
                // Docker waits for a container that has not been started yet.
                Status::Created => std::thread::sleep(Duration::from_millis(20)),
                Status::Running(process) => {
                    if let Some(code) = self.hear_exit(id)? {
                        return Ok(code);
                    }
                    // No monitor to ask: the kernel tells when init has gone.
                    self.wait_for_init(process, None)?;
                    if !self.layout.container(id).record().exists() {
                        return Ok(super::LOST_CODE);
                    }
                }
            }
        }
    }

    fn hear_exit(&self, id: &ContainerId) -> Result<Option<i32>> {
        let Ok(mut stream) = monitor::connect(&self.layout.container(id)) else { return Ok(None) };
        loop {
            match Frame::read_from(&mut stream) {
                Ok(Some(Frame::Exit(code))) => return Ok(Some(code)),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(err) if err.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(err) => return Err(err).doing("wait for the container's end"),
            }
        }
    }

    fn signal(&self, process: &ProcessRecord, signal: i32) -> Result<()> {
        let Ok(pidfd) = self.init_pidfd(process) else { return Ok(()) };
        match send_signal(pidfd.as_fd(), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno).doing_with(|| format!("send signal {signal}")),
        }
    }

    /// `false` if init outlived `patience`.
    fn wait_for_init(&self, process: &ProcessRecord, patience: Option<Duration>) -> Result<bool> {
        let Ok(pidfd) = self.init_pidfd(process) else { return Ok(true) };
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    // Rounded up, so that the last fraction is not spent spinning.
                    PollTimeout::try_from(left + Duration::from_millis(1))
                        .unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return Ok(false);
                }
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(errno).doing("wait for the container's init"),
            }
        }
    }

    /// The monitor needs a moment more than init: the last output, the exit status, the
    /// clean-up. Its end of the socket closes when it is done.
    pub(super) fn wait_until_recorded(&self, id: &ContainerId) -> Result<()> {
        self.hear_exit(id)?;
        let paths = self.layout.container(id);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.status(&paths)?.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Docker's names and numbers; SIGTERM if the image says nothing.
fn stop_signal(text: &str) -> Result<i32> {
    if text.is_empty() { Ok(libc::SIGTERM) } else { crate::sys::signal::parse(text) }
}
