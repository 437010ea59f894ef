//! Compressed streams: decompressed on a thread of their own, counted, and checked by their digest.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

/// Bytes that are handed over at a time, and how many times that may wait.
const PIECE: usize = 256 << 10;
const WAITING: usize = 8;
/// The largest window of zstd's that is kept in memory, as a power of two: what its own tools take
/// without being asked to.
const MAX_WINDOW: u32 = 27;
/// The most memory that xz may take, in bytes: twice what `xz -9` asks for (xz(1)).
const MAX_XZ_MEMORY: u64 = 130 << 20;
/// How long the magic numbers are.
const MAGIC: u64 = 10;

/// Decompresses `stream`: gzip (RFC 1952), bzip2, xz and zstd (RFC 8878) are recognised by their
/// magic numbers, and anything else is read unchanged. Memory is limited (128 MiB for a window of
/// zstd, 130 MiB for xz); the decompressed length is not.
///
/// # Errors
/// Errors of reading `stream`.
pub fn decompressed<'a>(mut stream: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = Vec::with_capacity(MAGIC as usize);
    stream.by_ref().take(MAGIC).read_to_end(&mut magic)?;
    let stream = BufReader::with_capacity(PIECE, Cursor::new(magic.clone()).chain(stream));
    Ok(match &magic[..] {
        [0x1f, 0x8b, ..] => Box::new(GzipMembers { current: Some(GzDecoder::new(stream)) }),
        // A frame, or one to skip before it (RFC 8878).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(stream)?;
            decoder.window_log_max(MAX_WINDOW)?;
            Box::new(decoder)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let decoder = Stream::new_stream_decoder(MAX_XZ_MEMORY, CONCATENATED).map_err(io::Error::from)?;
            Box::new(XzDecoder::new_stream(stream, decoder))
        }
        // With the magic number of a block, or of the end: a tar archive may begin with a file
        // `BZh…`.
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]
        | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90] => Box::new(MultiBzDecoder::new(stream)),
        _ => Box::new(stream),
    })
}

/// The members of a gzip stream, one behind the other (RFC 1952, 2.2). Zeros behind the last one
/// fill up a block of a medium, and are passed over as gzip(1) does.
struct GzipMembers<R> {
    current: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.current {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut rest) = self.current.take().map(GzDecoder::into_inner) else { break };
            let mut is_padded = false;
            let next = loop {
                let bytes = rest.fill_buf()?;
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                let next = bytes.get(zeros).copied();
                let is_end = bytes.is_empty();
                is_padded |= zeros > 0;
                rest.consume(zeros);
                if is_end || next.is_some() {
                    break next;
                }
            };
            match next {
                None => break,
                Some(0x1f) if !is_padded => self.current = Some(GzDecoder::new(rest)),
                Some(_) => {
                    let reason = "there is something behind the end of its gzip stream";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                }
            }
        }
        Ok(0)
    }
}

/// Lets `read` read the decompressed `packed`, and then reads the rest. Returns what `read`
/// returned, and the decompressed length in bytes.
///
/// # Errors
/// `too_large()` for more than `limit` decompressed bytes; [`Error::Image`] if these have another
/// digest than `digest`; errors of `packed` and of `read`.
pub(crate) fn read_decompressed<T>(
    packed: impl Read + Send,
    limit: u64,
    too_large: impl Fn() -> Error,
    digest: Option<Digest>,
    read: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<(T, u64)> {
    let (full, to_read) = sync_channel(WAITING);
    let (empty, to_fill) = sync_channel::<Vec<u8>>(WAITING);
    thread::scope(|scope| {
        let decompressing = scope.spawn(move || decompress(packed, limit, digest.is_some(), &full, &to_fill));
        let mut pieces = PieceReader { full: to_read, empty, current: Vec::new(), at: 0, bytes: 0, ended: false };
        let done = read(&mut pieces).and_then(|done| {
            io::copy(&mut pieces, &mut io::sink())?;
            Ok(done)
        });
        let bytes = pieces.bytes;
        drop(pieces);
        let unpacked = decompressing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if matches!(unpacked, Ok(Outcome::TooLarge)) {
            return Err(too_large());
        }
        // What the reader says of a stream that broke is a consequence.
        let unpacked = unpacked?;
        let done = done?;
        match (unpacked, digest) {
            (Outcome::Whole(Some(is)), Some(digest)) if is != digest => {
                let reason = format!("it unpacks to {is}, and should to {digest}");
                Err(Error::Image { what: "a layer".into(), reason })
            }
            _ => Ok((done, bytes)),
        }
    })
}

enum Outcome {
    Whole(Option<Digest>),
    TooLarge,
    /// Nobody reads any more.
    Abandoned,
}

fn decompress(
    packed: impl Read + Send,
    limit: u64,
    hashes: bool,
    full: &SyncSender<io::Result<Vec<u8>>>,
    to_fill: &Receiver<Vec<u8>>,
) -> io::Result<Outcome> {
    let mut hasher = hashes.then(Hasher::default);
    let mut total = 0;
    let fill = || -> io::Result<Option<Outcome>> {
        let mut reader = decompressed(packed)?;
        loop {
            let mut piece = to_fill.try_recv().unwrap_or_default();
            piece.clear();
            let read = (&mut reader).take(PIECE as u64).read_to_end(&mut piece)?;
            if read == 0 {
                return Ok(None);
            }
            total += read as u64;
            if total > limit {
                return Ok(Some(Outcome::TooLarge));
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&piece);
            }
            if full.send(Ok(piece)).is_err() {
                return Ok(Some(Outcome::Abandoned));
            }
        }
    };
    match fill() {
        Ok(Some(unpacked)) => Ok(unpacked),
        Ok(None) => Ok(Outcome::Whole(hasher.map(Hasher::finish))),
        Err(error) => {
            // The reader must not take what it has for all.
            let _ = full.send(Err(io::Error::new(error.kind(), error.to_string())));
            Err(error)
        }
    }
}

