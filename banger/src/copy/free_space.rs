//! Room that a copy leaves on the disks that it is written to.

use std::io;
use std::os::fd::AsFd;

use nix::sys::statvfs::{Statvfs, fstatvfs};

/// The most that stays free, in bytes; of a file system that is small, a hundredth does.
const MARGIN: u64 = 64 << 20;
/// How much is written, in bytes and in entries, before the file system is asked again.
const STEP: (u64, u64) = (4 << 20, 1024);
/// What an entry takes at least, in bytes.
const ENTRY: u64 = 4096;

/// Sees that a file system does not become full. It may be another one at each call: what was asked
/// of one is good for [`STEP`] on all.
#[derive(Debug, Default)]
pub struct FreeSpace {
    bytes: u64,
    entries: u64,
}

impl FreeSpace {
    /// Before an entry is made, and before each of its pieces, with their bytes, is written to the
    /// file system that `file` is on.
    ///
    /// # Errors
    /// If less than the margin would stay free, or it cannot be said.
    pub fn take(&mut self, file: impl AsFd, bytes: u64) -> io::Result<()> {
        let bytes = bytes.max(ENTRY);
        if self.bytes < bytes || self.entries == 0 {
            (self.bytes, self.entries) = room(&fstatvfs(file)?);
            if self.bytes < bytes || self.entries == 0 {
                let why = "the file system is nearly full, and a copy leaves some of it free";
                return Err(io::Error::new(io::ErrorKind::StorageFull, why));
            }
            (self.bytes, self.entries) = (self.bytes.min(STEP.0), self.entries.min(STEP.1));
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.entries -= 1;
        Ok(())
    }
}

/// How many bytes and entries may still be written.
fn room(stat: &Statvfs) -> (u64, u64) {
    let unit = stat.fragment_size();
    let margin = MARGIN.min(stat.blocks().saturating_mul(unit) / 100);
    let bytes = match stat.blocks() {
        // It does not say, as some of FUSE do not.
        0 => u64::MAX,
        _ => stat.blocks_available().saturating_mul(unit).saturating_sub(margin),
    };
    // Some file systems make inodes as they need them, and count none.
    let entries = match stat.files() {
        0 => u64::MAX,
        files => stat.files_available().saturating_sub(files / 100),
    };
    (bytes, entries)
}
