//! All workspaces of a VM: each is at a path of its own in the guest, and synced by itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::Workspace;
use super::place::check_is_free;
use super::run::failure;
use crate::guest::init::{REPOSITORIES, WORKSPACE};
use crate::protocol::sync::{GuestOnly, MAX_NAMED};
use crate::protocol::{Bytes, Failure};

/// The workspaces.
pub(in crate::guest) struct Workspaces {
    /// Where the agent keeps what it knows of all but the first.
    folder: PathBuf,
    /// Keeps paths on the disk reachable: they lead through this descriptor.
    _disk: OwnedFd,
    /// The one that was synced first: it comes on a disk of its own, if there is one.
    first: Arc<Workspace>,
    /// The others, by their roots. They live on the VM's disk.
    further: Mutex<BTreeMap<Vec<u8>, Arc<Workspace>>>,
}

impl Workspaces {
    /// Reads what the agent knew when the guest last ran. `disk` is the folder on the VM's disk that is the agent's own.
    /// `seed` is the block device that the first workspace comes on, if there is one.
    pub(in crate::guest) fn new(disk: BorrowedFd<'_>, seed: Option<PathBuf>) -> io::Result<Workspaces> {
        let disk = disk.try_clone_to_owned()?;
        let own = PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
        let first = Arc::new(Workspace::new(own.join("sync"), WORKSPACE.into(), seed)?);
        let folder = own.join("repositories");
        let mut further = BTreeMap::new();
        match fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    let key = entry?.file_name();
                    let workspace = Workspace::new(folder.join(&key), Path::new(REPOSITORIES).join(&key), None)?;
                    further.insert(workspace.root().0, Arc::new(workspace));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Workspaces { folder, _disk: disk, first, further: Mutex::new(further) })
    }

    fn further(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Arc<Workspace>>> {
        self.further.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn all(&self) -> Vec<Arc<Workspace>> {
        std::iter::once(&self.first).chain(self.further().values()).cloned().collect()
    }

    /// The workspace whose root is at `root`; one that is not known is made, if nothing is in its way there.
    pub(super) fn at(&self, root: &Bytes) -> Result<Arc<Workspace>, Failure> {
        let mut further = self.further();
        let first = self.first.root();
        if first == *root {
            return Ok(Arc::clone(&self.first));
        }
        if let Some(workspace) = further.get(&root.0) {
            return Ok(Arc::clone(workspace));
        }
        let explain = |error: io::Error| failure("make a workspace at", root, &error);
        check_is_free(Path::new(root.as_os_str())).map_err(explain)?;
        if first.0.is_empty() {
            self.first.claim(root).map_err(explain)?;
            return Ok(Arc::clone(&self.first));
        }
        let key = blake3::hash(&root.0).to_hex()[..16].to_owned();
        let disk = Path::new(REPOSITORIES).join(&key);
        let make = || -> io::Result<Workspace> {
            fs::create_dir_all(&disk)?;
            let workspace = Workspace::new(self.folder.join(&key), disk.clone(), None)?;
            workspace.claim(root)?;
            Ok(workspace)
        };
        let workspace = Arc::new(make().map_err(explain)?);
        further.insert(root.0.clone(), Arc::clone(&workspace));
        Ok(workspace)
    }

    /// A command starts: the guest's own changes are not known any more.
    pub(in crate::guest) fn forget_counts(&self) {
        self.all().iter().for_each(|workspace| workspace.forget_count());
    }

    /// The last command has ended: counts what changed in the guest, unless another starts at once.
    pub(in crate::guest) fn count_soon(&self) {
        self.all().iter().for_each(Workspace::count_soon);
    }

    /// What changed in the guest alone since the last syncs. Walks all workspaces. Paths are relative to the first one's root; those of the
    /// others are absolute.
    pub(in crate::guest) fn guest_only(&self) -> Result<GuestOnly, Failure> {
        let mut all = self.first.guest_only()?;
        let further: Vec<_> = self.further().values().cloned().collect();
        for workspace in further {
            let GuestOnly { counts, named } = workspace.guest_only()?;
            all.counts.files += counts.files;
            all.counts.references += counts.references;
            let root = workspace.root().0;
            let named = named.into_iter().take(MAX_NAMED - all.named.len());
            all.named.extend(named.map(|Bytes(path)| Bytes([&root[..], b"/", &path].concat())));
        }
        Ok(all)
    }

    /// Brings what commands and syncs wrote to the first workspace's own disk, if it has one.
    pub(in crate::guest) fn settle(&self) {
        self.first.settle();
    }
}
