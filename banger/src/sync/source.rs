//! Where the content of a plan's item comes from, and sending it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use banger_agent::protocol::sync::{Digest, Record};
use nix::libc;

use super::SyncError;
use crate::agent::DataWriter;
use crate::git::{Entry, EntryKind};

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

impl Source {
    /// What is listed of the workspace at `root`.
    pub(super) fn of(entry: &Entry, root: &Path) -> Source {
        let path = entry.path.under(root);
        match entry.kind {
            EntryKind::File => Source::File(path),
            EntryKind::Symlink => Source::Link(path),
        }
    }
}

/// Opens a regular file, whatever has become of it meanwhile: no link is followed, no FIFO waited for.
fn open(path: &Path) -> Result<File, SyncError> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY);
    options.open(path).map_err(unread(path))
}

/// The digest of a host's file or link.
///
/// # Errors
/// [`SyncError::Changed`] if it is gone.
pub(super) fn digest(source: &Source) -> Result<Digest, SyncError> {
    Ok(match source {
        Source::File(path) => {
            let mut file = open(path)?;
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; 256 << 10];
            loop {
                match file.read(&mut buffer).map_err(unread(path))? {
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
    let target = fs::read_link(path).map_err(unread(path))?;
    Ok(target.as_os_str().as_bytes().to_vec())
}

/// Why a file, which was there a moment ago, cannot be read.
fn unread(path: &Path) -> impl Fn(io::Error) -> SyncError {
    move |error| {
        let named = || io::Error::new(error.kind(), format!("`{}`: {error}", path.display()));
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EINVAL) => SyncError::Changed(path.to_owned()),
            Some(libc::EACCES | libc::EPERM) => SyncError::Closed(named()),
            _ => SyncError::Host(named()),
        }
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

/// Where records go: over the link, or onto a disk.
pub(super) trait Sink {
    /// Takes a record's content to its end, and then its digest.
    ///
    /// # Errors
    /// The content's, and the sink's own.
    fn put(&mut self, record: &Record, content: &mut Content<'_>) -> Result<(), SyncError>;
}

/// The content of a record: so many bytes, and their digest after the last.
pub(super) struct Content<'a> {
    bytes: &'a mut dyn Read,
    left: u64,
    digest: Known,
    /// Of the host, for messages.
    path: &'a Path,
}

/// A digest that is known, or will be.
enum Known {
    Already(Digest),
    Soon(Box<blake3::Hasher>),
}

impl Content<'_> {
    /// How many bytes are still to be read.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Reads some of what is left; 0 bytes when nothing is, or for an empty `buffer`.
    ///
    /// # Errors
    /// [`SyncError::Changed`] if a file has become shorter.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SyncError> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.bytes.read(&mut buffer[..wanted]).map_err(unread(self.path))?;
        if count == 0 && wanted > 0 {
            return Err(SyncError::Changed(self.path.to_owned()));
        }
        if let Known::Soon(hasher) = &mut self.digest {
            hasher.update(&buffer[..count]);
        }
        self.left -= count as u64;
        Ok(count)
    }

    /// The digest of all that was read.
    pub(super) fn digest(&self) -> Digest {
        match &self.digest {
            Known::Already(digest) => *digest,
            Known::Soon(hasher) => *hasher.finalize().as_bytes(),
        }
    }
}

/// Puts one record, whose size is that of the source now.
///
/// # Errors
/// [`SyncError::Changed`] if a file is gone, or becomes shorter while it is read.
pub(super) fn send(out: &mut dyn Sink, mut record: Record, source: &Source) -> Result<Sent, SyncError> {
    match source {
        Source::File(path) => {
            let mut file = open(path)?;
            record.size = file.metadata().map_err(unread(path))?.len();
            let soon = Known::Soon(Box::default());
            let mut content = Content { bytes: &mut file, left: record.size, digest: soon, path };
            out.put(&record, &mut content)?;
            let digest = content.digest();
            Ok(Sent { digest, size: record.size, stat: Some(file.metadata().map_err(unread(path))?) })
        }
        Source::Link(path) => {
            let target = target(path)?;
            let sent = send_as(out, record, &target, *blake3::hash(&target).as_bytes())?;
            Ok(Sent { stat: fs::symlink_metadata(path).ok(), ..sent })
        }
        Source::Bytes(bytes) => send_as(out, record, bytes, *blake3::hash(bytes).as_bytes()),
        Source::Index(_) | Source::None => Ok(Sent { digest: [0; 32], size: 0, stat: None }),
    }
}

/// Puts one record with these bytes, and this digest.
///
/// # Errors
/// The sink's.
pub(super) fn send_as(
    out: &mut dyn Sink,
    mut record: Record,
    mut bytes: &[u8],
    digest: Digest,
) -> Result<Sent, SyncError> {
    record.size = bytes.len() as u64;
    let known = Known::Already(digest);
    out.put(&record, &mut Content { bytes: &mut bytes, left: record.size, digest: known, path: Path::new("") })?;
    Ok(Sent { digest, size: record.size, stat: None })
}

/// Over the link: see [`Record`].
impl Sink for DataWriter<'_> {
    fn put(&mut self, record: &Record, content: &mut Content<'_>) -> Result<(), SyncError> {
        let head = postcard::to_stdvec(record).expect("plain data has a postcard form");
        self.write(&(head.len() as u32).to_le_bytes())?;
        self.write(&head)?;
        while content.left() > 0 {
            let count = content.read(self.room())?;
            self.filled(count)?;
        }
        Ok(self.write(&content.digest())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_what_it_was_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        for source in [
            Source::File(path("gone")),
            Source::File(path("file/below")),
            Source::File(path("link")),
            Source::Link(path("gone")),
            Source::Link(path("file")),
        ] {
            let outcome = digest(&source);
            assert!(matches!(outcome, Err(SyncError::Changed(_))), "{source:?}: {outcome:?}");
        }
    }
}
