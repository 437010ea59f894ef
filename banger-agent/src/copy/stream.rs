//! The reading end of a stream of entries, which believes nothing that it reads.

use std::io::Read;

use super::{CopyError, Entry, EntryKind, MAX_ENTRIES, MAX_HEAD, MAX_PIECE};
use crate::rooted_dir::{MAX_PATH, is_plain};

/// A piece of a file's content.
pub struct Piece {
    /// Where it belongs in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes; 0: the file ends at the offset.
    pub length: usize,
}

/// The entries of a copy, and the content of its files.
pub struct Entries<'a> {
    input: &'a mut dyn Read,
    is_folder: bool,
    count: u64,
    /// The length of the file that is read, as its entry has it, and how much of that was read.
    size: u64,
    end: u64,
}

impl<'a> Entries<'a> {
    /// Reads the entries of `input`. `is_folder` is whether the copied thing was announced as a
    /// directory.
    pub fn new(input: &'a mut dyn Read, is_folder: bool) -> Self {
        Entries { input, is_folder, count: 0, size: 0, end: 0 }
    }

    /// Reads the next entry; none where the stream ends. After a file, its content must be read
    /// first.
    ///
    /// # Errors
    /// [`CopyError::Stream`]; [`CopyError::Malformed`] for what no honest end sends: a path that
    /// leads elsewhere, another kind of thing than was announced, or more than [`MAX_ENTRIES`].
    pub fn entry(&mut self) -> Result<Option<Entry>, CopyError> {
        let Some(entry) = self.head()? else {
            // A copy has an entry at least.
            let ended = std::io::ErrorKind::UnexpectedEof;
            return if self.count > 0 { Ok(None) } else { Err(CopyError::Stream(ended.into())) };
        };
        let is_folder = matches!(entry.kind, EntryKind::Folder { .. });
        let is_hard_link = matches!(entry.kind, EntryKind::HardLink { .. });
        if self.count == 0 && (!entry.path.is_empty() || is_folder != self.is_folder || is_hard_link) {
            return Err(CopyError::Malformed("it is not what was announced"));
        }
        if self.count > 0 && (entry.path.is_empty() || !self.is_folder) {
            return Err(CopyError::Malformed("there is more than what was announced"));
        }
        if self.count == MAX_ENTRIES {
            return Err(CopyError::Malformed("there are more entries than a copy may have"));
        }
        self.count += 1;
        (self.size, self.end) = (0, 0);
        if let EntryKind::File { size, .. } = entry.kind {
            // off_t has a sign.
            if size > i64::MAX as u64 {
                return Err(CopyError::Malformed("a file is longer than a file can be"));
            }
            self.size = size;
        }
        Ok(Some(entry))
    }

    fn head(&mut self) -> Result<Option<Entry>, CopyError> {
        let mut length = [0; 4];
        // Nothing at all is an end; a part of a length is none.
        match self.input.read(&mut length).map_err(CopyError::Stream)? {
            0 => return Ok(None),
            read => self.input.read_exact(&mut length[read..]).map_err(CopyError::Stream)?,
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEAD {
            return Err(CopyError::Malformed("the head of an entry is too long"));
        }
        let mut head = vec![0; length];
        self.input.read_exact(&mut head).map_err(CopyError::Stream)?;
        let entry: Entry =
            postcard::from_bytes(&head).map_err(|_| CopyError::Malformed("the head of an entry is not understood"))?;
        if !entry.path.is_empty() && !is_plain(&entry.path) {
            return Err(CopyError::Malformed("a path leads elsewhere"));
        }
        match &entry.kind {
            EntryKind::Link { target } if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) => {
                Err(CopyError::Malformed("a link has no target"))
            }
            EntryKind::HardLink { target } if !is_plain(target) => {
                Err(CopyError::Malformed("a hard link leads elsewhere"))
            }
            _ => Ok(Some(entry)),
        }
    }

    /// Reads the next piece of the file's content into `buffer`.
    ///
    /// # Errors
    /// [`CopyError::Stream`], or [`CopyError::Malformed`] for one that is too long, lies before the
    /// one that came before, or reaches beyond the length that the file's entry has.
    pub fn piece(&mut self, buffer: &mut [u8; MAX_PIECE]) -> Result<Piece, CopyError> {
        let mut head = [0; 12];
        self.input.read_exact(&mut head).map_err(CopyError::Stream)?;
        let (offset, length) = head.split_at(8);
        let offset = u64::from_le_bytes(offset.try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        if length > MAX_PIECE || offset < self.end {
            return Err(CopyError::Malformed("a piece of a file is not where it can be"));
        }
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.size);
        self.end = end.ok_or(CopyError::Malformed("a file is longer than was announced"))?;
        self.input.read_exact(&mut buffer[..length]).map_err(CopyError::Stream)?;
        Ok(Piece { offset, length })
    }
}
