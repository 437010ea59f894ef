//! Blobs that were downloaded, by digest: `<cache>/oci/blobs/sha256/<hex>`, and what is not whole yet in `<cache>/oci/partial/`.
//!
//! All of it may be deleted at any time when nothing is being pulled. A blob is there only after its digest was checked.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use super::blob::Blob;
use crate::digest::Digest;
use crate::error::Result;
use crate::shelf::create_private;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The one in banger's cache folder.
    pub(super) fn new(cache: &Path) -> Cache {
        Cache { folder: cache.join("oci") }
    }

    fn place(&self, digest: Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// A blob of that length, if it is there.
    pub(super) fn open(&self, digest: Digest, size: u64) -> Result<Option<Blob>> {
        let file = match fs::File::open(self.place(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let whole = file.metadata()?.len() == size;
        Ok(whole.then(|| Blob::new(Arc::new(file), 0, size)))
    }

    /// What there is of a blob. Of several processes that want it one has it, and the others wait.
    pub(super) fn partial(&self, digest: Digest) -> Result<Partial> {
        let folder = self.folder.join("partial");
        create_private(&folder)?;
        create_private(&self.folder.join("blobs/sha256"))?;
        let path = folder.join(digest.hex());
        loop {
            let mut options = fs::OpenOptions::new();
            options.read(true).append(true).create(true).mode(0o600);
            let file = options.open(&path)?;
            file.file().lock()?;
            // Whoever had it before may have finished or removed it.
            let is_the_same = fs::metadata(&path).is_ok_and(|there| {
                file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()))
            });
            if is_the_same {
                return Ok(Partial { file, path, place: self.place(digest) });
            }
        }
    }
}

/// A blob that is not whole, and this process's alone.
#[derive(Debug)]
pub(super) struct Partial {
    /// Opened for reading, and for writing at its end.
    pub(super) file: fs::File,
    path: PathBuf,
    place: PathBuf,
}

impl Partial {
    /// Makes it the blob; its content was checked.
    pub(super) fn finish(self) -> Result<Blob> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.place)?;
        let length = self.file.metadata()?.len();
        Ok(Blob::new(Arc::new(self.file), 0, length))
    }

    /// Removes it.
    pub(super) fn discard(self) -> Result<()> {
        Ok(fs::remove_file(&self.path)?)
    }
}
