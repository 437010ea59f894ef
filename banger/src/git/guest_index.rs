//! The guest's `.git/index`: the host's, with the guest's stat data.

use super::{Entry, Listing, Repository, Result};

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
    /// Builds the index for the guest; `None` if the repository has none.
    ///
    /// `listing` is the one whose files were sent. `stat_of` gives a file's stat in the guest, `None`
    /// for what is not there. It is used for the entries that are clean by their host stat; all others
    /// get a stat that makes git compare the content.
    ///
    /// # Errors
    /// An index that cannot be read, or a sparse one whose trees are missing.
    pub fn guest_index(
        &self,
        listing: &Listing,
        stat_of: &dyn Fn(&Entry) -> Option<GuestStat>,
    ) -> Result<Option<GuestIndex>> {
        todo!()
    }
}

/// A digest of an index by its entries (path, mode, object, stage, flags), whatever its stat data,
/// version and extensions: two indexes with equal digests have the same content staged.
/// The bytes may be hostile. The object hash is that of the repository.
///
/// # Errors
/// Bytes that are not an index.
pub fn index_digest(bytes: &[u8], sha256: bool) -> Result<[u8; 32]> {
    todo!()
}
