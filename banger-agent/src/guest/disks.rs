//! The file systems on the VM's disks.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::libc;
use nix::sys::statvfs::fstatvfs;

use super::console::console;

/// For disks that are written. Without noinit_itable the kernel fills in the inode tables behind
/// our back, and every VM's disk grows by that.
pub(super) const DISK_OPTIONS: &str = "noinit_itable,discard";

/// Blocks of a block group: a disk that is larger by less is as good as full.
const GROUP: u64 = 32768;

mod ioctl {
    // linux/fs.h: the size of a block device in bytes.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    // fs/ext4/ext4.h: extends a mounted file system to so many blocks.
    nix::ioctl_write_ptr!(resize_fs, b'f', 16, u64);
}

/// Extends the file system that is mounted at `place` to all of its disk, which the host may have
/// made larger. One that cannot be stays as it is.
pub(super) fn fill_disk(device: &Path, place: &Path) {
    let fill = || -> io::Result<()> {
        let (disk, mut bytes) = (File::open(device)?, 0);
        // SAFETY: an open block device, and room for the answer, which is 64 bits whatever its type
        // is called.
        unsafe { ioctl::blkgetsize64(disk.as_raw_fd(), &raw mut bytes) }?;
        let root = File::open(place)?;
        let blocks = bytes as u64 / fstatvfs(&root)?.block_size();
        // The mount has just read it; asking the kernel to extend what need not be reads the disk's
        // end.
        if blocks < block_count(&disk)? + GROUP {
            return Ok(());
        }
        // SAFETY: an open folder, and a number to read.
        unsafe { ioctl::resize_fs(root.as_raw_fd(), &raw const blocks) }?;
        Ok(())
    };
    if let Err(error) = fill() {
        console(&format!("cannot extend the file system at {}: {error}", place.display()));
    }
}

/// How many blocks a file system has: `s_blocks_count` (Documentation/filesystems/ext4/super.rst).
fn block_count(disk: &File) -> io::Result<u64> {
    let mut superblock = [0; 1024];
    disk.read_exact_at(&mut superblock, 1024)?;
    let half = |at: usize| u64::from(u32::from_le_bytes(std::array::from_fn(|byte| superblock[at + byte])));
    Ok(half(0x150) << 32 | half(0x04))
}

/// Writes out the file system that `fd` is on: syncfs(2).
pub(super) fn sync_file_system(fd: &impl AsRawFd) {
    // SAFETY: syncfs has no memory effects.
    unsafe { libc::syncfs(fd.as_raw_fd()) };
}
