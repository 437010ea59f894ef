//! Reads tar streams that may be hostile, such as layers of images, in the dialects that builders
//! of images write: ustar and pax (POSIX.1-2017, pax), and GNU tar's long names, large numbers and
//! sparse files (GNU tar manual, "Basic Tar Format" and "Storing Sparse Files").
//!
//! Own code, because a layer's extended attributes may hold any byte (file capabilities do),
//! because sparse files come in four formats, and because every length in a header needs a limit.
//! Trees that this host has built are read with the crate `tar`, by [`unpack`].

pub(crate) mod decompress;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod records;
pub(crate) mod unpack;

use std::io::{self, Read};

use self::records::{Records, Values};
use self::unpack::timestamp as pax_timestamp;
use crate::ext4::Timestamp;

const BLOCK: usize = 512;
/// The longest extended header or long name, the most that all extended headers of one entry may
/// have, and the most that all global headers of a stream may have, in bytes. A path has at most
/// 4096 bytes, an ext4 block of attributes as many.
const MAX_EXTENSION: u64 = 1 << 20;
/// The most headers of these kinds before one entry, and the most bytes of them. Writers use one of
/// each kind.
const MAX_EXTENSIONS: u32 = 1024;
const MAX_EXTENSIONS_LENGTH: u64 = 4 * MAX_EXTENSION;
/// The most pieces of a sparse file.
const MAX_PIECES: usize = 1 << 20;

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    File,
    /// Another name of a file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A FIFO.
    Fifo,
}

/// An entry's header. Its content is read from the [`Reader`].
#[derive(Debug)]
pub struct Entry {
    /// The path as the archive has it, without trailing slashes: it may be absolute and have `..`.
    pub path: Vec<u8>,
    /// The type.
    pub kind: Type,
    /// The target of a link; empty for other types.
    pub link: Vec<u8>,
    /// The permission bits, with setuid, setgid and sticky bits.
    pub mode: u16,
    /// The user id of the owner.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The modification time.
    pub mtime: Timestamp,
    /// Length of a file in bytes, holes included; 0 for other types.
    pub size: u64,
    /// The numbers of a device, major and minor.
    pub device: (u32, u32),
    /// Names and values of the extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Length of the extended headers, long names and sparse map of this entry, in bytes.
    pub extended: u64,
}

/// Reads a tar stream. A malformed stream is an error of the kind [`io::ErrorKind::InvalidData`].
pub struct Reader<R> {
    inner: R,
    /// Bytes of the current entry that are stored and not read yet, and how many fill up their last
    /// block.
    stored: u64,
    padding: u64,
    /// Where the current entry's stored bytes belong: pieces of offset and length, the next one
    /// last.
    pieces: Vec<(u64, u64)>,
    at: u64,
    size: u64,
    /// Bytes of the current entry's extended headers, long names and map of pieces.
    extended: u64,
    /// Values of the stream's global headers.
    global: Records,
}

impl<R: Read> Reader<R> {
    /// Reads an archive from `inner`.
    pub fn new(inner: R) -> Reader<R> {
        let global = Records::default();
        Reader { inner, stored: 0, padding: 0, pieces: Vec::new(), at: 0, size: 0, extended: 0, global }
    }

    /// Bytes that are stored of the current entry.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    /// How many bytes of a hole of the current entry come next.
    fn hole(&self) -> u64 {
        self.pieces.last().map_or(self.size, |(offset, _)| *offset) - self.at
    }

    /// Whether the current entry goes on with a hole.
    pub(crate) fn is_at_hole(&self) -> bool {
        self.hole() > 0
    }

    /// Skips a hole of the current entry, if one comes next, and returns its length in bytes.
    pub fn skip_hole(&mut self) -> u64 {
        let hole = self.hole();
        self.at += hole;
        hole
    }

    /// The underlying stream, which is at the start of the current entry's content if nothing of
    /// that was read.
    pub(crate) fn inner(&self) -> &R {
        &self.inner
    }

