//! Starting a step's container, from a process that may have several threads.
//!
//! A launch forks and goes on in the child, which only a process of one thread may do. So a build
//! whose stages run side by side starts dhow again in a hidden role for it, which passes the
//! connection to the container's output back.

use std::{
    ffi::{CString, OsStr, OsString},
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStrExt as _, net::UnixStream},
    },
};

use crate::{
    engine::{
        Engine,
        container::start::StartOptions,
        told::{hear, report_success, tell},
    },
    error::{Context as _, Error, Result},
    run::attach::Wants,
    state::ContainerId,
    sys::{
        channel, fd,
        process::{SingleThreaded, spawn_self},
    },
};

/// The hidden role: `dhow start-step ROOT RUNROOT ID`, with a socket as descriptor 3.
pub const ROLE: &str = "start-step";

/// The hidden role's entry; the exit code.
pub fn main(args: &[OsString]) -> i32 {
    let [root, run, id] = args else { return 125 };
    let Some(socket) = fd::inherited(3).map(UnixStream::from) else { return 125 };
    let start = || -> Result<UnixStream> {
        let engine = Engine::open(Some(root.into()), Some(run.into()))?;
        engine.start_here(&id.to_string_lossy().parse()?)
    };
    let told = start().and_then(|stream| {
        report_success(&socket)?;
        channel::send(&socket, &[stream.as_fd()]).doing("pass the step's output on")
    });
    match told {
        Ok(()) => 0,
        Err(err) => {
            tell(&socket, &err);
            1
        }
    }
}

impl Engine {
    /// Starts the container of a step; the connection to what it writes.
    pub(super) fn start_step(&self, id: &ContainerId) -> Result<UnixStream> {
        if SingleThreaded::verify().is_ok() {
            return self.start_here(id);
        }
        let text = |text: &OsStr| {
            CString::new(text.as_bytes()).map_err(|_| Error::invalid("a path with a null byte"))
        };
        let words = [
            text(self.layout.root().as_os_str())?,
            text(self.layout.run_root().as_os_str())?,
            text(OsStr::new(id.as_str()))?,
        ];
        let role = text(OsStr::new(ROLE))?;
        let (ours, theirs) = UnixStream::pair().doing("create a socket pair")?;
        let args = [c"dhow", &role, &words[0], &words[1], &words[2]];
        let child = spawn_self(&args, &[theirs.as_fd()], None)?;
        drop(theirs);
        let heard = hear(&ours, "the helper that starts the step has ended early");
        let passed = heard.and_then(|()| channel::receive(&ours).doing("hear of the step"));
        child.wait().doing("wait for the helper that starts the step")?;
        let stream = passed?.and_then(|mut fds| fds.pop());
        stream.map(UnixStream::from).ok_or_else(|| Error::engine("the step has no output"))
    }

    fn start_here(&self, id: &ContainerId) -> Result<UnixStream> {
        let wants = Wants { stdin: false, stdout: true, stderr: true };
        let stream = self.start(id, StartOptions { wants, ..StartOptions::default() })?;
        stream.ok_or_else(|| Error::engine("the step has no output"))
    }
}