/// Reads the decompressed pieces as one stream.
struct PieceReader {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    bytes: u64,
    ended: bool,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() && !self.ended {
            match self.full.recv() {
                Ok(piece) => {
                    let used = std::mem::replace(&mut self.current, piece?);
                    // One too many is let go.
                    let _ = self.empty.try_send(used);
                    self.at = 0;
                    self.bytes += self.current.len() as u64;
                }
                Err(_) => self.ended = true,
            }
        }
        let length = buffer.len().min(self.current.len() - self.at);
        buffer[..length].copy_from_slice(&self.current[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8], limit: u64, digest: Option<Digest>) -> Result<Vec<u8>> {
        let too_large = || Error::ImageTooLarge { limit };
        let all = |stream: &mut dyn Read| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all)?;
            Ok(all)
        };
        read_decompressed(bytes, limit, too_large, digest, all).map(|(all, _)| all)
    }

    #[test]
    fn all_compressions_decode_to_the_same_bytes() {
        let content: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let (first, second) = content.split_at(100_000);
        let xz = |bytes: &[u8]| liblzma::encode_all(bytes, 6).unwrap();
        let bzip2 = |bytes: &[u8]| {
            let mut packed = Vec::new();
            bzip2::read::BzEncoder::new(bytes, bzip2::Compression::fast()).read_to_end(&mut packed).unwrap();
            packed
        };
        let forms = [
            content.clone(),
            gzip(&content),
            [gzip(first), gzip(second)].concat(),
            zstd::encode_all(&content[..], 3).unwrap(),
            [zstd::encode_all(first, 1).unwrap(), zstd::encode_all(second, 1).unwrap()].concat(),
            xz(&content),
            [xz(first), xz(second)].concat(),
            bzip2(&content),
            [bzip2(first), bzip2(second)].concat(),
        ];
        for form in &forms {
            assert!(read(form, content.len() as u64, Some(Digest::of(&content))).unwrap() == content);
        }
        // As zstd:chunked has it: frames, and their table in one that is skipped.
        let table = [&b"\x50\x2a\x4d\x18\x05\0\0\0"[..], b"table"].concat();
        let chunked = [&forms[4][..], &table].concat();
        assert!(read(&chunked, content.len() as u64, Some(Digest::of(&content))).unwrap() == content);
        assert_eq!(read(b"", 0, None).unwrap(), b"");
        assert!(read(&forms[1], 1 << 30, Some(Digest::of(b""))).unwrap_err().to_string().contains("unpacks to"));
        for form in &forms[1..] {
            read(&form[..form.len() - 5], 1 << 30, None).unwrap_err();
        }
        read(b"\xfd7zXZ\0...", 10, None).unwrap_err();
        assert_eq!(read(b"BZh9 is no archive", 100, None).unwrap(), b"BZh9 is no archive");
        assert_eq!(read(&bzip2(b""), 0, None).unwrap(), b"");
    }

    #[test]
    fn only_zeros_may_follow_a_gzip_stream() {
        let content = b"content".repeat(1000);
        for zeros in [1, 511, PIECE, 2 * PIECE + 1] {
            let padded = [gzip(&content), gzip(&content), vec![0; zeros]].concat();
            assert!(read(&padded, 1 << 20, None).unwrap() == content.repeat(2));
        }
        for rest in [&b"x"[..], b"\0\0x", b"\x1f", b"\0\x1f\x8b\x08"] {
            read(&[&gzip(&content), rest].concat(), 1 << 20, None).unwrap_err();
        }
    }

    #[test]
    fn decompression_bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 8 << 20]);
        assert!(bomb.len() < 100 << 10);
        let error = read(&bomb, 1 << 20, None).unwrap_err();
        assert!(matches!(error, Error::ImageTooLarge { limit: 1_048_576 }), "{error}");
        // A window of 2 GiB: a frame's header without anything in it (RFC 8878, 3.1.1.1).
        let error = read(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00], 1 << 20, None).unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{error}");
        // A dictionary of 1 GiB.
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(1 << 30);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let mut wide = Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
        let mut packed = Vec::with_capacity(1 << 10);
        wide.process_vec(b"x", &mut packed, liblzma::stream::Action::Finish).unwrap();
        let error = read(&packed, 1 << 20, None).unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{error}");
    }
}
