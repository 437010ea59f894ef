//! Tar archives from entries.

use std::io::{self, Read, Write};

use banger_agent::copy::{CopyError, Entries, EntryKind, MAX_PIECE};
use banger_agent::protocol::WireBytes;
use banger_agent::protocol::copy::{Copied, Source};
use banger_agent::rooted_dir::is_plain;
use tar::{Builder, EntryType, Header};

use super::super::rules::MODE;

/// Writes the entries that `input` reads as a tar archive, below the name of what is copied.
pub(in crate::copy) fn write(source: &Source, input: &mut dyn Read, out: &mut dyn Write) -> Result<Copied, CopyError> {
    let root = &source.name.0[..];
    if !source.contents && (!is_plain(root) || root.contains(&b'/')) {
        let why = "what is copied has no name of its own: give its path, or a path that ends with `/.`";
        return Err(CopyError::Place { path: "-".into(), why });
    }
    let mut copied = Copied::default();
    let mut builder = Builder::new(out);
    let mut entries = Entries::new(input, source.is_folder);
    while let Some(entry) = entries.entry()? {
        let path = match (source.contents, entry.path.is_empty()) {
            // The folder that is unpacked to.
            (true, true) => continue,
            (true, false) => entry.path,
            (false, true) => root.to_vec(),
            (false, false) => [root, b"/", &entry.path].concat(),
        };
        let mut header = Header::new_gnu();
        header.set_mtime(u64::try_from(entry.mtime_ns / 1_000_000_000).unwrap_or(0));
        header.set_uid(0);
        header.set_gid(0);
        let shown = WireBytes(path);
        let name = std::path::Path::new(shown.as_os_str());
        match entry.kind {
            EntryKind::Folder { mode } => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(mode & MODE);
                header.set_size(0);
                builder.append_data(&mut header, name, io::empty()).map_err(CopyError::Stream)?;
                copied.folders += 1;
            }
            EntryKind::Link { target } => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                let target = WireBytes(target);
                builder.append_link(&mut header, name, target.as_os_str()).map_err(CopyError::Stream)?;
                copied.links += 1;
            }
            EntryKind::HardLink { .. } => {
                return Err(CopyError::Malformed("a guest sends no hard links"));
            }
            EntryKind::File { mode, size } => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(mode & MODE);
                header.set_size(size);
                let mut content = Content::new(&mut entries, size);
                let appended = builder.append_data(&mut header, name, &mut content);
                if let Some(error) = content.failed.take() {
                    return Err(error);
                }
                appended.map_err(CopyError::Stream)?;
                content.drain()?;
                copied.bytes += content.bytes;
                copied.files += 1;
            }
        }
    }
    builder.into_inner().and_then(|out| out.flush()).map_err(CopyError::Stream)?;
    Ok(copied)
}

/// Reads a file's content, holes included, of the length in its header: a file that has become
/// shorter is filled up with zeros.
struct Content<'a, 'b> {
    entries: &'a mut Entries<'b>,
    size: u64,
    /// The offset in the file that is read next.
    at: u64,
    /// The next piece: its offset in the file, and its content; `None` after the last.
    piece: Option<(u64, usize)>,
    bytes: u64,
    buffer: Box<[u8; MAX_PIECE]>,
    failed: Option<CopyError>,
}

impl<'a, 'b> Content<'a, 'b> {
    fn new(entries: &'a mut Entries<'b>, size: u64) -> Self {
        Content { entries, size, at: 0, piece: Some((0, 0)), bytes: 0, buffer: Box::new([0; MAX_PIECE]), failed: None }
    }

    fn next_piece(&mut self) -> Result<(), CopyError> {
        let piece = self.entries.piece(&mut self.buffer)?;
        self.bytes += piece.length as u64;
        self.piece = (piece.length > 0).then_some((piece.offset, piece.length));
        Ok(())
    }

    fn drain(&mut self) -> Result<(), CopyError> {
        while self.piece.is_some() {
            self.next_piece()?;
        }
        Ok(())
    }
}

impl Read for Content<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.size - self.at).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        while let Some((offset, length)) = self.piece
            && offset + length as u64 <= self.at
        {
            if let Err(error) = self.next_piece() {
                self.failed = Some(error);
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let count = match self.piece {
            Some((offset, length)) if offset <= self.at => {
                let start = (self.at - offset) as usize;
                let count = wanted.min(length - start);
                buffer[..count].copy_from_slice(&self.buffer[start..start + count]);
                count
            }
            piece => {
                let hole = piece.map_or(u64::MAX, |(offset, _)| offset - self.at);
                let count = wanted.min(usize::try_from(hole).unwrap_or(usize::MAX));
                buffer[..count].fill(0);
                count
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}
