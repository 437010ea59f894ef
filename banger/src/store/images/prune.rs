//! Removing images that nobody needs.

use banger_image::Image;

use super::Images;
use crate::error::{CommandError, ErrorKind};
use crate::store::disk_usage::allocated;

/// An image that was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// What it is called, or was.
    pub name: String,
    /// The name of its folder.
    pub folder: String,
    /// What it took on this machine's disks.
    pub bytes: u64,
}

impl Images<'_> {
    /// Removes all images that no VM was made from, but for those that are called, or referred to,
    /// as in `keep`, and those that were made of files of this machine; or only says which.
    ///
    /// # Errors
    /// If a store cannot be read, or an image cannot be removed.
    pub fn prune(&self, keep: &[&str], dry_run: bool) -> Result<Vec<Removed>, CommandError> {
        let mut kept = Vec::new();
        for named in keep {
            // A name that no image can have is none that is here.
            let image = self.store.image(&Self::store_name(named));
            kept.extend(image.ok().flatten().map(|image| image.name));
        }
        let mut removed = Vec::new();
        for Image { name: folder, dir, manifest, .. } in self.store.images()? {
            // Nobody could get one that was made of a file again, should that be gone.
            if kept.contains(&folder) || manifest.is_of_files() {
                continue;
            }
            let bytes = allocated(&dir);
            let is_gone = if dry_run {
                self.in_use.by_images(std::slice::from_ref(&folder))?.is_empty()
            } else {
                match self.store.delete_image(&folder, |folders| self.in_use.by_images(folders), self.ui) {
                    Ok(_) => true,
                    // A VM was made from it, or somebody else was faster.
                    Err(error) if is_of_others(&error) => false,
                    Err(error) => return Err(error),
                }
            };
            if is_gone {
                removed.push(Removed { name: manifest.name, folder, bytes });
            }
        }
        Ok(removed)
    }
}

fn is_of_others(error: &CommandError) -> bool {
    matches!(error.kind, ErrorKind::ImageInUse | ErrorKind::UnknownImage)
}

#[cfg(test)]
mod tests {
    use banger_image::Error;

    use super::*;

    #[test]
    fn image_in_use_or_gone_does_not_fail_prune() {
        let in_use = Error::InUse { name: "a".into(), vms: vec!["v".into()] };
        assert!(is_of_others(&in_use.into()));
        let damaged = Error::Damaged { path: "/a".into(), reason: "it is".into() };
        assert!(!is_of_others(&damaged.into()));
    }
}
