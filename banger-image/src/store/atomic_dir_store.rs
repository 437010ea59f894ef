//! A folder of finished things: each is whole or absent, and made once.
//!
//! ```text
//! <root>/<name>/        finished
//! <root>/.<name>.lock   held (flock) by whoever makes <name>, and removed by it
//! <root>/.tmp-<name>/   being made, or left by a maker that was killed
//! <root>/<alias>        a symbolic link to <name>
//! ```

use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};

use banger_util::file::is_at;
use fs_err as fs;

use crate::error::Result;
use crate::files::create_private;
use crate::kind::Kind;
use crate::name;
use crate::progress::Progress;
use crate::recipe::namespace;

/// The entries of a directory, each of which appears and disappears atomically.
#[derive(Debug, Clone)]
pub(crate) struct AtomicDirStore {
    root: PathBuf,
}

impl AtomicDirStore {
    pub(crate) fn new(root: PathBuf) -> AtomicDirStore {
        AtomicDirStore { root }
    }

    /// Where `name` is, if it is there.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// What a name leads to, if it is an alias; else the name itself, whatever is there.
    pub(crate) fn resolve(&self, name: &str) -> String {
        let target = std::fs::read_link(self.path_of(name)).ok();
        let target = target.and_then(|target| target.into_os_string().into_string().ok());
        target.filter(|target| name::check(Kind::Image, target).is_ok()).unwrap_or_else(|| name.to_owned())
    }

    /// Makes `alias` lead to `name`, in the place of what it led to. The caller holds the alias's
    /// lock.
    pub(crate) fn point(&self, alias: &str, name: &str) -> Result<()> {
        let temporary = self.root.join(format!(".link-{alias}"));
        remove_file(&temporary)?;
        fs::os::unix::fs::symlink(name, &temporary)?;
        fs::rename(&temporary, self.path_of(alias))?;
        Ok(fs::File::open(&self.root)?.sync_all()?)
    }

    /// Removes an alias if it leads to `name`.
    pub(crate) fn unpoint(&self, alias: &str, name: &str) -> Result<()> {
        match self.resolve(alias) == name && alias != name {
            true => remove_file(&self.path_of(alias)),
            false => Ok(()),
        }
    }

