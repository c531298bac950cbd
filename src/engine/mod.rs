//! What a user can ask for, one verb a file. Never prints.

pub mod doctor;
