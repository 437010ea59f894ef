//! One control group per command, so that all it started can be killed whatever became of process
//! groups and sessions.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const PARENT: &str = "/sys/fs/cgroup/banger";

/// The control group of one command; see cgroups(7).
#[derive(Debug)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a group. None where the guest has no cgroup2 mounted: then only the process group can
    /// be killed.
    pub(super) fn new() -> Option<Cgroup> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        remove_empty(Path::new(PARENT));
        let path = Path::new(PARENT).join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir_all(&path).ok()?;
        Some(Cgroup(path))
    }

    /// The file that takes a process into the group when `0` is written to it by that process.
    pub(super) fn procs(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.0.join("cgroup.procs"))
    }

    /// Kills every process of the group with SIGKILL.
    pub(super) fn kill(&self) {
        // A group that is gone holds nothing to kill.
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
    }
}

impl Drop for Cgroup {
    /// Removes the group if nothing lives in it; what a command left behind lives on, and its group
    /// with it.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Removes the groups whose last process has ended since.
fn remove_empty(parent: &Path) {
    for group in fs::read_dir(parent).into_iter().flatten().flatten() {
        if group.file_type().is_ok_and(|kind| kind.is_dir()) && is_empty(&group.path()) {
            let _ = fs::remove_dir(group.path());
        }
    }
}

fn is_empty(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events")).is_ok_and(|events| events.contains("populated 0"))
}
