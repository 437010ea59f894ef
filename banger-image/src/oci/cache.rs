//! The cache of downloaded blobs, by digest.
//!
//! ```text
//! <cache>/oci/blobs/sha256/<hex>            fetched with the user's credentials, or by a banger that did not note it
//! <cache>/oci/partial/<hex>                 what is not whole yet
//! <cache>/oci/anonymous/blobs/sha256/<hex>  fetched as anybody can
//! <cache>/oci/anonymous/partial/<hex>
//! ```
//!
//! A digest is no secret. Whoever knows one must not get its content from here that a registry did
//! not give to anybody: so a pull without credentials finds only blobs that were fetched without.
//!
//! A blob is there only after its digest was checked. Whoever uses one holds a lock (flock) on it,
//! shared, or alone while it is not whole; so [`prune`] leaves what a pull is using. Its time of
//! change is that of its last use.

use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use banger_util::file::is_at;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use super::blob::Blob;
use crate::digest::Digest;
use crate::error::Result;
use crate::files::create_private;

/// Whether credentials were sent for a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Anonymous,
    /// With the user's credentials.
    User,
}

/// The cache, as one pull uses it.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Paths of the blobs that this pull has begun to download, partial and complete.
    begun: Mutex<Vec<PathBuf>>,
}

impl Cache {
    /// The cache of blobs below banger's cache directory `cache`.
    pub(super) fn new(cache: &Path) -> Cache {
        Cache { folder: cache.join("oci"), begun: Mutex::default() }
    }

    /// Its directory.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn part(&self, access: Access) -> PathBuf {
        match access {
            Access::Anonymous => self.folder.join("anonymous"),
            Access::User => self.folder.clone(),
        }
    }

    fn path_of(&self, digest: Digest, access: Access) -> PathBuf {
        self.part(access).join("blobs/sha256").join(digest.hex())
    }

    /// The paths at which a pull with this access may find a blob.
    fn paths_of(&self, digest: Digest, access: Access) -> impl Iterator<Item = PathBuf> {
        let own = (access == Access::User).then(|| self.path_of(digest, access));
        std::iter::once(self.path_of(digest, Access::Anonymous)).chain(own)
    }

    /// Whether a blob of `size` bytes is there.
    pub(super) fn has(&self, digest: Digest, size: u64, access: Access) -> bool {
        self.paths_of(digest, access).any(|path| fs::metadata(path).is_ok_and(|there| there.len() == size))
    }

    /// Opens a blob of `size` bytes, if it is there, and locks it.
    pub(super) fn open(&self, digest: Digest, size: u64, access: Access) -> Result<Option<Blob>> {
        for path in self.paths_of(digest, access) {
            let file = match fs::File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            file.file().lock_shared()?;
            if is_at(file.file(), &path) && file.metadata()?.len() == size {
                // It only keeps its age where that cannot be set.
                let _ = file.file().set_modified(SystemTime::now());
                return Ok(Some(Blob::new(Arc::new(file), 0, size)));
            }
        }
        Ok(None)
    }

    /// Opens the partial download of a blob, which may be empty, and locks it: other processes that
    /// want the blob wait.
    pub(super) fn partial(&self, digest: Digest, access: Access) -> Result<Partial> {
        let folder = self.part(access).join("partial");
        create_private(&folder)?;
        create_private(&self.part(access).join("blobs/sha256"))?;
        let (path, target) = (folder.join(digest.hex()), self.path_of(digest, access));
        loop {
            let mut options = fs::OpenOptions::new();
            options.read(true).append(true).create(true).mode(0o600);
            let file = options.open(&path)?;
            file.file().lock()?;
            // Whoever had it before may have finished or removed it.
            if is_at(file.file(), &path) {
                let mut begun = self.begun.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                begun.extend([path.clone(), target.clone()]);
                return Ok(Partial { file, path, target });
            }
        }
    }

    /// Removes what this pull has downloaded, complete or not, unless another process uses it.
    pub(super) fn drop_fetched(&self) {
        let begun = std::mem::take(&mut *self.begun.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        for path in begun {
            // What cannot be removed is left for `prune`: the failure that is told is another.
            let _ = Freed::default().take(&path, Duration::ZERO, false);
        }
    }
}

