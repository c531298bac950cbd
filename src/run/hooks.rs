//! Programs of the host's that are run around a container's life.
//!
//! runtime-spec config.md, "POSIX-platform Hooks": each is told the container's state (runtime.md,
//! "State") on its standard input. What it writes is shown if it fails. When each is run is drawn in
//! [`launch`](super::launch); `poststop` follows from whatever clears up after the container.

use std::{
    ffi::CString,
    fs::File,
    io::{Seek as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::FileExt as _},
    },
    path::Path,
    time::Duration,
};

use rustix::fs::MemfdFlags;
use serde_json::json;

use super::discard::wait_for_end;
use crate::{
    error::{Context as _, Error, Result},
    oci::runtime::Spec,
    state::record::{Around, Hook, Hooks},
    sys::process::{ExitStatus, spawn_program},
};

/// Bytes of what a hook wrote that are shown.
const SHOWN: usize = 2 << 10;

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    CreateRuntime,
    CreateContainer,
    Poststart,
    Poststop,
}

impl Moment {
    fn of(self, hooks: &Hooks) -> &[Hook] {
        match self {
            Self::CreateRuntime => &hooks.create_runtime,
            Self::CreateContainer => &hooks.create_container,
            Self::Poststart => &hooks.poststart,
            Self::Poststop => &hooks.poststop,
        }
    }

    /// runtime.md, "State": the status that a hook of this moment is told.
    fn status(self) -> &'static str {
        match self {
            Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

/// What a spec wants to be run; `None` is nothing.
pub(super) fn of(spec: &Spec, bundle: &Path) -> Option<Around> {
    let wanted = spec.hooks().as_ref()?;
    let read = |hooks: &Option<Vec<crate::oci::runtime::Hook>>| -> Vec<Hook> {
        let one = |hook: &crate::oci::runtime::Hook| Hook {
            path: hook.path().clone(),
            args: hook.args().clone().unwrap_or_default(),
            env: hook.env().clone().unwrap_or_default(),
            timeout: hook.timeout().and_then(|seconds| u32::try_from(seconds).ok()),
        };
        hooks.iter().flatten().map(one).collect()
    };
    let hooks = Hooks {
        create_runtime: read(wanted.create_runtime()),
        create_container: read(wanted.create_container()),
        poststart: read(wanted.poststart()),
        poststop: read(wanted.poststop()),
    };
    let id = bundle.parent().and_then(Path::file_name).unwrap_or_default();
    let annotations = spec.annotations().iter().flatten();
    Some(Around {
        hooks,
        id: id.to_string_lossy().into_owned(),
        bundle: bundle.to_owned(),
        annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
    })
}

/// As the spec has them.
pub(super) fn to_spec(hooks: &Hooks) -> Option<crate::oci::runtime::Hooks> {
    if hooks.is_empty() {
        return None;
    }
    let write = |hooks: &[Hook]| {
        let one = |hook: &Hook| {
            let mut written = crate::oci::runtime::Hook::default();
            written
                .set_path(hook.path.clone())
                .set_args(Some(hook.args.clone()).filter(|args| !args.is_empty()))
                .set_env(Some(hook.env.clone()).filter(|env| !env.is_empty()))
                .set_timeout(hook.timeout.map(i64::from));
            written
        };
        Some(hooks.iter().map(one).collect::<Vec<_>>()).filter(|hooks| !hooks.is_empty())
    };
    let mut written = crate::oci::runtime::Hooks::default();
    written
        .set_create_runtime(write(&hooks.create_runtime))
        .set_create_container(write(&hooks.create_container))
        .set_poststart(write(&hooks.poststart))
        .set_poststop(write(&hooks.poststop));
    Some(written)
}

/// Where hooks write to: kept in memory until one fails.
#[derive(Debug)]
pub(super) struct Output(File);

impl Output {
    pub(super) fn new() -> Result<Self> {
        let memory = rustix::fs::memfd_create("hooks", MemfdFlags::CLOEXEC);
        Ok(Self(File::from(memory.doing("keep what hooks write")?)))
    }

    /// Its end, on one line.
    fn last(&self) -> String {
        let size = self.0.metadata().map_or(0, |meta| meta.len());
        let mut bytes = vec![0; SHOWN];
        let count = self.0.read_at(&mut bytes, size.saturating_sub(SHOWN as u64)).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..count]);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join("; ")
    }

