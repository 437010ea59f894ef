//! Pausing a VM, and making snapshots of it.

use std::path::{Path, absolute};
use std::time::Duration;

use super::Vm;
use crate::error::{IoContext, Result};
use crate::wire::Operation;

/// What it may take to stop the guest's processors, or to have them go on.
const PAUSE_LIMIT: Duration = Duration::from_secs(90);
/// What a snapshot may take: a slow disk has to take the guest's memory and disks.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(3600);

impl Vm {
    /// Stops the guest's processors until [`Vm::resume`]. Commands and connections wait meanwhile,
    /// and the VM is not idle, so it does not stop by itself. Pausing a paused VM is no error.
    ///
    /// # Errors
    /// [`crate::Error::NotRunning`], or [`crate::Error::Refused`] by a backend that cannot do it.
    pub fn pause(&self) -> Result<()> {
        self.connect()?.within(PAUSE_LIMIT).ask(&Operation::Pause)
    }

    /// Has the processors of a paused guest go on. Its idle time starts anew. Resuming a VM that is
    /// not paused is no error.
    ///
    /// # Errors
    /// [`crate::Error::NotRunning`], or [`crate::Error::Refused`].
    pub fn resume(&self) -> Result<()> {
        self.connect()?.within(PAUSE_LIMIT).ask(&Operation::Resume)
    }

    /// Writes a snapshot of the running VM: `directory`, which must not exist, will have the guest's
    /// memory and copies of the VM's own disks. [`crate::StartOptions::restore`] goes on from it, as
    /// often as you like; streams that are open now have ended then.
    ///
    /// The VM is paused for as long as that takes, unless it is paused already. It is complete or
    /// not there, whatever is killed meanwhile. Somebody who stops the VM cancels it.
    ///
    /// # Errors
    /// [`crate::Error::NotRunning`], or [`crate::Error::Refused`], as for a full disk: the VM goes
    /// on then, and no part of the snapshot is left.
    pub fn snapshot(&self, directory: &Path) -> Result<()> {
        // The supervisor has another working directory.
        let directory = absolute(directory).at("find", directory)?;
        self.connect()?.within(SNAPSHOT_LIMIT).ask(&Operation::Snapshot { directory })
    }
}
