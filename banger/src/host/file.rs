//! Replacing a file as a whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use banger_util::file::{AtomicFile, Durability};

/// Replaces the file at `path`, or makes it: a reader finds the former content, or all of the new.
/// It is written beside, synced and renamed. One that was there keeps its permissions; a new one
/// has those of `mode` that the umask leaves.
///
/// # Errors
/// If it cannot be written, or the path is no file's; what was there before is there then.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = AtomicFile::create(path, mode)?;
    if let Ok(former) = fs::metadata(path) {
        file.as_file().set_permissions(Permissions::from_mode(former.permissions().mode() & 0o777))?;
    }
    file.write_all(content)?;
    file.replace(Durability::Synced)
}

/// Makes the file at `path` anew, for its owner alone (0600) whatever the umask leaves.
///
/// # Errors
/// If it cannot be made; the message names it.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    made.map_err(|error| io::Error::new(error.kind(), format!("cannot create `{}`: {error}", path.display())))
}

/// Takes the lock of `file`. `on_wait` is called first if another process has it.
///
/// # Errors
/// The file system's refusal.
pub(crate) fn lock_or_wait(file: &File, on_wait: impl FnOnce()) -> io::Result<()> {
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        on_wait();
    }
    file.lock()
}

/// The folder and the name of a file.
pub(crate) fn parts(path: &Path) -> Option<(PathBuf, OsString)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some((folder.to_owned(), path.file_name()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_ignores_leftover_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        // As a command with this process's pid named it.
        fs::write(folder.path().join(format!(".config.toml.{}", std::process::id())), "half").unwrap();
        replace(&path, b"one", 0o600).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