/// A partial download, locked by this process.
#[derive(Debug)]
pub(super) struct Partial {
    /// Opened for reading, and for writing at its end.
    pub(super) file: fs::File,
    path: PathBuf,
    target: PathBuf,
}

impl Partial {
    /// Publishes the blob. The caller has checked its digest.
    pub(super) fn finish(self) -> Result<Blob> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)?;
        let length = self.file.metadata()?.len();
        // From now on others may use it too.
        self.file.file().lock_shared()?;
        Ok(Blob::new(Arc::new(self.file), 0, length))
    }

    /// Removes the partial download.
    pub(super) fn discard(self) -> Result<()> {
        Ok(fs::remove_file(&self.path)?)
    }
}

/// What [`prune`] has removed, or would remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Number of blobs, partial downloads included.
    pub blobs: u64,
    /// Their size on disk, in bytes.
    pub bytes: u64,
}

/// Removes the blobs below banger's cache directory `cache` that no pull is using and that were
/// last used at least `unused` ago. With `dry_run`, only counts them.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn prune(cache: &Path, unused: Duration, dry_run: bool) -> Result<Freed> {
    let folder = Cache::new(cache).folder;
    let mut freed = Freed::default();
    for folder in
        ["blobs/sha256", "partial", "anonymous/blobs/sha256", "anonymous/partial"].map(|part| folder.join(part))
    {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?.collect::<io::Result<Vec<_>>>()?,
        };
        for entry in entries {
            freed.take(&entry.path(), unused, dry_run)?;
        }
    }
    Ok(freed)
}

