//! What VMs could leave behind on the host, to be compared before and after.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Home;
use crate::inspect::allocated;

/// What a VM could leave behind on the host, as it is at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct HostSnapshot {
    processes: usize,
    mounts: usize,
    /// Lines of `/proc/net/unix` about sockets in the home directory.
    sockets: Vec<String>,
    /// All paths in the home directory, and the bytes that each takes on disk.
    files: Vec<(PathBuf, u64)>,
}

impl HostSnapshot {
    /// Takes a snapshot of the host as far as `home` is concerned.
    ///
    /// # Panics
    /// If `/proc` or the home directory cannot be read.
    pub fn take(home: &Home) -> HostSnapshot {
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        let of_home = |line: &&str| line.contains(home.path().to_str().unwrap());
        let mut files = Vec::new();
        collect(home.path(), &mut files);
        files.sort();
        HostSnapshot {
            processes: home.processes().len(),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            sockets: sockets.lines().filter(of_home).map(str::to_owned).collect(),
            files,
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        let bytes = if metadata.is_file() { allocated(&entry.path()) } else { 0 };
        files.push((entry.path(), bytes));
        if metadata.is_dir() {
            collect(&entry.path(), files);
        }
    }
}
