//! The guest's `.git/config`, written new from an allow-list of effective values.

use super::{Repository, Result};

impl Repository {
    /// The bytes of the guest's `.git/config`.
    ///
    /// # Errors
    /// A configuration file that cannot be read or parsed.
    pub fn guest_config(&self) -> Result<Vec<u8>> {
        todo!()
    }

    /// The content of the user's `core.excludesFile`, or of `git/ignore` in the XDG folder; empty if
    /// there is none.
    ///
    /// # Errors
    /// A configuration file that cannot be read or parsed, a file of more than 16 MiB.
    pub fn global_excludes(&self) -> Result<Vec<u8>> {
        todo!()
    }
}
