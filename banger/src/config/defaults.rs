//! What a new VM has where nobody says anything.

use crate::host::hardware;

/// The image of a new VM.
pub const DEFAULT_IMAGE: &str = "debian-bookworm";
/// The kernel that a pulled image boots.
pub const DEFAULT_KERNEL: &str = "generic-6.12";
/// The most memory that a VM has by default, in MiB.
const MOST_MEMORY: u64 = 4096;

/// The number of processors: as many as this process may use.
pub(crate) fn default_cpus() -> u32 {
    hardware::usable_cpus()
}

/// The memory in MiB: half of this machine's, up to [`MOST_MEMORY`].
pub(crate) fn default_memory() -> u64 {
    hardware::memory_mib().map_or(1024, |total| total / 2).clamp(512, MOST_MEMORY)
}
