//! The command that an ephemeral VM is for, which owns it: it holds a lock in the VM's folder for
//! as long as it lives.
//!
//! The kernel frees the lock however the command ends, and whoever looks sees it, from another PID
//! namespace too. A pid says nothing there: in a container that shares the home folder, the process
//! is not to be seen.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::error::{IoContext, Result};
use crate::file;

const LOCK: &str = "owner.lock";

/// Whether the command that a VM is for lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The command runs.
    Alive,
    /// The command has ended.
    Dead,
    /// The VM has no owner, or one of a version that held no lock.
    Unknown,
}

/// Makes this process the owner of the VM in `folder`, which nobody else knows yet, until the file
/// is closed.
pub(crate) fn begin(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let lock = file::open_lock(&path)?;
    lock.lock().at("lock", &path)?;
    Ok(lock)
}

/// Makes this process the owner of the VM in `folder`, which may have had one, until the file is
/// closed. None: that one lives.
pub(crate) fn claim(folder: &Path) -> Result<Option<File>> {
    let path = folder.join(LOCK);
    let lock = file::open_lock(&path)?;
    // A command that probes the lock holds it for an instant: that is no owner.
    Ok(file::lock_within(&lock, &path, Duration::from_millis(500))?.then_some(lock))
}

/// Whether the owner of the VM in `folder` lives.
pub(crate) fn state(folder: &Path) -> Result<Owner> {
    let path = folder.join(LOCK);
    let Some(lock) = open(&path)? else { return Ok(Owner::Unknown) };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Owner::Dead),
        Err(fs::TryLockError::WouldBlock) => Ok(Owner::Alive),
        Err(fs::TryLockError::Error(error)) => Err(error).at("lock", &path),
    }
}

/// Returns when the owner of the VM in `folder` has ended; false, at once, if there is none that
/// can be waited for.
pub(crate) fn wait(folder: &Path) -> bool {
    let Ok(Some(lock)) = open(&folder.join(LOCK)) else { return false };
    loop {
        match lock.lock_shared() {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("open", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_alive_while_it_holds_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(state(folder).unwrap(), Owner::Unknown);
        assert!(!wait(folder));
        let owner = begin(folder).unwrap();
        assert_eq!(state(folder).unwrap(), Owner::Alive);
        assert!(claim(folder).unwrap().is_none());
        drop(owner);
        assert_eq!(state(folder).unwrap(), Owner::Dead);
        assert!(wait(folder));
        let heir = claim(folder).unwrap().unwrap();
        assert_eq!(state(folder).unwrap(), Owner::Alive);
        drop(heir);
    }
}
