//! Images from files of this host, and into files.

use std::io::Write;
use std::path::Path;

use banger_util::sparse;
use fs_err as fs;

use super::pull::ImageSpec;
use super::{Image, Store};
use crate::bundle;
use crate::catalog::Catalog;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::ext4;
use crate::kind::Kind;
use crate::manifest;
use crate::name;
use crate::progress::Progress;

/// A bundle that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The SHA-256 of the file.
    pub sha256: Digest,
    /// The length of the file in bytes.
    pub size: u64,
}

impl Store {
    /// Takes a copy of a root file system, an ext4 image in a file, as the image `name` for the
    /// kernel of that name. The file is only read; where the file system can, the copy shares its
    /// blocks.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadName`]; [`Error::Image`] if the file is no ext4 file system,
    /// or a damaged one.
    pub fn register(&self, name: &str, rootfs: &Path, kernel: &str, progress: &dyn Progress) -> Result<Image> {
        name::check(Kind::Image, name)?;
        let catalog = Catalog::embedded()?;
        if catalog.images.contains_key(name) {
            return Err(Error::BadName {
                name: name.to_owned(),
                reason: "an image of the catalog has this name".to_owned(),
            });
        }
        // From here on its kernel is not deleted.
        let _hold = self.images.hold(false)?;
        self.check_kernel(kernel, &catalog)?;
        let exists = || Error::Exists { name: name.to_owned() };
        if self.image(name)?.is_some() {
            return Err(exists());
        }
        let what = format!("`{}`", rootfs.display());
        let wrong = |reason: String| Error::Image { what: what.clone(), reason };
        // Opening what is no file, such as a FIFO, may take forever.
        if !rootfs.metadata().map_err(Error::of_input(rootfs))?.is_file() {
            return Err(wrong("it is no file".to_owned()));
        }
        let source = std::fs::File::open(rootfs).map_err(Error::of_input(rootfs))?;
        let source = fs::File::from_parts(source, rootfs);
        let fit = |file: &fs::File| match ext4::check(file.file()) {
            Ok(()) => Ok(()),
            Err(ext4::CheckError::Reason(reason)) => Err(wrong(reason)),
            Err(ext4::CheckError::Io(error)) => Err(error.into()),
        };
        fit(&source)?;
        let mut is_made = false;
        let make = |dir: &Path| {
            progress.phase("copying the file system");
            let before = source.metadata()?;
            let copy = fs::OpenOptions::new().read(true).write(true).create_new(true).open(dir.join("rootfs.ext4"))?;
            sparse::copy(source.file(), copy.file())?;
            let after = source.metadata()?;
            if (before.len(), before.modified()?) != (after.len(), after.modified()?) {
                return Err(wrong("it was written to while it was copied".to_owned()));
            }
            fit(&copy)?;
            let spec = ImageSpec { name, description: "", kernel, ready: manifest::Ready::Agent, with_sshd: false };
            manifest::write(dir, &spec.manifest(format!("{}{}", manifest::REGISTERED, rootfs.display()), after.len()))?;
            is_made = true;
            Ok(())
        };
        let image = self.images.ensure(name, progress, || self.image(name), make)?;
        // Another may have been faster.
        if is_made { Ok(image) } else { Err(exists()) }
    }

    /// Writes an image as a bundle, for a catalog, to `out`. The bytes depend on the image alone.
    ///
    /// # Errors
    /// [`Error::NotHere`], [`Error::Io`].
    pub fn export(&self, name: &str, out: impl Write, progress: &dyn Progress) -> Result<Exported> {
        let _hold = self.images.hold(false)?;
        let image = match self.image(name)? {
            Some(image) => image,
            None => return Err(self.not_here(name)?),
        };
        let (sha256, size) = bundle::pack(&image.manifest, &image.rootfs, out, progress)?;
        Ok(Exported { sha256, size })
    }
}

#[cfg(test)]
mod tests;
