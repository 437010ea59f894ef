//! Files of lzop(1), as Linux reads them (lib/decompress_unlzo.c). Checksums are passed over: the
//! kernel's own length tells whether all is there.

use std::io::{self, Read};

use super::blocks::{Blocks, compressed, invalid, lengthen};

/// How a file begins.
pub(super) const MAGIC: [u8; 9] = [0x89, b'L', b'Z', b'O', 0, b'\r', b'\n', 0x1a, b'\n'];
/// The first version whose header has a level, and a time of 64 bits.
const WITH_LEVEL: u16 = 0x0940;
/// The most bytes that a block has.
const MAX_BLOCK: usize = 256 << 10;

/// Bits of a header's flags.
mod flag {
    pub(super) const ADLER32_CONTENT: u32 = 1;
    pub(super) const ADLER32_COMPRESSED: u32 = 2;
    pub(super) const EXTRA_FIELD: u32 = 0x40;
    pub(super) const CRC32_CONTENT: u32 = 0x100;
    pub(super) const CRC32_COMPRESSED: u32 = 0x200;
    pub(super) const MULTIPART: u32 = 0x400;
    pub(super) const FILTER: u32 = 0x800;
}

/// A header, and blocks behind it.
pub(super) struct File<R> {
    source: R,
    /// `None` until the header is read.
    flags: Option<u32>,
}

impl<R: Read> File<R> {
    pub(super) fn new(source: R) -> File<R> {
        File { source, flags: None }
    }

    /// Reads the header, and returns its flags.
    fn header(&mut self) -> io::Result<u32> {
        let magic = self.array::<{ MAGIC.len() }>()?;
        if magic != MAGIC {
            return Err(invalid("it is no file of lzop"));
        }
        let version = u16::from_be_bytes(self.array()?);
        // The library's version.
        self.skip(2)?;
        if version >= WITH_LEVEL {
            // The version that is needed to read it.
            self.skip(2)?;
        }
        let [method] = self.array()?;
        if !(1..=3).contains(&method) {
            return Err(invalid("its method of lzop is not known"));
        }
        if version >= WITH_LEVEL {
            self.skip(1)?;
        }
        let flags = u32::from_be_bytes(self.array()?);
        if flags & (flag::FILTER | flag::MULTIPART) != 0 {
            return Err(invalid("its file of lzop has a filter or several parts"));
        }
        // Mode and time, with the time's upper half.
        self.skip(if version >= WITH_LEVEL { 12 } else { 8 })?;
        let [name] = self.array()?;
        // A checksum is behind the name.
        self.skip(u64::from(name) + 4)?;
        if flags & flag::EXTRA_FIELD != 0 {
            let length = u32::from_be_bytes(self.array()?);
            self.skip(u64::from(length) + 4)?;
        }
        Ok(flags)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        match io::copy(&mut (&mut self.source).take(length), &mut io::sink())? == length {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<R: Read> Blocks for File<R> {
    fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let flags = match self.flags {
            Some(flags) => flags,
            None => {
                let flags = self.header()?;
                *self.flags.insert(flags)
            }
        };
        let length = u32::from_be_bytes(self.array()?) as usize;
        if length == 0 {
            return Ok(0);
        }
        let packed_length = u32::from_be_bytes(self.array()?) as usize;
        if length > MAX_BLOCK || packed_length > length {
            return Err(invalid("a block of lzop has a length that none can have"));
        }
        let is_packed = packed_length < length;
        let of_content = [flag::ADLER32_CONTENT, flag::CRC32_CONTENT];
        let of_packed = [flag::ADLER32_COMPRESSED, flag::CRC32_COMPRESSED];
        let checksums = of_content.iter().chain(of_packed.iter().filter(|_| is_packed));
        self.skip(4 * checksums.filter(|flag| flags & **flag != 0).count() as u64)?;
        let packed = compressed(&mut self.source, packed_length)?;
        if !is_packed {
            *buffer = packed;
            return Ok(length);
        }
        lengthen(buffer, length);
        match lzokay::decompress::decompress(&packed, &mut buffer[..length]) {
            Ok(is) if is == length => Ok(length),
            Ok(_) => Err(invalid("a block of lzop is shorter than it says")),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a block of lzop: {error}"))),
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fixtures {
    use super::*;

    /// What lzop makes of `content`, with checksums of adler32 that are zeros.
    pub(crate) fn compressed(content: &[u8]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend([0x10, 0x30, 0x20, 0xa0, 0x09, 0x40, 3, 9]);
        file.extend((flag::ADLER32_CONTENT | flag::ADLER32_COMPRESSED).to_be_bytes());
        file.extend([0; 12]);
        file.extend([1, b'x', 0, 0, 0, 0]);
        for chunk in content.chunks(MAX_BLOCK) {
            let packed = lzokay::compress::compress(chunk).expect("an encoder");
            let is_packed = packed.len() < chunk.len();
            let packed = if is_packed { &packed } else { chunk };
            file.extend((chunk.len() as u32).to_be_bytes());
            file.extend((packed.len() as u32).to_be_bytes());
            file.extend(vec![0; if is_packed { 8 } else { 4 }]);
            file.extend(packed);
        }
        file.extend([0; 4]);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::payload::blocks::BlockReader;

    fn read(file: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        BlockReader::new(File::new(file)).read_to_end(&mut content).map(|_| content)
    }

    #[test]
    fn lying_header_or_block_is_an_error() {
        let file = fixtures::compressed(&[1; 1000]);
        assert_eq!(read(&file).unwrap(), [1; 1000]);
        let blocks = MAGIC.len() + 8 + 4 + 12 + 6;
        for (at, byte) in [
            (0, 0),
            (15, 9),
            (19, 8),
            (20, 0x40),
            (33, 255),
            (blocks, 1),
            (blocks + 2, 255),
            (blocks + 4, 1),
            (blocks + 6, 255),
        ] {
            let mut file = file.clone();
            file[at] = byte;
            assert!(read(&file).is_err(), "{at}");
        }
        for length in 0..file.len() {
            assert!(read(&file[..length]).is_err(), "{length}");
        }
    }
}
