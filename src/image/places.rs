//! Where a user's settings are, as the variables say.

use std::path::PathBuf;

/// What a variable names; empty is as good as unset.
pub(super) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The user's own `/etc/containers`: below `XDG_CONFIG_HOME`, or else below `HOME`.
pub(super) fn containers() -> Option<PathBuf> {
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    config.map(|config| config.join("containers"))
}
