//! `RUN`: a container like any other, whose upperdir becomes a layer.

use std::{
    fs,
    io::Read as _,
    os::{
        fd::AsFd as _,
        unix::{fs::PermissionsExt as _, net::UnixStream},
    },
    path::Path,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde_json::json;

use super::{
    Network,
    context::Scratch,
    foreign,
    mounts::{Mounts, Planned},
    stage::{Builder, PREDEFINED, State, key},
    workspace::{Made, Workspace},
};
use crate::{
    build::{CdiDevice, Command, Instruction, Run},
    engine::container::cdi::{self, Edits},
    error::{Context as _, Error, Result},
    run::attach::Frame,
    state::record::{HostConfig, LogConfig, LogDriver, Mode, MountKind, MountRecord},
};

/// How much of a failed command's output its error repeats.
const TAIL_LINES: usize = 10;
const TAIL_BYTES: usize = 8 << 10;

/// A here-document that is a program of its own: where it is seen, and its text.
type Script = (String, String);

/// A command, ready to be run.
struct Job<'b> {
    words: Vec<String>,
    env: Vec<String>,
    network: Network,
    script: Option<Script>,
    mounts: Vec<Planned<'b>>,
    insecure: bool,
    devices: Edits,
}

impl Builder<'_> {
    pub(super) fn run(&self, state: &mut State, step: &Instruction, run: &Run) -> Result<()> {
        if run.insecure && !self.request.allow_insecure {
            return Err(Error::invalid("security.insecure is not allowed")
                .hint("--allow security.insecure lets RUN --security=insecure have all rights"));
        }
        if run.network.as_deref() == Some("host") && !self.request.allow_host_network {
            return Err(Error::invalid("network.host is not allowed").hint(
                "--allow network.host, or --network host, lets RUN --network=host have the host's network",
            ));
        }
        let devices = self.devices(&run.devices)?;
        let (mounts, mounts_key) = self.plan_mounts(state, &run.mounts)?;
        let (words, script) = self.command(state, run)?;
        let network = match run.network.as_deref() {
            Some("none") => Network::None,
            Some("host") => Network::Host,
            _ => self.request.network,
        };
        let args = arguments(state);
        let host = &self.request.run;
        let beyond = beyond(host, &self.request.cdi);
        let key = key(&[
            "run 4",
            &state.chain(),
            &json!(words).to_string(),
            &json!(script).to_string(),
            &json!(args).to_string(),
            &json!(state.config.env()).to_string(),
            &state.config.text("User"),
            &state.config.working_dir(),
            &format!("{network:?} {:?} {:?}", host.shm_size, host.ulimits),
            self.hostname(),
            &format!("{} {:?} {mounts_key}", run.insecure, host.extra_hosts),
            &format!("{:?} {:?}", run.devices, host.security),
            // What is beyond the usual is an array, which no platform is.
            &format!("{}{}", state.platform, beyond.unwrap_or_default()),
        ]);
        let count = match args.len() {
            0 => String::new(),
            count => format!("|{count} {} ", args.join(" ")),
        };
        let created_by = format!("RUN {count}{} # buildkit", words.join(" "));
        let mut env: Vec<String> = args
            .into_iter()
            .filter(|arg| state.lookup(arg.split('=').next().unwrap_or_default()).is_some())
            .collect();
        for name in PREDEFINED {
            if let Some(value) = self.request.args.get(name) {
                env.push(format!("{name}={value}"));
            }
        }
        let of_image = state.config.env().into_iter();
        env.extend(
            of_image.filter(|entry| {
                entry.split('=').next().is_none_or(|name| !state.over.contains(name))
            }),
        );
        let job = Job { words, env, network, script, mounts, insecure: run.insecure, devices };
        self.cached(state, &step.text, &created_by, &key, |state, number| {
            self.execute(state, number, &job).map(|layer| (layer, true))
        })
    }

    /// What steps take this machine to be called.
    fn hostname(&self) -> &str {
        self.own_arg("BUILDKIT_SANDBOX_HOSTNAME").unwrap_or("buildkitsandbox")
    }

    /// What the devices come to; one that is not required may be missing.
    fn devices(&self, wanted: &[CdiDevice]) -> Result<Edits> {
        let mut names = self.request.cdi.clone();
        for device in wanted {
            let kind = device.name.split('=').next().unwrap_or_default();
            let allowed = self.request.allow_devices.as_ref();
            let is_allowed = |allowed: &Vec<String>| {
                allowed.is_empty() || allowed.iter().any(|it| *it == device.name || it == kind)
            };
            if !allowed.is_some_and(is_allowed) {
                return Err(Error::invalid(format!("device {} is not allowed", device.name))
                    .hint("--allow device, or --allow device=NAME, lets RUN --device have it"));
            }
            match cdi::resolve(std::slice::from_ref(&device.name), &cdi::directories()) {
                Ok(_) => names.push(device.name.clone()),
                Err(err) if device.required => return Err(err),
                Err(err) => self.watch.warns(&err.to_string()),
            }
        }
        cdi::resolve(&names, &cdi::directories())
    }

    /// The words to run; here-documents are part of the shell's text, or a script of their own.
    fn command(&self, state: &State, run: &Run) -> Result<(Vec<String>, Option<Script>)> {
        let Command::Shell(text) = &run.command else {
            return Ok((state.config.words(&run.command), None));
        };
        let [first, ..] = &run.heredocs[..] else {
            return Ok((state.config.words(&run.command), None));
        };
        let is_alone = run.heredocs.len() == 1
            && crate::build::lex::heredoc(text.trim()).is_some()
            && text.trim().starts_with("<<");
        if !is_alone {
            let mut text = text.clone();
            for heredoc in &run.heredocs {
                text.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
            }
            return Ok((state.config.words(&Command::Shell(text)), None));
        }
        // Nothing is replaced in it, quoted or not (as docker has it): a shell does that.
        let content = first.content.clone();
        if content.starts_with("#!") {
            let path = format!("/dev/pipes/{}", first.name);
            let words = state.config.words(&Command::Shell(path.clone()));
            return Ok((words, Some((path, content))));
        }
        Ok((state.config.words(&Command::Shell(content)), None))
    }

    fn execute(&self, state: &State, number: usize, job: &Job<'_>) -> Result<Made> {
        foreign::check(&state.platform, &self.request.host)?;
        let staging = self.engine.layout.staging();
        let files = Scratch::new(&staging)?;
        let mut host = HostConfig {
            log: LogConfig { driver: LogDriver::None, ..LogConfig::default() },
            privileged: job.insecure,
            ..self.request.run.clone()
        };
        host.devices.extend(job.devices.devices.iter().cloned());
        host.group_add.extend(job.devices.groups.iter().cloned());
        host.mounts.extend(job.devices.mounts.iter().cloned());
        host.special.hooks = job.devices.hooks.clone();
        host.namespaces.network = match job.network {
            Network::Default => Mode::Private,
            Network::None => Mode::None,
            Network::Host => Mode::Host,
        };
        if let Some((path, content)) = &job.script {
            host.mounts.push(script(files.path(), path, content)?);
        }
        let mut mounts = self.open_mounts(state, &job.mounts)?;
        for mount in self.request.run.mounts.iter().chain(&job.devices.mounts) {
            mounts.made.extend(self.made_by(state, &mount.target));
        }
        mounts.env.extend(job.devices.env.iter().cloned());
        let made = self.executed(state, number, job, host, &mut mounts);
        mounts.release(self);
        made
    }

    fn executed(
        &self,
        state: &State,
        number: usize,
        job: &Job<'_>,
        mut host: HostConfig,
        mounts: &mut Mounts,
    ) -> Result<Made> {
        host.mounts.append(&mut mounts.records);
        let mut env = job.env.clone();
        env.append(&mut mounts.env);
        let config = state.config.container(job.words.clone(), env, self.hostname());
        let layers = std::mem::take(&mut mounts.layers);
        let space = Workspace::new(self, &state.layers, config, host, layers)?;
        let stream = self.engine.start_step(&space.record.id)?;
        let (code, tail) = self.follow(&stream, number)?;
        // Its end is recorded before its files are read.
        self.engine.wait(&space.record.id)?;
        if code != 0 {
            let error = failed(&job.words, code, &tail);
            return Err(match job.network {
                Network::None => {
                    error.hint("if it wanted the network: it was run with --network none")
                }
                Network::Default | Network::Host => error,
            });
        }
        self.layer_of(space, &state.layers, &mounts.made)
    }

    /// Passes on what the command writes; its exit code, and the last of what it wrote.
    fn follow(&self, stream: &UnixStream, number: usize) -> Result<(i32, Vec<u8>)> {
        let mut inbox = Vec::new();
        let mut tail = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut fds = vec![
                PollFd::new(stream.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.graph.stopped(), PollFlags::POLLIN),
            ];
            fds.extend(self.request.interrupt.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).doing("wait for the step"),
            }
            if fds[1..].iter().any(|fd| fd.any() == Some(true)) {
                self.go_on()?;
            }
            if fds[0].any() != Some(true) {
                continue;
            }
            match (&*stream).read(&mut buffer).doing("hear from the step")? {
                0 => return Err(Error::engine("the step's monitor has gone")),
                count => inbox.extend(&buffer[..count]),
            }
            for frame in Frame::take_all(&mut inbox).doing("hear from the step")? {
                match frame {
                    Frame::Stdout(bytes) | Frame::Stderr(bytes) => {
                        self.watch.says(number, &bytes);
                        tail.extend(bytes);
                        let surplus = tail.len().saturating_sub(TAIL_BYTES);
                        tail.drain(..surplus);
                    }
                    Frame::Exit(code) => return Ok((code, tail)),
                    Frame::Hello(_)
                    | Frame::Stdin(_)
                    | Frame::StdinEnd
                    | Frame::Window(..)
                    | Frame::Changed => {}
                }
            }
        }
    }
}

