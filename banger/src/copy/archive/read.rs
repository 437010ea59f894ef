//! Entries from tar archives.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use banger_agent::copy::{CopyError, Entry, EntryKind, MAX_ENTRIES, MAX_PIECE, write_piece};
use banger_agent::protocol::WireBytes;
use banger_agent::protocol::copy::Copied;
use banger_agent::rooted_dir::{MAX_PATH, is_plain, split};
use banger_image::archive::{Reader, Type};
use banger_image::decompressed;

/// The most bytes behind an archive that are read: the rest of its last record, and where the
/// checksum of a compressed one is found. Writers fill up a record of 10 KiB; 512 KiB is the
/// longest that tar(1) writes.
const MAX_TRAILER: u64 = 1 << 20;

/// Reads an archive, which may be compressed, and writes its entries, the folders to each before
/// it. Devices and the like are left out. A hard link is one to what came before it in the archive,
/// and to nothing else.
pub(in crate::copy) fn read(input: impl Read + Send, out: &mut dyn Write) -> Result<Copied, CopyError> {
    let mut copied = Copied::default();
    let mut stream = Counted { inner: decompressed(input).map_err(unreadable)?, bytes: 0 };
    let mut seen = Seen::default();
    Entry { path: Vec::new(), kind: EntryKind::Folder { mode: 0o755 }, mtime_ns: 0 }.write(out)?;
    let mut archive = Reader::new(&mut stream);
    while let Some(entry) =
        archive.next().map_err(|error| if seen.entries == 0 { other(error) } else { unreadable(error) })?
    {
        seen.entry()?;
        let mode = u32::from(entry.mode & 0o777);
        let mtime_ns = entry.mtime.seconds.saturating_mul(1_000_000_000).saturating_add(entry.mtime.nanoseconds.into());
        let path = plain(&entry.path)?;
        if path.is_empty() {
            continue;
        }
        let kind = match entry.kind {
            Type::Directory => EntryKind::Folder { mode },
            Type::File => EntryKind::File { mode, size: entry.size },
            Type::Symlink => {
                if entry.link.is_empty() || entry.link.len() > MAX_PATH || entry.link.contains(&0) {
                    return Err(refused(path, "the link leads nowhere"));
                }
                EntryKind::Link { target: entry.link }
            }
            Type::HardLink => {
                let target = plain(&entry.link)?;
                if !seen.files.contains(&key(&target)) {
                    return Err(refused(path, "it is a hard link to what is not in the archive before it"));
                }
                if target == path {
                    continue;
                }
                EntryKind::HardLink { target }
            }
            Type::CharacterDevice | Type::BlockDevice | Type::Fifo => {
                copied.skipped += 1;
                continue;
            }
        };
        seen.parents(&path, out)?;
        match &kind {
            EntryKind::Folder { .. } if !seen.folders.insert(key(&path)) => continue,
            EntryKind::Folder { .. } => copied.folders += 1,
            EntryKind::Link { .. } => copied.links += 1,
            EntryKind::File { .. } | EntryKind::HardLink { .. } => copied.files += 1,
        }
        if !matches!(kind, EntryKind::Folder { .. }) {
            seen.files.insert(key(&path));
        }
        let is_file = matches!(kind, EntryKind::File { .. });
        Entry { path, kind, mtime_ns }.write(out)?;
        if is_file {
            copied.bytes += content(&mut archive, entry.size, out)?;
        }
    }
    io::copy(&mut (&mut stream).take(MAX_TRAILER), &mut io::sink()).map_err(unreadable)?;
    if stream.bytes == 0 {
        return Err(unreadable(io::Error::new(io::ErrorKind::UnexpectedEof, "there is nothing in the stream")));
    }
    out.flush().map_err(CopyError::Stream)?;
    Ok(copied)
}

/// The paths that an archive has brought, as digests: these are short, and a hostile archive cannot
/// choose ones that collide.
#[derive(Default)]
struct Seen {
    entries: u64,
    folders: HashSet<[u8; 16]>,
    /// Files and links.
    files: HashSet<[u8; 16]>,
}

impl Seen {
    /// Counts an entry against the limit: few compressed bytes may hold very many entries.
    fn entry(&mut self) -> Result<(), CopyError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(unreadable(io::Error::other(format!("it has more than {MAX_ENTRIES} entries"))));
        }
        Ok(())
    }

    /// Writes entries for the directories above `path` that were not written yet.
    fn parents(&mut self, path: &[u8], out: &mut dyn Write) -> Result<(), CopyError> {
        let parent = split(path).0;
        if parent.is_empty() || self.folders.contains(&key(parent)) {
            return Ok(());
        }
        self.parents(parent, out)?;
        self.folders.insert(key(parent));
        Entry { path: parent.to_vec(), kind: EntryKind::Folder { mode: 0o755 }, mtime_ns: 0 }.write(out)
    }
}

fn key(path: &[u8]) -> [u8; 16] {
    let digest = blake3::hash(path);
    std::array::from_fn(|byte| digest.as_bytes()[byte])
}

/// A stream that counts the bytes that were read.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Writes the content of the archive's current entry, which is `size` bytes long, without its
/// holes.
fn content(archive: &mut Reader<impl Read>, size: u64, out: &mut dyn Write) -> Result<u64, CopyError> {
    let mut buffer = vec![0; MAX_PIECE];
    let (mut offset, mut bytes) = (0, 0);
    loop {
        offset += archive.skip_hole();
        let read = match archive.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(unreadable)?,
        };
        if read == 0 {
            break;
        }
        write_piece(out, offset, &buffer[..read])?;
        offset += read as u64;
        bytes += read as u64;
    }
    if offset < size {
        return Err(unreadable(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle of a file")));
    }
    write_piece(out, offset, &[])?;
    Ok(bytes)
}

/// A path of an archive without leading slashes, as tar(1) leaves them out, and without `.`.
pub(super) fn plain(path: &[u8]) -> Result<Vec<u8>, CopyError> {
    let parts: Vec<_> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    let plain = parts.join(&b'/');
    if plain.is_empty() || is_plain(&plain) {
        Ok(plain)
    } else {
        Err(refused(path.to_vec(), "the path leads elsewhere"))
    }
}

fn refused(path: Vec<u8>, why: &'static str) -> CopyError {
    CopyError::Io { action: "unpack", path: WireBytes(path), source: io::Error::other(why) }
}

/// What no archive begins with.
fn other(error: io::Error) -> CopyError {
    let why = "it is no tar archive, neither plain nor compressed with gzip, bzip2, xz or zstd";
    unreadable(io::Error::new(error.kind(), format!("{why} ({error})")))
}

fn unreadable(source: io::Error) -> CopyError {
    CopyError::Io { action: "read", path: "the archive".into(), source }
}
