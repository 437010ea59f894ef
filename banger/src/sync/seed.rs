//! A first sync onto a disk: the workspace as a whole file system, which the guest only has to
//! mount. A translated guest takes ten times as long to make the files itself.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::time::SystemTime;

use banger_agent::protocol::sync::{Kind, Record, RecordKind, SEED_LIST, SEED_TREE, SeedEntry};
use banger_image::ext4::{Error, Metadata, Options, Timestamp, Writer};
use banger_vmm::Vm;
use nix::libc;

use super::SyncError;
use super::link::Meter;
use super::source::{Content, Sink};

/// After so many bytes more, the kernel is told to begin with writing them to the disk: the guest
/// flushes it when all is there.
const WRITE_OUT: u64 = 32 << 20;

/// A workspace's disk while it is written.
pub(super) struct Seed<'a> {
    vm: &'a Vm,
    meter: &'a Meter<'a>,
    writer: Writer,
    list: Vec<SeedEntry>,
    disk: File,
    /// Bytes that the kernel was not told of.
    untold: u64,
}

impl<'a> Seed<'a> {
    /// Begins anew on the workspace's disk of `vm`, which no guest has mounted. `meter` is told of
    /// what is written.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn create(vm: &'a Vm, meter: &'a Meter<'a>) -> Result<Seed<'a>, SyncError> {
        let file = vm.open_workspace().map_err(refused)?;
        let size = file.metadata().map_err(SyncError::Disk)?.len();
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let options = Options {
            label: "banger-work".to_owned(),
            time: Timestamp { seconds: now.as_secs() as i64, nanoseconds: now.subsec_nanos() },
            ..Options::disk(size)
        };
        let another = format!("{now:?} {}", vm.folder().display());
        let disk = file.try_clone().map_err(SyncError::Disk)?;
        let mut writer = Writer::new(file, options.derived_from(another.as_bytes()))?;
        // What is beside the tree is the agent's alone.
        writer.directory(b"", Metadata { mode: 0o700, ..Metadata::default() })?;
        Ok(Seed { vm, meter, writer, list: Vec::new(), disk, untold: 0 })
    }

    /// Completes the file system, and brings it to the VM.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn finish(mut self) -> Result<(), SyncError> {
        let list = postcard::to_stdvec(&self.list).expect("plain data has a postcard form");
        let private = Metadata { mode: 0o600, ..Metadata::default() };
        self.writer.file(SEED_LIST.as_bytes(), private, &mut &list[..])?;
        self.writer.finish()?;
        self.vm.upload_workspace(self.disk).map_err(refused)
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

/// A refusal of the host that has the VM.
fn refused(error: banger_vmm::Error) -> SyncError {
    SyncError::Disk(match error {
        banger_vmm::Error::Io { path, source, .. } => {
            io::Error::new(source.kind(), format!("cannot write `{}`: {source}", path.display()))
        }
        error => io::Error::other(error),
    })
}

impl From<Error> for SyncError {
    fn from(error: Error) -> Self {
        SyncError::Disk(match error {
            Error::Image(error) => error,
            error => io::Error::other(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use banger_vmm::VmRecord;

    use super::*;
    use crate::vm::test_host::TestHost;

    #[test]
    fn a_workspace_is_uploaded_to_the_host_that_has_the_vm() {
        let host = TestHost::new([VmRecord::new("box", "image", "kernel", 0)]);
        let vm = host.store().get("box").unwrap().unwrap();
        let ignore = |_, _| {};
        let meter = Meter::new(0, &ignore);
        Seed::create(&vm, &meter).unwrap().finish().unwrap();
        // The magic number of a superblock of ext4.
        let mut magic = [0; 2];
        File::open(host.uploaded("box")).unwrap().read_exact_at(&mut magic, 1024 + 56).unwrap();
        assert_eq!(magic, [0x53, 0xef]);
    }
}
