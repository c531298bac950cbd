//! Health checks at work: one run, which the monitor asks a role of dhow for, or a user.

use std::{
    ffi::OsString,
    fs::File,
    io::Read as _,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    Status,
    exec::{ExecRequest, Session},
    pause::not_running,
};
use crate::{
    engine::Engine,
    error::{Context as _, Error, Result},
    run::monitor::{FAILED_TO_START, HEALTHY, NOT_YET, STARTED, UNHEALTHY},
    state::{
        ContainerId,
        health::{Health, HealthRun, HealthState},
        record::ContainerRecord,
        store::{Durability, read_json, write_json},
    },
    sys::process::{send_signal, wait_pidfd},
};

/// Bytes of its output that are kept.
const OUTPUT: usize = 4096;

/// The hidden role's entry: `dhow health-check ROOT RUNROOT ID`; what the monitor is to know, or
/// 125 if nothing was learned.
pub fn main(args: &[OsString]) -> i32 {
    let [root, run, id] = args else { return 125 };
    let check = || -> Result<Checked> {
        let engine = Engine::open(Some(root.into()), Some(run.into()))?;
        engine.check_health(&id.to_string_lossy().parse()?)
    };
    match check() {
        Ok(Checked { startup: Some(Progress::Passed), .. }) => STARTED,
        Ok(Checked { startup: Some(Progress::Failed), .. }) => FAILED_TO_START,
        Ok(Checked { startup: Some(Progress::Open), .. }) => NOT_YET,
        Ok(checked) => match checked.state.status {
            Health::Healthy => HEALTHY,
            Health::Starting => NOT_YET,
            Health::Unhealthy => UNHEALTHY,
        },
        Err(_) => 125,
    }
}

/// What one run has come to.
#[derive(Debug)]
pub struct Checked {
    /// As it is now.
    pub state: HealthState,
    /// This run.
    pub passed: bool,
    /// If it was one of the startup check: how that goes.
    pub startup: Option<Progress>,
}

/// How a startup check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Open,
    Passed,
    /// So often that the container is started anew.
    Failed,
}

impl Engine {
    /// Runs a container's health check once, or its startup check while that has not passed.
    pub fn check_health(&self, id: &ContainerId) -> Result<Checked> {
        let container = self.load(id)?;
        let record = &container.record;
        let Status::Running(process) = &container.status else {
            return Err(not_running(&record.name));
        };
        let check = record.config.health.as_ref();
        let command = check.and_then(|check| check.command());
        let (Some(check), Some(command)) = (check, command) else {
            return Err(Error::invalid(format!(
                "container {} has no defined healthcheck",
                record.name
            ))
            .hint("`--health-cmd` gives it one when it is created"));
        };
        let path = self.layout.container(id).health();
        let read = || -> HealthState { read_json(&path).ok().flatten().unwrap_or_default() };
        let special = &record.host.special;
        let kept = &special.health_log;
        let room = kept.bytes.map_or(OUTPUT, |bytes| bytes as usize);
        let startup = special.startup.as_ref().filter(|_| !read().startup.passed);
        if let Some((startup, command)) = startup.and_then(|it| Some((it, it.command()?))) {
            let run = self.probe(id, command, startup.timeout(), room)?;
            let passed = run.exit_code == 0;
            let mut state = read();
            state.add_startup(run, startup, kept);
            self.keep_health(record, &state)?;
            let failed = startup.retries > 0 && state.startup.failures >= startup.retries;
            let progress = match (state.startup.passed, failed) {
                (true, _) => Progress::Passed,
                (false, true) => Progress::Failed,
                (false, false) => Progress::Open,
            };
            return Ok(Checked { state, passed, startup: Some(progress) });
        }
        let run = self.probe(id, command, check.timeout(), room)?;
        let passed = run.exit_code == 0;
        let age = Timestamp::now().duration_since(process.started);
        let mut state = read();
        let changed = state.add(run, check, kept, Duration::try_from(age).unwrap_or_default());
        self.keep_health(record, &state)?;
        if changed {
            self.note(record, &format!("health_status: {}", state.status.word()));
            if record.host.special.notify_healthy && state.status == Health::Healthy {
                super::special::tell_systemd(process.monitor.pid.unsigned_abs());
            }
        }
        Ok(Checked { state, passed, startup: None })
    }

    /// With the copy that was asked for, under podman's name for it.
    fn keep_health(&self, record: &ContainerRecord, state: &HealthState) -> Result<()> {
        write_json(&self.layout.container(&record.id).health(), state, Durability::Renamed)?;
        let Some(dir) = &record.host.special.health_log.directory else { return Ok(()) };
        let path = dir.join(format!("{}-healthcheck.log", record.id));
        write_json(&path, state, Durability::Renamed)
    }

    /// `room` is how many bytes of output are kept; 0 is all.
    fn probe(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        patience: Duration,
        room: usize,
    ) -> Result<HealthRun> {
        let start = Timestamp::now();
        let request = ExecRequest { command, ..ExecRequest::default() };
        let (exit_code, output) = match self.exec(id, &request) {
            Ok(session) => listen(session, patience, room)?,
            // Docker: a command that cannot be run is a failure of the check.
            Err(err) => (err.kind().exit_code().into(), err.to_string()),
        };
        Ok(HealthRun { start, end: Timestamp::now(), exit_code, output })
    }

    /// What is known of a container's health; `None` if nobody checks it.
    pub fn health(&self, record: &ContainerRecord) -> Option<HealthState> {
        record.config.health.as_ref()?.command()?;
        let path = self.layout.container(&record.id).health();
        Some(read_json(&path).ok().flatten().unwrap_or_default())
    }
}

/// Waits for the end of the check, and keeps the beginning of what it says.
fn listen(session: Session, patience: Duration, room: usize) -> Result<(i32, String)> {
    let room = if room == 0 { usize::MAX } else { room };
    let Session { mut child, stdout, stderr, .. } = session;
    let mut sources = [stdout, stderr].map(|fd| fd.map(File::from));
    let deadline = Instant::now() + patience;
    let mut output = Vec::new();
    let mut buffer = [0; OUTPUT];
    let code = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        let open: Vec<&File> = sources.iter().flatten().collect();
        let mut fds: Vec<PollFd<'_>> =
            open.iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(child.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).doing("wait for the health check"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        let mut index = 0;
        for source in &mut sources {
            let Some(file) = source else { continue };
            if ready[index] {
                match file.read(&mut buffer) {
                    Ok(count) if count > 0 => {
                        let left = room.saturating_sub(output.len());
                        output.extend(&buffer[..count.min(left)]);
                    }
                    _ => *source = None,
                }
            }
            index += 1;
        }
        // Its streams may outlive it, held by what it left behind.
        if ready.last() == Some(&true) && !ready[..ready.len() - 1].contains(&true) {
            child.disarm();
            break wait_pidfd(child.as_fd()).doing("wait for the health check")?.shell_code();
        }
        if Instant::now() >= deadline {
            let _ = send_signal(child.as_fd(), libc::SIGKILL);
            let said = format!("Health check exceeded timeout ({}s)", patience.as_secs_f64());
            output = said.into_bytes();
            break -1;
        }
    };
    Ok((code, String::from_utf8_lossy(&output).into_owned()))
}
