//! The stream of contents: records read from frames as they come, and written where they are staged.

use std::fs::File;
use std::io::{self, Write};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::tree::{self, Stamp, Tree};
use crate::protocol::sync::{Digest, Kind, MAX_PATH, Record, RecordKind};

/// The longest head of a record: its path and a few numbers.
const MAX_HEAD: u32 = MAX_PATH as u32 + 64;

/// Reads records from the chunks that a channel brings. For a blocking thread.
pub(super) struct Contents {
    chunks: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Contents {
    pub(super) fn new(chunks: mpsc::Receiver<Bytes>) -> Self {
        Contents { chunks, chunk: Bytes::new() }
    }

    /// Makes sure that the current chunk is not empty; false at the end of the stream.
    fn fill(&mut self) -> bool {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return false,
            }
        }
        true
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            if !self.fill() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = self.chunk.len().min(buffer.len() - filled);
            self.chunk.copy_to_slice(&mut buffer[filled..filled + count]);
            filled += count;
        }
        Ok(())
    }

    /// The next record, or none where the stream ends between two.
    ///
    /// # Errors
    /// If the stream ends within a record, or is no record.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        if !self.fill() {
            return Ok(None);
        }
        let mut length = [0; 4];
        self.read(&mut length)?;
        let length = u32::from_le_bytes(length);
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if length > MAX_HEAD {
            return Err(bad("a record's head is too long"));
        }
        let mut head = vec![0; length as usize];
        self.read(&mut head)?;
        let record: Record = postcard::from_bytes(&head).map_err(|_| bad("a record's head is not understood"))?;
        let is_long_link = record.kind == RecordKind::Content(Kind::Link) && record.size > MAX_PATH as u64;
        if !tree::is_plain(&record.path) || is_long_link {
            return Err(bad("a record's path or target is not one"));
        }
        Ok(Some(record))
    }

    /// Copies the content of a record of `size` bytes into `file`, and returns its digest.
    fn copy(&mut self, size: u64, file: &mut File) -> io::Result<Digest> {
        let mut left = size;
        while left > 0 {
            if !self.fill() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(self.chunk.len());
            file.write_all(&self.chunk[..count])?;
            self.chunk.advance(count);
            left -= count as u64;
        }
        self.digest()
    }

    fn digest(&mut self) -> io::Result<Digest> {
        let mut digest = [0; 32];
        self.read(&mut digest)?;
        Ok(digest)
    }

    /// Writes a record's content at `path` of `tree`.
    pub(super) fn write(&mut self, record: &Record, tree: &mut Tree, path: &[u8]) -> io::Result<(Digest, Stamp)> {
        match record.kind {
            RecordKind::Content(Kind::Link) => {
                let mut target = vec![0; record.size as usize];
                self.read(&mut target)?;
                let digest = self.digest()?;
                Ok((digest, tree.link(path, &target, record.mtime_ns)?))
            }
            RecordKind::Folder => {
                tree.make_folder(path)?;
                let digest = self.digest()?;
                Ok((digest, Stamp { size: 0, mtime_ns: 0, ctime_ns: None }))
            }
            kind => {
                let mut file = tree.create(path, kind.permissions())?;
                let digest = self.copy(record.size, &mut file)?;
                Ok((digest, tree::finish(&file, record.mtime_ns)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(bytes: Vec<u8>, chunk: usize) -> Contents {
        let (send, receive) = mpsc::channel(1 << 16);
        for chunk in bytes.chunks(chunk) {
            send.try_send(Bytes::copy_from_slice(chunk)).unwrap();
        }
        Contents::new(receive)
    }

    fn wire(path: &[u8], content: &[u8], kind: Kind) -> Vec<u8> {
        let (kind, size) = (RecordKind::Content(kind), content.len() as u64);
        let head = postcard::to_stdvec(&Record { path: path.to_vec(), kind, mtime_ns: 1_500_000_000, size }).unwrap();
        let mut bytes = (head.len() as u32).to_le_bytes().to_vec();
        bytes.extend(head);
        bytes.extend_from_slice(content);
        bytes.extend(blake3::hash(content).as_bytes());
        bytes
    }

    #[test]
    fn records_are_read_across_any_chunks() {
        let bytes = [wire(b"a/b", b"hello", Kind::File(0o755)), wire(b"l", b"a/b", Kind::Link)].concat();
        for chunk in 1..bytes.len() {
            let folder = tempfile::tempdir().unwrap();
            let mut tree = Tree::open(folder.path()).unwrap();
            let mut contents = contents(bytes.clone(), chunk);
            while let Some(record) = contents.next().unwrap() {
                let (digest, stamp) = contents.write(&record, &mut tree, &record.path.clone()).unwrap();
                assert_eq!(stamp.mtime_ns, 1_500_000_000);
                assert_eq!(
                    tree.digest(
                        &record.path,
                        match record.kind {
                            RecordKind::Content(kind) => kind,
                            _ => unreachable!("only contents were sent"),
                        }
                    )
                    .unwrap(),
                    digest
                );
            }
            assert_eq!(std::fs::read(folder.path().join("l")).unwrap(), b"hello");
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error() {
        let bytes = wire(b"a", b"hello", Kind::File(0o644));
        for cut in 1..bytes.len() {
            let folder = tempfile::tempdir().unwrap();
            let mut tree = Tree::open(folder.path()).unwrap();
            let mut contents = contents(bytes[..cut].to_vec(), 7);
            let result = contents.next().and_then(|record| contents.write(&record.unwrap(), &mut tree, b"a"));
            assert!(result.is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn paths_that_leave_the_root_are_refused() {
        for path in [&b"../x"[..], b"/x", b"a//b", b"a/./b", b"", b"a/..", b"a\0b"] {
            assert!(contents(wire(path, b"", Kind::File(0o644)), 64).next().is_err(), "{path:?}");
        }
    }
}