/// What of a step's surroundings its key has besides, if it is not what steps usually have.
fn beyond(host: &HostConfig, cdi: &[String]) -> Option<String> {
    let usual = HostConfig::default();
    let told = |host: &HostConfig, cdi: &[String]| {
        json!([
            cdi,
            host.cap_add,
            host.cap_drop,
            host.devices,
            host.group_add,
            host.mounts,
            host.namespaces,
            host.dns,
            host.dns_search,
            host.dns_options,
            host.special,
        ])
        .to_string()
    };
    Some(told(host, cdi)).filter(|here| *here != told(&usual, &[]))
}

/// The `ARG`s with what they are now, each once.
fn arguments(state: &State) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in &state.args {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let value = |name: &&str| state.lookup(name).unwrap_or_default();
    names.iter().map(|name| format!("{name}={}", value(name))).collect()
}

/// Docker's words, and the end of what the command wrote.
fn failed(words: &[String], code: i32, tail: &[u8]) -> Error {
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    let mut said =
        format!("process \"{}\" did not complete successfully: exit code: {code}", words.join(" "));
    for line in last {
        said.push_str(&format!("\n  > {line}"));
    }
    Error::engine(said)
}

/// A here-document as a program.
fn script(dir: &Path, target: &str, content: &str) -> Result<MountRecord> {
    let source = dir.join("script");
    fs::write(&source, content).at(&source)?;
    // Whoever runs it, whatever the umask.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).at(dir)?;
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).at(&source)?;
    Ok(MountRecord {
        kind: MountKind::Bind { source, create: false },
        target: target.to_owned(),
        read_only: true,
        options: Vec::new(),
    })
}
