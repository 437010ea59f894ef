//! Files that are replaced as a whole: a reader finds the former content, or all of the new.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// What is certain about a file that has been put in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The content and then the name are on the disk: a loss of power leaves the former file or the
    /// new one.
    Synced,
    /// Nothing is waited for: a loss of power may also leave a part of the new content. For what is
    /// checksummed, or can be made again.
    Unsynced,
}

/// A file that is written beside its place, and removed if it does not get there.
///
/// Until then it is called `.NAME.` and random characters, in the same directory. It lies there for
/// good if the process is killed meanwhile: see [`remove_unfinished`].
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// An empty file for `path`, with those of the permission bits `mode` that the umask leaves.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidFilename`] if `path` names no file; the file system's refusal.
    pub fn create(path: &Path, mode: u32) -> io::Result<AtomicFile> {
        let prefix = prefix(path)?;
        let permissions = Permissions::from_mode(mode);
        let file = tempfile::Builder::new().prefix(&prefix).permissions(permissions).tempfile_in(directory(path))?;
        Ok(AtomicFile { file, path: path.to_owned() })
    }

    /// The file beside.
    pub fn as_file(&self) -> &File {
        self.file.as_file()
    }

    /// Puts the file in its place, instead of one that is there.
    ///
    /// # Errors
    /// The file system's refusal. If the new file could not be written, synced or renamed, the
    /// former one is there.
    pub fn replace(self, durability: Durability) -> io::Result<()> {
        self.sync(durability)?;
        self.file.persist(&self.path)?;
        sync_name(&self.path, durability)
    }

    /// Puts the file in its place unless there is one. False: there is, and it stays.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn put_new(self, durability: Durability) -> io::Result<bool> {
        self.sync(durability)?;
        match self.file.persist_noclobber(&self.path) {
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            put => put?,
        };
        sync_name(&self.path, durability)?;
        Ok(true)
    }

    fn sync(&self, durability: Durability) -> io::Result<()> {
        match durability {
            Durability::Synced => self.as_file().sync_all(),
            Durability::Unsynced => Ok(()),
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.as_file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Replaces the file at `path`, or makes it, with those of the permission bits `mode` that the
/// umask leaves.
///
/// # Errors
/// As [`AtomicFile::create`] and [`AtomicFile::replace`].
pub fn replace(path: &Path, content: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let mut file = AtomicFile::create(path, mode)?;
    file.write_all(content)?;
    file.replace(durability)
}

/// [`replace`] for the only writer of a file, such as who holds its lock: what writers have left
/// beside it that were killed is removed before.
///
/// # Errors
/// As [`replace`] and [`remove_unfinished`].
pub fn replace_exclusive(path: &Path, content: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    remove_unfinished(path)?;
    replace(path, content, mode, durability)
}

/// Removes what writers of the file at `path` have left beside it that were killed. For who alone
/// writes it: the file of a writer that lives would go too.
///
/// # Errors
/// The file system's refusal. A directory that is not there has nothing to remove.
pub fn remove_unfinished(path: &Path) -> io::Result<()> {
    let prefix = prefix(path)?;
    let entries = match fs::read_dir(directory(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes a directory, and those above it that are missing, for their owner alone (0700). One that is
/// there stays as it is.
///
/// # Errors
/// The file system's refusal.
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the names in a directory last: what was made, renamed or removed there stays so after a
/// loss of power.
///
/// # Errors
/// The file system's refusal.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        // A directory may be one to write to and not to read, and of a file system that syncs none:
        // fsync(2), EINVAL. The files in it are safe all the same.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => Ok(()),
        synced => synced,
    }
}

/// Whether `file` is what is at `path` now. A file that is held open, for its lock or to follow it,
/// may have been renamed away or replaced.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// The directory of the file at `path`.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What the names of files for `path` start with until they are in their place.
fn prefix(path: &Path) -> io::Result<OsString> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    Ok(prefix)
}

fn sync_name(path: &Path, durability: Durability) -> io::Result<()> {
    match durability {
        Durability::Synced => sync_directory(directory(path)),
        Durability::Unsynced => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn replace_leaves_one_file_with_the_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for (content, durability) in [("one", Durability::Synced), ("two", Durability::Unsynced)] {
            replace(&path, content.as_bytes(), 0o600, durability).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(directory.path()), ["state.json"]);
    }

    #[test]
    fn unfinished_file_is_removed_and_former_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        replace(&path, b"former", 0o600, Durability::Unsynced).unwrap();
        let mut beside = AtomicFile::create(&path, 0o600).unwrap();
        beside.write_all(b"half").unwrap();
        assert_eq!(names(directory.path()).len(), 2);
        drop(beside);
        assert_eq!(names(directory.path()), ["state.json"]);
        assert_eq!(fs::read(&path).unwrap(), b"former");
    }

    #[test]
    fn put_new_keeps_existing_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let put = |content: &[u8]| {
            let mut file = AtomicFile::create(&path, 0o600).unwrap();
            file.write_all(content).unwrap();
            file.put_new(Durability::Synced).unwrap()
        };
        assert!(put(b"one") && !put(b"two"));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(names(directory.path()), ["key"]);
    }

    #[test]
    fn remove_unfinished_takes_only_files_of_that_name() {
        let directory = tempfile::tempdir().unwrap();
        for name in [".log.x1", ".log.", "log", ".login.x", ".other.x"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        remove_unfinished(&directory.path().join("log")).unwrap();
        assert_eq!(names(directory.path()), [".login.x", ".other.x", "log"]);
        remove_unfinished(&directory.path().join("missing/log")).unwrap();
    }

    #[test]
    fn replace_exclusive_removes_what_killed_writers_left() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(".log.x1"), "half").unwrap();
        replace_exclusive(&directory.path().join("log"), b"whole", 0o600, Durability::Unsynced).unwrap();
        assert_eq!(names(directory.path()), ["log"]);
    }

    #[test]
    fn path_without_a_name_is_an_error() {
        for path in ["/", "..", ""] {
            let error = replace(Path::new(path), b"", 0o600, Durability::Unsynced).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidFilename, "{path}");
        }
    }

    #[test]
    fn replaced_file_is_no_longer_at_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let file = File::create(&path).unwrap();
        assert!(is_at(&file, &path));
        replace(&path, b"", 0o600, Durability::Unsynced).unwrap();
        assert!(!is_at(&file, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path));
    }
}
