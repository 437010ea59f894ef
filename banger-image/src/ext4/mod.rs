//! ext4 file systems: written without root, without `mke2fs`, and without a file on the host but
//! the image itself.

mod check;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod writer;

pub(crate) use check::{CheckError, check};
pub use writer::{Entry, EntryKind, Error, Metadata, Options, Special, Timestamp, Writer};