    /// The stream behind the archive.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; unread content of the current one is skipped. `None` at the end of the
    /// archive or of the stream.
    ///
    /// # Errors
    /// Of the kind [`io::ErrorKind::InvalidData`] for what is no tar stream or exceeds a limit;
    /// those of the stream.
    #[expect(clippy::should_implement_trait, reason = "an iterator would hide that errors are final")]
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut long_path = None;
        let mut long_link = None;
        let mut records = Records::default();
        self.extended = 0;
        for _ in 0..=MAX_EXTENSIONS {
            self.skip()?;
            let mut block = [0; BLOCK];
            if !self.read_header(&mut block)? {
                return match (long_path, long_link) {
                    (None, None) => Ok(None),
                    _ => Err(wrong("it ends behind a long name")),
                };
            }
            let header = Header(&block);
            let stored = header.size()?;
            match header.type_flag() {
                b'L' => long_path = Some(text(self.extension(stored)?)),
                b'K' => long_link = Some(text(self.extension(stored)?)),
                b'x' => records.add(&self.extension(stored)?)?,
                b'g' => {
                    let extension = self.extension(stored)?;
                    self.global.add(&extension)?;
                }
                flag => return self.entry(header, flag, &records, long_path, long_link).map(Some),
            }
        }
        Err(wrong("an entry with more than 1024 extended headers"))
    }

    fn entry(
        &mut self,
        header: Header<'_>,
        flag: u8,
        own: &Records,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Entry> {
        // Kept apart while this entry is read, so that nothing of it is copied.
        let global = std::mem::take(&mut self.global);
        let entry = self.entry_of(header, flag, Values { own, global: &global }, long_path, long_link);
        self.global = global;
        entry
    }

    fn entry_of(
        &mut self,
        header: Header<'_>,
        flag: u8,
        values: Values<'_>,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Entry> {
        let value = |key: &str| values.get(key);
        let number = |key: &str| values.number(key);
        let mut path = match (value("GNU.sparse.name").or_else(|| value("path")), long_path) {
            (Some(path), _) => path.to_vec(),
            (None, Some(path)) => path,
            (None, None) => header.path(),
        };
        let named_as_folder = path.ends_with(b"/");
        while path.ends_with(b"/") {
            path.pop();
        }
        let kind = match flag {
            // What writers before POSIX did.
            b'0' | 0 if named_as_folder => Type::Directory,
            b'0' | 0 | b'7' | b'S' => Type::File,
            b'1' => Type::HardLink,
            b'2' => Type::Symlink,
            b'3' => Type::CharacterDevice,
            b'4' => Type::BlockDevice,
            b'5' => Type::Directory,
            b'6' => Type::Fifo,
            other => return Err(wrong(&format!("it has an entry of the unknown type `{}`", other.escape_ascii()))),
        };
        let id = |key: &str, field: io::Result<i64>| -> io::Result<u32> {
            let id = match number(key)? {
                Some(id) => i64::try_from(id).unwrap_or(i64::MAX),
                None => field?,
            };
            u32::try_from(id).map_err(|_| wrong("an entry's owner is negative, or beyond 32 bits"))
        };
        let mtime = match value("mtime") {
            Some(value) => {
                str::from_utf8(value).ok().and_then(pax_timestamp).ok_or_else(|| wrong("a time is no number"))?
            }
            None => Timestamp { seconds: header.number(136, 12)?, nanoseconds: 0 },
        };
        let entry = Entry {
            kind,
            link: value("linkpath")
                .map(<[u8]>::to_vec)
                .or(long_link)
                .unwrap_or_else(|| text(block_field(header.0, 157, 100))),
            mode: (header.number(100, 8)? & 0o7777) as u16,
            uid: id("uid", header.number(108, 8))?,
            gid: id("gid", header.number(116, 8))?,
            mtime,
            size: 0,
            device: match kind {
                Type::CharacterDevice | Type::BlockDevice => (header.device(329)?, header.device(337)?),
                _ => (0, 0),
            },
            path,
            xattrs: values.xattrs(),
            extended: 0,
        };
        if kind == Type::File {
            let stored = number("size")?.map_or_else(|| header.size(), Ok)?;
            self.begin(stored)?;
            self.place(header, flag, values)?;
        }
        Ok(Entry { size: self.size, extended: self.extended, ..entry })
    }

    /// Says where the stored bytes of a file belong.
    fn place(&mut self, header: Header<'_>, flag: u8, values: Values<'_>) -> io::Result<()> {
        let number = |key: &str| values.number(key);
        let version = (number("GNU.sparse.major")?, number("GNU.sparse.minor")?);
        let real_size = match number("GNU.sparse.realsize")? {
            None => number("GNU.sparse.size")?,
            size => size,
        };
        let (mut pieces, size) = if flag == b'S' {
            let size = u64::try_from(header.number(483, 12)?).map_err(|_| wrong("a negative size"))?;
            (self.old_gnu_pieces(header)?, size)
        } else if let (Some(1), Some(size)) = (version.0, real_size) {
            (self.pieces_before_content()?, size)
        } else if let (Some(map), Some(size)) = (values.get("GNU.sparse.map"), real_size) {
            let numbers = map.split(|&byte| byte == b',').map(decimal).collect::<io::Result<Vec<_>>>()?;
            (numbers.chunks(2).map(|pair| (pair[0], pair.get(1).copied().unwrap_or(0))).collect(), size)
        } else if let (Some(pieces), Some(size)) = (values.pieces(), real_size) {
            (pieces, size)
        } else {
            self.size = self.stored;
            self.pieces = vec![(0, self.stored)];
            return Ok(());
        };
        pieces.retain(|piece| piece.1 > 0);
        let mut end = 0u64;
        let mut sum = 0u64;
        for &(offset, length) in &pieces {
            let next = offset.checked_add(length).filter(|next| offset >= end && *next <= size);
            end = next.ok_or_else(|| wrong("the pieces of a sparse file overlap, or lie outside of it"))?;
            sum += length;
        }
        if sum != self.stored {
            return Err(wrong("a sparse file has more or fewer bytes than its pieces"));
        }
        pieces.reverse();
        self.pieces = pieces;
        self.size = size;
        Ok(())
    }

    /// The map of GNU's old sparse format: four pieces in the header, and blocks of 21 behind it.
    fn old_gnu_pieces(&mut self, header: Header<'_>) -> io::Result<Vec<(u64, u64)>> {
        let mut pieces = Vec::new();
        let mut read = |block: &[u8; BLOCK], start: usize, count: usize| -> io::Result<()> {
            for index in 0..count {
                let number = |at: usize| {
                    u64::try_from(Header(block).number(at, 12)?).map_err(|_| wrong("a negative place in a sparse file"))
                };
                let at = start + index * 24;
                if block[at] != 0 {
                    pieces.push((number(at)?, number(at + 12)?));
                }
            }
            if pieces.len() > MAX_PIECES {
                return Err(wrong("a sparse file of too many pieces"));
            }
            Ok(())
        };
        read(header.0, 386, 4)?;
        let mut more = header.0[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            self.inner.read_exact(&mut block)?;
            self.extended += BLOCK as u64;
            read(&block, 0, 21)?;
            more = block[504] != 0;
        }
        Ok(pieces)
    }

    /// The map of GNU's sparse format 1.0: decimal numbers, a line each, in whole blocks before the
    /// content.
    fn pieces_before_content(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut numbers = Vec::new();
        let mut digits = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            let mut block = [0; BLOCK];
            self.stored = self.stored.checked_sub(BLOCK as u64).ok_or_else(|| wrong("a sparse file without a map"))?;
            self.inner.read_exact(&mut block)?;
            self.extended += BLOCK as u64;
            for byte in block {
                match byte {
                    b'\n' if numbers.len() < wanted => {
                        numbers.push(decimal(&digits)?);
                        digits.clear();
                        if numbers.len() == 1 {
                            let pieces = usize::try_from(numbers[0]).ok().filter(|pieces| *pieces <= MAX_PIECES);
                            wanted = 1 + 2 * pieces.ok_or_else(|| wrong("a sparse file of too many pieces"))?;
                        }
                    }
                    byte if numbers.len() < wanted && digits.len() < 20 => digits.push(byte),
                    _ if numbers.len() < wanted => return Err(wrong("a sparse file's map is not made of numbers")),
                    _ => {}
                }
            }
        }
        Ok(numbers[1..].chunks(2).map(|pair| (pair[0], pair[1])).collect())
    }

    /// The whole content of an extended header or long name.
    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(wrong("an extended header of more than 1 MiB"));
        }
        self.extended += size;
        if self.extended > MAX_EXTENSIONS_LENGTH {
            return Err(wrong("an entry with extended headers of more than 4 MiB"));
        }
        self.begin(size)?;
        let mut content = vec![0; size as usize];
        self.inner.read_exact(&mut content)?;
        self.stored = 0;
        Ok(content)
    }

    fn begin(&mut self, stored: u64) -> io::Result<()> {
        let whole = stored.checked_next_multiple_of(BLOCK as u64).filter(|whole| i64::try_from(*whole).is_ok());
        self.padding = whole.ok_or_else(|| wrong("an entry larger than a file can be"))? - stored;
        self.stored = stored;
        Ok(())
    }

    /// Passes over what is left of an entry.
    fn skip(&mut self) -> io::Result<()> {
        let mut pass = |left: u64| io::copy(&mut (&mut self.inner).take(left), &mut io::sink());
        if pass(self.stored)? < self.stored {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // umoci 0.4 leaves out what fills up the last block of all, and other readers do not mind.
        pass(self.padding)?;
        (self.stored, self.padding, self.at, self.size) = (0, 0, 0, 0);
        self.pieces.clear();
        Ok(())
    }

    /// Reads a header; false at the end, which is a block of zeros or just the end.
    fn read_header(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut read = 0;
        while read < BLOCK {
            match self.inner.read(&mut block[read..]) {
                Ok(0) if read == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if block.iter().all(|&byte| byte == 0) {
            return Ok(false);
        }
        let sum = |byte: fn(u8) -> i64| -> i64 {
            let field = 148..156;
            block.iter().enumerate().map(|(at, &b)| if field.contains(&at) { 32 } else { byte(b) }).sum()
        };
        let written = Header(block).number(148, 8)?;
        // Some writers summed up signed characters.
        if written != sum(i64::from) && written != sum(|b| i64::from(b.cast_signed())) {
            return Err(wrong("a header's checksum is not its checksum"));
        }
        Ok(true)
    }
}

impl<R: Read> Read for Reader<R> {
    /// The content of the current entry, holes included.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.size - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..length];
        let read = match self.pieces.last_mut() {
            Some((offset, left)) if *offset <= self.at => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(length);
                let read = self.inner.read(&mut buffer[..length])?;
                self.stored -= read as u64;
                *left -= read as u64;
                *offset += read as u64;
                if *left == 0 {
                    self.pieces.pop();
                }
                read
            }
            _ => {
                let length = usize::try_from(self.hole()).unwrap_or(usize::MAX).min(length);
                buffer[..length].fill(0);
                length
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}

/// A header block.
#[derive(Clone, Copy)]
struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn type_flag(self) -> u8 {
        self.0[156]
    }

    fn path(self) -> Vec<u8> {
        let name = text(block_field(self.0, 0, 100));
        // GNU's headers have other things in the place of the prefix.
        let prefix = text(block_field(self.0, 345, 155));
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() { [&prefix[..], b"/", &name].concat() } else { name }
    }

    fn size(self) -> io::Result<u64> {
        u64::try_from(self.number(124, 12)?).map_err(|_| wrong("an entry with a negative size"))
    }

    fn device(self, at: usize) -> io::Result<u32> {
        u32::try_from(self.number(at, 8)?).map_err(|_| wrong("a device's number is negative, or beyond 32 bits"))
    }

    /// A number in octal digits, or with the first bit set in binary (GNU).
    fn number(self, at: usize, length: usize) -> io::Result<i64> {
        let field = &self.0[at..at + length];
        if field[0] & 0x80 != 0 {
            let is_negative = field[0] & 0x40 != 0;
            let first = if is_negative { i128::from(field[0]) - 256 } else { i128::from(field[0] & 0x7f) };
            let number = field[1..].iter().try_fold(first, |number, &byte| {
                number.checked_mul(256).and_then(|number| number.checked_add(i128::from(byte)))
            });
            return number
                .and_then(|number| i64::try_from(number).ok())
                .ok_or_else(|| wrong("a number beyond 63 bits"));
        }
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(length);
        let digits = field[..end].trim_ascii();
        if digits.is_empty() {
            return Ok(0);
        }
        let number = str::from_utf8(digits).ok().and_then(|digits| i64::from_str_radix(digits, 8).ok());
        number.ok_or_else(|| wrong("a header with an invalid number"))
    }
}

fn block_field(block: &[u8; BLOCK], at: usize, length: usize) -> Vec<u8> {
    block[at..at + length].to_vec()
}

/// What stands before the first NUL.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

fn decimal(digits: &[u8]) -> io::Result<u64> {
    let number = str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|digits| digits.parse().ok()).ok_or_else(|| wrong("a number is none, or beyond 64 bits"))
}

fn wrong(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

#[cfg(test)]
pub(crate) mod tests;
