//! The per-user directory: where everything is, and how it is read and written safely.
//!
//! Files are the database. One directory per object, JSON inside, written whole to a temporary
//! name, synced and renamed; readers take no lock; a writer locks the one object it changes.
//! Nothing here starts or stops anything.

pub mod egress;
pub mod health;
pub mod journal;
pub mod layout;
pub mod name;
pub mod network;
pub mod project;
pub mod record;
pub mod restart;
pub mod secret;
pub mod size;
pub mod store;

pub use layout::Layout;
pub use name::ContainerId;
