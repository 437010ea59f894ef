//! What is counted before and after VMs have come and gone.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Home;
use crate::machine::allocated;

/// What a VM could leave behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    processes: usize,
    mounts: usize,
    /// Sockets and other things of the unix domain, by path.
    sockets: Vec<String>,
    /// Everything in the home folder, and what it takes of the disk.
    files: Vec<(PathBuf, u64)>,
}

impl Machine {
    /// As it is at the moment.
    ///
    /// # Panics
    /// If it cannot be seen.
    pub fn now(home: &Home) -> Machine {
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        let of_home = |line: &&str| line.contains(home.path().to_str().unwrap());
        let mut files = Vec::new();
        collect(home.path(), &mut files);
        files.sort();
        Machine {
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
