//! Where the content of a plan's item comes from, and sending it.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_agent::protocol::sync::{Digest, Record};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::libc;

use super::SyncError;
use crate::agent::DataWriter;

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

/// Sends one record. `record.size` counts for files only, and says what the listing saw. Returns the digest of what was sent.
///
/// # Errors
/// [`SyncError::Changed`] if the host's file is not what it was when it was listed.
pub(super) fn send(out: &mut DataWriter<'_>, mut record: Record, source: &Source) -> Result<Digest, SyncError> {
    match source {
        Source::File(path) => {
            let file = open(path).map_err(|error| changed(path, error))?;
            if file.metadata().map_err(SyncError::Host)?.len() != record.size {
                return Err(SyncError::Changed(path.clone()));
            }
            head(out, &record)?;
            body(out, file, path, record.size)
        }
        Source::Link(path) => {
            let target = target(path)?;
            record.size = target.len() as u64;
            whole(out, &record, &target)
        }
        Source::Bytes(bytes) => {
            record.size = bytes.len() as u64;
            whole(out, &record, bytes)
        }
        Source::Index(_) | Source::None => Ok([0; 32]),
    }
}

fn whole(out: &mut DataWriter<'_>, record: &Record, bytes: &[u8]) -> Result<Digest, SyncError> {
    head(out, record)?;
    let digest = *blake3::hash(bytes).as_bytes();
    out.write(bytes)?;
    out.write(&digest)?;
    Ok(digest)
}

fn head(out: &mut DataWriter<'_>, record: &Record) -> Result<(), SyncError> {
    let head = postcard::to_stdvec(record).expect("plain data has a postcard form");
    out.write(&(head.len() as u32).to_le_bytes())?;
    Ok(out.write(&head)?)
}

fn body(out: &mut DataWriter<'_>, mut file: fs::File, path: &Path, size: u64) -> Result<Digest, SyncError> {
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
