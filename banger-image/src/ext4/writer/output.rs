//! The image file: neighbouring blocks are gathered into large writes, and what is not written
//! stays a hole.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::allocator::Run;
use super::bytes::{BLOCK, BLOCK_LEN};

/// Bytes of one write: few enough to be in the processor's cache still when they are written.
const GATHERED: usize = 512 << 10;
/// A file's content is read in pieces of at least this, unless it ends.
const PIECE: usize = 128 << 10;

/// The image file, with a buffer of blocks that are written together.
pub(super) struct Output {
    file: File,
    /// Blocks that are not written yet, and behind them what was read ahead.
    gathered: Vec<u8>,
    /// Where the gathered blocks belong.
    first: u64,
    /// How many bytes are gathered: whole blocks.
    filled: usize,
}

impl Output {
    /// Takes over a file. What is in it already is given back to the host: all of it reads as zeros
    /// then.
    pub(super) fn new(file: File) -> io::Result<Output> {
        let length = file.metadata()?.len();
        if lseek(&file, 0, Whence::SeekData) != Err(nix::Error::ENXIO) {
            punch(&file, 0, length)?;
        }
        Ok(Output { file, gathered: vec![0; GATHERED], first: 0, filled: 0 })
    }

    /// Makes the file `bytes` long.
    pub(super) fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    /// Writes one block.
    pub(super) fn write(&mut self, block: u64, content: &[u8; BLOCK_LEN]) -> io::Result<()> {
        if self.filled == self.gathered.len() {
            self.flush()?;
        }
        self.gathered[self.filled..self.filled + BLOCK_LEN].copy_from_slice(content);
        self.keep(block, self.filled, BLOCK_LEN)
    }

    /// Reads a piece of `content` to behind the gathered blocks. Returns where it begins and how
    /// long it is: whole blocks, the last of them filled up with zeros, and how many bytes of that
    /// were read; fewer than a whole piece at the end only.
    pub(super) fn read(&mut self, content: &mut dyn Read) -> Result<Piece, ReadError> {
        if self.gathered.len() - self.filled < PIECE {
            self.flush().map_err(ReadError::Image)?;
        }
        let start = self.filled;
        let room = &mut self.gathered[start..];
        let mut bytes = 0;
        while bytes < room.len() {
            match content.read(&mut room[bytes..]) {
                Ok(0) => break,
                Ok(more) => bytes += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Content(error)),
            }
        }
        room[bytes..bytes.next_multiple_of(BLOCK_LEN)].fill(0);
        Ok(Piece { start, bytes, is_last: bytes < room.len() })
    }

    /// Block `index` of a piece.
    pub(super) fn peek(&self, piece: &Piece, index: usize) -> &[u8] {
        let start = piece.start + index * BLOCK_LEN;
        &self.gathered[start..start + BLOCK_LEN]
    }

    /// Says that `count` blocks of a piece, from its block `index` on, belong to `block` and those
    /// behind it. Blocks must be kept in their order in the piece.
    pub(super) fn keep_piece(&mut self, piece: &Piece, index: usize, count: usize, block: u64) -> io::Result<()> {
        self.keep(block, piece.start + index * BLOCK_LEN, count * BLOCK_LEN)
    }

    /// Gathers bytes that are in the buffer at `from`, which is never before the end of what is
    /// gathered.
    fn keep(&mut self, block: u64, from: usize, bytes: usize) -> io::Result<()> {
        if self.first + self.filled as u64 / BLOCK != block {
            self.flush()?;
            self.first = block;
        }
        if from != self.filled {
            self.gathered.copy_within(from..from + bytes, self.filled);
        }
        self.filled += bytes;
        Ok(())
    }

    /// Writes what is gathered.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.gathered[..self.filled], self.first * BLOCK)?;
        self.first += self.filled as u64 / BLOCK;
        self.filled = 0;
        Ok(())
    }

    /// Gives blocks that were written and are not used any more back to the host.
    pub(super) fn discard(&self, run: Run) -> io::Result<()> {
        punch(&self.file, run.start * BLOCK, run.length * BLOCK)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }
}

/// Part of a file's content in the buffer.
pub(super) struct Piece {
    start: usize,
    /// Bytes of content.
    pub(super) bytes: usize,
    /// Whether the content ends with it.
    pub(super) is_last: bool,
}

impl Piece {
    /// The blocks it takes.
    pub(super) fn blocks(&self) -> usize {
        self.bytes.div_ceil(BLOCK_LEN)
    }
}

/// Which side of [`Output::read`] failed.
pub(super) enum ReadError {
    Content(io::Error),
    Image(io::Error),
}

/// Makes a hole; its blocks read as zeros.
fn punch(file: &File, start: u64, bytes: u64) -> io::Result<()> {
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, mode, start.cast_signed(), bytes.cast_signed()) {
        Ok(()) => Ok(()),
        Err(nix::Error::EOPNOTSUPP) => zero(file, start, bytes),
        Err(error) => Err(error.into()),
    }
}

/// Writes zeros, on a file system of the host that cannot make holes.
fn zero(file: &File, mut at: u64, bytes: u64) -> io::Result<()> {
    let zeros = [0; 64 << 10];
    let end = at + bytes;
    while at < end {
        let length = (end - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..length as usize], at)?;
        at += length;
    }
    Ok(())
}
