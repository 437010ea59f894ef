//! Trust in a repository: that its `banger.toml` may hand something of this machine to the guest,
//! that its `.worktreeinclude` may hand over ignored files, and that it may lead to places outside
//! of it.
//!
//! It is in files of this content at this place. Whoever changes one, such as `git pull`, ends it.
//! Places outside are trusted one by one: a repository that leads to another one is not trusted
//! with that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_agent::protocol::WireBytes;
use banger_util::file::create_private_directory;
use serde::{Deserialize, Serialize};

use crate::error::CommandError;
use crate::git::Identity;
use crate::host::file::replace;
use crate::host::permissions;

/// Of the records' format.
const FORMAT_VERSION: u32 = 1;
/// No record is longer, in bytes.
const MAX_LENGTH: u64 = 64 << 10;

/// The records of trust, each a file.
#[derive(Clone, Debug)]
pub struct TrustStore {
    folder: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format_version: u32,
    /// The canonical root of the repository.
    root: WireBytes,
    /// BLAKE3 of the trusted file, in hexadecimal; empty where there was none.
    digest: String,
    /// The trusted `.worktreeinclude`; none: there was none.
    #[serde(default)]
    include: Option<TrustedInclude>,
    /// Places outside that the repository may lead to, absolute and canonical.
    #[serde(default)]
    outside: Vec<WireBytes>,
}

/// A trusted `.worktreeinclude`, in the repository that had it: another one that comes to the same
/// place, such as a new clone, has other ignored files, which nobody was shown.
#[derive(Debug, Serialize, Deserialize)]
struct TrustedInclude {
    /// BLAKE3 of the file, in hexadecimal.
    digest: String,
    /// Device number of the git directory.
    device: u64,
    /// Inode number of the git directory.
    inode: u64,
    /// Birth time of the git directory in nanoseconds since 1970; none: it is not recorded.
    birth_ns: Option<i64>,
}

impl TrustedInclude {
    fn new(repository: &Identity, content: &[u8]) -> TrustedInclude {
        let Identity { device, inode, birth_ns, .. } = *repository;
        TrustedInclude { digest: digest(content), device, inode, birth_ns }
    }

    /// Whether it is this file in this repository. Devices get other numbers when a machine starts,
    /// so they count only where no birth time tells one inode from its successor.
    fn is(&self, repository: &Identity, content: &[u8]) -> bool {
        self.digest == digest(content)
            && self.inode == repository.inode
            && self.birth_ns == repository.birth_ns
            && (self.birth_ns.is_some() || self.device == repository.device)
    }
}

impl TrustStore {
    /// The records below banger's data folder.
    pub fn new(data: &Path) -> TrustStore {
        TrustStore { folder: data.join("trust") }
    }

    fn record(&self, root: &Path) -> PathBuf {
        self.folder.join(format!("{}.json", blake3::hash(root.as_os_str().as_bytes()).to_hex()))
    }

    /// The record of the repository at `root`. One that cannot be read is none.
    fn read(&self, root: &Path) -> Option<Record> {
        let read = || -> io::Result<Record> {
            let mut json = Vec::new();
            let (path, file) = (self.record(root), File::open(self.record(root))?);
            permissions::check(&path, &file.metadata()?).map_err(|error| io::Error::other(error.message))?;
            file.take(MAX_LENGTH).read_to_end(&mut json)?;
            Ok(serde_json::from_slice(&json)?)
        };
        read().ok().filter(|record| record.format_version == FORMAT_VERSION && record.root.as_os_str() == root)
    }

    /// Whether `text`, the file of the repository at `root`, is trusted.
    pub fn trusts(&self, root: &Path, text: &str) -> bool {
        self.read(root).is_some_and(|record| record.digest == digest(text.as_bytes()))
    }

    /// Whether `content`, the `.worktreeinclude` of this very repository, is trusted.
    pub fn trusts_include(&self, repository: &Identity, content: &[u8]) -> bool {
        let include = self.read(&repository.root).and_then(|record| record.include);
        include.is_some_and(|include| include.is(repository, content))
    }

    /// The places outside that the repository at `root` is trusted with.
    pub fn outside(&self, root: &Path) -> BTreeSet<PathBuf> {
        let outside = self.read(root).map(|record| record.outside).unwrap_or_default();
        outside.iter().map(|path| path.as_os_str().into()).collect()
    }

