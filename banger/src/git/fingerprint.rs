//! A cheap answer to "has git's side of this repository changed?".

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Repository, Result};

/// A digest of what stat says about a repository's git folder. Equal fingerprints mean that nothing
/// in [`Repository::state`], [`Repository::object_files`], [`Repository::guest_config`],
/// [`Repository::global_excludes`], [`Repository::global_attributes`] or [`Repository::guest_index`] has changed, as far as stat can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Repository {
    /// Takes the fingerprint: stats and configuration only, no ref or object is read.
    ///
    /// # Errors
    /// A git folder or configuration that cannot be read.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let mut digest = Digest::default();
        digest.stat(&self.git_dir.join("HEAD"));
        digest.stat(&self.index_file());
        digest.stat(&self.common_dir.join("packed-refs"));
        for (path, _) in self.state_paths()? {
            digest.stat(&path);
        }
        digest.tree(&self.common_dir.join("refs"));
        digest.tree(&self.common_dir.join("reftable"));
        if self.git_dir != self.common_dir {
            digest.tree(&self.git_dir.join("refs"));
            digest.tree(&self.git_dir.join("reftable"));
        }
        for objects in self.object_folders()? {
            digest.stat(&objects.join("info/alternates"));
            digest.stat(&objects.join("pack"));
            for first in 0..=u8::MAX {
                digest.stat(&objects.join(format!("{first:02x}")));
            }
        }
        // By content, since it is made from files in many places.
        digest.bytes(&self.guest_config()?);
        let config = self.config()?;
        for path in [self.global_excludes_file(&config), self.global_attributes_file(&config)].into_iter().flatten() {
            digest.stat(&path);
        }
        Ok(Fingerprint(digest.0.finalize().into()))
    }
}

#[derive(Default)]
struct Digest(blake3::Hasher);

impl Digest {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Access times are left out: reading changes them.
    fn stat(&mut self, path: &Path) {
        self.bytes(path.as_os_str().as_bytes());
        let Ok(metadata) = fs::symlink_metadata(path) else {
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

    /// Order does not matter to the file system, so it must not matter here.
    fn tree(&mut self, folder: &Path) {
        self.stat(folder);
        let Ok(children) = fs::read_dir(folder) else { return };
        let mut children: Vec<_> = children.flatten().collect();
        children.sort_unstable_by_key(fs::DirEntry::file_name);
        for child in children {
            match child.file_type() {
                Ok(kind) if kind.is_dir() => self.tree(&child.path()),
                _ => self.stat(&child.path()),
            }
        }
    }
}
