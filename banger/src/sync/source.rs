//! Where the content of a plan's item comes from, and sending it.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_agent::protocol::sync::{Digest, Record};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::libc;

use super::SyncError;
use crate::agent::DataWriter;
use crate::git::Entry;

/// Where content comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A file of the host.
    File(PathBuf),
    /// The target of a link of the host.
    Link(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// The index of the repository whose `.git` this is: built when all else about the sync is known.
    Index(Vec<u8>),
    /// Nothing has to be sent.
    None,
}

/// Opens a regular file, whatever has become of it meanwhile: no link is followed, no FIFO waited for.
fn open(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY);
    options.open(path)
}

/// The digest of a host's file or link.
///
/// # Errors
/// [`SyncError::Changed`] if it is gone.
pub(super) fn digest(source: &Source) -> Result<Digest, SyncError> {
    Ok(match source {
        Source::File(path) => {
            let mut file = open(path).map_err(|error| changed(path, error))?;
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; 256 << 10];
            loop {
                match file.read(&mut buffer).map_err(SyncError::Host)? {
                    0 => break *hasher.finalize().as_bytes(),
                    count => hasher.update(&buffer[..count]),
                };
            }
        }
        Source::Link(path) => *blake3::hash(&target(path)?).as_bytes(),
        Source::Bytes(bytes) => *blake3::hash(bytes).as_bytes(),
        Source::Index(_) | Source::None => [0; 32],
    })
}

fn target(path: &Path) -> Result<Vec<u8>, SyncError> {
    let target = fs::read_link(path).map_err(|error| changed(path, error))?;
    Ok(target.as_os_str().as_bytes().to_vec())
}

/// A file that was there a moment ago. What is unreadable for another reason stays so.
fn changed(path: &Path, error: io::Error) -> SyncError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EINVAL) => SyncError::Changed(path.to_owned()),
        _ => SyncError::Host(error),
    }
}

/// What was sent.
pub(super) struct Sent {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// What the file or link looked like when all of it had been read.
    stat: Option<Metadata>,
}

impl Sent {
    /// Whether it was what `entry` says. A file may have changed since it was listed, and while it was read.
    pub(super) fn is(&self, entry: &Entry) -> bool {
        let time = |seconds, nanoseconds| seconds * 1_000_000_000 + nanoseconds;
        self.stat.as_ref().is_some_and(|stat| {
            stat.len() == entry.size
                && stat.ino() == entry.inode
                && time(stat.mtime(), stat.mtime_nsec()) == entry.mtime_ns
                && time(stat.ctime(), stat.ctime_nsec()) == entry.ctime_ns
        })
    }
}

/// Sends one record, whose size is that of the source now.
///
/// # Errors
/// [`SyncError::Changed`] if a file is gone, or becomes shorter while it is read.
pub(super) fn send(out: &mut DataWriter<'_>, mut record: Record, source: &Source) -> Result<Sent, SyncError> {
    match source {
        Source::File(path) => {
            let mut file = open(path).map_err(|error| changed(path, error))?;
            record.size = file.metadata().map_err(SyncError::Host)?.len();
            head(out, &record)?;
            let digest = body(out, &mut file, path, record.size)?;
            Ok(Sent { digest, size: record.size, stat: Some(file.metadata().map_err(SyncError::Host)?) })
        }
        Source::Link(path) => {
            let sent = whole(out, record, &target(path)?)?;
            Ok(Sent { stat: fs::symlink_metadata(path).ok(), ..sent })
        }
        Source::Bytes(bytes) => whole(out, record, bytes),
        Source::Index(_) | Source::None => Ok(Sent { digest: [0; 32], size: 0, stat: None }),
    }
}

fn whole(out: &mut DataWriter<'_>, record: Record, bytes: &[u8]) -> Result<Sent, SyncError> {
    send_as(out, record, bytes, *blake3::hash(bytes).as_bytes())
}

/// Sends one record with these bytes, and this digest.
///
/// # Errors
/// The connection's.
pub(super) fn send_as(
    out: &mut DataWriter<'_>,
    mut record: Record,
    bytes: &[u8],
    digest: Digest,
) -> Result<Sent, SyncError> {
    record.size = bytes.len() as u64;
    head(out, &record)?;
    out.write(bytes)?;
    out.write(&digest)?;
    Ok(Sent { digest, size: record.size, stat: None })
}

fn head(out: &mut DataWriter<'_>, record: &Record) -> Result<(), SyncError> {
    let head = postcard::to_stdvec(record).expect("plain data has a postcard form");
    out.write(&(head.len() as u32).to_le_bytes())?;
    Ok(out.write(&head)?)
}

fn body(out: &mut DataWriter<'_>, file: &mut fs::File, path: &Path, size: u64) -> Result<Digest, SyncError> {
    let mut hasher = blake3::Hasher::new();
    let mut left = size;
    while left > 0 {
        let room = out.room();
        let wanted = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = file.read(&mut room[..wanted]).map_err(SyncError::Host)?;
        if count == 0 {
            return Err(SyncError::Changed(path.to_owned()));
        }
        hasher.update(&room[..count]);
        out.filled(count)?;
        left -= count as u64;
    }
    let digest = *hasher.finalize().as_bytes();
    out.write(&digest)?;
    Ok(digest)
}
