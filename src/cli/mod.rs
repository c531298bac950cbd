//! The command line: arguments, output, progress.
//!
//! **Invariant:** nothing here makes a decision that the engine could make.

pub mod output;
pub mod value;
