//! The legacy frame of lz4, which `lz4 -l` makes: doc/lz4_Frame_format.md of lz4.

use std::io::{self, Read};

use super::blocks::{Blocks, compressed, invalid, lengthen};

/// How a frame begins, and where another one follows.
const MAGIC: u32 = 0x184c_2102;
/// The most bytes that a block has, decompressed and compressed.
const MAX_BLOCK: u64 = 8 << 20;
const MAX_COMPRESSED: usize = lz4_flex::block::get_maximum_output_size(MAX_BLOCK as usize);

/// Blocks behind a magic number, to the end of the source: nothing else says where they end.
pub(super) struct Frame<R> {
    source: R,
    /// The most bytes that a block may have here.
    max_block: usize,
}

impl<R: Read> Frame<R> {
    /// Reads `source`, which has at most `max` bytes when it is decompressed.
    pub(super) fn new(source: R, max: u64) -> Frame<R> {
        Frame { source, max_block: max.min(MAX_BLOCK) as usize }
    }
}

impl<R: Read> Blocks for Frame<R> {
    fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let length = loop {
            let mut length = [0; 4];
            let mut had = 0;
            while had < length.len() {
                match self.source.read(&mut length[had..])? {
                    0 if had == 0 => return Ok(0),
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => had += read,
                }
            }
            match u32::from_le_bytes(length) {
                MAGIC => {}
                length => break length as usize,
            }
        };
        if length == 0 || length > MAX_COMPRESSED {
            return Err(invalid("a block of lz4 has a length that none can have"));
        }
        let compressed = compressed(&mut self.source, length)?;
        // Nothing says how long the block is: the first one pays for the longest.
        lengthen(buffer, self.max_block);
        let block = &mut buffer[..self.max_block];
        match lz4_flex::block::decompress_into(&compressed, block).map_err(io::Error::other)? {
            0 => Err(invalid("a block of lz4 is empty")),
            length => Ok(length),
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fixtures {
    /// What `lz4 -l` makes of `content`.
    pub(crate) fn compressed(content: &[u8]) -> Vec<u8> {
        let blocks = content.chunks(super::MAX_BLOCK as usize).flat_map(|chunk| {
            let block = lz4_flex::block::compress(chunk);
            [(block.len() as u32).to_le_bytes().to_vec(), block].concat()
        });
        super::MAGIC.to_le_bytes().into_iter().chain(blocks).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::payload::blocks::BlockReader;

    fn read(frame: &[u8], max: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        BlockReader::new(Frame::new(frame, max)).read_to_end(&mut content).map(|_| content)
    }

    #[test]
    fn frames_of_several_blocks_are_read_one_behind_the_other() {
        let content = [vec![1; (8 << 20) + 5], b"text".to_vec()].concat();
        let frame = fixtures::compressed(&content);
        assert!(read(&[&frame[..], &frame].concat(), u64::MAX).unwrap() == [&content[..], &content].concat());
    }

    #[test]
    fn short_block_costs_nothing_of_the_longest_ones_length() {
        const BLOCKS: usize = 20_000;
        let block = fixtures::compressed(b"x");
        let frame = [&block[..4], &block[4..].repeat(BLOCKS)].concat();
        assert!(read(&frame, u64::MAX).unwrap() == vec![b'x'; BLOCKS]);
        let (mut frame, mut buffer) = (Frame::new(&frame[..], u64::MAX), Vec::new());
        assert_eq!(frame.next(&mut buffer).unwrap(), 1);
        assert_eq!(buffer.len(), MAX_BLOCK as usize);
        buffer.fill(7);
        for _ in 1..BLOCKS {
            assert_eq!(frame.next(&mut buffer).unwrap(), 1);
        }
        assert_eq!(frame.next(&mut buffer).unwrap(), 0);
        // What is behind a block was not written again for any.
        assert!(buffer.len() == MAX_BLOCK as usize && buffer[0] == b'x');
        assert!(buffer[buffer.len() / 2..].iter().all(|&byte| byte == 7));
    }

    #[test]
    fn block_that_lies_about_its_length_is_an_error() {
        let frame = fixtures::compressed(&[1; 1000]);
        assert_eq!(read(&frame, 1000).unwrap(), [1; 1000]);
        assert!(read(&frame, 999).is_err());
        for length in [0, 5, u32::MAX] {
            let mut frame = frame.clone();
            frame[4..8].copy_from_slice(&length.to_le_bytes());
            assert!(read(&frame, 1000).is_err(), "{length}");
        }
        assert!(read(&[&frame[..], &[1, 0]].concat(), 1000).is_err());
    }
}
