//! Files as a stream of entries: what a copy between host and guest sends, and both ends of it. They block.
//!
//! An entry is a 32-bit little-endian length, an [`Entry`] in postcard of that length, and, of a file, its content: pieces of a 64-bit
//! offset, a 32-bit length and that many bytes, in order and without overlap, so that holes stay holes; a piece of length 0, whose
//! offset is the file's length, is the last.
//!
//! The folder of an entry comes before it. The first entry is the copied thing itself, whose path is empty; if that is no folder, it is
//! also the last.
//!
//! The receiving end takes the other one for hostile: nothing is written outside the place that was named, no link is followed, nothing is
//! made but files, folders and links, and no program gets another user's rights.

mod receive;
mod send;

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

pub use self::receive::{Target, receive};
pub use self::send::{Opened, send};
use crate::beneath::{MAX_PATH, is_plain};
use crate::protocol::Bytes;

/// The longest head of an entry: two paths and a few numbers.
const MAX_HEAD: usize = 2 * MAX_PATH + 64;
/// The longest piece of content, in bytes.
pub const MAX_PIECE: usize = 64 << 10;

/// Why a copy was not made, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The file system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried: a verb.
        action: &'static str,
        /// What it was tried on.
        path: Bytes,
        /// What the system said.
        source: io::Error,
    },
    /// There is no place for it.
    #[error("cannot copy to `{path}`: {why}")]
    Place {
        /// The place.
        path: Bytes,
        /// What is wrong with it.
        why: &'static str,
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
    /// Relative to the copied thing; empty for that itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The modification time, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// What an [`Entry`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A folder with these permission bits.
    Folder {
        /// Of 0777.
        mode: u32,
    },
    /// A regular file with these permission bits.
    File {
        /// Of 0777.
        mode: u32,
        /// Its length when it was opened; it may come out otherwise.
        size: u64,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: Vec<u8>,
    },
}

/// A part of a file.
pub struct Piece {
    /// Where it belongs in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes; 0: the file ends at the offset.
    pub length: usize,
}

impl Entry {
    /// Writes the head.
    ///
    /// # Errors
    /// [`CopyError::Stream`].
    pub fn write(&self, out: &mut dyn Write) -> Result<(), CopyError> {
        let head = postcard::to_stdvec(self).expect("plain data has a postcard form");
        let written = out.write_all(&(head.len() as u32).to_le_bytes()).and_then(|()| out.write_all(&head));
        written.map_err(CopyError::Stream)
    }

    /// Reads a head; none where the stream ends.
    ///
    /// # Errors
    /// [`CopyError::Stream`], or [`CopyError::Malformed`] for what is none or has a path that leads elsewhere.
    pub fn read(input: &mut dyn Read) -> Result<Option<Entry>, CopyError> {
        let mut length = [0; 4];
        // Nothing at all is an end; a part of a length is none.
        match input.read(&mut length).map_err(CopyError::Stream)? {
            0 => return Ok(None),
            read => input.read_exact(&mut length[read..]).map_err(CopyError::Stream)?,
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEAD {
            return Err(CopyError::Malformed("the head of an entry is too long"));
        }
        let mut head = vec![0; length];
        input.read_exact(&mut head).map_err(CopyError::Stream)?;
        let entry: Entry =
            postcard::from_bytes(&head).map_err(|_| CopyError::Malformed("the head of an entry is not understood"))?;
        if !entry.path.is_empty() && !is_plain(&entry.path) {
            return Err(CopyError::Malformed("a path leads elsewhere"));
        }
        match &entry.kind {
            EntryKind::Link { target } if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) => {
                Err(CopyError::Malformed("a link has no target"))
            }
            _ => Ok(Some(entry)),
        }
    }
}

/// Writes a piece of a file's content; an empty one is the last.
///
/// # Errors
/// [`CopyError::Stream`].
///
/// # Panics
/// If it is longer than [`MAX_PIECE`].
pub fn write_piece(out: &mut dyn Write, offset: u64, bytes: &[u8]) -> Result<(), CopyError> {
    assert!(bytes.len() <= MAX_PIECE, "a piece of {} bytes", bytes.len());
    let mut head = [0; 12];
    head[..8].copy_from_slice(&offset.to_le_bytes());
    head[8..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.write_all(&head).and_then(|()| out.write_all(bytes)).map_err(CopyError::Stream)
}

/// Reads the next piece of a file's content into `buffer`. `end` is where the one before it ended.
///
/// # Errors
/// [`CopyError::Stream`], or [`CopyError::Malformed`] for one that is too long or lies before `end`.
pub fn read_piece(input: &mut dyn Read, end: u64, buffer: &mut [u8; MAX_PIECE]) -> Result<Piece, CopyError> {
    let mut head = [0; 12];
    input.read_exact(&mut head).map_err(CopyError::Stream)?;
    let (offset, length) = head.split_at(8);
    let offset = u64::from_le_bytes(offset.try_into().expect("eight bytes"));
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    if length > MAX_PIECE || offset < end || offset.checked_add(length as u64).is_none_or(|end| end > i64::MAX as u64) {
        return Err(CopyError::Malformed("a piece of a file is not where it can be"));
    }
    input.read_exact(&mut buffer[..length]).map_err(CopyError::Stream)?;
    Ok(Piece { offset, length })
}

#[cfg(test)]
mod tests;
