//! The agent: `/init` of the initramfs, and the server of every operation.

pub mod init;
