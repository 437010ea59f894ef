//! The ELF in a bzImage, which Firecracker boots: Documentation/arch/x86/boot.rst,
//! `payload_offset`.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use banger_util::sparse;

use super::elf;
use super::payload::{self, MAGIC};

/// The longest kernel that is taken out of a bzImage, in bytes.
pub(super) const MAX_BYTES: u64 = 1 << 30;
/// Bytes that are written at a time.
const PIECE: usize = 1 << 20;

/// Why a bzImage's kernel was not extracted.
#[derive(Debug)]
pub(super) enum ExtractError {
    /// What is wrong with the bzImage, as the rest of a sentence that names it.
    Invalid(String),
    /// The kernel could not be written.
    Io(io::Error),
}

/// The payload of a bzImage.
pub(super) struct Payload<'a> {
    source: &'a File,
    /// Where it is, without the length behind it.
    place: Range<u64>,
    /// The kernel's length, in bytes.
    length: u64,
}

impl<'a> Payload<'a> {
    /// Reads what the payload at `place` in `source` says of itself.
    ///
    /// # Errors
    /// What is wrong with it: it is too short, or has more than `max` bytes.
    pub(super) fn read(source: &'a File, place: Range<u64>, max: u64) -> Result<Payload<'a>, ExtractError> {
        let invalid = |reason: String| Err(ExtractError::Invalid(reason));
        if place.end.saturating_sub(place.start) < MAGIC as u64 + payload::LENGTH {
            return invalid("it has no payload".into());
        }
        let end = place.end - payload::LENGTH;
        let mut length = [0; payload::LENGTH as usize];
        if let Err(error) = source.read_exact_at(&mut length, end) {
            return invalid(format!("its payload cannot be read: {error}"));
        }
        let length = u64::from(u32::from_le_bytes(length));
        if length > max {
            return invalid(format!("its payload has {length} bytes, which is more than {max}"));
        }
        Ok(Payload { source, place: place.start..end, length })
    }

    /// The kernel's length, as the payload says it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Writes the kernel into `target`, an empty file. Zeros stay holes.
    ///
    /// # Errors
    /// The payload cannot be decompressed, has another length than it says, or is no kernel.
    pub(super) fn extract(mut self, target: &File) -> Result<(), ExtractError> {
        let mut written = 0;
        let decompressed = self.decompressed();
        let mut piece = vec![0; PIECE.min(self.length as usize + 1)];
        let mut content = decompressed.map_err(unreadable)?.take(self.length + 1);
        loop {
            let mut filled = 0;
            while filled < piece.len() {
                match content.read(&mut piece[filled..]) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(unreadable(error)),
                }
            }
            if filled == 0 {
                break;
            }
            sparse::write(target, written, &piece[..filled]).map_err(ExtractError::Io)?;
            written += filled as u64;
        }
        if written != self.length {
            let than = if written > self.length { "more" } else { "fewer" };
            return Err(ExtractError::Invalid(format!(
                "its payload has {than} bytes than the {} it says",
                self.length
            )));
        }
        target.set_len(written).map_err(ExtractError::Io)?;
        elf::check(target).map(drop).map_err(|reason| ExtractError::Invalid(format!("of the kernel in it: {reason}")))
    }

    fn decompressed(&mut self) -> io::Result<Box<dyn Read + 'a>> {
        let mut magic = [0; MAGIC];
        self.source.seek(SeekFrom::Start(self.place.start))?;
        self.source.read_exact(&mut magic)?;
        let mut length = self.place.end - self.place.start - MAGIC as u64;
        if magic.starts_with(&[0x1f, 0x8b]) {
            // gzip's own end has the length in it.
            length += payload::LENGTH;
        }
        payload::decompressed(magic, BufReader::with_capacity(256 << 10, self.source.take(length)), self.length)
    }
}

