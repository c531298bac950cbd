//! The bridges of the last container stay a moment for the next one: making and removing them
//! takes the kernel several times as long as all the rest of a start.
//!
//! Nobody waits for that: a process of its own does, which the container's monitor starts as the
//! last thing it does.

use std::{
    ffi::{CString, OsString},
    fs,
    os::unix::ffi::OsStrExt as _,
    time::Duration,
};

use super::host;
use crate::{
    error::{Context as _, Error, Result},
    state::{
        Layout,
        store::{Lock, create_private_dir},
    },
    sys::process::spawn_self,
};

pub const ROLE: &str = "network-sweep";
/// As long as an ordinary user's network role stays.
const LINGER: Duration = Duration::from_secs(1);

/// Has bridges removed that no container is on in a moment.
///
/// # Errors
/// When no process can be started for it.
pub(super) fn start(layout: &Layout) -> Result<()> {
    let text = |path: &std::path::Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::invalid("a path has a NUL"))
    };
    let verb = CString::new(ROLE).unwrap_or_default();
    let (root, run) = (text(layout.root())?, text(layout.run_root())?);
    spawn_self(&[c"dhow", &verb, &root, &run], &[], None)?.disarm();
    Ok(())
}

/// The hidden role's entry: `dhow network-sweep ROOT RUNROOT`.
pub fn main(args: &[OsString]) -> i32 {
    let [root, run] = args else { return 125 };
    match sweep(&Layout::new(root, run)) {
        Ok(()) => 0,
        Err(err) => {
            log::debug!("{err}");
            125
        }
    }
}

fn sweep(layout: &Layout) -> Result<()> {
    // The container's own place would not go, nor could it be made anew, while this is in it.
    let _ = fs::write("/sys/fs/cgroup/cgroup.procs", "0");
    nix::unistd::setsid().doing("leave the monitor's session")?;
    nix::unistd::chdir("/").doing("leave the monitor's directory")?;
    let turn = layout.run_network().join("sweep");
    create_private_dir(&turn)?;
    let Some(waiting) = Lock::try_exclusive(&turn)? else { return Ok(()) };
    std::thread::sleep(LINGER);
    // Before it looks who is there: whoever ends from here on starts the next.
    drop(waiting);
    host::remove_bridges(layout)
}
