//! Asking before something is destroyed.

use std::io::BufRead as _;

use super::output;
use crate::error::{Context as _, Result};

/// Prints the warning and asks, as docker does. Whoever says nothing has not agreed.
pub(super) fn agrees(warning: &str) -> Result<bool> {
    output::print(&format!("WARNING! {warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).doing("read the answer")?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