fn unreadable(error: io::Error) -> ExtractError {
    ExtractError::Invalid(format!("its payload cannot be decompressed: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::kernel::elf::fixtures::elf;
    use crate::kernel::format::BzImage;
    use crate::kernel::format::fixtures::{PAYLOAD_LENGTH, PAYLOAD_OFFSET, bz_image, bz_image_of};
    use crate::kernel::payload::fixtures::compressors;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// The kernel in a bzImage, of at most `max` bytes.
    fn extracted(image: &[u8], max: u64) -> Result<File, String> {
        let BzImage { payload, .. } = BzImage::read(image, image.len() as u64)?;
        let (source, target) = (file_of(image), tempfile::tempfile().unwrap());
        let extract = || Payload::read(&source, payload, max)?.extract(&target);
        match extract() {
            Ok(()) => Ok(target),
            Err(ExtractError::Invalid(reason)) => Err(reason),
            Err(ExtractError::Io(error)) => panic!("{error}"),
        }
    }

    fn content(mut file: File) -> Vec<u8> {
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut content).unwrap();
        content
    }

    /// A kernel with many zeros in it, and some at its end.
    fn kernel() -> Vec<u8> {
        elf(18, &[&[1; 5000][..], &vec![0; 3 << 20], &[2; 5000], &vec![0; 300_000]].concat())
    }

    #[test]
    fn kernel_of_each_compressor_is_extracted_with_holes() {
        for (name, payload) in compressors(&kernel()) {
            let image = bz_image_of("6.12.1", &payload);
            let file = extracted(&image, MAX_BYTES).unwrap_or_else(|error| panic!("{name}: {error}"));
            let blocks = file.metadata().unwrap().blocks();
            assert!(content(file) == kernel(), "{name}");
            assert!(blocks * 512 < 100_000, "{name}: {blocks} blocks");
        }
    }

    #[test]
    fn lying_payload_is_refused_with_a_reason() {
        let refused = |image: &[u8], max: u64, reason: &str| {
            let is = extracted(image, max).expect_err(reason);
            assert!(is.contains(reason), "{is}, and not: {reason}");
        };
        let kernel = kernel();
        for (name, payload) in compressors(&kernel) {
            let of = |payload: &[u8]| bz_image_of("6.12.1", payload);
            let end = payload.len() - 4;
            let saying = |length: usize| of(&[&payload[..end], &(length as u32).to_le_bytes()].concat());
            // gzip and lz4 notice themselves.
            let lies = !["gzip", "lz4"].contains(&name);
            refused(&saying(kernel.len() + 1), MAX_BYTES, if name == "gzip" { "" } else { "fewer bytes" });
            refused(&saying(kernel.len() - 1), MAX_BYTES, if lies { "more bytes" } else { "" });
            refused(&saying(0), MAX_BYTES, if lies { "more bytes" } else { "" });
            refused(&saying(u32::MAX as usize), MAX_BYTES, "more than 1073741824");
            refused(&of(&payload), kernel.len() as u64 - 1, "more than");
            // Cut off, with what would be its length.
            refused(&of(&[&payload[..end / 2], &payload[end..]].concat()), MAX_BYTES, "");
        }
        for (content, reason) in
            [(&b"#!/bin/sh\n"[..], "header"), (&[0; 100], "no ELF"), (&kernel[..200], "of the kernel in it")]
        {
            for (_, payload) in compressors(content) {
                refused(&bz_image_of("6.12.1", &payload), MAX_BYTES, reason);
            }
        }
        refused(&bz_image_of("6.12.1", &[]), MAX_BYTES, "no payload");
        refused(&bz_image_of("6.12.1", &[0x11; 100]), MAX_BYTES, "not known here");
    }

    #[test]
    fn no_header_leads_beyond_the_file_or_panics() {
        let whole = bz_image("6.12.1");
        extracted(&whole, MAX_BYTES).unwrap();
        for at in [PAYLOAD_OFFSET, PAYLOAD_LENGTH] {
            for number in [0, 1, 12, 13, 17, whole.len() as u32, 0x7fff_ffff, u32::MAX] {
                let mut image = whole.clone();
                image[at..at + 4].copy_from_slice(&number.to_le_bytes());
                extracted(&image, MAX_BYTES).expect_err("a reason");
            }
        }
        // Each byte of the header and the payload, with each of some values.
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0xff, whole[at] ^ 1] {
                let mut image = whole.clone();
                image[at] = byte;
                let _ = extracted(&image, 1 << 20);
            }
        }
    }
}
