//! Ending containers: `stop`, `kill`, and waiting for the end.

use std::{
    io::ErrorKind,
    os::{fd::AsFd as _, unix::net::UnixStream},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

use super::{Status, start::StartOptions};
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    run::{
        attach::Frame,
        discard::{self, wait_for_end},
        monitor,
    },
    state::{
        ContainerId,
        layout::ContainerPaths,
        record::{ContainerRecord, ProcessRecord},
        store::{Durability, write},
    },
    sys::process::send_signal,
};

impl Engine {
    /// Sends the stop signal, waits, then SIGKILL; returns when the end is recorded. `timeout`
    /// in seconds; negative waits for ever; `None` is the container's own, else ten.
    pub fn stop(&self, id: &ContainerId, signal: Option<i32>, timeout: Option<i64>) -> Result<()> {
        let container = self.load(id)?;
        self.mark_stopped(id, container.record.host.restart)?;
        if matches!(container.status, Status::Restarting(_)) && self.cancel_restart(id)? {
            self.note(&container.record, "stop");
            return Ok(());
        }
        if matches!(container.status, Status::Initialized(_)) && self.end_held(id)? {
            self.note(&container.record, "stop");
            return Ok(());
        }
        // It may have been started again meanwhile.
        let container = self.load(id)?;
        let Some(process) = container.status.process() else { return Ok(()) };
        let signal = match signal {
            Some(signal) => signal,
            None => stop_signal(&container.record.config.stop_signal)?,
        };
        let seconds = timeout.or(container.record.config.stop_timeout).unwrap_or(10);
        self.note_signal(&container.record, signal);
        self.signal(process, signal)?;
        self.thaw(process)?;
        let patience = u64::try_from(seconds).ok().map(Duration::from_secs);
        if !self.wait_for_init(process, patience)? {
            self.note_signal(&container.record, libc::SIGKILL);
            self.signal(process, libc::SIGKILL)?;
            self.wait_for_init(process, None)?;
        }
        self.wait_until_recorded(id)?;
        // Its monitor may have promised a restart before it could know of this.
        self.cancel_restart(id)?;
        self.note(&container.record, "stop");
        Ok(())
    }

    /// Stops a container that runs, and starts it, whether it ran or not.
    pub fn restart(
        &self,
        id: &ContainerId,
        signal: Option<i32>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let container = self.load(id)?;
        if container.status.is_running() {
            // One that is to be removed at its end is not at the end yet.
            let keep = self.layout.container(id).keep();
            write(&keep, b"", Durability::Renamed)?;
            self.stop(id, signal, timeout)?;
        }
        // If somebody else was faster it runs, too.
        self.start_unless_running(id, StartOptions::default())?;
        self.note(&container.record, "restart");
        Ok(())
    }

    /// Sends `signal` to a running container's init.
    pub fn kill(&self, id: &ContainerId, signal: i32) -> Result<()> {
        let container = self.load(id)?;
        if matches!(container.status, Status::Restarting(_)) {
            self.mark_stopped(id, container.record.host.restart)?;
            if self.cancel_restart(id)? {
                return Ok(());
            }
        }
        let Some(process) = container.status.process() else {
            return Err(Error::conflict(format!(
                "cannot kill container: {}: container {} is not running",
                container.record.name,
                id.short()
            )));
        };
        let ends = signal == libc::SIGKILL
            || stop_signal(&container.record.config.stop_signal).ok() == Some(signal);
        if ends {
            self.mark_stopped(id, container.record.host.restart)?;
        }
        self.note_signal(&container.record, signal);
        self.signal(process, signal)?;
        if ends { self.thaw(process) } else { Ok(()) }
    }