impl Freed {
    fn take(&mut self, path: &Path, unused: Duration, dry_run: bool) -> Result<()> {
        let file = match fs::File::open(path) {
            // A pull has finished or removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let metadata = file.metadata()?;
        // A clock that was set back makes it no older.
        let age = metadata.modified()?.elapsed().unwrap_or_default();
        if !metadata.is_file() || age < unused {
            return Ok(());
        }
        match file.file().try_lock() {
            Ok(()) if is_at(file.file(), path) => {}
            Ok(()) | Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        if !dry_run {
            fs::remove_file(path)?;
        }
        self.blobs += 1;
        self.bytes += metadata.blocks() * 512;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a blob there, last used that long ago.
    fn put(cache: &Cache, content: &[u8], age: Duration) -> Digest {
        use std::io::Write;
        let digest = Digest::of(content);
        let mut partial = cache.partial(digest, Access::Anonymous).unwrap();
        partial.file.write_all(content).unwrap();
        drop(partial.finish().unwrap());
        let file = fs::File::open(cache.path_of(digest, Access::Anonymous)).unwrap();
        file.file().set_modified(SystemTime::now() - age).unwrap();
        digest
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn prune_removes_blobs_unused_for_the_given_age() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        assert_eq!(prune(folder.path(), Duration::ZERO, false).unwrap(), Freed::default());
        let old = put(&cache, b"old", 3 * HOUR);
        let new = put(&cache, b"new", HOUR);
        drop(cache.partial(Digest::of(b"cut"), Access::Anonymous).unwrap());
        let again = put(&cache, b"again", 3 * HOUR);
        assert!(cache.open(again, 5, Access::Anonymous).unwrap().is_some());

        assert_eq!(prune(folder.path(), 2 * HOUR, true).unwrap().blobs, 1);
        assert!(cache.open(old, 3, Access::Anonymous).unwrap().is_some(), "and so it is used");
        assert_eq!(prune(folder.path(), 2 * HOUR, false).unwrap(), Freed::default());
        let all = prune(folder.path(), Duration::ZERO, false).unwrap();
        assert_eq!(all.blobs, 4);
        assert!(all.bytes >= 3 * 512, "{all:?}");
        assert!(
            cache.open(new, 3, Access::Anonymous).unwrap().is_none()
                && cache.open(old, 3, Access::Anonymous).unwrap().is_none()
        );
    }

    #[test]
    fn prune_keeps_blobs_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let digest = put(&cache, b"layer", HOUR);
        let [one, other] = [(); 2].map(|()| cache.open(digest, 5, Access::Anonymous).unwrap().unwrap());
        let partial = cache.partial(Digest::of(b"coming"), Access::Anonymous).unwrap();
        let left = || prune(folder.path(), Duration::ZERO, false).unwrap().blobs;
        assert_eq!(left(), 0);
        drop(one);
        assert_eq!(left(), 0);
        let finished = partial.finish().unwrap();
        drop(other);
        assert_eq!(left(), 1);
        drop(finished);
        assert_eq!(left(), 1);
    }

    #[test]
    fn concurrent_prune_and_pull_lose_no_blob() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let pruning = scope.spawn(|| {
                let mut freed = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    freed += prune(folder.path(), Duration::ZERO, false).unwrap().blobs;
                }
                freed
            });
            let pull = || {
                for round in 0..300 {
                    let content = [round as u8 % 3; 64];
                    let digest = Digest::of(&content);
                    let blob = match cache.open(digest, 64, Access::Anonymous).unwrap() {
                        Some(blob) => blob,
                        None => {
                            let mut partial = cache.partial(digest, Access::Anonymous).unwrap();
                            partial.file.set_len(0).unwrap();
                            std::io::Write::write_all(&mut partial.file, &content).unwrap();
                            partial.finish().unwrap()
                        }
                    };
                    assert_eq!(blob.bytes("it", 64).unwrap(), content);
                }
            };
            let pulls = [scope.spawn(pull), scope.spawn(pull)];
            pulls.into_iter().for_each(|pull| pull.join().unwrap());
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(pruning.join().unwrap() > 0);
        });
    }

    #[test]
    fn authenticated_blobs_are_hidden_from_anonymous_pulls() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        for (content, access) in [(b"secret", Access::User), (b"public", Access::Anonymous)] {
            let mut partial = cache.partial(Digest::of(content), access).unwrap();
            std::io::Write::write_all(&mut partial.file, content).unwrap();
            drop(partial.finish().unwrap());
        }
        let finds = |content: &[u8], access| {
            let there = cache.open(Digest::of(content), 6, access).unwrap().is_some();
            assert_eq!(cache.has(Digest::of(content), 6, access), there);
            there
        };
        assert!(!finds(b"secret", Access::Anonymous) && finds(b"secret", Access::User));
        assert!(finds(b"public", Access::Anonymous) && finds(b"public", Access::User));
        assert_eq!(prune(folder.path(), Duration::ZERO, false).unwrap().blobs, 2);
    }

    #[test]
    fn drop_fetched_removes_only_own_unused_blobs() {
        let folder = tempfile::tempdir().unwrap();
        let (other, cache) = (Cache::new(folder.path()), Cache::new(folder.path()));
        put(&other, b"theirs", Duration::ZERO);
        put(&cache, b"ours", Duration::ZERO);
        let shared = put(&cache, b"shared", Duration::ZERO);
        let _held = other.open(shared, 6, Access::Anonymous).unwrap().unwrap();
        let mut cut = cache.partial(Digest::of(b"cut"), Access::User).unwrap();
        std::io::Write::write_all(&mut cut.file, b"c").unwrap();
        drop(cut);
        cache.drop_fetched();
        let has = |content: &[u8]| cache.has(Digest::of(content), content.len() as u64, Access::User);
        assert_eq!([has(b"theirs"), has(b"ours"), has(b"shared")], [true, false, true]);
        assert_eq!(std::fs::read_dir(folder.path().join("oci/partial")).unwrap().count(), 0);
    }
}
