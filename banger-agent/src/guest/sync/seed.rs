//! A disk that the host writes the first state of the workspace on, file system and all: a
//! translated guest takes ten times as long to make the files itself.
//!
//! The host puts the tree where a first sync would stage it, and [`SEED_LIST`] beside it says what
//! is in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::apply::{Arrived, Staged};
use super::tree::{self, Stamp};
use crate::guest::disks::{DISK_OPTIONS, fill_disk};
use crate::guest::paths::WORKSPACE;
use crate::protocol::sync::{SEED_LIST, SEED_TREE, SeedEntry};

/// The longest list that is read, in bytes.
const MAX_LIST: u64 = 1 << 30;

mod ioctl {
    // linux/fs.h: drops what the kernel has cached of a block device.
    nix::ioctl_none!(blkflsbuf, 0x12, 97);
}

/// The disk.
pub(super) struct SeedDisk {
    device: PathBuf,
    /// The mounted file system's root.
    mounted: Option<File>,
}

impl SeedDisk {
    pub(super) fn new(device: PathBuf) -> SeedDisk {
        SeedDisk { device, mounted: None }
    }

    /// Mounts it where the workspace is kept, unless it is there.
    pub(super) fn mount(&mut self) -> io::Result<()> {
        if self.mounted.is_some() {
            return Ok(());
        }
        // The kernel has looked at the disk when it was blank.
        let device = File::open(&self.device)?;
        // SAFETY: an open block device, and no argument.
        unsafe { ioctl::blkflsbuf(device.as_raw_fd()) }?;
        mount(Some(&self.device), WORKSPACE, Some("ext4"), MsFlags::MS_NOATIME, Some(DISK_OPTIONS))?;
        fill_disk(&self.device, Path::new(WORKSPACE));
        self.mounted = Some(File::open(WORKSPACE)?);
        Ok(())
    }

    /// Takes it away again: the host is going to write it.
    pub(super) fn unmount(&mut self) -> io::Result<()> {
        self.mounted = None;
        match umount2(WORKSPACE, MntFlags::empty()) {
            // It was not mounted.
            Ok(()) | Err(Errno::EINVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The root of the file system, where it is mounted.
    pub(super) fn root(&self) -> Option<File> {
        self.mounted.as_ref()?.try_clone().ok()
    }
}

impl Staged {
    /// What the host has put on the disk that is mounted at `disk`.
    pub(super) fn seeded(disk: &Path) -> io::Result<Staged> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let list = disk.join(SEED_LIST);
        if fs::metadata(&list)?.len() > MAX_LIST {
            return Err(bad("the list is too long"));
        }
        let entries: Vec<SeedEntry> =
            postcard::from_bytes(&fs::read(&list)?).map_err(|_| bad("the list is not understood"))?;
        fs::remove_file(&list)?;
        let mut files = std::collections::HashMap::with_capacity(entries.len());
        for SeedEntry { record, digest } in entries {
            if !tree::is_plain(&record.path) {
                return Err(bad("a path in the list is not one"));
            }
            let stamp = Stamp { size: record.size, mtime_ns: record.mtime_ns, ctime_ns: Some(record.mtime_ns) };
            files.insert(record.path, Arrived { digest, stamp, kind: record.kind });
        }
        Ok(Staged { stage: disk.join(SEED_TREE), files })
    }
}