    /// What one of init's has failed of.
    pub(super) fn explain_inside(&self, around: &Around, index: u16) -> Error {
        let hook = around.hooks.create_container.get(usize::from(index));
        self.explain(hook.map_or(Path::new(""), |hook| &hook.path))
    }

    fn explain(&self, path: &Path) -> Error {
        Error::engine(self.last()).context(doing(path))
    }

    fn clear(&self) -> Result<()> {
        self.0.set_len(0)?;
        Ok((&self.0).rewind()?)
    }

    /// Says at the end why a hook has failed, also to the process that started this one.
    fn say(&self, err: &Error) {
        let _ = writeln!(&self.0, "{err}");
    }
}

fn doing(path: &Path) -> String {
    format!("run the hook {}", path.display())
}

/// Runs the hooks of a moment, one after the other, until one fails. `pid` is the container's
/// process as they see it.
pub(super) fn run(around: &Around, moment: Moment, pid: u32, output: &Output) -> Result<()> {
    for hook in moment.of(&around.hooks) {
        run_one(around, hook, moment, pid, output).map_err(|err| {
            output.say(&err);
            output.explain(&hook.path)
        })?;
    }
    Ok(())
}

/// As [`run`], by init, of which nobody hears a text: the index of the one that failed.
pub(super) fn run_inside(around: &Around, output: &Output) -> Result<(), u16> {
    let moment = Moment::CreateContainer;
    for (index, hook) in (0_u16..).zip(moment.of(&around.hooks)) {
        let run = run_one(around, hook, moment, std::process::id(), output);
        run.map_err(|err| {
            output.say(&err);
            index
        })?;
    }
    Ok(())
}

/// Those of a container that has ended. Each is run, whatever comes of the others; there is nobody to
/// hear of it.
pub(super) fn run_afterwards(around: &Around) {
    let Ok(output) = Output::new() else { return };
    for hook in &around.hooks.poststop {
        if let Err(err) = run_one(around, hook, Moment::Poststop, 0, &output) {
            log::warn!("{}: {err}", doing(&hook.path));
        }
    }
}

fn run_one(around: &Around, hook: &Hook, moment: Moment, pid: u32, output: &Output) -> Result<()> {
    output.clear()?;
    let input = state(around, moment, pid)?;
    let text = |text: &[u8]| {
        CString::new(text).map_err(|_| Error::invalid("a hook with a NUL byte in its words"))
    };
    let program = text(hook.path.as_os_str().as_bytes())?;
    let texts = |list: &[String]| -> Result<Vec<CString>> {
        list.iter().map(|one| text(one.as_bytes())).collect()
    };
    let argv = match hook.args.as_slice() {
        [] => vec![program.clone()],
        args => texts(args)?,
    };
    let out: BorrowedFd<'_> = output.0.as_fd();
    let child = spawn_program(&program, &argv, &texts(&hook.env)?, [input.as_fd(), out, out])?;
    let patience = hook.timeout.map(|seconds| Duration::from_secs(seconds.into()));
    // One that is too late is killed with its handle.
    if !wait_for_end(child.as_fd(), patience)? {
        let seconds = hook.timeout.unwrap_or(0);
        return Err(Error::engine(format!("it took longer than {seconds} s")));
    }
    match child.wait().doing("wait for it")? {
        ExitStatus::Code(0) => Ok(()),
        ExitStatus::Code(code) => Err(Error::engine(format!("exit code {code}"))),
        ExitStatus::Signal(signal) => Err(Error::engine(format!("killed by signal {signal}"))),
    }
}

/// The container's state, to be read from its beginning.
fn state(around: &Around, moment: Moment, pid: u32) -> Result<OwnedFd> {
    let mut state = json!({
        "ociVersion": "1.0.2",
        "id": around.id,
        "status": moment.status(),
        "bundle": around.bundle,
    });
    // runtime.md: of a container that has stopped there is none.
    if pid != 0 {
        state["pid"] = pid.into();
    }
    if !around.annotations.is_empty() {
        state["annotations"] = json!(around.annotations);
    }
    let memory = rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC);
    let mut file = File::from(memory.doing("write the container's state")?);
    file.write_all(state.to_string().as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}
