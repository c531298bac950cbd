//! `explain`: why a container does not run, and what to do about it.
//!
//! Read from what is recorded and from the kernel: nothing is started, and nothing changed.

use std::{collections::VecDeque, ops::ControlFlow};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Container, Status,
    logs::{Heard, LogQuery},
};
use crate::{
    engine::Engine,
    error::Result,
    state::{
        ContainerId,
        health::Health,
        journal::{Event, Reader},
        record::{LogDriver, StateRecord},
        store::read_json,
    },
};

/// Lines of output that are shown.
const LINES: u64 = 10;
/// Events that are shown.
const EVENTS: usize = 10;

/// What is to be said of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub id: ContainerId,
    pub name: String,
    /// Docker's word for its state.
    pub state: &'static str,
    /// `None` while it runs, or if it never did.
    pub exit_code: Option<i32>,
    /// The most telling first.
    pub findings: Vec<Finding>,
    /// The last events, oldest first.
    pub events: Vec<String>,
    /// The end of its output.
    pub output: Vec<String>,
}

/// Something that explains the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub why: String,
    /// What to do; empty if there is nothing to be done.
    pub advice: String,
}

fn finding(why: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { why: why.into(), advice: advice.into() }
}

impl Engine {
    /// Why container `id` is in the state it is in.
    pub fn explain(&self, id: &ContainerId) -> Result<Explanation> {
        let container = self.load(id)?;
        let events = self.events_of(id)?;
        let mut findings = Vec::new();
        match &container.status {
            Status::Created => findings.push(finding(
                "it was created and never started",
                format!("dhow start {}", container.record.name),
            )),
            Status::Initialized(_) => findings.push(finding(
                "it is prepared, and its first process waits to be started",
                format!("dhow start {}", container.record.name),
            )),
            Status::Running(_) | Status::Paused(_) => self.explain_running(&container, &mut findings),
            Status::Restarting(state) => explain_restarts(&container, state, &mut findings),
            Status::Exited(state) => self.explain_end(&container, state, &events, &mut findings),
            Status::Lost(state) => findings.push(finding(
                state.error.clone(),
                format!("dhow start {}; after a reboot, dhow start --all-restartable (`dhow generate systemd` prints a unit that does it)", container.record.name),
            )),
        }
        let ended =
            matches!(container.status, Status::Exited(_) | Status::Restarting(_) | Status::Lost(_));
        let skip = events.len().saturating_sub(EVENTS);
        Ok(Explanation {
            id: id.clone(),
            name: container.record.name.clone(),
            state: container.status.word(),
            exit_code: ended.then(|| container.status.exit_code()),
            findings,
            events: events[skip..].iter().map(told).collect(),
            output: self.last_output(&container),
        })
    }

    fn explain_running(&self, container: &Container, findings: &mut Vec<Finding>) {
        let name = &container.record.name;
        if matches!(container.status, Status::Paused(_)) {
            findings.push(finding(
                "it is paused: all its processes stand still",
                format!("dhow unpause {name}"),
            ));
        } else {
            findings.push(finding("it runs", ""));
        }
        self.explain_health(container, findings);
        let paths = self.layout.container(&container.record.id);
        if let Ok(Some(state)) = read_json::<StateRecord>(&paths.state())
            && state.restarts > 0
        {
            let times = times(state.restarts);
            findings.push(finding(
                format!("its restart policy has started it again {times} since somebody did"),
                format!("dhow logs {name} shows what it said before it ended"),
            ));
        }
    }

    fn explain_health(&self, container: &Container, findings: &mut Vec<Finding>) {
        let Some(health) = self.health(&container.record) else { return };
        if health.status != Health::Unhealthy {
            return;
        }
        let last = health.log.last().map_or_else(String::new, |run| {
            format!("; the last check ended with {}: {}", run.exit_code, run.output.trim())
        });
        let command = container.record.config.health.as_ref().map(|check| check.test.join(" "));
        findings.push(finding(
            format!("its health check has failed {}{last}", times(health.failing_streak)),
            format!(
                "the check is {:?}; `dhow healthcheck run {}` runs it once",
                command.unwrap_or_default(),
                container.record.name
            ),
        ));
    }

