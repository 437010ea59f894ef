//! ext4 file systems: written without root, without `mke2fs`, and without a file on the host but
//! the image itself.

mod check;
mod writer;

#[cfg(feature = "fuzzing")]
pub(crate) use check::checksum;
pub(crate) use check::{Unfit, check};
pub use writer::{Entry, Error, Kind, Metadata, Options, Special, Timestamp, Writer};
