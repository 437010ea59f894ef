//! The guest's `.git/index`: the host's, with the guest's stat data.

use std::time::SystemTime;

use gix::index::entry::{Flags, Mode, Stage};
use gix::index::{self, File, State, decode, write};

use super::error::words;
use super::index::{Index, unless_it_panics};
use super::index_caches::without_caches;
use super::{Entry, EntryKind, GitError, Listing, Repository, Result};

/// What `stat` says in the guest about a file whose content came from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestStat {
    /// Seconds of the modification time since 1970.
    pub mtime_s: i64,
    /// Nanoseconds within that second.
    pub mtime_ns: u32,
    /// Bytes.
    pub size: u64,
}

/// An index to be put into the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestIndex {
    /// The file's content: version 2 or 3, neither split nor sparse, with its checksum.
    pub bytes: Vec<u8>,
    /// The host index's modification time (nanoseconds since 1970). The guest's file must get it:
    /// by it git recognises files that were edited in the second in which they were staged.
    pub mtime_ns: i64,
}

impl Repository {
    /// Builds the index for the guest; one without entries if the repository has none, which means the same to git.
    ///
    /// `listing` is the one whose files were sent. `stat_of` gives a file's stat in the guest, `None`
    /// for what is not there. It is used for the entries that are clean by their host stat; all others
    /// get a stat that makes git compare the content.
    ///
    /// # Errors
    /// An index that cannot be read, or a sparse one whose trees are missing.
    pub fn guest_index(&self, listing: &Listing, stat_of: &dyn Fn(&Entry) -> Option<GuestStat>) -> Result<GuestIndex> {
        let nothing = || Index { state: State::new(self.format.object_hash), mtime_ns: 0 };
        let Index { mut state, mtime_ns } = self.index()?.unwrap_or_else(nothing);
        let empty_blob = gix::ObjectId::empty_blob(self.format.object_hash);
        for (entry, path) in state.entries_mut_with_paths() {
            let path = self.path.join(path);
            let found = listing.entries.binary_search_by(|listed| listed.path.cmp(&path));
            let host = found.ok().map(|position| &listing.entries[position]);
            let clean = host.filter(|host| is_clean(entry, host, mtime_ns, &empty_blob));
            // All zero is how git itself marks an entry whose stat proves nothing.
            entry.stat = clean.and_then(stat_of).map(stat).unwrap_or_default();
        }
        let options = write::Options {
            extensions: write::Extensions::Given { tree_cache: true, end_of_index_entry: false },
            skip_hash: false,
        };
        let mut bytes = Vec::new();
        File::from_state(state, "").write_to(&mut bytes, options).map_err(|error| self.malformed(error))?;
        Ok(GuestIndex { bytes, mtime_ns })
    }

    /// A digest of an index of this repository, or of its twin, by its entries (path, mode, object,
    /// stage, flags), whatever its stat data, version and extensions: equal digests mean that the same
    /// is staged. The bytes may be hostile.
    ///
    /// # Errors
    /// Bytes that are not an index, or are only the difference to a shared one.
    pub fn index_digest(&self, bytes: &[u8]) -> Result<[u8; 32]> {
        let options = decode::Options {
            thread_limit: Some(1),
            // An entry takes more memory decoded than encoded, but not without bound.
            alloc_limit_bytes: Some(bytes.len().saturating_mul(4).saturating_add(1 << 20)),
            ..Default::default()
        };
        let epoch = SystemTime::UNIX_EPOCH.into();
        let hash = self.format.object_hash;
        let whole = without_caches(bytes, hash.len_in_bytes())
            .ok_or_else(|| GitError::malformed("the index", self.index_file(), "it is not whole"))?;
        let (state, _) = unless_it_panics(&self.index_file(), || State::from_bytes(&whole, epoch, hash, options))?
            .map_err(|error| self.malformed(error))?;
        if state.link().is_some() {
            return Err(GitError::malformed("the index", &self.git_dir, "it is split"));
        }
        let mut digest = blake3::Hasher::new();
        for entry in state.entries() {
            let path = entry.path(&state);
            digest.update(&(path.len() as u64).to_le_bytes());
            digest.update(path);
            digest.update(&entry.mode.bits().to_le_bytes());
            digest.update(entry.id.as_slice());
            let meaningful = Flags::STAGE_MASK | Flags::ASSUME_VALID | Flags::INTENT_TO_ADD | Flags::SKIP_WORKTREE;
            digest.update(&(entry.flags & meaningful).bits().to_le_bytes());
        }
        Ok(digest.finalize().into())
    }

    fn malformed(&self, error: gix::Error) -> GitError {
        GitError::malformed("the index", self.index_file(), words(&error))
    }
}

/// Whether the content that was listed is the one that was staged, by stat alone. This is git's rule,
/// only stricter: nanoseconds and change times always count, and so do times that are not before the
/// index's own ("racy git"), within whose tick the file may have changed unseen.
fn is_clean(staged: &index::Entry, host: &Entry, index_mtime_ns: i64, empty_blob: &gix::oid) -> bool {
    let same_kind = match staged.mode {
        Mode::FILE | Mode::FILE_EXECUTABLE => host.kind == EntryKind::File,
        Mode::SYMLINK => host.kind == EntryKind::Symlink,
        _ => false,
    };
    let time = |time: index::entry::stat::Time, ns: i64| {
        time.secs == ns.div_euclid(1_000_000_000) as u32 && i64::from(time.nsecs) == ns.rem_euclid(1_000_000_000)
    };
    same_kind
        && staged.stage() == Stage::Unconflicted
        && !staged.flags.contains(Flags::INTENT_TO_ADD)
        && time(staged.stat.mtime, host.mtime_ns)
        && time(staged.stat.ctime, host.ctime_ns)
        && staged.stat.size == host.size as u32
        && staged.stat.ino == host.inode as u32
        // A size of zero is also git's mark for "compare the content".
        && (staged.stat.size != 0 || staged.id == empty_blob)
        && host.mtime_ns < index_mtime_ns
        && host.ctime_ns < index_mtime_ns
}

fn stat(guest: GuestStat) -> index::entry::Stat {
    index::entry::Stat {
        mtime: index::entry::stat::Time { secs: guest.mtime_s as u32, nsecs: guest.mtime_ns },
        size: guest.size as u32,
        ..Default::default()
    }
}
