//! Where the content of a plan's item comes from, and sending it.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use banger_agent::protocol::sync::{Digest, Record};
use banger_agent::sparse::{self, ContentHasher, SparseReader};
use nix::libc;

use super::SyncError;
use crate::git::{Boundary, Entry, EntryKind};

/// Where content comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A file of the workspace, or of git's objects.
    File(PathBuf, Arc<Boundary>),
    /// The target of a link of the workspace.
    Link(PathBuf, Arc<Boundary>),
    /// A file of banger's own.
    Pack(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// The index of the repository whose `.git` this is: built when all else about the sync is
    /// known.
    Index(Vec<u8>),
    /// Nothing has to be sent.
    None,
}

impl Source {
    /// What is listed of the workspace at `root`.
    pub(super) fn of(entry: &Entry, root: &Path, boundary: &Arc<Boundary>) -> Source {
        let (path, boundary) = (entry.path.under(root), boundary.clone());
        match entry.kind {
            EntryKind::File => Source::File(path, boundary),
            EntryKind::Symlink => Source::Link(path, boundary),
        }
    }

    /// Opens a regular file, whatever has become of it meanwhile: no link is followed, at the end
    /// or on the way, and no FIFO waited for. None for what is no file.
    fn open(&self) -> Result<Option<(File, &Path)>, SyncError> {
        let (path, file) = match self {
            Source::File(path, boundary) => (path, boundary.open_file(path)),
            Source::Pack(path) => (path, File::open(path)),
            _ => return Ok(None),
        };
        Ok(Some((file.map_err(unread(path))?, path)))
    }
}

/// The digest of a host's file or link.
///
/// # Errors
/// [`SyncError::Changed`] if it is gone.
pub(super) fn digest(source: &Source) -> Result<Digest, SyncError> {
    if let Some((file, path)) = source.open()? {
        return sparse::digest_file(&file).map_err(unread(path));
    }
    Ok(match source {
        Source::Link(path, boundary) => sparse::digest(&boundary.read_link(path).map_err(unread(path))?),
        Source::Bytes(bytes) => sparse::digest(bytes),
        Source::File(..) | Source::Pack(_) | Source::Index(_) | Source::None => [0; 32],
    })
}

/// Why a file, which was there a moment ago, cannot be read.
fn unread(path: &Path) -> impl Fn(io::Error) -> SyncError {
    move |error| {
        let named = || io::Error::new(error.kind(), format!("`{}`: {error}", path.display()));
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return SyncError::Changed(path.to_owned());
        }
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EINVAL | libc::ENXIO) => {
                SyncError::Changed(path.to_owned())
            }
            Some(libc::EACCES | libc::EPERM) => SyncError::Unreadable(named()),
            _ => SyncError::Host(named()),
        }
    }
}

/// What was sent.
pub(super) struct Sent {
    pub(super) digest: Digest,
    /// Bytes of content, holes apart.
    pub(super) bytes: u64,
    /// What the file or link looked like when all of it had been read.
    stat: Option<Metadata>,
}

impl Sent {
    /// Whether it was what `entry` says. A file may have changed since it was listed, and while it
    /// was read.
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
    body: Body<'a>,
    left: u64,
    digest: ContentDigest,
    /// Of the host, for messages.
    path: &'a Path,
}

