//! What users type, turned into typed values at the door.
//!
//! Functions that take one `&str` serve as clap `value_parser`s; those that need more (the
//! caller's directory, environment or clock) take it as an argument and are called when the
//! command resolves its arguments. Only [`env::read_env_file`], [`env::read_label_file`] and
//! [`security::resolve`] read a file. Errors are in docker's words where docker has them.

pub mod build;
pub mod device;
pub mod env;
pub mod mount;
pub mod namespace;
pub mod network;
pub mod process;
pub mod security;
pub mod time;

pub use crate::state::size;
use crate::{
    build::lex::csv,
    error::{Error, Result},
};

/// What is between commas, as CSV: a part with a comma of its own stands in quotes.
pub fn fields(text: &str) -> Result<Vec<String>> {
    csv(text).ok_or_else(|| Error::invalid(format!("{text}: a quote is not closed")))
}

/// A truth as Go reads it (strconv.ParseBool), and so docker and podman.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
