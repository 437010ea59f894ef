//! Packs an image into a bundle. The bytes depend on the image alone, not on the host's file
//! system.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use banger_util::sparse;
use fs_err as fs;

use super::{BundleManifest, MANIFEST, ROOTFS};
use crate::digest::{Digest, Hasher};
use crate::error::Result;
use crate::manifest::ImageManifest;
use crate::progress::Progress;

/// The compression level of zstd: a bundle is made once, and downloaded often.
const LEVEL: i32 = 9;
/// Zeros of at least this many bytes are a hole of the archive: fewer are not worth an entry in its
/// map.
const HOLE: u64 = 64 << 10;
/// Bytes of a tar block, and those that are written at a time.
const BLOCK: usize = 512;
const PIECE: usize = 1 << 20;

/// Writes the bundle of an image, whose root file system is in the file `rootfs`, to `out`. Returns
/// the bundle's SHA-256 and its length in bytes.
pub(crate) fn pack(
    manifest: &ImageManifest,
    rootfs: &Path,
    out: impl Write,
    progress: &dyn Progress,
) -> Result<(Digest, u64)> {
    progress.phase("reading the file system");
    let rootfs = fs::File::open(rootfs)?;
    let pieces = sparse::pieces(rootfs.file(), HOLE)?;
    let rootfs_bytes = manifest.rootfs_bytes;
    let manifest = serde_json::to_vec_pretty(&BundleManifest::of(manifest)).map_err(io::Error::from)?;

    progress.phase("compressing");
    let mut encoder = zstd::Encoder::new(HashingWriter { inner: out, hasher: Hasher::default(), bytes: 0 }, LEVEL)?;
    encoder.include_checksum(true)?;
    member(&mut encoder, MANIFEST, manifest.len() as u64, b'0')?;
    encoder.write_all(&manifest)?;
    fill(&mut encoder, manifest.len() as u64)?;
    sparse_member(&mut encoder, rootfs.file(), rootfs_bytes, &pieces, progress)?;
    encoder.write_all(&[0; 2 * BLOCK])?;
    let mut counted = encoder.finish()?;
    counted.flush()?;
    Ok((counted.hasher.finish(), counted.bytes))
}

/// Writes a file with holes in GNU tar's sparse format 1.0 (GNU tar manual, "PAX Format, Version
/// 1.0").
fn sparse_member(
    out: &mut impl Write,
    file: &File,
    size: u64,
    pieces: &[Range<u64>],
    progress: &dyn Progress,
) -> Result<()> {
    // One of no bytes at its end says how long it is.
    let end = (size, 0);
    let map: Vec<_> = pieces.iter().map(|piece| (piece.start, piece.end - piece.start)).chain([end]).collect();
    let mut text = format!("{}\n", map.len());
    map.iter().for_each(|(start, length)| text.push_str(&format!("{start}\n{length}\n")));
    text.extend(std::iter::repeat_n('\0', text.len().next_multiple_of(BLOCK) - text.len()));
    let data: u64 = map.iter().map(|(_, length)| length).sum();
    let stored = text.len() as u64 + data;

    let mut records = String::new();
    for (key, value) in [
        ("size", &*stored.to_string()),
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", ROOTFS),
        ("GNU.sparse.realsize", &size.to_string()),
    ] {
        records.push_str(&record(key, value));
    }
    member(out, &format!("PaxHeaders/{ROOTFS}"), records.len() as u64, b'x')?;
    out.write_all(records.as_bytes())?;
    fill(out, records.len() as u64)?;

    member(out, &format!("GNUSparseFile.0/{ROOTFS}"), stored, b'0')?;
    out.write_all(text.as_bytes())?;
    let mut buffer = vec![0; PIECE];
    let mut done = 0;
    for piece in pieces {
        let mut at = piece.start;
        while at < piece.end {
            let length = usize::try_from(piece.end - at).unwrap_or(usize::MAX).min(PIECE);
            file.read_exact_at(&mut buffer[..length], at)?;
            out.write_all(&buffer[..length])?;
            at += length as u64;
            done += length as u64;
            progress.advance(done, data);
        }
    }
    fill(out, stored)
}

/// A record of a pax header: its length, itself included, key and value (POSIX.1-2017, pax).
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

/// Writes a member's header: a file of root's, of no time.
fn member(out: &mut impl Write, path: &str, size: u64, kind: u8) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_cksum();
    Ok(out.write_all(header.as_bytes())?)
}

/// Fills up a member's last block.
fn fill(out: &mut impl Write, size: u64) -> Result<()> {
    let over = (size % BLOCK as u64) as usize;
    Ok(out.write_all(&[0; BLOCK][..(BLOCK - over) % BLOCK])?)
}

/// A writer that counts and hashes.
struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
