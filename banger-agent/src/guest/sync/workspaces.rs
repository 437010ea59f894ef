//! All workspaces of a VM: each is at a path of its own in the guest, and synced by itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::mount::check_is_free;
use super::reserve::Reserve;
use super::run::failure;
use super::{COUNT_DELAY, Workspace};
use crate::guest::paths::{REPOSITORIES, WORKSPACE};
use crate::protocol::sync::{GuestOnly, MAX_NAMED};
use crate::protocol::{AgentFailure, WireBytes};

/// The workspaces.
pub(in crate::guest) struct Workspaces {
    /// Where the agent keeps what it knows of all but the first.
    folder: PathBuf,
    /// Keeps paths on the disk reachable: they lead through this descriptor.
    _disk: OwnedFd,
    /// The one that was synced first: it comes on a disk of its own, if there is one.
    first: Arc<Workspace>,
    roots: Mutex<WorkspaceRoots>,
    /// Room on the VM's disk.
    reserve: Reserve,
}

/// Where the guest sees the workspaces.
struct WorkspaceRoots {
    /// The root of the first; empty: there is none yet.
    first: WireBytes,
    /// The other workspaces, by their roots. They live on the VM's disk.
    additional: BTreeMap<Vec<u8>, Arc<Workspace>>,
}

impl Workspaces {
    /// Reads what the agent knew when the guest last ran. `disk` is the folder on the VM's disk
    /// that is the agent's own. `seed` is the block device that the first workspace comes on, if
    /// there is one.
    pub(in crate::guest) fn new(disk: BorrowedFd<'_>, seed: Option<PathBuf>) -> io::Result<Workspaces> {
        let disk = disk.try_clone_to_owned()?;
        let own = PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
        let reserve = Reserve::new(&own);
        // A log that is damaged is written anew.
        reserve.spend();
        let first = Arc::new(Workspace::new(own.join("sync"), WORKSPACE.into(), seed)?);
        let folder = own.join("repositories");
        let mut additional = BTreeMap::new();
        match fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    let key = entry?.file_name();
                    let workspace = Workspace::new(folder.join(&key), Path::new(REPOSITORIES).join(&key), None)?;
                    additional.insert(workspace.root().0, Arc::new(workspace));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let roots = Mutex::new(WorkspaceRoots { first: first.root(), additional });
        Ok(Workspaces { folder, _disk: disk, first, roots, reserve })
    }

    fn roots(&self) -> MutexGuard<'_, WorkspaceRoots> {
        self.roots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn all(&self) -> Vec<Arc<Workspace>> {
        std::iter::once(&self.first).chain(self.roots().additional.values()).cloned().collect()
    }

    /// The workspace whose root is at `root`; one that is not known is made, if nothing is in its
    /// way there. Works on the disk.
    pub(super) fn at(&self, root: &WireBytes) -> Result<Arc<Workspace>, AgentFailure> {
        let mut roots = self.roots();
        if roots.first == *root {
            return Ok(Arc::clone(&self.first));
        }
        if let Some(workspace) = roots.additional.get(&root.0) {
            return Ok(Arc::clone(workspace));
        }
        let explain = |error: io::Error| failure("make a workspace at", root, &error);
        check_is_free(Path::new(root.as_os_str())).map_err(explain)?;
        if roots.first.0.is_empty() {
            self.first.claim(root).map_err(explain)?;
            roots.first.clone_from(root);
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
        roots.additional.insert(root.0.clone(), Arc::clone(&workspace));
        Ok(workspace)
    }

    /// Makes room for a sync on the VM's disk, if that is full.
    pub(super) fn spend_reserve(&self) {
        self.reserve.spend();
    }

    /// Keeps room for the next sync. Best effort: a full disk is said by what fails then.
    pub(super) fn restore_reserve(&self, workspace: &Workspace) {
        for reserve in workspace.reserve().iter().chain([&self.reserve]) {
            let _ = reserve.restore();
        }
    }

    /// A command starts: the guest's own changes are not known any more.
    pub(in crate::guest) fn forget_counts(&self) {
        self.all().iter().for_each(|workspace| workspace.forget_count());
    }

    /// The last command has ended: counts what changed in the guest, unless another starts at once.
    /// One workspace after the other, since a walk takes a thread.
    pub(in crate::guest) fn count_soon(&self) {
        let all: Vec<_> = self.all().into_iter().map(|workspace| (workspace.epoch(), workspace)).collect();
        tokio::spawn(async move {
            tokio::time::sleep(COUNT_DELAY).await;
            for (epoch, workspace) in all {
                let _ = tokio::task::spawn_blocking(move || workspace.count(epoch)).await;
            }
        });
    }

    /// What changed in the guest alone since the last syncs. Walks all workspaces. Paths are
    /// absolute.
    pub(in crate::guest) fn guest_only(&self) -> Result<GuestOnly, AgentFailure> {
        let mut sum = GuestOnly::default();
        for workspace in self.all() {
            let GuestOnly { counts, named } = workspace.guest_only()?;
            sum.counts.files += counts.files;
            sum.counts.references += counts.references;
            let root = workspace.root().0;
            let named = named.into_iter().take(MAX_NAMED - sum.named.len());
            sum.named.extend(named.map(|WireBytes(path)| WireBytes([&root[..], b"/", &path].concat())));
        }
        Ok(sum)
    }

    /// Brings what commands and syncs wrote to the first workspace's own disk, if it has one.
    pub(in crate::guest) fn flush(&self) {
        self.first.flush();
    }
}
