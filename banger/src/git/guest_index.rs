//! The guest's `.git/index`: the host's, with the guest's stat data.

use std::collections::BTreeMap;
use std::time::SystemTime;

use gix::index::entry::{Flags, Mode, Stage};
use gix::index::{self, File, State, decode, write};

use super::error::describe;
use super::filters::{Evidence, FilteredFiles};
use super::index::{Index, unless_it_panics};
use super::index_caches::without_caches;
use super::{Entry, EntryKind, GitError, Listing, RelPath, Repository, Result};

/// What `stat` says in the guest about a file whose content came from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestStat {
    /// Modification time, in seconds since 1970.
    pub mtime_s: i64,
    /// Nanoseconds within that second.
    pub mtime_ns: u32,
    /// Length in bytes.
    pub size: u64,
}

/// The index that a guest gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestIndex {
    /// The file's content: version 2 or 3, neither split nor sparse, with its checksum.
    pub bytes: Vec<u8>,
    /// The modification time that the guest's file must get, in nanoseconds since 1970: by it git
    /// recognises files that were edited in the second in which they were staged. It is that of the
    /// host's index, or later if a file with a filter is not older.
    pub mtime_ns: i64,
}

impl Repository {
    /// Builds the index for the guest; one without entries if the repository has none, which means
    /// the same to git.
    ///
    /// `listing` is the one whose files were sent. `stat_of` gives a file's stat in the guest,
    /// `None` for what is not there. It is used for the entries that are clean by their host stat;
    /// all others get a stat that makes git compare the content. For files with a filter `filtered`
    /// says whether they are clean.
    ///
    /// # Errors
    /// An index that cannot be read, or a sparse one whose trees are missing.
    pub fn guest_index(
        &self,
        listing: &Listing,
        filtered: &FilteredFiles,
        stat_of: &dyn Fn(&Entry) -> Option<GuestStat>,
    ) -> Result<GuestIndex> {
        let nothing = || Index { state: State::new(self.format.object_hash), mtime_ns: 0 };
        let Index { mut state, mut mtime_ns } = self.index()?.unwrap_or_else(nothing);
        let empty_blob = gix::ObjectId::empty_blob(self.format.object_hash);
        let mut latest = 0;
        for (entry, path) in state.entries_mut_with_paths() {
            let path = self.path.join(path);
            let host = listing.entry(path.as_bytes());
            let has_filter = filtered.get(&path);
            let is_clean = |host: &&Entry| match has_filter {
                Some(is_clean) => *is_clean && entry.stage() == Stage::Unconflicted,
                None => evidence(entry, host, mtime_ns, &empty_blob) == Evidence::Clean,
            };
            let size = entry.stat.size;
            let is_changed = has_filter.is_some() && size != 0 && host.is_some_and(|host| host.size as u32 != size);
            // All zero is how git itself marks an entry whose stat proves nothing.
            entry.stat = host.filter(is_clean).and_then(stat_of).map(stat).unwrap_or_default();
            if is_changed {
                // As here, git sees by the size that the file is another.
                entry.stat.size = size;
            }
            if has_filter.is_some() {
                latest = latest.max(entry.stat.mtime.secs);
            }
        }
        // git compares the content of a file that is not older than the index, in whole seconds.
        // Where that must not be, the index is newer, and what would have been compared by its own
        // time gets a stat for that.
        let seconds = u32::try_from(mtime_ns.div_euclid(1_000_000_000)).unwrap_or_default();
        if latest >= seconds.max(1) {
            for (entry, path) in state.entries_mut_with_paths() {
                if entry.stat.mtime.secs >= seconds && !filtered.contains_key(&self.path.join(path)) {
                    entry.stat = Default::default();
                }
            }
            mtime_ns = (i64::from(latest) + 1) * 1_000_000_000;
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
    /// stage, flags), whatever its stat data, version and extensions: equal digests mean that the
    /// same is staged. The bytes may be hostile.
    ///
    /// # Errors
    /// Bytes that are not an index, or are only the difference to a shared one.
    pub fn index_digest(&self, bytes: &[u8]) -> Result<[u8; 32]> {
        let state = self.decode_guest(bytes)?;
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

    /// What the index of this repository's twin says `stat` says of `files` that are staged here
    /// too. The bytes may be hostile.
    ///
    /// # Errors
    /// As [`Repository::index_digest`], and if the index here cannot be read.
    pub fn guest_stats(&self, bytes: &[u8], files: &FilteredFiles) -> Result<BTreeMap<RelPath, GuestStat>> {
        let Some(own) = self.index()? else { return Ok(BTreeMap::new()) };
        let guest = self.decode_guest(bytes)?;
        let told = guest.entries().iter().filter(|entry| entry.stat.size != 0);
        let stats = told.filter_map(|entry| {
            let below = entry.path(&guest);
            let path = self.path.join(below);
            let staged = own.state.entry_by_path_and_stage(below, Stage::Unconflicted)?;
            let is_same = files.contains_key(&path) && entry.stage() == Stage::Unconflicted && staged.id == entry.id;
            let (mtime_s, mtime_ns) = (i64::from(entry.stat.mtime.secs), entry.stat.mtime.nsecs);
            is_same.then(|| (path, GuestStat { mtime_s, mtime_ns, size: u64::from(entry.stat.size) }))
        });
        Ok(stats.collect())
    }

    /// An index of this repository's twin, which may be hostile.
    fn decode_guest(&self, bytes: &[u8]) -> Result<State> {
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
        match state.link() {
            Some(_) => Err(GitError::malformed("the index", &self.git_dir, "it is split")),
            None => Ok(state),
        }
    }

    fn malformed(&self, error: gix::Error) -> GitError {
        GitError::malformed("the index", self.index_file(), describe(&error))
    }
}

/// Whether the content that was listed is the one that was staged, by stat alone. This is git's
/// rule, only stricter: nanoseconds and change times always count, and so do times that are not
/// before the index's own ("racy git"), within whose tick the file may have changed unseen.
pub(crate) fn evidence(staged: &index::Entry, host: &Entry, index_mtime_ns: i64, empty_blob: &gix::oid) -> Evidence {
    let same_kind = match staged.mode {
        Mode::FILE | Mode::FILE_EXECUTABLE => host.kind == EntryKind::File,
        Mode::SYMLINK => host.kind == EntryKind::Symlink,
        _ => false,
    };
    let is_comparable =
        same_kind && staged.stage() == Stage::Unconflicted && !staged.flags.contains(Flags::INTENT_TO_ADD);
    if is_comparable && staged.stat.size != 0 && staged.stat.size != host.size as u32 {
        return Evidence::Changed;
    }
    let has_content = is_comparable
        && staged.stat.size == host.size as u32
        // A size of zero is also git's mark for "compare the content".
        && (staged.stat.size != 0 || staged.id == empty_blob);
    let time = |time: index::entry::stat::Time, ns: i64| {
        time.secs == ns.div_euclid(1_000_000_000) as u32 && i64::from(time.nsecs) == ns.rem_euclid(1_000_000_000)
    };
    let is_unwritten = time(staged.stat.mtime, host.mtime_ns)
        && time(staged.stat.ctime, host.ctime_ns)
        && staged.stat.ino == host.inode as u32;
    let is_older = host.mtime_ns < index_mtime_ns && host.ctime_ns < index_mtime_ns;
    match (has_content, is_unwritten, is_older) {
        (false, ..) => Evidence::None,
        (true, false, _) => Evidence::SameSize,
        (true, true, false) => Evidence::Likely,
        (true, true, true) => Evidence::Clean,
    }
}

fn stat(guest: GuestStat) -> index::entry::Stat {
    index::entry::Stat {
        mtime: index::entry::stat::Time { secs: guest.mtime_s as u32, nsecs: guest.mtime_ns },
        size: guest.size as u32,
        ..Default::default()
    }
}
