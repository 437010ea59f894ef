//! A first sync onto a disk: the workspace as a whole file system, which the guest only has to
//! mount. A translated guest takes ten times as long to make the files itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::SystemTime;

use banger_agent::protocol::sync::{Kind, Record, RecordKind, SEED_LIST, SEED_TREE, SeedEntry};
use banger_image::ext4::{Error, Metadata, Options, Timestamp, Writer};
use nix::libc;

use super::SyncError;
use super::link::Meter;
use super::source::{Content, Sink};

/// After so many bytes more, the kernel is told to begin with writing them to the disk: the guest
/// flushes it when all is there.
const WRITE_OUT: u64 = 32 << 20;

/// A workspace's disk while it is written.
pub(super) struct Seed<'a> {
    meter: &'a Meter<'a>,
    writer: Writer,
    list: Vec<SeedEntry>,
    disk: File,
    /// Bytes that the kernel was not told of.
    untold: u64,
}

impl<'a> Seed<'a> {
    /// Begins anew on the disk at `path`, which no guest has mounted. `meter` is told of what is
    /// written.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn create(path: &Path, meter: &'a Meter<'a>) -> Result<Seed<'a>, SyncError> {
        let explain = |error: io::Error| {
            let message = format!("cannot write `{}`: {error}", path.display());
            SyncError::Disk(io::Error::new(error.kind(), message))
        };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(explain)?;
        let size = file.metadata().map_err(explain)?.len();
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let options = Options {
            label: "banger-work".to_owned(),
            time: Timestamp { seconds: now.as_secs() as i64, nanoseconds: now.subsec_nanos() },
            ..Options::disk(size)
        };
        let another = format!("{now:?} {}", path.display());
        let disk = file.try_clone().map_err(explain)?;
        let mut writer = Writer::new(file, options.derived_from(another.as_bytes()))?;
        // What is beside the tree is the agent's alone.
        writer.directory(b"", Metadata { mode: 0o700, ..Metadata::default() })?;
        Ok(Seed { meter, writer, list: Vec::new(), disk, untold: 0 })
    }

    /// Completes the file system.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn finish(mut self) -> Result<(), SyncError> {
        let list = postcard::to_stdvec(&self.list).expect("plain data has a postcard form");
        let private = Metadata { mode: 0o600, ..Metadata::default() };
        self.writer.file(SEED_LIST.as_bytes(), private, &mut &list[..])?;
        self.writer.finish()?;
        Ok(())
    }
}

impl Sink for Seed<'_> {
    fn put(&mut self, record: &Record, content: &mut Content<'_>) -> Result<(), SyncError> {
        let path = [SEED_TREE.as_bytes(), b"/", &record.path].concat();
        let mtime = Timestamp {
            seconds: record.mtime_ns.div_euclid(1_000_000_000),
            nanoseconds: record.mtime_ns.rem_euclid(1_000_000_000) as u32,
        };
        let metadata = |mode: u32| Metadata { mode: mode as u16, mtime, ..Metadata::default() };
        match record.kind {
            RecordKind::Folder => self.writer.directory(&path, metadata(0o755))?,
            RecordKind::Content(Kind::Link) => {
                let mut target = vec![0; content.left() as usize];
                let mut filled = 0;
                while content.left() > 0 {
                    filled += content.read(&mut target[filled..])?;
                }
                self.writer.symlink(&path, metadata(0o777), &target)?;
            }
            kind => {
                let mut reader = Reader { content, meter: self.meter, failure: None };
                let written = self.writer.file(&path, metadata(kind.permissions()), &mut reader);
                if let Some(failure) = reader.failure {
                    return Err(failure);
                }
                written?;
            }
        }
        self.untold += record.size;
        if self.untold >= WRITE_OUT {
            self.untold = 0;
            // SAFETY: works on the file alone. Where it is not to be had, all is written out at the
            // end.
            unsafe { libc::sync_file_range(self.disk.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        }
        self.list.push(SeedEntry { record: record.clone(), digest: content.digest() });
        Ok(())
    }
}

/// A content for the writer, which keeps what went wrong in its own words.
struct Reader<'a, 'b> {
    content: &'a mut Content<'b>,
    meter: &'a Meter<'a>,
    failure: Option<SyncError>,
}

impl Read for Reader<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer).map_err(|error| {
            self.failure = Some(error);
            io::Error::from(io::ErrorKind::Other)
        })?;
        self.meter.advance(read as u64);
        Ok(read)
    }
}

impl From<Error> for SyncError {
    fn from(error: Error) -> Self {
        SyncError::Disk(match error {
            Error::Image(error) => error,
            error => io::Error::other(error),
        })
    }
}
