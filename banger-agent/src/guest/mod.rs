//! The agent: `/init` of the initramfs, and the server of every operation.
//!
//! [`init`] makes a root file system and starts the image's own init; a forked child of it
//! [`serve`]s the host.

mod authorize;
mod clock;
mod console;
mod copy;
mod disks;
mod exec;
mod farewell;
mod files;
mod forward;
pub mod identity;
pub mod init;
mod own;
mod paths;
mod serve;
pub mod sftp;
mod stream;
mod sync;
mod terminfo;
mod transport;
mod users;

pub use serve::serve;
pub use transport::AgentPort;

/// Fuzz targets of what only the guest reads.
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    pub use super::forward::fuzzing::dns;
    pub(crate) use super::forward::fuzzing::dns_seeds;
    pub use super::sftp::fuzzing::sftp;
    pub(crate) use super::sftp::fuzzing::sftp_seeds;
    pub use super::sync::fuzzing::records;
    pub(crate) use super::sync::fuzzing::records_seeds;
}