    /// All that is there, by whatever name.
    fn entries(&self) -> Result<Vec<fs::DirEntry>> {
        match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => Ok(entries?.collect::<io::Result<_>>()?),
        }
    }

    /// All finished things, by name, and without aliases.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.entries()? {
            let name = entry.file_name().into_string().ok().filter(|name| name::check(Kind::Image, name).is_ok());
            names.extend(name.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())));
        }
        names.sort();
        Ok(names)
    }

    /// Keeps everything from being removed while the returned file is open; `alone` waits for all
    /// others who have one.
    pub(crate) fn hold(&self, alone: bool) -> Result<fs::File> {
        create_private(&self.root)?;
        let folder = fs::File::open(&self.root)?;
        if alone {
            folder.file().lock()?
        } else {
            folder.file().lock_shared()?
        }
        Ok(folder)
    }

    /// Removes a finished thing. It is gone at once, or not at all.
    pub(crate) fn remove(&self, name: &str, progress: &dyn Progress) -> Result<()> {
        let _lock = self.lock(name, progress)?;
        let temporary = self.root.join(format!(".tmp-{name}"));
        remove(&temporary)?;
        fs::rename(self.path_of(name), &temporary)?;
        fs::File::open(&self.root)?.sync_all()?;
        remove(&temporary)
    }

    /// What `find` finds, after `make` has filled an empty folder with it if need be.
    ///
    /// Of several callers, in whatever process, one makes it and the others wait.
    pub(crate) fn ensure<T>(
        &self,
        name: &str,
        progress: &dyn Progress,
        find: impl Fn() -> Result<Option<T>>,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<T> {
        if let Some(found) = find()? {
            return Ok(found);
        }
        create_private(&self.root)?;
        // Freed by the kernel when this process ends, however it ends.
        let _lock = self.lock(name, progress)?;
        if let Some(found) = find()? {
            return Ok(found);
        }
        self.make(name, make)?;
        find()?.ok_or_else(|| {
            let place = self.path_of(name);
            io::Error::new(io::ErrorKind::NotFound, format!("`{}` was made and is gone", place.display())).into()
        })
    }

    /// The folders that makers which were killed have left.
    pub(crate) fn leftovers(&self) -> Result<Vec<PathBuf>> {
        Ok(self.left()?.into_iter().map(|(folder, _)| folder).collect())
    }

    /// Removes what [`AtomicDirStore::leftovers`] finds, and the locks that nobody holds.
    pub(crate) fn sweep(&self) -> Result<()> {
        self.left()?.iter().try_for_each(|(folder, _lock)| remove(folder))?;
        for entry in self.entries()? {
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".lock"));
            // One that is taken goes when it is let go.
            name.map(|name| self.try_lock(name)).transpose()?;
        }
        Ok(())
    }

    /// What was left half-made, each with the lock that keeps another maker away.
    fn left(&self) -> Result<Vec<(PathBuf, Lock)>> {
        let mut left = Vec::new();
        for entry in self.entries()? {
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix(".tmp-")) else { continue };
            left.extend(self.try_lock(name)?.ok().map(|lock| (entry.path(), lock)));
        }
        Ok(left)
    }

    /// Waits until nobody else makes, removes or renames `name`, and keeps it so for as long as the
    /// lock is held.
    pub(crate) fn lock(&self, name: &str, progress: &dyn Progress) -> Result<Lock> {
        let mut is_told = false;
        loop {
            let lock = match self.try_lock(name)? {
                Ok(lock) => return Ok(lock),
                Err(file) => file,
            };
            if !is_told {
                progress.message(&format!("another banger is making `{name}`: waiting for it"));
                is_told = true;
            }
            // Who held it has removed it: the next turn takes another one.
            lock.file().lock()?;
        }
    }

    /// Takes a lock if nobody holds it; else its file.
    fn try_lock(&self, name: &str) -> Result<std::result::Result<Lock, fs::File>> {
        let path = self.root.join(format!(".{name}.lock"));
        loop {
            let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            match file.file().try_lock() {
                Ok(()) if is_at(file.file(), &path) => return Ok(Ok(Lock { path, _file: file })),
                // It was removed between the two.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Err(file)),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
    }

    /// Makes `name` in a temporary sibling and moves it into place. The caller holds the lock.
    fn make(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let temporary = self.root.join(format!(".tmp-{name}"));
        remove(&temporary)?;
        create_private(&temporary)?;
        let made = make(&temporary).and_then(|()| self.publish(&temporary, name));
        if made.is_err() {
            // The first failure is the one to tell; what stays is removed by the next attempt.
            let _ = remove(&temporary);
        }
        made
    }

    fn publish(&self, temporary: &Path, name: &str) -> Result<()> {
        sync_tree(temporary)?;
        let place = self.path_of(name);
        // What is there is of no use, else it had been found: a part of it was removed by hand.
        remove(&place)?;
        fs::rename(temporary, &place)?;
        fs::File::open(&self.root)?.sync_all()?;
        Ok(())
    }
}

/// A lock that is held; its file goes with it.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: fs::File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held: who waits for it finds out that it is gone, and takes a new one.
        // One that stays is in nobody's way.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a file if it is there.
fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => Ok(removed?),
    }
}

/// Removes a tree if it is there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A killed build leaves folders of the user's subordinate ids.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => namespace::remove_tree(path),
        removed => Ok(removed?),
    }
}

