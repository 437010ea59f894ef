//! Images in the store, apart from getting them.

use fs_err::File;

use super::{Image, Store};
use crate::error::{Error, Result};
use crate::kind::Kind;
use crate::name;
use crate::progress::Progress;

impl Store {
    /// All complete images, sorted by the names of their directories.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn images(&self) -> Result<Vec<Image>> {
        Ok(self.images.names()?.iter().filter_map(|name| self.image(name).ok().flatten()).collect())
    }

    /// Images that were pulled as `name` before the one that has the name now.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn outdated(&self, name: &str) -> Result<Vec<Image>> {
        let current = self.images.resolve(name);
        let is_outdated = |image: &Image| image.manifest.name == name && image.name != name && image.name != current;
        Ok(self.images()?.into_iter().filter(is_outdated).collect())
    }

    /// The error that the store has no image `name`, with the name that was probably meant.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be read.
    pub fn not_here(&self, name: &str) -> Result<Error> {
        let known: Vec<_> = self.images()?.into_iter().map(|image| image.manifest.name).collect();
        let nearest = name::nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
        Ok(Error::NotHere { kind: Kind::Image, name: name.to_owned(), nearest })
    }

    /// Takes a shared lock that keeps images from being deleted until the returned file is closed.
    /// A caller holds it from looking up an image until a VM's record names the image.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn hold_images(&self) -> Result<File> {
        self.images.hold(false)
    }

    /// Deletes the image in the directory `name`; without such a directory, all images that were
    /// pulled as `name`. `users` returns the VMs that were made from images in the given
    /// directories. Returns the names of the deleted directories.
    ///
    /// # Errors
    /// [`Error::NotHere`]; [`Error::InUse`]: then nothing was deleted.
    pub fn delete_image<E: From<Error>>(
        &self,
        name: &str,
        users: impl FnOnce(&[String]) -> std::result::Result<Vec<String>, E>,
        progress: &dyn Progress,
    ) -> std::result::Result<Vec<String>, E> {
        name::check(Kind::Image, name)?;
        let _alone = self.images.hold(true)?;
        let there = self.images.names()?;
        let is_pulled_as = |folder: &&String| name::is_folder_of(folder, name);
        let is_there = |folder: &&String| *folder == name;
        let mut folders: Vec<String> = there.iter().filter(is_there).cloned().collect();
        if folders.is_empty() {
            folders = there.iter().filter(is_pulled_as).cloned().collect();
        }
        if folders.is_empty() {
            return Err(self.not_here(name)?.into());
        }
        let vms = users(&folders)?;
        if !vms.is_empty() {
            return Err(Error::InUse { name: name.to_owned(), vms }.into());
        }
        for folder in &folders {
            if let Some((alias, _)) = folder.rsplit_once('.') {
                self.images.unpoint(alias, folder)?;
            }
            self.images.remove(folder, progress)?;
        }
        Ok(folders)
    }
}
