//! Files and disks of this machine.

pub(crate) mod space;

use std::io;
use std::path::Path;

use banger_util::file::create_private_directory;

use crate::error::Result;

/// Makes a folder, and those above it, for its owner alone.
pub(crate) fn create_private(path: &Path) -> Result<()> {
    let made = create_private_directory(path);
    made.map_err(|error| io::Error::new(error.kind(), format!("cannot create folder `{}`: {error}", path.display())))?;
    Ok(())
}
