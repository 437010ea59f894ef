//! A cheap answer to "has git's side of this repository changed?".

use super::{Repository, Result};

/// A digest of what stat says about a repository's git folder. Equal fingerprints mean that nothing
/// in [`Repository::state`], [`Repository::object_files`], [`Repository::guest_config`] or
/// [`Repository::guest_index`] has changed, as far as stat can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Repository {
    /// Takes the fingerprint: stats only, no object is read.
    ///
    /// # Errors
    /// A git folder that cannot be read.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        todo!()
    }
}
