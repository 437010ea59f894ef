//! The payload of a bzImage: the kernel, compressed by one of the programs that its build can use
//! (arch/x86/boot/compressed/Makefile of Linux).

mod blocks;
mod lz4;
mod lzo;

use std::io::{self, BufRead, Cursor, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;

use self::blocks::BlockReader;

/// Bytes at the end of a payload that say how long the kernel is: gzip has them itself
/// (RFC 1952), and Linux appends them to what the others make.
pub(super) const LENGTH: u64 = 4;
/// How much of a payload tells how it is compressed, in bytes.
pub(super) const MAGIC: usize = 9;
/// The largest window of zstd, as a power of two: what `zstd -22` makes, as Linux's build calls it.
const MAX_WINDOW: u32 = 27;
/// The most memory that xz and lzma may take, in bytes: a little more than the largest dictionary
/// that Linux's build asks for, 128 MiB (scripts/xz_wrap.sh).
const MAX_XZ_MEMORY: u64 = 136 << 20;

/// Decompresses a payload that begins with `magic`, the rest of which is `rest`: one frame, member
/// or stream; what is behind it is not read. A block of it has at most `max` bytes. Memory is
/// limited; the decompressed length is not.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] if it is compressed in another way.
pub(super) fn decompressed<'a>(
    magic: [u8; MAGIC],
    rest: impl BufRead + 'a,
    max: u64,
) -> io::Result<Box<dyn Read + 'a>> {
    let payload = Cursor::new(magic).chain(rest);
    Ok(match magic {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(payload)?.single_frame();
            decoder.window_log_max(MAX_WINDOW)?;
            Box::new(decoder)
        }
        [0x1f, 0x8b, ..] => Box::new(GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let stream = Stream::new_stream_decoder(MAX_XZ_MEMORY, 0).map_err(io::Error::from)?;
            Box::new(XzDecoder::new_stream(payload, stream))
        }
        // The properties of lzma(1), and a dictionary whose size is a power of two.
        [0x5d, 0, 0, ..] => {
            let stream = Stream::new_lzma_decoder(MAX_XZ_MEMORY).map_err(io::Error::from)?;
            Box::new(XzDecoder::new_stream(payload, stream))
        }
        [b'B', b'Z', b'h', ..] => Box::new(BzDecoder::new(payload)),
        [0x02, 0x21, 0x4c, 0x18, ..] => Box::new(BlockReader::new(lz4::Frame::new(payload, max))),
        lzo::MAGIC => Box::new(BlockReader::new(lzo::File::new(payload))),
        _ => {
            let reason = "it is compressed in a way that is not known here";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
    })
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fixtures {
    use liblzma::read::XzEncoder;
    use liblzma::stream::{Check, Filters, LzmaOptions};

    use super::*;

    /// Payloads as Linux's build makes them of `content`, by the program that compresses.
    pub(crate) fn compressors(content: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let read = |mut encoder: Box<dyn Read + '_>| {
            let mut compressed = Vec::new();
            encoder.read_to_end(&mut compressed).expect("an encoder");
            compressed
        };
        let options = LzmaOptions::new_preset(6).expect("a preset");
        let mut filters = Filters::new();
        filters.x86().lzma2(&options);
        let xz = Stream::new_stream_encoder(&filters, Check::Crc32).expect("an encoder");
        let lzma = Stream::new_lzma_encoder(&options).expect("an encoder");
        let payloads = vec![
            ("zstd", zstd::encode_all(content, 3).expect("an encoder")),
            ("gzip", read(Box::new(flate2::read::GzEncoder::new(content, flate2::Compression::best())))),
            ("xz", read(Box::new(XzEncoder::new_stream(content, xz)))),
            ("lzma", read(Box::new(XzEncoder::new_stream(content, lzma)))),
            ("bzip2", read(Box::new(bzip2::read::BzEncoder::new(content, bzip2::Compression::fast())))),
            ("lz4", lz4::fixtures::compressed(content)),
            ("lzop", lzo::fixtures::compressed(content)),
        ];
        let with_length = |(name, mut payload): (_, Vec<u8>)| {
            if name != "gzip" {
                payload.extend((content.len() as u32).to_le_bytes());
            }
            (name, payload)
        };
        payloads.into_iter().map(with_length).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::fixtures::compressors;
    use super::*;

    /// What is compressed: longer than a block of lzo, with what compresses well and what does not.
    fn content() -> Vec<u8> {
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        [vec![7; 300_000], noise.take(300_000).collect(), b"a kernel".repeat(1000)].concat()
    }

    fn unpacked(compressed: &[u8]) -> io::Result<Vec<u8>> {
        let (magic, rest) = compressed.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut content = Vec::new();
        decompressed(*magic, rest, 8 << 20)?.read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn payload_of_each_compressor_is_decompressed_without_what_is_behind_it() {
        for (name, payload) in compressors(&content()) {
            let end = payload.len() - LENGTH as usize;
            if name != "gzip" {
                let whole = unpacked(&payload[..end]);
                assert!(whole.unwrap_or_else(|error| panic!("{name}: {error}")) == content(), "{name}");
            }
            // Nothing tells where the format of lz4 ends: the caller leaves the length out.
            if name != "lz4" {
                let whole = unpacked(&payload);
                assert!(whole.unwrap_or_else(|error| panic!("{name}: {error}")) == content(), "{name}");
            }
        }
    }

    #[test]
    fn truncated_payload_is_an_error_or_shorter() {
        for (name, payload) in compressors(&content()) {
            let compressed = &payload[..payload.len() - LENGTH as usize];
            for length in (0..compressed.len()).step_by(1 + compressed.len() / 12) {
                let part = unpacked(&compressed[..length]);
                assert!(part.is_err() || part.is_ok_and(|part| part.len() < content().len()), "{name}: {length}");
            }
        }
    }

    #[test]
    fn unknown_compression_is_refused() {
        let error = unpacked(&[0; 100]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    /// What the programs that Linux's build calls write is read. `scripts/setup test` installs
    /// those that not every machine has.
    #[test]
    fn payload_of_the_programs_of_a_build_is_decompressed() {
        let programs: [&[&str]; 7] = [
            &["zstd", "-22", "--ultra"],
            &["gzip", "-n", "-9"],
            &["xz", "--check=crc32", "--x86", "--lzma2=dict=128MiB"],
            &["lzma", "-9"],
            &["bzip2", "-9"],
            &["lz4", "-l", "-9"],
            &["lzop", "-9"],
        ];
        for words in programs {
            let (program, options) = words.split_first().unwrap();
            let child = Command::new(program).args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
            let mut stdin = child.stdin.take().unwrap();
            let writer = std::thread::spawn(move || stdin.write_all(&content()));
            let output = child.wait_with_output().unwrap();
            writer.join().unwrap().unwrap();
            assert!(output.status.success(), "{program}");
            let whole = unpacked(&output.stdout).unwrap_or_else(|error| panic!("{program}: {error}"));
            assert!(whole == content(), "{program}");
        }
    }
}
