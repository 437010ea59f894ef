//! ext4 file systems: written without root, without `mke2fs`, and without a file on the host but
//! the image itself.

mod archive;
mod check;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use archive::{add, relative, timestamp as pax_timestamp, unpack};
#[cfg(feature = "fuzzing")]
pub(crate) use check::checksum;
pub(crate) use check::{Unfit, check};
pub use writer::{Entry, Error, Kind, Metadata, Options, Special, Timestamp, Writer};
