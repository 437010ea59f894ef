//! Content that was added, read back from its blocks.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::Writer;
use super::bytes::BLOCK;
use super::error::Result;
use super::tree::{Content, Extent};

impl Writer {
    /// Reads the content of the regular file at `path`; `None` if none is there. The image file
    /// must be open for reading.
    ///
    /// # Errors
    /// [`Error::BadPath`](super::Error::BadPath),
    /// [`Error::NotADirectory`](super::Error::NotADirectory),
    /// [`Error::Image`](super::Error::Image).
    pub fn content<'a>(&'a mut self, path: &[u8]) -> Result<Option<impl Read + use<'a>>> {
        self.output.flush()?;
        let inode = self.tree.find(path)?.map(|id| self.tree.get(id));
        Ok(inode.and_then(|inode| match &inode.content {
            Content::File { size, extents } => Some(Reader { file: self.output.file(), extents, size: *size, at: 0 }),
            _ => None,
        }))
    }
}

struct Reader<'a> {
    file: &'a File,
    extents: &'a [Extent],
    size: u64,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let block = self.at / BLOCK;
        let before = self.extents.partition_point(|extent| u64::from(extent.logical) <= block);
        let within = before.checked_sub(1).map(|index| self.extents[index]).filter(|extent| block < extent.end());
        let next = self.extents.get(before).map(|extent| u64::from(extent.logical) * BLOCK);
        let end = within.map_or(next, |extent| Some(extent.end() * BLOCK)).unwrap_or(self.size).min(self.size);
        let length = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..length];
        let read = match within {
            Some(extent) => {
                let place = extent.run.start * BLOCK + self.at - u64::from(extent.logical) * BLOCK;
                self.file.read_at(buffer, place)?
            }
            None => {
                buffer.fill(0);
                length
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}