/// Where the bytes are.
enum Body<'a> {
    Bytes(&'a [u8]),
    File(SparseReader<'a>),
}

/// A digest that is known, or will be.
enum ContentDigest {
    Known(Digest),
    Hashing(Box<ContentHasher>),
}

impl Content<'_> {
    /// How many bytes are still to be read.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Whether it may have holes.
    pub(super) fn is_sparse(&self) -> bool {
        matches!(&self.body, Body::File(file) if file.is_sparse())
    }

    /// Passes over a hole, if one comes next, and returns its length.
    ///
    /// # Errors
    /// [`SyncError::Changed`] if a file has become shorter.
    pub(super) fn skip_hole(&mut self) -> Result<u64, SyncError> {
        let Body::File(file) = &mut self.body else { return Ok(0) };
        let hole = file.skip_hole().map_err(unread(self.path))?;
        if let ContentDigest::Hashing(hasher) = &mut self.digest {
            hasher.skip(hole);
        }
        self.left -= hole;
        Ok(hole)
    }

    /// Reads some of what is left; 0 bytes when nothing is, or for an empty `buffer`.
    ///
    /// # Errors
    /// [`SyncError::Changed`] if a file has become shorter.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SyncError> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..wanted];
        let count = match &mut self.body {
            Body::Bytes(bytes) => bytes.read(buffer),
            Body::File(file) => file.read(buffer),
        };
        let count = count.map_err(unread(self.path))?;
        if count == 0 && wanted > 0 {
            return Err(SyncError::Changed(self.path.to_owned()));
        }
        if let ContentDigest::Hashing(hasher) = &mut self.digest {
            hasher.update(&buffer[..count]);
        }
        self.left -= count as u64;
        Ok(count)
    }

    /// The digest of all that was read.
    pub(super) fn digest(&mut self) -> Digest {
        if let ContentDigest::Hashing(hasher) = &mut self.digest {
            self.digest = ContentDigest::Known(std::mem::take(hasher).finish());
        }
        match self.digest {
            ContentDigest::Known(digest) => digest,
            ContentDigest::Hashing(_) => unreachable!("it has just been made"),
        }
    }
}

/// Puts one record, whose size is that of the source now.
///
/// # Errors
/// [`SyncError::Changed`] if a file is gone, or becomes shorter while it is read.
pub(super) fn send(out: &mut dyn Sink, mut record: Record, source: &Source) -> Result<Sent, SyncError> {
    if let Some((file, path)) = source.open()? {
        let reader = SparseReader::new(&file).map_err(unread(path))?;
        record.size = reader.size();
        let soon = ContentDigest::Hashing(Box::default());
        let mut content = Content { body: Body::File(reader), left: record.size, digest: soon, path };
        out.put(&record, &mut content)?;
        let holes = if let Body::File(reader) = &content.body { reader.holes() } else { 0 };
        let (digest, bytes) = (content.digest(), record.size - holes);
        return Ok(Sent { digest, bytes, stat: Some(file.metadata().map_err(unread(path))?) });
    }
    match source {
        Source::Link(path, boundary) => {
            let target = boundary.read_link(path).map_err(unread(path))?;
            let sent = send_as(out, record, &target, sparse::digest(&target))?;
            Ok(Sent { stat: boundary.metadata(path).ok(), ..sent })
        }
        Source::Bytes(bytes) => send_as(out, record, bytes, sparse::digest(bytes)),
        Source::File(..) | Source::Pack(_) | Source::Index(_) | Source::None => {
            Ok(Sent { digest: [0; 32], bytes: 0, stat: None })
        }
    }
}

/// Puts one record with these bytes, and this digest.
///
/// # Errors
/// The sink's.
pub(super) fn send_as(out: &mut dyn Sink, mut record: Record, bytes: &[u8], digest: Digest) -> Result<Sent, SyncError> {
    record.size = bytes.len() as u64;
    let known = ContentDigest::Known(digest);
    let body = Body::Bytes(bytes);
    out.put(&record, &mut Content { body, left: record.size, digest: known, path: Path::new("") })?;
    Ok(Sent { digest, bytes: record.size, stat: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Host;

    #[test]
    fn replaced_source_file_is_a_changed_error() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let boundary = Arc::new(Boundary::new(&folder, &Host::default()));
        let path = |name: &str| folder.join(name);
        std::fs::write(path("file"), "").unwrap();
        std::fs::create_dir(path("real")).unwrap();
        std::fs::write(path("real/file"), "").unwrap();
        for (target, name) in [("file", "link"), ("real", "swapped")] {
            std::os::unix::fs::symlink(target, path(name)).unwrap();
        }
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let file = |name: &str| Source::File(path(name), boundary.clone());
        let link = |name: &str| Source::Link(path(name), boundary.clone());
        for source in [
            file("gone"),
            file("file/below"),
            file("link"),
            file("swapped/file"),
            file("fifo"),
            link("gone"),
            link("file"),
            link("swapped/file"),
        ] {
            let outcome = digest(&source);
            assert!(matches!(outcome, Err(SyncError::Changed(_))), "{source:?}: {outcome:?}");
        }
    }
}