    fn explain_end(
        &self,
        container: &Container,
        state: &StateRecord,
        events: &[Event],
        findings: &mut Vec<Finding>,
    ) {
        let code = state.exit_code.unwrap_or_default();
        let name = &container.record.name;
        if !state.error.is_empty() {
            findings.push(finding(
                format!("it could not be started: {}", state.error),
                start_advice(code, &state.error, name),
            ));
            return;
        }
        let asked = asked_to_end(events, code);
        if state.oom_killed {
            let limit = container.record.host.resources.memory;
            let (limit, advice) = match limit {
                Some(limit) => (
                    format!(" of {} MiB", limit >> 20),
                    format!("dhow update --memory {}m {name} doubles it; then start it again", limit >> 19),
                ),
                None => (String::new(), "the host itself has too little memory: --memory keeps one container from taking it all".to_owned()),
            };
            findings.push(finding(
                format!("the kernel killed one of its processes: it had used up its memory{limit}"),
                advice,
            ));
        }
        if let Some(asked) = asked {
            findings.push(finding(asked, format!("dhow start {name} runs it again")));
        } else if code > 128 {
            findings.extend(by_signal(code - 128, state.oom_killed, container));
        } else {
            findings.push(by_code(code, container));
        }
        if let Some(policy) = self.why_no_restart(container, code) {
            findings.push(policy);
        }
    }

    fn why_no_restart(&self, container: &Container, code: i32) -> Option<Finding> {
        let policy = container.record.host.restart;
        let paths = self.layout.container(&container.record.id);
        if policy == crate::state::restart::RestartPolicy::default() {
            return None;
        }
        if paths.stopped().exists() {
            return Some(finding("its restart policy does not apply: somebody has stopped it", ""));
        }
        let state: StateRecord = read_json(&paths.state()).ok().flatten().unwrap_or_default();
        (!policy.applies(code, state.restarts)).then(|| {
            finding(
                format!("its restart policy does not apply to this end (exit code {code}, restarted {})", times(state.restarts)),
                format!("dhow update --restart always {} starts it again whatever its exit code", container.record.name),
            )
        })
    }

    fn events_of(&self, id: &ContainerId) -> Result<Vec<Event>> {
        let all = Reader::open(&self.layout)?.read()?;
        Ok(all.into_iter().filter(|event| event.id == id.as_str()).collect())
    }

    /// The last lines of the log; none if it cannot be read.
    fn last_output(&self, container: &Container) -> Vec<String> {
        let driver = container.record.host.log.driver;
        if !driver.has_file() && driver != LogDriver::Journald {
            return Vec::new();
        }
        let query = LogQuery { tail: Some(LINES), ..LogQuery::default() };
        let mut lines = VecDeque::new();
        let _ = self.logs(&container.record.id, &query, &mut |heard| {
            if let Heard::Entry(entry) = heard {
                let text = String::from_utf8_lossy(&entry.log);
                lines.push_back(text.trim_end_matches('\n').to_owned());
            }
            ControlFlow::Continue(())
        });
        lines.into()
    }
}

fn times(count: u32) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn told(event: &Event) -> String {
    let code = event.attributes.get("exitCode").or(event.attributes.get("signal"));
    let code = code.map_or_else(String::new, |code| format!(" ({code})"));
    format!("{:.0} {}{code}", event.time, event.action)
}

fn explain_restarts(container: &Container, state: &StateRecord, findings: &mut Vec<Finding>) {
    let delay = jiff::SignedDuration::from_millis(i64::try_from(state.restart_delay).unwrap_or(0));
    let next = state.finished.and_then(|at| at.checked_add(delay).ok());
    let left = next.map_or(0, |next| next.duration_since(Timestamp::now()).as_millis().max(0));
    let seconds = format!("{}.{}", left / 1000, left % 1000 / 100);
    findings.push(finding(
        format!(
            "it has ended with {} and is waited for: its restart policy starts it again in {seconds} s (restarted {} so far; the wait doubles each time, up to a minute)",
            state.exit_code.unwrap_or_default(),
            times(state.restarts)
        ),
        format!("dhow logs {0} shows why it ends; dhow stop {0} ends the waiting", container.record.name),
    ));
    let code = state.exit_code.unwrap_or_default();
    match code > 128 {
        true => findings.extend(by_signal(code - 128, state.oom_killed, container)),
        false => findings.push(by_code(code, container)),
    }
}

