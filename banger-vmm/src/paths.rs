//! Where VMs are on this host.

use std::path::PathBuf;

/// The folders that banger's VMs live in.
#[derive(Clone, Debug)]
pub struct StorePaths {
    /// A folder for each VM.
    pub vms: PathBuf,
    /// What was found out about this host.
    pub host: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
}
