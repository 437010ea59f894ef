//! Git references in the guest, as plain files: gitrepository-layout(5), and packed-refs as
//! git-pack-refs(1) writes it.
//!
//! The image may have no git, so the agent reads and writes them itself. It keeps git's own
//! locking: `<ref>.lock`, made exclusively.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The references of one repository.
pub(super) struct References {
    git: PathBuf,
}

impl References {
    /// Of the repository whose `.git` folder this is.
    pub(super) fn new(git: PathBuf) -> Self {
        References { git }
    }

    /// The value of `name`: an object id, or `ref: ` and a name.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.git.join(name)) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(error) if is_absent(&error) => Ok(self.packed()?.remove(name)),
            Err(error) => Err(error),
        }
    }

    /// Every reference with its value, `HEAD` among them.
    pub(super) fn all(&self) -> io::Result<BTreeMap<String, String>> {
        let mut all = self.packed()?;
        let mut folders = vec!["refs".to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(self.git.join(&folder)).into_iter().flatten() {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let name = format!("{folder}/{name}");
                if entry.file_type()?.is_dir() {
                    folders.push(name);
                } else if !name.ends_with(".lock")
                    && let Ok(text) = fs::read_to_string(entry.path())
                {
                    all.insert(name, text.trim_end().to_owned());
                }
            }
        }
        if let Ok(head) = fs::read_to_string(self.git.join("HEAD")) {
            all.insert("HEAD".into(), head.trim_end().to_owned());
        }
        Ok(all)
    }

    /// Gives `name` a value, or removes it.
    ///
    /// # Errors
    /// If another process holds the reference's lock, or a reference's name is a folder of
    /// another's.
    pub(super) fn write(&self, name: &str, value: Option<&str>) -> io::Result<()> {
        let path = self.git.join(name);
        let parent = path.parent().unwrap_or(&self.git);
        fs::create_dir_all(parent)?;
        let lock = Lock::take(&path)?;
        let Some(value) = value else {
            self.unpack(name)?;
            match fs::remove_file(&path) {
                Err(error) if !is_absent(&error) => return Err(error),
                _ => {}
            }
            drop(lock);
            remove_empty_parents(parent, &self.git.join("refs"));
            return Ok(());
        };
        // An empty folder of that name is what is left of references that were beneath it.
        let _ = fs::remove_dir(&path);
        lock.commit(format!("{value}\n").as_bytes())
    }

    /// Removes the locks of processes that went down with an earlier guest. To be called while
    /// nobody of this one can have any.
    pub(super) fn break_locks(&self) -> io::Result<()> {
        let mut folders = vec![self.git.join("refs")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if entry.file_name().as_encoded_bytes().ends_with(b".lock") {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        for name in ["HEAD.lock", "packed-refs.lock"] {
            match fs::remove_file(self.git.join(name)) {
                Err(error) if !is_absent(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// What `packed-refs` holds.
    fn packed(&self) -> io::Result<BTreeMap<String, String>> {
        let text = match fs::read_to_string(self.git.join("packed-refs")) {
            Ok(text) => text,
            Err(error) if is_absent(&error) => String::new(),
            Err(error) => return Err(error),
        };
        Ok(text.lines().filter_map(packed_line).map(|(value, name)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Takes `name` out of `packed-refs`.
    fn unpack(&self, name: &str) -> io::Result<()> {
        let path = self.git.join("packed-refs");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let without = without(&text, name);
        if without.len() == text.len() { Ok(()) } else { Lock::take(&path)?.commit(without.as_bytes()) }
    }
}

/// A line `<object id> <name>`; comments and peeled values (`^<object id>`) are none.
fn packed_line(line: &str) -> Option<(&str, &str)> {
    if line.starts_with(['#', '^']) { None } else { line.split_once(' ') }
}

/// The text of `packed-refs` without `name` and its peeled value.
fn without(text: &str, name: &str) -> String {
    let mut skipping = false;
    let keep = text.split_inclusive('\n').filter(|line| {
        if !line.starts_with('^') {
            skipping = packed_line(line.trim_end()).is_some_and(|(_, this)| this == name);
        }
        !skipping
    });
    keep.collect()
}

fn remove_empty_parents<'a>(mut folder: &'a Path, top: &'a Path) {
    while folder.starts_with(top) && folder.components().count() > top.components().count() + 1 {
        if fs::remove_dir(folder).is_err() {
            return;
        }
        folder = folder.parent().unwrap_or(top);
    }
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

/// A git lock file.
struct Lock {
    path: PathBuf,
    target: PathBuf,
    file: File,
    /// Not renamed into place: whatever has its name after that is another's.
    held: bool,
}

impl Lock {
    fn take(target: &Path) -> io::Result<Lock> {
        let mut path = target.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| {
            let held = error.kind() == io::ErrorKind::AlreadyExists;
            let what = if held { "another git process in the guest holds".into() } else { format!("{error}:") };
            io::Error::new(error.kind(), format!("{what} `{}`", path.display()))
        })?;
        Ok(Lock { path, target: target.to_owned(), file, held: true })
    }

    fn commit(mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all(content)?;
        fs::rename(&self.path, &self.target)?;
        self.held = false;
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.held {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn repository() -> (tempfile::TempDir, References) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("refs/heads")).unwrap();
        let packed = format!(
            "# pack-refs with: peeled fully-peeled sorted \n{A} refs/heads/x/y\n{A} refs/tags/v1\n^{B}\n{B} refs/tags/v2\n"
        );
        fs::write(folder.path().join("packed-refs"), packed).unwrap();
        fs::write(folder.path().join("HEAD"), "ref: refs/heads/x/y\n").unwrap();
        let references = References::new(folder.path().to_owned());
        (folder, references)
    }

    #[test]
    fn loose_ref_overrides_packed_and_removal_affects_both() {
        let (folder, references) = repository();
        assert_eq!(references.read("refs/heads/x/y").unwrap().as_deref(), Some(A));
        references.write("refs/heads/x/y", Some(B)).unwrap();
        assert_eq!(references.read("refs/heads/x/y").unwrap().as_deref(), Some(B));
        references.write("refs/heads/x/y", None).unwrap();
        assert_eq!(references.read("refs/heads/x/y").unwrap(), None);
        references.write("refs/tags/v1", None).unwrap();
        let packed = fs::read_to_string(folder.path().join("packed-refs")).unwrap();
        assert_eq!(packed, format!("# pack-refs with: peeled fully-peeled sorted \n{B} refs/tags/v2\n"));
        // The folder of a removed reference does not stand in the way of one by its name.
        references.write("refs/heads/x", Some(A)).unwrap();
        let all = references.all().unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all["HEAD"], "ref: refs/heads/x/y");
    }

    #[test]
    fn existing_git_lock_is_respected() {
        let (folder, references) = repository();
        fs::write(folder.path().join("HEAD.lock"), "").unwrap();
        assert!(references.write("HEAD", Some(A)).is_err());
        assert!(folder.path().join("HEAD.lock").exists());
    }

    #[test]
    fn stale_git_locks_are_broken() {
        let (folder, references) = repository();
        for lock in ["HEAD.lock", "packed-refs.lock", "refs/heads/main.lock"] {
            fs::write(folder.path().join(lock), "").unwrap();
        }
        references.break_locks().unwrap();
        assert_eq!(references.all().unwrap().len(), 4);
        for name in ["HEAD", "refs/heads/main"] {
            references.write(name, Some(A)).unwrap();
            assert!(!folder.path().join(format!("{name}.lock")).exists());
        }
        references.write("refs/tags/v2", None).unwrap();
    }
}
