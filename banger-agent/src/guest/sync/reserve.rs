//! Room on a disk that is kept for the agent: a guest that has filled its disk can still be synced,
//! as long as what comes is small.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

/// The name of the file, in a directory of the agent's own.
const NAME: &str = "reserve";
/// The most that is kept, in bytes.
const LARGEST: u64 = 16 << 20;
/// The part of a disk that is kept, at most.
const PART: u64 = 64;
/// A file system has no whole block for less, in bytes.
const SMALLEST: u64 = 64 << 10;

/// A file that has blocks and no content (fallocate(2)): they take no room on the host.
///
/// Root in the guest may use the blocks that ext4 reserves for root, so those are no help.
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve of the disk that the directory `folder` is on.
    pub(super) fn new(folder: &Path) -> Reserve {
        Reserve { path: folder.join(NAME) }
    }

    /// Gives the room up if the disk has no other. Best effort: what then fails says why.
    pub(super) fn spend(&self) {
        if self.free().is_ok_and(|(free, most)| free < most) {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Keeps room again, as much as there is.
    ///
    /// # Errors
    /// The file system's; then no room is kept.
    pub(super) fn restore(&self) -> io::Result<()> {
        let kept = fs::metadata(&self.path).map_or(0, |file| file.len());
        let (free, most) = self.free()?;
        let mut wanted = most.min(free + kept);
        if kept >= wanted || wanted < SMALLEST {
            return Ok(());
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        loop {
            match fallocate(&file, FallocateFlags::empty(), 0, wanted as i64) {
                Ok(()) => return Ok(()),
                // The file system needs some of it for itself, or a command was faster.
                Err(Errno::ENOSPC) if wanted / 2 >= SMALLEST => {
                    file.set_len(0)?;
                    wanted /= 2;
                }
                Err(error) => {
                    let _ = fs::remove_file(&self.path);
                    return Err(error.into());
                }
            }
        }
    }

    /// How many bytes are free on the disk, and how many are kept at most.
    fn free(&self) -> io::Result<(u64, u64)> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let found = statvfs(folder)?;
        let block = found.fragment_size();
        // Not `blocks_free`: some of those are ext4's own (`s_resv_clusters`).
        Ok((found.blocks_available() * block, LARGEST.min(found.blocks() * block / PART)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn reserve_is_kept_while_other_space_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(folder.path());
        reserve.spend();
        reserve.restore().unwrap();
        let kept = fs::metadata(&reserve.path).unwrap();
        let (free, most) = reserve.free().unwrap();
        assert_eq!(kept.len(), most);
        assert!(kept.blocks() * 512 >= most, "{kept:?}");
        assert!(free > most, "a disk of the tests is not full");
        reserve.spend();
        reserve.restore().unwrap();
        assert_eq!(fs::metadata(&reserve.path).unwrap().ino(), kept.ino());
    }
}
