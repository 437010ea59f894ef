//! Where in a VM a command runs, and as whom.

use std::path::{Path, PathBuf};

use banger_vmm::Vm;

use crate::belonging::{self, Purpose};
use crate::cli::CommandOptions;
use crate::images::Images;
use crate::sync::GUEST_ROOT;

/// Root's home, where a bare VM is entered whose image does not say where.
const HOME: &str = "/root";

/// Where commands run if nobody says otherwise, and as whom.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The folder in the VM, absolute.
    folder: PathBuf,
    /// The workspace here, and where one stands in it: a folder that is empty here does not travel, and is there all the same.
    workspace: Option<(PathBuf, PathBuf)>,
    /// The folder is made if it is missing, as docker(1) makes the one that an image names.
    make: bool,
    user: Option<String>,
}

impl Place {
    /// In a VM with the workspace at `root`: the folder that matches `here`, as root.
    pub(super) fn of_workspace(here: &Path, root: &Path) -> Place {
        let workspace = Some((root.to_owned(), here.to_owned()));
        Place { folder: matching_folder(here, root), workspace, make: true, user: None }
    }

    /// In a VM that was found by name. In a bare one, as its image wants it.
    pub(super) fn of(vm: &Vm, here: &Path, images: &Images<'_>) -> Place {
        let nowhere = Place { folder: HOME.into(), workspace: None, make: false, user: None };
        let purpose = vm.record().ok().and_then(|record| Purpose::of(&record));
        if let Some(purpose) = purpose {
            return if belonging::was_synced(vm) { Place::of_workspace(here, purpose.path()) } else { nowhere };
        }
        match images.of(vm).and_then(|image| image.oci) {
            Some(origin) => {
                let folder = Path::new("/").join(origin.config.working_dir.unwrap_or_default());
                Place { folder, make: true, user: origin.config.user, ..nowhere }
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

/// The folder of a VM that commands from `here` run in, and that its relative paths are below.
pub fn folder(vm: &Vm, here: &Path, images: &Images<'_>) -> PathBuf {
    Place::of(vm, here, images).folder
}

fn is_folder_of(root: &Path, path: &Path) -> bool {
    path.is_dir() && path.canonicalize().is_ok_and(|path| path.starts_with(root))
}

/// The guest's folder that matches `here`, if that is in the workspace at `root`; else the workspace's own.
fn matching_folder(here: &Path, root: &Path) -> PathBuf {
    let here = here.canonicalize().unwrap_or_else(|_| here.to_owned());
    let below = here.strip_prefix(root).unwrap_or(Path::new(""));
    if below.as_os_str().is_empty() { GUEST_ROOT.into() } else { Path::new(GUEST_ROOT).join(below) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_matches_where_one_stands() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let below = root.join("a b/c");
        std::fs::create_dir_all(&below).unwrap();
        assert_eq!(matching_folder(&root, &root), Path::new("/root/repo"));
        assert_eq!(matching_folder(&below, &root), Path::new("/root/repo/a b/c"));
    }
}
