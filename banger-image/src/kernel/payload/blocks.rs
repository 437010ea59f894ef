//! Formats of blocks, each of which is compressed by itself.

use std::io::{self, Read};

/// The blocks of a stream.
pub(super) trait Blocks {
    /// Decompresses the next block to the beginning of `buffer`, and returns its length: 0 at the
    /// end. `buffer` is the one of the block before, and grows where it is too short; it is not
    /// cleared, so that a block costs no more than what it has.
    ///
    /// # Errors
    /// What is wrong with the block, or an error of reading.
    fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize>;
}

/// Reads the content of blocks, one behind the other.
pub(super) struct BlockReader<B> {
    blocks: B,
    /// The current block, and behind it what earlier ones have left.
    buffer: Vec<u8>,
    /// The length of the current block.
    length: usize,
    /// How much of the current block is read.
    at: usize,
    is_done: bool,
}

impl<B: Blocks> BlockReader<B> {
    pub(super) fn new(blocks: B) -> BlockReader<B> {
        BlockReader { blocks, buffer: Vec::new(), length: 0, at: 0, is_done: false }
    }
}

impl<B: Blocks> Read for BlockReader<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.length && !self.is_done {
            // After an error there is no current block.
            (self.at, self.length) = (0, 0);
            self.length = self.blocks.next(&mut self.buffer)?;
            self.is_done = self.length == 0;
        }
        let read = (&self.buffer[self.at..self.length]).read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

/// Makes a buffer at least so long.
pub(super) fn lengthen(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
}

/// Reads the `length` bytes of a compressed block.
pub(super) fn compressed(source: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

pub(super) fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
