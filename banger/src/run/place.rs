//! Where in a VM a command runs, and as whom.

use std::path::{Path, PathBuf};

use banger_vmm::Vm;

use crate::cli::CommandOptions;
use crate::store::images::Images;
use crate::vm::checkout::GuestCheckout;

/// Root's home, where a bare VM is entered whose image does not say where.
const HOME: &str = "/root";

/// Where commands run in a VM unless an option says otherwise, and as whom.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CommandDefaults {
    /// The folder in the VM, absolute.
    folder: PathBuf,
    /// The workspace here, and where one stands in it: a folder that is empty here does not travel,
    /// and is there all the same.
    workspace: Option<(PathBuf, PathBuf)>,
    /// The folder is made if it is missing, as docker(1) makes the one that an image names.
    make: bool,
    user: Option<String>,
}

impl CommandDefaults {
    /// In a VM with the workspace of `checkout`: the folder that matches `here`, as root.
    pub(super) fn of_workspace(here: &Path, checkout: &GuestCheckout) -> CommandDefaults {
        let workspace = Some((checkout.root().to_owned(), here.to_owned()));
        CommandDefaults { folder: checkout.folder(here), workspace, make: true, user: None }
    }

    /// In a VM that was found by name, for commands about the workspace of `checkout`. Without one,
    /// as its image wants it.
    pub(super) fn of(vm: &Vm, checkout: Option<&GuestCheckout>, here: &Path, images: &Images<'_>) -> CommandDefaults {
        let nowhere = CommandDefaults { folder: HOME.into(), workspace: None, make: false, user: None };
        if let Some(checkout) = checkout {
            return if checkout.was_synced() { CommandDefaults::of_workspace(here, checkout) } else { nowhere };
        }
        match images.of(vm).and_then(|image| image.oci) {
            Some(origin) => {
                let folder = Path::new("/").join(origin.config.working_dir.unwrap_or_default());
                CommandDefaults { folder, make: true, user: origin.config.user, ..nowhere }
            }
            None => nowhere,
        }
    }

    /// The folder for a command with these options, and whether it is made if it is missing.
    pub(super) fn folder(&self, how: &CommandOptions) -> (PathBuf, bool) {
        let Some(dir) = &how.workdir else { return (self.folder.clone(), self.make) };
        let make = self.workspace.as_ref().is_some_and(|(root, here)| is_folder_of(root, &here.join(dir)));
        (self.folder.join(dir), make)
    }

    /// The user for a command with these options.
    pub(super) fn user(&self, how: &CommandOptions) -> Option<String> {
        how.user.clone().or_else(|| self.user.clone())
    }
}

/// A directory of a VM that commands run in, and that its relative paths are below.
pub struct Folder {
    /// Its absolute path there.
    pub path: PathBuf,
    /// Whether the image says where it is: then it is as foreign as what the guest says.
    pub is_of_image: bool,
}

/// The folder of a VM for commands from `here`.
pub fn folder(vm: &Vm, here: &Path, images: &Images<'_>) -> Folder {
    let CommandDefaults { folder, workspace, make, .. } =
        CommandDefaults::of(vm, GuestCheckout::around(vm, here).as_ref(), here, images);
    Folder { path: folder, is_of_image: make && workspace.is_none() }
}

fn is_folder_of(root: &Path, path: &Path) -> bool {
    path.is_dir() && path.canonicalize().is_ok_and(|path| path.starts_with(root))
}
