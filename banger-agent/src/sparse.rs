//! Sparse files: where their data are, and a digest of a content that passes over what is zero.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::protocol::sync::Digest;

/// What [`ContentHasher`] passes over: blocks of so many zeros, at multiples of that.
const BLOCK: u64 = 64 << 10;
/// Of BLAKE3's key derivation: no content has the digest of one with runs of zeros.
const CONTEXT: &str = "banger 2026-11-30 content with runs of zeros";

/// Where the next data of a file are, as start and end; none: up to `limit` there is nothing more
/// but a hole. A file system that knows no holes has data only (lseek(2), SEEK_DATA).
pub fn next_data(file: &File, offset: u64, limit: u64) -> Option<(u64, u64)> {
    let start = match lseek(file.as_fd(), offset as i64, Whence::SeekData) {
        Ok(start) => start as u64,
        Err(Errno::ENXIO) => return None,
        Err(_) => return Some((offset, limit)),
    };
    let end = lseek(file.as_fd(), start as i64, Whence::SeekHole).map_or(limit, |end| end as u64);
    (start < limit).then_some((start, end.min(limit)))
}

/// Reads a file up to a length. Holes are known without being read.
#[derive(Debug)]
pub struct SparseReader<'a> {
    file: &'a File,
    at: u64,
    size: u64,
    /// Where the next data begin and end.
    data: (u64, u64),
    is_sparse: bool,
    holes: u64,
}

impl<'a> SparseReader<'a> {
    /// Reads `file` from its beginning to the length that it has now.
    ///
    /// # Errors
    /// fstat(2)'s.
    pub fn new(file: &'a File) -> io::Result<SparseReader<'a>> {
        let metadata = file.metadata()?;
        let size = metadata.len();
        // As many blocks as content: there is nothing to look for.
        let is_sparse = metadata.blocks().saturating_mul(512) < size;
        let data = if is_sparse { (0, 0) } else { (0, size) };
        Ok(SparseReader { file, at: 0, size, data, is_sparse, holes: 0 })
    }

    /// The length that the file had.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it may have holes.
    pub fn is_sparse(&self) -> bool {
        self.is_sparse
    }

    /// How many bytes of holes were passed over or read so far.
    pub fn holes(&self) -> u64 {
        self.holes
    }

    /// How many bytes of a hole come next.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file has become shorter.
    fn hole(&mut self) -> io::Result<u64> {
        if self.at >= self.data.1 && self.at < self.size {
            self.data = next_data(self.file, self.at, self.size).unwrap_or((self.size, self.size));
            if self.data.0 == self.size && self.file.metadata()?.len() < self.size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.data.0.saturating_sub(self.at))
    }

    /// Passes over a hole, if one comes next, and returns its length.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file has become shorter.
    pub fn skip_hole(&mut self) -> io::Result<u64> {
        let hole = self.hole()?;
        self.at += hole;
        self.holes += hole;
        Ok(hole)
    }
}

impl Read for SparseReader<'_> {
    /// Reads what comes next, holes as zeros.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let hole = self.hole()?;
        let length = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = if hole > 0 {
            let length = length(hole);
            buffer[..length].fill(0);
            self.holes += length as u64;
            length
        } else {
            let length = length(self.data.1 - self.at);
            self.file.read_at(&mut buffer[..length], self.at)?
        };
        self.at += read as u64;
        Ok(read)
    }
}

/// The digest of a content: BLAKE3 of its bytes or, of one that has whole blocks of zeros, of the
/// other bytes and where the zeros are. So it depends on the content alone, and not on where a file
/// system has holes, and a hole costs nothing.
#[derive(Debug, Default)]
pub struct ContentHasher {
    /// Of all bytes but those that were passed over.
    bytes: blake3::Hasher,
    /// Start and length of each run that was passed over.
    runs: Option<blake3::Hasher>,
    at: u64,
    /// Zeros at the beginning of the current block that `bytes` has not got.
    pending: u64,
    /// Where a run of blocks began that goes on until the current block.
    run: Option<u64>,
}

