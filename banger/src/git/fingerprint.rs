//! A cheap answer to "has git's side of this repository changed?".

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::dir::Type;

use super::config::Named;
use super::{Boundary, Repository, Result};

/// A digest of what stat says about a repository's git folder. Equal fingerprints mean that nothing
/// in [`Repository::state`], [`Repository::object_files`], [`Repository::guest_config`],
/// [`Repository::global_excludes`], [`Repository::global_attributes`] or
/// [`Repository::guest_index`] has changed, as far as stat can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Repository {
    /// Takes the fingerprint: stats and configuration only, no ref or object is read.
    ///
    /// # Errors
    /// A git folder or configuration that cannot be read.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let mut digest = Digest { hasher: blake3::Hasher::new(), boundary: &self.boundary };
        digest.stat(&self.git_dir.join("HEAD"))?;
        digest.stat(&self.index_file())?;
        digest.stat(&self.common_dir.join("packed-refs"))?;
        for (path, _) in self.state_paths()? {
            digest.stat(&path)?;
        }
        digest.tree(&self.common_dir.join("refs"))?;
        digest.tree(&self.common_dir.join("reftable"))?;
        if self.git_dir != self.common_dir {
            digest.tree(&self.git_dir.join("refs"))?;
            digest.tree(&self.git_dir.join("reftable"))?;
        }
        for objects in self.object_folders()? {
            digest.stat(&objects.join("info/alternates"))?;
            digest.stat(&objects.join("pack"))?;
            for first in 0..=u8::MAX {
                digest.stat(&objects.join(format!("{first:02x}")))?;
            }
        }
        // By content, since it is made from files in many places.
        digest.bytes(&self.guest_config()?);
        let config = self.config()?;
        for file in [self.global_excludes_file(&config)?, self.global_attributes_file(&config)?].into_iter().flatten() {
            match file {
                // The user's own may be a link.
                Named::ByUser(path) => digest.metadata(&path, fs::metadata(&path).ok()),
                Named::ByRepository(path) => digest.stat(&path)?,
            }
        }
        Ok(Fingerprint(digest.hasher.finalize().into()))
    }
}

struct Digest<'a> {
    hasher: blake3::Hasher,
    boundary: &'a Boundary,
}

impl Digest<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    /// A link that is a reference is not followed.
    fn stat(&mut self, path: &Path) -> Result<()> {
        let metadata = match self.boundary.metadata(path) {
            Ok(metadata) if metadata.is_symlink() => match self.boundary.read_link(path) {
                Ok(target) if target.starts_with(b"refs/") => Some(metadata),
                _ => self.boundary.stat(path)?,
            },
            Ok(metadata) => Some(metadata),
            // A link on the way, or nothing.
            Err(_) => self.boundary.stat(path)?,
        };
        self.metadata(path, metadata);
        Ok(())
    }

    /// Access times are left out: reading changes them.
    fn metadata(&mut self, path: &Path, metadata: Option<fs::Metadata>) {
        self.bytes(path.as_os_str().as_bytes());
        let Some(metadata) = metadata else {
            self.bytes(b"");
            return;
        };
        let numbers = [
            metadata.dev(),
            metadata.ino(),
            u64::from(metadata.mode()),
            metadata.size(),
            metadata.mtime() as u64,
            metadata.mtime_nsec() as u64,
            metadata.ctime() as u64,
            metadata.ctime_nsec() as u64,
        ];
        self.bytes(&numbers.map(u64::to_le_bytes).concat());
    }

    fn tree(&mut self, folder: &Path) -> Result<()> {
        self.stat(folder)?;
        for child in self.boundary.children(folder)? {
            match child.kind {
                Some(Type::Directory) => self.tree(&child.path)?,
                _ => self.stat(&child.path)?,
            }
        }
        Ok(())
    }
}
