//! Making a snapshot's directory: under another name beside it, until it is complete.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{FILE, SnapshotInfo, copy_disk};
use crate::error::{Failure, IoContext, Result};
use crate::file;

/// A snapshot that is being made. A maker that dies leaves it behind, for the next one of the same
/// place to remove.
#[derive(Debug)]
pub(crate) struct Making {
    /// Where it is made.
    path: PathBuf,
    /// Where it will be.
    place: PathBuf,
    /// Files that are not on the disk yet.
    unsynced: Vec<(PathBuf, File)>,
    /// Tells that the maker lives.
    _lock: File,
}

impl Making {
    /// Begins a snapshot that will be the directory `place`.
    ///
    /// # Errors
    /// There is something already, or the file system's refusal.
    pub(crate) fn begin(place: &Path) -> Result<Making, Failure> {
        let refuse = |reason: &str| Failure::new(format!("cannot make the snapshot {}: {reason}", place.display()));
        let (Some(parent), Some(name), true) = (place.parent(), place.file_name(), place.is_absolute()) else {
            return Err(refuse("not the path of a directory, from the root"));
        };
        // A link is something too, wherever it leads.
        if place.symlink_metadata().is_ok() {
            return Err(refuse("something of that name exists").with_hint("choose another directory"));
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".making");
        let path = parent.join(hidden);
        for _ in 0..2 {
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match path.symlink_metadata() {
                    Ok(there) if !there.is_dir() => {
                        // No maker's: it is neither opened nor followed.
                        fs::remove_file(&path).at("remove", &path)?;
                    }
                    _ => {
                        let _lock = lock(&path)?.ok_or_else(|| refuse("another one of that name is being made"))?;
                        // Its maker is dead.
                        fs::remove_dir_all(&path).at("remove", &path)?;
                    }
                },
                made => {
                    made.at("create", &path)?;
                    let lock = lock(&path)?.ok_or_else(|| refuse("another one of that name is being made"))?;
                    return Ok(Making { path, place: place.to_owned(), unsynced: Vec::new(), _lock: lock });
                }
            }
        }
        Err(refuse("another one of that name is being made"))
    }

    /// Where the VMM puts its files.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Copies a disk of the VM in the directory `vm`.
    ///
    /// # Errors
    /// The file system's refusal; or it was cancelled.
    pub(crate) fn copy(&mut self, vm: &Path, disk: &str, is_cancelled: &dyn Fn() -> bool) -> Result<()> {
        let path = self.path.join(disk);
        let from = vm.join(disk);
        let file = copy_disk(&File::open(&from).at("open", &from)?, &path, is_cancelled)?;
        self.unsynced.push((path, file));
        Ok(())
    }

    /// Completes the snapshot: it is there, and on the disk, or there is none.
    ///
    /// # Errors
    /// There is something by now, or the file system's refusal.
    pub(crate) fn complete(self, info: &SnapshotInfo) -> Result<()> {
        let completed = self.sync_and_rename(info);
        if completed.is_err() {
            self.discard();
        }
        completed
    }

    fn sync_and_rename(&self, info: &SnapshotInfo) -> Result<()> {
        self.unsynced.iter().try_for_each(|(path, file)| file.sync_all().at("write", path))?;
        file::write_json(&self.path.join(FILE), info)?;
        file::sync_folder(&self.path)?;
        renameat2(AT_FDCWD, &self.path, AT_FDCWD, &self.place, RenameFlags::RENAME_NOREPLACE)
            .at("make", &self.place)?;
        file::sync_folder(self.place.parent().unwrap_or(Path::new("/")))
    }

    /// Removes what there is of it.
    pub(crate) fn discard(&self) {
        // The next one of the same place tries it again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The lock of a directory, never of what a link leads to. None: somebody has it.
fn lock(path: &Path) -> Result<Option<File>> {
    let lock = file::open_directory(path).at("open", path)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error).at("lock", path),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn place_that_is_taken_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("s");
        let refused = |place: &Path| Making::begin(place).unwrap_err().message;
        fs::create_dir(&place).unwrap();
        assert!(refused(&place).ends_with("something of that name exists"));
        fs::remove_dir(&place).unwrap();
        symlink("/nowhere", &place).unwrap();
        assert!(refused(&place).ends_with("something of that name exists"));
        fs::remove_file(&place).unwrap();
        assert!(refused(Path::new("s")).ends_with("from the root"));
        assert!(refused(Path::new("/")).ends_with("from the root"));
        assert!(refused(&folder.path().join("none/s")).contains("No such file"));
    }

    #[test]
    fn what_a_dead_maker_left_is_removed_and_a_live_one_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("s");
        let making = Making::begin(&place).unwrap();
        fs::write(making.path().join("state"), "half").unwrap();
        assert!(Making::begin(&place).unwrap_err().message.ends_with("is being made"));
        let path = making.path().to_owned();
        drop(making);
        let making = Making::begin(&place).unwrap();
        assert_eq!(making.path(), path);
        assert!(fs::read_dir(&path).unwrap().next().is_none());
        making.discard();
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
        // A link where it is made leads nobody elsewhere.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("kept"), "").unwrap();
        symlink(elsewhere.path(), &path).unwrap();
        // Nor is the link's target locked.
        let kept = File::open(elsewhere.path()).unwrap();
        kept.lock().unwrap();
        Making::begin(&place).unwrap().discard();
        assert!(elsewhere.path().join("kept").exists());
        fs::write(&path, "").unwrap();
        Making::begin(&place).unwrap().discard();
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert_eq!(Making::begin(&place).unwrap().path(), path);
        assert!(path.is_dir());
    }
}