impl ContentHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let in_block = self.at % BLOCK;
            let (part, rest) = bytes.split_at(bytes.len().min((BLOCK - in_block) as usize));
            bytes = rest;
            if self.pending == in_block && part.iter().all(|byte| *byte == 0) {
                self.pend(part.len() as u64);
                continue;
            }
            self.end_run();
            self.hash_pending();
            self.bytes.update(part);
            self.at += part.len() as u64;
        }
    }

    /// Takes so many zeros.
    pub fn skip(&mut self, mut zeros: u64) {
        while zeros > 0 {
            let in_block = self.at % BLOCK;
            if in_block == 0 && self.pending == 0 && zeros >= BLOCK {
                let whole = zeros - zeros % BLOCK;
                self.run.get_or_insert(self.at);
                self.at += whole;
                zeros -= whole;
                continue;
            }
            let part = zeros.min(BLOCK - in_block);
            if self.pending == in_block {
                self.pend(part);
            } else {
                self.bytes.update(&ZEROS[..part as usize]);
                self.at += part;
            }
            zeros -= part;
        }
    }

    /// The digest of all that was taken.
    pub fn finish(mut self) -> Digest {
        self.end_run();
        self.hash_pending();
        let bytes = self.bytes.finalize();
        match self.runs {
            None => *bytes.as_bytes(),
            Some(mut runs) => *runs.update(bytes.as_bytes()).update(&self.at.to_le_bytes()).finalize().as_bytes(),
        }
    }

    /// Notes zeros of a block that may be nothing else.
    fn pend(&mut self, zeros: u64) {
        self.at += zeros;
        self.pending += zeros;
        if self.pending == BLOCK {
            self.run.get_or_insert(self.at - BLOCK);
            self.pending = 0;
        }
    }

    fn end_run(&mut self) {
        if let Some(start) = self.run.take() {
            let end = self.at - self.pending;
            let runs = self.runs.get_or_insert_with(|| blake3::Hasher::new_derive_key(CONTEXT));
            runs.update(&start.to_le_bytes()).update(&(end - start).to_le_bytes());
        }
    }

    fn hash_pending(&mut self) {
        self.bytes.update(&ZEROS[..self.pending as usize]);
        self.pending = 0;
    }
}

static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// The digest of these bytes, as [`ContentHasher`] has it.
pub fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = ContentHasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// The digest of a file's content, as [`ContentHasher`] has it.
///
/// # Errors
/// If it cannot be read, or becomes shorter meanwhile.
pub fn digest_file(file: &File) -> io::Result<Digest> {
    let mut reader = SparseReader::new(file)?;
    let mut hasher = ContentHasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        hasher.skip(reader.skip_hole()?);
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_without_zero_blocks_has_plain_blake3_digest() {
        let block = BLOCK as usize;
        let mut straddling = vec![1; 3 * block];
        straddling[block / 2..block + block / 2].fill(0);
        for content in [vec![], vec![0], vec![0; block - 1], vec![7; 3 * block], straddling] {
            assert_eq!(digest(&content), *blake3::hash(&content).as_bytes());
        }
        for zeros in [block, 2 * block, 2 * block + 5] {
            assert_ne!(digest(&vec![0; zeros]), *blake3::hash(&vec![0; zeros]).as_bytes());
        }
    }

    #[test]
    fn holes_are_digested_without_reading() {
        let file = tempfile::tempfile().unwrap();
        let digest_of = |size: u64| {
            file.set_len(size).unwrap();
            digest_file(&file).unwrap()
        };
        let start = Instant::now();
        let (one, other) = (digest_of(1 << 40), digest_of((1 << 40) + 1));
        file.write_all_at(b"x", 1 << 39).unwrap();
        let changed = digest_of(1 << 40);
        assert!(one != other && one != changed && other != changed);
        // A tebibyte of zeros could not be read in this time.
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn digest_depends_only_on_content(
            parts in prop::collection::vec((any::<bool>(), 0..3 * BLOCK as usize), 1..6),
            chunk in 1..300_000usize,
        ) {
            let content: Vec<u8> = parts.iter().flat_map(|(data, length)| vec![u8::from(*data); *length]).collect();
            let (mut chunked, mut skipped) = (ContentHasher::default(), ContentHasher::default());
            content.chunks(chunk).for_each(|bytes| chunked.update(bytes));
            for (data, length) in &parts {
                if *data { skipped.update(&vec![1; *length]) } else { skipped.skip(*length as u64) }
            }
            let file = tempfile::tempfile().unwrap();
            file.set_len(content.len() as u64).unwrap();
            let mut at = 0;
            for (data, length) in &parts {
                if *data { file.write_all_at(&vec![1; *length], at).unwrap() }
                at += *length as u64;
            }
            let whole = digest(&content);
            prop_assert_eq!(chunked.finish(), whole);
            prop_assert_eq!(skipped.finish(), whole);
            prop_assert_eq!(digest_file(&file).unwrap(), whole);
            let (mut reader, mut read) = (SparseReader::new(&file).unwrap(), Vec::new());
            reader.read_to_end(&mut read).unwrap();
            prop_assert!(read == content);
            // One byte more or less is another content.
            if let Some(last) = content.iter().position(|byte| *byte == 1) {
                let mut other = content.clone();
                other[last] = 0;
                prop_assert_ne!(digest(&other), whole);
            }
            prop_assert_ne!(digest(&[&content[..], &[0]].concat()), whole);
        }
    }
}
