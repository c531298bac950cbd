//! The words of the OCI image, distribution and runtime specifications.
//!
//! **Invariant:** this module performs no I/O.

mod digest;

pub use digest::{Digest, DigestError, Hasher};
pub use oci_spec::{image, runtime};
