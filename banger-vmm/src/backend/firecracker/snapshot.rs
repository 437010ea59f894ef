//! Snapshots: a paused guest's state in files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::api::{Client, SnapshotCreateParams, VmState};
use super::run_directory::RunDirectory;
use crate::backend::vmm::Done;
use crate::error::{Failure, IoContext, Result};
use crate::file;

/// The files of a snapshot, in its directory: the state of the machine, and the guest's memory. In
/// the run directory of a VM that goes on from it, links with these names lead to them.
pub(super) const STATE: &str = "firecracker.state";
pub(super) const MEMORY: &str = "firecracker.memory";
/// The names that they are written under, in the run directory.
const NEW_STATE: &str = "new.state";
const NEW_MEMORY: &str = "new.memory";

/// The files of the snapshot in this directory, each with its name.
///
/// # Errors
/// One is no regular file, or cannot be opened: Firecracker would wait for a FIFO.
pub(super) fn links(directory: &Path) -> Result<[(String, PathBuf); 2]> {
    let links = [STATE, MEMORY].map(|name| (name.to_owned(), directory.join(name)));
    for (_, path) in &links {
        file::open_regular(path).at("open", path)?;
    }
    Ok(links)
}

/// Stops the guest's processors.
pub(super) async fn pause(client: &Client) -> Result<(), Failure> {
    let version = client.version().await?;
    if !version.can_pause() {
        let failure =
            Failure::new(format!("Firecracker {version} cannot pause a VM: no connection would reach it afterwards"));
        return Err(failure.with_hint("install a later version of Firecracker, or one before 1.16"));
    }
    client.call(&VmState::Paused.request()).await?;
    Ok(())
}

/// Writes a paused guest's state to new files in `target`, which is on the file system of the VM's
/// directory: Firecracker may write in its run directory only. There are none if nobody waits for
/// the answer any more when they are written.
pub(super) async fn write(
    client: &Client,
    directory: &RunDirectory,
    target: &Path,
    answer: &Done,
) -> Result<(), Failure> {
    let new = [NEW_STATE, NEW_MEMORY].map(|name| directory.path().join(name));
    let call = SnapshotCreateParams::full(Path::new(NEW_STATE), Path::new(NEW_MEMORY)).request();
    let written = match client.call(&call).await {
        Ok(_) if answer.is_closed() => Err(Failure::new("nobody wants the snapshot any more")),
        Ok(_) => move_into(&new, target).map_err(Failure::from),
        Err(error) => Err(error.into()),
    };
    if written.is_err() {
        for path in &new {
            let _ = fs::remove_file(path);
        }
    }
    written
}

/// Gives both files their names in `target`, or neither. A Firecracker that a guest has taken over
/// may have left something else in their place, which would lead whoever reads the snapshot elsewhere.
fn move_into([state, memory]: &[PathBuf; 2], target: &Path) -> Result<()> {
    let [new_state, new_memory] = [STATE, MEMORY].map(|name| target.join(name));
    move_new(state, &new_state)?;
    move_new(memory, &new_memory).inspect_err(|_| {
        let _ = fs::remove_file(&new_state);
    })
}

fn move_new(path: &Path, new: &Path) -> Result<()> {
    renameat2(AT_FDCWD, path, AT_FDCWD, new, RenameFlags::RENAME_NOREPLACE).at("create", new)?;
    // There, Firecracker cannot replace it any more.
    let metadata = fs::symlink_metadata(new).at("examine", new)?;
    if metadata.is_file() && metadata.nlink() == 1 {
        return Ok(());
    }
    let _ = fs::remove_file(new);
    let error = io::Error::new(io::ErrorKind::InvalidData, "Firecracker has not written a file of its own");
    Err(error).at("keep", new)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_no_file_of_its_own_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (new, target) = ([path("new.state"), path("new.memory")], path("snapshot"));
        fs::create_dir(&target).unwrap();
        fs::write(path("secret"), "a key").unwrap();
        type Plant<'a> = &'a dyn Fn(&Path);
        let plants: [Plant<'_>; 3] = [
            &|place| symlink(path("secret"), place).unwrap(),
            &|place| fs::hard_link(path("secret"), place).unwrap(),
            &|place| nix::unistd::mkfifo(place, nix::sys::stat::Mode::S_IRUSR).unwrap(),
        ];
        for plant in plants {
            for planted in 0..2 {
                fs::write(&new[1 - planted], "written").unwrap();
                plant(&new[planted]);
                let error = move_into(&new, &target).unwrap_err().to_string();
                assert!(error.contains("has not written a file of its own"), "{error}");
                assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
                new.iter().for_each(|path| drop(fs::remove_file(path)));
            }
        }
        assert_eq!(fs::read(path("secret")).unwrap(), b"a key");
        new.iter().for_each(|path| fs::write(path, "written").unwrap());
        move_into(&new, &target).unwrap();
    }

    #[test]
    fn files_are_regular_ones() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("s");
        for (name, other) in [(STATE, MEMORY), (MEMORY, STATE)] {
            file::tests::in_place_of_file(&directory, name, |reason| {
                fs::write(directory.join(other), "").unwrap();
                let error = links(&directory).unwrap_err();
                assert!(error.to_string().starts_with(reason), "{error}");
            });
        }
    }
}
