//! Putting a snapshot's disks in the place of a VM's.
//!
//! The copies are made in a directory of their own, whose rename is what counts: once it has its
//! name, the disks are the VM's, and whoever finds it moves them to their places. Until then the
//! VM's former disks are what they were.

use std::fs;
use std::io;
use std::path::Path;

use super::{SnapshotInfo, copy_disk};
use crate::error::{IoContext, Result};
use crate::file;

/// The copies while they are made, and when they are complete, in the VM's directory.
const MAKING: &str = "restore.making";
const COMPLETE: &str = "restore";

/// Replaces the disks of the VM in the directory `vm`, which does not run, by those of the snapshot
/// in `snapshot`. Done as a whole or not at all.
///
/// # Errors
/// The file system's refusal.
pub(crate) fn put_disks(vm: &Path, snapshot: &Path, info: &SnapshotInfo) -> Result<()> {
    finish(vm)?;
    let making = vm.join(MAKING);
    file::create_folder(&making)?;
    let copied = info.disks.iter().try_for_each(|disk| {
        let path = making.join(disk);
        let from = snapshot.join(disk);
        let source = file::open_regular(&from).at("open", &from)?;
        copy_disk(&source, &path, &|| false)?.sync_all().at("write", &path)
    });
    let complete = vm.join(COMPLETE);
    copied
        .and_then(|()| file::sync_folder(&making))
        .and_then(|()| fs::rename(&making, &complete).at("make", &complete))
        .inspect_err(|_| _ = fs::remove_dir_all(&making))?;
    file::sync_folder(vm)?;
    finish(vm)
}

/// Finishes what an earlier [`put_disks`] began whose process was killed, or undoes it. To be called
/// before a VM's disks are used.
///
/// # Errors
/// The file system's refusal.
pub(crate) fn finish(vm: &Path) -> Result<()> {
    let making = vm.join(MAKING);
    match fs::remove_dir_all(&making) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("remove", &making),
        _ => {}
    }
    let complete = vm.join(COMPLETE);
    let disks = match fs::read_dir(&complete) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        disks => disks.at("read", &complete)?,
    };
    for disk in disks {
        let disk = disk.at("read", &complete)?;
        let place = vm.join(disk.file_name());
        fs::rename(disk.path(), &place).at("make", &place)?;
    }
    file::sync_folder(vm)?;
    fs::remove_dir(&complete).at("remove", &complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restore_that_was_cut_off_is_finished_or_undone() {
        let vm = tempfile::tempdir().unwrap();
        let path = |name: &str| vm.path().join(name);
        let write = |name: &str, text: &str| {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
        };
        let read = |name: &str| fs::read_to_string(path(name)).unwrap();
        write("disk.ext4", "old");
        write("workspace.ext4", "old");
        write("restore.making/disk.ext4", "ne");
        finish(vm.path()).unwrap();
        assert_eq!((read("disk.ext4").as_str(), path("restore.making").exists()), ("old", false));
        // Killed between the two renames.
        write("restore/workspace.ext4", "new");
        write("disk.ext4", "new");
        finish(vm.path()).unwrap();
        assert_eq!((read("disk.ext4"), read("workspace.ext4")), ("new".into(), "new".into()));
        assert!(!path("restore").exists());
        finish(vm.path()).unwrap();
    }
}
