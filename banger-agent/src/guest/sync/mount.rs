//! Where a workspace is in the guest: where it lives, and where it is seen.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use banger_util::file::{Durability, replace_exclusive};
use serde::{Deserialize, Serialize};

use crate::protocol;

/// A workspace's tree on its disk, and where the guest sees it.
///
/// The tree lives on a disk of its own, or on the VM's disk itself, and is bound to where the guest
/// sees it: an overlay would make each file twice as dear to create. The agent works on it from its
/// own side, where the stage is in the same mount, so that things can be renamed.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkspaceMount {
    /// The folder of the tree and the stage, on the disk.
    pub(super) disk: PathBuf,
    /// Kept beside the log, for a guest that has been started again.
    pub(super) settings: Settings,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Where the guest sees the workspace.
    pub(super) root: protocol::WireBytes,
    /// Patterns of the host's own excludes file.
    pub(super) excludes: protocol::WireBytes,
}

impl WorkspaceMount {
    /// The tree, from the agent's side.
    pub(super) fn root(&self) -> PathBuf {
        self.disk.join("tree")
    }

    pub(super) fn stage(&self) -> PathBuf {
        self.disk.join("stage")
    }

    /// Whether the tree is where the guest expects it: a guest can unmount.
    pub(super) fn is_shown(&self) -> bool {
        let of = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        let shown = of(Path::new(self.settings.root.as_os_str()));
        shown.is_some() && shown == of(&self.root())
    }

    /// Shows the tree where the guest expects it, and to each of its users: `/root` is closed to
    /// most.
    pub(super) fn show(&self) -> io::Result<()> {
        let root = Path::new(self.settings.root.as_os_str());
        bind(&self.root(), root)?;
        root.ancestors().skip(1).filter(|folder| folder.starts_with("/root")).try_for_each(make_searchable)
    }
}

impl Settings {
    /// What the agent last knew; nothing before the first sync.
    pub(super) fn read(folder: &Path) -> Settings {
        let json = fs::read(folder.join("settings")).ok();
        json.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        replace_exclusive(&folder.join("settings"), &json, 0o666, Durability::Unsynced)
    }
}

/// Removes a folder with all that is in it, if it is there.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Binds `root` at `alias`, unless the image has something there.
pub(super) fn bind(root: &Path, alias: &Path) -> io::Result<()> {
    fs::create_dir_all(alias)?;
    check_is_free(alias)?;
    let none: Option<&str> = None;
    Ok(nix::mount::mount(Some(root), alias, none, nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REC, none)?)
}

/// Whether a workspace can be shown at `path`: nothing is there, or an empty folder.
pub(super) fn check_is_free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        // Not where a link leads: that may be another workspace's.
        Ok(found) if found.is_dir() => {
            let is_empty = fs::read_dir(path)?.next().is_none();
            if is_empty { Ok(()) } else { Err(io::ErrorKind::DirectoryNotEmpty.into()) }
        }
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets everybody reach what is in a folder, without showing what is.
fn make_searchable(folder: &Path) -> io::Result<()> {
    const SEARCH: u32 = 0o111;
    let mut permissions = fs::metadata(folder)?.permissions();
    if permissions.mode() & SEARCH == SEARCH {
        return Ok(());
    }
    permissions.set_mode(permissions.mode() | SEARCH);
    fs::set_permissions(folder, permissions)
}
