//! What the host knows of the last sync: the base against which its own changes are seen.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use banger_agent::protocol::sync::{Digest, Kind};
use banger_util::checksummed::{decode_file, encode_file};
use banger_util::file::{Durability, replace_exclusive};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::git::{Entry, EntryKind, GuestStat};

/// Format of the file; another one is read as no manifest, which costs a comparison of everything.
const MAGIC: &[u8; 8] = b"bgrhost2";

/// The state of the workspace at the last sync.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Chosen by the host for each sync, and kept by the guest too.
    pub(super) generation: String,
    /// Files and links of the worktree, sorted by path.
    pub(super) entries: Vec<SyncedFile>,
    /// Folders that may be empty.
    pub(super) folders: BTreeSet<Vec<u8>>,
    /// Repositories, by the path of their `.git` in the guest.
    pub(super) repositories: BTreeMap<Vec<u8>, SyncedRepository>,
}

/// A file or link of the worktree as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SyncedFile {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) digest: Digest,
    pub(super) stat: HostStat,
    /// Its modification time in the guest; none if that is not known, or what is there is not what
    /// was listed.
    pub(super) guest_mtime_ns: Option<i64>,
}

/// By what a file is seen to be unchanged without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostStat {
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    pub(super) ctime_ns: i64,
    pub(super) inode: u64,
}

/// A repository as it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SyncedRepository {
    /// Nothing of it changed as long as this stays.
    pub(super) fingerprint: [u8; 32],
    /// `HEAD` and all references.
    pub(super) references: BTreeMap<String, String>,
    /// Files of the git folder, by path in the guest.
    pub(super) files: BTreeMap<Vec<u8>, Digest>,
    /// Digest of the index, by meaning.
    pub(super) index: Option<Digest>,
    /// Files below `objects/`.
    pub(super) objects: BTreeSet<String>,
}

impl HostStat {
    /// The stat of `entry`, spoiled if a later change might not show in it: one within the
    /// granularity of the file system's clock after `listed_ns`, when it was read.
    pub(super) fn of(entry: &Entry, listed_ns: i64) -> HostStat {
        HostStat {
            size: entry.size,
            mtime_ns: entry.mtime_ns,
            ctime_ns: if HostStat::is_young(entry, listed_ns) { 0 } else { entry.ctime_ns },
            inode: entry.inode,
        }
    }

    /// Whether `entry` had only just been written when it was read, at `listed_ns`.
    pub(super) fn is_young(entry: &Entry, listed_ns: i64) -> bool {
        let coarse = entry.mtime_ns % 1_000_000_000 == 0 && entry.ctime_ns % 1_000_000_000 == 0;
        let granularity = if coarse { 2_000_000_000 } else { 50_000_000 };
        entry.ctime_ns > listed_ns - granularity
    }

    /// Whether `entry` is certainly as it was.
    pub(super) fn matches(&self, entry: &Entry) -> bool {
        self.ctime_ns == entry.ctime_ns
            && self.mtime_ns == entry.mtime_ns
            && self.size == entry.size
            && self.inode == entry.inode
    }
}

/// An entry's kind in the protocol's terms.
pub(super) fn kind(entry: &Entry) -> Kind {
    match entry.kind {
        EntryKind::File => Kind::File(entry.mode),
        EntryKind::Symlink => Kind::Link,
    }
}

impl Manifest {
    /// Reads the manifest in `folder`; none if there is none that can be used.
    ///
    /// # Errors
    /// If a file is there and cannot be read.
    pub(super) fn load(folder: &Path) -> io::Result<Option<Manifest>> {
        let bytes = match fs::read(folder.join("manifest")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(decode_file(MAGIC, &bytes))
    }

    /// Writes the manifest in `folder`; the sync's lock is held. It is not waited for: should the
    /// machine lose power, the former one, or half of one, is known for what it is, and the next
    /// sync compares everything.
    ///
    /// # Errors
    /// The file system's refusal; the former manifest is intact then.
    pub(super) fn save(&self, folder: &Path) -> io::Result<()> {
        replace_exclusive(&folder.join("manifest"), &encode_file(MAGIC, self), 0o600, Durability::Unsynced)
    }

    /// What `stat` says in the guest about `entry`, if what is there is what was listed.
    pub(super) fn guest_stat(&self, entry: &Entry) -> Option<GuestStat> {
        let mtime_ns = self.entry(entry.path.as_bytes())?.guest_mtime_ns?;
        Some(GuestStat {
            mtime_s: mtime_ns.div_euclid(1_000_000_000),
            mtime_ns: mtime_ns.rem_euclid(1_000_000_000) as u32,
            size: entry.size,
        })
    }

    /// The entry at `path`.
    pub(super) fn entry(&self, path: &[u8]) -> Option<&SyncedFile> {
        self.position(path).map(|index| &self.entries[index])
    }

    /// The entry at `path`, to be changed. Its path must stay as it is: entries are sorted by it.
    pub(super) fn entry_mut(&mut self, path: &[u8]) -> Option<&mut SyncedFile> {
        self.position(path).map(|index| &mut self.entries[index])
    }

    fn position(&self, path: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|known| known.path.as_slice().cmp(path)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let stat = HostStat { size: 1, mtime_ns: -2, ctime_ns: 3, inode: 4 };
        let known = |path: &[u8]| SyncedFile {
            path: path.to_vec(),
            kind: Kind::File(0o755),
            digest: [7; 32],
            stat,
            guest_mtime_ns: None,
        };
        Manifest {
            generation: "g".into(),
            entries: vec![known(b"a"), known(b"\xff/b")],
            folders: BTreeSet::from([b"c".to_vec()]),
            repositories: BTreeMap::from([(b".git".to_vec(), SyncedRepository::default())]),
        }
    }

    #[test]
    fn manifest_round_trips_and_damage_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::load(folder.path()).unwrap(), None);
        manifest().save(folder.path()).unwrap();
        let read = Manifest::load(folder.path()).unwrap().unwrap();
        assert_eq!(read, manifest());
        assert_eq!(read.entry(b"\xff/b").unwrap().path, b"\xff/b");
        assert!(read.entry(b"b").is_none());
        let whole = fs::read(folder.path().join("manifest")).unwrap();
        for cut in [0, 5, 20, whole.len() - 1] {
            fs::write(folder.path().join("manifest"), &whole[..cut]).unwrap();
            assert_eq!(Manifest::load(folder.path()).unwrap(), None);
        }
    }
}
