//! Temporary directories that are known for leftovers when their process was killed.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use banger_util::file::create_private_directory;
use tempfile::TempDir;

/// The file that is locked while directories are made and swept.
const LOCK: &str = ".lock";

/// A temporary directory of this process, which holds a lock on it. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct ScratchDirectory {
    directory: TempDir,
    #[expect(dead_code, reason = "closing the file is what unlocks it")]
    lock: File,
}

impl ScratchDirectory {
    /// Makes one in `parent`, which is made too, for its owner alone. Those of processes that were
    /// killed are removed first.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn create(parent: &Path) -> io::Result<ScratchDirectory> {
        create_private_directory(parent)?;
        let turn = File::options().create(true).write(true).truncate(false).open(parent.join(LOCK))?;
        turn.lock()?;
        for entry in fs::read_dir(parent)?.flatten().filter(|entry| entry.file_name() != LOCK) {
            let path = entry.path();
            if File::open(&path).is_ok_and(|leftover| leftover.try_lock().is_ok()) {
                // What cannot be removed now is tried the next time.
                let _ = fs::remove_dir_all(&path);
            }
        }
        let directory = TempDir::new_in(parent)?;
        let lock = File::open(directory.path())?;
        lock.lock()?;
        Ok(ScratchDirectory { directory, lock })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn leftovers_are_removed_and_those_in_use_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let parent = folder.path().join("cache/fetch");
        let first = ScratchDirectory::create(&parent).unwrap();
        let leftover = parent.join("leftover/objects");
        fs::create_dir_all(&leftover).unwrap();
        let second = ScratchDirectory::create(&parent).unwrap();
        assert!(first.path().is_dir() && second.path().is_dir() && !leftover.exists());
        assert_eq!(fs::metadata(&parent).unwrap().permissions().mode() & 0o777, 0o700);
        drop((first, second));
        let left: Vec<_> = fs::read_dir(&parent).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [LOCK]);
    }
}
