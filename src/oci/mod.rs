//! The words of the OCI image, distribution and runtime specifications.
//!
//! **Invariant:** this module performs no I/O.

mod digest;
pub mod media_type;
mod platform;
mod reference;

pub use digest::{Digest, DigestError, Hasher};
pub use oci_spec::{image, runtime};
pub use platform::Platform;
pub use reference::{Reference, ReferenceError};
