//! Makes an image's root file system from a recipe's tree.

use std::path::Path;

use fs_err as fs;

use crate::error::Result;
use crate::ext4::{self, Tree};
use crate::mmdebstrap::Recipe;
use crate::progress::Progress;

/// Builds `rootfs.ext4` in `dir` and returns its length in bytes.
pub(crate) fn build(recipe: &Recipe, dir: &Path, progress: &dyn Progress) -> Result<u64> {
    ext4::require_tools()?;
    let scratch = dir.join("scratch");
    fs::create_dir(&scratch)?;
    let tree = recipe.run(&scratch, progress, |stream| Tree::unpack(stream, scratch.join("tree")))?;
    progress.phase("writing the file system");
    let rootfs = dir.join("rootfs.ext4");
    ext4::write(&tree, &rootfs, &scratch)?;
    fs::remove_dir_all(&scratch)?;
    Ok(fs::metadata(&rootfs)?.len())
}
