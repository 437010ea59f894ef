//! Formats of blocks, each of which is compressed by itself.

use std::io::{self, Read};

/// The blocks of a stream.
pub(super) trait Blocks {
    /// Decompresses the next block into `block`, whatever that holds; at the end, leaves it empty.
    ///
    /// # Errors
    /// What is wrong with the block, or an error of reading.
    fn next(&mut self, block: &mut Vec<u8>) -> io::Result<()>;
}

/// Reads the content of blocks, one behind the other.
pub(super) struct BlockReader<B> {
    blocks: B,
    current: Vec<u8>,
    /// How much of the current block is read.
    at: usize,
    is_done: bool,
}

impl<B: Blocks> BlockReader<B> {
    pub(super) fn new(blocks: B) -> BlockReader<B> {
        BlockReader { blocks, current: Vec::new(), at: 0, is_done: false }
    }
}

impl<B: Blocks> Read for BlockReader<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() && !self.is_done {
            self.blocks.next(&mut self.current)?;
            self.at = 0;
            self.is_done = self.current.is_empty();
        }
        let read = (&self.current[self.at..]).read(buffer)?;
        self.at += read;
        Ok(read)
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
