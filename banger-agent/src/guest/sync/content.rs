//! The stream of contents: records read from frames as they come, and written where they are
//! staged.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

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

    /// Passes the next `size` bytes on, in order.
    fn take(&mut self, size: u64, mut put: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            if !self.fill() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(self.chunk.len());
            put(&self.chunk[..count])?;
            self.chunk.advance(count);
            left -= count as u64;
        }
        Ok(())
    }

    /// Copies the content of a record of `size` bytes into `file`, and returns its digest.
    fn copy(&mut self, size: u64, file: &mut File) -> io::Result<Digest> {
        self.take(size, |bytes| file.write_all(bytes))?;
        self.digest()
    }

    /// Copies content in pieces ([`RecordKind::Sparse`]) into `file`, and returns its digest. What
    /// is no data stays a hole.
    fn copy_pieces(&mut self, size: u64, file: &File) -> io::Result<Digest> {
        let mut at = 0u64;
        while at < size {
            let (mut hole, mut length) = ([0; 8], [0; 4]);
            self.read(&mut hole)?;
            self.read(&mut length)?;
            let (hole, length) = (u64::from_le_bytes(hole), u64::from(u32::from_le_bytes(length)));
            let piece = hole.checked_add(length).filter(|piece| (1..=size - at).contains(piece));
            piece.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "a piece of a file is not where it can be")
            })?;
            at += hole;
            self.take(length, |bytes| {
                file.write_all_at(bytes, at)?;
                at += bytes.len() as u64;
                Ok(())
            })?;
        }
        file.set_len(size)?;
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
                let digest = match kind {
                    RecordKind::Sparse(_) => self.copy_pieces(record.size, &file)?,
                    _ => self.copy(record.size, &mut file)?,
                };
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
    fn records_are_read_across_any_chunking() {
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

    fn sparse_wire(size: u64, pieces: &[(u64, &[u8])]) -> Vec<u8> {
        let record = Record { path: b"a".to_vec(), kind: RecordKind::Sparse(0o640), mtime_ns: 0, size };
        let head = postcard::to_stdvec(&record).unwrap();
        let mut bytes = (head.len() as u32).to_le_bytes().to_vec();
        bytes.extend(head);
        for (hole, data) in pieces {
            bytes.extend(hole.to_le_bytes());
            bytes.extend((data.len() as u32).to_le_bytes());
            bytes.extend(*data);
        }
        bytes.extend([7; 32]);
        bytes
    }

    #[test]
    fn holes_are_received_as_holes() {
        use std::os::unix::fs::MetadataExt;

        let bytes = sparse_wire(1 << 30, &[(1 << 20, b"data"), (0, b" and more"), ((1 << 30) - (1 << 20) - 13, b"")]);
        for chunk in [1, 7, 4096] {
            let folder = tempfile::tempdir().unwrap();
            let mut tree = Tree::open(folder.path()).unwrap();
            let mut contents = contents(bytes.clone(), chunk);
            let record = contents.next().unwrap().unwrap();
            assert_eq!(contents.write(&record, &mut tree, b"a").unwrap().0, [7; 32]);
            let file = File::open(folder.path().join("a")).unwrap();
            let metadata = file.metadata().unwrap();
            assert_eq!((metadata.len(), metadata.mode() & 0o777), (1 << 30, 0o640));
            assert!(metadata.blocks() < 1024, "{}", metadata.blocks());
            let mut data = [0; 15];
            file.read_exact_at(&mut data, (1 << 20) - 1).unwrap();
            assert_eq!(&data, b"\0data and more\0");
        }
        for (size, pieces) in [
            (9, &[(0u64, &b""[..])][..]),
            (9, &[(10, b"")]),
            (9, &[(9, b"x")]),
            (9, &[(u64::MAX, b"x")]),
            (9, &[(0, b"ten bytes.")]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut tree = Tree::open(folder.path()).unwrap();
            let mut contents = contents(sparse_wire(size, pieces), 64);
            let record = contents.next().unwrap().unwrap();
            contents.write(&record, &mut tree, b"a").unwrap_err();
        }
    }

    #[test]
    fn truncated_stream_is_an_error() {
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
    fn paths_outside_the_root_are_refused() {
        for path in [&b"../x"[..], b"/x", b"a//b", b"a/./b", b"", b"a/..", b"a\0b"] {
            assert!(contents(wire(path, b"", Kind::File(0o644)), 64).next().is_err(), "{path:?}");
        }
    }
}
