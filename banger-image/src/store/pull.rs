//! Pulled images in the store. What was pulled once is never written again: a VM's disk is an
//! overlay over it.
//!
//! ```text
//! images/<name>               a link to the one that was pulled last
//! images/<name>.<12 digits>/  what was pulled, by its content; as long as a VM needs it
//! ```

mod catalog;

use std::path::Path;

use super::{Image, Store};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::kind::Kind;
use crate::manifest::{self, FORMAT_VERSION, ImageManifest, Ready};
use crate::name;
use crate::oci::{self, PullOptions, Source};
use crate::progress::Progress;

/// What the manifest of an image says that does not depend on its source.
pub(crate) struct ImageSpec<'a> {
    pub(crate) name: &'a str,
    pub(crate) description: &'a str,
    pub(crate) kernel: &'a str,
    pub(crate) ready: Ready,
    pub(crate) with_sshd: bool,
}

impl ImageSpec<'_> {
    /// Identifies an image with this content: kernel and options make different images of one
    /// content.
    fn identity(&self, content: &str) -> String {
        let mut identity = format!("{content}\n{}", self.kernel);
        if self.ready == Ready::System {
            identity.push_str("\nsystem");
        }
        if self.with_sshd {
            identity.push_str("\nsshd");
        }
        identity
    }

    pub(crate) fn manifest(&self, source: String, rootfs_bytes: u64) -> ImageManifest {
        ImageManifest {
            format_version: FORMAT_VERSION,
            name: self.name.to_owned(),
            description: self.description.to_owned(),
            kernel: self.kernel.to_owned(),
            ready: self.ready,
            source,
            created: manifest::now(),
            rootfs_bytes,
            with_sshd: self.with_sshd,
            oci: None,
            anonymous: false,
            bundle: None,
        }
    }
}

/// The result of a pull.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image that has the name now.
    pub image: Image,
    /// The name.
    pub name: String,
    /// What the pull has changed.
    pub change: Change,
}

/// What a pull has changed in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// No image had the name before.
    New,
    /// The image is the one that had the name before.
    None,
    /// Another image had the name before, or this content with another kernel.
    Refreshed {
        /// The manifest of that image; `None` if it was damaged.
        before: Option<Box<ImageManifest>>,
    },
}

impl Store {
    /// Pulls an image and gives it the name `name`; it boots with the kernel `kernel`. An image
    /// that had the name before stays until it is deleted: see [`Store::outdated`].
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::InvalidName`], [`Error::Unknown`] for names; else those of
    /// finding, downloading, checking and writing the image. The store is unchanged then.
    pub fn pull(
        &self,
        source: &Source,
        name: &str,
        kernel: &str,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        self.check_pull_name(name)?;
        self.check_kernel(kernel, &Catalog::embedded()?)?;
        let spec = ImageSpec { name, description: "", kernel, ready: Ready::Agent, with_sshd: options.with_sshd };
        self.pull_oci(source, &spec, options, progress)
    }

    /// Pulls from a registry, or an archive.
    fn pull_oci(
        &self,
        source: &Source,
        spec: &ImageSpec<'_>,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        progress.phase("reading the manifest");
        let tell = |text: &str| progress.message(text);
        let found = oci::find(source, options, &tell)?;
        let make = |dir: &Path| {
            let rootfs_bytes = found.write(&dir.join("rootfs.ext4"), progress)?;
            let (oci, anonymous) = (Some(found.origin.clone()), found.is_anonymous());
            let manifest = spec.manifest(source.to_string(), rootfs_bytes);
            manifest::write(dir, &ImageManifest { oci, anonymous, ..manifest })
        };
        let pulled = self.put(spec, &found.origin.digest.to_string(), &make, progress)?;
        let manifest = &pulled.image.manifest;
        // What is here has come with credentials, and now the registry has named it to somebody who
        // showed none.
        if found.is_anonymous() && !manifest.anonymous && manifest.source == source.to_string() {
            return Ok(Pulled { image: self.note_anonymous(&pulled.image, progress)?, ..pulled });
        }
        Ok(pulled)
    }

    /// Records that an image can be pulled without credentials.
    fn note_anonymous(&self, image: &Image, progress: &dyn Progress) -> Result<Image> {
        let _lock = self.images.lock(&image.name, progress)?;
        let manifest = ImageManifest { anonymous: true, ..image.manifest.clone() };
        manifest::replace(&image.dir, &manifest)?;
        Ok(Image { manifest, ..image.clone() })
    }

    /// Makes the image that `content` identifies, if the store does not have it, and gives it the
    /// name.
    fn put(
        &self,
        spec: &ImageSpec<'_>,
        content: &str,
        make: &dyn Fn(&Path) -> Result<()>,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        let name = spec.name;
        let folder = name::folder_name(name, &spec.identity(content));
        // What pulls that were killed have left, of whatever they were.
        self.images.sweep()?;
        loop {
            self.images.ensure(&folder, progress, || self.image(&folder), make)?;
            let _hold = self.images.hold(false)?;
            // Somebody may have deleted it meanwhile.
            let Some(image) = self.image(&folder)? else { continue };
            // Nor may its kernel have been deleted.
            self.check_kernel(spec.kernel, &Catalog::embedded()?)?;
            // Of those who pull it at a time, one makes it new.
            let _turn = self.images.lock(name, progress)?;
            let before = self.images.resolve(name);
            let change = if before == folder {
                Change::None
            } else if before == name {
                Change::New
            } else {
                let before = self.image(&before).ok().flatten().map(|image| image.manifest);
                Change::Refreshed { before: before.map(Box::new) }
            };
            if change != Change::None {
                self.images.point(name, &folder)?;
            }
            return Ok(Pulled { image, name: name.to_owned(), change });
        }
    }

    /// Checks that a pulled image may have this name.
    fn check_pull_name(&self, name: &str) -> Result<()> {
        name::check(Kind::Image, name)?;
        let refuse = |reason: &str| Err(Error::BadName { name: name.to_owned(), reason: reason.to_owned() });
        if name::check(Kind::Image, &name::folder_name(name, "")).is_err() {
            return refuse("it has more than 51 characters");
        }
        if Catalog::embedded()?.images.contains_key(name) {
            return refuse("an image of the catalog has this name");
        }
        if self.images.path_of(name).is_dir() && self.images.resolve(name) == name {
            return refuse("an image that was not pulled has this name");
        }
        if self.image(name).ok().flatten().is_some_and(|image| image.manifest.bundle.is_some()) {
            return refuse("an image of a catalog has this name");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
