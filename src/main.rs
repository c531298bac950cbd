//! dhow: parse, dispatch, exit code. Also the door to the hidden roles in which dhow starts
//! itself again; they are told by the first argument, before anything else is looked at.

#![cfg_attr(not(test), no_main)]

use std::{ffi::OsString, process::ExitCode};

#[cfg(target_env = "musl")]
#[global_allocator]
static HEAP: dhow::sys::heap::Heap = dhow::sys::heap::Heap;

#[cfg(not(test))]
dhow::begin_with!(program);

#[cfg_attr(test, expect(dead_code, reason = "the tests have a main of their own"))]
fn program(args: Vec<OsString>) -> ExitCode {
    let program = args.first().and_then(|arg| arg.to_str()).unwrap_or_default();
    if program.ends_with(dhow::hello::PATH) {
        return dhow::hello::main(args.into_iter().skip(1));
    }
    // Inherited as ignored, it would take every child's exit status away (wait(2), "NOTES").
    // The only errors are those of a number that is no signal.
    let _ = dhow::sys::process::default_signal(nix::sys::signal::Signal::SIGCHLD);
    let role = args.get(1).and_then(|arg| arg.to_str()).unwrap_or_default();
    let rest = args.get(2..).unwrap_or_default();
    match role {
        "become-init" => dhow::run::process::resume(rest),
        dhow::run::monitor::ROLE => dhow::run::monitor::main(rest),
        dhow::run::files::ROLE => code(dhow::run::files::main()),
        "restart-container" => code(dhow::engine::container::restart::main(rest)),
        dhow::engine::build::ROLE => code(dhow::engine::build::main(rest)),
        dhow::cli::commands::special::ROLE => code(dhow::cli::commands::special::unshared(rest)),
        dhow::run::log::pack::ROLE => code(dhow::run::log::pack::main(rest)),
        "health-check" => code(dhow::engine::container::health::main(rest)),
        dhow::network::names::process::ROLE => dhow::network::names::process::main(rest),
        dhow::network::carrier::process::ROLE => dhow::network::carrier::process::main(rest),
        dhow::network::sweep::ROLE => code(dhow::network::sweep::main(rest)),
        dhow::network::role::ROLE => dhow::network::role::main(rest),
        "unpack" => unpack(),
        dhow::engine::volume::fill::ROLE => dhow::engine::volume::fill::main(),
        dhow::run::discard::ROLE => code(dhow::run::discard::main(rest)),
        _ => dhow::cli::main(&args),
    }
}

fn code(number: i32) -> ExitCode {
    ExitCode::from(u8::try_from(number).unwrap_or(1))
}

/// Serves the command that holds the other end of descriptor 3.
fn unpack() -> ExitCode {
    let served = dhow::sys::fd::inherited(3).map(dhow::image::unpack::serve);
    if matches!(served, Some(Ok(()))) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
