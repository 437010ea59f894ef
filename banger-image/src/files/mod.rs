//! Files and disks of this machine.

pub(crate) mod space;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::error::Result;

/// Makes a folder, and those above it, for its owner alone.
pub(crate) fn create_private(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| io::Error::new(error.kind(), format!("cannot create folder `{}`: {error}", path.display())))?;
    Ok(())
}
