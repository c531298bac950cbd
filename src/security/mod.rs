//! What a container may do: capabilities, system calls, and the paths it may not see.
//!
//! **Invariant:** everything here is a decision and a value. Nothing does I/O, makes a system
//! call or applies anything; `run` hands these values to `sys`.

pub mod caps;
pub mod paths;
pub mod seccomp;
