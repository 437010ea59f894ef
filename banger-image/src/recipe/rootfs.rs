//! Builds an image's root file system from a recipe.

use std::path::Path;

use fs_err as fs;

use super::Recipe;
use crate::archive::unpack::unpack;
use crate::error::Result;
use crate::files::space::check_room;
use crate::progress::Progress;

/// Builds `rootfs.ext4` in the directory `dir` and returns its length in bytes. `registry` is the
/// URL of the npm registry.
pub(crate) fn build(recipe: &Recipe, registry: &str, dir: &Path, progress: &dyn Progress) -> Result<u64> {
    let scratch = dir.join("scratch");
    fs::create_dir(&scratch)?;
    check_room("the image", &[(dir, recipe.npm.iter().fold(0, |sum, package| package.size.saturating_add(sum)))])?;
    let rootfs = dir.join("rootfs.ext4");
    let mut writer = recipe.start_image(&rootfs)?;
    // First, for they are what may not be had.
    recipe.npm.iter().try_for_each(|package| package.add(registry, &mut writer, progress))?;
    recipe.run(&scratch, progress, |stream| unpack(stream, &mut writer))?;
    progress.phase("writing the file system");
    let file = writer.finish()?;
    fs::remove_dir_all(&scratch)?;
    Ok(file.metadata()?.len())
}
