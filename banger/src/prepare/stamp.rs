//! What was done to a VM, as a digest of what asked for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::WAITING;
use crate::error::CommandError;
use crate::host::file::lock_or_wait;
use crate::output::ui::Ui;

/// No mark is longer, in bytes.
const MAX_LENGTH: u64 = 4096;

/// A file in the VM's folder that says what was done. Held while it is looked at, and while it is
/// done: two commands at a time would be in each other's way.
pub(crate) struct Stamp {
    path: PathBuf,
    file: File,
    mark: String,
}

impl Stamp {
    /// Makes the stamp at `path` if it is missing, takes its lock, and reads it. Waits while
    /// another command holds the lock.
    ///
    /// # Errors
    /// If the file cannot be made, locked or read.
    pub(crate) fn open(path: &Path, ui: &Ui) -> Result<Stamp, CommandError> {
        Stamp::at(path, || ui.status(WAITING))
    }

    /// Opens the stamp at `path` as [`Stamp::open`] does, if there is one. None: nothing was ever
    /// done.
    ///
    /// # Errors
    /// If the file cannot be locked or read.
    pub(crate) fn find(path: &Path, ui: &Ui) -> Result<Option<Stamp>, CommandError> {
        if path.exists() { Stamp::open(path, ui).map(Some) } else { Ok(None) }
    }

    fn at(path: &Path, waits: impl FnOnce()) -> Result<Stamp, CommandError> {
        let failed = |error: &io::Error| CommandError::io("write", path, error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(|error| failed(&error))?;
        lock_or_wait(&file, waits).map_err(|error| failed(&error))?;
        let mut mark = String::new();
        // What cannot be understood is another mark than any that was written.
        let _ = (&mut file).take(MAX_LENGTH).read_to_string(&mut mark);
        Ok(Stamp { path: path.to_owned(), file, mark })
    }

    /// Whether this is what was done last.
    pub(crate) fn is(&self, mark: &str) -> bool {
        self.mark == mark
    }

    /// It is about to be done. Should it not come to its end, neither this nor what was done before
    /// holds.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn begin(&mut self) -> Result<(), CommandError> {
        self.note("")
    }

    /// Writes down what was done.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn note(&mut self, mark: &str) -> Result<(), CommandError> {
        // In one piece: half a mark is none.
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(mark.as_bytes())
        };
        write().map_err(|error| CommandError::io("write", &self.path, &error))?;
        mark.clone_into(&mut self.mark);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_stamp_is_remembered_until_the_next_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("done");
        let open = || Stamp::at(&path, || panic!("nobody has it")).unwrap();
        assert!(!open().is("a"));
        open().note("a longer mark").unwrap();
        let mut stamp = open();
        assert!(stamp.is("a longer mark"));
        stamp.note("b").unwrap();
        drop(stamp);
        assert!(open().is("b"));
        open().begin().unwrap();
        assert!(!open().is("b"));
    }
}