/// Whether somebody asked for the last end, by dhow's own verbs. Who asks notes it afterwards,
/// often later than the end itself.
fn asked_to_end(events: &[Event], code: i32) -> Option<String> {
    let start = events.iter().rposition(|event| event.action == "start").unwrap_or(0);
    let since = &events[start..];
    if let Some(stop) = since.iter().find(|event| event.action == "stop") {
        return Some(format!("somebody stopped it at {:.0}", stop.time));
    }
    // Others, as SIGHUP, are mostly sent for other reasons.
    let ends = |signal: i32| {
        signal == code - 128 || [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT].contains(&signal)
    };
    let signal = |event: &Event| event.attributes.get("signal")?.parse::<i32>().ok();
    let mut kills = since.iter().rev().filter(|event| event.action == "kill");
    let kill = kills.find(|event| signal(event).is_some_and(ends))?;
    let signal = signal(kill).unwrap_or_default();
    Some(format!("somebody sent it signal {signal} at {:.0}", kill.time))
}

fn start_advice(code: i32, error: &str, name: &str) -> String {
    let has = |text: &str| error.contains(text);
    if has("address already in use") || has("port is already allocated") {
        return "another program has the port: `ss -ltnp` names it; publish another with -p".into();
    }
    match code {
        127 => format!("the command is not in the image: `dhow run --rm --entrypoint ls IMAGE /bin` lists what is; `dhow inspect -f '{{{{.Path}}}} {{{{.Args}}}}' {name}` shows the command"),
        126 => "the command is there and cannot be executed: it is not executable, is a directory, or was built for another architecture".into(),
        _ if has("cgroup") => "`dhow doctor` says how limits become possible here".into(),
        _ => format!("dhow start {name} tries again and says more; `dhow doctor` looks at this machine"),
    }
}

/// An end by signal number `signal` that nobody asked for here.
fn by_signal(signal: i32, oom_killed: bool, container: &Container) -> Option<Finding> {
    let name = &container.record.name;
    let word = nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| signal.to_string(), |s| s.to_string());
    Some(match signal {
        libc::SIGKILL if oom_killed => return None,
        libc::SIGKILL => finding(
            "it was killed (SIGKILL), and not by dhow: by a process inside, by somebody on this host, or by the kernel because the host ran out of memory",
            "`dmesg | grep -i 'killed process'` tells of the kernel's kills",
        ),
        libc::SIGSYS => finding(
            "a system call that its seccomp profile forbids ended it (SIGSYS)",
            format!(
                "`dmesg | grep type=1326` names the call; try once with --security-opt seccomp=unconfined, then allow that call in a profile of its own; `dhow inspect -f '{{{{.HostConfig.SecurityOpt}}}}' {name}` shows the profile"
            ),
        ),
        libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE => finding(
            format!("its program crashed ({word})"),
            match signal {
                libc::SIGILL => "it may be built for another kind of processor",
                _ => "a bug of the program, or too little stack or memory for it",
            },
        ),
        libc::SIGABRT => finding(
            "its program gave up by itself (SIGABRT)",
            format!("dhow logs {name}: mostly it says why, just before"),
        ),
        _ => finding(
            format!("signal {word} ended it, or its shell told so by the exit code"),
            format!("dhow logs {name}"),
        ),
    })
}

fn by_code(code: i32, container: &Container) -> Finding {
    let name = &container.record.name;
    let config = &container.record.config;
    let is_shell = config.entrypoint.iter().chain(&config.cmd).next_back().is_some_and(|word| {
        ["sh", "bash", "ash", "dash"].contains(&word.rsplit('/').next().unwrap_or(word))
    });
    match code {
        0 if is_shell && !config.open_stdin => finding(
            "its shell had nothing to read and ended, as it should",
            "give it a terminal with -it, or a command to run",
        ),
        0 => finding(
            "its command has done its work and ended with 0",
            "a container runs as long as its first process; a server must stay in the foreground",
        ),
        126 => finding(
            "its command tells that something cannot be executed (126)",
            format!("dhow logs {name}"),
        ),
        127 => finding(
            "its command tells that a program was not found (127)",
            format!("dhow logs {name}"),
        ),
        code => finding(
            format!("its command ended with an error of its own, exit code {code}"),
            format!("dhow logs {name} shows what it said"),
        ),
    }
}
