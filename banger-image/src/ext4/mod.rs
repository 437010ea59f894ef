//! Turns a tar stream into a read-only ext4 file system, without root.
//!
//! The entries are staged as ordinary files of the caller ([`Tree`]), `mke2fs -d` copies these, and one
//! `debugfs` script then gives the inodes what a caller without root cannot stage: owners, special mode
//! bits, device nodes and extended attributes. What the archive says about owners and devices never
//! touches the host's file system.

mod debugfs;
mod size;
#[cfg(test)]
mod tests;
mod tree;
mod write;
mod writer;

pub(crate) use tree::{Tree, relative};
pub(crate) use write::{require_tools, write};
pub use writer::{Entry, Error, Kind, Metadata, Options, Special, Timestamp, Writer};
