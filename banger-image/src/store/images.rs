//! Images in the store, apart from getting them.

use fs_err::File;

use super::{Image, Store};
use crate::error::{Error, Result};
use crate::kind::Kind;
use crate::name;
use crate::progress::Progress;

impl Store {
    /// All images that are there and whole, by the names of their folders.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn images(&self) -> Result<Vec<Image>> {
        Ok(self.images.names()?.iter().filter_map(|name| self.image(name).ok().flatten()).collect())
    }

    /// What was pulled as `name` before what is called so now.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn outdated(&self, name: &str) -> Result<Vec<Image>> {
        let current = self.images.resolve(name);
        let is_outdated = |image: &Image| image.manifest.name == name && image.name != name && image.name != current;
        Ok(self.images()?.into_iter().filter(is_outdated).collect())
    }

    /// The error that there is no image of that name, with the one that was probably meant.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn not_here(&self, name: &str) -> Result<Error> {
        let known: Vec<_> = self.images()?.into_iter().map(|image| image.manifest.name).collect();
        let nearest = name::nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
        Ok(Error::NotHere { kind: Kind::Image, name: name.to_owned(), nearest })
    }

    /// Keeps images from being deleted as long as what is returned lives: from looking for one
    /// until a VM's record names it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn hold_images(&self) -> Result<File> {
        self.images.hold(false)
    }

    /// Deletes an image: the folder of that name, or all that was pulled as `name`. `users` tells
    /// which VMs were made from a folder. Returns the names of what was deleted.
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
