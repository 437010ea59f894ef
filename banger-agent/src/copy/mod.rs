//! Files as a stream of entries: what a copy between host and guest sends, and both ends of it.
//! They block.
//!
//! An entry is a 32-bit little-endian length, an [`Entry`] in postcard of that length, and, of a
//! file, its content: pieces of a 64-bit offset, a 32-bit length and that many bytes, in order and
//! without overlap, so that holes stay holes; a piece of length 0, whose offset is the file's
//! length, is the last.
//!
//! The folder of an entry comes before it. The first entry is the copied thing itself, whose path
//! is empty; if that is no folder, it is also the last.
//!
//! The receiving end takes the other one for hostile: nothing is written outside the place that was
//! named, no link is followed, nothing is made but files, folders and links, no file becomes longer
//! than its entry says, and no program gets another user's rights. A host asks more ([`Rules`]),
//! and takes the name of what it copies from the path that it asked for ([`SourcePath`]).

mod receive;
mod send;
mod source_path;
mod stream;
mod unnamed;

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

pub use self::receive::{AsSent, Rules, Target, receive};
pub use self::send::{Opened, send};
pub use self::source_path::SourcePath;
pub use self::stream::{Entries, Piece};
use crate::protocol::WireBytes;
use crate::rooted_dir::MAX_PATH;

/// The longest head of an entry: two paths and a few numbers.
const MAX_HEAD: usize = 2 * MAX_PATH + 64;
/// The longest piece of content, in bytes.
pub const MAX_PIECE: usize = 64 << 10;
/// The most entries of a copy.
pub const MAX_ENTRIES: u64 = 1 << 24;

/// Why a copy was not made, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The file system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried: a verb.
        action: &'static str,
        /// What it was tried on.
        path: WireBytes,
        /// What the system said.
        source: io::Error,
    },
    /// The copy has no place to go.
    #[error("cannot copy to `{path}`: {why}")]
    Place {
        /// Where the copy was to go.
        path: WireBytes,
        /// What is wrong with that place.
        why: &'static str,
    },
    /// The rules of the receiving end do not admit it.
    #[error("`{path}` is not copied: {why}")]
    Refused {
        /// What is not copied.
        path: WireBytes,
        /// Which rule does not admit it.
        why: &'static str,
    },
    /// The agent announces something else than what it was asked for.
    #[error("the VM's agent was asked for {asked} and offers {offered}")]
    NotAsked {
        /// What the agent was asked for.
        asked: String,
        /// What the agent offers.
        offered: String,
    },
    /// The stream failed or ended.
    #[error("the stream of files broke: {0}")]
    Stream(io::Error),
    /// What the stream brings is no copy.
    #[error("the stream of files makes no sense: {0}")]
    Malformed(&'static str),
}

/// The head of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path relative to the copied thing; empty for the copied thing itself.
    pub path: Vec<u8>,
    /// What is at the path.
    pub kind: EntryKind,
    /// The modification time, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// What an [`Entry`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A directory.
    Folder {
        /// The permission bits, of 0777.
        mode: u32,
    },
    /// A regular file.
    File {
        /// The permission bits, of 0777.
        mode: u32,
        /// The length when it was opened, in bytes. The content may come out shorter, never longer.
        size: u64,
    },
    /// A symbolic link.
    Link {
        /// The path that the link leads to.
        target: Vec<u8>,
    },
    /// Another name of a file, or of a symbolic link, that came before: link(2). Only a host sends
    /// it.
    HardLink {
        /// The other name, a path as that of an [`Entry`].
        target: Vec<u8>,
    },
}

impl Entry {
    /// Writes the head of the entry.
    ///
    /// # Errors
    /// [`CopyError::Stream`].
    pub fn write(&self, out: &mut dyn Write) -> Result<(), CopyError> {
        let head = postcard::to_stdvec(self).expect("plain data has a postcard form");
        let written = out.write_all(&(head.len() as u32).to_le_bytes()).and_then(|()| out.write_all(&head));
        written.map_err(CopyError::Stream)
    }
}

/// Writes a piece of a file's content, which belongs at `offset` bytes. An empty piece is the last.
///
/// # Errors
/// [`CopyError::Stream`].
///
/// # Panics
/// If `bytes` is longer than [`MAX_PIECE`].
pub fn write_piece(out: &mut dyn Write, offset: u64, bytes: &[u8]) -> Result<(), CopyError> {
    assert!(bytes.len() <= MAX_PIECE, "a piece of {} bytes", bytes.len());
    let mut head = [0; 12];
    head[..8].copy_from_slice(&offset.to_le_bytes());
    head[8..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.write_all(&head).and_then(|()| out.write_all(bytes)).map_err(CopyError::Stream)
}

#[cfg(test)]
mod tests;
