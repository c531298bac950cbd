//! Keeping the store in order: how much it holds, whether it is whole, what can go.

pub mod check;
pub mod gc;
pub mod reset;
pub mod usage;
