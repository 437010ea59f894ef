//! Files and disks of this machine.

pub(crate) mod space;
pub(crate) mod sparse;

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use fs_err as fs;

use crate::error::Result;

/// Whether an open file is still the one at its path.
pub(crate) fn is_at(file: &fs::File, path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|there| file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino())))
}

/// Makes a folder, and those above it, for its owner alone.
pub(crate) fn create_private(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| io::Error::new(error.kind(), format!("cannot create folder `{}`: {error}", path.display())))?;
    Ok(())
}