/// Brings every file and folder of a tree to the disk.
fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;
    use crate::error::Error;

    /// Counts the messages.
    #[derive(Default)]
    struct Messages(AtomicUsize);

    impl Progress for Messages {
        fn phase(&self, _: &str) {}
        fn advance(&self, _: u64, _: u64) {}
        fn message(&self, _: &str) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn find(store: &AtomicDirStore) -> Result<Option<String>> {
        Ok(fs::read_to_string(store.path_of("thing").join("file")).ok())
    }

    fn fill(folder: &Path) -> Result<()> {
        Ok(fs::write(folder.join("file"), "whole")?)
    }

    #[test]
    fn sweep_removes_leftovers_but_not_builds_in_progress() {
        let folder = tempfile::tempdir().unwrap();
        let store = AtomicDirStore::new(folder.path().join("things"));
        assert!(store.leftovers().unwrap().is_empty());
        let made = store.ensure(
            "mine",
            &Messages::default(),
            || Ok(store.path_of("mine").exists().then_some(())),
            |_| {
                fs::create_dir(store.root.join(".tmp-other")).unwrap();
                assert_eq!(store.leftovers()?, [store.root.join(".tmp-other")]);
                store.sweep()
            },
        );
        made.unwrap();
        assert!(store.path_of("mine").exists() && !store.root.join(".tmp-other").exists());
    }

    #[test]
    fn concurrent_ensure_builds_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = AtomicDirStore::new(dir.path().join("store"));
        let (made, messages) = (AtomicUsize::new(0), Messages::default());
        let inside = Barrier::new(2);
        let make = |folder: &Path| {
            made.fetch_add(1, Ordering::Relaxed);
            inside.wait();
            while messages.0.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            fill(folder)
        };
        thread::scope(|scope| {
            let first = scope.spawn(|| store.ensure("thing", &messages, || find(&store), make));
            inside.wait();
            let second = scope.spawn(|| store.ensure("thing", &messages, || find(&store), |_| unreachable!()));
            assert_eq!(first.join().unwrap().unwrap(), "whole");
            assert_eq!(second.join().unwrap().unwrap(), "whole");
        });
        assert_eq!(made.into_inner(), 1);
        assert_eq!(messages.0.into_inner(), 1);
    }

    #[test]
    fn failed_build_leaves_nothing_and_can_be_retried() {
        let dir = tempfile::tempdir().unwrap();
        let store = AtomicDirStore::new(dir.path().to_owned());
        let fail = |folder: &Path| {
            fill(folder)?;
            Err(Error::from(io::Error::from(io::ErrorKind::StorageFull)))
        };
        store.ensure("thing", &Messages::default(), || find(&store), fail).unwrap_err();
        let left = || fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(left(), [""; 0]);
        store.ensure("thing", &Messages::default(), || find(&store), fill).unwrap();
        assert_eq!(left(), ["thing"]);
        // What killed processes and older versions have left.
        fs::write(dir.path().join(".old.lock"), "").unwrap();
        let held = store.lock("thing", &Messages::default()).unwrap();
        store.sweep().unwrap();
        assert!(dir.path().join(".thing.lock").exists() && left().len() == 2);
        drop(held);
        assert_eq!(left(), ["thing"]);
    }

    #[test]
    fn lock_file_removal_keeps_mutual_exclusion() {
        let dir = tempfile::tempdir().unwrap();
        let store = AtomicDirStore::new(dir.path().to_owned());
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let _lock = store.lock("thing", &Messages::default()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_of_a_killed_builder_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = AtomicDirStore::new(dir.path().to_owned());
        // A maker in another process: it holds the lock, has made half of the thing, and is killed.
        let script =
            "exec 9>.thing.lock; flock 9; mkdir -p .tmp-thing/deep; echo half > .tmp-thing/file; echo; exec sleep 600";
        let mut maker = Command::new("bash")
            .args(["-c", script])
            .current_dir(dir.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        io::Read::read_exact(maker.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert_eq!(find(&store).unwrap(), None);
        let messages = Messages::default();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| store.ensure("thing", &messages, || find(&store), fill));
            while messages.0.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            maker.kill().unwrap();
            maker.wait().unwrap();
            assert_eq!(waiting.join().unwrap().unwrap(), "whole");
        });
        assert!(!dir.path().join(".tmp-thing").exists());
        assert!(!store.path_of("thing").join("deep").exists());
    }

    #[test]
    fn damaged_entry_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = AtomicDirStore::new(dir.path().to_owned());
        fs::create_dir(store.path_of("thing")).unwrap();
        fs::write(store.path_of("thing").join("other"), "").unwrap();
        store.ensure("thing", &Messages::default(), || find(&store), fill).unwrap();
        assert!(!store.path_of("thing").join("other").exists());
    }
}