    /// Waits for the end; the exit code.
    pub fn wait(&self, id: &ContainerId) -> Result<i32> {
        loop {
            // Asked before the records are read: a container that removes itself leaves none,
            // and its monitor answers whoever has come before that.
            if let Some((code, _)) = self.hear_exit(id)? {
                return Ok(code);
            }
            let container = self.load(id)?;
            match &container.status {
                Status::Exited(_) | Status::Lost(_) => return Ok(container.status.exit_code()),
                // Docker waits for a container that has not been started yet.
                Status::Created | Status::Initialized(_) | Status::Restarting(_) => {
                    self.wait_for_news(id)?;
                }
                Status::Running(process) | Status::Paused(process) => {
                    self.wait_unanswered(id, process)?;
                }
            }
        }
    }

    /// Until something is recorded of a container that has not been started yet, or it is
    /// removed.
    fn wait_for_news(&self, id: &ContainerId) -> Result<()> {
        let paths = self.layout.container(id);
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).doing("watch a container")?;
        let news = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF;
        match inotify.add_watch(paths.dir(), news) {
            Err(Errno::ENOENT) => return Ok(()),
            watch => watch.at(paths.dir()).doing("watch")?,
        };
        // It may have been started before the watch was set.
        let waits = matches!(
            self.status(&paths)?,
            Status::Created | Status::Initialized(_) | Status::Restarting(_)
        );
        if waits && paths.record().exists() {
            inotify.read_events().at(paths.dir()).doing("watch")?;
        }
        Ok(())
    }

    /// No monitor answers: until init has ended, and a monitor that is about to go has said how.
    fn wait_unanswered(&self, id: &ContainerId, process: &ProcessRecord) -> Result<()> {
        self.wait_for_init(process, None)?;
        let paths = self.layout.container(id);
        while self.still_runs(&paths, process)? {
            let Some(monitor) = discard::living(process.monitor) else { return Ok(()) };
            wait_for_end(monitor.as_fd(), Some(Duration::from_millis(10)))?;
        }
        Ok(())
    }

    fn still_runs(&self, paths: &ContainerPaths, process: &ProcessRecord) -> Result<bool> {
        let status = self.status(paths)?;
        Ok(status.process().is_some_and(|now| now.init == process.init))
    }

    /// How it ended, and the monitor, which is not gone before this is dropped.
    fn hear_exit(&self, id: &ContainerId) -> Result<Option<(i32, UnixStream)>> {
        let Ok(mut stream) = monitor::connect(&self.layout.container(id)) else { return Ok(None) };
        loop {
            match Frame::read_from(&mut stream) {
                Ok(Some(Frame::Exit(code))) => return Ok(Some((code, stream))),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(err) if err.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(err) => return Err(err).doing("wait for the container's end"),
            }
        }
    }

    /// Before it is sent: the end it may bring is told later.
    fn note_signal(&self, record: &ContainerRecord, signal: i32) {
        self.note_with(record, "kill", "signal", &signal.to_string());
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
        match self.init_pidfd(process) {
            Ok(pidfd) => wait_for_end(pidfd.as_fd(), patience),
            Err(_) => Ok(true),
        }
    }

    /// The monitor needs a moment more than init: the last output, the exit status, the
    /// clean-up. It tells when it is done; for as long as somebody listens still, it does not
    /// unmount ([`Monitor::see_off`](crate::run::monitor)).
    pub(super) fn wait_until_recorded(&self, id: &ContainerId) -> Result<Option<UnixStream>> {
        let paths = self.layout.container(id);
        let Some(process) = self.status(&paths)?.process().cloned() else { return Ok(None) };
        loop {
            if let Some((_, monitor)) = self.hear_exit(id)? {
                return Ok(Some(monitor));
            }
            if !self.still_runs(&paths, &process)? {
                return Ok(None);
            }
            self.wait_unanswered(id, &process)?;
        }
    }
}

/// Docker's names and numbers; SIGTERM if the image says nothing.
fn stop_signal(text: &str) -> Result<i32> {
    if text.is_empty() { Ok(libc::SIGTERM) } else { crate::sys::signal::parse(text) }
}