    /// Trusts the repository at `root` with `text`, its file if there is one, with `include`, its
    /// identity and `.worktreeinclude` if there is one, and with these places outside. What was
    /// trusted before is not any more.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub fn trust(
        &self,
        root: &Path,
        text: Option<&str>,
        include: Option<(&Identity, &[u8])>,
        outside: &BTreeSet<PathBuf>,
    ) -> Result<(), CommandError> {
        let record = Record {
            format_version: FORMAT_VERSION,
            root: WireBytes::from(root.as_os_str()),
            digest: text.map(|text| digest(text.as_bytes())).unwrap_or_default(),
            include: include.map(|(repository, content)| TrustedInclude::new(repository, content)),
            outside: outside.iter().map(|path| WireBytes::from(path.as_os_str())).collect(),
        };
        let json = serde_json::to_vec_pretty(&record).expect("plain data has a JSON form");
        let path = self.record(root);
        if json.len() as u64 > MAX_LENGTH {
            return Err(CommandError::new(format!("`{}` leads to too many places outside", root.display())));
        }
        let written = create_private_directory(&self.folder);
        let written = written.and_then(|()| replace(&path, &json, 0o600));
        written.map_err(|error| CommandError::io("write", &path, &error))
    }

    /// Ends the trust in the repository at `root`. True if there was a record of it.
    ///
    /// # Errors
    /// If the record cannot be removed.
    pub fn revoke(&self, root: &Path) -> Result<bool, CommandError> {
        let path = self.record(root);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CommandError::io("remove", &path, &error)),
        }
    }
}

fn digest(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_covers_one_content_at_one_path_until_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let store = TrustStore::new(folder.path());
        let (here, there) = (Path::new("/a/repo"), Path::new("/a/copy"));
        let none = BTreeSet::new();
        assert!(!store.trusts(here, "x = 1"));
        store.trust(here, Some("x = 1"), None, &none).unwrap();
        assert!(store.trusts(here, "x = 1"));
        assert!(!store.trusts(here, "x = 2") && !store.trusts(there, "x = 1"));
        store.trust(here, Some("x = 2"), None, &none).unwrap();
        assert!(store.trusts(here, "x = 2") && !store.trusts(here, "x = 1"));
        fs::write(store.record(here), "{").unwrap();
        assert!(!store.trusts(here, "x = 2"));
        assert!(store.revoke(here).unwrap() && !store.revoke(here).unwrap());
    }

    #[test]
    fn worktree_include_is_trusted_apart_from_banger_toml() {
        let folder = tempfile::tempdir().unwrap();
        let store = TrustStore::new(folder.path());
        let (root, none) = (Path::new("/a/repo"), BTreeSet::new());
        let here = Identity { root: root.to_owned(), device: 1, inode: 2, birth_ns: Some(3) };
        store.trust(root, Some("x = 1"), None, &none).unwrap();
        assert!(!store.trusts_include(&here, b"") && !store.trusts_include(&here, b"x = 1"));
        store.trust(root, None, Some((&here, b".env\n")), &none).unwrap();
        assert!(store.trusts_include(&here, b".env\n") && !store.trusts(root, ".env\n"));
        assert!(!store.trusts_include(&here, b".env\n.ssh\n"));
        let there = Identity { root: "/a".into(), ..here.clone() };
        assert!(!store.trusts_include(&there, b".env\n"));
        // Another repository at the same place; and this one, once the machine was started anew.
        for other in [Identity { inode: 4, ..here.clone() }, Identity { birth_ns: Some(4), ..here.clone() }] {
            assert!(!store.trusts_include(&other, b".env\n"), "{other:?}");
        }
        assert!(store.trusts_include(&Identity { device: 5, ..here.clone() }, b".env\n"));
        // Without a birth time, the inode's number may be that of another directory.
        let unborn = Identity { birth_ns: None, ..here.clone() };
        assert!(!store.trusts_include(&unborn, b".env\n"));
        store.trust(root, None, Some((&unborn, b".env\n")), &none).unwrap();
        assert!(store.trusts_include(&unborn, b".env\n") && !store.trusts_include(&here, b".env\n"));
        assert!(!store.trusts_include(&Identity { device: 5, ..unborn }, b".env\n"));
        // A record of a version that knew no such file.
        let json = fs::read_to_string(store.record(root)).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&json).unwrap();
        record.as_object_mut().unwrap().remove("include");
        fs::write(store.record(root), record.to_string()).unwrap();
        assert!(!store.trusts_include(&here, b".env\n") && store.read(root).is_some());
    }

    #[test]
    fn outside_paths_are_trusted_individually() {
        let folder = tempfile::tempdir().unwrap();
        let store = TrustStore::new(folder.path());
        let root = Path::new("/a/repo");
        let places = BTreeSet::from([PathBuf::from("/b/objects"), PathBuf::from("/c/\u{e9}")]);
        assert!(store.outside(root).is_empty());
        store.trust(root, None, None, &places).unwrap();
        assert_eq!(store.outside(root), places);
        assert!(store.outside(Path::new("/a/copy")).is_empty());
        assert!(!store.trusts(root, ""), "an empty file was not trusted");
        // A record of a version that knew no places.
        let json = fs::read_to_string(store.record(root)).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&json).unwrap();
        record.as_object_mut().unwrap().remove("outside");
        fs::write(store.record(root), record.to_string()).unwrap();
        assert!(store.outside(root).is_empty() && store.read(root).is_some());
        assert!(store.revoke(root).unwrap() && store.outside(root).is_empty());
    }
}
