//! The user's kernels, which images name and VMs boot.

use std::collections::BTreeSet;
use std::path::Path;

use banger_image::{Catalog, Kernel, Store};

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::store::catalog::catalog;
use crate::store::in_use::InUse;

/// See the module.
pub struct Kernels<'a> {
    store: Store,
    in_use: InUse,
    paths: &'a Paths,
    ui: &'a Ui,
}

/// What needs a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    /// The names of images that boot it.
    pub images: Vec<String>,
    /// The names of VMs.
    pub vms: Vec<String>,
}

impl<'a> Kernels<'a> {
    /// Those below the user's folders.
    pub fn new(paths: &'a Paths, ui: &'a Ui) -> Kernels<'a> {
        Kernels { store: Store::new(&paths.data), in_use: InUse::new(paths), paths, ui }
    }

    /// The store that they are in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The names of those that are here.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn names(&self) -> Result<Vec<String>, CommandError> {
        Ok(self.store.kernels()?.into_iter().map(|kernel| kernel.name).collect())
    }

    /// The names that an image may name: of those that are here, and of the catalog's.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn names_for_images(&self) -> Result<Vec<String>, CommandError> {
        let here = self.names()?.into_iter();
        Ok(here.chain(Catalog::embedded()?.kernels.into_keys()).collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// The kernel of that name; it is got from the catalog if it is not here.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn ensure(&self, name: &str) -> Result<Kernel, CommandError> {
        if let Some(kernel) = self.store.kernel(name)? {
            return Ok(kernel);
        }
        let catalog = catalog(self.paths, self.ui)?;
        let kernel = self.store.ensure_kernel(name, &catalog, self.ui);
        self.ui.finish();
        Ok(kernel?)
    }

    /// Adds what Firecracker needs to the kernel of that name, if an earlier version of banger made
    /// it. Returns it, and whether anything was added.
    ///
    /// # Errors
    /// If there is none of this name, or its files are damaged.
    pub fn upgrade(&self, name: &str) -> Result<(Kernel, bool), CommandError> {
        let upgraded = self.store.upgrade_kernel(name, self.ui);
        self.ui.finish();
        Ok(upgraded?)
    }

    /// Takes a kernel into the store, with the folder of its modules if it has any.
    ///
    /// # Errors
    /// If no VM could boot it, or its name is taken.
    pub fn import(&self, name: &str, kernel: &Path, modules: Option<&Path>) -> Result<Kernel, CommandError> {
        let kernel = self.store.import_kernel(name, kernel, modules, self.ui);
        self.ui.finish();
        Ok(kernel?)
    }

    /// What needs a kernel.
    ///
    /// # Errors
    /// If a store cannot be read.
    pub fn users(&self, name: &str) -> Result<Users, CommandError> {
        Ok(Users { images: self.store.images_for(name)?, vms: self.in_use.by_kernel(name)? })
    }

    /// Deletes a kernel.
    ///
    /// # Errors
    /// If it is not there, or images or VMs need it.
    pub fn delete(&self, name: &str) -> Result<(), CommandError> {
        let users =
            || Ok::<_, CommandError>(self.in_use.by_kernel(name)?.iter().map(|vm| format!("VM `{vm}`")).collect());
        self.store.delete_kernel(name, users, self.ui)
    }
}
