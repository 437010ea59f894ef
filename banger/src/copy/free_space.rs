//! Free space that a copy leaves on the disks that it is written to.

use std::io;
use std::os::fd::AsFd;

use nix::sys::statvfs::{Statvfs, fstatvfs};

/// The margin that stays free, in bytes; of a small file system, a hundredth of its size.
const MARGIN: u64 = 64 << 20;
/// How much may be written, in bytes and in entries, before the free space is checked again.
const STEP: (u64, u64) = (4 << 20, 1024);
/// The least that an entry takes on disk, in bytes.
const ENTRY: u64 = 4096;

/// Keeps file systems from becoming full. Calls may be about different file systems: after a check
/// of one, [`STEP`] may be written to all of them together.
#[derive(Debug, Default)]
pub struct FreeSpace {
    bytes: u64,
    entries: u64,
}

impl FreeSpace {
    /// Is called before an entry is made, and before each piece of its content, with the length of
    /// the piece in bytes, is written to the file system that `file` is on.
    ///
    /// # Errors
    /// If less than the margin would stay free, or the free space is unknown.
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
