//! `--init`: pid 1 that reaps what is orphaned and passes signals on to the command.

use std::convert::Infallible;

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, setpgid},
};

use super::{
    launch::Steps,
    plan::{ProcessPlan, Step},
    process,
};
use crate::sys::{
    self,
    process::{ExitStatus, NewProcess, SingleThreaded},
};

/// Starts the command as a child and stays until it has ended; ends with its status.
pub(super) fn run(
    plan: &ProcessPlan,
    steps: &Steps<'_>,
    alone: &SingleThreaded,
) -> Result<Infallible, ()> {
    let command = steps.take(Step::Exec, || {
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None)?;
        sys::process::fork(alone)
    })?;
    let Some(command) = command else {
        NewProcess::forked().run(|| {
            // A group of its own, in front if there is a terminal: Ctrl-C is for the command.
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            if plan.terminal {
                let _ = nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::getpid());
            }
            process::exec(plan, steps)
        });
    };
    // The command's exec closes its copy; ours must not keep the engine waiting.
    let _ = sys::process::close_from(3);
    sys::process::exit_now(reap(command))
}

fn reap(command: Pid) -> i32 {
    let all = SigSet::all();
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = collect(command) {
                    return code;
                }
            }
            Ok(signal) => {
                let _ = kill(command, signal);
            }
            // A real-time signal, which nix cannot name.
            Err(Errno::EINVAL) => {}
            Err(_) => return 125,
        }
    }
}

/// Reaps all that has ended; the command's code if it is among them.
fn collect(command: Pid) -> Option<i32> {
    let mut ended = None;
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitStatus::Signal(signal as i32)),
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_) => continue,
        };
        if status.0 == command {
            ended = Some(status.1.shell_code());
        }
    }
}
