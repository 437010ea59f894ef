//! Images of a catalog in the store. Bundles and images of registries are kept by content, as other
//! pulled images are; an image that a recipe has built is in a directory of its name.

use std::path::Path;

use super::{Change, ImageSpec, Pulled};
use crate::bundle;
use crate::catalog::{self, Catalog, ImageSource};
use crate::error::Result;
use crate::fetch::pinned::Pinned;
use crate::kind::Kind;
use crate::manifest::{self, ImageManifest};
use crate::oci::{PullOptions, Source};
use crate::progress::Progress;
use crate::recipe::rootfs;
use crate::store::{Image, Store, first_working, unknown};

impl Store {
    /// The image `name`. If the store does not have it, it is pulled by its name in the catalog.
    ///
    /// # Errors
    /// As [`Store::pull_named`].
    pub fn ensure_image(
        &self,
        name: &str,
        catalog: &Catalog,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Image> {
        match self.image(name)? {
            Some(image) => Ok(image),
            None => Ok(self.pull_named(name, catalog, options, progress)?.image),
        }
    }

    /// Pulls the image `name` of the catalog, or brings it up to date, from the first of its
    /// sources that works. An image that was built on this host or registered stays unchanged.
    ///
    /// # Errors
    /// [`Error::Unknown`](crate::Error::Unknown) if the catalog does not have the image or its
    /// kernel; else the error of the last source. The store is unchanged then.
    pub fn pull_named(
        &self,
        name: &str,
        catalog: &Catalog,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        let here = self.image(name)?;
        let Some(entry) = catalog.images.get(name) else {
            let image = here.ok_or_else(|| unknown(Kind::Image, name, catalog.images.keys(), &[]))?;
            return Ok(Pulled { image, name: name.to_owned(), change: Change::None });
        };
        self.check_kernel(&entry.kernel, catalog)?;
        let spec = ImageSpec {
            name,
            description: &entry.description,
            kernel: &entry.kernel,
            ready: entry.ready,
            with_sshd: false,
        };
        if let Some(image) = here.filter(|image| image.name == name) {
            return Ok(Pulled { image, name: name.to_owned(), change: Change::None });
        }
        first_working(&entry.sources, progress, |source| match source {
            ImageSource::Bundle(bundle) => self.pull_bundle(bundle, &spec, options, progress),
            ImageSource::Recipe(recipe) => self.build(recipe, &spec, options, progress),
            ImageSource::Oci(reference) => {
                self.pull_oci(&Source::Registry(reference.clone()), &spec, options, progress)
            }
        })
    }

    fn pull_bundle(
        &self,
        pinned: &Pinned,
        spec: &ImageSpec<'_>,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        let make = |dir: &Path| {
            let says = bundle::unpack(pinned, dir, options.max_bytes, progress)?;
            let source = format!("bundle {pinned}");
            let mut manifest = spec.manifest(source.clone(), says.rootfs_bytes());
            (manifest.oci, manifest.bundle) = (says.into_origin(&source), Some(pinned.sha256));
            manifest::write(dir, &manifest)
        };
        self.put(spec, &pinned.sha256.to_string(), &make, progress)
    }

    fn build(
        &self,
        recipe: &str,
        spec: &ImageSpec<'_>,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        let name = spec.name;
        let before = self.image(name)?.is_some();
        let make = |dir: &Path| {
            let rootfs_bytes = rootfs::build(&catalog::recipe(recipe)?, &options.npm_registry, dir, progress)?;
            let manifest: ImageManifest = spec.manifest(format!("{}{recipe}", manifest::RECIPE), rootfs_bytes);
            manifest::write(dir, &manifest)
        };
        let image = self.images.ensure(name, progress, || self.image(name), make)?;
        Ok(Pulled { image, name: name.to_owned(), change: if before { Change::None } else { Change::New } })
    }
}

#[cfg(test)]
mod tests;
