//! Flags of `run` and `create` that are there for who types them, and change nothing.

use super::super::{args::seldom::SeldomFlags, exit};
use crate::error::{Error, Result};

/// Refuses what cannot be, and says what is left undone, in docker's words where it has some.
pub(super) fn check(flags: &SeldomFlags) -> Result<()> {
    match flags.runtime.as_deref() {
        None | Some("" | "dhow") => {}
        Some(other) => {
            return Err(Error::invalid(format!("unknown or invalid runtime name: {other}"))
                .hint("dhow is the runtime itself; leave --runtime away"));
        }
    }
    match flags.isolation.as_deref() {
        None | Some("" | "default") => {}
        Some(other) => {
            return Err(Error::invalid(format!(
                "invalid isolation ({other}): linux only supports 'default'"
            )));
        }
    }
    if flags.disable_content_trust == Some(false) {
        return Err(Error::unsupported("--disable-content-trust=false: there is no content trust")
            .hint("`dhow pull --verify-key FILE` checks signatures"));
    }
    if flags.oom_kill_disable == Some(true) {
        exit::note(
            "WARNING: Your kernel does not support OomKillDisable. OomKillDisable discarded.",
        );
    }
    if flags.kernel_memory.is_some() {
        exit::note(
            "WARNING: cgroup v2 counts the kernel's memory as --memory. Kernel memory limit discarded.",
        );
    }
    Ok(())
}
